/* affinity.c - the table of what belongs where, and the choice for what is new.
 *
 *   entry[]   0    1    2    3    4 ...        bucket of entry i: the first of the chain of hash i
 *   chain     bucket --> next --> next         of each hash, and of the free entries
 *   list      oldest <--newer/older--> newest  of each kind; since one kind has one duration, this is also the order of
 *                                              their ends, and expiry looks at the oldest only
 *
 * What is held is in its chain and in no list.
 */
#include "affinity.h"

#include <string.h>

/* ---------------------------------------------------------------- hashing */

static uint64_t rotate(uint64_t v, int bits)
{
    return v << bits | v >> (64 - bits);
}

static void sip_rounds(uint64_t v[4], int rounds)
{
    for (; rounds > 0; rounds--) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32) + v[3];
        v[2] += v[1];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[2] = rotate(v[2], 32);
    }
}

static void sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_rounds(v, 2);
    v[0] ^= word;
}

void affinity_hash(const uint64_t seed[2], const void *bytes, size_t n, uint64_t out[2])
{
    uint64_t v[4] = {seed[0] ^ UINT64_C(0x736F6D6570736575), seed[1] ^ UINT64_C(0x646F72616E646F6D) ^ 0xEE,
                     seed[0] ^ UINT64_C(0x6C7967656E657261), seed[1] ^ UINT64_C(0x7465646279746573)};
    const unsigned char *p = bytes;
    uint64_t word = 0;
    size_t i;

    for (i = 0; i < n; i++) {
        word |= (uint64_t)p[i] << (i % 8 * 8);
        if (i % 8 == 7) {
            sip_word(v, word);
            word = 0;
        }
    }
    sip_word(v, word | (uint64_t)n << 56);
    v[2] ^= 0xEE;
    sip_rounds(v, 4);
    out[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xDD;
    sip_rounds(v, 4);
    out[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ------------------------------------------------------------------ table */

uint32_t affinity_size(const struct affinity_config *config)
{
    uint32_t size = 0;
    int kind;

    for (kind = 0; kind < AFFINITY_KINDS; kind++)
        size += config->most[kind];
    return size;
}

void affinity_init(struct affinity *a, const struct affinity_config *config, struct affinity_entry *entries)
{
    uint32_t i;
    int kind;

    memset(a, 0, sizeof *a);
    a->config = *config;
    a->entry = entries;
    a->size = affinity_size(config);
    for (i = 0; i < a->size; i++) {
        entries[i] = (struct affinity_entry){.bucket = AFFINITY_NONE, .kind = AFFINITY_KINDS /* free */};
        entries[i].next = i + 1 < a->size ? i + 1 : AFFINITY_NONE;
    }
    for (kind = 0; kind < AFFINITY_KINDS; kind++)
        a->newest[kind] = a->oldest[kind] = AFFINITY_NONE;
}

static uint32_t index_of(const struct affinity *a, const struct affinity_entry *e)
{
    return (uint32_t)(e - a->entry);
}

/* Where the first of the chain for that id stands. */
static uint32_t *bucket_of(struct affinity *a, const uint64_t id[2])
{
    return &a->entry[(id[0] >> 32) * a->size >> 32].bucket;
}

static struct affinity_entry *with_id(struct affinity *a, enum affinity_kind kind, const uint64_t id[2])
{
    uint32_t i;

    for (i = *bucket_of(a, id); i != AFFINITY_NONE; i = a->entry[i].next)
        if (a->entry[i].id[0] == id[0] && a->entry[i].id[1] == id[1] && a->entry[i].kind == kind)
            return &a->entry[i];
    return NULL;
}

/* The entry of that key, or NULL; its hash in any case. */
static struct affinity_entry *look_up(struct affinity *a, enum affinity_kind kind, const void *key, size_t n,
                                      uint64_t id[2])
{
    affinity_hash(a->config.seed, key, n, id);
    return with_id(a, kind, id);
}

/* Puts e at the newest end of its kind's list, to end last_ms from now on. */
static void list_put(struct affinity *a, struct affinity_entry *e, uint64_t now_ms)
{
    e->end_ms = now_ms + a->config.last_ms[e->kind];
    e->newer = AFFINITY_NONE;
    e->older = a->newest[e->kind];
    if (e->older != AFFINITY_NONE)
        a->entry[e->older].newer = index_of(a, e);
    else
        a->oldest[e->kind] = index_of(a, e);
    a->newest[e->kind] = index_of(a, e);
}

static void list_take(struct affinity *a, struct affinity_entry *e)
{
    if (e->newer != AFFINITY_NONE)
        a->entry[e->newer].older = e->older;
    else
        a->newest[e->kind] = e->older;
    if (e->older != AFFINITY_NONE)
        a->entry[e->older].newer = e->newer;
    else
        a->oldest[e->kind] = e->newer;
}

static bool over(const struct affinity_entry *e, uint64_t now_ms)
{
    return e->uses == 0 && e->end_ms <= now_ms;
}

/* Makes an entry free, which is in use, and in a list unless it is held. */
static void forget(struct affinity *a, struct affinity_entry *e)
{
    uint32_t *link = bucket_of(a, e->id);

    while (*link != index_of(a, e))
        link = &a->entry[*link].next;
    *link = e->next;
    if (e->uses == 0)
        list_take(a, e);
    a->used[e->kind]--;
    e->uses = 0;
    e->kind = AFFINITY_KINDS;
    e->next = a->free;
    a->free = index_of(a, e);
}

/* The kind's oldest leaves, if its time is over. */
static bool expire_one(struct affinity *a, enum affinity_kind kind, uint64_t now_ms)
{
    const uint32_t oldest = a->oldest[kind];

    if (oldest == AFFINITY_NONE || !over(&a->entry[oldest], now_ms))
        return false;
    forget(a, &a->entry[oldest]);
    a->counts[kind].expired++;
    return true;
}

/* Sees to it that one more of the kind has room. */
static bool make_room(struct affinity *a, enum affinity_kind kind, uint64_t now_ms)
{
    if (a->used[kind] < a->config.most[kind] || expire_one(a, kind, now_ms))
        return true;
    if (kind == AFFINITY_TRANSACTION || a->oldest[kind] == AFFINITY_NONE) {
        a->counts[kind].full++;
        return false;
    }
    forget(a, &a->entry[a->oldest[kind]]);
    a->counts[kind].evictions++;
    return true;
}

struct affinity_entry *affinity_find(struct affinity *a, enum affinity_kind kind, const void *key, size_t n,
                                     uint64_t now_ms, bool refresh)
{
    uint64_t id[2];
    struct affinity_entry *e = look_up(a, kind, key, n, id);

    if (e != NULL && over(e, now_ms)) {
        forget(a, e);
        a->counts[kind].expired++;
        e = NULL;
    }
    if (e == NULL) {
        a->counts[kind].misses++;
        return NULL;
    }
    a->counts[kind].hits++;
    if (refresh && e->uses == 0) {
        list_take(a, e);
        list_put(a, e, now_ms);
    }
    return e;
}

/* Sets what is remembered under that id, of which e is the entry if there is one. */
static struct affinity_entry *add(struct affinity *a, enum affinity_kind kind, const uint64_t id[2], struct affinity_entry *e,
                                  uint16_t backend, uint64_t now_ms)
{
    uint32_t *bucket;

    if (e == NULL) {
        if (!make_room(a, kind, now_ms))
            return NULL;
        e = &a->entry[a->free];
        a->free = e->next;
        bucket = bucket_of(a, id);
        e->id[0] = id[0];
        e->id[1] = id[1];
        e->kind = (uint8_t)kind;
        e->next = *bucket;
        *bucket = index_of(a, e);
        a->used[kind]++;
    } else if (e->uses == 0) {
        list_take(a, e);
    }
    e->backend = backend;
    e->flags = 0;
    if (e->uses == 0)
        list_put(a, e, now_ms);
    return e;
}

struct affinity_entry *affinity_add(struct affinity *a, enum affinity_kind kind, const void *key, size_t n,
                                    uint16_t backend, uint64_t now_ms)
{
    uint64_t id[2];
    struct affinity_entry *e = look_up(a, kind, key, n, id);

    return add(a, kind, id, e, backend, now_ms);
}

struct affinity_entry *affinity_take(struct affinity *a, enum affinity_kind kind, const uint64_t id[2], uint16_t backend,
                                     uint64_t now_ms)
{
    struct affinity_entry *e = with_id(a, kind, id);

    return e != NULL ? e : add(a, kind, id, NULL, backend, now_ms);
}

/* Forgets e, or takes its backend away while it is held. */
static void forget_backend(struct affinity *a, struct affinity_entry *e)
{
    if (e->uses == 0)
        forget(a, e);
    else
        e->backend = AFFINITY_NOWHERE;
}

bool affinity_remove(struct affinity *a, enum affinity_kind kind, const void *key, size_t n)
{
    uint64_t id[2];
    struct affinity_entry *e = look_up(a, kind, key, n, id);

    if (e != NULL)
        forget_backend(a, e);
    return e != NULL;
}

uint32_t affinity_hold(struct affinity *a, struct affinity_entry *e)
{
    if (e->uses++ == 0)
        list_take(a, e);
    return index_of(a, e);
}

void affinity_release(struct affinity *a, uint32_t index, uint64_t now_ms)
{
    struct affinity_entry *e = &a->entry[index];

    if (e->uses == 0 || --e->uses > 0)
        return;
    list_put(a, e, now_ms);
    if (e->backend == AFFINITY_NOWHERE)
        forget(a, e);
}

uint32_t affinity_remove_backend(struct affinity *a, uint16_t backend)
{
    uint32_t i, count = 0;

    for (i = 0; i < a->size; i++) {
        if (a->entry[i].kind != AFFINITY_KINDS && a->entry[i].backend == backend) {
            forget_backend(a, &a->entry[i]);
            count++;
        }
    }
    return count;
}

uint32_t affinity_count(const struct affinity *a, enum affinity_kind kind, uint16_t backend, uint64_t now_ms)
{
    uint32_t i, count = 0;

    for (i = 0; i < a->size; i++)
        if (a->entry[i].kind == kind && a->entry[i].backend == backend && !over(&a->entry[i], now_ms))
            count++;
    return count;
}

uint32_t affinity_expire(struct affinity *a, uint64_t now_ms, uint32_t budget)
{
    uint32_t count = 0;
    int kind;

    for (kind = 0; kind < AFFINITY_KINDS; kind++)
        while (count < budget && expire_one(a, (enum affinity_kind)kind, now_ms))
            count++;
    return count;
}

/* ----------------------------------------------------------------- choice */

/* -log2((h + 1) / 2^64) in units of 2^-26: the fraction bit by bit, since squaring doubles a logarithm. h + 1 taken as
 * h | 1 at the low end. */
static uint64_t minus_log2(uint64_t h)
{
    uint64_t whole = 0, fraction = 0, m;
    int bit;

    for (h |= 1; h >> 63 == 0; h <<= 1)
        whole++;
    m = h >> 32; /* 1 to 2, in units of 2^-31 */
    for (bit = 0; bit < 26; bit++) {
        m = m * m >> 31;
        fraction = fraction << 1 | m >> 32;
        m >>= m >> 32;
    }
    return ((whole + 1) << 26) - fraction;
}

/* Mixes all bits of v into all others (the finalizer of SplitMix64). */
static uint64_t mixed(uint64_t v)
{
    v = (v ^ v >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    v = (v ^ v >> 27) * UINT64_C(0x94D049BB133111EB);
    return v ^ v >> 31;
}

uint16_t affinity_choose(const void *key, size_t n, const struct affinity_choice *list, size_t count)
{
    static const uint64_t everywhere[2] = {0, 0}; /* the same in each process */
    const struct affinity_choice *best = NULL;
    uint64_t id[2], cost, best_cost = 0;
    size_t i;

    affinity_hash(everywhere, key, n, id);
    for (i = 0; i < count; i++) {
        const struct affinity_choice *c = &list[i];

        if (c->weight == 0)
            continue;
        /* The chance to have the least -log(u) / weight is in proportion to the weight. At most 2^32 times below 2^32. */
        cost = minus_log2(mixed(id[0] ^ mixed(c->name ^ id[1])));
        if (best == NULL || cost * best->weight < best_cost * c->weight ||
            (cost * best->weight == best_cost * c->weight && c->name < best->name)) {
            best = c;
            best_cost = cost;
        }
    }
    return best != NULL ? best->backend : AFFINITY_NOWHERE;
}
