/*
 * redis_greet.c - what a new connection to a node says before all else, and what the node answers to that.
 *
 *   greet_open      our own login    HELLO 3      its client's login    what its kind of lease says
 *                   (health.c)       (u->resp3)   (redis_login.c)       (redis_tracking.c ...)
 *   greet_answered      +OK            %...           +OK                  whatever its taker likes
 *
 * All of it goes out at once; u->greeting counts the answers still to come, and no request is sent before the last of them
 * (upstream_ready). The last two are words of rooms above, which set the pointers here. A lease that has been lent for a while
 * can say the words of its kind anew (upstream_greet_late).
 */
#include "redis.h"

#include <string.h>

#define GREETING_CAP (SECRET_CAP + LOGIN_PASSWORD_CAP + 2200) /* what a lease says first: its client's login, and what its kind says */
#define NO_CHUNK "no chunk left for its login (chunks)"

const struct lease_greeting *lease_greetings[LEASE_KINDS];
const struct lease_greeting *upstream_login;

static const char hello_line[] = "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n";
static char refusal[160];       /* of HELLO 3, in the node's words: the last one */

const char *greet_refusal(void)
{
    return refusal;
}

void greet_open(struct upstream *u)
{
    unsigned char line[2 * SECRET_CAP + 64 + sizeof hello_line + GREETING_CAP];
    size_t n = node_login(u->backend->service->conf, line), more;
    u->greeting = (uint8_t)((n > 0) + u->resp3);
    memcpy(line + n, hello_line, sizeof hello_line - 1);
    n += u->resp3 ? sizeof hello_line - 1 : 0;
    if (u->login_id != 0) {
        if ((more = upstream_login->greet(u, line + n, sizeof line - n)) == 0) {
            conn_fail(u->conn, "nobody is left to log it in");
            return;
        }
        n += more;
        u->greeting++;
    }
    more = u->leased && lease_greetings[u->kind] != NULL ? lease_greetings[u->kind]->greet(u, line + n, sizeof line - n) : 0;
    u->greets_kind = more > 0;
    u->greeting = (uint8_t)(u->greeting + u->greets_kind);
    n += more;
    if (n > 0 && !chain_put(&u->conn->out, BUF_REPLY, line, n)) {
        conn_fail(u->conn, NO_CHUNK);
    }
}

void upstream_greet_late(struct upstream *u)
{
    unsigned char line[GREETING_CAP];
    size_t n;
    u->held = false;
    if (u->conn == NULL || u->conn->state != CONN_OPEN || (n = lease_greetings[u->kind]->greet(u, line, sizeof line)) == 0) {
        return;
    }
    if (!chain_put(&u->conn->out, BUF_REPLY, line, n)) {
        conn_fail(u->conn, NO_CHUNK);
        return;
    }
    u->greets_kind = true;
    u->greeting++;
    conn_dirty(u->conn);
}

/* Whether the error means HELLO 3 and will be the same next time; others come and go, such as that of too many clients. */
static bool is_refusal(const char *p, size_t n)
{
    static const char *const texts[] = { "-ERR unknown command", "-NOPROTO ", "-NOPERM ", "-NOAUTH " };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (n >= strlen(texts[i]) && memcmp(p, texts[i], strlen(texts[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* The node has refused a part of it. */
static void note_refusal(struct upstream *u, const char *p, size_t n, bool login)
{
    bool hello = u->resp3 && u->greeting == 1u + u->greets_kind + (u->login_id != 0);
    u->refused = login || (hello && is_refusal(p, n));
    log_quote(p, n, refusal, sizeof refusal);
    if (login) {
        log_info("a node refuses the login of a client", "node=%s:%u error=%s", u->backend->host,
                 (unsigned)u->backend->port, refusal);
    } else {
        log_error(u->refused ? "a node refuses HELLO 3" : "a node refuses our login", "node=%s:%u error=%s",
                  u->backend->host, (unsigned)u->backend->port, refusal);
    }
}

bool greet_answered(struct upstream *u, const unsigned char *p, size_t n)
{
    bool kind = u->greets_kind && u->greeting == 1, login = u->login_id != 0 && u->greeting == 1u + u->greets_kind;
    if (!(kind ? lease_greetings[u->kind]->take(u, p, n) : login ? upstream_login->take(u, p, n) : !reply_is_error(*p))) {
        note_refusal(u, (const char *)p, n, login);
        return false;
    }
    u->greeting--;
    return true;
}
