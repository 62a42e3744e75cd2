/*
 * puerta.h - what the rooms share: the limits, the structs, and each room's
 * prototypes grouped by file. Pure rooms (resp, slotmap, bson and so on) have
 * their own headers; what only the Redis family shares stands in redis.h, the
 * MongoDB family's in mongo.h, all about processes in parent.h and handover.h.
 *
 *   floor 5   puerta.c  reload.c  conf*.c  option.c
 *   floor 4   redis*.c  mongo*.c  users.c  guesses.c  health.c
 *   floor 3   conn.c  buf.c  gate.c  parent.c         conn.c is the waist:
 *   floor 2   loop.c  net.c  arena.c  stats.c  os*.c  manager.c    upward only through conn_ops
 *   floor 1   resp.c  command.c  slotmap.c  bson.c  mongo{wire,msg}.c  affinity.c  http.c  answer.c    pure
 *   floor 0   log.c  text.c
 */
#ifndef PUERTA_H
#define PUERTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <netinet/in.h>

#include "command.h"
#include "resp.h"
#include "scram.h"
#include "slotmap.h"
#include "stats.h"

#define PUERTA_VERSION "0.1.0"

/* ---------------------------------------------------------------- limits */

#define MAX_SERVICES 8      /* [redis NAME] and [mongo NAME] sections: each costs a slot map of 64 KiB */
#define MAX_LISTENS 4       /* addresses of one section: IPv4, IPv6, a unix socket and one more */
#define MAX_SUBNETS 16      /* networks of one list (allow, deny, trusted) */
#define MAX_SEEDS 16        /* nodes = ...: only one of them has to be alive at the start */
#define BACKENDS_MAX 1024   /* max_backends at most: the size of a few marks kept for each */
#define MAX_ADDRESSES 8     /* addresses kept of one host name */
#define HOST_CAP 256        /* a DNS name is at most 253 characters */
#define NAME_CAP 32         /* the name of a section */
#define SECRET_CAP 256      /* a user or a password */
#define PATH_CAP 256        /* a file or a folder that an option names */
#define KEYFILE_CAP 1025    /* the password in a keyfile of MongoDB: 1024 letters at most */
#define DATABASE_CAP 64     /* the name of a database */
#define MAX_USERS 16        /* users of one MongoDB section: each takes 264 bytes */
#define SEND_SLICES 64      /* iovecs of one send: beyond 64 the kernel's copy dominates */
#define ACCEPTS_PER_TURN 64 /* so that a storm of dials does not starve the clients inside */
#define COLD_PER_TURN 256   /* cold descriptors told in one turn */
#define FINISH_MS 2000      /* how long a client that is being closed may take to read its last answers */
#define KEEPALIVE_IDLE_MS 60000 /* a peer that is silent for so long is asked by the kernel whether it is there */

/* ------------------------------------------------------- log.c (floor 0) */

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* One per call site: lets 10 lines a second through and counts the rest, so that a flood of one
 * kind of event cannot fill a disk or slow the loop. */
struct log_gate { uint64_t second; uint32_t lines, dropped; };

extern enum log_level log_threshold;
const char *log_level_name(enum log_level level); /* "error", "warn", "info", "debug" */

/* From here on lines go to the system's log (facility: an index of the option `syslog`; 0: they stay on stderr). What nobody takes
 * there goes to stderr after all. Before a chroot, which hides the socket that it connects to. */
void log_open(int facility);
extern int log_socket; /* to the system's log; -1 = none */

/* Writes one logfmt line to stderr, or to the system's log: `ts=... level=... msg="MSG" KEY=VALUE...`. fmt holds the
 * key=value part, or "" for none. At most 1,024 bytes; longer ones are cut. Never allocates. */
void log_write(struct log_gate *gate, enum log_level level, const char *msg, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#define LOG_AT(level, ...) do { if ((level) <= log_threshold) { \
    static struct log_gate gate_; log_write(&gate_, (level), __VA_ARGS__); } } while (0)
#define log_error(...) LOG_AT(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  LOG_AT(LOG_WARN, __VA_ARGS__)
#define log_info(...)  LOG_AT(LOG_INFO, __VA_ARGS__)
#define log_debug(...) LOG_AT(LOG_DEBUG, __VA_ARGS__)

/* Copies text into out as a logfmt value: quoted, control bytes as \xHH, cut at cap. Gives out. */
const char *log_quote(const char *text, size_t n, char *out, size_t cap);

/* Says why and ends the process: exit code as sysexits.h has them. What fatal_keep is (NULL: nothing) has the last word: it gives the
 * code to exit with, and may take its time (parent_keep). */
extern int (*fatal_keep)(int exit_code);
void fatal(int exit_code, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));

/* What must hold for memory safety stays checked in release builds: aborts with file and line. */
#define must(cond) ((cond) ? (void)0 : must_failed(#cond, __FILE__, __LINE__))
void must_failed(const char *cond, const char *file, int line) __attribute__((noreturn));

/* ----------------------------------------------------- arena.c (floor 2) */

/* All memory is one block. Every room has one function NAME_tables() that takes its tables from
 * the arena; it runs twice: once while the arena only adds up (pointers are NULL), once for real.
 * `puerta -t` is the first run with its rows printed. */
void arena_measure(void);
/* Obtains the block that the measured rows need, zeroed; false when the system has not so much. */
bool arena_obtain(bool prefault);
/* count entries of size bytes, cache-line aligned; NULL while measuring. table is a constant string. */
void *arena_take(const char *table, size_t count, size_t size);
size_t arena_bytes(void);
/* Row i of the report; false past the last. */
bool arena_row(int i, const char **table, size_t *count, size_t *size);
/* From here on no heap call is allowed (the no-heap test build aborts on one). */
void arena_seal(void);
extern int puerta_sealed;

/* -------------------------------------------------------- os.c (floor 2) */

/* Every #ifdef of a system lives in os.c. */

/* Keepalive probes and an upper bound for unacknowledged data (TCP_USER_TIMEOUT or the like). */
void os_keepalive(int fd, uint32_t idle_ms, uint32_t user_timeout_ms);
/* Raises the soft limit of descriptors towards want; gives what is in force. */
size_t os_descriptors(size_t want);
/* The kernel queue that stands for all cold descriptors: -1 where the system has none. Itself pollable. */
int os_cold_open(void);
bool os_cold_add(int queue, int fd, void *mark);
void os_cold_del(int queue, int fd);
/* Marks of up to cap readable (or dead) cold descriptors, without waiting. */
int os_cold_ready(int queue, void **marks, int cap);
/* open(2), readable by all if it is made, but not through a symbolic link (O_NOFOLLOW, which macOS hides from those who ask for POSIX alone). */
int os_open_no_link(const char *path, int flags);
#define HAND_FDS 2 /* descriptors in one message */
/* One message to another process, with so many descriptors; and the next one. */
ssize_t os_give(int fd, const void *bytes, size_t n, const int *fds, int count);
ssize_t os_get(int fd, void *bytes, size_t cap, int fds[HAND_FDS], int *count);
/* Sets FD_CLOEXEC and O_NONBLOCK. */
bool os_prepare_fd(int fd);
/* No program that this process could start gains privileges, where the system can see to that. */
void os_harden(void);
/* Asks the kernel to end this process when its parent dies, where it can (Linux). */
void os_die_with_parent(void);
/* Raises the limit of locked memory, where this process may, for a later os_prefault(). */
void os_lockable(size_t bytes);
void *os_map(size_t bytes);           /* zeroed pages; NULL when refused */
void *os_map_shared(size_t bytes);    /* the same, and they stay one block in the processes that are forked off */
bool os_prefault(void *block, size_t bytes); /* touches and locks them */
void os_random(void *out, size_t n);  /* n bytes that nobody can guess; before the seal */
bool os_terminal(int fd, unsigned *columns, unsigned *rows); /* how large that terminal is; false: the system does not tell */

/* ------------------------------------------------------- net.c (floor 2) */

struct address {
    socklen_t len; /* 0 = none */
    union {
        struct sockaddr sa;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } u;
    bool foreign; /* another machine has told of it (a PROXY header): a loopback address is that machine's own, not ours */
};

#define ADDRESS_TEXT 128

/* A numeric "1.2.3.4:80", "[::1]:80" or "unix:/path". false (and *why, a constant text) if it is none. */
bool address_parse(const char *text, struct address *out, const char **why);
/* Numeric host (IPv6 without brackets) and port; false for a name. */
bool address_numeric(const char *host, uint16_t port, struct address *out);
/* "1.2.3.4:80", "[::1]:80", "unix:/path"; gives out. */
const char *address_text(const struct address *a, char out[ADDRESS_TEXT]);
/* Of this machine: loopback, or a unix socket. */
bool address_near(const struct address *a);
/* Where a client comes from as one number: its IPv4 address, or its IPv6 network of 64 bits, since one machine has as
 * many addresses in it as it likes. False for a unix socket: there *source is 0. */
bool address_source(const struct address *a, uint64_t *source);
/* Splits "HOST:PORT" at the last colon ("[::1]:80" loses its brackets); false with *why when malformed. */
bool host_port_split(const char *text, size_t n, char host[HOST_CAP], uint16_t *port, const char **why);

/* The thin wrapper: every call on a socket goes through these, so that a test build (PUERTA_FAULTS)
 * can make the Nth fail. All give -1 with errno on error; EINTR is retried inside except for poll. */
struct net_sizes { int receive, send; }; /* SO_RCVBUF, SO_SNDBUF in bytes; 0 = the system's own */
int net_listen(const struct address *a, int backlog, const struct net_sizes *sizes);
int net_accept(int listener, struct address *peer, const struct net_sizes *sizes); /* nonblocking, NODELAY */
/* Begins a dial; 0 <= fd even while it is in progress: writable means done, net_dialed() says how it went. */
int net_dial(const struct address *a, const struct net_sizes *sizes);
int net_dialed(int fd); /* 0, or the errno of the dial */
ssize_t net_receive(int fd, struct iovec *iov, int count);
/* As net_receive into one buffer, but what it gives stays there to be received. */
ssize_t net_peek(int fd, void *out, size_t cap);
ssize_t net_send(int fd, struct iovec *iov, int count); /* never raises SIGPIPE */
void net_shutdown(int fd); /* no more output from us; the peer's input may still come */
void net_close(int fd);
/* A socket pair over which messages go as they were sent, and descriptors with them; false: this system has none of that kind. */
bool net_way(int ends[2]);
/* One message with `count` descriptors: all of it or nothing (-1, EAGAIN: later). */
ssize_t net_give(int fd, const void *bytes, size_t n, const int *fds, int count);
/* Waits until fd can be sent to (or, with `in`, has something to be read), limit_ms at most. False: neither. The one place where the
 * worker waits for anybody, so only for another worker. */
bool net_wait(int fd, bool in, int limit_ms);
/* The next message; 0: the other end is closed. What came with it stands in fds[0..*count), prepared as accepted ones are. */
ssize_t net_get(int fd, void *bytes, size_t cap, int fds[HAND_FDS], int *count);
/* The local address of a connected descriptor. */
bool net_local(int fd, struct address *out);
#define NET_PROXY_CAP 108 /* bytes, of version 1 with two IPv6 addresses, and a NUL */
/* A header of the PROXY protocol, version 1 or 2 (haproxy.org, proxy-protocol.txt): fd's peer is `from`, where it came is fd's own
 * address. NULL, or a unix socket: UNKNOWN or LOCAL, which names nobody. Gives its length. */
size_t net_proxy_header(int fd, const struct address *from, int version, unsigned char out[NET_PROXY_CAP]);

/* ------------------------------------------------------ loop.c (floor 2) */

/* One descriptor under watch. Lives inside its owner (a connection, a listener, a pipe).
 * Hot ones are in the poll array each turn; cold ones (not ready for a while) stand behind one kernel queue. */
struct watch {
    int fd;               /* -1 = not watched */
    int32_t slot;         /* index in the poll array; -1 while cold or unwatched */
    bool cold;
    bool may_cool;        /* set by the owner for descriptors that only wait for input */
    short events;         /* POLLIN | POLLOUT wanted */
    uint64_t active_ms;   /* when it was last ready */
    void (*on_ready)(struct watch *w, short revents);
};

/* A deadline. Lives inside its owner; zeroed = not armed. */
struct timer {
    struct timer *next, *prev;
    uint64_t due_ms;
    void (*on_due)(struct timer *t);
};

struct conf;
struct conf_service;

void loop_tables(const struct conf *conf);
void loop_open(void);
/* Watches fd; false when the poll array is full (it is sized for all that can be open at once). */
bool loop_watch(struct watch *w, int fd, short events, void (*on_ready)(struct watch *, short));
void loop_want(struct watch *w, short events);
void loop_unwatch(struct watch *w); /* before the descriptor is closed; safe during dispatch */
/* Arms or moves t to due_ms (absolute, of loop_ms()). Resolution 1 ms where poll has it, cost O(1). */
void loop_timer(struct timer *t, uint64_t due_ms);
void loop_timer_stop(struct timer *t);
uint64_t loop_ms(void);   /* monotonic, read once a turn */
uint64_t loop_us(void);   /* the same in microseconds */
extern uint32_t loop_stamp; /* the low 32 bits of that, but never 0 */
/* One turn's first half: polls at most until the next timer (0 if `busy`), reads what is ready, fires what is due. */
void loop_turn(bool busy);
/* Makes a turn begin at once: safe in a signal handler. */
void loop_wake(int signal_number);
/* The set of signals (bit n = signal n) that came since the last call. */
uint32_t loop_signals(void);
size_t loop_hot(void);    /* descriptors in the poll array */
size_t loop_cold(void);

/* ------------------------------------------------------- buf.c (floor 3) */

/* One piece of the pool. refs counts who still needs its bytes: slices, and the chain or pen it is in. */
struct chunk {
    struct chunk *next;
    uint32_t used;   /* bytes written */
    uint32_t refs;
    unsigned char data[];
};

/* Who asks decides how far down the pool may go, so that what frees chunks is never starved by what
 * takes them: requests stop at a quarter, the one that is helped to become whole at an eighth, replies never. */
enum buf_use { BUF_REQUEST, BUF_URGENT, BUF_REPLY };

void buf_tables(const struct conf *conf);
void buf_open(void);
size_t buf_chunk_size(void);          /* payload bytes of a chunk */
size_t buf_total(void);               /* payload bytes of all chunks */
size_t buf_free_chunks(void);
bool buf_may_take(enum buf_use use);
bool buf_may_take_many(enum buf_use use, size_t n);
struct chunk *chunk_take(enum buf_use use);  /* refs = 1; NULL when there is none for this use */
void chunk_release(struct chunk *k);         /* one reference less; at 0 it is free again */

/* A queue of bytes: written at the end, taken from the front. */
struct chain { struct chunk *head, *tail; uint32_t skip; size_t len; };

bool chain_put(struct chain *c, enum buf_use use, const void *bytes, size_t n); /* all or nothing */
void chain_drop(struct chain *c, size_t n);      /* n bytes from the front */
void chain_clear(struct chain *c);
int chain_gather(const struct chain *c, struct iovec *iov, int max);
/* Room to receive into: at least 1/8 of a chunk behind the chain's last byte. A short tail of a request is moved
 * to the new chunk, so that most requests lie in one piece. Gives the room, 0 when the pool has no chunk. */
size_t chain_room(struct chain *c, enum buf_use use, unsigned char **room);
void chain_commit(struct chain *c, size_t n);    /* n bytes were written into that room */
/* The contiguous bytes from offset off on; NULL with *n = 0 at the end. */
const unsigned char *chain_at(const struct chain *c, size_t off, size_t *n);
void chain_copy(const struct chain *c, void *out, size_t n); /* the first n bytes */

/* Bytes that outlive the buffer they came in: a run in one chunk, going on in chunk->next. Each chunk
 * of the run holds one reference for it. */
struct slice { struct chunk *chunk; uint32_t off; uint32_t len; };

/* Packs many small slices into few chunks. */
struct pen { struct chunk *chunk; };

bool pen_write(struct pen *p, enum buf_use use, const void *bytes, size_t n, struct slice *out); /* all or nothing */
/* Goes on with the pen's last slice, or begins it when s is empty. */
bool pen_more(struct pen *p, enum buf_use use, const void *bytes, size_t n, struct slice *s);
void pen_close(struct pen *p);
/* A slice in chunks of its own that grows piece by piece; begin with an empty one. */
bool slice_extend(struct slice *s, enum buf_use use, const void *bytes, size_t n);
/* The chain's first len bytes, without copying. */
void chain_slice(const struct chain *c, size_t len, struct slice *out);
void slice_let_go(struct slice *s);              /* one that is not empty */
static inline void slice_release(struct slice *s) /* any: most are empty where this is called, and cost no call */
{
    if (s->chunk != NULL) {
        slice_let_go(s);
    }
}
/* Lets n bytes at the front go. */
void slice_drop(struct slice *s, size_t n);
/* Copies len bytes from offset off of the slice. */
void slice_copy(const struct slice *s, size_t off, void *out, size_t len);
/* Next contiguous part of the slice from *at; gives its length, 0 at the end. */
size_t slice_part(const struct slice *s, size_t *at, const unsigned char **p);

/* Whether chunks became free since somebody was refused one; asking clears it. */
bool buf_relieved(void);

/* ------------------------------------------------------ conn.c (floor 3) */

enum conn_state {
    CONN_FREE,      /* in the free list */
    CONN_DIALING,
    CONN_OPEN,
    CONN_FINISHING, /* reads no more; closes when its output has gone */
    CONN_DEAD       /* closed in this turn: rests until the turn ends, since stale events may name it */
};

struct conn;

/* What is told of one client's connection: to /clients, PUERTA CLIENTS and the like. */
struct conn_facts {
    const char *section;        /* the name of its section */
    const char *name;           /* what it calls itself; the owner's, up to a NUL; NULL: nothing */
    const char *user;           /* as whom it has come in; NULL: nobody */
    const char *doing;          /* a constant: "idle", "waiting", "transaction", "blocked", "subscribed"... */
    uint32_t in_flight;         /* its requests whose answers are to come */
    uint64_t born_ms, asked_ms; /* since when it is there; its last request; of loop_ms() */
    const struct backend *backend; /* where it is, if it is at one; NULL: at none, or at several */
};

/* The one door upward. NULL entries are not called. */
struct conn_ops {
    const char *kind;                              /* for the log: "client", "upstream" */
    void (*on_open)(struct conn *c);               /* a dial succeeded */
    void (*on_bytes)(struct conn *c);              /* readable: the owner calls conn_receive */
    void (*on_room)(struct conn *c);               /* all its output has been sent */
    void (*on_close)(struct conn *c, const char *why); /* gone, for whatever reason but conn_close by its owner */
    void (*on_tick)(struct conn *c);               /* its deadline */
    bool (*waits)(struct conn *c);                 /* more output is to come at once: one send may do for all */
    int (*gather)(struct conn *c, struct iovec *iov, int max); /* output beyond c->out */
    void (*on_sent)(struct conn *c, size_t n);     /* n bytes of that output went out */
    void (*describe)(const struct conn *c, struct conn_facts *out); /* what is told of it; zeroed before */
    void (*on_let_go)(struct conn *c);             /* it was held by gate.c, and is not any more: it is read again */
};

/* How bytes go: plain sockets now, TLS later, memory in tests. */
struct transport {
    ssize_t (*receive)(struct conn *c, struct iovec *iov, int count); /* -1 + errno, 0 = end */
    ssize_t (*send)(struct conn *c, struct iovec *iov, int count);
    void (*close)(struct conn *c);
};
extern const struct transport transport_plain;

enum conn_kind { CONN_CLIENT, CONN_UPSTREAM, CONN_PROBE, CONN_ADMIN, CONN_KINDS };

struct conn {
    struct watch watch;         /* first: the loop's pointer is the connection's */
    struct timer timer;         /* the owner's deadline */
    struct timer stall;         /* armed while output does not go out */
    uint32_t stall_limit_ms;    /* 0 = wait for ever */
    const struct conn_ops *ops;
    const struct transport *transport;
    void *owner;                /* the room's record */
    struct conn *next;          /* free list or dead list */
    struct conn *dirty_next;
    int fd;
    struct chain out;
    uint64_t id;                /* never reused */
    uint64_t sent_ms;           /* when output last made progress, or began */
    uint32_t finish_ms;         /* FINISHING: how long it may make none */
    struct address peer;
    uint8_t state, kind;
    bool dirty;                 /* in the dirty list */
    bool reading;
    bool stilled;               /* it is not read now, whatever its owner wants: it is to go to another process */
    bool given;                 /* it may be that process's by now: nothing is done to it here that would be felt there */
    bool stays;                 /* hand.c: that process has refused it, and is not asked again for a while */
    bool blocked;               /* the last send did not take everything: wait for POLLOUT */
    bool midway;                /* its owner's output stopped in the middle of something: the rest comes before `out` */
    bool gated;                 /* what is received goes by gate.c: `fresh`, or it has a source */
    bool fresh;                 /* nothing has been received yet */
    bool held;                  /* gate.c: it is not read, since its source asks too much */
    bool granted, paid;         /* gate.c: it has waited for its next request; its request at hand has been counted */
    struct gate_source *source; /* whose limits hold for it; NULL: nobody's */
    struct conn *held_next, *held_prev;
};

/* What conn_receive gives besides a count of bytes. */
#define CONN_NOTHING 0          /* no bytes now */
#define CONN_ENDED (-1)         /* the peer sends no more; the connection is still open for answers */
#define CONN_FAILED (-2)        /* it is closed and on_close has been called */

struct listener {
    struct watch watch;
    struct timer pause;         /* no descriptors left: try again then */
    void *mark;
    void (*on_accept)(void *mark, int fd, const struct address *peer);
    struct net_sizes sizes;
    struct listener *next;      /* of all that listen */
};

void conn_tables(const struct conf *conf);
void conn_open_table(void);
void conn_limit(enum conn_kind kind, size_t most);       /* lowers how many of a kind there may be */
/* A fresh connection of that kind; NULL when its kind is full. */
struct conn *conn_take(enum conn_kind kind, const struct conn_ops *ops, void *owner);
bool conn_full(enum conn_kind kind);
bool conn_adopt(struct conn *c, int fd);                 /* an accepted descriptor: OPEN */
bool conn_dial(struct conn *c, const struct address *a, uint32_t timeout_ms, const struct net_sizes *sizes);
/* Up to cap bytes: how many, or one of CONN_NOTHING, CONN_ENDED, CONN_FAILED. */
ssize_t conn_receive(struct conn *c, void *buf, size_t cap);
void conn_read(struct conn *c, bool on);                 /* whether on_bytes is wanted */
void conn_hold(struct conn *c, bool held);               /* whether it is not read though on_bytes is wanted (gate.c) */
void conn_dirty(struct conn *c);                         /* has something to send this turn */
void conn_flush(void);                                   /* one send for each dirty connection */
bool conn_pending(void);                                 /* some were left for the next turn */
void conn_stall_limit(struct conn *c, uint32_t limit_ms); /* another one, also for what is waiting now */
void conn_finish(struct conn *c, uint32_t limit_ms);     /* close when all is sent, or when nothing goes for so long */
void conn_close(struct conn *c);                         /* at once, without on_close */
void conn_fail(struct conn *c, const char *why);         /* at once, with on_close */
void conn_deadline(struct conn *c, uint64_t due_ms);     /* on_tick then; 0 = none */
void conn_still(struct conn *c, bool on);                /* `stilled`; one whose peer has hung up is read to its end */
void conn_given(struct conn *c, bool on);                /* `given`; false: it is this process's after all */
void conn_reap(void);                                    /* the turn has ended: dead ones become free */
size_t conn_count(enum conn_kind kind);
size_t conn_most(enum conn_kind kind);                  /* how many there may be */
size_t conn_size(void);                                 /* of the table, as far as it was ever used */
/* Entry i of the table, while it is OPEN or FINISHING; else NULL. For those who tell what there is: nobody keeps it. */
struct conn *conn_at(size_t i);
void conn_listen(struct listener *l, int fd);
void conn_unlisten(struct listener *l);
void conn_accept(bool on);      /* whether any of them takes new connections in now: what has dialled waits in the kernel */
void conn_listen_no_more(void); /* none of them does any more, and their sockets are closed */

/* ------------------------------------------------------ gate.c (floor 3) */

/* Part of the addresses that there are. */
struct subnet {
    uint8_t family, bits;       /* AF_INET, AF_INET6, or AF_UNIX: all unix sockets */
    unsigned char bytes[16];
};
struct subnets { int count; struct subnet at[MAX_SUBNETS]; };

#define SUBNET_TEXT 64
/* "10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "unix"; gives what is wrong with it, or NULL. */
const char *subnet_parse(const char *text, struct subnet *out);
const char *subnet_text(const struct subnet *n, char out[SUBNET_TEXT]); /* gives out */
bool subnets_have(const struct subnets *list, const struct address *a); /* an IPv4 address may be written as IPv6 has it (::ffff:...) */

struct gate_source;
struct service;

void gate_tables(const struct conf *conf);
void gate_open(void);
/* Whether there are the tables of PROXY headers, and of limits by address: for good, if some section needed them as this worker began. */
bool gate_has_arrivals(void);
bool gate_has_sources(void);
void gate_conf(struct service *s); /* its limits are others: what is owed by the old ones is forgiven; who is there has them too */
bool gate_awaits(void); /* whether a connection is there whose PROXY header is not: so for 5 s at most */
/* The address of a section: who may come in is given to s->ops->on_client. */
void gate_listen(struct listener *l, struct service *s, int fd);

enum gate_verdict {
    GATE_GO,      /* it has been counted; asked again for the same request, it is not counted again until gate_done() */
    GATE_HELD,    /* on_let_go is called when it may be asked again */
    GATE_REFUSED  /* it is to be answered with an error (limit_action = error) */
};
/* For a connection with a source (c->source): whether its next request may go on. */
enum gate_verdict gate_ask(struct conn *c);
/* The request that was asked for is over. */
static inline void gate_done(struct conn *c)
{
    c->paid = false;
}
/* A request of such a connection goes on in any case: what comes behind it may be held. */
void gate_count(struct conn *c);
/* For conn.c: bytes of such a connection, in either direction. */
void gate_bytes(struct conn *c, size_t n);
/* For conn.c: bytes that a gated connection has received. False: it is closed, since they are a PROXY header. */
bool gate_received(struct conn *c, const void *bytes, size_t n);
/* For conn.c: it is not held any more, whatever its source asks; and: it has ended. */
void gate_let_go(struct conn *c);
void gate_left(struct conn *c);
/* It has come in elsewhere (an upgrade): it counts as any other. */
void gate_adopt(struct service *s, struct conn *c);

/* ---------------------------------------------------- health.c (floor 4) */

enum backend_state {
    BACKEND_FREE,     /* no entry */
    BACKEND_NEW,      /* known by name; nothing tried yet, or its name is being resolved */
    BACKEND_UP,
    BACKEND_SUSPECT,  /* connected, but requests in flight make no progress: nothing more is sent */
    BACKEND_DRAINING, /* MongoDB: it is shutting down, and serves those who are there */
    BACKEND_MISMATCH, /* MongoDB: it answers, but it is no mongos */
    BACKEND_DOWN
};

/* By hand: set by action.c, and kept until it is taken back. */
enum backend_hold {
    HELD_NOT,
    HELD_DRAIN, /* takes nothing new; serves those who are there */
    HELD_DOWN   /* serves nobody */
};

/* One node. Keeps its index in the table for life, whatever its address becomes. */
struct backend {
    struct upstream *shared[2]; /* the connections that all clients share: of those that speak RESP2, and RESP3 (NULL
                                   with resp3 = no); owned by redis_upstream.c */
    struct service *service;
    uint16_t port, index;
    uint8_t state;
    bool busy;                  /* with a script: it refuses; up to here: what each request looks at */
    char host[HOST_CAP];
    uint8_t hold;               /* enum backend_hold: what an operator wants of it, whatever its state */
    uint8_t held;               /* of that, what the rooms above have been told */
    bool seed, listed, resolving;
    bool removed;               /* a mongos that a reload found in the configuration no more: it is held... */
    bool dropped;               /* ... drained, and for that alone: till it is named again */
    uint8_t rises, fails;
    uint8_t address_count, address_at;
    struct address address[MAX_ADDRESSES];
    uint32_t slots;             /* how many it owns in the map in use */
    uint32_t gained;            /* service.gains when it last gained some */
    uint32_t backoff_ms;
    uint64_t troubled_ms;       /* when it was last found wanting */
    uint64_t state_ms;          /* since when it has been in its state */
    uint64_t unlisted_ms;       /* since when no map names it */
    uint64_t resolved_ms;
    struct conn *probe;
    uint8_t question;           /* what the probe has asked: an enum of its talk; 0: nothing */
    bool doubt;                 /* that question was on its way when the node was seen not to be busy any more */
    uint64_t asked_ms;
    uint64_t heard_ms;          /* when it was asked what it has answered last */
    struct resp_reply reply;
    unsigned char head[128];    /* how its answer begins */
    uint8_t head_len;
    char busy_says[128];        /* its words then: an error line without CRLF */
    struct timer timer;
};

/* What is asked on a server's probe, and what the answer means: one for each protocol. */
struct probe_talk {
    void (*on_open)(struct backend *b);    /* its probe is connected: the first question */
    void (*on_bytes)(struct backend *b);   /* readable: the talk calls conn_receive */
    void (*on_due)(struct backend *b);     /* asked nothing now, and the time has come */
    void (*on_lost)(struct backend *b);    /* its probe is gone, and what it was asked */
    void (*on_trouble)(struct backend *b); /* something is wrong with it */
};

/* What is told of one server beside what stands in its entry. */
struct backend_facts {
    uint32_t connections;       /* open ones, but for those that ask how it is */
    uint32_t in_flight;         /* requests sent there whose answers are to come */
    uint32_t clients;           /* MongoDB: client connections that are there, or have a connection lent */
    uint32_t idle, waiting;     /* pooled: connections that nobody has; requests that wait for one */
    uint32_t pool_max;          /* pooled; 0: no pool */
    uint32_t weight;            /* MongoDB */
    bool ejected;               /* MongoDB: left out for a while */
};

/* What the rooms above want to know. */
struct service_ops {
    const struct probe_talk *talk;
    void (*on_map)(struct service *s);                    /* some slots changed their owner */
    void (*on_backend)(struct backend *b);                /* its state changed; FREE: it is to be let go */
    void (*on_hold)(struct backend *b);                   /* an operator holds it, or does no longer */
    bool (*in_use)(const struct backend *b);              /* requests still hang on it */
    void (*on_conf)(struct service *s, const struct conf_service *before); /* its configuration has changed (reload.c) */
    void (*describe)(const struct backend *b, struct backend_facts *out); /* what is told of it; zeroed before */
    /* A client has come that may come in: the connection that it has got, or NULL: there is no room, and fd has been closed. */
    struct conn *(*on_client)(struct service *s, int fd, const struct address *peer);
    const char *crowded;                                  /* what is sent to one connection too many of an address; NULL: nothing */
};

/* One section at work: the map of its slots and how it is kept true. */
struct service {
    const struct conf_service *conf;
    const struct service_ops *ops;
    struct slotmap map;
    struct slotmap_stage stage;
    struct slotmap_node *stage_nodes;
    struct backend *asked;      /* who is being asked for the map */
    uint32_t busy;              /* nodes that are busy with a script */
    uint32_t clients;           /* client connections that are here */
    uint16_t ask_at;            /* rotation over the backends */
    bool refresh_wanted;
    struct backend *primary;    /* where what is published comes from: redis_feed.c */
    uint16_t primary_slot;      /* one of its slots */
    uint64_t switched_ms;       /* when it became that in the place of another; 0 = not lately */
    bool switching;             /* that one has not been asked for all channels yet: nothing is published */
    bool misplaced;             /* subscriptions may stand at the wrong nodes */
    char trouble[SLOTMAP_ERROR_CAP]; /* why there is no map, for the client's error */
    uint32_t gains;             /* how often nodes gained slots */
    uint64_t refreshed_ms, ask_began_ms, trouble_ms;
    uint64_t told_ms;           /* when the map in use was asked for */
    bool hurry;                 /* the next question does not wait for its time */
    uint32_t ask_took_ms, misses;
    struct timer timer;
    uint64_t pause_until_ms;    /* CLIENT PAUSE: its clients' requests wait until then; 0 = no pause */
    bool pause_all;             /* those that only read too */
    struct timer pause_timer;
    struct listener listeners[MAX_LISTENS];
};

void health_tables(const struct conf *conf);
void health_open(struct service *s, const struct conf_service *conf, const struct service_ops *ops);
/* The entry of a node, made if need be; NULL when max_backends are in use. An empty host is `near`'s own. */
struct backend *backend_get(struct service *s, const char *host, uint16_t port, const struct backend *near);
struct backend *backend_at(uint16_t index);               /* NULL when there is none */
/* The entry of a node that a map or the configuration names; NULL when there is none. */
struct backend *backend_named(const struct service *s, const char *host, uint16_t port, const struct backend *near);
uint16_t backend_cap(void);
const char *backend_name(const struct backend *b, char out[HOST_CAP + 8]); /* "host:port" */
const char *backend_state_name(unsigned state);           /* of enum backend_state: "up", "down"...: a constant */
const char *backend_hold_name(unsigned hold);             /* of enum backend_hold: "none", "drain", "down" */
/* Whether something new may go there: it is up, and nobody holds it. */
static inline bool backend_takes_new(const struct backend *b)
{
    return b->state == BACKEND_UP && b->hold == HELD_NOT;
}
/* Whether it serves nobody: it is down, or an operator says so. */
static inline bool backend_is_down(const struct backend *b)
{
    return b->state == BACKEND_DOWN || b->hold == HELD_DOWN;
}
/* An operator's word, kept as long as the process lives, and told to the next one in an upgrade; its state goes on below it. The rooms above are told (on_hold) in the next
 * turn: who says it may be in the middle of a request. */
void backend_hold(struct backend *b, enum backend_hold hold);
/* Section i of those that are at work, in the order of the file within each mode; NULL past the last. */
struct service *service_at(int i);
/* Its present address, or NULL while none is known. */
const struct address *backend_address(const struct backend *b);
/* Puts one question on b's open probe, which answers one at a time; `what` is not 0. False: no chunk, its time comes again soon. */
bool health_ask(struct backend *b, uint8_t what, const void *bytes, size_t n);
void health_answered(struct backend *b);                  /* as it should: counts for `rise` */
void health_failed(struct backend *b, uint32_t weight);   /* counts so much for `fall` */
void health_state(struct backend *b, enum backend_state to); /* it says so itself */
void health_look(struct backend *b);                      /* its probe does not wait for its time */
/* The section's configuration has changed: who is named in it no more goes, who is new comes, and all are looked at at once. anew: what is
 * said first on a probe has changed too. */
void health_conf(struct service *s, bool anew);
void health_lost(struct backend *b);                      /* a connection that had worked was lost */
void health_refused(struct backend *b);                   /* it could not be dialled, or did not let us in */
void health_suspect(struct backend *b);                   /* requests in flight make no progress */
void health_alive(struct backend *b);                     /* it answered a request */

/* --------------------------------------------------- guesses.c (floor 4) */

uint32_t guesses_of(const struct address *peer, uint64_t now_ms); /* wrong ones from there of late */
void guesses_add(const struct address *peer, uint64_t now_ms);    /* one more; now_ms is loop_ms() */
uint32_t guesses_wait_ms(uint32_t wrong);  /* how long a guess behind so many wrong ones is not looked at */
bool guesses_near(const struct address *a); /* of this machine, as address_near() has it */
/* Whether one that comes from there may not come in without a password (`protected`); counts it, and logs why (a constant text). */
bool guesses_bar(const struct conf_service *conf, const struct address *peer, const char *why);

/* ------------------------------------------------------ conf.c (floor 5) */

struct host_port { char host[HOST_CAP]; uint16_t port; }; /* port 0: a unix path in host */

enum service_kind { SERVICE_REDIS, SERVICE_MONGO };
enum mongo_mode { MONGO_PASSTHROUGH, MONGO_LOADBALANCED, MONGO_POOLED };
enum mongo_affinity { AFFINITY_FINGERPRINT, AFFINITY_SOURCE, AFFINITY_CONNECTION };
enum mongo_balance { BALANCE_LEAST, BALANCE_ROUND_ROBIN, BALANCE_RANDOM_TWO, BALANCE_WEIGHTED };

/* One `user = NAME KEYS` line. */
struct conf_user { char name[SCRAM_NAME_MAX + 1]; struct scram_keys keys; };

/* One [redis NAME] or [mongo NAME] section. */
struct conf_service {
    enum service_kind kind;
    char name[NAME_CAP];
    struct address listen[MAX_LISTENS];
    int listens;
    struct host_port nodes[MAX_SEEDS];   /* of a Redis Cluster, or the mongos */
    uint8_t weights[MAX_SEEDS];          /* of the mongos */
    int node_count;
    uint32_t dial_timeout_ms, client_stall_ms, client_idle_ms, probe_interval_ms, probe_timeout_ms;
    uint32_t rise, fall;
    int receive_buffer, send_buffer;     /* SO_RCVBUF, SO_SNDBUF; 0 = the system's */
    size_t client_window;
    char upstream_user[SECRET_CAP], upstream_password[SECRET_CAP];
    /* Who may come in, and how fast */
    int accept_proxy;                    /* yes: who is trusted sends a PROXY header */
    struct subnets trusted, allow, deny;
    uint32_t max_per_address, request_rate; /* connections; requests a second; 0 = any number */
    size_t byte_rate, request_limit;     /* bytes a second, of one request; 0 = any number */
    int limit_error;                     /* limit_action: 0 = delay, 1 = error */
    char socket_mode[5];                 /* of unix sockets that are listened on, in octal; "" = by the umask */
    /* Redis */
    int single;                          /* topology: 0 = cluster, 1 = single */
    char announce[HOST_CAP + 8];         /* "HOST:PORT"; "" = the address that a client came by */
    char redis_version[16];              /* that clients are told */
    char password[SECRET_CAP];           /* of clients; "" = they need none */
    int protect, allow_admin, client_logins; /* yes / no */
    size_t retain_bytes, shared_reply_limit, merge_limit;
    uint32_t client_pipeline;
    uint32_t request_timeout_ms, failover_wait_ms;
    size_t transaction_limit;
    uint32_t refresh_interval_ms, suspect_after_ms, lease_wait_ms;
    uint32_t failover_queue;
    int unknown_commands;                /* 0 = refuse, 1 = route by the first key */
    /* MongoDB */
    enum mongo_mode mode;
    enum mongo_affinity affinity;
    enum mongo_balance balance;
    int expect_any;                      /* what is behind need not say that it is a mongos */
    int upstream_proxy;                  /* dial with a PROXY header of that version; 0: without */
    int deep_probe;                      /* listDatabases behind each hello */
    uint32_t affinity_grace_ms, handshake_timeout_ms, slow_start_ms, drain_timeout_ms, eject_time_ms;
    uint32_t eject_after;
    char upstream_auth_db[DATABASE_CAP]; /* where upstream_user is kept */
    char upstream_key[KEYFILE_CAP];      /* of a keyfile; "" = upstream_password it is */
    struct conf_user users[MAX_USERS];   /* as whom clients may log in; pooled alone */
    int user_count;
    uint32_t pool_min, pool_max, pool_dials, pool_queue; /* MONGO_POOLED */
    uint32_t pool_idle_ms, pool_life_ms, pool_wait_ms;
};

/* One `command = ...` line: what command_declare() is called with. */
struct conf_command { char name[COMMAND_NAME_CAP]; enum command_keys keys; uint32_t flags; };

struct conf {
    size_t chunk_size, chunks, upstream_buffer;
    size_t script_cache;
    uint32_t max_clients, max_backends, max_requests, max_split_keys;
    uint32_t max_leases, max_blocked, max_watching, max_own;
    uint32_t max_channels, max_subscriptions, max_messages, max_affinities;
    size_t channel_names;
    uint32_t slow_log_min_ms;            /* 0 = nothing is slow */
    uint32_t slow_log, hot_keys;         /* entries */
    struct address admin[MAX_LISTENS];   /* where operators ask: HTTP */
    int admins;                          /* how many of those */
    uint32_t admin_clients;
    char admin_token[SECRET_CAP];        /* "" = none: who is near may look, nobody may change anything */
    char admin_hosts[512];               /* names by which it may be asked, besides localhost and numbers */
    int log_level;
    int prefault, supervise, resp3;      /* yes / no */
    int syslog, seccomp;                 /* syslog: 0 = no, 1 = daemon, 2... = local0...; yes / no */
    uint32_t backlog, stop_timeout_ms, drain_timeout_ms;
    uint32_t ready_fd;                   /* 0 = none */
    char user[NAME_CAP], group[NAME_CAP]; /* who the processes become; "" = who they are */
    char chroot[PATH_CAP], pid_file[PATH_CAP];
    struct conf_command commands[COMMAND_DECLARED_MAX];
    int command_count;
    struct conf_service services[MAX_SERVICES];
    int service_count;
};

/* Reads the file; on an error says `FILE:LINE: what is wrong; what would be right` on stderr and gives false. */
bool conf_read(struct conf *conf, const char *path);
/* puerta redis|mongo NODES [key=value ...]: the same options from the command line. argv[0] is the list of servers. */
bool conf_quick(struct conf *conf, enum service_kind kind, int argc, char **argv);
/* complain.c: from now on messages of conf_read() are added to text, up to cap bytes, and not written to stderr. NULL: they are again. */
void conf_complaints(char *text, size_t cap);
/* conf_report.c: options in force, then memory tables (call after the measuring run): the report of -t, on stdout. */
void conf_report(const struct conf *conf);
/* option.c: tells of the options, on stdout: of "options", all; of a section ("puerta", "redis", "mongo") or an option, itself. Else says on stderr
 * that nothing is called so, and gives false. */
bool conf_help(const char *what);
/* -------------------------------- the configuration: what follows from it */

/* How many sections of that kind there are. */
static inline int conf_services(const struct conf *conf, enum service_kind kind)
{
    int n = 0;
    for (int i = 0; i < conf->service_count; i++) {
        n += conf->services[i].kind == kind;
    }
    return n;
}

/* The mode of the MongoDB section of that number. */
static inline enum mongo_mode conf_mongo_mode(const struct conf *conf, int number)
{
    int i = 0;
    for (; i < conf->service_count && (conf->services[i].kind != SERVICE_MONGO || number-- > 0); i++) {
    }
    return i < conf->service_count ? conf->services[i].mode : MONGO_PASSTHROUGH;
}

/* Whether some MongoDB section is in pooled mode, or some is not. */
static inline bool conf_mongo(const struct conf *conf, bool pooled)
{
    bool some = false;
    for (int i = 0; i < conf_services(conf, SERVICE_MONGO); i++) {
        some = some || (conf_mongo_mode(conf, i) == MONGO_POOLED) == pooled;
    }
    return some;
}

/* How many connections all pools may have together. */
static inline size_t conf_pooled(const struct conf *conf)
{
    size_t n = 0;
    for (int i = 0; i < conf->service_count; i++) {
        const struct conf_service *s = &conf->services[i];
        n += s->kind == SERVICE_MONGO && s->mode == MONGO_POOLED ? (size_t)s->pool_max * (size_t)s->node_count : 0;
    }
    return n;
}

/* Connections that are lent to one client at a time, of all kinds. */
static inline size_t conf_leases(const struct conf *conf)
{
    return (size_t)conf->max_leases + conf->max_blocked + conf->max_watching + conf->max_own;
}

/* Connections to servers, the probes apart: of MongoDB one for each client, or those of the pools. */
static inline size_t conf_upstreams(const struct conf *conf)
{
    size_t each = conf->resp3 ? 3 : 2; /* to a node of Redis: the shared ones, and that of subscriptions */
    return each * conf->max_backends + conf_leases(conf) + (conf_mongo(conf, false) ? conf->max_clients : 0) + conf_pooled(conf);
}

/* Connections that ask how servers are: each mongos is asked on two. */
static inline size_t conf_probes(const struct conf *conf)
{
    return (conf_services(conf, SERVICE_MONGO) > 0 ? 2u : 1u) * conf->max_backends;
}

/* Connections of operators, and as many as may give way to others in one turn: their entries are free when it is over. */
static inline size_t conf_admins(const struct conf *conf)
{
    return conf->admins > 0 ? (size_t)conf->admin_clients + ACCEPTS_PER_TURN : 0;
}

/* Connections of clients whose PROXY header is still awaited. */
static inline size_t conf_arrivals(const struct conf *conf)
{
    bool some = false;
    for (int i = 0; i < conf->service_count; i++) {
        some = some || conf->services[i].accept_proxy;
    }
    return !some ? 0 : conf->max_clients < 256 ? conf->max_clients : 256;
}

/* Whether some section has a limit that is kept by address. */
static inline bool conf_limits(const struct conf *conf)
{
    bool some = false;
    for (int i = 0; i < conf->service_count; i++) {
        const struct conf_service *s = &conf->services[i];
        some = some || s->max_per_address > 0 || s->request_rate > 0 || s->byte_rate > 0;
    }
    return some;
}

/* conf_report.c: how many descriptors the tables need when all are full. */
size_t conf_descriptors(const struct conf *conf);

#endif
