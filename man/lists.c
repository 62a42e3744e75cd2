/*
 * lists.c - the parts of the man pages that are lists of the program: make man puts them between the marks of the pages.
 *
 *     option.c  options[]   --lists options--> man/puerta.conf.5     one .Ss for each kind of section
 *     stats.h   STATS       --lists counters-> man/puerta.8
 *     stats.h   GAUGES      --lists tables---> man/puerta.8
 *
 * Prints mdoc. A text of the program becomes a sentence here: it begins with a capital, ends with a full stop, and each sentence has a
 * line of its own, as mdoc wants it.
 */
#include "option.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define WIDTH 78

/* One letter, escaped where mdoc would obey it. */
static void put(char c)
{
    if (c == '\\')
        fputs("\\e", stdout);
    else if (c == '"')
        fputs("\\(dq", stdout);
    else
        putchar(c);
}

static void put_text(const char *text)
{
    while (*text != '\0')
        put(*text++);
}

/* Words, in lines of WIDTH at most; what ends with a full stop before a capital ends a line. */
static void put_sentences(const char *text)
{
    size_t first = strcspn(text, " :"), column = 0;
    bool name = memchr(text, '_', first) != NULL || text[first] == ':'; /* of an option, or a value that is explained */

    for (const char *word = text; *word != '\0'; word += strspn(word, " ")) {
        size_t n = strcspn(word, " "), seen = n + (*word == '"' || word[n - 1] == '"' ? 3 : 0); /* an escaped quote is longer */
        bool sentence = word > text + 1 && word[-2] == '.' && isupper((unsigned char)*word);
        bool fits = !sentence && column + 1 + seen <= WIDTH;
        if (word > text)
            putchar(fits ? ' ' : '\n');
        column = word > text && fits ? column + 1 + seen : seen;
        put(word == text && !name ? (char)toupper((unsigned char)*word) : *word);
        for (size_t i = 1; i < n; i++)
            put(word[i]);
        word += n;
    }
    fputs(text[strlen(text) - 1] == '.' ? "\n" : ".\n", stdout);
}

/* What it may be. Words are not sentences. */
static void put_range(const struct option *o)
{
    char range[OPTION_TEXT], text[2 * OPTION_TEXT];
    size_t n = (size_t)snprintf(text, sizeof text, o->type == ENUM ? "one of " : o->type <= COUNT ? "from " : "");

    option_range(o, range);
    for (const char *p = range; *p != '\0' && n + 3 < sizeof text; p++) {
        text[n++] = o->type == ENUM && *p == '|' ? ',' : *p;
        if (o->type == ENUM && *p == '|')
            text[n++] = ' ';
    }
    text[n] = '\0';
    put_sentences(text);
    for (int i = 0; o->type == COMMAND && i < KEYS_SHAPES; i++)
        printf("%s%s", i == 0 ? "A SHAPE is one of\n.Cm " : " , ", command_keys_name((enum command_keys)i));
    if (o->type == COMMAND)
        puts(" .");
}

static void put_option(const struct option *o)
{
    printf(".It Ic \"%s = ", o->key);
    put_text(o->standard[0] != '\0' ? o->standard : "\"\"");
    fputs("\"\n", stdout);
    put_sentences(o->help);
    put_range(o);
}

static void put_options(void)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option *o = &options[i];
        if (i == 0 || o->scope != options[i - 1].scope) {
            if (i > 0)
                puts(".El");
            printf(".Ss Options of %s %s section\n.Bl -tag -width Ds\n", o->scope == PROCESS ? "the" : "a", option_scopes[o->scope]);
        }
        put_option(o);
    }
    puts(".El");
}

static void put_counters(void)
{
    const char *name, *help;
    uint64_t value;

    puts(".Bl -tag -width Ds -compact");
    for (int i = 0; (name = stats_row(i, &help, &value)) != NULL; i++) {
        printf(".It Cm %s\n", name);
        put_sentences(help);
    }
    puts(".El");
}

static void put_tables(void)
{
    const struct gauge *gauge;
    const char *name, *help;

    puts(".Bl -tag -width Ds -compact");
    for (int i = 0; (name = gauge_row(i, &help, &gauge)) != NULL; i++) {
        printf(".It Cm %s\n", name);
        put_sentences(help);
    }
    puts(".El");
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*print)(void); } lists[] = {
        { "options", put_options }, { "counters", put_counters }, { "tables", put_tables }
    };

    for (size_t i = 0; argc == 2 && i < sizeof lists / sizeof *lists; i++) {
        if (strcmp(argv[1], lists[i].name) == 0) {
            lists[i].print();
            return fflush(stdout) == 0 ? 0 : 1;
        }
    }
    fprintf(stderr, "usage: lists options|counters|tables\n");
    return 64;
}
