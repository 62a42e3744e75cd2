/* http.h - one HTTP/1.1 request in. What is answered is written with answer.h.
 *
 *   bytes of a connection, kept by the caller from the request's first byte on
 *     --http_read()--> HTTP_WHOLE: method, path, query, fields; url_pair(): names and values of the query
 *     --http_body()--> how many of the bytes behind the head are the request's; then http_start() for the next one
 *
 * A pure room: no clock, no socket, no memory but the caller's. What it gives are parts of the caller's bytes, which it counts
 * from the request's first one.
 *
 * Strict where servers have been led astray by reading leniently: lines end with CR LF and nothing else, a field that
 * counts comes once, no field goes on in the next line, and there is no Transfer-Encoding. After an error the
 * connection cannot be read any further: it is to be closed behind the answer.
 *
 * Sources: RFC 9110 (what requests and fields mean), RFC 9112 (how they are written), RFC 6750 (Bearer), RFC 3986 (URIs).
 */
#ifndef PUERTA_HTTP_H
#define PUERTA_HTTP_H

#include "url.h"

#include <stddef.h>

#define HTTP_HEAD_MAX 8192  /* bytes of a request line and all fields, the empty line counted */
#define HTTP_BODY_MAX 65536 /* bytes of a request's body */
#define HTTP_CONTINUE "HTTP/1.1 100 Continue\r\n\r\n" /* to a client that expects it */

enum http_status {
    HTTP_MORE,  /* the head is not over */
    HTTP_WHOLE, /* it is, and good */
    HTTP_BAD    /* answer with http_request.error, and close */
};

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST };

/* The fields that are kept. Each may come once. One that has not come has off 0. */
enum http_field {
    HTTP_HOST, HTTP_ORIGIN, HTTP_FETCH_SITE, HTTP_AUTHORIZATION, HTTP_CONTENT_TYPE, HTTP_CONTENT_LENGTH, HTTP_TRANSFER_ENCODING,
    HTTP_EXPECT, HTTP_FIELDS
};

struct http_request {
    uint16_t error;            /* HTTP_BAD: the status to answer with; else 0. All that follows: once it is whole */
    enum http_method method;
    struct url_part path;    /* decoded: it begins with '/' and has no control byte */
    struct url_part query;   /* what stands behind the '?', as it came: for url_pair() */
    struct url_part bearer;  /* the token of Authorization: Bearer; empty: none */
    struct url_part field[HTTP_FIELDS];
    uint32_t head;             /* bytes of the head: the body stands behind them */
    uint32_t body;             /* bytes of the body that have not been taken by http_body() */
    bool old;                  /* HTTP/1.0: knows no chunks */
    bool close;                /* no request may follow: HTTP/1.0, or Connection: close */
    bool expects;              /* waits for HTTP_CONTINUE before it sends the body */

    /* Private: where the line under way begins, what has been looked at, the host within the request line. */
    uint32_t line, seen;
    struct url_part authority;
    bool begun;
};

/* Begins a request. */
void http_start(struct http_request *r);

/* head[0..n) is all that has come since the request's first byte: the same bytes as before with more behind them, at any place in
 * memory. Looks at each byte a bounded number of times, and at none behind the head. Decodes the path in place. The verdict does not
 * depend on how the bytes were cut. Errors:
 *   400  not HTTP, or of two minds: see above; no Host, or not the one in the request line
 *   411  Transfer-Encoding: chunked    413  a body longer than HTTP_BODY_MAX    414  a request line longer than HTTP_HEAD_MAX
 *   417  Expect: anything else         431  a head longer than that             501  another method, or Transfer-Encoding
 *   505  not HTTP/1 */
enum http_status http_read(struct http_request *r, char *head, size_t n);

/* Of n bytes behind the head (or behind those taken before), how many are the body's; takes them. r->body 0: it is over, and what
 * follows is the next request. */
size_t http_body(struct http_request *r, size_t n);

/* Whether a part is this text, byte by byte. */
bool http_is(const char *head, struct url_part part, const char *text);

/* Whether the bearer token is this one. The time that it takes tells only how long the one given is. An empty token is nobody's. */
bool http_bearer_is(const struct http_request *r, const char *head, const void *token, size_t n);

/* Whether no page of another site has sent it, as far as a browser says: no Origin, or that of Host; and Sec-Fetch-Site, which older
 * ones leave out, is same-origin or none. The caller looks whether Host is one of ours: whoever owns a name can let it lead here. */
bool http_same_site(const struct http_request *r, const char *head);

#endif
