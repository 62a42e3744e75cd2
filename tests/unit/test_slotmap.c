/* test_slotmap.c - slots of keys, the map, CLUSTER SLOTS replies cut at every place, and redirections.
 *
 *   reply --whole, two pieces at every byte, byte by byte--> outcome as one text == the expected text
 *         each piece lies at the end of a page; the next page may not be read
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "slotmap.h"
#include "unit.h"

#define PAGES 4 /* of readable memory before the guard */
#define NODE_CAP 4
#define TEXT_CAP 1024

#define BYTES(text) text, sizeof text - 1
#define X10 "aaaaaaaaaa"
#define X50 X10 X10 X10 X10 X10
#define X250 X50 X50 X50 X50 X50

static unsigned char *guard; /* the first byte that may not be read */

static void guard_map(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *map = mmap(NULL, (PAGES + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED || mprotect(map + PAGES * page, page, PROT_NONE) < 0) {
        perror("mmap");
        exit(1);
    }
    guard = map + PAGES * page;
}

/* The bytes moved up to the guard. */
static const unsigned char *guarded(const char *p, size_t n)
{
    return memcpy(guard - n, p, n);
}

/* -------------------------------------------------- slots */

/* The checksum by its definition, bit by bit. */
static uint16_t slot_by_definition(const char *p, size_t n)
{
    unsigned crc = 0, bit;
    size_t i;

    for (i = 0; i < n; i++) {
        crc ^= (unsigned)(unsigned char)p[i] << 8;
        for (bit = 0; bit < 8; bit++)
            crc = (crc & 0x8000) ? ((crc << 1) ^ 0x1021) & 0xFFFF : crc << 1;
    }
    return (uint16_t)(crc % SLOTMAP_SLOTS);
}

static uint16_t slot(const char *key)
{
    return slotmap_slot(guarded(key, strlen(key)), strlen(key));
}

static void test_slots(void)
{
    char noise[80];
    size_t i, n;

    unit_note = "slots";
    CHECK(slot("foo") == 12182);
    CHECK(slot("bar") == 5061);
    CHECK(slot("hello") == 866);
    CHECK(slot("123456789") == 12739);
    CHECK(slot("") == 0);
    CHECK(slot("{user1000}.following") == slot("user1000"));
    CHECK(slot("{user1000}.following") == slot("{user1000}.followers"));
    CHECK(slot("foo{}{bar}") == slot_by_definition(BYTES("foo{}{bar}")));
    CHECK(slot("foo{{bar}}zap") == slot_by_definition(BYTES("{bar")));
    CHECK(slot("foo{bar}{zap}") == slot("bar"));
    CHECK(slot("foo{bar") == slot_by_definition(BYTES("foo{bar")));
    CHECK(slot("foo}bar{") == slot_by_definition(BYTES("foo}bar{")));
    CHECK(slot("}{a}") == slot("a"));
    CHECK(slot("{}") == slot_by_definition(BYTES("{}")));
    CHECK(slotmap_slot(guarded(BYTES("{a\0b}c")), 6) == slot_by_definition(BYTES("a\0b")));
    unit_note = "slots of noise";
    srand(1);
    for (i = 0; i < 5000; i++) {
        for (n = 0; n < i % sizeof noise; n++)
            do
                noise[n] = (char)(rand() >> 7);
            while (noise[n] == '{');
        CHECK(slotmap_slot(guarded(noise, n), n) == slot_by_definition(noise, n));
    }
}

static void test_map(void)
{
    static struct slotmap map;
    uint32_t epoch;
    uint16_t i;

    unit_note = "map";
    slotmap_clear(&map);
    epoch = map.epoch;
    CHECK(map.served == 0 && map.owner[0] == SLOTMAP_NONE && map.owner[16383] == SLOTMAP_NONE);
    CHECK(!slotmap_set(&map, 5, SLOTMAP_NONE) && map.epoch == epoch);
    CHECK(slotmap_set(&map, 5, 2) && map.served == 1 && map.epoch == epoch + 1);
    CHECK(!slotmap_set(&map, 5, 2) && map.epoch == epoch + 1);
    CHECK(slotmap_set(&map, 5, 3) && map.served == 1 && map.epoch == epoch + 2);
    CHECK(!slotmap_set(&map, 16384, 3) && !slotmap_set(&map, 0xFFFF, 3) && map.served == 1);
    CHECK(slotmap_set(&map, 5, SLOTMAP_NONE) && map.served == 0 && map.owner[5] == SLOTMAP_NONE);
    for (i = 0; i < SLOTMAP_SLOTS; i++)
        slotmap_set(&map, i, (uint16_t)(i % 7));
    CHECK(map.served == SLOTMAP_SLOTS);
    epoch = map.epoch;
    slotmap_clear(&map);
    CHECK(map.served == 0 && map.epoch == epoch + 1);
}

/* -------------------------------------------------- CLUSTER SLOTS */

struct sample {
    const char *note, *bytes;
    size_t len;
    const char *outcome; /* "whole SERVED | host:port>master ... | start-end=node ...", or "bad text", "server text",
                            or "more"; "+N" at the end: N bytes left */
};

#define IP "$9\r\n127.0.0.1\r\n"
#define PORT1 ":7001\r\n"
#define PORT2 ":7002\r\n"
#define ID "$4\r\nabcd\r\n"
#define NODE1 "*4\r\n" IP PORT1 ID "*0\r\n"
#define NODE2 "*4\r\n" IP PORT2 ID "*0\r\n"
#define RANGE(a, b, nodes) ":" #a "\r\n:" #b "\r\n" nodes

static const struct sample samples[] = {
    {"empty", BYTES("*0\r\n"), "whole 0 | |"},
    {"what follows is left", BYTES("*0\r\n+OK\r\n"), "whole 0 | | +5"},
    {"one node", BYTES("*1\r\n*3\r\n" RANGE(0, 16383, NODE1)), "whole 16384 | 127.0.0.1:7001>0 | 0-16383=0"},
    {"two ranges, replicas that swap", BYTES("*2\r\n*4\r\n" RANGE(0, 99, NODE1 NODE2) "*4\r\n" RANGE(200, 300, NODE2 NODE1)),
     "whole 201 | 127.0.0.1:7001>0 127.0.0.1:7002>1 | 0-99=0 200-300=1"},
    {"a replica stays one", BYTES("*1\r\n*4\r\n" RANGE(7, 7, NODE1 NODE2)),
     "whole 1 | 127.0.0.1:7001>0 127.0.0.1:7002>0 | 7-7=0"},
    {"old form of two fields", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n" IP PORT1)), "whole 2 | 127.0.0.1:7001>0 | 1-2=0"},
    {"host name", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*3\r\n$7\r\nn1.test\r\n" PORT1 ID)), "whole 2 | n1.test:7001>0 | 1-2=0"},
    {"IPv6", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*3\r\n$3\r\n::1\r\n" PORT1 ID)), "whole 2 | ::1:7001>0 | 1-2=0"},
    {"empty host", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*3\r\n$0\r\n\r\n" PORT1 ID)), "whole 2 | :7001>0 | 1-2=0"},
    {"nil host of RESP2", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*3\r\n$-1\r\n" PORT1 ID)), "whole 2 | :7001>0 | 1-2=0"},
    {"nil host of RESP3", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*3\r\n_\r\n" PORT1 ID)), "whole 2 | :7001>0 | 1-2=0"},
    {"unknown host", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*3\r\n$1\r\n?\r\n" PORT1 ID)), "whole 2 | :7001>0 | 1-2=0"},
    {"simple string host", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*3\r\n+h\r\n" PORT1 ID)), "whole 2 | h:7001>0 | 1-2=0"},
    {"metadata of RESP2", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*4\r\n" IP PORT1 ID "*2\r\n$2\r\nip\r\n$3\r\n::1\r\n")),
     "whole 2 | 127.0.0.1:7001>0 | 1-2=0"},
    {"metadata of RESP3", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*4\r\n" IP PORT1 ID "%1\r\n$2\r\nip\r\n~2\r\n#t\r\n,1.5\r\n")),
     "whole 2 | 127.0.0.1:7001>0 | 1-2=0"},
    {"nested metadata and odd types",
     BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*7\r\n" IP PORT1 ID "*1\r\n*1\r\n*0\r\n=7\r\ntxt:a\r\n\r\n(123\r\n*-1\r\n")),
     "whole 2 | 127.0.0.1:7001>0 | 1-2=0"},
    {"attributes everywhere",
     BYTES("|1\r\n+a\r\n:1\r\n*1\r\n|0\r\n*3\r\n:1\r\n|1\r\n+a\r\n*1\r\n+b\r\n:2\r\n*2\r\n|0\r\n" IP "|1\r\n_\r\n_\r\n" PORT1),
     "whole 2 | 127.0.0.1:7001>0 | 1-2=0"},
    {"a replica without a port is left out", BYTES("*1\r\n*4\r\n" RANGE(1, 2, NODE1 "*2\r\n" IP ":0\r\n")),
     "whole 2 | 127.0.0.1:7001>0 | 1-2=0"},
    {"one host, two ports", BYTES("*1\r\n*4\r\n" RANGE(1, 2, NODE1 NODE2)),
     "whole 2 | 127.0.0.1:7001>0 127.0.0.1:7002>0 | 1-2=0"},
    {"host of 255 bytes", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n$255\r\n" X250 "bbbbb\r\n" PORT1)),
     "whole 2 | " X250 "bbbbb:7001>0 | 1-2=0"},
    {"unfinished", BYTES("*1\r\n*3\r\n:1\r\n:2\r\n*2\r\n$9\r\n127.0"), "more"},

    {"no cluster", BYTES("-ERR This instance has cluster support disabled\r\n"),
     "server ERR This instance has cluster support disabled"},
    {"error with bytes that do not print", BYTES("-ERR a\tb\x80\r\n"), "server ERR a?b?"},
    {"endless error", BYTES("-" X250 X250), "server " X50 X50 X50 "aaaaaaaaa"},
    {"error of RESP3", BYTES("!10\r\nERR a\r\nbcd\r\n"), "server ERR a??bcd"},
    {"long error of RESP3", BYTES("!500\r\n" X250 X250 "\r\n"), "server " X50 X50 X50 "aaaaaaaaa"},
    {"error inside", BYTES("*1\r\n-NOPERM no\r\n"), "server NOPERM no"},

    {"nil", BYTES("*-1\r\n"), "bad the reply is not an array"},
    {"a string", BYTES("+OK\r\n"), "bad the reply is not an array"},
    {"a map", BYTES("%1\r\n"), "bad the reply is not an array"},
    {"a number for a range", BYTES("*1\r\n:1\r\n"), "bad a range is not an array"},
    {"a map for a range", BYTES("*1\r\n%1\r\n"), "bad a range is not an array"},
    {"a string for a node", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "+x\r\n")), "bad a node is not an array"},
    {"start is an array", BYTES("*1\r\n*3\r\n*0\r\n"), "bad the start of a range is not a slot"},
    {"start is a string", BYTES("*1\r\n*3\r\n$1\r\n1\r\n"), "bad the start of a range is not a slot"},
    {"start out of bounds", BYTES("*1\r\n*3\r\n:16384\r\n"), "bad the start of a range is not a slot"},
    {"start below 0", BYTES("*1\r\n*3\r\n:-1\r\n"), "bad the start of a range is not a slot"},
    {"end out of bounds", BYTES("*1\r\n*3\r\n:0\r\n:16384\r\n"), "bad the end of a range is not a slot from its start on"},
    {"end before start", BYTES("*1\r\n*3\r\n:5\r\n:4\r\n"), "bad the end of a range is not a slot from its start on"},
    {"overlap", BYTES("*2\r\n*3\r\n" RANGE(0, 10, NODE1) "*3\r\n" RANGE(10, 20, NODE2)), "bad ranges overlap at slot 10"},
    {"empty range", BYTES("*1\r\n*0\r\n"), "bad a range without a node"},
    {"range without node", BYTES("*1\r\n*2\r\n:1\r\n:2\r\n"), "bad a range without a node"},
    {"empty node", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*0\r\n")), "bad a node without host and port"},
    {"node without port", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*1\r\n" IP)), "bad a node without host and port"},
    {"host is a number", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n:1\r\n")),
     "bad a node's host is not a printable string below 256 bytes"},
    {"host is an array", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n*0\r\n")),
     "bad a node's host is not a printable string below 256 bytes"},
    {"host with a NUL", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n$3\r\na\0b\r\n")),
     "bad a node's host is not a printable string below 256 bytes"},
    {"host with a blank", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n$3\r\na b\r\n")),
     "bad a node's host is not a printable string below 256 bytes"},
    {"host too long", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n$256\r\n" X250 "bbbbbb\r\n")),
     "bad a node's host is not a printable string below 256 bytes"},
    {"host much too long", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n$500\r\n" X250 X250 "\r\n")),
     "bad a node's host is not a printable string below 256 bytes"},
    {"port is a string", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n" IP "+7001\r\n")), "bad a node's port is not one"},
    {"port too high", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n" IP ":65536\r\n")), "bad a node's port is not one"},
    {"master without port", BYTES("*1\r\n*3\r\n" RANGE(8, 9, "*2\r\n" IP ":0\r\n")), "bad a master without a port, of slot 8"},
    {"too many nodes",
     BYTES("*1\r\n*7\r\n" RANGE(1, 2, NODE1 NODE2 "*2\r\n" IP ":3\r\n*2\r\n" IP ":4\r\n*2\r\n" IP ":5\r\n")),
     "bad more nodes than there is room for: 4"},
    {"more ranges than slots", BYTES("*16385\r\n"), "bad an array of too many elements"},
    {"negative count", BYTES("*-2\r\n"), "bad an array of too many elements"},
    {"metadata of a length that cannot be", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*3\r\n" IP PORT1 "%2147483647\r\n")),
     "bad an array of too many elements"},
    {"string of a length that cannot be", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*3\r\n" IP PORT1 "$4294967296\r\n")),
     "bad a string of a length that cannot be"},
    {"string of a negative length", BYTES("$-2\r\n"), "bad a string of a length that cannot be"},
    {"nested too deep", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*3\r\n" IP PORT1 "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n")),
     "bad nested too deep: 8"},
    {"attribute in an attribute", BYTES("|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n"), "bad nested too deep: 8"},
    {"string longer than its length", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n$1\r\nab\r\n")),
     "bad not RESP: a string longer than its length"},
    {"string with half an end", BYTES("*1\r\n*3\r\n" RANGE(1, 2, "*2\r\n$1\r\na\rb")),
     "bad not RESP: a string longer than its length"},
    {"no type", BYTES("\r\n"), "bad not RESP: an unknown type byte"},
    {"unknown type", BYTES("HTTP/1.1 400 Bad Request\r\n"), "bad not RESP: an unknown type byte"},
    {"no number", BYTES("*x\r\n"), "bad not RESP: a number that is none"},
    {"empty number", BYTES("*\r\n"), "bad not RESP: a number that is none"},
    {"endless line", BYTES("+" X250 X50), "bad not RESP: a header line that does not end"},
};

static void append(char *text, const char *s)
{
    strncat(text, s, TEXT_CAP - 1 - strlen(text));
}

static void append_number(char *text, const char *before, unsigned long n)
{
    char number[32];

    snprintf(number, sizeof number, "%s%lu", before, n);
    append(text, number);
}

/* All that a caller can see of the stage. */
static void describe(const struct slotmap_stage *s, enum resp_status status, size_t left, char *text)
{
    unsigned i, start;

    text[0] = '\0';
    if (status == RESP_MORE)
        append(text, "more");
    if (status == RESP_BAD) {
        append(text, s->server_error ? "server " : "bad ");
        append(text, s->error);
    }
    if (status != RESP_WHOLE)
        return;
    append_number(text, "whole ", s->served);
    append(text, " |");
    for (i = 0; i < s->node_count; i++) {
        append(text, " ");
        append(text, s->nodes[i].host);
        append_number(text, ":", s->nodes[i].port);
        append_number(text, ">", s->nodes[i].master);
    }
    append(text, " |");
    for (start = i = 0; i < SLOTMAP_SLOTS; i++) {
        if (i == 0 || s->owner[i] != s->owner[i - 1])
            start = i;
        if (s->owner[i] != SLOTMAP_NONE && (i + 1 == SLOTMAP_SLOTS || s->owner[i + 1] != s->owner[i])) {
            append_number(text, " ", start);
            append_number(text, "-", i);
            append_number(text, "=", s->owner[i]);
        }
    }
    if (left > 0)
        append_number(text, " +", left);
}

/* Feeds the sample in pieces that end at `cut`, or with cut 0 byte by byte. */
static void feed(const struct sample *x, size_t cut, char *text)
{
    static struct slotmap_stage stage;
    static struct slotmap_node nodes[NODE_CAP];
    enum resp_status status = RESP_MORE;
    size_t at = 0, used, n;

    slotmap_stage_begin(&stage, nodes, NODE_CAP);
    while (at < x->len && status == RESP_MORE) {
        n = cut == 0 ? 1 : at < cut ? cut - at : x->len - at;
        status = slotmap_stage_feed(&stage, guarded(x->bytes + at, n), n, &used);
        CHECK(used <= n && (status != RESP_MORE || used == n));
        at += used;
    }
    describe(&stage, status, x->len - at, text);
    if (status != RESP_MORE) {
        CHECK(slotmap_stage_feed(&stage, guarded("+", 1), 1, &used) == status && used == 0);
    }
}

static void test_samples(void)
{
    char whole[TEXT_CAP], cut_text[TEXT_CAP];
    size_t i, cut;

    for (i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        unit_note = samples[i].note;
        feed(&samples[i], samples[i].len, whole);
        if (!CHECK(strcmp(whole, samples[i].outcome) == 0))
            printf("    got      %s\n    expected %s\n", whole, samples[i].outcome);
        for (cut = 0; cut < samples[i].len; cut++) {
            feed(&samples[i], cut, cut_text);
            CHECK(strcmp(whole, cut_text) == 0);
        }
    }
}

/* Every slot a range of its own, six nodes each, over 1000 nodes; and a reply that never ends. */
static void test_large(void)
{
    static struct slotmap_stage stage;
    static struct slotmap_node nodes[1000];
    char text[256];
    enum resp_status status;
    size_t used, n;
    unsigned i, j;

    unit_note = "large reply";
    slotmap_stage_begin(&stage, nodes, 1000);
    CHECK(slotmap_stage_feed(&stage, guarded(BYTES("*16384\r\n")), 8, &used) == RESP_MORE);
    for (i = 0, status = RESP_MORE; i < SLOTMAP_SLOTS && status == RESP_MORE; i++) {
        n = (size_t)snprintf(text, sizeof text, "*8\r\n:%u\r\n:%u\r\n", i, i);
        status = slotmap_stage_feed(&stage, guarded(text, n), n, &used);
        for (j = 0; j < 6 && status == RESP_MORE; j++) {
            n = (size_t)snprintf(text, sizeof text, "*4\r\n$12\r\n10.0.0.%05u\r\n:7000\r\n$0\r\n\r\n*0\r\n", i % 166 * 6 + j);
            status = slotmap_stage_feed(&stage, guarded(text, n), n, &used);
        }
    }
    CHECK(status == RESP_WHOLE && stage.served == SLOTMAP_SLOTS && stage.node_count == 996);
    CHECK(stage.nodes[stage.owner[16383]].master == stage.owner[16383]);

    unit_note = "a reply that never ends";
    slotmap_stage_begin(&stage, nodes, 1000);
    for (i = 0, status = RESP_MORE; i < SLOTMAP_REPLY_MAX && status == RESP_MORE; i += 4096) {
        static char zeros[4096];

        for (j = 0; j < sizeof zeros; j += 4)
            memcpy(zeros + j, "|0\r\n", 4);
        status = slotmap_stage_feed(&stage, guarded(zeros, sizeof zeros), sizeof zeros, &used);
    }
    CHECK(status == RESP_MORE);
    CHECK(slotmap_stage_feed(&stage, guarded("|", 1), 1, &used) == RESP_BAD);
    CHECK(strcmp(stage.error, "a reply of more bytes than 67108864") == 0);
}

/* -------------------------------------------------- redirections */

static bool redirect(const char *line, size_t n, struct slotmap_redirect *r)
{
    return slotmap_redirect(guarded(line, n), n, r);
}

static void test_redirect(void)
{
    static const char *const bad[] = {
        "", "-", "-ASK", "-ASK \r\n", "-MOVED 1 a:1", "-MOVED 1 a:1\r", "-MOVED 1 a:1\n", "-MOVED 1 a:1\r\nx",
        "-MOVED 1 a\r\n", "-MOVED 1 a:\r\n", "-MOVED 1 a:x\r\n", "-MOVED 1 a:0\r\n", "-MOVED 1 a:65536\r\n",
        "-MOVED 16384 a:1\r\n", "-MOVED -1 a:1\r\n", "-MOVED x a:1\r\n", "-MOVED  a:1\r\n", "-MOVED a:1\r\n",
        "-MOVED 1 a b:1\r\n", "-MOVED 1 a:1 \r\n", "-MOVEDX 1 a:1\r\n", "+MOVED 1 a:1\r\n", "-moved 1 a:1\r\n",
        "-ERR MOVED 1 a:1\r\n", "-TRYAGAIN\r\n", "-MOVED 1 a\x80:1\r\n", "-MOVED 99999999999999999999 a:1\r\n"};
    struct slotmap_redirect r;
    char line[400];
    size_t i;

    unit_note = "redirections";
    CHECK(redirect(BYTES("-MOVED 3999 127.0.0.1:6381\r\n"), &r));
    CHECK(!r.ask && r.slot == 3999 && r.port == 6381 && strcmp(r.host, "127.0.0.1") == 0);
    CHECK(redirect(BYTES("-ASK 16383 host.test:1\r\n"), &r));
    CHECK(r.ask && r.slot == 16383 && r.port == 1 && strcmp(r.host, "host.test") == 0);
    CHECK(redirect(BYTES("-ASK 0 :6379\r\n"), &r) && r.port == 6379 && r.slot == 0 && r.host[0] == '\0');
    CHECK(redirect(BYTES("-MOVED 0 ?:6379\r\n"), &r) && r.host[0] == '\0');
    CHECK(redirect(BYTES("-MOVED 1 2001:db8::1:6379\r\n"), &r) && r.port == 6379 && strcmp(r.host, "2001:db8::1") == 0);
    CHECK(redirect(BYTES("-MOVED 1 " X250 "bbbbb:65535\r\n"), &r) && strlen(r.host) == 255 && r.port == 65535);
    CHECK(!redirect(BYTES("-MOVED 1 " X250 "bbbbbb:65535\r\n"), &r));
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        unit_note = bad[i];
        CHECK(!redirect(bad[i], strlen(bad[i]), &r));
    }
    unit_note = "a redirection cut short";
    snprintf(line, sizeof line, "-MOVED 3999 127.0.0.1:6381\r\n");
    for (i = 0; i < strlen(line); i++)
        CHECK(!redirect(line, i, &r));
}

int main(void)
{
    guard_map();
    test_slots();
    test_map();
    test_samples();
    test_large();
    test_redirect();
    return unit_end();
}
