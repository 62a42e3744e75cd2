/*
 * The heap's guard, linked into the test variant "noheap" only: any call of the malloc family made after the seal ends the process with
 * a message that names the call. What libc itself asks for counts too, since it is the same heap.
 *
 *     product or libc code --> malloc, free, ... here --> sealed? abort : glibc's own __libc_malloc ...
 *
 * puerta_sealed is set by the worker once everything is taken. A parent process never seals, so it may allocate.
 */
#undef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef __GLIBC__
#error "tests/noheap.c stands on glibc's __libc_malloc family; build this variant on a glibc system"
#endif

extern int puerta_sealed;

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t align, size_t size);
extern void __libc_free(void *p);

void *memalign(size_t align, size_t size);
void *aligned_alloc(size_t align, size_t size);

static void guard(const char *call)
{
    static const char head[] = "fatal: heap call after the seal: ";
    size_t len = strlen(call);

    if (!puerta_sealed)
        return;
    /* The results do not matter: the next line ends the process, and its signal is what the tests look at. */
    if (write(2, head, sizeof head - 1) < 0 || write(2, call, len) < 0 || write(2, "\n", 1) < 0)
        abort();
    abort();
}

void *malloc(size_t size)
{
    guard("malloc");
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    guard("calloc");
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    guard("realloc");
    return __libc_realloc(old, size);
}

void free(void *p)
{
    if (p == NULL)
        return;
    guard("free");
    __libc_free(p);
}

void *memalign(size_t align, size_t size)
{
    guard("memalign");
    return __libc_memalign(align, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    guard("aligned_alloc");
    return __libc_memalign(align, size);
}

int posix_memalign(void **out, size_t align, size_t size)
{
    void *p;

    guard("posix_memalign");
    if (align < sizeof(void *) || (align & (align - 1)) != 0)
        return EINVAL;
    p = __libc_memalign(align, size);
    if (p == NULL)
        return ENOMEM;
    *out = p;
    return 0;
}
