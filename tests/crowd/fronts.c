/* fronts.c - several mongos in one process, as strict as the real ones about what each of them knows.
 *
 *   front 0: its connections, its cursors, its transactions     a cursor of another front: 43, of another session: 50800
 *   front 1: ...                                                a transaction of another front: 251
 *
 * Cursor ids count from the same number on every front, so that those of different sessions collide. Every answer repeats the request's mark and lsid. What a
 * mongos would never see of a good proxy is counted as wrong: a second request while the first is not answered, client metadata twice on
 * one connection, exhaustAllowed, a document that is not the one its mark belongs to.
 *
 * At SIGUSR2 one of them, the next each time, dies and comes back after a while as another process: without its connections, which break
 * off amid their answers, and without its cursors and transactions.
 *
 * It can be told to lie, so that the clients themselves can be tested: one answer in about 100 is then wrong in the one way that was named.
 */
#include "crowd.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FRONTS 16
#define CURSORS 65536         /* of each front; a power of two */
#define FIRST_CURSOR 1000000
#define AWAIT_US 10000000     /* an awaitable hello is answered after so long at the latest */
#define AWAY_US 200000        /* so long a front is away that dies */

enum phase { TXN_NONE, TXN_OPEN, TXN_COMMITTED, TXN_ABORTED };

struct open_cursor { int64_t id, mark; unsigned char lsid[16]; int32_t at, total, size; };
struct session { int64_t txn; int32_t statements; uint8_t phase; };

static struct front {
    struct side *listener;
    int port;
    uint64_t back_us;                           /* it has died, and listens again then; 0: it is there */
    int64_t last_id;
    struct open_cursor cursors[CURSORS];        /* id 0: free */
    struct session sessions[CLIENTS * SESSIONS];
} *fronts;

/* One connection to a front. */
static struct link {
    struct front *front;
    struct side *side;        /* NULL: this entry is free */
    bool greeted, works;      /* client metadata has come; anything but a greeting has */
    bool waits;               /* an answer is to come: held until wake_us, or cut off */
    bool awaits;              /* that answer is to an awaitable hello */
    struct wire_header asked; /* to it */
    unsigned char *held;
    size_t held_len;
} links[SIDES];

static int front_count, next_to_die, free_links[SIDES], free_count;
static uint32_t jitter;
static const char *lie = "none";
static uint64_t chance = 88172645463325252U;
static struct {
    long open, works, most_open, most_works, asked, cursors, transactions, unacknowledged, exhaust, awaited, wrong;
    int64_t sum; /* of the marks of what was not to be acknowledged */
} seen;
static volatile sig_atomic_t signalled, tell, dies;
static volatile bool over;

static void wrong(const char *what, const struct wire *w)
{
    if (seen.wrong++ < 10)
        fprintf(stderr, "wrong: %s (%s, request %ld)\n", what, w->command, (long)w->header.request_id);
}

static bool lies(const char *about)
{
    return strcmp(lie, about) == 0 && dice(&chance, 100) == 0;
}

/* ---------------------------------------------------- what was asked */

/* A request beside its walk. */
struct request {
    const struct wire *w;
    struct bson_reader doc;
    const unsigned char *sequence; /* the documents of the one sequence that there may be */
    size_t sequence_len;
    int64_t mark;
    struct front *front;
};

static int64_t number_of(const struct bson_reader *r, const char *path, int64_t otherwise)
{
    struct bson_element e;
    int64_t v;

    return bson_find(r, path, &e) && bson_number(&e, &v) ? v : otherwise;
}

static struct request request_of(const struct wire *w, const unsigned char *msg, size_t n, struct front *f)
{
    struct request q = { .w = w, .front = f };

    q.doc = mongomsg_document(msg, n);
    if (w->header.opcode == WIRE_OP_MSG)
        for (size_t at = WIRE_HEADER + 4; at < n; at += 1 + bson_get32(msg + at + 1))
            if (msg[at] == 1) {
                size_t name = strlen((const char *)msg + at + 5) + 1;
                q.sequence_len = bson_get32(msg + at + 1) - 4 - name;
                q.sequence = msg + at + 5 + name;
            }
    q.mark = number_of(&q.doc, "mark", 0);
    return q;
}

static struct session *session_of(const struct request *q)
{
    uint32_t i = bson_get32(q->w->lsid);

    if (!wire_has(q->w, WIRE_LSID) || i >= CLIENTS * SESSIONS)
        return NULL;
    return &q->front->sessions[i];
}

/* ------------------------------------------------------------ answers */

static void end_answer(struct bson *b, const struct request *q)
{
    unsigned char lsid[16];

    memcpy(lsid, q->w->lsid, 16);
    lsid[15] ^= lies("session");
    bson_int64(b, "mark", q->mark + lies("mark"));
    if (wire_has(q->w, WIRE_LSID))
        bson_binary(b, "of", 4, lsid, 16);
    bson_double(b, "ok", 1.0);
}

static size_t refuse(const struct request *q, unsigned char *out, int32_t code, const char *text, const char *label)
{
    struct bson b;

    mongomsg_begin_answer(&b, out, MESSAGE, &q->w->header, 1);
    bson_double(&b, "ok", 0.0);
    bson_string(&b, "errmsg", text);
    bson_int32(&b, "code", code);
    if (label != NULL) {
        bson_array(&b, "errorLabels");
        bson_string(&b, NULL, label);
        bson_close(&b);
    }
    bson_int64(&b, "mark", q->mark);
    return mongomsg_finish(&b);
}

static size_t greet(const struct wire_header *h, unsigned char *out)
{
    static const unsigned char process[12] = "crowd-mongos";
    struct bson b;

    mongomsg_begin_answer(&b, out, MESSAGE, h, 1);
    bson_bool(&b, "helloOk", true);
    bson_bool(&b, "ismaster", true);
    bson_bool(&b, "isWritablePrimary", true);
    bson_string(&b, "msg", "isdbgrid");
    bson_document(&b, "topologyVersion");
    bson_object_id(&b, "processId", process);
    bson_int64(&b, "counter", 0);
    bson_close(&b);
    bson_int32(&b, "maxBsonObjectSize", 16777216);
    bson_int32(&b, "maxMessageSizeBytes", 48000000);
    bson_int32(&b, "maxWriteBatchSize", 100000);
    bson_int32(&b, "logicalSessionTimeoutMinutes", 30);
    bson_int32(&b, "connectionId", 1);
    bson_int32(&b, "minWireVersion", 0);
    bson_int32(&b, "maxWireVersion", 21);
    bson_bool(&b, "readOnly", false);
    bson_double(&b, "ok", 1.0);
    return mongomsg_finish(&b);
}

/* As many documents of the cursor as the batch may have. */
static void put_batch(struct bson *b, const char *name, struct open_cursor *c, int64_t size)
{
    bson_array(b, name);
    for (int64_t i = 0; i < size && c->at < c->total; i++, c->at++) {
        bson_document(b, NULL);
        c->at += lies("order");
        bson_int32(b, "_id", c->at);
        bson_int64(b, "mark", c->mark);
        bson_string_n(b, "text", filler(c->mark + c->at + lies("text"), (size_t)c->size), (size_t)c->size);
        bson_close(b);
    }
    bson_close(b);
}

static int64_t keep_cursor(struct front *f, const struct open_cursor *c)
{
    struct open_cursor *place;

    do
        place = &f->cursors[++f->last_id % CURSORS];
    while (place->id != 0);
    *place = *c;
    place->id = FIRST_CURSOR + f->last_id * FRONTS + (int64_t)((uint64_t)(f - fronts) + bson_get32(c->lsid)) % FRONTS;
    seen.cursors++;
    return place->id;
}

static struct open_cursor *find_cursor(struct front *f, int64_t id)
{
    struct open_cursor *c = &f->cursors[(uint64_t)(id - FIRST_CURSOR) / FRONTS % CURSORS];

    return id != 0 && c->id == id ? c : NULL;
}

/* --------------------------------------------------------- transactions */

/* Whether a statement may run; else the answer is written. `statement` is its number in the transaction, 0 outside of one. */
static bool admitted(const struct request *q, unsigned char *out, size_t *n, int32_t *statement)
{
    struct session *s = session_of(q);
    const int64_t txn = q->w->number[WIRE_TXN_NUMBER];

    *statement = 0;
    if (!wire_in_transaction(q->w))
        return true;
    if (s != NULL && wire_true(q->w, WIRE_START_TRANSACTION) && txn > s->txn) {
        *s = (struct session){ .txn = txn, .phase = TXN_OPEN };
        seen.transactions++;
    } else if (s == NULL || wire_true(q->w, WIRE_START_TRANSACTION) || s->txn != txn || s->phase != TXN_OPEN) {
        *n = refuse(q, out, 251, "no such transaction here", "TransientTransactionError");
        return false;
    }
    *statement = s->statements += 1 + lies("statement");
    return true;
}

static size_t end_transaction(const struct request *q, unsigned char *out, enum phase phase)
{
    struct session *s = session_of(q);
    struct bson b;

    /* A commit may be sent again. */
    if (s == NULL || !wire_in_transaction(q->w) || s->txn != q->w->number[WIRE_TXN_NUMBER] ||
        !(s->phase == TXN_OPEN || (phase == TXN_COMMITTED && s->phase == phase)))
        return refuse(q, out, 251, "no such transaction here", "TransientTransactionError");
    s->phase = (uint8_t)phase;
    mongomsg_begin_answer(&b, out, MESSAGE, &q->w->header, 1);
    bson_int32(&b, "statements", s->statements);
    end_answer(&b, q);
    return mongomsg_finish(&b);
}

/* -------------------------------------------------------------- commands */

static size_t find_or_aggregate(const struct request *q, unsigned char *out)
{
    const bool find = wire_is(q->w, "find");
    struct open_cursor c = { .mark = q->mark };
    int32_t statement;
    size_t n;
    struct bson b;

    if (!admitted(q, out, &n, &statement))
        return n;
    c.total = (int32_t)number_of(&q->doc, find ? "filter.total" : "pipeline.0.$crowd.total", 1);
    c.size = (int32_t)number_of(&q->doc, find ? "filter.size" : "pipeline.0.$crowd.size", 200);
    memcpy(c.lsid, q->w->lsid, 16);
    mongomsg_begin_answer(&b, out, MESSAGE, &q->w->header, 1);
    bson_document(&b, "cursor");
    put_batch(&b, "firstBatch", &c, number_of(&q->doc, find ? "batchSize" : "cursor.batchSize", 101));
    bson_int64(&b, "id", c.at < c.total ? keep_cursor(q->front, &c) : 0);
    bson_string(&b, "ns", "crowd.numbers");
    bson_close(&b);
    bson_int32(&b, "statement", statement);
    end_answer(&b, q);
    return mongomsg_finish(&b);
}

static size_t get_more(const struct request *q, unsigned char *out)
{
    struct open_cursor *c = find_cursor(q->front, q->w->number[WIRE_COMMAND]), copy;
    int32_t statement;
    size_t n;
    struct bson b;

    if (!admitted(q, out, &n, &statement))
        return n;
    if (c == NULL)
        return refuse(q, out, 43, "this mongos has no such cursor", NULL);
    if (!wire_has(q->w, WIRE_LSID) || memcmp(c->lsid, q->w->lsid, 16) != 0)
        return refuse(q, out, 50800, "the cursor belongs to another session", NULL);
    copy = *c;
    mongomsg_begin_answer(&b, out, MESSAGE, &q->w->header, 1);
    bson_document(&b, "cursor");
    /* The id comes first, as a mongos has it here, so it has to be known whether this is the last batch. */
    n = (size_t)number_of(&q->doc, "batchSize", 101);
    bson_int64(&b, "id", copy.at + (int64_t)n < copy.total ? copy.id : 0);
    bson_string(&b, "ns", "crowd.numbers");
    put_batch(&b, "nextBatch", &copy, (int64_t)n);
    bson_close(&b);
    bson_int32(&b, "statement", statement);
    end_answer(&b, q);
    *c = copy;
    if (c->at >= c->total)
        c->id = 0;
    return mongomsg_finish(&b);
}

/* The ids of `cursors` that this front has (killed), or has not. */
static void put_ids(struct bson *b, const char *name, const struct request *q, bool killed)
{
    struct bson_element e;
    struct bson_reader r;
    int64_t id;

    bson_array(b, name);
    if (bson_find(&q->doc, "cursors", &e))
        for (r = bson_enter(&e); bson_next(&r, &e) && bson_number(&e, &id);) {
            struct open_cursor *c = find_cursor(q->front, id);
            bool had = c != NULL && (!wire_has(q->w, WIRE_LSID) || memcmp(c->lsid, q->w->lsid, 16) == 0);
            if (had == killed && !lies("kill"))
                bson_int64(b, NULL, id);
        }
    bson_close(b);
}

static size_t kill_cursors(const struct request *q, unsigned char *out)
{
    struct bson_element e;
    struct bson_reader r;
    struct bson b;
    int64_t id;

    mongomsg_begin_answer(&b, out, MESSAGE, &q->w->header, 1);
    put_ids(&b, "cursorsKilled", q, true);
    put_ids(&b, "cursorsNotFound", q, false);
    bson_array(&b, "cursorsAlive");
    bson_close(&b);
    bson_array(&b, "cursorsUnknown");
    bson_close(&b);
    end_answer(&b, q);
    if (bson_find(&q->doc, "cursors", &e))
        for (r = bson_enter(&e); bson_next(&r, &e) && bson_number(&e, &id);) {
            struct open_cursor *c = find_cursor(q->front, id);
            if (c != NULL && (!wire_has(q->w, WIRE_LSID) || memcmp(c->lsid, q->w->lsid, 16) == 0))
                c->id = 0;
        }
    return mongomsg_finish(&b);
}

/* Documents of an insert, or the updates of an update: each has to be the one that the mark says. */
static int32_t count_documents(const struct request *q)
{
    const unsigned char *at = q->sequence;
    int32_t count = 0;

    for (size_t left = q->sequence_len; left > 4; count++) {
        struct bson_reader r = bson_read(at, left);
        struct bson_element e;
        size_t n = 0;
        const char *text = bson_find(&r, wire_is(q->w, "insert") ? "text" : "u.text", &e) ? bson_text(&e, &n) : NULL;
        if (text == NULL || n > FILLER || memcmp(text, filler(q->mark + count, n), n) != 0)
            wrong("a document is not as it was sent", q->w);
        left -= bson_get32(at);
        at += bson_get32(at);
    }
    return count;
}

static size_t write(const struct request *q, unsigned char *out)
{
    int32_t statement, count = count_documents(q);
    struct bson b;
    size_t n;

    if (wire_more_to_come(q->w)) {
        seen.unacknowledged += !lies("silence");
        seen.sum += q->mark;
        return 0;
    }
    if (!admitted(q, out, &n, &statement))
        return n;
    mongomsg_begin_answer(&b, out, MESSAGE, &q->w->header, 1);
    bson_int32(&b, "n", count);
    if (wire_is(q->w, "update"))
        bson_int32(&b, "nModified", count);
    bson_int32(&b, "statement", statement);
    end_answer(&b, q);
    return mongomsg_finish(&b);
}

static size_t say_ok(const struct request *q, unsigned char *out)
{
    struct bson b;

    mongomsg_begin_answer(&b, out, MESSAGE, &q->w->header, 1);
    if (wire_is(q->w, "buildInfo")) {
        bson_string(&b, "version", "7.0.0");
        bson_array(&b, "versionArray");
        for (int i = 0; i < 4; i++)
            bson_int32(&b, NULL, i == 0 ? 7 : 0);
        bson_close(&b);
    }
    end_answer(&b, q);
    return mongomsg_finish(&b);
}

static size_t answer(const struct request *q, unsigned char *out)
{
    static const struct { const char *command; size_t (*does)(const struct request *, unsigned char *); } commands[] = {
        { "find", find_or_aggregate }, { "aggregate", find_or_aggregate }, { "getMore", get_more }, { "killCursors", kill_cursors },
        { "insert", write }, { "update", write }, { "ping", say_ok }, { "endSessions", say_ok }, { "buildInfo", say_ok },
    };

    if (wire_is(q->w, "commitTransaction"))
        return end_transaction(q, out, TXN_COMMITTED);
    if (wire_is(q->w, "abortTransaction"))
        return end_transaction(q, out, TXN_ABORTED);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (wire_is(q->w, commands[i].command))
            return commands[i].does(q, out);
    return refuse(q, out, 59, "no such command", NULL);
}

/* ------------------------------------------------------------ connections */

static void accepted(struct side *listener, struct side *s)
{
    struct link *l = &links[free_links[--free_count]];

    s->number = (int32_t)(l - links);
    *l = (struct link){ .front = listener->owner, .side = s, .held = l->held };
    s->owner = l;
    seen.open++;
}

static void gone(struct side *s)
{
    struct link *l = s->owner;

    seen.open--;
    seen.works -= l->works;
    free_links[free_count++] = s->number;
    l->side = NULL;
    side_close(s);
}

static void die_now(struct front *f)
{
    if (f->back_us != 0)
        return;
    for (struct link *l = links; l < links + SIDES; l++)
        if (l->side != NULL && l->front == f) {
            if (l->waits)
                side_send(l->side, l->held, l->held_len / 2);
            gone(l->side);
        }
    side_close(f->listener);
    for (int i = 0; i < CURSORS; i++)
        f->cursors[i].id = 0;
    memset(f->sessions, 0, sizeof f->sessions);
    f->back_us = now_us() + AWAY_US;
}

static void come_back(void)
{
    for (struct front *f = fronts; f < fronts + front_count; f++)
        if (f->back_us != 0 && f->back_us <= now_us()) {
            f->back_us = 0;
            f->listener = side_listen(f->port, f);
        }
}

static void hold(struct side *s, struct link *l, const unsigned char *p, size_t n, uint32_t us)
{
    l->waits = true;
    l->held = realloc(l->held, MESSAGE);
    if (l->held == NULL)
        die("memory");
    memcpy(l->held, p, n);
    l->held_len = n;
    s->wake_us = now_us() + us;
}

static void woken(struct side *s)
{
    struct link *l = s->owner;

    l->waits = l->awaits = false;
    side_send(s, l->held, l->held_len);
}

static void heard_hello(struct side *s, struct link *l, const struct wire *w, unsigned char *out)
{
    if (wire_has(w, WIRE_CLIENT) && l->greeted)
        wrong("client metadata for the second time", w);
    l->greeted |= wire_has(w, WIRE_CLIENT);
    if (wire_has(w, WIRE_MAX_AWAIT_MS)) {
        int64_t us = w->number[WIRE_MAX_AWAIT_MS] * 1000;
        hold(s, l, out, greet(&w->header, out), us < AWAIT_US ? (uint32_t)us : AWAIT_US);
        seen.awaited++;
    } else {
        side_send(s, out, greet(&w->header, out));
    }
}

static void heard(struct side *s, const unsigned char *msg, size_t n, const struct wire *w)
{
    static unsigned char out[MESSAGE];
    struct link *l = s->owner;
    struct request q;

    if (l->waits)
        wrong("a request before the last one is answered", w);
    if (w->hello) {
        heard_hello(s, l, w, out);
        return;
    }
    seen.asked++;
    seen.exhaust += (w->flags & WIRE_EXHAUST_ALLOWED) != 0;
    if (!l->works) {
        l->works = true;
        seen.works++;
    }
    q = request_of(w, msg, n, l->front);
    n = answer(&q, out);
    bson_put32(out + 8, bson_get32(out + 8) + lies("request"));
    if ((n == 0) != wire_more_to_come(w))
        wrong("no room for an answer, or one that nobody waits for", w);
    else if (n != 0 && jitter != 0 && dice(&chance, 16) == 0)
        hold(s, l, out, n, dice(&chance, jitter));
    else if (n != 0)
        side_send(s, out, n);
}

/* What closed in this turn no longer counts: a proxy closes one connection before it opens the next, and here both come at once. */
static void turned(void)
{
    static long open, works;

    if (seen.open < open)
        open = seen.open;
    if (seen.works < works)
        works = seen.works;
    if (open > seen.most_open)
        seen.most_open = open;
    if (works > seen.most_works)
        seen.most_works = works;
    open = seen.open;
    works = seen.works;
    come_back();
    if (dies != 0) {
        dies = 0;
        die_now(&fronts[next_to_die++ % front_count]);
    }
    if (tell != 0) {
        tell = 0;
        printf("open %ld most %ld working %ld most %ld asked %ld cursors %ld transactions %ld ", seen.open, seen.most_open, seen.works,
               seen.most_works, seen.asked, seen.cursors, seen.transactions);
        printf("unacknowledged %ld sum %lld exhaust %ld awaited %ld wrong %ld\n", seen.unacknowledged, (long long)seen.sum, seen.exhaust,
               seen.awaited, seen.wrong);
        fflush(stdout);
        over = signalled != 0;
    }
}

static void on_signal(int number)
{
    signalled = number == SIGTERM || signalled != 0;
    dies = number == SIGUSR2 || dies != 0;
    tell = number != SIGUSR2 || tell != 0;
}

int serve(const int *ports, int count, uint32_t jitter_us, const char *lie_about)
{
    static const struct side_ops ops = { accepted, heard, gone, woken, turned };
    const struct sigaction act = { .sa_handler = on_signal };

    if (count > FRONTS || (fronts = calloc((size_t)count, sizeof *fronts)) == NULL)
        return 1;
    jitter = jitter_us;
    lie = lie_about;
    while (free_count < SIDES) {
        free_links[free_count] = free_count;
        free_count++;
    }
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGUSR1, &act, NULL);
    sigaction(SIGUSR2, &act, NULL);
    front_count = count;
    for (int i = 0; i < count; i++) {
        fronts[i].port = ports[i];
        fronts[i].listener = side_listen(ports[i], &fronts[i]);
    }
    printf("serves\n");
    fflush(stdout);
    sides_run(&ops, &over);
    return seen.wrong != 0;
}
