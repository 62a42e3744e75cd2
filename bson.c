/* bson.c - reads and writes BSON.
 *
 *   document   length | type name value | type name value | ... | 0
 *   reader            at ->                                     end
 *   writer     open[depth] ----------------------------> len, and put right when it is closed
 *
 * A value is never judged by what is in it, only bounded: how long it is follows from its type and its first bytes.
 */
#include "bson.h"

#include <string.h>

/* ------------------------------------------------------------------ values */

static uint64_t get64(const unsigned char *p)
{
    return (uint64_t)bson_get32(p) | (uint64_t)bson_get32(p + 4) << 32;
}

static int64_t whole_number(uint64_t bits)
{
    double d;

    memcpy(&d, &bits, sizeof d);
    return d >= -9223372036854775808.0 && d < 9223372036854775808.0 ? (int64_t)d : 0;
}

static const struct bson_layout layouts[] = {
    [BSON_DOUBLE] = {BSON_FORM_FIXED, 8, 0, 0},     [BSON_STRING] = {BSON_FORM_SIZED, 0, 0, 1},
    [BSON_DOCUMENT] = {BSON_FORM_SIZED, 0, -4, 5},  [BSON_ARRAY] = {BSON_FORM_SIZED, 0, -4, 5},
    [BSON_BINARY] = {BSON_FORM_SIZED, 0, 1, 0},     [BSON_UNDEFINED] = {BSON_FORM_FIXED, 0, 0, 0},
    [BSON_OBJECT_ID] = {BSON_FORM_FIXED, 12, 0, 0}, [BSON_BOOL] = {BSON_FORM_FIXED, 1, 0, 0},
    [BSON_DATE] = {BSON_FORM_FIXED, 8, 0, 0},       [BSON_NULL] = {BSON_FORM_FIXED, 0, 0, 0},
    [BSON_REGEX] = {BSON_FORM_TEXTS, 0, 0, 0},      [BSON_DB_POINTER] = {BSON_FORM_SIZED, 0, 12, 1},
    [BSON_CODE] = {BSON_FORM_SIZED, 0, 0, 1},       [BSON_SYMBOL] = {BSON_FORM_SIZED, 0, 0, 1},
    [BSON_SCOPED_CODE] = {BSON_FORM_SIZED, 0, -4, 14}, [BSON_INT32] = {BSON_FORM_FIXED, 4, 0, 0},
    [BSON_TIMESTAMP] = {BSON_FORM_FIXED, 8, 0, 0},  [BSON_INT64] = {BSON_FORM_FIXED, 8, 0, 0},
    [BSON_DECIMAL] = {BSON_FORM_FIXED, 16, 0, 0},
};
static const struct bson_layout no_layout, key_layout = {BSON_FORM_FIXED, 0, 0, 0};

const struct bson_layout *bson_layout(uint8_t type)
{
    if (type == BSON_MAX_KEY || type == BSON_MIN_KEY)
        return &key_layout;
    return type < sizeof layouts / sizeof layouts[0] ? &layouts[type] : &no_layout;
}

bool bson_value(uint8_t type, const unsigned char *p, int64_t *value)
{
    switch (type) {
    case BSON_DOUBLE: *value = whole_number(get64(p)); return true;
    case BSON_INT32: *value = bson_signed32(bson_get32(p)); return true;
    case BSON_INT64: *value = bson_signed64(get64(p)); return true;
    case BSON_BOOL: *value = *p != 0; return true;
    default: return false;
    }
}

/* ----------------------------------------------------------------- reading */

static const struct bson_reader bad_reader = {NULL, NULL, true};

struct bson_reader bson_read(const unsigned char *doc, size_t n)
{
    const uint32_t length = n >= 5 ? bson_get32(doc) : 0;
    struct bson_reader r = {NULL, NULL, false};

    if (length < 5 || length > n || doc[length - 1] != 0)
        return bad_reader;
    r.at = doc + 4;
    r.end = doc + length - 1;
    return r;
}

/* The length of a value of which n bytes may be looked at; more than n if it is none. */
static size_t value_size(uint8_t type, const unsigned char *p, size_t n)
{
    const struct bson_layout *layout = bson_layout(type);
    const unsigned char *nul;
    uint32_t length;

    switch (layout->form) {
    case BSON_FORM_FIXED:
        return layout->fixed;
    case BSON_FORM_SIZED:
        length = n >= 4 ? bson_get32(p) : 0;
        if (n < 4 || length < layout->least || length > BSON_MAX)
            return n + 1;
        return length + (size_t)(layout->extra + 4);
    case BSON_FORM_TEXTS:
        nul = n > 0 ? memchr(p, 0, n) : NULL;
        nul = nul != NULL && nul + 1 < p + n ? memchr(nul + 1, 0, (size_t)(p + n - (nul + 1))) : NULL;
        return nul != NULL ? (size_t)(nul + 1 - p) : n + 1;
    default:
        return n + 1;
    }
}

bool bson_next(struct bson_reader *r, struct bson_element *e)
{
    const unsigned char *nul;
    size_t left;

    if (r->bad || r->at == r->end)
        return false;
    e->start = r->at;
    e->type = r->at[0];
    e->name = (const char *)r->at + 1;
    nul = memchr(r->at, 0, (size_t)(r->end - r->at));
    r->bad = true;
    if (nul == NULL || e->type == 0)
        return false;
    e->name_len = (size_t)(nul - r->at) - 1;
    e->value = nul + 1;
    left = (size_t)(r->end - e->value);
    e->len = value_size(e->type, e->value, left);
    if (e->len > left)
        return false;
    r->at = e->value + e->len;
    r->bad = false;
    return true;
}

bool bson_find(const struct bson_reader *r, const char *path, struct bson_element *e)
{
    struct bson_reader walk = *r;
    int names;

    for (names = 0; names < BSON_DEPTH; names++) {
        const size_t len = strcspn(path, ".");

        do {
            if (!bson_next(&walk, e))
                return false;
        } while (e->name_len != len || memcmp(e->name, path, len) != 0);
        if (path[len] == '\0')
            return true;
        path += len + 1;
        walk = bson_enter(e);
    }
    return false;
}

struct bson_reader bson_enter(const struct bson_element *e)
{
    return e->type == BSON_DOCUMENT || e->type == BSON_ARRAY ? bson_read(e->value, e->len) : bad_reader;
}

bool bson_number(const struct bson_element *e, int64_t *value)
{
    return bson_value(e->type, e->value, value);
}

const char *bson_text(const struct bson_element *e, size_t *len)
{
    if (e->type != BSON_STRING || e->value[e->len - 1] != 0)
        return NULL;
    *len = e->len - 5;
    return (const char *)e->value + 4;
}

/* ----------------------------------------------------------------- writing */

void bson_start(struct bson *b, void *out, size_t cap)
{
    memset(b, 0, sizeof *b);
    b->out = out;
    b->cap = cap < BSON_MAX ? cap : BSON_MAX;
}

/* Room for n bytes at the end, which are taken; NULL when there is none. */
static unsigned char *bson_room(struct bson *b, size_t n)
{
    unsigned char *p = b->out + b->len;

    if (b->overflow || n > b->cap - b->len) {
        b->overflow = true;
        return NULL;
    }
    b->len += n;
    return p;
}

void bson_bytes(struct bson *b, const void *bytes, size_t n)
{
    unsigned char *p = bson_room(b, n);

    if (p != NULL && n > 0)
        memcpy(p, bytes, n);
}

static void put32(struct bson *b, uint32_t v)
{
    unsigned char *p = bson_room(b, 4);

    if (p != NULL)
        bson_put32(p, v);
}

static void put64(struct bson *b, uint64_t v)
{
    put32(b, (uint32_t)v);
    put32(b, (uint32_t)(v >> 32));
}

/* Type and name of an element; the index where an array is open. */
static void bson_head(struct bson *b, uint8_t type, const char *name)
{
    int32_t *index = b->depth > 0 ? &b->index[b->depth - 1] : NULL;
    char digits[12];
    size_t at = sizeof digits - 1;
    int32_t i;

    if (index != NULL && *index >= 0) {
        digits[at] = '\0';
        i = (*index)++;
        do
            digits[--at] = (char)('0' + i % 10);
        while ((i /= 10) > 0);
        name = digits + at;
    }
    if (name == NULL)
        b->overflow = true; /* no array is open, or the one that should be had no room */
    if (b->overflow)
        return;
    bson_bytes(b, &type, 1);
    bson_bytes(b, name, strlen(name) + 1);
}

static void bson_open(struct bson *b, uint8_t type, const char *name)
{
    if (name != NULL || b->depth > 0)
        bson_head(b, type, name);
    if (b->depth == BSON_DEPTH)
        b->overflow = true;
    if (b->overflow)
        return;
    b->open[b->depth] = (uint32_t)b->len;
    b->index[b->depth++] = type == BSON_ARRAY ? 0 : -1;
    put32(b, 0);
}

void bson_document(struct bson *b, const char *name)
{
    bson_open(b, BSON_DOCUMENT, name);
}

void bson_array(struct bson *b, const char *name)
{
    bson_open(b, BSON_ARRAY, name);
}

void bson_close(struct bson *b)
{
    uint32_t at;

    bson_bytes(b, "", 1);
    if (b->depth == 0)
        b->overflow = true;
    if (b->overflow)
        return;
    at = b->open[--b->depth];
    bson_put32(b->out + at, (uint32_t)b->len - at);
}

void bson_int32(struct bson *b, const char *name, int32_t v)
{
    bson_head(b, BSON_INT32, name);
    put32(b, (uint32_t)v);
}

void bson_int64(struct bson *b, const char *name, int64_t v)
{
    bson_head(b, BSON_INT64, name);
    put64(b, (uint64_t)v);
}

void bson_double(struct bson *b, const char *name, double v)
{
    uint64_t bits;

    memcpy(&bits, &v, sizeof bits);
    bson_head(b, BSON_DOUBLE, name);
    put64(b, bits);
}

void bson_bool(struct bson *b, const char *name, bool v)
{
    bson_head(b, BSON_BOOL, name);
    bson_bytes(b, v ? "\1" : "", 1);
}

void bson_date(struct bson *b, const char *name, int64_t unix_ms)
{
    bson_head(b, BSON_DATE, name);
    put64(b, (uint64_t)unix_ms);
}

void bson_string(struct bson *b, const char *name, const char *text)
{
    bson_string_n(b, name, text, strlen(text));
}

void bson_string_n(struct bson *b, const char *name, const char *text, size_t n)
{
    bson_head(b, BSON_STRING, name);
    put32(b, (uint32_t)(n + 1));
    bson_bytes(b, text, n);
    bson_bytes(b, "", 1);
}

void bson_object_id(struct bson *b, const char *name, const unsigned char id[12])
{
    bson_head(b, BSON_OBJECT_ID, name);
    bson_bytes(b, id, 12);
}

void bson_binary(struct bson *b, const char *name, uint8_t subtype, const void *bytes, size_t n)
{
    bson_head(b, BSON_BINARY, name);
    put32(b, (uint32_t)n);
    bson_bytes(b, &subtype, 1);
    bson_bytes(b, bytes, n);
}

void bson_copy(struct bson *b, const char *name, const struct bson_element *e)
{
    bson_head(b, e->type, name);
    bson_bytes(b, e->value, e->len);
}
