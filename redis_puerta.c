/*
 * redis_puerta.c - PUERTA: what is told of a running Puerta, and done to it, over the Redis protocol.
 *
 *   PUERTA <subcommand> -> row of `subs` -> status.c, stats.c: what there is -> redis_say.c: maps in RESP3, flat arrays in RESP2
 *                                        -> action.c: what was done, or why not
 *          RELOAD       -> a record in its client's order of answers <- on_done, when the file has been read
 *
 * It concerns all sections, and tells about other clients: so all of it, HELP too, is for clients of sections with allow_admin,
 * and not for those with a login of their own, of whom Puerta does not know what they may.
 */
#include "action.h"
#include "redis_say.h"
#include "status.h"

#include <stdio.h>

#define NAME_MAX_LEN (NAME_CAP + HOST_CAP + 8) /* SECTION/HOST:PORT */
#define CLIENTS_PAGE 100 /* clients told at once; fewer where the pool is small */
#define CLIENT_CAP 1024  /* bytes that one of them may take */
#define SLOW_USUAL 10    /* slow requests told if nothing is said, as SLOWLOG GET has it; and hot keys */

/* Argument i as a text; false: it is too long to be a name, or has a NUL in it. */
static bool text_of(const struct request *q, uint32_t i, char *out, size_t cap)
{
    struct word w = request_word(q, i);
    if (w.n >= cap || memchr(w.p, '\0', w.n) != NULL) {
        return false;
    }
    memcpy(out, w.p, w.n);
    out[w.n] = '\0';
    return true;
}

/* ------------------------------------------------------------ what there is */

static void say_number(uint64_t n)
{
    say_header(':', n <= INT64_MAX ? (int64_t)n : INT64_MAX);
}

static void say_array(int64_t n)
{
    say_header('*', n);
}

static void say_field(const struct status_field *f)
{
    char text[ADDRESS_TEXT];
    const struct address *addresses = f->at;
    say_name(f->name);
    switch (f->type) {
    case STATUS_TEXT: say_name(f->at); break;
    case STATUS_KEY: say_bulk(f->at, (size_t)f->number); break;
    case STATUS_NUMBER: say_number(f->number); break;
    case STATUS_BOOL: say_bool(f->number != 0); break;
    case STATUS_ADDRESS: say_name(address_text(addresses, text)); break;
    case STATUS_ADDRESSES:
        say_array((int64_t)f->number);
        for (uint64_t i = 0; i < f->number; i++) {
            say_name(address_text(&addresses[i], text));
        }
    }
}

static void say_fields(const struct status_row *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        say_field(&r->fields[i]);
    }
}

/* So many rows of a list, from `at` on. */
static void say_rows(enum status_list list, uint64_t at, int64_t n)
{
    struct status_row r;
    for (; n > 0 && !say_overlong() && status_row(list, &at, &r); n--) {
        if (r.name != NULL) {
            say_name(r.name);
        }
        say_map(r.count);
        say_fields(&r);
    }
}

/* How many rows of a list there are from *at on, up to `most`; moves behind them. */
static int64_t count_rows(enum status_list list, uint64_t *at, int64_t most)
{
    struct status_row r;
    int64_t n = 0;
    while (n < most && status_row(list, at, &r)) {
        n++;
    }
    return n;
}

/* A list by its name, NULL: it has none; `most` rows of it. */
static void say_list(const char *name, enum status_list list, int64_t most)
{
    uint64_t at = 0;
    int64_t n = count_rows(list, &at, most);
    if (name != NULL) {
        say_name(name);
    }
    (list == STATUS_GAUGES ? say_map : say_array)(n);
    say_rows(list, 0, n);
}

static void say_counters(void)
{
    const char *help, *name;
    uint64_t value;
    int n = 0;
    for (; stats_row(n, &help, &value) != NULL; n++) {
    }
    say_name("counters");
    say_map(n);
    for (int i = 0; (name = stats_row(i, &help, &value)) != NULL; i++) {
        say_name(name);
        say_number(value);
    }
}

static void status(struct client *c, const struct request *q)
{
    struct status_row r;
    uint64_t at = 0;
    (void)c, (void)q;
    (void)status_row(STATUS_PROCESS, &at, &r);
    say_map(r.count + 3);
    say_fields(&r);
    say_list("sections", STATUS_SECTIONS, INT64_MAX);
    say_list("gauges", STATUS_GAUGES, INT64_MAX);
    say_counters();
}

static void backends(struct client *c, const struct request *q)
{
    (void)c, (void)q;
    say_list(NULL, STATUS_BACKENDS, INT64_MAX);
}

/* As with SCAN: where to go on, 0 at the end, and some. Who stays all the while is told once. */
static void clients(struct client *c, const struct request *q)
{
    int64_t from = 0, n, fit = (int64_t)(buf_total() / 4 / CLIENT_CAP), page = fit < 1 ? 1 : fit < CLIENTS_PAGE ? fit : CLIENTS_PAGE;
    uint64_t at, next;
    (void)c;
    if (q->argc > 2 && (!word_number(request_word(q, 2), &from) || from < 0 || from > UINT32_MAX)) {
        say_error("ERR invalid cursor");
        return;
    }
    at = (uint64_t)from;
    n = count_rows(STATUS_CLIENTS, &at, page);
    next = at;
    say_array(2);
    say_number(count_rows(STATUS_CLIENTS, &at, 1) > 0 ? next : 0);
    say_array(n);
    say_rows(STATUS_CLIENTS, (uint64_t)from, n);
}

/* How many are wanted: the third word, -1 for all of them. False: the answer says what is wrong. */
static bool wanted(const struct request *q, int64_t *n)
{
    *n = SLOW_USUAL;
    if (q->argc > 2 && (!word_number(request_word(q, 2), n) || *n < -1 || *n > INT32_MAX)) {
        say_error("ERR value is out of range, must be a count, or -1 for all");
        return false;
    }
    *n = *n < 0 ? INT64_MAX : *n;
    return true;
}

static void slowlog(struct client *c, const struct request *q)
{
    int64_t most;
    (void)c;
    if (q->argc > 2 && word_is(request_word(q, 2), "reset")) {
        trace_slow_reset();
        say_text("+OK\r\n");
    } else if (wanted(q, &most)) {
        say_list(NULL, STATUS_SLOW, most);
    }
}

static void hotkeys(struct client *c, const struct request *q)
{
    int64_t most;
    (void)c;
    if (wanted(q, &most)) {
        say_map(2);
        say_list("keys", STATUS_HOT_KEYS, most);
        say_list("slots", STATUS_HOT_SLOTS, most);
    }
}

static void memory(struct client *c, const struct request *q)
{
    (void)c, (void)q;
    say_map(2);
    say_name("bytes");
    say_number(arena_bytes());
    say_list("tables", STATUS_TABLES, INT64_MAX);
}

/* ------------------------------------------------------------ what is done */

static void say_action(const struct action *a)
{
    if (a->status == ACTION_DONE) {
        say_name(a->text);
    } else {
        say_error("ERR %s", a->text);
    }
}

static void hold(const struct request *q, enum backend_hold how)
{
    char name[NAME_MAX_LEN] = "";
    struct action a = action_hold(text_of(q, 2, name, sizeof name) ? name : "", how);
    say_action(&a);
}

static void drain(struct client *c, const struct request *q)
{
    (void)c;
    hold(q, HELD_DRAIN);
}

static void undrain(struct client *c, const struct request *q)
{
    (void)c;
    hold(q, HELD_NOT);
}

static void down(struct client *c, const struct request *q)
{
    (void)c;
    hold(q, HELD_DOWN);
}

static void kill_client(struct client *c, const struct request *q)
{
    int64_t id;
    struct action a;
    (void)c;
    if (!word_number(request_word(q, 2), &id) || id < 1) {
        say_error("ERR the number of a client is wanted, as PUERTA CLIENTS tells it");
        return;
    }
    a = action_kill((uint64_t)id);
    say_action(&a);
}

static void loglevel(struct client *c, const struct request *q)
{
    char word[16] = "";
    struct action a = action_level(text_of(q, 2, word, sizeof word) ? word : "");
    (void)c;
    say_action(&a);
}

/* ------------------------------------------------------------------ RELOAD */

/* The record of who asked; its client may have gone meanwhile. */
static void on_reloaded(void *mark, const struct action *done)
{
    struct req *r = mark;
    if (r->client == NULL) {
        req_answer(r, NULL, 0);
    } else if (done->status != ACTION_DONE) {
        req_error(r, "ERR %s", done->text);
    } else {
        char line[ACTION_TEXT + 32];
        int n = snprintf(line, sizeof line, "$%zu\r\n%s\r\n", strlen(done->text), done->text);
        req_answer(r, line, (size_t)n);
    }
}

/* The answer comes when the file has been read; what its client asks meanwhile is done at once, and answered behind it. */
static enum verdict reload(struct client *c, const struct request *q)
{
    struct action a;
    struct req *r;
    say_begin(c);
    r = req_take(c, q->command, req_to_client);
    if (r == NULL) {
        client_starve(c);
        return VERDICT_WAIT;
    }
    r->state = REQ_PARTS;
    req_enqueue(r);
    req_commit(r);
    a = action_reload(r, on_reloaded);
    if (a.status != ACTION_DONE) {
        req_error(r, "ERR %s", a.text);
    }
    return VERDICT_DONE;
}

/* --------------------------------------------------------------- the table */

static void help(struct client *c, const struct request *q);

static const struct sub {
    const char *name;
    uint32_t most;              /* words, PUERTA included; the least are the command table's matter */
    say_writer write;           /* NULL: RELOAD */
    const char *usage, *text;   /* as PUERTA HELP has them */
} subs[] = {
    { "status", 2, status, "STATUS", "    The process, its sections, how full its tables are, what it has counted." },
    { "backends", 2, backends, "BACKENDS", "    Each server: state, hold, connections, how long it takes to answer." },
    { "clients", 3, clients, "CLIENTS [<cursor>]", "    Clients of all sections, some at a time: the cursor to go on with, 0 at the end." },
    { "slowlog", 3, slowlog, "SLOWLOG [<count>|RESET]", "    The last slow requests, 10 of them, -1: all; where their time went. Gaps between numbers: passed over." },
    { "hotkeys", 3, hotkeys, "HOTKEYS [<count>]", "    Keys and slots that are asked for most, 10 of each, -1: all." },
    { "memory", 2, memory, "MEMORY", "    The tables that all memory is cut into." },
    { "drain", 3, drain, "DRAIN <host:port>", "    Nothing new goes to a server; who has something open there is served on." },
    { "undrain", 3, undrain, "UNDRAIN <host:port>", "    Takes DRAIN or DOWN back." },
    { "down", 3, down, "DOWN <host:port>", "    A server serves nobody; its connections are closed." },
    { "kill", 3, kill_client, "KILL <client-id>", "    Ends a client, of whatever section." },
    { "reload", 2, NULL, "RELOAD", "    Reads the configuration file again; the answer says what came of it." },
    { "loglevel", 3, loglevel, "LOGLEVEL (error|warn|info|debug)", "    How much is logged from now on." },
    { "help", 2, help, NULL, NULL },
};
#define SUBS (sizeof subs / sizeof *subs)

static void help(struct client *c, const struct request *q)
{
    const char *lines[2 * SUBS + 1];
    size_t n = 0;
    (void)c, (void)q;
    for (size_t i = 0; i < SUBS && subs[i].usage != NULL; i++) {
        lines[n++] = subs[i].usage;
        lines[n++] = subs[i].text;
    }
    lines[n] = NULL;
    say_help("PUERTA", lines);
}

static const struct sub *sub_of(const struct request *q)
{
    for (size_t i = 0; i < SUBS; i++) {
        if (word_is(request_word(q, 1), subs[i].name)) {
            return &subs[i];
        }
    }
    return NULL;
}

/* Refusals, and what needs no more than the words of the request. */
static void puerta_say(struct client *c, const struct request *q)
{
    const struct sub *s = sub_of(q);
    if (!c->service->conf->allow_admin) {
        say_error("NOPERM '%s' is refused by this proxy (allow_admin)", q->command->name);
    } else if (c->login != NULL) {
        say_error("NOPERM '%s' is not possible for a client with a login of its own", q->command->name);
    } else if (s == NULL) {
        say_unknown(q);
    } else if (q->argc > s->most) {
        say_error("ERR wrong number of arguments for '%s' command", q->command->name);
    } else {
        s->write(c, q);
    }
}

enum verdict puerta_answer(struct client *c, const struct request *q)
{
    const struct sub *s = sub_of(q);
    bool may = c->service->conf->allow_admin && c->login == NULL;
    if (may && s != NULL && s->write == NULL && q->argc <= s->most) {
        return reload(c, q);
    }
    return say_answer(c, q, puerta_say);
}
