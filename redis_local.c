/*
 * redis_local.c - what Puerta answers itself, without asking a node.
 *
 *   request -> row of `answers` -> reply, put in its place in the client's order of answers
 *
 * One static buffer serves every answer: it is copied out before the next command is looked at.
 */
#include "redis.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct {
    unsigned char at[65536];
    size_t len;
} out;

static void put(const void *p, size_t n)
{
    if (n <= sizeof out.at - out.len) {
        memcpy(out.at + out.len, p, n);
        out.len += n;
    }
}

static void put_text(const char *text)
{
    put(text, strlen(text));
}

static void put_header(char type, int64_t n)
{
    unsigned char header[24];
    put(header, resp_put_header(header, type, n));
}

static void put_bulk(const void *p, size_t n)
{
    put_header('$', (int64_t)n);
    put(p, n);
    put_text("\r\n");
}

static void put_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void put_format(const char *fmt, ...)
{
    int n;
    va_list args;
    va_start(args, fmt);
    n = vsnprintf((char *)out.at + out.len, sizeof out.at - out.len, fmt, args);
    va_end(args);
    if (n > 0 && (size_t)n < sizeof out.at - out.len) {
        out.len += (size_t)n;
    }
}

static enum verdict send_out(struct client *c)
{
    if (client_answer(c, out.at, out.len)) {
        return VERDICT_DONE;
    }
    client_starve(c);
    return VERDICT_WAIT;
}

/* Argument i of the request; an empty one where there is none. */
static const char *argument(const struct request *q, uint32_t i, size_t *n)
{
    *n = i < q->argc && i < RESP_ARGS_KEPT ? q->arg[i].len : 0;
    return *n > 0 ? (const char *)q->p + q->arg[i].off : "";
}

static bool same_word(const char *p, size_t n, const char *word)
{
    if (strlen(word) != n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        char a = p[i] >= 'A' && p[i] <= 'Z' ? (char)(p[i] + 32) : p[i];
        if (a != word[i]) {
            return false;
        }
    }
    return true;
}

static void put_wrong_count(const struct request *q)
{
    put_format("-ERR wrong number of arguments for '%s' command\r\n", q->command->name);
}

/* An argument given back as it came, whatever its length. */
static enum verdict give_back(struct client *c, const char *text, size_t n)
{
    unsigned char header[24];
    struct iovec parts[] = {
        { header, resp_put_header(header, '$', (int64_t)n) },
        { (void *)(uintptr_t)text, n },
        { (void *)(uintptr_t)"\r\n", 2 },
    };
    if (client_answer_parts(c, parts, 3)) {
        return VERDICT_DONE;
    }
    client_starve(c);
    return VERDICT_WAIT;
}

/* ---------------------------------------------------------- the answers */

static enum verdict ping(struct client *c, const struct request *q)
{
    size_t n;
    const char *text = argument(q, 1, &n);
    if (q->argc > 2) {
        put_wrong_count(q);
    } else if (q->argc == 2) {
        return give_back(c, text, n);
    } else {
        put_text("+PONG\r\n");
    }
    return send_out(c);
}

static enum verdict echo(struct client *c, const struct request *q)
{
    size_t n;
    const char *text = argument(q, 1, &n);
    return give_back(c, text, n);
}

static enum verdict quit(struct client *c, const struct request *q)
{
    enum verdict v;
    (void)q;
    put_text("+OK\r\n");
    v = send_out(c);
    return v == VERDICT_DONE ? VERDICT_CLOSE : v;
}

/* A cluster has one database. */
static enum verdict select_db(struct client *c, const struct request *q)
{
    size_t n;
    const char *text = argument(q, 1, &n);
    int64_t db;
    if (!resp_to_int((const unsigned char *)text, n, &db)) {
        put_text("-ERR invalid DB index\r\n");
    } else if (db == 0) {
        put_text("+OK\r\n");
    } else {
        put_text("-ERR SELECT is not allowed in cluster mode\r\n");
    }
    return send_out(c);
}

/* HELLO version AUTH user password. */
static bool hello_guess(const struct request *q, struct user_guess *guess)
{
    struct resp_slice arg = { 0, 0 };
    size_t n;
    const char *option = argument(q, 2, &n);
    uint32_t at = 0;
    if (q->argc != 5 || !same_word(option, n, "auth")) {
        return false;
    }
    for (uint32_t i = 0; i < q->argc; i++) {
        resp_arg(q->p, q->len, &at, &arg);
    }
    guess->user = q->p + q->arg[3].off;
    guess->user_len = q->arg[3].len;
    guess->password = q->p + arg.off;
    guess->password_len = arg.len;
    return true;
}

static enum verdict hello(struct client *c, const struct request *q)
{
    struct user_guess guess;
    size_t n;
    const char *text = argument(q, 1, &n);
    if (q->argc > 1 && !same_word(text, n, "2")) {
        put_text("-NOPROTO unsupported protocol version\r\n");
        return send_out(c);
    }
    if (hello_guess(q, &guess)) {
        enum login login = user_login(c, &guess);
        if (login != LOGIN_DONE) {
            return login == LOGIN_LATER ? VERDICT_WAIT : VERDICT_DONE;
        }
    } else if (q->argc > 2) {
        put_text("-ERR HELLO with options other than AUTH is not supported by this version of Puerta\r\n");
        return send_out(c);
    }
    if (!c->admitted) {
        put_text("-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> "
                 "<pass> option can be used to authenticate the client and select the RESP protocol version at the "
                 "same time\r\n");
        return send_out(c);
    }
    put_text("*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n");
    put_header(':', (int64_t)c->conn->id);
    put_text("$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n");
    return send_out(c);
}

/* As a connection that has just been opened. */
static enum verdict reset(struct client *c, const struct request *q)
{
    (void)q;
    c->name[0] = '\0';
    user_arrive(c);
    put_text("+RESET\r\n");
    return send_out(c);
}

static void put_flags(const struct command *command)
{
    static const struct { uint32_t bit; const char *name; } names[] = {
        { CMD_WRITE, "write" }, { CMD_READONLY, "readonly" }, { CMD_DENYOOM, "denyoom" }, { CMD_ADMIN, "admin" },
        { CMD_PUBSUB, "pubsub" }, { CMD_NOSCRIPT, "noscript" }, { CMD_BLOCKING, "blocking" },
        { CMD_LOADING, "loading" }, { CMD_STALE, "stale" }, { CMD_FAST, "fast" }, { CMD_MOVABLEKEYS, "movablekeys" },
    };
    size_t i, count = 0;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        count += (command->flags & names[i].bit) != 0;
    }
    put_header('*', (int64_t)count);
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        if (command->flags & names[i].bit) {
            put_format("+%s\r\n", names[i].name);
        }
    }
}

static enum verdict command(struct client *c, const struct request *q)
{
    size_t n;
    const char *sub = argument(q, 1, &n);
    uint32_t count = 0;
    for (uint32_t i = 0; i < command_count(); i++) {
        count += (command_at(i)->flags & CMD_SUBCOMMAND) == 0;
    }
    if (q->argc > 1 && same_word(sub, n, "count")) {
        put_header(':', count);
        return send_out(c);
    }
    if (q->argc > 1) {
        put_text("-ERR COMMAND with this subcommand is not supported by this version of Puerta\r\n");
        return send_out(c);
    }
    put_header('*', count);
    for (uint32_t i = 0; i < command_count(); i++) {
        const struct command *row = command_at(i);
        const int8_t *range = command_range(row);
        if (row->flags & CMD_SUBCOMMAND) {
            continue;
        }
        put_text("*6\r\n");
        put_bulk(row->name, strlen(row->name));
        put_header(':', row->arity);
        put_flags(row);
        put_header(':', range[0]);
        put_header(':', range[1]);
        put_header(':', range[2]);
    }
    return send_out(c);
}

/* The sections that tools look for, in the form of Redis's own INFO. */
static void put_info(const struct client *c)
{
    uint64_t value;
    const char *name;
    put_format("# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\npuerta_version:%s\r\narch_bits:%u\r\n"
               "multiplexing_api:poll\r\n\r\n", PUERTA_VERSION, (unsigned)(8 * sizeof(void *)));
    put_format("# Clients\r\nconnected_clients:%lu\r\n\r\n", (unsigned long)conn_count(CONN_CLIENT));
    put_format("# Memory\r\nused_memory:%lu\r\nfree_chunks:%lu\r\n\r\n", (unsigned long)arena_bytes(),
               (unsigned long)buf_free_chunks());
    put_text("# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n# Stats\r\n");
    for (int i = 0; (name = stats_row(i, &value)) != NULL; i++) {
        put_format("%s:%llu\r\n", name, (unsigned long long)value);
    }
    put_text("\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n# Puerta\r\n");
    put_format("slots_served:%u\r\nmap_epoch:%u\r\n", c->service->map.served, c->service->map.epoch);
    for (uint16_t i = 0; i < backend_cap(); i++) {
        static const char *const states[] = { "free", "new", "up", "suspect", "down" };
        const struct backend *b = backend_at(i);
        if (b != NULL && b->service == c->service) {
            put_format("node%u:address=%s:%u,state=%s,slots=%u,queued=%u\r\n", (unsigned)i, b->host,
                       (unsigned)b->port, states[b->state], b->slots, b->shared->queued);
        }
    }
}

static enum verdict info(struct client *c, const struct request *q)
{
    static unsigned char text[sizeof out.at];
    size_t n;
    (void)q;
    put_info(c);
    n = out.len < sizeof text - 32 ? out.len : sizeof text - 32;
    memcpy(text, out.at, n);
    out.len = 0;
    put_bulk(text, n);
    return send_out(c);
}

static enum verdict client_command(struct client *c, const struct request *q)
{
    size_t n, name_len;
    const char *sub = argument(q, 1, &n), *name = argument(q, 2, &name_len);
    if (same_word(sub, n, "id") && q->argc == 2) {
        put_header(':', (int64_t)c->conn->id);
    } else if (same_word(sub, n, "getname") && q->argc == 2) {
        if (c->name[0] == '\0') {
            put_text("$-1\r\n");
        } else {
            put_bulk(c->name, strlen(c->name));
        }
    } else if (same_word(sub, n, "setname") && q->argc == 3) {
        bool clean = name_len < sizeof c->name;
        for (size_t i = 0; i < name_len; i++) {
            clean = clean && name[i] > ' ' && name[i] <= '~';
        }
        if (clean) {
            memcpy(c->name, name, name_len);
            c->name[name_len] = '\0';
        }
        put_text(clean ? "+OK\r\n" : "-ERR Client names cannot contain spaces, newlines or special characters.\r\n");
    } else if (same_word(sub, n, "setinfo") && q->argc == 4) {
        put_text("+OK\r\n");
    } else {
        put_text("-ERR this CLIENT subcommand is not supported by this version of Puerta\r\n");
    }
    return send_out(c);
}

static const struct { const char *name; enum verdict (*answer)(struct client *, const struct request *); } answers[] = {
    { "ping", ping }, { "echo", echo }, { "quit", quit }, { "select", select_db }, { "hello", hello },
    { "command", command }, { "info", info }, { "client", client_command }, { "auth", user_auth },
    { "reset", reset },
};

enum verdict local_answer(struct client *c, const struct request *q)
{
    const char *name = q->command->name, *bar = strchr(name, '|');
    size_t n = bar != NULL ? (size_t)(bar - name) : strlen(name);
    out.len = 0;
    if (!command_arity_ok(q->command, q->argc)) {
        put_wrong_count(q);
        return send_out(c);
    }
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        if (strncmp(answers[i].name, name, n) == 0 && answers[i].name[n] == '\0') {
            return answers[i].answer(c, q);
        }
    }
    put_format("-ERR '%s' is not supported by this version of Puerta\r\n", name);
    return send_out(c);
}
