/* url.h - percent-encoding (RFC 3986), and names with values as the forms of browsers send them.
 *
 *   path ------------url_decode()--> path
 *   a=1&b=two+words --url_pair()---> "a", "1"; "b", "two words"
 *
 * A pure room: it works in place, in the caller's bytes.
 */
#ifndef PUERTA_URL_H
#define PUERTA_URL_H

#include <stdbool.h>
#include <stdint.h>

/* A part of the caller's bytes. */
struct url_part { uint32_t off, len; };

static inline struct url_part url_part(const char *bytes, const char *from, const char *to)
{
    return (struct url_part){(uint32_t)(from - bytes), (uint32_t)(to - from)};
}

/* Puts the bytes that stand behind % back, in place; with form, + becomes a blank. False: behind a % stands no byte, or there is a
 * control byte, which no name here has. Once for each part. */
bool url_decode(char *bytes, struct url_part *part, bool form);

/* Cuts the next NAME=VALUE off *rest and decodes both in place, so that each is given once. A name without = has an empty value.
 * 1: here it is; 0: none is left; -1: malformed. */
int url_pair(char *bytes, struct url_part *rest, struct url_part *name, struct url_part *value);

#endif
