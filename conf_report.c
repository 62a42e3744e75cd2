/*
 * conf_report.c - the report of -t: the options in force, such that they can be read again, and the memory of every table.
 */
#include "conf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#define OTHER_DESCRIPTORS 16 /* stderr, pipes to itself and the parent, the cold queue, files at startup */

/* Base is the struct of the option's scope. */
static void report_list(const struct option *o, const void *base)
{
    const struct conf *conf = base;
    const struct conf_service *s = base;
    char text[ADDRESS_TEXT];

    /* One line each: a list in one line might be longer than a line may be. */
    for (int i = 0; o->type == LISTEN && i < (o->scope == PROCESS ? conf->admins : s->listens); i++)
        printf("%s = %s\n", o->key, address_text(o->scope == PROCESS ? &conf->admin[i] : &s->listen[i], text));
    for (int i = 0; o->type == COMMAND && i < conf->command_count; i++)
        printf("%s = %s %s %s\n", o->key, conf->commands[i].name, command_keys_name(conf->commands[i].keys),
               (conf->commands[i].flags & CMD_READONLY) != 0 ? "read" : "write");
    for (int i = 0; o->type == USER && i < s->user_count; i++) /* its keys are not shown, so it could not be read again */
        printf("#%s = %s ******\n", o->key, s->users[i].name);
    const struct subnets *nets = (const void *)((const char *)base + o->offset);
    for (int i = 0; o->type == NETS && i < nets->count; i++)
        printf("%s = %s\n", o->key, subnet_text(&nets->at[i], text));
    for (int i = 0; o->type == NODES && i < s->node_count; i++) {
        const struct host_port *n = &s->nodes[i];
        if (n->port == 0)
            printf("%s = unix:%s", o->key, n->host);
        else
            printf(strchr(n->host, ':') != NULL ? "%s = [%s]:%u" : "%s = %s:%u", o->key, n->host, (unsigned)n->port);
        printf(s->weights[i] > 1 ? "*%u\n" : "\n", (unsigned)s->weights[i]);
    }
}

static void report_option(const struct option *o, const void *base)
{
    const char *field = (const char *)base + o->offset;
    char text[OPTION_TEXT];

    switch (o->type) {
    case SIZE: case TIME: case COUNT: case BOOL: case ENUM:
        printf("%s = %s\n", o->key, option_show(o, base, text));
        break;
    case LISTEN: case NODES: case COMMAND: case USER: case NETS: report_list(o, base); break;
    case TEXT: /* nothing in a file has both quotes and what needs them */
        printf(strchr(field, '"') != NULL ? "%s = %s\n" : "%s = \"%s\"\n", o->key, field);
        break;
    case SECRET: printf("%s = %s\n", o->key, field[0] != '\0' ? "******" : "\"\""); break;
    case SECRET_FILE: /* has been read: where there is an option for the password, that stands for it */
        if (o == options || o[-1].type != SECRET || o[-1].offset != o->offset)
            printf(field[0] != '\0' ? "#%s = ******\n" : "#%s = \"\"\n", o->key);
        break;
    case KEYFILE: printf(field[0] != '\0' ? "#%s = ******\n" : "#%s = \"\"\n", o->key); break;
    }
}

size_t conf_descriptors(const struct conf *conf)
{
    size_t n = (size_t)conf->max_clients + conf_upstreams(conf) + conf_probes(conf) + conf_admins(conf) + (size_t)conf->admins +
               conf_arrivals(conf) + OTHER_DESCRIPTORS;

    for (int i = 0; i < conf->service_count; i++)
        n += (size_t)conf->services[i].listens;
    return n;
}

/* The kernel's share is not in the arena, but it is memory all the same. */
static void report_kernel(const struct conf *conf)
{
    size_t sockets = (size_t)conf->max_clients + conf_upstreams(conf) + conf_probes(conf);
    uint64_t each = 0;
    bool known = true;

    for (int i = 0; i < conf->service_count; i++) {
        uint64_t sum = (uint64_t)conf->services[i].receive_buffer + (uint64_t)conf->services[i].send_buffer;
        known = known && conf->services[i].receive_buffer != 0 && conf->services[i].send_buffer != 0;
        each = sum > each ? sum : each;
    }
    if (known)
        printf("# kernel socket buffers  %10zu %12llu %14llu at most (Linux books twice that)\n", sockets,
               (unsigned long long)each, (unsigned long long)(sockets * each));
    else
        printf("# kernel socket buffers  %10zu system default (receive_buffer and send_buffer bound it)\n", sockets);
    printf("# descriptors needed     %10zu\n", conf_descriptors(conf));
}

void conf_report(const struct conf *conf)
{
    const char *table;
    size_t count, size;

    for (int s = 0; s <= conf->service_count; s++) {
        const void *base = s == 0 ? (const void *)conf : (const void *)&conf->services[s - 1];
        enum option_scope scope = conf_scope(conf, s);
        if (s == 0)
            printf("[puerta]\n");
        else
            printf("\n[%s %s]\n", option_scopes[scope], conf->services[s - 1].name);
        for (size_t i = 0; i < option_count; i++)
            if (options[i].scope == scope)
                report_option(&options[i], base);
    }
    printf("\n# %-22s %10s %12s %14s\n", "memory", "count", "bytes each", "bytes");
    for (int i = 0; arena_row(i, &table, &count, &size); i++)
        printf("# %-22s %10zu %12zu %14llu\n", table, count, size, (unsigned long long)count * size);
    if (arena_bytes() == SIZE_MAX)
        printf("# %-22s more than this machine can address: lower chunks or the max_ options\n", "total");
    else
        printf("# %-22s %10s %12s %14zu\n", "total", "", "", arena_bytes());
    report_kernel(conf);
    if (fflush(stdout) != 0)
        fatal(EX_IOERR, "the report cannot be written: %s", strerror(errno));
}
