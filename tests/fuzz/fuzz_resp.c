/* fuzz_resp.c - any bytes as requests or as replies: whole and cut in pieces they must be framed alike.
 *
 *   byte 0: odd ('Q') requests, even ('R') replies; its other bits choose the cuts
 *   the rest: the stream --whole----> outcome --.
 *                        --in pieces--> outcome --+-- the same, else abort
 *
 * A request that is whole is also walked with resp_arg(), and an inline one is turned into multibulk form, which has
 * to be good. Each piece is copied to memory of its size, so that a sanitizer sees a read beyond it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp.h"

#define HOLDS(cond) ((cond) ? (void)0 : broken(#cond, __LINE__))
#define LINE_MAX_BYTES 64 /* so that short inputs reach the limit */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const struct resp_limits limits = {1000, 4096, LINE_MAX_BYTES, NULL};

static void broken(const char *cond, int line)
{
    fprintf(stderr, "fuzz_resp.c:%d: does not hold: %s\n", line, cond);
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

static struct resp_request request_in_pieces(const uint8_t *p, size_t n, uint32_t seed, enum resp_status *status)
{
    struct resp_request r;
    size_t at = 0;

    memset(&r, 0xA5, sizeof r);
    resp_request_start(&r);
    *status = RESP_MORE;
    while (at < n && *status == RESP_MORE) {
        size_t give = piece(&seed, n - at), took;
        unsigned char *bytes = copy(p + at, give);

        took = resp_request(&r, bytes, give, &limits, status);
        free(bytes);
        at += took;
        HOLDS(took <= give && r.used == at && r.total >= r.used);
        HOLDS(*status != RESP_MORE || took == give);
        HOLDS((*status == RESP_BAD) == (r.error != NULL));
    }
    return r;
}

static void walk(const uint8_t *p, const struct resp_request *r)
{
    unsigned char *bytes = copy(p, (size_t)r->used);
    struct resp_slice arg;
    uint32_t at = 0, count = 0;

    for (; resp_arg(bytes, (size_t)r->used, &at, &arg); count++) {
        HOLDS((uint64_t)arg.off + arg.len + 2 <= r->used);
        if (count < RESP_ARGS_KEPT)
            HOLDS(arg.off == r->arg[count].off && arg.len == r->arg[count].len);
    }
    HOLDS(count == r->argc && (count == 0 || at == r->used));
    free(bytes);
}

static void convert(const uint8_t *p, const struct resp_request *line)
{
    unsigned char *bytes = copy(p, (size_t)line->used);
    const size_t room = RESP_INLINE_ROOM(line->used);
    unsigned char *out = malloc(room);
    const struct resp_limits wide = {LINE_MAX_BYTES, LINE_MAX_BYTES, LINE_MAX_BYTES, NULL};
    struct resp_request r = {0};
    enum resp_status status;
    long len;

    HOLDS(out != NULL);
    len = resp_inline(bytes, (size_t)line->used, out, room);
    HOLDS(len >= -1 && (len == 0) == (line->argc == 0));
    if (len > 0) {
        HOLDS(resp_request(&r, out, (size_t)len, &wide, &status) == (size_t)len);
        HOLDS(status == RESP_WHOLE && !r.inlined && r.argc > 0);
        walk(out, &r);
    }
    free(out);
    free(bytes);
}

static void requests(const uint8_t *p, size_t n, uint32_t seed)
{
    enum resp_status status = RESP_WHOLE, cut_status;

    while (n > 0 && status == RESP_WHOLE) {
        struct resp_request r = request_in_pieces(p, n, 0, &status);
        struct resp_request cut = request_in_pieces(p, n, seed, &cut_status);
        uint32_t i;

        HOLDS(status == cut_status && r.used == cut.used && r.total == cut.total && r.inlined == cut.inlined);
        HOLDS(r.argc == cut.argc && r.args_known == cut.args_known);
        for (i = 0; i < r.args_known && i < RESP_ARGS_KEPT; i++)
            HOLDS(r.arg[i].off == cut.arg[i].off && r.arg[i].len == cut.arg[i].len);
        if (status == RESP_WHOLE && r.inlined)
            convert(p, &r);
        else if (status == RESP_WHOLE)
            walk(p, &r);
        p += r.used;
        n -= (size_t)r.used;
    }
}

static struct resp_reply reply_in_pieces(const uint8_t *p, size_t n, uint32_t seed, enum resp_status *status)
{
    struct resp_reply r;
    size_t at = 0;

    memset(&r, 0xA5, sizeof r);
    resp_reply_start(&r);
    *status = RESP_MORE;
    while (at < n && *status == RESP_MORE) {
        size_t give = piece(&seed, n - at), took;
        unsigned char *bytes = copy(p + at, give);

        took = resp_reply(&r, bytes, give, status);
        free(bytes);
        at += took;
        HOLDS(took <= give && r.used == at && resp_reply_least(&r) >= r.used);
        HOLDS(*status != RESP_MORE || took == give);
        HOLDS(*status != RESP_WHOLE || (r.headed && resp_reply_least(&r) == r.used));
        HOLDS((*status == RESP_BAD) == (r.error != NULL));
    }
    return r;
}

static void replies(const uint8_t *p, size_t n, uint32_t seed)
{
    enum resp_status status = RESP_WHOLE, cut_status;

    while (n > 0 && status == RESP_WHOLE) {
        struct resp_reply r = reply_in_pieces(p, n, 0, &status);
        struct resp_reply cut = reply_in_pieces(p, n, seed, &cut_status);

        HOLDS(status == cut_status && r.used == cut.used && r.type == cut.type && r.headed == cut.headed);
        HOLDS(r.length == cut.length && r.owed == cut.owed && resp_reply_least(&r) == resp_reply_least(&cut));
        HOLDS(r.error == cut.error);
        p += r.used;
        n -= (size_t)r.used;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len == 0)
        return 0;
    if (data[0] & 1)
        requests(data + 1, len - 1, data[0]);
    else
        replies(data + 1, len - 1, data[0] + 1U);
    return 0;
}
