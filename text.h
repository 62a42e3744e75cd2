/* text.h - what several rooms have to know of texts: hexadecimal digits, characters of UTF-8, dates.
 *
 * A pure room: no clock, no memory but the caller's.
 *
 * Sources: RFC 3629 (UTF-8); the Gregorian calendar.
 */
#ifndef PUERTA_TEXT_H
#define PUERTA_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* What a hexadecimal digit of either case stands for; 16: it is none. */
unsigned text_hex(char c);

/* How many of the n bytes at p (1 at least) are one character of UTF-8: no longer form than it needs, no half of a pair, none beyond
 * U+10FFFF. Its number goes to *code. 0: none are, and *code stays. */
size_t text_character(const unsigned char *p, size_t n, uint32_t *code);

/* Copies n bytes of a text whose writer is not known: as far as they fit, whole characters alone; a control character, or a byte that is
 * none, becomes '?'. Gives the length, without the NUL that ends it. cap is 1 at least. */
size_t text_shown(const void *from, size_t n, char *out, size_t cap);

struct text_date { unsigned year, month, day, hour, minute, second, weekday; }; /* month and day from 1 on; weekday: 0 is Sunday */

/* A second since 1970, from then to the end of the year 9999; one beyond counts as the nearest of them. In UTC, without libc's calendar,
 * which may read files. */
struct text_date text_date(int64_t second);

#endif
