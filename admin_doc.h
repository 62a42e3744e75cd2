/* admin_doc.h - what operators are told as JSON: documents that are made in pieces, element by element.
 *
 *   doc_begin() --> doc_piece(), doc_piece() ... until it is over
 *
 * The lines of a long document may be of different turns; each element is of one.
 */
#ifndef PUERTA_ADMIN_DOC_H
#define PUERTA_ADMIN_DOC_H

#include "answer.h"
#include "puerta.h"

#define DOC_PIECE 8192 /* room enough for any element */

enum doc_what { DOC_HEALTHY, DOC_READY, DOC_VERSION, DOC_STATUS, DOC_SLOTS, DOC_CLIENTS, DOC_SLOW, DOC_HOT, DOC_MEMORY };

/* A document under way. */
struct doc {
    const struct conf *conf;
    const struct service *service; /* of DOC_SLOTS */
    const struct doc_part *part;   /* the one that it has come to */
    uint64_t row;                  /* and how far in it */
    bool opened, over;
    struct json json;
};

void doc_begin(struct doc *y, enum doc_what what, const struct conf *conf, const struct service *service);
/* The next piece: its length, at most DOC_PIECE. y->over: it was the last. */
size_t doc_piece(struct doc *y, char out[DOC_PIECE]);

#endif
