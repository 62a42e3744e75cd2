/*
 * redis_link.c - which node is to send us which channel.
 *
 *   channel --links--> link --> feed of a node         PLAIN, PATTERN: the primary; of key notifications: each master
 *                       |                              SHARD: the slot's owner
 *                       `-- unsaid, until redis_feed.c says it and the node answers
 *
 * Every master passes on what is published to all, so one of them is enough, and two would send all of it twice: that
 * one is the primary, for as long as it is well. The next one may still get, by the cluster's own ways, what the one
 * before had sent already: for a moment what looks like a message of just before is dropped, once (`recent`).
 *
 * Whatever may have made a link wrong - the map, a node's state, a lost connection - makes its section `misplaced`: at the
 * end of the turn every channel is placed again, which changes nothing where all is well.
 */
#include "redis_feed.h"

#include <string.h>

#define RETRY_MS 100          /* a node refused for reasons of its own: said again then */
#define RECENT_MAX 4096       /* messages at most that are remembered for the moment when the primary changes */
#define RECENT_MS 150         /* what is older the nodes have told each other, and how long that moment is: Nagle's delay between
                                 them, 40 ms, and some more */
#define BUS_MS 60             /* for so long after a change nothing is published: that delay, and some more */
#define RECENT_BYTES 256      /* of a message tell it from others, with its length */

struct recent { uint64_t hash, at_ms; };

static struct {
    struct feed *all;
    struct link *links, *free_link;
    size_t link_total;
    uint32_t total;
    struct recent *recent;
    uint32_t recent_at, recent_total;
    struct timer retry;
    bool misplaced, talk;
} lk;

void redis_link_tables(const struct conf *conf)
{
    lk.total = conf->max_backends;
    lk.link_total = 2 * (size_t)conf->max_channels + 16 * (size_t)conf->max_backends;
    lk.all = arena_take("feeds", lk.total, sizeof *lk.all);
    lk.links = arena_take("feed links", lk.link_total, sizeof *lk.links);
    lk.recent_total = conf->max_messages < RECENT_MAX ? conf->max_messages : RECENT_MAX;
    lk.recent = arena_take("recent messages", lk.recent_total, sizeof *lk.recent);
}

/* ------------------------------------------------------------ whose it is */

struct feed *feed_at(uint32_t i)
{
    return i < lk.total ? &lk.all[i] : NULL;
}

struct feed *feed_of(struct backend *b)
{
    struct feed *f = &lk.all[b->index];
    f->backend = b;
    return f;
}

static bool can_be_primary(const struct backend *b, const struct service *s)
{
    return b->service == s && b->slots > 0 && !backend_is_down(b) && b->state != BACKEND_FREE;
}

/* One node, for as long as it is well: what comes from two would come twice. */
struct backend *feed_primary(struct service *s)
{
    struct backend *found = NULL;
    uint16_t from = s->primary != NULL ? s->primary->index : 0;
    if (s->primary != NULL && can_be_primary(s->primary, s) && feed_of(s->primary)->lost_ms == 0) {
        return s->primary;
    }
    for (uint32_t i = 0; i < lk.total; i++) {
        struct backend *b = backend_at((uint16_t)((from + i) % lk.total));
        if (b == NULL || !can_be_primary(b, s)) {
            continue;
        }
        if (b->state == BACKEND_UP && feed_of(b)->lost_ms == 0) {
            found = b;
            break;
        }
        found = found == NULL || feed_of(b)->lost_ms < feed_of(found)->lost_ms ? b : found;
    }
    if (found != NULL && found != s->primary) {
        log_info("messages come by another node", "section=%s node=%s:%u", s->conf->name, found->host,
                 (unsigned)found->port);
        s->switched_ms = s->primary != NULL ? loop_ms() : 0;
        s->switching = s->primary != NULL;
        s->primary = found;
        s->misplaced = lk.misplaced = true;
    }
    return found != NULL ? found : s->primary;
}

uint16_t feed_primary_slot(struct service *s)
{
    for (uint32_t i = 0; s->primary != NULL && i < SLOTMAP_SLOTS && service_owner(s, s->primary_slot) != s->primary; i++) {
        s->primary_slot = (uint16_t)((s->primary_slot + 1u) % SLOTMAP_SLOTS);
    }
    return s->primary_slot;
}

/* Whether the node is the one, or one of those, that should send us the channel. */
bool feed_carries(const struct backend *b, const struct channel *ch)
{
    struct service *s = ch->service;
    if (b->service != s || ch->subs == NULL) {
        return false;
    }
    if (ch->kind == CHANNEL_SHARD) {
        return service_owner(s, ch->slot) == b;
    }
    return s->primary == b || (ch->everywhere && b->slots > 0);
}

struct link *link_to(const struct channel *ch, const struct feed *f)
{
    struct link *l = ch->links;
    while (l != NULL && l->feed != f) {
        l = l->next;
    }
    return l;
}

/* Calls `each` for every node that should send us the channel, until one gives false. Of several, those that are down
 * are left out: who wants notifications of keys does not wait for them. */
static bool for_carriers(struct channel *ch, bool (*each)(struct channel *, struct feed *))
{
    struct backend *b = ch->kind == CHANNEL_SHARD ? service_owner(ch->service, ch->slot) : feed_primary(ch->service);
    if (b == NULL || !each(ch, feed_of(b))) {
        return false;
    }
    for (uint32_t i = 0; ch->everywhere && i < lk.total; i++) {
        struct backend *other = backend_at((uint16_t)i);
        if (other != NULL && other != b && !backend_is_down(other) && feed_carries(other, ch) &&
            !each(ch, feed_of(other))) {
            return false;
        }
    }
    return true;
}

static bool is_on(struct channel *ch, struct feed *f)
{
    const struct link *l = link_to(ch, f);
    return l != NULL && l->state == LINK_RESTS && l->on;
}

bool feed_is_on(struct channel *ch)
{
    return for_carriers(ch, is_on);
}

/* ------------------------------------------------------- links and lines */

void line_put(struct line *line, struct link *l)
{
    l->line = NULL;
    *(line->head != NULL ? &line->tail->line : &line->head) = l;
    line->tail = l;
}

struct link *line_take(struct line *line)
{
    struct link *l = line->head;
    line->head = l->line;
    return l;
}

void link_free(struct link *l)
{
    struct channel *ch = l->channel;
    struct link **at = &ch->links;
    while (*at != l) {
        at = &(*at)->next;
    }
    *at = l->next;
    *(l->mine_prev != NULL ? &l->mine_prev->mine_next : &l->feed->links) = l->mine_next;
    if (l->mine_next != NULL) {
        l->mine_next->mine_prev = l->mine_prev;
    }
    l->next = lk.free_link;
    lk.free_link = l;
    channel_let_go(ch);
}

void feed_talk(struct feed *f)
{
    f->talk = lk.talk = true;
}

/* What rests and is not as it should be gets into line; what is needed no more goes. */
void link_settle(struct link *l)
{
    bool wanted = feed_carries(l->feed->backend, l->channel);
    if (l->state == LINK_UNSAID) {
        feed_talk(l->feed); /* it may have become needless */
    } else if (l->state == LINK_RESTS && wanted != l->on) {
        l->state = LINK_UNSAID;
        line_put(&l->feed->unsaid, l);
        feed_talk(l->feed);
    } else if (l->state == LINK_RESTS && !wanted) {
        link_free(l);
    }
}

static bool link_make(struct channel *ch, struct feed *f)
{
    struct link *l = link_to(ch, f);
    if (l != NULL) {
        return true;
    }
    l = lk.free_link;
    if (l == NULL) {
        log_warn("no entry left to subscribe at a node (max_channels)", "node=%s:%u", f->backend->host,
                 (unsigned)f->backend->port);
        loop_timer(&lk.retry, loop_ms() + RETRY_MS);
        return true;
    }
    lk.free_link = l->next;
    memset(l, 0, sizeof *l);
    l->channel = ch;
    l->feed = f;
    l->next = ch->links;
    ch->links = l;
    l->mine_next = f->links;
    if (l->mine_next != NULL) {
        l->mine_next->mine_prev = l;
    }
    f->links = l;
    link_settle(l);
    return true;
}

void feed_place(struct channel *ch)
{
    if (ch->subs != NULL) {
        for_carriers(ch, link_make);
    }
    for (struct link *l = ch->links, *next; l != NULL; l = next) {
        bool last = l->next == NULL;
        next = l->next;
        link_settle(l); /* with the last link the channel may go, too */
        if (last) {
            return;
        }
    }
    if (ch->links == NULL) {
        channel_let_go(ch);
    }
}

void feed_switched(struct service *s)
{
    const struct feed *f = s->primary != NULL ? feed_of(s->primary) : NULL;
    if (s->switching && loop_ms() < s->switched_ms + BUS_MS) {
        loop_timer(&lk.retry, s->switched_ms + BUS_MS); /* what the one before has told it overtakes nothing then */
    } else if (s->switching && (f == NULL || (f->unsaid.head == NULL && f->said.head == NULL))) {
        s->switching = false;
        req_reroute(s);
    }
}

static void place_all(struct service *s)
{
    s->misplaced = false;
    feed_primary(s);
    feed_primary_slot(s);
    for (int kind = 0; kind < CHANNEL_KINDS; kind++) {
        for (struct channel *ch = channel_first((enum channel_kind)kind), *next; ch != NULL; ch = next) {
            next = ch->next;
            if (ch->service == s) {
                ch->refused = false;
                feed_place(ch);
            }
        }
    }
    feed_switched(s);
}

void feed_misplaced(struct service *s)
{
    s->misplaced = lk.misplaced = true;
}

static void on_retry(struct timer *t)
{
    (void)t;
    for (uint32_t i = 0; i < lk.total; i++) {
        const struct backend *b = backend_at((uint16_t)i);
        if (b != NULL) {
            feed_misplaced(b->service);
        }
    }
}

/* ------------------------------------------------- when the primary changes */

static uint64_t hash_of(const struct service *s, const unsigned char *p, size_t n)
{
    uint64_t h = 14695981039346656037u ^ (uintptr_t)s ^ n;
    for (size_t i = 0; i < n && i < RECENT_BYTES; i++) {
        h = (h ^ p[i]) * 1099511628211u;
    }
    return h;
}

bool feed_is_twin(struct service *s, const unsigned char *p, size_t n)
{
    uint64_t hash = hash_of(s, p, n), now = loop_ms();
    struct recent *next = &lk.recent[lk.recent_at];
    for (uint32_t i = 0; s->switched_ms != 0 && i < lk.recent_total; i++) {
        struct recent *r = &lk.recent[i];
        if (r->hash == hash && r->at_ms != 0 && r->at_ms <= s->switched_ms && r->at_ms + RECENT_MS >= s->switched_ms) {
            r->at_ms = 0;
            return true;
        }
    }
    s->switched_ms = s->switched_ms + RECENT_MS < now ? 0 : s->switched_ms;
    *next = (struct recent){ hash, now };
    lk.recent_at = (lk.recent_at + 1) % lk.recent_total;
    return false;
}

/* ------------------------------------------------------------- the turn */

void link_turn(void)
{
    if (!lk.misplaced) {
        return;
    }
    lk.misplaced = false;
    for (uint32_t i = 0; i < lk.total; i++) {
        struct backend *b = backend_at((uint16_t)i);
        if (b != NULL && b->service->misplaced) {
            place_all(b->service);
        }
    }
}

bool feed_has_to_talk(void)
{
    bool was = lk.talk;
    lk.talk = false;
    return was;
}

bool link_pending(void)
{
    return lk.misplaced || lk.talk;
}

void link_retry(void)
{
    loop_timer(&lk.retry, loop_ms() + RETRY_MS);
}

void redis_link_open(void)
{
    for (size_t i = lk.link_total; i > 0; i--) {
        lk.links[i - 1].next = lk.free_link;
        lk.free_link = &lk.links[i - 1];
    }
    lk.retry.on_due = on_retry;
    pubsub_on_map = feed_misplaced;
}
