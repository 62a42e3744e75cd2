/* main.c - the crowd's server or its clients, as the first word says. Used by tests/test_mongo_crowd.py and tests/bench/.
 *
 *   mongo_crowd serve JITTER_US LIE PORT...                         so many mongos; LIE: none, or about what they lie
 *   mongo_crowd run PORT CLIENTS ANSWERS SEED VANISH PATIENCE_S FAULTS
 *           a crowd that checks; VANISH of 100,000 requests are left alone; FAULTS 1: errors of mongos that fail are not wrong, 0: they are
 *   mongo_crowd ask PORT CLIENTS SECONDS RATE                       clients that measure; RATE 0: as fast as it goes
 */
#include "crowd.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static long number(const char *text)
{
    return strtol(text, NULL, 10);
}

int main(int argc, char **argv)
{
    struct rlimit files;
    int ports[16];

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    if (argc > 4 && argc < 20 && strcmp(argv[1], "serve") == 0) {
        for (int i = 4; i < argc; i++)
            ports[i - 4] = (int)number(argv[i]);
        return serve(ports, argc - 4, (uint32_t)number(argv[2]), argv[3]);
    }
    if (argc == 9 && strcmp(argv[1], "run") == 0)
        return crowd((int)number(argv[2]), (int)number(argv[3]), number(argv[4]), (uint64_t)number(argv[5]), (uint32_t)number(argv[6]),
                     (int)number(argv[7]), number(argv[8]) != 0);
    if (argc == 6 && strcmp(argv[1], "ask") == 0)
        return ask((int)number(argv[2]), (int)number(argv[3]), (int)number(argv[4]), (int)number(argv[5]));
    fprintf(stderr, "usage: mongo_crowd serve JITTER_US LIE PORT... | run PORT CLIENTS ANSWERS SEED VANISH PATIENCE_S FAULTS | ask PORT CLIENTS SECONDS RATE\n");
    return 64;
}
