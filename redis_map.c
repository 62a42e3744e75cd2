/*
 * redis_map.c - what a Redis node says of itself and of the cluster: PING, and which of them owns which slot.
 *
 *   service   map <- stage <- CLUSTER SLOTS       asked of one node after the other, at once when something is wrong
 *      |
 *   backend   health.c's probe: AUTH, PING ... +PONG, -BUSY
 *
 * Owns the map of each service and how it is kept true; tells redis_req.c by service_ops.on_map.
 */
#include "redis.h"

#include <stdio.h>
#include <string.h>

#define DEBOUNCE_MS 50        /* between two questions for the map while something is wrong */
#define SLOW_TROUBLE_MS 500   /* the same once it has been wrong for TROUBLE_MS */
#define TROUBLE_MS 30000
#define MISSES_MAX 5          /* questions without a map double the time to the next so often */
#define DISTRUST_MS 2000      /* a node just back may still believe in an old map: others are asked first */
#define BUSY_MS 5             /* all probes are waiting for an answer: look again then */
#define SCRIPT_MS 50          /* a node that is busy with a script is asked so often whether it is done */

enum question { ASK_NOTHING = 0, ASK_LOGIN, ASK_PING, ASK_SLOTS };

static struct {
    struct slotmap_node *nodes; /* the staged nodes of every service, MAX_SERVICES parts */
    uint32_t services;
} mp;

static unsigned char scratch[16384]; /* an answer on its way through the parser; nothing is kept in it */

void redis_map_tables(const struct conf *conf)
{
    mp.nodes = arena_take("map nodes", (size_t)backend_cap() * (size_t)conf_services(conf, SERVICE_REDIS), sizeof *mp.nodes);
}

static size_t put_bulk(unsigned char *out, const char *text)
{
    size_t len = strlen(text), n = resp_put_header(out, '$', (int64_t)len);
    memcpy(out + n, text, len);
    memcpy(out + n + len, "\r\n", 2);
    return n + len + 2;
}

size_t node_login(const struct conf_service *conf, unsigned char *out)
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

/* What it says to a question that is on its way may be older, from while the script ran. */
void node_not_busy(struct backend *b)
{
    b->doubt = b->question == ASK_PING;
    if (b->busy) {
        set_busy(b, false);
    }
}

const char *service_busy(const struct service *s)
{
    for (uint16_t i = 0; i < backend_cap() && s->busy > 0; i++) {
        const struct backend *b = backend_at(i);
        if (b != NULL && b->service == s && b->busy && b->slots > 0) {
            return b->busy_says;
        }
    }
    return NULL;
}

/* -------------------------------------------------------------- the probe */

static void question_put(struct backend *b, enum question what, const void *line, size_t n)
{
    if (health_ask(b, (uint8_t)what, line, n)) {
        b->head_len = 0;
        resp_reply_start(&b->reply);
    } else if (what == ASK_LOGIN) {
        conn_fail(b->probe, "no chunk left for its login (chunks)");
    }
}

static void ask_ping(struct backend *b)
{
    static const char line[] = "*1\r\n$4\r\nPING\r\n";
    stats.probes++;
    question_put(b, ASK_PING, line, sizeof line - 1);
}

static void on_open(struct backend *b)
{
    unsigned char line[2 * SECRET_CAP + 64];
    size_t n = node_login(b->service->conf, line);
    if (n > 0) {
        question_put(b, ASK_LOGIN, line, n);
    } else {
        ask_ping(b);
    }
}

/* Nothing more is heard of what it was asked. */
static void on_lost(struct backend *b)
{
    struct service *s = b->service;
    b->doubt = false;
    set_busy(b, false);
    if (s->asked == b) {
        s->asked = NULL;
        s->misses++;
        stats.refresh_failures++;
        loop_timer(&s->timer, loop_ms());
    }
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
    log_warn("no cluster map from a node", "section=%s reason=\"%s\"", s->conf->name, s->trouble);
    loop_timer(&s->timer, loop_ms());
}

/* The staged map is whole: its nodes get entries, its slots their owners, in one go. */
static void map_apply(struct service *s, const struct backend *from)
{
    struct slotmap_stage *st = &s->stage;
    static uint16_t index[BACKENDS_MAX]; /* a stage holds no more nodes than there are entries */
    bool changed = false;
    for (uint16_t i = 0; i < backend_cap(); i++) {
        struct backend *b = backend_at(i);
        if (b != NULL && b->service == s) {
            b->unlisted_ms = b->listed ? loop_ms() : b->unlisted_ms;
            b->listed = false;
            b->slots = 0;
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
        log_info("cluster map changed", "section=%s slots=%u nodes=%u told_by=%s:%u", s->conf->name, s->map.served,
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
        health_answered(b);
        if (first || b->service->map.served == 0) {
            loop_timer(&b->service->timer, loop_ms());
        }
        return;
    }
    log_quote((const char *)b->head, b->head_len, text, sizeof text);
    log_warn("a node does not serve us", "node=%s:%u said=%s", b->host, (unsigned)b->port, text);
    snprintf(b->service->trouble, sizeof b->service->trouble, "%.40s:%u said %.100s", b->host, (unsigned)b->port, text);
    health_failed(b, 1);
}

static void on_bytes(struct backend *b)
{
    struct conn *c = b->probe;
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

static void on_trouble(struct backend *b)
{
    map_refresh(b->service);
}

const struct probe_talk redis_probe_talk = { on_open, on_bytes, ask_ping, on_lost, on_trouble };

/* ---------------------------------------------------------------- the map */

/* Whether the map in use cannot be the whole truth. */
static bool in_trouble(const struct service *s)
{
    if (s->refresh_wanted || s->map.served < SLOTMAP_SLOTS) {
        return true;
    }
    for (uint16_t i = 0; i < backend_cap(); i++) {
        const struct backend *b = backend_at(i);
        if (b != NULL && b->service == s && b->slots > 0 && backend_is_away(b)) {
            return true;
        }
    }
    return false;
}

/* The next node, in rotation, that can be asked. One that was in trouble a moment ago only if there is no other. */
static struct backend *whom_to_ask(struct service *s)
{
    struct backend *second = NULL;
    for (uint16_t i = 0; i < backend_cap(); i++) {
        struct backend *b = backend_at((uint16_t)((s->ask_at + 1u + i) % backend_cap()));
        if (b == NULL || b->service != s || b->hold == HELD_DOWN || b->probe == NULL || b->probe->state != CONN_OPEN ||
            b->question != ASK_NOTHING) {
            continue;
        }
        if (backend_takes_new(b) && (b->troubled_ms == 0 || loop_ms() - b->troubled_ms > DISTRUST_MS)) {
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
    slotmap_stage_begin(&s->stage, s->stage_nodes, backend_cap());
    question_put(b, ASK_SLOTS, line, sizeof line - 1);
    if (b->question != ASK_SLOTS) {
        s->asked = NULL;
        loop_timer(&s->timer, loop_ms() + DEBOUNCE_MS);
    }
}

void map_refresh(struct service *s)
{
    if (!s->refresh_wanted && !s->conf->single) {
        s->refresh_wanted = true;
        loop_timer(&s->timer, loop_ms());
    }
}

void map_ask_now(struct service *s)
{
    s->hurry = true;
    loop_timer(&s->timer, loop_ms());
}

void map_open(struct service *s, const struct conf_service *conf, const struct service_ops *ops)
{
    s->stage_nodes = mp.nodes + (size_t)backend_cap() * mp.services++;
    s->timer.on_due = service_tick;
    slotmap_clear(&s->map);
    health_open(s, conf, ops);
    for (uint32_t slot = 0; s->conf->single && slot < SLOTMAP_SLOTS; slot++) {
        struct backend *b = backend_named(s, s->conf->nodes[0].host, s->conf->nodes[0].port, NULL);
        must(b != NULL);
        slotmap_set(&s->map, (uint16_t)slot, b->index);
        b->slots = SLOTMAP_SLOTS;
        b->listed = true;
    }
    loop_timer(&s->timer, loop_ms());
}
