/*
 * conf.c - reads the configuration into struct conf.
 *
 *     file  --line_read()---> section / key = value --.
 *                                                     +--> assign() --option.c's row--> struct conf --> conf_check()
 *     argv  --argument_read()----> key=value ---------'
 *
 * struct conf belongs to the caller; a struct reader lives on the stack of one read and knows on which line each
 * option was given, so that a check made at the end still names the line that is wrong. Runs before the seal: stdio
 * may allocate here.
 */
#include "conf.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_CAP 4096   /* bytes of one line of the file */
#define ITEM_CAP (HOST_CAP + 16) /* one address of a list, with brackets, port or unix: */
#define PORT_CAP sizeof ":65535"
#define WEIGHT_MAX 100
#define PIPE_MS 2000    /* until a pipe that is to tell a secret has to have some of it */

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

/* Opens the file of a secret, and says so when strangers on this machine can read it. NULL behind a complaint: also about a pipe into which
 * nobody writes, which else would be waited for without an end. */
static FILE *secret_open(struct reader *r, const struct option *o, const char *path)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct pollfd p = { .fd = fd, .events = POLLIN };
    bool silent = fd >= 0 && poll(&p, 1, PIPE_MS) == 0;
    FILE *f = fd < 0 || silent || fcntl(fd, F_SETFL, 0) < 0 ? NULL : fdopen(fd, "r");
    struct stat st;

    if (f == NULL) {
        complain_value(r, o, path, silent ? "a pipe into which nobody writes" : strerror(errno));
        if (fd >= 0)
            (void)close(fd);
    } else if (fstat(fd, &st) == 0 && (st.st_mode & (S_IROTH | S_IWOTH)) != 0) {
        complain_warn(r, path, "chmod o= closes it", "others can read or write the file");
    }
    return f;
}

/* Reads a keyfile of MongoDB: all that is no white space, which must be letters of base64. */
static void keyfile_read(struct reader *r, const struct option *o, void *base, const char *path)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
    char key[KEYFILE_CAP] = "";
    FILE *f = secret_open(r, o, path);
    size_t n = 0;
    int c;

    if (f == NULL)
        return;
    while ((c = getc(f)) != EOF && n < sizeof key) {
        if (c != '\0' && strchr(" \t\r\n\v\f", c) != NULL)
            continue;
        if (c == '\0' || strchr(letters, c) == NULL)
            break;
        key[n++] = (char)c;
    }
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
    FILE *f = secret_open(r, o, path);

    if (f == NULL)
        return;
    if (fgets(line, sizeof line, f) != NULL)
        line[strcspn(line, "\r\n")] = '\0';
    fclose(f);
    if (line[0] == '\0')
        complain_value(r, o, path, "nothing in the first line of the file");
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
        if (options[i].scope == conf_scope(r->conf, section) && options[i].standard[0] != '\0')
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
    else if ((o = option_find(conf_scope(r->conf, r->section), key)) == NULL)
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
        conf_check(&r);
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
    if ((o = option_find(conf_scope(r->conf, 1), key)) != NULL)
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
    assign(&r, 1, option_find(conf_scope(conf, 1), conf_servers_key(&conf->services[0])), argv[0]);
    for (r.line = 2; r.line <= argc; r.line++)
        argument_read(&r, argv[r.line - 1]);
    r.line = 1;
    if (r.errors == 0)
        conf_check(&r);
    return r.errors == 0;
}
