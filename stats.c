/*
 * stats.c - the counters of the whole process, with their names.
 *
 *     STATS(X) in puerta.h --> struct stats      any room counts: stats.requests++
 *                         `--> rows[] here       reports read by index: name, value
 *
 *     struct command --stats_command()--> calls, rejected, failed     one row for each of the command table
 *     error line -----stats_error()----> its first word, a count
 *
 * One thread counts and the same thread reads, so they are plain integers.
 */
#include "puerta.h"

#include <string.h>

#define ERROR_WORDS 32     /* kinds of errors told apart; Puerta makes fewer */
#define ERROR_WORD_CAP 24

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
