/* mongo_greet.c - stand-in until the real one is merged. */
#include "mongo.h"
void greet_arrive(struct pooled *p) { (void)p; }
void greet_leave(struct pooled *p) { (void)p; }
bool greet_takes(const struct pooled *p) { return p->asks.hello; }
size_t greet_answer(struct pooled *p, const unsigned char *msg, size_t n, unsigned char *out, size_t cap)
{
    struct bson b; (void)msg; (void)n;
    mongomsg_begin_answer(&b, out, cap, &p->asks.header, 1);
    bson_bool(&b, "isWritablePrimary", true); bson_bool(&b, "ismaster", true); bson_bool(&b, "helloOk", true); bson_string(&b, "msg", "isdbgrid");
    bson_int32(&b, "maxBsonObjectSize", 16777216); bson_int32(&b, "maxMessageSizeBytes", 48000000); bson_int32(&b, "maxWriteBatchSize", 100000);
    bson_int32(&b, "logicalSessionTimeoutMinutes", 30); bson_int32(&b, "connectionId", (int32_t)p->conn->id);
    bson_int32(&b, "minWireVersion", 0); bson_int32(&b, "maxWireVersion", 21); bson_bool(&b, "readOnly", false); bson_double(&b, "ok", 1);
    return mongomsg_finish(&b);
}
size_t greet_again(struct pooled *p, unsigned char *out, size_t cap) { (void)p; (void)out; (void)cap; return 0; }
bool door_admits(const struct pooled *p, enum mongo_code *code, const char **text) { (void)p; (void)code; (void)text; return true; }
