/* action.h - what an operator may do to a running Puerta, whatever the protocol it is asked in: HTTP (admin.c), PUERTA ...
 * (redis_puerta.c), puertaStatus (mongo_puerta.c). Each says what was done, or why not, in one line of text without a name of a protocol.
 */
#ifndef PUERTA_ACTION_H
#define PUERTA_ACTION_H

#include "puerta.h"

enum action_status {
    ACTION_DONE,
    ACTION_UNKNOWN,  /* there is no such server or client */
    ACTION_REFUSED,  /* it cannot be done now: text says what would help */
    ACTION_MALFORMED /* what was asked for makes no sense */
};

#define ACTION_TEXT 256

struct action {
    enum action_status status;
    char text[ACTION_TEXT]; /* "127.0.0.1:27018 takes no new clients; 12 are there" */
};

/* name: "HOST:PORT", or "SECTION/HOST:PORT" where two sections have it. A node of Redis that owns slots cannot be drained: its slots
 * have to be moved first. */
struct action action_hold(const char *name, enum backend_hold hold);
/* Ends the client whose connection has that number (conn.id). */
struct action action_kill(uint64_t id);
/* "error", "warn", "info", "debug". */
struct action action_level(const char *word);
/* Asks for the configuration file to be read again (reload.c). on_done is called once, later, with what came of it: its
 * `text` says how many options changed and how many need a restart, or what is wrong with the file. False: one is under way.
 * Set by reload.c; NULL: there is no file. */
extern bool (*action_on_reload)(void *mark, void (*on_done)(void *mark, const struct action *done));
/* Forgets who asked: on_done is not called for that mark any more. */
extern void (*action_forget)(void *mark);

#endif
