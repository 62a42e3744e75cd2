/* jread.h - JSON read in place: what ctl.c is told by the admin listener, or by whoever stands in its place.
 *
 *   text --jread_text()--> a value that is whole and well formed
 *            --jread_next()--> member after member, or element after element      --jread_get()--> a member by its name
 *              --jread_string(), jread_number(), jread_is()--> what is in it
 *
 * A pure room: no memory but the caller's text, which must stay; nothing is copied but by jread_string(). Values that are told of are
 * parts of a text that jread_text() has judged, so the walks below it need not judge again.
 *
 * Source: RFC 8259.
 */
#ifndef PUERTA_JREAD_H
#define PUERTA_JREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JREAD_DEPTH 32 /* objects and arrays within each other */

/* One value as it stands in the text, without blanks around it. n 0: there is none. */
struct jvalue { const char *p; size_t n; };

/* The one value of a whole text. False: it is no JSON, or nested deeper than JREAD_DEPTH. Looks at each byte once. */
bool jread_text(const char *text, size_t n, struct jvalue *out);

/* What an object or an array holds: to be walked by jread_next(). Of any other value: nothing. */
struct jvalue jread_inside(struct jvalue v);
/* Cuts the next member or element off *inside; its name is without quotes, as it stands, and empty in an array. False: none is left. */
bool jread_next(struct jvalue *inside, struct jvalue *name, struct jvalue *value);
/* The first member of that name, which has no escapes; false, and *out empty: there is none, or it is no object. */
bool jread_get(struct jvalue object, const char *name, struct jvalue *out);

/* A string as a text that can be shown anywhere: escapes put back, control characters as '?', cut at a whole character. Gives its length.
 * Of another value that is no object or array: as it stands. Of none: "". */
size_t jread_string(struct jvalue v, char *out, size_t cap);
/* The whole part of a number, as far as it goes into 64 bits; 0 of anything else. */
int64_t jread_number(struct jvalue v);
/* Whether it is this word: true, false, null. */
bool jread_is(struct jvalue v, const char *word);

#endif
