/* test_admin_guard.c - who may ask the listener of operators: names, pages, tokens, and how often, on a clock of the test's own. */
#include "admin_guard.h"
#include "unit.h"

#include <stdlib.h>
#include <string.h>

static struct conf conf;
static char head[HTTP_HEAD_MAX];
static struct http_request request;

static struct address from(const char *host)
{
    struct address a;
    CHECK(address_numeric(host, 1, &a));
    return a;
}

/* Reads a request with these lines behind the first one. */
static void ask(const char *lines)
{
    int n = snprintf(head, sizeof head, "GET / HTTP/1.1\r\n%s\r\n", lines);
    unit_note = lines;
    http_start(&request);
    CHECK(http_read(&request, head, (size_t)n) == HTTP_WHOLE);
}

/* The status that a request from there meets at its name and page; 0: none. */
static int site(const struct address *peer, const char *lines)
{
    const struct guard_refusal *no;
    ask(lines);
    no = guard_site(&conf, peer, &request, head);
    return no != NULL ? no->status : 0;
}

static void test_names(void)
{
    static const char *const ours[] = {
        "localhost", "LocalHost:9180", "127.0.0.1", "127.0.0.1:9180", "[::1]", "[::1]:9180", "203.0.113.7:1", "ops.example", "OPS.example:80", "second:1", "localhost:",
    }, *const others[] = {
        "evil.example", "localhost.evil.example", "xlocalhost", "ops.example.evil.example", "ops.exampl", "127.0.0.1.evil.example", "[::1", "::1]:1",
        "127.0.0.1:x", "[evil]", "1.2.3", "second:1:2",
    };
    const struct address peer = from("192.0.2.1");
    struct address unix_peer = { .len = 2 };
    char lines[200];
    unix_peer.u.sa.sa_family = AF_UNIX;
    snprintf(conf.admin_hosts, sizeof conf.admin_hosts, "ops.example,\tsecond");
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        snprintf(lines, sizeof lines, "Host: %s\r\n", ours[i]);
        CHECK(site(&peer, lines) == 0);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snprintf(lines, sizeof lines, "Host: %s\r\n", others[i]);
        CHECK(site(&peer, lines) == 421);
        CHECK(site(&unix_peer, lines) == 0);
    }
    CHECK(site(&peer, "Host:\r\n") == 0);
    conf.admin_hosts[0] = '\0';
    CHECK(site(&peer, "Host: ops.example\r\n") == 421);
}

static void test_pages(void)
{
    const struct address peer = from("192.0.2.1");
    CHECK(site(&peer, "Host: localhost:1\r\nOrigin: http://localhost:1\r\n") == 0);
    CHECK(site(&peer, "Host: localhost:1\r\nOrigin: http://localhost:2\r\n") == 403);
    CHECK(site(&peer, "Host: localhost:1\r\nOrigin: null\r\n") == 403);
    CHECK(site(&peer, "Host: localhost:1\r\nSec-Fetch-Site: cross-site\r\n") == 403);
    CHECK(site(&peer, "Host: evil.example\r\nOrigin: http://evil.example\r\n") == 421); /* its own page, under a name that leads here */
}

/* The same at its token. */
static int token(const char *host, const char *lines, bool changes, bool waited, uint64_t now_ms, uint32_t *wait_ms)
{
    const struct address peer = from(host);
    const struct guard_refusal *no;
    ask(lines);
    no = guard_token(&conf, &peer, &request, head, changes, waited, now_ms, wait_ms);
    CHECK(no == NULL || (no->counter == &stats.admin_unauthorized && *wait_ms == 0));
    return no != NULL ? no->status : 0;
}

static void test_tokens(void)
{
    static const char none[] = "Host: a\r\n", right[] = "Host: a\r\nAuthorization: Bearer open-sesame\r\n", wrong[] = "Host: a\r\nAuthorization: Bearer open\r\n";
    uint32_t wait;
    CHECK(token("127.0.0.1", none, false, false, 1, &wait) == 0 && token("127.0.0.1", none, true, false, 1, &wait) == 403);
    CHECK(token("192.0.2.1", none, false, false, 1, &wait) == 403 && token("192.0.2.1", right, true, false, 1, &wait) == 403);
    snprintf(conf.admin_token, sizeof conf.admin_token, "open-sesame");
    CHECK(token("127.0.0.1", none, false, false, 1, &wait) == 401 && token("192.0.2.1", wrong, false, false, 1, &wait) == 401);
    CHECK(token("192.0.2.1", right, true, false, 1, &wait) == 0 && wait == 0);
    for (int i = 0; i < 3; i++) {
        CHECK(token("192.0.2.2", wrong, false, false, 1, &wait) == 401);
    }
    CHECK(token("192.0.2.2", right, false, false, 1, &wait) == 0 && wait > 0); /* the right one waits as long: else a wait would tell */
    CHECK(token("192.0.2.2", right, false, true, 1, &wait) == 0 && wait == 0);
    CHECK(token("192.0.2.2", wrong, false, true, 1, &wait) == 401);
    CHECK(token("192.0.2.2", none, false, false, 1, &wait) == 401); /* is no guess */
    CHECK(token("192.0.2.3", right, false, false, 1, &wait) == 0 && wait == 0);
    CHECK(token("192.0.2.2", right, false, false, 3600000, &wait) == 0 && wait == 0);
    conf.admin_token[0] = '\0';
}

static void test_rate(void)
{
    const struct address one = from("192.0.2.1"), two = from("192.0.2.2");
    unit_note = "how often";
    for (int i = 0; i < GUARD_RATE; i++) {
        CHECK(guard_counts(&one, 1, 1000));
    }
    CHECK(!guard_counts(&one, 1, 1000) && guard_counts(&two, 1, 1000));
    for (int i = 0; i < GUARD_RATE / 1000; i++) {
        CHECK(guard_counts(&one, 1, 1001)); /* a millisecond's worth */
    }
    CHECK(!guard_counts(&one, 1, 1001));
    CHECK(!guard_counts(&one, GUARD_REFUSED_COST, 1002) && !guard_counts(&one, 1, 1002)); /* what is too much takes what there is */
    CHECK(guard_counts(&one, GUARD_RATE, 9000) && !guard_counts(&one, 1, 9000));         /* never more than a second's */
    for (unsigned i = 0; i < 64; i++) { /* as many as are counted: who has asked nothing longest gives way */
        char host[32];
        struct address a;
        snprintf(host, sizeof host, "198.51.100.%u", i);
        a = from(host);
        CHECK(guard_counts(&a, 1, 9001 + i));
    }
    CHECK(guard_counts(&one, GUARD_RATE, 9100));
}

int main(void)
{
    test_names();
    test_pages();
    test_tokens();
    test_rate();
    return unit_end();
}
