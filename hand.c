/*
 * hand.c - clients on their way from one worker to the next, of any mode: the walk over a table of them, and what becomes of each.
 *
 *   old worker   a client that could go -- read no more --> it rests -- struct handed --> given
 *                  given -- taken --> closed here, without a word to it
 *                        -- refused --> it goes on here, and is offered again after a second
 *                        -- the next worker is lost --> closed: what it had asked may have been begun with there
 *   new worker   struct handed -- the room makes a client of it --> hand_arrive(): what all have in common
 *
 * Owns nothing: the clients are their rooms', each of which has a struct hand_room for what only it knows. handover.c has the way.
 */
#include "hand.h"

#include <string.h>

#define LOOK_AT 8192            /* clients in one look: a table of any size is gone through in a few */
#define AGAIN_MS 1000           /* until those that were refused are offered again */

/* ---------------------------------------------------------- the old worker */

static bool give_one(struct hand_room *r, uint32_t i, struct conn *const *conns, int count, bool (*give)(const struct handed *, const int *))
{
    static struct handed h;
    struct conn_facts facts;
    int fds[HAND_FDS];
    memset(&facts, 0, sizeof facts);
    conns[0]->ops->describe(conns[0], &facts);
    memset(&h, 0, offsetof(struct handed, input));
    h.id = conns[0]->id;
    h.entry = i;
    h.kind = r->kind;
    h.fd_count = (uint8_t)count;
    h.age_ms = loop_ms() - facts.born_ms;
    h.peer = conns[0]->peer;
    must(strlen(facts.section) < sizeof h.section);
    memcpy(h.section, facts.section, strlen(facts.section));
    r->fill(i, &h);
    for (int k = 0; k < count; k++) {
        fds[k] = conns[k]->fd;
    }
    if (!give(&h, fds)) {
        return false;
    }
    for (int k = 0; k < count; k++) {
        conn_given(conns[k], true);
    }
    return true;
}

/* Those that were refused are offered again. */
static void forgive(struct hand_room *r)
{
    struct conn *conns[HAND_FDS];
    for (uint32_t i = 0; i < r->total; i++) {
        if (r->conns(i, conns) > 0) {
            conns[0]->stays = false;
        }
    }
    r->again_ms = loop_ms() + AGAIN_MS;
}

void hand_walk(struct hand_room *r, bool (*give)(const struct handed *, const int *))
{
    if (loop_ms() >= r->again_ms) {
        forgive(r);
    }
    for (uint32_t n = r->total < LOOK_AT ? r->total : LOOK_AT; n > 0; n--, r->at = (r->at + 1) % r->total) {
        struct conn *conns[HAND_FDS];
        int count = r->conns(r->at, conns);
        bool pauses;
        if (count == 0 || conns[0]->state != CONN_OPEN || conns[0]->given || conns[0]->stays) {
            continue;
        }
        pauses = r->pauses(r->at);
        conn_still(conns[0], pauses);
        if (pauses && r->rests(r->at) && !give_one(r, r->at, conns, count, give)) {
            return;
        }
    }
}

void hand_given(struct hand_room *r, uint32_t i, uint64_t id, bool taken)
{
    struct conn *conns[HAND_FDS];
    int count = i < r->total ? r->conns(i, conns) : 0;
    if (count == 0 || conns[0]->id != id || !conns[0]->given) {
        return; /* it has left meanwhile, or is another room's */
    }
    if (taken) {
        conn_fail(conns[0], "handed over");
        return;
    }
    for (int k = 0; k < count; k++) {
        conn_given(conns[k], false);
    }
    conns[0]->stays = true;
    conn_still(conns[0], false);
    if (r->go_on != NULL && conns[0]->state == CONN_OPEN) {
        r->go_on(i);
    }
}

void hand_lost(struct hand_room *r)
{
    for (uint32_t i = 0; i < r->total; i++) {
        struct conn *conns[HAND_FDS];
        if (r->conns(i, conns) > 0 && conns[0]->given) {
            conn_fail(conns[0], "the next worker died while it was handed over");
        } else if (r->conns(i, conns) > 0 && conns[0]->stilled) {
            conn_still(conns[0], false);
        }
    }
}

void hand_state(struct handed *h, const void *state, size_t n, const struct chain *input)
{
    must(n <= sizeof h->state && (input == NULL || input->len <= sizeof h->input));
    memcpy(h->state, state, n);
    h->state_len = (uint16_t)n;
    if (input != NULL) {
        h->input_len = (uint16_t)input->len;
        chain_copy(input, h->input, input->len);
    }
}

/* ---------------------------------------------------------- the new worker */

uint64_t hand_arrive(const struct handed *h, struct service *s, struct conn *c)
{
    gate_adopt(s, c);
    c->id = h->id;
    return loop_ms() > h->age_ms ? loop_ms() - h->age_ms : 0;
}
