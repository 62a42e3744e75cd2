/*
 * manager.c - what is told to whoever started Puerta: systemd, s6, or somebody who looks into a pid file.
 *
 *     the process first started                        in its children
 *       manager_open()   pid file, NOTIFY_SOCKET         manager_leave()
 *       manager_say()    datagrams; a newline
 *       manager_close()  the pid file goes
 *
 * Owns a socket, the descriptor of s6 and that of the pid file, which are opened before the process gives up its rights
 * and -1 where they are not used. The lock on the pid file is the process's, so a file that was left behind by one
 * that is gone stops nobody; nobody else here may open it, since a close would give the lock up. The datagrams are
 * those of systemd's sd_notify(3), which any manager may understand.
 */
#include "parent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#define TEXT_CAP 256            /* of one datagram */
#define TRIES 10                /* to lock a pid file that others take away at the same moment */
#define PID_ENV "PUERTA_PID_FD" /* to the program that takes this one's place: the pid file, open and locked */

static struct {
    int notify, ready, pid;     /* descriptors; -1 = none */
    char path[PATH_CAP];        /* of the pid file, as it is seen once / is another */
    uint32_t watchdog_ms;
} manager = { .notify = -1, .ready = -1, .pid = -1 };

/* ------------------------------------------------------------ the pid file */

static bool lock(int fd)
{
    struct flock l;

    memset(&l, 0, sizeof l);
    l.l_type = F_WRLCK;
    l.l_whence = SEEK_SET;
    return fcntl(fd, F_SETLK, &l) == 0;
}

/* Whether the open file is the one at path. */
static bool is_at(int fd, const char *path)
{
    struct stat ours, there;

    return fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

/* The file at path, open and locked. A link is not followed, and what is no file of ours alone is not written to: the folder may be
 * one where others write too. */
static int pid_file_open(const char *path)
{
    struct stat ours;
    char who[32] = "";

    for (int i = 0; i < TRIES; i++) {
        int fd = os_open_no_link(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 || fstat(fd, &ours) < 0)
            fatal(EX_CANTCREAT, "pid_file = %s: %s", path, strerror(errno));
        if (!S_ISREG(ours.st_mode) || ours.st_nlink > 1)
            fatal(EX_CANTCREAT, "pid_file = %s: not a file that is this process's alone", path);
        if (!lock(fd)) {
            if (read(fd, who, sizeof who - 1) < 0)
                who[0] = '\0';
            fatal(EX_TEMPFAIL, "pid_file = %s: belongs to a living process, %.*s", path, (int)strcspn(who, "\n"), who);
        }
        /* Its last owner may have removed it between our open and our lock. */
        if (is_at(fd, path))
            return fd;
        close(fd);
    }
    fatal(EX_TEMPFAIL, "pid_file = %s: somebody keeps taking it away", path);
}

/* The descriptor that the program before this one has left; -1: none did. */
static int pid_file_inherited(void)
{
    const char *text = getenv(PID_ENV);
    int fd = text != NULL ? (int)strtol(text, NULL, 10) : -1;

    (void)unsetenv(PID_ENV);
    return fd > STDERR_FILENO && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && lock(fd) ? fd : -1;
}

static void pid_file_begin(const struct conf *conf, bool upgraded)
{
    size_t root = strlen(conf->chroot);
    char text[32];

    manager.pid = pid_file_inherited();
    if (conf->pid_file[0] == '\0')
        return;
    if (upgraded && (manager.pid < 0 || !is_at(manager.pid, conf->pid_file))) {
        log_warn("the pid file cannot be written after an upgrade", "pid_file=\"%s\" cure=\"a restart\"", conf->pid_file);
        return;
    }
    if (manager.pid < 0)
        manager.pid = pid_file_open(conf->pid_file);
    /* Within the folder that becomes / it has another name later. */
    bool within = root > 0 && strncmp(conf->pid_file, conf->chroot, root) == 0 && conf->pid_file[root] == '/';
    snprintf(manager.path, sizeof manager.path, "%s", conf->pid_file + (within ? root : 0));
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(manager.pid, 0) < 0 || pwrite(manager.pid, text, (size_t)n, 0) != n)
        fatal(EX_IOERR, "pid_file = %s: %s", conf->pid_file, strerror(errno));
}

void manager_hand_over(void)
{
    char text[16];

    if (manager.pid < 0 || fcntl(manager.pid, F_SETFD, 0) < 0)
        return;
    snprintf(text, sizeof text, "%d", manager.pid);
    (void)setenv(PID_ENV, text, 1);
}

/* ------------------------------------------------------------- readiness */

/* The socket of systemd; a name that begins with @ is an abstract one, which has a zero byte there. */
static void notify_begin(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    size_t n = path != NULL ? strlen(path) : 0;
    struct sockaddr_un a;

    memset(&a, 0, sizeof a);
    if (n < 2 || (path[0] != '/' && path[0] != '@') || n >= sizeof a.sun_path)
        return;
    a.sun_family = AF_UNIX;
    memcpy(a.sun_path, path, n);
    if (path[0] == '@')
        a.sun_path[0] = '\0';
    manager.notify = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (manager.notify < 0 || !os_prepare_fd(manager.notify) ||
        connect(manager.notify, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0) {
        log_warn("the service manager cannot be told", "notify_socket=\"%s\" error=\"%s\"", path, strerror(errno));
        net_close(manager.notify);
        manager.notify = -1;
    }
}

/* How often systemd wants to hear of us: a third of its patience, so that one late word does no harm. */
static void watchdog_begin(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");

    if (manager.notify < 0 || usec == NULL || (pid != NULL && strtol(pid, NULL, 10) != (long)getpid()))
        return;
    unsigned long long ms = strtoull(usec, NULL, 10) / 3000;
    manager.watchdog_ms = ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

void manager_open(const struct conf *conf, bool upgraded)
{
    pid_file_begin(conf, upgraded);
    notify_begin();
    watchdog_begin();
    if (conf->ready_fd == 0 || upgraded)
        return;
    manager.ready = (int)conf->ready_fd;
    if (fcntl(manager.ready, F_SETFD, FD_CLOEXEC) < 0)
        fatal(EX_USAGE, "ready_fd = %d: no such descriptor is open; whoever starts Puerta has to open it", manager.ready);
}

uint32_t manager_watchdog_ms(void)
{
    return manager.watchdog_ms;
}

/* A manager that does not read is no reason to wait: the socket does not block, and what it does not take is lost. */
static void notify(const char *text)
{
    if (manager.notify >= 0 && send(manager.notify, text, strlen(text), MSG_NOSIGNAL) < 0)
        log_warn("the service manager was not told", "text=\"%.*s\" error=\"%s\"", (int)strcspn(text, "\n"), text, strerror(errno));
}

void manager_say(enum manager_word word)
{
    char text[TEXT_CAP];
    struct timespec now;

    switch (word) {
    case MANAGER_READY:
        snprintf(text, sizeof text, "READY=1\nMAINPID=%ld\nSTATUS=serving", (long)getpid());
        notify(text);
        if (manager.ready >= 0) {
            if (write(manager.ready, "\n", 1) != 1)
                log_warn("ready_fd took no newline", "error=\"%s\"", strerror(errno));
            close(manager.ready);
            manager.ready = -1;
        }
        break;
    case MANAGER_ALIVE:
        notify("WATCHDOG=1");
        break;
    case MANAGER_RELOADING:
        clock_gettime(CLOCK_MONOTONIC, &now);
        snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=reading the configuration again",
                 (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000);
        notify(text);
        break;
    case MANAGER_STOPPING:
        notify("STOPPING=1\nSTATUS=stopping");
        break;
    case MANAGER_WORDS:
        must(false);
    }
}

void manager_status(const char *words)
{
    char text[TEXT_CAP];

    snprintf(text, sizeof text, "STATUS=%.200s", words);
    notify(text);
}

/* --------------------------------------------------------------- the end */

void manager_leave(void)
{
    int *each[] = { &manager.notify, &manager.ready, &manager.pid };

    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        if (*each[i] >= 0)
            close(*each[i]); /* a lock is not inherited, so this gives up nobody's */
        *each[i] = -1;
    }
}

void manager_close(void)
{
    /* Emptied first: it may stand in a folder where this process may not remove anything any more. */
    if (manager.pid >= 0 && ftruncate(manager.pid, 0) == 0 && manager.path[0] != '\0')
        (void)unlink(manager.path);
    manager_leave();
}
