/*
 * redis_feed.h - what nodes are told to send us, and that it comes: one connection a node, on which we subscribe.
 *
 *   channel --links--> link --> feed of a node         PLAIN, PATTERN: of the primary; of key notifications: of each master
 *                                                      SHARD: of the slot's owner
 */
#ifndef REDIS_FEED_H
#define REDIS_FEED_H

#include "redis_channel.h"

struct feed;

/* What feeds tell the room above. */
struct feed_events {
    void (*settled)(struct channel *ch);                       /* it may be on now, or refused */
    void (*message)(struct channel *ch, struct slice *bytes);  /* takes them over; there is room for one */
    void (*lost)(struct channel *ch);                          /* a message longer than can be held was dropped */
};
extern const struct feed_events *feed_events;

void redis_feed_tables(const struct conf *conf);
void redis_feed_open(void);
/* Says, or has said as soon as may be, what has to be said about the channel: to whom it belongs and to whom not. */
void feed_place(struct channel *ch);
/* Whether each node that has to send it does. */
bool feed_is_on(struct channel *ch);
/* The node by which what is published to all comes: NULL when there is none. */
struct backend *feed_primary(struct service *s);
const char *feed_refusal(void);  /* what a node said that refused a channel last */
void feed_rest(void);            /* nothing more is read in this turn: a client that reads has to catch up */
void feed_turn(void);            /* what found no room is tried again */
bool feed_pending(void);
/* For how long a node has not been read for want of room. */
uint64_t feed_stuck_ms(void);

#endif
