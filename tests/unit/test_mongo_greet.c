/*
 * test_mongo_greet.c - mongo_greet.c and mongo_door.c: what Puerta answers itself in pooled mode, and who may come in.
 *
 *     the test, as client --message--> greet_answer(), greet_again() --answer--> the test
 *     the test, as mongos: facts and states set by hand
 *
 * What drivers make of it is in tests/test_mongo_greet.py and tests/test_mongo_door.py.
 */
#include <mongo.h> /* the room's, not the test tool of that name beside this file */
#include "scram.h"
#include "trace.h"
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#define PASSWORD "p4ss word"
#define WAITED ((size_t)0)

extern uint64_t loop_mock_us;

static struct conf conf;
static struct conf_service *const section = &conf.services[0];
static struct service service;
static struct backend *node[2];
static struct conn conns[3];
static struct pooled clients[3];
static unsigned char out[GREET_CAP], request[16384];
static size_t out_len;
static struct bson q;
static int32_t last_id;

/* ------------------------------------------------------------ the world */

static void on_backend(struct backend *b)
{
    mongos_changed(b);
}

static const struct service_ops ops = { .talk = &mongo_probe_talk, .on_backend = on_backend };

static void pass_time(uint32_t ms)
{
    loop_mock_us += ms * UINT64_C(1000);
    loop_turn(true);
}

static void from(struct pooled *p, const char *address)
{
    const char *why;
    CHECK(address_parse(address, &p->conn->peer, &why));
}

/* A client anew; the one that was there has gone. */
static void arrive(struct pooled *p)
{
    const struct address peer = conns[p - clients].peer;
    greet_leave(p);
    memset(p, 0, sizeof *p);
    p->conn = &conns[p - clients];
    p->conn->peer = peer;
    p->conn->id = (uint64_t)(p - clients) + 7;
    p->service = &service;
    greet_arrive(p);
}

static void boot(void)
{
    static char *args[] = { "127.0.0.1:1,127.0.0.1:2" };
    if (!CHECK(conf_quick(&conf, SERVICE_MONGO, 1, args))) {
        exit(unit_end());
    }
    conf.max_clients = 3, conf.max_backends = 4;
    section->users[0] = section->users[1] = (struct conf_user){ .name = "" };
    section->user_count = 2;
    memcpy(section->users[0].name, "anna", 5);
    memcpy(section->users[1].name, "b=r,t", 6);
    scram_keys_make(&section->users[0].keys, PASSWORD, strlen(PASSWORD), "0123456789abcdef", 16, 4096);
    scram_keys_make(&section->users[1].keys, "other", 5, "fedcba9876543210", 16, 4096);
    log_threshold = LOG_ERROR;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0) {
            arena_measure();
        } else if (!CHECK(arena_obtain(false))) {
            exit(unit_end());
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
        loop_timer_stop(&node[i]->timer); /* it is not dialled */
    }
    for (int i = 0; i < 3; i++) {
        clients[i].conn = &conns[i];
        from(&clients[i], "unix:/near");
        arrive(&clients[i]);
    }
}

static void set_state(int i, enum backend_state to)
{
    node[i]->state = (uint8_t)to;
    mongos_changed(node[i]);
}

static struct mongo_facts *facts(int i)
{
    mongos_changes++;
    return &mongos_of(node[i])->facts;
}

static void know(int i)
{
    *facts(i) = (struct mongo_facts){ true, true, 0, 21, 16777216, 48000000, 100000, 30 };
}

/* ---------------------------------------------------------- conversation */

static void begin_flags(const char *command, uint32_t flags)
{
    mongomsg_begin(&q, request, sizeof request, WIRE_OP_MSG, flags, ++last_id, 0);
    bson_int32(&q, command, 1);
}

static void begin(const char *command)
{
    begin_flags(command, 0);
}

static void begin_query(const char *command)
{
    mongomsg_begin(&q, request, sizeof request, WIRE_OP_QUERY, 0, ++last_id, 0);
    bson_int32(&q, command, 1);
}

/* The n bytes of a request go to p as mongo_pooled.c gives them. False: it is no message. */
static bool give(struct pooled *p, size_t n)
{
    enum wire_status status;
    wire_start(&p->asks, false);
    out_len = 0;
    if (wire_feed(&p->asks, request, n, &status) != n || status != WIRE_WHOLE) {
        return false;
    }
    if (!greet_takes(p)) {
        return false;
    }
    out_len = greet_answer(p, request, n, out, sizeof out);
    CHECK(p->greeting.waits == (out_len == 0 || (out[WIRE_HEADER] & WIRE_MORE_TO_COME) != 0));
    return true;
}

static size_t ask(struct pooled *p)
{
    size_t n;
    if (q.out[12] == 0xDD) { /* OP_MSG, 2013 */
        bson_string(&q, "$db", "admin");
    }
    n = mongomsg_finish(&q);
    CHECK(n > 0 && give(p, n));
    return out_len;
}

static size_t again(struct pooled *p)
{
    out_len = greet_again(p, out, sizeof out);
    return out_len;
}

static bool find(const char *path, struct bson_element *e)
{
    struct bson_reader r = mongomsg_document(out, out_len);
    return !r.bad && bson_find(&r, path, e);
}

static int64_t number(const char *path)
{
    struct bson_element e;
    int64_t n = -1;
    return find(path, &e) && bson_number(&e, &n) ? n : -1;
}

static bool text_is(const char *path, const char *text)
{
    struct bson_element e;
    size_t n;
    const char *said = find(path, &e) ? bson_text(&e, &n) : NULL;
    return said != NULL && strcmp(said, text) == 0;
}

static bool has(const char *path)
{
    struct bson_element e;
    return find(path, &e);
}

/* The answer is to the last request, and ok. */
static bool good(void)
{
    struct wire_header h = wire_header_get(out);
    return out_len > 0 && h.length == out_len && h.response_to == last_id && h.request_id != 0 && number("ok") == 1;
}

/* ... or that error. */
static bool refused(enum mongo_code code)
{
    struct wire_header h = wire_header_get(out);
    return out_len > 0 && h.length == out_len && h.response_to == last_id && number("ok") == 0 && number("code") == (int64_t)code &&
           has("errmsg") && has("codeName");
}

static void put_version(const unsigned char process[12], int64_t counter)
{
    bson_document(&q, "topologyVersion");
    bson_object_id(&q, "processId", process);
    bson_int64(&q, "counter", counter);
    bson_close(&q);
}

static void hello(struct pooled *p)
{
    begin("hello");
    ask(p);
}

/* What the last answer says of processId. */
static void process_of(unsigned char id[12])
{
    struct bson_element e;
    if (CHECK(find("topologyVersion.processId", &e) && e.type == BSON_OBJECT_ID)) {
        memcpy(id, e.value, 12);
    }
}

/* ----------------------------------------------------------------- hello */

static void test_early(void)
{
    struct pooled *p = &clients[0];

    unit_note = "nothing is known yet";
    section->handshake_timeout_ms = 500;
    hello(p);
    CHECK(out_len == WAITED && p->greeting.waits && p->until_ms == loop_ms() + 500);
    CHECK(again(p) == WAITED);
    pass_time(499);
    CHECK(again(p) == WAITED);
    pass_time(1);
    CHECK(again(p) > 0 && refused(MONGO_CODE_HOST_UNREACHABLE) && !p->greeting.waits);
    CHECK(again(p) == 0);

    unit_note = "the first mongos that is known answers those who wait";
    hello(p);
    CHECK(out_len == WAITED && greet_version(&service) == 0);
    know(0);
    set_state(0, BACKEND_UP);
    CHECK(greet_version(&service) == 1 && again(p) > 0 && good());
}

static void test_forms(void)
{
    static const char *const names[] = { "hello", "isMaster", "ismaster" };
    struct pooled *p = &clients[0];

    for (int form = 0; form < 2; form++) {
        for (int i = 0; i < 3; i++) {
            unit_note = names[i];
            if (form == 0) {
                begin(names[i]);
            } else {
                begin_query(names[i]);
            }
            ask(p);
            CHECK(good() && wire_header_get(out).opcode == (form == 0 ? WIRE_OP_MSG : WIRE_OP_REPLY));
            CHECK(number(i == 0 ? "isWritablePrimary" : "ismaster") == 1 && !has(i == 0 ? "ismaster" : "isWritablePrimary"));
            CHECK(text_is("msg", "isdbgrid") && !has("helloOk") && !has("compression") && !has("saslSupportedMechs"));
            CHECK(number("connectionId") == 7 && number("readOnly") == 0 && has("localTime") && has("topologyVersion.processId"));
        }
    }
    unit_note = "within a $query";
    mongomsg_begin(&q, request, sizeof request, WIRE_OP_QUERY, 0, ++last_id, 0);
    bson_document(&q, "$query");
    bson_int32(&q, "ismaster", 1);
    bson_close(&q);
    bson_document(&q, "$readPreference");
    bson_close(&q);
    ask(p);
    CHECK(good() && number("ismaster") == 1);

    unit_note = "what else is asked for";
    begin("ismaster");
    bson_bool(&q, "helloOk", true);
    bson_array(&q, "compression");
    bson_string(&q, NULL, "zlib");
    bson_close(&q);
    bson_string(&q, "saslSupportedMechs", "admin.nobody");
    bson_document(&q, "someday");
    bson_close(&q);
    ask(p);
    CHECK(good() && number("helloOk") == 1 && !has("compression") && text_is("saslSupportedMechs.0", "SCRAM-SHA-256"));
    CHECK(!has("saslSupportedMechs.1"));

    unit_note = "other commands by OP_QUERY";
    begin_query("find");
    ask(p);
    CHECK(refused(MONGO_CODE_UNSUPPORTED_OP_QUERY) && wire_header_get(out).opcode == WIRE_OP_REPLY);
    mongomsg_begin(&q, request, sizeof request, WIRE_OP_QUERY, 0, ++last_id, 0);
    ask(p);
    CHECK(refused(MONGO_CODE_UNSUPPORTED_OP_QUERY));
}

static void test_checksum(void)
{
    struct pooled *p = &clients[0];
    size_t n;

    unit_note = "a checksum is looked at";
    for (int good_one = 0; good_one < 2; good_one++) {
        begin_flags("hello", WIRE_CHECKSUM_PRESENT);
        bson_string(&q, "$db", "admin");
        n = mongomsg_finish(&q);
        bson_put32(request, (uint32_t)n + 4);
        bson_put32(request + n, wire_crc32c(0, request, n) ^ (good_one ? 0 : 1));
        CHECK(give(p, n + 4) && (good_one ? good() : refused(MONGO_CODE_PROTOCOL_ERROR)));
    }
}

static void test_minimum(void)
{
    struct pooled *p = &clients[0];
    uint32_t version = greet_version(&service);

    unit_note = "the least of all mongos";
    *facts(1) = (struct mongo_facts){ true, true, 6, 17, 8388608, 24000000, 1000, 20 };
    set_state(1, BACKEND_UP);
    CHECK(greet_version(&service) == version + 1);
    hello(p);
    CHECK(number("topologyVersion.counter") == (int64_t)version + 1);
    CHECK(number("minWireVersion") == 6 && number("maxWireVersion") == 17 && number("maxBsonObjectSize") == 8388608);
    CHECK(number("maxMessageSizeBytes") == 24000000 && number("maxWriteBatchSize") == 1000);
    CHECK(number("logicalSessionTimeoutMinutes") == 20 && text_is("msg", "isdbgrid"));

    unit_note = "looking again changes nothing";
    facts(1);
    CHECK(greet_version(&service) == version + 1);

    unit_note = "one that is down does not count while another is up, nor one that is shutting down less";
    set_state(1, BACKEND_DRAINING);
    CHECK(greet_version(&service) == version + 1);
    set_state(1, BACKEND_DOWN);
    CHECK(greet_version(&service) == version + 2);
    hello(p);
    CHECK(number("maxWireVersion") == 21 && number("logicalSessionTimeoutMinutes") == 30);

    unit_note = "when all are down the last known facts count";
    set_state(0, BACKEND_DOWN);
    hello(p);
    CHECK(good() && number("maxWireVersion") == 17 && greet_version(&service) == version + 3);
    facts(0)->known = facts(1)->known = false;
    hello(p);
    CHECK(good() && number("maxWireVersion") == 17 && greet_version(&service) == version + 3);

    unit_note = "what one lacks";
    *facts(0) = (struct mongo_facts){ true, true, 0, 21, 0, 1000, 0, 30 };
    *facts(1) = (struct mongo_facts){ true, false, 0, 21, 1000, 0, 0, 0 };
    set_state(0, BACKEND_UP);
    set_state(1, BACKEND_UP);
    hello(p);
    CHECK(good() && !has("msg") && !has("logicalSessionTimeoutMinutes") && number("maxBsonObjectSize") == 1000);
    CHECK(number("maxMessageSizeBytes") == 1000 && number("maxWriteBatchSize") == 100000);
    *facts(0) = *facts(1);
    facts(0)->max_bson = facts(1)->max_bson = 0;
    facts(0)->max_message = INT64_MAX, facts(0)->max_wire = INT64_MAX, facts(0)->min_wire = -5;
    hello(p);
    CHECK(good() && number("maxBsonObjectSize") == 16777216 && number("maxMessageSizeBytes") == 48000000 && number("minWireVersion") == 0);
    CHECK(number("maxWriteBatchSize") == 100000);
    know(0);
    know(1);
}

static void await(struct pooled *p, const unsigned char process[12], int64_t counter, int64_t ms)
{
    begin("hello");
    put_version(process, counter);
    bson_int64(&q, "maxAwaitTimeMS", ms);
    ask(p);
}

/* The same by a client that takes as many answers as there are. */
static void stream(struct pooled *p, const unsigned char process[12], int64_t counter, int64_t ms)
{
    begin_flags("hello", WIRE_EXHAUST_ALLOWED);
    put_version(process, counter);
    bson_int64(&q, "maxAwaitTimeMS", ms);
    ask(p);
}

static bool goes_on(const struct pooled *p, int32_t answers)
{
    struct wire_header h = wire_header_get(out);
    return out_len > 0 && h.length == out_len && h.request_id != 0 && h.response_to == answers && number("ok") == 1 &&
           p->greeting.waits && bson_get32(out + WIRE_HEADER) == WIRE_MORE_TO_COME;
}

static void test_stream(void)
{
    struct pooled *p = &clients[0];
    unsigned char process[12];
    int64_t version;
    int32_t id;

    unit_note = "a hello that goes on: each answer is what the next one answers";
    memset(process, 0, sizeof process);
    arrive(p);
    hello(p);
    process_of(process);
    version = number("topologyVersion.counter");
    stream(p, process, version - 1, 1000);
    CHECK(goes_on(p, wire_header_get(request).request_id) && p->until_ms == loop_ms() + 1000);
    for (int i = 0; i < 3; i++) {
        id = wire_header_get(out).request_id;
        CHECK(again(p) == WAITED);
        pass_time(1000);
        CHECK(again(p) > 0 && goes_on(p, id) && number("topologyVersion.counter") == version);
    }
    id = wire_header_get(out).request_id;
    facts(0)->max_wire++;
    greet_version(&service);
    CHECK(again(p) > 0 && goes_on(p, id) && number("topologyVersion.counter") == version + 1);

    unit_note = "one that ends when its client says more, or is in too great a hurry";
    p->ended = true;
    pass_time(1000);
    CHECK(again(p) > 0 && number("ok") == 1 && !p->greeting.waits && bson_get32(out + WIRE_HEADER) == 0);
    p->ended = false;
    stream(p, process, version, 0);
    CHECK(p->until_ms == loop_ms() + 100);
    stream(p, process, version, INT64_MAX);
    CHECK(p->until_ms < loop_ms() + 3600000);
    stream(p, process, version + 900, 1000);
    CHECK(refused(MONGO_CODE_TOPOLOGY_AHEAD) && !p->greeting.waits);
    facts(0)->max_wire--;
    greet_version(&service);
}

static void test_await(void)
{
    struct pooled *p = &clients[0], *other = &clients[1];
    unsigned char process[12], foreign[13] = "abcdefghijkl";
    int64_t version;

    memset(process, 0, sizeof process);
    hello(p);
    process_of(process);
    version = number("topologyVersion.counter");

    unit_note = "parked until the time is over";
    await(p, process, version, 1000);
    CHECK(out_len == WAITED && p->until_ms == loop_ms() + 1000);
    pass_time(999);
    CHECK(again(p) == WAITED);
    pass_time(1);
    CHECK(again(p) > 0 && good() && number("topologyVersion.counter") == version && bson_get32(out + 16) == 0);

    unit_note = "all are told when something changes";
    await(p, process, version, 1000);
    await(other, process, version, 1000);
    CHECK(again(p) == WAITED && again(other) == WAITED);
    facts(0)->max_wire = 20;
    CHECK(greet_version(&service) == (uint32_t)version + 1);
    CHECK(again(p) > 0 && number("topologyVersion.counter") == version + 1 && number("maxWireVersion") == 20);
    CHECK(again(other) > 0 && number("topologyVersion.counter") == version + 1);

    unit_note = "answered at once: an old counter, another process, no time";
    await(p, process, version, 1000);
    CHECK(good());
    await(p, foreign, version + 900, 1000);
    CHECK(good());
    await(p, process, ++version, 0);
    CHECK(good());

    unit_note = "a time without end is bounded";
    await(p, process, version, INT64_MAX);
    CHECK(out_len == WAITED && p->until_ms < loop_ms() + 3600000);

    unit_note = "what is wrong";
    await(p, process, version + 1, 1000);
    CHECK(refused(MONGO_CODE_TOPOLOGY_AHEAD));
    await(p, process, -1, 1000);
    CHECK(refused(MONGO_CODE_TOPOLOGY_COUNTER));
    await(p, process, version, -1);
    CHECK(refused(MONGO_CODE_AWAIT_TIME));
    begin("hello");
    put_version(process, version);
    ask(p);
    CHECK(refused(MONGO_CODE_AWAIT_HALF));
    begin("hello");
    bson_int32(&q, "maxAwaitTimeMS", 5);
    ask(p);
    CHECK(refused(MONGO_CODE_AWAIT_HALF) && text_is("codeName", "Location51760"));

    unit_note = "nobody waits for an answer that is not to be sent";
    begin_flags("hello", WIRE_MORE_TO_COME);
    put_version(process, version);
    bson_int64(&q, "maxAwaitTimeMS", 1000);
    ask(p);
    CHECK(out_len > 0);
}

static void test_wrong_types(void)
{
    static const char *const names[] = { "helloOk", "client", "loadBalanced", "topologyVersion", "saslSupportedMechs" };
    struct pooled *p = &clients[0];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        unit_note = names[i];
        begin("hello");
        bson_object_id(&q, names[i], (const unsigned char *)"abcdefghijkl");
        if (i == 3) {
            bson_int32(&q, "maxAwaitTimeMS", 5);
        }
        ask(p);
        CHECK(refused(MONGO_CODE_TYPE_MISMATCH));
    }
    unit_note = "topologyVersion, inside";
    begin("hello");
    bson_document(&q, "topologyVersion");
    bson_close(&q);
    bson_int32(&q, "maxAwaitTimeMS", 5);
    ask(p);
    CHECK(refused(MONGO_CODE_FAILED_TO_PARSE));
    begin("hello");
    bson_document(&q, "topologyVersion");
    bson_string(&q, "processId", "x");
    bson_int64(&q, "counter", 1);
    bson_close(&q);
    bson_string(&q, "maxAwaitTimeMS", "5");
    ask(p);
    CHECK(refused(MONGO_CODE_TYPE_MISMATCH));
}

static void put_metadata(void)
{
    bson_document(&q, "client");
    bson_document(&q, "driver");
    bson_string(&q, "name", "test");
    bson_close(&q);
    bson_close(&q);
}

static void test_refusals(void)
{
    struct pooled *p = &clients[0];

    unit_note = "metadata once";
    arrive(p);
    hello(p);
    CHECK(good());
    begin("hello");
    put_metadata();
    ask(p);
    CHECK(good());
    begin("hello");
    put_metadata();
    ask(p);
    CHECK(refused(MONGO_CODE_CLIENT_METADATA_FIXED));
    hello(p);
    CHECK(good());

    unit_note = "load balanced";
    begin("hello");
    bson_bool(&q, "loadBalanced", false);
    ask(p);
    CHECK(good());
    begin("hello");
    bson_bool(&q, "loadBalanced", true);
    ask(p);
    CHECK(refused(MONGO_CODE_LOAD_BALANCER_MISMATCH));
}

static void test_others(void)
{
    static const struct { const char *name; enum mongo_code code; } rows[] = {
        { "authenticate", MONGO_CODE_AUTHENTICATION_FAILED }, { "getnonce", MONGO_CODE_COMMAND_NOT_FOUND },
        { "getLastError", MONGO_CODE_COMMAND_NOT_FOUND }, { "getlasterror", MONGO_CODE_COMMAND_NOT_FOUND },
        { "saslContinue", MONGO_CODE_PROTOCOL_ERROR }, { "whatsmyuri", MONGO_CODE_UNAUTHORIZED },
    };
    struct pooled *p = &clients[0];

    arrive(p);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        unit_note = rows[i].name;
        begin(rows[i].name);
        ask(p);
        CHECK(refused(rows[i].code));
    }
    unit_note = "ping of one who has not logged in, logout, whatsmyuri";
    begin("ping");
    ask(p);
    CHECK(good());
    begin("logout");
    ask(p);
    CHECK(good());
    p->user = 0;
    begin("whatsmyuri");
    ask(p);
    CHECK(good() && text_is("you", "unix:/near"));
    wire_start(&p->asks, false);
    memcpy(p->asks.command, "ping", 5);
    CHECK(!greet_takes(p)); /* a mongos answers it */
    memcpy(p->asks.command, "find", 5);
    CHECK(!greet_takes(p));
    arrive(p);
}

/* Every byte of a hello changed: some answer, or it is no message. */
static void test_mutations(void)
{
    static unsigned char whole[1024];
    struct pooled *p = &clients[2];
    unsigned answers = 0;
    size_t n;

    unit_note = "every byte of a hello changed";
    begin("hello");
    put_version((const unsigned char *)"abcdefghijkl", 3);
    bson_int64(&q, "maxAwaitTimeMS", 1000);
    put_metadata();
    bson_document(&q, "speculativeAuthenticate");
    bson_int32(&q, "saslStart", 1);
    bson_string(&q, "mechanism", "SCRAM-SHA-256");
    bson_binary(&q, "payload", 0, "n,,n=anna,r=abcdefgh", 20);
    bson_document(&q, "options");
    bson_bool(&q, "skipEmptyExchange", true);
    n = mongomsg_finish(&q);
    if (!CHECK(n > 0 && n < sizeof whole)) {
        return;
    }
    memcpy(whole, request, n);
    for (size_t i = 4; i < n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            memcpy(request, whole, n);
            request[i] ^= (unsigned char)(1 << bit);
            arrive(p);
            answers += give(p, n);
        }
    }
    CHECK(answers > n);
    for (size_t i = WIRE_HEADER; i < n; i++) {
        memcpy(request, whole, n);
        bson_put32(request, (uint32_t)i);
        arrive(p);
        CHECK(!give(p, i));
    }
    arrive(p);
}

/* ---------------------------------------------------------------- logins */

static struct scram_client talker;
static char said[SCRAM_TEXT_MAX];
static size_t said_len;
static int64_t conversation;

static void first_of(const char *user)
{
    said_len = scram_client_first(&talker, SCRAM_SHA_256, user, strlen(user), (const unsigned char *)"eighteen random by", said, sizeof said);
    CHECK(said_len > 0);
}

static void put_start(const char *first, size_t n, bool skip)
{
    bson_string(&q, "mechanism", "SCRAM-SHA-256");
    bson_binary(&q, "payload", 0, first, n);
    if (skip) {
        bson_document(&q, "options");
        bson_bool(&q, "skipEmptyExchange", true);
        bson_close(&q);
    }
}

static void start(struct pooled *p, const char *first, size_t n, bool skip)
{
    begin("saslStart");
    put_start(first, n, skip);
    ask(p);
}

static void go_on(struct pooled *p, const char *payload, size_t n)
{
    begin("saslContinue");
    bson_int32(&q, "conversationId", (int32_t)conversation);
    bson_binary(&q, "payload", 0, payload, n);
    ask(p);
}

/* The payload at that path of the last answer. */
static const char *payload_of(const char *path, size_t *n)
{
    struct bson_element e;
    if (!CHECK(find(path, &e) && e.type == BSON_BINARY)) {
        *n = 0;
        return "";
    }
    *n = e.len - 5;
    return (const char *)e.value + 5;
}

/* The answer to that first message of the server, with this password, in said. */
static void final_of(const char *first, size_t n, const char *password)
{
    struct scram_salting salting;
    struct scram_client_keys keys;
    said_len = 0;
    if (!CHECK(scram_client_read(&talker, first, n) == NULL)) {
        return;
    }
    scram_salt_begin(&salting, SCRAM_SHA_256, password, strlen(password), talker.salt, talker.salt_len, talker.rounds);
    while (!scram_salt_step(&salting, 100000)) {
    }
    scram_client_keys(&keys, SCRAM_SHA_256, &salting);
    said_len = scram_client_final(&talker, &keys, said, sizeof said);
}

/* A login up to the final message, which is in said. */
static void prepare(struct pooled *p, const char *user, const char *password, bool skip)
{
    const char *first;
    size_t n;
    first_of(user);
    start(p, said, said_len, skip);
    CHECK(good() && number("done") == 0);
    conversation = number("conversationId");
    first = payload_of("payload", &n);
    final_of(first, n, password);
}

static void log_in(struct pooled *p, const char *user, const char *password, bool skip)
{
    prepare(p, user, password, skip);
    go_on(p, said, said_len);
}

static bool admitted(struct pooled *p, const char **text)
{
    enum mongo_code code;
    wire_start(&p->asks, false);
    memcpy(p->asks.command, "find", 5);
    return door_admits(p, &code, text);
}

static void test_login(void)
{
    struct pooled *p = &clients[0];
    const char *text, *last;
    size_t n;

    unit_note = "before a login";
    arrive(p);
    CHECK(!admitted(p, &text) && strcmp(text, "command find requires authentication") == 0);

    unit_note = "right, without the empty exchange";
    log_in(p, "anna", PASSWORD, true);
    CHECK(good() && number("done") == 1 && p->user == 0 && admitted(p, &text));
    last = payload_of("payload", &n);
    CHECK(scram_client_verify(&talker, last, n));

    unit_note = "logout";
    begin("logout");
    ask(p);
    CHECK(good() && p->user == DOOR_NOBODY && !admitted(p, &text));

    unit_note = "right, with it; a name that is escaped";
    log_in(p, "b=r,t", "other", false);
    CHECK(good() && number("done") == 0 && p->user == DOOR_NOBODY);
    go_on(p, "", 0);
    CHECK(good() && number("done") == 1 && p->user == 1);
    payload_of("payload", &n);
    CHECK(n == 0);

    unit_note = "that one is over";
    go_on(p, "", 0);
    CHECK(refused(MONGO_CODE_PROTOCOL_ERROR) && p->user == 1);
    CHECK(stats.auth_failures == 0 && p->greeting.talk == NULL);
}

static void test_wrong_logins(void)
{
    struct pooled *p = &clients[0];
    char text[256], nobody[256];

    unit_note = "wrong, and nobody: the same words";
    arrive(p);
    stats.auth_failures = 0;
    log_in(p, "anna", "wrong", true);
    CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED) && text_is("errmsg", "Authentication failed.") && p->user == DOOR_NOBODY);
    CHECK(stats.auth_failures == 1 && p->greeting.guesses == 1 && p->greeting.talk == NULL);
    log_in(p, "nobody", PASSWORD, true);
    CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED) && text_is("errmsg", "Authentication failed.") && stats.auth_failures == 2);

    unit_note = "nobody's salt is the same each time, and its rounds are those of users";
    arrive(p);
    prepare(p, "nobody", "x", true);
    CHECK(talker.rounds == 4096 && talker.salt_len == 16);
    memcpy(text, talker.salt, 16);
    arrive(p);
    prepare(p, "nobody", "x", true);
    memcpy(nobody, talker.salt, 16);
    CHECK(memcmp(text, nobody, 16) == 0);
    prepare(p, "nobodi", "x", true);
    CHECK(memcmp(text, talker.salt, 16) != 0);

    unit_note = "an exchange that should be empty";
    arrive(p);
    log_in(p, "anna", PASSWORD, false);
    CHECK(good());
    go_on(p, "x", 1);
    CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED) && p->user == DOOR_NOBODY);

    unit_note = "another conversation's number";
    arrive(p);
    prepare(p, "anna", PASSWORD, true);
    conversation++;
    go_on(p, said, said_len);
    CHECK(refused(MONGO_CODE_PROTOCOL_ERROR) && p->greeting.talk == NULL);
    conversation--;
    go_on(p, said, said_len);
    CHECK(refused(MONGO_CODE_PROTOCOL_ERROR) && p->user == DOOR_NOBODY);
}

static void test_starts(void)
{
    static const char *const mechanisms[] = { "SCRAM-SHA-1", "PLAIN", "MONGODB-X509", "scram-sha-256", "" };
    static char large[4096];
    struct pooled *p = &clients[0];

    arrive(p);
    stats.auth_failures = 0;
    for (size_t i = 0; i < sizeof mechanisms / sizeof *mechanisms; i++) {
        unit_note = mechanisms[i];
        begin("saslStart");
        bson_string(&q, "mechanism", mechanisms[i]);
        bson_binary(&q, "payload", 0, "x", 1);
        ask(p);
        CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED));
    }
    unit_note = "what is none";
    begin("saslStart");
    ask(p);
    CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED));
    begin("saslStart");
    bson_string(&q, "mechanism", "SCRAM-SHA-256");
    bson_string(&q, "payload", "n,,n=anna,r=abcdefgh");
    ask(p);
    CHECK(refused(MONGO_CODE_TYPE_MISMATCH) && stats.auth_failures == 0);
    memset(large, 'a', sizeof large);
    memcpy(large, "n,,n=", 5);
    start(p, large, sizeof large, true);
    CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED) && stats.auth_failures == 1);
    start(p, "", 0, true);
    CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED) && stats.auth_failures == 2);
    begin_flags("saslStart", WIRE_MORE_TO_COME);
    put_start("n,,n=anna,r=abcdefgh", 20, true);
    ask(p);
    CHECK(out_len > 0 && p->greeting.talk == NULL);

    unit_note = "a second start begins anew";
    arrive(p);
    prepare(p, "anna", "wrong", true);
    log_in(p, "anna", PASSWORD, true);
    CHECK(good() && p->user == 0);

    unit_note = "a final message that is too long";
    arrive(p);
    prepare(p, "anna", PASSWORD, true);
    go_on(p, large, sizeof large);
    CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED));
}

static void test_truncated(void)
{
    struct pooled *p = &clients[0];
    char whole[SCRAM_TEXT_MAX];
    size_t n, taken = 0;

    unit_note = "every truncation of the first message";
    first_of("anna");
    n = said_len;
    memcpy(whole, said, n);
    for (size_t i = 0; i < n; i++) {
        arrive(p);
        start(p, whole, i, true);
        taken += good(); /* a shorter nonce is a nonce */
        CHECK(good() || refused(MONGO_CODE_AUTHENTICATION_FAILED));
    }
    CHECK(taken < 24);
    unit_note = "every truncation of the final message";
    for (size_t i = 0;; i++) {
        arrive(p);
        prepare(p, "anna", PASSWORD, true);
        if (i == said_len) {
            break;
        }
        go_on(p, said, i);
        CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED) && p->user == DOOR_NOBODY);
    }
    unit_note = "a recorded login";
    memcpy(whole, said, said_len);
    go_on(p, said, said_len);
    CHECK(good() && p->user == 0);
    n = said_len;
    arrive(p);
    prepare(p, "anna", "does not matter", true);
    go_on(p, whole, n);
    CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED) && p->user == DOOR_NOBODY);
}

static void test_speculative(void)
{
    struct pooled *p = &clients[0];
    const char *first;
    size_t n;

    unit_note = "a login that begins in hello";
    arrive(p);
    first_of("anna");
    begin("hello");
    bson_document(&q, "speculativeAuthenticate");
    bson_int32(&q, "saslStart", 1);
    put_start(said, said_len, true);
    bson_string(&q, "db", "admin");
    bson_close(&q);
    ask(p);
    CHECK(good() && number("speculativeAuthenticate.done") == 0);
    conversation = number("speculativeAuthenticate.conversationId");
    first = payload_of("speculativeAuthenticate.payload", &n);
    final_of(first, n, PASSWORD);
    go_on(p, said, said_len);
    CHECK(good() && p->user == 0);

    unit_note = "what cannot be done is left out";
    for (int i = 0; i < 4; i++) {
        arrive(p);
        begin("hello");
        if (i == 0) {
            bson_string(&q, "speculativeAuthenticate", "x");
        } else {
            bson_document(&q, "speculativeAuthenticate");
            bson_string(&q, "mechanism", i == 1 ? "MONGODB-X509" : "SCRAM-SHA-256");
            bson_binary(&q, "payload", i == 2 ? 0 : 4, i == 2 ? "n,,n=" : "", i == 2 ? 5 : 0);
            bson_close(&q);
        }
        ask(p);
        CHECK(good() && !has("speculativeAuthenticate") && p->greeting.talk == NULL);
    }
}

static void test_guesses(void)
{
    struct pooled *p = &clients[0], *other = &clients[1], *far = &clients[2];
    uint64_t delayed = stats.auth_delayed;
    char large[600] = "n,,n=anna,r=";

    memset(large + 12, 'a', sizeof large - 12);
    unit_note = "the fourth guess from an address waits before it is looked at";
    from(p, "10.0.0.1:1");
    from(other, "10.0.0.1:2");
    from(far, "10.0.0.2:1");
    for (int i = 0; i < 3; i++) {
        arrive(p);
        log_in(p, "anna", "wrong", true);
        CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED));
    }
    arrive(other);
    first_of("anna");
    start(other, said, said_len, true);
    CHECK(out_len == WAITED && other->until_ms == loop_ms() + 50 && stats.auth_delayed == delayed + 1);
    CHECK(again(other) == WAITED);

    unit_note = "a hello there does not wait, but begins no login";
    arrive(p);
    begin("hello");
    bson_document(&q, "speculativeAuthenticate");
    put_start(said, said_len, true);
    bson_close(&q);
    ask(p);
    CHECK(good() && !has("speculativeAuthenticate"));

    unit_note = "nor does anybody from elsewhere";
    arrive(far);
    log_in(far, "anna", PASSWORD, true);
    CHECK(good() && far->user == 0);

    unit_note = "then it goes on as if it came now";
    pass_time(49);
    CHECK(again(other) == WAITED);
    pass_time(1);
    last_id = other->greeting.asked.request_id;
    CHECK(again(other) > 0 && good() && has("payload") && !other->greeting.waits);

    unit_note = "what is too long to wait does not";
    arrive(other);
    start(other, large, sizeof large, true);
    CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED) && other->greeting.talk == NULL);

    unit_note = "one that leaves while it waits leaves nothing";
    arrive(p);
    first_of("anna");
    start(p, said, said_len, true);
    CHECK(out_len == WAITED && p->greeting.talk != NULL);
    greet_leave(p);
    CHECK(p->greeting.talk == NULL);
    greet_leave(other);

    unit_note = "after a minute all is forgotten";
    pass_time(60000);
    arrive(p);
    log_in(p, "anna", PASSWORD, true);
    CHECK(good() && p->user == 0);
    arrive(p);
    arrive(other);
}

static void test_protected(void)
{
    struct pooled *p = &clients[0];
    const char *text;
    uint64_t denied = stats.clients_denied;

    section->user_count = 0;
    unit_note = "no users, no login of our own: anybody";
    from(p, "10.0.0.1:1");
    arrive(p);
    CHECK(admitted(p, &text));
    start(p, "n,,n=anna,r=abcdefgh", 20, true);
    CHECK(refused(MONGO_CODE_AUTHENTICATION_FAILED));
    begin("hello");
    bson_string(&q, "saslSupportedMechs", "admin.anna");
    ask(p);
    CHECK(good() && !has("saslSupportedMechs"));

    unit_note = "with a login of our own: this machine";
    memcpy(section->upstream_user, "puerta", 7);
    arrive(p);
    CHECK(!admitted(p, &text) && strstr(text, "protected = no") != NULL && stats.clients_denied == denied + 1);
    hello(p);
    CHECK(good());
    from(p, "127.0.0.1:1");
    arrive(p);
    CHECK(admitted(p, &text));
    from(p, "10.0.0.1:1");
    section->protect = 0;
    arrive(p);
    CHECK(admitted(p, &text));
    section->protect = 1;
    section->upstream_user[0] = '\0';
    section->user_count = 2;
}

static void test_stop(void)
{
    struct pooled *p = &clients[0];
    unsigned char process[12];
    int64_t version;

    memset(process, 0, sizeof process);
    arrive(p);
    hello(p);
    process_of(process);
    version = number("topologyVersion.counter");
    unit_note = "the end is told at once to those who wait, and to all others";
    await(p, process, version, 1000);
    CHECK(out_len == WAITED && greet_version(&service) == (uint32_t)version);
    mongo_stopping = true;
    CHECK(greet_version(&service) == (uint32_t)version + 1 && again(p) > 0 && refused(MONGO_CODE_SHUTDOWN_IN_PROGRESS));
    CHECK(number("topologyVersion.counter") == version + 1 && number("remainingQuiesceTimeMillis") > 0);
    await(p, process, version + 1, 1000);
    CHECK(refused(MONGO_CODE_SHUTDOWN_IN_PROGRESS) && greet_version(&service) == (uint32_t)version + 1);
    hello(p);
    CHECK(refused(MONGO_CODE_SHUTDOWN_IN_PROGRESS));
}

int main(void)
{
    boot();
    test_early();
    test_forms();
    test_checksum();
    test_minimum();
    test_await();
    test_stream();
    test_wrong_types();
    test_refusals();
    test_others();
    test_mutations();
    test_login();
    test_wrong_logins();
    test_starts();
    test_truncated();
    test_speculative();
    test_guesses();
    test_protected();
    test_stop();
    return unit_end();
}
