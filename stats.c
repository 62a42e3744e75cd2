/*
 * stats.c - the counters of the whole process, with their names.
 *
 *     STATS(X) in puerta.h --> struct stats      any room counts: stats.requests++
 *                         `--> rows[] here       reports read by index: name, value
 *
 * One thread counts and the same thread reads, so they are plain integers.
 */
#include "puerta.h"

struct stats stats;

static const struct { const char *name; const uint64_t *value; } rows[] = {
#define X(name) { #name, &stats.name },
    STATS(X)
#undef X
};

const char *stats_row(int i, uint64_t *value)
{
    if (i < 0 || (size_t)i >= sizeof rows / sizeof *rows)
        return NULL;
    *value = *rows[i].value;
    return rows[i].name;
}
