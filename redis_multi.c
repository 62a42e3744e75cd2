/*
 * redis_multi.c - transactions: MULTI, what is queued, EXEC, DISCARD; WATCH and UNWATCH.
 *
 *   MULTI      +OK, from here
 *   SET k v    +QUEUED, from here: it is looked at (known, arity, slot) and kept      client.block: MULTI | SET k v | ...
 *   EXEC       the block and EXEC go out as one record; the node's answers to all but EXEC are swallowed (`ahead`)
 *
 *   no WATCH   on the shared connection of the owner: the block stands in it in one piece, so nobody comes between
 *   WATCH      goes to a lease, which stays until EXEC, DISCARD, UNWATCH, RESET or the end; so does its EXEC
 *
 * Until EXEC the node has heard nothing. If it turns the block away (the slot has moved) nothing has run, and all of it is
 * run again on the new owner; with a WATCH nobody can vouch for what was watched any more, and the answer is a null, as if
 * it had been touched. A lease whose client keeps it idle is taken back when others need it, with the same answer.
 */
#include "redis.h"

#include <string.h>

#define IDLE_MS 1000 /* a WATCH without a request for so long may lose its lease to another client */

/* What the node said to the commands of a block when it queued them; the least hopeful counts. It is kept in the record
 * as `part`, and how many answers come before its own as `mark`. */
enum word { WORD_QUEUED, WORD_MOVED, WORD_AGAIN, WORD_DOWN, WORD_ERROR };

static const char multi_line[] = "*1\r\n$5\r\nMULTI\r\n", exec_line[] = "*1\r\n$4\r\nEXEC\r\n";

static enum verdict said(struct client *c, bool done)
{
    if (!done) {
        client_starve(c);
        return VERDICT_WAIT;
    }
    return VERDICT_DONE;
}

static enum verdict said_ok(struct client *c)
{
    return said(c, client_answer(c, "+OK\r\n", 5));
}

/* An error that was answered: inside MULTI its EXEC will say that all was discarded. */
enum verdict multi_poison(struct client *c, enum verdict v)
{
    if (v == VERDICT_DONE) {
        client_poison(c);
    }
    return v;
}

/* ------------------------------------------------------------------- WATCH */

/* The lease is cleaned and goes back; nobody waits for that. */
static void unwatch(struct client *c)
{
    static const char line[] = "*1\r\n$7\r\nUNWATCH\r\n";
    struct upstream *u = c->watch;
    struct req *r;
    c->watch_lost = false;
    if (u == NULL) {
        return;
    }
    r = req_take(NULL, NULL, req_drop);
    if (r == NULL || !slice_extend(&r->bytes, BUF_REPLY, line, sizeof line - 1)) {
        if (r != NULL) {
            req_free(r);
        }
        u->kept = false;
        lease_break(u, "no room to unwatch");
        return;
    }
    r->service = c->service;
    lease_release(u);
    lease_send(u, r);
}

/* When all leases are taken, one whose client has been idle is taken back. Its EXEC will answer a null. */
static void make_room(void)
{
    struct upstream *u = lease_idle(LEASE_WATCH, IDLE_MS);
    if (u != NULL) {
        struct client *c = u->owner;
        unwatch(c);
        c->watch_lost = true;
    }
}

static bool on_watched(struct req *r, const unsigned char *p, size_t n, bool last)
{
    struct upstream *u = r->upstream;
    if (r->client != NULL && u != NULL && n > 0 && *p == '+') {
        u->kept = true;
        r->client->multi.slot = r->slot;
    }
    return req_to_client(r, p, n, last);
}

/* All keys in one slot, that of the keys before them. Gives it; -1: no keys; -2: not so, or too many, and answered. */
static int32_t slot_of_keys(struct client *c, const struct request *q, int32_t before)
{
    uint32_t cap;
    struct resp_slice *keys = fan_keys(&cap);
    int count = command_keys(q->command, q->p, q->len, q->argc, keys, cap);
    int32_t slot = before;
    for (int i = 0; i < count && !c->service->conf->single; i++) {
        int32_t its = slotmap_slot(q->p + keys[i].off, keys[i].len);
        if (slot >= 0 && slot != its) {
            count = -2;
        }
        slot = its;
    }
    if (count == -2) {
        return -2;
    }
    return count > 0 && slot < 0 ? 0 : slot;
}

static enum verdict crossslot(struct client *c)
{
    return said(c, client_error(c, "CROSSSLOT Keys in request don't hash to the same slot"));
}

static enum verdict watch(struct client *c, const struct request *q)
{
    int32_t slot;
    struct req *r;
    if (c->multi.state != MULTI_NONE) {
        return said(c, client_error(c, "ERR WATCH inside MULTI is not allowed"));
    }
    slot = slot_of_keys(c, q, c->watch != NULL && c->watch->kept ? c->multi.slot : -1);
    if (slot < 0) {
        return crossslot(c);
    }
    if (c->unsettled > 0) {
        return VERDICT_WAIT; /* what it watches must be as it is after its earlier requests */
    }
    r = req_take(c, q->command, on_watched);
    if (r == NULL || !slice_extend(&r->bytes, client_use(c), q->p, q->len)) {
        if (r != NULL) {
            req_free(r);
        }
        client_starve(c);
        return VERDICT_WAIT;
    }
    r->slot = (uint16_t)slot;
    r->flags |= REQ_LEASE | REQ_READONLY;
    r->lease = LEASE_WATCH;
    req_enqueue(r);
    req_commit(r);
    c->gate = true; /* later reads must come after it */
    if (c->watch == NULL && !lease_free_of(LEASE_WATCH)) {
        make_room();
    }
    lease_want(r, NULL);
    return VERDICT_DONE;
}

/* ------------------------------------------------------------------- MULTI */

static void close_block(struct client *c)
{
    slice_release(&c->multi.block);
    c->multi.state = MULTI_NONE;
    c->multi.count = 0;
    c->multi.keyed = c->multi.writes = c->multi.scripts = false;
}

void multi_reset(struct client *c)
{
    close_block(c);
    unwatch(c);
}

static enum verdict begin(struct client *c)
{
    if (c->multi.state != MULTI_NONE) {
        return said(c, client_error(c, "ERR MULTI calls can not be nested"));
    }
    if (!slice_extend(&c->multi.block, client_use(c), multi_line, sizeof multi_line - 1)) {
        return said(c, false);
    }
    if (said_ok(c) == VERDICT_WAIT) {
        close_block(c);
        return VERDICT_WAIT;
    }
    c->multi.state = MULTI_OPEN;
    return VERDICT_DONE;
}

static enum verdict discard(struct client *c)
{
    if (c->multi.state == MULTI_NONE) {
        return said(c, client_error(c, "ERR DISCARD without MULTI"));
    }
    if (said_ok(c) == VERDICT_WAIT) {
        return VERDICT_WAIT;
    }
    multi_reset(c);
    return VERDICT_DONE;
}

/* Puts the request, which may lie in several chunks, behind the block; its room has been looked for. */
static void keep(struct client *c, const struct request *q)
{
    struct slice *block = &c->multi.block;
    if (q->copied) {
        must(slice_extend(block, BUF_REPLY, q->p, q->len));
        return;
    }
    for (size_t at = 0, n; at < q->len; at += n) {
        const unsigned char *p = chain_at(&c->in, at, &n);
        n = n < q->len - at ? n : q->len - at;
        must(slice_extend(block, BUF_REPLY, p, n));
    }
}

static void note(struct client *c, const struct request *q, int32_t slot)
{
    c->multi.count++;
    c->multi.writes = c->multi.writes || (q->command->flags & CMD_READONLY) == 0;
    c->multi.scripts = c->multi.scripts || q->command->group == GROUP_SCRIPTING;
    if (slot >= 0) {
        c->multi.keyed = true;
        c->multi.slot = (uint16_t)slot;
    }
}

/* Those that Puerta answers itself, or that hold a connection elsewhere, and that do no harm in a block. */
static bool may_pass(const struct client *c, const struct command *k)
{
    static const char *const names[] = { "ping", "echo", "time", "wait", "waitaof", "unwatch", "pubsub" };
    if (strcmp(k->name, "select") == 0) {
        return !c->service->conf->single; /* nodes of a cluster have only one database */
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(k->name, names[i]) == 0) {
            return true;
        }
    }
    return strncmp(k->name, "command", 7) == 0;
}

/* What a transaction on one node cannot do. NULL: it can. */
static const char *impossible(const struct client *c, const struct request *q)
{
    const struct command *k = q->command;
    if (k->flags & CMD_NO_MULTI) {
        return "ERR Command not allowed inside a transaction";
    }
    if (k->route == ROUTE_ADMIN && ((k->flags & CMD_TAKES_OVER) || !c->service->conf->allow_admin)) {
        return "NOPERM this command is refused by this proxy (allow_admin)";
    }
    if ((k->route == ROUTE_ALL || k->route == ROUTE_SCAN) && !service_is_one(c->service)) {
        return "ERR a command that concerns all nodes cannot be part of a transaction, which runs on one";
    }
    if (k->route == ROUTE_SESSION && k->group == GROUP_PUBSUB) {
        return "ERR subscriptions cannot change inside a transaction";
    }
    if ((k->route == ROUTE_LOCAL || k->route == ROUTE_SESSION) && k->keys == KEYS_NONE && !may_pass(c, k)) {
        return "ERR a command that this proxy answers itself cannot be part of a transaction";
    }
    return NULL;
}

enum verdict multi_queue(struct client *c, const struct request *q)
{
    const char *why = impossible(c, q);
    bool keyed = c->multi.keyed;
    int32_t slot;
    if (!command_arity_ok(q->command, q->argc)) {
        return multi_poison(c, said(c, client_error(c, "ERR wrong number of arguments for '%s' command", q->command->name)));
    }
    if (why != NULL) {
        return multi_poison(c, said(c, client_error(c, "%s", why)));
    }
    slot = slot_of_keys(c, q, keyed || (c->watch != NULL && c->watch->kept) ? c->multi.slot : -1);
    if (slot == -2) {
        return multi_poison(c, crossslot(c));
    }
    if (c->multi.block.len + q->len + sizeof exec_line > c->service->conf->retain_bytes) {
        return multi_poison(c, said(c, client_error(c, "ERR a transaction must not be longer than retain_bytes")));
    }
    if (!buf_may_take_many(client_use(c), q->len / buf_chunk_size() + 3) || !client_answer(c, "+QUEUED\r\n", 9)) {
        return said(c, false);
    }
    if (c->multi.state == MULTI_OPEN) {
        keep(c, q);
        note(c, q, slot);
    }
    return VERDICT_DONE;
}

/* -------------------------------------------------------------------- EXEC */

static const char *null_of(const struct client *c)
{
    return c->resp3 ? "_\r\n" : "*-1\r\n";
}

/* An answer that needs no node; then all is as before MULTI. */
static enum verdict end(struct client *c, const char *line)
{
    if (line[0] == '-') {
        stats_error(line, strlen(line));
    }
    if (!client_answer(c, line, strlen(line))) {
        return said(c, false);
    }
    multi_reset(c);
    return VERDICT_DONE;
}

/* The block becomes a record. */
static enum verdict execute(struct client *c, const struct request *q, bool watched)
{
    uint16_t slot = c->multi.keyed || watched ? c->multi.slot : SLOTMAP_SLOTS - 1;
    struct req *r;
    if (client_must_wait(c, slot)) {
        return VERDICT_WAIT;
    }
    r = req_take(c, q->command, req_to_client);
    if (r == NULL || !slice_extend(&c->multi.block, client_use(c), exec_line, sizeof exec_line - 1)) {
        if (r != NULL) {
            req_free(r);
        }
        return said(c, false);
    }
    r->bytes = c->multi.block;
    memset(&c->multi.block, 0, sizeof c->multi.block);
    r->slot = slot;
    r->mark = c->multi.count + 1;
    r->flags |= REQ_MULTI | REQ_FENCE;
    r->flags |= c->multi.writes ? 0 : REQ_READONLY;
    r->flags |= c->multi.scripts ? REQ_SCRIPT : 0;
    r->lease = watched ? LEASE_WATCH : LEASE_TRANSFER;
    close_block(c);
    req_enqueue(r);
    req_commit(r);
    stats.transactions++;
    if (watched) {
        c->watch->kept = false;
        multi_before(r, c->watch->backend);
        lease_send(c->watch, r);
    } else {
        req_route(r);
    }
    return VERDICT_DONE;
}

static enum verdict exec(struct client *c, const struct request *q)
{
    bool watched = c->watch != NULL && c->watch->kept;
    if (c->multi.state == MULTI_NONE) {
        return said(c, client_error(c, "ERR EXEC without MULTI"));
    }
    if (c->multi.state == MULTI_POISONED) {
        return end(c, "-EXECABORT Transaction discarded because of previous errors.\r\n");
    }
    if (c->watch_lost) {
        return end(c, null_of(c));
    }
    if (c->multi.count == 0 && !watched) {
        return end(c, "*0\r\n");
    }
    return execute(c, q, watched);
}

/* Each time it goes to a node. */
static void before(struct req *r, struct backend *b)
{
    r->ahead = r->mark;
    r->part = WORD_QUEUED;
    slice_release(&r->parked);
    if (r->flags & REQ_SCRIPT) {
        script_before_block(r, b);
    }
}

static bool begins(const unsigned char *p, size_t n, const char *word)
{
    size_t len = strlen(word);
    return n >= len && memcmp(p, word, len) == 0;
}

/* An error that says that the block is for another node, or for later. */
static enum word word_of(struct req *r, const unsigned char *p, size_t n)
{
    struct slotmap_redirect to;
    if (begins(p, n, "-MOVED ") && slotmap_redirect(p, n, &to)) {
        struct backend *b = backend_get(r->service, to.host, to.port, r->upstream->backend);
        stats.redirect_moved++;
        health_refresh(r->service);
        if (b != NULL) {
            service_set_owner(r->service, to.slot, b);
        }
        return WORD_MOVED;
    }
    if (begins(p, n, "-ASK ") || begins(p, n, "-TRYAGAIN")) {
        return WORD_AGAIN; /* ASKING is for one command: a block has to wait until the whole slot has moved */
    }
    if (begins(p, n, "-CLUSTERDOWN") || begins(p, n, "-MASTERDOWN") || begins(p, n, "-LOADING") ||
        begins(p, n, "-READONLY")) {
        return WORD_DOWN;
    }
    return WORD_ERROR;
}

/* The node has queued a command of the block, or says why not. */
static void on_ahead(struct req *r, const unsigned char *p, size_t n)
{
    enum word word;
    if (*p != '-') {
        return;
    }
    word = word_of(r, p, n);
    if (word == WORD_ERROR && r->parked.len == 0) {
        size_t len = n - 3 < 256 ? n - 3 : 256;
        (void)pen_write(&r->client->park, BUF_REPLY, p + 1, len, &r->parked); /* without it EXEC's error says less */
    }
    r->part = word > r->part ? (uint16_t)word : r->part;
}

/* The block was discarded because a command in it was refused: EXEC tells which error that was. */
static void tell_why(struct req *r)
{
    char why[257];
    size_t n = r->parked.len;
    slice_copy(&r->parked, 0, why, n);
    slice_release(&r->parked);
    if (n == 0) {
        req_error(r, "EXECABORT Transaction discarded because of previous errors.");
    } else {
        req_error(r, "EXECABORT Transaction discarded because of: %.*s", (int)n, why);
    }
}

static void answer_null(struct req *r)
{
    const char *line = null_of(r->client);
    slice_release(&r->parked);
    stats.not_executed++;
    req_answer(r, line, strlen(line));
}

/* EXEC itself is answered with an error: nothing of the block has run. */
static bool refused(struct req *r, const unsigned char *p, size_t n)
{
    bool aborted = begins(p, n, "-EXECABORT");
    enum word word = aborted ? (enum word)r->part : word_of(r, p, n);
    if (word == WORD_ERROR || word == WORD_QUEUED) {
        if (aborted) {
            tell_why(r);
        }
        slice_release(&r->parked);
        return aborted;
    }
    if (r->lease == LEASE_WATCH) {
        answer_null(r);
        return true;
    }
    r->client->gate = true;
    if (word == WORD_MOVED && ++r->hops <= REDIS_HOPS_MAX) {
        stats.resent++;
        (r->hops <= REDIS_HOPS_FAST ? req_route : req_again)(r);
        return true;
    }
    if (word == WORD_AGAIN) {
        stats.redirect_tryagain++;
        r->flags |= REQ_TRYAGAIN;
    } else if ((r->flags & REQ_TURNED) == 0) {
        r->flags |= REQ_TURNED;
        r->waits_ms = (uint32_t)loop_ms();
    }
    health_refresh(r->service);
    req_again(r);
    return true;
}

/* Its lease was lost before all of it was sent, or it only reads: what was watched is nobody's word any more. */
static bool unsent(struct req *r)
{
    if (r->lease != LEASE_WATCH) {
        return false;
    }
    answer_null(r);
    return true;
}

enum verdict multi_command(struct client *c, const struct request *q)
{
    const char *name = q->command->name;
    if (!command_arity_ok(q->command, q->argc)) {
        return multi_poison(c, said(c, client_error(c, "ERR wrong number of arguments for '%s' command", name)));
    }
    switch (name[0]) {
    case 'm': return begin(c);
    case 'e': return exec(c, q);
    case 'd': return discard(c);
    case 'w': return watch(c, q);
    default: break;
    }
    if (said_ok(c) == VERDICT_WAIT) {
        return VERDICT_WAIT;
    }
    unwatch(c);
    return VERDICT_DONE;
}

bool multi_holds(const struct client *c, const struct command *k)
{
    return c->multi.state != MULTI_NONE && (k->group != GROUP_TRANSACTIONS || k->name[0] == 'u') &&
           strcmp(k->name, "quit") != 0 && strcmp(k->name, "reset") != 0;
}

void redis_multi_open(void)
{
    multi_before = before;
    multi_ahead = on_ahead;
    multi_refused = refused;
    multi_unsent = unsent;
}
