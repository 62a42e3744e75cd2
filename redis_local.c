/*
 * redis_local.c - what Puerta answers itself, as one big Redis server would, without asking a node.
 *
 *   request -> row of `answers` -> writer, here or in redis_info.c, redis_command.c, redis_virtual.c
 *                                    `-> redis_say.c -> its place in the client's order of answers
 *
 * CLIENT sees the clients of its own section: each section is a server of its own. The table of clients is
 * redis_client.c's, handed down at the start.
 */
#include "redis_say.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define IDS_MAX 128 /* of one CLIENT LIST or KILL: each client is compared with all */

static struct {
    struct client *clients;
    uint32_t count;
} all;

void redis_local_open(struct client *clients, uint32_t count)
{
    all.clients = clients;
    all.count = count;
    redis_info_open();
}

/* -------------------------------------------------------------- greetings */

static void ok(struct client *c, const struct request *q)
{
    (void)c, (void)q;
    say_text("+OK\r\n");
}

static void say_wrong_count(const struct request *q)
{
    say_error("ERR wrong number of arguments for '%s' command", q->command->name);
}

static void ping(struct client *c, const struct request *q)
{
    struct word text = request_word(q, 1);
    const char *busy = service_busy(c->service);
    if (q->argc > 2) {
        say_wrong_count(q);
    } else if (c->subscribed && !c->resp3) {
        say_text("*2\r\n$4\r\npong\r\n");
        say_bulk(text.p, text.n);
    } else if (busy != NULL) { /* as one server would say: who asks wants to know whether he can work */
        say_error("%s", busy + 1);
    } else if (q->argc == 2) {
        say_bulk(text.p, text.n);
    } else {
        say_text("+PONG\r\n");
    }
}

static void echo(struct client *c, const struct request *q)
{
    struct word text = request_word(q, 1);
    (void)c;
    say_bulk(text.p, text.n);
}

static void quit(struct client *c, const struct request *q)
{
    ok(c, q);
    say_close();
}

static void reset(struct client *c, const struct request *q)
{
    (void)q;
    tracking_end(c);
    login_end(c);
    user_arrive(c);
    multi_reset(c);
    monitor_end(c);
    c->name[0] = '\0';
    c->reply = REPLY_ON;
    c->resp3 = false;
    say_text("+RESET\r\n");
}

static void select_db(struct client *c, const struct request *q)
{
    int64_t db;
    if (!word_number(request_word(q, 1), &db)) {
        say_error("ERR value is not an integer or out of range");
    } else if (db == 0) {
        ok(c, q);
    } else {
        say_error("ERR SELECT is not allowed in cluster mode");
    }
}

static void say_digits(long long n)
{
    char text[24];
    say_bulk(text, (size_t)snprintf(text, sizeof text, "%lld", n));
}

static void time_now(struct client *c, const struct request *q)
{
    struct timespec now;
    (void)c, (void)q;
    clock_gettime(CLOCK_REALTIME, &now);
    say_text("*2\r\n");
    say_digits((long long)now.tv_sec);
    say_digits(now.tv_nsec / 1000);
}

static void lolwut(struct client *c, const struct request *q)
{
    (void)q;
    say_as_text();
    say_text("   _____________\n"
             "  |  _________  |\n"
             "  | |    |    | |     one door,\n"
             "  | |____|____| |\n"
             "  | |    |    | |     many rooms\n"
             "  | |    |   o| |\n"
             "  | |____|____| |\n"
             " _|_|_________|_|_\n\n"
             "Puerta " PUERTA_VERSION ", as Redis ver. ");
    say_format("%s\n", c->service->conf->redis_version);
}

static void role(struct client *c, const struct request *q)
{
    (void)c, (void)q;
    say_text("*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n");
}

static void module_list(struct client *c, const struct request *q)
{
    (void)c, (void)q;
    say_text("*0\r\n");
}

static void acl_whoami(struct client *c, const struct request *q)
{
    (void)q;
    say_name(login_name(c));
}

static void acl_users(struct client *c, const struct request *q)
{
    (void)c, (void)q;
    say_text("*1\r\n$7\r\ndefault\r\n");
}

/* ------------------------------------------------- names, and who one is */

/* Whether a name or a library's name may be so; else the answer says why not. */
static bool name_fits(struct word name, size_t cap, const char *what)
{
    for (size_t i = 0; i < name.n; i++) {
        if (name.p[i] < '!' || name.p[i] > '~') {
            say_error("ERR %s cannot contain spaces, newlines or special characters.", what);
            return false;
        }
    }
    if (name.n >= cap) {
        say_error("ERR %s cannot be longer than %u bytes", what, (unsigned)cap - 1);
        return false;
    }
    return true;
}

static void name_keep(char *to, struct word name)
{
    memcpy(to, name.p, name.n);
    to[name.n] = '\0';
}

/* What follows the protocol's version in HELLO. */
struct greeting {
    struct word user, password, name; /* p NULL: not given */
    struct word odd;                  /* the option that is none */
};

static bool greeting_read(const struct request *q, struct greeting *g)
{
    struct words w = words_from(q, 2);
    memset(g, 0, sizeof *g);
    while (words_next(&w, &g->odd)) {
        if (word_is(g->odd, "auth") && w.left >= 2) {
            words_next(&w, &g->user);
            words_next(&w, &g->password);
        } else if (word_is(g->odd, "setname") && w.left >= 1) {
            words_next(&w, &g->name);
        } else {
            return false;
        }
    }
    return true;
}

/* Whether HELLO may name this version of the protocol. */
static bool is_spoken(int64_t version)
{
    return version == 2 || (version == 3 && upstream_classes() > 1);
}

/* Whether the request changes its client's protocol. Then it waits until all that came before it has been answered:
 * what comes after it goes to the nodes over other connections, and must not overtake it. */
static bool changes_protocol(const struct client *c, const struct request *q)
{
    int64_t version = 0;
    if (strcmp(q->command->name, "reset") == 0) {
        return c->resp3;
    }
    return q->argc > 1 && word_number(request_word(q, 1), &version) && is_spoken(version) && (version == 3) != c->resp3;
}

/* Before HELLO is answered: whether its AUTH lets the client in. What is wrong otherwise, hello() says. */
static enum login hello_login(struct client *c, const struct request *q)
{
    struct greeting g;
    int64_t version;
    if (q->argc < 2 || !word_number(request_word(q, 1), &version) || !is_spoken(version) || !greeting_read(q, &g) ||
        g.user.p == NULL) {
        return LOGIN_DONE;
    }
    return user_login(c, &(struct user_guess){ g.user.p, g.user.n, g.password.p, g.password.n });
}

static void hello(struct client *c, const struct request *q)
{
    struct greeting g;
    int64_t version = 0;
    if (q->argc > 1 && !word_number(request_word(q, 1), &version)) {
        say_error("ERR Protocol version is not an integer or out of range");
        return;
    }
    if (q->argc > 1 && !is_spoken(version)) {
        say_error("NOPROTO unsupported protocol version");
        return;
    }
    if (!greeting_read(q, &g)) {
        say_error("ERR Syntax error in HELLO option '%.*s'", word_shown(g.odd), g.odd.p);
        return;
    }
    if (g.name.p != NULL && !name_fits(g.name, sizeof c->name, "Client names")) {
        return;
    }
    if (!c->admitted) {
        say_error("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> "
                  "<pass> option can be used to authenticate the client and select the RESP protocol version at the "
                  "same time");
        return;
    }
    if (g.name.p != NULL) {
        name_keep(c->name, g.name);
    }
    if (version != 0 && (version == 3) != c->resp3) {
        if (c->watch != NULL) {
            lease_break(c->watch, "its client changes its protocol"); /* its EXEC will answer a null */
        }
        c->resp3 = version == 3;
        if (!tracking_speaks(c)) {
            own_let_go(c); /* they are dialled anew */
        }
    }
    say_map(7);
    say_text("$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n");
    say_name(c->service->conf->redis_version);
    say_format("$5\r\nproto\r\n:%d\r\n$2\r\nid\r\n", c->resp3 ? 3 : 2);
    say_header(':', (int64_t)c->conn->id);
    say_text("$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n");
}

/* ------------------------------------------------- CLIENT: about itself */

static void client_id(struct client *c, const struct request *q)
{
    (void)q;
    say_header(':', (int64_t)c->conn->id);
}

static void client_getname(struct client *c, const struct request *q)
{
    (void)q;
    if (c->name[0] == '\0') {
        say_null();
    } else {
        say_name(c->name);
    }
}

static void client_setname(struct client *c, const struct request *q)
{
    struct word name = request_word(q, 2);
    if (name_fits(name, sizeof c->name, "Client names")) {
        name_keep(c->name, name);
        ok(c, q);
    }
}

static void client_setinfo(struct client *c, const struct request *q)
{
    struct word option = request_word(q, 2), value = request_word(q, 3);
    bool name = word_is(option, "lib-name");
    if (!name && !word_is(option, "lib-ver")) {
        say_error("ERR Unrecognized option '%.*s'", word_shown(option), option.p);
    } else if (name_fits(value, name ? sizeof c->lib_name : sizeof c->lib_ver, name ? "lib-name" : "lib-ver")) {
        name_keep(name ? c->lib_name : c->lib_ver, value);
        ok(c, q);
    }
}

/* Nothing is said but to ON. What is in flight keeps the mode in which it was asked: see REQ_MUTE. */
static void client_reply(struct client *c, const struct request *q)
{
    struct word mode = request_word(q, 2);
    if (word_is(mode, "on")) {
        c->reply = REPLY_ON;
        ok(c, q);
    } else if (word_is(mode, "off")) {
        c->reply = REPLY_OFF;
    } else if (!word_is(mode, "skip")) {
        say_syntax_error();
    } else if (c->reply != REPLY_OFF) {
        c->reply = REPLY_SKIP;
    }
}

static void client_switch(struct client *c, const struct request *q)
{
    struct word mode = request_word(q, 2);
    if (word_is(mode, "on") || word_is(mode, "off")) {
        ok(c, q);
    } else {
        say_syntax_error();
    }
}

static void client_getredir(struct client *c, const struct request *q)
{
    (void)q;
    say_header(':', tracking_redirect(c));
}

static void client_help(struct client *c, const struct request *q)
{
    static const char *const lines[] = {
        "CACHING (YES|NO)", "    Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.",
        "GETNAME", "    Return the name of the current connection.",
        "GETREDIR", "    Return the client ID we are redirecting to when tracking is enabled.",
        "ID", "    Return the ID of the current connection.",
        "INFO", "    Return information about the current client connection.",
        "KILL <ip:port>", "    Kill connection made from <ip:port>.",
        "KILL <option> <value> [<option> <value> [...]]",
        "    Kill connections. Options are: ADDR, LADDR, ID, TYPE, USER, SKIPME, MAXAGE.",
        "LIST [TYPE <type> | ID <client-id> [<client-id> ...]]", "    Return information about client connections.",
        "NO-EVICT (ON|OFF), NO-TOUCH (ON|OFF)", "    Accepted: the proxy neither evicts nor touches.",
        "REPLY (ON|OFF|SKIP)", "    Control the replies sent to the current connection.",
        "SETINFO <option> <value>", "    Set client meta attributes: LIB-NAME, LIB-VER.",
        "SETNAME <name>", "    Assign the name <name> to the current connection.",
        "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]", "         [OPTIN] [OPTOUT] [NOLOOP]",
        "    Control server assisted client side caching.", "TRACKINGINFO", "    Report tracking status for the current connection.",
        "UNPAUSE", "    Resume the clients.", NULL,
    };
    (void)c, (void)q;
    say_help("CLIENT", lines);
}

/* ------------------------------------------------- CLIENT: about others */

enum client_type { ANY_TYPE, TYPE_NORMAL, TYPE_PUBSUB, TYPE_OTHER }; /* there are none of other types */

/* Which clients CLIENT LIST or KILL means: those to whom all applies that is set. */
struct choice {
    uint64_t ids[IDS_MAX];
    uint32_t id_count;
    enum client_type type;
    struct word addr, laddr; /* p NULL: any */
    int64_t min_age_s;
    const struct client *not;
};

static bool among(const struct choice *which, uint64_t id)
{
    for (uint32_t i = 0; i < which->id_count; i++) {
        if (which->ids[i] == id) {
            return true;
        }
    }
    return which->id_count == 0;
}

static const char *local_text(const struct client *c, char text[ADDRESS_TEXT])
{
    struct address local;
    if (!net_local(c->conn->fd, &local)) {
        local.len = 0;
    }
    return address_text(&local, text);
}

/* Of the same section as `me`. */
static bool chosen(const struct client *c, const struct client *me, const struct choice *which)
{
    char text[ADDRESS_TEXT];
    return c->conn != NULL && c->conn->state == CONN_OPEN && c->service == me->service && c != which->not &&
           (which->type == ANY_TYPE || which->type == (c->subscribed ? TYPE_PUBSUB : TYPE_NORMAL)) && among(which, c->conn->id) &&
           (which->addr.p == NULL || word_same(which->addr, address_text(&c->conn->peer, text))) &&
           (which->laddr.p == NULL || word_same(which->laddr, local_text(c, text))) &&
           (int64_t)((loop_ms() - c->born_ms) / 1000) >= which->min_age_s;
}

/* What it is in, as Redis abbreviates that. */
static const char *flags_of(const struct client *c)
{
    static char flags[12];
    const struct { char mark; bool is; } marks[] = {
        { 'P', c->subscribed }, { 'x', c->multi_state != MULTI_NONE }, { 'd', c->watch_lost }, { 'c', c->ended },
        { 'b', c->block != NULL }, { 'O', c->monitor != MONITOR_OFF },
        { 'U', c->conn->peer.u.sa.sa_family == AF_UNIX },
    };
    size_t n = 0;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        flags[n] = marks[i].mark;
        n += marks[i].is;
    }
    memcpy(flags + n, tracking_flags(c), strlen(tracking_flags(c)) + 1);
    n += strlen(tracking_flags(c));
    return n > 0 ? flags : "N";
}

/* The line of CLIENT LIST. */
static void say_client(const struct client *c)
{
    char peer[ADDRESS_TEXT], local[ADDRESS_TEXT];
    const struct conn *conn = c->conn;
    say_format("id=%llu addr=%s laddr=%s fd=%d name=%s age=%llu idle=%llu flags=%s db=0 ",
               (unsigned long long)conn->id, address_text(&conn->peer, peer), local_text(c, local), conn->fd, c->name,
               (unsigned long long)(loop_ms() - c->born_ms) / 1000,
               (unsigned long long)(loop_ms() - conn->watch.active_ms) / 1000, flags_of(c));
    say_format("sub=%lu psub=%lu ssub=%lu multi=%d ", (unsigned long)c->sub.count[CHANNEL_PLAIN],
               (unsigned long)c->sub.count[CHANNEL_PATTERN], (unsigned long)c->sub.count[CHANNEL_SHARD],
               c->multi_state != MULTI_NONE ? (int)c->multi.count : -1);
    say_format("qbuf=%zu qbuf-free=0 argv-mem=0 multi-mem=%zu rbs=0 rbp=0 obl=%zu oll=%lu omem=%zu tot-mem=%zu events=%s ",
               c->in.len, (size_t)c->multi.block.len, conn->out.len, (unsigned long)c->queued, c->parked_bytes + c->sub.bytes,
               sizeof *c + c->in.len + c->multi.block.len + c->request_bytes + conn->out.len + c->parked_bytes, conn->blocked ? "rw" : "r");
    say_format("cmd=%s user=%s redir=%lld resp=%d lib-name=%s lib-ver=%s\n", c->last != NULL ? c->last->name : "NULL",
               login_name(c), (long long)tracking_redirect(c), c->resp3 ? 3 : 2, c->lib_name, c->lib_ver);
}

/* Its own line tells the request at hand. */
static void client_info(struct client *c, const struct request *q)
{
    c->last = q->command;
    say_as_text();
    say_client(c);
}

static bool type_named(struct word name, enum client_type *type)
{
    *type = word_is(name, "normal") ? TYPE_NORMAL : word_is(name, "pubsub") ? TYPE_PUBSUB : TYPE_OTHER;
    if (*type != TYPE_OTHER || word_is(name, "master") || word_is(name, "replica") ||
        word_is(name, "slave")) {
        return true;
    }
    say_error("ERR Unknown client type '%.*s'", word_shown(name), name.p);
    return false;
}

static bool id_named(struct choice *which, struct word text, const char *wrong)
{
    int64_t id;
    if (!word_number(text, &id) || id < 1) {
        say_error("ERR %s", wrong);
        return false;
    }
    if (which->id_count == IDS_MAX) {
        say_error("ERR more than %d client IDs in one request", IDS_MAX);
        return false;
    }
    which->ids[which->id_count++] = (uint64_t)id;
    return true;
}

/* TYPE type, or ID id ... False: the answer says what is wrong. */
static bool list_choice(const struct request *q, struct choice *which)
{
    struct words w = words_from(q, 3);
    struct word kind = request_word(q, 2), value;
    if (q->argc == 2) {
        return true;
    }
    if (q->argc == 4 && word_is(kind, "type")) {
        return type_named(request_word(q, 3), &which->type);
    }
    if (q->argc < 4 || !word_is(kind, "id")) {
        say_syntax_error();
        return false;
    }
    while (words_next(&w, &value)) {
        if (!id_named(which, value, "Invalid client ID")) {
            return false;
        }
    }
    return true;
}

static void client_list(struct client *c, const struct request *q)
{
    static const struct choice everybody;
    struct choice which = everybody;
    c->last = q->command;
    if (!list_choice(q, &which)) {
        return;
    }
    say_as_text();
    for (uint32_t i = 0; i < all.count && !say_overlong(); i++) {
        if (chosen(&all.clients[i], c, &which)) {
            say_client(&all.clients[i]);
        }
    }
}

/* One filter of CLIENT KILL. False: the answer says what is wrong. */
static bool kill_filter(struct client *c, struct choice *which, struct word option, struct word value)
{
    if (word_is(option, "id")) {
        return id_named(which, value, "client-id should be greater than 0");
    }
    if (word_is(option, "type")) {
        return type_named(value, &which->type);
    }
    if (word_is(option, "addr")) {
        which->addr = value;
    } else if (word_is(option, "laddr")) {
        which->laddr = value;
    } else if (word_is(option, "user")) {
        if (!word_same(value, "default")) {
            say_error("ERR No such user '%.*s'", word_shown(value), value.p);
            return false;
        }
    } else if (word_is(option, "skipme") && (word_is(value, "yes") || word_is(value, "no"))) {
        which->not = word_is(value, "yes") ? c : NULL;
    } else if (!word_is(option, "maxage")) {
        say_syntax_error();
        return false;
    } else if (!word_number(value, &which->min_age_s) || which->min_age_s < 1) {
        say_error("ERR maxage is not an integer or out of range");
        return false;
    }
    return true;
}

/* How many were killed. Who kills itself hears so first. */
static int64_t kill_chosen(struct client *c, const struct choice *which)
{
    int64_t killed = 0;
    for (uint32_t i = 0; i < all.count; i++) {
        if (!chosen(&all.clients[i], c, which)) {
            continue;
        }
        killed++;
        if (&all.clients[i] == c) {
            say_close();
        } else {
            conn_fail(all.clients[i].conn, "CLIENT KILL");
        }
    }
    return killed;
}

static void client_kill(struct client *c, const struct request *q)
{
    static const struct choice everybody;
    struct choice which = everybody;
    struct words w = words_from(q, 2);
    struct word option, value;
    if (q->argc == 3) {
        which.addr = request_word(q, 2);
        if (kill_chosen(c, &which) > 0) {
            ok(c, q);
        } else {
            say_error("ERR No such client");
        }
        return;
    }
    which.not = c;
    while (words_next(&w, &option)) {
        if (!words_next(&w, &value)) {
            say_syntax_error();
            return;
        }
        if (!kill_filter(c, &which, option, value)) {
            return;
        }
    }
    say_header(':', kill_chosen(c, &which));
}

/* -------------------------------------------------------------- the table */

static void unknown(struct client *c, const struct request *q)
{
    (void)c;
    if ((q->command->flags & CMD_CONTAINER) != 0) {
        say_unknown(q);
    } else {
        say_error("ERR '%s' is not supported by this version of Puerta", q->command->name);
    }
}

/* A container's row stands for all its subcommands that have no row of their own. */
static const struct { const char *name; say_writer write; } answers[] = {
    { "acl|cat", acl_cat_answer }, { "acl|users", acl_users }, { "acl|whoami", acl_whoami }, { "asking", ok },
    { "client|caching", caching_answer }, { "client|getname", client_getname }, { "client|getredir", client_getredir },
    { "client|help", client_help }, { "client|id", client_id }, { "client|info", client_info },
    { "client|kill", client_kill }, { "client|list", client_list }, { "client|no-evict", client_switch },
    { "client|no-touch", client_switch }, { "client|reply", client_reply }, { "client|setinfo", client_setinfo },
    { "client|pause", pause_answer }, { "client|setname", client_setname }, { "client|trackinginfo", trackinginfo_answer }, { "client|unpause", unpause_answer },
    { "cluster", virtual_answer }, { "command", command_answer }, { "echo", echo }, { "hello", hello },
    { "info", info_answer }, { "lolwut", lolwut }, { "module|list", module_list }, { "ping", ping },
    { "pubsub", pubsub_answer }, { "quit", quit },
    { "readonly", ok }, { "readwrite", ok }, { "reset", reset }, { "role", role }, { "select", select_db },
    { "time", time_now },
};

static void wrong_count(struct client *c, const struct request *q)
{
    (void)c;
    say_wrong_count(q);
}

static say_writer writer_of(const struct command *row)
{
    size_t n = strcspn(row->name, "|");
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        const char *name = answers[i].name;
        if (strcmp(name, row->name) == 0 || (strncmp(name, row->name, n) == 0 && name[n] == '\0')) {
            return answers[i].write;
        }
    }
    return unknown;
}

enum verdict local_answer(struct client *c, const struct request *q)
{
    bool fits = command_arity_ok(q->command, q->argc);
    say_writer write = fits ? writer_of(q->command) : wrong_count;
    enum login login;
    enum verdict v;
    if ((write == hello || write == reset) && (c->unsettled > 0 || c->head != NULL) && changes_protocol(c, q)) {
        return VERDICT_WAIT;
    }
    if (write == reset && (multi_unclear(c) || !login_may_end(c))) {
        return VERDICT_WAIT;
    }
    login = write == hello ? hello_login(c, q) : LOGIN_DONE;
    if (login != LOGIN_DONE) {
        return login == LOGIN_LATER ? VERDICT_WAIT : VERDICT_DONE;
    }
    if (fits && strcmp(q->command->name, "client|tracking") == 0) {
        return tracking_command(c, q);
    }
    if (fits && strcmp(q->command->name, "auth") == 0) {
        return user_auth(c, q);
    }
    if (write == reset && c->sub.list != NULL && !pubsub_leave(c)) {
        return VERDICT_WAIT; /* on_room resumes it */
    }
    v = fits && strncmp(q->command->name, "puerta", 6) == 0 ? puerta_answer(c, q) : say_answer(c, q, write);
    if (v == VERDICT_DONE && say_failed()) {
        *(fits ? &stats_command(q->command)->failed : &stats_command(q->command)->rejected) += 1;
    }
    return v;
}
