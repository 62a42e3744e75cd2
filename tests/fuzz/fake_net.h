/* fake_net.h - the kernel's side of every socket, in memory: the program's own poll, send, recv and connect land here.
 *
 *   loop.c net.c --poll socket connect accept recv send shutdown close--> struct sock --far_gets()--> the test
 *                                                     the test --sock_say()--> struct sock.in --> recv
 *
 * Defined in the test's own program, these functions take the place of libc's. Descriptors from FD_FIRST on are ours;
 * of others (the loop's pipe) poll tells nothing. Everything happens when the test says so, and the same each time.
 */
#ifndef PUERTA_FAKE_NET_H
#define PUERTA_FAKE_NET_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define FD_FIRST 5000
#define FD_LISTENER (FD_FIRST - 1)
#define SOCKS 48
#define STREAM_CAP (1u << 18) /* bytes on their way in one direction */

#define MUST(cond) ((cond) ? (void)0 : must_failed(#cond, __FILE__, __LINE__))

enum sock_state { SOCK_FREE, SOCK_FRESH, SOCK_DIALING, SOCK_KNOCKING /* in the listener's queue */, SOCK_OPEN };

struct sock {
    enum sock_state state;
    int far;                     /* who is at the other end: the test's number */
    int dial_error;              /* EINPROGRESS: no answer yet */
    bool ended, reset;           /* what the other end did */
    bool shut;                   /* the program sends no more */
    bool asking, probe, feed;    /* of a node's end; feed: it subscribes to something */
    bool multi, dirty;           /* the same: in a transaction; one of its commands was refused */
    bool watching, touched;
    bool keyed;                  /* a command queued there has a key */
    bool swallowed;              /* what it got has been answered with anything, or nothing */
    bool blocked, resp3;         /* its head waits for data; it has said HELLO 3 */
    uint64_t until_us;           /* and so long; 0 = for ever */
    unsigned id;                 /* what CLIENT ID has told; 0 = nothing yet */
    unsigned char subs[3][8];    /* what it subscribes to, by kind */
    size_t block_len;            /* of the commands queued there, and how many */
    unsigned block_count;
    size_t piece;                /* bytes that one recv gives at most */
    size_t room;                 /* bytes that the other end still takes */
    size_t in_at, in_len;        /* towards the program */
    size_t out_at, out_len;      /* from the program, not yet consumed by the test */
    unsigned char in[STREAM_CAP], out[STREAM_CAP];
};

static struct sock socks[SOCKS];
static int sock_events;          /* what the last poll told */
static uint32_t far_address;     /* from where somebody knocks: IPv4; 0: by a unix socket */

/* The test's part. */
static int far_dialed(uint16_t port, int *far);  /* 0, ECONNREFUSED, or EINPROGRESS: silence */
static void far_gets(struct sock *s);             /* bytes were put behind s->out */
static void far_closed(struct sock *s);           /* the program closed it */

static struct sock *sock_of(int fd)
{
    return fd >= FD_FIRST && fd < FD_FIRST + SOCKS ? &socks[fd - FD_FIRST] : NULL;
}

static struct sock *sock_take(enum sock_state state)
{
    for (int i = 0; i < SOCKS; i++) {
        struct sock *s = &socks[i];
        if (s->state == SOCK_FREE) {
            memset(s, 0, offsetof(struct sock, in));
            s->state = state;
            s->piece = s->room = SIZE_MAX;
            return s;
        }
    }
    return NULL;
}

/* The other end sends; false when so much does not fit. */
static bool sock_say(struct sock *s, const void *p, size_t n)
{
    if (n > STREAM_CAP - s->in_len) {
        return false;
    }
    memcpy(s->in + s->in_len, p, n);
    s->in_len += n;
    return true;
}

/* ------------------------------------------------- in the place of libc's */

static short sock_ready(const struct sock *s)
{
    short events = 0;
    if (s->state == SOCK_DIALING) {
        return s->dial_error == EINPROGRESS ? 0 : s->dial_error == 0 ? POLLOUT : POLLOUT | POLLERR | POLLHUP;
    }
    if (s->state == SOCK_OPEN) {
        events |= s->in_at < s->in_len || s->ended || s->reset ? POLLIN : 0;
        events |= (s->room > 0 && s->out_len < STREAM_CAP) || s->reset ? POLLOUT : 0;
        events |= s->reset ? POLLERR | POLLHUP : s->ended && s->shut ? POLLHUP : 0;
    }
    return events;
}

static bool somebody_knocks(void)
{
    for (int i = 0; i < SOCKS; i++) {
        if (socks[i].state == SOCK_KNOCKING) {
            return true;
        }
    }
    return false;
}

int poll(struct pollfd *list, nfds_t count, int timeout)
{
    (void)timeout; /* the test moves the clock */
    sock_events = 0;
    for (nfds_t i = 0; i < count; i++) {
        const struct sock *s = sock_of(list[i].fd);
        list[i].revents = 0;
        if (s != NULL) {
            MUST(s->state != SOCK_FREE);
            list[i].revents = (short)(sock_ready(s) & (list[i].events | POLLERR | POLLHUP));
        } else if (list[i].fd == FD_LISTENER && somebody_knocks()) {
            list[i].revents = (short)(POLLIN & list[i].events);
        }
        sock_events += list[i].revents != 0;
    }
    return sock_events;
}

int socket(int domain, int type, int protocol)
{
    struct sock *s = sock_take(SOCK_FRESH);
    (void)domain, (void)type, (void)protocol;
    if (s == NULL) {
        errno = EMFILE;
        return -1;
    }
    return FD_FIRST + (int)(s - socks);
}

int connect(int fd, const struct sockaddr *a, socklen_t len)
{
    struct sock *s = sock_of(fd);
    struct sockaddr_in in4 = { .sin_port = 0 };
    MUST(s != NULL && s->state == SOCK_FRESH);
    if (a->sa_family == AF_INET && len >= sizeof in4) {
        memcpy(&in4, a, sizeof in4);
    }
    s->state = SOCK_DIALING;
    s->dial_error = far_dialed(ntohs(in4.sin_port), &s->far);
    errno = EINPROGRESS;
    return -1;
}

int accept(int fd, struct sockaddr *restrict a, socklen_t *restrict len)
{
    struct sockaddr_in in4 = { .sin_family = AF_INET, .sin_addr = { htonl(far_address) } };
    MUST(fd == FD_LISTENER);
    for (int i = 0; i < SOCKS; i++) {
        if (socks[i].state == SOCK_KNOCKING) {
            socks[i].state = SOCK_OPEN;
            *len = far_address != 0 ? sizeof in4 : 0;
            memcpy(a, &in4, *len);
            return FD_FIRST + i;
        }
    }
    errno = EAGAIN;
    return -1;
}

int getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict len)
{
    struct sock *s = sock_of(fd);
    MUST(s != NULL && s->state == SOCK_DIALING && level == SOL_SOCKET && name == SO_ERROR && *len == sizeof(int));
    memcpy(value, &s->dial_error, sizeof(int));
    if (s->dial_error == 0) {
        s->state = SOCK_OPEN;
    }
    return 0;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    (void)fd, (void)level, (void)name, (void)value, (void)len;
    return 0;
}

int fcntl(int fd, int command, ...)
{
    (void)fd, (void)command;
    return 0;
}

ssize_t recv(int fd, void *to, size_t cap, int flags)
{
    struct sock *s = sock_of(fd);
    size_t n;
    (void)flags;
    MUST(s != NULL && s->state == SOCK_OPEN);
    if (s->reset) {
        errno = ECONNRESET;
        return -1;
    }
    n = s->in_len - s->in_at;
    n = n < cap ? n : cap;
    n = n < s->piece ? n : s->piece;
    if (n == 0 && cap > 0 && !s->ended) {
        errno = EAGAIN;
        return -1;
    }
    memcpy(to, s->in + s->in_at, n);
    s->in_at += n;
    if (s->in_at == s->in_len) {
        s->in_at = s->in_len = 0;
    }
    return (ssize_t)n;
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    return recv(fd, m->msg_iov[0].iov_base, m->msg_iov[0].iov_len, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    struct sock *s = sock_of(fd);
    size_t sent = 0;
    (void)flags;
    MUST(s != NULL && s->state == SOCK_OPEN && !s->shut);
    if (s->reset) {
        errno = EPIPE;
        return -1;
    }
    for (size_t i = 0; i < (size_t)m->msg_iovlen; i++) {
        size_t n = m->msg_iov[i].iov_len, room = STREAM_CAP - s->out_len;
        room = room < s->room ? room : s->room;
        n = n < room ? n : room;
        memcpy(s->out + s->out_len, m->msg_iov[i].iov_base, n);
        s->out_len += n;
        sent += n;
        s->room -= s->room == SIZE_MAX ? 0 : n;
    }
    if (sent == 0) {
        errno = EAGAIN;
        return -1;
    }
    far_gets(s);
    return (ssize_t)sent;
}

ssize_t send(int fd, const void *p, size_t n, int flags)
{
    struct iovec iov = { (void *)(uintptr_t)p, n };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
    return sendmsg(fd, &m, flags);
}

int shutdown(int fd, int how)
{
    struct sock *s = sock_of(fd);
    MUST(s != NULL && how == SHUT_WR);
    s->shut = true;
    return 0;
}

int close(int fd)
{
    struct sock *s = sock_of(fd);
    if (s != NULL) {
        MUST(s->state != SOCK_FREE);
        far_closed(s);
        s->state = SOCK_FREE;
    }
    return 0;
}

#endif
