/* crowd.h - what the rooms of the crowd share: a server that plays several mongos, and thousands of clients that check every answer.
 *
 *   clients.c  each client a loop of its own: finds, getMores, transactions ...  --.
 *   ask.c      clients that only ask for one document, to be measured             --+--> Puerta --> fronts.c  several mongos,
 *   side.c     their connections, and one poll() loop ------------------------------+--------------^       each with its own cursors
 *   main.c     which of these it is
 *
 * Every request has a mark, a number that no other request has, and every answer repeats it with the lsid: an answer that came to the
 * wrong client, to the wrong request or from the wrong mongos is seen. One process for the server, one for the clients; no threads.
 */
#ifndef CROWD_H
#define CROWD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bson.h"
#include "mongomsg.h"
#include "mongowire.h"

#define SIDES 6144          /* connections, listeners included */
#define CLIENTS 4096
#define SESSIONS 3          /* of each client */
#define FILLER 100000       /* bytes of the longest text in a document */
#define MESSAGE (1U << 20)  /* bytes: no message here is longer */

/* ------------------------------------------------------------ side.c */

/* One connection. What comes in lies in `in` until it is a whole message; what did not go out at once lies in `out`. */
struct side {
    int fd;                       /* -1: this entry is free */
    uint32_t life;                /* grows with each connection that is here */
    bool listens;
    bool reply;                   /* what comes in are replies */
    unsigned char *in, *out;
    size_t in_len, in_cap, out_at, out_len, out_cap;
    uint64_t wake_us;             /* ops->woken() is called then; 0: never */
    void *owner;
    int32_t number;               /* the owner's */
};

struct side_ops {
    void (*accepted)(struct side *listener, struct side *s);
    void (*heard)(struct side *s, const unsigned char *msg, size_t n, const struct wire *w);
    void (*gone)(struct side *s); /* the other end has closed it: the owner calls side_close() */
    void (*woken)(struct side *s);
    void (*turned)(void);         /* at the end of each turn of the loop; NULL: not asked for */
};

uint64_t now_us(void);
void die(const char *what);             /* errno's text with it */
struct side *side_listen(int port, void *owner);
struct side *side_connect(int port, void *owner); /* waits until it is connected */
void side_close(struct side *s);
void side_send(struct side *s, const void *p, size_t n);
/* Runs until *over is true. */
void sides_run(const struct side_ops *ops, const volatile bool *over);

/* The text that belongs to a mark: n bytes, at most FILLER, that differ from those of other marks. */
const char *filler(int64_t mark, size_t n);
/* Numbers that look random; the state is not 0. */
uint32_t dice(uint64_t *state, uint32_t sides);

/* How long answers took. */
void took(uint64_t us);
uint64_t took_share(double share);                /* the time in us within which this share of them came */

/* ---------------------------------------------------------- fronts.c */

/* Plays a mongos on each port. What it saw is printed at SIGUSR1 and at the end (SIGTERM); at SIGUSR2 one of them dies and comes back.
 * `jitter_us`: some answers wait up to so long. `lie`: about what one answer in 100 is wrong (mark, session, text, order, statement, kill,
 * silence, request), or none. Gives the exit code. */
int serve(const int *ports, int count, uint32_t jitter_us, const char *lie);

/* --------------------------------------------------------- clients.c */

/* So many clients, until so many answers were found right. `vanish`: of 100,000 requests so many are left without waiting for the answer.
 * `seconds`: an answer that takes longer is wrong. `faults`: errors of mongos that fail are not. Gives the exit code. */
int crowd(int port, int clients, long answers, uint64_t seed, uint32_t vanish, int seconds, bool faults);

/* ------------------------------------------------------------- ask.c */

/* Each client one find at a time: as fast as it goes, or `rate` of them a second in all (0: no rate). Prints
 * answers, p50 and p99 in us of the `seconds` that count, and all answers, those to hello and of the second before included. */
int ask(int port, int clients, int seconds, int rate);

#endif
