/*
 * test_channel.c - the tables of publish and subscribe, and what a client is sent of them: patterns against Redis's own
 * way of matching, names of all lengths, full tables, and random work in which every client must get exactly the messages
 * that were meant for it, in order, however its sends are cut; at the end everything is free again.
 */
#include "redis_channel.h"
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNKS 64
#define CHUNK 1024
#define CHANNELS 16
#define CLIENTS 5
#define STEPS 300000
#define GOT_CAP (1u << 20)

static struct conf conf;
static struct service section, other_section;
static struct conf_service redis_conf;
static struct client clients[CLIENTS];
static struct conn conns[CLIENTS];
static unsigned char got[CLIENTS][GOT_CAP], wanted[CLIENTS][GOT_CAP];
static size_t got_len[CLIENTS], wanted_len[CLIENTS];
static uint32_t dice_state = 88172645u;

static uint32_t dice(uint32_t below)
{
    dice_state ^= dice_state << 13;
    dice_state ^= dice_state >> 17;
    dice_state ^= dice_state << 5;
    return dice_state % below;
}

static bool glob(const char *pattern, const char *text)
{
    return channel_glob((const unsigned char *)pattern, strlen(pattern), (const unsigned char *)text, strlen(text));
}

static void test_patterns(void)
{
    static const struct { const char *pattern, *text; bool fits; } rows[] = {
        { "", "", true }, { "", "a", false }, { "*", "", false }, { "**", "", false }, { "*", "abc", true }, { "a*", "a", true }, { "a*c", "abbc", true },
        { "a*c", "abcd", false }, { "*a*b*", "xxaxxbxx", true }, { "*a*b*", "xxbxxa", false }, { "?", "", false }, { "?", "a", true },
        { "h?llo", "hello", true }, { "h?llo", "hllo", false }, { "h[ae]llo", "hallo", true }, { "h[ae]llo", "hillo", false },
        { "h[^e]llo", "hello", false }, { "h[^e]llo", "hallo", true }, { "[a-c]", "b", true }, { "[c-a]", "b", true }, { "[a-c]", "d", false },
        { "[^a-c]x", "dx", true }, { "\\*", "*", true }, { "\\*", "a", false }, { "a\\", "a\\", true }, { "[\\]]", "]", true }, { "[a\\]]", "a", true }, { "[a\\]]", "a]", false }, { "[a\\]", "a", true }, { "[]", "]", false },
        { "[abc", "b", true }, { "[abc", "d", false }, { "[", "[", false }, { "a[", "a", false }, { "*[0-9]", "abc7", true }, { "**", "x", true },
        { "*?", "", false }, { "*?*", "a", true }, { "[a-]", "-", false }, { "[a-]", "_", true }, { "[-a]", "-", true }, { "__key*", "__keyspace@0__:x", true },
    };
    char many[200];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        unit_note = rows[i].pattern;
        CHECK(glob(rows[i].pattern, rows[i].text) == rows[i].fits);
    }
    unit_note = "a pattern that costs a naive matcher years";
    memset(many, 'a', sizeof many - 1);
    many[sizeof many - 1] = '\0';
    CHECK(!glob("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", many));
    unit_note = "";
}

static void test_names(void)
{
    static unsigned char name[700];
    const char *full = "";
    struct channel *list[8];
    const size_t lengths[] = { 0, 1, 59, 60, 61, 120, 121, 600 };
    for (size_t i = 0; i < sizeof name; i++) {
        name[i] = (unsigned char)dice(256);
    }
    for (int i = 0; i < 8; i++) {
        const unsigned char *p;
        size_t at = 0, n, sum = 0;
        list[i] = channel_make(&section, CHANNEL_PLAIN, name, lengths[i], &full);
        if (!CHECK(list[i] != NULL)) {
            return;
        }
        CHECK(channel_find(&section, CHANNEL_PLAIN, name, lengths[i]) == list[i]);
        CHECK(channel_make(&section, CHANNEL_PLAIN, name, lengths[i], &full) == list[i]);
        CHECK(channel_find(&section, CHANNEL_SHARD, name, lengths[i]) == NULL);
        CHECK(channel_find(&other_section, CHANNEL_PLAIN, name, lengths[i]) == NULL);
        CHECK(memcmp(channel_name(list[i]), name, lengths[i]) == 0);
        while ((n = channel_name_part(list[i], &at, &p)) > 0) {
            CHECK(memcmp(p, name + sum, n) == 0);
            sum += n;
        }
        CHECK(sum == lengths[i]);
    }
    unit_note = "names that fill their table";
    CHECK(channel_make(&section, CHANNEL_SHARD, name, 700, &full) == NULL && strcmp(full, "channel_names") == 0);
    for (int i = 0; i < 8; i++) {
        channel_let_go(list[i]);
    }
    CHECK(channel_first(CHANNEL_PLAIN) == NULL);
    unit_note = "key notifications";
    for (int i = 0; i < 8; i++) {
        static const struct { enum channel_kind kind; const char *name; bool everywhere; } rows[] = {
            { CHANNEL_PLAIN, "__keyspace@0__:a", true }, { CHANNEL_PLAIN, "__keyspac", false }, { CHANNEL_SHARD, "__keyspace@0__:a", false },
            { CHANNEL_PATTERN, "*", true }, { CHANNEL_PATTERN, "__key[se]*", true }, { CHANNEL_PATTERN, "_x*", false },
            { CHANNEL_PATTERN, "__keyevent@*", true }, { CHANNEL_PATTERN, "__key", false },
        };
        struct channel *ch = channel_make(&section, rows[i].kind, rows[i].name, strlen(rows[i].name), &full);
        CHECK(ch != NULL && ch->everywhere == rows[i].everywhere);
        channel_let_go(ch);
    }
    unit_note = "";
}

/* One send to client i: as many bytes of what is gathered as the dice say. */
static void send_some(uint32_t i, size_t most)
{
    struct iovec iov[8];
    int count = pubsub_gather(&conns[i], iov, 2 + (int)dice(7));
    size_t sent = 0;
    CHECK((count > 0) == (clients[i].sub.pending != NULL));
    for (int k = 0; k < count && sent < most; k++) {
        size_t n = iov[k].iov_len < most - sent ? iov[k].iov_len : most - sent;
        memcpy(got[i] + got_len[i], iov[k].iov_base, n);
        got_len[i] += n;
        sent += n;
    }
    if (sent > 0) {
        pubsub_sent(&conns[i], sent);
    }
}

static void want_message(uint32_t i, const unsigned char *p, size_t n)
{
    memcpy(wanted[i] + wanted_len[i], p, n);
    wanted[i][wanted_len[i]] = clients[i].resp3 ? '>' : *p;
    wanted_len[i] += n;
}

static void publish(struct channel *ch, struct pen *pen)
{
    static unsigned char text[4096];
    struct slice bytes = { NULL, 0, 0 };
    size_t n = dice(20) == 0 ? 1 + dice(sizeof text) : 1 + dice(60);
    struct message *m;
    for (size_t i = 0; i < n; i++) {
        text[i] = (unsigned char)dice(256);
    }
    if (message_room() == 0 || !pen_write(pen, BUF_REQUEST, text, n, &bytes)) {
        return;
    }
    m = message_add(ch, &bytes);
    for (struct subscription *s = ch->subs; s != NULL; s = s->next) {
        if (s->told && !s->leaving) {
            subscription_get(s, m);
            want_message((uint32_t)(s->client - clients), text, n);
        }
    }
    message_drop(ch, m);
}

static void check_got(uint32_t i)
{
    CHECK(got_len[i] == wanted_len[i] && memcmp(got[i], wanted[i], got_len[i]) == 0);
    got_len[i] = wanted_len[i] = 0;
}

static void drain(uint32_t i)
{
    while (clients[i].sub.pending != NULL) {
        send_some(i, SIZE_MAX);
    }
    CHECK(clients[i].sub.bytes == 0 && !conns[i].midway);
    check_got(i);
}

/* Its connection ends: what it was to get is nobody's. */
static void vanish(uint32_t i)
{
    while (clients[i].sub.list != NULL) {
        struct channel *ch = clients[i].sub.list->channel;
        subscription_end(clients[i].sub.list);
        channel_let_go(ch);
    }
    CHECK(clients[i].sub.pending == NULL && clients[i].sub.pending_tail == NULL && clients[i].sub.bytes == 0 && !clients[i].subscribed);
    CHECK(got_len[i] <= wanted_len[i] && memcmp(got[i], wanted[i], got_len[i]) == 0);
    conns[i].midway = false;
    clients[i].sub.sent = got_len[i] = wanted_len[i] = 0;
}

static void random_step(struct pen *pen)
{
    char name[8];
    const char *full = NULL;
    uint32_t i = dice(CLIENTS), what = dice(100);
    size_t n = (size_t)snprintf(name, sizeof name, "c%u", (unsigned)dice(10));
    struct channel *ch = channel_find(&section, CHANNEL_PLAIN, name, n);
    struct subscription *s = subscription_find(&clients[i], ch);
    if (wanted_len[i] > GOT_CAP / 2) {
        drain(i);
    } else if (what < 10 && s == NULL) {
        ch = channel_make(&section, CHANNEL_PLAIN, name, n, &full);
        s = ch == NULL ? NULL : subscription_make(&clients[i], ch);
        if (s != NULL && dice(4) > 0) {
            subscription_tell(s);
        } else if (ch != NULL) {
            channel_let_go(ch);
        }
    } else if (what < 14 && s != NULL && s->told) {
        subscription_leave(s);
    } else if (what < 18 && s != NULL && s->leaving && s->at == NULL) {
        subscription_end(s);
        channel_let_go(ch);
    } else if (what < 60 && ch != NULL) {
        publish(ch, pen);
        channel_let_go(ch);
    } else if (what < 99) {
        send_some(i, dice(3) == 0 ? SIZE_MAX : 1 + dice(100));
    } else if (dice(30) == 0) {
        vanish(i);
    }
}

static void test_delivery(void)
{
    struct pen pen = { NULL };
    unit_note = "random work";
    for (uint32_t i = 0; i < CLIENTS; i++) {
        clients[i].conn = &conns[i];
        conns[i].owner = &clients[i];
        clients[i].service = &section;
        clients[i].resp3 = i % 2 == 1;
    }
    for (int step = 0; step < STEPS && unit_failed == 0; step++) {
        random_step(&pen);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        drain(i);
        vanish(i);
    }
    pen_close(&pen);
    CHECK(channel_first(CHANNEL_PLAIN) == NULL && message_room() == conf.max_messages);
    CHECK(buf_free_chunks() == conf.chunks && subscription_greediest() == NULL);
}

/* While a part of its answer is out, nothing comes between; the rest of a message comes before everything. */
static void test_between_answers(void)
{
    const char *full;
    struct pen pen = { NULL };
    struct iovec iov[8];
    struct channel *ch = channel_make(&section, CHANNEL_PLAIN, "c", 1, &full);
    struct subscription *s = subscription_make(&clients[1], ch);
    struct slice bytes;
    unit_note = "between answers";
    subscription_tell(s);
    for (int i = 0; i < 2; i++) {
        CHECK(pen_write(&pen, BUF_REPLY, "*message", 8, &bytes));
        subscription_get(s, message_add(ch, &bytes));
        message_drop(ch, ch->last);
    }
    clients[1].halfway = true;
    CHECK(pubsub_gather(&conns[1], iov, 8) == 0);
    clients[1].halfway = false;
    CHECK(pubsub_gather(&conns[1], iov, 8) == 4 && *(char *)iov[0].iov_base == '>' && iov[1].iov_len == 7);
    pubsub_sent(&conns[1], 3);
    CHECK(conns[1].midway);
    clients[1].halfway = true;
    CHECK(pubsub_gather(&conns[1], iov, 8) == 1 && iov[0].iov_len == 5);
    pubsub_sent(&conns[1], 5);
    CHECK(!conns[1].midway && pubsub_gather(&conns[1], iov, 8) == 0);
    clients[1].halfway = false;
    clients[1].resp3 = false;
    CHECK(pubsub_gather(&conns[1], iov, 8) == 1 && iov[0].iov_len == 8 && *(char *)iov[0].iov_base == '*');
    wanted_len[1] = got_len[1] = 0;
    vanish(1);
    pen_close(&pen);
    CHECK(buf_free_chunks() == conf.chunks);
}

static void test_full(void)
{
    const char *full = NULL;
    char name[8];
    int made = 0;
    unit_note = "full tables";
    for (; made < 100; made++) {
        size_t n = (size_t)snprintf(name, sizeof name, "f%d", made);
        struct channel *ch = channel_make(&section, CHANNEL_PATTERN, name, n, &full);
        if (ch == NULL) {
            break;
        }
        CHECK(subscription_make(&clients[0], ch) != NULL);
    }
    CHECK(made == CHANNELS && strcmp(full, "max_channels") == 0);
    for (int i = 0; i < 100; i++) {
        struct channel *ch = channel_first(CHANNEL_PATTERN);
        while (ch != NULL && subscription_find(&clients[1 + i % 4], ch) != NULL) {
            ch = ch->next;
        }
        made += ch != NULL && subscription_make(&clients[1 + i % 4], ch) != NULL;
    }
    CHECK(made == (int)conf.max_subscriptions);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        vanish(i);
    }
    CHECK(channel_first(CHANNEL_PATTERN) == NULL);
}

int main(void)
{
    conf.chunk_size = CHUNK, conf.chunks = CHUNKS, conf.max_channels = CHANNELS, conf.channel_names = 64 * 24;
    conf.max_subscriptions = 40, conf.max_messages = 200, conf.max_backends = 2, conf.service_count = 1;
    conf.services[0].retain_bytes = 4096;
    section.conf = other_section.conf = &redis_conf;
    redis_conf.client_window = 1u << 30;
    arena_measure();
    buf_tables(&conf);
    redis_channel_tables(&conf);
    if (!arena_obtain(false)) {
        return 1;
    }
    buf_tables(&conf);
    redis_channel_tables(&conf);
    buf_open();
    redis_channel_open();
    test_patterns();
    test_names();
    test_delivery();
    test_between_answers();
    test_full();
    return unit_end();
}
