/*
 * gate.c - who may come in, and how fast: between the accept of conn.c and the rooms that serve.
 *
 *   listener -> from who is trusted (accept_proxy): arrivals[] -- its PROXY header is whole --.
 *            -> from anybody else -----------------------------------------------------------+-> allow, deny, max_per_address
 *                                                                                            |
 *               rooms above <-- s->ops->on_client: with the real address, and the bytes behind the header unread
 *
 *   a request --gate_ask()---.                     .-- GATE_GO
 *   bytes ------gate_bytes()-+--> sources[]: owed -+-- more than a second's worth: the connection is held, first come, first let go,
 *                            |    by address       |   or GATE_REFUSED (limit_action = error)
 *
 * What a source owes leaks away at its rate (a leaky bucket of one second's worth); a bucket belongs to an address of a section, not
 * to a connection, as in HAProxy's and nginx's common set-ups: more connections give nobody more. An IPv6 source is its network of 64
 * bits; all unix sockets of a section are one. Owns the arrivals and the sources. There are more sources than clients, so that there is always one
 * to give: that of whom nobody has been there for longest.
 */
#include "puerta.h"
#include "proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_MS 5000       /* how long a PROXY header may take to come */
#define IDLE_SOURCES 256     /* more sources than there may be clients: those who have just left still owe what they owe */
#define UNIT UINT64_C(1000000) /* what is owed is counted in millionths, so that a rate a second leaks by the microsecond */
#define PIECE 16384          /* bytes that one who is let go is taken to ask for */

/* A connection whose PROXY header is not whole. */
struct arrival {
    struct watch watch;         /* first: the loop's pointer is the arrival's */
    struct timer timer;
    struct service *service;
    struct address peer;        /* of the socket: the load balancer */
    struct proxy_header header;
    struct arrival *next;       /* free list */
};

struct gate_source {
    const struct service *service; /* NULL: never used */
    uint64_t net;               /* address_source() */
    uint64_t at_us;             /* when it owed so much */
    uint64_t requests, bytes;   /* owed, in millionths */
    struct gate_source *chain;  /* of the same hash */
    struct gate_source *older, *newer; /* in the list of those without a connection */
    struct conn *first, *last;  /* held, in the order in which they came */
    struct timer timer;         /* the first of them is let go */
    uint32_t connections;
};

static struct {
    struct arrival *arrivals, *free;
    size_t arrival_count, arriving, source_count, bucket_count;
    struct gate_source *sources, **buckets; /* bucket_count is a power of two */
    struct gate_source *oldest, *newest;    /* those without a connection */
    uint64_t seed;              /* so that nobody can choose addresses that share a bucket */
} gt;

/* ---------------------------------------------------------------- subnets */

/* The bytes of an address and its family, IPv4 written as IPv6 being IPv4. */
static int plain(const struct address *a, const unsigned char **bytes)
{
    if (a->u.sa.sa_family == AF_INET6) {
        bool mapped = IN6_IS_ADDR_V4MAPPED(&a->u.in6.sin6_addr);
        *bytes = a->u.in6.sin6_addr.s6_addr + (mapped ? 12 : 0);
        return mapped ? AF_INET : AF_INET6;
    }
    *bytes = (const unsigned char *)&a->u.in4.sin_addr;
    return a->u.sa.sa_family;
}

static bool same_bits(const unsigned char *a, const unsigned char *b, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    return memcmp(a, b, whole) == 0 && (rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0);
}

const char *subnet_parse(const char *text, struct subnet *out)
{
    static const unsigned char zeros[16];
    const char *slash = strchr(text, '/');
    size_t n = slash != NULL ? (size_t)(slash - text) : strlen(text);
    char host[INET6_ADDRSTRLEN + 1] = "", *end = NULL;
    unsigned long most, bits;
    memset(out, 0, sizeof *out);
    if (strcmp(text, "unix") == 0) {
        out->family = AF_UNIX;
        return NULL;
    }
    snprintf(host, sizeof host, "%.*s", (int)(n < sizeof host ? n : 0), text);
    out->family = strchr(host, ':') != NULL ? AF_INET6 : AF_INET;
    most = out->family == AF_INET6 ? 128 : 32;
    if (inet_pton(out->family, host, out->bytes) != 1) {
        return "not an address";
    }
    bits = slash == NULL ? most : strtoul(slash + 1, &end, 10);
    if (slash != NULL && (slash[1] < '0' || slash[1] > '9' || *end != '\0' || bits > most)) {
        return out->family == AF_INET6 ? "behind the slash stands 0 to 128" : "behind the slash stands 0 to 32";
    }
    out->bits = (uint8_t)bits;
    for (unsigned i = (unsigned)bits; i < most; i++) {
        if ((out->bytes[i / 8] & (0x80u >> i % 8)) != 0) {
            return "the address has bits behind those that the slash counts";
        }
    }
    if (out->family == AF_INET6 && bits >= 96 && same_bits(out->bytes, zeros, 80) && out->bytes[10] == 0xff && out->bytes[11] == 0xff) {
        return "write it as an IPv4 address";
    }
    return NULL;
}

const char *subnet_text(const struct subnet *n, char out[SUBNET_TEXT])
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (n->family == AF_UNIX) {
        snprintf(out, SUBNET_TEXT, "unix");
    } else {
        inet_ntop(n->family, n->bytes, host, sizeof host);
        snprintf(out, SUBNET_TEXT, "%s/%u", host, (unsigned)n->bits);
    }
    return out;
}

bool subnets_have(const struct subnets *list, const struct address *a)
{
    const unsigned char *bytes;
    int family = plain(a, &bytes);
    for (int i = 0; i < list->count; i++) {
        const struct subnet *n = &list->at[i];
        if (n->family == family && (family == AF_UNIX || same_bits(n->bytes, bytes, n->bits))) {
            return true;
        }
    }
    return false;
}

/* ---------------------------------------------------------------- sources */

static struct gate_source **bucket(const struct service *s, uint64_t net)
{
    uint64_t h = (net ^ gt.seed ^ (uintptr_t)s) * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ h >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    return &gt.buckets[(h >> 32) & (gt.bucket_count - 1)];
}

static void idle_add(struct gate_source *s)
{
    s->older = gt.newest;
    s->newer = NULL;
    *(gt.newest != NULL ? &gt.newest->newer : &gt.oldest) = s;
    gt.newest = s;
}

static void idle_remove(struct gate_source *s)
{
    *(s->older != NULL ? &s->older->newer : &gt.oldest) = s->newer;
    *(s->newer != NULL ? &s->newer->older : &gt.newest) = s->older;
}

static void unchain(struct gate_source *s)
{
    struct gate_source **at = bucket(s->service, s->net);
    while (*at != s) {
        at = &(*at)->chain;
    }
    *at = s->chain;
}

/* The entry of that address: its own, or that of whom nobody has been there for longest. NULL: no section has such a limit. */
static struct gate_source *source_of(const struct service *service, const struct address *peer)
{
    uint64_t net;
    struct gate_source *s, **at;
    if (gt.source_count == 0) {
        return NULL;
    }
    (void)address_source(peer, &net);
    at = bucket(service, net);
    for (s = *at; s != NULL; s = s->chain) {
        if (s->service == service && s->net == net) {
            return s;
        }
    }
    s = gt.oldest;
    must(s != NULL); /* there are more than clients */
    if (s->service != NULL) {
        unchain(s);
    }
    idle_remove(s);
    memset(s, 0, sizeof *s);
    s->service = service;
    s->net = net;
    s->chain = *at;
    *at = s;
    idle_add(s);
    return s;
}

static uint64_t leaked(uint64_t owed, uint64_t rate, uint64_t us)
{
    return rate == 0 || us > owed / rate ? 0 : owed - us * rate;
}

/* What it owes now. */
static void settle(struct gate_source *s)
{
    uint64_t us = loop_us() - s->at_us;
    s->requests = leaked(s->requests, s->service->conf->request_rate, us);
    s->bytes = leaked(s->bytes, s->service->conf->byte_rate, us);
    s->at_us = loop_us();
}

/* Microseconds until it may make its next request: 0 = now. Bytes have passed when they are counted: it may have sent more than it
 * should, and then waits longer. */
static uint64_t wait_us(const struct gate_source *s)
{
    uint64_t rate = s->service->conf->request_rate, limit = rate * UNIT, wait = 0, other;
    if (rate > 0 && s->requests + UNIT > limit) {
        wait = (s->requests + UNIT - limit) / rate + 1;
    }
    rate = s->service->conf->byte_rate;
    limit = rate * UNIT;
    if (rate > 0 && s->bytes > limit) {
        other = (s->bytes - limit) / rate + 1;
        wait = other > wait ? other : wait;
    }
    return wait;
}

/* How many of those held may go now, where one may. */
static uint64_t may_go(const struct gate_source *s)
{
    uint64_t rate = s->service->conf->request_rate, bytes = s->service->conf->byte_rate, n = UINT64_MAX, other;
    if (rate > 0) {
        n = (rate * UNIT - s->requests) / UNIT;
    }
    if (bytes > 0) {
        other = 1 + (bytes * UNIT - s->bytes) / UNIT / PIECE;
        n = other < n ? other : n;
    }
    return n;
}

static void unlist(struct conn *c)
{
    struct gate_source *s = c->source;
    *(c->held_prev != NULL ? &c->held_prev->held_next : &s->first) = c->held_next;
    *(c->held_next != NULL ? &c->held_next->held_prev : &s->last) = c->held_prev;
    c->held_prev = c->held_next = NULL;
    if (s->first == NULL) {
        loop_timer_stop(&s->timer);
    }
}

static void arm(struct gate_source *s, uint64_t us)
{
    loop_timer(&s->timer, loop_ms() + us / 1000 + 1);
}

static void on_due(struct timer *t)
{
    struct gate_source *s = (struct gate_source *)(void *)((char *)t - offsetof(struct gate_source, timer));
    uint64_t wait, n;
    settle(s);
    wait = wait_us(s);
    for (n = wait > 0 ? 0 : may_go(s); n > 0 && s->first != NULL; n--) {
        struct conn *c = s->first;
        c->granted = true;
        s->requests += s->service->conf->request_rate > 0 ? UNIT : 0; /* its next request, so that nobody else gets its turn */
        gate_let_go(c);
        if (c->ops->on_let_go != NULL) {
            c->ops->on_let_go(c);
        }
    }
    if (s->first != NULL) {
        arm(s, wait);
    }
}

static void hold(struct conn *c)
{
    struct gate_source *s = c->source;
    if (c->held || c->state != CONN_OPEN) {
        return;
    }
    stats.limit_delayed++;
    c->held_prev = s->last;
    *(s->last != NULL ? &s->last->held_next : &s->first) = c;
    s->last = c;
    conn_hold(c, true);
    if (s->timer.next == NULL) {
        s->timer.on_due = on_due;
        arm(s, wait_us(s));
    }
}

void gate_let_go(struct conn *c)
{
    if (c->held) {
        unlist(c);
        conn_hold(c, false);
    }
}

void gate_left(struct conn *c)
{
    struct gate_source *s = c->source;
    if (c->held) {
        unlist(c);
        c->held = false;
    }
    c->source = NULL;
    if (--s->connections == 0) {
        idle_add(s);
    }
}

enum gate_verdict gate_ask(struct conn *c)
{
    struct gate_source *s = c->source;
    const struct conf_service *conf = s->service->conf;
    if (c->paid) {
        return GATE_GO;
    }
    settle(s);
    if (!c->granted && (wait_us(s) > 0 || s->first != NULL)) {
        if (conf->limit_error) {
            stats.limit_refused++;
            return GATE_REFUSED;
        }
        hold(c);
        return GATE_HELD;
    }
    s->requests += conf->request_rate > 0 && !c->granted ? UNIT : 0;
    c->granted = false;
    c->paid = true;
    return GATE_GO;
}

void gate_count(struct conn *c)
{
    struct gate_source *s = c->source;
    const struct conf_service *conf = s->service->conf;
    settle(s);
    s->requests += conf->request_rate > 0 && !c->granted ? UNIT : 0;
    c->granted = false;
    if (!conf->limit_error && wait_us(s) > 0) {
        hold(c);
    }
}

void gate_bytes(struct conn *c, size_t n)
{
    struct gate_source *s = c->source;
    const struct conf_service *conf = s->service->conf;
    if (conf->byte_rate == 0) {
        return;
    }
    settle(s);
    s->bytes += n * UNIT;
    if (!conf->limit_error && s->bytes > conf->byte_rate * UNIT) {
        hold(c);
    }
}

bool gate_received(struct conn *c, const void *bytes, size_t n)
{
    bool fresh = c->fresh;
    char text[ADDRESS_TEXT];
    c->fresh = false;
    c->gated = c->source != NULL;
    if (fresh && proxy_begins(bytes, n)) {
        stats.proxy_untrusted++;
        log_warn("client closed: it begins with a PROXY header, but is not trusted (accept_proxy, trusted)", "client=%s",
                 address_text(&c->peer, text));
        conn_fail(c, "a PROXY header from who is not trusted");
        return false;
    }
    if (c->source != NULL) {
        gate_bytes(c, n);
    }
    return true;
}

/* --------------------------------------------------------------- coming in */

static void refuse(struct service *s, int fd, const struct address *peer, const char *why)
{
    char text[ADDRESS_TEXT];
    log_info("client refused", "client=%s section=%s why=\"%s\"", address_text(peer, text), s->conf->name, why);
    net_close(fd);
}

/* More of its address than may be are told so, where that can be said unasked. */
static void refuse_crowd(struct service *s, int fd, const struct address *peer)
{
    if (s->ops->crowded != NULL) {
        struct iovec iov = { (void *)(uintptr_t)s->ops->crowded, strlen(s->ops->crowded) };
        ssize_t ignored = net_send(fd, &iov, 1); /* a courtesy: if it does not fit, the close says it */
        (void)ignored;
    }
    stats.clients_crowded++;
    refuse(s, fd, peer, "its address has too many connections (max_per_address)");
}

/* deny is looked at first, then allow, if there is such a list. */
static bool may_enter(const struct conf_service *conf, const struct address *peer)
{
    return !subnets_have(&conf->deny, peer) && (conf->allow.count == 0 || subnets_have(&conf->allow, peer));
}

static void belong(struct conn *c, struct gate_source *source, bool fresh)
{
    c->fresh = fresh;
    c->source = source;
    c->gated = fresh || source != NULL;
    if (source != NULL && source->connections++ == 0) {
        idle_remove(source);
    }
}

static bool limits(const struct conf_service *conf)
{
    return conf->max_per_address > 0 || conf->request_rate > 0 || conf->byte_rate > 0;
}

/* peer: the real address. told: by a header, so that no other may follow. */
static void enter(struct service *s, int fd, const struct address *peer, bool told)
{
    const struct conf_service *conf = s->conf;
    struct gate_source *source;
    struct conn *c;
    if (!may_enter(conf, peer)) {
        stats.clients_unwelcome++;
        refuse(s, fd, peer, "its address may not come in (allow, deny)");
        return;
    }
    source = limits(conf) ? source_of(s, peer) : NULL;
    if (source != NULL && conf->max_per_address > 0 && source->connections >= conf->max_per_address) {
        refuse_crowd(s, fd, peer);
        return;
    }
    c = s->ops->on_client(s, fd, peer);
    if (c == NULL || c->state != CONN_OPEN) {
        return;
    }
    belong(c, source, !told);
}

void gate_adopt(struct service *s, struct conn *c)
{
    belong(c, limits(s->conf) ? source_of(s, &c->peer) : NULL, false);
}

/* ------------------------------------------------------------ PROXY headers */

/* Its entry is free; its descriptor is the caller's. */
static void arrival_end(struct arrival *a)
{
    loop_timer_stop(&a->timer);
    loop_unwatch(&a->watch);
    a->next = gt.free;
    gt.free = a;
    gt.arriving--;
}

/* The load balancer has not said what it has to. */
static void arrival_fail(struct arrival *a, uint64_t *counter, const char *why)
{
    char text[ADDRESS_TEXT];
    int fd = a->watch.fd;
    ++*counter;
    log_warn("connection closed: its PROXY header", "from=%s section=%s why=\"%s\"", address_text(&a->peer, text),
             a->service->conf->name, why);
    arrival_end(a);
    net_close(fd);
}

/* Who is behind the load balancer; one of its own connections (a health check) is that of itself. */
static struct address real_address(const struct arrival *a)
{
    const struct proxy_header *h = &a->header;
    struct address real = a->peer;
    if (h->family == PROXY_NOBODY) {
        return real;
    }
    memset(&real, 0, sizeof real);
    if (h->family == PROXY_IPV4) {
        real.len = sizeof real.u.in4;
        real.u.in4.sin_family = AF_INET;
        real.u.in4.sin_port = htons(h->from_port);
        memcpy(&real.u.in4.sin_addr, h->from, 4);
    } else if (h->family == PROXY_IPV6) {
        real.len = sizeof real.u.in6;
        real.u.in6.sin6_family = AF_INET6;
        real.u.in6.sin6_port = htons(h->from_port);
        memcpy(&real.u.in6.sin6_addr, h->from, 16);
    } else {
        real.len = offsetof(struct sockaddr_un, sun_path);
        real.u.sa.sa_family = AF_UNIX;
    }
    real.foreign = !address_near(&a->peer);
    return real;
}

static void arrival_whole(struct arrival *a)
{
    struct service *s = a->service;
    struct address real = real_address(a);
    int fd = a->watch.fd;
    stats.proxy_headers++;
    arrival_end(a);
    enter(s, fd, &real, true);
}

/* What has come is looked at, then taken as far as it is the header's: what stands behind it is its client's. */
static void arrival_read(struct arrival *a)
{
    unsigned char bytes[PROXY_MAX];
    struct proxy_header seen = a->header;
    enum proxy_status status;
    ssize_t n = net_peek(a->watch.fd, bytes, sizeof bytes);
    if (n < 0 && errno == EAGAIN) {
        return;
    }
    if (n <= 0 && a->header.used == 0) {
        int fd = a->watch.fd; /* somebody looks whether the port is open */
        arrival_end(a);
        net_close(fd);
        return;
    }
    if (n <= 0) {
        arrival_fail(a, &stats.proxy_malformed, "it ended too early");
        return;
    }
    struct iovec iov = { bytes, proxy_read(&seen, bytes, (size_t)n, &status) };
    if (status == PROXY_BAD) {
        arrival_fail(a, seen.none ? &stats.proxy_missing : &stats.proxy_malformed, seen.error);
        return;
    }
    n = net_receive(a->watch.fd, &iov, 1);
    if (n > 0) {
        (void)proxy_read(&a->header, bytes, (size_t)n, &status);
    }
    if (n > 0 && status == PROXY_WHOLE) {
        arrival_whole(a);
    }
}

static void on_ready(struct watch *w, short revents)
{
    (void)revents;
    arrival_read((struct arrival *)(void *)w);
}

static void on_late(struct timer *t)
{
    struct arrival *a = (struct arrival *)(void *)((char *)t - offsetof(struct arrival, timer));
    arrival_fail(a, &stats.proxy_late, "it did not come within 5 s");
}

static void await(struct service *s, int fd, const struct address *peer)
{
    struct arrival *a = gt.free;
    if (a == NULL) {
        stats.proxy_full++;
        refuse(s, fd, peer, "too many connections wait for their PROXY header");
        return;
    }
    gt.free = a->next;
    memset(a, 0, sizeof *a);
    a->service = s;
    a->peer = *peer;
    a->watch.slot = -1;
    if (!loop_watch(&a->watch, fd, POLLIN, on_ready)) {
        a->next = gt.free;
        gt.free = a;
        stats.proxy_full++;
        refuse(s, fd, peer, "no place to watch it");
        return;
    }
    gt.arriving++;
    a->timer.on_due = on_late;
    loop_timer(&a->timer, loop_ms() + HEADER_MS);
    arrival_read(a); /* most often it is here already */
}

static void on_accept(void *mark, int fd, const struct address *peer)
{
    struct service *s = mark;
    if (s->conf->accept_proxy && subnets_have(&s->conf->trusted, peer)) {
        await(s, fd, peer);
    } else {
        enter(s, fd, peer, false);
    }
}

void gate_listen(struct listener *l, struct service *s, int fd)
{
    l->mark = s;
    l->on_accept = on_accept;
    conn_listen(l, fd);
}

/* --------------------------------------------------------------- the whole */

void gate_tables(const struct conf *conf)
{
    gt.arrival_count = conf_arrivals(conf);
    gt.arrivals = arena_take("PROXY headers", gt.arrival_count, sizeof *gt.arrivals);
    gt.source_count = conf_limits(conf) ? conf->max_clients + IDLE_SOURCES : 0;
    for (gt.bucket_count = gt.source_count > 0; gt.bucket_count < gt.source_count; gt.bucket_count *= 2) {
    }
    gt.sources = arena_take("client addresses", gt.source_count, sizeof *gt.sources);
    gt.buckets = arena_take("client address hash", gt.bucket_count, sizeof *gt.buckets);
}

bool gate_has_arrivals(void)
{
    return gt.arrival_count > 0;
}

bool gate_has_sources(void)
{
    return gt.source_count > 0;
}

bool gate_awaits(void)
{
    return gt.arriving > 0;
}

/* Who came in while its section had no limit. */
static void belong_late(struct service *s)
{
    for (size_t i = 0; i < conn_size(); i++) {
        struct conn *c = conn_at(i);
        struct conn_facts facts;
        if (c == NULL || c->kind != CONN_CLIENT || c->state != CONN_OPEN || c->source != NULL) {
            continue;
        }
        memset(&facts, 0, sizeof facts);
        c->ops->describe(c, &facts);
        if (facts.section == s->conf->name) {
            belong(c, limits(s->conf) ? source_of(s, &c->peer) : NULL, c->fresh);
        }
    }
}

void gate_conf(struct service *s)
{
    belong_late(s);
    for (size_t i = 0; i < gt.source_count; i++) {
        struct gate_source *source = &gt.sources[i];
        if (source->service == s) {
            source->requests = source->bytes = 0;
            source->at_us = loop_us();
        }
        if (source->service == s && source->first != NULL) {
            loop_timer(&source->timer, loop_ms());
        }
    }
}

void gate_open(void)
{
    gt.free = NULL;
    gt.oldest = gt.newest = NULL;
    for (size_t i = gt.arrival_count; i > 0; i--) {
        gt.arrivals[i - 1].next = gt.free;
        gt.free = &gt.arrivals[i - 1];
    }
    for (size_t i = 0; i < gt.source_count; i++) {
        idle_add(&gt.sources[i]);
    }
    os_random(&gt.seed, sizeof gt.seed);
}
