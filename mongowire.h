/* mongowire.h - what a router has to know of a MongoDB message while its bytes pass.
 *
 *   bytes, cut anywhere --wire_feed()--> WIRE_WHOLE: where the message ends
 *                                        struct wire: what it is about (wire_has(), wire_true(), wire.number[] ...)
 *
 * A pure room: no clock, no socket, no memory but the caller's. The walker keeps no bytes of a message but what struct
 * wire has room for; arrays, batches and documents that mean nothing to a router are passed over by their length.
 *
 * Sources: the MongoDB Wire Protocol (mongodb.com/docs, "MongoDB Wire Protocol"), BSON 1.1 (bsonspec.org), the
 * specifications of OP_MSG, the handshake, sessions, transactions and load balancers in the MongoDB driver
 * specifications. All integers are little-endian. Server behaviour: MongoDB 4.4 to 8.0.
 */
#ifndef PUERTA_MONGOWIRE_H
#define PUERTA_MONGOWIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bson.h"

#define WIRE_HEADER 16           /* bytes */
#define WIRE_MAX 48000000U       /* bytes of a message: maxMessageSizeBytes of every server version */
#define WIRE_DEPTH 4             /* the message, its document, client, application: what is entered never nests deeper */
#define WIRE_COMMAND_CAP 32      /* the longest command of a server has 28 letters */
#define WIRE_DB_CAP 64           /* a database name has at most 63 bytes */
#define WIRE_HELD_CAP 64         /* gathered pieces: field names that are known, the texts above, numbers */

enum wire_opcode {
    WIRE_OP_REPLY = 1, WIRE_OP_UPDATE = 2001, WIRE_OP_INSERT = 2002, WIRE_OP_QUERY = 2004, WIRE_OP_GET_MORE = 2005,
    WIRE_OP_DELETE = 2006, WIRE_OP_KILL_CURSORS = 2007, WIRE_OP_COMPRESSED = 2012, WIRE_OP_MSG = 2013
};

/* Flag bits of OP_MSG. Of the low 16 the others are an error, of the high 16 they mean nothing. */
#define WIRE_CHECKSUM_PRESENT 1U
#define WIRE_MORE_TO_COME 2U
#define WIRE_EXHAUST_ALLOWED (1U << 16)

/* What can be wrong with a message. After any of these nothing that follows on the connection can be read, but for
 * COMPRESSED, OPCODE and REMOVED: there the header is sound, and wire.length says where the next message begins. */
#define WIRE_ERRORS(X) \
    X(NONE, "no error") \
    X(LENGTH, "the length of a message is not 16 to 48000000") \
    X(OPCODE, "unknown opcode") \
    X(REMOVED, "an opcode that MongoDB 5.1 removed") \
    X(COMPRESSED, "a compressed message, though compression was not agreed on") \
    X(FLAGS, "unknown required flag bits in OP_MSG") \
    X(SECTION, "unknown kind of section in OP_MSG") \
    X(SEQUENCE, "the length of a document sequence is wrong") \
    X(NO_DOCUMENT, "OP_MSG without a document") \
    X(TWO_DOCUMENTS, "OP_MSG with two documents") \
    X(SHORT, "the message ends before its parts do") \
    X(DOCUMENT, "the length of a document is wrong") \
    X(TYPE, "unknown type of a BSON element") \
    X(VALUE, "a BSON value is longer than its document") \
    X(NAME, "the name of a BSON element has no end") \
    X(CHECKSUM, "the checksum of a message is wrong") \
    X(ROOM, "a message is too long to be changed or written")

enum wire_error {
#define X(name, text) WIRE_BAD_##name,
    WIRE_ERRORS(X)
#undef X
    WIRE_ERROR_COUNT
};

/* The text of an error, in English; never NULL. */
const char *wire_error_text(enum wire_error error);

/* ----------------------------------------------------------------- header */

struct wire_header {
    uint32_t length;     /* of the whole message, header included */
    int32_t request_id;  /* chosen by the sender */
    int32_t response_to; /* of a reply: the request's id */
    int32_t opcode;      /* enum wire_opcode, or what the peer made up */
};

/* Reads and writes the WIRE_HEADER bytes at p. No check: wire_feed() has the limits. */
struct wire_header wire_header_get(const unsigned char *p);
void wire_header_put(unsigned char *p, const struct wire_header *h);

/* CRC-32C (Castagnoli) of n bytes, going on from crc; the first call gives 0. "123456789" has 0xE3069283. About 3 ns a
 * byte: meant for messages that are small. */
uint32_t wire_crc32c(uint32_t crc, const unsigned char *p, size_t n);

/* ----------------------------------------------------------------- walker */

/* What a message can have. Of two fields of one name only the first is looked at, as everywhere here: servers refuse
 * such commands, or do the same. A field of an unexpected type is as if it were not there, but for those of the last
 * group. */
enum wire_field {
    /* Numbers and booleans, in wire.number[]. A double loses its fraction; one beyond 64 bits counts as 0. */
    WIRE_COMMAND,           /* request: the value of the first field (getMore's cursor), if it is a number */
    WIRE_TXN_NUMBER, WIRE_AUTOCOMMIT, WIRE_START_TRANSACTION, WIRE_LOAD_BALANCED, WIRE_MAX_AWAIT_MS,
    WIRE_HELLO_OK,          /* of a request or of a reply */
    WIRE_OK, WIRE_CODE,
    WIRE_CURSOR_ID,         /* reply: cursor.id; request: the first of the array `cursors` (killCursors) */
    WIRE_QUIESCE_MS, WIRE_MIN_VERSION, WIRE_MAX_VERSION, WIRE_MAX_BSON,
    WIRE_MAX_MESSAGE, WIRE_MAX_BATCH, WIRE_SESSION_MINUTES, WIRE_CONNECTION_ID,
    WIRE_WRITABLE,          /* isWritablePrimary or ismaster */
    WIRE_TOPOLOGY_COUNTER,  /* topologyVersion.counter */
    WIRE_APPLICATION,       /* client.application.name, as a hash (FNV-1a, 64 bits) */
    WIRE_OS_TYPE,           /* client.os.type, the same */
    WIRE_NUMBERS,
    /* Values that stand in fields of their own. */
    WIRE_DB = WIRE_NUMBERS, /* wire.db */
    WIRE_LSID,              /* lsid.id: wire.lsid */
    WIRE_TOPOLOGY_PROCESS,  /* topologyVersion.processId: wire.process_id */
    WIRE_ISDBGRID,          /* reply: msg is "isdbgrid" */
    /* Of any type: only that they are there. */
    WIRE_SESSION,           /* lsid, whatever is in it */
    WIRE_CLIENT, WIRE_CLIENT_APPLICATION, WIRE_CLIENT_OS, WIRE_COMPRESSION, WIRE_TOPOLOGY, WIRE_RECOVERY_TOKEN,
    WIRE_SASL_MECHS, WIRE_SPECULATIVE, WIRE_ERROR_LABELS, WIRE_CURSOR, WIRE_SERVICE_ID, WIRE_SET_NAME,
    WIRE_FIELDS
};

enum wire_status {
    WIRE_MORE,  /* all bytes given were used, and the message is not over */
    WIRE_WHOLE, /* the message ended with the last byte used */
    WIRE_BAD    /* wire.error says why */
};

/* One message under way. wire_start() begins one. */
struct wire {
    struct wire_header header; /* once header.length is not 0 */
    uint32_t used;             /* bytes of this message so far */
    uint32_t flags;            /* of OP_MSG; 0 for the others */
    uint64_t fields;           /* bit set of enum wire_field: see wire_has() */
    enum wire_error error;
    bool reply;                /* as given to wire_start() */
    bool known;                /* the document is over: no further field can come, though the message goes on */
    bool hello;                /* request: the command is hello, isMaster or ismaster */
    bool admin;                /* OP_QUERY: its collection is admin.$cmd, where handshakes go */

    /* Private: where the walk was left. */
    uint8_t step, depth, type;
    bool first;                      /* the next element is the first of the document */
    uint8_t context[WIRE_DEPTH];
    uint32_t end[WIRE_DEPTH];        /* offsets in the message: of its sections, and of each open document */
    uint32_t rest;                   /* bytes to be passed over, or of a text; texts to come of a regular expression */
    uint32_t held_len;               /* bytes of the piece under way; those beyond WIRE_HELD_CAP are not kept */
    uint64_t seen;                   /* fields whose name came, with any type */
    uint64_t hash;                   /* of the text under way */
    const void *word;                /* what the element under way means; NULL: nothing */

    /* Meaningful only where `fields` says so. */
    int64_t number[WIRE_NUMBERS];
    unsigned char lsid[16];
    unsigned char process_id[12];
    char command[WIRE_COMMAND_CAP];  /* request: the name of the first field, cut if longer; "" not known yet */
    char db[WIRE_DB_CAP];            /* cut if longer; "" not known yet */

    unsigned char held[WIRE_HELD_CAP];
};

/* Begins a message: a request (of a client), or a reply (of a server). Which of the two decides what fields mean. */
void wire_start(struct wire *w, bool reply);

/* Takes the next n bytes of a stream and gives how many of them belong to this message. A message that is whole or bad
 * takes no more bytes and gives the same status again. p may be NULL when n is 0.
 * Looks at each byte once at most, however they are cut, and does not look at bytes it can pass over: document
 * sequences, arrays but `cursors`, and documents other than lsid, client, topologyVersion and cursor. What it does not look at it does
 * not judge, the CRC included. Needs no memory besides *w, does not recurse, and the lengths in the message cannot lead
 * it beyond the message. Requests are OP_MSG and OP_QUERY, replies OP_MSG and OP_REPLY; of OP_REPLY's documents the
 * first is walked. */
size_t wire_feed(struct wire *w, const unsigned char *p, size_t n, enum wire_status *status);

static inline bool wire_has(const struct wire *w, enum wire_field field)
{
    return (w->fields >> field & 1) != 0;
}

/* The message has this field, and it is not 0, not false. */
static inline bool wire_true(const struct wire *w, enum wire_field field)
{
    return wire_has(w, field) && w->number[field] != 0;
}

/* The request belongs to a transaction (autocommit: false), and not only to a retryable write. */
static inline bool wire_in_transaction(const struct wire *w)
{
    return wire_has(w, WIRE_AUTOCOMMIT) && w->number[WIRE_AUTOCOMMIT] == 0 && wire_has(w, WIRE_TXN_NUMBER);
}

/* OP_MSG with moreToCome: a request that gets no reply, also when it fails; a reply behind which another comes. */
static inline bool wire_more_to_come(const struct wire *w)
{
    return (w->flags & WIRE_MORE_TO_COME) != 0;
}

/* The request is this command. Names of commands are told apart by case, as servers do. */
static inline bool wire_is(const struct wire *w, const char *command)
{
    return strcmp(w->command, command) == 0;
}

#endif
