/*
 * test_log_arena.c - log.c, arena.c and stats.c: the form of a line, the gate, the rows of the arena and what must
 * end the process.
 *
 *     clock_gettime() here stands before libc's, so that the time is what a test says; what goes to stderr lands in
 *     a temporary file; what must abort runs in a child.
 */
#include "puerta.h"
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct timespec wall, mono;

int clock_gettime(clockid_t id, struct timespec *out)
{
    *out = id == CLOCK_MONOTONIC ? mono : wall;
    return 0;
}

/* ---------------------------------------------------------------- stderr */

static int real_stderr = -1;
static FILE *caught_file;
static char caught[64 * 1024];

static void catch_begin(void)
{
    fflush(stderr);
    caught_file = tmpfile();
    if (caught_file == NULL || (real_stderr = dup(STDERR_FILENO)) < 0 || dup2(fileno(caught_file), STDERR_FILENO) < 0) {
        printf("no temporary file\n");
        exit(1);
    }
}

static const char *catch_end(void)
{
    size_t n;

    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    rewind(caught_file);
    n = fread(caught, 1, sizeof caught - 1, caught_file);
    caught[n] = '\0';
    fclose(caught_file);
    return caught;
}

static int lines_with(const char *text, const char *part)
{
    int n = 0;

    for (const char *p = text; (p = strstr(p, part)) != NULL; p++)
        n++;
    return n;
}

/* ------------------------------------------------------------------- log */

static const char *line_at(time_t seconds, long ns)
{
    wall.tv_sec = seconds;
    wall.tv_nsec = ns;
    catch_begin();
    log_write(NULL, LOG_INFO, "hello", "%s", "");
    return catch_end();
}

static void test_time(void)
{
    static const time_t seconds[] = {
        0, 86399, 86400, 951782399, 951782400, 951868800, 1078012800, 1709164800, 1709251200, 1735689599, 1735689600,
        2147483647, 4107542399, 4107542400, 253402300799
    };
    char want[64], got[64];

    for (size_t i = 0; i < sizeof seconds / sizeof *seconds; i++) {
        struct tm tm;
        unit_note = "the time of a line is gmtime's";
        gmtime_r(&seconds[i], &tm);
        strftime(want, sizeof want, "ts=%Y-%m-%dT%H:%M:%S.007Z level", &tm);
        snprintf(got, sizeof got, "%.*s", (int)strlen(want), line_at(seconds[i], 7654321));
        CHECK(strcmp(want, got) == 0);
    }
    unit_note = "every day of 400 years";
    for (long day = 0, same = 1; same && day < 146097; day += 13) {
        time_t t = (time_t)day * 86400 + 3661;
        struct tm tm;
        gmtime_r(&t, &tm);
        strftime(want, sizeof want, "ts=%Y-%m-%dT%H:%M:%S.000Z ", &tm);
        same = strncmp(want, line_at(t, 0), strlen(want)) == 0;
        if (!same || day + 13 >= 146097)
            CHECK(same);
    }
    unit_note = "broken clocks";
    CHECK(strncmp(line_at(-5, 0), "ts=1970-01-01T00:00:00.000Z", 27) == 0);
    CHECK(strncmp(line_at(253402300800, 0), "ts=9999-12-31T23:59:59.000Z", 27) == 0);
}

static void test_lines(void)
{
    char text[3000];
    const char *out;

    unit_note = "form of a line";
    wall.tv_sec = 1735689600;
    catch_begin();
    log_warn("node lost", "node=%s count=%d", "a:1", 7);
    CHECK(strcmp(catch_end(), "ts=2025-01-01T00:00:00.000Z level=warn msg=\"node lost\" node=a:1 count=7\n") == 0);
    catch_begin();
    log_error("bare", "%s", "");
    log_debug("below the threshold", "x=%d", 1);
    out = catch_end();
    CHECK(lines_with(out, "\n") == 1 && strstr(out, "level=error msg=\"bare\"\n") != NULL);

    unit_note = "a line that is too long is cut, and still ends";
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    catch_begin();
    errno = ENOENT;
    log_info("long", "text=%s", text);
    CHECK(errno == ENOENT);
    out = catch_end();
    CHECK(strlen(out) > 1000 && strlen(out) <= 1024 && out[strlen(out) - 1] == '\n');

    unit_note = "nobody can make two lines of one";
    catch_begin();
    log_info("hostile", "name=%s", "a\nts=1 level=error\r\x1b[2J");
    out = catch_end();
    CHECK(lines_with(out, "\n") == 1 && strchr(out, '\r') == NULL && strchr(out, '\x1b') == NULL);
}

static void one_site(int i)
{
    log_info("flood", "i=%d", i);
}

static void test_gate(void)
{
    const char *out;

    unit_note = "ten lines a second";
    mono.tv_sec = 100;
    catch_begin();
    for (int i = 0; i < 25; i++)
        one_site(i);
    out = catch_end();
    CHECK(lines_with(out, "msg=\"flood\"") == 10 && strstr(out, "i=9\n") != NULL && strstr(out, "i=10\n") == NULL);

    unit_note = "the next second tells what was dropped";
    mono.tv_sec = 101;
    catch_begin();
    one_site(25);
    one_site(26);
    out = catch_end();
    CHECK(lines_with(out, "\n") == 3 && lines_with(out, "msg=\"lines dropped\" of=\"flood\" count=15\n") == 1);
    CHECK(strstr(out, "dropped") < strstr(out, "i=25"));

    unit_note = "another site has a gate of its own";
    catch_begin();
    log_info("other", "%s", "");
    CHECK(lines_with(catch_end(), "msg=\"other\"") == 1);
}

static void test_quote(void)
{
    char out[64];

    unit_note = "values in quotes";
    CHECK(strcmp(log_quote("plain", 5, out, sizeof out), "\"plain\"") == 0);
    CHECK(strcmp(log_quote("", 0, out, sizeof out), "\"\"") == 0);
    CHECK(strcmp(log_quote("a\"b\\c", 5, out, sizeof out), "\"a\\\"b\\\\c\"") == 0);
    CHECK(strcmp(log_quote("\r\n\0\x7f\xff", 5, out, sizeof out), "\"\\x0d\\x0a\\x00\\x7f\\xff\"") == 0);

    unit_note = "any room, any bytes: ends in time, and a cut does not tear an escape";
    for (size_t cap = 0; cap < 40; cap++) {
        memset(out, '!', sizeof out);
        const char *text = log_quote("ab\"\n\\c\x80""defg", 11, out, cap);
        CHECK(strlen(text) < (cap > 0 ? cap : 1) && out[cap] == '!');
        CHECK(cap < 3 || (text[0] == '"' && text[strlen(text) - 1] == '"'));
    }
    log_quote("ab\n", 3, out, 8);
    CHECK(strcmp(out, "\"ab\"") == 0);
    log_quote("ab\n", 3, out, 9);
    CHECK(strcmp(out, "\"ab\\x0a\"") == 0);
}

/* -------------------------------------------------- what ends the process */

/* Gives the child's wait status; what it wrote is in caught. */
static int in_child(void (*work)(void))
{
    int status = 0;
    pid_t pid;

    fflush(stdout);
    catch_begin();
    pid = fork();
    if (pid == 0) {
        struct rlimit none = { 0, 0 };
        setrlimit(RLIMIT_CORE, &none);
        work();
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        status = -1;
    catch_end();
    return status;
}

static bool aborts(void (*work)(void))
{
    int status = in_child(work);

    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void work_fatal(void) { fatal(78, "no %s here", "port"); }
static void work_must(void) { must(1 + 1 == 3); }

static void work_other_size(void)
{
    arena_measure();
    arena_take("a", 4, 8);
    (void)arena_obtain(false);
    arena_take("a", 4, 16);
}

static void work_other_name(void)
{
    arena_measure();
    arena_take("a", 4, 8);
    (void)arena_obtain(false);
    arena_take("b", 4, 8);
}

static void work_one_more(void)
{
    arena_measure();
    (void)arena_obtain(false);
    arena_take("a", 1, 1);
}

static void work_forgotten(void)
{
    arena_measure();
    arena_take("a", 4, 8);
    (void)arena_obtain(false);
    arena_seal();
}

static void work_after_seal(void)
{
    arena_measure();
    (void)arena_obtain(false);
    arena_seal();
    arena_take("a", 0, 0);
}

static void work_many_rows(void)
{
    arena_measure();
    for (int i = 0; i < 65; i++)
        arena_take("row", 1, 1);
}

static void test_ends(void)
{
    unit_note = "fatal and must";
    int status = in_child(work_fatal);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 78 && strcmp(caught, "puerta: no port here\n") == 0);
    CHECK(aborts(work_must) && strstr(caught, "test_log_arena.c:") != NULL && strstr(caught, "1 + 1 == 3") != NULL);
    unit_note = "a taking run unlike the measuring run";
    CHECK(aborts(work_other_size));
    CHECK(aborts(work_other_name));
    CHECK(aborts(work_one_more));
    CHECK(aborts(work_forgotten));
    CHECK(aborts(work_after_seal));
    CHECK(aborts(work_many_rows));
}

/* ----------------------------------------------------------------- arena */

static void test_arena(void)
{
    static const struct { const char *table; size_t count, size; } rows[] = {
        { "one", 1, 1 }, { "odd", 7, 13 }, { "none", 0, 8 }, { "line", 1, 64 }, { "big", 1000, 100 }
    };
    enum { ROWS = sizeof rows / sizeof *rows };
    unsigned char *place[ROWS], *end = NULL;
    const char *table;
    size_t count, size, sum = 0;

    unit_note = "measuring";
    arena_measure();
    for (int i = 0; i < ROWS; i++) {
        CHECK(arena_take(rows[i].table, rows[i].count, rows[i].size) == NULL);
        CHECK(arena_row(i, &table, &count, &size));
        CHECK(strcmp(table, rows[i].table) == 0 && count == rows[i].count && size == rows[i].size);
        sum += (count * size + 63) / 64 * 64;
    }
    CHECK(!arena_row(ROWS, &table, &count, &size) && !arena_row(-1, &table, &count, &size));
    CHECK(arena_bytes() == sum);

    unit_note = "taking";
    CHECK(arena_obtain(false));
    for (int i = 0; i < ROWS; i++) {
        place[i] = arena_take(rows[i].table, rows[i].count, rows[i].size);
        CHECK(place[i] != NULL && (uintptr_t)place[i] % 64 == 0 && place[i] >= end);
        end = place[i] + rows[i].count * rows[i].size;
        unsigned char any = 0;
        for (unsigned char *p = place[i]; p < end; p++)
            any |= *p;
        CHECK(any == 0);
        if (place[i] != end)
            memset(place[i], i + 1, (size_t)(end - place[i]));
    }
    CHECK(place[1][0] == 2 && place[1][7 * 13 - 1] == 2 && place[4][99999] == 5);

    unit_note = "more than memory can hold is refused";
    arena_measure();
    arena_take("huge", SIZE_MAX / 2, 3);
    CHECK(arena_bytes() == SIZE_MAX && !arena_obtain(false));
    arena_measure();
    arena_take("half", SIZE_MAX / 2, 1);
    arena_take("half", SIZE_MAX / 2, 1);
    arena_take("rest", 64, 2);
    CHECK(arena_bytes() == SIZE_MAX && !arena_obtain(false));

    unit_note = "sealed";
    CHECK(puerta_sealed == 0);
}

static void test_stats(void)
{
    uint64_t value = 0;
    const char *help = NULL;
    int i;

    unit_note = "counters";
    stats.clients_accepted = 3;
    CHECK(strcmp(stats_row(0, &help, &value), "clients_accepted") == 0 && value == 3);
    for (i = 0; stats_row(i, &help, &value) != NULL; i++)
        ;
    CHECK((size_t)i == sizeof stats / sizeof(uint64_t));
    ((uint64_t *)(void *)&stats)[i - 1] = 9;
    CHECK(stats_row(i - 1, &help, &value) != NULL && value == 9);
    CHECK(stats_row(-1, &help, &value) == NULL);
}

static void test_seal(void)
{
    unit_note = "the seal";
    arena_measure();
    arena_take("a", 1, 1);
    CHECK(arena_obtain(true));
    arena_take("a", 1, 1);
    arena_seal();
    CHECK(puerta_sealed == 1);
    puerta_sealed = 0; /* what follows is the test's own, not Puerta's */
}

int main(void)
{
    test_time();
    test_lines();
    test_gate();
    test_quote();
    test_ends();
    test_arena();
    test_stats();
    test_seal();
    return unit_end();
}
