/*
 * redis_tracking.h - what a client said by CLIENT TRACKING ON, for the room that reads it and the one that does it.
 *
 *   redis_caching.c: words -> struct wish --> redis_tracking.c: struct tracking -> its connections
 */
#ifndef REDIS_TRACKING_H
#define REDIS_TRACKING_H

#include "redis_say.h"

#define PREFIXES_MAX 32
#define PREFIX_BYTES 1024   /* of all prefixes of one client */

enum tracking_option { BCAST = 1, OPTIN = 2, OPTOUT = 4, NOLOOP = 8 };
extern const char *const tracking_options[4]; /* their names, by bit */

/* What a CLIENT TRACKING says. */
struct wish {
    uint32_t options, count;        /* count: of prefixes */
    uint64_t redirect;              /* to the client of that id; 0 = none */
    uint16_t len[PREFIXES_MAX];
    char prefixes[PREFIX_BYTES];    /* one behind the other */
};

struct tracking {
    struct client *client;          /* NULL = free */
    struct wish now;
    uint64_t since_ms;              /* it waits for its connections to all masters; 0 = it does not */
    uint64_t login_id;
    uint32_t epoch;                 /* of the map when it was last looked at */
    bool knows;                     /* it has been told that all is void */
    bool broken;                    /* its REDIRECT leads nowhere, and ids do not come again */
    struct client *to;              /* to whom it led last: not looked for in the whole table for each message */
};

struct client *tracking_target(const struct client *c, uint64_t id); /* to whom REDIRECT id leads; NULL: to nobody */
struct tracking *tracking_begin(struct client *c);  /* NULL: the table is full */
void tracking_renew(struct client *c);              /* what c needs is as c->tracking says by now */
void tracking_void(struct client *c);               /* it is told that all it keeps is void */
/* Has a connection to every master. False: there are not enough. `ready`: all of them have been told. */
bool tracking_reach_all(struct client *c, bool *ready);
/* The connections that it has already are told what is new. False: no room. */
bool tracking_tell_all(struct client *c, const struct wish *w);
/* From now on c redirects what it hears, or does so no more. False: not without other connections, which know nothing yet. */
bool tracking_change_ears(struct client *c);

#endif
