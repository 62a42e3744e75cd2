/* trace.h - the slow log and the hot keys: what the path of a request calls, and what is told of it.
 *
 *   a request is answered, or given up --trace_done()--> slower than slow_log_min: its room tells all to trace_slow_add(), a row of a ring
 *   a request is routed                --trace_due()---> one of 32 is looked at: its keys to trace_key(), counted 32 fold by topk.c
 *
 * Both cost a comparison on the path of a request; what is slow, or sampled, pays for itself: as much again as all else that is done for
 * it. In an overload all are slow, so TRACE_SLOW_RATE a second are written down, and the others only counted. Times are those of loop_us(),
 * which is read once a turn: what passes within one turn takes no time, and each part is as exact as turns are short. The wall clock is
 * read for what is written down alone. A stamp is the low 32 bits: beyond 71 minutes times begin anew.
 *
 * What a client is made to wait for on purpose is not slow: blocking commands, WAIT, a hello that waits for a change.
 */
#ifndef PUERTA_TRACE_H
#define PUERTA_TRACE_H

#include "puerta.h"

#define TRACE_KEY 64 /* bytes of a key that are kept */
#define TRACE_SLOW_RATE 100 /* slow requests a second that are written down */
#define TRACE_SAMPLE 32 /* one request of so many is looked at, on average: which one is chance, since pipelines repeat themselves */

struct trace_entry {
    uint64_t number;            /* grows by one with each slow one: a gap tells how many were passed over; trace_slow_add()'s */
    int64_t when_ms;            /* wall clock, since 1970: the same */
    const struct conf_service *section;
    char backend[HOST_CAP + 8]; /* of several the last to answer; "" = none was asked, or none that is known any more */
    char command[32];
    unsigned char key[TRACE_KEY]; /* the first; never another argument. MongoDB: the database */
    uint8_t key_len;            /* 0: none; a longer one is cut */
    struct address client;
    uint64_t queued_us;         /* from when its turn came to be looked at to its last byte sent */
    uint64_t sent_us;           /* from there to the first byte of the answer */
    uint64_t answered_us;       /* from there to its last byte */
    uint64_t all_us;            /* waiting for an earlier answer of its client, behind all that, is not its own time */
};

void trace_tables(const struct conf *conf);
void trace_open(const struct conf *conf);

/* -------------------------------------------------------------- slow log */

extern uint32_t trace_slow_us; /* UINT32_MAX: nothing is slow */
extern uint32_t trace_slow_left; /* so many more may be written down in this second */

/* A stamp for the times of a request; never 0, which says that there is none. */
static inline uint32_t trace_stamp(void)
{
    return loop_stamp;
}

/* Whether a request that took so long belongs in the slow log. */
static inline bool trace_done(uint32_t us)
{
    return us >= trace_slow_us;
}

/* Whether one that is slow is to be written down: else it is passed over. */
static inline bool trace_slow_room(void)
{
    return trace_slow_left > 0;
}

static inline void trace_slow_pass(void)
{
    stats.slow_requests++;
    stats.slow_passed_over++;
}

/* From here on so long is slow; 0: nothing is. What is there stays. */
void trace_slow_min(uint32_t ms);
/* Copies it, with its number and the time of day. all_us 0: it is the sum of the parts. */
void trace_slow_add(const struct trace_entry *e);
/* The i-th of the slow log, the youngest first; NULL past the last. Good until the next turn. */
const struct trace_entry *trace_slow(uint32_t i);
/* The youngest of those whose number is below that; NULL: none is. */
const struct trace_entry *trace_slow_below(uint64_t number);
uint32_t trace_slow_count(void);
void trace_slow_reset(void);

/* -------------------------------------------------------------- hot keys */

extern uint32_t trace_gap;

/* Whether the request at hand is one that is looked at. Once for each request. */
static inline bool trace_due(void)
{
    return --trace_gap == 0;
}

/* Behind a trace_due() that said so: draws which one is next. False: keys are not counted (hot_keys = 0). */
bool trace_sample(void);
/* A key of that request. */
void trace_key(const void *key, size_t len, uint16_t slot);

/* key: at most the first TRACE_KEY bytes; len is the whole key's. It came count - error to count times of late: counts halve each
 * minute; chance adds and takes a few TRACE_SAMPLE. */
struct trace_hot { const unsigned char *key; size_t len; uint16_t slot; uint64_t count, error; };
/* The i-th hottest key or slot of the last minutes; false past the last. Good until the next turn. */
bool trace_hot_key(uint32_t i, struct trace_hot *out);
bool trace_hot_slot(uint32_t i, struct trace_hot *out); /* key NULL */

#endif
