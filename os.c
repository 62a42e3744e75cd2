/*
 * os.c - every #ifdef of a system, but for those of os_guard.c: what POSIX leaves open, behind one set of names.
 *
 *   net.c, loop.c, arena.c, parent.c, puerta.c
 *          |
 *        os_*()      knows systems, nothing of proxies
 *          |
 *   Linux: epoll, prctl, TCP_USER_TIMEOUT     BSD, macOS: kqueue     elsewhere: plain POSIX
 */

/* The other rooms see POSIX only. This one needs the system whole, so the build's narrowing is undone. */
#undef _POSIX_C_SOURCE
#define _GNU_SOURCE 1
#define _DARWIN_C_SOURCE 1
#define _NETBSD_SOURCE 1

#include "puerta.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sysexits.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#define OS_EPOLL 1
#include <sys/epoll.h>
#include <sys/prctl.h>
#elif defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__) || defined(__DragonFly__) || \
    defined(__APPLE__)
#define OS_KQUEUE 1
#include <sys/event.h>
#if defined(__FreeBSD__)
#include <sys/procctl.h>
#endif
#endif

#if (defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 25)) || defined(OS_KQUEUE) || (defined(__linux__) && !defined(__GLIBC__))
#define OS_ENTROPY 1
#if defined(__APPLE__) || defined(__GLIBC__)
#include <sys/random.h>
#endif
#endif

#if !defined(MAP_ANONYMOUS) && defined(MAP_ANON)
#define MAP_ANONYMOUS MAP_ANON
#endif

/* ----------------------------------------------------------- descriptors */

bool os_prepare_fd(int fd)
{
    /* Fresh descriptors only: they have no other flags that these calls could lose. */
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return false;
#ifdef SO_NOSIGPIPE
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    return true;
}

static void set_option(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof value); /* unix sockets refuse all of these */
}

void os_keepalive(int fd, uint32_t idle_ms, uint32_t user_timeout_ms)
{
    int idle_s = idle_ms < 1000 ? 1 : (int)(idle_ms / 1000);
    int interval_s = idle_s < 3 ? 1 : idle_s / 3;
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#if defined(TCP_KEEPIDLE)
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_s);
#elif defined(TCP_KEEPALIVE)
    set_option(fd, IPPROTO_TCP, TCP_KEEPALIVE, idle_s);
#endif
#ifdef TCP_KEEPINTVL
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval_s);
#else
    (void)interval_s;
#endif
#ifdef TCP_KEEPCNT
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
#endif
    int limit_ms = user_timeout_ms > INT_MAX ? INT_MAX : (int)user_timeout_ms;
#if defined(TCP_USER_TIMEOUT)
    if (limit_ms > 0)
        set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, limit_ms);
#elif defined(TCP_RXT_CONNDROPTIME)
    if (limit_ms > 0)
        set_option(fd, IPPROTO_TCP, TCP_RXT_CONNDROPTIME, limit_ms < 1000 ? 1 : limit_ms / 1000);
#elif defined(TCP_MAXUNACKTIME)
    if (limit_ms > 0)
        set_option(fd, IPPROTO_TCP, TCP_MAXUNACKTIME, limit_ms < 1000 ? 1 : limit_ms / 1000);
#else
    (void)limit_ms;
#endif
}

size_t os_descriptors(size_t want)
{
    rlim_t wanted = (rlim_t)want; /* signed on FreeBSD */
    struct rlimit now, more;
    if (getrlimit(RLIMIT_NOFILE, &now) < 0)
        return 256;
    if (now.rlim_cur != RLIM_INFINITY && now.rlim_cur < wanted) {
        more = now;
        more.rlim_cur = wanted;
        if (now.rlim_max != RLIM_INFINITY && now.rlim_max < wanted)
            more.rlim_max = wanted; /* root may pass the hard limit */
        if (setrlimit(RLIMIT_NOFILE, &more) < 0) {
            more.rlim_cur = now.rlim_max;
            more.rlim_max = now.rlim_max;
#if defined(__APPLE__) && defined(OPEN_MAX)
            if (more.rlim_cur > OPEN_MAX)
                more.rlim_cur = OPEN_MAX; /* "unlimited" is refused there */
#endif
            if (more.rlim_cur > wanted)
                more.rlim_cur = wanted;
            (void)setrlimit(RLIMIT_NOFILE, &more);
        }
        if (getrlimit(RLIMIT_NOFILE, &now) < 0)
            return 256;
    }
    return now.rlim_cur > INT_MAX ? (size_t)INT_MAX : (size_t)now.rlim_cur;
}

/* ------------------------------------------ the queue of cold descriptors */

#if defined(OS_EPOLL)

int os_cold_open(void)
{
    return epoll_create1(EPOLL_CLOEXEC);
}

bool os_cold_add(int queue, int fd, void *mark)
{
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = EPOLLIN; /* level triggered; an error or a hangup is reported unasked */
    e.data.ptr = mark;
    return epoll_ctl(queue, EPOLL_CTL_ADD, fd, &e) == 0;
}

void os_cold_del(int queue, int fd)
{
    struct epoll_event e; /* ignored, but old kernels want a pointer */
    memset(&e, 0, sizeof e);
    (void)epoll_ctl(queue, EPOLL_CTL_DEL, fd, &e);
}

int os_cold_ready(int queue, void **marks, int cap)
{
    struct epoll_event events[COLD_PER_TURN];
    int n = epoll_wait(queue, events, cap < COLD_PER_TURN ? cap : COLD_PER_TURN, 0);
    for (int i = 0; i < n; i++)
        marks[i] = events[i].data.ptr;
    return n < 0 ? 0 : n;
}

#elif defined(OS_KQUEUE)

#if defined(__NetBSD__)
typedef size_t event_count; /* what kevent() takes there */
#else
typedef int event_count;
#endif

static bool cold_change(int queue, int fd, void *mark, bool add)
{
    struct kevent e;
    memset(&e, 0, sizeof e);
    e.ident = (uintptr_t)fd;
    e.filter = EVFILT_READ;
    e.flags = add ? EV_ADD : EV_DELETE;
#if defined(__NetBSD__) && __NetBSD_Version__ < 1000000000
    e.udata = (intptr_t)mark;
#else
    e.udata = mark;
#endif
    return kevent(queue, &e, 1, NULL, 0, NULL) == 0;
}

int os_cold_open(void)
{
    int queue = kqueue();
    if (queue >= 0)
        (void)fcntl(queue, F_SETFD, FD_CLOEXEC);
    return queue;
}

bool os_cold_add(int queue, int fd, void *mark)
{
    return cold_change(queue, fd, mark, true);
}

void os_cold_del(int queue, int fd)
{
    (void)cold_change(queue, fd, NULL, false);
}

int os_cold_ready(int queue, void **marks, int cap)
{
    struct kevent events[COLD_PER_TURN];
    struct timespec now = { 0, 0 };
    int n = kevent(queue, NULL, 0, events, (event_count)(cap < COLD_PER_TURN ? cap : COLD_PER_TURN), &now);
    for (int i = 0; i < n; i++)
        marks[i] = (void *)events[i].udata;
    return n < 0 ? 0 : n;
}

#else

int os_cold_open(void)
{
    return -1;
}

bool os_cold_add(int queue, int fd, void *mark)
{
    (void)queue, (void)fd, (void)mark;
    return false;
}

void os_cold_del(int queue, int fd)
{
    (void)queue, (void)fd;
}

int os_cold_ready(int queue, void **marks, int cap)
{
    (void)queue, (void)marks, (void)cap;
    return 0;
}

#endif

int os_open_no_link(const char *path, int flags)
{
    return open(path, flags | O_NOFOLLOW, 0644);
}

/* ----------------------------------------- descriptors for another process */

/* Room for those of one message, aligned as the system wants it. */
union control {
    struct cmsghdr head;
    unsigned char room[CMSG_SPACE(HAND_FDS * sizeof(int))];
};

ssize_t os_give(int fd, const void *bytes, size_t n, const int *fds, int count)
{
    struct iovec iov = { (void *)(uintptr_t)bytes, n };
    struct msghdr m;
    union control control;
    ssize_t n_sent;
    int flags = 0;
    memset(&m, 0, sizeof m);
    memset(&control, 0, sizeof control);
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    if (count > 0) {
        m.msg_control = control.room;
        m.msg_controllen = (unsigned)CMSG_SPACE((size_t)count * sizeof(int)); /* a size_t here, a socklen_t there */
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = (unsigned)CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(&control.head), fds, (size_t)count * sizeof(int));
    }
#ifdef MSG_NOSIGNAL
    flags = MSG_NOSIGNAL;
#endif
    n_sent = sendmsg(fd, &m, flags);
    if (n_sent < 0 && (errno == ETOOMANYREFS || errno == EMSGSIZE))
        errno = EAGAIN;
    return n_sent;
}

ssize_t os_get(int fd, void *bytes, size_t cap, int fds[HAND_FDS], int *count)
{
    struct iovec iov = { bytes, cap };
    struct msghdr m;
    union control control;
    struct cmsghdr *c;
    ssize_t n;
    *count = 0;
    memset(&m, 0, sizeof m);
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    m.msg_control = control.room;
    m.msg_controllen = sizeof control.room;
    n = recvmsg(fd, &m, 0);
    c = n < 0 ? NULL : CMSG_FIRSTHDR(&m); /* os_give sends one */
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        *count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), (size_t)*count * sizeof(int));
    }
    return n;
}

/* --------------------------------------------------- processes and memory */

void os_harden(void)
{
#if defined(__linux__) && defined(PR_SET_NO_NEW_PRIVS)
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
#endif
}

void os_die_with_parent(void)
{
#if defined(__linux__)
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
#elif defined(__FreeBSD__) && defined(PROC_PDEATHSIG_CTL)
    int signal_number = SIGKILL;
    (void)procctl(P_PID, 0, PROC_PDEATHSIG_CTL, &signal_number);
#endif
}

void os_lockable(size_t bytes)
{
#ifdef RLIMIT_MEMLOCK
    rlim_t wanted = (rlim_t)bytes;
    struct rlimit now;
    if (getrlimit(RLIMIT_MEMLOCK, &now) == 0 && now.rlim_cur != RLIM_INFINITY && now.rlim_cur < wanted) {
        now.rlim_cur = wanted;
        now.rlim_max = now.rlim_max != RLIM_INFINITY && now.rlim_max < wanted ? wanted : now.rlim_max;
        (void)setrlimit(RLIMIT_MEMLOCK, &now);
    }
#else
    (void)bytes;
#endif
}

void *os_map(size_t bytes)
{
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED ? NULL : block;
}

void *os_map_shared(size_t bytes)
{
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED ? NULL : block;
}

bool os_prefault(void *block, size_t bytes)
{
    long page = sysconf(_SC_PAGESIZE);
    volatile unsigned char *p = block;
    for (size_t at = 0; at < bytes; at += page > 0 ? (size_t)page : 4096)
        p[at] = p[at]; /* a write: reading alone would only map the shared page of zeros */
    return mlock(block, bytes) == 0;
}

#ifdef PUERTA_FUZZ /* a run of the fuzzer can be repeated */
void os_random(void *out, size_t n)
{
    memset(out, 0x5a, n);
}
#else
void os_random(void *out, size_t n)
{
#ifdef OS_ENTROPY /* which needs no file: there may be none inside a chroot */
    must(n <= 256);
    if (getentropy(out, n) == 0) {
        return;
    }
#endif
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, out, n) : -1;
    if (fd >= 0) {
        close(fd);
    }
    if (got != (ssize_t)n) {
        fatal(EX_OSERR, "no random bytes from /dev/urandom");
    }
}
#endif

/* --------------------------------------------------------------- terminal */

bool os_terminal(int fd, unsigned *columns, unsigned *rows)
{
#ifdef TIOCGWINSZ
    struct winsize size;
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
        *columns = size.ws_col;
        *rows = size.ws_row;
        return true;
    }
#endif
    (void)fd, (void)columns, (void)rows;
    return false;
}
