/* url.c - what stands in the addresses that clients of the admin listener ask for.
 *
 *   %41 --> A       two hexadecimal digits of either case are one byte, so that nothing grows
 */
#include "text.h"
#include "url.h"

#include <ctype.h>
#include <string.h>

bool url_decode(char *bytes, struct url_part *part, bool form)
{
    char *from = bytes + part->off, *to = from, *end = from + part->len;

    for (; from < end; from++, to++) {
        *to = form && *from == '+' ? ' ' : *from;
        if (*from == '%') {
            if (end - from < 3 || (text_hex(from[1]) | text_hex(from[2])) > 15)
                return false;
            *to = (char)(unsigned char)(text_hex(from[1]) << 4 | text_hex(from[2]));
            from += 2;
        }
        if (iscntrl((unsigned char)*to))
            return false;
    }
    part->len = (uint32_t)(to - bytes) - part->off;
    return true;
}

int url_pair(char *bytes, struct url_part *rest, struct url_part *name, struct url_part *value)
{
    char *p = bytes + rest->off, *end = p + rest->len, *to, *equals;

    while (p < end && *p == '&')
        p++;
    if (p == end)
        return 0;
    to = memchr(p, '&', (size_t)(end - p));
    to = to != NULL ? to : end;
    equals = memchr(p, '=', (size_t)(to - p));
    *name = url_part(bytes, p, equals != NULL ? equals : to);
    *value = url_part(bytes, equals != NULL ? equals + 1 : to, to);
    *rest = url_part(bytes, to, end);
    return url_decode(bytes, name, true) && url_decode(bytes, value, true) ? 1 : -1;
}
