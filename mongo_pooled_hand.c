/*
 * mongo_pooled_hand.c - clients of pooled mode in an upgrade: which can go to the next worker, and what goes with them.
 *
 *   old worker   a client between two messages, or whose hello waits for a change -- struct state --> hand.c
 *   new worker   struct handed --> as if it had said all that to this one; of its hello it hears at once, for the process is another one
 */
#include "mongo.h"

#include <string.h>

static struct pooled *all;

/* ---------------------------------------------------------- the old worker */

/* What goes with a client to the next worker. What it has opened is in the tables. */
struct state {
    struct greeting greeting;   /* also of a hello whose answer waits for a change */
    bool spoke;
    char user[SCRAM_NAME_MAX + 1]; /* as whom it has logged in; "" = as nobody */
};

static int conns(uint32_t i, struct conn *out[HAND_FDS])
{
    out[0] = all[i].conn;
    return out[0] != NULL;
}

static bool pauses(uint32_t i)
{
    const struct wire *w = &all[i].asks;
    return !all[i].ended && (w->used == 0 || (w->header.length != 0 && w->used == w->header.length));
}

/* Between two messages, and in the middle of no login. A hello that waits for a change may be answered anywhere. */
static bool rests(uint32_t i)
{
    const struct pooled *p = &all[i];
    bool between = p->state == POOLED_READING ? p->asks.used == 0 && !p->greeting.waits : p->state == POOLED_LATER && !p->greeting.login;
    return between && p->held.len == 0 && p->ahead.len == 0 && p->small.len == 0 && p->link == NULL && p->split == NULL &&
           !p->wants_split && !p->queues && !p->starved && !p->half && !p->leaves && p->greeting.talk == NULL &&
           p->conn->out.len == 0 && !p->conn->blocked;
}

static void fill(uint32_t i, struct handed *h)
{
    const struct pooled *p = &all[i];
    const struct conf_service *conf = p->service->conf;
    struct state s;
    memset(&s, 0, sizeof s);
    s.greeting = p->greeting;
    s.spoke = p->spoke;
    if (p->user < conf->user_count) {
        memcpy(s.user, conf->users[p->user].name, sizeof s.user);
    }
    hand_state(h, &s, sizeof s, NULL);
}

/* Its hello may be due. */
static void go_on(uint32_t i)
{
    if (all[i].state == POOLED_LATER) {
        conn_deadline(all[i].conn, loop_ms());
    }
}

struct hand_room pooled_hand_room = { .kind = SERVICE_MONGO, .conns = conns, .pauses = pauses, .rests = rests, .fill = fill, .go_on = go_on };

/* ---------------------------------------------------------- the new worker */

/* The number of a user; DOOR_NOBODY: there is none of that name here. */
static uint8_t user_named(const struct conf_service *conf, const char *name)
{
    for (int i = 0; i < conf->user_count; i++) {
        if (strcmp(conf->users[i].name, name) == 0) {
            return (uint8_t)i;
        }
    }
    return DOOR_NOBODY;
}

bool pooled_adopt(struct service *s, uint8_t section, const struct handed *h, const int *fds)
{
    struct conn *conn;
    struct pooled *p;
    struct state state;
    uint8_t user;
    if (h->state_len != sizeof state || h->fd_count != 1) {
        return false;
    }
    memcpy(&state, h->state, sizeof state);
    state.user[SCRAM_NAME_MAX] = '\0';
    user = user_named(s->conf, state.user);
    if ((user == DOOR_NOBODY && state.user[0] != '\0') || (conn = pooled_accept(s, section, fds[0], &h->peer)) == NULL) {
        return false; /* a user who is none any more stays with the worker that knows it, as long as that is there */
    }
    if (conn->state != CONN_OPEN) {
        return true; /* it could not be watched, and is closed */
    }
    p = conn->owner;
    p->born_ms = hand_arrive(h, s, conn);
    p->user = user;
    p->spoke = state.spoke;
    p->greeting = state.greeting;
    p->greeting.name[sizeof p->greeting.name - 1] = '\0';
    p->until_ms = loop_ms(); /* what it waits for has changed: another process tells it */
    pooled_goes_on(p);
    return true;
}

void pooled_hand_open(void)
{
    all = pooled_table(&pooled_hand_room.total);
}
