/*
 * redis_script.c - scripts by their digest: a node that has not got one is given it before it is asked.
 *
 *   EVAL body, SCRIPT LOAD body --> ring of bodies          the oldest are written over
 *                                     ^        ^
 *                 table by digest ----'        '---- table by how a body looks: one known already costs no digest
 *
 *   EVALSHA digest to a node --> loaded[script][node] is the connection that has carried it: nothing to do
 *                                 else SCRIPT LOAD goes ahead of it, for nobody
 *
 *   a long EVALSHA goes over a lease, and LOAD always goes ahead of the question who serves its key
 *
 * What a client has loaded on "the server" is so on every node, also on one that was started again or has just joined.
 * A script whose body is not known any more gets the node's NOSCRIPT, on which clients send EVAL.
 */
#include "redis.h"
#include "sha1.h"
#include "text.h"

#include <stdio.h>
#include <string.h>

#define SCRIPTS 512           /* how many bodies are known at most; two of one place push each other out */
#define LOOK 32               /* bytes at either end of a body by which it is looked for */
#define HEAD_CAP 256          /* of an EVALSHA, what holds its digest */
#define EXISTS_CAP 16384      /* of a SCRIPT EXISTS, the digests that are looked at */
#define TRIES_MAX 3

struct script {
    unsigned char digest[SHA1_BYTES];
    uint32_t off, len;        /* in the ring; len 0: none here */
    bool flushed;             /* a SCRIPT FLUSH is under way that came after it */
    uint32_t block;           /* the last transaction that took it along */
};

static struct {
    unsigned char *ring;
    size_t size, at;
    struct script *all;
    uint16_t *by_look;        /* place in `all` */
    uint32_t *loaded;         /* [script][backend][protocol]: low bits of the id of the connection that has carried it */
    uint32_t marks;           /* of one script */
    uint32_t block;           /* counts transactions on their way */
} sp;

void redis_script_tables(const struct conf *conf)
{
    sp.size = conf->script_cache;
    sp.marks = conf->max_backends * upstream_classes();
    sp.ring = arena_take("script bodies", sp.size, 1);
    sp.all = arena_take("scripts", SCRIPTS, sizeof *sp.all);
    sp.by_look = arena_take("scripts by look", SCRIPTS, sizeof *sp.by_look);
    sp.loaded = arena_take("scripts loaded", (size_t)SCRIPTS * sp.marks, sizeof *sp.loaded);
}

/* ------------------------------------------------------------- the bodies */

static uint32_t look_of(const unsigned char *body, size_t n)
{
    uint32_t hash = 2166136261u ^ (uint32_t)n; /* FNV-1a */
    size_t ends = n < LOOK ? n : LOOK;
    for (size_t i = 0; i < ends; i++) {
        hash = (hash ^ body[i]) * 16777619u;
        hash = (hash ^ body[n - ends + i]) * 16777619u;
    }
    return (hash ^ hash >> 16) % SCRIPTS;
}

static struct script *script_of(const unsigned char digest[SHA1_BYTES])
{
    return &sp.all[((uint32_t)digest[0] << 8 | digest[1]) % SCRIPTS];
}

static void not_loaded(const struct script *s)
{
    memset(&sp.loaded[(size_t)(s - sp.all) * sp.marks], 0, sp.marks * sizeof *sp.loaded);
}

/* The marks of b's connections. */
static uint32_t *loaded_at(const struct script *s, const struct backend *b)
{
    return &sp.loaded[(size_t)(s - sp.all) * sp.marks + (size_t)b->index * upstream_classes()];
}

/* Room for n bytes: what lay there is forgotten. */
static uint32_t ring_room(size_t n)
{
    if (sp.at + n > sp.size) {
        sp.at = 0;
    }
    for (uint32_t i = 0; i < SCRIPTS; i++) {
        if (sp.all[i].len > 0 && sp.all[i].off < sp.at + n && sp.all[i].off + sp.all[i].len > sp.at) {
            sp.all[i].len = 0;
        }
    }
    sp.at += n;
    return (uint32_t)(sp.at - n);
}

static void learn(const unsigned char *body, size_t n)
{
    unsigned char digest[SHA1_BYTES];
    uint32_t look = look_of(body, n);
    struct script *s = &sp.all[sp.by_look[look]];
    if (n == 0 || n > sp.size / 4) {
        return;
    }
    if (s->len == n && memcmp(sp.ring + s->off, body, n) == 0) {
        s->flushed = false;
        return;
    }
    sha1(body, n, digest);
    s = script_of(digest);
    if (s->len == 0 || memcmp(s->digest, digest, SHA1_BYTES) != 0) {
        s->len = 0;
        s->off = ring_room(n);
        s->len = (uint32_t)n;
        memcpy(sp.ring + s->off, body, n);
        memcpy(s->digest, digest, SHA1_BYTES);
        not_loaded(s);
    }
    s->flushed = false;
    sp.by_look[look] = (uint16_t)(s - sp.all);
}

bool script_is_flush(const struct command *command)
{
    return command->group == GROUP_SCRIPTING && strcmp(command->name, "script|flush") == 0;
}

/* SCRIPT FLUSH: what is known so far is given to no node from now on, since one that has done it already must not get it
 * back. But it is forgotten only when all have done it: they may refuse. redis_fan.c sends it when what its client asked
 * before has been answered, and holds back what that asks behind it: so an EVALSHA ahead of it is still given its script,
 * and one behind it gets NOSCRIPT, as on one server. To those of other clients either may happen, as there too. */
void script_flush_begins(void)
{
    for (uint32_t i = 0; i < SCRIPTS; i++) {
        sp.all[i].flushed = true;
        not_loaded(&sp.all[i]);
    }
}

void script_flush_ends(bool done)
{
    for (uint32_t i = 0; i < SCRIPTS; i++) {
        sp.all[i].len = done && sp.all[i].flushed ? 0 : sp.all[i].len;
        sp.all[i].flushed = false;
    }
}

void script_note(const struct request *q)
{
    const char *name = q->command->name;
    uint32_t body = name[0] == 's' ? 2 : 1; /* SCRIPT LOAD body; EVAL body */
    bool has_body = strcmp(name, "eval") == 0 || strcmp(name, "eval_ro") == 0 || strcmp(name, "script|load") == 0;
    if (has_body && body < q->argc && q->arg[body].off + (size_t)q->arg[body].len <= q->len) {
        learn(q->p + q->arg[body].off, q->arg[body].len);
    }
}

/* ---------------------------------------------------- ahead of an EVALSHA */

/* Whether r is the question who serves the key of a long request, which goes over another connection once that is
 * answered. Then the script has to be there: what is not kept cannot be sent once more when it is not. */
static bool is_question(const struct req *r)
{
    return r->client != NULL && r == r->client->large;
}

/* The script of that digest, in hexadecimal; NULL: its body is not known. */
static struct script *named(const unsigned char *hex, size_t n)
{
    unsigned char digest[SHA1_BYTES];
    struct script *s;
    if (n != 2 * SHA1_BYTES) {
        return NULL;
    }
    for (size_t i = 0; i < SHA1_BYTES; i++) {
        unsigned high = text_hex((char)hex[2 * i]), low = text_hex((char)hex[2 * i + 1]);
        if ((high | low) > 15) {
            return NULL;
        }
        digest[i] = (unsigned char)(high << 4 | low);
    }
    s = script_of(digest);
    return s->len > 0 && !s->flushed && memcmp(s->digest, digest, SHA1_BYTES) == 0 ? s : NULL;
}

/* The script that an EVALSHA names, of which the first n bytes are here. */
static struct script *named_in(const unsigned char *head, size_t n)
{
    struct resp_slice name, arg;
    uint32_t at = 0;
    return resp_arg(head, n, &at, &name) && resp_arg(head, n, &at, &arg) ? named(head + arg.off, arg.len) : NULL;
}

/* That of r; NULL: it is no EVALSHA, or the body is not known. That of a long one, whose head is still in the input, is the
 * script of the question asked for it. */
static struct script *named_by(const struct req *r)
{
    const struct command *command = is_question(r) ? r->client->large_command : r->command;
    unsigned char head[HEAD_CAP];
    size_t n = is_question(r) ? r->client->in.len : r->bytes.len;
    if (strncmp(command->name, "evalsha", 7) != 0) {
        return NULL;
    }
    n = n < sizeof head ? n : sizeof head;
    if (is_question(r)) {
        chain_copy(&r->client->in, head, n);
    } else {
        slice_copy(&r->bytes, 0, head, n);
    }
    return named_in(head, n);
}

/* That of the command of a block that begins at `at`. */
static struct script *named_at(const struct slice *block, size_t at)
{
    unsigned char head[HEAD_CAP];
    size_t n = block->len - at < sizeof head ? block->len - at : sizeof head;
    struct resp_slice name;
    uint32_t from = 0;
    const struct command *k;
    slice_copy(block, at, head, n);
    k = resp_arg(head, n, &from, &name) ? command_find(head + name.off, name.len) : NULL;
    return k != NULL && strncmp(k->name, "evalsha", 7) == 0 ? named_in(head, n) : NULL;
}

/* The mark of a connection in `loaded`; never 0. */
static uint32_t mark_of(const struct upstream *u)
{
    return u->conn != NULL ? (uint32_t)u->conn->id | 1u << 31 : 1;
}

/* A SCRIPT LOAD for nobody goes into the queue of u; NULL: no connection of its own is left for the client (max_own). */
static bool load(struct script *s, struct service *service, struct upstream *u)
{
    struct req *r = u != NULL ? req_take(NULL, NULL, req_drop) : NULL;
    struct pen *pen;
    char head[64];
    int n = snprintf(head, sizeof head, "*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%u\r\n", (unsigned)s->len);
    if (r == NULL) {
        return false;
    }
    pen = &u->pen;
    r->service = service;
    if (!pen_more(pen, BUF_REQUEST, head, (size_t)n, &r->bytes) ||
        !pen_more(pen, BUF_REQUEST, sp.ring + s->off, s->len, &r->bytes) ||
        !pen_more(pen, BUF_REQUEST, "\r\n", 2, &r->bytes)) {
        req_free(r);
        return false;
    }
    stats.scripts_loaded++;
    upstream_put(u, r);
    return true;
}

/* A shared connection gets the script unless it has carried it, or `anyway`. */
static void load_once(struct script *s, struct service *service, struct upstream *u, bool anyway)
{
    uint32_t *loaded = loaded_at(s, u->backend) + u->resp3;
    if ((anyway || *loaded != mark_of(u)) && load(s, service, u)) {
        *loaded = mark_of(u); /* also while there is no connection: one LOAD waits for it, not one for each EVALSHA */
    }
}

/* SCRIPT EXISTS asks all masters, and what was known to one server is known to all: they get it before they are asked. */
static void before_exists(const struct req *r, struct backend *b)
{
    static unsigned char line[EXISTS_CAP];
    struct resp_slice arg;
    size_t n = r->bytes.len < sizeof line ? r->bytes.len : sizeof line;
    slice_copy(&r->bytes, 0, line, n);
    for (uint32_t at = 0; resp_arg(line, n, &at, &arg);) {
        struct script *s = named(line + arg.off, arg.len);
        if (s != NULL) {
            load_once(s, r->service, req_upstream(r, b), false);
        }
    }
}

static void before(const struct req *r, struct backend *b)
{
    struct script *s = named_by(r);
    if (strcmp(r->command->name, "script|exists") == 0) {
        before_exists(r, b);
    } else if (s != NULL && r->hops > 0 && r->client != NULL && r->client->owns) {
        (void)load(s, r->service, own_upstream(r->client, b)); /* what goes over the shared one may come later */
    } else if (s != NULL) {
        load_once(s, r->service, req_upstream(r, b), is_question(r));
    }
}

void script_before_block(const struct req *r, size_t at, struct backend *b)
{
    struct script *s = named_at(&r->bytes, at);
    sp.block += at == 0;
    if (s == NULL || s->block == sp.block) {
        return;
    }
    s->block = sp.block;
    if (r->lease == LEASE_WATCH) {
        (void)load(s, r->service, r->client->watch);
    } else if (r->client->owns) {
        (void)load(s, r->service, own_upstream(r->client, b));
    } else {
        load_once(s, r->service, req_upstream(r, b), true); /* NOSCRIPT would stand in EXEC's answer, and nothing can be done any more */
    }
}

/* The node says NOSCRIPT. True: we can give it the script. */
static bool missing(const struct req *r, const struct backend *b)
{
    struct script *s = named_by(r);
    if (s == NULL || r->hops >= TRIES_MAX) {
        return false;
    }
    memset(loaded_at(s, b), 0, upstream_classes() * sizeof *sp.loaded); /* it is the node that has not got it */
    return true;
}

void redis_script_open(void)
{
    req_before_script = before;
    req_script_missing = missing;
}
