/*
 * mongo.h - what the rooms of MongoDB mode share.
 *
 *   mongo.c          clients, each beside its connection to a mongos
 *   mongo_choose.c   which mongos a client gets, and for how long it keeps it
 *   mongo_health.c   how each mongos is: asked by hello, on two connections
 *   mongo_login.c    Puerta's own hello and login on a connection to a mongos
 */
#ifndef PUERTA_MONGO_H
#define PUERTA_MONGO_H

#include "affinity.h"
#include "mongomsg.h"
#include "mongowire.h"
#include "puerta.h"
#include "scram.h"

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

/* ------------------------------------------------- mongo_health.c */

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

/* -------------------------------------------------------- mongo.c */

void mongo_tables(const struct conf *conf);
void mongo_open(const struct conf *conf, int (*listeners)[MAX_LISTENS]);
void mongo_stop(void);      /* takes no new clients; those with nothing under way are closed */
extern bool mongo_stopping;  /* that has been called; only the fuzzer takes it back */
bool mongo_idle(void);      /* nothing is under way */
size_t mongo_in_flight(void); /* requests whose answers are to come */

#endif
