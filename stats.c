/*
 * stats.c - the counters of the whole process, with their names: stats.h has the picture.
 *
 * Owns all that is counted. The histograms of servers are a table by their index; the rest has a fixed size.
 */
#include "puerta.h"

#include <string.h>

#define ERROR_WORDS 32     /* kinds of errors told apart; Puerta makes fewer */
#define ERROR_WORD_CAP 40 /* MongoDB has longer ones than Redis */

struct stats stats;
struct reloaded reloaded;

static const struct { const char *name, *help; const uint64_t *value; } rows[] = {
#define X(name, help) { #name, help, &stats.name },
    STATS(X)
#undef X
};

const char *stats_row(int i, const char **help, uint64_t *value)
{
    if (i < 0 || (size_t)i >= sizeof rows / sizeof *rows)
        return NULL;
    *help = rows[i].help;
    *value = *rows[i].value;
    return rows[i].name;
}

/* -------------------------------------------------------- how full tables are */

struct gauges gauges;

static const struct { const char *name, *help; const struct gauge *gauge; } levels[] = {
#define X(name, help) { #name, help, &gauges.name },
    GAUGES(X)
#undef X
};

const char *gauge_row(int i, const char **help, const struct gauge **g)
{
    if (i < 0 || (size_t)i >= sizeof levels / sizeof *levels)
        return NULL;
    *help = levels[i].help;
    *g = levels[i].gauge;
    return levels[i].name;
}

/* ------------------------------------------------- how long servers take */

static struct latency *servers;
static uint32_t server_count;

void stats_tables(const struct conf *conf)
{
    server_count = conf->max_backends;
    servers = arena_take("latency", server_count, sizeof *servers);
}

/* The number of bits of (us - 1) / 64. */
static unsigned bucket_of(uint64_t us)
{
    unsigned bits = us > 64 ? 64 - (unsigned)__builtin_clzll((us - 1) >> 6) : 0;
    return bits < LATENCY_BUCKETS ? bits : LATENCY_BUCKETS - 1;
}

void stats_latency(uint16_t backend, uint64_t us)
{
    struct latency *l = &servers[backend];
    l->count[bucket_of(us)]++;
    l->sum_us += us;
}

const struct latency *latency_of(uint16_t backend)
{
    must(backend < server_count);
    return &servers[backend];
}

void latency_forget(uint16_t backend)
{
    memset(&servers[backend], 0, sizeof servers[backend]);
}

uint64_t latency_answers(const struct latency *l)
{
    uint64_t sum = 0;
    for (int i = 0; i < LATENCY_BUCKETS; i++)
        sum += l->count[i];
    return sum;
}

uint64_t latency_percentile(const struct latency *l, unsigned percent)
{
    uint64_t want = (latency_answers(l) * percent + 99) / 100, sum = 0;
    for (int i = 0; i < LATENCY_BUCKETS && want > 0; i++) {
        sum += l->count[i];
        if (sum >= want)
            return (uint64_t)64 << i;
    }
    return 0;
}

/* ---------------------------------------------------- commands and errors */

uint64_t stats_mongo[STATS_CLASSES];

static struct command_stats commands[COMMAND_ROWS_MAX + 1];

struct command_stats *stats_command(const struct command *c)
{
    uint32_t i = command_index(c);
    return &commands[i < COMMAND_ROWS_MAX ? i : COMMAND_ROWS_MAX];
}

static struct { char word[ERROR_WORD_CAP]; uint64_t count; } errors[ERROR_WORDS];

void stats_error(const char *line, size_t n)
{
    size_t len = 1;
    stats.errors_sent++;
    while (len < n && line[len] > ' ')
        len++;
    len--; /* without the '-' */
    if (len == 0 || len >= ERROR_WORD_CAP)
        return;
    for (int i = 0; i < ERROR_WORDS; i++) {
        if (errors[i].count == 0)
            memcpy(errors[i].word, line + 1, len);
        if (strncmp(errors[i].word, line + 1, len) == 0 && errors[i].word[len] == '\0') {
            errors[i].count++;
            return;
        }
    }
}

void stats_reset(void)
{
    memset(commands, 0, sizeof commands);
    memset(errors, 0, sizeof errors);
}

const char *stats_error_row(int i, uint64_t *count)
{
    if (i < 0 || i >= ERROR_WORDS || errors[i].count == 0)
        return NULL;
    *count = errors[i].count;
    return errors[i].word;
}
