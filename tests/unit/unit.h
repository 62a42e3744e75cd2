/* unit.h - the checks of the unit tests.
 *
 *   int main(void)
 *   {
 *       unit_note = "what is being looked at";
 *       CHECK(1 + 1 == 2);
 *       return unit_end();
 *   }
 *
 * Prints each failed check with its place and the note, and at last "N passed, M failed".
 */
#ifndef PUERTA_UNIT_H
#define PUERTA_UNIT_H

#include <stdio.h>

#define UNIT_SHOWN 20 /* failures told one by one: the first ones say what is wrong */

static unsigned long unit_passed, unit_failed;
static const char *unit_note = "";

#define CHECK(cond) unit_check((cond) ? 1 : 0, #cond, __FILE__, __LINE__)

/* Gives ok back, so that a test can stop where the rest would make no sense. */
static inline int unit_check(int ok, const char *cond, const char *file, int line)
{
    if (ok)
        unit_passed++;
    else if (++unit_failed <= UNIT_SHOWN)
        printf("%s:%d: failed: %s%s%s\n", file, line, cond, *unit_note ? " -- " : "", unit_note);
    return ok;
}

/* Prints the last line; gives the exit code. A test that checked nothing has failed. */
static inline int unit_end(void)
{
    printf("%lu passed, %lu failed\n", unit_passed, unit_failed);
    return unit_failed > 0 || unit_passed == 0;
}

#endif
