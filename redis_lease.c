/*
 * redis_lease.c - requests that want a connection of their own wait here until there is one.
 *
 *   lease_want(r) --> is it r's turn, and is a lease of its kind free? --yes--> lease_send()
 *                        | no                                                       to the owner of its slot, or to the
 *                        v                                                          node that a redirect named
 *                     waiting[kind]  --- a lease became free, or a tick ---> once more, the oldest first
 *                        `- lease_wait is over: an error that names the option
 *
 * The leases themselves are redis_lend.c's. The kinds wait apart: those that wait to block stand in nobody's way. A lease that
 * a client has been watching on, and been silent, goes to one who waits to WATCH.
 */
#include "redis.h"

#define TICK_MS 50
#define IDLE_MS 1000 /* a WATCH without a request for so long may lose its lease to another client */

struct waiting { struct req *head, *tail; };

static struct {
    struct waiting of[LEASE_KINDS];
    struct timer timer;
} ls;

static const char *const refusals[LEASE_KINDS] = {
    "ERR no connection became free for a long answer within %u ms (max_leases, lease_wait)",
    "ERR not executed: no connection became free for a blocking command within %u ms (max_blocked, lease_wait)",
    "ERR not executed: no connection became free for WATCH within %u ms (max_watching, lease_wait)",
    "ERR not executed: no connection of its own became free for this client within %u ms (max_own, lease_wait)",
};

static void put_before(struct waiting *w, struct req *r, struct req *next)
{
    r->next = next;
    r->prev = next != NULL ? next->prev : w->tail;
    *(r->prev != NULL ? &r->prev->next : &w->head) = r;
    *(next != NULL ? &next->prev : &w->tail) = r;
}

bool (*lease_before_block)(struct req *r);

static void cut(struct waiting *w, struct req *r)
{
    *(r->prev != NULL ? &r->prev->next : &w->head) = r->next;
    *(r->next != NULL ? &r->next->prev : &w->tail) = r->prev;
    r->next = r->prev = NULL;
}

/* Where r is to go: the node that a redirect named, or the owner of its slot now. */
static struct backend *goal(const struct req *r)
{
    return r->to != 0 ? backend_at((uint16_t)(r->to - 1)) : service_owner(r->service, r->slot);
}

/* Before its turn it would hold a lease that others, or its own client, need. */
static bool its_turn(const struct req *r)
{
    return r == r->client->head && (r->lease == LEASE_WATCH || r->client->lease == NULL);
}

void lease_unwatch(struct client *c)
{
    static const char line[] = "*1\r\n$7\r\nUNWATCH\r\n";
    struct upstream *u = c->watch;
    struct req *r;
    c->watch_lost = false;
    if (u == NULL) {
        return;
    }
    if (u->login_id != 0) {
        u->kept = false;
        lease_break(u, "it watches in a client's name"); /* whose user may not be allowed to say UNWATCH */
        return;
    }
    r = req_take(NULL, NULL, req_drop);
    if (r == NULL || !slice_extend(&r->bytes, BUF_REPLY, line, sizeof line - 1)) {
        if (r != NULL) {
            req_free(r);
        }
        u->kept = false;
        lease_break(u, "no room to unwatch");
        return;
    }
    r->service = c->service;
    lease_release(u);
    lease_send(u, r);
}

/* When all leases are taken, one whose client has been idle is taken back. Its EXEC will answer a null. */
static void make_room(void)
{
    struct upstream *u = lease_idle(LEASE_WATCH, IDLE_MS);
    if (u != NULL) {
        struct client *c = u->owner;
        lease_unwatch(c);
        c->watch_lost = true;
    }
}

/* The lease for r. What a client watches is on one connection: if that is to another node than its next WATCH, the slot
 * has moved, and what was watched is not any more. */
static struct upstream *lease_for(struct req *r, struct backend *b)
{
    struct client *c = r->client;
    struct upstream *u;
    if (r->lease == LEASE_WATCH && c->watch != NULL) {
        if (c->watch->backend == b) {
            return c->watch;
        }
        lease_break(c->watch, "its client watches another node");
    }
    u = lease_take(b, c, (enum lease_kind)r->lease, (r->flags & REQ_RESP3) != 0);
    if (u == NULL && r->lease == LEASE_WATCH) {
        make_room();
    }
    if (u != NULL && u->conn == NULL) {
        lease_return(u);
        u = NULL;
    }
    return u;
}

static bool is_away(const struct backend *b)
{
    return b == NULL || backend_is_down(b);
}

static bool try_to_send(struct req *r)
{
    struct backend *b = goal(r);
    struct upstream *u;
    if (is_away(b) || !its_turn(r) || (u = lease_for(r, b)) == NULL) {
        return false;
    }
    if ((r->flags & REQ_BLOCKS) && !lease_before_block(r)) {
        lease_return(u);
        return false;
    }
    r->to = 0;
    r->started_ms = (uint32_t)loop_ms(); /* the wait had a deadline of its own */
    if (r->flags & REQ_MULTI) {
        multi_before(r, b);
    }
    lease_send(u, r);
    return true;
}

/* It has waited long enough: for its node, or for a lease. */
static void refuse(struct req *r, uint32_t limit)
{
    if (is_away(goal(r))) {
        stats.not_executed++;
        req_error(r, "CLUSTERDOWN not executed: no node served slot %u within %u ms: %s", (unsigned)r->slot, limit,
                  r->service->trouble);
    } else {
        stats.lease_refused++;
        req_error(r, refusals[r->lease], limit);
    }
}

static void serve(struct waiting *w)
{
    uint32_t now = (uint32_t)loop_ms();
    for (struct req *r = w->head, *next; r != NULL; r = next) {
        const struct conf_service *conf = r->service->conf;
        uint32_t limit = is_away(goal(r)) ? conf->failover_wait_ms : conf->lease_wait_ms;
        next = r->next;
        if (req_is_moot(r)) {
            cut(w, r);
            req_silence(r);
            next = w->head;
        } else if (!its_turn(r)) {
            r->waits_ms = now; /* the wait is its client's own */
        } else if (now - r->waits_ms >= limit) {
            cut(w, r);
            refuse(r, limit);
            next = w->head;
        } else {
            cut(w, r);
            if (!try_to_send(r)) {
                put_before(w, r, next); /* its place again */
            }
        }
    }
}

static void on_tick(struct timer *t)
{
    bool some = false;
    for (int kind = 0; kind < LEASE_KINDS; kind++) {
        serve(&ls.of[kind]);
        some = some || ls.of[kind].head != NULL;
    }
    if (some) {
        loop_timer(t, loop_ms() + TICK_MS);
    }
}

static void on_free(void)
{
    for (int kind = 0; kind < LEASE_KINDS; kind++) {
        if (ls.of[kind].head != NULL) {
            loop_timer(&ls.timer, loop_ms());
        }
    }
}

void lease_want(struct req *r, struct backend *b)
{
    struct waiting *w = &ls.of[r->lease];
    if (req_is_moot(r)) {
        req_silence(r);
        return;
    }
    r->to = b != NULL && (r->flags & REQ_ASKING) ? (uint16_t)(b->index + 1u) : 0; /* else the owner may change meanwhile */
    if (w->head == NULL && try_to_send(r)) {
        return;
    }
    r->state = REQ_LEASING;
    if ((r->flags & REQ_TURNED) == 0) {
        r->waits_ms = (uint32_t)loop_ms(); /* else it has waited for its node already, and goes on with that */
    }
    put_before(w, r, NULL);
    stats.lease_waits++;
    if (ls.timer.next == NULL) {
        loop_timer(&ls.timer, loop_ms() + TICK_MS);
    }
}

void lease_want_not(struct req *r)
{
    cut(&ls.of[r->lease], r);
}

void redis_lease_open(void)
{
    ls.timer.on_due = on_tick;
    lease_on_free = on_free;
    req_on_lease = lease_want;
}
