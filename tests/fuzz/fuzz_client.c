/*
 * fuzz_client.c - whole connections: up to three clients and the nodes of a cluster, driven by a program of bytes.
 *
 *   input = actions --> client i: commands, raw bytes, half-close, reset, slow reading
 *                       node k:   answers, raw answers, redirects, closes, silence; its slots move
 *                       time:     moves on
 *
 *   client ends   keep what they sent; each reply is held against what a single server would have said
 *   node ends     frame what the proxy sends them (it must be whole requests), own slots, note what they executed
 *
 *   transactions  queued and run in one piece, or refused in one, as a node does it
 *   blocking      on keys that begin with b: until something comes, the time is over, or CLIENT UNBLOCK
 *   messages      reach who subscribes at a node; each says who published it, and as the how-manieth
 *
 * What must hold: one reply for each request, in order, right or an error (right in a calm program: one without
 * trouble); no write runs twice, none of a client's writes to a key runs after a later one; and when all clients have
 * gone, every record, chunk, descriptor and table entry is free again.
 */
#include "parent.h"
#include "puerta.h"
#include "redis_channel.h"
#include "tests/fuzz/fake_net.h"
#include "trace.h"

#include <stdio.h>

#define CLIENTS 3
#define NODES 4              /* the last is not in the cluster's first map */
#define FIRST_PORT 7001
#define FAR_NODE 16          /* sock.far of node 0 */
#define CHUNKS 192
#define RETAIN 4096
#define ASKED_CAP 4096
#define ACTIONS_MAX 400
#define MARK 0xfe            /* begins the value of a write whose order is watched; raw input cannot hold it */
#define REPLY_CAP (1u << 17)
#define CALM_MAX 8192        /* of a longer answer even a calm client may hear that there is no room */
#define BLOCK_MAX 8192       /* bytes of a transaction */
#define CHANNELS 4           /* k0 to k3; as patterns these, and k? and k* */
#define PATTERNS 6
#define KEYS_MAX 256

extern bool loop_without_queue;
extern uint64_t loop_mock_us;
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct asked { uint32_t off, len; bool known; };

struct client_end {
    struct sock *sock;       /* NULL: gone */
    bool over;               /* it said QUIT or nonsense: nothing more is owed */
    bool murky;              /* what it is owed is not counted */
    bool blocks;             /* it has asked what may block: if it leaves meanwhile, it is owed no more */
    uint32_t multi;          /* where the MULTI stands that has been answered, + 1; 0 = none */
    bool refused, watched;   /* a command in it was; a WATCH has been answered */
    uint32_t heard[3][PATTERNS][CHANNELS][CLIENTS]; /* the last message, by kind, what was subscribed to, channel, publisher */
    unsigned char sent[STREAM_CAP];
    size_t sent_len, parsed; /* parsed: where the request under way begins */
    struct resp_request framing;
    struct asked asked[ASKED_CAP];
    uint32_t asked_count, answered;
    struct resp_reply reply;
    size_t reply_used;
};

static struct client_end clients[CLIENTS];
static struct { bool automatic; int dial; } nodes[NODES];
static unsigned char queued[SOCKS][BLOCK_MAX + 256]; /* what a node has queued */
static struct {
    bool calm;               /* nothing has happened that excuses an error */
    bool wild;               /* a node said something made up: answers are not compared */
    bool jumbled;            /* answers that no cluster would give: the order of writes is not watched */
    bool moved;              /* slots have moved; when they move again, writes under way may meet and overtake */
    unsigned layout;         /* who owns which third of the slots */
    bool trouble;            /* something has happened to nodes, slots or time: messages may come late, or twice */
    bool over;               /* nodes let nobody wait any more */
    bool behind;             /* replicas have not got what was written last */
    int moving;              /* the third that is being moved, -1 = none */
    uint32_t sequence, executed[CLIENTS][256];
} world;

static struct conf conf;
static const struct resp_limits limits = { REDIS_MAX_ARGS, REDIS_MAX_BULK, REDIS_MAX_INLINE, NULL };
static struct { const uint8_t *p; size_t left; } input;

static unsigned next_byte(void)
{
    if (input.left == 0) {
        return 0;
    }
    input.left--;
    return *input.p++;
}

/* ------------------------------------------------- what a server would say */

static bool named(const unsigned char *p, const struct resp_slice *name, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i < n && name->len == n; i++) {
        if ((p[name->off + i] | 0x20) != word[i]) {
            return false;
        }
    }
    return name->len == n;
}

struct text { unsigned char *at; size_t len; bool full; };

static void put(struct text *t, const void *p, size_t n)
{
    if (n > REPLY_CAP - t->len) {
        t->full = true;
        return;
    }
    memcpy(t->at + t->len, p, n);
    t->len += n;
}

static void put_header(struct text *t, char type, int64_t n)
{
    unsigned char header[RESP_HEADER_CAP];
    put(t, header, resp_put_header(header, type, n));
}

static void put_key(struct text *t, const char *prefix, unsigned number)
{
    char key[24];
    int n = snprintf(key, sizeof key, "%s%u", number >= 128 && *prefix == 'k' ? "{t}k" : prefix, number);
    put_header(t, '$', n);
    put(t, key, (size_t)n);
    put(t, "\r\n", 2);
}

static void put_word(struct text *t, const char *word)
{
    put_header(t, '$', (int64_t)strlen(word));
    put(t, word, strlen(word));
    put(t, "\r\n", 2);
}

/* A key's value is the key itself; that of "L123..." is 123 bytes long. */
static void put_value(struct text *t, const unsigned char *key, size_t n)
{
    static unsigned char letters[65536];
    size_t length = 0;
    if (n == 0 || key[0] != 'L') {
        put_header(t, '$', (int64_t)n);
        put(t, key, n);
    } else {
        for (size_t i = 1; i < n && i < 6 && key[i] >= '0' && key[i] <= '9'; i++) {
            length = length * 10 + (size_t)(key[i] - '0');
        }
        length = length < sizeof letters ? length : sizeof letters;
        memset(letters, 'a' + (int)(length % 26), length);
        put_header(t, '$', (int64_t)length);
        put(t, letters, length);
    }
    put(t, "\r\n", 2);
}

/* False when this server does not know what to say: anything is right then. */
static bool serve(const unsigned char *p, size_t len, uint32_t argc, struct text *t)
{
    struct resp_slice name, arg;
    uint32_t at = 0;
    t->len = 0;
    t->full = false;
    resp_arg(p, len, &at, &name);
    if (named(p, &name, "get") && argc == 2 && resp_arg(p, len, &at, &arg)) {
        put_value(t, p + arg.off, arg.len);
    } else if (named(p, &name, "mget") && argc > 1) {
        put_header(t, '*', (int64_t)argc - 1);
        while (resp_arg(p, len, &at, &arg)) {
            put_value(t, p + arg.off, arg.len);
        }
    } else if ((named(p, &name, "set") && argc == 3) || (named(p, &name, "mset") && argc > 2 && argc % 2 == 1)) {
        put(t, "+OK\r\n", 5);
    } else if ((named(p, &name, "del") || named(p, &name, "exists")) && argc > 1) {
        put_header(t, ':', (int64_t)argc - 1);
    } else if (named(p, &name, "ping") && argc == 1) {
        put(t, "+PONG\r\n", 7);
    } else if (named(p, &name, "echo") && argc == 2 && resp_arg(p, len, &at, &arg)) {
        put_header(t, '$', arg.len);
        put(t, p + arg.off, arg.len);
        put(t, "\r\n", 2);
    } else if (named(p, &name, "wait") || named(p, &name, "publish") || named(p, &name, "spublish")) {
        put(t, ":1\r\n", 4);
        return false;
    } else if (named(p, &name, "waitaof")) {
        put(t, "*2\r\n:1\r\n:1\r\n", 12);
        return false;
    } else {
        put(t, "+OK\r\n", 5);
        return false;
    }
    return !t->full;
}

/* ----------------------------------------------------------- client's ends */

static void ask_noted(struct client_end *c, bool known)
{
    size_t len = (size_t)c->framing.used;
    MUST(c->asked_count < ASKED_CAP);
    c->asked[c->asked_count++] = (struct asked){ (uint32_t)c->parsed, (uint32_t)len, known };
    c->parsed += len;
    resp_request_start(&c->framing);
}

/* CLIENT may silence its client (REPLY) and close any (KILL); who subscribes, or monitors, gets what it has not asked for. */
static void note_client(struct client_end *c, const unsigned char *p, const struct resp_slice *name)
{
    const struct command *command = command_find(p + name->off, name->len);
    bool subscribes = name->len >= 9 && (p[name->off + name->len - 1] | 0x20) == 'e' &&
                      (p[name->off + name->len - 9] | 0x20) == 's' && (p[name->off + name->len - 7] | 0x20) == 'b';
    c->blocks = c->blocks || (command != NULL && (command->flags & CMD_BLOCKING) != 0);
    if (named(p, name, "client") || subscribes || named(p, name, "monitor")) {
        c->murky = true;
        world.calm = false;
    }
    world.calm = world.calm && !named(p, name, "waitaof"); /* from then on there may be too few connections (max_own) */
}

static void note_inline(struct client_end *c)
{
    static unsigned char line[RESP_INLINE_ROOM(REDIS_MAX_INLINE)];
    struct resp_slice name;
    uint32_t at = 0;
    long n = resp_inline(c->sent + c->parsed, (size_t)c->framing.used, line, sizeof line);
    if (n == 0) {
        c->parsed += (size_t)c->framing.used;
        resp_request_start(&c->framing);
        return;
    }
    c->over = n < 0 || !resp_arg(line, (size_t)n, &at, &name) || named(line, &name, "quit");
    if (!c->over) {
        note_client(c, line, &name);
        c->murky = c->murky || named(line, &name, "multi") || named(line, &name, "exec") || named(line, &name, "discard") ||
                   named(line, &name, "watch") || named(line, &name, "reset");
    }
    ask_noted(c, false);
}

/* Notes what has become whole of what the client sent. */
static void note_requests(struct client_end *c)
{
    while (!c->over && c->parsed + c->framing.used < c->sent_len) {
        size_t from = c->parsed + (size_t)c->framing.used;
        enum resp_status status;
        resp_request(&c->framing, c->sent + from, c->sent_len - from, &limits, &status);
        if (status == RESP_MORE) {
            return;
        }
        if (status == RESP_BAD) {
            c->over = true;
            ask_noted(c, false);
        } else if (c->framing.inlined) {
            note_inline(c);
        } else if (c->framing.argc == 0) {
            c->parsed += (size_t)c->framing.used;
            resp_request_start(&c->framing);
        } else {
            bool quit = named(c->sent + c->parsed, &c->framing.arg[0], "quit");
            c->murky = c->murky || (quit && (c->framing.argc > 1 || c->framing.used > RETAIN));
            c->over = quit;
            note_client(c, c->sent + c->parsed, &c->framing.arg[0]);
            ask_noted(c, !quit);
        }
    }
}

static void client_says(struct client_end *c, const void *p, size_t n)
{
    if (c->sock == NULL || c->sock->ended || c->sock->reset || n > STREAM_CAP - c->sent_len ||
        c->asked_count + n / 2 + 2 > ASKED_CAP || !sock_say(c->sock, p, n)) {
        return;
    }
    memcpy(c->sent + c->sent_len, p, n);
    c->sent_len += n;
    note_requests(c);
}

/* What EXEC answers: all that was queued, in order. */
static void check_exec(const struct client_end *c, const unsigned char *p, size_t n, uint32_t first, uint32_t end)
{
    static unsigned char bytes[REPLY_CAP], whole[REPLY_CAP];
    struct text want = { bytes, 0, false }, all = { whole, 0, false };
    bool nil = (n == 5 && memcmp(p, "*-1\r\n", 5) == 0) || (n == 3 && *p == '_');
    put_header(&all, '*', (int64_t)end - first);
    for (uint32_t i = first; i < end; i++) {
        const struct asked *a = &c->asked[i];
        struct resp_request f;
        enum resp_status status;
        resp_request_start(&f);
        resp_request(&f, c->sent + a->off, a->len, &limits, &status);
        if (!a->known || status != RESP_WHOLE || f.inlined || !serve(c->sent + a->off, a->len, f.argc, &want)) {
            return;
        }
        put(&all, want.at, want.len);
    }
    if (*p == '-') {
        MUST(!world.calm || c->refused || all.full || all.len > CALM_MAX);
    } else if (nil) {
        MUST(!world.calm || c->watched);
    } else {
        MUST(!c->refused && !all.full && n == all.len && memcmp(p, all.at, n) == 0);
    }
}

/* The reply to a request in a transaction, or that begins or ends one. False: it is neither. */
static bool check_multi(struct client_end *c, const unsigned char *request, const struct resp_request *f, const unsigned char *p,
                        size_t n)
{
    const struct resp_slice *name = &f->arg[0];
    uint32_t at = c->answered - 1, first = c->multi;
    bool exec = named(request, name, "exec"), ends = named(request, name, "reset");
    if (c->multi == 0) {
        if (named(request, name, "multi") && *p == '+') {
            c->multi = at + 1;
            c->refused = false;
        }
        c->watched = (c->watched || named(request, name, "watch")) && !(named(request, name, "unwatch") && *p == '+') && !ends;
        return named(request, name, "multi") || named(request, name, "watch") || named(request, name, "unwatch") || exec ||
               named(request, name, "discard") || ends;
    }
    if (exec || ends || (named(request, name, "discard") && (*p == '+' || f->argc == 1))) {
        c->multi = 0;
        if (exec && f->argc == 1 && !world.wild) {
            check_exec(c, p, n, first, at);
        }
        c->watched = false;
    } else {
        bool nested = named(request, name, "multi") || named(request, name, "watch");
        MUST(*p == '-' || (n == 9 && memcmp(p, "+QUEUED\r\n", 9) == 0));
        c->refused = c->refused || (*p == '-' && (!nested || f->argc != (named(request, name, "multi") ? 1 : 2)));
        c->murky = c->murky || (nested && f->argc == (named(request, name, "multi") ? 1 : 2)); /* not one of the block */
    }
    return true;
}

/* Which of the known channels or patterns it is; -1: none. */
static int channel_of(const unsigned char *p, const struct resp_slice *name)
{
    static const char known[] = "0123?*";
    const char *at = name->len == 2 && p[name->off] == 'k' && p[name->off + 1] != 0 ? strchr(known, p[name->off + 1]) : NULL;
    return at != NULL ? (int)(at - known) : -1;
}

/* A message that says whose it is: those of one publisher come in order, and once. */
static void check_message(struct client_end *c, const unsigned char *p, size_t n)
{
    static const char *const words[] = { "message", "pmessage", "smessage" };
    unsigned char copy[128];
    struct resp_slice word, name, from, payload;
    uint32_t at = 0, *last, sequence;
    int kind = 0, to, which;
    if (n >= sizeof copy || world.trouble) {
        return;
    }
    memcpy(copy, p, n);
    copy[0] = '*';
    copy[n] = '\0';
    if (!resp_arg(copy, n, &at, &word) || !resp_arg(copy, n, &at, &name)) {
        return;
    }
    while (kind < 3 && !named(copy, &word, words[kind])) {
        kind++;
    }
    from = name;
    if (kind == 3 || (kind == 1 && !resp_arg(copy, n, &at, &from)) || !resp_arg(copy, n, &at, &payload) ||
        payload.len != 8 || copy[payload.off] != MARK || (to = channel_of(copy, &name)) < 0 ||
        (which = channel_of(copy, &from)) < 0 || which >= CHANNELS) {
        return;
    }
    last = &c->heard[kind][to][which][copy[payload.off + 1] - '0'];
    sequence = (uint32_t)strtoul((const char *)copy + payload.off + 2, NULL, 10);
    MUST(sequence > *last);
    *last = sequence;
}

static void check_reply(struct client_end *c, const unsigned char *p, size_t n)
{
    static unsigned char bytes[REPLY_CAP];
    struct text want = { bytes, 0, false };
    const struct asked *a = &c->asked[c->answered];
    const unsigned char *request = c->sent + a->off;
    struct resp_request f;
    enum resp_status status;
    if (n > 12 && (*p == '*' || *p == '>')) {
        check_message(c, p, n);
    }
    if (n > 8 && memcmp(p, "-ERR max", 8) == 0) {
        c->murky = true; /* the entry of the one that has just gone is free only when the turn is over */
        return;
    }
    if (c->murky && c->answered == c->asked_count) {
        return; /* a message, or one ack of several */
    }
    if (c->answered == c->asked_count && !c->over) {
        /* A long request may be refused before it is whole. */
        MUST(c->framing.total > RETAIN && *p == '-');
        world.calm = false;
        c->answered++;
        return;
    }
    MUST(c->murky || c->answered < c->asked_count);
    c->answered++;
    if (c->murky || !a->known) {
        c->refused = c->refused || *p == '-';
        return;
    }
    resp_request_start(&f);
    resp_request(&f, request, a->len, &limits, &status);
    if (check_multi(c, request, &f, p, n) || world.wild || !serve(request, a->len, f.argc, &want)) {
        return;
    }
    if (*p == '-') {
        MUST(!world.calm || want.len > CALM_MAX || a->len > RETAIN);
        return;
    }
    MUST(n == want.len && memcmp(p, want.at, n) == 0);
}

static void client_gets(struct client_end *c, struct sock *s)
{
    while (s->out_at + c->reply_used < s->out_len) {
        enum resp_status status;
        const unsigned char *p = s->out + s->out_at;
        c->reply_used += resp_reply(&c->reply, p + c->reply_used, s->out_len - s->out_at - c->reply_used, &status);
        MUST(status != RESP_BAD);
        if (status == RESP_WHOLE) {
            check_reply(c, p, c->reply_used);
            s->out_at += c->reply_used;
            c->reply_used = 0;
            resp_reply_start(&c->reply);
        }
    }
}

/* The proxy has closed it: in a calm program only one that has been told all, or that left in mid-request. */
static void client_closed(struct client_end *c, const struct sock *s)
{
    MUST(!world.calm || s->reset || c->murky || (c->over && c->answered == c->asked_count) ||
         (s->ended && (c->blocks || c->answered == c->asked_count)) || c->parsed < c->sent_len);
    c->sock = NULL;
}

static void client_open(int i)
{
    struct client_end *c = &clients[i];
    if (c->sock == NULL) {
        memset(c, 0, offsetof(struct client_end, sent));
        c->sent_len = c->parsed = c->reply_used = 0;
        c->asked_count = c->answered = 0;
        resp_request_start(&c->framing);
        resp_reply_start(&c->reply);
        c->sock = sock_take(SOCK_KNOCKING);
        MUST(c->sock != NULL);
        c->sock->far = i;
    }
}

/* ------------------------------------------------------------- node's ends */

static void say_line(struct sock *s, const char *line)
{
    sock_say(s, line, strlen(line));
}

static int node_of(const struct sock *s)
{
    return s->far - FAR_NODE;
}

static int owner_of(unsigned third)
{
    return world.layout == 3 ? (third == 0 ? 3 : (int)third) : (int)((third + world.layout) % 3);
}

static unsigned third_of(uint16_t slot)
{
    return slot / 5462u;
}

/* Whether the proxy's map is what the cluster is; node k has index k there for ever, but for the last one. */
static bool map_true(void)
{
    static uint16_t owners[3][SLOTMAP_SLOTS];
    static bool made[3];
    if (world.layout == 3) {
        return false;
    }
    for (uint32_t slot = 0; slot < SLOTMAP_SLOTS && !made[world.layout]; slot++) {
        owners[world.layout][slot] = (uint16_t)owner_of(third_of((uint16_t)slot));
    }
    made[world.layout] = true;
    return memcmp(owners[world.layout], redis_service_at(0)->map.owner, sizeof owners[0]) == 0;
}

/* A map that changes nothing is not given: to take it in costs more than all the rest of an input. */
static void say_slots(struct sock *s)
{
    char line[512];
    size_t n = (size_t)snprintf(line, sizeof line, "*3\r\n");
    if (map_true()) {
        say_line(s, "-ERR as before\r\n");
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        n += (size_t)snprintf(line + n, sizeof line - n, "*3\r\n:%u\r\n:%u\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n", i * 5462u,
                              i == 2 ? 16383u : i * 5462u + 5461u, FIRST_PORT + owner_of(i));
    }
    sock_say(s, line, n);
}

static void say_redirect(struct sock *s, const char *word, uint16_t slot, int to)
{
    char line[80];
    int n = snprintf(line, sizeof line, "-%s %u 127.0.0.1:%d\r\n", word, (unsigned)slot, FIRST_PORT + to);
    sock_say(s, line, (size_t)n);
}

/* The request at the head of what the node got; 0 when none is whole. */
static size_t node_request(const struct sock *s, struct resp_request *f)
{
    enum resp_status status;
    resp_request_start(f);
    if (s->out_at == s->out_len) {
        return 0;
    }
    resp_request(f, s->out + s->out_at, s->out_len - s->out_at, &limits, &status);
    MUST(status != RESP_BAD && !f->inlined); /* the proxy passes on nothing but requests */
    MUST(status != RESP_WHOLE || f->argc > 0);
    return status == RESP_WHOLE ? (size_t)f->used : 0;
}

static bool odd_key(const unsigned char *p, const struct resp_slice *key)
{
    return key->len > 0 && (p[key->off + key->len - 1] & 1) != 0;
}

/* The keys of a request; of a command that the program does not know, all its arguments. */
static int keys_in(const unsigned char *p, size_t len, uint32_t argc, struct resp_slice *keys)
{
    struct resp_slice arg;
    uint32_t at = 0;
    const struct command *command;
    int n = 0;
    resp_arg(p, len, &at, &arg);
    command = command_find(p + arg.off, arg.len);
    if (command != NULL) {
        n = command_keys(command, p, len, argc, keys, KEYS_MAX);
        return n == -2 ? KEYS_MAX : n < 0 ? 0 : n;
    }
    while (n < KEYS_MAX && resp_arg(p, len, &at, &keys[n])) {
        n++;
    }
    return n;
}

/* Each write that is watched: it has not run before, nor has a later one of its client on this key. */
static void execute(const unsigned char *p, size_t len)
{
    struct resp_slice key, value;
    uint32_t *last[64], at = 0, count = 0, sequence = 0;
    resp_arg(p, len, &at, &key);
    if (named(p, &key, "publish") || named(p, &key, "spublish")) {
        return; /* not a write: check_message looks at its order */
    }
    while (resp_arg(p, len, &at, &key) && resp_arg(p, len, &at, &value) && count < 64) {
        char text[16] = "";
        const char *number;
        if (value.len < 8 || p[value.off] != MARK || key.len >= sizeof text) {
            return;
        }
        memcpy(text, p + key.off, key.len);
        number = strrchr(text, 'k');
        sequence = (uint32_t)strtoul((const char *)p + value.off + 2, NULL, 10);
        MUST(number != NULL && p[value.off + 1] - '0' < CLIENTS);
        last[count] = &world.executed[p[value.off + 1] - '0'][atoi(number + 1) & 255];
        MUST(world.jumbled || sequence > *last[count]);
        count++;
    }
    while (count > 0) {
        *last[--count] = sequence;
    }
}

static uint16_t slot_in(const unsigned char *p, const struct resp_request *f)
{
    struct resp_slice keys[KEYS_MAX];
    return keys_in(p, (size_t)f->used, (uint32_t)f->argc, keys) > 0 ? slotmap_slot(p + keys[0].off, keys[0].len) : 0;
}

/* What a cluster's node says of a request whose keys it does not have, or not all of (odd ones are those that have moved);
 * false: it runs it. */
static bool say_elsewhere(struct sock *s, const unsigned char *p, const struct resp_request *f, bool asking)
{
    struct resp_slice keys[KEYS_MAX];
    int count = keys_in(p, (size_t)f->used, (uint32_t)f->argc, keys);
    uint16_t slot = count > 0 ? slotmap_slot(p + keys[0].off, keys[0].len) : 0;
    bool all_odd = true, all_even = true, one_slot = true;
    for (int i = 0; i < count; i++) {
        bool odd = odd_key(p, &keys[i]);
        all_odd = all_odd && odd;
        all_even = all_even && !odd;
        one_slot = one_slot && slotmap_slot(p + keys[i].off, keys[i].len) == slot;
    }
    if (count == 0) {
        return false;
    }
    if (!one_slot) {
        say_line(s, "-CROSSSLOT Keys in request don't hash to the same slot\r\n");
    } else if (owner_of(third_of(slot)) != node_of(s) && !asking) {
        say_redirect(s, "MOVED", slot, owner_of(third_of(slot)));
    } else if ((int)third_of(slot) != world.moving || asking || all_even) {
        return false;
    } else if (all_odd) {
        say_redirect(s, "ASK", slot, (node_of(s) + 1) % 3);
    } else {
        say_line(s, "-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
    }
    return true;
}

/* ------------------------------------------------------- what nodes publish */

static const char *const ons[] = { "subscribe", "psubscribe", "ssubscribe" };
static const char *const offs[] = { "unsubscribe", "punsubscribe", "sunsubscribe" };

static void put_slice(struct text *t, const unsigned char *p, const struct resp_slice *s)
{
    put_header(t, '$', s->len);
    put(t, p + s->off, s->len);
    put(t, "\r\n", 2);
}

/* The acks to SUBSCRIBE and the like; false: it is something else. */
static bool say_subscribed(struct sock *s, const unsigned char *p, size_t len)
{
    static unsigned char bytes[REPLY_CAP];
    struct text t = { bytes, 0, false };
    struct resp_slice word, name;
    uint32_t at = 0;
    int kind = 0;
    bool on = false;
    resp_arg(p, len, &at, &word);
    while (kind < 3 && !(on = named(p, &word, ons[kind])) && !named(p, &word, offs[kind])) {
        kind++;
    }
    if (kind == 3) {
        return false;
    }
    s->feed = true;
    while (resp_arg(p, len, &at, &name)) {
        int which = channel_of(p, &name);
        if (which >= 0) {
            s->subs[kind][which] = on;
        }
        put(&t, "*3\r\n", 4);
        put_word(&t, on ? ons[kind] : offs[kind]);
        put_slice(&t, p, &name);
        put(&t, ":1\r\n", 4);
    }
    sock_say(s, t.at, t.len);
    return true;
}

/* A message reaches whoever subscribes to its channel, or to a pattern of it, at any node. */
static void spread(const unsigned char *p, size_t len)
{
    static unsigned char bytes[REPLY_CAP];
    struct resp_slice word, name, payload;
    uint32_t at = 0;
    bool shard;
    int which;
    if (!resp_arg(p, len, &at, &word) || (!(shard = named(p, &word, "spublish")) && !named(p, &word, "publish")) ||
        !resp_arg(p, len, &at, &name) || !resp_arg(p, len, &at, &payload) || (which = channel_of(p, &name)) < 0) {
        return;
    }
    for (int i = 0; i < SOCKS; i++) {
        static const char *const words[] = { "message", "pmessage", "smessage" };
        struct sock *s = &socks[i];
        for (int kind = 0; kind < 3 && s->state == SOCK_OPEN && s->feed && !s->ended; kind++) {
            for (int k = 0; k < PATTERNS; k++) {
                struct text t = { bytes, 0, false };
                bool meant = k == which || (kind == 1 && k >= CHANNELS);
                if (!s->subs[kind][k] || !meant || shard != (kind == 2)) {
                    continue;
                }
                put_header(&t, '*', kind == 1 ? 4 : 3);
                put_word(&t, words[kind]);
                if (kind == 1) {
                    const char pattern[] = { 'k', "0123?*"[k], '\0' };
                    put_word(&t, pattern);
                }
                put_slice(&t, p, &name);
                put_slice(&t, p, &payload);
                sock_say(s, t.at, t.len);
            }
        }
    }
}

/* ------------------------------------------------------ what nodes block on */

enum release { RELEASE_NULL, RELEASE_DATA, RELEASE_ERROR, RELEASE_MOVED, RELEASE_STATE };

static void release(struct sock *s, enum release how)
{
    s->blocked = false;
    switch (how) {
    case RELEASE_DATA: say_line(s, "*2\r\n$2\r\nb1\r\n$1\r\nv\r\n"); break;
    case RELEASE_ERROR: say_line(s, "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"); break;
    case RELEASE_MOVED: say_redirect(s, "MOVED", slotmap_slot((const unsigned char *)"b1", 2),
                                     owner_of(third_of(slotmap_slot((const unsigned char *)"b1", 2)))); break;
    case RELEASE_STATE: say_line(s, "-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n"); break;
    default: say_line(s, s->resp3 ? "_\r\n" : "*-1\r\n"); break;
    }
}

/* Whether what is at the head of s waits from now on: all but an XREAD say last how long. */
static bool blocks_on(struct sock *s, const unsigned char *p, const struct resp_request *f)
{
    const struct command *command = command_find(p + f->arg[0].off, f->arg[0].len);
    struct resp_slice keys[KEYS_MAX], arg;
    uint32_t at = 0;
    char text[16] = "";
    if (world.over || command == NULL || (command->flags & CMD_BLOCKING) == 0 ||
        keys_in(p, (size_t)f->used, (uint32_t)f->argc, keys) == 0 || keys[0].len == 0 || p[keys[0].off] != 'b') {
        return false;
    }
    while (resp_arg(p, (size_t)f->used, &at, &arg)) {
        memset(text, 0, sizeof text);
        memcpy(text, p + arg.off, arg.len < sizeof text - 1 ? arg.len : sizeof text - 1);
    }
    s->blocked = true;
    s->until_us = strtod(text, NULL) > 0 ? loop_mock_us + (uint64_t)(strtod(text, NULL) * 1e6) + 1 : 0;
    return true;
}

/* CLIENT ID and CLIENT UNBLOCK; false: it is something else. */
static bool node_client(struct sock *s, const unsigned char *p, const struct resp_request *f)
{
    static unsigned last;
    char line[24];
    if (!named(p, &f->arg[0], "client") || f->argc < 2) {
        return false;
    }
    if (named(p, &f->arg[1], "id")) {
        s->id = s->id == 0 ? ++last : s->id;
        snprintf(line, sizeof line, ":%u\r\n", s->id);
    } else if (named(p, &f->arg[1], "unblock") && f->argc == 4) {
        unsigned id = (unsigned)strtoul((const char *)p + f->arg[2].off, NULL, 10), done = 0;
        for (int i = 0; i < SOCKS && done == 0; i++) {
            if (socks[i].state == SOCK_OPEN && socks[i].id == id && socks[i].blocked && socks[i].far == s->far) {
                release(&socks[i], named(p, &f->arg[3], "error") ? RELEASE_ERROR : RELEASE_NULL);
                done = 1;
            }
        }
        snprintf(line, sizeof line, ":%u\r\n", done);
    } else {
        return false;
    }
    say_line(s, line);
    return true;
}

/* Who has waited long enough. */
static void release_late(bool all)
{
    for (int i = 0; i < SOCKS; i++) {
        struct sock *s = &socks[i];
        if (s->state == SOCK_OPEN && s->blocked && (all || (s->until_us != 0 && loop_mock_us >= s->until_us))) {
            release(s, RELEASE_NULL);
        }
    }
}

/* One replica; at the end as many as any WAIT may want. */
static void say_replicas(struct sock *s)
{
    static const char slave[] = "slave0:ip=127.0.0.1,port=7009,state=online,offset=%u,lag=0\r\n";
    char text[512], line[600];
    unsigned offset = 1000 + (unsigned)world.sequence;
    int n = snprintf(text, sizeof text, "# Replication\r\nrole:master\r\n");
    for (int i = 0; i < (world.over ? 3 : 1); i++) {
        n += snprintf(text + n, sizeof text - (size_t)n, slave, world.behind ? 0 : offset);
    }
    n += snprintf(text + n, sizeof text - (size_t)n, "master_repl_offset:%u\r\n", offset);
    snprintf(line, sizeof line, "$%d\r\n%s\r\n", n, text);
    say_line(s, line);
}

/* ----------------------------------------------------- nodes and requests */

/* Goes through what s has queued: looks whether it may be run here, or runs it. False: it has said why not. */
static bool each_queued(struct sock *s, bool run, struct text *all)
{
    static unsigned char bytes[REPLY_CAP];
    struct text t = { bytes, 0, false };
    const unsigned char *p = queued[s - socks];
    struct resp_slice keys[KEYS_MAX];
    for (size_t at = 0; at < s->block_len;) {
        struct resp_request f;
        enum resp_status status;
        resp_request_start(&f);
        resp_request(&f, p + at, s->block_len - at, &limits, &status);
        MUST(status == RESP_WHOLE);
        s->keyed = s->keyed || s->watching || keys_in(p + at, (size_t)f.used, (uint32_t)f.argc, keys) > 0;
        if (run) {
            execute(p + at, (size_t)f.used);
            world.trouble = world.trouble || s->keyed; /* another node than that of other messages, perhaps */
            spread(p + at, (size_t)f.used);
        } else if (say_elsewhere(s, p + at, &f, false)) {
            return false;
        } else {
            serve(p + at, (size_t)f.used, f.argc, &t);
            put(all, t.at, t.len);
            all->full = all->full || t.full;
        }
        at += (size_t)f.used;
    }
    return true;
}

static void node_exec(struct sock *s)
{
    static unsigned char bytes[REPLY_CAP];
    struct text all = { bytes, 0, false };
    put_header(&all, '*', s->block_count);
    if (!s->multi) {
        say_line(s, "-ERR EXEC without MULTI\r\n");
    } else if (s->dirty) {
        say_line(s, "-EXECABORT Transaction discarded because of previous errors.\r\n");
    } else if (each_queued(s, false, &all)) {
        if (all.full) {
            say_line(s, "-ERR too long\r\n");
        } else if (s->watching && s->touched) {
            say_line(s, "*-1\r\n");
        } else {
            each_queued(s, true, &all);
            sock_say(s, all.at, all.len);
        }
    }
    s->multi = s->watching = s->touched = false;
}

/* MULTI and the like, and what is queued behind it. False: it is to be run now. */
static bool node_multi(struct sock *s, const unsigned char *p, size_t len, const struct resp_request *f, bool asking)
{
    const struct resp_slice *name = &f->arg[0];
    if (named(p, name, "exec") && f->argc == 1) {
        node_exec(s);
    } else if (named(p, name, "multi") && f->argc == 1) {
        MUST(!s->multi);
        s->multi = true;
        s->dirty = s->keyed = false;
        s->block_len = s->block_count = 0;
        say_line(s, "+OK\r\n");
    } else if (s->multi) {
        if (say_elsewhere(s, p, f, asking)) {
            s->dirty = true;
            return true;
        }
        MUST(s->block_len + len <= sizeof queued[0]);
        memcpy(queued[s - socks] + s->block_len, p, len);
        s->block_len += len;
        s->block_count++;
        say_line(s, "+QUEUED\r\n");
    } else if (named(p, name, "unwatch") && f->argc == 1) {
        s->watching = s->touched = false;
        say_line(s, "+OK\r\n");
    } else if (named(p, name, "watch") && f->argc > 1) {
        if (!say_elsewhere(s, p, f, asking)) {
            s->watching = true;
            say_line(s, "+OK\r\n");
        }
    } else {
        return false;
    }
    return true;
}

static bool node_answer(struct sock *s)
{
    static unsigned char bytes[REPLY_CAP];
    struct text t = { bytes, 0, false };
    struct resp_request f;
    const unsigned char *p = s->out + s->out_at;
    size_t len = node_request(s, &f);
    bool asking = s->asking;
    if (len == 0 || s->blocked || s->ended || s->reset || STREAM_CAP - s->in_len < REPLY_CAP) {
        return false;
    }
    s->asking = named(p, &f.arg[0], "asking");
    s->resp3 = s->resp3 || (named(p, &f.arg[0], "hello") && f.argc > 1 && p[f.arg[1].off] == '3');
    if (named(p, &f.arg[0], "cluster")) {
        say_slots(s);
    } else if (node_multi(s, p, len, &f, asking)) {
        MUST(!s->probe);
    } else if (!node_client(s, p, &f) && !say_elsewhere(s, p, &f, asking) && !say_subscribed(s, p, len) && !blocks_on(s, p, &f)) {
        spread(p, len);
        if (named(p, &f.arg[0], "info")) {
            say_replicas(s);
        } else if (serve(p, len, f.argc, &t) || !t.full) {
            sock_say(s, t.at, t.len);
            execute(p, len);
        } else {
            say_line(s, "-ERR too long\r\n");
        }
    }
    s->out_at += len;
    return true;
}

static void node_gets(struct sock *s)
{
    static const char ping[] = "*1\r\n$4\r\nPING\r\n";
    struct resp_request f;
    if (!s->feed && s->out_at == 0 && s->out_len >= sizeof ping - 1 && memcmp(s->out, ping, sizeof ping - 1) == 0) {
        s->probe = true;
    }
    if (s->probe || nodes[node_of(s)].automatic) {
        while (node_answer(s)) {
        }
    } else {
        (void)node_request(s, &f);
    }
}

static void node_end(struct sock *s, bool reset)
{
    s->ended = true;
    s->reset = reset;
}

/* --------------------------------------------------- fake_net.h's questions */

static int far_dialed(uint16_t port, int *far)
{
    if (port < FIRST_PORT || port >= FIRST_PORT + NODES) {
        return ECONNREFUSED;
    }
    *far = FAR_NODE + port - FIRST_PORT;
    return nodes[port - FIRST_PORT].dial;
}

static void far_gets(struct sock *s)
{
    if (s->far < FAR_NODE) {
        client_gets(&clients[s->far], s);
    } else if (!s->ended) {
        node_gets(s);
    }
    if (s->out_at == s->out_len || (s->ended && s->far >= FAR_NODE)) {
        s->out_at = s->out_len = 0;
    } else if (s->out_at > STREAM_CAP / 2) {
        memmove(s->out, s->out + s->out_at, s->out_len - s->out_at);
        s->out_len -= s->out_at;
        s->out_at = 0;
    }
}

static void far_closed(struct sock *s)
{
    if (s->state == SOCK_OPEN && s->far < FAR_NODE) {
        client_closed(&clients[s->far], s);
    }
}

/* ----------------------------------------------------------------- the turn */

/* One turn of the program; `jump` moves the clock to its next deadline first. */
static void turn(bool jump)
{
    loop_turn(!jump || redis_pending() || conn_pending());
    redis_turn();
    conn_flush();
    conn_reap();
    release_late(false);
    for (int i = 0; i < SOCKS; i++) { /* what a node had no room to answer before */
        if (socks[i].state == SOCK_OPEN && socks[i].far >= FAR_NODE && socks[i].out_at < socks[i].out_len) {
            far_gets(&socks[i]);
        }
    }
}

/* Turns until there is nothing left to do and `done`, or until so much time has gone by. */
static bool settle(uint32_t most_ms, bool (*done)(void))
{
    uint64_t until = loop_mock_us + most_ms * UINT64_C(1000);
    for (int busy = 0; loop_mock_us < until;) {
        turn(false);
        if (sock_events > 0 || redis_pending() || conn_pending()) {
            if (++busy < 300) {
                continue;
            }
            loop_mock_us += 1000;
        }
        busy = 0;
        if (done()) {
            return true;
        }
        turn(true);
    }
    return done();
}

static bool all_answered(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client_end *c = &clients[i];
        if (c->sock != NULL && !c->murky && (c->answered < c->asked_count || (c->over && !c->sock->shut))) {
            return false;
        }
    }
    return redis_req_in_flight() == 0;
}

static bool nobody_left(void)
{
    return redis_req_in_flight() == 0 && conn_count(CONN_CLIENT) == 0 && conn_count(CONN_UPSTREAM) == 0;
}

static bool nodes_well(void)
{
    const struct service *s = redis_service_at(0);
    for (uint16_t i = 0; i < backend_cap(); i++) {
        const struct backend *b = backend_at(i);
        if (i >= 3 ? b != NULL : b->state != BACKEND_UP || b->probe == NULL || b->question != 0) {
            return false;
        }
    }
    return s->asked == NULL && !s->refresh_wanted && s->map.served == SLOTMAP_SLOTS;
}

static bool nobody_asked(void)
{
    return redis_service_at(0)->asked == NULL;
}

/* ------------------------------------------------------------- the program */

static void boot(void)
{
    static char *args[] = { "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003" };
    static int listeners[MAX_SERVICES][MAX_LISTENS] = { { FD_LISTENER } };
    struct conf_service *r = &conf.services[0];
    MUST(conf_quick(&conf, SERVICE_REDIS, 1, args));
    conf.chunk_size = 1024, conf.chunks = CHUNKS, conf.upstream_buffer = 16384;
    conf.max_clients = CLIENTS, conf.max_backends = 5, conf.max_requests = 256, conf.max_leases = 2;
    conf.max_blocked = 2, conf.max_watching = 2, conf.max_own = 1;
    conf.max_split_keys = 64;
    conf.max_channels = 8, conf.channel_names = 1024, conf.max_subscriptions = 16, conf.max_messages = 16;
    r->retain_bytes = RETAIN, r->shared_reply_limit = 16384, r->client_window = 16384, r->merge_limit = 65536;
    r->transaction_limit = BLOCK_MAX;
    r->client_pipeline = 64, r->failover_queue = 64;
    r->dial_timeout_ms = 100, r->request_timeout_ms = 300, r->failover_wait_ms = 400, r->client_stall_ms = 400;
    r->lease_wait_ms = 200, r->suspect_after_ms = 100, r->probe_interval_ms = 1000, r->probe_timeout_ms = 150;
    r->refresh_interval_ms = 3600000;
    r->listens = 1;
    conf.slow_log = conf.hot_keys = 8, conf.slow_log_min_ms = 1;
    log_threshold = LOG_ERROR;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0) {
            arena_measure();
        } else {
            MUST(arena_obtain(false));
        }
        loop_tables(&conf), buf_tables(&conf), conn_tables(&conf), stats_tables(&conf), trace_tables(&conf);
        health_tables(&conf), redis_tables(&conf);
    }
    loop_without_queue = true;
    loop_mock_us = 1000000000;
    loop_open();
    buf_open();
    conn_open_table();
    trace_open(&conf);
    parent_attach(-1);
    redis_open(&conf, listeners);
}

/* Nodes as they are at first, and whatever was held back goes on. */
static void calm_down(void)
{
    for (int i = 0; i < NODES; i++) {
        nodes[i].automatic = true;
        nodes[i].dial = 0;
    }
    for (int i = 0; i < SOCKS; i++) {
        struct sock *s = &socks[i];
        s->piece = s->room = SIZE_MAX;
        if (s->state == SOCK_DIALING && s->dial_error == EINPROGRESS) {
            s->dial_error = ECONNREFUSED;
        }
        if (s->state == SOCK_OPEN && s->far >= FAR_NODE) {
            while (node_answer(s)) {
            }
            if (s->swallowed && !s->probe) {
                node_end(s, false); /* what blocks for ever would wait for its answer so long */
            }
        }
    }
    world.behind = false;
    release_late(true);
}

static void begin(void)
{
    memset(&world, 0, sizeof world);
    world.calm = true;
    world.moving = -1;
    calm_down();
    for (int i = 0; i < CLIENTS; i++) {
        client_open(i);
    }
    turn(false);
    MUST(conn_count(CONN_CLIENT) == CLIENTS);
}

static void reset_clients(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        if (clients[i].sock != NULL) {
            node_end(clients[i].sock, true);
        }
    }
}

/* The map and the table of nodes as they were: what the input has changed would change the next one. */
static void restore_nodes(void)
{
    struct service *s = redis_service_at(0);
    bool strangers = false;
    world.layout = 0;
    world.moving = -1;
    s->ask_took_ms = s->misses = 0; /* on a clock that jumps an answer seems to take long: the next question would wait */
    loop_timer(&s->timer, loop_ms());
    settle(2000, nodes_well);
    for (uint32_t slot = 0, wrong = !map_true(); wrong && slot < SLOTMAP_SLOTS; slot++) {
        if (s->map.owner[slot] != owner_of(third_of((uint16_t)slot))) {
            service_set_owner(s, (uint16_t)slot, backend_at((uint16_t)owner_of(third_of((uint16_t)slot))));
        }
    }
    for (uint16_t i = 3; i < backend_cap(); i++) {
        if (backend_at(i) != NULL) {
            backend_at(i)->listed = false;
            strangers = true;
        }
    }
    if (strangers) {
        MUST(settle(2000, nobody_asked)); /* else the answer seems to have taken as long as we jump */
        loop_mock_us += 61000000;
    }
    MUST(settle(70000, nodes_well));
}

/* The program's own client behind the i-th end; NULL: none. Numbers of connections only grow. */
static const struct client *client_of(int i)
{
    static uint64_t first;
    const struct client *found = NULL;
    uint64_t since = 0;
    for (uint64_t id = first; clients[i].sock != NULL && found == NULL && id < first + 65536; id++) {
        const struct client *c = block_client(redis_service_at(0), id);
        since = since == 0 && c != NULL ? id : since;
        found = c != NULL && c->conn->fd == FD_FIRST + (int)(clients[i].sock - socks) ? c : NULL;
    }
    first = since != 0 ? since : first;
    return found;
}

/* No client's request waits for anything, whatever its client is owed. */
static bool nobody_waits(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct client *c = client_of(i);
        if (c != NULL && (c->ready || c->head != NULL || c->block != NULL || c->starved || c->sub.since_ms != 0 || c->sub.pending != NULL)) {
            return false;
        }
    }
    return true;
}

/* Nodes end their connections. Who has just been given slots is given functions, too: for that others may be dialled again. */
static void nodes_hang_up(void)
{
    for (int round = 0; round < 3 && (round == 0 || !nobody_left()); round++) {
        for (int i = 0; i < SOCKS; i++) {
            if (socks[i].state == SOCK_OPEN && !socks[i].probe) {
                node_end(&socks[i], false);
            }
        }
        settle(6000, nobody_left);
    }
    MUST(nobody_left());
}

static void check_all_free(void)
{
    size_t pens = 0, open = 0;
    for (uint16_t i = 0; i < backend_cap(); i++) {
        const struct backend *b = backend_at(i);
        for (int k = 0; b != NULL && k < 2; k++) {
            if (b->shared[k]->pen.chunk != NULL) {
                MUST(b->shared[k]->pen.chunk->refs == 1);
                pens++;
            }
        }
    }
    MUST(buf_free_chunks() + pens == CHUNKS);
    for (uint32_t i = 0; i < conf_leases(&conf); i++) {
        const struct upstream *u = lease_at(i);
        MUST(u->owner == NULL && u->head == NULL && u->conn == NULL && !u->kept && u->pinned == 0);
    }
    MUST(block_count(redis_service_at(0)) == 0);
    MUST(message_room() == conf.max_messages);
    for (int kind = 0; kind < CHANNEL_KINDS; kind++) {
        MUST(channel_first((enum channel_kind)kind) == NULL);
    }
    for (int i = 0; i < SOCKS; i++) {
        open += socks[i].state != SOCK_FREE;
    }
    MUST(open == conn_count(CONN_PROBE));
}

/* Every client hears all it is owed; then all go, and nothing may be left of them. */
static void end(void)
{
    world.over = true;
    calm_down();
    settle(120000, all_answered); /* a slot that is moved for long: each of a pipeline may be turned away for a while */
    for (int i = 0; i < CLIENTS; i++) {
        const struct client_end *c = &clients[i];
        if (c->sock != NULL && !c->sock->reset && !c->murky && !(c->blocks && (c->sock->ended || world.wild))) {
            MUST(c->answered >= c->asked_count);
            MUST(!c->over || c->sock->shut);
        }
    }
    MUST(redis_req_in_flight() == 0);
    settle(6000, nobody_waits);
    MUST(nobody_waits());
    reset_clients();
    turn(false);
    nodes_hang_up();
    restore_nodes();
    nodes_hang_up();
    check_all_free();
}

/* ------------------------------------------------------------- the actions */

/* A value that tells its client and its place in the order of all writes. */
static void put_marked(struct text *t, unsigned client, size_t n)
{
    char mark[16];
    n = n < 8 ? 8 : n;
    put_header(t, '$', (int64_t)n);
    snprintf(mark, sizeof mark, "%c%u%06u", MARK, client, (unsigned)world.sequence);
    put(t, mark, 8);
    for (size_t i = 8; i < n; i++) {
        put(t, "v", 1);
    }
    put(t, "\r\n", 2);
}

/* A command: client and kind, key, and a count or length. */
static void act_command(void)
{
    static unsigned char bytes[REPLY_CAP];
    static const struct { const char *name, *prefix; bool many, values; unsigned unit; } kinds[] = {
        { "GET", "k", false, false, 0 },   { "SET", "k", false, true, 8 },     { "MGET", "k", true, false, 0 },
        { "MSET", "k", true, true, 8 },    { "DEL", "k", true, false, 0 },     { "EXISTS", "k", true, false, 0 },
        { "GET", "L", false, false, 160 }, { "SET", "k", false, true, 128 },   { "MGET", "L", true, false, 40 },
        { "MSET", "k", true, true, 100 },  { "STRLEN", "k", false, false, 0 }, { "BLPOP", "k", false, false, 0 },
    };
    struct text t = { bytes, 0, false };
    unsigned who = next_byte(), key = next_byte(), size = next_byte();
    unsigned kind = who / CLIENTS % 16, count = 1;
    bool blocks;
    struct client_end *c = &clients[who % CLIENTS];
    world.sequence++;
    if (who >= 216) { /* about channels, of which there are four */
        static const char *const words[] = { "SUBSCRIBE", "SSUBSCRIBE", "PSUBSCRIBE", "PUBLISH", "SPUBLISH", "UNSUBSCRIBE", "SUNSUBSCRIBE",
                                             "PUNSUBSCRIBE", "RESET", "PUBSUB" };
        unsigned word = size % 10;
        put_header(&t, '*', word == 8 ? 1 : word == 3 || word == 4 || word == 9 ? 3 : 2 + (int64_t)(size / 10 % 3));
        put_word(&t, words[word]);
        for (unsigned i = 0; word < 8 && word != 3 && word != 4 && i < 1 + size / 10 % 3; i++) {
            put_key(&t, "k", (key + i) % 4);
        }
        if (word == 3 || word == 4) {
            put_key(&t, "k", key % 4);
            put_key(&t, "k", key / 4 * 1000);
        } else if (word == 9) {
            put_word(&t, size & 16 ? "NUMSUB" : "CHANNELS");
            put_key(&t, "k", key % 4);
        }
        client_says(c, t.at, t.len);
        return;
    }
    if (kind >= sizeof kinds / sizeof kinds[0]) {
        static const char *const others[] = { "*1\r\n$4\r\nPING\r\n", "*1\r\n$4\r\nQUIT\r\n", "GET k7\r\n",
                                              "*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n" };
        const char *line = others[kind - sizeof kinds / sizeof kinds[0]];
        if (line == others[0] && size >= 192) { /* from here on over the other connections */
            line = key & 1 ? "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n" : "*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n";
        }
        client_says(c, line, strlen(line));
        return;
    }
    if (kinds[kind].many) {
        count = 1 + size % 12;
    }
    blocks = kinds[kind].name[0] == 'B';
    put_header(&t, '*', 1 + (int64_t)count * (kinds[kind].values ? 2 : 1) + blocks);
    put_word(&t, kinds[kind].name);
    for (unsigned i = 0; i < count; i++) {
        put_key(&t, kinds[kind].prefix, *kinds[kind].prefix == 'L' ? (key + i * 7) * kinds[kind].unit : (key + i) & 255);
        if (kinds[kind].values) {
            put_marked(&t, who % CLIENTS, size * kinds[kind].unit);
        }
    }
    if (blocks) {
        put_word(&t, size % 2 ? "0.001" : "0.25");
    }
    client_says(c, t.at, t.len);
}

/* MULTI and the like: client and kind, key, how many. */
static void act_multi(void)
{
    static unsigned char bytes[REPLY_CAP];
    static const char *const lines[] = { "*1\r\n$5\r\nMULTI\r\n", "*1\r\n$4\r\nEXEC\r\n", "*1\r\n$7\r\nDISCARD\r\n",
                                         "*1\r\n$7\r\nUNWATCH\r\n", "*1\r\n$5\r\nRESET\r\n" };
    struct text t = { bytes, 0, false };
    unsigned who = next_byte(), kind = who / CLIENTS % 10, key = next_byte(), count = kind < 8 ? 0 : 1 + next_byte() % 8;
    if (kind == 5) {
        for (int i = 0; i < SOCKS; i++) {
            socks[i].touched = socks[i].watching;
        }
        return;
    }
    if (kind < 5) {
        put(&t, lines[kind], strlen(lines[kind]));
    }
    if (kind == 6 || kind == 9) {
        put_header(&t, '*', 2);
        put_word(&t, "WATCH");
        put_key(&t, "k", key);
    }
    if (kind >= 7) {
        put(&t, lines[0], strlen(lines[0]));
    }
    for (unsigned i = 0; i < count; i++) {
        bool writes = (count & 1) != 0;
        world.sequence++;
        put_header(&t, '*', writes ? 3 : 2);
        put_word(&t, writes ? "SET" : "GET");
        put_key(&t, "k", key < 128 ? key : 128 + ((key + i) & 127));
        if (writes) {
            put_marked(&t, who % CLIENTS, count * 30);
        }
    }
    if (kind >= 8) {
        put(&t, lines[1], strlen(lines[1]));
    }
    client_says(&clients[who % CLIENTS], t.at, t.len);
}

/* Any of what makes a connection more than a sequence of questions: client, what, a small number. %k is a key, %b one on
 * which nodes let wait, %c a channel, %p a pattern, %w a marked value, %t a time, %i another client's number. */
static void act_mixed(void)
{
    static unsigned char bytes[REPLY_CAP];
    static const char *const lines[] = {
        "MULTI", "EXEC", "DISCARD", "WATCH %k", "UNWATCH", "SET %k %w", "GET %k", "BLPOP %b %t", "BLPOP %b %b %t", "BLMOVE %b %b LEFT RIGHT %t",
        "XREAD BLOCK 0 STREAMS %b $", "BZPOPMIN %k %t", "BLMPOP %t 1 %b LEFT", "WAIT 1 5", "WAITAOF 0 1 7", "WAIT 2 0", "CLIENT UNBLOCK %i",
        "CLIENT UNBLOCK %i ERROR", "CLIENT ID", "HELLO 2", "HELLO 3", "SUBSCRIBE %c", "SUBSCRIBE %c %c", "PSUBSCRIBE %p", "SSUBSCRIBE %c",
        "UNSUBSCRIBE", "UNSUBSCRIBE %c", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "SUNSUBSCRIBE %c", "PUBLISH %c %w", "PUBLISH %c %w", "PUBLISH %c %w",
        "SPUBLISH %c %w", "SPUBLISH %c %w", "PSUBSCRIBE __keyspace@0__:k*", "RESET", "QUIT", "PING", "CLIENT REPLY OFF", "CLIENT REPLY ON",
        "CLIENT REPLY SKIP", "CLIENT KILL ID %i", "MGET %k %k", "MSET %k %w %k %w", "EVALSHA 63143b6f8007b98c53ca2149822777b3566f9241 1 %k",
        "FUNCTION LOAD x", "FLUSHALL", "SCAN 0", "MONITOR", "CLIENT PAUSE 3", "PUBSUB NUMSUB %c", "INFO", "SSUBSCRIBE %c %c", "SCRIPT LOAD return" };
    struct text t = { bytes, 0, false };
    unsigned who = next_byte() % CLIENTS, what = next_byte(), number = next_byte();
    const char *line = lines[what % (sizeof lines / sizeof lines[0])];
    char name[24];
    int64_t words = 1;
    if (what >= 248) {
        for (int i = 0, left = (int)(number / 8 % 4); i < SOCKS; i++) {
            if (socks[i].state == SOCK_OPEN && socks[i].blocked && left-- == 0) {
                enum release how = (enum release)(number % 5);
                world.trouble = world.trouble || how >= RELEASE_MOVED;
                release(&socks[i], how);
            }
        }
        world.behind = (number & 128) != 0;
        return;
    }
    for (const char *p = line; *p != '\0'; p++) {
        words += *p == ' ';
    }
    put_header(&t, '*', words);
    while (words-- > 0) {
        size_t n = strcspn(line, " ");
        const struct client *other;
        snprintf(name, sizeof name, "%.*s", (int)(n < 20 ? n : 20), line);
        if (line[0] != '%') {
            put_header(&t, '$', (int64_t)n);
            put(&t, line, n);
            put(&t, "\r\n", 2);
        } else if (line[1] == 'k') {
            put_key(&t, "k", number);
        } else if (line[1] == 'w') {
            world.sequence++;
            put_marked(&t, who, 8);
        } else {
            switch (line[1]) {
            case 'b': snprintf(name, sizeof name, number & 64 ? "b%u" : "{b}b%u", number & 3); break;
            case 'c': snprintf(name, sizeof name, "k%u", number & 3); break;
            case 'p': snprintf(name, sizeof name, "k%c", "0123?*"[number % 6]); break;
            case 't': snprintf(name, sizeof name, "%s", number & 16 ? "0" : number & 32 ? "0.05" : "0.3"); break;
            default:
                other = client_of((int)(number % CLIENTS));
                snprintf(name, sizeof name, "%llu", other != NULL ? (unsigned long long)other->conn->id : 7ull);
            }
            put_word(&t, name);
        }
        number += line[0] == '%';
        line += n + 1;
    }
    client_says(&clients[who], t.at, t.len);
}

static void act_client_raw(void)
{
    unsigned char bytes[256];
    unsigned who = next_byte(), n = next_byte();
    for (unsigned i = 0; i < n; i++) {
        bytes[i] = (unsigned char)next_byte();
        if (bytes[i] == MARK) {
            bytes[i] = '?';
        }
    }
    client_says(&clients[who % CLIENTS], bytes, n);
}

/* The which-th connection of a node to the proxy, one with a request waiting if there is any; NULL when none is open. */
static struct sock *pick_node(unsigned which)
{
    struct sock *found[SOCKS];
    unsigned count = 0;
    for (int pass = 0; pass < 2 && count == 0; pass++) {
        for (int i = 0; i < SOCKS; i++) {
            struct sock *s = &socks[i];
            if (s->state == SOCK_OPEN && s->far >= FAR_NODE && !s->ended && (pass > 0 || s->out_at < s->out_len)) {
                found[count++] = s;
            }
        }
    }
    return count > 0 ? found[which % count] : NULL;
}

static void act_client(void)
{
    unsigned who = next_byte(), how = next_byte() % 8;
    struct sock *s = clients[who % CLIENTS].sock;
    if (s == NULL) {
        client_open((int)(who % CLIENTS));
    } else if (how == 0) {
        s->ended = true;
    } else if (how == 1) {
        node_end(s, true);
    } else if (how < 5) {
        s->piece = how == 2 ? 1 : how == 3 ? 7 : SIZE_MAX;
    } else {
        s->room = how == 5 ? SIZE_MAX : how == 6 ? 0 : next_byte();
        world.calm = false;
    }
}

static void act_answer(void)
{
    unsigned which = next_byte();
    struct sock *s = pick_node(which);
    for (unsigned n = which / 16; s != NULL && node_answer(s) && n > 0; n--) {
    }
}

/* The request at the head of what s got is not done as it should be: so it goes with the transaction that it is part of. When
 * it is MULTI, what is behind it runs at once. */
static void refused_in_block(struct sock *s, const struct resp_request *f)
{
    const unsigned char *p = s->out + s->out_at;
    world.jumbled = world.jumbled || named(p, &f->arg[0], "multi");
    s->dirty = true;
    s->multi = s->multi && !named(p, &f->arg[0], "exec");
}

/* Whether these bytes are one reply that says neither that a request did not run nor who owns what. */
static bool plain_reply(const unsigned char *p, size_t n)
{
    struct resp_reply reply;
    enum resp_status status;
    resp_reply_start(&reply);
    return n > 0 && *p != '-' && *p != '*' && resp_reply(&reply, p, n, &status) == n && status == RESP_WHOLE &&
           reply.type != '>'; /* a push is no answer: what comes next is */
}

/* A node makes something up, in the place of an answer or beside its answers. In the second case the proxy takes each
 * answer for that of another request, and a "not executed" for that of a write that has run. */
static void act_node_raw(void)
{
    unsigned char bytes[256];
    unsigned which = next_byte(), n = next_byte();
    struct sock *s = pick_node(which);
    struct resp_request f;
    size_t len = s != NULL && which >= 64 ? node_request(s, &f) : 0;
    for (unsigned i = 0; i < n; i++) {
        bytes[i] = (unsigned char)next_byte();
    }
    world.calm = false;
    world.trouble = true;
    world.wild = true;
    if (s != NULL && s->blocked) {
        release(s, (enum release)(which % 5));
    } else if (s != NULL && sock_say(s, bytes, n)) {
        world.jumbled = world.jumbled || len == 0 || !plain_reply(bytes, n);
        s->asking = s->asking && len == 0;
        if (len > 0) {
            refused_in_block(s, &f);
        }
        s->swallowed = s->swallowed || len > 0;
        s->out_at += len;
    }
}

static void act_redirect(void)
{
    static const char *const lines[] = { "-TRYAGAIN not now\r\n", "-CLUSTERDOWN The cluster is down\r\n",
        "-LOADING Redis is loading\r\n", "-READONLY You can't write\r\n", "-MASTERDOWN Link with MASTER is down\r\n",
        "-ERR no\r\n", "-MOVED 1 nowhere.example:7001\r\n", "-MOVED 2 :7004\r\n", "-MOVED 3 10.0.0.9:9\r\n",
        "-ASK 16383 127.0.0.1:7003\r\n" };
    unsigned which = next_byte(), how = next_byte() % 16;
    struct sock *s = pick_node(which);
    struct resp_request f;
    size_t len = s != NULL ? node_request(s, &f) : 0;
    if (len > 0 && named(s->out + s->out_at, &f.arg[0], "asking")) {
        node_answer(s);
        len = node_request(s, &f);
    }
    world.calm = false;
    world.trouble = true;
    world.jumbled = world.jumbled || how > 5;
    if (s != NULL && s->blocked) {
        release(s, (enum release)(how % 5));
        return;
    }
    if (len == 0 || (s->asking && len == 0)) {
        return;
    }
    s->asking = false;
    if (how < sizeof lines / sizeof lines[0]) {
        say_line(s, lines[how]);
    } else {
        say_redirect(s, how % 2 ? "MOVED" : "ASK", slot_in(s->out + s->out_at, &f), (int)(which / 16 % NODES));
    }
    refused_in_block(s, &f);
    s->out_at += len;
}

/* A node's connection: closed, reset, with its requests run first or not; slow either way. */
static void act_node(void)
{
    unsigned which = next_byte(), how = next_byte() % 8;
    struct sock *s = pick_node(which);
    if (s == NULL) {
        return;
    }
    if (how < 4) {
        size_t told = s->in_len; /* what it says from here on is lost with the connection */
        while ((how & 2) != 0 && node_answer(s)) {
        }
        s->in_len = (how & 2) != 0 ? told : s->in_len;
        node_end(s, (how & 1) != 0);
        world.calm = false;
        world.trouble = true;
    } else if (how < 6) {
        s->piece = how == 4 ? 1 + next_byte() : SIZE_MAX;
    } else {
        s->room = how == 6 ? next_byte() : SIZE_MAX;
        world.calm = false;
        world.trouble = true;
    }
}

static void slots_move(void)
{
    world.calm = false;
    world.trouble = true;
    world.jumbled = world.jumbled || world.moved;
    world.moved = true;
}

static void act_cluster(void)
{
    unsigned what = next_byte(), node = what / 8 % NODES;
    switch (what % 8) {
    case 0:
    case 1:
        nodes[node].automatic = what % 8 == 1;
        break;
    case 2:
    case 3:
    case 4:
        nodes[node].dial = what % 8 == 2 ? ECONNREFUSED : what % 8 == 3 ? EINPROGRESS : 0;
        world.calm = false;
        world.trouble = true;
        break;
    case 5:
    case 6:
        slots_move();
        world.layout = node;
        break;
    default:
        slots_move();
        world.moving = world.moving < 0 && world.layout < 3 ? (int)(node % 3) : -1;
        break;
    }
}

static void act_time(void)
{
    unsigned n = next_byte();
    world.calm = false;
    world.trouble = true;
    if (n < 128) {
        loop_mock_us += n * 1000;
    } else {
        for (n -= 127; n > 0; n -= n > 4 ? 4 : n) {
            turn(true);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static void (*const actions[])(void) = { act_command, act_client_raw, act_client, act_answer, act_node_raw,
                                             act_redirect, act_node, act_cluster, act_time, act_multi };
    static bool booted;
    if (!booted) {
        booted = true;
        calm_down();
        boot();
        world.moving = -1;
        MUST(settle(5000, nodes_well));
    }
    begin();
    input.p = data;
    input.left = len;
    for (int i = 0; i < ACTIONS_MAX && input.left > 0; i++) {
        unsigned b = next_byte();
        if (b >= 250) {
            act_mixed();
        } else {
            actions[b % (sizeof actions / sizeof actions[0])]();
        }
        if (b < 128 || (b >= 250 && (b & 1) != 0)) { /* else what comes next happens in the same turn */
            turn(false);
        }
    }
    end();
    return 0;
}
