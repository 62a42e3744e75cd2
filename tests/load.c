/*
 * The correctness load: many clients that pipeline mixed commands through one address and check every byte of every answer against a
 * model of what that client wrote.
 *
 *     generate --> out bytes --> socket --> answers --> check against the request's expectation --> count
 *        |                                                    ^
 *        +--> model of the client's keys --> expectation -----+   (made when the request is written, kept in order in a ring)
 *
 * Each client has its own keys, so what it must get is known when it asks. A write whose fate is not known (an error answer, a lost
 * connection) retires its keys: they get a new name, and what is still in flight on the old name may have any answer. So there are no
 * false alarms, and every key still in the model holds only acknowledged writes: -w reads them all back. A SET that was answered with
 * "not executed" is remembered too: its value must not be found under its old name.
 *
 * A read that shows what a later write of the same pipeline did, while that write itself is answered with an error, is counted apart, as
 * "early": the read was asked again after the write had run. So a mismatch is judged only when all that was in flight with it is answered.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    PIPELINE_MAX = 64,  /* requests written in one go */
    RING = 256,         /* requests in flight per client: more than two full pipelines */
    REFS = 16,          /* keys one request may name */
    SEGS = 6,           /* pieces a string value may be made of before it is set afresh */
    LIST_MAX = 40,
    FIELDS = 8,
    GROUP = 4,          /* keys of one hash tag */
    N_STR = 100,
    N_NUM = 20,
    N_LIST = 20,
    N_HASH = 20,
    N_GROUPED = 10 * GROUP,
    FIRST_NUM = N_STR,
    FIRST_LIST = FIRST_NUM + N_NUM,
    FIRST_HASH = FIRST_LIST + N_LIST,
    FIRST_GROUPED = FIRST_HASH + N_HASH,
    KEYS = FIRST_GROUPED + N_GROUPED,
    NOISE = 65521,      /* a prime, so that bytes moved by a whole buffer never fit by chance */
    HEAD = 16,          /* each piece opens with its seed in hex, so that no two pieces look alike */
    SHOWN = 100,        /* bytes of an answer that a report shows */
    REPORTS = 20,       /* wrong answers reported in full */
    ERROR_TEXTS = 64,
    DENIED = 256,       /* SETs said not to have been executed, remembered per client */
    SUSPECTS = 16       /* mismatches not yet judged, per client */
};

/* ---- values: made from a seed, never stored ---- */

struct seg {
    uint64_t seed; /* 0 stands for zero bytes */
    size_t off, len;
};

struct value {
    size_t len;
    unsigned count;
    struct seg seg[SEGS];
};

struct elem {
    uint64_t seed;
    size_t len; /* 0 for a hash field that is not there */
};

enum type { T_NONE, T_STR, T_NUM, T_LIST, T_HASH };

struct key {
    enum type type;
    unsigned gen;
    union {
        struct value str;
        long long num;
        struct {
            unsigned count;
            struct elem at[LIST_MAX];
        } list;
        struct elem field[FIELDS];
    } u;
};

/* ---- what an answer must be ---- */

enum kind { K_NIL, K_VALUE, K_TEXT, K_INT, K_SIMPLE };

struct item {
    enum kind kind;
    long long num;
    const char *text; /* K_SIMPLE: a literal; K_TEXT: num printed, or this */
    struct value val;
};

enum shape { X_ONE, X_ARRAY, X_PAIRS, X_ERROR, X_OTHER, X_HELLO };

struct ref {
    unsigned index, gen;
};

struct request {
    const char *name;
    unsigned long seq;
    long long sent_ms;
    enum shape shape; /* X_OTHER: anything but the item */
    int write, readback;
    int resp3;        /* in which protocol its answer comes */
    int set;          /* a plain SET: one.val is what it writes */
    const char *error; /* X_ERROR: how the error must begin */
    unsigned refs;
    struct ref ref[REFS];
    unsigned items;
    int owned;        /* item is from malloc */
    struct item *item, one;
};

enum state { S_WAIT, S_CONNECT, S_OPEN, S_QUIT, S_DONE };

struct bytes {
    char *at;
    size_t from, len, cap; /* what counts is at[from .. len) */
};

struct client {
    unsigned id;
    enum state state;
    int fd;
    int ever; /* was connected once */
    long long retry_ms;
    uint64_t rnd;
    struct bytes in, out;
    size_t need; /* bytes that the answer at the head needs at least */
    unsigned head, count;
    int resp3;   /* what it speaks from the next request on */
    unsigned low; /* in flight at which the next pipeline is written */
    unsigned readback_sent, readback_done;
    unsigned long seq;
    long long quit_ms;
    struct request ring[RING];
    struct key key[KEYS];
    unsigned suspects;
    struct suspect {
        struct request request;
        unsigned long until; /* the last request that was in flight with it */
        char *got;
        size_t len;
    } suspect[SUSPECTS];
    unsigned denials;
    struct denial {
        struct ref ref;
        struct value val;
    } denied[DENIED];
};

static struct {
    const char *address;
    unsigned clients;
    unsigned long total;
    uint64_t seed;
    long limit_s, answer_s;
    int allow_errors, verbose, resp3;
    const char *readback_path;
    size_t big, split;
} opt = {NULL, 50, 100000, 1, 0, 60, 0, 0, 0, NULL, (size_t)8 << 20, 250000};

static struct {
    unsigned long issued, answers, wrong, early, errors, reconnects;
    unsigned long readback_keys, missing, unread, denied, revived;
    long long slowest_ms;
} sum;

static struct {
    char text[100];
    unsigned long count;
} error_table[ERROR_TEXTS];
static unsigned error_texts;

static char noise[2 * NOISE];
static char prefix[24];
static FILE *missing_file;
static struct sockaddr_storage target;
static socklen_t target_len;
static volatile sig_atomic_t interrupted;

static void die(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    exit(2);
}

static long long now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint64_t next_random(uint64_t *s)
{
    uint64_t x = *s;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *s = x;
    return x * 2685821657736338717u;
}

static unsigned below(struct client *c, unsigned n)
{
    return (unsigned)((next_random(&c->rnd) >> 33) % n);
}

static uint64_t new_seed(struct client *c)
{
    uint64_t s = next_random(&c->rnd);

    return s ? s : 1;
}

/* ---- the bytes of a value ---- */

static char seg_head_byte(uint64_t seed, size_t i)
{
    return "0123456789abcdef"[(seed >> (60 - 4 * i)) & 15];
}

/* Points *want at the segment's bytes from `off` on; gives how many of them lie there in one run. */
static size_t seg_run(uint64_t seed, size_t off, size_t len, char *head, const char **want)
{
    static const char zeros[4096];
    size_t n;

    if (seed == 0) {
        *want = zeros;
        return len < sizeof zeros ? len : sizeof zeros;
    }
    if (off < HEAD) {
        n = HEAD - off < len ? HEAD - off : len;
        for (size_t i = 0; i < n; i++)
            head[i] = seg_head_byte(seed, off + i);
        *want = head;
        return n;
    }
    *want = noise + (seed % NOISE + off) % NOISE;
    return len < NOISE ? len : NOISE;
}

static void value_copy(char *to, const struct value *v, size_t limit)
{
    for (unsigned i = 0; i < v->count; i++) {
        size_t off = v->seg[i].off, left = v->seg[i].len;

        while (left > 0 && limit > 0) {
            char head[HEAD];
            const char *want;
            size_t n = seg_run(v->seg[i].seed, off, left < limit ? left : limit, head, &want);

            memcpy(to, want, n);
            to += n;
            off += n;
            left -= n;
            limit -= n;
        }
    }
}

/* The index of the first byte that differs, or the value's length. */
static size_t value_compare(const char *got, const struct value *v)
{
    const char *p = got;

    for (unsigned i = 0; i < v->count; i++) {
        size_t off = v->seg[i].off, left = v->seg[i].len;

        while (left > 0) {
            char head[HEAD];
            const char *want;
            size_t n = seg_run(v->seg[i].seed, off, left, head, &want);

            if (memcmp(p, want, n) != 0) {
                while (*p == *want)
                    p++, want++;
                return (size_t)(p - got);
            }
            p += n;
            off += n;
            left -= n;
        }
    }
    return v->len;
}

static void value_add(struct value *v, uint64_t seed, size_t off, size_t len)
{
    if (len == 0)
        return;
    v->seg[v->count].seed = seed;
    v->seg[v->count].off = off;
    v->seg[v->count].len = len;
    v->count++;
    v->len += len;
}

static void value_set(struct value *v, uint64_t seed, size_t len)
{
    v->count = 0;
    v->len = 0;
    value_add(v, seed, 0, len);
}

/* Adds bytes [from, to) of v to out. Returns 0 when out has no room for the pieces. */
static int value_slice(struct value *out, const struct value *v, size_t from, size_t to)
{
    size_t at = 0;

    for (unsigned i = 0; i < v->count; i++) {
        const struct seg *s = &v->seg[i];
        size_t a = from > at ? from : at, b = to < at + s->len ? to : at + s->len;

        if (a < b) {
            if (out->count == SEGS)
                return 0;
            value_add(out, s->seed, s->seed ? s->off + (a - at) : 0, b - a);
        }
        at += s->len;
    }
    return 1;
}

/* SETRANGE on the model. Returns 0, with v unchanged, when the outcome would have too many pieces. */
static int value_overlay(struct value *v, size_t off, uint64_t seed, size_t len)
{
    struct value out;

    out.count = 0;
    out.len = 0;
    if (!value_slice(&out, v, 0, off < v->len ? off : v->len) || out.count + 2 > SEGS)
        return 0;
    if (off > v->len)
        value_add(&out, 0, 0, off - v->len);
    value_add(&out, seed, 0, len);
    if (!value_slice(&out, v, off + len, v->len > off + len ? v->len : off + len))
        return 0;
    *v = out;
    return 1;
}

static size_t random_size(struct client *c)
{
    unsigned dice = below(c, 1000);
    size_t n;

    if (dice == 0 && opt.big > 65536)
        return 65536 + (size_t)(next_random(&c->rnd) % (opt.big - 65536));
    n = dice < 10 ? 4096 + below(c, 61440) : dice < 500 ? below(c, 200) : below(c, 4096);
    return n <= opt.big ? n : n % (opt.big + 1);
}

/* ---- output ---- */

static char *bytes_room(struct bytes *b, size_t n)
{
    if (b->len + n > b->cap) {
        if (b->from > 0) {
            memmove(b->at, b->at + b->from, b->len - b->from);
            b->len -= b->from;
            b->from = 0;
        }
        if (b->len + n > b->cap) {
            b->cap = b->len + n + b->cap / 2;
            b->at = realloc(b->at, b->cap);
            if (b->at == NULL)
                die("out of memory for %lu bytes", (unsigned long)b->cap);
        }
    }
    return b->at + b->len;
}

static void bytes_clear(struct bytes *b)
{
    b->from = b->len = 0;
    /* One big value must not keep its memory for the rest of the run. */
    if (b->cap > 1 << 20) {
        free(b->at);
        b->at = NULL;
        b->cap = 0;
    }
}

static void put(struct client *c, const void *p, size_t n)
{
    memcpy(bytes_room(&c->out, n), p, n);
    c->out.len += n;
}

static void put_head(struct client *c, char mark, size_t n)
{
    char line[32];

    put(c, line, (size_t)snprintf(line, sizeof line, "%c%lu\r\n", mark, (unsigned long)n));
}

static void arg_bytes(struct client *c, const char *p, size_t n)
{
    put_head(c, '$', n);
    put(c, p, n);
    put(c, "\r\n", 2);
}

static void arg_text(struct client *c, const char *text)
{
    arg_bytes(c, text, strlen(text));
}

static void arg_number(struct client *c, long long n)
{
    char text[32];

    arg_bytes(c, text, (size_t)snprintf(text, sizeof text, "%lld", n));
}

static void arg_value(struct client *c, uint64_t seed, size_t len)
{
    struct value v;

    value_set(&v, seed, len);
    put_head(c, '$', len);
    value_copy(bytes_room(&c->out, len), &v, len);
    c->out.len += len;
    put(c, "\r\n", 2);
}

/* ---- keys ---- */

static void key_name(const struct client *c, unsigned index, unsigned gen, char *out, size_t cap)
{
    if (index >= FIRST_GROUPED) {
        unsigned n = index - FIRST_GROUPED;

        snprintf(out, cap, "{%s:%u:t%u:%u}%u", prefix, c->id, n / GROUP, gen, n % GROUP);
    } else {
        char cls = index >= FIRST_HASH ? 'h' : index >= FIRST_LIST ? 'l' : index >= FIRST_NUM ? 'n' : 's';

        snprintf(out, cap, "%s:%u:%c%u:%u", prefix, c->id, cls, index, gen);
    }
}

static void retire(struct client *c, unsigned index)
{
    unsigned first = index, last = index;

    if (index >= FIRST_GROUPED) {
        first = index - (index - FIRST_GROUPED) % GROUP;
        last = first + GROUP - 1;
    }
    for (; first <= last; first++) {
        c->key[first].type = T_NONE;
        c->key[first].gen++;
    }
}

static int retired(const struct client *c, const struct request *r)
{
    for (unsigned i = 0; i < r->refs; i++)
        if (c->key[r->ref[i].index].gen != r->ref[i].gen)
            return 1;
    return 0;
}

/* ---- requests ---- */

static struct request *request_open(struct client *c, const char *name, unsigned args, int write)
{
    struct request *r = &c->ring[(c->head + c->count) % RING];
    char spelt[16];
    size_t n = strlen(name), i;

    memset(r, 0, offsetof(struct request, one));
    r->name = name;
    r->seq = ++c->seq;
    r->sent_ms = now_ms();
    r->shape = X_ONE;
    r->write = write;
    r->resp3 = c->resp3;
    r->items = 1;
    r->item = &r->one;
    r->one.text = NULL;
    c->count++;
    sum.issued++;
    put_head(c, '*', args + 1);
    for (i = 0; i < n && i < sizeof spelt; i++)
        spelt[i] = below(c, 8) == 0 ? (char)tolower((unsigned char)name[i]) : name[i];
    arg_bytes(c, spelt, i);
    return r;
}

static void arg_key(struct client *c, struct request *r, unsigned index)
{
    char name[96];

    key_name(c, index, c->key[index].gen, name, sizeof name);
    arg_text(c, name);
    r->ref[r->refs].index = index;
    r->ref[r->refs].gen = c->key[index].gen;
    r->refs++;
}

static void request_items(struct request *r, enum shape shape, unsigned n)
{
    r->shape = shape;
    r->items = n;
    if (n > 0) {
        r->item = malloc(n * sizeof *r->item);
        if (r->item == NULL)
            die("out of memory");
        r->owned = 1;
    }
}

static void request_free(struct request *r)
{
    if (r->owned)
        free(r->item);
}

static void want_simple(struct item *i, const char *text)
{
    i->kind = K_SIMPLE;
    i->text = text;
}

static void want_int(struct item *i, long long n)
{
    i->kind = K_INT;
    i->num = n;
}

static void want_value(struct item *i, uint64_t seed, size_t len)
{
    i->kind = K_VALUE;
    value_set(&i->val, seed, len);
}

static void want_error(struct request *r, const char *text)
{
    r->shape = X_ERROR;
    r->error = text;
}

/* What GET of a key answers; a key of another type is nil, as MGET has it. */
static void want_key(struct item *i, const struct key *k)
{
    i->text = NULL;
    if (k->type == T_STR) {
        i->kind = K_VALUE;
        i->val = k->u.str;
    } else if (k->type == T_NUM) {
        i->kind = K_TEXT;
        i->num = k->u.num;
    } else {
        i->kind = K_NIL;
    }
}

static unsigned any_string(struct client *c)
{
    return below(c, 5) == 0 ? FIRST_GROUPED + below(c, N_GROUPED) : below(c, N_STR);
}

static void set_string(struct key *k, uint64_t seed, size_t len)
{
    k->type = T_STR;
    value_set(&k->u.str, seed, len);
}

static void do_set(struct client *c)
{
    unsigned index = any_string(c);
    uint64_t seed = new_seed(c);
    size_t len = random_size(c);
    struct key *k = &c->key[index];
    unsigned form = below(c, 10);
    struct request *r = request_open(c, form == 0 ? "SETNX" : form == 1 ? "GETSET" : "SET", 2, 1);

    arg_key(c, r, index);
    arg_value(c, seed, len);
    if (form == 0) {
        want_int(r->item, k->type == T_NONE);
        if (k->type != T_NONE)
            return;
    } else if (form == 1) {
        want_key(r->item, k);
    } else {
        want_simple(r->item, "OK");
        value_set(&r->item->val, seed, len);
        r->set = 1;
    }
    set_string(k, seed, len);
}

static void get_key(struct client *c, unsigned index)
{
    struct request *r = request_open(c, "GET", 1, 0);

    arg_key(c, r, index);
    want_key(r->item, &c->key[index]);
}

static void do_get(struct client *c)
{
    get_key(c, any_string(c));
}

static void do_append(struct client *c)
{
    unsigned index = any_string(c);
    struct key *k = &c->key[index];
    uint64_t seed = new_seed(c);
    size_t len = random_size(c);
    struct request *r;

    if (k->type == T_STR && (k->u.str.count == SEGS || k->u.str.len > opt.big)) {
        get_key(c, index);
        return;
    }
    r = request_open(c, "APPEND", 2, 1);
    arg_key(c, r, index);
    arg_value(c, seed, len);
    if (k->type == T_NONE)
        set_string(k, seed, len);
    else
        value_add(&k->u.str, seed, 0, len);
    want_int(r->item, (long long)k->u.str.len);
}

static void do_setrange(struct client *c)
{
    unsigned index = any_string(c);
    struct key *k = &c->key[index];
    uint64_t seed = new_seed(c);
    size_t len = 1 + below(c, 500), off;
    struct value v;
    struct request *r;

    if (k->type == T_STR)
        v = k->u.str;
    else
        value_set(&v, 0, 0);
    off = (size_t)(next_random(&c->rnd) % (v.len + 100));
    if (!value_overlay(&v, off, seed, len)) {
        get_key(c, index);
        return;
    }
    r = request_open(c, "SETRANGE", 3, 1);
    arg_key(c, r, index);
    arg_number(c, (long long)off);
    arg_value(c, seed, len);
    k->type = T_STR;
    k->u.str = v;
    want_int(r->item, (long long)v.len);
}

static void do_strlen(struct client *c)
{
    unsigned index = any_string(c);
    struct key *k = &c->key[index];
    struct request *r = request_open(c, "STRLEN", 1, 0);

    arg_key(c, r, index);
    want_int(r->item, k->type == T_STR ? (long long)k->u.str.len : 0);
}

static void do_getrange(struct client *c)
{
    unsigned index = any_string(c);
    struct key *k = &c->key[index];
    size_t len = k->type == T_STR ? k->u.str.len : 0;
    size_t from = len ? (size_t)(next_random(&c->rnd) % len) : 0;
    size_t to = from + below(c, 8192);
    struct request *r = request_open(c, "GETRANGE", 3, 0);

    arg_key(c, r, index);
    arg_number(c, (long long)from);
    arg_number(c, (long long)to);
    want_value(r->item, 0, 0);
    if (k->type == T_STR)
        value_slice(&r->item->val, &k->u.str, from, to + 1 < len ? to + 1 : len);
}

/* DEL, UNLINK, EXISTS, TOUCH over several slots; EXISTS and TOUCH count a key as often as it is named. */
static void do_count(struct client *c)
{
    static const char *const names[] = {"DEL", "UNLINK", "EXISTS", "TOUCH", "EXISTS"};
    unsigned which = below(c, 5), n = 1 + below(c, 6), i;
    int removes = which < 2;
    long long found = 0;
    struct request *r = request_open(c, names[which], n, removes);

    for (i = 0; i < n; i++) {
        unsigned index = removes && below(c, 4) ? below(c, N_STR) : below(c, KEYS);

        arg_key(c, r, index);
        found += c->key[index].type != T_NONE;
        if (removes)
            c->key[index].type = T_NONE;
    }
    want_int(r->item, found);
}

static void do_mset(struct client *c)
{
    unsigned n = 2 + below(c, 10), i;
    struct request *r = request_open(c, "MSET", 2 * n, 1);

    for (i = 0; i < n; i++) {
        unsigned index = any_string(c);
        uint64_t seed = new_seed(c);
        /* A request over several slots is split in memory: it stays shorter than what a proxy keeps. */
        size_t len = random_size(c) % (opt.split / 16);

        arg_key(c, r, index);
        arg_value(c, seed, len);
        set_string(&c->key[index], seed, len);
    }
    want_simple(r->item, "OK");
}

static void do_mget(struct client *c)
{
    unsigned n = 2 + below(c, REFS - 2), i;
    struct request *r = request_open(c, "MGET", n, 0);

    request_items(r, X_ARRAY, n);
    for (i = 0; i < n; i++) {
        unsigned index = below(c, KEYS);

        arg_key(c, r, index);
        want_key(&r->item[i], &c->key[index]);
    }
}

static void do_same_slot(struct client *c)
{
    unsigned base = FIRST_GROUPED + below(c, N_GROUPED / GROUP) * GROUP, a, b;
    struct request *r;

    switch (below(c, 3)) {
    case 0:
        r = request_open(c, "MSET", 2 * GROUP, 1);
        for (a = 0; a < GROUP; a++) {
            uint64_t seed = new_seed(c);
            size_t len = random_size(c);

            arg_key(c, r, base + a);
            arg_value(c, seed, len);
            set_string(&c->key[base + a], seed, len);
        }
        want_simple(r->item, "OK");
        return;
    case 1:
        r = request_open(c, "MGET", GROUP, 0);
        request_items(r, X_ARRAY, GROUP);
        for (a = 0; a < GROUP; a++) {
            arg_key(c, r, base + a);
            want_key(&r->item[a], &c->key[base + a]);
        }
        return;
    default:
        a = base + below(c, GROUP);
        b = base + below(c, GROUP);
        r = request_open(c, "RENAME", 2, 1);
        arg_key(c, r, a);
        arg_key(c, r, b);
        if (c->key[a].type == T_NONE) {
            want_error(r, "ERR no such key");
            return;
        }
        want_simple(r->item, "OK");
        if (a != b) {
            c->key[b].type = T_STR;
            c->key[b].u.str = c->key[a].u.str;
            c->key[a].type = T_NONE;
        }
    }
}

static void do_number(struct client *c)
{
    unsigned index = FIRST_NUM + below(c, N_NUM), form = below(c, 4);
    struct key *k = &c->key[index];
    long long by = form == 0 ? 1 : (long long)below(c, 1000000) - 500000;
    struct request *r;

    if (form == 3) {
        get_key(c, index);
        return;
    }
    r = request_open(c, form == 0 ? "INCR" : "INCRBY", form == 0 ? 1 : 2, 1);
    arg_key(c, r, index);
    if (form != 0)
        arg_number(c, by);
    if (k->type == T_NONE) {
        k->type = T_NUM;
        k->u.num = 0;
    }
    k->u.num += by;
    want_int(r->item, k->u.num);
}

static void list_range(struct client *c, unsigned index, unsigned from, unsigned count)
{
    struct key *k = &c->key[index];
    unsigned have = k->type == T_LIST ? k->u.list.count : 0, i;
    struct request *r = request_open(c, "LRANGE", 3, 0);

    arg_key(c, r, index);
    arg_number(c, from);
    arg_number(c, (long long)from + count - 1);
    if (from > have)
        from = have;
    if (count > have - from)
        count = have - from;
    request_items(r, X_ARRAY, count);
    for (i = 0; i < count; i++)
        want_value(&r->item[i], k->u.list.at[from + i].seed, k->u.list.at[from + i].len);
}

static void list_push(struct client *c, unsigned index, int left)
{
    struct key *k = &c->key[index];
    unsigned n = 1 + below(c, 3), i;
    struct request *r = request_open(c, left ? "LPUSH" : "RPUSH", n + 1, 1);

    if (k->type == T_NONE) {
        k->type = T_LIST;
        k->u.list.count = 0;
    }
    arg_key(c, r, index);
    for (i = 0; i < n; i++) {
        struct elem e;

        e.seed = new_seed(c);
        e.len = random_size(c) % 8192;
        arg_value(c, e.seed, e.len);
        if (left) {
            memmove(&k->u.list.at[1], &k->u.list.at[0], k->u.list.count * sizeof e);
            k->u.list.at[0] = e;
        } else {
            k->u.list.at[k->u.list.count] = e;
        }
        k->u.list.count++;
    }
    want_int(r->item, k->u.list.count);
}

static void do_list(struct client *c)
{
    unsigned index = FIRST_LIST + below(c, N_LIST), form = below(c, 8);
    struct key *k = &c->key[index];
    unsigned have = k->type == T_LIST ? k->u.list.count : 0;
    struct request *r;

    if (form < 3 && have + 3 <= LIST_MAX) {
        list_push(c, index, form < 2);
    } else if (form < 5) {
        r = request_open(c, "LPOP", 1, 1);
        arg_key(c, r, index);
        if (have == 0) {
            r->item->kind = K_NIL;
            return;
        }
        want_value(r->item, k->u.list.at[0].seed, k->u.list.at[0].len);
        memmove(&k->u.list.at[0], &k->u.list.at[1], (have - 1) * sizeof k->u.list.at[0]);
        if (--k->u.list.count == 0)
            k->type = T_NONE;
    } else if (form == 5) {
        r = request_open(c, "LLEN", 1, 0);
        arg_key(c, r, index);
        want_int(r->item, have);
    } else {
        list_range(c, index, form == 6 ? 0 : below(c, LIST_MAX), 1 + below(c, LIST_MAX));
    }
}

static const char *field_name(unsigned f)
{
    static const char *const names[FIELDS] = {"a", "field", "", "f\r\n3", "long-field-name-number-4", "5", "six", "$7"};

    return names[f];
}

static unsigned hash_count(const struct key *k)
{
    unsigned n = 0;

    if (k->type == T_HASH)
        for (unsigned f = 0; f < FIELDS; f++)
            n += k->u.field[f].len > 0;
    return n;
}

static void hash_all(struct client *c, unsigned index)
{
    struct key *k = &c->key[index];
    unsigned n = hash_count(k), f, i = 0;
    struct request *r = request_open(c, "HGETALL", 1, 0);

    arg_key(c, r, index);
    request_items(r, X_PAIRS, 2 * n);
    for (f = 0; n > 0 && f < FIELDS; f++) {
        if (k->u.field[f].len == 0)
            continue;
        r->item[i].kind = K_TEXT;
        r->item[i++].text = field_name(f);
        want_value(&r->item[i++], k->u.field[f].seed, k->u.field[f].len);
    }
}

static void hash_set(struct client *c, unsigned index)
{
    struct key *k = &c->key[index];
    unsigned n = 1 + below(c, 4), i, before = hash_count(k);
    struct request *r = request_open(c, "HSET", 1 + 2 * n, 1);

    if (k->type == T_NONE) {
        k->type = T_HASH;
        memset(k->u.field, 0, sizeof k->u.field);
    }
    arg_key(c, r, index);
    for (i = 0; i < n; i++) {
        unsigned f = below(c, FIELDS);

        k->u.field[f].seed = new_seed(c);
        k->u.field[f].len = 1 + random_size(c) % 8192;
        arg_text(c, field_name(f));
        arg_value(c, k->u.field[f].seed, k->u.field[f].len);
    }
    want_int(r->item, (long long)hash_count(k) - before);
}

static void do_hash(struct client *c)
{
    unsigned index = FIRST_HASH + below(c, N_HASH), f = below(c, FIELDS), form = below(c, 7);
    struct key *k = &c->key[index];
    int have = k->type == T_HASH && k->u.field[f].len > 0;
    struct request *r;

    if (form < 3) {
        hash_set(c, index);
    } else if (form < 5) {
        hash_all(c, index);
    } else if (form == 5) {
        r = request_open(c, "HGET", 2, 0);
        arg_key(c, r, index);
        arg_text(c, field_name(f));
        r->item->kind = K_NIL;
        if (have)
            want_value(r->item, k->u.field[f].seed, k->u.field[f].len);
    } else {
        r = request_open(c, "HDEL", 2, 1);
        arg_key(c, r, index);
        arg_text(c, field_name(f));
        want_int(r->item, have);
        if (have) {
            k->u.field[f].len = 0;
            if (hash_count(k) == 0)
                k->type = T_NONE;
        }
    }
}

static void do_facts(struct client *c)
{
    static const char *const names[] = {"none", "string", "string", "list", "hash"};
    unsigned index = below(c, KEYS);
    struct key *k = &c->key[index];
    int ttl = below(c, 2) == 0;
    struct request *r = request_open(c, ttl ? "TTL" : "TYPE", 1, 0);

    arg_key(c, r, index);
    if (ttl)
        want_int(r->item, k->type == T_NONE ? -2 : -1);
    else
        want_simple(r->item, names[k->type]);
}

static void do_keyless(struct client *c)
{
    uint64_t seed = new_seed(c);
    size_t len = random_size(c) % 65536;
    struct request *r;

    switch (below(c, 4)) {
    case 0:
        r = request_open(c, "PING", 0, 0);
        want_simple(r->item, "PONG");
        return;
    case 1:
        /* The same, spelt inline: what request_open wrote is taken back. */
        r = request_open(c, "PING", 0, 0);
        c->out.len -= strlen("*1\r\n$4\r\nPING\r\n");
        put(c, "PING\r\n", 6);
        want_simple(r->item, "PONG");
        return;
    case 2:
        r = request_open(c, "PING", 1, 0);
        break;
    default:
        r = request_open(c, "ECHO", 1, 0);
    }
    arg_value(c, seed, len);
    want_value(r->item, seed, len);
}

/* From here on the other protocol, or at the start that of every other client with -3; HELLO itself is answered in it already. */
static void do_hello(struct client *c)
{
    struct request *r;

    c->resp3 = !c->resp3;
    r = request_open(c, "HELLO", 1, 0);
    arg_text(c, c->resp3 ? "3" : "2");
    r->shape = X_HELLO;
    r->items = 0;
}

/* Requests whose right answer is an error: it must come in its place too. */
static void do_mistake(struct client *c)
{
    unsigned index = FIRST_LIST + below(c, N_LIST);
    struct request *r;

    switch (below(c, 4)) {
    case 0:
        r = request_open(c, "NOSUCHCOMMAND", 1, 0);
        arg_key(c, r, index);
        want_error(r, "ERR unknown command");
        return;
    case 1:
        request_open(c, "GET", 0, 0);
        want_error(&c->ring[(c->head + c->count - 1) % RING], "ERR wrong number of arguments for 'get' command");
        return;
    case 2:
        /* Never executed, so it counts as a read; the two groups' tags differ, and tags of one length rarely share a slot. */
        r = request_open(c, "RENAME", 2, 0);
        arg_text(c, "{a}");
        arg_text(c, "{b}");
        want_error(r, "CROSSSLOT Keys in request don't hash to the same slot");
        return;
    default:
        if (c->key[index].type != T_LIST) {
            do_keyless(c);
            return;
        }
        r = request_open(c, "GET", 1, 0);
        arg_key(c, r, index);
        want_error(r, "WRONGTYPE Operation against a key");
    }
}

static const struct {
    void (*make)(struct client *c);
    unsigned weight;
} mix[] = {
    {do_set, 16},    {do_get, 18},       {do_append, 4},  {do_setrange, 2}, {do_strlen, 3}, {do_getrange, 4}, {do_count, 8},
    {do_mset, 4},    {do_mget, 7},       {do_same_slot, 8}, {do_number, 8}, {do_list, 8},   {do_hash, 8},     {do_facts, 3},
    {do_keyless, 5}, {do_mistake, 1},
};

static void make_request(struct client *c)
{
    static unsigned total;
    unsigned dice, i;

    if (total == 0)
        for (i = 0; i < sizeof mix / sizeof *mix; i++)
            total += mix[i].weight;
    dice = below(c, total);
    for (i = 0; dice >= mix[i].weight; i++)
        dice -= mix[i].weight;
    mix[i].make(c);
}

static void make_readback(struct client *c)
{
    unsigned index = c->readback_sent++;
    struct key *k = &c->key[index < KEYS ? index : 0];
    struct request *r;

    if (index >= KEYS) {
        struct denial *d = &c->denied[index - KEYS];
        char name[96];

        key_name(c, d->ref.index, d->ref.gen, name, sizeof name);
        r = request_open(c, "GET", 1, 0);
        arg_text(c, name);
        r->refs = 1;
        r->ref[0] = d->ref;
        r->shape = X_OTHER;
        r->item->kind = K_VALUE;
        r->item->val = d->val;
    } else if (k->type == T_LIST) {
        list_range(c, index, 0, LIST_MAX);
    } else if (k->type == T_HASH) {
        hash_all(c, index);
    } else if (k->type == T_NONE) {
        r = request_open(c, "EXISTS", 1, 0);
        arg_key(c, r, index);
        want_int(r->item, 0);
    } else {
        get_key(c, index);
    }
    c->ring[(c->head + c->count - 1) % RING].readback = 1;
}

/* ---- answers ---- */

/* One line of an answer: returns where it ends (after its CRLF), or 0 when it is not whole. */
static size_t line_end(const struct bytes *b, size_t at)
{
    const char *p = b->len > at ? memchr(b->at + at, '\n', b->len - at) : NULL;

    return p ? (size_t)(p - b->at) + 1 : 0;
}

/*
 * Where the answer at `at` ends; 0 when more bytes are needed (*need: how many from b->from at least), or -1 when these are not RESP.
 */
static long answer_end(const struct bytes *b, size_t at, size_t *need)
{
    unsigned long left = 1;

    while (left > 0) {
        size_t end = line_end(b, at);
        long n;

        if (end == 0) {
            *need = b->len - b->from + 1;
            return at < b->len && strchr("+-:$*_%", b->at[at]) == NULL ? -1 : 0;
        }
        if (end - at < 3 || b->at[end - 2] != '\r' || b->at[at] == '\0' || strchr("+-:$*_%", b->at[at]) == NULL)
            return -1;
        left--;
        n = strchr("$*%", b->at[at]) != NULL ? strtol(b->at + at + 1, NULL, 10) : 0;
        if (b->at[at] != '$' && n > 0)
            left += b->at[at] == '%' ? 2 * (unsigned long)n : (unsigned long)n;
        at = (b->at[at] == '$' && n >= 0) ? end + (size_t)n + 2 : end;
        if (at > b->len) {
            *need = at - b->from;
            return 0;
        }
    }
    return (long)at;
}

static int in_resp3; /* the protocol of the answer that is looked at */

static int item_fits(const struct item *want, const char *p, const char **after)
{
    const char *body = strchr(p, '\n') + 1;
    char text[32];
    long n = strtol(p + 1, NULL, 10);

    *after = body;
    if (*p == '$' && n >= 0)
        *after = body + n + 2;
    switch (want->kind) {
    case K_NIL:
        return in_resp3 ? strncmp(p, "_\r\n", 3) == 0 : *p == '$' && n == -1;
    case K_INT:
        snprintf(text, sizeof text, ":%lld\r\n", want->num);
        return strncmp(p, text, strlen(text)) == 0;
    case K_SIMPLE:
        n = (long)strlen(want->text);
        return *p == '+' && strncmp(p + 1, want->text, (size_t)n) == 0 && p[1 + n] == '\r';
    case K_TEXT:
        if (want->text != NULL)
            snprintf(text, sizeof text, "%s", want->text);
        else
            snprintf(text, sizeof text, "%lld", want->num);
        return *p == '$' && n == (long)strlen(text) && memcmp(body, text, (size_t)n) == 0 && memcmp(body + n, "\r\n", 2) == 0;
    case K_VALUE:
        return *p == '$' && n >= 0 && (size_t)n == want->val.len && value_compare(body, &want->val) == want->val.len &&
               memcmp(body + n, "\r\n", 2) == 0;
    }
    return 0;
}

/* A hash's pairs come in the server's order: each must be one of the wanted pairs, each wanted pair once. */
static int pairs_fit(const struct request *r, const char *p)
{
    unsigned seen = 0, i, f;

    for (i = 0; i < r->items; i += 2) {
        const char *value = NULL, *after = NULL;

        for (f = 0; f < r->items; f += 2)
            if (!(seen & 1u << f) && item_fits(&r->item[f], p, &value))
                break;
        if (f == r->items || !item_fits(&r->item[f + 1], value, &after))
            return 0;
        seen |= 1u << f;
        p = after;
    }
    return 1;
}

static int answer_fits(const struct request *r, const char *p)
{
    const char *after;
    unsigned i;
    long pairs = r->shape == X_PAIRS && r->resp3;

    in_resp3 = r->resp3;
    if (r->shape == X_HELLO)
        return strncmp(p, r->resp3 ? "%7\r\n" : "*14\r\n", r->resp3 ? 4 : 5) == 0;
    if (r->shape == X_ERROR)
        return *p == '-' && strncmp(p + 1, r->error, strlen(r->error)) == 0;
    if (r->shape == X_ONE)
        return item_fits(r->item, p, &after);
    if (r->shape == X_OTHER)
        return (*p == '$' || *p == '_') && !item_fits(r->item, p, &after);
    if (*p != (pairs ? '%' : '*') || strtol(p + 1, NULL, 10) != (long)r->items / (pairs ? 2 : 1))
        return 0;
    p = strchr(p, '\n') + 1;
    if (r->shape == X_PAIRS)
        return pairs_fit(r, p);
    for (i = 0; i < r->items; i++, p = after)
        if (!item_fits(&r->item[i], p, &after))
            return 0;
    return 1;
}

/* ---- reports ---- */

static void show_bytes(const char *p, size_t n)
{
    size_t i;

    for (i = 0; i < n && i < SHOWN; i++) {
        unsigned char ch = (unsigned char)p[i];

        if (ch == '\r')
            fputs("\\r", stderr);
        else if (ch == '\n')
            fputs("\\n", stderr);
        else if (ch < 32 || ch > 126 || ch == '\\')
            fprintf(stderr, "\\x%02x", ch);
        else
            fputc(ch, stderr);
    }
    if (n > SHOWN)
        fprintf(stderr, "... (%lu bytes)", (unsigned long)n);
}

static void show_item(const struct item *i)
{
    char head[SHOWN];

    switch (i->kind) {
    case K_NIL:
        fputs("nil", stderr);
        break;
    case K_INT:
        fprintf(stderr, ":%lld", i->num);
        break;
    case K_SIMPLE:
        fprintf(stderr, "+%s", i->text);
        break;
    case K_TEXT:
        if (i->text != NULL)
            fprintf(stderr, "bulk \"%s\"", i->text);
        else
            fprintf(stderr, "bulk %lld", i->num);
        break;
    case K_VALUE:
        value_copy(head, &i->val, sizeof head);
        fprintf(stderr, "bulk of %lu: ", (unsigned long)i->val.len);
        show_bytes(head, i->val.len < SHOWN ? i->val.len : SHOWN);
    }
}

static void show_wanted(const struct request *r)
{
    unsigned i;

    if (r->shape == X_ERROR) {
        fprintf(stderr, "-%s", r->error);
        return;
    }
    if (r->shape != X_ONE)
        fprintf(stderr, "array of %u: ", r->items);
    for (i = 0; i < r->items && i < 4; i++) {
        if (i > 0)
            fputs(", ", stderr);
        show_item(&r->item[i]);
    }
}

static void show_place(const struct item *want, const char *p)
{
    long n = strtol(p + 1, NULL, 10);

    if (want->kind == K_VALUE && *p == '$' && n >= 0 && (size_t)n == want->val.len) {
        const char *body = strchr(p, '\n') + 1;
        size_t at = value_compare(body, &want->val);

        fprintf(stderr, "\n  differs from byte %lu on: ", (unsigned long)at);
        show_bytes(body + at, (size_t)n - at);
    }
}

static void wrong(struct client *c, const struct request *r, const char *what, const char *got, size_t n)
{
    char key[96] = "-";

    sum.wrong++;
    if (sum.wrong > REPORTS)
        return;
    if (r == NULL) {
        fprintf(stderr, "wrong: client %u: %s: ", c->id, what);
        show_bytes(got, n);
        fputc('\n', stderr);
        return;
    }
    if (r->refs > 0)
        key_name(c, r->ref[0].index, r->ref[0].gen, key, sizeof key);
    fprintf(stderr, "wrong: client %u request %lu %s %s (%u keys): %s\n  expected ", c->id, r->seq, r->name, key, r->refs, what);
    show_wanted(r);
    fputs("\n  got      ", stderr);
    show_bytes(got, n);
    if (r->shape == X_ONE && n > 0)
        show_place(r->item, got);
    fputc('\n', stderr);
}

/* Errors are counted by their first words, with # for each number: else each would be one of its own. */
static void count_error(const char *p)
{
    char text[sizeof error_table[0].text];
    unsigned i, words = 0;
    size_t n = 0;

    for (; *p != '\r' && *p != '\'' && n + 1 < sizeof text; p++) {
        if (*p == ' ' && ++words == 14)
            break;
        if (!isdigit((unsigned char)*p))
            text[n++] = *p;
        else if (n == 0 || text[n - 1] != '#')
            text[n++] = '#';
    }
    text[n] = '\0';
    sum.errors++;
    for (i = 0; i < error_texts && strcmp(error_table[i].text, text) != 0; i++)
        continue;
    if (i == error_texts) {
        if (i == ERROR_TEXTS)
            i--;
        else
            memcpy(error_table[error_texts++].text, text, n + 1);
    }
    error_table[i].count++;
}

static void retire_all(struct client *c, const struct request *r)
{
    for (unsigned i = 0; i < r->refs; i++)
        if (c->key[r->ref[i].index].gen == r->ref[i].gen)
            retire(c, r->ref[i].index);
}

static void suspect_add(struct client *c, struct request *r, const char *got, size_t len)
{
    struct suspect *s = &c->suspect[c->suspects++];

    s->request = *r;
    if (!r->owned)
        s->request.item = &s->request.one;
    r->owned = 0; /* the items are the suspect's now */
    s->until = c->ring[(c->head + c->count - 1) % RING].seq;
    s->len = len;
    s->got = malloc(len + 1);
    if (s->got == NULL)
        die("out of memory");
    memcpy(s->got, got, len);
    s->got[len] = '\0';
}

/* Judges the mismatches that no answer up to request `seq` has explained. */
static void suspects_judge(struct client *c, unsigned long seq)
{
    unsigned i, left = 0;

    for (i = 0; i < c->suspects; i++) {
        struct suspect *s = &c->suspect[i];

        if (s->until > seq) {
            struct suspect *to = &c->suspect[left++];

            *to = *s;
            if (!to->request.owned)
                to->request.item = &to->request.one;
            continue;
        }
        if (retired(c, &s->request)) {
            sum.early++;
        } else {
            wrong(c, &s->request, "not the answer it must get", s->got, s->len);
            retire_all(c, &s->request);
        }
        request_free(&s->request);
        free(s->got);
    }
    c->suspects = left;
}

static void readback_answer(struct client *c, struct request *r, const char *p, int fits)
{
    char key[96];
    unsigned index = r->ref[0].index;

    c->readback_done++;
    if (r->shape == X_OTHER)
        sum.denied++;
    else
        sum.readback_keys += c->key[index].type != T_NONE;
    if (fits)
        return;
    if (*p == '-')
        sum.unread++;
    else if (r->shape == X_OTHER)
        sum.revived++;
    else
        sum.missing++;
    key_name(c, index, r->ref[0].gen, key, sizeof key);
    if (missing_file != NULL)
        fprintf(missing_file, "%s %s: %.60s\n", *p == '-' ? "unread" : r->shape == X_OTHER ? "executed all the same" : "missing", key, p);
}

static void take_answer(struct client *c, size_t len)
{
    struct request *r = &c->ring[c->head];
    const char *p = c->in.at + c->in.from;
    long long took = now_ms() - r->sent_ms;
    int fits = answer_fits(r, p);

    if (took > sum.slowest_ms)
        sum.slowest_ms = took;
    sum.answers++;
    if (!fits && retired(c, r) && (strncmp(p, "-ERR no such key", 16) == 0 || strncmp(p, "-WRONGTYPE", 10) == 0)) {
        /* What the unknown write before it did or did not do. */
    } else if (!fits && *p == '-' && r->shape != X_ERROR) {
        count_error(p + 1);
        if (!opt.allow_errors && sum.errors <= REPORTS) {
            fprintf(stderr, "error: client %u request %lu %s: ", c->id, r->seq, r->name);
            show_bytes(p, len);
            fputc('\n', stderr);
        }
        if (r->set && strstr(p, "not executed") != NULL && strstr(p, "not executed") < p + len && c->denials < DENIED) {
            c->denied[c->denials].ref = r->ref[0];
            c->denied[c->denials++].val = r->item->val;
        }
        if (r->write)
            retire_all(c, r);
    } else if (!fits && !retired(c, r)) {
        if (*p != '-' && r->refs > 0 && c->suspects < SUSPECTS) {
            suspect_add(c, r, p, len);
        } else {
            if (*p == '-')
                count_error(p + 1);
            else
                wrong(c, r, "not the answer it must get", p, len);
            retire_all(c, r);
        }
    }
    if (r->readback)
        readback_answer(c, r, p, fits);
    if (c->suspects > 0)
        suspects_judge(c, r->seq);
    request_free(r);
    c->head = (c->head + 1) % RING;
    c->count--;
    c->in.from += len;
    c->need = 0;
}

/* ---- connections ---- */

static void client_drop(struct client *c)
{
    close(c->fd);
    c->fd = -1;
    c->state = S_WAIT;
    c->retry_ms = now_ms() + 20 + below(c, 80);
    for (; c->count > 0; c->count--, c->head = (c->head + 1) % RING) {
        struct request *r = &c->ring[c->head];

        if (r->write)
            retire_all(c, r);
        sum.issued--;
        request_free(r);
    }
    suspects_judge(c, c->seq);
    c->readback_sent = c->readback_done;
    bytes_clear(&c->in);
    bytes_clear(&c->out);
    c->need = 0;
}

static void client_lost(struct client *c, const char *why)
{
    if (c->state == S_QUIT && c->count == 0) {
        close(c->fd);
        c->fd = -1;
        c->state = S_DONE;
        return;
    }
    if (c->ever) {
        sum.reconnects++;
        if (!opt.allow_errors && sum.reconnects <= REPORTS)
            fprintf(stderr, "lost: client %u, %u requests in flight: %s\n", c->id, c->count, why);
    }
    client_drop(c);
}

static void client_dial(struct client *c)
{
    int one = 1;

    c->fd = socket(target.ss_family, SOCK_STREAM, 0);
    if (c->fd < 0)
        die("socket: %s", strerror(errno));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    fcntl(c->fd, F_SETFD, FD_CLOEXEC);
    if (target.ss_family != AF_UNIX)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = S_CONNECT;
    if (connect(c->fd, (struct sockaddr *)&target, target_len) < 0 && errno != EINPROGRESS)
        client_lost(c, strerror(errno));
}

static void client_connected(struct client *c)
{
    int error = 0;
    socklen_t len = sizeof error;

    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (error != 0) {
        client_lost(c, strerror(error));
        return;
    }
    c->state = S_OPEN;
    c->ever = 1;
    c->resp3 = 0;
    if (opt.resp3 && c->id % 2 != 0)
        do_hello(c);
    c->low = below(c, PIPELINE_MAX);
}

/* Writes the next pipeline when few enough answers are outstanding; sometimes only when there are none. */
static void client_fill(struct client *c, int running)
{
    unsigned n;

    if (c->state != S_OPEN || c->out.from < c->out.len || c->count > c->low)
        return;
    bytes_clear(&c->out);
    if (running) {
        for (n = 1 + below(c, PIPELINE_MAX); n > 0 && sum.issued < opt.total; n--)
            if (opt.resp3 && c->id % 4 == 3 && below(c, 200) == 0)
                do_hello(c);
            else
                make_request(c);
        c->low = below(c, 3) == 0 ? 0 : below(c, 2 * PIPELINE_MAX);
    } else if (c->count > 0) {
        c->low = 0;
    } else if (opt.readback_path != NULL && c->readback_sent < KEYS + c->denials) {
        for (n = PIPELINE_MAX; n > 0 && c->readback_sent < KEYS + c->denials; n--)
            make_readback(c);
        c->low = 0;
    } else {
        want_simple(request_open(c, "QUIT", 0, 0)->item, "OK");
        c->state = S_QUIT;
        c->quit_ms = now_ms();
    }
}

static void client_write(struct client *c)
{
    size_t n = c->out.len - c->out.from;
    ssize_t done;

    /* Some clients write in crumbs, so that requests arrive cut anywhere. */
    if (c->id % 8 == 6 && n > 1)
        n = 1 + below(c, n < 3000 ? (unsigned)n : 3000);
    done = send(c->fd, c->out.at + c->out.from, n, MSG_NOSIGNAL);
    if (done > 0)
        c->out.from += (size_t)done;
    else if (done < 0 && errno != EAGAIN && errno != EINTR)
        client_lost(c, strerror(errno));
}

static void client_read(struct client *c)
{
    size_t room = c->need > 65536 ? c->need - (c->in.len - c->in.from) + 4096 : 65536;
    char *to;
    ssize_t n;

    if (c->in.from == c->in.len)
        bytes_clear(&c->in);
    /* One byte more, so that a text search never leaves the buffer. */
    to = bytes_room(&c->in, room + 1);
    /* Some clients read in crumbs, so that answers wait for them. */
    n = recv(c->fd, to, c->id % 8 == 7 && room > 4096 && c->need < 65536 ? 4096 : room, 0);
    if (n == 0) {
        client_lost(c, "closed by the other side");
        return;
    }
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            client_lost(c, strerror(errno));
        return;
    }
    c->in.len += (size_t)n;
    c->in.at[c->in.len] = '\0';
    while (c->in.from < c->in.len && c->in.len - c->in.from >= c->need) {
        long end;

        if (c->count == 0) {
            wrong(c, NULL, "bytes nobody asked for", c->in.at + c->in.from, c->in.len - c->in.from);
            c->in.from = c->in.len;
            break;
        }
        end = answer_end(&c->in, c->in.from, &c->need);
        if (end == 0)
            break;
        if (end < 0) {
            wrong(c, &c->ring[c->head], "not a RESP answer", c->in.at + c->in.from, c->in.len - c->in.from);
            client_drop(c);
            return;
        }
        take_answer(c, (size_t)end - c->in.from);
    }
}

static void client_turn(struct client *c, short events, int running, long long now)
{
    if (c->state == S_WAIT && now >= c->retry_ms)
        client_dial(c);
    else if (c->state == S_CONNECT && events != 0)
        client_connected(c);
    if ((c->state == S_OPEN || c->state == S_QUIT) && (events & (POLLIN | POLLHUP | POLLERR)))
        client_read(c);
    if (c->state == S_OPEN)
        client_fill(c, running);
    if ((c->state == S_OPEN || c->state == S_QUIT) && c->out.from < c->out.len)
        client_write(c);
    if (c->count > 0 && now - c->ring[c->head].sent_ms > opt.answer_s * 1000LL && (c->state == S_OPEN || c->state == S_QUIT)) {
        wrong(c, &c->ring[c->head], "no answer in time", "", 0);
        client_drop(c);
    }
    if (c->state == S_QUIT && c->count == 0 && now - c->quit_ms > 10000) {
        wrong(c, NULL, "not closed 10 s after QUIT", "", 0);
        client_lost(c, "QUIT");
    }
}

static struct client *clients_make(void)
{
    struct client *all = calloc(opt.clients, sizeof *all);
    unsigned i;

    if (all == NULL)
        die("out of memory for %u clients", opt.clients);
    for (i = 0; i < opt.clients; i++) {
        all[i].id = i;
        all[i].fd = -1;
        all[i].rnd = (opt.seed + i + 1) * 0x9E3779B97F4A7C15u;
        next_random(&all[i].rnd);
    }
    return all;
}

/* Runs until every client has said QUIT and was let go. Returns 0 when nothing moved for too long. */
static int run(struct client *all, long long start)
{
    struct pollfd *fds = calloc(opt.clients, sizeof *fds);
    unsigned long shown = 0, moved = 0;
    long long second = start, moved_ms = start;
    unsigned i, done = 0;

    if (fds == NULL)
        die("out of memory");
    while (done < opt.clients) {
        long long now = now_ms();
        int running = sum.issued < opt.total && !interrupted && (opt.limit_s == 0 || now - start < opt.limit_s * 1000LL);

        for (i = 0, done = 0; i < opt.clients; i++) {
            struct client *c = &all[i];

            fds[i].fd = c->fd;
            fds[i].events = POLLIN;
            if (c->state == S_CONNECT || c->out.from < c->out.len)
                fds[i].events |= POLLOUT;
            done += c->state == S_DONE;
        }
        poll(fds, opt.clients, 10);
        now = now_ms();
        for (i = 0; i < opt.clients; i++)
            client_turn(&all[i], all[i].fd == fds[i].fd ? fds[i].revents : 0, running, now);
        if (sum.answers != moved) {
            moved = sum.answers;
            moved_ms = now;
        }
        if (now - moved_ms > (opt.answer_s + 3) * 1000LL) {
            fprintf(stderr, "load: no answer at all for %ld s\n", opt.answer_s + 3);
            free(fds);
            return 0;
        }
        if (opt.verbose && now - second >= 1000) {
            fprintf(stderr, "%5.1f s  answers %lu (%lu/s) wrong %lu errors %lu reconnects %lu slowest %lld ms\n",
                    (double)(now - start) / 1000, sum.answers, (sum.answers - shown) * 1000 / (unsigned long)(now - second), sum.wrong,
                    sum.errors, sum.reconnects, sum.slowest_ms);
            shown = sum.answers;
            second = now;
        }
    }
    free(fds);
    return 1;
}

static void resolve(void)
{
    struct addrinfo hints, *found;
    char host[256];
    const char *port = strrchr(opt.address, ':');
    int error;

    if (strncmp(opt.address, "unix:", 5) == 0) {
        struct sockaddr_un *un = (struct sockaddr_un *)&target;

        un->sun_family = AF_UNIX;
        if (strlen(opt.address + 5) >= sizeof un->sun_path)
            die("%s: too long", opt.address);
        snprintf(un->sun_path, sizeof un->sun_path, "%s", opt.address + 5);
        target_len = sizeof *un;
        return;
    }
    if (port == NULL || (size_t)(port - opt.address) >= sizeof host)
        die("%s: not HOST:PORT", opt.address);
    memcpy(host, opt.address, (size_t)(port - opt.address));
    host[port - opt.address] = '\0';
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    error = getaddrinfo(host, port + 1, &hints, &found);
    if (error != 0)
        die("%s: %s", opt.address, gai_strerror(error));
    memcpy(&target, found->ai_addr, found->ai_addrlen);
    target_len = found->ai_addrlen;
    freeaddrinfo(found);
}

static void usage(FILE *to)
{
    fputs("load -a HOST:PORT|unix:PATH [-c clients] [-n answers] [-s seed] [-m seconds] [-t seconds] [-b bytes] [-r bytes] [-3] [-e] [-v] [-w FILE]\n"
          "  -m  stop asking after so many seconds     -t  an answer later than this is a wrong one (60)\n"
          "  -b  the biggest value (8388608)           -e  error answers and lost connections are counted, not failures\n"
          "  -r  the longest MSET over several slots (250000)\n"
          "  -3  every other client speaks RESP3, half of those now and then not\n"
          "  -v  one line each second                  -w  at the end read every key back; the missing ones go to FILE\n",
          to);
}

static unsigned long number(const char *text, unsigned long max)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (errno != 0 || *end != '\0' || end == text || n > max)
        die("%s: not a number up to %lu", text, max);
    return n;
}

static void options(int argc, char **argv)
{
    int o;

    while ((o = getopt(argc, argv, "a:c:n:s:m:t:b:r:3evw:h")) != -1) {
        switch (o) {
        case 'a': opt.address = optarg; break;
        case 'c': opt.clients = (unsigned)number(optarg, 100000); break;
        case 'n': opt.total = number(optarg, 1000000000); break;
        case 's': opt.seed = number(optarg, 1000000000); break;
        case 'm': opt.limit_s = (long)number(optarg, 1000000); break;
        case 't': opt.answer_s = (long)number(optarg, 100000); break;
        case 'b': opt.big = (size_t)number(optarg, (unsigned long)512 << 20); break;
        case 'r': opt.split = (size_t)number(optarg, (unsigned long)512 << 20) + 16; break;
        case '3': opt.resp3 = 1; break;
        case 'e': opt.allow_errors = 1; break;
        case 'v': opt.verbose = 1; break;
        case 'w': opt.readback_path = optarg; break;
        case 'h': usage(stdout); exit(0);
        default: usage(stderr); exit(2);
        }
    }
    if (opt.address == NULL || optind < argc || opt.clients == 0) {
        usage(stderr);
        exit(2);
    }
}

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

int main(int argc, char **argv)
{
    uint64_t state;
    long long start;
    struct client *all;
    unsigned i;
    int whole, bad;

    options(argc, argv);
    resolve();
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    state = opt.seed * 0x9E3779B97F4A7C15u + 1;
    for (i = 0; i < NOISE; i++)
        noise[i] = noise[i + NOISE] = (char)(next_random(&state) >> 56);
    /* The keys of this run only, whatever an earlier one left behind. */
    snprintf(prefix, sizeof prefix, "%lx%lx", (unsigned long)time(NULL) & 0xffffff, (unsigned long)getpid());
    if (opt.readback_path != NULL && (missing_file = fopen(opt.readback_path, "w")) == NULL)
        die("%s: %s", opt.readback_path, strerror(errno));
    all = clients_make();
    start = now_ms();
    whole = run(all, start);
    bad = !whole || sum.wrong > 0 || (sum.early > 0 && !opt.allow_errors) || sum.missing > 0 || sum.unread > 0 || sum.revived > 0;
    if (!opt.allow_errors)
        bad |= sum.errors > 0 || sum.reconnects > 0;
    if (missing_file != NULL) {
        printf("readback keys %lu missing %lu unread %lu denied %lu revived %lu\n", sum.readback_keys, sum.missing, sum.unread, sum.denied,
               sum.revived);
        fclose(missing_file);
    }
    for (i = 0; i < error_texts; i++)
        printf("error %lu x %s\n", error_table[i].count, error_table[i].text);
    printf("slowest answer %lld ms, early reads %lu\n", sum.slowest_ms, sum.early);
    printf("answers %lu wrong %lu errors %lu reconnects %lu seconds %.1f\n", sum.answers, sum.wrong, sum.errors, sum.reconnects,
           (double)(now_ms() - start) / 1000);
    for (i = 0; i < opt.clients; i++) {
        for (; all[i].count > 0; all[i].count--, all[i].head = (all[i].head + 1) % RING)
            request_free(&all[i].ring[all[i].head]);
        free(all[i].in.at);
        free(all[i].out.at);
    }
    free(all);
    return bad;
}
