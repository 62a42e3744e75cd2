/*
 * fuzz_mongo.c - whole connections of MongoDB mode: up to four clients and three mongos, driven by a program of bytes.
 *
 *   input = how the section is set up, then actions --> client i: messages, raw bytes, half-close, reset, slow reading
 *                                                       mongos k: answers, raw answers, what its hello says, closes, silence
 *                                                       time:     moves on; the pool: gets tight
 *
 *   client i  sent   --a hello edited--> expect  -- what its mongos gets must be a beginning of it
 *   mongos k  said   --a hello edited--> due     -- what its client gets must be a beginning of it, then one refusal at most
 *
 * Each request of a client has its number and that of its connection in its ID: so a mongos knows whose bytes it gets.
 *
 * What must hold: bytes pass unchanged, in order, and to nobody else; in a calm program (one without trouble) nobody is
 * closed; nobody waits beyond the deadlines; the count of a mongos's connections is right after every turn; and when all
 * have gone, every chunk, record, descriptor and hold is free again, and a new client is served.
 */
#include "tests/fuzz/fake_mongo.h"

#include <stdio.h>

#define ACTIONS_MAX 300
#define PROXY_LOCAL 16       /* bytes of the header of a client that came by no address */
#define HANDSHAKE_MS 500

/* A stream as one side says it, and as the other has to hear it. */
struct told {
    struct wire wire;
    size_t len, whole;       /* of raw; where the message under way begins */
    size_t want_len;
    bool over;               /* it has said what is no message: of what follows nothing passes */
    unsigned char raw[STREAM_CAP], want[STREAM_CAP];
};

struct client_end {
    struct sock *sock;       /* NULL: gone */
    struct sock *up;         /* its connection at a mongos */
    unsigned era;            /* its how-manieth connection */
    unsigned number;         /* of its requests */
    bool murky;              /* an edit failed, or a mongos made an answer up: what passes is not told */
    bool owed;               /* an answer that does not come */
    bool excused;            /* it may be closed: it has said what is wrong, or left */
    bool rewrites;           /* load-balanced: the answer to hello_id gains a serviceId */
    int32_t hello_id;
    size_t arrived, answered; /* of asks.want: at its mongos, and of that what has been answered */
    size_t received;         /* of answers.want */
    size_t extra_len;        /* of a refusal, which is the proxy's own */
    unsigned char extra[1024];
    struct told asks, answers;
};

static struct client_end clients[CLIENTS];
static struct { enum end_kind kind; bool proxied; int client; int32_t follows; } ends[SOCKS]; /* by the socket at a mongos */
static struct conn *reserved[CLIENTS]; /* connections that make the table small */

/* ------------------------------------------------------------ what passes */

static bool strips(void)
{
    return section->mode == MONGO_LOADBALANCED && !section->upstream_proxy;
}

/* A load-balanced client that says hello again before it has the answer to one: only the later answer gets a serviceId, and
 * which that is depends on what the proxy reads first. No driver does so. */
static bool awaits_hello(const struct client_end *c)
{
    return strips() && (c->rewrites || c->received < c->answers.want_len);
}

/* A whole message has been said: how it is to be heard. */
static void pass(struct client_end *c, struct told *t, const unsigned char *p, size_t n)
{
    static const char *const drop[] = { "compression", "loadBalanced", NULL };
    const struct wire *w = &t->wire;
    bool asks = t == &c->asks, edits;
    enum wire_error error;
    unsigned char field[32];
    struct bson b;
    size_t len = n;
    bson_start(&b, field, sizeof field);
    if (asks) {
        edits = w->hello && (wire_has(w, WIRE_COMPRESSION) || (strips() && wire_has(w, WIRE_LOAD_BALANCED)));
        c->murky = c->murky || (w->hello && awaits_hello(c));
        c->rewrites = w->hello ? strips() : c->rewrites;
        c->hello_id = w->hello ? w->header.request_id : c->hello_id;
    } else {
        edits = c->rewrites && w->header.response_to == c->hello_id;
        bson_object_id(&b, "serviceId", mongos_of(backend_of(c->up->far - FAR_NODE))->service_id);
        c->rewrites = c->rewrites && !edits;
    }
    if (!edits) {
        memcpy(t->want + t->want_len, p, n);
    } else {
        static const char *const only[] = { "compression", NULL };
        len = mongomsg_edit(p, n, !asks ? NULL : strips() ? drop : only, field, asks ? 0 : b.len, t->want + t->want_len,
                            STREAM_CAP - t->want_len, &error);
        c->murky = c->murky || len == 0;
    }
    t->want_len += len;
}

static bool has_room(const struct told *t, size_t n)
{
    return n + 128 < STREAM_CAP - t->len && n + 128 < STREAM_CAP - t->want_len - (t->len - t->whole);
}

static void tell(struct client_end *c, struct told *t, const unsigned char *p, size_t n)
{
    memcpy(t->raw + t->len, p, n);
    t->len += n;
    while (n > 0 && !t->over) {
        enum wire_status status;
        size_t used = wire_feed(&t->wire, p, n, &status);
        p += used;
        n -= used;
        t->over = status == WIRE_BAD;
        if (status == WIRE_WHOLE) {
            pass(c, t, t->raw + t->whole, t->wire.used);
            t->whole += t->wire.used;
            wire_start(&t->wire, t == &c->answers);
        }
    }
    c->excused = c->excused || t->over;
    world.calm = world.calm && !t->over;
}

/* How many of n bytes are what comes next. The rest of `raw` is a message that is not whole yet, and may be on its way. */
static size_t heard(const struct told *t, size_t at, const unsigned char *p, size_t n)
{
    size_t i = 0;
    for (; i < n; i++, at++) {
        size_t behind = at < t->want_len ? 0 : at - t->want_len;
        if (at < t->want_len ? p[i] != t->want[at] : t->whole + behind >= t->len || p[i] != t->raw[t->whole + behind]) {
            break;
        }
    }
    return i;
}

/* ----------------------------------------------------------- client's ends */

static void client_open(int i)
{
    struct client_end *c = &clients[i];
    if (c->sock == NULL) {
        unsigned era = (c->era + 1) & 255;
        memset(c, 0, offsetof(struct client_end, extra));
        c->era = era;
        c->asks.len = c->asks.whole = c->asks.want_len = c->answers.len = c->answers.whole = c->answers.want_len = 0;
        c->asks.over = c->answers.over = false;
        wire_start(&c->asks.wire, false);
        wire_start(&c->answers.wire, true);
        c->sock = sock_take(SOCK_KNOCKING);
        MUST(c->sock != NULL);
        c->sock->far = i;
    }
}

static int32_t tag_of(int i)
{
    return (int32_t)(TAG | clients[i].era << 16 | (unsigned)i << 12);
}

static void client_says(int i, const unsigned char *p, size_t n)
{
    struct client_end *c = &clients[i];
    if (c->sock != NULL && !c->sock->ended && !c->sock->reset && has_room(&c->asks, n) && sock_say(c->sock, p, n)) {
        tell(c, &c->asks, p, n);
    }
}

/* What the proxy says by itself: one error, at a place between two messages of the mongos. */
static void check_extra(const struct client_end *c)
{
    struct wire w;
    enum wire_status status;
    size_t used;
    wire_start(&w, true);
    used = wire_feed(&w, c->extra, c->extra_len, &status);
    MUST(status != WIRE_BAD && used == c->extra_len);
    MUST(status != WIRE_WHOLE || (wire_has(&w, WIRE_OK) && !wire_true(&w, WIRE_OK) && wire_has(&w, WIRE_CODE)));
    MUST(!world.calm || c->excused);
}

static void client_gets(struct client_end *c, struct sock *s)
{
    const unsigned char *p = s->out + s->out_at;
    size_t n = s->out_len - s->out_at, fits = c->extra_len > 0 || c->murky ? 0 : heard(&c->answers, c->received, p, n);
    s->out_at = s->out_len;
    c->received += fits;
    if (fits < n && !c->murky) {
        size_t start = 0, back;
        while (c->extra_len == 0 && start < c->received) { /* its first bytes may be those of an answer, too */
            size_t next = start < c->answers.want_len ? start + wire_header_get(c->answers.want + start).length : SIZE_MAX;
            if (next > c->received) {
                break;
            }
            start = next;
        }
        back = c->extra_len == 0 ? c->received - start : 0;
        MUST(back + n - fits <= sizeof c->extra - c->extra_len);
        memcpy(c->extra + c->extra_len, c->answers.want + start, back);
        memcpy(c->extra + c->extra_len + back, p + fits, n - fits);
        c->extra_len += back + n - fits;
        check_extra(c);
    }
}

static void client_closed(struct client_end *c)
{
    MUST(!world.calm || c->excused);
    c->sock = NULL;
}

/* -------------------------------------------------------------- messages */

static int32_t next_id(int i)
{
    return tag_of(i) | (int32_t)(++clients[i].number & 0xfff);
}

static size_t write_hello(int i, unsigned how)
{
    bool balanced = (section->mode == MONGO_LOADBALANCED) != ((how & 48) == 48);
    bool first = clients[i].asks.len == 0;
    struct bson b;
    mongomsg_begin(&b, message, sizeof message, how & 1 ? WIRE_OP_QUERY : WIRE_OP_MSG, 0, next_id(i), 0);
    bson_int32(&b, how & 1 ? "isMaster" : "hello", 1);
    if (how & 2) {
        bson_array(&b, "compression");
        bson_string(&b, "0", "zlib");
        bson_close(&b);
    }
    bson_document(&b, "client");
    bson_document(&b, "application");
    bson_string(&b, "name", how & 4 ? "one" : "other");
    bson_close(&b);
    bson_close(&b);
    if (balanced) {
        bson_bool(&b, "loadBalanced", true);
    }
    if (how & 8) {
        bson_int64(&b, "maxAwaitTimeMS", 10000);
    }
    put_padding(&b, i, how >> 6 == 3 ? 3000 : 0);
    if (!(how & 1)) {
        bson_string(&b, "$db", "admin");
    }
    clients[i].excused = clients[i].excused || (first && (how & 48) == 48);
    return mongomsg_finish(&b);
}

static size_t write_command(int i, unsigned what, unsigned number)
{
    static const char *const names[] = { "find", "getMore", "killCursors", "insert", "commitTransaction", "abortTransaction",
                                         "saslStart", "ping" };
    static const unsigned char lsid[16] = "a session of ...";
    unsigned name = what % 8;
    struct bson b;
    mongomsg_begin(&b, message, sizeof message, WIRE_OP_MSG, name == 3 && (what & 8) ? WIRE_MORE_TO_COME : 0, next_id(i), 0);
    if (name == 1) {
        bson_int64(&b, names[name], 1 + number % 4);
    } else {
        bson_string(&b, names[name], "things");
    }
    if (name == 2) {
        bson_array(&b, "cursors");
        bson_int64(&b, "0", 1 + number % 4);
        bson_close(&b);
    }
    if (name == 4 || name == 5 || (what & 16) != 0) {
        bson_document(&b, "lsid");
        bson_binary(&b, "id", 4, lsid, sizeof lsid);
        bson_close(&b);
        bson_int64(&b, "txnNumber", 1);
        bson_bool(&b, "autocommit", false);
    }
    put_padding(&b, i, what >> 5 < 5 ? number : number * 60);
    bson_string(&b, "$db", "d");
    return mongomsg_finish(&b);
}

/* ------------------------------------------------------------- mongos' ends */

/* The client behind a connection at a mongos; NULL: it is not known yet, or the connection is one of ours. */
static struct client_end *client_of(const struct sock *s)
{
    bool known = ends[s - socks].kind == END_LINK && ends[s - socks].client >= 0;
    return s->far >= FAR_NODE && known ? &clients[ends[s - socks].client] : NULL;
}

static void node_says(struct sock *s, const unsigned char *p, size_t n)
{
    struct client_end *c = client_of(s);
    if (!s->ended && !s->reset && (c == NULL || has_room(&c->answers, n)) && sock_say(s, p, n) && c != NULL) {
        tell(c, &c->answers, p, n);
    }
}

/* Answers the next request of its client. how: 0 as it should, 1 and 2 with a cursor, 3 with one of several answers, 4 as if it
 * were another's, 5 not at all, 6 and will do so again, 7 with an error. */
static bool relay_answer(struct sock *s, unsigned how)
{
    struct client_end *c = client_of(s);
    struct wire w;
    enum wire_status status;
    struct bson b;
    struct wire_header to;
    bool more = how % 8 == 3;
    size_t there, used;
    if (c == NULL || s->ended || s->reset || STREAM_CAP - s->in_len < MESSAGE_CAP) {
        return false;
    }
    if (!has_room(&c->answers, MESSAGE_CAP)) { /* so much has been said to it that the test keeps no more */
        c->owed = true;
        return false;
    }
    wire_start(&w, false);
    there = c->arrived < c->asks.want_len ? c->arrived : c->asks.want_len;
    used = wire_feed(&w, c->asks.want + c->answered, there - c->answered, &status);
    if (status != WIRE_WHOLE) {
        return false;
    }
    to = w.header;
    to.request_id = ends[s - socks].follows != 0 ? ends[s - socks].follows : to.request_id + (how % 8 == 4);
    world.calm = world.calm && how % 8 < 4;
    c->owed = c->owed || how % 8 == 5;
    if (!more && how % 8 != 6) {
        c->answered += used;
    }
    ends[s - socks].follows = more ? 77 : 0;
    if (wire_more_to_come(&w) || how % 8 == 5) {
        return true;
    }
    if (w.hello && !more) {
        bool drains = nodes[s->far - FAR_NODE].hello == HELLO_DRAINS;
        node_says(s, message, write_hello_answer(&to, drains ? HELLO_DRAINS : HELLO_GOOD, 1));
        return true;
    }
    mongomsg_begin(&b, message, sizeof message, to.opcode == WIRE_OP_QUERY ? WIRE_OP_REPLY : WIRE_OP_MSG,
                   more && to.opcode == WIRE_OP_MSG ? WIRE_MORE_TO_COME : 0, 77, to.request_id);
    if (how % 8 == 1 || how % 8 == 2) {
        bson_document(&b, "cursor");
        bson_int64(&b, "id", how % 8 == 1 ? 1 + how / 8 % 4 : 0);
        bson_close(&b);
    }
    put_padding(&b, ends[s - socks].client, how >= 128 ? (how - 127) * 120 : how);
    bson_double(&b, "ok", how % 8 == 7 ? 0 : 1);
    node_says(s, message, mongomsg_finish(&b));
    return true;
}

/* Bytes of a client: they are its own, and in order. */
static void relay_gets(struct sock *s)
{
    const unsigned char *p = s->out + s->out_at;
    size_t n = s->out_len - s->out_at;
    struct client_end *c;
    int32_t id;
    if (ends[s - socks].client < 0) {
        if (n < WIRE_HEADER) {
            return;
        }
        id = wire_header_get(p).request_id;
        ends[s - socks].client = id >> 12 & 15;
        MUST(ends[s - socks].client < CLIENTS && (id & ~0xfff) == tag_of(ends[s - socks].client));
        c = &clients[ends[s - socks].client];
        MUST(c->sock != NULL && c->up == NULL && c->arrived == 0);
        c->up = s;
    }
    c = &clients[ends[s - socks].client];
    MUST(c->up == s && c->sock != NULL);
    MUST(c->murky || heard(&c->asks, c->arrived, p, n) == n);
    c->arrived += n;
    s->out_at = s->out_len;
    while (nodes[s->far - FAR_NODE].automatic && !c->murky && relay_answer(s, 0)) {
    }
}

static enum end_kind end_kind(const struct sock *s)
{
    return ends[s - socks].kind;
}

static void node_gets(struct sock *s)
{
    static const unsigned char local[PROXY_LOCAL] = "\r\n\r\n\0\r\nQUIT\n\x20";
    int i = (int)(s - socks);
    if (ends[i].kind == END_NEW) {
        ends[i].kind = kind_of(s);
        ends[i].client = -1;
        ends[i].proxied = !section->upstream_proxy;
        ends[i].follows = 0;
    }
    if (!ends[i].proxied) {
        if (s->out_len - s->out_at < PROXY_LOCAL) {
            return;
        }
        MUST(memcmp(s->out + s->out_at, local, PROXY_LOCAL) == 0);
        s->out_at += PROXY_LOCAL;
        ends[i].proxied = true;
    }
    if (ends[i].kind == END_LINK) {
        relay_gets(s);
    } else {
        while (s->out_at < s->out_len && !s->ended && probe_answer(s, false)) {
        }
    }
}

/* --------------------------------------------------- fake_net.h's questions */

static void far_gets(struct sock *s)
{
    if (s->far < FAR_NODE) {
        client_gets(&clients[s->far], s);
    } else if (!s->ended) {
        node_gets(s);
    }
    if (s->out_at == s->out_len || (s->ended && s->far >= FAR_NODE)) {
        s->out_at = s->out_len = 0;
    }
}

static void far_closed(struct sock *s)
{
    int i = (int)(s - socks);
    if (s->state == SOCK_OPEN && s->far < FAR_NODE) {
        client_closed(&clients[s->far]);
    } else if (client_of(s) != NULL && client_of(s)->up == s) {
        client_of(s)->up = NULL;
    }
    ends[i].kind = END_NEW;
}

/* ----------------------------------------------------------------- the turn */

/* Of each mongos as many connections are counted as there are. */
static void check_counts(void)
{
    uint32_t count[NODES] = { 0 };
    for (int i = 0; i < SOCKS; i++) {
        const struct sock *s = &socks[i];
        if ((s->state == SOCK_DIALING || s->state == SOCK_OPEN) && s->far >= FAR_NODE && kind_of(s) == END_LINK) {
            count[s->far - FAR_NODE]++;
        }
    }
    for (int k = 0; k < NODES; k++) {
        MUST(mongos_of(backend_of(k))->connections == count[k]);
    }
}

static void turn(bool jump)
{
    loop_turn(!jump || conn_pending());
    conn_flush();
    conn_reap();
    for (int i = 0; i < SOCKS; i++) { /* what a mongos had no room to answer before */
        struct sock *s = &socks[i];
        const struct client_end *c = s->state == SOCK_OPEN ? client_of(s) : NULL;
        if (c != NULL) {
            while (nodes[s->far - FAR_NODE].automatic && !c->murky && relay_answer(s, 0)) {
            }
        }
    }
    check_counts();
}

static bool nobody_left(void)
{
    return mongo_idle() && conn_count(CONN_CLIENT) == 0 && conn_count(CONN_UPSTREAM) == 0;
}

/* It has been accepted: after mongo_stop() nobody is. */
static bool is_inside(const struct client_end *c)
{
    return c->sock != NULL && c->sock->state == SOCK_OPEN;
}

/* Who has not greeted, is at no mongos, or does not read, or whose mongos does not, is gone. */
static bool deadlines_kept(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client_end *c = &clients[i];
        bool stalls = is_inside(c) && c->sock->room == 0 && c->received < c->answers.want_len;
        bool stuck = is_inside(c) && c->up != NULL && c->up->room == 0 && c->arrived < c->asks.want_len;
        if (is_inside(c) && !c->murky && (c->up == NULL || stalls || stuck)) {
            return false;
        }
    }
    return true;
}

static bool all_passed(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client_end *c = &clients[i];
        if (is_inside(c) && !c->murky && (c->arrived < c->asks.want_len || c->received < c->answers.want_len)) {
            return false;
        }
    }
    return true;
}

/* ------------------------------------------------------------- the program */

static void set_up(void)
{
    conf.max_affinities = 2 * CLIENTS;
    section->handshake_timeout_ms = HANDSHAKE_MS;
    section->affinity_grace_ms = GRACE_MS;
}

/* So many clients have to wait for a connection. */
static void reserve(int count)
{
    static const struct conn_ops none = { .kind = "reserved" };
    for (int i = 0; i < count; i++) {
        reserved[i] = conn_take(CONN_UPSTREAM, &none, NULL);
        MUST(reserved[i] != NULL && conn_adopt(reserved[i], socket(AF_INET, SOCK_STREAM, 0)));
    }
}

static void calm_down(void)
{
    nodes_calm();
    for (int i = 0; i < CLIENTS && reserved[i] != NULL; i++) {
        conn_close(reserved[i]);
        reserved[i] = NULL;
    }
}

static void begin(void)
{
    unsigned how = next_byte(), more = next_byte();
    section->mode = how & 1 ? MONGO_LOADBALANCED : MONGO_PASSTHROUGH;
    section->affinity = (enum mongo_affinity)(how / 2 % 4 % 3);
    section->balance = (enum mongo_balance)(how / 8 % 4);
    section->expect_any = (how & 32) != 0;
    section->upstream_proxy = (how & 64) != 0 ? 2 : 0;
    section->deep_probe = (more & 1) != 0;
    section->eject_after = more & 2 ? 2 : 5;
    section->client_idle_ms = more & 4 ? 3000 : 0;
    world.calm = (how & 128) == 0 && (more & 4) == 0;
    world.stopped = false;
    if ((more & 0xe0) == 0xe0) {
        reserve(CLIENTS / 2);
        world.calm = false;
    }
    if (how & 128) {
        take_chunks(8 + more / 8);
    }
    for (int i = 0; i < SOCKS; i++) { /* probes of another set-up */
        if (socks[i].state == SOCK_OPEN && socks[i].far >= FAR_NODE) {
            sock_end(&socks[i], true);
        }
    }
    turn(false);
    MUST(settle(20000, nodes_well));
    for (int i = 0; i < CLIENTS; i++) {
        client_open(i);
    }
    turn(false);
    MUST(conn_count(CONN_CLIENT) == CLIENTS);
}

static void hang_up(void)
{
    for (int i = 0; i < SOCKS; i++) {
        struct sock *s = &socks[i];
        if (s->state == SOCK_KNOCKING) { /* nobody takes it any more */
            clients[s->far].sock = NULL;
            s->state = SOCK_FREE;
        } else if (s->state == SOCK_OPEN && (s->far < FAR_NODE || ends[i].kind == END_LINK)) {
            sock_end(s, s->far < FAR_NODE);
        }
    }
}

static bool first_served(void)
{
    return clients[0].answers.want_len > 0 && clients[0].received == clients[0].answers.want_len;
}

static void check_new_client(void)
{
    uint64_t full = stats.affinity_full;
    client_open(0);
    client_says(0, message, write_hello(0, 0));
    MUST(settle(1000, first_served) && clients[0].sock != NULL);
    MUST(stats.affinity_full == full);
    clients[0].excused = true;
    clients[0].sock->ended = true;
    MUST(settle(1000, nobody_left));
}

/* What is under way passes; then all go, in one way or another, and nothing may be left of them. */
static void end(void)
{
    calm_down();
    world.calm = false;
    settle(HANDSHAKE_MS + STALL_MS + 5000, deadlines_kept);
    MUST(deadlines_kept());
    for (int i = 0; i < SOCKS; i++) {
        socks[i].room = SIZE_MAX;
    }
    settle(3000, all_passed);
    MUST(all_passed());
    for (int i = 0; i < CLIENTS; i++) {
        if (clients[i].sock != NULL) {
            clients[i].sock->ended = true;
        }
    }
    settle(3000, nobody_left);
    for (int i = 0; i < CLIENTS; i++) {
        MUST(!is_inside(&clients[i]) || clients[i].owed || clients[i].murky);
        MUST(!is_inside(&clients[i]) || clients[i].up->shut);
    }
    hang_up();
    MUST(settle(3000, nobody_left));
    MUST(mongo_in_flight() == 0);
    start_again();
    loop_mock_us += GRACE_MS * 1000;
    MUST(settle(20000, nodes_well));
    check_new_client();
    check_rest();
    MUST(buf_free_chunks() == CHUNKS);
    for (int i = 0; i < SOCKS; i++) {
        MUST(socks[i].state == SOCK_FREE || (socks[i].far >= FAR_NODE && kind_of(&socks[i]) != END_LINK));
    }
}

/* ------------------------------------------------------------- the actions */

static void act_hello(void)
{
    unsigned who = next_byte() % CLIENTS, how = next_byte();
    if (!awaits_hello(&clients[who])) {
        client_says((int)who, message, write_hello((int)who, how));
    }
}

static void act_command(void)
{
    unsigned who = next_byte(), what = next_byte(), number = next_byte(), times = 1 + who / CLIENTS % 8;
    while (times-- > 0) {
        client_says((int)(who % CLIENTS), message, write_command((int)(who % CLIENTS), what, number));
    }
}

/* What begins a connection has its client's mark all the same. */
static void act_client_raw(void)
{
    unsigned char bytes[256];
    unsigned who = next_byte() % CLIENTS, n = next_byte();
    uint32_t tag = (uint32_t)tag_of((int)who);
    for (unsigned i = 0; i < n; i++) {
        size_t at = clients[who].asks.len + i;
        bytes[i] = (unsigned char)next_byte();
        if (at >= 4 && at < 8) {
            bytes[i] = (unsigned char)(tag >> 8 * (at - 4));
        }
    }
    world.calm = false;
    client_says((int)who, bytes, n);
}

static void act_client(void)
{
    unsigned who = next_byte() % CLIENTS, how = next_byte() % 8;
    struct sock *s = clients[who].sock;
    if (s == NULL) {
        client_open((int)who);
    } else if (how < 2) {
        clients[who].excused = true;
        sock_end(s, how == 1);
    } else if (how < 5) {
        s->piece = how == 2 ? 1 : how == 3 ? 7 : SIZE_MAX;
    } else {
        s->room = how == 5 ? SIZE_MAX : how == 6 ? 0 : next_byte();
        world.calm = false;
    }
}

/* The which-th open connection of a client to a mongos; NULL when there is none. */
static struct sock *pick_relay(unsigned which)
{
    struct sock *found[SOCKS];
    unsigned count = 0;
    for (int i = 0; i < SOCKS; i++) {
        if (socks[i].state == SOCK_OPEN && client_of(&socks[i]) != NULL) {
            found[count++] = &socks[i];
        }
    }
    return count > 0 ? found[which % count] : NULL;
}

static void act_answer(void)
{
    unsigned which = next_byte(), how = next_byte();
    struct sock *s = pick_relay(which);
    for (unsigned n = 1 + which / 16; s != NULL && n > 0 && relay_answer(s, how); n--) {
    }
}

static void act_node_raw(void)
{
    unsigned char bytes[256];
    unsigned which = next_byte(), n = next_byte();
    struct sock *s = pick_relay(which);
    for (unsigned i = 0; i < n; i++) {
        bytes[i] = (unsigned char)next_byte();
    }
    world.calm = false;
    if (s != NULL) {
        client_of(s)->owed = true;
        node_says(s, bytes, n);
    }
}

static void act_relay(void)
{
    unsigned which = next_byte(), how = next_byte() % 8;
    struct sock *s = pick_relay(which);
    if (s == NULL) {
        return;
    }
    if (how < 4) {
        world.calm = false;
        sock_end(s, (how & 1) != 0);
    } else if (how < 6) {
        s->piece = how == 4 ? 1 + next_byte() : SIZE_MAX;
    } else {
        s->room = how == 6 ? next_byte() : SIZE_MAX;
        world.calm = false;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static void (*const actions[])(void) = { act_hello, act_command, act_client_raw, act_client, act_answer, act_node_raw,
                                             act_relay, act_node, act_time, act_command };
    static bool booted;
    if (!booted) {
        booted = true;
        calm_down();
        boot(set_up);
        conn_limit(CONN_UPSTREAM, CLIENTS);
        MUST(settle(5000, nodes_well));
    }
    input.p = data;
    input.left = len;
    begin();
    for (int i = 0; i < ACTIONS_MAX && input.left > 0; i++) {
        unsigned b = next_byte();
        actions[b % (sizeof actions / sizeof actions[0])]();
        if (b < 128) { /* else what comes next happens in the same turn */
            turn(false);
        }
    }
    end();
    return 0;
}
