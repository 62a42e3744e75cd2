/*
 * fuzz_pooled.c - whole connections of MongoDB's pooled mode: up to four clients over a few connections to three mongos.
 *
 *   input = how the section is set up, then actions --> client i: messages whole and in parts, raw bytes, half-close, reset
 *                                                       mongos k: answers whole, in parts, too early, twice; closes, silence
 *                                                       time:     moves on; the pool: gets tight
 *
 *   struct asked, one for each request --at a mongos--> byte for byte what its client said, once, where it belongs
 *                                      --at its client--> byte for byte what the mongos said, or an error; in order, once
 *
 * Each request has the number of its client and of its connection in its ID: so a mongos knows whose bytes it gets.
 *
 * What must hold: an answer reaches only who asked; nothing is sent twice; no connection has two exchanges, no mongos more
 * connections than pool_max; a transaction's statements and a cursor's getMore go to one mongos; in a calm program (one
 * without trouble) all are answered by a mongos and nobody is closed; nobody waits beyond the deadlines; and when all have
 * gone, every chunk, connection, place in line and split command is free again, and a new client is served.
 */
#include "tests/fuzz/fake_mongo.h"

#define ACTIONS_MAX 300
#define ASKED 60             /* requests of one connection */
#define SESSIONS 4
#define CURSORS 4            /* ids 1 to 4 */
#define POOL_MAX 3           /* at most; less in many programs */
#define ENTRIES 24           /* of cursors, and of transactions: all that can be fit in */
#define SPLITS 32            /* commands for several mongos at the same time */
#define FEW_CHUNKS 128       /* requests that have to be held wait for each other */
#define LIE 100000           /* bytes by which a message is shorter than it says */
#define WAIT_MS 300
#define HANDSHAKE_MS 500
#define AWAIT_MS 400         /* of a hello that waits for something new */
#define AGAIN_MS 2500         /* behind failed dials there are others by then */
#define IDLE_MS 2000         /* of a connection that nobody needs */
#define LONG_MS 700000       /* cursors and transactions are forgotten behind this */
#define PIN_MS 60000         /* and not before this */

/* Where something lives. */
struct pin { int node; unsigned version; uint64_t since_us; };

/* One request, as its client says it. */
struct asked {
    struct wire wire;
    size_t at, len;          /* in its client's raw; len grows */
    bool whole, bad;
    bool answered;           /* at its client */
    bool murky;              /* what its mongos said is not told */
    bool arrived;            /* at a mongos, as a whole */
    uint8_t begun[NODES];    /* how often its first byte arrived there */
    size_t said_at, said_len; /* what its mongos answered, in its client's said; len 0: nothing yet */
    struct pin cursors[CURSORS]; /* of a killCursors: where they were known to be when it was said */
    int pinned;              /* to this mongos, as known when it was said; -1: not known */
    unsigned pin_version;
};

struct client_end {
    struct sock *sock;       /* NULL: gone */
    unsigned era;            /* its how-manieth connection */
    bool excused;            /* it may be closed: it has left, or said what is wrong */
    bool over;               /* it has said what is no message */
    unsigned count;          /* of asked */
    bool streams;            /* its hello is answered again and again, until it says something else */
    struct asked asked[ASKED];
    size_t raw_len, said_len, got_len, rest_at, rest_len;
    struct wire answer;      /* under way */
    unsigned char raw[STREAM_CAP], said[STREAM_CAP], got[2 * MESSAGE_CAP];
    unsigned char rest[2 * MESSAGE_CAP]; /* of a message of which only the beginning has been said */
};

/* A connection of the program's to a mongos. */
struct link_end {
    enum end_kind kind;
    bool greeted;            /* our hello has been answered, well */
    bool busy;               /* an exchange is under way */
    bool early;              /* the answer has been said before the request was whole */
    bool murky;              /* it has said what was not asked */
    bool dead;               /* what it got is no message */
    bool mute;               /* it answers no more */
    int client;
    unsigned era, number;    /* whose request, and the how-manieth */
    struct wire wire;        /* that request, as it arrived */
    size_t got_len, rest_at, rest_len;
    unsigned char got[STREAM_CAP];
    unsigned char rest[MESSAGE_CAP]; /* of an answer */
};

static struct client_end clients[CLIENTS];
static struct link_end ends[SOCKS];
static struct pin transactions[SESSIONS], cursors[CURSORS][SESSIONS + 1];
static bool pins_murky;      /* raw bytes may have been a session of their own */
static bool trouble;         /* a mongos was not up */
static bool guarded;         /* there are users, and nobody has logged in */
static struct { unsigned char process[12]; int64_t counter; } told; /* the topologyVersion of the last hello */
static struct pooled fillers[SPLITS]; /* clients that are none: commands of theirs leave few places to others */

static void link_gets(struct sock *s);

/* ---------------------------------------------------------------- requests */

static uint32_t tag_of(int i)
{
    return TAG | clients[i].era << 16 | (unsigned)i << 12;
}

static const unsigned char *session_id(unsigned k)
{
    static unsigned char ids[SESSIONS][16];
    memcpy(ids[k], "a session of ...", 16);
    ids[k][15] = (unsigned char)('0' + k);
    return ids[k];
}

/* SESSIONS: it has none. */
static unsigned session_of(const struct wire *w)
{
    for (unsigned k = 0; k < SESSIONS && wire_has(w, WIRE_LSID); k++) {
        if (memcmp(w->lsid, session_id(k), 16) == 0) {
            return k;
        }
    }
    pins_murky = pins_murky || wire_has(w, WIRE_LSID);
    return SESSIONS;
}

static bool in_transaction(const struct wire *w)
{
    return wire_in_transaction(w) && session_of(w) < SESSIONS;
}

/* Answered by the program itself, and told to no mongos. */
static bool is_local(const struct wire *w)
{
    return w->hello || w->header.opcode == WIRE_OP_QUERY || wire_is(w, "saslStart") || wire_is(w, "saslContinue") || wire_is(w, "logout") ||
           (guarded && wire_is(w, "ping")) || wire_is(w, "authenticate") || wire_is(w, "whatsmyuri") || wire_is(w, "getLastError");
}

static bool is_split(const struct wire *w)
{
    bool elsewhere = wire_in_transaction(w) && wire_has(w, WIRE_LSID);
    return !elsewhere && (wire_is(w, "killCursors") || wire_is(w, "killSessions"));
}

static bool kills(const struct wire *w)
{
    return is_split(w) && wire_is(w, "killCursors");
}

static struct pin *cursor_pin(const struct wire *w, int64_t id)
{
    return id >= 1 && id <= CURSORS ? &cursors[id - 1][session_of(w)] : NULL;
}

static void unpin(struct pin *p)
{
    p->node = -1;
    p->version++;
}

static void unpin_all_cursors(void)
{
    for (int i = 0; i < CURSORS; i++) {
        for (int k = 0; k <= SESSIONS; k++) {
            unpin(&cursors[i][k]);
        }
    }
}

/* Whether somebody has said what may move such things, and does not know yet that it is over. Not counted is `now`, nor what
 * its client has said behind it, if that moves them only when its turn comes. */
static bool is_moving(bool (*moves)(const struct wire *), unsigned session, const struct asked *now, bool in_turn)
{
    for (int i = 0; i < CLIENTS; i++) {
        for (unsigned n = 0; n < clients[i].count && clients[i].sock != NULL; n++) {
            const struct asked *r = &clients[i].asked[n];
            bool open = r != now && !r->answered && !r->bad && !(r->arrived && wire_more_to_come(&r->wire));
            if (r == now && in_turn) {
                break;
            }
            if (open && moves(&r->wire) && (session > SESSIONS || session_of(&r->wire) == session)) {
                return true;
            }
        }
    }
    return false;
}

static bool starts(const struct wire *w)
{
    return in_transaction(w) && wire_true(w, WIRE_START_TRANSACTION);
}

static bool aborts(const struct wire *w)
{
    return in_transaction(w) && wire_is(w, "abortTransaction");
}

static struct pin *pin_of(const struct wire *w)
{
    return in_transaction(w) ? &transactions[session_of(w)] : wire_is(w, "getMore") && wire_has(w, WIRE_COMMAND) ? cursor_pin(w, w->number[WIRE_COMMAND]) : NULL;
}

/* A client has said a whole request: what is known of where it goes, and what is not known any more. */
static void asked_whole(struct asked *r)
{
    const struct wire *w = &r->wire;
    struct pin *p = pin_of(w);
    r->whole = true;
    r->pinned = -1;
    if (starts(w)) {
        unpin(p);
    } else if (p != NULL && p->node >= 0 && loop_mock_us - p->since_us < PIN_MS * UINT64_C(1000)) {
        r->pinned = p->node;
        r->pin_version = p->version;
    }
    for (int i = 0; i < CURSORS && kills(w); i++) {
        r->cursors[i] = cursors[i][session_of(w)];
        r->cursors[i].version++;
    }
    if (kills(w)) {
        unpin_all_cursors();
    }
}

/* It has arrived at a mongos as a whole. */
static void check_route(struct asked *r, int node)
{
    const struct wire *w = &r->wire;
    struct pin *p = pin_of(w);
    bool recovers = wire_is(w, "commitTransaction") && wire_has(w, WIRE_RECOVERY_TOKEN);
    r->arrived = true;
    MUST(r->pinned < 0 || p->version != r->pin_version || r->pinned == node || recovers || pins_murky);
    if (starts(w)) {
        unpin(p);
        if (!is_moving(in_transaction, session_of(w), r, true)) {
            p->node = node;
            p->since_us = loop_mock_us;
        }
    } else if (aborts(w) || (in_transaction(w) && p->node != node)) {
        unpin(p);
    }
}

/* A mongos has said that answer: what it opens is known when its client has it. */
static void node_opens(const struct asked *r, const struct wire *reply)
{
    struct pin *p = wire_true(reply, WIRE_CURSOR_ID) ? cursor_pin(&r->wire, reply->number[WIRE_CURSOR_ID]) : NULL;
    struct pin *more = wire_is(&r->wire, "getMore") ? cursor_pin(&r->wire, r->wire.number[WIRE_COMMAND]) : NULL;
    if (p != NULL) {
        unpin(p);
    }
    if (more != NULL) {
        unpin(more);
    }
    if (aborts(&r->wire)) {
        unpin(&transactions[session_of(&r->wire)]);
    }
}

static void client_knows(const struct asked *r, const struct wire *reply)
{
    struct pin *p = wire_true(reply, WIRE_CURSOR_ID) ? cursor_pin(&r->wire, reply->number[WIRE_CURSOR_ID]) : NULL;
    int node = -1;
    for (int k = 0; k < NODES; k++) {
        node = r->begun[k] > 0 ? k : node;
    }
    if (p != NULL && !is_split(&r->wire) && !is_moving(kills, SESSIONS + 1, r, false)) {
        p->version++;
        p->node = node;
        p->since_us = loop_mock_us;
    }
}

/* ----------------------------------------------------------- client's ends */

static void client_open(int i)
{
    struct client_end *c = &clients[i];
    if (c->sock == NULL) {
        unsigned era = (c->era + 1) & 255;
        memset(c, 0, offsetof(struct client_end, raw));
        c->era = era;
        wire_start(&c->answer, true);
        c->sock = sock_take(SOCK_KNOCKING);
        MUST(c->sock != NULL);
        c->sock->far = i;
    }
}

/* The request that its bytes belong to, which begins if need be; NULL: there are too many. */
static struct asked *asked_now(struct client_end *c)
{
    struct asked *r = c->count > 0 ? &c->asked[c->count - 1] : NULL;
    if (r == NULL || r->whole || r->bad) {
        if (c->count == ASKED) {
            return NULL;
        }
        r = &c->asked[c->count++];
        memset(r, 0, sizeof *r);
        wire_start(&r->wire, false);
        r->at = c->raw_len;
    }
    return r;
}

/* Some of n bytes, those of IDs as they are to be. Gives how many; 0: nothing more can be said. */
static size_t client_bytes(int i, const unsigned char *p, size_t n)
{
    struct client_end *c = &clients[i];
    struct asked *r = c->over ? NULL : asked_now(c);
    unsigned char *to = c->raw + c->raw_len;
    enum wire_status status;
    n = n < STREAM_CAP - c->raw_len ? n : STREAM_CAP - c->raw_len;
    n = r != NULL && r->len < 8 && n > 0 ? 1 : n;
    if (n == 0 || (r == NULL && !c->over)) {
        return 0;
    }
    memcpy(to, p, n);
    if (r != NULL && r->len >= 4 && r->len < 8) {
        *to = (unsigned char)((tag_of(i) | c->count) >> 8 * (r->len - 4));
    }
    if (r != NULL) {
        size_t used = wire_feed(&r->wire, to, n, &status);
        n = status == WIRE_BAD ? n : used;
        r->len += n;
        r->bad = status == WIRE_BAD;
        c->over = r->bad;
        c->excused = c->excused || r->bad;
        if (status == WIRE_WHOLE) {
            asked_whole(r);
        }
    }
    c->raw_len += n;
    MUST(sock_say(c->sock, to, n));
    return n;
}

static bool may_say(const struct client_end *c)
{
    return c->sock != NULL && !c->sock->ended && !c->sock->reset;
}

static bool has_room(const struct client_end *c, size_t n)
{
    return n < STREAM_CAP - c->raw_len && n < STREAM_CAP - c->sock->in_len && c->count + 2 < ASKED;
}

static void say_rest(int i, size_t most)
{
    struct client_end *c = &clients[i];
    size_t n = 1;
    for (most = most < c->rest_len ? most : c->rest_len; most > 0 && may_say(c) && n > 0; most -= n) {
        n = client_bytes(i, c->rest + c->rest_at, most);
        c->rest_at += n;
        c->rest_len -= n;
    }
}

/* Its first bytes only: those to come are said before anything else is. */
static void client_says(int i, const unsigned char *p, size_t n, size_t first)
{
    struct client_end *c = &clients[i];
    say_rest(i, SIZE_MAX);
    if (may_say(c) && has_room(c, n)) {
        memcpy(c->rest, p, n);
        c->rest_at = 0;
        c->rest_len = n;
        say_rest(i, first);
    }
}

static bool is_error_of_ours(const struct wire *a)
{
    static const int64_t codes[] = { 2, 6, 9, 13, 17, 18, 40, 43, 50, 59, 89, 91, 186, 251, 352, 354, 14, 51758, 51759, 51760, 51761, 51764 };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        if (wire_has(a, WIRE_OK) && !wire_true(a, WIRE_OK) && wire_has(a, WIRE_CODE) && a->number[WIRE_CODE] == codes[i]) {
            return true;
        }
    }
    return false;
}

static int64_t listed(const unsigned char *msg, size_t n)
{
    static const char *const names[] = { "cursorsKilled", "cursorsNotFound", "cursorsAlive", "cursorsUnknown" };
    struct bson_reader doc = mongomsg_document(msg, n), list;
    struct bson_element e;
    int64_t count = 0;
    for (int i = 0; i < 4; i++) {
        if (bson_find(&doc, names[i], &e) && e.type == BSON_ARRAY) {
            for (list = bson_enter(&e); bson_next(&list, &e);) {
                count++;
            }
        }
    }
    return count;
}

/* How many cursors a killCursors names; -1: it is not one that can be answered. */
static int64_t named(const unsigned char *msg, size_t n)
{
    struct bson_reader doc = mongomsg_document(msg, n), list;
    struct bson_element e;
    int64_t count = 0;
    if (!bson_find(&doc, "cursors", &e) || e.type != BSON_ARRAY) {
        return -1;
    }
    for (list = bson_enter(&e); bson_next(&list, &e);) {
        count++;
    }
    return count;
}

/* Codes by which a mongos says that it goes: clients never hear them from it. */
static bool is_leaving(int64_t code)
{
    return code == 91 || code == 189 || code == 10107 || code == 11600 || code == 11602 || code == 13435 || code == 13436;
}

/* A whole answer: to the oldest request that wants one, and as its mongos said it, or an error. */
static void check_answer(struct client_end *c, const unsigned char *msg, size_t n)
{
    const struct wire *a = &c->answer, *w;
    struct asked *r = NULL;
    bool as_said;
    for (unsigned i = 0; i < c->count && r == NULL; i++) {
        bool wants = !c->asked[i].answered && !wire_more_to_come(&c->asked[i].wire);
        r = wants ? &c->asked[i] : NULL;
    }
    MUST(r != NULL && (r->whole || r->bad));
    w = &r->wire;
    MUST(a->header.response_to == w->header.request_id);
    if (wire_more_to_come(a)) {
        MUST(w->hello && (w->flags & WIRE_EXHAUST_ALLOWED) != 0 && wire_true(a, WIRE_OK));
        r->wire.header.request_id = a->header.request_id; /* what the next one answers */
        c->streams = true;
        return;
    }
    c->streams = false;
    as_said = r->said_len == n && memcmp(c->said + r->said_at, msg, n) == 0;
    r->answered = true;
    if (r->murky) {
        return;
    }
    if (wire_has(a, WIRE_TOPOLOGY_PROCESS) && wire_has(a, WIRE_TOPOLOGY_COUNTER) && is_local(w)) {
        memcpy(told.process, a->process_id, sizeof told.process);
        told.counter = a->number[WIRE_TOPOLOGY_COUNTER];
    }
    if (as_said && !is_local(w)) {
        MUST(n > 4096 || wire_true(a, WIRE_OK) || !wire_has(a, WIRE_CODE) || !is_leaving(a->number[WIRE_CODE]));
        client_knows(r, a);
    } else if (is_local(w)) {
        MUST(wire_true(a, WIRE_OK) || is_error_of_ours(a));
    } else if (is_split(w) && wire_true(a, WIRE_OK)) {
        int64_t count = named(c->raw + r->at, r->len);
        MUST(r->whole && (count < 0 || listed(msg, n) == count));
    } else {
        MUST(is_error_of_ours(a) || (is_split(w) && wire_has(a, WIRE_OK)));
        MUST(!world.calm || r->bad || is_split(w));
    }
}

static void client_gets(struct client_end *c, struct sock *s)
{
    while (s->out_at < s->out_len) {
        enum wire_status status;
        size_t used = wire_feed(&c->answer, s->out + s->out_at, s->out_len - s->out_at, &status);
        MUST(status != WIRE_BAD && c->got_len + used <= sizeof c->got);
        memcpy(c->got + c->got_len, s->out + s->out_at, used);
        c->got_len += used;
        s->out_at += used;
        if (status == WIRE_WHOLE) {
            check_answer(c, c->got, c->got_len);
            wire_start(&c->answer, true);
            c->got_len = 0;
        }
    }
}

/* Part of an answer is part of what a mongos said to it. */
static void client_closed(struct client_end *c)
{
    MUST(!world.calm || c->excused);
    if (c->got_len >= WIRE_HEADER) {
        bool fits = false;
        for (unsigned i = 0; i < c->count; i++) {
            const struct asked *r = &c->asked[i];
            bool whose = r->wire.header.request_id == c->answer.header.response_to && !r->answered;
            bool ours = c->got_len <= 1024 || r->murky || is_local(&r->wire) || is_split(&r->wire);
            fits = fits || (whose && (ours || (c->got_len <= r->said_len && memcmp(c->said + r->said_at, c->got, c->got_len) == 0)));
        }
        MUST(fits);
    }
    c->sock = NULL;
}

/* -------------------------------------------------------------- messages */

/* With a checksum, right or wrong. */
static size_t put_checksum(int i, size_t n, bool right)
{
    struct wire_header h = wire_header_get(message);
    h.request_id = (int32_t)(tag_of(i) | (clients[i].count + 1));
    h.length += 4;
    wire_header_put(message, &h);
    bson_put32(message + WIRE_HEADER, bson_get32(message + WIRE_HEADER) | WIRE_CHECKSUM_PRESENT);
    bson_put32(message + n, wire_crc32c(right ? 0 : 1, message, n));
    return n + 4;
}

/* A sequence of documents, behind the command itself or before it, as some drivers put it. */
static size_t put_sequence(size_t n, size_t len, bool behind)
{
    unsigned char *at = message + (behind ? n : WIRE_HEADER + 4);
    struct wire_header h = wire_header_get(message);
    struct bson b;
    if (len < 40 || n + len > sizeof message) {
        return n;
    }
    memmove(at + len, at, behind ? 0 : n - WIRE_HEADER - 4);
    at[0] = 1;
    bson_put32(at + 1, (uint32_t)len - 1);
    memcpy(at + 5, "documents", 10);
    bson_start(&b, at + 15, len - 15);
    bson_document(&b, NULL);
    put_padding(&b, 15, len - 15 - 15); /* what is around the text: of the document 5 bytes, of the element 10 */
    bson_close(&b);
    MUST(!b.overflow && b.len == len - 15);
    h.length = (uint32_t)(n + len);
    wire_header_put(message, &h);
    return n + len;
}

/* It says that it is longer than it is: the rest never comes. */
static void put_lie(void)
{
    struct wire_header h = wire_header_get(message);
    h.length += LIE;
    wire_header_put(message, &h);
    if (message[WIRE_HEADER + 4] == 1) {
        bson_put32(message + WIRE_HEADER + 5, bson_get32(message + WIRE_HEADER + 5) + LIE);
    }
}

static size_t write_hello(int i, unsigned how)
{
    struct bson b;
    mongomsg_begin(&b, message, sizeof message, how & 1 ? WIRE_OP_QUERY : WIRE_OP_MSG, how & 1 ? 0 : (how & 64) != 0 ? WIRE_EXHAUST_ALLOWED : 0, 0, 0);
    bson_int32(&b, how & 1 ? "isMaster" : "hello", 1);
    if (how & 2) {
        bson_array(&b, "compression");
        bson_string(&b, "0", "zlib");
        bson_close(&b);
    }
    if (how & 4) {
        bson_document(&b, "client");
        bson_document(&b, "application");
        bson_string(&b, "name", "one");
        bson_close(&b);
        bson_close(&b);
    }
    if (how & 8) {
        bson_document(&b, "topologyVersion");
        bson_object_id(&b, "processId", told.process);
        bson_int64(&b, "counter", told.counter);
        bson_close(&b);
        bson_int64(&b, "maxAwaitTimeMS", AWAIT_MS);
    }
    put_padding(&b, i, how >> 4 == 15 ? 3000 : how >> 4 == 14 ? 18000 : 0);
    if (!(how & 1)) {
        bson_string(&b, "$db", "admin");
    }
    return mongomsg_finish(&b);
}

static const char *const names[] = {
    "find", "getMore", "killCursors", "insert", "commitTransaction", "abortTransaction", "saslStart", "ping", "getMore", "killSessions",
    "insert", "find", "getMore", "logout", "aggregate", "saslContinue",
};

/* what: the command, and whose session; how: of a transaction, how its frame is. */
static size_t write_command(int i, unsigned what, unsigned how, unsigned number)
{
    unsigned name = what % 16, session = what / 16 % 8;
    bool txn = (how & 1) != 0, quiet = (how & 14) == 14;
    struct bson b;
    mongomsg_begin(&b, message, sizeof message, WIRE_OP_MSG, (quiet ? WIRE_MORE_TO_COME : 0) | ((how & 14) == 12 ? WIRE_EXHAUST_ALLOWED : 0), 0, 0);
    if (strcmp(names[name], "getMore") == 0) {
        bson_int64(&b, names[name], 1 + number % CURSORS);
    } else {
        bson_string(&b, names[name], "things");
    }
    if (name == 2 && number % 16 != 15) {
        bson_array(&b, "cursors");
        for (unsigned k = 0; k < (number % 16 == 14 ? 70 : 1 + number / CURSORS % 4); k++) {
            bson_int64(&b, NULL, 1 + (number + k) % 5);
        }
        if (number % 16 == 13) {
            bson_string(&b, NULL, "no cursor");
        }
        bson_close(&b);
        world.calm = world.calm && number % 16 < 13;
    }
    if (session <= SESSIONS) {
        unsigned char other[16] = { (unsigned char)number, (unsigned char)clients[i].count };
        bson_document(&b, "lsid");
        bson_binary(&b, "id", 4, session < SESSIONS ? session_id(session) : other, 16);
        bson_close(&b);
        world.calm = world.calm && session < SESSIONS;
        if (txn) {
            bson_int64(&b, "txnNumber", 1 + number % 4);
            bson_bool(&b, "autocommit", false);
            if (how & 128 && name != 4 && name != 5) {
                bson_bool(&b, "startTransaction", true);
            }
        } else if (how & 128) {
            bson_int64(&b, "txnNumber", 1 + number % 4);
        }
    }
    if (name == 4 && (how & 16) != 0) {
        bson_document(&b, "recoveryToken");
        bson_close(&b);
    }
    put_padding(&b, i, number > 250 ? (number - 249) * 3000 : number);
    bson_string(&b, "$db", "d");
    return mongomsg_finish(&b);
}

/* ------------------------------------------------------------- mongos' ends */

/* The request on that connection; NULL: its client has gone. */
static struct asked *asked_at(const struct link_end *e)
{
    struct client_end *c = &clients[e->client];
    return c->sock != NULL && c->era == e->era && e->number > 0 && e->number <= c->count ? &c->asked[e->number - 1] : NULL;
}

static bool is_link(const struct sock *s)
{
    return s->state == SOCK_OPEN && s->far >= FAR_NODE && ends[s - socks].kind == END_LINK;
}

/* Our own greeting. False: it is not whole. */
static bool greeting_gets(struct sock *s, struct link_end *e)
{
    enum hello_kind hello = nodes[s->far - FAR_NODE].hello;
    if (!probe_answer(s, true)) {
        return false;
    }
    e->greeted = hello == HELLO_GOOD || hello == HELLO_NO_MONGOS;
    e->dead = !e->greeted;
    return true;
}

/* A request begins on that connection. False: its ID is not there yet. */
static bool request_begins(struct sock *s, struct link_end *e)
{
    const unsigned char *p = s->out + s->out_at;
    int node = s->far - FAR_NODE;
    struct asked *r;
    uint32_t id;
    unsigned times = 0;
    if (s->out_len - s->out_at < WIRE_HEADER) {
        return false;
    }
    MUST(!e->busy || e->murky);
    id = (uint32_t)wire_header_get(p).request_id;
    e->client = (int)(id >> 12 & 15);
    e->era = id >> 16 & 255;
    e->number = id & 0xfff;
    e->early = e->busy = false;
    e->got_len = 0;
    wire_start(&e->wire, false);
    MUST(!guarded && (id & 0xff000000) == TAG && e->client < CLIENTS && e->number > 0);
    r = asked_at(e);
    if (r != NULL) {
        r->begun[node]++;
        for (int k = 0; k < NODES; k++) {
            times += r->begun[k];
        }
        MUST(!r->answered && !is_local(&r->wire));
        MUST(is_split(&r->wire) ? r->begun[node] == 1 : times == 1);
    }
    return true;
}

/* What of the request is here is what its client said. */
static void check_bytes(const struct link_end *e, const struct asked *r)
{
    static unsigned char want[2 * MESSAGE_CAP];
    const unsigned char *raw = clients[e->client].raw + r->at;
    size_t n = r->len;
    enum wire_error error;
    if (is_split(&r->wire)) {
        MUST(e->wire.header.length <= r->len && (e->wire.command[0] == '\0' || strcmp(e->wire.command, r->wire.command) == 0));
        return;
    }
    if ((r->wire.flags & WIRE_EXHAUST_ALLOWED) != 0) {
        MUST(r->whole);
        n = mongomsg_edit(raw, r->len, NULL, NULL, 0, want, sizeof want, &error);
        MUST(n > 0);
        bson_put32(want + WIRE_HEADER, bson_get32(want + WIRE_HEADER) & ~WIRE_EXHAUST_ALLOWED);
        raw = want;
    }
    MUST(e->got_len <= n && memcmp(raw, e->got, e->got_len) == 0);
}

/* Each cursor that a mongos is to kill is one of those that the client named. */
static void check_kill(const struct link_end *e, const struct asked *r, int node)
{
    const struct pin *known, *now;
    struct bson_reader doc = mongomsg_document(e->got, e->got_len), all = mongomsg_document(clients[e->client].raw + r->at, r->len), list, more;
    struct bson_element a, b;
    int64_t x = 0, y = 0;
    if (!bson_find(&doc, "cursors", &a) || a.type != BSON_ARRAY || !bson_find(&all, "cursors", &b) || b.type != BSON_ARRAY) {
        return;
    }
    more = bson_enter(&b);
    for (list = bson_enter(&a); bson_next(&list, &a);) {
        bool found = false;
        MUST(bson_number(&a, &x));
        while (!found && bson_next(&more, &b)) { /* in the same order */
            found = bson_number(&b, &y) && x == y;
        }
        MUST(found);
        known = x >= 1 && x <= CURSORS ? &r->cursors[x - 1] : NULL;
        now = known != NULL ? cursor_pin(&r->wire, x) : NULL;
        if (known != NULL && known->node >= 0 && known->version == now->version && loop_mock_us - known->since_us < PIN_MS * UINT64_C(1000)) {
            MUST(known->node == node || trouble || pins_murky);
        }
    }
}

static void request_whole(struct sock *s, struct link_end *e)
{
    struct asked *r = asked_at(e);
    e->busy = !wire_more_to_come(&e->wire) && !e->early;
    if (r != NULL) {
        MUST(r->whole);
        if (is_split(&r->wire)) {
            check_kill(e, r, s->far - FAR_NODE);
        }
        check_route(r, s->far - FAR_NODE);
    }
}

/* Bytes of clients: one exchange after the other. */
static void link_gets(struct sock *s)
{
    struct link_end *e = &ends[s - socks];
    while (s->out_at < s->out_len && !s->ended && !e->dead) {
        const unsigned char *p = s->out + s->out_at;
        enum wire_status status;
        struct asked *r;
        size_t used;
        if (!e->greeted) {
            if (!greeting_gets(s, e)) {
                return;
            }
            continue;
        }
        if ((e->wire.used == 0 || e->wire.used == e->wire.header.length) && !request_begins(s, e)) {
            return;
        }
        used = wire_feed(&e->wire, p, s->out_len - s->out_at, &status);
        MUST(e->got_len + used <= sizeof e->got);
        memcpy(e->got + e->got_len, p, used);
        e->got_len += used;
        s->out_at += used;
        r = asked_at(e);
        if (r != NULL) {
            check_bytes(e, r);
        }
        e->dead = status == WIRE_BAD;
        MUST(!e->dead || r == NULL || r->bad);
        if (status == WIRE_WHOLE) {
            request_whole(s, e);
        }
    }
}

static void link_says(struct sock *s, const unsigned char *p, size_t n)
{
    if (!s->ended && !s->reset) {
        sock_say(s, p, n);
    }
}

/* The rest of an answer that was said in part. */
static bool link_says_rest(struct sock *s)
{
    struct link_end *e = &ends[s - socks];
    bool some = e->rest_len > 0;
    link_says(s, e->rest + e->rest_at, e->rest_len);
    e->rest_len = 0;
    return some;
}

static void put_list(struct bson *b, const char *name, const struct link_end *e, bool odd)
{
    struct bson_reader doc = mongomsg_document(e->got, e->got_len), list;
    struct bson_element el;
    int64_t id;
    bson_array(b, name);
    if (bson_find(&doc, "cursors", &el) && el.type == BSON_ARRAY) {
        for (list = bson_enter(&el); bson_next(&list, &el);) {
            if (bson_number(&el, &id) && (id % 2 != 0) == odd) {
                bson_int64(b, NULL, id);
            }
        }
    }
    bson_close(b);
}

/* how: 0 as it should, 1 and 2 with a cursor, 3 as if more came, 4 as if it were another's, 5 the id of the cursor is 0,
 * 6 an error, 7 one of a mongos that goes. */
static size_t write_answer(const struct link_end *e, const struct wire *w, unsigned how, size_t size)
{
    static const int32_t errors[] = { 43, 112, 11000, 251 }, leaving[] = { 91, 11600, 189, 10107 };
    struct wire_header to = w->header;
    struct bson b;
    size /= 2;
    to.request_id += how % 8 == 4 && how < 128;
    mongomsg_begin(&b, message, sizeof message, w->header.opcode == WIRE_OP_QUERY ? WIRE_OP_REPLY : WIRE_OP_MSG,
                   how % 8 == 3 && w->header.opcode == WIRE_OP_MSG ? WIRE_MORE_TO_COME : 0, 77, to.request_id);
    if (how % 8 == 1 || how % 8 == 2 || how % 8 == 5) {
        bson_document(&b, "cursor");
        if (how & 128) {
            put_padding(&b, e->client, size);
        }
        bson_int64(&b, "id", how % 8 == 5 ? 0 : 1 + how / 8 % CURSORS);
        bson_close(&b);
    }
    if (how % 8 >= 6) {
        bson_int32(&b, "code", how % 8 == 6 ? errors[how / 8 % 4] : leaving[how / 8 % 4]);
    } else if (is_split(w) && kills(w)) {
        put_list(&b, "cursorsKilled", e, true);
        put_list(&b, "cursorsNotFound", e, false);
    }
    put_padding(&b, e->client, size);
    bson_double(&b, "ok", how % 8 >= 6 ? 0 : 1);
    return mongomsg_finish(&b);
}

/* Answers the request under way, or a bit of one: `first` bytes now, the others later. */
static bool link_answer(struct sock *s, unsigned how, size_t size, size_t first, bool early)
{
    struct link_end *e = &ends[s - socks];
    struct client_end *c = &clients[e->client];
    struct asked *r = e->greeted && e->client < CLIENTS ? asked_at(e) : NULL;
    struct wire w;
    enum wire_status status;
    size_t n;
    bool is_early = early && e->greeted && !e->early && e->wire.used >= WIRE_HEADER && e->wire.used < e->wire.header.length && !wire_more_to_come(&e->wire);
    if (s->ended || s->reset || e->rest_len > 0 || e->mute || e->dead || !(e->busy || is_early) || STREAM_CAP - s->in_len < 2 * MESSAGE_CAP) {
        return false;
    }
    size = STREAM_CAP - c->said_len < 3 * MESSAGE_CAP ? 10 : size;
    n = write_answer(e, &e->wire, how, size);
    MUST(n > 0);
    if (r != NULL) {
        r->said_at = c->said_len;
        r->said_len = n;
        r->murky = r->murky || how % 8 == 3 || how % 8 == 4;
        MUST(c->said_len + n <= STREAM_CAP);
        memcpy(c->said + c->said_len, message, n);
        c->said_len += n;
        wire_start(&w, true);
        wire_feed(&w, message, n, &status);
        node_opens(r, &w);
    }
    world.calm = world.calm && (how % 8 < 3 || how % 8 == 5 || (how % 8 == 6 && r != NULL && !is_split(&r->wire))) && !is_early;
    if (how % 8 == 4 && how >= 128) {
        put_lie();
        e->mute = true;
    }
    e->busy = false;
    e->early = is_early;
    first = first < n ? first : n;
    link_says(s, message, first);
    memcpy(e->rest, message + first, n - first);
    e->rest_at = 0;
    e->rest_len = n - first;
    return true;
}

static void node_gets(struct sock *s)
{
    struct link_end *e = &ends[s - socks];
    if (e->kind == END_NEW) {
        memset(e, 0, offsetof(struct link_end, got));
        e->kind = kind_of(s);
        wire_start(&e->wire, false);
    }
    if (e->kind == END_LINK) {
        link_gets(s);
        return;
    }
    while (s->out_at < s->out_len && !s->ended && probe_answer(s, false)) {
    }
}

static enum end_kind end_kind(const struct sock *s)
{
    return ends[s - socks].kind;
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
    if (s->state == SOCK_OPEN && s->far < FAR_NODE) {
        client_closed(&clients[s->far]);
    }
    ends[s - socks].kind = END_NEW;
}

/* ----------------------------------------------------------------- the turn */

static void check_counts(void)
{
    uint32_t count[NODES] = { 0 }, lent[NODES] = { 0 };
    for (int i = 0; i < SOCKS; i++) {
        const struct sock *s = &socks[i];
        if ((s->state == SOCK_DIALING || s->state == SOCK_OPEN) && s->far >= FAR_NODE && kind_of(s) == END_LINK) {
            count[s->far - FAR_NODE]++;
            lent[s->far - FAR_NODE] += s->state == SOCK_OPEN;
        }
    }
    for (int k = 0; k < NODES; k++) {
        trouble = trouble || backend_of(k)->state != BACKEND_UP;
        MUST(count[k] <= section->pool_max);
        MUST(mongos_of(backend_of(k))->connections <= lent[k]);
    }
}

static void turn(bool jump)
{
    loop_turn(!jump || conn_pending());
    conn_flush();
    conn_reap();
    for (int i = 0; i < SOCKS; i++) {
        if (is_link(&socks[i]) && nodes[socks[i].far - FAR_NODE].automatic) {
            link_says_rest(&socks[i]);
            link_answer(&socks[i], 0, 20, SIZE_MAX, false);
        }
    }
    check_counts();
}

static bool nobody_left(void)
{
    return mongo_idle() && conn_count(CONN_CLIENT) == 0;
}

static bool nothing_left(void)
{
    return nobody_left() && conn_count(CONN_UPSTREAM) == 0;
}

/* It has been accepted: after mongo_stop() nobody is. */
static bool is_inside(const struct client_end *c)
{
    return c->sock != NULL && c->sock->state == SOCK_OPEN;
}

/* Who has said no more than part of a message, or nothing, or does not read, is gone. */
static bool deadlines_kept(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client_end *c = &clients[i];
        const struct asked *r = c->count > 0 ? &c->asked[c->count - 1] : NULL;
        bool blocked = is_inside(c) && c->sock->room == 0 && c->got_len > 0;
        if (is_inside(c) && !c->streams && (r == NULL || !(r->whole || r->bad) || r->bad || blocked)) {
            return false;
        }
    }
    return true;
}

/* Nobody waits for a connection to a mongos, however long that one takes with what others have asked. */
static bool nobody_waits(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client_end *c = &clients[i];
        const struct asked *r = NULL;
        for (unsigned n = 0; n < c->count && r == NULL; n++) {
            bool wants = !c->asked[n].answered && !wire_more_to_come(&c->asked[n].wire);
            r = wants ? &c->asked[n] : NULL;
        }
        if (is_inside(c) && !c->streams && !c->sock->shut && r != NULL && r->whole && !is_local(&r->wire) && r->begun[0] + r->begun[1] + r->begun[2] == 0) {
            return false;
        }
    }
    return true;
}

static bool all_answered(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client_end *c = &clients[i];
        for (unsigned n = 0; n < c->count && is_inside(c) && !c->sock->shut && !c->streams; n++) {
            if (!c->asked[n].answered && !wire_more_to_come(&c->asked[n].wire)) {
                return false;
            }
        }
    }
    return true;
}

/* ------------------------------------------------------------- the program */

static void set_up(void)
{
    conf.chunks = FEW_CHUNKS;
    conf.max_affinities = ENTRIES;
    section->user_count = 1;
    memcpy(section->users[0].name, "somebody", 9);
    section->mode = MONGO_POOLED;
    section->handshake_timeout_ms = HANDSHAKE_MS;
    section->pool_max = POOL_MAX, section->pool_dials = 2, section->pool_wait_ms = WAIT_MS, section->pool_idle_ms = IDLE_MS;
}

/* So few commands for several mongos are left. */
static void take_splits(int leave)
{
    static const unsigned char empty[1];
    struct backend *only;
    for (int i = 0; i < SPLITS - leave; i++) {
        struct pooled *p = &fillers[i];
        p->service = backend_of(0)->service;
        memcpy(p->asks.command, "killSessions", 13);
        if (p->split == NULL) {
            split_begin(p, empty, 0, &only);
        }
    }
}

static void give_splits(void)
{
    for (int i = 0; i < SPLITS; i++) {
        split_end(&fillers[i]);
    }
}

static void begin(void)
{
    unsigned how = next_byte(), more = next_byte();
    section->pool_max = how % 4 == 0 ? POOL_MAX : how % 4;
    section->pool_min = (how & 4) != 0;
    section->pool_dials = how & 8 ? 1 : 2;
    section->pool_queue = how & 16 ? 2 : 100;
    section->pool_life_ms = how & 32 ? 500 : 0;
    section->eject_after = more & 1 ? 2 : 5;
    section->client_idle_ms = more & 2 ? 3000 : 0;
    guarded = (more & 64) != 0;
    section->user_count = guarded;
    world.calm = (how & 128) == 0 && !guarded && section->pool_queue == 100 && section->client_idle_ms == 0;
    world.stopped = false;
    pins_murky = false;
    unpin_all_cursors();
    for (int k = 0; k < SESSIONS; k++) {
        unpin(&transactions[k]);
    }
    MUST(settle(20000, nodes_well));
    trouble = false;
    if (how & 128) {
        take_chunks(8 + more / 8);
    }
    if (more & 4) {
        take_splits(more / 8 % 2);
        world.calm = false;
    }
    for (int i = 0; i < CLIENTS; i++) {
        client_open(i);
    }
    turn(false);
    MUST(conn_count(CONN_CLIENT) == CLIENTS);
}

static bool never(void)
{
    return false;
}

static bool first_served(void)
{
    const struct client_end *c = &clients[0];
    return c->count > 0 && c->asked[c->count - 1].answered;
}

static void check_new_client(void)
{
    const struct client_end *c = &clients[0];
    client_open(0);
    for (unsigned what = 0; what < 3; what++) {
        size_t n = what == 0 ? write_hello(0, 4) : write_command(0, what == 1 ? 0x70 : 0x72, 0, 5);
        client_says(0, message, n, SIZE_MAX);
        MUST(settle(1000, first_served) && clients[0].sock != NULL);
        MUST(what == 2 || c->asked[what].said_len > 0 || is_local(&c->asked[what].wire));
    }
    clients[0].excused = true;
    clients[0].sock->ended = true;
    MUST(settle(1000, nobody_left));
}

static void hang_up(void)
{
    for (int i = 0; i < SOCKS; i++) {
        struct sock *s = &socks[i];
        if (s->state == SOCK_KNOCKING) { /* nobody takes it any more */
            clients[s->far].sock = NULL;
            s->state = SOCK_FREE;
        } else if (s->state == SOCK_OPEN && s->far < FAR_NODE) {
            sock_end(s, true);
        }
    }
}

/* What a mongos will never answer is lost with its connection. */
static void end_mute(void)
{
    for (int i = 0; i < SOCKS; i++) {
        if (is_link(&socks[i]) && ends[i].mute) {
            sock_end(&socks[i], false);
        }
    }
}

/* What is under way passes; then all go, in one way or another, and nothing may be left of them. */
static void end(void)
{
    world.calm = false;
    give_chunks();
    for (int i = 0; i < SOCKS; i++) {
        socks[i].piece = SIZE_MAX;
    }
    settle(ASKED * WAIT_MS + STALL_MS + 4000, nobody_waits);
    MUST(nobody_waits());
    nodes_calm();
    give_splits();
    end_mute();
    settle(HANDSHAKE_MS + STALL_MS + WAIT_MS + ASKED * AWAIT_MS + 6000, deadlines_kept);
    MUST(deadlines_kept());
    for (int i = 0; i < SOCKS; i++) {
        socks[i].room = socks[i].far < FAR_NODE ? SIZE_MAX : socks[i].room;
    }
    settle(ASKED * AWAIT_MS + 4000, all_answered);
    MUST(all_answered());
    for (int i = 0; i < CLIENTS; i++) {
        if (clients[i].sock != NULL) {
            clients[i].sock->ended = true;
        }
    }
    settle(3000, nobody_left);
    for (int i = 0; i < CLIENTS; i++) {
        MUST(!is_inside(&clients[i]));
    }
    hang_up();
    MUST(settle(3000, nobody_left));
    for (int i = 0; i < SOCKS; i++) {
        socks[i].room = SIZE_MAX;
    }
    start_again();
    guarded = false;
    section->user_count = 0;
    settle(AGAIN_MS, never);
    MUST(settle(20000, nodes_well));
    check_new_client();
    section->pool_min = 0;
    MUST(settle(10000, nothing_left));
    loop_mock_us += LONG_MS * UINT64_C(1000);
    MUST(settle(20000, nodes_well));
    check_rest();
    MUST(mongo_in_flight() == 0 && split_count() == 0 && hold_reserved() == 0);
    MUST(buf_free_chunks() == FEW_CHUNKS);
    for (int k = 0; k < NODES; k++) {
        MUST(mongos_of(backend_of(k))->connections == 0);
    }
}

/* ------------------------------------------------------------- the actions */

static void act_hello(void)
{
    unsigned who = next_byte(), how = next_byte();
    size_t n = write_hello((int)(who % CLIENTS), how);
    client_says((int)(who % CLIENTS), message, n, SIZE_MAX);
}

static void act_command(void)
{
    unsigned who = next_byte(), what = next_byte(), how = next_byte(), number = next_byte(), times = 1 + who / CLIENTS % 8;
    unsigned cut = who >= 128 ? next_byte() : 0;
    say_rest((int)(who % CLIENTS), SIZE_MAX);
    while (times-- > 0) {
        size_t n = write_command((int)(who % CLIENTS), what, how, number);
        if (strcmp(names[what % 16], "insert") == 0 && (how & 96) != 0) {
            n = put_sequence(n, number * ((how & 96) == 32 ? 5u : 70u), (how & 96) == 64);
        }
        if ((how & 96) == 96 && number == 255) {
            put_lie();
            world.calm = false;
        }
        if ((how & 14) == 10 || (how & 14) == 12) {
            n = put_checksum((int)(who % CLIENTS), n, (how & 64) == 0);
            world.calm = world.calm && (how & 64) == 0;
        }
        client_says((int)(who % CLIENTS), message, n, cut > 0 && times == 0 ? cut * (who & 64 ? 30u : 1u) : SIZE_MAX);
    }
}

static void act_client_raw(void)
{
    unsigned char bytes[256];
    unsigned who = next_byte() % CLIENTS, n = next_byte();
    for (unsigned i = 0; i < n; i++) {
        bytes[i] = (unsigned char)next_byte();
    }
    world.calm = false;
    client_says((int)who, bytes, n, SIZE_MAX);
}

static void act_client(void)
{
    unsigned who = next_byte() % CLIENTS, how = next_byte() % 8, room = how == 7 ? next_byte() : 0;
    struct sock *s = clients[who].sock;
    if (s == NULL) {
        client_open((int)who);
    } else if (how < 2) {
        clients[who].excused = true;
        sock_end(s, how == 1);
    } else if (how < 5) {
        s->piece = how == 2 ? 1 : how == 3 ? 7 : SIZE_MAX;
    } else {
        s->room = how == 5 ? SIZE_MAX : room;
        world.calm = false;
    }
}

/* The which-th of the connections on which a request, or part of one, is; else of all of them; NULL: there is none. */
static struct sock *pick_link(unsigned which)
{
    struct sock *found[SOCKS];
    unsigned count = 0;
    for (int pass = 0; pass < 2 && count == 0; pass++) {
        for (int i = 0; i < SOCKS; i++) {
            bool busy = ends[i].busy || ends[i].rest_len > 0 || (ends[i].wire.used > 0 && ends[i].wire.used < ends[i].wire.header.length);
            if (is_link(&socks[i]) && (busy || pass == 1)) {
                found[count++] = &socks[i];
            }
        }
    }
    return count > 0 ? found[which % count] : NULL;
}

static void act_answer(void)
{
    unsigned which = next_byte(), how = next_byte(), size = next_byte();
    size_t first = which & 16 ? next_byte() * (which & 32 ? 50u : 1u) : SIZE_MAX;
    struct sock *s = pick_link(which & 15);
    if (s != NULL && !link_says_rest(s)) {
        link_answer(s, how, size > 200 ? (size - 199) * 330 : size, first, which >= 192);
    }
}

static void act_link_raw(void)
{
    unsigned char bytes[256];
    unsigned which = next_byte(), n = next_byte();
    struct sock *s = pick_link(which);
    for (unsigned i = 0; i < n; i++) {
        bytes[i] = (unsigned char)next_byte();
    }
    world.calm = false;
    if (s != NULL && n > 0) {
        struct asked *r = ends[s - socks].client < CLIENTS && ends[s - socks].wire.used > 0 ? asked_at(&ends[s - socks]) : NULL;
        if (r != NULL) {
            r->murky = true;
        }
        ends[s - socks].murky = true;
        link_says(s, bytes, n);
    }
}

static void act_link(void)
{
    unsigned which = next_byte(), how = next_byte() % 8, number = how == 4 || how == 6 ? next_byte() : 0;
    struct sock *s = pick_link(which);
    if (s == NULL) {
        return;
    }
    world.calm = world.calm && how >= 4 && how < 6;
    if (how < 3) {
        sock_end(s, how == 1);
    } else if (how == 3) {
        ends[s - socks].mute = true;
    } else if (how < 6) {
        s->piece = how == 4 ? 1 + number : SIZE_MAX;
    } else {
        s->room = how == 6 ? number : SIZE_MAX;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static void (*const actions[])(void) = { act_hello, act_command, act_client_raw, act_client, act_answer, act_link_raw,
                                             act_link, act_node, act_time, act_command, act_answer, act_command };
    static bool booted;
    if (!booted) {
        booted = true;
        nodes_calm();
        boot(set_up);
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
