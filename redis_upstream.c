/*
 * redis_upstream.c - one connection to a node: requests go out in order, replies come back in order.
 *
 *      unsent ->  req  req  req  req   <- head            a queue of records that redis_req.c lends
 *                  |              |
 *               gather         reply_step                 what has been sent stays until its reply begins
 *                  v              ^
 *                conn          buf [from .. at .. len)    one receive buffer for life
 *
 *   shared   two a node, one for all clients that speak RESP2 and one for those that speak RESP3, pipelined; its queue
 *            outlives the connection, so what was not sent waits in it
 *   lease    lent to one client (redis_lend.c): long transfers, read at that client's pace; in the protocol of that client
 *
 * It pairs replies with requests and knows no more of either: what a reply means for its request is said by the
 * upstream_events of the room above.
 */
#include "redis.h"
#include "trace.h"

#include <string.h>

#define TICK_MS 50            /* how often a busy connection looks at its deadlines */
#define READ_MAX 65536        /* bytes of one node in one turn */
#define STUCK_POOL_MS 3000    /* a reply that finds no chunk so long costs its client the connection */
#define STUCK_MERGE_MS 1000   /* before that, the largest merge is given up: it may hold what they all wait for */
#define STUCK_SHARED_MS 1000  /* so does a streamed one that others wait behind, summed over its pauses; before its turn, only the reply */
#define NODE_IDLE_MS 15000   /* a node is asked whether it is there sooner than a client is */

static struct {
    struct upstream *shared;          /* of all nodes those of RESP2, then those of RESP3 */
    uint32_t shared_count, nodes;
    struct upstream *stuck;
    bool again;
} up;

const struct upstream_events *upstream_events;
void (*upstream_on_shortage)(void);
void (*upstream_on_push)(struct upstream *u, const unsigned char *p, size_t n);
void (*upstream_on_own_lost)(struct client *c);
void (*lease_on_done)(struct upstream *u);
void (*lease_on_lost)(struct upstream *u);

static const unsigned char asking_line[] = "*1\r\n$6\r\nASKING\r\n";
#define ASKING_LEN (sizeof asking_line - 1)

static void on_room(struct conn *conn);
static void on_tick(struct timer *t);

void upstream_buffers(struct upstream *list, uint32_t count, unsigned char *block, size_t size)
{
    for (uint32_t i = 0; i < count && block != NULL; i++) {
        list[i].buf = block + i * size;
        list[i].cap = size;
    }
}

void redis_upstream_tables(const struct conf *conf)
{
    up.nodes = conf->max_backends;
    up.shared_count = up.nodes * (conf->resp3 ? 2 : 1);
    up.shared = arena_take("upstreams", up.shared_count, sizeof *up.shared);
    upstream_buffers(up.shared, up.shared_count, arena_take("upstream buffers", up.shared_count, conf->upstream_buffer),
                     conf->upstream_buffer);
    for (uint32_t i = up.nodes; up.shared != NULL && i < up.shared_count; i++) {
        up.shared[i].resp3 = true;
    }
}

static uint32_t now32(void)
{
    return (uint32_t)loop_ms();
}

struct upstream *upstream_at(uint32_t i)
{
    return i < up.shared_count ? &up.shared[i] : NULL;
}

uint32_t upstream_classes(void)
{
    return up.shared_count / up.nodes;
}

/* -------------------------------------------------------------- the queue */

void upstream_put(struct upstream *u, struct req *r)
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

void upstream_cut(struct upstream *u, struct req *r)
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

/* Puts r, just taken from the front, there again. */
static void queue_back(struct upstream *u, struct req *r)
{
    r->upstream = u;
    r->prev = NULL;
    r->next = u->head;
    *(u->head != NULL ? &u->head->prev : &u->tail) = r;
    u->head = r;
    u->queued++;
}

/* A client's own connection rests while its node does not answer, as the shared ones do: what is not sent is not lost. */
static bool rests(const struct upstream *u)
{
    const struct backend *b = u->backend;
    bool suspect = b->state == BACKEND_SUSPECT && b->heard_ms <= b->troubled_ms;
    return u->kind == LEASE_OWN && (suspect || backend_is_down(b));
}

bool upstream_ready(const struct upstream *u)
{
    return u->conn != NULL && u->conn->state == CONN_OPEN && u->greeting == 0 && !u->held && !rests(u);
}

void upstream_dirty(struct upstream *u)
{
    if (upstream_ready(u)) {
        conn_dirty(u->conn);
    }
}

/* ------------------------------------------------------ replies come in */

static void reply_next(struct upstream *u)
{
    u->from = u->at;
    u->whole = u->streaming = u->dropping = u->given = false;
    u->stuck_sum_ms = 0;
    u->began_us = 0;
    resp_reply_start(&u->reply);
}

/* It cannot go on before its client or the pool has room: no more is read, so that the node waits too. */
static void set_stuck(struct upstream *u)
{
    if (!u->stuck) {
        u->stuck = true;
        u->stuck_ms = loop_ms();
        u->next = up.stuck;
        up.stuck = u;
        if (u->conn != NULL) {
            conn_read(u->conn, false);
        }
    }
}

/* A lease whose work is done goes back. */
static void lease_done(struct upstream *u)
{
    if (u->leased && !u->kept && u->head == NULL && !u->dropping) {
        lease_on_done(u);
    }
}

/* What has come is not r's own answer yet, but one that stands before it. */
static bool reply_ahead(struct upstream *u, struct req *r)
{
    if (r->flags & REQ_ASKED) {
        r->flags = (r->flags & ~REQ_ASKED) | REQ_VIA_ASK;
    } else if (r->ahead == 0) {
        return false;
    } else {
        r->ahead--;
        upstream_events->ahead(r, u->buf + u->from, u->at - u->from);
    }
    reply_next(u);
    return true;
}

/* A write of c has run at u's node: WAIT will ask that one. What has run there aside has run before it, if nothing else of c
 * is under way. */
static void note_write(struct client *c, const struct upstream *u)
{
    uint64_t bit = 1ull << (u->backend->index & 63);
    c->wrote_ms = c->wrote == 0 ? loop_ms() : c->wrote_ms;
    c->wrote |= bit;
    c->unsure |= bit;
    if (u->leased && u->kind != LEASE_OWN) {
        c->aside |= bit;
    } else if (c->unsettled <= 1) {
        c->aside &= ~bit;
    }
}

/* Whether the answer shows that no script holds the node up: it would have refused. */
static bool not_busy(const struct req *r, const unsigned char *p, size_t n, bool streamed)
{
    bool refused = !streamed && n >= 6 && memcmp(p, "-BUSY ", 6) == 0;
    return !refused && r->command != NULL && (r->command->flags & CMD_ALLOW_BUSY) == 0;
}

/* It is described before its taker lets it go. */
static bool take_told(const struct upstream *u, struct req *r, const unsigned char *p, size_t n)
{
    struct trace_entry e;
    uint32_t now = trace_stamp(), began = u->began_us != 0 ? u->began_us : now;
    must(trace_describe(&e, r, u->backend));
    e.queued_us = r->sent_us - r->born_us;
    e.sent_us = began - r->sent_us;
    e.answered_us = now - began;
    if (!r->take(r, p, n, true)) {
        return false;
    }
    trace_slow_add(&e);
    return true;
}

static bool take_slow(const struct upstream *u, struct req *r, const unsigned char *p, size_t n)
{
    bool told = r->fan == NULL && r->sent_us != 0 && trace_told(r);
    if (told && trace_slow_room()) {
        return take_told(u, r, p, n);
    }
    if (!r->take(r, p, n, true)) {
        return false;
    }
    if (told) {
        trace_slow_pass();
    }
    return true;
}

/* How long its node took for it is counted: once, since a reply for which there is no room comes by here again; of one that is passed
 * on in pieces until it began, since then its client has a say in it. */
static void reply_time(const struct upstream *u, struct req *r)
{
    if (r->sent_us != 0 && (r->flags & (REQ_BLOCKS | REQ_TIMED)) == 0) {
        r->flags |= REQ_TIMED;
        stats_latency(u->backend->index, (u->streaming ? u->began_us : trace_stamp()) - r->sent_us);
    }
}

/* Its reply is passed on, if there is room. */
static bool reply_take(struct upstream *u, struct req *r, const unsigned char *p, size_t n)
{
    reply_time(u, r);
    return trace_done(trace_stamp() - r->born_us) ? take_slow(u, r, p, n) : r->take(r, p, n, true);
}

/* The whole reply of the oldest request lies in [from, at). False: its taker has no room now. */
static bool reply_whole(struct upstream *u)
{
    struct req *r = u->head;
    const unsigned char *p = u->buf + u->from;
    size_t n = u->at - u->from;
    bool streamed = u->streaming;
    if ((r->flags & (REQ_ASKED | REQ_MULTI)) && reply_ahead(u, r)) {
        return true;
    }
    if ((u->backend->busy || u->backend->question != 0) && not_busy(r, p, n, streamed)) {
        node_not_busy(u->backend); /* now, not when the probe is told so: a script's client may ask on at once */
    }
    upstream_cut(u, r);
    r->upstream = u;
    if (!streamed && reply_is_error(*p) && upstream_events->turned_away(u, r, p, n)) {
        reply_next(u);
        lease_done(u);
        return true;
    }
    if (r->client != NULL && r->client->held > 0) {
        upstream_events->ran(r);
    }
    if (r->client != NULL && (r->flags & REQ_READONLY) == 0) {
        note_write(r->client, u);
    }
    if (!reply_take(u, r, p, n)) {
        queue_back(u, r);
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

/* The reply under way is too long for the buffer or for the shared connection. */
static void reply_large(struct upstream *u)
{
    struct req *r = u->head;
    stats.large_replies++;
    if (req_is_nobodys(r)) {
        upstream_cut(u, r);
        r->take(r, NULL, 0, true);
        u->dropping = true;
    } else if (!u->leased && upstream_events->may_repeat(r)) {
        upstream_cut(u, r);
        r->upstream = u; /* whoever repeats it wants to know who answered */
        u->dropping = true;
        upstream_events->repeat(r);
    } else {
        u->streaming = true;
        u->began_us = u->began_us != 0 ? u->began_us : trace_stamp();
        u->held = u->held || !u->leased;
    }
}

static bool too_large(const struct upstream *u)
{
    size_t limit = u->leased ? u->cap / 2 : u->backend->service->conf->shared_reply_limit;
    return resp_reply_least(&u->reply) > (limit < u->cap ? limit : u->cap) || (u->from == 0 && u->len == u->cap);
}

/* Nobody takes the rest of the reply under way: it is dropped as it comes. Gives its record, which has left the queue. */
static struct req *abandon_reply(struct upstream *u)
{
    struct req *r = u->head;
    upstream_cut(u, r);
    u->streaming = false;
    u->held = u->held && u->leased;
    u->dropping = true;
    u->from = u->at; /* the buffer may be full of it */
    upstream_dirty(u);
    return r;
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
    if (req_is_nobodys(r)) {
        abandon_reply(u);
        r->take(r, NULL, 0, true);
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

static bool reply_greeting(struct upstream *u)
{
    if (!greet_answered(u, u->buf + u->from, u->at - u->from)) {
        conn_fail(u->conn, "login refused");
        return false;
    }
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

/* A push is no answer to anything. One that comes to a client's own connection is for that; else nobody here has asked for it,
 * and it is dropped as it comes. False: it is to be whole, and there is room for more of it. */
static bool reply_push(struct upstream *u)
{
    bool own = u->kind == LEASE_OWN && u->owner != NULL;
    if (own && !u->whole && !u->given && !(u->from == 0 && u->len == u->cap)) {
        return false;
    }
    if (own && u->whole) {
        upstream_on_push(u, u->given ? NULL : u->buf + u->from, u->at - u->from);
    }
    u->from = u->at;
    u->given = !u->whole;
    if (u->whole) {
        stats.pushes_dropped += !own;
        reply_next(u);
    }
    return true;
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

/* Whether a reply may come though the oldest request has not been sent wholly: the ASKING ahead of it has been, or the first
 * commands of a transaction. */
static bool answers_early(const struct upstream *u)
{
    const struct req *r = u->head;
    return r != NULL && ((r->flags & REQ_ASKED) || ((r->flags & REQ_MULTI) && r->ahead > 0 && u->unsent_off > 0));
}

/* One step on: a reply or a piece of one is passed on. False: no further now. */
static bool reply_step(struct upstream *u)
{
    if (u->streaming || u->dropping) {
        return reply_piece(u);
    }
    if (u->reply.type == '>') {
        return reply_push(u);
    }
    if (u->greeting > 0) {
        return u->whole && reply_greeting(u);
    }
    if (u->head == u->unsent && !answers_early(u)) {
        reply_unasked(u);
        return false;
    }
    if (u->whole) {
        return reply_whole(u);
    }
    if (!too_large(u)) {
        return false;
    }
    if ((u->head->flags & REQ_ASKED) || ((u->head->flags & REQ_MULTI) && u->head->ahead > 0)) {
        reply_unasked(u); /* no node says so much to ASKING, or to what it only queues */
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
        if (u->began_us == 0 && u->from < u->len) {
            u->began_us = trace_stamp();
        }
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
        } else if (rests(u)) {
            health_alive(u->backend);
        }
        if (u->backend->busy) {
            health_look(u->backend); /* the script that held it up may be done */
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
    if (!upstream_ready(u)) {
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
    uint32_t now = trace_stamp();
    if (u->unsent == u->head) {
        u->progress_ms = loop_ms(); /* what waited here is only now the node's to answer */
    }
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
            r->flags = ((r->flags & ~REQ_ASKING) | REQ_ASKED);
        }
        r->sent_us = now;
        u->unsent = r->next;
        u->unsent_off = 0;
        if (n == 0 && (r->next == NULL || r->next->bytes.len > 0)) {
            return;
        }
    }
}

/* ------------------------------------------------- its life and its end */

/* Whatever the connection was in the middle of, the next one begins from the start. */
static void begin_anew(struct upstream *u)
{
    u->conn = NULL;
    u->greeting = 0;
    u->held = u->kept = u->served = u->refused = false;
    u->from = u->at = u->len = 0;
    reply_next(u);
}

void upstream_close(struct upstream *u)
{
    if (u->conn != NULL) {
        conn_close(u->conn);
    }
    begin_anew(u);
}

/* Whether the node serves the clients of the other protocol: then it is well, whatever keeps this connection away. */
static bool serves_elsewhere(const struct upstream *u)
{
    for (uint32_t i = 0; i < upstream_classes(); i++) {
        const struct upstream *other = u->backend->shared[i];
        if (!u->leased && other != u && other->conn != NULL && other->served && !other->held) {
            return true;
        }
    }
    return false;
}

void upstream_lost(struct upstream *u, const char *why)
{
    struct req *list = u->head, *unsent = u->unsent;
    struct backend *b = u->backend;
    bool given = u->streaming && u->given, sent = true, was_lease = u->leased, served = u->served, refused = u->refused;
    struct client *owner = u->owner;
    if (list != NULL || !u->leased) {
        log_info("upstream lost", "node=%s:%u queued=%u why=%s%s%s", b->host, (unsigned)b->port, u->queued, "\"", why,
                 "\"");
        stats.upstream_lost++;
    }
    if (!served && !refused && unsent == list && u->unsent_off == 0 && serves_elsewhere(u)) {
        begin_anew(u);
        return; /* nothing was sent: it waits here, and on_tick dials again */
    }
    u->head = u->tail = u->unsent = NULL;
    u->unsent_off = 0;
    u->queued = 0;
    if (was_lease) {
        lease_on_lost(u);
        begin_anew(u);
    } else {
        begin_anew(u);
        u->lost_ms = loop_ms();
        if (served || b->hold == HELD_DOWN) {
            health_lost(b);
        } else if (!refused) { /* else it is as well as before: it only does not speak RESP3 */
            health_refused(b);
        }
    }
    for (struct req *r = list; r != NULL; r = r->next) {
        r->upstream = NULL; /* none of them is under way any more, whichever is looked at first */
    }
    for (struct req *r = list, *next; r != NULL; r = next) {
        next = r->next;
        r->next = r->prev = NULL;
        sent = sent && r != unsent;
        if (refused) {
            upstream_events->refused(r, b, greet_refusal());
        } else {
            upstream_events->lost(r, sent, given, b);
        }
        given = false;
    }
    if (was_lease) {
        if (owner != NULL && u->kind == LEASE_OWN && served) {
            upstream_on_own_lost(owner);
        }
        if (owner != NULL) {
            upstream_events->owner_room(owner);
        }
        upstream_events->lease_free();
    }
}

void lease_break(struct upstream *u, const char *why)
{
    if (u->conn != NULL) {
        conn_fail(u->conn, why);
    } else {
        upstream_lost(u, why);
    }
}

static void on_close(struct conn *conn, const char *why)
{
    upstream_lost(conn->owner, why);
}

static void on_open(struct conn *conn)
{
    struct upstream *u = conn->owner;
    os_keepalive(conn->fd, NODE_IDLE_MS, u->backend->service->conf->request_timeout_ms);
    u->progress_ms = loop_ms();
    greet_open(u);
}

/* A client that streams to its lease waits for room there. */
static void on_room(struct conn *conn)
{
    struct upstream *u = conn->owner;
    if (u->owner != NULL && u->owner->paused) {
        upstream_events->owner_room(u->owner);
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

void upstream_connect(struct upstream *u)
{
    struct backend *b = u->backend;
    const struct conf_service *conf = b->service->conf;
    const struct address *a = backend_address(b);
    struct net_sizes sizes = { conf->receive_buffer, conf->send_buffer };
    if (u->conn != NULL || backend_is_down(b) || a == NULL) {
        return;
    }
    u->conn = conn_take(CONN_UPSTREAM, &upstream_ops, u);
    if (u->conn == NULL) {
        log_error("no connection left for a node", "node=%s:%u", b->host, (unsigned)b->port);
        return;
    }
    if (!conn_dial(u->conn, a, conf->dial_timeout_ms, &sizes)) {
        u->conn = NULL;
        if (!u->leased && !serves_elsewhere(u)) {
            health_refused(b);
        }
    }
}

/* ------------------------------------------------------------- deadlines */

/* Its reply has not come in time. A record for nobody takes its place, since the reply may still come. */
static void late(struct upstream *u, struct req *r)
{
    struct req *nobody = upstream_events->nobody(r);
    if (nobody == NULL) {
        conn_fail(u->conn, "no record left to wait for a late reply (max_requests)");
        return;
    }
    queue_swap(u, r, nobody);
    upstream_events->late(r, u->backend);
}

static void check_sent(struct upstream *u, const struct conf_service *conf)
{
    const struct conn *conn = u->conn; /* when it ends, so do its records, and another may be dialled at once */
    uint32_t now = now32();
    for (struct req *r = u->head, *next; u->conn == conn && r != NULL && r != u->unsent; r = next) {
        next = r->next;
        if (now - r->started_ms < conf->request_timeout_ms) {
            return;
        }
        if (r->client != NULL && !(r->flags & REQ_BLOCKS) && !(r == u->head && (u->streaming || u->stuck))) {
            late(u, r);
        }
    }
}

static void check_unsent(struct upstream *u, const struct conf_service *conf)
{
    uint32_t now = now32();
    struct req *r = u->unsent;
    if (r != NULL && u->unsent_off > 0) {
        r = r->next;
    }
    for (struct req *next; r != NULL; r = next) {
        uint32_t limit = upstream_ready(u) ? conf->request_timeout_ms : conf->failover_wait_ms;
        next = r->next;
        if (r->flags & REQ_STREAMED) {
            if (r->client != NULL && loop_ms() - r->client->conn->watch.active_ms > conf->client_stall_ms) {
                conn_fail(r->client->conn, "it stopped in the middle of a large request (client_stall)");
            }
            return;
        }
        if (now - r->waits_ms >= limit) {
            upstream_cut(u, r);
            upstream_events->expired(r, u->backend, limit);
        }
    }
    lease_done(u); /* its only request may just have expired */
}

/* A long answer waits for its turn, which another node keeps from coming, and others wait behind it. */
static void give_up_early(struct upstream *u)
{
    if ((u->head->flags & REQ_READONLY) == 0) {
        note_write(u->head->client, u);
    }
    u->head->asked = (uint16_t)(u->backend->index + 1);
    upstream_events->too_early(abandon_reply(u));
    upstream_unstick_soon();
}

static void check_stuck(struct upstream *u, const struct conf_service *conf)
{
    uint64_t since = loop_ms() - u->stuck_ms, sum = since + u->stuck_sum_ms;
    struct client *c = u->head != NULL ? u->head->client : NULL;
    /* What is not passed on in pieces, and what a merge keeps, waits for nothing but the pool. */
    bool pool = !u->streaming || (u->head != NULL && u->head->fan != NULL) || buf_free_chunks() == 0;
    if (!u->stuck || c == NULL || c->conn == NULL) {
        return;
    }
    if (pool && since >= STUCK_POOL_MS) {
        conn_fail(c->conn, "no chunk left for its answers (chunks)");
    } else if (pool && (since >= STUCK_MERGE_MS || since >= conf->request_timeout_ms / 8)) {
        upstream_on_shortage();
    } else if (!pool && !u->leased && u->head->next != NULL && sum >= STUCK_SHARED_MS) {
        if (u->head == c->head) {
            conn_fail(c->conn, "it does not read a long answer while others wait behind it (shared_reply_limit)");
        } else {
            give_up_early(u);
        }
    }
}

/* Its node owes it an answer that may take as long as it likes. */
static bool is_blocked(const struct upstream *u)
{
    return u->head != NULL && (u->head->flags & REQ_BLOCKS) != 0 && u->head != u->unsent && !u->streaming;
}

/* A lease to a node that has said nothing for suspect_after and has lost all its slots is given up as a shared connection
 * is (on_map in redis_route.c), but here: the map may have come before the silence was long. A client that has been given
 * part of an answer would be closed then, so for it the node has until request_timeout to wake. The silence of one that
 * blocks says nothing before its own time is over: of its node the probes must say that it is down. */
static bool taken_over(const struct upstream *u, uint64_t idle)
{
    if (is_blocked(u)) {
        uint64_t end_ms = u->head->since_ms; /* of its own timeout; 0: none */
        return (end_ms != 0 && loop_ms() > end_ms + u->backend->service->conf->request_timeout_ms) ||
               (u->backend->slots == 0 && backend_is_down(u->backend));
    }
    return u->leased && u->backend->slots == 0 && idle >= u->backend->service->conf->suspect_after_ms &&
           !(u->given && u->owner != NULL);
}

/* A client's own connection of which nothing can be sent: its node is away, or it waits for another one (redis_tracking.c). */
static bool waits_in_vain(const struct upstream *u, uint64_t idle)
{
    return u->kind == LEASE_OWN && !upstream_ready(u) && idle >= u->backend->service->conf->suspect_after_ms;
}

/* Whether the node has lately given a byte to its other clients: then it is not the node that is silent. */
static bool heard_elsewhere(const struct upstream *u, uint32_t within_ms)
{
    for (uint32_t i = 0; i < upstream_classes(); i++) {
        const struct upstream *other = u->backend->shared[i];
        if (other != u && other->conn != NULL && loop_ms() - other->progress_ms < within_ms) {
            return true;
        }
    }
    return false;
}

/* While a node is suspect its connections rest, also one that waits for no answer: until the probe has got one, since
 * then it was only the other connection that was silent. */
static bool rests_in_vain(const struct upstream *u)
{
    return u->held && !u->leased && u->backend->state == BACKEND_SUSPECT &&
           u->backend->heard_ms > u->backend->troubled_ms;
}

static void on_tick(struct timer *t)
{
    struct upstream *u = (struct upstream *)(void *)((char *)t - offsetof(struct upstream, timer));
    const struct conf_service *conf = u->backend->service->conf;
    const struct conn *conn = u->conn;
    uint64_t idle = loop_ms() - u->progress_ms;
    bool sent = u->head != NULL && (u->head != u->unsent || u->unsent_off > 0) && u->conn != NULL && !u->stuck;
    bool blocked = sent && is_blocked(u);
    sent = sent && !blocked;
    if (sent && !u->leased && !u->held && idle >= conf->suspect_after_ms) {
        u->held = true;
        if (!heard_elsewhere(u, conf->suspect_after_ms)) {
            health_suspect(u->backend);
        }
    } else if (!sent && rests_in_vain(u)) {
        u->held = false;
        upstream_dirty(u);
    }
    if (sent && idle >= TICK_MS) {
        health_look(u->backend); /* a script may hold it up */
    }
    check_stuck(u, conf);
    check_sent(u, conf);
    check_unsent(u, conf);
    if (sent && u->conn == conn && idle >= conf->request_timeout_ms) {
        conn_fail(u->conn, "no progress within request_timeout");
    } else if ((sent || blocked || u->greeting > 0) && u->conn == conn && taken_over(u, idle)) {
        conn_fail(u->conn, "its slots were taken over while it did not answer");
    }
    if (u->queued > 0 && !sent && u->leased && u->backend->slots == 0 && (u->conn == NULL || waits_in_vain(u, idle))) {
        lease_break(u, "its slots were taken over");
    }
    if (u->queued > 0) {
        loop_timer(&u->timer, loop_ms() + TICK_MS);
        if (u->conn == NULL) {
            upstream_connect(u);
        }
        upstream_dirty(u); /* it may have rested */
    }
}

/* --------------------------------------------------------------- waiting */

void upstream_unstick_soon(void)
{
    up.again = up.again || up.stuck != NULL;
}

void upstream_turn(void)
{
    struct upstream *list = up.stuck;
    up.stuck = NULL;
    up.again = false;
    while (list != NULL) {
        struct upstream *u = list;
        list = u->next;
        u->stuck = false;
        if (u->conn != NULL) {
            uint64_t since = u->stuck_ms;
            size_t from = u->from;
            upstream_parse(u);
            if (u->stuck && u->from == from) {
                u->stuck_ms = since;
            } else {
                u->stuck_sum_ms += u->streaming ? loop_ms() - since : 0;
            }
            if (!u->stuck && u->conn != NULL) {
                conn_read(u->conn, true);
            }
        }
    }
}

bool upstream_pending(void)
{
    return up.again;
}

bool upstream_in_use(const struct backend *b)
{
    for (uint32_t i = 0; i < upstream_classes(); i++) {
        if (b->shared[i]->queued > 0) {
            return true;
        }
    }
    return false;
}

void upstream_attach(struct backend *b)
{
    for (uint32_t i = 0; i < upstream_classes(); i++) {
        b->shared[i] = &up.shared[i * up.nodes + b->index];
        b->shared[i]->backend = b;
    }
}

/* The entry of b becomes free: nothing of it may stay behind. */
void upstream_detach(struct backend *b)
{
    for (uint32_t i = 0; i < upstream_classes(); i++) {
        struct upstream *u = b->shared[i];
        upstream_close(u);
        loop_timer_stop(&u->timer);
        pen_close(&u->pen);
        b->shared[i] = NULL;
    }
}
