/* side.c - connections of the crowd and one poll() loop: messages in, bytes out, a time to wake at.
 *
 *   poll() --> heard() for each whole message, gone(), accepted(); woken() when wake_us has come
 */
#include "crowd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STEP_US 100       /* how finely times are kept */
#define LONGEST 300000    /* steps: half a minute; what takes longer counts as that */

static struct side sides[SIDES];
static struct pollfd polls[SIDES];
static int used;          /* entries that are or have been in use */
static char texts[FILLER + 256];
static uint32_t times[LONGEST + 1];
static uint64_t times_count;

uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void die(const char *what)
{
    perror(what);
    exit(1);
}

/* ------------------------------------------------------- connections */

static struct side *take(int fd, bool listens, bool reply, void *owner)
{
    struct side *s = sides;
    int one = 1, flags = fcntl(fd, F_GETFL);

    while (s < sides + used && s->fd >= 0)
        s++;
    if (s == sides + used && used++ == SIDES) {
        errno = EMFILE;
        die("too many connections");
    }
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    s->fd = fd;
    s->life++;
    s->listens = listens;
    s->reply = reply;
    s->in_len = s->out_at = s->out_len = 0;
    s->wake_us = 0;
    s->owner = owner;
    s->number = 0;
    return s;
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in a = { 0 };

    a.sin_family = AF_INET;
    a.sin_port = htons((uint16_t)port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

struct side *side_listen(int port, void *owner)
{
    const struct sockaddr_in a = loopback(port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 1024) != 0)
        die("listen");
    return take(fd, true, false, owner);
}

struct side *side_connect(int port, void *owner)
{
    const struct sockaddr_in a = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || connect(fd, (const struct sockaddr *)&a, sizeof a) != 0)
        die("connect");
    return take(fd, false, true, owner);
}

void side_close(struct side *s)
{
    close(s->fd);
    s->fd = -1;
}

/* Room for `more` bytes behind what is there. */
static void grow(unsigned char **p, size_t *cap, size_t len, size_t more)
{
    if (len + more <= *cap)
        return;
    *cap = (len + more) * 2;
    *p = realloc(*p, *cap);
    if (*p == NULL)
        die("memory");
}

/* Sends what it can; a connection that has broken is found by reading from it. */
static size_t sent(struct side *s, const unsigned char *p, size_t n)
{
    size_t at = 0;

    while (at < n) {
        ssize_t done = send(s->fd, p + at, n - at, 0);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK ? at : n;
        at += (size_t)done;
    }
    return at;
}

void side_send(struct side *s, const void *p, size_t n)
{
    size_t at = s->out_len == 0 ? sent(s, p, n) : 0;

    grow(&s->out, &s->out_cap, s->out_len, n - at);
    memcpy(s->out + s->out_len, (const unsigned char *)p + at, n - at);
    s->out_len += n - at;
}

static void flush(struct side *s)
{
    s->out_at += sent(s, s->out + s->out_at, s->out_len - s->out_at);
    if (s->out_at == s->out_len)
        s->out_at = s->out_len = 0;
}

/* ---------------------------------------------------------- the loop */

/* Gives each whole message to its owner, who may close the connection meanwhile. */
static void deliver(struct side *s, const struct side_ops *ops)
{
    const uint32_t life = s->life;
    size_t at = 0, length;
    enum wire_status status;
    struct wire w;

    while (s->in_len - at >= WIRE_HEADER) {
        length = wire_header_get(s->in + at).length;
        if (length < WIRE_HEADER || length > MESSAGE) {
            errno = EPROTO;
            die("the length of a message");
        }
        if (s->in_len - at < length)
            break;
        wire_start(&w, s->reply);
        if (wire_feed(&w, s->in + at, length, &status) != length || status != WIRE_WHOLE) {
            fprintf(stderr, "malformed: %s\n", wire_error_text(w.error));
            exit(1);
        }
        ops->heard(s, s->in + at, length, &w);
        if (s->fd < 0 || s->life != life)
            return;
        at += length;
    }
    memmove(s->in, s->in + at, s->in_len - at);
    s->in_len -= at;
}

static void receive(struct side *s, const struct side_ops *ops)
{
    ssize_t n;

    grow(&s->in, &s->in_cap, s->in_len, 16384);
    n = recv(s->fd, s->in + s->in_len, s->in_cap - s->in_len, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK))
        return;
    if (n <= 0) {
        ops->gone(s);
        return;
    }
    s->in_len += (size_t)n;
    deliver(s, ops);
}

static void accept_all(struct side *listener, const struct side_ops *ops)
{
    int fd;

    while ((fd = accept(listener->fd, NULL, NULL)) >= 0)
        ops->accepted(listener, take(fd, false, false, listener->owner));
}

/* How long poll() may sleep, and what it is to look for. */
static int prepare(void)
{
    const uint64_t now = now_us();
    uint64_t first = now + 200000; /* signals and silence are looked after so often at least */

    for (int i = 0; i < used; i++) {
        polls[i].fd = sides[i].fd;
        polls[i].events = (short)(POLLIN | (sides[i].out_len != 0 ? POLLOUT : 0));
        if (sides[i].fd >= 0 && sides[i].wake_us != 0 && sides[i].wake_us < first)
            first = sides[i].wake_us;
    }
    return first <= now ? 0 : (int)((first - now + 999) / 1000);
}

void sides_run(const struct side_ops *ops, const volatile bool *over)
{
    while (!*over) {
        int count, timeout = prepare();
        uint64_t now;

        count = used;
        if (poll(polls, (nfds_t)count, timeout) < 0) {
            if (errno != EINTR)
                die("poll");
            count = 0; /* nothing was looked at; a signal may have changed *over */
        }
        now = now_us();
        for (int i = 0; i < count && !*over; i++) {
            struct side *s = &sides[i];
            if (s->fd >= 0 && s->fd == polls[i].fd && s->out_len != 0 && (polls[i].revents & POLLOUT) != 0)
                flush(s);
            if (s->fd >= 0 && s->fd == polls[i].fd && !s->listens && (polls[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0)
                receive(s, ops);
            if (s->fd >= 0 && s->wake_us != 0 && s->wake_us <= now) {
                s->wake_us = 0;
                ops->woken(s);
            }
        }
        for (int i = 0; i < count; i++)
            if (sides[i].listens && sides[i].fd >= 0 && (polls[i].revents & POLLIN) != 0)
                accept_all(&sides[i], ops);
        if (ops->turned != NULL)
            ops->turned();
    }
}

/* -------------------------------------------------------------- small */

const char *filler(int64_t mark, size_t n)
{
    if (texts[0] == 0)
        for (size_t i = 0; i < sizeof texts; i++)
            texts[i] = (char)('!' + (i * i / 7 + i) % 90);
    return n <= FILLER ? texts + (uint64_t)mark % 251 : NULL;
}

uint32_t dice(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)((*state >> 33) % n);
}

void took(uint64_t us)
{
    times[us / STEP_US < LONGEST ? us / STEP_US : LONGEST]++;
    times_count++;
}

uint64_t took_share(double share)
{
    uint64_t seen = 0, wanted = (uint64_t)((double)times_count * share);

    for (uint64_t i = 0; i <= LONGEST; i++) {
        seen += times[i];
        if (seen >= wanted && seen > 0)
            return (i + 1) * STEP_US;
    }
    return 0;
}
