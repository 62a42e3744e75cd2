/*
 * redis_fan.c - one request that needs several slots, or all masters: split or repeated, gathered, merged.
 *
 *   whole   MGET a b c d                     in its client's queue, in nobody else's
 *     |
 *    fan    plan: a->0 b->1 c->0 d->2        which part answers which key
 *     |
 *   parts   MGET a c | MGET b | MGET d       each an ordinary record: routed, redirected, replayed by redis_route.c
 *           DBSIZE | DBSIZE | DBSIZE         to all masters: as it came, by a slot of each
 *
 * A part holds the keys of one slot, never less, so a wrong type stays nil as in one server's MGET. All parts are
 * waited for; then the first error in the order of the parts is the answer, or else their merged answers are.
 */
#include "redis.h"
#include "trace.h"

#include <stdio.h>
#include <string.h>

#define NO_KEY UINT32_MAX
#define WRONG_SHAPE "-ERR a node gave an answer of the wrong shape\r\n"

struct fan {
    struct req *whole;       /* NULL: a free entry */
    struct fan *next;
    struct req *parts, *last;
    const struct command *command; /* what the nodes are asked */
    fan_teller tell;         /* NULL: the answers are merged as that command's row says */
    struct slice plan;       /* the part of each key, two bytes each */
    struct pen pen;          /* where small answers of the parts are kept */
    uint32_t count, answered, keys;
    int64_t sum;
    size_t bytes;            /* kept of answers so far; they count among those parked for the client */
    bool failed;
    bool odd;                /* an answer is no number */
    bool over, crowded;      /* longer than merge_limit; than half of all chunks, or than there was room for */
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

/* What is kept of a part's answer is let go. */
static void anew(struct req *part)
{
    part->fan->bytes -= part->parked.len;
    if (part->client != NULL) {
        part->client->parked_bytes -= part->parked.len;
    }
    slice_release(&part->parked);
}

static bool under_way(const struct fan *f, const struct req *than, const struct upstream *u)
{
    for (const struct req *r = f->parts; r != NULL; r = r->client_next) {
        if (req_under_way(r, than, u)) {
            return true;
        }
    }
    return false;
}

/* The merge that holds most of the pool gives it back, and its client gets an error: others, whose answers wait for
 * chunks meanwhile, get theirs. One that holds little would not help them. */
static void give_up_largest(void)
{
    struct fan *most = &fn.all[0];
    for (uint32_t i = 1; i < fn.total; i++) {
        most = fn.all[i].bytes > most->bytes ? &fn.all[i] : most;
    }
    if (most->bytes < buf_total() / 16) {
        return;
    }
    most->crowded = true;
    for (struct req *r = most->parts; r != NULL; r = r->client_next) {
        anew(r);
    }
}

void redis_fan_tables(const struct conf *conf)
{
    fn.key_cap = conf->max_split_keys;
    fn.total = conf->max_requests / 16;
    fn.all = arena_take("splits", fn.total, sizeof *fn.all);
    fn.keys = arena_take("split keys", fn.key_cap, sizeof *fn.keys);
    fn.next_key = arena_take("split key lists", fn.key_cap, sizeof *fn.next_key);
    fn.parts = arena_take("split parts", fn.key_cap > conf->max_backends ? fn.key_cap : conf->max_backends,
                          sizeof *fn.parts);
    fn.records = arena_take("split records", fn.key_cap, sizeof *fn.records);
    fn.part_of_slot = arena_take("split slots", SLOTMAP_SLOTS, sizeof *fn.part_of_slot);
    fn.seen = arena_take("split slot marks", SLOTMAP_SLOTS, sizeof *fn.seen);
}

void redis_fan_open(void)
{
    fan_whole = whole_of;
    fan_orphan = orphan;
    fan_anew = anew;
    fan_under_way = under_way;
    upstream_on_shortage = give_up_largest;
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

/* All is put behind each other: in the output of the client, or with the whole until its turn. */
static void merge_done(struct fan *f, struct pen *pen)
{
    struct req *whole = f->whole;
    whole->fan = NULL;
    fan_free(f);
    pen_close(pen);
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

static void merge_by_key(struct fan *f)
{
    struct req *whole = f->whole;
    unsigned char header[24];
    struct pen pen = { NULL };
    recount(f);
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        if (!array_begins(r, fn.parts[r->part].keys)) {
            give_text(f, WRONG_SHAPE);
            return;
        }
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
    merge_done(f, &pen);
}

/* Puts a part's whole answer, or what is left of it, behind what is merged so far. */
static void merge_rest(struct req *whole, struct pen *pen, struct req *r)
{
    const unsigned char *p;
    size_t at = 0, n;
    while ((n = slice_part(&r->parked, &at, &p)) > 0) {
        merged(whole, pen, p, n);
        slice_drop(&r->parked, n); /* at once: a long answer is not held twice */
        at = 0;
    }
}

static void give_part(struct fan *f, struct req *r)
{
    struct pen pen = { NULL };
    merge_rest(f->whole, &pen, r);
    merge_done(f, &pen);
}

/* How many elements the part's answer has, an array or in RESP3 a set or a map; its header is let go. -1: it is none, or
 * not of the type that another part has (*type; 0: the first one says). */
static int64_t array_opens(struct req *r, char *type)
{
    unsigned char head[24];
    size_t n = r->parked.len < sizeof head ? r->parked.len : sizeof head;
    const unsigned char *end;
    int64_t count;
    slice_copy(&r->parked, 0, head, n);
    end = memchr(head, '\r', n);
    *type = *type == 0 && n > 0 && memchr("*~%", head[0], 3) != NULL ? (char)head[0] : *type;
    if (end == NULL || head[0] != *type || !resp_to_int(head + 1, (size_t)(end - head) - 1, &count)) {
        return -1;
    }
    slice_drop(&r->parked, (size_t)(end - head) + 2);
    return count;
}

/* Arrays, one behind the other. */
static void merge_append(struct fan *f)
{
    unsigned char header[24];
    struct pen pen = { NULL };
    int64_t sum = 0;
    char type = 0;
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        int64_t count = array_opens(r, &type);
        if (count < 0) {
            give_text(f, WRONG_SHAPE);
            return;
        }
        sum += count;
    }
    merged(f->whole, &pen, header, resp_put_header(header, type, sum));
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        merge_rest(f->whole, &pen, r);
    }
    merge_done(f, &pen);
}

/* Arrays of ":0" and ":1": each place is 1 if it is in all of them. */
static void merge_and(struct fan *f)
{
    unsigned char header[24], digit[] = { ':', '?', '\r', '\n' };
    struct pen pen = { NULL };
    int64_t count = -1;
    char type = '*';
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        int64_t n = array_opens(r, &type);
        if (n < 0 || (count >= 0 && n != count) || r->parked.len != (size_t)n * sizeof digit) {
            give_text(f, WRONG_SHAPE);
            return;
        }
        count = n;
    }
    merged(f->whole, &pen, header, resp_put_header(header, '*', count));
    for (size_t at = 1; at < (size_t)count * sizeof digit; at += sizeof digit) {
        digit[1] = '1';
        for (const struct req *r = f->parts; r != NULL; r = r->client_next) {
            unsigned char one;
            slice_copy(&r->parked, at, &one, 1);
            digit[1] = one == '1' ? digit[1] : '0';
        }
        merged(f->whole, &pen, digit, sizeof digit);
    }
    merge_done(f, &pen);
}

static void merge_min(struct fan *f)
{
    unsigned char line[24];
    int64_t least = INT64_MAX, value;
    for (const struct req *r = f->parts; r != NULL; r = r->client_next) {
        size_t n = r->parked.len < sizeof line ? r->parked.len : sizeof line;
        slice_copy(&r->parked, 0, line, n);
        if (n < 4 || line[0] != ':' || !resp_to_int(line + 1, n - 3, &value)) {
            give_text(f, WRONG_SHAPE);
            return;
        }
        least = value < least ? value : least;
    }
    give(f, line, resp_put_header(line, ':', least));
}

static bool part_begins(const struct req *r, const char *text)
{
    char head[48];
    size_t n = strlen(text);
    if (r->parked.len < n || n > sizeof head) {
        return false;
    }
    slice_copy(&r->parked, 0, head, n);
    return memcmp(head, text, n) == 0;
}

static bool part_fails(const struct req *r)
{
    return part_begins(r, "-") || part_begins(r, "!");
}

/* SCRIPT KILL: the node that did it; else the one that says why it could not, rather than that it had nothing to do. */
static void merge_one_ok(struct fan *f)
{
    struct req *best = f->parts;
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        if (!part_fails(r)) {
            best = r;
            break;
        }
        best = part_begins(best, "-NOTBUSY") ? r : best;
    }
    give_part(f, best);
}

/* A node that has no key, or where no function runs, in either protocol. */
static bool part_is_idle(const struct req *r)
{
    return part_begins(r, "$-1") || part_begins(r, "_") || part_begins(r, "*4\r\n$14\r\nrunning_script\r\n$-1") ||
           part_begins(r, "%2\r\n$14\r\nrunning_script\r\n_");
}

/* RANDOMKEY: a node that has a key, each in its turn. FUNCTION STATS: a node where something runs. */
static void merge_special(struct fan *f)
{
    static uint32_t turn;
    struct req *best = f->parts;
    uint32_t first = turn++ % f->count;
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        if (!part_is_idle(r) && (r->part >= first || part_is_idle(best) || best == f->parts)) {
            best = r;
            if (r->part >= first) {
                break;
            }
        }
    }
    give_part(f, best);
}

/* The first error in the order of the parts, word for word. */
static void give_error(struct fan *f)
{
    static char line[1024];
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        size_t n = r->parked.len < sizeof line ? r->parked.len : sizeof line;
        slice_copy(&r->parked, 0, line, n);
        if (n == 0 || !reply_is_error((unsigned char)line[0]) || (line[0] == '!' && n == sizeof line)) {
            continue; /* "!" says how long it is: one so long cannot be cut */
        }
        if (n == sizeof line) {
            memcpy(line + n - 2, "\r\n", 2);
        }
        give(f, line, n);
        return;
    }
    give_text(f, "-ERR a part of the request failed, and its error did not fit (chunks)\r\n");
}

/* Somebody else makes one answer of those of the parts. */
static void have_told(struct fan *f)
{
    struct req *whole = f->whole;
    whole->fan = NULL;
    whole->take = req_to_client;
    if (!f->tell(whole, f)) {
        conn_fail(whole->client->conn, "no chunk left for a merged answer (chunks)");
        must(f->tell(whole, f));
    }
    fan_free(f);
}

size_t fan_part(const struct fan *f, uint32_t i, void *out, size_t cap)
{
    const struct req *r = f->parts;
    while (i-- > 0 && r != NULL) {
        r = r->client_next;
    }
    cap = r == NULL ? 0 : r->parked.len < cap ? r->parked.len : cap;
    if (cap > 0) {
        slice_copy(&r->parked, 0, out, cap);
    }
    return cap;
}

static void merge(struct fan *f)
{
    unsigned char line[24];
    switch (f->command->merge) {
    case MERGE_BY_KEY:
        merge_by_key(f);
        break;
    case MERGE_SUM:
        give(f, line, resp_put_header(line, ':', f->sum));
        break;
    case MERGE_APPEND:
        merge_append(f);
        break;
    case MERGE_AND:
        merge_and(f);
        break;
    case MERGE_MIN:
        merge_min(f);
        break;
    case MERGE_ONE_OK:
        merge_one_ok(f);
        break;
    case MERGE_SPECIAL:
        merge_special(f);
        break;
    default:
        give_part(f, f->parts); /* all agree, or are taken to */
    }
}

static void finish(struct fan *f)
{
    struct req *whole = f->whole;
    if (script_is_flush(f->command)) {
        script_flush_ends(!f->failed);
    }
    if (whole->client == NULL) {
        whole->fan = NULL;
        fan_free(f);
        req_free(whole);
        return;
    }
    whole->client->parked_bytes -= f->bytes;
    if (f->failed && f->command->merge != MERGE_ONE_OK) {
        give_error(f);
    } else if (f->odd) {
        give_text(f, WRONG_SHAPE);
    } else if (f->over) {
        give_text(f, "-ERR the merged answer is longer than merge_limit\r\n");
    } else if (f->crowded) {
        give_text(f, "-ERR no room for the merged answer (chunks)\r\n");
    } else if (f->tell != NULL) {
        have_told(f);
    } else {
        merge(f);
    }
}

/* Whether the answers can be put together once the last n bytes of them are kept. What is moved frees its chunk, but
 * not before all that is in it has been: of each part two chunks may wait for that, where it begins and where it has
 * got to. */
static bool room_to_merge(const struct fan *f, size_t n)
{
    size_t bytes = f->bytes + n, ends = 2 * f->count * buf_chunk_size();
    return buf_free_chunks() * buf_chunk_size() >= (bytes < ends ? bytes : ends) + n + 6 * buf_chunk_size();
}

static bool is_error(const struct req *r, const unsigned char *p, bool last)
{
    return last && r->parked.len == 0 && reply_is_error(*p);
}

/* Whether the answers are put together at the end: errors are not, but for a command of which one success is enough. */
static bool will_merge(const struct fan *f, bool error)
{
    return f->command->merge == MERGE_ONE_OK || (!f->failed && !error);
}

/* Keeps n bytes of a part's answer; false when there is no room now, for them or for what is done when they are there. */
static bool keep(struct fan *f, struct req *r, const unsigned char *p, size_t n, bool last)
{
    f->over = f->over || f->bytes + n > r->service->conf->merge_limit;
    f->crowded = f->crowded || f->bytes + n > buf_total() / 2;
    if (f->over || f->crowded || r->client == NULL) {
        return true;
    }
    if (last && f->answered + 1 == f->count && will_merge(f, is_error(r, p, last)) && !room_to_merge(f, n)) {
        return false;
    }
    if (last && r->parked.len == 0 ? !pen_write(&f->pen, BUF_REPLY, p, n, &r->parked)
                                   : !slice_extend(&r->parked, BUF_REPLY, p, n)) {
        return false;
    }
    f->bytes += n;
    r->client->parked_bytes += n;
    return true;
}

/* All parts are answered, the last one being r: that is the one that its client had to wait for. */
static void tell_slow(const struct fan *f, const struct req *r)
{
    trace_whole(r, r->upstream != NULL ? r->upstream->backend : NULL, f->whole->born_us, r->sent_us);
}

static bool take_part(struct req *r, const unsigned char *p, size_t n, bool last)
{
    struct fan *f = r->fan;
    bool error = n > 0 && is_error(r, p, last);
    if (n > 0 && (f->command->merge != MERGE_SUM || error) && !keep(f, r, p, n, last)) {
        return false;
    }
    if (!last) {
        return true;
    }
    if (f->command->merge == MERGE_SUM && !error) {
        int64_t value = 0;
        f->odd = f->odd || n < 4 || *p != ':' || !resp_to_int(p + 1, n - 3, &value) || value < 0 ||
                 value > INT64_MAX - f->sum;
        f->sum += f->odd ? 0 : value;
    }
    f->failed = f->failed || error;
    if (f->answered + 1 == f->count && trace_done(trace_stamp() - f->whole->born_us)) {
        tell_slow(f, r);
    }
    slice_release(&r->bytes);
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

/* The record of part i, of the slot that fn.parts names, behind those before it. NULL: there is none left. */
static struct req *add_part(struct fan *f, struct client *c, const struct request *q, uint32_t i)
{
    struct req *r = req_take(c, q->command, take_part);
    if (r != NULL) {
        *(f->last != NULL ? &f->last->client_next : &f->parts) = r;
        f->last = r;
        r->fan = f;
        r->slot = fn.parts[i].slot;
        r->part = (uint16_t)i;
    }
    return r;
}

static bool make_parts(struct fan *f, struct client *c, const struct request *q)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct backend *b = service_owner(c->service, fn.parts[i].slot);
        struct req *r = add_part(f, c, q, i);
        if (r == NULL) {
            return false;
        }
        if (fn.parts[i].keys > 1) {
            r->flags |= REQ_FENCE;
        }
        if (!write_part(r, q, &fn.parts[i], b != NULL ? &req_upstream(r, b)->pen : &f->pen)) {
            return false;
        }
    }
    return q->command->merge != MERGE_BY_KEY || write_plan(f, q);
}

/* A fan of `count` parts that `make` makes, in its client's queue. False: something ran out, and the client starves. */
static bool begin(struct client *c, const struct request *q, uint32_t count, uint32_t keys,
                  bool (*make)(struct fan *, struct client *, const struct request *))
{
    struct fan *f = fn.free;
    fn.free = f->next;
    memset(f, 0, sizeof *f);
    f->count = count;
    f->keys = keys;
    f->command = q->command;
    f->whole = req_take(c, q->command, take_part);
    if (!make(f, c, q)) {
        req_free(f->whole);
        fan_free(f);
        client_starve(c);
        return false;
    }
    f->whole->fan = f;
    f->whole->state = REQ_PARTS;
    req_enqueue(f->whole);
    stats.split_requests++;
    stats.split_parts += count;
    for (struct req *r = f->parts; r != NULL; r = r->client_next) {
        req_commit(r);
    }
    return true;
}

/* Sends the parts of the client's last request. The last one to be answered ends the fan, and that can be while it is
 * being sent. */
static enum verdict send_parts(struct client *c, void (*send)(struct req *))
{
    for (struct req *r = c->tail->fan->parts, *next; r != NULL; r = next) {
        next = r->client_next;
        send(r);
    }
    return VERDICT_DONE;
}

enum verdict fan_split(struct client *c, const struct request *q, uint32_t key_count)
{
    uint32_t count = group(q->p, key_count);
    if (count > fn.total * 8 || count > UINT16_MAX) {
        if (client_error(c, "ERR a request over %u slots is too wide for this proxy (max_requests)", (unsigned)count)) {
            return VERDICT_DONE;
        }
        client_starve(c);
        return VERDICT_WAIT;
    }
    if (fn.free == NULL || redis_req_free() < count + 1 || !room_for(c, q, count)) {
        redis_req_shortage();
        client_starve(c);
        return VERDICT_WAIT;
    }
    return begin(c, q, count, key_count, make_parts) ? send_parts(c, req_route) : VERDICT_WAIT;
}

/* -------------------------------------------------------- to all masters */

/* Notes a slot of each node that owns any in fn.parts. Gives the number of nodes. */
static uint32_t masters(const struct service *s)
{
    static uint32_t told[BACKENDS_MAX]; /* the number of the fan that has counted this node */
    uint32_t count = 0;
    fn.number++;
    for (uint32_t slot = 0; slot < SLOTMAP_SLOTS; slot++) {
        uint16_t owner = s->map.owner[slot];
        if (owner != SLOTMAP_NONE && told[owner] != fn.number) {
            told[owner] = fn.number;
            fn.parts[count++].slot = (uint16_t)slot;
        }
    }
    return count;
}

static bool repeat(struct fan *f, struct client *c, const struct request *q)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct req *r = add_part(f, c, q, i);
        if (r == NULL) {
            return false;
        }
        r->flags |= REQ_ALL;
        if (!req_bytes(r, service_owner(c->service, r->slot), c, q->p, q->len, q->copied)) {
            return false;
        }
    }
    return true;
}

/* Answers that grow with the data go over leases while there are some, since others would wait behind them; and so do
 * commands meant for a node that is busy with a script, since a server does not read what stands behind that. */
static void send_repeated(struct req *r)
{
    struct backend *b = service_owner(r->service, r->slot);
    bool shares = r->client == NULL || !r->client->owns;
    bool apart = shares && (r->command->merge == MERGE_APPEND || (r->command->flags & CMD_ALLOW_BUSY) != 0);
    struct upstream *u = apart && b != NULL ? lease_take(b, NULL, LEASE_TRANSFER, (r->flags & REQ_RESP3) != 0) : NULL;
    if (u != NULL && u->conn != NULL) {
        lease_send(u, r);
        return;
    }
    if (u != NULL) {
        lease_return(u);
    }
    req_route(r);
}

/* A fan of one part a master, not sent yet. False: something ran out. */
static bool begin_all(struct client *c, const struct request *q)
{
    uint32_t count = masters(c->service);
    if (redis_req_free() < count + 1 || fn.free == NULL || !room_for(c, q, count)) {
        redis_req_shortage();
        client_starve(c);
        return false;
    }
    return begin(c, q, count, 0, repeat);
}

/* A node busy with a script would refuse its part of what the others did: one server would have done nothing. False: the
 * request is none of that. What stands behind requests of its client is told by the nodes, in its turn. */
static bool refused_by_all(struct client *c, const struct request *q, enum verdict *v)
{
    const char *busy = service_busy(c->service);
    if (busy == NULL || (q->command->flags & CMD_ALLOW_BUSY) != 0 || c->unsettled > 0) {
        return false;
    }
    *v = client_error(c, "%s", busy + 1) ? VERDICT_DONE : VERDICT_WAIT;
    if (*v == VERDICT_WAIT) {
        client_starve(c);
    }
    return true;
}

/* What goes over leases goes beside all else that its client has asked and will ask: it waits for that, and that for it.
 * So does SCRIPT FLUSH, as scripts are given to nodes meanwhile or not (redis_script.c). */
enum verdict fan_all(struct client *c, const struct request *q)
{
    bool aside = q->command->merge == MERGE_APPEND || script_is_flush(q->command);
    enum verdict v;
    if (refused_by_all(c, q, &v)) {
        return v;
    }
    if ((aside && c->unsettled > 0) || !begin_all(c, q)) {
        return VERDICT_WAIT;
    }
    c->gate = c->gate || aside;
    if (script_is_flush(q->command)) {
        script_flush_begins();
    }
    return send_parts(c, send_repeated);
}

enum verdict fan_ask(struct client *c, const struct request *ask, const struct command *asked, uint32_t mark,
                     fan_teller tell)
{
    if (!begin_all(c, ask)) {
        return VERDICT_WAIT;
    }
    c->tail->command = asked;
    c->tail->mark = mark;
    c->tail->fan->tell = tell;
    return send_parts(c, send_repeated);
}
