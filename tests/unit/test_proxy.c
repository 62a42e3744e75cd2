/*
 * test_proxy.c - PROXY headers on every split point, addresses against the system's own parser, checksums, and what is no header.
 */
#include "proxy.h"
#include "unit.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

struct sample { const char *bytes; size_t n; enum proxy_status status; enum proxy_family family; uint16_t from_port, to_port; bool none; };
#define S(text, ...) { text, sizeof text - 1, __VA_ARGS__ }
#define GOOD(text, family, from, to) S(text, PROXY_WHOLE, family, from, to, false)
#define BAD(text) S(text, PROXY_BAD, PROXY_NOBODY, 0, 0, false)
#define NONE(text) S(text, PROXY_BAD, PROXY_NOBODY, 0, 0, true)
#define MORE(text) S(text, PROXY_MORE, PROXY_NOBODY, 0, 0, false)

static const struct sample samples[] = {
    GOOD("PROXY TCP4 192.0.2.7 198.51.100.1 51234 6379\r\n", PROXY_IPV4, 51234, 6379),
    GOOD("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", PROXY_IPV4, 0, 65535),
    GOOD("PROXY TCP6 2001:db8::7 ::1 1 2\r\n", PROXY_IPV6, 1, 2),
    GOOD("PROXY TCP6 :: 1:2:3:4:5:6:7:8 1 2\r\n", PROXY_IPV6, 1, 2),
    GOOD("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", PROXY_IPV6, 65535, 65535),
    GOOD("PROXY UNKNOWN\r\n", PROXY_NOBODY, 0, 0),
    GOOD("PROXY UNKNOWN whatever it may be\r\n", PROXY_NOBODY, 0, 0),
    GOOD(SIGNATURE "\x21\x11\0\x0c\1\2\3\4\5\6\7\x08\0\x50\x18\xeb", PROXY_IPV4, 80, 6379),
    GOOD(SIGNATURE "\x21\x12\0\x0f\1\2\3\4\5\6\7\x08\0\x50\x18\xeb\x04\0\0", PROXY_IPV4, 80, 6379),
    GOOD(SIGNATURE "\x20\0\0\0", PROXY_NOBODY, 0, 0),
    GOOD(SIGNATURE "\x20\xff\0\x05wrong", PROXY_NOBODY, 0, 0),
    GOOD(SIGNATURE "\x21\0\0\0", PROXY_NOBODY, 0, 0),
    MORE("PROXY TCP4 192.0.2.7 198.51.100.1 51234 6379\r"),
    MORE("P"),
    MORE(SIGNATURE),
    MORE(SIGNATURE "\x21\x11\0\x0c\1\2\3\4\5\6\7\x08\0\x50\x18"),
    NONE("PROXI"),
    NONE("PING\r\n"),
    NONE("*1\r\n"),
    NONE("\0"),
    NONE("\r\n\r\n\0\r\nQUIX\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n"),
    BAD("PROXY\x20\n"),
    BAD("PROXY \r\n"),
    BAD("PROXY TCP4\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 01\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 -1\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n"),
    BAD("PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n"),
    BAD("PROXY TCP4 1.2.3.4.5 1.2.3.4 1 1\r\n"),
    BAD("PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n"),
    BAD("PROXY UNKNOWNS\r\n"),
    BAD(SIGNATURE "\x11\x11\0\x0c"),
    BAD(SIGNATURE "\x22\x11\0\x0c"),
    BAD(SIGNATURE "\x21\x11\0\x0b"),
    BAD(SIGNATURE "\x21\x01\0\0"),
    BAD(SIGNATURE "\x21\x13\0\x0c"),
    BAD(SIGNATURE "\x21\x41\0\x0c"),
    BAD(SIGNATURE "\x21\x11\x02\x09"),
    BAD(SIGNATURE "\x21\x11\0\x0e\1\2\3\4\5\6\7\x08\0\x50\x18\xeb\x04\0"),
    BAD(SIGNATURE "\x21\x11\0\x10\1\2\3\4\5\6\7\x08\0\x50\x18\xeb\x04\0\2x"),
    BAD(SIGNATURE "\x21\x11\0\x13\1\2\3\4\5\6\7\x08\0\x50\x18\xeb\x03\0\x04\0\0\0\0"),
    BAD(SIGNATURE "\x21\x11\0\x12\1\2\3\4\5\6\7\x08\0\x50\x18\xeb\x03\0\x03\0\0\0"),
};

/* Reads n bytes in pieces of at most `piece`, the first of `first`; gives how many were used. */
static size_t feed(struct proxy_header *h, const char *bytes, size_t n, size_t first, size_t piece, enum proxy_status *status)
{
    size_t at = 0;
    memset(h, 0, sizeof *h);
    *status = PROXY_MORE;
    for (size_t give = first; at < n && *status == PROXY_MORE; give = piece) {
        unsigned char *copy = malloc(give < n - at ? give : n - at); /* of its size: a sanitizer sees what is read behind it */
        size_t part = give < n - at ? give : n - at;
        memcpy(copy, bytes + at, part);
        at += proxy_read(h, copy, part, status);
        free(copy);
    }
    return at;
}

static void test_samples(void)
{
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        const struct sample *s = &samples[i];
        struct proxy_header h;
        enum proxy_status status;
        unit_note = s->bytes;
        for (size_t first = 1; first <= s->n; first++) {
            size_t used = feed(&h, s->bytes, s->n, first, s->n, &status);
            CHECK(status == s->status && h.family == s->family);
            CHECK(status != PROXY_WHOLE || (h.from_port == s->from_port && h.to_port == s->to_port));
            CHECK((h.error != NULL) == (status == PROXY_BAD) && h.none == s->none);
            CHECK(status == PROXY_BAD ? used <= s->n : used == s->n);
            CHECK(used == h.used);
        }
        CHECK(feed(&h, s->bytes, s->n, 1, 1, &status) == h.used && status == s->status);
    }
}

/* What stands behind a header is left where it is. */
static void test_behind(void)
{
    static const char line[] = "PROXY TCP4 192.0.2.7 198.51.100.1 51234 6379\r\nPROXY UNKNOWN\r\n", binary[] = SIGNATURE "\x20\0\0\0PING";
    struct proxy_header h;
    enum proxy_status status;
    unit_note = "bytes behind a header";
    CHECK(feed(&h, line, sizeof line - 1, 100, 100, &status) == 46 && status == PROXY_WHOLE);
    CHECK(memcmp(h.from, "\300\0\2\7", 4) == 0 && memcmp(h.to, "\306\63\144\1", 4) == 0);
    CHECK(feed(&h, binary, sizeof binary - 1, 100, 100, &status) == 16 && status == PROXY_WHOLE);
}

static void test_limits(void)
{
    char text[PROXY_MAX + 1];
    struct proxy_header h;
    enum proxy_status status;
    unit_note = "the longest headers";
    memset(text, 'x', sizeof text);
    memcpy(text, "PROXY UNKNOWN ", 14);
    memcpy(text + PROXY_LINE_MAX - 2, "\r\n", 2);
    CHECK(feed(&h, text, sizeof text, 10, 50, &status) == PROXY_LINE_MAX && status == PROXY_WHOLE);
    memset(text + 14, 'x', PROXY_LINE_MAX);
    CHECK(feed(&h, text, sizeof text, 10, 50, &status) == PROXY_LINE_MAX && status == PROXY_BAD);
    memset(text, 0, sizeof text);
    memcpy(text, SIGNATURE "\x21\0\x02\x08\x04\x02\x05", 19);
    CHECK(feed(&h, text, sizeof text, 10, 50, &status) == PROXY_MAX && status == PROXY_WHOLE);
    text[15] = 9;
    CHECK(feed(&h, text, sizeof text, 10, 50, &status) == 16 && status == PROXY_BAD);
}

/* Computed here from the other end: the polynomial as it is printed, the bits of each byte mirrored. Then each bit of a header counts. */
static void test_checksum(void)
{
    static const char good[] = SIGNATURE "\x21\x11\0\x13\300\0\2\7\306\63\144\1\310\42\x18\xeb\x03\0\x04";
    char text[35];
    struct proxy_header h;
    enum proxy_status status;
    uint32_t crc = UINT32_MAX, mirrored = 0;
    unit_note = "the checksum";
    memset(text, 0, sizeof text);
    memcpy(text, good, sizeof good - 1);
    for (size_t i = 0; i < sizeof text; i++) {
        for (int k = 0; k < 8; k++) {
            uint32_t bit = (((unsigned char)text[i] >> k) & 1u) ^ (crc >> 31);
            crc = crc << 1 ^ (bit != 0 ? UINT32_C(0x1edc6f41) : 0);
        }
    }
    crc = ~crc;
    for (int i = 0; i < 32; i++) {
        mirrored |= ((crc >> i) & 1u) << (31 - i);
    }
    for (int i = 0; i < 4; i++) {
        text[31 + i] = (char)(mirrored >> (24 - 8 * i));
    }
    CHECK(feed(&h, text, sizeof text, 1, 1, &status) == sizeof text && status == PROXY_WHOLE && h.from_port == 51234);
    for (size_t i = 16; i < sizeof text; i++) {
        for (int k = 0; k < 8; k++) {
            text[i] = (char)(text[i] ^ 1 << k);
            feed(&h, text, sizeof text, 100, 100, &status);
            CHECK(status != PROXY_WHOLE || (i == 28 && text[28] != 3)); /* another type than the checksum's is not looked at */
            text[i] = (char)(text[i] ^ 1 << k);
        }
    }
}

/* Any text of these letters is an address to this parser if it is one to the system's. */
static void test_addresses(void)
{
    uint32_t seed = 1, four = 0, six = 0;
    unit_note = "addresses as the system reads them";
    for (int round = 0; round < 400000; round++) {
        static const char letters[] = "0123456789abcdefABCDEF::::::::....";
        char address[48], line[PROXY_LINE_MAX + 1];
        unsigned char theirs[16];
        struct proxy_header h;
        enum proxy_status status;
        bool v6 = round % 4 != 0;
        size_t n = 0, groups = 1 + (size_t)round / 4 % 9;
        for (size_t g = 0; g < groups; g++) { /* mostly groups with a separator, now and then something else */
            seed = seed * 1664525 + 1013904223;
            n += (size_t)snprintf(address + n, sizeof address - n, v6 ? "%x" : "%u", v6 ? seed >> 16 & 0xfff : seed >> 24 & 0x1ff);
            seed = seed * 1664525 + 1013904223;
            n += (size_t)snprintf(address + n, sizeof address - n, "%s", g + 1 == groups ? "" : !v6 ? "." : seed >> 29 == 0 ? "::" : ":");
        }
        seed = seed * 1664525 + 1013904223;
        if (seed >> 30 == 0) {
            address[(seed >> 8) % n] = letters[(seed >> 16) % (sizeof letters - 1)];
        }
        if (seed >> 29 == 2 && n < 30 && v6) {
            snprintf(address + n, sizeof address - n, "%s", seed >> 28 == 4 ? "::" : ":1.2.3.4");
        }
        snprintf(line, sizeof line, "PROXY TCP%d %.39s %s 1 1\r\n", v6 ? 6 : 4, address, v6 ? "::" : "0.0.0.0");
        address[39] = '\0';
        bool is_one = inet_pton(v6 ? AF_INET6 : AF_INET, address, theirs) == 1;
        feed(&h, line, strlen(line), 200, 200, &status);
        unit_note = address;
        CHECK((status == PROXY_WHOLE) == is_one);
        CHECK(!is_one || memcmp(theirs, h.from, v6 ? 16 : 4) == 0);
        four += is_one && !v6;
        six += is_one && v6;
    }
    unit_note = "some of them were addresses";
    CHECK(four > 1000 && six > 1000);
}

static void test_begins(void)
{
    unit_note = "how a header begins";
    CHECK(proxy_begins((const unsigned char *)"PROXY TCP4", 10));
    CHECK(proxy_begins((const unsigned char *)SIGNATURE "\x20", 13));
    CHECK(!proxy_begins((const unsigned char *)"PROXY", 5));
    CHECK(!proxy_begins((const unsigned char *)SIGNATURE, 11));
    CHECK(!proxy_begins((const unsigned char *)"PING\r\nPING\r\nPING\r\n", 18));
    CHECK(!proxy_begins((const unsigned char *)"", 0));
}

int main(void)
{
    test_samples();
    test_behind();
    test_limits();
    test_checksum();
    test_addresses();
    test_begins();
    return unit_end();
}
