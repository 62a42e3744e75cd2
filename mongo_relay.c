/*
 * mongo_relay.c - clients that each have a connection of their own to a mongos: pass-through and load-balanced mode.
 *
 *   listener -> client -- its first message is held --> mongo_choose.c: a mongos -- dialled --> what was held goes out
 *                 |                                                     |
 *                 |-- bytes --> flow `asks` ----> up->out
 *              conn->out <---- flow `answers` <-- bytes
 *
 * A client is one connection of a driver. What it says passes untouched, its login too, but for hello: that loses
 * `compression` (what is compressed cannot be followed) and, in load-balanced mode, `loadBalanced`; the answer to it then
 * gains a `serviceId`. Bytes are received into the output of the other side, where mongowire.c looks at them as they lie:
 * none is copied but those of a hello.
 *
 * Owns the table of clients. A side is read as long as the other has room (client_window): a slow one holds up itself.
 */
#include "mongo_relay.h"

#include <stdio.h>
#include <string.h>

#define HELD_MAX 65536         /* a hello that is longer is none, nor is any other first message */
#define CARE_MS 20             /* how often those that find no chunk, or are to leave, are looked after */
#define STARVING_MS 2000       /* one found no chunk for so long: who holds most of them gives them back */
#define RELIEF_MS 200          /* what was given back gets this long to be of help */

static struct {
    struct client *all, *free;
    uint32_t total;
    uint32_t waiting, starved;  /* clients, flows */
    uint64_t relieved_ms;       /* when a client was last closed for its chunks */
    int32_t last_id;
    struct timer care;
} md;

static unsigned char whole[HELD_MAX], edited[HELD_MAX + 64]; /* a message that is being changed */
static unsigned char scratch[256 * 1024];                    /* the largest chunk there may be */

static void relay_begin(struct client *c);
static void dial(struct client *c);
static bool go_on_asking(struct client *c);

/* ------------------------------------------------------------ their time */

/* A request is whole. One that waits for a change takes its time. */
static void time_begins(struct client *c, const struct wire *w)
{
    if (wire_more_to_come(w) || c->asked.waits || (c->times.born_us != 0 && c->timed_id != w->header.request_id)) {
        return;
    }
    times_begin(&c->times);
    c->timed_id = w->header.request_id;
    memcpy(c->timed_command, w->command, sizeof c->timed_command);
    memcpy(c->timed_db, w->db, sizeof c->timed_db);
}

static void time_is_over(struct client *c, const struct backend *b)
{
    times_end(&c->times, &(struct mongo_slow){ c->service, c->conn, b, c->timed_command, c->timed_db });
}

/* ------------------------------------------------------------ their end */

static void care_soon(void)
{
    if (md.care.next == NULL) {
        loop_timer(&md.care, loop_ms() + CARE_MS);
    }
}

static void set_state(struct client *c, enum client_state to)
{
    md.waiting += to == WAITING ? 1u : 0;
    md.waiting -= c->state == WAITING ? 1u : 0;
    c->state = (uint8_t)to;
}

static void up_let_go(struct client *c)
{
    if (c->up != NULL) {
        conn_close(c->up);
        c->up = NULL;
    }
    if (c->backend != NULL) {
        mongos_of(c->backend)->connections--;
        mongos_of(c->backend)->in_flight -= c->unanswered;
        c->backend = NULL;
    }
}

/* It has a connection there. Who is to leave again is looked after, which nobody may have been for who came first: an upgrade hands clients
 * over behind the hold. */
static void set_backend(struct client *c, struct backend *b)
{
    c->backend = b;
    mongos_of(b)->connections++;
    if (mongos_drains(b)) {
        care_soon();
    }
}

static void set_starved(struct flow *f, bool starved)
{
    if (starved && f->starved_ms == 0) {
        f->starved_ms = loop_ms();
        md.starved++;
        care_soon();
    } else if (!starved && f->starved_ms != 0) {
        f->starved_ms = 0;
        md.starved--;
    }
}

static void client_gone(struct client *c)
{
    stats.clients_closed++;
    c->service->clients--;
    md.waiting -= c->state == WAITING ? 1u : 0;
    up_let_go(c);
    set_starved(&c->asks, false);
    set_starved(&c->answers, false);
    chain_clear(&c->asks.held);
    chain_clear(&c->answers.held);
    chain_clear(&c->late);
    mongo_let_go(&c->id);
    c->conn = NULL;
    c->next = md.free;
    md.free = c;
}

static void on_client_close(struct conn *conn, const char *why)
{
    (void)why;
    client_gone(conn->owner);
}

/* Nothing more is taken from it, or for it; what it has been sent so far it may read. */
static void client_finish(struct client *c)
{
    up_let_go(c);
    set_starved(&c->asks, false);
    set_starved(&c->answers, false);
    chain_clear(&c->asks.held);
    chain_clear(&c->answers.held);
    chain_clear(&c->late);
    conn_finish(c->conn, FINISH_MS);
}

/* It is told what is wrong, in its protocol, and closed. While an answer is under way nothing can be said beside it. */
static void client_refuse(struct client *c, enum mongo_code code, const char *text)
{
    const struct wire *w = &c->asks.wire;
    size_t n = mongomsg_refuse(edited, sizeof edited, &w->header, ++md.last_id, code, text, NULL);
    bool mute = w->header.length == 0 || wire_more_to_come(w) || c->unanswered > 0 || c->answers.wire.used > 0;
    char peer[ADDRESS_TEXT];
    log_warn("client refused", "client=%s why=\"%s\"", address_text(&c->conn->peer, peer), text);
    time_is_over(c, c->backend);
    if (!mute) {
        mongo_refused(code);
    }
    if (!mute && !chain_put(&c->conn->out, BUF_REPLY, edited, n)) {
        conn_fail(c->conn, "no chunk left to tell it what is wrong (chunks)");
        return;
    }
    client_finish(c);
}

/* The end of an answer: where a client may be closed without harm. */
static void settle(struct client *c)
{
    if (relay_rests(c) && ((c->ended && c->unanswered == 0) || mongo_stopping || leave_now(c))) {
        client_finish(c);
    }
}

/* ------------------------------------------------------------- messages */

/* A hello goes on without what its mongos must not hear. False: its client is gone, or has been told what is wrong. */
static bool hello_goes(struct client *c, size_t n)
{
    static const char *const drop[] = { "compression", NULL }, *const drop_balanced[] = { "compression", "loadBalanced", NULL };
    const struct conf_service *conf = c->service->conf;
    const struct wire *w = &c->asks.wire;
    bool balanced = conf->mode == MONGO_LOADBALANCED && !conf->upstream_proxy;
    enum wire_error error = WIRE_BAD_NONE;
    struct bson_reader doc;
    struct bson_element client;
    chain_copy(&c->asks.held, whole, n);
    doc = mongomsg_document(whole, n);
    if (bson_find(&doc, "client", &client)) {
        mongomsg_client_name(&client, c->name);
    }
    if (wire_has(w, WIRE_COMPRESSION) || (balanced && wire_has(w, WIRE_LOAD_BALANCED))) {
        n = mongomsg_edit(whole, n, balanced ? drop_balanced : drop, NULL, 0, edited, sizeof edited, &error);
    } else {
        memcpy(edited, whole, n); /* as it is, with its checksum */
    }
    if (n == 0 || !chain_put(&c->up->out, BUF_REPLY, edited, n)) {
        conn_fail(c->conn, n == 0 ? wire_error_text(error) : "no chunk left for its hello (chunks)");
        return false;
    }
    c->rewrites = balanced;
    c->hello_id = w->header.request_id;
    return true;
}

/* The answer to a hello of load-balanced mode: by its serviceId the driver knows where it is. */
static bool hello_gains(struct client *c, size_t n)
{
    unsigned char field[32];
    enum wire_error error;
    struct bson b;
    bson_start(&b, field, sizeof field);
    bson_object_id(&b, "serviceId", mongos_of(c->backend)->service_id);
    chain_copy(&c->answers.held, whole, n);
    n = mongomsg_edit(whole, n, NULL, field, b.len, edited, sizeof edited, &error);
    if (n == 0 || !chain_put(&c->conn->out, BUF_REPLY, edited, n)) {
        conn_fail(c->conn, n == 0 ? wire_error_text(error) : "no chunk left for its hello (chunks)");
        return false;
    }
    c->rewrites = false;
    return true;
}

/* Its address asks more than it may, and is to hear so. What is under way has to be over first: an answer cannot be put into another. */
static bool is_refused(const struct client *c)
{
    bool can = c->service->conf->limit_error && c->unanswered == 0 && c->answers.wire.used == 0;
    if (can && gate_ask(c->conn) == GATE_REFUSED) {
        return true;
    }
    if (!can) {
        gate_count(c->conn);
    }
    return false;
}

/* It was dropped on its way. False: its client is gone. */
static bool refuse_one(struct client *c)
{
    const struct wire *w = &c->asks.wire;
    size_t n = mongomsg_refuse(edited, sizeof edited, &w->header, ++md.last_id, MONGO_CODE_RATE_LIMIT_EXCEEDED,
                               "too many requests from this address (request_rate, byte_rate)", "SystemOverloadedError");
    if (!wire_more_to_come(w)) {
        mongo_refused(MONGO_CODE_RATE_LIMIT_EXCEEDED);
    }
    if (!wire_more_to_come(w) && !chain_put(&c->conn->out, BUF_REPLY, edited, n)) {
        conn_fail(c->conn, "no chunk left to tell it what is wrong (chunks)");
        return false;
    }
    conn_dirty(c->conn);
    return true;
}

/* What becomes of the message under way, once enough of it is here to tell. */
static enum fate fate_of(const struct client *c, const struct flow *f, bool is_whole)
{
    const struct wire *w = &f->wire;
    if (f == &c->asks) {
        bool room = buf_free_chunks() > buf_total() / buf_chunk_size() / 2; /* the other half is those clients' that nobody asks to leave */
        bool may_wait = w->header.length <= HELD_MAX / 2 && room && !c->back && leave_asks(c);
        bool known = (w->command[0] != '\0' && !may_wait) || is_whole;
        return w->hello ? HOLD : mongo_puerta_takes(c->service->conf, w) ? HERE : !known ? UNKNOWN
             : may_wait && leave_tries_again(w) ? LATER : c->conn->source != NULL && is_refused(c) ? DROP : PASS;
    }
    return w->header.length == 0 ? UNKNOWN : c->rewrites && w->header.response_to == c->hello_id ? HOLD : PASS;
}

static void count_unanswered(struct client *c, bool asked, bool answered)
{
    answered = answered && c->unanswered > 0;
    c->unanswered += asked;
    c->unanswered -= answered;
    mongos_of(c->backend)->in_flight += asked;
    mongos_of(c->backend)->in_flight -= answered;
}

/* What is said here goes between two answers of the mongos: at once, or when the one under way is over. Who asked is told whose answer it
 * is by its number, as with any other. Who has logged in here is known to the mongos alone, so only clients of this machine may ask. */
static bool answer_here(struct client *c)
{
    const struct wire *w = &c->asks.wire;
    size_t n = w->used;
    chain_copy(&c->asks.held, whole, n);
    chain_clear(&c->asks.held);
    stats.requests++;
    if (!wire_more_to_come(w)) {
        n = mongo_puerta_answer(whole, n, w, guesses_near(&c->conn->peer), ++md.last_id, edited, sizeof edited);
        if (n == 0 || c->late.len > c->service->conf->client_window || !chain_put(&c->late, BUF_REPLY, edited, n)) {
            conn_fail(c->conn, "no room for what it asked of Puerta (chunks)");
            return false;
        }
        stats.replies++;
    }
    wire_start(&c->asks.wire, false);
    c->asks.fate = UNKNOWN;
    return true;
}

/* A message is whole. False: its client is gone. */
static bool message_end(struct client *c, struct flow *f)
{
    const struct wire *w = &f->wire;
    if (f->fate == HERE) {
        return answer_here(c);
    }
    if (f->fate == HOLD) {
        bool good = f == &c->asks ? hello_goes(c, w->used) : hello_gains(c, w->used);
        chain_clear(&f->held);
        if (!good) {
            return false;
        }
    }
    if (f->fate == DROP) {
        bool good = refuse_one(c);
        stats.requests++;
        wire_start(&f->wire, false);
        f->fate = UNKNOWN;
        return good;
    }
    if (f == &c->asks) {
        mongo_asked(w);
        gate_done(c->conn);
        count_unanswered(c, !wire_more_to_come(w), false);
        pins_ask(&c->id, &c->asked, w);
        time_begins(c, w);
    } else {
        stats.replies++;
        count_unanswered(c, false, !wire_more_to_come(w));
        pins_answer(&c->id, &c->asked, w);
        if (!c->asked.greets) {
            mongos_served(c->backend);
        }
        if (c->times.born_us != 0 && w->header.response_to == c->timed_id) {
            time_is_over(c, c->backend);
        }
    }
    wire_start(&f->wire, f == &c->answers);
    f->fate = UNKNOWN;
    return true;
}

static void message_bad(struct client *c, const struct flow *f)
{
    stats.protocol_errors++;
    if (f == &c->asks) {
        client_refuse(c, MONGO_CODE_PROTOCOL_ERROR, wire_error_text(f->wire.error));
    } else {
        log_warn("a mongos sends what is no message", "mongos=%s:%u why=\"%s\"", c->backend->host, (unsigned)c->backend->port,
                 wire_error_text(f->wire.error));
        mongos_broke(c->backend);
        client_finish(c);
    }
}

/* What was said here goes out, unless the mongos is in the middle of an answer. False: its client is gone. */
static bool tell_late(struct client *c)
{
    size_t n;
    const unsigned char *p;
    while (c->late.len > 0 && c->answers.wire.used == 0 && c->answers.held.len == 0) {
        p = chain_at(&c->late, 0, &n);
        if (!chain_put(&c->conn->out, BUF_REPLY, p, n)) {
            conn_fail(c->conn, "no room for what it asked of Puerta (chunks)");
            return false;
        }
        chain_drop(&c->late, n);
        conn_dirty(c->conn);
    }
    return true;
}

/* Whether its message is longer than its section lets clients' be: then it is told so, and closed. */
static bool is_too_long(struct client *c)
{
    size_t limit = c->service->conf->request_limit;
    if (limit == 0 || c->asks.wire.header.length <= limit) {
        return false;
    }
    stats.requests_too_long++;
    client_refuse(c, MONGO_CODE_OBJECT_TOO_LARGE, "a message longer than request_limit");
    return true;
}

/* A chain that is empty gives back the chunk whose room was to be received into. */
static void room_unused(struct chain *to)
{
    if (to->len == 0) {
        chain_drop(to, 0);
    }
}

/* What was held while it was not known what it is. */
static bool release(struct flow *f, struct chain *to)
{
    size_t n;
    const unsigned char *p;
    while ((p = chain_at(&f->held, 0, &n)) != NULL) {
        if (!chain_put(to, BUF_REPLY, p, n)) {
            return false;
        }
        chain_drop(&f->held, n);
    }
    return true;
}

/* Its request is whole, and waits here until the others of its client rest; as do n bytes behind it. False: the client is gone. */
static bool hold_back(struct client *c, const unsigned char *p, size_t n)
{
    struct flow *f = &c->asks;
    size_t len = f->held.len;
    chain_copy(&f->held, whole, len);
    if (n > 0 && !chain_put(&f->held, BUF_REPLY, p, n)) {
        conn_fail(c->conn, "no chunk left for what is held back (chunks)");
        return false;
    }
    time_begins(c, &f->wire);
    c->back = true;
    conn_read(c->conn, false);
    if (leave_writes(whole, len)) {
        return go_on_asking(c);
    }
    wire_start(&f->wire, false);
    f->fate = UNKNOWN;
    return true;
}

/* n bytes of a flow, on their way to `to`. in_place: they lie in the room behind its end already. False: the client is gone. */
static bool flow_take(struct client *c, struct flow *f, struct chain *to, const unsigned char *p, size_t n, bool in_place)
{
    while (n > 0) {
        enum wire_status status;
        size_t used = wire_feed(&f->wire, p, n, &status);
        if (status == WIRE_BAD) {
            message_bad(c, f);
            return false;
        }
        if (f == &c->asks && is_too_long(c)) {
            return false;
        }
        if (f->fate == UNKNOWN) {
            f->fate = (uint8_t)fate_of(c, f, status == WIRE_WHOLE || f->held.len + used > HELD_MAX / 2);
        }
        if (in_place && (f->fate != PASS || f->held.len > 0)) {
            memcpy(scratch, p, n); /* what is put elsewhere first would be written over it */
            p = scratch;
            in_place = false;
            room_unused(to);
        }
        if (in_place) {
            chain_commit(to, used);
        } else if (f->fate == DROP) {
            chain_clear(&f->held);
        } else if (f->fate != PASS && f->held.len + used > HELD_MAX) {
            conn_fail(c->conn, "a hello, or a puertaStatus, of more than 64 KiB");
            return false;
        } else if ((f->fate == PASS && !release(f, to)) || !chain_put(f->fate == PASS ? to : &f->held, BUF_REPLY, p, used)) {
            conn_fail(c->conn, "no chunk left for a message (chunks)");
            return false;
        }
        p += used;
        n -= used;
        if (status == WIRE_WHOLE && f->fate == LATER) {
            return hold_back(c, p, n);
        }
        if (status == WIRE_WHOLE && !message_end(c, f)) {
            return false;
        }
    }
    return true;
}

/* What is held goes through the flow as if it came now. False: the client is gone. */
static bool ask_anew(struct client *c)
{
    struct chain first = c->asks.held;
    size_t n;
    const unsigned char *p;
    bool good = true;
    memset(&c->asks.held, 0, sizeof c->asks.held);
    wire_start(&c->asks.wire, false);
    c->asks.fate = UNKNOWN;
    while (good && (p = chain_at(&first, 0, &n)) != NULL) {
        good = flow_take(c, &c->asks, &c->up->out, p, n, false);
        chain_drop(&first, n);
    }
    chain_clear(&first);
    return good && tell_late(c);
}

/* Nothing of it is held back any more. */
static bool go_on_asking(struct client *c)
{
    if (!ask_anew(c)) {
        return false;
    }
    c->back = false;
    conn_dirty(c->up);
    conn_read(c->conn, true);
    return true;
}

/* ------------------------------------------------------------- the mongos */

static void up_open(struct conn *conn)
{
    struct client *c = conn->owner;
    os_keepalive(conn->fd, KEEPALIVE_IDLE_MS, c->service->conf->client_stall_ms);
    conn->watch.may_cool = true; /* most are as idle as their clients */
    set_state(c, RELAYING);
    c->tries = 0;
    relay_begin(c);
}

static void up_bytes(struct conn *conn)
{
    struct client *c = conn->owner;
    struct chain *to = &c->conn->out;
    unsigned char *room;
    size_t cap;
    ssize_t n;
    if (to->len >= c->service->conf->client_window) {
        conn_read(conn, false); /* until its client has taken that */
        return;
    }
    cap = chain_room(to, BUF_REPLY, &room);
    set_starved(&c->answers, cap == 0);
    if (cap == 0) {
        conn_read(conn, false);
        return;
    }
    n = conn_receive(conn, room, cap);
    if (n == CONN_ENDED) {
        conn_fail(conn, "the mongos closed it");
    } else if (n == CONN_NOTHING) {
        room_unused(to);
    } else if (n > 0) {
        times_began(&c->times, c->backend);
        if (flow_take(c, &c->answers, to, room, (size_t)n, true) && tell_late(c)) {
            conn_dirty(c->conn);
            settle(c);
        }
    }
}

/* All that its client asked has gone to it: more can be read, or there is no more. */
static void up_room(struct conn *conn)
{
    struct client *c = conn->owner;
    times_sent(&c->times);
    if (c->ended) {
        net_shutdown(conn->fd);
    } else if (c->state == RELAYING && c->asks.starved_ms == 0 && !c->back) {
        conn_read(c->conn, true);
    }
    settle(c); /* a request that gets no answer ends here */
}

/* That mongos has refused a connection. Whether the client of c has others there, so that it may not be parted: its cursors
 * and transactions are where those are. When the mongos is really gone, they are too, or soon. */
static bool stays_at(const struct client *c, const struct backend *b)
{
    for (uint32_t i = 0; i < md.total && c->id.entry != AFFINITY_NONE; i++) {
        const struct client *o = &md.all[i];
        if (o != c && o->conn != NULL && o->backend == b && o->state == RELAYING && o->id.section == c->id.section &&
            o->id.entry == c->id.entry) {
            return true;
        }
    }
    return false;
}

/* The mongos did not take its connection: false, and it is told so, if no other may have it. */
static bool may_go_elsewhere(struct client *c, struct backend *b)
{
    char text[HOST_CAP + 128];
    mongos_broke(b);
    c->tried[c->tries++] = b;
    if (b->state != BACKEND_UP || b->hold == HELD_DOWN || !stays_at(c, b)) {
        return true;
    }
    snprintf(text, sizeof text, "%s:%u, where this client has other connections, takes no more", b->host, (unsigned)b->port);
    client_refuse(c, MONGO_CODE_HOST_UNREACHABLE, text);
    return false;
}

/* Refused, or lost. Before anything went there another one may do, unless its client is there already; after that
 * the driver has to know. */
static void up_close(struct conn *conn, const char *why)
{
    struct client *c = conn->owner;
    struct backend *b = c->backend;
    c->up = NULL;
    up_let_go(c);
    log_debug("connection to a mongos lost", "mongos=%s:%u why=\"%s\"", b->host, (unsigned)b->port, why);
    if (c->state == DIALING) {
        if (may_go_elsewhere(c, b)) {
            dial(c);
        }
        return;
    }
    if (!c->ended && (c->unanswered > 0 || c->answers.wire.used > 0)) {
        stats.upstream_lost++;
        mongos_broke(b);
        time_is_over(c, b);
    }
    client_finish(c);
}

static const struct conn_ops up_ops = {
    .kind = "upstream",
    .on_open = up_open,
    .on_bytes = up_bytes,
    .on_room = up_room,
    .on_close = up_close,
};

static void client_unreachable(struct client *c)
{
    char text[SLOTMAP_ERROR_CAP + 64];
    snprintf(text, sizeof text, "no mongos can be reached: %s", c->service->trouble);
    client_refuse(c, MONGO_CODE_HOST_UNREACHABLE, text);
}

/* Whether some mongos of the section has not been heard of yet: just after the start. */
static bool is_early(const struct service *s)
{
    bool early = false;
    for (uint16_t i = 0; i < backend_cap(); i++) {
        const struct backend *b = backend_at(i);
        if (b != NULL && b->service == s && b->state == BACKEND_NEW) {
            early = true;
        }
    }
    return early;
}

/* Its first message is whole: to the mongos of its client, or to another that takes it. */
static void dial(struct client *c)
{
    const struct conf_service *conf = c->service->conf;
    struct net_sizes sizes = { conf->receive_buffer, conf->send_buffer };
    struct backend *b;
    if (leave_waits(c)) {
        set_state(c, WAITING);
        care_soon();
        return;
    }
    while ((b = c->tries < MAX_SEEDS ? mongo_choose(&c->id, c->service, c->tried, c->tries) : NULL) != NULL) {
        const struct address *a = backend_address(b);
        c->up = a != NULL ? conn_take(CONN_UPSTREAM, &up_ops, c) : NULL;
        if (c->up == NULL) {
            break; /* those of this turn become free when it ends */
        }
        set_state(c, DIALING);
        set_backend(c, b);
        c->up->stall_limit_ms = conf->client_stall_ms;
        if (conn_dial(c->up, a, conf->dial_timeout_ms, &sizes)) {
            return;
        }
        c->up = NULL;
        up_let_go(c);
        if (!may_go_elsewhere(c, b)) {
            return;
        }
    }
    if (b != NULL || (is_early(c->service) && c->tries == 0)) {
        set_state(c, WAITING);
        care_soon();
    } else {
        client_unreachable(c);
    }
}

/* ------------------------------------------------------------- the client */

/* The mongos is there: its first message goes out. */
static void relay_begin(struct client *c)
{
    unsigned char head[NET_PROXY_CAP];
    int version = c->service->conf->upstream_proxy;
    if (version != 0 && !chain_put(&c->up->out, BUF_REPLY, head, net_proxy_header(c->conn->fd, &c->conn->peer, version, head))) {
        conn_fail(c->conn, "no chunk left for a PROXY header (chunks)");
    } else if (ask_anew(c)) {
        conn_dirty(c->up);
        conn_read(c->conn, !c->ended && !c->back);
        conn_deadline(c->conn, c->service->conf->client_idle_ms > 0 ? loop_ms() + c->service->conf->client_idle_ms : 0);
    }
}

/* Whether its driver and this section agree on how they work. */
static bool agrees(struct client *c)
{
    bool balanced = c->service->conf->mode == MONGO_LOADBALANCED;
    if (!c->asks.wire.hello || wire_true(&c->asks.wire, WIRE_LOAD_BALANCED) == balanced) {
        return true;
    }
    client_refuse(c, MONGO_CODE_LOAD_BALANCER_MISMATCH,
                  balanced ? "this address is for drivers with loadBalanced=true in their connection string (mode = loadbalanced)"
                           : "this address is not for loadBalanced=true: leave that out of the connection string, or set mode = "
                             "loadbalanced");
    return false;
}

void relay_greet(struct client *c, const unsigned char *p, size_t n)
{
    enum wire_status status;
    wire_feed(&c->asks.wire, p, n, &status);
    if (status == WIRE_BAD) {
        message_bad(c, &c->asks);
        return;
    }
    chain_commit(&c->asks.held, n);
    if (c->asks.wire.header.length > HELD_MAX) {
        client_refuse(c, MONGO_CODE_PROTOCOL_ERROR, "a first message of more than 64 KiB: a client begins with hello");
    } else if (status == WIRE_WHOLE && agrees(c)) {
        conn_read(c->conn, false);
        conn_deadline(c->conn, loop_ms() + c->service->conf->handshake_timeout_ms);
        mongo_identify(&c->id, c->service->conf, c->conn, &c->asks.wire);
        time_begins(c, &c->asks.wire);
        dial(c);
    }
}

static void client_ended(struct client *c)
{
    c->ended = true;
    conn_read(c->conn, false);
    if (c->state != RELAYING || c->asks.wire.used > 0) {
        conn_fail(c->conn, "it left in the middle of a message");
    } else if (c->up->out.len == 0) {
        up_room(c->up);
    }
}

static void client_bytes(struct conn *conn)
{
    struct client *c = conn->owner;
    struct chain *to = c->state == RELAYING ? &c->up->out : &c->asks.held;
    unsigned char *room;
    size_t cap;
    ssize_t n;
    if (c->state == RELAYING && to->len >= c->service->conf->client_window) {
        conn_read(conn, false); /* until its mongos has taken that */
        return;
    }
    cap = chain_room(to, BUF_REQUEST, &room);
    set_starved(&c->asks, cap == 0);
    if (cap == 0) {
        conn_read(conn, false);
        return;
    }
    n = conn_receive(conn, room, cap);
    if (n == CONN_NOTHING || n == CONN_ENDED) {
        room_unused(to);
    }
    if (n == CONN_ENDED) {
        client_ended(c);
    } else if (n > 0 && c->state != RELAYING) {
        relay_greet(c, room, (size_t)n);
    } else if (n > 0 && flow_take(c, &c->asks, to, room, (size_t)n, true) && tell_late(c)) {
        conn_dirty(c->up);
    }
}

/* It has taken all that its mongos said: more can be read there. */
static void client_room(struct conn *conn)
{
    struct client *c = conn->owner;
    if (c->up != NULL && c->up->state == CONN_OPEN && c->answers.starved_ms == 0) {
        conn_read(c->up, true);
    }
}

static void client_tick(struct conn *conn)
{
    struct client *c = conn->owner;
    uint64_t limit = c->service->conf->client_idle_ms, last = conn->watch.active_ms, idle;
    if (c->up != NULL && c->up->watch.active_ms > last) {
        last = c->up->watch.active_ms;
    }
    idle = loop_ms() - last;
    if (conn->held) {
        conn_deadline(conn, loop_ms() + c->service->conf->handshake_timeout_ms); /* it is not its fault that nothing comes */
    } else if (c->state == GREETING) {
        conn_fail(conn, "no hello within handshake_timeout");
    } else if (c->state != RELAYING) {
        client_unreachable(c);
    } else if (limit > 0 && idle >= limit && c->unanswered == 0 && relay_rests(c) && !c->back) {
        conn_fail(conn, "idle (client_idle)");
    } else if (limit > 0) {
        conn_deadline(conn, loop_ms() + (idle < limit ? limit - idle : limit));
    }
}

static void describe(const struct conn *conn, struct conn_facts *out)
{
    static const char *const doing[] = { "greeting", "waiting", "dialing", "waiting" };
    const struct client *c = conn->owner;
    out->section = c->service->conf->name;
    out->name = c->name;
    out->doing = conn->state != CONN_OPEN || c->ended ? "leaving" : pins_hold(&c->id) ? "pinned"
               : c->state == RELAYING && relay_rests(c) && !c->back ? "idle" : doing[c->state];
    out->in_flight = c->unanswered;
    out->born_ms = c->born_ms;
    out->asked_ms = conn->watch.active_ms;
    out->backend = c->backend;
}

static const struct conn_ops client_ops = {
    .kind = "client",
    .on_bytes = client_bytes,
    .on_room = client_room,
    .on_close = on_client_close,
    .on_tick = client_tick,
    .describe = describe,
};

struct conn *relay_accept(struct service *s, uint8_t section, int fd, const struct address *peer)
{
    struct client *c = md.free;
    struct conn *conn = c == NULL ? NULL : conn_take(CONN_CLIENT, &client_ops, c);
    if (conn == NULL) {
        return NULL;
    }
    md.free = c->next;
    memset(c, 0, sizeof *c);
    c->conn = conn;
    c->service = s;
    c->id.section = section;
    c->id.entry = AFFINITY_NONE;
    wire_start(&c->asks.wire, false);
    wire_start(&c->answers.wire, true);
    conn->peer = *peer;
    conn->stall_limit_ms = s->conf->client_stall_ms;
    if (!conn_adopt(conn, fd)) {
        c->conn = NULL;
        c->next = md.free;
        md.free = c;
        return conn;
    }
    conn->watch.active_ms = c->born_ms = loop_ms();
    conn_deadline(conn, loop_ms() + s->conf->handshake_timeout_ms);
    os_keepalive(fd, KEEPALIVE_IDLE_MS, 0);
    s->clients++;
    stats.clients_accepted++;
    return conn;
}

bool relay_join(struct client *c, struct backend *b, int fd)
{
    c->up = conn_take(CONN_UPSTREAM, &up_ops, c);
    if (c->up == NULL || !conn_adopt(c->up, fd)) {
        return false;
    }
    c->up->stall_limit_ms = c->service->conf->client_stall_ms;
    c->up->watch.may_cool = true;
    set_backend(c, b);
    set_state(c, RELAYING);
    conn_deadline(c->conn, c->service->conf->client_idle_ms > 0 ? loop_ms() + c->service->conf->client_idle_ms : 0);
    return true;
}

/* ------------------------------------------------------------- the whole */

/* Of the connections that do not read, the one for which most is kept. */
static struct client *holds_most(void)
{
    struct client *found = NULL;
    size_t most = 0;
    for (uint32_t i = 0; i < md.total; i++) {
        struct client *c = &md.all[i];
        size_t held = c->conn == NULL ? 0 : c->asks.held.len;
        held += c->conn != NULL && c->conn->blocked ? c->conn->out.len : 0;
        held += c->conn != NULL && c->up != NULL && c->up->blocked ? c->up->out.len : 0;
        if (held > most) {
            most = held;
            found = c;
        }
    }
    return found;
}

static bool starves(const struct flow *f)
{
    return f->starved_ms != 0 && loop_ms() - f->starved_ms > STARVING_MS;
}

static void relieve(void)
{
    struct client *most;
    char text[ADDRESS_TEXT];
    bool needed = false;
    for (uint32_t i = 0; i < md.total && !needed; i++) {
        needed = md.all[i].conn != NULL && (starves(&md.all[i].asks) || starves(&md.all[i].answers));
    }
    if (needed && loop_ms() - md.relieved_ms > RELIEF_MS && (most = holds_most()) != NULL) {
        md.relieved_ms = loop_ms();
        log_warn("no chunks left: a client is closed (chunks)", "client=%s", address_text(&most->conn->peer, text));
        conn_fail(most->conn, "it holds most of the pool and does not read");
    }
}

static void look_after(struct client *c)
{
    if (c->back && !leave_asks(c)) {
        go_on_asking(c);
        return;
    }
    if (c->asks.starved_ms != 0) {
        conn_read(c->conn, true);
    }
    if (c->answers.starved_ms != 0 && c->up != NULL) {
        conn_read(c->up, true);
    }
    if (c->state == WAITING) {
        dial(c);
    } else if (c->backend != NULL && leave_is_over(c->backend)) {
        client_finish(c);
    } else {
        settle(c);
    }
}

static void on_care(struct timer *t)
{
    if (md.starved > 0) {
        relieve();
    }
    leave_look();
    for (uint32_t i = 0; i < md.total; i++) {
        if (md.all[i].conn != NULL && md.all[i].conn->state == CONN_OPEN && !md.all[i].conn->given) {
            look_after(&md.all[i]);
        }
    }
    if (md.starved > 0 || md.waiting > 0 || leave_somebody()) {
        loop_timer(t, loop_ms() + CARE_MS);
    }
}

void relay_backend(struct backend *b)
{
    bool over = backend_is_down(b) || b->state == BACKEND_MISMATCH || b->state == BACKEND_FREE;
    for (uint32_t i = 0; i < md.total; i++) {
        struct client *c = &md.all[i];
        if (c->conn == NULL || c->backend != b) {
            continue;
        }
        if (over && c->state == RELAYING) {
            client_finish(c);
        } else if (b->hold != HELD_NOT && c->state == DIALING) {
            up_let_go(c);
            dial(c);
        }
    }
    if (md.waiting > 0 || mongos_drains(b)) {
        loop_timer(&md.care, loop_ms());
    }
}

void relay_conf(struct service *s)
{
    for (uint32_t i = 0; i < md.total; i++) {
        struct client *c = &md.all[i];
        if (c->conn == NULL || c->conn->state != CONN_OPEN || c->service != s) {
            continue;
        }
        conn_stall_limit(c->conn, s->conf->client_stall_ms);
        if (c->up != NULL) {
            conn_stall_limit(c->up, s->conf->client_stall_ms);
        }
        if (c->state == RELAYING) {
            conn_deadline(c->conn, s->conf->client_idle_ms > 0 ? loop_ms() : 0);
        }
    }
}

void relay_tables(const struct conf *conf)
{
    md.total = conf_mongo(conf, false) ? conf->max_clients : 0;
    md.all = arena_take("mongo clients", md.total, sizeof *md.all);
}

struct client *relay_table(uint32_t *total)
{
    *total = md.total;
    return md.all;
}

void relay_open(void)
{
    for (uint32_t i = md.total; i > 0; i--) {
        md.all[i - 1].next = md.free;
        md.free = &md.all[i - 1];
    }
    md.care.on_due = on_care;
    leave_open(md.all, md.total, client_finish);
}

void relay_stop(void)
{
    for (uint32_t i = 0; i < md.total; i++) {
        struct client *c = &md.all[i];
        if (c->conn != NULL && c->conn->state == CONN_OPEN && c->state != RELAYING) {
            conn_fail(c->conn, "stopping");
        } else if (c->conn != NULL && c->conn->state == CONN_OPEN) {
            settle(c);
        }
    }
}

bool relay_idle(void)
{
    for (uint32_t i = 0; i < md.total; i++) {
        if (md.all[i].conn != NULL) {
            return false;
        }
    }
    return true;
}

size_t relay_in_flight(void)
{
    size_t n = 0;
    for (uint32_t i = 0; i < md.total; i++) {
        n += md.all[i].conn != NULL ? md.all[i].unanswered : 0;
    }
    return n;
}
