/*
 * handover.h - an upgrade: what one worker tells the next, and what the modes do for it.
 *
 *   handover.c --hand_mode--> redis_hand.c, mongo.c: struct handed (hand.h), a client that has come, with its descriptors
 *                             mongo_route.c, mongo_choose.c: struct hand_note, what is remembered of cursors, transactions, sessions, clients
 */
#ifndef PUERTA_HANDOVER_H
#define PUERTA_HANDOVER_H

#include "hand.h"

/* One thing that is remembered, told to the other worker. */
struct hand_note {
    char section[NAME_CAP];
    uint8_t kind;               /* enum service_kind */
    uint8_t what;               /* the room's own */
    uint8_t of, key_len;        /* enum affinity_kind; of the key */
    uint32_t number[3];         /* the room's own */
    uint64_t place;             /* a mongos, by its name */
    uint64_t id[2];             /* the key's hash; or the seed of hashes */
    unsigned char key[32];      /* key_len 0: only its hash is known */
};

struct hand_notes {
    void (*sync)(void);         /* before something is looked up: what the other one has noted is taken in */
    void (*send)(const struct hand_note *n);
};

#define HAND_ROOMS 2

/* What a mode does for the handover. NULL: it has nothing of that kind. */
struct hand_mode {
    uint8_t kind;
    struct hand_room *rooms[HAND_ROOMS]; /* whose clients are handed over; NULL behind the last */
    bool (*adopt)(struct service *s, const struct handed *h, const int *fds); /* false: it cannot be had; the descriptors are the caller's still */
    bool (*seeds)(bool (*give)(const struct hand_note *n)); /* what has to be known before any note; false: it cannot be told */
    /* Tells its tables from *cursor (0 at first) on; false: to be called again. */
    bool (*tell)(uint32_t *cursor, bool (*give)(const struct hand_note *n));
    void (*take_note)(struct service *s, const struct hand_note *n);
    void (*notes)(const struct hand_notes *to);     /* what it notes from now on is told */
};

void handover_open(const struct conf *conf, const struct hand_mode *modes, size_t count, bool (*is_ready)(bool all));
bool handover_drains(void);             /* the next worker has taken over */
bool handover_is_told(void);            /* and knows all that is not a client's */
bool handover_is_over(uint32_t stop_ms); /* those who are still here are to be closed, which takes stop_ms */
uint64_t handover_until_ms(void);       /* by when this worker has to have gone */

#endif
