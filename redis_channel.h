/*
 * redis_channel.h - channels, who subscribes to them, and the messages that are still to be delivered: tables alone,
 * which know of no connection. What is said to nodes about a channel is redis_feed.c's, and so is struct link.
 *
 *   channel ---- subscription -> subscription ...    one for each client that wants it
 *      |              | at
 *      |              v
 *      +-------- message -> message -> message       each stored once; a subscription stands at the first it has not got
 *
 *   client.sub.list ----> subscription ...           all of one client
 *   client.sub.pending -> subscription ...           those of them that stand at a message, the oldest message first
 */
#ifndef REDIS_CHANNEL_H
#define REDIS_CHANNEL_H

#include "redis.h"

struct link;

struct message {
    struct message *next;       /* the channel's next */
    struct slice bytes;         /* the push as it came, in RESP2 form */
    uint32_t refs;              /* how many stand at it */
    uint64_t seq;               /* counts all messages of all channels */
};

struct channel {
    struct channel *bucket_next; /* or in the free list */
    struct channel *next, *prev; /* of its kind */
    struct service *service;    /* NULL: not in use */
    struct subscription *subs;
    struct link *links;         /* what has been said of it to nodes */
    struct message *first, *last;
    uint32_t hash;
    uint32_t told;              /* subscriptions whose client has been told */
    uint32_t name, name_len;    /* its first block */
    uint16_t slot;              /* of a shard channel */
    uint8_t kind;
    bool everywhere;            /* key notifications may match: each master tells its own */
    bool refused;               /* a node does not let us have it */
};

struct subscription {
    struct subscription *bucket_next;        /* or in the free list */
    struct client *client;
    struct channel *channel;
    struct subscription *next, *prev;        /* of its channel */
    struct subscription *mine_next, *mine_prev; /* of its client */
    struct subscription *wait_next, *wait_prev; /* of those with messages for its client */
    struct message *at;         /* the first that its client has not wholly got; NULL: it has got all */
    struct message *walk;       /* while a send is gathered: the next that is not in it yet */
    uint64_t until;             /* leaving: the last message that is still for it */
    uint32_t mark;              /* the last answer that counted it */
    bool told;                  /* its client knows; only then are there messages for it */
    bool leaving;               /* its client wants no more */
};

void redis_channel_tables(const struct conf *conf);
void redis_channel_open(void);
/* Room for a name in one piece: the longest that a request can hold. What it holds, the next call may overwrite. */
unsigned char *channel_scratch(size_t *cap);

struct channel *channel_find(const struct service *s, enum channel_kind kind, const void *name, size_t n);
/* The same, made if need be; NULL with the option that says how many there may be. */
struct channel *channel_make(struct service *s, enum channel_kind kind, const void *name, size_t n, const char **full);
/* The channel's entry is free again if nothing hangs on it: no subscription, no link, no message. */
void channel_let_go(struct channel *ch);
struct channel *channel_first(enum channel_kind kind); /* then ->next */
/* Channels of a section with subscribers that know of it. */
uint32_t channel_count(const struct service *s, enum channel_kind kind);
/* The next contiguous part of its name from *at on; its length, 0 at the end. */
size_t channel_name_part(const struct channel *ch, size_t *at, const unsigned char **p);
const unsigned char *channel_name(const struct channel *ch); /* in one piece: in its block, or in the scratch */
bool channel_is_kept(const void *name, size_t n);      /* a key notification: __keyspace@ or __keyevent@ */
/* Whether a text matches a pattern as in Redis: * ? [a-z] [^a-z] and \. */
bool channel_glob(const unsigned char *pattern, size_t pattern_len, const unsigned char *text, size_t n);

struct subscription *subscription_find(const struct client *c, const struct channel *ch);
struct subscription *subscription_make(struct client *c, struct channel *ch); /* NULL: max_subscriptions */
void subscription_tell(struct subscription *s);
void subscription_leave(struct subscription *s);       /* no message from here on */
void subscription_end(struct subscription *s);         /* the channel may be without any then */
/* The client that holds most bytes of messages; NULL: none holds any. */
struct client *subscription_greediest(void);

size_t message_room(void);                             /* entries left */
size_t message_size(const struct message *m);          /* what it counts for in its client's window */
/* Puts it behind the channel's last, held by the caller, and gives it to each subscription that goes on. */
struct message *message_add(struct channel *ch, struct slice *bytes);
void message_drop(struct channel *ch, struct message *m); /* the caller holds it no more */
/* s gets m: at once, or behind what it waits for already. */
void subscription_get(struct subscription *s, struct message *m);
struct message *subscription_after(const struct subscription *s, const struct message *m); /* the next for it */
void subscription_got(struct subscription *s);         /* all of the message that it stood at */
/* Whether messages became free since this was asked last. */
bool message_relieved(void);

#endif
