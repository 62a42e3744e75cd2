/*
 * redis_monitor.c - clients that see or stop all others: MONITOR, CLIENT PAUSE and UNPAUSE. Only with allow_admin.
 *
 *   any client's request ---> monitor_see() ---> "+time [0 address] "set" "k" "v"" ---> each client that monitors
 *                                                        ^
 *   node:  MONITOR ---> lines of what scripts do ("[0 lua]"); the rest of a node's lines is Puerta's own talk
 *
 * Owns one connection to each master while somebody monitors. A client that does not read its lines is closed at its window.
 * A pause is kept in the service: requests wait in their clients' input until it is over.
 */
#include "redis_say.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define TICK_MS 250       /* how often it is looked whether each master is listened to */
#define PATIENCE_MS 1000  /* how long MONITOR waits for the nodes before it says +OK all the same */
#define SHOWN_MAX 16384   /* of a request, so many bytes are shown */
#define LINE_MAX 65536

/* The connection on which one node tells what its scripts do. */
struct ear {
    struct conn *conn;        /* NULL: none */
    struct backend *backend;
    struct chain in;
    uint8_t greeting;         /* answers still to come before its lines */
};

static struct {
    struct ear *ears;         /* one a backend */
    uint32_t cap;
    struct client *clients;
    uint32_t client_count;
    struct timer timer;
} mn;

uint32_t monitors;

void redis_monitor_tables(const struct conf *conf)
{
    mn.cap = conf->max_backends;
    mn.ears = arena_take("monitored nodes", mn.cap, sizeof *mn.ears);
}

/* ------------------------------------------------------------- to clients */

/* A line comes at once, ahead of answers that are still to come; but never in the midst of one that has begun. */
static bool put_line(struct client *c, const char *line, size_t n)
{
    struct iovec part = { (void *)(uintptr_t)line, n };
    return c->conn->out.len + c->parked_bytes + n <= c->service->conf->client_window &&
           (c->halfway ? client_push(c, NULL, &part, 1) : chain_put(&c->conn->out, BUF_REPLY, line, n));
}

static void tell(const struct service *s, const struct client *but, const char *line, size_t n)
{
    for (uint32_t i = 0; i < mn.client_count; i++) {
        struct client *c = &mn.clients[i];
        if (c->monitor != MONITOR_ON || c == but || c->conn == NULL || c->service != s) {
            continue;
        }
        if (!put_line(c, line, n)) {
            conn_fail(c->conn, "it does not read what it monitors (client_window)");
        } else {
            conn_dirty(c->conn);
        }
    }
}

/* An argument as redis-cli shows it. */
static size_t put_argument(char *out, size_t cap, const unsigned char *p, size_t n)
{
    size_t at = 0;
    out[at++] = ' ';
    out[at++] = '"';
    for (size_t i = 0; i < n && at + 6 < cap; i++) {
        const char *plain = strchr("\n\r\t\a\b\\\"", p[i]);
        if (p[i] != '\0' && plain != NULL) {
            out[at++] = '\\';
            out[at++] = "nrtab\\\""[plain - "\n\r\t\a\b\\\""];
        } else if (p[i] >= ' ' && p[i] < 127) {
            out[at++] = (char)p[i];
        } else {
            at += (size_t)snprintf(out + at, 5, "\\x%02x", (unsigned)p[i]);
        }
    }
    out[at++] = '"';
    return at;
}

/* Whether argument i, behind the one that is given, is a secret. */
static bool is_secret(const struct command *k, uint32_t i, struct word before, bool *rest)
{
    bool auth = word_is(before, "auth") || word_is(before, "auth2");
    *rest = *rest || (strcmp(k->name, "acl|setuser") == 0 && i > 2) || strcmp(k->name, "auth") == 0 ||
            (strcmp(k->name, "hello") == 0 && auth) || (strcmp(k->name, "migrate") == 0 && auth) ||
            (strcmp(k->name, "config|set") == 0 && (word_is(before, "requirepass") || word_is(before, "masterauth")));
    return *rest;
}

void monitor_see(struct client *c, const struct request *q)
{
    static char line[LINE_MAX];
    static unsigned char bytes[SHOWN_MAX];
    char peer[ADDRESS_TEXT];
    struct timespec now;
    struct resp_slice arg;
    struct word before = { "", 0 };
    const unsigned char *p = q->copied ? q->p : bytes;
    size_t n = q->len < SHOWN_MAX ? q->len : SHOWN_MAX, at;
    bool rest = false;
    uint32_t from = 0, i = 0;
    if (q->command->flags & CMD_ADMIN) { /* CMD_SKIP_MONITOR: the server shows those too, but earlier */
        return;
    }
    if (!q->copied) {
        n = n < c->in.len ? n : c->in.len;
        chain_copy(&c->in, bytes, n);
    }
    clock_gettime(CLOCK_REALTIME, &now);
    at = (size_t)snprintf(line, sizeof line, "+%lld.%06ld [0 %s]", (long long)now.tv_sec, now.tv_nsec / 1000,
                          address_text(&c->conn->peer, peer));
    for (; at + 16 < sizeof line - 2 && resp_arg(p, n, &from, &arg); i++) {
        struct word word = { (const char *)p + arg.off, arg.len };
        if (i > 0 && is_secret(q->command, i, before, &rest)) {
            at += put_argument(line + at, sizeof line - 2 - at, (const unsigned char *)"(redacted)", 10);
        } else {
            at += put_argument(line + at, sizeof line - 2 - at, p + arg.off, arg.len);
        }
        before = word;
    }
    memcpy(line + at, "\r\n", 2);
    tell(c->service, c, line, at + 2);
}

/* --------------------------------------------------------------- from nodes */

static void resume_waiting(void)
{
    for (uint32_t i = 0; i < mn.client_count; i++) {
        if (mn.clients[i].monitor == MONITOR_WAITS && mn.clients[i].conn != NULL) {
            client_resume(&mn.clients[i]);
        }
    }
}

static void close_ear(struct ear *e)
{
    if (e->conn != NULL) {
        conn_close(e->conn);
    }
    chain_clear(&e->in);
    memset(e, 0, sizeof *e);
}

static void on_line(struct ear *e, const char *line, size_t n)
{
    const char *end = memchr(line, ']', n < 64 ? n : 64);
    if (e->greeting > 0 && line[0] != '+') {
        conn_fail(e->conn, "it refuses to be monitored");
    } else if (e->greeting > 0) {
        e->greeting--;
        resume_waiting();
    } else if (end != NULL && end - line > 4 && memcmp(end - 4, " lua", 4) == 0) {
        tell(e->backend->service, NULL, line, n);
    }
}

/* Where the next line ends in what has come; 0: it is not whole. */
static size_t line_length(const struct chain *in)
{
    size_t at = 0, n;
    const unsigned char *p, *end;
    while ((p = chain_at(in, at, &n)) != NULL) {
        end = memchr(p, '\n', n);
        if (end != NULL) {
            return at + (size_t)(end - p) + 1;
        }
        at += n;
    }
    return 0;
}

static void on_bytes(struct conn *conn)
{
    static char line[LINE_MAX];
    struct ear *e = conn->owner;
    unsigned char *room;
    size_t cap = chain_room(&e->in, BUF_REPLY, &room), n;
    ssize_t got = cap > 0 ? conn_receive(conn, room, cap) : CONN_ENDED;
    if (got == CONN_FAILED) {
        return;
    }
    chain_commit(&e->in, got > 0 ? (size_t)got : 0);
    while (e->conn == conn && (n = line_length(&e->in)) > 0) {
        if (n <= sizeof line) {
            chain_copy(&e->in, line, n);
            chain_drop(&e->in, n);
            on_line(e, line, n);
        } else {
            chain_drop(&e->in, n);
        }
    }
    if (e->conn == conn && (got == CONN_ENDED || e->in.len > buf_total() / 16)) {
        conn_fail(conn, "what it does cannot be followed");
    }
}

static void on_open(struct conn *conn)
{
    static const char line[] = "*1\r\n$7\r\nMONITOR\r\n";
    struct ear *e = conn->owner;
    unsigned char login[2 * SECRET_CAP + 64];
    size_t n = node_login(e->backend->service->conf, login);
    e->greeting = n > 0 ? 2 : 1;
    if ((n > 0 && !chain_put(&conn->out, BUF_REPLY, login, n)) ||
        !chain_put(&conn->out, BUF_REPLY, line, sizeof line - 1)) {
        conn_fail(conn, "no chunk left for its login (chunks)");
    }
}

static void on_close(struct conn *conn, const char *why)
{
    struct ear *e = conn->owner;
    log_info("a monitored node was lost", "node=%s:%u why=\"%s\"", e->backend->host, (unsigned)e->backend->port, why);
    e->conn = NULL;
    close_ear(e);
    resume_waiting();
}

static const struct conn_ops ear_ops = {
    .kind = "monitor", .on_open = on_open, .on_bytes = on_bytes, .on_close = on_close,
};

static void listen_to(struct ear *e, struct backend *b)
{
    const struct address *a = backend_address(b);
    const struct net_sizes sizes = { 0, 0 };
    e->conn = a != NULL ? conn_take(CONN_UPSTREAM, &ear_ops, e) : NULL;
    e->backend = b;
    e->greeting = 1;
    if (e->conn != NULL && !conn_dial(e->conn, a, b->service->conf->dial_timeout_ms, &sizes)) {
        e->conn = NULL;
    }
}

static bool is_monitored(const struct service *s)
{
    for (uint32_t i = 0; i < mn.client_count; i++) {
        if (mn.clients[i].monitor != MONITOR_OFF && mn.clients[i].conn != NULL && mn.clients[i].service == s) {
            return true;
        }
    }
    return false;
}

/* Each master is listened to while somebody monitors, and no other node. True: all that can be are. */
static bool look_around(void)
{
    bool all = true;
    for (uint16_t i = 0; i < mn.cap; i++) {
        struct backend *b = backend_at(i);
        bool wanted = b != NULL && b->slots > 0 && !backend_is_down(b) && is_monitored(b->service);
        struct ear *e = &mn.ears[i];
        if (e->conn != NULL && (!wanted || e->backend != b)) {
            close_ear(e);
        }
        if (wanted && e->conn == NULL) {
            listen_to(e, b);
        }
        all = all && (!wanted || (e->conn != NULL && e->greeting == 0));
    }
    return all;
}

static void on_tick(struct timer *t)
{
    look_around();
    resume_waiting();
    if (monitors > 0) {
        loop_timer(t, loop_ms() + TICK_MS);
    }
}

/* ---------------------------------------------------------------- requests */

/* MONITOR: +OK when the nodes are listened to, so that nothing after it is missed. */
enum verdict monitor_command(struct client *c)
{
    if (c->head != NULL) {
        return VERDICT_WAIT;
    }
    if (c->monitor == MONITOR_OFF) {
        c->monitor = MONITOR_WAITS;
        c->monitor_ms = loop_ms();
        monitors++;
        loop_timer(&mn.timer, loop_ms() + TICK_MS);
    }
    if (c->monitor == MONITOR_WAITS && !look_around() && loop_ms() - c->monitor_ms < PATIENCE_MS) {
        return VERDICT_WAIT;
    }
    if (!client_answer(c, "+OK\r\n", 5)) {
        client_starve(c);
        return VERDICT_WAIT;
    }
    c->monitor = MONITOR_ON;
    return VERDICT_DONE;
}

void monitor_end(struct client *c)
{
    if (c->monitor != MONITOR_OFF) {
        c->monitor = MONITOR_OFF;
        monitors--;
        if (monitors == 0) {
            look_around();
        }
    }
}

/* ------------------------------------------------------------------- pauses */

static void pause_over(struct timer *t)
{
    struct service *s = (struct service *)(void *)((char *)t - offsetof(struct service, pause_timer));
    s->pause_until_ms = 0;
    for (uint32_t i = 0; i < mn.client_count; i++) {
        if (mn.clients[i].conn != NULL && mn.clients[i].service == s && mn.clients[i].paused) {
            client_resume(&mn.clients[i]);
        }
    }
}

void pause_answer(struct client *c, const struct request *q)
{
    struct word mode = request_word(q, 3);
    struct service *s = c->service;
    int64_t ms;
    if (!s->conf->allow_admin) {
        say_error("NOPERM '%s' is refused by this proxy (allow_admin)", q->command->name);
    } else if (q->argc > 4) {
        say_syntax_error();
    } else if (q->argc == 4 && !word_is(mode, "all") && !word_is(mode, "write")) {
        say_error("ERR CLIENT PAUSE mode must be WRITE or ALL");
    } else if (!word_number(request_word(q, 2), &ms)) {
        say_error("ERR timeout is not an integer or out of range");
    } else if (ms < 0) {
        say_error("ERR timeout is negative");
    } else {
        bool whole = q->argc < 4 || word_is(mode, "all");
        uint64_t until = loop_ms() + (uint64_t)ms;
        bool on = s->pause_until_ms > loop_ms();
        s->pause_all = whole || (on && s->pause_all); /* a longer or stricter pause stands */
        s->pause_until_ms = on && s->pause_until_ms > until ? s->pause_until_ms : until;
        s->pause_timer.on_due = pause_over;
        loop_timer(&s->pause_timer, s->pause_until_ms);
        say_text("+OK\r\n");
    }
}

void unpause_answer(struct client *c, const struct request *q)
{
    (void)q;
    if (c->service->pause_until_ms != 0) {
        loop_timer(&c->service->pause_timer, loop_ms());
        c->service->pause_until_ms = 0;
    }
    say_text("+OK\r\n");
}

void redis_monitor_open(struct client *clients, uint32_t count)
{
    mn.clients = clients;
    mn.client_count = count;
    mn.timer.on_due = on_tick;
}
