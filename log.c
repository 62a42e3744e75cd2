/*
 * log.c - logfmt lines to stderr or the system's log, rate-limited at each call site, and the two ways to end the process early.
 *
 *     any room -> LOG_AT(level) -> the call site's gate -> one line on the stack -> one write(2) to stderr
 *                                       |                                      `--> or one datagram to syslogd
 *                                       `- 10 lines a second pass; the rest are counted, and the count is told
 *                                          when the next second's first line comes
 *
 * Nothing here touches the heap: the time is worked out by text.c because libc's own calendar may load time zone
 * files, and stdio is not used because a stream allocates its buffer at the first line. libc's syslog() is not used
 * because it waits where syslogd does not read; a line that cannot go at once goes to stderr.
 */
#include "puerta.h"
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_CAP 1024         /* a longer line is cut: one write of this size is never torn by another process's */
#define LINES_A_SECOND 10

enum log_level log_threshold = LOG_INFO;
int log_socket = -1;
static int log_facility; /* its number in RFC 3164, times 8 */

static const int severities[] = { 3, 4, 6, 7 }; /* of RFC 3164 */

const char *log_level_name(enum log_level level)
{
    static const char *const names[] = { "error", "warn", "info", "debug" };
    return names[level];
}

/* One line being made. Adding beyond the end cuts. */
struct line { char text[LINE_CAP]; size_t len; };

static void line_add(struct line *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void line_addv(struct line *l, const char *fmt, va_list args)
{
    size_t room = sizeof l->text - 1 - l->len; /* one byte stays for the newline */
    int n = vsnprintf(l->text + l->len, room, fmt, args);

    if (n > 0)
        l->len += (size_t)n < room ? (size_t)n : room - 1;
}

static void line_add(struct line *l, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    line_addv(l, fmt, args);
    va_end(args);
}

/* The socket of syslogd stands at one of these, by system; whether one took the connection. */
static bool syslog_connect(void)
{
    static const char *const paths[] = { "/dev/log", "/var/run/log", "/var/run/syslog" };
    struct sockaddr_un a;

    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        memset(&a, 0, sizeof a);
        a.sun_family = AF_UNIX;
        memcpy(a.sun_path, paths[i], strlen(paths[i]) + 1);
        if (connect(log_socket, (struct sockaddr *)&a, sizeof a) == 0)
            return true;
    }
    return false;
}

/* Whether syslogd has taken the line. One that was started anew is a new socket: it is looked for again. */
static bool syslog_send(const struct line *l)
{
    if (send(log_socket, l->text, l->len, MSG_NOSIGNAL) >= 0)
        return true;
    if (errno == EAGAIN || errno == ENOBUFS || errno == EMSGSIZE)
        return false;
    return syslog_connect() && send(log_socket, l->text, l->len, MSG_NOSIGNAL) >= 0;
}

void log_open(int facility)
{
    if (facility <= 0)
        return;
    log_facility = 8 * (facility == 1 ? 3 : 16 + facility - 2);
    log_socket = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (log_socket < 0 || fcntl(log_socket, F_SETFD, FD_CLOEXEC) < 0 || fcntl(log_socket, F_SETFL, O_NONBLOCK) < 0)
        log_warn("no socket to the system's log", "effect=\"lines go to stderr\" error=\"%s\"", strerror(errno));
    else if (!syslog_connect())
        log_warn("the system's log cannot be reached", "effect=\"lines go to stderr until it can\" error=\"%s\"", strerror(errno));
}

/* One line stays one line, whatever a peer has put into a value that was not quoted. */
static void line_send(struct line *l)
{
    for (size_t i = 0; i < l->len; i++)
        if ((unsigned char)l->text[i] < 0x20)
            l->text[i] = '?';
    if (log_socket >= 0 && syslog_send(l))
        return;
    l->text[l->len] = '\n';
    /* A log that cannot be written is no reason to stop serving. */
    if (write(STDERR_FILENO, l->text, l->len + 1) < 0)
        return;
}

static void line_add_time(struct line *l, const struct timespec *now)
{
    const struct text_date d = text_date(now->tv_sec);

    line_add(l, "ts=%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", d.year, d.month, d.day, d.hour, d.minute, d.second, (unsigned)(now->tv_nsec / 1000000));
}

/* For the system's log the time is left out, as OpenBSD's own syslog() does: whoever takes the line knows it. */
static void line_begin(struct line *l, const struct timespec *now, enum log_level level, const char *msg)
{
    l->len = 0;
    if (log_socket >= 0)
        line_add(l, "<%d>puerta[%ld]:", log_facility + severities[level], (long)getpid());
    else
        line_add_time(l, now);
    line_add(l, " level=%s msg=\"%s\"", log_level_name(level), msg);
}

/* Whether this line may be written. Monotonic time, so that a clock set back does not close a gate for hours. */
static bool gate_pass(struct log_gate *gate, uint32_t *dropped)
{
    struct timespec mono = { 0, 0 };

    clock_gettime(CLOCK_MONOTONIC, &mono);
    *dropped = 0;
    if (gate->second != (uint64_t)mono.tv_sec) {
        *dropped = gate->dropped;
        gate->second = (uint64_t)mono.tv_sec;
        gate->lines = gate->dropped = 0;
    }
    if (gate->lines < LINES_A_SECOND) {
        gate->lines++;
        return true;
    }
    if (gate->dropped < UINT32_MAX)
        gate->dropped++;
    return false;
}

void log_write(struct log_gate *gate, enum log_level level, const char *msg, const char *fmt, ...)
{
    int kept = errno; /* callers log between a failed call and their look at errno */
    struct timespec now = { 0, 0 };
    uint32_t dropped = 0;
    struct line line;
    va_list args;

    if (gate != NULL && !gate_pass(gate, &dropped)) {
        errno = kept;
        return;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    if (dropped != 0) {
        line_begin(&line, &now, level, "lines dropped");
        line_add(&line, " of=\"%s\" count=%lu", msg, (unsigned long)dropped);
        line_send(&line);
    }
    line_begin(&line, &now, level, msg);
    line_add(&line, " ");
    va_start(args, fmt);
    line_addv(&line, fmt, args);
    va_end(args);
    if (line.text[line.len - 1] == ' ') /* there was nothing to add */
        line.len--;
    line_send(&line);
    errno = kept;
}

const char *log_quote(const char *text, size_t n, char *out, size_t cap)
{
    static const char hex[] = "0123456789abcdef";
    size_t len = 0;

    if (cap < 3) { /* no room for the two quotes */
        if (cap > 0)
            out[0] = '\0';
        return cap > 0 ? out : "";
    }
    out[len++] = '"';
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)text[i];
        bool plain = b >= 0x20 && b < 0x7f, escaped = b == '"' || b == '\\';

        /* Bytes beyond ASCII count as control bytes: nobody says that a peer sends valid UTF-8. */
        if (cap - len < 2 + (plain ? escaped ? 2u : 1u : 4u))
            break;
        if (!plain) {
            out[len++] = '\\';
            out[len++] = 'x';
            out[len++] = hex[b >> 4];
            out[len++] = hex[b & 15];
        } else {
            if (escaped)
                out[len++] = '\\';
            out[len++] = (char)b;
        }
    }
    out[len++] = '"';
    out[len] = '\0';
    return out;
}

/* To whoever looks at stderr; and to the system's log, where others will look later. */
static void line_last(struct line *l)
{
    int socket_before = log_socket;

    l->text[l->len] = '\0';
    if (log_socket >= 0)
        log_write(NULL, LOG_ERROR, "cannot go on", "error=\"%s\"", l->text);
    log_socket = -1;
    line_send(l);
    log_socket = socket_before;
}

int (*fatal_keep)(int exit_code);

void fatal(int exit_code, const char *fmt, ...)
{
    struct line line = { .len = 0 };
    int (*keep)(int) = fatal_keep;
    va_list args;

    line_add(&line, "puerta: ");
    va_start(args, fmt);
    line_addv(&line, fmt, args);
    va_end(args);
    line_last(&line);
    fatal_keep = NULL; /* what goes wrong there is the end */
    exit(keep != NULL ? keep(exit_code) : exit_code);
}

void must_failed(const char *cond, const char *file, int line_number)
{
    struct line line = { .len = 0 };

    line_add(&line, "puerta: %s:%d: does not hold: %s", file, line_number, cond);
    line_last(&line);
    abort();
}
