/*
 * proxy.c - reads the header of the PROXY protocol, byte by byte as it comes.
 *
 *   "PROXY TCP4 192.0.2.7 198.51.100.1 51234 6379" CR LF                             version 1: line()
 *   signature[12], version and command, family, length[2], addresses, TLVs          version 2: head() at byte 16, body() at the last
 *
 * The first byte tells them apart. A header is kept until it is whole: its checksum covers all of it. Of the TLVs only that checksum is
 * looked at; the others are walked, so that one that is cut short is seen.
 */
#include "proxy.h"
#include "text.h"

#include <string.h>

#define HEAD 16     /* bytes of version 2 ahead of the addresses */
#define CRC32C 0x03 /* the type of the TLV that has the checksum */

static const unsigned char signature[12] = { '\r', '\n', '\r', '\n', '\0', '\r', '\n', 'Q', 'U', 'I', 'T', '\n' };
static const unsigned char word[6] = { 'P', 'R', 'O', 'X', 'Y', ' ' };

static enum proxy_status bad(struct proxy_header *h, const char *error)
{
    h->error = error;
    h->family = PROXY_NOBODY;
    return PROXY_BAD;
}

/* ------------------------------------------------------------- version 1 */

static int digit(unsigned char c, unsigned base)
{
    unsigned value = text_hex((char)c);
    return value < base ? (int)value : -1;
}

/* A number of 1 to `digits` digits, at most `most`; in decimal without a zero ahead. NULL: there is none at p. */
static const unsigned char *number(const unsigned char *p, unsigned base, int digits, uint32_t most, uint32_t *out)
{
    const unsigned char *from = p;
    *out = 0;
    while (digit(*p, base) >= 0 && p - from < digits) {
        *out = *out * base + (uint32_t)digit(*p++, base);
    }
    return p == from || *out > most || (base == 10 && *from == '0' && p - from > 1) ? NULL : p;
}

static const unsigned char *ipv4(const unsigned char *p, unsigned char out[4])
{
    for (int i = 0; i < 4 && p != NULL; i++) {
        uint32_t value;
        if (i > 0 && *p++ != '.') {
            return NULL;
        }
        p = number(p, 10, 3, 255, &value);
        out[i] = (unsigned char)value;
    }
    return p;
}

/* Groups of up to four digits; "::" once, for all that is missing; an IPv4 address may be the end. */
static const unsigned char *ipv6(const unsigned char *p, unsigned char out[16])
{
    unsigned char tail[4];
    int n = 0, gap = -1;
    const unsigned char *end;
    uint32_t group;
    memset(out, 0, 16);
    if (p[0] == ':' && p[1] == ':') {
        gap = 0;
        p += 2;
    }
    while (n < 16 && (end = number(p, 16, 4, 0xffff, &group)) != NULL) {
        if (*end == '.' && n <= 12 && (end = ipv4(p, tail)) != NULL) {
            memcpy(out + n, tail, 4);
            n += 4;
            p = end;
            break;
        }
        if (end == NULL) {
            return NULL;
        }
        out[n++] = (unsigned char)(group >> 8);
        out[n++] = (unsigned char)group;
        p = end;
        if (p[0] != ':') {
            break;
        }
        if (p[1] == ':' && gap >= 0) {
            return NULL;
        }
        gap = p[1] == ':' ? n : gap;
        p += p[1] == ':' ? 2 : 1;
        if (p[-2] != ':' && digit(*p, 16) < 0) {
            return NULL; /* a single ':' has a group behind it */
        }
    }
    if (gap < 0) {
        return n == 16 ? p : NULL;
    }
    if (n == 16) {
        return NULL; /* "::" stands for one group at least */
    }
    memmove(out + 16 - (n - gap), out + gap, (size_t)(n - gap));
    memset(out + gap, 0, (size_t)(16 - n));
    return p;
}

static const unsigned char *port(const unsigned char *p, uint16_t *out)
{
    uint32_t value;
    p = p != NULL && *p == ' ' ? number(p + 1, 10, 5, 65535, &value) : NULL;
    *out = p != NULL ? (uint16_t)value : 0;
    return p;
}

/* A line that ends with the byte that came last. */
static enum proxy_status line(struct proxy_header *h)
{
    const unsigned char *p = h->bytes + sizeof word, *end = h->bytes + h->used - 2;
    bool six = memcmp(p, "TCP6 ", 5) == 0;
    if (end < p || *end != '\r' || memchr(h->bytes, '\r', h->used) != end) {
        return bad(h, "a line that does not end with CR LF");
    }
    if (end - p >= 7 && memcmp(p, "UNKNOWN", 7) == 0 && (p[7] == ' ' || p + 7 == end)) {
        return PROXY_WHOLE; /* what stands behind the word is to be ignored */
    }
    if (!six && memcmp(p, "TCP4 ", 5) != 0) {
        return bad(h, "neither TCP4 nor TCP6 nor UNKNOWN");
    }
    p = six ? ipv6(p + 5, h->from) : ipv4(p + 5, h->from);
    p = p == NULL || *p != ' ' ? NULL : six ? ipv6(p + 1, h->to) : ipv4(p + 1, h->to);
    p = port(port(p, &h->from_port), &h->to_port);
    if (p != end) {
        return bad(h, "not two addresses and two ports");
    }
    h->family = six ? PROXY_IPV6 : PROXY_IPV4;
    return PROXY_WHOLE;
}

/* ------------------------------------------------------------- version 2 */

static uint32_t big(const unsigned char *p, int n)
{
    uint32_t value = 0;
    for (int i = 0; i < n; i++) {
        value = value << 8 | p[i];
    }
    return value;
}

/* Of all bytes, those of the checksum itself taken as 0. */
static uint32_t crc32c(const unsigned char *p, size_t n, size_t zero)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        crc ^= i >= zero && i < zero + 4 ? 0u : p[i];
        for (int k = 0; k < 8; k++) {
            crc = crc >> 1 ^ ((crc & 1) != 0 ? UINT32_C(0x82f63b78) : 0);
        }
    }
    return ~crc;
}

/* Bytes of the addresses of a family, by its number; -1: there is no such family. */
static int addresses(unsigned char family)
{
    static const int bytes[] = { 0, 12, 36, 216 };
    bool known = family == 0 || (family >> 4 >= 1 && family >> 4 <= 3 && (family & 15) >= 1 && (family & 15) <= 2);
    return known ? bytes[family >> 4] : -1;
}

static enum proxy_status head(struct proxy_header *h)
{
    const unsigned char *b = h->bytes;
    uint32_t length = big(b + 14, 2);
    if (b[12] != 0x20 && b[12] != 0x21) {
        return bad(h, "neither LOCAL nor PROXY of version 2");
    }
    if (length > PROXY_MAX - HEAD) {
        return bad(h, "a header of more than 536 bytes");
    }
    if (b[12] == 0x21 && (addresses(b[13]) < 0 || (uint32_t)addresses(b[13]) > length)) {
        return bad(h, "a family that is not known, or an address that is cut short");
    }
    return PROXY_MORE;
}

static enum proxy_status body(struct proxy_header *h)
{
    const unsigned char *b = h->bytes;
    size_t at = HEAD + (size_t)addresses(b[13]), each = b[13] >> 4 == 2 ? 16 : 4;
    bool summed = false;
    while (at < h->used) {
        size_t n = h->used - at < 3 ? 0 : 3 + big(b + at + 1, 2);
        if (n == 0 || n > h->used - at) {
            return bad(h, "a TLV that is cut short");
        }
        if (b[at] == CRC32C && (summed || n != 7 || big(b + at + 3, 4) != crc32c(b, h->used, at + 3))) {
            return bad(h, "a wrong checksum");
        }
        summed = summed || b[at] == CRC32C;
        at += n;
    }
    h->family = (enum proxy_family)(b[13] >> 4);
    if (h->family == PROXY_IPV4 || h->family == PROXY_IPV6) {
        memcpy(h->from, b + HEAD, each);
        memcpy(h->to, b + HEAD + each, each);
        h->from_port = (uint16_t)big(b + HEAD + 2 * each, 2);
        h->to_port = (uint16_t)big(b + HEAD + 2 * each + 2, 2);
    }
    return PROXY_WHOLE;
}

static enum proxy_status binary(struct proxy_header *h)
{
    enum proxy_status status = h->used == HEAD ? head(h) : PROXY_MORE;
    if (status == PROXY_MORE && h->used >= HEAD && h->used == HEAD + big(h->bytes + 14, 2)) {
        status = h->bytes[12] == 0x20 ? PROXY_WHOLE : body(h); /* of LOCAL nothing else is looked at */
    }
    return status;
}

/* ------------------------------------------------------------- the whole */

static enum proxy_status step(struct proxy_header *h)
{
    bool two = h->bytes[0] == signature[0];
    const unsigned char *begin = two ? signature : word;
    size_t n = two ? sizeof signature : sizeof word;
    if (memcmp(h->bytes, begin, h->used < n ? h->used : n) != 0) {
        h->none = true;
        return bad(h, "no PROXY header");
    }
    if (h->used <= n) {
        return PROXY_MORE;
    }
    if (two) {
        return binary(h);
    }
    if (h->bytes[h->used - 1] == '\n') {
        return line(h);
    }
    return h->used == PROXY_LINE_MAX ? bad(h, "a line of more than 107 bytes") : PROXY_MORE;
}

size_t proxy_read(struct proxy_header *h, const unsigned char *p, size_t n, enum proxy_status *status)
{
    size_t at = 0;
    *status = PROXY_MORE;
    while (at < n && *status == PROXY_MORE) {
        h->bytes[h->used++] = p[at++];
        *status = step(h);
    }
    return at;
}

bool proxy_begins(const unsigned char *p, size_t n)
{
    return (n >= sizeof word && memcmp(p, word, sizeof word) == 0) ||
           (n >= sizeof signature && memcmp(p, signature, sizeof signature) == 0);
}
