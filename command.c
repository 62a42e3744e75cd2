/* command.c - the table of Redis commands, the lookup in it, and where a request's keys stand.
 *
 *   builtin[] (const, sorted) --command_init()--> buckets[] <--hash-- command_find(), command_sub()
 *   declared[] (configuration) --command_declare()---^
 *
 *   a row's `keys` --> shapes[] --> command_keys() walks the request once and notes the slices
 *
 * The rows restate what the servers answer to COMMAND and COMMAND DOCS (Redis 7.0 to 8.8, Valkey 8 and 9); route and
 * merge follow the servers' request and response policies where they give one. tests/test_command_table.py holds the
 * table against a running server.
 */
#include "command.h"

#include <string.h>

#define BUCKETS 2048 /* four times what can be in them */
#define BUCKET_SHIFT 21 /* leaves as many values of a 32-bit hash */
#define NAME_MAX_LEN 40 /* longest "container|subcommand" that is looked up */

/* The flags as they stand in the rows. */
enum {
    W = CMD_WRITE, R = CMD_READONLY, OOM = CMD_DENYOOM, FAST = CMD_FAST, ADM = CMD_ADMIN, NSCR = CMD_NOSCRIPT,
    LOAD = CMD_LOADING, STALE = CMD_STALE, BLK = CMD_BLOCKING, PUB = CMD_PUBSUB, REPL = CMD_MAY_REPLICATE,
    NAUTH = CMD_NO_AUTH, BUSY = CMD_ALLOW_BUSY, NAL = CMD_NO_ASYNC_LOADING, NMUL = CMD_NO_MULTI,
    NKEY = CMD_NO_MANDATORY_KEYS, SMON = CMD_SKIP_MONITOR, SSLOW = CMD_SKIP_SLOWLOG, PROT = CMD_PROTECTED,
    ASK = CMD_ASKING, MOV = CMD_MOVABLEKEYS, ANYK = CMD_TOUCHES_ARBITRARY_KEYS, KSP = CMD_KEYSPACE,
    DNG = CMD_DANGEROUS, MBLK = CMD_MAY_BLOCK, SPLIT = CMD_SPLIT, BOX = CMD_CONTAINER, SUB = CMD_SUBCOMMAND,
    NOTK = CMD_NOT_KEY, OVER = CMD_TAKES_OVER
};

#define C(name, arity, flags, keys, route, merge, group) \
    {name, flags, arity, KEYS_##keys, ROUTE_##route, MERGE_##merge, GROUP_##group}

/* Sorted by name. */
static const struct command builtin[] = {
    C("acl", -2, BOX, NONE, LOCAL, NONE, SERVER),
    C("acl|cat", -2, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("acl|deluser", -3, ADM | NSCR | LOAD | STALE | SUB, NONE, ADMIN, ALL_OK, SERVER),
    C("acl|dryrun", -4, ADM | NSCR | LOAD | STALE | SUB, NONE, ADMIN, NONE, SERVER),
    C("acl|genpass", -2, NSCR | LOAD | STALE | SUB, NONE, ANY, NONE, SERVER),
    C("acl|getuser", 3, ADM | NSCR | LOAD | STALE | SUB, NONE, ADMIN, NONE, SERVER),
    C("acl|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, SERVER),
    C("acl|list", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, ADMIN, NONE, SERVER),
    C("acl|load", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, ADMIN, NONE, SERVER),
    C("acl|log", -2, ADM | NSCR | LOAD | STALE | SUB, NONE, ADMIN, NONE, SERVER),
    C("acl|save", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, ADMIN, ALL_OK, SERVER),
    C("acl|setuser", -3, ADM | NSCR | LOAD | STALE | SUB, NONE, ADMIN, ALL_OK, SERVER),
    C("acl|users", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("acl|whoami", 2, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("append", 3, W | OOM | FAST, FIRST, SLOT, NONE, STRING),
    C("asking", 1, FAST, NONE, LOCAL, NONE, CLUSTER),
    C("auth", -2, FAST | NSCR | LOAD | STALE | NAUTH | BUSY, NONE, LOCAL, NONE, CONNECTION),
    C("bgrewriteaof", 1, ADM | NSCR | NAL, NONE, ADMIN, NONE, SERVER),
    C("bgsave", -1, ADM | NSCR | NAL, NONE, ADMIN, NONE, SERVER),
    C("bitcount", -2, R, FIRST, SLOT, NONE, BITMAP),
    C("bitfield", -2, W | OOM, FIRST, SLOT, NONE, BITMAP),
    C("bitfield_ro", -2, R | FAST, FIRST, SLOT, NONE, BITMAP),
    C("bitop", -4, W | OOM, FROM_SECOND, SLOT, NONE, BITMAP),
    C("bitpos", -3, R, FIRST, SLOT, NONE, BITMAP),
    C("blmove", 6, W | OOM | BLK, FIRST_TWO, SESSION, NONE, LIST),
    C("blmpop", -5, W | BLK | MOV, COUNT_AT_2, SESSION, NONE, LIST),
    C("blpop", -3, W | BLK, ALL_BUT_LAST, SESSION, NONE, LIST),
    C("brpop", -3, W | BLK, ALL_BUT_LAST, SESSION, NONE, LIST),
    C("brpoplpush", 4, W | OOM | BLK, FIRST_TWO, SESSION, NONE, LIST),
    C("bzmpop", -5, W | BLK | MOV, COUNT_AT_2, SESSION, NONE, SORTED_SET),
    C("bzpopmax", -3, W | FAST | BLK, ALL_BUT_LAST, SESSION, NONE, SORTED_SET),
    C("bzpopmin", -3, W | FAST | BLK, ALL_BUT_LAST, SESSION, NONE, SORTED_SET),
    C("client", -2, BOX, NONE, LOCAL, NONE, CONNECTION),
    C("client|caching", 3, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|capa", -3, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|getname", 2, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|getredir", 2, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|help", 2, LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|id", 2, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|import-source", 3, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|info", 2, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|kill", -3, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|list", -2, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|no-evict", 3, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|no-touch", 3, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|pause", -3, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|reply", 3, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|setinfo", 4, NSCR | LOAD | STALE | SUB, NONE, LOCAL, ALL_OK, CONNECTION),
    C("client|setname", 3, NSCR | LOAD | STALE | SUB, NONE, LOCAL, ALL_OK, CONNECTION),
    C("client|tracking", -3, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|trackinginfo", 2, NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|unblock", -3, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("client|unpause", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, CONNECTION),
    C("cluster", -2, BOX, NONE, LOCAL, NONE, CLUSTER),
    C("clusterscan", -2, R | ANYK | KSP | NOTK, FIRST, SLOT, NONE, CLUSTER),
    C("cluster|addslots", -3, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|addslotsrange", -4, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|bumpepoch", 2, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|cancelslotmigrations", 2, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|count-failure-reports", 3, ADM | STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|countkeysinslot", 3, STALE | SUB, NONE, OWNER, NONE, CLUSTER),
    C("cluster|delslots", -3, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|delslotsrange", -4, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|failover", -2, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|flushslots", 2, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|forget", 3, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|getkeysinslot", 4, STALE | SUB, NONE, OWNER, NONE, CLUSTER),
    C("cluster|getslotmigrations", 2, ADM | STALE | NAL | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|help", 2, LOAD | STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|info", 2, STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|keyslot", 3, STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|links", 2, STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|meet", -4, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|migrateslots", -4, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|migration", -4, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|myid", 2, STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|myshardid", 2, STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|nodes", 2, STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|replicas", 3, ADM | STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|replicate", 3, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|reset", -2, ADM | NSCR | STALE | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|saveconfig", 2, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|set-config-epoch", 3, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|setslot", -4, ADM | STALE | NAL | SUB, NONE, ADMIN, NONE, CLUSTER),
    C("cluster|shards", 2, LOAD | STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|slaves", 3, ADM | STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|slot-stats", -4, LOAD | STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("cluster|slots", 2, LOAD | STALE | SUB, NONE, LOCAL, NONE, CLUSTER),
    C("command", -1, LOAD | STALE | BOX, NONE, LOCAL, NONE, SERVER),
    C("commandlog", -2, BOX, NONE, ANY, NONE, SERVER),
    C("commandlog|get", -4, ADM | LOAD | STALE | SUB, NONE, ALL, APPEND, SERVER),
    C("commandlog|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, SERVER),
    C("commandlog|len", -3, ADM | LOAD | STALE | SUB, NONE, ALL, SUM, SERVER),
    C("commandlog|reset", -3, ADM | LOAD | STALE | SUB, NONE, ALL, ALL_OK, SERVER),
    C("command|count", 2, LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("command|docs", -2, LOAD | STALE | SUB, NONE, ANY, NONE, SERVER),
    C("command|getkeys", -3, LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("command|getkeysandflags", -3, LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("command|help", 2, LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("command|info", -2, LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("command|list", -2, LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("config", -2, BOX, NONE, ANY, NONE, SERVER),
    C("config|get", -3, ADM | NSCR | LOAD | STALE | SUB, NONE, ANY, NONE, SERVER),
    C("config|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, SERVER),
    C("config|resetstat", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, ALL, ALL_OK, SERVER),
    C("config|rewrite", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, ADMIN, ALL_OK, SERVER),
    C("config|set", -4, ADM | NSCR | LOAD | STALE | SUB, NONE, ALL, ALL_OK, SERVER),
    C("copy", -3, W | OOM | KSP, FIRST_TWO, SLOT, NONE, GENERIC),
    C("dbsize", 1, R | FAST | KSP, NONE, ALL, SUM, SERVER),
    C("debug", -2, ADM | NSCR | LOAD | STALE | PROT, NONE, ADMIN, NONE, SERVER),
    C("decr", 2, W | OOM | FAST, FIRST, SLOT, NONE, STRING),
    C("decrby", 3, W | OOM | FAST, FIRST, SLOT, NONE, STRING),
    C("del", -2, W | KSP | SPLIT, ALL, SLOT, SUM, GENERIC),
    C("delex", -2, W | FAST, FIRST, SLOT, NONE, STRING),
    C("delifeq", 3, W | FAST, FIRST, SLOT, NONE, STRING),
    C("digest", 2, R | FAST, FIRST, SLOT, NONE, STRING),
    C("discard", 1, FAST | NSCR | LOAD | STALE | BUSY, NONE, SESSION, NONE, TRANSACTIONS),
    C("dump", 2, R | KSP, FIRST, SLOT, NONE, GENERIC),
    C("echo", 2, FAST | LOAD | STALE, NONE, LOCAL, NONE, CONNECTION),
    C("eval", -3, NSCR | STALE | REPL | NKEY | SMON | MOV, COUNT_AT_2, SLOT, NONE, SCRIPTING),
    C("eval_ro", -3, R | NSCR | STALE | NKEY | SMON | MOV, COUNT_AT_2, SLOT, NONE, SCRIPTING),
    C("evalsha", -3, NSCR | STALE | REPL | NKEY | SMON | MOV, COUNT_AT_2, SLOT, NONE, SCRIPTING),
    C("evalsha_ro", -3, R | NSCR | STALE | NKEY | SMON | MOV, COUNT_AT_2, SLOT, NONE, SCRIPTING),
    C("exec", 1, NSCR | LOAD | STALE | SSLOW, NONE, SESSION, NONE, TRANSACTIONS),
    C("exists", -2, R | FAST | KSP | SPLIT, ALL, SLOT, SUM, GENERIC),
    C("expire", -3, W | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("expireat", -3, W | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("expiretime", 2, R | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("failover", -1, ADM | NSCR | STALE, NONE, ADMIN, NONE, SERVER),
    C("fcall", -3, NSCR | STALE | REPL | NKEY | SMON | MOV, COUNT_AT_2, SLOT, NONE, SCRIPTING),
    C("fcall_ro", -3, R | NSCR | STALE | NKEY | SMON | MOV, COUNT_AT_2, SLOT, NONE, SCRIPTING),
    C("flushall", -1, W | KSP | DNG, NONE, ALL, ALL_OK, SERVER),
    C("flushdb", -1, W | KSP | DNG, NONE, ALL, ALL_OK, SERVER),
    C("function", -2, BOX, NONE, ANY, NONE, SCRIPTING),
    C("function|delete", 3, W | NSCR | SUB, NONE, ALL, ALL_OK, SCRIPTING),
    C("function|dump", 2, NSCR | SUB, NONE, ANY, NONE, SCRIPTING),
    C("function|flush", -2, W | NSCR | SUB, NONE, ALL, ALL_OK, SCRIPTING),
    C("function|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, SCRIPTING),
    C("function|kill", 2, NSCR | BUSY | SUB, NONE, ALL, ONE_OK, SCRIPTING),
    C("function|list", -2, NSCR | SUB, NONE, ANY, NONE, SCRIPTING),
    C("function|load", -3, W | OOM | NSCR | SUB, NONE, ALL, ALL_OK, SCRIPTING),
    C("function|restore", -3, W | OOM | NSCR | SUB, NONE, ALL, ALL_OK, SCRIPTING),
    C("function|stats", 2, NSCR | BUSY | SUB, NONE, ALL, SPECIAL, SCRIPTING),
    C("geoadd", -5, W | OOM, FIRST, SLOT, NONE, GEO),
    C("geodist", -4, R, FIRST, SLOT, NONE, GEO),
    C("geohash", -2, R, FIRST, SLOT, NONE, GEO),
    C("geopos", -2, R, FIRST, SLOT, NONE, GEO),
    C("georadius", -6, W | OOM | MOV, GEORADIUS, SLOT, NONE, GEO),
    C("georadius_ro", -6, R, FIRST, SLOT, NONE, GEO),
    C("georadiusbymember", -5, W | OOM | MOV, GEORADIUS, SLOT, NONE, GEO),
    C("georadiusbymember_ro", -5, R, FIRST, SLOT, NONE, GEO),
    C("geosearch", -7, R, FIRST, SLOT, NONE, GEO),
    C("geosearchstore", -8, W | OOM, FIRST_TWO, SLOT, NONE, GEO),
    C("get", 2, R | FAST, FIRST, SLOT, NONE, STRING),
    C("getbit", 3, R | FAST, FIRST, SLOT, NONE, BITMAP),
    C("getdel", 2, W | FAST, FIRST, SLOT, NONE, STRING),
    C("getex", -2, W | FAST, FIRST, SLOT, NONE, STRING),
    C("getrange", 4, R, FIRST, SLOT, NONE, STRING),
    C("getset", 3, W | OOM | FAST, FIRST, SLOT, NONE, STRING),
    C("hdel", -3, W | FAST, FIRST, SLOT, NONE, HASH),
    C("hello", -1, FAST | NSCR | LOAD | STALE | NAUTH | BUSY, NONE, LOCAL, NONE, CONNECTION),
    C("hexists", 3, R | FAST, FIRST, SLOT, NONE, HASH),
    C("hexpire", -6, W | OOM | FAST, FIRST, SLOT, NONE, HASH),
    C("hexpireat", -6, W | OOM | FAST, FIRST, SLOT, NONE, HASH),
    C("hexpiretime", -5, R | FAST, FIRST, SLOT, NONE, HASH),
    C("hget", 3, R | FAST, FIRST, SLOT, NONE, HASH),
    C("hgetall", 2, R, FIRST, SLOT, NONE, HASH),
    C("hgetdel", -5, W | FAST, FIRST, SLOT, NONE, HASH),
    C("hgetex", -5, W | FAST, FIRST, SLOT, NONE, HASH),
    C("hincrby", 4, W | OOM | FAST, FIRST, SLOT, NONE, HASH),
    C("hincrbyfloat", 4, W | OOM | FAST, FIRST, SLOT, NONE, HASH),
    C("hkeys", 2, R, FIRST, SLOT, NONE, HASH),
    C("hlen", 2, R | FAST, FIRST, SLOT, NONE, HASH),
    C("hmget", -3, R | FAST, FIRST, SLOT, NONE, HASH),
    C("hmset", -4, W | OOM | FAST, FIRST, SLOT, NONE, HASH),
    C("hpersist", -5, W | FAST, FIRST, SLOT, NONE, HASH),
    C("hpexpire", -6, W | OOM | FAST, FIRST, SLOT, NONE, HASH),
    C("hpexpireat", -6, W | OOM | FAST, FIRST, SLOT, NONE, HASH),
    C("hpexpiretime", -5, R | FAST, FIRST, SLOT, NONE, HASH),
    C("hpttl", -5, R | FAST, FIRST, SLOT, NONE, HASH),
    C("hrandfield", -2, R, FIRST, SLOT, NONE, HASH),
    C("hscan", -3, R, FIRST, SLOT, NONE, HASH),
    C("hset", -4, W | OOM | FAST, FIRST, SLOT, NONE, HASH),
    C("hsetex", -6, W | OOM | FAST, FIRST, SLOT, NONE, HASH),
    C("hsetnx", 4, W | OOM | FAST, FIRST, SLOT, NONE, HASH),
    C("hstrlen", 3, R | FAST, FIRST, SLOT, NONE, HASH),
    C("httl", -5, R | FAST, FIRST, SLOT, NONE, HASH),
    C("hvals", 2, R, FIRST, SLOT, NONE, HASH),
    C("incr", 2, W | OOM | FAST, FIRST, SLOT, NONE, STRING),
    C("incrby", 3, W | OOM | FAST, FIRST, SLOT, NONE, STRING),
    C("incrbyfloat", 3, W | OOM | FAST, FIRST, SLOT, NONE, STRING),
    C("increx", -2, W | OOM | FAST, FIRST, SLOT, NONE, STRING),
    C("info", -1, LOAD | STALE | DNG, NONE, LOCAL, SPECIAL, SERVER),
    C("keys", 2, R | KSP | DNG, NONE, ALL, APPEND, GENERIC),
    C("lastsave", 1, FAST | LOAD | STALE | DNG, NONE, ANY, NONE, SERVER),
    C("latency", -2, BOX, NONE, ANY, NONE, SERVER),
    C("latency|doctor", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, ANY, SPECIAL, SERVER),
    C("latency|graph", 3, ADM | NSCR | LOAD | STALE | SUB, NONE, ANY, SPECIAL, SERVER),
    C("latency|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, SERVER),
    C("latency|histogram", -2, ADM | NSCR | LOAD | STALE | SUB, NONE, ANY, SPECIAL, SERVER),
    C("latency|history", 3, ADM | NSCR | LOAD | STALE | SUB, NONE, ALL, APPEND, SERVER),
    C("latency|latest", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, ALL, APPEND, SERVER),
    C("latency|reset", -2, ADM | NSCR | LOAD | STALE | SUB, NONE, ALL, SUM, SERVER),
    C("lcs", -3, R, FIRST_TWO, SLOT, NONE, STRING),
    C("lindex", 3, R, FIRST, SLOT, NONE, LIST),
    C("linsert", 5, W | OOM, FIRST, SLOT, NONE, LIST),
    C("llen", 2, R | FAST, FIRST, SLOT, NONE, LIST),
    C("lmove", 5, W | OOM, FIRST_TWO, SLOT, NONE, LIST),
    C("lmpop", -4, W | MOV, COUNT_AT_1, SLOT, NONE, LIST),
    C("lolwut", -1, R | FAST, NONE, LOCAL, NONE, SERVER),
    C("lpop", -2, W | FAST, FIRST, SLOT, NONE, LIST),
    C("lpos", -3, R, FIRST, SLOT, NONE, LIST),
    C("lpush", -3, W | OOM | FAST, FIRST, SLOT, NONE, LIST),
    C("lpushx", -3, W | OOM | FAST, FIRST, SLOT, NONE, LIST),
    C("lrange", 4, R, FIRST, SLOT, NONE, LIST),
    C("lrem", 4, W, FIRST, SLOT, NONE, LIST),
    C("lset", 4, W | OOM, FIRST, SLOT, NONE, LIST),
    C("ltrim", 4, W, FIRST, SLOT, NONE, LIST),
    C("memory", -2, BOX, NONE, ANY, NONE, SERVER),
    C("memory|doctor", 2, SUB, NONE, ANY, SPECIAL, SERVER),
    C("memory|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, SERVER),
    C("memory|malloc-stats", 2, SUB, NONE, ANY, SPECIAL, SERVER),
    C("memory|purge", 2, SUB, NONE, ALL, ALL_OK, SERVER),
    C("memory|stats", 2, SUB, NONE, ANY, SPECIAL, SERVER),
    C("memory|usage", -3, R | SUB, SECOND, SLOT, NONE, SERVER),
    C("mget", -2, R | FAST | SPLIT, ALL, SLOT, BY_KEY, STRING),
    C("migrate", -6, W | MOV | KSP | DNG, MIGRATE, ADMIN, NONE, GENERIC),
    C("module", -2, BOX, NONE, ANY, NONE, SERVER),
    C("module|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, SERVER),
    C("module|list", 2, ADM | NSCR | SUB, NONE, LOCAL, NONE, SERVER),
    C("module|load", -3, ADM | NSCR | NAL | PROT | SUB, NONE, ADMIN, NONE, SERVER),
    C("module|loadex", -3, ADM | NSCR | NAL | PROT | SUB, NONE, ADMIN, NONE, SERVER),
    C("module|unload", 3, ADM | NSCR | NAL | PROT | SUB, NONE, ADMIN, NONE, SERVER),
    C("monitor", 1, ADM | NSCR | LOAD | STALE | OVER, NONE, ADMIN, NONE, SERVER),
    C("move", 3, W | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("mset", -3, W | OOM | SPLIT, PAIRS, SLOT, ALL_OK, STRING),
    C("msetex", -4, W | OOM | MOV, COUNTED_PAIRS, SLOT, NONE, STRING),
    C("msetnx", -3, W | OOM, PAIRS, SLOT, NONE, STRING),
    C("multi", 1, FAST | NSCR | LOAD | STALE | BUSY, NONE, SESSION, NONE, TRANSACTIONS),
    C("object", -2, BOX, NONE, ANY, NONE, GENERIC),
    C("object|encoding", 3, R | KSP | SUB, SECOND, SLOT, NONE, GENERIC),
    C("object|freq", 3, R | KSP | SUB, SECOND, SLOT, NONE, GENERIC),
    C("object|help", 2, LOAD | STALE | KSP | SUB, NONE, ANY, NONE, GENERIC),
    C("object|idletime", 3, R | KSP | SUB, SECOND, SLOT, NONE, GENERIC),
    C("object|refcount", 3, R | KSP | SUB, SECOND, SLOT, NONE, GENERIC),
    C("persist", 2, W | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("pexpire", -3, W | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("pexpireat", -3, W | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("pexpiretime", 2, R | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("pfadd", -2, W | OOM | FAST, FIRST, SLOT, NONE, HYPERLOGLOG),
    C("pfcount", -2, R | REPL, ALL, SLOT, NONE, HYPERLOGLOG),
    C("pfdebug", 3, W | OOM | ADM, SECOND, ADMIN, NONE, HYPERLOGLOG),
    C("pfmerge", -2, W | OOM, ALL, SLOT, NONE, HYPERLOGLOG),
    C("pfselftest", 1, ADM, NONE, ADMIN, NONE, HYPERLOGLOG),
    C("ping", -1, FAST, NONE, LOCAL, ALL_OK, CONNECTION),
    C("psetex", 4, W | OOM, FIRST, SLOT, NONE, STRING),
    C("psubscribe", -2, NSCR | LOAD | STALE | PUB, NONE, PUBSUB, NONE, PUBSUB),
    C("psync", -3, ADM | NSCR | NAL | NMUL | OVER, NONE, ADMIN, NONE, SERVER),
    C("pttl", 2, R | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("publish", 3, FAST | LOAD | STALE | PUB | REPL, NONE, PUBSUB, NONE, PUBSUB),
    C("pubsub", -2, BOX, NONE, LOCAL, NONE, PUBSUB),
    C("pubsub|channels", -2, LOAD | STALE | PUB | SUB, NONE, LOCAL, NONE, PUBSUB),
    C("pubsub|help", 2, LOAD | STALE | SUB, NONE, LOCAL, NONE, PUBSUB),
    C("pubsub|numpat", 2, LOAD | STALE | PUB | SUB, NONE, LOCAL, NONE, PUBSUB),
    C("pubsub|numsub", -2, LOAD | STALE | PUB | SUB, NONE, LOCAL, NONE, PUBSUB),
    C("pubsub|shardchannels", -2, LOAD | STALE | PUB | SUB, NONE, LOCAL, NONE, PUBSUB),
    C("pubsub|shardnumsub", -2, LOAD | STALE | PUB | SUB, NONE, LOCAL, NONE, PUBSUB),
    C("puerta", -2, BOX, NONE, LOCAL, NONE, SERVER),
    C("puerta|backends", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|clients", -2, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|down", 3, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|drain", 3, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|help", 2, LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|hotkeys", -2, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|kill", 3, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|loglevel", 3, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|memory", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|reload", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|slowlog", -2, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|status", 2, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("puerta|undrain", 3, ADM | NSCR | LOAD | STALE | SUB, NONE, LOCAL, NONE, SERVER),
    C("punsubscribe", -1, NSCR | LOAD | STALE | PUB, NONE, PUBSUB, NONE, PUBSUB),
    C("quit", -1, FAST | NSCR | LOAD | STALE | NAUTH | BUSY, NONE, LOCAL, NONE, CONNECTION),
    C("randomkey", 1, R | ANYK | KSP, NONE, ALL, SPECIAL, GENERIC),
    C("readonly", 1, FAST | LOAD | STALE, NONE, LOCAL, NONE, CLUSTER),
    C("readwrite", 1, FAST | LOAD | STALE, NONE, LOCAL, NONE, CLUSTER),
    C("rename", 3, W | KSP, FIRST_TWO, SLOT, NONE, GENERIC),
    C("renamenx", 3, W | FAST | KSP, FIRST_TWO, SLOT, NONE, GENERIC),
    C("replconf", -1, ADM | NSCR | LOAD | STALE | BUSY | OVER, NONE, ADMIN, NONE, SERVER),
    C("replicaof", 3, ADM | NSCR | STALE | NAL, NONE, ADMIN, NONE, SERVER),
    C("reset", 1, FAST | NSCR | LOAD | STALE | NAUTH | BUSY, NONE, LOCAL, NONE, CONNECTION),
    C("restore", -4, W | OOM | KSP | DNG, FIRST, SLOT, NONE, GENERIC),
    C("restore-asking", -4, W | OOM | ASK | KSP | DNG, FIRST, ADMIN, NONE, SERVER),
    C("role", 1, FAST | NSCR | LOAD | STALE | DNG, NONE, LOCAL, NONE, SERVER),
    C("rpop", -2, W | FAST, FIRST, SLOT, NONE, LIST),
    C("rpoplpush", 3, W | OOM, FIRST_TWO, SLOT, NONE, LIST),
    C("rpush", -3, W | OOM | FAST, FIRST, SLOT, NONE, LIST),
    C("rpushx", -3, W | OOM | FAST, FIRST, SLOT, NONE, LIST),
    C("sadd", -3, W | OOM | FAST, FIRST, SLOT, NONE, SET),
    C("save", 1, ADM | NSCR | NAL | NMUL, NONE, ADMIN, NONE, SERVER),
    C("scan", -2, R | ANYK | KSP, NONE, SCAN, SPECIAL, GENERIC),
    C("scard", 2, R | FAST, FIRST, SLOT, NONE, SET),
    C("script", -2, BOX, NONE, ANY, NONE, SCRIPTING),
    C("script|debug", 3, NSCR | SUB | OVER, NONE, ADMIN, NONE, SCRIPTING),
    C("script|exists", -3, NSCR | SUB, NONE, ALL, AND, SCRIPTING),
    C("script|flush", -2, NSCR | SUB, NONE, ALL, ALL_OK, SCRIPTING),
    C("script|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, SCRIPTING),
    C("script|kill", 2, NSCR | BUSY | SUB, NONE, ALL, ONE_OK, SCRIPTING),
    C("script|load", 3, NSCR | STALE | SUB, NONE, ALL, ALL_OK, SCRIPTING),
    C("script|show", 3, NSCR | SUB, NONE, ANY, NONE, SCRIPTING),
    C("sdiff", -2, R, ALL, SLOT, NONE, SET),
    C("sdiffstore", -3, W | OOM, ALL, SLOT, NONE, SET),
    C("select", 2, FAST | LOAD | STALE, NONE, LOCAL, NONE, CONNECTION),
    C("set", -3, W | OOM, FIRST, SLOT, NONE, STRING),
    C("setbit", 4, W | OOM, FIRST, SLOT, NONE, BITMAP),
    C("setex", 4, W | OOM, FIRST, SLOT, NONE, STRING),
    C("setnx", 3, W | OOM | FAST, FIRST, SLOT, NONE, STRING),
    C("setrange", 4, W | OOM, FIRST, SLOT, NONE, STRING),
    C("sflush", -3, W | KSP | DNG, NONE, ADMIN, NONE, SERVER),
    C("shutdown", -1, ADM | NSCR | LOAD | STALE | BUSY | NMUL, NONE, ADMIN, NONE, SERVER),
    C("sinter", -2, R, ALL, SLOT, NONE, SET),
    C("sintercard", -3, R | MOV, COUNT_AT_1, SLOT, NONE, SET),
    C("sinterstore", -3, W | OOM, ALL, SLOT, NONE, SET),
    C("sismember", 3, R | FAST, FIRST, SLOT, NONE, SET),
    C("slaveof", 3, ADM | NSCR | STALE | NAL, NONE, ADMIN, NONE, SERVER),
    C("slowlog", -2, BOX, NONE, ANY, NONE, SERVER),
    C("slowlog|get", -2, ADM | LOAD | STALE | SUB, NONE, ALL, APPEND, SERVER),
    C("slowlog|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, SERVER),
    C("slowlog|len", 2, ADM | LOAD | STALE | SUB, NONE, ALL, SUM, SERVER),
    C("slowlog|reset", 2, ADM | LOAD | STALE | SUB, NONE, ALL, ALL_OK, SERVER),
    C("smembers", 2, R, FIRST, SLOT, NONE, SET),
    C("smismember", -3, R | FAST, FIRST, SLOT, NONE, SET),
    C("smove", 4, W | FAST, FIRST_TWO, SLOT, NONE, SET),
    C("sort", -2, W | OOM | MOV | DNG, SORT, SLOT, NONE, GENERIC),
    C("sort_ro", -2, R | MOV | DNG, FIRST, SLOT, NONE, GENERIC),
    C("spop", -2, W | FAST, FIRST, SLOT, NONE, SET),
    C("spublish", 3, FAST | LOAD | STALE | PUB | REPL | NOTK, FIRST, PUBSUB, NONE, PUBSUB),
    C("srandmember", -2, R, FIRST, SLOT, NONE, SET),
    C("srem", -3, W | FAST, FIRST, SLOT, NONE, SET),
    C("sscan", -3, R, FIRST, SLOT, NONE, SET),
    C("ssubscribe", -2, NSCR | LOAD | STALE | PUB | NOTK, ALL, PUBSUB, NONE, PUBSUB),
    C("strlen", 2, R | FAST, FIRST, SLOT, NONE, STRING),
    C("subscribe", -2, NSCR | LOAD | STALE | PUB, NONE, PUBSUB, NONE, PUBSUB),
    C("substr", 4, R, FIRST, SLOT, NONE, STRING),
    C("sunion", -2, R, ALL, SLOT, NONE, SET),
    C("sunionstore", -3, W | OOM, ALL, SLOT, NONE, SET),
    C("sunsubscribe", -1, NSCR | LOAD | STALE | PUB | NOTK, ALL, PUBSUB, NONE, PUBSUB),
    C("swapdb", 3, W | FAST | KSP | DNG, NONE, ADMIN, NONE, SERVER),
    C("sync", 1, ADM | NSCR | NAL | NMUL | OVER, NONE, ADMIN, NONE, SERVER),
    C("time", 1, FAST | LOAD | STALE, NONE, LOCAL, NONE, SERVER),
    C("touch", -2, R | FAST | KSP | SPLIT, ALL, SLOT, SUM, GENERIC),
    C("ttl", 2, R | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("type", 2, R | FAST | KSP, FIRST, SLOT, NONE, GENERIC),
    C("unlink", -2, W | FAST | KSP | SPLIT, ALL, SLOT, SUM, GENERIC),
    C("unsubscribe", -1, NSCR | LOAD | STALE | PUB, NONE, PUBSUB, NONE, PUBSUB),
    C("unwatch", 1, FAST | NSCR | LOAD | STALE | BUSY, NONE, SESSION, NONE, TRANSACTIONS),
    C("vadd", -1, W | OOM, FIRST, SLOT, NONE, VECTOR_SET),
    C("vcard", -1, R | FAST, FIRST, SLOT, NONE, VECTOR_SET),
    C("vdim", -1, R | FAST, FIRST, SLOT, NONE, VECTOR_SET),
    C("vemb", -1, R | FAST, FIRST, SLOT, NONE, VECTOR_SET),
    C("vgetattr", -1, R | FAST, FIRST, SLOT, NONE, VECTOR_SET),
    C("vinfo", -1, R | FAST, FIRST, SLOT, NONE, VECTOR_SET),
    C("vismember", -1, R, FIRST, SLOT, NONE, VECTOR_SET),
    C("vlinks", -1, R | FAST, FIRST, SLOT, NONE, VECTOR_SET),
    C("vrandmember", -1, R, FIRST, SLOT, NONE, VECTOR_SET),
    C("vrange", -1, R, FIRST, SLOT, NONE, VECTOR_SET),
    C("vrem", -1, W, FIRST, SLOT, NONE, VECTOR_SET),
    C("vsetattr", -1, W | FAST, FIRST, SLOT, NONE, VECTOR_SET),
    C("vsim", -1, R, FIRST, SLOT, NONE, VECTOR_SET),
    C("wait", 3, BLK, NONE, SESSION, MIN, GENERIC),
    C("waitaof", 4, BLK, NONE, SESSION, MIN, GENERIC),
    C("watch", -2, FAST | NSCR | LOAD | STALE | BUSY, ALL, SESSION, NONE, TRANSACTIONS),
    C("xack", -4, W | FAST, FIRST, SLOT, NONE, STREAM),
    C("xackdel", -6, W | FAST, FIRST, SLOT, NONE, STREAM),
    C("xadd", -5, W | OOM | FAST, FIRST, SLOT, NONE, STREAM),
    C("xautoclaim", -6, W | FAST, FIRST, SLOT, NONE, STREAM),
    C("xclaim", -6, W | FAST, FIRST, SLOT, NONE, STREAM),
    C("xdel", -3, W | FAST, FIRST, SLOT, NONE, STREAM),
    C("xdelex", -5, W | FAST, FIRST, SLOT, NONE, STREAM),
    C("xgroup", -2, BOX, NONE, ANY, NONE, STREAM),
    C("xgroup|create", -5, W | OOM | SUB, SECOND, SLOT, NONE, STREAM),
    C("xgroup|createconsumer", 5, W | OOM | SUB, SECOND, SLOT, NONE, STREAM),
    C("xgroup|delconsumer", 5, W | SUB, SECOND, SLOT, NONE, STREAM),
    C("xgroup|destroy", 4, W | SUB, SECOND, SLOT, NONE, STREAM),
    C("xgroup|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, STREAM),
    C("xgroup|setid", -5, W | SUB, SECOND, SLOT, NONE, STREAM),
    C("xinfo", -2, BOX, NONE, ANY, NONE, STREAM),
    C("xinfo|consumers", 4, R | SUB, SECOND, SLOT, NONE, STREAM),
    C("xinfo|groups", 3, R | SUB, SECOND, SLOT, NONE, STREAM),
    C("xinfo|help", 2, LOAD | STALE | SUB, NONE, ANY, NONE, STREAM),
    C("xinfo|stream", -3, R | SUB, SECOND, SLOT, NONE, STREAM),
    C("xlen", 2, R | FAST, FIRST, SLOT, NONE, STREAM),
    C("xnack", -7, W | FAST, FIRST, SLOT, NONE, STREAM),
    C("xpending", -3, R, FIRST, SLOT, NONE, STREAM),
    C("xrange", -4, R, FIRST, SLOT, NONE, STREAM),
    C("xread", -4, R | BLK | MOV | MBLK, STREAMS, SLOT, NONE, STREAM),
    C("xreadgroup", -7, W | BLK | MOV | MBLK, STREAMS, SLOT, NONE, STREAM),
    C("xrevrange", -4, R, FIRST, SLOT, NONE, STREAM),
    C("xsetid", -3, W | OOM | FAST, FIRST, SLOT, NONE, STREAM),
    C("xtrim", -4, W, FIRST, SLOT, NONE, STREAM),
    C("zadd", -4, W | OOM | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zcard", 2, R | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zcount", 4, R | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zdiff", -3, R | MOV, COUNT_AT_1, SLOT, NONE, SORTED_SET),
    C("zdiffstore", -4, W | OOM | MOV, DEST_COUNT_AT_2, SLOT, NONE, SORTED_SET),
    C("zincrby", 4, W | OOM | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zinter", -3, R | MOV, COUNT_AT_1, SLOT, NONE, SORTED_SET),
    C("zintercard", -3, R | MOV, COUNT_AT_1, SLOT, NONE, SORTED_SET),
    C("zinterstore", -4, W | OOM | MOV, DEST_COUNT_AT_2, SLOT, NONE, SORTED_SET),
    C("zlexcount", 4, R | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zmpop", -4, W | MOV, COUNT_AT_1, SLOT, NONE, SORTED_SET),
    C("zmscore", -3, R | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zpopmax", -2, W | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zpopmin", -2, W | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zrandmember", -2, R, FIRST, SLOT, NONE, SORTED_SET),
    C("zrange", -4, R, FIRST, SLOT, NONE, SORTED_SET),
    C("zrangebylex", -4, R, FIRST, SLOT, NONE, SORTED_SET),
    C("zrangebyscore", -4, R, FIRST, SLOT, NONE, SORTED_SET),
    C("zrangestore", -5, W | OOM, FIRST_TWO, SLOT, NONE, SORTED_SET),
    C("zrank", -3, R | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zrem", -3, W | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zremrangebylex", 4, W, FIRST, SLOT, NONE, SORTED_SET),
    C("zremrangebyrank", 4, W, FIRST, SLOT, NONE, SORTED_SET),
    C("zremrangebyscore", 4, W, FIRST, SLOT, NONE, SORTED_SET),
    C("zrevrange", -4, R, FIRST, SLOT, NONE, SORTED_SET),
    C("zrevrangebylex", -4, R, FIRST, SLOT, NONE, SORTED_SET),
    C("zrevrangebyscore", -4, R, FIRST, SLOT, NONE, SORTED_SET),
    C("zrevrank", -3, R | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zscan", -3, R, FIRST, SLOT, NONE, SORTED_SET),
    C("zscore", 3, R | FAST, FIRST, SLOT, NONE, SORTED_SET),
    C("zunion", -3, R | MOV, COUNT_AT_1, SLOT, NONE, SORTED_SET),
    C("zunionstore", -4, W | OOM | MOV, DEST_COUNT_AT_2, SLOT, NONE, SORTED_SET),
};

#define BUILTIN_COUNT ((uint32_t)(sizeof builtin / sizeof builtin[0]))

typedef char table_fits[BUILTIN_COUNT + COMMAND_DECLARED_MAX <= COMMAND_ROWS_MAX ? 1 : -1];

static struct command declared[COMMAND_DECLARED_MAX];
static char declared_name[COMMAND_DECLARED_MAX][COMMAND_NAME_CAP];
static uint32_t declared_count;

/* Open addressing: a name stands in the first free bucket from its hash on, as 1 + its index of command_at(). */
static uint16_t buckets[BUCKETS];

static const struct shape {
    const char *name;
    int8_t range[3]; /* first, last, step of the part that has a fixed place; a negative last counts from the end */
    uint8_t count_at, count_step; /* argument that says how many keys follow (0: none), and how far apart they are */
    uint8_t search_from;          /* argument from which on words are looked for; 0: none */
} shapes[KEYS_SHAPES] = {
    [KEYS_NONE] = {"none", {0, 0, 0}, 0, 0, 0},
    [KEYS_FIRST] = {"first", {1, 1, 1}, 0, 0, 0},
    [KEYS_ALL] = {"all", {1, -1, 1}, 0, 0, 0},
    [KEYS_PAIRS] = {"pairs", {1, -1, 2}, 0, 0, 0},
    [KEYS_ALL_BUT_LAST] = {"all-but-last", {1, -2, 1}, 0, 0, 0},
    [KEYS_FIRST_TWO] = {"first-two", {1, 2, 1}, 0, 0, 0},
    [KEYS_SECOND] = {"second", {2, 2, 1}, 0, 0, 0},
    [KEYS_FROM_SECOND] = {"from-second", {2, -1, 1}, 0, 0, 0},
    [KEYS_COUNT_AT_1] = {"count-at-1", {0, 0, 0}, 1, 1, 0},
    [KEYS_COUNT_AT_2] = {"count-at-2", {0, 0, 0}, 2, 1, 0},
    [KEYS_DEST_COUNT_AT_2] = {"dest-count-at-2", {1, 1, 1}, 2, 1, 0},
    [KEYS_COUNTED_PAIRS] = {"counted-pairs", {0, 0, 0}, 1, 2, 0},
    [KEYS_STREAMS] = {"streams", {0, 0, 0}, 0, 0, 1},
    [KEYS_GEORADIUS] = {"georadius", {1, 1, 1}, 0, 0, 5},
    [KEYS_SORT] = {"sort", {1, 1, 1}, 0, 0, 2},
    [KEYS_MIGRATE] = {"migrate", {3, 3, 1}, 0, 0, 6},
};

/* The words looked for: where keys follow, and options that are passed over with their values. What is not here is
 * passed over alone: the server judges it. */
enum { KEY_FOLLOWS = 8, KEYS_FOLLOW };
static const struct {
    const char *word;
    uint8_t keys, values; /* the shape; how many values the option has, or one of the above */
} words[] = {
    {"streams", KEYS_STREAMS, KEYS_FOLLOW}, {"count", KEYS_STREAMS, 1}, {"block", KEYS_STREAMS, 1},
    {"claim", KEYS_STREAMS, 1}, {"group", KEYS_STREAMS, 2}, {"store", KEYS_GEORADIUS, KEY_FOLLOWS},
    {"storedist", KEYS_GEORADIUS, KEY_FOLLOWS}, {"store", KEYS_SORT, KEY_FOLLOWS}, {"limit", KEYS_SORT, 2},
    {"by", KEYS_SORT, 1}, {"get", KEYS_SORT, 1}, {"keys", KEYS_MIGRATE, KEYS_FOLLOW}, {"auth", KEYS_MIGRATE, 1},
    {"auth2", KEYS_MIGRATE, 2},
};

static unsigned char lower(unsigned char c)
{
    return (unsigned char)(c - 'A') < 26 ? (unsigned char)(c | 0x20) : c;
}

/* Takes some other bytes for letters too; the comparison that follows does not. */
static uint32_t name_hash(const unsigned char *p, size_t n)
{
    uint32_t h = (uint32_t)n;
    size_t i;

    for (i = 0; i < n; i++)
        h = (h ^ (p[i] | 0x20u)) * 0x9E3779B1u;
    return h >> BUCKET_SHIFT;
}

/* Whether a name or word of ours is what these n bytes say, in either case. */
static bool name_equal(const unsigned char *p, size_t n, const char *name)
{
    size_t i;

    for (i = 0; i < n; i++)
        if (lower(p[i]) != (unsigned char)name[i] || name[i] == '\0')
            return false;
    return name[n] == '\0';
}

static const struct command *row_at(uint32_t i)
{
    return i < BUILTIN_COUNT ? &builtin[i] : &declared[i - BUILTIN_COUNT];
}

static const struct command *lookup(const unsigned char *name, size_t len)
{
    uint32_t i;

    if (len == 0 || len > NAME_MAX_LEN)
        return NULL;
    for (i = name_hash(name, len); buckets[i] != 0; i = (i + 1) % BUCKETS)
        if (name_equal(name, len, row_at(buckets[i] - 1u)->name))
            return row_at(buckets[i] - 1u);
    return NULL;
}

static void index_add(uint32_t row)
{
    const char *name = row_at(row)->name;
    uint32_t i = name_hash((const unsigned char *)name, strlen(name));

    while (buckets[i] != 0)
        i = (i + 1) % BUCKETS;
    buckets[i] = (uint16_t)(row + 1);
}

void command_init(void)
{
    uint32_t i;

    memset(buckets, 0, sizeof buckets);
    declared_count = 0;
    for (i = 0; i < BUILTIN_COUNT; i++)
        index_add(i);
}

const struct command *command_find(const unsigned char *name, size_t len)
{
    const struct command *c = lookup(name, len);

    return c != NULL && (c->flags & CMD_SUBCOMMAND) == 0 ? c : NULL;
}

const struct command *command_sub(const struct command *container, const unsigned char *sub, size_t len)
{
    unsigned char name[NAME_MAX_LEN];
    size_t outer;

    if (container == NULL || (container->flags & CMD_CONTAINER) == 0)
        return NULL;
    outer = strlen(container->name);
    if (len == 0 || len > sizeof name - outer - 1)
        return NULL;
    memcpy(name, container->name, outer);
    name[outer] = '|';
    memcpy(name + outer + 1, sub, len);
    return lookup(name, outer + 1 + len);
}

/* Copies a name in lower case. False if it is not 1 to 31 printable bytes without a blank or '|'. */
static bool name_copy(char *to, const char *name)
{
    size_t i;

    for (i = 0; name[i] != '\0'; i++) {
        if (i == COMMAND_NAME_CAP - 1 || name[i] <= ' ' || name[i] > '~' || name[i] == '|')
            return false;
        to[i] = (char)lower((unsigned char)name[i]);
    }
    to[i] = '\0';
    return i > 0;
}

static uint8_t declared_route(enum command_keys keys, uint32_t flags)
{
    if ((flags & (CMD_ADMIN | CMD_BLOCKING)) != 0)
        return (flags & CMD_ADMIN) != 0 ? ROUTE_ADMIN : ROUTE_SESSION;
    return keys == KEYS_NONE ? ROUTE_ANY : ROUTE_SLOT;
}

int command_declare(const char *name, enum command_keys keys, uint32_t flags)
{
    const uint32_t allowed = CMD_WRITE | CMD_READONLY | CMD_BLOCKING | CMD_FAST | CMD_DENYOOM | CMD_ADMIN;
    const struct command *old;
    char copy[COMMAND_NAME_CAP];
    uint32_t i;

    if (!name_copy(copy, name) || (unsigned)keys >= KEYS_SHAPES || (~flags & (CMD_WRITE | CMD_READONLY)) == 0)
        return -1;
    old = lookup((const unsigned char *)copy, strlen(copy));
    i = old != NULL && (old->flags & CMD_DECLARED) != 0 ? (uint32_t)(old - declared) : declared_count;
    if ((old != NULL && i == declared_count) || i == COMMAND_DECLARED_MAX)
        return -1;
    if ((flags & CMD_READONLY) == 0)
        flags |= CMD_WRITE;
    flags = (flags & allowed) | CMD_DECLARED | (keys >= KEYS_COUNT_AT_1 ? CMD_MOVABLEKEYS : 0);
    memcpy(declared_name[i], copy, sizeof copy);
    declared[i] = (struct command){
        declared_name[i], flags, -1, (uint8_t)keys, declared_route(keys, flags), MERGE_NONE, GROUP_MODULE};
    if (old == NULL) {
        declared_count++;
        index_add(BUILTIN_COUNT + i);
    }
    return 0;
}

const char *command_keys_name(enum command_keys keys)
{
    return (unsigned)keys < KEYS_SHAPES ? shapes[keys].name : NULL;
}

int command_keys_from_name(const char *name)
{
    int i;

    for (i = 0; i < KEYS_SHAPES; i++)
        if (strcmp(name, shapes[i].name) == 0)
            return i;
    return -1;
}

bool command_arity_ok(const struct command *c, uint32_t argc)
{
    return c->arity < 0 ? argc >= (uint32_t)-c->arity : argc == (uint32_t)c->arity;
}

const int8_t *command_range(const struct command *c)
{
    return shapes[c->keys].range;
}

uint32_t command_count(void)
{
    return BUILTIN_COUNT + declared_count;
}

const struct command *command_at(uint32_t i)
{
    return i < command_count() ? row_at(i) : NULL;
}

/* A row's place follows from its address; others' rows lie in neither table. */
uint32_t command_index(const struct command *c)
{
    uintptr_t in_builtin = (uintptr_t)c - (uintptr_t)builtin, in_declared = (uintptr_t)c - (uintptr_t)declared;

    if (in_builtin < sizeof builtin)
        return (uint32_t)(in_builtin / sizeof *c);
    if (in_declared < declared_count * sizeof *c)
        return BUILTIN_COUNT + (uint32_t)(in_declared / sizeof *c);
    return command_count();
}

/* A request being walked, and the keys found so far. `next` is the index of the argument that resp_arg() gives next. */
struct walk {
    const unsigned char *req;
    size_t len;
    uint32_t argc, cap, at, next, found;
    struct resp_slice *keys, arg; /* arg: the argument given last */
};

/* Moves on to argument i, which is not behind. */
static bool walk_to(struct walk *w, uint32_t i)
{
    while (w->next <= i) {
        if (!resp_arg(w->req, w->len, &w->at, &w->arg))
            return false;
        w->next++;
    }
    return true;
}

static void walk_note(struct walk *w)
{
    if (w->found < w->cap)
        w->keys[w->found] = w->arg;
    w->found++;
}

/* Notes the arguments first, first + step, ... up to last. Stops early once there are too many to note. */
static bool walk_range(struct walk *w, uint32_t first, uint32_t last, uint32_t step)
{
    uint32_t i;

    for (i = first; i <= last && w->found <= w->cap; i += step) {
        if (!walk_to(w, i))
            return false;
        walk_note(w);
    }
    return true;
}

/* As many keys as argument `at` says. */
static bool walk_counted(struct walk *w, const struct command *c, uint32_t at, uint32_t step)
{
    int64_t n;

    if (!walk_to(w, at) || !resp_to_int(w->req + w->arg.off, w->arg.len, &n) || n < 0 ||
        n > ((int64_t)w->argc - at - 1) / step)
        return false;
    if (n == 0)
        return (c->flags & (CMD_NO_MANDATORY_KEYS | CMD_DECLARED)) != 0;
    return walk_range(w, at + 1, at + (uint32_t)n * step, step);
}

/* The number of values of the option under the walk, KEY_FOLLOWS or KEYS_FOLLOW. */
static uint32_t walk_word(const struct walk *w, uint8_t keys)
{
    size_t i;

    for (i = 0; i < sizeof words / sizeof words[0]; i++)
        if (words[i].keys == keys && name_equal(w->req + w->arg.off, w->arg.len, words[i].word))
            return words[i].values;
    return 0;
}

/* The keys behind words. Of several STORE the servers use one: SORT the last, as here; of others all count here. */
static bool walk_words(struct walk *w, uint8_t keys)
{
    uint32_t i, values;

    for (i = shapes[keys].search_from; i < w->argc; i++) {
        if (!walk_to(w, i))
            return false;
        values = walk_word(w, keys);
        if (values == KEYS_FOLLOW && keys == KEYS_STREAMS) /* and as many identifiers */
            return i + 1 < w->argc && (w->argc - i) % 2 == 1 && walk_range(w, i + 1, (w->argc + i) / 2, 1);
        if (values == KEYS_FOLLOW)
            return i + 1 < w->argc && walk_range(w, i + 1, w->argc - 1, 1);
        if (values != KEY_FOLLOWS) {
            i += values;
        } else if (i + 1 < w->argc) {
            if (!walk_to(w, ++i))
                return false;
            w->found -= keys == KEYS_SORT && w->found > 1;
            walk_note(w);
        }
    }
    return keys == KEYS_GEORADIUS || keys == KEYS_SORT;
}

static bool walk_shape(struct walk *w, const struct command *c)
{
    const struct shape *s = &shapes[c->keys];
    int64_t last = s->range[1] < 0 ? (int64_t)w->argc + s->range[1] : s->range[1];

    if (c->keys == KEYS_PAIRS && w->argc % 2 == 0)
        return false;
    if (c->keys == KEYS_MIGRATE && walk_to(w, 3) && w->arg.len == 0)
        return walk_words(w, c->keys);
    if (s->range[2] > 0 && !walk_range(w, (uint32_t)s->range[0], (uint32_t)last, (uint32_t)s->range[2]))
        return false;
    if (s->count_at > 0)
        return walk_counted(w, c, s->count_at, s->count_step);
    return s->search_from == 0 || c->keys == KEYS_MIGRATE || walk_words(w, c->keys);
}

int command_keys_inside(const struct command *c, const unsigned char *req, size_t len, uint32_t at, uint32_t argc,
                        struct resp_slice *keys, uint32_t cap)
{
    struct walk w = {req, len, argc, cap, at, 0, 0, keys, {0, 0}};

    if (c->keys == KEYS_NONE)
        return 0;
    if (!command_arity_ok(c, argc) || cap > INT32_MAX - 1 || !walk_shape(&w, c))
        return -1;
    return w.found > cap ? -2 : (int)w.found;
}

int command_keys(const struct command *c, const unsigned char *req, size_t len, uint32_t argc, struct resp_slice *keys,
                 uint32_t cap)
{
    return command_keys_inside(c, req, len, 0, argc, keys, cap);
}
