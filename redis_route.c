/*
 * redis_route.c - where a request goes, and goes again: the owner of its slot, the waiting list, replay.
 *
 *   upstream  head -> req    req    req             the queue of a node's connection (redis_upstream.c)
 *                  <-   ^
 *         turned away   |   req_send
 *                  v    |
 *   waiting   head -> req -> req                    tried again a little later
 *
 * A redirect or a lost connection moves a record to another queue and copies nothing. A queue outlives its connection, so
 * requests of which nothing was sent wait in it for a node to come back or for the map to name another one.
 *
 * What must hold: a client's requests change connection only when none of its earlier ones is unanswered on the old
 * one (client.epoch, client.gate); a request runs twice only if it reads, or the node said that it did not run it.
 */
#include "redis.h"

#define BLOCKED_MS 500 /* what a node has turned away later than this had been accepted by it before */

static struct {
    struct req *head, *tail; /* the waiting list */
    struct timer timer;
} rt;

bool (*req_turned_away)(struct upstream *u, struct req *r, const unsigned char *p, size_t n);
void (*req_on_large)(struct req *r);
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
void (*fan_anew)(struct req *part);
bool (*fan_under_way)(const struct fan *f, const struct req *r, const struct upstream *u);

static uint32_t now32(void)
{
    return (uint32_t)loop_ms();
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
    away = backend_is_away(b);
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
        map_refresh(s);
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
    r->prev = rt.tail;
    *(rt.tail != NULL ? &rt.tail->next : &rt.head) = r;
    rt.tail = r;
    if (r->client != NULL) {
        r->client->gate = true;
        r->client->held++;
    }
    if (rt.head == r) {
        rt.timer.on_due = on_waiting_due;
        loop_timer(&rt.timer, loop_ms() + REDIS_RETRY_MS);
    }
}

static void waiting_cut(struct req *r)
{
    *(r->prev != NULL ? &r->prev->next : &rt.head) = r->next;
    *(r->next != NULL ? &r->next->prev : &rt.tail) = r->prev;
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
    const struct conf_service *conf = r->service->conf;
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
    struct req *last = rt.tail;
    struct req *r = rt.head;
    uint32_t now = now32();
    while (r != NULL && (int32_t)(r->due_ms - now) <= 0) {
        bool end = r == last;
        waiting_cut(r);
        retry(r);
        r = end ? NULL : rt.head;
    }
    if (rt.head != NULL) {
        int32_t left = (int32_t)(rt.head->due_ms - now);
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
    struct req *w = rt.head;
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
            w = rt.head; /* the answer may have changed the list */
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
    r->asked = (uint16_t)(sent ? b->index + 1 : r->asked);
    if (given && r->fan != NULL) {
        fan_anew(r);
        given = false;
    } else if ((r->flags & REQ_EARLY) && !(r == r->client->head && r->client->halfway)) {
        req_forget_parked(r); /* nothing of it has reached the client */
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
        u->held = backend_is_away(b);
        upstream_dirty(u);
    } else if (!backend_is_down(b) && u->queued > 0) {
        upstream_connect(u);
    }
}

static void on_backend(struct backend *b)
{
    if (b->shared[0] == NULL) {
        upstream_attach(b);
    } else if (b->state == BACKEND_FREE) {
        lease_forget(b, "its node was forgotten");
        upstream_detach(b);
        req_on_owners(b->service);
    } else {
        for (uint32_t i = 0; i < upstream_classes(); i++) {
            on_backend_of(b, b->shared[i]);
        }
    }
    pubsub_on_backend(b);
}

/* One that is held down loses all its connections: what was under way there is lost as with a node that dies, what comes waits for
 * another owner of its slot. One that is drained owns no slots, so nothing goes there anyway. */
static void on_hold(struct backend *b)
{
    static const char why[] = "its node is held down by hand";
    if (b->hold == HELD_DOWN) {
        for (uint32_t i = 0; i < upstream_classes(); i++) {
            if (b->shared[i]->conn != NULL) {
                conn_fail(b->shared[i]->conn, why);
            }
        }
        lease_forget(b, why);
    }
    on_backend(b);
    map_refresh(b->service);
}

/* A backend whose entry may be used again must have no lease and nothing queued. */
static bool in_use(const struct backend *b)
{
    return lease_in_use(b) || upstream_in_use(b);
}

static void count_upstream(const struct upstream *u, const struct backend *b, struct backend_facts *out)
{
    if (u != NULL && u->backend == b) {
        out->connections += u->conn != NULL && u->conn->state == CONN_OPEN;
        out->in_flight += u->queued;
    }
}

static void describe(const struct backend *b, struct backend_facts *out)
{
    const struct upstream *u;
    for (uint32_t i = 0; i < upstream_classes(); i++) {
        count_upstream(b->shared[i], b, out);
    }
    for (uint32_t i = 0; (u = lease_at(i)) != NULL; i++) {
        count_upstream(u, b, out);
    }
}

const struct service_ops redis_service_ops = {
    .talk = &redis_probe_talk,
    .on_map = on_map,
    .on_backend = on_backend,
    .on_hold = on_hold,
    .in_use = in_use,
    .describe = describe,
};

/* ------------------------------------------------- what connections tell */

/* Its client hears that the reply did not come in time. */
static void late(struct req *r, const struct backend *b)
{
    const char *fate = (r->flags & REQ_READONLY) ? "" : "outcome unknown: ";
    stats.late++;
    r->asked = (uint16_t)(b->index + 1);
    if ((r->flags & REQ_READONLY) == 0) {
        stats.outcome_unknown++;
        give_up_earlier(r);
    }
    req_error(r, "ERR %sno answer from %s:%u within %u ms (request_timeout)", fate, b->host, (unsigned)b->port,
              r->service->conf->request_timeout_ms);
}

/* It has run, and its answer will not be known. */
static void too_early(struct req *r)
{
    req_forget_parked(r);
    give_up_earlier(r);
    req_error(r, "ERR executed, but its answer is lost: it came before its turn, was too long to be kept (client_window, chunks), "
              "and others waited behind it (shared_reply_limit)");
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
        in->sent_us = r->sent_us;
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
    .too_early = too_early,
    .refused = refused,
    .nobody = nobody,
    .owner_room = client_resume,
    .lease_free = lease_free,
};

void redis_route_open(void)
{
    upstream_events = &events;
}
