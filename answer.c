/* answer.c - writes the answers of the admin listener.
 *
 *   answer_head(): HTTP/1.1 STATUS REASON, NAME: VALUE ..., an empty line
 *   json_...(): element() puts the comma and the name, the rest puts the value; levels are bits of two numbers
 */
#include "answer.h"
#include "text.h"

#include <string.h>

#define COUNT(a) (sizeof (a) / sizeof *(a))
#define DIGITS_CAP 21 /* of a number of 64 bits, with a NUL */
#define PRECISION 12  /* digits of a double: a few less than it has, so that sums of tenths look like tenths */

static const struct { int status; const char *reason; } reasons[] = {
    {200, "OK"}, {202, "Accepted"}, {204, "No Content"}, {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"},
    {404, "Not Found"}, {405, "Method Not Allowed"}, {408, "Request Timeout"}, {409, "Conflict"}, {411, "Length Required"},
    {413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"}, {417, "Expectation Failed"},
    {421, "Misdirected Request"}, {422, "Unprocessable Content"}, {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"}, {500, "Internal Server Error"}, {501, "Not Implemented"},
    {503, "Service Unavailable"}, {505, "HTTP Version Not Supported"},
};
static const char *const guards[][2] = { /* as the bits ANSWER_NO_STORE and so on */
    {"Cache-Control", "no-store"}, {"X-Content-Type-Options", "nosniff"}, {"X-Frame-Options", "DENY"},
    {"Referrer-Policy", "no-referrer"}, {"Cross-Origin-Resource-Policy", "same-origin"},
};

/* A head is written like JSON without its rules: `full` and all. */
static void put_n(struct json *j, const void *p, size_t n)
{
    j->full = j->full || n > j->cap - j->len;
    if (j->full)
        return;
    memcpy(j->out + j->len, p, n);
    j->len += n;
}

static void put(struct json *j, const char *text)
{
    put_n(j, text, strlen(text));
}

/* In decimal; gives where it begins. */
static const char *decimal(uint64_t v, char out[DIGITS_CAP])
{
    char *p = out + DIGITS_CAP - 1;

    *p = '\0';
    do
        *--p = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    return p;
}

/* ------------------------------------------------------------------- head */

const char *answer_reason(int status)
{
    size_t i;

    for (i = 0; i < COUNT(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Unknown";
}

static void put_field(struct json *j, const char *name, const char *value)
{
    const char *p;

    for (p = value; *p != '\0'; p++)
        j->full = j->full || (unsigned char)*p < ' ' || *p == 127; /* it could end the field, and begin another */
    put(j, name);
    put(j, ": ");
    put(j, value);
    put(j, "\r\n");
}

size_t answer_head(const struct answer *a, char *out, size_t cap)
{
    struct json j = {.out = out, .cap = cap};
    char digits[DIGITS_CAP];
    size_t i;

    put(&j, "HTTP/1.1 ");
    put(&j, decimal((uint64_t)a->status, digits));
    put(&j, " ");
    put(&j, answer_reason(a->status));
    put(&j, "\r\n");
    if (a->date != NULL)
        put_field(&j, "Date", a->date);
    if (a->type != NULL)
        put_field(&j, "Content-Type", a->type);
    if (a->body == ANSWER_CHUNKED)
        put_field(&j, "Transfer-Encoding", "chunked");
    else if (a->body == ANSWER_SIZED && a->status != 204) /* which may not have one */
        put_field(&j, "Content-Length", decimal(a->length, digits));
    if (a->close || a->body == ANSWER_UNTIL_CLOSE)
        put_field(&j, "Connection", "close");
    for (i = 0; i < COUNT(guards); i++)
        if ((a->guards >> i & 1) != 0)
            put_field(&j, guards[i][0], guards[i][1]);
    for (i = 0; a->more != NULL && a->more[i] != NULL; i += 2)
        put_field(&j, a->more[i], a->more[i + 1]);
    put(&j, "\r\n");
    return j.full ? 0 : j.len;
}

void answer_chunk(char out[ANSWER_CHUNK_HEAD], size_t n)
{
    int i;

    for (i = 5; i >= 0; i--, n >>= 4)
        out[i] = "0123456789abcdef"[n & 15];
    memcpy(out + 6, "\r\n", 2);
}

/* n in so many digits, and what stands behind it; gives where that ends. */
static char *put_digits(char *p, unsigned n, int digits, const char *behind)
{
    int i;

    for (i = digits - 1; i >= 0; i--, n /= 10)
        p[i] = (char)('0' + n % 10);
    memcpy(p + digits, behind, strlen(behind) + 1);
    return p + digits + strlen(behind);
}

const char *answer_date(int64_t second, char out[ANSWER_DATE])
{
    static const char weekdays[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    const struct text_date d = text_date(second);
    char *p = out;

    memcpy(p, weekdays + d.weekday * 3, 3);
    memcpy(p + 3, ", ", 2);
    p = put_digits(p + 5, d.day, 2, " ");
    memcpy(p, months + (d.month - 1) * 3, 3);
    p[3] = ' ';
    p = put_digits(p + 4, d.year, 4, " ");
    p = put_digits(put_digits(p, d.hour, 2, ":"), d.minute, 2, ":");
    (void)put_digits(p, d.second, 2, " GMT");
    return out;
}

/* ------------------------------------------------------------------- JSON */

static void put_string(struct json *j, const void *bytes, size_t n)
{
    static const char named[] = "b\bf\fn\nr\rt\t\"\"\\\\"; /* a letter, and the byte that it stands for */
    const unsigned char *p = bytes;
    uint32_t code;
    size_t i, len;

    put(j, "\"");
    for (; n > 0; p += len, n -= len) {
        len = text_character(p, n, &code);
        for (i = 1; i < sizeof named && (unsigned char)named[i] != *p; i += 2)
            ;
        if (i < sizeof named - 1) {
            put(j, "\\");
            put_n(j, named + i - 1, 1);
        } else if (*p < ' ' || *p == 127) {
            put(j, "\\u00");
            put_n(j, &"01234567"[*p >> 4], 1);
            put_n(j, &"0123456789abcdef"[*p & 15], 1);
        } else {
            put_n(j, len > 0 ? (const void *)p : "\xEF\xBF\xBD", len > 0 ? len : 3);
            len = len > 0 ? len : 1;
        }
    }
    put(j, "\"");
}

/* What stands before a value. A name where none may be, or none where one must, is no JSON: it becomes `full` at once. */
static void element(struct json *j, const char *name)
{
    const uint32_t level = UINT32_C(1) << j->depth;

    j->full = j->full || ((j->objects & level) != 0) != (name != NULL) || (j->depth == 0 && (j->begun & level) != 0);
    if ((j->begun & level) != 0)
        put(j, ",");
    if (!j->full)
        j->begun |= level;
    if (name != NULL) {
        put_string(j, name, strlen(name));
        put(j, ":");
    }
}

static void open_level(struct json *j, const char *name, bool object)
{
    j->full = j->full || j->depth == JSON_DEPTH;
    element(j, name);
    put(j, object ? "{" : "[");
    if (j->full)
        return;
    j->depth++;
    j->begun &= ~(UINT32_C(1) << j->depth);
    j->objects = (j->objects & ~(UINT32_C(1) << j->depth)) | (uint32_t)object << j->depth;
}

void json_start(struct json *j, char *out, size_t cap)
{
    *j = (struct json){.out = out, .cap = cap};
}

void json_go_on(struct json *j, char *out, size_t cap)
{
    j->out = out;
    j->cap = cap;
    j->len = 0;
}

void json_object(struct json *j, const char *name)
{
    open_level(j, name, true);
}

void json_array(struct json *j, const char *name)
{
    open_level(j, name, false);
}

void json_close(struct json *j)
{
    j->full = j->full || j->depth == 0;
    put(j, (j->objects >> j->depth & 1) != 0 ? "}" : "]");
    j->depth = (uint8_t)(j->depth - (j->full ? 0 : 1));
}

void json_bytes(struct json *j, const char *name, const void *p, size_t n)
{
    element(j, name);
    put_string(j, p, n);
}

void json_text(struct json *j, const char *name, const char *text)
{
    json_bytes(j, name, text, strlen(text));
}

void json_uint(struct json *j, const char *name, uint64_t v)
{
    char digits[DIGITS_CAP];

    element(j, name);
    put(j, decimal(v, digits));
}

void json_int(struct json *j, const char *name, int64_t v)
{
    char digits[DIGITS_CAP];

    element(j, name);
    put(j, v < 0 ? "-" : "");
    put(j, decimal(v < 0 ? ~(uint64_t)v + 1 : (uint64_t)v, digits));
}

/* v > 0 as DIGITS * 10^(*power - PRECISION + 1), rounded; without the zeros at their end. */
static void digits_of(double v, char digits[DIGITS_CAP], int *power)
{
    const char *from;
    size_t n;

    for (*power = 0; v >= 10; ++*power)
        v /= 10;
    for (; v < 1; --*power)
        v *= 10;
    from = decimal((uint64_t)(v * 1e11 + 0.5), digits);
    n = strlen(from);
    memmove(digits, from, n + 1);
    *power += (int)n - PRECISION; /* 9.9999... became ten */
    while (n > 1 && digits[n - 1] == '0')
        digits[--n] = '\0';
}

void json_double(struct json *j, const char *name, double v)
{
    char digits[DIGITS_CAP] = "0", exponent[DIGITS_CAP];
    int power = 0, n, i;

    if (!(v - v == 0)) { /* so it is for every number but the infinite ones */
        json_null(j, name);
        return;
    }
    element(j, name);
    put(j, v < 0 ? "-" : "");
    if (v < 0 || v > 0)
        digits_of(v < 0 ? -v : v, digits, &power);
    n = (int)strlen(digits);
    if (power < -5 || power > 15) { /* d.ddde-7 */
        put_n(j, digits, 1);
        put(j, n > 1 ? "." : "");
        put(j, digits + 1);
        put(j, power < 0 ? "e-" : "e");
        put(j, decimal((uint64_t)(power < 0 ? -power : power), exponent));
        return;
    }
    for (i = power < 0 ? power : 0; i < n || i <= power; i++) { /* before the first digit and behind the last there are zeros */
        put_n(j, i < 0 || i >= n ? "0" : digits + i, 1);
        put(j, i == power && i < n - 1 ? "." : "");
    }
}

void json_bool(struct json *j, const char *name, bool v)
{
    element(j, name);
    put(j, v ? "true" : "false");
}

void json_null(struct json *j, const char *name)
{
    element(j, name);
    put(j, "null");
}

size_t json_finish(const struct json *j)
{
    return j->full || j->depth > 0 ? 0 : j->len;
}
