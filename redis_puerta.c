/*
 * redis_puerta.c - PUERTA: what is told of a running Puerta, and done to it, over the Redis protocol.
 *
 *   PUERTA <subcommand> -> row of `subs` -> status.c, trace.c: what there is  -> redis_say.c: maps in RESP3, flat arrays in RESP2
 *                                        -> action.c: what was done, or why not
 *          RELOAD       -> a record in its client's order of answers <- on_done, when the file has been read
 *
 * It concerns all sections, and tells about other clients: so all of it, HELP too, is for clients of sections with allow_admin,
 * and not for those with a login of their own, of whom Puerta does not know what they may.
 */
#include "action.h"
#include "redis_say.h"

#include <stdio.h>

#define NAME_MAX_LEN (NAME_CAP + HOST_CAP + 8) /* SECTION/HOST:PORT */

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
