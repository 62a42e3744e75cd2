/* slotmap.c - hash slots of keys, the map of their owners, and the two messages of a cluster that change it.
 *
 *   key --> hash tag --> CRC16 --> slot
 *
 *   CLUSTER SLOTS:  *[ranges]            frame KIND_RANGES
 *                     *[start end node]  frame KIND_RANGE   --range_done()--> owner[start..end]
 *                       *[host port id]  frame KIND_NODE    --node_done()---> nodes[], found again by host and port
 *                         *[metadata]    frame KIND_SKIP    --> passed over
 *
 * The reply is taken apart byte by byte as it comes: a header line is gathered in `line`, a host in `text`, all else
 * is only counted, so that a reply of megabytes needs no more room than this. Sources: the Redis Cluster
 * specification, the documentation of CLUSTER SLOTS, and replies of Redis 7.0.
 */
#include "slotmap.h"

#include <string.h>

/* x^16 to x^47 modulo x^16 + x^12 + x^5 + 1: what a single bit of a byte does to the checksum when none, one, two or
 * three bytes follow that byte. All other table entries are sums of these. */
#define SUM8(i, a, b, c, d, e, f, g, h)                                                                                \
    (uint16_t)(((i) & 1 ? a : 0) ^ ((i) & 2 ? b : 0) ^ ((i) & 4 ? c : 0) ^ ((i) & 8 ? d : 0) ^                         \
               ((i) & 16 ? e : 0) ^ ((i) & 32 ? f : 0) ^ ((i) & 64 ? g : 0) ^ ((i) & 128 ? h : 0))
#define BYTE0(i) SUM8(i, 0x1021, 0x2042, 0x4084, 0x8108, 0x1231, 0x2462, 0x48C4, 0x9188)
#define BYTE1(i) SUM8(i, 0x3331, 0x6662, 0xCCC4, 0x89A9, 0x0373, 0x06E6, 0x0DCC, 0x1B98)
#define BYTE2(i) SUM8(i, 0x3730, 0x6E60, 0xDCC0, 0xA9A1, 0x4363, 0x86C6, 0x1DAD, 0x3B5A)
#define BYTE3(i) SUM8(i, 0x76B4, 0xED68, 0xCAF1, 0x85C3, 0x1BA7, 0x374E, 0x6E9C, 0xDD38)
#define ROW4(f, i) f(i), f((i) + 1), f((i) + 2), f((i) + 3)
#define ROW16(f, i) ROW4(f, i), ROW4(f, (i) + 4), ROW4(f, (i) + 8), ROW4(f, (i) + 12)
#define ROW64(f, i) ROW16(f, i), ROW16(f, (i) + 16), ROW16(f, (i) + 32), ROW16(f, (i) + 48)
#define ROW256(f) {ROW64(f, 0), ROW64(f, 64), ROW64(f, 128), ROW64(f, 192)}

static const uint16_t crc_table[4][256] = {ROW256(BYTE0), ROW256(BYTE1), ROW256(BYTE2), ROW256(BYTE3)};

/* What stands at a place of the reply; of the frames, what they are. */
enum { REPLY, RANGE, NODE, OTHER, START, END, HOST, PORT };

/* What the first, the second and every further element of a frame is. */
static const uint8_t element[][3] = {
    [REPLY] = {RANGE, RANGE, RANGE}, [RANGE] = {START, END, NODE}, [NODE] = {HOST, PORT, OTHER},
    [OTHER] = {OTHER, OTHER, OTHER}};

static const char *const misfit[] = {
    [REPLY] = "the reply is not an array", [RANGE] = "a range is not an array", [NODE] = "a node is not an array",
    [OTHER] = "", [START] = "the start of a range is not a slot",
    [END] = "the end of a range is not a slot from its start on",
    [HOST] = "a node's host is not a printable string below 256 bytes", [PORT] = "a node's port is not one"};

uint16_t slotmap_slot(const unsigned char *key, size_t len)
{
    const unsigned char *open = memchr(key, '{', len);
    uint32_t crc = 0;

    if (open != NULL) {
        size_t rest = len - (size_t)(open + 1 - key);
        const unsigned char *close = memchr(open + 1, '}', rest);

        if (close != NULL && close != open + 1) {
            key = open + 1;
            len = (size_t)(close - key);
        }
    }
    for (; len >= 4; len -= 4, key += 4)
        crc = (uint32_t)(crc_table[3][(crc >> 8) ^ key[0]] ^ crc_table[2][(crc & 0xFF) ^ key[1]] ^
                         crc_table[1][key[2]] ^ crc_table[0][key[3]]);
    for (; len > 0; len--, key++)
        crc = ((crc << 8) & 0xFFFF) ^ crc_table[0][(crc >> 8) ^ *key];
    return (uint16_t)(crc % SLOTMAP_SLOTS);
}

void slotmap_clear(struct slotmap *map)
{
    memset(map->owner, 0xFF, sizeof map->owner); /* SLOTMAP_NONE in both bytes */
    map->served = 0;
    map->epoch++;
}

bool slotmap_set(struct slotmap *map, uint16_t slot, uint16_t owner)
{
    if (slot >= SLOTMAP_SLOTS || map->owner[slot] == owner)
        return false;
    if (map->owner[slot] == SLOTMAP_NONE)
        map->served++;
    else if (owner == SLOTMAP_NONE)
        map->served--;
    map->owner[slot] = owner;
    map->epoch++;
    return true;
}

void slotmap_stage_begin(struct slotmap_stage *s, struct slotmap_node *nodes, uint16_t cap)
{
    memset(s, 0, sizeof *s);
    memset(s->owner, 0xFF, sizeof s->owner); /* SLOTMAP_NONE */
    memset(s->bucket, 0xFF, sizeof s->bucket);
    s->nodes = nodes;
    s->node_cap = cap < SLOTMAP_NONE ? cap : SLOTMAP_NONE - 1;
    s->status = RESP_MORE;
}

/* Ends the reply as bad, with as much of the text as there is room for. */
static void refuse_text(struct slotmap_stage *s, const char *text, size_t n)
{
    size_t at = strlen(s->error), i;

    s->status = RESP_BAD;
    for (i = 0; i < n && at < sizeof s->error - 1; i++)
        s->error[at++] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    s->error[at] = '\0';
}

static void refuse(struct slotmap_stage *s, const char *why)
{
    refuse_text(s, why, strlen(why));
}

static void refuse_number(struct slotmap_stage *s, const char *why, uint64_t n)
{
    char digits[24];
    size_t at = sizeof digits;

    do
        digits[--at] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    refuse(s, why);
    refuse_text(s, digits + at, sizeof digits - at);
}

/* The index of the node of that host and port, made if it is new; SLOTMAP_NONE if there is no room for it. */
static uint16_t node_take(struct slotmap_stage *s)
{
    uint32_t h = s->port;
    const char *c;
    uint16_t *head, i;

    for (c = s->host; *c != '\0'; c++)
        h = (h ^ (unsigned char)*c) * 0x9E3779B1u;
    head = &s->bucket[(h >> 16) % SLOTMAP_BUCKETS];
    for (i = *head; i != SLOTMAP_NONE; i = s->nodes[i].next)
        if (s->nodes[i].port == s->port && strcmp(s->nodes[i].host, s->host) == 0)
            return i;
    if (s->node_count == s->node_cap)
        return SLOTMAP_NONE;
    i = s->node_count++;
    s->nodes[i] = (struct slotmap_node){{0}, s->port, s->master == SLOTMAP_NONE ? i : s->master, *head};
    memcpy(s->nodes[i].host, s->host, sizeof s->host);
    *head = i;
    return i;
}

/* The first node of a range is its master; one that is a master of any range stays one. A replica may have no port of
 * the kind that was asked for (with TLS or without): then it is left out. */
static void node_done(struct slotmap_stage *s)
{
    uint16_t i;

    if (s->fields != 2) {
        refuse(s, "a node without host and port");
    } else if (s->port == 0 && s->master == SLOTMAP_NONE) {
        refuse_number(s, "a master without a port, of slot ", s->start);
    } else if (s->port != 0) {
        i = node_take(s);
        if (i == SLOTMAP_NONE) {
            refuse_number(s, "more nodes than there is room for: ", s->node_cap);
        } else if (s->master == SLOTMAP_NONE) {
            s->nodes[i].master = i;
            s->master = i;
        }
    }
}

static void range_done(struct slotmap_stage *s)
{
    uint32_t slot;

    if (s->master == SLOTMAP_NONE) {
        refuse(s, "a range without a node");
        return;
    }
    for (slot = s->start; slot <= s->end; slot++) {
        if (s->owner[slot] != SLOTMAP_NONE) {
            refuse_number(s, "ranges overlap at slot ", slot);
            return;
        }
        s->owner[slot] = s->master;
    }
    s->served += s->end - s->start + 1;
}

/* Closes every frame that has no more elements; the reply is whole when the outermost is closed. */
static void settle(struct slotmap_stage *s)
{
    while (s->status == RESP_MORE && s->frame[s->depth - 1].left == 0) {
        const struct slotmap_frame *f = &s->frame[--s->depth];

        if (f->kind == NODE)
            node_done(s);
        else if (f->kind == RANGE)
            range_done(s);
        if (s->status != RESP_MORE || f->attribute)
            return;
        if (s->depth == 0) {
            s->status = RESP_WHOLE;
            return;
        }
        s->frame[s->depth - 1].left--;
        s->frame[s->depth - 1].index++;
    }
}

static int place(const struct slotmap_stage *s)
{
    const struct slotmap_frame *f = s->frame + s->depth;

    return s->depth == 0 ? REPLY : element[f[-1].kind][f[-1].index < 2 ? f[-1].index : 2];
}

static void open_frame(struct slotmap_stage *s, char type, int64_t count)
{
    bool attribute = type == '|', pairs = attribute || type == '%';
    int kind = attribute ? OTHER : place(s);

    if (kind > OTHER || (kind != OTHER && type != '*')) {
        refuse(s, misfit[kind]);
    } else if (count < 0 || count > (kind == REPLY ? SLOTMAP_SLOTS : SLOTMAP_REPLY_MAX)) {
        refuse(s, "an array of too many elements");
    } else if (s->depth == SLOTMAP_DEPTH) {
        refuse_number(s, "nested too deep: ", SLOTMAP_DEPTH);
    } else {
        s->frame[s->depth++] = (struct slotmap_frame){
            (uint32_t)(pairs ? 2 * count : count), 0, (uint8_t)kind, attribute};
        if (kind == RANGE)
            s->master = SLOTMAP_NONE;
        if (kind == NODE)
            s->fields = 0;
        settle(s);
    }
}

/* Nil and "?" both mean the node that answers, and so does the empty string. */
static bool node_host(struct slotmap_stage *s, char type)
{
    size_t n = type == '_' || (s->line_len == 1 && s->line[0] == '?') ? 0 : s->line_len, i;

    if (strchr("$+_", type) == NULL || n >= sizeof s->host)
        return false;
    for (i = 0; i < n; i++)
        if (s->line[i] <= ' ' || s->line[i] > '~')
            return false;
    memset(s->host, 0, sizeof s->host);
    memcpy(s->host, s->line, n);
    return true;
}

/* An element that is not an aggregate; `n` is the number of a ':', a string is in `line`. */
static void take_value(struct slotmap_stage *s, char type, int64_t n)
{
    int what = place(s);
    bool fits = what == OTHER;

    if (what == START || what == END) {
        fits = type == ':' && n < SLOTMAP_SLOTS && n >= (what == END ? (int64_t)s->start : 0);
        *(what == END ? &s->end : &s->start) = (uint32_t)n;
    } else if (what == PORT) {
        fits = type == ':' && n >= 0 && n <= 65535;
        s->port = (uint16_t)n;
    } else if (what == HOST) {
        fits = node_host(s, type);
    }
    s->line_len = 0;
    if (!fits) {
        refuse(s, misfit[what]);
        return;
    }
    s->fields = (uint8_t)(s->fields + (what == HOST || what == PORT));
    s->frame[s->depth - 1].left--;
    s->frame[s->depth - 1].index++;
    settle(s);
}

/* A string is in `line`, or as much of it as is kept. */
static void take_string(struct slotmap_stage *s, char type)
{
    if (type == '-' || type == '!') {
        s->server_error = true;
        refuse_text(s, s->line, s->line_len);
    } else {
        take_value(s, type, 0);
    }
}

/* A header line is in `line`, without its CRLF. */
static void line_done(struct slotmap_stage *s)
{
    char type = s->line_len > 0 ? s->line[0] : '\0';
    size_t len = s->line_len > 0 ? s->line_len - 1u : 0;
    int64_t n = 0;

    memmove(s->line, s->line + 1, len);
    s->line_len = (uint16_t)len;
    if (type == '\0' || strchr("+-_,#(*~>%|$=!:", type) == NULL) {
        refuse(s, "not RESP: an unknown type byte");
    } else if (strchr("+-", type) != NULL) {
        take_string(s, type);
    } else if (strchr("_,#(", type) != NULL) {
        take_value(s, type, 0);
    } else if (!resp_to_int((const unsigned char *)s->line, len, &n)) {
        refuse(s, "not RESP: a number that is none");
    } else if (type == ':') {
        take_value(s, type, n);
    } else if (n == -1 && (type == '$' || type == '*')) {
        take_value(s, '_', 0);
    } else if (strchr("$=!", type) == NULL) {
        s->line_len = 0;
        open_frame(s, type, n);
    } else if (n < 0 || n > SLOTMAP_REPLY_MAX) {
        refuse(s, "a string of a length that cannot be");
    } else {
        s->line_len = 0;
        s->type = type;
        s->body_left = (uint32_t)n + 2;
    }
}

static void line_byte(struct slotmap_stage *s, char c)
{
    if (c == '\n' && s->line_len > 0 && s->line[s->line_len - 1] == '\r') {
        s->line_len--;
        line_done(s);
    } else if (s->line_len < sizeof s->line) {
        s->line[s->line_len++] = c;
    } else if (s->line[0] == '-') {
        line_done(s);
    } else {
        refuse(s, "not RESP: a header line that does not end");
    }
}

/* Takes what there is of a string, or one byte of the CRLF behind it; gives how many bytes. */
static size_t body_bytes(struct slotmap_stage *s, const unsigned char *p, size_t n)
{
    size_t room = sizeof s->line - s->line_len;

    if (s->body_left > 2) {
        if (n > s->body_left - 2)
            n = s->body_left - 2;
        memcpy(s->line + s->line_len, p, n < room ? n : room);
        s->line_len = (uint16_t)(s->line_len + (n < room ? n : room));
        s->body_left -= (uint32_t)n;
        return n;
    }
    if (*p != (s->body_left == 2 ? '\r' : '\n'))
        refuse(s, "not RESP: a string longer than its length");
    else if (--s->body_left == 0)
        take_string(s, s->type);
    return 1;
}

enum resp_status slotmap_stage_feed(struct slotmap_stage *s, const unsigned char *p, size_t n, size_t *used)
{
    size_t i = 0;

    while (i < n && s->status == RESP_MORE) {
        if (s->body_left > 0)
            i += body_bytes(s, p + i, n - i);
        else
            line_byte(s, (char)p[i++]);
    }
    s->total += i;
    if (s->status == RESP_MORE && s->total > SLOTMAP_REPLY_MAX)
        refuse_number(s, "a reply of more bytes than ", SLOTMAP_REPLY_MAX);
    *used = i;
    return s->status;
}

/* A decimal that ends at `stop`; moves *p behind it. */
static bool take_number(const unsigned char **p, const unsigned char *end, unsigned char stop, int64_t max, int64_t *n)
{
    const unsigned char *at = memchr(*p, stop, (size_t)(end - *p));

    if (at == NULL || !resp_to_int(*p, (size_t)(at - *p), n) || *n < 0 || *n > max)
        return false;
    *p = at + 1;
    return true;
}

bool slotmap_redirect(const unsigned char *line, size_t n, struct slotmap_redirect *out)
{
    const unsigned char *p = line, *end = line + n, *colon, *q;
    size_t len;
    int64_t number;

    out->ask = n >= 5 && memcmp(p, "-ASK ", 5) == 0;
    if (!out->ask && (n < 7 || memcmp(p, "-MOVED ", 7) != 0))
        return false;
    p += out->ask ? 5 : 7;
    if (!take_number(&p, end, ' ', SLOTMAP_SLOTS - 1, &number))
        return false;
    out->slot = (uint16_t)number;
    for (colon = NULL, q = p; q < end && *q > ' ' && *q <= '~'; q++)
        if (*q == ':')
            colon = q;
    if (colon == NULL || colon - p >= SLOTMAP_HOST_CAP || end - q != 2 || q[0] != '\r' || q[1] != '\n')
        return false;
    len = colon - p == 1 && *p == '?' ? 0 : (size_t)(colon - p);
    memcpy(out->host, p, len);
    out->host[len] = '\0';
    p = colon + 1;
    if (!take_number(&p, end, '\r', 65535, &number) || number == 0)
        return false;
    out->port = (uint16_t)number;
    return true;
}
