/*
 * mongo_leave.c - how clients of pass-through mode leave a mongos that is drained by hand, or named no more: as a whole.
 *
 *   asked to leave -- 0.5 s --> all that it asks goes on ------------------.
 *        ^         -- 1.5 s --> what its driver asks again is held back --+--> all its connections rest, nothing is open there:
 *        |                      here, so that the others come to rest     |    they are closed together
 *        `-- 3 s, let be <----- it does not rest <------------------------'
 *
 * A driver believes that one server is behind all its connections, and sends a getMore, or the next part of a transaction, on any of
 * them. It does not send that again when it finds the connection closed. So none is closed while another one may be just opening
 * something there. Whoever has not come to rest by drain_timeout leaves one by one.
 *
 * Owns nothing: the clients are mongo_relay.c's.
 */
#include "mongo_relay.h"

#include <string.h>

#define ALONE_MS 500            /* of an attempt: so long it may come to rest by itself */
#define MOVE_MS 2000            /* and so long it takes as a whole; also how long a new connection of that client waits for its end */
#define LET_BE_MS 3000          /* a client that does not come to rest is not asked to for so long */

static struct {
    struct client *all;
    uint32_t total;
    void (*finish)(struct client *c);
    uint64_t looked_ms;         /* when it was last looked */
} lv;

void leave_open(struct client *all, uint32_t total, void (*finish)(struct client *c))
{
    lv.all = all;
    lv.total = total;
    lv.finish = finish;
}

bool leave_is_over(const struct backend *b)
{
    return b->state == BACKEND_DRAINING && loop_ms() >= mongos_of(b)->drained_ms;
}

/* It could serve its clients on, and does as long as they need it. */
static bool is_by_hand(const struct backend *b)
{
    return b->state == BACKEND_UP && b->hold == HELD_DRAIN;
}

/* Who is at a mongos that drains keeps it as long as something is open there. */
static bool must_leave(const struct client *c)
{
    return c->backend != NULL && mongos_drains(c->backend) && (leave_is_over(c->backend) || !pins_hold(&c->id));
}

static bool has_several(const struct client *c)
{
    return c->id.entry != AFFINITY_NONE && mongo_connections(&c->id) > 1;
}

/* Only with the other connections of its client, as long as there is time. */
static bool is_together(const struct client *c)
{
    return is_by_hand(c->backend) && has_several(c) && loop_ms() - mongos_of(c->backend)->held_ms < c->service->conf->drain_timeout_ms;
}

bool leave_somebody(void)
{
    for (uint16_t i = 0; i < backend_cap(); i++) {
        const struct backend *b = backend_at(i);
        if (b != NULL && b->service->conf->kind == SERVICE_MONGO && b->service->conf->mode != MONGO_POOLED && mongos_drains(b) &&
            mongos_of(b)->connections > 0) {
            return true;
        }
    }
    return false;
}

static bool is_there(const struct client *c)
{
    return c->conn != NULL && c->conn->state == CONN_OPEN && c->backend != NULL && is_by_hand(c->backend);
}

/* Each client is asked anew some time after an attempt that was in vain. */
static void look_at(struct client *c)
{
    bool together = is_together(c);
    uint64_t asked = mongo_asked_ms(&c->id, c->backend);
    if (relay_rests(c) && must_leave(c) && (together ? !mongo_is_busy(&c->id) : asked != 0 || !has_several(c))) {
        mongo_let_be(&c->id, 0); /* its next ones are not to come back */
        lv.finish(c);
    } else if (together && asked != 0 && loop_ms() - asked >= MOVE_MS) {
        mongo_let_be(&c->id, LET_BE_MS);
    }
}

void leave_look(void)
{
    if (lv.looked_ms == loop_ms()) {
        return;
    }
    lv.looked_ms = loop_ms();
    for (uint32_t i = 0; i < lv.total; i++) {
        struct client *c = &lv.all[i];
        if (is_there(c) && (c->conn->given || !relay_rests(c))) {
            mongo_note_busy(&c->id);
        }
    }
    for (uint32_t i = 0; i < lv.total; i++) {
        if (is_there(&lv.all[i]) && !lv.all[i].conn->given) {
            look_at(&lv.all[i]);
        }
    }
}

bool leave_now(struct client *c)
{
    if (must_leave(c) && is_by_hand(c->backend) && has_several(c)) {
        leave_look();
        return false;
    }
    return must_leave(c);
}

/* What is open there and neither ends nor changes (a change stream) does not end by waiting for it. */
bool leave_asks(const struct client *c)
{
    uint64_t asked = c->backend != NULL && is_together(c) ? mongo_asked_ms(&c->id, c->backend) : 0;
    uint64_t since = loop_ms() - asked;
    return asked != 0 && since >= ALONE_MS && since < MOVE_MS && c->unanswered == 0 && c->answers.wire.used == 0 && pins_turn(&c->id, asked);
}

/* A write has a number then; of reads it is known which are. Drivers that do so have sessions. A transaction is begun anew by whoever
 * wrote the program, if he thought of that. */
bool leave_tries_again(const struct wire *w)
{
    static const char *const reads[] = { "find", "aggregate", "count", "distinct", "listCollections", "listDatabases", "listIndexes" };
    bool found = wire_has(w, WIRE_TXN_NUMBER);
    for (size_t i = 0; i < sizeof reads / sizeof reads[0] && !found; i++) {
        found = wire_is(w, reads[i]);
    }
    return found && wire_has(w, WIRE_LSID) && !wire_has(w, WIRE_AUTOCOMMIT) && !wire_more_to_come(w);
}

bool leave_writes(const unsigned char *msg, size_t n)
{
    for (size_t i = 0; i + 7 <= n; i++) {
        if (msg[i] == '$' && (memcmp(msg + i, "$out", 5) == 0 || memcmp(msg + i, "$merge", 7) == 0)) {
            return true;
        }
    }
    return false;
}

bool leave_waits(struct client *c)
{
    uint64_t waited = loop_ms() - c->conn->watch.active_ms;
    if (!mongo_moves(&c->id, lv.looked_ms)) {
        return false;
    }
    if (waited >= MOVE_MS || waited >= c->service->conf->handshake_timeout_ms / 2) {
        mongo_let_be(&c->id, LET_BE_MS);
        return false;
    }
    return true;
}
