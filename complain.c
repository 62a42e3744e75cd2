/*
 * complain.c - says what is wrong with a configuration, where, and what would be right.
 *
 *   complain*() --> FILE:LINE: what is wrong: 'the text'; what would be right --> stderr, or conf_complaints()'s text
 *
 * Whatever may be a password is left out.
 */
#include "conf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Where messages go: to stderr, or as text to whoever had the file read (reload.c). */
static struct { char *text; size_t cap; } sink;

void conf_complaints(char *text, size_t cap)
{
    sink.text = text;
    sink.cap = cap;
}

static void vsay(const char *fmt, va_list args) __attribute__((format(printf, 1, 0)));

static void vsay(const char *fmt, va_list args)
{
    size_t n = sink.text != NULL ? strlen(sink.text) : 0;

    if (sink.text == NULL)
        vfprintf(stderr, fmt, args);
    else
        vsnprintf(sink.text + n, sink.cap - n, fmt, args);
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsay(fmt, args);
    va_end(args);
}

/* Text for a message: cut, and without bytes that a terminal would obey. */
static const char *shown(const char *text, char out[OPTION_TEXT])
{
    size_t n = 0;

    for (; text[n] != '\0' && n < OPTION_TEXT / 2; n++)
        out[n] = (unsigned char)text[n] < 0x20 || text[n] == 0x7f ? '?' : text[n];
    snprintf(out + n, OPTION_TEXT - n, "%s", text[n] != '\0' ? "..." : "");
    return out;
}

/* Whether a key, well spelt or not, may stand for a password: that is not repeated, whatever is wrong about it. */
static bool is_secret(const char *text, size_t n)
{
    const struct option *near;
    char key[OPTION_TEXT];

    snprintf(key, sizeof key, "%.*s", (int)n, text);
    near = option_near(key);
    return strstr(key, "pass") != NULL ||
           (near != NULL && (near->type == SECRET || near->type == SECRET_FILE || near->type == KEYFILE || near->type == USER ||
                             strcmp(near->key, "user") == 0)); /* with its keys, in a wrong section */
}

/* Begins a message with the place it is about. Line 0: the file as a whole. */
static void say_place(const struct reader *r, int line)
{
    char key[OPTION_TEXT];

    if (r->file != NULL && line > 0) {
        say("%s:%d: ", r->file, line);
    } else if (r->file != NULL) {
        say("%s: ", r->file);
    } else {
        size_t n = strcspn(r->argv[line - 1], "=");
        shown(r->argv[line - 1], key);
        if (n < OPTION_TEXT / 2 && r->argv[line - 1][n] == '=' && is_secret(r->argv[line - 1], n))
            snprintf(key + n, OPTION_TEXT - n, "=******");
        say("puerta: argument '%s': ", key);
    }
}

void complain(struct reader *r, int line, const char *text, const char *cure, const char *fmt, ...)
{
    char clean[OPTION_TEXT];
    va_list args;

    if (r->errors++ >= MAX_ERRORS)
        return;
    say_place(r, line);
    va_start(args, fmt);
    vsay(fmt, args);
    va_end(args);
    say(": '%s'; %s\n", shown(text, clean), cure);
    if (r->errors == MAX_ERRORS)
        say("puerta: %d errors; the rest is not looked at\n", MAX_ERRORS);
}

void complain_warn(const struct reader *r, const char *text, const char *cure, const char *doubt)
{
    char clean[OPTION_TEXT];

    say_place(r, r->line);
    say("warning: %s: '%s'; %s\n", doubt, shown(text, clean), cure);
}

void complain_value(struct reader *r, const struct option *o, const char *text, const char *wrong)
{
    static const char *const kinds[] = {
        "a size in bytes or with k, m or g", "a time with ms, s, m or h", "a whole number", "a switch", "one of",
        "1.2.3.4:6379, [::1]:6379 or unix:/path", "HOST:PORT, [::1]:PORT or HOST alone", "a declaration", "text",
        "a password", "a file", "a file", "a user", "addresses, networks such as 10.0.0.0/8, or unix"
    };
    char range[OPTION_TEXT], cure[2 * OPTION_TEXT];

    snprintf(cure, sizeof cure, "%s must be %s: %s", o->key, kinds[o->type], option_range(o, range));
    complain(r, r->line, o->type == SECRET || (o->type == TEXT && is_secret(o->key, strlen(o->key))) ? "******" : text, cure, "%s", wrong);
}

void complain_key(struct reader *r, const char *key)
{
    const struct option *near = option_near(key);
    char cure[OPTION_TEXT];

    if (near == NULL)
        snprintf(cure, sizeof cure, "puerta -h options lists all keys");
    else if (r->file == NULL && near->scope != PROCESS && near->scope != conf_scope(r->conf, 1))
        snprintf(cure, sizeof cure, "%s is an option of puerta %s", near->key, option_scopes[near->scope]);
    else if (r->file != NULL && option_find(conf_scope(r->conf, r->section), near->key) == NULL)
        snprintf(cure, sizeof cure, "%s belongs in a [%s%s]%s section", near->key, option_scopes[near->scope],
                 near->scope == PROCESS ? "" : " NAME", near->scope == PROCESS && option_find(MONGO, near->key) != NULL ? " or [mongo NAME]" : "");
    else
        snprintf(cure, sizeof cure, "the nearest known key is %s", near->key);
    complain(r, r->line, key, cure, "no such key");
}
