/* bench_mongowire.c - what walking MongoDB messages costs: CPU nanoseconds a message, whole in the buffer and cut, and
 * what affinity_find() and affinity_choose() cost.
 *
 *   one buffer of copies of a message --many rounds--> ns a message, best of 5
 *
 * By hand: cc -O2 -std=c99 -D_POSIX_C_SOURCE=200809L -I. -o /tmp/bench_mongowire tests/bench/bench_mongowire.c \
 *          mongowire.c mongomsg.c bson.c affinity.c text.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "affinity.h"
#include "mongomsg.h"

#define BUFFER 16384
#define ROUNDS 5
#define MESSAGES 400000UL

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Walks the buffer in pieces of `cut` bytes; gives the number of messages. */
static unsigned long walk(const unsigned char *p, size_t n, size_t cut, bool reply)
{
    enum wire_status status;
    unsigned long whole = 0;
    struct wire w;
    size_t i = 0;

    wire_start(&w, reply);
    while (i < n) {
        size_t piece = cut - i % cut < n - i ? cut - i % cut : n - i;

        i += wire_feed(&w, p + i, piece, &status);
        if (status == WIRE_BAD)
            abort();
        if (status == WIRE_WHOLE) {
            whole++;
            wire_start(&w, reply);
        }
    }
    return whole;
}

static void measure(const char *name, const unsigned char *msg, size_t n, size_t cut, bool reply)
{
    static unsigned char buffer[BUFFER];
    double best = 1e18;
    size_t len = 0;
    int round;

    for (; len + n <= sizeof buffer; len += n)
        memcpy(buffer + len, msg, n);
    for (round = 0; round < ROUNDS; round++) {
        unsigned long done = 0;
        double begun = now_ns(), took;

        while (done < MESSAGES)
            done += walk(buffer, len, cut, reply);
        took = (now_ns() - begun) / (double)done;
        best = took < best ? took : best;
    }
    printf("%-30s %4zu bytes, pieces of %5zu: %7.1f ns\n", name, n, cut, best);
}

/* A find as drivers send it: about 300 bytes. */
static size_t find_request(unsigned char *out, size_t cap)
{
    struct bson b;

    mongomsg_begin(&b, out, cap, WIRE_OP_MSG, 0, 1, 0);
    bson_string(&b, "find", "things");
    bson_document(&b, "filter");
    bson_string(&b, "customer", "0123456789abcdef");
    bson_document(&b, "age");
    bson_int32(&b, "$gt", 30);
    bson_close(&b);
    bson_close(&b);
    bson_document(&b, "projection");
    bson_int32(&b, "name", 1);
    bson_close(&b);
    bson_int32(&b, "limit", 10);
    bson_bool(&b, "singleBatch", true);
    bson_document(&b, "lsid");
    bson_binary(&b, "id", 4, "0123456789abcdef", 16);
    bson_close(&b);
    bson_document(&b, "$clusterTime");
    bson_int64(&b, "clusterTime", 1);
    bson_document(&b, "signature");
    bson_binary(&b, "hash", 0, "0123456789abcdef0123", 20);
    bson_int64(&b, "keyId", 2);
    bson_close(&b);
    bson_close(&b);
    bson_string(&b, "$db", "test");
    bson_document(&b, "$readPreference");
    bson_string(&b, "mode", "primaryPreferred");
    bson_close(&b);
    return mongomsg_finish(&b);
}

static size_t find_reply(unsigned char *out, size_t cap)
{
    struct bson b;
    int i;

    mongomsg_begin(&b, out, cap, WIRE_OP_MSG, 0, 1, 1);
    bson_document(&b, "cursor");
    bson_array(&b, "firstBatch");
    for (i = 0; i < 10; i++) {
        bson_document(&b, NULL);
        bson_int32(&b, "_id", i);
        bson_string(&b, "name", "somebody of that name");
        bson_close(&b);
    }
    bson_close(&b);
    bson_int64(&b, "id", 0);
    bson_string(&b, "ns", "test.things");
    bson_close(&b);
    bson_double(&b, "ok", 1);
    return mongomsg_finish(&b);
}

static void measure_affinity(void)
{
    static struct affinity_entry entries[70000];
    static const struct affinity_config config = {{60000, 1, 1, 1}, {60000, 1, 1, 1}, {1, 2}};
    struct affinity_choice list[3] = {{1, 1, 0}, {2, 1, 1}, {3, 1, 2}};
    struct affinity a;
    uint64_t key[3] = {0};
    unsigned long sum = 0;
    double begun;

    affinity_init(&a, &config, entries);
    for (key[0] = 0; key[0] < 60000; key[0]++)
        affinity_add(&a, AFFINITY_CURSOR, key, sizeof key, 1, 0);
    begun = now_ns();
    for (key[0] = 0; key[0] < 60000; key[0]++)
        sum += affinity_find(&a, AFFINITY_CURSOR, key, sizeof key, 0, true)->backend;
    printf("%-30s %.1f ns\n", "affinity_find, 60,000 cursors", (now_ns() - begun) / (double)sum);
    begun = now_ns();
    for (key[0] = 0; key[0] < 60000; key[0]++)
        sum += affinity_choose(key, 16, list, 3);
    printf("%-30s %.1f ns\n", "affinity_choose, 3 backends", (now_ns() - begun) / 60000);
    if (sum == 0)
        abort();
}

int main(void)
{
    static const size_t cuts[] = {BUFFER, 1024, 100, 1};
    unsigned char request[1024], reply[2048];
    const size_t request_len = find_request(request, sizeof request), reply_len = find_reply(reply, sizeof reply);
    size_t i;

    for (i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        measure("find, request", request, request_len, cuts[i], false);
        measure("find, reply of 10", reply, reply_len, cuts[i], true);
    }
    measure_affinity();
    return 0;
}
