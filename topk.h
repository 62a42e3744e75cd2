/* topk.h - which keys come most often in a stream, in a fixed number of entries: a space-saving sketch.
 *
 *   topk_count(key) --index--> its entry: count grows
 *                        `---> none, and all are taken: the least counted one becomes this key's, and keeps its count as `error`
 *
 *   heap   [least] [..] [..] [..]     by count: the root is who gives way, in O(log n)
 *
 * A pure room: no clock, no memory but the caller's. With n entries and N counted in all, every key that came more often than N / n
 * has an entry; what an entry says is never too little, and too much by its `error` at most, which is N / n at most.
 *
 * Source: A. Metwally, D. Agrawal, A. El Abbadi, "Efficient computation of frequent and top-k elements in data streams" (2005).
 */
#ifndef PUERTA_TOPK_H
#define PUERTA_TOPK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOPK_KEY 64      /* bytes of a key that are kept; longer ones that begin alike are told apart by length and hash */
#define TOPK_MAX 16384   /* entries at most */

struct topk_entry {
    uint64_t count, error; /* it came count - error to count times */
    uint64_t hash;
    uint32_t len;          /* of the whole key, though no more than TOPK_KEY bytes of it are here */
    uint16_t next;         /* in its list of the index; TOPK_NONE ends it */
    uint16_t at;           /* where it stands in the heap */
    uint16_t mark;         /* the caller's, as it was first counted with */
    unsigned char key[TOPK_KEY];
};

/* A place in the heap: who stands there, and its count once more, where it is compared. */
struct topk_place { uint64_t count; uint16_t entry; };

struct topk {
    struct topk_entry *entries;
    struct topk_place *heap; /* the least count first */
    uint16_t *lists;       /* heads of the index */
    uint64_t seed;
    uint32_t cap, used, mask;
    bool sorted;           /* the heap is in order as a whole, as topk_at() leaves it */
};

/* Bytes of memory for that many entries: a multiple of 8. */
size_t topk_size(uint32_t entries);

/* Begins empty in topk_size(entries) bytes at `memory`, aligned as for a uint64_t, the caller's as long as the sketch is used.
 * seed: a number that whoever chooses keys cannot guess, lest they all fall into one list. entries 0: counts nothing. */
void topk_open(struct topk *t, void *memory, uint32_t entries, uint64_t seed);

/* The key came `weight` times more. */
void topk_count(struct topk *t, const void *key, size_t len, uint16_t mark, uint64_t weight);

/* All counts and errors become half of what they were: what is long ago fades. */
void topk_halve(struct topk *t);

/* Number i, the most counted one first; NULL past the last one that counts anything. The first call behind a topk_count() sorts. Good
 * until then. */
const struct topk_entry *topk_at(struct topk *t, uint32_t i);

#endif
