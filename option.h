/*
 * option.h - the table of options and what a row says about its values. Used by conf.c and by the tests that hold
 * the example file and the table together.
 */
#ifndef OPTION_H
#define OPTION_H

#include "puerta.h"

#define OPTION_CAP 160  /* rows that the table may have */
#define OPTION_TEXT 160 /* bytes of a value or a range as text */

enum option_scope { PROCESS, REDIS, MONGO }; /* [puerta], [redis NAME], [mongo NAME] */
enum option_type { SIZE, TIME, COUNT, BOOL, ENUM, LISTEN, NODES, COMMAND, TEXT, SECRET, SECRET_FILE, KEYFILE, USER, NETS };

struct option {
    enum option_scope scope;
    size_t offset, width;  /* of the field in struct conf or struct conf_service */
    bool live;             /* a reload changes it; else a restart has to (reload.c) */
    const char *key;
    enum option_type type;
    uint64_t min, max;
    const char *standard;  /* the default, as it would stand in the file; "" = none */
    const char *words;     /* ENUM, BOOL: the names of 0, 1, 2...; a number: what 0 means, where it is below min */
    const char *help;
};

extern const struct option options[];
extern const size_t option_count;
extern const char *const option_scopes[]; /* the name of each scope's section */

const struct option *option_find(enum option_scope scope, const char *key);
/* The option of any scope whose key is nearest to a misspelt one; NULL when none is near. */
const struct option *option_near(const char *key);

/* Reads a number, a switch or a word: NULL and *out, or else what is wrong with it. */
const char *option_parse(const struct option *o, const char *text, uint64_t *out);
/* A number in the largest unit that leaves no rest; gives out. */
const char *option_text(enum option_type type, uint64_t n, char out[OPTION_TEXT]);
/* What the option may be: "16k to 1m", "yes or no"; gives out. */
const char *option_range(const struct option *o, char out[OPTION_TEXT]);

/* Adds the value of one `command = NAME SHAPE [read|write]`: NULL, or else what is wrong with it; cure then says what
 * would be right. command_init() must have run. */
const char *option_command(struct conf *conf, const char *text, char cure[2 * OPTION_TEXT]);

/* Adds the value of one `user = NAME KEYS`: NULL, or else what is wrong with it; cure then says what would be right. */
const char *option_user(struct conf_service *s, const char *text, char cure[2 * OPTION_TEXT]);

/* The field of a number, a switch or a word. base is the struct conf or struct conf_service of its scope. */
void option_store(void *base, const struct option *o, uint64_t n);
uint64_t option_load(const void *base, const struct option *o);

/* Whether two have the same value; base is the struct conf or struct conf_service of its scope. A file with a password says nothing: the
 * password stands for it, and in a row of its own. */
bool option_same(const struct option *o, const void *a, const void *b);
void option_copy(const struct option *o, void *to, const void *from);
/* The value as it would stand in a file, in one line that is cut if need be; without secrets. Gives out. */
const char *option_show(const struct option *o, const void *base, char out[OPTION_TEXT]);

#endif
