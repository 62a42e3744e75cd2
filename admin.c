/*
 * admin.c - the listener of operators: connections, paths, answers in pieces.
 *
 *   bytes -> in[] --http_read()--> judge(): who may ask (admin_guard.c), which path
 *                                    |-> an error, as JSON
 *                                    `-> a route: what it says (status.h, metrics.h, trace.h), what it does (action.h)
 *   out[] <- one piece a turn: a head and a chunk of at most 8 KiB; sent by gather() from here, not by conn.c's chain
 *
 *   READING -> BODY -> JUDGED -> ANSWERING -> READING      a request, the bytes behind it, what came of it; the next one
 *                  `-> DELAYED (behind wrong tokens), ASKED (a reload is under way)
 *
 * No chunk of the pool is needed for any of this: it answers just when the pool is empty, and takes nothing from clients. What it costs is
 * bounded: admin_clients connections, one piece of one answer a turn for each, so many requests a second from one address.
 *
 * Owns the table of these connections.
 */
#include "admin.h"
#include "action.h"
#include "admin_doc.h"
#include "admin_guard.h"
#include "dashboard.h"
#include "http.h"
#include "metrics.h"
#include "status.h"
#include "trace.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define HEAD_CAP 1536           /* of an answer's head */
#define PIECE_CAP DOC_PIECE     /* of a body: what is made in one turn */
#define BODY_AT (HEAD_CAP + ANSWER_CHUNK_HEAD)
#define SLOW_MS 5000            /* a request has to be whole by then */
#define IDLE_MS 15000           /* how long a connection may say nothing between two */
#define STALL_MS 5000           /* how long it may read nothing of its answer */
#define RELOAD_MS 20000         /* how long it waits for a reload */
#define PACE_MS 20              /* how long a request waits beyond GUARD_RATE, unless it is to be refused: then it is told no more than that */
#define ROOM_FOR_BODY 1024

enum state {
    READING,
    DELAYED,   /* not looked at yet: behind wrong tokens, or behind too many requests */
    BODY,      /* the request's body is to come, and is dropped */
    ASKED,     /* the answer is to come from another room */
    ANSWERING
};

struct admin_client;

struct route {
    const char *path, *methods;   /* "GET" (and HEAD), "POST" */
    bool open;                    /* needs no token */
    void (*act)(struct admin_client *a, const char *argument); /* answers; NULL: by the document `says` */
    enum doc_what says;
    const char *argument;         /* the one name of its query that counts; NULL: none does */
    const char *help;
};

struct admin_client {
    struct conn *conn;            /* NULL: free */
    const struct route *route;
    struct doc doc;               /* the answer under way: a document, */
    struct metrics_at metrics;    /* or else these */
    bool is_metrics;
    const unsigned char *page;    /* what comes behind out[], constant; and how much of it */
    size_t page_len;
    size_t from, to;              /* of out[]: what is to be sent */
    size_t have;                  /* of in[] */
    uint64_t since_ms;            /* when it last began or ended something */
    struct http_request request;
    uint16_t status;
    uint8_t state;
    bool delayed;                 /* this request has waited behind wrong tokens */
    bool limited;                 /* it is one too many of its address */
    bool known;                   /* its connection has shown the token */
    uint8_t crowd;                /* its address, as crowds are counted */
    bool last;                    /* the connection ends behind this answer */
    bool chunked, over;           /* the answer: in pieces; the last of them is in out[] */
    char argument[HOST_CAP + NAME_CAP + 16];
    char in[HTTP_HEAD_MAX + ROOM_FOR_BODY];
    char out[BODY_AT + PIECE_CAP + sizeof ANSWER_CHUNK_END ANSWER_LAST_CHUNK];
};

static struct {
    struct admin_client *all;
    size_t total;
    const struct conf *conf;
    struct listener listeners[MAX_LISTENS];
} ad;

static void take(struct admin_client *a);

static void set_state(struct admin_client *a, enum state to, uint64_t within_ms)
{
    a->state = (uint8_t)to;
    a->since_ms = loop_ms();
    conn_deadline(a->conn, within_ms == 0 ? 0 : loop_ms() + within_ms);
    conn_read(a->conn, (to == READING || to == BODY));
}

/* ------------------------------------------------------------ the answer */

/* The next piece of the body, at BODY_AT. */
static size_t piece(struct admin_client *a)
{
    size_t n;
    if (!a->is_metrics) {
        n = doc_piece(&a->doc, a->out + BODY_AT);
        a->over = a->doc.over;
        return n;
    }
    n = metrics_write(&a->metrics, a->out + BODY_AT, PIECE_CAP);
    a->over = n == 0;
    return n;
}

/* out[] is to hold n bytes of the body at BODY_AT, in a chunk if the answer is in chunks. */
static void put_chunk(struct admin_client *a, size_t n)
{
    a->from = BODY_AT;
    a->to = BODY_AT + n;
    if (a->chunked && n > 0) {
        a->from = BODY_AT - ANSWER_CHUNK_HEAD;
        answer_chunk(a->out + a->from, n);
        memcpy(a->out + a->to, ANSWER_CHUNK_END, sizeof ANSWER_CHUNK_END - 1);
        a->to += sizeof ANSWER_CHUNK_END - 1;
    }
    if (a->chunked && a->over) {
        memcpy(a->out + a->to, ANSWER_LAST_CHUNK, sizeof ANSWER_LAST_CHUNK - 1);
        a->to += sizeof ANSWER_LAST_CHUNK - 1;
    }
}

static const char *allowed(const struct route *r)
{
    return strcmp(r->methods, "POST") == 0 ? "POST" : "GET, HEAD";
}

/* The head of the answer, whose first n bytes are at BODY_AT; it goes right before them. */
static void put_head(struct admin_client *a, const char *type, size_t n)
{
    static const char *const login[] = { "WWW-Authenticate", "Bearer", NULL }, *const later[] = { "Retry-After", "1", NULL };
    const char *const allow[] = { "Allow", a->status == 405 ? allowed(a->route) : "", NULL };
    const char *const policy[] = { "Content-Security-Policy", dashboard_csp, NULL };
    char when[ANSWER_DATE];
    struct answer head = {
        .status = a->status, .date = answer_date((int64_t)time(NULL), when), .type = type, .length = n + a->page_len, .guards = ANSWER_GUARDS,
        .more = a->status == 401 ? login : a->status == 405 ? allow : a->status == 429 ? later : a->page != NULL ? policy : NULL,
        .body = a->over ? ANSWER_SIZED : a->request.old ? ANSWER_UNTIL_CLOSE : ANSWER_CHUNKED,
    };
    char text[HEAD_CAP];
    size_t len;
    a->last = a->last || a->request.close || head.body == ANSWER_UNTIL_CLOSE;
    head.close = a->last;
    a->chunked = head.body == ANSWER_CHUNKED;
    len = answer_head(&head, text, sizeof text);
    must(len > 0);
    if (a->request.method == HTTP_HEAD && a->request.error == 0) {
        a->chunked = false;
        a->over = true;
        a->page_len = 0;
        n = 0;
    }
    put_chunk(a, n);
    a->from -= len;
    memcpy(a->out + a->from, text, len);
}

static void put_out(struct admin_client *a)
{
    set_state(a, ANSWERING, 0);
    conn_dirty(a->conn);
}

static void answer_document(struct admin_client *a, int status, enum doc_what what, const struct service *of)
{
    size_t n;
    doc_begin(&a->doc, what, ad.conf, of);
    a->is_metrics = false;
    a->status = (uint16_t)status;
    n = piece(a);
    put_head(a, "application/json", n);
    put_out(a);
}

/* {NAME: text, ...}: of an error also its status. */
static void answer_text(struct admin_client *a, int status, const char *name, const char *text)
{
    struct json j;
    json_start(&j, a->out + BODY_AT, PIECE_CAP);
    json_object(&j, NULL);
    if (status == 200) {
        json_bool(&j, "ok", true);
    }
    json_text(&j, name, text);
    if (status != 200) {
        json_int(&j, "status", status);
    }
    json_close(&j);
    a->page = NULL;
    a->page_len = 0;
    a->status = (uint16_t)status;
    a->over = true;
    put_head(a, "application/json", json_finish(&j));
    put_out(a);
}

static void answer_error(struct admin_client *a, int status, const char *text)
{
    answer_text(a, status, "error", text);
}

/* ------------------------------------------------------- what is said and done */

static void do_page(struct admin_client *a, const char *argument)
{
    (void)argument;
    a->page = dashboard_html;
    a->page_len = dashboard_html_len;
    a->status = 200;
    a->over = true;
    put_head(a, "text/html; charset=utf-8", 0);
    put_out(a);
}

static void do_metrics(struct admin_client *a, const char *argument)
{
    size_t n;
    (void)argument;
    memset(&a->metrics, 0, sizeof a->metrics);
    a->is_metrics = true;
    a->status = 200;
    n = piece(a);
    put_head(a, METRICS_TYPE, n);
    put_out(a);
}

static void do_ready(struct admin_client *a, const char *argument)
{
    (void)argument;
    answer_document(a, status_ready() ? 200 : 503, DOC_READY, NULL);
}

/* Without a name: the first section that has slots. */
static void do_slots(struct admin_client *a, const char *argument)
{
    const struct service *s;
    for (int i = 0; (s = service_at(i)) != NULL; i++) {
        if (s->conf->kind == SERVICE_REDIS && (argument[0] == '\0' || strcmp(argument, s->conf->name) == 0)) {
            answer_document(a, 200, DOC_SLOTS, s);
            return;
        }
    }
    answer_error(a, 404, "no section of Redis mode has this name");
}

static void answer_action(struct admin_client *a, const struct action *done)
{
    static const int codes[] = { 200, 404, 409, 400 }; /* as enum action_status */
    answer_text(a, codes[done->status], done->status == ACTION_DONE ? "text" : "error", done->text);
}

static void do_hold(struct admin_client *a, const char *argument, enum backend_hold hold)
{
    struct action done = action_hold(argument, hold);
    answer_action(a, &done);
}

static void do_drain(struct admin_client *a, const char *argument)
{
    do_hold(a, argument, HELD_DRAIN);
}

static void do_undrain(struct admin_client *a, const char *argument)
{
    do_hold(a, argument, HELD_NOT);
}

static void do_down(struct admin_client *a, const char *argument)
{
    do_hold(a, argument, HELD_DOWN);
}

static void do_kill(struct admin_client *a, const char *argument)
{
    struct action done;
    uint64_t id = 0;
    size_t n = 0;
    for (; argument[n] >= '0' && argument[n] <= '9' && n < 19; n++) {
        id = id * 10 + (uint64_t)(argument[n] - '0');
    }
    if (n == 0 || argument[n] != '\0') {
        answer_error(a, 400, "a client is named by its number: /kill?client=NUMBER");
        return;
    }
    done = action_kill(id);
    answer_action(a, &done);
}

static void do_level(struct admin_client *a, const char *argument)
{
    struct action done = action_level(argument);
    answer_action(a, &done);
}

static void do_slow_reset(struct admin_client *a, const char *argument)
{
    struct action done = { ACTION_DONE, "the slow log is empty" };
    (void)argument;
    trace_slow_reset();
    answer_action(a, &done);
}

static void on_reloaded(void *mark, const struct action *done)
{
    struct admin_client *a = mark;
    if (a->conn != NULL && a->state == ASKED) {
        answer_action(a, done);
    }
}

static void do_reload(struct admin_client *a, const char *argument)
{
    struct action asked;
    (void)argument;
    set_state(a, ASKED, RELOAD_MS);
    asked = action_reload(a, on_reloaded);
    if (asked.status != ACTION_DONE) {
        answer_action(a, &asked);
    }
}

static const struct route routes[] = {
    { "/", "GET", true, do_page, 0, NULL, "the page" },
    { "/healthz", "GET", true, NULL, DOC_HEALTHY, NULL, "200 as long as the process lives" },
    { "/readyz", "GET", true, do_ready, 0, NULL, "200 while each section can serve, else 503" },
    { "/version", "GET", false, NULL, DOC_VERSION, NULL, "which Puerta this is" },
    { "/metrics", "GET", false, do_metrics, 0, NULL, "what is counted, for Prometheus" },
    { "/status", "GET", false, NULL, DOC_STATUS, NULL, "process, sections, servers, tables, counters" },
    { "/slots", "GET", false, do_slots, 0, "section", "which node owns which slots of Redis" },
    { "/clients", "GET", false, NULL, DOC_CLIENTS, NULL, "each client connection" },
    { "/slowlog", "GET", false, NULL, DOC_SLOW, NULL, "the last slow requests" },
    { "/hotkeys", "GET", false, NULL, DOC_HOT, NULL, "the keys and slots asked for most of late" },
    { "/memory", "GET", false, NULL, DOC_MEMORY, NULL, "the tables of the one block of memory" },
    { "/drain", "POST", false, do_drain, 0, "backend", "the server takes nothing new, and serves those who are there" },
    { "/undrain", "POST", false, do_undrain, 0, "backend", "takes back a drain or a down" },
    { "/down", "POST", false, do_down, 0, "backend", "the server serves nobody" },
    { "/kill", "POST", false, do_kill, 0, "client", "ends the client of that number" },
    { "/reload", "POST", false, do_reload, 0, NULL, "reads the configuration file again" },
    { "/loglevel", "POST", false, do_level, 0, "level", "error, warn, info or debug" },
    { "/slowlog/reset", "POST", false, do_slow_reset, 0, NULL, "empties the slow log" },
};
#define ROUTES (sizeof routes / sizeof *routes)

const char *admin_route(uint32_t i, const char **methods, const char **help)
{
    if (i >= ROUTES) {
        return NULL;
    }
    *methods = routes[i].methods;
    *help = routes[i].help;
    return routes[i].path;
}

/* --------------------------------------------------------- who may ask what */

static void refuse(struct admin_client *a, uint64_t *counter, int status, const char *text)
{
    guard_counts(&a->conn->peer, GUARD_REFUSED_COST, loop_ms());
    if (a->limited) {
        stats.admin_limited++;
        a->last = true;
        answer_error(a, 429, "too many requests from this address");
        return;
    }
    ++*counter;
    a->last = a->last || a->request.body > 0; /* what it sends behind is not waited for */
    answer_error(a, status, text);
}

/* Whether it is refused, and told so. */
static bool refused(struct admin_client *a, const struct guard_refusal *no)
{
    if (no != NULL) {
        refuse(a, no->counter, no->status, no->text);
    }
    return no != NULL;
}

static const struct route *route_of(const struct admin_client *a)
{
    for (size_t i = 0; i < ROUTES; i++) {
        if (http_is(a->in, a->request.path, routes[i].path)) {
            return &routes[i];
        }
    }
    return NULL;
}

/* The value of the route's argument in the query: false when the query is malformed, or it is too long. */
static bool read_argument(struct admin_client *a)
{
    struct url_part rest = a->request.query, name, value;
    int more;
    a->argument[0] = '\0';
    while ((more = url_pair(a->in, &rest, &name, &value)) > 0) {
        if (a->route->argument != NULL && http_is(a->in, name, a->route->argument)) {
            if (value.len >= sizeof a->argument || a->argument[0] != '\0') { /* of two, nobody knows which is meant */
                return false;
            }
            memcpy(a->argument, a->in + value.off, value.len);
            a->argument[value.len] = '\0';
        }
    }
    return more == 0;
}

/* Whether the request bears the token. If not it has been answered, or is looked at again later. */
static bool has_token(struct admin_client *a)
{
    bool changes = a->route->methods[0] == 'P';
    uint32_t wait_ms;
    if (refused(a, guard_token(ad.conf, &a->conn->peer, &a->request, a->in, changes, a->delayed, loop_ms(), &wait_ms))) {
        return false;
    }
    if (wait_ms > 0) {
        a->delayed = true;
        stats.auth_delayed++;
        set_state(a, DELAYED, wait_ms);
        return false;
    }
    a->known = ad.conf->admin_token[0] != '\0';
    return true;
}

static void act(struct admin_client *a)
{
    if (a->route->act != NULL) {
        a->route->act(a, a->argument);
    } else {
        answer_document(a, 200, a->route->says, NULL);
    }
}

/* Drops what has come of the request's body; false: more of it is to come. */
static bool body_over(struct admin_client *a)
{
    size_t head = a->request.head, n = http_body(&a->request, a->have - head);
    memmove(a->in + head, a->in + head + n, a->have - head - n);
    a->have -= n;
    return a->request.body == 0;
}

/* A whole head: whether it is answered, and by whom. */
static void judge(struct admin_client *a)
{
    const struct http_request *r = &a->request;
    if (refused(a, guard_site(ad.conf, &a->conn->peer, r, a->in))) {
        return;
    }
    if ((a->route = route_of(a)) == NULL) {
        refuse(a, &stats.admin_malformed, 404, "there is nothing at this path");
    } else if ((r->method == HTTP_POST) != (a->route->methods[0] == 'P')) {
        refuse(a, &stats.admin_malformed, 405, "this path is not asked by that method");
    } else if (a->route->open || has_token(a)) {
        if (a->limited) {
            a->limited = false;
            set_state(a, DELAYED, PACE_MS);
        } else if (!read_argument(a)) {
            refuse(a, &stats.admin_malformed, 400, "the query is malformed, too long, or names two");
        } else if (r->method == HTTP_POST && a->route->argument != NULL && a->argument[0] == '\0') {
            refuse(a, &stats.admin_malformed, 400, "the query has to name what is meant: ?backend=HOST:PORT, ?client=NUMBER, ?level=WORD");
        } else if (body_over(a)) {
            act(a);
        } else {
            set_state(a, BODY, SLOW_MS);
            if (r->expects) {
                memcpy(a->out, HTTP_CONTINUE, sizeof HTTP_CONTINUE - 1);
                a->from = 0;
                a->to = sizeof HTTP_CONTINUE - 1;
                conn_dirty(a->conn);
            }
        }
    }
}

/* ----------------------------------------------------------- the connection */

/* What stands in in[] is looked at. */
static void take(struct admin_client *a)
{
    enum http_status got;
    if (a->state == BODY) {
        if (body_over(a) && a->from == a->to) { /* what it was told to go on by is out */
            act(a);
        }
        return;
    }
    got = http_read(&a->request, a->in, a->have);
    if (got == HTTP_MORE) {
        return;
    }
    a->last = got == HTTP_BAD;
    a->limited = !guard_counts(&a->conn->peer, 1, loop_ms());
    if (got == HTTP_BAD) {
        refuse(a, &stats.admin_malformed, a->request.error, answer_reason(a->request.error));
    } else {
        judge(a);
    }
}

/* The answer is out: the connection ends, or the next request begins, which may be here already. */
static void next(struct admin_client *a)
{
    size_t done = a->request.head;
    stats.admin_requests++;
    if (a->last) {
        conn_finish(a->conn, FINISH_MS);
        return;
    }
    memmove(a->in, a->in + done, a->have - done);
    a->have -= done;
    http_start(&a->request);
    a->delayed = false;
    a->page = NULL;
    a->page_len = 0;
    set_state(a, READING, a->have > 0 ? SLOW_MS : IDLE_MS);
    if (a->have > 0) {
        take(a);
    }
}

static void on_bytes(struct conn *conn)
{
    struct admin_client *a = conn->owner;
    ssize_t n = conn_receive(conn, a->in + a->have, sizeof a->in - a->have);
    if (n == CONN_FAILED || n == CONN_NOTHING) {
        return;
    }
    if (n == CONN_ENDED) { /* while it is answered nothing is read: so it has its answers */
        conn_fail(conn, "it has ended");
        return;
    }
    if (a->have == 0) {
        set_state(a, READING, SLOW_MS);
    }
    a->have += (size_t)n;
    take(a);
}

static int gather(struct conn *conn, struct iovec *iov, int max)
{
    struct admin_client *a = conn->owner;
    int n = 0;
    if (a->to > a->from && max > 0) {
        iov[n].iov_base = a->out + a->from;
        iov[n++].iov_len = a->to - a->from;
    }
    if (a->page_len > 0 && a->state == ANSWERING && n < max) {
        iov[n].iov_base = (void *)(uintptr_t)a->page;
        iov[n++].iov_len = a->page_len;
    }
    return n;
}

static void on_sent(struct conn *conn, size_t n)
{
    struct admin_client *a = conn->owner;
    size_t own = n < a->to - a->from ? n : a->to - a->from;
    a->from += own;
    if (n > own) {
        a->page += n - own;
        a->page_len -= n - own;
    }
}

/* All of out[] has gone: the next piece, one a turn, or the next request. */
static void on_room(struct conn *conn)
{
    struct admin_client *a = conn->owner;
    if (a->state == BODY) {
        take(a);
    } else if (a->state == ANSWERING && a->over) {
        next(a);
    } else if (a->state == ANSWERING) {
        put_chunk(a, piece(a));
        conn_dirty(conn);
    }
}

static void on_close(struct conn *conn, const char *why)
{
    struct admin_client *a = conn->owner;
    char text[ADDRESS_TEXT];
    log_debug("operator's connection closed", "client=%s why=\"%s\"", address_text(&conn->peer, text), why);
    if (a->state == ASKED && action_forget != NULL) {
        action_forget(a);
    }
    a->conn = NULL;
}

static void on_tick(struct conn *conn)
{
    struct admin_client *a = conn->owner;
    if (a->state == DELAYED) {
        judge(a);
    } else if (a->state == ASKED) {
        if (action_forget != NULL) {
            action_forget(a);
        }
        answer_error(a, 409, "no word of the reload yet: the log will have it");
    } else if (a->state == BODY || (a->state == READING && a->have > 0)) {
        a->last = true;
        a->request.error = 408;
        refuse(a, &stats.admin_slow, 408, "the request was not whole in time");
    } else {
        conn_fail(conn, "idle");
    }
}

static const struct conn_ops admin_ops = {
    .kind = "admin",
    .on_bytes = on_bytes,
    .on_room = on_room,
    .on_close = on_close,
    .on_tick = on_tick,
    .gather = gather,
    .on_sent = on_sent,
};

/* ------------------------------------------------------------- the whole */

static bool is_older(const struct admin_client *a, const struct admin_client *than)
{
    return a->since_ms != than->since_ms ? a->since_ms < than->since_ms : a->conn->id < than->conn->id;
}

/* Addresses are counted in so few places that two may share one: then they count as one address. */
static uint8_t crowd_of(const struct address *peer)
{
    uint64_t net;
    (void)address_source(peer, &net);
    return (uint8_t)(net * UINT64_C(0x9e3779b97f4a7c15) >> 56);
}

/* A free entry; if need be that of another connection: of the address that has most of them, the one that has begun or ended nothing for
 * longest. Who only holds one keeps nobody out: it goes for anybody whose address has no more of them. Nor does who is always
 * busy with a wrong token, or with not reading: without the token it goes in the middle of that, for an address that has fewer. */
static struct admin_client *entry(uint8_t crowd)
{
    struct admin_client *victim = NULL;
    uint16_t counts[UINT8_MAX + 1] = { 0 };
    for (struct admin_client *a = ad.all; a < ad.all + ad.total; a++) {
        if (a->conn == NULL) {
            return a;
        }
        counts[a->crowd]++;
    }
    for (struct admin_client *a = ad.all; a < ad.all + ad.total; a++) {
        bool rests = a->state == READING || a->conn->state != CONN_OPEN;
        if ((rests ? counts[a->crowd] < counts[crowd] : a->known || counts[a->crowd] < counts[crowd] + 2) ||
            (victim != NULL && counts[a->crowd] < counts[victim->crowd])) {
            continue;
        }
        if (victim == NULL || counts[a->crowd] > counts[victim->crowd] || is_older(a, victim)) {
            victim = a;
        }
    }
    if (victim != NULL) {
        stats.admin_crowded++;
        conn_fail(victim->conn, "another one needs its place (admin_clients)");
    }
    return victim;
}

static void on_accept(void *mark, int fd, const struct address *peer)
{
    static const char full[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 65\r\n"
                               "Connection: close\r\nRetry-After: 1\r\n\r\n"
                               "{\"error\":\"all connections are busy (admin_clients)\",\"status\":503}";
    const uint8_t crowd = crowd_of(peer);
    struct admin_client *a = conn_full(CONN_ADMIN) ? NULL : entry(crowd);
    struct conn *conn = a != NULL ? conn_take(CONN_ADMIN, &admin_ops, a) : NULL;
    (void)mark;
    if (conn == NULL) {
        struct iovec iov = { (void *)(uintptr_t)full, sizeof full - 1 };
        ssize_t ignored = net_send(fd, &iov, 1);
        (void)ignored;
        stats.admin_crowded++;
        net_close(fd);
        return;
    }
    memset(a, 0, offsetof(struct admin_client, argument));
    a->conn = conn;
    a->crowd = crowd;
    conn->peer = *peer;
    conn->stall_limit_ms = STALL_MS;
    if (!conn_adopt(conn, fd)) {
        a->conn = NULL;
        return;
    }
    http_start(&a->request);
    set_state(a, READING, SLOW_MS);
    on_bytes(conn); /* who asks at once is not taken for one who only holds a place */
}

void admin_tables(const struct conf *conf)
{
    ad.total = conf->admins > 0 ? conf->admin_clients : 0;
    ad.all = arena_take("admin clients", ad.total, sizeof *ad.all);
}

void admin_open(const struct conf *conf, const int *fds)
{
    ad.conf = conf;
    for (int i = 0; i < conf->admins; i++) {
        ad.listeners[i].on_accept = on_accept;
        conn_listen(&ad.listeners[i], fds[i]);
    }
}
