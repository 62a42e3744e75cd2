/*
 * test_mongo_route.c - mongo_route.c: how long it remembers what lives where, on a clock of the test's own.
 *
 *     the test: requests as they are walked --> mongo_route(), route_sent(), route_answered()
 *     time: loop_mock_us
 *
 * Where each message goes, before mongos that check it, is in tests/test_mongo_pooled.py.
 */
#include <mongo.h> /* the room's, not the test tool of that name beside this file */
#include "trace.h"
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#define TABLE 64

extern uint64_t loop_mock_us;

static struct conf conf;
static struct conf_service *const section = &conf.services[0];
static struct service service;
static struct backend *node[2];

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

static void boot(void)
{
    static char *args[] = { "127.0.0.1:1,127.0.0.1:2", "mode=pooled" };
    if (!CHECK(conf_quick(&conf, SERVICE_MONGO, 2, args))) {
        exit(unit_end());
    }
    conf.max_clients = 3, conf.max_backends = 4, conf.max_affinities = TABLE;
    log_threshold = LOG_ERROR;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0) {
            arena_measure();
        } else if (!CHECK(arena_obtain(false))) {
            exit(unit_end());
        }
        loop_tables(&conf), buf_tables(&conf), conn_tables(&conf), stats_tables(&conf), trace_tables(&conf);
        health_tables(&conf), mongo_health_tables(&conf);
        mongo_choose_tables(&conf), route_tables(&conf);
    }
    loop_mock_us = 1000000000;
    loop_open(), buf_open(), conn_open_table();
    service.conf = section, service.ops = &ops;
    mongo_choose_open(0, section), route_open(0, section);
    for (int i = 0; i < 2; i++) {
        node[i] = backend_get(&service, "127.0.0.1", (uint16_t)(i + 1), NULL);
        loop_timer_stop(&node[i]->timer); /* it is not dialled */
        node[i]->state = BACKEND_UP;
        mongos_changed(node[i]);
    }
}

/* A message of a session with that number, walked. */
static struct wire walked(const char *command, uint32_t session, bool transaction, bool starts)
{
    unsigned char msg[512], id[16] = { 0 };
    enum wire_status status;
    struct wire w;
    struct bson b;
    memcpy(id, &session, sizeof session);
    mongomsg_begin(&b, msg, sizeof msg, WIRE_OP_MSG, 0, 1, 0);
    bson_int32(&b, command, 1);
    bson_document(&b, "lsid");
    bson_binary(&b, "id", 4, id, sizeof id);
    bson_close(&b);
    if (transaction) {
        bson_int64(&b, "txnNumber", 1);
        bson_bool(&b, "autocommit", false);
    }
    if (starts) {
        bson_bool(&b, "startTransaction", true);
    }
    bson_string(&b, "$db", "test");
    size_t n = mongomsg_finish(&b);
    wire_start(&w, false);
    CHECK(wire_feed(&w, msg, n, &status) == n);
    CHECK(status == WIRE_WHOLE);
    return w;
}

static struct wire answered(void)
{
    unsigned char msg[512];
    enum wire_status status;
    struct wire_header asked = { 16, 1, 0, WIRE_OP_MSG };
    struct wire w;
    struct bson b;
    mongomsg_begin_answer(&b, msg, sizeof msg, &asked, 2);
    bson_double(&b, "ok", 1.0);
    size_t n = mongomsg_finish(&b);
    wire_start(&w, true);
    CHECK(wire_feed(&w, msg, n, &status) == n);
    return w;
}

static bool fits(const struct backend *b)
{
    (void)b;
    return true;
}

/* The one where that session would not go by itself: what begins there is found there only by its note. */
static struct backend *stranger_to(const struct wire *w)
{
    struct routed r;
    CHECK(mongo_route(0, &service, w, NULL, &r) == ROUTE_GO);
    return r.backend == node[0] ? node[1] : node[0];
}

static void test_long_statement(void)
{
    struct wire begin = walked("insert", 1, true, true), more = walked("insert", 1, true, false), ok = answered();
    struct backend *there = stranger_to(&begin);
    struct routed r;
    CHECK(route_sent(0, &begin, there));
    pass_time(200000); /* the statement takes this long: servers may be told to let transactions live for longer than a minute */
    route_answered(0, &begin, &ok, there);
    pass_time(60000);
    CHECK(mongo_route(0, &service, &more, NULL, &r) == ROUTE_GO);
    CHECK(r.backend == there && r.pinned);
    pass_time(80000);
    CHECK(mongo_route(0, &service, &more, NULL, &r) == ROUTE_GO);
    CHECK(!r.pinned);
}

/* What is over does not count: when the table has been full once, new transactions may go elsewhere again. */
static void test_full_once(void)
{
    struct wire last = walked("insert", 1000, true, true);
    for (uint32_t i = 0; i < TABLE; i++) {
        struct wire w = walked("insert", 2000 + i, true, true);
        CHECK(route_sent(0, &w, node[0]));
    }
    CHECK(route_elsewhere(0, &service, &last, fits) == NULL);
    pass_time(100000);
    for (int i = 0; i < TABLE; i++) {
        route_elsewhere(0, &service, &last, fits);
    }
    CHECK(route_elsewhere(0, &service, &last, fits) != NULL);
}

int main(void)
{
    boot();
    test_long_statement();
    test_full_once();
    return unit_end();
}
