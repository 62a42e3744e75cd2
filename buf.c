/*
 * buf.c - the pool of chunks that busy connections borrow, and the three ways to hold bytes in it.
 *
 *   pool     [chunk][chunk][chunk]...     one block; free ones in a list, untouched ones above a mark
 *   chain    head -> chunk -> chunk       a queue of bytes: a client's input, a connection's output
 *   pen      chunk                        where the next small slice is written
 *   slice    (chunk, off, len) -> next    bytes that stay: a request until it is answered, a parked reply
 *
 * A chunk is free again when nobody refers to it: each chain, pen and slice counts as one. Requests may
 * take chunks only while a quarter of the pool is left, so that replies, which free them, always can.
 */
#include "puerta.h"

#include <string.h>

static struct {
    unsigned char *block;
    struct chunk *free;
    size_t chunk_size, stride;
    size_t total, fresh; /* chunks below `fresh` have been used at least once; how many are in use: gauges.chunks */
    size_t reserve;
    bool refused, relieved;
} pool;

void buf_tables(const struct conf *conf)
{
    pool.chunk_size = conf->chunk_size;
    pool.total = conf->chunks;
    pool.stride = sizeof(struct chunk) + pool.chunk_size;
    pool.reserve = pool.total / 4;
    pool.block = arena_take("chunks", pool.total, pool.stride);
}

void buf_open(void)
{
    pool.free = NULL;
    pool.fresh = 0;
    pool.refused = pool.relieved = false;
    gauges.chunks = (struct gauge){ .most = pool.total };
}

size_t buf_chunk_size(void)
{
    return pool.chunk_size;
}

size_t buf_total(void)
{
    return pool.total * pool.chunk_size;
}

size_t buf_free_chunks(void)
{
    return pool.total - (size_t)gauges.chunks.now;
}

static size_t available(enum buf_use use)
{
    size_t left = pool.total - (size_t)gauges.chunks.now;
    size_t kept = use == BUF_REQUEST ? pool.reserve : use == BUF_URGENT ? pool.reserve / 2 : 0;
    return left > kept ? left - kept : 0;
}

bool buf_relieved(void)
{
    bool was = pool.relieved;
    pool.relieved = false;
    return was;
}

static bool refuse(void)
{
    pool.refused = true;
    stats.pool_empty++;
    return false;
}

bool buf_may_take(enum buf_use use)
{
    return available(use) > 0 || refuse();
}

bool buf_may_take_many(enum buf_use use, size_t n)
{
    return available(use) >= n || refuse();
}

struct chunk *chunk_take(enum buf_use use)
{
    struct chunk *k = pool.free;
    if (available(use) == 0) {
        refuse();
        return NULL;
    }
    if (k != NULL) {
        pool.free = k->next;
    } else {
        must(pool.fresh < pool.total);
        k = (struct chunk *)(void *)(pool.block + pool.fresh++ * pool.stride);
    }
    gauge_up(&gauges.chunks);
    k->next = NULL;
    k->used = 0;
    k->refs = 1;
    return k;
}

void chunk_release(struct chunk *k)
{
    must(k->refs > 0);
    if (--k->refs > 0) {
        return;
    }
    k->next = pool.free;
    pool.free = k;
    gauge_down(&gauges.chunks);
    if (pool.refused && available(BUF_REQUEST) > pool.total / 16) {
        pool.refused = false;
        pool.relieved = true;
    }
}

/* ---------------------------------------------------------------- chains */

/* Bytes that can be written behind k's last one; none into a chunk that is not there. */
static size_t room_in(const struct chunk *k)
{
    return k == NULL ? 0 : pool.chunk_size - k->used;
}

/* Whether n more bytes find room behind tail and in chunks that `use` may still take. */
static bool fits(const struct chunk *tail, enum buf_use use, size_t n)
{
    size_t room = room_in(tail);
    if (n <= room) {
        return true;
    }
    return (n - room + pool.chunk_size - 1) / pool.chunk_size <= available(use) || refuse();
}

static void chain_extend(struct chain *c, struct chunk *k)
{
    if (c->tail != NULL) {
        c->tail->next = k;
    } else {
        c->head = k;
        c->skip = 0;
    }
    c->tail = k;
}

bool chain_put(struct chain *c, enum buf_use use, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    if (!fits(c->tail, use, n)) {
        return false;
    }
    while (n > 0) {
        size_t part = room_in(c->tail);
        if (part == 0) {
            chain_extend(c, chunk_take(use));
            part = pool.chunk_size;
        }
        part = part < n ? part : n;
        memcpy(c->tail->data + c->tail->used, p, part);
        c->tail->used += (uint32_t)part;
        c->len += part;
        p += part;
        n -= part;
    }
    return true;
}

void chain_drop(struct chain *c, size_t n)
{
    must(n <= c->len);
    c->len -= n;
    while (c->head != NULL) {
        struct chunk *k = c->head;
        size_t part = k->used - c->skip;
        if (n < part) {
            c->skip += (uint32_t)n;
            return;
        }
        n -= part;
        c->head = k == c->tail ? NULL : k->next;
        c->skip = 0;
        chunk_release(k);
    }
    c->tail = NULL;
}

void chain_clear(struct chain *c)
{
    chain_drop(c, c->len);
}

int chain_gather(const struct chain *c, struct iovec *iov, int max)
{
    int count = 0;
    uint32_t skip = c->skip;
    for (struct chunk *k = c->head; k != NULL && count < max; k = k == c->tail ? NULL : k->next) {
        if (k->used > skip) {
            iov[count].iov_base = k->data + skip;
            iov[count++].iov_len = k->used - skip;
        }
        skip = 0;
    }
    return count;
}

size_t chain_room(struct chain *c, enum buf_use use, unsigned char **room)
{
    if (room_in(c->tail) < pool.chunk_size / 8) {
        struct chunk *old = c->head;
        struct chunk *k = chunk_take(use);
        if (k == NULL) {
            return 0;
        }
        if (old != NULL && old == c->tail && c->len <= pool.chunk_size / 8) {
            memcpy(k->data, old->data + c->skip, c->len);
            k->used = (uint32_t)c->len;
            chunk_release(old);
            c->head = c->tail = NULL;
        }
        chain_extend(c, k);
    }
    *room = c->tail->data + c->tail->used;
    return room_in(c->tail);
}

void chain_commit(struct chain *c, size_t n)
{
    must(c->tail != NULL && n <= room_in(c->tail));
    c->tail->used += (uint32_t)n;
    c->len += n;
    if (c->len == 0) {
        chain_drop(c, 0);
    }
}

const unsigned char *chain_at(const struct chain *c, size_t off, size_t *n)
{
    size_t at = off + c->skip;
    for (struct chunk *k = c->head; k != NULL; k = k == c->tail ? NULL : k->next) {
        if (at < k->used) {
            *n = k->used - at;
            return k->data + at;
        }
        at -= k->used;
    }
    *n = 0;
    return NULL;
}

void chain_copy(const struct chain *c, void *out, size_t n)
{
    unsigned char *to = out;
    size_t off = 0;
    must(n <= c->len);
    while (off < n) {
        size_t part;
        const unsigned char *p = chain_at(c, off, &part);
        part = part < n - off ? part : n - off;
        memcpy(to + off, p, part);
        off += part;
    }
}

/* ------------------------------------------------------- slices and pens */

void chain_slice(const struct chain *c, size_t len, struct slice *out)
{
    size_t left = len;
    uint32_t skip = c->skip;
    must(len <= c->len && len > 0 && len <= UINT32_MAX);
    out->chunk = c->head;
    out->off = c->skip;
    out->len = (uint32_t)len;
    for (struct chunk *k = c->head; left > 0; k = k->next) {
        size_t part = k->used - skip;
        k->refs++;
        left -= part < left ? part : left;
        skip = 0;
    }
}

/* Small slices are not split over two chunks: a tail shorter than them is given up. */
static bool worth_splitting(size_t n)
{
    return n > pool.chunk_size / 8;
}

/* Lets the pen go on in a fresh chunk. The old one is kept by its slices; `run` says that the slice being
 * written begins there and goes on here. */
static bool pen_turn(struct pen *p, enum buf_use use, bool run)
{
    struct chunk *k = chunk_take(use);
    if (k == NULL) {
        return false;
    }
    if (p->chunk != NULL) {
        if (run) {
            p->chunk->next = k;
        }
        chunk_release(p->chunk);
    }
    p->chunk = k;
    return true;
}

/* Writes n bytes behind the pen's last one, going on in fresh chunks; each of those counts the slice, too. */
static void pen_run(struct pen *p, enum buf_use use, const unsigned char *from, size_t n)
{
    for (;;) {
        size_t part = room_in(p->chunk);
        part = part < n ? part : n;
        memcpy(p->chunk->data + p->chunk->used, from, part);
        p->chunk->used += (uint32_t)part;
        from += part;
        n -= part;
        if (n == 0) {
            return;
        }
        pen_turn(p, use, true);
        p->chunk->refs++;
    }
}

bool pen_write(struct pen *p, enum buf_use use, const void *bytes, size_t n, struct slice *out)
{
    must(n > 0 && n <= UINT32_MAX);
    if (p->chunk != NULL && p->chunk->refs == 1) {
        p->chunk->used = 0; /* only the pen still holds it: nothing written in it is needed */
    }
    if (room_in(p->chunk) < n) {
        if (!fits(worth_splitting(n) ? p->chunk : NULL, use, n)) {
            return false;
        }
        if (!worth_splitting(n) || room_in(p->chunk) == 0) {
            pen_turn(p, use, false);
        }
    }
    out->chunk = p->chunk;
    out->off = p->chunk->used;
    out->len = (uint32_t)n;
    p->chunk->refs++;
    pen_run(p, use, bytes, n);
    return true;
}

bool pen_more(struct pen *p, enum buf_use use, const void *bytes, size_t n, struct slice *s)
{
    if (s->len == 0) {
        return pen_write(p, use, bytes, n, s);
    }
    if (!fits(p->chunk, use, n)) {
        return false;
    }
    pen_run(p, use, bytes, n);
    s->len += (uint32_t)n;
    return true;
}

bool slice_extend(struct slice *s, enum buf_use use, const void *bytes, size_t n)
{
    struct chain c = { s->chunk, s->chunk, 0, s->len };
    if (s->chunk != NULL) {
        while (c.tail->next != NULL) {
            c.tail = c.tail->next;
        }
    }
    if (s->len + n > UINT32_MAX || !chain_put(&c, use, bytes, n)) {
        return false;
    }
    s->chunk = c.head;
    s->off = 0;
    s->len = (uint32_t)c.len;
    return true;
}

void pen_close(struct pen *p)
{
    if (p->chunk != NULL) {
        chunk_release(p->chunk);
        p->chunk = NULL;
    }
}

void slice_let_go(struct slice *s)
{
    struct chunk *k = s->chunk;
    size_t left = s->len;
    uint32_t off = s->off;
    s->chunk = NULL;
    s->len = 0;
    while (k != NULL && left > 0) {
        /* A run fills each of its chunks but the last, so what it takes of one is known from its end. */
        struct chunk *next = k->next;
        size_t part = k->used - off;
        left -= part < left ? part : left;
        off = 0;
        chunk_release(k);
        k = next;
    }
}

void slice_drop(struct slice *s, size_t n)
{
    must(n <= s->len);
    while (n > 0) {
        struct chunk *k = s->chunk;
        size_t part = k->used - s->off;
        if (n < part && n < s->len) {
            s->off += (uint32_t)n;
            s->len -= (uint32_t)n;
            return;
        }
        part = part < s->len ? part : s->len;
        s->len -= (uint32_t)part;
        s->chunk = s->len > 0 ? k->next : NULL;
        s->off = 0;
        n -= part;
        chunk_release(k);
    }
}

size_t slice_part(const struct slice *s, size_t *at, const unsigned char **p)
{
    struct chunk *k = s->chunk;
    size_t off = s->off + *at, left = s->len - *at;
    if (left == 0) {
        return 0;
    }
    while (off >= k->used) {
        off -= k->used;
        k = k->next;
    }
    *p = k->data + off;
    left = left < k->used - off ? left : k->used - off;
    *at += left;
    return left;
}

void slice_copy(const struct slice *s, size_t off, void *out, size_t len)
{
    unsigned char *to = out;
    while (len > 0) {
        const unsigned char *p;
        size_t at = off, part = slice_part(s, &at, &p);
        must(part > 0);
        part = part < len ? part : len;
        memcpy(to, p, part);
        to += part;
        off += part;
        len -= part;
    }
}
