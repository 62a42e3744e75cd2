/*
 * redis_req.c - request records, and the order of a client's answers.
 *
 *   client    head -> req -> req -> req -> tail     the order of its answers
 *              |       |
 *              v       `- answered before its turn: its reply is parked, whole or as far as the client's credit goes
 *            client's output
 *
 *   starved   client -> client                      those that wait for a record or a chunk, the longest waiting first
 *
 * A record owns a slice with the request's bytes until the reply is taken. Where it goes meanwhile, and goes again, is
 * redis_route.c's matter; only when its reply is taken does it come back here.
 */
#include "redis.h"
#include "trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ERROR_CAP 512
#define CAUTIOUS 64    /* requests of a client that wait for their turn once an answer was too long to be parked until then */

static struct {
    struct req *all, *free;
    size_t total;                 /* how many are in use: gauges.requests */
    struct client *resume, *resume_tail;
    struct client *starved, *starved_tail;
    struct client *urgent;
    bool shortage; /* somebody starves for records */
    bool relief;   /* what those that starve wait for has become free */
} rq;

void (*client_on_resume)(struct client *c);
void (*lease_on_free)(void);
void (*fan_orphan)(struct req *whole);

void redis_req_tables(const struct conf *conf)
{
    rq.total = conf->max_requests;
    rq.all = arena_take("requests", rq.total, sizeof *rq.all);
}

void redis_req_open(void)
{
    gauges.requests.most = rq.total;
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
    return (size_t)gauges.requests.now;
}

bool req_any(const struct service *s, bool (*such)(const struct command *))
{
    for (size_t i = 0; i < rq.total; i++) {
        const struct req *r = &rq.all[i];
        if (r->state != REQ_FREE && r->state != REQ_DONE && r->service == s && r->command != NULL && such(r->command)) {
            return true;
        }
    }
    return false;
}

size_t redis_req_free(void)
{
    return rq.total - (size_t)gauges.requests.now;
}

void redis_req_shortage(void)
{
    stats.requests_full++;
    rq.shortage = true;
}

/* ---------------------------------------------------------------- records */

struct req *req_take(struct client *c, const struct command *command, req_taker take)
{
    struct req *r = rq.free;
    if (r == NULL) {
        stats.requests_full++;
        rq.shortage = true;
        return NULL;
    }
    rq.free = r->next;
    gauge_up(&gauges.requests);
    memset(r, 0, sizeof *r);
    r->client = c;
    r->service = c != NULL ? c->service : NULL;
    r->command = command;
    r->take = take;
    r->started_ms = r->waits_ms = now32();
    r->born_us = trace_stamp();
    if (command != NULL && (command->flags & CMD_READONLY) != 0) {
        r->flags = REQ_READONLY;
    }
    if (command != NULL && command->group == GROUP_SCRIPTING) {
        r->flags |= REQ_SCRIPT;
    }
    if (c != NULL && client_is_mute(c)) {
        r->flags |= REQ_MUTE;
    }
    if (c != NULL && c->caching > 0) {
        r->flags |= REQ_CACHED;
    }
    if (c != NULL && c->resp3) {
        r->flags |= REQ_RESP3;
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
    gauge_down(&gauges.requests);
    rq.relief = rq.relief || rq.shortage;
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
    r->size = r->bytes.len;
    c->request_bytes += r->size;
    if (c->unsettled++ == 0) {
        c->epoch = c->service->map.epoch;
    }
    if (c->cautious > 0 && r->command == c->early) {
        c->cautious--;
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
    r->flags &= ~REQ_COUNTED;
    c->unsettled--;
    c->request_bytes -= r->size;
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

/* Moves a parked reply to its client's output; false when the pool has no room for all of it now. What has been moved
 * is let go at once: a client whose answers fill the pool would wait for ever if they needed room twice. */
static bool unpark(struct client *c, struct req *r)
{
    while (r->parked.len > 0) {
        const unsigned char *p;
        size_t at = 0, n = slice_part(&r->parked, &at, &p);
        if (!chain_put(&c->conn->out, BUF_REPLY, p, n)) {
            return false;
        }
        slice_drop(&r->parked, n);
        c->parked_bytes -= n;
        conn_dirty(c->conn);
    }
    return true;
}

void req_forget_parked(struct req *r)
{
    if (r->flags & REQ_EARLY) {
        r->client->parked_bytes -= r->parked.len;
        slice_release(&r->parked);
        r->flags &= ~REQ_EARLY;
    }
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
    if (c->head != NULL && c->head->state == REQ_LEASING) {
        lease_on_free(); /* a long answer is asked again when its turn has come */
    }
}

/* Sends on what is answered and next in turn. */
void client_advance(struct client *c)
{
    while (c->head != NULL && c->head->state == REQ_DONE && unpark(c, c->head)) {
        pop_head(c);
    }
    if (c->parked_bytes == 0) {
        pen_close(&c->park);
    }
    if (c->head != NULL && c->head->state == REQ_DONE) {
        client_starve(c);
    } else if (c->paused || c->ended) {
        client_resume(c);
    }
    upstream_unstick_soon();
}

bool req_drop(struct req *r, const unsigned char *p, size_t n, bool last)
{
    (void)p, (void)n;
    if (last) {
        req_free(r);
    }
    return true;
}

size_t client_credit(const struct client *c)
{
    size_t share = buf_free_chunks() * buf_chunk_size() / 4;
    return share < c->service->conf->client_window ? share : c->service->conf->client_window;
}

/* The mean moves by an eighth of the difference: it follows a change of habit within a few answers. */
static void learn_size(struct client *c, size_t n)
{
    c->reply_bytes = (uint32_t)(c->reply_bytes - c->reply_bytes / 8 + n / 8);
    c->window += c->window < c->service->conf->client_pipeline;
}

/* The head of its client's queue has been answered with n bytes. */
static void head_answered(struct client *c, size_t n)
{
    learn_size(c, n);
    req_settle(c->head);
    pop_head(c);
    upstream_unstick_soon();
    if ((c->head != NULL && c->head->state == REQ_DONE) || c->paused || c->ended || c->park.chunk != NULL) {
        client_advance(c); /* what is parked may be silent (CLIENT REPLY), and so hold no byte */
    }
}

/* r's answer is parked until its turn, the last n bytes of it just now. */
static void parked(struct req *r, size_t n)
{
    slice_release(&r->bytes);
    r->flags &= ~REQ_EARLY;
    r->client->parked_bytes += n;
    learn_size(r->client, r->parked.len);
    req_settle(r);
    r->state = REQ_DONE;
}

/* Parks a piece of a long answer, as far as its client's credit goes: the connection is not to wait for what another node has
 * still to answer. */
static bool park_piece(struct req *r, const unsigned char *p, size_t n)
{
    struct client *c = r->client;
    if (c->parked_bytes + n > client_credit(c)) {
        c->early = r->command;
        c->cautious = CAUTIOUS;
        return false;
    }
    if (!slice_extend(&r->parked, BUF_REPLY, p, n)) {
        return false;
    }
    c->parked_bytes += n;
    r->flags |= REQ_EARLY;
    return true;
}

static bool park(struct req *r, const unsigned char *p, size_t n, bool last)
{
    if (!last) {
        return park_piece(r, p, n);
    }
    if (n > 0 && !((r->flags & REQ_EARLY) ? slice_extend(&r->parked, BUF_REPLY, p, n)
                                          : pen_write(&r->client->park, BUF_REPLY, p, n, &r->parked))) {
        return false;
    }
    parked(r, n);
    return true;
}

/* r's turn has come: what is parked of its answer goes ahead of the rest. False: not all of it has found room. */
static bool catch_up(struct client *c, struct req *r)
{
    if (r->flags & REQ_EARLY) {
        c->halfway = true;
        if (!unpark(c, r)) {
            return false;
        }
        r->flags &= ~REQ_EARLY;
    }
    return true;
}

bool req_give_parts(struct req *r, const struct iovec *parts, int count, bool last)
{
    struct client *c = r->client;
    bool head = c != NULL && r == c->head;
    size_t len = 0;
    if (c == NULL || r->flags & REQ_MUTE) {
        return req_to_client(r, NULL, 0, last);
    }
    for (int i = 0; i < count; i++) {
        len += parts[i].iov_len;
    }
    if (buf_free_chunks() * buf_chunk_size() < len + 2 * buf_chunk_size() || (!last && !head)) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        must(head ? chain_put(&c->conn->out, BUF_REPLY, parts[i].iov_base, parts[i].iov_len)
                  : parts[i].iov_len == 0 ||
                        pen_more(&c->park, BUF_REPLY, parts[i].iov_base, parts[i].iov_len, &r->parked));
    }
    if (!head) {
        parked(r, len);
        return true;
    }
    conn_dirty(c->conn);
    c->halfway = !last;
    if (last) {
        head_answered(c, len);
    }
    return true;
}

bool req_wrong_shape(struct req *r)
{
    conn_fail(r->client->conn, "a node gave an answer of the wrong shape");
    return true;
}

bool req_to_client(struct req *r, const unsigned char *p, size_t n, bool last)
{
    struct client *c = r->client;
    if (c == NULL) {
        return req_drop(r, p, n, last);
    }
    if (r->flags & REQ_MUTE) {
        n = 0;
    }
    if (r == c->head) {
        if ((!last && c->conn->out.len > 0 && c->conn->out.len >= client_credit(c)) || !catch_up(c, r) ||
            !chain_put(&c->conn->out, BUF_REPLY, p, n)) {
            return false;
        }
        conn_dirty(c->conn);
        c->halfway = !last;
        if (last) {
            head_answered(c, n);
        }
        return true;
    }
    return park(r, p, n, last);
}

/* The last answer of c, if it is parked just where the pen stands: what comes next goes on in it, and needs no record. */
static struct req *goes_on(const struct client *c)
{
    struct req *r = c->tail;
    const struct slice *s = r != NULL ? &r->parked : NULL;
    bool parks = r != NULL && r->state == REQ_DONE && s->len > 0 && s->chunk == c->park.chunk;
    return parks && s->off + s->len == s->chunk->used ? r : NULL;
}

/* Put into the order of answers: `behind` some that are to come, and of those just before one, or behind all. */
static bool put_parts(struct client *c, const struct iovec *parts, int count, bool behind, struct req *before)
{
    struct req **link = &c->head;
    struct req *last = behind && before == NULL ? goes_on(c) : NULL, *r = last;
    size_t len = 0;
    for (int i = 0; i < count; i++) {
        len += parts[i].iov_len;
    }
    if (buf_free_chunks() * buf_chunk_size() < len + 2 * buf_chunk_size() ||
        (behind && r == NULL && (r = req_take(c, NULL, req_to_client)) == NULL)) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        must(r == NULL ? chain_put(&c->conn->out, BUF_REPLY, parts[i].iov_base, parts[i].iov_len)
                       : parts[i].iov_len == 0 ||
                             pen_more(&c->park, BUF_REPLY, parts[i].iov_base, parts[i].iov_len, &r->parked));
    }
    if (r == NULL) {
        conn_dirty(c->conn);
        return true;
    }
    c->parked_bytes += len;
    r->state = REQ_DONE;
    if (r == last) {
        return true;
    }
    if (before == NULL) {
        req_enqueue(r);
        return true;
    }
    while (*link != before) {
        must(*link != NULL);
        link = &(*link)->client_next;
    }
    r->client_next = before;
    *link = r;
    c->queued++;
    return true;
}

bool client_answer_parts(struct client *c, const struct iovec *parts, int count)
{
    return client_is_mute(c) || put_parts(c, parts, count, c->head != NULL, NULL);
}

bool client_push(struct client *c, struct req *before, const struct iovec *parts, int count)
{
    bool first = c->head != NULL && c->head->state != REQ_DONE && (c->head == c->block || c->head == before);
    return put_parts(c, parts, count, c->head != NULL && (!first || c->halfway), c->halfway ? NULL : before);
}

bool client_answer(struct client *c, const void *p, size_t n)
{
    struct iovec part = { (void *)(uintptr_t)p, n };
    return client_answer_parts(c, &part, 1);
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
    stats_error(out, (size_t)n + 1);
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

void req_answer(struct req *r, const char *line, size_t n)
{
    if (trace_done(trace_stamp() - r->born_us)) {
        trace_given_up(r);
    }
    slice_release(&r->bytes);
    if (!r->take(r, (const unsigned char *)line, n, true)) {
        conn_fail(r->client->conn, "no chunk left for its answer (chunks)");
        must(r->take(r, (const unsigned char *)line, n, true));
    }
}

void req_silence(struct req *r)
{
    r->flags |= REQ_MUTE;
    req_answer(r, NULL, 0);
}

void req_error(struct req *r, const char *fmt, ...)
{
    char line[ERROR_CAP];
    size_t n;
    va_list args;
    va_start(args, fmt);
    n = error_line(line, fmt, args);
    va_end(args);
    req_answer(r, line, n);
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
            req_forget_parked(r);
            r->client = NULL;
        }
    }
    c->head = c->tail = NULL;
    c->queued = 0;
    pen_close(&c->park);
}

/* -------------------------------------------------------- end of a turn */

bool redis_req_pending(void)
{
    rq.relief = rq.relief || buf_relieved();
    return upstream_pending() || rq.resume != NULL || (rq.starved != NULL && rq.relief);
}

void client_starve(struct client *c)
{
    if (c->starved) {
        return;
    }
    c->starved = true;
    c->starved_ms = c->starved_ms == 0 ? loop_ms() : c->starved_ms;
    if (c == rq.urgent) {
        c->hungry = rq.starved;
        rq.starved = c;
        rq.starved_tail = c->hungry == NULL ? c : rq.starved_tail;
        return;
    }
    c->hungry = NULL;
    *(rq.starved != NULL ? &rq.starved_tail->hungry : &rq.starved) = c;
    rq.starved_tail = c;
}

enum verdict client_said(struct client *c, bool done)
{
    if (!done) {
        client_starve(c);
    }
    return done ? VERDICT_DONE : VERDICT_WAIT;
}

void client_fed(struct client *c)
{
    c->starved_ms = 0;
    if (rq.urgent == c) {
        rq.urgent = NULL;
    }
}

enum buf_use client_use(const struct client *c)
{
    return c == rq.urgent ? BUF_URGENT : BUF_REQUEST;
}

void redis_req_relieve(void)
{
    rq.relief = true;
}

static void feed_first(void)
{
    struct client *c = rq.starved;
    rq.starved = c->hungry;
    c->starved = false;
    client_on_resume(c);
}

/* Something became free: those that wait for records or chunks try again, the longest waiting first. */
static void feed(void)
{
    struct client *last = rq.starved_tail;
    bool end = false;
    rq.relief = rq.shortage = false;
    while (!end && rq.starved != NULL && rq.free != NULL && buf_may_take(BUF_REQUEST)) {
        end = rq.starved == last;
        rq.urgent = rq.urgent == rq.starved ? NULL : rq.urgent; /* there is plenty: back to the end if that fails */
        feed_first();
    }
    if (end || rq.starved == NULL || rq.free == NULL) {
        return;
    }
    if (buf_may_take(BUF_URGENT)) {
        rq.urgent = rq.starved;
        feed_first();
    } else if (rq.starved->head != NULL && rq.starved->head->state == REQ_DONE) {
        feed_first(); /* it only waits to pass on answers, which frees chunks */
    }
}

void redis_req_turn(void)
{
    struct client *c;
    upstream_turn();
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
