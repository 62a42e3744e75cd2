/* resp.c - finds the ends and the parts of Redis requests and replies in a stream that is cut anywhere.
 *
 *   request   *3\r\n $3\r\n SET\r\n $1\r\n k\r\n $1\r\n v\r\n
 *             COUNT  ARGS: header, bulk, header, bulk ...     WHOLE
 *             ^ any other first byte: INLINE up to '\n'
 *                    arg[0] = SET      arg[1] = k      arg[2] = v
 *
 *   reply     *2\r\n $1\r\n a\r\n :7\r\n
 *             HEAD   HEAD   BULK  HEAD, LINE                  WHOLE
 *             owed 1 ------ 0 ---------------                 an element ended and none is owed
 *
 * A header line that lies wholly in the buffer is read in place; one that is cut, or is unusual, is gathered in
 * struct resp_line first. So nothing is looked at twice, and both ways have to agree: the unit test and the fuzzer
 * compare them.
 */
#include "resp.h"
#include "text.h"

enum request_step { REQUEST_START, REQUEST_COUNT, REQUEST_ARGS, REQUEST_INLINE, REQUEST_OVER };
enum reply_step { REPLY_HEAD, REPLY_LINE, REPLY_BULK, REPLY_OVER };

/* What became of the element under way. */
enum element { ELEMENT_MORE, ELEMENT_OVER, ELEMENT_NESTS, ELEMENT_BAD };

enum kind { KIND_NONE, KIND_LINE, KIND_BULK, KIND_ARRAY, KIND_MAP, KIND_ATTRIBUTE };

/* The types of RESP2 and RESP3. The parts of streamed values, ';' and '.', are missing on purpose. */
static const uint8_t kinds[256] = {
    ['+'] = KIND_LINE, ['-'] = KIND_LINE, [':'] = KIND_LINE, ['_'] = KIND_LINE,
    ['#'] = KIND_LINE, [','] = KIND_LINE, ['('] = KIND_LINE,
    ['$'] = KIND_BULK, ['!'] = KIND_BULK, ['='] = KIND_BULK,
    ['*'] = KIND_ARRAY, ['~'] = KIND_ARRAY, ['>'] = KIND_ARRAY,
    ['%'] = KIND_MAP, ['|'] = KIND_ATTRIBUTE,
};

/* ----------------------------------------------------------- header lines */

bool resp_to_int(const unsigned char *p, size_t n, int64_t *out)
{
    bool negative = n > 0 && p[0] == '-';
    uint64_t limit = negative ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX;
    uint64_t value = 0;
    size_t i = negative ? 1 : 0;

    if (i == n || (p[i] == '0' && n > 1))
        return false;
    for (; i < n; i++) {
        uint64_t digit = (uint64_t)p[i] - '0';

        if (digit > 9 || value > (limit - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    /* -value - 1 + 1 so that the lowest number is never negated. */
    *out = !negative ? (int64_t)value : value == 0 ? 0 : -(int64_t)(value - 1) - 1;
    return true;
}

/* The bytes of this call that are not taken yet. */
struct span {
    const unsigned char *at, *end;
};

enum line { LINE_MORE, LINE_NUMBER, LINE_NO_NUMBER, LINE_TOO_LONG };

/* Gathers a header line piece by piece, up to '\r' and the byte behind it, and reads its number. */
static enum line line_gather(struct resp_line *l, struct span *in, uint32_t max, int64_t *value)
{
    uint32_t len;

    /* Every number fits, and len cannot wrap. */
    max = max < RESP_HEADER_CAP ? RESP_HEADER_CAP : max > RESP_BULK_MAX ? RESP_BULK_MAX : max;
    for (; in->at < in->end && !l->cr && l->len <= max; in->at++) {
        if (*in->at == '\r')
            l->cr = true;
        else if (l->len++ < RESP_HEADER_CAP)
            l->text[l->len - 1] = (char)*in->at;
    }
    if (l->len > max)
        return LINE_TOO_LONG;
    if (in->at == in->end)
        return LINE_MORE;
    in->at++;
    len = l->len;
    l->len = 0;
    l->cr = false;
    /* The text holds every line that is a number. */
    if (len > RESP_HEADER_CAP || !resp_to_int((const unsigned char *)l->text + 1, len - 1, value))
        return LINE_NO_NUMBER;
    return LINE_NUMBER;
}

/* Takes a header line "TN\r?" whose first byte the caller has judged. LINE_TOO_LONG: more than max bytes, and than any
 * number needs, came without a '\r'. The byte behind the '\r' only matters in replies: their caller looks at it.
 * In place when the line is wholly there and N a plain number of few digits; else line_gather(). */
static inline enum line header(struct resp_line *l, struct span *in, uint32_t max, int64_t *value)
{
    const unsigned char *s = in->at, *stop = in->end - s > 12 ? s + 12 : in->end;
    uint32_t v, digit;

    if (l->len > 0 || stop - s < 4 || (v = (uint32_t)s[1] - '0') > 9)
        return line_gather(l, in, max, value);
    for (s += 2; v > 0 && s < stop && (digit = (uint32_t)*s - '0') <= 9; s++)
        v = v * 10 + digit;
    if (stop - s < 2 || *s != '\r')
        return line_gather(l, in, max, value);
    *value = v;
    in->at = s + 2;
    return LINE_NUMBER;
}

size_t resp_put_header(unsigned char *out, char type, int64_t n)
{
    uint64_t left = n < 0 ? (uint64_t)-(n + 1) + 1 : (uint64_t)n;
    unsigned char digits[20];
    size_t count = 0, len = 1;

    out[0] = (unsigned char)type;
    do
        digits[count++] = (unsigned char)('0' + left % 10);
    while ((left /= 10) > 0);
    if (n < 0)
        out[len++] = '-';
    while (count > 0)
        out[len++] = digits[--count];
    out[len++] = '\r';
    out[len++] = '\n';
    return len;
}

/* --------------------------------------------------------------- requests */

static enum resp_status request_bad(struct resp_request *r, const char *error)
{
    r->error = error;
    return RESP_BAD;
}

static enum resp_status request_bad_type(struct resp_request *r, unsigned char c)
{
    static const char form[] = "Protocol error: expected '$', got '?'";

    /* Redis turns line ends inside an error into blanks; a NUL would end ours too early. */
    memcpy(r->line.text, form, sizeof form);
    r->line.text[sizeof form - 3] = c == '\r' || c == '\n' || c == '\0' ? ' ' : (char)c;
    return request_bad(r, r->line.text);
}

/* Reads "*N". RESP_MORE with the step REQUEST_ARGS: it is read, and arguments follow. */
static inline enum resp_status request_count(struct resp_request *r, struct span *in, const struct resp_limits *lim)
{
    int64_t count = 0;
    enum line line = header(&r->line, in, lim->max_inline, &count);

    if (line == LINE_MORE)
        return RESP_MORE;
    if (line == LINE_TOO_LONG)
        return request_bad(r, "Protocol error: too big mbulk count string");
    if (line == LINE_NO_NUMBER || count > lim->max_args)
        return line == LINE_NUMBER && lim->authenticated != NULL && count <= lim->authenticated->max_args
                   ? request_bad(r, "Protocol error: unauthenticated multibulk length")
                   : request_bad(r, "Protocol error: invalid multibulk length");
    if (count <= 0)
        return RESP_WHOLE;
    r->argc = (uint32_t)count;
    r->step = REQUEST_ARGS;
    return RESP_MORE;
}

/* Reads "$N". RESP_WHOLE: *len is read. There is at least one byte. */
static inline enum resp_status request_bulk(struct resp_request *r, struct span *in, const struct resp_limits *lim,
                                            uint32_t *len)
{
    int64_t value = -1;
    enum line line;

    if (r->line.len == 0 && *in->at != '$')
        return request_bad_type(r, *in->at);
    line = header(&r->line, in, lim->max_inline, &value);
    if (line == LINE_MORE)
        return RESP_MORE;
    if (line == LINE_TOO_LONG)
        return request_bad(r, "Protocol error: too big bulk count string");
    if (line == LINE_NO_NUMBER || value < 0 || value > lim->max_bulk || value > RESP_BULK_MAX)
        return value >= 0 && lim->authenticated != NULL && value <= lim->authenticated->max_bulk
                   ? request_bad(r, "Protocol error: unauthenticated bulk length")
                   : request_bad(r, "Protocol error: invalid bulk length");
    *len = (uint32_t)value;
    return RESP_WHOLE;
}

/* Reads arguments. p is where this call's bytes begin, which is at r->used of the request. */
static inline enum resp_status request_args(struct resp_request *r, const unsigned char *p, struct span *in,
                                            const struct resp_limits *lim)
{
    enum resp_status status = RESP_MORE;
    const uint32_t argc = r->argc;
    uint32_t known = r->args_known, len = 0;
    uint64_t rest = r->rest;

    for (;;) {
        if (rest > (uint64_t)(in->end - in->at)) {
            rest -= (uint64_t)(in->end - in->at);
            in->at = in->end;
            break;
        }
        in->at += rest;
        rest = 0;
        if (known == argc)
            status = RESP_WHOLE;
        if (known == argc || in->at == in->end)
            break;
        status = request_bulk(r, in, lim, &len);
        if (status != RESP_WHOLE)
            break;
        status = RESP_MORE;
        if (known < RESP_ARGS_KEPT) {
            r->arg[known].off = (uint32_t)(r->used + (uint64_t)(in->at - p));
            r->arg[known].len = len;
        }
        known++;
        rest = (uint64_t)len + 2;
    }
    r->rest = rest;
    r->args_known = known;
    return status;
}

/* What isspace() is to Redis, which runs in the C locale. */
static bool blank(unsigned char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Takes an inline request up to its '\n'. Nothing stands before the line, so r->used is its length so far. */
static enum resp_status request_inline(struct resp_request *r, struct span *in, const struct resp_limits *lim)
{
    const uint64_t room = (uint64_t)lim->max_inline + 1 - r->used;
    const bool full = room <= (uint64_t)(in->end - in->at);
    const unsigned char *stop = full ? in->at + room : in->end;
    const unsigned char *newline = memchr(in->at, '\n', (size_t)(stop - in->at));

    if (newline != NULL)
        stop = newline + 1;
    for (; r->argc == 0 && in->at < stop; in->at++)
        r->argc = !blank(*in->at);
    in->at = stop;
    if (newline != NULL)
        return RESP_WHOLE;
    return full ? request_bad(r, "Protocol error: too big inline request") : RESP_MORE;
}

size_t resp_request(struct resp_request *r, const unsigned char *p, size_t n, const struct resp_limits *lim,
                    enum resp_status *status)
{
    struct span in = {p, p};
    enum resp_status now = RESP_MORE;

    if (n == 0 || r->step == REQUEST_OVER) {
        *status = r->step != REQUEST_OVER ? RESP_MORE : r->error == NULL ? RESP_WHOLE : RESP_BAD;
        return 0;
    }
    in.end = p + n;
    if (r->step == REQUEST_START) {
        r->inlined = *p != '*';
        r->step = r->inlined ? REQUEST_INLINE : REQUEST_COUNT;
    }
    if (r->step == REQUEST_COUNT)
        now = request_count(r, &in, lim);
    if (r->step == REQUEST_ARGS)
        now = request_args(r, p, &in, lim);
    else if (r->step == REQUEST_INLINE)
        now = request_inline(r, &in, lim);
    if (now != RESP_MORE)
        r->step = REQUEST_OVER;
    r->used += (uint64_t)(in.at - p);
    r->total = r->used + r->rest;
    *status = now;
    return (size_t)(in.at - p);
}

bool resp_arg(const unsigned char *req, size_t len, uint32_t *at, struct resp_slice *arg)
{
    struct resp_line l = {0};
    struct span in = {req, req};
    int64_t value = 0;

    if (len > UINT32_MAX || *at >= len)
        return false;
    in.at += *at;
    in.end += len;
    if (*at == 0 && (*in.at != '*' || header(&l, &in, 0, &value) != LINE_NUMBER))
        return false;
    if (in.at == in.end || *in.at != '$' || header(&l, &in, 0, &value) != LINE_NUMBER)
        return false;
    if (value < 0 || value > in.end - in.at - 2)
        return false;
    arg->off = (uint32_t)(in.at - req);
    arg->len = (uint32_t)value;
    *at = arg->off + arg->len + 2;
    return true;
}

/* ---------------------------------------------------------- inline requests */

/* Reads what stands behind a backslash between double quotes, at line[i]; gives how many bytes it takes. */
static size_t inline_escape(const unsigned char *line, size_t n, size_t i, unsigned char *c)
{
    static const char names[] = "nrtba", bytes[] = "\n\r\t\b\a";
    const char *name;

    if (line[i] == 'x' && n - i > 2 && (text_hex((char)line[i + 1]) | text_hex((char)line[i + 2])) < 16) {
        *c = (unsigned char)(text_hex((char)line[i + 1]) << 4 | text_hex((char)line[i + 2]));
        return 3;
    }
    name = line[i] != '\0' ? strchr(names, line[i]) : NULL;
    *c = name != NULL ? (unsigned char)bytes[name - names] : line[i];
    return 1;
}

/* Reads the next word of a line from *at on and moves *at behind it; writes it to out unless that is NULL. Gives its
 * length; -1 at the end of the line, -2 when its quotes do not match. A quote may open anywhere in a word, and ends it
 * when it closes. */
static long inline_word(const unsigned char *line, size_t n, size_t *at, unsigned char *out)
{
    unsigned char quote = 0, c;
    size_t i = *at;
    long len = 0;

    while (i < n && blank(line[i]))
        i++;
    if (i == n)
        return -1;
    while (i < n) {
        c = line[i++];
        if (quote == 0 && (c == ' ' || c == '\t' || c == '\r' || c == '\n'))
            break;
        if (quote == 0 && (c == '"' || c == '\'')) {
            quote = c;
            continue;
        }
        if (quote != 0 && c == quote) {
            if (i < n && !blank(line[i]))
                return -2;
            quote = 0;
            break;
        }
        if (quote == '"' && c == '\\' && i < n)
            i += inline_escape(line, n, i, &c);
        else if (quote == '\'' && c == '\\' && i < n && line[i] == '\'')
            c = line[i++];
        if (out != NULL)
            out[len] = c;
        len++;
    }
    *at = i;
    return quote == 0 ? len : -2;
}

long resp_inline(const unsigned char *line, size_t n, unsigned char *out, size_t cap)
{
    size_t at = 0, used;
    int64_t count = 0;
    long len;

    while ((len = inline_word(line, n, &at, NULL)) >= 0)
        count++;
    if (len == -2)
        return -1;
    if (count == 0)
        return 0;
    if (cap < RESP_HEADER_CAP)
        return -2;
    used = resp_put_header(out, '*', count);
    for (at = 0; count > 0; count--) {
        size_t behind = at;

        len = inline_word(line, n, &behind, NULL);
        if ((size_t)len + RESP_HEADER_CAP + 2 > cap - used)
            return -2;
        used += resp_put_header(out + used, '$', len);
        used += (size_t)inline_word(line, n, &at, out + used);
        out[used++] = '\r';
        out[used++] = '\n';
    }
    return (long)used;
}

/* ---------------------------------------------------------------- replies */

static enum element reply_bad(struct resp_reply *r, const char *error)
{
    r->error = error;
    return ELEMENT_BAD;
}

/* Takes a line up to its CRLF; a '\r' alone is part of it. Byte by byte, since the lines of RESP are short. */
static inline enum element reply_line(struct resp_reply *r, struct span *in)
{
    const unsigned char *s = in->at;
    bool cr = r->line.cr, over = false;

    for (; s < in->end && !over; s++) {
        over = cr && *s == '\n';
        cr = *s == '\r';
    }
    in->at = s;
    r->line.cr = cr;
    r->step = REPLY_LINE;
    return over ? ELEMENT_OVER : ELEMENT_MORE;
}

/* Takes the rest of a bulk and checks that CRLF stands behind it. */
static inline enum element reply_bulk(struct resp_reply *r, struct span *in)
{
    uint64_t rest = r->rest, have = (uint64_t)(in->end - in->at);

    if (rest > 2) {
        have = have < rest - 2 ? have : rest - 2;
        in->at += have;
        rest -= have;
    }
    for (; rest <= 2 && rest > 0 && in->at < in->end && *in->at == (rest == 2 ? '\r' : '\n'); rest--)
        in->at++;
    r->rest = rest;
    r->step = REPLY_BULK;
    if (rest == 0)
        return ELEMENT_OVER;
    return in->at == in->end ? ELEMENT_MORE : reply_bad(r, "no CRLF behind a bulk");
}

/* Begins an element whose header says `value`. */
static inline enum element reply_sized(struct resp_reply *r, unsigned char type, int64_t value)
{
    const uint8_t kind = kinds[type];
    uint64_t elements;

    if (value == -1 && (type == '$' || type == '*'))
        return ELEMENT_OVER;
    if (value < 0)
        return reply_bad(r, "a length is no number");
    if (kind == KIND_BULK) {
        if (value > RESP_BULK_MAX)
            return reply_bad(r, "a bulk is too long");
        r->rest = (uint64_t)value + 2;
        return ELEMENT_MORE;
    }
    if (value > RESP_COUNT_MAX)
        return reply_bad(r, "an aggregate has too many elements");
    elements = kind == KIND_ARRAY ? (uint64_t)value : 2 * (uint64_t)value;
    /* The one under way is the aggregate itself, in whose place its first element comes; an attribute has no place. */
    if (kind != KIND_ATTRIBUTE && elements == 0)
        return ELEMENT_OVER;
    r->owed += kind == KIND_ATTRIBUTE ? elements : elements - 1;
    return r->owed <= RESP_OWED_MAX ? ELEMENT_NESTS : reply_bad(r, "too many elements are outstanding");
}

/* Takes the header of an element, and what follows as far as it is there. There is at least one byte. */
static inline enum element reply_head(struct resp_reply *r, struct span *in)
{
    const unsigned char type = r->line.len > 0 ? (unsigned char)r->line.text[0] : *in->at;
    const uint8_t kind = kinds[type];
    const bool value_itself = !r->headed && r->owed == 0 && kind != KIND_ATTRIBUTE;
    enum element element;
    enum line line;
    int64_t value = 0;

    if (kind == KIND_NONE)
        return reply_bad(r, "unknown type byte");
    if (value_itself) {
        r->type = (char)type;
        r->headed = kind == KIND_LINE;
    }
    if (kind == KIND_LINE) {
        in->at++;
        return reply_line(r, in);
    }
    line = header(&r->line, in, 0, &value);
    if (line == LINE_MORE)
        return ELEMENT_MORE;
    if (line != LINE_NUMBER || in->at[-1] != '\n')
        return reply_bad(r, "a length is no number, or its line does not end in CRLF");
    element = reply_sized(r, type, value);
    if (value_itself && element != ELEMENT_BAD) {
        r->headed = true;
        r->length = value;
    }
    return element == ELEMENT_MORE ? reply_bulk(r, in) : element;
}

size_t resp_reply(struct resp_reply *r, const unsigned char *p, size_t n, enum resp_status *status)
{
    struct span in = {p, p};
    enum resp_status now = RESP_MORE;

    if (n == 0 || r->step == REPLY_OVER) {
        *status = r->step != REPLY_OVER ? RESP_MORE : r->error == NULL ? RESP_WHOLE : RESP_BAD;
        return 0;
    }
    in.end = p + n;
    while (in.at < in.end && now == RESP_MORE) {
        enum element element = r->step == REPLY_HEAD   ? reply_head(r, &in)
                               : r->step == REPLY_BULK ? reply_bulk(r, &in)
                                                       : reply_line(r, &in);

        if (element == ELEMENT_BAD) {
            now = RESP_BAD;
        } else if (element == ELEMENT_OVER && r->owed == 0) {
            now = RESP_WHOLE;
        } else if (element == ELEMENT_OVER) {
            r->owed--;
            r->step = REPLY_HEAD;
        }
    }
    if (now != RESP_MORE)
        r->step = REPLY_OVER;
    r->used += (uint64_t)(in.at - p);
    *status = now;
    return (size_t)(in.at - p);
}

uint64_t resp_reply_least(const struct resp_reply *r)
{
    return r->used + r->rest;
}
