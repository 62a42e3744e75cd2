/*
 * topk.c - a space-saving sketch: topk.h has the picture.
 *
 * Owns nothing. The entries never move: heap and index name them by number.
 */
#include "topk.h"

#include <string.h>

#define NONE UINT16_MAX

static uint32_t lists_for(uint32_t entries)
{
    uint32_t n = 1;
    while (n < entries)
        n *= 2;
    return n;
}

size_t topk_size(uint32_t entries)
{
    return entries * (sizeof(struct topk_entry) + sizeof(struct topk_place)) + (lists_for(entries) * sizeof(uint16_t) + 7) / 8 * 8;
}

void topk_open(struct topk *t, void *memory, uint32_t entries, uint64_t seed)
{
    memset(t, 0, sizeof *t);
    t->seed = seed;
    if (entries == 0)
        return;
    t->cap = entries < TOPK_MAX ? entries : TOPK_MAX;
    t->entries = memory;
    t->heap = (struct topk_place *)(void *)(t->entries + t->cap);
    t->lists = (uint16_t *)(void *)(t->heap + t->cap);
    t->mask = lists_for(t->cap) - 1;
    for (uint32_t i = 0; i <= t->mask; i++)
        t->lists[i] = NONE;
}

/* Of all bytes, so that long keys are told apart by more than their beginnings. */
static uint64_t hash(uint64_t seed, const unsigned char *p, size_t n)
{
    uint64_t h = seed ^ 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    h = (h ^ seed) * 0x9e3779b97f4a7c15u; /* the low bits choose the list: all others have their say in them */
    return h ^ h >> 32;
}

/* ------------------------------------------------------------------ heap */

static void put(struct topk *t, uint32_t at, struct topk_place p)
{
    t->heap[at] = p;
    t->entries[p.entry].at = (uint16_t)at;
}

static struct topk_place place_of(const struct topk *t, uint16_t e)
{
    return (struct topk_place){ t->entries[e].count, e };
}

/* The entry e, which stands at `at`, counts more than before: those below that count less rise. */
static void sink(struct topk *t, uint32_t at, uint16_t e)
{
    struct topk_place p = place_of(t, e);
    for (uint32_t child; (child = 2 * at + 1) < t->used; at = child) {
        child += child + 1 < t->used && t->heap[child + 1].count < t->heap[child].count;
        if (t->heap[child].count >= p.count)
            break;
        put(t, at, t->heap[child]);
    }
    put(t, at, p);
}

/* A new one at the end may count less than those above it. */
static void rise(struct topk *t, uint32_t at, uint16_t e)
{
    struct topk_place p = place_of(t, e);
    for (; at > 0 && p.count < t->heap[(at - 1) / 2].count; at = (at - 1) / 2)
        put(t, at, t->heap[(at - 1) / 2]);
    put(t, at, p);
}

/* ----------------------------------------------------------------- index */

static uint16_t find(const struct topk *t, uint64_t h, const void *key, size_t len)
{
    size_t kept = len < TOPK_KEY ? len : TOPK_KEY;
    uint16_t i = t->lists[h & t->mask];
    while (i != NONE) {
        const struct topk_entry *e = &t->entries[i];
        if (e->hash == h && e->len == (uint32_t)len && memcmp(e->key, key, kept) == 0)
            break;
        i = e->next;
    }
    return i;
}

static void unlist(struct topk *t, uint16_t e)
{
    uint16_t *link = &t->lists[t->entries[e].hash & t->mask];
    while (*link != e)
        link = &t->entries[*link].next;
    *link = t->entries[e].next;
}

/* The entry e becomes that key's. */
static void become(struct topk *t, uint16_t e, uint64_t h, const void *key, size_t len)
{
    struct topk_entry *n = &t->entries[e];
    n->hash = h;
    n->len = (uint32_t)len;
    memcpy(n->key, key, len < TOPK_KEY ? len : TOPK_KEY);
    n->next = t->lists[h & t->mask];
    t->lists[h & t->mask] = e;
}

/* ----------------------------------------------------------------- calls */

void topk_count(struct topk *t, const void *key, size_t len, uint16_t mark, uint64_t weight)
{
    uint64_t h;
    uint16_t e;
    if (t->cap == 0 || weight == 0)
        return;
    h = hash(t->seed, key, len);
    e = find(t, h, key, len);
    t->sorted = false;
    if (e != NONE) {
        t->entries[e].count += weight;
        sink(t, t->entries[e].at, e);
    } else if (t->used < t->cap) {
        e = (uint16_t)t->used++;
        become(t, e, h, key, len);
        t->entries[e].count = weight;
        t->entries[e].error = 0;
        t->entries[e].mark = mark;
        rise(t, e, e);
    } else {
        e = t->heap[0].entry;
        unlist(t, e);
        become(t, e, h, key, len);
        t->entries[e].error = t->entries[e].count;
        t->entries[e].count += weight;
        t->entries[e].mark = mark;
        sink(t, 0, e);
    }
}

void topk_halve(struct topk *t)
{
    for (uint32_t i = 0; i < t->used; i++) { /* who counted less still does, or as much: the heap is one */
        t->entries[i].count /= 2;
        t->entries[i].error /= 2;
        t->heap[t->entries[i].at].count = t->entries[i].count;
    }
}

/* In ascending order the heap is still one. Most of it is in order already, or nearly: then this costs little more than a look at
 * each. Never more than some times as many moves as there are entries: a plain insertion sort of 16,384 would take 0.1 s. */
static void sort(struct topk *t)
{
    uint32_t gap = 1;
    while (gap < t->used / 3)
        gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3) { /* Shell's, with Knuth's gaps */
        for (uint32_t i = gap; i < t->used; i++) {
            struct topk_place p = t->heap[i];
            uint32_t at = i;
            for (; at >= gap && p.count < t->heap[at - gap].count; at -= gap)
                put(t, at, t->heap[at - gap]);
            if (at != i)
                put(t, at, p);
        }
    }
    t->sorted = true;
}

const struct topk_entry *topk_at(struct topk *t, uint32_t i)
{
    const struct topk_entry *e;
    if (i >= t->used)
        return NULL;
    if (!t->sorted)
        sort(t);
    e = &t->entries[t->heap[t->used - 1 - i].entry];
    return e->count > 0 ? e : NULL;
}
