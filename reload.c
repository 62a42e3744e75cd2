/*
 * reload.c - the configuration is read again while Puerta runs: what can change live does, what cannot is told.
 *
 *   SIGHUP, action_on_reload --> worker --question--> parent --forks--> reader: conf_read() into the mailbox
 *                                  ^                                        |
 *                                  `---------------- answer ----------------'
 *
 *   worker   bad:  told; all stays as it is
 *            good: option by option   live:    from the mailbox into the conf in force, which all rooms read where it stands
 *                                     restart: told, with both values
 *                  then service_ops.on_conf of each section, with what was before: timers, tables, clients follow
 *   parent   settle(): the same into its own conf, from which the next worker is forked
 *
 * Two static copies: puerta.c's, which is in force and stays where it is, since sections and rooms point into it; and `before`.
 * Owns the mailbox, a block that the three processes share. The reader alone writes what is read, and there is one at a time; the
 * worker says in it that it has accepted it, and what it could. Nothing here allocates or blocks but the reader.
 */
#include "action.h"
#include "mongo_greet.h"
#include "option.h"
#include "parent.h"
#include "trace.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#define COMPLAINTS 8192 /* bytes of what is wrong with a file: MAX_ERRORS of conf.h, if they are not all long */

struct mailbox {
    struct conf conf;
    bool good;
    struct { bool users, arrivals, limits; } has; /* tables that the worker has only if some section needed them as it began */
    volatile sig_atomic_t accepted; /* the worker has taken it, and the parent has not yet */
    char text[COMPLAINTS];      /* lines: what is wrong with it, or doubtful */
};

static struct {
    struct conf *now;           /* in force */
    struct conf before;         /* what was in force before the last reload */
    struct mailbox *box;
    const char *file;           /* NULL: there is none, after a quick start */
    bool under_way, again;      /* again: asked for once more meanwhile, and the file may have changed since it was read */
    void *mark;                 /* who asked; on_done NULL: nobody waits for what comes of it */
    void (*on_done)(void *mark, const struct action *done);
    struct timer timer;         /* it could not even be asked for: told in the next turn */
    struct action said;
    char waits[ACTION_TEXT];    /* what needs a restart, by and by */
} rl;

static void start(void);

/* ------------------------------------------------------------ what is told */

static void add(char text[ACTION_TEXT], const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Adds to what is said to whoever asked, as far as there is room. */
static void add(char text[ACTION_TEXT], const char *fmt, ...)
{
    size_t n = strlen(text);
    va_list args;
    va_start(args, fmt);
    vsnprintf(text + n, ACTION_TEXT - n, fmt, args);
    va_end(args);
}

static const char *quoted(const char *text, char out[2 * OPTION_TEXT])
{
    return log_quote(text, strlen(text), out, 2 * OPTION_TEXT);
}

static void tell_changed(const char *section, const struct option *o, const void *now, const void *next)
{
    char was[OPTION_TEXT], is[OPTION_TEXT], a[2 * OPTION_TEXT], b[2 * OPTION_TEXT];
    reloaded.changed++;
    log_info("option changed", "section=%s option=%s was=%s now=%s", section, o->key, quoted(option_show(o, now, was), a),
             quoted(option_show(o, next, is), b));
}

static void tell_restart(const char *section, const struct option *o, const void *now, const void *next)
{
    char was[OPTION_TEXT], is[OPTION_TEXT], a[2 * OPTION_TEXT], b[2 * OPTION_TEXT];
    option_show(o, now, was);
    option_show(o, next, is);
    add(rl.waits, "%s %s of %s (%.40s, in the file %.40s)", reloaded.restart++ > 0 ? "," : "", o->key, section, was, is);
    log_warn("an option waits for a restart", "section=%s option=%s now=%s file=%s", section, o->key, quoted(was, a), quoted(is, b));
}

static void tell_section(const struct conf_service *s, bool in_file)
{
    const char *kind = option_scopes[s->kind == SERVICE_MONGO ? MONGO : REDIS];
    add(rl.waits, "%s [%s %s] (%s)", reloaded.restart++ > 0 ? "," : "", kind, s->name, in_file ? "new" : "not in the file");
    log_warn("a section waits for a restart", "section=\"%s %s\" file=%s", kind, s->name, in_file ? "yes" : "no");
}

/* Line by line: what is wrong with the file, or doubtful. */
static void tell_complaints(void)
{
    char line[1024], shown[1024];
    const char *p = rl.box->text;
    while (*p != '\0') {
        size_t n = strcspn(p, "\n");
        snprintf(line, sizeof line, "%.*s", (int)n, p);
        log_warn("the configuration file", "says=%s", log_quote(line, strlen(line), shown, sizeof shown));
        p += n + (p[n] == '\n');
    }
}

/* It is over. */
static void end(bool good)
{
    struct action done;
    void (*on_done)(void *mark, const struct action *done) = rl.on_done;
    char text[2 * OPTION_TEXT];
    rl.said.status = good ? ACTION_DONE : ACTION_REFUSED;
    done = rl.said;
    stats.reloads += good;
    stats.reload_failures += !good;
    reloaded.good = good;
    reloaded.when = (int64_t)time(NULL);
    memcpy(reloaded.text, done.text, sizeof reloaded.text);
    if (good) {
        log_info("configuration read again", "changed=%u restart=%u", reloaded.changed, reloaded.restart);
    } else {
        log_error("the configuration stays as it is", "why=%s", quoted(done.text, text));
    }
    parent_tell(MANAGER_READY);
    rl.under_way = false;
    rl.on_done = NULL;
    if (on_done != NULL) {
        on_done(rl.mark, &done);
    }
    if (rl.again && !rl.under_way) {
        start();
    }
}

/* -------------------------------------------------------- what is different */

static bool is_field(const struct option *o, size_t offset)
{
    return o->scope != PROCESS && o->offset == offset;
}

/* Which options have their tables in this worker. The parent, which has none, goes by its word. */
static void look_at_tables(void)
{
#ifndef PUERTA_NO_MONGO
    rl.box->has.users = door_has_tables();
#endif
    rl.box->has.arrivals = gate_has_arrivals();
    rl.box->has.limits = gate_has_sources();
}

/* Whether it can change now. The node of a plain server owns all slots. */
static bool is_live(const struct option *o, const struct conf_service *s)
{
    bool limit = is_field(o, offsetof(struct conf_service, max_per_address)) ||
                 is_field(o, offsetof(struct conf_service, request_rate)) || is_field(o, offsetof(struct conf_service, byte_rate));
    return o->live && !(o->type == NODES && s->kind == SERVICE_REDIS && s->single) && (o->type != USER || rl.box->has.users) &&
           (!is_field(o, offsetof(struct conf_service, accept_proxy)) || rl.box->has.arrivals) && (!limit || rl.box->has.limits);
}

/* Takes what has changed of one section, and of the others tells, if somebody listens. */
static void take_options(enum option_scope scope, const char *section, void *now, const void *next, bool told)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option *o = &options[i];
        if (o->scope != scope || option_same(o, now, next)) {
            continue;
        }
        if (!is_live(o, now)) {
            if (told) {
                tell_restart(section, o, now, next);
            }
            continue;
        }
        if (told) {
            tell_changed(section, o, now, next);
        }
        option_copy(o, now, next);
    }
}

/* The same section in another configuration; NULL: it has none. */
static const struct conf_service *section_of(const struct conf *conf, const struct conf_service *like)
{
    for (int i = 0; i < conf->service_count; i++) {
        if (conf->services[i].kind == like->kind && strcmp(conf->services[i].name, like->name) == 0) {
            return &conf->services[i];
        }
    }
    return NULL;
}

static void take(struct conf *conf, const struct conf *next, bool told)
{
    take_options(PROCESS, "puerta", conf, next, told);
    for (int i = 0; i < conf->service_count; i++) {
        struct conf_service *s = &conf->services[i];
        const struct conf_service *its = section_of(next, s);
        if (its != NULL) {
            take_options(s->kind == SERVICE_MONGO ? MONGO : REDIS, s->name, s, its, told);
        } else if (told) {
            tell_section(s, false);
        }
    }
    for (int i = 0; i < next->service_count && told; i++) {
        if (section_of(conf, &next->services[i]) == NULL) {
            tell_section(&next->services[i], true);
        }
    }
}

/* ------------------------------------------------------------- in the worker */

/* Those who keep more than a pointer to their options follow. */
static void tell_rooms(void)
{
    struct service *s;
    if (rl.now->slow_log_min_ms != rl.before.slow_log_min_ms) {
        trace_slow_min(rl.now->slow_log_min_ms);
    }
    if (rl.now->log_level != rl.before.log_level) { /* else what an operator has set holds on */
        log_threshold = (enum log_level)rl.now->log_level;
    }
    for (int i = 0; (s = service_at(i)) != NULL; i++) {
        const struct conf_service *before = &rl.before.services[s->conf - rl.now->services];
        if (s->conf->request_rate != before->request_rate || s->conf->byte_rate != before->byte_rate ||
            s->conf->max_per_address != before->max_per_address) {
            gate_conf(s);
        }
        if (s->ops->on_conf != NULL) {
            s->ops->on_conf(s, before);
        }
    }
}

static void on_read(void *mark, const struct address *list, int count)
{
    (void)mark, (void)list;
    if (count == 0) {
        add(rl.said.text, "it could not be read: the process that reads it ended, or took too long");
        end(false);
        return;
    }
    tell_complaints();
    if (!rl.box->good) {
        add(rl.said.text, "%.*s", (int)strcspn(rl.box->text, "\n"), rl.box->text);
        end(false);
        return;
    }
    rl.before = *rl.now;
    reloaded.changed = reloaded.restart = 0;
    rl.waits[0] = '\0';
    look_at_tables();
    take(rl.now, &rl.box->conf, true);
    rl.box->accepted = 1;
    tell_rooms();
    add(rl.said.text, "the configuration has been read again; options changed: %u%s%s", reloaded.changed,
        reloaded.restart > 0 ? "; a restart is needed for" : "", rl.waits);
    end(true);
}

static void on_due(struct timer *t)
{
    (void)t;
    end(false);
}

static void start(void)
{
    rl.under_way = true;
    rl.again = false;
    rl.said.text[0] = '\0';
    parent_tell(MANAGER_RELOADING);
    if (!parent_reload(&rl, on_read)) {
        add(rl.said.text, "there is no second process that could read it: only a restart reads the file again");
        rl.timer.on_due = on_due;
        loop_timer(&rl.timer, loop_ms());
    }
}

static bool ask(void *mark, void (*on_done)(void *mark, const struct action *done))
{
    if (rl.under_way) {
        return false;
    }
    rl.mark = mark;
    rl.on_done = on_done;
    start();
    return true;
}

static void forget(void *mark)
{
    if (rl.mark == mark) {
        rl.on_done = NULL;
    }
}

void reload_now(void)
{
    if (rl.file == NULL) {
        log_warn("there is no configuration to read again", "why=\"Puerta was started without a file (-c FILE)\"");
    } else if (rl.under_way) {
        rl.again = true;
    } else {
        start();
    }
}

/* -------------------------------------------------- in the other processes */

/* The reader's work. A relative path is meant from where Puerta was started, and its parent has stayed there. */
static void read_file(void)
{
    rl.box->text[0] = '\0';
    conf_complaints(rl.box->text, sizeof rl.box->text);
    rl.box->good = conf_read(&rl.box->conf, rl.file);
}

/* What the worker has accepted holds for the next one. Only what is live is taken: it has not more to say about its parent. */
static void settle(void)
{
    if (rl.box->accepted) {
        rl.box->accepted = 0;
        take(rl.now, &rl.box->conf, false);
        log_threshold = (enum log_level)rl.now->log_level;
    }
}

void reload_open(struct conf *conf, const char *file)
{
    rl.now = conf;
    rl.file = file;
    if (file == NULL) {
        return;
    }
    rl.box = os_map_shared(sizeof *rl.box);
    if (rl.box == NULL) {
        fatal(EX_OSERR, "the system does not give %lu bytes of memory", (unsigned long)sizeof *rl.box);
    }
    parent_read = read_file;
    parent_settle = settle;
    action_on_reload = ask;
    action_forget = forget;
}
