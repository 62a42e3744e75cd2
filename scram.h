/* scram.h - SCRAM (RFC 5802, RFC 7677), both sides, as MongoDB speaks it: SCRAM-SHA-256 and SCRAM-SHA-1.
 *
 *   client:  scram_client_first() --> server's first --> scram_client_read()
 *            scram_salt_begin(), scram_salt_step() ... --> scram_client_keys()
 *            scram_client_final() --> server's final --> scram_client_verify()
 *   server:  client's first --> scram_server_name() --> whose keys --> scram_server_first()
 *            client's final --> scram_server_final(): proven, or not
 *            struct scram_keys: what a server keeps of a password
 *
 * A pure room: no clock, no socket, no randomness of its own, no memory but the caller's. All texts are bytes with a length.
 *
 * Without channel binding, authorization identities and extensions: what MongoDB's drivers and servers do not send is
 * refused. Passwords are taken as they are: SASLprep (RFC 4013) leaves printable ASCII alone, and of other bytes it changes
 * some (a no-break space, letters in several spellings), so that such a password is right only in the form it was stored in.
 */
#ifndef PUERTA_SCRAM_H
#define PUERTA_SCRAM_H

#include "hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCRAM_HASH_MAX HASH_MAX  /* bytes of the longer hash */
#define SCRAM_SALT_MAX 64        /* bytes of a salt */
#define SCRAM_RANDOM 18          /* random bytes of a nonce that we make */
#define SCRAM_NONCE 24           /* its letters */
#define SCRAM_NONCES 128         /* letters of both sides' nonces */
#define SCRAM_TEXT_MAX 512       /* bytes of one message of a conversation, both ways */
#define SCRAM_NAME_MAX 128       /* bytes of a user's name */
#define SCRAM_ROUNDS_MIN 4096    /* iterations that we accept of a server, and make */
#define SCRAM_ROUNDS_MAX 1000000
#define SCRAM_ROUNDS 15000       /* those that MongoDB itself makes */
#define SCRAM_DIGEST 32          /* letters of scram_password_digest() */
#define SCRAM_KEYS_TEXT 224      /* bytes that scram_keys_text() needs at most, the NUL counted */

enum scram_mechanism { SCRAM_SHA_1, SCRAM_SHA_256 };

/* "SCRAM-SHA-256" */
const char *scram_mechanism_name(enum scram_mechanism m);

/* Base64 (RFC 4648) with padding. Writes the letters and a NUL; their number, 0 if they have no room. */
size_t scram_base64(const void *bytes, size_t n, char *out, size_t cap);
/* The bytes of n letters, which must be just what scram_base64() makes; false if they are not, or are more than cap. */
bool scram_base64_read(const char *text, size_t n, unsigned char *out, size_t cap, size_t *len);

/* ---- what is kept of a password */

/* (SCRAM-SHA-256 alone): nobody who reads it can log in with it.
 * As text: SCRAM-SHA-256$ROUNDS:SALT$STORED:SERVER, the last three in base64, as other servers have it. */
struct scram_keys {
    uint32_t rounds;
    uint8_t salt_len;
    unsigned char salt[SCRAM_SALT_MAX], stored[32], server[32];
};
/* Reads that text, NUL-terminated and nothing behind it; rounds within the limits, a salt of 8 bytes at least. */
bool scram_keys_parse(struct scram_keys *k, const char *text);
/* Writes it and a NUL: its length, 0 if it has no room. */
size_t scram_keys_text(const struct scram_keys *k, char *out, size_t cap);
/* Makes them (takes `rounds` rounds at once: for `puerta hash-password`, not for the loop). salt_len: at most SCRAM_SALT_MAX. */
void scram_keys_make(struct scram_keys *k, const void *password, size_t n, const void *salt, size_t salt_len, uint32_t rounds);
/* Keys for a user who does not exist: the same salt for the same name as long as the secret is the same, and a proof never
 * fits. They have SCRAM_ROUNDS rounds and 16 bytes of salt, as `puerta hash-password` makes them; where the users there are
 * have others, the caller puts their number in, since it would tell who exists. */
void scram_keys_fake(struct scram_keys *k, const unsigned char secret[32], const char *name, size_t n);

/* ---- a password with its salt, in pieces that the loop can bear */

struct scram_salting {
    struct hmac_key key; /* of the password */
    uint32_t left;       /* rounds to do */
    unsigned char last[SCRAM_HASH_MAX], sum[SCRAM_HASH_MAX];
};

/* Begins Hi(password, salt, rounds), PBKDF2 with one block, and does its first round. rounds: 1 at least; salt_len: at most
 * SCRAM_SALT_MAX. The password of SCRAM-SHA-1 is what scram_password_digest() makes of it. */
void scram_salt_begin(struct scram_salting *s, enum scram_mechanism m, const void *password, size_t n, const void *salt,
                      size_t salt_len, uint32_t rounds);
/* Does at most so many rounds; true: all are done. 1000 rounds take about half a millisecond. */
bool scram_salt_step(struct scram_salting *s, uint32_t rounds);

/* MD5 of "user:mongo:password" in 32 letters, which MongoDB's SCRAM-SHA-1 takes for the password. */
void scram_password_digest(const void *user, size_t user_len, const void *password, size_t n, char out[SCRAM_DIGEST]);

/* ---- client */

/* What a client makes of a salted password: as secret as the password, good for one salt and number of rounds. */
struct scram_client_keys {
    unsigned char client[SCRAM_HASH_MAX], stored[SCRAM_HASH_MAX], server[SCRAM_HASH_MAX];
};
void scram_client_keys(struct scram_client_keys *k, enum scram_mechanism m, const struct scram_salting *s);

struct scram_client { /* one conversation */
    enum scram_mechanism mechanism;
    uint32_t rounds; /* what scram_client_read() found */
    uint8_t salt_len;
    unsigned char salt[SCRAM_SALT_MAX];
    /* private: the bytes that both sides sign, as far as they are known, and the signature that the server must show */
    uint16_t auth_len, nonce_at, nonce_len;
    unsigned char signature[SCRAM_HASH_MAX];
    char auth[2 * SCRAM_TEXT_MAX];
};

/* Writes the first message, "n,,n=USER,r=NONCE": its length, 0 if the name is empty, has a NUL, or has no room. */
size_t scram_client_first(struct scram_client *c, enum scram_mechanism m, const void *user, size_t n,
                          const unsigned char random[SCRAM_RANDOM], char *out, size_t cap);
/* Reads the server's answer: NULL, and salt and rounds stand in c; else what is wrong with it, a sentence's part for a log.
 * The nonce must be ours with something behind it, and rounds within the limits. */
const char *scram_client_read(struct scram_client *c, const void *first, size_t n);
/* Writes the final message with the keys that belong to that salt and those rounds: its length, 0 if it has no room. Once
 * for each answer read. */
size_t scram_client_final(struct scram_client *c, const struct scram_client_keys *keys, char *out, size_t cap);
/* Whether the server's final message shows that it knows the password too. Constant time in the signature. */
bool scram_client_verify(const struct scram_client *c, const void *final, size_t n);

/* ---- server */

struct scram_server { /* one conversation of a client; at most 512 bytes */
    char name[SCRAM_NAME_MAX + 1];  /* who it says it is, unescaped */
    /* private: whether it said "y,,"; both nonces; what it and the server sign, as far as that is known */
    bool says_y;
    uint8_t nonce_len;
    char nonce[SCRAM_NONCES];
    struct hash client_sign, server_sign;
};
/* Reads who a client's first message says it is: false if it is none (or wants channel binding, an authzid, a name too long). */
bool scram_server_name(struct scram_server *s, const void *first, size_t n);
/* The answer to it, with these keys and 18 random bytes: its length, 0 if the message is none or has no room. */
size_t scram_server_first(struct scram_server *s, const void *first, size_t n, const struct scram_keys *keys,
                          const unsigned char random[SCRAM_RANDOM], char *out, size_t cap);
/* The answer to a client's final message, with the same keys: its length; 0: the proof is wrong, or it is none. Constant
 * time in the proof. Once for each conversation: s is used up. */
size_t scram_server_final(struct scram_server *s, const struct scram_keys *keys, const void *final, size_t n, char *out, size_t cap);

#endif
