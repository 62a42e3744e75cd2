/*
 * mongo_puerta.c - puertaStatus: what is told of a running Puerta, and done to it, over the MongoDB protocol.
 *
 *   db.adminCommand({puertaStatus: 1})                             the process, sections, servers, tables, counters
 *                  ({puertaStatus: 1, clients: 0})                 clients of all sections, a page at a time
 *                  ({puertaStatus: 1, drain: "HOST:PORT"})         undrain, down: the same; kill: ID; loglevel: "warn"
 *
 *   request -> status.c, stats.c: what there is; action.c: what was done -> BSON, with the names that GET /status has
 *
 * It is answered in sections with allow_admin = yes; elsewhere it goes to a mongos as any command, which does not know it.
 */
#include "action.h"
#include "mongo.h"
#include "status.h"

#include <stdio.h>
#include <string.h>

#define CLIENTS_PAGE 100
#define ROW_CAP 2048 /* bytes that no row comes to: so many stay free for the end of the answer */

bool mongo_puerta_takes(const struct conf_service *conf, const struct wire *w)
{
    return conf->allow_admin && w->header.opcode == WIRE_OP_MSG && wire_is(w, "puertaStatus");
}

/* ------------------------------------------------------------- what there is */

static void put_process(struct bson *b)
{
    struct status_process p = status_process();
    bson_string(b, "version", p.version);
    bson_int64(b, "pid", p.pid);
    bson_int64(b, "uptime_s", (int64_t)(p.uptime_ms / 1000));
    bson_date(b, "started", p.started * 1000);
    bson_bool(b, "ready", p.ready);
    bson_bool(b, "stopping", p.stopping);
    bson_string(b, "log_level", p.log_level);
    bson_int64(b, "memory_bytes", (int64_t)p.memory);
}

static void put_sections(struct bson *b)
{
    struct status_section s;
    bson_array(b, "sections");
    for (int i = 0; status_section(i, &s); i++) {
        bson_document(b, NULL);
        bson_string(b, "name", s.name);
        bson_string(b, "kind", s.kind);
        bson_string(b, "mode", s.mode);
        bson_bool(b, "ready", s.ready);
        bson_int64(b, "clients", s.clients);
        bson_int64(b, "backends", s.backends);
        bson_int64(b, "backends_up", s.backends_up);
        bson_int64(b, "slots", s.slots);
        bson_close(b);
    }
    bson_close(b);
}

static void put_backend(struct bson *b, const struct status_backend *row)
{
    bson_document(b, NULL);
    bson_string(b, "name", row->name);
    bson_string(b, "section", row->section);
    bson_string(b, "state", row->state);
    bson_string(b, "hold", row->hold);
    bson_int64(b, "since_s", (int64_t)(row->since_ms / 1000));
    bson_int64(b, "connections", row->facts.connections);
    bson_int64(b, "in_flight", row->facts.in_flight);
    bson_int64(b, "clients", row->facts.clients);
    bson_int64(b, "idle", row->facts.idle);
    bson_int64(b, "waiting", row->facts.waiting);
    bson_int64(b, "pool_max", row->facts.pool_max);
    bson_int64(b, "weight", row->facts.weight);
    bson_bool(b, "ejected", row->facts.ejected);
    bson_int64(b, "answers", (int64_t)latency_answers(row->latency));
    bson_int64(b, "p50_us", (int64_t)latency_percentile(row->latency, 50));
    bson_int64(b, "p99_us", (int64_t)latency_percentile(row->latency, 99));
    bson_close(b);
}

/* Those of MongoDB sections: nodes of Redis, of which there may be very many, are told over Redis. */
static void put_backends(struct bson *b)
{
    struct status_backend row;
    bool more = false;
    bson_array(b, "backends");
    for (uint32_t at = 0; !more && status_backend(&at, &row);) {
        more = b->cap - b->len < 2 * ROW_CAP;
        if (row.backend->service->conf->kind == SERVICE_MONGO && !more) {
            put_backend(b, &row);
        }
    }
    bson_close(b);
    bson_bool(b, "truncated", more);
}

static void put_counts(struct bson *b)
{
    const struct gauge *g;
    const char *help, *name;
    uint64_t value;
    bson_document(b, "gauges");
    for (int i = 0; (name = gauge_row(i, &help, &g)) != NULL; i++) {
        bson_document(b, name);
        bson_int64(b, "now", (int64_t)g->now);
        bson_int64(b, "high", (int64_t)g->high);
        bson_int64(b, "most", (int64_t)g->most);
        bson_close(b);
    }
    bson_close(b);
    bson_document(b, "counters");
    for (int i = 0; (name = stats_row(i, &help, &value)) != NULL; i++) {
        bson_int64(b, name, (int64_t)value);
    }
    bson_close(b);
}

/* From that one on; `next` is where to go on, 0 at the end. */
static void put_clients(struct bson *b, int64_t from)
{
    struct status_client row;
    uint32_t at = from >= 0 && from < UINT32_MAX ? (uint32_t)from : UINT32_MAX, next = at;
    bson_array(b, "clients");
    for (int n = 0; n < CLIENTS_PAGE && b->cap - b->len > 2 * ROW_CAP && status_client(&at, &row); n++) {
        bson_document(b, NULL);
        bson_int64(b, "id", (int64_t)row.id);
        bson_string(b, "section", row.facts.section);
        bson_string(b, "address", row.address);
        bson_string(b, "name", row.facts.name != NULL ? row.facts.name : "");
        bson_string(b, "user", row.facts.user != NULL ? row.facts.user : "");
        bson_string(b, "doing", row.facts.doing);
        bson_int64(b, "in_flight", row.facts.in_flight);
        bson_int64(b, "age_s", (int64_t)(row.age_ms / 1000));
        bson_int64(b, "idle_s", (int64_t)(row.idle_ms / 1000));
        bson_string(b, "backend", row.backend);
        bson_int64(b, "waiting_out", (int64_t)row.waiting_out);
        bson_close(b);
        next = at;
    }
    bson_close(b);
    bson_int64(b, "next", status_client(&at, &row) ? (int64_t)next : 0);
}

/* ------------------------------------------------------------ what is done */

/* What an element asks for. False: it is none of these, or its value makes no sense; *a says so. */
static bool act(const struct bson_element *e, struct action *a)
{
    static const struct { const char *name; enum backend_hold hold; } holds[] = { { "drain", HELD_DRAIN }, { "undrain", HELD_NOT }, { "down", HELD_DOWN } };
    size_t n;
    const char *text = bson_text(e, &n);
    int64_t id;
    for (size_t i = 0; i < sizeof holds / sizeof *holds; i++) {
        if (strcmp(e->name, holds[i].name) == 0 && text != NULL) {
            *a = action_hold(strlen(text) == n ? text : "", holds[i].hold);
            return true;
        }
    }
    if (strcmp(e->name, "kill") == 0 && bson_number(e, &id) && id > 0) {
        *a = action_kill((uint64_t)id);
        return true;
    }
    if (strcmp(e->name, "loglevel") == 0 && text != NULL) {
        *a = action_level(text);
        return true;
    }
    a->status = ACTION_MALFORMED;
    snprintf(a->text, sizeof a->text, "puertaStatus takes one of drain, undrain, down: \"HOST:PORT\"; kill: ID; loglevel: \"LEVEL\"; clients: NEXT");
    return false;
}

/* What drivers add to any command. */
static bool is_drivers(const struct bson_element *e)
{
    static const char *const names[] = { "lsid", "txnNumber", "maxTimeMS", "readConcern", "writeConcern", "comment", "apiVersion", "apiStrict", "apiDeprecationErrors" };
    bool is = e->name[0] == '$';
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        is = is || strcmp(e->name, names[i]) == 0;
    }
    return is;
}

/* The one element that says what is wanted, in *what; false: there are several. None: what->name is NULL. */
static bool find_wanted(const unsigned char *msg, size_t n, struct bson_element *what)
{
    struct bson_reader doc = mongomsg_document(msg, n);
    struct bson_element e;
    bool one = true;
    memset(what, 0, sizeof *what);
    for (bool first = true; bson_next(&doc, &e); first = false) {
        if (!first && !is_drivers(&e)) {
            one = one && what->name == NULL;
            *what = e;
        }
    }
    return one && !doc.bad;
}

size_t mongo_puerta_answer(const unsigned char *msg, size_t n, const struct wire *w, bool may, int32_t id, unsigned char *out, size_t cap)
{
    struct bson b;
    struct bson_element what;
    struct action a = { .status = ACTION_DONE };
    int64_t from = 0;
    bool one = find_wanted(msg, n, &what), clients = one && what.name != NULL && strcmp(what.name, "clients") == 0 && bson_number(&what, &from);
    if (!may) {
        return mongomsg_refuse(out, cap, &w->header, id, MONGO_CODE_UNAUTHORIZED,
                               "puertaStatus is for clients of this machine: Puerta does not know who has logged in here (allow_admin)", NULL);
    }
    if (strcmp(w->db, "admin") != 0) {
        return mongomsg_refuse(out, cap, &w->header, id, MONGO_CODE_UNAUTHORIZED, "puertaStatus may only be run against the admin database.", NULL);
    }
    if (!one || (what.name != NULL && !clients)) {
        if (!one) {
            what = (struct bson_element){ .name = "" };
        }
        act(&what, &a);
    }
    if (a.status != ACTION_DONE) {
        return mongomsg_refuse(out, cap, &w->header, id, a.status == ACTION_MALFORMED ? MONGO_CODE_FAILED_TO_PARSE : MONGO_CODE_BAD_VALUE, a.text, NULL);
    }
    mongomsg_begin_answer(&b, out, cap, &w->header, id);
    if (a.text[0] != '\0') {
        bson_string(&b, "text", a.text);
    } else if (clients) {
        put_clients(&b, from);
    } else {
        put_process(&b);
        put_counts(&b);
        put_sections(&b);
        put_backends(&b);
    }
    bson_double(&b, "ok", 1.0);
    return mongomsg_finish(&b);
}
