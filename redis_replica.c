/*
 * redis_replica.c - what a master says of its replicas: reads INFO replication, and the answer of WAITAOF.
 *
 *   role:master                                               it may be believed
 *   slave0:ip=...,port=...,state=online,offset=1234,lag=0     so far has this one confirmed
 *   master_repl_offset:1300                                   so far has the stream come
 */
#include "redis.h"

#include <string.h>

/* The number behind `name` in [p, end); 0 when there is none. */
static uint64_t field(const unsigned char *p, const unsigned char *end, const char *name)
{
    size_t len = strlen(name);
    for (; (size_t)(end - p) > len; p++) {
        if (memcmp(p, name, len) == 0) {
            uint64_t value = 0;
            for (p += len; p < end && *p >= '0' && *p <= '9'; p++) {
                value = value * 10 + (uint64_t)(*p - '0');
            }
            return value;
        }
    }
    return 0;
}

static bool holds(const unsigned char *p, size_t n, const char *text)
{
    size_t len = strlen(text);
    for (; n >= len; p++, n--) {
        if (memcmp(p, text, len) == 0) {
            return true;
        }
    }
    return false;
}

/* How many replicas have confirmed the stream up to `target`. */
uint32_t replica_confirmed(const unsigned char *p, size_t n, uint64_t target)
{
    const unsigned char *end = p + n, *eol;
    uint32_t count = 0;
    for (; p < end && (eol = memchr(p, '\n', (size_t)(end - p))) != NULL; p = eol + 1) {
        bool replica = (size_t)(eol - p) > 8 && (memcmp(p, "slave", 5) == 0 || memcmp(p, "replica", 7) == 0);
        count += replica && holds(p, (size_t)(eol - p), ",state=online,") && field(p, eol, ",offset=") >= target;
    }
    return count;
}

bool replica_offset(const unsigned char *p, size_t n, uint64_t *offset)
{
    if (n == 0 || *p != '$' || !holds(p, n, "\nrole:master")) {
        return false;
    }
    *offset = field(p, p + n, "\nmaster_repl_offset:");
    return true;
}

bool replica_pair(const unsigned char *p, size_t n, uint64_t *local, uint64_t *replicas)
{
    const unsigned char *second = n > 6 ? memchr(p + 5, '\n', n - 5) : NULL;
    if (second == NULL || memcmp(p, "*2\r\n:", 5) != 0) {
        return false;
    }
    *local = field(p, p + n, "*2\r\n:");
    *replicas = field(second, p + n, "\n:");
    return true;
}
