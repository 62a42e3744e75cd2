/* mongomsg.h - MongoDB messages that are small enough to lie in a buffer: looked into, changed, written.
 *
 *   a whole message --mongomsg_document()--> its document --bson_next(), bson_find()--> elements
 *                   --mongomsg_edit()------> the same without some fields, or with others
 *   mongomsg_begin(), bson_...(), mongomsg_finish()--> a message of our own
 *   mongomsg_refuse()--------------------------------> an error in the server's form
 *
 * A pure room: no clock, no socket, no memory but the caller's. Sources: as for mongowire.h, and the servers' list of
 * error codes (error_codes.yml).
 */
#ifndef PUERTA_MONGOMSG_H
#define PUERTA_MONGOMSG_H

#include "bson.h"
#include "mongowire.h"

/* The document of a whole message of n bytes (of OP_MSG the one that is no part of a sequence, of OP_REPLY the first).
 * A bad reader when n is not the message's length, or the message is malformed; wire_feed() says what is wrong. */
struct bson_reader mongomsg_document(const unsigned char *msg, size_t n);

#define MONGOMSG_NAME 40 /* bytes that are kept of what a client calls itself, with a NUL */
/* What the `client` document of a hello calls its sender: application.name, else driver.name; "" if neither is there. As
 * text_shown() has it: UTF-8 without control characters, cut where it is too long. */
void mongomsg_client_name(const struct bson_element *client, char out[MONGOMSG_NAME]);

/* Whether a whole message of n bytes, which w has walked, has no checksum, or the right one. */
bool mongomsg_intact(const unsigned char *msg, size_t n, const struct wire *w);

/* Copies a whole message without the fields of its document that `drop` names (NULL, or an array that NULL ends), and
 * with the elements add[0..add_len) behind the others (what bson_...() wrote without an outer document). Lengths are
 * put right. A checksum is verified, and left out of the copy: it would not fit any more. IDs stay. The fields of all
 * occurrences go. msg and out do not overlap.
 * Gives the length of the copy; 0 with *error when the message is malformed, its checksum is wrong, or the copy has no
 * room (cap, or WIRE_MAX). */
size_t mongomsg_edit(const unsigned char *msg, size_t n, const char *const *drop, const void *add, size_t add_len,
                     unsigned char *out, size_t cap, enum wire_error *error);

/* Begins a message of our own in out[0..cap): header, flags, and the document opened, so that bson_...() can write its
 * fields. opcode: OP_MSG, OP_REPLY, or OP_QUERY (to admin.$cmd, as old handshakes need it). flags are those of OP_MSG. */
void mongomsg_begin(struct bson *b, void *out, size_t cap, enum wire_opcode opcode, uint32_t flags, int32_t request_id,
                    int32_t response_to);

/* The same for an answer to that request: OP_REPLY to OP_QUERY, else OP_MSG, with its id in responseTo. */
void mongomsg_begin_answer(struct bson *b, void *out, size_t cap, const struct wire_header *request, int32_t request_id);

/* Closes what is open and puts the lengths right. Gives the length of the message; 0 if it had no room. */
size_t mongomsg_finish(struct bson *b);

/* Errors that Puerta itself may have to answer with: the server's own numbers and names. */
#define MONGO_CODES(X) \
    X(BAD_VALUE, 2, "BadValue") \
    X(HOST_UNREACHABLE, 6, "HostUnreachable") \
    X(FAILED_TO_PARSE, 9, "FailedToParse") \
    X(UNAUTHORIZED, 13, "Unauthorized") \
    X(TYPE_MISMATCH, 14, "TypeMismatch") \
    X(PROTOCOL_ERROR, 17, "ProtocolError") \
    X(AUTHENTICATION_FAILED, 18, "AuthenticationFailed") \
    X(CURSOR_NOT_FOUND, 43, "CursorNotFound") \
    X(MAX_TIME_EXPIRED, 50, "MaxTimeMSExpired") \
    X(COMMAND_NOT_FOUND, 59, "CommandNotFound") \
    X(NETWORK_TIMEOUT, 89, "NetworkTimeout") \
    X(SHUTDOWN_IN_PROGRESS, 91, "ShutdownInProgress") \
    X(CLIENT_METADATA_FIXED, 186, "ClientMetadataCannotBeMutated") \
    X(NO_SUCH_TRANSACTION, 251, "NoSuchTransaction") \
    X(UNSUPPORTED_OP_QUERY, 352, "UnsupportedOpQueryCommand") \
    X(LOAD_BALANCER_MISMATCH, 354, "LoadBalancerSupportMismatch") \
    X(INTERRUPTED_AT_SHUTDOWN, 11600, "InterruptedAtShutdown") \
    X(RATE_LIMIT_EXCEEDED, 462, "IngressRequestRateLimitExceeded") \
    X(OBJECT_TOO_LARGE, 10334, "BSONObjectTooLarge") \
    X(TOPOLOGY_COUNTER, 51758, "Location51758") \
    X(AWAIT_TIME, 51759, "Location51759") \
    X(AWAIT_HALF, 51760, "Location51760") \
    X(TOPOLOGY_AHEAD, 51761, "Location51761")

enum mongo_code {
#define X(name, number, text) MONGO_CODE_##name = number,
    MONGO_CODES(X)
#undef X
    MONGO_CODE_NONE = 0
};

const char *mongomsg_code_name(enum mongo_code code); /* "HostUnreachable"; a constant */
/* Writes {ok: 0.0, errmsg, code, codeName, errorLabels} as the answer to that request. label: NULL, or one label that
 * drivers retry on ("TransientTransactionError", "RetryableWriteError"). Gives the length, 0 if it had no room. Nothing
 * may be sent for a request with moreToCome: the caller sees to that. */
size_t mongomsg_refuse(void *out, size_t cap, const struct wire_header *request, int32_t request_id, enum mongo_code code,
                       const char *errmsg, const char *label);

#endif
