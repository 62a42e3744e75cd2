/* answer.h - what the admin listener says: the head of an HTTP response, chunks, JSON.
 *
 *   struct answer --answer_head()--> status line and fields; the body stands behind them
 *   struct json over a buffer <--json_object(), json_int() ... json_close(), json_finish()
 *
 * A pure room: no clock, no socket, no memory but the caller's.
 *
 * Sources: RFC 9110, RFC 9112 (responses, chunks), RFC 8259 (JSON), RFC 3629 (UTF-8).
 */
#ifndef PUERTA_ANSWER_H
#define PUERTA_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ------------------------------------------------------------------- head */

#define ANSWER_CHUNK_HEAD 8             /* bytes that answer_chunk() writes */
#define ANSWER_CHUNK_END "\r\n"         /* what stands behind each chunk */
#define ANSWER_LAST_CHUNK "0\r\n\r\n"   /* what ends them */

/* Fields that keep a browser from making more of an answer than it is. */
#define ANSWER_NO_STORE 1u     /* Cache-Control: no-store */
#define ANSWER_NO_SNIFF 2u     /* X-Content-Type-Options: nosniff */
#define ANSWER_NO_FRAME 4u     /* X-Frame-Options: DENY */
#define ANSWER_NO_REFERRER 8u  /* Referrer-Policy: no-referrer */
#define ANSWER_OWN_SITE 16u    /* Cross-Origin-Resource-Policy: same-origin */
#define ANSWER_GUARDS 31u

/* How the end of a body is known: by its length, by its last chunk, or, to HTTP/1.0 alone, by the end of the connection. */
enum answer_body { ANSWER_SIZED, ANSWER_CHUNKED, ANSWER_UNTIL_CLOSE };

struct answer {
    int status;                /* 100 to 999 */
    const char *type;          /* NULL: no Content-Type */
    const char *date;          /* "Sun, 06 Nov 1994 08:49:37 GMT"; NULL: none */
    enum answer_body body;
    uint64_t length;           /* SIZED: also where HEAD leaves the body out */
    bool close;
    unsigned guards;
    const char *const *more;   /* names and values in turn, then NULL; or NULL */
};

/* Writes the head of a response: its length; 0 if it has no room, or a value has a control byte. */
size_t answer_head(const struct answer *a, char *out, size_t cap);

/* Begins a chunk of n bytes (1 to 2^24 - 1): always ANSWER_CHUNK_HEAD bytes, so that its place can be kept before n is known. */
void answer_chunk(char out[ANSWER_CHUNK_HEAD], size_t n);

#define ANSWER_DATE 30
/* A second since 1970, up to the year 9999, as Date has it; gives out. */
const char *answer_date(int64_t second, char out[ANSWER_DATE]);

/* "Not Found"; "Unknown" for a status that is not in the list. */
const char *answer_reason(int status);

/* ------------------------------------------------------------------- JSON */

#define JSON_DEPTH 16 /* objects and arrays open at once */

/* One text under way. What has no room, or no place, makes it `full`, and nothing more is written. A copy made before an element and
 * put back takes the element away again: so a long text can be written in pieces, element by element. */
struct json {
    char *out;
    size_t cap, len;
    bool full;
    uint8_t depth;
    uint32_t objects, begun;   /* a bit for each level: it is an object; it has an element */
};

void json_start(struct json *j, char *out, size_t cap);
/* Goes on in another buffer, or in the same one anew: what was written has been taken. */
void json_go_on(struct json *j, char *out, size_t cap);
/* Each writes one element: with its name in an object, with NULL in an array, and for the outermost one. */
void json_object(struct json *j, const char *name);
void json_array(struct json *j, const char *name);
void json_close(struct json *j);               /* the innermost that is open */
void json_bytes(struct json *j, const char *name, const void *p, size_t n); /* a string; what is not UTF-8 becomes U+FFFD */
void json_text(struct json *j, const char *name, const char *text);         /* the same, up to a NUL */
void json_int(struct json *j, const char *name, int64_t v);
void json_uint(struct json *j, const char *name, uint64_t v);
void json_double(struct json *j, const char *name, double v); /* in 12 digits; null if it is infinite or no number */
void json_bool(struct json *j, const char *name, bool v);
void json_null(struct json *j, const char *name);
/* The length; 0: it had no room, something is open, or there is nothing. */
size_t json_finish(const struct json *j);

#endif
