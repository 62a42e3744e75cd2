/* hash.h - MD5, SHA-1 and SHA-256 of bytes that come in pieces, and HMAC over them.
 *
 *   hash_start(kind) --> hash_add() ... --> hash_end(): the digest
 *   hmac_key(key)  --> hmac_start() --> hash_add() ... --> hmac_end(): the tag; hmac_again(): 2 blocks for one digest's tag
 *
 * A pure room: no clock, no socket, no memory but the caller's. Follows RFC 1321 (MD5), FIPS 180-4 (SHA) and RFC 2104
 * (HMAC). MD5 and SHA-1 are here because MongoDB's older mechanism names them, and for nothing else.
 */
#ifndef PUERTA_HASH_H
#define PUERTA_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HASH_BLOCK 64 /* bytes of a block, of all three */
#define HASH_MAX 32   /* bytes of the longest digest */

enum hash_kind { HASH_MD5, HASH_SHA_1, HASH_SHA_256 };

struct hash {
    uint64_t len; /* bytes so far */
    uint32_t state[8];
    unsigned char block[HASH_BLOCK]; /* the last len % HASH_BLOCK of them */
    uint8_t kind;
};

/* Bytes of a digest: 16, 20, 32. */
size_t hash_size(enum hash_kind kind);

void hash_start(struct hash *h, enum hash_kind kind);
void hash_add(struct hash *h, const void *bytes, size_t n);
/* Gives the digest and its length; h is used up. */
size_t hash_end(struct hash *h, unsigned char digest[HASH_MAX]);

/* What HMAC makes of a key once: the states behind its two padded blocks. As secret as the key. */
struct hmac_key {
    uint32_t inner[8], outer[8];
    uint8_t kind;
};

void hmac_key(struct hmac_key *k, enum hash_kind kind, const void *key, size_t n);
/* Begins a tag; the bytes come by hash_add(). */
void hmac_start(struct hash *h, const struct hmac_key *k);
/* Gives the tag and its length; h is used up. */
size_t hmac_end(struct hash *h, const struct hmac_key *k, unsigned char tag[HASH_MAX]);
/* Puts the tag of a tag in its place: the inner step of PBKDF2, of SHA-1 and SHA-256 alone. */
void hmac_again(const struct hmac_key *k, unsigned char tag[HASH_MAX]);

/* Whether n bytes are the same, in a time that does not say where they differ. */
bool hash_same(const void *a, const void *b, size_t n);

#endif
