/* text.c - hexadecimal digits, characters of UTF-8, dates.
 *
 *   a lead byte says how long a character is, and what its second byte may be; each of the rest adds six bits
 *   seconds --days since 1970--> years of 365 or 366 days --> months
 */
#include "text.h"

#include <stdbool.h>
#include <string.h>

#define DAY 86400
#define LAST_SECOND INT64_C(253402300799) /* end of the year 9999: a clock beyond it is broken, and four digits hold no more */

unsigned text_hex(char c)
{
    return c >= '0' && c <= '9' ? (unsigned)(c - '0') : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10 :
           c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10 : 16;
}

size_t text_character(const unsigned char *p, size_t n, uint32_t *code)
{
    const size_t len = p[0] < 0x80 ? 1 : p[0] < 0xC2 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF5 ? 4 : 0;
    const unsigned char low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80, high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
    uint32_t c = len < 2 ? p[0] : p[0] & (0x7Fu >> len);

    if (len == 0 || len > n || (len > 1 && (p[1] < low || p[1] > high)))
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3F);
    }
    *code = c;
    return len;
}

size_t text_shown(const void *from, size_t n, char *out, size_t cap)
{
    const unsigned char *p = from;
    size_t len = 0, each, put;

    for (; n > 0; p += each, n -= each, len += put) {
        uint32_t code = 0;
        const size_t found = text_character(p, n, &code);
        const bool good = code >= 0x20 && (code < 0x7F || code >= 0xA0);

        each = found > 0 ? found : 1;
        put = good ? each : 1;
        if (put >= cap - len)
            break;
        memcpy(out + len, good ? (const void *)p : "?", put);
    }
    out[len] = '\0';
    return len;
}

static bool is_leap(unsigned year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

struct text_date text_date(int64_t second)
{
    static const unsigned char lengths[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    const int64_t since = second < 0 ? 0 : second > LAST_SECOND ? LAST_SECOND : second;
    const unsigned time = (unsigned)(since % DAY);
    unsigned days = (unsigned)(since / DAY), year = 1970, month = 0, n;
    const unsigned weekday = (days + 4) % 7; /* 1970 began with a Thursday */

    for (; days >= (n = is_leap(year) ? 366 : 365); year++)
        days -= n;
    for (; days >= (n = lengths[month] + (month == 1 && is_leap(year) ? 1u : 0u)); month++)
        days -= n;
    return (struct text_date){ year, month + 1, days + 1, time / 3600, time / 60 % 60, time % 60, weekday };
}
