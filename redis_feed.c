/*
 * redis_feed.c - one connection to a node on which we subscribe, for all clients.
 *
 *   unsaid -> link -> link      what is to be said, in this order
 *   said ---> link -> link      what has been said, and whose answers come in this order
 *     ^          | at the end of a turn: as much as a few KiB of output hold
 *   conn -> in: chain -> push ---> an answer: the link at the head of `said`
 *                             `--> a message: stored once, given to the room above
 *
 * Of a link one word at most is under way, so that answers, also errors, which name nothing, belong to the head of
 * `said`. A node that loses a slot says sunsubscribe unasked: that is told by its not being what the head waits for. If
 * it is just that, the node's answer comes later, unasked, and finds nothing to change.
 *
 * Nothing outlives a connection: when it is lost its links go, and at the end of the turn every channel of the section
 * is placed again. A message that finds no room stays in `in`, and its node is not read meanwhile.
 */
#include "redis_feed.h"

#include <string.h>

#define SAY_BYTES 4096        /* output beyond which nothing more is said for now */
#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 1000
#define IDLE_MS 10000         /* a connection without a link is closed after so long */
#define HEARD_MS 5000         /* a node silent for so long is asked whether it is there */
#define UNSTICK_MS 5
#define STUCK_MS 3000         /* no room for a message for so long, and nobody to blame: it is lost with its connection */

static struct {
    struct feed *stuck;
    struct timer unstick;
    bool again, resting;
    char refusal[128];
} fd;

const struct feed_events *feed_events;

/* ------------------------------------------------------- what we say */

static bool put_word(struct chain *out, const void *p, size_t n)
{
    unsigned char header[RESP_HEADER_CAP];
    return chain_put(out, BUF_REPLY, header, resp_put_header(header, '$', (int64_t)n)) &&
           (p == NULL || (chain_put(out, BUF_REPLY, p, n) && chain_put(out, BUF_REPLY, "\r\n", 2)));
}

/* SUBSCRIBE or UNSUBSCRIBE, by kind, and the channel's name. */
static bool put_link(struct chain *out, const struct link *l)
{
    static const char *const words[CHANNEL_KINDS] = { "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE" };
    static const char *const ons[CHANNEL_KINDS] = { "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE" };
    const struct channel *ch = l->channel;
    const char *word = l->asked ? ons[ch->kind] : words[ch->kind];
    const unsigned char *p;
    size_t at = 0, n;
    if (!buf_may_take_many(BUF_REPLY, ch->name_len / buf_chunk_size() + 2)) {
        return false;
    }
    must(chain_put(out, BUF_REPLY, "*2\r\n", 4) && put_word(out, word, strlen(word)) &&
         put_word(out, NULL, ch->name_len));
    while ((n = channel_name_part(ch, &at, &p)) > 0) {
        must(chain_put(out, BUF_REPLY, p, n));
    }
    return chain_put(out, BUF_REPLY, "\r\n", 2);
}

static void feed_connect(struct feed *f);

/* One PING a turn is enough for all that want to know how far the node's messages have come. False: no chunk for it now. */
static bool say_ping(struct feed *f)
{
    static const char line[] = "*1\r\n$4\r\nPING\r\n";
    if (!chain_put(&f->conn->out, BUF_REPLY, line, sizeof line - 1)) {
        feed_talk(f);
        return false;
    }
    f->sounds = false;
    conn_dirty(f->conn);
    return true;
}

uint32_t feed_sound(struct backend *b)
{
    struct feed *f = feed_of(b);
    if (!f->sounds) {
        f->sounds = true;
        f->pings++;
        feed_talk(f);
    }
    return f->pings;
}

bool feed_has_told(struct backend *b, uint32_t number)
{
    const struct feed *f = feed_of(b);
    return f->conn == NULL || f->conn->state != CONN_OPEN || f->stuck || (int32_t)(f->pongs - number) >= 0;
}

/* Without a connection nothing has been said, and what nobody wants any more need not be. */
static void forget_unwanted(struct feed *f)
{
    struct line all = f->unsaid;
    f->unsaid.head = NULL;
    while (all.head != NULL) {
        struct link *l = line_take(&all);
        if (feed_carries(f->backend, l->channel)) {
            line_put(&f->unsaid, l);
        } else {
            link_free(l);
        }
    }
}

/* Goes on with what is to be said, as long as that is not too much at once. */
static void say_on(struct feed *f)
{
    if (f->conn == NULL || f->conn->state != CONN_OPEN) {
        forget_unwanted(f);
    }
    if (f->conn == NULL && f->unsaid.head != NULL) {
        feed_connect(f);
    }
    if (f->conn == NULL || f->conn->state != CONN_OPEN || f->greeting || (f->sounds && !say_ping(f))) {
        return;
    }
    while (f->unsaid.head != NULL && f->conn->out.len < SAY_BYTES) {
        struct link *l = f->unsaid.head;
        l->asked = feed_carries(f->backend, l->channel);
        if (l->asked == l->on) { /* things have changed back meanwhile */
            line_take(&f->unsaid);
            l->state = LINK_RESTS;
            if (l->on) {
                feed_events->settled(l->channel);
            } else {
                link_settle(l);
            }
            continue;
        }
        if (!put_link(&f->conn->out, l)) {
            feed_talk(f); /* no chunk for it now */
            return;
        }
        line_take(&f->unsaid);
        l->state = LINK_SAID;
        l->behind = f->pings;
        line_put(&f->said, l);
        conn_dirty(f->conn);
    }
}

static void on_room(struct conn *conn)
{
    struct feed *f = conn->owner;
    if (f->unsaid.head != NULL) {
        feed_talk(f);
    }
}

/* ------------------------------------------------------- what nodes answer */

/* The answer to the oldest word that was said: it was heard, or it is an error line. */
static void on_answer(struct feed *f, const unsigned char *error, size_t n)
{
    struct link *l = f->said.head;
    struct channel *ch;
    struct slotmap_redirect to;
    if (l == NULL) {
        conn_fail(f->conn, "it spoke out of turn");
        return;
    }
    ch = line_take(&f->said)->channel;
    l->state = LINK_RESTS;
    feed_switched(f->backend->service);
    if (error == NULL) {
        l->on = l->asked;
        f->lost_ms = 0;
        f->backoff_ms = BACKOFF_MIN_MS;
    } else if (slotmap_redirect(error, n, &to) && !to.ask) {
        struct backend *b = backend_get(ch->service, to.host, to.port, f->backend);
        bool news = b != NULL && service_owner(ch->service, to.slot) != b;
        if (news) {
            service_set_owner(ch->service, to.slot, b);
            feed_misplaced(ch->service);
        } else {
            link_retry();
        }
        map_refresh(ch->service);
    } else {
        log_quote((const char *)error, n - 2, fd.refusal, sizeof fd.refusal);
        log_warn("a node does not let us subscribe", "node=%s:%u said=%s", f->backend->host,
                 (unsigned)f->backend->port, fd.refusal);
        ch->refused = memcmp(error, "-NOPERM", 7) == 0 || memcmp(error, "-NOAUTH", 7) == 0 ||
                      memcmp(error, "-ERR ", 5) == 0;
        link_retry();
    }
    if (error == NULL) {
        bool kept = feed_carries(f->backend, ch);
        link_settle(l); /* without a subscriber the channel may be gone after this */
        if (!kept) {
            return;
        }
    } else if (!l->on) {
        bool kept = ch->subs != NULL;
        link_free(l);
        if (!kept) {
            return;
        }
    }
    feed_events->settled(ch);
}

/* It has lost the slot, and says so once: the channel is asked for again, and the answer tells where it is now. */
static void on_moved(struct feed *f, struct channel *ch)
{
    struct link *l = ch != NULL ? link_to(ch, f) : NULL;
    if (l != NULL && l->state != LINK_SAID) {
        l->on = false;
        link_settle(l);
        feed_misplaced(f->backend->service);
        map_refresh(f->backend->service);
    }
}

/* ------------------------------------------------------- what nodes send */

/* The head of the push under way, in one piece; what it has of a long name may be cut off. */
static const unsigned char *head_of(const struct feed *f, size_t *n)
{
    size_t cap, len = f->framed;
    const unsigned char *p = chain_at(&f->in, 0, n);
    unsigned char *copy;
    if (*n >= len) {
        *n = len;
        return p;
    }
    copy = channel_scratch(&cap);
    *n = len < cap ? len : cap;
    chain_copy(&f->in, copy, *n);
    return copy;
}

static bool is_word(const unsigned char *p, struct resp_slice s, const char *word)
{
    return s.len == strlen(word) && memcmp(p + s.off, word, s.len) == 0;
}

/* What a push is, by its first word. */
struct push {
    struct channel *channel; /* whose message it is; NULL: it is none, or nobody's, or one that comes another way, too */
    bool message;
    bool kept;               /* a notification of keys: no other node tells it */
};

static struct push push_of(const struct feed *f, const unsigned char *p, size_t n)
{
    static const char *const words[CHANNEL_KINDS] = { "message", "pmessage", "smessage" };
    struct service *s = f->backend->service;
    struct push push = { NULL, false, false };
    struct resp_slice word, name, real;
    struct channel *ch;
    uint32_t at = 0;
    int kind = 0;
    if (!resp_arg(p, n, &at, &word)) {
        return push;
    }
    while (kind < CHANNEL_KINDS && !is_word(p, word, words[kind])) {
        kind++;
    }
    push.message = kind < CHANNEL_KINDS;
    if (!push.message || !resp_arg(p, n, &at, &name)) {
        return push;
    }
    ch = channel_find(s, (enum channel_kind)kind, p + name.off, name.len);
    if (ch == NULL || kind == CHANNEL_SHARD) {
        /* A node that wakes up as owner of a slot that has gone elsewhere says what is long past. */
        push.channel = ch != NULL && service_owner(s, ch->slot) == f->backend ? ch : NULL;
        return push;
    }
    real = name;
    push.kept = ch->everywhere && (kind != CHANNEL_PATTERN || resp_arg(p, n, &at, &real)) &&
                channel_is_kept(p + real.off, real.len);
    push.channel = push.kept || f->backend == s->primary ? ch : NULL;
    return push;
}

static void next_push(struct feed *f)
{
    chain_drop(&f->in, f->framed);
    resp_reply_start(&f->reply);
    f->framed = 0;
    f->stuck_ms = 0;
    f->whole = f->dropping = false;
}

static void set_stuck(struct feed *f)
{
    if (!f->stuck) {
        f->stuck = true;
        feed_events->told();
        f->stuck_next = fd.stuck;
        fd.stuck = f;
        conn_read(f->conn, false);
        loop_timer(&fd.unstick, loop_ms() + UNSTICK_MS);
    }
    f->stuck_ms = f->stuck_ms == 0 ? loop_ms() : f->stuck_ms;
}

/* The whole push at the front of `in`, in p as far as that is needed, is a message. False: no room now. */
static bool take_message(struct feed *f, const struct push *push, const unsigned char *p)
{
    struct channel *ch = push->channel;
    size_t n = f->framed;
    struct slice bytes;
    if (fd.resting || message_room() == 0 || (n <= REDIS_COPY_MAX && !pen_write(&f->pen, BUF_REQUEST, p, n, &bytes))) {
        return false;
    }
    if (n > REDIS_COPY_MAX) {
        chain_slice(&f->in, n, &bytes);
    }
    if (ch->kind != CHANNEL_SHARD && !push->kept && feed_is_twin(ch->service, p, n)) {
        slice_release(&bytes);
        next_push(f);
        return true;
    }
    stats.messages_in++;
    next_push(f);
    feed_events->message(ch, &bytes);
    return true;
}

/* The answer to a word of ours, or what looks like one. */
static void take_word(struct feed *f, const unsigned char *p, size_t n)
{
    static const char *const ons[CHANNEL_KINDS] = { "subscribe", "psubscribe", "ssubscribe" };
    static const char *const offs[CHANNEL_KINDS] = { "unsubscribe", "punsubscribe", "sunsubscribe" };
    const struct link *head = f->said.head;
    struct resp_slice word, name;
    struct channel *ch;
    uint32_t at = 0;
    int kind = 0;
    if (!resp_arg(p, n, &at, &word) || !resp_arg(p, n, &at, &name)) {
        conn_fail(f->conn, "what it sends is no message");
        return;
    }
    while (kind < CHANNEL_KINDS && !is_word(p, word, ons[kind]) && !is_word(p, word, offs[kind])) {
        kind++;
    }
    ch = kind == CHANNEL_KINDS ? NULL :
         channel_find(f->backend->service, (enum channel_kind)kind, p + name.off, name.len);
    if (head != NULL && head->channel == ch && is_word(p, word, head->asked ? ons[kind] : offs[kind])) {
        on_answer(f, NULL, 0);
    } else if (kind == CHANNEL_SHARD && is_word(p, word, offs[kind])) {
        on_moved(f, ch);
    } else {
        conn_fail(f->conn, "it answered what it was not asked");
    }
}

/* The answer to our login. */
static void take_greeting(struct feed *f, const unsigned char *p, size_t n)
{
    if (*p == '-') {
        log_quote((const char *)p, n, fd.refusal, sizeof fd.refusal);
        log_error("a node refuses our login", "node=%s:%u error=%s", f->backend->host, (unsigned)f->backend->port,
                  fd.refusal);
        conn_fail(f->conn, "login refused");
        return;
    }
    f->greeting = false;
    feed_talk(f);
}

/* Whether a PING was said before all else that is still to be answered: an error would be its answer. */
static bool pong_is_next(const struct feed *f)
{
    uint32_t said = f->said.head != NULL ? f->said.head->behind : f->pings - f->sounds;
    return (int32_t)(said - f->pongs) > 0;
}

/* A whole push or answer. False: no room now, or the connection has gone. */
static bool take_push(struct feed *f)
{
    const struct conn *conn = f->conn;
    size_t n;
    const unsigned char *p = head_of(f, &n);
    struct push push = push_of(f, p, n);
    if (f->greeting) {
        take_greeting(f, p, n);
    } else if (push.message) {
        if (push.channel != NULL && push.channel->told > 0) {
            return take_message(f, &push, p) && f->conn == conn;
        }
    } else if (pong_is_next(f) && (*p != '*' || (n > 12 && memcmp(p + 4, "$4\r\npong", 8) == 0))) {
        f->pongs++;
        feed_events->told();
    } else if (*p == '-') {
        on_answer(f, p, n);
    } else {
        take_word(f, p, n);
    }
    if (f->conn == conn) {
        next_push(f);
    }
    return f->conn == conn;
}

/* The push under way will be longer than the pool can bear. */
static void give_up_push(struct feed *f)
{
    size_t n;
    const unsigned char *p = head_of(f, &n);
    struct channel *ch = push_of(f, p, n).channel;
    f->dropping = true;
    stats.messages_lost++;
    log_warn("a message longer than half of the pool is dropped, and who waits for it is closed (chunks)",
             "node=%s:%u bytes=%llu", f->backend->host, (unsigned)f->backend->port,
             (unsigned long long)resp_reply_least(&f->reply));
    if (ch != NULL) {
        feed_events->lost(ch);
    }
}

static void feed_parse(struct feed *f)
{
    struct conn *conn = f->conn;
    const unsigned char *p = NULL;
    size_t n;
    while (f->conn == conn && (f->whole || (p = chain_at(&f->in, f->framed, &n)) != NULL)) {
        if (!f->whole) {
            enum resp_status status;
            f->framed += resp_reply(&f->reply, p, n, &status);
            if (status == RESP_BAD) {
                conn_fail(conn, "it does not speak the Redis protocol");
                return;
            }
            f->whole = status == RESP_WHOLE;
        }
        if (!f->dropping && resp_reply_least(&f->reply) > buf_total() / 2) {
            give_up_push(f);
        }
        if (f->dropping && f->whole) {
            next_push(f);
        } else if (f->dropping) {
            chain_drop(&f->in, f->framed);
            f->framed = 0;
        } else if (f->whole && !take_push(f)) {
            if (f->conn == conn) {
                set_stuck(f);
            }
            return;
        }
    }
}

static void on_bytes(struct conn *conn)
{
    struct feed *f = conn->owner;
    unsigned char *room;
    size_t cap = chain_room(&f->in, BUF_REQUEST, &room);
    ssize_t n;
    if (cap == 0) {
        set_stuck(f);
        return;
    }
    n = conn_receive(conn, room, cap);
    if (n == CONN_FAILED) {
        return;
    }
    chain_commit(&f->in, n > 0 ? (size_t)n : 0);
    if (n == CONN_ENDED) {
        conn_fail(conn, "the node closed the connection");
    } else if (n > 0) {
        f->heard_ms = loop_ms();
        f->stuck_ms = 0;
        feed_parse(f);
    }
}

/* ------------------------------------------------------ its life and its end */

/* Nothing that was said on its connection counts any more. */
static void begin_anew(struct feed *f)
{
    f->conn = NULL;
    f->unsaid.head = f->said.head = NULL;
    while (f->links != NULL) {
        link_free(f->links);
    }
    chain_clear(&f->in);
    f->framed = 0;
    next_push(f);
    pen_close(&f->pen);
    f->greeting = f->sounds = false;
    f->pongs = f->pings;
    feed_events->told();
}

static void feed_lost(struct feed *f)
{
    struct service *s = f->backend->service;
    f->lost_ms = loop_ms();
    f->backoff_ms = f->backoff_ms == 0 ? BACKOFF_MIN_MS :
                    f->backoff_ms * 2 < BACKOFF_MAX_MS ? f->backoff_ms * 2 : BACKOFF_MAX_MS;
    health_look(f->backend);
    map_refresh(s);
    feed_misplaced(s);
}

static void on_close(struct conn *conn, const char *why)
{
    struct feed *f = conn->owner;
    log_info("connection for messages lost", "node=%s:%u why=\"%s\"", f->backend->host, (unsigned)f->backend->port, why);
    begin_anew(f);
    feed_lost(f);
}

static void on_open(struct conn *conn)
{
    struct feed *f = conn->owner;
    unsigned char line[2 * SECRET_CAP + 64];
    size_t n = node_login(f->backend->service->conf, line);
    if (f->links == NULL) { /* whoever it was dialled for has gone */
        conn_close(conn);
        begin_anew(f);
        return;
    }
    os_keepalive(conn->fd, HEARD_MS, f->backend->service->conf->request_timeout_ms);
    f->heard_ms = loop_ms();
    if (n > 0 && !chain_put(&conn->out, BUF_REPLY, line, n)) {
        conn_fail(conn, "no chunk left for its login (chunks)");
        return;
    }
    f->greeting = n > 0;
    feed_talk(f);
}

static const struct conn_ops feed_ops = {
    .kind = "feed",
    .on_open = on_open,
    .on_bytes = on_bytes,
    .on_room = on_room,
    .on_close = on_close,
};

static void feed_connect(struct feed *f)
{
    struct backend *b = f->backend;
    const struct conf_service *conf = b->service->conf;
    const struct address *a = backend_address(b);
    struct net_sizes sizes = { conf->receive_buffer, conf->send_buffer };
    if (f->conn != NULL) {
        return;
    }
    loop_timer(&f->timer, loop_ms() + BACKOFF_MIN_MS);
    if (backend_is_down(b) || a == NULL || (f->lost_ms != 0 && loop_ms() < f->lost_ms + f->backoff_ms)) {
        return;
    }
    f->conn = conn_take(CONN_UPSTREAM, &feed_ops, f);
    if (f->conn == NULL || !conn_dial(f->conn, a, conf->dial_timeout_ms, &sizes)) {
        f->conn = NULL;
        feed_lost(f);
        return;
    }
    f->heard_ms = loop_ms();
}

/* A node that says nothing for long is asked whether it is there: what it was to send us may be lost on the way. */
static void ask_whether_there(struct feed *f)
{
    uint64_t silent = loop_ms() - f->heard_ms;
    if (f->stuck || f->conn->state != CONN_OPEN) {
        f->heard_ms = f->stuck ? loop_ms() : f->heard_ms; /* it is we who do not listen */
    } else if (silent >= HEARD_MS + f->backend->service->conf->request_timeout_ms) {
        conn_fail(f->conn, "it says nothing (request_timeout)");
    } else if (silent >= HEARD_MS && f->pongs == f->pings && f->said.head == NULL && !f->greeting) {
        feed_sound(f->backend);
    }
}

static void on_tick(struct timer *t)
{
    struct feed *f = (struct feed *)(void *)((char *)t - offsetof(struct feed, timer));
    if (f->conn == NULL && f->links != NULL) {
        feed_connect(f);
    } else if (f->conn != NULL) {
        if (f->links == NULL && loop_ms() - f->heard_ms >= IDLE_MS) {
            conn_close(f->conn);
            begin_anew(f);
            return;
        }
        loop_timer(t, loop_ms() + 1000);
        feed_talk(f);
        if (f->links != NULL) {
            ask_whether_there(f);
        }
    }
}

/* ------------------------------------------------------------- the turn */

static void on_unstick(struct timer *t)
{
    (void)t;
    fd.again = true;
}

static void unstick(void)
{
    struct feed *f = fd.stuck;
    fd.stuck = NULL;
    fd.again = false;
    for (struct feed *next; f != NULL; f = next) {
        const struct conn *conn = f->conn;
        next = f->stuck_next;
        f->stuck = false;
        if (conn == NULL) {
            continue;
        }
        feed_parse(f);
        if (f->conn != conn) {
            continue;
        }
        if (f->stuck_ms != 0 && loop_ms() - f->stuck_ms >= STUCK_MS) {
            conn_fail(f->conn, "no room for its messages (chunks, max_messages)");
        } else if (!f->stuck) {
            conn_read(f->conn, true);
        }
    }
}

void feed_turn(void)
{
    bool was_resting = fd.resting;
    struct feed *f;
    fd.resting = false;
    link_turn();
    if (fd.stuck != NULL && (fd.again || was_resting || message_relieved())) {
        unstick();
    }
    if (!feed_has_to_talk()) {
        return;
    }
    for (uint32_t i = 0; (f = feed_at(i)) != NULL; i++) {
        if (f->talk) {
            f->talk = false;
            say_on(f);
            feed_switched(f->backend->service); /* whoever wanted a channel may have gone */
        }
    }
}

bool feed_pending(void)
{
    return link_pending() || (fd.stuck != NULL && (fd.again || fd.resting));
}

void feed_rest(void)
{
    fd.resting = true;
}

uint64_t feed_stuck_ms(void)
{
    uint64_t longest = 0;
    for (const struct feed *f = fd.stuck; f != NULL; f = f->stuck_next) {
        if (f->stuck_ms != 0 && loop_ms() - f->stuck_ms > longest) {
            longest = loop_ms() - f->stuck_ms;
        }
    }
    return longest;
}

const char *feed_refusal(void)
{
    return fd.refusal;
}

/* An entry that becomes free may be used again: nothing of its node stays. */
static void feed_on_backend(struct backend *b)
{
    struct feed *f = feed_of(b);
    feed_misplaced(b->service);
    if (b->hold == HELD_DOWN && f->conn != NULL) {
        conn_fail(f->conn, "its node is held down by hand");
    }
    if (b->state != BACKEND_FREE) {
        return;
    }
    if (b->service->primary == b) {
        b->service->primary = NULL;
    }
    if (f->conn != NULL) {
        conn_close(f->conn);
    }
    begin_anew(f);
    loop_timer_stop(&f->timer);
    f->lost_ms = f->backoff_ms = 0;
}

void redis_feed_open(void)
{
    struct feed *f;
    for (uint32_t i = 0; (f = feed_at(i)) != NULL; i++) {
        f->timer.on_due = on_tick;
    }
    fd.unstick.on_due = on_unstick;
    pubsub_on_backend = feed_on_backend;
}
