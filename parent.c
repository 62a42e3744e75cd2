/*
 * parent.c - the second process: it resolves names and reads the configuration for the worker, and starts it again when it dies.
 *
 *    supervised                              not supervised
 *
 *    parent (the process first started)      worker (the process first started)
 *      |    \---- resolver, resolver, reader   |
 *      |  socket pair                          |  socket pair
 *      |                                       |
 *    worker (again and again)                helper ---- resolver, resolver, reader
 *
 * Questions go to the parent (or helper), which forks a short-lived resolver for each, since libc's resolver
 * blocks and allocates; the resolver itself writes the answer to the worker. So does the one reader there may be at a time: what it
 * reads the configuration into is reload.c's matter. The parent also holds the listening sockets, opened before, so that the death
 * of a worker closes none of them.
 *
 * At SIGUSR2 another program takes this one's place (upgrade.c). Supervised, it is the parent that becomes the other program:
 *
 *    new parent (the same process)
 *      |    \---- new worker ---- "ready" ----> the way from one worker to the other is closed here, and theirs alone
 *      |              |  handover.c
 *    old worker: serves on; once the new one has spoken to it, it hands over what it can, and ends
 *
 * If the new worker ends before it is ready, the old one is the parent's worker again, as if nothing had been. If it ends later, another
 * one is started beside the old one, which serves those whom it still has.
 */
#include "parent.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#define QUESTIONS 64
#define RESOLVERS 16            /* at once: enough for all seeds of one section */
#define RESOLVER_LIMIT_S 10     /* a little longer than libc's default for one dead name server; a reader has as long */
#define ANSWER_LIMIT_MS 12000   /* the worker waits longer than any of them lives */
#define RESTART_FIRST_MS 100
#define RESTART_LAST_MS 5000
#define LONG_LIFE_MS 60000      /* a worker that lived so long was healthy: the next one starts quickly again */
#define INHERITED_FDS 256       /* what main opened before the fork has lower numbers */
#define READY_LIMIT_MS 60000    /* a new worker that is not ready gives up by itself before that (handover.c) */
#define LATE_MS 10000           /* an old one ends by itself within drain_timeout: one that does not is ended then */

enum question_kind { ASK_NAME, ASK_READ, TELL, UPGRADE, TAKEN_OVER }; /* what is told has no answer: an enum manager_word in `port` */

struct question { uint32_t id; uint16_t port, kind; char host[HOST_CAP]; };
struct answer { uint32_t id; int32_t count; struct address list[MAX_ADDRESSES]; };

/* Messages have a fixed size and are so small that a socket takes one whole or not at all. False when it took
 * nothing, or the other side has gone. Not by net_send: this is our own process, and no network that may fail. */
static bool message_put(int fd, const void *message, size_t size)
{
    ssize_t n;
    do
        n = write(fd, message, size);
    while (n < 0 && errno == EINTR);
    must(n <= 0 || n == (ssize_t)size); /* a part alone would shift all that follow */
    return n > 0;
}

/* Reads on from *have: 1 when the message is whole, 0 when more must come, -1 when the other side has gone. */
static int message_get(int fd, void *message, size_t size, size_t *have)
{
    ssize_t n = read(fd, (unsigned char *)message + *have, size - *have);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    *have = (*have + (size_t)n) % size;
    return *have == 0;
}

/* -------------------------------------------------------- worker's side */

struct ask {
    struct timer timer; /* first: the timer's pointer is the ask's */
    uint32_t id;        /* 0 = free */
    void *mark;
    void (*on_names)(void *mark, const struct address *list, int count);
};

static struct {
    struct watch watch;
    bool attached;
    uint32_t last_id;
    size_t have;            /* bytes of the answer that have come */
    struct answer in;
    struct ask asks[QUESTIONS];
    int hand, peer;         /* to the worker after this one, by way of the parent; to the one before */
} worker = { .watch = { .fd = -1, .slot = -1 }, .hand = -1, .peer = -1 };

static void ask_end(struct ask *a, const struct address *list, int count)
{
    loop_timer_stop(&a->timer);
    a->id = 0; /* before the call: it may ask again */
    a->on_names(a->mark, list, count);
}

static void on_ask_due(struct timer *t)
{
    ask_end((struct ask *)t, NULL, 0);
}

static void detach(void)
{
    int fd = worker.watch.fd;
    log_warn("the parent process has gone", "effect=\"host names are no longer resolved\"");
    loop_unwatch(&worker.watch);
    net_close(fd);
    worker.attached = false;
    for (int i = 0; i < QUESTIONS; i++)
        if (worker.asks[i].id != 0)
            loop_timer(&worker.asks[i].timer, loop_ms());
}

static void on_answer(struct watch *w, short revents)
{
    (void)revents;
    int got = message_get(w->fd, &worker.in, sizeof worker.in, &worker.have);
    if (got < 0)
        detach();
    if (got <= 0)
        return;
    int count = worker.in.count;
    if (worker.in.id == 0) /* the next program's parent, which cannot send this one signals */
        loop_wake(SIGTERM);
    must(count >= 0 && count <= MAX_ADDRESSES);
    for (int i = 0; i < QUESTIONS && worker.in.id != 0; i++) {
        if (worker.asks[i].id == worker.in.id) { /* none when it came too late or was forgotten */
            ask_end(&worker.asks[i], worker.in.list, count);
            return;
        }
    }
}

void parent_attach(int fd)
{
    worker.attached = fd >= 0 && loop_watch(&worker.watch, fd, POLLIN, on_answer);
}

static bool put_question(enum question_kind kind, const char *host, uint16_t port, void *mark,
                         void (*on_names)(void *mark, const struct address *list, int count))
{
    size_t len = strlen(host);
    struct ask *a = worker.asks, *end = worker.asks + QUESTIONS;
    while (a < end && a->id != 0)
        a++;
    if (a == end)
        return false;
    if (++worker.last_id == 0)
        worker.last_id = 1;
    uint64_t due_ms = loop_ms(); /* a question that cannot be asked has its empty answer in the next turn */
    if (worker.attached && (len > 0 || kind == ASK_READ) && len < HOST_CAP) {
        struct question q;
        memset(&q, 0, sizeof q);
        q.id = worker.last_id;
        q.port = port;
        q.kind = (uint16_t)kind;
        memcpy(q.host, host, len);
        if (!message_put(worker.watch.fd, &q, sizeof q))
            return false;
        due_ms += ANSWER_LIMIT_MS;
    }
    a->id = worker.last_id;
    a->mark = mark;
    a->on_names = on_names;
    a->timer.on_due = on_ask_due;
    loop_timer(&a->timer, due_ms);
    return true;
}

bool parent_resolve(const char *host, uint16_t port, void *mark,
                    void (*on_names)(void *mark, const struct address *list, int count))
{
    return put_question(ASK_NAME, host, port, mark, on_names);
}

bool parent_reload(void *mark, void (*on_names)(void *mark, const struct address *list, int count))
{
    return worker.attached && put_question(ASK_READ, "", 0, mark, on_names);
}

void parent_forget(void *mark)
{
    for (int i = 0; i < QUESTIONS; i++) {
        if (worker.asks[i].id != 0 && worker.asks[i].mark == mark) {
            loop_timer_stop(&worker.asks[i].timer);
            worker.asks[i].id = 0;
        }
    }
}

int parent_hand(void)
{
    return worker.hand;
}

int parent_peer(void)
{
    return worker.peer;
}

void parent_ready(void)
{
    ssize_t n = worker.hand >= 0 ? write(worker.hand, PARENT_READY, sizeof PARENT_READY) : 0;
    (void)n; /* who does not hear it has gone */
}

void parent_upgrade(bool taken_over)
{
    struct question q;
    memset(&q, 0, sizeof q);
    q.kind = taken_over ? TAKEN_OVER : UPGRADE;
    if (worker.attached && !message_put(worker.watch.fd, &q, sizeof q))
        log_warn("the parent could not be told of the upgrade", "taken_over=%d", taken_over);
}

/* A worker without a parent says it itself, since it was started first; then its helper, which hears it too, is no manager's child. */
void parent_tell(enum manager_word word)
{
    struct question q;

    manager_say(word);
    memset(&q, 0, sizeof q);
    q.kind = TELL;
    q.port = (uint16_t)word;
    if (worker.attached && !message_put(worker.watch.fd, &q, sizeof q))
        log_warn("the parent could not be told", "word=%d", (int)word);
}

/* -------------------------------------------------------- parent's side */

static const int relayed[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };
#define RELAYED ((int)(sizeof relayed / sizeof relayed[0]))

static struct {
    int sock, pipe_read, pipe_write;
    pid_t worker;               /* 0 = none now */
    int code;                   /* how the last one ended: its exit code, or 128 and the signal */
    bool stopping;
    int resolvers;              /* that have not ended yet */
    struct question queue[QUESTIONS];
    int queued;
    struct question read;       /* id 0: the configuration is not to be read */
    pid_t reader;               /* who does it; 0: nobody does now */
    uint32_t reader_id;         /* for which question; 0: who asked has died */
    struct question in;
    size_t have;

    int hand;                   /* this end of the way to the worker, for the one after it */
    bool ready;                 /* the worker has said so */
    bool upgraded;              /* one of this program has: what the program before left does not come back */
    bool supervises;
    pid_t trial;                /* the next program, which is being tried; 0: none is */
    bool passed;                /* it can take over: at the next quiet moment */
    pid_t heir;                 /* not supervised: the next program */
    bool taken_over;            /* and it serves */
    struct upgrade_left before; /* supervised: the worker of the program before this one, while it is there */
    uint64_t due_ms;            /* by when that has to be ready, or gone; 0: nothing has */
} parent = { .sock = -1, .pipe_read = -1, .pipe_write = -1, .hand = -1, .before = { .sock = -1, .peer = -1 } };

void (*parent_settle)(void), (*parent_read)(void);

static volatile sig_atomic_t signal_came[32];

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void on_signal(int signal_number)
{
    int saved = errno;
    signal_came[signal_number] = 1;
    ssize_t n = write(parent.pipe_write, "", 1);
    (void)n;
    errno = saved;
}

static void set_signal(int signal_number, void (*handler)(int))
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    sigemptyset(&a.sa_mask);
    a.sa_handler = handler;
    (void)sigaction(signal_number, &a, NULL);
}

static void relayed_signals(void (*handler)(int))
{
    for (int i = 0; i < RELAYED; i++)
        set_signal(relayed[i], handler);
}

/* All but one. A helper keeps what the next program is to get. */
static void close_inherited(int keep, bool helps)
{
    for (int fd = 3; fd < INHERITED_FDS; fd++)
        if (fd != keep && fd != log_socket && !(helps && (fd == parent.hand || upgrade_keeps(fd))))
            (void)close(fd);
}

static void open_pipe(void)
{
    int ends[2];
    if (pipe(ends) < 0 || !os_prepare_fd(ends[0]) || !os_prepare_fd(ends[1]))
        fatal(EX_OSERR, "no pipe for signals: %s", strerror(errno));
    parent.pipe_read = ends[0];
    parent.pipe_write = ends[1];
}

/* A short life of its own begins. */
static void child_begins(void)
{
    relayed_signals(SIG_DFL);
    set_signal(SIGHUP, SIG_IGN);
    set_signal(SIGALRM, SIG_DFL);
    close_inherited(parent.sock, false);
    os_die_with_parent();
    alarm(RESOLVER_LIMIT_S);
}

/* The life of a resolver. */
static void resolve(const struct question *q)
{
    struct addrinfo hints, *list = NULL;
    struct answer a;
    char port[8];
    child_begins();
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    memset(&a, 0, sizeof a);
    a.id = q->id;
    snprintf(port, sizeof port, "%u", (unsigned)q->port);
    if (getaddrinfo(q->host, port, &hints, &list) != 0)
        list = NULL;
    for (struct addrinfo *i = list; i != NULL && a.count < MAX_ADDRESSES; i = i->ai_next) {
        if (i->ai_addrlen <= sizeof a.list[0].u && (i->ai_family == AF_INET || i->ai_family == AF_INET6)) {
            a.list[a.count].len = i->ai_addrlen;
            memcpy(&a.list[a.count++].u, i->ai_addr, i->ai_addrlen);
        }
    }
    alarm(0); /* to die within the message would break the stream for all that follow */
    (void)message_put(parent.sock, &a, sizeof a);
    _exit(0);
}

static void put_answer(uint32_t id, int32_t count)
{
    struct answer a;
    memset(&a, 0, sizeof a);
    a.id = id;
    a.count = count;
    (void)message_put(parent.sock, &a, sizeof a);
}

/* One at a time, since all write to the same place: that of a worker that has died has to end first. */
static void start_reader(void)
{
    if (parent.read.id == 0 || parent.reader > 0)
        return;
    parent_settle();
    pid_t pid = fork();
    if (pid == 0) {
        child_begins();
        parent_read();
        alarm(0);
        put_answer(parent.read.id, 1);
        _exit(0);
    }
    if (pid > 0) {
        parent.reader = pid;
        parent.reader_id = parent.read.id;
        parent.read.id = 0;
    }
}

/* One that was ended, or crashed, has said nothing. */
static void reader_ended(int status)
{
    parent.reader = 0;
    if (parent.reader_id != 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
        put_answer(parent.reader_id, 0);
}

/* Starts resolvers for the oldest questions; what cannot be started now stays queued. */
static void start_resolvers(void)
{
    while (parent.queued > 0 && parent.resolvers < RESOLVERS) {
        pid_t pid = fork();
        if (pid == 0)
            resolve(&parent.queue[0]);
        if (pid < 0)
            return;
        parent.resolvers++;
        memmove(parent.queue, parent.queue + 1, (size_t)--parent.queued * sizeof parent.queue[0]);
    }
}

/* ------------------------------------------- another program in this one's place */

static void begin_upgrade(void)
{
    if (parent.trial > 0 || parent.passed || parent.before.worker > 0 || parent.heir > 0) {
        log_warn("SIGUSR2 is ignored", "why=\"an upgrade is under way already\"");
        return;
    }
    parent.trial = upgrade_try();
    if (parent.trial < 0) {
        parent.trial = 0;
        log_error("no upgrade: the program cannot be tried", "error=\"%s\"", strerror(errno));
        return;
    }
    log_info("upgrade: the new program is tried", "pid=%ld", (long)parent.trial);
}

/* One of those that belong to an upgrade has ended. */
static void upgrade_reaped(pid_t pid, int code)
{
    if (pid == parent.trial) {
        parent.trial = 0;
        parent.passed = code == UPGRADE_ABLE;
        if (!parent.passed)
            log_error("no upgrade: the new program cannot take over; this one goes on", "exit_code=%d", code);
    } else if (pid == parent.heir) {
        parent.heir = 0;
        log_error("no upgrade: the new program has ended; this one goes on", "exit_code=%d", code);
    } else {
        net_close(parent.before.sock);
        parent.before.sock = -1;
        parent.before.worker = 0;
        parent.due_ms = 0;
        log_info("the worker of the program before has ended", "exit_code=%d", code);
    }
}

/* Between two questions. Those that resolvers are about are answered by them, however this ends. */
static void go_over(void)
{
    struct upgrade_left leave = { parent.worker, parent.sock, parent.hand, sizeof(struct question) + sizeof(struct answer), 0, 0 };
    if (parent.have > 0 || parent.queued > 0 || parent.stopping)
        return;
    parent.passed = false;
    if (parent.supervises) {
        upgrade_exec(&leave);
        return;
    }
    leave.worker = 0;
    leave.sock = -1;
    parent.heir = upgrade_spawn(&leave);
    if (parent.heir < 0) {
        parent.heir = 0;
        log_error("no upgrade: the new program cannot be started", "error=\"%s\"", strerror(errno));
    }
}

/* The worker has said that it is ready. From now on the way to the old one is its alone. */
static void take_ready(void)
{
    char said[sizeof PARENT_READY];
    ssize_t n = read(parent.hand, said, sizeof said);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) { /* it has gone, and will be reaped */
        net_close(parent.hand);
        parent.hand = -1;
        return;
    }
    parent.ready = parent.upgraded = true;
    net_close(parent.before.peer);
    parent.before.peer = -1;
    if (parent.before.worker > 0) {
        parent.due_ms = now_ms() + parent.before.drain_ms + LATE_MS;
        log_info("upgraded: the new worker serves", "pid=%ld old=%ld", (long)parent.worker, (long)parent.before.worker);
    }
}

/* The worker of the program before is to end. Where that was root's and this one is not any more (the first `user`), no signal of ours
 * reaches it: then it is told, which does for SIGTERM if it still turns. */
static void end_before(int signal_number)
{
    if (parent.before.worker > 0 && kill(parent.before.worker, signal_number) < 0 && errno == EPERM && parent.before.sock >= 0) {
        struct answer a;
        memset(&a, 0, sizeof a); /* id 0: to no question */
        (void)message_put(parent.before.sock, &a, sizeof a);
    }
}

/* What should have ended by itself. */
static void look_at_due(void)
{
    if (parent.due_ms == 0 || now_ms() < parent.due_ms)
        return;
    parent.due_ms = 0;
    log_error("a worker is late and is ended", "ready=%d", parent.upgraded);
    if (parent.upgraded)
        end_before(SIGKILL);
    else if (parent.worker > 0)
        (void)kill(parent.worker, SIGKILL);
}

static void close_sock(void)
{
    net_close(parent.sock);
    net_close(parent.hand);
    parent.sock = parent.hand = -1;
    parent.queued = 0;
    parent.read.id = parent.reader_id = 0;
    parent.have = 0;
}

/* The new worker has ended, or could not begin, before it was ready: the old one has noticed nothing. */
static void take_back(void)
{
    if (parent.worker > 0 || parent.before.worker == 0 || parent.upgraded)
        return;
    log_error("no upgrade: the new worker did not become ready; the old one goes on", "exit_code=%d", parent.code);
    close_sock();
    parent.worker = parent.before.worker;
    parent.sock = parent.before.sock;
    parent.hand = parent.before.peer;
    parent.before = (struct upgrade_left){ .sock = -1, .peer = -1 };
    parent.due_ms = 0;
    parent.ready = true;
}

static void reap(void)
{
    pid_t pid;
    int status;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (pid == parent.worker) {
            parent.worker = 0;
            parent.code = code;
        } else if (pid == parent.before.worker || pid == parent.trial || pid == parent.heir) {
            upgrade_reaped(pid, code);
        } else if (pid == parent.reader) {
            reader_ended(status);
        } else if (parent.resolvers > 0) {
            parent.resolvers--;
        }
    }
}

static void relay_signals(void)
{
    if (signal_came[SIGUSR2]) {
        signal_came[SIGUSR2] = 0;
        begin_upgrade();
    }
    if (!parent.supervises)
        return;
    for (int i = 0; i < RELAYED; i++) {
        bool early = relayed[i] == SIGHUP && parent.worker == 0; /* the next worker hears of it */
        if (signal_came[relayed[i]] && !early) {
            signal_came[relayed[i]] = 0;
            if (relayed[i] == SIGTERM || relayed[i] == SIGINT) {
                parent.stopping = true;
                manager_say(MANAGER_STOPPING);
            }
            if (parent.worker > 0)
                (void)kill(parent.worker, relayed[i]);
            if (parent.stopping)
                end_before(relayed[i]);
        }
    }
}

/* Called when the socket is readable: a blocking receive gives what there is. */
static void take_question(void)
{
    int got = message_get(parent.sock, &parent.in, sizeof parent.in, &parent.have);
    if (got < 0)
        close_sock();
    if (got > 0 && parent.in.kind == TELL) {
        if (parent.in.port < MANAGER_WORDS)
            manager_say((enum manager_word)parent.in.port);
        else /* a worker that others have taken over must not end its parent */
            log_warn("the worker says what is no word", "word=%u", (unsigned)parent.in.port);
    } else if (got > 0 && parent.in.kind == UPGRADE) {
        begin_upgrade();
    } else if (got > 0 && parent.in.kind == TAKEN_OVER) {
        parent.taken_over = true;
    } else if (got > 0) {
        parent.in.host[HOST_CAP - 1] = '\0';
        *(parent.in.kind == ASK_READ ? &parent.read : &parent.queue[parent.queued++]) = parent.in;
    }
}

/* One round of the parent's own loop, at most wait_ms long (-1: until something happens). */
static void serve(int wait_ms)
{
    struct pollfd p[3] = {
        { .fd = parent.pipe_read, .events = POLLIN },
        { .fd = parent.queued < QUESTIONS ? parent.sock : -1, .events = POLLIN },
        { .fd = parent.ready ? -1 : parent.hand, .events = POLLIN },
    };
    char bytes[64];
    /* A fork may have failed for want of processes: it is tried again. */
    bool hurries = parent.queued > 0 || parent.passed || (parent.read.id != 0 && parent.reader == 0);
    int most_ms = hurries ? 100 : parent.due_ms > 0 ? 1000 : -1;
    if (most_ms > 0 && (wait_ms < 0 || wait_ms > most_ms))
        wait_ms = most_ms;
    if (poll(p, 3, wait_ms) > 0) {
        while (p[0].revents != 0 && read(parent.pipe_read, bytes, sizeof bytes) == (ssize_t)sizeof bytes)
            ;
        if (p[1].revents != 0)
            take_question();
        if (p[2].revents != 0)
            take_ready();
    }
    reap();
    take_back();
    look_at_due();
    relay_signals();
    start_resolvers();
    start_reader();
    if (parent.passed)
        go_over();
}

/* A way by which whole messages go, each as it was sent, and descriptors with them; where a system has none of that kind, bytes go. */
static void open_way(int ends[2])
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) < 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        ends[0] = ends[1] = -1;
    else if (!os_prepare_fd(ends[0]) || !os_prepare_fd(ends[1]))
        log_warn("no way to the worker after this one", "error=\"%s\"", strerror(errno));
}

/* What only the parent's side needs is closed in a new worker. */
static void become_worker(bool supervise, const int way[2])
{
    if (supervise) {
        set_signal(SIGCHLD, SIG_DFL);
        manager_leave();
        set_signal(SIGHUP, loop_wake); /* heeded as soon as it can be: it must not end a worker that is about to begin */
        set_signal(SIGUSR2, SIG_IGN);
        net_close(parent.pipe_read);
        net_close(parent.pipe_write);
        net_close(parent.before.sock);
    }
    worker.hand = way[1];
    worker.peer = parent.before.peer;
}

static void become_parent(const int pair[2], const int way[2], pid_t child)
{
    (void)fcntl(pair[0], F_SETFD, FD_CLOEXEC);
    parent.sock = pair[0];
    parent.hand = way[0];
    parent.ready = false;
    parent.worker = child;
    parent.code = EX_OSERR; /* until it ends: it never began */
}

/* Forks with a socket pair between the two; the worker is the child when supervised, else the caller. True on
 * the worker's side, which has its end in *fd, or -1 when there is no other process. On the parent's side
 * parent.worker tells whether there is a worker. */
static bool fork_pair(bool supervise, int *fd)
{
    int pair[2] = { -1, -1 }, way[2] = { -1, -1 }, bytes = 2 * QUESTIONS * (int)sizeof(struct answer);
    sigset_t all, before;
    pid_t pid = -1;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* none may reach the child while it has the parent's handlers */
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && os_prepare_fd(pair[1])) {
        /* The parent's end blocks, since its resolvers write to it; with so much room they need not wait. */
        (void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
        open_way(way);
        pid = fork();
    }
    if (pid < 0) {
        log_warn("no second process", "error=\"%s\"", strerror(errno));
        for (int i = 0; i < 2; i++) {
            net_close(pair[i]);
            net_close(way[i]);
            pair[i] = way[i] = -1;
        }
    }
    bool is_worker = supervise ? pid == 0 : pid != 0;
    if (pid == 0) /* a terminal sends SIGINT to the helper too, which is to end after its worker */
        relayed_signals(supervise ? SIG_DFL : SIG_IGN);
    if (is_worker)
        become_worker(supervise, way);
    else
        become_parent(pair, way, supervise && pid > 0 ? pid : 0);
    sigprocmask(SIG_SETMASK, &before, NULL);
    net_close(pair[is_worker ? 0 : 1]);
    net_close(way[is_worker ? 0 : 1]);
    if (is_worker)
        *fd = pair[1];
    return is_worker;
}

/* The program before this one has let none in since it became this one. */
static void let_signals_in(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void begin_parent(void)
{
    parent.supervises = true;
    open_pipe();
    set_signal(SIGPIPE, SIG_IGN); /* who is answered may have died */
    set_signal(SIGCHLD, on_signal);
    set_signal(SIGUSR2, on_signal);
    relayed_signals(on_signal);
    let_signals_in();
}

/* The worker of the program before this one, if there is one. */
static void adopt_worker(void)
{
    const struct upgrade_left *left = upgrade_left();
    parent.before = *left;
    if (left->worker == 0)
        return;
    if (left->question_size != sizeof(struct question) + sizeof(struct answer)) {
        net_close(left->sock); /* it asks in another way: it goes on with the addresses that it knows */
        parent.before.sock = -1;
    }
    parent.due_ms = now_ms() + READY_LIMIT_MS;
}

/* Serves until there is no worker any more. */
static void serve_worker(void)
{
    take_back();
    while (parent.worker > 0)
        serve(-1);
    close_sock();
}

/* The end: nobody is left behind. */
static void end_others(void)
{
    if (parent.trial > 0)
        (void)kill(parent.trial, SIGKILL);
    end_before(SIGTERM);
    while (parent.before.worker > 0 || parent.trial > 0)
        serve(-1);
}

static bool supervise_worker(int *fd, int *exit_code)
{
    uint64_t delay_ms = RESTART_FIRST_MS;
    begin_parent();
    adopt_worker();
    while (!parent.stopping) {
        uint64_t begun_ms = now_ms();
        if (fork_pair(true, fd))
            return true;
        bool began = parent.worker > 0 || parent.before.worker > 0;
        serve_worker();
        /* Success and the codes of sysexits are its own decision, anything else is an accident. One that had no
         * handlers yet when it was told to stop did stop. */
        int code = parent.code;
        bool decided = began && (code == 0 || (code >= 64 && code <= 78));
        *exit_code = parent.stopping && (code == 128 + SIGTERM || code == 128 + SIGINT) ? 0 : code;
        if (decided || parent.stopping) {
            end_others();
            return false;
        }
        if (now_ms() - begun_ms >= LONG_LIFE_MS)
            delay_ms = RESTART_FIRST_MS;
        log_warn("the worker has died", "exit_code=%d restart_in_ms=%u", code, (unsigned)delay_ms);
        manager_status("the worker has died, and is started again");
        for (uint64_t due_ms = now_ms() + delay_ms, now; !parent.stopping && (now = now_ms()) < due_ms;)
            serve((int)(due_ms - now));
        if (parent_settle != NULL)
            parent_settle();
        delay_ms = delay_ms * 2 > RESTART_LAST_MS ? RESTART_LAST_MS : delay_ms * 2;
    }
    end_others();
    *exit_code = 0; /* told to stop while there was no worker */
    return false;
}

int parent_keep(int exit_code)
{
    if (upgrade_left()->worker == 0)
        return exit_code;
    log_error("no upgrade: the new program cannot run; the worker of the old one goes on", "exit_code=%d", exit_code);
    begin_parent();
    adopt_worker();
    parent.ready = false;
    take_back();
    serve_worker();
    if (!parent.stopping && (parent.code < 64 || parent.code > 78) && parent.code != 0) {
        log_warn("the worker has died: the new program begins anew", "exit_code=%d", parent.code);
        upgrade_exec(&(struct upgrade_left){ .sock = -1, .peer = -1 });
    }
    end_others();
    return parent.stopping && parent.code == 128 + SIGTERM ? 0 : parent.code;
}

/* The life of a helper. */
static void help(void)
{
    set_signal(SIGPIPE, SIG_IGN);
    set_signal(SIGCHLD, on_signal);
    manager_leave();
    close_inherited(parent.sock, true); /* the listening sockets are the worker's, and the next program's */
    open_pipe();
    while (parent.sock >= 0)
        serve(-1);
    if (parent.trial > 0)
        (void)kill(parent.trial, SIGKILL);
    if (parent.heir > 0 && !parent.taken_over)
        (void)kill(parent.heir, SIGTERM); /* its worker was told to stop, and that is meant for both */
    _exit(0);
}

bool parent_fork(bool supervise, int *fd, int *exit_code)
{
    *fd = -1;
    *exit_code = 0;
    fatal_keep = NULL; /* what goes wrong from here on is this program's own matter */
    if (supervise || upgrade_left()->worker > 0) /* what has children stays their parent: no longer to be one is for the next start */
        return supervise_worker(fd, exit_code);
    parent.before.peer = upgrade_left()->peer;
    let_signals_in();
    if (fork_pair(false, fd))
        return true;
    help();
    return false;
}
