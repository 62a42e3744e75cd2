/*
 * redis.c - decides: one whole request of a client, its row of the command table, and where it goes.
 *
 *   redis_client.c: one whole request
 *        |
 *      in one piece -> name -> row: route, keys
 *        |
 *      local        one slot        several slots         no key          needs state
 *   redis_local.c  redis_route.c redis_fan.c / CROSSSLOT  any master   redis_multi.c, redis_block.c, or an error, for now
 *
 * A request that must not overtake an earlier one of its client on another connection is put off, not refused.
 */
#include "redis.h"
#include "trace.h"

#include <string.h>

#define HEAD_MAX 4096         /* of a request in several chunks, what is looked at first */

static unsigned char inlined[RESP_INLINE_ROOM(REDIS_MAX_INLINE)];

const struct resp_limits redis_limits = { REDIS_MAX_ARGS, REDIS_MAX_BULK, REDIS_MAX_INLINE, NULL };

/* What an unknown command is taken for: one key, first, and a write. */
static const struct command unknown_command = {
    .name = "unknown", .flags = CMD_WRITE, .arity = -2, .keys = KEYS_FIRST, .route = ROUTE_SLOT,
};

/* ---------------------------------------------------------------- answers */

static enum verdict no_map(struct client *c)
{
    stats.not_executed++;
    return client_said(c, client_error(c, "CLUSTERDOWN not executed: no cluster map yet: %s", c->service->trouble));
}

/* Passes q on; `take` takes the reply, and finds `mark` in its record. */
static enum verdict forward_for(struct client *c, const struct request *q, uint16_t slot, bool fence, req_taker take,
                                uint32_t mark)
{
    struct backend *b = service_owner(c->service, slot);
    struct req *r;
    if (client_must_wait(c, slot) || client_awaits_turn(c, q->command)) {
        return VERDICT_WAIT;
    }
    if (b == NULL && c->service->map.served == 0) {
        return no_map(c);
    }
    r = req_take(c, q->command, take);
    if (r == NULL) {
        client_starve(c);
        return VERDICT_WAIT;
    }
    r->mark = mark;
    r->slot = slot;
    if (fence) {
        r->flags |= REQ_FENCE;
    }
    if (b == NULL) {
        /* A slot without an owner: its request waits with a copy of its own. */
        if (!slice_extend(&r->bytes, client_use(c), q->p, q->len)) {
            req_free(r);
            client_starve(c);
            return VERDICT_WAIT;
        }
    } else if (!req_bytes(r, b, c, q->p, q->len, q->copied)) {
        req_free(r);
        client_starve(c);
        return VERDICT_WAIT;
    }
    req_enqueue(r);
    req_commit(r);
    if (b == NULL) {
        req_route(r);
    } else {
        req_send(r, b);
    }
    return VERDICT_DONE;
}

static enum verdict forward(struct client *c, const struct request *q, uint16_t slot, bool fence)
{
    return forward_for(c, q, slot, fence, req_to_client, 0);
}

/* A slot whose owner may take a command without keys: one after the other, so that all masters get their share. */
static uint16_t any_slot(const struct client *c)
{
    static uint16_t at;
    for (uint32_t i = 0; i < SLOTMAP_SLOTS; i++) {
        at = (uint16_t)((at + 4099u) % SLOTMAP_SLOTS);
        if (service_owner(c->service, at) != NULL) {
            break;
        }
    }
    return at;
}

/* A script without keys runs on the same master each time: what it does behind the cluster's back works always or never. */
static uint16_t script_slot(const struct client *c)
{
    uint16_t last = SLOTMAP_SLOTS - 1;
    return service_owner(c->service, last) != NULL ? last : any_slot(c);
}

/* CONFIG GET shows what one master has, each time the same one. */
static uint16_t shown_slot(const struct client *c)
{
    return service_owner(c->service, 0) != NULL ? 0 : any_slot(c);
}

/* --------------------------------------------------------------- deciding */

static enum verdict wrong_count(struct client *c, const struct request *q)
{
    enum verdict v = client_said(c, client_error(c, "ERR wrong number of arguments for '%s' command", q->command->name));
    stats_command(q->command)->rejected += v == VERDICT_DONE;
    return v;
}

static bool equals(const struct request *q, const struct resp_slice *arg, const char *word)
{
    size_t n = strlen(word);
    if (arg->len != n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = q->p[arg->off + i];
        if ((byte >= 'A' && byte <= 'Z' ? byte + 32 : byte) != word[i]) {
            return false;
        }
    }
    return true;
}

/* XREAD and XREADGROUP hold their connection only with BLOCK, which stands before STREAMS. */
static bool blocks(const struct request *q)
{
    struct resp_slice arg;
    for (uint32_t at = 0; resp_arg(q->p, q->len, &at, &arg);) {
        if (equals(q, &arg, "block")) {
            return true;
        }
        if (equals(q, &arg, "streams")) {
            return false;
        }
    }
    return false;
}

static enum verdict by_keys(struct client *c, const struct request *q)
{
    uint32_t cap;
    struct resp_slice *keys = fan_keys(&cap);
    int count = command_keys(q->command, q->p, q->len, q->argc, keys, cap);
    uint16_t slot;
    if (count == -2) {
        return client_said(c, client_error(c, "ERR a request of more than %u keys is too wide for this proxy (max_split_keys)",
                                           (unsigned)cap));
    }
    if (q->command->keys == KEYS_PAIRS && q->command->group == GROUP_STRING && q->argc % 2 == 0) {
        return wrong_count(c, q); /* a node would say first that the slots differ */
    }
    if (count <= 0) { /* no key, or a mistake that the server explains best */
        return forward(c, q, q->command->group == GROUP_SCRIPTING ? script_slot(c) : any_slot(c), false);
    }
    slot = slotmap_slot(q->p + keys[0].off, keys[0].len);
    for (int i = 1; i < count && !c->service->conf->single; i++) {
        if (slotmap_slot(q->p + keys[i].off, keys[i].len) != slot) {
            if ((q->command->flags & CMD_SPLIT) == 0) {
                return client_said(c, client_error(c, "CROSSSLOT Keys in request don't hash to the same slot"));
            }
            if (c->service->map.served == 0) {
                return no_map(c);
            }
            return client_must_wait(c, -1) ? VERDICT_WAIT : fan_split(c, q, (uint32_t)count);
        }
    }
    return forward(c, q, slot, count > 1);
}

/* By a slot's number; where it is none any node says so best. */
static enum verdict by_number(struct client *c, const struct request *q)
{
    int64_t slot;
    if (!command_arity_ok(q->command, q->argc)) {
        return wrong_count(c, q);
    }
    if (!resp_to_int(q->p + q->arg[2].off, q->arg[2].len, &slot) || slot < 0 || slot >= SLOTMAP_SLOTS) {
        return forward(c, q, any_slot(c), false);
    }
    return forward(c, q, (uint16_t)slot, false);
}

static enum verdict unsupported(struct client *c, const struct request *q)
{
    return client_said(c, client_error(c, "ERR '%s' is not supported by this version of Puerta", q->command->name));
}

/* What is not done over connections of the client's own, so that the servers cannot say whether its user may. */
static enum verdict no_login(struct client *c, const struct request *q)
{
    return client_said(c, client_error(c, "NOPERM '%s' is not possible for a client with a login of its own", q->command->name));
}

/* Redis's own text: the name and the first arguments, each cut. */
static enum verdict unknown(struct client *c, const struct request *q)
{
    char args[160];
    size_t at = 0;
    struct resp_slice arg;
    uint32_t i = 0;
    args[0] = '\0';
    for (uint32_t pos = 0; resp_arg(q->p, q->len, &pos, &arg); i++) {
        size_t n = arg.len;
        if (i == 0) {
            continue;
        }
        if (at + 4 >= sizeof args) {
            break;
        }
        n = n < sizeof args - at - 4 ? n : sizeof args - at - 4;
        args[at++] = '\'';
        memcpy(args + at, q->p + arg.off, n);
        at += n;
        args[at++] = '\'';
        args[at++] = ' ';
        args[at] = '\0';
    }
    return client_said(c, client_error(c, "ERR unknown command '%.*s', with args beginning with: %s",
                                       (int)(q->arg[0].len < 128 ? q->arg[0].len : 128), (const char *)q->p + q->arg[0].off,
                                       args));
}

/* What a CONFIG SET changes may belong to one node, as its port does: then it is changed on the one that CONFIG GET shows. */
static bool is_of_one_node(const struct request *q)
{
    static const char *const names[] = { "port", "tls-port", "cluster-port", "bind", "unixsocket", "dir", "logfile", "pidfile" };
    struct resp_slice arg;
    uint32_t i = 0;
    for (uint32_t at = 0; resp_arg(q->p, q->len, &at, &arg); i++) {
        for (size_t k = 0; i >= 2 && i % 2 == 0 && k < sizeof names / sizeof *names; k++) {
            if (equals(q, &arg, names[k])) {
                return true;
            }
        }
    }
    return false;
}

/* What concerns all keys, by `ask`: it waits for whatever it could overtake on any node. */
static enum verdict by_masters(struct client *c, const struct request *q,
                               enum verdict (*ask)(struct client *, const struct request *))
{
    if (!command_arity_ok(q->command, q->argc)) {
        return wrong_count(c, q);
    }
    if (c->service->map.served == 0) {
        return no_map(c);
    }
    return client_must_wait(c, -1) ? VERDICT_WAIT : ask(c, q);
}

/* What changes servers or the cluster: to all masters if its row says how the answers become one, else by its keys if
 * it has any, else to one node, whichever. */
static enum verdict administer(struct client *c, const struct request *q)
{
    bool monitor = strcmp(q->command->name, "monitor") == 0;
    if ((q->command->flags & CMD_TAKES_OVER) && !monitor) {
        return unsupported(c, q);
    }
    if (!c->service->conf->allow_admin) {
        return client_said(c, client_error(c, "NOPERM '%s' is refused by this proxy (allow_admin)", q->command->name));
    }
    if (monitor && c->login != NULL) {
        return no_login(c, q);
    }
    if (monitor) {
        return monitor_command(c);
    }
    if (q->command->merge != MERGE_NONE) {
        return by_masters(c, q, fan_all);
    }
    return !command_arity_ok(q->command, q->argc) ? wrong_count(c, q) : by_keys(c, q);
}

/* What needs a connection of its own. */
static enum verdict session(struct client *c, const struct request *q)
{
    const struct command *command = q->command;
    if (command->group == GROUP_TRANSACTIONS) {
        return multi_command(c, q);
    }
    if ((command->flags & (CMD_BLOCKING | CMD_DECLARED)) != CMD_BLOCKING) {
        return unsupported(c, q);
    }
    if (command->keys != KEYS_NONE) {
        return block_command(c, q);
    }
    if (command->group == GROUP_GENERIC) {
        return !command_arity_ok(command, q->argc) ? wrong_count(c, q)
               : wait_is_sound(q)                  ? wait_command(c, q)
                                                   : forward(c, q, any_slot(c), false);
    }
    return unsupported(c, q);
}

/* A web browser that somebody has talked into sending here: Redis ends its connection at these words, and a node that was
 * passed them would end the one that all clients share. */
static bool is_browsers(const struct request *q)
{
    return q->command == NULL && (equals(q, &q->arg[0], "post") || equals(q, &q->arg[0], "host:"));
}

/* Subscriptions are Puerta's own matter; what is published goes to a node, and its answer counts our own receivers. */
static enum verdict pubsub(struct client *c, const struct request *q)
{
    uint16_t slot;
    if (!command_arity_ok(q->command, q->argc)) {
        return wrong_count(c, q);
    }
    if ((q->command->flags & CMD_FAST) == 0) {
        if (c->login != NULL && strstr(q->command->name, "unsub") == NULL) {
            return no_login(c, q); /* one subscription at the nodes serves all clients: it knows no rights */
        }
        return pubsub_change(c, q);
    }
    slot = pubsub_slot(c->service, q);
    if (req_ahead(c, q->command->keys != KEYS_NONE ? slot : -1)) {
        return VERDICT_WAIT; /* whoever hears of what its client has just written must find it */
    }
    return forward_for(c, q, slot, false, pubsub_published, pubsub_receivers(c->service, q));
}

/* A client of RESP2 that subscribes to something cannot tell answers from messages. */
static enum verdict subscribed(struct client *c, const struct request *q)
{
    if (!command_arity_ok(q->command, q->argc)) {
        return wrong_count(c, q);
    }
    return client_said(c, client_error(c, "%sCan't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET "
                                       "are allowed in this context", strcmp(q->command->name, "exec") == 0 ?
                                       "EXECABORT Transaction discarded because of: " : "ERR ", q->command->name));
}

static enum verdict decide(struct client *c, struct request *q)
{
    const struct command *command = q->command;
    if (is_browsers(q)) {
        log_warn("a client speaks HTTP: it is closed", "section=%s", c->service->conf->name);
        return VERDICT_CLOSE;
    }
    if (!c->admitted && (command == NULL || (command->flags & CMD_NO_AUTH) == 0)) {
        return user_refuse(c);
    }
    if (command == NULL) {
        if (c->service->conf->unknown_commands == 0 || q->argc < 2 || (c->subscribed && !c->resp3) ||
            c->multi_state != MULTI_NONE) { /* there a server says at once whether it knows it */
            return multi_poison(c, unknown(c, q));
        }
        q->command = command = &unknown_command;
    }
    if ((command->flags & CMD_CONTAINER) && q->argc > 1) {
        const struct command *sub = command_sub(command, q->p + q->arg[1].off, q->arg[1].len);
        q->command = command = sub != NULL ? sub : command;
    }
    if (c->subscribed && !c->resp3 && !pubsub_allows(command)) {
        return subscribed(c, q);
    }
    if (command->group == GROUP_SCRIPTING) {
        script_note(q);
        if (function_waits(c, q)) {
            client_starve(c);
            return VERDICT_WAIT;
        }
    }
    if (c->monitor != MONITOR_OFF && command_arity_ok(command, q->argc) &&
        (command->flags & (CMD_READONLY | CMD_WRITE | CMD_MAY_REPLICATE)) != 0) {
        return multi_poison(c, client_said(c, client_error(c, "ERR Replica can't interact with the keyspace")));
    }
    if (c->service->pause_until_ms != 0 && command_arity_ok(command, q->argc) && client_is_stopped(c, command)) {
        return VERDICT_WAIT;
    }
    if (c->multi_state != MULTI_NONE && multi_holds(c, command)) {
        return multi_queue(c, q);
    }
    switch (command->route) {
    case ROUTE_LOCAL:
        if (strcmp(command->name, "info") == 0 && info_is_of_all(c, q)) {
            return by_masters(c, q, info_of_all);
        }
        return strcmp(command->name, "client|unblock") == 0 ? unblock(c, q) : local_answer(c, q);
    case ROUTE_ANY:
        return forward(c, q, strcmp(command->name, "config|get") == 0 ? shown_slot(c) : any_slot(c), false);
    case ROUTE_OWNER:
        return by_number(c, q);
    case ROUTE_SLOT:
        if ((command->flags & CMD_MAY_BLOCK) && blocks(q)) {
            return block_command(c, q);
        }
        if (command->keys == KEYS_FIRST && q->argc > 1) {
            return forward(c, q, slotmap_slot(q->p + q->arg[1].off, q->arg[1].len), false);
        }
        return !command_arity_ok(command, q->argc) ? wrong_count(c, q) : by_keys(c, q);
    case ROUTE_ALL:
        if (strcmp(command->name, "config|resetstat") == 0) {
            stats_reset();
        }
        if (strcmp(command->name, "config|set") == 0 && is_of_one_node(q)) {
            return forward(c, q, shown_slot(c), false);
        }
        return by_masters(c, q, fan_all);
    case ROUTE_PUBSUB:
        return pubsub(c, q);
    case ROUTE_SCAN:
        return by_masters(c, q, scan);
    case ROUTE_ADMIN:
        return administer(c, q);
    default:
        return session(c, q);
    }
}

/* ------------------------------------------------------ one whole request */

/* Where the request lies in one piece: in its chunk, or copied out of several. Of a long one only the head is copied
 * when that is enough to route it; its bytes then stay where they are. */
static void in_one_piece(struct client *c, struct request *q)
{
    const struct resp_request *f = &c->framing;
    size_t n, cap, need = (size_t)f->used;
    const unsigned char *p = chain_at(&c->in, 0, &n);
    unsigned char *copy;
    q->len = (size_t)f->used;
    q->copied = false;
    if (n >= q->len) {
        q->p = p;
        q->command = command_find(p + q->arg[0].off, q->arg[0].len);
        return;
    }
    copy = large_scratch(&cap);
    must(q->len <= cap);
    q->p = copy;
    if (need > HEAD_MAX) {
        chain_copy(&c->in, copy, HEAD_MAX);
        if (q->arg[0].off + q->arg[0].len <= HEAD_MAX) {
            q->command = command_find(copy + q->arg[0].off, q->arg[0].len);
            if (q->command != NULL && q->command->keys == KEYS_FIRST && q->command->route == ROUTE_SLOT &&
                q->argc > 1 && q->arg[1].off + q->arg[1].len <= HEAD_MAX) {
                return;
            }
        }
    }
    chain_copy(&c->in, copy, need);
    q->command = command_find(copy + q->arg[0].off, q->arg[0].len);
}

/* An inline request is turned into multibulk form, framed again, and goes on like any other. */
static bool from_inline(struct client *c, struct request *q, struct resp_request *framing)
{
    size_t cap, n = (size_t)c->framing.used;
    unsigned char *line = large_scratch(&cap);
    enum resp_status status;
    long len;
    must(n <= cap);
    chain_copy(&c->in, line, n);
    len = resp_inline(line, n, inlined, sizeof inlined);
    q->argc = 0;
    if (len <= 0) {
        return len == 0;
    }
    resp_request_start(framing);
    resp_request(framing, inlined, (size_t)len, &redis_limits, &status);
    must(status == RESP_WHOLE);
    q->p = inlined;
    q->len = (size_t)len;
    q->argc = framing->argc;
    q->arg = framing->arg;
    q->copied = true;
    q->command = command_find(q->p + q->arg[0].off, q->arg[0].len);
    return true;
}

enum verdict redis_protocol_error(struct client *c, const char *text)
{
    enum verdict v = client_said(c, client_error(c, "ERR %s", text));
    stats.protocol_errors++;
    return v == VERDICT_DONE ? VERDICT_CLOSE : v;
}

/* What INFO commandstats and CLIENT LIST tell. */
static enum verdict counted(struct client *c, const struct request *q, enum verdict v)
{
    if (v == VERDICT_WAIT || c->conn == NULL) {
        return v;
    }
    gate_done(c->conn);
    if (q->command != NULL) {
        stats_command(q->command)->calls++;
        c->last = q->command;
        if (trace_due()) {
            trace_request(c, q);
        }
        if (monitors > 0 && q->command != &unknown_command) {
            monitor_see(c, q);
        }
    }
    return v;
}

/* One whose address may ask only so often (gate.c): false when its request waits, or is answered with an error. What ends a transaction,
 * or a connection, is never refused: its commands have been counted. */
static bool admit(struct client *c, const struct request *q, enum verdict *v)
{
    switch (gate_ask(c->conn)) {
    case GATE_GO: return true;
    case GATE_HELD:
        *v = VERDICT_WAIT;
        return false;
    case GATE_REFUSED: break;
    }
    if (q->command != NULL && (q->command->group == GROUP_TRANSACTIONS || strcmp(q->command->name, "quit") == 0)) {
        return true;
    }
    *v = multi_poison(c, client_said(c, client_error(c, "ERR too many requests from this address (request_rate, byte_rate)")));
    return false;
}

enum verdict redis_handle(struct client *c)
{
    struct resp_request framing;
    struct request q = { .argc = c->framing.argc, .arg = c->framing.arg };
    enum verdict v;
    if (c->framing.inlined) {
        if (!from_inline(c, &q, &framing)) {
            return redis_protocol_error(c, RESP_UNBALANCED);
        }
        if (q.argc == 0) {
            return VERDICT_DONE;
        }
    } else {
        in_one_piece(c, &q);
    }
    if (c->conn->source == NULL || admit(c, &q, &v)) {
        v = decide(c, &q);
    }
    return counted(c, &q, v);
}
