/*
 * test_guard.c - os_guard.c and manager.c where a test of the whole program does not reach: a filtered process may do what the worker
 * does and dies of anything else; words that the loop says seldom; a pid file that survives an exec.
 *
 *     this program --fork--> child: guard_worker(), then one call --waitpid--> how it ended
 *                  --fork--> child: manager_hand_over(), exec of this program with an argument
 */
#include "parent.h"
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

static struct conf conf;
static int pair[2];

/* ---------------------------------------------------------- system calls */

#if defined(__linux__) && !defined(SANITIZED)

static void allowed(void)
{
    struct timespec nap = { 0, 1000 };
    char bytes[32];
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0 || write(pair[0], "x", 1) != 1 || read(pair[1], bytes, 1) != 1 || nanosleep(&nap, NULL) < 0 || close(s) < 0)
        _exit(3);
    os_random(bytes, sizeof bytes);
    log_write(NULL, LOG_DEBUG, "a line of the filtered process", "%s", "");
    exit(0); /* with all that libc does at the end */
}

static void opens(void)
{
    (void)open("/dev/null", O_RDONLY);
}

static void removes(void)
{
    (void)rename("/no/such/file", "/no/other");
}

static void maps(void)
{
    (void)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, pair[0], 0);
}

static void forks(void)
{
    (void)fork();
}

static void executes(void)
{
    char *argv[] = { "true", NULL };
    execv("/bin/true", argv);
}

static void binds(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET };
    (void)bind(pair[0], (struct sockaddr *)&a, sizeof a);
}

static void aborts(void)
{
    must(pair[0] < 0);
}

/* How a filtered child that does this ends: its exit code, or minus the signal. */
static int filtered(void (*what)(void), bool filter)
{
    int status;
    pid_t pid;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        (void)freopen("/dev/null", "w", stderr);
        conf.seccomp = filter;
        guard_worker(&conf);
        what();
        _exit(4);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1000;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void test_filter(void)
{
    void (*const refused[])(void) = { opens, removes, maps, forks, executes, binds };
    unit_note = "what the worker does";
    CHECK(filtered(allowed, true) == 0);
    CHECK(filtered(aborts, true) == -SIGABRT);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        unit_note = "what it does not do";
        CHECK(filtered(refused[i], true) == -SIGSYS);
        unit_note = "the same without a filter";
        CHECK(filtered(refused[i], false) >= 0);
    }
}

#else

static void test_filter(void)
{
}

#endif

/* -------------------------------------------------------------- the words */

/* What the manager hears next: the text, or "" when nothing is there. */
static const char *hears(int fd)
{
    static char text[512];
    ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static void test_words(void)
{
    char path[] = "/tmp/puerta-unit-XXXXXX", name[64], want[128], longer[600];
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct timespec before, after;
    unsigned long long usec = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (!CHECK(mkdtemp(path) != NULL))
        return;
    snprintf(name, sizeof name, "%s/notify", path);
    memcpy(a.sun_path, name, strlen(name) + 1);
    CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
    setenv("NOTIFY_SOCKET", name, 1);
    setenv("WATCHDOG_USEC", "30000000", 1);
    unsetenv("WATCHDOG_PID");
    memset(&conf, 0, sizeof conf);
    manager_open(&conf, false);
    CHECK(manager_watchdog_ms() == 10000);

    unit_note = "a reload is told with the clock that systemd compares it with";
    clock_gettime(CLOCK_MONOTONIC, &before);
    manager_say(MANAGER_RELOADING);
    clock_gettime(CLOCK_MONOTONIC, &after);
    CHECK(sscanf(hears(fd), "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=", &usec) == 1);
    CHECK(usec >= (unsigned long long)before.tv_sec * 1000000 + (unsigned long long)before.tv_nsec / 1000);
    CHECK(usec <= (unsigned long long)after.tv_sec * 1000000 + (unsigned long long)after.tv_nsec / 1000);
    manager_say(MANAGER_READY);
    snprintf(want, sizeof want, "READY=1\nMAINPID=%ld\nSTATUS=serving", (long)getpid());
    CHECK(strcmp(hears(fd), want) == 0);

    unit_note = "words";
    manager_say(MANAGER_ALIVE);
    CHECK(strcmp(hears(fd), "WATCHDOG=1") == 0);
    manager_say(MANAGER_STOPPING);
    CHECK(strncmp(hears(fd), "STOPPING=1\n", 11) == 0);
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    manager_status(longer);
    CHECK(strlen(hears(fd)) == strlen("STATUS=") + 200);

    unit_note = "a manager that does not read, and one that has gone";
    for (int i = 0; i < 1000; i++)
        manager_say(MANAGER_ALIVE);
    close(fd);
    manager_say(MANAGER_ALIVE);
    manager_leave();
    manager_say(MANAGER_ALIVE);
    CHECK(unlink(name) == 0 && rmdir(path) == 0);
    unsetenv("NOTIFY_SOCKET");
}

/* ---------------------------------------------------- the file and an exec */

static char file[64];

static bool file_says(long pid)
{
    char text[32] = "", want[32];
    FILE *f = fopen(file, "r");
    if (f == NULL)
        return false;
    snprintf(want, sizeof want, "%ld\n", pid);
    bool same = fgets(text, sizeof text, f) != NULL && strcmp(text, want) == 0;
    fclose(f);
    return same;
}

/* Whether the file names this process and no other may take it. Another one looks: whoever closes a file loses its lock. */
static bool is_ours(void)
{
    long us = (long)getpid();
    int status;
    pid_t pid;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        (void)freopen("/dev/null", "w", stderr);
        manager_leave();
        if (file_says(us))
            manager_open(&conf, false); /* which ends the process */
        _exit(0);
    }
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 75; /* EX_TEMPFAIL */
}

/* The new program: the same process, with the same file, though it could not open it. */
static int after_exec(void)
{
    snprintf(conf.pid_file, sizeof conf.pid_file, "%s", getenv("UNIT_FILE"));
    memcpy(file, conf.pid_file, strlen(conf.pid_file) + 1);
    if (chmod(file, 0) < 0 || getenv("PUERTA_PID_FD") == NULL)
        return 10;
    manager_open(&conf, true);
    if (getenv("PUERTA_PID_FD") != NULL || chmod(file, 0600) < 0)
        return 11;
    if (!is_ours())
        return 12;
    manager_close();
    return access(file, F_OK) == 0 ? 14 : 0;
}

static void test_exec(char *program)
{
    char *argv[] = { program, "after-exec", NULL };
    int status, fd;
    pid_t pid;
    memcpy(file, "/tmp/puerta-unit-XXXXXX", 24);
    fd = mkstemp(file);
    close(fd);
    setenv("UNIT_FILE", file, 1);
    memset(&conf, 0, sizeof conf);
    snprintf(conf.pid_file, sizeof conf.pid_file, "%s", file);
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        manager_open(&conf, false);
        if (!is_ours())
            _exit(20);
        manager_hand_over();
        execv(program, argv);
        _exit(21);
    }
    unit_note = "the pid file is the new program's";
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    if (WEXITSTATUS(status) != 0)
        printf("the child ended with %d\n", WEXITSTATUS(status));
    (void)unlink(file);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "after-exec") == 0)
        return after_exec();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        return 1;
    log_threshold = LOG_ERROR;
    test_filter();
    test_words();
    test_exec(argv[0]);
    return unit_end();
}
