/*
 * option.c - the table of all options, and what follows from a row alone: units, ranges, near keys.
 *
 *     text in the file --option_parse()--> a number --option_store()--> a field of struct conf or struct conf_service
 *                      <--option_text()---          <--option_load()---
 *
 * Owns nothing that changes. conf.c reads the lines, complain.c tells what is wrong with them, conf_report.c writes the report; only the
 * help is written here, since it is the table and nothing else, and what a `command = ...` line may say, since it is
 * words too.
 */
#include "option.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define KEY_CAP 40 /* the longest key and some room; a longer word has no near key */
#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define SECONDS(n) ((uint64_t)(n) * 1000)
#define DAY SECONDS(86400)

/* Those with an L are heeded by a reload: whoever uses the field asks it each time, or is told by on_conf (puerta.h). */
#define ROW(scope, type, field, live) scope, offsetof(type, field), sizeof ((type *)0)->field, live
#define P(field)  ROW(PROCESS, struct conf, field, false)
#define PL(field) ROW(PROCESS, struct conf, field, true)
#define M(field)  ROW(MONGO, struct conf_service, field, false)
#define ML(field) ROW(MONGO, struct conf_service, field, true)
#define R(field)  ROW(REDIS, struct conf_service, field, false)
#define RL(field) ROW(REDIS, struct conf_service, field, true)

const struct option options[] = {
    { P(chunk_size), "chunk_size", SIZE, KIB(1), KIB(256), "16k", NULL,
      "bytes of one piece of the buffer pool; a power of two" },
    { P(chunks), "chunks", COUNT, 64, 1048576, "2048", NULL,
      "pieces of the buffer pool: all bytes on their way through, of all clients together" },
    { P(upstream_buffer), "upstream_buffer", SIZE, KIB(16), MIB(1), "128k", NULL,
      "receive buffer that each upstream connection owns" },
    { P(max_clients), "max_clients", COUNT, 1, 1000000, "4096", NULL,
      "client connections of all sections; beyond: \"max number of clients reached\", and closed" },
    { P(max_backends), "max_backends", COUNT, 1, 1024, "64", NULL,
      "servers known at the same time, masters and replicas, of all sections" },
    { P(max_requests), "max_requests", COUNT, 256, 4194304, "32768", NULL,
      "requests in flight, of all clients together" },
    { P(max_leases), "max_leases", COUNT, 4, 4096, "64", NULL,
      "upstream connections lent to one client at a time, for large transfers" },
    { P(max_blocked), "max_blocked", COUNT, 0, 65536, "256", NULL,
      "clients that can wait in a blocking command at once; each has a connection to a node" },
    { P(max_watching), "max_watching", COUNT, 0, 65536, "64", NULL,
      "clients that can WATCH keys at once; each has a connection to a node" },
    { P(max_own), "max_own", COUNT, 0, 65536, "64", NULL,
      "connections to nodes that belong to one client each (a login of its own, CLIENT TRACKING, WAITAOF)" },
    { P(max_split_keys), "max_split_keys", COUNT, 64, 1048576, "16384", NULL,
      "keys of one request that spans several slots (MGET, MSET, DEL and the like)" },
    { P(script_cache), "script_cache", SIZE, KIB(16), MIB(64), "256k", NULL,
      "bodies of scripts kept, so that a node that has not got one can be given it" },
    { P(resp3), "resp3", BOOL, 0, 1, "yes", "no|yes",
      "whether clients may speak RESP3 (HELLO 3), over a second connection to each server; no: saves its buffers" },
    { P(max_channels), "max_channels", COUNT, 16, 1048576, "4096", NULL,
      "channels, patterns and shard channels that clients subscribe to at the same time" },
    { P(channel_names), "channel_names", SIZE, KIB(1), MIB(64), "256k", NULL,
      "bytes for the names of those channels, 64 for each 60 of a name" },
    { P(max_subscriptions), "max_subscriptions", COUNT, 16, 4194304, "16384", NULL,
      "subscriptions of all clients together, one for each client and channel" },
    { P(max_messages), "max_messages", COUNT, 64, 1048576, "16384", NULL,
      "published messages not yet read by all their subscribers; each is kept once" },
    { P(max_affinities), "max_affinities", COUNT, 64, 4194304, "16384", NULL,
      "MongoDB: cursors, transactions and clients of which it is known at the same time which mongos has them" },
    { P(admin), "admin", LISTEN, 1, MAX_LISTENS, "", NULL,
      "where operators ask by HTTP: 127.0.0.1:9180, [::1]:9180 or unix:/path; none: nowhere" },
    { PL(admin_token), "admin_token_file", SECRET_FILE, 0, 0, "", NULL,
      "a file whose first line is the token that they bear; none: this machine may look, and nobody may change anything" },
    { PL(admin_hosts), "admin_hosts", TEXT, 0, 0, "", NULL,
      "names by which they may ask, besides localhost and numeric addresses; pages of strangers use others" },
    { P(admin_clients), "admin_clients", COUNT, 1, 1024, "8", NULL,
      "connections of operators at the same time; beyond, the one that is silent longest gives way" },
    { PL(log_level), "log_level", ENUM, 0, 3, "info", "error|warn|info|debug",
      "the least important lines that are still written to stderr" },
    { PL(slow_log_min_ms), "slow_log_min", TIME, 1, SECONDS(3600), "10ms", "nothing is slow",
      "a request that took so long, from when it was looked at to its answer, stands in the slow log" },
    { P(slow_log), "slow_log", COUNT, 0, 65536, "128", NULL,
      "requests that the slow log keeps, the last ones; of one second it takes 100, and counts the others" },
    { P(hot_keys), "hot_keys", COUNT, 0, 16384, "64", NULL,
      "Redis: keys, and slots, that are counted to find those that are asked for most; 0: none" },
    { P(syslog), "syslog", ENUM, 0, 9, "no", "no|daemon|local0|local1|local2|local3|local4|local5|local6|local7",
      "log lines go to the system's log under this facility, in the place of stderr" },
    { P(prefault), "prefault", BOOL, 0, 1, "no", "no|yes",
      "touch and lock all memory at the start, so that it can neither be missing nor be paged out later" },
    { P(supervise), "supervise", BOOL, 0, 1, "yes", "no|yes",
      "a parent process restarts the worker when it dies and keeps the addresses open meanwhile" },
    { P(backlog), "backlog", COUNT, 1, 65535, "1024", NULL,
      "connections that the system holds for each address until they are accepted" },
    { PL(stop_timeout_ms), "stop_timeout", TIME, 100, SECONDS(600), "5s", NULL,
      "at SIGTERM or SIGINT: how long requests in flight may still take" },
    { P(drain_timeout_ms), "drain_timeout", TIME, 100, SECONDS(86400), "30s", NULL,
      "at SIGUSR2: how long the old program may still serve those that it cannot hand over to the new one" },
    { P(pid_file), "pid_file", TEXT, 0, 0, "", NULL,
      "a file that holds the number of the process first started; gone when that has ended" },
    { P(ready_fd), "ready_fd", COUNT, 3, 255, "0", "none",
      "an open descriptor that gets a newline, and is closed, once clients are served (s6)" },
    { P(user), "user", TEXT, 0, 0, "", NULL,
      "who both processes become once all addresses are bound and all secrets read; a name or a number" },
    { P(group), "group", TEXT, 0, 0, "", NULL,
      "the group, where it is not the user's own; other groups are given up" },
    { P(chroot), "chroot", TEXT, 0, 0, "", NULL,
      "a folder that becomes / of both processes, after that; needs user" },
    { P(seccomp), "seccomp", BOOL, 0, 1, "no", "no|yes",
      "Linux: the worker may make no system call but those that it needs; another one ends it" },
    { P(commands), "command", COMMAND, 0, COMMAND_DECLARED_MAX, "", NULL,
      "a module's or newer command: where its keys stand, and whether it only reads (else: write)" },

    { R(listen), "listen", LISTEN, 1, MAX_LISTENS, "127.0.0.1:6379", NULL,
      "where clients connect: 1.2.3.4:6379, [::1]:6379 or unix:/path" },
    { RL(nodes), "nodes", NODES, 1, MAX_SEEDS, "", NULL,
      "servers to learn the cluster from: HOST or HOST:PORT (6379); any one of them alive is enough" },
    { RL(announce), "announce", TEXT, 0, 0, "", NULL,
      "HOST:PORT that CLUSTER SLOTS and the like tell clients; none: the address by which the client came" },
    { RL(redis_version), "redis_version", TEXT, 0, 0, "7.0.15", NULL,
      "the version of Redis that HELLO and INFO tell clients, some of which do or refuse something by it" },
    { R(single), "topology", ENUM, 0, 1, "cluster", "cluster|single",
      "whether the nodes form a Redis Cluster or are one plain server (HOST:PORT or unix:/path)" },
    { RL(upstream_user), "upstream_user", TEXT, 0, 0, "", NULL,
      "ACL user to authenticate as at the servers; none: the default user" },
    { RL(upstream_password), "upstream_password", SECRET, 0, 0, "", NULL,
      "password to authenticate with at the servers" },
    { RL(upstream_password), "upstream_password_file", SECRET_FILE, 0, 0, "", NULL,
      "a file whose first line is that password" },
    { RL(password), "password", SECRET, 0, 0, "", NULL,
      "password that clients must give (AUTH, HELLO); none: they need none" },
    { RL(password), "password_file", SECRET_FILE, 0, 0, "", NULL,
      "a file whose first line is that password" },
    { RL(protect), "protected", BOOL, 0, 1, "yes", "no|yes",
      "without a password, only clients of this machine are served (loopback and unix sockets)" },
    { RL(client_logins), "client_logins", BOOL, 0, 1, "yes", "no|yes",
      "whether clients may log in as users of the servers, with the rights that they have there (connections of max_own)" },
    { RL(allow_admin), "allow_admin", BOOL, 0, 1, "no", "no|yes",
      "whether clients may send commands that change servers (SHUTDOWN, CONFIG SET, MIGRATE...), or Puerta (PUERTA)" },
    { RL(accept_proxy), "accept_proxy", BOOL, 0, 1, "no", "no|yes",
      "whether the addresses in `trusted` send a PROXY header (v1 or v2) ahead, as a load balancer does" },
    { RL(trusted), "trusted", NETS, 0, MAX_SUBNETS, "127.0.0.0/8, ::1, unix", NULL,
      "accept_proxy: whose header is taken, and must come within 5 s; from anybody else it is refused" },
    { RL(allow), "allow", NETS, 0, MAX_SUBNETS, "", NULL,
      "only clients from there may come in: addresses, networks, or unix; none: all" },
    { RL(deny), "deny", NETS, 0, MAX_SUBNETS, "", NULL,
      "clients from there may not, be they in allow or not" },
    { R(socket_mode), "socket_mode", TEXT, 0, 0, "", NULL,
      "permissions of the unix sockets of listen, in octal (660); none: as the umask leaves them" },
    { RL(max_per_address), "max_per_address", COUNT, 1, 1000000, "0", "any number",
      "connections of one client address" },
    { RL(request_rate), "request_rate", COUNT, 1, 10000000, "0", "any number",
      "requests that one client address may make a second, those of one second at once" },
    { RL(byte_rate), "byte_rate", SIZE, KIB(1), MIB(1024), "0", "any number",
      "bytes that one client address may send and be sent a second" },
    { RL(limit_error), "limit_action", ENUM, 0, 1, "delay", "delay|error",
      "what becomes of its requests beyond those rates: they wait, or get an error" },
    { RL(request_limit), "request_limit", SIZE, KIB(1), MIB(1024), "0", "what the protocol allows",
      "a request longer than this gets an error, and its client is closed" },
    { R(retain_bytes), "retain_bytes", SIZE, KIB(4), MIB(16), "256k", NULL,
      "a request up to this size is kept until it is answered, so that it can follow a slot that moves" },
    { R(shared_reply_limit), "shared_reply_limit", SIZE, KIB(4), MIB(1), "64k", NULL,
      "an answer longer than this gets a connection of its own; at most upstream_buffer" },
    { RL(client_window), "client_window", SIZE, KIB(64), MIB(256), "1m", NULL,
      "answers waiting for one client before its requests are no longer read" },
    { RL(client_pipeline), "client_pipeline", COUNT, 1, 65536, "1024", NULL,
      "requests of one client in flight before further ones are no longer read" },
    { RL(transaction_limit), "transaction_limit", SIZE, KIB(4), MIB(16), "1m", NULL,
      "bytes of the commands of one transaction (MULTI ... EXEC), which are kept until it is answered" },
    { RL(merge_limit), "merge_limit", SIZE, KIB(64), MIB(1024), "16m", NULL,
      "bytes of one answer that is merged from several nodes" },
    { RL(dial_timeout_ms), "dial_timeout", TIME, 1, DAY, "1s", NULL,
      "how long a connection to a server may take to open" },
    { RL(request_timeout_ms), "request_timeout", TIME, 1, DAY, "30s", NULL,
      "a request not answered by then gets an error" },
    { RL(failover_wait_ms), "failover_wait", TIME, 1, DAY, "5s", NULL,
      "how long a request of which nothing was sent waits for its node to come back or be replaced" },
    { RL(failover_queue), "failover_queue", COUNT, 0, 1048576, "10000", NULL,
      "how many requests may wait for a node that is down; 0: none, they fail at once" },
    { RL(client_stall_ms), "client_stall", TIME, 1, DAY, "10s", NULL,
      "a client that reads nothing of its waiting answers this long is closed" },
    { RL(client_idle_ms), "client_idle", TIME, 1, DAY, "0", "never",
      "a client that asks nothing this long is closed" },
    { RL(refresh_interval_ms), "refresh_interval", TIME, 1, DAY, "15s", NULL,
      "how often the slot map is asked for without any cause" },
    { RL(probe_interval_ms), "probe_interval", TIME, 1, DAY, "1s", NULL,
      "how often each server is probed" },
    { RL(probe_timeout_ms), "probe_timeout", TIME, 1, DAY, "1s", NULL,
      "a probe not answered by then has failed" },
    { RL(suspect_after_ms), "suspect_after", TIME, 1, DAY, "300ms", NULL,
      "no progress on a connection with requests in flight this long: nothing more is sent until it answers" },
    { RL(lease_wait_ms), "lease_wait", TIME, 1, DAY, "5s", NULL,
      "how long a large transfer, a blocking command or a WATCH waits for a connection of its own" },
    { RL(rise), "rise", COUNT, 1, 100, "1", NULL,
      "probes in a row that must succeed before a server counts as up" },
    { RL(fall), "fall", COUNT, 1, 100, "2", NULL,
      "failed probes in a row until a server counts as down; refused, lost or timed out counts twice" },
    { RL(unknown_commands), "unknown_commands", ENUM, 0, 1, "key", "refuse|key",
      "commands that are neither known nor declared: refuse them, or route them by their first argument" },
    { RL(receive_buffer), "receive_buffer", SIZE, KIB(4), MIB(16), "0", "the system's own",
      "the kernel's receive buffer of each connection (SO_RCVBUF)" },
    { RL(send_buffer), "send_buffer", SIZE, KIB(4), MIB(16), "0", "the system's own",
      "the kernel's send buffer of each connection (SO_SNDBUF)" },

    { M(listen), "listen", LISTEN, 1, MAX_LISTENS, "127.0.0.1:27017", NULL,
      "where clients connect: 1.2.3.4:27017, [::1]:27017 or unix:/path" },
    { ML(nodes), "mongos", NODES, 1, MAX_SEEDS, "", NULL,
      "the mongos: HOST or HOST:PORT (27017), each with *WEIGHT behind it if need be (1 to 100)" },
    { ML(expect_any), "expect", ENUM, 0, 1, "mongos", "mongos|any",
      "whether a server must say that it is a mongos before it gets clients" },
    { M(mode), "mode", ENUM, 0, 2, "passthrough", "passthrough|loadbalanced|pooled",
      "each client kept at one mongos; for drivers with loadBalanced=true; or all clients over few connections" },
    { ML(upstream_user), "upstream_user", TEXT, 0, 0, "", NULL,
      "user to log in as at the mongos (SCRAM): in pooled mode for all clients, and for deep_probe" },
    { ML(upstream_password), "upstream_password", SECRET, 0, 0, "", NULL,
      "password to log in with at the mongos" },
    { ML(upstream_password), "upstream_password_file", SECRET_FILE, 0, 0, "", NULL,
      "a file whose first line is that password" },
    { ML(upstream_key), "upstream_keyfile", KEYFILE, 0, 0, "", NULL,
      "the servers' own keyfile, in the place of a password: as __system of local, unless said otherwise" },
    { ML(upstream_auth_db), "upstream_auth_db", TEXT, 0, 0, "admin", NULL,
      "database in which that user is kept (authSource)" },
    { ML(users), "user", USER, 0, MAX_USERS, "", NULL,
      "pooled: a user whom clients log in as; puerta hash-password makes KEYS of a password; none: all may come in" },
    { ML(accept_proxy), "accept_proxy", BOOL, 0, 1, "no", "no|yes",
      "whether the addresses in `trusted` send a PROXY header (v1 or v2) ahead, as a load balancer does" },
    { ML(trusted), "trusted", NETS, 0, MAX_SUBNETS, "127.0.0.0/8, ::1, unix", NULL,
      "accept_proxy: whose header is taken, and must come within 5 s; from anybody else it is refused" },
    { ML(allow), "allow", NETS, 0, MAX_SUBNETS, "", NULL,
      "only clients from there may come in: addresses, networks, or unix; none: all" },
    { ML(deny), "deny", NETS, 0, MAX_SUBNETS, "", NULL,
      "clients from there may not, be they in allow or not" },
    { M(socket_mode), "socket_mode", TEXT, 0, 0, "", NULL,
      "permissions of the unix sockets of listen, in octal (660); none: as the umask leaves them" },
    { ML(max_per_address), "max_per_address", COUNT, 1, 1000000, "0", "any number",
      "connections of one client address" },
    { ML(request_rate), "request_rate", COUNT, 1, 10000000, "0", "any number",
      "requests that one client address may make a second, those of one second at once" },
    { ML(byte_rate), "byte_rate", SIZE, KIB(1), MIB(1024), "0", "any number",
      "bytes that one client address may send and be sent a second" },
    { ML(limit_error), "limit_action", ENUM, 0, 1, "delay", "delay|error",
      "what becomes of its requests beyond those rates: they wait, or get an error" },
    { ML(request_limit), "request_limit", SIZE, KIB(1), MIB(1024), "0", "what the protocol allows",
      "a request longer than this gets an error, and its client is closed" },
    { ML(affinity), "affinity", ENUM, 0, 2, "fingerprint", "fingerprint|source|connection",
      "passthrough: what one client is: its address, appName and system; its address; or each connection by itself" },
    { ML(affinity_grace_ms), "affinity_grace", TIME, 0, DAY, "10m", NULL,
      "how long a client is still sent to the same mongos once its last connection has closed" },
    { ML(balance), "balance", ENUM, 0, 3, "least-connections", "least-connections|round-robin|random-two|weighted",
      "which mongos a new client gets; all but round-robin heed the weights" },
    { ML(protect), "protected", BOOL, 0, 1, "yes", "no|yes",
      "pooled, with upstream_user but without users: only clients of this machine are served (loopback and unix sockets)" },
    { ML(pool_max), "pool_max", COUNT, 1, 65536, "50", NULL,
      "pooled: connections to each mongos, all clients together" },
    { ML(pool_min), "pool_min", COUNT, 0, 65536, "0", NULL,
      "pooled: connections to each mongos that are kept open while nobody needs them" },
    { ML(pool_dials), "pool_dials", COUNT, 1, 65536, "4", NULL,
      "pooled: connections to one mongos that are opened at the same time" },
    { ML(pool_idle_ms), "pool_idle", TIME, 1, DAY, "10m", "for ever",
      "pooled: a connection that nobody has needed this long is closed" },
    { ML(pool_life_ms), "pool_life", TIME, 1, DAY, "1h", "for ever",
      "pooled: a connection this old is closed when its exchange is over" },
    { ML(pool_wait_ms), "pool_wait", TIME, 1, DAY, "5s", NULL,
      "pooled: how long a request waits for a connection, or for a mongos to come back; then it gets an error" },
    { ML(pool_queue), "pool_queue", COUNT, 0, 1000000, "10000", NULL,
      "pooled: how many requests may wait at once, but for a dial of their own; beyond: an error at once" },
    { M(upstream_proxy), "upstream_proxy", ENUM, 0, 2, "none", "none|v1|v2",
      "a PROXY header of that version goes ahead of each connection, as the loadBalancerPort of a mongos wants it" },
    { ML(client_window), "client_window", SIZE, KIB(16), MIB(256), "256k", NULL,
      "bytes waiting for one side of a connection before the other is no longer read" },
    { ML(allow_admin), "allow_admin", BOOL, 0, 1, "no", "no|yes",
      "whether puertaStatus is answered here: in pooled mode to whoever may come in, else to clients of this machine" },
    { ML(dial_timeout_ms), "dial_timeout", TIME, 1, DAY, "1s", NULL,
      "how long a connection to a mongos may take to open" },
    { ML(handshake_timeout_ms), "handshake_timeout", TIME, 1, DAY, "10s", NULL,
      "how long a client may take to say hello, and a login at a mongos" },
    { ML(client_stall_ms), "client_stall", TIME, 1, DAY, "1m", NULL,
      "a client or a mongos that takes nothing of what waits for it this long is closed" },
    { ML(client_idle_ms), "client_idle", TIME, 1, DAY, "0", "never",
      "a client that asks nothing this long is closed" },
    { ML(probe_interval_ms), "probe_interval", TIME, 1, DAY, "2s", NULL,
      "how often each mongos is asked for its hello" },
    { ML(probe_timeout_ms), "probe_timeout", TIME, 1, DAY, "2s", NULL,
      "a hello not answered by then has failed" },
    { ML(deep_probe), "deep_probe", BOOL, 0, 1, "no", "no|yes",
      "whether a mongos is also asked for listDatabases, which needs its config servers (as upstream_user)" },
    { ML(rise), "rise", COUNT, 1, 100, "2", NULL,
      "hellos in a row that must succeed before a mongos that was down counts as up" },
    { ML(fall), "fall", COUNT, 1, 100, "3", NULL,
      "failed hellos in a row until a mongos counts as down; refused, lost or timed out counts twice" },
    { ML(slow_start_ms), "slow_start", TIME, 0, DAY, "30s", NULL,
      "over this time the share of a mongos that has come back grows to its whole" },
    { ML(drain_timeout_ms), "drain_timeout", TIME, 0, DAY, "15s", NULL,
      "how long clients with open work stay at a mongos that shuts down; so long they leave a drained one as a whole only" },
    { ML(eject_after), "eject_after", COUNT, 1, 1000, "5", "never",
      "connections in a row that a mongos refuses or breaks off until it gets no new clients for a while" },
    { ML(eject_time_ms), "eject_time", TIME, 100, DAY, "10s", NULL,
      "how long, the first time; each further time is as much longer. The last mongos is never left out" },
    { ML(receive_buffer), "receive_buffer", SIZE, KIB(4), MIB(16), "0", "the system's own",
      "the kernel's receive buffer of each connection (SO_RCVBUF)" },
    { ML(send_buffer), "send_buffer", SIZE, KIB(4), MIB(16), "0", "the system's own",
      "the kernel's send buffer of each connection (SO_SNDBUF)" },
};


const size_t option_count = sizeof options / sizeof *options;

/* Whoever keeps an array by option counts on OPTION_CAP. */
typedef char table_fits[sizeof options / sizeof *options <= OPTION_CAP ? 1 : -1];

const char *const option_scopes[] = { "puerta", "redis", "mongo" };

/* -------------------------------------------------------- numbers and words */

struct unit { const char *name; uint64_t times; };

static const struct unit size_units[] = {
    { "g", MIB(1024) }, { "m", MIB(1) }, { "k", KIB(1) }, { "", 1 }, { NULL, 0 }
};
static const struct unit time_units[] = { { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 }, { NULL, 0 } };
static const struct unit count_units[] = { { "", 1 }, { NULL, 0 } };

static const struct unit *units_of(enum option_type type)
{
    return type == SIZE ? size_units : type == TIME ? time_units : count_units;
}

/* In the largest unit that leaves no rest. */
const char *option_text(enum option_type type, uint64_t n, char out[OPTION_TEXT])
{
    const struct unit *u = units_of(type);

    while (u[1].name != NULL && n % u->times != 0)
        u++;
    snprintf(out, OPTION_TEXT, "%llu%s", (unsigned long long)(n / u->times), n != 0 ? u->name : "");
    return out;
}

/* NULL when text is a number of this option, else what is wrong with it. */
static const char *number_parse(const struct option *o, const char *text, uint64_t *out)
{
    const struct unit *u = units_of(o->type);
    const char *p = text;
    uint64_t n = 0;

    for (; *p >= '0' && *p <= '9'; p++) {
        uint64_t digit = (uint64_t)(*p - '0');
        n = n > (UINT64_MAX - digit) / 10 ? UINT64_MAX : n * 10 + digit;
    }
    if (p == text)
        return o->type == SIZE ? "not a size" : o->type == TIME ? "not a time" : "not a whole number";
    if (o->type == TIME && *p == '\0' && n != 0)
        return "a time without a unit";
    if (n != 0 || *p != '\0') {
        while (u->name != NULL && strcasecmp(u->name, p) != 0)
            u++;
        if (u->name == NULL)
            return o->type == COUNT ? "not a whole number" : "an unknown unit";
        n = n > UINT64_MAX / u->times ? UINT64_MAX : n * u->times;
    }
    if ((n < o->min || n > o->max) && !(n == 0 && o->words != NULL))
        return "out of range";
    *out = n;
    return NULL;
}

/* The index of a name in "a|b|c"; -1 if it is none of them. */
static int word_index(const char *words, const char *name)
{
    for (int i = 0;; i++) {
        size_t n = strcspn(words, "|");
        if (strlen(name) == n && strncasecmp(words, name, n) == 0)
            return i;
        if (words[n] == '\0')
            return -1;
        words += n + 1;
    }
}

const char *option_parse(const struct option *o, const char *text, uint64_t *out)
{
    int i;

    if (o->type != BOOL && o->type != ENUM)
        return number_parse(o, text, out);
    i = word_index(o->type == ENUM ? o->words : "no|yes|off|on|false|true", text);
    if (i < 0)
        return o->type == ENUM ? "an unknown word" : "neither yes nor no";
    *out = (uint64_t)(o->type == ENUM ? i : i % 2);
    return NULL;
}

/* The fields are uint32_t, int or size_t, whose widths differ between machines: the table knows each. */
void option_store(void *base, const struct option *o, uint64_t n)
{
    unsigned char *field = (unsigned char *)base + o->offset;
    uint32_t narrow = (uint32_t)n;

    must(o->width == sizeof n || o->width == sizeof narrow);
    memcpy(field, o->width == sizeof n ? (void *)&n : (void *)&narrow, o->width);
}

uint64_t option_load(const void *base, const struct option *o)
{
    const unsigned char *field = (const unsigned char *)base + o->offset;
    uint32_t narrow = 0;
    uint64_t wide = 0;

    must(o->width == sizeof wide || o->width == sizeof narrow);
    memcpy(o->width == sizeof wide ? (void *)&wide : (void *)&narrow, field, o->width);
    return o->width == sizeof wide ? wide : narrow;
}

const char *option_range(const struct option *o, char out[OPTION_TEXT])
{
    char low[OPTION_TEXT], high[OPTION_TEXT];
    unsigned long long most = o->max;

    switch (o->type) {
    case SIZE: case TIME: case COUNT:
        snprintf(out, OPTION_TEXT, "%.20s to %.20s%s%.60s", option_text(o->type, o->min, low),
                 option_text(o->type, o->max, high), o->words != NULL ? ", or 0: " : "", o->words != NULL ? o->words : "");
        break;
    case BOOL:   snprintf(out, OPTION_TEXT, "yes or no"); break;
    case ENUM:   snprintf(out, OPTION_TEXT, "%s", o->words); break;
    case LISTEN: snprintf(out, OPTION_TEXT, "1 to %llu numeric addresses", most); break;
    case NETS:   snprintf(out, OPTION_TEXT, "up to %llu", most); break;
    case NODES:  snprintf(out, OPTION_TEXT, "1 to %llu names or addresses, required", most); break;
    case COMMAND: snprintf(out, OPTION_TEXT, "NAME SHAPE [read|write], one a line, up to %llu", most); break;
    case USER: snprintf(out, OPTION_TEXT, "NAME KEYS, one a line, up to %llu", most); break;
    case TEXT: case SECRET: snprintf(out, OPTION_TEXT, "up to %zu bytes", o->width - 1); break;
    case SECRET_FILE: case KEYFILE: snprintf(out, OPTION_TEXT, "the path of a readable file"); break;
    }
    return out;
}

/* ------------------------------------------------------------- two values */

/* The addresses of a LISTEN row. */
static const struct address *addresses(const struct option *o, const void *base, int *count)
{
    const struct conf *conf = base;
    const struct conf_service *s = base;

    *count = o->scope == PROCESS ? conf->admins : s->listens;
    return o->scope == PROCESS ? conf->admin : s->listen;
}

static bool same_addresses(const struct option *o, const void *a, const void *b)
{
    char mine[ADDRESS_TEXT], other[ADDRESS_TEXT];
    int n, m;
    const struct address *x = addresses(o, a, &n), *y = addresses(o, b, &m);
    bool same = n == m;

    for (int i = 0; i < n && same; i++)
        same = strcmp(address_text(&x[i], mine), address_text(&y[i], other)) == 0;
    return same;
}

static bool same_nets(const struct subnets *a, const struct subnets *b)
{
    char mine[SUBNET_TEXT], other[SUBNET_TEXT];
    bool same = a->count == b->count;

    for (int i = 0; i < a->count && same; i++)
        same = strcmp(subnet_text(&a->at[i], mine), subnet_text(&b->at[i], other)) == 0;
    return same;
}

static bool same_nodes(const struct conf_service *a, const struct conf_service *b)
{
    bool same = a->node_count == b->node_count;

    for (int i = 0; i < a->node_count && same; i++)
        same = a->nodes[i].port == b->nodes[i].port && strcmp(a->nodes[i].host, b->nodes[i].host) == 0 && a->weights[i] == b->weights[i];
    return same;
}

static bool same_users(const struct conf_service *a, const struct conf_service *b)
{
    bool same = a->user_count == b->user_count;

    for (int i = 0; i < a->user_count && same; i++)
        same = strcmp(a->users[i].name, b->users[i].name) == 0 && memcmp(&a->users[i].keys, &b->users[i].keys, sizeof a->users[i].keys) == 0;
    return same;
}

static bool same_commands(const struct conf *a, const struct conf *b)
{
    bool same = a->command_count == b->command_count;

    for (int i = 0; i < a->command_count && same; i++)
        same = strcmp(a->commands[i].name, b->commands[i].name) == 0 && a->commands[i].keys == b->commands[i].keys &&
               a->commands[i].flags == b->commands[i].flags;
    return same;
}

/* A file whose secret another row has as well, the one before: that one speaks for both. */
static bool is_spoken_for(const struct option *o)
{
    return o->type == SECRET_FILE && o > options && o[-1].type == SECRET && o[-1].scope == o->scope && o[-1].offset == o->offset;
}

bool option_same(const struct option *o, const void *a, const void *b)
{
    const void *mine = (const char *)a + o->offset, *other = (const char *)b + o->offset;

    switch (o->type) {
    case NETS:    return same_nets(mine, other);
    case LISTEN:  return same_addresses(o, a, b);
    case NODES:   return same_nodes(a, b);
    case USER:    return same_users(a, b);
    case COMMAND: return same_commands(a, b);
    case TEXT: case SECRET: case SECRET_FILE: case KEYFILE:
        return is_spoken_for(o) || strcmp(mine, other) == 0;
    case SIZE: case TIME: case COUNT: case BOOL: case ENUM: break;
    }
    return option_load(a, o) == option_load(b, o);
}

void option_copy(const struct option *o, void *to, const void *from)
{
    struct conf_service *s = to;
    const struct conf_service *f = from;

    memcpy((char *)to + o->offset, (const char *)from + o->offset, o->width);
    if (o->type == NODES) {
        memcpy(s->weights, f->weights, sizeof s->weights);
        s->node_count = f->node_count;
    } else if (o->type == USER) {
        s->user_count = f->user_count;
    } else {
        must(o->type != LISTEN && o->type != COMMAND); /* their counts stand elsewhere, and they are for a restart */
    }
}

/* Adds an item of a list, as far as there is room. */
static void show_item(char out[OPTION_TEXT], const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void show_item(char out[OPTION_TEXT], const char *fmt, ...)
{
    size_t n = strlen(out);
    va_list args;

    n += (size_t)snprintf(out + n, OPTION_TEXT - n, "%s", n > 0 ? ", " : "");
    va_start(args, fmt);
    if (n < OPTION_TEXT)
        vsnprintf(out + n, OPTION_TEXT - n, fmt, args);
    va_end(args);
}

static const char *show_list(const struct option *o, const void *base, char out[OPTION_TEXT])
{
    const struct conf *conf = base;
    const struct conf_service *s = base;
    const struct subnets *nets = (const void *)((const char *)base + o->offset);
    char text[ADDRESS_TEXT], net[SUBNET_TEXT];
    int n = 0;
    const struct address *list = o->type == LISTEN ? addresses(o, base, &n) : NULL;

    out[0] = '\0';
    for (int i = 0; i < n; i++)
        show_item(out, "%s", address_text(&list[i], text));
    for (int i = 0; o->type == NETS && i < nets->count; i++)
        show_item(out, "%s", subnet_text(&nets->at[i], net));
    for (int i = 0; o->type == COMMAND && i < conf->command_count; i++)
        show_item(out, "%s", conf->commands[i].name);
    for (int i = 0; o->type == USER && i < s->user_count; i++)
        show_item(out, "%s", s->users[i].name);
    for (int i = 0; o->type == NODES && i < s->node_count; i++) {
        bool six = strchr(s->nodes[i].host, ':') != NULL;
        char weight[8] = "";
        if (s->weights[i] > 1)
            snprintf(weight, sizeof weight, "*%u", (unsigned)s->weights[i]);
        if (s->nodes[i].port == 0)
            show_item(out, "unix:%s%s", s->nodes[i].host, weight);
        else
            show_item(out, "%s%s%s:%u%s", six ? "[" : "", s->nodes[i].host, six ? "]" : "", (unsigned)s->nodes[i].port, weight);
    }
    return out;
}

const char *option_show(const struct option *o, const void *base, char out[OPTION_TEXT])
{
    const char *field = (const char *)base + o->offset, *name = o->words;

    switch (o->type) {
    case SIZE: case TIME: case COUNT:
        return option_text(o->type, option_load(base, o), out);
    case BOOL: case ENUM:
        for (uint64_t i = option_load(base, o); i > 0; i--)
            name += strcspn(name, "|") + 1;
        snprintf(out, OPTION_TEXT, "%.*s", (int)strcspn(name, "|"), name);
        return out;
    case LISTEN: case NODES: case COMMAND: case USER: case NETS:
        return show_list(o, base, out);
    case SECRET: case SECRET_FILE: case KEYFILE:
        snprintf(out, OPTION_TEXT, "%s", field[0] != '\0' ? "******" : "");
        return out;
    case TEXT: break;
    }
    snprintf(out, OPTION_TEXT, "%s", field);
    return out;
}

/* ------------------------------------------------------------------ keys */

const struct option *option_find(enum option_scope scope, const char *key)
{
    for (size_t i = 0; i < option_count; i++)
        if (options[i].scope == scope && strcmp(options[i].key, key) == 0)
            return &options[i];
    return NULL;
}

static int key_byte(char c)
{
    return c == '-' ? '_' : tolower((unsigned char)c);
}

/* Bytes to change, add or take away to make one key of the other; case and the kind of dash do not count. */
static size_t key_distance(const char *word, const char *key)
{
    size_t row[KEY_CAP + 1], n = strlen(key);

    must(n <= KEY_CAP);
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; word[i - 1] != '\0'; i++) {
        size_t corner = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t changed = corner + (key_byte(word[i - 1]) != key_byte(key[j - 1]) ? 1 : 0);
            size_t longer = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            corner = row[j];
            row[j] = changed < longer ? changed : longer;
        }
    }
    return row[n];
}

/* Whether key is nearer to word than what was found before; *found begins as 0. */
static bool key_nearer(const char *word, const char *key, size_t *found)
{
    size_t len = strlen(word), best = *found != 0 ? *found : 2 + (len < 6 ? 2 : len / 3); /* further away misleads */
    size_t d = len <= KEY_CAP ? 1 + key_distance(word, key) : best;

    if (d < best)
        *found = d;
    return d < best;
}

const struct option *option_near(const char *key)
{
    const struct option *near = NULL;
    size_t found = 0;

    for (size_t i = 0; i < option_count; i++)
        if (key_nearer(key, options[i].key, &found))
            near = &options[i];
    return near;
}

/* --------------------------------------------------- command = NAME SHAPE */

/* The names of all shapes; gives out. */
static const char *shape_list(char out[OPTION_TEXT])
{
    size_t n = 0;

    for (int i = 0; i < KEYS_SHAPES && n < OPTION_TEXT; i++)
        n += (size_t)snprintf(out + n, OPTION_TEXT - n, i == 0 ? "%s" : " %s", command_keys_name((enum command_keys)i));
    must(n < OPTION_TEXT);
    return out;
}

static void shape_cure(const char *word, char cure[2 * OPTION_TEXT])
{
    const char *near = NULL;
    char list[OPTION_TEXT];
    size_t found = 0;

    for (int i = 0; i < KEYS_SHAPES; i++)
        if (key_nearer(word, command_keys_name((enum command_keys)i), &found))
            near = command_keys_name((enum command_keys)i);
    snprintf(cure, 2 * OPTION_TEXT, "%s%s%sthe shapes are %s", near != NULL ? "the nearest shape is " : "",
             near != NULL ? near : "", near != NULL ? "; " : "", shape_list(list));
}

/* What is wrong with the name, which becomes lower case, or NULL. A quote, # or ; could not stand in every file. */
static const char *name_check(const struct conf *conf, char *name, char cure[2 * OPTION_TEXT])
{
    size_t n = strlen(name);

    snprintf(cure, 2 * OPTION_TEXT, "1 to %d printable bytes, none of them | \" # or ;", COMMAND_NAME_CAP - 1);
    for (size_t i = 0; i < n; i++) {
        if (n >= COMMAND_NAME_CAP || name[i] <= ' ' || name[i] > '~' || strchr("|\"#;", name[i]) != NULL)
            return "not a name of a command";
        name[i] = (char)tolower(name[i]);
    }
    snprintf(cure, 2 * OPTION_TEXT, "take it out: only what Puerta does not know is declared, and once");
    if (command_find((const unsigned char *)name, n) != NULL)
        return "a command that Puerta knows";
    for (int i = 0; i < conf->command_count; i++)
        if (strcmp(conf->commands[i].name, name) == 0)
            return "a command declared before";
    return NULL;
}

const char *option_command(struct conf *conf, const char *text, char cure[2 * OPTION_TEXT])
{
    char name[64] = "", shape[64] = "", mode[64] = "", rest[2] = ""; /* what is longer is wrong when cut, too */
    struct conf_command *c = conf->commands + conf->command_count;
    int words = sscanf(text, "%63s %63s %63s %1s", name, shape, mode, rest);
    const char *wrong = name_check(conf, name, cure);
    int keys = command_keys_from_name(shape);

    if (wrong != NULL)
        return wrong;
    shape_cure(shape, cure);
    if (keys < 0)
        return shape[0] == '\0' ? "a command without a shape" : "an unknown shape";
    snprintf(cure, 2 * OPTION_TEXT, "write command = NAME SHAPE [read|write], one command a line");
    if (words > 3 || (words == 3 && word_index("read|write", mode) < 0))
        return words > 3 ? "more than one command" : "neither read nor write";
    snprintf(cure, 2 * OPTION_TEXT, "keep %d; unknown_commands = key routes others by their first argument",
             COMMAND_DECLARED_MAX);
    if (conf->command_count == COMMAND_DECLARED_MAX)
        return "one more than there may be";
    memcpy(c->name, name, strlen(name) + 1); /* name_check() has looked at its length */
    c->keys = (enum command_keys)keys;
    c->flags = word_index("read", mode) == 0 ? CMD_READONLY : CMD_WRITE;
    conf->command_count++;
    return NULL;
}

/* -------------------------------------------------------- user = NAME KEYS */

#ifdef PUERTA_NO_MONGO /* its sections are refused; what stands in them says nothing */
const char *option_user(struct conf_service *s, const char *text, char cure[2 * OPTION_TEXT])
{
    (void)s, (void)text;
    cure[0] = '\0';
    return NULL;
}
#else
const char *option_user(struct conf_service *s, const char *text, char cure[2 * OPTION_TEXT])
{
    size_t n = strlen(text), len;
    struct conf_user *u = s->users + s->user_count;

    while (n > 0 && text[n - 1] != ' ' && text[n - 1] != '\t')
        n--;
    for (len = n; len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\t'); len--)
        ;
    snprintf(cure, 2 * OPTION_TEXT, "write user = NAME KEYS, one user a line; a name has up to %d bytes", SCRAM_NAME_MAX);
    if (len == 0)
        return "a user without keys";
    if (len > SCRAM_NAME_MAX)
        return "too long a name";
    snprintf(cure, 2 * OPTION_TEXT, "keep one of them");
    for (int i = 0; i < s->user_count; i++)
        if (strlen(s->users[i].name) == len && memcmp(s->users[i].name, text, len) == 0)
            return "a user given before";
    snprintf(cure, 2 * OPTION_TEXT, "keep %d, or start a second section for more", MAX_USERS);
    if (s->user_count == MAX_USERS)
        return "one more than a section may have";
    snprintf(cure, 2 * OPTION_TEXT, "puerta hash-password reads a password and prints what stands behind the name: "
             "SCRAM-SHA-256$ROUNDS:SALT$KEY:KEY");
    if (!scram_keys_parse(&u->keys, text + n))
        return "not the keys of a password";
    snprintf(u->name, sizeof u->name, "%.*s", (int)len, text);
    s->user_count++;
    return NULL;
}
#endif

/* ------------------------------------------------------------------ help */

static void help_option(const struct option *o)
{
    char range[OPTION_TEXT];

    printf("  %s = %s  (%s)%s\n      %s\n", o->key, o->standard[0] != '\0' ? o->standard : "\"\"",
           option_range(o, range), o->live ? "" : "  restart", o->help);
    if (o->type == COMMAND)
        printf("      SHAPE is one of %s\n", shape_list(range));
}

bool conf_help(const char *what)
{
    const bool all = strcmp(what, "options") == 0;
    const struct option *last = NULL, *near = option_near(what);

    for (size_t i = 0; i < option_count; i++) {
        const struct option *o = &options[i];
        const bool named = strcmp(o->key, what) == 0;
        if (!all && !named && strcmp(option_scopes[o->scope], what) != 0)
            continue;
        if (last == NULL && !named)
            printf("Each option with its default and what it may be. What a file says anew is heeded by a reload (SIGHUP), of those marked\n"
                   "\"restart\" by a restart.\n\n");
        if (last == NULL || last->scope != o->scope)
            printf(o->scope == PROCESS ? "%sOptions of [%s], the process:\n" : "%sOptions of [%s NAME], a listener and the servers behind it:\n",
                   last == NULL ? "" : "\n", option_scopes[o->scope]);
        help_option(o);
        last = o;
    }
    if (last == NULL)
        fprintf(stderr, "puerta -h: no option or section '%s'; %s%s\n", what, near != NULL ? "the nearest is " : "puerta -h options lists all",
                near != NULL ? near->key : "");
    return last != NULL;
}
