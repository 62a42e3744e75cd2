/* ctl.h - puerta status, top, drain and the like: what is asked of a running Puerta over its admin listener.
 *
 *   ctl.c   the words      ctl_view.c   what is shown of the answers      ctl_ask.c   one question, one answer
 *
 * This runs in a process of its own, before any table is taken: no room but net.c and jread.c is at work in it.
 */
#ifndef PUERTA_CTL_H
#define PUERTA_CTL_H

#include "jread.h"
#include "puerta.h"

/* Whether `puerta WORD ...` is one of these. */
bool ctl_knows(const char *word);
/* Their lines of the usage. */
extern const char ctl_usage[];
/* Does it: argv[0] is the word. conf is room for what is read of `file`, which was named before the word; NULL: none was. Gives the exit
 * code: 0 it is done, 1 it was refused, or as sysexits.h has them. */
int ctl_main(struct conf *conf, const char *file, int argc, char **argv);

/* --------------------------------------------------------------------- ctl_ask.c */

/* Where a running Puerta is asked. */
struct ctl_where {
    struct address at;
    char text[ADDRESS_TEXT];
    char token[SECRET_CAP];     /* "" = none */
};

#define CTL_ANSWER_MAX (1u << 20) /* bytes of an answer: a thousand servers, or three thousand clients */

/* Room for one answer: CTL_ANSWER_MAX bytes at `bytes`, the caller's. */
struct ctl_answer {
    char *bytes;
    int status;                 /* of HTTP; 0: none has come */
    struct jvalue json;         /* of its body; n 0: it is no JSON */
    char why[192];              /* why there is no answer */
};

/* Asks (method and target: up to 1,024 bytes), and waits for the answer, ten seconds at most. False: there is none: `why` says so. A whole one with any status is true. */
bool ctl_ask(const struct ctl_where *where, const char *method, const char *target, struct ctl_answer *out);

/* -------------------------------------------------------------------- ctl_view.c */

/* What GET /status and GET /clients tell, as tables on stdout. */
void ctl_show_status(struct jvalue status);
void ctl_show_clients(struct jvalue clients);
/* Shows how it goes, each second anew, until q or a signal; without a terminal once. Gives the exit code. */
int ctl_top(const struct ctl_where *where, struct ctl_answer *now, struct ctl_answer *before);

#endif
