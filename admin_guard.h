/* admin_guard.h - who may ask the listener of operators: how often, by which name, from whose page, with whose token.
 *
 *   admin.c  a request's head --guard_counts()--> --guard_site()--> its path --guard_token()--> it is answered
 *                                    `-------------------`-----------------------`--> a refusal: status, text, counter
 *
 * Sees an address, a head and the configuration; no connection, and no clock of its own. It keeps how much each address has asked of
 * late, and tells guesses.c of wrong tokens.
 *
 * Sources: RFC 9110 (Host), RFC 6750 (Bearer), the Fetch standard (Origin, Sec-Fetch-Site).
 */
#ifndef PUERTA_ADMIN_GUARD_H
#define PUERTA_ADMIN_GUARD_H

#include "http.h"
#include "puerta.h"

#define GUARD_RATE 10000        /* requests a second from one address */
#define GUARD_REFUSED_COST 20   /* one that is refused counts as so many */

struct guard_refusal {
    uint64_t *counter;          /* in stats */
    int status;
    const char *text;
};

/* Counts so many requests of that address, for a unix socket of all of them together; now_ms is loop_ms(). False: it has had all of
 * this second. */
bool guard_counts(const struct address *peer, uint32_t cost, uint64_t now_ms);

/* NULL: Host is one of ours, and no page of another site has sent it. The request is whole, head the bytes that it was read from. */
const struct guard_refusal *guard_site(const struct conf *conf, const struct address *peer, const struct http_request *r, const char *head);

/* NULL: it bears the token, or needs none; `changes`: it is to do something, and not only to look. A *wait_ms above 0: too many have
 * guessed there, and it is to be asked about again so much later, as one that has `waited`. */
const struct guard_refusal *guard_token(const struct conf *conf, const struct address *peer, const struct http_request *r, const char *head,
                                        bool changes, bool waited, uint64_t now_ms, uint32_t *wait_ms);

#endif
