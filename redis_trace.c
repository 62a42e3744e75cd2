/*
 * redis_trace.c - what the slow log and the hot keys are told of a request of Redis mode.
 *
 *   req     bytes: *3 $3 SET $3 key $5 value     a record that took long: its name and first key, read from its own bytes
 *   request                                      one that is sampled: all its keys
 *
 * Nothing of a request is told but its name and its keys: what else it says may be a secret. Of a command that is not in the table
 * nobody knows what is a key, so of that only the name is.
 *
 * Owns nothing, and is called for what is slow or sampled alone.
 */
#include "redis.h"
#include "trace.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define KEYS_SEEN 64   /* of a sampled request */
#define WORDS_SEEN 16  /* arguments of XREAD and its like that may stand before STREAMS */

/* A number in the request's bytes, "*3\r\n": *at is moved past it. */
static bool number_at(const struct slice *s, size_t *at, unsigned char type, uint32_t *n)
{
    unsigned char line[16];
    size_t have = s->len - *at < sizeof line ? s->len - *at : sizeof line, i = 1;
    slice_copy(s, *at, line, have);
    if (have == 0 || line[0] != type) {
        return false;
    }
    for (*n = 0; i < have && i < 10 && line[i] >= '0' && line[i] <= '9'; i++) {
        *n = *n * 10 + line[i] - '0';
    }
    if (i + 2 > have || line[i] != '\r') {
        return false;
    }
    *at += i + 2;
    return true;
}

/* Where argument i of the request at `at` begins, and how long it is; false: it is not here. */
static bool argument(const struct slice *s, size_t at, uint32_t i, size_t *off, uint32_t *len)
{
    uint32_t argc;
    if (!number_at(s, &at, '*', &argc) || i >= argc) {
        return false;
    }
    while (number_at(s, &at, '$', len) && (size_t)*len + 2 <= s->len - at) {
        if (i-- == 0) {
            *off = at;
            return true;
        }
        at += (size_t)*len + 2;
    }
    return false;
}

static size_t text_of(const struct slice *s, size_t at, uint32_t i, char *out, size_t cap)
{
    size_t off;
    uint32_t len;
    if (!argument(s, at, i, &off, &len)) {
        return 0;
    }
    len = len < cap ? len : (uint32_t)cap;
    slice_copy(s, off, out, len);
    return len;
}

static bool is_known(const struct command *k)
{
    return command_index(k) < command_count();
}

/* Which argument is the first key; 0: none is. Where a number says how many there are, that may be none. */
static uint32_t first_key(const struct command *k, const struct slice *s, size_t at)
{
    char word[8];
    size_t n;
    uint32_t i = 1;
    switch ((enum command_keys)k->keys) {
    case KEYS_NONE: case KEYS_SHAPES:
        return 0;
    case KEYS_SECOND: case KEYS_FROM_SECOND:
        return 2;
    case KEYS_MIGRATE:
        return 3;
    case KEYS_COUNT_AT_1: case KEYS_COUNTED_PAIRS: case KEYS_COUNT_AT_2:
        i = k->keys == KEYS_COUNT_AT_2 ? 2 : 1;
        return text_of(s, at, i, word, 1) == 1 && word[0] >= '1' && word[0] <= '9' ? i + 1 : 0;
    case KEYS_STREAMS:
        for (; i < WORDS_SEEN; i++) {
            n = text_of(s, at, i, word, sizeof word);
            if (n == 7 && strncasecmp(word, "streams", n) == 0) {
                return i + 1;
            }
            i += n == 5 && strncasecmp(word, "group", n) == 0 ? 2 : 0; /* names may be any word */
        }
        return 0;
    default:
        return 1;
    }
}

static void tell_key(struct trace_entry *e, const struct command *k, const struct slice *s, size_t at)
{
    uint32_t i = k == NULL || !is_known(k) || (k->flags & CMD_NOT_KEY) != 0 ? 0 : first_key(k, s, at);
    e->key_len = (uint8_t)(i > 0 ? text_of(s, at, i, (char *)e->key, sizeof e->key) : 0);
}

/* The row of the command that stands at `at`. */
static const struct command *command_in(const struct slice *s, size_t at)
{
    char word[COMMAND_NAME_CAP];
    size_t n = text_of(s, at, 0, word, sizeof word);
    const struct command *k = command_find((const unsigned char *)word, n), *sub = NULL;
    if (k != NULL && (k->flags & CMD_CONTAINER) != 0) {
        n = text_of(s, at, 1, word, sizeof word);
        sub = command_sub(k, (const unsigned char *)word, n);
    }
    return sub != NULL ? sub : k;
}

/* What a transaction is about: its first command says it. */
static void tell_block(struct trace_entry *e, const struct slice *s)
{
    size_t off;
    uint32_t len;
    if (argument(s, 0, 0, &off, &len)) { /* MULTI */
        tell_key(e, command_in(s, off + len + 2), s, off + len + 2);
    }
}

bool trace_told(const struct req *r)
{
    bool waits = (r->flags & REQ_BLOCKS) != 0 ||
                 (r->command != NULL && (r->command->flags & CMD_BLOCKING) != 0 && r->command->route == ROUTE_SESSION);
    return r->client != NULL && r->client->conn != NULL && r->command != NULL && r != r->client->large && !waits;
}

bool trace_describe(struct trace_entry *e, const struct req *r, const struct backend *b)
{
    if (!trace_told(r)) {
        return false;
    }
    memset(e, 0, sizeof *e);
    e->section = r->service->conf;
    e->client = r->client->conn->peer;
    if (b != NULL) {
        backend_name(b, e->backend);
    }
    if (!is_known(r->command)) {
        text_of(&r->bytes, 0, 0, e->command, sizeof e->command - 1);
    } else {
        snprintf(e->command, sizeof e->command, "%s", r->command->name);
    }
    if (r->flags & REQ_MULTI) {
        tell_block(e, &r->bytes);
    } else {
        tell_key(e, r->command, &r->bytes, 0);
    }
    return true;
}

void trace_whole(const struct req *r, const struct backend *b, uint32_t born_us, uint32_t sent_us)
{
    struct trace_entry e;
    uint32_t now = trace_stamp(), sent = sent_us != 0 ? sent_us : now;
    if (!trace_told(r)) {
        return;
    }
    if (trace_slow_room() && trace_describe(&e, r, b)) {
        e.queued_us = sent - born_us;
        e.sent_us = now - sent;
        trace_slow_add(&e);
    } else {
        trace_slow_pass();
    }
}

void trace_given_up(const struct req *r)
{
    if (r->fan == NULL) {
        trace_whole(r, r->asked != 0 ? backend_at((uint16_t)(r->asked - 1)) : NULL, r->born_us, r->asked != 0 ? r->sent_us : 0);
    }
}

void trace_request(const struct client *c, const struct request *q)
{
    struct resp_slice keys[KEYS_SEEN];
    const struct command *k = q->command;
    int n = 0;
    if (!trace_sample() || !c->admitted || k == NULL || !is_known(k) || (k->flags & CMD_NOT_KEY) != 0) {
        return;
    }
    if (k->keys == KEYS_FIRST && q->argc > 1) { /* of a long one the head alone may be in one piece */
        keys[0] = q->arg[1];
        n = 1;
    } else if (k->keys == KEYS_FIRST) {
        return;
    } else if (k->keys != KEYS_NONE) {
        n = command_keys(k, q->p, q->len, q->argc, keys, KEYS_SEEN);
        n = n == -2 ? KEYS_SEEN : n;
    }
    for (int i = 0; i < n; i++) {
        trace_key(q->p + keys[i].off, keys[i].len, slotmap_slot(q->p + keys[i].off, keys[i].len));
    }
}
