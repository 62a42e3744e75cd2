/* test_text.c - text.c: every byte as a digit, every character there is and what is none, what is shown of a text, each day of 8,000 years. */
#include "text.h"
#include "unit.h"

#include <stdbool.h>
#include <string.h>

static void test_hex(void)
{
    static const char digits[] = "0123456789abcdef", large[] = "0123456789ABCDEF";
    unsigned known = 0;
    unit_note = "hexadecimal digits";
    for (int c = -128; c < 128; c++) {
        known += text_hex((char)c) < 16;
    }
    for (unsigned i = 0; i < 16; i++) {
        CHECK(text_hex(digits[i]) == i && text_hex(large[i]) == i);
    }
    CHECK(known == 22);
}

/* As RFC 3629 writes it. */
static size_t encode(uint32_t c, unsigned char out[4])
{
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6) {
        out[i] = (unsigned char)(0x80 | (c & 0x3F));
    }
    out[0] = (unsigned char)(n == 1 ? c : (0xF00u >> n & 0xFFu) | c);
    return n;
}

static void test_characters(void)
{
    static const char *const none[] = { "\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
        "\xFF", "\xC3(", "\xE2\x82(", "\xF0\x9F\x98(", "\xE2(\xA1", "\xED\xA0\x80", "\xED\xBF\xBF" };
    unsigned char bytes[4];
    uint32_t code;
    size_t wrong = 0;
    unit_note = "characters";
    for (uint32_t c = 0; c < 0x110000; c++) {
        size_t n = encode(c, bytes);
        bool half = c >= 0xD800 && c < 0xE000;
        code = UINT32_MAX;
        wrong += half ? text_character(bytes, 4, &code) != 0 : text_character(bytes, n, &code) != n || code != c;
        for (size_t cut = 1; cut < n; cut++) {
            wrong += text_character(bytes, cut, &code) != 0;
        }
    }
    CHECK(wrong == 0);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        code = 7;
        CHECK(text_character((const unsigned char *)none[i], strlen(none[i]), &code) == 0 && code == 7);
    }
}

static bool shown(const char *from, size_t cap, const char *is)
{
    char out[64];
    memset(out, 'x', sizeof out);
    return text_shown(from, strlen(from), out, cap) == strlen(is) && strcmp(out, is) == 0 && out[cap] == 'x';
}

static void test_shown(void)
{
    unit_note = "shown";
    CHECK(shown("", 1, "") && shown("a", 1, "") && shown("ab", 2, "a") && shown("ab", 3, "ab"));
    CHECK(shown("a\n\x1b[2J\x7f\"", 40, "a??[2J?\"") && shown("\xC2\x9B" "2J \xC2\xA0", 40, "?2J \xC2\xA0"));
    CHECK(shown("caf\xE9", 40, "caf?") && shown("caf\xC3\xA9", 40, "caf\xC3\xA9") && shown("\xF0\x9F\x98", 40, "???"));
    for (size_t cap = 1; cap < 8; cap++) { /* no character is cut */
        CHECK(shown("\xE2\x82\xAC\xE2\x82\xAC", cap, cap < 4 ? "" : cap < 7 ? "\xE2\x82\xAC" : "\xE2\x82\xAC\xE2\x82\xAC"));
    }
    CHECK(text_shown("a\0b", 3, (char[8]){ 0 }, 8) == 3);
}

static bool is(int64_t second, unsigned year, unsigned month, unsigned day, unsigned hour, unsigned minute, unsigned at, unsigned weekday)
{
    const struct text_date d = text_date(second);
    return d.year == year && d.month == month && d.day == day && d.hour == hour && d.minute == minute && d.second == at && d.weekday == weekday;
}

static void test_dates(void)
{
    struct text_date before = text_date(0);
    size_t wrong = 0, leap_days = 0;
    int64_t day = 1;
    unit_note = "dates";
    CHECK(is(0, 1970, 1, 1, 0, 0, 0, 4) && is(784111777, 1994, 11, 6, 8, 49, 37, 0) && is(951782400, 2000, 2, 29, 0, 0, 0, 2));
    CHECK(is(1709251199, 2024, 2, 29, 23, 59, 59, 4) && is(4107542400, 2100, 3, 1, 0, 0, 0, 1));
    CHECK(is(-1, 1970, 1, 1, 0, 0, 0, 4) && is(INT64_MIN, 1970, 1, 1, 0, 0, 0, 4));
    CHECK(is(INT64_C(253402300799), 9999, 12, 31, 23, 59, 59, 5) && is(INT64_MAX, 9999, 12, 31, 23, 59, 59, 5));
    for (; before.year < 9999 || before.month < 12 || before.day < 31; day++) { /* each follows the one before it */
        struct text_date d = text_date(day * 86400);
        bool next = d.day == before.day + 1 && d.month == before.month && d.year == before.year;
        bool month = d.day == 1 && before.day >= 28 && d.month == before.month % 12 + 1 && d.year == before.year + (before.month == 12);
        wrong += !(next || month) || d.weekday != (before.weekday + 1) % 7;
        leap_days += d.month == 2 && d.day == 29;
        before = d;
    }
    CHECK(wrong == 0 && day == INT64_C(253402300800) / 86400 && leap_days == 1947);
}

int main(void)
{
    test_hex();
    test_characters();
    test_shown();
    test_dates();
    return unit_end();
}
