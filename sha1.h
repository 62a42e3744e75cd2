/* sha1.h - SHA-1, by which servers name scripts (FIPS 180-4, section 6.1). Not for secrets.
 *
 *   bytes --sha1()--> 20 bytes
 *
 * A pure room.
 */
#ifndef PUERTA_SHA1_H
#define PUERTA_SHA1_H

#include <stddef.h>

#define SHA1_BYTES 20

/* The digest of n bytes, any number of them. */
void sha1(const void *bytes, size_t n, unsigned char digest[SHA1_BYTES]);

#endif
