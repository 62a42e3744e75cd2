/*
 * guesses.c - how often somebody may guess a password, and who need not give one: by where they come from, for all modes.
 *
 *   a wrong guess --guesses_add()--> sources[] --guesses_of()--> guesses_wait_ms(): how long the next one is not looked at
 *   who may come in without one --guesses_bar()--> clients of this machine alone, unless `protected = no`
 *
 * Owns the table of source addresses.
 */
#include "puerta.h"

#define SOURCES 256          /* source addresses whose wrong guesses are remembered; the oldest gives way */
#define FORGET_MS 60000      /* a source without a wrong guess for so long begins anew */
#define GUESSES_FREE 3       /* wrong ones that cost no wait: fingers slip, and old configurations are about */
#define WAIT_FIRST_MS 50     /* doubled with each wrong one... */
#define WAIT_MAX_MS 400      /* ... up to here: those who share an address with a guesser wait as long, to come in, and
                                clients give up after a second */

static struct source {
    uint64_t net, failed_ms; /* when it last guessed wrong */
    uint32_t failures;
} sources[SOURCES];

/* The entry of a source that has guessed wrong of late; NULL if it has none. */
static struct source *source_find(uint64_t net, uint64_t now_ms)
{
    for (struct source *s = sources; s < sources + SOURCES; s++) {
        if (s->net == net && s->failures > 0 && now_ms - s->failed_ms < FORGET_MS) {
            return s;
        }
    }
    return NULL;
}

/* An entry for a new source: one never used, or the one that has been good for longest. */
static struct source *source_take(uint64_t net)
{
    struct source *oldest = sources;
    for (struct source *s = sources; s < sources + SOURCES; s++) {
        if (s->failed_ms < oldest->failed_ms) {
            oldest = s;
        }
    }
    oldest->net = net;
    oldest->failures = 0;
    return oldest;
}

uint32_t guesses_of(const struct address *peer, uint64_t now_ms)
{
    uint64_t net;
    const struct source *s = address_source(peer, &net) ? source_find(net, now_ms) : NULL;
    return s == NULL ? 0 : s->failures;
}

void guesses_add(const struct address *peer, uint64_t now_ms)
{
    struct source *s;
    uint64_t net;
    if (!address_source(peer, &net)) {
        return;
    }
    s = source_find(net, now_ms);
    if (s == NULL) {
        s = source_take(net);
    }
    s->failures++;
    s->failed_ms = now_ms;
}

uint32_t guesses_wait_ms(uint32_t failures)
{
    uint32_t wait = WAIT_FIRST_MS;
    if (failures < GUESSES_FREE) {
        return 0;
    }
    for (uint32_t i = GUESSES_FREE; i < failures && wait < WAIT_MAX_MS; i++) {
        wait *= 2;
    }
    return wait < WAIT_MAX_MS ? wait : WAIT_MAX_MS;
}

bool guesses_near(const struct address *a)
{
    return address_near(a);
}

bool guesses_bar(const struct conf_service *conf, const struct address *peer, const char *why)
{
    char text[ADDRESS_TEXT];
    if (!conf->protect || guesses_near(peer)) {
        return false;
    }
    stats.clients_denied++;
    log_warn(why, "client=%s section=%s", address_text(peer, text), conf->name);
    return true;
}
