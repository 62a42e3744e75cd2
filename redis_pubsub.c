/*
 * redis_pubsub.c - what clients subscribe to, what they publish, and how messages reach them.
 *
 *   SUBSCRIBE   -> subscription, untold -> feed_place -> [ every node that has to send it does ] -> told, all at once
 *   UNSUBSCRIBE -> leaving -> [ what was for it has been sent ] -> told -> gone; the last one's channel is given up
 *   message     -> stored once -> each told subscription stands at it -> conn_dirty
 *   conn_flush  -> pubsub_gather: pieces of the stored messages, oldest first -> pubsub_sent: positions move on
 *
 * A handler that waits ([ ]) is run again from its beginning when its client is resumed, and finds what it has done.
 * Whoever does not read its messages costs its own window and is closed; one that reads, but not as fast as they come
 * within a turn, makes the feeds rest for it.
 */
#include "redis_feed.h"
#include "redis_say.h"

#include <stdio.h>
#include <string.h>

#define LOOK_MS 250           /* who waits for nodes looks so often whether it still has to, and for how long */
#define GREEDY_MS 1000        /* nodes are not read for so long for want of room: who holds most of it is closed */

#define HOLD_MS 100           /* the answer to a PUBLISH does not wait longer for its message */

static struct {
    uint32_t mark;            /* of the answer being written */
    struct timer tick;
    struct req *published, *published_tail; /* answered by their nodes, but not by us: their messages are to come first */
    struct timer hold;
    bool told, tell;          /* some of them may be answered: when this turn ends, when the next one does */
} ps;

static enum channel_kind kind_of(const struct command *command)
{
    return command->name[0] == 'p' ? CHANNEL_PATTERN : command->name[0] == 's' && command->keys != KEYS_NONE ?
           CHANNEL_SHARD : CHANNEL_PLAIN;
}

static bool is_unsubscribe(const struct command *command)
{
    return strstr(command->name, "unsub") != NULL;
}

static struct channel *channel_named(const struct client *c, enum channel_kind kind, struct word name)
{
    return channel_find(c->service, kind, name.p, name.n);
}

/* As Redis counts for an answer: shard channels apart. */
static int64_t count_of(const struct client *c, enum channel_kind kind)
{
    return kind == CHANNEL_SHARD ? c->sub.count[kind] : c->sub.count[CHANNEL_PLAIN] + c->sub.count[CHANNEL_PATTERN];
}

/* ---------------------------------------------------------------- answers */

static void say_push(const struct client *c, const struct request *q, const struct word *name, int64_t count)
{
    say_header(c->resp3 ? '>' : '*', 3);
    say_name(q->command->name);
    if (name != NULL) {
        say_bulk(name->p, name->n);
    } else {
        say_text(c->resp3 ? "_\r\n" : "$-1\r\n");
    }
    say_header(':', count);
}

/* Whether this answer has not counted it yet: a name may stand in it twice. */
static bool counted_now(struct subscription *s)
{
    bool first = s->mark != ps.mark;
    s->mark = ps.mark;
    return first;
}

static void say_subscribed(struct client *c, const struct request *q)
{
    enum channel_kind kind = kind_of(q->command);
    struct words w = words_from(q, 1);
    int64_t count = count_of(c, kind);
    struct word name;
    ps.mark++;
    while (words_next(&w, &name)) {
        struct subscription *s = subscription_find(c, channel_named(c, kind, name));
        count += counted_now(s) && !s->told;
        say_push(c, q, &name, count);
    }
}

static void say_unsubscribed(struct client *c, const struct request *q)
{
    enum channel_kind kind = kind_of(q->command);
    struct words w = words_from(q, 1);
    int64_t count = count_of(c, kind);
    struct word name;
    ps.mark++;
    while (words_next(&w, &name)) {
        struct subscription *s = subscription_find(c, channel_named(c, kind, name));
        count -= s != NULL && counted_now(s);
        say_push(c, q, &name, count);
    }
    if (q->argc > 1) {
        return;
    }
    for (struct subscription *s = c->sub.list; s != NULL; s = s->mine_next) {
        if (s->channel->kind == kind) {
            name.p = (const char *)channel_name(s->channel);
            name.n = s->channel->name_len;
            say_push(c, q, &name, --count);
        }
    }
    if (c->sub.count[kind] == 0) {
        say_push(c, q, NULL, count);
    }
}

/* Such answers come in every reply mode, as messages do. */
static enum verdict say_aloud(struct client *c, const struct request *q, say_writer write)
{
    uint8_t reply = c->reply;
    enum verdict v;
    c->reply = REPLY_ON;
    v = say_answer(c, q, write);
    c->reply = reply;
    return v;
}

/* -------------------------------------------------------------- subscribe */

static void end(struct subscription *s)
{
    struct channel *ch = s->channel;
    subscription_end(s);
    if (ch->subs == NULL) {
        feed_place(ch);
    }
}

/* Ends those of its subscriptions that are leaving, or that were never told. */
static void end_some(struct client *c, bool leaving)
{
    for (struct subscription *s = c->sub.list, *next; s != NULL; s = next) {
        next = s->mine_next;
        if (leaving ? s->leaving : !s->told) {
            end(s);
        }
    }
}

static enum verdict refuse(struct client *c, bool said)
{
    if (!said) {
        client_starve(c);
        return VERDICT_WAIT;
    }
    stats.not_executed++;
    c->sub.since_ms = 0;
    end_some(c, false);
    return VERDICT_DONE;
}

/* Its subscription of that name, made if need be; NULL: *full says which option is in the way. */
static struct subscription *want(struct client *c, enum channel_kind kind, struct word name, const char **full)
{
    struct channel *ch = channel_make(c->service, kind, name.p, name.n, full);
    struct subscription *s = ch == NULL ? NULL : subscription_find(c, ch);
    if (ch == NULL || s != NULL) {
        return s;
    }
    s = subscription_make(c, ch);
    if (s == NULL) {
        *full = "max_subscriptions";
        channel_let_go(ch);
        return NULL;
    }
    if (!feed_is_on(ch)) {
        feed_place(ch);
    }
    return s;
}

static void tell_all(struct client *c)
{
    for (struct subscription *s = c->sub.list; s != NULL; s = s->mine_next) {
        if (!s->told) {
            subscription_tell(s);
        }
    }
    c->sub.since_ms = 0;
}

static enum verdict subscribe(struct client *c, const struct request *q)
{
    enum channel_kind kind = kind_of(q->command);
    uint32_t limit = c->service->conf->failover_wait_ms;
    struct words w = words_from(q, 1);
    struct word name;
    const char *full;
    bool on = true;
    enum verdict v;
    c->sub.since_ms = c->sub.since_ms == 0 ? loop_ms() : c->sub.since_ms;
    while (words_next(&w, &name)) {
        const struct subscription *s = want(c, kind, name, &full);
        if (s == NULL) {
            return refuse(c, client_error(c, "ERR not executed: no room for another subscription (%s)", full));
        }
        if (s->channel->refused && !s->told) {
            return refuse(c, client_error(c, "ERR not executed: a node refuses the subscription: %s", feed_refusal()));
        }
        on = on && (s->told || feed_is_on(s->channel));
    }
    if (!on && loop_ms() - c->sub.since_ms >= limit) {
        return refuse(c, client_error(c, "CLUSTERDOWN not executed: no node took the subscription within %u ms: %s",
                                      limit, c->service->trouble));
    }
    if (!on) {
        conn_deadline(c->conn, loop_ms() + LOOK_MS); /* on_tick resumes it */
        return VERDICT_WAIT;
    }
    v = say_aloud(c, q, say_subscribed);
    if (v == VERDICT_DONE) {
        tell_all(c);
        conn_deadline(c->conn, c->service->conf->client_idle_ms == 0 ? 0 : loop_ms() + c->service->conf->client_idle_ms);
    }
    return v;
}

/* Marks what it leaves; false while messages are still on their way to it from there. */
static bool leave(struct client *c, const struct request *q)
{
    enum channel_kind kind = kind_of(q->command);
    struct words w = words_from(q, 1);
    struct word name;
    bool done = true;
    while (words_next(&w, &name)) {
        struct subscription *s = subscription_find(c, channel_named(c, kind, name));
        if (s != NULL) {
            subscription_leave(s);
        }
    }
    for (struct subscription *s = c->sub.list; s != NULL; s = s->mine_next) {
        if (q->argc == 1 && s->channel->kind == kind) {
            subscription_leave(s);
        }
        done = done && !(s->leaving && s->at != NULL);
    }
    return done;
}

static enum verdict unsubscribe(struct client *c, const struct request *q)
{
    enum verdict v;
    if (!leave(c, q)) {
        return VERDICT_WAIT; /* on_room resumes it */
    }
    v = say_aloud(c, q, say_unsubscribed);
    if (v == VERDICT_DONE) {
        end_some(c, true);
    }
    return v;
}

enum verdict pubsub_change(struct client *c, const struct request *q)
{
    if (c->head != NULL) {
        return VERDICT_WAIT; /* for the answers to all that it asked before */
    }
    return is_unsubscribe(q->command) ? unsubscribe(c, q) : subscribe(c, q);
}

bool pubsub_leave(struct client *c)
{
    bool done = true;
    for (struct subscription *s = c->sub.list; s != NULL; s = s->mine_next) {
        subscription_leave(s);
        done = done && s->at == NULL;
    }
    if (done) {
        end_some(c, true);
    }
    return done;
}

void pubsub_undo(struct client *c)
{
    c->sub.since_ms = 0;
    end_some(c, false);
    for (struct subscription *s = c->sub.list; s != NULL; s = s->mine_next) {
        if (s->leaving && s->at == NULL) {
            s->leaving = false;
            s->until = UINT64_MAX;
        }
    }
}

void pubsub_gone(struct client *c)
{
    while (c->sub.list != NULL) {
        end(c->sub.list);
    }
}

bool pubsub_allows(const struct command *command)
{
    static const char *const names[] = { "ping", "quit", "reset" };
    if (command->route == ROUTE_PUBSUB) {
        return (command->flags & CMD_FAST) == 0; /* all but PUBLISH and SPUBLISH */
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(command->name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* --------------------------------------------------------------- delivery */

static void close_greedy(struct client *c, const char *option)
{
    char text[ADDRESS_TEXT], why[64];
    log_warn("subscriber closed: it does not read its messages", "client=%s option=%s bytes=%lu",
             address_text(&c->conn->peer, text), option, (unsigned long)c->sub.bytes);
    stats.subscribers_closed++;
    snprintf(why, sizeof why, "it does not read its messages (%s)", option);
    conn_fail(c->conn, why);
}

/* Whether nothing may be sent now but its answer, of which a part has gone out: that ends by itself or by a deadline. */
static bool in_mid_answer(const struct client *c)
{
    return c->halfway || (c->head != NULL && c->head->state == REQ_DONE);
}

/* What waits for it has passed its window. If it is sent as fast as it can be, that is its own fault. */
static bool fell_behind(struct client *c)
{
    if (c->sub.bytes + c->conn->out.len <= c->service->conf->client_window) {
        return false;
    }
    if (c->conn->blocked || in_mid_answer(c)) {
        close_greedy(c, "client_window");
        return true;
    }
    feed_rest();
    return false;
}

static void on_message(struct channel *ch, struct slice *bytes)
{
    struct message *m = message_add(ch, bytes);
    for (struct subscription *s = ch->subs, *next; s != NULL; s = next) {
        struct client *c = s->client;
        next = s->next;
        if (!s->told || s->leaving) {
            continue;
        }
        if (c->conn->state != CONN_OPEN) {
            subscription_leave(s);
            s->until = m->seq - 1;
        } else if (!fell_behind(c)) {
            subscription_get(s, m);
            conn_dirty(c->conn);
        }
    }
    message_drop(ch, m);
    channel_let_go(ch); /* its last subscriber may just have been closed */
}

/* The message cannot be held: rather than miss it unheard, they begin anew. */
static void on_lost(struct channel *ch)
{
    for (struct subscription *s = ch->subs, *next; s != NULL; s = next) {
        next = s->next;
        close_greedy(s->client, "chunks");
    }
}

static void on_settled(struct channel *ch)
{
    for (struct subscription *s = ch->subs; s != NULL; s = s->next) {
        if (!s->told) {
            client_resume(s->client);
        }
    }
}

/* The pieces of message m from `off` on, as far as they find a place. A RESP3 client gets another first byte. */
static int put_message(const struct client *c, const struct message *m, size_t off, struct iovec *iov, int max)
{
    const unsigned char *p;
    size_t at = off, n;
    int count = 0;
    if (c->resp3 && off == 0) {
        iov[count].iov_base = (void *)(uintptr_t)">";
        iov[count++].iov_len = 1;
        at = 1;
    }
    while (count < max && (n = slice_part(&m->bytes, &at, &p)) > 0) {
        iov[count].iov_base = (void *)(uintptr_t)p;
        iov[count++].iov_len = n;
    }
    return count;
}

/* Short messages lie one behind the other in the pool: as many as follow each other are one piece. */
static int joined(struct iovec *iov, int count, int more)
{
    struct iovec *last = iov + count - 1;
    if (count == 0 || more == 0 || (unsigned char *)last->iov_base + last->iov_len != iov[count].iov_base) {
        return count + more;
    }
    last->iov_len += iov[count].iov_len;
    memmove(iov + count, iov + count + 1, (size_t)(more - 1) * sizeof *iov);
    return count + more - 1;
}

/* The list of those that wait is sorted by what they stand at. `fresh` is the first that has not been looked into; those
 * before it stand, in this send, at `walk`. So few are compared for each message, however many wait. */
int pubsub_gather(struct conn *conn, struct iovec *iov, int max)
{
    struct client *c = conn->owner;
    struct subscription *fresh = c->sub.pending;
    size_t off = c->sub.sent;
    int count = 0;
    if (fresh == NULL || (!conn->midway && in_mid_answer(c))) {
        return 0;
    }
    while (count + 2 <= max) {
        struct subscription *best = fresh;
        const struct message *m = fresh != NULL ? fresh->at : NULL;
        for (struct subscription *s = c->sub.pending; s != fresh; s = s->wait_next) {
            if (s->walk != NULL && (m == NULL || s->walk->seq < m->seq)) {
                best = s;
                m = s->walk;
            }
        }
        if (m == NULL) {
            break;
        }
        if (best == fresh) {
            fresh = fresh->wait_next;
        }
        best->walk = subscription_after(best, m);
        count = joined(iov, count, put_message(c, m, off, iov + count, max - count));
        off = 0;
        if (conn->midway) {
            break; /* behind its rest c->out has its turn */
        }
    }
    return count;
}

void pubsub_sent(struct conn *conn, size_t n)
{
    struct client *c = conn->owner;
    while (n > 0) {
        struct subscription *s = c->sub.pending;
        size_t left;
        must(s != NULL);
        left = s->at->bytes.len - c->sub.sent;
        conn->midway = n < left;
        if (n < left) {
            c->sub.sent += n;
            return;
        }
        n -= left;
        c->sub.sent = 0;
        stats.messages_out++;
        subscription_got(s);
        channel_let_go(s->channel);
    }
}

static void on_tick(struct timer *t)
{
    struct client *c = feed_stuck_ms() >= GREEDY_MS ? subscription_greediest() : NULL;
    if (c != NULL) {
        close_greedy(c, message_room() == 0 ? "max_messages" : "chunks");
    }
    loop_timer(t, loop_ms() + GREEDY_MS / 4);
}

/* ---------------------------------------------------------------- publish */

/* Everybody's go through one node, the one that messages come from: so they come in the order in which one client sent
 * them, whatever their channels. */
uint16_t pubsub_slot(struct service *s, const struct request *q)
{
    if (q->command->keys != KEYS_NONE) {
        return slotmap_slot(q->p + q->arg[1].off, q->arg[1].len);
    }
    feed_primary(s);
    return feed_primary_slot(s);
}

static uint32_t receivers(const struct service *s, bool shard, const void *name, size_t n)
{
    const struct channel *ch = channel_find(s, shard ? CHANNEL_SHARD : CHANNEL_PLAIN, name, n);
    uint32_t count = ch == NULL ? 0 : ch->told;
    for (ch = shard ? NULL : channel_first(CHANNEL_PATTERN); ch != NULL; ch = ch->next) {
        if (ch->service == s && ch->told > 0 && channel_glob(channel_name(ch), ch->name_len, name, n)) {
            count += ch->told;
        }
    }
    return count;
}

uint32_t pubsub_receivers(const struct service *s, const struct request *q)
{
    return receivers(s, q->command->keys != KEYS_NONE, q->p + q->arg[1].off, q->arg[1].len);
}

/* The node counts us once, for however many clients: r->mark says how many. */
static bool answer_published(struct req *r)
{
    unsigned char line[RESP_HEADER_CAP];
    return req_to_client(r, line, resp_put_header(line, ':', (int64_t)r->mark), true);
}

static void hold(struct req *r)
{
    r->next = NULL;
    *(ps.published != NULL ? &ps.published_tail->next : &ps.published) = r;
    ps.published_tail = r;
}

/* A message comes by another connection than its PUBLISH's answer, and may come later. The answer waits for it, so that who
 * subscribes or leaves after that gets what it would get of one server: r->to is the node, r->ahead the number of a PING there. */
bool pubsub_published(struct req *r, const unsigned char *p, size_t n, bool last)
{
    if (n == 0 || *p != ':' || !last || r->client == NULL) {
        return req_to_client(r, p, n, last);
    }
    if (r->mark == 0 || r->upstream == NULL) {
        return answer_published(r);
    }
    slice_release(&r->bytes);
    req_settle(r); /* what its client asks next need not wait as well */
    r->state = REQ_PARTS;
    r->to = r->upstream->backend->index;
    r->ahead = feed_sound(r->upstream->backend);
    r->due_ms = (uint32_t)loop_ms() + HOLD_MS;
    if (ps.published == NULL) {
        loop_timer(&ps.hold, loop_ms() + HOLD_MS);
    }
    hold(r);
    ps.told = ps.told || feed_has_told(r->upstream->backend, r->ahead);
    return true;
}

static void on_told(void)
{
    ps.told = ps.told || ps.published != NULL;
}

static void on_hold(struct timer *t)
{
    ps.told = ps.published != NULL;
    if (ps.told) {
        loop_timer(t, loop_ms() + HOLD_MS / 4);
    }
}

/* Answers those whose messages have come. */
static void answer_told(void)
{
    struct req *r = ps.published, *last = ps.published_tail;
    ps.published = ps.published_tail = NULL;
    for (struct req *next; r != NULL; r = next) {
        struct backend *b = backend_at(r->to);
        bool due = (int32_t)(r->due_ms - (uint32_t)loop_ms()) <= 0 || b == NULL || feed_has_told(b, r->ahead);
        next = r == last ? NULL : r->next;
        if (!due || !answer_published(r)) {
            hold(r);
        }
    }
}

static void on_large_publish(const struct client *c, struct req *r, const void *name, size_t n)
{
    r->take = pubsub_published;
    r->mark = receivers(c->service, r->command->keys != KEYS_NONE, name, n);
}

/* ----------------------------------------------------------------- PUBSUB */

uint32_t pubsub_channels(const struct service *s, enum channel_kind kind)
{
    return channel_count(s, kind);
}

static bool shown(const struct client *c, const struct channel *ch, const struct word *pattern)
{
    return ch->service == c->service && ch->told > 0 &&
           (pattern == NULL || channel_glob((const unsigned char *)pattern->p, pattern->n, channel_name(ch), ch->name_len));
}

static void say_channels(const struct client *c, enum channel_kind kind, const struct word *pattern)
{
    int64_t count = 0;
    for (const struct channel *ch = channel_first(kind); ch != NULL; ch = ch->next) {
        count += shown(c, ch, pattern);
    }
    say_header('*', count);
    for (const struct channel *ch = channel_first(kind); ch != NULL && !say_overlong(); ch = ch->next) {
        if (shown(c, ch, pattern)) {
            say_bulk(channel_name(ch), ch->name_len);
        }
    }
}

static void say_numbers(const struct client *c, const struct request *q, enum channel_kind kind)
{
    struct words w = words_from(q, 2);
    struct word name;
    say_header('*', 2 * ((int64_t)q->argc - 2));
    while (words_next(&w, &name)) {
        const struct channel *ch = channel_named(c, kind, name);
        say_bulk(name.p, name.n);
        say_header(':', ch != NULL ? ch->told : 0);
    }
}

static void say_pubsub_help(void)
{
    static const char *const lines[] = {
        "CHANNELS [<pattern>]", "    Return the currently active channels matching a <pattern> (default: '*').",
        "NUMPAT", "    Return number of subscriptions to patterns.",
        "NUMSUB [<channel> ...]", "    Return the number of subscribers for the specified channels, excluding",
        "    pattern subscriptions(default: no channels).",
        "SHARDCHANNELS [<pattern>]",
        "    Return the currently active shard level channels matching a <pattern> (default: '*').",
        "SHARDNUMSUB [<shardchannel> ...]",
        "    Return the number of subscribers for the specified shard level channel(s)", NULL,
    };
    say_help("PUBSUB", lines);
}

void pubsub_answer(struct client *c, const struct request *q)
{
    struct word sub = request_word(q, 1), pattern = request_word(q, 2);
    bool shard = sub.n > 5 && (sub.p[0] | 0x20) == 's';
    if ((q->command->flags & CMD_CONTAINER) != 0) {
        say_unknown(q);
    } else if (word_is(sub, "help")) {
        say_pubsub_help();
    } else if (word_is(sub, "numpat")) {
        say_header(':', channel_count(c->service, CHANNEL_PATTERN));
    } else if (word_is(sub, "numsub") || word_is(sub, "shardnumsub")) {
        say_numbers(c, q, shard ? CHANNEL_SHARD : CHANNEL_PLAIN);
    } else if (q->argc > 3) {
        say_error("ERR unknown subcommand or wrong number of arguments for '%.*s'. Try PUBSUB HELP.", word_shown(sub),
                  sub.p);
    } else {
        say_channels(c, shard ? CHANNEL_SHARD : CHANNEL_PLAIN, q->argc == 3 ? &pattern : NULL);
    }
}

/* ------------------------------------------------------------- the turn */

/* Answers go a turn later than the messages that they have waited for, and so behind them also to who publishes to itself. */
void pubsub_turn(void)
{
    if (ps.tell) {
        answer_told();
    }
    ps.tell = ps.told;
    ps.told = false;
    feed_turn();
}

bool pubsub_pending(void)
{
    return ps.tell || ps.told || feed_pending();
}

/* -------------------------------------------------------------- the tables */

static const struct feed_events events = { .settled = on_settled, .message = on_message, .lost = on_lost, .told = on_told };

void redis_pubsub_tables(const struct conf *conf)
{
    redis_channel_tables(conf);
    redis_link_tables(conf);
}

void redis_pubsub_open(void)
{
    feed_events = &events;
    redis_channel_open();
    redis_link_open();
    redis_feed_open();
    large_on_publish = on_large_publish;
    ps.hold.on_due = on_hold;
    ps.tick.on_due = on_tick;
    loop_timer(&ps.tick, loop_ms() + GREEDY_MS / 4);
}
