/* affinity.h - remembers which backend a cursor, a transaction, a session or a client belongs to, and chooses one for
 * what is new.
 *
 *   (kind, key bytes) --SipHash-2-4--> 128 bits --chain of a bucket--> entry: backend, uses, flags
 *                                                     |
 *   each kind:   newest <--> ... <--> oldest     in the order in which they end; those in use are in no such list
 *   (key bytes, healthy backends with weights) --affinity_choose()--> backend (rendezvous hashing)
 *
 * One table for all kinds, of a size that is fixed at the start; each kind has a share of its own, so that none can
 * crowd out another. A pure room: no clock (the caller says what time it is), no memory but the caller's.
 *
 * Sources: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), and its 128-bit form; Thaler and
 * Ravishankar, "Using name-based mappings to increase hit rates" (1998), with weights as in Schindler and
 * Schomaker, "Weighted distributed hash tables" (2009).
 */
#ifndef PUERTA_AFFINITY_H
#define PUERTA_AFFINITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AFFINITY_NOWHERE 0xFFFF       /* a backend: none */
#define AFFINITY_NONE UINT32_MAX      /* an index of an entry: none */

/* What each kind does when its share is full:
 *   CURSOR, SESSION   the one used least recently leaves
 *   TRANSACTION       none leaves before its time: the caller is told that it is full
 *   CLIENT            the one that has been without a connection for longest leaves; when all have some, full
 * What has passed its time always leaves first, and is not counted as an eviction. */
enum affinity_kind { AFFINITY_CURSOR, AFFINITY_TRANSACTION, AFFINITY_SESSION, AFFINITY_CLIENT, AFFINITY_KINDS };

/* One thing remembered. The caller may read the first group, and write flags. */
struct affinity_entry {
    uint32_t uses;    /* held so many times: not 0 means that it neither ends nor leaves */
    uint16_t backend; /* AFFINITY_NOWHERE: its backend was taken away while it was held */
    uint8_t flags;    /* the caller's; 0 when new */

    uint8_t kind;     /* private from here on */
    uint32_t next;    /* in the chain of its bucket, or of the free ones */
    uint32_t newer, older;
    uint32_t bucket;  /* the first entry of the bucket that has this index: says nothing of this entry */
    uint64_t end_ms;
    uint64_t id[2];
};

struct affinity_config {
    uint32_t most[AFFINITY_KINDS];   /* entries of each kind; together 1 to 2^31 */
    uint32_t last_ms[AFFINITY_KINDS]; /* how long one lasts after it was last refreshed, or let go */
    uint64_t seed[2];                /* random: nobody outside can make keys that collide */
};

struct affinity_counts {
    uint64_t hits, misses, evictions, expired, full;
};

struct affinity {
    struct affinity_config config;
    struct affinity_entry *entry;    /* the caller's array */
    uint32_t size, free;             /* of it, and the number of buckets; the first free entry */
    uint32_t used[AFFINITY_KINDS], newest[AFFINITY_KINDS], oldest[AFFINITY_KINDS];
    struct affinity_counts counts[AFFINITY_KINDS];
};

/* How many entries that configuration needs: the sum of the shares. */
uint32_t affinity_size(const struct affinity_config *config);

/* Begins with an empty table in entries[0..affinity_size(config)), which is the caller's and lives as long. */
void affinity_init(struct affinity *a, const struct affinity_config *config, struct affinity_entry *entries);

/* What that key belongs to; NULL: not remembered, or its time is over. refresh: its time begins anew, and it counts as
 * used just now. now_ms is monotonic. The pointer is good until the next call that adds, removes or expires. */
struct affinity_entry *affinity_find(struct affinity *a, enum affinity_kind kind, const void *key, size_t n,
                                     uint64_t now_ms, bool refresh);

/* Remembers that the key belongs to that backend, in place of what was remembered of it (uses stay, flags become 0).
 * NULL when the kind's share is full, as said above. */
struct affinity_entry *affinity_add(struct affinity *a, enum affinity_kind kind, const void *key, size_t n,
                                    uint16_t backend, uint64_t now_ms);

/* The same for a key of which only the hash is known, in a table with the same seed: from entry to entry of another process's table. What
 * is remembered already stays as it is. It lasts as if it were new. */
struct affinity_entry *affinity_take(struct affinity *a, enum affinity_kind kind, const uint64_t id[2], uint16_t backend,
                                     uint64_t now_ms);

/* Whether that entry is in use. */
static inline bool affinity_is_used(const struct affinity_entry *e)
{
    return e->kind != AFFINITY_KINDS;
}

/* Forgets the key; false if it was not remembered. One that is held stays, without its backend. */
bool affinity_remove(struct affinity *a, enum affinity_kind kind, const void *key, size_t n);

/* Holds an entry (a client that has a connection): it neither ends nor leaves. Gives its index for affinity_release(),
 * which stays good until then. */
uint32_t affinity_hold(struct affinity *a, struct affinity_entry *e);

/* Lets it go once: after the last time it lasts for last_ms more. One without a backend is forgotten then. */
void affinity_release(struct affinity *a, uint32_t index, uint64_t now_ms);

/* Forgets all that belongs to a backend, of every kind; what is held loses its backend and stays. Gives how many those
 * are together. Looks at every entry. */
uint32_t affinity_remove_backend(struct affinity *a, uint16_t backend);

/* How many of a kind belong to a backend and are not past their time. Looks at every entry. */
uint32_t affinity_count(const struct affinity *a, enum affinity_kind kind, uint16_t backend, uint64_t now_ms);

/* Forgets what is past its time, at most `budget` entries; gives how many. To be called now and then: nothing is wrong
 * without it, for a find does not give what is past its time, but the counts of used ones would be too high. */
uint32_t affinity_expire(struct affinity *a, uint64_t now_ms, uint32_t budget);

/* SipHash-2-4 of n bytes with 128 bits of output. */
void affinity_hash(const uint64_t seed[2], const void *bytes, size_t n, uint64_t out[2]);

/* One backend that may be chosen. `name` is a number that stays the same for the same server, also in other processes:
 * a hash of its address. Weight 0 is never chosen. */
struct affinity_choice {
    uint64_t name;
    uint32_t weight;
    uint16_t backend;
};

/* The backend with the highest random weight for that key, AFFINITY_NOWHERE if there is none. Each gets keys in proportion
 * to its weight. One that leaves or comes moves no keys but its own; a weight that changes moves only what it has to.
 * Depends on nothing but its arguments (no seed), so that processes agree. */
uint16_t affinity_choose(const void *key, size_t n, const struct affinity_choice *list, size_t count);

#endif
