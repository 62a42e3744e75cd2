/*
 * trace.c - the slow log, a ring, and the hot keys and slots, two sketches: trace.h has the picture.
 *
 *   ring     [..][..][youngest][oldest][..]      slow_log entries
 *   keys     topk.c over hot_keys entries        slots    topk.c over as many
 *
 * Owns both. Who knows what a request was is the room that answers it: nothing here reads one.
 */
#include "trace.h"
#include "topk.h"

#include <string.h>
#include <time.h>

#define HALVE_MS 60000   /* so that what was hot an hour ago is not for ever */
#define HALVINGS 64      /* none is left then */

uint32_t trace_slow_us = UINT32_MAX;
uint32_t trace_slow_left = TRACE_SLOW_RATE;
uint32_t trace_gap = 1;

static struct {
    struct trace_entry *ring;
    uint32_t cap, count, at;    /* at: where the next one goes */
    struct timer second;        /* runs from the first that is written down until others may be */
    struct topk keys, slots;
    void *memory[2];
    uint32_t entries;
    uint64_t halved_ms, chance;
} tr;

void trace_tables(const struct conf *conf)
{
    size_t pieces = topk_size(conf->hot_keys) / sizeof(uint64_t);
    tr.cap = conf->slow_log;
    tr.entries = conf->hot_keys;
    tr.ring = arena_take("slow log", tr.cap, sizeof *tr.ring);
    tr.memory[0] = arena_take("hot keys", conf->hot_keys > 0 ? pieces : 0, sizeof(uint64_t));
    tr.memory[1] = arena_take("hot slots", conf->hot_keys > 0 ? pieces : 0, sizeof(uint64_t));
}

static void second_over(struct timer *t)
{
    (void)t;
    trace_slow_left = TRACE_SLOW_RATE;
}

void trace_open(const struct conf *conf)
{
    uint64_t seed[3];
    os_random(seed, sizeof seed);
    topk_open(&tr.keys, tr.memory[0], tr.entries, seed[0]);
    topk_open(&tr.slots, tr.memory[1], tr.entries, seed[1]);
    tr.chance = seed[2] | 1;
    tr.halved_ms = loop_ms();
    tr.second.on_due = second_over;
    trace_gap = 1;
    trace_slow_min(conf->slow_log_min_ms);
}

/* -------------------------------------------------------------- slow log */

void trace_slow_min(uint32_t ms)
{
    trace_slow_us = ms == 0 || tr.cap == 0 || ms >= UINT32_MAX / 1000 ? UINT32_MAX : ms * 1000;
}

void trace_slow_add(const struct trace_entry *e)
{
    struct trace_entry *to = &tr.ring[tr.at];
    struct timespec now;
    stats.slow_requests++;
    if (trace_slow_left == TRACE_SLOW_RATE)
        loop_timer(&tr.second, loop_ms() + 1000);
    trace_slow_left -= trace_slow_left > 0;
    clock_gettime(CLOCK_REALTIME, &now);
    *to = *e;
    to->number = stats.slow_requests;
    to->when_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    to->all_us = e->all_us != 0 ? e->all_us : e->queued_us + e->sent_us + e->answered_us;
    tr.at = (tr.at + 1) % tr.cap;
    tr.count += tr.count < tr.cap;
}

const struct trace_entry *trace_slow(uint32_t i)
{
    return i < tr.count ? &tr.ring[(tr.at + tr.cap - 1 - i) % tr.cap] : NULL;
}

const struct trace_entry *trace_slow_below(uint64_t number)
{
    uint32_t from = 0, to = tr.count;
    while (from < to) { /* the number of entry `to` is below, that of the one before `from` is not */
        uint32_t middle = from + (to - from) / 2;
        bool below = trace_slow(middle)->number < number;
        from = below ? from : middle + 1;
        to = below ? middle : to;
    }
    return trace_slow(from);
}

uint32_t trace_slow_count(void)
{
    return tr.count;
}

void trace_slow_reset(void)
{
    tr.count = 0;
}

/* -------------------------------------------------------------- hot keys */

/* Halves once for each minute that has gone by since the last time. */
static void fade(void)
{
    for (int i = 0; i < HALVINGS && loop_ms() - tr.halved_ms >= HALVE_MS; i++) {
        topk_halve(&tr.keys);
        topk_halve(&tr.slots);
        tr.halved_ms += HALVE_MS;
    }
    if (loop_ms() - tr.halved_ms >= HALVE_MS)
        tr.halved_ms = loop_ms();
}

bool trace_sample(void)
{
    if (tr.entries == 0) {
        trace_gap = UINT32_MAX;
        return false;
    }
    tr.chance ^= tr.chance << 13; /* Marsaglia's xorshift */
    tr.chance ^= tr.chance >> 7;
    tr.chance ^= tr.chance << 17;
    trace_gap = 1 + (uint32_t)(tr.chance >> 32) % (2 * TRACE_SAMPLE - 1);
    fade();
    return true;
}

void trace_key(const void *key, size_t len, uint16_t slot)
{
    topk_count(&tr.keys, key, len, slot, TRACE_SAMPLE);
    topk_count(&tr.slots, &slot, sizeof slot, slot, TRACE_SAMPLE);
}

static bool hot(struct topk *t, uint32_t i, struct trace_hot *out)
{
    const struct topk_entry *e;
    fade();
    e = topk_at(t, i);
    if (e == NULL)
        return false;
    *out = (struct trace_hot){ e->key, e->len, e->mark, e->count, e->error };
    return true;
}

bool trace_hot_key(uint32_t i, struct trace_hot *out)
{
    return hot(&tr.keys, i, out);
}

bool trace_hot_slot(uint32_t i, struct trace_hot *out)
{
    bool some = hot(&tr.slots, i, out);
    out->key = some ? NULL : out->key;
    out->len = some ? 0 : out->len;
    return some;
}
