/*
 * health.c - which nodes there are, how each one is, and which of them owns which slot.
 *
 *   service   map <- stage <- CLUSTER SLOTS       asked of one node after the other, at once when something is wrong
 *      |
 *   backend   probe -> PING ... +PONG             one small connection a node; rise and fall; redial with back-off
 *      |
 *   parent    name -> addresses                   again when a dial fails
 *
 *   NEW -> UP <-> SUSPECT      UP, SUSPECT, NEW -> DOWN -> UP
 *
 * Owns the backend table; tells the rooms above by service_ops, and is told by them what their connections saw.
 */
#include "puerta.h"

#include <stdio.h>
#include <string.h>

#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 1000
#define DEBOUNCE_MS 50        /* between two questions for the map while something is wrong */
#define SLOW_TROUBLE_MS 500   /* the same once it has been wrong for TROUBLE_MS */
#define TROUBLE_MS 30000
#define MISSES_MAX 5          /* questions without a map double the time to the next so often */
#define DISTRUST_MS 2000      /* a node just back may still believe in an old map: others are asked first */
#define FORGET_MS 60000       /* a node that no map names for so long loses its entry */
#define BUSY_MS 5             /* all probes are waiting for an answer: look again then */
#define SCRIPT_MS 50          /* a node that is busy with a script is asked so often whether it is done */
#define RESOLVE_AGAIN_MS 1000

enum question { ASK_NOTHING = 0, ASK_LOGIN, ASK_PING, ASK_SLOTS };

static struct {
    struct backend *all;
    struct slotmap_node *nodes; /* the staged nodes of every service, MAX_SERVICES parts */
    uint16_t cap;
    uint32_t services;
} hb;

static unsigned char scratch[16384]; /* an answer on its way through the parser; nothing is kept in it */

static void backend_tick(struct timer *t);
static void service_tick(struct timer *t);

void health_tables(const struct conf *conf)
{
    hb.cap = (uint16_t)conf->max_backends;
    hb.all = arena_take("backends", hb.cap, sizeof *hb.all);
    hb.nodes = arena_take("map nodes", (size_t)hb.cap * (size_t)conf->redis_count, sizeof *hb.nodes);
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

const struct address *backend_address(const struct backend *b)
{
    return b->address_count > 0 ? &b->address[b->address_at] : NULL;
}

static size_t put_bulk(unsigned char *out, const char *text)
{
    size_t len = strlen(text), n = resp_put_header(out, '$', (int64_t)len);
    memcpy(out + n, text, len);
    memcpy(out + n + len, "\r\n", 2);
    return n + len + 2;
}

size_t health_login(const struct conf_redis *conf, unsigned char *out)
{
    size_t n;
    bool user = conf->upstream_user[0] != '\0';
    if (conf->upstream_password[0] == '\0') {
        return 0;
    }
    n = resp_put_header(out, '*', user ? 3 : 2);
    n += put_bulk(out + n, "AUTH");
    if (user) {
        n += put_bulk(out + n, conf->upstream_user);
    }
    return n + put_bulk(out + n, conf->upstream_password);
}

/* ------------------------------------------------------- names, addresses */

static void on_names(void *mark, const struct address *list, int count)
{
    struct backend *b = mark;
    b->resolving = false;
    b->resolved_ms = loop_ms();
    if (count <= 0) {
        log_warn("a node's name has no address", "node=%s:%u", b->host, (unsigned)b->port);
        return;
    }
    memcpy(b->address, list, (size_t)count * sizeof *list);
    b->address_count = (uint8_t)count;
    if (b->address_at >= count) {
        b->address_at = 0;
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
    memset(b, 0, sizeof *b);
    b->service = s;
    b->index = (uint16_t)(b - hb.all);
    b->port = port;
    snprintf(b->host, sizeof b->host, "%s", host);
    b->state = BACKEND_NEW;
    b->unlisted_ms = loop_ms();
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

/* -------------------------------------------------------------- its scripts */

/* A script holds the node up for longer than it bears: it refuses everything, in these words. */
static void set_busy(struct backend *b, bool busy)
{
    size_t n = 0;
    while (busy && n < b->head_len && b->head[n] != '\r') {
        n++;
    }
    memcpy(b->busy_says, b->head, n);
    b->busy_says[n < sizeof b->busy_says ? n : sizeof b->busy_says - 1] = '\0';
    if (b->busy != busy) {
        b->service->busy += busy ? 1u : -1u;
        b->busy = busy;
        log_info(busy ? "a script holds a node up" : "the script is done", "node=%s:%u", b->host, (unsigned)b->port);
    }
}

void health_look(struct backend *b)
{
    if (b->probe != NULL && b->probe->state == CONN_OPEN && b->question == ASK_NOTHING) {
        loop_timer(&b->timer, loop_ms());
    }
}

/* What it says to a question that is on its way may be older, from while the script ran. */
void health_not_busy(struct backend *b)
{
    b->doubt = b->question == ASK_PING;
    if (b->busy) {
        set_busy(b, false);
    }
}

const char *service_busy(const struct service *s)
{
    for (uint16_t i = 0; i < hb.cap && s->busy > 0; i++) {
        if (hb.all[i].service == s && hb.all[i].busy && hb.all[i].slots > 0) {
            return hb.all[i].busy_says;
        }
    }
    return NULL;
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
    if (b->service->asked == b) {
        b->service->asked = NULL;
        loop_timer(&b->service->timer, loop_ms());
    }
    set_busy(b, false);
    b->state = BACKEND_FREE;
    b->service->ops->on_backend(b);
}

/* ---------------------------------------------------------- rise and fall */

static void set_backend_state(struct backend *b, enum backend_state to)
{
    static const char *const names[] = { "free", "new", "up", "suspect", "down" };
    if (b->state == to) {
        return;
    }
    if (to == BACKEND_DOWN || to == BACKEND_SUSPECT) {
        b->troubled_ms = loop_ms();
    }
    log_info("node changes state", "node=%s:%u from=%s to=%s slots=%u", b->host, (unsigned)b->port, names[b->state],
             names[to], b->slots);
    b->state = (uint8_t)to;
    b->service->ops->on_backend(b);
    if (to != BACKEND_UP) {
        health_refresh(b->service);
    }
}

static void fail(struct backend *b, uint32_t weight)
{
    uint32_t fails = b->fails + weight;
    b->fails = (uint8_t)(fails > 250 ? 250 : fails);
    b->rises = 0;
    b->troubled_ms = loop_ms();
    stats.probe_failures++;
    if (b->fails >= b->service->conf->fall || b->state == BACKEND_NEW) {
        set_backend_state(b, BACKEND_DOWN);
    }
}

static void succeed(struct backend *b)
{
    b->fails = 0;
    b->heard_ms = b->asked_ms;
    b->backoff_ms = BACKOFF_MIN_MS;
    if (b->rises < 250) {
        b->rises++;
    }
    if (b->state == BACKEND_NEW || (b->state == BACKEND_DOWN && b->rises >= b->service->conf->rise)) {
        set_backend_state(b, BACKEND_UP);
    }
}

void health_lost(struct backend *b)
{
    b->troubled_ms = loop_ms();
    if (b->state == BACKEND_SUSPECT) {
        set_backend_state(b, BACKEND_UP); /* what did not move was that connection: the probe knows about the node */
    }
    health_refresh(b->service);
}

void health_refused(struct backend *b)
{
    b->troubled_ms = loop_ms();
    b->rises = 0;
    set_backend_state(b, BACKEND_DOWN);
    health_refresh(b->service);
    if (b->probe == NULL) {
        loop_timer(&b->timer, loop_ms() + b->backoff_ms);
    }
}

void health_suspect(struct backend *b)
{
    if (b->state == BACKEND_UP) {
        set_backend_state(b, BACKEND_SUSPECT);
    }
}

void health_alive(struct backend *b)
{
    if (b->state == BACKEND_SUSPECT || b->state == BACKEND_DOWN) {
        set_backend_state(b, BACKEND_UP);
    }
}

/* -------------------------------------------------------------- the probe */

/* Puts one question to the node. It answers one at a time. */
static void ask(struct backend *b, enum question what, const void *line, size_t n)
{
    if (!chain_put(&b->probe->out, BUF_REPLY, line, n)) {
        if (what == ASK_LOGIN) {
            conn_fail(b->probe, "no chunk left for its login (chunks)");
        } else {
            loop_timer(&b->timer, loop_ms() + BUSY_MS); /* asked again then */
        }
        return;
    }
    b->question = (uint8_t)what;
    b->asked_ms = loop_ms();
    b->head_len = 0;
    resp_reply_start(&b->reply);
    conn_dirty(b->probe);
    loop_timer(&b->timer, loop_ms() + b->service->conf->probe_timeout_ms);
}

static void ask_ping(struct backend *b)
{
    static const char line[] = "*1\r\n$4\r\nPING\r\n";
    stats.probes++;
    ask(b, ASK_PING, line, sizeof line - 1);
}

static void on_open(struct conn *c)
{
    struct backend *b = c->owner;
    unsigned char line[2 * SECRET_CAP + 64];
    size_t n = health_login(b->service->conf, line);
    if (n > 0) {
        ask(b, ASK_LOGIN, line, n);
    } else {
        ask_ping(b);
    }
}

static void on_close(struct conn *c, const char *why)
{
    struct backend *b = c->owner;
    struct service *s = b->service;
    b->probe = NULL;
    b->question = ASK_NOTHING;
    b->doubt = false;
    set_busy(b, false);
    log_debug("probe lost", "node=%s:%u why=\"%s\"", b->host, (unsigned)b->port, why);
    if (s->asked == b) {
        s->asked = NULL;
        s->misses++;
        stats.refresh_failures++;
        loop_timer(&s->timer, loop_ms());
    }
    fail(b, 2);
    if (b->address_count > 1) {
        b->address_at = (uint8_t)((b->address_at + 1) % b->address_count);
    }
    /* Back-off with jitter, so that a fleet of proxies does not dial a returning node in step. */
    loop_timer(&b->timer, loop_ms() + b->backoff_ms + loop_us() % (b->backoff_ms / 4 + 1));
    b->backoff_ms = b->backoff_ms * 2 < BACKOFF_MAX_MS ? b->backoff_ms * 2 : BACKOFF_MAX_MS;
}

static void map_failed(struct service *s, const struct backend *b)
{
    s->asked = NULL;
    s->misses++;
    stats.refresh_failures++;
    if (s->stage.server_error && strstr(s->stage.error, "cluster support disabled") != NULL) {
        snprintf(s->trouble, sizeof s->trouble, "%.60s:%u is not in cluster mode: set topology = single", b->host,
                 (unsigned)b->port);
    } else {
        snprintf(s->trouble, sizeof s->trouble, "%.40s:%u: %.100s", b->host, (unsigned)b->port, s->stage.error);
    }
    log_warn("no cluster map from a node", "service=%s reason=\"%s\"", s->conf->name, s->trouble);
    loop_timer(&s->timer, loop_ms());
}

/* The staged map is whole: its nodes get entries, its slots their owners, in one go. */
static void map_apply(struct service *s, const struct backend *from)
{
    struct slotmap_stage *st = &s->stage;
    static uint16_t index[BACKENDS_MAX]; /* a stage holds no more nodes than there are entries */
    bool changed = false;
    for (uint16_t i = 0; i < hb.cap; i++) {
        if (hb.all[i].service == s) {
            if (hb.all[i].listed) {
                hb.all[i].unlisted_ms = loop_ms();
            }
            hb.all[i].listed = false;
            hb.all[i].slots = 0;
        }
    }
    for (uint16_t i = 0; i < st->node_count; i++) {
        struct backend *b = backend_get(s, st->nodes[i].host, st->nodes[i].port, from);
        index[i] = b == NULL ? SLOTMAP_NONE : b->index;
        if (b != NULL) {
            b->listed = true;
        }
    }
    for (uint32_t slot = 0; slot < SLOTMAP_SLOTS; slot++) {
        uint16_t owner = st->owner[slot] == SLOTMAP_NONE ? SLOTMAP_NONE : index[st->owner[slot]];
        if (owner == SLOTMAP_NONE) {
            /* A slot that lost its owner for the moment keeps it: the node knows better what to answer. */
            owner = s->map.owner[slot];
        }
        if (slotmap_set(&s->map, (uint16_t)slot, owner)) {
            s->gains += !changed; /* all that this map brings is one gain */
            changed = true;
            if (owner != SLOTMAP_NONE) {
                backend_at(owner)->gained = s->gains;
            }
        }
        if (owner != SLOTMAP_NONE && backend_at(owner) != NULL) {
            backend_at(owner)->slots++;
        }
    }
    s->asked = NULL;
    s->misses = 0;
    s->trouble[0] = '\0';
    s->refreshed_ms = loop_ms();
    s->told_ms = s->ask_began_ms;
    s->ask_took_ms = (uint32_t)(s->refreshed_ms - s->ask_began_ms);
    stats.refreshes++;
    if (changed) {
        stats.map_changes++;
        log_info("cluster map changed", "service=%s slots=%u nodes=%u told_by=%s:%u", s->conf->name, s->map.served,
                 (unsigned)st->node_count, from->host, (unsigned)from->port);
        s->ops->on_map(s);
    }
    loop_timer(&s->timer, loop_ms());
}

/* A short answer, to PING or AUTH, is whole; its first bytes are in b->head. */
static void short_answer(struct backend *b)
{
    enum question asked = b->question;
    char text[160];
    bool refused = b->head[0] == '-', busy = memcmp(b->head, "-BUSY ", 6) == 0;
    b->question = ASK_NOTHING;
    if ((asked == ASK_LOGIN && !refused) || (busy && b->doubt)) {
        b->doubt = false;
        ask_ping(b);
        return;
    }
    b->doubt = false;
    set_busy(b, busy);
    loop_timer(&b->timer, loop_ms() + (busy ? SCRIPT_MS : b->service->conf->probe_interval_ms));
    if (!refused || busy || memcmp(b->head, "-MASTERDOWN", 11) == 0) {
        bool first = b->state == BACKEND_NEW;
        succeed(b);
        if (first || b->service->map.served == 0) {
            loop_timer(&b->service->timer, loop_ms());
        }
        return;
    }
    log_quote((const char *)b->head, b->head_len, text, sizeof text);
    log_warn("a node does not serve us", "node=%s:%u said=%s", b->host, (unsigned)b->port, text);
    snprintf(b->service->trouble, sizeof b->service->trouble, "%.40s:%u said %.100s", b->host, (unsigned)b->port, text);
    fail(b, 1);
}

static void on_bytes(struct conn *c)
{
    struct backend *b = c->owner;
    struct service *s = b->service;
    ssize_t got = conn_receive(c, scratch, sizeof scratch);
    enum resp_status status;
    size_t n = got > 0 ? (size_t)got : 0, used;
    if (got == CONN_ENDED || (got > 0 && b->question == ASK_NOTHING)) {
        conn_fail(c, "the node closed the probe");
        return;
    }
    if (n == 0) {
        return;
    }
    if (b->question == ASK_SLOTS) {
        status = slotmap_stage_feed(&s->stage, scratch, n, &used);
        if (status == RESP_MORE) {
            return;
        }
        b->question = ASK_NOTHING;
        loop_timer(&b->timer, loop_ms() + (b->busy ? SCRIPT_MS : s->conf->probe_interval_ms));
        if (status == RESP_WHOLE && s->stage.served > 0) {
            map_apply(s, b);
        } else {
            if (status == RESP_WHOLE) {
                snprintf(s->stage.error, sizeof s->stage.error, "it knows of no slots");
            }
            map_failed(s, b);
            if (!s->stage.server_error && status == RESP_BAD) {
                conn_fail(c, "its map cannot be read");
            }
        }
        return;
    }
    used = n < sizeof b->head - b->head_len ? n : sizeof b->head - b->head_len;
    memcpy(b->head + b->head_len, scratch, used);
    b->head_len = (uint8_t)(b->head_len + used);
    resp_reply(&b->reply, scratch, n, &status);
    if (status == RESP_BAD) {
        conn_fail(c, "it does not speak the Redis protocol");
    } else if (status == RESP_WHOLE) {
        short_answer(b);
    }
}

static const struct conn_ops probe_ops = {
    .kind = "probe",
    .on_open = on_open,
    .on_bytes = on_bytes,
    .on_close = on_close,
};

static void dial(struct backend *b)
{
    const struct conf_redis *conf = b->service->conf;
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
        fail(b, 2);
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
    } else if (b->question != ASK_NOTHING) {
        conn_fail(b->probe, "no answer within probe_timeout");
    } else {
        ask_ping(b);
    }
}

/* ---------------------------------------------------------------- the map */

/* Whether the map in use cannot be the whole truth. */
static bool in_trouble(const struct service *s)
{
    if (s->refresh_wanted || s->map.served < SLOTMAP_SLOTS) {
        return true;
    }
    for (uint16_t i = 0; i < hb.cap; i++) {
        const struct backend *b = &hb.all[i];
        if (b->service == s && b->slots > 0 && (b->state == BACKEND_DOWN || b->state == BACKEND_SUSPECT)) {
            return true;
        }
    }
    return false;
}

/* The next node, in rotation, that can be asked. One that was in trouble a moment ago only if there is no other. */
static struct backend *whom_to_ask(struct service *s)
{
    struct backend *second = NULL;
    for (uint16_t i = 0; i < hb.cap; i++) {
        struct backend *b = &hb.all[(s->ask_at + 1u + i) % hb.cap];
        if (b->service != s || b->state == BACKEND_FREE || b->probe == NULL || b->probe->state != CONN_OPEN ||
            b->question != ASK_NOTHING) {
            continue;
        }
        if (b->state == BACKEND_UP && (b->troubled_ms == 0 || loop_ms() - b->troubled_ms > DISTRUST_MS)) {
            s->ask_at = b->index;
            return b;
        }
        second = second == NULL ? b : second;
    }
    return second;
}

static void service_tick(struct timer *t)
{
    struct service *s = (struct service *)(void *)((char *)t - offsetof(struct service, timer));
    static const char line[] = "*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";
    bool trouble = in_trouble(s);
    uint64_t since = loop_ms() - s->ask_began_ms, gap = s->conf->refresh_interval_ms;
    struct backend *b;
    if (s->conf->single || s->asked != NULL) {
        return;
    }
    s->trouble_ms = !trouble ? 0 : s->trouble_ms == 0 ? loop_ms() : s->trouble_ms;
    if (trouble) {
        gap = loop_ms() - s->trouble_ms > TROUBLE_MS ? SLOW_TROUBLE_MS : DEBOUNCE_MS;
        gap <<= s->misses < MISSES_MAX ? s->misses : MISSES_MAX;
        gap = gap > 10u * s->ask_took_ms ? gap : 10u * s->ask_took_ms;
    }
    if (since < gap && s->ask_began_ms != 0 && !s->hurry) {
        loop_timer(&s->timer, loop_ms() + gap - since);
        return;
    }
    b = whom_to_ask(s);
    if (b == NULL) {
        loop_timer(&s->timer, loop_ms() + BUSY_MS);
        return;
    }
    s->asked = b;
    s->refresh_wanted = s->hurry = false;
    s->ask_began_ms = loop_ms();
    slotmap_stage_begin(&s->stage, s->stage_nodes, hb.cap);
    ask(b, ASK_SLOTS, line, sizeof line - 1);
    if (b->question != ASK_SLOTS) {
        s->asked = NULL;
        loop_timer(&s->timer, loop_ms() + DEBOUNCE_MS);
    }
}

void health_refresh(struct service *s)
{
    if (!s->refresh_wanted && !s->conf->single) {
        s->refresh_wanted = true;
        loop_timer(&s->timer, loop_ms());
    }
}

void health_ask_now(struct service *s)
{
    s->hurry = true;
    loop_timer(&s->timer, loop_ms());
}

void health_open(struct service *s, const struct conf_redis *conf, const struct service_ops *ops)
{
    s->conf = conf;
    s->ops = ops;
    s->stage_nodes = hb.nodes + (size_t)hb.cap * hb.services++;
    s->timer.on_due = service_tick;
    slotmap_clear(&s->map);
    snprintf(s->trouble, sizeof s->trouble, "no node has been reached yet");
    for (int i = 0; i < conf->node_count; i++) {
        struct backend *b = backend_get(s, conf->nodes[i].host, conf->nodes[i].port, NULL);
        if (b != NULL) {
            b->seed = true;
        }
        if (b != NULL && conf->single && i == 0) {
            for (uint32_t slot = 0; slot < SLOTMAP_SLOTS; slot++) {
                slotmap_set(&s->map, (uint16_t)slot, b->index);
            }
            b->slots = SLOTMAP_SLOTS;
            b->listed = true;
        }
    }
    loop_timer(&s->timer, loop_ms());
}
