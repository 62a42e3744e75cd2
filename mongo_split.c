/*
 * mongo_split.c - pooled mode: commands that go to several mongos, one after the other, and are answered once.
 *
 *   killCursors  --> each mongos that has some of the cursors gets those; what nobody is known to have, all get
 *                    answers: cursorsKilled, cursorsNotFound, cursorsAlive, cursorsUnknown --> one of each
 *   killSessions, killAllSessions, killAllSessionsByPattern --> all mongos; the first error is the answer, or else the last
 *
 * The request stays whole in its client's `held` until then. One mongos that cannot be reached has no cursors any more.
 *
 * Owns a table of commands under way.
 */
#include "mongo.h"

#include <string.h>

#define SPLITS_LEAST 32         /* commands under way at the same time; more of them with many clients */
#define SPLITS_SHARE 16         /* one for so many clients */
#define CURSORS 64              /* of one killCursors: drivers kill one at a time */
#define REPLY_CAP 512           /* an answer that is passed on as it is */
#define NOBODY UINT16_MAX       /* it is not known which mongos has a cursor */

enum fate { FATE_NOT_FOUND, FATE_UNKNOWN, FATE_ALIVE, FATE_KILLED }; /* a later one outdoes those before it */

static const char *const fates[] = { "cursorsNotFound", "cursorsUnknown", "cursorsAlive", "cursorsKilled" };

struct split {
    struct split *next;
    struct backend *target[MAX_SEEDS];
    uint32_t targets, at, answered, count;
    bool failed;                /* the answer kept is an error */
    struct { int64_t id; uint16_t at; uint8_t fate; } cursor[CURSORS]; /* at: the index of its mongos, or NOBODY */
    size_t reply_len;           /* of the answer kept; 0: it had no room */
    unsigned char reply[REPLY_CAP];
};

static struct { struct split *all, *free; size_t total; uint32_t used; } sp;

void split_tables(const struct conf *conf)
{
    uint32_t share = conf->max_clients / SPLITS_SHARE;
    sp.total = !conf_mongo(conf, true) ? 0 : share > SPLITS_LEAST ? share : SPLITS_LEAST;
    sp.all = arena_take("split commands", sp.total, sizeof *sp.all);
}

void split_open(void)
{
    for (size_t i = sp.total; i > 0; i--) {
        sp.all[i - 1].next = sp.free;
        sp.free = &sp.all[i - 1];
    }
}

bool split_takes(const struct wire *w)
{
    bool pinned = wire_in_transaction(w) && wire_has(w, WIRE_LSID);
    return !pinned && (wire_is(w, "killCursors") || wire_is(w, "killSessions") || wire_is(w, "killAllSessions") ||
                       wire_is(w, "killAllSessionsByPattern"));
}

static void add_target(struct split *s, struct backend *b)
{
    for (uint32_t i = 0; i < s->targets; i++) {
        if (s->target[i] == b) {
            return;
        }
    }
    if (s->targets < MAX_SEEDS) {
        s->target[s->targets++] = b;
    }
}

static void add_all(struct split *s, const struct service *of)
{
    for (uint16_t i = 0; i < backend_cap(); i++) {
        struct backend *b = backend_at(i);
        if (b != NULL && b->service == of && mongos_works(b)) {
            add_target(s, b);
        }
    }
}

/* The cursors of a killCursors, and where each is. False: more than there is room for, or what is no number. */
static bool add_cursors(const struct pooled *p, struct split *s, const unsigned char *msg, size_t n)
{
    struct bson_reader doc = mongomsg_document(msg, n), list;
    struct bson_element e;
    bool somewhere = false;
    if (!bson_find(&doc, "cursors", &e) || e.type != BSON_ARRAY) {
        add_all(s, p->service); /* they say what is wrong with it */
        return true;
    }
    for (list = bson_enter(&e); bson_next(&list, &e); s->count++) {
        struct backend *b;
        if (s->count == CURSORS || !bson_number(&e, &s->cursor[s->count].id)) {
            return false;
        }
        b = route_cursor(p->section, &p->asks, s->cursor[s->count].id, false);
        s->cursor[s->count].at = b != NULL ? b->index : NOBODY;
        s->cursor[s->count].fate = FATE_NOT_FOUND;
        somewhere = somewhere || b == NULL;
        if (b != NULL && mongos_works(b)) {
            add_target(s, b);
        }
    }
    if (somewhere || s->targets == 0) {
        add_all(s, p->service);
    }
    return !list.bad;
}

static void forget_cursors(const struct pooled *p, const struct split *s)
{
    for (uint32_t i = 0; i < s->count; i++) {
        route_cursor(p->section, &p->asks, s->cursor[i].id, true);
    }
}

enum split_begun split_begin(struct pooled *p, const unsigned char *msg, size_t n, struct backend **only)
{
    static struct split read;
    memset(&read, 0, sizeof read);
    if (!wire_is(&p->asks, "killCursors")) {
        add_all(&read, p->service);
    } else if (!add_cursors(p, &read, msg, n)) {
        return SPLIT_BAD;
    }
    if (read.targets != 1 && sp.free == NULL) {
        return SPLIT_FULL;
    }
    forget_cursors(p, &read);
    if (read.targets == 1) {
        *only = read.target[0];
        return SPLIT_ONE;
    }
    p->split = sp.free;
    sp.free = sp.free->next;
    *p->split = read;
    sp.used++;
    return SPLIT_BEGUN;
}

void split_end(struct pooled *p)
{
    if (p->split != NULL) {
        p->split->next = sp.free;
        sp.free = p->split;
        sp.used--;
        p->split = NULL;
    }
}

bool split_has_place(void)
{
    return sp.free != NULL;
}

uint32_t split_count(void)
{
    return sp.used;
}

struct backend *split_next(struct pooled *p)
{
    struct split *s = p->split;
    while (s->at < s->targets) {
        struct backend *b = s->target[s->at++];
        if (mongos_works(b)) {
            return b;
        }
    }
    return NULL;
}

size_t split_ask(struct pooled *p, const struct backend *b, unsigned char *out, size_t cap)
{
    static const char *const drop[] = { "cursors", NULL };
    static unsigned char msg[SPLIT_MAX], field[CURSORS * 16 + 64];
    const struct split *s = p->split;
    size_t n = p->held.len;
    enum wire_error error;
    struct bson list;
    must(n <= sizeof msg);
    chain_copy(&p->held, msg, n);
    if (s->count == 0) {
        return mongomsg_edit(msg, n, NULL, NULL, 0, out, cap, &error);
    }
    bson_start(&list, field, sizeof field);
    bson_array(&list, "cursors");
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->cursor[i].at == b->index || s->cursor[i].at == NOBODY) {
            bson_int64(&list, NULL, s->cursor[i].id);
        }
    }
    bson_close(&list);
    return mongomsg_edit(msg, n, drop, field, list.len, out, cap, &error);
}

static void set_fate(struct split *s, int64_t id, enum fate fate)
{
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->cursor[i].id == id && s->cursor[i].fate < fate) {
            s->cursor[i].fate = (uint8_t)fate;
        }
    }
}

void split_said(struct pooled *p, const unsigned char *msg, size_t n)
{
    struct split *s = p->split;
    struct bson_reader doc = mongomsg_document(msg, n), list;
    struct bson_element e;
    int64_t id = 0;
    bool ok = bson_find(&doc, "ok", &e) && bson_number(&e, &id) && id != 0;
    s->answered++;
    if (!s->failed) {
        s->failed = !ok;
        s->reply_len = n <= REPLY_CAP ? n : 0;
        memcpy(s->reply, msg, s->reply_len);
    }
    for (int f = FATE_NOT_FOUND; f <= FATE_KILLED; f++) {
        if (bson_find(&doc, fates[f], &e) && e.type == BSON_ARRAY) {
            for (list = bson_enter(&e); bson_next(&list, &e);) {
                if (bson_number(&e, &id)) {
                    set_fate(s, id, (enum fate)f);
                }
            }
        }
    }
}

/* What became of each cursor, as one mongos would have said it. */
static size_t merged(const struct pooled *p, int32_t id, unsigned char *out, size_t cap)
{
    const struct split *s = p->split;
    struct bson b;
    mongomsg_begin_answer(&b, out, cap, &p->asks.header, id);
    for (int f = FATE_KILLED; f >= FATE_NOT_FOUND && s->count > 0; f--) {
        bson_array(&b, fates[f]);
        for (uint32_t i = 0; i < s->count; i++) {
            if (s->cursor[i].fate == f) {
                bson_int64(&b, NULL, s->cursor[i].id);
            }
        }
        bson_close(&b);
    }
    bson_double(&b, "ok", 1.0);
    return mongomsg_finish(&b);
}

size_t split_answer(const struct pooled *p, int32_t id, unsigned char *out, size_t cap)
{
    const struct split *s = p->split;
    if (s->answered == 0) {
        return mongomsg_refuse(out, cap, &p->asks.header, id, MONGO_CODE_HOST_UNREACHABLE, "no mongos of this command can be reached", NULL);
    }
    if ((s->failed || s->targets == 1 || s->count == 0) && s->reply_len > 0) {
        memcpy(out, s->reply, s->reply_len);
        return s->reply_len;
    }
    return merged(p, id, out, cap);
}
