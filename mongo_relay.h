/*
 * mongo_relay.h - one client of pass-through or load-balanced mode, for mongo_relay.c, and for mongo_relay_hand.c, which takes it
 * from one worker to the next.
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

enum fate { UNKNOWN, PASS, HOLD, HERE, DROP }; /* of the message under way; HERE: it is answered here */

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
bool relay_rests(const struct client *c);
/* Bytes of its first message, which lie in the room behind the end of c->asks.held. It may be closed behind this. */
void relay_greet(struct client *c, const unsigned char *p, size_t n);
/* An open connection to b is its own from now on. False: it cannot be watched, and is closed. */
bool relay_join(struct client *c, struct backend *b, int fd);

#endif
