/*
 * redis_function.c - a node that becomes a master is given the functions that the others have.
 *
 *   owned no slots, now owns some -----.
 *   "Function not found", once a gain --+--> WANTED --> FUNCTION DUMP to one master after the other, until one has any
 *                                             |  |        |
 *                     none has any, or too late  |     payload -> FUNCTION RESTORE payload APPEND to the node: SENT
 *                                             v  v                                              |
 *                                             IDLE <--------------------------------------------'
 *
 * FUNCTION LOAD goes to the masters there are; one server would have the function for all keys, now and later. APPEND is
 * all or nothing and overwrites nothing: where a library is there already (a promoted replica, a node that redis-cli has
 * added), the node refuses, and that is right.
 *
 * When Puerta starts all masters are new to it, and none is given anything: nobody knows what was meant. But a function
 * that a client asks for, and that only its node has not got, is fetched.
 *
 * A node that slots are only on their way to has an FCALL sent on to it by ASK, and is given functions early. It hears of no
 * FUNCTION LOAD or DELETE as masters do, so those are told it here until it owns slots.
 *
 * What a client deletes stays deleted. A node's shared connection keeps the order of what goes over it, so it is enough that
 * no dump is asked for while a client's FUNCTION LOAD, DELETE, FLUSH or RESTORE is under way, and that such a one waits while
 * a node is WANTED (a LOAD also because APPEND would refuse after it). Behind a RESTORE in the node's queue it may go. What
 * goes to the servers past this Puerta has no order with this.
 *
 * One copy is made at a time. One that comes to nothing ends after COPY_MS: nobody waits longer for it.
 */
#include "redis.h"

#include <string.h>

#define COPY_MS 1000          /* at most half of request_timeout and of failover_wait, since requests wait for it */
#define LOOK_MS 20            /* how often a copy that waits is looked at */
#define REST_MS 1000          /* after one that came to nothing no request wakes another for so long */
#define EMPTY_DUMP 10         /* bytes of a payload without libraries: its version and its sum */

static const char dump[] = "*2\r\n$8\r\nFUNCTION\r\n$4\r\nDUMP\r\n";
static const char head[] = "*4\r\n$8\r\nFUNCTION\r\n$7\r\nRESTORE\r\n"; /* the dump's reply, a bulk, goes on as it comes */
static const char tail[] = "$6\r\nAPPEND\r\n";
static const char known[] = "already exists\r\n"; /* so ends the refusal of what has a library, or a function, of that name */
#define KNOWN_LEN (sizeof known - 1)

enum copy_state { IDLE, WANTED, SENT };

/* Of one node, by its index. */
struct copy {
    uint64_t until_ms, rest_ms; /* WANTED, SENT: it is given up then; IDLE: before that no request wakes it */
    uint8_t state;
    uint64_t tried_ms;        /* when it was given all there is while it owned nothing yet; 0: it was not */
    bool owner;               /* it owned slots when that was last looked at */
    bool early;               /* it was given functions when it did not */
};

static struct {
    struct copy *all;
    struct timer timer;
    struct backend *target, *source; /* source: who has been asked for a dump; NULL: nobody */
    uint32_t at;              /* index of the next one to ask for this target */
    bool answered;            /* one has: it has none */
    uint32_t number;          /* of the dump under way; what an earlier one brings is dropped */
    struct slice restore;     /* the request being made of it */
} fc;

void redis_function_tables(const struct conf *conf)
{
    fc.all = arena_take("function copies", conf->max_backends, sizeof *fc.all);
}

/* Node i if it is one of s, else NULL. */
static struct backend *node_of(const struct service *s, uint32_t i)
{
    struct backend *b = backend_at((uint16_t)i);
    return b != NULL && b->service == s ? b : NULL;
}

/* --------------------------------------------------- who is to get them */

static void want(struct backend *b)
{
    const struct conf_service *conf = b->service->conf;
    uint32_t limit = conf->request_timeout_ms < conf->failover_wait_ms ? conf->request_timeout_ms : conf->failover_wait_ms;
    struct copy *c = &fc.all[b->index];
    if (c->state == IDLE) {
        c->state = WANTED;
        c->until_ms = loop_ms() + (limit / 2 < COPY_MS ? limit / 2 : COPY_MS);
        loop_timer(&fc.timer, loop_ms());
    }
}

/* Slots have changed hands. */
static void on_owners(struct service *s)
{
    for (uint32_t i = 0; i < backend_cap() && !s->conf->single; i++) {
        struct backend *b = node_of(s, i);
        bool owns = b != NULL && b->slots > 0;
        fc.all[i] = backend_at((uint16_t)i) != NULL ? fc.all[i] : (struct copy){ 0 }; /* another node may get its entry */
        if (b != NULL && owns != fc.all[i].owner) {
            bool tried = owns && fc.all[i].tried_ms != 0 && loop_ms() - fc.all[i].tried_ms < REST_MS;
            fc.all[i].owner = owns;
            fc.all[i].early = false;
            fc.all[i].rest_ms = tried ? UINT64_MAX : 0;
            if (owns && !tried && s->gains > 1) { /* 1 is the map that Puerta begins with */
                want(b);
            }
        }
    }
}

/* b has not got the function that r calls. True: r may be sent once more, since b is being given what there is. */
static bool missing(const struct req *r, struct backend *b)
{
    struct copy *c = &fc.all[b->index];
    if (b->service->conf->single || strncmp(r->command->name, "fcall", 5) != 0) {
        return false;
    }
    if ((r->flags & REQ_FUNCTION) == 0 && loop_ms() >= c->rest_ms) {
        want(b);
    }
    return c->state != IDLE;
}

/* It is over for this node. Clients' writes that waited for it go on. */
static void settle(struct backend *b, bool told)
{
    struct copy *c = &fc.all[b->index];
    c->state = IDLE;
    c->rest_ms = told ? UINT64_MAX : loop_ms() + REST_MS;
    c->tried_ms = told && !c->owner ? loop_ms() : 0;
    fc.target = fc.target == b ? NULL : fc.target;
    redis_req_relieve();
}

/* --------------------------------------------------- what clients change */

static bool changes(const struct command *command)
{
    return (command->flags & CMD_WRITE) != 0 && strncmp(command->name, "function|", 9) == 0;
}

/* What a client changes on the masters is changed on those that were given functions before they are masters. A request that
 * is put off comes by again: to be told the same twice, last of all, does no harm. */
static void tell_early(const struct service *s, const struct request *q)
{
    for (uint32_t i = 0; i < backend_cap(); i++) {
        struct backend *b = node_of(s, i);
        struct req *r = b != NULL && fc.all[i].early ? req_take(NULL, NULL, req_drop) : NULL;
        if (r != NULL && slice_extend(&r->bytes, BUF_REQUEST, q->p, q->len)) {
            r->service = b->service;
            req_send(r, b);
        } else if (r != NULL) {
            req_free(r);
        }
    }
}

bool function_waits(const struct client *c, const struct request *q)
{
    bool waits = false;
    for (uint32_t i = 0; i < backend_cap() && changes(q->command); i++) {
        if (node_of(c->service, i) != NULL) {
            waits = waits || fc.all[i].state == WANTED;
            /* After it the masters have what they are meant to have: what one has not got may have been deleted. */
            fc.all[i].rest_ms = fc.all[i].owner ? UINT64_MAX : fc.all[i].rest_ms;
        }
    }
    if (!waits && changes(q->command) && c->login == NULL) { /* whether its user may, its own connections are told */
        tell_early(c->service, q);
    }
    return waits;
}

/* ------------------------------------------------------ to the new one */

/* The node's answer to RESTORE; n == 0: its connection was lost. */
static bool take_restored(struct req *r, const unsigned char *p, size_t n, bool last)
{
    struct backend *b = backend_at((uint16_t)r->mark);
    bool done = n > 0 && *p == '+', has_some = n > KNOWN_LEN && memcmp(p + n - KNOWN_LEN, known, KNOWN_LEN) == 0;
    char text[160];
    must(last && b != NULL); /* the entry of a node stays while its queue has something */
    req_free(r);
    if (n == 0 && loop_ms() < fc.all[b->index].until_ms) {
        fc.all[b->index].state = WANTED;
        loop_timer(&fc.timer, loop_ms() + LOOK_MS);
        return true;
    }
    settle(b, done || has_some);
    fc.all[b->index].early = done && !fc.all[b->index].owner;
    if (done) {
        stats.functions_copied++;
        log_info("a new master has got the functions", "node=%s:%u", b->host, (unsigned)b->port);
    } else if (!has_some) {
        log_warn("a new master has not got the functions", "node=%s:%u said=%s", b->host, (unsigned)b->port,
                 log_quote((const char *)p, n, text, sizeof text));
    }
    return true;
}

/* The dump under way is over, or not waited for any more. */
static void dump_ends(void)
{
    fc.number++;
    fc.source = NULL;
    slice_release(&fc.restore);
    loop_timer(&fc.timer, loop_ms());
}

/* The dump is whole. */
static void send_restore(struct backend *b)
{
    bool whole = slice_extend(&fc.restore, BUF_REQUEST, tail, sizeof tail - 1);
    struct req *r = whole ? req_take(NULL, NULL, take_restored) : NULL;
    if (r == NULL) {
        return; /* no room: it is asked for once more */
    }
    r->service = b->service;
    r->mark = b->index;
    r->bytes = fc.restore;
    fc.restore = (struct slice){ 0 };
    fc.target = NULL;
    fc.all[b->index].state = SENT;
    redis_req_relieve();
    req_send(r, b);
}

/* ------------------------------------------------------ from another one */

/* Whether the first piece of a dump promises libraries that may be copied. An error (a server before 7.0, or one that does
 * not let us) means that there are none to be had. */
static bool promises(const unsigned char *p, size_t n)
{
    const unsigned char *end = memchr(p, '\r', n < 24 ? n : 24);
    int64_t len;
    if (*p != '$' || end == NULL || !resp_to_int(p + 1, (size_t)(end - p) - 1, &len) || len <= EMPTY_DUMP) {
        fc.answered = true;
        return false;
    }
    if ((uint64_t)len > fc.target->service->conf->retain_bytes) {
        stats.functions_too_long++;
        log_warn("the functions are too long to be copied to a new master (retain_bytes)", "node=%s:%u bytes=%lld",
                 fc.target->host, (unsigned)fc.target->port, (long long)len);
        settle(fc.target, true);
        return false;
    }
    return true;
}

/* The answer to DUMP, perhaps in pieces; n == 0: its connection was lost. Where something fails the next node is asked. It
 * never says that it has no room: a node's connection would stand still. */
static bool take_dump(struct req *r, const unsigned char *p, size_t n, bool last)
{
    if (r->mark == fc.number && fc.source != NULL && fc.all[fc.target->index].state == WANTED) {
        bool begins = fc.restore.len == sizeof head - 1;
        bool kept = n > 0 && (!begins || promises(p, n)) && slice_extend(&fc.restore, BUF_REQUEST, p, n);
        if (kept && last) {
            send_restore(fc.target);
        }
        if (!kept || last) {
            dump_ends();
        }
    }
    if (last) {
        req_free(r);
    }
    return true;
}

/* The first node from `from` on that could have the functions: a master that waits for none itself. `up`: and can be asked. */
static struct backend *source_from(uint32_t from, bool up)
{
    for (uint32_t i = from; i < backend_cap(); i++) {
        struct backend *b = node_of(fc.target->service, i);
        if (b != NULL && b->slots > 0 && fc.all[i].state == IDLE && (!up || (b->state == BACKEND_UP && !backend_is_down(b)))) {
            return b;
        }
    }
    return NULL;
}

static void ask(struct backend *b)
{
    struct req *r = req_take(NULL, NULL, take_dump);
    if (r == NULL) {
        return;
    }
    if (!pen_write(&b->shared[0]->pen, BUF_REQUEST, dump, sizeof dump - 1, &r->bytes) ||
        !slice_extend(&fc.restore, BUF_REQUEST, head, sizeof head - 1)) {
        req_free(r);
        return;
    }
    r->service = b->service;
    r->flags = REQ_OURS;
    r->mark = fc.number;
    fc.source = b;
    fc.at = b->index + 1u;
    req_send(r, b);
}

/* ------------------------------------------------------------- one by one */

/* The node whose turn it is; NULL: there is none. */
static struct backend *target(void)
{
    for (uint32_t i = 0; i < backend_cap() && fc.target == NULL; i++) {
        if (fc.all[i].state == WANTED) {
            fc.target = backend_at((uint16_t)i);
            fc.at = 0;
            fc.answered = false;
        }
    }
    return fc.target;
}

static void on_due(struct timer *t)
{
    uint64_t now = loop_ms();
    if (fc.source != NULL && (fc.source->state != BACKEND_UP || backend_is_down(fc.source) || now >= fc.all[fc.target->index].until_ms)) {
        dump_ends();
    }
    while (fc.source == NULL && target() != NULL) {
        struct backend *next = source_from(fc.at, true);
        if (now >= fc.all[fc.target->index].until_ms) {
            settle(fc.target, false);
        } else if (next == NULL && (fc.answered || source_from(0, false) == NULL)) {
            settle(fc.target, true);
        } else {
            if (next != NULL && !req_any(fc.target->service, changes)) {
                ask(next);
            }
            fc.at = next == NULL ? 0 : fc.at; /* all of them once more */
            break;
        }
    }
    if (fc.target != NULL) {
        loop_timer(t, now + LOOK_MS);
    }
}

void redis_function_open(void)
{
    fc.timer.on_due = on_due;
    req_on_owners = on_owners;
    req_function_missing = missing;
}
