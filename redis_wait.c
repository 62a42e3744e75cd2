/*
 * redis_wait.c - WAIT and WAITAOF: how many replicas have what this client has written.
 *
 *   client.wrote    the nodes that it has sent writes to, over whatever connection
 *        |
 *   WAIT n ms   an errand to each: INFO replication. The first tells how far the node's stream has come (all writes of this
 *        |      client have been answered, so they are in it), the later ones how far each replica has confirmed it
 *        |      ^ again after 1, 2, 4 ... 64 ms          and once, on a lease: WAIT, which makes the replicas confirm at once
 *        v
 *      the least of the nodes' numbers, as soon as each has n or the time is over
 *
 *   WAITAOF     the same errands, but WAITAOF itself, in slices, on the connection that carried the writes: only there the
 *               node knows what is meant. From then on the client has connections of its own (redis_own.c), so that it is
 *               the shared ones only once that take nothing else for a slice
 *
 * WAIT on a shared connection would hold up everybody behind it, and on a fresh one newer servers take it to mean no write
 * at all. INFO tells the same numbers, of all writes, and stops nobody. If a node has been lost since, or is a master no
 * more, nothing is promised: an error says so.
 */
#include "redis.h"

#include <stdio.h>
#include <string.h>

#define PAUSE_MAX 6         /* doublings of the pause between two questions: 64 ms */
#define SLICE_SHARED_MS 20  /* WAITAOF: so long a shared connection takes nothing else */
#define SLICE_OWN_MS 500
#define LINE_CAP 160

static const char info_line[] = "*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n";
static const char prod_line[] = "*3\r\n$4\r\nWAIT\r\n$10\r\n2147483647\r\n$1\r\n1\r\n";

/* The request w: `mark` errands under way, `since_ms` its end (0: none), `ahead` and `part` the replicas and the local copies
 * it asks for; `due_ms` and `to` the least of both so far.
 * An errand e, for e->whom: to node `to` - 1; `since_ms` the offset to be confirmed, `ahead` and `part` the most that has been
 * confirmed, `mark` how often it has asked. */
static struct {
    struct req *all;      /* errands, by client_next */
    struct req *paused;   /* of them, those that wait to ask again, by next */
    struct timer timer;
    uint64_t wakes_ms;
} wt;

static bool is_aof(const struct req *w)
{
    return w->command->name[4] != '\0';
}

/* --------------------------------------------------------------- the answer */

/* No errand speaks for w any more. */
void wait_take_back(struct req *w)
{
    for (struct req *e = wt.all; e != NULL; e = e->client_next) {
        e->whom = e->whom == w ? NULL : e->whom;
    }
}

static void answer(struct req *w)
{
    char line[LINE_CAP];
    int n = is_aof(w) ? snprintf(line, sizeof line, "*2\r\n:%u\r\n:%u\r\n", (unsigned)w->to, (unsigned)w->due_ms)
                      : snprintf(line, sizeof line, ":%u\r\n", (unsigned)w->due_ms);
    wait_take_back(w);
    if (w->client != NULL && w->client->wrote != 0 && !is_aof(w)) {
        w->client->confirmed = w->due_ms;
        w->client->unsure = 0;
    }
    req_answer(w, line, (size_t)n);
}

static void least(struct req *w, const struct req *e)
{
    w->due_ms = e->ahead < w->due_ms ? e->ahead : w->due_ms;
    w->to = e->part < w->to ? e->part : w->to;
}

void wait_end(struct req *w)
{
    for (const struct req *e = wt.all; e != NULL; e = e->client_next) {
        if (e->whom == w) {
            least(w, e);
        }
    }
    answer(w);
}

static bool on_answer(struct req *w, const unsigned char *p, size_t n, bool last)
{
    struct client *c = w->client;
    if (!req_to_client(w, p, n, last)) {
        return false;
    }
    if (c != NULL) {
        c->block = NULL;
        client_resume(c);
    }
    return true;
}

/* What it has written is not vouched for any more; it has been told so. */
static void fail(struct req *w, const char *line, size_t n)
{
    wait_take_back(w);
    if (w->client != NULL) {
        w->client->wrote = w->client->aside = w->client->unsure = 0;
    }
    req_answer(w, line, n);
}

static void fail_lost(struct req *w, const struct backend *b, const char *why)
{
    char line[LINE_CAP + HOST_CAP];
    char name[HOST_CAP + 8];
    int n = snprintf(line, sizeof line, "-ERR %s cannot tell: %s, which this client has written to, %s\r\n",
                     is_aof(w) ? "WAITAOF" : "WAIT", b != NULL ? backend_name(b, name) : "a node", why);
    stats_error(line, (size_t)n - 2);
    fail(w, line, (size_t)n);
}

/* ---------------------------------------------------------- what a node says */

static void errand_end(struct req *e)
{
    struct req **link = &wt.all, *w = e->whom;
    while (*link != e) {
        link = &(*link)->client_next;
    }
    *link = e->client_next;
    e->whom = NULL;
    if (w != NULL) {
        least(w, e);
        if (--w->mark == 0) {
            answer(w);
        }
    }
    req_free(e);
}

/* The replicas of b are made to confirm at once; without a lease they do so each second. */
static void prod(struct backend *b)
{
    struct upstream *u = lease_take(b, NULL, LEASE_TRANSFER, false);
    struct req *r = u != NULL && u->conn != NULL ? req_take(NULL, NULL, req_drop) : NULL;
    if (r == NULL || !pen_write(&u->pen, BUF_REPLY, prod_line, sizeof prod_line - 1, &r->bytes)) {
        if (r != NULL) {
            req_free(r);
        }
        if (u != NULL) {
            lease_return(u);
        }
        return;
    }
    r->service = b->service;
    lease_send(u, r);
}

/* WAIT: false if the node cannot know. */
static bool read_info(struct req *e, const unsigned char *p, size_t n)
{
    struct backend *b = backend_at((uint16_t)(e->to - 1));
    uint32_t count;
    uint64_t offset;
    bool first = e->since_ms == 0;
    if (!replica_offset(p, n, &offset)) {
        return false;
    }
    e->since_ms = first ? offset : e->since_ms;
    count = replica_confirmed(p, n, e->since_ms);
    e->ahead = count > e->ahead ? count : e->ahead;
    if (first && count < e->whom->ahead) {
        prod(b);
    }
    return true;
}

/* WAITAOF: two numbers. */
static bool read_pair(struct req *e, const unsigned char *p, size_t n)
{
    uint64_t local, replicas;
    if (!replica_pair(p, n, &local, &replicas)) {
        return false;
    }
    e->part = local > e->part ? (uint16_t)local : e->part;
    e->ahead = replicas > e->ahead ? (uint32_t)replicas : e->ahead;
    return true;
}

static void wake_at(uint64_t due_ms)
{
    if (wt.timer.next == NULL || due_ms < wt.wakes_ms) {
        wt.wakes_ms = due_ms;
        loop_timer(&wt.timer, due_ms);
    }
}

static void rest(struct req *e, uint32_t ms)
{
    e->state = REQ_WAITING;
    e->due_ms = (uint32_t)loop_ms() + ms;
    e->next = wt.paused;
    wt.paused = e;
    wake_at(loop_ms() + ms);
}

static bool on_told(struct req *e, const unsigned char *p, size_t n, bool last)
{
    struct req *w = e->whom;
    const struct backend *b = backend_at((uint16_t)(e->to - 1));
    uint64_t now = loop_ms();
    if (!last) {
        return true;
    }
    if (w == NULL || w->client == NULL) {
        errand_end(e);
    } else if (n == 0) {
        fail_lost(w, b, "has been lost");
        errand_end(e);
    } else if (*p == '-') {
        stats_error((const char *)p, n - 2);
        fail(w, (const char *)p, n);
        errand_end(e);
    } else if (!(is_aof(w) ? read_pair : read_info)(e, p, n)) {
        fail_lost(w, b, "is a master no more");
        errand_end(e);
    } else if ((e->ahead >= w->ahead && e->part >= w->part) || (w->since_ms != 0 && now >= w->since_ms)) {
        errand_end(e);
    } else {
        uint64_t left = w->since_ms == 0 ? UINT64_MAX : w->since_ms - now;
        uint32_t ms = is_aof(w) ? SLICE_SHARED_MS : 1u << (e->mark < PAUSE_MAX ? e->mark : PAUSE_MAX);
        e->mark++;
        rest(e, is_aof(w) && own_find(w->client, b) != NULL ? 0 : ms < left ? ms : (uint32_t)left);
    }
    return true;
}

/* ------------------------------------------------------------- what is asked */

static bool write_question(struct req *e, bool own)
{
    const struct req *w = e->whom;
    struct pen *pen = &backend_at((uint16_t)(e->to - 1))->shared[0]->pen;
    uint64_t now = loop_ms(), slice = own ? SLICE_OWN_MS : SLICE_SHARED_MS;
    char line[LINE_CAP], digits[16];
    int n;
    if (!is_aof(w)) {
        return e->bytes.len > 0 || pen_write(pen, BUF_REPLY, info_line, sizeof info_line - 1, &e->bytes);
    }
    slice = w->since_ms == 0 || w->since_ms - now > slice ? slice : w->since_ms > now ? w->since_ms - now : 1;
    slice_release(&e->bytes);
    n = snprintf(digits, sizeof digits, "%u", (unsigned)w->ahead);
    n = snprintf(line, sizeof line, "*4\r\n$7\r\nWAITAOF\r\n$1\r\n%u\r\n$%d\r\n%s\r\n$%d\r\n%u\r\n", (unsigned)w->part, n,
                 digits, slice > 99 ? 3 : slice > 9 ? 2 : 1, (unsigned)slice);
    return pen_write(pen, BUF_REPLY, line, (size_t)n, &e->bytes);
}

/* Whether it cannot vouch for what c has written there. */
static bool is_lost(const struct client *c, const struct backend *b)
{
    bool lost = false;
    for (uint32_t i = 0; i < upstream_classes(); i++) {
        lost = lost || b->shared[i]->lost_ms >= c->wrote_ms;
    }
    return c->wrote != 0 && lost;
}

static void ask(struct req *e)
{
    struct backend *b = backend_at((uint16_t)(e->to - 1));
    struct req *w = e->whom;
    struct upstream *u;
    if (w == NULL || w->client == NULL) {
        errand_end(e);
        return;
    }
    if (b == NULL || is_lost(w->client, b)) {
        fail_lost(w, b, "has been lost");
        errand_end(e);
        return;
    }
    u = is_aof(w) ? own_find(w->client, b) : NULL;
    u = u != NULL ? u : b->shared[is_aof(w) && w->client->resp3];
    if (!write_question(e, u->leased)) {
        rest(e, 1u << PAUSE_MAX);
        return;
    }
    upstream_put(u, e);
    if (u->conn == NULL) {
        upstream_connect(u);
    } else {
        upstream_dirty(u);
    }
}

static void on_tick(struct timer *t)
{
    struct req *list = wt.paused;
    uint32_t now = (uint32_t)loop_ms();
    (void)t;
    wt.paused = NULL;
    while (list != NULL) {
        struct req *e = list;
        int32_t left = (int32_t)(e->due_ms - now);
        list = e->next;
        if (left <= 0) {
            ask(e);
        } else {
            rest(e, (uint32_t)left);
        }
    }
}

/* --------------------------------------------------------------- the request */

static bool number(const struct request *q, uint32_t i, int64_t *out)
{
    return resp_to_int(q->p + q->arg[i].off, q->arg[i].len, out);
}

bool wait_is_sound(const struct request *q)
{
    int64_t a, b, ms;
    if (q->argc != (uint32_t)q->command->arity || !number(q, 1, &a) || !number(q, 2, &b)) {
        return false;
    }
    return q->argc == 3 ? b >= 0 : number(q, 3, &ms) && ms >= 0 && a >= 0 && a <= 1 && b >= 0;
}

/* The next node from *i on that its client has written to. The mask has a bit for 64 of them. */
static struct backend *next_written(const struct client *c, uint64_t mask, uint16_t *i)
{
    while (*i < backend_cap()) {
        struct backend *b = backend_at((*i)++);
        if (b != NULL && b->shared[0] != NULL && b->service == c->service && (mask >> (b->index & 63) & 1) != 0) {
            return b;
        }
    }
    return NULL;
}

/* A new errand to b, first in the list. */
static bool add_errand(struct req *w, const struct backend *b, uint64_t target)
{
    struct req *e = req_take(NULL, NULL, on_told);
    if (e == NULL) {
        return false;
    }
    e->service = w->service;
    e->whom = w;
    e->to = (uint16_t)(b->index + 1u);
    e->since_ms = target;
    e->client_next = wt.all;
    wt.all = e;
    w->mark++;
    return true;
}

/* Errands to all nodes that it has written to; to any if there is none: any offset is confirmed then. */
static bool add_errands(struct req *w)
{
    struct client *c = w->client;
    bool known = !is_aof(w) && c->confirmed >= w->ahead;
    uint64_t mask = known ? c->unsure : c->wrote;
    struct backend *b;
    uint16_t at = 0, slot = 0;
    if (next_written(c, c->wrote, &at) == NULL) {
        while ((b = service_owner(c->service, slot)) == NULL) {
            slot++;
        }
        return add_errand(w, b, 1);
    }
    at = 0;
    if (known && mask != c->wrote) {
        w->due_ms = c->confirmed;
    }
    while ((b = next_written(c, mask, &at)) != NULL) {
        if (!add_errand(w, b, 0)) {
            return false;
        }
        wt.all->ahead = is_aof(w) || (c->unsure >> (b->index & 63) & 1) != 0 ? 0 : c->confirmed;
    }
    return true;
}

/* A node that cannot vouch for what this client has written there; NULL: there is none. */
static const struct backend *lost_since(const struct client *c)
{
    uint16_t at = 0;
    const struct backend *b;
    while ((b = next_written(c, c->wrote, &at)) != NULL && !is_lost(c, b)) {
    }
    return b;
}

static struct req *make(struct client *c, const struct request *q)
{
    struct req *w = req_take(c, q->command, on_answer);
    int64_t a = 0, b = 0, ms = 0;
    bool aof = q->argc == 4;
    if (w == NULL) {
        return NULL;
    }
    must(number(q, 1, &a) && number(q, 2, &b) && number(q, aof ? 3 : 2, &ms));
    a = aof ? b : a;
    w->ahead = a < 0 ? 0 : a < UINT32_MAX ? (uint32_t)a : UINT32_MAX;
    must(number(q, 1, &a));
    w->part = aof ? (uint16_t)a : 0;
    w->since_ms = ms > 0 ? loop_ms() + (uint64_t)ms : 0;
    w->due_ms = UINT32_MAX;
    w->to = UINT16_MAX;
    w->state = REQ_PARTS;
    if (!add_errands(w)) {
        wait_take_back(w);
        while (wt.all != NULL && wt.all->whom == NULL && wt.all->state == REQ_FREE) {
            errand_end(wt.all);
        }
        req_free(w);
        return NULL;
    }
    return w;
}

enum verdict wait_command(struct client *c, const struct request *q)
{
    const struct backend *lost;
    struct req *w;
    bool aof = q->argc == 4;
    if (c->unsettled > 0) {
        return VERDICT_WAIT; /* what it has written must have been answered */
    }
    if (c->service->map.served == 0) {
        stats.not_executed++;
        return client_said(c, client_error(c, "CLUSTERDOWN not executed: no cluster map yet: %s", c->service->trouble));
    }
    if (aof && c->aside != 0) {
        return client_said(c, client_error(c, "ERR WAITAOF cannot tell: a write of this client ran on a connection of its kind "
                                           "(WATCH, blocking, longer than retain_bytes), and none there since"));
    }
    w = make(c, q);
    if (w == NULL) {
        return client_said(c, false);
    }
    c->block = w;
    c->owns = c->owns || aof;
    req_enqueue(w);
    req_commit(w);
    lost = lost_since(c);
    if (lost != NULL) {
        fail_lost(w, lost, "has been lost");
    } else if (w->mark == 0) {
        answer(w);
    }
    for (struct req *e = wt.all, *next; e != NULL; e = next) {
        next = e->client_next;
        if (e->state == REQ_FREE) {
            ask(e);
        }
    }
    return VERDICT_DONE;
}

void redis_wait_open(void)
{
    wt.timer.on_due = on_tick;
}
