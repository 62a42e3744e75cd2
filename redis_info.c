/*
 * redis_info.c - INFO: Puerta described in the form in which tools read a Redis server.
 *
 *   INFO names --info_sections()--> bits of sections[] --put_info()--> "# Name", field:value lines
 *
 * What concerns the data (memory, keys, hits, expiry) is the sum over all masters, which are asked for their INFO first:
 * summed[]. Clients, traffic and commands are Puerta's own. Where it has no such thing as a server has (files, replicas),
 * the line says what a server without it would say. What only Puerta has stands in its own section.
 */
#include "redis_say.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static struct {
    uint64_t started_ms;
    long long started; /* the same on the wall's clock, in seconds */
    char run_id[41];
} self;

void redis_info_open(void)
{
    char seed[64];
    self.started_ms = loop_ms();
    self.started = (long long)time(NULL);
    snprintf(seed, sizeof seed, "%lld %ld", self.started, (long)getpid());
    virtual_id("run", seed, self.run_id);
}

/* ------------------------------------------------- what the masters say */

static const char *const summed[] = {
    "used_memory", "used_memory_rss", "used_memory_peak", "maxmemory", "lazyfree_pending_objects", "lazyfreed_objects",
    "rdb_changes_since_last_save", "expired_keys", "evicted_keys", "keyspace_hits", "keyspace_misses",
    "migrate_cached_sockets", "mem_not_counted_for_evict", "tracking_total_keys", "tracking_total_items", "db0:keys", "expires",
};
#define SUMMED (sizeof summed / sizeof *summed)

static uint64_t sums[SUMMED]; /* of the INFO under way */

static unsigned long long of_all(const char *name)
{
    size_t i = 0;
    while (i < SUMMED - 1 && strcmp(summed[i], name) != 0) {
        i++;
    }
    return (unsigned long long)sums[i];
}

/* Adds what one node says: of "name:value" at the beginning of a line, and of "name=value" in the line of the keys. */
static void add_node(const char *text)
{
    for (size_t i = 0; i < SUMMED; i++) {
        size_t n = strlen(summed[i]);
        const char *at = text;
        while ((at = strstr(at, summed[i])) != NULL && at[n] != (at[-1] == '\n' && i < SUMMED - 2 ? ':' : '=')) {
            at += n;
        }
        sums[i] += at != NULL ? strtoull(at + n + 1, NULL, 10) : 0;
    }
}

/* "1.50M", as Redis writes sizes for people. */
static void say_human(const char *name, uint64_t n)
{
    static const char units[] = "BKMGT";
    double value = (double)n;
    int unit = 0;
    while (value >= 1024 && unit < 4) {
        value /= 1024;
        unit++;
    }
    say_format("%s:%.*f%c\r\n", name, unit == 0 ? 0 : 2, value, units[unit]);
}

static unsigned long long ull(uint64_t n)
{
    return (unsigned long long)n;
}

/* --------------------------------------------------------------- sections */

static void server(const struct client *c)
{
    struct timespec now;
    struct utsname system;
    uint64_t up = (loop_ms() - self.started_ms) / 1000;
    if (uname(&system) < 0) {
        memset(&system, 0, sizeof system);
    }
    clock_gettime(CLOCK_REALTIME, &now);
    say_format("redis_version:%s\r\nredis_git_sha1:00000000\r\nredis_git_dirty:0\r\nredis_build_id:0\r\n"
               "redis_mode:standalone\r\n", c->service->conf->redis_version);
    say_format("os:%.64s %.64s %.64s\r\narch_bits:%u\r\nmonotonic_clock:POSIX clock_gettime\r\n"
               "multiplexing_api:poll\r\n", system.sysname, system.release, system.machine,
               (unsigned)(8 * sizeof(void *)));
    say_format("process_id:%ld\r\nprocess_supervised:no\r\nrun_id:%s\r\ntcp_port:%u\r\nserver_time_usec:%llu\r\n",
               (long)getpid(), self.run_id, (unsigned)virtual_address(c).port,
               ull((uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000));
    say_format("uptime_in_seconds:%llu\r\nuptime_in_days:%llu\r\nexecutable:\r\nconfig_file:\r\n", ull(up),
               ull(up / 86400));
    say_format("puerta_version:%s\r\n", PUERTA_VERSION);
}

static void clients(const struct client *c)
{
    say_format("connected_clients:%lu\r\ncluster_connections:0\r\nmaxclients:%lu\r\nclient_recent_max_input_buffer:0\r\n"
               "client_recent_max_output_buffer:0\r\nblocked_clients:%u\r\ntracking_clients:%u\r\n"
               "clients_in_timeout_table:0\r\n", (unsigned long)conn_count(CONN_CLIENT),
               (unsigned long)conn_most(CONN_CLIENT), (unsigned)block_count(c->service), (unsigned)tracking_count(c->service, NULL));
}

static void memory(const struct client *c)
{
    (void)c;
    say_format("used_memory:%llu\r\n", of_all("used_memory"));
    say_human("used_memory_human", of_all("used_memory"));
    say_format("used_memory_rss:%llu\r\nused_memory_peak:%llu\r\n", of_all("used_memory_rss"),
               of_all("used_memory_peak"));
    say_human("used_memory_peak_human", of_all("used_memory_peak"));
    say_format("maxmemory:%llu\r\n", of_all("maxmemory"));
    say_human("maxmemory_human", of_all("maxmemory"));
    say_format("mem_not_counted_for_evict:%llu\r\n", of_all("mem_not_counted_for_evict"));
    say_format("lazyfree_pending_objects:%llu\r\nlazyfreed_objects:%llu\r\n", of_all("lazyfree_pending_objects"),
               of_all("lazyfreed_objects"));
}

static void persistence(const struct client *c)
{
    (void)c;
    say_format("loading:0\r\nasync_loading:0\r\nrdb_changes_since_last_save:%llu\r\n",
               of_all("rdb_changes_since_last_save"));
    say_format("rdb_bgsave_in_progress:0\r\nrdb_last_save_time:%lld\r\nrdb_last_bgsave_status:ok\r\naof_enabled:0\r\naof_rewrite_in_progress:0\r\n"
               "aof_last_bgrewrite_status:ok\r\naof_last_write_status:ok\r\n", self.started);
}

/* Since the last CONFIG RESETSTAT, as the rows of errorstats. */
static uint64_t error_replies(void)
{
    uint64_t sum = 0, count;
    for (int i = 0; stats_error_row(i, &count) != NULL; i++) {
        sum += count;
    }
    return sum;
}

static void figures(const struct client *c)
{
    uint32_t prefixes;
    say_format("total_connections_received:%llu\r\ntotal_commands_processed:%llu\r\n", ull(stats.clients_accepted),
               ull(stats.requests));
    say_format("total_net_input_bytes:%llu\r\ntotal_net_output_bytes:%llu\r\nrejected_connections:%llu\r\n",
               ull(stats.bytes_in), ull(stats.bytes_out), ull(stats.clients_refused));
    say_format("expired_keys:%llu\r\nevicted_keys:%llu\r\nkeyspace_hits:%llu\r\nkeyspace_misses:%llu\r\n",
               of_all("expired_keys"), of_all("evicted_keys"), of_all("keyspace_hits"), of_all("keyspace_misses"));
    say_format("migrate_cached_sockets:%llu\r\nsync_full:0\r\npubsub_channels:%lu\r\npubsub_patterns:%lu\r\n"
               "total_error_replies:%llu\r\n", of_all("migrate_cached_sockets"),
               (unsigned long)pubsub_channels(c->service, CHANNEL_PLAIN),
               (unsigned long)pubsub_channels(c->service, CHANNEL_PATTERN), ull(error_replies()));
    (void)tracking_count(c->service, &prefixes);
    say_format("tracking_total_keys:%llu\r\ntracking_total_items:%llu\r\ntracking_total_prefixes:%u\r\n",
               of_all("tracking_total_keys"), of_all("tracking_total_items"), (unsigned)prefixes);
}

static void replication(const struct client *c)
{
    char id[41];
    say_format("role:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\nmaster_replid:%s\r\n"
               "master_replid2:%040d\r\nmaster_repl_offset:0\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:0\r\n",
               virtual_id("replication", c->service->conf->name, id), 0);
}

static void cpu(const struct client *c)
{
    struct tms t;
    double tick = (double)sysconf(_SC_CLK_TCK);
    (void)c;
    if (times(&t) == (clock_t)-1 || tick <= 0) {
        return;
    }
    say_format("used_cpu_sys:%.6f\r\nused_cpu_user:%.6f\r\n", (double)t.tms_stime / tick, (double)t.tms_utime / tick);
    say_format("used_cpu_sys_children:%.6f\r\nused_cpu_user_children:%.6f\r\n", (double)t.tms_cstime / tick,
               (double)t.tms_cutime / tick);
}

static void modules(const struct client *c)
{
    (void)c;
}

/* How long a command takes only its node knows. */
static void command_figures(const struct client *c)
{
    (void)c;
    for (uint32_t i = 0; i < command_count() && !say_overlong(); i++) {
        const struct command_stats *s = stats_command(command_at(i));
        if (s->calls > 0) {
            say_format("cmdstat_%s:calls=%llu,usec=0,usec_per_call=0.00,rejected_calls=%llu,failed_calls=%llu\r\n",
                       command_at(i)->name, ull(s->calls - s->rejected), ull(s->rejected), ull(s->failed));
        }
    }
}

static void error_figures(const struct client *c)
{
    uint64_t count;
    const char *word;
    (void)c;
    for (int i = 0; (word = stats_error_row(i, &count)) != NULL; i++) {
        say_format("errorstat_%s:count=%llu\r\n", word, ull(count));
    }
}

static void cluster(const struct client *c)
{
    (void)c;
    say_text("cluster_enabled:0\r\n");
}

/* Puerta's own: its counters, and how it sees its nodes. */
static void puerta(const struct client *c)
{
    uint64_t value;
    const char *name, *help;
    for (int i = 0; (name = stats_row(i, &help, &value)) != NULL; i++) {
        say_format("%s:%llu\r\n", name, ull(value));
    }
    say_format("memory:%zu\r\nbuffer_bytes:%zu\r\nfree_chunks:%zu\r\n", arena_bytes(), buf_total(), buf_free_chunks());
    say_format("slots_served:%u\r\nmap_epoch:%u\r\n", c->service->map.served, c->service->map.epoch);
    for (uint16_t i = 0; i < backend_cap() && !say_overlong(); i++) {
        const struct backend *b = backend_at(i);
        if (b != NULL && b->service == c->service) {
            say_format("node%u:address=%s:%u,state=%s,slots=%u,queued=%u,hold=%s\r\n", (unsigned)i, b->host,
                       (unsigned)b->port, backend_state_name(b->state), b->slots,
                       b->shared[0]->queued + (b->shared[1] != NULL ? b->shared[1]->queued : 0),
                       backend_hold_name(b->hold));
        }
    }
}

static void keyspace(const struct client *c)
{
    (void)c;
    if (of_all("db0:keys") > 0) {
        say_format("db0:keys=%llu,expires=%llu,avg_ttl=0\r\n", of_all("db0:keys"), of_all("expires"));
    }
}

/* ------------------------------------------------------------- the whole */

enum { DEFAULT = 1, ALL = 2, EVERYTHING = 4 }; /* the words that stand for several sections */

static const struct section {
    const char *word, *title;
    int among;
    void (*put)(const struct client *c);
} sections[] = {
    { "server", "Server", DEFAULT | ALL | EVERYTHING, server },
    { "clients", "Clients", DEFAULT | ALL | EVERYTHING, clients },
    { "memory", "Memory", DEFAULT | ALL | EVERYTHING, memory },
    { "persistence", "Persistence", DEFAULT | ALL | EVERYTHING, persistence },
    { "stats", "Stats", DEFAULT | ALL | EVERYTHING, figures },
    { "replication", "Replication", DEFAULT | ALL | EVERYTHING, replication },
    { "cpu", "CPU", DEFAULT | ALL | EVERYTHING, cpu },
    { "modules", "Modules", DEFAULT | EVERYTHING, modules },
    { "commandstats", "Commandstats", ALL | EVERYTHING, command_figures },
    { "errorstats", "Errorstats", DEFAULT | ALL | EVERYTHING, error_figures },
    { "cluster", "Cluster", DEFAULT | ALL | EVERYTHING, cluster },
    { "puerta", "Puerta", DEFAULT | ALL | EVERYTHING, puerta },
    { "keyspace", "Keyspace", DEFAULT | ALL | EVERYTHING, keyspace },
};

#define SECTIONS (sizeof sections / sizeof *sections)

static uint32_t named(struct word w)
{
    int among = word_is(w, "default") ? DEFAULT : word_is(w, "all") ? ALL : word_is(w, "everything") ? EVERYTHING : 0;
    uint32_t bits = 0;
    for (size_t i = 0; i < SECTIONS; i++) {
        if ((sections[i].among & among) != 0 || word_is(w, sections[i].word)) {
            bits |= 1u << i;
        }
    }
    return bits;
}

static uint32_t info_sections(const struct request *q)
{
    static const struct word standard = { "default", 7 };
    struct words w = words_from(q, 1);
    struct word word;
    uint32_t bits = q->argc == 1 ? named(standard) : 0;
    while (words_next(&w, &word)) {
        bits |= named(word);
    }
    return bits;
}

static void put_info(const struct client *c, uint32_t wanted)
{
    const char *blank = "";
    for (size_t i = 0; i < SECTIONS; i++) {
        if ((wanted & 1u << i) != 0) {
            say_format("%s# %s\r\n", blank, sections[i].title);
            sections[i].put(c);
            blank = "\r\n";
        }
    }
}

void info_answer(struct client *c, const struct request *q)
{
    say_as_text();
    memset(sums, 0, sizeof sums); /* without a map there is nobody to ask */
    put_info(c, info_sections(q));
}

/* ------------------------------------------------------------ of all masters */

static bool tell_of_all(struct req *whole, const struct fan *f)
{
    static char text[16384];
    size_t n;
    memset(sums, 0, sizeof sums);
    for (uint32_t i = 0; (n = fan_part(f, i, text, sizeof text - 1)) > 0; i++) {
        text[n] = '\0';
        add_node(text);
    }
    say_begin(whole->client);
    say_as_text();
    if (whole->client != NULL) {
        put_info(whole->client, whole->mark);
    }
    return say_give(whole);
}

/* The sections that tell of the data. */
static uint32_t of_all_bits(void)
{
    uint32_t bits = 0;
    for (size_t i = 0; i < SECTIONS; i++) {
        bool data = sections[i].put == memory || sections[i].put == persistence || sections[i].put == figures ||
                    sections[i].put == keyspace;
        bits |= data ? 1u << i : 0;
    }
    return bits;
}

bool info_is_of_all(const struct client *c, const struct request *q)
{
    return c->service->map.served > 0 && (info_sections(q) & of_all_bits()) != 0;
}

enum verdict info_of_all(struct client *c, const struct request *q)
{
    static const char text[] = "*1\r\n$4\r\nINFO\r\n";
    struct request ask = { .p = (const unsigned char *)text, .len = sizeof text - 1, .argc = 1, .copied = true };
    ask.command = q->command;
    return fan_ask(c, &ask, q->command, info_sections(q), tell_of_all);
}
