/*
 * redis_large.c - what is too long for a shared connection travels on a leased one.
 *
 *   a long request   DRAIN -> ASK -> LEASE -> SEND -> REPLY      its client does nothing else meanwhile
 *                      |       |       |        `- SKIP: its rest is read and dropped after an error
 *                      |       |       `- a connection to the node that said it serves the key
 *                      |       `- EXISTS key, a read without effect: follows redirects while nothing is at stake,
 *                      |          and takes the script of an EVALSHA along (redis_script.c)
 *                      `- all its earlier requests are answered
 *
 *   a long reply     discarded on the shared connection, asked again on a lease, read at its client's pace
 *
 * A long request is not kept, so it cannot follow a slot that moves while it is sent: its client then gets an error
 * that says it was not executed.
 */
#include "redis_feed.h"
#include "trace.h"

#include <stdio.h>
#include <string.h>

#define LEASE_TICK_MS 50

void (*large_on_publish)(const struct client *c, struct req *r, const void *name, size_t n);

enum client_mode { MODE_ORDINARY, MODE_DRAIN, MODE_ASK, MODE_LEASE, MODE_SEND, MODE_REPLY, MODE_SKIP };

static struct {
    unsigned char *head; /* the head of a long request, in one piece */
    size_t head_cap;
} lg;

/* ----------------------------------------------------------- long replies */

/* To the node that answered if the slot is being moved to that one, else to the owner. */
static void on_large_reply(struct req *r)
{
    bool asking = (r->flags & REQ_VIA_ASK) != 0;
    r->client->gate = true; /* a later write must not overtake the second asking */
    r->lease = LEASE_TRANSFER;
    r->flags |= asking ? REQ_ASKING : 0;
    stats.resent++;
    lease_want(r, asking ? r->upstream->backend : NULL);
}

/* --------------------------------------------------------- long requests */

static void become(struct client *c, enum client_mode mode)
{
    c->mode = (uint8_t)mode;
}

/* Says why the request under way is not passed on, and drops the rest of it. */
static bool refuse(struct client *c, const char *why)
{
    stats.not_executed++;
    if (!client_error(c, "%s", why)) {
        client_starve(c);
        return false;
    }
    become(c, MODE_SKIP);
    return true;
}

/* The node that serves the key has answered, or nobody has. */
static bool on_asked(struct req *r, const unsigned char *p, size_t n, bool last)
{
    struct client *c = r->client;
    if (c == NULL) {
        return req_drop(r, p, n, last);
    }
    if (!last) {
        /* No node says so much to EXISTS: what follows is nobody's. */
        if (!refuse(c, "ERR not executed: a node gave an answer of the wrong shape")) {
            return false;
        }
        r->client = NULL;
    } else if (n > 0 && reply_is_error(*p)) {
        if (!client_answer(c, p, n)) {
            return false;
        }
        become(c, MODE_SKIP);
    } else {
        become(c, MODE_LEASE);
        c->large_to = r->upstream->backend;
        c->large_ask = (r->flags & REQ_VIA_ASK) != 0;
        c->large_slot = r->slot;
        c->starved_ms = loop_ms();
    }
    c->large = NULL;
    client_resume(c);
    return req_drop(r, p, n, last);
}

static bool by_slot(const struct command *command)
{
    return command->route == ROUTE_SLOT || (command->route == ROUTE_PUBSUB && command->keys == KEYS_FIRST);
}

/* PUBLISH: its channel is no key, and stands where one would. */
static bool is_to_all(const struct command *command)
{
    return command->route == ROUTE_PUBSUB && command->keys == KEYS_NONE && (command->flags & CMD_FAST) != 0;
}

/* Which of the kept arguments is the first key; 0 when the request's head does not tell. */
static uint32_t first_key(const struct command *command, const struct client *c)
{
    const struct resp_request *f = &c->framing;
    uint32_t i = 1;
    if (command == NULL || (!is_to_all(command) && (!by_slot(command) || command->keys == KEYS_NONE))) {
        return 0;
    }
    if (command->keys == KEYS_SECOND || command->keys == KEYS_FROM_SECOND || command->keys == KEYS_COUNT_AT_1 ||
        command->keys == KEYS_COUNTED_PAIRS) {
        i = 2;
    } else if (command->keys == KEYS_COUNT_AT_2) {
        i = 3;
    } else if (command->keys == KEYS_STREAMS || command->keys == KEYS_MIGRATE) {
        return 0;
    }
    return i < f->args_known && f->arg[i].off + (uint64_t)f->arg[i].len <= f->used ? i : 0;
}

/* A PUBLISH needs to ask nobody. */
static bool to_primary(struct client *c)
{
    c->large_to = feed_primary(c->service);
    if (c->large_to == NULL) {
        return refuse(c, "CLUSTERDOWN not executed: no node takes a message longer than retain_bytes");
    }
    c->large_ask = false;
    c->large_slot = c->service->primary_slot;
    c->starved_ms = loop_ms();
    become(c, MODE_LEASE);
    return true;
}

/* The head of the request, as much as is there and has room, in one piece; its length. */
static uint64_t copy_head(const struct client *c)
{
    uint64_t have = c->framing.used < lg.head_cap ? c->framing.used : lg.head_cap;
    chain_copy(&c->in, lg.head, (size_t)have);
    return have;
}

/* Why a request of any length is not taken now; NULL: it is. */
static const char *unwelcome(struct client *c)
{
    if (c->multi_state != MULTI_NONE) {
        client_poison(c);
        return "ERR not executed: a request longer than retain_bytes cannot be part of a transaction";
    }
    if (!c->admitted) {
        return "NOAUTH Authentication required.";
    }
    if (c->subscribed && !c->resp3) {
        return "ERR Can't execute a request longer than retain_bytes: only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / "
               "RESET are allowed in this context";
    }
    return NULL;
}

/* Asks who serves the key of the request whose head is in c->in. */
static bool ask_owner(struct client *c)
{
    static const char exists[] = "*2\r\n$6\r\nEXISTS\r\n";
    const struct resp_slice *name = &c->framing.arg[0], *key;
    const struct command *command = NULL;
    const char *why = unwelcome(c);
    unsigned char header[24];
    struct backend *b;
    struct req *r;
    uint32_t i;
    uint64_t have = copy_head(c);
    if (why != NULL) {
        return refuse(c, why);
    }
    if (c->framing.args_known > 0 && name->off + (uint64_t)name->len <= have) {
        command = command_find(lg.head + name->off, name->len);
    }
    i = first_key(command, c);
    key = &c->framing.arg[i];
    if (i == 0 || key->off + (uint64_t)key->len > have) {
        return refuse(c, "ERR not executed: the request is longer than retain_bytes, and its head does not tell its key");
    }
    if (client_is_stopped(c, command)) {
        return false;
    }
    if (is_to_all(command)) {
        c->large_command = c->last = command;
        stats_command(command)->calls++;
        return to_primary(c);
    }
    r = req_take(c, command_find((const unsigned char *)"exists", 6), on_asked);
    if (r == NULL) {
        client_starve(c);
        return false;
    }
    r->slot = slotmap_slot(lg.head + key->off, key->len);
    b = service_owner(c->service, r->slot);
    if (b == NULL || !pen_more(&req_upstream(r, b)->pen, client_use(c), exists, sizeof exists - 1, &r->bytes) ||
        !pen_more(&req_upstream(r, b)->pen, client_use(c), header, resp_put_header(header, '$', key->len), &r->bytes) ||
        (key->len > 0 && !pen_more(&req_upstream(r, b)->pen, client_use(c), lg.head + key->off, key->len, &r->bytes)) ||
        !pen_more(&req_upstream(r, b)->pen, client_use(c), "\r\n", 2, &r->bytes)) {
        req_free(r);
        if (b == NULL) {
            return refuse(c, "CLUSTERDOWN not executed: no node serves the slot of a request longer than retain_bytes");
        }
        client_starve(c);
        return false;
    }
    r->flags |= command->group == GROUP_SCRIPTING ? REQ_SCRIPT : 0; /* the question goes behind a SCRIPT LOAD then */
    c->large = r;
    c->large_command = c->last = command;
    stats_command(command)->calls++;
    if (trace_due() && trace_sample()) {
        trace_key(lg.head + key->off, key->len, r->slot);
    }
    become(c, MODE_ASK);
    req_route(r);
    return true;
}

/* A connection to the node that serves the key, then the record for the reply. */
static bool take_lease(struct client *c)
{
    static const char asking[] = "*1\r\n$6\r\nASKING\r\n";
    struct upstream *u = c->lease;
    struct req *r;
    if (loop_ms() - c->starved_ms >= c->service->conf->lease_wait_ms) {
        stats.lease_refused++;
        if (u != NULL) {
            lease_break(u, "it could not be dialled in time");
        }
        return refuse(c, "ERR not executed: no connection became free for a long request (max_leases, lease_wait)");
    }
    if (u == NULL) {
        u = lease_take(c->large_to, c, LEASE_TRANSFER, c->resp3);
    }
    if (u != NULL && u->conn == NULL) {
        upstream_connect(u);
    }
    if (u == NULL || !upstream_ready(u)) {
        conn_deadline(c->conn, loop_ms() + LEASE_TICK_MS);
        return false;
    }
    r = req_take(c, c->large_command, req_to_client);
    if (r == NULL) {
        client_starve(c);
        return false;
    }
    if (c->large_ask && !chain_put(&u->conn->out, client_use(c), asking, sizeof asking - 1)) {
        req_free(r);
        client_starve(c);
        return false;
    }
    if (c->large_command->route == ROUTE_PUBSUB) {
        copy_head(c);
        large_on_publish(c, r, lg.head + c->framing.arg[1].off, c->framing.arg[1].len);
    }
    u->kept = true;
    r->slot = c->large_slot;
    r->flags = ((r->flags & ~REQ_READONLY) | REQ_STREAMED | (c->large_ask ? REQ_ASKED : 0));
    req_enqueue(r);
    req_commit(r);
    c->forwarded = 0;
    become(c, MODE_SEND);
    lease_send(u, r);
    return true;
}

/* Frames what has come of the request. True at its end. */
static bool frame(struct client *c, uint64_t done)
{
    size_t n;
    const unsigned char *p;
    while (!c->ready && (p = chain_at(&c->in, (size_t)(c->framing.used - done), &n)) != NULL) {
        enum resp_status status;
        resp_request(&c->framing, p, n, c->limits, &status);
        if (status == RESP_BAD) {
            conn_fail(c->conn, "a long request is malformed");
            return false;
        }
        if (client_is_over(c)) {
            stats.requests_too_long++;
            conn_fail(c->conn, "a request longer than request_limit");
            return false;
        }
        c->ready = status == RESP_WHOLE;
    }
    return c->ready;
}

/* Back to ordinary requests. */
static void finish(struct client *c)
{
    memset(&c->framing, 0, sizeof c->framing);
    c->ready = false;
    c->forwarded = 0;
    client_fed(c);
    client_asked(c);
    become(c, MODE_ORDINARY);
}

static bool skip(struct client *c)
{
    bool end = frame(c, c->forwarded);
    uint64_t n = c->framing.used - c->forwarded;
    if (c->conn == NULL) {
        return false;
    }
    chain_drop(&c->in, (size_t)n);
    c->forwarded += n;
    if (end) {
        finish(c);
    }
    return end;
}

/* Moves what has come to the lease, as far as that one takes it. */
static bool send_on(struct client *c)
{
    struct upstream *u = c->lease;
    bool end;
    if (u == NULL) {
        become(c, MODE_SKIP); /* its record has been answered with the reason */
        return true;
    }
    end = frame(c, c->forwarded);
    if (c->conn == NULL) {
        return false;
    }
    while (c->forwarded < c->framing.used) {
        size_t n;
        const unsigned char *p = chain_at(&c->in, 0, &n);
        n = n < c->framing.used - c->forwarded ? n : (size_t)(c->framing.used - c->forwarded);
        if (u->conn->out.len > 0 && u->conn->out.len >= client_credit(c)) {
            return false; /* on_room resumes us */
        }
        if (!chain_put(&u->conn->out, client_use(c), p, n)) {
            client_starve(c);
            return false;
        }
        conn_dirty(u->conn);
        chain_drop(&c->in, n);
        c->forwarded += n;
    }
    if (end) {
        lease_sent(u);
        become(c, MODE_REPLY);
    }
    return end;
}

void large_begin(struct client *c)
{
    stats.large_requests++;
    become(c, MODE_DRAIN);
}

bool large_run(struct client *c)
{
    switch (c->mode) {
    case MODE_DRAIN:
        return c->head == NULL && c->lease == NULL && ask_owner(c);
    case MODE_LEASE:
        return take_lease(c);
    case MODE_SEND:
        return send_on(c);
    case MODE_REPLY:
        if (c->unsettled > 0) {
            return false;
        }
        if (c->lease != NULL) {
            lease_return(c->lease);
        }
        finish(c);
        return true;
    case MODE_SKIP:
        return skip(c);
    default:
        return false; /* MODE_ASK: on_asked goes on */
    }
}

bool large_wants_input(const struct client *c)
{
    return c->mode == MODE_SEND || c->mode == MODE_SKIP;
}

void large_gone(struct client *c)
{
    if (c->large != NULL) {
        c->large->client = NULL;
        c->large = NULL;
    }
    if (c->lease != NULL) {
        lease_break(c->lease, "its client has gone");
    }
}

void redis_large_tables(const struct conf *conf)
{
    lg.head_cap = 0;
    for (int i = 0; i < conf->service_count; i++) {
        if (conf->services[i].retain_bytes > lg.head_cap) {
            lg.head_cap = conf->services[i].retain_bytes;
        }
    }
    if (lg.head_cap < REDIS_MAX_INLINE + 2) {
        lg.head_cap = REDIS_MAX_INLINE + 2;
    }
    lg.head_cap += conf->chunk_size;
    lg.head = arena_take("request in one piece", lg.head_cap, 1);
}

unsigned char *large_scratch(size_t *cap)
{
    *cap = lg.head_cap;
    return lg.head;
}

void redis_large_open(void)
{
    req_on_large = on_large_reply;
}
