/* clients.c - thousands of clients, each with a loop of its own, that look at every byte of every answer.
 *
 *   hello -> a cursor opened and a transaction begun, both kept -> (all are there) -> loop -> cursors killed, sessions ended -> gone
 *
 *   loop: find, aggregate (cursors are left open) - getMore, killCursors - insert, update, insert without an answer - ping -
 *         transactions of three statements, committed (now and then twice) or aborted - idle - connect anew - leave amid an answer
 *
 * Until every client holds a cursor and a transaction, none goes on: a proxy on which either of them held a connection would never get
 * there. Cursors and sessions outlive the connection that began them. The first wrong answer ends the run.
 *
 * Where mongos may fail (`faults`), errors that tell so are no wrong answers, if they have the label that makes a driver do the right
 * thing: what was open is given up, all else goes on and is looked at as closely as ever.
 */
#include "crowd.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN 4               /* cursors that a client has open at once */
#define STATEMENTS 3         /* of a transaction, getMores not counted */
#define LONGEST_IDLE_US 40000

#define KINDS(X) \
    X(HELLO, "hello") X(FIND, "find") X(AGGREGATE, "aggregate") X(GETMORE, "getMore") X(KILL, "killCursors") X(INSERT, "insert") \
    X(UNACKNOWLEDGED, "unacknowledged") X(UPDATE, "update") X(PING, "ping") X(COMMIT, "commitTransaction") X(ABORT, "abortTransaction") \
    X(END, "endSessions")

enum kind {
#define X(name, text) ASK_##name,
    KINDS(X)
#undef X
    KIND_COUNT
};

static const char *const kind_names[] = {
#define X(name, text) text,
    KINDS(X)
#undef X
};

enum stage { GREETS, OPENS, BEGINS, STANDS, LOOPS, LEAVES, GONE };

struct held { int64_t id, mark; int32_t at, total, size; uint8_t session; bool in_txn; }; /* a cursor; id 0: none */

/* Session 0 is the one for transactions. */
struct client {
    struct side *side;
    int32_t number;
    uint64_t chance;
    uint8_t stage, kind;      /* kind: of the last request */
    bool waits;               /* for its answer */
    bool silent;              /* that one gets none, and nothing after it was answered yet */
    int32_t request_id;
    int64_t mark;
    uint64_t asked_us;
    uint8_t session;          /* of the last request */
    struct held *cursor;      /* of the last getMore */
    struct held opening;      /* of the last find */
    int32_t sent_batch, documents;
    size_t sent_bytes;        /* of the last request */
    bool documents_first;     /* in that one they stand before the command */
    int64_t killed[OPEN];
    int kill_count;
    bool kills_unknown;
    struct held held[OPEN];
    int64_t txn, writes;
    int32_t statements, steps; /* of the transaction: as the server counts them; 0 steps: none is open */
    bool in_txn;              /* the last request belongs to it */
    bool again;               /* a commit is sent for the second time */
};

static struct client clients[CLIENTS];
static int count, standing, left;
static int server_port, patience;
static uint32_t vanishing;
static bool faults;
static long wanted, answers, reconnects, vanished, lost, per_kind[KIND_COUNT];
static struct { int64_t code; long count; } errors[] = { { 6, 0 }, { 43, 0 }, { 89, 0 }, { 251, 0 } }; /* that a failing mongos may cause */
static long silent_count;
static int64_t silent_sum;
static int exit_code;
static uint64_t begun_us, stood_us, heard_us;
static volatile bool over;

static void wrong(const struct client *c, const char *format, ...)
{
    va_list args;

    if (exit_code != 0)
        return;
    printf("WRONG: client %d, %s of %zu bytes with mark %lld, session %d%s%s, after %llu us: ", (int)c->number, kind_names[c->kind], c->sent_bytes,
           (long long)c->mark, c->session, c->in_txn ? ", in a transaction" : "", c->documents_first ? ", documents first" : "",
           (unsigned long long)(now_us() - c->asked_us));
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    exit_code = 1;
    over = true;
}

/* ------------------------------------------------------------ requests */

static void lsid_of(const struct client *c, int session, unsigned char lsid[16])
{
    memcpy(lsid, "sessionsofcrowds", 16);
    bson_put32(lsid, (uint32_t)(c->number * SESSIONS + session));
    bson_put32(lsid + 4, ((uint32_t)c->number + 1) * 2654435761U);
}

static void begin(struct client *c, struct bson *b, enum kind kind, int session, uint32_t flags)
{
    static unsigned char out[MESSAGE];

    c->kind = (uint8_t)kind;
    c->documents_first = false;
    c->session = (uint8_t)session;
    c->mark = ((int64_t)c->number + 1) << 32 | (uint32_t)((uint32_t)c->mark + 1);
    c->request_id = (int32_t)((uint32_t)c->request_id + 1 + dice(&c->chance, 1000)) & INT32_MAX;
    mongomsg_begin(b, out, sizeof out, WIRE_OP_MSG, flags, c->request_id, 0);
}

/* The fields that stand behind those of the command itself. */
static void common(struct client *c, struct bson *b, const char *db, bool with_session)
{
    unsigned char lsid[16];

    if (with_session) {
        lsid_of(c, c->session, lsid);
        bson_document(b, "lsid");
        bson_binary(b, "id", 4, lsid, 16);
        bson_close(b);
    }
    if (c->in_txn) {
        bson_int64(b, "txnNumber", c->txn);
        bson_bool(b, "autocommit", false);
        if (c->statements == 1)
            bson_bool(b, "startTransaction", true);
    } else if (with_session && (c->kind == ASK_INSERT || c->kind == ASK_UPDATE)) {
        bson_int64(b, "txnNumber", ++c->writes);
    }
    bson_string(b, "$db", db);
    bson_int64(b, "mark", c->mark);
}

static void go(struct client *c, const unsigned char *p, size_t n)
{
    if (n == 0)
        die("a request without room");
    c->waits = c->kind != ASK_UNACKNOWLEDGED;
    c->silent = !c->waits;
    c->asked_us = now_us();
    c->sent_bytes = n;
    side_send(c->side, p, n);
}

static void send_it(struct client *c, struct bson *b)
{
    unsigned char *out = b->out;

    go(c, out, mongomsg_finish(b));
}

static void ask_hello(struct client *c)
{
    struct bson b;

    c->in_txn = false;
    begin(c, &b, ASK_HELLO, 0, 0);
    bson_int32(&b, "hello", 1);
    bson_bool(&b, "helloOk", true);
    bson_document(&b, "client");
    bson_document(&b, "application");
    bson_string(&b, "name", "crowd");
    bson_close(&b);
    bson_document(&b, "driver");
    bson_string(&b, "name", "crowd");
    bson_string(&b, "version", "1");
    bson_close(&b);
    bson_document(&b, "os");
    bson_string(&b, "type", "any");
    bson_close(&b);
    bson_close(&b);
    bson_array(&b, "compression");
    bson_close(&b);
    bson_string(&b, "$db", "admin");
    send_it(c, &b);
}

static struct held *free_place(struct client *c)
{
    for (struct held *h = c->held; h < c->held + OPEN; h++)
        if (h->id == 0)
            return h;
    return NULL;
}

/* Most texts are short; of a hundred one is as long as 100,000 bytes. */
static int32_t some_size(struct client *c)
{
    switch (dice(&c->chance, 100)) {
    case 0: return 20000 + (int32_t)dice(&c->chance, FILLER - 20000);
    case 1: case 2: case 3: return 2000 + (int32_t)dice(&c->chance, 8000);
    default: return 20 + (int32_t)dice(&c->chance, 600);
    }
}

/* A find or an aggregate of some documents, a few at a time. */
static void ask_find(struct client *c, enum kind kind, int session, bool stays_open)
{
    struct bson b;
    const int32_t size = some_size(c), most = size > 5000 ? 2 : 6;

    c->sent_batch = 1 + (int32_t)dice(&c->chance, (uint32_t)most);
    begin(c, &b, kind, session, 0);
    c->opening = (struct held){ .mark = c->mark, .size = size, .session = (uint8_t)session, .in_txn = c->in_txn,
                                .total = stays_open ? c->sent_batch + 5 : (int32_t)dice(&c->chance, (uint32_t)most * 4) };
    bson_string(&b, kind_names[kind], "numbers");
    if (kind == ASK_FIND) {
        bson_document(&b, "filter");
    } else {
        bson_array(&b, "pipeline");
        bson_document(&b, NULL);
        bson_document(&b, "$crowd");
    }
    bson_int32(&b, "total", c->opening.total);
    bson_int32(&b, "size", size);
    bson_close(&b);
    if (kind == ASK_AGGREGATE) {
        bson_close(&b);
        bson_close(&b);
        bson_document(&b, "cursor");
    }
    bson_int32(&b, "batchSize", c->sent_batch);
    if (kind == ASK_AGGREGATE)
        bson_close(&b);
    common(c, &b, "crowd", true);
    send_it(c, &b);
}

static void ask_more(struct client *c, struct held *h)
{
    struct bson b;

    c->cursor = h;
    c->sent_batch = 1 + (int32_t)dice(&c->chance, h->size > 5000 ? 2 : 8);
    begin(c, &b, ASK_GETMORE, h->session, dice(&c->chance, 4) == 0 ? WIRE_EXHAUST_ALLOWED : 0);
    bson_int64(&b, "getMore", h->id);
    bson_string(&b, "collection", "numbers");
    bson_int32(&b, "batchSize", c->sent_batch);
    common(c, &b, "crowd", true);
    send_it(c, &b);
}

/* All cursors of one session, and now and then one that nobody has. */
static void ask_kill(struct client *c, int session)
{
    struct bson b;

    c->in_txn = false;
    c->kill_count = 0;
    c->kills_unknown = dice(&c->chance, 8) == 0;
    begin(c, &b, ASK_KILL, session, 0);
    bson_string(&b, "killCursors", "numbers");
    bson_array(&b, "cursors");
    for (struct held *h = c->held; h < c->held + OPEN; h++)
        if (h->id != 0 && h->session == session) {
            bson_int64(&b, NULL, h->id);
            c->killed[c->kill_count++] = h->id;
            h->id = 0;
        }
    if (c->kills_unknown)
        bson_int64(&b, NULL, c->mark);
    bson_close(&b);
    common(c, &b, "crowd", true);
    send_it(c, &b);
}

/* The documents that belong to the mark, as a section of their own. */
static size_t put_sequence(struct client *c, unsigned char *out, size_t cap, int32_t size)
{
    const bool insert = c->kind != ASK_UPDATE;
    const char *name = insert ? "documents" : "updates";
    size_t at = 5 + strlen(name) + 1;
    struct bson b;

    out[0] = 1;
    memcpy(out + 5, name, strlen(name) + 1);
    for (int32_t i = 0; i < c->documents; i++) {
        bson_start(&b, out + at, cap - at);
        bson_document(&b, NULL);
        bson_int64(&b, insert ? "_id" : "q", c->mark + i);
        if (!insert)
            bson_document(&b, "u");
        bson_string_n(&b, "text", filler(c->mark + i, (size_t)size), (size_t)size);
        if (!insert)
            bson_close(&b);
        bson_close(&b);
        at += b.len;
    }
    bson_put32(out + 1, (uint32_t)(at - 1));
    return at;
}

/* Drivers send the documents behind the command; the protocol allows them to stand before it, too. */
static void ask_write(struct client *c, enum kind kind, int session)
{
    static unsigned char sequence[MESSAGE / 2];
    const int32_t size = some_size(c);
    const bool acknowledged = kind != ASK_UNACKNOWLEDGED;
    struct wire_header h;
    unsigned char *out;
    size_t n, at = WIRE_HEADER + 4;
    struct bson b;

    c->documents = 1 + (int32_t)dice(&c->chance, size > 5000 ? 2 : 4);
    begin(c, &b, kind, session, acknowledged ? 0 : WIRE_MORE_TO_COME);
    bson_string(&b, kind == ASK_UPDATE ? "update" : "insert", "numbers");
    bson_bool(&b, "ordered", true);
    common(c, &b, "crowd", acknowledged);
    out = b.out;
    n = mongomsg_finish(&b);
    h = wire_header_get(out);
    h.length = (uint32_t)(n + put_sequence(c, sequence, sizeof sequence, size));
    c->documents_first = dice(&c->chance, 10) == 0 && h.length < 4096;
    if (c->documents_first)
        memmove(out + at + (h.length - n), out + at, n - at);
    else
        at = n;
    memcpy(out + at, sequence, h.length - n);
    wire_header_put(out, &h);
    if (!acknowledged) {
        silent_count++;
        silent_sum += c->mark;
        per_kind[ASK_UNACKNOWLEDGED]++;
    }
    go(c, out, h.length);
}

static void ask_small(struct client *c, enum kind kind, int session)
{
    struct bson b;
    unsigned char lsid[16];

    begin(c, &b, kind, session, 0);
    if (kind == ASK_END) {
        bson_array(&b, "endSessions");
        for (int i = 0; i < SESSIONS; i++) {
            lsid_of(c, i, lsid);
            bson_document(&b, NULL);
            bson_binary(&b, "id", 4, lsid, 16);
            bson_close(&b);
        }
        bson_close(&b);
    } else {
        bson_int32(&b, kind_names[kind], 1);
    }
    common(c, &b, "admin", kind == ASK_COMMIT || kind == ASK_ABORT);
    send_it(c, &b);
}

/* ----------------------------------------------------- what is asked next */

/* Counts the statement that is about to be sent. */
static void in_transaction(struct client *c)
{
    if (c->steps == 0) {
        c->txn++;
        c->statements = 0;
    }
    c->in_txn = true;
    c->statements++;
}

static struct held *cursor_of_transaction(struct client *c)
{
    for (struct held *h = c->held; h < c->held + OPEN; h++)
        if (h->id != 0 && h->in_txn)
            return h;
    return NULL;
}

static void step_transaction(struct client *c)
{
    struct held *h = cursor_of_transaction(c);

    if (h != NULL || c->steps < STATEMENTS)
        in_transaction(c);
    if (h != NULL) {
        ask_more(c, h);
        return;
    }
    if (c->steps == STATEMENTS) {
        c->in_txn = true;
        ask_small(c, !c->again && dice(&c->chance, 4) == 0 ? ASK_ABORT : ASK_COMMIT, 0);
        return;
    }
    c->steps++;
    switch (free_place(c) != NULL ? dice(&c->chance, 3) : 0) {
    case 0: ask_write(c, ASK_INSERT, 0); break;
    case 1: ask_write(c, ASK_UPDATE, 0); break;
    default: ask_find(c, ASK_FIND, 0, false);
    }
}

static void connect_anew(struct client *c)
{
    side_close(c->side);
    c->side = side_connect(server_port, c);
    c->waits = false;
    ask_hello(c);
}

static void leave(struct client *c)
{
    struct held *h = c->held;

    c->in_txn = false;
    while (h < c->held + OPEN && h->id == 0)
        h++;
    if (h < c->held + OPEN) {
        ask_kill(c, h->session);
    } else if (c->kind != ASK_END) {
        ask_small(c, ASK_END, 0);
    } else {
        c->stage = GONE;
        side_close(c->side);
        over |= ++left == count;
    }
}

static void ask_any(struct client *c)
{
    const int session = 1 + (int)dice(&c->chance, SESSIONS - 1);
    struct held *h = &c->held[dice(&c->chance, OPEN)];
    const uint32_t what = dice(&c->chance, 100);

    c->in_txn = false;
    if (h->id != 0 && !h->in_txn && what < 60)
        ask_more(c, h);
    else if (what < 35 && free_place(c) != NULL)
        ask_find(c, what < 25 ? ASK_FIND : ASK_AGGREGATE, session, false);
    else if (what < 70)
        ask_write(c, what < 55 ? ASK_INSERT : ASK_UPDATE, session);
    else if (what < 78)
        ask_write(c, ASK_UNACKNOWLEDGED, session);
    else if (what < 83)
        ask_kill(c, session);
    else if (what < 86)
        ask_small(c, ASK_PING, session);
    else
        step_transaction(c);
}

static void next(struct client *c)
{
    if (c->stage == LOOPS && answers >= wanted && c->steps == 0)
        c->stage = LEAVES;
    if (c->stage == LEAVES) {
        leave(c);
    } else if (c->stage == OPENS) {
        ask_find(c, ASK_FIND, 1, true);
    } else if (c->stage == BEGINS) {
        in_transaction(c);
        c->steps++;
        ask_write(c, ASK_INSERT, 0);
    } else if (dice(&c->chance, 12) == 0 && answers < wanted) {
        c->side->wake_us = now_us() + 1 + dice(&c->chance, LONGEST_IDLE_US);
    } else if (dice(&c->chance, 1000) == 0 && !c->silent) {
        reconnects++;
        connect_anew(c);
    } else if (c->steps != 0 && (dice(&c->chance, 3) != 0 || answers >= wanted)) {
        step_transaction(c);
    } else {
        ask_any(c);
    }
    if (c->kind == ASK_UNACKNOWLEDGED && c->silent && c->side->wake_us == 0)
        c->side->wake_us = now_us();
    if (c->waits && c->stage == LOOPS && dice(&c->chance, 100000) < vanishing)
        c->side->wake_us = now_us() + dice(&c->chance, 2000);
}

/* --------------------------------------------------------------- answers */

static int64_t number_of(const struct bson_reader *r, const char *path, int64_t otherwise)
{
    struct bson_element e;
    int64_t v;

    return bson_find(r, path, &e) && bson_number(&e, &v) ? v : otherwise;
}

/* The batch has the documents that are due, in order, and the cursor is open exactly when more are to come. */
static void check_batch(struct client *c, const struct bson_reader *r, struct held *h, const char *name)
{
    const int32_t due = h->total - h->at < c->sent_batch ? h->total - h->at : c->sent_batch;
    const int64_t id = number_of(r, "cursor.id", -1);
    struct bson_reader batch;
    struct bson_element e;
    int32_t came = 0;

    if (!bson_find(r, name, &e)) {
        wrong(c, "it has no %s", name);
        return;
    }
    for (batch = bson_enter(&e); bson_next(&batch, &e); came++) {
        const struct bson_reader d = bson_enter(&e);
        struct bson_element text;
        size_t n = 0;
        const char *p = bson_find(&d, "text", &text) ? bson_text(&text, &n) : NULL;
        if (number_of(&d, "_id", -1) != h->at + came || number_of(&d, "mark", -1) != h->mark || p == NULL || n != (size_t)h->size ||
            memcmp(p, filler(h->mark + h->at + came, n), n) != 0)
            wrong(c, "document %d of the batch has _id %lld, mark %lld and a text of %zu bytes; due were %d, %lld and a text of %d bytes%s", (int)came,
                  (long long)number_of(&d, "_id", -1), (long long)number_of(&d, "mark", -1), n, (int)(h->at + came), (long long)h->mark,
                  (int)h->size, p != NULL && n == (size_t)h->size ? ", perhaps with other letters" : "");
    }
    if (came != due)
        wrong(c, "%d documents, due were %d", (int)came, (int)due);
    h->at += came;
    if ((h->at < h->total) != (id != 0) || (c->kind == ASK_GETMORE && id != 0 && id != h->id))
        wrong(c, "cursor %lld, it was %lld, at %d of %d", (long long)id, (long long)h->id, (int)h->at, (int)h->total);
    h->id = id;
}

static int ids_in(const struct bson_reader *r, const char *name, int64_t id)
{
    struct bson_element e;
    struct bson_reader list;
    int64_t one;
    int found = 0;

    if (bson_find(r, name, &e))
        for (list = bson_enter(&e); bson_next(&list, &e) && bson_number(&e, &one);)
            found += one == id;
    return found;
}

static void check_killed(struct client *c, const struct bson_reader *r)
{
    /* With its mongos a cursor may be lost. */
    for (int i = 0; i < c->kill_count; i++)
        if (ids_in(r, "cursorsKilled", c->killed[i]) + ids_in(r, "cursorsNotFound", c->killed[i]) != 1 ||
            (!faults && ids_in(r, "cursorsKilled", c->killed[i]) != 1))
            wrong(c, "cursor %lld is not killed once", (long long)c->killed[i]);
    if (c->kills_unknown && (ids_in(r, "cursorsNotFound", c->mark) != 1 || ids_in(r, "cursorsKilled", c->mark) != 0))
        wrong(c, "the cursor that nobody has is not once among those that were not found");
}

/* The transaction's own account of its statements is the client's. */
static void check_transaction(struct client *c, const struct bson_reader *r)
{
    if (c->kind == ASK_COMMIT || c->kind == ASK_ABORT) {
        if (number_of(r, "statements", -1) != c->statements)
            wrong(c, "%lld statements, sent were %d", (long long)number_of(r, "statements", -1), (int)c->statements);
        c->again = c->kind == ASK_COMMIT && !c->again && dice(&c->chance, 4) == 0;
        if (!c->again)
            c->steps = 0;
    } else if (number_of(r, "statement", -1) != (c->in_txn ? c->statements : 0)) {
        wrong(c, "statement %lld, sent was %d", (long long)number_of(r, "statement", -1), (int)c->statements);
    }
}

static void check_echo(struct client *c, const struct bson_reader *r, const struct wire *w)
{
    unsigned char lsid[16];
    struct bson_element e, text;
    size_t n = 0;
    const bool session = c->kind != ASK_PING && c->kind != ASK_END;

    if (number_of(r, "ok", 0) != 1) {
        const char *why = bson_find(r, "errmsg", &text) ? bson_text(&text, &n) : NULL;
        wrong(c, "error %lld: %.*s", (long long)number_of(r, "code", 0), (int)n, why != NULL ? why : "");
    }
    if (w->header.response_to != c->request_id)
        wrong(c, "an answer to request %ld, %ld was asked", (long)w->header.response_to, (long)c->request_id);
    /* What a proxy may answer itself need not repeat anything. */
    if (!session)
        return;
    lsid_of(c, c->session, lsid);
    if (c->kind != ASK_KILL && number_of(r, "mark", 0) != c->mark)
        wrong(c, "the answer has mark %lld", (long long)number_of(r, "mark", 0));
    if (c->kind != ASK_KILL && (!bson_find(r, "of", &e) || e.len != 21 || memcmp(e.value + 5, lsid, 16) != 0))
        wrong(c, "the answer is for another session");
}

/* What the last request was about cannot be known any more: it is given up. */
static void forget(struct client *c)
{
    if (c->kind == ASK_GETMORE)
        c->cursor->id = 0;
    if (!c->in_txn)
        return;
    c->steps = 0;
    c->again = false;
    for (struct held *h = c->held; h < c->held + OPEN; h++)
        if (h->in_txn)
            h->id = 0;
}

static bool has_label(const struct bson_reader *r, const char *label)
{
    struct bson_element e;
    struct bson_reader list;
    const char *text;
    size_t n;

    if (bson_find(r, "errorLabels", &e))
        for (list = bson_enter(&e); bson_next(&list, &e);)
            if ((text = bson_text(&e, &n)) != NULL && strcmp(text, label) == 0)
                return true;
    return false;
}

/* The answer is an error that a mongos which fails may cause. */
static bool excused(struct client *c, const struct bson_reader *r, const struct wire *w)
{
    const bool transient = has_label(r, "TransientTransactionError"), retryable = has_label(r, "RetryableWriteError");
    const bool ends = c->kind == ASK_COMMIT || c->kind == ASK_ABORT, in_txn = c->in_txn && !ends;
    const bool writes = !c->in_txn && (c->kind == ASK_INSERT || c->kind == ASK_UPDATE);
    const int64_t code = number_of(r, "code", 0);

    if (!faults || number_of(r, "ok", 0) == 1 || w->header.response_to != c->request_id)
        return false;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (errors[i].code == code)
            errors[i].count++;
    if (code == 6 || code == 89) {
        if (transient != in_txn || retryable != (writes || ends))
            wrong(c, "error %lld with labels that lead astray: transient %d, retryable %d", (long long)code, transient, retryable);
        return true;
    }
    return (code == 43 && c->kind == ASK_GETMORE) || (code == 251 && c->in_txn && (transient || c->kind == ASK_ABORT));
}

static void check(struct client *c, const struct bson_reader *r, const struct wire *w)
{
    struct held *h;

    check_echo(c, r, w);
    if (c->kind == ASK_FIND || c->kind == ASK_AGGREGATE) {
        check_batch(c, r, &c->opening, "cursor.firstBatch");
        if (c->opening.id != 0 && (h = free_place(c)) != NULL)
            *h = c->opening;
    } else if (c->kind == ASK_GETMORE) {
        check_batch(c, r, c->cursor, "cursor.nextBatch");
    } else if (c->kind == ASK_KILL) {
        check_killed(c, r);
    } else if ((c->kind == ASK_INSERT || c->kind == ASK_UPDATE) && number_of(r, "n", -1) != c->documents) {
        wrong(c, "n is %lld, sent were %d", (long long)number_of(r, "n", -1), (int)c->documents);
    }
    if (c->kind != ASK_KILL && c->kind != ASK_PING && c->kind != ASK_END)
        check_transaction(c, r);
}

/* When all of them hold what they are to hold, they go on. */
static void stand(struct client *c)
{
    c->stage = STANDS;
    if (++standing < count)
        return;
    stood_us = now_us();
    for (int i = 0; i < count; i++) {
        clients[i].stage = LOOPS;
        clients[i].side->wake_us = stood_us + dice(&c->chance, 1000);
    }
}

static void heard(struct side *s, const unsigned char *msg, size_t n, const struct wire *w)
{
    struct client *c = s->owner;
    const struct bson_reader r = mongomsg_document(msg, n);
    struct bson_element e;

    if (exit_code != 0)
        return;
    if (!c->waits) {
        wrong(c, "an answer, but nothing is asked");
        return;
    }
    heard_us = now_us();
    c->waits = false;
    s->wake_us = 0;
    if (c->kind == ASK_HELLO) {
        if (number_of(&r, "ok", 0) != 1 || !wire_has(w, WIRE_ISDBGRID) || wire_has(w, WIRE_COMPRESSION) || !bson_find(&r, "isWritablePrimary", &e))
            wrong(c, "not the hello of a mongos");
        if (c->stage == GREETS)
            c->stage = OPENS;
    } else if (excused(c, &r, w)) {
        forget(c);
    } else {
        took(heard_us - c->asked_us);
        answers++;
        check(c, &r, w);
        if (c->stage == OPENS)
            c->stage = BEGINS;
        else if (c->stage == BEGINS)
            stand(c);
    }
    per_kind[c->kind]++;
    if (c->stage != STANDS && s->wake_us == 0 && exit_code == 0)
        next(c);
}

/* A request is left without waiting for its answer. */
static void vanish(struct client *c)
{
    vanished++;
    forget(c);
    connect_anew(c);
}

static void woken(struct side *s)
{
    struct client *c = s->owner;

    if (c->waits)
        vanish(c);
    else
        next(c);
}

static void gone(struct side *s)
{
    struct client *c = s->owner;

    if (!faults) {
        wrong(c, "the connection was closed");
        side_close(s);
        return;
    }
    lost++;
    if (c->waits)
        forget(c);
    connect_anew(c);
}

/* No answer for so long: nothing moves any more, or one client was forgotten. */
static void turned(void)
{
    static uint64_t looked_us;
    const uint64_t now = now_us();

    if (now - looked_us < 500000)
        return;
    looked_us = now;
    for (int i = 0; i < count && exit_code == 0; i++)
        if (clients[i].waits && clients[i].stage != GONE && now - clients[i].asked_us > (uint64_t)patience * 1000000)
            wrong(&clients[i], "no answer; %d of %d stand, %ld answers came", standing, count, answers);
}

static void tell(void)
{
    const uint64_t end = now_us();

    printf("held cursors %d transactions %d seconds %.2f\n", standing, standing, stood_us != 0 ? (double)(stood_us - begun_us) / 1e6 : -1.0);
    for (int i = 0; i < KIND_COUNT; i++)
        printf("%s %ld%s", kind_names[i], per_kind[i], i + 1 < KIND_COUNT ? " " : "\n");
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        printf("error %lld x %ld%s", (long long)errors[i].code, errors[i].count, i + 1 < sizeof errors / sizeof errors[0] ? " " : "\n");
    printf("unacknowledged %ld sum %lld\n", silent_count, (long long)silent_sum);
    printf("p50 %llu us p99 %llu us longest %llu us\n", (unsigned long long)took_share(0.5), (unsigned long long)took_share(0.99),
           (unsigned long long)took_share(1.0));
    printf("answers %ld wrong %d reconnects %ld vanished %ld lost %ld seconds %.2f\n", answers, exit_code, reconnects, vanished, lost,
           (double)(end - begun_us) / 1e6);
}

int crowd(int port, int clients_wanted, long answers_wanted, uint64_t seed, uint32_t vanish_share, int seconds, bool with_faults)
{
    static const struct side_ops ops = { NULL, heard, gone, woken, turned };

    if (clients_wanted < 1 || clients_wanted > CLIENTS)
        return 64;
    server_port = port;
    count = clients_wanted;
    wanted = answers_wanted;
    vanishing = vanish_share;
    patience = seconds;
    faults = with_faults;
    begun_us = now_us();
    for (int i = 0; i < count; i++) {
        struct client *c = &clients[i];
        c->number = i;
        c->chance = (seed << 20 | (uint64_t)i) * 2 + 1;
        c->side = side_connect(port, c);
        ask_hello(c);
    }
    sides_run(&ops, &over);
    tell();
    return exit_code;
}
