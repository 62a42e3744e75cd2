/*
 * ctl.c - puerta status, top, drain ...: asks a running Puerta over its admin listener, and says what came of it.
 *
 *   words --> where, and what is asked --ctl_ask.c--> answer --> ctl_view.c, or a line of text
 */
#include "ctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#define DEFAULT_AT "127.0.0.1:9180" /* where nobody says where */
#define REFUSED 1               /* the exit code, where sysexits.h has none */
#define TARGET_CAP 1024

/* What can be said, in the order of the usage. */
static const struct word {
    const char *name, *method, *target; /* target: with what is said behind it, if `takes` says that there is something */
    const char *takes;
    void (*show)(struct jvalue body);   /* NULL: the text of the answer */
} words[] = {
    { "status", "GET", "/status", NULL, ctl_show_status },
    { "clients", "GET", "/clients", NULL, ctl_show_clients },
    { "top", "GET", "/status", NULL, NULL },
    { "drain", "POST", "/drain?backend=", "HOST:PORT", NULL },
    { "undrain", "POST", "/undrain?backend=", "HOST:PORT", NULL },
    { "down", "POST", "/down?backend=", "HOST:PORT", NULL },
    { "kill", "POST", "/kill?client=", "ID", NULL },
    { "reload", "POST", "/reload", NULL, NULL },
    { "loglevel", "POST", "/loglevel?level=", "error|warn|info|debug", NULL },
};

const char ctl_usage[] =
    "       puerta status [-j] [WHERE]                 what a running puerta is doing; -j: as JSON\n"
    "       puerta clients [-j] [WHERE]                who is there\n"
    "       puerta top [WHERE]                         the same, each second anew; q ends it\n"
    "       puerta drain|undrain|down [WHERE] HOST:PORT       nothing new goes to a server | back | nobody is served there\n"
    "       puerta kill [WHERE] ID                     end a client\n"
    "       puerta reload [WHERE]                      read its file again\n"
    "       puerta loglevel [WHERE] error|warn|info|debug\n"
    "       WHERE: -c FILE (its admin and admin_token_file), or -a ADDRESS [-T TOKENFILE]; else " DEFAULT_AT "\n";

static const struct word *word_of(const char *name)
{
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(words[i].name, name) == 0) {
            return &words[i];
        }
    }
    return NULL;
}

bool ctl_knows(const char *word)
{
    return word_of(word) != NULL;
}

/* ---------------------------------------------------------------- the words */

static int wrong(const char *word, const char *what, const char *about)
{
    fprintf(stderr, "puerta %s: %s%s; see puerta -h\n", word, what, about);
    return EX_USAGE;
}

/* The first line of the file. False: there is none; errno says why, or is 0. */
static bool read_token(const char *path, char token[SECRET_CAP])
{
    errno = 0;
    FILE *f = fopen(path, "r");
    bool good = f != NULL && fgets(token, SECRET_CAP, f) != NULL;
    if (f != NULL) {
        fclose(f);
    }
    token[good ? strcspn(token, "\r\n") : 0] = '\0';
    return good && token[0] != '\0' && strspn(token, " ") == 0;
}

/* An address of everybody is this machine's too. */
static void come_near(struct address *a)
{
    if (a->u.sa.sa_family == AF_INET && a->u.in4.sin_addr.s_addr == htonl(INADDR_ANY)) {
        a->u.in4.sin_addr.s_addr = htonl(0x7f000001); /* POSIX has no name for it */
    } else if (a->u.sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&a->u.in6.sin6_addr)) {
        a->u.in6.sin6_addr = in6addr_loopback;
    }
}

struct options { const char *file, *at, *token_file, *argument; bool json; };

/* EX_OK: *where is known. */
static int find_where(const struct options *o, const char *word, struct conf *conf, struct ctl_where *where)
{
    const char *why = "";
    memset(where, 0, sizeof *where);
    if (o->file != NULL && !conf_read(conf, o->file)) {
        return EX_CONFIG;
    }
    if (o->file != NULL && conf->admins == 0 && o->at == NULL) {
        fprintf(stderr, "puerta %s: %s has no admin = ADDRESS, by which it could be asked\n", word, o->file);
        return EX_CONFIG;
    }
    if (o->file != NULL) {
        where->at = conf->admin[0];
        memcpy(where->token, conf->admin_token, sizeof where->token);
    }
    if ((o->at != NULL || o->file == NULL) && !address_parse(o->at != NULL ? o->at : DEFAULT_AT, &where->at, &why)) {
        return wrong(word, "-a: ", why);
    }
    if (o->token_file != NULL && !read_token(o->token_file, where->token)) {
        fprintf(stderr, "puerta %s: %s: %s\n", word, o->token_file, errno != 0 ? strerror(errno) : "no token in its first line");
        return EX_NOINPUT;
    }
    come_near(&where->at);
    address_text(&where->at, where->text);
    return EX_OK;
}

static bool read_options(struct options *o, int argc, char **argv)
{
    int opt;
    optind = 1;
    while ((opt = getopt(argc, argv, "c:a:T:j")) != -1 || (optind < argc && o->argument == NULL)) {
        switch (opt) {
        case -1: /* options may follow it */
            o->argument = argv[optind];
            argc -= optind;
            argv += optind;
            optind = 1;
            break;
        case 'c': o->file = optarg; break;
        case 'a': o->at = optarg; break;
        case 'T': o->token_file = optarg; break;
        case 'j': o->json = true; break;
        default: return false;
        }
    }
    return optind >= argc;
}

/* Behind the target, percent-encoded. False: it is too long. */
static bool add_argument(char *target, size_t cap, const char *argument)
{
    size_t n = strlen(target);
    for (const char *p = argument; *p != '\0' && n + 4 < cap; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("-._~", *p) != NULL;
        n += (size_t)snprintf(target + n, cap - n, plain ? "%c" : "%%%02X", (unsigned)(unsigned char)*p);
    }
    return n + 4 < cap;
}

/* What was said to what was asked. */
static int tell(const struct word *w, const struct options *o, const struct ctl_answer *a)
{
    struct jvalue text;
    char shown[512];
    bool good = a->status >= 200 && a->status < 300;
    if (o->json && a->json.n > 0) {
        fwrite(a->json.p, 1, a->json.n, stdout);
        putchar('\n');
    } else if (a->json.n == 0) {
        fprintf(stderr, "puerta %s: an answer without JSON, of status %d\n", w->name, a->status);
        return good ? EX_PROTOCOL : REFUSED;
    } else if (good && w->show != NULL) {
        w->show(a->json);
    } else {
        if (!jread_get(a->json, "text", &text)) {
            jread_get(a->json, "error", &text);
        }
        jread_string(text, shown, sizeof shown);
        if (good) {
            puts(shown);
        } else {
            fprintf(stderr, "puerta %s: %s%s\n", w->name, shown, a->status == 401 ? " (-T TOKENFILE or -c FILE gives it)" : "");
        }
    }
    return fflush(stdout) != 0 ? EX_IOERR : good ? EX_OK : REFUSED;
}

int ctl_main(struct conf *conf, const char *file, int argc, char **argv)
{
    static char out[BUFSIZ];
    const struct word *w = word_of(argv[0]);
    struct options o = { .file = file };
    struct ctl_where where;
    struct ctl_answer answer = { .bytes = os_map(CTL_ANSWER_MAX) }, before = { .bytes = os_map(CTL_ANSWER_MAX) };
    char target[TARGET_CAP];
    int code;
    setvbuf(stdout, out, _IOFBF, sizeof out);
    snprintf(target, sizeof target, "%s", w->target);
    if (answer.bytes == NULL || before.bytes == NULL) {
        return EX_OSERR;
    }
    if (!read_options(&o, argc, argv)) {
        return wrong(w->name, "not understood", "");
    }
    if ((o.argument != NULL) != (w->takes != NULL)) {
        return wrong(w->name, w->takes != NULL ? "wants " : "takes no ", w->takes != NULL ? w->takes : o.argument);
    }
    if (o.argument != NULL && !add_argument(target, sizeof target, o.argument)) {
        return wrong(w->name, "too long: ", o.argument);
    }
    code = find_where(&o, w->name, conf, &where);
    if (code != EX_OK || strcmp(w->name, "top") == 0) {
        return code != EX_OK ? code : ctl_top(&where, &answer, &before);
    }
    if (!ctl_ask(&where, w->method, target, &answer)) {
        fprintf(stderr, "puerta %s: %s: %s\n", w->name, where.text, answer.why);
        return EX_UNAVAILABLE;
    }
    return tell(w, &o, &answer);
}
