/*
 * test_client.c - redis_client.c: who gives its chunks back when all of them are full of answers.
 *
 *     the test --chunk_take()--> no chunk is left;  socket pair <-- client: an answer whose turn has come
 *
 * What a client of a running Puerta sees is in tests/test_redis_hostile.py; this cannot be brought about from there.
 */
#include "parent.h"
#include "redis.h"
#include "trace.h"
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNKS 64

extern uint64_t loop_mock_us;

static struct conf conf;
static struct client *seen;
static void (*resume)(struct client *c);

static void on_resume(struct client *c)
{
    seen = c;
    resume(c);
}

static void turns(int n, uint32_t ms)
{
    while (n-- > 0) {
        loop_mock_us += ms * UINT64_C(1000);
        loop_turn(true);
        redis_turn();
        conn_flush();
        conn_reap();
    }
}

static void boot(void)
{
    static char *args[] = { "127.0.0.1:1" };
    static int listeners[MAX_SERVICES][MAX_LISTENS];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0); /* nobody comes by it */
    listeners[0][0] = fd;
    if (!CHECK(conf_quick(&conf, SERVICE_REDIS, 1, args) && fd >= 0 && os_prepare_fd(fd))) {
        exit(unit_end());
    }
    conf.chunks = CHUNKS, conf.max_clients = 4, conf.max_backends = 4, conf.max_leases = 4, conf.max_requests = 256;
    conf.services[0].listens = 1;
    log_threshold = LOG_ERROR;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0) {
            arena_measure();
        } else if (!CHECK(arena_obtain(false))) {
            exit(unit_end());
        }
        loop_tables(&conf), buf_tables(&conf), conn_tables(&conf), stats_tables(&conf), trace_tables(&conf);
        health_tables(&conf), redis_tables(&conf);
    }
    loop_mock_us = 1000000000;
    loop_open();
    buf_open();
    conn_open_table();
    parent_attach(-1);
    redis_open(&conf, listeners);
    resume = client_on_resume;
    client_on_resume = on_resume;
}

static size_t take_all(struct chunk *taken[CHUNKS])
{
    size_t n = 0;
    while (n < CHUNKS && (taken[n] = chunk_take(BUF_REPLY)) != NULL) {
        n++;
    }
    return n;
}

static void give_back(struct chunk *taken[CHUNKS], size_t n)
{
    while (n > 0) {
        chunk_release(taken[--n]);
    }
}

int main(void)
{
    static struct chunk *taken[CHUNKS];
    static unsigned char answer[5000], got[64];
    int ends[2];
    size_t n;
    struct req *r;
    struct address near;
    const char *why;

    boot();
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && os_prepare_fd(ends[0]) && os_prepare_fd(ends[1]));
    CHECK(address_parse("unix:/near", &near, &why));

    unit_note = "a client that finds no chunk for its request is told when there are some";
    redis_service_at(0)->listeners[0].on_accept(redis_service_at(0), ends[0], &near);
    n = take_all(taken);
    CHECK(n > 0 && write(ends[1], "PING\r\n", 6) == 6);
    turns(3, 1);
    give_back(taken, n);
    turns(3, 300);
    if (!CHECK(seen != NULL && read(ends[1], got, sizeof got) == 7 && memcmp(got, "+PONG\r\n", 7) == 0)) {
        return unit_end();
    }

    unit_note = "its answer's turn comes, and there is no chunk to pass it on by: it has 2 s, then its chunks are given back";
    r = req_take(seen, NULL, req_to_client);
    CHECK(pen_write(&seen->park, BUF_REPLY, answer, sizeof answer, &r->parked));
    seen->parked_bytes += sizeof answer;
    r->state = REQ_DONE;
    req_enqueue(r);
    n = take_all(taken);
    client_advance(seen);
    turns(7, 250);
    CHECK(seen->conn != NULL && seen->head == r && buf_free_chunks() == 0);
    turns(4, 250);
    CHECK(seen->conn == NULL && buf_free_chunks() > 0);
    CHECK(read(ends[1], got, sizeof got) == 0);
    give_back(taken, n);
    CHECK(buf_free_chunks() == CHUNKS);
    close(ends[1]);
    return unit_end();
}
