/*
 * mongo.h - what the rooms of MongoDB mode share. Each calls only those below it.
 *
 *   mongo.c            the sections, and which kind of clients each has
 *     mongo_relay_hand.c, mongo_pooled_hand.c   their clients, from one worker to the next
 *     mongo_relay.c      clients, each beside its own connection to a mongos (pass-through, load-balanced)
 *       mongo_leave.c      how they leave a mongos that is drained
 *     mongo_pooled.c     clients that have a connection for one exchange at a time (pooled)
 *       mongo_hold.c       what is held of requests until they go on
 *       mongo_split.c      commands that go to several mongos
 *       mongo_greet.c      what Puerta answers itself: hello, logins
 *       mongo_door.c       who may come in
 *       mongo_pool.c       the connections that are lent, and who waits for one
 *       mongo_route.c      where a message's transaction, cursor or session lives
 *     mongo_puerta.c     puertaStatus
 *     mongo_choose.c     which mongos a client gets, and for how long it keeps it
 *   mongo_trace.c      how long requests take; what kinds of them, and of errors, there are
 *   mongo_health.c     how each mongos is: asked by hello, on two connections
 *   mongo_login.c      our own greeting and login at a mongos
 */
#ifndef PUERTA_MONGO_H
#define PUERTA_MONGO_H

#include "affinity.h"
#include "handover.h"
#include "mongo_greet.h"
#include "mongomsg.h"
#include "mongowire.h"
#include "puerta.h"
#include "scram.h"

/* ------------------------------------------------- mongo_trace.c */

/* Of the request under way: stamps of trace.h, 0: not yet. Lives inside a client. */
struct mongo_times { uint32_t born_us, sent_us, began_us; };
/* What the slow log is told of it. backend NULL: none was asked, or none is known. */
struct mongo_slow {
    const struct service *service;
    const struct conn *client;
    const struct backend *backend;
    const char *command, *db;
};
void times_begin(struct mongo_times *t);    /* it is to be sent, or sent anew: the first time counts */
void times_sent(struct mongo_times *t);     /* all of it has gone */
void times_began(struct mongo_times *t, const struct backend *b); /* a byte of the answer has come: counts for that mongos */
void times_end(struct mongo_times *t, const struct mongo_slow *what); /* it has been answered, or is not to be */

void mongo_asked(const struct wire *request);   /* counts it, by its command */
void mongo_refused(enum mongo_code code);       /* counts an error made here that a client is sent */

/* ------------------------------------------------- mongo_login.c */

/* Our own greeting and login on one connection to a mongos: hello (client metadata, never compression), then SCRAM with the
 * section's user (upstream_user ...) if it has one. Lives inside the owner of the connection; may be zeroed before it begins. */
struct mongo_login {
    struct conn *conn;
    struct backend *backend;
    void (*on_end)(struct mongo_login *l, const char *why); /* why NULL: it is ready; else the connection is to be closed by
                                                               its owner, and why is a text until the next one ends */
    int64_t code;               /* of the mongos' error, 0 if there was none: 91: it is shutting down, which is no failure */
    uint8_t step;               /* 0: it has not begun, or has ended; private, as all below */
    int32_t asked_id, conversation;
    const char *late;
    struct mongo_login *next;
    struct chain in;
    struct timer timer;
    struct scram_client scram;
};
void mongo_login_tables(const struct conf *conf);
void mongo_login_open(void);
/* Begins on an open connection (behind a PROXY header, if the section wants one): writes, and calls on_end once, never from
 * within; after handshake_timeout at the latest. What fails is logged and counted here. */
void mongo_login_begin(struct mongo_login *l, struct backend *b, struct conn *c, void (*on_end)(struct mongo_login *, const char *));
void mongo_login_bytes(struct mongo_login *l);   /* its connection is readable: may call on_end as the last thing it does */
void mongo_login_stop(struct mongo_login *l);    /* its connection is gone: on_end will not be called any more */
void mongo_login_conf(const struct conf_service *conf); /* its user or password is another one: what was salted is of no use */

/* What a mongos has said of itself in its last good hello. A number that it left out is 0. */
struct mongo_facts {
    bool known, isdbgrid;
    int64_t min_wire, max_wire, max_bson, max_message, max_batch, session_minutes;
};

static inline bool mongo_facts_same(const struct mongo_facts *a, const struct mongo_facts *b)
{
    return a->known == b->known && a->isdbgrid == b->isdbgrid && a->min_wire == b->min_wire && a->max_wire == b->max_wire &&
           a->max_bson == b->max_bson && a->max_message == b->max_message && a->max_batch == b->max_batch &&
           a->session_minutes == b->session_minutes;
}

/* What is known of one mongos beside its backend entry, at the same index. */
struct mongos {
    struct backend *backend;    /* NULL: none */
    struct mongo_login login;   /* of the probe, where deep_probe has a user */
    bool let_in;                /* it has ended well */
    struct wire answer;         /* to the probe's hello */
    int32_t asked_id;
    struct conn *watcher;       /* on which a hello waits until something changes; NULL: none */
    struct wire notice;         /* its answer */
    int32_t watched_id;         /* 0: nothing is asked on it now */
    struct timer watcher_timer; /* to dial it, or to give up waiting for its answer */
    bool has_version;           /* it has said a topologyVersion */
    unsigned char process_id[12];
    int64_t counter;
    struct mongo_facts facts;
    unsigned char service_id[12]; /* told to drivers in load-balanced mode; the same as long as its address is */
    bool away;                  /* it has been anything but UP since it was first heard */
    uint64_t up_ms;             /* since when it is UP again, for slow_start; 0: it never was away */
    uint64_t held_ms;           /* since when it is held by hand, or named no more */
    uint64_t drained_ms;        /* DRAINING: by when everybody has to have left */
    uint64_t name;              /* a hash of its address: the same in each process */
    uint8_t weight;
    uint32_t connections;       /* of clients; in pooled mode those that are lent */
    uint32_t in_flight;         /* of those not pooled: requests whose answers are to come */
    uint32_t broken;            /* connections in a row that it refused or broke off */
    uint32_t ejections;
    uint64_t ejected_until_ms;
};

void mongo_health_tables(const struct conf *conf);
extern const struct probe_talk mongo_probe_talk;
struct mongos *mongos_of(const struct backend *b);
extern uint32_t mongos_changes;             /* grows whenever facts or the state of some mongos have changed */
extern void (*mongos_on_facts)(struct backend *b); /* set by mongo.c: its facts have changed */
void mongos_conf(const struct service *s);  /* their weights may be others */
void mongos_changed(struct backend *b);     /* its state: also when it is new in the table (NEW), or leaves it (FREE) */
/* What lives there can be reached: it is up, or shutting down and serving those who are there. */
static inline bool mongos_works(const struct backend *b)
{
    return (b->state == BACKEND_UP || b->state == BACKEND_DRAINING) && b->hold != HELD_DOWN;
}
/* The same, but nothing new goes there: it is shutting down, or drained by hand. */
static inline bool mongos_drains(const struct backend *b)
{
    return mongos_works(b) && !backend_takes_new(b);
}
void mongos_held(struct backend *b);        /* an operator holds it, or does no longer */
/* A client's connection to it was refused, or lost in the middle of an answer: after eject_after of these in a row it is
 * left out for a while, but never the last one. */
void mongos_broke(struct backend *b);
void mongos_served(struct backend *b);      /* it has answered a client */
void mongos_leaves(struct backend *b);      /* it says that it shuts down: nothing new until its probe knows */
bool mongos_ejected(const struct backend *b);

/* ---------------------------------------------------- an upgrade */

/* What a note is about, of a table of affinity.c. */
enum mongo_note {
    NOTE_SEED,   /* its hashes are made with that: before all others */
    NOTE_ENTRY,  /* an entry, by its hash; of a client: number[] says what it has open, and its era */
    NOTE_PUT,    /* a key lives there from now on */
    NOTE_REMOVE
};
void mongo_make_seed(struct hand_note *n, const struct affinity *a, const struct service *s);
/* Notes of one table from entry *at on: false: the other side takes no more now. `fill` adds what else is known. */
bool mongo_tell_table(const struct affinity *a, const struct service *s, uint32_t *at, bool (*give)(const struct hand_note *n),
                      void (*fill)(const struct service *s, uint32_t entry, struct hand_note *n));
/* Of one key: it lives at b now, or is forgotten (NULL). */
void mongo_make_note(struct hand_note *n, const struct service *s, enum affinity_kind of, const void *key, size_t len, const struct backend *b);
struct backend *mongo_at_place(const struct service *s, uint64_t place); /* the mongos of that name; NULL: there is none */
/* Takes one in; the entry that it is about, or NULL. */
struct affinity_entry *mongo_take_note(struct affinity *a, struct affinity_entry *entries, const struct service *s, const struct hand_note *n);

/* ------------------------------------------------- mongo_choose.c */

/* What is taken for one client, with all its connections, and stays at one mongos. Lives inside each of them. */
struct mongo_client_id {
    uint8_t section;            /* its number among those of MongoDB */
    bool alone;                 /* it is one connection: when that has closed nobody asks for it again */
    uint8_t len;                /* of key */
    unsigned char key[32];
    uint32_t entry;             /* held in affinity.c's table; AFFINITY_NONE: not yet, or the table is full */
};

/* A request of which the answer says whether something stays open at its mongos. */
struct mongo_asked {
    int32_t id;
    int64_t cursor;             /* of a getMore, or the first of killCursors (drivers kill one at a time); 0: it is none */
    unsigned char lsid[16];
    bool greets;                /* hello, or a step of a login */
    bool waits;                 /* a hello that is answered when something changes at its mongos */
    bool in_transaction, commits, aborts;
};

void mongo_choose_tables(const struct conf *conf);
void mongo_choose_open(int section, const struct conf_service *conf);
void mongo_choose_conf(int section, const struct conf_service *conf); /* affinity_grace */
void mongo_choose_forget(int section, const struct backend *b); /* its entry becomes free: clients that were there are nowhere */
/* Those that take something new, but for the `tried` ones: what is up, if need be also what is left out, if need be what is
 * shutting down. Gives how many. */
uint32_t mongo_candidates(const struct service *s, struct backend *const *tried, uint32_t count,
                          struct backend *list[MAX_SEEDS]);
/* What stats and gauges have been told of a table. */
struct mongo_told { struct affinity_counts counts; uint64_t used; };
/* Tells them what has changed in it since. */
void mongo_count(const struct affinity *a, struct mongo_told *told);
/* What part of the load it is to get, by its weight and the time since it came back; never 0. */
uint32_t mongo_share(const struct backend *b);
/* Of n (not 0) the one with the fewest connections for its share; among equals by chance. */
struct backend *mongo_least(struct backend *const *list, uint32_t n);
/* Whose connection that is, by where it comes from and what it said first; id->section is the caller's. */
void mongo_identify(struct mongo_client_id *id, const struct conf_service *conf, const struct conn *conn, const struct wire *first);
/* The mongos of that client: the one it has, or another if that cannot be had any more. `tried` have just refused. NULL:
 * there is none. Counts this connection as one of the client's until mongo_let_go(). */
struct backend *mongo_choose(struct mongo_client_id *id, struct service *s, struct backend *const *tried, uint32_t count);
void mongo_let_go(struct mongo_client_id *id);
/* Before mongo_choose(): whether its client is about to leave a mongos that is drained by hand, and a connection of it was busy there
 * at the last look (of that time; or there was none in this turn): this one is to wait, so that it moves as a whole. */
bool mongo_moves(struct mongo_client_id *id, uint64_t looked_ms);
void mongo_note_busy(const struct mongo_client_id *id);          /* at a look: that is so */
bool mongo_is_busy(const struct mongo_client_id *id);            /* it was noted in this turn */
/* Since when its client is asked to leave b, which is drained by hand; 0: it is let be. */
uint64_t mongo_asked_ms(const struct mongo_client_id *id, const struct backend *b);
void mongo_let_be(const struct mongo_client_id *id, uint32_t ms); /* it does not come to rest: it stays there for so long; 0: no longer */

/* Notes what a request or its answer opens or closes. */
void pins_ask(const struct mongo_client_id *id, struct mongo_asked *asked, const struct wire *request);
void pins_answer(const struct mongo_client_id *id, struct mongo_asked *asked, const struct wire *reply);
/* Whether the client has cursors or transactions open. */
bool pins_hold(const struct mongo_client_id *id);
/* Whether it has nothing open, or opens and ends things: some have been since then. */
bool pins_turn(const struct mongo_client_id *id, uint64_t since_ms);
/* How many connections the client has, where it is in the table. */
uint32_t mongo_connections(const struct mongo_client_id *id);
/* An upgrade: its tables, told and taken; a client that comes from the worker before, with its connection to b. */
void choose_seed(int section, const struct service *s, struct hand_note *n);
bool choose_tell(int section, const struct service *s, uint32_t *at, bool (*give)(const struct hand_note *n));
void choose_take_note(int section, const struct service *s, const struct hand_note *n);
void mongo_stay(struct mongo_client_id *id, const struct backend *b);

/* -------------------------------------------------- mongo_route.c */

enum route {
    ROUTE_GO,     /* to route->backend */
    ROUTE_WAIT,   /* no mongos takes anything now */
    ROUTE_REFUSE  /* nowhere: code, label and text say why */
};

struct routed {
    struct backend *backend;
    bool pinned;            /* there or nowhere: what it is about lives there */
    enum mongo_code code;
    const char *label, *text; /* constants; label may be NULL */
};

void route_tables(const struct conf *conf);
void route_open(int section, const struct conf_service *conf);
/* Whether cursors or transactions live there. Looks at all there are. */
bool route_lives(int section, const struct backend *b);
void route_forget(int section, const struct backend *b); /* its entry becomes free */
/* Where a request goes whose fields are known: its transaction, its cursor, its session (rendezvous), or the least loaded
 * one. `avoid` has just refused a connection; NULL: none. */
enum route mongo_route(int section, struct service *s, const struct wire *request, const struct backend *avoid, struct routed *out);
/* Another mongos for a request that is not pinned, when its own one has no connection left: the least loaded of those that
 * `fits`. NULL: there is none, or the tables are so full that what it opens might not be found again. */
struct backend *route_elsewhere(int section, struct service *s, const struct wire *request, bool (*fits)(const struct backend *));
/* It goes to that mongos now: false when that cannot be remembered, though it has to be (a transaction begins). */
bool route_sent(int section, const struct wire *request, const struct backend *b);
/* Notes what the answer opens or closes. */
void route_answered(int section, const struct wire *request, const struct wire *reply, const struct backend *b);
/* Which mongos has that cursor of the request's session; NULL: not known. `forget`: it is being killed. */
struct backend *route_cursor(int section, const struct wire *request, int64_t cursor, bool forget);
/* An upgrade: its tables, told and taken; and what it notes while two workers serve. */
void route_seed(int section, const struct service *s, struct hand_note *n);
bool route_tell(int section, const struct service *s, uint32_t *at, bool (*give)(const struct hand_note *n));
void route_take_note(int section, const struct service *s, const struct hand_note *n);
void route_notes(const struct hand_notes *notes);
/* The label by which a driver knows what it may do about an error that Puerta answers; NULL: none. */
const char *route_label(const struct wire *request);

/* --------------------------------------------------- mongo_pool.c */

enum link_state {
    LINK_FREE,
    LINK_DIALING,
    LINK_GREETING, /* mongo_login.c is at work */
    LINK_CLEAN,    /* between two of the others: in no list */
    LINK_IDLE,
    LINK_LENT,
    LINK_ENDING    /* its client has gone; the rest of the answer is dropped */
};

/* One connection to a mongos. */
struct pool_link {
    struct conn *conn;
    struct backend *backend;
    struct pool_waiter *holder;    /* LENT: to whom */
    struct pool_link *next, *prev; /* among the idle ones, or the free ones */
    struct mongo_login login;
    struct wire answer;            /* on it: begun by whoever has it lent */
    uint64_t born_ms, idle_ms;     /* since when it is there, since when it is idle */
    uint8_t state;
    bool unanswered;               /* ENDING: nothing is to come, it only has to go out */
};

/* Who wants one. Lives inside a client. */
struct pool_waiter {
    struct pool_waiter *next, *prev;
    struct backend *backend;       /* for whose connection it waits; NULL: for any mongos to come up, if `waits` */
    struct service *service;
    bool waits, pinned;
};

/* What the pool says to those who hold or want a connection. */
struct pool_ops {
    void (*on_lent)(struct pool_waiter *w, struct pool_link *l);
    void (*on_moved)(struct pool_waiter *w, const struct backend *refused); /* it waits no longer: it is to be routed anew */
    void (*on_bytes)(struct pool_link *l);
    void (*on_room)(struct pool_link *l);
    void (*on_lost)(struct pool_link *l, const char *why); /* already no link any more: only holder and backend are good */
};

enum pool_take { POOL_LENT, POOL_WAITS, POOL_FULL };

void pool_tables(const struct conf *conf);
void pool_open(const struct pool_ops *ops);
/* A connection to that mongos: *lent at once, or w waits in line for it and on_lent follows; FULL: too many wait (pool_queue). */
enum pool_take pool_take(struct pool_waiter *w, struct service *s, struct backend *b, bool pinned, struct pool_link **lent);
/* Waits until any mongos of the section comes up: on_moved follows. False: too many wait. */
bool pool_await(struct pool_waiter *w, struct service *s);
void pool_leave(struct pool_waiter *w);      /* it waits no longer */
void pool_return(struct pool_link *l);       /* the exchange is over, nothing of it is left on the connection */
/* Its client has gone: the rest of the answer on l->answer is read and dropped; or, `unanswered`, what was asked only has
 * to go out. */
void pool_end(struct pool_link *l, bool unanswered);
void pool_drop(struct pool_link *l);         /* something is left on it: closed */
bool pool_has_room(const struct backend *b); /* a connection is idle, or may be dialled for one more than wait already */
/* The section's configuration has changed; renew: another login, so that no connection made before is lent again. */
void pool_conf(const struct service *s, bool renew);
void pool_backend(struct backend *b);        /* its state has changed, or what an operator wants of it */
void pool_describe(const struct backend *b, struct backend_facts *out);

/* --------------------------------------- a client of pooled mode */

enum pooled_state {
    POOLED_READING,  /* a request is coming, and where it goes is not known */
    POOLED_WAITING,  /* that is known: for a connection, or for a mongos */
    POOLED_SENDING,  /* a connection is lent, and the rest of the request comes */
    POOLED_ASKED,    /* the request has gone on as a whole, its answer is to come */
    POOLED_REFUSING, /* the rest of the request is dropped; then its client is told why */
    POOLED_LATER     /* mongo_greet.c answers later */
};

/* One client of pooled mode: a connection of a driver. */
struct pooled {
    struct pool_waiter waiter;  /* first: the pool's pointer is the client's */
    struct conn *conn;          /* NULL: free */
    struct service *service;
    struct pooled *next_free;
    struct pooled *queue_next, *queue_prev; /* mongo_hold.c: others who wait there */
    struct pool_link *link;     /* lent to it; NULL: none */
    struct wire asks;           /* its request */
    struct chain held;          /* of the request: what has not gone on */
    struct slice packed;        /* all that is held, of a small request that waits */
    struct chain ahead;         /* what came behind the request */
    struct chain small;         /* of an answer that goes on when it is whole */
    uint64_t born_ms;
    uint64_t came_ms;           /* since when its request comes; before the first one: since when it is here */
    uint64_t until_ms;          /* LATER: greet_again() is called then at the latest; `much`: it is whole by then */
    uint32_t much;              /* bytes of a request of which more than client_window is held; 0: it is not */
    uint64_t wait_ms;           /* since when the request waits for a connection; 0: it has not */
    struct mongo_times times;   /* of a request that goes to a mongos */
    uint16_t asked;             /* that one's index + 1, the last of several; 0: none has been asked */
    struct greeting greeting;
    enum mongo_code code;       /* REFUSING: with label and text, which are constants */
    const char *label, *text;
    struct split *split;        /* its command goes to several mongos; NULL: it does not */
    uint8_t section, user, state;
    bool spoke;                 /* it has sent a whole message */
    bool ended;                 /* it sends no more */
    bool begun;                 /* part of an answer has gone to it */
    bool starved;               /* no chunk was left for what it says, or for what is said to it */
    bool half;                  /* a stranger in the middle of a message */
    bool queues;                /* READING: to hold more of a request than client_window */
    bool wants_split;           /* WAITING: for a place in mongo_split.c */
    bool leaves;                /* its user is none any more: it is closed when its exchange is over */
};

/* -------------------------------------------------- mongo_split.c */

#define SPLIT_MAX 65536         /* bytes of a command that goes to several mongos */

void split_tables(const struct conf *conf);
void split_open(void);
/* Whether a request goes to several mongos. */
bool split_takes(const struct wire *request);
enum split_begun {
    SPLIT_BEGUN,
    SPLIT_ONE,  /* it concerns one mongos, *only: it goes there as any request does */
    SPLIT_FULL, /* too many are under way: again when one has ended */
    SPLIT_BAD   /* it cannot be read, or names more than there is room for */
};
/* Begins with a whole request, which also stays in p->held until split_end(). */
enum split_begun split_begin(struct pooled *p, const unsigned char *msg, size_t n, struct backend **only);
void split_end(struct pooled *p);            /* also where there is none */
bool split_has_place(void);                  /* not too many are under way */
uint32_t split_count(void);                  /* under way */
/* The next mongos that is to be asked; NULL: all have been. */
struct backend *split_next(struct pooled *p);
/* What it is asked: its length, 0 if it has no room or the request's checksum is wrong. */
size_t split_ask(struct pooled *p, const struct backend *b, unsigned char *out, size_t cap);
/* What it has answered. */
void split_said(struct pooled *p, const unsigned char *msg, size_t n);
/* The answer to the whole, with that id. */
size_t split_answer(const struct pooled *p, int32_t id, unsigned char *out, size_t cap);

/* --------------------------------------------------- mongo_hold.c */

enum hold {
    HOLD_MAY,
    HOLD_QUEUES, /* others hold much: on_turn follows when it may go on */
    HOLD_NEVER   /* it is too long for the pool */
};

void hold_open(void (*on_turn)(struct pooled *p));
/* More than client_window has to be held of a request. What may be is to be whole by p->until_ms (client_stall). */
enum hold hold_much(struct pooled *p);
/* Lets all go that is held of its request, and what was reserved for it; it queues no longer. */
void hold_drop(struct pooled *p);
size_t hold_reserved(void);                  /* bytes, of all whose request is long */
/* While it waits, a small request does not occupy a chunk; back into p->held: false if there is no chunk for that. */
void hold_pack(struct pooled *p);
bool hold_unpack(struct pooled *p);

/* ------------------------------------------------- mongo_pooled.c */

void pooled_tables(const struct conf *conf);
void pooled_open(void);
struct conn *pooled_accept(struct service *s, uint8_t section, int fd, const struct address *peer);
void pooled_backend(struct backend *b);
void pooled_conf(struct service *s, const struct conf_service *before); /* the section's configuration has changed */
void pooled_stop(void);
bool pooled_idle(void);
size_t pooled_in_flight(void);
struct pooled *pooled_table(uint32_t *total); /* all of it; who is nobody has no `conn` */
void pooled_goes_on(struct pooled *p); /* one that has come from another worker: it is read, or its hello waits */

/* -------------------------------------------- mongo_pooled_hand.c */

extern struct hand_room pooled_hand_room;
void pooled_hand_open(void);           /* behind pooled_open() */
bool pooled_adopt(struct service *s, uint8_t section, const struct handed *h, const int *fds);

/* ------------------------------------------------- mongo_puerta.c */

/* Whether a request is puertaStatus, and is answered here. */
bool mongo_puerta_takes(const struct conf_service *conf, const struct wire *request);
/* Does what the whole request msg, which w has walked, asks for; writes the answer, with that id. may: its client is one who may. Gives
 * the length. */
size_t mongo_puerta_answer(const unsigned char *msg, size_t n, const struct wire *w, bool may, int32_t id, unsigned char *out, size_t cap);

/* -------------------------------------------------- mongo_relay.c */

void relay_tables(const struct conf *conf);
void relay_open(void);
/* A new client's connection; NULL: there is no entry left for it. */
struct conn *relay_accept(struct service *s, uint8_t section, int fd, const struct address *peer);
void relay_conf(struct service *s);    /* the section's configuration has changed */
void relay_backend(struct backend *b); /* its state has changed, or what an operator wants of it */
void relay_stop(void);                 /* those with nothing under way are closed */
bool relay_idle(void);
size_t relay_in_flight(void);

/* --------------------------------------------- mongo_relay_hand.c */

extern struct hand_room relay_hand_room;
void relay_hand_open(void);            /* behind relay_open() */
bool relay_adopt(struct service *s, uint8_t section, const struct handed *h, const int *fds);

/* -------------------------------------------------------- mongo.c */

void mongo_tables(const struct conf *conf);
void mongo_open(const struct conf *conf, int (*listeners)[MAX_LISTENS]);
void mongo_stop(void);      /* takes no new clients; those with nothing under way are closed */
extern bool mongo_stopping;  /* that has been called; only the fuzzer takes it back */
bool mongo_idle(void);      /* nothing is under way */
bool mongo_adopt(struct service *s, const struct handed *h, const int *fds); /* as in struct hand_mode, and so below */
bool mongo_seeds(bool (*give)(const struct hand_note *n));
bool mongo_tell(uint32_t *cursor, bool (*give)(const struct hand_note *n));
void mongo_note(struct service *s, const struct hand_note *n);
size_t mongo_in_flight(void); /* requests whose answers are to come */

#endif
