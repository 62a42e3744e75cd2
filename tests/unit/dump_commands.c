/* dump_commands.c - prints the command table, or the keys of requests, for tests/test_command_table.py.
 *
 *   dump_commands        --> one line a row: name arity flags first last step group route merge keys own, tabs between
 *   dump_commands keys   --> for each line of tabbed arguments read, the keys with tabs between, or "!" and the number
 */
#include <stdio.h>
#include <string.h>

#include "command.h"

#define LINE_CAP 4096
#define ARGS_CAP 64

static const char *const flag_names[] = {
    "write", "readonly", "denyoom", "fast", "admin", "noscript", "loading", "stale", "blocking", "pubsub",
    "may_replicate", "no_auth", "allow_busy", "no_async_loading", "no_multi", "no_mandatory_keys", "skip_monitor",
    "skip_slowlog", "protected", "asking", "movablekeys"};
static const char *const own_names[] = {"touches_arbitrary_keys", "keyspace", "dangerous", "may_block", "split",
                                        "container", "subcommand", "declared", "not_key", "takes_over"};
static const char *const group_names[] = {
    "bitmap", "cluster", "connection", "generic", "geo", "hash", "hyperloglog", "list", "module", "pubsub", "scripting",
    "server", "set", "sorted-set", "stream", "string", "transactions", "vector-set"};
static const char *const route_names[] = {"slot", "any", "all", "local", "session", "scan", "owner", "pubsub", "admin"};
static const char *const merge_names[] = {"none", "sum", "min", "and", "all_ok", "one_ok", "by_key", "append", "special"};

static void print_flags(uint32_t flags, const char *const *names, size_t count, const char *end)
{
    const char *comma = "";
    size_t i;

    for (i = 0; i < count; i++) {
        if ((flags >> i & 1) == 0)
            continue;
        printf("%s%s", comma, names[i]);
        comma = ",";
    }
    printf("%s", end);
}

static void print_row(const struct command *c)
{
    const int8_t *range = command_range(c);

    printf("%s\t%d\t", c->name, c->arity);
    print_flags(c->flags, flag_names, sizeof flag_names / sizeof flag_names[0], "\t");
    printf("%d\t%d\t%d\t%s\t%s\t%s\t%s\t", range[0], range[1], range[2], group_names[c->group], route_names[c->route],
           merge_names[c->merge], command_keys_name((enum command_keys)c->keys));
    print_flags(c->flags >> 21, own_names, sizeof own_names / sizeof own_names[0], "\n");
}

static void print_keys(char *line)
{
    struct resp_slice keys[ARGS_CAP], arg;
    const struct command *c, *sub;
    char req[2 * LINE_CAP], *args[ARGS_CAP], *p = line;
    uint32_t argc = 0, at = 0;
    size_t len;
    int i, n;

    line[strcspn(line, "\n")] = '\0';
    while (p != NULL && argc < ARGS_CAP) {
        args[argc++] = p;
        p = strchr(p, '\t');
        if (p != NULL)
            *p++ = '\0';
    }
    len = (size_t)snprintf(req, sizeof req, "*%u\r\n", argc);
    for (i = 0; i < (int)argc && len < sizeof req / 2; i++)
        len += (size_t)snprintf(req + len, sizeof req - len, "$%zu\r\n%s\r\n", strlen(args[i]), args[i]);
    c = command_find((const unsigned char *)args[0], strlen(args[0]));
    if (c != NULL && argc > 1) {
        sub = command_sub(c, (const unsigned char *)args[1], strlen(args[1]));
        c = sub != NULL ? sub : c;
    }
    if (c == NULL || !resp_arg((const unsigned char *)req, len, &at, &arg)) {
        printf("!unknown\n");
        return;
    }
    n = command_keys(c, (const unsigned char *)req, len, argc, keys, ARGS_CAP);
    if (n < 0)
        printf("!%d", n);
    for (i = 0; i < n; i++)
        printf("%s%.*s", i > 0 ? "\t" : "", (int)keys[i].len, req + keys[i].off);
    printf("\n");
}

int main(int argc, char **argv)
{
    char line[LINE_CAP];
    uint32_t i;

    command_init();
    if (argc > 1 && strcmp(argv[1], "keys") == 0) {
        while (fgets(line, sizeof line, stdin) != NULL)
            print_keys(line);
        return 0;
    }
    for (i = 0; i < command_count(); i++)
        print_row(command_at(i));
    return 0;
}
