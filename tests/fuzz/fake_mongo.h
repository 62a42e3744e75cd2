/*
 * fake_mongo.h - what the fuzz targets of MongoDB mode share: three mongos on a network in memory, and the program around them.
 *
 *   input --next_byte()--> the test's actions --node_says()--> fake_net.h --> the program
 *                                                               fake_net.h --far_gets()--> the test
 *   our own questions to a mongos (probe, watcher) --probe_answer()--> as nodes[k].hello has it
 *
 * The test says what becomes of the connections of its clients, and what has to hold of them. Everything here is the same each
 * time for the same input.
 */
#ifndef PUERTA_FAKE_MONGO_H
#define PUERTA_FAKE_MONGO_H

#include "mongo.h"
#include "parent.h"
#include "tests/fuzz/fake_net.h"
#include "trace.h"

#define CLIENTS 4
#define NODES 3
#define FIRST_PORT 7001
#define FAR_NODE 16          /* sock.far of mongos 0 */
#define CHUNKS 256
#define CHUNK 1024
#define WINDOW 8192
#define TAG 0x5a000000       /* IDs of our clients' requests: TAG | connection << 16 | client << 12 | number */
#define MESSAGE_CAP 20000
#define STALL_MS 400
#define GRACE_MS 1000

extern bool loop_without_queue;
extern uint64_t loop_mock_us;
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum hello_kind {
    HELLO_GOOD, HELLO_DRAINS, HELLO_NO_MONGOS, HELLO_FAILS, HELLO_GARBAGE, HELLO_SILENT, HELLO_WRONG_ID, HELLO_CLOSES
};
enum end_kind { END_NEW, END_PROBE, END_WATCHER, END_LINK /* for what clients ask */ };

static struct { bool automatic; int dial; enum hello_kind hello; int64_t version; } nodes[NODES];
static struct { bool calm, stopped; } world;
static struct chunk *taken;  /* chunks that make the pool small */
static struct conf conf;
static struct conf_service *const section = &conf.services[0];
static struct { const uint8_t *p; size_t left; } input;
static unsigned char message[MESSAGE_CAP];

/* The test's part beside fake_net.h's. */
static enum end_kind end_kind(const struct sock *s);
static void turn(bool jump);

static unsigned next_byte(void)
{
    if (input.left == 0) {
        return 0;
    }
    input.left--;
    return *input.p++;
}

static struct backend *backend_of(int node)
{
    struct backend *found = NULL;
    for (uint16_t i = 0; i < backend_cap(); i++) {
        struct backend *b = backend_at(i);
        found = b != NULL && b->port == FIRST_PORT + node ? b : found;
    }
    MUST(found != NULL);
    return found;
}

/* Of a connection of the program's to a mongos, as it is now. */
static enum end_kind kind_of(const struct sock *s)
{
    const struct backend *b = backend_of(s->far - FAR_NODE);
    int fd = FD_FIRST + (int)(s - socks);
    return b->probe != NULL && b->probe->fd == fd ? END_PROBE
         : mongos_of(b)->watcher != NULL && mongos_of(b)->watcher->fd == fd ? END_WATCHER : END_LINK;
}

static void put_padding(struct bson *b, int i, size_t n)
{
    static char text[MESSAGE_CAP];
    memset(text, 'a' + i, sizeof text);
    bson_string_n(b, "pad", text, n < MESSAGE_CAP - 1000 ? n : MESSAGE_CAP - 1000);
}

static void sock_end(struct sock *s, bool reset)
{
    s->ended = true;
    s->reset = reset;
}

/* ------------------------------------------------------- our own questions */

static size_t write_hello_answer(const struct wire_header *request, enum hello_kind kind, int64_t version)
{
    static const unsigned char process[12] = "a process...";
    struct bson b;
    struct wire_header to = *request;
    to.request_id += kind == HELLO_WRONG_ID;
    if (kind == HELLO_DRAINS || kind == HELLO_FAILS) {
        return mongomsg_refuse(message, sizeof message, &to, 9,
                               kind == HELLO_FAILS ? MONGO_CODE_UNAUTHORIZED : MONGO_CODE_SHUTDOWN_IN_PROGRESS, "no", NULL);
    }
    mongomsg_begin_answer(&b, message, sizeof message, &to, 9);
    bson_bool(&b, "isWritablePrimary", true);
    if (kind != HELLO_NO_MONGOS) {
        bson_string(&b, "msg", "isdbgrid");
    }
    bson_document(&b, "topologyVersion");
    bson_object_id(&b, "processId", process);
    bson_int64(&b, "counter", version);
    bson_close(&b);
    bson_int32(&b, "maxWireVersion", 17 + (int32_t)(version % 5));
    bson_int32(&b, "logicalSessionTimeoutMinutes", 30);
    bson_double(&b, "ok", 1);
    return mongomsg_finish(&b);
}

/* Somebody of ours has asked its mongos how it is; a watcher waits until something changes. False: nothing is whole yet. */
static bool probe_answer(struct sock *s, bool changed)
{
    int node = s->far - FAR_NODE;
    const unsigned char *p = s->out + s->out_at;
    size_t n = s->out_len - s->out_at;
    struct wire w;
    enum wire_status status;
    wire_start(&w, false);
    size_t used = wire_feed(&w, p, n, &status);
    MUST(status != WIRE_BAD);
    if (status != WIRE_WHOLE || (wire_has(&w, WIRE_MAX_AWAIT_MS) && !changed)) {
        return false;
    }
    s->out_at += used;
    if (s->ended || s->reset) {
        return true;
    }
    if (nodes[node].hello == HELLO_CLOSES) {
        sock_end(s, false);
    } else if (nodes[node].hello == HELLO_GARBAGE) {
        sock_say(s, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
    } else if (nodes[node].hello != HELLO_SILENT) {
        sock_say(s, message, write_hello_answer(&w.header, nodes[node].hello, nodes[node].version));
    }
    return true;
}

static void node_changed(int node)
{
    nodes[node].version++;
    for (int i = 0; i < SOCKS; i++) {
        struct sock *s = &socks[i];
        bool watches = s->state == SOCK_OPEN && s->far == FAR_NODE + node && end_kind(s) == END_WATCHER;
        if (watches && s->out_at < s->out_len && !s->ended) {
            probe_answer(s, true);
            s->out_at = s->out_len = 0;
        }
    }
}

static int far_dialed(uint16_t port, int *far)
{
    MUST(port >= FIRST_PORT && port < FIRST_PORT + NODES);
    *far = FAR_NODE + port - FIRST_PORT;
    return nodes[port - FIRST_PORT].dial;
}

/* ----------------------------------------------------------------- the turn */

/* Turns until there is nothing left to do and `done`, or until so much time has gone by. */
static bool settle(uint32_t most_ms, bool (*done)(void))
{
    uint64_t until = loop_mock_us + most_ms * UINT64_C(1000);
    for (int busy = 0; loop_mock_us < until;) {
        turn(false);
        if (sock_events > 0 || conn_pending()) {
            if (++busy < 300) {
                continue;
            }
            loop_mock_us += 1000;
        }
        busy = 0;
        if (done()) {
            return true;
        }
        turn(true);
    }
    return done();
}

static bool nodes_well(void)
{
    for (int k = 0; k < NODES; k++) {
        const struct backend *b = backend_of(k);
        if (b->state != BACKEND_UP || b->probe == NULL || b->question != 0 || mongos_ejected(b)) {
            return false;
        }
    }
    return true;
}

/* With nobody inside there is nothing to look after often. */
static void check_rest(void)
{
    uint64_t longest = 0;
    for (int i = 0; i < 12; i++) {
        uint64_t since = loop_mock_us;
        turn(true);
        longest = loop_mock_us - since > longest ? loop_mock_us - since : longest;
    }
    MUST(longest > 100000);
}

/* ------------------------------------------------------------- the program */

/* Starts the program with one section, of which the test has set what it needs. */
static void boot(void (*set)(void))
{
    static char *args[] = { "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003" };
    static int listeners[MAX_SERVICES][MAX_LISTENS] = { { FD_LISTENER } };
    MUST(conf_quick(&conf, SERVICE_MONGO, 1, args));
    conf.chunk_size = CHUNK, conf.chunks = CHUNKS;
    conf.max_clients = CLIENTS, conf.max_backends = NODES;
    section->client_window = WINDOW, section->client_stall_ms = STALL_MS, section->client_idle_ms = 0;
    section->dial_timeout_ms = 100, section->probe_interval_ms = 1000, section->probe_timeout_ms = 150;
    section->drain_timeout_ms = 700, section->slow_start_ms = 500, section->eject_time_ms = 100;
    section->listens = 1;
    set();
    conf.slow_log = conf.hot_keys = 8, conf.slow_log_min_ms = 1;
    log_threshold = LOG_ERROR;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0) {
            arena_measure();
        } else {
            MUST(arena_obtain(false));
        }
        loop_tables(&conf), buf_tables(&conf), conn_tables(&conf), stats_tables(&conf), trace_tables(&conf);
        health_tables(&conf), mongo_tables(&conf);
    }
    loop_without_queue = true;
    loop_mock_us = 1000000000;
    loop_open();
    buf_open();
    conn_open_table();
    trace_open(&conf);
    parent_attach(-1);
    mongo_open(&conf, listeners);
}

static void take_chunks(size_t leave)
{
    struct chunk *k;
    while (buf_free_chunks() > leave && (k = chunk_take(BUF_REPLY)) != NULL) {
        k->next = taken;
        taken = k;
    }
}

static void give_chunks(void)
{
    while (taken != NULL) {
        struct chunk *k = taken;
        taken = k->next;
        k->next = NULL;
        chunk_release(k);
    }
}

/* Mongos as they are at first; those that wait for a change hear of it. Dials that nobody answers stay so. */
static void nodes_calm(void)
{
    for (int k = 0; k < NODES; k++) {
        nodes[k].automatic = true;
        nodes[k].dial = 0;
        nodes[k].hello = HELLO_GOOD;
    }
    for (int i = 0; i < SOCKS; i++) {
        socks[i].piece = SIZE_MAX;
    }
    give_chunks();
}

static void stop(void)
{
    world.stopped = true;
    world.calm = false;
    mongo_stop();
}

/* What mongo_stop() has ended begins again. */
static void start_again(void)
{
    if (world.stopped) {
        mongo_stopping = false;
        conn_listen(&backend_of(0)->service->listeners[0], FD_LISTENER);
        world.stopped = false;
    }
}

/* -------------------------------------------- actions that are the same */

static void act_node(void)
{
    unsigned what = next_byte(), node = what / 64 % NODES, how = next_byte();
    switch (what % 4) {
    case 0:
        nodes[node].automatic = (how & 1) != 0;
        break;
    case 1:
        nodes[node].dial = how % 3 == 0 ? ECONNREFUSED : how % 3 == 1 ? EINPROGRESS : 0;
        world.calm = false;
        break;
    default:
        nodes[node].hello = (enum hello_kind)(how % 8);
        world.calm = world.calm && nodes[node].hello == HELLO_GOOD;
        if (what % 4 == 3) {
            node_changed((int)node);
        }
        break;
    }
}

static void act_time(void)
{
    unsigned n = next_byte();
    world.calm = false;
    if (n == 255) {
        stop();
    } else if (n > 250) {
        take_chunks((n - 251) * 6u);
    } else if (n == 250) {
        give_chunks();
    } else if (n < 128) {
        loop_mock_us += n * 1000;
    } else {
        for (n -= 127; n > 0; n -= n > 4 ? 4 : n) {
            turn(true);
        }
    }
}

#endif
