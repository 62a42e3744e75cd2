/* scram.c - logins by SCRAM.
 *
 *   client                                   server
 *     n,,n=USER,r=CNONCE            -->
 *                                   <--       r=CNONCE SNONCE,s=SALT,i=ROUNDS
 *     c=biws,r=CNONCE SNONCE,p=PROOF -->
 *                                   <--       v=SIGNATURE
 *
 *   password --Hi(salt, rounds)--> salted --> ClientKey --> StoredKey      the server keeps StoredKey and ServerKey
 *                                         `-> ServerKey
 *   signed by both: n=USER,r=CNONCE , r=...,s=...,i=... , c=biws,r=...
 *   PROOF = ClientKey ^ HMAC(StoredKey, signed), SIGNATURE = HMAC(ServerKey, signed)
 */
#include "scram.h"

#include <string.h>

/* ------------------------------------------------------- texts in and out */

/* Bytes not yet read. */
struct rest {
    const char *at, *end;
};

static struct rest rest_of(const void *bytes, size_t n)
{
    const struct rest r = {bytes, (const char *)bytes + n};

    return r;
}

static bool skip(struct rest *r, const char *text)
{
    const size_t n = strlen(text);

    if ((size_t)(r->end - r->at) < n || memcmp(r->at, text, n) != 0)
        return false;
    r->at += n;
    return true;
}

/* All up to the next comma, or to the end. */
static struct rest value(struct rest *r)
{
    const char *comma = memchr(r->at, ',', (size_t)(r->end - r->at));
    const struct rest v = {r->at, comma != NULL ? comma : r->end};

    r->at = v.end;
    return v;
}

static size_t length(const struct rest *r)
{
    return (size_t)(r->end - r->at);
}

/* A number of 1 to 9 digits that does not begin with 0; 0 if it is none. */
static uint32_t number(const struct rest *r)
{
    const char *p = r->at;
    uint32_t v = 0;

    if (length(r) < 1 || length(r) > 9 || *p == '0')
        return 0;
    for (; p < r->end; p++) {
        if (*p < '0' || *p > '9')
            return 0;
        v = 10 * v + (uint32_t)(*p - '0');
    }
    return v;
}

/* What a nonce may be made of: printable, and no comma, which value() leaves out. */
static bool is_nonce(const struct rest *r)
{
    const char *p;

    for (p = r->at; p < r->end; p++)
        if (*p < 0x21 || *p > 0x7E)
            return false;
    return length(r) > 0;
}

/* A text that grows in the caller's buffer; one that has no room stays `full`. */
struct text {
    char *out;
    size_t cap, len;
    bool full;
};

static void append_n(struct text *t, const void *bytes, size_t n)
{
    t->full = t->full || n > t->cap - t->len;
    if (t->full)
        return;
    memcpy(t->out + t->len, bytes, n);
    t->len += n;
}

static void append(struct text *t, const char *text)
{
    append_n(t, text, strlen(text));
}

static void append_number(struct text *t, uint32_t v)
{
    char digits[10];
    size_t at = sizeof digits;

    do
        digits[--at] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    append_n(t, digits + at, sizeof digits - at);
}

static void append_base64(struct text *t, const void *bytes, size_t n)
{
    char letters[(SCRAM_SALT_MAX + 2) / 3 * 4 + 1];

    append_n(t, letters, scram_base64(bytes, n, letters, sizeof letters));
}

static size_t written(const struct text *t)
{
    return t->full ? 0 : t->len;
}

/* ------------------------------------------------------------------ base64 */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t scram_base64(const void *bytes, size_t n, char *out, size_t cap)
{
    const unsigned char *p = bytes;
    size_t i, len = 0;

    if (cap == 0 || n > (cap - 1) / 4 * 3)
        return 0;
    for (i = 0; i < n; i += 3) {
        const uint32_t three = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);

        out[len++] = alphabet[three >> 18];
        out[len++] = alphabet[three >> 12 & 63];
        out[len++] = (char)(i + 1 < n ? alphabet[three >> 6 & 63] : '=');
        out[len++] = (char)(i + 2 < n ? alphabet[three & 63] : '=');
    }
    out[len] = '\0';
    return len;
}

bool scram_base64_read(const char *text, size_t n, unsigned char *out, size_t cap, size_t *len)
{
    const size_t pads = n == 0 || text[n - 1] != '=' ? 0 : n > 1 && text[n - 2] == '=' ? 2 : 1;
    uint32_t bits = 0;
    size_t i;

    *len = 0;
    if (n % 4 != 0 || n / 4 * 3 - pads > cap)
        return false;
    for (i = 0; i < n - pads; i++) {
        const char *at = memchr(alphabet, text[i], sizeof alphabet - 1);

        if (at == NULL)
            return false;
        bits = bits << 6 | (uint32_t)(at - alphabet);
        if (i % 4 != 0)
            out[(*len)++] = (unsigned char)(bits >> (6 - 2 * (i % 4)));
    }
    /* The bits that the padding leaves over are 0, so that each value has one text. */
    return (bits & (pads == 2 ? 15 : pads == 1 ? 3 : 0)) == 0;
}

/* Base64 of just n bytes. */
static bool read_base64(const struct rest *r, unsigned char *out, size_t n)
{
    size_t len;

    return scram_base64_read(r->at, length(r), out, n, &len) && len == n;
}

/* -------------------------------------------------------------------- keys */

static enum hash_kind kind_of(enum scram_mechanism m)
{
    return m == SCRAM_SHA_1 ? HASH_SHA_1 : HASH_SHA_256;
}

const char *scram_mechanism_name(enum scram_mechanism m)
{
    return m == SCRAM_SHA_1 ? "SCRAM-SHA-1" : "SCRAM-SHA-256";
}

static void sign(enum hash_kind kind, const void *key, const void *bytes, size_t n, unsigned char tag[HASH_MAX])
{
    struct hmac_key k;
    struct hash h;

    hmac_key(&k, kind, key, hash_size(kind));
    hmac_start(&h, &k);
    hash_add(&h, bytes, n);
    hmac_end(&h, &k, tag);
}

static void stored_key(enum hash_kind kind, const unsigned char *client, unsigned char stored[HASH_MAX])
{
    struct hash h;

    hash_start(&h, kind);
    hash_add(&h, client, hash_size(kind));
    hash_end(&h, stored);
}

void scram_salt_begin(struct scram_salting *s, enum scram_mechanism m, const void *password, size_t n, const void *salt,
                      size_t salt_len, uint32_t rounds)
{
    static const unsigned char first[4] = {0, 0, 0, 1};
    struct hash h;

    memset(s, 0, sizeof *s);
    hmac_key(&s->key, kind_of(m), password, n);
    hmac_start(&h, &s->key);
    hash_add(&h, salt, salt_len);
    hash_add(&h, first, sizeof first);
    hmac_end(&h, &s->key, s->last);
    memcpy(s->sum, s->last, sizeof s->sum);
    s->left = rounds - 1;
}

bool scram_salt_step(struct scram_salting *s, uint32_t rounds)
{
    size_t i;

    for (; rounds > 0 && s->left > 0; rounds--, s->left--) {
        hmac_again(&s->key, s->last);
        for (i = 0; i < sizeof s->sum; i++)
            s->sum[i] ^= s->last[i];
    }
    return s->left == 0;
}

void scram_client_keys(struct scram_client_keys *k, enum scram_mechanism m, const struct scram_salting *s)
{
    sign(kind_of(m), s->sum, "Client Key", 10, k->client);
    sign(kind_of(m), s->sum, "Server Key", 10, k->server);
    stored_key(kind_of(m), k->client, k->stored);
}

void scram_password_digest(const void *user, size_t user_len, const void *password, size_t n, char out[SCRAM_DIGEST])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char digest[HASH_MAX];
    struct hash h;
    size_t i;

    hash_start(&h, HASH_MD5);
    hash_add(&h, user, user_len);
    hash_add(&h, ":mongo:", 7);
    hash_add(&h, password, n);
    hash_end(&h, digest);
    for (i = 0; i < SCRAM_DIGEST; i++)
        out[i] = hex[digest[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15];
}

bool scram_keys_parse(struct scram_keys *k, const char *text)
{
    struct rest r = rest_of(text, strlen(text)), part;
    const char *mark = "$:$:";
    size_t len = 0;
    int i;

    memset(k, 0, sizeof *k);
    if (!skip(&r, "SCRAM-SHA-256"))
        return false;
    for (i = 0; mark[i] != '\0'; i++) {
        if (r.at == r.end || *r.at++ != mark[i])
            return false;
        part.at = r.at;
        while (r.at < r.end && *r.at != mark[i + 1])
            r.at++;
        part.end = r.at;
        if (i == 0)
            k->rounds = number(&part);
        else if (!(i == 1   ? scram_base64_read(part.at, length(&part), k->salt, sizeof k->salt, &len)
                   : i == 2 ? read_base64(&part, k->stored, sizeof k->stored)
                            : read_base64(&part, k->server, sizeof k->server)))
            return false;
    }
    k->salt_len = (uint8_t)len;
    return k->rounds >= SCRAM_ROUNDS_MIN && k->rounds <= SCRAM_ROUNDS_MAX && len >= 8;
}

size_t scram_keys_text(const struct scram_keys *k, char *out, size_t cap)
{
    struct text t = {out, cap, 0, false};

    append(&t, "SCRAM-SHA-256$");
    append_number(&t, k->rounds);
    append(&t, ":");
    append_base64(&t, k->salt, k->salt_len);
    append(&t, "$");
    append_base64(&t, k->stored, sizeof k->stored);
    append(&t, ":");
    append_base64(&t, k->server, sizeof k->server);
    append_n(&t, "", 1);
    return t.full ? 0 : t.len - 1;
}

void scram_keys_make(struct scram_keys *k, const void *password, size_t n, const void *salt, size_t salt_len, uint32_t rounds)
{
    struct scram_client_keys both;
    struct scram_salting s;

    scram_salt_begin(&s, SCRAM_SHA_256, password, n, salt, salt_len, rounds);
    scram_salt_step(&s, rounds);
    scram_client_keys(&both, SCRAM_SHA_256, &s);
    memset(k, 0, sizeof *k);
    k->rounds = rounds;
    k->salt_len = (uint8_t)salt_len;
    memcpy(k->salt, salt, salt_len);
    memcpy(k->stored, both.stored, sizeof k->stored);
    memcpy(k->server, both.server, sizeof k->server);
}

void scram_keys_fake(struct scram_keys *k, const unsigned char secret[32], const char *name, size_t n)
{
    static const char *const of[] = {"salt", "stored", "server"};
    unsigned char tags[3][HASH_MAX];
    struct hmac_key key;
    struct hash h;
    int i;

    hmac_key(&key, HASH_SHA_256, secret, 32);
    for (i = 0; i < 3; i++) {
        hmac_start(&h, &key);
        hash_add(&h, of[i], strlen(of[i]));
        hash_add(&h, name, n);
        hmac_end(&h, &key, tags[i]);
    }
    memset(k, 0, sizeof *k);
    k->rounds = SCRAM_ROUNDS;
    k->salt_len = 16;
    memcpy(k->salt, tags[0], k->salt_len);
    memcpy(k->stored, tags[1], sizeof k->stored);
    memcpy(k->server, tags[2], sizeof k->server);
}

/* ------------------------------------------------------------------ client */

size_t scram_client_first(struct scram_client *c, enum scram_mechanism m, const void *user, size_t n,
                          const unsigned char random[SCRAM_RANDOM], char *out, size_t cap)
{
    struct text bare = {c->auth, SCRAM_TEXT_MAX - 3, 0, false}, all = {out, cap, 0, false};
    const char *p = user;
    size_t i;

    c->mechanism = m;
    if (n == 0 || memchr(p, 0, n) != NULL)
        return 0;
    append(&bare, "n=");
    for (i = 0; i < n; i++) {
        if (p[i] == ',' || p[i] == '=')
            append(&bare, p[i] == ',' ? "=2C" : "=3D");
        else
            append_n(&bare, p + i, 1);
    }
    append(&bare, ",r=");
    c->nonce_at = (uint16_t)bare.len;
    c->nonce_len = SCRAM_NONCE;
    append_base64(&bare, random, SCRAM_RANDOM);
    c->auth_len = (uint16_t)bare.len;
    append(&all, "n,,");
    append_n(&all, bare.out, bare.len);
    return bare.full ? 0 : written(&all);
}

const char *scram_client_read(struct scram_client *c, const void *first, size_t n)
{
    struct rest r = rest_of(first, n), nonce, salt, rounds;
    struct text auth = {c->auth, sizeof c->auth, c->auth_len, n > SCRAM_TEXT_MAX};
    size_t len;

    if (!skip(&r, "r="))
        return "an answer that is none of SCRAM";
    nonce = value(&r);
    if (!skip(&r, ",s="))
        return "an answer that is none of SCRAM";
    salt = value(&r);
    if (!skip(&r, ",i="))
        return "an answer that is none of SCRAM";
    rounds = value(&r);
    c->rounds = number(&rounds);
    if (length(&r) > 0 || c->rounds == 0 || !scram_base64_read(salt.at, length(&salt), c->salt, sizeof c->salt, &len) || len == 0)
        return "an answer that is none of SCRAM";
    c->salt_len = (uint8_t)len;
    if (length(&nonce) <= c->nonce_len || memcmp(nonce.at, c->auth + c->nonce_at, c->nonce_len) != 0 || !is_nonce(&nonce))
        return "a nonce that is not ours with its own";
    if (c->rounds < SCRAM_ROUNDS_MIN)
        return "fewer than 4096 rounds, which give the password away";
    if (c->rounds > SCRAM_ROUNDS_MAX)
        return "more than 1000000 rounds";
    append(&auth, ",");
    c->nonce_at = (uint16_t)(auth.len + 2);
    c->nonce_len = (uint16_t)length(&nonce);
    append_n(&auth, first, auth.full ? 0 : n);
    c->auth_len = (uint16_t)auth.len;
    return auth.full ? "an answer that is longer than one of SCRAM" : NULL;
}

size_t scram_client_final(struct scram_client *c, const struct scram_client_keys *keys, char *out, size_t cap)
{
    const enum hash_kind kind = kind_of(c->mechanism);
    struct text t = {out, cap, 0, false};
    unsigned char proof[HASH_MAX];
    struct hmac_key key;
    struct hash h;
    size_t i;

    append(&t, "c=biws,r=");
    append_n(&t, c->auth + c->nonce_at, c->nonce_len);
    if (t.full)
        return 0;
    hmac_key(&key, kind, keys->stored, hash_size(kind));
    hmac_start(&h, &key);
    hash_add(&h, c->auth, c->auth_len);
    hash_add(&h, ",", 1);
    hash_add(&h, t.out, t.len);
    hmac_end(&h, &key, proof);
    for (i = 0; i < hash_size(kind); i++)
        proof[i] ^= keys->client[i];
    hmac_key(&key, kind, keys->server, hash_size(kind));
    hmac_start(&h, &key);
    hash_add(&h, c->auth, c->auth_len);
    hash_add(&h, ",", 1);
    hash_add(&h, t.out, t.len);
    hmac_end(&h, &key, c->signature);
    append(&t, ",p=");
    append_base64(&t, proof, hash_size(kind));
    return written(&t);
}

bool scram_client_verify(const struct scram_client *c, const void *final, size_t n)
{
    const size_t size = hash_size(kind_of(c->mechanism));
    unsigned char signature[HASH_MAX];
    struct rest r = rest_of(final, n);

    return skip(&r, "v=") && read_base64(&r, signature, size) && hash_same(signature, c->signature, size);
}

/* ------------------------------------------------------------------ server */

/* The name with its =2C and =3D put back; false if it is none or has no room. */
static bool unescape(struct scram_server *s, struct rest name)
{
    size_t n = 0;

    while (name.at < name.end && n < SCRAM_NAME_MAX) {
        if (skip(&name, "=2C"))
            s->name[n++] = ',';
        else if (skip(&name, "=3D"))
            s->name[n++] = '=';
        else if (*name.at == '=' || *name.at == '\0')
            return false;
        else
            s->name[n++] = *name.at++;
    }
    s->name[n] = '\0';
    return n > 0 && name.at == name.end;
}

/* Takes a client's first message apart: all behind its GS2 header, and its nonce. */
static bool read_first(struct scram_server *s, const void *first, size_t n, struct rest *bare, struct rest *nonce)
{
    struct rest r = rest_of(first, n), name;

    s->says_y = skip(&r, "y,,");
    if (n > SCRAM_TEXT_MAX || !(s->says_y || skip(&r, "n,,")))
        return false;
    *bare = r;
    if (!skip(&r, "n="))
        return false;
    name = value(&r);
    if (!unescape(s, name) || !skip(&r, ",r="))
        return false;
    *nonce = value(&r);
    return length(&r) == 0 && is_nonce(nonce) && length(nonce) <= SCRAM_NONCES - SCRAM_NONCE;
}

bool scram_server_name(struct scram_server *s, const void *first, size_t n)
{
    struct rest bare, nonce;

    return read_first(s, first, n, &bare, &nonce);
}

size_t scram_server_first(struct scram_server *s, const void *first, size_t n, const struct scram_keys *keys,
                          const unsigned char random[SCRAM_RANDOM], char *out, size_t cap)
{
    struct text both = {s->nonce, sizeof s->nonce, 0, false}, t = {out, cap, 0, false};
    struct rest bare, nonce;
    struct hmac_key key;
    int i;

    if (!read_first(s, first, n, &bare, &nonce))
        return 0;
    append_n(&both, nonce.at, length(&nonce));
    append_base64(&both, random, SCRAM_RANDOM);
    s->nonce_len = (uint8_t)both.len;
    append(&t, "r=");
    append_n(&t, s->nonce, s->nonce_len);
    append(&t, ",s=");
    append_base64(&t, keys->salt, keys->salt_len);
    append(&t, ",i=");
    append_number(&t, keys->rounds);
    for (i = 0; i < 2; i++) {
        struct hash *h = i == 0 ? &s->client_sign : &s->server_sign;

        hmac_key(&key, HASH_SHA_256, i == 0 ? keys->stored : keys->server, 32);
        hmac_start(h, &key);
        hash_add(h, bare.at, length(&bare));
        hash_add(h, ",", 1);
        hash_add(h, t.out, t.len);
        hash_add(h, ",", 1);
    }
    return written(&t);
}

/* Ends what was signed with the bytes that came last. */
static void sign_end(struct hash *h, const unsigned char with[32], const struct rest *last, unsigned char tag[HASH_MAX])
{
    struct hmac_key key;

    hmac_key(&key, HASH_SHA_256, with, 32);
    hash_add(h, last->at, length(last));
    hmac_end(h, &key, tag);
}

size_t scram_server_final(struct scram_server *s, const struct scram_keys *keys, const void *final, size_t n, char *out, size_t cap)
{
    struct rest r = rest_of(final, n), nonce, bare = r;
    struct text t = {out, cap, 0, false};
    unsigned char proof[HASH_MAX], tag[HASH_MAX];
    size_t i;

    if (n > SCRAM_TEXT_MAX || !skip(&r, s->says_y ? "c=eSws,r=" : "c=biws,r="))
        return 0;
    nonce = value(&r);
    bare.end = r.at;
    if (length(&nonce) != s->nonce_len || memcmp(nonce.at, s->nonce, s->nonce_len) != 0 || !skip(&r, ",p=") ||
        !read_base64(&r, proof, 32))
        return 0;
    sign_end(&s->client_sign, keys->stored, &bare, tag);
    for (i = 0; i < 32; i++)
        proof[i] ^= tag[i];
    stored_key(HASH_SHA_256, proof, tag);
    sign_end(&s->server_sign, keys->server, &bare, proof);
    s->nonce_len = 0; /* used up: no other final message fits */
    if (!hash_same(tag, keys->stored, 32))
        return 0;
    append(&t, "v=");
    append_base64(&t, proof, 32);
    return written(&t);
}
