/*
 * redis_client.c - a client's connection: accepted, read, framed, paused, closed.
 *
 *   listener -> client: input chain -> framed -> redis.c decides          once a whole request is there
 *                  ^                     `-----> redis_large.c            when it is longer than retain_bytes
 *                  `- paused: answers pile up, order forbids, or a table is full
 *
 * Owns the table of clients and the services. A client is paused, not refused: what it sent stays in its input, and
 * the kernel makes it wait. One that does not read what it asked for is closed by client_stall (conn.c).
 */
#include "redis.h"

#include <string.h>

#define REPLY_GUESS 1024      /* how long the first replies of a client are taken to be */
#define WINDOW_REPLY 8192     /* its first window takes them to be this long */
#define WINDOW_MIN 4
#define WINDOW_MAX 64
#define STARVING_MS 2000      /* how long requests may find no chunk before a client is given up for them */
#define PATIENCE_BYTES 8192   /* output that fills a send by itself does not wait for more */
#define PATIENCE_US 700
#define CARE_MS 250           /* how often starving clients are looked after */

static struct {
    struct client *all, *free;
    uint32_t total;
    struct service services[MAX_SERVICES];
    struct service_ops ops;     /* redis_service_ops, and what only this room can do */
    int service_count;
    bool stopping;
    struct timer care;
} rd;

/* ---------------------------------------------------------------- clients */

static void client_gone(struct client *c)
{
    stats.clients_closed++;
    c->service->clients--;
    req_orphan(c); /* first: the record on a lease must be nobody's when that is broken */
    large_gone(c);
    multi_reset(c);
    monitor_end(c);
    own_let_go(c);
    login_gone(c);
    tracking_gone(c);
    c->block = NULL;
    pubsub_gone(c);
    chain_clear(&c->in);
    c->conn = NULL;
    client_fed(c);
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
    (void)why;
    client_gone(conn->owner);
}

/* Ends when all is answered and sent. */
static void close_when_answered(struct client *c)
{
    if (c->conn->state != CONN_OPEN) {
        return;
    }
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

/* ----------------------------------------------------------- a client's run */

/* Frames on what has come. False when there is no whole request. */
static bool next_request(struct client *c)
{
    size_t n;
    const unsigned char *p;
    while (!c->ready && (p = chain_at(&c->in, (size_t)c->framing.used, &n)) != NULL) {
        enum resp_status status;
        resp_request(&c->framing, p, n, c->limits, &status);
        if (status == RESP_BAD) {
            if (redis_protocol_error(c, c->framing.error) == VERDICT_CLOSE) {
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
        if (client_is_over(c)) {
            stats.requests_too_long++;
            if (redis_protocol_error(c, "Protocol error: request longer than request_limit") == VERDICT_CLOSE) {
                close_when_answered(c);
            } else {
                conn_fail(c->conn, "a request longer than request_limit");
            }
            return false;
        }
        if (!c->framing.inlined && c->framing.total > c->service->conf->retain_bytes) {
            if (c->conn->source != NULL) {
                gate_count(c->conn);
            }
            large_begin(c);
            return true;
        }
    }
    return c->ready;
}

/* Whether its requests rest: what it has asked for, and what it has not read yet, fill its share of the pool. Replies
 * still to come count as long as its last ones were. A client with nothing under way may always ask once. */
static bool over_credit(const struct client *c)
{
    size_t waiting = c->conn->out.len + c->parked_bytes, credit;
    if (c->queued == 0 && waiting == 0) {
        return false;
    }
    credit = client_credit(c);
    return c->queued >= c->service->conf->client_pipeline || c->unsettled >= c->window || c->request_bytes >= credit ||
           waiting + (size_t)c->unsettled * c->reply_bytes >= credit;
}

static void run(struct client *c)
{
    while (c->conn != NULL && !c->paused && !c->ended) {
        enum verdict v;
        if (c->mode != 0) {
            if (large_run(c)) {
                if (c->mode == 0 && c->leaving) {
                    close_when_answered(c);
                }
                continue;
            }
            if (c->conn != NULL && (!large_wants_input(c) || c->in.len > 0)) {
                pause_input(c);
            }
            return;
        }
        if (c->block != NULL) {
            return; /* it is read on, so that its end is seen */
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
        v = redis_handle(c);
        if (c->conn == NULL) {
            return; /* its answer found no room, and it was closed */
        }
        if (v == VERDICT_WAIT) {
            pause_input(c);
            return;
        }
        stats.requests++;
        chain_drop(&c->in, (size_t)c->framing.used);
        resp_request_start(&c->framing);
        c->ready = false;
        client_asked(c);
        if (c->starved_ms != 0) {
            client_fed(c);
        }
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
    if (c->conn->given) {
        return; /* if it comes back, it is resumed then (redis_hand.c) */
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
    bool full = c->block != NULL && c->in.len >= client_credit(c);
    size_t cap = full ? 0 : chain_room(&c->in, client_use(c), &room);
    ssize_t n;
    if (cap == 0 && c->block != NULL) {
        pause_input(c);
        return;
    }
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
            block_left(c);
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

static void on_let_go(struct conn *conn)
{
    client_resume(conn->owner);
}

/* A client with nothing under way, and subscribed to nothing, may be silent for client_idle. */
static void on_tick(struct conn *conn)
{
    struct client *c = conn->owner;
    uint64_t limit = c->service->conf->client_idle_ms, idle = loop_ms() - conn->watch.active_ms;
    if (c->doom != NULL) {
        conn_fail(conn, c->doom);
        return;
    }
    if (c->mode != 0 || c->guess_ms != 0 || c->trial != NULL || c->tracking != NULL || c->sub.since_ms != 0) {
        client_resume(c);
    }
    if (limit == 0) {
        return;
    }
    if (idle >= limit && !conn->held && !c->subscribed && c->queued == 0 && c->in.len == 0 && conn->out.len == 0) {
        conn_fail(conn, "idle (client_idle)");
    } else {
        conn_deadline(conn, loop_ms() + (idle < limit ? limit - idle : limit));
    }
}

/* The answers of a pipeline come from several nodes a moment apart. Those that are there wait for the rest, since one
 * send costs more than all else that a request costs here; but not for long, and never for a client's last answer.
 * Nor does a message wait, of which those know nothing. */
static bool waits(struct conn *conn)
{
    struct client *c = conn->owner;
    if (c->unsettled == 0 || conn->out.len >= PATIENCE_BYTES || c->ended || c->sub.pending != NULL) {
        c->patient_us = 0;
        return false;
    }
    if (c->patient_us == 0) {
        c->patient_us = loop_us();
        return true;
    }
    if (loop_us() - c->patient_us < PATIENCE_US) {
        return true;
    }
    c->patient_us = 0;
    return false;
}

/* What it is doing, by what says most about why it waits. */
static const char *doing(const struct client *c)
{
    return c->ended ? "leaving" : c->mode != 0 ? "transferring" : c->block != NULL ? "blocked" : c->monitor != MONITOR_OFF ? "monitoring"
         : c->subscribed ? "subscribed" : c->multi_state != MULTI_NONE ? "transaction" : c->queued > 0 ? "waiting" : "idle";
}

static void describe(const struct conn *conn, struct conn_facts *out)
{
    const struct client *c = conn->owner;
    const struct upstream *u = c->lease != NULL ? c->lease : c->watch;
    out->section = c->service->conf->name;
    out->name = c->name[0] != '\0' ? c->name : NULL;
    out->user = c->login != NULL ? login_name(c) : NULL;
    out->doing = doing(c);
    out->in_flight = c->queued;
    out->born_ms = c->born_ms;
    out->asked_ms = conn->watch.active_ms;
    out->backend = u != NULL ? u->backend : NULL;
}

static const struct conn_ops client_ops = {
    .kind = "client",
    .waits = waits,
    .on_bytes = on_bytes,
    .on_room = on_room,
    .on_close = on_close,
    .on_tick = on_tick,
    .on_let_go = on_let_go,
    .gather = pubsub_gather,
    .on_sent = pubsub_sent,
    .describe = describe,
};

/* A new client's replies may be of any length up to shared_reply_limit: its first requests are few enough that the
 * pool can bear that. */
static uint32_t first_window(const struct client *c)
{
    size_t n = client_credit(c) / WINDOW_REPLY;
    return n < WINDOW_MIN ? WINDOW_MIN : n > WINDOW_MAX ? WINDOW_MAX : (uint32_t)n;
}

static void turn_away(int fd, const char *text)
{
    struct iovec iov = { (void *)(uintptr_t)text, strlen(text) };
    ssize_t ignored = net_send(fd, &iov, 1); /* a courtesy: if it does not fit, the close says it */
    (void)ignored;
    net_close(fd);
}

/* A client; NULL: no entry is left for one. */
static struct client *client_begin(struct service *s, int fd, const struct address *peer)
{
    struct client *c = rd.free;
    struct conn *conn = c == NULL || rd.stopping ? NULL : conn_take(CONN_CLIENT, &client_ops, c);
    if (conn == NULL) {
        return NULL;
    }
    rd.free = c->next;
    memset(c, 0, sizeof *c);
    c->conn = conn;
    c->service = s;
    user_arrive(c);
    c->reply_bytes = REPLY_GUESS;
    c->window = first_window(c);
    conn->peer = *peer;
    conn->stall_limit_ms = s->conf->client_stall_ms;
    if (!conn_adopt(conn, fd)) {
        c->conn = NULL;
        client_free(c);
        return NULL;
    }
    conn->watch.active_ms = c->born_ms = loop_ms();
    if (s->conf->client_idle_ms > 0) {
        conn_deadline(conn, loop_ms() + s->conf->client_idle_ms);
    }
    os_keepalive(fd, KEEPALIVE_IDLE_MS, 0);
    s->clients++;
    stats.clients_accepted++;
    return c;
}

static struct conn *on_client(struct service *s, int fd, const struct address *peer)
{
    const char *barred = user_barred(s->conf, peer);
    struct client *c = barred != NULL ? NULL : client_begin(s, fd, peer);
    if (barred != NULL) {
        turn_away(fd, barred);
    } else if (c == NULL) {
        stats.clients_refused++;
        turn_away(fd, "-ERR max number of clients reached\r\n");
    }
    return c != NULL ? c->conn : NULL;
}

/* ------------------------------------------------- a new configuration */

/* Clients stay as they have come in; one that waits at a door that needs no password any more has come in too. Those that may be
 * silent for another time are looked at by on_tick, now. */
static void on_conf(struct service *s, const struct conf_service *before)
{
    (void)before;
    for (int k = 0; k < s->conf->listens; k++) {
        s->listeners[k].sizes = (struct net_sizes){ s->conf->receive_buffer, s->conf->send_buffer };
    }
    for (uint32_t i = 0; i < rd.total; i++) {
        struct client *c = &rd.all[i];
        if (c->conn == NULL || c->service != s || c->conn->state != CONN_OPEN) {
            continue;
        }
        conn_stall_limit(c->conn, s->conf->client_stall_ms);
        if (!c->admitted) {
            user_arrive(c);
        }
        if (c->doom == NULL) {
            conn_deadline(c->conn, loop_ms());
        }
    }
    health_conf(s, false);
    loop_timer(&s->timer, loop_ms()); /* refresh_interval */
}

/* ------------------------------------------------------------- the whole */

static void give_up_client(struct client *c, const char *why)
{
    char text[ADDRESS_TEXT];
    log_warn("no chunks left: a client is closed (chunks)", "client=%s why=\"%s\"",
             address_text(&c->conn->peer, text), why);
    conn_fail(c->conn, why);
}

/* A whole request that found no room for so long is not done: its client hears so and may go on. */
static void give_up_request(struct client *c)
{
    stats.not_executed++;
    if (!client_error(c, "%sERR not executed: no room for the request within %u ms (chunks, max_requests)",
                      c->multi.ending ? "EXECABORT Transaction discarded because of: " : "", STARVING_MS)) {
        give_up_client(c, "no room even for an error");
        return;
    }
    multi_give_up(c);
    pubsub_undo(c);
    tracking_undo(c);
    chain_drop(&c->in, (size_t)c->framing.used);
    resp_request_start(&c->framing);
    c->ready = false;
    client_asked(c);
    client_fed(c);
    c->starved_ms = loop_ms(); /* it is still in the list: what it asks next has waited no time yet */
    client_resume(c);
}

/* Requests find no room, and none became free for long. A whole one is refused. If the pool is held by requests that
 * do not become whole, the client that has been silent longest gives its chunks back. */
static void relieve_requests(void)
{
    struct client *victim = NULL;
    bool starving = false;
    for (uint32_t i = 0; i < rd.total; i++) {
        struct client *c = &rd.all[i];
        if (c->conn == NULL) {
            continue;
        }
        if (c->starved && c->mode == 0 && loop_ms() - c->starved_ms > STARVING_MS) {
            starving = true;
            if (c->ready) {
                give_up_request(c);
                continue;
            }
        }
        if (((c->in.len > 0 && !c->ready) || c->multi.block.len > 0) &&
            (victim == NULL || c->conn->watch.active_ms < victim->conn->watch.active_ms)) {
            victim = c;
        }
    }
    if (starving && victim != NULL && !buf_may_take(BUF_REQUEST)) {
        give_up_client(victim, "its request has been incomplete longest");
    }
}

static bool is_blocked(const struct client *c)
{
    return c->conn->blocked;
}

/* An answer whose turn has come has found no chunk to be passed on by for long. */
static bool is_due(const struct client *c)
{
    return c->head != NULL && c->head->state == REQ_DONE && c->starved && loop_ms() - c->starved_ms > STARVING_MS;
}

/* Of the clients of which `is` is true, the one with most answers; NULL: none has any. */
static struct client *holds_most(bool (*is)(const struct client *))
{
    struct client *found = NULL;
    size_t most = 0;
    for (uint32_t i = 0; i < rd.total; i++) {
        struct client *c = &rd.all[i];
        size_t held = c->conn != NULL && is(c) ? c->conn->out.len + c->parked_bytes : 0;
        if (held > most) {
            most = held;
            found = c;
        }
    }
    return found;
}

/* Replies find no chunk: the client that holds most of them without reading gives them back. If all read, but the chunks
 * are full of answers that need another one to be passed on, nothing would ever free one: then one of those does. */
static void relieve_replies(void)
{
    struct client *victim;
    if (buf_free_chunks() > 0) {
        return;
    }
    victim = holds_most(is_blocked);
    if (victim != NULL) {
        give_up_client(victim, "it holds most of the pool and does not read");
        return;
    }
    victim = holds_most(is_due);
    if (victim != NULL) {
        give_up_client(victim, "it holds most of the pool in answers that find no chunk to go by");
    }
}

static void on_care(struct timer *t)
{
    relieve_requests();
    relieve_replies();
    redis_req_relieve();
    loop_timer(t, loop_ms() + CARE_MS);
}

void redis_tables(const struct conf *conf)
{
    rd.total = conf->max_clients;
    rd.all = arena_take("clients", rd.total, sizeof *rd.all);
    redis_map_tables(conf);
    redis_upstream_tables(conf);
    redis_lend_tables(conf);
    redis_req_tables(conf);
    redis_fan_tables(conf);
    redis_script_tables(conf);
    redis_function_tables(conf);
    redis_large_tables(conf);
    redis_login_tables(conf);
    redis_tracking_tables(conf);
    redis_monitor_tables(conf);
    redis_pubsub_tables(conf);
}

void redis_open(const struct conf *conf, int (*listeners)[MAX_LISTENS])
{
    for (uint32_t i = rd.total; i > 0; i--) {
        rd.all[i - 1].next = rd.free;
        rd.free = &rd.all[i - 1];
    }
    command_init();
    for (int i = 0; i < conf->command_count; i++) {
        const struct conf_command *c = &conf->commands[i];
        must(command_declare(c->name, c->keys, c->flags) == 0); /* option.c has checked it */
    }
    redis_lend_open();
    redis_req_open();
    redis_route_open();
    redis_redirect_open();
    redis_fan_open();
    redis_script_open();
    redis_lease_open();
    redis_exec_open();
    redis_function_open();
    redis_large_open();
    redis_login_open();
    redis_tracking_open();
    redis_monitor_open(rd.all, rd.total);
    redis_wait_open();
    redis_block_open(rd.all, rd.total);
    redis_unblock_open();
    redis_pubsub_open();
    redis_local_open(rd.all, rd.total);
    redis_hand_open(rd.all, rd.total, client_begin);
    client_on_resume = on_resume;
    rd.ops = redis_service_ops;
    rd.ops.on_client = on_client;
    rd.ops.crowded = "-ERR max number of clients reached for this address\r\n";
    rd.ops.on_conf = on_conf;
    for (int i = 0; i < conf->service_count; i++) {
        struct service *s = &rd.services[rd.service_count];
        if (conf->services[i].kind != SERVICE_REDIS) {
            continue;
        }
        rd.service_count++;
        map_open(s, &conf->services[i], &rd.ops);
        for (int k = 0; k < conf->services[i].listens; k++) {
            struct listener *l = &s->listeners[k];
            l->sizes.receive = conf->services[i].receive_buffer;
            l->sizes.send = conf->services[i].send_buffer;
            gate_listen(l, s, listeners[i][k]);
        }
    }
    rd.care.on_due = on_care;
    loop_timer(&rd.care, loop_ms() + CARE_MS);
}

void redis_turn(void)
{
    redis_req_turn();
    pubsub_turn();
}

bool redis_pending(void)
{
    return redis_req_pending() || pubsub_pending();
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
            if (c->mode != 0) {
                c->leaving = true;
            } else {
                close_when_answered(c);
                unblock_at_end(c);
            }
        }
    }
}

bool redis_idle(void)
{
    return conn_count(CONN_CLIENT) == 0;
}

struct service *redis_service_at(int i)
{
    return i < rd.service_count ? &rd.services[i] : NULL;
}
