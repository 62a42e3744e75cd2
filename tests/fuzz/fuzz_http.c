/* fuzz_http.c - any bytes as requests, queries and strings of JSON: whole and cut in pieces they must be read alike.
 *
 *   byte 0: who reads it; its other bits choose the cuts
 *     request  the stream --whole----> outcome --.
 *                         --in pieces--> outcome --+-- the same, else abort; and the next request behind its body
 *     query    names and values, which never grow, and hold no control byte
 *     string   JSON, which holds no control byte, and as many quotes without a backslash as it should
 *
 * Each piece is copied to memory of its size, so that a sanitizer sees a read beyond it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "http.h"

#define HOLDS(cond) ((cond) ? (void)0 : broken(#cond, __LINE__))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void broken(const char *cond, int line)
{
    fprintf(stderr, "fuzz_http.c:%d: does not hold: %s\n", line, cond);
    abort();
}

static char *copy(const void *p, size_t n)
{
    char *to = malloc(n > 0 ? n : 1);

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

static bool inside(struct url_part part, size_t n)
{
    return (size_t)part.off + part.len <= n;
}

static bool has_control(const char *p, size_t n)
{
    while (n-- > 0)
        if ((unsigned char)p[n] < ' ' || p[n] == 127)
            return true;
    return false;
}

/* Reads the request at p; *after is its bytes as they stand then, for the caller to free. */
static struct http_request request(const uint8_t *p, size_t n, uint32_t seed, enum http_status *status, char **after)
{
    struct http_request r;
    char *head = copy(p, 0);
    size_t at = 0;

    memset(&r, 0xA5, sizeof r);
    http_start(&r);
    *status = HTTP_MORE;
    while (at < n && *status == HTTP_MORE) {
        size_t give = piece(&seed, n - at);
        char *longer = malloc(at + give);

        HOLDS(longer != NULL);
        memcpy(longer, head, at);
        memcpy(longer + at, p + at, give);
        free(head);
        head = longer;
        at += give;
        *status = http_read(&r, head, at);
        HOLDS((*status == HTTP_BAD) == (r.error != 0) && (*status != HTTP_MORE || at < HTTP_HEAD_MAX));
        HOLDS(*status != HTTP_WHOLE || (r.head > 0 && r.head <= at && r.head <= HTTP_HEAD_MAX));
    }
    *after = head;
    return r;
}

static void look(const struct http_request *r, const char *head)
{
    size_t i;

    HOLDS(r->path.len > 0 && inside(r->path, r->head) && head[r->path.off] == '/' && !has_control(head + r->path.off, r->path.len));
    HOLDS(inside(r->query, r->head) && inside(r->bearer, r->head) && !has_control(head + r->query.off, r->query.len));
    for (i = 0; i < HTTP_FIELDS; i++) {
        HOLDS(inside(r->field[i], r->head));
        HOLDS(memchr(head + r->field[i].off, '\r', r->field[i].len) == NULL && memchr(head + r->field[i].off, '\0', r->field[i].len) == NULL);
    }
    HOLDS(r->old || r->field[HTTP_HOST].off != 0);
    HOLDS(r->body <= HTTP_BODY_MAX && (r->body == 0 || r->field[HTTP_CONTENT_LENGTH].len > 0));
    HOLDS(r->field[HTTP_TRANSFER_ENCODING].off == 0 && (!r->old || (r->close && !r->expects)));
    HOLDS(!http_bearer_is(r, head, "", 0));
    HOLDS(r->bearer.len == 0 || http_bearer_is(r, head, head + r->bearer.off, r->bearer.len));
    HOLDS(r->field[HTTP_ORIGIN].off != 0 || r->field[HTTP_FETCH_SITE].off != 0 || http_same_site(r, head));
}

static void requests(const uint8_t *p, size_t n, uint32_t seed)
{
    enum http_status status = HTTP_WHOLE, cut_status;

    while (n > 0 && status == HTTP_WHOLE) {
        char *head, *cut_head;
        struct http_request r = request(p, n, 0, &status, &head), cut = request(p, n, seed, &cut_status, &cut_head);
        size_t used = 0;

        HOLDS(status == cut_status && r.error == cut.error);
        if (status == HTTP_WHOLE) {
            HOLDS(memcmp(&r.path, &cut.path, sizeof r.path) == 0 && memcmp(&r.query, &cut.query, sizeof r.query) == 0);
            HOLDS(memcmp(r.field, cut.field, sizeof r.field) == 0 && memcmp(&r.bearer, &cut.bearer, sizeof r.bearer) == 0);
            HOLDS(r.method == cut.method && r.head == cut.head && r.body == cut.body && r.old == cut.old && r.close == cut.close);
            HOLDS(r.expects == cut.expects && memcmp(head, cut_head, r.head) == 0);
            look(&r, head);
            used = r.head + http_body(&r, n - r.head);
            HOLDS(used <= n && (r.body == 0 || used == n));
        }
        free(head);
        free(cut_head);
        p += used;
        n -= used;
    }
}

static void query(const uint8_t *p, size_t n)
{
    char *bytes = copy(p, n);
    struct url_part rest = {0, (uint32_t)n}, name, value;
    uint32_t before = rest.len;
    int got;

    while ((got = url_pair(bytes, &rest, &name, &value)) == 1) {
        HOLDS(inside(name, n) && inside(value, n) && inside(rest, n) && rest.len < before);
        HOLDS((size_t)name.len + value.len <= before - rest.len);
        HOLDS(!has_control(bytes + name.off, name.len) && !has_control(bytes + value.off, value.len));
        before = rest.len;
    }
    HOLDS(got == 0 || got == -1);
    free(bytes);
}

static void string(const uint8_t *p, size_t n)
{
    const size_t cap = 6 * n + 9; /* {"":"..."} and a byte more: six for each at most */
    char *bytes = copy(p, n), *out = malloc(cap);
    struct json j;
    size_t len, i, quotes = 0;

    HOLDS(out != NULL);
    json_start(&j, out, cap);
    json_object(&j, NULL);
    json_bytes(&j, "", bytes, n);
    json_close(&j);
    len = json_finish(&j);
    HOLDS(len >= n / 4 + 7 && len < cap && out[len - 1] == '}' && !has_control(out, len));
    for (i = 0; i < len; i++) {
        quotes += out[i] == '"';
        i += out[i] == '\\';
    }
    HOLDS(quotes == 4);
    json_start(&j, out, len - 1);
    json_object(&j, NULL);
    json_bytes(&j, "", bytes, n);
    json_close(&j);
    HOLDS(j.full && json_finish(&j) == 0 && j.len <= len - 1);
    free(bytes);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len == 0)
        return 0;
    switch (data[0] % 4) {
    case 0: query(data + 1, len - 1); break;
    case 1: string(data + 1, len - 1); break;
    default: requests(data + 1, len - 1, data[0]); break;
    }
    return 0;
}
