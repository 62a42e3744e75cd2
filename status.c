/*
 * status.c - what is told of a running Puerta: status.h has the picture.
 *
 *   service_at(), backend_at(), conn_at()   the tables, by index
 *        +  service_ops.describe, conn_ops.describe   what only their owners know
 *        -> rows, in no form
 *
 * Owns the time of the start. It asks the modes by pointers alone, so that it stands beside them and each of them may use it.
 */
#include "status.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

bool status_stopping;

static struct { int64_t started; uint64_t began_ms; } self;

void status_open(void)
{
    self.started = (int64_t)time(NULL);
    self.began_ms = loop_ms();
}

struct status_process status_process(void)
{
    struct status_process p = {
        .version = PUERTA_VERSION, .pid = (long)getpid(), .uptime_ms = loop_ms() - self.began_ms, .started = self.started,
        .ready = !status_stopping, .stopping = status_stopping, .log_level = log_level_name(log_threshold), .memory = arena_bytes(),
    };
    struct status_section s;
    int i = 0;
    for (; status_section(i, &s); i++) {
        p.ready = p.ready && s.ready;
    }
    p.ready = p.ready && i > 0;
    return p;
}

/* ---------------------------------------------------------------- sections */

static const char *mode_name(const struct conf_service *conf)
{
    static const char *const modes[] = { "passthrough", "loadbalanced", "pooled" };
    return conf->kind == SERVICE_MONGO ? modes[conf->mode] : conf->single ? "single" : "cluster";
}

/* A node of Redis serves as long as it is up and has slots: who holds it by hand cannot take those away. */
static bool serves(const struct backend *b)
{
    return backend_takes_new(b) || (b->service->conf->kind == SERVICE_REDIS && b->state == BACKEND_UP && b->slots > 0 && b->hold != HELD_DOWN);
}

bool status_section(int i, struct status_section *out)
{
    const struct service *s = service_at(i);
    if (s == NULL) {
        return false;
    }
    *out = (struct status_section){
        .service = s, .name = s->conf->name, .kind = s->conf->kind == SERVICE_MONGO ? "mongo" : "redis", .mode = mode_name(s->conf),
        .clients = s->clients, .slots = s->map.served,
    };
    for (uint16_t k = 0; k < backend_cap(); k++) {
        const struct backend *b = backend_at(k);
        if (b != NULL && b->service == s) {
            out->backends++;
            out->backends_up += b->state == BACKEND_UP;
            out->ready = out->ready || serves(b);
        }
    }
    return true;
}

/* ----------------------------------------------------------------- servers */

bool status_backend(uint32_t *at, struct status_backend *out)
{
    for (; *at < backend_cap(); ++*at) {
        const struct backend *b = backend_at((uint16_t)*at);
        if (b == NULL) {
            continue;
        }
        memset(out, 0, sizeof *out);
        out->backend = b;
        backend_name(b, out->name);
        out->section = b->service->conf->name;
        out->state = backend_state_name((enum backend_state)b->state);
        out->hold = backend_hold_name((enum backend_hold)b->hold);
        out->latency = latency_of(b->index);
        out->since_ms = loop_ms() - b->state_ms;
        if (b->service->ops->describe != NULL) {
            b->service->ops->describe(b, &out->facts);
        }
        ++*at;
        return true;
    }
    return false;
}

/* ----------------------------------------------------------------- clients */

bool status_client(uint32_t *at, struct status_client *out)
{
    for (; *at < conn_size(); ++*at) {
        const struct conn *c = conn_at(*at);
        if (c == NULL || c->kind != CONN_CLIENT || c->ops->describe == NULL) {
            continue;
        }
        memset(out, 0, sizeof *out);
        c->ops->describe(c, &out->facts);
        out->id = c->id;
        address_text(&c->peer, out->address);
        if (out->facts.backend != NULL) {
            backend_name(out->facts.backend, out->backend);
        }
        out->age_ms = loop_ms() - out->facts.born_ms;
        out->idle_ms = out->facts.in_flight > 0 ? 0 : loop_ms() - out->facts.asked_ms;
        out->waiting_out = c->out.len;
        ++*at;
        return true;
    }
    return false;
}
