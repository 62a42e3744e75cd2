/* test_command.c - the command table: lookups, declared commands, and the keys of requests.
 *
 *   "mset a 1 b 2" --as multibulk, up to the end of a page--> command_keys() --> "a b"
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "command.h"
#include "unit.h"

#define PAGES 4 /* of readable memory before the guard */
#define KEYS_CAP 8
#define TEXT_CAP 256

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

static const unsigned char *guarded(const char *p, size_t n)
{
    return memcpy(guard - n, p, n);
}

static const struct command *find(const char *name)
{
    return command_find(guarded(name, strlen(name)), strlen(name));
}

static const struct command *sub(const char *outer, const char *name)
{
    const struct command *c = find(outer); /* before the guarded bytes become the next name */

    return command_sub(c, guarded(name, strlen(name)), strlen(name));
}

/* -------------------------------------------------- lookups */

static void upper(char *to, const char *from)
{
    size_t i;

    for (i = 0; from[i] != '\0'; i++)
        to[i] = from[i] >= 'a' && from[i] <= 'z' ? (char)(from[i] - 32) : from[i];
    to[i] = '\0';
}

static void test_rows(void)
{
    char name[64], *bar;
    const struct command *c;
    uint32_t i;

    CHECK(command_count() > 400);
    CHECK(command_at(command_count()) == NULL);
    for (i = 0; i < command_count(); i++) {
        c = command_at(i);
        unit_note = c->name;
        CHECK(i == 0 || strcmp(command_at(i - 1)->name, c->name) < 0);
        CHECK(c->arity != 0 && c->keys < KEYS_SHAPES && c->route <= ROUTE_ADMIN && c->merge <= MERGE_SPECIAL);
        upper(name, c->name);
        bar = strchr(name, '|');
        CHECK((bar != NULL) == ((c->flags & CMD_SUBCOMMAND) != 0));
        if (bar == NULL) {
            CHECK(find(c->name) == c);
            CHECK(find(name) == c);
            name[0] = (char)(name[0] | 0x20);
            CHECK(find(name) == c);
        } else {
            CHECK(find(c->name) == NULL);
            *bar = '\0';
            CHECK(sub(name, bar + 1) == c);
            CHECK(sub(name, strchr(c->name, '|') + 1) == c);
            CHECK((find(name)->flags & CMD_CONTAINER) != 0);
        }
    }
}

static void test_unknown(void)
{
    static const char *const names[] = {
        "", "g", "ge", "gett", "gets", "GET ", " get", "get\r", "xyzzy", "cluster|info", "cluster|", "|", "foo|bar",
        "restore\rasking", "bitfield\x7fro", "EVAL\x7fRO", "RESTORE\rASKING",
        "a-name-that-is-longer-than-any-command-of-any-server-could-ever-be"};
    static const char nul[] = "get\0x";
    char byte[2] = {0, 0};
    size_t i;

    unit_note = "unknown names";
    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        CHECK(find(names[i]) == NULL);
    for (i = 0; i < 256; i++) {
        byte[0] = (char)i;
        CHECK(command_find((const unsigned char *)byte, 1) == NULL);
    }
    CHECK(command_find(guarded(nul, 4), 4) == NULL && command_find(guarded(nul, 3), 3) != NULL);
    CHECK(sub("get", "x") == NULL && sub("cluster", "") == NULL && sub("cluster", "xyzzy") == NULL);
    CHECK(sub("cluster", "info ") == NULL && sub("cluster", "info|x") == NULL && sub("xyzzy", "info") == NULL);
    CHECK(sub("cluster", "a-subcommand-that-is-longer-than-any-command-of-any-server") == NULL);
    CHECK(command_sub(NULL, guarded("info", 4), 4) == NULL);
}

/* -------------------------------------------------- keys */

struct call {
    const char *request, *keys; /* arguments and keys with blanks between; '' is an empty argument */
    int result;                 /* when below 0; else the count of `keys` */
};

static const struct call calls[] = {
    {"ping", "", 0}, {"ping x", "", 0}, {"get k", "k", 0}, {"GET k", "k", 0}, {"get", "", -1}, {"get k x", "", -1},
    {"get ''", "''", 0}, {"set k v", "k", 0}, {"set k v EX 10", "k", 0}, {"set k", "", -1},
    {"del a b c", "a b c", 0}, {"del", "", -1}, {"mget a a", "a a", 0}, {"del 1 2 3 4 5 6 7 8 9", "1 2 3 4 5 6 7 8", -2},
    {"del 1 2 3 4 5 6 7 8", "1 2 3 4 5 6 7 8", 0},
    {"mset a 1 b 2", "a b", 0}, {"mset a 1 b", "", -1}, {"msetnx a 1", "a", 0},
    {"blpop a b 0", "a b", 0}, {"blpop a", "", -1}, {"rename a b", "a b", 0}, {"copy a b DB 1", "a b", 0},
    {"bitop AND d a b", "d a b", 0}, {"object encoding k", "k", 0}, {"object help", "", 0}, {"memory usage k SAMPLES 1", "k", 0},
    {"xgroup create s g $", "s", 0}, {"xinfo stream s", "s", 0}, {"xinfo help", "", 0},
    {"lmpop 2 a b LEFT", "a b", 0}, {"lmpop 3 a b LEFT", "a b LEFT", 0}, {"lmpop 4 a b LEFT", "", -1},
    {"lmpop 0 a LEFT", "", -1}, {"lmpop -1 a LEFT", "", -1}, {"lmpop x a LEFT", "", -1}, {"lmpop 01 a LEFT", "", -1},
    {"lmpop 9223372036854775807 a LEFT", "", -1}, {"lmpop 9223372036854775808 a LEFT", "", -1},
    {"blmpop 0 1 a LEFT", "a", 0}, {"eval s 0", "", 0}, {"eval s 0 arg", "", 0}, {"eval s 2 a b c", "a b", 0},
    {"eval s 3 a b", "", -1}, {"eval s", "", -1}, {"eval s -1 a", "", -1}, {"evalsha s 1 a", "a", 0}, {"fcall f 1 a b", "a", 0},
    {"zunionstore d 2 a b WEIGHTS 1 2", "d a b", 0}, {"zunionstore d 0 a", "", -1}, {"zunionstore d x a", "", -1},
    {"zunionstore d 2 a", "", -1}, {"zdiff 1 a", "a", 0},
    {"msetex 2 a 1 b 2 EX 5", "a b", 0}, {"msetex 1 a 1", "a", 0}, {"msetex 2 a 1 b", "", -1}, {"msetex 2 a 1", "", -1},
    {"msetex 0 a 1", "", -1}, {"msetex 4611686018427387904 a 1", "", -1},
    {"xread STREAMS a 0", "a", 0}, {"xread COUNT 2 BLOCK 0 streams a b 0 $", "a b", 0}, {"xread STREAMS a b 0", "", -1},
    {"xread COUNT 2 a", "", -1}, {"xread a b STREAMS", "", -1}, {"xread a b c", "", -1},
    {"xreadgroup GROUP streams c STREAMS a >", "a", 0}, {"xreadgroup GROUP g c NOACK CLAIM 5 STREAMS a b > >", "a b", 0},
    {"xreadgroup GROUP g c COUNT 1 BLOCK 0", "", -1}, {"xreadgroup a b c d e GROUP", "", -1},
    {"georadius k 1 2 3 m", "k", 0}, {"georadius k 1 2 3 m WITHDIST STORE d", "k d", 0},
    {"georadius k 1 2 3 m store d STOREDIST e", "k d e", 0}, {"georadius k 1 2 3 m STORE", "k", 0},
    {"georadiusbymember k m 1 km STORE d", "k d", 0}, {"georadius_ro k 1 2 3 m STORE d", "k", 0},
    {"sort k", "k", 0}, {"sort k BY w_* GET a GET b LIMIT 0 1 STORE d", "k d", 0}, {"sort k BY store ASC", "k", 0},
    {"sort k GET store STORE d", "k d", 0}, {"sort k LIMIT store store", "k", 0}, {"sort_ro k BY a GET b", "k", 0},
    {"sort k STORE", "k", 0}, {"sort k STORE a STORE b STORE c", "k c", 0},
    {"migrate h 1 k 0 5", "k", 0}, {"migrate h 1 k 0 5 KEYS a", "k", 0}, {"migrate h 1 '' 0 5 COPY KEYS a b", "a b", 0},
    {"migrate h 1 '' 0 5 AUTH KEYS KEYS a", "a", 0}, {"migrate h 1 '' 0 5 AUTH2 KEYS KEYS keys a", "a", 0},
    {"migrate h 1 '' 0 5", "", -1}, {"migrate h 1 '' 0 5 KEYS", "", -1}, {"migrate h 1 '' 0", "", -1},
    {"spublish c m", "c", 0}, {"ssubscribe a b", "a b", 0}, {"sunsubscribe", "", 0}, {"clusterscan 0", "0", 0},
    {"vadd k VALUES 1 1 e", "k", 0}, {"vadd", "", -1}, {"hgetex k FIELDS 1 f", "k", 0}, {"delex k IFEQ v", "k", 0},
    {"cluster keyslot k", "", 0}, {"command getkeys get k", "", 0}, {"multi", "", 0}, {"wait 1 0", "", 0},
};

/* Writes the request as multibulk and gives its length. */
static size_t encode(const char *request, char *out, size_t cap, uint32_t *argc)
{
    const char *p = request, *end;
    size_t len, n;

    for (*argc = 1; (p = strchr(p, ' ')) != NULL; p++)
        ++*argc;
    len = (size_t)snprintf(out, cap, "*%u\r\n", *argc);
    for (p = request; p != NULL; p = *end == ' ' ? end + 1 : NULL) {
        n = strcspn(p, " ");
        end = p + n;
        if (n == 2 && p[0] == '\'')
            n = 0;
        len += (size_t)snprintf(out + len, cap - len, "$%zu\r\n%.*s\r\n", n, (int)n, p);
    }
    return len;
}

/* The row of a request's command, or of its subcommand. */
static const struct command *row_of(const unsigned char *req, size_t len)
{
    const struct command *c, *s;
    struct resp_slice arg;
    uint32_t at = 0;

    if (!resp_arg(req, len, &at, &arg))
        return NULL;
    c = command_find(req + arg.off, arg.len);
    if (c == NULL || !resp_arg(req, len, &at, &arg))
        return c;
    s = command_sub(c, req + arg.off, arg.len);
    return s != NULL ? s : c;
}

static void test_call(const struct call *x)
{
    struct resp_slice keys[KEYS_CAP];
    char plain[TEXT_CAP], got[TEXT_CAP] = "";
    const unsigned char *req;
    const struct command *c;
    uint32_t argc;
    size_t len, i;
    int n;

    unit_note = x->request;
    len = encode(x->request, plain, sizeof plain, &argc);
    req = guarded(plain, len);
    c = row_of(req, len);
    if (!CHECK(c != NULL))
        return;
    n = command_keys(c, req, len, argc, keys, KEYS_CAP);
    for (i = 0; i < (size_t)(n == -2 ? KEYS_CAP : n < 0 ? 0 : n); i++) {
        strncat(got, i > 0 ? " " : "", sizeof got - 1 - strlen(got));
        if (keys[i].len == 0)
            strncat(got, "''", sizeof got - 1 - strlen(got));
        strncat(got, (const char *)req + keys[i].off, keys[i].len);
    }
    CHECK(x->result < 0 ? n == x->result : n >= 0);
    if (!CHECK(strcmp(got, x->keys) == 0))
        printf("    got \"%s\"\n", got);
    if (n > 0) {
        CHECK(command_keys(c, req, len, argc, keys, (uint32_t)n) == n);
        CHECK(command_keys(c, req, len, argc, keys, (uint32_t)n - 1) == -2);
    }
}

/* A request that is shorter or longer than it says: no key beyond its bytes. */
static void test_cut(const struct call *x)
{
    struct resp_slice keys[KEYS_CAP];
    char plain[TEXT_CAP];
    const unsigned char *req;
    const struct command *c;
    uint32_t argc, k;
    size_t len, cut;
    int n;

    unit_note = x->request;
    len = encode(x->request, plain, sizeof plain, &argc);
    c = row_of((const unsigned char *)plain, len);
    for (cut = 0; c != NULL && cut <= len; cut++) {
        req = guarded(plain, cut);
        n = command_keys(c, req, cut, argc + (uint32_t)(len - cut), keys, KEYS_CAP);
        CHECK(n <= KEYS_CAP);
        for (k = 0; (int)k < n; k++)
            CHECK(keys[k].off <= cut && keys[k].len <= cut - keys[k].off);
    }
}

/* -------------------------------------------------- declared commands */

static void test_declare(void)
{
    static const struct call module[] = {
        {"json.get k $.a", "k", 0}, {"JSON.MSET k $ 1", "k", 0}, {"ft.search i q", "", 0}, {"mod.count 2 a b", "a b", 0},
        {"mod.count 0", "", 0}, {"mod.count", "", -1}, {"mod.pop a b 5", "a b", 0}, {"mod.pop", "", -1}, {"json.get", "", -1}};
    const struct command *c;
    uint32_t count = command_count();
    char name[COMMAND_NAME_CAP + 8];
    size_t i;

    unit_note = "declared";
    CHECK(command_declare("JSON.GET", KEYS_FIRST, CMD_READONLY) == 0);
    CHECK(command_declare("json.mset", KEYS_FIRST, 0) == 0);
    CHECK(command_declare("ft.search", KEYS_NONE, CMD_READONLY) == 0);
    CHECK(command_declare("mod.count", KEYS_COUNT_AT_1, CMD_WRITE) == 0);
    CHECK(command_declare("mod.pop", KEYS_ALL_BUT_LAST, CMD_WRITE | CMD_BLOCKING) == 0);
    CHECK(command_declare("mod.admin", KEYS_NONE, CMD_ADMIN | CMD_SPLIT | CMD_CONTAINER) == 0);
    CHECK(command_count() == count + 6);
    for (i = 0; i < sizeof module / sizeof module[0]; i++) {
        test_call(&module[i]);
        test_cut(&module[i]);
    }
    unit_note = "declared";
    c = find("json.GET");
    CHECK(c != NULL && strcmp(c->name, "json.get") == 0 && c->route == ROUTE_SLOT && c->group == GROUP_MODULE);
    CHECK(c != NULL && c->flags == (CMD_READONLY | CMD_DECLARED) && c == command_at(count));
    CHECK(command_index(c) == count && command_index(find("mod.admin")) == count + 5);
    CHECK(find("json.mset")->flags == (CMD_WRITE | CMD_DECLARED) && find("ft.search")->route == ROUTE_ANY);
    CHECK(find("mod.pop")->route == ROUTE_SESSION && find("mod.admin")->route == ROUTE_ADMIN);
    CHECK(find("mod.admin")->flags == (CMD_ADMIN | CMD_WRITE | CMD_DECLARED));
    CHECK((find("mod.count")->flags & CMD_MOVABLEKEYS) != 0);

    CHECK(command_declare("json.get", KEYS_ALL, CMD_WRITE) == 0 && command_count() == count + 6);
    CHECK(find("json.get")->keys == KEYS_ALL && (find("json.get")->flags & CMD_READONLY) == 0);
    CHECK(command_declare("get", KEYS_FIRST, 0) == -1 && command_declare("Cluster", KEYS_FIRST, 0) == -1);
    CHECK(command_declare("", KEYS_FIRST, 0) == -1 && command_declare("a b", KEYS_FIRST, 0) == -1);
    CHECK(command_declare("a|b", KEYS_FIRST, 0) == -1 && command_declare("a\x80", KEYS_FIRST, 0) == -1);
    CHECK(command_declare("x", KEYS_SHAPES, 0) == -1 && command_declare("x", KEYS_FIRST, CMD_WRITE | CMD_READONLY) == -1);
    memset(name, 'n', sizeof name);
    name[COMMAND_NAME_CAP] = '\0';
    CHECK(command_declare(name, KEYS_FIRST, 0) == -1);
    name[COMMAND_NAME_CAP - 1] = '\0';
    CHECK(command_declare(name, KEYS_FIRST, 0) == 0 && find(name) != NULL);
    for (i = 7; i < COMMAND_DECLARED_MAX; i++) {
        snprintf(name, sizeof name, "mod.%zu", i);
        CHECK(command_declare(name, KEYS_FIRST, 0) == 0 && find(name) != NULL);
    }
    CHECK(command_declare("one.more", KEYS_FIRST, 0) == -1 && find("one.more") == NULL);
    CHECK(command_declare("json.get", KEYS_FIRST, 0) == 0 && find("get")->keys == KEYS_FIRST);
    CHECK(command_count() == count + COMMAND_DECLARED_MAX);
    command_init();
    CHECK(find("json.get") == NULL && command_count() == count && find("get") != NULL);
}

static void test_shapes(void)
{
    int i;

    unit_note = "names of shapes";
    for (i = 0; i < KEYS_SHAPES; i++) {
        CHECK(command_keys_name((enum command_keys)i) != NULL);
        CHECK(command_keys_from_name(command_keys_name((enum command_keys)i)) == i);
    }
    CHECK(command_keys_name(KEYS_SHAPES) == NULL && command_keys_name((enum command_keys)-1) == NULL);
    CHECK(command_keys_from_name("") == -1 && command_keys_from_name("First") == -1);
    CHECK(command_keys_from_name("dest-count-at-2") == KEYS_DEST_COUNT_AT_2);
    CHECK(command_range(find("get"))[0] == 1 && command_range(find("blpop"))[1] == -2 && command_range(find("mset"))[2] == 2);
    CHECK(command_range(find("eval"))[0] == 0 && command_range(find("migrate"))[0] == 3);
    CHECK(command_arity_ok(find("get"), 2) && !command_arity_ok(find("get"), 3) && !command_arity_ok(find("get"), 1));
    CHECK(command_arity_ok(find("set"), 3) && command_arity_ok(find("set"), 300) && !command_arity_ok(find("set"), 2));
}

/* A row's place, and that of what is no row. */
static void test_index(void)
{
    static const struct command stranger = {0};
    uint32_t i;

    unit_note = "index";
    for (i = 0; i < command_count(); i++)
        CHECK(command_index(command_at(i)) == i);
    CHECK(command_index(&stranger) == command_count());
}

/* The keys of a command inside another's request, at any depth of it. */
static void test_inside(void)
{
    static const char text[] = "*6\r\n$7\r\nCOMMAND\r\n$7\r\nGETKEYS\r\n$4\r\nMGET\r\n$1\r\na\r\n$2\r\nbc\r\n$0\r\n\r\n";
    const unsigned char *req = (const unsigned char *)text;
    struct resp_slice keys[3], passed;
    uint32_t at = 0;

    unit_note = "inside";
    CHECK(resp_arg(req, sizeof text - 1, &at, &passed) && resp_arg(req, sizeof text - 1, &at, &passed));
    CHECK(command_keys_inside(find("mget"), req, sizeof text - 1, at, 4, keys, 3) == 3);
    CHECK(text[keys[0].off] == 'a' && keys[0].len == 1 && text[keys[1].off] == 'b' && keys[1].len == 2 && keys[2].len == 0);
    CHECK(command_keys_inside(find("mget"), req, sizeof text - 1, at, 4, keys, 2) == -2);
    CHECK(command_keys_inside(find("mget"), req, sizeof text - 1, at, 1, keys, 3) == -1);
    CHECK(command_keys_inside(find("ping"), req, sizeof text - 1, at, 4, keys, 3) == 0);
}

static void test_routes(void)
{
    unit_note = "routes";
    CHECK(find("mget")->merge == MERGE_BY_KEY && find("mset")->merge == MERGE_ALL_OK && find("del")->merge == MERGE_SUM);
    CHECK((find("mget")->flags & CMD_SPLIT) != 0 && (find("msetnx")->flags & CMD_SPLIT) == 0);
    CHECK((find("msetex")->flags & CMD_SPLIT) == 0 && find("msetex")->route == ROUTE_SLOT);
    CHECK(find("keys")->route == ROUTE_ALL && find("keys")->merge == MERGE_APPEND);
    CHECK(sub("script", "load")->route == ROUTE_ALL && sub("script", "exists")->merge == MERGE_AND);
    CHECK(find("xread")->route == ROUTE_SLOT && (find("xread")->flags & CMD_MAY_BLOCK) != 0);
    CHECK(find("blpop")->route == ROUTE_SESSION && find("wait")->merge == MERGE_MIN && find("scan")->route == ROUTE_SCAN);
    CHECK(find("shutdown")->route == ROUTE_ADMIN && sub("config", "rewrite")->route == ROUTE_ADMIN);
    CHECK(sub("cluster", "slots")->route == ROUTE_LOCAL && sub("cluster", "meet")->route == ROUTE_ADMIN);
    CHECK(sub("cluster", "countkeysinslot")->route == ROUTE_OWNER && sub("command", "docs")->route == ROUTE_ANY);
    CHECK(find("migrate")->route == ROUTE_ADMIN && find("debug")->route == ROUTE_ADMIN && find("ping")->route == ROUTE_LOCAL);
}

int main(void)
{
    size_t i;

    guard_map();
    command_init();
    test_rows();
    test_unknown();
    test_shapes();
    test_routes();
    test_index();
    test_inside();
    for (i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        test_call(&calls[i]);
        test_cut(&calls[i]);
    }
    test_declare();
    return unit_end();
}
