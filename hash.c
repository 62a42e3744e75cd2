/* hash.c - MD5, SHA-1, SHA-256, HMAC.
 *
 *   bytes: | block of 64 | block of 64 | ... | rest, 0x80, zeros, length in bits |
 *                `--> state: 4, 5 or 8 words --> digest
 *   HMAC:  | key ^ 36.. | bytes ... | --> digest --> | key ^ 5c.. | digest | --> tag
 *
 * Each kind is one function that takes a block into the state; the rest is the same for all of them, but that MD5 counts
 * and stores its bytes from the low end.
 */
#include "hash.h"

#include "sha1.h"

#include <string.h>

static uint32_t left(uint32_t x, unsigned by)
{
    return x << by | x >> (32 - by);
}

static uint32_t right(uint32_t x, unsigned by)
{
    return x >> by | x << (32 - by);
}

static uint32_t get_big(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put_big(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)(v >> 24);
    p[1] = (unsigned char)(v >> 16);
    p[2] = (unsigned char)(v >> 8);
    p[3] = (unsigned char)v;
}

static uint32_t get_little(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* ------------------------------------------------------------------ blocks */

/* The sines of 1 to 64 radians, and the cube roots of the first 64 primes: 32 bits behind the point of each. */
static const uint32_t sines[64] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391
};
static const uint32_t roots[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
};

static void md5_block(uint32_t state[4], const unsigned char *p)
{
    static const uint8_t by[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    unsigned i;

    for (i = 0; i < 64; i++) {
        const unsigned row = i / 16;
        const unsigned word = (row == 0 ? i : row == 1 ? 5 * i + 1 : row == 2 ? 3 * i + 5 : 7 * i) % 16;
        const uint32_t mix = row == 0   ? (b & c) | (~b & d)
                             : row == 1 ? (d & b) | (~d & c)
                             : row == 2 ? b ^ c ^ d
                                        : c ^ (b | ~d);
        const uint32_t next = b + left(a + mix + sines[i] + get_little(p + 4 * word), by[row][i % 4]);

        a = d, d = c, c = b, b = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
}

static void sha256_block(uint32_t state[8], const unsigned char *p)
{
    uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    unsigned i;

    for (i = 0; i < 16; i++)
        w[i] = get_big(p + 4 * i);
    for (; i < 64; i++)
        w[i] = w[i - 16] + (right(w[i - 15], 7) ^ right(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (right(w[i - 2], 17) ^ right(w[i - 2], 19) ^ w[i - 2] >> 10);
    for (i = 0; i < 64; i++) {
        const uint32_t one = h + (right(e, 6) ^ right(e, 11) ^ right(e, 25)) + ((e & f) ^ (~e & g)) + roots[i] + w[i];
        const uint32_t two = (right(a, 2) ^ right(a, 13) ^ right(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));

        h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static void add_block(enum hash_kind kind, uint32_t state[8], const unsigned char *p)
{
    if (kind == HASH_SHA_256)
        sha256_block(state, p);
    else if (kind == HASH_SHA_1)
        sha1_block(state, p);
    else
        md5_block(state, p);
}

/* ----------------------------------------------------------------- digests */

size_t hash_size(enum hash_kind kind)
{
    return kind == HASH_SHA_256 ? 32 : kind == HASH_SHA_1 ? 20 : 16;
}

void hash_start(struct hash *h, enum hash_kind kind)
{
    static const uint32_t older[8] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    static const uint32_t newer[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

    memset(h, 0, sizeof *h);
    memcpy(h->state, kind == HASH_SHA_256 ? newer : older, sizeof h->state);
    h->kind = (uint8_t)kind;
}

void hash_add(struct hash *h, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;

    while (n > 0) {
        const size_t at = (size_t)(h->len % HASH_BLOCK), most = HASH_BLOCK - at, take = n < most ? n : most;

        memcpy(h->block + at, p, take);
        if (take == most)
            add_block((enum hash_kind)h->kind, h->state, h->block);
        h->len += take;
        p += take;
        n -= take;
    }
}

/* The words of a state as the kind writes them. */
static void put_state(enum hash_kind kind, const uint32_t state[8], unsigned char *digest)
{
    size_t i;

    for (i = 0; i < hash_size(kind); i += 4) {
        const uint32_t v = state[i / 4];

        put_big(digest + i, kind != HASH_MD5 ? v : (left(v, 8) & 0x00FF00FF) | (right(v, 8) & 0xFF00FF00));
    }
}

size_t hash_end(struct hash *h, unsigned char digest[HASH_MAX])
{
    static const unsigned char pad[HASH_BLOCK + 8] = {0x80};
    const uint64_t bits = h->len * 8;
    const size_t rest = (size_t)(h->len % HASH_BLOCK);
    unsigned char count[8];
    unsigned i;

    for (i = 0; i < 8; i++)
        count[i] = (unsigned char)(bits >> (h->kind == HASH_MD5 ? 8 * i : 56 - 8 * i));
    hash_add(h, pad, (rest < HASH_BLOCK - 8 ? HASH_BLOCK - 8 : 2 * HASH_BLOCK - 8) - rest);
    hash_add(h, count, sizeof count);
    put_state((enum hash_kind)h->kind, h->state, digest);
    return hash_size((enum hash_kind)h->kind);
}

/* -------------------------------------------------------------------- HMAC */

static void padded_block(struct hash *h, enum hash_kind kind, const unsigned char key[HASH_BLOCK], unsigned char with)
{
    unsigned char block[HASH_BLOCK];
    unsigned i;

    for (i = 0; i < HASH_BLOCK; i++)
        block[i] = key[i] ^ with;
    hash_start(h, kind);
    hash_add(h, block, sizeof block);
}

void hmac_key(struct hmac_key *k, enum hash_kind kind, const void *key, size_t n)
{
    unsigned char block[HASH_BLOCK] = {0};
    struct hash h;

    if (n > HASH_BLOCK) {
        hash_start(&h, kind);
        hash_add(&h, key, n);
        hash_end(&h, block);
    } else if (n > 0) {
        memcpy(block, key, n);
    }
    k->kind = (uint8_t)kind;
    padded_block(&h, kind, block, 0x36);
    memcpy(k->inner, h.state, sizeof k->inner);
    padded_block(&h, kind, block, 0x5c);
    memcpy(k->outer, h.state, sizeof k->outer);
}

static void behind_block(struct hash *h, enum hash_kind kind, const uint32_t state[8])
{
    hash_start(h, kind);
    memcpy(h->state, state, sizeof h->state);
    h->len = HASH_BLOCK;
}

void hmac_start(struct hash *h, const struct hmac_key *k)
{
    behind_block(h, (enum hash_kind)k->kind, k->inner);
}

size_t hmac_end(struct hash *h, const struct hmac_key *k, unsigned char tag[HASH_MAX])
{
    const size_t n = hash_end(h, tag);

    behind_block(h, (enum hash_kind)k->kind, k->outer);
    hash_add(h, tag, n);
    return hash_end(h, tag);
}

/* The digest of a key's block and one tag: a single block more, made here because nearly all time of a login goes by in it. */
void hmac_again(const struct hmac_key *k, unsigned char tag[HASH_MAX])
{
    const enum hash_kind kind = (enum hash_kind)k->kind;
    const size_t n = hash_size(kind);
    unsigned char block[HASH_BLOCK] = {0};
    uint32_t state[8];
    int turn;

    memcpy(block, tag, n);
    block[n] = 0x80;
    put_big(block + HASH_BLOCK - 4, (uint32_t)(8 * (HASH_BLOCK + n)));
    for (turn = 0; turn < 2; turn++) {
        memcpy(state, turn == 0 ? k->inner : k->outer, sizeof state);
        add_block(kind, state, block);
        put_state(kind, state, block);
    }
    memcpy(tag, block, n);
}

bool hash_same(const void *a, const void *b, size_t n)
{
    const volatile unsigned char *p = a, *q = b;
    unsigned char other = 0;

    while (n-- > 0)
        other |= (unsigned char)(p[n] ^ q[n]);
    return other == 0;
}
