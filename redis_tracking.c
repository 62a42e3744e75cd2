/*
 * redis_tracking.c - CLIENT TRACKING: a client keeps what it has read, and hears when that changes.
 *
 *   client.own     u (node 3) ---- greeted with CLIENT TRACKING ON and the options      one a node (redis_own.c)
 *                  |    `--> push: invalidate keys
 *                  v              |
 *                answers          v
 *                  `-----> client's order of answers        or those of the client that REDIRECT names
 *
 *   REDIRECT       u (node 3) ---- CLIENT TRACKING ON REDIRECT id
 *                  ear (node 3) <---------' a second connection, of RESP3: what the first, of RESP2, cannot be told comes by it
 *
 * So the nodes remember who has read what, and no key is known here. What Puerta adds is the end of a node's memory: when a
 * connection is lost, slots change their owner, or a message is longer than a buffer, the client is told that all it keeps
 * is void (a null for the keys, as for FLUSHALL). With BCAST there is a connection to every master from the beginning.
 *
 * A message stands ahead of the answer that its node gives next, and where that is not known behind all to come: never before
 * the answer that it makes void, and never within one. Who does not read his messages is closed at client_window.
 */
#include "redis_tracking.h"

#include <stdio.h>
#include <string.h>

#define TICK_MS 50
#define LINE_CAP 2048

const char *const tracking_options[4] = { "bcast", "optin", "optout", "noloop" };
static const char void3[] = "_\r\n", void2[] = "$-1\r\n";
static const char push_head[] = ">2\r\n$10\r\ninvalidate\r\n";
static const char message_head[] = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";

static struct {
    struct tracking *all;
    uint32_t count, used;
    struct timer timer;
} tr;

uint32_t tracking_count(const struct service *s, uint32_t *prefixes)
{
    uint32_t count = 0, all = 0;
    for (uint32_t i = 0; i < tr.count && tr.used > 0; i++) {
        bool its = tr.all[i].client != NULL && tr.all[i].client->service == s && !tr.all[i].client->ended;
        count += its;
        all += its ? tr.all[i].now.count : 0;
    }
    if (prefixes != NULL) {
        *prefixes = all;
    }
    return count;
}

/* ---------------------------------------------------------------- messages */

/* It is closed, but not before all who have it in their hands now have done with it. */
static void doom(struct client *c, const char *why)
{
    c->doom = why;
    conn_deadline(c->conn, loop_ms());
}

/* Behind all that c is still to hear, or ahead of the answer to `before`. */
static void push(struct client *c, struct req *before, const struct iovec *parts, int count)
{
    if (c->conn == NULL || c->conn->state != CONN_OPEN || c->ended || c->doom != NULL) {
        return;
    }
    if (c->conn->out.len + c->parked_bytes > c->service->conf->client_window || !client_push(c, before, parts, count)) {
        doom(c, "it does not read its invalidations (client_window, chunks)");
    }
}

static void redirect_broken(struct client *c)
{
    char line[96];
    int n = snprintf(line, sizeof line, ">2\r\n$21\r\ntracking-redir-broken\r\n:%llu\r\n",
                     (unsigned long long)c->tracking->now.redirect);
    struct iovec part = { line, (size_t)n };
    c->tracking->broken = true;
    if (c->resp3) {
        push(c, NULL, &part, 1);
    }
}

struct client *tracking_target(const struct client *c, uint64_t id)
{
    struct client *to = block_client(c->service, id);
    return to == NULL || to->ended || to->conn->state != CONN_OPEN ? NULL : to;
}

/* To whom c's messages go; NULL: REDIRECT leads nowhere. */
static struct client *receiver(struct client *c)
{
    struct tracking *t = c->tracking;
    if (t->now.redirect == 0) {
        return c;
    }
    if (!t->broken && (t->to == NULL || t->to->conn == NULL || t->to->conn->id != t->now.redirect)) {
        t->to = tracking_target(c, t->now.redirect);
    }
    return t->broken || t->to == NULL || t->to->ended ? NULL : t->to;
}

/* The keys, as a whole reply; NULL: all of them. */
static void tell(struct client *c, struct req *before, const void *keys, size_t n)
{
    struct client *to = receiver(c);
    struct iovec parts[2];
    if (to == NULL) {
        redirect_broken(c);
        return;
    }
    if (!to->resp3 && (to == c || !to->subscribed)) {
        return; /* as a server: there is no way to say it */
    }
    parts[0].iov_base = (void *)(uintptr_t)(to->resp3 ? push_head : message_head);
    parts[0].iov_len = to->resp3 ? sizeof push_head - 1 : sizeof message_head - 1;
    parts[1].iov_base = (void *)(uintptr_t)(keys != NULL ? keys : to->resp3 ? void3 : void2);
    parts[1].iov_len = keys != NULL ? n : to->resp3 ? sizeof void3 - 1 : sizeof void2 - 1;
    push(to, to == c ? before : NULL, parts, 2);
}

/* All that it keeps is void. Who has asked for nothing since he last heard so keeps nothing: each node says it for itself. */
void tracking_void(struct client *c)
{
    struct tracking *t = c->tracking;
    bool knows = t->knows && !c->asked && c->unsettled == 0;
    if (c->tracks && (!knows || (t->now.options & BCAST) != 0)) {
        t->knows = true;
        c->asked = false;
        tell(c, NULL, NULL, 0);
    }
}

static bool is_null(const unsigned char *p, size_t n)
{
    return n >= 3 && (*p == '_' || (n >= 5 && (*p == '$' || *p == '*') && p[1] == '-'));
}

/* The request of its client that u answers next: what the node says now it says before that. A part of one is none: another of
 * its parts may have been answered. */
static struct req *next_of(const struct upstream *u)
{
    struct req *r = u->head;
    while (r != NULL && r->client != u->owner) {
        r = r->next;
    }
    return r != NULL && r->fan == NULL && r != u->owner->large ? r : NULL;
}

/* A node's push on one of c's connections; p NULL: it was longer than the buffer. */
static void on_push(struct upstream *u, const unsigned char *p, size_t n)
{
    struct client *c = u->owner;
    size_t head = sizeof push_head - 1;
    if (c->tracking == NULL || (p != NULL && (n <= head || memcmp(p, push_head, head) != 0))) {
        return;
    }
    if (p == NULL || is_null(p + head, n - head)) {
        tracking_void(c);
    } else {
        tell(c, next_of(u), p + head, n - head);
    }
}

static void on_lost(struct client *c)
{
    if (c->tracking != NULL) {
        tracking_void(c);
    }
}

/* ------------------------------------------------------------ what nodes are told */

static size_t put_word(unsigned char *out, const char *p, size_t len)
{
    size_t n = resp_put_header(out, '$', (int64_t)len);
    memcpy(out + n, p, len);
    memcpy(out + n + len, "\r\n", 2);
    return n + len + 2;
}

/* CLIENT TRACKING ON as a node is to hear it on u, whose ear has the number `ear` there. */
static size_t line_of(const struct wish *w, uint64_t ear, unsigned char *out)
{
    int words = 3 + (ear != 0 ? 2 : 0) + 2 * (int)w->count;
    char digits[24];
    size_t n, at = 0;
    for (int i = 0; i < 4; i++) {
        words += (w->options >> i & 1) != 0;
    }
    n = resp_put_header(out, '*', words);
    n += put_word(out + n, "CLIENT", 6);
    n += put_word(out + n, "TRACKING", 8);
    n += put_word(out + n, "ON", 2);
    if (ear != 0) {
        n += put_word(out + n, "REDIRECT", 8);
        n += put_word(out + n, digits, (size_t)snprintf(digits, sizeof digits, "%llu", (unsigned long long)ear));
    }
    for (int i = 0; i < 4; i++) {
        if ((w->options >> i & 1) != 0) {
            n += put_word(out + n, tracking_options[i], strlen(tracking_options[i]));
        }
    }
    for (uint32_t i = 0; i < w->count; at += w->len[i++]) {
        n += put_word(out + n, "PREFIX", 6);
        n += put_word(out + n, w->prefixes + at, w->len[i]);
    }
    return n;
}

/* The second connection of u, a client of RESP2's; NULL: it has none, or not any more. */
static struct upstream *ear_of(const struct upstream *u)
{
    struct upstream *e = u->owner->own;
    while (e != NULL && !(e->ear && e->backend == u->backend)) {
        e = e->own_next;
    }
    return e;
}

/* A line that nobody waits for goes to u, behind what c has asked there. */
static bool send_line(struct upstream *u, const void *line, size_t n)
{
    struct req *r = req_take(NULL, NULL, req_drop);
    if (r == NULL || !slice_extend(&r->bytes, BUF_REPLY, line, n)) {
        if (r != NULL) {
            req_free(r);
        }
        return false;
    }
    r->service = u->backend->service;
    lease_send(u, r);
    return true;
}

static size_t greet(struct upstream *u, unsigned char *out, size_t cap)
{
    static const char id_line[] = "*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n";
    const struct client *c = u->owner;
    const struct upstream *ear;
    must(cap >= LINE_CAP);
    if (u->ear) {
        memcpy(out, id_line, sizeof id_line - 1);
        return sizeof id_line - 1;
    }
    if (c == NULL || !c->tracks) {
        return 0;
    }
    ear = c->ears ? ear_of(u) : NULL;
    if (c->ears && (ear == NULL || ear->node_id == 0)) {
        u->held = true; /* until its ear has been told its number */
        return 0;
    }
    return line_of(&c->tracking->now, ear != NULL ? ear->node_id : 0, out);
}

static bool greeted(struct upstream *u, const unsigned char *p, size_t n)
{
    struct client *c = u->owner;
    struct upstream *other;
    int64_t id;
    if (reply_is_error(*p)) {
        return false;
    }
    if (c == NULL || c->tracking == NULL) {
        return true;
    }
    if (u->ear) {
        u->node_id = resp_to_int(p + 1, n - 3, &id) ? (uint64_t)id : 0;
        other = own_find(c, u->backend);
        if (other != NULL && other->held) {
            upstream_greet_late(other);
        } else if (other != NULL) { /* it has been greeted before there was this one */
            unsigned char line[LINE_CAP];
            return send_line(other, line, line_of(&c->tracking->now, u->node_id, line));
        }
    } else if ((c->tracking->now.options & BCAST) != 0 && c->tracking->since_ms == 0) {
        tracking_void(c); /* nobody has listened to that node for a while */
    }
    client_resume(c);
    return true;
}

static const struct lease_greeting greeting = { greet, greeted };

/* CLIENT CACHING goes just ahead of the request at hand. */
static void before_cached(struct upstream *u)
{
    static const char yes[] = "*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n";
    static const char no[] = "*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$2\r\nNO\r\n";
    struct tracking *t = u->owner != NULL ? u->owner->tracking : NULL;
    bool in = t != NULL && (t->now.options & OPTIN) != 0;
    if (t != NULL && !send_line(u, in ? yes : no, in ? sizeof yes - 1 : sizeof no - 1)) {
        doom(u->owner, "no room for its CLIENT CACHING (chunks, max_requests)");
    }
}

/* ------------------------------------------------------------ its connections */

/* What c needs by now. */
void tracking_renew(struct client *c)
{
    const struct tracking *t = c->tracking;
    c->tracks = t != NULL;
    c->ears = c->tracks && t->now.redirect != 0;
    c->owns = c->tracks || c->login != NULL;
    c->aside |= c->wrote; /* WAITAOF can tell nothing of it on other connections */
}

/* The nodes remember what was read on a connection: so that changes its protocol, and stays. */
bool tracking_speaks(struct client *c)
{
    static const char hello2[] = "*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n", hello3[] = "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n";
    for (struct upstream *u = c->own; u != NULL && c->tracks; u = u->own_next) {
        if (!u->ear && !send_line(u, c->resp3 ? hello3 : hello2, sizeof hello3 - 1)) {
            c->tracking->epoch--; /* at the next tick it hears that all is void */
            return false;
        }
        u->resp3 = u->ear || c->resp3;
    }
    return c->tracks;
}

/* Has a connection to every master. False: there are not enough. `ready`: all of them have been told. */
bool tracking_reach_all(struct client *c, bool *ready)
{
    *ready = true;
    for (uint16_t i = 0; i < backend_cap(); i++) {
        struct backend *b = backend_at(i);
        struct upstream *u;
        if (b == NULL || b->service != c->service || b->slots == 0) {
            continue;
        }
        if (backend_is_down(b)) {
            *ready = false; /* another may take its place, and need the connection */
            continue;
        }
        if ((u = own_upstream(c, b)) == NULL) {
            return false;
        }
        if (u->conn == NULL) {
            upstream_connect(u);
        }
        *ready = *ready && upstream_ready(u);
    }
    return true;
}

/* A connection whose ear is lost hears nothing any more. */
static void end_deaf(struct client *c)
{
    for (struct upstream *u = c->own, *next; u != NULL; u = next) {
        next = u->own_next;
        if (!u->ear && ear_of(u) == NULL) {
            lease_break(u, "its client's ear is lost");
            return; /* the others at the next tick */
        }
    }
}

static void look(struct tracking *t)
{
    struct client *c = t->client;
    bool ready;
    if (t->epoch != c->service->map.epoch || t->login_id != c->login_id) {
        t->epoch = c->service->map.epoch;
        t->login_id = c->login_id;
        tracking_void(c); /* what was read of slots that moved is not watched by anybody */
    }
    if (c->ears) {
        end_deaf(c);
    }
    if (t->since_ms == 0 && (t->now.options & BCAST) != 0 && !tracking_reach_all(c, &ready)) {
        doom(c, "no connection of its own is left for its CLIENT TRACKING (max_own)");
    }
}

static void on_tick(struct timer *timer)
{
    for (uint32_t i = 0; i < tr.count; i++) {
        if (tr.all[i].client != NULL && tr.all[i].client->conn != NULL) {
            look(&tr.all[i]);
        }
    }
    if (tr.used > 0) {
        loop_timer(timer, loop_ms() + TICK_MS);
    }
}

/* ---------------------------------------------------------------- the table */

struct tracking *tracking_begin(struct client *c)
{
    for (uint32_t i = 0; i < tr.count; i++) {
        struct tracking *t = &tr.all[i];
        if (t->client == NULL) {
            memset(t, 0, sizeof *t);
            t->client = c;
            t->epoch = c->service->map.epoch;
            t->login_id = c->login_id;
            if (tr.used++ == 0) {
                loop_timer(&tr.timer, loop_ms() + TICK_MS);
            }
            return t;
        }
    }
    return NULL;
}

void tracking_gone(struct client *c)
{
    if (c->tracking != NULL) {
        c->tracking->client = NULL;
        tr.used--;
    }
    c->tracking = NULL;
}

void tracking_end(struct client *c)
{
    if (c->tracking != NULL) {
        tracking_gone(c);
        own_let_go(c);
        tracking_renew(c);
        c->caching = 0;
    }
}

void tracking_undo(struct client *c)
{
    if (c->tracking != NULL && c->tracking->since_ms != 0) {
        tracking_end(c);
    }
}

/* The connections that it has already are told what is new. */
bool tracking_tell_all(struct client *c, const struct wish *w)
{
    unsigned char line[LINE_CAP];
    for (struct upstream *u = c->own; u != NULL; u = u->own_next) {
        const struct upstream *ear = c->ears ? ear_of(u) : NULL;
        if (!u->ear && !u->held && !send_line(u, line, line_of(w, ear != NULL ? ear->node_id : 0, line))) {
            return false;
        }
    }
    return true;
}

/* From now on c redirects what it hears, or does so no more. False: not without other connections, which know nothing yet. */
bool tracking_change_ears(struct client *c)
{
    bool new = (c->tracking->now.options & BCAST) != 0 || !c->resp3;
    for (struct upstream *u = c->own, *next; u != NULL && !new; u = next) {
        next = u->own_next;
        if (c->ears && !own_ear(c, u->backend)) {
            new = true;
        } else if (!c->ears && u->ear) {
            lease_release(u);
            lease_break(u, "its client redirects no more");
        }
    }
    if (new) {
        own_let_go(c);
    }
    return !new;
}

int64_t tracking_redirect(const struct client *c)
{
    return c->tracking != NULL ? (int64_t)c->tracking->now.redirect : -1;
}

const char *tracking_flags(const struct client *c)
{
    const struct tracking *t = c->tracking;
    return t == NULL ? "" : t->broken ? ((t->now.options & BCAST) != 0 ? "tRB" : "tR") : (t->now.options & BCAST) != 0 ? "tB" : "t";
}

void redis_tracking_tables(const struct conf *conf)
{
    tr.count = conf->max_own;
    tr.all = arena_take("trackings", tr.count, sizeof *tr.all);
}

void redis_tracking_open(void)
{
    tr.timer.on_due = on_tick;
    lease_greetings[LEASE_OWN] = &greeting;
    upstream_on_push = on_push;
    upstream_on_own_lost = on_lost;
    req_before_cached = before_cached;
}
