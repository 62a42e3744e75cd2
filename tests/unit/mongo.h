/* mongo.h - what the tests of the MongoDB rooms share: the golden messages, and memory that ends at a page which may not be read.
 *
 *   | readable and writable ... guard | no access |      guarded(p, n) is the n bytes before guard
 *
 * Its users define _DEFAULT_SOURCE first (MAP_ANONYMOUS).
 */
#ifndef PUERTA_UNIT_MONGO_H
#define PUERTA_UNIT_MONGO_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "unit.h"

#define GUARD_PAGES 20 /* of readable memory before the guard */
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

struct golden {
    const char *name;
    bool reply;
    const char *bytes;
    size_t n;
    const char *about; /* as describe() of test_mongowire.c has it */
};

#include "mongo_golden.h"

static unsigned char *guard; /* the first byte that may not be touched */

static void guard_map(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *map = mmap(NULL, (GUARD_PAGES + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED || mprotect(map + GUARD_PAGES * page, page, PROT_NONE) < 0) {
        perror("mmap");
        exit(1);
    }
    guard = map + GUARD_PAGES * page;
}

/* The bytes moved up to the guard. */
static inline unsigned char *guarded(const void *p, size_t n)
{
    return memcpy(guard - n, p, n);
}

/* Repeatable chance. */
static inline uint32_t chance(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(*seed >> 8) * below >> 24);
}

#endif
