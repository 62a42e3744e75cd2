/*
 * redis_command.c - COMMAND and ACL CAT: what the command table says, in the form of Redis 7.0.
 *
 *   struct command --say_row()--> name arity flags first last step categories tips key-specs subcommands
 *
 * The table knows less than a server does. Categories follow from flags and group by the server's own rules; tips are
 * those of routing; of a key's use only whether the command writes is known, so a written key counts as read too.
 */
#include "redis_say.h"

#include <string.h>

#define PATTERN_MAX 256 /* of COMMAND LIST: all rows are compared with it in one go */

/* ------------------------------------------------------- flags, categories */

struct bit { uint32_t bit; const char *name; };

/* CMD_MAY_REPLICATE and CMD_PROTECTED are the server's own affair: Redis 7.0 does not tell them. */
static const struct bit flag_names[] = {
    { CMD_WRITE, "write" }, { CMD_READONLY, "readonly" }, { CMD_DENYOOM, "denyoom" }, { CMD_ADMIN, "admin" },
    { CMD_PUBSUB, "pubsub" }, { CMD_NOSCRIPT, "noscript" }, { CMD_BLOCKING, "blocking" }, { CMD_LOADING, "loading" },
    { CMD_STALE, "stale" }, { CMD_SKIP_MONITOR, "skip_monitor" }, { CMD_SKIP_SLOWLOG, "skip_slowlog" },
    { CMD_ASKING, "asking" }, { CMD_FAST, "fast" }, { CMD_NO_AUTH, "no_auth" },
    { CMD_NO_MANDATORY_KEYS, "no_mandatory_keys" }, { CMD_NO_ASYNC_LOADING, "no_async_loading" },
    { CMD_NO_MULTI, "no_multi" }, { CMD_MOVABLEKEYS, "movablekeys" }, { CMD_ALLOW_BUSY, "allow_busy" },
};

enum {
    CAT_KEYSPACE = 1 << 0, CAT_READ = 1 << 1, CAT_WRITE = 1 << 2, CAT_SET = 1 << 3, CAT_SORTED_SET = 1 << 4,
    CAT_LIST = 1 << 5, CAT_HASH = 1 << 6, CAT_STRING = 1 << 7, CAT_BITMAP = 1 << 8, CAT_HYPERLOGLOG = 1 << 9,
    CAT_GEO = 1 << 10, CAT_STREAM = 1 << 11, CAT_PUBSUB = 1 << 12, CAT_ADMIN = 1 << 13, CAT_FAST = 1 << 14,
    CAT_SLOW = 1 << 15, CAT_BLOCKING = 1 << 16, CAT_DANGEROUS = 1 << 17, CAT_CONNECTION = 1 << 18,
    CAT_TRANSACTION = 1 << 19, CAT_SCRIPTING = 1 << 20
};

static const struct bit category_names[] = {
    { CAT_KEYSPACE, "keyspace" }, { CAT_READ, "read" }, { CAT_WRITE, "write" }, { CAT_SET, "set" },
    { CAT_SORTED_SET, "sortedset" }, { CAT_LIST, "list" }, { CAT_HASH, "hash" }, { CAT_STRING, "string" },
    { CAT_BITMAP, "bitmap" }, { CAT_HYPERLOGLOG, "hyperloglog" }, { CAT_GEO, "geo" }, { CAT_STREAM, "stream" },
    { CAT_PUBSUB, "pubsub" }, { CAT_ADMIN, "admin" }, { CAT_FAST, "fast" }, { CAT_SLOW, "slow" },
    { CAT_BLOCKING, "blocking" }, { CAT_DANGEROUS, "dangerous" }, { CAT_CONNECTION, "connection" },
    { CAT_TRANSACTION, "transaction" }, { CAT_SCRIPTING, "scripting" },
};

#define FLAGS (sizeof flag_names / sizeof *flag_names)
#define CATEGORIES (sizeof category_names / sizeof *category_names)

static const uint32_t group_category[] = {
    [GROUP_BITMAP] = CAT_BITMAP, [GROUP_CONNECTION] = CAT_CONNECTION, [GROUP_GEO] = CAT_GEO, [GROUP_HASH] = CAT_HASH,
    [GROUP_HYPERLOGLOG] = CAT_HYPERLOGLOG, [GROUP_LIST] = CAT_LIST, [GROUP_SCRIPTING] = CAT_SCRIPTING,
    [GROUP_SET] = CAT_SET, [GROUP_SORTED_SET] = CAT_SORTED_SET, [GROUP_STREAM] = CAT_STREAM,
    [GROUP_STRING] = CAT_STRING, [GROUP_TRANSACTIONS] = CAT_TRANSACTION, [GROUP_VECTOR_SET] = 0,
};

/* What the servers add to that, also for the subcommands of such a name. */
static const struct { const char *name; uint32_t more; } odd_categories[] = {
    { "asking", CAT_CONNECTION }, { "command", CAT_CONNECTION }, { "lastsave", CAT_ADMIN },
    { "readonly", CAT_CONNECTION }, { "readwrite", CAT_CONNECTION }, { "role", CAT_ADMIN },
    { "sort", CAT_SET | CAT_SORTED_SET | CAT_LIST }, { "sort_ro", CAT_SET | CAT_SORTED_SET | CAT_LIST },
    { "wait", CAT_CONNECTION }, { "waitaof", CAT_CONNECTION },
};

static uint32_t categories(const struct command *row)
{
    static const struct { uint32_t flag, categories; } rules[] = {
        { CMD_WRITE, CAT_WRITE }, { CMD_READONLY, CAT_READ }, { CMD_ADMIN, CAT_ADMIN | CAT_DANGEROUS },
        { CMD_PUBSUB, CAT_PUBSUB }, { CMD_FAST, CAT_FAST }, { CMD_BLOCKING, CAT_BLOCKING },
        { CMD_KEYSPACE, CAT_KEYSPACE }, { CMD_DANGEROUS, CAT_DANGEROUS },
    };
    /* A container is no command of its group. */
    uint32_t all = row->flags & CMD_CONTAINER ? 0 : group_category[row->group];
    size_t name = strcspn(row->name, "|");
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        all |= row->flags & rules[i].flag ? rules[i].categories : 0;
    }
    all |= row->flags & CMD_FAST ? 0 : CAT_SLOW;
    if (all & CAT_SCRIPTING) {
        all &= ~(uint32_t)CAT_READ;
    }
    for (size_t i = 0; i < sizeof odd_categories / sizeof *odd_categories; i++) {
        if (strncmp(row->name, odd_categories[i].name, name) == 0 && odd_categories[i].name[name] == '\0') {
            all |= odd_categories[i].more;
        }
    }
    return all;
}

/* The names of the bits that are set, as a set of status lines. */
static void say_bits(uint32_t bits, const struct bit *names, size_t count, const char *before)
{
    int64_t set = 0;
    for (size_t i = 0; i < count; i++) {
        set += (bits & names[i].bit) != 0;
    }
    say_set(set);
    for (size_t i = 0; i < count; i++) {
        if (bits & names[i].bit) {
            say_format("+%s%s\r\n", before, names[i].name);
        }
    }
}

static uint32_t category_of(struct word name)
{
    for (size_t i = 0; i < CATEGORIES; i++) {
        if (word_is(name, category_names[i].name)) {
            return category_names[i].bit;
        }
    }
    return 0;
}

/* -------------------------------------------------------------- tips, keys */

static void say_tips(const struct command *row)
{
    static const char *const responses[] = {
        [MERGE_SUM] = "agg_sum", [MERGE_MIN] = "agg_min", [MERGE_AND] = "agg_logical_and",
        [MERGE_ALL_OK] = "all_succeeded", [MERGE_ONE_OK] = "one_succeeded", [MERGE_SPECIAL] = NULL,
    };
    const char *request = row->flags & CMD_SPLIT ? "multi_shard" : row->route == ROUTE_ALL ? "all_shards" : NULL;
    const char *response = request != NULL ? responses[row->merge] : NULL;
    say_set((request != NULL) + (response != NULL));
    if (request != NULL) {
        say_header('$', (int64_t)(strlen("request_policy:") + strlen(request)));
        say_format("request_policy:%s\r\n", request);
    }
    if (response != NULL) {
        say_header('$', (int64_t)(strlen("response_policy:") + strlen(response)));
        say_format("response_policy:%s\r\n", response);
    }
}

#define SPECS_MAX 3

enum find { FIND_NONE, FIND_RANGE, FIND_COUNT };

/* Where keys begin: at an argument, or behind a word that is looked for from there on; and how many there are: a range
 * (up to `last`), or as many as the first argument says. */
struct spec { const char *word; int8_t from; uint8_t find; int8_t last, step, limit; };

static const struct spec key_specs[KEYS_SHAPES][SPECS_MAX] = {
    [KEYS_FIRST] = { { NULL, 1, FIND_RANGE, 0, 1, 0 } },
    [KEYS_ALL] = { { NULL, 1, FIND_RANGE, -1, 1, 0 } },
    [KEYS_PAIRS] = { { NULL, 1, FIND_RANGE, -1, 2, 0 } },
    [KEYS_ALL_BUT_LAST] = { { NULL, 1, FIND_RANGE, -2, 1, 0 } },
    [KEYS_FIRST_TWO] = { { NULL, 1, FIND_RANGE, 0, 1, 0 }, { NULL, 2, FIND_RANGE, 0, 1, 0 } },
    [KEYS_SECOND] = { { NULL, 2, FIND_RANGE, 0, 1, 0 } },
    [KEYS_FROM_SECOND] = { { NULL, 2, FIND_RANGE, -1, 1, 0 } },
    [KEYS_COUNT_AT_1] = { { NULL, 1, FIND_COUNT, 0, 1, 0 } },
    [KEYS_COUNT_AT_2] = { { NULL, 2, FIND_COUNT, 0, 1, 0 } },
    [KEYS_DEST_COUNT_AT_2] = { { NULL, 1, FIND_RANGE, 0, 1, 0 }, { NULL, 2, FIND_COUNT, 0, 1, 0 } },
    [KEYS_COUNTED_PAIRS] = { { NULL, 1, FIND_COUNT, 0, 2, 0 } },
    [KEYS_STREAMS] = { { "STREAMS", 1, FIND_RANGE, -1, 1, 2 } },
    [KEYS_GEORADIUS] = { { NULL, 1, FIND_RANGE, 0, 1, 0 }, { "STORE", 5, FIND_RANGE, 0, 1, 0 },
                         { "STOREDIST", 5, FIND_RANGE, 0, 1, 0 } },
    [KEYS_SORT] = { { NULL, 1, FIND_RANGE, 0, 1, 0 }, { "STORE", 2, FIND_RANGE, 0, 1, 0 } },
    [KEYS_MIGRATE] = { { NULL, 3, FIND_RANGE, 0, 1, 0 }, { "KEYS", -2, FIND_RANGE, -1, 1, 0 } },
};

static void say_key_flags(const struct command *row)
{
    bool channel = (row->flags & CMD_NOT_KEY) != 0, reads = (row->flags & CMD_READONLY) != 0;
    say_set(channel ? 1 : reads ? 2 : 3);
    say_text(channel ? "+not_key\r\n" : reads ? "+RO\r\n+access\r\n" : "+RW\r\n+access\r\n+update\r\n");
}

static void say_number(const char *name, int64_t n)
{
    say_name(name);
    say_header(':', n);
}

/* "name", and as its value the map { type: kind, spec: a map of so many pairs }, which follow. */
static void say_kind(const char *name, const char *kind, int64_t pairs)
{
    say_name(name);
    say_map(2);
    say_name("type");
    say_name(kind);
    say_name("spec");
    say_map(pairs);
}

/* A map of three: flags, begin_search, find_keys. */
static void say_spec(const struct command *row, const struct spec *spec)
{
    say_map(3);
    say_name("flags");
    say_key_flags(row);
    say_kind("begin_search", spec->word == NULL ? "index" : "keyword", spec->word == NULL ? 1 : 2);
    if (spec->word == NULL) {
        say_number("index", spec->from);
    } else {
        say_name("keyword");
        say_name(spec->word);
        say_number("startfrom", spec->from);
    }
    say_kind("find_keys", spec->find == FIND_RANGE ? "range" : "keynum", 3);
    if (spec->find == FIND_RANGE) {
        say_number("lastkey", spec->last);
        say_number("keystep", spec->step);
        say_number("limit", spec->limit);
    } else {
        say_number("keynumidx", 0);
        say_number("firstkey", 1);
        say_number("keystep", spec->step);
    }
}

static void say_specs(const struct command *row)
{
    const struct spec *specs = key_specs[row->keys];
    int64_t count = 0;
    while (count < SPECS_MAX && specs[count].find != FIND_NONE) {
        count++;
    }
    say_set(count);
    for (int64_t i = 0; i < count; i++) {
        say_spec(row, &specs[i]);
    }
}

/* -------------------------------------------------------------------- rows */

/* Whether row is a subcommand of that container; of none (NULL): whether it is no subcommand. */
static bool stands_in(const struct command *row, const struct command *container)
{
    size_t n;
    if (container == NULL || (row->flags & CMD_SUBCOMMAND) == 0) {
        return container == NULL && (row->flags & CMD_SUBCOMMAND) == 0;
    }
    n = strlen(container->name);
    return strncmp(row->name, container->name, n) == 0 && row->name[n] == '|';
}

static uint32_t count_in(const struct command *container)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < command_count(); i++) {
        count += stands_in(command_at(i), container);
    }
    return count;
}

/* All but the subcommands. */
static void say_row_head(const struct command *row)
{
    const int8_t *range = command_range(row);
    say_text("*10\r\n");
    say_name(row->name);
    say_header(':', row->arity);
    say_bits(row->flags, flag_names, FLAGS, "");
    say_header(':', range[0]);
    say_header(':', range[1]);
    say_header(':', range[2]);
    say_bits(categories(row), category_names, CATEGORIES, "@");
    say_tips(row);
    say_specs(row);
}

static void say_row(const struct command *row)
{
    say_row_head(row);
    if ((row->flags & CMD_CONTAINER) == 0) {
        say_set(0);
        return;
    }
    say_header('*', count_in(row)); /* no set, though none of them is one */
    for (uint32_t i = 0; i < command_count(); i++) {
        if (stands_in(command_at(i), row)) {
            say_row_head(command_at(i));
            say_set(0);
        }
    }
}

static void say_all(void)
{
    say_header('*', count_in(NULL));
    for (uint32_t i = 0; i < command_count() && !say_overlong(); i++) {
        if (stands_in(command_at(i), NULL)) {
            say_row(command_at(i));
        }
    }
}

/* "get", "config" or "config|get". */
static const struct command *row_named(struct word name)
{
    const char *bar = memchr(name.p, '|', name.n);
    size_t n = bar != NULL ? (size_t)(bar - name.p) : name.n;
    const struct command *row = command_find((const unsigned char *)name.p, n);
    return bar == NULL ? row : command_sub(row, (const unsigned char *)bar + 1, name.n - n - 1);
}

static void say_named(const struct request *q)
{
    struct words w = words_from(q, 2);
    struct word name;
    say_header('*', w.left);
    while (words_next(&w, &name) && !say_overlong()) {
        const struct command *row = row_named(name);
        if (row != NULL) {
            say_row(row);
        } else {
            say_null();
        }
    }
}

/* ------------------------------------------------------------------- lists */

struct class { const char *p, *end; bool found; };

/* "[a-z^...]" behind the bracket. */
static struct class in_class(const char *p, const char *end, char c)
{
    struct class k = { p, end, false };
    bool inverse = p < end && *p == '^';
    for (k.p += inverse; k.p < end && *k.p != ']'; k.p++) {
        if (*k.p == '\\' && k.p + 1 < end) {
            k.p++;
        }
        if (k.p + 2 < end && k.p[1] == '-') {
            char low = *k.p < k.p[2] ? *k.p : k.p[2], high = *k.p < k.p[2] ? k.p[2] : *k.p;
            k.found = k.found || (c >= low && c <= high);
            k.p += 2;
        } else {
            k.found = k.found || *k.p == c;
        }
    }
    k.found = k.found != inverse;
    return k;
}

/* Whether the pattern's element at *p is c; *p is moved past it. */
static bool glob_one(const char **p, const char *end, char c)
{
    const char *at = (*p)++;
    if (*at == '?') {
        return true;
    }
    if (*at == '[') {
        struct class k = in_class(*p, end, c);
        *p = k.p < end ? k.p + 1 : end;
        return k.found;
    }
    if (*at == '\\' && *p < end) {
        at = (*p)++;
    }
    return (*at >= 'A' && *at <= 'Z' ? *at + 32 : *at) == c;
}

/* Whether a name, in lower case, is as a pattern of KEYS says. What stands behind the last star is tried at each place. */
static bool glob(struct word pattern, const char *name)
{
    const char *p = pattern.p, *end = p + pattern.n, *star = NULL, *retry = name;
    while (*name != '\0') {
        if (p < end && *p == '*') {
            star = ++p;
            retry = name;
        } else if (p < end && glob_one(&p, end, *name)) {
            name++;
        } else if (star != NULL) {
            p = star;
            name = ++retry;
        } else {
            return false;
        }
    }
    while (p < end && *p == '*') {
        p++;
    }
    return p == end;
}

struct filter { enum { ALL_ROWS, NO_ROW, BY_CATEGORY, BY_PATTERN } by; struct word word; };

static bool passes(const struct filter *f, const struct command *row)
{
    switch (f->by) {
    case BY_CATEGORY: return (categories(row) & category_of(f->word)) != 0;
    case BY_PATTERN:  return glob(f->word, row->name);
    default:          return f->by == ALL_ROWS;
    }
}

static void say_list(const struct filter *f)
{
    int64_t count = 0;
    for (uint32_t i = 0; i < command_count(); i++) {
        count += passes(f, command_at(i));
    }
    say_header('*', count);
    for (uint32_t i = 0; i < command_count(); i++) {
        if (passes(f, command_at(i))) {
            say_name(command_at(i)->name);
        }
    }
}

/* COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]. No row names the module it is from. */
static void list(const struct request *q)
{
    struct filter f = { ALL_ROWS, { "", 0 } };
    struct words w = words_from(q, 3);
    struct word kind;
    if (q->argc == 2) {
        say_list(&f);
        return;
    }
    if (q->argc != 5 || !word_is(request_word(q, 2), "filterby") || !words_next(&w, &kind) || !words_next(&w, &f.word)) {
        say_syntax_error();
        return;
    }
    f.by = word_is(kind, "module") ? NO_ROW : word_is(kind, "aclcat") ? BY_CATEGORY :
           word_is(kind, "pattern") ? BY_PATTERN : ALL_ROWS;
    if (f.by == ALL_ROWS) {
        say_syntax_error();
    } else if (f.word.n > PATTERN_MAX) {
        say_error("ERR a pattern of more than %d bytes is not tried on every command", PATTERN_MAX);
    } else {
        say_list(&f);
    }
}

/* -------------------------------------------------------------------- keys */

static const struct command *command_inside(const struct request *q)
{
    struct word name = request_word(q, 2), sub = request_word(q, 3);
    const struct command *row = command_find((const unsigned char *)name.p, name.n);
    return row == NULL || (row->flags & CMD_CONTAINER) == 0 || q->argc < 4
               ? row : command_sub(row, (const unsigned char *)sub.p, sub.n);
}

static void say_keys(const struct request *q, const struct command *row, const struct resp_slice *keys, int count)
{
    bool flags = strcmp(q->command->name, "command|getkeysandflags") == 0;
    say_header('*', count);
    for (int i = 0; i < count; i++) {
        if (flags) {
            say_text("*2\r\n");
        }
        say_bulk(q->p + keys[i].off, keys[i].len);
        if (flags) {
            say_key_flags(row);
        }
    }
}

static void get_keys(const struct request *q)
{
    const struct command *row = command_inside(q);
    struct words w = words_from(q, 2);
    uint32_t cap;
    struct resp_slice *keys = fan_keys(&cap);
    int count;
    if (row == NULL) {
        say_error("ERR Invalid command specified");
        return;
    }
    if (row->keys == KEYS_NONE || (row->flags & CMD_NOT_KEY)) {
        say_error("ERR The command has no key arguments");
        return;
    }
    if (!command_arity_ok(row, w.left)) {
        say_error("ERR Invalid number of arguments specified for command");
        return;
    }
    count = command_keys_inside(row, q->p, q->len, w.at, w.left, keys, cap);
    if (count == -2) {
        say_error("ERR a request of more than %u keys is too wide for this proxy (max_split_keys)", (unsigned)cap);
    } else if (count < 0 || (count == 0 && (row->flags & CMD_NO_MANDATORY_KEYS) == 0)) {
        say_error("ERR Invalid arguments specified for command");
    } else {
        say_keys(q, row, keys, count);
    }
}

/* ----------------------------------------------------------------- answers */

void command_answer(struct client *c, const struct request *q)
{
    static const char *const help[] = {
        "(no subcommand)", "    Return details about all commands.",
        "COUNT", "    Return the total number of commands.",
        "LIST [FILTERBY <MODULE|ACLCAT|PATTERN> <value>]", "    Return a list of all commands, or of some.",
        "INFO [<command-name> ...]", "    Return details about the named commands, or all of them.",
        "DOCS [<command-name> ...]", "    Return documentation details, as one of the nodes has them.",
        "GETKEYS <full-command>", "    Return the keys of a full command.",
        "GETKEYSANDFLAGS <full-command>", "    Return the keys and their access flags of a full command.", NULL,
    };
    const char *bar = strchr(q->command->name, '|'), *sub = bar != NULL ? bar + 1 : "";
    (void)c;
    if (bar == NULL && q->argc > 1) {
        say_unknown(q);
    } else if (bar == NULL || (strcmp(sub, "info") == 0 && q->argc == 2)) {
        say_all();
    } else if (strcmp(sub, "count") == 0) {
        say_header(':', count_in(NULL));
    } else if (strcmp(sub, "info") == 0) {
        say_named(q);
    } else if (strcmp(sub, "list") == 0) {
        list(q);
    } else if (strcmp(sub, "help") == 0) {
        say_help("COMMAND", help);
    } else {
        get_keys(q);
    }
}

void acl_cat_answer(struct client *c, const struct request *q)
{
    struct filter f = { BY_CATEGORY, request_word(q, 2) };
    (void)c;
    if (q->argc > 3) {
        say_error("ERR unknown subcommand or wrong number of arguments for 'CAT'. Try ACL HELP.");
    } else if (q->argc == 3 && category_of(f.word) == 0) {
        say_error("ERR Unknown category '%.*s'", word_shown(f.word), f.word.p);
    } else if (q->argc == 3) {
        say_list(&f);
    } else {
        say_header('*', (int64_t)CATEGORIES);
        for (size_t i = 0; i < CATEGORIES; i++) {
            say_name(category_names[i].name);
        }
    }
}
