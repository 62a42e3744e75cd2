/*
 * mongo_pooled.c - pooled mode: clients, each message of which is one exchange on a connection that is lent for it.
 *
 *   client -- bytes --> held: until it is known what the request is about
 *                         |--> mongo_greet.c, mongo_door.c: answered here
 *                         |--> mongo_split.c: to several mongos
 *                         `--> mongo_route.c: a mongos -> mongo_pool.c: a connection -- held, then what follows --> it
 *   conn->out <-- a small answer when it is whole, a large one as it comes <-- the same connection, which then goes back
 *
 *   READING -> WAITING -> SENDING -> ASKED -> READING        what comes behind a request waits in `ahead`
 *      |-> LATER -> READING       `-> REFUSING -> READING
 *
 * A mongos that dies before it has answered costs an error that says whether the request may be sent again, not the client's
 * connection: drivers take that for the loss of their one server. So a small answer goes on as a whole or not at all, and one
 * by which a mongos says that it shuts down does not go on.
 *
 * Owns the table of pooled clients.
 */
#include "mongo.h"

#include <stdio.h>
#include <string.h>

#define HELD_MAX 65536         /* what is answered here, or goes to several mongos, is no longer than this */
#define SMALL 4096             /* an answer up to this size goes on when it is whole: no error is longer */
#define REST_MAX 262144        /* the rest of an answer whose client has gone: read and dropped, if it is no longer */
#define HALF_MS 2000           /* a client that sends no more may wait for its answer so long */
#define REAUTHENTICATE 391     /* the code by which a server says that it wants a login anew */
#define RELOGIN_MS 1000        /* a connection this old that a mongos says has no rights is made anew */
#define CARE_MS 20             /* how often those that find no chunk are looked after */
#define STARVING_MS 2000       /* so long nobody could be helped: who holds most of the chunks gives them back */

static struct {
    struct pooled *all, *free;
    uint32_t total, starved, wanting, halves;
    uint64_t starving_ms;       /* since when some are starved; 0: none is */
    uint32_t care_at, want_at; /* who was helped last */
    int32_t last_id;
    struct timer care;
} mp;

static unsigned char scratch[262144];                          /* what has just come: a chunk at most */
static unsigned char whole[HELD_MAX], said[HELD_MAX];          /* a request as a whole, and an answer of our own */

static const char nobody[] = "no mongos can be reached"; /* what the last trouble was is said behind it */

static void go(struct pooled *p, const struct backend *avoid);

/* ------------------------------------------------------------- deadlines */

static bool is_whole(const struct wire *w)
{
    return w->header.length != 0 && w->used == w->header.length;
}

/* Who has not said anything yet, or has not logged in, has little to say, and does not get long for that. */
static bool is_hurried(const struct pooled *p)
{
    return !p->spoke || (p->asks.used > 0 && door_stranger(p));
}

/* What may not last for ever, by what it is doing. */
static void arm(struct pooled *p)
{
    const struct conf_service *conf = p->service->conf;
    uint64_t due = 0;
    switch ((enum pooled_state)p->state) {
    case POOLED_READING:
        due = p->much > 0 ? p->until_ms /* set once: who holds much may not be slow */
            : is_hurried(p) ? p->came_ms + conf->handshake_timeout_ms
            : p->asks.used > 0 ? loop_ms() + conf->client_stall_ms
            : conf->client_idle_ms > 0 ? loop_ms() + conf->client_idle_ms : 0;
        break;
    case POOLED_WAITING: due = p->wait_ms + conf->pool_wait_ms; break;
    case POOLED_SENDING:
    case POOLED_REFUSING: due = loop_ms() + conf->client_stall_ms; break;
    case POOLED_ASKED: due = p->ended ? loop_ms() + HALF_MS : 0; break;
    case POOLED_LATER: due = p->until_ms; break;
    }
    conn_deadline(p->conn, due);
}

static void set_state(struct pooled *p, enum pooled_state to)
{
    p->state = (uint8_t)to;
    arm(p);
}

/* ----------------------------------------------------------------- chunks */

static void care_soon(void)
{
    if (mp.care.next == NULL) {
        loop_timer(&mp.care, loop_ms() + CARE_MS);
    }
}

static void set_starved(struct pooled *p, bool starved)
{
    if (starved == p->starved) {
        return;
    }
    p->starved = starved;
    mp.starved += starved ? 1u : 0;
    mp.starved -= starved ? 0 : 1u;
    mp.starving_ms = mp.starved == 0 ? 0 : mp.starving_ms != 0 ? mp.starving_ms : loop_ms();
    care_soon();
}

/* Strangers come in any number: so many of them are in the middle of a message that no other one may begin. */
static bool is_crowded(const struct pooled *p)
{
    return !p->half && mp.halves >= 4 + buf_total() / buf_chunk_size() / 32 && door_stranger(p);
}

static bool is_open(const struct pooled *p)
{
    return p->conn != NULL && p->conn->state == CONN_OPEN;
}

static void note_half(struct pooled *p)
{
    bool half = is_open(p) && p->asks.used > 0 && !is_whole(&p->asks) && door_stranger(p);
    mp.halves += half && !p->half ? 1u : 0;
    mp.halves -= !half && p->half ? 1u : 0;
    p->half = half;
}

/* Whether what is read now will find room: two chunks hold any piece, wherever it begins. */
static bool has_chunks(struct pooled *p, enum buf_use use)
{
    bool has = !is_crowded(p) && buf_may_take_many(use, 2);
    if (!has) {
        set_starved(p, true);
    }
    return has;
}

/* It does not wait for anything any more, and asks nobody. */
static void no_longer(struct pooled *p)
{
    bool was_split = p->split != NULL;
    pool_leave(&p->waiter);
    mp.wanting -= p->wants_split ? 1u : 0;
    p->wants_split = false;
    split_end(p);
    if (was_split && mp.wanting > 0) {
        loop_timer(&mp.care, loop_ms());
    }
}

/* --------------------------------------------------------------- their end */

/* What was lent to it, when it has gone. What only has to be read or sent to its end is not worth a connection. */
static void link_let_go(struct pooled *p)
{
    struct pool_link *l = p->link;
    const struct wire *a = &l->answer;
    bool unanswered = wire_more_to_come(&p->asks);
    p->link = NULL;
    if (p->state == POOLED_ASKED && unanswered && l->conn->out.len == 0) {
        pool_return(l);
    } else if (p->state == POOLED_ASKED && (unanswered || (a->header.length != 0 && a->header.length - a->used <= REST_MAX))) {
        pool_end(l, unanswered);
    } else {
        pool_drop(l); /* the mongos stops what it was asked to do */
    }
}

static void client_gone(struct pooled *p)
{
    stats.clients_closed++;
    p->service->clients--;
    no_longer(p);
    if (p->link != NULL) {
        link_let_go(p);
    }
    greet_leave(p);
    note_half(p);
    set_starved(p, false);
    hold_drop(p);
    chain_clear(&p->ahead);
    chain_clear(&p->small);
    p->conn = NULL;
    p->next_free = mp.free;
    mp.free = p;
}

static void on_client_close(struct conn *conn, const char *why)
{
    (void)why;
    client_gone(conn->owner);
}

/* Nothing more is taken from it; what it has been sent so far it may read. */
static void client_finish(struct pooled *p)
{
    no_longer(p);
    if (p->link != NULL) {
        link_let_go(p);
    }
    set_starved(p, false);
    hold_drop(p);
    chain_clear(&p->ahead);
    chain_clear(&p->small);
    conn_finish(p->conn, FINISH_MS);
}

/* ---------------------------------------------------------------- answers */

static void time_is_over(struct pooled *p)
{
    const struct backend *b = p->asked != 0 ? backend_at((uint16_t)(p->asked - 1)) : NULL;
    times_end(&p->times, &(struct mongo_slow){ p->service, p->conn, b, p->asks.command, p->asks.db });
    p->asked = 0;
}

/* The exchange is over, and the next may begin: pump() does that, once nobody is at work with this one any more. */
static void next(struct pooled *p)
{
    time_is_over(p);
    no_longer(p);
    hold_drop(p);
    chain_clear(&p->small);
    p->spoke = true;
    p->begun = false;
    p->wait_ms = 0;
    gate_done(p->conn);
    wire_start(&p->asks, false);
    set_state(p, POOLED_READING);
    if ((p->ended && p->ahead.len == 0) || mongo_stopping || p->leaves) {
        client_finish(p);
    } else if (p->ahead.len == 0) {
        conn_read(p->conn, true);
    }
}

/* An answer of our own; nothing may be said to a request that wants no answer. One to a hello may be the first of several. */
static void give(struct pooled *p, const void *bytes, size_t n)
{
    if (!wire_more_to_come(&p->asks)) {
        if (!chain_put(&p->conn->out, BUF_REPLY, bytes, n)) {
            conn_fail(p->conn, "no chunk left for an answer (chunks)");
            return;
        }
        stats.replies++;
        conn_dirty(p->conn);
    }
    if (p->greeting.waits) {
        set_state(p, POOLED_LATER);
    } else {
        next(p);
    }
}

static void tell(struct pooled *p)
{
    char text[SLOTMAP_ERROR_CAP + 256];
    if (p->code == MONGO_CODE_UNAUTHORIZED) {
        door_admits(p, &p->code, &p->text); /* the text holds until somebody else is refused */
    }
    snprintf(text, sizeof text, p->text == nobody ? "%s: %s" : "%s", p->text, p->service->trouble);
    mongo_refused(p->code);
    give(p, said, mongomsg_refuse(said, sizeof said, &p->asks.header, ++mp.last_id, p->code, text, p->label));
}

/* Its request goes nowhere. The rest of it is to come first, if it is not whole. */
static void refuse(struct pooled *p, enum mongo_code code, const char *label, const char *text)
{
    log_debug("request refused", "command=%s code=%d why=\"%s\"", p->asks.command, (int)code, text);
    no_longer(p);
    p->code = code;
    p->label = label;
    p->text = text;
    hold_drop(p);
    chain_clear(&p->small);
    set_state(p, POOLED_REFUSING);
    if (is_whole(&p->asks)) {
        tell(p);
    } else {
        conn_read(p->conn, true);
    }
}

/* ----------------------------------------------------------- its connection */

/* With exhaustAllowed its mongos would go on answering without being asked; a checksum does not fit what is changed. */
static size_t without_exhaust(struct pooled *p)
{
    size_t n = p->asks.header.length;
    enum wire_error error;
    chain_copy(&p->held, whole, n);
    if ((p->asks.flags & WIRE_CHECKSUM_PRESENT) != 0) {
        n = mongomsg_edit(whole, n, NULL, NULL, 0, said, sizeof said, &error);
        memcpy(whole, said, n);
    }
    if (n > 0) {
        bson_put32(whole + WIRE_HEADER, bson_get32(whole + WIRE_HEADER) & ~WIRE_EXHAUST_ALLOWED);
    }
    return n;
}

static bool held_goes(struct pooled *p, struct chain *out)
{
    size_t n;
    if ((p->asks.flags & WIRE_EXHAUST_ALLOWED) == 0) {
        must(out->len == 0);
        *out = p->held;
        memset(&p->held, 0, sizeof p->held);
        return true;
    }
    n = without_exhaust(p);
    chain_clear(&p->held);
    return n > 0 && chain_put(out, BUF_REPLY, whole, n);
}

/* The connection is its own for this exchange. */
static void use(struct pooled *p, struct pool_link *l)
{
    bool is_held = hold_unpack(p);
    size_t n = p->split != NULL ? split_ask(p, l->backend, said, sizeof said) : 0;
    bool good = !is_held ? false : p->split != NULL ? n > 0 && chain_put(&l->conn->out, BUF_REPLY, said, n) : held_goes(p, &l->conn->out);
    p->link = l;
    p->asked = (uint16_t)(l->backend->index + 1);
    times_begin(&p->times);
    mongo_asked(&p->asks);
    route_sent(p->section, &p->asks, l->backend);
    if (!good) {
        conn_fail(p->conn, "no chunk left for a request (chunks)");
        return;
    }
    set_state(p, is_whole(&p->asks) ? POOLED_ASKED : POOLED_SENDING);
    conn_dirty(l->conn);
    conn_read(p->conn, p->ahead.len == 0 && !p->ended);
}

static void wait(struct pooled *p)
{
    p->wait_ms = p->wait_ms != 0 ? p->wait_ms : loop_ms();
    if (p->split == NULL && !p->wants_split) {
        hold_pack(p);
    }
    set_state(p, POOLED_WAITING);
}

static void too_many_wait(struct pooled *p)
{
    refuse(p, MONGO_CODE_HOST_UNREACHABLE, route_label(&p->asks), "too many requests wait for a connection (pool_queue)");
}

/* A connection to that mongos, or a place in its line. */
static void take_from(struct pooled *p, struct backend *b, bool pinned)
{
    struct pool_link *l;
    switch (pool_take(&p->waiter, p->service, b, pinned, &l)) {
    case POOL_LENT: use(p, l); break;
    case POOL_WAITS: wait(p); break;
    case POOL_FULL: too_many_wait(p); break;
    }
}

/* The mongos of a command that goes to several of them in turn. */
static void go_split(struct pooled *p)
{
    struct backend *b = split_next(p);
    if (b != NULL) {
        take_from(p, b, true);
    } else {
        give(p, said, split_answer(p, ++mp.last_id, said, sizeof said));
    }
}

/* What its request is about is known: to its mongos. */
static void go(struct pooled *p, const struct backend *avoid)
{
    struct routed r;
    struct backend *other;
    switch (mongo_route(p->section, p->service, &p->asks, avoid, &r)) {
    case ROUTE_REFUSE:
        refuse(p, r.code, r.label, r.text);
        return;
    case ROUTE_WAIT:
        if (pool_await(&p->waiter, p->service)) {
            wait(p);
        } else {
            too_many_wait(p);
        }
        return;
    case ROUTE_GO:
        break;
    }
    if (!r.pinned && !pool_has_room(r.backend) &&
        (other = route_elsewhere(p->section, p->service, &p->asks, pool_has_room)) != NULL) {
        r.backend = other;
    }
    if (!route_sent(p->section, &p->asks, r.backend)) {
        refuse(p, MONGO_CODE_HOST_UNREACHABLE, route_label(&p->asks), "too many transactions are open (max_affinities)");
        return;
    }
    take_from(p, r.backend, r.pinned);
}

/* --------------------------------------------------------------- requests */

static void here(struct pooled *p)
{
    size_t n;
    chain_copy(&p->held, whole, p->held.len);
    n = mongo_puerta_takes(p->service->conf, &p->asks) ? mongo_puerta_answer(whole, p->held.len, &p->asks, true, ++mp.last_id, said, sizeof said)
                                                       : greet_answer(p, whole, p->held.len, said, sizeof said);
    mongo_asked(&p->asks);
    chain_clear(&p->held);
    if (n > 0) {
        give(p, said, n);
    } else {
        set_state(p, POOLED_LATER);
    }
}

/* A request of which more has to be known, or all. */
static void hold_on(struct pooled *p)
{
    if (p->held.len <= p->service->conf->client_window || p->much > 0) {
        return;
    }
    switch (hold_much(p)) {
    case HOLD_NEVER:
        refuse(p, MONGO_CODE_PROTOCOL_ERROR, NULL, "its session stands behind more documents than can be held (chunks)");
        return;
    case HOLD_QUEUES: conn_read(p->conn, false); break;
    case HOLD_MAY: break;
    }
    arm(p);
}

static void split(struct pooled *p)
{
    struct backend *only;
    chain_copy(&p->held, whole, p->held.len);
    switch (split_begin(p, whole, p->held.len, &only)) {
    case SPLIT_BEGUN: go_split(p); break;
    case SPLIT_ONE: take_from(p, only, true); break;
    case SPLIT_BAD: refuse(p, MONGO_CODE_FAILED_TO_PARSE, NULL, "a killCursors that cannot be read, or of more than 64 cursors at several mongos"); break;
    case SPLIT_FULL:
        p->wants_split = true;
        mp.wanting++;
        wait(p);
        break;
    }
}

/* One that is changed on its way is judged before it costs anybody a connection, and so is any other that is here as a whole: a
 * mongos closes its connection for a wrong checksum, and is left out for a while if it does that often. */
static bool is_intact(struct pooled *p)
{
    chain_copy(&p->held, whole, p->held.len);
    return mongomsg_intact(whole, p->held.len, &p->asks);
}

/* A client that stops in the middle of such a request keeps nobody from a connection: it gets one when all of it is here. */
static bool is_soon_whole(const struct pooled *p)
{
    return p->asks.header.length <= buf_chunk_size() && p->asks.header.length <= p->service->conf->client_window;
}

/* Whether its address asks more than it may: then its request waits here, or is refused. Its hellos are let through, or its driver
 * would take Puerta for dead. */
static bool is_limited(struct pooled *p)
{
    switch (p->asks.hello ? GATE_GO : gate_ask(p->conn)) {
    case GATE_GO: return false;
    case GATE_HELD: break;
    case GATE_REFUSED:
        refuse(p, MONGO_CODE_RATE_LIMIT_EXCEEDED, "SystemOverloadedError", "too many requests from this address (request_rate, byte_rate)");
        break;
    }
    return true;
}

/* Of a request in READING it may be known by now what is to be done with it. */
static void consider(struct pooled *p)
{
    const struct wire *w = &p->asks;
    bool is_all = is_whole(w), greets = greet_takes(p), is_here = greets || mongo_puerta_takes(p->service->conf, w), splits = split_takes(w);
    bool short_one = is_here || splits || (w->flags & WIRE_EXHAUST_ALLOWED) != 0;
    bool has_checksum = (w->flags & WIRE_CHECKSUM_PRESENT) != 0 && w->header.length <= HELD_MAX;
    enum mongo_code code;
    const char *text;
    if (p->conn->source != NULL && (w->command[0] != '\0' || is_all) && is_limited(p)) {
        return;
    }
    if (w->command[0] == '\0' && !is_all) {
        if (w->header.length > HELD_MAX && !door_admits(p, &code, &text)) {
            refuse(p, code, NULL, text); /* nothing that a stranger may say is so long: no room is kept for it */
        } else {
            hold_on(p);
        }
    } else if (!greets && !door_admits(p, &code, &text)) {
        refuse(p, code, NULL, text);
    } else if (short_one && w->header.length > HELD_MAX) {
        refuse(p, MONGO_CODE_PROTOCOL_ERROR, NULL, "a message of this kind has at most 64 KiB");
    } else if (!is_all && (short_one || !w->known || is_soon_whole(p))) {
        hold_on(p);
    } else if (is_here) {
        here(p);
    } else if ((short_one || (is_all && has_checksum)) && !is_intact(p)) {
        refuse(p, MONGO_CODE_PROTOCOL_ERROR, NULL, wire_error_text(WIRE_BAD_CHECKSUM));
    } else if (splits) {
        times_begin(&p->times);
        split(p);
    } else {
        times_begin(&p->times);
        go(p, NULL);
    }
}

static void request_bad(struct pooled *p, enum mongo_code code, const char *why)
{
    char peer[ADDRESS_TEXT];
    const struct wire *w = &p->asks;
    size_t n = mongomsg_refuse(said, sizeof said, &w->header, ++mp.last_id, code, why, NULL);
    bool mute = w->header.length == 0 || wire_more_to_come(w);
    stats.protocol_errors++;
    log_warn("client refused", "client=%s why=\"%s\"", address_text(&p->conn->peer, peer), why);
    if (!mute && chain_put(&p->conn->out, BUF_REPLY, said, n)) {
        mongo_refused(code);
    }
    client_finish(p);
}

static bool takes_bytes(const struct pooled *p)
{
    return (p->state == POOLED_READING && !p->queues && !p->conn->held) || p->state == POOLED_SENDING || p->state == POOLED_REFUSING;
}

/* Bytes of its request: gives how many belong to it. Its client may be gone behind this. */
static size_t take(struct pooled *p, const unsigned char *bytes, size_t n)
{
    enum wire_status status;
    p->came_ms = p->spoke && p->asks.used == 0 ? loop_ms() : p->came_ms;
    size_t used = wire_feed(&p->asks, bytes, n, &status);
    size_t limit = p->service->conf->request_limit;
    struct chain *to = p->state == POOLED_SENDING ? &p->link->conn->out : &p->held;
    if (status == WIRE_BAD) {
        request_bad(p, MONGO_CODE_PROTOCOL_ERROR, wire_error_text(p->asks.error));
    } else if (limit != 0 && p->asks.header.length > limit) {
        stats.requests_too_long++;
        request_bad(p, MONGO_CODE_OBJECT_TOO_LARGE, "a message longer than request_limit");
    } else if (p->state != POOLED_REFUSING && !chain_put(to, BUF_REPLY, bytes, used)) {
        conn_fail(p->conn, "no chunk left for a request (chunks)");
    } else if (p->state == POOLED_READING) {
        if (status != WIRE_WHOLE) {
            arm(p);
        }
        consider(p);
    } else if (p->state == POOLED_SENDING) {
        conn_dirty(p->link->conn);
        set_state(p, status == WIRE_WHOLE ? POOLED_ASKED : POOLED_SENDING);
    } else if (status == WIRE_WHOLE) {
        tell(p);
    }
    return used;
}

/* What came behind the request before. Called last by whoever may have ended an exchange, for take() comes back here. */
static void pump(struct pooled *p)
{
    const unsigned char *piece;
    size_t n;
    while (is_open(p) && p->ahead.len > 0 && takes_bytes(p)) {
        piece = chain_at(&p->ahead, 0, &n);
        n = take(p, piece, n);
        if (is_open(p)) {
            chain_drop(&p->ahead, n);
        }
    }
    note_half(p);
    if (is_open(p) && p->ahead.len == 0 && p->ended && p->state == POOLED_READING) {
        client_finish(p);
    } else if (is_open(p) && p->ahead.len == 0 && !p->ended) {
        conn_read(p->conn, true);
    }
}

/* ------------------------------------------------------------- the client */

/* It sends no more. What has been asked is answered, if that comes soon: more likely it is gone. */
static void client_ended(struct pooled *p)
{
    p->ended = true;
    conn_read(p->conn, false);
    if (p->state == POOLED_READING && p->asks.used == 0 && p->ahead.len == 0) {
        client_finish(p);
    } else if (p->state != POOLED_ASKED) {
        conn_fail(p->conn, "it left before its request was sent on");
    } else {
        arm(p);
    }
}

static void client_bytes(struct conn *conn)
{
    struct pooled *p = conn->owner;
    bool full = p->state == POOLED_SENDING && p->link->conn->out.len >= p->service->conf->client_window;
    size_t at = 0, n;
    ssize_t got;
    /* Who has a connection is helped to become done with it: it may have what those without one may not. */
    if (full || p->queues || p->ahead.len > 0 || !has_chunks(p, p->state == POOLED_SENDING ? BUF_URGENT : BUF_REQUEST)) {
        conn_read(conn, false);
        return;
    }
    got = conn_receive(conn, scratch, buf_chunk_size());
    if (got == CONN_ENDED) {
        client_ended(p);
    }
    if (got <= 0) {
        return;
    }
    for (n = (size_t)got; at < n && is_open(p) && takes_bytes(p);) {
        at += take(p, scratch + at, n - at);
    }
    note_half(p);
    if (at < n && is_open(p) && !chain_put(&p->ahead, BUF_REPLY, scratch + at, n - at)) {
        conn_fail(conn, "no chunk left for a request (chunks)");
    }
}

/* It has taken all that was said to it: more can be read of its answer. */
static void client_room(struct conn *conn)
{
    struct pooled *p = conn->owner;
    if (p->link != NULL) {
        conn_read(p->link->conn, true);
    }
}

static void later(struct pooled *p)
{
    size_t n = p->conn->given ? 0 : greet_again(p, said, sizeof said); /* the next worker says it */
    if (n > 0) {
        give(p, said, n);
        pump(p);
    } else {
        arm(p);
    }
}

static void waited(struct pooled *p)
{
    bool up = p->waiter.backend != NULL && p->waiter.backend->state == BACKEND_UP;
    stats.pool_timeouts++;
    pool_leave(&p->waiter);
    if (p->wants_split) {
        refuse(p, MONGO_CODE_NETWORK_TIMEOUT, NULL, "too many commands for several mongos are under way");
    } else if (p->split != NULL) {
        go_split(p);
    } else {
        refuse(p, up ? MONGO_CODE_NETWORK_TIMEOUT : MONGO_CODE_HOST_UNREACHABLE, route_label(&p->asks),
               up ? "no connection to its mongos became free within pool_wait" : nobody);
    }
    pump(p);
}

static void client_tick(struct conn *conn)
{
    struct pooled *p = conn->owner;
    switch ((enum pooled_state)p->state) {
    case POOLED_READING:
        if (conn->held) {
            conn_deadline(conn, loop_ms() + p->service->conf->handshake_timeout_ms); /* it is not its fault that nothing comes */
            break;
        }
        if (p->starved && !is_hurried(p)) {
            p->until_ms = loop_ms() + p->service->conf->client_stall_ms; /* or it would be over in every turn from now on */
            arm(p); /* what it has sent may be here, and nobody could read it */
            break;
        }
        if (p->queues) {
            refuse(p, MONGO_CODE_PROTOCOL_ERROR, NULL, "its session stands behind many documents, and others like it are under way (chunks)");
            pump(p);
            break;
        }
        conn_fail(conn, !p->spoke          ? "no hello within handshake_timeout"
                        : p->asks.used > 0 ? "it stopped in the middle of a message (client_stall)"
                                           : "idle (client_idle)");
        break;
    case POOLED_WAITING: waited(p); break;
    case POOLED_LATER: later(p); break;
    case POOLED_SENDING:
        if (p->link->conn->out.len > 0) {
            arm(p); /* it is its mongos that takes no more: that has a limit of its own */
        } else {
            conn_fail(conn, "it stopped in the middle of a message (client_stall)");
        }
        break;
    case POOLED_REFUSING: conn_fail(conn, "it stopped in the middle of a message (client_stall)"); break;
    case POOLED_ASKED: conn_fail(conn, "it has gone"); break;
    }
}

static void describe(const struct conn *conn, struct conn_facts *out)
{
    static const char *const doing[] = { "idle", "waiting", "sending", "asking", "refused", "greeting" };
    const struct pooled *p = conn->owner;
    const struct conf_service *conf = p->service->conf;
    bool half = p->state == POOLED_READING && p->asks.used > 0;
    out->section = conf->name;
    out->name = p->greeting.name;
    out->user = p->user < conf->user_count ? conf->users[p->user].name : NULL;
    out->doing = conn->state != CONN_OPEN ? "leaving" : half ? "sending" : doing[p->state];
    out->in_flight = p->state != POOLED_READING;
    out->born_ms = p->born_ms;
    out->asked_ms = conn->watch.active_ms;
    out->backend = p->link != NULL ? p->link->backend : NULL;
}

/* Its request that waited for its address's turn, or what came behind it, goes on. */
static void client_let_go(struct conn *conn)
{
    struct pooled *p = conn->owner;
    if (is_open(p) && p->state == POOLED_READING && p->asks.used > 0) {
        consider(p);
    }
    pump(p);
}

static const struct conn_ops client_ops = {
    .kind = "client",
    .on_let_go = client_let_go,
    .on_bytes = client_bytes,
    .on_room = client_room,
    .on_close = on_client_close,
    .on_tick = client_tick,
    .describe = describe,
};

struct conn *pooled_accept(struct service *s, uint8_t section, int fd, const struct address *peer)
{
    struct pooled *p = mp.free;
    struct conn *conn = p == NULL ? NULL : conn_take(CONN_CLIENT, &client_ops, p);
    if (conn == NULL) {
        return NULL;
    }
    mp.free = p->next_free;
    memset(p, 0, sizeof *p);
    p->conn = conn;
    p->service = s;
    p->section = section;
    wire_start(&p->asks, false);
    conn->peer = *peer;
    conn->stall_limit_ms = s->conf->client_stall_ms;
    if (!conn_adopt(conn, fd)) {
        p->conn = NULL;
        p->next_free = mp.free;
        mp.free = p;
        return conn;
    }
    conn->watch.active_ms = p->came_ms = p->born_ms = loop_ms();
    greet_arrive(p);
    arm(p);
    os_keepalive(fd, KEEPALIVE_IDLE_MS, 0);
    s->clients++;
    stats.clients_accepted++;
    return conn;
}

void pooled_goes_on(struct pooled *p)
{
    set_state(p, p->greeting.waits ? POOLED_LATER : POOLED_READING);
}

/* -------------------------------------------------- what the pool tells us */

static struct pooled *client_of(struct pool_waiter *w)
{
    return (struct pooled *)(void *)w;
}

static void on_lent(struct pool_waiter *w, struct pool_link *l)
{
    use(client_of(w), l);
    pump(client_of(w)); /* the rest of a long request came while it waited */
}

static void on_moved(struct pool_waiter *w, const struct backend *refused)
{
    struct pooled *p = client_of(w);
    if (p->split != NULL) {
        go_split(p);
    } else {
        go(p, refused);
    }
    pump(p);
}

/* Codes by which a server says that it is on its way out, or no primary any more: drivers would take that for Puerta. */
static bool is_hidden(const struct wire *a)
{
    static const int64_t codes[] = { 91, 189, 10107, 11600, 11602, 13435, 13436 };
    for (size_t i = 0; i < sizeof codes / sizeof *codes && wire_has(a, WIRE_CODE); i++) {
        if (a->number[WIRE_CODE] == codes[i] && !wire_true(a, WIRE_OK)) {
            return true;
        }
    }
    return false;
}

/* Those of them that are about the mongos itself; the others come from a shard that changes its primary. */
static bool is_leaving(const struct wire *a)
{
    return a->number[WIRE_CODE] == MONGO_CODE_SHUTDOWN_IN_PROGRESS || a->number[WIRE_CODE] == MONGO_CODE_INTERRUPTED_AT_SHUTDOWN;
}

/* Its mongos has been lost, or cannot be trusted; what it asked may have been done or not. */
static void answer_lost(struct pooled *p, const char *why)
{
    if (p->begun) {
        client_finish(p);
    } else if (wire_more_to_come(&p->asks) && is_whole(&p->asks)) {
        next(p);
    } else {
        refuse(p, MONGO_CODE_HOST_UNREACHABLE, route_label(&p->asks), why);
    }
    pump(p);
}

static void answer_bad(struct pooled *p, struct pool_link *l, const char *why)
{
    struct backend *b = l->backend;
    log_warn("a mongos sends what is no answer", "mongos=%s:%u why=\"%s\"", b->host, (unsigned)b->port, why);
    stats.protocol_errors++;
    p->link = NULL;
    mongos_broke(b);
    pool_drop(l);
    answer_lost(p, "the mongos sent what is no answer");
}

/* Our login there may be none any more: a user that has been made anew has to log in anew. A new connection does that, but not
 * one for each client that asks for what nobody here may do. */
static bool is_logged_out(const struct pool_link *l)
{
    const struct wire *a = &l->answer;
    return !wire_true(a, WIRE_OK) && wire_has(a, WIRE_CODE) &&
           (a->number[WIRE_CODE] == MONGO_CODE_UNAUTHORIZED || a->number[WIRE_CODE] == REAUTHENTICATE) &&
           l->backend->service->conf->upstream_user[0] != '\0' && loop_ms() - l->born_ms > RELOGIN_MS;
}

static void exchange_over(struct pooled *p, struct pool_link *l)
{
    struct backend *b = l->backend;
    bool again = is_logged_out(l);
    route_answered(p->section, &p->asks, &l->answer, b);
    mongos_served(b);
    stats.replies++;
    p->link = NULL;
    if (again) {
        pool_drop(l);
    } else {
        pool_return(l);
    }
    next(p);
}

/* What was kept of an answer goes on, and then these bytes. False: its client is gone. */
static bool answer_put(struct pooled *p, const unsigned char *bytes, size_t n)
{
    size_t part;
    const unsigned char *held;
    while ((held = chain_at(&p->small, 0, &part)) != NULL && chain_put(&p->conn->out, BUF_REPLY, held, part)) {
        chain_drop(&p->small, part);
    }
    if (p->small.len > 0 || !chain_put(&p->conn->out, BUF_REPLY, bytes, n)) {
        conn_fail(p->conn, "no chunk left for an answer (chunks)");
        return false;
    }
    conn_dirty(p->conn);
    return true;
}

/* The mongos says that it goes, or that a shard changes its primary. Its client does not hear of that; of a command for several mongos
 * the others are asked. */
static void answer_hidden(struct pooled *p, struct pool_link *l)
{
    bool leaves = is_leaving(&l->answer);
    p->link = NULL;
    if (leaves) {
        mongos_leaves(l->backend);
        pool_drop(l);
    } else {
        pool_return(l);
    }
    if (p->split != NULL) {
        chain_clear(&p->small);
        go_split(p);
    } else {
        refuse(p, MONGO_CODE_HOST_UNREACHABLE, route_label(&p->asks), leaves ? "the mongos is shutting down" : "a shard changes its primary");
    }
}

/* A small answer that is whole. */
static void small_answer(struct pooled *p, struct pool_link *l, const unsigned char *bytes, size_t n)
{
    if (is_hidden(&l->answer)) {
        answer_hidden(p, l);
    } else if (p->split != NULL) {
        chain_copy(&p->small, whole, p->small.len);
        memcpy(whole + p->small.len, bytes, n);
        split_said(p, whole, p->small.len + n);
        chain_clear(&p->small);
        p->link = NULL;
        pool_return(l);
        go_split(p);
    } else if (answer_put(p, bytes, n)) {
        exchange_over(p, l);
    }
}

/* n bytes of an answer that all belong to it. */
static void answer_take(struct pooled *p, struct pool_link *l, const unsigned char *bytes, size_t n, bool is_all)
{
    bool small = !p->begun && l->answer.header.length <= (p->split != NULL ? HELD_MAX : SMALL);
    if (small && is_all) {
        small_answer(p, l, bytes, n);
        return;
    }
    if (small || p->split != NULL) {
        if (!small || !chain_put(&p->small, BUF_REPLY, bytes, n)) {
            answer_bad(p, l, "an answer that is too long");
        }
        return;
    }
    p->begun = true;
    if (answer_put(p, bytes, n) && is_all) {
        exchange_over(p, l);
    }
}

static void on_link_bytes(struct pool_link *l)
{
    struct pooled *p = client_of(l->holder);
    struct wire *a = &l->answer;
    enum wire_status status;
    size_t used;
    ssize_t got;
    if (p->conn->out.len >= p->service->conf->client_window || !has_chunks(p, BUF_REPLY)) {
        conn_read(l->conn, false);
        return;
    }
    got = conn_receive(l->conn, scratch, buf_chunk_size());
    if (got == CONN_ENDED) {
        conn_fail(l->conn, "the mongos closed it");
    }
    if (got <= 0) {
        return;
    }
    times_began(&p->times, l->backend);
    used = wire_feed(a, scratch, (size_t)got, &status);
    if (status == WIRE_BAD) {
        answer_bad(p, l, wire_error_text(a->error));
    } else if (used < (size_t)got || p->state != POOLED_ASKED || wire_more_to_come(&p->asks) ||
               (a->header.length != 0 && a->header.response_to != p->asks.header.request_id)) {
        answer_bad(p, l, "it answers what was not asked");
    } else if (wire_more_to_come(a)) {
        answer_bad(p, l, "it goes on answering, though it was not asked to");
    } else {
        answer_take(p, l, scratch, used, status == WIRE_WHOLE);
        pump(p);
    }
}

/* All of the request that is here has gone to its mongos. */
static void on_link_room(struct pool_link *l)
{
    struct pooled *p = client_of(l->holder);
    if (p->state == POOLED_ASKED) {
        times_sent(&p->times);
    }
    if (p->state == POOLED_ASKED && p->split == NULL) {
        hold_drop(p); /* the room for it is another's, however long the answer takes */
    }
    if (p->state == POOLED_SENDING) {
        pump(p);
    } else if (p->state == POOLED_ASKED && wire_more_to_come(&p->asks)) {
        p->link = NULL;
        pool_return(l);
        if (p->split != NULL) {
            go_split(p);
        } else {
            next(p);
        }
        pump(p);
    }
}

static void on_link_lost(struct pool_link *l, const char *why)
{
    struct pooled *p = client_of(l->holder);
    (void)why;
    p->link = NULL;
    if (p->split != NULL) {
        chain_clear(&p->small);
        go_split(p);
        pump(p);
    } else {
        answer_lost(p, "the mongos was lost before it answered");
    }
}

static const struct pool_ops pool_client_ops = { on_lent, on_moved, on_link_bytes, on_link_room, on_link_lost };

/* ------------------------------------------------------------- the whole */

static size_t holds(const struct pooled *p)
{
    return p->held.len + p->ahead.len + p->small.len + (p->conn->blocked ? p->conn->out.len : 0);
}

static void close_for_chunks(struct pooled *p, const char *why)
{
    char text[ADDRESS_TEXT];
    log_warn("no chunks left: a client is closed (chunks)", "client=%s why=\"%s\"", address_text(&p->conn->peer, text), why);
    conn_fail(p->conn, why);
}

/* In the middle of a request that goes nowhere until more of it comes. */
static bool dawdles(const struct pooled *p)
{
    return p->state == POOLED_READING && p->asks.used > 0 && p->much == 0 && !p->queues && loop_ms() - p->came_ms > STARVING_MS;
}

/* Nobody can be helped: all who dawdle, or else who holds most, give it back. A crowd of strangers is no reason for the latter. */
static void relieve(void)
{
    struct pooled *most = NULL;
    bool some = false, hurts = false;
    for (uint32_t i = 0; i < mp.total; i++) {
        struct pooled *p = &mp.all[i];
        if (is_open(p) && dawdles(p)) {
            some = true;
            close_for_chunks(p, "it stopped in the middle of a message");
        } else if (is_open(p)) {
            hurts = hurts || (p->starved && !is_crowded(p));
            most = most == NULL || holds(p) > holds(most) ? p : most;
        }
    }
    if (!some && hurts && holds(most) > 0) {
        close_for_chunks(most, "it holds most of the pool");
    }
}

/* Those who have a connection, and as many others as there are chunks for, each in its turn. */
static void feed_starved(void)
{
    uint32_t fed = 0;
    for (uint32_t i = 0; i < mp.total && mp.starved > 0; i++) {
        struct pooled *p = &mp.all[mp.care_at = (mp.care_at + 1) % mp.total];
        enum buf_use use = p->link != NULL ? BUF_REPLY : BUF_REQUEST;
        bool may = is_open(p) && p->starved && !is_crowded(p) && buf_may_take_many(use, 2 * (fed + 1));
        if (may) {
            set_starved(p, false);
            conn_read(p->conn, true);
            fed++;
        }
        if (may && p->link != NULL) {
            conn_read(p->link->conn, true);
        }
    }
    if (mp.starved > 0) {
        mp.starving_ms = fed > 0 ? loop_ms() : mp.starving_ms;
        care_soon();
    }
}

static void on_care(struct timer *t)
{
    if (mp.starved > 0 && loop_ms() - mp.starving_ms > STARVING_MS) {
        relieve();
        mp.starving_ms = loop_ms();
    }
    feed_starved();
    for (uint32_t i = 0; i < mp.total && mp.wanting > 0 && split_has_place(); i++) {
        struct pooled *p = &mp.all[mp.want_at = (mp.want_at + 1) % mp.total];
        if (is_open(p) && p->wants_split) {
            p->wants_split = false;
            mp.wanting--;
            split(p);
            pump(p);
        }
    }
    (void)t;
}

/* What is said of the mongos may have changed, for those whose answer waits for that. */
void pooled_backend(struct backend *b)
{
    for (uint32_t i = 0; i < mp.total; i++) {
        struct pooled *p = &mp.all[i];
        if (is_open(p) && p->service == b->service && p->state == POOLED_LATER) {
            later(p);
        }
    }
}

void pooled_conf(struct service *s, const struct conf_service *before)
{
    for (uint32_t i = 0; i < mp.total; i++) {
        struct pooled *p = &mp.all[i];
        if (!is_open(p) || p->service != s) {
            continue;
        }
        p->leaves = !door_stays(p, before) || p->leaves;
        conn_stall_limit(p->conn, s->conf->client_stall_ms);
        if (p->leaves && p->state == POOLED_READING && p->asks.used == 0) {
            client_finish(p);
        } else {
            arm(p);
        }
    }
}

void pooled_tables(const struct conf *conf)
{
    mp.total = conf_mongo(conf, true) ? conf->max_clients : 0;
    mp.all = arena_take("pooled clients", mp.total, sizeof *mp.all);
}

struct pooled *pooled_table(uint32_t *total)
{
    *total = mp.total;
    return mp.all;
}

void pooled_open(void)
{
    for (uint32_t i = mp.total; i > 0; i--) {
        mp.all[i - 1].next_free = mp.free;
        mp.free = &mp.all[i - 1];
    }
    mp.care.on_due = on_care;
    pool_open(&pool_client_ops);
    hold_open(pump);
}

void pooled_stop(void)
{
    for (uint32_t i = 0; i < mp.total; i++) {
        struct pooled *p = &mp.all[i];
        if (is_open(p) && p->state == POOLED_LATER) {
            later(p);
        } else if (is_open(p) && p->state == POOLED_READING && p->asks.used == 0) {
            client_finish(p);
        }
    }
}

bool pooled_idle(void)
{
    for (uint32_t i = 0; i < mp.total; i++) {
        if (mp.all[i].conn != NULL) {
            return false;
        }
    }
    return true;
}

size_t pooled_in_flight(void)
{
    size_t n = 0;
    for (uint32_t i = 0; i < mp.total; i++) {
        n += mp.all[i].conn != NULL && mp.all[i].state != POOLED_READING;
    }
    return n;
}
