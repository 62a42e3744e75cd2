/*
 * admin_guard.c - who may ask the listener of operators, and who is told why not.
 *
 *   peer  --source_of()-----> sources[]: requests that it may still ask, refilled by the millisecond
 *   Host  --is_our_host()---> an address, localhost, or a name of admin_hosts
 *   token --guard_token()---> in constant time (http.c), and slower behind wrong ones (guesses.c)
 *
 * Owns the sources.
 */
#include "admin_guard.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define SOURCES 64 /* addresses whose requests are counted; who has asked nothing longest gives way */

static struct source { uint64_t net, ms; uint32_t left; } sources[SOURCES]; /* left: requests that it may ask at once */

/* ------------------------------------------------------------- how often */

static struct source *source_of(const struct address *peer, uint64_t now_ms)
{
    struct source *s = sources, *end = sources + SOURCES, *oldest = s;
    uint64_t net = 0;
    (void)address_source(peer, &net); /* unix sockets: all the same */
    for (; s < end && (s->net != net || s->ms == 0); s++) {
        oldest = s->ms < oldest->ms ? s : oldest;
    }
    if (s == end) {
        s = oldest;
        *s = (struct source){ .net = net, .ms = now_ms, .left = GUARD_RATE };
    }
    return s;
}

bool guard_counts(const struct address *peer, uint32_t cost, uint64_t now_ms)
{
    struct source *s = source_of(peer, now_ms);
    uint64_t more = (now_ms - s->ms) * GUARD_RATE / 1000;
    bool may;
    s->left = s->left + more > GUARD_RATE ? GUARD_RATE : s->left + (uint32_t)more;
    s->ms = more > 0 ? now_ms : s->ms;
    may = s->left >= cost;
    s->left = may ? s->left - cost : 0;
    return may;
}

/* ---------------------------------------------------------- by which name */

static bool same_word(const char *p, size_t n, const char *word, size_t len)
{
    return n == len && strncasecmp(p, word, n) == 0;
}

/* Whether Host is one of ours: who owns a name can let it lead here, and have his pages ask in the name of whoever looks at them.
 * A number cannot be made to lead elsewhere. No browser leaves Host out, or comes by a unix socket. */
static bool is_our_host(const char *names, const struct address *peer, const char *p, size_t n)
{
    size_t len = n;
    char host[HOST_CAP];
    struct address numeric;
    if (n == 0 || peer->u.sa.sa_family == AF_UNIX) {
        return true;
    }
    while (len > 0 && p[len - 1] >= '0' && p[len - 1] <= '9') {
        len--;
    }
    n = len > 0 && p[len - 1] == ':' && (p[0] != '[' || (len > 1 && p[len - 2] == ']')) ? len - 1 : n; /* without the port */
    if (same_word(p, n, "localhost", 9)) {
        return true;
    }
    for (size_t each; *(names += strspn(names, ", \t")) != '\0'; names += each) {
        each = strcspn(names, ", \t");
        if (same_word(p, n, names, each)) {
            return true;
        }
    }
    if (n > 2 && p[0] == '[' && p[n - 1] == ']') {
        p++;
        n -= 2;
    }
    snprintf(host, sizeof host, "%.*s", (int)n, p);
    return n < sizeof host && address_numeric(host, 1, &numeric);
}

const struct guard_refusal *guard_site(const struct conf *conf, const struct address *peer, const struct http_request *r, const char *head)
{
    static const struct guard_refusal
        wrong_host = { &stats.admin_wrong_host, 421, "this name is not ours: use an address, localhost, or a name of admin_hosts" },
        cross_site = { &stats.admin_cross_site, 403, "a page of another site has asked for this" };
    const struct url_part host = r->field[HTTP_HOST];
    if (!is_our_host(conf->admin_hosts, peer, head + host.off, host.len)) {
        return &wrong_host;
    }
    return http_same_site(r, head) ? NULL : &cross_site;
}

/* ------------------------------------------------------- with whose token */

/* There is no token: who is near may look. */
static const struct guard_refusal *without_token(const struct address *peer, bool changes)
{
    static const struct guard_refusal
        no_change = { &stats.admin_unauthorized, 403, "nothing can be changed here: no token is set (admin_token_file)" },
        not_near = { &stats.admin_unauthorized, 403, "without a token only this machine may look (admin_token_file)" };
    return changes ? &no_change : guesses_near(peer) ? NULL : &not_near;
}

const struct guard_refusal *guard_token(const struct conf *conf, const struct address *peer, const struct http_request *r, const char *head,
                                        bool changes, bool waited, uint64_t now_ms, uint32_t *wait_ms)
{
    static const struct guard_refusal
        no_token = { &stats.admin_unauthorized, 401, "a token is needed: Authorization: Bearer TOKEN" },
        wrong_token = { &stats.admin_unauthorized, 401, "this is not the token" };
    const char *token = conf->admin_token;
    *wait_ms = 0;
    if (token[0] == '\0') {
        return without_token(peer, changes);
    }
    if (r->bearer.len == 0) {
        return &no_token;
    }
    *wait_ms = waited ? 0 : guesses_wait_ms(guesses_of(peer, now_ms));
    if (*wait_ms > 0 || http_bearer_is(r, head, token, strlen(token))) {
        return NULL;
    }
    guesses_add(peer, now_ms);
    return &wrong_token;
}
