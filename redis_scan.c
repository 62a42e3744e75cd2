/*
 * redis_scan.c - SCAN over all masters, one after the other, without keeping anything between two calls.
 *
 *   client   SCAN cursor ...                      the cursor says all there is to know:
 *     |
 *   phase | gains | node | the node's own cursor
 *     |
 *   PASS      each master that owns slots, in the order of the table
 *   CONFIRM   waits for a map that was asked for after the last of them had answered
 *   GAINED    masters that gained slots since the scan began, in the order in which they did; none left: 0
 *
 * So a key that was there throughout is returned however slots move, unless its slot is half moved while the scan goes
 * by: where a node has the key but not yet the slot, nothing tells that it must be looked at again.
 *
 * service.gains counts the times that some node gained slots, backend.gained is the last of them that was its own. Both
 * are compared within 14 bits: a scan during which slots moved more than 16,000 times may miss keys. A cursor means
 * nothing to another Puerta, or to this one once it has been started again.
 */
#include "redis.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define AT_BITS 37
#define NODE_BITS 10
#define GAINS_BITS 14
#define AT_MAX ((UINT64_C(1) << AT_BITS) - 1)
#define GAINS_MASK ((1u << GAINS_BITS) - 1)
#define NODE_MASK ((1u << NODE_BITS) - 1)
#define LOOK_MS 2           /* how often a scan that waits for the map looks whether it has come */
#define CONFIRM_MS 1000     /* how long it does */
#define PAGE_HEAD 64        /* "*2", and a bulk with a cursor */

enum phase { PASS, CONFIRM, GAINED };

struct cursor {
    enum phase phase;
    uint32_t gains;         /* what was gained up to here has been scanned, or will be in this pass */
    uint16_t node;
    uint64_t at;            /* the node's own; of CONFIRM: since when it waits, in ms */
};

static struct {
    struct req *waiting;
    struct timer timer;
} sc;

static uint64_t number_of(const struct cursor *at)
{
    uint64_t n = (uint64_t)at->phase << GAINS_BITS | (at->gains & GAINS_MASK);
    return (n << NODE_BITS | at->node) << AT_BITS | (at->at & AT_MAX);
}

static struct cursor cursor_of(uint64_t n)
{
    struct cursor at = { .at = n & AT_MAX };
    n >>= AT_BITS;
    at.node = (uint16_t)(n & NODE_MASK);
    n >>= NODE_BITS;
    at.gains = (uint32_t)n & GAINS_MASK;
    at.phase = (enum phase)(n >> GAINS_BITS & 3);
    return at;
}

/* ---------------------------------------------------------- which node next */

static bool owns_slots(const struct service *s, uint32_t i)
{
    const struct backend *b = i < backend_cap() ? backend_at((uint16_t)i) : NULL;
    return b != NULL && b->service == s && b->slots > 0;
}

/* How long after `gains` the node gained slots; negative: it did not. A cursor is never ahead of the service: so its few
 * bits stand for the last such number up to now. */
static int32_t gained_after(const struct service *s, const struct backend *b, uint32_t gains)
{
    uint32_t from = s->gains - ((s->gains - gains) & GAINS_MASK);
    return (int32_t)(b->gained - from);
}

/* The node that gained slots next after what the cursor has seen; false: there is none. */
static bool next_gained(const struct service *s, struct cursor *at)
{
    int32_t best = INT32_MAX;
    uint32_t found = 0;
    for (uint32_t i = 0; i < backend_cap(); i++) {
        int32_t ahead = owns_slots(s, i) ? gained_after(s, backend_at((uint16_t)i), at->gains) : -1;
        bool later = ahead > 0 || (ahead == 0 && at->phase == GAINED && i > at->node);
        if (later && ahead < best) {
            best = ahead;
            found = i;
        }
    }
    if (best == INT32_MAX) {
        return false;
    }
    *at = (struct cursor){ GAINED, backend_at((uint16_t)found)->gained & GAINS_MASK, (uint16_t)found, 0 };
    return true;
}

/* To the first node from `from` on that owns slots, or to the end of the pass: then the caller asks for the map, once
 * its answer is under way. */
static void next_in_pass(const struct service *s, struct cursor *at, uint32_t from)
{
    while (from < backend_cap() && !owns_slots(s, from)) {
        from++;
    }
    at->node = (uint16_t)from;
    at->at = 0;
    if (from >= backend_cap()) {
        /* An answer that is on its way now is not new enough, even if it was asked for in this millisecond. */
        *at = (struct cursor){ CONFIRM, at->gains, 0, loop_ms() + (s->asked != NULL) };
    }
}

/* The node of the cursor has nothing more. False: nor has any other. */
static bool next_node(const struct service *s, struct cursor *at)
{
    if (at->phase == GAINED) {
        return next_gained(s, at);
    }
    next_in_pass(s, at, at->node + 1u);
    return true;
}

/* ------------------------------------------------------------- one page */

/* "*2", the cursor for the next call, and for an empty page the empty array. */
static size_t put_page_head(char *out, uint64_t next, bool empty)
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%" PRIu64, next);
    return (size_t)snprintf(out, PAGE_HEAD, "*2\r\n$%d\r\n%s\r\n%s", n, digits, empty ? "*0\r\n" : "");
}

/* Reads the head of a node's page: its cursor, and how many bytes all that is. 0: no such head. */
static size_t read_page_head(const unsigned char *p, size_t n, uint64_t *next)
{
    size_t at = 5;
    const char *opens = "*2\r\n$";
    int64_t value;
    const unsigned char *end;
    if (n < at || memcmp(p, opens, at) != 0 || (end = memchr(p + at, '\n', n - at)) == NULL) {
        return 0;
    }
    at = (size_t)(end - p) + 1;
    end = memchr(p + at, '\r', n - at);
    if (end == NULL || end + 1 == p + n || !resp_to_int(p + at, (size_t)(end - p) - at, &value) || value < 0) {
        return 0;
    }
    *next = (uint64_t)value;
    return (size_t)(end - p) + 2;
}

/* A node's page: its cursor becomes ours, the keys go on as they are. A page that comes from another node than was meant
 * (one that took over slots of it) is good, but its cursor is not: if the node still has slots it is begun anew; the
 * other has gained some, so its turn comes. */
static bool on_page(struct req *r, const unsigned char *p, size_t n, bool last)
{
    struct cursor at = cursor_of((uint64_t)r->mark << AT_BITS);
    struct service *s = r->service;
    char head[PAGE_HEAD];
    struct iovec parts[2] = { { head, 0 } };
    uint64_t own;
    size_t skip;
    bool other;
    if (r->client == NULL || (n > 0 && reply_is_error(*p))) {
        return req_to_client(r, p, n, last);
    }
    skip = read_page_head(p, n, &own);
    if (skip == 0 || own > AT_MAX) {
        static const char odd[] = "-ERR a node gave a cursor that this proxy cannot carry\r\n";
        return last ? req_to_client(r, (const unsigned char *)odd, sizeof odd - 1, true) : req_wrong_shape(r);
    }
    other = r->upstream->backend->index != at.node;
    at.at = other ? 0 : own;
    if ((other ? !owns_slots(s, at.node) : own == 0) && !next_node(s, &at)) {
        at = (struct cursor){ PASS, 0, 0, 0 };
    }
    parts[0].iov_len = put_page_head(head, number_of(&at), false);
    parts[1] = (struct iovec){ (void *)(uintptr_t)(p + skip), n - skip };
    if (!req_give_parts(r, parts, 2, last)) {
        return false; /* the page comes again, and the map is to be asked for once */
    }
    if (at.phase == CONFIRM) {
        map_ask_now(s);
    }
    if (!last) {
        r->take = req_to_client; /* the rest of a long page */
    }
    return true;
}

/* --------------------------------------------------- waiting for the map */

static bool map_is_newer(const struct service *s, uint64_t since_ms)
{
    return s->conf->single || (s->told_ms & AT_MAX) >= since_ms || (loop_ms() & AT_MAX) - since_ms > CONFIRM_MS;
}

/* The pass is over and the map is new: 0, or the cursor of the first node that gained slots. */
static bool answer_confirmed(struct req *r, struct cursor at)
{
    char head[PAGE_HEAD];
    struct iovec part = { head, 0 };
    uint64_t next = next_gained(r->service, &at) ? number_of(&at) : 0;
    part.iov_len = put_page_head(head, next, true);
    return req_give_parts(r, &part, 1, true);
}

static void on_look(struct timer *t)
{
    struct req **link = &sc.waiting;
    while (*link != NULL) {
        struct req *r = *link, *next = r->next;
        struct cursor at = cursor_of((uint64_t)r->mark << AT_BITS);
        at.at = r->since_ms;
        if (r->client == NULL) {
            req_drop(r, NULL, 0, true);
        } else if (!map_is_newer(r->service, at.at) || !answer_confirmed(r, at)) {
            link = &r->next;
            continue;
        }
        *link = next;
    }
    if (sc.waiting != NULL) {
        loop_timer(t, loop_ms() + LOOK_MS);
    }
}

static enum verdict confirm(struct client *c, const struct request *q, const struct cursor *at)
{
    struct req *r = req_take(c, q->command, req_to_client);
    if (r == NULL) {
        client_starve(c);
        return VERDICT_WAIT;
    }
    r->mark = (uint32_t)(number_of(at) >> AT_BITS);
    r->since_ms = at->at;
    r->state = REQ_WAITING;
    req_enqueue(r);
    req_commit(r);
    r->next = sc.waiting;
    sc.waiting = r;
    sc.timer.on_due = on_look;
    loop_timer(&sc.timer, loop_ms());
    return VERDICT_DONE;
}

/* ------------------------------------------------------------ the request */

static uint16_t slot_of(const struct service *s, uint16_t node)
{
    uint32_t slot = 0;
    while (slot < SLOTMAP_SLOTS - 1 && s->map.owner[slot] != node) {
        slot++;
    }
    return (uint16_t)slot;
}

/* The request with the node's own cursor in the place of ours. */
static bool write_request(struct req *r, struct client *c, const struct request *q, struct backend *b, uint64_t at)
{
    struct pen *pen = &req_upstream(r, b)->pen;
    enum buf_use use = client_use(c);
    char digits[24], bulk[48];
    const struct resp_slice *old = &q->arg[1];
    const unsigned char *rest = q->p + old->off + old->len + 2;
    size_t head = q->arg[0].off + q->arg[0].len + 2u;
    int n = snprintf(digits, sizeof digits, "%" PRIu64, at);
    n = snprintf(bulk, sizeof bulk, "$%d\r\n%s\r\n", n, digits);
    return pen_more(pen, use, q->p, head, &r->bytes) && pen_more(pen, use, bulk, (size_t)n, &r->bytes) &&
           (rest == q->p + q->len || pen_more(pen, use, rest, (size_t)(q->p + q->len - rest), &r->bytes));
}

static enum verdict ask_node(struct client *c, const struct request *q, const struct cursor *at)
{
    struct backend *b = backend_at(at->node);
    struct req *r = req_take(c, q->command, on_page);
    if (r == NULL || !write_request(r, c, q, b, at->at)) {
        if (r != NULL) {
            req_free(r);
        }
        client_starve(c);
        return VERDICT_WAIT;
    }
    r->slot = slot_of(c->service, at->node);
    r->mark = (uint32_t)(number_of(at) >> AT_BITS);
    req_enqueue(r);
    req_commit(r);
    req_send(r, b);
    return VERDICT_DONE;
}

static enum verdict say_line(struct client *c, const char *line)
{
    if (client_answer(c, line, strlen(line))) {
        return VERDICT_DONE;
    }
    client_starve(c);
    return VERDICT_WAIT;
}

enum verdict scan(struct client *c, const struct request *q)
{
    struct service *s = c->service;
    struct cursor at;
    enum phase given;
    enum verdict v;
    int64_t n;
    if (!resp_to_int(q->p + q->arg[1].off, q->arg[1].len, &n) || n < 0) {
        stats.errors_sent++;
        return say_line(c, "-ERR invalid cursor\r\n");
    }
    at = cursor_of((uint64_t)n);
    given = at.phase;
    if (n == 0) {
        at.gains = s->gains;
        next_in_pass(s, &at, 0);
    } else if (at.phase != CONFIRM && !owns_slots(s, at.node) && !next_node(s, &at)) {
        return say_line(c, "*2\r\n$1\r\n0\r\n*0\r\n");
    }
    if (at.phase != CONFIRM) {
        return ask_node(c, q, &at);
    }
    v = confirm(c, q, &at);
    if (v == VERDICT_DONE && given != CONFIRM) {
        map_ask_now(s);
    }
    return v;
}
