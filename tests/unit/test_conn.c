/*
 * test_conn.c - the connection table over real sockets: states and their ends, output that does not go out, a
 * listener without descriptors, and dead entries that rest until the turn is over.
 */
#include "puerta.h"
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define CLIENTS 8

extern uint64_t loop_mock_us;

static struct conf conf;
static struct { int bytes, rooms, closes, opens, ticks; char why[80]; unsigned char got[64]; size_t len; } seen;
static int accepted[64], accepted_count;

static void on_bytes(struct conn *c)
{
    ssize_t n = conn_receive(c, seen.got, sizeof seen.got);
    seen.bytes++;
    if (n == CONN_ENDED) {
        conn_fail(c, "ended");
    } else if (n > 0) {
        seen.len = (size_t)n;
    }
}

static void on_room(struct conn *c) { (void)c; seen.rooms++; }
static void on_tick(struct conn *c) { (void)c; seen.ticks++; }
static void on_open(struct conn *c) { (void)c; seen.opens++; }

static void on_close(struct conn *c, const char *why)
{
    CHECK(c->state == CONN_DEAD && c->fd == -1 && c->out.head == NULL);
    seen.closes++;
    snprintf(seen.why, sizeof seen.why, "%s", why);
}

static const struct conn_ops ops = {
    .kind = "test", .on_open = on_open, .on_bytes = on_bytes, .on_room = on_room, .on_close = on_close, .on_tick = on_tick,
};

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

/* A connection over one end of a socket pair; *far is the other end. */
static struct conn *open_pair(int *far)
{
    int ends[2];
    struct conn *c = conn_take(CONN_CLIENT, &ops, NULL);
    memset(&seen, 0, sizeof seen);
    if (!CHECK(c != NULL && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0)) {
        exit(unit_end());
    }
    CHECK(os_prepare_fd(ends[0]) && os_prepare_fd(ends[1]));
    CHECK(conn_adopt(c, ends[0]) && c->state == CONN_OPEN);
    *far = ends[1];
    return c;
}

/* Reads all there is; gives how much, and sets *end when the stream is over. */
static size_t drain(int far, bool *end)
{
    static unsigned char sink[65536];
    size_t sum = 0;
    ssize_t n;
    while ((n = read(far, sink, sizeof sink)) > 0) {
        sum += (size_t)n;
    }
    *end = n == 0;
    return sum;
}

/* More than the kernel takes for one socket. */
static size_t fill(struct conn *c, size_t n)
{
    static unsigned char bytes[4096];
    size_t put = 0;
    while (put < n && chain_put(&c->out, BUF_REPLY, bytes, sizeof bytes)) {
        put += sizeof bytes;
    }
    conn_dirty(c);
    return put;
}

static void test_exchange(void)
{
    int far;
    bool end;
    struct conn *c = open_pair(&far);
    unit_note = "bytes there and back";
    CHECK(write(far, "hello", 5) == 5);
    turn(1);
    CHECK(seen.bytes == 1 && seen.len == 5 && memcmp(seen.got, "hello", 5) == 0);
    conn_read(c, false);
    CHECK(write(far, "more", 4) == 4);
    turns(3, 1);
    CHECK(seen.bytes == 1);
    conn_read(c, true);
    turn(1);
    CHECK(seen.bytes == 2 && seen.len == 4);
    CHECK(chain_put(&c->out, BUF_REPLY, "+OK\r\n", 5));
    conn_dirty(c);
    conn_dirty(c);
    turn(1);
    CHECK(drain(far, &end) == 5 && !end && seen.rooms == 1 && c->out.len == 0 && !conn_pending());
    conn_deadline(c, loop_ms() + 10);
    turns(3, 4);
    CHECK(seen.ticks == 1);
    (void)close(far);
    turn(1);
    CHECK(seen.closes == 1 && strcmp(seen.why, "ended") == 0 && c->state == CONN_FREE && conn_count(CONN_CLIENT) == 0);
}

static void test_partial_sends(void)
{
    int far;
    bool end;
    struct conn *c = open_pair(&far);
    size_t total = fill(c, 600000), got = 0;
    unit_note = "partial sends";
    turn(1);
    CHECK(c->blocked && c->out.len > 0 && seen.rooms == 0);
    for (int i = 0; i < 200 && seen.rooms == 0; i++) {
        got += drain(far, &end);
        turn(1);
    }
    got += drain(far, &end);
    CHECK(got == total && !c->blocked && seen.rooms > 0 && c->out.len == 0);
    CHECK(buf_free_chunks() == conf.chunks);
    conn_close(c);
    CHECK(seen.closes == 0 && c->state == CONN_DEAD);
    turn(1);
    (void)close(far);
}

static void test_stall(void)
{
    int far;
    bool end;
    struct conn *c = open_pair(&far);
    unit_note = "the stall limit";
    c->stall_limit_ms = 100;
    fill(c, 600000);
    turn(1);
    for (int i = 0; i < 10; i++) { /* as long as some goes out now and then, it is no stall */
        turns(3, 20);
        CHECK(seen.closes == 0 && c->blocked);
        (void)drain(far, &end);
        turn(1);
        if (c->out.len < 200000) {
            fill(c, 200000);
            turn(1);
        }
    }
    turns(12, 10);
    CHECK(seen.closes == 1 && strncmp(seen.why, "stalled", 7) == 0);
    CHECK(buf_free_chunks() == conf.chunks && conn_count(CONN_CLIENT) == 0);
    (void)close(far);
}

static void test_finish(void)
{
    int far;
    bool end;
    struct conn *c = open_pair(&far);
    unit_note = "a finish sends all, then lingers for the peer's end";
    CHECK(chain_put(&c->out, BUF_REPLY, "bye\r\n", 5));
    conn_finish(c, 1000);
    CHECK(c->state == CONN_FINISHING);
    conn_read(c, true); /* its owner has no more say */
    turn(1);
    CHECK(drain(far, &end) == 5 && end && seen.closes == 0);
    CHECK(write(far, "late words", 10) == 10); /* thrown away, and no reset for the peer */
    turns(3, 1);
    CHECK(c->state == CONN_FINISHING && seen.bytes == 0);
    (void)close(far);
    turn(1);
    CHECK(seen.closes == 1 && strcmp(seen.why, "finished") == 0 && c->state == CONN_FREE);
}

/* A peer that has ended its own side first still gets every byte. */
static void test_finish_half_closed(void)
{
    int far;
    bool end = false;
    struct conn *c = open_pair(&far);
    size_t total = fill(c, 600000), got = 0;
    unit_note = "a half-closed peer still gets all its output";
    CHECK(shutdown(far, SHUT_WR) == 0);
    conn_finish(c, 1000);
    for (int i = 0; i < 200 && !end; i++) {
        turn(1);
        got += drain(far, &end);
    }
    CHECK(got == total && end);
    turns(3, 1);
    CHECK(seen.closes == 1 && conn_count(CONN_CLIENT) == 0 && buf_free_chunks() == conf.chunks);
    (void)close(far);
}

static void test_finish_limit(void)
{
    int far;
    struct conn *c = open_pair(&far);
    unit_note = "a finish ends at its limit";
    fill(c, 600000);
    conn_finish(c, 50);
    turns(4, 10);
    CHECK(seen.closes == 0 && c->state == CONN_FINISHING);
    turns(3, 10);
    CHECK(seen.closes == 1 && buf_free_chunks() == conf.chunks);
    (void)close(far);
}

static void test_reset(void)
{
    int far;
    struct conn *c = open_pair(&far);
    unit_note = "a peer that is gone";
    conn_read(c, false);
    (void)close(far);
    turn(1);
    CHECK(seen.closes == 1 && strcmp(seen.why, "the peer hung up") == 0);
    c = open_pair(&far);
    conn_read(c, false);
    fill(c, 4096);
    (void)close(far);
    conn_flush();
    CHECK(seen.closes == 1 && strcmp(seen.why, strerror(EPIPE)) == 0);
    conn_reap();
    CHECK(conn_count(CONN_CLIENT) == 0);
}

/* What is closed in a turn keeps its entry until the turn is over: an event may still name it. */
static void test_dead_rest(void)
{
    int far[CLIENTS];
    struct conn *c[CLIENTS];
    uint64_t id;
    unit_note = "dead entries rest until the turn is over";
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = open_pair(&far[i]);
    }
    CHECK(conn_full(CONN_CLIENT) && conn_take(CONN_CLIENT, &ops, NULL) == NULL);
    CHECK(!conn_full(CONN_PROBE));
    id = c[3]->id;
    conn_dirty(c[3]);
    conn_close(c[3]);
    conn_fail(c[3], "again"); /* nothing: it is dead already */
    CHECK(c[3]->state == CONN_DEAD && c[3]->id == id && conn_full(CONN_CLIENT) && seen.closes == 0);
    conn_reap();
    CHECK(c[3]->state == CONN_DEAD); /* it is still in the list of those to be flushed */
    conn_flush();
    conn_reap();
    CHECK(c[3]->state == CONN_FREE && !conn_full(CONN_CLIENT));
    CHECK(conn_take(CONN_CLIENT, &ops, NULL) == c[3] && c[3]->id > id && c[3]->state == CONN_FREE);
    conn_limit(CONN_CLIENT, CLIENTS);
    for (int i = 0; i < CLIENTS; i++) {
        if (i != 3) {
            conn_close(c[i]);
        }
        (void)close(far[i]);
    }
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, far) == 0 && conn_adopt(c[3], far[0])); /* gives the taken one back */
    conn_close(c[3]);
    (void)close(far[1]);
    turn(1);
    CHECK(conn_count(CONN_CLIENT) == 0);
}

/* ------------------------------------------------------ dials and listeners */

static void on_accept(void *mark, int fd, const struct address *peer)
{
    (void)peer;
    CHECK(mark == &conf);
    accepted[accepted_count++] = fd;
}

static struct address local_address(int fd)
{
    struct address a;
    CHECK(net_local(fd, &a));
    return a;
}

static int listen_local(struct listener *l)
{
    struct address any;
    struct net_sizes sizes = { 0, 0 };
    int fd;
    CHECK(address_numeric("127.0.0.1", 0, &any));
    fd = net_listen(&any, 64, &sizes);
    CHECK(fd >= 0);
    memset(l, 0, sizeof *l);
    l->watch.fd = -1;
    l->mark = &conf;
    l->on_accept = on_accept;
    conn_listen(l, fd);
    return fd;
}

static void close_accepted(void)
{
    while (accepted_count > 0) {
        (void)close(accepted[--accepted_count]);
    }
}

static void test_dial(void)
{
    struct listener l;
    struct net_sizes sizes = { 0, 0 };
    int fd = listen_local(&l);
    struct address a = local_address(fd);
    struct conn *c = conn_take(CONN_UPSTREAM, &ops, NULL);
    unit_note = "a dial";
    memset(&seen, 0, sizeof seen);
    CHECK(conn_dial(c, &a, 1000, &sizes) && c->state == CONN_DIALING);
    turns(5, 1);
    CHECK(seen.opens == 1 && c->state == CONN_OPEN && c->reading && accepted_count == 1);
    turns(3, 1000); /* the dial's deadline is over with it */
    CHECK(seen.closes == 0 && seen.ticks == 0);
    conn_close(c);
    close_accepted();
    conn_unlisten(&l);
    (void)close(fd);
    turn(1);
    c = conn_take(CONN_UPSTREAM, &ops, NULL);
    if (conn_dial(c, &a, 1000, &sizes)) { /* nobody listens there any more */
        turns(5, 1);
        CHECK(seen.closes == 1 && seen.opens == 1);
    }
    turn(1);
    CHECK(conn_count(CONN_UPSTREAM) == 0);
}

/* A dial that nobody answers: the backlog of a listener that is never served is full. */
static void test_dial_timeout(void)
{
    struct address any, a;
    struct net_sizes sizes = { 0, 0 };
    int fd, filler[16], fillers = 0;
    struct conn *c;
    unit_note = "a dial without an answer";
    CHECK(address_numeric("127.0.0.1", 0, &any));
    fd = net_listen(&any, 0, &sizes);
    a = local_address(fd);
    while (fillers < 16) {
        filler[fillers++] = net_dial(&a, &sizes);
    }
    c = conn_take(CONN_UPSTREAM, &ops, NULL);
    memset(&seen, 0, sizeof seen);
    CHECK(conn_dial(c, &a, 50, &sizes));
    turns(4, 20);
    if (seen.opens == 0) { /* a system with a generous backlog lets it in */
        CHECK(seen.closes == 1 && strstr(seen.why, "dial_timeout") != NULL);
    } else {
        conn_close(c);
    }
    turn(1);
    while (fillers > 0) {
        (void)close(filler[--fillers]);
    }
    (void)close(fd);
}

/* No descriptors left: the listener rests instead of spinning, and goes on when there are some. */
static void test_no_descriptors(void)
{
    struct listener l;
    struct net_sizes sizes = { 0, 0 };
    int fd = listen_local(&l), spare = dup(fd), out[4];
    struct address a = local_address(fd);
    struct rlimit limit, low;
    unit_note = "no descriptors left";
    for (int i = 0; i < 4; i++) {
        out[i] = net_dial(&a, &sizes);
        CHECK(out[i] >= 0);
    }
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    low = limit;
    low.rlim_cur = (rlim_t)out[3] + 1; /* descriptors up to the last dial's: all are in use */
    CHECK(setrlimit(RLIMIT_NOFILE, &low) == 0);
    turns(5, 1);
    CHECK(accepted_count == 0 && l.watch.events == 0 && l.pause.next != NULL);
    (void)close(spare); /* one is free now, which the listener sees only after its rest */
    turns(5, 1);
    CHECK(accepted_count == 0);
    turns(3, 50);
    CHECK(accepted_count == 1 && l.watch.events == 0);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    turns(4, 50);
    CHECK(accepted_count == 4 && l.watch.events != 0);
    close_accepted();
    for (int i = 0; i < 4; i++) {
        (void)close(out[i]);
    }
    conn_unlisten(&l);
    conn_unlisten(&l); /* twice is once */
    (void)close(fd);
}

static void boot(void)
{
    conf.chunk_size = 16384;
    conf.chunks = 64;
    conf.max_clients = CLIENTS;
    conf.max_backends = 4;
    conf.max_leases = 2;
    log_threshold = LOG_ERROR; /* a listener without descriptors says so as a warning */
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0) {
            arena_measure();
        } else if (!CHECK(arena_obtain(false))) {
            exit(unit_end());
        }
        loop_tables(&conf);
        buf_tables(&conf);
        conn_tables(&conf);
    }
    loop_mock_us = 1000000;
    loop_open();
    buf_open();
    conn_open_table();
}

int main(void)
{
    boot();
    test_exchange();
    test_partial_sends();
    test_stall();
    test_finish();
    test_finish_half_closed();
    test_finish_limit();
    test_reset();
    test_dead_rest();
    test_dial();
    test_dial_timeout();
    test_no_descriptors();
    return unit_end();
}
