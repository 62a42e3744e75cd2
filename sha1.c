/* sha1.c - SHA-1 of bytes that lie in one piece.
 *
 *   bytes: | block of 64 | block of 64 | ... | rest, 0x80, zeros, length in bits |
 *                 `--> state of five words --> digest
 */
#include "sha1.h"

#include <stdint.h>
#include <string.h>

#define BLOCK 64

static uint32_t turn(uint32_t x, unsigned by)
{
    return x << by | x >> (32 - by);
}

static uint32_t big_endian(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The function and the constant of round i. */
static uint32_t mix(unsigned i, uint32_t b, uint32_t c, uint32_t d)
{
    return i < 20   ? ((b & c) | (~b & d)) + 0x5a827999u
           : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1u
           : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdcu
                    : (b ^ c ^ d) + 0xca62c1d6u;
}

void sha1_block(uint32_t state[5], const unsigned char p[64])
{
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (unsigned i = 0; i < 80; i++) {
        w[i] = i < 16 ? big_endian(p + 4 * i) : turn(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t next = turn(a, 5) + mix(i, b, c, d) + e + w[i];
        e = d, d = c, c = turn(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

void sha1(const void *bytes, size_t n, unsigned char digest[SHA1_BYTES])
{
    uint32_t state[5] = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0 };
    unsigned char last[2 * BLOCK] = { 0 };
    const unsigned char *p = bytes;
    size_t rest = n % BLOCK, end = rest < BLOCK - 8 ? BLOCK : 2 * BLOCK;
    uint64_t bits = (uint64_t)n * 8;
    for (size_t at = 0; at + BLOCK <= n; at += BLOCK)
        sha1_block(state, p + at);
    if (rest > 0)
        memcpy(last, p + (n - rest), rest);
    last[rest] = 0x80;
    for (unsigned i = 0; i < 8; i++)
        last[end - 1 - i] = (unsigned char)(bits >> (8 * i));
    for (size_t at = 0; at < end; at += BLOCK)
        sha1_block(state, last + at);
    for (unsigned i = 0; i < SHA1_BYTES; i++)
        digest[i] = (unsigned char)(state[i / 4] >> (24 - 8 * (i % 4)));
}
