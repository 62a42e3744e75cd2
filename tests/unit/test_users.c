/*
 * test_users.c - users.c and guesses.c: passwords compared, how long a guess waits, whose wrong guesses are remembered, who is near.
 *
 *     a guess --user_same()--> right or wrong --guesses_add()--> sources[] --guesses_of()--> guesses_wait_ms()
 *
 * What a client of a running Puerta sees of it is in tests/test_redis_door.py.
 */
#include "redis.h"
#include "unit.h"

#include <string.h>

#define FORGET_MS 60000

static struct address from(const char *text)
{
    struct address a;
    const char *why = "";

    memset(&a, 0, sizeof a);
    if (!CHECK(address_parse(text, &a, &why)))
        printf("  %s: %s\n", text, why);
    return a;
}

static void test_same(void)
{
    char longest[SECRET_CAP + 2], one[SECRET_CAP];

    unit_note = "equal and unequal passwords";
    CHECK(user_same("secret", "secret", 6) && user_same("", "", 0) && user_same("a", "ab", 1));
    CHECK(!user_same("secret", "secret", 5) && !user_same("secret", "secrets", 7) && !user_same("secret", "", 0));
    CHECK(!user_same("", "x", 1) && !user_same("secret", "Secret", 6) && !user_same("secret", "secreT", 6));

    unit_note = "bytes that end a string, and that look negative";
    CHECK(!user_same("secret", "secret\0", 7) && !user_same("secret", "secret\0x", 8) && !user_same("", "\0", 1));
    CHECK(user_same("\xff\x80", "\xff\x80", 2) && !user_same("\xff\x80", "\x7f\x80", 2));

    unit_note = "each byte of the longest one counts";
    memset(longest, 'p', sizeof longest);
    memset(one, 'p', sizeof one);
    one[SECRET_CAP - 1] = '\0';
    CHECK(user_same(one, longest, SECRET_CAP - 1));
    CHECK(!user_same(one, longest, SECRET_CAP) && !user_same(one, longest, SECRET_CAP + 2));
    CHECK(!user_same(one, longest, SECRET_CAP - 2));
    for (size_t i = 0; i < SECRET_CAP - 1; i++) {
        longest[i] = 'q';
        CHECK(!user_same(one, longest, SECRET_CAP - 1));
        longest[i] = 'p';
    }
}

static void test_wait(void)
{
    uint32_t last = 0;

    unit_note = "a wait grows to its bound and stays there";
    CHECK(guesses_wait_ms(0) == 0 && guesses_wait_ms(2) == 0);
    CHECK(guesses_wait_ms(3) == 50 && guesses_wait_ms(4) == 100 && guesses_wait_ms(5) == 200);
    for (uint32_t i = 0; i < 100; i++) {
        CHECK(guesses_wait_ms(i) >= last);
        last = guesses_wait_ms(i);
    }
    CHECK(last == 400 && guesses_wait_ms(UINT32_MAX) == 400);
}

static void test_sources(void)
{
    struct address four = from("10.0.0.1:1000"), same = from("10.0.0.1:2000"), next = from("10.0.0.2:1000");
    struct address six = from("[2001:db8:1:2::1]:1"), near = from("[2001:db8:1:2:ffff::9]:7"), far = from("[2001:db8:1:3::1]:1");
    struct address mapped = from("[::ffff:10.0.0.1]:5"), local = from("unix:/tmp/x");
    uint64_t now = 5000;

    unit_note = "an address is one source, whatever its port";
    guesses_add(&four, now);
    guesses_add(&same, now);
    CHECK(guesses_of(&four, now) == 2 && guesses_of(&same, now) == 2 && guesses_of(&mapped, now) == 2);
    CHECK(guesses_of(&next, now) == 0);

    unit_note = "so is an IPv6 network";
    guesses_add(&six, now);
    CHECK(guesses_of(&six, now) == 1 && guesses_of(&near, now) == 1 && guesses_of(&far, now) == 0);

    unit_note = "a unix socket is none";
    guesses_add(&local, now);
    CHECK(guesses_of(&local, now) == 0);

    unit_note = "it is forgotten after its last wrong guess";
    guesses_add(&four, now + FORGET_MS - 1);
    CHECK(guesses_of(&four, now + 2 * FORGET_MS - 2) == 3);
    CHECK(guesses_of(&six, now + FORGET_MS) == 0);
    CHECK(guesses_of(&four, now + 2 * FORGET_MS - 1) == 0);
}

static void test_table_full(void)
{
    struct address first = from("10.1.0.0:1"), second = from("10.1.0.1:1"), late = from("10.9.9.9:1"), a;
    uint64_t now = 10 * FORGET_MS;
    char text[ADDRESS_TEXT];

    unit_note = "a full table lets the oldest go, and nobody else";
    for (unsigned i = 0; i < 256; i++) {
        snprintf(text, sizeof text, "10.1.%u.%u:1", i / 200, i % 200);
        a = from(text);
        guesses_add(&a, now + i);
    }
    CHECK(guesses_of(&first, now + 300) == 1);
    guesses_add(&late, now + 300);
    CHECK(guesses_of(&late, now + 300) == 1 && guesses_of(&second, now + 300) == 1);
    CHECK(guesses_of(&first, now + 300) == 0);
    CHECK(guesses_of(&second, now + 300) == 1); /* asking alone takes nobody's place */
}

static void test_near(void)
{
    static const char *const near[] = { "127.0.0.1:1", "127.9.8.7:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/tmp/x" };
    static const char *const far[] = { "128.0.0.1:1", "10.0.0.127:1", "0.0.0.0:1", "192.168.1.1:1", "[::2]:1", "[::]:1",
                                       "[fe80::1]:1", "[7f00::1]:1", "[::ffff:10.0.0.1]:1", "[2001:db8::1]:1" };
    struct conf_service conf;
    struct address a;

    memset(&conf, 0, sizeof conf);
    conf.protect = 1;
    log_threshold = LOG_ERROR;
    for (size_t i = 0; i < sizeof near / sizeof *near; i++) {
        unit_note = near[i];
        a = from(near[i]);
        CHECK(guesses_near(&a) && user_barred(&conf, &a) == NULL);
    }
    for (size_t i = 0; i < sizeof far / sizeof *far; i++) {
        unit_note = far[i];
        a = from(far[i]);
        CHECK(!guesses_near(&a) && user_barred(&conf, &a) != NULL);
    }
    unit_note = "who is barred";
    CHECK(strncmp(user_barred(&conf, &a), "-DENIED ", 8) == 0 && stats.clients_denied == sizeof far / sizeof *far + 1);
    conf.protect = 0;
    CHECK(user_barred(&conf, &a) == NULL);
    conf.protect = 1;
    conf.password[0] = 'x';
    CHECK(user_barred(&conf, &a) == NULL);
}

int main(void)
{
    test_same();
    test_wait();
    test_sources();
    test_table_full();
    test_near();
    return unit_end();
}
