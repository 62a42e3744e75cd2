/* test_affinity.c - affinity.c against a plain model of it, at its bounds, and the shares that its choice gives.
 *
 *   random finds, adds, removals, holds, expiries --table--> what it says --.
 *                                                 --model--> what it says --+-- the same
 *   10,000 keys over n backends --affinity_choose()--> shares, and how many move when one leaves
 */
#include <stdlib.h>
#include <string.h>

#include "affinity.h"
#include "unit.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define KEYS 10000U

static const struct affinity_config config = {{8, 4, 6, 3}, {1000, 600, 2000, 500}, {1, 2}};
static struct affinity_entry entries[21];
static struct affinity table;

static void fresh(void)
{
    memset(entries, 0xA5, sizeof entries);
    memset(&table, 0xA5, sizeof table);
    affinity_init(&table, &config, entries);
}

static uint16_t find(enum affinity_kind kind, const char *key, uint64_t now, bool refresh)
{
    const struct affinity_entry *e = affinity_find(&table, kind, key, strlen(key), now, refresh);

    return e != NULL ? e->backend : AFFINITY_NOWHERE;
}

static struct affinity_entry *add(enum affinity_kind kind, const char *key, uint16_t backend, uint64_t now)
{
    return affinity_add(&table, kind, key, strlen(key), backend, now);
}

/* The vectors of SipHash's authors: key 00..0f, message 00, 01, 02 ... */
static void test_hash(void)
{
    static const struct { size_t n; uint64_t out[2]; } vectors[] = {
        {0, {UINT64_C(0xE6A825BA047F81A3), UINT64_C(0x930255C71472F66D)}},
        {1, {UINT64_C(0x44AF996BD8C187DA), UINT64_C(0x45FC229B11597634)}},
        {15, {UINT64_C(0x11A8B03399E99354), UINT64_C(0xD9C3CF970FEC087E)}},
    };
    static const uint64_t seed[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0F0E0D0C0B0A0908)};
    unsigned char bytes[16];
    uint64_t out[2];
    size_t i;

    unit_note = "SipHash";
    for (i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)i;
    for (i = 0; i < COUNT(vectors); i++) {
        affinity_hash(seed, bytes, vectors[i].n, out);
        CHECK(out[0] == vectors[i].out[0] && out[1] == vectors[i].out[1]);
    }
}

static void test_time(void)
{
    unit_note = "time";
    fresh();
    CHECK(affinity_size(&config) == COUNT(entries));
    CHECK(find(AFFINITY_CURSOR, "a", 0, true) == AFFINITY_NOWHERE);
    CHECK(add(AFFINITY_CURSOR, "a", 5, 0) != NULL && add(AFFINITY_SESSION, "a", 6, 0) != NULL);
    CHECK(find(AFFINITY_CURSOR, "a", 999, false) == 5 && find(AFFINITY_SESSION, "a", 999, false) == 6);
    CHECK(find(AFFINITY_TRANSACTION, "a", 0, false) == AFFINITY_NOWHERE && find(AFFINITY_CURSOR, "b", 0, false) == AFFINITY_NOWHERE);
    CHECK(find(AFFINITY_CURSOR, "a", 1000, false) == AFFINITY_NOWHERE); /* without a refresh it ends */
    CHECK(find(AFFINITY_CURSOR, "a", 0, false) == AFFINITY_NOWHERE && table.used[AFFINITY_CURSOR] == 0);
    add(AFFINITY_CURSOR, "a", 5, 1000);
    CHECK(find(AFFINITY_CURSOR, "a", 1999, true) == 5 && find(AFFINITY_CURSOR, "a", 2998, true) == 5);
    CHECK(find(AFFINITY_CURSOR, "a", 3997, false) == 5);
    CHECK(add(AFFINITY_CURSOR, "a", 7, 3997) != NULL && table.used[AFFINITY_CURSOR] == 1 && find(AFFINITY_CURSOR, "a", 4996, false) == 7);
    CHECK(affinity_remove(&table, AFFINITY_CURSOR, "a", 1) && !affinity_remove(&table, AFFINITY_CURSOR, "a", 1));
    CHECK(find(AFFINITY_CURSOR, "a", 4000, false) == AFFINITY_NOWHERE);
    CHECK(table.counts[AFFINITY_CURSOR].hits == 5 && table.counts[AFFINITY_CURSOR].misses == 5 && table.counts[AFFINITY_CURSOR].expired == 1);

    unit_note = "expiry within a budget";
    fresh();
    add(AFFINITY_CURSOR, "1", 0, 0);
    add(AFFINITY_CURSOR, "2", 0, 10);
    add(AFFINITY_TRANSACTION, "3", 0, 10);
    CHECK(affinity_expire(&table, 609, 100) == 0);
    CHECK(affinity_expire(&table, 1000, 100) == 2 && table.used[AFFINITY_CURSOR] == 1 && table.used[AFFINITY_TRANSACTION] == 0);
    add(AFFINITY_CURSOR, "3", 0, 1000);
    CHECK(affinity_expire(&table, 5000, 1) == 1 && affinity_expire(&table, 5000, 0) == 0 && affinity_expire(&table, 5000, 9) == 1);
}

/* What each kind does when its share is full. */
static void test_full(void)
{
    char key[8] = "k0";
    struct affinity_entry *e;
    uint32_t held[3];
    int i;

    unit_note = "cursors: the least recently used leaves";
    fresh();
    for (i = 0; i < 8; i++, key[1]++)
        CHECK(add(AFFINITY_CURSOR, key, (uint16_t)i, 10 + (uint64_t)i) != NULL);
    CHECK(find(AFFINITY_CURSOR, "k0", 20, true) == 0 && find(AFFINITY_CURSOR, "k2", 20, false) == 2);
    CHECK(add(AFFINITY_CURSOR, "new", 9, 20) != NULL && find(AFFINITY_CURSOR, "k1", 20, false) == AFFINITY_NOWHERE);
    CHECK(find(AFFINITY_CURSOR, "k0", 20, false) == 0 && add(AFFINITY_CURSOR, "newer", 9, 20) != NULL);
    CHECK(find(AFFINITY_CURSOR, "k2", 20, false) == AFFINITY_NOWHERE && table.counts[AFFINITY_CURSOR].evictions == 2);
    CHECK(table.counts[AFFINITY_CURSOR].full == 0 && table.used[AFFINITY_CURSOR] == 8);

    unit_note = "transactions: none leaves";
    for (i = 0; i < 4; i++, key[1]++)
        CHECK(add(AFFINITY_TRANSACTION, key, 1, 100 + (uint64_t)i) != NULL);
    CHECK(add(AFFINITY_TRANSACTION, "more", 1, 110) == NULL && table.counts[AFFINITY_TRANSACTION].full == 1);
    CHECK(table.counts[AFFINITY_TRANSACTION].evictions == 0);
    CHECK(add(AFFINITY_TRANSACTION, "more", 1, 699) == NULL && add(AFFINITY_TRANSACTION, "more", 1, 700) != NULL);
    CHECK(table.counts[AFFINITY_TRANSACTION].expired == 1 && table.counts[AFFINITY_TRANSACTION].evictions == 0);
    key[1]--;
    CHECK(add(AFFINITY_TRANSACTION, key, 2, 701) != NULL); /* what is there already always has room */

    unit_note = "clients: those with connections stay";
    fresh();
    for (i = 0; i < 3; i++) {
        key[1] = (char)('a' + i);
        e = add(AFFINITY_CLIENT, key, (uint16_t)i, 0);
        held[i] = affinity_hold(&table, e);
        CHECK(e->uses == 1);
    }
    CHECK(add(AFFINITY_CLIENT, "kx", 3, 1000000) == NULL && table.counts[AFFINITY_CLIENT].full == 1);
    CHECK(affinity_expire(&table, 1000000, 100) == 0 && find(AFFINITY_CLIENT, "ka", 1000000, true) == 0);
    e = affinity_find(&table, AFFINITY_CLIENT, "kb", 2, 1000000, true);
    CHECK(e != NULL && affinity_hold(&table, e) == held[1] && e->uses == 2);
    affinity_release(&table, held[1], 1000000);
    affinity_release(&table, held[0], 1000001);
    affinity_release(&table, held[1], 1000002);
    affinity_release(&table, held[1], 1000002); /* once too often: nothing happens */
    CHECK(find(AFFINITY_CLIENT, "ka", 1000500, false) == 0 && find(AFFINITY_CLIENT, "kc", 2000000, false) == 2);
    CHECK(add(AFFINITY_CLIENT, "kx", 3, 1000400) != NULL && table.counts[AFFINITY_CLIENT].evictions == 1);
    CHECK(find(AFFINITY_CLIENT, "ka", 1000400, false) == AFFINITY_NOWHERE && find(AFFINITY_CLIENT, "kb", 1000400, false) == 1);
    CHECK(find(AFFINITY_CLIENT, "kb", 1000502, false) == AFFINITY_NOWHERE);

    unit_note = "a share of none";
    {
        static const struct affinity_config none = {{0, 0, 0, 1}, {1, 1, 1, 1}, {0, 0}};

        affinity_init(&table, &none, entries);
        CHECK(add(AFFINITY_CURSOR, "a", 1, 0) == NULL && table.counts[AFFINITY_CURSOR].full == 1);
        CHECK(find(AFFINITY_CURSOR, "a", 0, true) == AFFINITY_NOWHERE && add(AFFINITY_CLIENT, "a", 1, 0) != NULL);
    }
}

/* A backend that is gone takes all with it, but what is held: that loses its backend, and is chosen for anew. */
static void test_backend_gone(void)
{
    struct affinity_entry *e;
    uint32_t held;

    unit_note = "a backend that is gone";
    fresh();
    add(AFFINITY_CURSOR, "c1", 1, 0);
    add(AFFINITY_CURSOR, "c2", 2, 0);
    add(AFFINITY_TRANSACTION, "t1", 1, 0);
    add(AFFINITY_CLIENT, "idle", 1, 0);
    e = add(AFFINITY_CLIENT, "live", 1, 0);
    e->flags = 9;
    held = affinity_hold(&table, e);
    CHECK(affinity_count(&table, AFFINITY_CURSOR, 1, 0) == 1 && affinity_count(&table, AFFINITY_CURSOR, 1, 1000) == 0);
    CHECK(affinity_count(&table, AFFINITY_CLIENT, 1, 1000000) == 1);
    CHECK(affinity_remove_backend(&table, 1) == 4 && affinity_remove_backend(&table, 1) == 0);
    CHECK(find(AFFINITY_CURSOR, "c1", 0, false) == AFFINITY_NOWHERE && find(AFFINITY_CURSOR, "c2", 0, false) == 2);
    e = affinity_find(&table, AFFINITY_CLIENT, "live", 4, 0, true);
    CHECK(e != NULL && e->backend == AFFINITY_NOWHERE && e->uses == 1 && table.used[AFFINITY_CLIENT] == 1);
    e = add(AFFINITY_CLIENT, "live", 2, 0);
    CHECK(e != NULL && e->uses == 1 && e->backend == 2 && e->flags == 0);
    affinity_release(&table, held, 10);
    CHECK(find(AFFINITY_CLIENT, "live", 509, false) == 2 && find(AFFINITY_CLIENT, "live", 510, false) == AFFINITY_NOWHERE);
    held = affinity_hold(&table, add(AFFINITY_CLIENT, "live", 2, 600));
    CHECK(affinity_remove(&table, AFFINITY_CLIENT, "live", 4) && table.used[AFFINITY_CLIENT] == 1);
    affinity_release(&table, held, 610);
    CHECK(table.used[AFFINITY_CLIENT] == 0);
}

/* ------------------------------------------------------- against a model */

#define MODEL_KEYS 40

struct model_entry {
    bool there;
    uint16_t backend;
    uint32_t uses, index;
    uint64_t end, order; /* order: greater is more recent */
};

static struct model_entry model[AFFINITY_KINDS][MODEL_KEYS];

static uint32_t model_used(enum affinity_kind kind, uint64_t now, bool live_only)
{
    uint32_t i, count = 0;

    for (i = 0; i < MODEL_KEYS; i++)
        count += model[kind][i].there && (!live_only || model[kind][i].uses > 0 || model[kind][i].end > now);
    return count;
}

/* The one that would leave: the least recent of those not held. */
static struct model_entry *model_oldest(enum affinity_kind kind)
{
    struct model_entry *oldest = NULL;
    uint32_t i;

    for (i = 0; i < MODEL_KEYS; i++) {
        struct model_entry *m = &model[kind][i];

        if (m->there && m->uses == 0 && (oldest == NULL || m->order < oldest->order))
            oldest = m;
    }
    return oldest;
}

static bool model_room(enum affinity_kind kind, uint64_t now)
{
    struct model_entry *oldest = model_oldest(kind);

    if (model_used(kind, now, false) < config.most[kind])
        return true;
    if (oldest == NULL || (kind == AFFINITY_TRANSACTION && oldest->end > now))
        return false;
    oldest->there = false;
    return true;
}

static uint32_t chance(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(*seed >> 8) * below >> 24);
}

static void test_model(void)
{
    uint32_t seed = 11, round, key, i;
    uint64_t now = 0, order = 0;

    unit_note = "against the model";
    fresh();
    memset(model, 0, sizeof model);
    for (round = 0; round < 300000; round++) {
        const enum affinity_kind kind = (enum affinity_kind)chance(&seed, AFFINITY_KINDS);
        const uint16_t backend = (uint16_t)chance(&seed, 3);
        const bool refresh = chance(&seed, 2) == 1;
        struct model_entry *m = &model[kind][key = chance(&seed, MODEL_KEYS)];
        struct affinity_entry *e;

        now += chance(&seed, 60);
        switch (chance(&seed, 8)) {
        case 0: case 1: case 2:
            e = affinity_find(&table, kind, &key, sizeof key, now, refresh);
            if (m->there && m->uses == 0 && m->end <= now)
                m->there = false;
            CHECK((e != NULL) == m->there && (e == NULL || (e->backend == m->backend && e->uses == m->uses)));
            if (e != NULL && refresh && m->uses == 0) {
                m->end = now + config.last_ms[kind];
                m->order = ++order;
            }
            break;
        case 3: case 4:
            e = affinity_add(&table, kind, &key, sizeof key, backend, now);
            if (!m->there && !model_room(kind, now)) {
                CHECK(e == NULL);
                break;
            }
            if (!m->there)
                m->uses = 0;
            m->there = true;
            m->backend = backend;
            if (m->uses == 0) {
                m->end = now + config.last_ms[kind];
                m->order = ++order;
            }
            CHECK(e != NULL && e->uses == m->uses && e->backend == backend);
            break;
        case 5:
            e = affinity_find(&table, kind, &key, sizeof key, now, false);
            if (e != NULL && kind == AFFINITY_CLIENT && m->uses < 3) {
                m->index = affinity_hold(&table, e);
                m->uses++;
            } else if (e == NULL) {
                m->there = false;
            }
            break;
        case 6:
            if (m->there && m->uses > 0) {
                affinity_release(&table, m->index, now);
                if (--m->uses == 0) {
                    m->end = now + config.last_ms[kind];
                    m->order = ++order;
                    m->there = m->backend != AFFINITY_NOWHERE;
                }
            } else {
                CHECK(affinity_remove(&table, kind, &key, sizeof key) == m->there);
                m->there = false;
            }
            break;
        default:
            if (chance(&seed, 20) == 0) {
                affinity_remove_backend(&table, backend);
                for (i = 0; i < AFFINITY_KINDS * MODEL_KEYS; i++) {
                    m = &model[i / MODEL_KEYS][i % MODEL_KEYS];
                    if (m->there && m->backend == backend && m->uses == 0)
                        m->there = false;
                    else if (m->there && m->backend == backend)
                        m->backend = AFFINITY_NOWHERE;
                }
            } else {
                affinity_expire(&table, now, UINT32_MAX);
                for (i = 0; i < AFFINITY_KINDS * MODEL_KEYS; i++) {
                    m = &model[i / MODEL_KEYS][i % MODEL_KEYS];
                    m->there = m->there && (m->uses > 0 || m->end > now);
                }
            }
        }
        CHECK(table.used[kind] == model_used(kind, now, false) && table.used[kind] <= config.most[kind]);
    }
}

/* ------------------------------------------------------------------ choice */

static uint16_t choices[KEYS];

/* Chooses for every key; gives how many choices are others than the last time. */
static uint32_t choose_all(const struct affinity_choice *list, size_t n, uint32_t shares[])
{
    uint32_t key, moved = 0;
    size_t i;

    for (i = 0; i < 16; i++)
        shares[i] = 0;
    for (key = 0; key < KEYS; key++) {
        uint16_t now = affinity_choose(&key, sizeof key, list, n);

        moved += now != choices[key];
        choices[key] = now;
        if (now < 16)
            shares[now]++;
    }
    return moved;
}

static bool near_to(uint32_t is, double should)
{
    /* Five standard deviations of a binomial distribution. */
    double d = (double)is - should;

    return d * d < 25 * should;
}

static void test_choice(void)
{
    struct affinity_choice list[16], others[16];
    uint32_t shares[16], before[16], moved;
    unsigned char byte;
    size_t n, i;

    unit_note = "equal shares, least movement";
    for (i = 0; i < 16; i++)
        list[i] = (struct affinity_choice){i * 77 + 1, 100, (uint16_t)i};
    for (n = 1; n <= 16; n++) {
        choose_all(list, n, shares);
        for (i = 0; i < n; i++)
            CHECK(near_to(shares[i], KEYS / (double)n));
        /* The last one leaves: only its keys move, and about 1/n of them all. */
        memcpy(before, shares, sizeof before);
        moved = choose_all(list, n - 1, shares);
        CHECK(moved == before[n - 1] && near_to(moved, KEYS / (double)n));
        for (i = 0; i + 1 < n; i++)
            CHECK(shares[i] >= before[i]);
    }
    CHECK(affinity_choose("k", 1, list, 0) == AFFINITY_NOWHERE);

    unit_note = "the order of the list says nothing";
    choose_all(list, 16, shares);
    for (i = 0; i < 16; i++)
        others[i] = list[15 - i];
    CHECK(choose_all(others, 16, shares) == 0);

    unit_note = "weights";
    for (i = 0; i < 4; i++)
        list[i].weight = (uint32_t)i * 50; /* 0, 50, 100, 150 */
    choose_all(list, 4, shares);
    CHECK(shares[0] == 0);
    for (i = 1; i < 4; i++)
        CHECK(near_to(shares[i], KEYS * (double)i / 6));
    /* A weight that grows takes keys from all others and gives none away. */
    memcpy(before, shares, sizeof before);
    list[1].weight = 100;
    moved = choose_all(list, 4, shares);
    CHECK(moved == shares[1] - before[1] && near_to(shares[1], KEYS * 2.0 / 7));
    list[1].weight = list[2].weight = list[3].weight = UINT32_MAX;
    choose_all(list, 4, shares);
    for (i = 1; i < 4; i++)
        CHECK(near_to(shares[i], KEYS / 3.0));
    list[1].weight = list[2].weight = list[3].weight = 0;
    CHECK(affinity_choose("k", 1, list, 4) == AFFINITY_NOWHERE);

    unit_note = "the choice stays the same between processes";
    list[0].weight = list[1].weight = list[2].weight = 1;
    for (byte = 0, n = 0; byte < 20; byte++)
        n = n * 3 + affinity_choose(&byte, 1, list, 3);
    CHECK(n == 1030119828);
}

int main(void)
{
    test_hash();
    test_time();
    test_full();
    test_backend_gone();
    test_model();
    test_choice();
    return unit_end();
}
