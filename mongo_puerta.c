/*
 * mongo_puerta.c - puertaStatus: what is told of a running Puerta, and done to it, over the MongoDB protocol.
 *
 *   db.adminCommand({puertaStatus: 1})                             the process, sections, servers, tables, counters
 *                  ({puertaStatus: 1, clients: 0})                 a list, a page at a time: on with `next`, 0 at the end
 *                  ({puertaStatus: 1, drain: "HOST:PORT"})         undrain, down: the same; kill: ID; loglevel: "warn"; reload: 1
 *
 *   request -> status.c, stats.c: what there is; action.c: what was done -> BSON
 *
 * It is answered in sections with allow_admin = yes; elsewhere it goes to a mongos as any command, which does not know it.
 */
#include "action.h"
#include "mongo.h"
#include "status.h"
#include "text.h"

#include <stdio.h>
#include <string.h>

#define PAGE 100     /* rows told at once */
#define ROW_CAP 2048 /* bytes that no row comes to: so many stay free for the end of the answer */

/* Lists that are told a page at a time, by the names that GET paths and PUERTA have for them. */
static const struct list { const char *name; enum status_list list; } lists[] = {
    { "clients", STATUS_CLIENTS }, { "backends", STATUS_BACKENDS }, { "slowlog", STATUS_SLOW },
    { "hotkeys", STATUS_HOT_KEYS }, { "hotslots", STATUS_HOT_SLOTS }, { "memory", STATUS_TABLES },
};

bool mongo_puerta_takes(const struct conf_service *conf, const struct wire *w)
{
    return conf->allow_admin && w->header.opcode == WIRE_OP_MSG && wire_is(w, "puertaStatus");
}

/* ------------------------------------------------------------- what there is */

/* A text of BSON has to be UTF-8; what users call themselves, or write into files, need not be. */
static void put_text(struct bson *b, const char *name, const char *text)
{
    char shown[512];
    bson_string_n(b, name, shown, text_shown(text, strlen(text), shown, sizeof shown));
}

static void put_field(struct bson *b, const struct status_field *f)
{
    char text[ADDRESS_TEXT], key[STATUS_KEY_TEXT];
    const struct address *addresses = f->at;
    switch (f->type) {
    case STATUS_TEXT: put_text(b, f->name, f->at); break;
    case STATUS_KEY: bson_string_n(b, f->name, key, status_key(f, key)); break;
    case STATUS_NUMBER: bson_int64(b, f->name, (int64_t)f->number); break;
    case STATUS_BOOL: bson_bool(b, f->name, f->number != 0); break;
    case STATUS_ADDRESS: bson_string(b, f->name, address_text(addresses, text)); break;
    case STATUS_ADDRESSES:
        bson_array(b, f->name);
        for (uint64_t i = 0; i < f->number; i++) {
            bson_string(b, NULL, address_text(&addresses[i], text));
        }
        bson_close(b);
        break;
    }
}

static void put_fields(struct bson *b, const struct status_row *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        put_field(b, &r->fields[i]);
    }
}

/* At most so many rows of a list, from `at` on, as far as there is room. Gives where to go on, 0 at the end. */
static uint64_t put_rows(struct bson *b, const char *name, enum status_list list, uint64_t at, int64_t most)
{
    struct status_row r;
    uint64_t next = at;
    bool more;
    (list == STATUS_GAUGES ? bson_document : bson_array)(b, name);
    while ((more = status_row(list, &at, &r)) && most-- > 0 && b->cap - b->len > 2 * ROW_CAP) {
        bson_document(b, r.name);
        put_fields(b, &r);
        bson_close(b);
        next = at;
    }
    bson_close(b);
    return more ? next : 0;
}

static void put_next(struct bson *b, uint64_t next)
{
    bson_int64(b, "next", (int64_t)next);
}

static void put_counters(struct bson *b)
{
    const char *help, *name;
    uint64_t value;
    bson_document(b, "counters");
    for (int i = 0; (name = stats_row(i, &help, &value)) != NULL; i++) {
        bson_int64(b, name, (int64_t)value);
    }
    bson_close(b);
}

/* ------------------------------------------------------------ what is done */

static const char usage[] = "puertaStatus takes one of clients, backends, slowlog, hotkeys, hotslots, memory: NEXT; slowlog: \"reset\"; "
                            "drain, undrain, down: \"HOST:PORT\"; kill: ID; loglevel: \"LEVEL\"; reload: 1";

/* What an element asks to be done. */
static struct action act(const struct bson_element *e)
{
    static const struct { const char *name; enum backend_hold hold; } holds[] = { { "drain", HELD_DRAIN }, { "undrain", HELD_NOT }, { "down", HELD_DOWN } };
    struct action a = { .status = ACTION_MALFORMED };
    size_t n;
    const char *text = bson_text(e, &n);
    int64_t id;
    for (size_t i = 0; i < sizeof holds / sizeof *holds; i++) {
        if (strcmp(e->name, holds[i].name) == 0 && text != NULL) {
            return action_hold(strlen(text) == n ? text : "", holds[i].hold);
        }
    }
    if (strcmp(e->name, "kill") == 0 && bson_number(e, &id) && id > 0) {
        return action_kill((uint64_t)id);
    }
    if (strcmp(e->name, "loglevel") == 0 && text != NULL) {
        return action_level(text);
    }
    if (strcmp(e->name, "reload") == 0 && bson_number(e, &id)) {
        return action_reload(NULL, NULL); /* its connection may be shared, or in the middle of an answer: nobody waits here */
    }
    if (strcmp(e->name, "slowlog") == 0 && text != NULL && strcmp(text, "reset") == 0) {
        trace_slow_reset();
        return (struct action){ .status = ACTION_DONE, .text = "the slow log is empty" };
    }
    snprintf(a.text, sizeof a.text, "%s", usage);
    return a;
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

/* The list that an element asks for, and from where on; NULL: it asks for none. */
static const struct list *list_of(const struct bson_element *e, int64_t *from)
{
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        if (strcmp(e->name, lists[i].name) == 0 && bson_number(e, from)) {
            return &lists[i];
        }
    }
    return NULL;
}

/* Does what is wanted (NULL: nothing in particular), and writes what there is to tell. */
static struct action tell(struct bson *b, const struct bson_element *what)
{
    struct action a = { .status = ACTION_DONE };
    struct status_row r;
    uint64_t at = 0;
    int64_t from;
    const struct list *list = what != NULL ? list_of(what, &from) : NULL;
    if (list != NULL) {
        put_next(b, put_rows(b, list->name, list->list, (uint64_t)from, PAGE));
    } else if (what != NULL) {
        a = act(what);
        put_text(b, "text", a.text);
    } else {
        (void)status_row(STATUS_PROCESS, &at, &r);
        put_fields(b, &r);
        put_rows(b, "gauges", STATUS_GAUGES, 0, INT64_MAX);
        put_counters(b);
        put_rows(b, "sections", STATUS_SECTIONS, 0, INT64_MAX);
        put_next(b, put_rows(b, "backends", STATUS_BACKENDS, 0, PAGE));
    }
    return a;
}

size_t mongo_puerta_answer(const unsigned char *msg, size_t n, const struct wire *w, bool may, int32_t id, unsigned char *out, size_t cap)
{
    struct bson b;
    struct bson_element what;
    struct action a = { .status = ACTION_MALFORMED };
    if (!may) {
        return mongomsg_refuse(out, cap, &w->header, id, MONGO_CODE_UNAUTHORIZED,
                               "puertaStatus is for clients of this machine: Puerta does not know who has logged in here (allow_admin)", NULL);
    }
    if (strcmp(w->db, "admin") != 0) {
        return mongomsg_refuse(out, cap, &w->header, id, MONGO_CODE_UNAUTHORIZED, "puertaStatus may only be run against the admin database.", NULL);
    }
    mongomsg_begin_answer(&b, out, cap, &w->header, id);
    if (find_wanted(msg, n, &what)) {
        a = tell(&b, what.name != NULL ? &what : NULL);
    } else {
        snprintf(a.text, sizeof a.text, "%s", usage);
    }
    if (a.status != ACTION_DONE) {
        return mongomsg_refuse(out, cap, &w->header, id, a.status == ACTION_MALFORMED ? MONGO_CODE_FAILED_TO_PARSE : MONGO_CODE_BAD_VALUE, a.text, NULL);
    }
    bson_double(&b, "ok", 1.0);
    return mongomsg_finish(&b);
}
