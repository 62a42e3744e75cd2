/* resp.h - where a Redis request or reply ends, and where its parts stand, while its bytes come in any pieces.
 *
 *   client's bytes --resp_request()--> RESP_WHOLE + slices of the first arguments --resp_arg()--> all of them
 *   an inline line --resp_inline()---> the same request in multibulk form
 *   node's bytes ----resp_reply()----> RESP_WHOLE + type and length of the value
 *
 * A pure room: no clock, no socket, no memory but the caller's. It keeps no bytes of a value: the caller does,
 * and gives each byte once.
 *
 * Sources: the RESP specification (redis.io, "Redis serialization protocol"), the RESP3 specification, and for
 * the limits and error texts of requests the behaviour of Redis 7.0.
 */
#ifndef PUERTA_RESP_H
#define PUERTA_RESP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define RESP_ARGS_KEPT 4        /* name, subcommand or first key, and two more: enough to route most commands */
#define RESP_BULK_MAX (1U << 30) /* of one bulk; twice Redis's default, and 4 kept slices stay below 2^32 */
#define RESP_COUNT_MAX (1LL << 31) /* declared elements of one aggregate of a reply */
#define RESP_OWED_MAX (1ULL << 40) /* elements outstanding over all levels of a reply */
#define RESP_HEADER_CAP 24      /* type, sign, 19 digits, CRLF */
#define RESP_TEXT_CAP 40        /* a header line, or the error text that names a byte, with its NUL */

/* Room that resp_inline() needs at most for a line of n bytes: in "a b" 2 bytes become 7. */
#define RESP_INLINE_ROOM(n) (4 * (size_t)(n) + 2 * RESP_HEADER_CAP)
#define RESP_UNBALANCED "Protocol error: unbalanced quotes in request"

enum resp_status {
    RESP_MORE,  /* all bytes given were used, and the value is not over */
    RESP_WHOLE, /* the value ended with the last byte used */
    RESP_BAD    /* not RESP: nothing that follows can be read */
};

/* A part of a request; off counts from the request's first byte. */
struct resp_slice {
    uint32_t off, len;
};

struct resp_limits {
    uint32_t max_args;   /* of one request */
    uint32_t max_bulk;   /* bytes of one argument; RESP_BULK_MAX at most */
    uint32_t max_inline; /* bytes of an inline line, and of a header line (there at least RESP_HEADER_CAP) */
    /* NULL, or what the same client may send once it has authenticated: what only that allows has an error of its own */
    const struct resp_limits *authenticated;
};

/* A header line that came in pieces; len counts all its bytes, text holds the first of them. */
struct resp_line {
    uint32_t len;
    bool cr; /* its '\r' has come, the byte behind it has not */
    char text[RESP_TEXT_CAP];
};

/* One request under way. All zero starts one; resp_request_start() does it in less. Not to be copied once it is bad:
 * `error` may point into it. */
struct resp_request {
    uint64_t used;       /* bytes of this request so far */
    uint64_t total;      /* the least length it can have: used, and the rest of the bulk under way with its CRLF */
    uint64_t rest;       /* that rest */
    const char *error;   /* when bad: Redis's own text, without "-ERR " */
    uint32_t argc;       /* declared; 0: an empty request, to be skipped. A line that is not blank: 1 */
    uint32_t args_known; /* arguments whose offset and length are known, though their bytes may not have come */
    bool inlined;        /* a line, to be given to resp_inline() when whole */
    uint8_t step;        /* enum in resp.c */
    struct resp_line line;
    struct resp_slice arg[RESP_ARGS_KEPT]; /* the first args_known of them; none for an inline request */
};

/* One reply under way. All zero starts one; resp_reply_start() does it in less. */
struct resp_reply {
    uint64_t used;     /* bytes of this reply so far, attributes included */
    uint64_t rest;     /* of the bulk under way, with its CRLF */
    uint64_t owed;     /* elements to come behind the one under way */
    int64_t length;    /* declared length or count of the value; -1 nil; 0 for the types that are one line */
    const char *error; /* when bad: what is wrong, for a log line */
    char type;         /* first byte of the value, after any attribute; 0 not known yet */
    bool headed;       /* type and length are known */
    uint8_t step;      /* enum in resp.c */
    struct resp_line line;
};

/* Begin the next request or reply: zero all that has to be zero, which is all before the line's text. */
static inline void resp_request_start(struct resp_request *r)
{
    memset(r, 0, offsetof(struct resp_request, line.text));
}

static inline void resp_reply_start(struct resp_reply *r)
{
    memset(r, 0, offsetof(struct resp_reply, line.text));
}

/* Takes the next n bytes of a client's stream and gives how many of them belong to this request. RESP_WHOLE: argc,
 * inlined, and for multibulk the slices tell what it is. RESP_BAD: `error`. A request that is whole or bad takes no
 * more bytes and gives the same status again. Looks at each byte once, however they are cut.
 * As Redis: a header line ends at '\r' and one byte behind it; any two bytes may stand behind a bulk. Unlike Redis:
 * a wrong type byte is answered when it comes and not when its line ends, and a NUL in an inline request is a byte
 * like others. */
size_t resp_request(struct resp_request *r, const unsigned char *p, size_t n, const struct resp_limits *lim,
                    enum resp_status *status);

/* Turns one whole inline request (with or without its line end) into multibulk form. Gives the length written; 0 for
 * a blank line; -1 when quotes do not match (RESP_UNBALANCED); -2 when cap is too small: what it writes and
 * RESP_HEADER_CAP more are always enough, and so is RESP_INLINE_ROOM(n). Quoting as in Redis: "..." with \n \r \t \b \a
 * \xHH and \ before any other byte; '...' with \'; a closing quote stands before a blank or the end. */
long resp_inline(const unsigned char *line, size_t n, unsigned char *out, size_t cap);

/* Walks the arguments of one whole multibulk request of len bytes that resp_request() found good. *at is 0 for the
 * first call, and is moved past each argument. False: no further argument, or the bytes are not such a request. Reads
 * nothing beyond len. Requests of 4 GiB and more are not walked. */
bool resp_arg(const unsigned char *req, size_t len, uint32_t *at, struct resp_slice *arg);

/* Takes the next n bytes of a node's stream and gives how many of them belong to this reply; the contract of
 * resp_request(). Knows every type of RESP2 and RESP3, nested to any depth. A push is a reply of its own (type '>').
 * Lines end at CRLF, and CRLF must stand behind a bulk: a node that breaks this is out of step. What a line says
 * (number, boolean, double) is not judged, nor how long it is: nothing here is kept, and `used` tells the caller.
 * Streamed strings and aggregates ("$?", "*?") are in RESP3 but sent by no Redis or Valkey server: bad. */
size_t resp_reply(struct resp_reply *r, const unsigned char *p, size_t n, enum resp_status *status);

/* The least length this reply can have, as far as known: what came, and the rest of the bulk under way. */
uint64_t resp_reply_least(const struct resp_reply *r);

/* Writes a header such as "*3\r\n" and gives its length, RESP_HEADER_CAP at most. No NUL. */
size_t resp_put_header(unsigned char *out, char type, int64_t n);

/* Reads exactly n bytes as a decimal as Redis does: no sign but '-', no leading zero, no "-0", within 64 bits. */
bool resp_to_int(const unsigned char *p, size_t n, int64_t *out);

#endif
