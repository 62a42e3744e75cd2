/* test_jread.c - jread.c: what is JSON and what is not, each text cut at every place; walks; strings that can be shown.
 *
 *   the text lies at the end of a page; the next page may not be touched
 */
#define _DEFAULT_SOURCE

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "jread.h"
#include "unit.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static char *guard; /* the first byte that may not be touched */

static void guard_map(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *map = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED || mprotect(map + 2 * page, page, PROT_NONE) < 0) {
        perror("mmap");
        exit(1);
    }
    guard = map + 2 * page;
}

/* Judges a text that ends at the guard. */
static bool judge(const char *text, size_t n, struct jvalue *v)
{
    memcpy(guard - n, text, n);
    return jread_text(guard - n, n, v);
}

static const char *const good[] = {
    "0", "-0", "12", "-12.5e+3", "1E9", "0.5", "\"\"", "\"a\"", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\"", "true", "false", "null", "[]", "{}", " [ ] ", "[[],{}]",
    "[1,2,3]", "{\"a\":1}", "{\"a\":{\"b\":[1,{\"c\":null}]},\"d\":\"\"}", " {\n\t\"a\" : 1 ,\r\n \"b\" : [ 1 , 2 ] } ", "[\"a:b\",\"c\"]",
    "{\"\":0}", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", "\"\xc3\xa4\"", "{\"a\":1,\"a\":2}",
};

static const char *const bad[] = {
    "", " ", "01", "-", "+1", ".5", "1.", "1e", "1e+", "0x1", "\"", "\"a", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\n\"", "tru", "True", "nulll", "[", "]", "[1",
    "[1,", "[1,]", "[,1]", "[1 2]", "{", "}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{\"a\":1 \"b\":2}", "{1:2}", "[1}", "{\"a\":1]", "1 2", "[] []",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", "{\"a\":1}x", "\"\\", "\"\\u", "[\"a\":1]", "nan", "'a'", "//", "\xef\xbb\xbf{}",
};

static void test_texts(void)
{
    struct jvalue v;

    for (size_t i = 0; i < COUNT(good); i++) {
        size_t n = strlen(good[i]);
        bool scalar;

        unit_note = good[i];
        CHECK(judge(good[i], n, &v) && v.n > 0);
        scalar = strchr("{[\"", *v.p) == NULL; /* of a number, a beginning may be one too */
        for (size_t cut = 0; cut < n; cut++) {
            bool whole = judge(good[i], cut, &v);
            CHECK(scalar || !whole || strspn(good[i] + cut, " \t\r\n") == n - cut);
        }
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        unit_note = bad[i];
        CHECK(!judge(bad[i], strlen(bad[i]), &v) && v.n == 0);
    }
    unit_note = "a NUL";
    CHECK(!judge("[1\0]", 4, &v));
    CHECK(!judge("\"a\0\"", 4, &v));
}

static struct jvalue read_text(const char *text)
{
    struct jvalue v;

    unit_note = text;
    CHECK(judge(text, strlen(text), &v));
    return v;
}

static void test_walks(void)
{
    struct jvalue v = read_text(" {\"a\":1, \"list\" : [10,\"x\",{\"a\":2},[]] ,\"b\":\"\\\"}\", \"a\":3}"), part, name, inside;
    int64_t sum = 0;
    int n = 0;

    CHECK(jread_get(v, "a", &part) && jread_number(part) == 1);
    CHECK(jread_get(v, "b", &part) && part.n == 5);
    CHECK(!jread_get(v, "c", &part) && part.n == 0);
    CHECK(!jread_get(part, "a", &part));
    CHECK(jread_get(v, "list", &part));
    CHECK(!jread_get(part, "a", &name));
    for (inside = jread_inside(part); jread_next(&inside, &name, &part); n++) {
        CHECK(name.n == 0);
        sum += jread_number(part);
    }
    CHECK(n == 4 && sum == 10 && !jread_next(&inside, &name, &part));
    n = 0;
    for (inside = jread_inside(v); jread_next(&inside, &name, &part); n++)
        CHECK(name.n > 0 && name.p[0] != '"');
    CHECK(n == 4);
    inside = jread_inside(read_text("12"));
    CHECK(!jread_next(&inside, &name, &part));
    inside = jread_inside(read_text("[ ]"));
    CHECK(!jread_next(&inside, &name, &part));
}

static void test_strings(void)
{
    static const struct { const char *text, *shown; } list[] = {
        {"\"abc\"", "abc"}, {"\"\"", ""}, {"12", "12"}, {"true", "true"}, {"[1]", ""}, {"{}", ""},
        {"\"a\\n\\t\\u001b[2J\\u0000b\"", "a???[2J?b"}, {"\"\\\"\\\\\\/\"", "\"\\/"}, {"\"\\u00e4\\u20ac\"", "\xc3\xa4\xe2\x82\xac"},
        {"\"\\ud83d\\ude00\"", "\xf0\x9f\x98\x80"}, {"\"\\ud83d\"", "?"}, {"\"\\ud83dx\"", "?x"}, {"\"\\ude00\"", "?"}, {"\"\\ud83d\\u0041\"", "?A"},
        {"\"\\u0085\\u009b1m\"", "??1m"}, {"\"\xc2\x9b\"", "?"}, {"\"\x7f\"", "?"}, {"\"\xff\xfe\"", "??"}, {"\"\xc3\"", "?"}, {"\"\xe2\x82\"", "??"},
        {"\"\xc0\xaf\"", "??"}, {"\"\xe0\x80\xaf\"", "???"}, {"\"\xed\xa0\x80\"", "???"}, {"\"\xf4\x90\x80\x80\"", "????"}, {"\"\xc3\xa4\"", "\xc3\xa4"},
    };
    char out[64];

    for (size_t i = 0; i < COUNT(list); i++) {
        struct jvalue v = read_text(list[i].text);
        CHECK(jread_string(v, out, sizeof out) == strlen(list[i].shown) && strcmp(out, list[i].shown) == 0);
    }
    unit_note = "cut";
    CHECK(jread_string(read_text("\"a\xc3\xa4\xc3\xa4\""), out, 5) == 3 && strcmp(out, "a\xc3\xa4") == 0);
    CHECK(jread_string(read_text("\"abcdef\""), out, 4) == 3 && strcmp(out, "abc") == 0);
    CHECK(jread_string((struct jvalue){NULL, 0}, out, 4) == 0 && out[0] == '\0');
}

static void test_numbers(void)
{
    CHECK(jread_number(read_text("0")) == 0 && jread_number(read_text("-7")) == -7 && jread_number(read_text("12.9e5")) == 12);
    CHECK(jread_number(read_text("9223372036854775807")) == INT64_MAX && jread_number(read_text("9223372036854775808")) == INT64_MAX);
    CHECK(jread_number(read_text("99999999999999999999999")) == INT64_MAX && jread_number(read_text("-99999999999999999999999")) == -INT64_MAX);
    CHECK(jread_number(read_text("\"12\"")) == 0 && jread_number(read_text("null")) == 0 && jread_number((struct jvalue){NULL, 0}) == 0);
    CHECK(jread_is(read_text("true"), "true") && !jread_is(read_text("false"), "true") && !jread_is(read_text("\"true\""), "true"));
}

int main(void)
{
    guard_map();
    test_texts();
    test_walks();
    test_strings();
    test_numbers();
    return unit_end();
}
