/*
 * conf_check.c - judges a configuration as a whole: what must hold between options, and of all sections together.
 *
 *   struct reader --conf_check()--> complaints, each at the line of the option to blame
 */
#include "conf.h"

#include <stdio.h>
#include <string.h>

/* The line on which an option was given; 0 = nowhere. */
static int given_at(const struct reader *r, int section, const char *key)
{
    return r->given[section][option_find(conf_scope(r->conf, section), key) - options];
}

/* The line to blame for an option: its own, or its section's where it has the default. */
static int line_of(const struct reader *r, int section, const char *key)
{
    int line = given_at(r, section, key);

    return line != 0 ? line : r->begun[section];
}

static void check_memory(struct reader *r, int section)
{
    const struct conf *conf = r->conf;
    size_t retain = conf->services[section - 1].retain_bytes, shared = conf->services[section - 1].shared_reply_limit;
    uint64_t most = (uint64_t)conf->chunk_size * conf->chunks / 8;
    char text[OPTION_TEXT], limit[OPTION_TEXT], cure[2 * OPTION_TEXT];
    int line = given_at(r, section, "shared_reply_limit");

    snprintf(cure, sizeof cure, "at most %.20s with this chunk_size x chunks, or raise chunks to %llu",
             option_text(SIZE, most, limit), (retain * 8ULL + conf->chunk_size - 1) / conf->chunk_size);
    if (retain > most)
        complain(r, line_of(r, section, "retain_bytes"), option_text(SIZE, retain, text), cure,
                 "retain_bytes is more than an eighth of the buffer pool");
    snprintf(cure, sizeof cure, "at most %.20s with this upstream_buffer, or raise upstream_buffer to %.20s",
             option_text(SIZE, conf->upstream_buffer, limit), option_text(SIZE, shared, text));
    if (shared > conf->upstream_buffer) /* one of the two was given: the defaults fit */
        complain(r, line != 0 ? line : line_of(r, 0, "upstream_buffer"), text, cure,
                 "shared_reply_limit is more than upstream_buffer");
}

/* Three numbers with dots between them: what clients can compare. */
static bool is_version(const char *s)
{
    for (int i = 0; i < 3; i++) {
        size_t n = strspn(s, "0123456789");
        if (n == 0 || s[n] != (i < 2 ? '.' : '\0'))
            return false;
        s += n + 1;
    }
    return true;
}

static void check_servers(struct reader *r, int section)
{
    const struct conf_service *s = &r->conf->services[section - 1];
    bool mongo = s->kind == SERVICE_MONGO;

    if (s->node_count == 0)
        complain(r, line_of(r, section, conf_servers_key(s)), s->name,
                 mongo ? "add a line such as mongos = 10.0.0.1:27017, 10.0.0.2:27017"
                       : "add a line such as nodes = 10.0.0.1:6379, 10.0.0.2:6379",
                 mongo ? "no mongos in section" : "no nodes in section");
}

/* As whom Puerta logs in at the mongos. A keyfile has a user of its own. */
static void check_login(struct reader *r, int section)
{
    struct conf_service *s = &r->conf->services[section - 1];
    bool password = s->upstream_password[0] != '\0', key = s->upstream_key[0] != '\0';

    if (key && given_at(r, section, "upstream_user") == 0)
        snprintf(s->upstream_user, sizeof s->upstream_user, "__system");
    if (key && given_at(r, section, "upstream_auth_db") == 0)
        snprintf(s->upstream_auth_db, sizeof s->upstream_auth_db, "local");
    if (key && password)
        complain(r, line_of(r, section, "upstream_keyfile"), s->name, "keep upstream_keyfile or the password",
                 "a keyfile and a password in section");
    if (s->upstream_user[0] != '\0' && !password && !key)
        complain(r, line_of(r, section, "upstream_user"), s->upstream_user,
                 "add upstream_password, upstream_password_file or upstream_keyfile", "a user without a password");
    if (s->upstream_user[0] == '\0' && (password || key))
        complain(r, line_of(r, section, password ? "upstream_password" : "upstream_keyfile"), s->name,
                 "add upstream_user, as whom to log in", "a password without a user in section");
    if (strlen(s->upstream_user) > SCRAM_NAME_MAX)
        complain(r, line_of(r, section, "upstream_user"), s->upstream_user, "at most 128 bytes", "too long a name of a user");
    if (s->upstream_auth_db[0] == '\0' || strpbrk(s->upstream_auth_db, "/\\. \"$") != NULL)
        complain(r, line_of(r, section, "upstream_auth_db"), s->upstream_auth_db, "write the one where the user was made, mostly admin",
                 "not a name of a database");
}

static void check_mongo(struct reader *r, int section)
{
    const struct conf_service *s = &r->conf->services[section - 1];

    check_login(r, section);
    if (s->user_count > 0 && s->mode != MONGO_POOLED)
        complain(r, line_of(r, section, "user"), s->users[0].name, "set mode = pooled, or leave user out",
                 "in this mode clients log in at the mongos themselves");
    if (s->upstream_proxy && s->mode != MONGO_LOADBALANCED)
        complain(r, line_of(r, section, "upstream_proxy"), s->name, "set mode = loadbalanced, or leave it out",
                 "a PROXY header leads to the loadBalancerPort, which serves only drivers with loadBalanced=true");
    if (s->mode == MONGO_POOLED && s->pool_min > s->pool_max)
        complain(r, line_of(r, section, "pool_min"), "pool_min", "set it to pool_max or less", "more connections kept than there may be");
}

static void check_redis(struct reader *r, int section)
{
    const struct conf_service *s = &r->conf->services[section - 1];
    int nodes = line_of(r, section, "nodes");
    char host[HOST_CAP];
    uint16_t port;
    const char *why;

    if (s->announce[0] != '\0' && !host_port_split(s->announce, strlen(s->announce), host, &port, &why))
        complain(r, line_of(r, section, "announce"), s->announce, "write HOST:PORT, as clients reach Puerta",
                 "not an address (%s)", why);
    if (!is_version(s->redis_version))
        complain(r, line_of(r, section, "redis_version"), s->redis_version, "write the servers' own, such as 7.4.2", "not a version");
    for (int i = 0; i < s->node_count && !s->single; i++)
        if (s->nodes[i].port == 0)
            complain(r, nodes, s->nodes[i].host, "give HOST:PORT, or set topology = single",
                     "a cluster has no node on a unix socket");
    if (s->single && s->node_count > 1)
        complain(r, nodes, s->name, "keep the one server, or set topology = cluster", "topology = single with %d nodes",
                 s->node_count);
    if (s->upstream_user[0] != '\0' && s->upstream_password[0] == '\0')
        complain(r, line_of(r, section, "upstream_user"), s->upstream_user,
                 "add upstream_password or upstream_password_file", "a user without a password");
}

/* A password stands in this file or in one of its own; in the table its own follows. */
static void check_secrets(struct reader *r, int section)
{
    const int *given = r->given[section];
    char cure[OPTION_TEXT];

    for (size_t i = 1; i < option_count; i++)
        if (options[i].type == SECRET_FILE && given[i] != 0 && given[i - 1] != 0) {
            snprintf(cure, sizeof cure, "keep %s or %s", options[i - 1].key, options[i].key);
            complain(r, given[i], r->conf->services[section - 1].name, cure, "two passwords in section");
        }
}

static void check_gate(struct reader *r, int section)
{
    const struct conf_service *s = &r->conf->services[section - 1];

    if (strspn(s->socket_mode, "01234567") != strlen(s->socket_mode) || (s->socket_mode[0] != '\0' && strlen(s->socket_mode) < 3))
        complain(r, line_of(r, section, "socket_mode"), s->socket_mode, "write three digits as chmod takes them, such as 660", "not permissions");
    if (s->accept_proxy && s->trusted.count == 0)
        complain(r, line_of(r, section, "accept_proxy"), s->name, "add trusted = ADDRESS of the load balancer", "accept_proxy trusts nobody");
}

/* Section a's address i against all that come before it. */
static void check_listen(struct reader *r, int a, int i)
{
    char mine[ADDRESS_TEXT], other[ADDRESS_TEXT];

    address_text(&r->conf->services[a - 1].listen[i], mine);
    for (int b = 1; b <= a; b++) {
        const struct conf_service *s = &r->conf->services[b - 1];
        for (int j = 0; j < (b == a ? i : s->listens); j++) {
            if (strcmp(mine, address_text(&s->listen[j], other)) != 0)
                continue;
            complain(r, line_of(r, a, "listen"), mine, "give each section a listen = ADDRESS:PORT of its own",
                     "an address that [%s %s] listens on already", option_scopes[conf_scope(r->conf, b)], s->name);
            return;
        }
    }
}

/* A token has to fit in a field of HTTP. Nobody else may listen where operators ask. */
static void check_admin(struct reader *r)
{
    const struct conf *conf = r->conf;
    char mine[ADDRESS_TEXT], other[ADDRESS_TEXT];

    for (const char *p = conf->admin_token; *p != '\0'; p++)
        if (*p <= ' ' || *p > '~') {
            complain(r, line_of(r, 0, "admin_token_file"), "******", "letters, digits and signs of ASCII, without a blank", "not a token");
            break;
        }
    for (int i = 0; i < conf->admins; i++) {
        bool twice = false;
        address_text(&conf->admin[i], mine);
        for (int j = 0; j < i; j++)
            twice = twice || strcmp(mine, address_text(&conf->admin[j], other)) == 0;
        for (int s = 0; s < conf->service_count; s++)
            for (int j = 0; j < conf->services[s].listens; j++)
                twice = twice || strcmp(mine, address_text(&conf->services[s].listen[j], other)) == 0;
        if (twice)
            complain(r, line_of(r, 0, "admin"), mine, "give admin an address of its own", "an address that is listened on already");
    }
}

/* What the processes give up. Whether there is such a user is no matter of the file's: the start says it, and -t warns. */
static void check_process(struct reader *r)
{
    const struct conf *conf = r->conf;

    if (conf->user[0] == '\0' && conf->group[0] != '\0')
        complain(r, line_of(r, 0, "group"), conf->group, "add user", "a group without a user");
    if (conf->user[0] == '\0' && conf->chroot[0] != '\0')
        complain(r, line_of(r, 0, "chroot"), conf->chroot, "add user: root finds a way out", "chroot without a user");
    if (conf->chroot[0] != '\0' && conf->chroot[0] != '/')
        complain(r, line_of(r, 0, "chroot"), conf->chroot, "write it from / on", "not an absolute path");
    if (conf->pid_file[0] != '\0' && conf->pid_file[0] != '/')
        complain(r, line_of(r, 0, "pid_file"), conf->pid_file, "write it from / on", "not an absolute path");
}

void conf_check(struct reader *r)
{
    const struct conf *conf = r->conf;
    char text[OPTION_TEXT];

    if ((conf->chunk_size & (conf->chunk_size - 1)) != 0)
        complain(r, line_of(r, 0, "chunk_size"), option_text(SIZE, conf->chunk_size, text),
                 "1k, 2k, 4k, 8k, 16k, 32k, 64k, 128k and 256k are", "chunk_size is not a power of two");
    check_process(r);
    if (conf->service_count == 0)
        complain(r, r->line, "[redis NAME]", "add [redis main] and below it nodes = HOST:PORT, or [mongo main] and mongos = HOST:PORT",
                 "no section to serve");
    check_admin(r);
    for (int s = 1; s <= conf->service_count; s++) {
        check_servers(r, s);
        if (conf->services[s - 1].kind == SERVICE_MONGO) {
            check_mongo(r, s);
        } else {
            check_memory(r, s);
            check_redis(r, s);
        }
        check_secrets(r, s);
        check_gate(r, s);
        for (int i = 0; i < conf->services[s - 1].listens; i++)
            check_listen(r, s, i);
    }
}
