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

static struct conn *on_client(struct service *s, int fd, const struct address *peer)
{
    uint8_t section = (uint8_t)(s - md.services);
    struct conn *c = mongo_stopping                  ? NULL
                     : s->conf->mode == MONGO_POOLED ? pooled_accept(s, section, fd, peer)
                                                     : relay_accept(s, section, fd, peer);
    if (c != NULL) {
        return c;
    }
    stats.clients_refused++;
    log_warn("client refused: the table is full (max_clients)", "section=%s", s->conf->name);
    net_close(fd); /* nothing can be said: an answer needs the number of a request */
    return NULL;
}

/* One that is down, or is none, has nothing more to say to anybody. */
static void on_backend(struct backend *b)
{
    int section = (int)(b->service - md.services);
    bool pooled = b->service->conf->mode == MONGO_POOLED;
    mongos_changed(b);
    if (pooled) {
        pool_backend(b);
        pooled_backend(b);
    } else {
        relay_backend(b);
    }
    if (b->state == BACKEND_FREE) {
        (pooled ? route_forget : mongo_choose_forget)(section, b);
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
    int section = (int)(b->service - md.services);
    return mongos_of(b)->connections > 0 || (b->service->conf->mode == MONGO_POOLED && route_lives(section, b));
}

static void describe(const struct backend *b, struct backend_facts *out)
{
    const struct mongos *m = mongos_of(b);
    out->connections = out->clients = m->connections;
    out->in_flight = m->in_flight;
    out->weight = m->weight;
    out->ejected = mongos_ejected(b);
    if (b->service->conf->mode == MONGO_POOLED) {
        pool_describe(b, out);
    }
}

static bool other_login(const struct conf_service *a, const struct conf_service *b)
{
    return strcmp(a->upstream_user, b->upstream_user) != 0 || strcmp(a->upstream_password, b->upstream_password) != 0 ||
           strcmp(a->upstream_key, b->upstream_key) != 0 || strcmp(a->upstream_auth_db, b->upstream_auth_db) != 0;
}

/* Who logs in first, then who is asked, then who is served. */
static void on_conf(struct service *s, const struct conf_service *before)
{
    const struct conf_service *conf = s->conf;
    bool anew = other_login(conf, before);
    for (int k = 0; k < conf->listens; k++) {
        s->listeners[k].sizes = (struct net_sizes){ conf->receive_buffer, conf->send_buffer };
    }
    if (anew) {
        mongo_login_conf(conf);
    }
    health_conf(s, anew || conf->deep_probe != before->deep_probe);
    mongos_conf(s);
    mongo_choose_conf((int)(s - md.services), conf);
    if (conf->mode == MONGO_POOLED) {
        door_users();
        pool_conf(s, anew);
        pooled_conf(s, before);
    } else {
        relay_conf(s);
    }
}

static const struct service_ops mongo_service_ops = {
    .talk = &mongo_probe_talk,
    .on_backend = on_backend,
    .on_hold = on_hold,
    .in_use = in_use,
    .on_conf = on_conf,
    .describe = describe,
    .on_client = on_client,
};

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
    relay_hand_open();
    pooled_open();
    pooled_hand_open();
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
            l->sizes = (struct net_sizes){ cs->receive_buffer, cs->send_buffer };
            gate_listen(l, s, listeners[i][k]);
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

bool mongo_adopt(struct service *s, const struct handed *h, const int *fds)
{
    bool (*adopt)(struct service *, uint8_t, const struct handed *, const int *) = s->conf->mode == MONGO_POOLED ? pooled_adopt : relay_adopt;
    return !mongo_stopping && adopt(s, (uint8_t)(s - md.services), h, fds);
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

void mongo_note(struct service *s, const struct hand_note *n)
{
    (s->conf->mode == MONGO_POOLED ? route_take_note : choose_take_note)((int)(s - md.services), s, n);
}

bool mongo_idle(void)
{
    return relay_idle() && pooled_idle();
}

size_t mongo_in_flight(void)
{
    return relay_in_flight() + pooled_in_flight();
}
