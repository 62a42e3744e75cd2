/*
 * redis_say.c - the words of a request, and the writer of an answer that Puerta makes itself.
 *
 *   say_answer -> writer -> say_*() -> buffer -> the client's order of answers
 *                                        `-> a slice of the pool, if the answer is long -> the same, piece by piece
 *
 * Nothing is passed on before the answer is whole: then its length is known, for the bulk that it may be, and there is
 * room for all of it, or it waits and is written again later. Its pieces stand behind each other in the order of
 * answers, and nothing comes between.
 */
#include "redis_say.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define GIVE_PARTS 32
#define SHOWN_MAX 128 /* of a word that an error repeats, as Redis has it */

static struct {
    unsigned char at[16384];
    size_t len;
    size_t total;       /* of the answer so far */
    struct slice kept;  /* what comes before the buffer's bytes */
    const struct client *whom; /* whose protocol it is said in; NULL: RESP2 */
    bool lost;          /* there was no chunk for some of it */
    bool text, close, failed;
} out;

/* ------------------------------------------------------------ what was asked */

struct words words_from(const struct request *q, uint32_t first)
{
    struct words w = { q, 0, q->argc };
    struct word passed;
    while (first-- > 0 && words_next(&w, &passed)) {
    }
    return w;
}

bool words_next(struct words *w, struct word *word)
{
    struct resp_slice arg;
    if (w->left == 0 || !resp_arg(w->q->p, w->q->len, &w->at, &arg)) {
        return false;
    }
    w->left--;
    word->p = (const char *)w->q->p + arg.off;
    word->n = arg.len;
    return true;
}

struct word request_word(const struct request *q, uint32_t i)
{
    struct word w = { "", 0 };
    if (i < q->argc && i < RESP_ARGS_KEPT) {
        w.p = (const char *)q->p + q->arg[i].off;
        w.n = q->arg[i].len;
    }
    return w;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

bool word_is(struct word w, const char *text)
{
    for (size_t i = 0; i < w.n; i++) {
        if (text[i] == '\0' || lower(w.p[i]) != text[i]) {
            return false;
        }
    }
    return text[w.n] == '\0';
}

bool word_same(struct word w, const char *text)
{
    return w.n == strlen(text) && memcmp(w.p, text, w.n) == 0;
}

bool word_number(struct word w, int64_t *number)
{
    return resp_to_int((const unsigned char *)w.p, w.n, number);
}

int word_shown(struct word w)
{
    return (int)(w.n < SHOWN_MAX ? w.n : SHOWN_MAX);
}

/* ------------------------------------------------------------ what is said */

void say(const void *p, size_t n)
{
    const unsigned char *from = p;
    out.total += n;
    while (n > 0) {
        size_t part = n < sizeof out.at - out.len ? n : sizeof out.at - out.len;
        memcpy(out.at + out.len, from, part);
        out.len += part;
        from += part;
        n -= part;
        if (out.len == sizeof out.at) {
            out.lost = out.lost || !slice_extend(&out.kept, BUF_REQUEST, out.at, out.len);
            out.len = 0;
        }
    }
}

void say_text(const char *text)
{
    say(text, strlen(text));
}

void say_header(char type, int64_t n)
{
    unsigned char header[RESP_HEADER_CAP];
    say(header, resp_put_header(header, type, n));
}

void say_bulk(const void *p, size_t n)
{
    say_header('$', (int64_t)n);
    say(p, n);
    say_text("\r\n");
}

void say_name(const char *text)
{
    say_bulk(text, strlen(text));
}

static bool resp3(void)
{
    return out.whom != NULL && out.whom->resp3;
}

void say_map(int64_t pairs)
{
    say_header(resp3() ? '%' : '*', resp3() ? pairs : 2 * pairs);
}

void say_set(int64_t n)
{
    say_header(resp3() ? '~' : '*', n);
}

void say_null(void)
{
    say_text(resp3() ? "_\r\n" : "$-1\r\n");
}

void say_bool(bool yes)
{
    say_text(resp3() ? yes ? "#t\r\n" : "#f\r\n" : yes ? ":1\r\n" : ":0\r\n");
}

void say_format(const char *fmt, ...)
{
    char text[1024];
    int n;
    va_list args;
    va_start(args, fmt);
    n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    say(text, n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

static void begin_anew(void)
{
    slice_release(&out.kept);
    out.len = out.total = 0;
    out.lost = out.text = out.close = out.failed = false;
}

void say_begin(const struct client *c)
{
    out.whom = c;
    begin_anew();
}

void say_error(const char *fmt, ...)
{
    char line[512] = "-";
    int n;
    va_list args;
    va_start(args, fmt);
    n = vsnprintf(line + 1, sizeof line - 3, fmt, args);
    va_end(args);
    n = n < 0 ? 0 : n < (int)sizeof line - 4 ? n : (int)sizeof line - 4;
    for (int i = 1; i <= n; i++) {
        line[i] = line[i] == '\r' || line[i] == '\n' ? ' ' : line[i];
    }
    memcpy(line + 1 + n, "\r\n", 2);
    stats_error(line, (size_t)n + 1);
    begin_anew();
    out.failed = true;
    say(line, (size_t)n + 3);
}

void say_syntax_error(void)
{
    say_error("ERR syntax error");
}

void say_help(const char *container, const char *const *lines)
{
    int64_t count = 3; /* the first line and the last two are the same for all */
    for (const char *const *line = lines; *line != NULL; line++) {
        count++;
    }
    say_header('*', count);
    say_format("+%s <subcommand> [<arg> [value] [opt] ...]. Subcommands are:\r\n", container);
    for (; *lines != NULL; lines++) {
        say_format("+%s\r\n", *lines);
    }
    say_text("+HELP\r\n+    Prints this help.\r\n");
}

void say_unknown(const struct request *q)
{
    struct word sub = request_word(q, 1);
    char name[COMMAND_NAME_CAP];
    size_t n = strcspn(q->command->name, "|");
    for (size_t i = 0; i < n; i++) {
        char c = q->command->name[i];
        name[i] = c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
    }
    say_error("ERR unknown subcommand '%.*s'. Try %.*s HELP.", word_shown(sub), sub.p, (int)n, name);
}

void say_as_text(void)
{
    out.text = true;
}

void say_close(void)
{
    out.close = true;
}

bool say_overlong(void)
{
    return out.total > buf_total() / 4;
}

bool say_failed(void)
{
    return out.failed;
}

/* Whether n bytes in so many pieces can be put into the order of answers now. */
static bool room_for(size_t n, size_t pieces)
{
    if (redis_req_free() < pieces) {
        redis_req_shortage();
        return false;
    }
    return buf_may_take_many(BUF_REPLY, n / buf_chunk_size() + pieces + 2);
}

static enum verdict wait_for_room(struct client *c)
{
    slice_release(&out.kept);
    client_starve(c);
    return VERDICT_WAIT;
}

#define FORM "txt:"     /* what stands before a verbatim string, and is counted with it */
#define FORM_LEN 4
#define HEAD_CAP (RESP_HEADER_CAP + FORM_LEN)

/* What stands before all that has been said: nothing, or the head of a text. */
static size_t put_head(unsigned char head[HEAD_CAP])
{
    size_t n;
    if (!out.text || !resp3()) {
        return out.text ? resp_put_header(head, '$', (int64_t)out.total) : 0;
    }
    n = resp_put_header(head, '=', (int64_t)out.total + FORM_LEN);
    memcpy(head + n, FORM, FORM_LEN);
    return n + FORM_LEN;
}

static void pass_on(struct client *c)
{
    unsigned char head[HEAD_CAP];
    struct iovec parts[] = { { head, put_head(head) }, { out.at, out.len },
                             { (void *)(uintptr_t)"\r\n", out.text ? 2 : 0 } };
    const unsigned char *p;
    size_t at = 0, n;
    if (out.kept.len == 0) {
        must(client_answer_parts(c, parts, 3));
        return;
    }
    must(client_answer_parts(c, parts, 1));
    while ((n = slice_part(&out.kept, &at, &p)) > 0) {
        must(client_answer(c, p, n));
    }
    must(client_answer_parts(c, parts + 1, 2));
    slice_release(&out.kept);
}

bool say_give(struct req *r)
{
    unsigned char head[HEAD_CAP];
    struct iovec parts[GIVE_PARTS] = { { head, put_head(head) } };
    const unsigned char *p;
    size_t at = 0, n;
    int count = 1;
    if (out.lost || out.kept.len > (GIVE_PARTS - 3) * buf_chunk_size()) {
        return false;
    }
    while ((n = slice_part(&out.kept, &at, &p)) > 0) {
        parts[count++] = (struct iovec){ (void *)(uintptr_t)p, n };
    }
    parts[count++] = (struct iovec){ out.at, out.len };
    parts[count++] = (struct iovec){ (void *)(uintptr_t)"\r\n", out.text ? 2 : 0 };
    if (!req_give_parts(r, parts, count, true)) {
        return false;
    }
    slice_release(&out.kept);
    return true;
}

enum verdict say_answer(struct client *c, const struct request *q, say_writer write)
{
    if (!room_for(SAY_SHORT, 1)) {
        return wait_for_room(c);
    }
    say_begin(c);
    write(c, q);
    if (say_overlong()) {
        say_error("ERR an answer of this length is too long for the buffer pool (chunks)");
    }
    if (out.lost || (out.total > SAY_SHORT && !room_for(out.total, out.kept.len / buf_chunk_size() + 4))) {
        return wait_for_room(c);
    }
    if (out.total > 0 || out.text) {
        pass_on(c);
    }
    return out.close ? VERDICT_CLOSE : VERDICT_DONE;
}
