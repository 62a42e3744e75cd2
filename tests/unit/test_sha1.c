/*
 * test_sha1.c - the digests of FIPS 180's examples, and of every length around a block
 */
#include "sha1.h"
#include "unit.h"

#include <stdio.h>
#include <string.h>

static const char *hex(const void *bytes, size_t n)
{
    static char text[2 * SHA1_BYTES + 1];
    unsigned char digest[SHA1_BYTES];
    sha1(bytes, n, digest);
    for (int i = 0; i < SHA1_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return text;
}

int main(void)
{
    static unsigned char million[1000000];
    unsigned char chain[SHA1_BYTES] = { 0 }, some[200];
    CHECK(strcmp(hex("abc", 3), "a9993e364706816aba3e25717850c26c9cd0d89d") == 0);
    CHECK(strcmp(hex("", 0), "da39a3ee5e6b4b0d3255bfef95601890afd80709") == 0);
    CHECK(strcmp(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56),
                 "84983e441c3bd26ebaae4aa1f95129e5e54670f1") == 0);
    memset(million, 'a', sizeof million);
    CHECK(strcmp(hex(million, sizeof million), "34aa973cd4c4daa4f61eeb2bdbad27316534016f") == 0);
    /* Every length up to 199, each digest over the one before and so many bytes. */
    for (size_t n = 0; n < sizeof some - SHA1_BYTES; n++) {
        memcpy(some, chain, SHA1_BYTES);
        memset(some + SHA1_BYTES, (int)n, n);
        sha1(some, SHA1_BYTES + n, chain);
    }
    /* As hashlib has it. */
    CHECK(memcmp(chain, "\xcb\xda\x4c\x70\x74\x67\x62\x4d\x2b\x1a\x98\x69\x3b\x8b\x8c\x0f\x7b\xc9\x21\x40", SHA1_BYTES) == 0);
    return unit_end();
}
