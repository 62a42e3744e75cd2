/*
 * hand.h - clients on their way from one worker to the next: what goes with each, and what a room of clients does for that.
 *
 *   handover.c --> hand.c --struct hand_room--> redis_hand.c, mongo_relay_hand.c, mongo_pooled_hand.c
 */
#ifndef PUERTA_HAND_H
#define PUERTA_HAND_H

#include "puerta.h"

#define HAND_STATE 768  /* bytes of what a room keeps of one client */
#define HAND_INPUT 2048 /* what was read of it and not done yet */

/* One client on its way to the next worker. */
struct handed {
    uint64_t id;                /* conn.id */
    uint32_t entry;             /* the room's own number of it */
    char section[NAME_CAP];
    uint8_t kind;               /* enum service_kind */
    uint8_t fd_count;           /* its own descriptor; and that to its mongos */
    uint16_t state_len, input_len;
    uint64_t age_ms;
    struct address peer;
    unsigned char state[HAND_STATE]; /* the room's own record */
    unsigned char input[HAND_INPUT]; /* the last: no more of it goes than is there */
};

/* The clients of one room, each by its number in the room's table, and what only that room knows of them. */
struct hand_room {
    uint8_t kind;                 /* enum service_kind */
    int (*conns)(uint32_t i, struct conn *out[HAND_FDS]); /* its connections, its own first; how many: 0: there is no such client */
    bool (*pauses)(uint32_t i);   /* it could go if it rested: it is read no more until then */
    bool (*rests)(uint32_t i);    /* one that pauses: nothing of it is under way */
    void (*fill)(uint32_t i, struct handed *h); /* calls hand_state() with what goes along */
    void (*go_on)(uint32_t i);    /* it was given, and has come back; NULL: nothing is to be done then */
    uint32_t total;               /* entries of the table, set by the room when that is there */
    uint32_t at;                  /* hand.c's own, as all below: who is looked at next */
    uint64_t again_ms;            /* those that were refused are offered again then */
};

/* The old worker: gives those that rest. `give` false: no more now. The descriptors stay this worker's until it hears more. */
void hand_walk(struct hand_room *r, bool (*give)(const struct handed *h, const int *fds));
void hand_given(struct hand_room *r, uint32_t i, uint64_t id, bool taken); /* what became of one; of another room's: nothing is done */
void hand_lost(struct hand_room *r);    /* no more will be taken; whatever was given is lost */
void hand_state(struct handed *h, const void *state, size_t n, const struct chain *input); /* input NULL: nothing of it is here */
/* The new worker: c, of section s, is that client. Gives since when it is there. */
uint64_t hand_arrive(const struct handed *h, struct service *s, struct conn *c);

#endif
