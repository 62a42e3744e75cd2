/* proxy.h - the header of the PROXY protocol with which a load balancer tells whose connection it passes on.
 *
 *   bytes of a connection --proxy_read()--> PROXY_WHOLE: where it comes from, where it went
 *                                      `--> PROXY_BAD: this connection cannot be read any further
 *
 * A pure room: no clock, no socket, no memory but the caller's. It takes no byte behind the header. Both versions, strictly: one way to
 * write each number, each line ended by CR LF, no address cut short, no checksum that is wrong.
 *
 * Source: "The PROXY protocol, versions 1 & 2" (haproxy.org, proxy-protocol.txt); for CRC32C RFC 4960, appendix B.
 */
#ifndef PUERTA_PROXY_H
#define PUERTA_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROXY_LINE_MAX 107 /* bytes of a header of version 1, with its CR LF */
#define PROXY_MAX 536      /* of version 2: the smallest segment that every network carries whole */

enum proxy_status {
    PROXY_MORE,  /* all bytes given were used, and the header is not over */
    PROXY_WHOLE, /* it ended with the last byte used */
    PROXY_BAD    /* `error` says why */
};

enum proxy_family {
    PROXY_NOBODY, /* it names nobody (LOCAL, UNKNOWN, UNSPEC): who has sent it speaks for itself */
    PROXY_IPV4, PROXY_IPV6,
    PROXY_UNIX    /* a unix socket of the sender's machine; its path is not kept */
};

/* All zero starts one. */
struct proxy_header {
    enum proxy_family family;
    unsigned char from[16], to[16]; /* in the order of the network; of IPv4 the first 4 bytes */
    uint16_t from_port, to_port;
    const char *error;
    bool none;                      /* bad, since no header begins like this */
    uint16_t used;                  /* bytes of it so far */
    unsigned char bytes[PROXY_MAX];
};

/* Takes the next n bytes of a stream and gives how many of them belong to the header. One that is whole or bad takes no more. */
size_t proxy_read(struct proxy_header *h, const unsigned char *p, size_t n, enum proxy_status *status);

/* Whether the n bytes with which a stream begins can be nothing but a header. False also when they are too few to tell. */
bool proxy_begins(const unsigned char *p, size_t n);

#endif
