/*
 * fuzz_door.c - what Puerta answers itself in pooled mode: two clients that say hello, log in, and say what is none of either.
 *
 *   input = actions --> client i: hellos, steps of logins (right, wrong, changed, of the other client), raw documents
 *                       mongos k: its facts, its state; time; the end
 *
 *   struct end: what client i may be, by what it has shown --> must be who Puerta takes it for
 *
 * What must hold: nobody is logged in but by a proof of that user's password for the conversation that is under way on that
 * connection, and nobody who has given it and done all that is asked stays out; each request has one answer, to it and well
 * formed, at once or by the time that was named; the version grows and never falls; what an answer to hello says holds.
 */
#include "mongo.h"
#include "scram.h"
#include "trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(cond) ((cond) ? (void)0 : must_failed(#cond, __FILE__, __LINE__))
#define CLIENTS 2
#define ACTIONS_MAX 200
#define REQUEST_CAP 4096
#define MINUTE_MS 60000
#define SALT "0123456789abcdef"

extern uint64_t loop_mock_us;
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char *const names[] = { "anna", "b=r,t", "nobody" }, *const passwords[] = { "one", "two", "three" };

static struct conf conf;
static struct conf_service *const section = &conf.services[0];
static struct service service;
static struct backend *node[2];
static struct conn conns[CLIENTS];
static struct pooled clients[CLIENTS];
static struct { const uint8_t *p; size_t left; } input;
static unsigned char request[REQUEST_CAP], out[GREET_CAP];
static struct bson q;
static int32_t last_id;
static uint32_t version;
static unsigned char process[12]; /* as hello has it */
static struct scram_client_keys keys[3]; /* of the passwords, with the salt of the users */

static struct end {
    struct scram_client scram, next_scram; /* next: of a start that may begin none */
    int started;              /* whose name it has begun a login with: an index of names; -1: none, or what is not told */
    int64_t conversation;     /* 0: none is under way */
    int64_t last;             /* the last there was */
    bool skips, next_skips, proven;
    int user;                 /* who it must be taken for; -1: nobody */
    char first[SCRAM_TEXT_MAX], final[SCRAM_TEXT_MAX]; /* the server's, ours */
    size_t first_len, final_len;
    int64_t final_of;         /* the conversation that `final` is for */
    int final_whose;          /* by whose password; -1: it has been changed */
    int32_t asked;            /* a request whose answer is to come; 0: none */
    bool logs_in;             /* that is a saslStart of `starts` */
    int starts;
} ends[CLIENTS];

static unsigned next_byte(void)
{
    if (input.left == 0) {
        return 0;
    }
    input.left--;
    return *input.p++;
}

/* ------------------------------------------------------------ the world */

static void on_backend(struct backend *b)
{
    mongos_changed(b);
}

static const struct service_ops ops = { .talk = &mongo_probe_talk, .on_backend = on_backend };

static void boot(void)
{
    static char *args[] = { "127.0.0.1:1,127.0.0.1:2" };
    if (!conf_quick(&conf, SERVICE_MONGO, 1, args)) {
        exit(1);
    }
    conf.max_clients = CLIENTS, conf.max_backends = 4;
    section->user_count = 2;
    for (int i = 0; i < 2; i++) {
        snprintf(section->users[i].name, sizeof section->users[i].name, "%s", names[i]);
        scram_keys_make(&section->users[i].keys, passwords[i], strlen(passwords[i]), SALT, strlen(SALT), SCRAM_ROUNDS_MIN);
    }
    for (int i = 0; i < 3; i++) {
        struct scram_salting salting;
        scram_salt_begin(&salting, SCRAM_SHA_256, passwords[i], strlen(passwords[i]), SALT, strlen(SALT), SCRAM_ROUNDS_MIN);
        while (!scram_salt_step(&salting, SCRAM_ROUNDS_MIN)) {
        }
        scram_client_keys(&keys[i], SCRAM_SHA_256, &salting);
    }
    log_threshold = LOG_ERROR;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0) {
            arena_measure();
        } else if (!arena_obtain(false)) {
            exit(1);
        }
        loop_tables(&conf), buf_tables(&conf), conn_tables(&conf), stats_tables(&conf), trace_tables(&conf);
        health_tables(&conf), mongo_health_tables(&conf);
        door_tables(&conf);
    }
    loop_mock_us = 1000000000;
    loop_open(), buf_open(), conn_open_table();
    greet_start(&conf);
    service.conf = section, service.ops = &ops;
    for (int i = 0; i < 2; i++) {
        node[i] = backend_get(&service, "127.0.0.1", (uint16_t)(i + 1), NULL);
        loop_timer_stop(&node[i]->timer);
    }
}

static void arrive(int i)
{
    const char *why;
    greet_leave(&clients[i]);
    memset(&clients[i], 0, sizeof clients[i]);
    memset(&ends[i], 0, sizeof ends[i]);
    clients[i].conn = &conns[i];
    clients[i].service = &service;
    conns[i].id = (uint64_t)i + 1;
    MUST(address_parse(i == 0 ? "10.0.0.1:5" : "unix:/x", &conns[i].peer, &why));
    greet_arrive(&clients[i]);
    ends[i].started = ends[i].user = -1;
}

/* -------------------------------------------------------------- answers */

static struct bson_reader answer;

static bool number(const char *path, int64_t *n)
{
    struct bson_element e;
    return bson_find(&answer, path, &e) && bson_number(&e, n);
}

/* The first message of the server, if the answer has one there: the conversation is under way. */
static void note_first(int i, const char *payload, const char *id, int whose)
{
    struct end *c = &ends[i];
    struct bson_element e;
    MUST(bson_find(&answer, payload, &e) && e.type == BSON_BINARY && e.len - 5 <= sizeof c->first);
    MUST(number(id, &c->conversation));
    c->last = c->conversation;
    c->first_len = e.len - 5;
    memcpy(c->first, e.value + 5, c->first_len);
    c->scram = c->next_scram;
    c->skips = c->next_skips;
    c->started = whose;
    c->proven = false;
}

static void check_hello(int i)
{
    int64_t n = 0, most = 0;
    struct bson_element e;
    MUST(bson_find(&answer, "topologyVersion.processId", &e) && e.len == sizeof process);
    memcpy(process, e.value, sizeof process);
    MUST(number("topologyVersion.counter", &n) && n >= (int64_t)version && n <= (int64_t)greet_version(&service));
    version = (uint32_t)n;
    MUST(number("maxWireVersion", &most) && most >= 0 && number("connectionId", &n) && n == i + 1);
    MUST(number("maxMessageSizeBytes", &n) && n > 0 && n <= (int64_t)WIRE_MAX);
}

/* An answer has come to what client i asked. Gives whether it is ok. */
static bool heard(int i, size_t n, int32_t id)
{
    struct wire_header h = wire_header_get(out);
    struct bson_element e;
    struct wire w;
    enum wire_status status;
    int64_t ok = -1, code = 0;
    MUST(n >= WIRE_HEADER && h.length == n && h.response_to == id);
    wire_start(&w, true);
    MUST(wire_feed(&w, out, n, &status) == n && status == WIRE_WHOLE && w.flags == (clients[i].greeting.waits ? WIRE_MORE_TO_COME : 0));
    answer = mongomsg_document(out, n);
    MUST(!answer.bad && number("ok", &ok));
    MUST(ok == 1 || (number("code", &code) && code > 0 && bson_find(&answer, "errmsg", &e) && bson_find(&answer, "codeName", &e)));
    if (ok == 1 && bson_find(&answer, "localTime", &e)) {
        check_hello(i);
    }
    return ok == 1;
}

static void check_users(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        MUST(clients[i].user == (ends[i].user < 0 ? DOOR_NOBODY : ends[i].user));
    }
}

/* Its login is over, or another takes its place. */
static void forget(struct end *c)
{
    c->conversation = 0;
    c->started = -1;
    c->proven = false;
}

/* What came to a saslStart. */
static void started(int i, bool ok)
{
    forget(&ends[i]);
    if (ok) {
        note_first(i, "payload", "conversationId", ends[i].starts);
    }
}

/* Of a hello that goes on: what its next answer answers; else 0. */
static int32_t answered_next(const struct pooled *p)
{
    return p->greeting.waits ? wire_header_get(out).request_id : 0;
}

static void again(int i)
{
    struct end *c = &ends[i];
    size_t n = clients[i].greeting.waits ? greet_again(&clients[i], out, sizeof out) : 0;
    MUST(n > 0 || !clients[i].greeting.waits || loop_ms() < clients[i].until_ms);
    if (n > 0) {
        bool ok = heard(i, n, c->asked);
        MUST(c->asked != 0);
        c->asked = answered_next(&clients[i]);
        if (c->logs_in) {
            started(i, ok);
        }
    }
}

/* ------------------------------------------------------------- requests */

static void begin(const char *command)
{
    unsigned flags = next_byte();
    mongomsg_begin(&q, request, sizeof request, flags == 250 ? WIRE_OP_QUERY : WIRE_OP_MSG,
                   flags == 251 ? WIRE_MORE_TO_COME : flags == 252 ? WIRE_EXHAUST_ALLOWED : 0, ++last_id, 0);
    bson_int32(&q, command, 1);
}

/* Sends what q has, as mongo_pooled.c does. Its answer's length, 0: it is to come, or none of ours. */
static size_t ask(int i, bool *taken)
{
    struct pooled *p = &clients[i];
    enum wire_status status;
    size_t n = mongomsg_finish(&q), len;
    *taken = false;
    wire_start(&p->asks, false);
    if (n == 0 || wire_feed(&p->asks, request, n, &status) != n || status != WIRE_WHOLE || !greet_takes(p)) {
        return 0;
    }
    *taken = true;
    len = greet_answer(p, request, n, out, sizeof out);
    MUST(p->greeting.waits == (len == 0 || (out[WIRE_HEADER] & WIRE_MORE_TO_COME) != 0));
    MUST(len > 0 || !wire_more_to_come(&p->asks));
    MUST(len > 0 || p->until_ms > loop_ms());
    ends[i].asked = len == 0 ? last_id : answered_next(p);
    ends[i].logs_in = false;
    return len;
}

static void put_first(int i, int who)
{
    struct end *c = &ends[i];
    char first[SCRAM_TEXT_MAX];
    unsigned char random[SCRAM_RANDOM];
    size_t n;
    for (size_t k = 0; k < sizeof random; k++) {
        random[k] = (unsigned char)(k < 2 ? next_byte() : 'r');
    }
    n = scram_client_first(&c->next_scram, SCRAM_SHA_256, names[who], strlen(names[who]), random, first, sizeof first);
    MUST(n > 0);
    c->next_skips = next_byte() % 2 == 0;
    bson_string(&q, "mechanism", "SCRAM-SHA-256");
    bson_binary(&q, "payload", 0, first, n);
    bson_document(&q, "options");
    bson_bool(&q, "skipEmptyExchange", c->next_skips);
    bson_close(&q);
}

static void hello(int i)
{
    static const char *const commands[] = { "hello", "isMaster", "ismaster" };
    unsigned what;
    struct bson_element e;
    int who = -1;
    bool taken, ok;
    size_t n;
    begin(commands[next_byte() % 3]);
    what = next_byte();
    if (what & 1) {
        bson_document(&q, "topologyVersion");
        bson_object_id(&q, "processId", what & 2 ? process : (const unsigned char *)"abcdefghijkl");
        bson_int64(&q, "counter", (int64_t)version + (int64_t)(next_byte() % 4) - 1);
        bson_close(&q);
    }
    if (what & 4) {
        bson_int64(&q, "maxAwaitTimeMS", (int64_t)(next_byte() * 10) - 5);
    }
    if (what & 8) {
        bson_document(&q, "client");
        bson_close(&q);
    }
    if (what & 16) {
        who = (int)(next_byte() % 3);
        bson_document(&q, "speculativeAuthenticate");
        put_first(i, who);
        bson_close(&q);
    }
    n = ask(i, &taken);
    MUST(taken);
    ok = n > 0 && heard(i, n, last_id);
    if (ok && bson_find(&answer, "speculativeAuthenticate", &e)) {
        MUST(who >= 0);
        note_first(i, "speculativeAuthenticate.payload", "speculativeAuthenticate.conversationId", who);
    }
}

static void sasl_start(int i)
{
    unsigned what;
    bool taken;
    size_t n;
    begin("saslStart");
    what = next_byte();
    ends[i].starts = (int)(what % 3);
    if (what < 200) {
        put_first(i, ends[i].starts);
    } else {
        unsigned char junk[64];
        for (size_t k = 0; k < sizeof junk; k++) {
            junk[k] = (unsigned char)next_byte();
        }
        bson_string(&q, "mechanism", what < 240 ? "SCRAM-SHA-256" : "PLAIN");
        bson_binary(&q, "payload", 0, junk, what % sizeof junk);
        ends[i].starts = -1;
    }
    n = ask(i, &taken);
    if (taken && clients[i].asks.header.opcode == WIRE_OP_MSG) { /* else it is no login, whatever it is called */
        forget(&ends[i]);
        ends[i].logs_in = n == 0;
        if (n > 0) {
            started(i, heard(i, n, last_id));
        }
    }
}

/* The final message of the login of client i, with that password, in its `final`. For nobody's salt any keys are as wrong. */
static void prove(int i, int whose)
{
    struct end *c = &ends[i];
    c->final_len = 0;
    if (scram_client_read(&c->scram, c->first, c->first_len) == NULL) {
        c->final_len = scram_client_final(&c->scram, &keys[whose], c->final, sizeof c->final);
        c->final_of = c->last;
        c->final_whose = whose;
    }
}

static void sasl_continue(int i)
{
    struct end *c = &ends[i];
    unsigned what = next_byte();
    int from = what % 8 == 7 ? 1 - i : i, whose = what % 8 == 6 || c->started < 0 ? (int)(what / 8 % 3) : c->started;
    bool right, here, empty = c->proven && what < 128, taken, ok;
    int64_t id = what % 8 == 5 ? c->last + 1 : c->last;
    size_t n;
    if (from == i && !empty && c->last != 0 && !c->proven && what % 8 != 4) {
        prove(i, whose);
    }
    if (what % 8 == 3 && c->final_len > 0) { /* one byte of it is another one */
        c->final[next_byte() % c->final_len] ^= (char)(1 + next_byte() % 255);
        c->final_whose = -1;
    }
    right = from == i && id != 0 && id == c->conversation && !c->proven && c->final_len > 0 && c->final_of == id && c->started >= 0 &&
            c->started < 2 && c->final_whose == c->started;
    begin("saslContinue");
    bson_int64(&q, "conversationId", id);
    bson_binary(&q, "payload", 0, empty ? "" : ends[from].final, empty ? 0 : ends[from].final_len);
    n = ask(i, &taken);
    here = clients[i].asks.header.opcode == WIRE_OP_MSG;
    MUST(taken && n > 0);
    ok = heard(i, n, last_id);
    if (!here) {
        MUST(!ok);
        return;
    }
    empty = c->proven && id != 0 && id == c->conversation && (empty || ends[from].final_len == 0);
    if (empty || (right && c->skips)) {
        MUST(ok);
        c->user = c->started;
        forget(c);
    } else if (right) {
        MUST(ok);
        c->proven = true;
    } else {
        MUST(!ok);
        forget(c);
    }
}

static void logout(int i)
{
    bool taken;
    size_t n;
    begin("logout");
    n = ask(i, &taken);
    MUST(taken && n > 0);
    if (heard(i, n, last_id)) {
        ends[i].user = -1;
        forget(&ends[i]);
    }
}

/* A document of any bytes, under a name that is answered here. */
static void raw(int i)
{
    static const char *const commands[] = { "hello", "whatsmyuri", "getLastError", "authenticate", "ping", "find" };
    unsigned char bytes[128];
    size_t n = next_byte() % sizeof bytes;
    bool taken;
    begin(commands[next_byte() % 6]);
    for (size_t k = 0; k < n; k++) {
        bytes[k] = (unsigned char)next_byte();
    }
    bson_bytes(&q, bytes, n);
    n = ask(i, &taken);
    if (n > 0) {
        struct bson_element e;
        if (heard(i, n, last_id) && bson_find(&answer, "speculativeAuthenticate", &e)) {
            forget(&ends[i]); /* in the place of another one; whose it is is not told */
            MUST(number("speculativeAuthenticate.conversationId", &ends[i].conversation));
            ends[i].last = ends[i].conversation;
        }
    }
}

static void mongos_act(void)
{
    static const enum backend_state states[] = { BACKEND_UP, BACKEND_DOWN, BACKEND_DRAINING, BACKEND_UP };
    unsigned what = next_byte();
    struct backend *b = node[what & 1];
    struct mongo_facts *f = &mongos_of(b)->facts;
    if (what & 2) {
        f->known = true;
        f->isdbgrid = (what & 4) != 0;
        f->max_wire = next_byte();
        f->max_message = (int64_t)next_byte() << next_byte() % 56;
        f->session_minutes = next_byte();
    }
    b->state = (uint8_t)states[what >> 3 & 3];
    mongos_changed(b);
    MUST(greet_version(&service) >= version);
}

static void act(void)
{
    unsigned what = next_byte();
    int i = (int)(what & 1);
    bool busy = clients[i].greeting.waits; /* its next request is not looked at */
    switch (what >> 1 & 15) {
    case 0: case 1: if (!busy) { hello(i); } break;
    case 2: case 3: case 4: if (!busy) { sasl_start(i); } break;
    case 5: case 6: case 7: case 8: if (!busy) { sasl_continue(i); } break;
    case 9: if (!busy) { logout(i); } break;
    case 10: if (!busy) { raw(i); } break;
    case 11: arrive(i); break;
    case 12: mongos_act(); break;
    case 13: mongo_stopping = next_byte() > 250 ? true : mongo_stopping; break;
    default:
        loop_mock_us += (uint64_t)next_byte() * 4000;
        loop_turn(true);
        break;
    }
    for (i = 0; i < CLIENTS; i++) {
        again(i);
    }
    check_users();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static bool booted;
    int actions = 0;
    if (!booted) {
        boot();
        booted = true;
    }
    input.p = data;
    input.left = len;
    loop_mock_us += (uint64_t)2 * MINUTE_MS * 1000; /* wrong guesses of the input before are forgotten */
    loop_turn(true);
    version = 0;
    for (int i = 0; i < 2; i++) {
        memset(&mongos_of(node[i])->facts, 0, sizeof(struct mongo_facts));
        node[i]->state = BACKEND_DOWN;
        mongos_changed(node[i]);
        arrive(i);
    }
    while (input.left > 0 && actions++ < ACTIONS_MAX) {
        act();
    }
    for (int i = 0; i < CLIENTS; i++) {
        loop_mock_us += (uint64_t)20 * MINUTE_MS * 1000;
        loop_turn(true);
        again(i);
        MUST(!clients[i].greeting.waits || clients[i].greeting.every_ms > 0); /* a hello may go on for ever */
        greet_leave(&clients[i]);
        MUST(clients[i].greeting.talk == NULL);
    }
    mongo_stopping = false;
    return 0;
}
