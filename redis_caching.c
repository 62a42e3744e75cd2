/*
 * redis_caching.c - CLIENT TRACKING as it is said: its words, what they may not be, and what is told of it.
 *
 *   CLIENT TRACKING ON words --> struct wish --> does it go with itself, and with what was said before?
 *                                                   |yes                          |no: Redis's own error
 *                                                   v
 *                              redis_tracking.c: the connections; with BCAST +OK waits for all masters
 */
#include "redis_tracking.h"

#include <stdio.h>
#include <string.h>

#define TICK_MS 20

/* --------------------------------------------------------------- the words */

static bool add_prefix(struct wish *w, const char *p, size_t n)
{
    size_t used = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        used += w->len[i];
    }
    if (w->count == PREFIXES_MAX || used + n > PREFIX_BYTES) {
        return false;
    }
    memcpy(w->prefixes + used, p, n);
    w->len[w->count++] = (uint16_t)n;
    return true;
}

/* NULL: the words behind ON or OFF are read; else what is wrong. */
static const char *read_words(const struct client *c, const struct request *q, struct wish *w)
{
    struct words words = words_from(q, 3);
    struct word option, value;
    int64_t id;
    while (words_next(&words, &option)) {
        uint32_t i = 0;
        while (i < 4 && !word_is(option, tracking_options[i])) {
            i++;
        }
        if (i < 4) {
            w->options |= 1u << i;
        } else if (word_is(option, "redirect") && words_next(&words, &value)) {
            if (w->redirect != 0) {
                return "ERR A client can only redirect to a single other client";
            }
            if (!word_number(value, &id)) {
                return "ERR value is not an integer or out of range";
            }
            if (id <= 0 || tracking_target(c, (uint64_t)id) == NULL) {
                return "ERR The client ID you want redirect to does not exist";
            }
            w->redirect = (uint64_t)id;
        } else if (word_is(option, "prefix") && words_next(&words, &value)) {
            if (!add_prefix(w, value.p, value.n)) {
                return "ERR more prefixes than this proxy keeps for one client (32, and 1024 bytes in all)";
            }
        } else {
            return "ERR syntax error";
        }
    }
    return NULL;
}

static const char *incompatible(const struct tracking *t, const struct wish *w)
{
    uint32_t new = w->options, old = t != NULL ? t->now.options : 0;
    if ((new & BCAST) == 0 && w->count > 0) {
        return "ERR PREFIX option requires BCAST mode to be enabled";
    }
    if (t != NULL && ((new ^ old) & BCAST) != 0) {
        return "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a "
               "different mode.";
    }
    if ((new & BCAST) != 0 && (new & (OPTIN | OPTOUT)) != 0) {
        return "ERR OPTIN and OPTOUT are not compatible with BCAST";
    }
    if ((new & OPTIN) != 0 && (new & OPTOUT) != 0) {
        return "ERR You can't specify both OPTIN mode and OPTOUT mode";
    }
    if (((new & OPTIN) != 0 && (old & OPTOUT) != 0) || ((new & OPTOUT) != 0 && (old & OPTIN) != 0)) {
        return "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a "
               "different mode.";
    }
    return NULL;
}

/* Prefix i of w against those of `with` from `from` on: one that begins with the other, or is begun by it. */
static bool collides(const struct wish *w, uint32_t i, const struct wish *with, uint32_t from, char *text, size_t cap)
{
    const char *p = w->prefixes, *o = with->prefixes;
    for (uint32_t k = 0; k < i; k++) {
        p += w->len[k];
    }
    for (uint32_t k = 0; k < with->count; o += with->len[k++]) {
        size_t least = w->len[i] < with->len[k] ? w->len[i] : with->len[k];
        if (k >= from && memcmp(p, o, least) == 0) {
            snprintf(text, cap, "ERR Prefix '%.*s' overlaps with %s prefix '%.*s'. Prefixes for a single client must not overlap.",
                     (int)(w->len[i] < 100 ? w->len[i] : 100), p, w == with ? "another provided" : "an existing",
                     (int)(with->len[k] < 100 ? with->len[k] : 100), o);
            return true;
        }
    }
    return false;
}

static const char *collision(const struct tracking *t, const struct wish *w)
{
    static char text[384];
    for (uint32_t i = 0; i < w->count; i++) {
        if ((t != NULL && collides(w, i, &t->now, 0, text, sizeof text)) || collides(w, i, w, i + 1, text, sizeof text)) {
            return text;
        }
    }
    return NULL;
}

/* BCAST: nothing is said before every master has been told, or what is written next would be missed. */
static enum verdict await_all(struct client *c)
{
    struct tracking *t = c->tracking;
    bool ready, enough = tracking_reach_all(c, &ready);
    if (enough && !ready && loop_ms() - t->since_ms < c->service->conf->failover_wait_ms) {
        conn_deadline(c->conn, loop_ms() + TICK_MS); /* on_tick resumes it */
        return VERDICT_WAIT;
    }
    if (enough && ready) {
        if (!client_answer(c, "+OK\r\n", 5)) {
            return client_said(c, false);
        }
        t->since_ms = 0;
        return VERDICT_DONE;
    }
    if (!client_error(c, "%s", enough ? "CLUSTERDOWN not executed: not all masters could be reached within failover_wait"
                                      : "ERR not executed: no connection of its own is left for this client (max_own)")) {
        return client_said(c, false);
    }
    tracking_end(c);
    return VERDICT_DONE;
}

static const char *take_on(struct client *c, const struct wish *w)
{
    static const char none_left[] = "ERR not executed: no connection of its own is left for this client (max_own)";
    struct tracking *t = c->tracking;
    bool first = t == NULL, ears = c->ears;
    size_t at = 0;
    if (first && (!lease_free_of(LEASE_OWN) || (t = tracking_begin(c)) == NULL)) {
        return none_left;
    }
    c->tracking = t;
    t->now.options = w->options;
    t->now.redirect = w->redirect;
    t->broken = false;
    for (uint32_t i = 0; i < w->count; at += w->len[i++]) {
        if (!add_prefix(&t->now, w->prefixes + at, w->len[i])) {
            return "ERR more prefixes than this proxy keeps for one client (32, and 1024 bytes in all)";
        }
    }
    if ((w->options & BCAST) != 0 && t->now.count == 0) {
        add_prefix(&t->now, "", 0);
    }
    tracking_renew(c);
    if (c->ears != ears && !tracking_change_ears(c) && !first) {
        tracking_void(c);
    }
    if (c->tracks && !tracking_tell_all(c, w)) {
        tracking_end(c);
        return "ERR not executed: no room for the request (chunks, max_requests)";
    }
    t->since_ms = c->tracks && (w->options & BCAST) != 0 ? loop_ms() : 0;
    return NULL;
}

enum verdict tracking_command(struct client *c, const struct request *q)
{
    static struct wish w;
    struct word what = request_word(q, 2);
    const char *wrong;
    if (c->tracking != NULL && c->tracking->since_ms != 0) {
        return await_all(c);
    }
    if (c->unsettled > 0 || c->head != NULL) {
        return VERDICT_WAIT; /* what comes after it goes over other connections */
    }
    memset(&w, 0, sizeof w);
    wrong = read_words(c, q, &w);
    if (wrong == NULL && word_is(what, "off")) {
        if (!client_answer(c, "+OK\r\n", 5)) {
            return client_said(c, false);
        }
        tracking_end(c);
        return VERDICT_DONE;
    }
    wrong = wrong != NULL ? wrong : !word_is(what, "on") ? "ERR syntax error" : incompatible(c->tracking, &w);
    wrong = wrong != NULL ? wrong : collision(c->tracking, &w);
    wrong = wrong != NULL ? wrong : take_on(c, &w);
    if (wrong != NULL) {
        return client_said(c, client_error(c, "%s", wrong));
    }
    return c->tracking->since_ms != 0 ? await_all(c) : client_said(c, client_answer(c, "+OK\r\n", 5));
}

/* ---------------------------------------------------------------- what is told of it */

void caching_answer(struct client *c, const struct request *q)
{
    struct word word = request_word(q, 2);
    uint32_t options = c->tracking != NULL ? c->tracking->now.options : 0;
    bool yes = word_is(word, "yes");
    if (c->tracking == NULL) {
        say_error("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled");
    } else if (!yes && !word_is(word, "no")) {
        say_syntax_error();
    } else if ((options & (yes ? OPTIN : OPTOUT)) == 0) {
        say_error("ERR CLIENT CACHING %s", yes ? "YES is only valid when tracking is enabled in OPTIN mode."
                                               : "NO is only valid when tracking is enabled in OPTOUT mode.");
    } else {
        c->caching = 2; /* for the request behind this one */
        say_text("+OK\r\n");
    }
}

void trackinginfo_answer(struct client *c, const struct request *q)
{
    const struct tracking *t = c->tracking;
    const char *names[8];
    int64_t n = 0;
    size_t at = 0;
    (void)q;
    names[n++] = t != NULL ? "on" : "off";
    for (int i = 0; t != NULL && i < 4; i++) {
        if ((t->now.options >> i & 1) != 0) {
            names[n++] = tracking_options[i];
        }
        if ((t->now.options >> i & 1) != 0 && c->caching > 0 && (1 << i == OPTIN || 1 << i == OPTOUT)) {
            names[n++] = 1 << i == OPTIN ? "caching-yes" : "caching-no";
        }
    }
    if (t != NULL && t->broken) {
        names[n++] = "broken_redirect";
    }
    c->caching = c->caching > 0 ? 2 : 0; /* to ask does not use it up */
    say_map(3);
    say_name("flags");
    say_set(n);
    for (int64_t i = 0; i < n; i++) {
        say_name(names[i]);
    }
    say_name("redirect");
    say_header(':', tracking_redirect(c));
    say_name("prefixes");
    say_header('*', t != NULL ? t->now.count : 0);
    for (uint32_t i = 0; t != NULL && i < t->now.count; at += t->now.len[i++]) {
        say_bulk(t->now.prefixes + at, t->now.len[i]);
    }
}
