/*
 * redis_channel.c - the tables of publish and subscribe: names, channels, subscriptions, messages.
 *
 *   buckets -> channel -> channel       by kind and name; an entry lives while a subscription, a link or a message does
 *                 | name
 *                 v
 *              block -> block           60 bytes each: names may be of any length, and short ones cost one
 *
 *   buckets -> subscription             by client and channel
 *
 * A message is freed from the front of its channel's queue as soon as nobody stands at it: whoever stands further back
 * has had it. It holds chunks of the pool until then.
 */
#include "redis_channel.h"

#include <string.h>

#define BLOCK_BYTES 60
#define NO_BLOCK UINT32_MAX

struct block { uint32_t next; unsigned char bytes[BLOCK_BYTES]; };

static struct {
    struct channel *channels, *free_channel, **channel_buckets;
    struct channel *first[CHANNEL_KINDS];
    struct subscription *subscriptions, *free_subscription, **subscription_buckets;
    struct message *messages, *free_message;
    struct block *blocks;
    unsigned char *scratch;
    size_t channel_total, subscription_total, message_total, block_total, scratch_cap;
    size_t channel_mask, subscription_mask;
    size_t free_messages, free_blocks;
    uint32_t free_block;
    uint64_t seq;
    bool relieved;
} tb;

static size_t buckets_for(size_t n)
{
    size_t size = 16;
    while (size < n) {
        size *= 2;
    }
    return size;
}

void redis_channel_tables(const struct conf *conf)
{
    tb.scratch_cap = 1024;
    for (int i = 0; i < conf->service_count; i++) {
        size_t retain = conf->services[i].retain_bytes;
        tb.scratch_cap = retain > tb.scratch_cap ? retain : tb.scratch_cap;
    }
    tb.channel_total = conf->max_channels;
    tb.subscription_total = conf->max_subscriptions;
    tb.message_total = conf->max_messages;
    tb.block_total = conf->channel_names / sizeof *tb.blocks;
    tb.channel_mask = buckets_for(tb.channel_total) - 1;
    tb.subscription_mask = buckets_for(tb.subscription_total) - 1;
    tb.channels = arena_take("channels", tb.channel_total, sizeof *tb.channels);
    tb.channel_buckets = arena_take("channel buckets", tb.channel_mask + 1, sizeof *tb.channel_buckets);
    tb.blocks = arena_take("channel names", tb.block_total, sizeof *tb.blocks);
    tb.scratch = arena_take("channel name", 1, tb.scratch_cap);
    tb.subscriptions = arena_take("subscriptions", tb.subscription_total, sizeof *tb.subscriptions);
    tb.subscription_buckets = arena_take("subscription buckets", tb.subscription_mask + 1,
                                         sizeof *tb.subscription_buckets);
    tb.messages = arena_take("messages", tb.message_total, sizeof *tb.messages);
}

void redis_channel_open(void)
{
    gauges.subscriptions.most = tb.subscription_total;
    for (size_t i = tb.channel_total; i > 0; i--) {
        tb.channels[i - 1].bucket_next = tb.free_channel;
        tb.free_channel = &tb.channels[i - 1];
    }
    for (size_t i = tb.subscription_total; i > 0; i--) {
        tb.subscriptions[i - 1].bucket_next = tb.free_subscription;
        tb.free_subscription = &tb.subscriptions[i - 1];
    }
    for (size_t i = tb.message_total; i > 0; i--) {
        tb.messages[i - 1].next = tb.free_message;
        tb.free_message = &tb.messages[i - 1];
    }
    tb.free_block = NO_BLOCK;
    for (size_t i = tb.block_total; i > 0; i--) {
        tb.blocks[i - 1].next = tb.free_block;
        tb.free_block = (uint32_t)i - 1;
    }
    tb.free_messages = tb.message_total;
    tb.free_blocks = tb.block_total;
}

unsigned char *channel_scratch(size_t *cap)
{
    *cap = tb.scratch_cap;
    return tb.scratch;
}

/* ------------------------------------------------------------------ names */

static size_t blocks_of(size_t n)
{
    return n == 0 ? 1 : (n + BLOCK_BYTES - 1) / BLOCK_BYTES;
}

static uint32_t name_keep(const unsigned char *p, size_t n)
{
    uint32_t first = tb.free_block, at = first;
    for (size_t left = blocks_of(n);; left--) {
        size_t part = n < BLOCK_BYTES ? n : BLOCK_BYTES;
        memcpy(tb.blocks[at].bytes, p, part);
        p += part;
        n -= part;
        tb.free_blocks--;
        if (left == 1) {
            tb.free_block = tb.blocks[at].next;
            tb.blocks[at].next = NO_BLOCK;
            return first;
        }
        at = tb.blocks[at].next;
    }
}

static void name_free(uint32_t first)
{
    uint32_t last = first;
    tb.free_blocks++;
    while (tb.blocks[last].next != NO_BLOCK) {
        last = tb.blocks[last].next;
        tb.free_blocks++;
    }
    tb.blocks[last].next = tb.free_block;
    tb.free_block = first;
}

static bool name_same(const struct channel *ch, const unsigned char *p, size_t n)
{
    uint32_t at = ch->name;
    while (n > BLOCK_BYTES && memcmp(tb.blocks[at].bytes, p, BLOCK_BYTES) == 0) {
        at = tb.blocks[at].next;
        p += BLOCK_BYTES;
        n -= BLOCK_BYTES;
    }
    return n <= BLOCK_BYTES && memcmp(tb.blocks[at].bytes, p, n) == 0;
}

size_t channel_name_part(const struct channel *ch, size_t *at, const unsigned char **p)
{
    size_t left = ch->name_len - *at, part = left < BLOCK_BYTES ? left : BLOCK_BYTES;
    uint32_t block = ch->name;
    for (size_t i = *at / BLOCK_BYTES; i > 0 && part > 0; i--) {
        block = tb.blocks[block].next;
    }
    *p = tb.blocks[block].bytes;
    *at += part;
    return part;
}

const unsigned char *channel_name(const struct channel *ch)
{
    size_t at = 0;
    if (ch->name_len <= BLOCK_BYTES) {
        return tb.blocks[ch->name].bytes;
    }
    for (uint32_t b = ch->name; b != NO_BLOCK; b = tb.blocks[b].next) {
        size_t part = ch->name_len - at < BLOCK_BYTES ? ch->name_len - at : BLOCK_BYTES;
        memcpy(tb.scratch + at, tb.blocks[b].bytes, part);
        at += part;
    }
    return tb.scratch;
}

static const char *const kept[] = { "__keyspace@", "__keyevent@" };
#define KEPT_LEN 11

bool channel_is_kept(const void *name, size_t n)
{
    return n >= KEPT_LEN && (memcmp(name, kept[0], KEPT_LEN) == 0 || memcmp(name, kept[1], KEPT_LEN) == 0);
}

/* Whether a key notification's channel may be meant: of a pattern, what stands before its first special byte counts. */
static bool may_be_kept(enum channel_kind kind, const unsigned char *p, size_t n)
{
    size_t plain = 0;
    if (kind != CHANNEL_PATTERN) {
        return kind == CHANNEL_PLAIN && channel_is_kept(p, n);
    }
    while (plain < n && plain < KEPT_LEN && memchr("*?[\\", p[plain], 4) == NULL) {
        plain++;
    }
    return (plain < n || plain == KEPT_LEN) && (memcmp(p, kept[0], plain) == 0 || memcmp(p, kept[1], plain) == 0);
}

/* --------------------------------------------------------------- patterns */

/* Whether one byte is in the class that begins behind '['. *p is left at its last byte. As Redis reads it: the end of
 * the pattern closes it, too, and a range may be given either way round. */
static bool in_class(const unsigned char *pattern, size_t len, size_t *p, unsigned char byte)
{
    size_t i = *p;
    bool not = i < len && pattern[i] == '^', match = false;
    for (i += not; i < len && pattern[i] != ']'; i++) {
        if (pattern[i] == '\\' && i + 1 < len) {
            i++;
            match = match || pattern[i] == byte;
        } else if (i + 2 < len && pattern[i + 1] == '-') {
            unsigned char from = pattern[i], to = pattern[i + 2];
            match = match || (from <= to ? byte >= from && byte <= to : byte >= to && byte <= from);
            i += 2;
        } else {
            match = match || pattern[i] == byte;
        }
    }
    *p = i < len ? i : len - 1;
    return match != not;
}

bool channel_glob(const unsigned char *pattern, size_t len, const unsigned char *text, size_t n)
{
    size_t p = 0, t = 0, star = SIZE_MAX, from = 0; /* behind the last '*'; what of the text it has not taken */
    if (n == 0) {
        return len == 0; /* as servers have it: not even '*' matches an empty name */
    }
    while (t < n || p < len) {
        bool fits = false;
        size_t next = p;
        if (p < len && pattern[p] == '*') {
            star = ++p;
            from = t;
            continue;
        }
        if (p < len && t < n) {
            switch (pattern[p]) {
            case '?':
                fits = true;
                break;
            case '[':
                next = p + 1;
                fits = in_class(pattern, len, &next, text[t]);
                break;
            case '\\':
                next = p + 1 < len ? p + 1 : p;
                fits = pattern[next] == text[t];
                break;
            default:
                fits = pattern[p] == text[t];
            }
        }
        if (fits) {
            p = next + 1;
            t++;
        } else if (star != SIZE_MAX && from < n) {
            p = star;
            t = ++from;
        } else {
            return false;
        }
    }
    return true;
}

/* --------------------------------------------------------------- channels */

static uint32_t hash_of(const struct service *s, enum channel_kind kind, const unsigned char *p, size_t n)
{
    uint32_t h = 2166136261u ^ (uint32_t)kind ^ (uint32_t)((uintptr_t)s >> 4);
    for (size_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * 16777619u;
    }
    return h ^ h >> 15;
}

static struct channel *find(uint32_t hash, const struct service *s, enum channel_kind kind, const void *name, size_t n)
{
    struct channel *ch = tb.channel_buckets[hash & tb.channel_mask];
    while (ch != NULL && !(ch->hash == hash && ch->kind == kind && ch->service == s && ch->name_len == n &&
                           name_same(ch, name, n))) {
        ch = ch->bucket_next;
    }
    return ch;
}

struct channel *channel_find(const struct service *s, enum channel_kind kind, const void *name, size_t n)
{
    return find(hash_of(s, kind, name, n), s, kind, name, n);
}

struct channel *channel_make(struct service *s, enum channel_kind kind, const void *name, size_t n, const char **full)
{
    uint32_t hash = hash_of(s, kind, name, n);
    struct channel *ch = find(hash, s, kind, name, n);
    if (ch != NULL) {
        return ch;
    }
    *full = tb.free_channel == NULL ? "max_channels" : "channel_names";
    ch = tb.free_channel;
    if (ch == NULL || blocks_of(n) > tb.free_blocks || n > tb.scratch_cap) {
        return NULL;
    }
    tb.free_channel = ch->bucket_next;
    memset(ch, 0, sizeof *ch);
    ch->service = s;
    ch->kind = (uint8_t)kind;
    ch->hash = hash;
    ch->name = name_keep(name, n);
    ch->name_len = (uint32_t)n;
    ch->slot = slotmap_slot(name, n);
    ch->everywhere = may_be_kept(kind, name, n);
    ch->bucket_next = tb.channel_buckets[hash & tb.channel_mask];
    tb.channel_buckets[hash & tb.channel_mask] = ch;
    ch->next = tb.first[kind];
    if (ch->next != NULL) {
        ch->next->prev = ch;
    }
    tb.first[kind] = ch;
    return ch;
}

void channel_let_go(struct channel *ch)
{
    struct channel **at = &tb.channel_buckets[ch->hash & tb.channel_mask];
    if (ch->subs != NULL || ch->links != NULL || ch->first != NULL) {
        return;
    }
    while (*at != ch) {
        at = &(*at)->bucket_next;
    }
    *at = ch->bucket_next;
    *(ch->prev != NULL ? &ch->prev->next : &tb.first[ch->kind]) = ch->next;
    if (ch->next != NULL) {
        ch->next->prev = ch->prev;
    }
    name_free(ch->name);
    ch->service = NULL;
    ch->bucket_next = tb.free_channel;
    tb.free_channel = ch;
}

struct channel *channel_first(enum channel_kind kind)
{
    return tb.first[kind];
}

uint32_t channel_count(const struct service *s, enum channel_kind kind)
{
    uint32_t n = 0;
    for (const struct channel *ch = tb.first[kind]; ch != NULL; ch = ch->next) {
        n += ch->service == s && ch->told > 0;
    }
    return n;
}

/* ---------------------------------------------------------- subscriptions */

static struct subscription **bucket_of(const struct client *c, const struct channel *ch)
{
    uint64_t h = (uint64_t)(uintptr_t)c * 0x9e3779b97f4a7c15u ^ (uint64_t)(uintptr_t)ch * 0xc2b2ae3d27d4eb4fu;
    return &tb.subscription_buckets[(h ^ h >> 32) & tb.subscription_mask];
}

struct subscription *subscription_find(const struct client *c, const struct channel *ch)
{
    struct subscription *s = ch == NULL ? NULL : *bucket_of(c, ch);
    while (s != NULL && !(s->client == c && s->channel == ch)) {
        s = s->bucket_next;
    }
    return s;
}

struct subscription *subscription_make(struct client *c, struct channel *ch)
{
    struct subscription *s = tb.free_subscription, **bucket = bucket_of(c, ch);
    if (s == NULL) {
        return NULL;
    }
    tb.free_subscription = s->bucket_next;
    gauge_up(&gauges.subscriptions);
    memset(s, 0, sizeof *s);
    s->client = c;
    s->channel = ch;
    s->until = UINT64_MAX;
    s->bucket_next = *bucket;
    *bucket = s;
    s->next = ch->subs;
    if (s->next != NULL) {
        s->next->prev = s;
    }
    ch->subs = s;
    s->mine_next = c->sub.list;
    if (s->mine_next != NULL) {
        s->mine_next->mine_prev = s;
    }
    c->sub.list = s;
    return s;
}

void subscription_tell(struct subscription *s)
{
    must(!s->told);
    s->told = true;
    s->channel->told++;
    s->client->sub.count[s->channel->kind]++;
    s->client->subscribed = true;
}

void subscription_leave(struct subscription *s)
{
    if (!s->leaving) {
        s->leaving = true;
        s->until = tb.seq;
    }
}

/* Into its client's list of those that wait, which is sorted: most often it belongs to the end. */
static void wait_put(struct subscription *s)
{
    struct subscriber *sub = &s->client->sub;
    struct subscription *before = sub->pending_tail;
    if (before != NULL && before->at->seq > s->at->seq) {
        struct subscription *after = sub->pending;
        while (after->at->seq < s->at->seq) {
            after = after->wait_next;
        }
        before = after->wait_prev;
    }
    s->wait_prev = before;
    s->wait_next = before != NULL ? before->wait_next : sub->pending;
    *(before != NULL ? &before->wait_next : &sub->pending) = s;
    *(s->wait_next != NULL ? &s->wait_next->wait_prev : &sub->pending_tail) = s;
}

static void wait_cut(struct subscription *s)
{
    struct subscriber *sub = &s->client->sub;
    *(s->wait_prev != NULL ? &s->wait_prev->wait_next : &sub->pending) = s->wait_next;
    *(s->wait_next != NULL ? &s->wait_next->wait_prev : &sub->pending_tail) = s->wait_prev;
}

/* Lets go of what nobody stands at, from the front. */
static void trim(struct channel *ch)
{
    while (ch->first != NULL && ch->first->refs == 0) {
        struct message *m = ch->first;
        ch->first = m->next;
        slice_release(&m->bytes);
        m->next = tb.free_message;
        tb.free_message = m;
        tb.free_messages++;
        tb.relieved = true;
    }
    ch->last = ch->first == NULL ? NULL : ch->last;
}

void subscription_end(struct subscription *s)
{
    struct channel *ch = s->channel;
    struct client *c = s->client;
    struct subscription **at = bucket_of(c, ch);
    if (s->at != NULL) {
        wait_cut(s);
        for (const struct message *m = s->at; m != NULL; m = subscription_after(s, m)) {
            c->sub.bytes -= message_size(m);
        }
        s->at->refs--;
        trim(ch);
    }
    while (*at != s) {
        at = &(*at)->bucket_next;
    }
    *at = s->bucket_next;
    *(s->prev != NULL ? &s->prev->next : &ch->subs) = s->next;
    if (s->next != NULL) {
        s->next->prev = s->prev;
    }
    *(s->mine_prev != NULL ? &s->mine_prev->mine_next : &c->sub.list) = s->mine_next;
    if (s->mine_next != NULL) {
        s->mine_next->mine_prev = s->mine_prev;
    }
    if (s->told) {
        ch->told--;
        c->sub.count[ch->kind]--;
        c->subscribed = c->sub.count[CHANNEL_PLAIN] + c->sub.count[CHANNEL_PATTERN] + c->sub.count[CHANNEL_SHARD] > 0;
    }
    s->client = NULL;
    s->bucket_next = tb.free_subscription;
    tb.free_subscription = s;
    gauge_down(&gauges.subscriptions);
}

struct client *subscription_greediest(void)
{
    struct client *most = NULL;
    for (size_t i = 0; i < tb.subscription_total; i++) {
        struct client *c = tb.subscriptions[i].client;
        if (c != NULL && c->sub.bytes > (most != NULL ? most->sub.bytes : 0)) {
            most = c;
        }
    }
    return most;
}

/* --------------------------------------------------------------- messages */

size_t message_room(void)
{
    return tb.free_messages;
}

bool message_relieved(void)
{
    bool was = tb.relieved;
    tb.relieved = false;
    return was;
}

/* Its entry counts, too: of tiny messages the entries are what becomes scarce. */
size_t message_size(const struct message *m)
{
    return m->bytes.len + sizeof *m;
}

struct message *message_add(struct channel *ch, struct slice *bytes)
{
    struct message *m = tb.free_message;
    must(m != NULL);
    tb.free_message = m->next;
    tb.free_messages--;
    m->next = NULL;
    m->bytes = *bytes;
    m->refs = 1;
    m->seq = ++tb.seq;
    *(ch->last != NULL ? &ch->last->next : &ch->first) = m;
    ch->last = m;
    return m;
}

void message_drop(struct channel *ch, struct message *m)
{
    m->refs--;
    trim(ch);
}

void subscription_get(struct subscription *s, struct message *m)
{
    s->client->sub.bytes += message_size(m);
    if (s->at == NULL) {
        s->at = m;
        m->refs++;
        wait_put(s);
    }
}

struct message *subscription_after(const struct subscription *s, const struct message *m)
{
    return m->next != NULL && m->next->seq <= s->until ? m->next : NULL;
}

void subscription_got(struct subscription *s)
{
    struct message *m = s->at;
    s->client->sub.bytes -= message_size(m);
    wait_cut(s);
    s->at = subscription_after(s, m);
    if (s->at != NULL) {
        s->at->refs++;
        wait_put(s);
    }
    m->refs--;
    trim(s->channel);
}
