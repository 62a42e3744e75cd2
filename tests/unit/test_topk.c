/* test_topk.c - topk.c against an exact count: its bounds on even and skewed streams, halving, keys of any length, order.
 *
 *   a stream of keys --topk_count()--> entries --.
 *                    --an array------> counts  --+-- count - error <= true <= count; error <= all / entries; none that is hot is missing
 */
#include <stdlib.h>
#include <string.h>

#include "topk.h"
#include "unit.h"

#define KEYS 5000

static uint64_t memory[262144];
static uint64_t counts[KEYS];
static uint64_t state = 88172645463325252u;

static uint32_t draw(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % below;
}

static size_t key_text(uint32_t key, char *out)
{
    return (size_t)snprintf(out, 32, "key:%u", (unsigned)key);
}

static void count(struct topk *t, uint32_t key, uint64_t weight)
{
    char text[32];
    topk_count(t, text, key_text(key, text), (uint16_t)key, weight);
    counts[key] += weight;
}

static void fresh(struct topk *t, uint32_t entries, uint64_t seed)
{
    memset(memory, 0xA5, sizeof memory);
    memset(counts, 0, sizeof counts);
    if (CHECK(topk_size(entries) <= sizeof memory && topk_size(entries) % 8 == 0))
        topk_open(t, memory, entries, seed);
}

static uint32_t key_of(const struct topk_entry *e)
{
    char text[TOPK_KEY + 1] = "";
    memcpy(text, e->key, e->len < TOPK_KEY ? e->len : TOPK_KEY);
    return (uint32_t)strtoul(text + 4, NULL, 10);
}

/* What must hold of a sketch of n entries after N in all. */
static void check_bounds(struct topk *t, uint32_t n)
{
    static unsigned char seen[KEYS];
    uint64_t all = 0, last = UINT64_MAX;
    const struct topk_entry *e;
    memset(seen, 0, sizeof seen);
    for (uint32_t i = 0; i < KEYS; i++)
        all += counts[i];
    for (uint32_t i = 0; (e = topk_at(t, i)) != NULL; i++) {
        char text[32];
        uint32_t key = key_of(e);
        if (!CHECK(key < KEYS && e->len == key_text(key, text) && memcmp(text, e->key, e->len) == 0))
            return;
        CHECK(!seen[key]);
        seen[key] = 1;
        CHECK(e->mark == (uint16_t)key);
        CHECK(counts[key] <= e->count && e->count - e->error <= counts[key] && e->error <= e->count);
        CHECK(e->error <= all / n);
        CHECK(e->count <= last);
        last = e->count;
    }
    for (uint32_t key = 0; key < KEYS; key++)
        if (counts[key] > all / n)
            CHECK(seen[key]);
}

static void test_even(void)
{
    static const uint32_t sizes[] = { 1, 2, 3, 7, 64, 1000 };
    unit_note = "each key as often as any other";
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        struct topk t;
        fresh(&t, sizes[s], 1 + s);
        for (int i = 0; i < 20000; i++) {
            count(&t, draw(KEYS), 1);
            if (i % 997 == 0)
                check_bounds(&t, sizes[s]);
        }
        check_bounds(&t, sizes[s]);
    }
}

/* Few keys get most: half of what is drawn is below 10, half of the rest below 100... */
static uint32_t skewed(void)
{
    uint32_t top = 10;
    while (top < KEYS && draw(2) == 0)
        top *= 10;
    return draw(top < KEYS ? top : KEYS);
}

static void test_skewed(void)
{
    struct topk t;
    uint32_t right = 0;
    unit_note = "few keys get most";
    fresh(&t, 64, 7);
    for (int i = 0; i < 100000; i++)
        count(&t, skewed(), 1 + draw(16));
    check_bounds(&t, 64);
    for (uint32_t i = 0; i < 10; i++)
        right += key_of(topk_at(&t, i)) < 10;
    CHECK(right == 10);
}

/* Who is not there takes the place of the least one: a stream made to push out the hottest key, which stays. */
static void test_flood(void)
{
    struct topk t;
    unit_note = "a hot key among keys that come once";
    fresh(&t, 8, 3);
    for (uint32_t i = 0; i < KEYS - 1; i++) {
        count(&t, 1 + i, 16);
        if (i % 4 == 0)
            count(&t, 0, 16);
    }
    check_bounds(&t, 8);
    CHECK(key_of(topk_at(&t, 0)) == 0);
}

static void test_halving(void)
{
    struct topk t;
    unit_note = "halving";
    fresh(&t, 16, 5);
    for (int i = 0; i < 1000; i++)
        count(&t, skewed(), 16);
    for (int round = 0; round < 3; round++) {
        uint64_t before[16];
        uint32_t n = 0;
        for (; n < 16 && topk_at(&t, n) != NULL; n++)
            before[n] = topk_at(&t, n)->count;
        CHECK(n == 16);
        topk_halve(&t);
        for (uint32_t i = 0; i < n; i++)
            CHECK(topk_at(&t, i)->count == before[i] / 2 && topk_at(&t, i)->error <= topk_at(&t, i)->count);
    }
    count(&t, 4999, 1); /* odd counts between those of weight 16: the heap still gives up the least */
    CHECK(topk_at(&t, 15) != NULL && topk_at(&t, 14)->count >= topk_at(&t, 15)->count);
    for (int i = 0; i < 64; i++)
        topk_halve(&t);
    CHECK(topk_at(&t, 0) == NULL);
    count(&t, 17, 2);
    CHECK(topk_at(&t, 0) != NULL && key_of(topk_at(&t, 0)) == 17 && topk_at(&t, 0)->count == 2 && topk_at(&t, 1) == NULL);
}

static void test_keys(void)
{
    static unsigned char long_key[3 * TOPK_KEY];
    struct topk t;
    unit_note = "keys of any length and bytes";
    fresh(&t, 300, 11);
    memset(long_key, 'k', sizeof long_key);
    for (size_t len = 0; len <= sizeof long_key; len++)
        for (size_t i = 0; i <= len; i++)
            topk_count(&t, long_key, len, (uint16_t)len, 1);
    for (size_t i = 0; i <= sizeof long_key; i++) {
        const struct topk_entry *e = topk_at(&t, (uint32_t)i);
        if (CHECK(e != NULL))
            CHECK(e->len == sizeof long_key - i && e->count == e->len + 1 && e->error == 0 && e->mark == e->len);
    }
    CHECK(topk_at(&t, sizeof long_key + 1) == NULL);
    long_key[sizeof long_key - 1] = '\0'; /* alike as far as they are kept, but for the hash */
    topk_count(&t, long_key, sizeof long_key, 0, 1000);
    CHECK(topk_at(&t, 0)->count == 1000);
    CHECK(topk_at(&t, 1)->count == sizeof long_key + 1);
}

static void test_none(void)
{
    struct topk t;
    unit_note = "no entries, no weight";
    CHECK(topk_size(0) <= sizeof(uint64_t));
    topk_open(&t, NULL, 0, 1);
    topk_count(&t, "a", 1, 0, 1);
    topk_halve(&t);
    CHECK(topk_at(&t, 0) == NULL);
    fresh(&t, 4, 1);
    topk_count(&t, "a", 1, 0, 0);
    CHECK(topk_at(&t, 0) == NULL);
}

int main(void)
{
    test_even();
    test_skewed();
    test_flood();
    test_halving();
    test_keys();
    test_none();
    return unit_end();
}
