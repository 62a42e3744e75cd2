/*
 * puerta.c - the program: arguments, start in a fixed order, the loop, and the end.
 *
 *   conf_read -> measure -> listen -> open logs, pid file -> drop rights -> fork (parent | worker)
 *   worker: obtain -> open the rooms -> guard -> seal -> ready -> loop
 *
 *   one turn:  loop_turn      what is ready is read, what is due fires
 *              put_off        what was put off goes on
 *              conn_flush     one send for each connection that has something to say
 *              conn_reap      what was closed becomes free
 */
#include "puerta.h"
#include "admin.h"
#include "ctl.h"
#include "handover.h"
#include "mongo.h"
#include "parent.h"
#include "redis.h"
#include "status.h"
#include "trace.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <termios.h>
#include <unistd.h>

#define PASSWORD_CAP 1024 /* bytes of a line that puerta hash-password reads */
#define TWICE_MS 1000 /* a second request to stop counts from then on: it means at once */

static struct conf conf;
static int listeners[MAX_SERVICES][MAX_LISTENS], admin_listeners[MAX_LISTENS];

static void usage(FILE *to)
{
    fputs("usage: puerta -c FILE                             run\n"
          "       puerta -t -c FILE                          check the file, show options and memory\n"
          "       puerta redis NODE[,NODE...] [key=value ...]       run without a file\n"
          "       puerta mongo MONGOS[,MONGOS...] [key=value ...]\n"
          "       puerta -t redis|mongo ...                  check the same\n"
#ifndef PUERTA_NO_MONGO
          "       puerta hash-password [ROUNDS]              read a password, print what stands in user = NAME KEYS\n"
#endif
          , to);
#ifndef PUERTA_NO_ADMIN
    fputs(ctl_usage, to);
#endif
    fputs("       puerta -h [options|puerta|redis|mongo|OPTION]      this; or all options, those of a section, or one\n"
          "       puerta -V                                  the version\n", to);
}

/* What a mode does for the program. A build may be without one of them. */
static const struct mode {
    enum service_kind kind;
    const char *word;           /* puerta WORD SERVERS */
    void (*tables)(const struct conf *conf);
    void (*open)(const struct conf *conf, int (*listeners)[MAX_LISTENS]);
    void (*turn)(void);         /* what was put off goes on; NULL: nothing ever is */
    bool (*pending)(void);
    void (*stop)(void);         /* takes nothing new */
    bool (*idle)(void);         /* nothing is under way */
    size_t (*in_flight)(void);
} modes[] = {
#ifndef PUERTA_NO_REDIS
    { SERVICE_REDIS, "redis", redis_tables, redis_open, redis_turn, redis_pending, redis_stop, redis_idle, redis_req_in_flight },
#endif
#ifndef PUERTA_NO_MONGO
    { SERVICE_MONGO, "mongo", mongo_tables, mongo_open, NULL, NULL, mongo_stop, mongo_idle, mongo_in_flight },
#endif
};
#define MODES (sizeof modes / sizeof *modes)

static bool is_used(const struct mode *m)
{
    return conf_services(&conf, m->kind) > 0;
}

/* Every room takes its tables here: once to measure, once for real. */
static void take_tables(void)
{
    loop_tables(&conf);
    buf_tables(&conf);
    conn_tables(&conf);
    stats_tables(&conf);
    trace_tables(&conf);
    gate_tables(&conf);
    health_tables(&conf);
#ifndef PUERTA_NO_ADMIN
    admin_tables(&conf);
#endif
    for (size_t i = 0; i < MODES; i++) {
        if (is_used(&modes[i])) {
            modes[i].tables(&conf);
        }
    }
}

/* One that is there already, from the program before this one, or a new one; -1: it cannot be had. */
static int listen_on(const struct address *a, const struct net_sizes *sizes)
{
    int fd = upgrade_listener(a);
    if (fd < 0) {
        fd = net_listen(a, (int)conf.backlog, sizes);
    } else if (listen(fd, (int)conf.backlog) < 0) {
        return -1;
    }
    if (fd < 0) {
        char text[ADDRESS_TEXT];
        fprintf(stderr, "puerta: cannot listen on %s: ", address_text(a, text));
        perror("");
    } else {
        upgrade_listens(fd);
    }
    return fd;
}

static bool open_listeners(void)
{
    for (int i = 0; i < conf.service_count; i++) {
        const struct conf_service *r = &conf.services[i];
        struct net_sizes sizes = { r->receive_buffer, r->send_buffer };
        bool has_mode = r->socket_mode[0] != '\0'; /* set by the umask: so it holds from the moment when the file is there */
        mode_t before = has_mode ? umask((mode_t)~strtoul(r->socket_mode, NULL, 8) & 0777) : 0;
        for (int k = 0; k < r->listens; k++) {
            listeners[i][k] = listen_on(&r->listen[k], &sizes);
            if (listeners[i][k] < 0) {
                return false;
            }
        }
        if (has_mode) {
            umask(before);
        }
    }
    for (int i = 0; i < conf.admins; i++) {
        admin_listeners[i] = listen_on(&conf.admin[i], NULL);
        if (admin_listeners[i] < 0) {
            return false;
        }
    }
    upgrade_close_rest();
    return true;
}

/* Each client, node and lease needs a descriptor: when the system gives fewer, clients are what is cut, so that
 * there is always one left for a node. A client of MongoDB needs one more, to its mongos. */
static void fit_descriptors(void)
{
    size_t each = conf_services(&conf, SERVICE_MONGO) > 0 ? 2 : 1;
    size_t want = conf_descriptors(&conf), own = want - each * conf.max_clients, have = os_descriptors(want);
    if (have < want) {
        size_t clients = have > own + each ? (have - own) / each : 1;
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
    sigaction(SIGUSR2, &act, NULL);
    sigaction(SIGHUP, &act, NULL);
    act.sa_handler = SIG_IGN;
    sigaction(SIGUSR1, &act, NULL);
}

/* Whether clients would be answered now: of some section; or `all`: of each, and no server that has not been tried yet may turn out to be
 * up too, or clients would be taken from where they are. */
static bool is_ready(bool all)
{
    bool each = true, some = false;
    for (int i = 0; i < conf.service_count; i++) {
        struct status_section s;
        bool one = status_section(i, &s) && s.ready;
        each = each && one && s.untried == 0;
        some = some || one;
    }
    return all ? each : some;
}

static const struct hand_mode hand_modes[] = {
#ifndef PUERTA_NO_REDIS
    { .kind = SERVICE_REDIS, .rooms = { &redis_hand_room }, .adopt = redis_adopt },
#endif
#ifndef PUERTA_NO_MONGO
    { .kind = SERVICE_MONGO, .rooms = { &relay_hand_room, &pooled_hand_room }, .adopt = mongo_adopt, .seeds = mongo_seeds, .tell = mongo_tell,
      .take_note = mongo_note, .notes = route_notes },
#endif
};

static void open_rooms(int parent)
{
    loop_open();
    buf_open();
    conn_open_table();
    gate_open();
    fit_descriptors();
    trace_open(&conf);
    parent_attach(parent);
    for (size_t i = 0; i < MODES; i++) {
        if (is_used(&modes[i])) {
            modes[i].open(&conf, listeners);
        }
    }
    status_open();
#ifndef PUERTA_NO_ADMIN
    admin_open(&conf, admin_listeners);
#endif
    handover_open(&conf, hand_modes, sizeof hand_modes / sizeof *hand_modes, is_ready);
}

static bool pending(void)
{
    bool some = conn_pending();
    for (size_t i = 0; i < MODES; i++) {
        some = some || (modes[i].pending != NULL && is_used(&modes[i]) && modes[i].pending());
    }
    return some;
}

static void put_off(void)
{
    for (size_t i = 0; i < MODES; i++) {
        if (modes[i].turn != NULL && is_used(&modes[i])) {
            modes[i].turn();
        }
    }
}

static void stop(void)
{
    size_t in_flight = 0;
    for (size_t i = 0; i < MODES; i++) {
        in_flight += is_used(&modes[i]) ? modes[i].in_flight() : 0;
    }
    status_stopping = true;
    manager_say(MANAGER_STOPPING);
    log_info("stopping", "clients=%lu in_flight=%lu", (unsigned long)conn_count(CONN_CLIENT), (unsigned long)in_flight);
    for (size_t i = 0; i < MODES; i++) {
        if (is_used(&modes[i])) {
            modes[i].stop();
        }
    }
}

static bool idle(void)
{
    bool all = true;
    for (size_t i = 0; i < MODES; i++) {
        all = all && (!is_used(&modes[i]) || modes[i].idle());
    }
    return all;
}

static void run(void)
{
    uint64_t stop_by = 0, asked_ms = 0;
    for (;;) {
        uint32_t signals;
        loop_turn(pending());
        put_off();
        conn_flush();
        conn_reap();
        signals = loop_signals();
        if ((signals & 1u << SIGUSR2) != 0) {
            parent_upgrade(false);
        }
        if (handover_is_over(conf.stop_timeout_ms) && stop_by == 0) {
            stop_by = handover_until_ms();
            stop();
        }
        if (handover_is_told() && idle() && !gate_awaits()) {
            return;
        }
        if ((signals & (1u << SIGTERM | 1u << SIGINT)) != 0) {
            if (stop_by != 0) {
                if (loop_ms() - asked_ms < TWICE_MS) {
                    continue; /* the terminal's or the service manager's, and our parent's: they are one */
                }
                return; /* asked twice */
            }
            asked_ms = loop_ms();
            stop_by = loop_ms() + conf.stop_timeout_ms;
            stop();
        }
        if ((signals & 1u << SIGHUP) != 0 && stop_by == 0) {
            reload_now();
        }
        if (stop_by != 0 && (idle() || loop_ms() >= stop_by)) {
            return;
        }
    }
}

/* All that may need root is done here, by the process first started; what it forks is no more than the user of the configuration. */
static void drop_rights(void)
{
    bool upgraded = upgrade_left()->generation > 0;
    log_open(conf.syslog);
    manager_open(&conf, upgraded);
    (void)os_descriptors(conf_descriptors(&conf));
    if (conf.prefault) {
        os_lockable(arena_bytes());
    }
    guard_drop(&conf, upgraded);
    if (conf.supervise) {
        guard_parent(&conf);
    }
}

static void on_watchdog(struct timer *t)
{
    parent_tell(MANAGER_ALIVE);
    loop_timer(t, loop_ms() + manager_watchdog_ms());
}

/* Clients are served from here on. */
static void tell_ready(void)
{
    static struct timer watchdog = { .on_due = on_watchdog };
    log_info("serving", "version=%s memory=%lu", PUERTA_VERSION, (unsigned long)arena_bytes());
    parent_tell(MANAGER_READY);
    if (manager_watchdog_ms() > 0) {
        on_watchdog(&watchdog);
    }
}

static int work(const char *file)
{
    int fd = -1, exit_code = 0;
    arena_measure();
    take_tables();
    if (!open_listeners()) {
        return parent_keep(EX_OSERR);
    }
    upgrade_drain_limit(conf.drain_timeout_ms);
    reload_open(&conf, file);
    drop_rights();
    if (!parent_fork(conf.supervise != 0, &fd, &exit_code)) {
        manager_close();
        return exit_code;
    }
    arena_measure(); /* a reload may have changed what the next worker needs */
    take_tables();
    if (!arena_obtain(conf.prefault != 0)) {
        fatal(EX_OSERR, "the system does not give %lu bytes of memory", (unsigned long)arena_bytes());
    }
    take_tables();
    catch_signals();
    open_rooms(fd);
    guard_worker(&conf);
    arena_seal();
    tell_ready();
    run();
    log_info("stopped", "clients=%lu", (unsigned long)conn_count(CONN_CLIENT));
    manager_close();
    return EX_OK;
}

/* -t: what is in force. Whom it would become may be known on another machine alone: that is a warning. Asked by a program that is to be
 * replaced: only whether this one could listen everywhere. */
static int report(void)
{
    const char *doubt = guard_doubt(&conf);
    arena_measure();
    take_tables();
    if (upgrade_tries()) {
        return open_listeners() ? UPGRADE_ABLE : EX_OSERR;
    }
    if (doubt != NULL) {
        fprintf(stderr, "puerta: warning: user = %s%s%s: %s on this machine\n", conf.user, conf.group[0] != '\0' ? ", group = " : "", conf.group, doubt);
    }
    conf_report(&conf);
    return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
}

/* The mode that is called so; NULL: this build has none. */
static const struct mode *mode_of(const char *word)
{
    for (size_t i = 0; i < MODES; i++) {
        if (strcmp(modes[i].word, word) == 0) {
            return &modes[i];
        }
    }
    return NULL;
}

/* Whether this build can do what the file asks for. */
static bool can_serve(const char *file)
{
    for (int i = 0; i < conf.service_count; i++) {
        const char *word = conf.services[i].kind == SERVICE_MONGO ? "mongo" : "redis";
        if (mode_of(word) == NULL) {
            fprintf(stderr, "%s: [%s %s]: this puerta was built without that mode\n", file, word, conf.services[i].name);
            return false;
        }
    }
#ifdef PUERTA_NO_ADMIN
    if (conf.admins > 0) {
        fprintf(stderr, "%s: admin: this puerta was built without it\n", file);
        return false;
    }
#endif
    return true;
}

#ifndef PUERTA_NO_MONGO
/* Reads a line from stdin, unseen when somebody types it; signals wait meanwhile, or the terminal would stay without echo.
 * False: there is none, or it is too long. */
static bool read_unseen(char line[PASSWORD_CAP])
{
    struct termios seen, unseen;
    bool terminal = tcgetattr(STDIN_FILENO, &seen) == 0, ok;
    sigset_t all, before;
    char *end;
    if (terminal) {
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, &before);
        fputs("password: ", stderr);
        unseen = seen;
        unseen.c_lflag &= ~(tcflag_t)ECHO;
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &unseen);
    }
    ok = fgets(line, PASSWORD_CAP, stdin) != NULL;
    if (terminal) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &seen);
        fputc('\n', stderr);
        sigprocmask(SIG_SETMASK, &before, NULL);
    }
    end = ok ? strchr(line, '\n') : NULL;
    if (end != NULL) {
        *end = '\0';
    }
    return ok && (end != NULL || feof(stdin));
}

/* What is wrong with a password, or NULL. Drivers refuse control characters. Some letters beyond ASCII they write in another way
 * before they hash them (SASLprep); most they leave, so that is a warning only. */
static const char *password_wrong(char *line)
{
    size_t n = strlen(line);
    if (n > 0 && line[n - 1] == '\r') { /* of a line that ends as they do on Windows */
        line[n - 1] = '\0';
    }
    for (const char *p = line; *p != '\0'; p++) {
        if ((unsigned char)*p < ' ' || *p == 127) {
            return "a control character, which no driver takes";
        }
    }
    for (const char *p = line; *p != '\0'; p++) {
        if ((unsigned char)*p > 127) {
            fputs("puerta hash-password: this password is not ASCII: if it has letters that can be written in several ways, drivers may "
                  "hash another one\n", stderr);
            break;
        }
    }
    return line[0] == '\0' ? "no password" : NULL;
}

/* puerta hash-password [ROUNDS] */
static int hash_password(int argc, char **argv)
{
    char line[PASSWORD_CAP], text[SCRAM_KEYS_TEXT], *end = "";
    unsigned char salt[16];
    struct scram_keys keys;
    unsigned long rounds = argc > 0 ? strtoul(argv[0], &end, 10) : SCRAM_ROUNDS;
    if (argc > 1 || *end != '\0' || rounds < SCRAM_ROUNDS_MIN || rounds > SCRAM_ROUNDS_MAX) {
        fprintf(stderr, "puerta hash-password: '%s': not a number of rounds; %d to %d are\n", argc > 0 ? argv[argc - 1] : "",
                SCRAM_ROUNDS_MIN, SCRAM_ROUNDS_MAX);
        return EX_USAGE;
    }
    const char *wrong = !read_unseen(line) ? "no password" : password_wrong(line);
    if (wrong != NULL) {
        fprintf(stderr, "puerta hash-password: %s; it is read from stdin, one line of up to %d bytes\n", wrong, PASSWORD_CAP - 2);
        return EX_DATAERR;
    }
    os_random(salt, sizeof salt);
    scram_keys_make(&keys, line, strlen(line), salt, sizeof salt, (uint32_t)rounds);
    must(scram_keys_text(&keys, text, sizeof text) > 0);
    puts(text);
    return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
}
#endif

int main(int argc, char **argv)
{
    const struct mode *mode = NULL;
    const char *file = NULL;
    bool test = false;
    int opt;
    upgrade_start(argc, argv);
    fatal_keep = parent_keep;
    while ((opt = getopt(argc, argv, "c:thV")) != -1) {
        switch (opt) {
        case 'c':
            file = optarg;
            break;
        case 't':
            test = true;
            break;
        case 'h':
            if (optind < argc) {
                return conf_help(argv[optind]) ? EX_OK : EX_USAGE;
            }
            usage(stdout);
            return EX_OK;
        case 'V':
            printf("puerta %s\n", PUERTA_VERSION);
            return EX_OK;
        default:
            usage(stderr);
            return EX_USAGE;
        }
    }
#ifndef PUERTA_NO_MONGO
    if (file == NULL && !test && optind < argc && strcmp(argv[optind], "hash-password") == 0) {
        return hash_password(argc - optind - 1, argv + optind + 1);
    }
#endif
#ifndef PUERTA_NO_ADMIN
    if (!test && optind < argc && ctl_knows(argv[optind])) {
        return ctl_main(&conf, file, argc - optind, argv + optind);
    }
#endif
    if (file != NULL && optind == argc) {
        if (!conf_read(&conf, file) || !can_serve(file)) {
            return parent_keep(EX_CONFIG);
        }
    } else if (file == NULL && optind + 1 < argc && (mode = mode_of(argv[optind])) != NULL) {
        if (!conf_quick(&conf, mode->kind, argc - optind - 1, argv + optind + 1) || !can_serve("puerta")) {
            return parent_keep(EX_CONFIG);
        }
    } else {
        usage(stderr);
        return EX_USAGE;
    }
    log_threshold = (enum log_level)conf.log_level;
    return test ? report() : work(file);
}
