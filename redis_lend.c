/*
 * redis_lend.c - the table of leases: which are free, who has which, and how they come back.
 *
 *   all    [ transfer .. | block ..... | watch ... | own ......... ]      each kind has its own part, so none starves another
 *               |  lease_take: a free one, best with a connection to the same node, in the same protocol and name
 *               v
 *            owner  <- client.lease, .watch, or one of its list .own
 *               |  lease_return, lease_release; on_done: its last request has been answered; on_lost: its connection has gone
 *               v
 *            free, its connection left open for the next one who wants that node
 *
 * Who has to wait for a lease does so in redis_lease.c. What is said over one, and when it is lost, is redis_upstream.c's matter as
 * with any connection to a node.
 */
#include "redis.h"
#include "trace.h"

#define SESSION_BUFFER_MIN 4096 /* receive buffer of a lease that is not for long transfers; longer answers pass through it */

static struct {
    struct upstream *all;
    uint32_t count;
    uint32_t begin[LEASE_KINDS + 1]; /* of each kind, in `all` */
} ln;

void redis_lend_tables(const struct conf *conf)
{
    const uint32_t most[LEASE_KINDS] = { conf->max_leases, conf->max_blocked, conf->max_watching, conf->max_own };
    size_t size = conf->upstream_buffer / 8 > SESSION_BUFFER_MIN ? conf->upstream_buffer / 8 : SESSION_BUFFER_MIN;
    unsigned char *large, *small;
    ln.count = (uint32_t)conf_leases(conf);
    ln.all = arena_take("leases", ln.count, sizeof *ln.all);
    large = arena_take("transfer buffers", conf->max_leases, conf->upstream_buffer);
    small = arena_take("session buffers", ln.count - conf->max_leases, size);
    if (ln.all == NULL) {
        return;
    }
    upstream_buffers(ln.all, conf->max_leases, large, conf->upstream_buffer);
    upstream_buffers(ln.all + conf->max_leases, ln.count - conf->max_leases, small, size);
    for (uint32_t kind = 0, at = 0; kind < LEASE_KINDS; kind++) {
        ln.begin[kind] = at;
        for (uint32_t n = most[kind]; n > 0; n--, at++) {
            ln.all[at].leased = true;
            ln.all[at].kind = (uint8_t)kind;
        }
        ln.begin[kind + 1] = at;
    }
}

/* A lease is its client's no more. */
static void disown(struct upstream *u)
{
    if (u->owner != NULL && u->kind == LEASE_WATCH) {
        u->owner->watch = NULL;
        u->owner->watch_lost = u->owner->watch_lost || u->kept;
    } else if (u->owner != NULL && u->kind == LEASE_OWN) {
        struct upstream **link = &u->owner->own;
        while (*link != NULL && *link != u) {
            link = &(*link)->own_next;
        }
        *link = *link != NULL ? u->own_next : NULL;
    } else if (u->owner != NULL) {
        u->owner->lease = NULL;
    }
    if (u->owner != NULL) {
        gauge_down(&gauges.leases);
    }
    u->owner = NULL;
    u->kept = false;
    pen_close(&u->pen); /* unlike a shared one's, its rest may stay unused for ever */
}

static bool is_free(const struct upstream *u)
{
    return u->owner == NULL && u->head == NULL && !u->dropping && u->pinned == 0;
}

struct upstream *lease_take(struct backend *b, struct client *c, enum lease_kind kind, bool resp3)
{
    struct upstream *found = NULL;
    uint64_t login_id = c != NULL ? c->login_id : 0;
    for (uint32_t i = ln.begin[kind]; i < ln.begin[kind + 1]; i++) {
        struct upstream *u = &ln.all[i];
        if (!is_free(u)) {
            continue;
        }
        if (u->conn != NULL && u->backend == b && u->resp3 == resp3 && u->login_id == login_id) {
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
    if (found->conn != NULL && (found->backend != b || found->resp3 != resp3 || found->login_id != login_id)) {
        upstream_close(found);
    }
    found->backend = b;
    found->resp3 = resp3;
    found->login_id = login_id;
    found->ear = false;
    found->node_id = found->conn != NULL ? found->node_id : 0;
    found->owner = c;
    if (c != NULL) {
        gauge_up(&gauges.leases);
    }
    found->held = false;
    if (c != NULL && kind != LEASE_OWN) {
        *(kind == LEASE_WATCH ? &c->watch : &c->lease) = found;
    }
    upstream_connect(found);
    return found;
}

struct upstream *lease_at(uint32_t i)
{
    return i < ln.count ? &ln.all[i] : NULL;
}

uint32_t lease_index(const struct upstream *u)
{
    return (uint32_t)(u - ln.all);
}

bool lease_free_of(enum lease_kind kind)
{
    for (uint32_t i = ln.begin[kind]; i < ln.begin[kind + 1]; i++) {
        if (is_free(&ln.all[i])) {
            return true;
        }
    }
    return false;
}

struct upstream *lease_idle(enum lease_kind kind, uint64_t ms)
{
    struct upstream *longest = NULL;
    for (uint32_t i = ln.begin[kind]; i < ln.begin[kind + 1]; i++) {
        struct upstream *u = &ln.all[i];
        uint64_t since = u->owner != NULL && u->head == NULL ? u->owner->conn->watch.active_ms : UINT64_MAX;
        if (since != UINT64_MAX && since + ms <= loop_ms() &&
            (longest == NULL || since < longest->owner->conn->watch.active_ms)) {
            longest = u;
        }
    }
    return longest;
}

void lease_return(struct upstream *u)
{
    struct client *owner = u->owner;
    u->kept = false;
    disown(u);
    if (owner != NULL && owner->paused) {
        upstream_events->owner_room(owner);
    }
    upstream_events->lease_free();
}

void lease_release(struct upstream *u)
{
    u->kept = false;
    disown(u);
}

/* Ends a lease in whatever state it is: what is half said on the connection cannot be said on for anybody else. */
void lease_send(struct upstream *u, struct req *r)
{
    upstream_put(u, r);
    if (u->conn == NULL) {
        upstream_connect(u);
    } else {
        upstream_dirty(u);
    }
}

void lease_sent(struct upstream *u)
{
    must(u->unsent == u->head);
    u->unsent = NULL;
    u->progress_ms = loop_ms();
    if (u->head != NULL) {
        u->head->started_ms = (uint32_t)loop_ms();
        u->head->sent_us = trace_stamp();
    }
}

static void on_done(struct upstream *u)
{
    if (u->kind == LEASE_OWN) {
        lease_break(u, "its client has gone");
    } else {
        lease_return(u);
    }
}

bool lease_in_use(const struct backend *b)
{
    for (uint32_t i = 0; i < ln.count; i++) {
        if (ln.all[i].backend == b && ln.all[i].owner != NULL) {
            return true;
        }
    }
    return false;
}

void lease_forget(const struct backend *b, const char *why)
{
    for (uint32_t i = 0; i < ln.count; i++) {
        if (ln.all[i].backend == b && ln.all[i].conn != NULL) {
            lease_break(&ln.all[i], why);
        }
    }
}

void redis_lend_open(void)
{
    gauges.leases.most = ln.count;
    lease_on_done = on_done;
    lease_on_lost = disown;
}
