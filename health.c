/*
 * health.c - which servers there are, and how each one is.
 *
 *   backend   probe -> a question ... its answer      one small connection a server; rise and fall; redial with back-off
 *      |        `----- what is asked, and what the answer means: probe_talk (redis_map.c)
 *   parent    name -> addresses                       again when a dial fails
 *
 *   NEW -> UP <-> SUSPECT      UP, SUSPECT, NEW -> DOWN -> UP       MongoDB: UP -> DRAINING, MISMATCH
 *
 * Owns the backend table; tells the rooms above by service_ops, and is told by them what their connections saw.
 */
#include "parent.h"

#include <stdio.h>
#include <string.h>

#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 1000
#define FORGET_MS 60000       /* a server that nothing names for so long loses its entry */
#define BUSY_MS 5             /* a question found no chunk: it is put again then */
#define RESOLVE_AGAIN_MS 1000

static struct {
    struct backend *all;
    uint16_t cap;
    struct service *services[MAX_SERVICES];
    int service_count;
    struct timer holds;         /* some are to be told */
} hb;

static void backend_tick(struct timer *t);
static void find_seeds(struct service *s);

void health_tables(const struct conf *conf)
{
    hb.cap = (uint16_t)conf->max_backends;
    hb.service_count = 0;
    hb.all = arena_take("backends", hb.cap, sizeof *hb.all);
}

uint16_t backend_cap(void)
{
    return hb.cap;
}

struct backend *backend_at(uint16_t index)
{
    return index < hb.cap && hb.all[index].state != BACKEND_FREE ? &hb.all[index] : NULL;
}

const char *backend_name(const struct backend *b, char out[HOST_CAP + 8])
{
    snprintf(out, HOST_CAP + 8, "%s:%u", b->host, (unsigned)b->port);
    return out;
}

const char *backend_state_name(unsigned state)
{
    static const char *const names[] = { "free", "new", "up", "suspect", "draining", "mismatch", "down" };
    return names[state];
}

const char *backend_hold_name(unsigned hold)
{
    static const char *const names[] = { "none", "drain", "down" };
    return names[hold];
}

struct service *service_at(int i)
{
    return i < hb.service_count ? hb.services[i] : NULL;
}

const struct address *backend_address(const struct backend *b)
{
    return b->address_count > 0 ? &b->address[b->address_at] : NULL;
}

/* ------------------------------------------------------- names, addresses */

static void on_names(void *mark, const struct address *list, int count)
{
    struct backend *b = mark;
    struct address present = { .len = 0 };
    b->resolving = false;
    b->resolved_ms = loop_ms();
    if (count <= 0) {
        log_warn("a node's name has no address", "node=%s:%u", b->host, (unsigned)b->port);
        if (b->address_count == 0) {
            health_failed(b, 2);
        }
        return;
    }
    if (b->address_count > 0) {
        present = b->address[b->address_at];
    }
    memcpy(b->address, list, (size_t)count * sizeof *list);
    b->address_count = (uint8_t)count;
    b->address_at = 0;
    for (int i = 0; i < count; i++) { /* its other connections are there: the order of a list means nothing */
        if (present.len == list[i].len && memcmp(&present.u, &list[i].u, present.len) == 0) {
            b->address_at = (uint8_t)i;
        }
    }
    loop_timer(&b->timer, loop_ms());
}

static void resolve(struct backend *b)
{
    struct address numeric;
    if (b->port != 0 && !b->resolving && !address_numeric(b->host, b->port, &numeric)) {
        b->resolving = parent_resolve(b->host, b->port, b, on_names);
    }
}

/* ------------------------------------------------------------- the table */

static bool same_node(const struct backend *b, const struct service *s, const char *host, uint16_t port)
{
    return b->state != BACKEND_FREE && b->service == s && b->port == port && strcmp(b->host, host) == 0;
}

struct backend *backend_named(const struct service *s, const char *host, uint16_t port, const struct backend *near)
{
    host = host[0] == '\0' && near != NULL ? near->host : host;
    for (uint16_t i = 0; i < hb.cap; i++) {
        if (same_node(&hb.all[i], s, host, port)) {
            return hb.all[i].listed || hb.all[i].seed ? &hb.all[i] : NULL;
        }
    }
    return NULL;
}

struct backend *backend_get(struct service *s, const char *host, uint16_t port, const struct backend *near)
{
    struct backend *b = NULL;
    if (host[0] == '\0' && near != NULL) {
        host = near->host;
    }
    for (uint16_t i = 0; i < hb.cap; i++) {
        if (same_node(&hb.all[i], s, host, port)) {
            return &hb.all[i];
        }
        if (b == NULL && hb.all[i].state == BACKEND_FREE) {
            b = &hb.all[i];
        }
    }
    if (b == NULL) {
        log_error("no entry left for a node (max_backends)", "node=%s:%u", host, (unsigned)port);
        return NULL;
    }
    gauge_up(&gauges.backends);
    memset(b, 0, sizeof *b);
    b->service = s;
    b->index = (uint16_t)(b - hb.all);
    b->port = port;
    snprintf(b->host, sizeof b->host, "%s", host);
    b->state = BACKEND_NEW;
    b->unlisted_ms = b->state_ms = loop_ms();
    b->backoff_ms = BACKOFF_MIN_MS;
    if (port == 0) { /* a unix socket's path */
        char text[HOST_CAP + 8];
        const char *why;
        snprintf(text, sizeof text, "unix:%s", host);
        b->address_count = address_parse(text, &b->address[0], &why) ? 1 : 0;
    } else {
        b->address_count = address_numeric(host, port, &b->address[0]) ? 1 : 0;
    }
    if (b->address_count == 0) {
        resolve(b);
    }
    b->timer.on_due = backend_tick;
    loop_timer(&b->timer, loop_ms());
    s->ops->on_backend(b);
    return b;
}

/* ------------------------------------------------------- an entry's end */

/* A node that nobody names any more: its entry can be used again once nothing hangs on it. */
static void forget(struct backend *b)
{
    log_info("node forgotten", "node=%s:%u", b->host, (unsigned)b->port);
    parent_forget(b);
    loop_timer_stop(&b->timer);
    if (b->probe != NULL) {
        conn_close(b->probe);
        b->probe = NULL;
    }
    b->question = 0;
    b->service->ops->talk->on_lost(b);
    b->state = BACKEND_FREE;
    gauge_down(&gauges.backends);
    b->service->ops->on_backend(b);
    latency_forget(b->index);
    for (int i = 0; i < hb.service_count; i++) { /* one of the configuration may have found no entry */
        find_seeds(hb.services[i]);
    }
}

/* ---------------------------------------------------------- rise and fall */

void health_state(struct backend *b, enum backend_state to)
{
    const char *from = backend_state_name(b->state);
    if (to != BACKEND_UP) {
        b->rises = 0;
    }
    if (b->state == to) {
        return;
    }
    if (to == BACKEND_DOWN || to == BACKEND_SUSPECT) {
        b->troubled_ms = loop_ms();
    }
    b->state = (uint8_t)to;
    b->state_ms = loop_ms();
    stats.backend_ups += to == BACKEND_UP;
    stats.backend_downs += to == BACKEND_DOWN;
    log_info("node changes state", "node=%s:%u from=%s to=%s section=%s slots=%u", b->host, (unsigned)b->port, from, backend_state_name(to),
             b->service->conf->name, b->slots);
    b->service->ops->on_backend(b);
    if (to != BACKEND_UP) {
        b->service->ops->talk->on_trouble(b);
    }
}

static void set_hold(struct backend *b, enum backend_hold hold)
{
    b->hold = (uint8_t)hold;
    loop_timer(&hb.holds, loop_ms());
}

void backend_hold(struct backend *b, enum backend_hold hold)
{
    if (b->hold != hold) {
        log_warn("node held by hand", "node=%s:%u was=%s now=%s", b->host, (unsigned)b->port,
                 backend_hold_name(b->hold), backend_hold_name(hold));
        set_hold(b, hold);
    }
    b->dropped = false;
}

static void tell_holds(struct timer *t)
{
    (void)t;
    for (uint16_t i = 0; i < hb.cap; i++) {
        struct backend *b = &hb.all[i];
        if (b->state != BACKEND_FREE && b->held != b->hold) {
            b->held = b->hold;
            b->service->ops->on_hold(b);
        }
    }
}

void health_failed(struct backend *b, uint32_t weight)
{
    uint32_t fails = b->fails + weight;
    b->fails = (uint8_t)(fails > 250 ? 250 : fails);
    b->rises = 0;
    b->troubled_ms = loop_ms();
    stats.probe_failures++;
    if (b->fails >= b->service->conf->fall || b->state == BACKEND_NEW) {
        health_state(b, BACKEND_DOWN);
    }
}

void health_answered(struct backend *b)
{
    b->fails = 0;
    b->heard_ms = b->asked_ms;
    b->backoff_ms = BACKOFF_MIN_MS;
    if (b->rises < 250) {
        b->rises++;
    }
    bool away = b->state == BACKEND_DOWN || b->state == BACKEND_DRAINING || b->state == BACKEND_MISMATCH;
    if (b->state == BACKEND_NEW || (away && b->rises >= b->service->conf->rise)) {
        health_state(b, BACKEND_UP);
    }
}

void health_look(struct backend *b)
{
    if (b->probe != NULL && b->probe->state == CONN_OPEN && b->question == 0) {
        loop_timer(&b->timer, loop_ms());
    }
}

void health_lost(struct backend *b)
{
    b->troubled_ms = loop_ms();
    if (b->state == BACKEND_SUSPECT) {
        health_state(b, BACKEND_UP); /* what did not move was that connection: the probe knows about the node */
    }
    b->service->ops->talk->on_trouble(b);
}

void health_refused(struct backend *b)
{
    b->troubled_ms = loop_ms();
    b->rises = 0;
    health_state(b, BACKEND_DOWN);
    b->service->ops->talk->on_trouble(b);
    if (b->probe == NULL) {
        loop_timer(&b->timer, loop_ms() + b->backoff_ms);
    }
}

void health_suspect(struct backend *b)
{
    if (b->state == BACKEND_UP) {
        health_state(b, BACKEND_SUSPECT);
    }
}

void health_alive(struct backend *b)
{
    if (b->state == BACKEND_SUSPECT || b->state == BACKEND_DOWN) {
        health_state(b, BACKEND_UP);
    }
}

/* -------------------------------------------------------------- the probe */

bool health_ask(struct backend *b, uint8_t what, const void *bytes, size_t n)
{
    if (!chain_put(&b->probe->out, BUF_REPLY, bytes, n)) {
        loop_timer(&b->timer, loop_ms() + BUSY_MS);
        return false;
    }
    b->question = what;
    b->asked_ms = loop_ms();
    conn_dirty(b->probe);
    loop_timer(&b->timer, loop_ms() + b->service->conf->probe_timeout_ms);
    return true;
}

static void on_open(struct conn *c)
{
    struct backend *b = c->owner;
    b->service->ops->talk->on_open(b);
}

static void on_bytes(struct conn *c)
{
    struct backend *b = c->owner;
    b->service->ops->talk->on_bytes(b);
}

static void on_close(struct conn *c, const char *why)
{
    struct backend *b = c->owner;
    b->probe = NULL;
    b->question = 0;
    log_debug("probe lost", "node=%s:%u why=\"%s\"", b->host, (unsigned)b->port, why);
    b->service->ops->talk->on_lost(b);
    health_failed(b, 2);
    if (b->address_count > 1 && b->state != BACKEND_UP) {
        b->address_at = (uint8_t)((b->address_at + 1) % b->address_count);
    }
    /* Back-off with jitter, so that a fleet of proxies does not dial a returning server in step. */
    loop_timer(&b->timer, loop_ms() + b->backoff_ms + loop_us() % (b->backoff_ms / 4 + 1));
    b->backoff_ms = b->backoff_ms * 2 < BACKOFF_MAX_MS ? b->backoff_ms * 2 : BACKOFF_MAX_MS;
}

static const struct conn_ops probe_ops = {
    .kind = "probe",
    .on_open = on_open,
    .on_bytes = on_bytes,
    .on_close = on_close,
};

static void dial(struct backend *b)
{
    const struct conf_service *conf = b->service->conf;
    const struct address *a = backend_address(b);
    struct net_sizes sizes = { 0, 0 };
    if (a == NULL || (b->fails > 0 && !b->resolving && loop_ms() - b->resolved_ms > RESOLVE_AGAIN_MS)) {
        resolve(b);
    }
    if (a == NULL) {
        loop_timer(&b->timer, loop_ms() + RESOLVE_AGAIN_MS);
        return;
    }
    b->probe = conn_take(CONN_PROBE, &probe_ops, b);
    if (b->probe == NULL || !conn_dial(b->probe, a, conf->dial_timeout_ms, &sizes)) {
        b->probe = NULL;
        health_failed(b, 2);
        loop_timer(&b->timer, loop_ms() + b->backoff_ms);
    }
}

static void backend_tick(struct timer *t)
{
    struct backend *b = (struct backend *)(void *)((char *)t - offsetof(struct backend, timer));
    bool unused = !b->seed && !b->listed && b->slots == 0 && loop_ms() - b->unlisted_ms > FORGET_MS;
    if (unused && !b->service->ops->in_use(b)) {
        forget(b);
    } else if (b->probe == NULL) {
        dial(b);
    } else if (b->probe->state == CONN_DIALING) {
        return; /* its own deadline ends it */
    } else if (b->question != 0) {
        conn_fail(b->probe, "no answer within probe_timeout");
    } else {
        b->service->ops->talk->on_due(b);
    }
}

void health_open(struct service *s, const struct conf_service *conf, const struct service_ops *ops)
{
    s->conf = conf;
    s->ops = ops;
    hb.holds.on_due = tell_holds;
    must(hb.service_count < MAX_SERVICES);
    hb.services[hb.service_count++] = s;
    gauges.backends.most = hb.cap;
    snprintf(s->trouble, sizeof s->trouble, "no node has been reached yet");
    find_seeds(s);
}

/* ------------------------------------------------------ a new configuration */

/* Those that the configuration names. One that it names again goes on as it was. */
static void find_seeds(struct service *s)
{
    for (int i = 0; i < s->conf->node_count; i++) {
        struct backend *b = backend_get(s, s->conf->nodes[i].host, s->conf->nodes[i].port, NULL);
        if (b != NULL) {
            b->seed = true;
        }
        if (b != NULL && b->removed) {
            b->removed = false;
            log_info("node named again", "node=%s:%u", b->host, (unsigned)b->port);
            if (b->dropped) {
                b->dropped = false;
                set_hold(b, HELD_NOT);
            }
        }
    }
}

static bool is_named(const struct conf_service *conf, const struct backend *b)
{
    bool named = false;
    for (int i = 0; i < conf->node_count; i++) {
        named = named || (conf->nodes[i].port == b->port && strcmp(conf->nodes[i].host, b->host) == 0);
    }
    return named;
}

/* A mongos that is not named any more is drained, and forgotten when nothing is left there. Which nodes of Redis serve is not said by
 * the configuration but by their map. */
static void drop_seeds(struct service *s)
{
    for (uint16_t i = 0; i < hb.cap; i++) {
        struct backend *b = &hb.all[i];
        if (b->state == BACKEND_FREE || b->service != s || !b->seed || is_named(s->conf, b)) {
            continue;
        }
        b->seed = false;
        b->unlisted_ms = loop_ms();
        log_info("node not named any more", "node=%s:%u", b->host, (unsigned)b->port);
        b->removed = s->conf->kind == SERVICE_MONGO;
        if (b->removed && b->hold == HELD_NOT) {
            b->dropped = true;
            set_hold(b, HELD_DRAIN);
        }
    }
}

/* Its probe is made anew, quietly: what is said first on it has changed. */
static void probe_anew(struct backend *b)
{
    if (b->probe != NULL) {
        conn_close(b->probe);
        b->probe = NULL;
    }
    b->question = 0;
    b->service->ops->talk->on_lost(b);
    loop_timer(&b->timer, loop_ms());
}

void health_conf(struct service *s, bool anew)
{
    drop_seeds(s);
    find_seeds(s);
    for (uint16_t i = 0; i < hb.cap; i++) {
        struct backend *b = &hb.all[i];
        if (b->state != BACKEND_FREE && b->service == s && anew) {
            probe_anew(b);
        } else if (b->state != BACKEND_FREE && b->service == s) {
            health_look(b); /* its time may come sooner now */
        }
    }
}
