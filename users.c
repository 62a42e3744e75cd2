/*
 * users.c - the door: who may come in, and how often somebody may guess.
 *
 *   redis_client.c  accepts       -> user_barred    another machine's client where no password is set: DENIED
 *                                 -> user_arrive    from here on a stranger; admitted at once where no password is set
 *   redis.c         decides       -> user_refuse    a stranger's command: NOAUTH
 *   redis_local.c   AUTH, HELLO   -> user_auth, user_login ----> right: admitted, its limits are those of all
 *                   RESET         -> user_arrive          |----> wrong: counted, for the client and by guesses.c
 *                                                         `----> another user than `default`: redis_login.c asks a server
 *
 *   a guess behind too many wrong ones is not looked at before its wait is over: its client is paused, nobody else.
 *   If only its answer waited, one that is slow would tell that it is wrong, and a new connection would be quicker.
 *
 * Owns nothing: what is known of a client lies in its struct client (admitted, limits, guesses, guess_ms), what is known of where
 * it comes from in guesses.c. Passwords are read by conf.c and written nowhere.
 */
#include "redis.h"

#include <string.h>

#define STRANGER_ARGS 10     /* what Redis allows one that has not authenticated */
#define STRANGER_BULK 16384

static const struct resp_limits stranger_limits = { STRANGER_ARGS, STRANGER_BULK, REDIS_MAX_INLINE, &redis_limits };

/* ------------------------------------------------------------- passwords */

/* The time that it takes depends neither on where the two differ nor on how long the secret is. */
bool user_same(const char *secret, const void *given, size_t n)
{
    unsigned char ours[SECRET_CAP] = { 0 }, theirs[SECRET_CAP] = { 0 };
    size_t len = strlen(secret);
    volatile size_t differs = len ^ n; /* volatile: or the compiler might stop at the first difference */
    must(len < SECRET_CAP);
    memcpy(ours, secret, len);
    memcpy(theirs, given, n < SECRET_CAP ? n : SECRET_CAP);
    for (size_t i = 0; i < SECRET_CAP; i++) {
        differs |= (size_t)(ours[i] ^ theirs[i]);
    }
    return differs == 0;
}

static bool is_default(const struct user_guess *g)
{
    return g->user_len == 7 && memcmp(g->user, "default", 7) == 0;
}

/* Puerta has one user, by Redis's name for it; without a password any will do, as in Redis. */
static bool right(const struct conf_service *conf, const struct user_guess *g)
{
    bool same = user_same(conf->password, g->password, g->password_len);
    return is_default(g) && (same || conf->password[0] == '\0');
}

/* --------------------------------------------------------------- clients */

static void admit(struct client *c, bool admitted)
{
    c->admitted = admitted;
    c->limits = admitted ? &redis_limits : &stranger_limits;
}

void user_admit(struct client *c)
{
    admit(c, true);
}

void user_arrive(struct client *c)
{
    admit(c, c->service->conf->password[0] == '\0');
}

enum verdict user_refuse(struct client *c)
{
    return client_said(c, client_error(c, "NOAUTH Authentication required."));
}

/* Whether its guess is not to be looked at yet. Asked again whenever its client is resumed, be it too early. */
static bool must_wait(struct client *c)
{
    if (c->guess_ms == 0) {
        uint32_t source = guesses_of(&c->conn->peer, loop_ms());
        uint32_t wait = guesses_wait_ms(c->guesses > source ? c->guesses : source);
        if (wait == 0) {
            return false;
        }
        c->guess_ms = loop_ms() + wait;
        stats.auth_delayed++;
    }
    if (loop_ms() >= c->guess_ms) {
        return false;
    }
    conn_deadline(c->conn, c->guess_ms); /* on_tick resumes it */
    return true;
}

enum login user_login(struct client *c, const struct user_guess *g)
{
    const char *wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    char text[ADDRESS_TEXT];
    enum login login;
    bool known, guess;
    if (must_wait(c)) {
        return LOGIN_LATER;
    }
    known = is_default(g) || !c->service->conf->client_logins;
    if (known && !login_may_end(c)) {
        return LOGIN_LATER;
    }
    login = known ? (right(c->service->conf, g) ? LOGIN_DONE : LOGIN_REFUSED) : login_ask(c, g, &wrong);
    if (login == LOGIN_LATER) {
        return login;
    }
    if (login == LOGIN_DONE) {
        if (known) {
            login_end(c);
        }
        admit(c, true);
        c->guesses = 0;
        c->guess_ms = 0;
        return LOGIN_DONE;
    }
    if (client_said(c, client_error(c, "%s", wrong)) == VERDICT_WAIT) {
        return LOGIN_LATER; /* not counted yet, so that it counts once */
    }
    guess = strncmp(wrong, "WRONGPASS", 9) == 0;
    login_trial_ends(c);
    if (!guess) {
        c->guess_ms = 0;
        return LOGIN_REFUSED;
    }
    c->guesses++;
    c->guess_ms = 0;
    guesses_add(&c->conn->peer, loop_ms());
    stats.auth_failures++;
    log_warn("wrong user or password", "client=%s", address_text(&c->conn->peer, text));
    return LOGIN_REFUSED;
}

enum verdict user_auth(struct client *c, const struct request *q)
{
    const struct resp_slice *word = &q->arg[1], *last = &q->arg[q->argc == 2 ? 1 : 2];
    struct user_guess g = { "default", 7, NULL, 0 };
    enum login login;
    if (q->argc > 3) {
        return client_said(c, client_error(c, "ERR syntax error"));
    }
    if (q->argc == 2 && c->service->conf->password[0] == '\0') {
        return client_said(c, client_error(c, "ERR AUTH <password> called without any password configured for the default "
                                           "user. Are you sure your configuration is correct?"));
    }
    if (q->argc == 3) {
        g.user = q->p + word->off;
        g.user_len = word->len;
    }
    g.password = q->p + last->off;
    g.password_len = last->len;
    login = user_login(c, &g);
    if (login == LOGIN_DONE) {
        return client_said(c, client_answer(c, "+OK\r\n", 5));
    }
    return login == LOGIN_LATER ? VERDICT_WAIT : VERDICT_DONE;
}

/* --------------------------------------------------------- protected mode */

const char *user_barred(const struct conf_service *conf, const struct address *peer)
{
    if (conf->password[0] != '\0' ||
        !guesses_bar(conf, peer, "client refused: no password is set, so only this machine's clients are served (password, protected)")) {
        return NULL;
    }
    return "-DENIED Puerta is in protected mode: no password is set, so it serves only clients of its own machine. To "
           "admit those of others, set a password in the [redis NAME] section of its configuration (password, or "
           "password_file); or set protected = no where the network itself keeps strangers out.\r\n";
}
