/* test_mongomsg.c - mongomsg.c: changed messages say the same but for the change; written ones are what another encoder writes.
 *
 *   message --edit: drop, add--> copy --bson_next()--> the elements that stayed, byte by byte, and the added ones
 *                                     --wire_feed()--> whole
 *   buffers end at a page that may not be touched
 */
#define _DEFAULT_SOURCE

#include <stdint.h>

#include "mongomsg.h"
#include "mongo.h"

#define COPY_CAP 8192

static unsigned char copy[COPY_CAP];

static enum wire_status walk(struct wire *w, bool reply, const unsigned char *p, size_t n)
{
    enum wire_status status;

    wire_start(w, reply);
    wire_feed(w, p, n, &status);
    return w->used == n ? status : WIRE_MORE;
}

static bool is_dropped(const struct bson_element *e, const char *const *drop)
{
    for (; drop != NULL && *drop != NULL; drop++)
        if (strcmp(*drop, e->name) == 0)
            return true;
    return false;
}

/* The copy has the elements of the message that were not dropped, then those that were added, and nothing else. */
static void same_but(const unsigned char *msg, size_t n, const char *const *drop, const unsigned char *add, size_t add_len, size_t copy_len)
{
    struct bson_reader from = mongomsg_document(msg, n), to = mongomsg_document(copy, copy_len);
    struct bson_element e, f;

    CHECK(!from.bad && !to.bad);
    while (bson_next(&from, &e)) {
        if (is_dropped(&e, drop))
            continue;
        CHECK(bson_next(&to, &f) && e.type == f.type && strcmp(e.name, f.name) == 0 && e.len == f.len && memcmp(e.value, f.value, e.len) == 0);
    }
    CHECK((size_t)(to.end - to.at) == add_len && (add_len == 0 || memcmp(to.at, add, add_len) == 0));
}

/* Edits one message, also with too little room, and looks at the copy. */
static void check_edit(const unsigned char *msg, size_t n, bool reply, const char *const *drop, const void *add, size_t add_len)
{
    const unsigned sum = wire_header_get(msg).opcode == WIRE_OP_MSG && (msg[16] & 1) != 0 ? 4 : 0;
    struct wire before, after;
    enum wire_error error;
    size_t len = mongomsg_edit(guarded(msg, n), n, drop, add, add_len, copy, sizeof copy, &error), cap;

    if (!CHECK(len > 0 && error == WIRE_BAD_NONE))
        return;
    CHECK(walk(&before, reply, msg, n) == WIRE_WHOLE && walk(&after, reply, copy, len) == WIRE_WHOLE);
    CHECK(after.header.length == len && after.header.request_id == before.header.request_id && after.header.opcode == before.header.opcode);
    CHECK(after.header.response_to == before.header.response_to && after.flags == (before.flags & ~WIRE_CHECKSUM_PRESENT));
    same_but(msg, n, drop, add, add_len, len);
    if (drop == NULL && add_len == 0)
        CHECK(len == n - sum && memcmp(copy + 20, msg + 20, len - 20) == 0);
    for (cap = len > 40 ? len - 40 : 0; cap <= len; cap++) {
        size_t got = mongomsg_edit(msg, n, drop, add, add_len, guard - cap, cap, &error);

        CHECK(got == (cap == len ? len : 0) && error == (cap == len ? WIRE_BAD_NONE : WIRE_BAD_ROOM));
    }
}

static void test_golden(void)
{
    static const char *const drops[][4] = {{NULL}, {"compression", "loadBalanced", NULL}, {"$db", "lsid", "ok", NULL}, {"cursor", "msg", "nothing", NULL}};
    unsigned char add[64];
    struct bson b;
    size_t i, k;

    bson_start(&b, add, sizeof add);
    bson_object_id(&b, "serviceId", (const unsigned char *)"abcdefghijkl");
    bson_int32(&b, "x", 5);
    for (i = 0; i < COUNT(golden); i++) {
        const unsigned char *msg = (const unsigned char *)golden[i].bytes;

        unit_note = golden[i].name;
        check_edit(msg, golden[i].n, golden[i].reply, NULL, NULL, 0);
        for (k = 0; k < COUNT(drops); k++) {
            check_edit(msg, golden[i].n, golden[i].reply, drops[k], NULL, 0);
            check_edit(msg, golden[i].n, golden[i].reply, drops[k], add, b.len);
        }
    }
}

/* What the two ways of load balancing do to a handshake. */
static void test_hello(void)
{
    static const char *const fields[] = {"compression", "loadBalanced", NULL}, *const old[] = {"serviceId", NULL};
    unsigned char add[64];
    enum wire_error error;
    struct bson b;
    struct wire w;
    size_t i, len, hellos = 0, replies = 0;

    unit_note = "hello";
    bson_start(&b, add, sizeof add);
    bson_object_id(&b, "serviceId", (const unsigned char *)"abcdefghijkl");
    for (i = 0; i < COUNT(golden); i++) {
        walk(&w, golden[i].reply, (const unsigned char *)golden[i].bytes, golden[i].n);
        if (w.hello && (wire_has(&w, WIRE_COMPRESSION) || wire_true(&w, WIRE_LOAD_BALANCED))) {
            const int64_t application = wire_has(&w, WIRE_APPLICATION) ? w.number[WIRE_APPLICATION] : 0;

            hellos++;
            len = mongomsg_edit((const unsigned char *)golden[i].bytes, golden[i].n, fields, NULL, 0, copy, sizeof copy, &error);
            CHECK(walk(&w, false, copy, len) == WIRE_WHOLE && w.hello && !wire_has(&w, WIRE_COMPRESSION) && !wire_has(&w, WIRE_LOAD_BALANCED));
            CHECK(application == (wire_has(&w, WIRE_APPLICATION) ? w.number[WIRE_APPLICATION] : 0));
        }
        if (golden[i].reply && wire_has(&w, WIRE_ISDBGRID)) {
            struct bson_reader r;
            struct bson_element e;

            replies++;
            len = mongomsg_edit((const unsigned char *)golden[i].bytes, golden[i].n, old, add, b.len, copy, sizeof copy, &error);
            CHECK(walk(&w, true, copy, len) == WIRE_WHOLE && wire_has(&w, WIRE_SERVICE_ID) && wire_true(&w, WIRE_OK));
            r = mongomsg_document(copy, len);
            CHECK(bson_find(&r, "serviceId", &e) && e.type == BSON_OBJECT_ID && memcmp(e.value, "abcdefghijkl", 12) == 0);
        }
    }
    CHECK(hellos >= 4 && replies >= 3);
}

/* A checksum that is right is taken away, one that is wrong is an error; so are bytes that are no message. */
static void test_refused_edits(void)
{
    enum wire_error error;
    size_t i, n, sums = 0;

    for (i = 0; i < COUNT(golden); i++) {
        unsigned char *msg = guarded(golden[i].bytes, golden[i].n);

        unit_note = golden[i].name;
        CHECK(mongomsg_edit(msg, golden[i].n - 1, NULL, NULL, 0, copy, sizeof copy, &error) == 0 && error == WIRE_BAD_LENGTH);
        CHECK(mongomsg_document(msg, golden[i].n - 1).bad);
        if (wire_header_get(msg).opcode != WIRE_OP_MSG || (msg[16] & 1) == 0)
            continue;
        sums++;
        for (n = 4; n < golden[i].n; n += 7) {
            msg = guarded(golden[i].bytes, golden[i].n);
            msg[n] ^= 0x10;
            CHECK(mongomsg_edit(msg, golden[i].n, NULL, NULL, 0, copy, sizeof copy, &error) == 0 && error != WIRE_BAD_NONE);
        }
        CHECK(error == WIRE_BAD_CHECKSUM);
    }
    CHECK(sums > 0);
    for (n = 0; n < 16; n++)
        CHECK(mongomsg_edit(guarded(golden[0].bytes, n), n, NULL, NULL, 0, copy, sizeof copy, &error) == 0 && error == WIRE_BAD_LENGTH);
    memcpy(guarded(golden[0].bytes, golden[0].n) + 12, "\xDC\x07\0\0", 4);
    CHECK(mongomsg_edit(guard - golden[0].n, golden[0].n, NULL, NULL, 0, copy, sizeof copy, &error) == 0 && error == WIRE_BAD_COMPRESSED);
}

/* ------------------------------------------------- documents made at random */

static const char *const names[] = {"a", "b", "compression", "loadBalanced", "lsid", "$db", "client", "", "long name with blanks"};

static void random_document(struct bson *b, uint32_t *seed, int depth)
{
    uint32_t fields = chance(seed, 7);

    for (; fields > 0; fields--) {
        const char *name = names[chance(seed, COUNT(names))];

        switch (chance(seed, depth < 4 ? 11 : 9)) {
        case 0: bson_int32(b, name, (int32_t)chance(seed, 1000)); break;
        case 1: bson_int64(b, name, -(int64_t)chance(seed, 1000)); break;
        case 2: bson_double(b, name, 0.5); break;
        case 3: bson_bool(b, name, chance(seed, 2) == 1); break;
        case 4: bson_string(b, name, names[chance(seed, COUNT(names))]); break;
        case 5: bson_object_id(b, name, (const unsigned char *)"abcdefghijkl"); break;
        case 6: bson_binary(b, name, 4, "0123456789abcdef", chance(seed, 17)); break;
        case 7: bson_date(b, name, chance(seed, 1000)); break;
        case 8: bson_string(b, name, ""); break;
        case 9:
            bson_document(b, name);
            random_document(b, seed, depth + 1);
            bson_close(b);
            break;
        default:
            bson_array(b, name);
            random_document(b, seed, depth + 1);
            bson_close(b);
        }
    }
}

static void test_random(void)
{
    static const enum wire_opcode opcodes[] = {WIRE_OP_MSG, WIRE_OP_QUERY, WIRE_OP_REPLY};
    static unsigned char msg[COPY_CAP];
    uint32_t seed = 3, i, k;

    unit_note = "random documents";
    for (i = 0; i < 3000; i++) {
        const char *drop[4] = {NULL};
        unsigned char add[64];
        struct bson b, extra;
        size_t n;

        mongomsg_begin(&b, msg, sizeof msg, opcodes[i % 3], 0, (int32_t)i, 5);
        random_document(&b, &seed, 0);
        n = mongomsg_finish(&b);
        if (n == 0)
            continue;
        for (k = chance(&seed, 4); k > 0; k--)
            drop[k - 1] = names[chance(&seed, COUNT(names))];
        bson_start(&extra, add, sizeof add);
        if (chance(&seed, 2) == 1)
            bson_string(&extra, names[chance(&seed, COUNT(names))], "added");
        check_edit(msg, n, opcodes[i % 3] == WIRE_OP_REPLY, drop, add, extra.len);
    }
}

/* ----------------------------------------------------------------- writing */

static void test_written(void)
{
    struct wire_header request = {0, -2, 0, WIRE_OP_MSG}, old = {0, -2, 0, WIRE_OP_QUERY};
    unsigned char out[512];
    struct bson b;
    struct wire w;
    size_t cap;

    unit_note = "written";
    mongomsg_begin(&b, out, sizeof out, WIRE_OP_MSG, 0, 123456789, 0);
    bson_int32(&b, "hello", 1);
    bson_string(&b, "$db", "admin");
    CHECK(mongomsg_finish(&b) == sizeof written_hello && memcmp(out, written_hello, sizeof written_hello) == 0);

    mongomsg_begin(&b, out, sizeof out, WIRE_OP_QUERY, 0, 123456789, 0);
    bson_int32(&b, "isMaster", 1);
    bson_bool(&b, "helloOk", true);
    CHECK(mongomsg_finish(&b) == sizeof written_hello_query && memcmp(out, written_hello_query, sizeof written_hello_query) == 0);
    CHECK(walk(&w, false, out, sizeof written_hello_query) == WIRE_WHOLE && w.admin && w.hello && wire_true(&w, WIRE_HELLO_OK));

    CHECK(mongomsg_refuse(out, sizeof out, &request, 123456789, MONGO_CODE_NO_SUCH_TRANSACTION, "no such transaction",
                          "TransientTransactionError") == sizeof written_refusal);
    CHECK(memcmp(out, written_refusal, sizeof written_refusal) == 0);
    CHECK(walk(&w, true, out, sizeof written_refusal) == WIRE_WHOLE && wire_has(&w, WIRE_OK) && !wire_true(&w, WIRE_OK));
    CHECK(w.number[WIRE_CODE] == 251 && wire_has(&w, WIRE_ERROR_LABELS) && w.header.response_to == -2);

    CHECK(mongomsg_refuse(out, sizeof out, &old, 123456789, MONGO_CODE_NO_SUCH_TRANSACTION, "no such transaction", NULL) == sizeof written_refusal_old);
    CHECK(memcmp(out, written_refusal_old, sizeof written_refusal_old) == 0);
    CHECK(walk(&w, true, out, sizeof written_refusal_old) == WIRE_WHOLE && w.header.opcode == WIRE_OP_REPLY);

    unit_note = "written without room";
    for (cap = 0; cap < sizeof written_refusal; cap++)
        CHECK(mongomsg_refuse(guard - cap, cap, &request, 123456789, MONGO_CODE_NO_SUCH_TRANSACTION, "no such transaction",
                              "TransientTransactionError") == 0);
    CHECK(mongomsg_refuse(guard - cap, cap, &request, 123456789, MONGO_CODE_NO_SUCH_TRANSACTION, "no such transaction",
                          "TransientTransactionError") == cap);

    unit_note = "flags of a written message";
    mongomsg_begin(&b, out, sizeof out, WIRE_OP_MSG, WIRE_EXHAUST_ALLOWED | WIRE_MORE_TO_COME, 1, 0);
    bson_int32(&b, "ping", 1);
    CHECK(walk(&w, false, out, mongomsg_finish(&b)) == WIRE_WHOLE && w.flags == (WIRE_EXHAUST_ALLOWED | WIRE_MORE_TO_COME) && wire_more_to_come(&w));
}

/* --------------------------------------------------- what a client is called */

static const char *called(const char *application, const char *driver, char out[MONGOMSG_NAME])
{
    unsigned char hello[512];
    struct bson b;
    struct bson_reader doc;
    struct bson_element client;
    bson_start(&b, hello, sizeof hello);
    bson_document(&b, NULL);
    bson_document(&b, "client");
    for (int i = 0; i < 2; i++) {
        if ((i == 0 ? application : driver) != NULL) {
            bson_document(&b, i == 0 ? "application" : "driver");
            bson_string(&b, "name", i == 0 ? application : driver);
            bson_close(&b);
        }
    }
    bson_close(&b);
    bson_close(&b);
    doc = bson_read(hello, b.len);
    memset(out, 'x', MONGOMSG_NAME);
    CHECK(bson_find(&doc, "client", &client));
    mongomsg_client_name(&client, out);
    return out;
}

static void test_client_name(void)
{
    char out[MONGOMSG_NAME], longest[MONGOMSG_NAME];
    unsigned char text[32];
    struct bson b;
    struct bson_reader doc;
    struct bson_element e;
    unit_note = "the name of a client";
    CHECK(strcmp(called("shop", "PyMongo", out), "shop") == 0);
    CHECK(strcmp(called(NULL, "PyMongo", out), "PyMongo") == 0);
    CHECK(strcmp(called("", "PyMongo", out), "") == 0);
    CHECK(strcmp(called(NULL, NULL, out), "") == 0);
    CHECK(strcmp(called("a\nb\x1b[2J\x7f\"c\xc3\xa9", NULL, out), "a?b?[2J?\"c\xc3\xa9") == 0);
    memset(longest, 'n', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    CHECK(strcmp(called(longest, NULL, out), longest) == 0);
    CHECK(strcmp(called("nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn", NULL, out), longest) == 0);
    bson_start(&b, text, sizeof text);
    bson_document(&b, NULL);
    bson_int32(&b, "client", 1);
    bson_close(&b);
    doc = bson_read(text, b.len);
    CHECK(bson_find(&doc, "client", &e));
    mongomsg_client_name(&e, out);
    CHECK(out[0] == '\0');
}

int main(void)
{
    (void)written_document;
    guard_map();
    test_golden();
    test_hello();
    test_refused_edits();
    test_random();
    test_written();
    test_client_name();
    return unit_end();
}
