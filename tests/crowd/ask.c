/* ask.c - clients that ask for one document again and again, so that what lies between can be measured.
 *
 *   with a rate:  a client's next question is due --> find --> answer (took: from the question to here) --> waits until the next is due
 *   without:      find --> answer --> find ...
 */
#include "crowd.h"

#include <stdio.h>
#include <string.h>

static uint64_t pause_us;        /* of each client, between two questions; 0: none */
static uint64_t asked_us[CLIENTS], due_us[CLIENTS];
static uint64_t begins_us, ends_us;
static bool greeted[CLIENTS];
static unsigned char question[512];
static size_t question_len;
static unsigned long answers, all_answers;
static volatile bool over;

static size_t write_question(const char *command, unsigned char *out, size_t cap, uint32_t number)
{
    unsigned char lsid[16] = "____session-lsid";
    struct bson b;

    mongomsg_begin(&b, out, cap, WIRE_OP_MSG, 0, 7, 0);
    if (strcmp(command, "find") == 0) {
        bson_put32(lsid, number);
        bson_string(&b, "find", "numbers");
        bson_document(&b, "filter");
        bson_int32(&b, "_id", 1);
        bson_close(&b);
        bson_int32(&b, "limit", 1);
        bson_bool(&b, "singleBatch", true);
        bson_document(&b, "lsid");
        bson_binary(&b, "id", 4, lsid, sizeof lsid);
        bson_close(&b);
    } else {
        bson_int32(&b, command, 1);
    }
    bson_string(&b, "$db", "test");
    return mongomsg_finish(&b);
}

static void ask_one(struct side *s)
{
    question_len = write_question("find", question, sizeof question, (uint32_t)s->number);
    asked_us[s->number] = now_us();
    side_send(s, question, question_len);
}

static void heard(struct side *s, const unsigned char *msg, size_t n, const struct wire *w)
{
    const uint64_t now = now_us();
    uint64_t *due = &due_us[s->number];

    (void)msg;
    (void)n;
    if (!wire_true(w, WIRE_OK) || w->header.response_to != 7) {
        fprintf(stderr, "an error, or an answer to another question\n");
        over = true;
        return;
    }
    if (greeted[s->number] && asked_us[s->number] >= begins_us && now < ends_us) {
        took(now - asked_us[s->number]);
        answers++;
    }
    all_answers++;
    greeted[s->number] = true;
    *due = pause_us == 0 || *due + pause_us < now ? now : *due + pause_us;
    if (pause_us == 0)
        ask_one(s);
    else
        s->wake_us = *due;
}

static void gone(struct side *s)
{
    fprintf(stderr, "a connection was closed\n");
    side_close(s);
    over = true;
}

static void turned(void)
{
    over |= now_us() >= ends_us;
}

int ask(int port, int clients, int seconds, int rate)
{
    static const struct side_ops ops = { NULL, heard, gone, ask_one, turned };
    uint64_t chance = 88172645463325252U;
    unsigned char hello[256];
    const size_t hello_len = write_question("hello", hello, sizeof hello, 0);

    if (clients < 1 || clients > CLIENTS)
        return 64;
    pause_us = rate > 0 ? (uint64_t)clients * 1000000 / (uint64_t)rate : 0;
    begins_us = now_us() + 1000000;
    ends_us = UINT64_MAX;
    for (int i = 0; i < clients; i++) {
        struct side *s = side_connect(port, NULL);
        s->number = i;
        side_send(s, hello, hello_len);
    }
    /* A second to greet, in which they spread; then it counts. */
    begins_us = now_us() + 1000000;
    ends_us = begins_us + (uint64_t)seconds * 1000000;
    for (int i = 0; i < clients; i++)
        due_us[i] = begins_us - 500000 + (pause_us != 0 ? (uint64_t)dice(&chance, (uint32_t)pause_us) : 0);
    sides_run(&ops, &over);
    printf("%lu %llu %llu %lu\n", answers, (unsigned long long)took_share(0.5), (unsigned long long)took_share(0.99), all_answers);
    return now_us() < ends_us;
}
