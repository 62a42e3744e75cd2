/*
 * puerta.c - the program: arguments, start in a fixed order, the loop, and the end.
 *
 *   conf_read -> measure -> listen -> fork (parent | worker) -> obtain -> open the rooms -> seal -> loop
 *
 *   one turn:  loop_turn      what is ready is read, what is due fires
 *              redis_turn     what was put off goes on
 *              conn_flush     one send for each connection that has something to say
 *              conn_reap      what was closed becomes free
 */
#include "puerta.h"
#include "mongo.h"
#include "redis.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#define TWICE_MS 1000 /* a second request to stop counts from then on: it means at once */

static struct conf conf;
static int listeners[MAX_SERVICES][MAX_LISTENS];

static void usage(FILE *to)
{
    fputs("usage: puerta -c FILE                             run\n"
          "       puerta -t -c FILE                          check the file, show options and memory\n"
          "       puerta redis NODE[,NODE...] [key=value ...]       run without a file\n"
          "       puerta mongo MONGOS[,MONGOS...] [key=value ...]\n"
          "       puerta -t redis|mongo ...                  check the same\n"
          "       puerta -h | -V\n", to);
}

static bool has(enum service_kind kind)
{
    return conf_services(&conf, kind) > 0;
}

/* Every room takes its tables here: once to measure, once for real. */
static void take_tables(void)
{
    loop_tables(&conf);
    buf_tables(&conf);
    conn_tables(&conf);
    health_tables(&conf);
    if (has(SERVICE_REDIS)) {
        redis_tables(&conf);
    }
    if (has(SERVICE_MONGO)) {
        mongo_tables(&conf);
    }
}

static void open_listeners(void)
{
    for (int i = 0; i < conf.service_count; i++) {
        const struct conf_service *r = &conf.services[i];
        struct net_sizes sizes = { r->receive_buffer, r->send_buffer };
        for (int k = 0; k < r->listens; k++) {
            char text[ADDRESS_TEXT];
            listeners[i][k] = net_listen(&r->listen[k], (int)conf.backlog, &sizes);
            if (listeners[i][k] < 0) {
                fprintf(stderr, "puerta: cannot listen on %s: ", address_text(&r->listen[k], text));
                perror("");
                exit(EX_OSERR);
            }
        }
    }
}

/* Each client, node and lease needs a descriptor: when the system gives fewer, clients are what is cut, so that
 * there is always one left for a node. */
static void fit_descriptors(void)
{
    size_t want = conf_descriptors(&conf), own = want - conf.max_clients, have = os_descriptors(want);
    if (have < want) {
        size_t clients = have > own + 1 ? have - own : 1;
        log_warn("fewer descriptors than max_clients needs", "have=%lu want=%lu clients=%lu", (unsigned long)have,
                 (unsigned long)want, (unsigned long)clients);
        conn_limit(CONN_CLIENT, clients);
    }
}

static void catch_signals(void)
{
    struct sigaction act;
    memset(&act, 0, sizeof act);
    sigemptyset(&act.sa_mask);
    act.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &act, NULL);
    act.sa_handler = loop_wake;
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    act.sa_handler = SIG_IGN;
    sigaction(SIGHUP, &act, NULL);
    sigaction(SIGUSR1, &act, NULL);
    sigaction(SIGUSR2, &act, NULL);
}

static void open_rooms(int parent)
{
    loop_open();
    buf_open();
    conn_open_table();
    fit_descriptors();
    parent_attach(parent);
    if (has(SERVICE_REDIS)) {
        redis_open(&conf, listeners);
    }
    if (has(SERVICE_MONGO)) {
        mongo_open(&conf, listeners);
    }
}

static void run(void)
{
    uint64_t stop_by = 0, asked_ms = 0;
    for (;;) {
        uint32_t signals;
        loop_turn(redis_pending() || conn_pending());
        redis_turn();
        conn_flush();
        conn_reap();
        signals = loop_signals();
        if ((signals & (1u << SIGTERM | 1u << SIGINT)) != 0) {
            if (stop_by != 0) {
                if (loop_ms() - asked_ms < TWICE_MS) {
                    continue; /* the terminal's or the service manager's, and our parent's: they are one */
                }
                return; /* asked twice */
            }
            asked_ms = loop_ms();
            log_info("stopping", "clients=%lu in_flight=%lu", (unsigned long)conn_count(CONN_CLIENT),
                     (unsigned long)redis_req_in_flight());
            stop_by = loop_ms() + conf.stop_timeout_ms;
            redis_stop();
            mongo_stop();
        }
        if (stop_by != 0 && ((redis_idle() && mongo_idle()) || loop_ms() >= stop_by)) {
            return;
        }
    }
}

static int work(void)
{
    int fd = -1, exit_code = 0;
    arena_measure();
    take_tables();
    open_listeners();
    if (!parent_fork(conf.supervise != 0, &fd, &exit_code)) {
        return exit_code;
    }
    if (!arena_obtain(conf.prefault != 0)) {
        fatal(EX_OSERR, "the system does not give %lu bytes of memory", (unsigned long)arena_bytes());
    }
    take_tables();
    catch_signals();
    open_rooms(fd);
    os_harden();
    log_info("serving", "version=%s memory=%lu", PUERTA_VERSION, (unsigned long)arena_bytes());
    arena_seal();
    run();
    log_info("stopped", "clients=%lu", (unsigned long)conn_count(CONN_CLIENT));
    return EX_OK;
}

static int report(void)
{
    arena_measure();
    take_tables();
    conf_report(&conf);
    return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
}

static bool kind_of(const char *word, enum service_kind *kind)
{
    *kind = strcmp(word, "mongo") == 0 ? SERVICE_MONGO : SERVICE_REDIS;
    return *kind == SERVICE_MONGO || strcmp(word, "redis") == 0;
}

int main(int argc, char **argv)
{
    enum service_kind kind;
    const char *file = NULL;
    bool test = false;
    int opt;
    while ((opt = getopt(argc, argv, "c:thV")) != -1) {
        switch (opt) {
        case 'c':
            file = optarg;
            break;
        case 't':
            test = true;
            break;
        case 'h':
            usage(stdout);
            conf_help();
            return EX_OK;
        case 'V':
            printf("puerta %s\n", PUERTA_VERSION);
            return EX_OK;
        default:
            usage(stderr);
            return EX_USAGE;
        }
    }
    if (file != NULL && optind == argc) {
        if (!conf_read(&conf, file)) {
            return EX_CONFIG;
        }
    } else if (file == NULL && optind + 1 < argc && kind_of(argv[optind], &kind)) {
        if (!conf_quick(&conf, kind, argc - optind - 1, argv + optind + 1)) {
            return EX_CONFIG;
        }
    } else {
        usage(stderr);
        return EX_USAGE;
    }
    log_threshold = (enum log_level)conf.log_level;
    return test ? report() : work();
}
