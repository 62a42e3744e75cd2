/*
 * mongo_hand.c - the tables of MongoDB mode in an upgrade: what lives at which mongos, as notes from one worker to the next.
 *
 *   struct affinity -- its seed, then entry by entry --> struct hand_note --> the same entries in another process
 *                                                          a mongos by the hash of its address: its index may be another one there
 *
 * Owns nothing: mongo_choose.c and mongo_route.c have the tables.
 */
#include "mongo.h"

#include <string.h>

static struct backend *at_place(const struct service *s, uint64_t place)
{
    for (uint16_t i = 0; i < backend_cap(); i++) {
        struct backend *b = backend_at(i);
        if (b != NULL && b->service == s && mongos_of(b)->name == place) {
            return b;
        }
    }
    return NULL;
}

static void begin(struct hand_note *n, const struct service *s, enum mongo_note what)
{
    memset(n, 0, sizeof *n);
    n->kind = SERVICE_MONGO;
    n->what = (uint8_t)what;
    memcpy(n->section, s->conf->name, sizeof n->section);
}

void mongo_make_seed(struct hand_note *n, const struct affinity *a, const struct service *s)
{
    begin(n, s, NOTE_SEED);
    memcpy(n->id, a->config.seed, sizeof n->id);
}

bool mongo_tell_table(const struct affinity *a, const struct service *s, uint32_t *at, bool (*give)(const struct hand_note *),
                      void (*fill)(const struct service *, uint32_t, struct hand_note *))
{
    struct hand_note n;
    for (; *at < a->size; ++*at) {
        const struct affinity_entry *e = &a->entry[*at];
        const struct backend *b = affinity_is_used(e) && e->backend != AFFINITY_NOWHERE ? backend_at(e->backend) : NULL;
        if (b == NULL) {
            continue;
        }
        begin(&n, s, NOTE_ENTRY);
        n.of = e->kind;
        n.place = mongos_of(b)->name;
        memcpy(n.id, e->id, sizeof n.id);
        if (fill != NULL) {
            fill(s, *at, &n);
        }
        if (!give(&n)) {
            return false;
        }
    }
    return true;
}

/* Hashes of another seed would never be found: the seed is taken over too, as long as nothing stands in the table. */
static void take_seed(struct affinity *a, struct affinity_entry *entries, const uint64_t seed[2])
{
    struct affinity_config config = a->config;
    for (int kind = 0; kind < AFFINITY_KINDS; kind++) {
        if (a->used[kind] > 0) {
            return;
        }
    }
    memcpy(config.seed, seed, sizeof config.seed);
    affinity_init(a, &config, entries);
}

struct affinity_entry *mongo_take_note(struct affinity *a, struct affinity_entry *entries, const struct service *s, const struct hand_note *n)
{
    const struct backend *b = at_place(s, n->place);
    enum affinity_kind kind = (enum affinity_kind)n->of;
    if (n->of >= AFFINITY_KINDS || n->key_len > sizeof n->key) {
        return NULL;
    }
    switch ((enum mongo_note)n->what) {
    case NOTE_SEED: take_seed(a, entries, n->id); break;
    case NOTE_ENTRY: return b != NULL ? affinity_take(a, kind, n->id, b->index, loop_ms()) : NULL;
    case NOTE_PUT: return b != NULL ? affinity_add(a, kind, n->key, n->key_len, b->index, loop_ms()) : NULL;
    case NOTE_REMOVE: affinity_remove(a, kind, n->key, n->key_len); break;
    }
    return NULL;
}

void mongo_make_note(struct hand_note *n, const struct service *s, enum affinity_kind of, const void *key, size_t len, const struct backend *b)
{
    begin(n, s, b != NULL ? NOTE_PUT : NOTE_REMOVE);
    n->of = (uint8_t)of;
    n->place = b != NULL ? mongos_of(b)->name : 0;
    must(len <= sizeof n->key);
    n->key_len = (uint8_t)len;
    memcpy(n->key, key, len);
}

struct backend *mongo_at_place(const struct service *s, uint64_t place)
{
    return at_place(s, place);
}
