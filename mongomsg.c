/* mongomsg.c - changes and writes whole MongoDB messages.
 *
 *   edit    header flags [sections before] document         [sections behind] (crc)
 *             |     |           |             | - dropped          |            |
 *   copy    header flags [sections before] document + added [sections behind]  no crc
 *           length  bit 0 clear
 *
 * wire_feed() judges a message first; what is done here relies on the lengths that it found good.
 */
#include "mongomsg.h"
#include "text.h"

/* Walks a whole message. Gives the reader of its document, and the walk itself for what else is asked. */
static struct bson_reader whole_document(const unsigned char *msg, size_t n, struct wire *w)
{
    enum wire_status status;
    const bool reply = n >= WIRE_HEADER && wire_header_get(msg).opcode == WIRE_OP_REPLY;
    size_t at = WIRE_HEADER + 4;

    wire_start(w, reply);
    if (wire_feed(w, msg, n, &status) != n || status != WIRE_WHOLE) {
        w->error = status == WIRE_BAD ? w->error : WIRE_BAD_LENGTH;
        return bson_read(NULL, 0);
    }
    /* The walk found these lengths good. */
    if (w->header.opcode == WIRE_OP_MSG) {
        for (; msg[at] == 1; at += 1 + bson_get32(msg + at + 1))
            ;
        at += 1;
    } else if (reply) {
        at += 16;
    } else {
        at += strlen((const char *)msg + at) + 1 + 8;
    }
    return bson_read(msg + at, n - at);
}

struct bson_reader mongomsg_document(const unsigned char *msg, size_t n)
{
    struct wire w;

    return whole_document(msg, n, &w);
}

void mongomsg_client_name(const struct bson_element *client, char out[MONGOMSG_NAME])
{
    struct bson_reader doc = bson_enter(client);
    struct bson_element e;
    size_t n = 0;
    bool some = bson_find(&doc, "application.name", &e) || bson_find(&doc, "driver.name", &e);
    const char *text = some ? bson_text(&e, &n) : NULL;
    (void)text_shown(text != NULL ? text : "", n, out, MONGOMSG_NAME);
}

bool mongomsg_intact(const unsigned char *msg, size_t n, const struct wire *w)
{
    return (w->flags & WIRE_CHECKSUM_PRESENT) == 0 || bson_get32(msg + n - 4) == wire_crc32c(0, msg, n - 4);
}

static bool dropped(const struct bson_element *e, const char *const *drop)
{
    for (; drop != NULL && *drop != NULL; drop++)
        if (strcmp(e->name, *drop) == 0)
            return true;
    return false;
}

size_t mongomsg_edit(const unsigned char *msg, size_t n, const char *const *drop, const void *add, size_t add_len,
                     unsigned char *out, size_t cap, enum wire_error *error)
{
    struct wire w;
    struct bson b;
    struct bson_element e;
    struct bson_reader r = whole_document(msg, n, &w);
    const unsigned char *doc = r.at;
    size_t sum = (w.flags & WIRE_CHECKSUM_PRESENT) != 0 ? 4 : 0;

    *error = w.error;
    if (r.bad)
        return 0;
    if (!mongomsg_intact(msg, n, &w)) {
        *error = WIRE_BAD_CHECKSUM;
        return 0;
    }
    bson_start(&b, out, cap);
    bson_bytes(&b, msg, (size_t)(doc - 4 - msg));
    bson_document(&b, NULL);
    while (bson_next(&r, &e))
        if (!dropped(&e, drop))
            bson_bytes(&b, e.start, (size_t)(r.at - e.start));
    bson_bytes(&b, add, add_len);
    bson_close(&b);
    bson_bytes(&b, r.end + 1, (size_t)(msg + n - sum - (r.end + 1)));
    if (b.overflow || r.bad) { /* the reader cannot be bad: the walk found the document good */
        *error = WIRE_BAD_ROOM;
        return 0;
    }
    bson_put32(out, (uint32_t)b.len);
    if (w.header.opcode == WIRE_OP_MSG)
        bson_put32(out + WIRE_HEADER, w.flags & ~WIRE_CHECKSUM_PRESENT);
    return b.len;
}

void mongomsg_begin(struct bson *b, void *out, size_t cap, enum wire_opcode opcode, uint32_t flags, int32_t request_id,
                    int32_t response_to)
{
    /* OP_REPLY: flag AwaitCapable as servers have it, no cursor, one document. OP_QUERY: no flags, skip 0, return one. */
    static const unsigned char reply[20] = {8, [16] = 1};
    static const unsigned char query[] = "\0\0\0\0admin.$cmd\0\0\0\0\0\xFF\xFF\xFF\xFF";
    const struct wire_header header = {0, request_id, response_to, (int32_t)opcode};
    unsigned char head[WIRE_HEADER + 4];

    bson_start(b, out, cap);
    wire_header_put(head, &header);
    bson_put32(head + WIRE_HEADER, flags);
    if (opcode == WIRE_OP_MSG) {
        bson_bytes(b, head, sizeof head);
        bson_bytes(b, "", 1);
    } else {
        bson_bytes(b, head, WIRE_HEADER);
        bson_bytes(b, opcode == WIRE_OP_REPLY ? reply : query, opcode == WIRE_OP_REPLY ? sizeof reply : sizeof query - 1);
    }
    bson_document(b, NULL);
}

void mongomsg_begin_answer(struct bson *b, void *out, size_t cap, const struct wire_header *request, int32_t request_id)
{
    mongomsg_begin(b, out, cap, request->opcode == WIRE_OP_QUERY ? WIRE_OP_REPLY : WIRE_OP_MSG, 0, request_id,
                   request->request_id);
}

size_t mongomsg_finish(struct bson *b)
{
    while (b->depth > 0 && !b->overflow)
        bson_close(b);
    if (b->overflow)
        return 0;
    bson_put32(b->out, (uint32_t)b->len);
    return b->len;
}

const char *mongomsg_code_name(enum mongo_code code)
{
    switch (code) {
#define X(name, number, text) case MONGO_CODE_##name: return text;
    MONGO_CODES(X)
#undef X
    case MONGO_CODE_NONE: break;
    }
    return "UnknownError";
}

size_t mongomsg_refuse(void *out, size_t cap, const struct wire_header *request, int32_t request_id, enum mongo_code code,
                       const char *errmsg, const char *label)
{
    struct bson b;

    mongomsg_begin_answer(&b, out, cap, request, request_id);
    bson_double(&b, "ok", 0.0);
    bson_string(&b, "errmsg", errmsg);
    bson_int32(&b, "code", (int32_t)code);
    bson_string(&b, "codeName", mongomsg_code_name(code));
    if (label != NULL) {
        bson_array(&b, "errorLabels");
        bson_string(&b, NULL, label);
        bson_close(&b);
    }
    return mongomsg_finish(&b);
}
