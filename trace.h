/* trace.h - the slow log and the hot keys: what the path of a request calls, and what is told of it.
 *
 *   a request is answered --trace_done()--> slower than slow_log_min: a row of a ring
 *   a request is routed  --trace_key()---> one of 16 is counted, 16 fold: topk.c, of keys and of slots
 *
 * Both cost a comparison on the path of a request; what is slow, or sampled, pays for itself.
 */
#ifndef PUERTA_TRACE_H
#define PUERTA_TRACE_H

#include "puerta.h"

#define TRACE_KEY 64 /* bytes of a key that are kept */

struct trace_entry {
    uint64_t number;            /* grows by one with each */
    int64_t when_ms;            /* wall clock, since 1970 */
    const struct conf_service *section;
    char backend[HOST_CAP + 8]; /* "" = of several, or of none */
    char command[32];
    unsigned char key[TRACE_KEY];
    uint8_t key_len;            /* 0: none; a longer one is cut */
    struct address client;
    uint64_t queued_us;         /* from whole to its last byte sent */
    uint64_t sent_us;           /* from there to the first byte of the answer */
    uint64_t answered_us;       /* from there to its last byte */
    uint64_t all_us;
};

void trace_tables(const struct conf *conf);
void trace_open(const struct conf *conf);
/* The i-th of the slow log, the youngest first; NULL past the last. */
const struct trace_entry *trace_slow(uint32_t i);
void trace_slow_reset(void);

struct trace_hot { const unsigned char *key; size_t len; uint16_t slot; uint64_t count, error; }; /* count - error .. count */
/* The i-th hottest key or slot of the last minutes; false past the last. */
bool trace_hot_key(uint32_t i, struct trace_hot *out);
bool trace_hot_slot(uint32_t i, struct trace_hot *out);

#endif
