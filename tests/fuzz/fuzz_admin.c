/*
 * fuzz_admin.c - whole connections of operators: up to four, driven by a program of bytes.
 *
 *   input = actions --> connection i: known requests, raw bytes, pieces of them, half-close, reset, slow reading
 *                       servers, slow log, tables: change;  time: moves on
 *
 *   each end keeps what it is owed: the status of each known request --> what comes is parsed strictly and held against that
 *
 * What must hold: answers are well formed, whole, in order, and each is what its request deserves, or a refusal for want of time or
 * of patience (408, 429, 503); nothing is told or done without the token; no chunk of the pool is taken; when all have gone,
 * every entry is free.
 */
#include "admin.h"
#include "tests/fuzz/fake_net.h"
#include "trace.h"

#include <stdio.h>

#define ENDS 4
#define OWED_CAP 4096
#define ACTIONS_MAX 300
#define TOKEN "0123456789abcdef"
#define FIRST_ADDRESS 0x7f000001u

extern bool loop_without_queue;
extern uint64_t loop_mock_us;
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct end {
    struct sock *sock;          /* NULL: gone */
    bool murky;                 /* it has said what is not known to be a request: statuses are not compared */
    bool cut;                   /* it has ended or reset its side: not all that is owed comes */
    bool parting;               /* an answer said that it is the last */
    uint16_t owed[OWED_CAP];    /* statuses; 1000 more: to HEAD */
    size_t asked, answered;
    size_t off;                 /* of sock->out: what has been parsed */
};

static struct end ends[ENDS];
static struct conf conf;
static struct service service;
static struct backend *nodes[3];
static struct { const uint8_t *p; size_t left; } input;
static const int listener = FD_LISTENER;

#define LOCAL "Host: localhost\r\n"
#define BEARER "Authorization: Bearer " TOKEN "\r\n"

static const struct { const char *text; uint16_t status; } known[] = {
    { "GET / HTTP/1.1\r\n" LOCAL "\r\n", 200 },
    { "GET /healthz HTTP/1.1\r\n" LOCAL "\r\n", 200 },
    { "HEAD /metrics HTTP/1.1\r\n" LOCAL BEARER "\r\n", 1200 },
    { "GET /metrics HTTP/1.1\r\n" LOCAL BEARER "\r\n", 200 },
    { "GET /status HTTP/1.1\r\n" LOCAL BEARER "\r\n", 200 },
    { "GET /slots?section=main HTTP/1.1\r\n" LOCAL BEARER "\r\n", 200 },
    { "GET /clients HTTP/1.1\r\n" LOCAL BEARER "\r\n", 200 },
    { "GET /slowlog HTTP/1.1\r\n" LOCAL BEARER "\r\n", 200 },
    { "GET /hotkeys HTTP/1.1\r\n" LOCAL BEARER "\r\n", 200 },
    { "GET /memory HTTP/1.1\r\n" LOCAL BEARER "\r\n", 200 },
    { "GET /status HTTP/1.1\r\n" LOCAL "\r\n", 401 },
    { "GET /status HTTP/1.1\r\n" LOCAL "Authorization: Bearer " TOKEN "x\r\n\r\n", 401 },
    { "POST /drain?backend=127.0.0.1:7001 HTTP/1.1\r\n" LOCAL "\r\n", 401 },
    { "POST /drain?backend=127.0.0.1:7002 HTTP/1.1\r\n" LOCAL BEARER "\r\n", 200 },
    { "POST /undrain?backend=main/127.0.0.1:7002 HTTP/1.1\r\n" LOCAL BEARER "Content-Length: 5\r\n\r\nhello", 200 },
    { "POST /drain?backend=127.0.0.1:9 HTTP/1.1\r\n" LOCAL BEARER "\r\n", 404 },
    { "POST /drain HTTP/1.1\r\n" LOCAL BEARER "\r\n", 400 },
    { "POST /kill?client=7777777 HTTP/1.1\r\n" LOCAL BEARER "\r\n", 404 },
    { "POST /reload HTTP/1.1\r\n" LOCAL BEARER "\r\n", 409 },
    { "POST /loglevel?level=error HTTP/1.1\r\n" LOCAL BEARER "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", 200 },
    { "POST /slowlog/reset HTTP/1.1\r\n" LOCAL BEARER "\r\n", 200 },
    { "POST /status HTTP/1.1\r\n" LOCAL BEARER "\r\n", 405 },
    { "GET /nowhere HTTP/1.1\r\n" LOCAL "\r\n", 404 },
    { "GET /status HTTP/1.1\r\nHost: evil.example\r\n" BEARER "\r\n", 421 },
    { "GET /status HTTP/1.1\r\n" LOCAL BEARER "Origin: http://evil.example\r\n\r\n", 403 },
    { "GET /status HTTP/1.1\r\n" LOCAL BEARER "Sec-Fetch-Site: cross-site\r\n\r\n", 403 },
    { "GET /version HTTP/1.1\r\n" LOCAL BEARER "Connection: close\r\n\r\n", 200 },
    { "GET /metrics HTTP/1.0\r\n" BEARER "\r\n", 200 },
    { "GET /version HTTP/1.1\r\n\r\n", 400 },
};
#define KNOWN (sizeof known / sizeof *known)

static unsigned next_byte(void)
{
    if (input.left == 0) {
        return 0;
    }
    input.left--;
    return *input.p++;
}

/* --------------------------------------------------------- what is answered */

/* One value of JSON, at any depth below 16: where it ends; NULL: it is none. */
static const unsigned char *json_end(const unsigned char *p, const unsigned char *end)
{
    unsigned depth = 0;
    bool value = true; /* one is to come */
    for (; p < end; p++) {
        if (*p == '"') {
            for (p++; p < end && *p != '"'; p++) {
                MUST(*p >= ' ' && *p != 127);
                p += *p == '\\';
            }
            MUST(p < end);
            value = p + 1 < end && p[1] == ':';
            p += value;
        } else if (*p == '{' || *p == '[') {
            MUST(value && ++depth < 16);
            value = p[1] != '}' && p[1] != ']';
        } else if (*p == '}' || *p == ']') {
            MUST(!value && depth > 0);
            depth--;
        } else if (*p == ',') {
            MUST(!value && depth > 0);
            value = true;
        } else {
            size_t n = 0;
            while (p + n < end && p[n] != '\0' && strchr("-+.0123456789eEaflnrstu", p[n]) != NULL) {
                n++;
            }
            MUST(value && n > 0);
            p += n - 1;
            value = false;
        }
        if (depth == 0 && !value) {
            return p + 1;
        }
    }
    return NULL;
}

static void check_body(const unsigned char *p, size_t n, const char *type)
{
    if (strncmp(type, "application/json", 16) == 0) {
        MUST(json_end(p, p + n) == p + n);
    } else if (strncmp(type, "text/plain", 10) == 0) {
        MUST(n > 1000 && p[n - 1] == '\n' && memcmp(p, "# HELP ", 7) == 0);
    }
}

/* A field of the head; "" if it is not there. */
static const char *field(const char *head, const char *name)
{
    const char *at = strstr(head, name);
    return at == NULL ? "" : at + strlen(name);
}

/* The chunks from p on: false while they are not all there. */
static bool chunks(const unsigned char *p, size_t n, size_t *used, unsigned char *body, size_t *len)
{
    size_t at = 0, size = 1;
    *len = 0;
    while (size > 0) {
        const unsigned char *line = memchr(p + at, '\r', n - at);
        if (line == NULL || line + 2 > p + n) {
            return false;
        }
        size = 0;
        for (const unsigned char *d = p + at; d < line; d++) {
            const char *digit = memchr("0123456789abcdef", *d, 16);
            MUST(digit != NULL);
            size = size * 16 + (size_t)(digit - "0123456789abcdef");
        }
        at = (size_t)(line - p) + 2;
        if (n - at < size + 2) {
            return false;
        }
        memcpy(body + *len, p + at, size);
        *len += size;
        MUST(p[at + size] == '\r' && p[at + size + 1] == '\n');
        at += size + 2;
    }
    *used = at;
    return true;
}

static void check_status(struct end *e, unsigned status)
{
    bool patience = status == 408 || status == 429 || status == 503;
    if (e->murky) {
        return;
    }
    MUST(e->answered < e->asked || status == 408 || status == 503);
    MUST(patience || status == e->owed[e->answered] % 1000u);
}

/* What has come is taken, answer by answer. closed: no more will. */
static void parse(struct end *e, bool closed)
{
    static unsigned char body[STREAM_CAP];
    static char head[2048];
    struct sock *s = e->sock;
    for (;;) {
        const unsigned char *p = s->out + e->off, *end = NULL;
        size_t n = s->out_len - e->off, len = 0, used = 0;
        unsigned status;
        for (size_t i = 3; i < n && i < sizeof head && end == NULL; i++) {
            end = memcmp(p + i - 3, "\r\n\r\n", 4) == 0 ? p + i + 1 : NULL;
        }
        if (end == NULL) {
            return;
        }
        memcpy(head, p, (size_t)(end - p));
        head[end - p] = '\0';
        MUST(sscanf(head, "HTTP/1.1 %3u ", &status) == 1 && !e->parting);
        n -= (size_t)(end - p);
        if (status == 100) {
            e->off += (size_t)(end - p);
            continue;
        }
        if (!e->murky && e->answered < e->asked && e->owed[e->answered] >= 1000) {
            used = 0; /* to HEAD */
        } else if (*field(head, "\r\nContent-Length: ") != '\0') {
            len = used = strtoul(field(head, "\r\nContent-Length: "), NULL, 10);
            if (n < len) {
                return;
            }
            memcpy(body, end, len);
        } else if (*field(head, "\r\nTransfer-Encoding: ") != '\0') {
            if (!chunks(end, n, &used, body, &len)) {
                return;
            }
        } else if (!closed || !s->shut) {
            return; /* it is whole when the program has ended its side */
        } else {
            memcpy(body, end, len = used = n);
        }
        if (len > 0) {
            check_body(body, len, field(head, "\r\nContent-Type: "));
        }
        check_status(e, status);
        e->answered++;
        e->parting = strncmp(field(head, "\r\nConnection: "), "close", 5) == 0;
        e->off += (size_t)(end - p) + used;
    }
}

static int far_dialed(uint16_t port, int *far)
{
    (void)port;
    *far = -1;
    return ECONNREFUSED;
}

static struct end *end_of(const struct sock *s)
{
    for (int i = 0; i < ENDS; i++) {
        if (ends[i].sock == s) {
            return &ends[i];
        }
    }
    return NULL;
}

static void far_gets(struct sock *s)
{
    struct end *e = end_of(s);
    if (e != NULL && !e->murky) {
        parse(e, false);
    } else if (e != NULL) {
        s->out_len = e->off = 0; /* to what cannot be counted only the program itself is looked at */
    }
    if (e != NULL && e->off == s->out_len) {
        s->out_len = e->off = 0;
    }
}

static void far_closed(struct sock *s)
{
    struct end *e = end_of(s);
    if (e != NULL && !e->murky) {
        parse(e, true);
    }
    if (e != NULL) {
        e->sock = NULL;
    }
}

/* ------------------------------------------------------------ the operators */

static void knock(struct end *e)
{
    if (e->sock != NULL) {
        return;
    }
    memset(e, 0, offsetof(struct end, owed));
    e->asked = e->answered = e->off = 0;
    e->sock = sock_take(SOCK_KNOCKING);
    far_address = FIRST_ADDRESS + next_byte() % 3;
}

static void say_known(struct end *e)
{
    unsigned which = next_byte() % KNOWN, cut = next_byte();
    size_t n = strlen(known[which].text);
    if (e->sock == NULL || e->asked == OWED_CAP || e->cut || e->sock->in_len > STREAM_CAP / 2) {
        return;
    }
    e->sock->piece = cut == 0 ? SIZE_MAX : cut;
    e->owed[e->asked++] = known[which].status;
    MUST(sock_say(e->sock, known[which].text, n));
}

static void say_raw(struct end *e)
{
    unsigned char bytes[256];
    size_t n = next_byte();
    for (size_t i = 0; i < n; i++) {
        bytes[i] = (unsigned char)next_byte();
    }
    if (e->sock != NULL && !e->cut && sock_say(e->sock, bytes, n)) {
        e->murky = true;
        e->off = e->sock->out_len = 0;
    }
}

static void leave(struct end *e, bool reset)
{
    if (e->sock != NULL) {
        e->cut = true;
        e->sock->ended = true;
        e->sock->reset = reset;
    }
}

static void change(void)
{
    struct backend *b = nodes[next_byte() % 3];
    struct trace_entry t = { .section = &conf.services[0], .command = "get", .key = "k\"\xff", .key_len = 3, .sent_us = 5 };
    health_state(b, next_byte() % 2 == 0 ? BACKEND_UP : BACKEND_DOWN);
    stats_latency(b->index, (uint64_t)next_byte() << next_byte() % 20);
    slotmap_set(&service.map, (uint16_t)(next_byte() * 64), (uint16_t)(next_byte() % 2 == 0 ? b->index : SLOTMAP_NONE));
    trace_slow_add(&t);
    trace_key("hot", 3, (uint16_t)next_byte());
}

static void turn(void)
{
    loop_turn(true);
    conn_flush();
    conn_reap();
    MUST(buf_free_chunks() == conf.chunks);
}

static void act(void)
{
    unsigned what = next_byte();
    struct end *e = &ends[what & 3];
    switch (what >> 2 & 15) {
    case 0: knock(e); break;
    case 1: case 2: case 3: case 4: case 5: case 6: say_known(e); break;
    case 7: say_raw(e); break;
    case 8: leave(e, (next_byte() & 1) != 0); break;
    case 9: if (e->sock != NULL) { e->sock->room = next_byte() * 16; } break;
    case 10: if (e->sock != NULL) { e->sock->room = SIZE_MAX; } break;
    case 11: change(); break;
    case 12: loop_mock_us += (uint64_t)next_byte() * 40000; break;
    default: loop_mock_us += next_byte(); break;
    }
    turn();
}

/* -------------------------------------------------------------- the whole */

static void ignored(struct backend *b) { (void)b; }
static bool unused(const struct backend *b) { (void)b; return false; }
static const struct probe_talk talk = { ignored, ignored, ignored, ignored, ignored };
static const struct service_ops ops = { .talk = &talk, .on_backend = ignored, .on_hold = ignored, .in_use = unused };

static void begin(void)
{
    conf.max_backends = 8;
    conf.max_clients = 4;
    conf.chunks = 64;
    conf.chunk_size = 1024;
    conf.admins = 1;
    conf.admin_clients = 3; /* one less than there may be */
    conf.slow_log = 8;
    conf.hot_keys = 8;
    snprintf(conf.admin_token, sizeof conf.admin_token, "%s", TOKEN);
    conf.service_count = 1;
    snprintf(conf.services[0].name, NAME_CAP, "main");
    for (int i = 0; i < 3; i++) {
        snprintf(conf.services[0].nodes[i].host, HOST_CAP, "127.0.0.1");
        conf.services[0].nodes[i].port = (uint16_t)(7001 + i);
        conf.services[0].node_count++;
    }
    log_threshold = LOG_ERROR;
    loop_without_queue = true;
    loop_mock_us = 1000000;
    for (int real = 0; real < 2; real++) {
        if (real) {
            MUST(arena_obtain(false));
        } else {
            arena_measure();
        }
        loop_tables(&conf);
        buf_tables(&conf);
        conn_tables(&conf);
        stats_tables(&conf);
        trace_tables(&conf);
        health_tables(&conf);
        admin_tables(&conf);
    }
    loop_open();
    buf_open();
    conn_open_table();
    trace_open(&conf);
    command_init();
    slotmap_clear(&service.map);
    health_open(&service, &conf.services[0], &ops);
    for (uint16_t i = 0; i < 3; i++) {
        nodes[i] = backend_at(i);
    }
    admin_open(&conf, &listener);
    arena_seal();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static bool begun;
    if (!begun) {
        begin();
        begun = true;
    }
    input.p = data;
    input.left = len;
    loop_mock_us += UINT64_C(120000000); /* wrong guesses are forgotten, and each may ask again */
    for (int i = 0; i < 3; i++) {
        backend_hold(nodes[i], HELD_NOT);
        nodes[i]->slots = 0;
    }
    for (int i = 0; i < ACTIONS_MAX && input.left > 0; i++) {
        act();
    }
    /* Whoever is still there reads on, and is owed all that he has asked for; then he leaves. */
    for (int i = 0; i < ENDS; i++) {
        if (ends[i].sock != NULL) {
            ends[i].sock->room = ends[i].sock->piece = SIZE_MAX;
        }
    }
    for (int i = 0; i < 20000 && conn_count(CONN_ADMIN) > 0; i++) {
        loop_mock_us += i < 400 ? 2000 : 200000;
        turn();
    }
    MUST(conn_count(CONN_ADMIN) == 0);
    for (int i = 0; i < ENDS; i++) {
        MUST(ends[i].sock == NULL);
    }
    return 0;
}
