/* bson.h - BSON documents that lie in memory, read in place, and small ones written into a buffer.
 *
 *   bytes --bson_read()--> reader --bson_next(), bson_find()--> elements, which point into the bytes
 *   struct bson over a buffer <--bson_document(), bson_int32() ... bson_close()
 *
 * A pure room: no clock, no socket, no memory but the caller's. Follows BSON 1.1 (bsonspec.org): little-endian, every
 * document and array begins with its length and ends with a NUL.
 */
#ifndef PUERTA_BSON_H
#define PUERTA_BSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BSON_MAX 48000000U /* bytes of anything here: the longest MongoDB message */
#define BSON_DEPTH 8       /* names of a path, and documents and arrays open at once in what is written */

enum bson_type {
    BSON_DOUBLE = 0x01, BSON_STRING = 0x02, BSON_DOCUMENT = 0x03, BSON_ARRAY = 0x04, BSON_BINARY = 0x05,
    BSON_UNDEFINED = 0x06, BSON_OBJECT_ID = 0x07, BSON_BOOL = 0x08, BSON_DATE = 0x09, BSON_NULL = 0x0A,
    BSON_REGEX = 0x0B, BSON_DB_POINTER = 0x0C, BSON_CODE = 0x0D, BSON_SYMBOL = 0x0E, BSON_SCOPED_CODE = 0x0F,
    BSON_INT32 = 0x10, BSON_TIMESTAMP = 0x11, BSON_INT64 = 0x12, BSON_DECIMAL = 0x13, BSON_MAX_KEY = 0x7F,
    BSON_MIN_KEY = 0xFF
};

/* ------------------------------------------------------------------ values */

/* Little-endian integers at p. */
static inline uint32_t bson_get32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void bson_put32(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)v;
    p[1] = (unsigned char)(v >> 8);
    p[2] = (unsigned char)(v >> 16);
    p[3] = (unsigned char)(v >> 24);
}

/* The two's complement, without a cast whose result is up to the compiler. */
static inline int32_t bson_signed32(uint32_t v)
{
    return v <= INT32_MAX ? (int32_t)v : -(int32_t)~v - 1;
}

static inline int64_t bson_signed64(uint64_t v)
{
    return v <= INT64_MAX ? (int64_t)v : -(int64_t)~v - 1;
}

/* How long the values of a type are. SIZED: an int32 comes first, `least` at least, and that number plus `extra` bytes
 * follow it. TEXTS: two NUL-terminated texts. NONE: there is no such type. */
enum bson_form { BSON_FORM_NONE, BSON_FORM_FIXED, BSON_FORM_SIZED, BSON_FORM_TEXTS };

struct bson_layout {
    uint8_t form, fixed;
    int8_t extra;
    uint8_t least;
};

const struct bson_layout *bson_layout(uint8_t type);

/* A double, an int32, an int64 or a boolean of which all bytes stand at p; false for any other type. A double loses its
 * fraction; one beyond 64 bits counts as 0. */
bool bson_value(uint8_t type, const unsigned char *p, int64_t *value);

/* ----------------------------------------------------------------- reading */

/* Walks the elements of one document or array that lies in memory. */
struct bson_reader {
    const unsigned char *at, *end; /* end: its last byte, the NUL */
    bool bad;                      /* it is no BSON */
};

/* Points into the reader's bytes. */
struct bson_element {
    uint8_t type;
    const char *name;           /* NUL-terminated */
    size_t name_len;
    const unsigned char *start; /* the type byte */
    const unsigned char *value; /* as on the wire, lengths included */
    size_t len;                 /* bytes of value */
};

/* Begins a document (or array) that takes its own length, at most n bytes; a wrong length gives a bad reader. */
struct bson_reader bson_read(const unsigned char *doc, size_t n);

/* The next element; false at the end, or when the rest is no BSON (`bad`). Values are bounded, not judged. */
bool bson_next(struct bson_reader *r, struct bson_element *e);

/* The first element of that name, a dotted path for documents in documents ("client.application.name", "cursors.0").
 * The reader is not moved. False if there is none, or the bytes before it are no BSON. At most BSON_DEPTH names. */
bool bson_find(const struct bson_reader *r, const char *path, struct bson_element *e);

/* The document or array that is the element's value; a bad reader for any other type. */
struct bson_reader bson_enter(const struct bson_element *e);

/* bson_value() of the element. */
bool bson_number(const struct bson_element *e, int64_t *value);

/* The bytes of a string without its NUL, which is there; NULL for any other type or a string that has no NUL. */
const char *bson_text(const struct bson_element *e, size_t *len);

/* ----------------------------------------------------------------- writing */

/* Writes elements into the caller's buffer. Once something has no room, or is closed that was not opened, nothing more
 * is written and `overflow` stays. All names are NUL-terminated; within an array the name is ignored (NULL will do),
 * and the index is written. */
struct bson {
    unsigned char *out;
    size_t cap, len;
    bool overflow;
    uint8_t depth;
    uint32_t open[BSON_DEPTH];  /* where the length of each open document stands */
    int32_t index[BSON_DEPTH];  /* of the next element of an array; -1 for a document */
};

void bson_start(struct bson *b, void *out, size_t cap);
/* Open a document or array; the outermost document has the name NULL. bson_close() ends the one opened last. */
void bson_document(struct bson *b, const char *name);
void bson_array(struct bson *b, const char *name);
void bson_close(struct bson *b);
void bson_int32(struct bson *b, const char *name, int32_t v);
void bson_int64(struct bson *b, const char *name, int64_t v);
void bson_double(struct bson *b, const char *name, double v);
void bson_bool(struct bson *b, const char *name, bool v);
void bson_date(struct bson *b, const char *name, int64_t unix_ms); /* UTC */
void bson_string(struct bson *b, const char *name, const char *text);
void bson_string_n(struct bson *b, const char *name, const char *text, size_t n); /* may hold NULs; should be UTF-8 */
void bson_object_id(struct bson *b, const char *name, const unsigned char id[12]);
void bson_binary(struct bson *b, const char *name, uint8_t subtype, const void *bytes, size_t n);
/* The same value as e under that name. */
void bson_copy(struct bson *b, const char *name, const struct bson_element *e);

/* Elements and other bytes that are already in their form. */
void bson_bytes(struct bson *b, const void *bytes, size_t n);

#endif
