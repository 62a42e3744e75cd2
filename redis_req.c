/*
 * redis_req.c - request records: the order of a client's answers, where a request goes, redirects and replay.
 *
 *   client    head -> req -> req -> req -> tail     the order of its answers
 *                      |      |      |
 *   upstream  head -> req    req    req             the queue of a node's connection (redis_upstream.c)
 *   waiting   head -> req -> req                    turned away by a node: tried again a little later
 *
 * A record owns a slice with the request's bytes until the reply is taken: a redirect or a lost connection moves the
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

#define ERROR_CAP 512
#define BLOCKED_MS 500 /* what a node has turned away later than this had been accepted by it before */

static struct {
    struct req *all, *free;
    size_t total, in_use;
    struct req *waiting, *waiting_tail;
    struct timer waiting_timer;
    struct client *resume, *resume_tail;
    struct client *starved, *starved_tail;
    struct client *urgent;
    bool shortage; /* somebody starves for records */
    bool relief;   /* what those that starve wait for has become free */
} rq;

void (*client_on_resume)(struct client *c);
bool (*req_turned_away)(struct upstream *u, struct req *r, const unsigned char *p, size_t n);
void (*req_on_large)(struct req *r);
void (*lease_on_free)(void);
void (*req_on_lease)(struct req *r, struct backend *b);
void (*multi_before)(struct req *r, struct backend *b);
void (*multi_ahead)(struct req *r, const unsigned char *p, size_t n);
bool (*multi_refused)(struct req *r, const unsigned char *p, size_t n);
bool (*multi_unsent)(struct req *r);
void (*req_before_cached)(struct upstream *u);
void (*req_before_script)(const struct req *r, struct backend *b);
bool (*req_script_missing)(const struct req *r, const struct backend *b);
void (*req_on_owners)(struct service *s);
bool (*req_function_missing)(const struct req *r, struct backend *b);
void (*pubsub_on_map)(struct service *s);
void (*pubsub_on_backend)(struct backend *b);
const struct req *(*fan_whole)(const struct fan *f);
void (*fan_orphan)(struct req *whole);
void (*fan_anew)(struct req *part);
bool (*fan_under_way)(const struct fan *f, const struct req *r, const struct upstream *u);

static const struct upstream_events events;

void redis_req_tables(const struct conf *conf)
{
    rq.total = conf->max_requests;
    rq.all = arena_take("requests", rq.total, sizeof *rq.all);
}

void redis_req_open(void)
{
    upstream_events = &events;
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
    return rq.total - rq.in_use;
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
    rq.in_use--;
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

/* r's answer is parked until its turn. */
static void parked(struct req *r, size_t n)
{
    slice_release(&r->bytes);
    r->client->parked_bytes += n;
    learn_size(r->client, n);
    req_settle(r);
    r->state = REQ_DONE;
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
        if ((!last && c->conn->out.len > 0 && c->conn->out.len >= client_credit(c)) ||
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
    if (!last || (n > 0 && !pen_write(&c->park, BUF_REPLY, p, n, &r->parked))) {
        return false;
    }
    parked(r, n);
    return true;
}

/* Put into the order of answers: `behind` some that are to come, and of those just before one, or behind all. */
static bool put_parts(struct client *c, const struct iovec *parts, int count, bool behind, struct req *before)
{
    struct req **link = &c->head;
    struct req *r = NULL;
    size_t len = 0;
    for (int i = 0; i < count; i++) {
        len += parts[i].iov_len;
    }
    if (buf_free_chunks() * buf_chunk_size() < len + 2 * buf_chunk_size() ||
        (behind && (r = req_take(c, NULL, req_to_client)) == NULL)) {
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
            r->client = NULL;
        }
    }
    c->head = c->tail = NULL;
    c->queued = 0;
    pen_close(&c->park);
}

/* ------------------------------------------------------- where a request goes */

bool req_bytes(struct req *r, struct backend *b, struct client *c, const unsigned char *p, size_t len, bool copied)
{
    if (len > REDIS_COPY_MAX && !copied) {
        chain_slice(&c->in, len, &r->bytes);
        return true;
    }
    return pen_write(&req_upstream(r, b)->pen, client_use(c), p, len, &r->bytes);
}

struct backend *service_owner(const struct service *s, uint16_t slot)
{
    uint16_t owner = s->map.owner[slot];
    return owner == SLOTMAP_NONE ? NULL : backend_at(owner);
}

/* Whether an earlier request of its client waits there: a server would do r when that is done, and r's answer comes after
 * that one's anyway. */
static bool behind_its_own(const struct req *r, const struct upstream *u)
{
    const struct req *whole = r->fan != NULL ? fan_whole(r->fan) : r;
    for (const struct req *e = r->client->head; e != NULL && e != whole; e = e->client_next) {
        if (e->upstream == u && e->state == REQ_QUEUED) {
            return true;
        }
    }
    return false;
}

/* Goes to the node by which messages come, whichever has its slot. */
static bool is_publish(const struct req *r)
{
    return r->command != NULL && r->command->route == ROUTE_PUBSUB && r->command->keys == KEYS_NONE;
}

bool req_ahead(const struct client *c, int32_t slot)
{
    for (const struct req *e = c->unsettled > 0 ? c->head : NULL; e != NULL; e = e->client_next) {
        bool shard = e->command != NULL && e->command->route == ROUTE_PUBSUB && !is_publish(e);
        bool along = is_publish(e) ? e->state == REQ_PARTS || service_owner(e->service, e->slot) == e->service->primary :
                     shard || e->slot == slot;
        if (e->state != REQ_DONE && (e->fan != NULL || !along)) {
            return true;
        }
    }
    return false;
}

/* The way of a client that owns its connections. What is only asked to learn which node serves a key, or goes over a lease,
 * needs none. */
static struct upstream *own_way(const struct req *r, struct backend *b)
{
    if (r == r->client->large || (r->flags & REQ_LEASE) != 0) {
        return req_upstream(r, b);
    }
    r->client->asked = true;
    return own_upstream(r->client, b);
}

void req_send(struct req *r, struct backend *b)
{
    struct upstream *u;
    bool away;
    if (r->client != NULL && r->service->switching && is_publish(r)) {
        req_again(r); /* there those that it is for would not hear it yet */
        return;
    }
    u = r->client != NULL && r->client->owns ? own_way(r, b) : req_upstream(r, b);
    away = b->state == BACKEND_DOWN || b->state == BACKEND_SUSPECT;
    if (u == NULL) {
        stats.lease_refused++;
        req_error(r, "ERR not executed: no connection of its own is left for this client (max_own)");
        return;
    }
    if (away && !upstream_ready(u) && u->queued >= b->service->conf->failover_queue) {
        stats.not_executed++;
        req_error(r, "CLUSTERDOWN not executed: too many requests wait for the node of slot %u (failover_queue)",
                  (unsigned)r->slot);
        return;
    }
    if (b->busy && r->client != NULL && (r->command == NULL || (r->command->flags & CMD_ALLOW_BUSY) == 0) &&
        !behind_its_own(r, u)) {
        req_error(r, "%s%s", (r->flags & REQ_MULTI) ? "EXECABORT Transaction discarded because of: " : "",
                  b->busy_says + 1); /* behind the script it would wait unheard */
        return;
    }
    if (r->flags & REQ_LEASE) {
        req_on_lease(r, b);
        return;
    }
    if (r->flags & REQ_MULTI) {
        multi_before(r, b);
    } else if (r->flags & REQ_SCRIPT) {
        req_before_script(r, b);
    }
    if (r->flags & REQ_CACHED && u->owner != NULL) {
        req_before_cached(u);
    }
    upstream_put(u, r);
    if (upstream_ready(u)) {
        conn_dirty(u->conn);
    } else if (u->conn == NULL) {
        upstream_connect(u);
    }
}

void req_route(struct req *r)
{
    struct service *s = r->service;
    struct backend *b;
    r->slot = is_publish(r) ? s->primary_slot : r->slot;
    b = service_owner(s, r->slot);
    r->flags &= ~(REQ_ASKING | REQ_ASKED | REQ_VIA_ASK);
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
    r->flags &= ~(REQ_ASKING | REQ_ASKED | REQ_VIA_ASK);
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
    for (const struct req *e = r->client->head; e != NULL && e != whole; e = e->client_next) {
        if (e->state != REQ_DONE && (e->fan != NULL || req_meets(e, r))) {
            return true;
        }
    }
    return false;
}

/* Whether a later request of the same client on the same slot is in the queue of another connection than `u`: it went
 * there before r was turned away or lost its own, and if it runs, r must not. */
bool req_later_under_way(const struct req *r, const struct upstream *u)
{
    const struct req *whole = r->fan != NULL ? fan_whole(r->fan) : r;
    for (const struct req *e = whole->client_next; e != NULL; e = e->client_next) {
        if (e->state == REQ_PARTS ? e->fan != NULL && fan_under_way(e->fan, r, u) : req_under_way(e, r, u)) {
            return true;
        }
    }
    return false;
}

void req_again_not(struct req *r)
{
    waiting_cut(r);
}

static bool awaits_map(const struct req *r)
{
    return (r->flags & REQ_UNNAMED) != 0 && r->service->told_ms < r->since_ms;
}

static void retry(struct req *r)
{
    const struct conf_redis *conf = r->service->conf;
    uint32_t limit = (r->flags & REQ_TRYAGAIN) ? conf->request_timeout_ms : conf->failover_wait_ms;
    if (req_is_moot(r) && r->client != NULL) {
        req_silence(r);
    } else if (r->client == NULL || now32() - r->waits_ms >= limit) {
        stats.not_executed++;
        if (r->flags & REQ_TRYAGAIN) {
            req_error(r, "TRYAGAIN not executed: slot %u was still being moved after %u ms", (unsigned)r->slot, limit);
        } else {
            req_error(r, "CLUSTERDOWN not executed: no node served slot %u within %u ms: %s", (unsigned)r->slot,
                      limit, r->service->trouble);
        }
    } else if ((!is_publish(r) && overtakes(r)) || req_later_under_way(r, NULL) || awaits_map(r)) {
        req_again(r);
    } else {
        r->flags &= ~REQ_UNNAMED;
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

/* Whether w stands before r in their client's order of answers. */
static bool stands_before(const struct req *w, const struct req *r)
{
    const struct req *first = w->fan != NULL ? fan_whole(w->fan) : w, *last = r->fan != NULL ? fan_whole(r->fan) : r;
    for (const struct req *e = w->client->head; e != NULL && e != last; e = e->client_next) {
        if (e == first) {
            return true;
        }
    }
    return false;
}

/* r has just run. An earlier request on its slot that waits to be tried again would now run in the wrong order: it is
 * given up, unexecuted, with an error. */
static void give_up_earlier(struct req *r)
{
    struct req *w = rq.waiting;
    while (w != NULL && r->client != NULL) {
        bool both_read = (w->flags & r->flags & REQ_READONLY) != 0;
        if (w->client == r->client && req_meets(w, r) && !both_read && stands_before(w, r)) {
            waiting_cut(w);
            stats.not_executed++;
            if ((w->flags & (REQ_FUNCTION | REQ_TRYAGAIN)) == REQ_FUNCTION) {
                req_error(w, FUNCTION_NOT_FOUND); /* the node's own words */
            } else {
                req_error(w, "TRYAGAIN not executed: slot %u was being moved, and a later request has run, or may have",
                          (unsigned)r->slot);
            }
            w = rq.waiting; /* the answer may have changed the list */
        } else {
            w = w->next;
        }
    }
}

/* ------------------------------------------------- its life and its end */

void req_blocked_no_more(struct req *r)
{
    if (now32() - r->started_ms >= BLOCKED_MS) {
        r->hops = 0;
        r->flags &= ~(REQ_TURNED | REQ_TRYAGAIN);
        r->waits_ms = now32();
    }
}

/* Whether a later request of the same client may write where r reads: asked again, r could show what came after it. */
static bool written_since(const struct req *r)
{
    const struct req *whole = r->fan != NULL ? fan_whole(r->fan) : r;
    for (const struct req *e = whole->client_next; e != NULL; e = e->client_next) {
        if ((e->flags & REQ_READONLY) == 0 && e->command != NULL && (e->state == REQ_PARTS || req_meets(e, r))) {
            return true;
        }
    }
    return false;
}

/* r, lost with its connection, is tried once more: its wait for a node begins. If it blocks, what a node had accepted
 * only just before counts as the same trouble. */
static void again_elsewhere(struct req *r, bool sent)
{
    bool own = (r->flags & REQ_LEASE) || r->client->owns;
    stats.resent += sent;
    if (sent && (r->flags & REQ_BLOCKS)) {
        req_blocked_no_more(r);
    }
    if ((sent && !(r->flags & REQ_BLOCKS)) || (own && (r->flags & REQ_TURNED) == 0)) {
        r->waits_ms = now32();
    }
}

/* Its connection is lost: what was sent and only reads, and what was not wholly sent, is tried elsewhere; of a sent
 * write nobody knows whether it ran. Of a part nothing has reached the client, though some of its answer had come. */
static void lost_one(struct req *r, bool sent, bool given, const struct backend *b)
{
    r->flags &= ~(REQ_ASKING | REQ_ASKED | REQ_VIA_ASK);
    if (given && r->fan != NULL) {
        fan_anew(r);
        given = false;
    }
    if (r->client == NULL) {
        r->take(r, NULL, 0, true);
    } else if (given) {
        conn_fail(r->client->conn, "the node was lost in the middle of its answer");
        req_error(r, "ERR the node was lost in the middle of the answer");
    } else if (sent && (r->flags & REQ_READONLY) == 0) {
        stats.outcome_unknown++;
        give_up_earlier(r); /* it may have run: what was to run before it must not run now */
        req_error(r, "ERR outcome unknown: the connection to %s:%u was lost before it answered", b->host,
                  (unsigned)b->port);
    } else if ((r->flags & REQ_MULTI) && multi_unsent(r)) {
        return;
    } else if (r->flags & REQ_STREAMED) {
        stats.not_executed++;
        req_error(r, "TRYAGAIN not executed: the connection to %s:%u was lost while the request was sent", b->host,
                  (unsigned)b->port);
    } else if (sent && written_since(r)) {
        req_error(r, "ERR no answer: the connection to %s:%u was lost, and asked again it could show a later write",
                  b->host, (unsigned)b->port);
    } else {
        again_elsewhere(r, sent);
        if ((r->flags & REQ_LEASE) || r->client->owns) {
            r->flags |= REQ_TURNED;
            req_again(r); /* a dial was refused, perhaps: failover_wait bounds how often */
        } else if (++r->hops > REDIS_HOPS_MAX) {
            req_error(r, "CLUSTERDOWN not executed: %u connections were lost on the way", (unsigned)r->hops);
        } else if (req_later_under_way(r, NULL)) {
            req_again(r);
        } else {
            req_route(r);
        }
    }
}

/* ---------------------------------------------------- the map, the nodes */

bool service_is_one(const struct service *s)
{
    const struct backend *b = service_owner(s, 0);
    return b != NULL && b->slots == s->map.served;
}

void service_set_owner(struct service *s, uint16_t slot, struct backend *b)
{
    uint16_t old = s->map.owner[slot];
    if (slotmap_set(&s->map, slot, b->index)) {
        stats.map_changes++;
        b->slots++;
        b->gained = ++s->gains;
        if (old != SLOTMAP_NONE && backend_at(old) != NULL) {
            backend_at(old)->slots--;
        }
        req_on_owners(s);
        pubsub_on_map(s);
    }
}

/* Whether an earlier request of the same client on the same slot has been sent and stays: r must not overtake it. */
static bool leaves_behind(const struct upstream *u, const struct req *r)
{
    for (const struct req *e = u->head; e != NULL && e != r; e = e->next) {
        if (e == u->unsent && u->unsent_off == 0) {
            return false; /* from here on all that comes before r has moved already */
        }
        if (e->client == r->client && req_meets(e, r)) {
            return true;
        }
    }
    return false;
}

/* Requests of which nothing was sent go to the slot's new owner. */
static void reroute_unsent(struct upstream *u)
{
    struct req *r = u->unsent, *last = u->tail;
    if (r != NULL && u->unsent_off > 0) {
        r = r->next;
    }
    for (struct req *next; r != NULL; r = next) {
        struct backend *owner = service_owner(r->service, is_publish(r) ? r->service->primary_slot : r->slot);
        next = r == last ? NULL : r->next;
        if (r->client != NULL && owner != NULL && owner != u->backend && (r->flags & REQ_ASKING) == 0 &&
            !leaves_behind(u, r) && !req_later_under_way(r, u)) {
            upstream_cut(u, r);
            req_route(r);
        }
    }
}

/* A node that does not answer and has lost all its slots will not serve what it was sent: its connection is given up,
 * and all its requests go on in their order. Of others only what has not been sent moves. */
static void on_map(struct service *s)
{
    struct upstream *u;
    req_on_owners(s);
    for (uint32_t i = 0; (u = upstream_at(i)) != NULL; i++) {
        if (u->backend == NULL || u->backend->service != s || u->queued == 0 || upstream_ready(u)) {
            continue;
        }
        if (u->held && !u->streaming && u->backend->slots == 0 && u->conn != NULL) {
            conn_fail(u->conn, "its slots were taken over while it did not answer");
        } else {
            reroute_unsent(u);
        }
    }
    pubsub_on_map(s);
}

void req_reroute(const struct service *s)
{
    struct upstream *u;
    for (uint32_t i = 0; (u = upstream_at(i)) != NULL; i++) {
        if (u->backend != NULL && u->backend->service == s && u->queued > 0 && !upstream_ready(u)) {
            reroute_unsent(u);
        }
    }
}

static void on_backend_of(const struct backend *b, struct upstream *u)
{
    if (u->conn != NULL && u->conn->state == CONN_OPEN && !u->streaming) {
        u->held = b->state == BACKEND_DOWN || b->state == BACKEND_SUSPECT;
        upstream_dirty(u);
    } else if (b->state != BACKEND_DOWN && u->queued > 0) {
        upstream_connect(u);
    }
}

static void on_backend(struct backend *b)
{
    if (b->shared[0] == NULL) {
        upstream_attach(b);
    } else if (b->state == BACKEND_FREE) {
        upstream_detach(b);
        req_on_owners(b->service);
    } else {
        for (uint32_t i = 0; i < upstream_classes(); i++) {
            on_backend_of(b, b->shared[i]);
        }
    }
    pubsub_on_backend(b);
}

const struct service_ops redis_service_ops = { on_map, on_backend, upstream_in_use };

/* ------------------------------------------------- what connections tell */

/* Its client hears that the reply did not come in time. */
static void late(struct req *r, const struct backend *b)
{
    const char *fate = (r->flags & REQ_READONLY) ? "" : "outcome unknown: ";
    stats.late++;
    if ((r->flags & REQ_READONLY) == 0) {
        stats.outcome_unknown++;
        give_up_earlier(r);
    }
    req_error(r, "ERR %sno answer from %s:%u within %u ms (request_timeout)", fate, b->host, (unsigned)b->port,
              r->service->conf->request_timeout_ms);
}

static void expired(struct req *r, const struct backend *b, uint32_t limit_ms)
{
    stats.not_executed++;
    req_error(r, "CLUSTERDOWN not executed: %s:%u did not come back within %u ms", b->host, (unsigned)b->port,
              limit_ms);
}

static void refused(struct req *r, const struct backend *b, const char *words)
{
    stats.not_executed++;
    if (r->client != NULL && r->client->login != NULL) {
        req_error(r, "NOPERM not executed: %s:%u refuses the login of this client: %s", b->host, (unsigned)b->port, words);
    } else {
        req_error(r, "ERR not executed: %s:%u refuses RESP3, HELLO 2 may work: %s", b->host, (unsigned)b->port, words);
    }
}

/* Takes the place of a late record, and swallows what it would have got. */
static struct req *nobody(const struct req *r)
{
    struct req *in = req_take(NULL, NULL, req_drop);
    if (in != NULL) {
        in->service = r->service;
        in->flags = r->flags & (REQ_ASKED | REQ_MULTI);
        in->ahead = r->ahead;
    }
    return in;
}

/* A reply too long for a shared connection may be asked again if that shows the same, on the lease of a client in whose
 * order of answers it stands: not a part's, nor that of a question asked for a long request. Whoever takes it there sees
 * it from its beginning, since nothing has been taken yet. */
static bool may_repeat(const struct req *r)
{
    bool in_order = r->client != NULL && r->fan == NULL && r != r->client->large;
    return in_order && (r->flags & REQ_READONLY) && r->bytes.len > 0 && !written_since(r);
}

static void repeat(struct req *r)
{
    req_on_large(r);
}

static bool turned_away(struct upstream *u, struct req *r, const unsigned char *p, size_t n)
{
    return r->client != NULL && req_turned_away(u, r, p, n);
}

static void ahead(struct req *r, const unsigned char *p, size_t n)
{
    if (r->client != NULL) {
        multi_ahead(r, p, n);
    }
}

static void lease_free(void)
{
    lease_on_free();
}

static const struct upstream_events events = {
    .turned_away = turned_away,
    .ahead = ahead,
    .ran = give_up_earlier,
    .may_repeat = may_repeat,
    .repeat = repeat,
    .lost = lost_one,
    .late = late,
    .expired = expired,
    .refused = refused,
    .nobody = nobody,
    .owner_room = client_resume,
    .lease_free = lease_free,
};

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
