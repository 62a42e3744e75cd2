/*
 * mongo_login.c - what Puerta says first on a connection of its own to a mongos: hello, and its login by SCRAM.
 *
 *   hello (client, saslSupportedMechs, speculativeAuthenticate: SHA-256) ---> no user: ready
 *      |  not SHA-256?  saslStart (SHA-1) --.
 *      `---> salt, rounds <-----------------'
 *               | known: at once      | new: waits for the job
 *               |                     v
 *               |        list of logins <--- job: one password at a time is salted, PIECE_US a turn
 *               v
 *            saslContinue (proof) ---> signature ---> ready, or one empty exchange more
 *
 * Owns the salted passwords, a few for each section: by mechanism, salt and rounds, so that only the first login costs those rounds.
 * A struct mongo_login lives inside the owner of its connection, and is in the list only while it waits for the job.
 * Nothing is taken on trust: each answer is for what was asked, whole, alone, and of one conversation; the server shows that it
 * knows the password as well. A login that takes longer than handshake_timeout has failed.
 */
#include "mongo.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#define SALTED 16          /* of one section: all mongos tell the same salt of a user, but each its own of __system */
#define PIECE_US 800       /* of salting, then everybody else has a turn */
#define REST_MS 2          /* between the starts of two pieces */
#define CALIBRATE 2000     /* rounds that are timed at the start */
#define WHY_CAP 400
#define QUESTION_CAP 2048

enum { IDLE, HELLO, START, SALT, PROOF, EMPTY };

/* A password as one salt and number of rounds make it. */
struct salted {
    const struct conf_service *conf; /* NULL: the entry is empty */
    uint8_t mechanism, salt_len;
    uint32_t rounds;
    unsigned char salt[SCRAM_SALT_MAX];
    uint64_t used;
    struct scram_client_keys keys;
};

static struct {
    struct salted *all;         /* SALTED for each section */
    uint32_t count;
    uint64_t uses, nonces;
    unsigned char secret[32];   /* nonces are made of it */
    int32_t last_id;
    uint32_t piece;             /* rounds that take PIECE_US */
    char os[64];
    struct mongo_login *first;  /* those that wait for a salted password, oldest first */
    struct salted job;          /* what is being salted; its conf NULL: nothing is */
    struct scram_salting work;
    struct timer timer;
} ml;

static unsigned char answer[16384]; /* one that is being read */
static unsigned char question[QUESTION_CAP];
static char why[WHY_CAP];

static void job_tick(struct timer *t);

void mongo_login_tables(const struct conf *conf)
{
    ml.count = (uint32_t)conf_services(conf, SERVICE_MONGO) * SALTED;
    ml.all = arena_take("salted passwords", ml.count, sizeof *ml.all);
}

/* How many rounds a piece may have, on this machine. */
static uint32_t calibrate(void)
{
    clock_t from = clock(), took;
    scram_salt_begin(&ml.work, SCRAM_SHA_256, "", 0, "", 0, CALIBRATE);
    scram_salt_step(&ml.work, CALIBRATE);
    took = clock() - from;
    uint64_t piece = took > 0 ? (uint64_t)CALIBRATE * PIECE_US * CLOCKS_PER_SEC / 1000000 / (uint64_t)took : CALIBRATE;
    return piece < 20 ? 20 : piece > 2 * CALIBRATE ? 2 * CALIBRATE : (uint32_t)piece;
}

void mongo_login_open(void)
{
    struct utsname system;
    snprintf(ml.os, sizeof ml.os, "%.*s", (int)sizeof ml.os - 1, uname(&system) >= 0 ? system.sysname : "unknown");
    os_random(ml.secret, sizeof ml.secret);
    ml.piece = calibrate();
    ml.timer.on_due = job_tick;
}

static bool has_user(const struct mongo_login *l)
{
    return l->backend->service->conf->upstream_user[0] != '\0';
}

/* ---------------------------------------------------------------- the end */

/* Takes it out of the list, if it is in it. */
static void unlist(struct mongo_login *l)
{
    struct mongo_login **at = &ml.first;
    while (*at != NULL && *at != l) {
        at = &(*at)->next;
    }
    if (*at == l) {
        *at = l->next;
    }
}

void mongo_login_stop(struct mongo_login *l)
{
    loop_timer_stop(&l->timer);
    unlist(l);
    chain_clear(&l->in);
    l->step = IDLE;
}

/* The last thing that is done with it: its owner may take it away. what: NULL: it is ready. */
static void end(struct mongo_login *l, const char *what)
{
    const struct backend *b = l->backend;
    const char *user = b->service->conf->upstream_user;
    char quoted[WHY_CAP];
    mongo_login_stop(l);
    if (what == NULL) {
        l->on_end(l, NULL);
        return;
    }
    if (has_user(l)) {
        snprintf(why, sizeof why, "the login of %.*s at %.80s:%u: %.160s", SCRAM_NAME_MAX, user, b->host, (unsigned)b->port, what);
    } else {
        snprintf(why, sizeof why, "the hello of %.80s:%u: %.160s", b->host, (unsigned)b->port, what);
    }
    if (l->code != MONGO_CODE_SHUTDOWN_IN_PROGRESS) {
        stats.upstream_login_failures += has_user(l);
        log_warn("a mongos does not let us in", "mongos=%s:%u why=%s", b->host, (unsigned)b->port,
                 log_quote(why, strlen(why), quoted, sizeof quoted));
    }
    l->on_end(l, why);
}

/* Ends it at the next turn: its owner is not told from within a call of his own, nor while the list is walked. */
static void end_soon(struct mongo_login *l, const char *what)
{
    l->late = what;
    loop_timer(&l->timer, loop_ms());
}

static void on_due(struct timer *t)
{
    struct mongo_login *l = (struct mongo_login *)(void *)((char *)t - offsetof(struct mongo_login, timer));
    end(l, l->late != NULL ? l->late : "it is not done within handshake_timeout");
}

/* -------------------------------------------------------------- questions */

static void begin(struct mongo_login *l, struct bson *b)
{
    ml.last_id = ml.last_id < INT32_MAX ? ml.last_id + 1 : 1;
    l->asked_id = ml.last_id;
    mongomsg_begin(b, question, sizeof question, WIRE_OP_MSG, 0, l->asked_id, 0);
}

static void ask(struct mongo_login *l, struct bson *b, const char *db, uint8_t step)
{
    bson_string(b, "$db", db);
    size_t n = mongomsg_finish(b);
    must(n > 0); /* names, nonces and proofs are bounded */
    l->step = step;
    if (chain_put(&l->conn->out, BUF_REPLY, question, n)) {
        conn_dirty(l->conn);
    } else {
        end_soon(l, "no chunk left for what we say (chunks)");
    }
}

/* What saslStart has, alone or within hello. */
static void put_start(struct mongo_login *l, struct bson *b, enum scram_mechanism m)
{
    const char *user = l->backend->service->conf->upstream_user;
    unsigned char tag[HASH_MAX];
    char first[SCRAM_TEXT_MAX];
    struct hmac_key key;
    struct hash h;
    hmac_key(&key, HASH_SHA_256, ml.secret, sizeof ml.secret);
    hmac_start(&h, &key);
    ml.nonces++;
    hash_add(&h, &ml.nonces, sizeof ml.nonces);
    hmac_end(&h, &key, tag);
    size_t n = scram_client_first(&l->scram, m, user, strlen(user), tag, first, sizeof first);
    bson_int32(b, "saslStart", 1);
    bson_string(b, "mechanism", scram_mechanism_name(m));
    bson_binary(b, "payload", 0, first, n);
    bson_document(b, "options");
    bson_bool(b, "skipEmptyExchange", true);
    bson_close(b);
}

static void ask_hello(struct mongo_login *l)
{
    const struct conf_service *conf = l->backend->service->conf;
    char name[DATABASE_CAP + SECRET_CAP];
    struct bson b;
    begin(l, &b);
    bson_int32(&b, "hello", 1);
    bson_bool(&b, "helloOk", true);
    bson_document(&b, "client");
    bson_document(&b, "application");
    bson_string(&b, "name", conf->name);
    bson_close(&b);
    bson_document(&b, "driver");
    bson_string(&b, "name", "puerta");
    bson_string(&b, "version", PUERTA_VERSION);
    bson_close(&b);
    bson_document(&b, "os");
    bson_string(&b, "type", ml.os);
    bson_close(&b);
    bson_close(&b);
    if (conf->upstream_proxy) { /* the loadBalancerPort serves nobody else */
        bson_bool(&b, "loadBalanced", true);
    }
    if (has_user(l)) {
        snprintf(name, sizeof name, "%s.%s", conf->upstream_auth_db, conf->upstream_user);
        bson_string(&b, "saslSupportedMechs", name);
        bson_document(&b, "speculativeAuthenticate");
        put_start(l, &b, SCRAM_SHA_256);
        bson_string(&b, "db", conf->upstream_auth_db);
        bson_close(&b);
    }
    ask(l, &b, "admin", HELLO);
}

static void ask_start(struct mongo_login *l, enum scram_mechanism m)
{
    struct bson b;
    begin(l, &b);
    put_start(l, &b, m);
    ask(l, &b, l->backend->service->conf->upstream_auth_db, START);
}

static void ask_continue(struct mongo_login *l, const char *payload, size_t n, uint8_t step)
{
    struct bson b;
    begin(l, &b);
    bson_int32(&b, "saslContinue", 1);
    bson_int32(&b, "conversationId", l->conversation);
    bson_binary(&b, "payload", 0, payload, n);
    ask(l, &b, l->backend->service->conf->upstream_auth_db, step);
}

static void ask_proof(struct mongo_login *l, const struct scram_client_keys *keys)
{
    char final[SCRAM_TEXT_MAX + 64]; /* the server's nonce, which has room in its own message, and a proof */
    size_t n = scram_client_final(&l->scram, keys, final, sizeof final);
    must(n > 0);
    ask_continue(l, final, n, PROOF);
}

/* -------------------------------------------------------- salted passwords */

/* The entry of what this login needs; NULL: there is none. */
static struct salted *salted_find(const struct mongo_login *l)
{
    for (struct salted *s = ml.all; s < ml.all + ml.count; s++) {
        if (s->conf == l->backend->service->conf && s->mechanism == l->scram.mechanism && s->rounds == l->scram.rounds &&
            s->salt_len == l->scram.salt_len && memcmp(s->salt, l->scram.salt, s->salt_len) == 0) {
            s->used = ++ml.uses;
            return s;
        }
    }
    return NULL;
}

/* Begins to salt what the oldest login of the list needs. */
static void job_begin(void)
{
    const struct mongo_login *l = ml.first;
    const struct conf_service *conf = l->backend->service->conf;
    const char *password = conf->upstream_key[0] != '\0' ? conf->upstream_key : conf->upstream_password;
    char digest[SCRAM_DIGEST];
    size_t n = strlen(password);
    ml.job.conf = conf;
    ml.job.mechanism = (uint8_t)l->scram.mechanism;
    ml.job.rounds = l->scram.rounds;
    ml.job.salt_len = l->scram.salt_len;
    memcpy(ml.job.salt, l->scram.salt, sizeof ml.job.salt);
    if (l->scram.mechanism == SCRAM_SHA_1) {
        scram_password_digest(conf->upstream_user, strlen(conf->upstream_user), password, n, digest);
        password = digest;
        n = sizeof digest;
    }
    scram_salt_begin(&ml.work, l->scram.mechanism, password, n, l->scram.salt, l->scram.salt_len, l->scram.rounds);
    loop_timer(&ml.timer, loop_ms());
}

/* Puts what has been salted in the place of what was not used for longest; ends the job. */
static void job_keep(void)
{
    struct salted *place = ml.all;
    for (struct salted *s = ml.all; s < ml.all + ml.count; s++) {
        if (s->used < place->used) {
            place = s;
        }
    }
    *place = ml.job;
    scram_client_keys(&place->keys, (enum scram_mechanism)ml.job.mechanism, &ml.work);
    place->used = ++ml.uses;
    ml.job.conf = NULL;
    memset(&ml.work, 0, sizeof ml.work);
}

/* One piece; behind the last one all go on who have waited for this. */
static void job_tick(struct timer *t)
{
    if (!scram_salt_step(&ml.work, ml.piece)) {
        loop_timer(t, loop_ms() + REST_MS);
        return;
    }
    job_keep();
    for (struct mongo_login *l = ml.first, *next; l != NULL; l = next) {
        const struct salted *s = salted_find(l);
        next = l->next;
        if (s != NULL) {
            unlist(l);
            ask_proof(l, &s->keys);
        }
    }
    if (ml.first != NULL) {
        job_begin();
    }
}

void mongo_login_conf(const struct conf_service *conf)
{
    for (struct salted *s = ml.all; s < ml.all + ml.count; s++) {
        if (s->conf == conf) {
            memset(s, 0, sizeof *s);
        }
    }
    if (ml.job.conf != conf) {
        return;
    }
    ml.job.conf = NULL;
    memset(&ml.work, 0, sizeof ml.work);
    loop_timer_stop(&ml.timer);
    if (ml.first != NULL) {
        job_begin();
    }
}

static void wait_for_job(struct mongo_login *l)
{
    struct mongo_login **last = &ml.first;
    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = l;
    l->next = NULL;
    l->step = SALT;
    if (ml.job.conf == NULL) {
        job_begin();
    }
}

/* ---------------------------------------------------------------- answers */

/* What the server says in one step. */
struct said {
    const unsigned char *payload;
    size_t n;
    int64_t conversation, done;
};

/* False: it is no answer to a step of a login. */
static bool said_read(const struct bson_reader *d, struct said *said)
{
    struct bson_element e;
    if (!bson_find(d, "conversationId", &e) || !bson_number(&e, &said->conversation) || !bson_find(d, "done", &e) ||
        !bson_number(&e, &said->done) || !bson_find(d, "payload", &e) || e.type != BSON_BINARY) {
        return false;
    }
    said->payload = e.value + 5;
    said->n = e.len - 5;
    return said->conversation >= INT32_MIN && said->conversation <= INT32_MAX;
}

/* Whether the list of mechanisms has this one. */
static bool offers(const struct bson_reader *d, const char *name)
{
    struct bson_element e;
    size_t n;
    if (!bson_find(d, "saslSupportedMechs", &e)) {
        return false;
    }
    struct bson_reader list = bson_enter(&e);
    while (bson_next(&list, &e)) {
        const char *text = bson_text(&e, &n);
        if (text != NULL && n == strlen(name) && memcmp(text, name, n) == 0) {
            return true;
        }
    }
    return false;
}

/* Salt and rounds. */
static void on_first(struct mongo_login *l, const struct bson_reader *d)
{
    struct said said;
    if (!said_read(d, &said) || said.done) {
        end(l, "its answer is no step of a login");
        return;
    }
    const char *wrong = scram_client_read(&l->scram, said.payload, said.n);
    if (wrong != NULL) {
        char text[WHY_CAP / 2];
        snprintf(text, sizeof text, "it says %s", wrong);
        end(l, text);
        return;
    }
    l->conversation = (int32_t)said.conversation;
    const struct salted *s = salted_find(l);
    if (s != NULL) {
        ask_proof(l, &s->keys);
    } else {
        wait_for_job(l);
    }
}

static void on_hello(struct mongo_login *l, const struct bson_reader *d)
{
    struct bson_element e;
    if (!has_user(l)) {
        end(l, NULL);
    } else if (bson_find(d, "speculativeAuthenticate", &e)) {
        struct bson_reader inner = bson_enter(&e);
        on_first(l, &inner);
    } else {
        ask_start(l, offers(d, "SCRAM-SHA-256") ? SCRAM_SHA_256 : SCRAM_SHA_1);
    }
}

/* The signature: who has it knows the password, or what is kept of it. */
static void on_signature(struct mongo_login *l, const struct bson_reader *d)
{
    struct said said;
    if (!said_read(d, &said) || said.conversation != l->conversation) {
        end(l, "its answer is no step of this login");
    } else if (!scram_client_verify(&l->scram, said.payload, said.n)) {
        end(l, "it does not show that it knows the password");
    } else if (said.done) {
        end(l, NULL);
    } else {
        ask_continue(l, "", 0, EMPTY);
    }
}

static void on_empty(struct mongo_login *l, const struct bson_reader *d)
{
    struct said said;
    bool good = said_read(d, &said) && said.conversation == l->conversation && said.done && said.n == 0;
    end(l, good ? NULL : "its answer is not the last step of this login");
}

/* An answer with ok 0. Its words may go into logs and to clients, so they become plain ones. */
static void refused(struct mongo_login *l, const struct bson_reader *d)
{
    struct bson_element e;
    const char *text = NULL;
    char words[121] = "", said[160];
    size_t n = 0;
    if (bson_find(d, "code", &e)) {
        bson_number(&e, &l->code);
    }
    if (bson_find(d, "errmsg", &e)) {
        text = bson_text(&e, &n);
    }
    for (size_t i = 0; text != NULL && i < n && i < sizeof words - 1; i++) {
        words[i] = (char)(text[i] >= ' ' && text[i] <= '~' ? text[i] : '?');
    }
    snprintf(said, sizeof said, "%s (code %lld)", words, (long long)l->code);
    end(l, l->code == MONGO_CODE_SHUTDOWN_IN_PROGRESS ? "it is shutting down (code 91)" : said);
}

/* Judges a whole answer. */
static void on_answer(struct mongo_login *l, size_t n)
{
    struct wire_header h = wire_header_get(answer);
    struct bson_reader d = mongomsg_document(answer, n);
    struct bson_element e;
    int64_t ok;
    if (h.opcode != WIRE_OP_MSG || h.response_to != l->asked_id || d.bad ||
        (bson_get32(answer + WIRE_HEADER) & WIRE_MORE_TO_COME) != 0 || !bson_find(&d, "ok", &e) || !bson_number(&e, &ok)) {
        end(l, "it does not answer as a mongos does");
        return;
    }
    if (!ok) {
        refused(l, &d);
        return;
    }
    switch (l->step) {
    case HELLO: on_hello(l, &d); break;
    case START: on_first(l, &d); break;
    case PROOF: on_signature(l, &d); break;
    case EMPTY: on_empty(l, &d); break;
    default: must(false);
    }
}

void mongo_login_bytes(struct mongo_login *l)
{
    size_t have = l->in.len, length;
    must(have < sizeof answer);
    chain_copy(&l->in, answer, have);
    ssize_t got = conn_receive(l->conn, answer + have, sizeof answer - have);
    if (got == CONN_ENDED) {
        end(l, "the mongos closed the connection");
    }
    if (got <= 0) {
        return;
    }
    have += (size_t)got;
    length = have < 4 ? WIRE_HEADER : bson_get32(answer);
    if (l->step == SALT || (have > length && length >= WIRE_HEADER)) {
        end(l, "it speaks out of turn");
    } else if (length < WIRE_HEADER || length > sizeof answer) {
        end(l, "it does not answer as a mongos does");
    } else if (have == length) {
        chain_clear(&l->in);
        on_answer(l, have);
    } else if (!chain_put(&l->in, BUF_REPLY, answer + have - (size_t)got, (size_t)got)) {
        end(l, "no chunk left for its answer (chunks)");
    }
}

void mongo_login_begin(struct mongo_login *l, struct backend *b, struct conn *c, void (*on_end)(struct mongo_login *, const char *))
{
    memset(l, 0, sizeof *l);
    l->backend = b;
    l->conn = c;
    l->on_end = on_end;
    l->timer.on_due = on_due;
    loop_timer(&l->timer, loop_ms() + b->service->conf->handshake_timeout_ms);
    ask_hello(l);
}
