/* command.h - the commands of Redis 8 and Valkey 9 as data: what each one is,
 * where its keys stand, where it goes and how several answers become one.
 *
 *   "GET" --command_find()--> struct command { arity flags keys route merge }
 *                                  |
 *   the request's bytes --command_keys()--> slices of its keys
 *
 * A pure room. The facts (arity, flags, key positions, group, tips) are those
 * that the servers give in the replies to COMMAND and COMMAND DOCS; route and
 * merge are Puerta's own.
 */
#ifndef PUERTA_COMMAND_H
#define PUERTA_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "resp.h"

#define COMMAND_NAME_CAP 32   /* of a declared command, with its NUL */
#define COMMAND_DECLARED_MAX 64 /* module commands that a configuration may name */
#define COMMAND_ROWS_MAX 512    /* rows of the table, declared ones and all */

/* Where the keys stand among the arguments; argv[0] is the name. */
enum command_keys {
    KEYS_NONE,
    KEYS_FIRST,           /* argv[1] */
    KEYS_ALL,             /* all from argv[1] on */
    KEYS_PAIRS,           /* key value key value ... */
    KEYS_ALL_BUT_LAST,    /* from argv[1]; the last is a timeout */
    KEYS_FIRST_TWO,       /* argv[1] and argv[2] */
    KEYS_SECOND,          /* argv[2] */
    KEYS_FROM_SECOND,     /* all from argv[2] on */
    KEYS_COUNT_AT_1,      /* argv[1] says how many follow it */
    KEYS_COUNT_AT_2,      /* argv[2] says how many follow it */
    KEYS_DEST_COUNT_AT_2, /* argv[1], and as many as argv[2] says */
    KEYS_COUNTED_PAIRS,   /* argv[1] says how many key-value pairs follow it */
    KEYS_STREAMS,         /* the first half of what follows STREAMS */
    KEYS_GEORADIUS,       /* argv[1], and what follows STORE or STOREDIST */
    KEYS_SORT,            /* argv[1], and what follows STORE */
    KEYS_MIGRATE, KEYS_SHAPES /* argv[3], or if that is empty all after KEYS; then how many shapes there are */
};

/* Where a command goes. */
enum command_route {
    ROUTE_SLOT,    /* the owner of its keys' slot; any master when it has none */
    ROUTE_ANY,     /* one master, whichever */
    ROUTE_ALL,     /* all masters; the answers are merged */
    ROUTE_LOCAL,   /* Puerta answers it itself */
    ROUTE_SESSION, /* needs or changes the state of a connection of its own */
    ROUTE_SCAN,    /* all masters, one after the other, by cursor */
    ROUTE_OWNER,   /* the owner of the slot whose number is argv[2] */
    ROUTE_PUBSUB,  /* subscriptions, which Puerta keeps for all its clients; and what is published to them */
    ROUTE_ADMIN    /* refused unless the configuration allows it; then by its keys if it has any,
                      else to all masters if it has a merge, else to one */
};

/* How the answers of several nodes become one. */
enum command_merge {
    MERGE_NONE,    /* there is only ever one */
    MERGE_SUM,     /* integers added */
    MERGE_MIN,     /* the smallest integer */
    MERGE_AND,     /* arrays of 0 and 1, joined by and, place by place */
    MERGE_ALL_OK,  /* +OK (or the first answer) if none failed */
    MERGE_ONE_OK,  /* the first that did not fail */
    MERGE_BY_KEY,  /* array elements put back in the order of the keys */
    MERGE_APPEND,  /* arrays joined */
    MERGE_SPECIAL  /* the command's own way; on ROUTE_ANY: no way is known, one answers for itself */
};

/* The group under which the servers document a command. */
enum command_group {
    GROUP_BITMAP, GROUP_CLUSTER, GROUP_CONNECTION, GROUP_GENERIC, GROUP_GEO, GROUP_HASH, GROUP_HYPERLOGLOG, GROUP_LIST,
    GROUP_MODULE, /* declared in the configuration */
    GROUP_PUBSUB, GROUP_SCRIPTING, GROUP_SERVER, GROUP_SET, GROUP_SORTED_SET, GROUP_STREAM, GROUP_STRING,
    GROUP_TRANSACTIONS, GROUP_VECTOR_SET
};

/* Flags. The first block are the servers' own, by the names of COMMAND, in the order
 * of the bits. A command writes, or may, unless it has CMD_READONLY: EVAL has neither.
 * What a request does to its connection is told by the route, not by CMD_BLOCKING:
 * XREAD has that flag, and blocks only with BLOCK. */
enum {
    CMD_WRITE = 1 << 0, CMD_READONLY = 1 << 1, CMD_DENYOOM = 1 << 2, CMD_FAST = 1 << 3, CMD_ADMIN = 1 << 4,
    CMD_NOSCRIPT = 1 << 5, CMD_LOADING = 1 << 6, CMD_STALE = 1 << 7, CMD_BLOCKING = 1 << 8, CMD_PUBSUB = 1 << 9,
    CMD_MAY_REPLICATE = 1 << 10, CMD_NO_AUTH = 1 << 11, CMD_ALLOW_BUSY = 1 << 12, CMD_NO_ASYNC_LOADING = 1 << 13,
    CMD_NO_MULTI = 1 << 14, CMD_NO_MANDATORY_KEYS = 1 << 15, CMD_SKIP_MONITOR = 1 << 16, CMD_SKIP_SLOWLOG = 1 << 17,
    CMD_PROTECTED = 1 << 18, CMD_ASKING = 1 << 19, CMD_MOVABLEKEYS = 1 << 20,
    CMD_SERVER_FLAGS = (1 << 21) - 1, /* all of the above: what COMMAND answers */

    CMD_TOUCHES_ARBITRARY_KEYS = 1 << 21, /* a fact of the server too, but not in COMMAND */
    CMD_KEYSPACE = 1 << 22,               /* the ACL categories of that name; CMD_ADMIN implies @dangerous too */
    CMD_DANGEROUS = 1 << 23,

    CMD_MAY_BLOCK = 1 << 24,  /* blocks only when its BLOCK option says so */
    CMD_SPLIT = 1 << 25,      /* is cut by slot when its keys span several */
    CMD_CONTAINER = 1 << 26,  /* has subcommands */
    CMD_SUBCOMMAND = 1 << 27, /* is one: its name is "container|name" */
    CMD_DECLARED = 1 << 28,   /* comes from the configuration */
    CMD_NOT_KEY = 1 << 29,    /* its "keys" hash like keys but name channels or cursors */
    CMD_TAKES_OVER = 1 << 30  /* makes its connection something that answers no requests: never on a shared one */
};

struct command {
    const char *name; /* lower case; subcommands as "xinfo|stream" */
    uint32_t flags;
    int16_t arity;                    /* with the name; negative: at least so many */
    uint8_t keys, route, merge, group; /* values of the enums above */
};

/* Builds the index of the table and forgets all declared commands. Must have run
 * before anything else here. A second run (reload) is allowed when no request
 * that holds a declared command is in flight: their rows are used again. */
void command_init(void);

/* The row of a name in either case, or NULL. Subcommands are not found here. */
const struct command *command_find(const unsigned char *name, size_t len);

/* The row of a container's subcommand in either case; NULL if it has none of
 * that name or is not a container. */
const struct command *command_sub(const struct command *container, const unsigned char *sub, size_t len);

/* Adds a module command: routed by its keys (any master with KEYS_NONE), taken
 * for a write unless `flags` has CMD_READONLY. Of `flags` only CMD_WRITE,
 * CMD_READONLY, CMD_BLOCKING, CMD_FAST, CMD_DENYOOM and CMD_ADMIN count;
 * CMD_BLOCKING makes it ROUTE_SESSION, CMD_ADMIN ROUTE_ADMIN. The name is copied:
 * 1 to 31 printable bytes, no blank and no '|'. A name declared before is replaced.
 * -1 when the table is full, the name is bad or a built-in command's, the shape
 * unknown, or both read and write asked for; else 0. */
int command_declare(const char *name, enum command_keys keys, uint32_t flags);

/* The name of a shape for the configuration ("first", "count-at-1", ...), NULL
 * if there is no such shape; and back, -1 if there is no such name. */
const char *command_keys_name(enum command_keys keys);
int command_keys_from_name(const char *name);

/* The keys of one whole contiguous multibulk request of `argc` arguments, as
 * slices relative to `req`. Returns how many; 0 when it has none. -1 when they
 * cannot be told because the arguments are malformed (the server then says so
 * best); -2 when there are more than `cap`: the first `cap` are then filled in.
 * Linear in the arguments up to the last key. */
int command_keys(const struct command *c, const unsigned char *req, size_t len, uint32_t argc,
                 struct resp_slice *keys, uint32_t cap);

/* The same for the command that stands inside another's request, as in COMMAND GETKEYS: its argc arguments are the
 * last ones, from byte `at` on. */
int command_keys_inside(const struct command *c, const unsigned char *req, size_t len, uint32_t at, uint32_t argc,
                        struct resp_slice *keys, uint32_t cap);

/* Whether a request of `argc` arguments satisfies the arity. */
bool command_arity_ok(const struct command *c, uint32_t argc);

/* First key, last key (from the end if negative) and step, as COMMAND answers them:
 * the part that has a fixed place; all 0 if there is none. */
const int8_t *command_range(const struct command *c);

/* All rows: the built-in ones sorted by name, then the declared ones in the order
 * they came. NULL beyond the end. */
uint32_t command_count(void);
const struct command *command_at(uint32_t i);
/* The i of a row; command_count() if it is none. */
uint32_t command_index(const struct command *c);

#endif
