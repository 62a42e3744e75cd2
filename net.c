/*
 * net.c - addresses as text, and the thin wrapper through which every call on a socket goes.
 *
 *    conn.c   parent.c   puerta.c       own the descriptors they are given
 *        \       |       /
 *         net_*() calls  <---- PUERTA_FAULTS (test build): every Nth one fails
 *               |
 *        the system's sockets           os.c has what differs between systems
 */
#include "puerta.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef MSG_NOSIGNAL
#define SEND_FLAGS MSG_NOSIGNAL
#else
#define SEND_FLAGS 0 /* puerta.c ignores SIGPIPE for the whole process */
#endif

/* ---------------------------------------------------- faults on purpose */

enum call { CALL_ACCEPT, CALL_DIAL, CALL_RECEIVE, CALL_SEND, CALLS };
#define SHORT_COUNT (-1)

#ifdef PUERTA_FAULTS

#define KINDS 5

static const int fault_kinds[CALLS][KINDS] = { /* 0 ends a row */
    [CALL_ACCEPT] = { EINTR, EAGAIN, EMFILE, ECONNABORTED, 0 },
    [CALL_DIAL] = { EINTR, EMFILE, ECONNRESET, 0, 0 },
    [CALL_RECEIVE] = { EINTR, EAGAIN, SHORT_COUNT, ECONNRESET, 0 },
    [CALL_SEND] = { EINTR, EAGAIN, SHORT_COUNT, ENOBUFS, ECONNRESET },
};

static struct {
    bool read;
    unsigned long every, limit, calls;
    unsigned next[CALLS];
} faults;

static unsigned long fault_option(const char *text, const char *name)
{
    const char *at = text == NULL ? NULL : strstr(text, name);
    return at == NULL ? 0 : strtoul(at + strlen(name), NULL, 10);
}

static void faults_read(void)
{
    const char *text = getenv("PUERTA_FAULTS");
    faults.read = true;
    faults.every = fault_option(text, "every=");
    faults.limit = fault_option(text, "limit=");
    unsigned long seed = fault_option(text, "seed=");
    faults.calls = faults.every == 0 ? 0 : seed % faults.every;
    for (int i = 0; i < CALLS; i++)
        faults.next[i] = (unsigned)(seed % KINDS);
}

/* What this call must fail with: 0 = it may go on. */
static int fault(enum call call)
{
    if (!faults.read)
        faults_read();
    if (faults.every == 0 || faults.limit == 0 || ++faults.calls % faults.every != 0)
        return 0;
    faults.limit--;
    unsigned i = faults.next[call] % KINDS;
    if (fault_kinds[call][i] == 0)
        i = 0;
    faults.next[call] = i + 1;
    return fault_kinds[call][i];
}

#else

static inline int fault(enum call call)
{
    (void)call;
    return 0;
}

#endif

/* ------------------------------------------------------------ addresses */

static bool port_parse(const char *text, size_t n, uint16_t *port)
{
    uint32_t value = 0;
    if (n == 0 || n > 5)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (uint32_t)(text[i] - '0');
    }
    *port = (uint16_t)value;
    return value > 0 && value <= 65535;
}

static bool host_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '-' || c == '.' || c == '_' || c == ':' || c == '%';
}

bool host_port_split(const char *text, size_t n, char host[HOST_CAP], uint16_t *port, const char **why)
{
    size_t colon = n;
    while (colon > 0 && text[colon - 1] != ':')
        colon--;
    if (colon == 0) {
        *why = "the port is missing; HOST:PORT is wanted";
        return false;
    }
    if (!port_parse(text + colon, n - colon, port)) {
        *why = "a port is a number from 1 to 65535";
        return false;
    }
    size_t len = colon - 1;
    if (len >= 1 && text[0] == '[') {
        if (text[len - 1] != ']') {
            *why = "the bracket of the address is not closed";
            return false;
        }
        text++;
        len -= 2;
    }
    if (len == 0 || len >= HOST_CAP) {
        *why = len == 0 ? "the host is missing; HOST:PORT is wanted" : "the host is longer than 255 bytes";
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (!host_byte(text[i])) {
            *why = "the host has a character that no host name or address has";
            return false;
        }
        host[i] = text[i];
    }
    host[len] = '\0';
    return true;
}

/* "fe80::1%eth0": a link-local address means nothing without its interface. */
static bool numeric6(const char *host, struct in6_addr *out, uint32_t *scope)
{
    char plain[INET6_ADDRSTRLEN];
    const char *percent = strchr(host, '%');
    size_t len = percent == NULL ? strlen(host) : (size_t)(percent - host);
    if (len >= sizeof plain)
        return false;
    memcpy(plain, host, len);
    plain[len] = '\0';
    *scope = 0;
    if (percent != NULL) {
        char *end;
        unsigned long number = strtoul(percent + 1, &end, 10);
        *scope = percent[1] != '\0' && *end == '\0' ? (uint32_t)number : if_nametoindex(percent + 1);
        if (*scope == 0)
            return false;
    }
    return inet_pton(AF_INET6, plain, out) == 1;
}

bool address_numeric(const char *host, uint16_t port, struct address *out)
{
    struct in_addr four;
    struct in6_addr six;
    uint32_t scope;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, host, &four) == 1) {
        out->len = sizeof out->u.in4;
        out->u.in4.sin_family = AF_INET;
        out->u.in4.sin_port = htons(port);
        out->u.in4.sin_addr = four;
        return true;
    }
    if (numeric6(host, &six, &scope)) {
        out->len = sizeof out->u.in6;
        out->u.in6.sin6_family = AF_INET6;
        out->u.in6.sin6_port = htons(port);
        out->u.in6.sin6_addr = six;
        out->u.in6.sin6_scope_id = scope;
        return true;
    }
    return false;
}

bool address_parse(const char *text, struct address *out, const char **why)
{
    char host[HOST_CAP];
    uint16_t port;
    memset(out, 0, sizeof *out);
    if (strncmp(text, "unix:", 5) == 0) {
        size_t len = strlen(text + 5);
        if (len == 0 || len >= sizeof out->u.un.sun_path) {
            *why = len == 0 ? "the path of the unix socket is missing" : "the path of the unix socket is too long";
            return false;
        }
        out->len = sizeof out->u.un;
        out->u.un.sun_family = AF_UNIX;
        memcpy(out->u.un.sun_path, text + 5, len + 1);
        return true;
    }
    if (!host_port_split(text, strlen(text), host, &port, why))
        return false;
    if (!address_numeric(host, port, out)) {
        *why = "not a numeric address such as 127.0.0.1:6379, [::1]:6379 or unix:/path";
        return false;
    }
    return true;
}

const char *address_text(const struct address *a, char out[ADDRESS_TEXT])
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (a->len == 0) {
        snprintf(out, ADDRESS_TEXT, "none");
    } else if (a->u.sa.sa_family == AF_UNIX) {
        /* The peer of a unix socket has no path at all. */
        bool path = a->len > offsetof(struct sockaddr_un, sun_path);
        snprintf(out, ADDRESS_TEXT, "unix:%.*s", path ? (int)sizeof a->u.un.sun_path : 0, a->u.un.sun_path);
    } else if (a->u.sa.sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = &a->u.in6;
        inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof host);
        if (six->sin6_scope_id != 0)
            snprintf(out, ADDRESS_TEXT, "[%s%%%u]:%u", host, (unsigned)six->sin6_scope_id, ntohs(six->sin6_port));
        else
            snprintf(out, ADDRESS_TEXT, "[%s]:%u", host, ntohs(six->sin6_port));
    } else {
        inet_ntop(AF_INET, &a->u.in4.sin_addr, host, sizeof host);
        snprintf(out, ADDRESS_TEXT, "%s:%u", host, ntohs(a->u.in4.sin_port));
    }
    return out;
}

static bool is_mapped(const struct address *a)
{
    return a->u.sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->u.in6.sin6_addr);
}

bool address_near(const struct address *a)
{
    static const unsigned char local4 = 127;
    const unsigned char *p = a->u.in6.sin6_addr.s6_addr;
    if (a->foreign)
        return false;
    if (a->u.sa.sa_family == AF_INET)
        return memcmp(&a->u.in4.sin_addr, &local4, 1) == 0;
    return a->u.sa.sa_family != AF_INET6 || IN6_IS_ADDR_LOOPBACK(&a->u.in6.sin6_addr) || (is_mapped(a) && p[12] == 127);
}

bool address_source(const struct address *a, uint64_t *source)
{
    const unsigned char *p = a->u.in6.sin6_addr.s6_addr;
    *source = 0;
    if (a->u.sa.sa_family == AF_INET || is_mapped(a)) {
        uint32_t four;
        memcpy(&four, a->u.sa.sa_family == AF_INET ? (const void *)&a->u.in4.sin_addr : p + 12, 4);
        *source = UINT64_C(0xffff00000000) | ntohl(four); /* no network in use begins with this */
        return true;
    }
    for (int i = 0; i < 8 && a->u.sa.sa_family == AF_INET6; i++)
        *source = *source << 8 | p[i];
    return a->u.sa.sa_family == AF_INET6;
}

/* -------------------------------------------------------------- sockets */

static void set_option(int fd, int level, int name, int value)
{
    /* Refused options cost speed, never correctness. */
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

static void set_sizes(int fd, const struct net_sizes *sizes)
{
    if (sizes != NULL && sizes->receive > 0)
        set_option(fd, SOL_SOCKET, SO_RCVBUF, sizes->receive);
    if (sizes != NULL && sizes->send > 0)
        set_option(fd, SOL_SOCKET, SO_SNDBUF, sizes->send);
}

/* Closes fd, keeping the errno that made it useless. */
static int give_up(int fd)
{
    int why = errno;
    (void)close(fd);
    errno = why;
    return -1;
}

static int open_socket(const struct address *a, const struct net_sizes *sizes)
{
    int fd = socket(a->u.sa.sa_family, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;
    if (!os_prepare_fd(fd))
        return give_up(fd);
    set_sizes(fd, sizes); /* before connect and listen: the window's scale is agreed on at the handshake */
    return fd;
}

/* A process that was killed leaves its socket file behind. It is taken away only when it is a socket
 * that nobody answers on. */
static bool unix_clear(const struct address *a)
{
    struct stat st;
    if (lstat(a->u.un.sun_path, &st) < 0)
        return errno == ENOENT;
    if (!S_ISSOCK(st.st_mode)) {
        errno = EEXIST;
        return false;
    }
    int probe = open_socket(a, NULL);
    if (probe < 0)
        return false;
    bool refused = connect(probe, &a->u.sa, a->len) < 0 && errno == ECONNREFUSED;
    (void)close(probe);
    if (refused)
        return unlink(a->u.un.sun_path) == 0;
    errno = EADDRINUSE;
    return false;
}

int net_listen(const struct address *a, int backlog, const struct net_sizes *sizes)
{
    if (a->u.sa.sa_family == AF_UNIX && !unix_clear(a))
        return -1;
    int fd = open_socket(a, sizes);
    if (fd < 0)
        return -1;
    if (a->u.sa.sa_family != AF_UNIX)
        set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (a->u.sa.sa_family == AF_INET6)
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1); /* so that 0.0.0.0 and :: may both be configured */
    if (bind(fd, &a->u.sa, a->len) < 0 || listen(fd, backlog) < 0)
        return give_up(fd);
    return fd;
}

static int accept_once(int listener, struct address *peer)
{
    int failure = fault(CALL_ACCEPT);
    if (failure != 0) {
        errno = failure;
        return -1;
    }
    peer->len = sizeof peer->u;
    return accept(listener, &peer->u.sa, &peer->len);
}

int net_accept(int listener, struct address *peer, const struct net_sizes *sizes)
{
    int fd;
    memset(peer, 0, sizeof *peer);
    do
        fd = accept_once(listener, peer);
    while (fd < 0 && (errno == EINTR || errno == ECONNABORTED)); /* one that has gone says nothing about the next */
    if (fd < 0)
        return -1;
    if (peer->len > sizeof peer->u)
        peer->len = sizeof peer->u;
    if (peer->len == 0) { /* some systems give no address for a unix peer */
        peer->len = offsetof(struct sockaddr_un, sun_path);
        peer->u.sa.sa_family = AF_UNIX;
    }
    if (!os_prepare_fd(fd))
        return give_up(fd);
    set_sizes(fd, sizes);
    if (peer->u.sa.sa_family != AF_UNIX)
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    return fd;
}

int net_dial(const struct address *a, const struct net_sizes *sizes)
{
    int failure = fault(CALL_DIAL);
    if (failure != 0 && failure != EINTR) {
        errno = failure;
        return -1;
    }
    int fd = open_socket(a, sizes);
    if (fd < 0)
        return -1;
    if (a->u.sa.sa_family != AF_UNIX)
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    /* An interrupted connect goes on by itself, and asking again says EALREADY or EISCONN. */
    if (connect(fd, &a->u.sa, a->len) < 0 && errno != EINPROGRESS && errno != EINTR)
        return give_up(fd);
    return fd;
}

int net_dialed(int fd)
{
    int failure = 0;
    socklen_t len = sizeof failure;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &len) < 0)
        return errno;
    return failure;
}

static struct msghdr message(struct iovec *iov, int count)
{
    struct msghdr m;
    memset(&m, 0, sizeof m);
    m.msg_iov = iov;
    m.msg_iovlen = (unsigned short)count; /* an int here, a size_t there: this fits both */
    return m;
}

static ssize_t receive_once(int fd, struct iovec *iov, int count)
{
    int failure = fault(CALL_RECEIVE);
    if (failure == SHORT_COUNT)
        return recv(fd, iov[0].iov_base, iov[0].iov_len > 0 ? 1 : 0, 0);
    if (failure != 0) {
        errno = failure;
        return -1;
    }
    if (count == 1)
        return recv(fd, iov[0].iov_base, iov[0].iov_len, 0);
    struct msghdr m = message(iov, count);
    return recvmsg(fd, &m, 0);
}

static ssize_t send_once(int fd, struct iovec *iov, int count)
{
    int failure = fault(CALL_SEND);
    if (failure == SHORT_COUNT)
        return send(fd, iov[0].iov_base, iov[0].iov_len > 0 ? 1 : 0, SEND_FLAGS);
    if (failure != 0) {
        errno = failure;
        return -1;
    }
    if (count == 1)
        return send(fd, iov[0].iov_base, iov[0].iov_len, SEND_FLAGS);
    struct msghdr m = message(iov, count);
    return sendmsg(fd, &m, SEND_FLAGS);
}

/* The system is short of buffers for a moment: the same to the caller as a full socket. */
static void short_is_later(void)
{
    if (errno == ENOBUFS || errno == ENOMEM || errno == EWOULDBLOCK)
        errno = EAGAIN;
}

ssize_t net_receive(int fd, struct iovec *iov, int count)
{
    ssize_t n;
    do
        n = receive_once(fd, iov, count);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        short_is_later();
    return n;
}

ssize_t net_peek(int fd, void *out, size_t cap)
{
    ssize_t n;
    int failure;
    do {
        failure = fault(CALL_RECEIVE);
        n = failure > 0 ? -1 : recv(fd, out, failure == SHORT_COUNT && cap > 0 ? 1 : cap, MSG_PEEK);
        errno = failure > 0 ? failure : errno;
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        short_is_later();
    return n;
}

ssize_t net_send(int fd, struct iovec *iov, int count)
{
    ssize_t n;
    do
        n = send_once(fd, iov, count);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        short_is_later();
    return n;
}

bool net_way(int ends[2])
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) < 0)
        return false;
    return os_prepare_fd(ends[0]) && os_prepare_fd(ends[1]);
}

ssize_t net_give(int fd, const void *bytes, size_t n, const int *fds, int count)
{
    int failure = fault(CALL_SEND);
    ssize_t sent;
    if (failure != 0) {
        errno = failure == ECONNRESET ? failure : EAGAIN; /* it goes whole or not at all */
        return -1;
    }
    do
        sent = os_give(fd, bytes, n, fds, count);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        short_is_later();
    return sent;
}

bool net_wait(int fd, bool in, int limit_ms)
{
    struct pollfd p = { fd, (short)(POLLOUT | (in ? POLLIN : 0)), 0 };
    return poll(&p, 1, limit_ms) > 0;
}

ssize_t net_get(int fd, void *bytes, size_t cap, int fds[HAND_FDS], int *count)
{
    int got[HAND_FDS], some;
    ssize_t n;
    *count = 0;
    do
        n = os_get(fd, bytes, cap, got, &some);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        short_is_later();
    for (int i = 0; i < some; i++) {
        if (fault(CALL_ACCEPT) == 0 && os_prepare_fd(got[i]))
            fds[(*count)++] = got[i];
        else
            (void)close(got[i]);
    }
    return n;
}

void net_shutdown(int fd)
{
    (void)shutdown(fd, SHUT_WR);
}

void net_close(int fd)
{
    if (fd >= 0)
        (void)close(fd); /* not retried: after EINTR the number may already be another's */
}

bool net_local(int fd, struct address *out)
{
    memset(out, 0, sizeof *out);
    out->len = sizeof out->u;
    return getsockname(fd, &out->u.sa, &out->len) == 0;
}

/* The end at which fd's peer arrived, in the family of `from`: an IPv4 address among IPv6 ones is written as IPv6 has it. False:
 * there is nobody to name. */
static bool proxy_ends(int fd, struct address *from, struct address *to)
{
    struct address *both[2] = { from, to };
    if (from->u.sa.sa_family == AF_UNIX || !net_local(fd, to))
        return false;
    if (to->u.sa.sa_family == AF_UNIX) /* it came by a unix socket, and a header told who it is: where it went nobody has said */
        (void)address_numeric(from->u.sa.sa_family == AF_INET6 ? "::" : "0.0.0.0", 0, to);
    for (int i = 0; i < 2 && from->u.sa.sa_family != to->u.sa.sa_family; i++) {
        char text[INET6_ADDRSTRLEN + sizeof "::ffff:"] = "::ffff:";
        if (both[i]->u.sa.sa_family != AF_INET)
            continue;
        inet_ntop(AF_INET, &both[i]->u.in4.sin_addr, text + 7, INET6_ADDRSTRLEN);
        (void)address_numeric(text, ntohs(both[i]->u.in4.sin_port), both[i]);
    }
    return true;
}

static size_t proxy_line(const struct address *from, const struct address *to, unsigned char out[NET_PROXY_CAP])
{
    char a[INET6_ADDRSTRLEN], b[INET6_ADDRSTRLEN];
    bool six = from->u.sa.sa_family == AF_INET6;
    inet_ntop(from->u.sa.sa_family, six ? (const void *)&from->u.in6.sin6_addr : (const void *)&from->u.in4.sin_addr, a, sizeof a);
    inet_ntop(from->u.sa.sa_family, six ? (const void *)&to->u.in6.sin6_addr : (const void *)&to->u.in4.sin_addr, b, sizeof b);
    return (size_t)snprintf((char *)out, NET_PROXY_CAP, "PROXY TCP%d %s %s %u %u\r\n", six ? 6 : 4, a, b,
                            ntohs(six ? from->u.in6.sin6_port : from->u.in4.sin_port), ntohs(six ? to->u.in6.sin6_port : to->u.in4.sin_port));
}

size_t net_proxy_header(int fd, const struct address *peer, int version, unsigned char out[NET_PROXY_CAP])
{
    static const unsigned char local[] = "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", unknown[] = "PROXY UNKNOWN\r\n";
    struct address from, to;
    size_t n = (version == 1 ? sizeof unknown : sizeof local) - 1, each;
    bool six;
    memcpy(out, version == 1 ? unknown : local, n);
    if (peer == NULL)
        return n;
    from = *peer;
    if (!proxy_ends(fd, &from, &to))
        return n;
    if (version == 1)
        return proxy_line(&from, &to, out);
    six = from.u.sa.sa_family == AF_INET6;
    each = six ? 16 : 4;
    out[12] = 0x21;
    out[13] = six ? 0x21 : 0x11;
    out[15] = (unsigned char)(2 * each + 4);
    memcpy(out + n, six ? (const void *)&from.u.in6.sin6_addr : (const void *)&from.u.in4.sin_addr, each);
    memcpy(out + n + each, six ? (const void *)&to.u.in6.sin6_addr : (const void *)&to.u.in4.sin_addr, each);
    memcpy(out + n + 2 * each, six ? &from.u.in6.sin6_port : &from.u.in4.sin_port, 2);
    memcpy(out + n + 2 * each + 2, six ? &to.u.in6.sin6_port : &to.u.in4.sin_port, 2);
    return n + 2 * each + 4;
}
