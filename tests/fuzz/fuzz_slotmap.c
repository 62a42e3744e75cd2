/* fuzz_slotmap.c - CLUSTER SLOTS replies in pieces, redirections, and the keys of requests, from any bytes.
 *
 *   input = mode byte, piece byte, text
 *   mode 0: the text as a reply, whole and in pieces --> the same outcome, and a map that makes sense
 *   mode 1: the text as a line --> a redirection, or none
 *   mode 2: the text as a stream of requests, each that resp finds whole --> keys inside it
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "slotmap.h"

#define NODE_CAP 8
#define KEYS_CAP 16

#define MUST(cond) ((cond) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* The text in a block of its own size, so that a sanitizer sees a read beyond it. */
static unsigned char *copy_of(const uint8_t *p, size_t n)
{
    unsigned char *copy = malloc(n ? n : 1);

    MUST(copy != NULL);
    if (n > 0)
        memcpy(copy, p, n);
    return copy;
}

static void check_stage(const struct slotmap_stage *s, enum resp_status status)
{
    uint32_t served = 0;
    size_t i;

    MUST(s->node_count <= s->node_cap);
    MUST((status == RESP_BAD) || s->error[0] == '\0');
    for (i = 0; s->error[i] != '\0'; i++)
        MUST(i < sizeof s->error - 1 && s->error[i] >= ' ' && s->error[i] <= '~');
    for (i = 0; i < s->node_count; i++) {
        MUST(s->nodes[i].port != 0 && s->nodes[i].master < s->node_count);
        MUST(memchr(s->nodes[i].host, '\0', sizeof s->nodes[i].host) != NULL);
    }
    for (i = 0; i < SLOTMAP_SLOTS; i++) {
        if (s->owner[i] == SLOTMAP_NONE)
            continue;
        served++;
        MUST(s->owner[i] < s->node_count && s->nodes[s->owner[i]].master == s->owner[i]);
    }
    MUST(status != RESP_WHOLE || served == s->served);
}

/* Feeds in pieces of 1 to `most` bytes; gives how many bytes were taken. */
static size_t feed(struct slotmap_stage *s, struct slotmap_node *nodes, const uint8_t *p, size_t n, size_t most,
                   enum resp_status *status)
{
    size_t at = 0, used, piece, turn = 0;
    unsigned char *copy;

    slotmap_stage_begin(s, nodes, NODE_CAP);
    *status = RESP_MORE;
    while (at < n && *status == RESP_MORE) {
        piece = 1 + turn++ * 7 % most;
        piece = piece < n - at ? piece : n - at;
        copy = copy_of(p + at, piece);
        *status = slotmap_stage_feed(s, copy, piece, &used);
        free(copy);
        MUST(used <= piece && (*status != RESP_MORE || used == piece));
        at += used;
    }
    check_stage(s, *status);
    return at;
}

static void fuzz_reply(const uint8_t *p, size_t n, size_t most)
{
    static struct slotmap_stage one, two;
    static struct slotmap_node nodes_one[NODE_CAP], nodes_two[NODE_CAP];
    enum resp_status status_one, status_two;
    size_t used_one = feed(&one, nodes_one, p, n, n + 1, &status_one);
    size_t used_two = feed(&two, nodes_two, p, n, most, &status_two);

    MUST(status_one == status_two && strcmp(one.error, two.error) == 0 && one.server_error == two.server_error);
    MUST(status_one == RESP_BAD || used_one == used_two);
    MUST(one.served == two.served && one.node_count == two.node_count);
    MUST(memcmp(one.owner, two.owner, sizeof one.owner) == 0);
}

static void fuzz_redirect(const uint8_t *p, size_t n)
{
    struct slotmap_redirect r;
    unsigned char *line = copy_of(p, n);

    if (slotmap_redirect(line, n, &r)) {
        MUST(r.slot < SLOTMAP_SLOTS && r.port != 0 && memchr(r.host, '\0', sizeof r.host) != NULL);
        MUST(line[n - 1] == '\n' && line[n - 2] == '\r');
    }
    MUST(slotmap_slot(line, n) < SLOTMAP_SLOTS);
    free(line);
}

static void fuzz_keys(const unsigned char *req, size_t n, uint32_t argc)
{
    struct resp_slice keys[KEYS_CAP], name = {0, 0}, arg = {0, 0};
    const struct command *c, *sub;
    uint32_t at = 0, cap;
    int found, i;

    MUST(resp_arg(req, n, &at, &name));
    c = command_find(req + name.off, name.len);
    if (c == NULL)
        return;
    if (resp_arg(req, n, &at, &arg) && (sub = command_sub(c, req + arg.off, arg.len)) != NULL)
        c = sub;
    for (cap = 0; cap <= KEYS_CAP; cap += KEYS_CAP / 2) {
        found = command_keys(c, req, n, argc, keys, cap);
        MUST(found >= -2 && found <= (int)cap);
        for (i = 0; i < found; i++)
            MUST(keys[i].off > name.off && keys[i].off <= n && keys[i].len <= n - keys[i].off);
    }
}

static void fuzz_requests(const uint8_t *p, size_t n)
{
    static const struct resp_limits limits = {1000, 1000, 100, NULL};
    struct resp_request r;
    enum resp_status status = RESP_WHOLE;
    unsigned char *req;
    size_t used;

    while (n > 0 && status == RESP_WHOLE) {
        memset(&r, 0, sizeof r);
        used = resp_request(&r, p, n, &limits, &status);
        if (status == RESP_WHOLE && !r.inlined && r.argc > 0) {
            req = copy_of(p, used);
            fuzz_keys(req, used, r.argc);
            free(req);
        }
        p += used;
        n -= used;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static bool ready;

    if (!ready) {
        command_init();
        MUST(command_declare("mod.a", KEYS_COUNT_AT_2, CMD_WRITE) == 0);
        MUST(command_declare("mod.b", KEYS_ALL_BUT_LAST, CMD_READONLY) == 0);
        ready = true;
    }
    if (len < 2)
        return 0;
    if (data[0] % 3 == 0)
        fuzz_reply(data + 2, len - 2, data[1] + 1u);
    else if (data[0] % 3 == 1)
        fuzz_redirect(data + 2, len - 2);
    else
        fuzz_requests(data + 2, len - 2);
    return 0;
}
