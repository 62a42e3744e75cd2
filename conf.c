/*
 * conf.c - reads the configuration into struct conf, checks it as a whole, and writes it out again as a report.
 *
 *     file  --line_read()---> section / key = value --.
 *                                                     +--> assign() --option.c's row--> struct conf --> check_all()
 *     argv  --argument_read()----> key=value ---------'                                     |
 *                                                                                           `--> conf_report()
 *
 * struct conf belongs to the caller; a struct reader lives on the stack of one read and knows on which line each
 * option was given, so that a check made at the end still names the line that is wrong. Runs before the seal: stdio
 * may allocate here.
 */
#include "option.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>

#define LINE_CAP 4096   /* bytes of one line of the file */
#define ITEM_CAP (HOST_CAP + 16) /* one address of a list, with brackets, port or unix: */
#define MAX_ERRORS 20   /* more are seldom read, and most follow from the first */
#define SECTIONS (1 + MAX_SERVICES) /* section 0 is [puerta], section 1 + i is conf->services[i] */
#define NOWHERE (-1)    /* no section has begun */
#define SKIPPED (-2)    /* below a header that was refused: its keys would only repeat the complaint */
#define PORT_CAP sizeof ":65535"
#define WEIGHT_MAX 100
#define OTHER_DESCRIPTORS 16 /* stderr, pipes to itself and the parent, the cold queue, files at startup */

/* --------------------------------------------------------------- complaints */

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

struct reader {
    struct conf *conf;
    const char *file;            /* NULL: the command line, whose argument i counts as line i + 1 */
    char **argv;
    int line;                    /* the one being read */
    int section;                 /* the one being filled, NOWHERE or SKIPPED */
    int errors;
    int begun[SECTIONS];         /* the line of its header; 0 = it has none */
    int given[SECTIONS][OPTION_CAP]; /* the line of an option; 0 = it has its default */
};

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

static void complain(struct reader *r, int line, const char *text, const char *cure, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* PLACE: what is wrong: 'text'; what would be right */
static void complain(struct reader *r, int line, const char *text, const char *cure, const char *fmt, ...)
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

/* A value that its option cannot have: the cure is what the table says. */
static void complain_value(struct reader *r, const struct option *o, const char *text, const char *wrong)
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

/* The scope of the options of a section. */
static enum option_scope scope_of(const struct conf *conf, int section)
{
    return section == 0 ? PROCESS : conf->services[section - 1].kind == SERVICE_MONGO ? MONGO : REDIS;
}

/* How the list of servers is called in a section. */
static const char *servers_key(const struct conf_service *s)
{
    return s->kind == SERVICE_MONGO ? "mongos" : "nodes";
}

/* A key in the wrong section is told apart from a misspelt one. */
static void complain_key(struct reader *r, const char *key)
{
    const struct option *near = option_near(key);
    char cure[OPTION_TEXT];

    if (near == NULL)
        snprintf(cure, sizeof cure, "puerta -h options lists all keys");
    else if (r->file == NULL && near->scope != PROCESS && near->scope != scope_of(r->conf, 1))
        snprintf(cure, sizeof cure, "%s is an option of puerta %s", near->key, option_scopes[near->scope]);
    else if (r->file != NULL && option_find(scope_of(r->conf, r->section), near->key) == NULL)
        snprintf(cure, sizeof cure, "%s belongs in a [%s%s]%s section", near->key, option_scopes[near->scope],
                 near->scope == PROCESS ? "" : " NAME", near->scope == PROCESS && option_find(MONGO, near->key) != NULL ? " or [mongo NAME]" : "");
    else
        snprintf(cure, sizeof cure, "the nearest known key is %s", near->key);
    complain(r, r->line, key, cure, "no such key");
}

/* ----------------------------------------------------------------- values */

/* Cuts "*WEIGHT" off; gives what is wrong with it, or NULL. */
static const char *weight_cut(char *text, uint8_t *weight)
{
    char *star = strchr(text, '*'), *end;
    unsigned long n;

    *weight = 1;
    if (star == NULL)
        return NULL;
    n = strtoul(star + 1, &end, 10);
    if (*end != '\0' || n < 1 || n > WEIGHT_MAX)
        return "a weight is 1 to 100";
    *weight = (uint8_t)n;
    *star = '\0';
    return NULL;
}

/* Gives what is wrong with the server's text, or NULL. */
static const char *node_parse(const char *text, const char *port, struct host_port *out)
{
    char whole[ITEM_CAP + PORT_CAP];
    struct address local;
    const char *why = "", *colon = strchr(text, ':');
    bool bare = text[0] == '[' ? text[strlen(text) - 1] == ']' : colon == NULL; /* without a port */

    if (strncmp(text, "unix:", 5) == 0) {
        if (!address_parse(text, &local, &why))
            return why;
        out->port = 0;
        snprintf(out->host, sizeof out->host, "%.*s", HOST_CAP - 1, text + 5);
        return NULL;
    }
    if (text[0] != '[' && colon != NULL && strchr(colon + 1, ':') != NULL)
        return "an IPv6 address needs brackets";
    snprintf(whole, sizeof whole, "%.*s%s", ITEM_CAP - 1, text, bare ? port : "");
    return host_port_split(whole, strlen(whole), out->host, &out->port, &why) ? NULL : why;
}

/* Adds one to the list of networks at `list`; gives what is wrong with it, or NULL. */
static const char *subnet_add(const struct option *o, struct subnets *list, const char *text)
{
    const char *why = list->count < (int)o->max ? subnet_parse(text, &list->at[list->count]) : "one more than a list may have";

    list->count += why == NULL;
    return why;
}

/* The addresses of an option, of the section or of the process. */
static struct address *addresses_of(const struct option *o, void *base, int **count)
{
    struct conf *conf = base;
    struct conf_service *s = base;

    *count = o->scope == PROCESS ? &conf->admins : &s->listens;
    return o->scope == PROCESS ? conf->admin : s->listen;
}

/* Adds one address to the list of an option; gives what is wrong with it, or NULL. */
static const char *item_add(const struct option *o, void *base, char *text)
{
    struct conf_service *s = base;
    int *count = &s->node_count;
    struct address *list = o->type == LISTEN ? addresses_of(o, base, &count) : NULL;
    const char *why;

    if (o->type == NETS)
        return subnet_add(o, (struct subnets *)(void *)((char *)base + o->offset), text);
    if (*count >= (int)o->max)
        return "one more than a section may have";
    if (o->type == NODES) {
        bool mongo = s->kind == SERVICE_MONGO;
        why = mongo ? weight_cut(text, &s->weights[s->node_count]) : NULL;
        why = why != NULL ? why : node_parse(text, mongo ? ":27017" : ":6379", &s->nodes[s->node_count]);
        s->node_count += why == NULL;
        return why;
    }
    if (!address_parse(text, &list[*count], &why))
        return why;
    ++*count;
    return NULL;
}

static void list_add(struct reader *r, const struct option *o, void *base, const char *value)
{
    char item[ITEM_CAP], wrong[OPTION_TEXT];
    const char *why;
    size_t n;

    while ((n = strcspn(value += strspn(value, ", \t"), ", \t")) != 0) {
        snprintf(item, sizeof item, "%.*s", (int)n, value);
        why = n < sizeof item ? item_add(o, base, item) : "too long";
        if (why != NULL) {
            snprintf(wrong, sizeof wrong, "not %s (%s)", o->type == NODES ? "a node" : o->type == NETS ? "a network" : "an address to listen on", why);
            complain_value(r, o, item, wrong);
        }
        value += n;
    }
}

static void command_add(struct reader *r, const char *value)
{
    char cure[2 * OPTION_TEXT];
    const char *wrong = option_command(r->conf, value, cure);

    if (wrong != NULL)
        complain(r, r->line, value, cure, "%s", wrong);
}

/* A message shows the name alone. */
static void user_add(struct reader *r, struct conf_service *s, const char *value)
{
    char cure[2 * OPTION_TEXT], name[OPTION_TEXT];
    const char *wrong = option_user(s, value, cure);

    if (wrong == NULL)
        return;
    snprintf(name, sizeof name, "%.*s%s", (int)strcspn(value, " \t"), value, strpbrk(value, " \t") != NULL ? " ******" : "");
    complain(r, r->line, name, cure, "%s", wrong);
}

/* said is what a message shows: the text, or the path that it came from. */
static void text_store(struct reader *r, const struct option *o, void *base, const char *text, const char *said)
{
    if (strlen(text) >= o->width)
        complain_value(r, o, said, "too long");
    else
        snprintf((char *)base + o->offset, o->width, "%s", text);
}

/* Says so when strangers on this machine can read a secret. */
static void warn_open(const struct reader *r, FILE *f, const char *path)
{
    char clean[OPTION_TEXT];
    struct stat st;

    if (fstat(fileno(f), &st) == 0 && (st.st_mode & (S_IROTH | S_IWOTH)) != 0) {
        say_place(r, r->line);
        say("warning: others can read or write the file: '%s'; chmod o= closes it\n", shown(path, clean));
    }
}

/* Reads a keyfile of MongoDB: all that is no white space, which must be letters of base64. */
static void keyfile_read(struct reader *r, const struct option *o, void *base, const char *path)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
    char key[KEYFILE_CAP] = "";
    FILE *f = fopen(path, "r");
    size_t n = 0;
    int c;

    if (f == NULL) {
        complain_value(r, o, path, strerror(errno));
        return;
    }
    while ((c = getc(f)) != EOF && n < sizeof key) {
        if (c != '\0' && strchr(" \t\r\n\v\f", c) != NULL)
            continue;
        if (c == '\0' || strchr(letters, c) == NULL)
            break;
        key[n++] = (char)c;
    }
    warn_open(r, f, path);
    fclose(f);
    if (c != EOF || n < 6 || n >= sizeof key)
        complain(r, r->line, path, "a keyfile has 6 to 1024 letters of base64, and white space", "not a keyfile of MongoDB");
    else
        memcpy((char *)base + o->offset, key, n);
}

/* Reads a password from the first line of the file at path. */
static void secret_read(struct reader *r, const struct option *o, void *base, const char *path)
{
    char line[SECRET_CAP + 2] = ""; /* with CR and LF */
    FILE *f = fopen(path, "r");

    if (f == NULL) {
        complain_value(r, o, path, strerror(errno));
        return;
    }
    if (fgets(line, sizeof line, f) != NULL)
        line[strcspn(line, "\r\n")] = '\0';
    warn_open(r, f, path);
    fclose(f);
    if (line[0] == '\0')
        complain_value(r, o, path, "no password in the first line of the file");
    else
        text_store(r, o, base, line, path);
}

/* The door to struct conf: every value, defaults too, comes in here as text. */
static void option_set(struct reader *r, const struct option *o, void *base, const char *value)
{
    const char *wrong;
    uint64_t n = 0;

    switch (o->type) {
    case LISTEN: case NODES: case NETS: list_add(r, o, base, value); break;
    case COMMAND:            command_add(r, value); break;
    case TEXT: case SECRET:  text_store(r, o, base, value, value); break;
    case SECRET_FILE:        secret_read(r, o, base, value); break;
    case KEYFILE:            keyfile_read(r, o, base, value); break;
    case USER:               user_add(r, base, value); break;
    case SIZE: case TIME: case COUNT: case BOOL: case ENUM:
        if ((wrong = option_parse(o, value, &n)) != NULL)
            complain_value(r, o, value, wrong);
        else
            option_store(base, o, n);
        break;
    }
}

static void *section_base(struct conf *conf, int section)
{
    return section == 0 ? (void *)conf : (void *)&conf->services[section - 1];
}

/* The section has its defaults from here on, and the keys that follow are its own. */
static void section_begin(struct reader *r, int section, int line)
{
    int before = r->errors;

    r->section = section;
    r->begun[section] = line;
    for (size_t i = 0; i < option_count; i++)
        if (options[i].scope == scope_of(r->conf, section) && options[i].standard[0] != '\0')
            option_set(r, &options[i], section_base(r->conf, section), options[i].standard);
    must(r->errors == before); /* a default outside its own range is a mistake in the table */
}

static void assign(struct reader *r, int section, const struct option *o, const char *value)
{
    int *given = &r->given[section][o - options];
    bool list = o->type == LISTEN || o->type == NODES || o->type == COMMAND || o->type == USER || o->type == NETS;
    char cure[OPTION_TEXT];

    if (*given != 0 && !list) {
        snprintf(cure, sizeof cure, "keep one; %s %d has the first", r->file != NULL ? "line" : "argument", *given);
        complain(r, r->line, o->key, cure, "given twice in one section");
        return;
    }
    if (*given == 0 && o->type == LISTEN) {
        int *count;
        (void)addresses_of(o, section_base(r->conf, section), &count);
        *count = 0; /* the default gives way to the first address */
    }
    if (*given == 0 && o->type == NETS)
        memset((char *)section_base(r->conf, section) + o->offset, 0, o->width); /* as does that of trusted */
    *given = r->line;
    if (list && value[strspn(value, ", \t")] == '\0')
        complain_value(r, o, value, "an empty list");
    else
        option_set(r, o, section_base(r->conf, section), value);
}

/* ---------------------------------------------------------------- the lines */

/* Cuts white space at both ends, in place. */
static char *trim(char *text)
{
    size_t n;

    text += strspn(text, " \t");
    for (n = strlen(text); n > 0 && strchr(" \t\r", text[n - 1]) != NULL; n--)
        text[n - 1] = '\0';
    return text;
}

static bool blank_or_comment(const char *text)
{
    text += strspn(text, " \t");
    return *text == '\0' || *text == '#' || *text == ';';
}

static void service_begin(struct reader *r, enum service_kind kind, const char *header, const char *name)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    struct conf *conf = r->conf;

    if (*name == '\0' || strlen(name) >= NAME_CAP || name[strspn(name, good)] != '\0') {
        complain(r, r->line, header, "[redis NAME], [mongo NAME]: letters, digits, '-', '_' and '.', at most 31",
                 *name == '\0' ? "a section without a name" : "not a name of a section");
        return;
    }
    for (int i = 0; i < conf->service_count; i++)
        if (conf->services[i].kind == kind && strcmp(conf->services[i].name, name) == 0) {
            complain(r, r->line, header, "each section of a kind needs a name of its own", "a name used before");
            return;
        }
    if (conf->service_count == MAX_SERVICES) {
        complain(r, r->line, header, "start a second Puerta for more", "more than %d sections", MAX_SERVICES);
        return;
    }
    conf->services[conf->service_count].kind = kind;
    snprintf(conf->services[conf->service_count].name, NAME_CAP, "%s", name);
    section_begin(r, ++conf->service_count, r->line);
}

static void header_read(struct reader *r, char *text)
{
    static const char cure[] = "the sections are [puerta], [redis NAME] and [mongo NAME]";
    char *end = strchr(text, ']'), *kind, *name, inner[LINE_CAP + 1];

    r->section = SKIPPED;
    if (end == NULL || !blank_or_comment(end + 1)) {
        complain(r, r->line, text, cure, "not the header of a section");
        return;
    }
    end[1] = '\0'; /* text is now the header as messages show it */
    snprintf(inner, sizeof inner, "%.*s", (int)(end - text - 1), text + 1);
    kind = trim(inner);
    name = kind + strcspn(kind, " \t");
    if (*name != '\0')
        *name++ = '\0';
    name = trim(name);
    if (strcmp(kind, "redis") == 0) {
        service_begin(r, SERVICE_REDIS, text, name);
    } else if (strcmp(kind, "mongo") == 0) {
        service_begin(r, SERVICE_MONGO, text, name);
    } else if (strcmp(kind, "puerta") != 0 || *name != '\0') {
        complain(r, r->line, text, cure, "an unknown section");
    } else if (r->begun[0] != 0) {
        complain(r, r->line, text, "put all its keys below the first one", "a second section for the process");
    } else {
        r->section = 0;
        r->begun[0] = r->line;
    }
}

/* The value of a line without its quotes or its comment; NULL after a complaint. */
static char *value_clean(struct reader *r, const char *key, char *value)
{
    char *end;

    if (*value == '"') {
        end = strchr(++value, '"');
        if (end == NULL || !blank_or_comment(end + 1)) {
            complain(r, r->line, key, "write key = \"value\"; a value that has quotes inside stands without them",
                     end == NULL ? "a quote that is not closed" : "more text after the closing quote");
            return NULL;
        }
        *end = '\0';
        return value;
    }
    for (end = value; *end != '\0'; end++)
        if ((*end == '#' || *end == ';') && (end == value || end[-1] == ' ' || end[-1] == '\t'))
            break;
    *end = '\0';
    value = trim(value);
    if (*value == '\0') {
        complain(r, r->line, key, "write a value, or \"\" for an empty one; one that begins with # or ; needs quotes",
                 "a key without a value");
        return NULL;
    }
    return value;
}

static void line_read(struct reader *r, char *text)
{
    const struct option *o;
    char *key = trim(text), *value = strchr(key, '=');

    if (blank_or_comment(key))
        return;
    if (*key == '[') {
        header_read(r, key);
        return;
    }
    if (r->section == SKIPPED)
        return;
    if (value == NULL || value == key) {
        key[strcspn(key, " \t")] = '\0'; /* the rest may be a password */
        complain(r, r->line, key, "write key = value, [section] or # comment", "not a line of a configuration");
        return;
    }
    *value++ = '\0';
    key = trim(key);
    value = value_clean(r, key, trim(value));
    if (value == NULL)
        return;
    if (r->section == NOWHERE)
        complain(r, r->line, key, "put it below [puerta], [redis NAME] or [mongo NAME]", "a key before the first section");
    else if ((o = option_find(scope_of(r->conf, r->section), key)) == NULL)
        complain_key(r, key);
    else
        assign(r, r->section, o, value);
}

/* Fills text with the next line; false at the end of the file. A line that is too long or has a zero byte is
 * complained about and comes as an empty one. */
static bool line_next(struct reader *r, FILE *f, char text[LINE_CAP + 1])
{
    size_t len = 0;
    bool zero = false, any = false;
    int c;

    while ((c = getc(f)) != EOF && c != '\n') {
        any = true;
        zero = zero || c == '\0';
        if (len < LINE_CAP + 1)
            text[len++] = (char)c;
    }
    if (c == EOF && !any)
        return false;
    r->line++;
    text[zero || len > LINE_CAP ? 0 : len] = '\0';
    if (zero)
        complain(r, r->line, "\\0", "save the file as plain text in UTF-8", "a zero byte");
    else if (len > LINE_CAP)
        complain(r, r->line, "...", "split it: nodes and listen may be given again", "a line of more than %d bytes",
                 LINE_CAP);
    return true;
}

/* ------------------------------------------------------------- the whole */

/* The line on which an option was given; 0 = nowhere. */
static int given_at(const struct reader *r, int section, const char *key)
{
    return r->given[section][option_find(scope_of(r->conf, section), key) - options];
}

/* The line to blame for an option: its own, or its section's where it has the default. */
static int line_of(const struct reader *r, int section, const char *key)
{
    int line = given_at(r, section, key);

    return line != 0 ? line : r->begun[section];
}

static void check_memory(struct reader *r, int section)
{
    const struct conf *conf = r->conf;
    size_t retain = conf->services[section - 1].retain_bytes, shared = conf->services[section - 1].shared_reply_limit;
    uint64_t most = (uint64_t)conf->chunk_size * conf->chunks / 8;
    char text[OPTION_TEXT], limit[OPTION_TEXT], cure[2 * OPTION_TEXT];
    int line = given_at(r, section, "shared_reply_limit");

    snprintf(cure, sizeof cure, "at most %.20s with this chunk_size x chunks, or raise chunks to %llu",
             option_text(SIZE, most, limit), (retain * 8ULL + conf->chunk_size - 1) / conf->chunk_size);
    if (retain > most)
        complain(r, line_of(r, section, "retain_bytes"), option_text(SIZE, retain, text), cure,
                 "retain_bytes is more than an eighth of the buffer pool");
    snprintf(cure, sizeof cure, "at most %.20s with this upstream_buffer, or raise upstream_buffer to %.20s",
             option_text(SIZE, conf->upstream_buffer, limit), option_text(SIZE, shared, text));
    if (shared > conf->upstream_buffer) /* one of the two was given: the defaults fit */
        complain(r, line != 0 ? line : line_of(r, 0, "upstream_buffer"), text, cure,
                 "shared_reply_limit is more than upstream_buffer");
}

/* Three numbers with dots between them: what clients can compare. */
static bool is_version(const char *s)
{
    for (int i = 0; i < 3; i++) {
        size_t n = strspn(s, "0123456789");
        if (n == 0 || s[n] != (i < 2 ? '.' : '\0'))
            return false;
        s += n + 1;
    }
    return true;
}

static void check_servers(struct reader *r, int section)
{
    const struct conf_service *s = &r->conf->services[section - 1];
    bool mongo = s->kind == SERVICE_MONGO;

    if (s->node_count == 0)
        complain(r, line_of(r, section, servers_key(s)), s->name,
                 mongo ? "add a line such as mongos = 10.0.0.1:27017, 10.0.0.2:27017"
                       : "add a line such as nodes = 10.0.0.1:6379, 10.0.0.2:6379",
                 mongo ? "no mongos in section" : "no nodes in section");
}

/* As whom Puerta logs in at the mongos. A keyfile has a user of its own. */
static void check_login(struct reader *r, int section)
{
    struct conf_service *s = &r->conf->services[section - 1];
    bool password = s->upstream_password[0] != '\0', key = s->upstream_key[0] != '\0';

    if (key && given_at(r, section, "upstream_user") == 0)
        snprintf(s->upstream_user, sizeof s->upstream_user, "__system");
    if (key && given_at(r, section, "upstream_auth_db") == 0)
        snprintf(s->upstream_auth_db, sizeof s->upstream_auth_db, "local");
    if (key && password)
        complain(r, line_of(r, section, "upstream_keyfile"), s->name, "keep upstream_keyfile or the password",
                 "a keyfile and a password in section");
    if (s->upstream_user[0] != '\0' && !password && !key)
        complain(r, line_of(r, section, "upstream_user"), s->upstream_user,
                 "add upstream_password, upstream_password_file or upstream_keyfile", "a user without a password");
    if (s->upstream_user[0] == '\0' && (password || key))
        complain(r, line_of(r, section, password ? "upstream_password" : "upstream_keyfile"), s->name,
                 "add upstream_user, as whom to log in", "a password without a user in section");
    if (strlen(s->upstream_user) > SCRAM_NAME_MAX)
        complain(r, line_of(r, section, "upstream_user"), s->upstream_user, "at most 128 bytes", "too long a name of a user");
    if (s->upstream_auth_db[0] == '\0' || strpbrk(s->upstream_auth_db, "/\\. \"$") != NULL)
        complain(r, line_of(r, section, "upstream_auth_db"), s->upstream_auth_db, "write the one where the user was made, mostly admin",
                 "not a name of a database");
}

static void check_mongo(struct reader *r, int section)
{
    const struct conf_service *s = &r->conf->services[section - 1];

    check_login(r, section);
    if (s->user_count > 0 && s->mode != MONGO_POOLED)
        complain(r, line_of(r, section, "user"), s->users[0].name, "set mode = pooled, or leave user out",
                 "in this mode clients log in at the mongos themselves");
    if (s->upstream_proxy && s->mode != MONGO_LOADBALANCED)
        complain(r, line_of(r, section, "upstream_proxy"), s->name, "set mode = loadbalanced, or leave it out",
                 "a PROXY header leads to the loadBalancerPort, which serves only drivers with loadBalanced=true");
    if (s->mode == MONGO_POOLED && s->pool_min > s->pool_max)
        complain(r, line_of(r, section, "pool_min"), "pool_min", "set it to pool_max or less", "more connections kept than there may be");
}

static void check_redis(struct reader *r, int section)
{
    const struct conf_service *s = &r->conf->services[section - 1];
    int nodes = line_of(r, section, "nodes");
    char host[HOST_CAP];
    uint16_t port;
    const char *why;

    if (s->announce[0] != '\0' && !host_port_split(s->announce, strlen(s->announce), host, &port, &why))
        complain(r, line_of(r, section, "announce"), s->announce, "write HOST:PORT, as clients reach Puerta",
                 "not an address (%s)", why);
    if (!is_version(s->redis_version))
        complain(r, line_of(r, section, "redis_version"), s->redis_version, "write the servers' own, such as 7.4.2", "not a version");
    for (int i = 0; i < s->node_count && !s->single; i++)
        if (s->nodes[i].port == 0)
            complain(r, nodes, s->nodes[i].host, "give HOST:PORT, or set topology = single",
                     "a cluster has no node on a unix socket");
    if (s->single && s->node_count > 1)
        complain(r, nodes, s->name, "keep the one server, or set topology = cluster", "topology = single with %d nodes",
                 s->node_count);
    if (s->upstream_user[0] != '\0' && s->upstream_password[0] == '\0')
        complain(r, line_of(r, section, "upstream_user"), s->upstream_user,
                 "add upstream_password or upstream_password_file", "a user without a password");
}

/* A password stands in this file or in one of its own; in the table its own follows. */
static void check_secrets(struct reader *r, int section)
{
    const int *given = r->given[section];
    char cure[OPTION_TEXT];

    for (size_t i = 1; i < option_count; i++)
        if (options[i].type == SECRET_FILE && given[i] != 0 && given[i - 1] != 0) {
            snprintf(cure, sizeof cure, "keep %s or %s", options[i - 1].key, options[i].key);
            complain(r, given[i], r->conf->services[section - 1].name, cure, "two passwords in section");
        }
}

static void check_gate(struct reader *r, int section)
{
    const struct conf_service *s = &r->conf->services[section - 1];

    if (strspn(s->socket_mode, "01234567") != strlen(s->socket_mode) || (s->socket_mode[0] != '\0' && strlen(s->socket_mode) < 3))
        complain(r, line_of(r, section, "socket_mode"), s->socket_mode, "write three digits as chmod takes them, such as 660", "not permissions");
    if (s->accept_proxy && s->trusted.count == 0)
        complain(r, line_of(r, section, "accept_proxy"), s->name, "add trusted = ADDRESS of the load balancer", "accept_proxy trusts nobody");
}

/* Section a's address i against all that come before it. */
static void check_listen(struct reader *r, int a, int i)
{
    char mine[ADDRESS_TEXT], other[ADDRESS_TEXT];

    address_text(&r->conf->services[a - 1].listen[i], mine);
    for (int b = 1; b <= a; b++) {
        const struct conf_service *s = &r->conf->services[b - 1];
        for (int j = 0; j < (b == a ? i : s->listens); j++) {
            if (strcmp(mine, address_text(&s->listen[j], other)) != 0)
                continue;
            complain(r, line_of(r, a, "listen"), mine, "give each section a listen = ADDRESS:PORT of its own",
                     "an address that [%s %s] listens on already", option_scopes[scope_of(r->conf, b)], s->name);
            return;
        }
    }
}

/* A token has to fit in a field of HTTP. Nobody else may listen where operators ask. */
static void check_admin(struct reader *r)
{
    const struct conf *conf = r->conf;
    char mine[ADDRESS_TEXT], other[ADDRESS_TEXT];

    for (const char *p = conf->admin_token; *p != '\0'; p++)
        if (*p <= ' ' || *p > '~') {
            complain(r, line_of(r, 0, "admin_token_file"), "******", "letters, digits and signs of ASCII, without a blank", "not a token");
            break;
        }
    for (int i = 0; i < conf->admins; i++) {
        bool twice = false;
        address_text(&conf->admin[i], mine);
        for (int j = 0; j < i; j++)
            twice = twice || strcmp(mine, address_text(&conf->admin[j], other)) == 0;
        for (int s = 0; s < conf->service_count; s++)
            for (int j = 0; j < conf->services[s].listens; j++)
                twice = twice || strcmp(mine, address_text(&conf->services[s].listen[j], other)) == 0;
        if (twice)
            complain(r, line_of(r, 0, "admin"), mine, "give admin an address of its own", "an address that is listened on already");
    }
}

/* What the processes give up. Whether there is such a user, the start says: the file may be checked elsewhere. */
static void check_process(struct reader *r)
{
    const struct conf *conf = r->conf;

    if (conf->user[0] == '\0' && conf->group[0] != '\0')
        complain(r, line_of(r, 0, "group"), conf->group, "add user", "a group without a user");
    if (conf->user[0] == '\0' && conf->chroot[0] != '\0')
        complain(r, line_of(r, 0, "chroot"), conf->chroot, "add user: root finds a way out", "chroot without a user");
    if (conf->chroot[0] != '\0' && conf->chroot[0] != '/')
        complain(r, line_of(r, 0, "chroot"), conf->chroot, "write it from / on", "not an absolute path");
    if (conf->pid_file[0] != '\0' && conf->pid_file[0] != '/')
        complain(r, line_of(r, 0, "pid_file"), conf->pid_file, "write it from / on", "not an absolute path");
}

static void check_all(struct reader *r)
{
    const struct conf *conf = r->conf;
    char text[OPTION_TEXT];

    if ((conf->chunk_size & (conf->chunk_size - 1)) != 0)
        complain(r, line_of(r, 0, "chunk_size"), option_text(SIZE, conf->chunk_size, text),
                 "1k, 2k, 4k, 8k, 16k, 32k, 64k, 128k and 256k are", "chunk_size is not a power of two");
    check_process(r);
    if (conf->service_count == 0)
        complain(r, r->line, "[redis NAME]", "add [redis main] and below it nodes = HOST:PORT, or [mongo main] and mongos = HOST:PORT",
                 "no section to serve");
    check_admin(r);
    for (int s = 1; s <= conf->service_count; s++) {
        check_servers(r, s);
        if (conf->services[s - 1].kind == SERVICE_MONGO) {
            check_mongo(r, s);
        } else {
            check_memory(r, s);
            check_redis(r, s);
        }
        check_secrets(r, s);
        check_gate(r, s);
        for (int i = 0; i < conf->services[s - 1].listens; i++)
            check_listen(r, s, i);
    }
}

static void reader_begin(struct reader *r, struct conf *conf, const char *file, char **argv)
{
    memset(r, 0, sizeof *r);
    memset(conf, 0, sizeof *conf);
    r->conf = conf;
    r->file = file;
    r->argv = argv;
    command_init(); /* so that what it knows is not declared again */
    section_begin(r, 0, 0);
    r->section = NOWHERE;
}

bool conf_read(struct conf *conf, const char *path)
{
    static const char bom[] = "\xef\xbb\xbf", cure[] = "name a readable file; puerta.conf.example shows one";
    char text[LINE_CAP + 1];
    struct reader r;
    FILE *f;

    reader_begin(&r, conf, path, NULL);
    if ((f = fopen(path, "r")) == NULL) {
        complain(&r, 0, strerror(errno), cure, "cannot be opened");
        return false;
    }
    while (r.errors < MAX_ERRORS && line_next(&r, f, text))
        line_read(&r, text + (r.line == 1 && strncmp(text, bom, sizeof bom - 1) == 0 ? sizeof bom - 1 : 0));
    if (ferror(f))
        complain(&r, 0, strerror(errno), cure, "cannot be read");
    fclose(f);
    if (r.errors == 0)
        check_all(&r);
    return r.errors == 0;
}

static void argument_read(struct reader *r, const char *argument)
{
    size_t n = strcspn(argument, "=");
    const struct option *o;
    char key[OPTION_TEXT];

    if (argument[n] == '\0' || n == 0 || n >= sizeof key) {
        complain(r, r->line, argument, "write key=value, such as listen=127.0.0.1:6380", "not a key=value");
        return;
    }
    memcpy(key, argument, n);
    key[n] = '\0';
    if ((o = option_find(scope_of(r->conf, 1), key)) != NULL)
        assign(r, 1, o, argument + n + 1);
    else if ((o = option_find(PROCESS, key)) != NULL)
        assign(r, 0, o, argument + n + 1);
    else
        complain_key(r, key);
}

bool conf_quick(struct conf *conf, enum service_kind kind, int argc, char **argv)
{
    const char *word = kind == SERVICE_MONGO ? "mongo" : "redis";
    struct reader r;

    if (argc < 1) {
        fprintf(stderr, "puerta: no servers: ''; write puerta %s HOST:PORT[,HOST:PORT...] [key=value ...]\n", word);
        return false;
    }
    reader_begin(&r, conf, NULL, argv);
    conf->supervise = 0; /* a quick start ends with its terminal, like any command */
    snprintf(conf->services[0].name, NAME_CAP, "%s", word);
    conf->services[0].kind = kind;
    conf->service_count = 1;
    section_begin(&r, 1, 1);
    r.begun[0] = 1;
    r.line = 1;
    assign(&r, 1, option_find(scope_of(conf, 1), servers_key(&conf->services[0])), argv[0]);
    for (r.line = 2; r.line <= argc; r.line++)
        argument_read(&r, argv[r.line - 1]);
    r.line = 1;
    if (r.errors == 0)
        check_all(&r);
    return r.errors == 0;
}

/* ---------------------------------------------------------------- report */

/* Base is the struct of the option's scope. */
static void report_list(const struct option *o, const void *base)
{
    const struct conf *conf = base;
    const struct conf_service *s = base;
    char text[ADDRESS_TEXT];

    /* One line each: a list in one line might be longer than a line may be. */
    for (int i = 0; o->type == LISTEN && i < (o->scope == PROCESS ? conf->admins : s->listens); i++)
        printf("%s = %s\n", o->key, address_text(o->scope == PROCESS ? &conf->admin[i] : &s->listen[i], text));
    for (int i = 0; o->type == COMMAND && i < conf->command_count; i++)
        printf("%s = %s %s %s\n", o->key, conf->commands[i].name, command_keys_name(conf->commands[i].keys),
               (conf->commands[i].flags & CMD_READONLY) != 0 ? "read" : "write");
    for (int i = 0; o->type == USER && i < s->user_count; i++) /* its keys are not shown, so it could not be read again */
        printf("#%s = %s ******\n", o->key, s->users[i].name);
    const struct subnets *nets = (const void *)((const char *)base + o->offset);
    for (int i = 0; o->type == NETS && i < nets->count; i++)
        printf("%s = %s\n", o->key, subnet_text(&nets->at[i], text));
    for (int i = 0; o->type == NODES && i < s->node_count; i++) {
        const struct host_port *n = &s->nodes[i];
        if (n->port == 0)
            printf("%s = unix:%s", o->key, n->host);
        else
            printf(strchr(n->host, ':') != NULL ? "%s = [%s]:%u" : "%s = %s:%u", o->key, n->host, (unsigned)n->port);
        printf(s->weights[i] > 1 ? "*%u\n" : "\n", (unsigned)s->weights[i]);
    }
}

static void report_option(const struct option *o, const void *base)
{
    const char *field = (const char *)base + o->offset;
    char text[OPTION_TEXT];

    switch (o->type) {
    case SIZE: case TIME: case COUNT: case BOOL: case ENUM:
        printf("%s = %s\n", o->key, option_show(o, base, text));
        break;
    case LISTEN: case NODES: case COMMAND: case USER: case NETS: report_list(o, base); break;
    case TEXT: /* nothing in a file has both quotes and what needs them */
        printf(strchr(field, '"') != NULL ? "%s = %s\n" : "%s = \"%s\"\n", o->key, field);
        break;
    case SECRET: printf("%s = %s\n", o->key, field[0] != '\0' ? "******" : "\"\""); break;
    case SECRET_FILE: /* has been read: where there is an option for the password, that stands for it */
        if (o == options || o[-1].type != SECRET || o[-1].offset != o->offset)
            printf(field[0] != '\0' ? "#%s = ******\n" : "#%s = \"\"\n", o->key);
        break;
    case KEYFILE: printf(field[0] != '\0' ? "#%s = ******\n" : "#%s = \"\"\n", o->key); break;
    }
}

size_t conf_descriptors(const struct conf *conf)
{
    size_t n = (size_t)conf->max_clients + conf_upstreams(conf) + conf_probes(conf) + conf_admins(conf) + (size_t)conf->admins +
               conf_arrivals(conf) + OTHER_DESCRIPTORS;

    for (int i = 0; i < conf->service_count; i++)
        n += (size_t)conf->services[i].listens;
    return n;
}

/* The kernel's share is not in the arena, but it is memory all the same. */
static void report_kernel(const struct conf *conf)
{
    size_t sockets = (size_t)conf->max_clients + conf_upstreams(conf) + conf_probes(conf);
    uint64_t each = 0;
    bool known = true;

    for (int i = 0; i < conf->service_count; i++) {
        uint64_t sum = (uint64_t)conf->services[i].receive_buffer + (uint64_t)conf->services[i].send_buffer;
        known = known && conf->services[i].receive_buffer != 0 && conf->services[i].send_buffer != 0;
        each = sum > each ? sum : each;
    }
    if (known)
        printf("# kernel socket buffers  %10zu %12llu %14llu at most (Linux books twice that)\n", sockets,
               (unsigned long long)each, (unsigned long long)(sockets * each));
    else
        printf("# kernel socket buffers  %10zu system default (receive_buffer and send_buffer bound it)\n", sockets);
    printf("# descriptors needed     %10zu\n", conf_descriptors(conf));
}

void conf_report(const struct conf *conf)
{
    const char *table;
    size_t count, size;

    for (int s = 0; s <= conf->service_count; s++) {
        const void *base = s == 0 ? (const void *)conf : (const void *)&conf->services[s - 1];
        enum option_scope scope = scope_of(conf, s);
        if (s == 0)
            printf("[puerta]\n");
        else
            printf("\n[%s %s]\n", option_scopes[scope], conf->services[s - 1].name);
        for (size_t i = 0; i < option_count; i++)
            if (options[i].scope == scope)
                report_option(&options[i], base);
    }
    printf("\n# %-22s %10s %12s %14s\n", "memory", "count", "bytes each", "bytes");
    for (int i = 0; arena_row(i, &table, &count, &size); i++)
        printf("# %-22s %10zu %12zu %14llu\n", table, count, size, (unsigned long long)count * size);
    if (arena_bytes() == SIZE_MAX)
        printf("# %-22s more than this machine can address: lower chunks or the max_ options\n", "total");
    else
        printf("# %-22s %10s %12s %14zu\n", "total", "", "", arena_bytes());
    report_kernel(conf);
    if (fflush(stdout) != 0)
        fatal(EX_IOERR, "the report cannot be written: %s", strerror(errno));
}
