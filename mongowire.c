/* mongowire.c - walks MongoDB messages that come in pieces.
 *
 *   OP_MSG    header flags [0 document] [1 size name documents...] ... crc
 *   step      HEADER FLAGS SECTION      SECTION, SKIP              CHECKSUM --> OVER
 *   OP_QUERY  header flags namespace counts document     rest
 *   step      HEADER NAMESPACE       COUNTS DOCUMENT     SKIP --> OVER
 *   OP_REPLY  header flags, cursor, counts  document     other documents
 *   step      HEADER REPLY_HEAD             DOCUMENT     SKIP --> OVER
 *
 *   document  length  type name value  type name value ... 0
 *   step      DOCUMENT TYPE NAME VALUE  -- of a word that is known: NUMBER, TEXT, ID, or a document that is entered
 *                                       -- else SKIP
 *
 * A piece that lies wholly in the buffer is read in place; one that is cut is gathered in wire.held first. Each step
 * looks at no byte before it knows that the message has it, so that every cut gives the same outcome.
 */
#include "mongowire.h"

enum step {
    AT_HEADER, AT_FLAGS, AT_SECTION, AT_SEQUENCE, AT_NAMESPACE, AT_COUNTS, AT_REPLY_HEAD, AT_DOCUMENT, AT_TYPE, AT_NAME,
    AT_VALUE, AT_NUMBER, AT_TEXT, AT_ID, AT_REGEX, AT_SKIP, AT_CHECKSUM, AT_OVER
};

/* What became of a step. */
enum going { ON, WAIT, WHOLE, BAD };

static const char *const error_texts[] = {
#define X(name, text) text,
    WIRE_ERRORS(X)
#undef X
};

const char *wire_error_text(enum wire_error error)
{
    return (unsigned)error < WIRE_ERROR_COUNT ? error_texts[error] : "unknown error";
}

/* ----------------------------------------------------------------- header */

struct wire_header wire_header_get(const unsigned char *p)
{
    struct wire_header h = {bson_get32(p), bson_signed32(bson_get32(p + 4)), bson_signed32(bson_get32(p + 8)),
                            bson_signed32(bson_get32(p + 12))};

    return h;
}

void wire_header_put(unsigned char *p, const struct wire_header *h)
{
    bson_put32(p, h->length);
    bson_put32(p + 4, (uint32_t)h->request_id);
    bson_put32(p + 8, (uint32_t)h->response_to);
    bson_put32(p + 12, (uint32_t)h->opcode);
}

uint32_t wire_crc32c(uint32_t crc, const unsigned char *p, size_t n)
{
    /* What four bits at the low end become after four steps with the reflected polynomial 0x82F63B78. */
    static const uint32_t nibble[16] = {0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1, 0x417B1DBC, 0x5125DAD3,
                                        0x61C69362, 0x7198540D, 0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9,
                                        0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75};

    crc = ~crc;
    for (; n > 0; n--) {
        crc ^= *p++;
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }
    return ~crc;
}

/* ------------------------------------------------------------------ words */

/* The documents whose fields mean something. */
enum context { IN_REQUEST, IN_REPLY, IN_SESSION, IN_CLIENT, IN_APPLICATION, IN_OS, IN_TOPOLOGY, IN_CURSOR, IN_KILLED,
               IN_NOTHING };

/* What is taken of a field. */
enum take { TAKE_PRESENCE, TAKE_NUMBER, TAKE_TEXT, TAKE_ID, TAKE_DOCUMENT };

struct word {
    const char *name;
    uint8_t len, field, take, enter;
};

#define WORD(name, field, take) {name, sizeof name - 1, field, take, IN_NOTHING}
#define ENTER(name, field, context) {name, sizeof name - 1, field, TAKE_DOCUMENT, context}

static const struct word request_words[] = {
    WORD("$db", WIRE_DB, TAKE_TEXT),
    ENTER("lsid", WIRE_SESSION, IN_SESSION),
    WORD("txnNumber", WIRE_TXN_NUMBER, TAKE_NUMBER),
    WORD("autocommit", WIRE_AUTOCOMMIT, TAKE_NUMBER),
    WORD("startTransaction", WIRE_START_TRANSACTION, TAKE_NUMBER),
    WORD("recoveryToken", WIRE_RECOVERY_TOKEN, TAKE_PRESENCE),
    ENTER("client", WIRE_CLIENT, IN_CLIENT),
    WORD("compression", WIRE_COMPRESSION, TAKE_PRESENCE),
    WORD("loadBalanced", WIRE_LOAD_BALANCED, TAKE_NUMBER),
    ENTER("topologyVersion", WIRE_TOPOLOGY, IN_TOPOLOGY),
    WORD("maxAwaitTimeMS", WIRE_MAX_AWAIT_MS, TAKE_NUMBER),
    WORD("helloOk", WIRE_HELLO_OK, TAKE_NUMBER),
    WORD("saslSupportedMechs", WIRE_SASL_MECHS, TAKE_PRESENCE),
    WORD("speculativeAuthenticate", WIRE_SPECULATIVE, TAKE_PRESENCE),
    ENTER("cursors", WIRE_CURSOR, IN_KILLED),
};
static const struct word reply_words[] = {
    WORD("ok", WIRE_OK, TAKE_NUMBER),
    WORD("code", WIRE_CODE, TAKE_NUMBER),
    WORD("errorLabels", WIRE_ERROR_LABELS, TAKE_PRESENCE),
    ENTER("cursor", WIRE_CURSOR, IN_CURSOR),
    WORD("msg", WIRE_ISDBGRID, TAKE_TEXT),
    WORD("remainingQuiesceTimeMillis", WIRE_QUIESCE_MS, TAKE_NUMBER),
    ENTER("topologyVersion", WIRE_TOPOLOGY, IN_TOPOLOGY),
    WORD("minWireVersion", WIRE_MIN_VERSION, TAKE_NUMBER),
    WORD("maxWireVersion", WIRE_MAX_VERSION, TAKE_NUMBER),
    WORD("maxBsonObjectSize", WIRE_MAX_BSON, TAKE_NUMBER),
    WORD("maxMessageSizeBytes", WIRE_MAX_MESSAGE, TAKE_NUMBER),
    WORD("maxWriteBatchSize", WIRE_MAX_BATCH, TAKE_NUMBER),
    WORD("logicalSessionTimeoutMinutes", WIRE_SESSION_MINUTES, TAKE_NUMBER),
    WORD("connectionId", WIRE_CONNECTION_ID, TAKE_NUMBER),
    WORD("isWritablePrimary", WIRE_WRITABLE, TAKE_NUMBER),
    WORD("ismaster", WIRE_WRITABLE, TAKE_NUMBER),
    WORD("helloOk", WIRE_HELLO_OK, TAKE_NUMBER),
    WORD("compression", WIRE_COMPRESSION, TAKE_PRESENCE),
    WORD("serviceId", WIRE_SERVICE_ID, TAKE_PRESENCE),
    WORD("setName", WIRE_SET_NAME, TAKE_PRESENCE),
};
static const struct word session_words[] = {WORD("id", WIRE_LSID, TAKE_ID)};
static const struct word client_words[] = {ENTER("application", WIRE_CLIENT_APPLICATION, IN_APPLICATION),
                                           ENTER("os", WIRE_CLIENT_OS, IN_OS)};
static const struct word application_words[] = {WORD("name", WIRE_APPLICATION, TAKE_TEXT)};
static const struct word os_words[] = {WORD("type", WIRE_OS_TYPE, TAKE_TEXT)};
static const struct word topology_words[] = {WORD("processId", WIRE_TOPOLOGY_PROCESS, TAKE_ID),
                                             WORD("counter", WIRE_TOPOLOGY_COUNTER, TAKE_NUMBER)};
static const struct word cursor_words[] = {WORD("id", WIRE_CURSOR_ID, TAKE_NUMBER)};
static const struct word killed_words[] = {WORD("0", WIRE_CURSOR_ID, TAKE_NUMBER)};
static const struct word command_word = WORD("", WIRE_COMMAND, TAKE_NUMBER); /* the first field, whatever its name */

#define VOCABULARY(words) {words, sizeof words / sizeof words[0]}
static const struct { const struct word *words; size_t count; } vocabularies[] = {
    [IN_REQUEST] = VOCABULARY(request_words), [IN_REPLY] = VOCABULARY(reply_words),
    [IN_SESSION] = VOCABULARY(session_words), [IN_CLIENT] = VOCABULARY(client_words),
    [IN_APPLICATION] = VOCABULARY(application_words), [IN_OS] = VOCABULARY(os_words),
    [IN_TOPOLOGY] = VOCABULARY(topology_words), [IN_CURSOR] = VOCABULARY(cursor_words),
    [IN_KILLED] = VOCABULARY(killed_words),
};

/* ----------------------------------------------------------------- walker */

/* The bytes of this call; those before `at` are taken. */
struct span {
    const unsigned char *begin, *at, *end;
};

static enum going bad(struct wire *w, enum wire_error error)
{
    w->error = error;
    return BAD;
}

/* Offset in the message of the first byte of the piece under way, which may be gathered in part. */
static uint32_t position(const struct wire *w, const struct span *in)
{
    return w->used + (uint32_t)(in->at - in->begin) - w->held_len;
}

/* Bytes that the document under way (or the part of the message without one) still has, the piece under way included. */
static uint32_t room(const struct wire *w, const struct span *in)
{
    return w->end[w->depth] - position(w, in);
}

/* The next n bytes (WIRE_HELD_CAP at most) in one piece, valid until the next step; NULL when they have not all come. */
static const unsigned char *take(struct wire *w, struct span *in, uint32_t n)
{
    const size_t have = (size_t)(in->end - in->at), want = n - w->held_len, part = have < want ? have : want;
    const unsigned char *p = in->at;

    if (w->held_len == 0 && part == n) {
        in->at += n;
        return p;
    }
    if (part > 0)
        memcpy(w->held + w->held_len, in->at, part);
    in->at += part;
    w->held_len += (uint32_t)part;
    if (w->held_len < n)
        return NULL;
    w->held_len = 0;
    return w->held;
}

/* The next NUL-terminated text, and its length; a text of WIRE_HELD_CAP bytes or more may be cut there when it came in
 * pieces, with its true length. BAD without an error: the document ends before the text does. */
static enum going take_text(struct wire *w, struct span *in, const unsigned char **text, uint32_t *len)
{
    const size_t have = (size_t)(in->end - in->at), left = room(w, in) - w->held_len, look = have < left ? have : left;
    const unsigned char *nul = look > 0 ? memchr(in->at, 0, look) : NULL, *from = in->at;
    const size_t n = nul != NULL ? (size_t)(nul - from) : look;
    size_t keep = 0;

    in->at += nul != NULL ? n + 1 : n;
    if (nul != NULL && w->held_len == 0) {
        *text = from;
        *len = (uint32_t)n;
        return ON;
    }
    if (w->held_len < WIRE_HELD_CAP)
        keep = WIRE_HELD_CAP - w->held_len < n ? WIRE_HELD_CAP - w->held_len : n;
    if (keep > 0)
        memcpy(w->held + w->held_len, from, keep);
    w->held_len += (uint32_t)n;
    if (nul == NULL)
        return n == left ? BAD : WAIT;
    *text = w->held;
    *len = w->held_len;
    w->held_len = 0;
    return ON;
}

void wire_start(struct wire *w, bool reply)
{
    memset(w, 0, offsetof(struct wire, number));
    w->command[0] = w->db[0] = '\0';
    w->reply = reply;
    w->end[0] = WIRE_HEADER;
}

/* Goes on at that step. */
static enum going to(struct wire *w, enum step step)
{
    w->step = (uint8_t)step;
    return ON;
}

/* Passes over n bytes, which the document is known to have. */
static enum going skip(struct wire *w, uint32_t n)
{
    w->rest = n;
    return to(w, AT_SKIP);
}

static enum going at_header(struct wire *w, struct span *in)
{
    const unsigned char *p = take(w, in, WIRE_HEADER);

    if (p == NULL)
        return WAIT;
    w->header = wire_header_get(p);
    if (w->header.length < WIRE_HEADER || w->header.length > WIRE_MAX)
        return bad(w, WIRE_BAD_LENGTH);
    w->end[0] = w->header.length;
    switch (w->header.opcode) {
    case WIRE_OP_MSG:
        return to(w, AT_FLAGS);
    case WIRE_OP_QUERY:
        return w->reply ? bad(w, WIRE_BAD_OPCODE) : to(w, AT_NAMESPACE);
    case WIRE_OP_REPLY:
        return w->reply ? to(w, AT_REPLY_HEAD) : bad(w, WIRE_BAD_OPCODE);
    case WIRE_OP_COMPRESSED:
        return bad(w, WIRE_BAD_COMPRESSED);
    case WIRE_OP_UPDATE: case WIRE_OP_INSERT: case WIRE_OP_GET_MORE: case WIRE_OP_DELETE: case WIRE_OP_KILL_CURSORS:
        return bad(w, WIRE_BAD_REMOVED);
    default:
        return bad(w, WIRE_BAD_OPCODE);
    }
}

static enum going at_flags(struct wire *w, struct span *in)
{
    const unsigned char *p;

    if (room(w, in) < 4)
        return bad(w, WIRE_BAD_SHORT);
    if ((p = take(w, in, 4)) == NULL)
        return WAIT;
    w->flags = bson_get32(p);
    if ((w->flags & 0xFFFF & ~(WIRE_CHECKSUM_PRESENT | WIRE_MORE_TO_COME)) != 0)
        return bad(w, WIRE_BAD_FLAGS);
    if ((w->flags & WIRE_CHECKSUM_PRESENT) != 0) {
        if (room(w, in) < 4)
            return bad(w, WIRE_BAD_SHORT);
        w->end[0] -= 4;
    }
    return to(w, AT_SECTION);
}

static enum going at_section(struct wire *w, struct span *in)
{
    const unsigned char *p;

    if (room(w, in) == 0) {
        if (!w->known)
            return bad(w, WIRE_BAD_NO_DOCUMENT);
        w->end[0] = w->header.length;
        return (w->flags & WIRE_CHECKSUM_PRESENT) != 0 ? to(w, AT_CHECKSUM) : WHOLE;
    }
    if ((p = take(w, in, 1)) == NULL)
        return WAIT;
    if (*p > 1)
        return bad(w, WIRE_BAD_SECTION);
    if (*p == 1)
        return to(w, AT_SEQUENCE);
    return w->known ? bad(w, WIRE_BAD_TWO_DOCUMENTS) : to(w, AT_DOCUMENT);
}

/* A document sequence: its size counts itself, a name of at least its NUL, and the documents. */
static enum going at_sequence(struct wire *w, struct span *in)
{
    const uint32_t left = room(w, in);
    const unsigned char *p;
    uint32_t size;

    if (left < 5)
        return bad(w, WIRE_BAD_SHORT);
    if ((p = take(w, in, 4)) == NULL)
        return WAIT;
    size = bson_get32(p);
    return size < 5 || size > left ? bad(w, WIRE_BAD_SEQUENCE) : skip(w, size - 4);
}

/* The flags come first, four bytes that say nothing to a router; any of them can be NUL, so they are taken apart. */
static enum going at_namespace(struct wire *w, struct span *in)
{
    static const char admin[] = "admin.$cmd";
    const unsigned char *text;
    uint32_t len;
    enum going going;

    if (!w->first) {
        if (room(w, in) < 4)
            return bad(w, WIRE_BAD_SHORT);
        if (take(w, in, 4) == NULL)
            return WAIT;
        w->first = true;
    }
    going = take_text(w, in, &text, &len);
    if (going != ON)
        return going == BAD ? bad(w, WIRE_BAD_SHORT) : WAIT;
    w->admin = len == sizeof admin - 1 && memcmp(text, admin, len) == 0;
    return to(w, AT_COUNTS);
}

static enum going at_counts(struct wire *w, struct span *in)
{
    if (room(w, in) < 8)
        return bad(w, WIRE_BAD_SHORT);
    return take(w, in, 8) == NULL ? WAIT : to(w, AT_DOCUMENT);
}

/* Flags, cursor id, starting point, number of documents. */
static enum going at_reply_head(struct wire *w, struct span *in)
{
    const unsigned char *p;

    if (room(w, in) < 20)
        return bad(w, WIRE_BAD_SHORT);
    if ((p = take(w, in, 20)) == NULL)
        return WAIT;
    return bson_get32(p + 16) == 0 ? bad(w, WIRE_BAD_NO_DOCUMENT) : to(w, AT_DOCUMENT);
}

/* Opens the document whose last byte stands before offset end. */
static enum going enter(struct wire *w, enum context context, uint32_t end)
{
    if (w->depth + 1 >= WIRE_DEPTH)
        return bad(w, WIRE_BAD_DOCUMENT); /* no word leads here */
    w->depth++;
    w->end[w->depth] = end;
    w->context[w->depth] = (uint8_t)context;
    return to(w, AT_TYPE);
}

static enum going at_document(struct wire *w, struct span *in)
{
    const uint32_t begin = position(w, in), left = room(w, in);
    const unsigned char *p;
    uint32_t length;

    if (left < 5)
        return bad(w, WIRE_BAD_SHORT);
    if ((p = take(w, in, 4)) == NULL)
        return WAIT;
    length = bson_get32(p);
    if (length < 5 || length > left)
        return bad(w, WIRE_BAD_DOCUMENT);
    w->first = !w->reply;
    return enter(w, w->reply ? IN_REPLY : IN_REQUEST, begin + length);
}

/* Leaves the document that ended. Behind the first document of OP_QUERY and OP_REPLY may come others. */
static enum going leave(struct wire *w, struct span *in)
{
    if (room(w, in) != 0)
        return bad(w, WIRE_BAD_DOCUMENT);
    if (--w->depth > 0)
        return to(w, AT_TYPE);
    w->known = true;
    w->first = false;
    return w->header.opcode == WIRE_OP_MSG ? to(w, AT_SECTION) : skip(w, room(w, in));
}

/* The length in front of a value has come; size bytes of it follow. */
static enum going sized_value(struct wire *w, struct span *in, uint32_t size)
{
    const struct word *word = w->word;

    if (word != NULL && word->take == TAKE_DOCUMENT && w->type == (word->enter == IN_KILLED ? BSON_ARRAY : BSON_DOCUMENT))
        return enter(w, (enum context)word->enter, position(w, in) + size);
    if (word != NULL && word->take == TAKE_ID && w->type == BSON_BINARY && size == 17)
        return to(w, AT_ID);
    w->rest = size;
    if (word == NULL || word->take != TAKE_TEXT || w->type != BSON_STRING)
        return to(w, AT_SKIP);
    w->hash = UINT64_C(0xCBF29CE484222325);
    return to(w, AT_TEXT);
}

static enum going at_value(struct wire *w, struct span *in)
{
    const struct bson_layout *layout = bson_layout(w->type);
    const struct word *word = w->word;
    const uint32_t left = room(w, in); /* the NUL of the document included */
    const unsigned char *p;
    uint32_t length;

    if (layout->form == BSON_FORM_SIZED) {
        if (left <= 4)
            return bad(w, WIRE_BAD_VALUE);
        if ((p = take(w, in, 4)) == NULL)
            return WAIT;
        length = bson_get32(p);
        if (length < layout->least || length > WIRE_MAX || length + (uint32_t)(layout->extra + 4) >= left)
            return bad(w, WIRE_BAD_VALUE);
        return sized_value(w, in, length + (uint32_t)(layout->extra + 4) - 4);
    }
    if (layout->form == BSON_FORM_FIXED) {
        if (layout->fixed >= left)
            return bad(w, WIRE_BAD_VALUE);
        if (word != NULL && word->take == TAKE_NUMBER)
            return to(w, AT_NUMBER);
        if (word != NULL && word->take == TAKE_ID && w->type == BSON_OBJECT_ID)
            return to(w, AT_ID);
        return skip(w, layout->fixed);
    }
    if (layout->form == BSON_FORM_NONE)
        return bad(w, WIRE_BAD_TYPE);
    w->rest = 2;
    return to(w, AT_REGEX);
}

static void take_command(struct wire *w, const unsigned char *name, uint32_t len)
{
    const uint32_t keep = len < WIRE_COMMAND_CAP ? len : WIRE_COMMAND_CAP - 1;

    memcpy(w->command, name, keep);
    w->command[keep] = '\0';
    w->hello = wire_is(w, "hello") || wire_is(w, "isMaster") || wire_is(w, "ismaster");
    w->first = false;
    w->word = &command_word;
}

static enum going at_name(struct wire *w, struct span *in)
{
    const enum context context = (enum context)w->context[w->depth];
    const struct word *word = vocabularies[context].words;
    const struct word *end = word + vocabularies[context].count;
    const unsigned char *name;
    uint32_t len;
    enum going going = take_text(w, in, &name, &len);

    if (going != ON)
        return going == BAD ? bad(w, WIRE_BAD_NAME) : WAIT;
    w->step = AT_VALUE;
    if (w->first) {
        take_command(w, name, len);
        return at_value(w, in);
    }
    w->word = NULL;
    while (word < end && (word->len != len || memcmp(word->name, name, len) != 0))
        word++;
    if (word < end && (w->seen >> word->field & 1) == 0) {
        w->seen |= UINT64_C(1) << word->field;
        w->word = word;
        if (word->take == TAKE_PRESENCE || word->take == TAKE_DOCUMENT)
            w->fields |= UINT64_C(1) << word->field;
    }
    return at_value(w, in);
}

static enum going at_type(struct wire *w, struct span *in)
{
    if (room(w, in) == 0)
        return bad(w, WIRE_BAD_DOCUMENT);
    if (in->at == in->end)
        return WAIT;
    w->type = *in->at++;
    if (w->type == 0)
        return leave(w, in);
    w->step = AT_NAME;
    return at_name(w, in);
}

static enum going at_number(struct wire *w, struct span *in)
{
    const struct word *word = w->word;
    const unsigned char *p = take(w, in, bson_layout(w->type)->fixed);

    if (p == NULL)
        return WAIT;
    if (bson_value(w->type, p, &w->number[word->field]))
        w->fields |= UINT64_C(1) << word->field;
    return to(w, AT_TYPE);
}

/* A session's id is a UUID (subtype 4), a server process's an ObjectId. */
static enum going at_id(struct wire *w, struct span *in)
{
    const struct word *word = w->word;
    const unsigned char *p = take(w, in, w->type == BSON_BINARY ? 17 : 12);

    if (p == NULL)
        return WAIT;
    if (word->field == WIRE_LSID && w->type == BSON_BINARY && p[0] == 4) {
        memcpy(w->lsid, p + 1, sizeof w->lsid);
        w->fields |= UINT64_C(1) << WIRE_LSID;
    } else if (word->field == WIRE_TOPOLOGY_PROCESS && w->type == BSON_OBJECT_ID) {
        memcpy(w->process_id, p, sizeof w->process_id);
        w->fields |= UINT64_C(1) << WIRE_TOPOLOGY_PROCESS;
    }
    return to(w, AT_TYPE);
}

/* The text is over; held_len counts its bytes with the NUL, as many as there is room for are in held. */
static void text_over(struct wire *w)
{
    static const char isdbgrid[] = "isdbgrid";
    const struct word *word = w->word;
    const uint32_t len = w->held_len - 1;
    const uint32_t keep = len < WIRE_DB_CAP ? len : WIRE_DB_CAP - 1;

    w->held_len = 0;
    if (word->field == WIRE_ISDBGRID && (len != sizeof isdbgrid - 1 || memcmp(w->held, isdbgrid, len) != 0))
        return;
    if (word->field == WIRE_DB) {
        memcpy(w->db, w->held, keep);
        w->db[keep] = '\0';
    } else if (word->field < WIRE_NUMBERS) {
        w->number[word->field] = bson_signed64(w->hash);
    }
    w->fields |= UINT64_C(1) << word->field;
}

static enum going at_text(struct wire *w, struct span *in)
{
    for (; w->rest > 0 && in->at < in->end; w->rest--, in->at++) {
        if (w->rest == 1 && *in->at != 0)
            return bad(w, WIRE_BAD_VALUE);
        if (w->held_len < WIRE_HELD_CAP)
            w->held[w->held_len] = *in->at;
        if (w->rest > 1)
            w->hash = (w->hash ^ *in->at) * UINT64_C(0x100000001B3);
        w->held_len++;
    }
    if (w->rest > 0)
        return WAIT;
    text_over(w);
    return to(w, AT_TYPE);
}

static enum going at_regex(struct wire *w, struct span *in)
{
    const unsigned char *text;
    uint32_t len;
    enum going going = take_text(w, in, &text, &len);

    if (going != ON)
        return going == BAD ? bad(w, WIRE_BAD_VALUE) : WAIT;
    return --w->rest > 0 ? ON : to(w, AT_TYPE);
}

/* Where a value was passed over, its document goes on; else a section, or the message is over. */
static enum going at_skip(struct wire *w, struct span *in)
{
    const size_t have = (size_t)(in->end - in->at);
    const uint32_t part = have < w->rest ? (uint32_t)have : w->rest;

    in->at += part;
    w->rest -= part;
    if (w->rest > 0)
        return WAIT;
    if (w->depth > 0)
        return to(w, AT_TYPE);
    return w->header.opcode == WIRE_OP_MSG ? to(w, AT_SECTION) : WHOLE;
}

static enum going at_checksum(struct wire *w, struct span *in)
{
    return take(w, in, 4) == NULL ? WAIT : WHOLE;
}

size_t wire_feed(struct wire *w, const unsigned char *p, size_t n, enum wire_status *status)
{
    static enum going (*const steps[])(struct wire *, struct span *) = {
        [AT_HEADER] = at_header, [AT_FLAGS] = at_flags, [AT_SECTION] = at_section, [AT_SEQUENCE] = at_sequence,
        [AT_NAMESPACE] = at_namespace, [AT_COUNTS] = at_counts, [AT_REPLY_HEAD] = at_reply_head,
        [AT_DOCUMENT] = at_document, [AT_TYPE] = at_type, [AT_NAME] = at_name, [AT_VALUE] = at_value,
        [AT_NUMBER] = at_number, [AT_TEXT] = at_text, [AT_ID] = at_id, [AT_REGEX] = at_regex, [AT_SKIP] = at_skip,
        [AT_CHECKSUM] = at_checksum};
    struct span in = {p, p, p};
    enum going going = ON;

    if (n == 0 || w->step == AT_OVER) {
        *status = w->step != AT_OVER ? WIRE_MORE : w->error == WIRE_BAD_NONE ? WIRE_WHOLE : WIRE_BAD;
        return 0;
    }
    in.end = p + n;
    while (going == ON)
        going = steps[w->step](w, &in);
    if (going != WAIT)
        w->step = AT_OVER;
    w->used += (uint32_t)(in.at - p);
    *status = going == WAIT ? WIRE_MORE : going == WHOLE ? WIRE_WHOLE : WIRE_BAD;
    return (size_t)(in.at - p);
}
