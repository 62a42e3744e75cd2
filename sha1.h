/* sha1.h - SHA-1, by which servers name scripts (FIPS 180-4, section 6.1). Of secrets only where MongoDB's older login names it.
 *
 *   bytes --sha1()--> 20 bytes
 *
 * A pure room.
 */
#ifndef PUERTA_SHA1_H
#define PUERTA_SHA1_H

#include <stddef.h>
#include <stdint.h>

#define SHA1_BYTES 20

/* The digest of n bytes, any number of them. */
void sha1(const void *bytes, size_t n, unsigned char digest[SHA1_BYTES]);

/* Takes one block into a state, for those who keep one (hash.c). */
void sha1_block(uint32_t state[5], const unsigned char p[64]);

#endif
