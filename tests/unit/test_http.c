/* test_http.c - http.c, url.c and answer.c: requests good and bad, each cut at every place; heads, chunks and JSON to the byte.
 *
 *   request --whole, two pieces at every byte, byte by byte--> describe() --> the same text
 *           what has come lies at the end of a page; the next page may not be touched
 */
#define _DEFAULT_SOURCE

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/mman.h>
#include <unistd.h>

#include "answer.h"
#include "http.h"
#include "unit.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define GUARD_PAGES 20
#define TEXT_CAP 2048
#define H "Host: a\r\n"

static char *guard; /* the first byte that may not be touched */

static void guard_map(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *map = mmap(NULL, (GUARD_PAGES + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED || mprotect(map + GUARD_PAGES * page, page, PROT_NONE) < 0) {
        perror("mmap");
        exit(1);
    }
    guard = map + GUARD_PAGES * page;
}

static char work[HTTP_HEAD_MAX + 64]; /* the request as it stands after the last read: its path is decoded in place */

/* Reads n bytes that come in pieces: two at `cut`, or with cut 0 one for each byte. */
static enum http_status arrive(struct http_request *r, const char *bytes, size_t n, size_t cut)
{
    enum http_status status = HTTP_MORE;
    size_t at = 0;

    memset(r, 0xA5, sizeof *r);
    http_start(r);
    CHECK(http_read(r, guard, 0) == HTTP_MORE);
    while (at < n && status == HTTP_MORE) {
        size_t end = cut == 0 ? at + 1 : at < cut ? cut : n;
        char *head = guard - end;

        memcpy(work + at, bytes + at, end - at);
        memcpy(head, work, end);
        status = http_read(r, head, end);
        memcpy(work, head, end);
        CHECK((status == HTTP_BAD) == (r->error != 0) && (status == HTTP_WHOLE) == (r->error == 0 && r->head > 0));
        CHECK(http_read(r, head, end) == status);
        at = end;
    }
    return status;
}

struct text {
    char at[TEXT_CAP];
    size_t len;
};

#define SAY(t, ...) ((t)->len += (size_t)snprintf((t)->at + (t)->len, TEXT_CAP - (t)->len, __VA_ARGS__))

static void say_part(struct text *t, const char *name, struct url_part p)
{
    if (p.off != 0 && p.len > 0)
        SAY(t, " %s=%.*s", name, p.len < 80 ? (int)p.len : 80, work + p.off);
    else if (p.off != 0 && strcmp(name, "query") != 0)
        SAY(t, " %s=", name);
}

/* All that can be seen of a request from outside. */
static void describe(const struct http_request *r, enum http_status status, struct text *t)
{
    static const char *const names[] = {"host", "origin", "site", "login", "type", "length", "coding", "expect"};
    static const char *const methods[] = {"GET", "HEAD", "POST"};
    size_t i;

    t->len = 0;
    t->at[0] = '\0';
    if (status == HTTP_BAD)
        SAY(t, "%u", (unsigned)r->error);
    if (status != HTTP_WHOLE)
        return;
    SAY(t, "%s %.*s", methods[r->method], (int)r->path.len, work + r->path.off);
    say_part(t, "query", r->query);
    for (i = 0; i < HTTP_FIELDS; i++)
        say_part(t, names[i], r->field[i]);
    say_part(t, "bearer", r->bearer);
    SAY(t, "%s%s%s", r->old ? " old" : "", r->close ? " close" : "", r->expects ? " expects" : "");
    if (r->body > 0)
        SAY(t, " body %lu", (unsigned long)r->body);
}

static void every_cut(const char *bytes, size_t n, const char *about)
{
    struct text whole, other;
    struct http_request r;
    enum http_status status;
    size_t cut;

    status = arrive(&r, bytes, n, n);
    describe(&r, status, &whole);
    if (!CHECK(strcmp(whole.at, about) == 0))
        printf("  is:        %s\n  should be: %s\n", whole.at, about);
    for (cut = 0; cut < n; cut++) {
        describe(&r, arrive(&r, bytes, n, cut), &other);
        if (!CHECK(strcmp(whole.at, other.at) == 0))
            printf("  cut %zu\n  whole: %s\n  cut:   %s\n", cut, whole.at, other.at);
    }
}

#define BYTES(text) text, sizeof text - 1
#define CL(value) "POST /drain HTTP/1.1\r\n" H "Content-Length:" value "\r\n\r\n"
#define FIELD(line) "GET / HTTP/1.1\r\n" H line "\r\n\r\n"

static const struct {
    const char *name, *bytes;
    size_t n;
    const char *about; /* as describe() has it: of a bad one the status */
} samples[] = {
    /* Good ones. */
    {"short", BYTES("GET / HTTP/1.1\r\n" H "\r\n"), "GET / host=a"},
    {"empty host", BYTES("GET / HTTP/1.1\r\nHost:\r\n\r\n"), "GET / host="},
    {"HTTP/1.0 without host", BYTES("GET /metrics HTTP/1.0\r\n\r\n"), "GET /metrics old close"},
    {"HTTP/1.9", BYTES("HEAD / HTTP/1.9\r\n" H "\r\n"), "HEAD / host=a"},
    {"an empty line first", BYTES("\r\nGET / HTTP/1.1\r\n" H "\r\n"), "GET / host=a"},
    {"every field", BYTES("POST /drain?backend=a HTTP/1.1\r\nHOST: [::1]:9180\r\norigin: \thttp://[::1]:9180 \t\r\n"
                          "Sec-Fetch-Site: same-origin\r\nAuthorization: bEARER  abc.DEF==\r\nContent-Type: application/json\r\n"
                          "content-length: 12\r\nExpect: 100-Continue\r\nX-Other: a\tb \xC3\xA4\r\nX-Other: again\r\n\r\n"),
     "POST /drain query=backend=a host=[::1]:9180 origin=http://[::1]:9180 site=same-origin login=bEARER  abc.DEF== "
     "type=application/json length=12 expect=100-Continue bearer=abc.DEF== expects body 12"},
    {"other scheme", BYTES(FIELD("Authorization: Basic YTpi")), "GET / host=a login=Basic YTpi"},
    {"bearer of nothing", BYTES(FIELD("Authorization: Bearer ")), "GET / host=a login=Bearer"},
    {"close", BYTES(FIELD("Connection: close")), "GET / host=a close"},
    {"close in a list", BYTES(FIELD("Connection: keep-alive ,\tCLOSE,upgrade")), "GET / host=a close"},
    {"close in a second list", BYTES(FIELD("Connection: keep-alive\r\nConnection: close")), "GET / host=a close"},
    {"no close", BYTES(FIELD("Connection: closed, xclose, keep-alive")), "GET / host=a"},
    {"keep-alive of HTTP/1.0", BYTES("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), "GET / old close"},
    {"decoded", BYTES("GET /a%20b%2fc%C3%a4?x=%20 HTTP/1.1\r\n" H "\r\n"), "GET /a b/c\xC3\xA4 query=x=%20 host=a"},
    {"all that need not be encoded", BYTES("GET /AZaz09-._~!$&'()*+,;=:@/[] HTTP/1.1\r\n" H "\r\n"), "GET /AZaz09-._~!$&'()*+,;=:@/[] host=a"},
    {"plus in a path", BYTES("GET /a+b HTTP/1.1\r\n" H "\r\n"), "GET /a+b host=a"},
    {"query at once", BYTES("GET /?? HTTP/1.1\r\n" H "\r\n"), "GET / query=? host=a"},
    {"whole address", BYTES("GET HTTP://a/x?y HTTP/1.1\r\n" H "\r\n"), "GET /x query=y host=a"},
    {"whole address without a path", BYTES("GET http://a HTTP/1.1\r\n" H "\r\n"), "GET / host=a"},
    {"whole address, query alone", BYTES("GET http://a?y HTTP/1.1\r\n" H "\r\n"), "GET / query=y host=a"},
    {"whole address of HTTP/1.0", BYTES("GET http://a:80/ HTTP/1.0\r\n\r\n"), "GET / host=a:80 old close"},
    {"length 0", BYTES(CL("0")), "POST /drain host=a length=0"},
    {"length with zeros", BYTES(CL(" 000000000000000000000000012")), "POST /drain host=a length=000000000000000000000000012 body 12"},
    {"length 65536", BYTES(CL(" 65536 ")), "POST /drain host=a length=65536 body 65536"},
    {"expects without a body", BYTES(FIELD("Expect: 100-continue")), "GET / host=a expect=100-continue"},
    {"expect of HTTP/1.0", BYTES("POST / HTTP/1.0\r\nExpect: x\r\nContent-Length: 1\r\n\r\n"), "POST / length=1 expect=x old close body 1"},
    /* Lines. */
    {"bare LF", BYTES("GET / HTTP/1.1\n" H "\r\n"), "400"},
    {"bare LF behind a field", BYTES("GET / HTTP/1.1\r\nHost: a\n\r\n"), "400"},
    {"bare LF at the end", BYTES("GET / HTTP/1.1\r\n" H "\n"), "400"},
    {"LF alone", BYTES("\n"), "400"},
    {"bare CR in a field", BYTES(FIELD("X: a\rContent-Length: 5")), "400"},
    {"CR CR LF", BYTES("GET / HTTP/1.1\r\n" H "\r\r\n"), "400"},
    {"bare CR in the request line", BYTES("GET /\r HTTP/1.1\r\n" H "\r\n"), "400"},
    {"NUL in a field", BYTES(FIELD("X: a\0b")), "400"},
    {"NUL in a name", BYTES(FIELD("X\0: a")), "400"},
    {"NUL in the request line", BYTES("GET /\0 HTTP/1.1\r\n" H "\r\n"), "400"},
    {"DEL in a field", BYTES(FIELD("X: a\x7F")), "400"},
    {"escape in a field", BYTES(FIELD("X: \x1B[1m")), "400"},
    {"two empty lines first", BYTES("\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n"), "400"},
    {"obs-fold", BYTES(FIELD("X: a\r\n b")), "400"},
    {"obs-fold by a tab", BYTES(FIELD("X: a\r\n\tb")), "400"},
    {"blank before the first field", BYTES("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), "400"},
    {"line of blanks", BYTES("GET / HTTP/1.1\r\n" H " \r\n\r\n"), "400"},
    {"blank before the colon", BYTES("GET / HTTP/1.1\r\nHost : a\r\n\r\n"), "400"},
    {"tab before the colon", BYTES(FIELD("Content-Length\t: 5")), "400"},
    {"no name", BYTES(FIELD(": a")), "400"},
    {"no colon", BYTES(FIELD("Content-Length")), "400"},
    {"name with a quote", BYTES(FIELD("X\"Y: a")), "400"},
    {"name beyond ASCII", BYTES(FIELD("X\xC3\xA4: a")), "400"},
    /* Request lines. */
    {"nothing", BYTES("GET\r\n\r\n"), "400"},
    {"HTTP/0.9", BYTES("GET /\r\n"), "400"},
    {"two blanks", BYTES("GET  / HTTP/1.1\r\n" H "\r\n"), "400"},
    {"two blanks before the version", BYTES("GET /  HTTP/1.1\r\n" H "\r\n"), "400"},
    {"blank behind the version", BYTES("GET / HTTP/1.1 \r\n" H "\r\n"), "400"},
    {"blank first", BYTES(" GET / HTTP/1.1\r\n" H "\r\n"), "400"},
    {"tab", BYTES("GET\t/ HTTP/1.1\r\n" H "\r\n"), "400"},
    {"tab in the target", BYTES("GET /\ta HTTP/1.1\r\n" H "\r\n"), "400"},
    {"blank in the target", BYTES("GET /a b HTTP/1.1\r\n" H "\r\n"), "400"},
    {"no target", BYTES("GET HTTP/1.1\r\n" H "\r\n"), "400"},
    {"empty target", BYTES("GET  HTTP/1.1\r\n" H "\r\n"), "400"},
    {"lower case version", BYTES("GET / http/1.1\r\n" H "\r\n"), "400"},
    {"version without a point", BYTES("GET / HTTP/111\r\n" H "\r\n"), "400"},
    {"version with letters", BYTES("GET / HTTP/1.x\r\n" H "\r\n"), "400"},
    {"HTTP/1.10", BYTES("GET / HTTP/1.10\r\n" H "\r\n"), "400"},
    {"HTTP/2", BYTES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "505"},
    {"HTTP/0.9 said aloud", BYTES("GET / HTTP/0.9\r\n\r\n"), "505"},
    {"PUT", BYTES("PUT / HTTP/1.1\r\n" H "\r\n"), "501"},
    {"OPTIONS", BYTES("OPTIONS * HTTP/1.1\r\n" H "\r\n"), "501"},
    {"CONNECT", BYTES("CONNECT a:80 HTTP/1.1\r\n" H "\r\n"), "501"},
    {"lower case method", BYTES("get / HTTP/1.1\r\n" H "\r\n"), "501"},
    {"part of a method", BYTES("GE / HTTP/1.1\r\n" H "\r\n"), "501"},
    {"more than a method", BYTES("GETS / HTTP/1.1\r\n" H "\r\n"), "501"},
    {"no method", BYTES("G@T / HTTP/1.1\r\n" H "\r\n"), "400"},
    {"TLS", BYTES("\x16\x03\x01\x02\n"), "400"},
    {"RESP", BYTES("*1\r\n$4\r\nPING\r\n"), "400"},
    {"target without a slash", BYTES("GET metrics HTTP/1.1\r\n" H "\r\n"), "400"},
    {"target of a query", BYTES("GET ?a HTTP/1.1\r\n" H "\r\n"), "400"},
    {"fragment", BYTES("GET /#a HTTP/1.1\r\n" H "\r\n"), "400"},
    {"backslash", BYTES("GET /\\a HTTP/1.1\r\n" H "\r\n"), "400"},
    {"beyond ASCII", BYTES("GET /\xC3\xA4 HTTP/1.1\r\n" H "\r\n"), "400"},
    {"beyond ASCII in a query", BYTES("GET /?\xC3\xA4 HTTP/1.1\r\n" H "\r\n"), "400"},
    {"% without digits", BYTES("GET /% HTTP/1.1\r\n" H "\r\n"), "400"},
    {"% with one digit", BYTES("GET /a%4 HTTP/1.1\r\n" H "\r\n"), "400"},
    {"% with a letter", BYTES("GET /a%4g HTTP/1.1\r\n" H "\r\n"), "400"},
    {"% with a query behind it", BYTES("GET /a%?41 HTTP/1.1\r\n" H "\r\n"), "400"},
    {"encoded NUL", BYTES("GET /a%00 HTTP/1.1\r\n" H "\r\n"), "400"},
    {"encoded LF", BYTES("GET /a%0a HTTP/1.1\r\n" H "\r\n"), "400"},
    {"https", BYTES("GET https://a/ HTTP/1.1\r\n" H "\r\n"), "400"},
    {"no host in the address", BYTES("GET http:///x HTTP/1.1\r\n" H "\r\n"), "400"},
    {"user in the address", BYTES("GET http://u@a/ HTTP/1.1\r\n" H "\r\n"), "400"},
    /* Fields. */
    {"no host", BYTES("GET / HTTP/1.1\r\n\r\n"), "400"},
    {"two hosts", BYTES("GET / HTTP/1.1\r\n" H H "\r\n"), "400"},
    {"two hosts of HTTP/1.0", BYTES("GET / HTTP/1.0\r\n" H H "\r\n"), "400"},
    {"an empty host and another", BYTES("GET / HTTP/1.1\r\nHost:\r\n" H "\r\n"), "400"},
    {"host with a slash", BYTES("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"), "400"},
    {"host with a user", BYTES("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"), "400"},
    {"hosts in one", BYTES("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"), "400"},
    {"host that is not in the address", BYTES("GET http://b/ HTTP/1.1\r\n" H "\r\n"), "400"},
    {"host that is a part of the address", BYTES("GET http://ab/ HTTP/1.1\r\n" H "\r\n"), "400"},
    {"address without a host", BYTES("GET http://a/ HTTP/1.1\r\n\r\n"), "400"},
    {"two origins", BYTES(FIELD("Origin: http://a\r\nOrigin: http://b")), "400"},
    {"two logins", BYTES(FIELD("Authorization: Bearer a\r\nAuthorization: Bearer b")), "400"},
    {"two lengths", BYTES("POST / HTTP/1.1\r\n" H "Content-Length: 5\r\nContent-Length: 6\r\n\r\n"), "400"},
    {"the same length twice", BYTES("POST / HTTP/1.1\r\n" H "Content-Length: 5\r\ncontent-length: 5\r\n\r\n"), "400"},
    {"lengths in one", BYTES(CL(" 5, 5")), "400"},
    {"length +5", BYTES(CL(" +5")), "400"},
    {"length -5", BYTES(CL(" -5")), "400"},
    {"length 0x5", BYTES(CL(" 0x5")), "400"},
    {"length 5.0", BYTES(CL(" 5.0")), "400"},
    {"length of nothing", BYTES(CL("")), "400"},
    {"length 65537", BYTES(CL(" 65537")), "413"},
    {"length beyond 32 bits", BYTES(CL(" 4294967301")), "413"},
    {"length beyond 64 bits", BYTES(CL(" 18446744073709551621")), "413"},
    {"length beyond all bits, and no number", BYTES(CL(" 18446744073709551621x")), "400"},
    {"chunked", BYTES(FIELD("Transfer-Encoding: Chunked")), "411"},
    {"gzip, chunked", BYTES(FIELD("Transfer-Encoding: gzip, chunked")), "501"},
    {"identity", BYTES(FIELD("Transfer-Encoding: identity")), "501"},
    {"coding of nothing", BYTES(FIELD("Transfer-Encoding:")), "501"},
    {"vertical tab before a coding", BYTES(FIELD("Transfer-Encoding: \x0B" "chunked")), "400"},
    {"two codings", BYTES(FIELD("Transfer-Encoding: chunked\r\nTransfer-Encoding: x")), "400"},
    {"coding and length", BYTES("POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"), "400"},
    {"length and coding", BYTES("POST / HTTP/1.1\r\n" H "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), "400"},
    {"coding of HTTP/1.0", BYTES("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), "400"},
    {"other expectation", BYTES(FIELD("Expect: 200-ok")), "417"},
    {"not yet over", BYTES("GET / HTTP/1.1\r\n" H "\r"), ""},
};

static void test_samples(void)
{
    size_t i;

    for (i = 0; i < COUNT(samples); i++) {
        struct http_request r;
        char more[1024];
        size_t short_of;

        unit_note = samples[i].name;
        every_cut(samples[i].bytes, samples[i].n, samples[i].about);
        /* What stands behind it is not looked at; what is missing is waited for. */
        if (!CHECK(samples[i].n + 20 < sizeof more) || samples[i].about[0] < 'A')
            continue;
        memcpy(more, samples[i].bytes, samples[i].n);
        memset(more + samples[i].n, '\n', 20);
        CHECK(arrive(&r, more, samples[i].n + 20, samples[i].n + 20) == HTTP_WHOLE && r.head == samples[i].n);
        for (short_of = 1; short_of < samples[i].n; short_of++)
            CHECK(arrive(&r, samples[i].bytes, samples[i].n - short_of, samples[i].n - short_of) == HTTP_MORE);
    }
}

/* Each byte in each place of a request: no read beyond it, and no verdict that depends on how it was cut. */
static void test_any_byte(void)
{
    static const char request[] = "POST /a%41?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
    struct text whole, other;
    struct http_request r;
    char bytes[sizeof request - 1];
    size_t at;
    int c;

    unit_note = "any byte";
    for (at = 0; at < sizeof bytes; at++)
        for (c = 0; c < 256; c++) {
            memcpy(bytes, request, sizeof bytes);
            bytes[at] = (char)c;
            describe(&r, arrive(&r, bytes, sizeof bytes, sizeof bytes), &whole);
            describe(&r, arrive(&r, bytes, sizeof bytes, 0), &other);
            CHECK(strcmp(whole.at, other.at) == 0);
            /* A control byte anywhere is refused, or the head is not over. */
            if ((c < ' ' || c == 127) && c != request[at] && c != '\t')
                CHECK(whole.at[0] < 'A');
        }
}

/* A head of n bytes: its first line of `line` bytes, the rest in one field. */
static void make_head(char *out, size_t line, size_t n)
{
    static const char end[] = " HTTP/1.1\r\n", host[] = "Host: a\r\nX: ";
    size_t at = line - (sizeof end - 1);

    memset(out, 'a', n);
    memcpy(out, "GET /", 5);
    memcpy(out + at, end, sizeof end - 1);
    memcpy(out + line, host, sizeof host - 1);
    memcpy(out + n - 4, "\r\n\r\n", 4);
}

static void test_limits(void)
{
    static char head[HTTP_HEAD_MAX + 64];
    struct http_request r;

    unit_note = "limits";
    make_head(head, 20, HTTP_HEAD_MAX);
    CHECK(arrive(&r, head, HTTP_HEAD_MAX, HTTP_HEAD_MAX) == HTTP_WHOLE && r.head == HTTP_HEAD_MAX);
    CHECK(arrive(&r, head, HTTP_HEAD_MAX, 0) == HTTP_WHOLE && r.head == HTTP_HEAD_MAX);
    make_head(head, 20, HTTP_HEAD_MAX + 1);
    CHECK(arrive(&r, head, HTTP_HEAD_MAX - 1, HTTP_HEAD_MAX - 1) == HTTP_MORE);
    CHECK(arrive(&r, head, HTTP_HEAD_MAX, 0) == HTTP_BAD && r.error == 431); /* there is no use in waiting for the last byte */
    CHECK(arrive(&r, head, HTTP_HEAD_MAX + 1, HTTP_HEAD_MAX + 1) == HTTP_BAD && r.error == 431);
    make_head(head, HTTP_HEAD_MAX - 25, HTTP_HEAD_MAX);
    CHECK(arrive(&r, head, HTTP_HEAD_MAX, 0) == HTTP_WHOLE && r.path.len == HTTP_HEAD_MAX - 25 - 15);
    make_head(head, HTTP_HEAD_MAX + 1, HTTP_HEAD_MAX + 40);
    CHECK(arrive(&r, head, HTTP_HEAD_MAX + 40, 0) == HTTP_BAD && r.error == 414);
    memset(head, 'a', sizeof head);
    CHECK(arrive(&r, head, HTTP_HEAD_MAX, HTTP_HEAD_MAX) == HTTP_BAD && r.error == 414);
    memset(head + 10, '\n', 1);
    CHECK(arrive(&r, head, HTTP_HEAD_MAX, 0) == HTTP_BAD && r.error == 400);
}

/* One after the other in the same bytes, bodies among them. */
static void test_pipeline(void)
{
    char bytes[] = "POST /a HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\nGET /GET /b HTTP/1.1\r\n" H "\r\n\r\nHEAD /c HTTP/1.1\r\n" H "\r\n";
    static const char *const paths[] = {"/a", "/b", "/c"};
    const size_t n = sizeof bytes - 1;
    struct http_request r;
    size_t at = 0, i;

    unit_note = "pipeline";
    for (i = 0; i < COUNT(paths); i++) {
        http_start(&r);
        CHECK(http_read(&r, bytes + at, n - at) == HTTP_WHOLE && http_is(bytes + at, r.path, paths[i]));
        CHECK(!http_is(bytes + at, r.path, "/") && !http_is(bytes + at, r.path, "/aa"));
        at += r.head;
        CHECK(r.body == (i == 0 ? 5 : 0));
        if (i == 0) { /* in three pieces, of which the last is not all its own */
            CHECK(http_body(&r, 2) == 2 && r.body == 3 && http_body(&r, 0) == 0 && http_body(&r, 1) == 1 && http_body(&r, 1000) == 2);
            at += 5;
        }
        CHECK(r.body == 0 && http_body(&r, 100) == 0);
    }
    CHECK(at == n);
}

static void test_pairs(void)
{
    static const struct { const char *query; const char *about; } cases[] = {
        {"", "0"}, {"&", "0"}, {"&&&", "0"}, {"a", "a=|0"}, {"a=", "a=|0"}, {"=", "=|0"}, {"=b", "=b|0"}, {"a=b=c", "a=b=c|0"},
        {"a=1&b=2", "a=1|b=2|0"}, {"&a=1&&b&", "a=1|b=|0"}, {"a+b=c+d%2B", "a b=c d+|0"}, {"%61=%3d%26", "a==&|0"},
        {"n=10.0.0.1%3A6379", "n=10.0.0.1:6379|0"}, {"a=%", "-1"}, {"a=%4&b", "-1"}, {"a=1&%zz=2&b=3", "a=1|-1"}, {"a=%00", "-1"},
        {"a=%2525", "a=%25|0"}, {"a=%C3%A4", "a=\xC3\xA4|0"}, {"a=%0D%0A", "-1"}, {"a=%7f", "-1"}, {"a=\t", "-1"},
    };
    size_t i;

    for (i = 0; i < COUNT(cases); i++) {
        const size_t n = strlen(cases[i].query);
        char *bytes = memcpy(guard - n, cases[i].query, n);
        struct url_part rest = {0, (uint32_t)n}, name, value;
        struct text t = {"", 0};
        int got;

        unit_note = cases[i].query;
        while ((got = url_pair(bytes, &rest, &name, &value)) == 1)
            SAY(&t, "%.*s=%.*s|", (int)name.len, bytes + name.off, (int)value.len, bytes + value.off);
        SAY(&t, "%d", got);
        if (!CHECK(strcmp(t.at, cases[i].about) == 0))
            printf("  is:        %s\n  should be: %s\n", t.at, cases[i].about);
    }
}

static bool bearer(const char *given, const char *token)
{
    char bytes[256];
    struct http_request r;

    snprintf(bytes, sizeof bytes, "GET / HTTP/1.1\r\n" H "Authorization: Bearer %s\r\n\r\n", given);
    http_start(&r);
    CHECK(http_read(&r, bytes, strlen(bytes)) == HTTP_WHOLE);
    return http_bearer_is(&r, bytes, token, strlen(token));
}

static void test_bearer(void)
{
    unit_note = "bearer";
    CHECK(bearer("secret", "secret"));
    CHECK(!bearer("secreT", "secret") && !bearer("Secret", "secret") && !bearer("secre", "secret") && !bearer("secret1", "secret"));
    CHECK(!bearer("secretsecret", "secret") && !bearer("secret", "secretsecret") && !bearer("ssssss", "s"));
    CHECK(!bearer("", "") && !bearer("secret", "") && !bearer("", "secret"));
}

static bool same_site(const char *host, const char *fields)
{
    char bytes[256];
    struct http_request r;

    snprintf(bytes, sizeof bytes, "POST / HTTP/1.%d\r\n%s%s%s%s\r\n", host != NULL ? 1 : 0, host != NULL ? "Host: " : "",
             host != NULL ? host : "", host != NULL ? "\r\n" : "", fields);
    http_start(&r);
    CHECK(http_read(&r, bytes, strlen(bytes)) == HTTP_WHOLE);
    return http_same_site(&r, bytes);
}

static void test_same_site(void)
{
    unit_note = "same site";
    CHECK(same_site("a:9180", "") && same_site("a:9180", "Origin: http://a:9180\r\n") && same_site("a", "Origin: https://a\r\n"));
    CHECK(same_site("a", "Sec-Fetch-Site: same-origin\r\n") && same_site("a", "Sec-Fetch-Site: none\r\n") && same_site(NULL, ""));
    CHECK(!same_site("a", "Sec-Fetch-Site: cross-site\r\n") && !same_site("a", "Sec-Fetch-Site: same-site\r\n"));
    CHECK(!same_site("a", "Origin: http://a\r\nSec-Fetch-Site: cross-site\r\n") && !same_site("a", "Sec-Fetch-Site:\r\n"));
    CHECK(!same_site("a", "Origin: null\r\n") && !same_site("a", "Origin:\r\n") && !same_site("a", "Origin: http://\r\n"));
    CHECK(!same_site("a", "Origin: http://ba\r\n") && !same_site("a", "Origin: http://a.b\r\n") && !same_site("a", "Origin: a\r\n"));
    CHECK(!same_site("a:1", "Origin: http://a\r\n") && !same_site("a", "Origin: http://a:1\r\n") && !same_site("a", "Origin: ftp://a\r\n"));
    CHECK(!same_site("", "Origin: http://\r\n") && !same_site(NULL, "Origin: http://\r\n") && !same_site("a", "Origin: //a\r\n"));
}

/* Written whole at the end of a page; with any room less it is nothing. */
static void head_is(const struct answer *a, const char *text)
{
    const size_t n = strlen(text);
    size_t cap;

    if (!CHECK(answer_head(a, guard - n, n) == n && memcmp(guard - n, text, n) == 0))
        printf("  should be: %s\n", text);
    for (cap = 0; cap < n; cap++)
        CHECK(answer_head(a, guard - cap, cap) == 0);
}

/* Against the C library's calendar. */
static void test_date(void)
{
    static const int64_t ends[] = {0, 1, 59, 86399, 86400, 68169599, 68169600, 784111777, 951782399, 951782400, 951868800, 4107542399, 4107542400, 253402300799};
    char ours[ANSWER_DATE], theirs[64];
    size_t i;

    unit_note = "dates";
    for (i = 0; i < sizeof ends / sizeof *ends + 20000; i++) {
        const time_t t = (time_t)(i < sizeof ends / sizeof *ends ? ends[i] : (int64_t)i * 86399 * 7);
        CHECK(strftime(theirs, sizeof theirs, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&t)) == ANSWER_DATE - 1);
        CHECK(strcmp(answer_date(t, ours), theirs) == 0);
    }
    CHECK(strcmp(answer_date(784111777, ours), "Sun, 06 Nov 1994 08:49:37 GMT") == 0);
}

static void test_head(void)
{
    static const char *const more[] = {"Allow", "GET, HEAD", "WWW-Authenticate", "Bearer", NULL}, *const split[] = {"X", "a\r\nY: b", NULL};
    struct answer a = {.status = 200};
    char chunk[ANSWER_CHUNK_HEAD];

    unit_note = "head";
    head_is(&a, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    a = (struct answer){.status = 401, .type = "application/json", .date = "Sun, 06 Nov 1994 08:49:37 GMT", .length = UINT64_MAX,
                        .close = true, .guards = ANSWER_GUARDS, .more = more};
    head_is(&a, "HTTP/1.1 401 Unauthorized\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: application/json\r\n"
            "Content-Length: 18446744073709551615\r\nConnection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            "X-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\nAllow: GET, HEAD\r\n"
            "WWW-Authenticate: Bearer\r\n\r\n");
    a = (struct answer){.status = 200, .body = ANSWER_CHUNKED, .guards = ANSWER_NO_FRAME};
    head_is(&a, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Frame-Options: DENY\r\n\r\n");
    a = (struct answer){.status = 200, .body = ANSWER_UNTIL_CLOSE};
    head_is(&a, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    a = (struct answer){.status = 204, .length = 3};
    head_is(&a, "HTTP/1.1 204 No Content\r\n\r\n");
    a = (struct answer){.status = 599};
    head_is(&a, "HTTP/1.1 599 Unknown\r\nContent-Length: 0\r\n\r\n");
    a = (struct answer){.status = 200, .more = split};
    CHECK(answer_head(&a, guard - 500, 500) == 0);
    a = (struct answer){.status = 200, .type = "text/\x7Fplain"};
    CHECK(answer_head(&a, guard - 500, 500) == 0);
    answer_chunk(chunk, 0xABCDE);
    CHECK(memcmp(chunk, "0abcde\r\n", 8) == 0);
    answer_chunk(chunk, 1);
    CHECK(memcmp(chunk, "000001\r\n", 8) == 0);
}

/* A text with all there is. */
static void write_all(struct json *j)
{
    json_object(j, NULL);
    json_text(j, "name", "a\"b\\c\n\t\r\b\f\x01\x1F\x7F/");
    json_array(j, "list");
    json_int(j, NULL, INT64_MIN);
    json_int(j, NULL, -1);
    json_int(j, NULL, 0);
    json_uint(j, NULL, UINT64_MAX);
    json_bool(j, NULL, true);
    json_bool(j, NULL, false);
    json_null(j, NULL);
    json_array(j, NULL);
    json_close(j);
    json_object(j, NULL);
    json_close(j);
    json_object(j, NULL);
    json_double(j, "k\"", 0.5);
    json_close(j);
    json_close(j);
    json_bytes(j, "", "\0x", 2);
    json_close(j);
}

static const char all[] = "{\"name\":\"a\\\"b\\\\c\\n\\t\\r\\b\\f\\u0001\\u001f\\u007f/\",\"list\":[-9223372036854775808,-1,0,"
                          "18446744073709551615,true,false,null,[],{},{\"k\\\"\":0.5}],\"\":\"\\u0000x\"}";

static void test_json(void)
{
    const size_t n = sizeof all - 1;
    struct json j;
    size_t cap;

    unit_note = "json";
    json_start(&j, guard - n, n);
    write_all(&j);
    if (!CHECK(json_finish(&j) == n && memcmp(guard - n, all, n) == 0))
        printf("  is:        %.*s\n  should be: %s\n", (int)j.len, j.out, all);
    for (cap = 0; cap < n; cap++) {
        json_start(&j, guard - cap, cap);
        write_all(&j);
        CHECK(json_finish(&j) == 0 && j.full && j.len <= cap);
    }
}

/* In pieces: an element that has no room any more is taken away, and written again in the next piece. */
static void test_json_pieces(void)
{
    char whole[4096], pieced[4096], piece[40];
    struct json j, before;
    size_t n, i, len = 0;

    unit_note = "json in pieces";
    json_start(&j, whole, sizeof whole);
    json_array(&j, NULL);
    for (i = 0; i < 100; i++)
        json_uint(&j, NULL, i * i * i);
    json_close(&j);
    n = json_finish(&j);
    json_start(&j, piece, sizeof piece);
    json_array(&j, NULL);
    for (i = 0; i <= 100;) {
        before = j;
        if (i < 100)
            json_uint(&j, NULL, i * i * i);
        else
            json_close(&j);
        if (!j.full) {
            i++;
            continue;
        }
        j = before;
        memcpy(pieced + len, piece, j.len);
        len += j.len;
        json_go_on(&j, piece, sizeof piece);
    }
    memcpy(pieced + len, piece, j.len);
    len += j.len;
    CHECK(j.depth == 0 && n > 400 && len == n && memcmp(whole, pieced, n) == 0);
}

/* What would be no JSON is refused, and nothing is written behind it. */
static void test_json_misuse(void)
{
    char out[256];
    struct json j;
    int i;

#define REFUSED(...) do { json_start(&j, out, sizeof out); __VA_ARGS__; CHECK(json_finish(&j) == 0); } while (0)
    unit_note = "json misused";
    REFUSED((void)0);
    REFUSED(json_object(&j, NULL));
    REFUSED(json_object(&j, "name"); json_close(&j));
    REFUSED(json_object(&j, NULL); json_int(&j, NULL, 1); json_close(&j));
    REFUSED(json_array(&j, NULL); json_int(&j, "name", 1); json_close(&j));
    REFUSED(json_array(&j, NULL); json_close(&j); json_close(&j));
    REFUSED(json_int(&j, NULL, 1); json_int(&j, NULL, 2));
    REFUSED(json_close(&j));
    for (i = 0; i < 2; i++) {
        int deep;

        json_start(&j, out, sizeof out);
        for (deep = 0; deep < JSON_DEPTH + i; deep++)
            json_array(&j, NULL);
        for (deep = 0; deep < JSON_DEPTH + i; deep++)
            json_close(&j);
        CHECK(json_finish(&j) == (i == 0 ? 2 * JSON_DEPTH : 0));
    }
}

/* Each control byte, and nothing else below 128, is written by its number or by a letter. */
static void test_escapes(void)
{
    char out[16], should[16];
    int c;

    unit_note = "escapes";
    for (c = 0; c < 128; c++) {
        const char byte = (char)c;
        struct json j;

        json_start(&j, out, sizeof out);
        json_bytes(&j, NULL, &byte, 1);
        out[json_finish(&j)] = '\0';
        if (c != 0 && strchr("\b\f\n\r\t\"\\", c) != NULL)
            CHECK(strlen(out) == 4 && out[1] == '\\');
        else if (snprintf(should, sizeof should, c < ' ' || c == 127 ? "\"\\u%04x\"" : "\"%c\"", c) > 0)
            CHECK(strcmp(out, should) == 0);
    }
}

static void test_utf8(void)
{
#define BAD "\xEF\xBF\xBD"
    static const struct { const char *bytes, *text; } cases[] = {
        {"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x9A\xAA", "\xC3\xA4\xE2\x82\xAC\xF0\x9F\x9A\xAA"}, {"\x80", BAD}, {"a\xFF" "b", "a" BAD "b"},
        {"\xC3", BAD}, {"\xC3(", BAD "("}, {"\xC0\x80", BAD BAD}, {"\xC1\xBF", BAD BAD}, {"\xE0\x9F\xBF", BAD BAD BAD}, {"\xE0\xA0\x80", "\xE0\xA0\x80"},
        {"\xED\x9F\xBF", "\xED\x9F\xBF"}, {"\xED\xA0\x80", BAD BAD BAD}, {"\xE2\x82", BAD BAD}, {"\xF0\x8F\xBF\xBF", BAD BAD BAD BAD},
        {"\xF0\x90\x80\x80", "\xF0\x90\x80\x80"}, {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"}, {"\xF4\x90\x80\x80", BAD BAD BAD BAD},
        {"\xF5\x80\x80\x80", BAD BAD BAD BAD}, {"\xE2\x82\"", BAD BAD "\\\""},
    };
    size_t i;

    unit_note = "UTF-8";
    for (i = 0; i < COUNT(cases); i++) {
        const size_t n = strlen(cases[i].bytes);
        char out[64];
        struct json j;

        json_start(&j, out, sizeof out);
        json_bytes(&j, NULL, memcpy(guard - n, cases[i].bytes, n), n);
        out[json_finish(&j)] = '\0';
        CHECK(strlen(out) == strlen(cases[i].text) + 2 && strncmp(out + 1, cases[i].text, strlen(cases[i].text)) == 0);
    }
}

static const char *double_text(double v, char out[64])
{
    struct json j;

    json_start(&j, out, 63);
    json_double(&j, NULL, v);
    out[json_finish(&j)] = '\0';
    return out;
}

static void test_doubles(void)
{
    static const struct { double v; const char *text; } cases[] = {
        {0, "0"}, {1, "1"}, {-1, "-1"}, {0.1, "0.1"}, {0.1 + 0.2, "0.3"}, {100, "100"}, {12.5, "12.5"}, {0.05, "0.05"}, {1e15, "1000000000000000"},
        {1e16, "1e16"}, {1e-5, "0.00001"}, {1.5e-7, "1.5e-7"}, {123456789012.0, "123456789012"}, {999999999999.9, "1000000000000"},
        {0.99999999999999, "1"}, {9.9999999999999, "10"}, {3.14159265358979, "3.14159265359"}, {-2.5e300, "-2.5e300"},
    };
    char out[64];
    size_t i;
    int power;

    unit_note = "doubles";
    for (i = 0; i < COUNT(cases); i++)
        if (!CHECK(strcmp(double_text(cases[i].v, out), cases[i].text) == 0))
            printf("  is: %s, should be: %s\n", out, cases[i].text);
    for (power = -300; power <= 300; power++) {
        double v, again;

        snprintf(out, sizeof out, "1.23456789012e%d", power);
        v = strtod(out, NULL);
        again = strtod(double_text(v, out), NULL);
        CHECK(again - v <= v * 1e-11 && v - again <= v * 1e-11);
    }
    CHECK(strcmp(double_text(HUGE_VAL, out), "null") == 0 && strcmp(double_text(-HUGE_VAL, out), "null") == 0);
    CHECK(strcmp(double_text(HUGE_VAL - HUGE_VAL, out), "null") == 0);
    CHECK(strtod(double_text(5e-324, out), NULL) < 1e-323); /* the least there is */
}

int main(void)
{
    guard_map();
    test_samples();
    test_any_byte();
    test_limits();
    test_pipeline();
    test_pairs();
    test_bearer();
    test_same_site();
    test_head();
    test_date();
    test_json();
    test_json_pieces();
    test_json_misuse();
    test_escapes();
    test_utf8();
    test_doubles();
    return unit_end();
}
