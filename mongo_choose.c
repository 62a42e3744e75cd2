/*
 * mongo_choose.c - which mongos a client gets, and how long it keeps it.
 *
 *   peer, hello --affinity--> key --affinity.c--> entry: a mongos, held by each connection of that client
 *                                      |
 *                                      `- none, or it cannot be had any more: balance over those that can
 *
 *   cursors, transactions --> affinity.c, and counted in `pins` of their client: a mongos that shuts down keeps it so long
 *
 * An ordinary driver opens several connections and believes that one server is behind them, so all of one client go to the
 * same mongos. Which connections are one client nobody says: `affinity` decides. Two clients taken for one cost balance
 * only; one taken for two would lose its cursors.
 */
#include "mongo.h"

#include <string.h>

#define RAMP_LEAST 10           /* percent of its share that a mongos that has just come back gets */
#define FULL_SHARE 1000u        /* of a mongos of weight 1 */
#define CURSOR_MS 600000        /* a mongos forgets a cursor that is idle this long */
#define TRANSACTION_MS 75000    /* and a transaction after 60 s; and some */

/* What one client has open. */
struct pins {
    uint32_t cursors, transactions;
    uint32_t era;               /* another client had this place before: its cursors are others */
    uint64_t last_ms;           /* when the last was opened or used */
    uint64_t busy_ms;           /* when it was last seen in the middle of a request at a mongos that is drained by hand */
    uint64_t stay_ms;           /* it is let be there until then */
    uint64_t turned_ms;         /* when something was last opened or ended */
};

/* Of one section. */
struct keep {
    struct affinity table;
    struct affinity_entry *entries;
    struct pins *pins;          /* by the index of a client's entry */
    struct mongo_told told;
    uint32_t turn;              /* round-robin: the candidate that was last */
};

static struct {
    struct keep *all;           /* by the section's number among those of MongoDB */
    struct affinity_config config;
    uint64_t random;
    int count;
} ch;

void mongo_choose_tables(const struct conf *conf)
{
    ch.config.most[AFFINITY_CLIENT] = conf->max_affinities;
    ch.config.most[AFFINITY_CURSOR] = conf->max_affinities;
    ch.config.most[AFFINITY_TRANSACTION] = conf->max_affinities;
    ch.config.last_ms[AFFINITY_CURSOR] = CURSOR_MS;
    ch.config.last_ms[AFFINITY_TRANSACTION] = TRANSACTION_MS;
    ch.count = conf_services(conf, SERVICE_MONGO);
    ch.all = arena_take("mongos keeps", (size_t)ch.count, sizeof *ch.all);
    for (int i = 0; i < ch.count; i++) {
        size_t n = conf_mongo_mode(conf, i) == MONGO_POOLED ? 0 : affinity_size(&ch.config);
        void *entries = arena_take("affinities", n, sizeof *ch.all->entries), *pins = arena_take("pins", n, sizeof *ch.all->pins);
        if (ch.all != NULL) {
            ch.all[i].entries = entries;
            ch.all[i].pins = pins;
        }
    }
}

void mongo_choose_open(int number, const struct conf_service *conf)
{
    struct keep *k = &ch.all[number];
    must(number < ch.count);
    os_random(ch.config.seed, sizeof ch.config.seed);
    os_random(&ch.random, sizeof ch.random);
    ch.random |= 1;
    ch.config.last_ms[AFFINITY_CLIENT] = conf->affinity_grace_ms;
    if (conf->mode != MONGO_POOLED) {
        affinity_init(&k->table, &ch.config, k->entries);
        gauges.affinities.most += affinity_size(&ch.config);
    }
}

void mongo_choose_conf(int number, const struct conf_service *conf)
{
    ch.all[number].table.config.last_ms[AFFINITY_CLIENT] = conf->affinity_grace_ms;
}

void mongo_choose_forget(int number, const struct backend *b)
{
    affinity_remove_backend(&ch.all[number].table, b->index);
}

static struct keep *keep_of(const struct mongo_client_id *id)
{
    return &ch.all[id->section];
}

/* Whether something keeps it where it is. What a client left open without a word ends by itself. */
static bool hold(const struct pins *p)
{
    uint64_t since = loop_ms() - p->last_ms;
    return (p->cursors > 0 && since < CURSOR_MS) || (p->transactions > 0 && since < TRANSACTION_MS);
}

void mongo_count(const struct affinity *a, struct mongo_told *told)
{
    uint64_t used = 0;
    struct affinity_counts now = { 0, 0, 0, 0, 0 };
    for (int kind = 0; kind < AFFINITY_KINDS; kind++) {
        now.hits += a->counts[kind].hits;
        now.misses += a->counts[kind].misses;
        now.evictions += a->counts[kind].evictions;
        now.full += a->counts[kind].full;
        used += a->used[kind];
    }
    stats.affinity_hits += now.hits - told->counts.hits;
    stats.affinity_misses += now.misses - told->counts.misses;
    stats.affinity_evictions += now.evictions - told->counts.evictions;
    stats.affinity_full += now.full - told->counts.full;
    gauge_set(&gauges.affinities, gauges.affinities.now + used - told->used);
    *told = (struct mongo_told){ now, used };
}

/* --------------------------------------------------------- who is a client */

static size_t put(unsigned char *key, size_t at, const void *p, size_t n)
{
    memcpy(key + at, p, n);
    return at + n;
}

void mongo_identify(struct mongo_client_id *id, const struct conf_service *conf, const struct conn *conn, const struct wire *first)
{
    const struct address *a = &conn->peer;
    size_t n = 0;
    id->entry = AFFINITY_NONE;
    if (conf->mode == MONGO_LOADBALANCED || conf->affinity == AFFINITY_CONNECTION) {
        id->len = (uint8_t)put(id->key, 0, &conn->id, sizeof conn->id);
        id->alone = true;
        return;
    }
    if (a->u.sa.sa_family == AF_INET) {
        n = put(id->key, n, &a->u.in4.sin_addr, sizeof a->u.in4.sin_addr);
    } else if (a->u.sa.sa_family == AF_INET6) {
        n = put(id->key, n, &a->u.in6.sin6_addr, sizeof a->u.in6.sin6_addr);
    }
    if (conf->affinity == AFFINITY_FINGERPRINT) {
        int64_t name[2] = { wire_has(first, WIRE_APPLICATION) ? first->number[WIRE_APPLICATION] : 0,
                            wire_has(first, WIRE_OS_TYPE) ? first->number[WIRE_OS_TYPE] : 0 };
        n = put(id->key, n, name, sizeof name);
    }
    id->len = (uint8_t)n;
}

/* ------------------------------------------------------------- the balance */

static uint64_t next_random(void)
{
    ch.random ^= ch.random << 13;
    ch.random ^= ch.random >> 7;
    ch.random ^= ch.random << 17;
    return ch.random;
}

uint32_t mongo_share(const struct backend *b)
{
    const struct mongos *m = mongos_of(b);
    uint64_t ramp = b->service->conf->slow_start_ms, since = loop_ms() > m->up_ms ? loop_ms() - m->up_ms : 0;
    uint32_t whole = FULL_SHARE * m->weight;
    if (m->up_ms == 0 || since >= ramp) {
        return whole;
    }
    return (uint32_t)(whole * (RAMP_LEAST + (100 - RAMP_LEAST) * since / ramp) / 100);
}

/* Whether a has fewer connections for its share than b. */
static bool is_idler(const struct backend *a, const struct backend *b)
{
    return (uint64_t)(mongos_of(a)->connections + 1) * mongo_share(b) < (uint64_t)(mongos_of(b)->connections + 1) * mongo_share(a);
}

struct backend *mongo_least(struct backend *const *list, uint32_t n)
{
    uint32_t from = (uint32_t)(next_random() % n); /* among equals no one is always the first */
    struct backend *best = list[from];
    for (uint32_t i = 1; i < n; i++) {
        struct backend *b = list[(from + i) % n];
        best = is_idler(b, best) ? b : best;
    }
    return best;
}

static struct backend *by_weight(struct backend *const *list, uint32_t n)
{
    uint64_t sum = 0, at;
    uint32_t i = 0;
    for (uint32_t k = 0; k < n; k++) {
        sum += mongo_share(list[k]);
    }
    for (at = next_random() % sum; at >= mongo_share(list[i]); i++) {
        at -= mongo_share(list[i]);
    }
    return list[i];
}

static struct backend *random_two(struct backend *const *list, uint32_t n)
{
    struct backend *a = list[next_random() % n], *b = list[next_random() % n];
    return is_idler(b, a) ? b : a;
}

static struct backend *balance(struct keep *k, enum mongo_balance how, struct backend *const *list, uint32_t n)
{
    switch (how) {
    case BALANCE_ROUND_ROBIN: return list[k->turn++ % n];
    case BALANCE_RANDOM_TWO:  return random_two(list, n);
    case BALANCE_WEIGHTED:    return by_weight(list, n);
    case BALANCE_LEAST:       break;
    }
    return mongo_least(list, n);
}

static bool was_tried(const struct backend *b, struct backend *const *tried, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (tried[i] == b) {
            return true;
        }
    }
    return false;
}

uint32_t mongo_candidates(const struct service *s, struct backend *const *tried, uint32_t count,
                          struct backend *list[MAX_SEEDS])
{
    uint32_t n = 0;
    for (int tier = 0; tier < 3 && n == 0; tier++) {
        for (uint16_t i = 0; i < backend_cap() && n < MAX_SEEDS; i++) {
            struct backend *b = backend_at(i);
            bool fits = b != NULL && b->service == s && b->hold == HELD_NOT &&
                        (tier == 2 ? b->state == BACKEND_DRAINING : b->state == BACKEND_UP && mongos_ejected(b) == (tier == 1));
            if (fits && !was_tried(b, tried, count)) {
                list[n++] = b;
            }
        }
    }
    return n;
}

/* ------------------------------------------------------------- its mongos */

/* No entry is left for it: the same key leads to the same mongos as long as none comes or goes. */
static struct backend *without_entry(const struct mongo_client_id *id, struct backend *const *list, uint32_t n)
{
    struct affinity_choice choice[MAX_SEEDS];
    uint16_t chosen;
    for (uint32_t i = 0; i < n; i++) {
        choice[i] = (struct affinity_choice){ mongos_of(list[i])->name, mongos_of(list[i])->weight, list[i]->index };
    }
    chosen = affinity_choose(id->key, id->len, choice, n);
    return chosen == AFFINITY_NOWHERE ? NULL : backend_at(chosen);
}

/* A mongos that is drained by hand could serve its clients on, so none is torn in two: what one connection opens there could be asked
 * for on another one elsewhere. Its connections are closed as they come to rest, and new ones wait for the last. */
static bool is_drained(const struct affinity_entry *e)
{
    const struct backend *b = e->backend != AFFINITY_NOWHERE ? backend_at(e->backend) : NULL;
    return b != NULL && b->state == BACKEND_UP && b->hold == HELD_DRAIN;
}

bool mongo_moves(struct mongo_client_id *id, uint64_t looked_ms)
{
    struct keep *k = keep_of(id);
    struct affinity_entry *e;
    if (id->entry == AFFINITY_NONE) {
        e = affinity_find(&k->table, AFFINITY_CLIENT, id->key, id->len, loop_ms(), true);
        if (e == NULL || e->uses == 0 || !is_drained(e)) {
            return false;
        }
        id->entry = affinity_hold(&k->table, e);
    }
    return is_drained(&k->entries[id->entry]) && loop_ms() >= k->pins[id->entry].stay_ms &&
           (looked_ms != loop_ms() || k->pins[id->entry].busy_ms == looked_ms);
}

void mongo_note_busy(const struct mongo_client_id *id)
{
    if (id->entry != AFFINITY_NONE) {
        keep_of(id)->pins[id->entry].busy_ms = loop_ms();
    }
}

bool mongo_is_busy(const struct mongo_client_id *id)
{
    return id->entry != AFFINITY_NONE && keep_of(id)->pins[id->entry].busy_ms == loop_ms();
}

uint64_t mongo_asked_ms(const struct mongo_client_id *id, const struct backend *b)
{
    uint64_t stay = id->entry != AFFINITY_NONE ? keep_of(id)->pins[id->entry].stay_ms : 0, held = mongos_of(b)->held_ms;
    return loop_ms() < stay ? 0 : stay > held ? stay : held;
}

void mongo_let_be(const struct mongo_client_id *id, uint32_t ms)
{
    if (id->entry != AFFINITY_NONE) {
        keep_of(id)->pins[id->entry].stay_ms = loop_ms() + ms;
    }
}

/* One that is drained by hand takes further connections of those who have something open there, which they may want to go on with, and of
 * those who are let be. */
static bool stays(const struct keep *k, const struct affinity_entry *e)
{
    return is_drained(e) && (hold(&k->pins[e - k->entries]) || loop_ms() < k->pins[e - k->entries].stay_ms);
}

/* A mongos that shuts down refuses every hello, so further connections of its clients go elsewhere, whatever they have open
 * there: that they end on the connections they have. */
struct backend *mongo_choose(struct mongo_client_id *id, struct service *s, struct backend *const *tried, uint32_t count)
{
    struct keep *k = keep_of(id);
    bool held = id->entry != AFFINITY_NONE;
    struct affinity_entry *e = held ? &k->entries[id->entry]
                                    : affinity_find(&k->table, AFFINITY_CLIENT, id->key, id->len, loop_ms(), true);
    struct backend *list[MAX_SEEDS], *b = e != NULL && e->backend != AFFINITY_NOWHERE ? backend_at(e->backend) : NULL;
    bool keeps = b != NULL && mongos_works(b); /* what the client has open */
    uint32_t n;
    if (b != NULL && (backend_takes_new(b) || stays(k, e)) && !was_tried(b, tried, count)) {
        n = 0;
    } else if ((n = mongo_candidates(s, tried, count, list)) == 0) {
        return NULL;
    } else {
        b = balance(k, s->conf->balance, list, n);
        e = affinity_add(&k->table, AFFINITY_CLIENT, id->key, id->len, b->index, loop_ms());
    }
    mongo_count(&k->table, &k->told);
    if (e == NULL) {
        return without_entry(id, list, n);
    }
    if (id->entry == AFFINITY_NONE) {
        if (n > 0 && (e->uses == 0 || !keeps)) {
            k->pins[e - k->entries] = (struct pins){ .era = k->pins[e - k->entries].era + 1 };
        }
        id->entry = affinity_hold(&k->table, e);
    }
    return b;
}

void mongo_let_go(struct mongo_client_id *id)
{
    if (id->entry != AFFINITY_NONE) {
        affinity_release(&keep_of(id)->table, id->entry, loop_ms());
        if (id->alone) {
            affinity_remove(&keep_of(id)->table, AFFINITY_CLIENT, id->key, id->len);
            mongo_count(&keep_of(id)->table, &keep_of(id)->told);
        }
    }
    id->entry = AFFINITY_NONE;
}

/* ------------------------------------------------------- what is open there */

static size_t pin_key(const struct mongo_client_id *id, unsigned char key[40], int64_t number, const unsigned char *lsid)
{
    size_t n = put(key, 0, keep_of(id)->entries[id->entry].id, sizeof(uint64_t)); /* the same in the worker after this one */
    n = put(key, n, &keep_of(id)->pins[id->entry].era, sizeof(uint32_t));
    n = put(key, n, &number, sizeof number);
    return lsid != NULL ? put(key, n, lsid, 16) : n;
}

static void pin(const struct mongo_client_id *id, enum affinity_kind kind, int64_t number, const unsigned char *lsid)
{
    struct keep *k = keep_of(id);
    struct pins *p = &k->pins[id->entry];
    unsigned char key[40];
    size_t n = pin_key(id, key, number, lsid);
    p->last_ms = loop_ms();
    if (affinity_find(&k->table, kind, key, n, loop_ms(), true) == NULL &&
        affinity_add(&k->table, kind, key, n, k->entries[id->entry].backend, loop_ms()) != NULL) {
        *(kind == AFFINITY_CURSOR ? &p->cursors : &p->transactions) += 1;
        p->turned_ms = loop_ms();
    }
    mongo_count(&k->table, &k->told);
}

static void unpin(const struct mongo_client_id *id, enum affinity_kind kind, int64_t number, const unsigned char *lsid)
{
    struct keep *k = keep_of(id);
    struct pins *p = &k->pins[id->entry];
    uint32_t *count = kind == AFFINITY_CURSOR ? &p->cursors : &p->transactions;
    unsigned char key[40];
    if (affinity_remove(&k->table, kind, key, pin_key(id, key, number, lsid)) && *count > 0) {
        *count -= 1;
        p->turned_ms = loop_ms();
    }
    mongo_count(&k->table, &k->told);
}

uint32_t mongo_connections(const struct mongo_client_id *id)
{
    return keep_of(id)->entries[id->entry].uses;
}

bool pins_hold(const struct mongo_client_id *id)
{
    return id->entry != AFFINITY_NONE && hold(&keep_of(id)->pins[id->entry]);
}

bool pins_turn(const struct mongo_client_id *id, uint64_t since_ms)
{
    return !pins_hold(id) || keep_of(id)->pins[id->entry].turned_ms >= since_ms;
}

void pins_ask(const struct mongo_client_id *id, struct mongo_asked *asked, const struct wire *w)
{
    memset(asked, 0, sizeof *asked);
    asked->id = w->header.request_id;
    asked->greets = w->hello || strncmp(w->command, "sasl", 4) == 0;
    asked->waits = w->hello && wire_has(w, WIRE_MAX_AWAIT_MS);
    if (id->entry == AFFINITY_NONE) {
        return;
    }
    asked->cursor = wire_is(w, "getMore") && wire_has(w, WIRE_COMMAND) ? w->number[WIRE_COMMAND] : 0;
    if (wire_is(w, "killCursors") && wire_has(w, WIRE_CURSOR_ID)) {
        asked->cursor = w->number[WIRE_CURSOR_ID];
    }
    asked->in_transaction = wire_in_transaction(w) && wire_has(w, WIRE_LSID);
    if (asked->in_transaction) {
        memcpy(asked->lsid, w->lsid, sizeof asked->lsid);
        asked->commits = wire_is(w, "commitTransaction");
        asked->aborts = wire_is(w, "abortTransaction");
        if (!asked->commits && !asked->aborts) {
            pin(id, AFFINITY_TRANSACTION, 0, asked->lsid); /* the next one of a session takes the place of the one before */
        }
    }
}

void pins_answer(const struct mongo_client_id *id, struct mongo_asked *asked, const struct wire *w)
{
    int64_t cursor = wire_has(w, WIRE_CURSOR_ID) ? w->number[WIRE_CURSOR_ID] : 0;
    bool asked_last = w->header.response_to == asked->id;
    if (asked_last && wire_more_to_come(w)) {
        asked->id = w->header.request_id; /* the next of these answers names this one */
    }
    if (id->entry == AFFINITY_NONE) {
        return;
    }
    if (cursor != 0) {
        pin(id, AFFINITY_CURSOR, cursor, NULL);
    }
    if (!asked_last) {
        return;
    }
    if (asked->cursor != 0 && cursor == 0) {
        unpin(id, AFFINITY_CURSOR, asked->cursor, NULL);
    }
    /* An abort that fails means that nothing was open, or ends by itself: drivers do not look at its answer. */
    if (asked->in_transaction && (asked->aborts || (asked->commits && wire_true(w, WIRE_OK)))) {
        unpin(id, AFFINITY_TRANSACTION, 0, asked->lsid);
    }
}

/* ------------------------------------------------------------- an upgrade */

static int telling; /* the section whose table is told */

static void fill(const struct service *s, uint32_t entry, struct hand_note *n)
{
    const struct pins *p = &ch.all[telling].pins[entry];
    (void)s;
    if (n->of == AFFINITY_CLIENT) {
        n->number[0] = p->cursors;
        n->number[1] = p->transactions;
        n->number[2] = p->era;
    }
}

void choose_seed(int section, const struct service *s, struct hand_note *n)
{
    mongo_make_seed(n, &ch.all[section].table, s);
}

bool choose_tell(int section, const struct service *s, uint32_t *at, bool (*give)(const struct hand_note *))
{
    telling = section;
    return mongo_tell_table(&ch.all[section].table, s, at, give, fill);
}

void choose_take_note(int section, const struct service *s, const struct hand_note *n)
{
    struct keep *k = &ch.all[section];
    struct affinity_entry *e = mongo_take_note(&k->table, k->entries, s, n);
    if (e != NULL && n->what == NOTE_ENTRY && n->of == AFFINITY_CLIENT) {
        k->pins[e - k->entries] = (struct pins){ .cursors = n->number[0], .transactions = n->number[1], .era = n->number[2], .last_ms = loop_ms() };
    }
}

void mongo_stay(struct mongo_client_id *id, const struct backend *b)
{
    struct keep *k = keep_of(id);
    struct affinity_entry *e = affinity_find(&k->table, AFFINITY_CLIENT, id->key, id->len, loop_ms(), true);
    if (e == NULL && (e = affinity_add(&k->table, AFFINITY_CLIENT, id->key, id->len, b->index, loop_ms())) != NULL) {
        k->pins[e - k->entries] = (struct pins){ .era = k->pins[e - k->entries].era + 1 };
    }
    id->entry = e != NULL ? affinity_hold(&k->table, e) : AFFINITY_NONE;
    mongo_count(&k->table, &k->told);
}
