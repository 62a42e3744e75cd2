/*
 * admin_doc.c - what operators are told as JSON: documents made in pieces, element by element.
 *
 *   status.h, stats.h, trace.h  --one row--> an element --answer.h--> the caller's room, until that is full
 *
 * A document is a list of parts; a part writes one element at each call, and may be called again for the same one when there was no
 * room. Rows are indexes for life, so what comes or goes between two pieces shifts nothing.
 *
 * Owns nothing that changes: where a document stands with its reader.
 */
#include "admin_doc.h"
#include "status.h"
#include "trace.h"

#include <string.h>

enum form { FIELDS, LIST, OBJECT };

/* Of a document: some fields, or a list or an object of rows. */
struct doc_part {
    const char *name;           /* NULL: FIELDS, or the end */
    enum form form;
    /* Writes what stands in row y->row, or the next one that there is, and moves on. False: there is none left. */
    bool (*element)(struct doc *y, struct json *j);
};

static bool process(struct doc *y, struct json *j)
{
    struct status_process p = status_process();
    json_text(j, "version", p.version);
    json_int(j, "pid", p.pid);
    json_double(j, "uptime_s", (double)p.uptime_ms / 1000);
    json_int(j, "started", p.started);
    json_bool(j, "ready", p.ready);
    json_bool(j, "stopping", p.stopping);
    json_text(j, "log_level", p.log_level);
    json_uint(j, "memory_bytes", p.memory);
    json_bool(j, "writable", y->conf->admin_token[0] != '\0');
    return false;
}

static bool sections(struct doc *y, struct json *j)
{
    struct status_section s;
    char text[ADDRESS_TEXT];
    if (!status_section((int)y->row, &s)) {
        return false;
    }
    json_object(j, NULL);
    json_text(j, "name", s.name);
    json_text(j, "kind", s.kind);
    json_text(j, "mode", s.mode);
    json_bool(j, "ready", s.ready);
    json_array(j, "listen");
    for (int i = 0; i < s.service->conf->listens; i++) {
        json_text(j, NULL, address_text(&s.service->conf->listen[i], text));
    }
    json_close(j);
    json_uint(j, "clients", s.clients);
    json_uint(j, "backends", s.backends);
    json_uint(j, "backends_up", s.backends_up);
    if (s.service->conf->kind == SERVICE_REDIS) {
        json_uint(j, "slots", s.slots);
    }
    json_close(j);
    y->row++;
    return true;
}

static bool backends(struct doc *y, struct json *j)
{
    struct status_backend b;
    if (!status_backend(&y->row, &b)) {
        return false;
    }
    json_object(j, NULL);
    json_text(j, "name", b.name);
    json_text(j, "section", b.section);
    json_text(j, "kind", b.backend->service->conf->kind == SERVICE_MONGO ? "mongo" : "redis");
    json_text(j, "state", b.state);
    json_text(j, "hold", b.hold);
    json_double(j, "since_s", (double)b.since_ms / 1000);
    json_uint(j, "slots", b.backend->slots);
    json_uint(j, "connections", b.facts.connections);
    json_uint(j, "in_flight", b.facts.in_flight);
    json_uint(j, "clients", b.facts.clients);
    json_uint(j, "idle", b.facts.idle);
    json_uint(j, "waiting", b.facts.waiting);
    json_uint(j, "pool_max", b.facts.pool_max);
    json_uint(j, "weight", b.facts.weight);
    json_bool(j, "ejected", b.facts.ejected);
    json_uint(j, "answers", latency_answers(b.latency));
    json_uint(j, "p50_us", latency_percentile(b.latency, 50));
    json_uint(j, "p99_us", latency_percentile(b.latency, 99));
    json_bool(j, "busy", b.backend->busy);
    json_close(j);
    return true;
}

static bool tables(struct doc *y, struct json *j)
{
    const struct gauge *g;
    const char *help, *name = gauge_row((int)y->row, &help, &g);
    if (name == NULL) {
        return false;
    }
    y->row++;
    json_object(j, name);
    json_uint(j, "now", g->now);
    json_uint(j, "high", g->high);
    json_uint(j, "most", g->most);
    json_close(j);
    return true;
}

static bool counters(struct doc *y, struct json *j)
{
    uint64_t value;
    const char *help, *name = stats_row((int)y->row, &help, &value);
    if (name == NULL) {
        return false;
    }
    json_uint(j, name, value);
    y->row++;
    return true;
}

static bool clients(struct doc *y, struct json *j)
{
    struct status_client c;
    if (!status_client(&y->row, &c)) {
        return false;
    }
    json_object(j, NULL);
    json_uint(j, "id", c.id);
    json_text(j, "section", c.facts.section);
    json_text(j, "address", c.address);
    json_text(j, "name", c.facts.name != NULL ? c.facts.name : "");
    json_text(j, "user", c.facts.user != NULL ? c.facts.user : "");
    json_text(j, "doing", c.facts.doing);
    json_uint(j, "in_flight", c.facts.in_flight);
    json_double(j, "age_s", (double)c.age_ms / 1000);
    json_double(j, "idle_s", (double)c.idle_ms / 1000);
    json_text(j, "backend", c.backend);
    json_uint(j, "waiting_out", c.waiting_out);
    json_close(j);
    return true;
}

/* Neighbouring slots of one owner are one element. */
static bool slots(struct doc *y, struct json *j)
{
    const struct slotmap *map = &y->service->map;
    uint32_t first, last;
    const struct backend *b;
    char name[HOST_CAP + 8];
    for (first = y->row; first < SLOTMAP_SLOTS && backend_at(map->owner[first]) == NULL; first++) {
    }
    if (first == SLOTMAP_SLOTS) {
        return false;
    }
    b = backend_at(map->owner[first]);
    for (last = first; last + 1 < SLOTMAP_SLOTS && map->owner[last + 1] == map->owner[first]; last++) {
    }
    json_array(j, NULL);
    json_uint(j, NULL, first);
    json_uint(j, NULL, last);
    json_text(j, NULL, backend_name(b, name));
    json_close(j);
    y->row = last + 1;
    return true;
}

/* A key as text: what is not printable as \xHH, as in the log. */
static void put_key(struct json *j, const unsigned char *key, size_t n)
{
    char text[4 * TRACE_KEY + 3];
    const char *quoted = log_quote((const char *)key, n < TRACE_KEY ? n : TRACE_KEY, text, sizeof text);
    json_bytes(j, "key", quoted + 1, strlen(quoted) - 2);
}

static bool slow(struct doc *y, struct json *j)
{
    const struct trace_entry *e;
    char text[ADDRESS_TEXT];
    while ((e = trace_slow(y->row)) != NULL && y->told > 0 && e->number >= y->told) {
        y->row++; /* younger ones have come since the last piece */
    }
    if (e == NULL) {
        return false;
    }
    y->row++;
    y->told = e->number;
    json_object(j, NULL);
    json_uint(j, "number", e->number);
    json_int(j, "when_ms", e->when_ms);
    json_text(j, "section", e->section != NULL ? e->section->name : "");
    json_text(j, "backend", e->backend);
    json_text(j, "command", e->command);
    put_key(j, e->key, e->key_len);
    json_text(j, "client", address_text(&e->client, text));
    json_uint(j, "queued_us", e->queued_us);
    json_uint(j, "sent_us", e->sent_us);
    json_uint(j, "answered_us", e->answered_us);
    json_uint(j, "all_us", e->all_us);
    json_close(j);
    return true;
}

static bool hot_keys(struct doc *y, struct json *j)
{
    struct trace_hot h;
    if (!trace_hot_key(y->row, &h)) {
        return false;
    }
    y->row++;
    json_object(j, NULL);
    put_key(j, h.key, h.len);
    json_uint(j, "slot", h.slot);
    json_uint(j, "count", h.count);
    json_uint(j, "error", h.error);
    json_close(j);
    return true;
}

/* Whose slot it is: known where there is one section of Redis. */
static const struct backend *owner_of(uint16_t slot)
{
    const struct service *s, *only = NULL;
    for (int i = 0; (s = service_at(i)) != NULL; i++) {
        if (s->conf->kind == SERVICE_REDIS) {
            if (only != NULL) {
                return NULL;
            }
            only = s;
        }
    }
    return only != NULL ? backend_at(only->map.owner[slot]) : NULL;
}

static bool hot_slots(struct doc *y, struct json *j)
{
    struct trace_hot h;
    const struct backend *b;
    char name[HOST_CAP + 8];
    if (!trace_hot_slot(y->row, &h)) {
        return false;
    }
    y->row++;
    b = owner_of(h.slot);
    json_object(j, NULL);
    json_uint(j, "slot", h.slot);
    json_uint(j, "count", h.count);
    json_uint(j, "error", h.error);
    json_text(j, "backend", b != NULL ? backend_name(b, name) : "");
    json_close(j);
    return true;
}

static bool memory(struct doc *y, struct json *j)
{
    const char *table;
    size_t count, size;
    if (!arena_row((int)y->row, &table, &count, &size)) {
        return false;
    }
    y->row++;
    json_object(j, NULL);
    json_text(j, "name", table);
    json_uint(j, "entries", count);
    json_uint(j, "each", size);
    json_uint(j, "bytes", count * size);
    json_close(j);
    return true;
}

static bool ready_sections(struct doc *y, struct json *j)
{
    struct status_section s;
    if (!status_section((int)y->row, &s)) {
        return false;
    }
    y->row++;
    json_object(j, NULL);
    json_text(j, "name", s.name);
    json_bool(j, "ready", s.ready);
    json_close(j);
    return true;
}

/* ------------------------------------------------- fields by themselves */

static bool healthy(struct doc *y, struct json *j)
{
    (void)y;
    json_bool(j, "ok", true);
    return false;
}

static bool ready(struct doc *y, struct json *j)
{
    (void)y;
    json_bool(j, "ready", status_process().ready);
    return false;
}

static bool version(struct doc *y, struct json *j)
{
    (void)y;
    json_text(j, "version", PUERTA_VERSION);
    return false;
}

static bool section(struct doc *y, struct json *j)
{
    json_text(j, "section", y->service->conf->name);
    return false;
}

static bool threshold(struct doc *y, struct json *j)
{
    (void)y;
    json_uint(j, "threshold_us", trace_slow_us == UINT32_MAX ? 0 : trace_slow_us);
    json_uint(j, "passed_over", stats.slow_passed_over);
    return false;
}

static bool enabled(struct doc *y, struct json *j)
{
    json_bool(j, "enabled", y->conf->hot_keys > 0);
    return false;
}

static bool bytes(struct doc *y, struct json *j)
{
    (void)y;
    json_uint(j, "bytes", arena_bytes());
    return false;
}

/* ---------------------------------------------------------- the documents */

#define END { NULL, FIELDS, NULL }

static const struct doc_part documents[][6] = {
    [DOC_HEALTHY] = { { NULL, FIELDS, healthy }, END },
    [DOC_READY] = { { NULL, FIELDS, ready }, { "sections", LIST, ready_sections }, END },
    [DOC_VERSION] = { { NULL, FIELDS, version }, END },
    [DOC_STATUS] = { { NULL, FIELDS, process }, { "sections", LIST, sections }, { "backends", LIST, backends },
                     { "gauges", OBJECT, tables }, { "counters", OBJECT, counters }, END },
    [DOC_SLOTS] = { { NULL, FIELDS, section }, { "ranges", LIST, slots }, END },
    [DOC_CLIENTS] = { { "clients", LIST, clients }, END },
    [DOC_SLOW] = { { NULL, FIELDS, threshold }, { "entries", LIST, slow }, END },
    [DOC_HOT] = { { NULL, FIELDS, enabled }, { "keys", LIST, hot_keys }, { "slots", LIST, hot_slots }, END },
    [DOC_MEMORY] = { { NULL, FIELDS, bytes }, { "tables", LIST, memory }, END },
};

void doc_begin(struct doc *y, enum doc_what what, const struct conf *conf, const struct service *of)
{
    memset(y, 0, sizeof *y);
    y->conf = conf;
    y->service = of;
    y->part = documents[what];
    json_start(&y->json, NULL, 0);
}

/* One step on: what opens or closes the document or a part, or an element. */
static void step(struct doc *y)
{
    const struct doc_part *p = y->part;
    if (y->json.depth == 0) {
        json_object(&y->json, NULL);
    } else if (p->element == NULL) {
        json_close(&y->json);
        y->over = true;
    } else if (p->form != FIELDS && !y->opened) {
        (p->form == LIST ? json_array : json_object)(&y->json, p->name);
        y->opened = true;
    } else if (!p->element(y, &y->json)) {
        if (p->form != FIELDS) {
            json_close(&y->json);
        }
        y->opened = false;
        y->row = 0;
        y->part++;
    }
}

size_t doc_piece(struct doc *y, char out[DOC_PIECE])
{
    json_go_on(&y->json, out, DOC_PIECE);
    while (!y->over) {
        struct doc before = *y;
        step(y);
        if (y->json.full) { /* it comes again, in the next piece */
            *y = before;
            must(y->json.len > 0);
            break;
        }
    }
    return y->json.len;
}
