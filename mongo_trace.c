/*
 * mongo_trace.c - what is counted of a request of MongoDB mode: its kind, its errors, its times, and what the slow log is told of it.
 *
 *   begun ------> sent: its last byte has gone ----> began: the first byte of the answer ----> told: it has been answered
 *
 * Owns nothing: the times live in each client. Told are the command and its database; documents are not looked at.
 */
#include "mongo.h"
#include "trace.h"

#include <stdio.h>
#include <string.h>

void times_begin(struct mongo_times *t)
{
    t->born_us = t->born_us != 0 ? t->born_us : trace_stamp();
    t->sent_us = t->began_us = 0;
}

void times_sent(struct mongo_times *t)
{
    t->sent_us = t->born_us != 0 && t->sent_us == 0 ? trace_stamp() : t->sent_us;
}

void times_began(struct mongo_times *t, const struct backend *b)
{
    if (t->sent_us != 0 && t->began_us == 0) {
        t->began_us = trace_stamp();
        stats_latency(b->index, t->began_us - t->sent_us);
    }
}

/* It has been slow. */
static void tell(const struct mongo_times *t, uint32_t now, const struct mongo_slow *what)
{
    struct trace_entry e;
    uint32_t sent = t->sent_us != 0 ? t->sent_us : now, began = t->began_us != 0 ? t->began_us : now;
    if (!trace_slow_room()) {
        trace_slow_pass();
        return;
    }
    memset(&e, 0, sizeof e);
    e.section = what->service->conf;
    e.client = what->client->peer;
    if (what->backend != NULL) {
        backend_name(what->backend, e.backend);
    }
    snprintf(e.command, sizeof e.command, "%s", what->command);
    e.key_len = (uint8_t)strnlen(what->db, sizeof e.key);
    memcpy(e.key, what->db, e.key_len);
    e.queued_us = sent - t->born_us;
    e.sent_us = began - sent;
    e.answered_us = now - began;
    trace_slow_add(&e);
}

void times_end(struct mongo_times *t, const struct mongo_slow *what)
{
    uint32_t now = trace_stamp();
    if (t->born_us != 0 && trace_done(now - t->born_us)) {
        tell(t, now, what);
    }
    memset(t, 0, sizeof *t);
}

void mongo_asked(const struct wire *request)
{
    static const char *const reads[] = {
        "aggregate", "collStats", "count", "dataSize", "dbStats", "distinct", "explain", "find", "getMore", "listCollections",
        "listDatabases", "listIndexes", NULL
    };
    static const char *const writes[] = {
        "bulkWrite", "collMod", "create", "createIndexes", "delete", "deleteIndexes", "drop", "dropDatabase", "dropIndexes",
        "findAndModify", "findandmodify", "insert", "mapReduce", "renameCollection", "update", NULL
    };
    const char *const *const lists[] = { reads, writes };
    enum stats_class class = STATS_READ;
    for (; class < STATS_OTHER; class++) {
        const char *const *name = lists[class];
        while (*name != NULL && (**name != request->command[0] || strcmp(*name, request->command) != 0)) {
            name++;
        }
        if (*name != NULL) {
            break;
        }
    }
    stats.requests++;
    stats_mongo[class]++;
}

void mongo_refused(enum mongo_code code)
{
    char word[64];
    int n = snprintf(word, sizeof word, "-%s", mongomsg_code_name(code));
    stats_error(word, (size_t)n < sizeof word ? (size_t)n : sizeof word - 1);
}
