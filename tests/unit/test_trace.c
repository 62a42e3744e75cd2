/*
 * test_trace.c - what the slow log tells of a request, whatever it is and however its bytes are cut into chunks; the ring; which
 * requests are sampled, how the counts fade; in which bucket a latency falls.
 *
 *     words --> the request's bytes in chunks of 64 --trace_describe()--> name and first key, and nothing else
 */
#include "redis.h"
#include "trace.h"
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 64
#define CHUNKS 4096

extern uint64_t loop_mock_us;

static struct conf conf;
static struct service service;
static struct client client;
static struct conn conn;
static struct req req;
static struct trace_entry entry;

static void boot(void)
{
    conf.chunk_size = CHUNK, conf.chunks = CHUNKS, conf.max_backends = 4, conf.slow_log = 4, conf.hot_keys = 8;
    conf.slow_log_min_ms = 10;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0) {
            arena_measure();
        } else if (!CHECK(arena_obtain(false))) {
            exit(unit_end());
        }
        loop_tables(&conf), buf_tables(&conf), stats_tables(&conf), trace_tables(&conf);
    }
    loop_mock_us = 1000000000;
    loop_open();
    buf_open();
    command_init();
    trace_open(&conf);
    service.conf = &conf.services[0];
    client.conn = &conn;
    conn.peer.len = 7;
    req.client = &client;
    req.service = &service;
}

static bool put(const void *p, size_t n)
{
    return CHECK(slice_extend(&req.bytes, BUF_REPLY, p, n));
}

static void put_request(const char *const *words)
{
    unsigned char head[24];
    int64_t count = 0;
    while (words[count] != NULL) {
        count++;
    }
    put(head, resp_put_header(head, '*', count));
    for (; *words != NULL; words++) {
        put(head, resp_put_header(head, '$', (int64_t)strlen(*words)));
        put(*words, strlen(*words));
        put("\r\n", 2);
    }
}

/* The row that redis.c would find, or one that is in no table. */
static const struct command *row_of(const char *const *words)
{
    static const struct command unknown = { .name = "unknown", .keys = KEYS_FIRST, .route = ROUTE_SLOT };
    const struct command *k = command_find((const unsigned char *)words[0], strlen(words[0])), *sub = NULL;
    if (k != NULL && (k->flags & CMD_CONTAINER) != 0 && words[1] != NULL) {
        sub = command_sub(k, (const unsigned char *)words[1], strlen(words[1]));
    }
    return sub != NULL ? sub : k != NULL ? k : &unknown;
}

static bool told(const char *name, const char *key)
{
    size_t n = key != NULL ? strlen(key) : 0;
    return CHECK(strcmp(entry.command, name) == 0) && CHECK(entry.key_len == (n < TRACE_KEY ? n : TRACE_KEY)) &&
           CHECK(n == 0 || memcmp(entry.key, key, entry.key_len) == 0);
}

static void check_request(const char *const *words, const char *name, const char *key)
{
    unit_note = words[0];
    slice_release(&req.bytes);
    req.flags = 0;
    req.command = row_of(words);
    put_request(words);
    memset(&entry, 0xA5, sizeof entry);
    if (CHECK(trace_describe(&entry, &req, NULL))) {
        told(name, key);
        CHECK(entry.backend[0] == '\0' && entry.section == service.conf && entry.client.len == 7 && entry.all_us == 0);
    }
}

#define WORDS(...) (const char *const[]){ __VA_ARGS__, NULL }

static void test_keys(void)
{
    static char long_key[300];
    memset(long_key, 'k', sizeof long_key - 1);
    check_request(WORDS("GET", "a"), "get", "a");
    check_request(WORDS("set", "a key that goes over the end of a chunk, wherever it begins in it", "secret"), "set",
                  "a key that goes over the end of a chunk, wherever it begins in it");
    check_request(WORDS("SET", long_key, "secret"), "set", long_key);
    check_request(WORDS("MSET", "a", "secret", "b", "secret"), "mset", "a");
    check_request(WORDS("BITOP", "AND", "dest", "src"), "bitop", "dest");
    check_request(WORDS("OBJECT", "ENCODING", "a"), "object|encoding", "a");
    check_request(WORDS("XGROUP", "CREATE", "s", "g", "$"), "xgroup|create", "s");
    check_request(WORDS("EVAL", "return 'secret'", "2", "k1", "k2", "secret"), "eval", "k1");
    check_request(WORDS("EVAL", "return 'secret'", "0", "secret"), "eval", NULL);
    check_request(WORDS("EVAL", "return 'secret'", "-1", "secret"), "eval", NULL);
    check_request(WORDS("EVAL", "return 'secret'", "", "secret"), "eval", NULL);
    check_request(WORDS("FCALL", "f", "1", "k1"), "fcall", "k1");
    check_request(WORDS("LMPOP", "2", "l1", "l2", "LEFT"), "lmpop", "l1");
    check_request(WORDS("ZUNIONSTORE", "d", "2", "a", "b"), "zunionstore", "d");
    check_request(WORDS("XREAD", "COUNT", "2", "StReAmS", "s1", "s2", "0", "0"), "xread", "s1");
    check_request(WORDS("XREADGROUP", "GROUP", "streams", "c", "STREAMS", "s1", ">"), "xreadgroup", "s1"); /* a group of that name */
    check_request(WORDS("XREAD", "COUNT", "2"), "xread", NULL);
    check_request(WORDS("MIGRATE", "host", "1", "a", "0", "9", "AUTH", "secret"), "migrate", "a");
    check_request(WORDS("MIGRATE", "host", "1", "", "0", "9", "AUTH", "secret", "KEYS", "a"), "migrate", NULL);
    check_request(WORDS("GET"), "get", NULL);
}

static void test_no_keys(void)
{
    check_request(WORDS("AUTH", "secret"), "auth", NULL);
    check_request(WORDS("HELLO", "3", "AUTH", "u", "secret"), "hello", NULL);
    check_request(WORDS("CONFIG", "SET", "requirepass", "secret"), "config|set", NULL);
    check_request(WORDS("ACL", "SETUSER", "u", ">secret"), "acl|setuser", NULL);
    check_request(WORDS("PUBLISH", "channel", "secret"), "publish", NULL);
    check_request(WORDS("SPUBLISH", "channel", "secret"), "spublish", NULL);
    check_request(WORDS("SCRIPT", "LOAD", "secret"), "script|load", NULL);
    check_request(WORDS("AUHT", "secret"), "AUHT", NULL); /* nobody knows what is a key there */
    check_request(WORDS("a.command.with.a.very.long.name.indeed", "secret"), "a.command.with.a.very.long.name", NULL);
}

static void test_transaction(void)
{
    unit_note = "a transaction";
    slice_release(&req.bytes);
    req.command = row_of(WORDS("EXEC"));
    req.flags = REQ_MULTI;
    put_request(WORDS("MULTI"));
    put_request(WORDS("OBJECT", "FREQ", "first"));
    put_request(WORDS("SET", "second", "secret"));
    put_request(WORDS("EXEC"));
    CHECK(trace_describe(&entry, &req, NULL));
    told("exec", "first");
}

/* Bytes that are no request, or are not kept: the name alone. */
static void test_odd_bytes(void)
{
    static const char *const odd[] = { "", "*", "*3\r\n", "*3\r\n$", "*2\r\n$3\r\nGET\r\n$9999999999\r\na\r\n", "*2\r\n$3\r\nGET\r\n$5\r\nab",
                                       "*2\r\n$4294967295\r\nGET\r\n", "GET a\r\n", "*0\r\n", "*-1\r\n", "*2\r\n$3\r\nGET\r\n:1\r\n" };
    req.flags = 0;
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        unit_note = odd[i];
        slice_release(&req.bytes);
        req.command = row_of(WORDS("GET"));
        put(odd[i], strlen(odd[i]));
        CHECK(trace_describe(&entry, &req, NULL));
        told("get", NULL);
    }
}

static void test_not_told(void)
{
    unit_note = "no client's, or takes its time";
    slice_release(&req.bytes);
    req.command = row_of(WORDS("WAIT"));
    CHECK(!trace_describe(&entry, &req, NULL));
    req.command = row_of(WORDS("GET"));
    req.flags = REQ_BLOCKS;
    CHECK(!trace_describe(&entry, &req, NULL));
    req.flags = 0;
    client.large = &req;
    CHECK(!trace_describe(&entry, &req, NULL));
    client.large = NULL;
    req.client = NULL;
    CHECK(!trace_describe(&entry, &req, NULL));
    req.client = &client;
    req.command = row_of(WORDS("XREAD"));
    CHECK(trace_describe(&entry, &req, NULL)); /* without BLOCK it is like any other */
}

static void advance(uint32_t ms)
{
    loop_mock_us += ms * UINT64_C(1000);
    loop_turn(true);
}

static void test_ring(void)
{
    struct trace_entry e;
    memset(&e, 0, sizeof e);
    unit_note = "the ring";
    CHECK(trace_slow(0) == NULL);
    CHECK(!trace_done(9999) && trace_done(10000));
    for (uint32_t i = 1; i <= 11; i++) {
        e.queued_us = i;
        e.sent_us = 100;
        e.answered_us = 1000;
        trace_slow_add(&e);
        CHECK(trace_slow_count() == (i < 4 ? i : 4) && trace_slow(trace_slow_count()) == NULL);
        for (uint32_t k = 0; k < trace_slow_count(); k++) {
            CHECK(trace_slow(k)->number == i - k && trace_slow(k)->all_us == 1100 + i - k && trace_slow(k)->when_ms > 1500000000000);
        }
    }
    trace_slow_reset();
    CHECK(trace_slow(0) == NULL && trace_slow_count() == 0);
    trace_slow_add(&e);
    CHECK(trace_slow(0)->number == 12 && trace_slow(1) == NULL);
    trace_slow_min(0);
    CHECK(!trace_done(UINT32_MAX - 1));
    trace_slow_min(1);
    CHECK(trace_done(1000) && !trace_done(999));
}

/* So many of a second are written down; the others are counted, and leave a gap between the numbers. */
static void test_room(void)
{
    uint64_t slow, passed_over;
    struct trace_entry e;
    unit_note = "room";
    memset(&e, 0, sizeof e);
    trace_slow_reset();
    advance(1000);
    slow = stats.slow_requests, passed_over = stats.slow_passed_over;
    req.command = command_find((const unsigned char *)"get", 3);
    for (uint32_t i = 0; i < TRACE_SLOW_RATE; i++) {
        CHECK(trace_slow_room());
        if (i % 2 == 0) {
            trace_slow_add(&e);
        } else {
            trace_whole(&req, NULL, trace_stamp() - 7, 0);
            CHECK(trace_slow(0)->all_us == 7 && trace_slow(0)->number == stats.slow_requests);
        }
    }
    CHECK(!trace_slow_room() && stats.slow_passed_over == passed_over);
    trace_whole(&req, NULL, trace_stamp() - 7, 0);
    trace_slow_pass();
    trace_slow_add(&e); /* described while there was room: it is not lost */
    CHECK(!trace_slow_room() && stats.slow_requests == slow + TRACE_SLOW_RATE + 3 && stats.slow_passed_over == passed_over + 2);
    CHECK(trace_slow(0)->number == slow + TRACE_SLOW_RATE + 3 && trace_slow(1)->number == slow + TRACE_SLOW_RATE);
    for (uint32_t i = 0; i <= 3; i++) { /* from anywhere in the gap, and its end, what stands before it follows */
        CHECK(trace_slow_below(slow + TRACE_SLOW_RATE + 1 + (i < 3 ? i : 2)) == trace_slow(1));
        CHECK(trace_slow_below(trace_slow(i)->number) == trace_slow(i + 1));
    }
    CHECK(trace_slow_below(UINT64_MAX) == trace_slow(0) && trace_slow_below(0) == NULL);
    req.flags |= REQ_BLOCKS; /* which is not slow, and so not counted */
    trace_whole(&req, NULL, trace_stamp() - 7, 0);
    req.flags &= ~REQ_BLOCKS;
    CHECK(stats.slow_requests == slow + TRACE_SLOW_RATE + 3);
    advance(999);
    CHECK(!trace_slow_room());
    advance(1);
    CHECK(trace_slow_room());
    req.command = NULL;
}

static void test_sampling(void)
{
    struct trace_hot hot;
    unsigned long sampled = 0;
    unit_note = "sampling";
    for (int i = 0; i < 10000 * TRACE_SAMPLE; i++) {
        if (trace_due() && CHECK(trace_sample())) {
            sampled++;
            trace_key(i % 2 == 0 ? "even" : "odd", i % 2 == 0 ? 4 : 3, (uint16_t)(i % 2));
        }
    }
    CHECK(sampled > 9500 && sampled < 10500);
    for (uint32_t i = 0; i < 2; i++) {
        if (CHECK(trace_hot_key(i, &hot))) {
            CHECK(hot.count > 4500 * TRACE_SAMPLE && hot.count < 5500 * TRACE_SAMPLE && hot.error == 0 && hot.slot == (hot.len == 3));
        }
        CHECK(trace_hot_slot(i, &hot) && hot.key == NULL && hot.slot < 2 && hot.count > 4500 * TRACE_SAMPLE);
    }
    CHECK(!trace_hot_key(2, &hot) && !trace_hot_slot(2, &hot));
}

static void test_fading(void)
{
    struct trace_hot hot;
    uint64_t before;
    unit_note = "fading";
    CHECK(trace_hot_key(0, &hot));
    before = hot.count;
    advance(59000);
    CHECK(trace_hot_key(0, &hot) && hot.count == before);
    advance(2000);
    CHECK(trace_hot_key(0, &hot) && hot.count == before / 2);
    advance(180000);
    CHECK(trace_hot_key(0, &hot) && hot.count == before / 16);
    advance(100 * 60000);
    CHECK(!trace_hot_key(0, &hot) && !trace_hot_slot(0, &hot));
    trace_key("new", 3, 5);
    CHECK(trace_hot_key(0, &hot) && hot.count == TRACE_SAMPLE && hot.len == 3);
    advance(59000); /* whatever has gone by unlooked at counts no more */
    CHECK(trace_hot_key(0, &hot) && hot.count == TRACE_SAMPLE);
}

static void test_latency(void)
{
    const struct latency *l = latency_of(3);
    uint64_t sum = 0, all = 0;
    unit_note = "latency";
    for (unsigned bucket = 0; bucket < LATENCY_BUCKETS; bucket++) {
        uint64_t edge = (uint64_t)64 << bucket, most = bucket == LATENCY_BUCKETS - 1 ? UINT32_MAX : edge;
        uint64_t least = bucket == 0 ? 0 : edge / 2 + 1;
        stats_latency(3, least);
        stats_latency(3, most);
        stats_latency(3, (least + most) / 2);
        CHECK(l->count[bucket] == 3);
        sum += least + most + (least + most) / 2;
        all += 3;
        CHECK(l->sum_us == sum && latency_answers(l) == all);
    }
    CHECK(latency_percentile(l, 100) == (uint64_t)64 << 17 && latency_percentile(l, 1) == 64);
    CHECK(latency_answers(latency_of(2)) == 0);
    latency_forget(3);
    CHECK(latency_answers(l) == 0 && l->sum_us == 0 && latency_percentile(l, 50) == 0);
}

int main(void)
{
    boot();
    test_keys();
    test_no_keys();
    test_transaction();
    test_odd_bytes();
    test_not_told();
    test_ring();
    test_sampling();
    test_fading();
    test_room();
    test_latency();
    return unit_end();
}
