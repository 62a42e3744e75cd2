/* test_scram.c - hash.c and scram.c: the published vectors, and both sides of a login against each other and against broken messages.
 *
 *   client <--> server: every message whole; cut short, made longer, with any byte changed; each lies at a page that may not be read
 */
#define _DEFAULT_SOURCE

#include <stdint.h>

#include "mongo.h"
#include "scram.h"

#define LEN(text) (text), sizeof(text) - 1

static const unsigned char some_random[SCRAM_RANDOM + 1] = "eighteen random by";

static bool is_hex(const unsigned char *bytes, size_t n, const char *hex)
{
    char text[2 * HASH_MAX + 1];
    size_t i;

    for (i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    return strcmp(text, hex) == 0;
}

/* ------------------------------------------------------------------ hashes */

static void test_hashes(void)
{
    static const struct {
        enum hash_kind kind;
        const char *abc, *nothing, *million, *chain, *tags;
    } rows[] = {
        {HASH_MD5, "900150983cd24fb0d6963f7d28e17f72", "d41d8cd98f00b204e9800998ecf8427e", "7707d6ae4e027c70eea2a935c2296f21",
         "fbb31a09b7ac7045207fbd4848bae230", "680d01f6c15349f66a0ea7da656eb10f"},
        {HASH_SHA_1, "a9993e364706816aba3e25717850c26c9cd0d89d", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
         "34aa973cd4c4daa4f61eeb2bdbad27316534016f", "ce8236f59baeef0e099ba99971be9a76f520e142",
         "7711faaf9594f5d116aef13fcba24b5e0bc98b38"},
        {HASH_SHA_256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
         "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
         "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
         "bf659d1197f63ec758747b57acff63809325601b9aae39f4f20856426a43e814",
         "d374780a4728e38607008c3a4b97c773d622eeb1068e5703717818974721efa0"},
    };
    static unsigned char a[1000];
    unsigned char digest[HASH_MAX], chain[HASH_MAX], bytes[200];
    struct hmac_key key;
    struct hash h;
    size_t i, n, size;

    memset(a, 'a', sizeof a);
    for (i = 0; i < COUNT(rows); i++) {
        size = hash_size(rows[i].kind);
        hash_start(&h, rows[i].kind);
        hash_add(&h, guarded("abc", 3), 3);
        CHECK(hash_end(&h, digest) == size && is_hex(digest, size, rows[i].abc));
        hash_start(&h, rows[i].kind);
        CHECK(hash_end(&h, digest) == size && is_hex(digest, size, rows[i].nothing));
        hash_start(&h, rows[i].kind);
        for (n = 0; n < 1000000; n += sizeof a)
            hash_add(&h, a, sizeof a);
        CHECK(hash_end(&h, digest) == size && is_hex(digest, size, rows[i].million));
        /* Every length up to 199, of each digest over the one before and so many bytes; as hashlib has it. */
        for (n = 0; n < sizeof bytes; n++) {
            memset(bytes, (int)n, n);
            hash_start(&h, rows[i].kind);
            hash_add(&h, chain, n > 0 ? size : 0);
            hash_add(&h, guarded(bytes, n), n);
            hash_end(&h, chain);
        }
        CHECK(is_hex(chain, size, rows[i].chain));
        for (n = 0; n < sizeof bytes; n++) {
            memset(bytes, (int)n, n);
            hmac_key(&key, rows[i].kind, guarded(bytes, n), n);
            hmac_start(&h, &key);
            hash_add(&h, chain, n > 0 ? size : 0);
            hash_add(&h, bytes, n);
            hmac_end(&h, &key, chain);
        }
        CHECK(is_hex(chain, size, rows[i].tags));
    }
    CHECK(hash_same("abcd", "abcd", 4) && !hash_same("abcd", "abce", 4) && !hash_same("bbcd", "abcd", 4) && hash_same("a", "b", 0));
}

/* RFC 6070 and the like, as hashlib has them; in one go, and in steps of every kind. */
static void test_salting(void)
{
    static const struct {
        enum scram_mechanism m;
        const char *password;
        size_t n;
        const char *salt;
        size_t salt_len;
        uint32_t rounds;
        const char *key;
    } rows[] = {
        {SCRAM_SHA_1, LEN("password"), LEN("salt"), 1, "0c60c80f961f0e71f3a9b524af6012062fe037a6"},
        {SCRAM_SHA_1, LEN("password"), LEN("salt"), 2, "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957"},
        {SCRAM_SHA_1, LEN("password"), LEN("salt"), 4096, "4b007901b765489abead49d926f721d065a429c1"},
        {SCRAM_SHA_1, LEN("passwordPASSWORDpassword"), LEN("saltSALTsaltSALTsaltSALTsaltSALTsalt"), 4096,
         "3d2eec4fe41c849b80c8d83662c0e44a8b291a96"},
        {SCRAM_SHA_1, LEN("pass\0word"), LEN("sa\0lt"), 4096, "56fa6aa75548099dcc37d7f03425e0c37f1c42b2"},
        {SCRAM_SHA_256, LEN("password"), LEN("salt"), 1, "120fb6cffcf8b32c43e7225256c4f837a86548c92ccc35480805987cb70be17b"},
        {SCRAM_SHA_256, LEN("password"), LEN("salt"), 2, "ae4d0c95af6b46d32d0adff928f06dd02a303f8ef3c251dfd6e2d85a95474c43"},
        {SCRAM_SHA_256, LEN("password"), LEN("salt"), 4096, "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a"},
        {SCRAM_SHA_256, LEN("passwordPASSWORDpassword"), LEN("saltSALTsaltSALTsaltSALTsaltSALTsalt"), 4096,
         "348c89dbcbd32b2f32d814b8116e84cf2b17347ebc1800181c4e2a1fb8dd53e1"},
        {SCRAM_SHA_256, LEN("pass\0word"), LEN("sa\0lt"), 4096,
         "89b69d0516f829893c696226650a86878c029ac13ee276509d5ae58b6466a724"},
        {SCRAM_SHA_256, LEN("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
         LEN("salt"), 4096, "82f628b7f420e7a435a41b05383933debb14e5100126bc460d33062ddd804124"},
    };
    static const uint32_t steps[] = {1, 7, 1000, UINT32_MAX};
    struct scram_salting s;
    size_t i, j;
    uint32_t turns;

    for (i = 0; i < COUNT(rows); i++)
        for (j = 0; j < COUNT(steps); j++) {
            scram_salt_begin(&s, rows[i].m, rows[i].password, rows[i].n, rows[i].salt, rows[i].salt_len, rows[i].rounds);
            for (turns = 1; !scram_salt_step(&s, steps[j]); turns++)
                ;
            CHECK(rows[i].rounds == 1 ? turns == 1 : turns == (rows[i].rounds - 2) / steps[j] + 1);
            CHECK(is_hex(s.sum, rows[i].m == SCRAM_SHA_1 ? 20 : 32, rows[i].key));
        }
}

static void test_base64(void)
{
    static const char *const rows[] = {"", "", "f", "Zg==", "fo", "Zm8=", "foo", "Zm9v", "foob", "Zm9vYg==", "fooba", "Zm9vYmE=", "foobar", "Zm9vYmFy"};
    static const char *const bad[] = {"Z", "Zg", "Zg=", "Zh==", "Zm9=", "Zm8", "====", "Z===", "=g==", "Zm9v====", "Zm 9", "Zm-9", "Zm_9", "Zg==Zg==", "\0\0\0\0"};
    unsigned char all[256], bytes[256];
    char text[400];
    size_t i, n, len;

    for (i = 0; i < COUNT(rows); i += 2) {
        n = strlen(rows[i + 1]);
        CHECK(scram_base64(guarded(rows[i], strlen(rows[i])), strlen(rows[i]), text, n + 1) == n && strcmp(text, rows[i + 1]) == 0);
        CHECK(n == 0 || scram_base64(rows[i], strlen(rows[i]), text, n) == 0);
        CHECK(scram_base64_read((char *)guarded(rows[i + 1], n), n, bytes, strlen(rows[i]), &len) && len == strlen(rows[i]) &&
              memcmp(bytes, rows[i], len) == 0);
        CHECK(n == 0 || !scram_base64_read(rows[i + 1], n, bytes, strlen(rows[i]) - 1, &len));
    }
    for (i = 0; i < COUNT(bad); i++) {
        n = i + 1 < COUNT(bad) ? strlen(bad[i]) : 4;
        CHECK(!scram_base64_read((char *)guarded(bad[i], n), n, bytes, sizeof bytes, &len));
    }
    for (i = 0; i < sizeof all; i++)
        all[i] = (unsigned char)(i * 7);
    n = scram_base64(all, sizeof all, text, sizeof text);
    CHECK(scram_base64_read(text, n, bytes, sizeof bytes, &len) && len == sizeof all && memcmp(all, bytes, len) == 0);
}

/* ------------------------------------------------------------------ client */

/* The examples of RFC 5802, of MongoDB's description of its older mechanism, and of RFC 7677. */
static const struct example {
    enum scram_mechanism m;
    bool digest;
    const char *nonce, *first, *final, *verdict;
} examples[] = {
    {SCRAM_SHA_1, false, "fyko+d2lbbFgONRv9qkxdawL", "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
     "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "v=rmF9pqV8S7suAoZWja4dJRkFsKQ="},
    {SCRAM_SHA_1, true, "fyko+d2lbbFgONRv9qkxdawL",
     "r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,s=rQ9ZY3MntBeuP3E1TDVC4w==,i=10000",
     "c=biws,r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,p=MC2T8BvbmWRckDw8oWl5IVghwCY=",
     "v=UMWeI25JD1yNYZRMpZ4VHvhZ9e0="},
    {SCRAM_SHA_256, false, "rOprNGfwEbeRWgbNEkqO", "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
     "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
     "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="},
};

/* A client that has said its first message with that nonce, as the example has it. */
static void begin_example(struct scram_client *c, const struct example *e)
{
    unsigned char random[SCRAM_RANDOM] = {0};
    char out[SCRAM_TEXT_MAX];
    size_t n;

    if (strlen(e->nonce) == SCRAM_NONCE) { /* what 18 bytes can make */
        CHECK(scram_base64_read(e->nonce, SCRAM_NONCE, random, sizeof random, &n));
        n = scram_client_first(c, e->m, "user", 4, random, out, sizeof out);
        CHECK(n == 12 + SCRAM_NONCE && memcmp(out, "n,,n=user,r=", 12) == 0 && memcmp(out + 12, e->nonce, SCRAM_NONCE) == 0);
        return;
    }
    n = scram_client_first(c, e->m, "user", 4, random, out, sizeof out);
    CHECK(n == 12 + SCRAM_NONCE);
    n = strlen(e->nonce);
    memcpy(c->auth + c->nonce_at, e->nonce, n);
    c->nonce_len = (uint16_t)n;
    c->auth_len = (uint16_t)(c->nonce_at + n);
}

static void make_keys(struct scram_client_keys *keys, const struct scram_client *c, const char *password, size_t n)
{
    struct scram_salting s;

    scram_salt_begin(&s, c->mechanism, password, n, c->salt, c->salt_len, c->rounds);
    while (!scram_salt_step(&s, 5000))
        ;
    scram_client_keys(keys, c->mechanism, &s);
}

static void test_examples(void)
{
    struct scram_client_keys keys;
    struct scram_client c, was;
    char digest[SCRAM_DIGEST], out[SCRAM_TEXT_MAX], wrong[64];
    size_t i, n, len;

    scram_password_digest("user", 4, "pencil", 6, digest);
    CHECK(memcmp(digest, "1c33006ec1ffd90f9cadcbcc0e118200", SCRAM_DIGEST) == 0);
    for (i = 0; i < COUNT(examples); i++) {
        const struct example *e = &examples[i];

        unit_note = e->first;
        begin_example(&c, e);
        was = c;
        len = strlen(e->first);
        for (n = 0; n < len; n++) { /* cut short it is none, or has less in i= and no right proof; extended it is none */
            c = was;
            CHECK(scram_client_read(&c, guarded(e->first, n), n) != NULL);
        }
        c = was;
        CHECK(scram_client_read(&c, guarded(e->first, len), len) == NULL);
        make_keys(&keys, &c, e->digest ? digest : "pencil", e->digest ? sizeof digest : 6);
        len = strlen(e->final);
        for (n = 0; n < len; n++)
            CHECK(scram_client_final(&c, &keys, (char *)guard - n, n) == 0);
        CHECK(scram_client_final(&c, &keys, out, sizeof out) == len && memcmp(out, e->final, len) == 0);
        len = strlen(e->verdict);
        CHECK(scram_client_verify(&c, guarded(e->verdict, len), len));
        for (n = 0; n < len; n++) {
            CHECK(!scram_client_verify(&c, guarded(e->verdict, n), n));
            memcpy(wrong, e->verdict, len);
            wrong[n] ^= 1;
            CHECK(!scram_client_verify(&c, guarded(wrong, len), len));
        }
        snprintf(wrong, sizeof wrong, "%s,x", e->verdict);
        CHECK(!scram_client_verify(&c, wrong, strlen(wrong)) && !scram_client_verify(&c, "e=other-error", 13));
    }
    unit_note = "";
}

/* What a server may not say. */
static void test_server_lies(void)
{
    static const struct {
        const char *first, *why;
    } rows[] = {
        {"r=fyko+d2lbbFgONRv9qkxdawL,s=QSXCR+Q6sek8bf92,i=4096", "nonce"},
        {"r=fyko+d2lbbFgONRv9qkxdawX3rfc,s=QSXCR+Q6sek8bf92,i=4096", "nonce"},
        {"r=3rfcfyko+d2lbbFgONRv9qkxdawL,s=QSXCR+Q6sek8bf92,i=4096", "nonce"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3r c,s=QSXCR+Q6sek8bf92,i=4096", "nonce"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3r\x7f,s=QSXCR+Q6sek8bf92,i=4096", "nonce"},
        {"r=,s=QSXCR+Q6sek8bf92,i=4096", "nonce"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf92,i=4095", "fewer"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf92,i=1", "fewer"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf92,i=1000001", "more"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf92,i=999999999", "more"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf92,i=4294971392", "none"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf92,i=0", "none"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf92,i=04096", "none"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf92,i=-4096", "none"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf92,i=4096,x=y", "none"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf9,i=4096", "none"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=,i=4096", "none"},
        {"r=fyko+d2lbbFgONRv9qkxdawL3rfc,i=4096,s=QSXCR+Q6sek8bf92", "none"},
        {"m=must,r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=QSXCR+Q6sek8bf92,i=4096", "none"},
        {"e=unknown-user", "none"},
    };
    char text[SCRAM_TEXT_MAX + 200], salt[120];
    unsigned char bytes[SCRAM_SALT_MAX + 1] = {1};
    struct scram_client c;
    const char *why;
    size_t i, n;

    for (i = 0; i < COUNT(rows); i++) {
        unit_note = rows[i].first;
        begin_example(&c, &examples[0]);
        n = strlen(rows[i].first);
        why = scram_client_read(&c, guarded(rows[i].first, n), n);
        CHECK(why != NULL && strstr(why, rows[i].why) != NULL);
    }
    unit_note = "";
    for (n = SCRAM_SALT_MAX; n < SCRAM_SALT_MAX + 2; n++) {
        scram_base64(bytes, n, salt, sizeof salt);
        snprintf(text, sizeof text, "r=fyko+d2lbbFgONRv9qkxdawL3rfc,s=%s,i=4096", salt);
        begin_example(&c, &examples[0]);
        CHECK((scram_client_read(&c, text, strlen(text)) == NULL) == (n == SCRAM_SALT_MAX));
    }
    /* As long as can be, and one letter more. */
    for (n = 0; n < 2; n++) {
        memset(text, 'x', sizeof text);
        memcpy(text, "r=fyko+d2lbbFgONRv9qkxdawL", 26);
        memcpy(text + SCRAM_TEXT_MAX + n - 26, ",s=QSXCR+Q6sek8bf92,i=4096", 26);
        begin_example(&c, &examples[0]);
        CHECK((scram_client_read(&c, guarded(text, SCRAM_TEXT_MAX + n), SCRAM_TEXT_MAX + n) == NULL) == (n == 0));
    }
}

/* ------------------------------------------------------------------ server */

static void test_keys_text(void)
{
    static const char text[] = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
                               "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    static const char *const bad[] = {
        "", "pencil", "SCRAM-SHA-1$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "SCRAM-SHA-256$4095:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "SCRAM-SHA-256$1000001:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "SCRAM-SHA-256$4096:c2hvcnQ=$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
    };
    struct scram_keys k, again;
    char out[SCRAM_KEYS_TEXT], cut[sizeof text + 1];
    unsigned char salt[SCRAM_SALT_MAX];
    size_t n;

    CHECK(scram_keys_parse(&k, text) && k.rounds == 4096 && k.salt_len == 16);
    scram_keys_make(&again, "pencil", 6, k.salt, k.salt_len, 4096);
    CHECK(memcmp(&k, &again, sizeof k) == 0);
    for (n = 0; n < sizeof text; n++)
        CHECK(scram_keys_text(&k, (char *)guard - n, n) == 0);
    CHECK(scram_keys_text(&k, (char *)guard - sizeof text, sizeof text) == sizeof text - 1 && strcmp((char *)guard - sizeof text, text) == 0);
    for (n = 0; n < sizeof text - 1; n++) {
        snprintf(cut, sizeof cut, "%.*s", (int)n, text);
        CHECK(!scram_keys_parse(&k, (char *)guarded(cut, n + 1)));
    }
    snprintf(cut, sizeof cut, "%s ", text);
    CHECK(!scram_keys_parse(&k, cut));
    for (n = 0; n < COUNT(bad); n++)
        CHECK(!scram_keys_parse(&k, bad[n]));
    memset(salt, 0xFF, sizeof salt);
    scram_keys_make(&k, "", 0, salt, sizeof salt, SCRAM_ROUNDS_MIN);
    k.rounds = SCRAM_ROUNDS_MAX;
    CHECK(scram_keys_text(&k, out, sizeof out) > 0 && scram_keys_parse(&again, out) && memcmp(&k, &again, sizeof k) == 0);
}

/* A login of our client at our server. Gives the server's answer to the final message. */
struct login {
    struct scram_client client;
    struct scram_server server;
    struct scram_keys keys;
    char first[SCRAM_TEXT_MAX], answer[SCRAM_TEXT_MAX], final[SCRAM_TEXT_MAX], verdict[SCRAM_TEXT_MAX];
    size_t first_len, answer_len, final_len, verdict_len;
};

static void log_in(struct login *l, const char *user, const char *password)
{
    struct scram_client_keys keys;

    l->verdict_len = 0;
    l->first_len = scram_client_first(&l->client, SCRAM_SHA_256, user, strlen(user), some_random, l->first, sizeof l->first);
    if (!CHECK(scram_server_name(&l->server, guarded(l->first, l->first_len), l->first_len)) || !CHECK(strcmp(l->server.name, user) == 0))
        return;
    l->answer_len = scram_server_first(&l->server, l->first, l->first_len, &l->keys, some_random, l->answer, sizeof l->answer);
    if (!CHECK(l->answer_len > 0) || !CHECK(scram_client_read(&l->client, l->answer, l->answer_len) == NULL))
        return;
    make_keys(&keys, &l->client, password, strlen(password));
    l->final_len = scram_client_final(&l->client, &keys, l->final, sizeof l->final);
    CHECK(l->final_len > 0);
    l->verdict_len = scram_server_final(&l->server, &l->keys, guarded(l->final, l->final_len), l->final_len, l->verdict, sizeof l->verdict);
}

static void test_login(void)
{
    static struct login l, before;
    static struct scram_keys fake;
    struct scram_server s;
    char text[SCRAM_TEXT_MAX + 8];
    size_t n, i;

    CHECK(sizeof(struct scram_server) <= 512);
    scram_keys_make(&l.keys, LEN("pa,ss=w\xc3\xb6rd"), "sixteen of salt.", 16, SCRAM_ROUNDS_MIN);
    log_in(&l, "a,b=c,,==", "pa,ss=w\xc3\xb6rd");
    CHECK(memcmp(l.first, "n,,n=a=2Cb=3Dc=2C=2C=3D=3D,r=", 29) == 0);
    CHECK(l.verdict_len > 0 && scram_client_verify(&l.client, l.verdict, l.verdict_len));
    /* Said once more it is worth nothing: the conversation is used up, and the next one has another nonce. */
    CHECK(scram_server_final(&l.server, &l.keys, l.final, l.final_len, text, sizeof text) == 0);
    CHECK(scram_server_first(&l.server, l.first, l.first_len, &l.keys, (const unsigned char *)"another eighteen b", text, sizeof text) > 0);
    CHECK(scram_server_final(&l.server, &l.keys, l.final, l.final_len, text, sizeof text) == 0);

    CHECK(scram_server_first(&l.server, l.first, l.first_len, &l.keys, some_random, text, sizeof text) == l.answer_len);
    before = l;
    for (n = 0; n < l.answer_len; n++)
        CHECK(scram_server_first(&s, l.first, l.first_len, &l.keys, some_random, (char *)guard - n, n) == 0);
    for (n = 0; n < l.verdict_len; n++) {
        s = before.server;
        CHECK(scram_server_final(&s, &l.keys, l.final, l.final_len, (char *)guard - n, n) == 0);
    }
    /* Cut short, made longer, any bit of it changed: never proven. */
    for (n = 0; n < l.final_len; n++) {
        s = before.server;
        CHECK(scram_server_final(&s, &l.keys, guarded(l.final, n), n, text, sizeof text) == 0);
        for (i = 0; i < 8; i++) {
            char changed[SCRAM_TEXT_MAX];

            s = before.server;
            memcpy(changed, l.final, l.final_len);
            changed[n] ^= (char)(1 << i);
            CHECK(scram_server_final(&s, &l.keys, guarded(changed, l.final_len), l.final_len, text, sizeof text) == 0);
        }
    }
    for (n = 1; n < 256; n++) {
        char longer[SCRAM_TEXT_MAX];

        s = before.server;
        memcpy(longer, l.final, l.final_len);
        longer[l.final_len] = (char)n;
        CHECK(scram_server_final(&s, &l.keys, guarded(longer, l.final_len + 1), l.final_len + 1, text, sizeof text) == 0);
    }
    s = before.server;
    CHECK(scram_server_final(&s, &l.keys, l.final, l.final_len, text, sizeof text) == l.verdict_len);

    log_in(&l, "a", "another password");
    CHECK(l.verdict_len == 0);
    log_in(&l, "a", "");
    CHECK(l.verdict_len == 0);
    scram_keys_fake(&l.keys, (const unsigned char *)"a secret of thirty-two bytes....", "nobody", 6);
    fake = l.keys;
    log_in(&l, "nobody", "pencil");
    CHECK(l.verdict_len == 0 && l.answer_len > 0 && l.keys.salt_len == 16 && l.keys.rounds == SCRAM_ROUNDS);
    scram_keys_fake(&l.keys, (const unsigned char *)"a secret of thirty-two bytes....", "nobody", 6);
    CHECK(memcmp(&fake, &l.keys, sizeof fake) == 0);
    scram_keys_fake(&l.keys, (const unsigned char *)"a secret of thirty-two bytes....", "nobodx", 6);
    CHECK(memcmp(fake.salt, l.keys.salt, 16) != 0);
    scram_keys_fake(&l.keys, (const unsigned char *)"b secret of thirty-two bytes....", "nobody", 6);
    CHECK(memcmp(fake.salt, l.keys.salt, 16) != 0);
}

/* The example of RFC 7677, seen from the server, with a nonce that we do not make ourselves. */
static void test_server_example(void)
{
    static const char first[] = "y,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    struct scram_keys keys;
    struct scram_server s;
    struct scram_client c;
    struct scram_client_keys client_keys;
    char out[SCRAM_TEXT_MAX], final[SCRAM_TEXT_MAX];
    size_t n;

    CHECK(scram_keys_parse(&keys, "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
                                  "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="));
    CHECK(scram_server_name(&s, LEN(first)) && strcmp(s.name, "user") == 0);
    n = scram_server_first(&s, LEN(first), &keys, some_random, out, sizeof out);
    CHECK(n > 0 && memcmp(out, "r=rOprNGfwEbeRWgbNEkqOZWln", 26) == 0);
    begin_example(&c, &examples[2]);
    CHECK(scram_client_read(&c, out, n) == NULL);
    make_keys(&client_keys, &c, "pencil", 6);
    n = scram_client_final(&c, &client_keys, final, sizeof final);
    /* It said y, so biws is not what it must repeat. */
    CHECK(scram_server_final(&s, &keys, final, n, out, sizeof out) == 0);
    memcpy(final, "c=eSws", 6);
    CHECK(scram_server_final(&s, &keys, final, n, out, sizeof out) == 0); /* well formed, but not what was signed */
}

/* What a client may not say first; what it may. */
static void test_first_messages(void)
{
    static const char *const bad[] = {
        "", "n", "n,", "n,,", "n,,n=", "n,,n=,r=abc", "n,,n=user", "n,,n=user,", "n,,n=user,r", "n,,n=user,r=", "n,a=other,n=user,r=abc",
        "p=tls-unique,,n=user,r=abc", "n=user,r=abc", "N,,n=user,r=abc", "n,,r=abc,n=user", "n,,m=x,n=user,r=abc", "n,,n=user,r=abc,",
        "n,,n=user,r=abc,x=y", "n,,n=us=er,r=abc", "n,,n=user=,r=abc", "n,,n=user=2,r=abc", "n,,n=user=2c,r=abc", "n,,n=user=41,r=abc",
        "n,,n=user,r=a bc", "n,,n=user,r=ab\x80", "y,n=user,r=abc", "z,,n=user,r=abc", " n,,n=user,r=abc",
    };
    struct scram_keys keys;
    struct scram_server s;
    char text[SCRAM_TEXT_MAX + 200], out[SCRAM_TEXT_MAX];
    size_t i, n, len;

    memset(&keys, 0, sizeof keys);
    keys.salt_len = 16;
    for (i = 0; i < COUNT(bad); i++) {
        unit_note = bad[i];
        n = strlen(bad[i]);
        CHECK(!scram_server_name(&s, guarded(bad[i], n), n));
        CHECK(scram_server_first(&s, guarded(bad[i], n), n, &keys, some_random, out, sizeof out) == 0);
    }
    unit_note = "";
    CHECK(!scram_server_name(&s, LEN("n,,n=us\0er,r=abc")));
    CHECK(!scram_server_name(&s, LEN("n,,n=user,r=ab\0c")));
    CHECK(scram_server_name(&s, LEN("n,,n=\xc3\xb6,r=abc")) && strcmp(s.name, "\xc3\xb6") == 0);
    CHECK(scram_server_name(&s, LEN("y,,n==3D=2C,r=abc")) && strcmp(s.name, "=,") == 0);
    for (n = SCRAM_NAME_MAX - 1; n < SCRAM_NAME_MAX + 3; n++) { /* names up to their limit, of letters and of escapes */
        len = (size_t)snprintf(text, sizeof text, "n,,n=%0*d,r=abc", (int)n, 0);
        CHECK(scram_server_name(&s, guarded(text, len), len) == (n <= SCRAM_NAME_MAX));
        memcpy(text, "n,,n=", 5);
        for (i = 0; i < n; i++)
            memcpy(text + 5 + 3 * i, "=2C", 3);
        memcpy(text + 5 + 3 * n, ",r=abc", 6);
        CHECK(scram_server_name(&s, guarded(text, 3 * n + 11), 3 * n + 11) == (n <= SCRAM_NAME_MAX));
    }
    for (n = SCRAM_NONCES - SCRAM_NONCE - 1; n < SCRAM_NONCES + 2; n++) {
        len = (size_t)snprintf(text, sizeof text, "n,,n=user,r=%0*d", (int)n, 0);
        CHECK((scram_server_first(&s, guarded(text, len), len, &keys, some_random, out, sizeof out) > 0) == (n <= SCRAM_NONCES - SCRAM_NONCE));
    }
}

/* What our client can say for whom, and into how little. */
static void test_client_first(void)
{
    struct scram_client c;
    char out[SCRAM_TEXT_MAX], name[SCRAM_TEXT_MAX];
    size_t n;

    CHECK(scram_client_first(&c, SCRAM_SHA_256, "", 0, some_random, out, sizeof out) == 0);
    CHECK(scram_client_first(&c, SCRAM_SHA_256, "a\0b", 3, some_random, out, sizeof out) == 0);
    for (n = 0; n < 36; n++)
        CHECK(scram_client_first(&c, SCRAM_SHA_256, "user", 4, some_random, (char *)guard - n, n) == 0);
    CHECK(scram_client_first(&c, SCRAM_SHA_256, "user", 4, some_random, (char *)guard - 36, 36) == 36);
    memset(name, '=', sizeof name);
    CHECK(scram_client_first(&c, SCRAM_SHA_256, guarded(name, SCRAM_NAME_MAX), SCRAM_NAME_MAX, some_random, out, sizeof out) == 3 * SCRAM_NAME_MAX + 32);
    CHECK(scram_client_first(&c, SCRAM_SHA_256, name, sizeof name, some_random, out, sizeof out) == 0);
}

int main(void)
{
    (void)golden;
    guard_map();
    test_hashes();
    test_salting();
    test_base64();
    test_examples();
    test_server_lies();
    test_keys_text();
    test_login();
    test_server_example();
    test_first_messages();
    test_client_first();
    return unit_end();
}
