/*
 * os_guard.c - what a process gives up once it has what it needs: its user, its files, its system calls.
 *
 *     root: listen, read secrets, open the logs --guard_drop()--> user of the configuration, inside chroot
 *                                                      |
 *                            .-------------------------+--------------------------.
 *                     guard_parent()                                       guard_worker()
 *     OpenBSD: unveil to read, pledge to fork and resolve     pledge to serve; Linux: seccomp = yes, no_new_privs
 *
 * Owns nothing. Beside os.c the one room that sees systems whole. All of it runs before the seal, and nothing of it can be
 * taken back, so whatever fails ends the process: with more rights than it was told to have it must not serve.
 */

/* The other rooms see POSIX only; see os.c. */
#undef _POSIX_C_SOURCE
#define _GNU_SOURCE 1
#define _DARWIN_C_SOURCE 1
#define _NETBSD_SOURCE 1

#include "parent.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#if defined(__linux__)
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

/* ------------------------------------------------------- user and folder */

/* The number that a text is; -1 if it is none. */
static long number_of(const char *text)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    return *text >= '0' && *text <= '9' && *end == '\0' && n < INT32_MAX ? (long)n : -1;
}

#if defined(__APPLE__)
typedef int base_group; /* what initgroups() takes there */
#else
typedef gid_t base_group;
#endif

struct identity { uid_t uid; gid_t gid; const char *name; }; /* name: for initgroups; NULL: it has none */

/* Looked up before chroot, behind which there may be no list of users. A number needs no entry, but then a group. Gives what is wrong,
 * or NULL. */
static const char *identity_of(const struct conf *conf, struct identity *id)
{
    long number = number_of(conf->user), group = number_of(conf->group);
    const struct passwd *p = number < 0 ? getpwnam(conf->user) : getpwuid((uid_t)number);
    const struct group *g;

    if (p == NULL && (number < 0 || conf->group[0] == '\0'))
        return number < 0 ? "no such user" : "the user has no entry, so it needs a group = too";
    id->uid = p != NULL ? p->pw_uid : (uid_t)number;
    id->gid = p != NULL ? p->pw_gid : 0;
    id->name = p != NULL ? p->pw_name : NULL;
    if (conf->group[0] == '\0')
        return NULL;
    g = group < 0 ? getgrnam(conf->group) : NULL;
    if (group < 0 && g == NULL)
        return "no such group";
    id->gid = group < 0 ? g->gr_gid : (gid_t)group;
    return NULL;
}

const char *guard_doubt(const struct conf *conf)
{
    struct identity id;

    return conf->user[0] != '\0' ? identity_of(conf, &id) : NULL;
}

/* With a group of its own choice the user's other groups are not taken over either: they would be rights that the file does not name. */
static void become(const struct conf *conf, const struct identity *id)
{
    bool all = id->name != NULL && conf->group[0] == '\0';

    if ((all ? initgroups(id->name, (base_group)id->gid) : setgroups(1, &id->gid)) < 0 || setgid(id->gid) < 0 || setuid(id->uid) < 0)
        fatal(EX_NOPERM, "user = %s: cannot become it: %s; start as root, or as that user", conf->user, strerror(errno));
    must(getuid() == id->uid && geteuid() == id->uid && getgid() == id->gid && getegid() == id->gid);
    must(id->uid == 0 || setuid(0) < 0); /* no way back */
}

/* Names are looked up by the parent, inside the folder: libc wants its files there. */
static void warn_names(const struct conf *conf)
{
    struct address a;
    bool hosts = access("/etc/hosts", R_OK) == 0 || access("/etc/resolv.conf", R_OK) == 0;

    for (int s = 0; s < conf->service_count && !hosts; s++) {
        for (int i = 0; i < conf->services[s].node_count; i++) {
            const struct host_port *n = &conf->services[s].nodes[i];
            if (n->port != 0 && !address_numeric(n->host, n->port, &a)) {
                log_warn("names cannot be resolved inside chroot", "name=\"%s\" needs=\"etc/resolv.conf, etc/hosts\"", n->host);
                return;
            }
        }
    }
}

void guard_drop(const struct conf *conf, bool upgraded)
{
    struct identity id = { 0, 0, NULL };
    bool named = conf->user[0] != '\0';
    const char *wrong;

    if (upgraded && geteuid() != 0)
        return; /* the program before this one has done it, and it cannot be done again */
    if (named && (wrong = identity_of(conf, &id)) != NULL)
        fatal(EX_NOUSER, "user = %s%s%s: %s", conf->user, conf->group[0] != '\0' ? ", group = " : "", conf->group, wrong);
    if (conf->chroot[0] != '\0') {
        if (chroot(conf->chroot) < 0 || chdir("/") < 0)
            fatal(EX_NOPERM, "chroot = %s: %s", conf->chroot, strerror(errno));
        warn_names(conf);
    }
    /* Who is that user already has nothing to become, and may not be allowed to try: systemd's User=. */
    if (named && (geteuid() == 0 || geteuid() != id.uid || getegid() != id.gid))
        become(conf, &id);
    if (geteuid() == 0)
        log_warn("running as root", "effect=\"whoever breaks in has the whole machine\" cure=\"set user\"");
}

/* ------------------------------------------------------------ system calls */

#if defined(__linux__)

#if defined(__x86_64__)
#define OS_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && !defined(__AARCH64EB__)
#define OS_ARCH AUDIT_ARCH_AARCH64
#elif defined(__arm__) && !defined(__ARMEB__)
#define OS_ARCH AUDIT_ARCH_ARM
#elif defined(__i386__)
#define OS_ARCH AUDIT_ARCH_I386
#elif defined(__riscv) && __riscv_xlen == 64
#define OS_ARCH AUDIT_ARCH_RISCV64
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
#define OS_ARCH AUDIT_ARCH_PPC64LE
#elif defined(__s390x__)
#define OS_ARCH AUDIT_ARCH_S390X
#endif

#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS SECCOMP_RET_KILL /* one thread is the process */
#endif

#if defined(OS_ARCH)

/* What the worker calls once it serves, by glibc or musl, on old kernels too. Nothing that opens a file, maps memory, forks or
 * executes. Those between #ifdefs are not on every machine: newer ones have only the second form of them. */
static const unsigned allowed[] = {
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_close, SYS_fcntl, SYS_ppoll, SYS_nanosleep,
    SYS_epoll_ctl, SYS_epoll_pwait,
    SYS_socket, SYS_connect, SYS_accept4, SYS_getsockname, SYS_getpeername, SYS_getsockopt, SYS_setsockopt, SYS_shutdown,
    SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg,
    SYS_times, SYS_getrusage, SYS_uname, SYS_getrandom, SYS_getpid,
    SYS_gettid, SYS_tgkill, SYS_kill, /* abort() */
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_restart_syscall, SYS_futex, SYS_exit, SYS_exit_group,
    SYS_ftruncate, SYS_unlinkat, /* the pid file, by a worker without a parent */
#ifdef SYS_clock_gettime
    SYS_clock_gettime, SYS_clock_nanosleep, SYS_gettimeofday,
#endif
#ifdef SYS_clock_gettime32 /* musl's names for them where they cannot tell the year 2038 */
    SYS_clock_gettime32, SYS_clock_nanosleep_time32, SYS_gettimeofday_time32,
#endif
#ifdef SYS_unlink
    SYS_unlink,
#endif
#ifdef SYS_poll
    SYS_poll,
#endif
#ifdef SYS_epoll_wait
    SYS_epoll_wait,
#endif
#ifdef SYS_accept
    SYS_accept,
#endif
#ifdef SYS_time
    SYS_time,
#endif
#ifdef SYS_sigreturn
    SYS_sigreturn,
#endif
#ifdef SYS_socketcall
    SYS_socketcall,
#endif
#ifdef SYS_fcntl64
    SYS_fcntl64,
#endif
#ifdef SYS_ftruncate64
    SYS_ftruncate64,
#endif
#ifdef SYS_send
    SYS_send,
#endif
#ifdef SYS_recv
    SYS_recv,
#endif
#ifdef SYS_clock_gettime64
    SYS_clock_gettime64, SYS_clock_nanosleep_time64, SYS_ppoll_time64, SYS_futex_time64,
#endif
};
#define ALLOWED (sizeof allowed / sizeof *allowed)

static void filter_calls(void)
{
    struct sock_filter code[5 + 2 * ALLOWED];
    struct sock_fprog program = { 0, code };
    size_t n = 0;

    /* Numbers mean something on one machine alone: what comes by another one's door is refused first. */
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OS_ARCH, 1, 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < ALLOWED; i++) {
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    program.len = (unsigned short)n;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0)
        fatal(EX_OSERR, "seccomp = yes: %s", strerror(errno));
}

#endif
#endif

#if !defined(OS_ARCH)

static void filter_calls(void)
{
    fatal(EX_CONFIG, "seccomp = yes: only Linux has it, and not on every machine");
}

#endif

#if defined(__OpenBSD__)

static void promise(const char *promises)
{
    if (pledge(promises, NULL) < 0)
        fatal(EX_OSERR, "pledge: %s", strerror(errno));
}

static void reveal(const char *path, const char *permissions)
{
    if (unveil(path, permissions) < 0 && errno != ENOENT)
        fatal(EX_OSERR, "unveil %s: %s", path != NULL ? path : "", strerror(errno));
}

/* It reads the configuration again, with the secrets that this names, wherever they are; executes a newer puerta; removes the pid
 * file; and its children resolve names, and become workers, which narrow it down. */
void guard_parent(const struct conf *conf)
{
    if (conf->prefault)
        return; /* a worker that locks its memory may not have promised anything before */
    reveal("/", "rx");
    reveal("/dev/log", "rw");
    if (conf->pid_file[0] != '\0')
        reveal(conf->pid_file, "rwc");
    promise("stdio rpath wpath cpath inet unix dns proc exec id sendfd recvfd unveil");
}

/* It dials servers, those on unix sockets too, and opens nothing. Without a parent it removes the pid file itself. */
void guard_worker(const struct conf *conf)
{
    os_harden();
    for (int s = 0; s < conf->service_count; s++)
        for (int i = 0; i < conf->services[s].node_count; i++)
            if (conf->services[s].nodes[i].port == 0)
                reveal(conf->services[s].nodes[i].host, "rw");
    reveal("/dev/log", "rw");
    if (!conf->supervise && conf->pid_file[0] != '\0')
        reveal(conf->pid_file, "c");
    reveal(NULL, NULL);
    promise(!conf->supervise && conf->pid_file[0] != '\0' ? "stdio inet unix sendfd recvfd cpath" : "stdio inet unix sendfd recvfd");
    if (conf->seccomp)
        filter_calls();
}

#else

void guard_parent(const struct conf *conf)
{
    (void)conf;
}

void guard_worker(const struct conf *conf)
{
    os_harden();
    if (conf->seccomp)
        filter_calls();
}

#endif
