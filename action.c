/*
 * action.c - what an operator may do to a running Puerta: drain, undrain, down, kill, reload, loglevel.
 *
 *   HTTP, PUERTA, puertaStatus --action_hold()--> health.c: struct backend.hold --on_hold--> redis_route.c, mongo.c
 *                              --action_kill()--> doomed[] --next turn--> conn_fail() --on_close--> the room of that client
 *                              --action_reload()> reload.c: action_on_reload
 *                              --action_level()-> log_threshold
 *
 * Nothing is done to connections within the call: who asks may stand in the middle of a request of a client that it concerns.
 *
 * Owns the few clients that are to go in the next turn.
 */
#include "action.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define DOOMED_MAX 64 /* clients killed within one turn */

bool (*action_on_reload)(void *mark, void (*on_done)(void *mark, const struct action *done));
void (*action_forget)(void *mark);

static struct {
    uint64_t doomed[DOOMED_MAX];
    uint32_t count;
    struct timer timer;
} ac;

static struct action said(enum action_status status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static struct action said(enum action_status status, const char *fmt, ...)
{
    struct action a = { .status = status };
    va_list args;
    va_start(args, fmt);
    vsnprintf(a.text, sizeof a.text, fmt, args);
    va_end(args);
    return a;
}

/* Adds to the text, as far as there is room. */
static void add(struct action *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct action *a, const char *fmt, ...)
{
    size_t len = strlen(a->text);
    va_list args;
    va_start(args, fmt);
    vsnprintf(a->text + len, sizeof a->text - len, fmt, args);
    va_end(args);
}

/* ---------------------------------------------------------------- servers */

/* "HOST:PORT" as the server is called everywhere, or "[HOST]:PORT". */
static bool is_called(const struct backend *b, const char *name)
{
    char own[HOST_CAP + 8], host[HOST_CAP];
    uint16_t port;
    const char *why;
    if (strcmp(backend_name(b, own), name) == 0) {
        return true;
    }
    return name[0] == '[' && host_port_split(name, strlen(name), host, &port, &why) && port == b->port && strcmp(host, b->host) == 0;
}

/* The same behind "SECTION/". */
static bool is_called_so(const struct backend *b, const char *name)
{
    const char *section = b->service->conf->name;
    size_t n = strlen(section);
    return is_called(b, name) || (strncmp(name, section, n) == 0 && name[n] == '/' && is_called(b, name + n + 1));
}

/* The server of that name; NULL, and *a says why: there is none, or there are several. */
static struct backend *find(const char *name, struct action *a)
{
    struct backend *found = NULL;
    char shown[128];
    log_quote(name, strlen(name), shown, sizeof shown);
    for (uint16_t i = 0; i < backend_cap(); i++) {
        struct backend *b = backend_at(i);
        if (b == NULL || !is_called_so(b, name)) {
            continue;
        }
        if (found != NULL) {
            *a = said(ACTION_MALFORMED, "several sections have a server %s: say which, as in %s/HOST:PORT", shown, b->service->conf->name);
            return NULL;
        }
        found = b;
    }
    if (found == NULL) {
        *a = said(ACTION_UNKNOWN, "no server is called %s: servers are named HOST:PORT, as in the list of them", shown);
    }
    return found;
}

static uint32_t clients_of(const struct backend *b)
{
    struct backend_facts facts;
    memset(&facts, 0, sizeof facts);
    if (b->service->ops->describe != NULL) {
        b->service->ops->describe(b, &facts);
    }
    return facts.clients;
}

/* Whether another server of its section takes what it will not. */
static bool has_peer(const struct backend *b)
{
    for (uint16_t i = 0; i < backend_cap(); i++) {
        const struct backend *o = backend_at(i);
        if (o != NULL && o != b && o->service == b->service && backend_takes_new(o)) {
            return true;
        }
    }
    return false;
}

static void warn_if_last(struct action *a, const struct backend *b)
{
    if (!has_peer(b)) {
        add(a, "; WARNING: no other server of [%s] is up: new clients are not served", b->service->conf->name);
    }
}

static struct action drained(const struct backend *b, const char *name)
{
    struct action a;
    if (b->service->conf->kind == SERVICE_REDIS && b->slots > 0) {
        return said(ACTION_REFUSED, "%s owns %u slots, which only it serves: move its slots first", name, (unsigned)b->slots);
    }
    if (b->service->conf->kind == SERVICE_REDIS) {
        return said(ACTION_DONE, "%s owns no slots: nothing goes there", name);
    }
    a = said(ACTION_DONE, "%s takes nothing new; who has something open there is served on (clients: %u)", name, (unsigned)clients_of(b));
    warn_if_last(&a, b);
    return a;
}

static struct action downed(const struct backend *b, const char *name)
{
    struct action a;
    if (b->service->conf->kind == SERVICE_REDIS && b->slots > 0) {
        return said(ACTION_DONE, "%s serves nobody; requests for its %u slots wait failover_wait for another owner, then fail", name,
                    (unsigned)b->slots);
    }
    a = said(ACTION_DONE, "%s serves nobody", name);
    if (b->service->conf->kind == SERVICE_MONGO) {
        warn_if_last(&a, b);
    }
    return a;
}

static struct action released(const struct backend *b, const char *name)
{
    if (b->removed) {
        return said(ACTION_REFUSED, "%s is not in the configuration any more: name it there, and reload", name);
    }
    if (b->hold == HELD_NOT) {
        return said(ACTION_DONE, "%s was not held", name);
    }
    if (b->state == BACKEND_UP) {
        return said(ACTION_DONE, "%s serves again", name);
    }
    return said(ACTION_DONE, "%s is held no longer; its state is: %s", name, backend_state_name(b->state));
}

struct action action_hold(const char *name, enum backend_hold hold)
{
    struct action a;
    struct backend *b = find(name, &a);
    char own[HOST_CAP + 8];
    if (b == NULL) {
        return a;
    }
    backend_name(b, own);
    a = hold == HELD_DRAIN ? drained(b, own) : hold == HELD_DOWN ? downed(b, own) : released(b, own);
    if (a.status == ACTION_DONE) {
        backend_hold(b, hold);
    }
    return a;
}

/* ---------------------------------------------------------------- clients */

static struct conn *client_of(uint64_t id)
{
    for (size_t i = 0; i < conn_size(); i++) {
        struct conn *c = conn_at(i);
        if (c != NULL && c->kind == CONN_CLIENT && c->id == id) {
            return c;
        }
    }
    return NULL;
}

static void end_doomed(struct timer *t)
{
    char text[ADDRESS_TEXT];
    (void)t;
    for (uint32_t i = 0; i < ac.count; i++) {
        struct conn *c = client_of(ac.doomed[i]);
        if (c != NULL) {
            log_warn("client killed by hand", "client=%s id=%llu", address_text(&c->peer, text), (unsigned long long)c->id);
            conn_fail(c, "killed by hand");
        }
    }
    ac.count = 0;
}

struct action action_kill(uint64_t id)
{
    const struct conn *c = client_of(id);
    char text[ADDRESS_TEXT];
    if (c == NULL) {
        return said(ACTION_UNKNOWN, "no client has the number %llu", (unsigned long long)id);
    }
    if (ac.count == DOOMED_MAX) {
        return said(ACTION_REFUSED, "%d clients are being ended just now: again in a moment", DOOMED_MAX);
    }
    ac.doomed[ac.count++] = id;
    ac.timer.on_due = end_doomed;
    loop_timer(&ac.timer, loop_ms() + 1); /* not in this turn: who kills himself hears of it */
    return said(ACTION_DONE, "client %llu at %s is ended", (unsigned long long)id, address_text(&c->peer, text));
}

/* ---------------------------------------------------------- configuration */

struct action action_reload(void *mark, void (*on_done)(void *mark, const struct action *done))
{
    if (action_on_reload == NULL) {
        return said(ACTION_REFUSED, "there is no file to be read again: this Puerta was started without one");
    }
    if (!action_on_reload(mark, on_done)) {
        return said(ACTION_REFUSED, "the file is being read again already: ask again when that is over");
    }
    return said(ACTION_DONE, "the file is being read again: the status tells, as `reloaded`, what came of it");
}

/* ---------------------------------------------------------------- the log */

struct action action_level(const char *word)
{
    const char *was = log_level_name(log_threshold);
    for (enum log_level level = LOG_ERROR; level <= LOG_DEBUG; level++) {
        if (strcmp(word, log_level_name(level)) == 0) {
            log_threshold = level;
            return said(ACTION_DONE, "the log level is %s (was %s)", word, was);
        }
    }
    return said(ACTION_MALFORMED, "no log level: it is error, warn, info or debug (now %s)", was);
}
