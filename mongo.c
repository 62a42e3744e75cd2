/*
 * mongo.c - MongoDB mode as a whole: its sections, and which of the two kinds of clients each has.
 *
 *   listener -> mode = passthrough, loadbalanced   mongo_relay.c    a client has a connection to a mongos of its own
 *            -> mode = pooled                      mongo_pooled.c   a client has one for each exchange
 *   health.c -> a mongos changes its state         told to both
 *
 * Owns the services.
 */
#include "mongo.h"

#include <string.h>

static struct {
    struct service services[MAX_SERVICES];
    int count;                  /* of MongoDB */
    int told;                   /* an upgrade: of so many the tables have been told */
} md;

bool mongo_stopping;

static void on_accept(void *mark, int fd, const struct address *peer)
{
    struct service *s = mark;
    uint8_t section = (uint8_t)(s - md.services);
    bool pooled = s->conf->mode == MONGO_POOLED;
    if (!mongo_stopping && (pooled ? pooled_accept(s, section, fd, peer) : relay_accept(s, section, fd, peer))) {
        return;
    }
    stats.clients_refused++;
    log_warn("client refused: the table is full (max_clients)", "service=%s", s->conf->name);
    net_close(fd); /* nothing can be said: an answer needs the number of a request */
}

/* One that is down, or is none, has nothing more to say to anybody. */
static void on_backend(struct backend *b)
{
    mongos_changed(b);
    if (b->service->conf->mode == MONGO_POOLED) {
        pool_backend(b);
        pooled_backend(b);
    } else {
        relay_backend(b);
    }
}

static void on_hold(struct backend *b)
{
    mongos_held(b);
    if (b->service->conf->mode == MONGO_POOLED) {
        pool_backend(b);
        pooled_backend(b);
    } else {
        relay_backend(b);
    }
}

/* What it says of itself has changed, though its state may not have. */
static void on_facts(struct backend *b)
{
    if (b->service->conf->mode == MONGO_POOLED) {
        pooled_backend(b);
    }
}

static bool in_use(const struct backend *b)
{
    return mongos_of(b)->connections > 0;
}

static const struct service_ops mongo_service_ops = { .talk = &mongo_probe_talk, .on_backend = on_backend, .on_hold = on_hold, .in_use = in_use };

void mongo_tables(const struct conf *conf)
{
    relay_tables(conf);
    pooled_tables(conf);
    pool_tables(conf);
    split_tables(conf);
    route_tables(conf);
    door_tables(conf);
    mongo_login_tables(conf);
    mongo_health_tables(conf);
    mongo_choose_tables(conf);
}

void mongo_open(const struct conf *conf, int (*listeners)[MAX_LISTENS])
{
    relay_open();
    pooled_open();
    split_open();
    greet_start(conf);
    mongo_login_open();
    mongos_on_facts = on_facts;
    for (int i = 0; i < conf->service_count; i++) {
        const struct conf_service *cs = &conf->services[i];
        struct service *s = &md.services[md.count];
        if (cs->kind != SERVICE_MONGO) {
            continue;
        }
        mongo_choose_open(md.count, cs);
        route_open(md.count++, cs);
        health_open(s, cs, &mongo_service_ops);
        for (int k = 0; k < cs->listens; k++) {
            struct listener *l = &s->listeners[k];
            l->mark = s;
            l->on_accept = on_accept;
            l->sizes = (struct net_sizes){ cs->receive_buffer, cs->send_buffer };
            conn_listen(l, listeners[i][k]);
        }
    }
}

void mongo_stop(void)
{
    mongo_stopping = true;
    for (int i = 0; i < md.count; i++) {
        for (int k = 0; k < md.services[i].conf->listens; k++) {
            conn_unlisten(&md.services[i].listeners[k]);
        }
    }
    relay_stop();
    pooled_stop();
}

/* ------------------------------------------------------------- an upgrade */

void mongo_hand(bool (*give)(const struct handed *, const int *))
{
    relay_hand(give);
    pooled_hand(give);
}

void mongo_given(uint32_t entry, uint64_t id, enum hand_fate fate)
{
    relay_given(entry, id, fate);
    pooled_given(entry, id, fate);
}

static struct service *section_named(const char *name)
{
    for (int i = 0; i < md.count; i++) {
        if (strcmp(md.services[i].conf->name, name) == 0) {
            return &md.services[i];
        }
    }
    return NULL;
}

bool mongo_adopt(const struct handed *h, const int *fds)
{
    struct service *s = section_named(h->section);
    uint8_t section = (uint8_t)(s != NULL ? s - md.services : 0);
    if (s == NULL || mongo_stopping) {
        return false;
    }
    return s->conf->mode == MONGO_POOLED ? pooled_adopt(s, section, h, fds[0]) : relay_adopt(s, section, h, fds);
}

bool mongo_seeds(bool (*give)(const struct hand_note *))
{
    for (int i = 0; i < md.count; i++) {
        struct hand_note n;
        (md.services[i].conf->mode == MONGO_POOLED ? route_seed : choose_seed)(i, &md.services[i], &n);
        if (!give(&n)) {
            return false;
        }
    }
    return true;
}

/* One section after another; the cursor is the number of the entry in its table. */
bool mongo_tell(uint32_t *cursor, bool (*give)(const struct hand_note *))
{
    for (; md.told < md.count; md.told++, *cursor = 0) {
        const struct service *s = &md.services[md.told];
        bool (*tell)(int, const struct service *, uint32_t *, bool (*)(const struct hand_note *)) =
            s->conf->mode == MONGO_POOLED ? route_tell : choose_tell;
        if (!tell(md.told, s, cursor, give)) {
            return false;
        }
    }
    return true;
}

void mongo_note(const struct hand_note *n)
{
    const struct service *s = section_named(n->section);
    if (s != NULL && s->conf->mode == MONGO_POOLED) {
        route_take_note((int)(s - md.services), s, n);
    } else if (s != NULL) {
        choose_take_note((int)(s - md.services), s, n);
    }
}

bool mongo_idle(void)
{
    return relay_idle() && pooled_idle();
}

size_t mongo_in_flight(void)
{
    return relay_in_flight() + pooled_in_flight();
}
