/*
 * parent.h - the processes: how they start, what they give up, what is told of them, how one comes in another's place.
 *
 *   started --upgrade_start()--> manager_open(), guard_drop() --parent_fork()--> parent: names, files, restarts
 *                                                                         `----> worker: guard_worker(), the loop
 */
#ifndef PUERTA_PARENT_H
#define PUERTA_PARENT_H

#include "puerta.h"

/* What a new binary finds in its environment when it takes over from a running one (SIGUSR2). */
#define UPGRADE_ENV "PUERTA_UPGRADE"

/* -------------------------------------------------- os_guard.c (floor 2) */

/* What a process gives up once it has what it needs. Each of these ends the process when it cannot do as it is told. */

/* chroot, group and user of the configuration, for this process and all that it forks. Warns where they leave it root. upgraded: this
 * program took over from one that has done so, in the same process; what the file says of it now needs a restart. */
void guard_drop(const struct conf *conf, bool upgraded);
/* Why this machine has not the user or the group that guard_drop() would become; NULL: it has, or none is named. */
const char *guard_doubt(const struct conf *conf);
/* No other system calls, and no files, than this process needs: pledge and unveil on OpenBSD; the worker's seccomp = yes on Linux. */
void guard_parent(const struct conf *conf);
void guard_worker(const struct conf *conf);

/* --------------------------------------------------- manager.c (floor 2) */

/* What whoever started Puerta is told: systemd by NOTIFY_SOCKET, s6 by ready_fd, anybody by the pid file. Only the process that was
 * started first speaks; in those that it forks nothing of this does anything, once they have called manager_leave(). */
enum manager_word {
    MANAGER_READY,     /* clients are served; also: the configuration has been read again */
    MANAGER_ALIVE,     /* the worker still turns (WATCHDOG=1) */
    MANAGER_RELOADING, /* the configuration is being read again; MANAGER_READY follows, whatever came of it */
    MANAGER_STOPPING,
    MANAGER_WORDS
};

/* Before chroot and user change: opens the socket and the pid file. Ends the process when that is another living one's, or when
 * nothing is open at ready_fd. upgraded: this program took over from one that has told ready_fd, and left its pid file open. */
void manager_open(const struct conf *conf, bool upgraded);
void manager_say(enum manager_word word);
/* How it is, in words (systemctl status): at most 200 bytes. */
void manager_status(const char *text);
/* How often the worker is to be heard of, in ms; 0: nobody waits for it. */
uint32_t manager_watchdog_ms(void);
void manager_leave(void);   /* in a process just forked */
/* The pid file stays locked over an exec, and is found again by the new program's manager_open(). */
void manager_hand_over(void);
void manager_close(void);   /* the end: removes the pid file, or empties it where it may not be removed */

/* --------------------------------------------------- upgrade.c (floor 3) */

#define UPGRADE_ABLE 10     /* the exit code of `-t` by which a program says that it could take over */

/* What one program leaves to the next. */
struct upgrade_left {
    pid_t worker;               /* 0: none, or no child of this process */
    int sock, peer;             /* the parent's ends of its socket pairs; -1: none */
    size_t question_size;       /* of what goes over sock */
    uint32_t generation, drain_ms; /* how many programs there were before; how long that worker may take to go */
};

/* First of all: remembers how this program was started, and takes out of the environment what the one before it left. */
void upgrade_start(int argc, char **argv);
bool upgrade_tries(void);           /* the one before it only asks whether it could take over */
struct upgrade_left *upgrade_left(void);
int upgrade_listener(const struct address *a); /* the socket that listens there already; -1: none does */
void upgrade_listens(int fd);       /* to be passed on */
bool upgrade_keeps(int fd);         /* whether it is */
void upgrade_close_rest(void);      /* what nobody has asked for */
void upgrade_drain_limit(uint32_t ms); /* told to the next program: this one's worker is gone by then */
pid_t upgrade_try(void);            /* tries the next program as a child, which exits with UPGRADE_ABLE or is of no use; -1: no fork */
pid_t upgrade_spawn(const struct upgrade_left *leave); /* runs it as a child */
void upgrade_exec(const struct upgrade_left *leave);   /* runs it in this process: returns if that fails */

/* ---------------------------------------------------- parent.c (floor 3) */

/* The parent process does what must not happen in the worker: it resolves names and reads the configuration again (each in a
 * short-lived child, since that blocks and allocates), restarts a dead worker, and keeps the listening sockets open. */

/* Asks for the addresses of host; on_names is called later, count 0 when there are none. False when too
 * many questions are open (64): ask again later. */
bool parent_resolve(const char *host, uint16_t port, void *mark,
                    void (*on_names)(void *mark, const struct address *list, int count));
/* Has parent_read called in a child of the second process. on_names: count 1: it has ended; 0: it came to nothing. False: there is no
 * second process, or too many questions are open. */
bool parent_reload(void *mark, void (*on_names)(void *mark, const struct address *list, int count));
/* Set before parent_fork(). settle: called in the second process ahead of each `read`, and of each worker but the first one. */
extern void (*parent_settle)(void), (*parent_read)(void);
void parent_forget(void *mark);     /* its answers are no longer wanted */
/* Says a word of the worker's to whoever started Puerta: through the parent, where there is one. */
void parent_tell(enum manager_word word);
/* Worker's side: watches the socket to the parent. fd -1: no parent, every name fails. */
void parent_attach(int fd);
/* Forks. In a supervised start (`supervise`) the caller's process becomes the parent, which returns only with
 * an exit code for main in *exit_code after the worker has ended for good; the worker returns true with its end of
 * the socket in *fd. Unsupervised, the caller stays the worker and the child helps it until it ends. */
bool parent_fork(bool supervise, int *fd, int *exit_code);

/* An upgrade: what another program leaves behind that had this process before (upgrade.c). */
#define PARENT_READY "ready"
int parent_hand(void);              /* worker's side: the way to the worker that comes after it; -1: there is none */
int parent_peer(void);              /* the way to the worker before it, which serves still; -1: there is none */
void parent_ready(void);            /* it can serve: the one before it may go */
void parent_upgrade(bool taken_over); /* SIGUSR2 has come to a worker; or: the next one has begun to take over */
/* This program cannot run (exit_code says why). Where there is a worker of the one before, that serves on under this parent until
 * it ends. Gives the code to exit with. */
int parent_keep(int exit_code);

/* ---------------------------------------------------- reload.c (floor 5) */

/* Before the first fork. conf: the one in force, to which all point, and which is changed in place; file: where it came from, NULL: from
 * the command line, and then it cannot be read again. */
void reload_open(struct conf *conf, const char *file);
/* Reads the file again, soon, and heeds what it says; the log, stats and `reloaded` (stats.h) tell what came of it. */
void reload_now(void);

#endif
