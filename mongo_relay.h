/*
 * mongo_relay.h - one client of pass-through or load-balanced mode: for mongo_relay.c, for mongo_leave.c, and for mongo_relay_hand.c,
 * which takes it from one worker to the next.
 */
#ifndef PUERTA_MONGO_RELAY_H
#define PUERTA_MONGO_RELAY_H

#include "mongo.h"

enum client_state {
    GREETING,   /* its first message is not whole */
    WAITING,    /* no mongos has been heard of yet, or no connection is free */
    DIALING,
    RELAYING
};

/* Of the message under way. HERE: it is answered here. LATER: it is held back. */
enum fate { UNKNOWN, PASS, HOLD, HERE, DROP, LATER };

/* One direction. */
struct flow {
    struct wire wire;
    struct chain held;          /* of a message that is held, or of which it is not known yet */
    uint8_t fate;
    uint64_t starved_ms;        /* since when it finds no chunk to be read into; 0: it does */
};

struct client {
    struct conn *conn, *up;     /* up NULL: none yet, or not any more */
    struct service *service;
    uint64_t born_ms;
    struct mongo_client_id id;
    struct backend *backend;    /* its mongos; NULL: none yet */
    struct client *next;        /* free list */
    struct flow asks, answers;
    struct chain late;          /* what was said here while its mongos was in the middle of an answer */
    uint8_t state;
    bool ended;                 /* it sends no more; its mongos is told so */
    bool rewrites;              /* the answer to its hello gains a serviceId */
    bool back;                  /* a request is held back until the others of its client rest; nothing more is read */
    int32_t hello_id;           /* that hello */
    char name[MONGOMSG_NAME];   /* what it calls itself in a hello; "" = nothing yet */
    uint32_t unanswered;        /* requests whose answers are to come */
    uint32_t tries;
    struct backend *tried[MAX_SEEDS];
    struct mongo_asked asked;   /* its last request */
    struct mongo_times times;   /* of one request under way, the first: drivers ask one after the other */
    int32_t timed_id;           /* that one, */
    char timed_command[WIRE_COMMAND_CAP], timed_db[WIRE_DB_CAP]; /* and what it is */
};

/* The whole table; who is nobody has no `conn`. */
struct client *relay_table(uint32_t *total);
/* Between two messages: nothing of it is under way in either direction, but perhaps a hello that waits for a change. */
static inline bool relay_rests(const struct client *c)
{
    bool waits = c->unanswered == 1 && c->asked.waits;
    return c->state == RELAYING && (c->unanswered == 0 || waits) && c->asks.wire.used == 0 && c->answers.wire.used == 0 &&
           (c->up == NULL || c->up->out.len == 0);
}
/* Bytes of its first message, which lie in the room behind the end of c->asks.held. It may be closed behind this. */
void relay_greet(struct client *c, const unsigned char *p, size_t n);
/* An open connection to b is its own from now on. False: it cannot be watched, and is closed. */
bool relay_join(struct client *c, struct backend *b, int fd);

/* ------------------------------------------------- mongo_leave.c */

/* All clients there can be; how one is closed that rests. */
void leave_open(struct client *all, uint32_t total, void (*finish)(struct client *c));
/* A mongos that shuts down will not wait for ever; an operator who drains one does. */
bool leave_is_over(const struct backend *b);
/* Whether some mongos with clients is drained: then leave_look() is to be called often. */
bool leave_somebody(void);
/* Closes whoever can leave a mongos that is drained by hand: each client with all its connections. Looks at all, once a millisecond at most. */
void leave_look(void);
/* One rests: whether it alone is to be closed now. Looks, if that is a matter of all connections of its client: it may be closed behind. */
bool leave_now(struct client *c);
/* Whether its requests are held back now, if leave_tries_again(). */
bool leave_asks(const struct client *c);
/* Whether drivers ask that again when they lose the connection, as the fields of a whole request tell; but for one that leave_writes():
 * an aggregate that ends in $out or $merge. */
bool leave_tries_again(const struct wire *request);
bool leave_writes(const unsigned char *msg, size_t n);
/* A new connection whose client is about to leave its mongos, and is busy there: it is to wait. */
bool leave_waits(struct client *c);

#endif
