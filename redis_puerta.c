/*
 * redis_puerta.c - PUERTA: what is told of a running Puerta, and done to it, over the Redis protocol.
 *
 *   PUERTA <subcommand> -> row of `subs` -> status.c, stats.c, trace.c: what there is -> redis_say.c: maps in RESP3, flat arrays in RESP2
 *                                        -> action.c: what was done, or why not
 *          RELOAD       -> a record in its client's order of answers <- on_done, when the file has been read
 *
 * It concerns all sections, and tells about other clients: so all of it, HELP too, is for clients of sections with allow_admin,
 * and not for those with a login of their own, of whom Puerta does not know what they may.
 */
#include "action.h"
#include "redis_say.h"
#include "status.h"
#include "trace.h"

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

static void pair(const char *name, const char *text)
{
    say_name(name);
    say_name(text != NULL ? text : "");
}

static void pair_bytes(const char *name, const void *p, size_t n)
{
    say_name(name);
    say_bulk(p, n);
}

static void pair_number(const char *name, uint64_t n)
{
    say_name(name);
    say_header(':', n <= INT64_MAX ? (int64_t)n : INT64_MAX);
}

static void pair_bool(const char *name, bool yes)
{
    say_name(name);
    say_bool(yes);
}

static void say_sections(void)
{
    struct status_section s;
    int n = 0;
    for (; status_section(n, &s); n++) {
    }
    say_name("sections");
    say_header('*', n);
    for (int i = 0; i < n && status_section(i, &s); i++) {
        say_map(8);
        pair("name", s.name);
        pair("kind", s.kind);
        pair("mode", s.mode);
        pair_bool("ready", s.ready);
        pair_number("clients", s.clients);
        pair_number("backends", s.backends);
        pair_number("backends_up", s.backends_up);
        pair_number("slots", s.slots);
    }
}

static void say_gauges(void)
{
    const struct gauge *g;
    const char *help, *name;
    int n = 0;
    for (; gauge_row(n, &help, &g) != NULL; n++) {
    }
    say_name("gauges");
    say_map(n);
    for (int i = 0; (name = gauge_row(i, &help, &g)) != NULL; i++) {
        say_name(name);
        say_map(3);
        pair_number("now", g->now);
        pair_number("high", g->high);
        pair_number("most", g->most);
    }
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
        pair_number(name, value);
    }
}

static void status(struct client *c, const struct request *q)
{
    struct status_process p = status_process();
    (void)c, (void)q;
    say_map(11);
    pair("version", p.version);
    pair_number("pid", (uint64_t)p.pid);
    pair_number("uptime_s", p.uptime_ms / 1000);
    pair_number("started", (uint64_t)p.started);
    pair_bool("ready", p.ready);
    pair_bool("stopping", p.stopping);
    pair("log_level", p.log_level);
    pair_number("memory_bytes", p.memory);
    say_sections();
    say_gauges();
    say_counters();
}

static void backends(struct client *c, const struct request *q)
{
    struct status_backend b;
    uint32_t at = 0;
    int64_t n = 0;
    (void)c, (void)q;
    while (status_backend(&at, &b)) {
        n++;
    }
    say_header('*', n);
    for (at = 0; !say_overlong() && status_backend(&at, &b);) {
        say_map(18);
        pair("name", b.name);
        pair("section", b.section);
        pair("state", b.state);
        pair("hold", b.hold);
        pair_number("since_s", b.since_ms / 1000);
        pair_number("slots", b.backend->slots);
        pair_number("connections", b.facts.connections);
        pair_number("in_flight", b.facts.in_flight);
        pair_number("clients", b.facts.clients);
        pair_number("idle", b.facts.idle);
        pair_number("waiting", b.facts.waiting);
        pair_number("pool_max", b.facts.pool_max);
        pair_number("weight", b.facts.weight);
        pair_bool("ejected", b.facts.ejected);
        pair_number("answers", latency_answers(b.latency));
        pair_number("p50_us", latency_percentile(b.latency, 50));
        pair_number("p99_us", latency_percentile(b.latency, 99));
        pair_bool("busy", b.backend->busy);
    }
}

/* As with SCAN: where to go on, 0 at the end, and some. Who stays all the while is told once. */
static void clients(struct client *c, const struct request *q)
{
    struct status_client row;
    int64_t from = 0, n = 0, fit = (int64_t)(buf_total() / 4 / CLIENT_CAP), page = fit < 1 ? 1 : fit < CLIENTS_PAGE ? fit : CLIENTS_PAGE;
    uint32_t at, next;
    (void)c;
    if (q->argc > 2 && (!word_number(request_word(q, 2), &from) || from < 0 || from > UINT32_MAX)) {
        say_error("ERR invalid cursor");
        return;
    }
    for (at = (uint32_t)from; n < page && status_client(&at, &row);) {
        n++;
    }
    next = at;
    say_text("*2\r\n");
    say_header(':', status_client(&at, &row) ? (int64_t)next : 0);
    say_header('*', n);
    for (at = (uint32_t)from; n > 0 && status_client(&at, &row); n--) {
        say_map(11);
        pair_number("id", row.id);
        pair("section", row.facts.section);
        pair("address", row.address);
        pair("name", row.facts.name);
        pair("user", row.facts.user);
        pair("doing", row.facts.doing);
        pair_number("in_flight", row.facts.in_flight);
        pair_number("age_s", row.age_ms / 1000);
        pair_number("idle_s", row.idle_ms / 1000);
        pair("backend", row.backend);
        pair_number("waiting_out", row.waiting_out);
    }
}

/* How many are wanted: the third word, -1 for all of them. False: the answer says what is wrong. */
static bool wanted(const struct request *q, uint32_t *n)
{
    int64_t number = SLOW_USUAL;
    if (q->argc > 2 && (!word_number(request_word(q, 2), &number) || number < -1 || number > INT32_MAX)) {
        say_error("ERR value is out of range, must be a count, or -1 for all");
        return false;
    }
    *n = number < 0 ? UINT32_MAX : (uint32_t)number;
    return true;
}

static void slowlog(struct client *c, const struct request *q)
{
    const struct trace_entry *e;
    char text[ADDRESS_TEXT];
    uint32_t most, n;
    (void)c;
    if (q->argc > 2 && word_is(request_word(q, 2), "reset")) {
        trace_slow_reset();
        say_text("+OK\r\n");
        return;
    }
    if (!wanted(q, &most)) {
        return;
    }
    n = trace_slow_count() < most ? trace_slow_count() : most;
    say_header('*', n);
    for (uint32_t i = 0; i < n && !say_overlong() && (e = trace_slow(i)) != NULL; i++) {
        say_map(11);
        pair_number("number", e->number);
        pair_number("when_ms", (uint64_t)e->when_ms);
        pair("section", e->section != NULL ? e->section->name : "");
        pair("backend", e->backend);
        pair("command", e->command);
        pair_bytes("key", e->key, e->key_len);
        pair("client", address_text(&e->client, text));
        pair_number("queued_us", e->queued_us);
        pair_number("sent_us", e->sent_us);
        pair_number("answered_us", e->answered_us);
        pair_number("all_us", e->all_us);
    }
}

/* A key as far as it is kept; slots have none. */
static void say_hot(const char *name, bool (*row)(uint32_t, struct trace_hot *), uint32_t most)
{
    struct trace_hot h;
    uint32_t n = 0;
    for (; n < most && row(n, &h); n++) {
    }
    say_name(name);
    say_header('*', n);
    for (uint32_t i = 0; i < n && !say_overlong() && row(i, &h); i++) {
        say_map(h.key != NULL ? 4 : 3);
        if (h.key != NULL) {
            pair_bytes("key", h.key, h.len < TRACE_KEY ? h.len : TRACE_KEY);
        }
        pair_number("slot", h.slot);
        pair_number("count", h.count);
        pair_number("error", h.error);
    }
}

static void hotkeys(struct client *c, const struct request *q)
{
    uint32_t most;
    (void)c;
    if (wanted(q, &most)) {
        say_map(2);
        say_hot("keys", trace_hot_key, most);
        say_hot("slots", trace_hot_slot, most);
    }
}

static void memory(struct client *c, const struct request *q)
{
    const char *table;
    size_t count, size;
    int n = 0;
    (void)c, (void)q;
    for (; arena_row(n, &table, &count, &size); n++) {
    }
    say_map(2);
    pair_number("bytes", arena_bytes());
    say_name("tables");
    say_header('*', n);
    for (int i = 0; arena_row(i, &table, &count, &size); i++) {
        say_map(4);
        pair("name", table);
        pair_number("entries", count);
        pair_number("each", size);
        pair_number("bytes", count * size);
    }
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

static void no_file(struct client *c, const struct request *q)
{
    (void)c, (void)q;
    say_error("ERR there is no file to be read again: this Puerta was started without one");
}

/* The answer comes when the file has been read; what its client asks meanwhile is done at once, and answered behind it. */
static enum verdict reload(struct client *c, const struct request *q)
{
    struct req *r;
    if (action_on_reload == NULL) {
        return say_answer(c, q, no_file);
    }
    say_begin(c);
    r = req_take(c, q->command, req_to_client);
    if (r == NULL) {
        client_starve(c);
        return VERDICT_WAIT;
    }
    r->state = REQ_PARTS;
    req_enqueue(r);
    req_commit(r);
    if (!action_on_reload(r, on_reloaded)) {
        req_error(r, "ERR the file is being read again already");
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
