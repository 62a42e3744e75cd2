/*
 * redis_req.c - request records, the upstream connections that carry them, redirects and replay.
 *
 *   client   head -> req -> req -> req -> tail        the order of its answers
 *                     |      |      |
 *   shared   head -> req -> req -> req(unsent) -> tail    one pipelined connection a node, for all clients
 *   lease    head -> req                                  a connection lent to one client
 *   waiting  head -> req -> req                           turned away by a node: tried again a little later
 *
 * A record owns a slice with the request's bytes until the reply begins: a redirect or a lost connection moves the
 * record to another queue and copies nothing. A queue outlives its connection, so requests of which nothing was sent
 * wait in it for a node to come back or for the map to name another one.
 *
 * What must hold: a client's requests change connection only when none of its earlier ones is unanswered on the old
 * one (client.epoch, client.gate); a request runs twice only if it reads, or the node said that it did not run it.
 */
#include "redis.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TICK_MS 50            /* how often a busy upstream looks at its deadlines */
#define READ_MAX 65536        /* bytes of one node in one turn */
#define STUCK_POOL_MS 1000    /* a reply that finds no chunk so long costs its client the connection */
#define STUCK_SHARED_MS 500   /* a client that does not read a streamed reply while others wait behind it, too */
#define KEEPALIVE_IDLE_MS 15000
#define ERROR_CAP 512

static struct {
    struct req *all, *free;
    size_t total, in_use;
    struct upstream *shared, *leases;
    uint32_t shared_count, lease_count;
    struct req *waiting, *waiting_tail;
    struct timer waiting_timer;
    struct client *resume, *resume_tail;
    struct client *starved, *starved_tail;
    struct upstream *stuck;
    size_t buffer;
    bool again, relief;
} rq;

void (*client_on_resume)(struct client *c);
void (*req_on_large)(struct req *r);
void (*lease_on_free)(void);
const struct req *(*fan_whole)(const struct fan *f);
void (*fan_orphan)(struct req *whole);

static const unsigned char asking_line[] = "*1\r\n$6\r\nASKING\r\n";
#define ASKING_LEN (sizeof asking_line - 1)

static void upstream_connect(struct upstream *u);
static void upstream_parse(struct upstream *u);
static void on_room(struct conn *conn);

void redis_req_tables(const struct conf *conf)
{
    unsigned char *block;
    rq.total = conf->max_requests;
    rq.shared_count = conf->max_backends;
    rq.lease_count = conf->max_leases;
    rq.buffer = conf->upstream_buffer;
    rq.all = arena_take("requests", rq.total, sizeof *rq.all);
    rq.shared = arena_take("upstreams", rq.shared_count, sizeof *rq.shared);
    rq.leases = arena_take("leases", rq.lease_count, sizeof *rq.leases);
    block = arena_take("upstream buffers", (size_t)rq.shared_count + rq.lease_count, rq.buffer);
    if (block == NULL) {
        return;
    }
    for (uint32_t i = 0; i < rq.shared_count + rq.lease_count; i++) {
        struct upstream *u = i < rq.shared_count ? &rq.shared[i] : &rq.leases[i - rq.shared_count];
        u->buf = block + i * rq.buffer;
        u->cap = rq.buffer;
        u->leased = i >= rq.shared_count;
    }
}

void redis_req_open(void)
{
    for (size_t i = rq.total; i > 0; i--) {
        rq.all[i - 1].next = rq.free;
        rq.free = &rq.all[i - 1];
    }
}

static uint32_t now32(void)
{
    return (uint32_t)loop_ms();
}

size_t redis_req_in_flight(void)
{
    return rq.in_use;
}

size_t redis_req_free(void)
{
    return rq.total - rq.in_use;
}

/* ---------------------------------------------------------------- records */

struct req *req_take(struct client *c, const struct command *command, req_taker take)
{
    struct req *r = rq.free;
    if (r == NULL) {
        stats.requests_full++;
        return NULL;
    }
    rq.free = r->next;
    rq.in_use++;
    memset(r, 0, sizeof *r);
    r->client = c;
    r->service = c != NULL ? c->service : NULL;
    r->command = command;
    r->take = take;
    r->started_ms = r->waits_ms = now32();
    if (command != NULL && (command->flags & CMD_READONLY) != 0) {
        r->flags = REQ_READONLY;
    }
    return r;
}

void req_free(struct req *r)
{
    must(r->state != REQ_FREE || r->upstream == NULL);
    slice_release(&r->bytes);
    slice_release(&r->parked);
    r->state = REQ_FREE;
    r->next = rq.free;
    rq.free = r;
    rq.in_use--;
    rq.relief = true;
}

void req_enqueue(struct req *r)
{
    struct client *c = r->client;
    r->client_next = NULL;
    if (c->tail != NULL) {
        c->tail->client_next = r;
    } else {
        c->head = r;
    }
    c->tail = r;
    c->queued++;
}

void req_commit(struct req *r)
{
    struct client *c = r->client;
    r->flags |= REQ_COUNTED;
    if (c->unsettled++ == 0) {
        c->epoch = c->service->map.epoch;
    }
    if (r->flags & REQ_FENCE) {
        c->fence_slot = c->fences > 0 && c->fence_slot != r->slot ? -1 : r->slot;
        c->fences++;
    }
}

void req_settle(struct req *r)
{
    struct client *c = r->client;
    if (c == NULL || (r->flags & REQ_COUNTED) == 0) {
        return;
    }
    r->flags &= (uint16_t)~REQ_COUNTED;
    c->unsettled--;
    if (r->flags & REQ_FENCE) {
        c->fences--;
    }
    if (c->unsettled == 0) {
        c->gate = false;
    }
    if (c->paused) {
        client_resume(c);
    }
}

void client_resume(struct client *c)
{
    if (c->resuming) {
        return;
    }
    c->resuming = true;
    c->next = NULL;
    if (rq.resume != NULL) {
        rq.resume_tail->next = c;
    } else {
        rq.resume = c;
    }
    rq.resume_tail = c;
}

/* ------------------------------------------------------ towards the client */

/* Moves a parked reply to its client's output; false when the pool has no room for it now. */
static bool unpark(struct client *c, struct req *r)
{
    size_t at = 0, n;
    const unsigned char *p;
    if (buf_free_chunks() * buf_chunk_size() < r->parked.len + 2 * buf_chunk_size()) {
        return false;
    }
    while ((n = slice_part(&r->parked, &at, &p)) > 0) {
        must(chain_put(&c->conn->out, BUF_REPLY, p, n));
    }
    c->parked_bytes -= r->parked.len;
    return true;
}

static void pop_head(struct client *c)
{
    struct req *r = c->head;
    c->head = r->client_next;
    if (c->head == NULL) {
        c->tail = NULL;
    }
    c->queued--;
    req_free(r);
}

/* Sends on what is answered and next in turn. */
void client_advance(struct client *c)
{
    while (c->head != NULL && c->head->state == REQ_DONE && unpark(c, c->head)) {
        pop_head(c);
        conn_dirty(c->conn);
    }
    if (c->parked_bytes == 0) {
        pen_close(&c->park);
    }
    if (c->head != NULL && c->head->state == REQ_DONE) {
        client_starve(c);
    } else if (c->paused || c->ended) {
        client_resume(c);
    }
    redis_req_unstick();
}

bool req_drop(struct req *r, const unsigned char *p, size_t n, bool last)
{
    (void)p, (void)n;
    if (last) {
        req_free(r);
    }
    return true;
}

bool req_to_client(struct req *r, const unsigned char *p, size_t n, bool last)
{
    struct client *c = r->client;
    if (c == NULL) {
        return req_drop(r, p, n, last);
    }
    if (r == c->head) {
        if ((!last && c->conn->out.len >= c->service->conf->client_window) ||
            !chain_put(&c->conn->out, BUF_REPLY, p, n)) {
            return false;
        }
        conn_dirty(c->conn);
        if (last) {
            req_settle(r);
            pop_head(c);
            if (c->parked_bytes > 0 || c->paused || c->ended || c->park.chunk != NULL || rq.stuck != NULL) {
                client_advance(c);
            }
        }
        return true;
    }
    if (!last || !pen_write(&c->park, BUF_REPLY, p, n, &r->parked)) {
        return false;
    }
    c->parked_bytes += n;
    req_settle(r);
    r->state = REQ_DONE;
    return true;
}

bool client_answer(struct client *c, const void *p, size_t n)
{
    struct req *r;
    if (c->head == NULL) {
        conn_dirty(c->conn);
        return chain_put(&c->conn->out, BUF_REPLY, p, n);
    }
    r = req_take(c, NULL, req_to_client);
    if (r == NULL) {
        return false;
    }
    if (!pen_write(&c->park, BUF_REPLY, p, n, &r->parked)) {
        req_free(r);
        return false;
    }
    c->parked_bytes += n;
    r->state = REQ_DONE;
    req_enqueue(r);
    return true;
}

static size_t error_line(char *out, const char *fmt, va_list args)
{
    int n;
    out[0] = '-';
    n = vsnprintf(out + 1, ERROR_CAP - 3, fmt, args);
    n = n < 0 ? 0 : n > ERROR_CAP - 4 ? ERROR_CAP - 4 : n;
    for (int i = 1; i <= n; i++) {
        if (out[i] == '\r' || out[i] == '\n') {
            out[i] = ' ';
        }
    }
    memcpy(out + 1 + n, "\r\n", 2);
    stats.errors_sent++;
    return (size_t)n + 3;
}

bool client_error(struct client *c, const char *fmt, ...)
{
    char line[ERROR_CAP];
    size_t n;
    va_list args;
    va_start(args, fmt);
    n = error_line(line, fmt, args);
    va_end(args);
    return client_answer(c, line, n);
}

/* Gives r, which is in no queue, its last word. */
static void answer(struct req *r, const char *line, size_t n)
{
    slice_release(&r->bytes);
    if (!r->take(r, (const unsigned char *)line, n, true)) {
        conn_fail(r->client->conn, "no chunk left for its answer (chunks)");
        must(r->take(r, (const unsigned char *)line, n, true));
    }
}

void req_error(struct req *r, const char *fmt, ...)
{
    char line[ERROR_CAP];
    size_t n;
    va_list args;
    va_start(args, fmt);
    n = error_line(line, fmt, args);
    va_end(args);
    answer(r, line, n);
}

void req_orphan(struct client *c)
{
    for (struct req *r = c->head, *next; r != NULL; r = next) {
        next = r->client_next;
        req_settle(r);
        if (r->state == REQ_DONE) {
            req_free(r);
        } else {
            if (r->fan != NULL) {
                fan_orphan(r);
            }
            r->client = NULL;
        }
    }
    c->head = c->tail = NULL;
    c->queued = 0;
    pen_close(&c->park);
}

/* --------------------------------------------------- the queue of an upstream */

static void on_tick(struct timer *t);

static void queue_put(struct upstream *u, struct req *r)
{
    r->upstream = u;
    r->state = REQ_QUEUED;
    r->next = NULL;
    r->prev = u->tail;
    if (u->tail != NULL) {
        u->tail->next = r;
    } else {
        u->head = r;
        u->progress_ms = loop_ms();
        if (u->timer.next == NULL) {
            u->timer.on_due = on_tick;
            loop_timer(&u->timer, u->progress_ms + TICK_MS);
        }
    }
    u->tail = r;
    if (u->unsent == NULL) {
        u->unsent = r;
        u->unsent_off = 0;
    }
    u->queued++;
}

static void queue_cut(struct upstream *u, struct req *r)
{
    if (u->unsent == r) {
        u->unsent = r->next;
        u->unsent_off = 0;
    }
    if (r->prev != NULL) {
        r->prev->next = r->next;
    } else {
        u->head = r->next;
    }
    if (r->next != NULL) {
        r->next->prev = r->prev;
    } else {
        u->tail = r->prev;
    }
    u->queued--;
    r->next = r->prev = NULL;
    r->upstream = NULL;
}

/* Puts `in` where r was; both keep the connection's pairing of requests and replies. */
static void queue_swap(struct upstream *u, struct req *r, struct req *in)
{
    in->upstream = u;
    in->state = REQ_QUEUED;
    in->next = r->next;
    in->prev = r->prev;
    *(in->prev != NULL ? &in->prev->next : &u->head) = in;
    *(in->next != NULL ? &in->next->prev : &u->tail) = in;
    r->next = r->prev = NULL;
    r->upstream = NULL;
}

static bool ready_to_send(const struct upstream *u)
{
    return u->conn != NULL && u->conn->state == CONN_OPEN && u->greeting == 0 && !u->held;
}

void upstream_dirty(struct upstream *u)
{
    if (ready_to_send(u)) {
        conn_dirty(u->conn);
    }
}

bool req_bytes(struct req *r, struct backend *b, struct client *c, const unsigned char *p, size_t len, bool copied)
{
    if (len > REDIS_COPY_MAX && !copied) {
        chain_slice(&c->in, len, &r->bytes);
        return true;
    }
    return pen_write(&b->shared->pen, BUF_REQUEST, p, len, &r->bytes);
}

struct backend *service_owner(const struct service *s, uint16_t slot)
{
    uint16_t owner = s->map.owner[slot];
    return owner == SLOTMAP_NONE ? NULL : backend_at(owner);
}

void req_send(struct req *r, struct backend *b)
{
    struct upstream *u = b->shared;
    if (!ready_to_send(u)) {
        if (u->queued >= b->service->conf->failover_queue) {
            stats.not_executed++;
            req_error(r, "CLUSTERDOWN not executed: too many requests wait for the node of slot %u (failover_queue)",
                      (unsigned)r->slot);
            return;
        }
        if (u->conn == NULL) {
            queue_put(u, r);
            upstream_connect(u);
            return;
        }
        queue_put(u, r);
        return;
    }
    queue_put(u, r);
    conn_dirty(u->conn);
}

void req_route(struct req *r)
{
    struct service *s = r->service;
    struct backend *b = service_owner(s, r->slot);
    r->flags &= (uint16_t)~(REQ_ASKING | REQ_ASKED | REQ_VIA_ASK);
    if (b == NULL) {
        health_refresh(s);
        req_again(r);
    } else {
        req_send(r, b);
    }
}

/* ------------------------------------------------------- the waiting list */

static void on_waiting_due(struct timer *t);

void req_again(struct req *r)
{
    r->state = REQ_WAITING;
    r->flags &= (uint16_t)~(REQ_ASKING | REQ_ASKED | REQ_VIA_ASK);
    r->due_ms = now32() + REDIS_RETRY_MS;
    r->next = NULL;
    r->prev = rq.waiting_tail;
    *(rq.waiting_tail != NULL ? &rq.waiting_tail->next : &rq.waiting) = r;
    rq.waiting_tail = r;
    if (r->client != NULL) {
        r->client->gate = true;
        r->client->held++;
    }
    if (rq.waiting == r) {
        rq.waiting_timer.on_due = on_waiting_due;
        loop_timer(&rq.waiting_timer, loop_ms() + REDIS_RETRY_MS);
    }
}

static void waiting_cut(struct req *r)
{
    *(r->prev != NULL ? &r->prev->next : &rq.waiting) = r->next;
    *(r->next != NULL ? &r->next->prev : &rq.waiting_tail) = r->prev;
    r->next = r->prev = NULL;
    if (r->client != NULL) {
        r->client->held--;
    }
}

/* Whether an earlier request of the same client on the same slot is still to be answered: then r must not overtake
 * it. Parts count as the request that they are a part of, which is why a part looks for its whole. */
static bool overtakes(const struct req *r)
{
    const struct req *whole = r->fan != NULL ? fan_whole(r->fan) : r;
    if (r->client == NULL) {
        return false;
    }
    for (const struct req *e = r->client->head; e != NULL && e != whole; e = e->client_next) {
        if (e->state != REQ_DONE && (e->fan != NULL || e->slot == r->slot)) {
            return true;
        }
    }
    return false;
}

static void retry(struct req *r)
{
    const struct conf_redis *conf = r->service->conf;
    uint32_t limit = (r->flags & REQ_TRYAGAIN) ? conf->request_timeout_ms : conf->failover_wait_ms;
    if (now32() - r->waits_ms >= limit || (r->client == NULL && r->fan == NULL)) {
        stats.not_executed++;
        if (r->flags & REQ_TRYAGAIN) {
            req_error(r, "TRYAGAIN not executed: slot %u was still being moved after %u ms", (unsigned)r->slot, limit);
        } else {
            req_error(r, "CLUSTERDOWN not executed: no node served slot %u within %u ms: %s", (unsigned)r->slot,
                      limit, r->service->trouble);
        }
    } else if (overtakes(r)) {
        req_again(r);
    } else {
        stats.resent++;
        req_route(r);
    }
}

static void on_waiting_due(struct timer *t)
{
    struct req *last = rq.waiting_tail;
    struct req *r = rq.waiting;
    uint32_t now = now32();
    while (r != NULL && (int32_t)(r->due_ms - now) <= 0) {
        bool end = r == last;
        waiting_cut(r);
        retry(r);
        r = end ? NULL : rq.waiting;
    }
    if (rq.waiting != NULL) {
        int32_t left = (int32_t)(rq.waiting->due_ms - now);
        loop_timer(t, loop_ms() + (left > 0 ? (uint64_t)left : 1));
    }
}

/* A request of c on this slot has just run. One that waits to be tried again was sent before it: run now, it would
 * run in the wrong order, so it is given up, unexecuted, with an error. */
static void give_up_earlier(struct client *c, uint16_t slot)
{
    for (struct req *r = rq.waiting, *next; r != NULL; r = next) {
        next = r->next;
        if (r->client == c && r->slot == slot) {
            waiting_cut(r);
            stats.not_executed++;
            req_error(r, "TRYAGAIN not executed: slot %u was being moved, and a later request has run", (unsigned)slot);
            next = rq.waiting; /* the answer may have changed the list */
            if (c->conn == NULL) {
                return;
            }
        }
    }
}

/* ------------------------------------------------------ what a node says */

/* How long each server's word keeps a request: the rest of the table of redirects. */
static bool begins(const unsigned char *p, size_t n, const char *word)
{
    size_t len = strlen(word);
    return n >= len && memcmp(p, word, len) == 0;
}

static void follow(struct req *r, struct upstream *u, const struct slotmap_redirect *to)
{
    struct service *s = r->service;
    struct backend *b = backend_get(s, to->host, to->port, u->backend);
    r->flags &= (uint16_t)~(REQ_ASKING | REQ_ASKED | REQ_VIA_ASK | REQ_TRYAGAIN);
    if (r->client != NULL) {
        r->client->gate = true;
    }
    if (b == NULL) {
        stats.not_executed++;
        req_error(r, "CLUSTERDOWN not executed: no entry left for node %s:%u (max_backends)", to->host,
                  (unsigned)to->port);
        return;
    }
    if (to->ask) {
        stats.redirect_ask++;
        r->flags |= REQ_ASKING;
    } else {
        stats.redirect_moved++;
        service_set_owner(s, to->slot, b);
        health_refresh(s);
    }
    stats.resent++;
    if (++r->hops <= REDIS_HOPS_FAST) {
        req_send(r, b);
    } else if (r->hops <= REDIS_HOPS_MAX) {
        req_again(r);
    } else {
        stats.not_executed++;
        req_error(r, "TRYAGAIN not executed: slot %u was redirected %u times", (unsigned)to->slot, (unsigned)r->hops);
    }
}

/* Whether the error reply says that the node did not run the request and another try may. If so r, already out of
 * its queue, has been taken care of. */
static bool turned_away(struct upstream *u, struct req *r, const unsigned char *p, size_t n)
{
    struct slotmap_redirect to;
    uint64_t *counter;
    if (r->bytes.len == 0 && (r->flags & REQ_STREAMED) == 0) {
        return false; /* a record for nobody, in the place of a late one */
    }
    if (r->flags & REQ_STREAMED) {
        if (begins(p, n, "-MOVED ") || begins(p, n, "-ASK ") || begins(p, n, "-TRYAGAIN")) {
            health_refresh(r->service);
            stats.not_executed++;
            req_error(r, "TRYAGAIN not executed: slot %u moved while a request longer than retain_bytes was sent",
                      (unsigned)r->slot);
            return true;
        }
        return false;
    }
    if ((begins(p, n, "-MOVED ") || begins(p, n, "-ASK ")) && slotmap_redirect(p, n, &to)) {
        follow(r, u, &to);
        return true;
    }
    if (begins(p, n, "-TRYAGAIN")) {
        counter = &stats.redirect_tryagain;
        r->flags |= REQ_TRYAGAIN;
    } else if (begins(p, n, "-CLUSTERDOWN") || begins(p, n, "-MASTERDOWN") || begins(p, n, "-READONLY")) {
        counter = &stats.redirect_clusterdown;
    } else if (begins(p, n, "-LOADING")) {
        counter = &stats.redirect_loading;
    } else {
        return false;
    }
    (*counter)++;
    if (counter != &stats.redirect_tryagain) {
        if ((r->flags & REQ_TURNED) == 0) {
            r->flags |= REQ_TURNED;
            r->waits_ms = now32();
        }
        health_refresh(r->service);
    }
    req_again(r);
    return true;
}

/* ------------------------------------------------------ replies come in */

static void reply_next(struct upstream *u)
{
    u->from = u->at;
    u->whole = u->streaming = u->dropping = u->given = false;
    resp_reply_start(&u->reply);
}

/* It cannot go on before its client or the pool has room: no more is read, so that the node waits too. */
static void set_stuck(struct upstream *u)
{
    if (!u->stuck) {
        u->stuck = true;
        u->stuck_ms = loop_ms();
        u->next = rq.stuck;
        rq.stuck = u;
        if (u->conn != NULL) {
            conn_read(u->conn, false);
        }
    }
}

/* A lease whose work is done goes back. */
static void lease_done(struct upstream *u)
{
    if (u->leased && !u->kept && u->head == NULL && !u->dropping) {
        lease_return(u);
    }
}

/* The whole reply of the oldest request lies in [from, at). False: its taker has no room now. */
static bool reply_whole(struct upstream *u)
{
    struct req *r = u->head;
    const unsigned char *p = u->buf + u->from;
    size_t n = u->at - u->from;
    bool streamed = u->streaming;
    if (r->flags & REQ_ASKED) {
        r->flags = (uint16_t)((r->flags & ~REQ_ASKED) | REQ_VIA_ASK);
        reply_next(u);
        return true;
    }
    queue_cut(u, r);
    r->upstream = u;
    if (!streamed && *p == '-' && turned_away(u, r, p, n)) {
        reply_next(u);
        lease_done(u);
        return true;
    }
    slice_release(&r->bytes);
    if (r->client != NULL && r->client->held > 0) {
        give_up_earlier(r->client, r->slot);
    }
    if (!r->take(r, p, n, true)) {
        r->upstream = u;
        r->prev = NULL;
        r->next = u->head;
        *(u->head != NULL ? &u->head->prev : &u->tail) = r;
        u->head = r;
        u->queued++;
        set_stuck(u);
        return false;
    }
    stats.replies++;
    u->served = true;
    if (streamed && !u->leased) {
        u->held = false;
        upstream_dirty(u);
    }
    reply_next(u);
    lease_done(u);
    return true;
}

/* Whether a later request of the same client, already sent, writes where r reads: then asking r again would show it
 * the future. */
static bool written_since(const struct req *r)
{
    for (const struct req *e = r->client_next; e != NULL; e = e->client_next) {
        if (e->state == REQ_PARTS || (e->slot == r->slot && (e->flags & REQ_READONLY) == 0 && e->command != NULL)) {
            return true;
        }
    }
    return false;
}

/* The reply under way is too long for the buffer or for the shared connection. */
static void reply_large(struct upstream *u)
{
    struct req *r = u->head;
    stats.large_replies++;
    if (r->client == NULL && r->fan == NULL) {
        queue_cut(u, r);
        req_free(r);
        u->dropping = true;
    } else if (!u->leased && r->take == req_to_client && (r->flags & REQ_READONLY) && r->bytes.len > 0 &&
               !written_since(r)) {
        queue_cut(u, r);
        u->dropping = true;
        req_on_large(r);
    } else {
        u->streaming = true;
        u->held = u->held || !u->leased;
    }
}

static bool too_large(const struct upstream *u)
{
    size_t limit = u->leased ? u->cap / 2 : u->backend->service->conf->shared_reply_limit;
    return resp_reply_least(&u->reply) > (limit < u->cap ? limit : u->cap) || (u->from == 0 && u->len == u->cap);
}

/* Passes on what has come of a long reply. False: stuck, or the connection is gone. */
static bool reply_piece(struct upstream *u)
{
    struct req *r = u->head;
    size_t n = u->at - u->from;
    if (u->dropping) {
        u->from = u->at;
        if (u->whole) {
            reply_next(u);
            lease_done(u);
        }
        return true;
    }
    if (u->whole) {
        return reply_whole(u);
    }
    if (n == 0) {
        return true;
    }
    if (r->client == NULL && r->fan == NULL) {
        queue_cut(u, r);
        req_free(r);
        u->streaming = false;
        u->held = u->held && u->leased;
        u->dropping = true;
        return true;
    }
    if (!r->take(r, u->buf + u->from, n, false)) {
        set_stuck(u);
        return false;
    }
    u->given = true;
    u->from = u->at;
    return true;
}

/* The answer to our own login. */
static bool reply_greeting(struct upstream *u)
{
    const unsigned char *p = u->buf + u->from;
    if (*p == '-') {
        char text[160];
        log_error("a node refuses our login", "node=%s:%u error=%s", u->backend->host, (unsigned)u->backend->port,
                  log_quote((const char *)p, u->at - u->from, text, sizeof text));
        conn_fail(u->conn, "login refused");
        return false;
    }
    u->greeting--;
    reply_next(u);
    upstream_dirty(u);
    on_room(u->conn);
    return true;
}

/* A node spoke without being asked: it refuses us, or says good-bye. */
static void reply_unasked(struct upstream *u)
{
    char text[160];
    log_warn("a node speaks out of turn", "node=%s:%u said=%s", u->backend->host, (unsigned)u->backend->port,
             log_quote((const char *)u->buf + u->from, u->len - u->from, text, sizeof text));
    conn_fail(u->conn, "it spoke out of turn");
}

/* Makes room behind what is kept of a reply that is not whole. */
static void compact(struct upstream *u)
{
    if (u->from == u->len) {
        u->from = u->at = u->len = 0;
    } else if (u->from > 0 && u->cap - u->len < u->cap / 4) {
        memmove(u->buf, u->buf + u->from, u->len - u->from);
        u->at -= u->from;
        u->len -= u->from;
        u->from = 0;
    }
}

/* One step on: a reply or a piece of one is passed on. False: no further now. */
static bool reply_step(struct upstream *u)
{
    if (u->streaming || u->dropping) {
        return reply_piece(u);
    }
    if (u->greeting > 0) {
        return u->whole && reply_greeting(u);
    }
    if (u->head == u->unsent) {
        reply_unasked(u);
        return false;
    }
    if (u->whole) {
        return reply_whole(u);
    }
    if (!too_large(u)) {
        return false;
    }
    reply_large(u);
    return reply_piece(u);
}

static void upstream_parse(struct upstream *u)
{
    struct conn *conn = u->conn;
    while (u->conn == conn && (u->at < u->len || u->whole || (u->streaming && u->from < u->at))) {
        if (!u->whole && u->at < u->len) {
            enum resp_status status;
            u->at += resp_reply(&u->reply, u->buf + u->at, u->len - u->at, &status);
            if (status == RESP_BAD) {
                conn_fail(conn, "it does not speak the Redis protocol");
                return;
            }
            u->whole = status == RESP_WHOLE;
        }
        if (!reply_step(u)) {
            break;
        }
    }
    if (u->conn == conn) {
        compact(u);
    }
}

static void on_bytes(struct conn *conn)
{
    struct upstream *u = conn->owner;
    size_t room = u->cap - u->len;
    ssize_t n;
    if (room == 0) {
        return; /* stuck with a full buffer: it is read on when that is passed on */
    }
    n = conn_receive(conn, u->buf + u->len, room < READ_MAX ? room : READ_MAX);
    if (n > 0) {
        u->len += (size_t)n;
        u->progress_ms = loop_ms();
        if (u->held && !u->streaming && !u->leased) {
            u->held = false;
            health_alive(u->backend);
            upstream_dirty(u);
        }
        upstream_parse(u);
    } else if (n == CONN_ENDED) {
        conn_fail(conn, "the node closed the connection");
    }
}

/* ------------------------------------------------------ requests go out */

static int gather(struct conn *conn, struct iovec *iov, int max)
{
    struct upstream *u = conn->owner;
    size_t skip = u->unsent_off;
    int count = 0;
    if (!ready_to_send(u)) {
        return 0;
    }
    for (struct req *r = u->unsent; r != NULL && count + 2 < max; r = r->next) {
        size_t at = 0, n;
        const unsigned char *p;
        if (r->flags & REQ_ASKING) {
            if (skip < ASKING_LEN) {
                iov[count].iov_base = (void *)(uintptr_t)(asking_line + skip);
                iov[count++].iov_len = ASKING_LEN - skip;
                skip = 0;
            } else {
                skip -= ASKING_LEN;
            }
        }
        at = skip;
        skip = 0;
        while (count < max && (n = slice_part(&r->bytes, &at, &p)) > 0) {
            if (count > 0 && (unsigned char *)iov[count - 1].iov_base + iov[count - 1].iov_len == p) {
                iov[count - 1].iov_len += n;
            } else {
                iov[count].iov_base = (void *)(uintptr_t)p;
                iov[count++].iov_len = n;
            }
        }
    }
    return count;
}

static void on_sent(struct conn *conn, size_t n)
{
    struct upstream *u = conn->owner;
    while (u->unsent != NULL) {
        struct req *r = u->unsent;
        size_t length = r->bytes.len + ((r->flags & REQ_ASKING) ? ASKING_LEN : 0);
        size_t left = length - u->unsent_off;
        if (n < left) {
            u->unsent_off += n;
            return;
        }
        n -= left;
        if (r->flags & REQ_ASKING) {
            r->flags = (uint16_t)((r->flags & ~REQ_ASKING) | REQ_ASKED);
        }
        u->unsent = r->next;
        u->unsent_off = 0;
        if (n == 0 && (r->next == NULL || r->next->bytes.len > 0)) {
            return;
        }
    }
}

/* ------------------------------------------------- its life and its end */

/* Its connection is lost: what was sent and only reads, and what was not wholly sent, is tried elsewhere; of a sent
 * write nobody knows whether it ran. */
static void lost_one(struct req *r, bool sent, bool given, const struct backend *b)
{
    r->flags &= (uint16_t)~(REQ_ASKING | REQ_ASKED | REQ_VIA_ASK);
    if (r->client == NULL && r->fan == NULL) {
        r->take(r, NULL, 0, true);
    } else if (given) {
        if (r->client != NULL) {
            conn_fail(r->client->conn, "the node was lost in the middle of its answer");
        }
        req_error(r, "ERR the node was lost in the middle of the answer");
    } else if (sent && (r->flags & REQ_READONLY) == 0) {
        stats.outcome_unknown++;
        req_error(r, "ERR outcome unknown: the connection to %s:%u was lost before it answered", b->host,
                  (unsigned)b->port);
    } else if (r->flags & REQ_STREAMED) {
        stats.not_executed++;
        req_error(r, "TRYAGAIN not executed: the connection to %s:%u was lost while the request was sent", b->host,
                  (unsigned)b->port);
    } else {
        if (sent) {
            r->waits_ms = now32();
            stats.resent++;
        }
        if (++r->hops > REDIS_HOPS_MAX) {
            req_error(r, "CLUSTERDOWN not executed: %u connections were lost on the way", (unsigned)r->hops);
        } else {
            req_route(r);
        }
    }
}

static void upstream_lost(struct upstream *u, const char *why)
{
    struct req *list = u->head, *unsent = u->unsent;
    struct backend *b = u->backend;
    bool given = u->streaming && u->given, sent = true, was_lease = u->leased, served = u->served;
    struct client *owner = u->owner;
    if (list != NULL || !u->leased) {
        log_info("upstream lost", "node=%s:%u queued=%u why=%s%s%s", b->host, (unsigned)b->port, u->queued, "\"", why,
                 "\"");
        stats.upstream_lost++;
    }
    u->conn = NULL;
    u->head = u->tail = u->unsent = NULL;
    u->unsent_off = 0;
    u->queued = 0;
    u->greeting = 0;
    u->held = u->kept = u->served = false;
    u->from = u->at = u->len = 0;
    reply_next(u);
    if (was_lease) {
        u->owner = NULL;
        if (owner != NULL) {
            owner->lease = NULL;
        }
    } else if (served) {
        health_lost(b);
    } else {
        health_refused(b);
    }
    for (struct req *r = list, *next; r != NULL; r = next) {
        next = r->next;
        r->next = r->prev = NULL;
        r->upstream = NULL;
        sent = sent && r != unsent;
        lost_one(r, sent, given, b);
        given = false;
    }
    if (was_lease) {
        if (owner != NULL) {
            client_resume(owner);
        }
        if (lease_on_free != NULL) {
            lease_on_free();
        }
    }
}

static void on_close(struct conn *conn, const char *why)
{
    upstream_lost(conn->owner, why);
}

static void on_open(struct conn *conn)
{
    struct upstream *u = conn->owner;
    const struct conf_redis *conf = u->backend->service->conf;
    os_keepalive(conn->fd, KEEPALIVE_IDLE_MS, conf->request_timeout_ms);
    u->progress_ms = loop_ms();
    if (conf->upstream_password[0] != '\0') {
        unsigned char line[2 * SECRET_CAP + 64];
        if (!chain_put(&conn->out, BUF_REPLY, line, health_login(conf, line))) {
            conn_fail(conn, "no chunk left for its login (chunks)");
            return;
        }
        u->greeting = 1;
    }
}

/* A client that streams to its lease waits for room there. */
static void on_room(struct conn *conn)
{
    struct upstream *u = conn->owner;
    if (u->owner != NULL && u->owner->paused) {
        client_resume(u->owner);
    }
}

static const struct conn_ops upstream_ops = {
    .kind = "upstream",
    .on_open = on_open,
    .on_bytes = on_bytes,
    .on_room = on_room,
    .on_close = on_close,
    .gather = gather,
    .on_sent = on_sent,
};

static void upstream_connect(struct upstream *u)
{
    struct backend *b = u->backend;
    const struct conf_redis *conf = b->service->conf;
    const struct address *a = backend_address(b);
    struct net_sizes sizes = { conf->receive_buffer, conf->send_buffer };
    if (u->conn != NULL || b->state == BACKEND_DOWN || a == NULL) {
        return;
    }
    u->conn = conn_take(CONN_UPSTREAM, &upstream_ops, u);
    if (u->conn == NULL) {
        log_error("no connection left for a node", "node=%s:%u", b->host, (unsigned)b->port);
        return;
    }
    if (!conn_dial(u->conn, a, conf->dial_timeout_ms, &sizes)) {
        u->conn = NULL;
        if (!u->leased) {
            health_refused(b);
        }
    }
}

/* ------------------------------------------------------------- deadlines */

/* Its reply has not come in time: its client hears so, and a record for nobody takes its place, since the reply
 * may still come. */
static void late(struct upstream *u, struct req *r)
{
    struct req *ghost = req_take(NULL, NULL, req_drop);
    stats.late++;
    if (ghost == NULL) {
        conn_fail(u->conn, "no record left to wait for a late reply (max_requests)");
        return;
    }
    ghost->service = r->service;
    ghost->flags = r->flags & REQ_ASKED;
    queue_swap(u, r, ghost);
    if (r->flags & REQ_READONLY) {
        req_error(r, "ERR no answer from %s:%u within %u ms (request_timeout)", u->backend->host,
                  (unsigned)u->backend->port, r->service->conf->request_timeout_ms);
    } else {
        stats.outcome_unknown++;
        req_error(r, "ERR outcome unknown: no answer from %s:%u within %u ms (request_timeout)", u->backend->host,
                  (unsigned)u->backend->port, r->service->conf->request_timeout_ms);
    }
}

static void check_sent(struct upstream *u, const struct conf_redis *conf)
{
    uint32_t now = now32();
    for (struct req *r = u->head, *next; r != NULL && r != u->unsent && u->conn != NULL; r = next) {
        next = r->next;
        if (now - r->started_ms < conf->request_timeout_ms) {
            return;
        }
        if (r->client != NULL && !(r == u->head && (u->streaming || u->stuck))) {
            late(u, r);
        }
    }
}

static void check_unsent(struct upstream *u, const struct conf_redis *conf)
{
    uint32_t now = now32();
    struct req *r = u->unsent;
    if (r != NULL && u->unsent_off > 0) {
        r = r->next;
    }
    for (struct req *next; r != NULL; r = next) {
        uint32_t limit = ready_to_send(u) ? conf->request_timeout_ms : conf->failover_wait_ms;
        next = r->next;
        if (r->flags & REQ_STREAMED) {
            if (r->client != NULL && loop_ms() - r->client->conn->watch.active_ms > conf->client_stall_ms) {
                conn_fail(r->client->conn, "it stopped in the middle of a large request (client_stall)");
            }
            return;
        }
        if (now - r->waits_ms >= limit) {
            queue_cut(u, r);
            stats.not_executed++;
            req_error(r, "CLUSTERDOWN not executed: %s:%u did not come back within %u ms", u->backend->host,
                      (unsigned)u->backend->port, limit);
        }
    }
}

static void check_stuck(struct upstream *u)
{
    uint64_t since = loop_ms() - u->stuck_ms;
    struct client *c = u->head != NULL ? u->head->client : NULL;
    bool pool = !buf_may_take(BUF_REPLY);
    if (!u->stuck || c == NULL || c->conn == NULL) {
        return;
    }
    if (pool && since >= STUCK_POOL_MS) {
        conn_fail(c->conn, "no chunk left for its answers (chunks)");
    } else if (!pool && !u->leased && u->head->next != NULL && since >= STUCK_SHARED_MS) {
        conn_fail(c->conn, "it does not read a long answer while others wait behind it (shared_reply_limit)");
    }
}

static void on_tick(struct timer *t)
{
    struct upstream *u = (struct upstream *)(void *)((char *)t - offsetof(struct upstream, timer));
    const struct conf_redis *conf = u->backend->service->conf;
    uint64_t idle = loop_ms() - u->progress_ms;
    bool sent = u->head != NULL && u->head != u->unsent && u->conn != NULL && !u->stuck;
    if (sent && !u->leased && !u->held && idle >= conf->suspect_after_ms) {
        u->held = true;
        health_suspect(u->backend);
    }
    check_stuck(u);
    check_sent(u, conf);
    check_unsent(u, conf);
    if (sent && u->conn != NULL && idle >= conf->request_timeout_ms) {
        conn_fail(u->conn, "no progress within request_timeout");
    }
    if (u->queued > 0) {
        loop_timer(&u->timer, loop_ms() + TICK_MS);
        if (u->conn == NULL) {
            upstream_connect(u);
        }
    }
}

/* ---------------------------------------------------- the map, the nodes */

void service_set_owner(struct service *s, uint16_t slot, struct backend *b)
{
    uint16_t old = s->map.owner[slot];
    if (slotmap_set(&s->map, slot, b->index)) {
        stats.map_changes++;
        b->slots++;
        if (old != SLOTMAP_NONE && backend_at(old) != NULL) {
            backend_at(old)->slots--;
        }
    }
}

/* Requests of which nothing was sent go to the slot's new owner. */
static void reroute_unsent(struct upstream *u)
{
    struct req *r = u->unsent, *last = u->tail;
    if (r != NULL && u->unsent_off > 0) {
        r = r->next;
    }
    for (struct req *next; r != NULL; r = next) {
        struct backend *owner = service_owner(r->service, r->slot);
        next = r == last ? NULL : r->next;
        if (owner != NULL && owner != u->backend && (r->flags & REQ_ASKING) == 0) {
            queue_cut(u, r);
            req_route(r);
        }
    }
}

static void on_map(struct service *s)
{
    for (uint32_t i = 0; i < rq.shared_count; i++) {
        struct upstream *u = &rq.shared[i];
        if (u->backend == NULL || u->backend->service != s || u->queued == 0 || ready_to_send(u)) {
            continue;
        }
        reroute_unsent(u);
        if (u->held && !u->streaming && u->backend->slots == 0 && u->conn != NULL) {
            conn_fail(u->conn, "its slots were taken over while it did not answer");
        }
    }
}

static void on_backend(struct backend *b)
{
    struct upstream *u = b->shared;
    if (u == NULL) {
        u = b->shared = &rq.shared[b->index];
        u->backend = b;
    }
    if (b->state == BACKEND_FREE) {
        if (u->conn != NULL) {
            conn_close(u->conn);
            u->conn = NULL;
        }
        loop_timer_stop(&u->timer);
        pen_close(&u->pen);
        b->shared = NULL;
    } else if (u->conn != NULL && u->conn->state == CONN_OPEN && !u->streaming) {
        u->held = b->state == BACKEND_DOWN || b->state == BACKEND_SUSPECT;
        upstream_dirty(u);
    } else if (b->state != BACKEND_DOWN && u->queued > 0) {
        upstream_connect(u);
    }
}

static bool in_use(const struct backend *b)
{
    for (uint32_t i = 0; i < rq.lease_count; i++) {
        if (rq.leases[i].backend == b && rq.leases[i].owner != NULL) {
            return true;
        }
    }
    return b->shared->queued > 0;
}

const struct service_ops redis_service_ops = { on_map, on_backend, in_use };

/* ---------------------------------------------------------------- leases */

struct upstream *lease_take(struct backend *b, struct client *c)
{
    struct upstream *found = NULL;
    for (uint32_t i = 0; i < rq.lease_count; i++) {
        struct upstream *u = &rq.leases[i];
        if (u->owner != NULL || u->head != NULL || u->dropping) {
            continue;
        }
        if (u->conn != NULL && u->backend == b) {
            found = u;
            break;
        }
        if (found == NULL || (found->conn != NULL && u->conn == NULL)) {
            found = u;
        }
    }
    if (found == NULL) {
        return NULL;
    }
    if (found->conn != NULL && found->backend != b) {
        conn_close(found->conn);
        found->conn = NULL;
        found->greeting = 0;
        found->from = found->at = found->len = 0;
        reply_next(found);
    }
    found->backend = b;
    found->owner = c;
    found->held = false;
    c->lease = found;
    upstream_connect(found);
    return found;
}

void lease_return(struct upstream *u)
{
    if (u->owner != NULL) {
        u->owner->lease = NULL;
        u->owner = NULL;
    }
    u->kept = false;
    if (lease_on_free != NULL) {
        lease_on_free();
    }
}

/* Ends a lease in whatever state it is: what is half said on the connection cannot be said on for anybody else. */
void lease_break(struct upstream *u, const char *why)
{
    if (u->conn != NULL) {
        conn_fail(u->conn, why);
    } else {
        upstream_lost(u, why);
    }
}

void lease_send(struct upstream *u, struct req *r)
{
    queue_put(u, r);
    if (u->conn == NULL) {
        upstream_connect(u);
    } else {
        upstream_dirty(u);
    }
}

bool lease_ready(const struct upstream *u)
{
    return ready_to_send(u);
}

void lease_sent(struct upstream *u)
{
    must(u->unsent == u->head);
    u->unsent = NULL;
    u->progress_ms = loop_ms();
    if (u->head != NULL) {
        u->head->started_ms = now32();
    }
}

/* -------------------------------------------------------- end of a turn */

void redis_req_unstick(void)
{
    rq.again = rq.again || rq.stuck != NULL;
}

static void unstick(void)
{
    struct upstream *list = rq.stuck;
    rq.stuck = NULL;
    while (list != NULL) {
        struct upstream *u = list;
        list = u->next;
        u->stuck = false;
        if (u->conn != NULL) {
            uint64_t since = u->stuck_ms;
            upstream_parse(u);
            if (u->stuck) {
                u->stuck_ms = since;
            } else if (u->conn != NULL) {
                conn_read(u->conn, true);
            }
        }
    }
}

bool redis_req_pending(void)
{
    rq.relief = rq.relief || buf_relieved();
    return rq.again || rq.resume != NULL || (rq.starved != NULL && rq.relief);
}

void client_starve(struct client *c)
{
    if (!c->starved) {
        c->starved = true;
        c->starved_ms = c->starved_ms == 0 ? loop_ms() : c->starved_ms;
        c->hungry = NULL;
        *(rq.starved != NULL ? &rq.starved_tail->hungry : &rq.starved) = c;
        rq.starved_tail = c;
    }
}

void redis_req_relieve(void)
{
    rq.relief = true;
}

/* Something became free: those that wait for records or chunks try again, the longest waiting first. */
static void feed(void)
{
    struct client *last = rq.starved_tail;
    rq.relief = false;
    while (rq.starved != NULL && rq.free != NULL && buf_may_take(BUF_REQUEST)) {
        struct client *c = rq.starved;
        rq.starved = c->hungry;
        c->starved = false;
        client_on_resume(c);
        if (c == last) {
            return;
        }
    }
}

void redis_req_turn(void)
{
    struct client *c;
    rq.again = false;
    if (rq.stuck != NULL) {
        unstick();
    }
    c = rq.resume;
    rq.resume = rq.resume_tail = NULL;
    while (c != NULL) {
        struct client *next = c->next;
        c->resuming = false;
        if (!c->starved) {
            client_on_resume(c);
        }
        c = next;
    }
    if (rq.starved != NULL && redis_req_pending()) {
        feed();
    }
}
