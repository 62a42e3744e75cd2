/* test_bson.c - bson.c against documents that another encoder made, at every size of the buffer, and on bytes that are no BSON.
 *
 *   writer --> bytes == mongo_golden.h's;  buffer of any size, its end at a page that may not be written
 *   reader --> elements of a document that lies at such a page; cut short and broken
 */
#define _DEFAULT_SOURCE

#include <stdint.h>

#include "bson.h"
#include "mongo.h"

/* The document that mongo_golden.py calls written_document. */
static void write_document(struct bson *b, unsigned char *out, size_t cap)
{
    int32_t i;

    bson_start(b, out, cap);
    bson_document(b, NULL);
    bson_int32(b, "i", -2);
    bson_int64(b, "l", (int64_t)1 << 40);
    bson_double(b, "f", -1.25);
    bson_bool(b, "t", true);
    bson_bool(b, "n", false);
    bson_string(b, "s", "caf\xc3\xa9");
    bson_string_n(b, "e", "x", 0);
    bson_object_id(b, "o", (const unsigned char *)"\x50\x7f\x1f\x77\xbc\xf8\x6c\xd7\x99\x43\x90\x11");
    bson_binary(b, "b", 4, "\0\1\2", 3);
    bson_date(b, "when", INT64_C(1709208000500));
    bson_document(b, "d");
    bson_int32(b, "x", 1);
    bson_document(b, "d");
    bson_close(b);
    bson_close(b);
    bson_array(b, "a");
    for (i = 0; i < 12; i++) {
        bson_document(b, NULL);
        bson_int32(b, "i", i);
        bson_close(b);
    }
    bson_close(b);
    bson_close(b);
}

static void test_writer(void)
{
    const size_t need = sizeof written_document;
    struct bson b;
    size_t cap;
    int i;

    unit_note = "writer";
    write_document(&b, guard - need, need);
    CHECK(!b.overflow && b.len == need && memcmp(guard - need, written_document, need) == 0);
    for (cap = 0; cap < need; cap++) {
        memset(guard - need - 1, 0x5A, need + 1);
        write_document(&b, guard - cap, cap);
        CHECK(b.overflow && b.len <= cap && guard[-(long)cap - 1] == 0x5A);
    }

    unit_note = "misuse of the writer";
    bson_start(&b, guard - 100, 100);
    bson_close(&b);
    CHECK(b.overflow);
    bson_start(&b, guard - 1000, 1000);
    for (i = 0; i < BSON_DEPTH; i++)
        bson_document(&b, "d");
    CHECK(!b.overflow);
    bson_document(&b, "d");
    CHECK(b.overflow);
    for (i = 0; i < BSON_DEPTH + 2; i++)
        bson_close(&b);
    CHECK(b.overflow && b.depth == BSON_DEPTH);
    bson_start(&b, guard - 100, 100);
    bson_bytes(&b, guard - 200, SIZE_MAX);
    CHECK(b.overflow && b.len == 0);
}

static void test_reader(void)
{
    const size_t n = sizeof written_document;
    struct bson_reader r = bson_read(guarded(written_document, n), n), inner;
    struct bson_element e;
    struct bson b;
    unsigned char again[1024];
    int64_t v = 0;
    size_t len, count;

    unit_note = "reader";
    CHECK(!r.bad);
    CHECK(bson_find(&r, "i", &e) && bson_number(&e, &v) && v == -2 && e.type == BSON_INT32);
    CHECK(bson_find(&r, "l", &e) && bson_number(&e, &v) && v == (int64_t)1 << 40);
    CHECK(bson_find(&r, "f", &e) && bson_number(&e, &v) && v == -1);
    CHECK(bson_find(&r, "t", &e) && bson_number(&e, &v) && v == 1);
    CHECK(bson_find(&r, "s", &e) && !bson_number(&e, &v) && bson_text(&e, &len) != NULL && len == 5);
    CHECK(memcmp(bson_text(&e, &len), "caf\xc3\xa9", 6) == 0);
    CHECK(bson_find(&r, "e", &e) && bson_text(&e, &len) != NULL && len == 0);
    CHECK(bson_find(&r, "i", &e) && bson_text(&e, &len) == NULL && bson_enter(&e).bad);
    CHECK(bson_find(&r, "b", &e) && e.len == 8 && memcmp(e.value, "\3\0\0\0\4\0\1\2", 8) == 0);
    CHECK(bson_find(&r, "d.x", &e) && bson_number(&e, &v) && v == 1);
    CHECK(bson_find(&r, "a.11.i", &e) && bson_number(&e, &v) && v == 11);
    CHECK(!bson_find(&r, "a.12.i", &e) && !bson_find(&r, "d.y", &e) && !bson_find(&r, "i.x", &e) && !bson_find(&r, "", &e));
    CHECK(!bson_find(&r, "d.d.d.d.d.d.d.d.d.d.d", &e) && !bson_find(&r, "d.", &e) && !bson_find(&r, ".d", &e));
    CHECK(bson_find(&r, "a", &e));
    inner = bson_enter(&e);
    for (count = 0; bson_next(&inner, &e); count++)
        CHECK(e.type == BSON_DOCUMENT && e.len == 12 && e.name_len == (count < 10 ? 1 : 2));
    CHECK(count == 12 && !inner.bad);

    /* All elements copied one by one are the same document. */
    bson_start(&b, again, sizeof again);
    bson_document(&b, NULL);
    while (bson_next(&r, &e))
        bson_copy(&b, e.name, &e);
    bson_close(&b);
    CHECK(!r.bad && b.len == n && memcmp(again, written_document, n) == 0);
}

/* Walks all that can be entered; gives the number of elements. No recursion is needed for what the tests hold. */
static size_t walk_all(struct bson_reader r, int depth)
{
    struct bson_element e;
    size_t count = 0, len;

    while (depth > 0 && bson_next(&r, &e)) {
        int64_t v;

        CHECK(e.value + e.len <= r.end && e.start < e.value && strlen(e.name) == e.name_len);
        count += 1U + (bson_number(&e, &v) ? 1U : 0U) + (bson_text(&e, &len) != NULL ? len : 0);
        if (e.type == BSON_DOCUMENT || e.type == BSON_ARRAY)
            count += walk_all(bson_enter(&e), depth - 1);
    }
    return count;
}

static void test_no_bson(void)
{
    unsigned char bytes[sizeof written_document];
    uint32_t seed = 7;
    size_t n, i, count = 0;

    unit_note = "no BSON";
    CHECK(bson_read(NULL, 0).bad);
    for (n = 0; n < sizeof bytes; n++)
        CHECK(bson_read(guarded(written_document, n), n).bad);
    for (i = 0; i < 20000; i++) {
        memcpy(bytes, written_document, sizeof bytes);
        bytes[chance(&seed, sizeof bytes)] = (unsigned char)chance(&seed, 256);
        bytes[chance(&seed, sizeof bytes)] = (unsigned char)chance(&seed, 256);
        count += walk_all(bson_read(guarded(bytes, sizeof bytes), sizeof bytes), 5);
    }
    CHECK(count > 20000);

    /* The last element begins too late for its value: its length, one of its two texts, the end of its text. */
    {
        static const struct { const char *doc; size_t n; bool good; } late[] = {
            {"\x0B\0\0\0\x02" "a\0\1\0\0\0", 11, false}, {"\x0A\0\0\0\x02" "a\0\1\0\0", 10, false}, {"\x08\0\0\0\x02" "a\0\0", 8, false},
            {"\x0A\0\0\0\x0B" "a\0b\0\0", 10, false}, {"\x0B\0\0\0\x0B" "a\0b\0\0\0", 11, true}, {"\x0B\0\0\0\x0B" "a\0b\0c\0", 11, false}, {"\x09\0\0\0\x0B" "a\0b\0", 9, false},
            {"\x08\0\0\0\x0B" "a\0\0", 8, false}, {"\x08\0\0\0\x0A" "a\0\0", 8, true}, {"\x0D\0\0\0\x02" "a\0\1\0\0\0x\0", 13, true}};
        struct bson_element e;
        size_t len;

        for (i = 0; i < sizeof late / sizeof late[0]; i++) {
            struct bson_reader r = bson_read(guarded(late[i].doc, late[i].n), late[i].n);

            CHECK(!r.bad && bson_next(&r, &e) == late[i].good && r.bad == !late[i].good);
        }
        CHECK(e.type == BSON_STRING && bson_text(&e, &len) == NULL); /* the last: a text without its NUL */
    }

    /* Cut at any place, with its length put right, the last element is what is wrong. */
    for (n = 5; n < sizeof bytes; n++) {
        struct bson_reader r;
        struct bson_element e;

        memcpy(bytes, written_document, n);
        bson_put32(bytes, (uint32_t)n);
        bytes[n - 1] = 0;
        r = bson_read(guarded(bytes, n), n);
        CHECK(!r.bad);
        while (bson_next(&r, &e))
            CHECK(e.value + e.len <= r.end);
    }
}

int main(void)
{
    (void)golden;
    (void)written_hello;
    (void)written_hello_query;
    (void)written_refusal;
    (void)written_refusal_old;
    guard_map();
    test_writer();
    test_reader();
    test_no_bson();
    return unit_end();
}
