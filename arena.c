/*
 * arena.c - the one block of memory that holds every table, sized before it is taken.
 *
 *     arena_measure()  every room's NAME_tables()  ->  rows: table, count, size     (pointers are NULL)
 *     arena_obtain()   the sum of the rows         ->  one zeroed block from os_map
 *                      every room's NAME_tables()  ->  the same rows again, now with their places
 *     arena_seal()     from here on the heap is closed
 *
 *     block  [ table 0 ....|pad][ table 1 ..|pad][ table 2 ......... ]   each begins on a cache line
 *
 * The second run must ask for exactly what the first run did: otherwise what -t promised is not what is used, or a
 * table would reach beyond the block. That is checked in every build.
 */
#include "puerta.h"

#include <string.h>

#define ROWS 64       /* tables of all rooms together: a room has about four */
#define CACHE_LINE 64 /* so that two tables never share a line */

struct row { const char *table; size_t count, size; };

static struct {
    enum { UNUSED, MEASURING, TAKING, SEALED } phase;
    struct row rows[ROWS];
    int count, next;       /* rows measured; the one that comes next in the taking run */
    size_t bytes, used;    /* the sum of the rows; how much of it has been taken. SIZE_MAX: more than memory can hold */
    unsigned char *block;
} arena;

int puerta_sealed;

/* Bytes of a row with its padding; SIZE_MAX when that cannot be counted. */
static size_t row_bytes(size_t count, size_t size)
{
    if (size != 0 && count > (SIZE_MAX - CACHE_LINE) / size)
        return SIZE_MAX;
    return (count * size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

void arena_measure(void)
{
    must(arena.phase != SEALED);
    memset(&arena, 0, sizeof arena);
    arena.phase = MEASURING;
}

bool arena_obtain(bool prefault)
{
    must(arena.phase == MEASURING);
    if (arena.bytes == SIZE_MAX)
        return false;
    arena.block = os_map(arena.bytes != 0 ? arena.bytes : CACHE_LINE);
    if (arena.block == NULL)
        return false;
    must((uintptr_t)arena.block % CACHE_LINE == 0);
    if (prefault && !os_prefault(arena.block, arena.bytes))
        log_warn("memory could not be locked", "option=prefault bytes=%zu raise=RLIMIT_MEMLOCK", arena.bytes);
    arena.phase = TAKING;
    return true;
}

static void row_measure(const char *table, size_t count, size_t size)
{
    size_t bytes = row_bytes(count, size);

    must(arena.count < ROWS);
    arena.rows[arena.count++] = (struct row){ table, count, size };
    /* A sum beyond memory stays at the top, so that arena_obtain refuses it instead of getting a small one. */
    arena.bytes = bytes > SIZE_MAX - arena.bytes ? SIZE_MAX : arena.bytes + bytes;
}

void *arena_take(const char *table, size_t count, size_t size)
{
    const struct row *row = &arena.rows[arena.next];
    void *place;

    if (arena.phase == MEASURING) {
        row_measure(table, count, size);
        return NULL;
    }
    must(arena.phase == TAKING);
    must(arena.next < arena.count);
    must(strcmp(row->table, table) == 0 && row->count == count && row->size == size);
    must(row_bytes(count, size) <= arena.bytes - arena.used);
    place = arena.block + arena.used;
    arena.used += row_bytes(count, size);
    arena.next++;
    return place;
}

size_t arena_bytes(void)
{
    return arena.bytes;
}

bool arena_row(int i, const char **table, size_t *count, size_t *size)
{
    if (i < 0 || i >= arena.count)
        return false;
    *table = arena.rows[i].table;
    *count = arena.rows[i].count;
    *size = arena.rows[i].size;
    return true;
}

void arena_seal(void)
{
    must(arena.phase == TAKING && arena.next == arena.count); /* a table measured but not taken was forgotten */
    arena.phase = SEALED;
    puerta_sealed = 1;
}
