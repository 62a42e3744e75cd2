/*
 * mongo_greet.c - what Puerta answers itself in pooled mode: hello above all, as one mongos with the least that all can do.
 *
 *   hello of each mongos -- mongo_health.c: struct mongo_facts --> said (merged) --> hello_write() --> a client
 *                                                                  version ------> topologyVersion.counter
 *   a hello that names the version in force is parked --greet_again()--> answered when version grows, or its time is over
 *   saslStart and the like --> mongo_door.c
 *
 * Clients share connections here, so nothing may reach a mongos that belongs to one connection: who its client is, what it
 * speaks, how its last write went. What a client is (its metadata) goes nowhere.
 *
 * Owns struct section: of each section in pooled mode what its clients are told.
 */
#include "mongo.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define STREAM_MIN_MS 100       /* who hears answers without asking hears no more of them, as long as nothing changes */
#define AWAIT_MAX_MS 600000     /* a hello is parked no longer than this; drivers ask for 10 s */
#define BSON_LIMIT (16 << 20)   /* what a mongos has that does not say: the default of all versions */
#define BATCH_LIMIT 100000

static struct section {
    const struct service *service;  /* NULL: none yet */
    uint32_t changes;               /* mongos_changes as of `said` */
    uint32_t version;
    bool stopping;
    uint64_t stop_ms;               /* when it exits at the latest */
    unsigned char process_id[12];
    struct mongo_facts said;
} sections[MAX_SERVICES];

static const struct conf *in_force;

void greet_start(const struct conf *conf)
{
    in_force = conf;
    for (int i = 0; i < MAX_SERVICES; i++) {
        os_random(sections[i].process_id, sizeof sections[i].process_id);
    }
    door_start(conf);
}

/* ---------------------------------------------------------------- facts */

/* The lesser of two, of which 0 is not known. */
static int64_t least(int64_t a, int64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* One more mongos. A session lives as long as it does at the mongos that forgets it first; where one knows no sessions, none do. */
static void merge(struct mongo_facts *all, const struct mongo_facts *one)
{
    if (!all->known) {
        *all = *one;
        return;
    }
    all->isdbgrid = all->isdbgrid && one->isdbgrid;
    all->min_wire = one->min_wire > all->min_wire ? one->min_wire : all->min_wire;
    all->max_wire = one->max_wire < all->max_wire ? one->max_wire : all->max_wire;
    all->max_bson = least(all->max_bson, one->max_bson);
    all->max_message = least(all->max_message, one->max_message);
    all->max_batch = least(all->max_batch, one->max_batch);
    all->session_minutes = one->session_minutes < all->session_minutes ? one->session_minutes : all->session_minutes;
}

/* What holds of every mongos that may get a request; where none may, of those that were there. */
static struct mongo_facts merged(const struct service *s)
{
    struct mongo_facts up = { .known = false }, down = { .known = false };
    for (uint16_t i = 0; i < backend_cap(); i++) {
        const struct backend *b = backend_at(i);
        if (b != NULL && b->service == s && mongos_of(b)->facts.known) {
            merge(mongos_works(b) ? &up : &down, &mongos_of(b)->facts);
        }
    }
    return up.known ? up : down;
}

static void look_again(struct section *t)
{
    struct mongo_facts now = merged(t->service);
    t->changes = mongos_changes;
    if (!now.known || mongo_facts_same(&now, &t->said)) {
        return; /* what was said last holds until something else is known */
    }
    t->said = now;
    t->version++;
    if (now.min_wire > now.max_wire) {
        log_warn("no driver can use all mongos of a section: their wire versions do not meet", "section=%s min=%lld max=%lld",
                 t->service->conf->name, (long long)now.min_wire, (long long)now.max_wire);
    }
}

/* What clients of that section are told now. */
static struct section *section_of(const struct service *s)
{
    struct section *t = sections;
    while (t->service != s && t->service != NULL) {
        t++;
        must(t < sections + MAX_SERVICES);
    }
    if (t->service == NULL || t->changes != mongos_changes) {
        t->service = s;
        look_again(t);
    }
    if (mongo_stopping != t->stopping) {
        t->stopping = mongo_stopping;
        t->stop_ms = loop_ms() + in_force->stop_timeout_ms;
        t->version++;
    }
    return t;
}

uint32_t greet_version(const struct service *s)
{
    return section_of(s)->version;
}

/* ------------------------------------------------------- hello, as asked */

enum field { HELLO_OK, METADATA, BALANCED, VERSION, AWAIT, MECHANISMS, SPECULATIVE, FIELDS };
enum wants { A_NUMBER, A_DOCUMENT, A_TEXT, ANYTHING };

static const struct { const char *name; enum wants wants; } fields[FIELDS] = {
    [HELLO_OK] = { "helloOk", A_NUMBER },
    [METADATA] = { "client", A_DOCUMENT },
    [BALANCED] = { "loadBalanced", A_NUMBER },
    [VERSION] = { "topologyVersion", A_DOCUMENT },
    [AWAIT] = { "maxAwaitTimeMS", A_NUMBER },
    [MECHANISMS] = { "saslSupportedMechs", A_TEXT },
    [SPECULATIVE] = { "speculativeAuthenticate", ANYTHING }, /* what cannot be done of it is left out */
};

/* A hello: what it has of those fields, of each the first; or what is wrong with it. */
struct hello {
    bool has[FIELDS];
    struct bson_element of[FIELDS];
    enum mongo_code code;
    const char *wrong;
};

static bool is_wanted(const struct bson_element *e, enum wants wants)
{
    int64_t number;
    size_t len;
    return wants == A_NUMBER ? bson_number(e, &number) : wants == A_DOCUMENT ? e->type == BSON_DOCUMENT && !bson_enter(e).bad :
           wants == A_TEXT ? bson_text(e, &len) != NULL : true;
}

static bool wrong(struct hello *h, enum mongo_code code, const char *text)
{
    if (h->wrong == NULL) {
        h->code = code;
        h->wrong = text;
    }
    return false;
}

static void note_field(struct hello *h, const struct bson_element *e)
{
    for (int i = 0; i < FIELDS; i++) {
        if (h->has[i] || strcmp(e->name, fields[i].name) != 0 || e->type == BSON_NULL || e->type == BSON_UNDEFINED) {
            continue;
        }
        h->has[i] = true;
        h->of[i] = *e;
        if (!is_wanted(e, fields[i].wants)) {
            wrong(h, MONGO_CODE_TYPE_MISMATCH, "a field of hello is of a wrong type: helloOk, loadBalanced and maxAwaitTimeMS are numbers or "
                  "booleans, client and topologyVersion documents, saslSupportedMechs is a string");
        }
    }
}

static int64_t number_in(const struct hello *h, enum field field)
{
    int64_t n = 0;
    return h->has[field] && bson_number(&h->of[field], &n) ? n : 0;
}

/* topologyVersion and maxAwaitTimeMS. Whether it has to wait because the version that its client knows still holds. */
static bool has_to_wait(struct hello *h, const struct section *t)
{
    struct bson_reader r;
    struct bson_element process, counter;
    int64_t known;
    if (h->has[VERSION] != h->has[AWAIT]) {
        return wrong(h, MONGO_CODE_AWAIT_HALF, h->has[VERSION] ? "a hello with topologyVersion needs maxAwaitTimeMS too"
                                                                : "a hello with maxAwaitTimeMS needs topologyVersion too");
    }
    if (!h->has[VERSION] || h->wrong != NULL) {
        return false;
    }
    r = bson_enter(&h->of[VERSION]);
    if (!bson_find(&r, "processId", &process) || !bson_find(&r, "counter", &counter) || !bson_number(&counter, &known)) {
        return wrong(h, MONGO_CODE_FAILED_TO_PARSE, "topologyVersion needs processId and counter");
    }
    if (process.type != BSON_OBJECT_ID) {
        return wrong(h, MONGO_CODE_TYPE_MISMATCH, "topologyVersion.processId is no ObjectId");
    }
    if (known < 0) {
        return wrong(h, MONGO_CODE_TOPOLOGY_COUNTER, "the counter of topologyVersion is negative");
    }
    if (number_in(h, AWAIT) < 0) {
        return wrong(h, MONGO_CODE_AWAIT_TIME, "maxAwaitTimeMS is negative");
    }
    if (memcmp(process.value, t->process_id, sizeof t->process_id) != 0) {
        return false; /* of a mongos, or of Puerta before it was started anew */
    }
    if (known > t->version) {
        return wrong(h, MONGO_CODE_TOPOLOGY_AHEAD, "the counter of topologyVersion is ahead of this server's");
    }
    return known == t->version;
}

/* What is wrong with it as a whole. */
static void judge(struct pooled *p, struct hello *h)
{
    if (h->wrong == NULL && number_in(h, BALANCED) != 0) {
        wrong(h, MONGO_CODE_LOAD_BALANCER_MISMATCH, "this address is not for loadBalanced=true: leave that out of the connection string, "
              "or set mode = loadbalanced");
    }
    if (h->wrong == NULL && h->has[METADATA] && p->greeting.has_metadata) {
        wrong(h, MONGO_CODE_CLIENT_METADATA_FIXED, "the client metadata document may only be sent in the first hello");
    }
}

/* ----------------------------------------------------- hello, as answered */

static void put_version(struct bson *b, const struct section *t)
{
    bson_document(b, "topologyVersion");
    bson_object_id(b, "processId", t->process_id);
    bson_int64(b, "counter", t->version);
    bson_close(b);
}

/* As int32, which every mongos sends. */
static void put_number(struct bson *b, const char *name, int64_t n, int64_t most)
{
    bson_int32(b, name, (int32_t)(n > 0 && n < most ? n : n <= 0 ? 0 : most));
}

static int64_t unix_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void put_facts(struct bson *b, const struct pooled *p, const struct mongo_facts *f)
{
    put_number(b, "maxBsonObjectSize", f->max_bson > 0 ? f->max_bson : BSON_LIMIT, INT32_MAX);
    put_number(b, "maxMessageSizeBytes", f->max_message > 0 ? f->max_message : WIRE_MAX, WIRE_MAX);
    put_number(b, "maxWriteBatchSize", f->max_batch > 0 ? f->max_batch : BATCH_LIMIT, INT32_MAX);
    bson_date(b, "localTime", unix_ms());
    if (f->session_minutes > 0) {
        put_number(b, "logicalSessionTimeoutMinutes", f->session_minutes, INT32_MAX);
    }
    if (p->conn->id <= INT32_MAX) {
        bson_int32(b, "connectionId", (int32_t)p->conn->id);
    } else {
        bson_int64(b, "connectionId", (int64_t)p->conn->id);
    }
    put_number(b, "minWireVersion", f->min_wire, INT32_MAX);
    put_number(b, "maxWireVersion", f->max_wire, INT32_MAX);
    bson_bool(b, "readOnly", false);
}

static size_t hello_write(struct pooled *p, const struct section *t, const struct bson_element *speculative, void *out, size_t cap)
{
    const struct greeting *g = &p->greeting;
    struct bson b;
    door_begin_answer(&b, out, cap, &g->asked);
    bson_bool(&b, g->modern ? "isWritablePrimary" : "ismaster", true);
    if (g->hello_ok) {
        bson_bool(&b, "helloOk", true);
    }
    if (t->said.isdbgrid) {
        bson_string(&b, "msg", "isdbgrid");
    }
    put_version(&b, t);
    put_facts(&b, p, &t->said);
    if (g->mechanisms && door_guarded(p)) { /* whoever the user is: it does not say who exists */
        bson_array(&b, "saslSupportedMechs");
        bson_string(&b, NULL, "SCRAM-SHA-256");
        bson_close(&b);
    }
    if (speculative != NULL) {
        door_speculate(p, speculative, &b);
    }
    bson_double(&b, "ok", 1.0);
    return mongomsg_finish(&b);
}

/* As a mongos says it that is being shut down: its drivers look elsewhere, and what is under way goes on. */
static size_t stopping_write(const struct pooled *p, const struct section *t, void *out, size_t cap)
{
    struct bson b;
    door_begin_answer(&b, out, cap, &p->greeting.asked);
    put_version(&b, t);
    bson_int64(&b, "remainingQuiesceTimeMillis", t->stop_ms > loop_ms() ? (int64_t)(t->stop_ms - loop_ms()) : 0);
    bson_double(&b, "ok", 0.0);
    bson_string(&b, "errmsg", "Puerta is being shut down");
    bson_int32(&b, "code", MONGO_CODE_SHUTDOWN_IN_PROGRESS);
    bson_string(&b, "codeName", "ShutdownInProgress");
    mongo_refused(MONGO_CODE_SHUTDOWN_IN_PROGRESS);
    return mongomsg_finish(&b);
}

static size_t unknown_write(const struct pooled *p, void *out, size_t cap)
{
    const char *trouble = door_stranger(p) ? "the log says why" /* with names and addresses */
                        : p->service->trouble[0] != '\0' ? p->service->trouble : "none has answered yet";
    char text[SLOTMAP_ERROR_CAP + 64];
    snprintf(text, sizeof text, "no mongos can be reached: %s", trouble);
    return door_refuse(&p->greeting.asked, MONGO_CODE_HOST_UNREACHABLE, text, out, cap);
}

/* What was written says moreToCome, and is what the next answer is to: so servers have it, and drivers count on it. */
static void stream_on(struct pooled *p, const struct section *t, unsigned char *out)
{
    struct greeting *g = &p->greeting;
    out[WIRE_HEADER] |= WIRE_MORE_TO_COME;
    g->asked.request_id = wire_header_get(out).request_id;
    g->version = t->version;
    g->waits = g->awaits = true;
    p->until_ms = loop_ms() + g->every_ms;
}

/* The answer to the hello that p->greeting has noted, if it can be given now. */
static size_t hello_settle(struct pooled *p, const struct bson_element *speculative, void *out, size_t cap)
{
    struct greeting *g = &p->greeting;
    const struct section *t = section_of(p->service);
    bool over = loop_ms() >= p->until_ms;
    size_t n;
    g->waits = !over && !t->stopping && (!t->said.known || (g->awaits && g->version == t->version));
    if (g->waits) {
        return 0;
    }
    if (t->stopping || !t->said.known) {
        return t->stopping ? stopping_write(p, t, out, cap) : unknown_write(p, out, cap);
    }
    n = hello_write(p, t, speculative, out, cap);
    if (n > 0 && g->every_ms > 0 && p->ahead.len == 0 && !p->ended) { /* who says something else ends it */
        stream_on(p, t, out);
    }
    return n;
}

/* How often it is to hear answers without asking: only one that could wait, in a message that says it may. */
static uint32_t stream_of(const struct pooled *p, const struct hello *h)
{
    int64_t ms = number_in(h, AWAIT);
    bool streams = h->has[VERSION] && h->has[AWAIT] && p->asks.header.opcode == WIRE_OP_MSG &&
                   (p->asks.flags & WIRE_EXHAUST_ALLOWED) != 0 && !wire_more_to_come(&p->asks);
    return !streams ? 0 : ms < STREAM_MIN_MS ? STREAM_MIN_MS : ms > AWAIT_MAX_MS ? AWAIT_MAX_MS : (uint32_t)ms;
}

static size_t hello_answer(struct pooled *p, struct bson_reader r, bool modern, void *out, size_t cap)
{
    struct greeting *g = &p->greeting;
    const struct section *t = section_of(p->service);
    struct hello h = { .wrong = NULL };
    struct bson_element e;
    int64_t wait_ms = p->service->conf->handshake_timeout_ms;
    while (bson_next(&r, &e)) {
        note_field(&h, &e);
    }
    judge(p, &h);
    g->awaits = has_to_wait(&h, t);
    if (h.wrong != NULL) {
        return door_refuse(&g->asked, h.code, h.wrong, out, cap);
    }
    if (g->awaits) {
        wait_ms = number_in(&h, AWAIT) < AWAIT_MAX_MS ? number_in(&h, AWAIT) : AWAIT_MAX_MS;
    }
    g->modern = modern;
    g->hello_ok = number_in(&h, HELLO_OK) != 0;
    g->mechanisms = h.has[MECHANISMS];
    if (h.has[METADATA]) {
        g->has_metadata = true;
        mongomsg_client_name(&h.of[METADATA], g->name);
    }
    g->version = t->version;
    g->every_ms = stream_of(p, &h);
    p->until_ms = wire_more_to_come(&p->asks) ? loop_ms() : loop_ms() + (uint64_t)wait_ms;
    return hello_settle(p, h.has[SPECULATIVE] ? &h.of[SPECULATIVE] : NULL, out, cap);
}

/* ------------------------------------------------------- other commands */

static size_t ping(struct pooled *p, const struct bson_reader *r, void *out, size_t cap)
{
    struct bson b;
    (void)r;
    door_begin_answer(&b, out, cap, &p->greeting.asked);
    bson_double(&b, "ok", 1.0);
    return mongomsg_finish(&b);
}

/* A mongos would tell an address of Puerta's own that many clients share: shells look by it for the operations to be killed. */
static size_t whatsmyuri(struct pooled *p, const struct bson_reader *r, void *out, size_t cap)
{
    enum mongo_code code;
    const char *why;
    char text[ADDRESS_TEXT];
    struct bson b;
    (void)r;
    if (!door_admits(p, &code, &why)) {
        return door_refuse(&p->greeting.asked, code, why, out, cap);
    }
    door_begin_answer(&b, out, cap, &p->greeting.asked);
    bson_string(&b, "you", address_text(&p->conn->peer, text));
    bson_double(&b, "ok", 1.0);
    return mongomsg_finish(&b);
}

/* What is answered here beside hello: by a function, or with an error. */
static const struct command_row {
    const char *name;
    size_t (*answer)(struct pooled *p, const struct bson_reader *r, void *out, size_t cap);
    enum mongo_code code;
    const char *text;
} commands[] = {
    { "saslStart", door_begin, MONGO_CODE_NONE, NULL },
    { "saslContinue", door_continue, MONGO_CODE_NONE, NULL },
    { "logout", door_logout, MONGO_CODE_NONE, NULL },
    { "whatsmyuri", whatsmyuri, MONGO_CODE_NONE, NULL },
    { "authenticate", NULL, MONGO_CODE_AUTHENTICATION_FAILED,
      "authenticate is not there: logins here are by saslStart with SCRAM-SHA-256" },
    { "getnonce", NULL, MONGO_CODE_COMMAND_NOT_FOUND,
      "getnonce is not there: logins here are by saslStart with SCRAM-SHA-256" },
    { "getLastError", NULL, MONGO_CODE_COMMAND_NOT_FOUND,
      "getLastError is not there: it asks about a connection, and those to the mongos are shared here; use a write concern" },
    { "getlasterror", NULL, MONGO_CODE_COMMAND_NOT_FOUND,
      "getlasterror is not there: it asks about a connection, and those to the mongos are shared here; use a write concern" },
};
static const struct command_row ping_row = { "ping", ping, MONGO_CODE_NONE, NULL };

/* The row of the request's command; NULL: it goes to a mongos. Monitors ping before a login: the mongos are not asked then. */
static const struct command_row *row_of(const struct pooled *p)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (wire_is(&p->asks, commands[i].name)) {
            return &commands[i];
        }
    }
    return wire_is(&p->asks, ping_row.name) && door_guarded(p) && p->user == DOOR_NOBODY ? &ping_row : NULL;
}

bool greet_takes(const struct pooled *p)
{
    return p->asks.hello || p->asks.header.opcode == WIRE_OP_QUERY || row_of(p) != NULL;
}

static bool is_hello(const char *name)
{
    return strcmp(name, "hello") == 0 || strcmp(name, "isMaster") == 0 || strcmp(name, "ismaster") == 0;
}

/* By OP_QUERY come handshakes of old drivers, some within a document that also says what to read from. */
static size_t query_answer(struct pooled *p, struct bson_reader r, void *out, size_t cap)
{
    struct bson_reader walk = r;
    struct bson_element e;
    bool some = bson_next(&walk, &e);
    if (some && (strcmp(e.name, "$query") == 0 || strcmp(e.name, "query") == 0) && e.type == BSON_DOCUMENT) {
        walk = r = bson_enter(&e);
        some = bson_next(&walk, &e);
    }
    if (some && is_hello(e.name)) {
        return hello_answer(p, r, strcmp(e.name, "hello") == 0, out, cap);
    }
    return door_refuse(&p->greeting.asked, MONGO_CODE_UNSUPPORTED_OP_QUERY,
                       "OP_QUERY is taken for hello alone: what came with it is of a driver too old (OP_MSG is from MongoDB 3.6)", out, cap);
}

size_t greet_answer(struct pooled *p, const unsigned char *msg, size_t n, unsigned char *out, size_t cap)
{
    struct greeting *g = &p->greeting;
    struct bson_reader r = mongomsg_document(msg, n);
    const struct command_row *row = row_of(p);
    must(cap >= GREET_CAP);
    g->waits = g->login = g->awaits = false;
    g->every_ms = 0;
    g->asked = p->asks.header;
    if (r.bad || !mongomsg_intact(msg, n, &p->asks)) {
        return door_refuse(&g->asked, MONGO_CODE_PROTOCOL_ERROR, r.bad ? "not a message" : wire_error_text(WIRE_BAD_CHECKSUM), out, cap);
    }
    if (p->asks.header.opcode == WIRE_OP_QUERY) {
        return query_answer(p, r, out, cap);
    }
    if (p->asks.hello) {
        return hello_answer(p, r, wire_is(&p->asks, "hello"), out, cap);
    }
    must(row != NULL);
    return row->answer != NULL ? row->answer(p, &r, out, cap) : door_refuse(&g->asked, row->code, row->text, out, cap);
}

size_t greet_again(struct pooled *p, unsigned char *out, size_t cap)
{
    must(cap >= GREET_CAP);
    if (!p->greeting.waits) {
        return 0;
    }
    return p->greeting.login ? door_again(p, out, cap) : hello_settle(p, NULL, out, cap);
}

void greet_arrive(struct pooled *p)
{
    memset(&p->greeting, 0, sizeof p->greeting);
    door_open(p);
}

void greet_leave(struct pooled *p)
{
    p->greeting.waits = false;
    door_close(p);
}
