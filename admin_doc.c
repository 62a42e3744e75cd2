/*
 * admin_doc.c - what operators are told as JSON: documents made in pieces, element by element.
 *
 *   status.h, stats.h  --one row--> an element --answer.h--> the caller's room, until that is full
 *
 * A document is a list of parts; a part writes one element at each call, and may be called again for the same one when there was no
 * room. Rows are indexes for life, so what comes or goes between two pieces shifts nothing.
 *
 * Owns nothing that changes: where a document stands with its reader.
 */
#include "admin_doc.h"
#include "status.h"

#include <string.h>

enum form { FIELDS, LIST, OBJECT };

/* Of a document: some fields, or a list or an object of rows. */
struct doc_part {
    const char *name;           /* NULL: FIELDS, or the end */
    enum form form;
    /* Writes what stands in row y->row, or the next one that there is, and moves on. False: there is none left. */
    bool (*element)(struct doc *y, struct json *j);
    enum status_list list;      /* of rows() */
};

static void put_field(struct json *j, const struct status_field *f)
{
    char text[ADDRESS_TEXT], key[STATUS_KEY_TEXT];
    const struct address *addresses = f->at;
    switch (f->type) {
    case STATUS_TEXT: json_text(j, f->name, f->at); break;
    case STATUS_KEY: json_bytes(j, f->name, key, status_key(f, key)); break;
    case STATUS_NUMBER: json_uint(j, f->name, f->number); break;
    case STATUS_BOOL: json_bool(j, f->name, f->number != 0); break;
    case STATUS_ADDRESS: json_text(j, f->name, address_text(addresses, text)); break;
    case STATUS_ADDRESSES:
        json_array(j, f->name);
        for (uint64_t i = 0; i < f->number; i++) {
            json_text(j, NULL, address_text(&addresses[i], text));
        }
        json_close(j);
        break;
    }
}

static void put_row(struct json *j, const struct status_row *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        put_field(j, &r->fields[i]);
    }
}

/* The next row of the part's list. */
static bool rows(struct doc *y, struct json *j)
{
    struct status_row r;
    if (!status_row(y->part->list, &y->row, &r)) {
        return false;
    }
    json_object(j, r.name);
    put_row(j, &r);
    json_close(j);
    return true;
}

static bool process(struct doc *y, struct json *j)
{
    struct status_row r;
    (void)status_row(STATUS_PROCESS, &y->row, &r);
    put_row(j, &r);
    json_bool(j, "writable", y->conf->admin_token[0] != '\0');
    return false;
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

/* Neighbouring slots of one owner are one element. */
static bool slots(struct doc *y, struct json *j)
{
    const struct slotmap *map = &y->service->map;
    uint32_t first, last;
    const struct backend *b;
    char name[HOST_CAP + 8];
    for (first = (uint32_t)y->row; first < SLOTMAP_SLOTS && backend_at(map->owner[first]) == NULL; first++) {
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
    json_bool(j, "ready", status_ready());
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

#define END { NULL, FIELDS, NULL, 0 }

static const struct doc_part documents[][6] = {
    [DOC_HEALTHY] = { { NULL, FIELDS, healthy, 0 }, END },
    [DOC_READY] = { { NULL, FIELDS, ready, 0 }, { "sections", LIST, ready_sections, 0 }, END },
    [DOC_VERSION] = { { NULL, FIELDS, version, 0 }, END },
    [DOC_STATUS] = { { NULL, FIELDS, process, 0 }, { "sections", LIST, rows, STATUS_SECTIONS }, { "backends", LIST, rows, STATUS_BACKENDS },
                     { "gauges", OBJECT, rows, STATUS_GAUGES }, { "counters", OBJECT, counters, 0 }, END },
    [DOC_SLOTS] = { { NULL, FIELDS, section, 0 }, { "ranges", LIST, slots, 0 }, END },
    [DOC_CLIENTS] = { { "clients", LIST, rows, STATUS_CLIENTS }, END },
    [DOC_SLOW] = { { NULL, FIELDS, threshold, 0 }, { "entries", LIST, rows, STATUS_SLOW }, END },
    [DOC_HOT] = { { NULL, FIELDS, enabled, 0 }, { "keys", LIST, rows, STATUS_HOT_KEYS }, { "slots", LIST, rows, STATUS_HOT_SLOTS }, END },
    [DOC_MEMORY] = { { NULL, FIELDS, bytes, 0 }, { "tables", LIST, rows, STATUS_TABLES }, END },
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
