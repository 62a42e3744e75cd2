/*
 * redis_hand.c - clients of Redis mode in an upgrade: which can go to the next worker, and what goes with them.
 *
 *   old worker   a client without state -- reads no more --> all is answered and sent -- struct handed --> given
 *                  given -- taken --> closed here, without a word to it
 *                        -- refused --> reads on, and is offered again later
 *   new worker   struct handed --> a client as if just accepted, with its name and protocol, without a greeting
 *
 * Without state: no transaction, no WATCH, no subscription, no login or connections of its own, nothing that blocks. What it has
 * sent and nobody has begun with goes along; what is still in the kernel goes by itself.
 */
#include "redis.h"

#include <string.h>

#define LOOK_AT 8192            /* clients in one look: a table of any size is gone through in a few */
#define AGAIN_MS 1000           /* until one that was refused is offered again */

struct state {
    uint32_t guesses, reply_bytes, window;
    bool resp3, admitted, wrote;
    char name[64];
    char lib_name[40], lib_ver[24];
};

static struct {
    struct client *all;
    uint32_t count, at;
    uint64_t again_ms;          /* those that were refused are offered again then */
    struct client *(*begin)(struct service *s, int fd, const struct address *peer);
} rh;

/* ---------------------------------------------------------- the old worker */

/* Whether all that is known of c fits into its record. */
static bool is_plain(const struct client *c)
{
    bool in_transaction = c->multi_state != MULTI_NONE || c->multi.ending || c->watch != NULL || c->watch_lost;
    bool own = c->owns || c->own != NULL || c->login != NULL || c->trial != NULL || c->lease != NULL || c->large != NULL || c->mode != 0;
    bool listens = c->subscribed || c->sub.list != NULL || c->sub.since_ms != 0 || c->tracks || c->tracking != NULL || c->monitor != MONITOR_OFF;
    bool half = c->block != NULL || c->reply != REPLY_ON || c->caching != 0 || c->guess_ms != 0 || c->ended || c->leaving || c->doom != NULL;
    return !in_transaction && !own && !listens && !half && c->in.len <= HAND_INPUT;
}

/* One that is about to be resumed would be so here, with a request that has been given away. */
static bool rests(const struct client *c)
{
    return !c->resuming && !c->starved && c->head == NULL && c->queued == 0 && c->unsettled == 0 && c->held == 0 && c->parked_bytes == 0 && !c->halfway &&
           c->conn->out.len == 0 && !c->conn->blocked && !c->conn->midway;
}

static void describe(const struct client *c, struct handed *h)
{
    struct state s;
    memset(&s, 0, sizeof s);
    s.guesses = c->guesses;
    s.reply_bytes = c->reply_bytes;
    s.window = c->window;
    s.resp3 = c->resp3;
    s.admitted = c->admitted;
    s.wrote = c->wrote != 0;
    memcpy(s.name, c->name, sizeof s.name);
    memcpy(s.lib_name, c->lib_name, sizeof s.lib_name);
    memcpy(s.lib_ver, c->lib_ver, sizeof s.lib_ver);
    hand_begin(h, SERVICE_REDIS, (uint32_t)(c - rh.all), c->conn, c->service->conf->name);
    h->age_ms = loop_ms() - c->born_ms;
    h->state_len = (uint16_t)sizeof s;
    memcpy(h->state, &s, sizeof s);
    h->input_len = (uint16_t)c->in.len;
    chain_copy(&c->in, h->input, c->in.len);
}

static bool give_one(struct client *c, bool (*give)(const struct handed *, const int *))
{
    static struct handed h;
    describe(c, &h);
    if (!give(&h, &c->conn->fd)) {
        return false;
    }
    conn_given(c->conn, true);
    return true;
}

/* It is this worker's again. */
static void go_on(struct client *c)
{
    if (c->conn->given) {
        conn_given(c->conn, false);
        client_resume(c); /* what it has sent may wait for nothing else */
    }
    conn_still(c->conn, false);
}

void redis_hand(bool (*give)(const struct handed *, const int *))
{
    uint32_t n = rh.count < LOOK_AT ? rh.count : LOOK_AT; /* looked at in this turn */
    for (uint32_t i = 0; i < rh.count && loop_ms() >= rh.again_ms; i++) {
        rh.all[i].stays = false;
    }
    rh.again_ms = loop_ms() >= rh.again_ms ? loop_ms() + AGAIN_MS : rh.again_ms;
    for (; n > 0; n--, rh.at = (rh.at + 1) % rh.count) {
        struct client *c = &rh.all[rh.at];
        if (c->conn == NULL || c->conn->state != CONN_OPEN || c->conn->given || c->stays) {
            continue;
        }
        if (!is_plain(c)) {
            conn_still(c->conn, false);
            continue;
        }
        conn_still(c->conn, true);
        if (rests(c) && !give_one(c, give)) {
            return;
        }
    }
}

/* What was given to one that has died may have been begun with there. */
static void all_lost(void)
{
    for (uint32_t i = 0; i < rh.count; i++) {
        struct client *c = &rh.all[i];
        if (c->conn != NULL && c->conn->given) {
            conn_fail(c->conn, "the next worker died while it was handed over");
        } else if (c->conn != NULL && c->conn->stilled) {
            go_on(c);
        }
    }
}

void redis_given(uint32_t entry, uint64_t id, enum hand_fate fate)
{
    struct client *c = &rh.all[entry];
    if (fate == HAND_LOST) {
        all_lost();
    } else if (entry >= rh.count || c->conn == NULL || c->conn->id != id || !c->conn->given) {
        return; /* it has left meanwhile */
    } else if (fate == HAND_TAKEN) {
        conn_fail(c->conn, "handed over");
    } else {
        c->stays = true;
        go_on(c);
    }
}

/* ---------------------------------------------------------- the new worker */

static struct service *section_of(const struct handed *h)
{
    struct service *s;
    for (int i = 0; (s = service_at(i)) != NULL; i++) {
        if (s->conf->kind == SERVICE_REDIS && strcmp(s->conf->name, h->section) == 0) {
            return s;
        }
    }
    return NULL;
}

/* Which nodes it has written to is not told, for they have other numbers here: any that is a master now is asked by its WAIT. */
static uint64_t all_masters(const struct service *s)
{
    uint64_t mask = 0;
    for (uint16_t i = 0; i < backend_cap(); i++) {
        const struct backend *b = backend_at(i);
        mask |= b != NULL && b->service == s && b->slots > 0 ? UINT64_C(1) << (i & 63) : 0;
    }
    return mask;
}

bool redis_adopt(const struct handed *h, const int *fds)
{
    struct service *s = section_of(h);
    struct state state;
    struct client *c;
    if (s == NULL || h->state_len != sizeof state || h->fd_count != 1 || !buf_may_take(BUF_REQUEST)) {
        return false;
    }
    memcpy(&state, h->state, sizeof state);
    if ((state.resp3 && upstream_classes() < 2) || (c = rh.begin(s, fds[0], &h->peer)) == NULL) {
        return false;
    }
    gate_adopt(s, c->conn);
    c->conn->id = h->id;
    c->born_ms = loop_ms() > h->age_ms ? loop_ms() - h->age_ms : 0;
    c->guesses = state.guesses;
    c->reply_bytes = state.reply_bytes;
    c->window = state.window;
    c->resp3 = state.resp3;
    if (state.admitted) {
        user_admit(c);
    }
    c->wrote = c->unsure = state.wrote ? all_masters(s) : 0;
    c->wrote_ms = loop_ms();
    memcpy(c->name, state.name, sizeof c->name - 1);
    memcpy(c->lib_name, state.lib_name, sizeof c->lib_name - 1);
    memcpy(c->lib_ver, state.lib_ver, sizeof c->lib_ver - 1);
    if (h->input_len > 0 && !chain_put(&c->in, BUF_REPLY, h->input, h->input_len)) {
        conn_fail(c->conn, "no chunk left for what it had sent (chunks)");
    } else {
        client_resume(c);
    }
    return true;
}

void redis_hand_open(struct client *clients, uint32_t count, struct client *(*begin)(struct service *, int, const struct address *))
{
    rh.all = clients;
    rh.count = count;
    rh.begin = begin;
}
