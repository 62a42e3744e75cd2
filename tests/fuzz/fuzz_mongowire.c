/* fuzz_mongowire.c - any bytes as MongoDB messages: whole and cut in pieces they must be walked alike, and what is whole
 * can be edited and read.
 *
 *   byte 0: odd requests, even replies; its other bits choose the cuts and what is dropped
 *   the rest: the stream --whole----> struct wire --.
 *                        --in pieces--> struct wire --+-- the same, else abort
 *             each whole message --mongomsg_edit()--> a message without those fields, which is whole too
 *                                --bson_next()------> its elements, and theirs
 *
 * Each piece is copied to memory of its size, so that a sanitizer sees a read beyond it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mongomsg.h"

#define HOLDS(cond) ((cond) ? (void)0 : broken(#cond, __LINE__))
#define DEPTH 20 /* of documents that are entered */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void broken(const char *cond, int line)
{
    fprintf(stderr, "fuzz_mongowire.c:%d: does not hold: %s\n", line, cond);
    abort();
}

static void *copy(const uint8_t *p, size_t n)
{
    void *to = malloc(n > 0 ? n : 1);

    HOLDS(to != NULL);
    return n > 0 ? memcpy(to, p, n) : to;
}

/* How long the next piece is: whole streams have seed 0, else 1 to 16 bytes. */
static size_t piece(uint32_t *seed, size_t left)
{
    size_t n;

    if (*seed == 0)
        return left;
    *seed = *seed * 1664525 + 1013904223;
    n = (*seed >> 24) % 16 + 1;
    *seed |= 1;
    return n < left ? n : left;
}

static struct wire walk(const uint8_t *p, size_t n, bool reply, uint32_t seed, enum wire_status *status)
{
    struct wire w;
    size_t at = 0;

    memset(&w, 0xA5, sizeof w);
    wire_start(&w, reply);
    *status = WIRE_MORE;
    while (at < n && *status == WIRE_MORE) {
        size_t give = piece(&seed, n - at), took;
        unsigned char *bytes = copy(p + at, give);

        took = wire_feed(&w, bytes, give, status);
        free(bytes);
        at += took;
        HOLDS(took <= give && w.used == at);
        HOLDS(*status != WIRE_MORE || took == give);
        HOLDS((*status == WIRE_BAD) == (w.error != WIRE_BAD_NONE));
    }
    HOLDS(*status != WIRE_WHOLE || (w.used == w.header.length && w.known));
    return w;
}

/* All that a caller can see is the same. */
static void same(const struct wire *a, const struct wire *b)
{
    int i;

    HOLDS(memcmp(&a->header, &b->header, sizeof a->header) == 0 && a->flags == b->flags);
    HOLDS(a->fields == b->fields && a->error == b->error && a->known == b->known && a->hello == b->hello && a->admin == b->admin);
    HOLDS(strcmp(a->command, b->command) == 0 && strcmp(a->db, b->db) == 0);
    for (i = 0; i < WIRE_NUMBERS; i++)
        HOLDS(!wire_has(a, (enum wire_field)i) || a->number[i] == b->number[i]);
    HOLDS(!wire_has(a, WIRE_LSID) || memcmp(a->lsid, b->lsid, sizeof a->lsid) == 0);
    HOLDS(!wire_has(a, WIRE_TOPOLOGY_PROCESS) || memcmp(a->process_id, b->process_id, sizeof a->process_id) == 0);
}

/* Reads all elements of a document and of those in it, without recursion. */
static size_t read_all(struct bson_reader r)
{
    struct bson_reader open[DEPTH];
    struct bson_element e;
    size_t depth = 0, count = 0, len;
    int64_t number;

    open[0] = r;
    for (;;) {
        if (!bson_next(&open[depth], &e)) {
            if (depth-- == 0)
                return count;
            continue;
        }
        count++;
        HOLDS(e.value + e.len <= open[depth].end && strlen(e.name) == e.name_len);
        bson_number(&e, &number);
        HOLDS(bson_text(&e, &len) == NULL || len + 5 == e.len);
        if (depth + 1 < DEPTH && !bson_enter(&e).bad)
            open[++depth] = bson_enter(&e);
    }
}

static void edit(const uint8_t *p, const struct wire *w, unsigned what)
{
    static const char *const drops[][3] = {{NULL}, {"compression", "loadBalanced", NULL}, {"lsid", "$db", NULL}, {"ok", "cursor", NULL}};
    unsigned char add[16], *msg = copy(p, w->used), *out = malloc(w->used + sizeof add), *small;
    const bool reply = w->header.opcode == WIRE_OP_REPLY;
    struct bson_reader from = mongomsg_document(msg, w->used), to;
    enum wire_error error;
    enum wire_status status;
    struct wire edited;
    struct bson b;
    size_t len, before, after;

    HOLDS(out != NULL);
    bson_start(&b, add, sizeof add);
    bson_int32(&b, "added", 1);
    len = mongomsg_edit(msg, w->used, drops[what % 4], add, b.len, out, w->used + sizeof add, &error);
    if (len == 0) {
        /* A checksum is seldom right; the text of a request's field may be wrong in a reply, where it means nothing. */
        HOLDS(error == WIRE_BAD_CHECKSUM ? (w->flags & WIRE_CHECKSUM_PRESENT) != 0 : w->reply && !reply && error != WIRE_BAD_ROOM);
    } else {
        walk(out, len, reply, 0, &status);
        HOLDS(status == WIRE_WHOLE && error == WIRE_BAD_NONE);
        to = mongomsg_document(out, len);
        HOLDS(!from.bad && !to.bad);
        before = read_all(from);
        after = read_all(to);
        HOLDS(what % 4 != 0 || after == before + 1);
        HOLDS(what % 4 == 0 || after <= before + 1);
        edited = walk(out, len, w->reply, 0, &status);
        HOLDS(what % 4 != 1 || (!wire_has(&edited, WIRE_COMPRESSION) && !wire_has(&edited, WIRE_LOAD_BALANCED)));
        small = malloc(len);
        HOLDS(small != NULL);
        HOLDS(mongomsg_edit(msg, w->used, drops[what % 4], add, b.len, small, len - 1, &error) == 0 && error == WIRE_BAD_ROOM);
        HOLDS(mongomsg_edit(msg, w->used, drops[what % 4], add, b.len, small, len, &error) == len);
        free(small);
    }
    free(out);
    free(msg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    enum wire_status status = WIRE_WHOLE, cut_status;
    const uint8_t *p = data + 1;
    size_t n;

    if (len == 0)
        return 0;
    for (n = len - 1; n > 0 && status == WIRE_WHOLE;) {
        struct wire w = walk(p, n, data[0] % 2 == 0, 0, &status);
        struct wire cut = walk(p, n, data[0] % 2 == 0, data[0] + 1U, &cut_status);

        HOLDS(status == cut_status && (status == WIRE_BAD || w.used == cut.used));
        same(&w, &cut);
        if (status == WIRE_WHOLE)
            edit(p, &w, data[0] / 2U);
        p += w.used;
        n -= w.used;
    }
    return 0;
}
