/*
 * redis_login.c - a client that logs in as a user of the servers, and not as the one user that Puerta has itself.
 *
 *   AUTH user password --users.c--> login_ask      its wait behind wrong guesses is over
 *                                      |
 *                                   c->trial       a connection for it alone, to the owner of slot 0; greeted with AUTH
 *                                      |
 *               the server: -WRONGPASS |  +OK
 *        the client hears it <---------+-----> c->login     from now on all it asks goes over connections of its own
 *                                                           (redis_own.c), or leases, which are greeted like that one
 *
 * So it is the servers that know users, passwords and rights, and the client gets their words. A connection bears the number
 * of the login that it was greeted with (login_id): it is lent to nobody who has another. What Puerta would do for a client
 * over connections with its own rights, or by itself with nobody's, such a client is refused (login_bars).
 *
 * Owns the table of logins, one for each connection that clients may own. A password lies there, and nowhere else beyond the
 * moment; it is overwritten when its login ends, and shown to nobody.
 */
#include "redis.h"

#include <stdio.h>
#include <string.h>

#define TICK_MS 20          /* how often the way of a trial is looked at */
#define WORDS_CAP 160       /* of what a server says of it */

enum trial_state { TRIAL_ASKED, TRIAL_RIGHT, TRIAL_WRONG };

struct own_login {
    uint64_t id;            /* of all there have been; 0 = free */
    uint64_t since_ms;
    struct upstream *on;    /* the connection on which it is tried */
    size_t user_len, password_len;
    uint8_t state;          /* enum trial_state */
    char user[SECRET_CAP];
    char password[LOGIN_PASSWORD_CAP];
    char words[WORDS_CAP];  /* of the server, when it is wrong */
};

static struct {
    struct own_login *all;
    uint32_t count;
    uint64_t last_id;
} lo;

void redis_login_tables(const struct conf *conf)
{
    lo.count = conf->max_own;
    lo.all = arena_take("logins", lo.count, sizeof *lo.all);
}

/* ---------------------------------------------------------------- the table */

static struct own_login *take(const struct user_guess *g)
{
    for (uint32_t i = 0; i < lo.count; i++) {
        struct own_login *l = &lo.all[i];
        if (l->id == 0) {
            l->id = ++lo.last_id;
            l->since_ms = loop_ms();
            l->user_len = g->user_len;
            l->password_len = g->password_len;
            memcpy(l->user, g->user, g->user_len);
            memcpy(l->password, g->password, g->password_len);
            return l;
        }
    }
    return NULL;
}

static bool is_same(const struct own_login *l, const struct user_guess *g)
{
    return l->user_len == g->user_len && memcmp(l->user, g->user, g->user_len) == 0 &&
           l->password_len == g->password_len && memcmp(l->password, g->password, g->password_len) == 0;
}

/* Nothing of it stays behind: the bytes are written one by one, or the compiler might think that nobody looks any more. */
static void wipe(struct own_login *l)
{
    volatile unsigned char *p = (volatile unsigned char *)l;
    for (size_t i = 0; i < sizeof *l; i++) {
        p[i] = 0;
    }
}

static void release(struct own_login **l)
{
    if (*l != NULL) {
        wipe(*l);
        *l = NULL;
    }
}

const char *login_name(const struct client *c)
{
    static char name[SECRET_CAP];
    if (c->login == NULL) {
        return "default";
    }
    memcpy(name, c->login->user, c->login->user_len);
    name[c->login->user_len] = '\0';
    return name;
}

/* ------------------------------------------------------------- the greeting */

/* The login that u is to be greeted with; NULL: its client has gone, or has another one by now. */
static struct own_login *login_of(const struct upstream *u)
{
    struct client *c = u->owner;
    if (c != NULL && c->trial != NULL && c->trial->id == u->login_id) {
        return c->trial;
    }
    return c != NULL && c->login != NULL && c->login->id == u->login_id ? c->login : NULL;
}

static size_t put_bulk(unsigned char *out, const char *p, size_t len)
{
    size_t n = resp_put_header(out, '$', (int64_t)len);
    memcpy(out + n, p, len);
    memcpy(out + n + len, "\r\n", 2);
    return n + len + 2;
}

static size_t greet(struct upstream *u, unsigned char *out, size_t cap)
{
    const struct own_login *l = login_of(u);
    size_t n;
    must(cap >= SECRET_CAP + LOGIN_PASSWORD_CAP + 64);
    if (l == NULL) {
        return 0;
    }
    n = resp_put_header(out, '*', 3);
    n += put_bulk(out + n, "AUTH", 4);
    n += put_bulk(out + n, l->user, l->user_len);
    return n + put_bulk(out + n, l->password, l->password_len);
}

static bool said(struct upstream *u, const unsigned char *p, size_t n)
{
    struct own_login *l = login_of(u);
    if (l != NULL && l->on == u && l->state == TRIAL_ASKED) {
        l->state = reply_is_error(*p) ? TRIAL_WRONG : TRIAL_RIGHT;
        snprintf(l->words, sizeof l->words, "%.*s", (int)(n > 3 && *p == '-' ? n - 3 : 0), (const char *)p + 1);
        client_resume(u->owner);
    }
    return !reply_is_error(*p);
}

static const struct lease_greeting greeting = { greet, said };

/* ---------------------------------------------------------------- the trial */

static bool is_under_way(const struct client *c)
{
    const struct own_login *t = c->trial;
    return t->on != NULL && t->on->owner == c && t->on->login_id == t->id && t->on->conn != NULL;
}

/* Any master will do, but the same one for all, as long as it is there. */
static struct backend *judge(const struct service *s)
{
    for (uint32_t slot = 0; slot < SLOTMAP_SLOTS; slot += 64) {
        struct backend *b = service_owner(s, (uint16_t)slot);
        if (b != NULL && !backend_is_away(b)) {
            return b;
        }
    }
    return NULL;
}

/* Its client is asked for by a connection to b. False: there is none left. */
static bool dial(struct client *c, struct backend *b)
{
    struct own_login *t = c->trial;
    struct upstream *u = lease_take(b, c, LEASE_OWN, c->resp3);
    if (u == NULL) {
        return false;
    }
    u->login_id = t->id;
    t->on = u;
    if (u->conn == NULL) {
        lease_return(u); /* tried again at the next tick */
    } else {
        u->kept = true;
    }
    return true;
}

void login_trial_ends(struct client *c)
{
    struct upstream *u = c->trial != NULL && is_under_way(c) ? c->trial->on : NULL;
    release(&c->trial);
    if (u != NULL) {
        lease_break(u, "a login is not asked for any more");
    }
}

/* What c had under its former name goes: connections, and the word of what it watches. */
static void change(struct client *c, struct own_login *to)
{
    own_let_go(c);
    if (c->watch != NULL) {
        lease_break(c->watch, "its client changes its user"); /* its EXEC will answer a null */
    }
    release(&c->login);
    c->aside |= c->wrote; /* WAITAOF can tell nothing of it on other connections */
    c->login = to;
    c->login_id = to != NULL ? to->id : 0;
    c->owns = to != NULL || c->tracks;
}

static void succeed(struct client *c)
{
    struct own_login *t = c->trial;
    struct upstream *u = is_under_way(c) ? t->on : NULL;
    c->trial = NULL;
    t->on = NULL;
    change(c, t);
    if (u != NULL) {
        own_adopt(c, u);
    }
}

enum login login_ask(struct client *c, const struct user_guess *g, const char **wrong)
{
    static const char none_left[] = "ERR not executed: no connection of its own is left for this client (max_own)";
    struct backend *b;
    if (c->unsettled > 0 || c->head != NULL) {
        return LOGIN_LATER;
    }
    *wrong = "ERR not executed: no node could be asked for this login within failover_wait";
    if (c->trial != NULL && !is_same(c->trial, g)) {
        login_trial_ends(c); /* its request was given up */
    }
    if (c->trial == NULL && (g->user_len >= SECRET_CAP || g->password_len > LOGIN_PASSWORD_CAP)) {
        *wrong = "ERR not executed: a user or a password is longer than this proxy keeps";
        return LOGIN_REFUSED;
    }
    if (c->trial == NULL && (c->trial = take(g)) == NULL) {
        *wrong = none_left;
        return LOGIN_REFUSED;
    }
    if (c->trial->state == TRIAL_RIGHT) {
        succeed(c);
        return LOGIN_DONE;
    }
    if (c->trial->state == TRIAL_WRONG) {
        *wrong = c->trial->words;
        return LOGIN_REFUSED;
    }
    if (!is_under_way(c) && (b = judge(c->service)) != NULL && !dial(c, b)) {
        *wrong = none_left;
        return LOGIN_REFUSED;
    }
    if (loop_ms() - c->trial->since_ms >= c->service->conf->failover_wait_ms) {
        return LOGIN_REFUSED;
    }
    conn_deadline(c->conn, loop_ms() + TICK_MS); /* on_tick resumes it */
    return LOGIN_LATER;
}

/* ------------------------------------------------------------- its end */

bool login_may_end(const struct client *c)
{
    return (c->login == NULL && c->tracking == NULL) || (c->unsettled == 0 && c->head == NULL);
}

void login_end(struct client *c)
{
    login_trial_ends(c);
    if (c->login != NULL) {
        change(c, NULL);
    }
}

void login_gone(struct client *c)
{
    login_trial_ends(c);
    release(&c->login);
}

void redis_login_open(void)
{
    upstream_login = &greeting;
}
