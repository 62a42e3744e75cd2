/* status.h - what is told of a running Puerta, in no form: rows of fields that admin_doc.c writes as JSON, redis_puerta.c as RESP,
 * mongo_puerta.c as BSON. Names, their order and their values are given here alone, so each of the three tells the same.
 *
 *   status_row() --one row of a list--> fields --a writer for each type--> whatever form
 *
 * All is read at the moment of the call; a row is good until the next turn. What is walked by a cursor may change between two calls: a
 * cursor is an index for life, or a number given once, so that who stays is told once. That of hot keys and slots is a rank, which they
 * may exchange in between: one may be told twice then, and another not.
 */
#ifndef PUERTA_STATUS_H
#define PUERTA_STATUS_H

#include "puerta.h"
#include "trace.h"

/* ------------------------------------------------------------------- rows */

enum status_list {
    STATUS_PROCESS,     /* one row */
    STATUS_SECTIONS, STATUS_BACKENDS, STATUS_CLIENTS,
    STATUS_GAUGES,      /* each has a name */
    STATUS_SLOW,        /* the youngest first */
    STATUS_HOT_KEYS, STATUS_HOT_SLOTS, STATUS_TABLES
};

enum status_type {
    STATUS_TEXT,        /* `at`: up to a NUL */
    STATUS_KEY,         /* `at`: so many bytes of whatever value; status_key() */
    STATUS_NUMBER,
    STATUS_BOOL,
    STATUS_ADDRESS,     /* `at`: a struct address */
    STATUS_ADDRESSES    /* `at`: so many of them */
};

struct status_field {
    const char *name;
    enum status_type type;
    uint64_t number;
    const void *at;
};

#define STATUS_FIELDS 20 /* more than any row has */

struct status_row {
    const char *name;   /* of GAUGES; NULL */
    uint32_t count;
    struct status_field fields[STATUS_FIELDS];
    char server[HOST_CAP + 8]; /* what a field may point at */
};

/* The next row of a list from *at on (begin with 0); false when there is none left. */
bool status_row(enum status_list list, uint64_t *at, struct status_row *out);

#define STATUS_KEY_TEXT (4 * TRACE_KEY + 3)
/* A KEY where texts have to be UTF-8: what is not printable as \xHH, as in the log. Gives its length, without a NUL. */
size_t status_key(const struct status_field *f, char out[STATUS_KEY_TEXT]);

/* -------------------------------------------------- what else is asked for */

struct status_section {
    const struct service *service;
    const char *name, *kind, *mode; /* "redis" or "mongo"; "cluster", "single", "passthrough", "loadbalanced", "pooled" */
    uint32_t clients, backends, backends_up;
    uint32_t slots;             /* Redis: how many have an owner */
    uint32_t untried;           /* servers of which nothing is known yet */
    bool ready;                 /* some server takes what is new; of Redis also: is up and owns slots */
};
/* Section i of service_at(); false past the last. */
bool status_section(int i, struct status_section *out);

struct status_backend {
    const struct backend *backend;
    char name[HOST_CAP + 8];    /* "HOST:PORT" */
    const char *section, *kind;
    struct backend_facts facts;
    const struct latency *latency;
    uint64_t since_ms;          /* how long it has been in its state */
};
/* The next server from *at on (begin with 0); false when there is none left. */
bool status_backend(uint64_t *at, struct status_backend *out);

void status_open(void);         /* the process begins now */
int64_t status_started(void);   /* seconds since 1970 */
bool status_ready(void);        /* each section is, and the process is not stopping */
/* Said by main: the process is on its way out. */
extern bool status_stopping;

#endif
