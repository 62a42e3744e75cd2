/*
 * conf.h - one reading of the configuration: what conf.c fills, complain.c tells of and conf_check.c judges.
 */
#ifndef PUERTA_CONF_H
#define PUERTA_CONF_H

#include "option.h"

#define MAX_ERRORS 20   /* more are seldom read, and most follow from the first */
#define SECTIONS (1 + MAX_SERVICES) /* section 0 is [puerta], section 1 + i is conf->services[i] */
#define NOWHERE (-1)    /* no section has begun */
#define SKIPPED (-2)    /* below a header that was refused: its keys would only repeat the complaint */

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

/* The scope of the options of a section. */
static inline enum option_scope conf_scope(const struct conf *conf, int section)
{
    return section == 0 ? PROCESS : conf->services[section - 1].kind == SERVICE_MONGO ? MONGO : REDIS;
}

/* How the list of servers is called in a section. */
static inline const char *conf_servers_key(const struct conf_service *s)
{
    return s->kind == SERVICE_MONGO ? "mongos" : "nodes";
}

/* ------------------------------------------------------------ complain.c */

/* PLACE: what is wrong: 'text'; what would be right. Counts in r->errors: behind MAX_ERRORS nothing more is said. Line 0: the file as a whole. */
void complain(struct reader *r, int line, const char *text, const char *cure, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* A value that its option cannot have, in the line being read: the cure is what the table says. */
void complain_value(struct reader *r, const struct option *o, const char *text, const char *wrong);
/* No such key there: one in the wrong section is told apart from a misspelt one. */
void complain_key(struct reader *r, const char *key);
/* The line being read is doubtful, but no error. */
void complain_warn(const struct reader *r, const char *text, const char *cure, const char *doubt);

/* ---------------------------------------------------------- conf_check.c */

/* What is wrong between options, once all are read without an error; also fills in what follows from others. */
void conf_check(struct reader *r);

#endif
