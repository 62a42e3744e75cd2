/*
 * test_loop.c - the loop: deadlines on a clock of our own, events while others come and go, cold descriptors
 * both ways (kernel queue, and scan), signals.
 */
#include "puerta.h"
#include "unit.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern bool loop_without_queue;
extern uint64_t loop_mock_us;

static uint32_t dice_state = 2463534242u;

static uint32_t dice(uint32_t below)
{
    dice_state ^= dice_state << 13;
    dice_state ^= dice_state >> 17;
    dice_state ^= dice_state << 5;
    return dice_state % below;
}

/* ---------------------------------------------------------------- timers */

#define TIMERS 10000

static struct deadline { struct timer timer; uint64_t due_ms; bool armed; int fired; } deadlines[TIMERS];
static size_t fired, wrong;

static uint64_t random_due(void)
{
    static const uint32_t spans[] = { 1, 60, 5000, 300000, 40000000, 4000000000u };
    return loop_ms() + dice(spans[dice(6)]);
}

static void arm(struct deadline *d, uint64_t due_ms)
{
    d->due_ms = due_ms;
    d->armed = true;
    loop_timer(&d->timer, due_ms);
}

static void on_deadline(struct timer *t)
{
    struct deadline *d = (struct deadline *)t;
    fired++;
    d->fired++;
    /* Exactly then: the clock of this test moves by poll's timeout alone. One armed for the past waits a turn. */
    if (!d->armed || loop_ms() != d->due_ms)
        wrong++;
    d->armed = false;
    uint32_t act = dice(8);
    struct deadline *other = &deadlines[dice(TIMERS)];
    if (act == 0) {
        arm(d, random_due());
    } else if (act == 1) {
        loop_timer_stop(&other->timer);
        other->armed = false;
    } else if (act == 2 && other->armed && other->due_ms != loop_ms()) {
        arm(other, random_due());
    }
}

static void test_many_timers(void)
{
    size_t armed = 0, turns = 0;
    unit_note = "many timers";
    loop_mock_us = 5000000;
    loop_open();
    fired = wrong = 0;
    for (size_t i = 0; i < TIMERS; i++) {
        deadlines[i].timer.on_due = on_deadline;
        arm(&deadlines[i], random_due());
    }
    for (size_t i = 0; i < TIMERS; i += 7) { /* moved before they are due */
        arm(&deadlines[i], random_due());
    }
    do {
        loop_turn(false);
        turns++;
        armed = 0;
        for (size_t i = 0; i < TIMERS && armed == 0; i++)
            armed += deadlines[i].armed;
    } while (armed > 0 && turns < 100000);
    CHECK(armed == 0);
    CHECK(wrong == 0);
    CHECK(fired > TIMERS / 2);
    CHECK(turns < 3 * TIMERS);
}

static int again_count;
static struct timer again, victim;

static void on_again(struct timer *t)
{
    again_count++;
    loop_timer(t, loop_ms() - 10); /* in the past: next turn, not for ever in this one */
    loop_timer_stop(&victim);
}

static void on_victim(struct timer *t)
{
    (void)t;
    wrong++;
}

static void test_timer_corners(void)
{
    struct timer far = { .on_due = on_victim };
    unit_note = "timers that arm and stop";
    loop_open();
    again.on_due = on_again;
    victim.on_due = on_victim;
    wrong = 0;
    uint64_t due_ms = loop_ms() + 50;
    loop_timer(&again, due_ms);
    loop_timer(&victim, due_ms); /* after it in the same list */
    loop_timer(&far, UINT64_MAX);
    loop_turn(false);
    CHECK(loop_ms() == due_ms);
    CHECK(again_count == 1 && wrong == 0);
    loop_turn(false);
    loop_turn(false);
    CHECK(again_count == 3 && loop_ms() == due_ms);
    loop_timer_stop(&again);
    loop_timer_stop(&again);
    loop_timer_stop(&far);
    CHECK(again.next == NULL && victim.next == NULL);

    /* A jump over many deadlines fires all of them, in order. */
    loop_timer(&again, loop_ms() + 70);
    loop_mock_us += 90000000;
    loop_turn(true);
    CHECK(again_count == 4);
    loop_timer_stop(&again);
}

static uint64_t latest_ms;

static void on_real(struct timer *t)
{
    if (loop_ms() < t->due_ms)
        wrong++;
    else if (loop_ms() - t->due_ms > latest_ms)
        latest_ms = loop_ms() - t->due_ms;
    fired++;
}

static void test_real_timers(void)
{
    static struct timer timers[100];
    unit_note = "real clock";
    loop_mock_us = 0;
    loop_open();
    fired = wrong = 0;
    for (size_t i = 0; i < 100; i++) {
        timers[i].on_due = on_real;
        loop_timer(&timers[i], loop_ms() + 1 + dice(250));
    }
    while (fired < 100)
        loop_turn(false);
    CHECK(wrong == 0);
    CHECK(latest_ms <= 50); /* 1 or 2 on an idle machine; the machine of a test may be busy */
}

/* ----------------------------------------------------------- descriptors */

#define PAIRS 500

static struct end { struct watch watch; int peer; int calls; short last; } ends[PAIRS];
static int budget; /* what a handler may still take away */

static void reads_one(struct watch *w, short revents)
{
    struct end *e = (struct end *)w;
    char byte;
    e->calls++;
    e->last = revents;
    if (read(w->fd, &byte, 1) != 1)
        e->last = POLLHUP;
}

static void open_ends(size_t n, bool may_cool, void (*on_ready)(struct watch *, short))
{
    for (size_t i = 0; i < n; i++) {
        int pair[2];
        memset(&ends[i], 0, sizeof ends[i]);
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
            fatal(71, "no socket pairs");
        ends[i].peer = pair[1];
        ends[i].watch.may_cool = may_cool;
        if (!CHECK(loop_watch(&ends[i].watch, pair[0], POLLIN, on_ready)))
            exit(1);
    }
}

static void close_end(struct end *e)
{
    int fd = e->watch.fd;
    if (fd < 0)
        return;
    loop_unwatch(&e->watch);
    close(fd);
    if (e->peer >= 0)
        close(e->peer);
    e->peer = -1;
}

static void close_ends(size_t n)
{
    for (size_t i = 0; i < n; i++)
        close_end(&ends[i]);
}

static void poke(struct end *e)
{
    CHECK(write(e->peer, "x", 1) == 1);
}

static size_t calls_of(size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (size_t)ends[i].calls;
    return sum;
}

/* Takes others away, or puts a new watch on the very number that was just closed. */
static void takes_away(struct watch *w, short revents)
{
    reads_one(w, revents);
    for (int i = 0; i < 3 && budget > 0; i++, budget--) {
        struct end *e = &ends[dice(60)];
        int old = e->watch.fd, pair[2];
        if (e == (struct end *)w || old < 0)
            continue;
        e->calls = -1000; /* a call from here on shows below */
        close_end(e);
        if (dice(2) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0) {
            e->peer = pair[1];
            CHECK(loop_watch(&e->watch, pair[0], POLLIN, takes_away));
        }
    }
}

static void test_coming_and_going(void)
{
    unit_note = "coming and going in a turn";
    for (int round = 0; round < 200; round++) {
        open_ends(60, false, takes_away);
        size_t poked = 0, stayed = 0;
        bool is_poked[60];
        for (size_t i = 0; i < 60; i++) {
            is_poked[i] = dice(3) != 0;
            if (is_poked[i])
                poke(&ends[i]);
            poked += is_poked[i];
        }
        budget = (int)dice(90);
        loop_turn(true);
        for (size_t i = 0; i < 60; i++) {
            /* Called once exactly when it had a byte; never after it was taken away (unless by then it had
             * been called), and never for the event of the one whose number it has now. */
            if (ends[i].calls >= 0) {
                CHECK(ends[i].calls == (is_poked[i] ? 1 : 0));
                stayed++;
            } else {
                CHECK(ends[i].calls == -1000);
            }
        }
        CHECK(stayed > 0 && poked > 0);
        loop_turn(true); /* nothing is left over */
        for (size_t i = 0; i < 60; i++)
            CHECK(ends[i].calls == -1000 || ends[i].calls == (is_poked[i] ? 1 : 0));
        close_ends(60);
        CHECK(loop_hot() == 2 && loop_cold() == 0);
    }
}

static void ends_all(struct watch *w, short revents)
{
    reads_one(w, revents);
    close_ends(60);
}

static void test_one_ends_all(void)
{
    unit_note = "one ends all";
    open_ends(60, false, ends_all);
    for (size_t i = 0; i < 60; i++)
        poke(&ends[i]);
    loop_turn(true);
    CHECK(calls_of(60) == 1);
    CHECK(loop_hot() == 2);
    loop_turn(true);
    CHECK(calls_of(60) == 1);
    struct watch never;
    memset(&never, 0, sizeof never);
    loop_unwatch(&never); /* all zeros means not watched, though 0 is a descriptor */
    loop_want(&ends[0].watch, POLLIN);
    CHECK(loop_hot() == 2);
}

static void test_wanting(void)
{
    unit_note = "what is wanted";
    open_ends(2, false, reads_one);
    poke(&ends[0]);
    loop_want(&ends[0].watch, 0);
    loop_turn(true);
    CHECK(ends[0].calls == 0);
    loop_want(&ends[0].watch, POLLIN);
    loop_turn(true);
    CHECK(ends[0].calls == 1 && (ends[0].last & POLLIN) != 0);
    CHECK(ends[1].calls == 0);
    close_ends(2);
}

/* ---------------------------------------------------------- hot and cold */

static void pass_ms(uint64_t ms, int turns)
{
    for (int i = 0; i < turns; i++) {
        loop_mock_us += ms * 1000;
        loop_turn(true);
    }
}

static void test_cold(bool without_queue)
{
    unit_note = without_queue ? "cold, scanned" : "cold, kernel queue";
    loop_without_queue = without_queue;
    loop_mock_us = 1000000;
    loop_open();
    open_ends(PAIRS, true, reads_one);
    CHECK(loop_hot() == PAIRS + 2 && loop_cold() == 0);
    pass_ms(1, without_queue ? 100 : 1);
    CHECK(loop_cold() == 0); /* not before its time */
    pass_ms(20, 600);
    CHECK(loop_hot() == 64 && loop_cold() == PAIRS + 2 - 64);

    /* One wakes: one call; without a queue it is hot again. */
    struct end *cold = ends;
    while (cold < ends + PAIRS - 1 && !cold->watch.cold)
        cold++;
    poke(cold);
    pass_ms(20, 2); /* the scan goes by the time that the turn before has read */
    CHECK(cold->calls == 1 && cold->watch.cold == !without_queue && (cold->watch.slot >= 2) == without_queue);
    CHECK(calls_of(PAIRS) == 1);

    /* All wake at once: at most COLD_PER_TURN of them in each turn, every one once. */
    for (size_t i = 0; i < PAIRS; i++) {
        ends[i].calls = 0;
        poke(&ends[i]);
    }
    pass_ms(20, PAIRS / COLD_PER_TURN + 2);
    for (size_t i = 0; i < PAIRS; i++)
        CHECK(ends[i].calls == 1);
    pass_ms(1, 3);
    CHECK(calls_of(PAIRS) == PAIRS);
    pass_ms(20, 600);
    CHECK(loop_cold() == PAIRS + 2 - 64);

    /* A cold one wants something else: hot; a dead one is told; one that leaves leaves nothing behind. */
    size_t wanted = 0, killed = 0, gone = 0;
    for (size_t i = 0; i < PAIRS; i++) {
        struct end *e = &ends[i];
        e->calls = 0;
        if (!e->watch.cold)
            continue;
        if (i % 4 == 0) {
            loop_want(&e->watch, POLLIN | POLLOUT);
            CHECK(!e->watch.cold);
            loop_want(&e->watch, POLLIN);
            wanted++;
        } else if (i % 4 == 1) {
            close(e->peer);
            e->peer = -1;
            killed++;
        } else if (i % 4 == 2) {
            poke(e);
            close_end(e);
            gone++;
        }
    }
    CHECK(wanted > 50 && killed > 50 && gone > 50);
    CHECK(loop_hot() + loop_cold() == PAIRS + 2 - gone);
    for (int turns = 0; turns < 6; turns++) {
        pass_ms(20, 1);
        for (size_t i = 1; i < PAIRS; i += 4) {
            if (ends[i].peer < 0 && ends[i].calls > 0 && ends[i].watch.fd >= 0) {
                CHECK(ends[i].last == POLLHUP);
                close_end(&ends[i]);
                killed--;
            }
        }
    }
    CHECK(killed == 0);
    CHECK(calls_of(PAIRS) >= 50);
    for (size_t i = 2; i < PAIRS; i += 4)
        CHECK(ends[i].calls == 0);
    close_ends(PAIRS);
    CHECK(loop_hot() == 2 && loop_cold() == 0);
}

/* Random life over both kinds: the counts and every single call have to agree all the time. */
static void test_cold_life(bool without_queue)
{
    bool due[PAIRS] = { false };
    unit_note = without_queue ? "random life, scanned" : "random life, kernel queue";
    loop_without_queue = without_queue;
    loop_open();
    open_ends(PAIRS, true, reads_one);
    size_t open = PAIRS, expected = 0;
    for (int turn = 0; turn < 4000; turn++) {
        for (int acts = 0; acts < 4; acts++) {
            size_t i = dice(turn % 2 == 0 ? PAIRS : 20);
            uint32_t act = dice(10);
            if (act < 7 && ends[i].watch.fd >= 0 && !due[i]) {
                poke(&ends[i]);
                due[i] = true;
                expected++;
            } else if (act == 8 && ends[i].watch.fd >= 0 && !due[i]) {
                close_end(&ends[i]);
                open--;
            } else if (act == 9 && ends[i].watch.fd < 0) {
                int pair[2], calls = ends[i].calls;
                if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0) {
                    ends[i].peer = pair[1];
                    CHECK(loop_watch(&ends[i].watch, pair[0], POLLIN, reads_one));
                    ends[i].calls = calls;
                    open++;
                }
            }
        }
        pass_ms(20, 2);
        for (size_t i = 0; i < PAIRS; i++)
            due[i] = false; /* few enough a turn that each has been told */
        CHECK(calls_of(PAIRS) == expected);
        CHECK(loop_hot() + loop_cold() == open + 2);
    }
    CHECK(loop_cold() > PAIRS / 4);
    close_ends(PAIRS);
    CHECK(loop_hot() == 2 && loop_cold() == 0);
}

static uint64_t real_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* A cold one that wakes while the loop waits, and while it is busy with another. */
static void test_cold_latency(bool without_queue)
{
    unit_note = without_queue ? "waking, scanned" : "waking, kernel queue";
    loop_without_queue = without_queue;
    loop_mock_us = 1000000;
    loop_open();
    open_ends(200, true, reads_one);
    pass_ms(20, 200);
    loop_mock_us = 0; /* the clock of the machine from here on, which is later */
    loop_turn(true);
    uint64_t worst_us = 0;
    for (int round = 0; round < 20; round++) {
        struct end *cold = ends;
        while (cold < ends + 199 && !cold->watch.cold)
            cold++;
        if (!CHECK(cold->watch.cold))
            break;
        uint64_t begun_us = real_us();
        int before = cold->calls;
        poke(cold);
        while (cold->calls == before && real_us() - begun_us < 1000000)
            loop_turn(round % 2 == 0);
        if (real_us() - begun_us > worst_us)
            worst_us = real_us() - begun_us;
    }
    CHECK(worst_us < 100000); /* 5 ms by design; room for a busy machine */
    close_ends(200);
}

/* --------------------------------------------------------------- signals */

static void on_signal(int n)
{
    loop_wake(n);
}

static void test_signals(void)
{
    struct sigaction a;
    unit_note = "signals";
    loop_open();
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    sigaction(SIGUSR1, &a, NULL);
    sigaction(SIGUSR2, &a, NULL);
    sigaction(SIGALRM, &a, NULL);
    CHECK(loop_signals() == 0);
    for (int i = 0; i < 1000; i++)
        raise(SIGUSR1);
    raise(SIGUSR2);
    loop_turn(false); /* does not wait */
    CHECK(loop_signals() == (UINT32_C(1) << SIGUSR1 | UINT32_C(1) << SIGUSR2));
    CHECK(loop_signals() == 0);
    uint64_t begun_us = real_us();
    alarm(1);
    while (loop_signals() == 0) /* waits in poll: the pipe or EINTR ends it */
        loop_turn(false);
    CHECK(real_us() - begun_us < 3000000);
    loop_wake(0); /* wakes without a signal */
    loop_turn(false);
    CHECK(loop_signals() == 0);
}

static void test_full(const struct conf *conf)
{
    size_t cap = (size_t)conf->max_clients + conf->max_backends * 3 + conf->max_leases;
    cap += MAX_SERVICES * MAX_LISTENS + 32;
    static struct watch extra[2000];
    size_t n = 0;
    unit_note = "full";
    loop_open();
    while (n < 2000 && loop_watch(&extra[n], 0, 0, reads_one))
        n++;
    CHECK(n == cap - 2);
    loop_unwatch(&extra[0]);
    CHECK(loop_watch(&extra[0], 0, 0, reads_one));
    for (size_t i = 0; i < n; i++)
        loop_unwatch(&extra[i]);
    CHECK(loop_hot() == 2);
}

int main(void)
{
    static struct conf conf;
    conf.max_clients = 600;
    conf.max_backends = 4;
    conf.max_leases = 8;
    os_descriptors(2048);
    arena_measure();
    loop_tables(&conf);
    if (!CHECK(arena_obtain(false)))
        return unit_end();
    loop_tables(&conf);
    test_many_timers();
    test_timer_corners();
    test_real_timers();
    test_full(&conf);
    for (int mode = 0; mode < 2; mode++) {
        loop_without_queue = mode == 1;
        loop_open();
        test_coming_and_going();
        test_one_ends_all();
        test_wanting();
        test_cold(mode == 1);
        test_cold_life(mode == 1);
        test_cold_latency(mode == 1);
    }
    test_signals();
    return unit_end();
}
