/* test_resp.c - resp.c on samples, each cut at every place.
 *
 *   sample --whole, two pieces at every byte, byte by byte--> the same outcome
 *          each piece lies at the end of a page; the next page may not be read
 *
 * A sample is a stream: values one behind the other, framed until one is bad or the bytes end.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "resp.h"
#include "unit.h"

#define PAGES 4       /* of readable memory before the guard */
#define VALUES_MAX 16 /* values in one sample */
#define STATE_CAP 200

#define BYTES(text) text, sizeof text - 1

/* Short lines are too long here, so that a sample can have one and still be cut at every byte. */
static const struct resp_limits limits = {1024 * 1024, 512U << 20, 100, NULL};

static unsigned char *guard; /* the first byte that may not be read */

static void guard_map(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *map = mmap(NULL, (PAGES + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED || mprotect(map + PAGES * page, page, PROT_NONE) < 0) {
        perror("mmap");
        exit(1);
    }
    guard = map + PAGES * page;
}

/* The bytes moved up to the guard. */
static const unsigned char *guarded(const char *p, size_t n)
{
    return memcpy(guard - n, p, n);
}

/* -------------------------------------------------- streams cut at every byte */

/* What framing a sample gave: one text for each value, which is all that can be seen from outside. */
struct outcome {
    size_t count;
    char value[VALUES_MAX][STATE_CAP];
};

/* Where the pieces end: at `cut`, or with cut 0 behind each byte. */
static size_t piece(size_t at, size_t n, size_t cut)
{
    if (cut == 0)
        return 1;
    return at < cut ? cut - at : n - at;
}

static void request_text(const struct resp_request *r, enum resp_status status, char *out)
{
    uint32_t i;
    int len = snprintf(out, STATE_CAP, "%d used %llu total %llu argc %u inlined %d known %u error %s", (int)status,
                       (unsigned long long)r->used, (unsigned long long)r->total, r->argc, r->inlined, r->args_known,
                       r->error != NULL ? r->error : "-");

    for (i = 0; i < r->args_known && i < RESP_ARGS_KEPT; i++)
        len += snprintf(out + len, STATE_CAP - (size_t)len, " %u+%u", r->arg[i].off, r->arg[i].len);
}

static void requests(const char *sample, size_t n, size_t cut, struct outcome *o)
{
    struct resp_request r;
    enum resp_status status = RESP_MORE;
    size_t at = 0;

    memset(&r, 0, sizeof r);
    memset(o, 0, sizeof *o);
    while (at < n) {
        size_t end = at + piece(at, n, cut);

        while (at < end) {
            uint64_t total = r.total, used = r.used;
            size_t took = resp_request(&r, guarded(sample + at, end - at), end - at, &limits, &status);

            CHECK(took <= end - at && r.used == used + took);
            CHECK(r.total >= r.used && r.total >= total);
            CHECK((status == RESP_BAD) == (r.error != NULL));
            at += took;
            if (status == RESP_MORE)
                CHECK(at == end);
            if (status == RESP_MORE)
                continue;
            CHECK(r.total == r.used || status == RESP_BAD);
            request_text(&r, status, o->value[o->count++]);
            if (status == RESP_BAD || o->count == VALUES_MAX)
                return;
            /* A second call without a new start takes nothing. */
            CHECK(resp_request(&r, guarded("*1", 2), 2, &limits, &status) == 0 && status == RESP_WHOLE);
            memset(&r, 0xA5, sizeof r);
            resp_request_start(&r);
        }
    }
    CHECK(resp_request(&r, NULL, 0, &limits, &status) == 0 && status == RESP_MORE);
    request_text(&r, RESP_MORE, o->value[o->count++]);
}

static void replies(const char *sample, size_t n, size_t cut, struct outcome *o)
{
    struct resp_reply r;
    enum resp_status status = RESP_MORE;
    size_t at = 0;

    memset(&r, 0, sizeof r);
    memset(o, 0, sizeof *o);
    while (at < n) {
        size_t end = at + piece(at, n, cut);

        while (at < end) {
            uint64_t least = resp_reply_least(&r), used = r.used;
            size_t took = resp_reply(&r, guarded(sample + at, end - at), end - at, &status);

            CHECK(took <= end - at && r.used == used + took);
            CHECK(resp_reply_least(&r) >= r.used && resp_reply_least(&r) >= least);
            CHECK((status == RESP_BAD) == (r.error != NULL));
            at += took;
            if (status == RESP_MORE)
                CHECK(at == end);
            else
                snprintf(o->value[o->count++], STATE_CAP, "%d used %llu type %c headed %d length %lld error %s",
                         (int)status, (unsigned long long)r.used, r.type ? r.type : '0', r.headed, (long long)r.length,
                         r.error != NULL ? r.error : "-");
            if (status == RESP_BAD || o->count == VALUES_MAX)
                return;
            if (status == RESP_MORE)
                continue;
            CHECK(resp_reply_least(&r) == r.used && r.headed);
            CHECK(resp_reply(&r, guarded(":1", 2), 2, &status) == 0 && status == RESP_WHOLE);
            memset(&r, 0xA5, sizeof r);
            resp_reply_start(&r);
        }
    }
    CHECK(resp_reply(&r, NULL, 0, &status) == 0 && status == RESP_MORE);
    snprintf(o->value[o->count++], STATE_CAP, "more used %llu least %llu type %c headed %d length %lld",
             (unsigned long long)r.used, (unsigned long long)resp_reply_least(&r), r.type ? r.type : '0', r.headed,
             (long long)r.length);
}

/* Frames the sample whole and at every cut. */
static void every_cut(void (*frame)(const char *, size_t, size_t, struct outcome *), const char *sample, size_t n)
{
    static struct outcome whole, other;
    size_t cut, i;

    unit_note = sample;
    frame(sample, n, n, &whole);
    for (cut = 0; cut < n; cut++) {
        frame(sample, n, cut, &other);
        for (i = 0; i < VALUES_MAX; i++)
            if (!CHECK(strcmp(whole.value[i], other.value[i]) == 0))
                printf("  cut %zu value %zu\n  whole: %s\n  cut:   %s\n", cut, i, whole.value[i], other.value[i]);
    }
}

/* ----------------------------------------------------------------- requests */

#define MB "Protocol error: invalid multibulk length"
#define BULK "Protocol error: invalid bulk length"
#define DIGITS50 "12345678901234567890123456789012345678901234567890"
#define LETTERS50 "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwx"

/* The first request of a sample. args: what resp_arg() finds, joined by '|'. */
struct request_sample {
    const char *bytes;
    size_t n;
    enum resp_status status;
    size_t used;
    uint32_t argc;
    uint32_t known;
    bool inlined;
    const char *error;
    const char *args;
};

#define WHOLE(text, argc, args) {BYTES(text), RESP_WHOLE, sizeof text - 1, argc, argc, false, NULL, args}
#define LINE(text, argc) {BYTES(text), RESP_WHOLE, sizeof text - 1, argc, 0, true, NULL, NULL}
#define MORE(text, argc, known) {BYTES(text), RESP_MORE, sizeof text - 1, argc, known, false, NULL, NULL}
#define BAD(text, used, argc, known, error) {BYTES(text), RESP_BAD, used, argc, known, false, error, NULL}

static const struct request_sample request_samples[] = {
    WHOLE("*1\r\n$4\r\nPING\r\n", 1, "PING"),
    WHOLE("*2\r\n$3\r\nGET\r\n$8\r\nkey:0001\r\n", 2, "GET|key:0001"),
    WHOLE("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$12\r\nhello world!\r\n", 3, "SET|k|hello world!"),
    WHOLE("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n", 3, "SET|k|"),
    WHOLE("*1\r\n$0\r\n\r\n", 1, ""),
    WHOLE("*3\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n", 3, "||"),
    WHOLE("*6\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\nc\r\n", 6, "MSET|a|1|b|2|c"),
    WHOLE("*2\r\n$4\r\nECHO\r\n$14\r\n*1\r\n$4\r\nPING\r\n\r\n", 2, "ECHO|*1\r\n$4\r\nPING\r\n"),
    WHOLE("*2\r\n$4\r\nECHO\r\n$3\r\n\r\n$\r\n", 2, "ECHO|\r\n$"),
    /* As Redis: any byte behind a line's '\r', any two behind a bulk. */
    WHOLE("*1\rx$4\ryPINGzz", 1, "PING"),
    WHOLE("*1\r\r$4\r\rPING\r\r", 1, "PING"),
    WHOLE("*2\r\n$1\r\na$$$1\r\nb\0\0", 2, "a|b"),

    /* Empty requests. */
    WHOLE("*0\r\n", 0, NULL),
    WHOLE("*-1\r\n", 0, NULL),
    WHOLE("*-2147483649\r\n", 0, NULL),
    WHOLE("*-9223372036854775808\r\n", 0, NULL),
    LINE("\n", 0),
    LINE("\r\n", 0),
    LINE(" \t\v\f \r\n", 0),
    LINE("\r\r\n", 0),

    /* Inline. */
    LINE("PING\r\n", 1),
    LINE("PING\n", 1),
    LINE("  GET  key \r\n", 1),
    LINE("$3\r\n", 1),
    LINE("set k \"unbalanced\r\n", 1),
    LINE("a\0b\r\n", 1),
    LINE("\0\n", 1),
    LINE(LETTERS50 LETTERS50 "\n", 1),
    {BYTES("PING"), RESP_MORE, 4, 1, 0, true, NULL, NULL},
    {BYTES("  \r"), RESP_MORE, 3, 0, 0, true, NULL, NULL},
    {BYTES(LETTERS50 LETTERS50), RESP_MORE, 100, 1, 0, true, NULL, NULL},
    {BYTES(LETTERS50 LETTERS50 "x"), RESP_BAD, 101, 1, 0, true, "Protocol error: too big inline request", NULL},
    {BYTES(LETTERS50 LETTERS50 "\r\n"), RESP_BAD, 101, 1, 0, true, "Protocol error: too big inline request", NULL},

    /* Not over yet. */
    MORE("*", 0, 0),
    MORE("*1", 0, 0),
    MORE("*1\r", 0, 0),
    MORE("*1\r\n", 1, 0),
    MORE("*1\r\n$", 1, 0),
    MORE("*1\r\n$4", 1, 0),
    MORE("*1\r\n$4\r", 1, 0),
    MORE("*1\r\n$4\r\n", 1, 1),
    MORE("*1\r\n$4\r\nPIN", 1, 1),
    MORE("*1\r\n$4\r\nPING", 1, 1),
    MORE("*1\r\n$4\r\nPING\r", 1, 1),
    MORE("*2\r\n$4\r\nECHO\r\n$536870912\r\nabc", 2, 2),
    MORE("*1048576\r\n$1\r\na\r\n", 1048576, 1),
    MORE("*" DIGITS50, 0, 0),

    /* The count. */
    BAD("*\r\n", 3, 0, 0, MB),
    BAD("*x\r\n", 4, 0, 0, MB),
    BAD("*1x\r\n", 5, 0, 0, MB),
    BAD("* 1\r\n", 5, 0, 0, MB),
    BAD("*+1\r\n", 5, 0, 0, MB),
    BAD("*01\r\n", 5, 0, 0, MB),
    BAD("*00\r\n", 5, 0, 0, MB),
    BAD("*-0\r\n", 5, 0, 0, MB),
    BAD("*-\r\n", 4, 0, 0, MB),
    BAD("*--1\r\n", 6, 0, 0, MB),
    BAD("*1\n\r\n", 5, 0, 0, MB),
    BAD("*1048577\r\n", 10, 0, 0, MB),
    BAD("*2147483648\r\n", 13, 0, 0, MB),
    BAD("*4294967297\r\n", 13, 0, 0, MB),
    BAD("*9223372036854775807\r\n", 22, 0, 0, MB),
    BAD("*9223372036854775808\r\n", 22, 0, 0, MB),
    BAD("*-9223372036854775809\r\n", 23, 0, 0, MB),
    BAD("*18446744073709551617\r\n", 23, 0, 0, MB),
    BAD("*" DIGITS50 "\r\n", 53, 0, 0, MB),
    BAD("*" DIGITS50 DIGITS50, 101, 0, 0, "Protocol error: too big mbulk count string"),
    BAD("*" DIGITS50 DIGITS50 "\r\n", 101, 0, 0, "Protocol error: too big mbulk count string"),

    /* The type byte. */
    BAD("*1\r\nPING\r\n", 4, 1, 0, "Protocol error: expected '$', got 'P'"),
    BAD("*1\r\n:1\r\n", 4, 1, 0, "Protocol error: expected '$', got ':'"),
    BAD("*1\r\n\r\n", 4, 1, 0, "Protocol error: expected '$', got ' '"),
    BAD("*1\r\n\n", 4, 1, 0, "Protocol error: expected '$', got ' '"),
    BAD("*1\r\n\0", 4, 1, 0, "Protocol error: expected '$', got ' '"),
    BAD("*1\r\n\xff", 4, 1, 0, "Protocol error: expected '$', got '\xff'"),
    BAD("*2\r\n$4\r\nPINGxy\r\n", 14, 2, 1, "Protocol error: expected '$', got ' '"),
    BAD("*2\r\n$1\r\na\r\n*1\r\n", 11, 2, 1, "Protocol error: expected '$', got '*'"),

    /* The length. */
    BAD("*1\r\n$\r\n", 7, 1, 0, BULK),
    BAD("*1\r\n$x\r\n", 8, 1, 0, BULK),
    BAD("*1\r\n$-1\r\n", 9, 1, 0, BULK),
    BAD("*1\r\n$-0\r\n", 9, 1, 0, BULK),
    BAD("*1\r\n$04\r\nPING\r\n", 9, 1, 0, BULK),
    BAD("*1\r\n$+4\r\nPING\r\n", 9, 1, 0, BULK),
    BAD("*1\r\n$4 \r\nPING\r\n", 9, 1, 0, BULK),
    BAD("*1\r\n$536870913\r\n", 16, 1, 0, BULK),
    BAD("*1\r\n$4294967296\r\n", 17, 1, 0, BULK),
    BAD("*1\r\n$4294967300\r\nPING\r\n", 17, 1, 0, BULK),
    BAD("*1\r\n$9223372036854775807\r\n", 26, 1, 0, BULK),
    BAD("*1\r\n$18446744073709551620\r\n", 27, 1, 0, BULK),
    BAD("*2\r\n$1\r\na\r\n$-9223372036854775808\r\n", 34, 2, 1, BULK),
    BAD("*1\r\n$" DIGITS50 "\r\n", 57, 1, 0, BULK),
    BAD("*1\r\n$" DIGITS50 DIGITS50, 105, 1, 0, "Protocol error: too big bulk count string"),
    BAD("*1\r\n$" DIGITS50 DIGITS50 "\r\n", 105, 1, 0, "Protocol error: too big bulk count string"),

    /* Several, one behind the other. */
    {BYTES("*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\r\n"
           "*0\r\nPING x\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n"),
     RESP_WHOLE, 14, 1, 1, false, NULL, "PING"},
    {BYTES("*0\r\n*-1\r\n\n*1\r\n$4\r\nPING\r\nGET a\n*1\r\nx"), RESP_WHOLE, 4, 0, 0, false, NULL, NULL},
    {BYTES("PING\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI"), RESP_WHOLE, 6, 1, 0, true, NULL, NULL},
};

/* Walks the request with resp_arg() and compares with the joined arguments and the slices that were kept. */
static void check_arguments(const struct request_sample *t, const struct resp_request *r)
{
    const unsigned char *p = guarded(t->bytes, t->used);
    struct resp_slice arg;
    uint32_t at = 0, i;
    size_t joined = 0;

    for (i = 0; i < t->argc; i++) {
        if (!CHECK(resp_arg(p, t->used, &at, &arg)))
            return;
        if (i < RESP_ARGS_KEPT)
            CHECK(arg.off == r->arg[i].off && arg.len == r->arg[i].len);
        CHECK(memcmp(p + arg.off, t->args + joined, arg.len) == 0);
        joined += arg.len;
        CHECK(t->args[joined] == (i + 1 < t->argc ? '|' : '\0'));
        joined++;
    }
    CHECK(at == t->used || t->argc == 0);
    CHECK(!resp_arg(p, t->used, &at, &arg));
}

static void test_requests(void)
{
    size_t i;

    for (i = 0; i < sizeof request_samples / sizeof request_samples[0]; i++) {
        const struct request_sample *t = &request_samples[i];
        struct resp_request r = {0};
        enum resp_status status;
        size_t took;

        unit_note = t->bytes;
        took = resp_request(&r, guarded(t->bytes, t->n), t->n, &limits, &status);
        CHECK(status == t->status);
        CHECK(took == t->used && r.used == t->used);
        CHECK(r.argc == t->argc);
        CHECK(r.args_known == t->known);
        CHECK(r.inlined == t->inlined);
        CHECK(t->error == NULL ? r.error == NULL : r.error != NULL && strcmp(r.error, t->error) == 0);
        if (status == RESP_BAD)
            CHECK(resp_request(&r, guarded("x", 1), 1, &limits, &status) == 0 && status == RESP_BAD);
        if (t->args != NULL)
            check_arguments(t, &r);
        every_cut(requests, t->bytes, t->n);
    }
}

/* What is known of a request before its bytes are there. */
static void test_request_ahead(void)
{
    static const char head[] = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\nabc";
    struct resp_limits all = {UINT32_MAX, UINT32_MAX, UINT32_MAX, NULL};
    struct resp_request r = {0};
    enum resp_status status;

    unit_note = "a request ahead of its bytes";
    resp_request(&r, guarded(BYTES(head)), sizeof head - 1, &limits, &status);
    CHECK(status == RESP_MORE && r.args_known == 3 && r.arg[2].len == 1000);
    CHECK(r.arg[2].off == sizeof head - 1 - 3);
    CHECK(r.total == sizeof head - 1 - 3 + 1002);

    /* The widest limits still end at RESP_BULK_MAX, and the widest count fits. */
    resp_request_start(&r);
    resp_request(&r, guarded(BYTES("*1\r\n$1073741824\r\n")), 17, &all, &status);
    CHECK(status == RESP_MORE && r.total == 17 + (1U << 30) + 2);
    resp_request_start(&r);
    resp_request(&r, guarded(BYTES("*1\r\n$1073741825\r\n")), 17, &all, &status);
    CHECK(status == RESP_BAD && strcmp(r.error, BULK) == 0);
    resp_request_start(&r);
    resp_request(&r, guarded(BYTES("*4294967295\r\n$1\r\n")), 17, &all, &status);
    CHECK(status == RESP_MORE && r.argc == UINT32_MAX && r.args_known == 1);
}

/* What only an authenticated client may send has an error of its own; what nobody may send has not. */
static void test_request_stranger(void)
{
    static const struct resp_limits narrow = {10, 16384, 100, &limits};
    static const struct { const char *bytes, *error; } rows[] = {
        {"*10\r\n$16384\r\n", NULL},
        {"*11\r\n", "Protocol error: unauthenticated multibulk length"},
        {"*1048576\r\n", "Protocol error: unauthenticated multibulk length"},
        {"*1048577\r\n", MB},
        {"*x\r\n", MB},
        {"*1\r\n$16385\r\n", "Protocol error: unauthenticated bulk length"},
        {"*1\r\n$536870912\r\n", "Protocol error: unauthenticated bulk length"},
        {"*1\r\n$536870913\r\n", BULK},
        {"*1\r\n$-1\r\n", BULK},
        {"*1\r\n$x\r\n", BULK},
    };
    enum resp_status status;
    size_t i;

    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct resp_request r = {0};

        unit_note = rows[i].bytes;
        resp_request(&r, guarded(rows[i].bytes, strlen(rows[i].bytes)), strlen(rows[i].bytes), &narrow, &status);
        CHECK(status == (rows[i].error == NULL ? RESP_MORE : RESP_BAD));
        CHECK(rows[i].error == NULL ? r.error == NULL : r.error != NULL && strcmp(r.error, rows[i].error) == 0);
    }
}

/* Bytes that are no whole request must end the walk without a read beyond them. */
static void test_arg_malformed(void)
{
    static const char good[] = "*2\r\n$3\r\nGET\r\n$12\r\nhello world!\r\n";
    static const char *const bad[] = {"x", "x1\r\n$1\r\na\r\n", "*", "*1", "*x\r\n$1\r\na\r\n",
                                      "*1\r\n+1\r\na\r\n", "*1\r\n$-1\r\n", "*1\r\n$x\r\n",
                                      "*1\r\n$9999999999\r\na\r\n", "*1\r\n$99\r\na\r\n"};
    struct resp_slice arg;
    uint32_t at;
    size_t n, i;

    for (n = 0; n < sizeof good - 1; n++) {
        unsigned count = 0;

        unit_note = "a request cut short";
        for (at = 0; resp_arg(guarded(good, n), n, &at, &arg); count++)
            CHECK((size_t)arg.off + arg.len + 2 <= n && at <= n);
        CHECK(count == (n >= 13 ? 1 : 0));
    }
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        at = 0;
        unit_note = bad[i];
        CHECK(!resp_arg(guarded(bad[i], strlen(bad[i])), strlen(bad[i]), &at, &arg));
    }
    at = 100;
    CHECK(!resp_arg(guarded(good, 10), 10, &at, &arg));
}

/* ------------------------------------------------------------------- inline */

struct inline_sample {
    const char *line;
    size_t n;
    long result; /* -1, 0, or 1 for the length of out */
    const char *out;
    size_t out_n;
};

#define GIVES(line, out) {BYTES(line), 1, BYTES(out)}
#define GIVES_NOT(line, result) {BYTES(line), result, NULL, 0}

static const struct inline_sample inline_samples[] = {
    GIVES("PING", "*1\r\n$4\r\nPING\r\n"),
    GIVES("PING\n", "*1\r\n$4\r\nPING\r\n"),
    GIVES("PING\r\n", "*1\r\n$4\r\nPING\r\n"),
    GIVES("  GET \t key \r\n", "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"),
    GIVES("\v\fGET", "*1\r\n$3\r\nGET\r\n"),
    GIVES("a\vb", "*1\r\n$3\r\na\vb\r\n"),
    GIVES("a b c d e f g h i j k", "*11\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n$1\r\ne\r\n"
                                   "$1\r\nf\r\n$1\r\ng\r\n$1\r\nh\r\n$1\r\ni\r\n$1\r\nj\r\n$1\r\nk\r\n"),
    GIVES("set k \"a b\"", "*3\r\n$3\r\nset\r\n$1\r\nk\r\n$3\r\na b\r\n"),
    GIVES("set k 'a b'", "*3\r\n$3\r\nset\r\n$1\r\nk\r\n$3\r\na b\r\n"),
    GIVES("set k \"\"\r\n", "*3\r\n$3\r\nset\r\n$1\r\nk\r\n$0\r\n\r\n"),
    GIVES("''", "*1\r\n$0\r\n\r\n"),
    GIVES("\"\\x41\\x0d\\x0A\\xfF\"", "*1\r\n$4\r\nA\r\n\xff\r\n"),
    GIVES("\"\\x4\\x4g\\xg4\\x\"", "*1\r\n$9\r\nx4x4gxg4x\r\n"),
    GIVES("\"\\n\\r\\t\\b\\a\\q\\\\\\\"\\0\"", "*1\r\n$9\r\n\n\r\t\b\aq\\\"0\r\n"),
    GIVES("'\\'\\n\\\\\\x41\"'", "*1\r\n$10\r\n'\\n\\\\\\x41\"\r\n"),
    GIVES("\"it's\" 'say \"x\"'", "*2\r\n$4\r\nit's\r\n$7\r\nsay \"x\"\r\n"),
    GIVES("foo\"bar baz\" x", "*2\r\n$10\r\nfoobar baz\r\n$1\r\nx\r\n"),
    GIVES("foo'bar'\tx", "*2\r\n$6\r\nfoobar\r\n$1\r\nx\r\n"),
    GIVES("\"a\"\vb", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
    GIVES("a\\nb \\x41", "*2\r\n$4\r\na\\nb\r\n$4\r\n\\x41\r\n"),
    GIVES("\xc3\xa9 \x80", "*2\r\n$2\r\n\xc3\xa9\r\n$1\r\n\x80\r\n"),
    GIVES("a\0b c", "*2\r\n$3\r\na\0b\r\n$1\r\nc\r\n"),
    GIVES("\"\\\0\"", "*1\r\n$1\r\n\0\r\n"),
    GIVES_NOT("", 0),
    GIVES_NOT("\n", 0),
    GIVES_NOT("\r\n", 0),
    GIVES_NOT(" \t \v\f\r\n", 0),
    GIVES_NOT("\"abc", -1),
    GIVES_NOT("\"abc\r\n", -1),
    GIVES_NOT("'abc\r\n", -1),
    GIVES_NOT("\"abc\"def\r\n", -1),
    GIVES_NOT("'abc'def\r\n", -1),
    GIVES_NOT("'abc'\"def\"\r\n", -1),
    GIVES_NOT("\"abc\\\"", -1),
    GIVES_NOT("\"abc\\", -1),
    GIVES_NOT("'abc\\'", -1),
    GIVES_NOT("'abc\\", -1),
    GIVES_NOT("set k \"v\" '\n", -1),
    GIVES_NOT("x\"", -1),
    GIVES_NOT("\"\\x4", -1),
};

static void test_inline(void)
{
    static unsigned char out[4096];
    size_t i, cap;

    for (i = 0; i < sizeof inline_samples / sizeof inline_samples[0]; i++) {
        const struct inline_sample *t = &inline_samples[i];
        long len;

        unit_note = t->line;
        len = resp_inline(guarded(t->line, t->n), t->n, out, RESP_INLINE_ROOM(t->n));
        CHECK(t->result == 1 ? len == (long)t->out_n && memcmp(out, t->out, t->out_n) == 0 : len == t->result);
        /* Too little room is told and never overrun; what is written and a header more is enough. */
        for (cap = 0; t->result == 1 && cap <= t->out_n + RESP_HEADER_CAP; cap++) {
            unsigned char *at = guard - cap;

            len = resp_inline((const unsigned char *)t->line, t->n, at, cap);
            CHECK(len == -2 || (len == (long)t->out_n && memcmp(at, t->out, t->out_n) == 0));
            CHECK(len != -2 || cap < t->out_n + RESP_HEADER_CAP);
        }
    }
}

/* No line of n bytes over this alphabet needs more than RESP_INLINE_ROOM(n). */
static void test_inline_room(void)
{
    static const char alphabet[] = {'a', ' ', '"', '\\', '\''};
    unsigned char line[6], out[RESP_INLINE_ROOM(6)];
    size_t n, i, rest, count = 1;
    unsigned k;

    unit_note = "every short line";
    for (n = 1; n <= sizeof line; n++) {
        for (count *= sizeof alphabet, i = 0; i < count; i++) {
            for (k = 0, rest = i; k < n; k++, rest /= sizeof alphabet)
                line[k] = (unsigned char)alphabet[rest % sizeof alphabet];
            CHECK(resp_inline(line, n, out, RESP_INLINE_ROOM(n)) != -2);
        }
    }
}

/* ------------------------------------------------------------------ replies */

struct reply_sample {
    const char *bytes;
    size_t n;
    enum resp_status status;
    size_t used;
    char type;
    bool headed;
    int64_t length;
    uint64_t least;
};

#define OVER(text, type, length) {BYTES(text), RESP_WHOLE, sizeof text - 1, type, true, length, sizeof text - 1}
#define UNDER(text, type, headed, length, least) {BYTES(text), RESP_MORE, sizeof text - 1, type, headed, length, least}
#define WRONG(text, used) {BYTES(text), RESP_BAD, used, 0, false, 0, 0}

static const struct reply_sample reply_samples[] = {
    /* One line. */
    OVER("+OK\r\n", '+', 0),
    OVER("+\r\n", '+', 0),
    OVER("+a\rb\nc\n\r\r\n", '+', 0),
    OVER("-ERR unknown command\r\n", '-', 0),
    OVER("-MOVED 3999 127.0.0.1:6381\r\n", '-', 0),
    OVER(":1\r\n", ':', 0),
    OVER(":-9223372036854775808\r\n", ':', 0),
    OVER("_\r\n", '_', 0),
    OVER("#t\r\n", '#', 0),
    OVER("#f\r\n", '#', 0),
    OVER(",3.14\r\n", ',', 0),
    OVER(",-inf\r\n", ',', 0),
    OVER("(3492890328409238509324850943850943825024385\r\n", '(', 0),

    /* Bulks. */
    OVER("$5\r\nhello\r\n", '$', 5),
    OVER("$0\r\n\r\n", '$', 0),
    OVER("$-1\r\n", '$', -1),
    OVER("$4\r\n\r\n\r\n\r\n", '$', 4),
    OVER("$12\r\nhello world!\r\n", '$', 12),
    OVER("!21\r\nSYNTAX invalid syntax\r\n", '!', 21),
    OVER("=15\r\ntxt:Some string\r\n", '=', 15),

    /* Aggregates. */
    OVER("*0\r\n", '*', 0),
    OVER("*-1\r\n", '*', -1),
    OVER("~0\r\n", '~', 0),
    OVER("%0\r\n", '%', 0),
    OVER(">0\r\n", '>', 0),
    OVER("*1\r\n:1\r\n", '*', 1),
    OVER("*3\r\n:1\r\n$1\r\na\r\n+x\r\n", '*', 3),
    OVER("*3\r\n$-1\r\n*-1\r\n_\r\n", '*', 3),
    OVER("*2\r\n*0\r\n*0\r\n", '*', 2),
    OVER("*2\r\n*2\r\n*1\r\n*0\r\n:1\r\n$0\r\n\r\n", '*', 2),
    OVER("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", '*', 1),
    OVER("~2\r\n#t\r\n,1.5\r\n", '~', 2),
    OVER("%2\r\n+a\r\n:1\r\n+b\r\n*2\r\n:1\r\n:2\r\n", '%', 2),
    OVER("%1\r\n%1\r\n+a\r\n+b\r\n%0\r\n", '%', 1),
    OVER(">3\r\n+message\r\n$2\r\nch\r\n$5\r\nhello\r\n", '>', 3),
    OVER("*4\r\n*2\r\n:0\r\n:5460\r\n*-1\r\n!3\r\nERR\r\n(1\r\n", '*', 4),

    /* Attributes are no elements. */
    OVER("|1\r\n+ttl\r\n:3600\r\n$1\r\nx\r\n", '$', 1),
    OVER("|0\r\n:1\r\n", ':', 0),
    OVER("|0\r\n|0\r\n*0\r\n", '*', 0),
    OVER("|1\r\n+k\r\n+v\r\n|2\r\n+a\r\n+b\r\n+c\r\n+d\r\n$-1\r\n", '$', -1),
    OVER("|1\r\n|1\r\n+a\r\n+b\r\n+k\r\n*1\r\n:1\r\n:9\r\n", ':', 0),
    OVER("*3\r\n:1\r\n:2\r\n|1\r\n+ttl\r\n:3600\r\n:3\r\n", '*', 3),
    OVER("*1\r\n|1\r\n$1\r\nk\r\n%1\r\n:1\r\n:2\r\n*1\r\n_\r\n", '*', 1),

    /* Not over yet. */
    UNDER("$", '$', false, 0, 1),
    UNDER("$5", '$', false, 0, 2),
    UNDER("$5\r", '$', false, 0, 3),
    UNDER("$5\r\n", '$', true, 5, 11),
    UNDER("$5\r\nhel", '$', true, 5, 11),
    UNDER("$5\r\nhello", '$', true, 5, 11),
    UNDER("$5\r\nhello\r", '$', true, 5, 11),
    UNDER("$1073741824\r\nx", '$', true, 1 << 30, 13 + (1U << 30) + 2),
    UNDER("+", '+', true, 0, 1),
    UNDER("-MOVED 39", '-', true, 0, 9),
    UNDER("+OK\r", '+', true, 0, 4),
    UNDER("+OK\n", '+', true, 0, 4),
    UNDER("*2\r\n:1\r\n", '*', true, 2, 8),
    UNDER("*2\r\n$9\r\nabc", '*', true, 2, 19),
    UNDER("*2147483648\r\n", '*', true, 1LL << 31, 13),
    UNDER("%2147483648\r\n", '%', true, 1LL << 31, 13),
    UNDER("*2147483648\r\n*2147483648\r\n%2147483648\r\n:1\r\n", '*', true, 1LL << 31, 43),
    UNDER("|1\r\n+k\r\n+v\r\n", 0, false, 0, 12),
    UNDER("|1\r\n+k\r\n+v\r\n*", '*', false, 0, 13),
    UNDER("|2147483648\r\n:1\r\n", 0, false, 0, 17),

    /* Bad ones. */
    WRONG("x", 0),
    WRONG("OK\r\n", 0),
    WRONG("\r\n", 0),
    WRONG("\0", 0),
    WRONG("\xff", 0),
    WRONG(";4\r\nabcd\r\n", 0),
    WRONG(".\r\n", 0),
    WRONG("$\r\n", 3),
    WRONG("$?\r\n", 4),
    WRONG("*?\r\n", 4),
    WRONG("$-2\r\n", 5),
    WRONG("*-2\r\n", 5),
    WRONG("$-0\r\n", 5),
    WRONG("$+5\r\nhello\r\n", 5),
    WRONG("$05\r\nhello\r\n", 5),
    WRONG("!-1\r\n", 5),
    WRONG("=-1\r\n", 5),
    WRONG("~-1\r\n", 5),
    WRONG("%-1\r\n", 5),
    WRONG(">-1\r\n", 5),
    WRONG("|-1\r\n", 5),
    WRONG("$5\rx", 4),
    WRONG("$5\r\r\nhello\r\n", 4),
    WRONG("$12345678901\rx", 14),
    WRONG("$1073741825\r\n", 13),
    WRONG("$9223372036854775807\r\n", 22),
    WRONG("$9223372036854775808\r\n", 22),
    WRONG("*2147483649\r\n", 13),
    WRONG("%2147483649\r\n", 13),
    WRONG("*9223372036854775807\r\n", 22),
    WRONG("*18446744073709551616\r\n", 23),
    WRONG("$" DIGITS50 "\r\n", 25),
    WRONG("$5\r\nhelloxy", 9),
    WRONG("$5\r\nhello\n\r", 9),
    WRONG("$5\r\nhello\rx", 10),
    WRONG("$0\r\n+OK\r\n", 4),
    WRONG("*2\r\n:1\r\nx", 8),
    WRONG("*2\r\n$-1\r\n$-3\r\n", 14),
    WRONG("|1\r\n+k\r\n+v\r\nx", 12),

    /* Several, one behind the other. */
    {BYTES("+OK\r\n:1\r\n$3\r\nabc\r\n*2\r\n:1\r\n:2\r\n$-1\r\n"
           ">1\r\n+x\r\n|1\r\n+a\r\n+b\r\n%0\r\n-ERR x\r\n$9\r\nab"), RESP_WHOLE, 5,
     '+', true, 0, 5},
    {BYTES("$-1\r\n*0\r\n_\r\n$0\r\n\r\n*-1\r\n+\r\nx"), RESP_WHOLE, 5, '$', true, -1, 5},
};

static void test_replies(void)
{
    size_t i;

    for (i = 0; i < sizeof reply_samples / sizeof reply_samples[0]; i++) {
        const struct reply_sample *t = &reply_samples[i];
        struct resp_reply r = {0};
        enum resp_status status;
        size_t took;

        unit_note = t->bytes;
        took = resp_reply(&r, guarded(t->bytes, t->n), t->n, &status);
        CHECK(status == t->status);
        CHECK(took == t->used && r.used == t->used);
        if (status == RESP_BAD) {
            CHECK(r.error != NULL);
            CHECK(resp_reply(&r, guarded("x", 1), 1, &status) == 0 && status == RESP_BAD);
        } else {
            CHECK(r.type == t->type && r.headed == t->headed && r.length == t->length);
            CHECK(resp_reply_least(&r) == t->least);
        }
        every_cut(replies, t->bytes, t->n);
    }
}

/* Depth costs nothing, and what is outstanding has a limit. */
static void test_reply_depth(void)
{
    struct resp_reply r = {0};
    enum resp_status status;
    long i;

    unit_note = "nesting";
    for (i = 0; i < 1000000; i++)
        resp_reply(&r, guarded("*1\r\n", 4), 4, &status);
    CHECK(status == RESP_MORE);
    CHECK(resp_reply(&r, guarded(":1\r\n+OK\r\n", 9), 9, &status) == 4 && status == RESP_WHOLE);
    CHECK(r.used == 4000004 && r.type == '*' && r.length == 1);

    resp_reply_start(&r);
    for (i = 0, status = RESP_MORE; status == RESP_MORE && i < 1000; i++)
        resp_reply(&r, guarded("*2147483648\r\n", 13), 13, &status);
    CHECK(status == RESP_BAD && i == 513);
    CHECK(r.error != NULL && strcmp(r.error, "too many elements are outstanding") == 0);
}

/* ------------------------------------------------------------------ numbers */

static void test_numbers(void)
{
    static const struct {
        const char *text;
        bool good;
        int64_t value;
    } samples[] = {
        {"0", true, 0}, {"1", true, 1}, {"-1", true, -1}, {"42", true, 42}, {"1000000000", true, 1000000000},
        {"9223372036854775807", true, INT64_MAX}, {"-9223372036854775808", true, INT64_MIN},
        {"-9223372036854775807", true, -INT64_MAX}, {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0}, {"9223372036854775810", false, 0}, {"18446744073709551616", false, 0},
        {"99999999999999999999999999", false, 0}, {"", false, 0}, {"-", false, 0}, {"-0", false, 0}, {"00", false, 0},
        {"01", false, 0}, {"-01", false, 0}, {"+1", false, 0}, {" 1", false, 0}, {"1 ", false, 0}, {"1a", false, 0},
        {"/", false, 0}, {":", false, 0}, {"0x1", false, 0}, {"--1", false, 0}, {"1.0", false, 0},
    };
    static const int64_t values[] = {0, 1, -1, 9, 10, 99, -100, 1LL << 31, INT64_MAX, INT64_MIN, INT64_MIN + 1};
    size_t i;

    for (i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        int64_t value = 77;

        unit_note = samples[i].text;
        CHECK(resp_to_int(guarded(samples[i].text, strlen(samples[i].text)), strlen(samples[i].text), &value)
              == samples[i].good);
        CHECK(value == (samples[i].good ? samples[i].value : 77));
    }
    for (i = 0; i < sizeof values / sizeof values[0]; i++) {
        char want[64];
        int len = snprintf(want, sizeof want, "*%lld\r\n", (long long)values[i]);
        unsigned char *out = guard - RESP_HEADER_CAP;

        unit_note = want;
        CHECK(resp_put_header(out, '*', values[i]) == (size_t)len && memcmp(out, want, (size_t)len) == 0);
    }
    unit_note = "";
}

int main(void)
{
    guard_map();
    test_numbers();
    test_requests();
    test_request_ahead();
    test_request_stranger();
    test_arg_malformed();
    test_inline();
    test_inline_room();
    test_replies();
    test_reply_depth();
    return unit_end();
}
