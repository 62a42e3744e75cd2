/*
 * test_parent.c - names through the parent and through the helper, and the life of a supervised worker.
 *
 *   this program --fork--> main process of a trial --parent_fork--> worker
 *        ^                                                             |
 *        +---------------- notes over a pipe: "pid of a worker", "count of addresses" ---+
 */
#include "parent.h"
#include "unit.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct note { int kind, value; };
enum { NOTE_PID = 1, NOTE_COUNT, NOTE_BAD };

static int notes[2];
static struct conf conf;

static void tell(int kind, int value)
{
    struct note n = { kind, value };
    if (write(notes[1], &n, sizeof n) != (ssize_t)sizeof n)
        _exit(1);
}

/* The next note within the time; its value, or -1 when none of that kind comes. */
static int hear(int kind, int within_ms)
{
    struct pollfd p = { .fd = notes[0], .events = POLLIN };
    struct note n;
    if (poll(&p, 1, within_ms) != 1 || read(notes[0], &n, sizeof n) != (ssize_t)sizeof n)
        return -1;
    return n.kind == kind ? n.value : -1;
}

static uint64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---------------------------------------------------------- in the worker */

static int answers, wanted, addresses;

static void on_names(void *mark, const struct address *list, int count)
{
    char text[ADDRESS_TEXT];
    answers++;
    addresses = count;
    for (int i = 0; i < count; i++) {
        address_text(&list[i], text);
        if (strcmp(text, "127.0.0.1:6379") != 0 && strcmp(text, "[::1]:6379") != 0)
            tell(NOTE_BAD, i);
    }
    /* A question may be asked inside an answer. */
    if (mark != NULL && answers < wanted && !parent_resolve("localhost", 6379, mark, on_names))
        tell(NOTE_BAD, answers);
}

static void start_loop(int fd)
{
    arena_measure();
    loop_tables(&conf);
    if (!arena_obtain(false))
        _exit(1);
    loop_tables(&conf);
    loop_open();
    parent_attach(fd);
}

static void wait_answers(int n, uint64_t within_ms)
{
    uint64_t until_ms = clock_ms() + within_ms;
    while (answers < n && clock_ms() < until_ms) {
        loop_turn(true);
        poll(NULL, 0, 1);
    }
}

static void on_term(int n)
{
    (void)n;
    _exit(0);
}

/* ---------------------------------------------------------------- trials */

/* Runs trial() in a process of its own; gives its pid. */
static pid_t run(void (*trial)(void))
{
    pid_t pid;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        signal(SIGTERM, SIG_DFL);
        trial();
        _exit(0);
    }
    return pid;
}

/* Its exit code, -signal when it was killed, -1000 when it does not end in time. */
static int end_of(pid_t pid, uint64_t within_ms)
{
    uint64_t until_ms = clock_ms() + within_ms;
    int status;
    while (clock_ms() < until_ms) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        poll(NULL, 0, 2);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return -1000;
}

static void ask_names(int fd)
{
    start_loop(fd);
    /* One by one, each asked in the answer to the last. */
    wanted = 5;
    if (!parent_resolve("localhost", 6379, &wanted, on_names))
        tell(NOTE_BAD, 0);
    wait_answers(5, 8000);
    tell(NOTE_COUNT, answers == 5 ? addresses : -2);
    /* As many as can be open at once, and one more. */
    answers = wanted = 0;
    int open = 0;
    while (parent_resolve("127.0.0.1", 6379, NULL, on_names) && open < 1000)
        open++;
    tell(NOTE_COUNT, open);
    wait_answers(open, 8000);
    tell(NOTE_COUNT, answers);
    tell(NOTE_COUNT, addresses);
    /* Forgotten ones are not answered. */
    answers = 0;
    parent_resolve("localhost", 6379, &conf, on_names);
    parent_resolve("localhost", 6379, &notes, on_names);
    parent_forget(&conf);
    wait_answers(2, 1500);
    tell(NOTE_COUNT, answers);
    /* Names that no answer can have; the resolver may take its time over the first. */
    char longest[HOST_CAP + 10];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    answers = 0;
    addresses = -1;
    parent_resolve("no-such-host.invalid", 6379, NULL, on_names);
    wait_answers(1, 15000);
    tell(NOTE_COUNT, answers == 1 ? addresses : -2);
    addresses = -1;
    parent_resolve(longest, 6379, NULL, on_names);
    parent_resolve("", 6379, NULL, on_names);
    wait_answers(3, 100);
    tell(NOTE_COUNT, answers == 3 ? addresses : -2);
}

static void trial_supervised_names(void)
{
    int fd, code;
    if (!parent_fork(true, &fd, &code))
        _exit(code);
    ask_names(fd);
    _exit(0);
}

static void trial_helper_names(void)
{
    int fd, code;
    if (!parent_fork(false, &fd, &code) || fd < 0)
        _exit(99);
    ask_names(fd);
    _exit(0);
}

static void check_names(const char *note, void (*trial)(void))
{
    unit_note = note;
    pid_t pid = run(trial);
    int count = hear(NOTE_COUNT, 9000);
    CHECK(count >= 1 && count <= MAX_ADDRESSES);
    CHECK(hear(NOTE_COUNT, 9000) == 64);
    CHECK(hear(NOTE_COUNT, 9000) == 64);
    CHECK(hear(NOTE_COUNT, 9000) == 1);
    CHECK(hear(NOTE_COUNT, 9000) == 1);
    CHECK(hear(NOTE_COUNT, 16000) == 0);
    CHECK(hear(NOTE_COUNT, 9000) == 0);
    CHECK(end_of(pid, 5000) == 0);
}

/* Without anybody to ask, every question is answered with nothing in the next turn, not at once. */
static void trial_nobody(void)
{
    start_loop(-1);
    addresses = -1;
    parent_resolve("localhost", 6379, NULL, on_names);
    tell(NOTE_COUNT, answers);
    loop_turn(false);
    tell(NOTE_COUNT, answers == 1 ? addresses : -2);
}

static void worker_of_sigkill(void)
{
    int fd, code;
    if (!parent_fork(true, &fd, &code))
        _exit(code);
    signal(SIGTERM, on_term);
    tell(NOTE_PID, (int)getpid());
    for (;;)
        pause();
}

static void test_restart(void)
{
    unit_note = "restart";
    pid_t pid = run(worker_of_sigkill), last = 0;
    uint64_t begun_ms = clock_ms();
    for (int i = 0; i < 4; i++) {
        pid_t worker = (pid_t)hear(NOTE_PID, 5000);
        if (!CHECK(worker > 0 && worker != last && worker != pid))
            break;
        last = worker;
        if (i < 3)
            kill(worker, SIGKILL);
    }
    CHECK(clock_ms() - begun_ms >= 100 + 200 + 400); /* the delay grows */
    kill(pid, SIGTERM);
    CHECK(end_of(pid, 5000) == 0);
    CHECK(kill(last, 0) < 0 && errno == ESRCH);
}

static void worker_of_signals(void)
{
    int fd, code;
    sigset_t set;
    if (!parent_fork(true, &fd, &code))
        _exit(code);
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    tell(NOTE_PID, (int)getpid());
    for (int n = 0; n != SIGTERM;) {
        if (sigwait(&set, &n) == 0)
            tell(NOTE_COUNT, n);
    }
    _exit(77); /* its own code is what the parent gives on */
}

static void test_relay(void)
{
    unit_note = "relayed signals";
    pid_t pid = run(worker_of_signals);
    CHECK(hear(NOTE_PID, 5000) > 0);
    kill(pid, SIGHUP);
    CHECK(hear(NOTE_COUNT, 5000) == SIGHUP);
    kill(pid, SIGUSR1);
    CHECK(hear(NOTE_COUNT, 5000) == SIGUSR1);
    kill(pid, SIGTERM);
    CHECK(hear(NOTE_COUNT, 5000) == SIGTERM);
    CHECK(end_of(pid, 5000) == 77);
}

static void worker_of_refusal(void)
{
    int fd, code;
    if (!parent_fork(true, &fd, &code))
        _exit(code);
    tell(NOTE_PID, 1);
    _exit(78);
}

static void worker_of_failure(void)
{
    int fd, code;
    if (!parent_fork(true, &fd, &code))
        _exit(code);
    tell(NOTE_PID, 1);
    _exit(1);
}

static void test_ends(void)
{
    unit_note = "sysexits code";
    pid_t pid = run(worker_of_refusal);
    CHECK(end_of(pid, 5000) == 78);
    CHECK(hear(NOTE_PID, 0) == 1);
    CHECK(hear(NOTE_PID, 300) == -1); /* not started again */

    unit_note = "stop while there is no worker";
    pid = run(worker_of_failure);
    CHECK(hear(NOTE_PID, 5000) == 1);
    CHECK(hear(NOTE_PID, 5000) == 1);
    CHECK(hear(NOTE_PID, 5000) == 1);
    poll(NULL, 0, 100);
    kill(pid, SIGTERM); /* within the 400 ms before the next start */
    CHECK(end_of(pid, 5000) == 0);
    CHECK(hear(NOTE_PID, 800) == -1);
}

static void worker_of_orphan(void)
{
    int fd, code;
    if (!parent_fork(true, &fd, &code))
        _exit(code);
    start_loop(fd);
    wanted = 1;
    tell(NOTE_PID, (int)getpid());
    kill(getppid(), SIGKILL);
    poll(NULL, 0, 50);
    loop_turn(true);
    addresses = -1;
    parent_resolve("localhost", 6379, NULL, on_names);
    wait_answers(1, 1000);
    tell(NOTE_COUNT, answers == 1 ? addresses : -2);
    _exit(0);
}

static void test_orphan(void)
{
    unit_note = "a worker without its parent";
    pid_t pid = run(worker_of_orphan);
    CHECK(hear(NOTE_PID, 5000) > 0);
    CHECK(end_of(pid, 5000) == -SIGKILL);
    CHECK(hear(NOTE_COUNT, 5000) == 0);
}

/* The helper does not mind SIGINT and SIGTERM, and goes when its worker has gone: the end of a pipe that both
 * hold tells. */
static void trial_helper_end(void)
{
    int fd, code, gone[2];
    struct pollfd p;
    pid_t pid;
    if (pipe(gone) < 0)
        _exit(98);
    if (dup2(gone[1], 300) < 0) /* above what the helper closes */
        _exit(98);
    close(gone[1]);
    pid = fork();
    if (pid == 0) {
        close(gone[0]);
        setpgid(0, 0);
        if (!parent_fork(false, &fd, &code) || fd < 0)
            _exit(97);
        signal(SIGTERM, SIG_IGN);
        signal(SIGINT, SIG_IGN);
        poll(NULL, 0, 200); /* the helper is at its work */
        kill(0, SIGTERM);
        kill(0, SIGINT);
        start_loop(fd);
        parent_resolve("127.0.0.1", 6379, NULL, on_names);
        wait_answers(1, 5000);
        _exit(addresses == 1 ? 0 : 96);
    }
    close(300);
    p.fd = gone[0];
    p.events = 0;
    code = end_of(pid, 8000);
    _exit(code != 0 ? code : poll(&p, 1, 5000) == 1 ? 0 : 95);
}

int main(void)
{
    conf.max_clients = 16;
    os_descriptors(1024);
    log_threshold = LOG_ERROR; /* the deaths are wanted here */
    signal(SIGPIPE, SIG_IGN);
    if (!CHECK(pipe(notes) == 0 && dup2(notes[1], 400) == 400))
        return unit_end();
    close(notes[1]);
    notes[1] = 400; /* where a helper's closing does not reach */
    unit_note = "nobody to ask";
    pid_t pid = run(trial_nobody);
    CHECK(hear(NOTE_COUNT, 5000) == 0);
    CHECK(hear(NOTE_COUNT, 5000) == 0);
    CHECK(end_of(pid, 5000) == 0);
    check_names("names, supervised", trial_supervised_names);
    check_names("names, helper", trial_helper_names);
    test_restart();
    test_relay();
    test_ends();
    test_orphan();
    unit_note = "end of the helper";
    pid = run(trial_helper_end);
    CHECK(end_of(pid, 15000) == 0);
    return unit_end();
}
