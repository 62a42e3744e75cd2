/*
 * test_buf.c - the chunk pool against a model: random work on chains, pens and slices, each with a plain copy of the
 * bytes that it must hold; refusals that change nothing; and at the end every chunk free again.
 */
#include "puerta.h"
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 64
#define CHUNKS 96
#define STEPS 200000
#define CHAINS 4
#define PENS 3
#define SLICES 12
#define MODEL_CAP (CHUNK * CHUNKS)

struct bytes { unsigned char at[MODEL_CAP]; size_t len; };

static struct { struct chain chain; struct bytes model; } chains[CHAINS];
static struct { struct pen pen; int last; } pens[PENS]; /* last: the slice that the pen wrote last, -1 = none */
static struct { struct slice slice; struct bytes model; bool own; } slices[SLICES]; /* own: made by slice_extend */
static struct conf conf;
static uint32_t dice_state = 88172645u;
static unsigned long refusals[3];

static uint32_t dice(uint32_t below)
{
    dice_state ^= dice_state << 13;
    dice_state ^= dice_state >> 17;
    dice_state ^= dice_state << 5;
    return dice_state % below;
}

static const unsigned char *random_bytes(size_t n)
{
    static unsigned char bytes[MODEL_CAP];
    for (size_t i = 0; i < n; i++) {
        bytes[i] = (unsigned char)dice(256);
    }
    return bytes;
}

/* Mostly short ones, many that end near a chunk's end, some that need a good part of the pool. */
static size_t random_length(void)
{
    switch (dice(8)) {
    case 0:
        return CHUNK - 2 + dice(5);
    case 1:
        return 1 + dice(CHUNK * 20);
    default:
        return 1 + dice(CHUNK / 2);
    }
}

static enum buf_use random_use(void)
{
    return dice(3) == 0 ? BUF_REPLY : BUF_REQUEST;
}

static size_t available(enum buf_use use)
{
    size_t free_ones = buf_free_chunks(), kept = use == BUF_REQUEST ? CHUNKS / 4 : 0;
    return free_ones > kept ? free_ones - kept : 0;
}

/* How many new chunks n bytes take behind a tail with so much room. */
static size_t chunks_for(size_t room, size_t n)
{
    return n <= room ? 0 : (n - room + CHUNK - 1) / CHUNK;
}

static size_t room_behind(const struct chunk *k)
{
    return k == NULL ? 0 : CHUNK - k->used;
}

static void model_add(struct bytes *m, const unsigned char *p, size_t n)
{
    memcpy(m->at + m->len, p, n);
    m->len += n;
}

static void model_drop(struct bytes *m, size_t n)
{
    memmove(m->at, m->at + n, m->len - n);
    m->len -= n;
}

/* --------------------------------------------------------- is it as it should be */

static void check_chain(int i)
{
    static unsigned char copy[MODEL_CAP];
    const struct chain *c = &chains[i].chain;
    struct iovec iov[CHUNKS + 1];
    size_t n, at = 0;
    int count = chain_gather(c, iov, CHUNKS + 1);
    CHECK(c->len == chains[i].model.len);
    CHECK((c->head == NULL) == (c->tail == NULL) && (c->len > 0 || c->head == NULL));
    chain_copy(c, copy, c->len);
    CHECK(memcmp(copy, chains[i].model.at, c->len) == 0);
    for (int k = 0; k < count; k++) {
        CHECK(iov[k].iov_len > 0 && memcmp(iov[k].iov_base, chains[i].model.at + at, iov[k].iov_len) == 0);
        at += iov[k].iov_len;
    }
    CHECK(at == c->len);
    if (c->len > 0) {
        size_t off = dice((uint32_t)c->len);
        const unsigned char *p = chain_at(c, off, &n);
        CHECK(p != NULL && n > 0 && n <= c->len - off && memcmp(p, chains[i].model.at + off, n) == 0);
    }
    CHECK(chain_at(c, c->len, &n) == NULL && n == 0);
}

static void check_slice(int i)
{
    static unsigned char copy[MODEL_CAP];
    const struct slice *s = &slices[i].slice;
    const struct bytes *m = &slices[i].model;
    const unsigned char *p;
    size_t at = 0, from = 0, n;
    CHECK(s->len == m->len);
    while ((n = slice_part(s, &at, &p)) > 0) {
        CHECK(at == from + n && at <= m->len && memcmp(p, m->at + from, n) == 0);
        from = at;
    }
    CHECK(from == m->len);
    if (m->len > 0) {
        size_t off = dice((uint32_t)m->len), len = dice((uint32_t)(m->len - off) + 1);
        slice_copy(s, off, copy, len);
        CHECK(memcmp(copy, m->at + off, len) == 0);
    }
}

/* ----------------------------------------------------------- the random work */

static void step_put(int i)
{
    struct chain *c = &chains[i].chain;
    enum buf_use use = random_use();
    size_t n = random_length(), before = buf_free_chunks(), need = chunks_for(room_behind(c->tail), n);
    const unsigned char *p = random_bytes(n);
    bool fits = need <= available(use), done = chain_put(c, use, p, n);
    CHECK(done == fits);
    CHECK(buf_free_chunks() == (done ? before - need : before));
    if (done) {
        model_add(&chains[i].model, p, n);
    } else {
        refusals[use]++;
    }
}

static void step_receive(int i)
{
    struct chain *c = &chains[i].chain;
    unsigned char *room;
    size_t free_ones = available(BUF_REQUEST), n = chain_room(c, BUF_REQUEST, &room);
    if (n == 0) {
        CHECK(free_ones == 0);
        refusals[BUF_REQUEST]++;
        return;
    }
    CHECK(n >= CHUNK / 8 && n <= CHUNK);
    n = dice((uint32_t)n + 1);
    memcpy(room, random_bytes(n), n);
    model_add(&chains[i].model, room, n);
    chain_commit(c, n);
}

static void step_drop(int i)
{
    size_t n = dice(4) == 0 ? chains[i].model.len : dice((uint32_t)chains[i].model.len + 1);
    if (n == chains[i].model.len && dice(2) == 0) {
        chain_clear(&chains[i].chain);
    } else {
        chain_drop(&chains[i].chain, n);
    }
    model_drop(&chains[i].model, n);
}

static int empty_slice(void)
{
    for (int i = 0; i < SLICES; i++) {
        if (slices[i].slice.len == 0) {
            slices[i].model.len = 0;
            slices[i].own = false;
            return i;
        }
    }
    return -1;
}

static void step_release(int i)
{
    for (int k = 0; k < PENS; k++) {
        if (pens[k].last == i) {
            pens[k].last = -1;
        }
    }
    slice_release(&slices[i].slice);
    slices[i].model.len = 0;
    CHECK(slices[i].slice.chunk == NULL && slices[i].slice.len == 0);
}

static void step_slice_drop(int i)
{
    size_t n = dice((uint32_t)slices[i].model.len + 1);
    if (slices[i].own) {
        return; /* one that grows begins at its first byte */
    }
    if (n == slices[i].model.len) {
        step_release(i);
        return;
    }
    slice_drop(&slices[i].slice, n);
    model_drop(&slices[i].model, n);
}

static void step_chain_slice(int from)
{
    int i = empty_slice();
    size_t before = buf_free_chunks();
    if (i >= 0 && chains[from].model.len > 0) {
        size_t n = 1 + dice((uint32_t)chains[from].model.len);
        chain_slice(&chains[from].chain, n, &slices[i].slice);
        model_add(&slices[i].model, chains[from].model.at, n);
        CHECK(buf_free_chunks() == before);
        check_slice(i);
    }
}

static void step_pen(int k)
{
    enum buf_use use = random_use();
    size_t n = random_length(), before = buf_free_chunks();
    const unsigned char *p = random_bytes(n);
    bool more = pens[k].last >= 0 && dice(2) == 0;
    int i = more ? pens[k].last : empty_slice();
    bool done;
    if (i < 0) {
        return;
    }
    done = more || dice(2) == 0 ? pen_more(&pens[k].pen, use, p, n, &slices[i].slice)
                                : pen_write(&pens[k].pen, use, p, n, &slices[i].slice);
    if (!done) {
        CHECK(buf_free_chunks() == before && slices[i].slice.len == slices[i].model.len);
        CHECK(available(use) < n / CHUNK + 1);
        refusals[use]++;
        return;
    }
    CHECK(before - buf_free_chunks() <= n / CHUNK + 1);
    model_add(&slices[i].model, p, n);
    pens[k].last = i;
}

static void step_extend(void)
{
    enum buf_use use = random_use();
    int i = (int)dice(SLICES);
    size_t n = random_length(), before = buf_free_chunks();
    const unsigned char *p = random_bytes(n);
    if (!slices[i].own || slices[i].slice.len == 0) {
        i = empty_slice();
    }
    if (i < 0) {
        return;
    }
    slices[i].own = true;
    if (slice_extend(&slices[i].slice, use, p, n)) {
        model_add(&slices[i].model, p, n);
    } else {
        CHECK(buf_free_chunks() == before && slices[i].slice.len == slices[i].model.len);
        refusals[use]++;
    }
}

static void step(void)
{
    int i = (int)dice(CHAINS), k = (int)dice(PENS), s = (int)dice(SLICES);
    switch (dice(12)) {
    case 0:
    case 1:
        step_put(i);
        break;
    case 2:
    case 3:
        step_receive(i);
        break;
    case 4:
        step_drop(i);
        break;
    case 5:
        step_chain_slice(i);
        break;
    case 6:
    case 7:
        step_pen(k);
        break;
    case 8:
        pen_close(&pens[k].pen);
        pens[k].last = -1;
        break;
    case 9:
        step_extend();
        break;
    case 10:
        step_release(s);
        break;
    default:
        step_slice_drop(s);
        break;
    }
    check_chain(i);
    check_slice(s);
}

static void let_all_go(void)
{
    for (int i = 0; i < CHAINS; i++) {
        check_chain(i);
        chain_clear(&chains[i].chain);
        chains[i].model.len = 0;
    }
    for (int i = 0; i < SLICES; i++) {
        check_slice(i);
        step_release(i);
    }
    for (int i = 0; i < PENS; i++) {
        pen_close(&pens[i].pen);
        pens[i].last = -1;
    }
    CHECK(buf_free_chunks() == CHUNKS);
}

static void test_random(void)
{
    unit_note = "random work";
    for (long i = 0; i < STEPS && unit_failed == 0; i++) {
        step();
        if (dice(5000) == 0) {
            let_all_go();
        }
    }
    let_all_go();
    CHECK(refusals[BUF_REQUEST] > 100 && refusals[BUF_REPLY] > 10); /* else the pool was never empty */
}

/* ------------------------------------------------------------- the edges */

static void test_exhaustion(void)
{
    static unsigned char bytes[MODEL_CAP];
    struct chain requests = { 0 }, replies = { 0 };
    struct slice s = { 0 };
    struct pen p = { 0 };
    unit_note = "an empty pool";
    CHECK(!buf_relieved());
    CHECK(chain_put(&requests, BUF_REQUEST, bytes, (CHUNKS - CHUNKS / 4) * CHUNK));
    CHECK(!buf_may_take(BUF_REQUEST) && buf_may_take(BUF_REPLY));
    CHECK(chunk_take(BUF_REQUEST) == NULL && !chain_put(&requests, BUF_REQUEST, bytes, 1));
    CHECK(!pen_write(&p, BUF_REQUEST, bytes, 1, &s) && s.len == 0 && p.chunk == NULL);
    CHECK(!slice_extend(&s, BUF_REQUEST, bytes, 1) && s.chunk == NULL);
    CHECK(!chain_put(&replies, BUF_REPLY, bytes, (CHUNKS / 4) * CHUNK + 1) && replies.head == NULL);
    CHECK(chain_put(&replies, BUF_REPLY, bytes, (CHUNKS / 4) * CHUNK));
    CHECK(buf_free_chunks() == 0 && chunk_take(BUF_REPLY) == NULL && !buf_relieved());
    chain_clear(&replies);
    CHECK(!buf_relieved()); /* only what requests may take is a relief */
    chain_drop(&requests, (CHUNKS / 16 + 1) * CHUNK);
    CHECK(buf_relieved() && !buf_relieved());
    chain_clear(&requests);
    CHECK(buf_free_chunks() == CHUNKS);
}

/* Each length and each split around a chunk's end. */
static void test_boundaries(void)
{
    static unsigned char bytes[3 * CHUNK], back[3 * CHUNK];
    memcpy(bytes, random_bytes(sizeof bytes), sizeof bytes);
    unit_note = "chunk boundaries";
    for (size_t before = 0; before <= CHUNK + 1; before++) {
        for (size_t n = 1; n <= 2 * CHUNK + 1; n++) {
            struct chain c = { 0 };
            struct slice s = { 0 }, head = { 0 };
            struct pen p = { 0 };
            size_t len = before + n < sizeof bytes ? before + n : sizeof bytes;
            CHECK(before == 0 || chain_put(&c, BUF_REQUEST, bytes, before));
            CHECK(chain_put(&c, BUF_REQUEST, bytes + before, len - before));
            chain_slice(&c, len, &s);
            chain_drop(&c, before);
            CHECK(chain_put(&c, BUF_REQUEST, bytes, 1)); /* behind the slice's last byte, in the same chunk */
            chain_clear(&c);
            slice_copy(&s, 0, back, len);
            CHECK(memcmp(back, bytes, len) == 0);
            slice_release(&s);
            CHECK(before == 0 || pen_write(&p, BUF_REPLY, bytes, before, &head));
            CHECK(pen_more(&p, BUF_REPLY, bytes, n, &s) && s.len == n);
            slice_release(&head);
            slice_copy(&s, 0, back, n);
            CHECK(memcmp(back, bytes, n) == 0);
            pen_close(&p);
            slice_release(&s);
            if (!CHECK(buf_free_chunks() == CHUNKS)) {
                return;
            }
        }
    }
}

/* A short tail of a request moves along, so that the request lies in one piece. */
static void test_room_moves_tail(void)
{
    static unsigned char bytes[CHUNK];
    struct chain c = { 0 };
    unsigned char *room;
    size_t n;
    memcpy(bytes, random_bytes(sizeof bytes), sizeof bytes);
    unit_note = "a tail moves to the new chunk";
    CHECK(chain_put(&c, BUF_REQUEST, bytes, CHUNK));
    chain_drop(&c, CHUNK - 5);
    CHECK(chain_room(&c, BUF_REQUEST, &room) == CHUNK - 5 && c.head == c.tail && c.len == 5);
    memcpy(room, bytes, 10);
    chain_commit(&c, 10);
    CHECK(memcmp(chain_at(&c, 0, &n), bytes + CHUNK - 5, 5) == 0 && n == 15);
    CHECK(buf_free_chunks() == CHUNKS - 1);
    chain_clear(&c);
    CHECK(chain_room(&c, BUF_REQUEST, &room) == CHUNK);
    chain_commit(&c, 0);
    CHECK(c.head == NULL && buf_free_chunks() == CHUNKS);
}

int main(void)
{
    conf.chunk_size = CHUNK;
    conf.chunks = CHUNKS;
    arena_measure();
    buf_tables(&conf);
    if (!CHECK(arena_obtain(false))) {
        return unit_end();
    }
    buf_tables(&conf);
    buf_open();
    for (int i = 0; i < PENS; i++) {
        pens[i].last = -1;
    }
    test_exhaustion();
    test_boundaries();
    test_room_moves_tail();
    test_random();
    return unit_end();
}
