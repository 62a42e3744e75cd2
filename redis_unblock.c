/*
 * redis_unblock.c - CLIENT UNBLOCK, and what else ends a blocking command from outside.
 *
 *   UNBLOCK id    not at a node yet   answered here, in a server's words
 *                 at a node           an errand: CLIENT UNBLOCK <what the node calls the connection> on the shared one
 *                                        |     the name is asked for when the connection is dialled (CLIENT ID)
 *                                        `---> its :1 or :0 is the answer; what has been popped is never lost
 *
 * A :0 for what is still blocked means that the node has not read yet what it was sent: it is asked again. Meanwhile the
 * connection is lent to nobody else, who would be let go in its client's place.
 */
#include "redis.h"

#include <stdio.h>
#include <string.h>

#define AGAIN_MS 10       /* a node that does not know yet of what has been sent to it is asked again so soon */
#define AGAIN_MAX 250     /* so often */
#define NUMBER_CAP 24
#define LINE_CAP 128

static struct {
    struct req *again;       /* errands to be sent once more */
    struct timer timer;
} ub;

/* --------------------------------------------------------------- the errand */

/* Whether some of it has gone to a node. */
static bool is_sent(const struct req *r)
{
    return r->state == REQ_QUEUED && (r->upstream->unsent != r || r->upstream->unsent_off > 0);
}

/* Whoever asked hears how it went. */
static void tell(struct req *asker, const unsigned char *p, size_t n)
{
    if (asker == NULL) {
        return;
    }
    if (n > 0) {
        req_answer(asker, (const char *)p, n);
    } else {
        req_error(asker, "ERR outcome unknown: the node that blocks the client was lost before it answered");
    }
}

/* The node has let the client go, or has nothing to let go: perhaps it has not read yet what it was sent. */
static bool on_told(struct req *e, const unsigned char *p, size_t n, bool last)
{
    struct upstream *u = lease_at(e->mark);
    bool blocked = u->head != NULL && (u->head->flags & REQ_BLOCKS) != 0;
    if (!last) {
        return true;
    }
    if (n > 1 && p[0] == ':' && p[1] == '0' && blocked && e->part++ < AGAIN_MAX) {
        e->state = REQ_WAITING;
        e->next = ub.again;
        ub.again = e;
        if (ub.timer.next == NULL) {
            loop_timer(&ub.timer, loop_ms() + AGAIN_MS);
        }
        return true;
    }
    u->pinned--;
    tell(e->whom, p, n);
    req_free(e);
    lease_on_free();
    return true;
}

static void send_errand(struct req *e)
{
    struct upstream *shared = backend_at((uint16_t)(e->to - 1)) != NULL ? backend_at((uint16_t)(e->to - 1))->shared[0] : NULL;
    if (shared == NULL) {
        (void)on_told(e, NULL, 0, true);
        return;
    }
    upstream_put(shared, e);
    if (shared->conn == NULL) {
        upstream_connect(shared);
    } else {
        upstream_dirty(shared);
    }
}

static void on_again(struct timer *t)
{
    struct req *list = ub.again;
    (void)t;
    ub.again = NULL;
    while (list != NULL) {
        struct req *e = list;
        list = e->next;
        send_errand(e);
    }
}

/* Asks the node on which r is blocked to let it go, for `asker`, which may be nobody. False: no room now. */
static bool ask_node(const struct req *r, struct req *asker, bool error)
{
    struct upstream *u = r->upstream;
    struct req *e = req_take(NULL, NULL, on_told);
    char id[NUMBER_CAP], text[LINE_CAP];
    int n = snprintf(id, sizeof id, "%llu", (unsigned long long)u->node_id);
    n = snprintf(text, sizeof text, "*4\r\n$6\r\nCLIENT\r\n$7\r\nUNBLOCK\r\n$%d\r\n%s\r\n%s", n, id,
                 error ? "$5\r\nERROR\r\n" : "$7\r\nTIMEOUT\r\n");
    if (e == NULL || !pen_write(&u->backend->shared[0]->pen, BUF_REPLY, text, (size_t)n, &e->bytes)) {
        if (e != NULL) {
            req_free(e);
        }
        return false;
    }
    e->service = u->backend->service;
    e->whom = asker;
    e->mark = lease_index(u);
    e->to = (uint16_t)(u->backend->index + 1u);
    u->pinned++;
    send_errand(e);
    return true;
}

void unblock_at_end(struct client *c)
{
    struct req *r = c->block;
    if (r != NULL && r->state == REQ_PARTS) {
        wait_end(r);
    } else if (r != NULL && !(is_sent(r) && r->upstream->node_id != 0 && ask_node(r, NULL, true))) {
        block_left(c);
    }
}

/* ------------------------------------------------------------ CLIENT UNBLOCK */

/* No node knows of it yet: it is let go here, in the words of a server. */
static void let_go(struct req *r, bool error)
{
    const char *null = r->client->resp3 ? "_\r\n" : "*-1\r\n";
    if (!error && r->state == REQ_PARTS) {
        wait_end(r);
        return;
    }
    block_take_back(r);
    if (error) {
        req_error(r, "UNBLOCKED client unblocked via CLIENT UNBLOCK");
    } else {
        req_answer(r, null, strlen(null));
    }
}

static bool is_word(const struct request *q, uint32_t i, const char *word)
{
    size_t n = strlen(word);
    for (size_t at = 0; at < n && q->arg[i].len == n; at++) {
        if ((q->p[q->arg[i].off + at] | 32) != word[at]) {
            return false;
        }
    }
    return q->arg[i].len == n;
}

/* The node decides; its answer is put where it belongs. */
static enum verdict pass_on(struct client *c, const struct request *q, struct req *target, bool error)
{
    struct req *r;
    if (target->upstream->node_id == 0) {
        return client_said(c, client_error(c, "ERR its node does not tell CLIENT ID, by which alone it could be unblocked"));
    }
    r = req_take(c, q->command, req_to_client);
    if (r == NULL) {
        return client_said(c, false);
    }
    r->state = REQ_PARTS;
    r->slot = target->slot;
    req_enqueue(r);
    req_commit(r);
    c->gate = true; /* what it asks next must come after it */
    if (!ask_node(target, r, error)) {
        req_error(r, "ERR not executed: no room for the request (chunks, max_requests)");
    }
    return VERDICT_DONE;
}

enum verdict unblock(struct client *c, const struct request *q)
{
    bool error = q->argc == 4 && is_word(q, 3, "error");
    struct client *target;
    int64_t id;
    if (q->argc != 3 && q->argc != 4) {
        return client_said(c, client_error(c, q->argc < 3 ? "ERR wrong number of arguments for 'client|unblock' command"
                                           : "ERR unknown subcommand or wrong number of arguments for 'UNBLOCK'. "
                                           "Try CLIENT HELP."));
    }
    if (q->argc == 4 && !error && !is_word(q, 3, "timeout")) {
        return client_said(c, client_error(c, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"));
    }
    if (!resp_to_int(q->p + q->arg[2].off, q->arg[2].len, &id)) {
        return client_said(c, client_error(c, "ERR value is not an integer or out of range"));
    }
    if (c->unsettled > 0) {
        return VERDICT_WAIT; /* what it has asked before comes before */
    }
    target = id > 0 ? block_client(c->service, (uint64_t)id) : NULL;
    if (target == NULL || target->block == NULL) {
        return client_said(c, client_answer(c, ":0\r\n", 4));
    }
    if (is_sent(target->block)) {
        return pass_on(c, q, target->block, error);
    }
    if (!client_answer(c, ":1\r\n", 4)) {
        return client_said(c, false);
    }
    let_go(target->block, error);
    return VERDICT_DONE;
}

/* ------------------------------------------------------------- the greeting */

static size_t ask_id(struct upstream *u, unsigned char *out, size_t cap)
{
    static const char line[] = "*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n";
    (void)u;
    must(cap >= sizeof line);
    memcpy(out, line, sizeof line - 1);
    return sizeof line - 1;
}

/* Where a node's user may not ask, its clients are not unblocked; all else works. Another error is about the connection. */
static bool note_id(struct upstream *u, const unsigned char *p, size_t n)
{
    int64_t id = 0;
    u->node_id = *p == ':' && n > 3 && resp_to_int(p + 1, n - 3, &id) && id > 0 ? (uint64_t)id : 0;
    return *p != '-' || (n > 7 && (memcmp(p, "-NOPERM", 7) == 0 || memcmp(p, "-ERR un", 7) == 0));
}

static const struct lease_greeting greeting = { ask_id, note_id };

void redis_unblock_open(void)
{
    ub.timer.on_due = on_again;
    lease_greetings[LEASE_BLOCK] = &greeting;
}
