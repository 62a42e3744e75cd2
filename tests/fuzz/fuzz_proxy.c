/* fuzz_proxy.c - any bytes as a PROXY header: whole and cut in pieces they must be read alike.
 *
 *   byte 0: the cuts
 *   the rest --whole------> outcome --.
 *            --in pieces--> outcome --+-- the same, else abort; an address of version 1 is what the system's own parser says
 *
 * Each piece is copied to memory of its size, so that a sanitizer sees a read beyond it.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy.h"

#define HOLDS(cond) ((cond) ? (void)0 : broken(#cond, __LINE__))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void broken(const char *cond, int line)
{
    fprintf(stderr, "fuzz_proxy.c:%d: does not hold: %s\n", line, cond);
    abort();
}

static enum proxy_status feed(struct proxy_header *h, const uint8_t *p, size_t n, size_t most)
{
    enum proxy_status status = PROXY_MORE;
    size_t at = 0;

    memset(h, 0, sizeof *h);
    while (at < n && status == PROXY_MORE) {
        size_t part = n - at < most ? n - at : most;
        uint8_t *copy = malloc(part);
        HOLDS(copy != NULL);
        memcpy(copy, p + at, part);
        size_t used = proxy_read(h, copy, part, &status);
        HOLDS(used > 0 && used <= part && (used == part || status != PROXY_MORE));
        at += used;
        free(copy);
    }
    HOLDS(h->used == at && at <= PROXY_MAX && memcmp(h->bytes, p, at) == 0);
    return status;
}

/* Of version 1: the same addresses by the system's parser, the same ports by printf's. */
static void same_line(const struct proxy_header *h)
{
    char line[PROXY_LINE_MAX + 1], from[48], to[48], again[2 * PROXY_LINE_MAX];
    unsigned char bytes[16];
    bool six = h->family == PROXY_IPV6;

    HOLDS(h->used <= PROXY_LINE_MAX);
    memcpy(line, h->bytes, h->used);
    line[h->used] = '\0';
    HOLDS(sscanf(line, "PROXY %*s %47s %47s", from, to) == 2);
    snprintf(again, sizeof again, "PROXY TCP%d %s %s %u %u\r\n", six ? 6 : 4, from, to, (unsigned)h->from_port, (unsigned)h->to_port);
    HOLDS(strcmp(line, again) == 0);
    HOLDS(inet_pton(six ? AF_INET6 : AF_INET, from, bytes) == 1 && memcmp(bytes, h->from, six ? 16 : 4) == 0);
    HOLDS(inet_pton(six ? AF_INET6 : AF_INET, to, bytes) == 1 && memcmp(bytes, h->to, six ? 16 : 4) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct proxy_header whole, cut;
    enum proxy_status status;

    if (len < 2)
        return 0;
    status = feed(&whole, data + 1, len - 1, len);
    HOLDS(feed(&cut, data + 1, len - 1, 1 + data[0] % 16) == status);
    HOLDS(whole.used == cut.used && whole.family == cut.family && whole.none == cut.none && (whole.error == NULL) == (cut.error == NULL));
    HOLDS(memcmp(whole.from, cut.from, 16) == 0 && memcmp(whole.to, cut.to, 16) == 0);
    HOLDS(whole.from_port == cut.from_port && whole.to_port == cut.to_port);
    HOLDS((status == PROXY_BAD) == (whole.error != NULL));
    HOLDS(status != PROXY_WHOLE || proxy_begins(data + 1, len - 1));
    HOLDS(!whole.none || !proxy_begins(data + 1, len - 1));
    if (status == PROXY_WHOLE && data[1] == 'P' && whole.family != PROXY_NOBODY)
        same_line(&whole);
    return 0;
}
