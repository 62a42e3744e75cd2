/* mongo_login.c - stand-in until the real one is merged. */
#include "mongo.h"
void mongo_login_begin(struct mongo_login *l, struct backend *b, struct conn *c, void (*on_end)(struct mongo_login *l, const char *why))
{
    unsigned char out[256]; struct bson d;
    memset(l, 0, sizeof *l); l->conn = c; l->backend = b; l->on_end = on_end; wire_start(&l->answer, true);
    mongomsg_begin(&d, out, sizeof out, WIRE_OP_MSG, 0, 1, 0); bson_int32(&d, "hello", 1); bson_string(&d, "$db", "admin");
    chain_put(&c->out, BUF_REPLY, out, mongomsg_finish(&d)); conn_dirty(c);
}
void mongo_login_bytes(struct mongo_login *l)
{
    unsigned char in[4096]; enum wire_status st; ssize_t n = conn_receive(l->conn, in, sizeof in);
    if (n == CONN_ENDED) conn_fail(l->conn, "closed");
    if (n <= 0) return;
    wire_feed(&l->answer, in, (size_t)n, &st);
    if (st == WIRE_WHOLE) l->on_end(l, wire_true(&l->answer, WIRE_OK) ? NULL : "its hello fails");
}
void mongo_login_stop(struct mongo_login *l) { (void)l; }
