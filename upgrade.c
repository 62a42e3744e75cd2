/*
 * upgrade.c - what passes from one program to the next in its place: by SIGUSR2 the file that this one was started from, which
 * has been replaced meanwhile, is run with the same arguments.
 *
 *   SIGUSR2 -> upgrade_try: NEW -t ..., a child            all that could go wrong at its start goes wrong there
 *           -> upgrade_exec: NEW ..., in this process      supervised: the process keeps its number
 *           -> upgrade_spawn: NEW ..., a child             not supervised: the helper cannot become the worker
 *
 *   PUERTA_UPGRADE in NEW's environment: "1 TRY GENERATION WORKER SOCK PEER SIZE DRAIN FD FD ..."
 *
 *   listening sockets   by number; whose they are the system tells (their own addresses)
 *   WORKER              the old worker, still a child of that process; 0: it is none
 *   SOCK                this side of its questions (parent.c), if those are of this size
 *   PEER                the way to it for the new worker (handover.c)
 *
 * Owns the list of listening sockets that a program after this one gets, and those that nobody has asked for yet.
 */
#include "parent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define VARIABLE UPGRADE_ENV
#define VERSION 1
#define SOCKETS (MAX_SERVICES * MAX_LISTENS + MAX_LISTENS) /* those of all sections, and of operators */
#define ARGUMENTS 256
#define PROGRAM_CAP 4096
#define TRY_LIMIT_S 30          /* a program that only hangs is not waited for */

static struct {
    char path[PROGRAM_CAP];        /* "" = not known */
    char *arguments[ARGUMENTS]; /* [0] is the path, [1] room for -t; NULL behind the last */
    bool tries;
    int fds[SOCKETS], count;    /* to be passed on */
    int left[SOCKETS], lefts;   /* got, and not asked for yet */
    struct upgrade_left got;
    uint32_t drain_ms;
} up = { .got = { .sock = -1, .peer = -1 } };

/* ------------------------------------------------------ how it was started */

static bool runs(const char *path)
{
    return access(path, X_OK) == 0;
}

/* A name without a slash was found along PATH, as a shell does it. */
static void find_along(const char *name)
{
    const char *at = getenv("PATH");
    while (at != NULL && *at != '\0') {
        size_t n = strcspn(at, ":");
        int len = snprintf(up.path, sizeof up.path, "%.*s/%s", (int)n, at, name);
        if (len > 0 && (size_t)len < sizeof up.path && up.path[0] == '/' && runs(up.path)) {
            return;
        }
        at += n + (at[n] == ':');
    }
    up.path[0] = '\0';
}

/* Absolute, since who runs it may be elsewhere by then; a symbolic link stays one, for it may point to another program by then. */
static void find_path(const char *name)
{
    char here[PROGRAM_CAP];
    int len;
    if (strchr(name, '/') == NULL) {
        find_along(name);
        return;
    }
    if (name[0] != '/' && getcwd(here, sizeof here) == NULL) {
        return;
    }
    len = name[0] == '/' ? snprintf(up.path, sizeof up.path, "%s", name) : snprintf(up.path, sizeof up.path, "%s/%s", here, name);
    if (len < 0 || (size_t)len >= sizeof up.path) {
        up.path[0] = '\0';
    }
}

/* ---------------------------------------------------------- what was left */

static bool is_listening(int fd)
{
    int on = 0;
    socklen_t len = sizeof on;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on != 0;
}

static bool is_open(int fd)
{
    return fd >= 0 && fcntl(fd, F_GETFD) >= 0;
}

/* Numbers that name what is not there are of no use to anybody: the variable is then from elsewhere. */
static void read_left(const char *text)
{
    long v[8];
    int used = 0, at = 0, fd;
    if (sscanf(text, "%ld %ld %ld %ld %ld %ld %ld %ld%n", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &at) != 8 || v[0] != VERSION) {
        log_warn("what the program before this one left cannot be read", "variable=%s", VARIABLE);
        return;
    }
    up.tries = v[1] != 0;
    up.got.generation = (uint32_t)v[2];
    up.got.worker = v[3] > 0 && waitpid((pid_t)v[3], NULL, WNOHANG) == 0 ? (pid_t)v[3] : 0;
    up.got.sock = is_open((int)v[4]) ? (int)v[4] : -1;
    up.got.peer = is_open((int)v[5]) ? (int)v[5] : -1;
    up.got.question_size = (size_t)v[6];
    up.got.drain_ms = (uint32_t)v[7];
    while (up.lefts < SOCKETS && sscanf(text + at, " %d%n", &fd, &used) == 1) {
        at += used;
        if (is_listening(fd) && os_prepare_fd(fd)) {
            up.left[up.lefts++] = fd;
        }
    }
    for (int i = 0; i < 2; i++) {
        fd = i == 0 ? up.got.sock : up.got.peer;
        if (fd >= 0) {
            (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
        }
    }
}

void upgrade_start(int argc, char **argv)
{
    const char *text = getenv(VARIABLE);
    if (argc > 0) {
        find_path(argv[0]);
    }
    if (argc + 2 > ARGUMENTS) {
        up.path[0] = '\0';
    }
    up.arguments[0] = up.path;
    for (int i = 1; i < argc && i + 2 < ARGUMENTS; i++) {
        up.arguments[i + 1] = argv[i];
    }
    if (text != NULL) {
        read_left(text);
        (void)unsetenv(VARIABLE);
    }
}

bool upgrade_tries(void)
{
    return up.tries;
}

struct upgrade_left *upgrade_left(void)
{
    return &up.got;
}

/* ------------------------------------------------------ listening sockets */

static bool is_at(int fd, const struct address *a)
{
    struct address own;
    char wanted[ADDRESS_TEXT], has[ADDRESS_TEXT];
    return net_local(fd, &own) && strcmp(address_text(a, wanted), address_text(&own, has)) == 0;
}

int upgrade_listener(const struct address *a)
{
    for (int i = 0; i < up.lefts; i++) {
        int fd = up.left[i];
        if (is_at(fd, a)) {
            up.left[i] = up.left[--up.lefts];
            return fd;
        }
    }
    return -1;
}

void upgrade_listens(int fd)
{
    must(up.count < SOCKETS);
    up.fds[up.count++] = fd;
}

void upgrade_close_rest(void)
{
    while (up.lefts > 0) {
        net_close(up.left[--up.lefts]);
    }
}

bool upgrade_keeps(int fd)
{
    for (int i = 0; i < up.count; i++) {
        if (up.fds[i] == fd) {
            return true;
        }
    }
    return false;
}

void upgrade_drain_limit(uint32_t ms)
{
    up.drain_ms = ms;
}

/* ------------------------------------------------------- the next program */

static void inherit(int fd, bool on)
{
    if (fd >= 0) {
        (void)fcntl(fd, F_SETFD, on ? 0 : FD_CLOEXEC);
    }
}

/* What it gets stays open in it. Of those sockets that could not be used (the new configuration is wrong) it gets all. */
static void inherit_all(const struct upgrade_left *leave, bool on)
{
    for (int i = 0; i < up.count; i++) {
        inherit(up.fds[i], on);
    }
    for (int i = 0; i < up.lefts; i++) {
        inherit(up.left[i], on);
    }
    inherit(leave->sock, on);
    inherit(leave->peer, on);
}

static bool tell(const struct upgrade_left *leave, bool tries)
{
    char text[64 + 8 * 12 + SOCKETS * 12];
    int n = snprintf(text, sizeof text, "%d %d %lu %ld %d %d %lu %lu", VERSION, tries, (unsigned long)up.got.generation + 1, (long)leave->worker,
                     leave->sock, leave->peer, (unsigned long)leave->question_size, (unsigned long)up.drain_ms);
    for (int i = 0; i < up.count + up.lefts; i++) {
        n += snprintf(text + n, sizeof text - (size_t)n, " %d", i < up.count ? up.fds[i] : up.left[i - up.count]);
    }
    return setenv(VARIABLE, text, 1) == 0;
}

static void let_signals_in(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* It says nothing but what is wrong; a chroot may have no such file, and a program that is none says what it likes. */
static void silence(void)
{
    int fd = open("/dev/null", O_WRONLY);
    if (fd >= 0) {
        (void)dup2(fd, STDOUT_FILENO);
        net_close(fd);
    }
}

static pid_t start(const struct upgrade_left *leave, bool tries)
{
    pid_t pid = up.path[0] == '\0' ? -1 : fork();
    if (pid != 0) {
        return pid;
    }
    let_signals_in();
    if (tries) {
        silence();
        alarm(TRY_LIMIT_S);
        up.arguments[1] = (char *)(uintptr_t)"-t";
    }
    inherit_all(leave, true);
    if (tell(leave, tries)) {
        (void)execv(up.path, tries ? up.arguments : up.arguments + 1);
    }
    log_error("the program cannot be run", "path=%s error=\"%s\"", up.path, strerror(errno));
    _exit(127);
}

pid_t upgrade_try(void)
{
    static const struct upgrade_left nothing = { .sock = -1, .peer = -1 };
    up.arguments[1] = up.path; /* where upgrade_exec and upgrade_spawn begin to read */
    return start(&nothing, true);
}

pid_t upgrade_spawn(const struct upgrade_left *leave)
{
    return start(leave, false);
}

void upgrade_exec(const struct upgrade_left *leave)
{
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* what comes now is the next program's, which has handlers when it lets it in */
    inherit_all(leave, true);
    manager_hand_over();
    up.arguments[1] = up.path;
    if (up.path[0] != '\0' && tell(leave, false)) {
        (void)execv(up.path, up.arguments + 1);
    }
    log_error("the program cannot be run: this one goes on", "path=%s error=\"%s\"", up.path, strerror(errno));
    (void)unsetenv(VARIABLE);
    inherit_all(leave, false);
    sigprocmask(SIG_SETMASK, &before, NULL);
}
