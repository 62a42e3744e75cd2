/* fuzz_scram.c - any bytes as messages of SCRAM, keys and base64: nothing is read beyond its end, nothing is proven by chance, and
 * what is read can be written again.
 *
 *   byte 0: who reads it; the rest, cut at the newlines:
 *     server   client's first, client's final --> an answer to a first that is one, and never one to a final
 *     client   server's first, server's final --> salt and rounds within their limits, a final of ours, and no signature that fits
 *     keys, base64                            --> text again, the same
 *
 * Each message is copied to memory of its size, so that a sanitizer sees a read beyond it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scram.h"

#define HOLDS(cond) ((cond) ? (void)0 : broken(#cond, __LINE__))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const unsigned char some_random[SCRAM_RANDOM] = "eighteen random by";

static void broken(const char *cond, int line)
{
    fprintf(stderr, "fuzz_scram.c:%d: does not hold: %s\n", line, cond);
    abort();
}

static void *copy(const void *p, size_t n)
{
    void *to = malloc(n > 0 ? n : 1);

    HOLDS(to != NULL);
    return n > 0 ? memcpy(to, p, n) : to;
}

/* Cuts the next message off, in memory of its own. */
static char *message(const uint8_t **data, size_t *left, size_t *n)
{
    const uint8_t *end = memchr(*data, '\n', *left);
    char *m;

    *n = end != NULL ? (size_t)(end - *data) : *left;
    m = copy(*data, *n);
    *data += *n;
    *left -= *n;
    if (end != NULL) {
        ++*data;
        --*left;
    }
    return m;
}

static void as_server(const uint8_t *data, size_t left)
{
    struct scram_keys keys;
    struct scram_server s;
    struct scram_client c;
    char out[SCRAM_TEXT_MAX], *m;
    size_t n, len;

    scram_keys_fake(&keys, (const unsigned char *)"a secret of thirty-two bytes....", "user", 4);
    m = message(&data, &left, &n);
    if (scram_server_name(&s, m, n)) {
        HOLDS(s.name[0] != '\0' && strlen(s.name) <= SCRAM_NAME_MAX);
        len = scram_server_first(&s, m, n, &keys, some_random, out, sizeof out);
        HOLDS(len > 0 && memcmp(out, "r=", 2) == 0);
        HOLDS(scram_server_first(&s, m, n, &keys, some_random, out, len - 1) == 0);
        HOLDS(scram_server_first(&s, m, n, &keys, some_random, out, len) == len);
        /* A client that has said this nonce reads the answer. */
        HOLDS(scram_client_first(&c, SCRAM_SHA_256, "user", 4, some_random, (char[SCRAM_TEXT_MAX]){0}, SCRAM_TEXT_MAX) > 0);
        c.nonce_len = (uint16_t)(s.nonce_len - SCRAM_NONCE);
        memcpy(c.auth + c.nonce_at, s.nonce, c.nonce_len);
        c.auth_len = (uint16_t)(c.nonce_at + c.nonce_len);
        HOLDS(scram_client_read(&c, out, len) == NULL && c.rounds == keys.rounds && c.salt_len == keys.salt_len);
        free(m);
        m = message(&data, &left, &n);
        HOLDS(scram_server_final(&s, &keys, m, n, out, sizeof out) == 0);
    } else {
        HOLDS(scram_server_first(&s, m, n, &keys, some_random, out, sizeof out) == 0);
    }
    free(m);
}

static void as_client(const uint8_t *data, size_t left, enum scram_mechanism mechanism)
{
    struct scram_client_keys keys;
    struct scram_client c;
    char out[SCRAM_TEXT_MAX + 64], *m;
    size_t n, len;

    memset(&keys, 7, sizeof keys);
    HOLDS(scram_client_first(&c, mechanism, "user", 4, some_random, out, sizeof out) == 36);
    m = message(&data, &left, &n);
    if (scram_client_read(&c, m, n) == NULL) {
        HOLDS(c.rounds >= SCRAM_ROUNDS_MIN && c.rounds <= SCRAM_ROUNDS_MAX && c.salt_len > 0 && c.salt_len <= SCRAM_SALT_MAX);
        len = scram_client_final(&c, &keys, out, sizeof out);
        HOLDS(len > 0 && memcmp(out, "c=biws,r=", 9) == 0 && memcmp(out + 9, m + 2, SCRAM_NONCE + 1) == 0);
        free(m);
        m = message(&data, &left, &n);
        HOLDS(!scram_client_verify(&c, m, n));
    }
    free(m);
}

static void as_keys(const uint8_t *data, size_t left)
{
    char *text = malloc(left + 1), out[SCRAM_KEYS_TEXT];
    struct scram_keys k;

    HOLDS(text != NULL);
    memcpy(text, data, left);
    text[left] = '\0';
    if (scram_keys_parse(&k, text))
        HOLDS(scram_keys_text(&k, out, sizeof out) == strlen(text) && strcmp(out, text) == 0);
    free(text);
}

static void as_base64(const uint8_t *data, size_t left)
{
    char *text = copy(data, left), *again = malloc(left + 1);
    unsigned char *bytes = malloc(left / 4 * 3 + 1);
    size_t n;

    HOLDS(again != NULL && bytes != NULL);
    if (scram_base64_read(text, left, bytes, left / 4 * 3, &n)) {
        HOLDS(scram_base64(bytes, n, again, left + 1) == left && memcmp(again, text, left) == 0);
        HOLDS(n == 0 || !scram_base64_read(text, left, bytes, n - 1, &n));
    }
    free(text);
    free(again);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len == 0)
        return 0;
    switch (data[0] % 8) {
    case 0: case 1: case 2: as_server(data + 1, len - 1); break;
    case 3: case 4: as_client(data + 1, len - 1, SCRAM_SHA_256); break;
    case 5: as_client(data + 1, len - 1, SCRAM_SHA_1); break;
    case 6: as_keys(data + 1, len - 1); break;
    default: as_base64(data + 1, len - 1); break;
    }
    return 0;
}
