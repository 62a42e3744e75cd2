/*
 * redis_own.c - connections that belong to one client each: all that it asks of a node goes over its own.
 *
 *   client.owns    own -> u (node 3) -> u (node 0)      one for each node that it speaks to, dialled when it first does
 *                         |
 *                  a LEASE_OWN of redis_lend.c: pipelined like a shared one, but nobody else's requests are on it
 *
 * A client comes to that by asking for what is a connection's own matter (WAITAOF), or by a login of its own. It is the caller's to see that nothing
 * of it is under way then. What is said on a new one before all else is lease_greetings[LEASE_OWN]. None is handed on to
 * another client: when its own has gone it is closed, as soon as what was sent on it has been answered.
 */
#include "redis.h"

static struct upstream *find(const struct client *c, const struct backend *b, bool ear)
{
    struct upstream *u = c->own;
    while (u != NULL && (u->backend != b || u->ear != ear)) {
        u = u->own_next;
    }
    return u;
}

struct upstream *own_find(const struct client *c, const struct backend *b)
{
    return find(c, b, false);
}

/* One of c's own is to a node that has lost all its slots, and nothing is under way there: it goes. False: there is none. */
static bool drop_useless(struct client *c)
{
    struct upstream *u = c->own;
    while (u != NULL && (u->backend->slots > 0 || u->head != NULL)) {
        u = u->own_next;
    }
    if (u != NULL) {
        c->aside |= c->wrote; /* WAITAOF can tell nothing of it on other connections */
        lease_break(u, "its node has no slots, and its client needs it elsewhere (max_own)");
    }
    return u != NULL;
}

static struct upstream *take(struct client *c, struct backend *b, bool resp3)
{
    struct upstream *u;
    do {
        u = lease_take(b, c, LEASE_OWN, resp3);
    } while (u == NULL && drop_useless(c));
    return u;
}

bool own_ear(struct client *c, struct backend *b)
{
    struct upstream *u = take(c, b, true);
    if (u == NULL) {
        return false;
    }
    u->ear = true;
    own_adopt(c, u);
    return true;
}

struct upstream *own_upstream(struct client *c, struct backend *b)
{
    struct upstream *u = own_find(c, b), *ear;
    bool deaf = c->ears && find(c, b, true) == NULL;
    if (u != NULL) {
        return u;
    }
    if (deaf && !own_ear(c, b)) {
        return NULL;
    }
    u = take(c, b, c->resp3);
    if (u != NULL) {
        own_adopt(c, u);
    } else if (deaf && (ear = find(c, b, true)) != NULL) {
        lease_release(ear); /* it has nothing to listen for */
        lease_break(ear, "no connection is left beside it (max_own)");
    }
    return u;
}

void own_adopt(struct client *c, struct upstream *u)
{
    u->kept = true;
    u->own_next = c->own;
    c->own = u;
}

void own_let_go(struct client *c)
{
    while (c->own != NULL) {
        struct upstream *u = c->own;
        bool ends = u->head == NULL || (u->login_id != 0 && !upstream_ready(u)); /* nobody is left to log it in */
        lease_release(u);
        if (ends) {
            lease_break(u, "its client has gone");
        }
    }
}
