/* mongo_greet.h - what Puerta itself answers to clients of pooled mode, and what is kept of each client for that.
 *
 *   mongo_pooled.c  a request --greet_takes()--> greet_answer() --> an answer, or 0: later, by greet_again()
 *                             --door_admits()--> on to a mongos, or refused
 *
 *   mongo_greet.c   hello in every form, and what asks about a connection that clients share here
 *   mongo_door.c    logins: SCRAM-SHA-256 with the section's users
 *
 * Sources: the MongoDB driver specifications (handshake, server monitoring, authentication), servers' behaviour from 4.4 to 8.0.
 */
#ifndef PUERTA_MONGO_GREET_H
#define PUERTA_MONGO_GREET_H

#include "bson.h"
#include "mongomsg.h"
#include "mongowire.h"
#include "puerta.h"

#define GREET_CAP 2048   /* bytes that any answer from here fits into */
#define DOOR_NOBODY 255  /* in the place of a user's index: nobody has logged in */

struct pooled;
struct door_talk;

/* What is kept of a client for its hello and its login. Lives inside struct pooled. */
struct greeting {
    bool waits;                /* an answer is to come from greet_again() */
    bool has_metadata;         /* its hello has said what it is; that cannot be changed */
    char name[MONGOMSG_NAME];  /* and what it calls itself */
    struct wire_header asked;  /* what waits... */
    bool login;                /* ... is the start of a login, not a hello */
    bool modern;               /* of that hello: its command is "hello", none of the older names */
    bool hello_ok, mechanisms; /* what its answer is to tell beside the rest */
    bool awaits;               /* until `version` is not true any more */
    uint32_t version;
    uint32_t every_ms;         /* it hears of each change, and so often at least, without asking again (exhaustAllowed); 0: once */
    struct door_talk *talk;    /* its login under way; NULL: none */
    uint32_t guesses;          /* wrong ones, since it came or was right */
    bool barred;               /* it may not come in: `protected` */
};

/* ------------------------------------------------- mongo_door.c */

void door_tables(const struct conf *conf);
bool door_has_tables(void); /* for good, if some section had users as this worker began */
void door_start(const struct conf *conf); /* before the first client */
void door_users(void);                    /* some users are others */
/* The configuration of p's section has changed. False: p is somebody who may not be here any more. */
bool door_stays(struct pooled *p, const struct conf_service *before);
void door_open(struct pooled *p);
void door_close(struct pooled *p);
/* Whether p may send its request on to a mongos; else the error to refuse it with and its text, good until the next call. */
bool door_admits(const struct pooled *p, enum mongo_code *code, const char **text);
bool door_stranger(const struct pooled *p); /* it may not send anything on, whatever it is */
/* Whether the section of p has users, so that somebody who has not logged in gets next to nothing. */
bool door_guarded(const struct pooled *p);

/* Begins an answer to that request in out[0..cap), or writes a whole error; stats.errors_sent counts it. */
void door_begin_answer(struct bson *b, void *out, size_t cap, const struct wire_header *asked);
size_t door_refuse(const struct wire_header *asked, enum mongo_code code, const char *text, void *out, size_t cap);

/* Commands, with the reader of their documents; the length of the answer. */
size_t door_begin(struct pooled *p, const struct bson_reader *r, void *out, size_t cap);    /* saslStart; 0: its guess has to wait */
size_t door_again(struct pooled *p, void *out, size_t cap);                                 /* which is over, or 0: not yet */
size_t door_continue(struct pooled *p, const struct bson_reader *r, void *out, size_t cap); /* saslContinue */
size_t door_logout(struct pooled *p, const struct bson_reader *r, void *out, size_t cap);
/* The start of a login that came with a hello, into its answer; nothing if it cannot be done now: the driver then begins by
 * saslStart, and is told why. */
void door_speculate(struct pooled *p, const struct bson_element *speculative, struct bson *answer);

/* ------------------------------------------------ mongo_greet.c */

void greet_start(const struct conf *conf); /* before the first client; also starts the door */
void greet_arrive(struct pooled *p);         /* a new client */
void greet_leave(struct pooled *p);        /* it has gone */
/* Whether the request's command is answered here: known as soon as asks.command is. */
bool greet_takes(const struct pooled *p);
/* The whole request: writes the answer (cap: GREET_CAP at least) and gives its length; 0: not yet, see until_ms. What is
 * needed of the message is kept in p->greeting. A request with moreToCome does not wait, and the caller sends nothing. When
 * greeting.waits still stands behind an answer, that one said moreToCome: others follow from greet_again(). */
size_t greet_answer(struct pooled *p, const unsigned char *msg, size_t n, unsigned char *out, size_t cap);
/* To be called at until_ms, and when greet_version() has grown: the same for what waits. 0: it still does. */
size_t greet_again(struct pooled *p, unsigned char *out, size_t cap);
/* The counter of that section's topologyVersion: grows when the answer to hello becomes another one, also by mongo_stopping. */
uint32_t greet_version(const struct service *s);

#endif
