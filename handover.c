/*
 * handover.c - from one worker to the next, while an upgrade is under way: tables first, then clients between two requests.
 *
 *   new worker                                             old worker
 *     opens its rooms, accepts nobody
 *     each section serves (or has had its time)
 *     HELLO, with the versions of what follows ----------> accepts nobody any more; other versions: closes clients that rest
 *     parent_ready()
 *     NOTE, SEEDS_END  <---------------------------------  how what is noted is to be read
 *     HELD ..., NOTE ...  <------------------------------  which servers an operator holds, what lives at which mongos
 *     accepts  <-----------------------------------------  TABLES_END
 *     adopts   <-- descriptors, one record of each ------  CLIENT, as soon as one rests
 *     TAKEN, REFUSED ------------------------------------> closes its copy; or goes on with it
 *     notes  <== what was opened at which mongos since, both ways, over a second pair ==>  until the old one has gone
 *
 * A client is always somebody's: the old worker keeps a descriptor until the new one says that it has it. If the new one dies
 * between the two, nobody knows whether it had begun a request, and the client is closed; those that had not been given yet are served
 * on until the limit.
 *
 * Owns the ends of both pairs. What a client is stands in the rooms of its mode (struct hand_mode); who goes when, in hand.c.
 */
#include "handover.h"
#include "parent.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#define VERSION 1               /* of all that goes over these sockets: grows whenever a record changes */
#define LOOK_MS 2               /* how often the old worker looks for clients that rest */
#define READY_LOOK_MS 20
#define READY_SLOW_MS 200       /* where nobody waits for it */
#define READY_SOME_MS 10000     /* from then on it is enough that one section serves */
#define READY_LIMIT_MS 30000    /* a worker of which none does then gives up, and the old one goes on */
#define TABLES_MS 5000          /* an old worker that does not tell its tables by then will not */
#define NOTE_WAIT_MS 20
#define NOTE_WAITS 50           /* so often one waits for the other worker to read a note, then it goes without */
#define ON_THE_WAY 64           /* clients given of which it is not known yet whether they were taken */
#define PACKETS_PER_TURN 256

enum packet { HELLO = 1, NOTE, SEEDS_END, TABLES_END, CLIENT, TAKEN, REFUSED, HELD };

struct head { uint32_t kind, version; };
struct hello { struct head head; uint32_t sizes[2]; };
struct answer { struct head head; uint64_t id; uint32_t entry, kind; };
struct note { struct head head; struct hand_note note; };
struct held { struct head head; uint8_t hold; uint16_t port; char section[NAME_CAP], host[HOST_CAP]; };
struct client { struct head head; struct handed handed; };

static struct {
    const struct hand_mode *modes;
    size_t count;
    bool (*is_ready)(bool all);
    struct watch next, before, notes; /* to the worker after this one; to the one before; what both note */
    struct timer look;
    int pair[2];                /* for notes: made early, since later no sockets of that kind may be (seccomp) */
    uint64_t begun_ms, until_ms; /* since when it is there; by when all clients have to have gone */
    uint32_t drain_ms;
    size_t at;                  /* the mode whose table is being told */
    uint32_t cursor;            /* in that table */
    uint16_t hold_at;           /* the server of which it is told next whether it is held */
    uint32_t on_the_way;
    bool seeded;                /* notes can be understood */
    bool deaf;                  /* the other one was waited for in vain, and has not read since */
    bool waits;                 /* it has not spoken to the one before */
    bool listens;               /* it accepts */
    bool drains;                /* the one after it has spoken */
    bool told;                  /* all tables; or there is nobody any more to tell them */
    bool over;                  /* the one after it speaks in another way: nobody can be handed over */
} ho = { .next = { .fd = -1, .slot = -1 }, .before = { .fd = -1, .slot = -1 }, .notes = { .fd = -1, .slot = -1 } };

static struct client packet; /* the longest one */

static void end(struct watch *w)
{
    int fd = w->fd;
    if (fd >= 0) {
        loop_unwatch(w);
        net_close(fd);
        w->fd = -1;
    }
}

static struct head head(enum packet kind)
{
    return (struct head){ (uint32_t)kind, VERSION };
}

static bool send_packet(struct watch *w, const void *bytes, size_t n, const int *fds, int count)
{
    return w->fd >= 0 && net_give(w->fd, bytes, n, fds, count) == (ssize_t)n;
}

/* ------------------------------------------------------------- what is noted */

static const struct hand_mode *mode_of(uint8_t kind)
{
    for (size_t i = 0; i < ho.count; i++) {
        if (ho.modes[i].kind == kind) {
            return &ho.modes[i];
        }
    }
    return NULL;
}

/* The section of that kind and name; NULL: there is none here. */
static struct service *section_of(uint8_t kind, const char name[NAME_CAP])
{
    struct service *s;
    for (int i = 0; (s = service_at(i)) != NULL; i++) {
        if (s->conf->kind == kind && strncmp(s->conf->name, name, NAME_CAP) == 0) {
            return s;
        }
    }
    return NULL;
}

static void take_note(const struct hand_note *n)
{
    const struct hand_mode *m = mode_of(n->kind);
    struct service *s = section_of(n->kind, n->section);
    if (m != NULL && m->take_note != NULL && s != NULL) {
        m->take_note(s, n);
    }
}

/* Before something is looked up: what the other one has noted is known here when a client asks for it, since the note was sent
 * before the answer by which the client knows. */
static void sync_notes(void)
{
    struct note n;
    int fds[HAND_FDS], count;
    ssize_t got;
    while (ho.seeded && ho.notes.fd >= 0 && (got = net_get(ho.notes.fd, &n, sizeof n, fds, &count)) != -1) {
        if (got != (ssize_t)sizeof n || n.head.kind != NOTE) {
            end(&ho.notes);
            return;
        }
        take_note(&n.note);
    }
}

static void on_notes(struct watch *w, short revents)
{
    (void)w, (void)revents;
    sync_notes();
}

/* Before the client hears of it. So where the socket is full, since the other worker had no time to read, this one waits for it; and
 * reads meanwhile, since the other may wait, too. One that was waited for in vain is not waited for again before it has read. */
static void send_note(const struct hand_note *note)
{
    struct note n;
    int left = ho.deaf ? 0 : NOTE_WAITS;
    if (ho.notes.fd < 0) {
        return;
    }
    memset(&n, 0, sizeof n);
    n.head = head(NOTE);
    n.note = *note;
    while (!send_packet(&ho.notes, &n, sizeof n, NULL, 0)) {
        if (ho.notes.fd < 0 || errno != EAGAIN) {
            end(&ho.notes); /* the other one has gone, and its clients with it */
            return;
        }
        if (left == 0) {
            ho.deaf = true;
            log_warn("what was opened at a mongos could not be noted in the other worker", "why=\"it does not read\"");
            return;
        }
        left -= net_wait(ho.notes.fd, ho.seeded, NOTE_WAIT_MS) ? 0 : 1;
        sync_notes();
    }
    ho.deaf = false;
}

const struct hand_notes hand_notes = { sync_notes, send_note };

static void watch_notes(int fd)
{
    if (fd >= 0 && !loop_watch(&ho.notes, fd, ho.seeded ? POLLIN : 0, on_notes)) {
        net_close(fd);
    }
    for (size_t i = 0; i < ho.count && ho.notes.fd >= 0; i++) {
        if (ho.modes[i].notes != NULL) {
            ho.modes[i].notes(&hand_notes);
        }
    }
}

/* ---------------------------------------------------------- the new worker */

static void begin_to_listen(const char *why)
{
    if (!ho.listens) {
        ho.listens = true;
        conn_accept(true);
        log_info("accepting", "why=\"%s\"", why);
    }
}

static void adopt(const struct client *c, size_t n, int *fds, int count)
{
    const struct handed *h = &c->handed;
    const struct hand_mode *m = mode_of(h->kind);
    struct answer a;
    bool sound = n >= offsetof(struct client, handed.input) && n == offsetof(struct client, handed.input) + h->input_len &&
                 h->fd_count == count && count > 0;
    struct service *s = sound ? section_of(h->kind, h->section) : NULL;
    memset(&a, 0, sizeof a);
    a.head = head(s != NULL && m != NULL && m->adopt(s, h, fds) ? TAKEN : REFUSED);
    a.id = h->id;
    a.entry = h->entry;
    a.kind = h->kind;
    if (a.head.kind == REFUSED) {
        for (int i = 0; i < count; i++) {
            net_close(fds[i]);
        }
    } else {
        stats.clients_taken_over++;
    }
    if (!send_packet(&ho.before, &a, sizeof a, NULL, 0)) {
        log_warn("the old worker cannot be told that a client was taken", "error=\"%s\"", strerror(errno));
    }
}

/* What an operator has said of a server counts for the next worker, too, if it knows that server. */
static void take_hold(const struct held *h)
{
    struct service *s;
    bool sound = memchr(h->section, '\0', sizeof h->section) != NULL && memchr(h->host, '\0', sizeof h->host) != NULL &&
                 (h->hold == HELD_DRAIN || h->hold == HELD_DOWN);
    for (int i = 0; sound && (s = service_at(i)) != NULL; i++) {
        struct backend *b = strcmp(s->conf->name, h->section) == 0 ? backend_named(s, h->host, h->port, NULL) : NULL;
        if (b != NULL) {
            backend_hold(b, (enum backend_hold)h->hold);
        }
    }
}

/* The old worker has gone, by itself or not. */
static void before_gone(const char *why)
{
    log_info("the way to the worker before has ended", "why=\"%s\"", why);
    end(&ho.before);
    end(&ho.notes);
    begin_to_listen("the worker before has gone");
}

static void on_before(struct watch *w, short revents)
{
    (void)revents;
    for (int i = 0; i < PACKETS_PER_TURN && w->fd >= 0; i++) {
        int fds[HAND_FDS], count;
        ssize_t n = net_get(w->fd, &packet, sizeof packet, fds, &count);
        if (n == -1 && errno == EAGAIN) {
            return;
        }
        if (n <= 0) {
            before_gone(n < 0 ? strerror(errno) : "end");
        } else if (n < (ssize_t)sizeof packet.head) {
            continue; /* it has become ready late, and says so to its parent, who is another program by now */
        } else if (packet.head.kind == CLIENT) {
            adopt(&packet, (size_t)n, fds, count);
        } else if (packet.head.kind == NOTE && n == (ssize_t)sizeof(struct note)) {
            take_note(&((const struct note *)(const void *)&packet)->note);
        } else if (packet.head.kind == HELD && n == (ssize_t)sizeof(struct held)) {
            take_hold((const struct held *)(const void *)&packet);
        } else if (packet.head.kind == SEEDS_END) {
            ho.seeded = true;
            loop_want(&ho.notes, POLLIN);
        } else if (packet.head.kind == TABLES_END) {
            begin_to_listen("the worker before has told all");
        }
    }
}

/* The one before is spoken to: from now on it hands over. */
static void greet_before(void)
{
    struct hello h;
    memset(&h, 0, sizeof h);
    h.head = head(HELLO);
    h.sizes[0] = (uint32_t)sizeof(struct handed);
    h.sizes[1] = (uint32_t)sizeof(struct hand_note);
    if (!send_packet(&ho.before, &h, sizeof h, &ho.pair[1], ho.pair[1] >= 0)) {
        before_gone(strerror(errno));
    }
    net_close(ho.pair[1]);
    if (ho.before.fd < 0) {
        net_close(ho.pair[0]);
    } else {
        watch_notes(ho.pair[0]);
    }
}

static void look_ready(void)
{
    uint64_t since = loop_ms() - ho.begun_ms;
    bool ready = ho.is_ready(true) || (since >= READY_SOME_MS && ho.is_ready(false));
    if (ready) {
        ho.waits = false;
        if (ho.before.fd >= 0) {
            greet_before();
        }
        parent_ready();
    } else if (since >= READY_LIMIT_MS && ho.before.fd >= 0) {
        fatal(EX_TEMPFAIL, "no section can serve within %d s: the worker before goes on", READY_LIMIT_MS / 1000);
    }
    if (ready && ho.listens) {
        return;
    }
    loop_timer(&ho.look, loop_ms() + (ready ? TABLES_MS : ho.before.fd >= 0 ? READY_LOOK_MS : READY_SLOW_MS));
}

/* ---------------------------------------------------------- the old worker */

/* One note of a table. False: the socket is full. */
static bool give_note(const struct hand_note *n)
{
    struct note *p = (struct note *)(void *)&packet;
    memset(p, 0, sizeof *p);
    p->head = head(NOTE);
    p->note = *n;
    return send_packet(&ho.next, p, sizeof *p, NULL, 0);
}

/* False: the socket is full. What a reload alone has drained is not told: the next worker has read the same file. */
static bool tell_holds(void)
{
    for (; ho.hold_at < backend_cap(); ho.hold_at++) {
        const struct backend *b = backend_at(ho.hold_at);
        struct held h;
        if (b != NULL && b->hold != HELD_NOT && !b->dropped) {
            memset(&h, 0, sizeof h);
            h.head = head(HELD);
            h.hold = b->hold;
            h.port = b->port;
            memcpy(h.host, b->host, sizeof h.host);
            memcpy(h.section, b->service->conf->name, sizeof h.section);
            if (!send_packet(&ho.next, &h, sizeof h, NULL, 0)) {
                return false;
            }
        }
    }
    return true;
}

/* First of all, and while the socket is empty. */
static bool tell_seeds(void)
{
    struct head h = head(SEEDS_END);
    for (size_t i = 0; i < ho.count; i++) {
        if (ho.modes[i].seeds != NULL && !ho.modes[i].seeds(give_note)) {
            return false;
        }
    }
    return send_packet(&ho.next, &h, sizeof h, NULL, 0);
}

static void tell_tables(void)
{
    struct head h = head(TABLES_END);
    if (!tell_holds()) {
        return;
    }
    for (; ho.at < ho.count; ho.at++, ho.cursor = 0) {
        if (ho.modes[ho.at].tell != NULL && !ho.modes[ho.at].tell(&ho.cursor, give_note)) {
            return;
        }
    }
    ho.told = send_packet(&ho.next, &h, sizeof h, NULL, 0);
}

/* False: not now, or never. */
static bool give_client(const struct handed *h, const int *fds)
{
    size_t n = offsetof(struct client, handed.input) + h->input_len;
    if (ho.on_the_way >= ON_THE_WAY) {
        return false;
    }
    packet.head = head(CLIENT);
    packet.handed = *h;
    if (!send_packet(&ho.next, &packet, n, fds, h->fd_count)) {
        return false;
    }
    ho.on_the_way++;
    return true;
}

/* One room after another, of all modes; NULL behind the last. */
static struct hand_room *room_at(size_t n)
{
    for (size_t i = 0; i < ho.count; i++) {
        for (size_t k = 0; k < HAND_ROOMS && ho.modes[i].rooms[k] != NULL; k++) {
            if (n-- == 0) {
                return ho.modes[i].rooms[k];
            }
        }
    }
    return NULL;
}

static void hear(const struct answer *a)
{
    bool taken = a->head.kind == TAKEN;
    struct hand_room *r;
    ho.on_the_way -= ho.on_the_way > 0;
    stats.clients_handed_over += taken;
    for (size_t i = 0; (r = room_at(i)) != NULL; i++) {
        hand_given(r, a->entry, a->id, taken);
    }
}

/* Nobody takes anything any more. What was on the way may have been taken or not; all others are served on here until the limit: who
 * comes anew comes to the worker that the parent starts. */
static void next_gone(const char *why)
{
    struct hand_room *r;
    log_warn("no more clients are handed over: who is here is served on", "why=\"%s\" on_the_way=%u", why, (unsigned)ho.on_the_way);
    end(&ho.next);
    end(&ho.notes);
    loop_timer_stop(&ho.look);
    ho.told = true;
    for (size_t i = 0; (r = room_at(i)) != NULL; i++) {
        hand_lost(r);
    }
}

/* Drains, by handing over if both speak alike, else by closing alone. */
static void begin_to_drain(const struct hello *h, size_t n, int notes)
{
    bool alike = n == sizeof *h && h->head.version == VERSION && h->sizes[0] == sizeof(struct handed) && h->sizes[1] == sizeof(struct hand_note);
    ho.drains = true;
    ho.until_ms = loop_ms() + ho.drain_ms;
    log_info("the next worker takes over", "clients=%lu handover=%s", (unsigned long)conn_count(CONN_CLIENT), alike ? "yes" : "no");
    conn_listen_no_more();
    parent_upgrade(true);
    if (alike && tell_seeds()) {
        ho.seeded = true;
        watch_notes(notes);
        loop_timer(&ho.look, loop_ms());
    } else {
        net_close(notes);
        ho.over = true;
    }
}

static void on_next(struct watch *w, short revents)
{
    (void)revents;
    for (int i = 0; i < PACKETS_PER_TURN && w->fd >= 0; i++) {
        int fds[HAND_FDS], count;
        ssize_t n = net_get(w->fd, &packet, sizeof packet, fds, &count);
        if (n == -1 && errno == EAGAIN) {
            return;
        }
        if (n <= 0 && ho.drains) {
            next_gone(n < 0 ? strerror(errno) : "the next worker has gone");
        } else if (n <= 0) {
            end(w); /* no parent any more: there will be no next one */
        } else if (packet.head.kind == HELLO && !ho.drains) {
            begin_to_drain((const struct hello *)(const void *)&packet, (size_t)n, count > 0 ? fds[0] : -1);
        } else if (n == (ssize_t)sizeof(struct answer) && (packet.head.kind == TAKEN || packet.head.kind == REFUSED)) {
            hear((const struct answer *)(const void *)&packet);
        }
    }
}

static void hand_over(void)
{
    struct hand_room *r;
    if (!ho.told) {
        tell_tables();
    }
    for (size_t i = 0; ho.told && (r = room_at(i)) != NULL; i++) {
        hand_walk(r, give_client);
    }
}

/* ------------------------------------------------------------- the whole */

static void on_look(struct timer *t)
{
    if (ho.drains) {
        hand_over();
        if (!ho.over) {
            loop_timer(t, loop_ms() + LOOK_MS);
        }
    } else if (ho.waits) {
        look_ready();
    } else if (!ho.listens) {
        begin_to_listen("the worker before has not told its tables");
    }
}

void handover_open(const struct conf *conf, const struct hand_mode *modes, size_t count, bool (*is_ready)(bool all))
{
    int next = parent_hand(), before = parent_peer();
    ho.modes = modes;
    ho.count = count;
    ho.is_ready = is_ready;
    ho.drain_ms = conf->drain_timeout_ms;
    ho.begun_ms = loop_ms();
    ho.look.on_due = on_look;
    ho.waits = true;
    ho.listens = true;
    if (next >= 0) {
        must(loop_watch(&ho.next, next, POLLIN, on_next));
    }
    ho.pair[0] = ho.pair[1] = -1;
    if (before >= 0 && !net_way(ho.pair)) {
        ho.pair[0] = ho.pair[1] = -1;
    }
    if (before >= 0) {
        must(loop_watch(&ho.before, before, POLLIN, on_before));
        conn_accept(false);
        ho.listens = false;
    }
    loop_timer(&ho.look, loop_ms());
}

bool handover_drains(void)
{
    return ho.drains;
}

bool handover_is_told(void)
{
    return ho.drains && (ho.told || ho.over);
}

bool handover_is_over(uint32_t stop_ms)
{
    return ho.drains && (ho.over || loop_ms() + (stop_ms < ho.drain_ms / 2 ? stop_ms : ho.drain_ms / 2) >= ho.until_ms);
}

uint64_t handover_until_ms(void)
{
    return ho.until_ms;
}
