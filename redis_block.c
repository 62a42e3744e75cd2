/*
 * redis_block.c - blocking commands: BLPOP and its kin, XREAD and XREADGROUP with BLOCK.
 *
 *   BLPOP k 5     a record like any other, in its client's queue: client.block. When all before it is answered:
 *                 lease_want() --> a connection of its own --> the node            the timeout runs from here
 *                    ^                                            |
 *                    `--- -MOVED -ASK -UNBLOCKED ... <------------'  nothing has run: again, with the time that is left
 *
 *   meanwhile     its client is read, so that its end is seen; what it asks waits in its input, client_window at most
 *   it leaves     the connection is closed at once: the node pops nothing for nobody
 */
#include "redis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEFT_MIN_MS 1     /* what is sent once more may still look */
#define NUMBER_CAP 64
#define FOREVER_MS 1e15

/* A record of a blocking command: where its timeout stands is `mark`; its length is since_ms until `part` says that it has
 * been sent, from then on its end. 0: none. */

static struct {
    struct client *clients;
    uint32_t count;
    struct pen pen;          /* of short requests, which may stay long */
    uint32_t records;
} bl;

/* -------------------------------------------------------------- its timeout */

static bool in_ms(const struct command *k)
{
    return k->name[0] == 'x';
}

/* How long it may wait; 0: for ever, or what no server takes. */
static uint64_t read_ms(const unsigned char *p, size_t n, bool ms)
{
    char text[NUMBER_CAP], *end;
    double value, whole;
    if (n == 0 || n >= sizeof text) {
        return 0;
    }
    memcpy(text, p, n);
    text[n] = '\0';
    value = strtod(text, &end) * (ms ? 1 : 1000);
    if (*end != '\0' || !(value > 0) || value > FOREVER_MS) {
        return 0;
    }
    whole = (double)(uint64_t)value;
    return (uint64_t)value + (value > whole);
}

/* Whether w is BLOCK, in either case. */
static bool is_block(const struct request *q, const struct resp_slice *w)
{
    static const char word[] = "block";
    for (size_t i = 0; i < 5 && w->len == 5; i++) {
        if ((q->p[w->off + i] | 32) != word[i]) {
            return false;
        }
    }
    return w->len == 5;
}

/* Notes where the timeout stands, and how long it is: the last argument, the first of those that count their keys, what
 * follows BLOCK. */
static void note_timeout(struct req *r, const struct request *q)
{
    bool stream = in_ms(q->command), block = false;
    uint32_t wanted = q->command->keys == KEYS_COUNT_AT_2 ? 1 : q->argc - 1;
    struct resp_slice arg;
    for (uint32_t at = 0, before = 0, i = 0; resp_arg(q->p, q->len, &at, &arg); i++, before = at) {
        if (stream ? block : i == wanted) {
            r->mark = before;
            r->since_ms = read_ms(q->p + arg.off, arg.len, stream);
            return;
        }
        block = is_block(q, &arg);
    }
}

/* Puts bytes [from, to) of `in` behind `out`. */
static bool copy_range(struct slice *out, const struct slice *in, size_t from, size_t to)
{
    while (from < to) {
        const unsigned char *p;
        size_t at = from, n = slice_part(in, &at, &p);
        n = n < to - from ? n : to - from;
        if (!slice_extend(out, BUF_REPLY, p, n)) {
            return false;
        }
        from += n;
    }
    return true;
}

/* Writes `left` in the place of the timeout. */
static bool rewrite(struct req *r, uint64_t left)
{
    unsigned char head[RESP_HEADER_CAP];
    char digits[NUMBER_CAP], text[2 * NUMBER_CAP];
    size_t n = r->bytes.len - r->mark < sizeof head ? r->bytes.len - r->mark : sizeof head, rest;
    struct slice out = { NULL, 0, 0 };
    const unsigned char *end;
    int64_t old = 0;
    int len;
    slice_copy(&r->bytes, r->mark, head, n);
    end = memchr(head, '\r', n);
    must(end != NULL && resp_to_int(head + 1, (size_t)(end - head) - 1, &old));
    rest = r->mark + (size_t)(end - head) + 2 + (size_t)old + 2;
    len = in_ms(r->command) ? snprintf(digits, sizeof digits, "%llu", (unsigned long long)left)
                            : snprintf(digits, sizeof digits, "%llu.%03u", (unsigned long long)(left / 1000),
                                       (unsigned)(left % 1000));
    len = snprintf(text, sizeof text, "$%d\r\n%s\r\n", len, digits);
    if (!copy_range(&out, &r->bytes, 0, r->mark) || !slice_extend(&out, BUF_REPLY, text, (size_t)len) ||
        !copy_range(&out, &r->bytes, rest, r->bytes.len)) {
        slice_release(&out);
        return false;
    }
    slice_release(&r->bytes);
    r->bytes = out;
    return true;
}

/* It is about to be sent: its time begins to run, or goes on. */
static bool before(struct req *r)
{
    uint64_t now = loop_ms();
    if (r->part != 0 && r->since_ms != 0 && !rewrite(r, r->since_ms > now ? r->since_ms - now : LEFT_MIN_MS)) {
        return false;
    }
    if (r->part == 0) {
        r->since_ms += r->since_ms != 0 ? now : 0;
        r->waits_ms = (uint32_t)now;
    }
    r->part = 1;
    r->started_ms = (uint32_t)now;
    return true;
}

/* -------------------------------------------------------------- the command */

static bool on_answer(struct req *r, const unsigned char *p, size_t n, bool last)
{
    struct client *c = r->client;
    if (!req_to_client(r, p, n, last)) {
        return false;
    }
    if (!last) {
        return true;
    }
    if (c != NULL) {
        c->block = NULL;
        client_resume(c);
    }
    if (--bl.records == 0) {
        pen_close(&bl.pen);
    }
    return true;
}

/* Its keys' slot; -1: they are in several, or too many, and that is answered. */
static int32_t slot_of(struct client *c, const struct request *q, enum verdict *v)
{
    uint32_t cap;
    struct resp_slice *keys = fan_keys(&cap);
    int count = command_keys(q->command, q->p, q->len, q->argc, keys, cap);
    uint16_t slot;
    if (count == -2) {
        *v = client_said(c, client_error(c, "ERR a request of more than %u keys is too wide for this proxy (max_split_keys)", cap));
        return -1;
    }
    if (count <= 0) {
        return SLOTMAP_SLOTS - 1; /* a mistake that the server explains best */
    }
    slot = slotmap_slot(q->p + keys[0].off, keys[0].len);
    for (int i = 1; i < count && !c->service->conf->single; i++) {
        if (slotmap_slot(q->p + keys[i].off, keys[i].len) != slot) {
            *v = client_said(c, client_error(c, "CROSSSLOT Keys in request don't hash to the same slot"));
            return -1;
        }
    }
    return slot;
}

static bool keep(struct req *r, const struct request *q)
{
    struct client *c = r->client;
    if (q->len > REDIS_COPY_MAX && !q->copied) {
        chain_slice(&c->in, q->len, &r->bytes);
        return true;
    }
    return pen_write(&bl.pen, client_use(c), q->p, q->len, &r->bytes);
}

enum verdict block_command(struct client *c, const struct request *q)
{
    enum verdict v;
    struct req *r;
    int32_t slot;
    if (!command_arity_ok(q->command, q->argc)) {
        return client_said(c, client_error(c, "ERR wrong number of arguments for '%s' command", q->command->name));
    }
    slot = slot_of(c, q, &v);
    if (slot < 0) {
        return v;
    }
    if (c->service->map.served == 0) {
        stats.not_executed++;
        return client_said(c, client_error(c, "CLUSTERDOWN not executed: no cluster map yet: %s", c->service->trouble));
    }
    r = req_take(c, q->command, on_answer);
    if (r == NULL || !keep(r, q)) {
        if (r != NULL) {
            req_free(r);
        }
        return client_said(c, false);
    }
    note_timeout(r, q);
    r->slot = (uint16_t)slot;
    r->flags |= REQ_LEASE | REQ_BLOCKS;
    r->lease = LEASE_BLOCK;
    bl.records++;
    c->block = r;
    req_enqueue(r);
    req_commit(r);
    lease_want(r, NULL);
    return VERDICT_DONE;
}

struct client *block_client(const struct service *s, uint64_t id)
{
    for (uint32_t i = 0; i < bl.count; i++) {
        struct client *c = &bl.clients[i];
        if (c->conn != NULL && c->conn->id == id && c->service == s) {
            return c;
        }
    }
    return NULL;
}

uint32_t block_count(const struct service *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < bl.count; i++) {
        n += bl.clients[i].conn != NULL && bl.clients[i].service == s && bl.clients[i].block != NULL;
    }
    return n;
}

/* ---------------------------------------------------------- its end from outside */

void block_take_back(struct req *r)
{
    struct upstream *u = r->upstream;
    if (r->state == REQ_LEASING) {
        lease_want_not(r);
    } else if (r->state == REQ_WAITING) {
        req_again_not(r);
    } else if (r->state == REQ_PARTS) {
        wait_take_back(r);
    } else if (r->state == REQ_QUEUED) {
        upstream_cut(u, r);
        lease_break(u, "its client waits no more");
    }
}

void block_left(struct client *c)
{
    struct req *r = c->block;
    if (r != NULL) {
        block_take_back(r);
        req_silence(r);
    }
}

void redis_block_open(struct client *clients, uint32_t count)
{
    bl.clients = clients;
    bl.count = count;
    lease_before_block = before;
}
