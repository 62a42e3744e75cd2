/* metrics.h - what is counted, as Prometheus reads it: its text format, version 0.0.4.
 *
 *   metrics_write(): a piece of whole lines, as much as the caller has room for; the next call goes on behind it
 *   metrics_row():   name, type, help of each: what the documents are compared with
 *
 * A piece costs little, however many there are, so that the loop is never held up; so the lines of one text may be of different
 * turns. Those of one histogram are of one moment.
 *
 * Source: prometheus.io, "Exposition formats" and "Metric and label naming".
 */
#ifndef PUERTA_METRICS_H
#define PUERTA_METRICS_H

#include "puerta.h"

#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define METRICS_LABELS 640 /* the longest labels: each byte of a host may be escaped */
#define METRICS_ROOM 1024  /* no line is longer */

/* How far a text has come. Zeroed: it has not begun. */
struct metrics_at {
    uint32_t metric, row;
    uint32_t line;             /* of the row at hand, which has been looked at; 0: the next one has not */
    bool headed;               /* HELP and TYPE stand */
    struct latency seen;       /* of that row: a histogram at one moment */
    uint64_t value;
    char labels[METRICS_LABELS];
};

/* Writes the next lines into out, which has METRICS_ROOM bytes at least: their length; 0: there are no more. */
size_t metrics_write(struct metrics_at *at, char *out, size_t cap);

#define METRICS_NAME 80

/* The i-th metric; false past the last. */
bool metrics_row(uint32_t i, char name[METRICS_NAME], const char **type, const char **help);

#endif
