/*
 * redis_fan.c - one request that needs several slots: split, gather, merge.
 *
 *   whole   MGET a b c d                     in its client's queue, in nobody else's
 *     |
 *    fan    plan: a->0 b->1 c->0 d->2        which part answers which key
 *     |
 *   parts   MGET a c | MGET b | MGET d       each an ordinary record: routed, redirected, replayed by redis_req.c
 *
 * A part holds the keys of one slot, never less, so a wrong type stays nil as in one server's MGET. All parts are
 * waited for; then the first error in the order of the parts is the answer, or else their merged answers are.
 */
#include "redis.h"

#include <stdio.h>
#include <string.h>

#define NO_KEY UINT32_MAX

struct fan {
    struct req *whole;       /* NULL: a free entry */
    struct fan *next;
    struct req *parts, *last;
    struct slice plan;       /* the part of each key, two bytes each */
    struct pen pen;          /* where small answers of the parts are kept */
    uint32_t count, answered, keys;
    int64_t sum;
    size_t bytes;            /* kept of answers so far */
    size_t packed;           /* of them in the pen: chunks that several answers share are let go last */
    bool failed;
    bool over, crowded;      /* longer than merge_limit; than half of all chunks */
};

/* One slot's keys, while a request is being split. */
struct part {
    uint32_t first, last, keys; /* a list through next_key */
    uint16_t slot;
};

static struct {
    struct fan *all, *free;
    uint32_t total;
    struct resp_slice *keys;
    uint32_t *next_key;
    struct part *parts;
    struct req **records;    /* of the parts, by number, while a request is merged */
    uint32_t key_cap;
    uint16_t *part_of_slot; /* valid where seen[slot] is this split's number */
    uint32_t *seen, number;
} fn;

static const struct req *whole_of(const struct fan *f)
{
    return f->whole;
}

/* The client of a split request has gone: its parts go on, for nobody. */
static void orphan(struct req *whole)
{
    for (struct req *r = whole->fan->parts; r != NULL; r = r->client_next) {
        r->client = NULL;
    }
}

static bool under_way(const struct fan *f, uint16_t slot)
{
    for (const struct req *r = f->parts; r != NULL; r = r->client_next) {
        if (r->slot == slot && r->state == REQ_QUEUED) {
            return true;
        }
    }
    return false;
}

void redis_fan_tables(const struct conf *conf)
{
    fn.key_cap = conf->max_split_keys;
    fn.total = conf->max_requests / 16;
    fn.all = arena_take("splits", fn.total, sizeof *fn.all);
    fn.keys = arena_take("split keys", fn.key_cap, sizeof *fn.keys);
    fn.next_key = arena_take("split key lists", fn.key_cap, sizeof *fn.next_key);
    fn.parts = arena_take("split parts", fn.key_cap, sizeof *fn.parts);
    fn.records = arena_take("split records", fn.key_cap, sizeof *fn.records);
    fn.part_of_slot = arena_take("split slots", SLOTMAP_SLOTS, sizeof *fn.part_of_slot);
    fn.seen = arena_take("split slot marks", SLOTMAP_SLOTS, sizeof *fn.seen);
}

void redis_fan_open(void)
{
    fan_whole = whole_of;
    fan_orphan = orphan;
    fan_under_way = under_way;
    for (uint32_t i = fn.total; i > 0; i--) {
        fn.all[i - 1].next = fn.free;
        fn.free = &fn.all[i - 1];
    }
}

struct resp_slice *fan_keys(uint32_t *cap)
{
    *cap = fn.key_cap;
    return fn.keys;
}

static void fan_free(struct fan *f)
{
    for (struct req *r = f->parts, *next; r != NULL; r = next) {
        next = r->client_next;
        req_free(r);
    }
    slice_release(&f->plan);
    pen_close(&f->pen);
    memset(f, 0, sizeof *f);
    f->next = fn.free;
    fn.free = f;
}

/* ---------------------------------------------------------------- merging */

static void give(struct fan *f, const void *p, size_t n)
{
    struct req *whole = f->whole;
    whole->fan = NULL;
    whole->take = req_to_client;
    fan_free(f);
    if (!req_to_client(whole, p, n, true)) {
        conn_fail(whole->client->conn, "no chunk left for a merged answer (chunks)");
        must(req_to_client(whole, p, n, true));
    }
}

static void give_text(struct fan *f, const char *text)
{
    stats_error(text, strlen(text));
    give(f, text, strlen(text));
}

/* Puts n bytes behind what is merged so far: straight into the output when it is the client's turn. The room has
 * been looked for before. */
static void merged(struct req *whole, struct pen *pen, const unsigned char *p, size_t n)
{
    if (whole->flags & REQ_MUTE) {
        return;
    }
    if (whole == whole->client->head) {
        must(chain_put(&whole->client->conn->out, BUF_REPLY, p, n));
    } else {
        must(pen_more(pen, BUF_REPLY, p, n, &whole->parked));
    }
}

/* Moves the next element of a part's array. False when there is none. What has been moved is let go at once, so that
 * a long answer is not held twice. */
static bool merge_element(struct req *whole, struct pen *pen, struct req *r)
{
    struct resp_reply reply = { 0 };
    enum resp_status status = RESP_MORE;
    while (status == RESP_MORE) {
        const unsigned char *p;
        size_t at = 0, n = slice_part(&r->parked, &at, &p), used;
        if (n == 0) {
            return false;
        }
        used = resp_reply(&reply, p, n, &status);
        merged(whole, pen, p, used);
        slice_drop(&r->parked, used);
    }
    return status == RESP_WHOLE;
}

/* Whether the part's answer is an array of as many elements as it has keys; its header is let go. */
static bool array_begins(struct req *r, uint32_t keys)
{
    unsigned char want[24], got[24];
    size_t n = resp_put_header(want, '*', keys);
    if (r->parked.len < n) {
        return false;
    }
    slice_copy(&r->parked, 0, got, n);
    slice_drop(&r->parked, n);
    return memcmp(want, got, n) == 0;
}

/* The keys that each part has are counted anew from the plan: the table of parts has served others meanwhile. */
static void recount(struct fan *f)
{
    size_t at = 0;
    for (uint32_t i = 0; i < f->count; i++) {
        fn.parts[i].keys = 0;
    }
    for (uint32_t i = 0; i < f->keys; i++, at += 2) {
        uint16_t part;
        slice_copy(&f->plan, at, &part, 2);
        fn.parts[part].keys++;
        fn.next_key[i] = part;
    }
}

static void merge_by_key(struct fan *f)
{
    struct req *whole = f->whole;
    unsigned char header[24];
    struct pen pen = { NULL };
    recount(f);
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        if (!array_begins(r, fn.parts[r->part].keys)) {
            give_text(f, "-ERR a node gave an answer of the wrong shape\r\n");
            return;
        }
    }
    if (buf_free_chunks() * buf_chunk_size() < f->packed + 4 * buf_chunk_size()) {
        give_text(f, "-ERR no room for the merged answer (chunks)\r\n");
        return;
    }
    /* The records of the parts are found by their number while the keys are gone through in order. */
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        fn.records[r->part] = r;
    }
    merged(whole, &pen, header, resp_put_header(header, '*', f->keys));
    for (uint32_t i = 0; i < f->keys; i++) {
        uint32_t part = fn.next_key[i];
        if (!merge_element(whole, &pen, fn.records[part])) {
            conn_fail(whole->client->conn, "a node gave an answer of the wrong shape");
            break;
        }
    }
    whole->fan = NULL;
    fan_free(f);
    pen_close(&pen);
    if (whole->client == NULL) {
        req_free(whole);
        return;
    }
    whole->client->parked_bytes += whole->parked.len;
    whole->state = REQ_DONE;
    conn_dirty(whole->client->conn);
    if (whole == whole->client->head) {
        client_advance(whole->client);
    }
}

/* The first error in the order of the parts, word for word. */
static void give_error(struct fan *f)
{
    static char line[1024];
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        size_t n = r->parked.len < sizeof line ? r->parked.len : sizeof line;
        if (n == 0) {
            continue;
        }
        slice_copy(&r->parked, 0, line, n);
        if (line[0] == '-') {
            if (n == sizeof line) {
                memcpy(line + n - 2, "\r\n", 2);
            }
            give(f, line, n);
            return;
        }
    }
    give_text(f, "-ERR a part of the request failed, and its error did not fit (chunks)\r\n");
}

static void finish(struct fan *f)
{
    struct req *whole = f->whole;
    unsigned char line[24];
    if (whole->client == NULL) {
        whole->fan = NULL;
        fan_free(f);
        req_free(whole);
    } else if (f->failed) {
        give_error(f);
    } else if (f->over) {
        give_text(f, "-ERR the merged answer is longer than merge_limit\r\n");
    } else if (f->crowded) {
        give_text(f, "-ERR no room for the merged answer (chunks)\r\n");
    } else if (whole->command->merge == MERGE_BY_KEY) {
        merge_by_key(f);
    } else if (whole->command->merge == MERGE_SUM) {
        give(f, line, resp_put_header(line, ':', f->sum));
    } else {
        give(f, "+OK\r\n", 5);
    }
}

/* Keeps n bytes of a part's answer; false when there is no room now. */
static bool keep(struct fan *f, struct req *r, const unsigned char *p, size_t n, bool whole)
{
    f->over = f->over || f->bytes + n > r->service->conf->merge_limit;
    f->crowded = f->crowded || f->bytes + n > buf_total() / 2;
    if (f->over || f->crowded || r->client == NULL) {
        return true;
    }
    if (whole && r->parked.len == 0 ? !pen_write(&f->pen, BUF_REPLY, p, n, &r->parked)
                                    : !slice_extend(&r->parked, BUF_REPLY, p, n)) {
        return false;
    }
    f->bytes += n;
    f->packed += whole ? n : 0;
    return true;
}

/* Before the last part is taken: whether the answers can be put together then. What is moved frees its chunk, but for
 * the small ones that share chunks. */
static bool room_to_merge(const struct fan *f, size_t n)
{
    return buf_free_chunks() * buf_chunk_size() >= f->packed + n + 6 * buf_chunk_size();
}

static bool take_part(struct req *r, const unsigned char *p, size_t n, bool last)
{
    struct fan *f = r->fan;
    bool error = n > 0 && *p == '-' && r->parked.len == 0 && last;
    if (last && f->answered + 1 == f->count && f->whole->command->merge == MERGE_BY_KEY && r->client != NULL &&
        !f->failed && !f->over && !f->crowded && !error && !room_to_merge(f, n)) {
        return false;
    }
    if (n > 0 && (f->whole->command->merge == MERGE_BY_KEY || error) && !keep(f, r, p, n, last)) {
        return false;
    }
    if (!last) {
        return true;
    }
    if (f->whole->command->merge == MERGE_SUM && n > 3 && *p == ':') {
        int64_t value = 0;
        resp_to_int(p + 1, n - 3, &value);
        f->sum += value;
    }
    f->failed = f->failed || error;
    req_settle(r);
    r->state = REQ_DONE;
    if (++f->answered == f->count) {
        finish(f);
    }
    return true;
}

/* -------------------------------------------------------------- splitting */

/* Sorts the keys into one list a slot, in order. Gives the number of lists. */
static uint32_t group(const unsigned char *p, uint32_t keys)
{
    uint32_t count = 0;
    fn.number++;
    for (uint32_t i = 0; i < keys; i++) {
        uint16_t slot = slotmap_slot(p + fn.keys[i].off, fn.keys[i].len);
        struct part *part;
        fn.next_key[i] = NO_KEY;
        if (fn.seen[slot] != fn.number) {
            fn.seen[slot] = fn.number;
            fn.part_of_slot[slot] = (uint16_t)count;
            part = &fn.parts[count++];
            part->first = part->last = i;
            part->keys = 1;
            part->slot = slot;
            continue;
        }
        part = &fn.parts[fn.part_of_slot[slot]];
        fn.next_key[part->last] = i;
        part->last = i;
        part->keys++;
    }
    return count;
}

/* How many bytes the header of a bulk of this length took in the request: "$12\r\n". */
static uint32_t header_len(uint32_t len)
{
    uint32_t n = 4;
    for (; len >= 10; len /= 10) {
        n++;
    }
    return n;
}

/* Where key i's own arguments lie in the request, headers included; with its value for MSET. */
static struct resp_slice raw_key(const struct request *q, uint32_t i)
{
    struct resp_slice raw = fn.keys[i], value;
    uint32_t end = raw.off + raw.len + 2;
    raw.off -= header_len(raw.len);
    if (q->command->keys == KEYS_PAIRS && resp_arg(q->p, q->len, &end, &value)) {
        end = value.off + value.len + 2;
    }
    raw.len = end - raw.off;
    return raw;
}

/* Writes the request of one part into the pen of the node that it will go to. */
static bool write_part(struct req *r, const struct request *q, const struct part *part, struct pen *pen)
{
    enum buf_use use = client_use(r->client);
    unsigned char head[64];
    uint32_t each = q->command->keys == KEYS_PAIRS ? 2 : 1;
    size_t n = resp_put_header(head, '*', 1 + (int64_t)part->keys * each);
    n += resp_put_header(head + n, '$', q->arg[0].len);
    if (!pen_more(pen, use, head, n, &r->bytes) ||
        !pen_more(pen, use, q->p + q->arg[0].off, q->arg[0].len + 2u, &r->bytes)) {
        return false;
    }
    for (uint32_t i = part->first; i != NO_KEY; i = fn.next_key[i]) {
        struct resp_slice raw = raw_key(q, i);
        if (!pen_more(pen, use, q->p + raw.off, raw.len, &r->bytes)) {
            return false;
        }
    }
    return true;
}

/* Notes which part answers which key. */
static bool write_plan(struct fan *f, const struct request *q)
{
    for (uint32_t i = 0; i < f->keys; i++) {
        uint16_t slot = slotmap_slot(q->p + fn.keys[i].off, fn.keys[i].len);
        if (!pen_more(&f->pen, client_use(f->whole->client), &fn.part_of_slot[slot], 2, &f->plan)) {
            return false;
        }
    }
    return true;
}

/* Whether the parts will most likely find their chunks: finding out half-way would give some back, which looks like
 * relief to those that starve, and so for ever. */
static bool room_for(const struct client *c, const struct request *q, uint32_t count)
{
    static uint32_t told[BACKENDS_MAX]; /* the number of the split that has counted this node */
    size_t nodes = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint16_t owner = c->service->map.owner[fn.parts[i].slot];
        if (owner != SLOTMAP_NONE && told[owner] != fn.number) {
            told[owner] = fn.number;
            nodes++;
        }
    }
    return buf_may_take_many(client_use(c), q->len / buf_chunk_size() + nodes + 2);
}

static bool make_parts(struct fan *f, struct client *c, const struct request *q)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct backend *b = service_owner(c->service, fn.parts[i].slot);
        struct req *r = req_take(c, q->command, take_part);
        if (r == NULL) {
            return false;
        }
        *(f->last != NULL ? &f->last->client_next : &f->parts) = r;
        f->last = r;
        r->fan = f;
        r->slot = fn.parts[i].slot;
        r->part = (uint16_t)i;
        if (fn.parts[i].keys > 1) {
            r->flags |= REQ_FENCE;
        }
        if (!write_part(r, q, &fn.parts[i], b != NULL ? &b->shared->pen : &f->pen)) {
            return false;
        }
    }
    return q->command->merge != MERGE_BY_KEY || write_plan(f, q);
}

enum verdict fan_split(struct client *c, const struct request *q, uint32_t key_count)
{
    struct fan *f = fn.free;
    uint32_t count = group(q->p, key_count);
    if (count > fn.total * 8 || count > UINT16_MAX) {
        if (client_error(c, "ERR a request over %u slots is too wide for this proxy (max_requests)", (unsigned)count)) {
            return VERDICT_DONE;
        }
        client_starve(c);
        return VERDICT_WAIT;
    }
    if (f == NULL || redis_req_free() < count + 1 || !room_for(c, q, count)) {
        redis_req_shortage();
        client_starve(c);
        return VERDICT_WAIT;
    }
    fn.free = f->next;
    memset(f, 0, sizeof *f);
    f->count = count;
    f->keys = key_count;
    f->whole = req_take(c, q->command, take_part);
    if (!make_parts(f, c, q)) {
        req_free(f->whole);
        fan_free(f);
        client_starve(c);
        return VERDICT_WAIT;
    }
    f->whole->fan = f;
    f->whole->state = REQ_PARTS;
    req_enqueue(f->whole);
    stats.split_requests++;
    stats.split_parts += count;
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        req_commit(r);
    }
    /* The last part to be answered ends the fan, and that can be while it is being sent. */
    for (struct req *r = f->parts, *next; r != NULL; r = next) {
        next = r->client_next;
        req_route(r);
    }
    return VERDICT_DONE;
}
