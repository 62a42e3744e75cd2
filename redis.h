/*
 * redis.h - what the rooms of Redis mode share: the client, the request record, the upstream connection.
 *
 *      redis_client.c   a client's bytes -> one whole request
 *        |
 *      redis.c          decides: one of the rooms below, or redis_pubsub.c -> redis_feed.c, redis_link.c, redis_channel.c
 *        |  \______________________________________________
 *      redis_fan.c    redis_large.c    redis_local.c        several nodes; big transfers; answered here
 *   redis_scan.c         |                 |  \_____________  redis_info.c  redis_command.c  redis_virtual.c
 *        |               |               redis_say.c _______/   what is said of itself, of the table, of the cluster
 *        |   ___________/________________/
 *      redis_route.c    where a request goes, and goes again; redis_redirect.c: what a node's error means
 *        |
 *      redis_req.c      request records, the order of answers
 *        |
 *      redis_upstream.c one connection to a node: pairs replies with requests; redis_lend.c: which are lent to whom; redis_greet.c
 *        |
 *      conn.c  buf.c  health.c
 *
 *      between: redis_multi.c -> redis_exec.c (transactions), redis_block.c, redis_wait.c, redis_monitor.c; redis_lease.c (who
 *      waits for a connection of his own), redis_own.c, redis_login.c
 *      redis_script.c and redis_function.c stand beside them: what a node is given besides what clients ask of it
 *      users.c stands beside them: who may come in
 *
 *   client ---- req -> req -> req            in the order of its answers
 *                |      |
 *   upstream -- req    req -> req            in the order of the node's replies
 */
#ifndef REDIS_H
#define REDIS_H

#include "command.h"
#include "handover.h"
#include "puerta.h"
#include "resp.h"
#include "slotmap.h"

#include <string.h>

#define REDIS_COPY_MAX 2048    /* a request up to this size is copied next to others; a longer one stays where it was
                                  received, since the chunk it pins is then mostly its own */
#define REDIS_HOPS_MAX 16      /* redirects of one request before its client hears of it */
#define REDIS_HOPS_FAST 3      /* those followed at once; later ones wait REDIS_RETRY_MS first */
#define REDIS_MAX_ARGS 1048576  /* arguments of one request, as Redis has it */
#define REDIS_MAX_BULK (512u * 1024 * 1024) /* bytes of one argument, as Redis's proto-max-bulk-len */
#define REDIS_MAX_INLINE 65536  /* bytes of an inline request, as Redis has it */
#define LOGIN_PASSWORD_CAP 1024 /* bytes of the password of a client's own login: tokens are longer than what people type */
#define REDIS_RETRY_MS 20      /* until a request is tried again that a node did not run (TRYAGAIN, CLUSTERDOWN...) */

/* ------------------------------------------------- records, clients */

enum req_state {
    REQ_FREE,
    REQ_QUEUED,    /* in an upstream's queue: unsent, being sent, or awaiting its reply */
    REQ_WAITING,   /* on the waiting list: to be tried again */
    REQ_LEASING,   /* waits for a lease */
    REQ_PARTS,     /* in nobody's queue: its parts are under way */
    REQ_DONE       /* answered; its reply is parked until its client's turn comes */
};

#define REQ_ASKING 1u    /* goes out behind an ASKING, whose +OK is still to be swallowed */
#define REQ_READONLY 2u  /* may run twice */
#define REQ_FENCE 4u     /* later ones of its client wait for it (several keys: the server may say TRYAGAIN) */
#define REQ_STREAMED 8u  /* its bytes were not kept: it cannot be sent again */
#define REQ_ASKED 16u    /* that +OK is the next reply */
#define REQ_TRYAGAIN 32u /* the last word on it was TRYAGAIN */
#define REQ_TURNED 64u   /* a node turned it away for reasons of its own: its wait has begun */
#define REQ_COUNTED 128u /* stands in its client's count of unsettled ones */
#define REQ_TIMED 2097152u /* how long its node took is in the histogram already */
#define REQ_SCRIPT 512u  /* may name a script that the node has not got */
#define REQ_VIA_ASK 256u /* its last reply came from a node that was told ASKING */
#define REQ_ALL 2048u    /* a part of what concerns all slots; its own is only the way to its node */
#define REQ_OURS 32768u   /* asked by Puerta itself: its answer is wanted though nobody waits for it */
#define REQ_FUNCTION 65536u /* a node had not got its function: it has waited for that to be copied there */
#define REQ_RESP3 131072u /* its client speaks RESP3: so must the connection that it goes over */
#define REQ_UNNAMED 262144u /* a script, sent to a node that no map names: it waits for a map asked for since then (since_ms) */
#define REQ_CACHED 524288u /* CLIENT CACHING goes ahead of it */
#define REQ_EARLY 1048576u /* its answer has come in part, before its turn: `parked` has that part */
#define REQ_MUTE 1024u   /* its client does not want to hear the answer (CLIENT REPLY) */
#define REQ_LEASE 4096u  /* goes over a lease of the kind `lease`, wherever it goes */
#define REQ_BLOCKS 8192u /* its answer may take as long as it likes */
#define REQ_MULTI 16384u /* a transaction: answers of the node come before its own (`ahead`) */

/* What a lease is for. Each kind has its own part of the table, so that none can starve another. */
enum lease_kind {
    LEASE_TRANSFER, /* a long request or a long answer */
    LEASE_BLOCK,    /* a blocking command */
    LEASE_WATCH,    /* WATCH, until its EXEC */
    LEASE_OWN,      /* all that its client asks of a node */
    LEASE_KINDS
};

struct client;
struct upstream;
struct fan;
struct req;

/* Takes the reply of a record: bytes [p, p+n), `last` with the final ones (whole replies come in one piece). With the
 * last piece the record is the taker's: it frees or keeps it. False: no room now, the same piece comes again. */
typedef bool (*req_taker)(struct req *r, const unsigned char *p, size_t n, bool last);

struct req {
    struct req *client_next;    /* the client's next */
    struct req *next, *prev;    /* its neighbours in the upstream's queue or the waiting list */
    struct client *client;      /* NULL: nobody waits any more, the reply is dropped */
    struct service *service;
    req_taker take;
    struct fan *fan;            /* of a part: what it is a part of; of a split request: its own */
    struct upstream *upstream;
    const struct command *command;
    struct slice bytes;         /* the request, kept until it is answered */
    struct slice parked;        /* the reply, kept until its client's turn */
    uint32_t started_ms;        /* low 32 bits of loop_ms() */
    uint32_t waits_ms;          /* since when it waits for a node */
    uint32_t due_ms;            /* when it is tried again */
    uint32_t size;              /* of its bytes, as its client's credit counts them */
    uint32_t mark;              /* its taker's own */
    uint32_t born_us, sent_us;  /* trace_stamp(): when it was taken; when its last byte was sent, 0: it has not been */
    uint16_t slot;
    uint16_t part;              /* which part of its fan it is */
    uint32_t flags;
    uint8_t state, hops;
    uint8_t lease;              /* enum lease_kind, with REQ_LEASE */
    uint16_t asked;             /* where it was late, or lost: that node's index + 1; 0: nowhere */
    uint16_t to;                /* waiting for a lease: to this node (its index + 1); 0 = to the owner of its slot; published: the node */
    uint32_t ahead;             /* of a transaction: answers still to come before its own; published: redis_pubsub.c */
    uint64_t since_ms;          /* of a SCAN or a script that waits for the map */
    struct req *whom;           /* of an errand: the request that it is for */
};

/* A connection to a node. Shared ones carry all clients' requests, pipelined; a leased one serves one client. */
struct upstream {
    struct conn *conn;          /* NULL while there is none */
    struct backend *backend;
    struct req *head, *tail;    /* those sent come first */
    struct req *unsent;         /* the first not wholly sent */
    size_t unsent_off;          /* how much of that one was */
    uint32_t queued;
    struct pen pen;             /* where requests are copied to */
    unsigned char *buf;         /* its receive buffer, for life: [from, at) is a reply not yet whole, up to len */
    size_t cap, from, at, len;
    struct resp_reply reply;    /* the reply under way */
    struct upstream *next;      /* in a list of leases, or of stuck ones */
    struct client *owner;       /* of a lease */
    uint64_t progress_ms;       /* when it last gave a byte, or got its first request */
    uint64_t stuck_ms, stuck_sum_ms; /* since when, and for how long before in this reply */
    uint32_t began_us;          /* trace_stamp(): when the reply under way began; 0: it has just come */
    struct timer timer;
    uint8_t greeting;           /* replies to its login still to come; nothing else is sent before */
    bool resp3;                 /* greeted with HELLO 3; of a shared one for life */
    bool leased;
    uint8_t kind;               /* of a lease: enum lease_kind */
    bool held;                  /* nothing more is sent for now */
    bool kept;                  /* a lease that its owner gives back itself */
    bool whole;                 /* [from, at) is whole */
    bool streaming;             /* the reply under way is passed on as it comes */
    bool given;                 /* part of it has been */
    bool dropping;              /* the reply under way is nobody's */
    bool stuck;
    bool refused;               /* the node has refused HELLO 3, and will again */
    bool served;                /* it has given an answer since it was dialled */
    uint16_t pinned;            /* a lease about which its node is being asked: it is lent to nobody else meanwhile */
    struct upstream *own_next;  /* of LEASE_OWN: its client's next */
    uint64_t login_id;          /* of a lease: in whose name it was greeted; 0 = in Puerta's */
    bool ear;                   /* of LEASE_OWN: only listens for its client (redis_tracking.c) */
    bool greets_kind;           /* the last of `greeting` is that of its kind */
    uint64_t lost_ms;           /* of a shared one: when it was last lost */
    uint64_t node_id;           /* of LEASE_BLOCK and an ear: what its node calls the connection (CLIENT ID); 0 = not known */
};

enum monitor_state { MONITOR_OFF, MONITOR_WAITS, MONITOR_ON };

enum multi_state { MULTI_NONE, MULTI_OPEN, MULTI_POISONED };

enum channel_kind { CHANNEL_PLAIN, CHANNEL_PATTERN, CHANNEL_SHARD, CHANNEL_KINDS };

/* What a client subscribes to: redis_channel.h has the picture. */
struct subscriber {
    struct subscription *list;                  /* all of it */
    struct subscription *pending, *pending_tail; /* that with messages to be sent, the oldest message first */
    size_t bytes;               /* of those messages */
    size_t sent;                /* of the first of them */
    uint32_t count[CHANNEL_KINDS]; /* of those that it has been told */
    uint64_t since_ms;          /* its SUBSCRIBE waits for nodes; 0 = none does */
};

struct client {
    struct conn *conn;
    struct service *service;
    struct req *head, *tail;
    uint32_t queued;            /* records from head to tail */
    uint32_t unsettled;         /* of them (and their parts), how many a node still has to answer */
    uint32_t held;              /* of them, how many were turned away and will be tried again */
    uint32_t epoch;             /* of the map by which the unsettled ones were sent */
    uint32_t fences;            /* unsettled ones with several keys */
    int32_t fence_slot;         /* their slot; -1 = several */
    bool gate;                  /* a redirect happened: nothing new goes out before all is settled */
    bool ended;                 /* reads no more; goes when all is answered */
    bool leaving;               /* will be ended once its long request is through */
    bool ready;                 /* its next request is whole and waits */
    bool paused, resuming;
    bool starved;
    bool subscribed;            /* to something */
    bool halfway;               /* a part of its next answer has been put out */
    bool resp3;                 /* it speaks RESP3 (HELLO 3): so do the answers made here, and the nodes for it */
    bool admitted;              /* it may ask for anything; else only what logs it in */
    bool owns;                  /* all it asks goes over connections of its own */
    uint8_t monitor;            /* enum monitor_state */
    uint8_t reply;              /* enum reply_mode */
    uint8_t multi_state;        /* enum multi_state */
    uint8_t mode;               /* enum client_mode of redis_large.c; 0 = ordinary */
    const struct resp_limits *limits; /* of its requests: a stranger's are narrow */
    uint64_t patient_us;        /* since when its output waits for more answers; 0 = it does not */
    struct chain in;
    struct resp_request framing;
    struct pen park;
    size_t parked_bytes;
    size_t request_bytes;       /* of unsettled ones, kept for replay */
    uint32_t reply_bytes;       /* how long its replies are: a running mean */
    uint32_t window;            /* how many may be unsettled: grows with each reply, as their length becomes known */
    const struct command *early; /* what it asked when an answer before its turn was too long to be parked */
    uint8_t cautious;           /* so many more of those are asked only when their turn has come */
    struct upstream *lease;     /* for a long transfer, or a blocking command */
    struct req *block;          /* its request that blocks it: what it asks meanwhile waits in its input */
    struct upstream *watch;     /* the one on which it WATCHes */
    struct upstream *own;       /* its own connections, if it `owns` any: all it asks goes over them (redis_own.c) */
    struct own_login *login;        /* it goes by a user of the servers (redis_login.c); NULL: by Puerta's own */
    struct own_login *trial;        /* the one that a server is being asked about */
    uint64_t login_id;          /* what connections in its name bear; 0 = no login */
    struct tracking *tracking;  /* what it said by CLIENT TRACKING ON (redis_tracking.c); NULL: nothing */
    const char *doom;           /* why it is closed at its next tick, being in somebody's hands now; NULL: it is not */
    bool tracks;                /* and so it owns its connections */
    bool asked;                 /* something over those connections, since it last heard that all it keeps is void */
    bool ears;                  /* each of them with another that listens, for whom it redirects to */
    uint8_t caching;            /* CLIENT CACHING: 2 at hand, 1 for the request at hand */
    uint64_t wrote;             /* nodes where writes of it have run: a bit for each, by index % 64 */
    uint64_t aside;             /* of them, those where the last was over a connection for that one alone */
    uint64_t unsure;            /* and those where one has since its last WAIT */
    uint64_t wrote_ms;          /* when the first was */
    uint32_t confirmed;         /* the answer of that WAIT: so many replicas have what came before */
    bool watch_lost;            /* that one has gone, and with it the word of what it watched */
    struct {
        struct slice block;     /* MULTI and what has been queued behind it */
        uint32_t count;         /* commands queued */
        uint16_t slot;          /* of its keys, or of what is watched */
        bool keyed, writes, replicates, scripts, publishes, all;
        bool ending;            /* its EXEC or DISCARD is the request at hand, and waits */
    } multi;
    struct client *next;        /* free list, or the list of those to be resumed */
    struct client *hungry;      /* the next that waits for a record or a chunk */
    struct req *large;          /* what redis_large.c asked on its behalf */
    const struct command *large_command;
    struct backend *large_to;   /* the node that said it serves the key */
    uint16_t large_slot;
    bool large_ask;             /* it wants to be told ASKING first */
    uint64_t forwarded;         /* bytes of a large request passed on, or dropped, so far */
    uint64_t starved_ms;
    uint64_t guess_ms;          /* its AUTH or HELLO is not looked at before; 0 = none waits */
    uint32_t guesses;           /* wrong ones since it last logged in */
    const struct command *last; /* the row of its last request; NULL: none, or an unknown one */
    uint64_t born_ms;
    uint64_t monitor_ms;        /* since when its MONITOR waits for the nodes */
    struct subscriber sub;
    char name[64];
    char lib_name[40], lib_ver[24];
};

/* Whether the order of the two can matter: they are on the same slot, or one of them concerns all slots. */
static inline bool req_meets(const struct req *a, const struct req *b)
{
    return a->slot == b->slot || ((a->flags | b->flags) & REQ_ALL) != 0;
}

/* Whether e meets r and is in the queue of a connection, another one than u. */
static inline bool req_under_way(const struct req *e, const struct req *r, const struct upstream *u)
{
    return req_meets(e, r) && e->state == REQ_QUEUED && e->upstream != NULL && e->upstream != u;
}

/* The connection of b that r goes over: its client's own protocol decides. */
static inline struct upstream *req_upstream(const struct req *r, const struct backend *b)
{
    return b->shared[(r->flags & REQ_RESP3) != 0];
}

/* Whether nothing is sent to a node now: it is down, or does not answer. */
static inline bool backend_is_away(const struct backend *b)
{
    return backend_is_down(b) || b->state == BACKEND_SUSPECT;
}

/* Whether a reply of this type is an error. */
static inline bool reply_is_error(unsigned char type)
{
    return type == '-' || type == '!';
}

/* What a client hears (CLIENT REPLY). */
enum reply_mode {
    REPLY_ON,
    REPLY_OFF,
    REPLY_SKIP, /* of the next request nothing */
    REPLY_MUTE  /* of this one */
};

/* Whether the answer to its request at hand is dropped. */
static inline bool client_is_mute(const struct client *c)
{
    return c->reply == REPLY_OFF || c->reply == REPLY_MUTE;
}

/* Its request at hand has been done or handed on. */
static inline void client_asked(struct client *c)
{
    if (c->reply >= REPLY_SKIP) {
        c->reply = c->reply == REPLY_SKIP ? REPLY_MUTE : REPLY_ON;
    }
    if (c->caching > 0 && c->multi_state == MULTI_NONE) {
        c->caching--;
    }
}

/* Whether a request on `slot` (-1: several) must wait for earlier ones of its client: they may still be redirected,
 * or were sent by a map that has changed, and it would overtake them on another connection. */
static inline bool client_must_wait(const struct client *c, int32_t slot)
{
    if (c->unsettled == 0) {
        return false;
    }
    return c->gate || c->epoch != c->service->map.epoch ||
           (c->fences > 0 && (slot < 0 || c->fence_slot < 0 || c->fence_slot == slot));
}

/* Whether a request of k is not sent before its turn has come: lately the answer to such a one was too long to be parked until
 * then, and a node's other clients had to wait. */
static inline bool client_awaits_turn(const struct client *c, const struct command *k)
{
    return c->cautious > 0 && c->unsettled > 0 && c->early == k;
}

/* Whether CLIENT PAUSE keeps its request waiting. */
static inline bool client_is_stopped(const struct client *c, const struct command *k)
{
    bool writes = (k->flags & (CMD_WRITE | CMD_MAY_REPLICATE)) != 0 ||
                  (strcmp(k->name, "exec") == 0 && c->multi_state == MULTI_OPEN && c->multi.replicates);
    return c->monitor == MONITOR_OFF && c->service->pause_until_ms > loop_ms() && (c->service->pause_all || writes);
}

/* A request of a transaction was refused: it will be discarded, and its block is needed no more. */
static inline void client_poison(struct client *c)
{
    c->multi_state = c->multi_state != MULTI_NONE ? MULTI_POISONED : MULTI_NONE;
    slice_release(&c->multi.block);
}

/* A blocking request that is at no node, and whose client has left or is to: it is not begun any more. */
static inline bool req_is_moot(const struct req *r)
{
    return r->client == NULL || ((r->flags & REQ_BLOCKS) != 0 && r->client->ended);
}

/* Nobody waits for its reply any more. */
static inline bool req_is_nobodys(const struct req *r)
{
    return r->client == NULL && r->fan == NULL && (r->flags & REQ_OURS) == 0;
}

/* ------------------------------------------------------ redis_map.c */

extern const struct probe_talk redis_probe_talk;
void redis_map_tables(const struct conf *conf);           /* after health_tables */
/* Begins a service: its map is empty, or with topology = single the one node's. */
void map_open(struct service *s, const struct conf_service *conf, const struct service_ops *ops);
void map_refresh(struct service *s);                      /* the map is not true any more: ask soon */
void map_ask_now(struct service *s);                      /* somebody waits for a map asked for from now on */
void node_not_busy(struct backend *b);                    /* it has just done what it refuses while a script holds it up */
const char *service_busy(const struct service *s);        /* what a node says that is busy with a script; NULL: none is */
/* The AUTH request for a node's login, at most 2 * SECRET_CAP + 64 bytes; 0 when there is no password. */
size_t node_login(const struct conf_service *conf, unsigned char *out);

/* --------------------------------------------------- redis_greet.c */

/* What is said on a new lease of a kind before all else: one request, and who takes its answer. NULL: nothing. */
struct lease_greeting {
    size_t (*greet)(struct upstream *u, unsigned char *out, size_t cap); /* 0: nothing, for u */
    bool (*take)(struct upstream *u, const unsigned char *p, size_t n); /* false: the connection is of no use */
};
extern const struct lease_greeting *lease_greetings[LEASE_KINDS];
extern const struct lease_greeting *upstream_login; /* before that, on one that bears a login_id; nothing: it has none */
/* u's connection is open: it is told all that comes before the first request, or closed if that cannot be. */
void greet_open(struct upstream *u);
/* The node's answer [p, p + n) to the oldest part of that. False: a refusal, which is logged; u->refused: it will say so again. */
bool greet_answered(struct upstream *u, const unsigned char *p, size_t n);
const char *greet_refusal(void);              /* the last one, in the node's words */
void upstream_greet_late(struct upstream *u); /* what its kind says first can be said by now: it is held no more */

/* -------------------------------------------------- redis_trace.c */

struct trace_entry;
struct request;
bool trace_told(const struct req *r); /* a client's request, and none that is to take its time */
/* All of it but the times; b: who answered, or NULL. False: trace_told() says no. */
bool trace_describe(struct trace_entry *e, const struct req *r, const struct backend *b);
/* One that is slow, and all its parts; sent_us 0: it was not sent. */
void trace_whole(const struct req *r, const struct backend *b, uint32_t born_us, uint32_t sent_us);
void trace_given_up(const struct req *r);   /* slow, and about to be answered with an error made here */
void trace_request(const struct client *c, const struct request *q); /* trace_due() said that its keys count */

/* ------------------------------------------------- redis_upstream.c */

/* What a connection tells the room above. A record given to one of these has left its queue and is that room's. */
struct upstream_events {
    /* An error reply. True: it says that r was not run, and r has been taken care of. */
    bool (*turned_away)(struct upstream *u, struct req *r, const unsigned char *p, size_t n);
    void (*ahead)(struct req *r, const unsigned char *p, size_t n); /* an answer that comes before r's own (REQ_MULTI) */
    void (*ran)(struct req *r);                    /* its reply is about to be taken (still the queue's) */
    bool (*may_repeat)(const struct req *r);       /* may a reply too long for a shared connection be asked again? */
    void (*repeat)(struct req *r);                 /* do so, on a lease */
    void (*lost)(struct req *r, bool sent, bool given, const struct backend *b); /* given: part of its reply was */
    void (*late)(struct req *r, const struct backend *b);     /* no reply within request_timeout */
    void (*expired)(struct req *r, const struct backend *b, uint32_t limit_ms); /* nothing of it could be sent */
    void (*refused)(struct req *r, const struct backend *b, const char *words); /* nor will be: of HELLO 3, by the node */
    void (*too_early)(struct req *r);              /* its answer, before its turn, is dropped: others wait behind it */
    struct req *(*nobody)(const struct req *r);    /* a record for the place of a late one; NULL: none left */
    void (*owner_room)(struct client *c);          /* its lease is open, has room again, or is gone */
    void (*lease_free)(void);
};
extern const struct upstream_events *upstream_events;

void redis_upstream_tables(const struct conf *conf);
struct upstream *upstream_at(uint32_t i);          /* the shared ones of all nodes; NULL past the last */
uint32_t upstream_classes(void);                   /* to a node: 2, one a protocol; with resp3 = no 1 */
void upstream_attach(struct backend *b);
void upstream_detach(struct backend *b);
bool upstream_in_use(const struct backend *b);     /* something is queued for it */
/* Gives each of `list` its receive buffer: `count` times `size` bytes at `block`; NULL: nothing yet (the arena is measured). */
void upstream_buffers(struct upstream *list, uint32_t count, unsigned char *block, size_t size);
void upstream_close(struct upstream *u);           /* ends its connection, on which nothing is under way */
void upstream_lost(struct upstream *u, const char *why); /* its connection has gone, or is not to be: its records are seen to */
void lease_break(struct upstream *u, const char *why); /* ends its connection: what is half said cannot be said on */
void upstream_connect(struct upstream *u);         /* dials, if its node can be dialled now */
bool upstream_ready(const struct upstream *u);     /* dialled, logged in, not held */
void upstream_dirty(struct upstream *u);           /* it may send in this turn */
void upstream_put(struct upstream *u, struct req *r);
void upstream_cut(struct upstream *u, struct req *r);
void upstream_unstick_soon(void);                  /* a client has room again */
void upstream_turn(void);                          /* replies that found no room are tried again */
bool upstream_pending(void);

/* Replies find no chunk: redis_fan.c lets go of what the largest merge has kept. */
extern void (*upstream_on_shortage)(void);

/* redis_tracking.c: a push has come on a connection that its client owns (p NULL: too long to be told); one was lost. */
extern void (*upstream_on_push)(struct upstream *u, const unsigned char *p, size_t n);
extern void (*upstream_on_own_lost)(struct client *c);

/* redis_lend.c: what a lease was lent for has been answered; its connection is lost, and it is its client's no more. */
extern void (*lease_on_done)(struct upstream *u);
extern void (*lease_on_lost)(struct upstream *u);

/* ---------------------------------------------------- redis_lend.c */

void redis_lend_tables(const struct conf *conf);
void redis_lend_open(void);
/* A lease is an upstream connection that serves one client. c NULL: for one request; NULL: none of that kind is free. */
struct upstream *lease_take(struct backend *b, struct client *c, enum lease_kind kind, bool resp3);
void lease_return(struct upstream *u);
void lease_release(struct upstream *u);      /* its client lets it go; it goes back when its last request is answered */
bool lease_free_of(enum lease_kind kind);    /* whether there is one */
struct upstream *lease_at(uint32_t i);          /* NULL past the last */
uint32_t lease_index(const struct upstream *u);
/* The one of that kind whose client has asked nothing for longest, and for `ms` at least; NULL when there is none. */
struct upstream *lease_idle(enum lease_kind kind, uint64_t ms);
void lease_send(struct upstream *u, struct req *r);
void lease_sent(struct upstream *u);         /* the last byte of a streamed request has been put out */
bool lease_in_use(const struct backend *b);  /* somebody has one to it */
void lease_forget(const struct backend *b, const char *why); /* all connections to it end */

/* ------------------------------------------------------ redis_own.c */

/* c's own connection to b; NULL: it has none. */
struct upstream *own_find(const struct client *c, const struct backend *b);
/* The same, but one is dialled if need be; NULL: all are in use (max_own). */
struct upstream *own_upstream(struct client *c, struct backend *b);
bool own_ear(struct client *c, struct backend *b); /* another one, that only listens; false: all are in use */
void own_adopt(struct client *c, struct upstream *u); /* u, a LEASE_OWN for c, is one of them from now on */
void own_let_go(struct client *c);          /* c has gone, or goes by another name */

/* ------------------------------------------------------ redis_req.c */

void redis_req_tables(const struct conf *conf);
void redis_req_open(void);

/* A record for one request of c (NULL: for nobody); NULL when all are in use. Not yet in any queue. */
struct req *req_take(struct client *c, const struct command *command, req_taker take);
void req_free(struct req *r);
/* Records that can still be taken; too few for somebody (who then starves): those that wait are told when there are more. */
size_t redis_req_free(void);
void redis_req_shortage(void);
/* A node has answered r, or nobody will: its client may go on to other connections when it was the last. */
void req_settle(struct req *r);
/* What has become of a request. */
enum verdict {
    VERDICT_DONE,     /* taken care of */
    VERDICT_WAIT,     /* cannot be done now: bring it again when the client is resumed */
    VERDICT_CLOSE     /* the client is to go once all is answered */
};
/* c waits for a record or a chunk: it is resumed when there are some. */
void client_starve(struct client *c);
/* Whether its answer was taken (`done`); if not, c starves and the request comes again. */
enum verdict client_said(struct client *c, bool done);
/* Its request could be taken on after all, or it has gone. */
void client_fed(struct client *c);
/* How deep into the pool c may reach for its requests: the client that has starved longest a little deeper, since
 * requests that are half there could otherwise hold all chunks and wait for each other. */
enum buf_use client_use(const struct client *c);
/* Counts r, whose slot and flags are set, among those that a node has to answer. */
void req_commit(struct req *r);
/* Puts r at the end of its client's answers. */
void req_enqueue(struct req *r);
/* Gives r, which is in no queue, its last word: a whole reply. */
void req_answer(struct req *r, const char *line, size_t n);
/* Answers r, in whatever queue it is, with an error line made here ("-ERR ...", without CRLF). */
void req_error(struct req *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Its turn passes without a word: its client has left. */
void req_silence(struct req *r);
/* The usual taker: in order to the client. */
bool req_to_client(struct req *r, const unsigned char *p, size_t n, bool last);
bool req_drop(struct req *r, const unsigned char *p, size_t n, bool last);
/* The same for an answer, or its first piece, that lies in several places: all of it is taken, or nothing. */
bool req_give_parts(struct req *r, const struct iovec *parts, int count, bool last);
/* Its answer, of which more is to come, is not what was asked for: its client hears so, what follows is nobody's. */
bool req_wrong_shape(struct req *r);
/* Puts bytes that were made here into the client's order of answers. */
bool client_answer(struct client *c, const void *p, size_t n);
bool client_answer_parts(struct client *c, const struct iovec *parts, int count); /* all or nothing */
/* The same for what is no answer, and never muted: ahead of the answer to `before`, or if that is NULL behind all that are to
 * come but that of what blocks it. */
bool client_push(struct client *c, struct req *before, const struct iovec *parts, int count);
bool client_error(struct client *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* How many bytes of the pool one client's requests, or its answers, may hold now: never more than client_window, and
 * a quarter of what is free, so that however many are slow, some is left for the others. */
size_t client_credit(const struct client *c);
/* Sends on what is answered and next in turn. */
void client_advance(struct client *c);
void req_forget_parked(struct req *r); /* what is parked of its answer is not passed on (REQ_EARLY) */
/* The client has gone: its records go on without it. */
void req_orphan(struct client *c);
/* Client wants to be looked at again when this turn ends. */
void client_resume(struct client *c);
/* Whether the request under way is longer than its section lets clients' be (request_limit). */
static inline bool client_is_over(const struct client *c)
{
    size_t limit = c->service->conf->request_limit;
    return limit != 0 && c->framing.total > limit;
}
extern void (*client_on_resume)(struct client *c);
/* End of a turn: resumes clients, unsticks upstreams. */
void redis_req_turn(void);
/* There is more to do at once. */
bool redis_req_pending(void);
void redis_req_relieve(void); /* those that starve try again in this turn */
/* Whether a request of such a command is unanswered, of whomever. It looks at all records: not for every request. */
bool req_any(const struct service *s, bool (*such)(const struct command *));
/* Whether anything that c asked earlier is still to be done, but for what it publishes, and what is on `slot` (-1: none) and so
 * keeps its place anyway. */
bool req_ahead(const struct client *c, int32_t slot);
/* Messages come by another node: what is to be published, and waits for the one before, goes there. */
void req_reroute(const struct service *s);
/* Unanswered requests of all clients, for a stop that finishes what is in flight. */
size_t redis_req_in_flight(void);
/* A lease became free. */
extern void (*lease_on_free)(void);
/* redis_fan.c: the client of a split request has gone. */
extern void (*fan_orphan)(struct req *whole);

/* --------------------------------------------------- redis_route.c */

void redis_route_open(void);
/* Sends r, whose bytes are set, to a node, behind all that is queued there. If the node has been away too long or
 * too many wait for it, r is answered with an error instead. */
void req_send(struct req *r, struct backend *b);
/* Sends r to the owner of its slot, or makes it wait for there to be one. */
void req_route(struct req *r);
/* Turned away unexecuted: tried again after REDIS_RETRY_MS. */
void req_again(struct req *r);
void req_again_not(struct req *r); /* takes it off that list */
/* Copies or keeps the first `len` bytes of the client's input (contiguous at `p`, or elsewhere if `copied`) as the
 * bytes of r, which will go to b. False: no chunk now. */
bool req_bytes(struct req *r, struct backend *b, struct client *c, const unsigned char *p, size_t len, bool copied);

#define FUNCTION_NOT_FOUND "ERR Function not found"

/* redis_redirect.c: what the error reply p says to r, whose client is there: see upstream_events. */
extern bool (*req_turned_away)(struct upstream *u, struct req *r, const unsigned char *p, size_t n);
/* Whether a later request of the same client on the same slot is in the queue of another connection than `u`: if it runs,
 * r must not. */
bool req_later_under_way(const struct req *r, const struct upstream *u);
void req_blocked_no_more(struct req *r);  /* what it has waited for so far was no trouble: that begins now */
/* A reply that only reads is too long for the shared connection: redis_large.c asks again on a lease. */
extern void (*req_on_large)(struct req *r);
/* redis_lease.c: r goes over a lease, to b. */
extern void (*req_on_lease)(struct req *r, struct backend *b);
/* redis_block.c: r, which blocks, is about to be sent. False: there is no room for it now. */
extern bool (*lease_before_block)(struct req *r);
/* redis_exec.c: the transaction r is about to be sent to b; an answer that comes before its own; its own is an error:
 * true if r has been taken care of; it was lost before all of it was sent, the same. */
extern void (*multi_before)(struct req *r, struct backend *b);
extern void (*multi_ahead)(struct req *r, const unsigned char *p, size_t n);
extern bool (*multi_refused)(struct req *r, const unsigned char *p, size_t n);
extern bool (*multi_unsent)(struct req *r);
/* redis_script.c: r is about to be put in b's queue; its reply from b is NOSCRIPT: true if it may be sent again. */
extern void (*req_before_cached)(struct upstream *u); /* redis_tracking.c: a request with REQ_CACHED is about to be put there */
extern void (*req_before_script)(const struct req *r, struct backend *b);
extern bool (*req_script_missing)(const struct req *r, const struct backend *b);
/* redis_function.c: slots have changed hands; b has not got the function of r: true if r may be sent again. */
extern void (*req_on_owners)(struct service *s);
extern bool (*req_function_missing)(const struct req *r, struct backend *b);
/* redis_pubsub.c: slots changed their owner; a node changed its state. */
extern void (*pubsub_on_map)(struct service *s);
extern void (*pubsub_on_backend)(struct backend *b);
/* redis_fan.c: the request that a part is a part of. */
extern const struct req *(*fan_whole)(const struct fan *f);
extern void (*fan_anew)(struct req *part); /* its answer broke off: what was kept of it is let go */
extern bool (*fan_under_way)(const struct fan *f, const struct req *r, const struct upstream *u); /* a part of it */
void service_set_owner(struct service *s, uint16_t slot, struct backend *b);
extern const struct service_ops redis_service_ops;
bool service_is_one(const struct service *s); /* one node owns all slots that are served */
/* The map's owner of a slot; NULL when there is none. */
struct backend *service_owner(const struct service *s, uint16_t slot);

/* ------------------------------------------------- redis_redirect.c */

void redis_redirect_open(void);

/* ---------------------------------------------------- redis_lease.c */

void redis_lease_open(void);
/* Sends r over a lease of the kind r->lease as soon as there is one and r's turn has come: to b, or if that is NULL to the
 * owner of its slot. After lease_wait without one it is answered with an error. */
void lease_want(struct req *r, struct backend *b);
void lease_want_not(struct req *r); /* it waits no more */
/* What c watches is forgotten: the lease is cleaned and goes back; nobody waits for that. */
void lease_unwatch(struct client *c);

/* ---------------------------------------------------- redis_large.c */

void redis_large_tables(const struct conf *conf);
void redis_large_open(void);
/* Room for one request of retain_bytes in one piece. */
unsigned char *large_scratch(size_t *cap);
/* r is to carry c's message, longer than retain_bytes, to a channel of this name. */
extern void (*large_on_publish)(const struct client *c, struct req *r, const void *name, size_t n);
bool large_wants_input(const struct client *c);
/* c's request under way is larger than retain_bytes: its head is in c->in, framed so far by c->framing. */
void large_begin(struct client *c);
/* One step on. False: no further before something happens (the client is resumed then), or the client is gone. */
bool large_run(struct client *c);
void large_gone(struct client *c);

/* ------------------------------------------------------ redis_fan.c */

/* One whole request, contiguous: as it came, or turned from inline form (`copied`). */
struct request {
    const unsigned char *p;
    size_t len;
    uint32_t argc;
    const struct resp_slice *arg;  /* the first RESP_ARGS_KEPT */
    const struct command *command;
    bool copied;                   /* p is not the head of the client's input, but has been made from it */
};

void redis_fan_tables(const struct conf *conf);
void redis_fan_open(void);
/* Splits a request whose keys are in several slots. keys: all of them. */
enum verdict fan_split(struct client *c, const struct request *q, uint32_t key_count);
/* Sends the request to every master; its row says how the answers become one. There must be a map. */
enum verdict fan_all(struct client *c, const struct request *q);
/* Makes one answer of those of the parts and gives it to whole->take, by req_give_parts. False: no room. */
typedef bool (*fan_teller)(struct req *whole, const struct fan *f);
/* Asks every master `ask`, for c's request that is `asked`; `mark` stands in whole->mark. */
enum verdict fan_ask(struct client *c, const struct request *ask, const struct command *asked, uint32_t mark,
                     fan_teller tell);
/* The first bytes of what part i answered; 0 when there is none. */
size_t fan_part(const struct fan *f, uint32_t i, void *out, size_t cap);
/* The table of key slices that fan_split reads; redis.c fills it. */
struct resp_slice *fan_keys(uint32_t *cap);

/* ----------------------------------------------------- redis_exec.c */

void redis_exec_open(void);
/* c's block and EXEC go to the owner of its slot, or to the lease on which it watches. False: no room now. */
bool exec_send(struct client *c, const struct command *exec, bool watched);
const char *exec_null(const struct client *c);  /* what EXEC answers when something watched was touched */

/* ---------------------------------------------------- redis_multi.c */

enum verdict multi_command(struct client *c, const struct request *q); /* MULTI, EXEC, DISCARD, WATCH, UNWATCH */
/* Whether k is to be queued in a transaction, and so by multi_queue. */
bool multi_holds(const struct client *c, const struct command *k);
enum verdict multi_queue(struct client *c, const struct request *q);
/* v, with which an error was answered: inside MULTI its EXEC will fail. */
enum verdict multi_poison(struct client *c, enum verdict v);
void multi_reset(struct client *c);         /* no MULTI, no WATCH: RESET, or the client has gone */
bool multi_unclear(const struct client *c); /* whether a WATCH of c may be under way: what ends or uses it waits */
/* The request at hand is answered with an error, since there is no room for it. */
void multi_give_up(struct client *c);

/* -------------------------------------------------- redis_replica.c */

/* Of the answer to INFO replication: how far the stream has come; false: the node is no master. */
bool replica_offset(const unsigned char *p, size_t n, uint64_t *offset);
/* And how many replicas have confirmed it up to `target`. */
uint32_t replica_confirmed(const unsigned char *p, size_t n, uint64_t target);
/* Of the answer to WAITAOF: its two numbers. */
bool replica_pair(const unsigned char *p, size_t n, uint64_t *local, uint64_t *replicas);

/* ----------------------------------------------------- redis_wait.c */

void redis_wait_open(void);
bool wait_is_sound(const struct request *q); /* else the server explains best */
enum verdict wait_command(struct client *c, const struct request *q); /* WAIT, WAITAOF */
void wait_end(struct req *w);               /* it is answered with what is known now */
void wait_take_back(struct req *w);         /* somebody else is about to answer it */

/* ---------------------------------------------------- redis_block.c */

void redis_block_open(struct client *clients, uint32_t count);
enum verdict block_command(struct client *c, const struct request *q);
/* Its client has left: nothing may be popped for it. Its earlier requests are still answered. */
void block_left(struct client *c);
/* Takes r, to which no node will answer any more, from wherever it waits; it is to be answered then. */
void block_take_back(struct req *r);
struct client *block_client(const struct service *s, uint64_t id); /* NULL: there is none */
uint32_t block_count(const struct service *s); /* clients that are blocked */

/* -------------------------------------------------- redis_unblock.c */

void redis_unblock_open(void);
enum verdict unblock(struct client *c, const struct request *q); /* CLIENT UNBLOCK */
void unblock_at_end(struct client *c);      /* Puerta stops: its node is asked to let it go */

/* ----------------------------------------------------- redis_scan.c */

/* One SCAN, whose arity is right. There must be a map. */
enum verdict scan(struct client *c, const struct request *q);

/* --------------------------------------------------- redis_script.c */

void redis_script_tables(const struct conf *conf);
void redis_script_open(void);
/* If the command at `at` of the transaction r is an EVALSHA, its script is given to b ahead of r, once. In order, from 0. */
void script_before_block(const struct req *r, size_t at, struct backend *b);
void script_note(const struct request *q);  /* one of GROUP_SCRIPTING goes by: its body, if it has one, is kept */
bool script_is_flush(const struct command *command); /* SCRIPT FLUSH */
void script_flush_begins(void);             /* it goes to the nodes */
void script_flush_ends(bool done);          /* done: all have done it */

/* ------------------------------------------------- redis_function.c */

void redis_function_tables(const struct conf *conf);
void redis_function_open(void);
/* One of GROUP_SCRIPTING goes by. True: it changes the functions, and must wait while a new master gets them. */
bool function_waits(const struct client *c, const struct request *q);

/* --------------------------------------------------------- users.c */

/* What a client says it is. */
struct user_guess {
    const void *user;
    size_t user_len;
    const void *password;
    size_t password_len;
};

enum login {
    LOGIN_DONE,     /* it is admitted: to be answered by the caller */
    LOGIN_REFUSED,  /* it has been answered that it is wrong */
    LOGIN_LATER     /* neither yet: bring the request again when the client is resumed (VERDICT_WAIT) */
};

/* A client begins, or begins anew (RESET): admitted only if no password is set. */
void user_arrive(struct client *c);
void user_admit(struct client *c);          /* it has been admitted elsewhere */
/* What a client is told that may not come in at all, as a whole reply; NULL: it may. Counts and logs it. */
const char *user_barred(const struct conf_service *conf, const struct address *peer);
/* Answers a command of a client that is not admitted. */
enum verdict user_refuse(struct client *c);
enum login user_login(struct client *c, const struct user_guess *g);
enum verdict user_auth(struct client *c, const struct request *q); /* AUTH */

/* Its parts. */
bool user_same(const char *secret, const void *given, size_t n); /* in constant time; secret: below SECRET_CAP bytes */

/* ---------------------------------------------------- redis_login.c */

void redis_login_tables(const struct conf *conf);
void redis_login_open(void);
/* Has a server asked whether g may come in; if so c is that user from now on. Refused: `wrong` is the answer, without '-', until
 * login_trial_ends. */
enum login login_ask(struct client *c, const struct user_guess *g, const char **wrong);
void login_trial_ends(struct client *c);
const char *login_name(const struct client *c); /* "default": it has none of its own */
bool login_may_end(const struct client *c); /* nothing is under way in its name */
void login_end(struct client *c);           /* AUTH as default, RESET */
void login_gone(struct client *c);          /* c's connection has ended */

/* ------------------------------------------------- redis_tracking.c */

void redis_tracking_tables(const struct conf *conf);
void redis_tracking_open(void);
enum verdict tracking_command(struct client *c, const struct request *q); /* CLIENT TRACKING */
void caching_answer(struct client *c, const struct request *q);           /* CLIENT CACHING, TRACKINGINFO */
void trackinginfo_answer(struct client *c, const struct request *q);
int64_t tracking_redirect(const struct client *c); /* -1: it does not track */
const char *tracking_flags(const struct client *c); /* of CLIENT LIST */
uint32_t tracking_count(const struct service *s, uint32_t *prefixes); /* clients that track; their prefixes, unless NULL */
bool tracking_speaks(struct client *c);     /* its protocol has changed: so do its connections, if it tracks; else false */
void tracking_end(struct client *c);        /* CLIENT TRACKING OFF, RESET: nothing of it is under way */
void tracking_undo(struct client *c);       /* its CLIENT TRACKING is given up, half done */
void tracking_gone(struct client *c);       /* its connection has ended */

/* --------------------------------------------------- redis_pubsub.c */

void redis_pubsub_tables(const struct conf *conf);
void redis_pubsub_open(void);
/* (P|S)SUBSCRIBE, (P|S)UNSUBSCRIBE, whose arity is right. */
enum verdict pubsub_change(struct client *c, const struct request *q);
/* PUBLISH, SPUBLISH: the slot by which it goes, how many of our own clients it reaches, and who takes the reply. */
uint16_t pubsub_slot(struct service *s, const struct request *q);
uint32_t pubsub_receivers(const struct service *s, const struct request *q);
bool pubsub_published(struct req *r, const unsigned char *p, size_t n, bool last);
void pubsub_answer(struct client *c, const struct request *q); /* PUBSUB; say_writer of redis_say.h */
/* Whether a client that speaks RESP2 may say so while it subscribes to something. */
bool pubsub_allows(const struct command *command);
uint32_t pubsub_channels(const struct service *s, enum channel_kind kind);
/* Drops all that c subscribes to. False: not before what is on its way to it has been sent. */
bool pubsub_leave(struct client *c);
void pubsub_undo(struct client *c);                 /* its SUBSCRIBE or the like is given up, half done */
void pubsub_gone(struct client *c);                 /* c's connection has ended */
/* The client connection's output beyond c->out: its messages. */
int pubsub_gather(struct conn *conn, struct iovec *iov, int max);
void pubsub_sent(struct conn *conn, size_t n);
void pubsub_turn(void);
bool pubsub_pending(void);

/* -------------------------------------------------- redis_command.c */

/* The rows COMMAND and ACL CAT; say_writer of redis_say.h. */
void command_answer(struct client *c, const struct request *q);
void acl_cat_answer(struct client *c, const struct request *q);

/* -------------------------------------------------- redis_virtual.c */

/* CLUSTER: Puerta as the one node of a cluster. */
void virtual_answer(struct client *c, const struct request *q);
/* The host and port by which this client reaches Puerta; port 0: a unix socket, and the host is empty. */
struct host_port virtual_address(const struct client *c);
/* 40 hexadecimal digits that stay the same for the same texts. */
const char *virtual_id(const char *kind, const char *name, char out[41]);

/* ----------------------------------------------------- redis_info.c */

void redis_info_open(void);
/* INFO: the sections that q names. */
void info_answer(struct client *c, const struct request *q);
/* Whether it names the keyspace: then every master is to be asked, and there is a map to do so. */
bool info_is_of_all(const struct client *c, const struct request *q);
enum verdict info_of_all(struct client *c, const struct request *q);

/* --------------------------------------------------- redis_monitor.c */

extern uint32_t monitors;   /* clients that monitor */

void redis_monitor_tables(const struct conf *conf);
void redis_monitor_open(struct client *clients, uint32_t count);
void monitor_see(struct client *c, const struct request *q); /* c's request is shown to those that monitor */
enum verdict monitor_command(struct client *c);              /* MONITOR */
void monitor_end(struct client *c);                          /* RESET, or it has gone */
/* say_writers of CLIENT PAUSE and UNPAUSE. */
void pause_answer(struct client *c, const struct request *q);
void unpause_answer(struct client *c, const struct request *q);

/* --------------------------------------------------- redis_puerta.c */

enum verdict puerta_answer(struct client *c, const struct request *q); /* PUERTA and all its subcommands */

/* ---------------------------------------------------- redis_local.c */

/* The table of all clients, for those who ask about each other. */
void redis_local_open(struct client *clients, uint32_t count);
enum verdict local_answer(struct client *c, const struct request *q);

/* ---------------------------------------------------------- redis.c */

extern const struct resp_limits redis_limits;
/* Does, or hands on, the whole request at the head of c->in, framed in c->framing. */
enum verdict redis_handle(struct client *c);
/* Answers "ERR Protocol error: ..."; the connection is to be closed then, as Redis does. */
enum verdict redis_protocol_error(struct client *c, const char *text);

/* --------------------------------------------------- redis_hand.c */

extern struct hand_room redis_hand_room;
void redis_hand_open(struct client *clients, uint32_t count, struct client *(*begin)(struct service *, int, const struct address *));
bool redis_adopt(struct service *s, const struct handed *h, const int *fds); /* as in struct hand_mode */

/* --------------------------------------------------- redis_client.c */

void redis_tables(const struct conf *conf);
void redis_open(const struct conf *conf, int (*listeners)[MAX_LISTENS]);
void redis_turn(void);          /* after a turn's input: what was put off */
bool redis_pending(void);       /* the next turn must not wait */
void redis_stop(void);          /* no new clients; the others go when answered */
bool redis_idle(void);          /* nobody is left */
struct service *redis_service_at(int i);

#endif
