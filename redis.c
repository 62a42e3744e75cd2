/*
 * redis.c - Redis mode: reads a client's commands, decides where each goes, and hands it to the room that does it.
 *
 *   listener -> client: input chain -> one whole request -> row of the command table
 *                                         |
 *             redis_local  redis_fan  redis_large  redis_req
 *
 * Owns the table of clients and the services. A client is paused, not refused, when its answers pile up, when its
 * next request must not overtake its earlier ones, or when a table is full; what it sent stays in its input.
 */
#include "redis.h"

#include <string.h>

#define FINISH_MS 2000        /* how long a client that is being closed may take to read its last answers */
#define HEAD_MAX 4096         /* of a request in several chunks, what is looked at first */
#define CARE_MS 250           /* how often starving clients are looked after */
#define KEEPALIVE_IDLE_MS 60000

static struct {
    struct client *all, *free;
    uint32_t total;
    struct service services[MAX_SERVICES];
    int service_count;
    bool stopping;
    struct timer care;
    unsigned char inlined[RESP_INLINE_ROOM(REDIS_MAX_INLINE)];
} rd;

static const struct resp_limits limits = { REDIS_MAX_ARGS, REDIS_MAX_BULK, REDIS_MAX_INLINE };

/* What an unknown command is taken for: one key, first, and a write. */
static const struct command unknown_command = {
    .name = "unknown", .flags = CMD_WRITE, .arity = -2, .keys = KEYS_FIRST, .route = ROUTE_SLOT,
};

static void run(struct client *c);

/* ---------------------------------------------------------------- clients */

static void client_gone(struct client *c)
{
    stats.clients_closed++;
    large_gone(c);
    req_orphan(c);
    chain_clear(&c->in);
    c->conn = NULL;
    client_resume(c); /* its entry is freed there: lists of this turn may still name it */
}

static void client_free(struct client *c)
{
    if (!c->starved && !c->resuming) {
        c->next = rd.free;
        rd.free = c;
    }
}

static void on_close(struct conn *conn, const char *why)
{
    struct client *c = conn->owner;
    char text[ADDRESS_TEXT];
    log_debug("client closed", "client=%s why=\"%s\"", address_text(&conn->peer, text), why);
    if (strncmp(why, "stalled", 7) == 0) {
        stats.clients_stalled++;
        log_warn("client closed: it does not read its answers (client_stall)", "client=%s",
                 address_text(&conn->peer, text));
    }
    client_gone(c);
}

/* Ends when all is answered and sent. */
static void close_when_answered(struct client *c)
{
    c->ended = true;
    conn_read(c->conn, false);
    chain_clear(&c->in);
    if (c->head == NULL && c->mode == 0) {
        conn_finish(c->conn, FINISH_MS);
    }
}

static void pause_input(struct client *c)
{
    c->paused = true;
    conn_read(c->conn, false);
}

/* --------------------------------------------------------------- ordering */

/* Whether a request on `slot` (-1: several) must wait for earlier ones of its client: they may still be redirected,
 * or were sent by a map that has changed, and it would overtake them on another connection. */
static bool must_wait(struct client *c, int32_t slot)
{
    if (c->unsettled == 0) {
        return false;
    }
    return c->gate || c->epoch != c->service->map.epoch ||
           (c->fences > 0 && (slot < 0 || c->fence_slot < 0 || c->fence_slot == slot));
}

static enum verdict say(struct client *c, bool done)
{
    if (!done) {
        client_starve(c);
        return VERDICT_WAIT;
    }
    return VERDICT_DONE;
}

static enum verdict forward(struct client *c, const struct request *q, uint16_t slot, bool fence)
{
    struct backend *b = service_owner(c->service, slot);
    struct req *r;
    if (must_wait(c, slot)) {
        return VERDICT_WAIT;
    }
    if (b == NULL && c->service->map.served == 0) {
        stats.not_executed++;
        return say(c, client_error(c, "CLUSTERDOWN not executed: no cluster map yet: %s", c->service->trouble));
    }
    r = req_take(c, q->command, req_to_client);
    if (r == NULL) {
        client_starve(c);
        return VERDICT_WAIT;
    }
    r->slot = slot;
    if (fence) {
        r->flags |= REQ_FENCE;
    }
    if (b == NULL) {
        /* A slot without an owner: its request waits with a copy of its own. */
        if (!slice_extend(&r->bytes, BUF_REQUEST, q->p, q->len)) {
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

/* --------------------------------------------------------------- deciding */

static enum verdict wrong_count(struct client *c, const struct request *q)
{
    return say(c, client_error(c, "ERR wrong number of arguments for '%s' command", q->command->name));
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
        return say(c, client_error(c, "ERR a request of more than %u keys is too wide for this proxy (max_split_keys)",
                                   (unsigned)cap));
    }
    if (count <= 0) {
        return forward(c, q, any_slot(c), false); /* no key, or a mistake that the server explains best */
    }
    slot = slotmap_slot(q->p + keys[0].off, keys[0].len);
    for (int i = 1; i < count && !c->service->conf->single; i++) {
        if (slotmap_slot(q->p + keys[i].off, keys[i].len) != slot) {
            if ((q->command->flags & CMD_SPLIT) == 0) {
                return say(c, client_error(c, "CROSSSLOT Keys in request don't hash to the same slot"));
            }
            if (q->command->keys == KEYS_PAIRS && q->argc % 2 == 0) {
                return wrong_count(c, q);
            }
            if (c->service->map.served == 0) {
                return forward(c, q, slot, false); /* which says why there is no map */
            }
            return must_wait(c, -1) ? VERDICT_WAIT : fan_split(c, q, (uint32_t)count);
        }
    }
    return forward(c, q, slot, count > 1);
}

static enum verdict unsupported(struct client *c, const struct request *q)
{
    return say(c, client_error(c, "ERR '%s' is not supported by this version of Puerta", q->command->name));
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
    return say(c, client_error(c, "ERR unknown command '%.*s', with args beginning with: %s",
                               (int)(q->arg[0].len < 128 ? q->arg[0].len : 128), (const char *)q->p + q->arg[0].off,
                               args));
}

static enum verdict decide(struct client *c, struct request *q)
{
    const struct command *command = q->command;
    if (command == NULL) {
        if (c->service->conf->unknown_commands == 0 || q->argc < 2) {
            return unknown(c, q);
        }
        q->command = command = &unknown_command;
    }
    if ((command->flags & CMD_CONTAINER) && q->argc > 1) {
        const struct command *sub = command_sub(command, q->p + q->arg[1].off, q->arg[1].len);
        q->command = command = sub != NULL ? sub : command;
    }
    switch (command->route) {
    case ROUTE_LOCAL:
        return local_answer(c, q);
    case ROUTE_ANY:
        return forward(c, q, any_slot(c), false);
    case ROUTE_SLOT:
        if ((command->flags & CMD_MAY_BLOCK) && blocks(q)) {
            return unsupported(c, q);
        }
        if (command->keys == KEYS_FIRST && q->argc > 1) {
            return forward(c, q, slotmap_slot(q->p + q->arg[1].off, q->arg[1].len), false);
        }
        return !command_arity_ok(command, q->argc) ? wrong_count(c, q) : by_keys(c, q);
    default:
        return unsupported(c, q);
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
    len = resp_inline(line, n, rd.inlined, sizeof rd.inlined);
    q->argc = 0;
    if (len <= 0) {
        return len == 0;
    }
    resp_request_start(framing);
    resp_request(framing, rd.inlined, (size_t)len, &limits, &status);
    must(status == RESP_WHOLE);
    q->p = rd.inlined;
    q->len = (size_t)len;
    q->argc = framing->argc;
    q->arg = framing->arg;
    q->copied = true;
    q->command = command_find(q->p + q->arg[0].off, q->arg[0].len);
    return true;
}

static enum verdict protocol_error(struct client *c, const char *text)
{
    enum verdict v = say(c, client_error(c, "ERR %s", text));
    stats.protocol_errors++;
    return v == VERDICT_DONE ? VERDICT_CLOSE : v;
}

static enum verdict handle(struct client *c)
{
    struct resp_request framing;
    struct request q = { .argc = c->framing.argc, .arg = c->framing.arg };
    if (c->framing.inlined) {
        if (!from_inline(c, &q, &framing)) {
            return protocol_error(c, RESP_UNBALANCED);
        }
        if (q.argc == 0) {
            return VERDICT_DONE;
        }
    } else {
        in_one_piece(c, &q);
    }
    return decide(c, &q);
}

/* ----------------------------------------------------------- a client's run */

/* Frames on what has come. False when there is no whole request. */
static bool next_request(struct client *c)
{
    size_t n;
    const unsigned char *p;
    while (!c->ready && (p = chain_at(&c->in, (size_t)c->framing.used, &n)) != NULL) {
        enum resp_status status;
        resp_request(&c->framing, p, n, &limits, &status);
        if (status == RESP_BAD) {
            if (protocol_error(c, c->framing.error) == VERDICT_CLOSE) {
                close_when_answered(c);
            } else {
                conn_fail(c->conn, "no chunk left to say what is wrong with its request (chunks)");
            }
            return false;
        }
        if (status == RESP_WHOLE && c->framing.argc == 0) {
            chain_drop(&c->in, (size_t)c->framing.used);
            resp_request_start(&c->framing);
            continue;
        }
        c->ready = status == RESP_WHOLE;
        if (!c->framing.inlined && c->framing.total > c->service->conf->retain_bytes) {
            large_begin(c);
            return true;
        }
    }
    return c->ready;
}

static bool over_credit(const struct client *c)
{
    const struct conf_redis *conf = c->service->conf;
    return c->queued >= conf->client_pipeline || c->conn->out.len + c->parked_bytes >= conf->client_window;
}

static void run(struct client *c)
{
    while (c->conn != NULL && !c->paused && !c->ended) {
        enum verdict v;
        if (c->mode != 0) {
            if (large_run(c)) {
                continue;
            }
            if (c->conn != NULL && (!large_wants_input(c) || c->in.len > 0)) {
                pause_input(c);
            }
            return;
        }
        if (over_credit(c)) {
            pause_input(c);
            return;
        }
        if (!next_request(c)) {
            return;
        }
        if (c->mode != 0) {
            continue;
        }
        v = handle(c);
        if (v == VERDICT_WAIT) {
            pause_input(c);
            return;
        }
        stats.requests++;
        chain_drop(&c->in, (size_t)c->framing.used);
        resp_request_start(&c->framing);
        c->ready = false;
        c->starved_ms = 0;
        if (v == VERDICT_CLOSE) {
            close_when_answered(c);
        }
    }
}

static void on_resume(struct client *c)
{
    if (c->conn == NULL) {
        client_free(c);
        return;
    }
    if (c->head != NULL && c->head->state == REQ_DONE) {
        client_advance(c);
    }
    if (c->ended) {
        close_when_answered(c);
        return;
    }
    c->paused = false;
    run(c);
    if (c->conn != NULL && !c->paused && !c->ended) {
        conn_read(c->conn, true);
    }
}

static void on_bytes(struct conn *conn)
{
    struct client *c = conn->owner;
    unsigned char *room;
    size_t cap = chain_room(&c->in, BUF_REQUEST, &room);
    ssize_t n;
    if (cap == 0) {
        pause_input(c);
        client_starve(c);
        return;
    }
    n = conn_receive(conn, room, cap);
    if (n == CONN_FAILED) {
        return;
    }
    chain_commit(&c->in, n > 0 ? (size_t)n : 0);
    if (n == CONN_ENDED) {
        if (c->mode != 0) {
            conn_fail(conn, "it left in the middle of a long request");
        } else {
            close_when_answered(c);
        }
        return;
    }
    run(c);
}

/* Its output has all gone: it may be waiting for that, and so may a node's long answer. */
static void on_room(struct conn *conn)
{
    struct client *c = conn->owner;
    if (c->paused) {
        client_resume(c);
    }
    upstream_unstick_soon();
}

/* A client with nothing under way may be silent for client_idle. */
static void on_tick(struct conn *conn)
{
    struct client *c = conn->owner;
    uint64_t limit = c->service->conf->client_idle_ms, idle = loop_ms() - conn->watch.active_ms;
    if (c->mode != 0) {
        client_resume(c);
    }
    if (limit == 0) {
        return;
    }
    if (idle >= limit && c->queued == 0 && c->in.len == 0 && conn->out.len == 0) {
        conn_fail(conn, "idle (client_idle)");
    } else {
        conn_deadline(conn, loop_ms() + (idle < limit ? limit - idle : limit));
    }
}

static const struct conn_ops client_ops = {
    .kind = "client",
    .on_bytes = on_bytes,
    .on_room = on_room,
    .on_close = on_close,
    .on_tick = on_tick,
};

static void on_accept(void *mark, int fd, const struct address *peer)
{
    static const char full[] = "-ERR max number of clients reached\r\n";
    struct service *s = mark;
    struct client *c = rd.free;
    struct conn *conn = c == NULL || rd.stopping ? NULL : conn_take(CONN_CLIENT, &client_ops, c);
    if (conn == NULL) {
        struct iovec iov = { (void *)(uintptr_t)full, sizeof full - 1 };
        ssize_t ignored = net_send(fd, &iov, 1); /* a courtesy: if it does not fit, the close says it */
        (void)ignored;
        stats.clients_refused++;
        net_close(fd);
        return;
    }
    rd.free = c->next;
    memset(c, 0, sizeof *c);
    c->conn = conn;
    c->service = s;
    conn->peer = *peer;
    conn->stall_limit_ms = s->conf->client_stall_ms;
    if (!conn_adopt(conn, fd)) {
        c->conn = NULL;
        client_free(c);
        return;
    }
    conn->watch.active_ms = loop_ms();
    if (s->conf->client_idle_ms > 0) {
        conn_deadline(conn, loop_ms() + s->conf->client_idle_ms);
    }
    os_keepalive(fd, KEEPALIVE_IDLE_MS, 0);
    stats.clients_accepted++;
}

/* ------------------------------------------------------------- the whole */

/* Clients that starve have waited for a record or a chunk. When nothing became free for so long, the pool is held by
 * requests that do not become whole: the one that has been silent longest gives its chunks back. */
static void relieve(void)
{
    struct client *victim = NULL;
    bool starving = false;
    for (uint32_t i = 0; i < rd.total; i++) {
        struct client *c = &rd.all[i];
        if (c->conn == NULL) {
            continue;
        }
        if (c->starved && c->starved_ms != 0 && loop_ms() - c->starved_ms > c->service->conf->client_stall_ms / 4) {
            starving = true;
        }
        if (c->in.len > 0 && !c->ready &&
            (victim == NULL || c->conn->watch.active_ms < victim->conn->watch.active_ms)) {
            victim = c;
        }
    }
    if (starving && victim != NULL && !buf_may_take(BUF_REQUEST)) {
        char text[ADDRESS_TEXT];
        log_warn("no chunks left: the client whose request has been incomplete longest is closed (chunks)",
                 "client=%s", address_text(&victim->conn->peer, text));
        conn_fail(victim->conn, "no chunks left (chunks)");
    }
}

static void on_care(struct timer *t)
{
    relieve();
    redis_req_relieve();
    loop_timer(t, loop_ms() + CARE_MS);
}

void redis_tables(const struct conf *conf)
{
    rd.total = conf->max_clients;
    rd.all = arena_take("clients", rd.total, sizeof *rd.all);
    redis_upstream_tables(conf);
    redis_req_tables(conf);
    redis_fan_tables(conf);
    redis_large_tables(conf);
}

void redis_open(const struct conf *conf, int (*listeners)[MAX_LISTENS])
{
    for (uint32_t i = rd.total; i > 0; i--) {
        rd.all[i - 1].next = rd.free;
        rd.free = &rd.all[i - 1];
    }
    command_init();
    redis_req_open();
    redis_fan_open();
    redis_large_open();
    client_on_resume = on_resume;
    rd.service_count = conf->redis_count;
    for (int i = 0; i < conf->redis_count; i++) {
        struct service *s = &rd.services[i];
        health_open(s, &conf->redis[i], &redis_service_ops);
        for (int k = 0; k < conf->redis[i].listens; k++) {
            struct listener *l = &s->listeners[k];
            l->mark = s;
            l->on_accept = on_accept;
            l->sizes.receive = conf->redis[i].receive_buffer;
            l->sizes.send = conf->redis[i].send_buffer;
            conn_listen(l, listeners[i][k]);
        }
    }
    rd.care.on_due = on_care;
    loop_timer(&rd.care, loop_ms() + CARE_MS);
}

void redis_turn(void)
{
    redis_req_turn();
}

bool redis_pending(void)
{
    return redis_req_pending();
}

void redis_stop(void)
{
    rd.stopping = true;
    for (int i = 0; i < rd.service_count; i++) {
        for (int k = 0; k < rd.services[i].conf->listens; k++) {
            conn_unlisten(&rd.services[i].listeners[k]);
        }
    }
    for (uint32_t i = 0; i < rd.total; i++) {
        struct client *c = &rd.all[i];
        if (c->conn != NULL && !c->ended) {
            close_when_answered(c);
        }
    }
}

bool redis_idle(void)
{
    return conn_count(CONN_CLIENT) == 0;
}

struct client *redis_client_at(uint32_t i)
{
    return i < rd.total && rd.all[i].conn != NULL ? &rd.all[i] : NULL;
}

struct service *redis_service_at(int i)
{
    return i < rd.service_count ? &rd.services[i] : NULL;
}
