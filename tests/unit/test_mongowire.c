/* test_mongowire.c - mongowire.c on messages of a driver, of every kind, and broken ones, each cut at every place.
 *
 *   message --whole, two pieces at every byte, byte by byte--> describe() --> the same text
 *           each piece lies at the end of a page; the next page may not be read
 */
#define _DEFAULT_SOURCE

#include <stdint.h>

#include "mongowire.h"
#include "mongo.h"

#define TEXT_CAP 1024

static const struct {
    enum wire_field field;
    const char *name;
} numbers[] = {
    {WIRE_COMMAND, "value"}, {WIRE_TXN_NUMBER, "txnNumber"}, {WIRE_AUTOCOMMIT, "autocommit"},
    {WIRE_START_TRANSACTION, "startTransaction"}, {WIRE_LOAD_BALANCED, "loadBalanced"},
    {WIRE_MAX_AWAIT_MS, "maxAwaitTimeMS"}, {WIRE_HELLO_OK, "helloOk"}, {WIRE_OK, "ok"}, {WIRE_CODE, "code"},
    {WIRE_CURSOR_ID, "cursorId"}, {WIRE_QUIESCE_MS, "remainingQuiesceTimeMillis"},
    {WIRE_MIN_VERSION, "minWireVersion"}, {WIRE_MAX_VERSION, "maxWireVersion"}, {WIRE_MAX_BSON, "maxBsonObjectSize"},
    {WIRE_MAX_MESSAGE, "maxMessageSizeBytes"}, {WIRE_MAX_BATCH, "maxWriteBatchSize"},
    {WIRE_SESSION_MINUTES, "logicalSessionTimeoutMinutes"}, {WIRE_CONNECTION_ID, "connectionId"},
    {WIRE_WRITABLE, "writable"}, {WIRE_TOPOLOGY_COUNTER, "counter"}, {WIRE_APPLICATION, "application"},
    {WIRE_OS_TYPE, "os"},
}, marks[] = {
    {WIRE_SESSION, "lsid"}, {WIRE_CLIENT, "client"}, {WIRE_CLIENT_APPLICATION, "client.application"},
    {WIRE_CLIENT_OS, "client.os"}, {WIRE_COMPRESSION, "compression"}, {WIRE_TOPOLOGY, "topologyVersion"},
    {WIRE_RECOVERY_TOKEN, "recoveryToken"}, {WIRE_SASL_MECHS, "saslSupportedMechs"},
    {WIRE_SPECULATIVE, "speculativeAuthenticate"}, {WIRE_ERROR_LABELS, "errorLabels"}, {WIRE_CURSOR, "cursor"},
    {WIRE_SERVICE_ID, "serviceId"}, {WIRE_SET_NAME, "setName"},
};

struct text {
    char at[TEXT_CAP];
    size_t len;
};

#define SAY(t, ...) ((t)->len += (size_t)snprintf((t)->at + (t)->len, TEXT_CAP - (t)->len, __VA_ARGS__))

static void say_hex(struct text *t, const char *name, const unsigned char *p, size_t n)
{
    SAY(t, " %s ", name);
    for (; n > 0; n--)
        SAY(t, "%02x", *p++);
}

/* All that can be seen of a walk from outside, as mongo_golden.py says it. */
static void describe(const struct wire *w, struct text *t)
{
    size_t i;

    t->len = 0;
    SAY(t, "op %d id %d to %d flags %lu", (int)w->header.opcode, (int)w->header.request_id, (int)w->header.response_to,
        (unsigned long)w->flags);
    if (!w->reply)
        SAY(t, " command %s", w->command);
    for (i = 0; i < COUNT(numbers); i++)
        if (wire_has(w, numbers[i].field))
            SAY(t, " %s %lld", numbers[i].name, (long long)w->number[numbers[i].field]);
    if (wire_has(w, WIRE_DB))
        SAY(t, " db %s", w->db);
    if (wire_has(w, WIRE_LSID))
        say_hex(t, "lsid", w->lsid, sizeof w->lsid);
    if (wire_has(w, WIRE_TOPOLOGY_PROCESS))
        say_hex(t, "process", w->process_id, sizeof w->process_id);
    if (wire_has(w, WIRE_ISDBGRID))
        SAY(t, " isdbgrid");
    for (i = 0; i < COUNT(marks); i++)
        if (wire_has(w, marks[i].field))
            SAY(t, " +%s", marks[i].name);
}

/* Walks n bytes in pieces: two at `cut`, or with cut 0 one for each byte. */
static enum wire_status walk(struct wire *w, bool reply, const void *bytes, size_t n, size_t cut)
{
    enum wire_status status = WIRE_MORE;
    const unsigned char *p = bytes;
    size_t at = 0;

    memset(w, 0xA5, sizeof *w);
    wire_start(w, reply);
    CHECK(wire_feed(w, NULL, 0, &status) == 0 && status == WIRE_MORE);
    while (at < n && status == WIRE_MORE) {
        size_t end = cut == 0 ? at + 1 : at < cut ? cut : n;
        size_t took = wire_feed(w, guarded(p + at, end - at), end - at, &status);

        CHECK(took <= end - at && (status != WIRE_MORE || took == end - at));
        CHECK((status == WIRE_BAD) == (w->error != WIRE_BAD_NONE));
        at += took;
        CHECK(w->used == at);
    }
    if (status != WIRE_MORE) {
        enum wire_status again;

        CHECK(wire_feed(w, guarded("x", 1), 1, &again) == 0 && again == status);
    }
    return status;
}

/* Every cut gives what the whole gave. */
static void every_cut(bool reply, const void *bytes, size_t n)
{
    struct text whole, other;
    struct wire w;
    const enum wire_status status = walk(&w, reply, bytes, n, n);
    const enum wire_error error = w.error;
    const uint32_t used = w.used;
    size_t cut;

    describe(&w, &whole);
    for (cut = 0; cut < n; cut++) {
        CHECK(walk(&w, reply, bytes, n, cut) == status && w.error == error);
        CHECK(w.used == used || status == WIRE_BAD);
        describe(&w, &other);
        if (!CHECK(strcmp(whole.at, other.at) == 0))
            printf("  cut %zu\n  whole: %s\n  cut:   %s\n", cut, whole.at, other.at);
    }
}

static void test_golden(void)
{
    size_t i, short_of;

    for (i = 0; i < COUNT(golden); i++) {
        const struct golden *g = &golden[i];
        unsigned char more[4096] = {0};
        struct text t;
        struct wire w;

        unit_note = g->name;
        CHECK(walk(&w, g->reply, g->bytes, g->n, g->n) == WIRE_WHOLE && w.used == g->n && w.known);
        describe(&w, &t);
        if (!CHECK(strcmp(t.at, g->about) == 0))
            printf("  is:        %s\n  should be: %s\n", t.at, g->about);
        every_cut(g->reply, g->bytes, g->n);
        /* What stands behind it is not taken; what is missing is waited for. */
        memcpy(more, g->bytes, g->n);
        CHECK(walk(&w, g->reply, more, g->n + 20, g->n + 20) == WIRE_WHOLE && w.used == g->n);
        for (short_of = 1; short_of < g->n; short_of++)
            CHECK(walk(&w, g->reply, g->bytes, g->n - short_of, g->n - short_of) == WIRE_MORE);
    }
}

/* A broken byte gives some verdict, the same however the bytes come, and no read beyond them. */
static void test_broken_bytes(void)
{
    uint32_t seed = 1;
    size_t i, round;

    for (i = 0; i < COUNT(golden); i++) {
        const struct golden *g = &golden[i];
        unsigned char bytes[4096];

        unit_note = g->name;
        for (round = 0; round < 60; round++) {
            struct text whole, other;
            struct wire w;
            enum wire_status status;
            enum wire_error error;
            size_t at = 4 + chance(&seed, (uint32_t)g->n - 4);

            memcpy(bytes, g->bytes, g->n);
            bytes[at] = (unsigned char)(round % 3 == 0 ? chance(&seed, 256) : bytes[at] + (round % 3 == 1 ? 1U : 255U));
            status = walk(&w, g->reply, bytes, g->n, g->n);
            error = w.error;
            describe(&w, &whole);
            CHECK(status != WIRE_MORE);
            CHECK(walk(&w, g->reply, bytes, g->n, 0) == status && w.error == error);
            describe(&w, &other);
            CHECK(strcmp(whole.at, other.at) == 0);
        }
    }
}

/* -------------------------------------------------------------- by hand */

#define HEADER(length, op) length "\1\0\0\0" "\2\0\0\0" op
#define MSG "\xDD\x07\0\0"
#define QUERY "\xD4\x07\0\0"
#define REPLY "\1\0\0\0"
#define EMPTY "\5\0\0\0\0"
#define PING "\x0F\0\0\0" "\x10ping\0\1\0\0\0\0" /* {ping: 1} */
#define BYTES(text) text, sizeof text - 1

static const struct {
    const char *name, *bytes;
    size_t n;
    bool reply;
    enum wire_error error; /* NONE: it is whole */
} samples[] = {
    {"the smallest", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\0\0\0\0" EMPTY), false, WIRE_BAD_NONE},
    {"ping", BYTES(HEADER("\x24\0\0\0", MSG) "\0\0\0\0\0" PING), false, WIRE_BAD_NONE},
    {"length 15", BYTES(HEADER("\x0F\0\0\0", MSG)), false, WIRE_BAD_LENGTH},
    {"length 0", BYTES(HEADER("\0\0\0\0", MSG)), false, WIRE_BAD_LENGTH},
    {"length 48000001", BYTES(HEADER("\x01\x6C\xDC\x02", MSG)), false, WIRE_BAD_LENGTH},
    {"length -1", BYTES(HEADER("\xFF\xFF\xFF\xFF", MSG)), false, WIRE_BAD_LENGTH},
    {"length 16", BYTES(HEADER("\x10\0\0\0", MSG)), false, WIRE_BAD_SHORT},
    {"flags only", BYTES(HEADER("\x14\0\0\0", MSG) "\0\0\0\0"), false, WIRE_BAD_NO_DOCUMENT},
    {"checksum without room", BYTES(HEADER("\x14\0\0\0", MSG) "\1\0\0\0"), false, WIRE_BAD_SHORT},
    {"checksum only", BYTES(HEADER("\x18\0\0\0", MSG) "\1\0\0\0\0\0\0\0"), false, WIRE_BAD_NO_DOCUMENT},
    {"flag bit 2", BYTES(HEADER("\x1A\0\0\0", MSG) "\4\0\0\0\0" EMPTY), false, WIRE_BAD_FLAGS},
    {"flag bit 15", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\x80\0\0\0" EMPTY), false, WIRE_BAD_FLAGS},
    {"flag bit 31", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\0\0\x80\0" EMPTY), false, WIRE_BAD_NONE},
    {"kind 2", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\0\0\0\2" EMPTY), false, WIRE_BAD_SECTION},
    {"two documents", BYTES(HEADER("\x20\0\0\0", MSG) "\0\0\0\0\0" EMPTY "\0" EMPTY), false, WIRE_BAD_TWO_DOCUMENTS},
    {"sequence only", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\0\0\0\1\5\0\0\0\0"), false, WIRE_BAD_NO_DOCUMENT},
    {"sequence before", BYTES(HEADER("\x20\0\0\0", MSG) "\0\0\0\0\1\5\0\0\0\0\0" EMPTY), false, WIRE_BAD_NONE},
    {"sequence of 4", BYTES(HEADER("\x20\0\0\0", MSG) "\0\0\0\0\1\4\0\0\0\0\0" EMPTY), false, WIRE_BAD_SEQUENCE},
    {"sequence beyond the end", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\0\0\0\1\6\0\0\0\0"), false, WIRE_BAD_SEQUENCE},
    {"sequence of -1", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\0\0\0\1\xFF\xFF\xFF\xFF\0"), false, WIRE_BAD_SEQUENCE},
    {"sequence without a length", BYTES(HEADER("\x18\0\0\0", MSG) "\0\0\0\0\1\5\0\0"), false, WIRE_BAD_SHORT},
    {"document without a length", BYTES(HEADER("\x18\0\0\0", MSG) "\0\0\0\0\0\5\0\0"), false, WIRE_BAD_SHORT},
    {"document of 4", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\0\0\0\0\4\0\0\0\0"), false, WIRE_BAD_DOCUMENT},
    {"document beyond the end", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\0\0\0\0\6\0\0\0\0"), false, WIRE_BAD_DOCUMENT},
    {"document of -1", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\0\0\0\0\xFF\xFF\xFF\xFF\0"), false, WIRE_BAD_DOCUMENT},
    {"document reaches into the checksum", BYTES(HEADER("\x1A\0\0\0", MSG) "\1\0\0\0\0" EMPTY), false, WIRE_BAD_SHORT},
    {"document ends early", BYTES(HEADER("\x1B\0\0\0", MSG) "\0\0\0\0\0\6\0\0\0\0\0"), false, WIRE_BAD_DOCUMENT},
    {"document without its end", BYTES(HEADER("\x1C\0\0\0", MSG) "\0\0\0\0\0\7\0\0\0\x0A" "a\0"), false, WIRE_BAD_VALUE},
    {"name without its end", BYTES(HEADER("\x1B\0\0\0", MSG) "\0\0\0\0\0\6\0\0\0\x0A" "a"), false, WIRE_BAD_NAME},
    {"type only", BYTES(HEADER("\x1A\0\0\0", MSG) "\0\0\0\0\0\5\0\0\0\x0A"), false, WIRE_BAD_NAME},
    {"unknown type", BYTES(HEADER("\x1D\0\0\0", MSG) "\0\0\0\0\0\x08\0\0\0\x14" "a\0\0"), false, WIRE_BAD_TYPE},
    {"int32 beyond the end", BYTES(HEADER("\x20\0\0\0", MSG) "\0\0\0\0\0\x0B\0\0\0\x10" "a\0\0\0\0"), false, WIRE_BAD_VALUE},
    {"string of 0", BYTES(HEADER("\x21\0\0\0", MSG) "\0\0\0\0\0\x0C\0\0\0\x02" "a\0\0\0\0\0\0"), false, WIRE_BAD_VALUE},
    {"string of -1", BYTES(HEADER("\x21\0\0\0", MSG) "\0\0\0\0\0\x0C\0\0\0\x02" "a\0\xFF\xFF\xFF\xFF\0"), false, WIRE_BAD_VALUE},
    {"string of 1", BYTES(HEADER("\x22\0\0\0", MSG) "\0\0\0\0\0\x0D\0\0\0\x02" "a\0\1\0\0\0\0\0"), false, WIRE_BAD_NONE},
    {"string of 2", BYTES(HEADER("\x22\0\0\0", MSG) "\0\0\0\0\0\x0D\0\0\0\x02" "a\0\2\0\0\0\0\0"), false, WIRE_BAD_VALUE},
    {"binary of -1", BYTES(HEADER("\x22\0\0\0", MSG) "\0\0\0\0\0\x0D\0\0\0\x05" "a\0\xFF\xFF\xFF\xFF\0\0"), false, WIRE_BAD_VALUE},
    {"binary of 0", BYTES(HEADER("\x22\0\0\0", MSG) "\0\0\0\0\0\x0D\0\0\0\x05" "a\0\0\0\0\0\0\0"), false, WIRE_BAD_NONE},
    {"nested of 4", BYTES(HEADER("\x22\0\0\0", MSG) "\0\0\0\0\0\x0D\0\0\0\x03" "a\0\4\0\0\0\0\0"), false, WIRE_BAD_VALUE},
    {"nested of 5", BYTES(HEADER("\x22\0\0\0", MSG) "\0\0\0\0\0\x0D\0\0\0\x03" "a\0" EMPTY "\0"), false, WIRE_BAD_NONE},
    {"nested of 6", BYTES(HEADER("\x22\0\0\0", MSG) "\0\0\0\0\0\x0D\0\0\0\x03" "a\0\6\0\0\0\0\0"), false, WIRE_BAD_VALUE},
    {"regex of two", BYTES(HEADER("\x21\0\0\0", MSG) "\0\0\0\0\0\x0C\0\0\0\x0B" "a\0x\0i\0\0"), false, WIRE_BAD_NONE},
    {"regex takes the end", BYTES(HEADER("\x21\0\0\0", MSG) "\0\0\0\0\0\x0C\0\0\0\x0B" "a\0x\0ii\0"), false, WIRE_BAD_DOCUMENT},
    {"regex of one", BYTES(HEADER("\x21\0\0\0", MSG) "\0\0\0\0\0\x0C\0\0\0\x0B" "a\0xxxx\0"), false, WIRE_BAD_VALUE},
    {"regex without an end", BYTES(HEADER("\x21\0\0\0", MSG) "\0\0\0\0\0\x0C\0\0\0\x0B" "a\0xxxxx"), false, WIRE_BAD_VALUE},
    {"$db without its NUL", BYTES(HEADER("\x2E\0\0\0", MSG) "\0\0\0\0\0\x19\0\0\0\x10x\0\1\0\0\0\x02$db\0\2\0\0\0dd\0"), false, WIRE_BAD_VALUE},
    {"lsid ends early", BYTES(HEADER("\x2D\0\0\0", MSG) "\0\0\0\0\0\x18\0\0\0\x10x\0\1\0\0\0\x03lsid\0\6\0\0\0\0\0\0"), false, WIRE_BAD_DOCUMENT},
    {"compressed", BYTES(HEADER("\x1A\0\0\0", "\xDC\x07\0\0") "\xDD\x07\0\0\1\0\0\0\0\0"), false, WIRE_BAD_COMPRESSED},
    {"compressed reply", BYTES(HEADER("\x1A\0\0\0", "\xDC\x07\0\0") "\xDD\x07\0\0\1\0\0\0\0\0"), true, WIRE_BAD_COMPRESSED},
    {"OP_INSERT", BYTES(HEADER("\x1A\0\0\0", "\xD2\x07\0\0") "\0\0\0\0a\0\0\0\0\0"), false, WIRE_BAD_REMOVED},
    {"OP_KILL_CURSORS", BYTES(HEADER("\x1A\0\0\0", "\xD7\x07\0\0") "\0\0\0\0a\0\0\0\0\0"), false, WIRE_BAD_REMOVED},
    {"opcode 0", BYTES(HEADER("\x1A\0\0\0", "\0\0\0\0") "\0\0\0\0\0" EMPTY), false, WIRE_BAD_OPCODE},
    {"OP_REPLY of a client", BYTES(HEADER("\x29\0\0\0", REPLY) "\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0" EMPTY), false, WIRE_BAD_OPCODE},
    {"OP_REPLY", BYTES(HEADER("\x29\0\0\0", REPLY) "\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0" EMPTY), true, WIRE_BAD_NONE},
    {"OP_REPLY with two", BYTES(HEADER("\x2E\0\0\0", REPLY) "\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\2\0\0\0" EMPTY EMPTY), true, WIRE_BAD_NONE},
    {"OP_REPLY with none", BYTES(HEADER("\x24\0\0\0", REPLY) "\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), true, WIRE_BAD_NO_DOCUMENT},
    {"OP_REPLY too short", BYTES(HEADER("\x14\0\0\0", REPLY) "\x08\0\0\0"), true, WIRE_BAD_SHORT},
    {"OP_QUERY of a server", BYTES(HEADER("\x2A\0\0\0", QUERY) "\0\0\0\0a.$cmd\0\0\0\0\0\1\0\0\0" EMPTY), true, WIRE_BAD_OPCODE},
    {"OP_QUERY", BYTES(HEADER("\x28\0\0\0", QUERY) "\0\0\0\0a.$cmd\0\0\0\0\0\1\0\0\0" EMPTY), false, WIRE_BAD_NONE},
    {"OP_QUERY with a selector", BYTES(HEADER("\x2D\0\0\0", QUERY) "\0\0\0\0a.$cmd\0\0\0\0\0\1\0\0\0" EMPTY EMPTY), false, WIRE_BAD_NONE},
    {"OP_QUERY without its namespace's end", BYTES(HEADER("\x18\0\0\0", QUERY) "\0\0\0\0abcd"), false, WIRE_BAD_SHORT},
    {"OP_QUERY without counts", BYTES(HEADER("\x1B\0\0\0", QUERY) "\0\0\0\0a.$cmd\0"), false, WIRE_BAD_SHORT},
};

static void test_samples(void)
{
    struct wire w;
    size_t i;

    for (i = 0; i < COUNT(samples); i++) {
        enum wire_status status;

        unit_note = samples[i].name;
        status = walk(&w, samples[i].reply, samples[i].bytes, samples[i].n, samples[i].n);
        if (!CHECK(w.error == samples[i].error))
            printf("  %s\n", wire_error_text(w.error));
        CHECK(status == (samples[i].error == WIRE_BAD_NONE ? WIRE_WHOLE : WIRE_BAD));
        every_cut(samples[i].reply, samples[i].bytes, samples[i].n);
    }
    unit_note = "texts of errors";
    for (i = 0; i < WIRE_ERROR_COUNT; i++)
        CHECK(strlen(wire_error_text((enum wire_error)i)) > 5);
}

/* Walks a document as an OP_MSG. */
static void walk_document(struct wire *w, struct bson *b, bool reply)
{
    static unsigned char message[4096];
    const struct wire_header header = {(uint32_t)(21 + b->len), 1, 2, WIRE_OP_MSG};

    wire_header_put(message, &header);
    memset(message + 16, 0, 5);
    memcpy(message + 21, b->out, b->len);
    CHECK(!b->overflow && b->depth == 0);
    CHECK(walk(w, reply, message, 21 + b->len, 21 + b->len) == WIRE_WHOLE);
    every_cut(reply, message, 21 + b->len);
}

/* Of two fields of one name the first counts, whatever its type. */
static void test_duplicates(void)
{
    static const unsigned char one[16] = {1}, two[16] = {2};
    unsigned char out[1024];
    struct wire w;
    struct bson b;

    unit_note = "duplicates";
    bson_start(&b, out, sizeof out);
    bson_document(&b, NULL);
    bson_string(&b, "find", "c");
    bson_string(&b, "$db", "first");
    bson_string(&b, "$db", "second");
    bson_document(&b, "lsid");
    bson_binary(&b, "id", 4, one, 16);
    bson_binary(&b, "id", 4, two, 16);
    bson_close(&b);
    bson_document(&b, "lsid");
    bson_binary(&b, "id", 4, two, 16);
    bson_close(&b);
    bson_string(&b, "txnNumber", "no number");
    bson_int64(&b, "txnNumber", 5);
    bson_int64(&b, "find", 9);
    bson_close(&b);
    walk_document(&w, &b, false);
    CHECK(strcmp(w.db, "first") == 0 && wire_is(&w, "find") && !wire_has(&w, WIRE_COMMAND));
    CHECK(wire_has(&w, WIRE_LSID) && w.lsid[0] == 1 && !wire_has(&w, WIRE_TXN_NUMBER));

    bson_start(&b, out, sizeof out);
    bson_document(&b, NULL);
    bson_bool(&b, "ok", true);
    bson_document(&b, "cursor");
    bson_string(&b, "id", "x");
    bson_close(&b);
    bson_document(&b, "cursor");
    bson_int64(&b, "id", 7);
    bson_close(&b);
    bson_bool(&b, "ismaster", true);
    bson_bool(&b, "isWritablePrimary", false);
    bson_double(&b, "ok", 0);
    bson_close(&b);
    walk_document(&w, &b, true);
    CHECK(wire_true(&w, WIRE_OK) && !wire_has(&w, WIRE_CURSOR_ID) && wire_true(&w, WIRE_WRITABLE));
}

/* What a router asks. */
static void test_questions(void)
{
    static const char *const hellos[] = {"hello", "isMaster", "ismaster"}, *const others[] = {"HELLO", "isMASTER", "hell", "helloo", ""};
    unsigned char out[1024];
    struct wire w;
    struct bson b;
    size_t i;

    unit_note = "questions";
    for (i = 0; i < COUNT(hellos) + COUNT(others); i++) {
        const char *name = i < COUNT(hellos) ? hellos[i] : others[i - COUNT(hellos)];

        bson_start(&b, out, sizeof out);
        bson_document(&b, NULL);
        bson_double(&b, name, 1);
        bson_int64(&b, "txnNumber", 1);
        bson_bool(&b, "autocommit", i % 2 == 0);
        bson_close(&b);
        walk_document(&w, &b, false);
        CHECK(w.hello == (i < COUNT(hellos)) && wire_is(&w, name));
        CHECK(wire_in_transaction(&w) == (i % 2 == 1) && !wire_more_to_come(&w) && wire_true(&w, WIRE_COMMAND));
    }
}

/* Texts that are nearly the ones that mean something, and texts that have no room. */
static void test_near_misses(void)
{
    static const char *const msgs[] = {"isdbgriD", "isdb", "isdbgrid2", "", "isdbgrid"};
    static const char *const spaces[] = {"admin.$cmx", "admin.$cmd2", "dmin.$cmd", "admin.$cmd"};
    static const char letters[] = "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggg";
    unsigned char out[1024];
    struct wire w;
    struct bson b;
    size_t i;

    unit_note = "near misses";
    for (i = 0; i < COUNT(msgs); i++) {
        bson_start(&b, out, sizeof out);
        bson_document(&b, NULL);
        bson_string(&b, "msg", msgs[i]);
        bson_close(&b);
        walk_document(&w, &b, true);
        CHECK(wire_has(&w, WIRE_ISDBGRID) == (i + 1 == COUNT(msgs)));
    }
    for (i = 0; i < COUNT(spaces); i++) {
        const size_t n = WIRE_HEADER + 4 + strlen(spaces[i]) + 1 + 8 + 5;
        const struct wire_header header = {(uint32_t)n, 1, 0, WIRE_OP_QUERY};

        memset(out, 0, n);
        wire_header_put(out, &header);
        memcpy(out + WIRE_HEADER + 4, spaces[i], strlen(spaces[i]));
        out[n - 5] = 5;
        CHECK(walk(&w, false, out, n, n) == WIRE_WHOLE && w.admin == (i + 1 == COUNT(spaces)));
        every_cut(false, out, n);
    }
    for (i = 60; i <= 70; i++) {
        bson_start(&b, out, sizeof out);
        bson_document(&b, NULL);
        bson_int32(&b, letters + 70 - i / 2, 1); /* names of 30 to 35 bytes: the command has room for 31 */
        bson_string_n(&b, "$db", letters, i);
        bson_close(&b);
        walk_document(&w, &b, false);
        CHECK(strlen(w.db) == (i < WIRE_DB_CAP ? i : WIRE_DB_CAP - 1) && strncmp(w.db, letters, strlen(w.db)) == 0);
        CHECK(strlen(w.command) == (i / 2 < WIRE_COMMAND_CAP ? i / 2 : WIRE_COMMAND_CAP - 1));
    }
}

/* Feeds n bytes out of a small buffer; gives the number of calls. */
static unsigned long feed_zeros(struct wire *w, size_t n, size_t piece, enum wire_status *status)
{
    static const unsigned char zeros[65536];
    unsigned long calls = 0;

    for (; n > 0 && *status == WIRE_MORE; calls++) {
        size_t part = n < piece ? n : piece;

        if (!CHECK(wire_feed(w, zeros, part, status) == part))
            break;
        n -= part;
    }
    return calls;
}

/* The longest message: a batch that is passed over, and what stands behind it is still seen. */
static void test_longest(void)
{
    unsigned char head[200];
    struct bson b;
    struct wire w;
    enum wire_status status;
    struct wire_header header = {WIRE_MAX, 1, 0, WIRE_OP_MSG};
    const uint32_t batch = WIRE_MAX - 61;

    unit_note = "48 MB";
    bson_start(&b, head, sizeof head);
    bson_bytes(&b, "0123456789abcdef" "\0\0\0\0\0" "\0\0\0\0" "\x10insert\0\1\0\0\0" "\x04" "a", 16 + 9 + 12 + 2);
    bson_bytes(&b, "\0", 1);
    wire_header_put(head, &header);
    bson_put32(head + 21, WIRE_MAX - 21);
    bson_bytes(&b, "1234", 4);
    bson_put32(head + b.len - 4, batch);
    wire_start(&w, false);
    CHECK(wire_feed(&w, guarded(head, b.len), b.len, &status) == b.len && status == WIRE_MORE);
    CHECK(feed_zeros(&w, batch - 4, 65536, &status) == (batch - 4) / 65536 + 1 && status == WIRE_MORE);
    CHECK(w.used == WIRE_MAX - 21 && !w.known);
    CHECK(wire_feed(&w, guarded("\x02$db\0\1\0\0\0\0", 10), 10, &status) == 10 && wire_has(&w, WIRE_DB) && status == WIRE_MORE);
    CHECK(wire_feed(&w, guarded("\x08helloOk\0\1", 10), 10, &status) == 10 && wire_true(&w, WIRE_HELLO_OK) && status == WIRE_MORE);
    CHECK(wire_feed(&w, guarded("\0tail", 5), 5, &status) == 1 && status == WIRE_WHOLE && w.used == WIRE_MAX);
}

static void test_checksum(void)
{
    struct wire_header h = {48000000, -1, INT32_MIN, 2013}, back;
    unsigned char bytes[16];

    unit_note = "header, checksum";
    CHECK(wire_crc32c(0, (const unsigned char *)"123456789", 9) == 0xE3069283);
    CHECK(wire_crc32c(wire_crc32c(0, (const unsigned char *)"1234", 4), (const unsigned char *)"56789", 5) == 0xE3069283);
    CHECK(wire_crc32c(0, NULL, 0) == 0);
    wire_header_put(bytes, &h);
    CHECK(memcmp(bytes, "\0\x6C\xDC\x02\xFF\xFF\xFF\xFF\0\0\0\x80\xDD\x07\0\0", 16) == 0);
    back = wire_header_get(bytes);
    CHECK(back.length == 48000000 && back.request_id == -1 && back.response_to == INT32_MIN && back.opcode == 2013);
}

int main(void)
{
    (void)written_document;
    (void)written_hello;
    (void)written_hello_query;
    (void)written_refusal;
    (void)written_refusal_old;
    guard_map();
    test_golden();
    test_broken_bytes();
    test_samples();
    test_duplicates();
    test_questions();
    test_near_misses();
    test_longest();
    test_checksum();
    return unit_end();
}
