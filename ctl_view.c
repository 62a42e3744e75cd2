/*
 * ctl_view.c - what is shown of a running Puerta: tables of what the admin listener tells, once, or each second anew.
 *
 *   JSON --struct column--> cells --> widths --> lines, cut where the terminal ends
 *   top:  the answer before, and this one --> so much a second
 */
#include "ctl.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define CELL_CAP 80
#define LINE_CAP 1024
#define COLUMNS_MAX 16
#define EACH_MS 1000            /* top: from one look to the next */
#define SEARCHES_MAX 200        /* top: of all servers there were, in one look */

/* Where lines go. A terminal has so many columns and rows; anything else as many as there are. */
static struct { bool terminal; unsigned columns, rows, used; } screen = { .columns = LINE_CAP, .rows = UINT32_MAX };

enum form {
    TEXT,
    LIST,       /* texts, with blanks between */
    COUNT,
    RATE,       /* a count: how much it has grown in a second */
    BYTES,
    SECONDS,
    MICROS,
    YES         /* yes or no */
};

/* One column: the field of a row, or with a dot that of the object in it. */
struct column { const char *title, *field; enum form form; };

/* For RATE: what was told before, how long ago; where in its servers was looked last, and how often from their beginning. */
static struct { struct jvalue json, at; double seconds, when; unsigned searches; } was;

/* -------------------------------------------------------------------- cells */

static void put_bytes(char *out, double n)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    size_t unit = 0;
    for (; n >= 1024 && unit + 1 < sizeof units / sizeof *units; unit++) {
        n /= 1024;
    }
    snprintf(out, CELL_CAP, unit == 0 ? "%.0f %s" : "%.1f %s", n, units[unit]);
}

static void put_seconds(char *out, int64_t s)
{
    if (s >= 86400) {
        snprintf(out, CELL_CAP, "%lldd %02dh", (long long)(s / 86400), (int)(s % 86400 / 3600));
    } else if (s >= 3600) {
        snprintf(out, CELL_CAP, "%dh %02dm", (int)(s / 3600), (int)(s % 3600 / 60));
    } else if (s >= 60) {
        snprintf(out, CELL_CAP, "%dm %02ds", (int)(s / 60), (int)(s % 60));
    } else {
        snprintf(out, CELL_CAP, "%ds", (int)s);
    }
}

static void put_micros(char *out, int64_t us)
{
    if (us <= 0) {
        snprintf(out, CELL_CAP, "-");
    } else if (us < 1000) {
        snprintf(out, CELL_CAP, "%d us", (int)us);
    } else {
        snprintf(out, CELL_CAP, us < 1000000 ? "%.1f ms" : "%.0f ms", (double)us / 1000);
    }
}

static void put_list(char *out, struct jvalue list)
{
    struct jvalue inside = jread_inside(list), name, value;
    size_t len = 0;
    out[0] = '\0';
    while (len + 2 < CELL_CAP && jread_next(&inside, &name, &value)) {
        len += (size_t)snprintf(out + len, CELL_CAP - len, "%s", len > 0 ? " " : "");
        len += jread_string(value, out + len, CELL_CAP - len);
    }
}

/* How much the field of a row has grown in a second. The row before it has the same `name` and `section`. */
static double grown(struct jvalue row, struct jvalue before, const char *name)
{
    struct jvalue now, then;
    bool both = jread_get(row, name, &now) && jread_get(before, name, &then);
    double more = both ? (double)jread_number(now) - (double)jread_number(then) : 0;
    return more > 0 && was.seconds > 0 ? more / was.seconds : 0;
}

static bool has_text(struct jvalue row, const char *name, struct jvalue text)
{
    struct jvalue own;
    return jread_get(row, name, &own) && own.n == text.n && memcmp(own.p, text.p, own.n) == 0;
}

/* What was told of that server before: mostly the next one behind that which was looked for last. A few servers that are new cost a
 * search of all; whoever tells of very many that were never there is not searched for any longer. */
static struct jvalue row_before(struct jvalue row)
{
    struct jvalue list, name, value, called, section;
    jread_get(row, "name", &called);
    jread_get(row, "section", &section);
    for (int turn = 0; turn < 2 && was.searches <= SEARCHES_MAX; turn++) {
        while (jread_next(&was.at, &name, &value)) {
            if (has_text(value, "name", called) && has_text(value, "section", section)) {
                return value;
            }
        }
        jread_get(was.json, "backends", &list);
        was.at = jread_inside(list);
        was.searches++;
    }
    return (struct jvalue){ NULL, 0 };
}

static void cell(struct jvalue row, struct jvalue row_name, const struct column *c, char out[CELL_CAP])
{
    struct jvalue v = row_name;
    if (c->field != NULL) {
        jread_get(row, c->field, &v);
    }
    switch (c->form) {
    case TEXT: jread_string(v, out, CELL_CAP); break;
    case LIST: put_list(out, v); break;
    case COUNT: snprintf(out, CELL_CAP, "%lld", (long long)jread_number(v)); break;
    case RATE: snprintf(out, CELL_CAP, "%.0f", grown(row, row_before(row), c->field)); break;
    case BYTES: put_bytes(out, (double)jread_number(v)); break;
    case SECONDS: put_seconds(out, jread_number(v)); break;
    case MICROS: put_micros(out, jread_number(v)); break;
    case YES: snprintf(out, CELL_CAP, "%s", jread_is(v, "true") ? "yes" : jread_is(v, "false") ? "no" : ""); break;
    }
    if (v.n == 0 || jread_is(v, "null") || out[0] == '\0' || (c->form == TEXT && strcmp(out, "none") == 0)) {
        snprintf(out, CELL_CAP, "-");
    }
}

/* -------------------------------------------------------------------- lines */

/* How many places a text takes, its letters being one place wide each. */
static unsigned places(const char *text)
{
    unsigned n = 0;
    for (; *text != '\0'; text++) {
        n += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return n;
}

/* One line, cut where the terminal ends; a title stands out there. */
static void line(const char *text, bool title)
{
    size_t end = 0;
    if (++screen.used >= screen.rows && screen.terminal) {
        return; /* the last row would scroll */
    }
    for (unsigned n = 0; text[end] != '\0'; end++) {
        n += ((unsigned char)text[end] & 0xc0) != 0x80;
        if (n > screen.columns) {
            break;
        }
    }
    while (end > 0 && text[end - 1] == ' ') {
        end--;
    }
    printf("%s%.*s%s\n", title && screen.terminal ? "\033[1m" : "", (int)end, text, !screen.terminal ? "" : title ? "\033[0m\033[K" : "\033[K");
}

static size_t add_cell(char *out, size_t len, const char *text, unsigned width, enum form form)
{
    bool right = form >= COUNT && form <= MICROS;
    int gap = (int)(width - places(text));
    int n = width == 0 ? 0 : snprintf(out + len, LINE_CAP - len, "%*s%s%*s  ", right ? gap : 0, "", text, right ? 0 : gap, "");
    return len + (size_t)n < LINE_CAP ? len + (size_t)n : LINE_CAP - 1;
}

/* Rows of an array, or of the members of an object, below their titles; nothing at all if there are none. A terminal is narrow: there a
 * column that says nothing is left out, its width being 0. */
static void table(struct jvalue rows, const struct column *columns, size_t count)
{
    char text[CELL_CAP], out[LINE_CAP];
    unsigned widths[COLUMNS_MAX];
    struct jvalue inside, name, row;
    size_t len = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned title = places(columns[i].title);
        widths[i] = screen.terminal ? 0 : title;
        for (inside = jread_inside(rows); jread_next(&inside, &name, &row);) {
            cell(row, name, &columns[i], text);
            unsigned most = places(text) > title ? places(text) : title;
            widths[i] = most > widths[i] && strcmp(text, "-") != 0 ? most : widths[i];
        }
    }
    inside = jread_inside(rows);
    for (size_t i = 0; i < count; i++) {
        len = add_cell(out, len, columns[i].title, widths[i], columns[i].form);
    }
    if (inside.n > 0) {
        line("", false);
        line(out, true);
    }
    while (jread_next(&inside, &name, &row)) {
        len = 0;
        for (size_t i = 0; i < count; i++) {
            cell(row, name, &columns[i], text);
            len = add_cell(out, len, text, widths[i], columns[i].form);
        }
        line(out, false);
    }
}

#define TABLE(rows, columns) table((rows), (columns), sizeof (columns) / sizeof *(columns))

/* ------------------------------------------------------------------- status */

static const struct column section_columns[] = {
    { "SECTION", "name", TEXT }, { "KIND", "kind", TEXT }, { "MODE", "mode", TEXT }, { "READY", "ready", YES },
    { "CLIENTS", "clients", COUNT }, { "SLOTS", "slots", COUNT }, { "LISTENS ON", "listen", LIST },
};

static const struct column backend_columns[] = {
    { "BACKEND", "name", TEXT }, { "SECTION", "section", TEXT }, { "STATE", "state", TEXT }, { "HELD", "hold", TEXT },
    { "SINCE", "since_s", SECONDS }, { "SLOTS", "slots", COUNT }, { "CONNECTIONS", "connections", COUNT }, { "IN FLIGHT", "in_flight", COUNT },
    { "CLIENTS", "clients", COUNT }, { "IDLE", "idle", COUNT }, { "WAITING", "waiting", COUNT }, { "ANSWERS", "answers", COUNT },
    { "P50", "p50_us", MICROS }, { "P99", "p99_us", MICROS },
};

static const struct column top_columns[] = {
    { "BACKEND", "name", TEXT }, { "SECTION", "section", TEXT }, { "STATE", "state", TEXT }, { "HELD", "hold", TEXT },
    { "ANSWERS/S", "answers", RATE }, { "P50", "p50_us", MICROS }, { "P99", "p99_us", MICROS }, { "IN FLIGHT", "in_flight", COUNT },
    { "WAITING", "waiting", COUNT }, { "CLIENTS", "clients", COUNT }, { "CONNECTIONS", "connections", COUNT }, { "SLOTS", "slots", COUNT },
};

static const struct column gauge_columns[] = {
    { "TABLE", NULL, TEXT }, { "NOW", "now", COUNT }, { "HIGHEST", "high", COUNT }, { "MOST", "most", COUNT },
};

static const struct column client_columns[] = {
    { "ID", "id", COUNT }, { "ADDRESS", "address", TEXT }, { "SECTION", "section", TEXT }, { "NAME", "name", TEXT }, { "USER", "user", TEXT },
    { "DOING", "doing", TEXT }, { "IN FLIGHT", "in_flight", COUNT }, { "AGE", "age_s", SECONDS }, { "IDLE", "idle_s", SECONDS },
    { "BACKEND", "backend", TEXT }, { "UNREAD", "waiting_out", BYTES },
};

static struct jvalue part(struct jvalue of, const char *name)
{
    struct jvalue v;
    jread_get(of, name, &v);
    return v;
}

static void show_head(struct jvalue status)
{
    char version[32], level[16], up[CELL_CAP], memory[CELL_CAP], out[LINE_CAP];
    jread_string(part(status, "version"), version, sizeof version);
    jread_string(part(status, "log_level"), level, sizeof level);
    put_seconds(up, jread_number(part(status, "uptime_s")));
    put_bytes(memory, (double)jread_number(part(status, "memory_bytes")));
    snprintf(out, sizeof out, "puerta %s, process %lld, up %s, %s, log level %s, %s of memory", version,
             (long long)jread_number(part(status, "pid")), up,
             jread_is(part(status, "stopping"), "true") ? "STOPPING" : jread_is(part(status, "ready"), "true") ? "ready" : "NOT READY", level,
             memory);
    line(out, true);
}

void ctl_show_status(struct jvalue status)
{
    char text[CELL_CAP], out[LINE_CAP];
    struct jvalue inside = jread_inside(part(status, "counters")), name, value;
    show_head(status);
    TABLE(part(status, "sections"), section_columns);
    TABLE(part(status, "backends"), backend_columns);
    TABLE(part(status, "gauges"), gauge_columns);
    line("", false);
    while (jread_next(&inside, &name, &value)) {
        jread_string(name, text, sizeof text);
        if (jread_number(value) != 0) {
            snprintf(out, sizeof out, "%-28s %14lld", text, (long long)jread_number(value));
            line(out, false);
        }
    }
}

void ctl_show_clients(struct jvalue clients)
{
    struct jvalue rows = part(clients, "clients");
    if (jread_inside(rows).n == 0) {
        line("nobody is here", false);
        return;
    }
    TABLE(rows, client_columns);
}

/* ---------------------------------------------------------------------- top */

static volatile sig_atomic_t ends;

static void on_signal(int number)
{
    (void)number;
    ends = 1;
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void show_rates(struct jvalue status)
{
    struct jvalue now = part(status, "counters"), then = part(was.json, "counters");
    char in[CELL_CAP], out[CELL_CAP], text[LINE_CAP];
    put_bytes(in, grown(now, then, "bytes_in"));
    put_bytes(out, grown(now, then, "bytes_out"));
    snprintf(text, sizeof text, "a second: %.0f requests, %.0f answers, %.0f errors, %.0f new clients; %s in, %s out",
             grown(now, then, "requests"), grown(now, then, "replies"), grown(now, then, "errors_sent"), grown(now, then, "clients_accepted"), in,
             out);
    line(text, false);
}

/* Whether it has told its status; else `why` says why not. */
static bool told(struct ctl_answer *a, bool answered)
{
    if (answered && (a->status != 200 || a->json.n == 0)) {
        struct jvalue error = part(a->json, "error");
        char text[128];
        jread_string(error, text, sizeof text);
        snprintf(a->why, sizeof a->why, "status %d: %s", a->status, text[0] != '\0' ? text : "an answer without JSON");
        return false;
    }
    return answered;
}

static void show_top(const struct ctl_where *where, struct ctl_answer *now, bool answered)
{
    char text[LINE_CAP];
    if (screen.terminal && !os_terminal(STDOUT_FILENO, &screen.columns, &screen.rows)) {
        screen.columns = 80;
        screen.rows = 24;
    }
    screen.used = 0;
    fputs(screen.terminal ? "\033[H" : "", stdout);
    if (!told(now, answered)) {
        snprintf(text, sizeof text, "%s: %s", where->text, now->why);
        line(text, true);
    } else {
        show_head(now->json);
        show_rates(now->json);
        TABLE(part(now->json, "sections"), section_columns);
        TABLE(part(now->json, "backends"), top_columns);
        TABLE(part(now->json, "gauges"), gauge_columns);
    }
    if (screen.terminal && screen.used >= screen.rows) { /* in the last row, which line() leaves free */
        snprintf(text, sizeof text, "%u more lines", screen.used - screen.rows + 1);
        printf("%.*s", (int)screen.columns, text);
    }
    fputs(screen.terminal ? "\033[J" : "", stdout);
    fflush(stdout);
}

/* Until the next look is due. False: somebody has asked for the end. */
static bool rests(bool keys)
{
    struct pollfd p = { .fd = keys ? STDIN_FILENO : -1, .events = POLLIN };
    char key = '\0';
    int n = ends ? 0 : poll(&p, 1, EACH_MS);
    if (n > 0 && (read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || key == 'Q' || key == 3)) {
        return false;
    }
    return !ends;
}

static void catch_signals(void)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
    struct sigaction act;
    memset(&act, 0, sizeof act);
    act.sa_handler = on_signal;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        sigaction(signals[i], &act, NULL);
    }
}

/* Looks once, and shows it beside what was seen before. What has been seen now is `before` from now on. */
static bool look(const struct ctl_where *where, struct ctl_answer *now, struct ctl_answer *before, bool shown)
{
    struct ctl_answer spare = *before;
    bool answered = ctl_ask(where, "GET", "/status", now), good = told(now, answered);
    double when = seconds_now();
    was.seconds = when - was.when;
    if (shown && (good || screen.terminal)) {
        show_top(where, now, answered);
    }
    was.json = good ? now->json : (struct jvalue){ NULL, 0 };
    was.at = (struct jvalue){ NULL, 0 };
    was.searches = 0;
    was.when = when;
    *before = *now;
    *now = spare;
    return good;
}

int ctl_top(const struct ctl_where *where, struct ctl_answer *now, struct ctl_answer *before)
{
    struct termios seen, raw;
    bool keys = tcgetattr(STDIN_FILENO, &seen) == 0, good;
    screen.terminal = isatty(STDOUT_FILENO) != 0;
    if (!screen.terminal) { /* two looks a second apart, and one table */
        good = look(where, now, before, false) && poll(NULL, 0, EACH_MS) == 0 && look(where, now, before, true);
        if (!good) {
            fprintf(stderr, "puerta top: %s: %s\n", where->text, before->why);
        }
        return good ? EX_OK : before->status != 0 ? 1 : EX_UNAVAILABLE;
    }
    catch_signals();
    if (keys) {
        raw = seen;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw);
    }
    fputs("\033[?1049h\033[?25l", stdout);
    do {
        look(where, now, before, true);
    } while (rests(keys));
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
    if (keys) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &seen);
    }
    return EX_OK;
}
