/*
 * mongo_health.c - how each mongos is: it is asked by hello, on two connections.
 *
 *   probe     (login) hello ------> at once: up, shutting down, not a mongos        every probe_interval (health.c dials and waits)
 *   watcher   hello, topologyVersion, maxAwaitTimeMS ------> when something changes, or after AWAIT_MS
 *                                                            what it says makes the probe ask at once
 *
 *   NEW -> UP -> DRAINING (code 91: it serves those who are there) -> DOWN -> UP, with a share that grows over slow_start
 *          UP -> MISMATCH (it does not say isdbgrid)
 *
 * Owns struct mongos, the table beside that of backends. What clients' connections see counts too: a mongos that breaks off
 * one after the other is left out for a while, though it says hello.
 */
#include "mongo.h"

#include <stdio.h>
#include <string.h>

#define AWAIT_MS 10000         /* as drivers' monitors have it */
#define WATCH_AGAIN_MS 1000    /* a lost watcher is dialled again after this */
#define WATCH_REST_MS 500      /* between an answer and the next question: some answer at once, whatever is asked */
#define EJECTIONS_MAX 10       /* eject_time is multiplied so often at most */
#define HELLO_CAP 512

enum { ASK_HELLO = 1, ASK_DEEP, ASK_LOGIN };

static struct {
    struct mongos *all;
    int32_t last_id;
} mh;

uint32_t mongos_changes;
void (*mongos_on_facts)(struct backend *b);

static unsigned char scratch[16384]; /* an answer on its way through the walker */

static void watcher_tick(struct timer *t);

void mongo_health_tables(const struct conf *conf)
{
    mh.all = arena_take("mongos", conf->max_backends, sizeof *mh.all);
}

struct mongos *mongos_of(const struct backend *b)
{
    return &mh.all[b->index];
}

/* An ObjectId that stays as long as the address does: drivers in load-balanced mode keep a pool for each. */
static void make_service_id(const struct backend *b, unsigned char id[12])
{
    char name[HOST_CAP + 8];
    uint32_t hash = 2166136261u;
    for (const char *p = backend_name(b, name); *p != '\0'; p++) {
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    }
    memcpy(id, "puerta", 6);
    id[6] = (unsigned char)(b->port >> 8);
    id[7] = (unsigned char)b->port;
    for (int i = 0; i < 4; i++) {
        id[8 + i] = (unsigned char)(hash >> (8 * i));
    }
}

/* FNV-1a, 64 bits. */
static uint64_t name_of(const struct backend *b)
{
    char name[HOST_CAP + 8];
    uint64_t hash = UINT64_C(14695981039346656037);
    for (const char *p = backend_name(b, name); *p != '\0'; p++) {
        hash = (hash ^ (unsigned char)*p) * UINT64_C(1099511628211);
    }
    return hash;
}

static uint8_t weight_of(const struct backend *b)
{
    const struct conf_service *conf = b->service->conf;
    for (int i = 0; i < conf->node_count; i++) {
        if (conf->nodes[i].port == b->port && strcmp(conf->nodes[i].host, b->host) == 0) {
            return conf->weights[i];
        }
    }
    return 1;
}

void mongos_conf(const struct service *s)
{
    for (uint16_t i = 0; i < backend_cap(); i++) {
        const struct backend *b = backend_at(i);
        if (b != NULL && b->service == s && b->seed) { /* one that is being drained keeps its own */
            mongos_of(b)->weight = weight_of(b);
        }
    }
}

static void begin(struct backend *b)
{
    struct mongos *m = mongos_of(b);
    memset(m, 0, sizeof *m);
    m->backend = b;
    m->name = name_of(b);
    m->weight = weight_of(b);
    m->watcher_timer.on_due = watcher_tick;
    make_service_id(b, m->service_id);
}

static void end(struct mongos *m)
{
    m->facts.known = false;
    loop_timer_stop(&m->watcher_timer);
    if (m->watcher != NULL) {
        conn_close(m->watcher);
    }
    m->watcher = NULL;
    m->backend = NULL;
}

void mongos_changed(struct backend *b)
{
    struct mongos *m = mongos_of(b);
    mongos_changes++;
    switch (b->state) {
    case BACKEND_FREE: end(m); break;
    case BACKEND_NEW: begin(b); break;
    case BACKEND_UP: m->up_ms = m->away ? loop_ms() : 0; break;
    case BACKEND_DRAINING: m->drained_ms = loop_ms() + b->service->conf->drain_timeout_ms; m->away = true; break;
    case BACKEND_DOWN:
        snprintf(b->service->trouble, sizeof b->service->trouble, "%.60s:%u is down", b->host, (unsigned)b->port);
        m->away = true;
        break;
    default: m->away = true; break;
    }
}

/* One that was held begins again as one that was away. What clients saw of it before is no reason to leave it out. */
void mongos_held(struct backend *b)
{
    struct mongos *m = mongos_of(b);
    mongos_changes++;
    if (b->hold == HELD_NOT) {
        m->up_ms = loop_ms();
        m->broken = m->ejections = 0;
        m->ejected_until_ms = 0;
        return;
    }
    m->away = true;
    m->held_ms = loop_ms();
    snprintf(b->service->trouble, sizeof b->service->trouble, "%.60s:%u is %s", b->host, (unsigned)b->port,
             b->removed ? "not in the configuration any more" : b->hold == HELD_DOWN ? "held by hand (down)" : "held by hand (drain)");
}

/* ---------------------------------------------------------------- hello */

/* 0 is none: it stands for nothing asked. */
static int32_t next_id(void)
{
    mh.last_id = mh.last_id < INT32_MAX ? mh.last_id + 1 : 1;
    return mh.last_id;
}

/* What has to go ahead of all else on a connection of our own. */
static bool greet(const struct backend *b, struct conn *c)
{
    unsigned char header[NET_PROXY_CAP];
    return !b->service->conf->upstream_proxy || chain_put(&c->out, BUF_REPLY, header, net_proxy_header(-1, NULL, b->service->conf->upstream_proxy, header));
}

/* A hello of our own; `await`: to be answered when its topologyVersion is not true any more. */
static size_t hello_write(const struct mongos *m, int32_t id, bool await, unsigned char out[HELLO_CAP])
{
    struct bson b;
    mongomsg_begin(&b, out, HELLO_CAP, WIRE_OP_MSG, 0, id, 0);
    bson_int32(&b, "hello", 1);
    bson_bool(&b, "helloOk", true);
    if (m->backend->service->conf->upstream_proxy) {
        bson_bool(&b, "loadBalanced", true);
    }
    if (await) {
        bson_document(&b, "topologyVersion");
        bson_object_id(&b, "processId", m->process_id);
        bson_int64(&b, "counter", m->counter);
        bson_close(&b);
        bson_int64(&b, "maxAwaitTimeMS", AWAIT_MS);
    }
    bson_string(&b, "$db", "admin");
    return mongomsg_finish(&b);
}

static void ask_hello(struct backend *b)
{
    struct mongos *m = mongos_of(b);
    unsigned char line[HELLO_CAP];
    int32_t id = next_id();
    stats.probes++;
    if (health_ask(b, ASK_HELLO, line, hello_write(m, id, false, line))) {
        m->asked_id = id;
        wire_start(&m->answer, true);
    }
}

/* Something that it cannot answer by itself: it needs its config servers. */
static void ask_deep(struct backend *b)
{
    struct mongos *m = mongos_of(b);
    unsigned char line[HELLO_CAP];
    struct bson d;
    int32_t id = next_id();
    mongomsg_begin(&d, line, sizeof line, WIRE_OP_MSG, 0, id, 0);
    bson_int32(&d, "listDatabases", 1);
    bson_bool(&d, "nameOnly", true);
    bson_int64(&d, "maxTimeMS", b->service->conf->probe_timeout_ms);
    bson_string(&d, "$db", "admin");
    if (health_ask(b, ASK_DEEP, line, mongomsg_finish(&d))) {
        m->asked_id = id;
        wire_start(&m->answer, true);
    }
}

static void note_version(struct mongos *m, const struct wire *w)
{
    m->has_version = wire_has(w, WIRE_TOPOLOGY_PROCESS) && wire_has(w, WIRE_TOPOLOGY_COUNTER);
    if (m->has_version) {
        memcpy(m->process_id, w->process_id, sizeof m->process_id);
        m->counter = w->number[WIRE_TOPOLOGY_COUNTER];
    }
}

static int64_t number_of(const struct wire *w, enum wire_field field)
{
    return wire_has(w, field) ? w->number[field] : 0;
}

static void note_facts(struct backend *b, const struct wire *w)
{
    struct mongo_facts *f = &mongos_of(b)->facts;
    struct mongo_facts now = {
        .known = true,
        .isdbgrid = wire_has(w, WIRE_ISDBGRID),
        .min_wire = number_of(w, WIRE_MIN_VERSION),
        .max_wire = number_of(w, WIRE_MAX_VERSION),
        .max_bson = number_of(w, WIRE_MAX_BSON),
        .max_message = number_of(w, WIRE_MAX_MESSAGE),
        .max_batch = number_of(w, WIRE_MAX_BATCH),
        .session_minutes = number_of(w, WIRE_SESSION_MINUTES),
    };
    if (!mongo_facts_same(f, &now)) {
        *f = now;
        mongos_changes++;
        if (mongos_on_facts != NULL) {
            mongos_on_facts(b);
        }
    }
}

/* Feeds what has come into w, the answer to the question of that id (0: nothing was asked). False: nothing is whole yet, or
 * the connection is gone. */
static bool answer_read(struct conn *c, struct wire *w, int32_t id)
{
    enum wire_status status;
    ssize_t got = conn_receive(c, scratch, sizeof scratch);
    if (got == CONN_ENDED) {
        conn_fail(c, "the mongos closed it");
    }
    if (got > 0 && id == 0) {
        conn_fail(c, "it speaks out of turn");
    }
    if (got <= 0 || id == 0) {
        return false;
    }
    size_t used = wire_feed(w, scratch, (size_t)got, &status);
    if (status == WIRE_BAD) {
        conn_fail(c, wire_error_text(w->error));
        return false;
    }
    if (status == WIRE_WHOLE && (w->header.response_to != id || used < (size_t)got || !wire_has(w, WIRE_OK))) {
        conn_fail(c, "it does not answer as a mongos does");
        return false;
    }
    return status == WIRE_WHOLE;
}

static void say_refusal(struct backend *b, const char *why, int64_t code)
{
    log_warn("a mongos does not serve us", "mongos=%s:%u why=\"%s\" code=%lld", b->host, (unsigned)b->port, why, (long long)code);
    snprintf(b->service->trouble, sizeof b->service->trouble, "%.60s:%u: %s", b->host, (unsigned)b->port, why);
}

/* What the hello says. False: nothing good. */
static bool judge(struct backend *b, const struct wire *w)
{
    struct mongos *m = mongos_of(b);
    if (wire_true(w, WIRE_OK) && (wire_has(w, WIRE_ISDBGRID) || b->service->conf->expect_any)) {
        note_version(m, w);
        note_facts(b, w);
        return true;
    }
    if (wire_true(w, WIRE_OK)) {
        m->facts.known = false;
        say_refusal(b, "it is no mongos (expect = any takes it all the same)", 0);
        health_state(b, BACKEND_MISMATCH);
    } else if (wire_has(w, WIRE_CODE) && w->number[WIRE_CODE] == MONGO_CODE_SHUTDOWN_IN_PROGRESS) {
        b->fails = 0;
        health_state(b, BACKEND_DRAINING);
    } else {
        say_refusal(b, "its hello fails", wire_has(w, WIRE_CODE) ? w->number[WIRE_CODE] : 0);
        health_failed(b, 1);
    }
    return false;
}

/* One that wants a login first cannot be asked by nobody, nor by a user without that right: it is taken at its hello. */
static void judge_deep(struct backend *b, const struct wire *w)
{
    int64_t code = wire_has(w, WIRE_CODE) ? w->number[WIRE_CODE] : 0;
    if (wire_true(w, WIRE_OK) || code == MONGO_CODE_UNAUTHORIZED) {
        health_answered(b);
    } else {
        say_refusal(b, "its listDatabases fails (deep_probe)", code);
        health_failed(b, 1);
    }
}

/* ------------------------------------------------------------ the watcher */

static void watcher_ask(struct mongos *m)
{
    unsigned char line[HELLO_CAP];
    int32_t id = next_id();
    if (!m->has_version || !chain_put(&m->watcher->out, BUF_REPLY, line, hello_write(m, id, true, line))) {
        conn_fail(m->watcher, "nothing to wait for");
        return;
    }
    m->watched_id = id;
    wire_start(&m->notice, true);
    conn_dirty(m->watcher);
    loop_timer(&m->watcher_timer, loop_ms() + AWAIT_MS + m->backend->service->conf->probe_timeout_ms);
}

static void watcher_open(struct conn *c)
{
    struct mongos *m = c->owner;
    if (greet(m->backend, c)) {
        watcher_ask(m);
    } else {
        conn_fail(c, "no chunk left for a PROXY header (chunks)");
    }
}

/* It says what has changed, or that nothing has. */
static void watcher_bytes(struct conn *c)
{
    struct mongos *m = c->owner;
    if (!answer_read(c, &m->notice, m->watched_id)) {
        return;
    }
    if (!wire_true(&m->notice, WIRE_OK)) {
        judge(m->backend, &m->notice);
        conn_fail(c, "its hello fails");
        return;
    }
    note_version(m, &m->notice);
    health_look(m->backend);
    m->watched_id = 0;
    loop_timer(&m->watcher_timer, loop_ms() + WATCH_REST_MS);
}

/* A mongos whose watcher is lost may be gone: the probe looks at once. */
static void watcher_close(struct conn *c, const char *why)
{
    struct mongos *m = c->owner;
    (void)why;
    m->watcher = NULL;
    m->watched_id = 0;
    health_look(m->backend);
    loop_timer(&m->watcher_timer, loop_ms() + WATCH_AGAIN_MS);
}

static const struct conn_ops watcher_ops = {
    .kind = "watcher",
    .on_open = watcher_open,
    .on_bytes = watcher_bytes,
    .on_close = watcher_close,
};

static void watcher_dial(struct mongos *m)
{
    const struct address *a = backend_address(m->backend);
    struct net_sizes sizes = { 0, 0 };
    m->watcher = a != NULL ? conn_take(CONN_PROBE, &watcher_ops, m) : NULL;
    if (m->watcher == NULL || !conn_dial(m->watcher, a, m->backend->service->conf->dial_timeout_ms, &sizes)) {
        m->watcher = NULL;
        loop_timer(&m->watcher_timer, loop_ms() + WATCH_AGAIN_MS);
    }
}

static void watcher_tick(struct timer *t)
{
    struct mongos *m = (struct mongos *)(void *)((char *)t - offsetof(struct mongos, watcher_timer));
    if (m->watcher != NULL && m->watcher->state == CONN_OPEN && m->watched_id == 0) {
        watcher_ask(m);
    } else if (m->watcher != NULL && m->watcher->state == CONN_OPEN) {
        conn_fail(m->watcher, "no answer within probe_timeout");
    } else if (m->watcher == NULL && m->has_version && m->backend->state == BACKEND_UP) {
        watcher_dial(m);
    }
}

/* -------------------------------------------------------------- the probe */

/* Whether its probe logs in before its first question. */
static bool logs_in(const struct backend *b)
{
    return b->service->conf->deep_probe && b->service->conf->upstream_user[0] != '\0';
}

static void on_bytes(struct backend *b)
{
    struct mongos *m = mongos_of(b);
    bool deep;
    if (b->question == ASK_LOGIN) {
        mongo_login_bytes(&m->login);
        return;
    }
    if (!answer_read(b->probe, &m->answer, b->question == 0 ? 0 : m->asked_id)) {
        return;
    }
    deep = b->question == ASK_DEEP;
    b->question = 0;
    loop_timer(&b->timer, loop_ms() + b->service->conf->probe_interval_ms);
    if (deep) {
        judge_deep(b, &m->answer);
    } else if (judge(b, &m->answer)) {
        if (logs_in(b) && !m->let_in) {
            conn_fail(b->probe, "it is not shutting down any more: the login is due");
            return;
        }
        if (b->service->conf->deep_probe) {
            ask_deep(b);
        } else {
            health_answered(b);
        }
    }
    if (m->watcher == NULL && m->has_version && m->watcher_timer.next == NULL) {
        loop_timer(&m->watcher_timer, loop_ms());
    }
}

/* One that is shutting down lets nobody in, but its hello says how it is. */
static void on_login(struct mongo_login *l, const char *why)
{
    struct backend *b = l->backend;
    b->question = 0;
    mongos_of(b)->let_in = why == NULL;
    if (why != NULL && l->code != MONGO_CODE_SHUTDOWN_IN_PROGRESS) {
        conn_fail(b->probe, why);
        snprintf(b->service->trouble, sizeof b->service->trouble, "%.*s", (int)sizeof b->service->trouble - 1, why);
    } else {
        ask_hello(b);
    }
}

static void on_open(struct backend *b)
{
    if (!greet(b, b->probe)) {
        conn_fail(b->probe, "no chunk left for a PROXY header (chunks)");
    } else if (logs_in(b)) {
        b->question = ASK_LOGIN;
        mongo_login_begin(&mongos_of(b)->login, b, b->probe, on_login);
    } else {
        ask_hello(b);
    }
}

static void on_lost(struct backend *b)
{
    mongo_login_stop(&mongos_of(b)->login);
}

static void on_nothing(struct backend *b)
{
    (void)b;
}

const struct probe_talk mongo_probe_talk = { on_open, on_bytes, ask_hello, on_lost, on_nothing };

/* --------------------------------------------------- what clients have seen */

bool mongos_ejected(const struct backend *b)
{
    return mongos_of(b)->ejected_until_ms > loop_ms();
}

/* Another one that gets new clients. */
static bool has_peer(const struct backend *b)
{
    for (uint16_t i = 0; i < backend_cap(); i++) {
        const struct backend *o = backend_at(i);
        if (o != NULL && o != b && o->service == b->service && backend_takes_new(o) && !mongos_ejected(o)) {
            return true;
        }
    }
    return false;
}

void mongos_broke(struct backend *b)
{
    struct mongos *m = mongos_of(b);
    uint32_t limit = b->service->conf->eject_after;
    m->broken++;
    health_look(b);
    if (limit == 0 || m->broken < limit || mongos_ejected(b) || !has_peer(b)) {
        return;
    }
    m->ejections += m->ejections < EJECTIONS_MAX;
    m->ejected_until_ms = loop_ms() + (uint64_t)m->ejections * b->service->conf->eject_time_ms;
    m->broken = 0;
    m->up_ms = m->ejected_until_ms;
    log_warn("a mongos is left out: it breaks connections off (eject_after)", "mongos=%s:%u for_ms=%llu", b->host,
             (unsigned)b->port, (unsigned long long)(m->ejected_until_ms - loop_ms()));
}

void mongos_leaves(struct backend *b)
{
    struct mongos *m = mongos_of(b);
    uint64_t until = loop_ms() + b->service->conf->probe_timeout_ms;
    health_look(b);
    if (backend_takes_new(b) && has_peer(b) && m->ejected_until_ms < until) {
        m->ejected_until_ms = until;
    }
}

void mongos_served(struct backend *b)
{
    struct mongos *m = mongos_of(b);
    m->broken = 0;
    if (m->ejections > 0 && loop_ms() > m->ejected_until_ms + b->service->conf->eject_time_ms) {
        m->ejections = 0; /* it has served well for as long as it was left out the first time */
    }
}
