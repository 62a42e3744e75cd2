/*
 * mongo_pool.c - pooled mode: the connections to each mongos, lent for one exchange at a time.
 *
 *   pool_take ---> idle? ------------------------------------> LENT --pool_return--> idle, or to the first in line
 *       |            `- room? -> dialled -> mongo_login -> idle   |--pool_end-----> ENDING: what is left of the exchange
 *       `-- waits in line of that mongos, or of the section        `--pool_drop----> closed
 *                              (no mongos is up)
 *
 *   pools[backend]   idle: newest first, so that those beyond what is needed grow old and are closed
 *                    line: first come, first served; its length is bounded for the section (pool_queue)
 *
 * Owns the connections. Each has at most one exchange on it; what is idle says nothing, and one that does is closed. Those
 * who hold or wait are told by pool_ops.
 */
#include "mongo.h"

#include <stdio.h>
#include <string.h>

#define CARE_MS 1000            /* how often idle ones are looked after */
#define MOVE_MS 50              /* who waits for what will not come is told so soon: not at once, for the next one may be no better */
#define AGAIN_MS 200            /* a dial behind one that failed, at first; doubled with each up to */
#define AGAIN_MAX_MS 2000
#define ENDING_MS 5000          /* what is left of an exchange whose client has gone may take this long */
#define HELD_IDLE_MS 1000       /* one to a mongos that is drained by hand is kept so long for what goes on there */

struct line { struct pool_waiter *first, *last; uint32_t length; };

struct pool {
    struct pool_link *idle;     /* the one used last comes first */
    struct line line;
    uint32_t total, dialing;    /* connections; those of them that are not ready yet */
    uint32_t failures;          /* dials in a row */
    uint64_t again_ms;          /* after a failure: no dial before */
    uint64_t renewed_ms;        /* what is older has another login than it would have now */
    bool moves;                 /* those who wait are to go elsewhere: told by the timer, never to one who has just come */
};

static struct {
    const struct pool_ops *ops;
    struct pool *pools;         /* by the index of the mongos */
    struct pool_link *links, *free;
    size_t count, wanted;       /* how many there are; how many all pools together would have by pool_max */
    struct { struct service *service; struct line line; uint32_t waiting; } sections[MAX_SERVICES];
    struct timer care;
} pl;

static unsigned char scratch[16384];

void pool_tables(const struct conf *conf)
{
    pl.count = pl.wanted = conf_pooled(conf);
    pl.links = arena_take("pooled connections", pl.count, sizeof *pl.links);
    pl.pools = arena_take("pools", pl.count > 0 ? conf->max_backends : 0, sizeof *pl.pools);
}

static struct pool *pool_of(const struct backend *b)
{
    return &pl.pools[b->index];
}

static const struct conf_service *conf_of(const struct backend *b)
{
    return b->service->conf;
}

/* How many connections it may have. A reload may ask for more, or for more mongos, than there were tables for at the start: then all get
 * their share. */
static uint32_t most_of(const struct backend *b)
{
    uint64_t most = conf_of(b)->pool_max;
    if (pl.wanted > pl.count) {
        most = most * pl.count / pl.wanted;
    }
    return most > 0 ? (uint32_t)most : 1;
}

/* ------------------------------------------------------------- who waits */

static void stand_in_line(struct line *l, struct pool_waiter *w)
{
    w->next = NULL;
    w->prev = l->last;
    *(l->last != NULL ? &l->last->next : &l->first) = w;
    l->last = w;
    l->length++;
}

static void leave_line(struct line *l, struct pool_waiter *w)
{
    *(w->prev != NULL ? &w->prev->next : &l->first) = w->next;
    *(w->next != NULL ? &w->next->prev : &l->last) = w->prev;
    w->next = w->prev = NULL;
    l->length--;
}

/* The section's place: there are few. */
static int section_of(struct service *s)
{
    int i = 0;
    while (pl.sections[i].service != s && pl.sections[i].service != NULL) {
        i++;
    }
    pl.sections[i].service = s;
    return i;
}

bool pool_has_room(const struct backend *b)
{
    const struct pool *p = pool_of(b);
    uint32_t most = most_of(b), there = p->total - p->dialing, more = most > there ? most - there : 0;
    return p->idle != NULL || (loop_ms() >= p->again_ms && p->line.length < more);
}

/* Who waits for no more than a dial is not one of those whom pool_queue bounds: with none of them a pool would never grow. */
static bool wait_for(struct pool_waiter *w, struct service *s, struct backend *b, bool pinned)
{
    int i = section_of(s);
    bool dialled = b != NULL && b->state == BACKEND_UP && pool_has_room(b);
    if (!dialled && pl.sections[i].waiting >= s->conf->pool_queue) {
        stats.pool_full++;
        return false;
    }
    pl.sections[i].waiting++;
    gauge_up(&gauges.pool_waiters);
    stats.pool_waits++;
    w->service = s;
    w->backend = b;
    w->pinned = pinned;
    w->waits = true;
    stand_in_line(b != NULL ? &pool_of(b)->line : &pl.sections[i].line, w);
    return true;
}

void pool_leave(struct pool_waiter *w)
{
    int i;
    if (!w->waits) {
        return;
    }
    i = section_of(w->service);
    w->waits = false;
    pl.sections[i].waiting--;
    gauge_down(&gauges.pool_waiters);
    leave_line(w->backend != NULL ? &pool_of(w->backend)->line : &pl.sections[i].line, w);
}

bool pool_await(struct pool_waiter *w, struct service *s)
{
    return wait_for(w, s, NULL, false);
}

/* All of a line, or all of it that may go elsewhere, are to look for another mongos. Those who come back to the same line
 * stand behind the last of now. */
static void line_moves(struct line *l, bool pinned_too, const struct backend *refused)
{
    struct pool_waiter *w = l->first, *last = l->last, *next;
    bool more = w != NULL;
    for (; more; w = next) {
        next = w->next;
        more = w != last && next != NULL;
        if (pinned_too || !w->pinned) {
            pool_leave(w);
            pl.ops->on_moved(w, refused);
        }
    }
}

/* -------------------------------------------------------- one connection */

static void idle_put(struct pool *p, struct pool_link *l)
{
    l->prev = NULL;
    l->next = p->idle;
    if (p->idle != NULL) {
        p->idle->prev = l;
    }
    p->idle = l;
    l->state = LINK_IDLE;
    l->idle_ms = loop_ms();
}

static void idle_take(struct pool *p, struct pool_link *l)
{
    *(l->prev != NULL ? &l->prev->next : &p->idle) = l->next;
    if (l->next != NULL) {
        l->next->prev = l->prev;
    }
    l->next = l->prev = NULL;
}

static void lend(struct pool_link *l, struct pool_waiter *w)
{
    l->state = LINK_LENT;
    l->holder = w;
    l->unanswered = false;
    mongos_of(l->backend)->connections++;
    stats.pool_lent++;
    wire_start(&l->answer, true);
}

/* It is no link any more; its connection is gone, or goes now. */
static void link_forget(struct pool_link *l)
{
    struct pool *p = pool_of(l->backend);
    if (l->state == LINK_IDLE) {
        idle_take(p, l);
    } else if (l->state == LINK_LENT || l->state == LINK_ENDING) {
        mongos_of(l->backend)->connections--;
    } else if (l->state != LINK_CLEAN) {
        p->dialing--;
        mongo_login_stop(&l->login);
    }
    p->total--;
    gauge_down(&gauges.pool_links);
    l->state = LINK_FREE;
    l->conn = NULL;
    l->next = pl.free;
    pl.free = l;
}

static void link_close(struct pool_link *l)
{
    conn_close(l->conn);
    link_forget(l);
}

/* A mongos that is shutting down takes no new ones: what is open there has those that are left. */
static bool may_age(const struct backend *b)
{
    return b->state == BACKEND_UP;
}

static bool is_old(const struct pool_link *l)
{
    uint32_t life = conf_of(l->backend)->pool_life_ms;
    bool old = (life > 0 && loop_ms() - l->born_ms >= life) || l->born_ms < pool_of(l->backend)->renewed_ms;
    return old && may_age(l->backend);
}

static void dial_more(struct backend *b);

/* A connection that nothing is left on: to the first in line, or idle. */
static void link_ready(struct pool_link *l)
{
    struct backend *b = l->backend;
    struct pool *p = pool_of(b);
    struct pool_waiter *w = p->line.first;
    if (is_old(l) || !mongos_works(b)) {
        link_close(l);
        dial_more(b);
    } else if (p->total > most_of(b)) {
        link_close(l); /* another one's from the next turn on */
        loop_timer(&pl.care, loop_ms() + 1);
    } else if (w != NULL) {
        pool_leave(w);
        lend(l, w);
        pl.ops->on_lent(w, l);
    } else {
        idle_put(p, l);
    }
}

/* A dial, or the login behind it, failed. Those who wait go elsewhere, unless connections are there that will come back. */
static void link_failed(struct pool_link *l, const char *why)
{
    struct backend *b = l->backend;
    struct pool *p = pool_of(b);
    uint64_t again = (uint64_t)AGAIN_MS << (p->failures < 5 ? p->failures : 5);
    log_debug("no connection to a mongos", "mongos=%s:%u why=\"%s\"", b->host, (unsigned)b->port, why);
    link_forget(l);
    p->failures++;
    p->again_ms = loop_ms() + (again < AGAIN_MAX_MS ? again : AGAIN_MAX_MS);
    mongos_broke(b);
    p->moves = p->total == p->dialing;
    loop_timer(&pl.care, loop_ms());
}

static void on_login(struct mongo_login *login, const char *why)
{
    struct pool_link *l = (struct pool_link *)(void *)((char *)login - offsetof(struct pool_link, login));
    struct backend *b = l->backend;
    struct pool *p = pool_of(b);
    if (why != NULL) {
        snprintf(b->service->trouble, sizeof b->service->trouble, "%s", why);
        if (login->code == MONGO_CODE_SHUTDOWN_IN_PROGRESS) {
            mongos_leaves(b);
        }
        conn_close(l->conn);
        link_failed(l, why);
        return;
    }
    p->failures = 0;
    p->dialing--;
    l->state = LINK_CLEAN;
    link_ready(l);
    dial_more(b); /* this one was one of pool_dials: others may still wait */
}

static void link_open(struct conn *c)
{
    struct pool_link *l = c->owner;
    os_keepalive(c->fd, KEEPALIVE_IDLE_MS, conf_of(l->backend)->client_stall_ms);
    c->watch.may_cool = true;
    l->state = LINK_GREETING;
    mongo_login_begin(&l->login, l->backend, c, on_login);
}

/* What comes for a client that has gone: dropped up to its end. */
static void ending_bytes(struct pool_link *l)
{
    enum wire_status status;
    ssize_t n = conn_receive(l->conn, scratch, sizeof scratch);
    size_t used;
    if (n == CONN_ENDED) {
        conn_fail(l->conn, "the mongos closed it");
    }
    if (n <= 0) {
        return;
    }
    used = wire_feed(&l->answer, scratch, (size_t)n, &status);
    if (status == WIRE_BAD || used < (size_t)n) {
        link_close(l);
    } else if (status == WIRE_WHOLE) {
        pool_return(l);
    }
}

static void link_bytes(struct conn *c)
{
    struct pool_link *l = c->owner;
    if (l->state == LINK_GREETING) {
        mongo_login_bytes(&l->login);
    } else if (l->state == LINK_LENT) {
        pl.ops->on_bytes(l);
    } else if (l->state == LINK_ENDING) {
        ending_bytes(l);
    } else {
        conn_fail(c, "it closed it, or speaks though it was not asked");
    }
}

static void link_room(struct conn *c)
{
    struct pool_link *l = c->owner;
    if (l->state == LINK_LENT) {
        pl.ops->on_room(l);
    } else if (l->state == LINK_ENDING && l->unanswered) {
        pool_return(l);
    }
}

static void link_lost(struct conn *c, const char *why)
{
    struct pool_link *l = c->owner;
    struct backend *b = l->backend;
    bool was_lent = l->state == LINK_LENT;
    log_debug("connection to a mongos lost", "mongos=%s:%u why=\"%s\"", b->host, (unsigned)b->port, why);
    if (l->state == LINK_DIALING || l->state == LINK_GREETING) {
        link_failed(l, why);
        return;
    }
    health_look(b);
    link_forget(l);
    if (was_lent) {
        stats.upstream_lost++;
        mongos_broke(b);
        while (pool_of(b)->idle != NULL) { /* they may be as dead: what comes next is to find out by dialling */
            link_close(pool_of(b)->idle);
        }
        pl.ops->on_lost(l, why);
    }
    dial_more(b);
}

static void link_tick(struct conn *c)
{
    conn_fail(c, "what was left of an exchange takes too long");
}

static const struct conn_ops link_ops = {
    .kind = "pooled",
    .on_open = link_open,
    .on_bytes = link_bytes,
    .on_room = link_room,
    .on_close = link_lost,
    .on_tick = link_tick,
};

/* ---------------------------------------------------------------- dialling */

/* None is left only where there are more pools than at the start: then another one that has more gives an idle one away. */
static struct pool_link *free_link(const struct backend *b)
{
    struct pool *from = pool_of(b);
    for (uint16_t i = 0; i < backend_cap() && pl.free == NULL; i++) {
        struct pool *p = &pl.pools[i];
        from = p->idle != NULL && p->total > from->total ? p : from;
    }
    if (pl.free == NULL && from->idle != NULL) {
        link_close(from->idle);
        loop_timer(&pl.care, loop_ms() + 1); /* its connection is free from the next turn on */
    }
    return pl.free;
}

static bool dial(struct backend *b)
{
    const struct conf_service *conf = conf_of(b);
    struct net_sizes sizes = { conf->receive_buffer, conf->send_buffer };
    const struct address *a = backend_address(b);
    struct pool *p = pool_of(b);
    struct pool_link *l = free_link(b);
    struct conn *c = a != NULL && l != NULL ? conn_take(CONN_UPSTREAM, &link_ops, l) : NULL;
    if (c == NULL) {
        return false; /* those of this turn become free when it ends */
    }
    pl.free = l->next;
    memset(l, 0, sizeof *l);
    l->conn = c;
    l->backend = b;
    l->born_ms = loop_ms();
    l->state = LINK_DIALING;
    p->total++;
    gauge_up(&gauges.pool_links);
    p->dialing++;
    stats.pool_dials++;
    c->stall_limit_ms = conf->client_stall_ms;
    if (!conn_dial(c, a, conf->dial_timeout_ms, &sizes)) {
        link_failed(l, "it cannot be dialled");
        return false;
    }
    return true;
}

/* How many are to be there, whether anybody needs them or not. */
static uint32_t least_of(const struct backend *b)
{
    return b->hold == HELD_NOT ? conf_of(b)->pool_min : 0;
}

/* As many as those who wait need, and as are to be kept: a few at a time. */
static void dial_more(struct backend *b)
{
    const struct conf_service *conf = conf_of(b);
    struct pool *p = pool_of(b);
    uint32_t wanted = p->line.length;
    uint32_t least = least_of(b), lacking = p->total < least ? least - p->total + p->dialing : 0;
    wanted = lacking > wanted ? lacking : wanted;
    if (b->state == BACKEND_DRAINING && p->total == 0 && p->line.first != NULL && !p->moves) {
        p->moves = true; /* it lets nobody in any more: who waits there waits in vain */
        loop_timer(&pl.care, loop_ms() + MOVE_MS);
    }
    if (b->state != BACKEND_UP || b->hold == HELD_DOWN || loop_ms() < p->again_ms) {
        return;
    }
    while (p->dialing < wanted && p->dialing < conf->pool_dials && p->total < most_of(b) && dial(b)) {
    }
}

/* ---------------------------------------------------------------- lending */

enum pool_take pool_take(struct pool_waiter *w, struct service *s, struct backend *b, bool pinned, struct pool_link **lent)
{
    struct pool *p = pool_of(b);
    struct pool_link *l = p->line.first == NULL ? p->idle : NULL;
    while (l != NULL && is_old(l)) {
        link_close(l);
        l = p->idle;
    }
    if (l != NULL) {
        idle_take(p, l);
        lend(l, w);
        *lent = l;
        return POOL_LENT;
    }
    if (!wait_for(w, s, b, pinned)) {
        return POOL_FULL;
    }
    dial_more(b);
    return POOL_WAITS;
}

void pool_drop(struct pool_link *l)
{
    struct backend *b = l->backend;
    stats.pool_drops++;
    link_close(l);
    dial_more(b);
}

/* An answer may have come before its request had gone out: what is left of that would go ahead of the next one. */
void pool_return(struct pool_link *l)
{
    if (l->conn->out.len > 0) {
        pool_drop(l);
        return;
    }
    mongos_of(l->backend)->connections--;
    l->holder = NULL;
    l->state = LINK_CLEAN;
    conn_deadline(l->conn, 0);
    conn_read(l->conn, true);
    link_ready(l);
}

void pool_end(struct pool_link *l, bool unanswered)
{
    l->holder = NULL;
    l->state = LINK_ENDING;
    l->unanswered = unanswered;
    conn_read(l->conn, true);
    conn_deadline(l->conn, loop_ms() + ENDING_MS);
}

/* ------------------------------------------------------------------- care */

/* What has been idle for long goes, but for pool_min; what is old goes, and is replaced if need be. */
static void look_after(struct backend *b)
{
    const struct conf_service *conf = conf_of(b);
    struct pool *p = pool_of(b);
    if (p->moves) {
        p->moves = false;
        line_moves(&p->line, true, b);
    }
    for (struct pool_link *l = p->idle, *next; l != NULL; l = next) {
        uint32_t limit = b->hold == HELD_NOT ? conf->pool_idle_ms : HELD_IDLE_MS;
        bool idle = may_age(b) && limit > 0 && loop_ms() - l->idle_ms >= limit;
        next = l->next;
        if (is_old(l) || (idle && p->total > least_of(b))) {
            link_close(l);
        }
    }
    dial_more(b);
}

static void on_care(struct timer *t)
{
    bool waiting = false;
    for (uint16_t i = 0; i < backend_cap(); i++) {
        struct backend *b = backend_at(i);
        if (b != NULL && conf_of(b)->kind == SERVICE_MONGO && conf_of(b)->mode == MONGO_POOLED) {
            look_after(b);
            waiting = waiting || pool_of(b)->line.first != NULL;
        }
    }
    loop_timer(t, loop_ms() + (waiting ? AGAIN_MS : CARE_MS));
}

void pool_describe(const struct backend *b, struct backend_facts *out)
{
    const struct pool *p = pool_of(b);
    out->connections = p->total - p->dialing;
    out->in_flight = out->clients;
    out->idle = out->connections - out->in_flight;
    out->waiting = p->line.length;
    out->pool_max = conf_of(b)->pool_max;
}

void pool_open(const struct pool_ops *ops)
{
    pl.ops = ops;
    gauges.pool_links.most = pl.count;
    gauges.pool_waiters.most = pl.count > 0 ? conn_most(CONN_CLIENT) : 0; /* each waits for one */
    for (size_t i = pl.count; i > 0; i--) {
        pl.links[i - 1].next = pl.free;
        pl.free = &pl.links[i - 1];
    }
    pl.care.on_due = on_care;
    if (pl.count > 0) {
        loop_timer(&pl.care, loop_ms() + CARE_MS);
    }
}

/* A mongos that is down, or is none: what is on its connections is lost, and who waits for one goes elsewhere. */
static void all_lost(struct backend *b)
{
    for (size_t i = 0; i < pl.count; i++) {
        struct pool_link *l = &pl.links[i];
        if (l->state == LINK_LENT && l->backend == b) {
            conn_fail(l->conn, "its mongos is down");
        } else if (l->state != LINK_FREE && l->backend == b) {
            link_close(l);
        }
    }
    line_moves(&pool_of(b)->line, true, b);
}

/* Who waits, for want of others, for one that is shutting down. */
static void all_move(const struct service *s)
{
    for (uint16_t i = 0; i < backend_cap(); i++) {
        struct backend *b = backend_at(i);
        if (b != NULL && b->service == s && b->state == BACKEND_DRAINING) {
            line_moves(&pool_of(b)->line, false, b);
        }
    }
}

void pool_conf(const struct service *s, bool renew)
{
    const struct service *each;
    pl.wanted = 0;
    for (int i = 0; (each = service_at(i)) != NULL; i++) {
        const struct conf_service *conf = each->conf;
        bool pooled = conf->kind == SERVICE_MONGO && conf->mode == MONGO_POOLED;
        pl.wanted += pooled ? (size_t)conf->pool_max * (size_t)conf->node_count : 0;
    }
    for (uint16_t i = 0; i < backend_cap() && renew; i++) {
        const struct backend *b = backend_at(i);
        if (b != NULL && b->service == s) {
            pool_of(b)->renewed_ms = loop_ms();
        }
    }
    if (pl.wanted > pl.count) {
        log_warn("more pooled connections than there were at the start need a restart: until then all pools get less (pool_max)",
                 "wanted=%lu have=%lu", (unsigned long)pl.wanted, (unsigned long)pl.count);
    }
    loop_timer(&pl.care, loop_ms());
}

void pool_backend(struct backend *b)
{
    struct pool *p = pool_of(b);
    if (backend_takes_new(b)) {
        p->failures = 0;
        p->again_ms = 0;
        line_moves(&pl.sections[section_of(b->service)].line, true, NULL);
        all_move(b->service);
        dial_more(b);
    } else if (mongos_drains(b)) {
        line_moves(&p->line, false, b);
        loop_timer(&pl.care, loop_ms());
    } else if (b->state != BACKEND_NEW) {
        all_lost(b);
    }
}
