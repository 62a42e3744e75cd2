/*
 * redis_say.h - the words of a request, and the writer of an answer that Puerta makes itself.
 *
 *   request --words_next()--> word          writer(c, q) --say_*()--> say_answer() --> the client's order of answers
 */
#ifndef REDIS_SAY_H
#define REDIS_SAY_H

#include "redis.h"

/* ------------------------------------------------------------ what was asked */

struct word { const char *p; size_t n; };

/* A walk over the arguments of a request: those behind the fourth are found only so. */
struct words { const struct request *q; uint32_t at, left; };

struct words words_from(const struct request *q, uint32_t first);
bool words_next(struct words *w, struct word *out);
/* Argument i, one of the first RESP_ARGS_KEPT; an empty one where there is none. */
struct word request_word(const struct request *q, uint32_t i);
bool word_is(struct word w, const char *lower);  /* in either case */
bool word_same(struct word w, const char *text); /* byte by byte */
bool word_number(struct word w, int64_t *out);
/* For "%.*s": so much of a word as an error repeats. */
int word_shown(struct word w);

/* ------------------------------------------------------------ what is said */

/* Writes one whole answer. When there is no room for it, it is written again later: what changes something must be
 * said in few bytes, for which room is made sure of before, or be the same when done twice. */
typedef void (*say_writer)(struct client *c, const struct request *q);

#define SAY_SHORT 1024 /* those few bytes */

/* Has the answer written and puts it into the client's order of answers; WAIT when there is no room now. */
enum verdict say_answer(struct client *c, const struct request *q, say_writer write);

/* The same for a request that waits for it: say_begin(), what is said, and then to its place. False: no room now. */
void say_begin(const struct client *c);
bool say_give(struct req *r);

void say(const void *p, size_t n);
void say_text(const char *text);              /* as it is: "+OK\r\n" */
void say_header(char type, int64_t n);
void say_bulk(const void *p, size_t n);
void say_name(const char *text);              /* a bulk */
/* What RESP3 has a type for, and RESP2 tells by arrays: */
void say_map(int64_t pairs);
void say_set(int64_t n);
void say_null(void);
void say_bool(bool yes);                      /* RESP2: 1 or 0 */
void say_format(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* up to 1,023 bytes */
/* The whole answer is this error; "ERR what", without '-' and CRLF. */
void say_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void say_syntax_error(void);
/* The lines of a HELP, up to a NULL. */
void say_help(const char *container, const char *const *lines);
/* "Unknown subcommand", of the container that the request names. */
void say_unknown(const struct request *q);
/* All that follows in this answer is one text: a bulk, or the verbatim string of RESP3. */
void say_as_text(void);
/* The client is to go once it is answered. */
void say_close(void);
/* Whether the last answer was an error. */
bool say_failed(void);
/* The answer has become longer than may be: there is no use in going on. */
bool say_overlong(void);

#endif
