/*
 * test_net.c - addresses as text, listeners, dials, bytes both ways, stale socket files; in the fault build the
 * faults themselves.
 */
#include "puerta.h"
#include "unit.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------- addresses */

static void test_parse(void)
{
    static const struct { const char *text, *back; } good[] = {
        { "127.0.0.1:6379", "127.0.0.1:6379" },
        { "0.0.0.0:1", "0.0.0.0:1" },
        { "[::1]:65535", "[::1]:65535" },
        { "[::]:80", "[::]:80" },
        { "[2001:db8:0:0:0:0:0:7]:80", "[2001:db8::7]:80" },
        { "::1:80", "[::1]:80" },
        { "[fe80::1%1]:80", "[fe80::1%1]:80" },
        { "unix:/tmp/x.sock", "unix:/tmp/x.sock" },
    };
    static const char *const bad[] = {
        "", ":", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:123456", "127.0.0.1:8o",
        "127.0.0.1:-1", "127.0.0.1: 1", "1.2.3:80", "1.2.3.4.5:80", "256.1.1.1:80", "localhost:80", "[::1:80", "[]:80",
        ":80", "[::g]:80", "unix:", "[fe80::1%no-such-interface]:80", "[fe80::1%]:80", "a b:80",
    };
    char text[ADDRESS_TEXT];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct address a, again;
        const char *why = NULL;
        unit_note = good[i].text;
        if (CHECK(address_parse(good[i].text, &a, &why))) {
            CHECK(strcmp(address_text(&a, text), good[i].back) == 0);
            CHECK(address_parse(text, &again, &why) && memcmp(&a, &again, sizeof a) == 0);
        }
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct address a;
        const char *why = NULL;
        unit_note = bad[i];
        CHECK(!address_parse(bad[i], &a, &why));
        CHECK(why != NULL && why[0] != '\0');
    }
    char longest[200] = "unix:/"; /* longer than any system has room for */
    memset(longest + 6, 'a', sizeof longest - 7);
    const char *reason = NULL;
    struct address none;
    CHECK(!address_parse(longest, &none, &reason) && reason != NULL);
    memset(&none, 0, sizeof none);
    CHECK(strcmp(address_text(&none, text), "none") == 0);
}

static void test_split(void)
{
    char host[HOST_CAP], longest[HOST_CAP + 8];
    const char *why = NULL;
    uint16_t port = 0;
    unit_note = "split";
    CHECK(host_port_split("redis-1.example:6379xyz", 20, host, &port, &why) && port == 6379);
    CHECK(strcmp(host, "redis-1.example") == 0);
    CHECK(host_port_split("[::1]:7", 7, host, &port, &why) && port == 7 && strcmp(host, "::1") == 0);
    CHECK(host_port_split("::1:7", 5, host, &port, &why) && port == 7 && strcmp(host, "::1") == 0);
    CHECK(!host_port_split("", 0, host, &port, &why));
    CHECK(!host_port_split("[:1", 3, host, &port, &why));
    CHECK(!host_port_split("[:", 2, host, &port, &why));
    CHECK(!host_port_split("]:1", 3, host, &port, &why));
    CHECK(!host_port_split("a\0b:1", 5, host, &port, &why));
    CHECK(!host_port_split("a/b:1", 5, host, &port, &why));
    memset(longest, 'a', sizeof longest);
    longest[HOST_CAP - 1] = ':';
    longest[HOST_CAP] = '1';
    CHECK(host_port_split(longest, HOST_CAP + 1, host, &port, &why) && strlen(host) == HOST_CAP - 1);
    longest[HOST_CAP - 1] = 'a';
    longest[HOST_CAP] = ':';
    longest[HOST_CAP + 1] = '1';
    CHECK(!host_port_split(longest, HOST_CAP + 2, host, &port, &why));
}

/* --------------------------------------------------------------- sockets */

static int soon(int fd, short events)
{
    struct pollfd p = { .fd = fd, .events = events };
    return poll(&p, 1, 3000);
}

/* All of it, whatever the wrapper cuts short or puts off. */
static bool send_all(int fd, const void *bytes, size_t n)
{
    const unsigned char *at = bytes;
    while (n > 0) {
        struct iovec iov[2] = { { (void *)(uintptr_t)at, n / 2 }, { (void *)(uintptr_t)(at + n / 2), n - n / 2 } };
        ssize_t k = net_send(fd, n > 1 ? iov : iov + 1, n > 1 ? 2 : 1);
        if (k < 0 && errno != EAGAIN)
            return false;
        at += k > 0 ? k : 0;
        n -= k > 0 ? (size_t)k : 0;
    }
    return true;
}

static bool receive_all(int fd, void *bytes, size_t n)
{
    unsigned char *at = bytes;
    while (n > 0 && soon(fd, POLLIN) == 1) {
        struct iovec iov[2] = { { at, n / 3 }, { at + n / 3, n - n / 3 } };
        ssize_t k = net_receive(fd, n > 2 ? iov : iov + 1, n > 2 ? 2 : 1);
        if (k == 0 || (k < 0 && errno != EAGAIN))
            return false;
        at += k > 0 ? k : 0;
        n -= k > 0 ? (size_t)k : 0;
    }
    return n == 0;
}

static void test_talk(const struct address *where)
{
    struct net_sizes sizes = { 65536, 65536 };
    struct address bound, peer, local;
    char text[ADDRESS_TEXT], out[1000], in[1000];
    int listener = net_listen(where, 16, &sizes);
    if (!CHECK(listener >= 0) || !CHECK(net_local(listener, &bound)))
        return;
    CHECK(net_accept(listener, &peer, &sizes) == -1 && errno == EAGAIN);
    int dialer = net_dial(&bound, &sizes);
    CHECK(dialer >= 0 && soon(dialer, POLLOUT) == 1 && net_dialed(dialer) == 0);
    CHECK(soon(listener, POLLIN) == 1);
    int server = net_accept(listener, &peer, &sizes);
    if (!CHECK(server >= 0))
        return;
    if (where->u.sa.sa_family == AF_UNIX) {
        CHECK(strcmp(address_text(&peer, text), "unix:") == 0);
    } else {
        CHECK(net_local(dialer, &local));
        CHECK(memcmp(&local, &peer, sizeof peer) == 0);
    }
    os_keepalive(server, 30000, 10000); /* no effect to see, and none on unix sockets */
    for (size_t i = 0; i < sizeof out; i++)
        out[i] = (char)(i * 7);
    struct iovec iov = { in, sizeof in };
    CHECK(net_receive(server, &iov, 1) == -1 && errno == EAGAIN);
    for (size_t n = 1; n < sizeof out; n = n * 3 + 1) {
        CHECK(send_all(dialer, out, n) && receive_all(server, in, n) && memcmp(in, out, n) == 0);
        CHECK(send_all(server, out, n) && receive_all(dialer, in, n) && memcmp(in, out, n) == 0);
    }
    net_shutdown(dialer);
    CHECK(soon(server, POLLIN) == 1 && net_receive(server, &iov, 1) == 0);
    CHECK(send_all(server, out, 10) && receive_all(dialer, in, 10)); /* the other way is still open */
    net_close(dialer);
    ssize_t n = 0;
    for (int i = 0; i < 100 && n >= 0; i++) { /* the peer has gone: an error, not SIGPIPE */
        struct iovec more = { out, sizeof out };
        n = net_send(server, &more, 1);
        poll(NULL, 0, 1);
    }
    CHECK(n == -1 && (errno == EPIPE || errno == ECONNRESET));
    net_close(server);
    net_close(listener);
    net_close(-1);
}

static void test_refused(void)
{
    struct address a, bound;
    unit_note = "refused";
    CHECK(address_numeric("127.0.0.1", 0, &a));
    int listener = net_listen(&a, 1, NULL);
    CHECK(listener >= 0 && net_local(listener, &bound));
    CHECK(net_listen(&bound, 1, NULL) == -1 && errno == EADDRINUSE);
    net_close(listener);
    int fd = net_dial(&bound, NULL);
    if (fd >= 0) {
        CHECK(soon(fd, POLLOUT) == 1);
        CHECK(net_dialed(fd) == ECONNREFUSED);
        net_close(fd);
    } else {
        CHECK(errno == ECONNREFUSED);
    }
}

static void test_unix(void)
{
    struct address a, bound;
    const char *why;
    char dir[] = "/tmp/puerta-test-net-XXXXXX", path[64];
    struct stat st;
    unit_note = "unix socket";
    if (!CHECK(mkdtemp(dir) != NULL))
        return;
    snprintf(path, sizeof path, "unix:%s/s", dir);
    CHECK(address_parse(path, &a, &why));
    test_talk(&a);

    CHECK(stat(path + 5, &st) == 0); /* left behind by the listener above, as by a killed process */
    int listener = net_listen(&a, 4, NULL);
    CHECK(listener >= 0);
    CHECK(net_listen(&a, 4, NULL) == -1 && errno == EADDRINUSE); /* alive: not taken away */
    CHECK(stat(path + 5, &st) == 0);
    net_close(listener);
    CHECK(net_dial(&a, NULL) == -1 && errno == ECONNREFUSED);
    unlink(path + 5);
    CHECK(net_dial(&a, NULL) == -1 && errno == ENOENT);

    FILE *f = fopen(path + 5, "w"); /* somebody's file */
    CHECK(f != NULL);
    if (f != NULL)
        fclose(f);
    CHECK(net_listen(&a, 4, NULL) == -1 && errno == EEXIST);
    CHECK(stat(path + 5, &st) == 0 && S_ISREG(st.st_mode));
    unlink(path + 5);
    CHECK(rmdir(dir) == 0);

    CHECK(address_parse("unix:/no-such-folder/s", &bound, &why));
    CHECK(net_listen(&bound, 4, NULL) == -1);
}

#ifdef PUERTA_FAULTS

/* Counts what comes out: EINTR never does, the others do, and not more than the limit. */
static void test_faults(void)
{
    int pair[2], seen_again = 0, seen_reset = 0, seen_short = 0, good = 0;
    char bytes[8] = "";
    unit_note = "faults";
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && os_prepare_fd(pair[0]) && os_prepare_fd(pair[1]));
    for (int i = 0; i < 400; i++) {
        struct iovec iov = { bytes, sizeof bytes };
        ssize_t n = net_send(pair[0], &iov, 1);
        CHECK(n >= 0 || errno != EINTR);
        good += n == (ssize_t)sizeof bytes;
        seen_short += n == 1;
        seen_again += n < 0 && errno == EAGAIN;
        seen_reset += n < 0 && errno == ECONNRESET;
        while (recv(pair[1], bytes, sizeof bytes, MSG_DONTWAIT) > 0)
            ;
    }
    CHECK(seen_short > 0 && seen_again > 0 && seen_reset > 0);
    CHECK(seen_short + seen_again + seen_reset <= 30);
    CHECK(good >= 400 - 30);
    net_close(pair[0]);
    net_close(pair[1]);
}

#endif

int main(void)
{
    struct address a;
#ifdef PUERTA_FAULTS
    /* Read once, at the first call; they are used up before the other tests begin. */
    setenv("PUERTA_FAULTS", "every=5,limit=30,seed=2", 1);
    test_faults();
#endif
    test_parse();
    test_split();
    unit_note = "ipv4";
    if (CHECK(address_numeric("127.0.0.1", 0, &a)))
        test_talk(&a);
    unit_note = "ipv6";
    CHECK(address_numeric("::1", 0, &a));
    int fd = net_listen(&a, 1, NULL);
    if (fd >= 0) { /* a system without IPv6 has none to test */
        net_close(fd);
        test_talk(&a);
    }
    test_refused();
    test_unix();
    return unit_end();
}
