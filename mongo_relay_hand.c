/*
 * mongo_relay_hand.c - clients of pass-through and load-balanced mode in an upgrade: which can go to the next worker, and what goes with them.
 *
 *   old worker   a client between two messages, and its connection to its mongos -- two descriptors, struct state --> hand.c
 *                one that has not said its first message as a whole              -- one, and what there is of that -->
 *   new worker   struct handed --> it goes on where it was; or its first message is read on
 */
#include "mongo_relay.h"

#include <string.h>

static struct client *all;

/* ---------------------------------------------------------- the old worker */

/* What goes with a client to the next worker. */
struct state {
    struct mongo_asked asked;
    uint64_t place;             /* its mongos; without one (fd_count 1) it has not said its first message as a whole */
    int32_t hello_id;
    uint32_t unanswered;
    bool rewrites, alone;
    uint8_t len;
    unsigned char key[32];
    char name[MONGOMSG_NAME];
};

static int conns(uint32_t i, struct conn *out[HAND_FDS])
{
    out[0] = all[i].conn;
    out[1] = all[i].up;
    return out[0] == NULL ? 0 : out[1] == NULL ? 1 : 2;
}

static bool pauses(uint32_t i)
{
    const struct client *c = &all[i];
    return c->state == GREETING || c->state == WAITING || (c->state == RELAYING && c->asks.wire.used == 0 && !c->ended);
}

/* Neither is anything under way of it, nor has it begun with anything: but for a hello that waits for a change, whose answer may come
 * anywhere. Before its first message is whole it can go with what there is of that. */
static bool rests(uint32_t i)
{
    const struct client *c = &all[i];
    bool new = (c->state == GREETING || c->state == WAITING) && c->asks.held.len <= HAND_INPUT;
    return !c->ended && (new || (relay_rests(c) && c->up != NULL && c->up->state == CONN_OPEN && !c->up->blocked && c->conn->out.len == 0 &&
                                 !c->conn->blocked && c->asks.held.len == 0 && c->answers.held.len == 0));
}

static void fill(uint32_t i, struct handed *h)
{
    const struct client *c = &all[i];
    struct state s;
    memset(&s, 0, sizeof s);
    s.asked = c->asked;
    s.place = c->backend != NULL ? mongos_of(c->backend)->name : 0;
    s.hello_id = c->hello_id;
    s.unanswered = c->unanswered;
    s.rewrites = c->rewrites;
    s.alone = c->id.alone;
    s.len = c->id.len;
    memcpy(s.key, c->id.key, sizeof s.key);
    memcpy(s.name, c->name, sizeof s.name);
    hand_state(h, &s, sizeof s, &c->asks.held);
}

struct hand_room relay_hand_room = { .kind = SERVICE_MONGO, .conns = conns, .pauses = pauses, .rests = rests, .fill = fill };

/* ---------------------------------------------------------- the new worker */

/* Its first message, or the part of it that is here. */
static void adopt_greeting(struct client *c, const struct handed *h)
{
    unsigned char *room;
    size_t n = 0, cap;
    while (n < h->input_len && c->conn != NULL && c->conn->state == CONN_OPEN && c->state == GREETING) {
        cap = chain_room(&c->asks.held, BUF_REPLY, &room);
        if (cap == 0) {
            conn_fail(c->conn, "no chunk left for what it had sent (chunks)");
            return;
        }
        cap = cap < h->input_len - n ? cap : h->input_len - n;
        memcpy(room, h->input + n, cap);
        n += cap;
        relay_greet(c, room, cap);
    }
}

/* It goes on where it was. */
static bool adopt_relaying(struct client *c, struct backend *b, const struct state *s, int fd)
{
    if (!relay_join(c, b, fd)) {
        return false;
    }
    mongos_of(b)->in_flight += s->unanswered; /* of a hello that waits */
    c->asked = s->asked;
    c->hello_id = s->hello_id;
    memcpy(c->name, s->name, sizeof c->name - 1);
    c->unanswered = s->unanswered;
    c->rewrites = s->rewrites;
    c->id.alone = s->alone;
    c->id.len = s->len;
    memcpy(c->id.key, s->key, sizeof c->id.key);
    mongo_stay(&c->id, b);
    return true;
}

bool relay_adopt(struct service *s, uint8_t section, const struct handed *h, const int *fds)
{
    struct state state;
    struct backend *b;
    struct conn *conn;
    struct client *c;
    if (h->state_len != sizeof state || conn_full(CONN_UPSTREAM)) {
        return false;
    }
    memcpy(&state, h->state, sizeof state);
    b = h->fd_count > 1 ? mongo_at_place(s, state.place) : NULL;
    if ((h->fd_count > 1 && b == NULL) || state.len > sizeof state.key || (conn = relay_accept(s, section, fds[0], &h->peer)) == NULL) {
        return false;
    }
    if (conn->state != CONN_OPEN) {
        for (int i = 1; i < h->fd_count; i++) {
            net_close(fds[i]);
        }
        return true; /* it could not be watched, and is closed */
    }
    c = conn->owner;
    c->born_ms = hand_arrive(h, s, conn);
    if (b == NULL) {
        adopt_greeting(c, h);
    } else if (!adopt_relaying(c, b, &state, fds[1])) {
        conn_fail(conn, "its connection to the mongos could not be watched");
    }
    return true;
}

void relay_hand_open(void)
{
    all = relay_table(&relay_hand_room.total);
}
