/* stats.h - what is counted: events, how full the tables are, how long servers take.
 *
 *     STATS(X)   counters     any room: stats.requests++             --stats_row()--> name, help, value
 *     GAUGES(X)  fill levels  who owns a table: gauge_set(...)       --gauge_row()--> name, help, now, high, most
 *     latency    by server    who pairs an answer with its request   --latency_of()-> a histogram
 *
 * One list yields the struct, the names, the metrics and what the documents are compared with. One thread counts and the same
 * thread reads, so all are plain integers.
 */
#ifndef PUERTA_STATS_H
#define PUERTA_STATS_H

#include "command.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conf;

/* ---------------------------------------------------------------- counters */

#define STATS(X) \
    X(clients_accepted, "client connections that were let in") \
    X(clients_refused, "client connections refused because a table was full") \
    X(clients_closed, "client connections that have ended, for whatever reason") \
    X(clients_handed_over, "clients handed over to the next worker in an upgrade") \
    X(clients_taken_over, "clients taken over from the worker before in an upgrade") \
    X(clients_stalled, "clients closed because they did not read their answers") \
    X(requests, "requests of clients") \
    X(replies, "answers of servers to clients' requests") \
    X(bytes_in, "bytes received, from clients and servers") \
    X(bytes_out, "bytes sent, to clients and servers") \
    X(errors_sent, "errors made here that clients were answered with") \
    X(redirect_moved, "MOVED answers of Redis nodes") \
    X(redirect_ask, "ASK answers of Redis nodes") \
    X(redirect_tryagain, "TRYAGAIN answers of Redis nodes") \
    X(redirect_clusterdown, "CLUSTERDOWN answers of Redis nodes") \
    X(redirect_loading, "LOADING answers of Redis nodes") \
    X(resent, "requests that were sent again, after a redirect or a lost connection") \
    X(outcome_unknown, "requests whose server was lost when it may have run them") \
    X(not_executed, "requests answered with an error that says they did not run") \
    X(late, "requests not answered within request_timeout") \
    X(slow_requests, "requests that took slow_log_min or longer") \
    X(slow_passed_over, "slow requests that the slow log was not told of, since it takes 100 of a second") \
    X(split_requests, "requests whose keys were on several slots") \
    X(split_parts, "parts that those were cut into") \
    X(large_requests, "requests too long to be kept, passed on as they came") \
    X(large_replies, "answers too long to be kept, passed on as they came") \
    X(lease_waits, "requests that waited for a connection of their own") \
    X(lease_refused, "requests that waited for one in vain") \
    X(scripts_loaded, "scripts given to a node that had not got them") \
    X(transactions, "transactions of Redis mode sent to a node") \
    X(pushes_dropped, "messages of servers that concerned no client") \
    X(functions_copied, "new masters that were given the functions of the others") \
    X(functions_too_long, "functions too long to be copied") \
    X(pool_empty, "times that no chunk of the buffer pool was left") \
    X(requests_full, "times that no request record was left") \
    X(protocol_errors, "clients closed because what they sent was malformed") \
    X(messages_in, "published messages that came from nodes") \
    X(messages_out, "published messages given to subscribers") \
    X(messages_lost, "published messages that found no room") \
    X(subscribers_closed, "subscribers closed because they did not read") \
    X(auth_failures, "wrong passwords of clients") \
    X(auth_delayed, "guesses that had to wait behind wrong ones") \
    X(clients_denied, "clients turned away by protected mode") \
    X(admin_requests, "management requests answered, refused ones too") \
    X(admin_unauthorized, "management requests refused for want of a token, or for a wrong one") \
    X(admin_cross_site, "management requests refused that a page of another site sent") \
    X(admin_wrong_host, "management requests refused whose Host is none of ours") \
    X(admin_malformed, "management requests refused that could not be read, or ask for what is not there") \
    X(admin_slow, "management requests refused that were not whole in time") \
    X(admin_limited, "management requests refused since too many came from one address") \
    X(admin_crowded, "management connections closed for others, or refused (admin_clients)") \
    X(clients_unwelcome, "clients turned away by their address (allow, deny)") \
    X(clients_crowded, "clients turned away since their address had too many connections (max_per_address)") \
    X(limit_delayed, "times that a client was not read for a while (request_rate, byte_rate)") \
    X(limit_refused, "requests answered with an error for the same reason (limit_action = error)") \
    X(requests_too_long, "clients closed because of a request longer than request_limit") \
    X(proxy_headers, "connections of which a PROXY header has told whose they are") \
    X(proxy_missing, "connections from trusted sources that began without one") \
    X(proxy_malformed, "connections from trusted sources whose PROXY header was wrong, or broke off") \
    X(proxy_late, "connections from trusted sources whose PROXY header did not come in time") \
    X(proxy_full, "connections from trusted sources that found no room to wait for it") \
    X(proxy_untrusted, "clients closed because they sent a PROXY header without being trusted") \
    X(dials, "connections to servers that were begun") \
    X(dial_failures, "connections to servers that did not come about") \
    X(upstream_lost, "connections to servers that were lost") \
    X(refreshes, "slot maps asked for") \
    X(refresh_failures, "slot maps that did not come or were malformed") \
    X(map_changes, "slots that changed their owner") \
    X(probes, "health questions put to servers") \
    X(probe_failures, "health questions that failed") \
    X(upstream_login_failures, "logins of Puerta that a server refused") \
    X(affinity_hits, "MongoDB requests and clients whose mongos was remembered") \
    X(affinity_misses, "those whose mongos was chosen anew") \
    X(affinity_evictions, "remembered ones given up for want of room") \
    X(affinity_full, "times that none could be given up") \
    X(pool_dials, "connections opened by the pools of pooled mode") \
    X(pool_lent, "exchanges that had a pooled connection") \
    X(pool_waits, "exchanges that had to wait for one") \
    X(pool_timeouts, "exchanges that waited in vain (pool_wait)") \
    X(pool_full, "exchanges refused because too many waited (pool_queue)") \
    X(pool_drops, "pooled connections closed because something was left on them") \
    X(backend_ups, "servers that became up") \
    X(backend_downs, "servers that became down") \
    X(reloads, "configurations that were read again and heeded") \
    X(reload_failures, "configurations that were read again and refused, or could not be read")

struct stats {
#define X(name, help) uint64_t name;
    STATS(X)
#undef X
};
extern struct stats stats;
/* The last time that the configuration was read again: written by reload.c, for those who tell of it. */
struct reloaded {
    int64_t when;               /* seconds since 1970; 0: it never was */
    bool good;                  /* it was heeded; else the one before is still in force */
    uint32_t changed, restart;  /* options that have changed; those that wait for a restart */
    char text[256];             /* what was said to whoever asked */
};
extern struct reloaded reloaded;
/* Name, help and value of counter i; NULL past the last. */
const char *stats_row(int i, const char **help, uint64_t *value);

/* -------------------------------------------------------- how full tables are */

/* now: in use; high: the most that ever were at once; most: how many there may be. */
struct gauge { uint64_t now, high, most; };

#define GAUGES(X) \
    X(clients, "client connections") \
    X(upstreams, "connections to servers, those that ask how they are apart") \
    X(chunks, "chunks of the buffer pool") \
    X(requests, "request records of Redis mode") \
    X(leases, "connections of Redis mode lent to one client") \
    X(subscriptions, "subscriptions of Redis mode") \
    X(affinities, "MongoDB cursors, transactions and clients of which it is remembered where they live") \
    X(pool_links, "pooled connections to mongos") \
    X(pool_waiters, "requests that wait for a pooled connection") \
    X(backends, "servers known")

struct gauges {
#define X(name, help) struct gauge name;
    GAUGES(X)
#undef X
};
extern struct gauges gauges;
/* So many are in use. Called by the owner of the table whenever that changes. */
static inline void gauge_set(struct gauge *g, uint64_t now)
{
    g->now = now;
    if (now > g->high) {
        g->high = now;
    }
}
/* One more, one less. */
static inline void gauge_up(struct gauge *g)
{
    gauge_set(g, g->now + 1);
}
static inline void gauge_down(struct gauge *g)
{
    g->now--;
}
/* Name and help of gauge i; NULL past the last. One whose `most` is 0 is of a table that this process has not got. */
const char *gauge_row(int i, const char **help, const struct gauge **g);

/* ------------------------------------------------- how long servers take */

#define LATENCY_BUCKETS 18 /* bucket i: at most 64 << i microseconds (64 us to 4.2 s); the last: anything longer */

struct latency { uint64_t count[LATENCY_BUCKETS], sum_us; };

void stats_tables(const struct conf *conf);
/* One answer of the server with that index in the table took so long from its request's last byte sent to its own last byte; one of
 * Redis that is passed on in pieces (shared_reply_limit), and any of MongoDB, to its first, since after that its client has a say in
 * it. Blocking commands are left out, and what is not answered. */
void stats_latency(uint16_t backend, uint64_t us);
/* The histogram of that server: all 0 when it is new in the table. */
const struct latency *latency_of(uint16_t backend);
/* That entry of the table is another server's now. */
void latency_forget(uint16_t backend);
/* How many there were. */
uint64_t latency_answers(const struct latency *l);
/* Microseconds below which `percent` of the answers stayed: the upper edge of a bucket; 0: there were none. */
uint64_t latency_percentile(const struct latency *l, unsigned percent);

/* ---------------------------------------------------- commands and errors */

/* What requests do, by their command. */
enum stats_class { STATS_READ, STATS_WRITE, STATS_OTHER, STATS_CLASSES };
/* How many there were of MongoDB: mongo_trace.c. Those of Redis are counted by row, and added up by who asks. */
extern uint64_t stats_mongo[STATS_CLASSES];

/* What became of the requests of one row of the command table: rejected ones had the wrong number of arguments, failed
 * ones were answered with an error made here. */
struct command_stats { uint64_t calls, rejected, failed; };
/* Of a row, for counting and reporting; rows that are in no table share one. */
struct command_stats *stats_command(const struct command *c);
void stats_reset(void); /* of commands and kinds of errors (CONFIG RESETSTAT) */
/* Counts an error line that is sent, "-ERR what...", by its first word. */
void stats_error(const char *line, size_t n);
/* First word i and how often it was sent; NULL past the last. */
const char *stats_error_row(int i, uint64_t *count);

#endif
