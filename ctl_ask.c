/*
 * ctl_ask.c - one question to the admin listener of a running Puerta, and its answer: a blocking client of HTTP.
 *
 *   GET or POST --net.c, one connection, one deadline--> admin.c of the process that serves
 *   answer --> all of it --> head judged, chunks joined in place --> jread.c
 *
 * Whoever listens at that address may answer anything: nothing is taken for granted.
 */
#include "ctl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEADLINE_MS 10000
#define HEAD_CAP 2048

/* ------------------------------------------------------------- what comes */

static bool lacks(struct ctl_answer *out, const char *why)
{
    snprintf(out->why, sizeof out->why, "%s", why);
    return false;
}

/* The value of a field in a head that ends with an empty line; NULL: it has none. */
static const char *field(const char *head, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = strstr(head, "\r\n"); p != NULL; p = strstr(p, "\r\n")) {
        size_t i = 0;
        p += 2;
        while (i < n && (p[i] == name[i] || (p[i] >= 'A' && p[i] <= 'Z' && p[i] + 32 == name[i]))) {
            i++;
        }
        if (i == n && p[n] == ':') {
            p += n + 1;
            return p + strspn(p, " \t");
        }
    }
    return NULL;
}

/* A number of that base at p, below CTL_ANSWER_MAX, and what stands behind it; SIZE_MAX: it is none. */
static size_t number_at(const char **p, int base)
{
    char *end;
    unsigned long n;
    if (strspn(*p, base == 16 ? "0123456789abcdefABCDEF" : "0123456789") == 0) {
        return SIZE_MAX;
    }
    n = strtoul(*p, &end, base);
    *p = end;
    return n <= CTL_ANSWER_MAX ? n : SIZE_MAX;
}

/* Joins the chunks of a body in place. Its length; SIZE_MAX: they are not whole. */
static size_t joined(char *body, size_t n)
{
    const char *p = body, *end = body + n;
    size_t len = 0;
    for (;;) {
        size_t part = number_at(&p, 16);
        p = part != SIZE_MAX ? strstr(p, "\r\n") : NULL;
        if (p == NULL || (size_t)(end - p) < part + 4) {
            return SIZE_MAX;
        }
        p += 2;
        if (part == 0) {
            return len;
        }
        memmove(body + len, p, part);
        len += part;
        p += part;
        if (memcmp(p, "\r\n", 2) != 0) {
            return SIZE_MAX;
        }
        p += 2;
    }
}

/* All that has come, with a NUL behind it: its status, and the JSON of its body. */
static bool unwrap(struct ctl_answer *out, size_t n)
{
    char *head = out->bytes, *body = strstr(head, "\r\n\r\n");
    const char *length, *coding;
    size_t len;
    if (strncmp(head, "HTTP/1.", 7) != 0 || body == NULL || head[8] != ' ' || strspn(head + 9, "0123456789") != 3) {
        return lacks(out, "it does not answer as an admin listener does");
    }
    body[2] = '\0'; /* the head's last line keeps its end */
    body += 4;
    len = n - (size_t)(body - head);
    coding = field(head, "transfer-encoding");
    length = field(head, "content-length");
    if (coding != NULL) {
        len = joined(body, len);
    } else if (length != NULL) {
        size_t said = number_at(&length, 10);
        len = said <= len ? said : SIZE_MAX;
    }
    if (len == SIZE_MAX) {
        return lacks(out, "its answer is not whole");
    }
    out->status = (head[9] - '0') * 100 + (head[10] - '0') * 10 + head[11] - '0';
    jread_text(body, len, &out->json);
    return true;
}

/* -------------------------------------------------------------- connection */

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Until fd is ready, or the deadline is over: false. */
static bool ready(int fd, short events, int64_t by_ms)
{
    for (;;) {
        struct pollfd p = { .fd = fd, .events = events };
        int64_t left = by_ms - now_ms();
        int n = left > 0 ? poll(&p, 1, (int)left) : 0;
        if (n > 0 || left <= 0) {
            return n > 0;
        }
    }
}

static bool send_all(int fd, const char *p, size_t n, int64_t by_ms)
{
    while (n > 0) {
        struct iovec iov = { (void *)(uintptr_t)p, n };
        ssize_t sent = ready(fd, POLLOUT, by_ms) ? net_send(fd, &iov, 1) : -1;
        if (sent < 0 && (errno != EAGAIN || now_ms() >= by_ms)) {
            return false;
        }
        p += sent > 0 ? sent : 0;
        n -= sent > 0 ? (size_t)sent : 0;
    }
    return true;
}

/* All that comes up to the end of the connection. */
static bool receive_all(int fd, struct ctl_answer *out, int64_t by_ms)
{
    size_t len = 0;
    while (len < CTL_ANSWER_MAX - 1) {
        struct iovec iov = { out->bytes + len, CTL_ANSWER_MAX - 1 - len };
        ssize_t got = ready(fd, POLLIN, by_ms) ? net_receive(fd, &iov, 1) : -1;
        if (now_ms() >= by_ms) {
            return lacks(out, "no answer in time");
        }
        if (got == 0) {
            out->bytes[len] = '\0';
            return unwrap(out, len);
        }
        if (got < 0 && errno != EAGAIN) {
            return lacks(out, strerror(errno));
        }
        len += got > 0 ? (size_t)got : 0;
    }
    return lacks(out, "its answer is too long");
}

bool ctl_ask(const struct ctl_where *where, const char *method, const char *target, struct ctl_answer *out)
{
    char head[HEAD_CAP];
    struct net_sizes sizes = { 0, 0 };
    int64_t by_ms = now_ms() + DEADLINE_MS;
    bool path = where->at.u.sa.sa_family == AF_UNIX, good;
    int fd = net_dial(&where->at, &sizes), failure = errno;
    int n = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: 0\r\n%s%s%s\r\n", method, target,
                     path ? "localhost" : where->text, where->token[0] != '\0' ? "Authorization: Bearer " : "", where->token,
                     where->token[0] != '\0' ? "\r\n" : "");
    must(n > 0 && (size_t)n < sizeof head);
    out->status = 0;
    out->json = (struct jvalue){ NULL, 0 };
    if (fd < 0) {
        return lacks(out, strerror(failure));
    }
    failure = !ready(fd, POLLOUT, by_ms) ? ETIMEDOUT : net_dialed(fd);
    if (failure != 0) {
        good = lacks(out, strerror(failure));
    } else if (!send_all(fd, head, (size_t)n, by_ms)) {
        good = lacks(out, "it does not take the request");
    } else {
        good = receive_all(fd, out, by_ms);
    }
    net_close(fd);
    return good;
}
