/*
 * conn.c - the connection table: every socket but the listeners' is one entry here, whatever protocol it speaks.
 *
 *      rooms above   client    upstream    probe          own what a connection means
 *                       ^  ops    ^  ops     ^  ops       on_open on_bytes on_room on_close on_tick
 *      conn.c        [ conn ] [ conn ] [ conn ] ...       owns descriptor, state, output, stall clock
 *                       |  transport                      receive, send, close
 *      loop, net     watch, timer, system calls
 *
 *   FREE -> DIALING -> OPEN -> FINISHING -> DEAD -> FREE       (an accepted one begins OPEN)
 *
 * set_state() is the only function that changes a state. A dead entry rests until conn_reap(), after the turn,
 * because events of this turn may still name it. Output is gathered in a turn and sent by conn_flush() at its
 * end: one send for each connection that has something to say.
 */
#include "parent.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#define FLUSH_ROUNDS 4        /* sends to one connection in one turn before the others get theirs */
#define ACCEPT_PAUSE_MS 100   /* how long a listener rests when the system has no descriptor left */
#define GIVEN_MS 100          /* until one that has been given is looked at again, if it is still here then */

static struct listener *listeners; /* all that listen */

static struct {
    struct conn *all;
    size_t size;
    size_t used;            /* entries from here on have never been taken */
    struct conn *free, *dead;
    struct conn *dirty, **dirty_end;
    bool urgent;            /* some of the dirty ones should not wait */
    size_t patient;         /* of the dirty ones, how many let their output wait for more */
    struct timer patience;  /* they wait a millisecond at most */
    size_t count[CONN_KINDS], most[CONN_KINDS];
    uint64_t last_id;
} table;

/* How many of a kind there are is told of those that grow with the load. */
static struct gauge *const levels[CONN_KINDS] = { &gauges.clients, &gauges.upstreams, NULL, NULL };

static void set_count(enum conn_kind kind, size_t n)
{
    table.count[kind] = n;
    if (levels[kind] != NULL) {
        gauge_set(levels[kind], n);
    }
}

static void set_most(enum conn_kind kind, size_t most)
{
    table.most[kind] = most;
    if (levels[kind] != NULL) {
        levels[kind]->most = most;
    }
}

void conn_tables(const struct conf *conf)
{
    table.most[CONN_CLIENT] = conf->max_clients;
    table.most[CONN_UPSTREAM] = conf_upstreams(conf);
    table.most[CONN_PROBE] = conf_probes(conf);
    table.most[CONN_ADMIN] = conf_admins(conf);
    table.size = 0;
    for (int kind = 0; kind < CONN_KINDS; kind++) {
        table.size += table.most[kind];
    }
    table.all = arena_take("connections", table.size, sizeof *table.all);
}

void conn_open_table(void)
{
    table.free = table.dead = table.dirty = NULL;
    table.used = 0;
    table.dirty_end = &table.dirty;
    table.last_id = (uint64_t)upgrade_left()->generation << 32; /* those that come from the program before keep theirs */
    for (int kind = 0; kind < CONN_KINDS; kind++) {
        set_most((enum conn_kind)kind, table.most[kind]);
        set_count((enum conn_kind)kind, 0);
    }
    for (size_t i = table.size; i > 0; i--) {
        table.all[i - 1].next = table.free;
        table.free = &table.all[i - 1];
    }
}

void conn_limit(enum conn_kind kind, size_t most)
{
    set_most(kind, most < table.most[kind] ? most : table.most[kind]);
}

size_t conn_most(enum conn_kind kind)
{
    return table.most[kind];
}

size_t conn_count(enum conn_kind kind)
{
    return table.count[kind];
}

size_t conn_size(void)
{
    return table.used;
}

struct conn *conn_at(size_t i)
{
    struct conn *c = &table.all[i];
    return i < table.size && (c->state == CONN_OPEN || c->state == CONN_FINISHING) ? c : NULL;
}

bool conn_full(enum conn_kind kind)
{
    return table.count[kind] >= table.most[kind] || table.free == NULL;
}

static void set_state(struct conn *c, enum conn_state to)
{
    switch (to) {
    case CONN_DIALING:
        must(c->state == CONN_FREE);
        break;
    case CONN_OPEN:
        must(c->state == CONN_FREE || c->state == CONN_DIALING);
        break;
    case CONN_FINISHING:
        must(c->state == CONN_OPEN);
        break;
    case CONN_DEAD:
        must(c->state != CONN_DEAD);
        c->next = table.dead;
        table.dead = c;
        break;
    case CONN_FREE:
        must(c->state == CONN_DEAD);
        set_count((enum conn_kind)c->kind, table.count[c->kind] - 1);
        c->next = table.free;
        table.free = c;
        break;
    default:
        must_failed("a known connection state", __FILE__, __LINE__);
    }
    c->state = (uint8_t)to;
}

struct conn *conn_take(enum conn_kind kind, const struct conn_ops *ops, void *owner)
{
    struct conn *c = table.free;
    if (conn_full(kind)) {
        return NULL;
    }
    table.free = c->next;
    table.used = (size_t)(c - table.all) < table.used ? table.used : (size_t)(c - table.all) + 1;
    set_count(kind, table.count[kind] + 1);
    memset(c, 0, sizeof *c);
    c->kind = (uint8_t)kind;
    c->ops = ops;
    c->owner = owner;
    c->transport = &transport_plain;
    c->fd = c->watch.fd = -1;
    c->watch.slot = -1;
    c->id = ++table.last_id;
    return c;
}

/* ------------------------------------------------------ what is wanted */

static void want(struct conn *c)
{
    short events = 0;
    if (c->state == CONN_DIALING || c->blocked) {
        events |= POLLOUT;
    }
    if (c->reading && !c->held && !c->stilled) {
        events |= POLLIN;
    }
    if (c->watch.fd >= 0 && c->watch.events != events) {
        loop_want(&c->watch, events);
    }
}

void conn_read(struct conn *c, bool on)
{
    if (c->state != CONN_FINISHING) {
        c->reading = on && c->state != CONN_DEAD;
        want(c);
    }
}

void conn_still(struct conn *c, bool on)
{
    c->stilled = on;
    want(c);
}

void conn_hold(struct conn *c, bool held)
{
    c->held = held;
    want(c);
}

static void on_deadline(struct timer *t)
{
    struct conn *c = (struct conn *)(void *)((char *)t - offsetof(struct conn, timer));
    if (c->given) {
        conn_deadline(c, loop_ms() + GIVEN_MS); /* what is due may be another worker's to do by now */
    } else if (c->state == CONN_DIALING) {
        conn_fail(c, "no connection within dial_timeout");
    } else if (c->state == CONN_FINISHING && c->out.len > 0 && loop_ms() - c->sent_ms < c->finish_ms) {
        conn_deadline(c, c->sent_ms + c->finish_ms); /* it still reads */
    } else if (c->state == CONN_FINISHING) {
        conn_fail(c, "finished");
    } else if (c->ops->on_tick != NULL) {
        c->ops->on_tick(c);
    }
}

void conn_deadline(struct conn *c, uint64_t due_ms)
{
    if (due_ms == 0) {
        loop_timer_stop(&c->timer);
        return;
    }
    c->timer.on_due = on_deadline;
    loop_timer(&c->timer, due_ms);
}

/* ------------------------------------------------- its life, step by step */

static void on_ready(struct watch *w, short revents);

static bool watch(struct conn *c, int fd, short events)
{
    c->fd = fd;
    if (!loop_watch(&c->watch, fd, events, on_ready)) {
        c->transport->close(c);
        set_state(c, CONN_DEAD);
        return false;
    }
    return true;
}

bool conn_adopt(struct conn *c, int fd)
{
    set_state(c, CONN_OPEN);
    c->reading = true;
    c->watch.may_cool = c->kind == CONN_CLIENT;
    return watch(c, fd, POLLIN);
}

bool conn_dial(struct conn *c, const struct address *a, uint32_t timeout_ms, const struct net_sizes *sizes)
{
    int fd = net_dial(a, sizes);
    stats.dials++;
    set_state(c, CONN_DIALING);
    c->peer = *a;
    if (fd < 0) {
        stats.dial_failures++;
        set_state(c, CONN_DEAD);
        return false;
    }
    if (!watch(c, fd, POLLOUT)) {
        return false;
    }
    conn_deadline(c, loop_ms() + timeout_ms);
    return true;
}

void conn_given(struct conn *c, bool on)
{
    c->given = on;
    if (on) {
        loop_unwatch(&c->watch);
        gate_let_go(c); /* its turn would come here, for what the next worker does */
    } else if (watch(c, c->fd, 0)) {
        want(c);
    }
}

void conn_close(struct conn *c)
{
    if (c->state == CONN_DEAD || c->state == CONN_FREE) {
        return;
    }
    loop_timer_stop(&c->timer);
    loop_timer_stop(&c->stall);
    if (c->source != NULL) {
        gate_left(c);
    }
    if (c->watch.fd >= 0) {
        loop_unwatch(&c->watch);
    }
    c->transport->close(c);
    chain_clear(&c->out);
    c->reading = c->blocked = false;
    set_state(c, CONN_DEAD);
}

void conn_fail(struct conn *c, const char *why)
{
    if (c->state == CONN_DEAD || c->state == CONN_FREE) {
        return;
    }
    if (c->state == CONN_DIALING) {
        stats.dial_failures++;
    }
    if (c->kind == CONN_CLIENT) {
        char text[ADDRESS_TEXT];
        log_debug("client closed", "client=%s why=\"%s\"", address_text(&c->peer, text), why);
    }
    conn_close(c);
    if (c->ops->on_close != NULL) {
        c->ops->on_close(c, why);
    }
}

void conn_stall_limit(struct conn *c, uint32_t limit_ms)
{
    c->stall_limit_ms = limit_ms;
    if (c->stall.next != NULL) {
        loop_timer(&c->stall, loop_ms()); /* on_stall looks how long it has been */
    }
}

/* Closing with input unread would reset the connection and could take our last words from the peer: first our
 * side ends, then what still comes is thrown away until the peer ends too. From here on `reading` says that it has not
 * ended yet. */
void conn_finish(struct conn *c, uint32_t limit_ms)
{
    if (c->state != CONN_OPEN || c->given) {
        conn_fail(c, "finished");
        return;
    }
    c->stilled = false;
    set_state(c, CONN_FINISHING);
    if (c->held) {
        gate_let_go(c);
    }
    c->finish_ms = limit_ms;
    c->sent_ms = loop_ms();
    c->reading = true;
    conn_deadline(c, loop_ms() + limit_ms);
    want(c);
    conn_dirty(c);
}

void conn_reap(void)
{
    while (table.dead != NULL) {
        struct conn *c = table.dead;
        if (c->dirty) {
            return; /* cannot be: conn_flush has taken all off its list; kept so that a slip costs no safety */
        }
        table.dead = c->next;
        set_state(c, CONN_FREE);
    }
}

/* --------------------------------------------------------------- output */

static void enlist(struct conn *c)
{
    if (!c->dirty && c->state != CONN_DEAD && c->state != CONN_FREE) {
        c->dirty = true;
        c->dirty_next = NULL;
        *table.dirty_end = c;
        table.dirty_end = &c->dirty_next;
    }
}

void conn_dirty(struct conn *c)
{
    table.urgent = true;
    enlist(c);
}

static void on_stall(struct timer *t)
{
    struct conn *c = (struct conn *)(void *)((char *)t - offsetof(struct conn, stall));
    if (!c->blocked) {
        return;
    }
    if (loop_ms() - c->sent_ms >= c->stall_limit_ms) {
        if (c->kind == CONN_CLIENT) {
            char text[ADDRESS_TEXT];
            stats.clients_stalled++;
            log_warn("client closed: it does not read its answers (client_stall)", "client=%s", address_text(&c->peer, text));
        }
        conn_fail(c, "stalled: it does not read what is sent to it");
    } else {
        loop_timer(&c->stall, c->sent_ms + c->stall_limit_ms);
    }
}

static void set_blocked(struct conn *c, bool blocked)
{
    if (blocked && !c->blocked) {
        c->sent_ms = loop_ms();
        if (c->stall_limit_ms > 0) {
            c->stall.on_due = on_stall;
            loop_timer(&c->stall, c->sent_ms + c->stall_limit_ms);
        }
    } else if (!blocked && c->blocked) {
        loop_timer_stop(&c->stall);
    }
    if (c->blocked != blocked) {
        c->blocked = blocked;
        want(c);
    }
}

/* n bytes went out: first those of the chain, the rest were the owner's. */
static void account(struct conn *c, size_t n)
{
    size_t own = c->midway ? 0 : n < c->out.len ? n : c->out.len;
    c->sent_ms = loop_ms();
    stats.bytes_out += n;
    if (c->source != NULL) {
        gate_bytes(c, n);
    }
    chain_drop(&c->out, own);
    if (n > own) {
        c->ops->on_sent(c, n - own);
    }
}

/* One send. Gives false when there is nothing more to do for this connection in this turn. */
static bool send_once(struct conn *c)
{
    struct iovec iov[SEND_SLICES];
    size_t want_out = 0;
    int count = c->midway ? 0 : chain_gather(&c->out, iov, SEND_SLICES);
    if (c->ops->gather != NULL && (c->state == CONN_OPEN || c->midway) && count < SEND_SLICES) {
        count += c->ops->gather(c, iov + count, SEND_SLICES - count);
    }
    if (count == 0) {
        set_blocked(c, false);
        if (c->state == CONN_FINISHING && !c->reading) {
            conn_fail(c, "finished");
        } else if (c->state == CONN_FINISHING) {
            net_shutdown(c->fd);
        } else if (c->ops->on_room != NULL) {
            c->ops->on_room(c);
        }
        return false;
    }
    for (int i = 0; i < count; i++) {
        want_out += iov[i].iov_len;
    }
    ssize_t n = c->transport->send(c, iov, count);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)) {
        n = 0;
    }
    if (n < 0) {
        conn_fail(c, strerror(errno));
        return false;
    }
    if (n > 0) {
        account(c, (size_t)n);
    }
    if ((size_t)n < want_out) {
        set_blocked(c, true);
        return false;
    }
    return c->state == CONN_OPEN || c->state == CONN_FINISHING;
}

/* Sends what there is, and asks again at once: most often that second look finds nothing and costs no call. */
static void flush_one(struct conn *c)
{
    for (int i = 0; i < FLUSH_ROUNDS; i++) {
        if (!send_once(c)) {
            return;
        }
    }
    conn_dirty(c);
}

static void on_patience_over(struct timer *t)
{
    (void)t; /* it has made the turn begin that flushes them */
}

void conn_flush(void)
{
    struct conn *c = table.dirty;
    table.dirty = NULL;
    table.dirty_end = &table.dirty;
    table.patient = 0;
    table.urgent = false;
    while (c != NULL) {
        struct conn *next = c->dirty_next;
        c->dirty = false;
        if (c->state == CONN_OPEN && c->ops->waits != NULL && c->ops->waits(c)) {
            enlist(c);
            table.patient++;
        } else if (c->state == CONN_OPEN || c->state == CONN_FINISHING) {
            flush_one(c);
        }
        c = next;
    }
    if (table.patient > 0 && table.patience.next == NULL) {
        table.patience.on_due = on_patience_over;
        loop_timer(&table.patience, loop_ms() + 1);
    }
}

bool conn_pending(void)
{
    return table.dirty != NULL && table.urgent;
}

/* ---------------------------------------------------------------- input */

ssize_t conn_receive(struct conn *c, void *buf, size_t cap)
{
    struct iovec iov = { buf, cap };
    ssize_t n = c->transport->receive(c, &iov, 1);
    if (n > 0) {
        stats.bytes_in += (uint64_t)n;
        return c->gated && !gate_received(c, buf, (size_t)n) ? CONN_FAILED : n;
    }
    if (n == 0) {
        return CONN_ENDED;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return CONN_NOTHING;
    }
    conn_fail(c, strerror(errno));
    return CONN_FAILED;
}

static void on_dialed(struct conn *c)
{
    int error = net_dialed(c->fd);
    if (error != 0) {
        conn_fail(c, strerror(error));
        return;
    }
    set_state(c, CONN_OPEN);
    loop_timer_stop(&c->timer);
    c->reading = true;
    want(c);
    if (c->ops->on_open != NULL) {
        c->ops->on_open(c);
    }
    conn_dirty(c);
}

/* What still comes is read and forgotten. A peer that has ended its side may still be reading: it gets all our output. */
static void on_leftover(struct conn *c)
{
    unsigned char sink[4096];
    struct iovec iov = { sink, sizeof sink };
    ssize_t n = c->transport->receive(c, &iov, 1);
    if (n == 0 && c->out.len > 0) {
        c->reading = false;
        want(c);
    } else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) {
        conn_fail(c, "finished");
    }
}

static void on_ready(struct watch *w, short revents)
{
    struct conn *c = (struct conn *)(void *)w;
    if (c->state == CONN_DIALING) {
        on_dialed(c);
        return;
    }
    if ((revents & POLLOUT) != 0 && c->blocked) {
        conn_dirty(c);
    }
    if ((revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL)) == 0) {
        return;
    }
    if (c->stilled && !c->held) {
        conn_still(c, false); /* it has hung up */
    }
    if (c->state == CONN_FINISHING) {
        on_leftover(c);
    } else if (c->reading && !c->held) {
        c->ops->on_bytes(c);
    } else if ((revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
        conn_fail(c, "the peer hung up");
    }
}

/* ------------------------------------------------------------ transport */

static ssize_t plain_receive(struct conn *c, struct iovec *iov, int count)
{
    return net_receive(c->fd, iov, count);
}

static ssize_t plain_send(struct conn *c, struct iovec *iov, int count)
{
    return net_send(c->fd, iov, count);
}

static void plain_close(struct conn *c)
{
    if (c->fd >= 0) {
        net_close(c->fd);
        c->fd = -1;
    }
}

const struct transport transport_plain = { plain_receive, plain_send, plain_close };

/* ------------------------------------------------------------ listeners */

static void on_pause_over(struct timer *t)
{
    struct listener *l = (struct listener *)(void *)((char *)t - offsetof(struct listener, pause));
    loop_want(&l->watch, POLLIN);
}

static void on_dial_in(struct watch *w, short revents)
{
    struct listener *l = (struct listener *)(void *)w;
    (void)revents;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct address peer;
        int fd = net_accept(w->fd, &peer, &l->sizes);
        if (fd >= 0) {
            l->on_accept(l->mark, fd, &peer);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            log_warn("no descriptors left for new clients", "error=\"%s\"", strerror(errno));
            loop_want(w, 0);
            l->pause.on_due = on_pause_over;
            loop_timer(&l->pause, loop_ms() + ACCEPT_PAUSE_MS);
        }
        return;
    }
}

void conn_listen(struct listener *l, int fd)
{
    must(loop_watch(&l->watch, fd, POLLIN, on_dial_in));
    l->next = listeners;
    listeners = l;
}

void conn_unlisten(struct listener *l)
{
    loop_timer_stop(&l->pause);
    if (l->watch.fd >= 0) {
        loop_unwatch(&l->watch);
        l->watch.fd = -1;
    }
}

void conn_accept(bool on)
{
    for (struct listener *l = listeners; l != NULL; l = l->next) {
        loop_timer_stop(&l->pause);
        loop_want(&l->watch, on ? POLLIN : 0);
    }
}

void conn_listen_no_more(void)
{
    for (struct listener *l = listeners; l != NULL; l = l->next) {
        int fd = l->watch.fd;
        conn_unlisten(l);
        net_close(fd);
    }
}
