/* http.c - reads the requests of the admin listener.
 *
 *   head: METHOD TARGET HTTP/1.x CR LF  --request_line()--> method, authority, path (decoded), query
 *         NAME: VALUE CR LF ...         --field_line()----> field[], close
 *         CR LF                         --head_end()------> what the fields mean together: body, bearer, expects
 *
 * http_read() finds the ends of lines; a line is read when it is whole, and once. It is known to hold no NUL then, and while it
 * is read one stands in place of its CR: so it is a string, and those before it end in it.
 */
#include "http.h"

#include <ctype.h>
#include <string.h>

#define ALNUM "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define TOKEN ALNUM "!#$%&'*+-.^_`|~"
#define HOST ALNUM "-._~:[]"
#define BLANK " \t"

static const char *const fields[HTTP_FIELDS] = { /* as enum http_field */
    "host", "origin", "sec-fetch-site", "authorization", "content-type", "content-length", "transfer-encoding", "expect",
};
static const char *const methods[] = {"GET ", "HEAD ", "POST "}; /* as enum http_method */

static void refuse_if(struct http_request *r, bool wrong, uint16_t status)
{
    if (wrong && r->error == 0)
        r->error = status;
}

/* In either case; text is in lower case. */
static bool same(const char *p, size_t n, const char *text)
{
    size_t i = 0;

    while (i < n && text[i] != '\0' && tolower((unsigned char)p[i]) == text[i])
        i++;
    return i == n && text[i] == '\0';
}

static bool field_is(const struct http_request *r, const char *head, enum http_field f, const char *text)
{
    return same(head + r->field[f].off, r->field[f].len, text);
}

/* http://HOST/PATH is how proxies are asked; servers have to understand it too. */
static void target(struct http_request *r, char *head, char *p, char *end)
{
    char *query, *at;

    for (at = p; at < end; at++)
        refuse_if(r, *at <= ' ' || *at > '~' || strchr("\"#<>\\^`{|}", *at) != NULL, 400);
    if (end - p > 7 && same(p, 7, "http://")) {
        r->authority = url_part(head, p + 7, p + 7 + strspn(p + 7, HOST));
        refuse_if(r, r->authority.len == 0, 400);
        p += 7 + r->authority.len;
    }
    query = memchr(p, '?', (size_t)(end - p));
    r->path = url_part(head, p, query != NULL ? query : end);
    r->query = url_part(head, query != NULL ? query + 1 : end, end);
    if (r->authority.len > 0 && r->path.len == 0) /* the slash before the host will do */
        r->path = (struct url_part){r->authority.off - 1, 1};
    refuse_if(r, r->path.len == 0 || head[r->path.off] != '/' || !url_decode(head, &r->path, false), 400);
}

static void request_line(struct http_request *r, char *head, char *p, char *end)
{
    const size_t name = strspn(p, TOKEN);
    char *version = name > 0 && p[name] == ' ' ? memchr(p + name + 1, ' ', (size_t)(end - p) - name - 1) : NULL;

    refuse_if(r, version == NULL || end - version != 9 || memcmp(version, " HTTP/", 6) != 0 || !isdigit((unsigned char)version[6]) ||
              version[7] != '.' || !isdigit((unsigned char)version[8]), 400);
    if (r->error != 0)
        return;
    while (r->method <= HTTP_POST && strncmp(p, methods[r->method], name + 1) != 0)
        r->method++;
    refuse_if(r, version[6] != '1', 505);
    refuse_if(r, r->method > HTTP_POST, 501);
    r->old = r->close = version[8] == '0';
    target(r, head, p + name + 1, version);
}

/* A line that begins with a blank would go on with the field before it: it has no name, and is refused like any without. */
static void field_line(struct http_request *r, const char *head, const char *p, const char *end)
{
    const char *value = p + strspn(p, TOKEN);
    const size_t name = (size_t)(value - p);
    size_t i = 0, n;

    refuse_if(r, name == 0 || *value != ':', 400);
    if (r->error != 0)
        return;
    value += 1 + strspn(value + 1, BLANK);
    while (end > value && strchr(BLANK, end[-1]) != NULL)
        end--;
    while (i < HTTP_FIELDS && !same(p, name, fields[i]))
        i++;
    refuse_if(r, i < HTTP_FIELDS && r->field[i].off != 0, 400);
    if (i < HTTP_FIELDS)
        r->field[i] = url_part(head, value, end);
    for (; same(p, name, "connection") && value < end; value += n + (value + n < end)) { /* a list */
        n = strcspn(value, BLANK ",");
        r->close = r->close || same(value, n, "close");
    }
}

static void head_end(struct http_request *r, const char *head)
{
    const struct url_part *f = r->field, host = f[HTTP_HOST], length = f[HTTP_CONTENT_LENGTH], login = f[HTTP_AUTHORIZATION];
    const char *digits = head + length.off;
    uint32_t i;

    refuse_if(r, host.off == 0 ? !r->old : strspn(head + host.off, HOST) != host.len, 400);
    refuse_if(r, r->authority.len > 0 && host.off != 0 && (host.len != r->authority.len ||
              memcmp(head + host.off, head + r->authority.off, host.len) != 0), 400);
    refuse_if(r, length.off != 0 && (length.len == 0 || strspn(digits, "0123456789") != length.len), 400);
    for (i = 0; i < length.len && r->body <= HTTP_BODY_MAX; i++)
        r->body = r->body * 10 + (uint32_t)(digits[i] & 15);
    refuse_if(r, f[HTTP_TRANSFER_ENCODING].off != 0 && (length.off != 0 || r->old), 400);
    refuse_if(r, f[HTTP_TRANSFER_ENCODING].off != 0, field_is(r, head, HTTP_TRANSFER_ENCODING, "chunked") ? 411 : 501);
    refuse_if(r, r->body > HTTP_BODY_MAX, 413);
    r->expects = f[HTTP_EXPECT].off != 0 && !r->old && r->body > 0;
    refuse_if(r, f[HTTP_EXPECT].off != 0 && !r->old && !field_is(r, head, HTTP_EXPECT, "100-continue"), 417);
    if (login.len > 7 && same(head + login.off, 7, "bearer ")) {
        i = login.off + 7 + (uint32_t)strspn(head + login.off + 7, " ");
        r->bearer = (struct url_part){i, login.off + login.len - i};
    }
    if (host.off == 0)
        r->field[HTTP_HOST] = r->authority;
    r->head = r->seen;
}

/* The line that ends with the byte before `seen`. */
static void line_end(struct http_request *r, char *head)
{
    char *p = head + r->line, *end = head + r->seen - 1, *at;

    refuse_if(r, end == p || *--end != '\r', 400);
    for (at = p; at < end; at++)
        refuse_if(r, iscntrl((unsigned char)*at) && *at != '\t', 400);
    if (r->error != 0)
        return;
    *end = '\0';
    if (end > p && r->begun)
        field_line(r, head, p, end);
    else if (end > p)
        request_line(r, head, p, end);
    else if (r->begun)
        head_end(r, head);
    else /* one empty line before a request is passed over, as RFC 9112 has it */
        refuse_if(r, r->line > 0, 400);
    *end = '\r';
    r->begun = r->begun || end > p;
    r->line = r->seen;
}

void http_start(struct http_request *r)
{
    memset(r, 0, sizeof *r);
}

enum http_status http_read(struct http_request *r, char *head, size_t n)
{
    while (r->error == 0 && r->head == 0 && r->seen < n) {
        if (head[r->seen++] == '\n')
            line_end(r, head);
        refuse_if(r, r->seen == HTTP_HEAD_MAX && r->head == 0, r->begun ? 431 : 414);
    }
    return r->error != 0 ? HTTP_BAD : r->head != 0 ? HTTP_WHOLE : HTTP_MORE;
}

size_t http_body(struct http_request *r, size_t n)
{
    n = n < r->body ? n : r->body;
    r->body -= (uint32_t)n;
    return n;
}

/* ---------------------------------------------------------- what was asked */

bool http_is(const char *head, struct url_part part, const char *text)
{
    return strlen(text) == part.len && memcmp(head + part.off, text, part.len) == 0;
}

bool http_bearer_is(const struct http_request *r, const char *head, const void *token, size_t n)
{
    const unsigned char *given = (const unsigned char *)head + r->bearer.off, *ours = token;
    volatile size_t differs = n ^ r->bearer.len; /* volatile: or the compiler might stop at the first difference */
    size_t i;

    for (i = 0; n > 0 && i < r->bearer.len; i++)
        differs |= (size_t)(given[i] ^ ours[i % n]);
    return n > 0 && differs == 0;
}

bool http_same_site(const struct http_request *r, const char *head)
{
    const struct url_part site = r->field[HTTP_FETCH_SITE], host = r->field[HTTP_HOST], origin = r->field[HTTP_ORIGIN];
    const uint32_t scheme = origin.len - host.len; /* letters before the host, if that is what it is */

    if (site.off != 0 && !field_is(r, head, HTTP_FETCH_SITE, "same-origin") && !field_is(r, head, HTTP_FETCH_SITE, "none"))
        return false;
    return origin.off == 0 || (host.len > 0 && origin.len > host.len &&
                               (same(head + origin.off, scheme, "http://") || same(head + origin.off, scheme, "https://")) &&
                               memcmp(head + origin.off + scheme, head + host.off, host.len) == 0);
}
