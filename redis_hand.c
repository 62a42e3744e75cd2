/*
 * redis_hand.c - clients of Redis mode in an upgrade: which can go to the next worker, and what goes with them.
 *
 *   old worker   a client without state, of which all is answered and sent -- struct state --> hand.c
 *   new worker   struct handed --> a client as if just accepted, with its name and protocol, without a greeting
 *
 * Without state: no transaction, no WATCH, no subscription, no login or connections of its own, nothing that blocks. What it has
 * sent and nobody has begun with goes along; what is still in the kernel goes by itself.
 */
#include "redis.h"

#include <string.h>

struct state {
    uint32_t guesses, reply_bytes, window;
    bool resp3, admitted, wrote;
    char name[64];
    char lib_name[40], lib_ver[24];
};

static struct {
    struct client *all;
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
static bool rests(uint32_t i)
{
    const struct client *c = &rh.all[i];
    return !c->resuming && !c->starved && c->head == NULL && c->queued == 0 && c->unsettled == 0 && c->held == 0 && c->parked_bytes == 0 && !c->halfway &&
           c->conn->out.len == 0 && !c->conn->blocked && !c->conn->midway;
}

static int conns(uint32_t i, struct conn *out[HAND_FDS])
{
    out[0] = rh.all[i].conn;
    return out[0] != NULL;
}

static bool pauses(uint32_t i)
{
    return is_plain(&rh.all[i]);
}

static void fill(uint32_t i, struct handed *h)
{
    const struct client *c = &rh.all[i];
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
    hand_state(h, &s, sizeof s, &c->in);
}

/* What it has sent may wait for nothing else. */
static void go_on(uint32_t i)
{
    client_resume(&rh.all[i]);
}

struct hand_room redis_hand_room = { .kind = SERVICE_REDIS, .conns = conns, .pauses = pauses, .rests = rests, .fill = fill, .go_on = go_on };

/* ---------------------------------------------------------- the new worker */

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

bool redis_adopt(struct service *s, const struct handed *h, const int *fds)
{
    struct state state;
    struct client *c;
    if (h->state_len != sizeof state || h->fd_count != 1 || !buf_may_take(BUF_REQUEST)) {
        return false;
    }
    memcpy(&state, h->state, sizeof state);
    if ((state.resp3 && upstream_classes() < 2) || (c = rh.begin(s, fds[0], &h->peer)) == NULL) {
        return false;
    }
    c->born_ms = hand_arrive(h, s, c->conn);
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
    redis_hand_room.total = count;
    rh.begin = begin;
}
