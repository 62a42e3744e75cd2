/*
 * mongo_door.c - who may come in to a section in pooled mode: logins with SCRAM-SHA-256, checked here.
 *
 *   saslStart, or a hello's start of it --> who is it --> an answer with salt and nonce --+
 *      (behind wrong guesses it waits first)  a user of the section, or keys that fit nobody |  struct door_talk
 *   saslContinue --> proven: p->user        <-------------------------------------------+
 *                    not:    18, counted by guesses.c; what is said is the same whoever it was
 *
 *   what goes to a mongos --door_admits()--> with users: only of somebody who has logged in
 *                                            without, but with a login of our own there: only of this machine (`protected`)
 *
 * A mongos never hears of these logins: all clients share connections there, which have a login of their own.
 * What has to wait is the start of a login, before anything is known of the guess: a slow answer would tell that it is wrong.
 * A start within a hello does not wait: it is left out, and its driver comes with a saslStart.
 *
 * Owns the table of logins under way; p->user and the door's part of p->greeting.
 */
#include "mongo.h"
#include "scram.h"

#include <stdio.h>
#include <string.h>

#define FIRST_MAX 448        /* bytes of a client's first message: a name, a nonce, and what stands between them */
#define TALK_MAX 512         /* bytes that a login under way may cost */

/* One login under way. */
struct door_talk {
    union {
        struct scram_server server;
        char first[FIRST_MAX];  /* while its start waits */
    } u;
    struct door_talk *next;     /* free list */
    int32_t id;                 /* conversationId */
    uint16_t first_len;         /* 0: it has begun */
    uint8_t user;               /* DOOR_NOBODY: there is no such user, but only the last answer may tell */
    bool skip_empty, proven;    /* proven: but for an empty exchange, which older drivers want */
};
typedef char talk_fits[sizeof(struct door_talk) <= TALK_MAX ? 1 : -1];

static struct {
    struct door_talk *all, *free;
    uint32_t total, used;       /* of all: those behind `used` have never been taken */
    int32_t last_id;            /* of answers, and of conversations */
    unsigned char secret[32];   /* what the salts of nobody are made of */
    struct hmac_key random;
    uint64_t drawn;
    const struct conf *conf;
} door;

void door_tables(const struct conf *conf)
{
    bool some = false;
    for (int i = 0; i < conf->service_count; i++) {
        some = some || (conf->services[i].kind == SERVICE_MONGO && conf->services[i].user_count > 0);
    }
    door.total = some ? conf->max_clients : 0;
    if (some) {
        door.all = arena_take("mongo logins", door.total, sizeof *door.all);
    }
}

bool door_has_tables(void)
{
    return door.total > 0;
}

/* The salt of nobody has to be the same as long as those of the users are: behind a restart, and in another process with the
 * same users. What only those hold who can read the keys is a secret all the same. */
void door_users(void)
{
    const struct conf *conf = door.conf;
    unsigned char tag[HASH_MAX];
    struct hash h;
    hash_start(&h, HASH_SHA_256);
    for (int i = 0; i < conf->service_count; i++) {
        const struct conf_service *s = &conf->services[i];
        for (int k = 0; s->kind == SERVICE_MONGO && k < s->user_count; k++) {
            hash_add(&h, s->users[k].keys.stored, sizeof s->users[k].keys.stored);
        }
    }
    hash_end(&h, tag);
    memcpy(door.secret, tag, sizeof door.secret);
}

void door_start(const struct conf *conf)
{
    unsigned char seed[32];
    door.conf = conf;
    door_users();
    os_random(seed, sizeof seed);
    hmac_key(&door.random, HASH_SHA_256, seed, sizeof seed);
}

/* Bytes that nobody can guess, and that come only once: the system's are not asked for while clients wait. */
static void draw(unsigned char out[SCRAM_RANDOM])
{
    unsigned char tag[HASH_MAX];
    struct hash h;
    door.drawn++;
    hmac_start(&h, &door.random);
    hash_add(&h, &door.drawn, sizeof door.drawn);
    hmac_end(&h, &door.random, tag);
    memcpy(out, tag, SCRAM_RANDOM);
}

static int32_t next_id(void)
{
    door.last_id = door.last_id < INT32_MAX ? door.last_id + 1 : 1;
    return door.last_id;
}

void door_begin_answer(struct bson *b, void *out, size_t cap, const struct wire_header *asked)
{
    mongomsg_begin_answer(b, out, cap, asked, next_id());
}

size_t door_refuse(const struct wire_header *asked, enum mongo_code code, const char *text, void *out, size_t cap)
{
    mongo_refused(code);
    return mongomsg_refuse(out, cap, asked, next_id(), code, text, NULL);
}

/* ------------------------------------------------------------ who may in */

bool door_guarded(const struct pooled *p)
{
    return p->service->conf->user_count > 0;
}

void door_open(struct pooled *p)
{
    const struct conf_service *conf = p->service->conf;
    p->user = DOOR_NOBODY;
    p->greeting.barred = !door_guarded(p) && conf->upstream_user[0] != '\0' &&
                         guesses_bar(conf, &p->conn->peer, "client may do nothing: the section has a login at the mongos but no users, "
                                     "so only this machine's clients are served (user, protected)");
}

bool door_stranger(const struct pooled *p)
{
    return p->greeting.barred || (door_guarded(p) && p->user == DOOR_NOBODY);
}

bool door_admits(const struct pooled *p, enum mongo_code *code, const char **text)
{
    static char said[WIRE_COMMAND_CAP + 64];
    *code = MONGO_CODE_UNAUTHORIZED;
    if (p->greeting.barred) {
        *text = "Puerta is in protected mode: this address has no users but a login at the mongos, so it serves only clients of its own "
                "machine. To admit those of others, give it users in the [mongo NAME] section of its configuration (user); or set "
                "protected = no where the network itself keeps strangers out";
        return false;
    }
    if (door_stranger(p)) {
        snprintf(said, sizeof said, "command %s requires authentication", p->asks.command);
        *text = said;
        return false;
    }
    return true;
}

/* ------------------------------------------------------- a login under way */

static void talk_end(struct pooled *p)
{
    struct door_talk *t = p->greeting.talk;
    if (t != NULL) {
        memset(&t->u, 0, sizeof t->u);
        t->next = door.free;
        door.free = t;
        p->greeting.talk = NULL;
    }
    p->greeting.login = false;
}

/* A new one in the place of the one there may be. There is an entry for each client. */
static struct door_talk *talk_take(struct pooled *p)
{
    struct door_talk *t;
    talk_end(p);
    t = door.free;
    if (t != NULL) {
        door.free = t->next;
    } else {
        must(door.used < door.total);
        t = &door.all[door.used++];
    }
    memset(t, 0, sizeof *t);
    t->user = DOOR_NOBODY;
    t->id = next_id();
    p->greeting.talk = t;
    return t;
}

void door_close(struct pooled *p)
{
    talk_end(p);
    p->user = DOOR_NOBODY;
}

/* The keys of a user; for nobody, keys that look like those of the users there are, and fit nothing. The work is the same. */
static void keys_of(const struct pooled *p, const struct door_talk *t, struct scram_keys *keys)
{
    const struct conf_service *conf = p->service->conf;
    const char *name = t->u.server.name;
    const struct scram_keys *like;
    scram_keys_fake(keys, door.secret, name, strlen(name));
    if (conf->user_count == 0) { /* since this login began */
        return;
    }
    like = &conf->users[keys->stored[0] % conf->user_count].keys;
    keys->rounds = like->rounds;
    keys->salt_len = like->salt_len < keys->salt_len ? like->salt_len : keys->salt_len;
    if (t->user != DOOR_NOBODY) {
        *keys = conf->users[t->user].keys;
    }
}

/* The index of the user of that name. */
static uint8_t user_named(const struct conf_service *conf, const char *name)
{
    uint8_t found = DOOR_NOBODY;
    for (int i = 0; i < conf->user_count; i++) {
        if (strcmp(conf->users[i].name, name) == 0) {
            found = (uint8_t)i;
        }
    }
    return found;
}

/* Users are known by their place in the configuration. */
static uint8_t user_now(const struct pooled *p, const struct conf_service *before, uint8_t user)
{
    return user == DOOR_NOBODY ? user : user_named(p->service->conf, before->users[user].name);
}

bool door_stays(struct pooled *p, const struct conf_service *before)
{
    const struct conf_service *conf = p->service->conf;
    struct door_talk *t = p->greeting.talk;
    uint8_t was = p->user;
    p->user = user_now(p, before, was);
    if (t != NULL) {
        t->user = user_now(p, before, t->user);
    }
    p->greeting.barred = p->greeting.barred && !door_guarded(p) && conf->upstream_user[0] != '\0' && conf->protect;
    return was == DOOR_NOBODY ? before->user_count > 0 || !door_guarded(p) : p->user != DOOR_NOBODY;
}

/* What a login begins with. */
struct start {
    const char *first;          /* into the request */
    size_t len;
    bool skip_empty;
    enum mongo_code code;
    const char *wrong;          /* NULL: nothing */
};

static struct start start_read(const struct bson_reader *r)
{
    struct start s = { NULL, 0, false, MONGO_CODE_NONE, NULL };
    struct bson_element e;
    const char *name;
    int64_t yes;
    size_t n;
    if (!bson_find(r, "mechanism", &e) || (name = bson_text(&e, &n)) == NULL || strcmp(name, "SCRAM-SHA-256") != 0) {
        s.code = MONGO_CODE_AUTHENTICATION_FAILED;
        s.wrong = "the mechanism of logins here is SCRAM-SHA-256, and no other";
    } else if (!bson_find(r, "payload", &e) || e.type != BSON_BINARY) {
        s.code = MONGO_CODE_TYPE_MISMATCH;
        s.wrong = "the payload of a login is binary";
    } else {
        s.first = (const char *)e.value + 5;
        s.len = e.len - 5;
        s.skip_empty = bson_find(r, "options.skipEmptyExchange", &e) && bson_number(&e, &yes) && yes != 0;
    }
    return s;
}

/* Answers the first message of t, which lies elsewhere. 0: it is none. */
static size_t talk_first(struct pooled *p, struct door_talk *t, const char *first, size_t n, char *out, size_t cap)
{
    unsigned char random[SCRAM_RANDOM];
    struct scram_keys keys;
    if (!scram_server_name(&t->u.server, first, n)) {
        return 0;
    }
    t->user = user_named(p->service->conf, t->u.server.name);
    keys_of(p, t, &keys);
    draw(random);
    return scram_server_first(&t->u.server, first, n, &keys, random, out, cap);
}

static void put_step(struct bson *b, const struct door_talk *t, bool done, const char *payload, size_t n)
{
    bson_int32(b, "conversationId", t->id);
    bson_bool(b, "done", done);
    bson_binary(b, "payload", 0, payload, n);
}

static size_t step_write(const struct pooled *p, const struct door_talk *t, bool done, const char *payload, size_t n, void *out, size_t cap)
{
    struct bson b;
    door_begin_answer(&b, out, cap, &p->greeting.asked);
    put_step(&b, t, done, payload, n);
    bson_double(&b, "ok", 1.0);
    return mongomsg_finish(&b);
}

/* A guess was wrong, or was none at all: counted, and nothing is said of why. */
static size_t fail(struct pooled *p, void *out, size_t cap)
{
    char text[ADDRESS_TEXT];
    talk_end(p);
    p->greeting.guesses++;
    guesses_add(&p->conn->peer, loop_ms());
    stats.auth_failures++;
    log_warn("wrong user or password", "client=%s", address_text(&p->conn->peer, text));
    return door_refuse(&p->greeting.asked, MONGO_CODE_AUTHENTICATION_FAILED, "Authentication failed.", out, cap);
}

/* It has shown that it knows the password. */
static void admit(struct pooled *p)
{
    p->user = p->greeting.talk->user;
    p->greeting.guesses = 0;
    talk_end(p);
}

/* ------------------------------------------------------------ the commands */

/* How long a guess of p's is not looked at yet. */
static uint32_t wait_of(const struct pooled *p)
{
    uint32_t source = guesses_of(&p->conn->peer, loop_ms());
    return guesses_wait_ms(p->greeting.guesses > source ? p->greeting.guesses : source);
}

static size_t first_answer(struct pooled *p, const char *first, size_t n, void *out, size_t cap)
{
    struct door_talk *t = p->greeting.talk;
    char payload[SCRAM_TEXT_MAX];
    size_t len = talk_first(p, t, first, n, payload, sizeof payload);
    return len == 0 ? fail(p, out, cap) : step_write(p, t, false, payload, len, out, cap);
}

size_t door_begin(struct pooled *p, const struct bson_reader *r, void *out, size_t cap)
{
    const struct wire_header *asked = &p->greeting.asked;
    struct start s = start_read(r);
    struct door_talk *t;
    uint32_t wait_ms = wait_of(p);
    talk_end(p);
    if (!door_guarded(p)) {
        return door_refuse(asked, MONGO_CODE_AUTHENTICATION_FAILED,
                           "this address takes no logins (it has no users): leave user and password out of the connection string", out, cap);
    }
    if (s.wrong != NULL || wire_more_to_come(&p->asks)) { /* nobody would hear the answer, nor wait for it */
        return door_refuse(asked, s.wrong != NULL ? s.code : MONGO_CODE_PROTOCOL_ERROR, s.wrong != NULL ? s.wrong : "a login needs answers",
                           out, cap);
    }
    if (s.len == 0 || s.len > FIRST_MAX) {
        return fail(p, out, cap);
    }
    t = talk_take(p);
    t->skip_empty = s.skip_empty;
    if (wait_ms == 0) {
        return first_answer(p, s.first, s.len, out, cap);
    }
    memcpy(t->u.first, s.first, s.len);
    t->first_len = (uint16_t)s.len;
    p->until_ms = loop_ms() + wait_ms;
    p->greeting.waits = p->greeting.login = true;
    stats.auth_delayed++;
    return 0;
}

size_t door_again(struct pooled *p, void *out, size_t cap)
{
    struct door_talk *t = p->greeting.talk;
    char first[FIRST_MAX];
    size_t n = t->first_len;
    if (loop_ms() < p->until_ms) {
        return 0;
    }
    p->greeting.waits = p->greeting.login = false;
    memcpy(first, t->u.first, n);
    memset(&t->u, 0, sizeof t->u);
    t->first_len = 0;
    return first_answer(p, first, n, out, cap);
}

void door_speculate(struct pooled *p, const struct bson_element *speculative, struct bson *answer)
{
    struct bson_reader r = bson_enter(speculative);
    struct start s = start_read(&r);
    char payload[SCRAM_TEXT_MAX];
    struct door_talk *t;
    size_t n;
    if (!door_guarded(p) || s.wrong != NULL || s.len == 0 || s.len > FIRST_MAX || wire_more_to_come(&p->asks) || wait_of(p) > 0) {
        return;
    }
    t = talk_take(p);
    t->skip_empty = s.skip_empty;
    n = talk_first(p, t, s.first, s.len, payload, sizeof payload);
    if (n == 0) {
        talk_end(p);
        return;
    }
    bson_document(answer, "speculativeAuthenticate");
    put_step(answer, t, false, payload, n);
    bson_close(answer);
}

/* The client's last message but for the empty one: its proof. */
static size_t prove(struct pooled *p, const void *final, size_t n, void *out, size_t cap)
{
    struct door_talk *t = p->greeting.talk;
    char payload[SCRAM_TEXT_MAX];
    struct scram_keys keys;
    size_t len;
    keys_of(p, t, &keys);
    len = scram_server_final(&t->u.server, &keys, final, n, payload, sizeof payload);
    if (len == 0 || t->user == DOOR_NOBODY) {
        return fail(p, out, cap);
    }
    t->proven = true;
    len = step_write(p, t, t->skip_empty, payload, len, out, cap);
    if (t->skip_empty) {
        admit(p);
    }
    return len;
}

size_t door_continue(struct pooled *p, const struct bson_reader *r, void *out, size_t cap)
{
    struct door_talk *t = p->greeting.talk;
    struct bson_element id, payload;
    int64_t number;
    size_t n;
    if (t == NULL || !bson_find(r, "conversationId", &id) || !bson_number(&id, &number) || number != t->id) {
        talk_end(p);
        return door_refuse(&p->greeting.asked, MONGO_CODE_PROTOCOL_ERROR, "saslContinue goes on with no login that is under way here", out, cap);
    }
    if (!bson_find(r, "payload", &payload) || payload.type != BSON_BINARY) {
        talk_end(p);
        return door_refuse(&p->greeting.asked, MONGO_CODE_TYPE_MISMATCH, "the payload of a login is binary", out, cap);
    }
    if (!t->proven) {
        return prove(p, payload.value + 5, payload.len - 5, out, cap);
    }
    if (payload.len > 5) {
        return fail(p, out, cap);
    }
    n = step_write(p, t, true, NULL, 0, out, cap);
    admit(p);
    return n;
}

size_t door_logout(struct pooled *p, const struct bson_reader *r, void *out, size_t cap)
{
    struct bson b;
    (void)r;
    door_close(p);
    door_begin_answer(&b, out, cap, &p->greeting.asked);
    bson_double(&b, "ok", 1.0);
    return mongomsg_finish(&b);
}
