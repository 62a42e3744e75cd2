/* slotmap.h - which node owns each of the 16384 hash slots of a Redis Cluster.
 *
 *   key --slotmap_slot()--> slot --slotmap.owner[]--> backend index
 *                                     ^
 *   CLUSTER SLOTS reply --slotmap_stage_feed()--> slotmap_stage --(the caller
 *   -MOVED line --slotmap_redirect()--> one slot    swaps it in)--> slotmap
 *
 * A pure room: no clock, no socket, no memory but the caller's. The facts are
 * those of the Redis Cluster specification and of the servers' own replies.
 */
#ifndef PUERTA_SLOTMAP_H
#define PUERTA_SLOTMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "resp.h"

#define SLOTMAP_SLOTS 16384
#define SLOTMAP_NONE 0xFFFF    /* an owner: nobody; a node index: no node */
#define SLOTMAP_HOST_CAP 256   /* a DNS name is at most 253 bytes, and the NUL */
#define SLOTMAP_ERROR_CAP 160  /* one line of a log */
#define SLOTMAP_LINE_CAP 288   /* a type byte and a host, with some to spare; errors are cut there */
#define SLOTMAP_DEPTH 8        /* reply, range, node, metadata, and some to spare */
#define SLOTMAP_BUCKETS 256    /* chains that find a node by host and port */
#define SLOTMAP_REPLY_MAX (64 << 20) /* bytes; 16384 ranges of 6 nodes with long names are half of it */

/* The slot of a key: CRC16/XMODEM of the key, or of its hash tag: what stands
 * between the first '{' and the first '}' after it, if that is not empty.
 * Any bytes, any length. */
uint16_t slotmap_slot(const unsigned char *key, size_t len);

/* The map in use. `owner` holds the caller's backend indexes. */
struct slotmap {
    uint16_t owner[SLOTMAP_SLOTS];
    uint32_t epoch;  /* grows with every change */
    uint32_t served; /* slots that have an owner */
};

/* Leaves every slot without an owner; the epoch grows, it does not restart. For
 * the first use the struct must be zeroed (static storage is). */
void slotmap_clear(struct slotmap *map);

/* Gives one slot to an owner, or to nobody (SLOTMAP_NONE). True if that changed
 * the map; false if it was so already or the slot is out of bounds. */
bool slotmap_set(struct slotmap *map, uint16_t slot, uint16_t owner);

/* One node of a staged map. An empty host means: the host of the node that
 * answered (the server sent nil, an empty string or "?"). */
struct slotmap_node {
    char host[SLOTMAP_HOST_CAP];
    uint16_t port;
    uint16_t master; /* index of its master; its own index if it is one */
    uint16_t next;   /* private: the chain of its bucket */
};

/* One open array, map, set or attribute of the reply. Private. */
struct slotmap_frame {
    uint32_t left, index; /* elements still to come; place of the one that comes next */
    uint8_t kind;
    bool attribute; /* does not count as an element of its parent */
};

/* A CLUSTER SLOTS reply being read. The first block is the result. */
struct slotmap_stage {
    uint16_t owner[SLOTMAP_SLOTS]; /* index in nodes, or SLOTMAP_NONE */
    struct slotmap_node *nodes;    /* the caller's array */
    uint16_t node_cap, node_count;
    uint32_t served; /* slots that have an owner */
    bool server_error; /* `error` is what the server said, not our verdict */
    char error[SLOTMAP_ERROR_CAP]; /* one printable line, after RESP_BAD */

    /* Private: where the reply was left. */
    enum resp_status status;
    struct slotmap_frame frame[SLOTMAP_DEPTH];
    uint32_t depth, start, end, body_left; /* open frames; the range's bounds; body_left counts the CRLF */
    uint64_t total;                        /* bytes taken so far */
    uint16_t master, port, line_len;       /* of the range; of the node */
    uint8_t fields;                        /* of the node: its host and port have come */
    char type;                             /* of the string whose body is being read */
    uint16_t bucket[SLOTMAP_BUCKETS];
    char host[SLOTMAP_HOST_CAP], line[SLOTMAP_LINE_CAP]; /* line: a header line or the beginning of a string, so far */
};

/* Makes the stage ready for one reply. `nodes` is the caller's, `cap` (below
 * SLOTMAP_NONE) how many fit; masters and replicas both take a place. */
void slotmap_stage_begin(struct slotmap_stage *stage, struct slotmap_node *nodes, uint16_t cap);

/* Reads the next bytes of the reply, RESP2 or RESP3. `*used` is how many were
 * taken: all of them after RESP_MORE, up to the end of the reply after
 * RESP_WHOLE, unspecified but at most n after RESP_BAD.
 * RESP_BAD: the reply is an error of the server (server_error) or is refused;
 * `error` says why. The verdict stays until the next slotmap_stage_begin().
 * RESP_WHOLE does not mean that every slot is served: see `served`. */
enum resp_status slotmap_stage_feed(struct slotmap_stage *stage, const unsigned char *p, size_t n,
                                    size_t *used);

/* A redirection. An empty host means the host of the node that sent it. */
struct slotmap_redirect {
    bool ask; /* ASK: this once; else MOVED: from now on */
    uint16_t slot, port;
    char host[SLOTMAP_HOST_CAP];
};

/* Reads "-MOVED 3999 host:port\r\n" or "-ASK 3999 host:port\r\n": the whole line
 * and nothing behind it. The host may be empty, "?" (given as empty), a name, an
 * IPv4 address, or IPv6 without brackets. False for any other line; `out` is
 * then undefined. */
bool slotmap_redirect(const unsigned char *line, size_t n, struct slotmap_redirect *out);

#endif
