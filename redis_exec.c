/*
 * redis_exec.c - a transaction on its way: one record, of which the node answers each command before it answers EXEC.
 *
 *   bytes    MULTI  SET k v  INCR k  EXEC
 *   answers  +OK    +QUEUED  +QUEUED *2 ...      all but the last are looked at and swallowed (`ahead`)
 *
 *   one of them is MOVED...     EXEC is an error, and nothing has run: all of it goes to the new owner, or again later;
 *                               with a WATCH the answer is a null, since nobody vouches any more for what was watched
 *   one is another error        EXEC's error says which
 *   MULTI is refused (rights)   the node runs them one by one: the client hears that this was no transaction
 *   it held CONFIG SET...       what concerns all nodes goes to the others too, once it has run on this one
 *
 * Owns nothing: the record has the block. redis_multi.c makes it.
 */
#include "redis.h"

#include <stdio.h>
#include <string.h>

#define HEAD_CAP 128 /* of a command, what holds its name */
#define RAN "ERR outcome unknown: the node refused MULTI, and its commands ran one by one"

/* What the node said to the commands of a block when it queued them; the least hopeful counts. It is kept in the record
 * as `part`, and how many answers come before its own as `mark`. */
enum word { WORD_QUEUED, WORD_MOVED, WORD_AGAIN, WORD_DOWN, WORD_ERROR, WORD_RAN };

static const char exec_line[] = "*1\r\n$4\r\nEXEC\r\n";

const char *exec_null(const struct client *c)
{
    return c->resp3 ? "_\r\n" : "*-1\r\n";
}

/* Where a command of a block ends that begins at `at`. */
static size_t queued_next(const struct slice *block, size_t at)
{
    struct resp_request framing;
    enum resp_status status = RESP_MORE;
    size_t begin = at, n;
    const unsigned char *p;
    resp_request_start(&framing);
    while (status == RESP_MORE && (n = slice_part(block, &at, &p)) > 0) {
        resp_request(&framing, p, n, &redis_limits, &status);
    }
    return begin + (size_t)framing.used;
}

static const struct command *queued_at(const struct slice *block, size_t at)
{
    unsigned char head[HEAD_CAP];
    size_t n = block->len - at < sizeof head ? block->len - at : sizeof head;
    struct resp_slice name, sub;
    uint32_t from = 0;
    const struct command *k, *inner;
    slice_copy(block, at, head, n);
    k = resp_arg(head, n, &from, &name) ? command_find(head + name.off, name.len) : NULL;
    if (k == NULL || (k->flags & CMD_CONTAINER) == 0 || !resp_arg(head, n, &from, &sub)) {
        return k;
    }
    inner = command_sub(k, head + sub.off, sub.len);
    return inner != NULL ? inner : k;
}

static void warn_missing(const char *why, size_t n)
{
    char text[160];
    log_warn("a command of a transaction has not run on all nodes", "why=%s", log_quote(why, n, text, sizeof text));
}

/* What a node says to such a command; n == 0: its connection was lost. Its client has been answered. */
static bool on_other(struct req *r, const unsigned char *p, size_t n, bool last)
{
    if (n == 0) {
        warn_missing("a node was lost", 15);
    } else if (reply_is_error(*p)) {
        warn_missing((const char *)p, n);
    }
    return req_drop(r, p, n, last);
}

/* The bytes [at, end) of a block go to a node, for nobody. */
static void send_piece(const struct req *block, size_t at, size_t end, struct backend *b)
{
    struct req *r = req_take(NULL, NULL, on_other);
    size_t from = at, n;
    const unsigned char *p;
    bool fits = r != NULL;
    while (fits && from < end) {
        size_t start = from;
        n = slice_part(&block->bytes, &from, &p);
        n = n < end - start ? n : end - start;
        from = start + n;
        fits = slice_extend(&r->bytes, BUF_REPLY, p, n);
    }
    if (fits) {
        r->service = block->service;
        req_send(r, b);
    } else {
        warn_missing("no room (chunks, max_requests)", 30);
        if (r != NULL) {
            req_free(r);
        }
    }
}

/* What concerns all nodes (CONFIG SET, FLUSHALL, SCRIPT LOAD) has run in the block on one: it goes to the others too, before
 * anything that the client asks once it has the answer. */
static void send_to_others(const struct req *r)
{
    for (size_t at = 0, end; at < r->bytes.len; at = end) {
        const struct command *k = queued_at(&r->bytes, at);
        end = queued_next(&r->bytes, at);
        if (k == NULL || k->route != ROUTE_ALL) {
            continue;
        }
        if (script_is_flush(k)) {
            script_flush_begins();
            script_flush_ends(true);
        }
        for (uint16_t i = 0; i < backend_cap(); i++) {
            struct backend *b = backend_at(i);
            if (b != NULL && b->service == r->service && b->slots > 0 && b != r->upstream->backend) {
                send_piece(r, at, end, b);
            }
        }
    }
}

static bool on_done(struct req *r, const unsigned char *p, size_t n, bool last)
{
    if ((r->flags & REQ_EARLY) == 0) {
        slice_release(&r->parked); /* why a command of it was refused: its answer comes there now */
    }
    return req_to_client(r, p, n, last);
}

static bool on_all_done(struct req *r, const unsigned char *p, size_t n, bool last)
{
    bool ran = n > 2 && p[0] == '*' && p[1] != '-' && r->upstream != NULL && r->bytes.len > 0;
    if (ran && buf_may_take_many(BUF_REPLY, n / buf_chunk_size() + 2)) {
        send_to_others(r);
        r->take = on_done;
    } else if (ran) {
        return false;
    }
    return on_done(r, p, n, last);
}

bool exec_send(struct client *c, const struct command *exec, bool watched)
{
    struct req *r = req_take(c, exec, c->multi.all ? on_all_done : on_done);
    if (r == NULL || !slice_extend(&c->multi.block, client_use(c), exec_line, sizeof exec_line - 1)) {
        if (r != NULL) {
            req_free(r);
        }
        return false;
    }
    r->bytes = c->multi.block;
    memset(&c->multi.block, 0, sizeof c->multi.block);
    r->slot = c->multi.slot;
    r->mark = c->multi.count + 1;
    r->flags |= REQ_MULTI | REQ_FENCE;
    r->flags |= c->multi.writes ? 0 : REQ_READONLY;
    r->flags |= c->multi.scripts ? REQ_SCRIPT : 0;
    r->lease = watched ? LEASE_WATCH : LEASE_TRANSFER;
    req_enqueue(r);
    req_commit(r);
    c->gate = c->gate || c->multi.all; /* what it asks next must come after that on all nodes */
    stats.transactions++;
    if (watched) {
        c->watch->kept = false;
        multi_before(r, c->watch->backend);
        lease_send(c->watch, r);
    } else {
        req_route(r);
    }
    return true;
}

/* Each time it goes to a node. */
static void before(struct req *r, struct backend *b)
{
    r->ahead = r->mark;
    r->part = WORD_QUEUED;
    slice_release(&r->parked);
    for (size_t at = 0; (r->flags & REQ_SCRIPT) && at < r->bytes.len; at = queued_next(&r->bytes, at)) {
        script_before_block(r, at, b);
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
        map_refresh(r->service);
        if (b != NULL) {
            service_set_owner(r->service, to.slot, b);
        }
        r->slot = to.slot; /* another one if we could not tell its keys (half a pair of MSET): the node can */
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
    bool first = r->ahead + 1 == r->mark; /* the answer to MULTI */
    enum word word;
    if (!reply_is_error(*p)) {
        r->part = first || begins(p, n, "+QUEUED") ? r->part : WORD_RAN;
        return;
    }
    if (r->part >= WORD_ERROR) {
        return; /* a script run one by one, since MULTI was refused, can say MOVED to wherever it likes */
    }
    word = word_of(r, p, n);
    if (word == WORD_ERROR && r->parked.len == 0) {
        size_t len = n - 3 < 256 ? n - 3 : 256;
        (void)pen_write(&r->client->park, BUF_REPLY, p + 1, len, &r->parked); /* without it EXEC's error says less */
    }
    r->part = word > r->part ? (uint16_t)word : r->part;
}

/* A command of the block was refused: its client hears which error that was. */
static void tell_why(struct req *r, const char *fate)
{
    char why[257];
    size_t n = r->parked.len;
    slice_copy(&r->parked, 0, why, n);
    req_error(r, "%s: %.*s", fate, (int)n, why);
}

static void answer_null(struct req *r)
{
    const char *line = exec_null(r->client);
    stats.not_executed++;
    req_answer(r, line, strlen(line));
}

/* EXEC itself is answered with an error: nothing of the block has run. */
static bool refused(struct req *r, const unsigned char *p, size_t n)
{
    enum word word = begins(p, n, "-EXECABORT") || r->part == WORD_RAN ? (enum word)r->part : word_of(r, p, n);
    if (word == WORD_RAN) {
        stats.outcome_unknown++;
        tell_why(r, RAN);
        return true;
    }
    if (word == WORD_ERROR || word == WORD_QUEUED) {
        if (r->parked.len == 0) {
            return false;
        }
        tell_why(r, "EXECABORT Transaction discarded because of");
        return true;
    }
    if (r->lease == LEASE_WATCH) {
        answer_null(r);
        return true;
    }
    r->client->gate = true;
    r->flags &= (uint16_t)~REQ_TRYAGAIN;
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
    map_refresh(r->service);
    req_again(r);
    return true;
}

/* Its connection was lost before all of it was sent, or it only reads. What was watched is nobody's word any more. */
static bool unsent(struct req *r)
{
    if (r->part == WORD_RAN) {
        stats.outcome_unknown++;
        tell_why(r, RAN);
    } else if (r->lease == LEASE_WATCH) {
        answer_null(r);
    } else {
        return false;
    }
    return true;
}

void redis_exec_open(void)
{
    multi_before = before;
    multi_ahead = on_ahead;
    multi_refused = refused;
    multi_unsent = unsent;
}
