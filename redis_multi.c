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
 * Until EXEC the node has heard nothing. A lease whose client keeps it idle is taken back when others need it: its EXEC is
 * answered with a null, as if what it watched had been touched.
 */
#include "redis.h"

#include <stdio.h>
#include <string.h>

static const char multi_line[] = "*1\r\n$5\r\nMULTI\r\n";

static enum verdict said_ok(struct client *c)
{
    return client_said(c, client_answer(c, "+OK\r\n", 5));
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

static bool on_watched(struct req *r, const unsigned char *p, size_t n, bool last)
{
    struct upstream *u = r->upstream;
    struct client *c = r->client;
    if (c != NULL && u != NULL && u->owner == c && n > 0 && *p == '+') {
        u->kept = true;
        c->multi.slot = r->slot;
    } else if (c != NULL && c->watch != NULL && !c->watch->kept) {
        bool lost = c->watch_lost;
        lease_unwatch(c); /* the answer came too late, perhaps: it may watch all the same */
        c->watch_lost = lost;
    }
    return req_to_client(r, p, n, last);
}

/* All keys in one slot, that of the keys before them. Gives it; -1: no keys; -2: not so; -3: too many. */
static int32_t slot_of_keys(struct client *c, const struct request *q, int32_t before)
{
    uint32_t cap;
    struct resp_slice *keys = fan_keys(&cap);
    int count = command_keys(q->command, q->p, q->len, q->argc, keys, cap);
    bool too_many = count == -2;
    int32_t slot = before;
    for (int i = 0; i < count && !c->service->conf->single; i++) {
        int32_t its = slotmap_slot(q->p + keys[i].off, keys[i].len);
        if (slot >= 0 && slot != its) {
            count = -2;
        }
        slot = its;
    }
    if (count == -2) {
        return too_many ? -3 : -2;
    }
    return count > 0 && slot < 0 ? 0 : slot;
}

static enum verdict no_slot(struct client *c, int32_t slot)
{
    uint32_t cap;
    (void)fan_keys(&cap);
    if (slot == -3) {
        return client_said(c, client_error(c, "ERR a request of more than %u keys is too wide for this proxy (max_split_keys)",
                                           (unsigned)cap));
    }
    return client_said(c, client_error(c, "CROSSSLOT Keys in request don't hash to the same slot"));
}

static enum verdict watch(struct client *c, const struct request *q)
{
    int32_t slot;
    struct req *r;
    if (c->multi_state != MULTI_NONE) {
        return client_said(c, client_error(c, "ERR WATCH inside MULTI is not allowed"));
    }
    slot = slot_of_keys(c, q, c->watch != NULL && c->watch->kept ? c->multi.slot : -1);
    if (slot < 0) {
        return no_slot(c, slot);
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
    lease_want(r, NULL);
    return VERDICT_DONE;
}

/* ------------------------------------------------------------------- MULTI */

static void close_block(struct client *c)
{
    slice_release(&c->multi.block);
    c->multi_state = MULTI_NONE;
    c->multi.count = 0;
    c->multi.keyed = c->multi.writes = c->multi.replicates = c->multi.scripts = false;
    c->multi.publishes = c->multi.all = c->multi.ending = false;
}

void multi_reset(struct client *c)
{
    close_block(c);
    lease_unwatch(c);
}

static enum verdict begin(struct client *c)
{
    if (c->multi_state != MULTI_NONE) {
        return client_said(c, client_error(c, "ERR MULTI calls can not be nested"));
    }
    if (said_ok(c) == VERDICT_WAIT) {
        return VERDICT_WAIT;
    }
    c->multi_state = MULTI_OPEN;
    return VERDICT_DONE;
}

static enum verdict discard(struct client *c)
{
    if (c->multi_state == MULTI_NONE) {
        return client_said(c, client_error(c, "ERR DISCARD without MULTI"));
    }
    c->multi.ending = true;
    if (said_ok(c) == VERDICT_WAIT) {
        return VERDICT_WAIT;
    }
    multi_reset(c);
    return VERDICT_DONE;
}

void multi_give_up(struct client *c)
{
    if (c->multi.ending) {
        multi_reset(c);
    } else {
        client_poison(c);
    }
}

/* Puts the request, which may lie in several chunks, behind the block; its room has been looked for. */
static void keep(struct client *c, const struct request *q)
{
    struct slice *block = &c->multi.block;
    must(block->len > 0 || slice_extend(block, BUF_REPLY, multi_line, sizeof multi_line - 1));
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
    c->multi.replicates = c->multi.replicates || (q->command->flags & (CMD_WRITE | CMD_MAY_REPLICATE)) != 0;
    c->multi.all = c->multi.all || (q->command->route == ROUTE_ALL && !service_is_one(c->service));
    c->multi.publishes = c->multi.publishes || q->command->route == ROUTE_PUBSUB;
    c->multi.scripts = c->multi.scripts || q->command->group == GROUP_SCRIPTING;
    if (slot >= 0) {
        c->multi.keyed = true;
        c->multi.slot = (uint16_t)slot;
    }
}

/* Those that Puerta answers itself, or that hold a connection elsewhere, and that do no harm in a block. */
static bool may_pass(const struct client *c, const struct request *q)
{
    static const char *const names[] = { "ping", "echo", "time", "wait", "waitaof", "unwatch", "pubsub" };
    const struct command *k = q->command;
    if (strcmp(k->name, "select") == 0) { /* nodes of a cluster have only one database, others must stay in theirs */
        return !c->service->conf->single || (q->argc == 2 && q->arg[1].len == 1 && q->p[q->arg[1].off] == '0');
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
    if ((k->route == ROUTE_ALL || k->route == ROUTE_SCAN) && k->merge != MERGE_ALL_OK && !service_is_one(c->service)) {
        return "ERR a command that asks all nodes cannot be part of a transaction, which runs on one";
    }
    if (k->route == ROUTE_ALL && c->login != NULL && !service_is_one(c->service)) {
        return "NOPERM a transaction that concerns all nodes is not possible for a client with a login of its own";
    }
    if (k->route == ROUTE_PUBSUB && (k->flags & CMD_FAST) == 0) {
        return "ERR subscriptions cannot change inside a transaction";
    }
    if ((k->route == ROUTE_LOCAL || k->route == ROUTE_SESSION) && k->keys == KEYS_NONE && !may_pass(c, q)) {
        return "ERR a command that this proxy answers itself cannot be part of a transaction";
    }
    return NULL;
}

enum verdict multi_queue(struct client *c, const struct request *q)
{
    const char *why = impossible(c, q);
    bool keyed = c->multi.keyed;
    const struct backend *b;
    int32_t slot;
    if (!command_arity_ok(q->command, q->argc)) {
        return multi_poison(c, client_said(c, client_error(c, "ERR wrong number of arguments for '%s' command", q->command->name)));
    }
    if (why != NULL) {
        return multi_poison(c, client_said(c, client_error(c, "%s", why)));
    }
    slot = slot_of_keys(c, q, keyed || (c->watch != NULL && c->watch->kept) ? c->multi.slot : -1);
    if (slot < -1) {
        return multi_poison(c, no_slot(c, slot));
    }
    b = slot >= 0 ? service_owner(c->service, (uint16_t)slot) : NULL;
    if (b != NULL && b->busy) {
        c->multi.keyed = true; /* EXEC asks the same node */
        c->multi.slot = (uint16_t)slot;
        return multi_poison(c, client_said(c, client_error(c, "%s", b->busy_says + 1)));
    }
    if (c->multi.block.len + q->len > c->service->conf->transaction_limit) {
        return multi_poison(c, client_said(c, client_error(c, "ERR a transaction must not be longer than transaction_limit")));
    }
    if (!buf_may_take_many(client_use(c), q->len / buf_chunk_size() + 3) || !client_answer(c, "+QUEUED\r\n", 9)) {
        return client_said(c, false);
    }
    if (c->multi_state == MULTI_OPEN) {
        keep(c, q);
        note(c, q, slot);
    }
    return VERDICT_DONE;
}

/* -------------------------------------------------------------------- EXEC */

/* An answer that needs no node; then all is as before MULTI. */
static enum verdict end(struct client *c, const char *line)
{
    if (line[0] == '-') {
        stats_error(line, strlen(line));
    }
    if (!client_answer(c, line, strlen(line))) {
        return client_said(c, false);
    }
    multi_reset(c);
    return VERDICT_DONE;
}

/* The node that is to run it is busy with a script: as a server, it refuses EXEC before it looks at what is queued. */
static const char *says_busy(const struct client *c)
{
    static char line[256];
    const struct backend *b = c->multi.keyed ? service_owner(c->service, c->multi.slot) : NULL;
    if (b == NULL || !b->busy) {
        return NULL;
    }
    snprintf(line, sizeof line, "-EXECABORT Transaction discarded because of: %s\r\n", b->busy_says + 1);
    return line;
}

/* The node on which c watches serves the slot no more, or does not answer: what was watched is nobody's word, and what is sent
 * there has an unknown fate. */
static bool watches_in_vain(const struct client *c)
{
    const struct backend *b = c->watch->backend;
    return b != service_owner(c->service, c->multi.slot) || backend_is_away(b);
}

static enum verdict exec(struct client *c, const struct request *q)
{
    bool watched = c->watch != NULL && c->watch->kept, sent;
    const char *busy;
    if (c->multi_state == MULTI_NONE) {
        return client_said(c, client_error(c, "ERR EXEC without MULTI"));
    }
    c->multi.ending = true;
    if ((busy = says_busy(c)) != NULL) {
        return end(c, busy);
    }
    if (c->multi_state == MULTI_POISONED) {
        return end(c, "-EXECABORT Transaction discarded because of previous errors.\r\n");
    }
    if (c->watch_lost || (watched && watches_in_vain(c))) {
        stats.not_executed++;
        return end(c, exec_null(c));
    }
    if (c->multi.count == 0 && !watched) {
        return end(c, "*0\r\n");
    }
    if (!c->multi.keyed && !watched) {
        c->multi.slot = c->service->primary_slot; /* where PUBLISH goes: in a block it keeps its place among others */
    }
    if (watched ? c->unsettled > 0 : client_must_wait(c, c->multi.all ? -1 : c->multi.slot) || client_awaits_turn(c, q->command)) {
        return VERDICT_WAIT; /* the lease is another connection than that of its earlier requests */
    }
    if (c->multi.publishes && req_ahead(c, c->multi.keyed ? c->multi.slot : -1)) {
        return VERDICT_WAIT;
    }
    sent = (c->multi.block.len > 0 || slice_extend(&c->multi.block, client_use(c), multi_line, sizeof multi_line - 1)) &&
           exec_send(c, q->command, watched);
    if (!sent) {
        return client_said(c, false);
    }
    close_block(c);
    return VERDICT_DONE;
}

bool multi_unclear(const struct client *c)
{
    return c->gate && c->unsettled > 0;
}

enum verdict multi_command(struct client *c, const struct request *q)
{
    const char *name = q->command->name;
    if (multi_unclear(c)) {
        return VERDICT_WAIT;
    }
    if (!command_arity_ok(q->command, q->argc) && name[0] == 'e') {
        return end(c, "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n");
    }
    if (!command_arity_ok(q->command, q->argc)) {
        return multi_poison(c, client_said(c, client_error(c, "ERR wrong number of arguments for '%s' command", name)));
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
    lease_unwatch(c);
    return VERDICT_DONE;
}

bool multi_holds(const struct client *c, const struct command *k)
{
    return c->multi_state != MULTI_NONE && (k->group != GROUP_TRANSACTIONS || k->name[0] == 'u') &&
           strcmp(k->name, "quit") != 0 && strcmp(k->name, "reset") != 0;
}
