/* status.h - what is told of a running Puerta, in no form: rows that admin.c writes as JSON, redis_puerta.c as RESP,
 * mongo_puerta.c as BSON. All is read at the moment of the call; nothing here keeps a pointer.
 *
 * What is walked by a cursor may change between two calls: a cursor is an index for life, so that who stays is told once.
 */
#ifndef PUERTA_STATUS_H
#define PUERTA_STATUS_H

#include "puerta.h"

struct status_process {
    const char *version;
    long pid;
    uint64_t uptime_ms;
    int64_t started;            /* seconds since 1970 */
    bool ready, stopping;       /* ready: each section is, and the process is not stopping */
    const char *log_level;
    size_t memory;              /* bytes of the arena */
};
struct status_process status_process(void);
void status_open(void);         /* the process begins now */

struct status_section {
    const struct service *service;
    const char *name, *kind, *mode; /* "redis" or "mongo"; "cluster", "single", "passthrough", "loadbalanced", "pooled" */
    uint32_t clients, backends, backends_up;
    uint32_t slots;             /* Redis: how many have an owner */
    bool ready;                 /* some server takes what is new; of Redis also: is up and owns slots */
};
/* Section i of service_at(); false past the last. */
bool status_section(int i, struct status_section *out);

struct status_backend {
    const struct backend *backend;
    char name[HOST_CAP + 8];    /* "HOST:PORT" */
    const char *section, *state, *hold; /* as backend_state_name() and backend_hold_name() have them */
    struct backend_facts facts;
    const struct latency *latency;
    uint64_t since_ms;          /* how long it has been in that state */
};
/* The next server from *at on (begin with 0); false when there is none left. */
bool status_backend(uint32_t *at, struct status_backend *out);

struct status_client {
    uint64_t id;
    char address[ADDRESS_TEXT];
    struct conn_facts facts;
    char backend[HOST_CAP + 8]; /* "" = at none, or at several */
    uint64_t age_ms, idle_ms;
    size_t waiting_out;         /* bytes that it has not read yet */
};
/* The next client connection from *at on; false when there is none left. */
bool status_client(uint32_t *at, struct status_client *out);

/* Said by main: the process is on its way out. */
extern bool status_stopping;

#endif
