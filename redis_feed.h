/*
 * redis_feed.h - what nodes are told to send us (redis_link.c), and that it comes (redis_feed.c): one connection a node,
 * on which we subscribe.
 */
#ifndef REDIS_FEED_H
#define REDIS_FEED_H

#include "redis_channel.h"

enum link_state {
    LINK_RESTS,   /* the node does as `on` says */
    LINK_UNSAID,  /* in line to be said */
    LINK_SAID     /* said, not answered */
};

struct link {
    struct link *next;                  /* of its channel; or in the free list */
    struct link *mine_next, *mine_prev; /* of its feed */
    struct link *line;                  /* in unsaid or said */
    struct channel *channel;
    struct feed *feed;
    uint8_t state;
    bool on;                            /* the node sends it */
    bool asked;                         /* what has been said: that it should */
    uint32_t behind;                    /* PINGs of its feed that were said before that */
};

struct line { struct link *head, *tail; };

struct feed {
    struct conn *conn;
    struct backend *backend;
    struct chain in;
    struct resp_reply reply;            /* the push under way, at the front of `in` */
    size_t framed;                      /* how much of `in` it has looked at */
    struct pen pen;                     /* where short messages are kept */
    struct link *links;
    struct line unsaid, said;
    struct feed *stuck_next;
    uint64_t heard_ms;                  /* when it last said something, or was dialled */
    uint64_t stuck_ms;
    uint64_t lost_ms;                   /* when its connection was last lost; 0 = it was well since */
    uint32_t backoff_ms;
    struct timer timer;
    bool greeting;                      /* the answer to our login is to come first */
    uint32_t pings, pongs;              /* PINGs said, or to be said when the turn ends; answers to them */
    bool sounds;                        /* the last of them is to be said */
    bool talk;                          /* there may be something to say */
    bool whole;
    bool stuck;
    bool dropping;                      /* the push under way is too long to be held */
};

/* ------------------------------------------------------ redis_link.c */

void redis_link_tables(const struct conf *conf);
void redis_link_open(void);
struct feed *feed_at(uint32_t i);                /* NULL past the last */
struct feed *feed_of(struct backend *b);
/* The node by which what is published to all comes: NULL when there is none. */
struct backend *feed_primary(struct service *s);
/* A new primary may just have done all that it was asked: what is to be published goes to it from then on. */
void feed_switched(struct service *s);
/* One of its slots, by which what is published finds it. */
uint16_t feed_primary_slot(struct service *s);
/* Whether the node is the one, or one of those, that should send us the channel. */
bool feed_carries(const struct backend *b, const struct channel *ch);
/* Has said, as soon as may be, what has to be said about the channel: to whom it belongs and to whom not. */
void feed_place(struct channel *ch);
/* Whether each node that has to send it does. */
bool feed_is_on(struct channel *ch);
/* Whether the message of the primary is one that the primary before has sent already; notes it. p: its first bytes. */
bool feed_is_twin(struct service *s, const unsigned char *p, size_t n);
void feed_misplaced(struct service *s);          /* every channel is placed again when the turn ends */
void feed_talk(struct feed *f);                  /* there may be something to say */
bool feed_has_to_talk(void);                     /* some have been marked so since this was asked last */
struct link *link_to(const struct channel *ch, const struct feed *f);
void link_settle(struct link *l);                /* into line if it rests and is not as it should be; freed if not needed */
void link_free(struct link *l);                  /* its channel may go with it */
void link_retry(void);                           /* all are placed again a little later */
void link_turn(void);
bool link_pending(void);
void line_put(struct line *line, struct link *l);
struct link *line_take(struct line *line);

/* ------------------------------------------------------ redis_feed.c */

/* What feeds tell the room above. */
struct feed_events {
    void (*settled)(struct channel *ch);                       /* it may be on now, or refused */
    void (*message)(struct channel *ch, struct slice *bytes);  /* takes them over; there is room for one */
    void (*lost)(struct channel *ch);                          /* a message longer than can be held was dropped */
    void (*told)(void);                                        /* feed_has_told() may have changed */
};
extern const struct feed_events *feed_events;

/* Whatever the node has published so far will have come once feed_has_told() of this number. */
uint32_t feed_sound(struct backend *b);
bool feed_has_told(struct backend *b, uint32_t number); /* or it cannot be waited for: it is lost, or not read now */

void redis_feed_open(void);
const char *feed_refusal(void);  /* what a node said that refused a channel last */
void feed_rest(void);            /* nothing more is read in this turn: a client that reads has to catch up */
void feed_turn(void);            /* what found no room is tried again; what is to be said is */
bool feed_pending(void);
uint64_t feed_stuck_ms(void);    /* for how long a node has not been read for want of room */

#endif
