/*
 * redis_redirect.c - what a node's error means for the request that got it: redirects and refusals.
 *
 *   MOVED, ASK            to the node that it names; a script's only where a map points too
 *   TRYAGAIN              again in a moment, until the slot has moved
 *   CLUSTERDOWN and such  again in a moment, until the cluster is whole
 *   NOSCRIPT, no function the node is given it, then once more
 *   all others            are the answer: they are counted, and go on to the client
 *
 * The node has run nothing, which is why another try does no harm. Owns nothing; redis_route.c sends the record on.
 */
#include "redis.h"

#include <string.h>

#define HOPS_UNNAMED 5 /* times that a script is tried again whose error names a node that is in no map */

/* An error reply is told by its first word. */
static bool begins(const unsigned char *p, size_t n, const char *word)
{
    size_t len = strlen(word);
    return n >= len && memcmp(p, word, len) == 0;
}

/* Those words and no more: a function's own error may begin with them. */
static bool says(const unsigned char *p, size_t n, const char *line)
{
    return n == strlen(line) && memcmp(p, line, n) == 0;
}

/* A script can say what it likes, and its words must not make us tell our password to whom it names, nor change the map: it
 * is followed to nodes that a map names, which is asked for. False: they are its own words, as far as can be seen. */
static bool follow_script(struct req *r, struct upstream *u, const struct slotmap_redirect *to)
{
    struct backend *b = to->slot == r->slot ? backend_named(r->service, to->host, to->port, u->backend) : NULL;
    if (to->slot != r->slot || r->hops >= (b != NULL ? REDIS_HOPS_MAX : HOPS_UNNAMED)) {
        return false;
    }
    r->flags &= ~(REQ_ASKING | REQ_ASKED | REQ_VIA_ASK | REQ_TRYAGAIN);
    r->client->gate = true;
    r->hops++;
    map_refresh(r->service);
    if (b == NULL) {
        r->flags |= REQ_UNNAMED;
        r->since_ms = loop_ms();
        r->waits_ms = (r->flags & REQ_TURNED) ? r->waits_ms : (uint32_t)r->since_ms;
        r->flags |= REQ_TURNED;
    }
    if (b == NULL || r->hops > REDIS_HOPS_FAST) {
        req_again(r);
        return true;
    }
    r->flags |= to->ask ? REQ_ASKING : 0;
    *(to->ask ? &stats.redirect_ask : &stats.redirect_moved) += 1;
    stats.resent++;
    req_send(r, b);
    return true;
}

static void follow(struct req *r, struct upstream *u, const struct slotmap_redirect *to)
{
    struct service *s = r->service;
    struct backend *b = backend_get(s, to->host, to->port, u->backend);
    r->flags &= ~(REQ_ASKING | REQ_ASKED | REQ_VIA_ASK | REQ_TRYAGAIN);
    r->client->gate = true;
    if (b == NULL) {
        stats.not_executed++;
        req_error(r, "CLUSTERDOWN not executed: no entry left for node %s:%u (max_backends)", to->host,
                  (unsigned)to->port);
        return;
    }
    if (to->ask) {
        stats.redirect_ask++;
        r->flags |= REQ_ASKING;
    } else {
        stats.redirect_moved++;
        service_set_owner(s, to->slot, b);
        map_refresh(s);
    }
    stats.resent++;
    if (++r->hops <= REDIS_HOPS_FAST || (to->ask && r->hops <= REDIS_HOPS_MAX)) {
        req_send(r, b);
    } else if (r->hops <= REDIS_HOPS_MAX) {
        req_again(r);
    } else {
        stats.not_executed++;
        req_error(r, "TRYAGAIN not executed: slot %u was redirected %u times", (unsigned)to->slot, (unsigned)r->hops);
    }
}

/* A script can answer with any error, and has run then: of one only the servers' own texts count. */
static bool own_words(const struct req *r, const unsigned char *p, size_t n)
{
    static const char *const texts[] = {
        "-TRYAGAIN Multiple keys request during rehashing of slot", "-CLUSTERDOWN The cluster is down",
        "-CLUSTERDOWN Hash slot not served", "-MASTERDOWN Link with MASTER is down", "-LOADING Redis is loading",
        "-LOADING Valkey is loading", "-READONLY You can't write against a read only replica",
    };
    if ((r->flags & REQ_SCRIPT) == 0) {
        return true;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (begins(p, n, texts[i])) {
            return true;
        }
    }
    return false;
}

/* An error reply that its client is to see. */
static void count_error(const struct req *r, const unsigned char *p, size_t n)
{
    const unsigned char *text = *p == '!' ? memchr(p, '\n', n) : p; /* "!21", and in the next line the error */
    if (r->command != NULL && text != NULL) {
        stats_command(r->command)->failed++;
        stats_error((const char *)text, n - 2 - (size_t)(text - p));
    }
}

/* A request that was not kept cannot follow its slot. */
static bool streamed_away(struct req *r, const unsigned char *p, size_t n)
{
    if (begins(p, n, "-MOVED ") || begins(p, n, "-ASK ") || begins(p, n, "-TRYAGAIN")) {
        map_refresh(r->service);
        stats.not_executed++;
        req_error(r, "TRYAGAIN not executed: slot %u moved while a request longer than retain_bytes was sent",
                  (unsigned)r->slot);
        return true;
    }
    if (begins(p, n, "-CROSSSLOT") && (r->command->flags & CMD_SPLIT)) {
        stats.not_executed++;
        req_error(r, "ERR not executed: a request over several slots must not be longer than retain_bytes");
        return true;
    }
    return false;
}

/* It calls what the node has not got, though it can be given that. */
static bool lacks(struct req *r, struct upstream *u, const unsigned char *p, size_t n)
{
    if (says(p, n, "-" FUNCTION_NOT_FOUND "\r\n") && req_function_missing(r, u->backend)) {
        r->waits_ms = (r->flags & REQ_FUNCTION) ? r->waits_ms : (uint32_t)loop_ms();
        r->flags = (r->flags & ~REQ_TRYAGAIN) | REQ_FUNCTION;
        r->hops = 0; /* the copy has a deadline of its own */
        req_again(r);
        return true;
    }
    if (begins(p, n, "-NOSCRIPT No matching script") && !req_later_under_way(r, NULL) &&
        req_script_missing(r, u->backend)) {
        r->client->gate = true;
        r->hops++;
        req_send(r, u->backend);
        return true;
    }
    return false;
}

/* The node cannot run it now, for reasons of its own or of the slot's: which counter counts that; NULL: it is not so. */
static uint64_t *reason_to_wait(struct req *r, struct upstream *u, const unsigned char *p, size_t n)
{
    if (begins(p, n, "-TRYAGAIN")) {
        r->flags |= REQ_TRYAGAIN;
        r->hops = 0; /* it waits for the slot, and request_timeout bounds that */
        return &stats.redirect_tryagain;
    }
    if (begins(p, n, "-CLUSTERDOWN") || begins(p, n, "-MASTERDOWN") || begins(p, n, "-READONLY")) {
        return &stats.redirect_clusterdown;
    }
    if (begins(p, n, "-LOADING")) {
        return &stats.redirect_loading;
    }
    if ((r->flags & REQ_BLOCKS) && begins(p, n, "-UNBLOCKED force unblock")) {
        lease_break(u, "its node is a replica now"); /* which closes it anyway */
        return &stats.redirect_clusterdown;
    }
    return NULL;
}

/* It waits, and is tried again. */
static bool waits(struct req *r, struct upstream *u, const unsigned char *p, size_t n)
{
    uint64_t *counter = own_words(r, p, n) ? reason_to_wait(r, u, p, n) : NULL;
    if (counter == NULL) {
        return false;
    }
    ++*counter;
    if (counter != &stats.redirect_tryagain) {
        if ((r->flags & REQ_TURNED) == 0) {
            r->flags |= REQ_TURNED;
            r->waits_ms = (uint32_t)loop_ms();
        }
        map_refresh(r->service);
    }
    req_again(r);
    return true;
}

static bool redirected(struct req *r, struct upstream *u, const unsigned char *p, size_t n)
{
    struct slotmap_redirect to;
    if ((!begins(p, n, "-MOVED ") && !begins(p, n, "-ASK ")) || !slotmap_redirect(p, n, &to)) {
        return false;
    }
    if (r->flags & REQ_SCRIPT) {
        return follow_script(r, u, &to);
    }
    follow(r, u, &to);
    return true;
}

/* Whether the error reply says that the node did not run the request and another try may. If so r, already out of
 * its queue, has been taken care of. */
static bool turned_away(struct upstream *u, struct req *r, const unsigned char *p, size_t n)
{
    bool away;
    if (r->flags & REQ_BLOCKS) {
        req_blocked_no_more(r);
    }
    if (r->flags & REQ_MULTI) {
        away = multi_refused(r, p, n);
    } else if (r->flags & REQ_STREAMED) {
        return streamed_away(r, p, n);
    } else {
        away = redirected(r, u, p, n) || ((r->flags & REQ_SCRIPT) && lacks(r, u, p, n)) || waits(r, u, p, n);
    }
    if (!away) {
        count_error(r, p, n);
    }
    return away;
}

void redis_redirect_open(void)
{
    req_turned_away = turned_away;
}
