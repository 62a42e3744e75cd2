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

/* name: "HOST:PORT", or "SECTION/HOST:PORT" where two sections have it; IPv6 also in brackets. The hold counts at once; what it means for
 * connections that are there is seen to in the next turn. It is kept until another one is given, through reconnects and changes of the
 * server's state, and by a reload; a process that starts knows of none.
 *
 *   DRAIN  MongoDB: nothing new goes there, its clients move on between two requests, and who has cursors or transactions open is served
 *          until those have ended, however long that takes. Also the last server of a section: the text warns of that.
 *          Redis: one that owns slots is REFUSED, since nobody else can serve them; of one that owns none nothing is asked but the
 *          map of slots, when no other can be. Slots that it gains later lead there all the same.
 *   DOWN   serves nobody: its connections are closed, what was under way there fails as when a server dies.
 *   NOT    takes either back. */
struct action action_hold(const char *name, enum backend_hold hold);
/* Ends the client whose connection has that number (conn.id), in the next turn. REFUSED: too many go in this one. */
struct action action_kill(uint64_t id);
/* "error", "warn", "info", "debug": of this process, until it ends. */
struct action action_level(const char *word);
/* Asks for the configuration file to be read again. DONE: on_done, if it is not NULL, is called once, later, with what came of it: its
 * `text` says how many options changed and how many need a restart, or what is wrong with the file. REFUSED: there is no file, or one
 * is being read. */
struct action action_reload(void *mark, void (*on_done)(void *mark, const struct action *done));
/* Does so. False: one is under way. Set by reload.c; NULL: there is no file. */
extern bool (*action_on_reload)(void *mark, void (*on_done)(void *mark, const struct action *done));
/* Forgets who asked: on_done is not called for that mark any more. */
extern void (*action_forget)(void *mark);

#endif
