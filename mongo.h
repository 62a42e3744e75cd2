/*
 * mongo.h - what the rooms of MongoDB mode share.
 *
 *   mongo.c          clients, each beside its connection to a mongos
 *   mongo_choose.c   which mongos a client gets, and for how long it keeps it
 *   mongo_health.c   how each mongos is: asked by hello, on two connections
 */
#ifndef PUERTA_MONGO_H
#define PUERTA_MONGO_H

#include "affinity.h"
#include "mongo_greet.h"
#include "mongomsg.h"
#include "mongowire.h"
#include "puerta.h"

/* ------------------------------------------------- mongo_health.c */

/* What a mongos has said of itself in its last good hello. A number that it left out is 0. */
struct mongo_facts {
    bool known, isdbgrid;
    int64_t min_wire, max_wire, max_bson, max_message, max_batch, session_minutes;
};

/* What is known of one mongos beside its backend entry, at the same index. */
struct mongos {
    struct backend *backend;    /* NULL: none */
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
    uint64_t drained_ms;        /* DRAINING: by when everybody has to have left */
    uint8_t weight;
    uint32_t connections;       /* of clients */
    uint32_t broken;            /* connections in a row that it refused or broke off */
    uint32_t ejections;
    uint64_t ejected_until_ms;
};

void mongo_health_tables(const struct conf *conf);
extern const struct probe_talk mongo_probe_talk;
struct mongos *mongos_of(const struct backend *b);
extern uint32_t mongo_facts_changes; /* grows whenever facts, or the state of a mongos, may be other ones */
void mongos_changed(struct backend *b);     /* its state: also when it is new in the table (NEW), or leaves it (FREE) */
/* A client's connection to it was refused, or lost in the middle of an answer: after eject_after of these in a row it is
 * left out for a while, but never the last one. */
void mongos_broke(struct backend *b);
void mongos_served(struct backend *b);      /* it has answered a client */
bool mongos_ejected(const struct backend *b);

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
/* Whose connection that is, by where it comes from and what it said first; id->section is the caller's. */
void mongo_identify(struct mongo_client_id *id, const struct conf_service *conf, const struct conn *conn, const struct wire *first);
/* The mongos of that client: the one it has, or another if that cannot be had any more. `tried` have just refused. NULL:
 * there is none. Counts this connection as one of the client's until mongo_let_go(). */
struct backend *mongo_choose(struct mongo_client_id *id, struct service *s, struct backend *const *tried, uint32_t count);
void mongo_let_go(struct mongo_client_id *id);

/* Notes what a request or its answer opens or closes. */
void pins_ask(const struct mongo_client_id *id, struct mongo_asked *asked, const struct wire *request);
void pins_answer(const struct mongo_client_id *id, struct mongo_asked *asked, const struct wire *reply);
/* Whether the client has cursors or transactions open. */
bool pins_hold(const struct mongo_client_id *id);

/* ------------------------------------------------- mongo_pooled.c */

/* One client of pooled mode: a connection of a driver. */
struct pooled {
    struct conn *conn;
    struct service *service;
    struct wire asks;           /* its request */
    uint64_t until_ms;          /* greet_again() is called then at the latest */
    struct greeting greeting;
    uint8_t user;               /* DOOR_NOBODY, or the index of the user who has logged in */
};

/* -------------------------------------------------------- mongo.c */

void mongo_tables(const struct conf *conf);
void mongo_open(const struct conf *conf, int (*listeners)[MAX_LISTENS]);
void mongo_stop(void);      /* takes no new clients; those with nothing under way are closed */
extern bool mongo_stopping;  /* that has been called; only the fuzzer takes it back */
bool mongo_idle(void);      /* nothing is under way */
size_t mongo_in_flight(void); /* requests whose answers are to come */

#endif
