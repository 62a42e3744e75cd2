/*
 * loop.c - the one poll loop: descriptors hot and cold, deadlines, signals, and the time.
 *
 *   polls[], owners[]:  0 the pipe of signals
 *                       1 the kernel queue -----> cold descriptors, any number of them, told from there
 *                       2..hot   polled each turn
 *                       hot..hot+tail   cold ones, where the system has no such queue: polled now and then
 *
 *   wheel: 8 rows of 64 lists; row r holds what is due within 64^(r+1) ms, at a grain of 64^r ms
 *
 * Watches and timers live inside their owners; the loop only links to them, and allocates nothing.
 *
 * A turn goes through the ready entries from the last to the first. An entry that leaves is replaced by the
 * last one, which therefore has had its call already or is new and carries no event: whoever comes and goes
 * during a turn, each event is told once, and to the watch it was meant for.
 */
#include "puerta.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#define PIPE_SLOT 0
#define QUEUE_SLOT 1
#define FIRST_SLOT 2

/* An entry costs each poll something, ready or not; one in the kernel queue costs only when it is ready. So one that was
 * not for a while is kept there. It stays when it speaks, and leaves when it wants more than to be read. */
#define COOL_AFTER_MS 2
#define COOL_ABOVE 64   /* below this many entries a poll is as cheap as it gets */
#define COOL_SHARE 64   /* one turn looks at this fraction of the entries */

/* Without a kernel queue the cold ones are looked at this often: one millisecond more for each 400 of them keeps
 * the cost of looking under a tenth of the time. */
#define SCAN_AFTER_MS 250 /* what asks more often is not to wait for that */
#define SCAN_MIN_MS 5
#define SCAN_MAX_MS 20
#define SCAN_SHARE 400

/* Under load a turn begins with a nap: what comes meanwhile shares one poll, and one send to each node, which is the most
 * that a request costs. With few entries ready it is each one's wait that counts, and nobody naps; neither does a
 * system whose clock is so coarse that a nap is long. */
#define NAP_US 50
#define NAP_AT 12       /* as many were ready in the turn before */
#define NAP_MOST_US 400
#define NAP_TRIES 3

#define ROW_BITS 6
#define ROW_LISTS 64
#define ROWS 8          /* 64^8 ms are 8,900 years */

#define NEVER UINT64_MAX

/* For the unit test: no kernel queue though the system has one; a clock that only poll's timeout moves. */
bool loop_without_queue;
uint64_t loop_mock_us;

uint32_t loop_stamp = 1;

static struct {
    struct pollfd *polls;
    struct watch **owners;
    size_t cap;
    size_t hot, tail;       /* entries polled each turn, and cold ones behind them */
    size_t queued;          /* cold ones in the kernel queue */
    size_t hand;            /* where cool() goes on looking */
    int ready, pending;     /* events of this turn, and those that are not told yet */
    bool may_nap;
    int queue, pipe_read, pipe_write;
    uint64_t now_us, now_ms, scanned_ms;
} loop = { .queue = -1, .pipe_read = -1, .pipe_write = -1 };

static struct {
    struct timer lists[ROWS][ROW_LISTS];
    uint64_t used[ROWS];    /* bit per list; one of an emptied list is cleared when it is come upon */
    struct timer overdue;   /* due by now: fired in the next turn */
    struct timer mark;      /* the end of what this turn fires */
    uint64_t at_ms;         /* everything due until then has been taken out */
    uint64_t wake_ms;       /* nothing is due before it */
} wheel;

static volatile sig_atomic_t signal_came[32], any_signal;

/* The pipe and the queue have no watch of their own; this one stands in their entries. */
static struct watch inner = { .fd = -1, .slot = -1 };

/* ----------------------------------------------------------- the entries */

static void entry_move(size_t to, size_t from)
{
    if (to == from)
        return;
    loop.polls[to] = loop.polls[from];
    loop.owners[to] = loop.owners[from];
    loop.owners[to]->slot = (int32_t)to;
}

static void entry_swap(size_t a, size_t b)
{
    struct pollfd p = loop.polls[a];
    struct watch *w = loop.owners[a];
    entry_move(a, b);
    loop.polls[b] = p;
    loop.owners[b] = w;
    w->slot = (int32_t)b;
}

static void hot_add(struct watch *w)
{
    size_t i = loop.hot++;
    if (loop.tail > 0)
        entry_move(i + loop.tail, i);
    loop.polls[i] = (struct pollfd){ .fd = w->fd, .events = w->events };
    loop.owners[i] = w;
    w->slot = (int32_t)i;
    w->cold = false;
}

static void hot_remove(struct watch *w)
{
    size_t i = (size_t)w->slot, last = --loop.hot;
    must(i >= FIRST_SLOT && i <= last && loop.owners[i] == w);
    if (loop.polls[i].revents != 0)
        loop.pending--;
    entry_move(i, last);
    if (loop.tail > 0)
        entry_move(last, last + loop.tail);
    w->slot = -1;
}

/* Takes a hot one out of every turn's poll; false when the kernel has no room for it. */
static bool freeze(struct watch *w)
{
    if (loop.queue < 0) {
        entry_swap((size_t)w->slot, --loop.hot);
        loop.tail++;
    } else {
        if (!os_cold_add(loop.queue, w->fd, w))
            return false;
        hot_remove(w);
        loop.queued++;
    }
    w->cold = true;
    return true;
}

/* Makes a cold one hot again. */
static void thaw(struct watch *w)
{
    if (loop.queue < 0) {
        entry_swap((size_t)w->slot, loop.hot++);
        loop.tail--;
        w->cold = false;
    } else {
        os_cold_del(loop.queue, w->fd);
        loop.queued--;
        hot_add(w);
    }
}

bool loop_watch(struct watch *w, int fd, short events, void (*on_ready)(struct watch *, short))
{
    if (loop.hot + loop.tail + loop.queued >= loop.cap)
        return false;
    w->fd = fd;
    w->events = events;
    w->on_ready = on_ready;
    w->active_ms = loop.now_ms;
    hot_add(w);
    return true;
}

void loop_want(struct watch *w, short events)
{
    if (w->fd < 0 || w->events == events)
        return;
    w->events = events;
    if (w->cold) {
        w->active_ms = loop.now_ms;
        thaw(w);
    }
    loop.polls[w->slot].events = events;
}

void loop_unwatch(struct watch *w)
{
    if (w->fd < 0 || w->on_ready == NULL) /* all zeros: never watched */
        return;
    if (!w->cold) {
        hot_remove(w);
    } else if (loop.queue >= 0) {
        os_cold_del(loop.queue, w->fd);
        loop.queued--;
    } else {
        size_t i = (size_t)w->slot;
        must(i >= loop.hot && i < loop.hot + loop.tail && loop.owners[i] == w);
        entry_move(i, loop.hot + --loop.tail);
    }
    w->fd = -1;
    w->slot = -1;
    w->cold = false;
}

size_t loop_hot(void) { return loop.hot; }
size_t loop_cold(void) { return loop.queued + loop.tail; }

/* A clock's hand goes over the entries, a few each turn, and freezes those that were idle for long. */
static void cool(void)
{
    uint64_t after_ms = loop.queue < 0 ? SCAN_AFTER_MS : COOL_AFTER_MS;
    for (size_t n = loop.hot / COOL_SHARE + 1; n > 0 && loop.hot > COOL_ABOVE; n--) {
        if (loop.hand < FIRST_SLOT || loop.hand >= loop.hot)
            loop.hand = FIRST_SLOT;
        struct watch *w = loop.owners[loop.hand];
        bool idle = w->may_cool && w->events == POLLIN && loop.now_ms - w->active_ms >= after_ms;
        if (!idle || !freeze(w))
            loop.hand++; /* else another one stands here now */
    }
}

/* ---------------------------------------------------------------- timers */

static void list_init(struct timer *head)
{
    head->next = head->prev = head;
}

static void list_append(struct timer *head, struct timer *t)
{
    t->prev = head->prev;
    t->next = head;
    head->prev->next = t;
    head->prev = t;
}

static void list_take(struct timer *t)
{
    t->prev->next = t->next;
    t->next->prev = t->prev;
    t->next = t->prev = NULL;
}

/* The row is told by the highest bit in which the deadline and the wheel's time differ, so that a list
 * comes up just when all bits above its own agree. */
static void wheel_put(struct timer *t)
{
    uint64_t far = (UINT64_C(1) << (ROW_BITS * ROWS)) - 1;
    uint64_t due = t->due_ms < far ? t->due_ms : far;
    if (due <= wheel.at_ms) {
        list_append(&wheel.overdue, t);
        return;
    }
    int row = (63 - __builtin_clzll(due ^ wheel.at_ms)) / ROW_BITS;
    unsigned list = (unsigned)(due >> (row * ROW_BITS)) % ROW_LISTS;
    list_append(&wheel.lists[row][list], t);
    wheel.used[row] |= UINT64_C(1) << list;
}

/* The list that comes up next, and when; NULL when all are empty. The lowest row that has one has the
 * first: those of the rows above begin later. */
static struct timer *wheel_next(uint64_t *when_ms)
{
    for (int row = 0; row < ROWS; row++) {
        while (wheel.used[row] != 0) {
            int list = __builtin_ctzll(wheel.used[row]), shift = row * ROW_BITS;
            struct timer *head = &wheel.lists[row][list];
            uint64_t above = wheel.at_ms >> shift >> ROW_BITS;
            *when_ms = (above << ROW_BITS | (uint64_t)list) << shift;
            if (head->next != head)
                return head;
            wheel.used[row] &= ~(UINT64_C(1) << list);
        }
    }
    *when_ms = NEVER;
    return NULL;
}

void loop_timer(struct timer *t, uint64_t due_ms)
{
    if (t->next != NULL) {
        if (t->due_ms == due_ms)
            return;
        list_take(t);
    }
    t->due_ms = due_ms;
    wheel_put(t);
    if (due_ms < wheel.wake_ms)
        wheel.wake_ms = due_ms;
}

void loop_timer_stop(struct timer *t)
{
    if (t->next != NULL)
        list_take(t);
}

/* Calls what is due. What is armed meanwhile for a moment that has passed stands behind the mark and waits
 * for the next turn, so that a timer that arms itself again cannot hold the loop. */
static void fire_timers(void)
{
    struct timer *head, *t;
    uint64_t next;
    if (loop.now_ms < wheel.wake_ms)
        return;
    while ((head = wheel_next(&next)) != NULL && next <= loop.now_ms) {
        wheel.at_ms = next;
        while ((t = head->next) != head) { /* to the rows below, or to what is overdue */
            list_take(t);
            wheel_put(t);
        }
    }
    wheel.at_ms = loop.now_ms;
    wheel.wake_ms = next;
    list_append(&wheel.overdue, &wheel.mark);
    while ((t = wheel.overdue.next) != &wheel.mark) {
        list_take(t);
        t->on_due(t);
    }
    list_take(&wheel.mark);
}

/* --------------------------------------------------------------- signals */

void loop_wake(int signal_number)
{
    int saved = errno;
    if (signal_number > 0 && signal_number < 32) {
        signal_came[signal_number] = 1;
        any_signal = 1;
    }
    ssize_t n = write(loop.pipe_write, "", 1); /* a full pipe wakes as well */
    (void)n;
    errno = saved;
}

uint32_t loop_signals(void)
{
    uint32_t set = 0;
    if (!any_signal)
        return 0;
    any_signal = 0; /* first: one that comes from here on is found now or next time */
    for (int i = 1; i < 32; i++) {
        if (signal_came[i]) {
            signal_came[i] = 0;
            set |= UINT32_C(1) << i;
        }
    }
    return set;
}

/* ------------------------------------------------------------- the turn */

void loop_tables(const struct conf *conf)
{
    loop.cap = (size_t)conf->max_clients + conf_upstreams(conf) + conf_probes(conf) + conf_arrivals(conf) +
               MAX_SERVICES * MAX_LISTENS + 32;
    loop.polls = arena_take("poll entries", loop.cap, sizeof *loop.polls);
    loop.owners = arena_take("poll owners", loop.cap, sizeof *loop.owners);
}

static void read_clock(void)
{
    struct timespec t;
    if (loop_mock_us != 0) {
        loop.now_us = loop_mock_us;
    } else {
        clock_gettime(CLOCK_MONOTONIC, &t);
        loop.now_us = (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
    }
    loop.now_ms = loop.now_us / 1000;
    loop_stamp = (uint32_t)loop.now_us | 1;
}

uint64_t loop_ms(void) { return loop.now_ms; }
uint64_t loop_us(void) { return loop.now_us; }

static void nap(void)
{
    struct timespec t = { 0, NAP_US * 1000 };
    nanosleep(&t, NULL);
}

/* The shortest of a few tells the grain of the clock; the others may have met a busy machine. */
static bool naps_are_short(void)
{
    uint64_t shortest = NEVER;
    for (int i = 0; i < NAP_TRIES && loop_mock_us == 0; i++) {
        uint64_t from = loop.now_us;
        nap();
        read_clock();
        if (loop.now_us - from < shortest)
            shortest = loop.now_us - from;
    }
    return shortest <= NAP_MOST_US;
}

void loop_open(void)
{
    int ends[2];
    if (pipe(ends) < 0 || !os_prepare_fd(ends[0]) || !os_prepare_fd(ends[1]))
        fatal(EX_OSERR, "no pipe for signals: %s", strerror(errno));
    loop.pipe_read = ends[0];
    loop.pipe_write = ends[1];
    loop.queue = loop_without_queue ? -1 : os_cold_open();
    loop.hot = FIRST_SLOT;
    loop.tail = loop.queued = 0;
    loop.polls[PIPE_SLOT] = (struct pollfd){ .fd = loop.pipe_read, .events = POLLIN };
    loop.polls[QUEUE_SLOT] = (struct pollfd){ .fd = loop.queue, .events = POLLIN }; /* poll skips -1 */
    loop.owners[PIPE_SLOT] = loop.owners[QUEUE_SLOT] = &inner;
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < ROW_LISTS; i++)
            list_init(&wheel.lists[r][i]);
    memset(wheel.used, 0, sizeof wheel.used);
    list_init(&wheel.overdue);
    read_clock();
    loop.may_nap = naps_are_short();
    wheel.at_ms = loop.now_ms;
    wheel.wake_ms = NEVER;
}

/* How long this turn may wait. Sets *scan when the tail of cold ones is to be polled too: then the wait
 * needs no bound of its own, since they end it like the others. */
static int wait_ms(bool busy, bool *scan)
{
    uint64_t wait = NEVER;
    *scan = false;
    if (wheel.wake_ms != NEVER)
        wait = wheel.wake_ms > loop.now_ms ? wheel.wake_ms - loop.now_ms : 0;
    if (loop.tail > 0) {
        uint64_t every = loop.tail / SCAN_SHARE, since = loop.now_ms - loop.scanned_ms;
        every = every < SCAN_MIN_MS ? SCAN_MIN_MS : every > SCAN_MAX_MS ? SCAN_MAX_MS : every;
        *scan = since >= every;
        if (!*scan && every - since < wait)
            wait = every - since;
    }
    if (busy)
        return 0;
    return wait == NEVER ? -1 : wait > INT_MAX ? INT_MAX : (int)wait;
}

/* Without a queue, cold ones that woke join the hot ones with their event set, to be told with the others. */
static void take_tail(void)
{
    for (size_t i = loop.hot, end = loop.hot + loop.tail; i < end; i++)
        if (loop.polls[i].revents != 0)
            thaw(loop.owners[i]);
}

/* Told straight from the queue. One that an earlier one's call has taken out of it is not: it is closed, or the next
 * poll sees it. */
static void tell_queue(void)
{
    void *marks[COLD_PER_TURN];
    int n;
    if (loop.polls[QUEUE_SLOT].revents == 0)
        return;
    loop.polls[QUEUE_SLOT].revents = 0;
    loop.pending--;
    n = os_cold_ready(loop.queue, marks, COLD_PER_TURN);
    loop.ready += n;
    for (int i = 0; i < n; i++) {
        struct watch *w = marks[i];
        if (w->cold) {
            w->active_ms = loop.now_ms;
            w->on_ready(w, POLLIN);
        }
    }
}

static void drain_pipe(void)
{
    char bytes[64];
    if (loop.polls[PIPE_SLOT].revents == 0)
        return;
    while (read(loop.pipe_read, bytes, sizeof bytes) == (ssize_t)sizeof bytes)
        ;
    loop.polls[PIPE_SLOT].revents = 0;
    loop.pending--;
}

/* From the last entry to the first: see the picture above. */
static void tell(void)
{
    for (size_t i = loop.hot; loop.pending > 0 && i > FIRST_SLOT;) {
        short revents = loop.polls[--i].revents;
        if (revents != 0) {
            struct watch *w = loop.owners[i];
            loop.polls[i].revents = 0;
            loop.pending--;
            w->active_ms = loop.now_ms;
            w->on_ready(w, revents);
            if (i > loop.hot)
                i = loop.hot; /* so many have left that the rest has moved below */
        }
    }
}

void loop_turn(bool busy)
{
    bool scan;
    int wait = wait_ms(busy, &scan);
    if (loop_mock_us != 0 && wait >= 0) {
        loop_mock_us += (uint64_t)wait * 1000;
        wait = 0;
    }
    if (loop.may_nap && loop.ready >= NAP_AT && wait != 0)
        nap();
    loop.pending = poll(loop.polls, (nfds_t)(loop.hot + (scan ? loop.tail : 0)), wait);
    if (loop.pending < 0) {
        if (errno != EINTR)
            log_error("poll failed", "error=\"%s\"", strerror(errno));
        loop.pending = 0;
    }
    loop.ready = loop.pending;
    read_clock();
    if (scan)
        loop.scanned_ms = loop.now_ms;
    if (loop.pending > 0) {
        drain_pipe();
        tell_queue();
        if (scan)
            take_tail();
    }
    tell();
    fire_timers();
    cool();
}
