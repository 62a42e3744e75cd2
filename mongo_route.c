/*
 * mongo_route.c - pooled mode: which mongos a message goes to.
 *
 *   transaction (lsid, txnNumber) --affinity.c--> the mongos where it began              there or nowhere
 *   getMore, killCursors (id, lsid) -affinity.c-> the mongos that has the cursor         there or nowhere
 *   lsid -------------------- rendezvous hash --> the same one, as long as none comes or goes
 *   none of these ------------------------------> the least loaded one
 *
 *   answer: cursor.id --> noted, forgotten when it is 0       abortTransaction --> forgotten
 *
 * What lives at a mongos is in these tables, so one that comes back or goes takes nothing with it but what it had. Where a
 * table is too small the session's own mongos is asked: it is where most of that session was sent.
 *
 * Owns one table for each section. A transaction stays noted behind its commit, which a driver may send again.
 */
#include "mongo.h"

#include <string.h>

#define CURSOR_MS 600000        /* a mongos forgets a cursor that is idle this long */
#define TRANSACTION_MS 75000    /* and a transaction after 60 s; and some */
#define EXPIRE_SOME 16          /* entries whose time is over leave, at a look */
#define SOON_FULL 16            /* so many free entries are left: nothing more goes where it would not be looked for */

struct places { struct affinity table; struct mongo_told told; struct affinity_entry *entries; const struct service *service; };

static struct {
    struct places *all;         /* by the section's number among those of MongoDB; those in other modes have none */
    struct affinity_config config;
    int count;
} rt;

void route_tables(const struct conf *conf)
{
    rt.config.most[AFFINITY_CURSOR] = conf->max_affinities;
    rt.config.most[AFFINITY_TRANSACTION] = conf->max_affinities;
    rt.config.last_ms[AFFINITY_CURSOR] = CURSOR_MS;
    rt.config.last_ms[AFFINITY_TRANSACTION] = TRANSACTION_MS;
    rt.count = conf_mongo(conf, true) ? conf_services(conf, SERVICE_MONGO) : 0;
    rt.all = arena_take("mongos routes", (size_t)rt.count, sizeof *rt.all);
    for (int i = 0; i < rt.count; i++) {
        size_t n = conf_mongo_mode(conf, i) == MONGO_POOLED ? affinity_size(&rt.config) : 0;
        struct affinity_entry *entries = arena_take("cursors, transactions", n, sizeof *entries);
        if (rt.all != NULL) {
            rt.all[i].entries = entries;
        }
    }
}

void route_open(int section, const struct conf_service *conf)
{
    if (conf->mode == MONGO_POOLED) {
        os_random(rt.config.seed, sizeof rt.config.seed);
        affinity_init(&rt.all[section].table, &rt.config, rt.all[section].entries);
        gauges.affinities.most += affinity_size(&rt.config);
    }
}

/* ------------------------------------------------------------- an upgrade */

static const struct hand_notes *notes; /* while another worker serves beside this one; it ends by itself */

/* What the other worker's clients have opened is known before anything is looked up. */
static void sync(void)
{
    if (notes != NULL) {
        notes->sync();
    }
}

/* And it hears of what is opened here, or ends (b NULL), before the client that did it does. */
static void note(int section, enum affinity_kind of, const void *key, size_t len, const struct backend *b)
{
    struct hand_note n;
    if (notes != NULL && rt.all[section].service != NULL) {
        mongo_make_note(&n, rt.all[section].service, of, key, len, b);
        notes->send(&n);
    }
}

void route_notes(const struct hand_notes *to)
{
    notes = to;
}

void route_seed(int section, const struct service *s, struct hand_note *n)
{
    rt.all[section].service = s;
    mongo_make_seed(n, &rt.all[section].table, s);
}

bool route_tell(int section, const struct service *s, uint32_t *at, bool (*give)(const struct hand_note *))
{
    return mongo_tell_table(&rt.all[section].table, s, at, give, NULL);
}

void route_take_note(int section, const struct service *s, const struct hand_note *n)
{
    rt.all[section].service = s;
    mongo_take_note(&rt.all[section].table, rt.all[section].entries, s, n);
}

bool route_lives(int section, const struct backend *b)
{
    const struct affinity *a = &rt.all[section].table;
    return affinity_count(a, AFFINITY_CURSOR, b->index, loop_ms()) + affinity_count(a, AFFINITY_TRANSACTION, b->index, loop_ms()) > 0;
}

void route_forget(int section, const struct backend *b)
{
    affinity_remove_backend(&rt.all[section].table, b->index);
}

/* ----------------------------------------------------------------- tables */

/* A cursor's key: two mongos may number their cursors alike, a session's own id is no other's. */
static size_t cursor_key(const struct wire *w, int64_t cursor, unsigned char key[24])
{
    memcpy(key, &cursor, 8);
    memset(key + 8, 0, 16);
    if (wire_has(w, WIRE_LSID)) {
        memcpy(key + 8, w->lsid, 16);
    }
    return 24;
}

static struct backend *found(const struct affinity_entry *e)
{
    return e != NULL && e->backend != AFFINITY_NOWHERE ? backend_at(e->backend) : NULL;
}

struct backend *route_cursor(int section, const struct wire *w, int64_t cursor, bool forget)
{
    struct affinity *a = &rt.all[section].table;
    unsigned char key[24];
    size_t n = cursor_key(w, cursor, key);
    struct backend *b;
    sync();
    b = found(affinity_find(a, AFFINITY_CURSOR, key, n, loop_ms(), true));
    if (forget) {
        affinity_remove(a, AFFINITY_CURSOR, key, n);
        note(section, AFFINITY_CURSOR, key, n, NULL);
    }
    mongo_count(a, &rt.all[section].told);
    return b;
}

static bool in_transaction(const struct wire *w)
{
    return wire_in_transaction(w) && wire_has(w, WIRE_LSID);
}

static bool is_end(const struct wire *w)
{
    return wire_is(w, "commitTransaction") || wire_is(w, "abortTransaction");
}

const char *route_label(const struct wire *w)
{
    if (wire_in_transaction(w)) {
        return is_end(w) ? "RetryableWriteError" : "TransientTransactionError";
    }
    if (wire_has(w, WIRE_TXN_NUMBER)) {
        return "RetryableWriteError";
    }
    return wire_is(w, "getMore") ? "ResumableChangeStreamError" : NULL;
}

/* ----------------------------------------------------------------- choice */

static enum route refuse(struct routed *out, const struct wire *w, enum mongo_code code, const char *text)
{
    out->code = code;
    out->label = route_label(w);
    out->text = text;
    return ROUTE_REFUSE;
}

/* Anywhere, but the same session always in the same place, if it has one. */
static enum route freely(struct service *s, const struct wire *w, const struct backend *avoid, struct routed *out)
{
    struct backend *list[MAX_SEEDS], *tried[1] = { NULL };
    struct affinity_choice choice[MAX_SEEDS];
    uint32_t n;
    out->pinned = wire_is(w, "getMore"); /* whose cursor is not known: most likely it is there, and nowhere else */
    tried[0] = avoid != NULL ? backend_at(avoid->index) : NULL;
    n = mongo_candidates(s, tried, tried[0] != NULL ? 1 : 0, list);
    if (n == 0) {
        return ROUTE_WAIT;
    }
    out->backend = list[0];
    if (n > 1 && wire_has(w, WIRE_LSID)) {
        for (uint32_t i = 0; i < n; i++) {
            choice[i] = (struct affinity_choice){ mongos_of(list[i])->name, mongo_share(list[i]), list[i]->index };
        }
        out->backend = backend_at(affinity_choose(w->lsid, sizeof w->lsid, choice, n));
    } else if (n > 1) {
        out->backend = mongo_least(list, n);
    }
    return ROUTE_GO;
}

/* A statement of a transaction that has begun. */
static enum route to_transaction(int section, struct service *s, const struct wire *w, const struct backend *avoid, struct routed *out)
{
    bool commits = wire_is(w, "commitTransaction");
    struct backend *b;
    sync();
    b = found(affinity_find(&rt.all[section].table, AFFINITY_TRANSACTION, w->lsid, sizeof w->lsid, loop_ms(), true));
    mongo_count(&rt.all[section].table, &rt.all[section].told);
    out->pinned = true;
    out->backend = b;
    if (b != NULL && mongos_works(b) && b != avoid) {
        return ROUTE_GO;
    }
    if (b != NULL && commits && !wire_has(w, WIRE_RECOVERY_TOKEN)) {
        return refuse(out, w, MONGO_CODE_HOST_UNREACHABLE, "the mongos where this transaction ran is gone: how it ended is not known");
    }
    if (b != NULL && !commits) {
        return refuse(out, w, MONGO_CODE_NO_SUCH_TRANSACTION, "the mongos where this transaction ran is gone");
    }
    return freely(s, w, b, out); /* by its token any mongos finds out; or nothing is known of it: where it would have begun */
}

static enum route to_cursor(struct backend *b, const struct wire *w, const struct backend *avoid, struct routed *out)
{
    out->pinned = true;
    out->backend = b;
    if (b == avoid) {
        return refuse(out, w, MONGO_CODE_HOST_UNREACHABLE, "the mongos that has this cursor takes no connection");
    }
    return mongos_works(b) ? ROUTE_GO : refuse(out, w, MONGO_CODE_CURSOR_NOT_FOUND, "the mongos that had this cursor is gone");
}

enum route mongo_route(int section, struct service *s, const struct wire *w, const struct backend *avoid, struct routed *out)
{
    struct backend *b;
    memset(out, 0, sizeof *out);
    if (in_transaction(w) && !wire_true(w, WIRE_START_TRANSACTION)) {
        return to_transaction(section, s, w, avoid, out);
    }
    if (wire_is(w, "getMore") && wire_has(w, WIRE_COMMAND) && (b = route_cursor(section, w, w->number[WIRE_COMMAND], false)) != NULL) {
        return to_cursor(b, w, avoid, out);
    }
    return freely(s, w, avoid, out);
}

struct backend *route_elsewhere(int section, struct service *s, const struct wire *w, bool (*fits)(const struct backend *))
{
    struct affinity *a = &rt.all[section].table;
    struct backend *list[MAX_SEEDS];
    affinity_expire(a, loop_ms(), EXPIRE_SOME); /* or what nobody asks for any more would count for ever */
    uint32_t n = mongo_candidates(s, NULL, 0, list), kept = 0;
    if (a->used[AFFINITY_CURSOR] + SOON_FULL > rt.config.most[AFFINITY_CURSOR] ||
        (in_transaction(w) && a->used[AFFINITY_TRANSACTION] + SOON_FULL > rt.config.most[AFFINITY_TRANSACTION])) {
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (fits(list[i])) {
            list[kept++] = list[i];
        }
    }
    return kept > 0 ? mongo_least(list, kept) : NULL;
}

/* ------------------------------------------------------------ what is noted */

bool route_sent(int section, const struct wire *w, const struct backend *b)
{
    struct affinity *a = &rt.all[section].table;
    bool noted;
    if (!in_transaction(w) || is_end(w) || !wire_true(w, WIRE_START_TRANSACTION)) {
        return true;
    }
    noted = affinity_add(a, AFFINITY_TRANSACTION, w->lsid, sizeof w->lsid, b->index, loop_ms()) != NULL;
    note(section, AFFINITY_TRANSACTION, w->lsid, sizeof w->lsid, b);
    mongo_count(a, &rt.all[section].told);
    return noted;
}

static bool cursor_ends(const struct wire *w, const struct wire *reply)
{
    bool gone = wire_has(reply, WIRE_CODE) && reply->number[WIRE_CODE] == MONGO_CODE_CURSOR_NOT_FOUND;
    return wire_is(w, "getMore") && wire_has(w, WIRE_COMMAND) &&
           (gone || (wire_true(reply, WIRE_OK) && wire_has(reply, WIRE_CURSOR_ID) && reply->number[WIRE_CURSOR_ID] == 0));
}

void route_answered(int section, const struct wire *w, const struct wire *reply, const struct backend *b)
{
    struct affinity *a = &rt.all[section].table;
    unsigned char key[24];
    bool transacts = in_transaction(w), opens = wire_true(reply, WIRE_CURSOR_ID), ends = !opens && cursor_ends(w, reply);
    if (opens) {
        size_t n = cursor_key(w, reply->number[WIRE_CURSOR_ID], key);
        affinity_add(a, AFFINITY_CURSOR, key, n, b->index, loop_ms());
        note(section, AFFINITY_CURSOR, key, n, b);
    } else if (ends) {
        size_t n = cursor_key(w, w->number[WIRE_COMMAND], key);
        affinity_remove(a, AFFINITY_CURSOR, key, n);
        note(section, AFFINITY_CURSOR, key, n, NULL);
    }
    if (transacts && wire_is(w, "abortTransaction")) {
        affinity_remove(a, AFFINITY_TRANSACTION, w->lsid, sizeof w->lsid);
        note(section, AFFINITY_TRANSACTION, w->lsid, sizeof w->lsid, NULL);
    } else if (transacts) { /* its statement may have taken longer than an idle transaction lasts */
        affinity_add(a, AFFINITY_TRANSACTION, w->lsid, sizeof w->lsid, b->index, loop_ms());
        note(section, AFFINITY_TRANSACTION, w->lsid, sizeof w->lsid, b);
    }
    if (opens || ends || transacts) {
        mongo_count(a, &rt.all[section].told);
    }
}
