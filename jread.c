/* jread.c - JSON read in place.
 *
 *   one loop over the bytes, a bit for each level that is open: it is an object      no recursion, whatever comes
 */
#include "jread.h"
#include "text.h"

#include <string.h>

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const char *behind_blanks(const char *p, const char *end)
{
    while (p < end && is_blank(*p))
        p++;
    return p;
}

/* Four hexadecimal digits; -1: they are none. */
static int32_t unit(const char *p, const char *end)
{
    int32_t u = 0;

    for (int i = 0; i < 4; i++, p++) {
        if (p >= end || text_hex(*p) > 15)
            return -1;
        u = u << 4 | (int32_t)text_hex(*p);
    }
    return u;
}

/* ---------------------------------------------------------------- scalars */

/* Behind the string that begins at p; NULL: it has no end, or what must not be in it. */
static const char *string_end(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++) {
        if ((unsigned char)*p < 0x20)
            return NULL;
        if (*p != '\\')
            continue;
        if (++p == end || *p == '\0' || strchr("\"\\/bfnrtu", *p) == NULL || (*p == 'u' && unit(p + 1, end) < 0))
            return NULL;
    }
    return p < end ? p + 1 : NULL;
}

static const char *digits_end(const char *p, const char *end)
{
    const char *from = p;

    while (p < end && is_digit(*p))
        p++;
    return p > from ? p : NULL;
}

static const char *number_end(const char *p, const char *end)
{
    const char *from;

    p += *p == '-';
    from = p;
    p = digits_end(p, end);
    if (p == NULL || (*from == '0' && p > from + 1))
        return NULL;
    if (p < end && *p == '.' && (p = digits_end(p + 1, end)) == NULL)
        return NULL;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        p += p < end && (*p == '+' || *p == '-');
        p = digits_end(p, end);
    }
    return p;
}

/* Behind a value that is no object and no array; NULL: it is no value. */
static const char *scalar_end(const char *p, const char *end)
{
    static const char *const words[] = {"true", "false", "null"};

    if (*p == '"')
        return string_end(p, end);
    if (*p == '-' || is_digit(*p))
        return number_end(p, end);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if ((size_t)(end - p) >= strlen(words[i]) && memcmp(p, words[i], strlen(words[i])) == 0)
            return p + strlen(words[i]);
    return NULL;
}

/* -------------------------------------------------------------- the whole */

/* Behind a member's name and its colon. */
static const char *name_end(const char *p, const char *end)
{
    p = behind_blanks(p, end);
    if (p == end || *p != '"' || (p = string_end(p, end)) == NULL)
        return NULL;
    p = behind_blanks(p, end);
    return p < end && *p == ':' ? p + 1 : NULL;
}

/* Behind what closes, and what may follow a value: a comma, and in an object the next name. NULL: something else. */
static const char *closed(const char *p, const char *end, uint32_t *objects, unsigned *depth)
{
    for (; *depth > 0; --*depth, *objects >>= 1) {
        p = behind_blanks(p, end);
        if (p == end)
            return NULL;
        if (*p == ',')
            return *objects & 1 ? name_end(p + 1, end) : p + 1;
        if (*p != (*objects & 1 ? '}' : ']'))
            return NULL;
        p++;
    }
    return p;
}

/* Behind the value that begins at p, or behind blanks there. NULL: it is not whole, not well formed, or too deep. */
static const char *value_end(const char *p, const char *end)
{
    uint32_t objects = 0;
    unsigned depth = 0;

    do {
        p = behind_blanks(p, end);
        if (p == end)
            return NULL;
        if (*p != '{' && *p != '[') {
            p = scalar_end(p, end);
        } else if (depth == JREAD_DEPTH) {
            return NULL;
        } else {
            bool object = *p == '{';
            const char *first = behind_blanks(p + 1, end);

            if (first < end && *first == (object ? '}' : ']')) {
                p = first + 1;
            } else {
                objects = objects << 1 | object;
                depth++;
                p = object ? name_end(first, end) : first;
                if (p == NULL)
                    return NULL;
                continue; /* to its first value */
            }
        }
        p = p != NULL ? closed(p, end, &objects, &depth) : NULL;
    } while (p != NULL && depth > 0);
    return p;
}

bool jread_text(const char *text, size_t n, struct jvalue *out)
{
    const char *end = text + n, *from = behind_blanks(text, end), *to = value_end(from, end);

    *out = (struct jvalue){NULL, 0};
    if (to == NULL || behind_blanks(to, end) != end)
        return false;
    *out = (struct jvalue){from, (size_t)(to - from)};
    return true;
}

/* ------------------------------------------------------------------ walks */

struct jvalue jread_inside(struct jvalue v)
{
    if (v.n < 2 || (*v.p != '{' && *v.p != '['))
        return (struct jvalue){NULL, 0};
    return (struct jvalue){v.p + 1, v.n - 2};
}

bool jread_next(struct jvalue *inside, struct jvalue *name, struct jvalue *value)
{
    const char *end, *p, *to;

    *name = *value = (struct jvalue){NULL, 0};
    if (inside->n == 0)
        return false;
    end = inside->p + inside->n;
    p = behind_blanks(inside->p, end);
    if (p < end && *p == ',')
        p = behind_blanks(p + 1, end);
    if (p == end)
        return false;
    if (*p == '"' && (to = name_end(p, end)) != NULL) { /* in an array no colon stands behind a string */
        *name = (struct jvalue){p + 1, (size_t)(string_end(p, end) - p) - 2};
        p = behind_blanks(to, end);
    }
    to = value_end(p, end);
    if (to == NULL)
        return false;
    *value = (struct jvalue){p, (size_t)(to - p)};
    *inside = (struct jvalue){to, (size_t)(end - to)};
    return true;
}

bool jread_get(struct jvalue object, const char *name, struct jvalue *out)
{
    struct jvalue inside = jread_inside(object), called;

    *out = (struct jvalue){NULL, 0};
    if (inside.n == 0 || *object.p != '{')
        return false;
    while (jread_next(&inside, &called, out))
        if (called.n == strlen(name) && memcmp(called.p, name, called.n) == 0)
            return true;
    *out = (struct jvalue){NULL, 0};
    return false;
}

/* ----------------------------------------------------------- what is in it */

/* Writes a character as UTF-8; control characters as '?'. Gives its length. */
static size_t put(uint32_t c, char out[4])
{
    if (c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0xd800 && c < 0xe000))
        c = '?';
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* The character behind a backslash; *p is moved behind it. */
static uint32_t escaped(const char **p, const char *end)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *found = strchr(from, **p);
    int32_t high, low;

    if (**p != 'u') {
        uint32_t c = found != NULL ? (unsigned char)to[found - from] : (unsigned char)**p;
        ++*p;
        return c;
    }
    high = unit(*p + 1, end);
    *p += 5;
    if (high < 0xd800 || high > 0xdbff || end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u')
        return (uint32_t)high;
    low = unit(*p + 2, end);
    if (low < 0xdc00 || low > 0xdfff)
        return (uint32_t)high;
    *p += 6;
    return 0x10000u + (((uint32_t)high - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
}

/* A character of UTF-8; a byte that begins none counts as one that cannot be shown. */
static uint32_t plain(const char **p, const char *end)
{
    uint32_t code = 0;
    size_t n = text_character((const unsigned char *)*p, (size_t)(end - *p), &code);

    *p += n > 0 ? n : 1;
    return code;
}

size_t jread_string(struct jvalue v, char *out, size_t cap)
{
    const char *p = v.p, *end;
    size_t len = 0;

    out[0] = '\0';
    if (v.n == 0 || *p == '{' || *p == '[')
        return 0;
    end = p + v.n;
    if (*p == '"') {
        p++;
        end--;
    }
    while (p < end) {
        char utf8[4];
        size_t n;

        if (*p == '\\') {
            p++;
            n = put(escaped(&p, end), utf8);
        } else {
            n = put(plain(&p, end), utf8);
        }
        if (len + n >= cap)
            break;
        memcpy(out + len, utf8, n);
        len += n;
    }
    out[len] = '\0';
    return len;
}

int64_t jread_number(struct jvalue v)
{
    bool minus = v.n > 0 && *v.p == '-';
    int64_t number = 0;

    for (size_t i = minus; i < v.n && is_digit(v.p[i]); i++) {
        int digit = v.p[i] - '0';
        number = number > (INT64_MAX - digit) / 10 ? INT64_MAX : number * 10 + digit;
    }
    return minus ? -number : number;
}

bool jread_is(struct jvalue v, const char *word)
{
    return v.n == strlen(word) && memcmp(v.p, word, v.n) == 0;
}
