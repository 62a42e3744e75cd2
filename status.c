/*
 * status.c - what is told of a running Puerta: status.h has the picture.
 *
 *   service_at(), backend_at(), conn_at(), trace.c, stats.c, arena.c   the tables, by index
 *        +  service_ops.describe, conn_ops.describe   what only their owners know
 *        -> rows of fields, in no form
 *
 * Owns the time of the start. It asks the modes by pointers alone, so that it stands beside them and each of them may use it.
 */
#include "status.h"

#include <limits.h>
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

int64_t status_started(void)
{
    return self.started;
}

bool status_ready(void)
{
    struct status_section s;
    bool each = !status_stopping;
    int i = 0;
    for (; status_section(i, &s); i++) {
        each = each && s.ready;
    }
    return each && i > 0;
}

static const char *kind_name(const struct service *s)
{
    return s->conf->kind == SERVICE_MONGO ? "mongo" : "redis";
}

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
    *out = (struct status_section){ .service = s, .name = s->conf->name, .kind = kind_name(s), .mode = mode_name(s->conf),
                                    .clients = s->clients, .slots = s->map.served };
    for (uint16_t k = 0; k < backend_cap(); k++) {
        const struct backend *b = backend_at(k);
        if (b != NULL && b->service == s) {
            out->backends++;
            out->backends_up += b->state == BACKEND_UP;
            out->untried += b->state == BACKEND_NEW;
            out->ready = out->ready || serves(b);
        }
    }
    return true;
}

bool status_backend(uint64_t *at, struct status_backend *out)
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
        out->kind = kind_name(b->service);
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

/* ------------------------------------------------------------------- rows */

static void add(struct status_row *r, const char *name, enum status_type type, uint64_t number, const void *at)
{
    must(r->count < STATUS_FIELDS);
    r->fields[r->count++] = (struct status_field){ name, type, number, at };
}

static void text(struct status_row *r, const char *name, const char *value)
{
    add(r, name, STATUS_TEXT, 0, value != NULL ? value : "");
}

static void number(struct status_row *r, const char *name, uint64_t value)
{
    add(r, name, STATUS_NUMBER, value, NULL);
}

static void yes(struct status_row *r, const char *name, bool value)
{
    add(r, name, STATUS_BOOL, value, NULL);
}

static void key(struct status_row *r, const unsigned char *p, size_t n)
{
    add(r, "key", STATUS_KEY, n < TRACE_KEY ? n : TRACE_KEY, p);
}

size_t status_key(const struct status_field *f, char out[STATUS_KEY_TEXT])
{
    const char *quoted = log_quote(f->at, (size_t)f->number, out, STATUS_KEY_TEXT);
    size_t n = strlen(quoted) - 2;
    memmove(out, quoted + 1, n);
    return n;
}

/* A cursor may come from outside. */
static int place(uint64_t at)
{
    return at < INT_MAX ? (int)at : INT_MAX;
}

/* The server b, or none. */
static void server(struct status_row *r, const char *name, const struct backend *b)
{
    text(r, name, b != NULL ? backend_name(b, r->server) : "");
}

static bool process(uint64_t *at, struct status_row *r)
{
    text(r, "version", PUERTA_VERSION);
    number(r, "pid", (uint64_t)getpid());
    number(r, "uptime_s", (loop_ms() - self.began_ms) / 1000);
    number(r, "started", (uint64_t)self.started);
    yes(r, "ready", status_ready());
    yes(r, "stopping", status_stopping);
    text(r, "log_level", log_level_name(log_threshold));
    number(r, "memory_bytes", arena_bytes());
    text(r, "reloaded", reloaded.text);
    return (*at)++ == 0;
}

static bool section(uint64_t *at, struct status_row *r)
{
    struct status_section s;
    if (!status_section(place(*at), &s)) {
        return false;
    }
    text(r, "name", s.name);
    text(r, "kind", s.kind);
    text(r, "mode", s.mode);
    yes(r, "ready", s.ready);
    add(r, "listen", STATUS_ADDRESSES, (uint64_t)s.service->conf->listens, s.service->conf->listen);
    number(r, "clients", s.clients);
    number(r, "backends", s.backends);
    number(r, "backends_up", s.backends_up);
    if (s.service->conf->kind == SERVICE_REDIS) {
        number(r, "slots", s.slots);
    }
    ++*at;
    return true;
}

static bool backend(uint64_t *at, struct status_row *r)
{
    struct status_backend b;
    if (!status_backend(at, &b)) {
        return false;
    }
    server(r, "name", b.backend);
    text(r, "section", b.section);
    text(r, "kind", b.kind);
    text(r, "state", backend_state_name(b.backend->state));
    text(r, "hold", backend_hold_name(b.backend->hold));
    number(r, "since_s", b.since_ms / 1000);
    number(r, "slots", b.backend->slots);
    number(r, "connections", b.facts.connections);
    number(r, "in_flight", b.facts.in_flight);
    number(r, "clients", b.facts.clients);
    number(r, "idle", b.facts.idle);
    number(r, "waiting", b.facts.waiting);
    number(r, "pool_max", b.facts.pool_max);
    number(r, "weight", b.facts.weight);
    yes(r, "ejected", b.facts.ejected);
    number(r, "answers", latency_answers(b.latency));
    number(r, "p50_us", latency_percentile(b.latency, 50));
    number(r, "p99_us", latency_percentile(b.latency, 99));
    yes(r, "busy", b.backend->busy);
    return true;
}

static bool client(uint64_t *at, struct status_row *r)
{
    for (; *at < conn_size(); ++*at) {
        const struct conn *c = conn_at((size_t)*at);
        struct conn_facts facts;
        if (c == NULL || c->kind != CONN_CLIENT || c->ops->describe == NULL) {
            continue;
        }
        memset(&facts, 0, sizeof facts);
        c->ops->describe(c, &facts);
        number(r, "id", c->id);
        text(r, "section", facts.section);
        add(r, "address", STATUS_ADDRESS, 1, &c->peer);
        text(r, "name", facts.name);
        text(r, "user", facts.user);
        text(r, "doing", facts.doing);
        number(r, "in_flight", facts.in_flight);
        number(r, "age_s", (loop_ms() - facts.born_ms) / 1000);
        number(r, "idle_s", facts.in_flight > 0 ? 0 : (loop_ms() - facts.asked_ms) / 1000);
        server(r, "backend", facts.backend); /* "": at none, or at several */
        number(r, "waiting_out", c->out.len); /* bytes that it has not read yet */
        ++*at;
        return true;
    }
    return false;
}

static bool gauge(uint64_t *at, struct status_row *r)
{
    const struct gauge *g;
    const char *help;
    r->name = gauge_row(place(*at), &help, &g);
    if (r->name == NULL) {
        return false;
    }
    number(r, "now", g->now);
    number(r, "high", g->high);
    number(r, "most", g->most);
    ++*at;
    return true;
}

/* *at: the number of the last one told, since younger ones may come in between. */
static bool slow(uint64_t *at, struct status_row *r)
{
    const struct trace_entry *e = trace_slow(0);
    if (e != NULL && *at != 0) {
        e = *at <= e->number ? trace_slow_below(*at) : NULL;
    }
    if (e == NULL) {
        return false;
    }
    *at = e->number;
    number(r, "number", e->number);
    number(r, "when_ms", (uint64_t)e->when_ms);
    text(r, "section", e->section != NULL ? e->section->name : "");
    text(r, "backend", e->backend);
    text(r, "command", e->command);
    key(r, e->key, e->key_len);
    add(r, "client", STATUS_ADDRESS, 1, &e->client);
    number(r, "queued_us", e->queued_us);
    number(r, "sent_us", e->sent_us);
    number(r, "answered_us", e->answered_us);
    number(r, "all_us", e->all_us);
    return true;
}

static void count(struct status_row *r, const struct trace_hot *h)
{
    number(r, "slot", h->slot);
    number(r, "count", h->count);
    number(r, "error", h->error);
}

static bool hot_key(uint64_t *at, struct status_row *r)
{
    struct trace_hot h;
    if (!trace_hot_key((uint32_t)place(*at), &h)) {
        return false;
    }
    key(r, h.key, h.len);
    count(r, &h);
    ++*at;
    return true;
}

/* Whose slot it is: known where there is one section of Redis. */
static const struct backend *owner_of(uint16_t slot)
{
    const struct service *s, *only = NULL;
    for (int i = 0; (s = service_at(i)) != NULL; i++) {
        if (s->conf->kind == SERVICE_REDIS) {
            if (only != NULL) {
                return NULL;
            }
            only = s;
        }
    }
    return only != NULL ? backend_at(only->map.owner[slot]) : NULL;
}

static bool hot_slot(uint64_t *at, struct status_row *r)
{
    struct trace_hot h;
    if (!trace_hot_slot((uint32_t)place(*at), &h)) {
        return false;
    }
    count(r, &h);
    server(r, "backend", owner_of(h.slot));
    ++*at;
    return true;
}

static bool table(uint64_t *at, struct status_row *r)
{
    const char *name;
    size_t entries, size;
    if (!arena_row(place(*at), &name, &entries, &size)) {
        return false;
    }
    text(r, "name", name);
    number(r, "entries", entries);
    number(r, "each", size);
    number(r, "bytes", entries * size);
    ++*at;
    return true;
}

bool status_row(enum status_list list, uint64_t *at, struct status_row *out)
{
    static bool (*const rows[])(uint64_t *at, struct status_row *r) = {
        [STATUS_PROCESS] = process, [STATUS_SECTIONS] = section, [STATUS_BACKENDS] = backend, [STATUS_CLIENTS] = client,
        [STATUS_GAUGES] = gauge, [STATUS_SLOW] = slow, [STATUS_HOT_KEYS] = hot_key, [STATUS_HOT_SLOTS] = hot_slot, [STATUS_TABLES] = table,
    };
    out->name = NULL;
    out->count = 0;
    return rows[list](at, out);
}
