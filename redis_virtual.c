/*
 * redis_virtual.c - CLUSTER: Puerta as the one node of a cluster, so that clients which know of clusters work too.
 *
 *   the client's own way in (net_local), or `announce` --> host:port --.
 *   the section's name --hash--> 40 digits ----------------------------+--> SLOTS SHARDS NODES: one node, 0-16383
 *
 * Nothing of the real cluster is shown: a client that knew its nodes would go around Puerta.
 */
#include "redis_say.h"

#include <stdio.h>
#include <string.h>

#define BUS_OFFSET 10000u /* a node's bus port is so far above its own */

/* ----------------------------------------------------------------- itself */

/* FNV-1a. */
static uint32_t hash(uint32_t h, const char *text)
{
    for (; *text != '\0'; text++) {
        h = (h ^ (unsigned char)*text) * 16777619u;
    }
    return h;
}

const char *virtual_id(const char *kind, const char *name, char out[41])
{
    uint32_t h = hash(2166136261u, kind);
    for (int i = 0; i < 5; i++) {
        h = hash(h ^ (uint32_t)i, name);
        h = (h ^ h >> 15) * 0x9E3779B1u; /* so that short names give digits as different as long ones */
        snprintf(out + (ptrdiff_t)8 * i, 9, "%08x", (unsigned)h);
    }
    return out;
}

struct host_port virtual_address(const struct client *c)
{
    struct host_port to = { "", 0 };
    const char *announce = c->service->conf->announce, *why;
    char text[ADDRESS_TEXT];
    struct address local;
    if (announce[0] != '\0') {
        must(host_port_split(announce, strlen(announce), to.host, &to.port, &why)); /* conf_check.c has checked it */
    } else if (net_local(c->conn->fd, &local) && local.u.sa.sa_family != AF_UNIX) {
        address_text(&local, text);
        if (!host_port_split(text, strlen(text), to.host, &to.port, &why)) {
            to.host[0] = '\0';
        }
    }
    return to;
}

static const char *node_id(const struct client *c, char out[41])
{
    return virtual_id("node", c->service->conf->name, out);
}

/* ---------------------------------------------------------------- answers */

static void slots(struct client *c)
{
    struct host_port at = virtual_address(c);
    char id[41];
    say_format("*1\r\n*3\r\n:0\r\n:%d\r\n*4\r\n", SLOTMAP_SLOTS - 1);
    say_name(at.host);
    say_header(':', at.port);
    say_name(node_id(c, id));
    say_map(0);
}

static void shards(struct client *c)
{
    struct host_port at = virtual_address(c);
    char id[41];
    say_text("*1\r\n");
    say_map(2);
    say_format("$5\r\nslots\r\n*2\r\n:0\r\n:%d\r\n$5\r\nnodes\r\n*1\r\n", SLOTMAP_SLOTS - 1);
    say_map(7);
    say_name("id");
    say_name(node_id(c, id));
    say_text("$4\r\nport\r\n");
    say_header(':', at.port);
    say_text("$2\r\nip\r\n");
    say_name(at.host);
    say_text("$8\r\nendpoint\r\n");
    say_name(at.host);
    say_text("$4\r\nrole\r\n$6\r\nmaster\r\n$18\r\nreplication-offset\r\n:0\r\n$6\r\nhealth\r\n$6\r\nonline\r\n");
}

static void nodes(struct client *c)
{
    struct host_port at = virtual_address(c);
    char id[41];
    say_as_text();
    say_format("%s %s:%u@%u myself,master - 0 0 1 connected 0-%d\n", node_id(c, id), at.host, (unsigned)at.port,
               at.port > 0 && at.port <= UINT16_MAX - BUS_OFFSET ? at.port + BUS_OFFSET : 0u, SLOTMAP_SLOTS - 1);
}

static void info(struct client *c)
{
    (void)c;
    say_as_text();
    say_format("cluster_state:ok\r\ncluster_slots_assigned:%d\r\ncluster_slots_ok:%d\r\ncluster_slots_pfail:0\r\n"
               "cluster_slots_fail:0\r\ncluster_known_nodes:1\r\ncluster_size:1\r\ncluster_current_epoch:1\r\n"
               "cluster_my_epoch:1\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n"
               "total_cluster_links_buffer_limit_exceeded:0\r\n", SLOTMAP_SLOTS, SLOTMAP_SLOTS);
}

static void my_id(struct client *c)
{
    char id[41];
    say_name(node_id(c, id));
}

static void my_shard_id(struct client *c)
{
    char id[41];
    say_name(virtual_id("shard", c->service->conf->name, id));
}

static void links(struct client *c)
{
    (void)c;
    say_text("*0\r\n");
}

static void help(struct client *c)
{
    static const char *const lines[] = {
        "COUNTKEYSINSLOT <slot>", "    Return the number of keys in <slot>, as its owner tells it.",
        "GETKEYSINSLOT <slot> <count>", "    Return key names of <slot>, as its owner tells them.",
        "INFO", "    Return information about the cluster, whose one node is this proxy.",
        "KEYSLOT <key>", "    Return the hash slot for <key>.",
        "LINKS", "    Return the links to other nodes: none.",
        "MYID", "    Return the node id.",
        "NODES", "    Return the cluster's configuration: one node.",
        "REPLICAS <node-id>", "    Return the replicas of the node: none.",
        "SLOTS", "    Return the slots and who serves them.",
        "SHARDS", "    Return the slots and who serves them, by shard.", NULL,
    };
    (void)c;
    say_help("CLUSTER", lines);
}

/* What is asked of a node by its id: the only one there is has none of it. */
static void of_node(struct client *c, const struct request *q, const char *none)
{
    struct word id = request_word(q, 2);
    char mine[41];
    if (word_is(id, node_id(c, mine))) {
        say_text(none);
    } else {
        say_error("ERR Unknown node %.*s", word_shown(id), id.p);
    }
}

void virtual_answer(struct client *c, const struct request *q)
{
    static const struct { const char *sub; void (*answer)(struct client *); } answers[] = {
        { "slots", slots }, { "shards", shards }, { "nodes", nodes }, { "info", info }, { "myid", my_id },
        { "myshardid", my_shard_id }, { "links", links }, { "help", help },
    };
    const char *bar = strchr(q->command->name, '|'), *sub = bar != NULL ? bar + 1 : "";
    struct word key = request_word(q, 2);
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        if (strcmp(sub, answers[i].sub) == 0) {
            answers[i].answer(c);
            return;
        }
    }
    if (strcmp(sub, "keyslot") == 0) {
        say_header(':', slotmap_slot((const unsigned char *)key.p, key.n));
    } else if (strcmp(sub, "replicas") == 0 || strcmp(sub, "slaves") == 0) {
        of_node(c, q, "*0\r\n");
    } else if (strcmp(sub, "count-failure-reports") == 0) {
        of_node(c, q, ":0\r\n");
    } else {
        say_unknown(q);
    }
}
