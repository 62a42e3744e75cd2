/*
 * test_gate.c - networks and who is in them; what an address may ask in a second, on a clock of the test's own; who waits, in which
 * order, and what becomes of those who leave; PROXY headers that come slowly.
 */
#include "puerta.h"
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLIENTS 64

extern uint64_t loop_mock_us;

static struct conf conf;
static struct service service;
static struct listener listener;
static struct address where;
static struct { struct conn *conn[CLIENTS]; int count, closed, let_go; struct conn *order[CLIENTS]; char got[64]; size_t len; struct address peer; } seen;

/* ---------------------------------------------------------------- networks */

static struct address numeric(const char *host)
{
    struct address a;
    CHECK(address_numeric(host, 1, &a));
    return a;
}

static bool has(const char *net, const char *host)
{
    struct subnets list = { .count = 1 };
    struct address a = numeric(host);
    CHECK(subnet_parse(net, &list.at[0]) == NULL);
    return subnets_have(&list, &a);
}

static void test_networks(void)
{
    static const char *const bad[] = { "", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8x", "10.0.0.0/ 8", "10.0.0.1/8", "10.0.0/8",
        "10.0.0.256", "::/129", "::1/127", "2001:db8::1/64", "::ffff:10.0.0.0/104", "unix:", "UNIX", "localhost", "[::1]", "fe80::1%1",
        "1111:2222:3333:4444:5555:6666:7777:8888:9999" };
    static const struct { const char *text, *again; } good[] = {
        { "10.0.0.0/8", "10.0.0.0/8" }, { "192.0.2.7", "192.0.2.7/32" }, { "0.0.0.0/0", "0.0.0.0/0" }, { "::1", "::1/128" },
        { "2001:DB8::/32", "2001:db8::/32" }, { "::/0", "::/0" }, { "unix", "unix" }, { "10.0.0.128/25", "10.0.0.128/25" },
    };
    struct subnet n;
    char text[SUBNET_TEXT];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        unit_note = bad[i];
        CHECK(subnet_parse(bad[i], &n) != NULL);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        unit_note = good[i].text;
        CHECK(subnet_parse(good[i].text, &n) == NULL && strcmp(subnet_text(&n, text), good[i].again) == 0);
    }
    unit_note = "who is in a network";
    CHECK(has("10.0.0.0/8", "10.255.255.255") && !has("10.0.0.0/8", "11.0.0.0") && !has("10.0.0.0/8", "9.255.255.255"));
    CHECK(has("10.0.0.128/25", "10.0.0.128") && has("10.0.0.128/25", "10.0.0.255") && !has("10.0.0.128/25", "10.0.0.127"));
    CHECK(has("192.0.2.7", "192.0.2.7") && !has("192.0.2.7", "192.0.2.6") && has("0.0.0.0/0", "1.2.3.4") && !has("0.0.0.0/0", "::1"));
    CHECK(has("10.0.0.0/8", "::ffff:10.1.2.3") && !has("::/0", "::ffff:10.1.2.3") && !has("::/0", "10.1.2.3"));
    CHECK(has("2001:db8::/33", "2001:db8:7fff::1") && !has("2001:db8::/33", "2001:db8:8000::1") && has("fe80::/10", "fe80::1"));
    CHECK(!has("unix", "127.0.0.1"));
    struct subnets list = { .count = 0 };
    struct address a = { .len = 2 };
    a.u.sa.sa_family = AF_UNIX;
    CHECK(!subnets_have(&list, &a));
    list.count = 2;
    CHECK(subnet_parse("0.0.0.0/0", &list.at[0]) == NULL && subnet_parse("unix", &list.at[1]) == NULL && subnets_have(&list, &a));
}

static void test_near(void)
{
    struct address a = numeric("127.3.4.5");
    uint64_t one, two;
    unit_note = "who is near";
    CHECK(address_near(&a));
    a.foreign = true;
    CHECK(!address_near(&a));
    a = numeric("::1");
    CHECK(address_near(&a));
    a = numeric("::ffff:127.0.0.1");
    CHECK(address_near(&a));
    a = numeric("192.0.2.1");
    CHECK(!address_near(&a) && address_source(&a, &one));
    a = numeric("::ffff:192.0.2.1");
    CHECK(address_source(&a, &two) && one == two);
    a = numeric("2001:db8::1");
    CHECK(address_source(&a, &one));
    a = numeric("2001:db8::ffff:ffff");
    CHECK(address_source(&a, &two) && one == two);
    a = numeric("2001:db8:0:1::1");
    CHECK(address_source(&a, &two) && one != two);
}

/* ------------------------------------------------------------- connections */

static void on_bytes(struct conn *c)
{
    ssize_t n = conn_receive(c, seen.got, sizeof seen.got);
    if (n == CONN_ENDED) {
        conn_fail(c, "ended");
    } else if (n > 0) {
        seen.len = (size_t)n;
    }
}

static void on_close(struct conn *c, const char *why)
{
    (void)c, (void)why;
    seen.closed++;
}

static void on_let_go(struct conn *c)
{
    seen.order[seen.let_go++ % CLIENTS] = c;
}

static const struct conn_ops ops = { .kind = "test", .on_bytes = on_bytes, .on_close = on_close, .on_let_go = on_let_go };

static struct conn *on_client(struct service *s, int fd, const struct address *peer)
{
    struct conn *c = conn_take(CONN_CLIENT, &ops, s);
    if (c == NULL) {
        net_close(fd);
        return NULL;
    }
    c->peer = seen.peer = *peer;
    CHECK(conn_adopt(c, fd));
    seen.conn[seen.count++] = c;
    return c;
}

static const struct service_ops service_ops = { .on_client = on_client };

static void turn(uint32_t ms)
{
    loop_mock_us += ms * UINT64_C(1000);
    loop_turn(true);
    conn_flush();
    conn_reap();
}

static void turns(int n, uint32_t ms)
{
    while (n-- > 0) {
        turn(ms);
    }
}

/* A new section with these limits, nobody there. */
static struct conf_service *begin(const char *note)
{
    struct conf_service *s = &conf.services[0];
    unit_note = note;
    memset(s, 0, sizeof *s);
    memset(&seen, 0, sizeof seen);
    turn(3600000); /* what an address owed is forgiven */
    return s;
}

static int dial(void)
{
    int fd = net_dial(&where, NULL);
    CHECK(fd >= 0);
    turns(3, 0);
    return fd;
}

static void end(int *fds, int n)
{
    for (int i = 0; i < n; i++) {
        net_close(fds[i]);
    }
    turns(5, 1);
    CHECK(conn_count(CONN_CLIENT) == 0);
}

/* How many of n requests that come at once may go. */
static int asks(struct conn *c, int n, enum gate_verdict otherwise)
{
    int go = 0;
    for (int i = 0; i < n; i++) {
        enum gate_verdict v = gate_ask(c);
        CHECK(v == GATE_GO || v == otherwise);
        go += v == GATE_GO;
        gate_done(c);
        if (v == GATE_HELD) {
            break;
        }
    }
    return go;
}

static void test_rate(void)
{
    struct conf_service *s = begin("requests a second, refused");
    int fd, sum = 0;
    s->request_rate = 10;
    s->limit_error = 1;
    fd = dial();
    struct conn *c = seen.conn[0];
    if (!CHECK(seen.count == 1 && c->source != NULL)) {
        return;
    }
    CHECK(asks(c, 100, GATE_REFUSED) == 10 && !c->held);
    turn(99);
    CHECK(asks(c, 5, GATE_REFUSED) == 0);
    turn(1);
    CHECK(asks(c, 5, GATE_REFUSED) == 1);
    CHECK(gate_ask(c) == GATE_REFUSED);
    for (int i = 0; i < 10000; i++) { /* a hundred seconds, hammered throughout */
        turn(10);
        sum += asks(c, 3, GATE_REFUSED);
    }
    CHECK(sum == 1000);
    turn(500);
    CHECK(asks(c, 100, GATE_REFUSED) == 5);
    turn(3600000);
    CHECK(asks(c, 100, GATE_REFUSED) == 10);
    turn(100);
    CHECK(gate_ask(c) == GATE_GO && gate_ask(c) == GATE_GO && gate_ask(c) == GATE_GO); /* one request, asked for again */
    gate_done(c);
    CHECK(gate_ask(c) == GATE_REFUSED);
    end(&fd, 1);
}

static void test_order(void)
{
    struct conf_service *s = begin("those who wait go in the order in which they came");
    int fds[4];
    s->request_rate = 20;
    for (int i = 0; i < 4; i++) {
        fds[i] = dial();
    }
    if (!CHECK(seen.count == 4)) {
        return;
    }
    struct conn **c = seen.conn;
    CHECK(c[0]->source == c[3]->source);
    CHECK(asks(c[0], 100, GATE_HELD) == 20 && c[0]->held);
    CHECK(asks(c[2], 1, GATE_HELD) == 0 && asks(c[1], 1, GATE_HELD) == 0 && asks(c[3], 1, GATE_HELD) == 0);
    turn(49);
    CHECK(seen.let_go == 0);
    turn(2);
    CHECK(seen.let_go == 1 && seen.order[0] == c[0] && !c[0]->held && c[2]->held);
    CHECK(asks(c[0], 2, GATE_HELD) == 1 && c[0]->held); /* at the end of the line again */
    turns(60, 1);
    CHECK(seen.let_go == 2 && seen.order[1] == c[2]);
    CHECK(gate_ask(c[2]) == GATE_GO);
    gate_done(c[2]);
    net_close(fds[1]); /* its place in the line goes with it */
    conn_close(c[1]);
    turns(60, 1);
    CHECK(seen.let_go == 3 && seen.order[2] == c[3] && gate_ask(c[3]) == GATE_GO);
    gate_done(c[3]);
    turns(60, 1);
    CHECK(seen.let_go == 4 && seen.order[3] == c[0]);
    CHECK(gate_ask(c[0]) == GATE_GO);
    gate_done(c[0]);
    CHECK(gate_ask(c[0]) == GATE_HELD);
    conn_finish(c[0], 1000);
    CHECK(!c[0]->held && c[0]->reading); /* its end is to be seen */
    fds[1] = -1;
    end(fds, 4);
}

static void test_held(void)
{
    struct conf_service *s = begin("who is held is not read");
    int fd;
    s->byte_rate = 1000;
    fd = dial();
    struct conn *c = seen.conn[0];
    for (int i = 0; i < 30; i++) { /* 64 at a time: 1,920 */
        char bytes[64] = "";
        CHECK(write(fd, bytes, sizeof bytes) == sizeof bytes);
        turn(0);
    }
    CHECK(c->held && c->reading && (c->watch.events & 1) == 0);
    seen.len = 0;
    turns(10, 1);
    CHECK(seen.len == 0);
    for (int i = 0; i < 2000 && seen.let_go == 0; i++) {
        turn(1);
    }
    CHECK(seen.let_go == 1);
    turns(2, 0);
    CHECK(seen.len == 64);
    int more = 0;
    for (int i = 0; i < 1000; i++) { /* a second: a thousand bytes, and a piece */
        seen.len = 0;
        turn(1);
        more += (int)seen.len;
    }
    CHECK(more <= 1000 + 64);
    end(&fd, 1);
}

static void test_crowd(void)
{
    struct conf_service *s = begin("connections of one address");
    int fds[4];
    char byte;
    uint64_t before = stats.clients_crowded;
    s->max_per_address = 2;
    for (int i = 0; i < 3; i++) {
        fds[i] = dial();
    }
    CHECK(seen.count == 2 && stats.clients_crowded == before + 1 && read(fds[2], &byte, 1) == 0);
    net_close(fds[0]);
    turns(3, 1);
    fds[0] = dial();
    CHECK(seen.count == 3);
    end(fds, 3);
    s->max_per_address = 0;
    fds[0] = dial();
    CHECK(seen.count == 4 && seen.conn[3]->source == NULL);
    end(fds, 1);
}

/* ----------------------------------------------------------- PROXY headers */

static void test_header(void)
{
    static const char text[] = "PROXY TCP6 2001:db8::7 ::1 51234 6379\r\nthe rest";
    struct conf_service *s = begin("a header that comes byte by byte");
    char out[ADDRESS_TEXT], byte;
    int fds[2];
    s->accept_proxy = 1;
    CHECK(subnet_parse("127.0.0.0/8", &s->trusted.at[0]) == NULL);
    s->trusted.count = 1;
    fds[0] = dial();
    for (size_t i = 0; i < sizeof text - 1; i++) {
        CHECK(seen.count == (i >= 39 ? 1 : 0)); /* its line has 39 bytes */
        CHECK(write(fds[0], text + i, 1) == 1);
        seen.len = 0;
        turns(2, 1);
    }
    CHECK(seen.count == 1 && strcmp(address_text(&seen.peer, out), "[2001:db8::7]:51234") == 0 && !seen.peer.foreign);
    CHECK(seen.len == 1 && seen.got[0] == 't'); /* the last byte, and no byte of the header */
    uint64_t late = stats.proxy_late;
    fds[1] = dial();
    CHECK(write(fds[1], text, 10) == 10);
    turns(50, 99);
    CHECK(stats.proxy_late == late);
    turns(2, 99);
    CHECK(stats.proxy_late == late + 1 && read(fds[1], &byte, 1) == 0 && seen.count == 1);
    end(fds, 2);
}

static void test_untrusted(void)
{
    begin("a header from somebody");
    uint64_t before = stats.proxy_untrusted;
    int fd = dial();
    CHECK(seen.count == 1 && write(fd, "PROXY TCP4 ", 11) == 11);
    turns(2, 1);
    CHECK(stats.proxy_untrusted == before + 1 && seen.closed == 1);
    end(&fd, 1);
    fd = dial();
    CHECK(seen.count == 2 && write(fd, "hello ", 6) == 6);
    turns(2, 1);
    CHECK(write(fd, "PROXY TCP4 ", 11) == 11); /* not at the beginning: its room's business */
    turns(2, 1);
    CHECK(stats.proxy_untrusted == before + 1 && seen.closed == 1 && seen.len == 11);
    end(&fd, 1);
}

static void boot(void)
{
    int fd;
    conf.chunk_size = 16384;
    conf.chunks = 64;
    conf.max_clients = CLIENTS;
    conf.max_backends = 4;
    conf.service_count = 1;
    conf.services[0].request_rate = 1; /* so that there are tables */
    conf.services[0].accept_proxy = 1;
    log_threshold = LOG_ERROR;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0) {
            arena_measure();
        } else if (!CHECK(arena_obtain(false))) {
            exit(unit_end());
        }
        loop_tables(&conf);
        buf_tables(&conf);
        conn_tables(&conf);
        gate_tables(&conf);
    }
    loop_mock_us = 1000000;
    loop_open();
    buf_open();
    conn_open_table();
    gate_open();
    service.conf = &conf.services[0];
    service.ops = &service_ops;
    where = numeric("127.0.0.1");
    where.u.in4.sin_port = 0;
    fd = net_listen(&where, 64, NULL);
    CHECK(fd >= 0 && net_local(fd, &where));
    gate_listen(&listener, &service, fd);
}

int main(void)
{
    test_networks();
    test_near();
    boot();
    test_rate();
    test_order();
    test_held();
    test_crowd();
    test_header();
    test_untrusted();
    return unit_end();
}
