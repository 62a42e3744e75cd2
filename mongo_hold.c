/*
 * mongo_hold.c - pooled mode: what is held of a request until it goes on.
 *
 *   p->held   from its first byte until a connection is there; small ones that wait for one are packed: thousands may wait
 *             |
 *             `- more than client_window, since its session stands behind many documents: reserved, as far as a half of the pool goes
 *                    no room: p->queues, first come, first served --hold_drop() of another--> on_turn
 *
 * Owns the reservations, the line for them, and the chunks that packed requests share.
 */
#include "mongo.h"

#include <string.h>

#define PACKED_MAX 2048        /* a request up to this size that waits is packed with others */

static struct {
    void (*on_turn)(struct pooled *p);
    size_t reserved;            /* bytes, of whole requests */
    struct pooled *first, *last; /* who waits for a reservation */
    struct pen pen;
    uint32_t packed;            /* requests in chunks of the pen */
    struct timer timer;
} hd;

static unsigned char bytes[PACKED_MAX];

/* ----------------------------------------------------------- what is much */

/* A half of the pool for all; or five eighths for one alone, so that one of 16 MiB may pass through a pool of 32. */
static bool reserve(struct pooled *p)
{
    uint32_t n = p->asks.header.length;
    if (hd.reserved > 0 && hd.reserved + n > buf_total() / 2) {
        return false;
    }
    hd.reserved += n;
    p->much = n;
    p->until_ms = loop_ms() + p->service->conf->client_stall_ms;
    return true;
}

static void leave(struct pooled *p)
{
    *(p->queue_prev != NULL ? &p->queue_prev->queue_next : &hd.first) = p->queue_next;
    *(p->queue_next != NULL ? &p->queue_next->queue_prev : &hd.last) = p->queue_prev;
    p->queue_next = p->queue_prev = NULL;
    p->queues = false;
}

enum hold hold_much(struct pooled *p)
{
    if (p->asks.header.length > buf_total() / 8 * 5) {
        return HOLD_NEVER;
    }
    if (hd.first == NULL && reserve(p)) {
        return HOLD_MAY;
    }
    p->queue_prev = hd.last;
    *(hd.last != NULL ? &hd.last->queue_next : &hd.first) = p;
    hd.last = p;
    p->queues = true;
    return HOLD_QUEUES;
}

static void on_timer(struct timer *t)
{
    struct pooled *p = hd.first;
    (void)t;
    while (p != NULL && reserve(p)) {
        leave(p);
        hd.on_turn(p);
        p = hd.first;
    }
}

static void packed_drop(struct pooled *p)
{
    bool was = p->packed.len > 0;
    slice_release(&p->packed);
    if (was && --hd.packed == 0) {
        pen_close(&hd.pen);
    }
}

size_t hold_reserved(void)
{
    return hd.reserved;
}

void hold_drop(struct pooled *p)
{
    chain_clear(&p->held);
    packed_drop(p);
    hd.reserved -= p->much;
    if (p->queues) {
        leave(p);
    }
    if (p->much > 0 && hd.first != NULL) {
        loop_timer(&hd.timer, loop_ms());
    }
    p->much = 0;
}

/* ---------------------------------------------------------- what is small */

void hold_pack(struct pooled *p)
{
    size_t n = p->held.len;
    if (n > 0 && n <= PACKED_MAX) {
        chain_copy(&p->held, bytes, n);
        if (pen_write(&hd.pen, BUF_REPLY, bytes, n, &p->packed)) {
            hd.packed++;
            chain_clear(&p->held);
        }
    }
}

bool hold_unpack(struct pooled *p)
{
    size_t n = p->packed.len;
    if (n == 0) {
        return true;
    }
    slice_copy(&p->packed, 0, bytes, n);
    packed_drop(p);
    return chain_put(&p->held, BUF_REPLY, bytes, n);
}

void hold_open(void (*on_turn)(struct pooled *p))
{
    hd.on_turn = on_turn;
    hd.timer.on_due = on_timer;
}
