/*
 * metrics.c - what is counted, in Prometheus's text format: metrics.h has the picture.
 *
 *   metrics[]   one row each: name, type, help, what it is of, and how its value is read
 *   STATS       the counters of stats.h follow: puerta_NAME_total, with the help that stands there
 *      --one row of what it is of--> labels, value --lines--> the caller's room
 *
 * Owns nothing that changes: where a text is stands with its reader. A new metric is a row here, or one of STATS, and a line of
 * METRICS.md.
 */
#include "metrics.h"
#include "status.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* What there is a sample for each of. */
enum of {
    OF_PROCESS, /* one */
    OF_SECTION,
    OF_BACKEND,
    OF_STATE,   /* each backend, and each state that it may be in */
    OF_TABLE,   /* those of GAUGES that this process has */
    OF_CLASS,   /* of each mode: reads, writes, others */
    OF_ERROR    /* each first word of errors made here */
};

enum unit { PLAIN, MILLISECONDS, MICROSECONDS, HISTOGRAM };

/* What stands in a row. */
struct sample {
    struct status_section section;
    struct status_backend backend;
    const struct gauge *table;
    uint64_t value;             /* of OF_STATE, OF_CLASS, OF_ERROR */
};

static uint64_t cpu_us(void)
{
    struct timespec t = { 0, 0 };
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* name, type, what it is of, unit, value, help */
#define METRICS(X) \
    X(build_info, "gauge", OF_PROCESS, PLAIN, 1, "always 1; the version is a label") \
    X(start_time_seconds, "gauge", OF_PROCESS, PLAIN, status_started(), "when this process began, in seconds since 1970") \
    X(ready, "gauge", OF_PROCESS, PLAIN, status_ready(), "1: each section can serve, and the process is not stopping") \
    X(stopping, "gauge", OF_PROCESS, PLAIN, status_stopping, "1: the process serves those who are there to their end, and nobody else") \
    X(memory_bytes, "gauge", OF_PROCESS, PLAIN, arena_bytes(), "bytes of the one block of memory, taken at the start") \
    X(cpu_seconds_total, "counter", OF_PROCESS, MICROSECONDS, cpu_us(), "processor time of this process") \
    X(section_ready, "gauge", OF_SECTION, PLAIN, s->section.ready, "1: some server of the section takes what is new") \
    X(section_clients, "gauge", OF_SECTION, PLAIN, s->section.clients, "client connections of the section") \
    X(section_backends, "gauge", OF_SECTION, PLAIN, s->section.backends, "servers of the section that are known") \
    X(section_backends_up, "gauge", OF_SECTION, PLAIN, s->section.backends_up, "of them, those that are up") \
    X(section_slots, "gauge", OF_SECTION, PLAIN, s->section.slots, "Redis: slots that have an owner, of 16384") \
    X(backend_up, "gauge", OF_BACKEND, PLAIN, s->backend.backend->state == BACKEND_UP, "1: the server is up") \
    X(backend_state, "gauge", OF_STATE, PLAIN, s->value, "1: the server is in the state that is a label; 0: in another one") \
    X(backend_state_seconds, "gauge", OF_BACKEND, MILLISECONDS, s->backend.since_ms, "how long the server has been in its state") \
    X(backend_held, "gauge", OF_BACKEND, PLAIN, s->backend.backend->hold, "what an operator wants: 1 it takes nothing new, 2 it serves nobody") \
    X(backend_busy, "gauge", OF_BACKEND, PLAIN, s->backend.backend->busy, "1: a node of Redis that is busy with a script") \
    X(backend_ejected, "gauge", OF_BACKEND, PLAIN, s->backend.facts.ejected, "1: a mongos that is left out for a while") \
    X(backend_weight, "gauge", OF_BACKEND, PLAIN, s->backend.facts.weight, "the weight of a mongos") \
    X(backend_slots, "gauge", OF_BACKEND, PLAIN, s->backend.backend->slots, "slots that a node of Redis owns") \
    X(backend_connections, "gauge", OF_BACKEND, PLAIN, s->backend.facts.connections, "open connections to the server, those that ask how it is apart") \
    X(backend_requests_in_flight, "gauge", OF_BACKEND, PLAIN, s->backend.facts.in_flight, "requests on these whose answers are to come") \
    X(backend_clients, "gauge", OF_BACKEND, PLAIN, s->backend.facts.clients, "MongoDB: client connections that are at the mongos") \
    X(backend_pool_idle, "gauge", OF_BACKEND, PLAIN, s->backend.facts.idle, "pooled mode: connections that nobody has at the moment") \
    X(backend_pool_waiting, "gauge", OF_BACKEND, PLAIN, s->backend.facts.waiting, "pooled mode: requests that wait for a connection") \
    X(backend_pool_max, "gauge", OF_BACKEND, PLAIN, s->backend.facts.pool_max, "pooled mode: connections that there may be (pool_max)") \
    X(backend_response_seconds, "histogram", OF_BACKEND, HISTOGRAM, 0, "from a request's last byte sent to its answer") \
    X(table_entries, "gauge", OF_TABLE, PLAIN, s->table->now, "entries of a table that are in use") \
    X(table_entries_high, "gauge", OF_TABLE, PLAIN, s->table->high, "the most that ever were at once") \
    X(table_entries_max, "gauge", OF_TABLE, PLAIN, s->table->most, "how many there may be") \
    X(commands_total, "counter", OF_CLASS, PLAIN, s->value, "requests by the class of their command: read, write, other") \
    X(errors_total, "counter", OF_ERROR, PLAIN, s->value, "errors made here that clients were answered with, by their first word")

#define X(name, type, of, unit, value, help) static uint64_t value_##name(const struct sample *s) { (void)s; return (uint64_t)(value); }
METRICS(X)
#undef X

static const struct metric {
    const char *name, *type, *help;
    enum of of;
    enum unit unit;
    uint64_t (*value)(const struct sample *s);
} metrics[] = {
#define X(name, type, of, unit, value, help) { "puerta_" #name, type, help, of, unit, value_##name },
    METRICS(X)
#undef X
};
#define OWN (sizeof metrics / sizeof *metrics)

bool metrics_row(uint32_t i, char name[METRICS_NAME], const char **type, const char **help)
{
    const char *counter;
    uint64_t value;
    if (i < OWN) {
        snprintf(name, METRICS_NAME, "%s", metrics[i].name);
        *type = metrics[i].type;
        *help = metrics[i].help;
        return true;
    }
    counter = stats_row((int)(i - OWN), help, &value);
    if (counter == NULL) {
        return false;
    }
    snprintf(name, METRICS_NAME, "puerta_%s_total", counter);
    *type = "counter";
    return true;
}

/* ------------------------------------------------------------------ labels */

/* NAME="VALUE" behind what stands there. What is not printable becomes '?': a value has to be UTF-8, and hosts and names are ASCII. */
static void label(char labels[METRICS_LABELS], const char *name, const char *value)
{
    size_t len = strlen(labels);
    len += (size_t)snprintf(labels + len, METRICS_LABELS - len, "%s%s=\"", len > 0 ? "," : "", name);
    for (; *value != '\0' && len + 4 < METRICS_LABELS; value++) {
        if (*value == '\\' || *value == '"') {
            labels[len++] = '\\';
        }
        labels[len++] = *value < ' ' || *value > '~' ? '?' : *value;
    }
    must(len + 2 <= METRICS_LABELS);
    memcpy(labels + len, "\"", 2);
}

/* -------------------------------------------------------------------- rows */

#define STATES (BACKEND_DOWN + 1)

static bool backend_sample(struct metrics_at *at, struct sample *s, uint32_t each)
{
    uint64_t i = at->row / each, before = i;
    if (!status_backend(&i, &s->backend)) {
        return false;
    }
    if (i - 1 != before) {
        at->row = (uint32_t)(i - 1) * each;
    }
    label(at->labels, "kind", s->backend.kind);
    label(at->labels, "section", s->backend.section);
    label(at->labels, "backend", s->backend.name);
    return true;
}

static bool section_sample(struct metrics_at *at, struct sample *s)
{
    if (!status_section((int)at->row, &s->section)) {
        return false;
    }
    label(at->labels, "kind", s->section.kind);
    label(at->labels, "section", s->section.name);
    return true;
}

static bool table_sample(struct metrics_at *at, struct sample *s)
{
    const char *name, *help;
    while ((name = gauge_row((int)at->row, &help, &s->table)) != NULL && s->table->most == 0) {
        at->row++;
    }
    if (name == NULL) {
        return false;
    }
    label(at->labels, "table", name);
    return true;
}

static bool class_sample(struct metrics_at *at, struct sample *s)
{
    static const char *const names[STATS_CLASSES] = { "read", "write", "other" };
    static const uint32_t both = CMD_READONLY | CMD_WRITE, flags[STATS_CLASSES] = { CMD_READONLY, CMD_WRITE, 0 };
    const uint32_t class = at->row % STATS_CLASSES;
    const bool mongo = at->row >= STATS_CLASSES;
    if (at->row >= 2 * STATS_CLASSES) {
        return false;
    }
    for (uint32_t i = 0; i < command_count() && !mongo; i++) {
        const struct command *c = command_at(i);
        s->value += (c->flags & both) == flags[class] ? stats_command(c)->calls : 0;
    }
    s->value += mongo ? stats_mongo[class] : 0;
    label(at->labels, "kind", mongo ? "mongo" : "redis");
    label(at->labels, "class", names[class]);
    return true;
}

/* Two words of other bytes might look the same as labels. */
static bool is_plain(const char *word)
{
    while (*word > ' ' && *word <= '~') {
        word++;
    }
    return *word == '\0';
}

static bool error_sample(struct metrics_at *at, struct sample *s)
{
    const char *word;
    while ((word = stats_error_row((int)at->row, &s->value)) != NULL && !is_plain(word)) {
        at->row++; /* a script's own: its errors are told as they are */
    }
    if (word == NULL) {
        return false;
    }
    label(at->labels, "error", word);
    return true;
}

/* Looks at the row at hand, or the next one that there is: its labels, its value. False: there is none left. */
static bool look(struct metrics_at *at, const struct metric *m)
{
    struct sample s;
    bool some = false;
    memset(&s, 0, sizeof s);
    at->labels[0] = '\0';
    switch (m->of) {
    case OF_PROCESS:
        some = at->row == 0;
        if (m->value == value_build_info) {
            label(at->labels, "version", PUERTA_VERSION);
        }
        break;
    case OF_SECTION: some = section_sample(at, &s); break;
    case OF_BACKEND:
        some = backend_sample(at, &s, 1);
        if (some && m->unit == HISTOGRAM) {
            at->seen = *s.backend.latency;
        }
        break;
    case OF_STATE:
        at->row += at->row % STATES == 0; /* there is no entry in the state 0 */
        some = backend_sample(at, &s, STATES);
        at->row += at->row % STATES == 0;
        s.value = some && s.backend.backend->state == at->row % STATES;
        label(at->labels, "state", backend_state_name(at->row % STATES));
        break;
    case OF_TABLE: some = table_sample(at, &s); break;
    case OF_CLASS: some = class_sample(at, &s); break;
    case OF_ERROR: some = error_sample(at, &s); break;
    }
    at->value = some ? m->value(&s) : 0;
    return some;
}

/* ------------------------------------------------------------------- lines */

static size_t put_value(char *out, size_t cap, enum unit unit, uint64_t value)
{
    const uint64_t whole = unit == MICROSECONDS ? 1000000 : 1000;
    if (unit == PLAIN) {
        return (size_t)snprintf(out, cap, "%llu\n", (unsigned long long)value);
    }
    return (size_t)snprintf(out, cap, "%llu.%0*llu\n", (unsigned long long)(value / whole), unit == MICROSECONDS ? 6 : 3,
                            (unsigned long long)(value % whole));
}

/* Line at->line of a histogram: its buckets, each with all below it, then the sum and the number. 0: it has no such line. */
static size_t put_histogram(struct metrics_at *at, const char *name, char *out, size_t cap)
{
    const uint32_t i = at->line - 1;
    size_t n;
    if (i < LATENCY_BUCKETS) {
        at->value += at->seen.count[i];
        if (i == LATENCY_BUCKETS - 1) {
            return (size_t)snprintf(out, cap, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, at->labels, (unsigned long long)at->value);
        }
        return (size_t)snprintf(out, cap, "%s_bucket{%s,le=\"%lu.%06lu\"} %llu\n", name, at->labels, (64ul << i) / 1000000,
                                (64ul << i) % 1000000, (unsigned long long)at->value);
    }
    if (i > LATENCY_BUCKETS) {
        return i > LATENCY_BUCKETS + 1 ? 0 : (size_t)snprintf(out, cap, "%s_count{%s} %llu\n", name, at->labels, (unsigned long long)at->value);
    }
    n = (size_t)snprintf(out, cap, "%s_sum{%s} ", name, at->labels);
    return n + put_value(out + n, cap - n, MICROSECONDS, at->seen.sum_us);
}

/* The next line of a metric of the table; 0: it has none left. */
static size_t put_line(struct metrics_at *at, const struct metric *m, char *out, size_t cap)
{
    size_t n = 0;
    for (;;) {
        if (at->line == 0 && !look(at, m)) {
            return 0;
        }
        at->line++;
        if (m->unit == HISTOGRAM && (n = put_histogram(at, m->name, out, cap)) > 0) {
            return n;
        }
        if (m->unit != HISTOGRAM) {
            at->line = 0;
            at->row++;
            n = (size_t)snprintf(out, cap, at->labels[0] != '\0' ? "%s{%s} " : "%s ", m->name, at->labels);
            return n + put_value(out + n, cap - n, m->unit, at->value);
        }
        at->line = 0;
        at->row++;
    }
}

/* One of STATS: it has one sample. */
static size_t put_counter(struct metrics_at *at, const char *name, char *out, size_t cap)
{
    const char *help;
    uint64_t value;
    if (at->row++ > 0) {
        return 0;
    }
    (void)stats_row((int)(at->metric - OWN), &help, &value);
    return (size_t)snprintf(out, cap, "%s %llu\n", name, (unsigned long long)value);
}

size_t metrics_write(struct metrics_at *at, char *out, size_t cap)
{
    char name[METRICS_NAME];
    const char *type, *help;
    size_t len = 0;
    must(cap >= METRICS_ROOM);
    while (cap - len >= METRICS_ROOM && metrics_row(at->metric, name, &type, &help)) {
        size_t n;
        if (!at->headed) {
            n = (size_t)snprintf(out + len, cap - len, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
            at->headed = true;
        } else {
            n = at->metric < OWN ? put_line(at, &metrics[at->metric], out + len, cap - len) : put_counter(at, name, out + len, cap - len);
        }
        must(n < cap - len);
        len += n;
        if (n == 0) {
            at->metric++;
            at->row = at->line = 0;
            at->headed = false;
        }
    }
    return len;
}
