"""The common set of operations, by redis-py: redis_py.py HOST:PORT plain|cluster [PASSWORD]

Speaks the protocol that redis-py speaks by itself, RESP3 since redis-py 8, or with RESP=2 in the environment RESP2. Prints "ok N operations" and exits with 0, or prints the first one that failed and exits with 1. ioredis.js, node_redis.js and redis_cli.sh do the same, in the
same order. Its keys begin with a prefix of its own and are deleted in the end.
"""
import contextlib
import os
import sys

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

PREFIX = "redis_py:%d:" % os.getpid()
MANY = [PREFIX + "many:%d" % i for i in range(100)]  # keys of many slots
TAG = "{%s}" % PREFIX  # keys of one slot

# What a call may raise; redis-py's RedisClusterException is no RedisError.
ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)

count = 0


class Failed(Exception):
    pass


def check(what, got, wanted=True):
    global count
    if got != wanted:
        raise Failed("%s: got %.300r, wanted %.300r" % (what, got, wanted))
    count += 1


def error_of(call, *arguments, **named):
    """The text of the error that the call raises."""
    try:
        return "no error but %r" % (call(*arguments, **named),)
    except ERRORS as e:
        return str(e)


def connect(host, port, mode, password=None, retries=1):
    # By itself it tries again ten times, also with a wrong password.
    protocol = {"protocol": int(os.environ["RESP"])} if "RESP" in os.environ else {}
    kind = RedisCluster if mode == "cluster" else redis.Redis
    return kind(host=host, port=int(port), password=password, decode_responses=True, socket_timeout=30,
                retry=Retry(NoBackoff(), retries), **protocol)


def strings(r):
    key = PREFIX + "string"
    check("SET", r.set(key, "one"))
    check("GET", r.get(key), "one")
    check("SET NX of a key that is there", r.set(key, "two", nx=True), None)
    check("SET GET", r.set(key, "two", get=True), "one")
    check("APPEND", r.append(key, "+three"), 9)
    check("GETRANGE", r.getrange(key, 4, -1), "three")
    r.set(key, "a\r\nb\0c")
    check("line ends and zeros in a value", r.get(key), "a\r\nb\0c")


def counters(r):
    key = PREFIX + "counter"
    check("INCR", r.incr(key), 1)
    check("INCRBY", r.incrby(key, 41), 42)
    check("DECR", r.decr(key), 41)
    check("INCRBYFLOAT", float(r.incrbyfloat(key, 0.5)), 41.5)


def expiry(r):
    key = PREFIX + "expiry"
    r.set(key, "v", ex=100)
    check("SET EX and TTL", 90 < r.ttl(key) <= 100)
    check("PERSIST", (r.persist(key), r.ttl(key)), (True, -1))
    r.pexpireat(key, 1)
    check("PEXPIREAT in the past", r.get(key), None)


def hashes(r):
    key = PREFIX + "hash"
    check("HSET", r.hset(key, mapping={"a": "1", "b": "2"}), 2)
    check("HGETALL", r.hgetall(key), {"a": "1", "b": "2"})
    check("HMGET", r.hmget(key, ["b", "none"]), ["2", None])
    check("HINCRBY", r.hincrby(key, "a", 5), 6)
    check("HDEL", r.hdel(key, "a", "b"), 2)


def lists(r):
    key = TAG + "list"
    check("RPUSH", r.rpush(key, "a", "b", "c"), 3)
    check("LRANGE", r.lrange(key, 0, -1), ["a", "b", "c"])
    check("LPOP of two", r.lpop(key, 2), ["a", "b"])
    check("LMOVE", (r.lmove(key, TAG + "list2"), r.llen(key)), ("c", 0))


def sets(r):
    check("SADD", r.sadd(TAG + "set", "a", "b", "c"), 3)
    check("SMEMBERS", r.smembers(TAG + "set"), {"a", "b", "c"})
    r.sadd(TAG + "set2", "b")
    check("SINTER", set(r.sinter([TAG + "set", TAG + "set2"])), {"b"})


def zsets(r):
    key = PREFIX + "zset"
    check("ZADD", r.zadd(key, {"a": 1, "b": 2, "c": 3}), 3)
    check("ZRANGE WITHSCORES", [tuple(x) for x in r.zrange(key, 0, -1, withscores=True)], [("a", 1.0), ("b", 2.0), ("c", 3.0)])
    check("ZINCRBY", float(r.zincrby(key, 9, "a")), 10.0)
    check("ZRANGEBYSCORE", r.zrangebyscore(key, 2, 3), ["b", "c"])


def other_types(r):
    r.setbit(PREFIX + "bits", 7, 1)
    check("SETBIT and BITCOUNT", r.bitcount(PREFIX + "bits"), 1)
    r.pfadd(PREFIX + "hll", "a", "b", "a")
    check("PFADD and PFCOUNT", r.pfcount(PREFIX + "hll"), 2)
    added = r.xadd(PREFIX + "stream", {"field": "value"})
    check("XADD and XRANGE", r.xrange(PREFIX + "stream"), [(added, {"field": "value"})])


def many_slots(r):
    # RedisCluster wants another name for what is not atomic in a cluster; through Puerta, plain Redis's own does it.
    mset, mget = (r.mset_nonatomic, r.mget_nonatomic) if isinstance(r, RedisCluster) else (r.mset, r.mget)
    check("MSET over slots", bool(mset({k: "v" + k for k in MANY})))
    check("MGET over slots", mget(MANY), ["v" + k for k in MANY])
    check("EXISTS over slots", r.exists(*MANY), 100)
    check("TOUCH over slots", r.touch(*MANY), 100)
    check("UNLINK over slots", r.unlink(*MANY[:50]), 50)
    check("DEL over slots", r.delete(*MANY), 50)
    check("MGET of keys that are gone", mget(MANY), [None] * 100)


def names(r):
    r.set(TAG + "old", "v")
    check("RENAME", r.rename(TAG + "old", TAG + "new"))
    check("COPY", bool(r.copy(TAG + "new", TAG + "copy")))
    check("TYPE", r.type(TAG + "copy"), "string")


def pipelines(r):
    # transaction=False: without it, redis.Redis wraps a pipeline into MULTI and EXEC, which this version of Puerta does not have.
    with r.pipeline(transaction=False) as pipe:
        for k in MANY:
            pipe.set(k, 1).incr(k).get(k)
        check("a pipeline over slots", pipe.execute(), [True, 2, "2"] * 100)
    with r.pipeline(transaction=False) as pipe:
        pipe.get(MANY[0]).lpush(MANY[1], "x").get(MANY[2])
        first, error, last = pipe.execute(raise_on_error=False)
        check("an error within a pipeline", (first, "WRONGTYPE" in str(error), last), ("2", True, "2"))


def whole_keyspace(r):
    # MANY are there again.
    check("SCAN of all keys", set(MANY) <= set(r.scan_iter(count=100)))
    check("SCAN MATCH", set(r.scan_iter(match=PREFIX + "many:*", count=1000)), set(MANY))
    check("KEYS", set(r.keys(PREFIX + "many:*")), set(MANY))
    check("DBSIZE", r.dbsize() >= 100)
    r.hset(PREFIX + "wide", mapping={str(i): i for i in range(1000)})
    check("HSCAN", len(dict(r.hscan_iter(PREFIX + "wide"))), 1000)


def scripts(r):
    check("EVAL", r.eval("return {KEYS[1], ARGV[1]}", 1, MANY[0], "x"), [MANY[0], "x"])
    # The helper sends EVALSHA, and SCRIPT LOAD when it hears NOSCRIPT: the text is new to all nodes.
    helper = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1]) -- " + PREFIX)
    check("the script helper, a new script", helper(keys=[MANY[0]], args=[8]), 10)
    check("the script helper on all nodes", [helper(keys=[k], args=[8]) for k in MANY[1:]], [10] * 99)
    sha = r.script_load("return 'loaded' -- " + PREFIX)
    check("SCRIPT LOAD and EVALSHA", [r.evalsha(sha, 1, k) for k in MANY], ["loaded"] * 100)
    check("SCRIPT EXISTS", r.script_exists(sha, "0" * 40), [True, False])
    check("EVALSHA of an unknown script", "matching script" in error_of(r.evalsha, "0" * 40, 1, MANY[0]))


def functions(r):
    name = PREFIX.replace(":", "_")
    code = "#!lua name=%s\nredis.register_function{function_name='%sget', callback=function(k) return redis.call('GET', k[1]) end, flags={'no-writes'}}"
    check("FUNCTION LOAD", r.function_load(code % (name, name)), name)
    check("FCALL on all nodes", [r.fcall(name + "get", 1, k) for k in MANY], ["10"] * 100)
    check("FCALL_RO", r.fcall_ro(name + "get", 1, MANY[0]), "10")
    check("FUNCTION LIST", name in str(r.function_list(library=name)))
    check("FUNCTION DELETE", bool(r.function_delete(name)))


def about_the_server(r):
    check("INFO", r.info("server")["redis_version"][:2] in ("7.", "8.", "9."))
    r.client_setname("redis_py")
    check("CLIENT SETNAME and GETNAME", r.client_getname(), "redis_py")
    check("CLIENT LIST", "redis_py" in [c["name"] for c in r.client_list()])
    check("CONFIG GET", r.config_get("maxmemory-policy"), {"maxmemory-policy": "noeviction"})
    check("COMMAND COUNT", r.command_count() > 200)


def large_values(r):
    large = ("%07d\n" % os.getpid()) * (1 << 19)
    check("SET of 4 MiB", r.set(PREFIX + "large", large))
    check("GET of 4 MiB", r.get(PREFIX + "large") == large)
    check("STRLEN", r.strlen(PREFIX + "large"), 1 << 22)
    r.rpush(PREFIX + "large:list", *[large[:1 << 20]] * 3)
    check("LRANGE of 3 x 1 MiB", r.lrange(PREFIX + "large:list", 0, -1) == [large[:1 << 20]] * 3)


def errors(r):
    # RedisCluster refuses keys of several slots by itself, unless it is told the node.
    where = {"target_nodes": r.get_default_node()} if isinstance(r, RedisCluster) else {}
    check("WRONGTYPE", error_of(r.lpush, MANY[0], "x"), "WRONGTYPE Operation against a key holding the wrong kind of value")
    crossslot = error_of(r.execute_command, "RENAME", MANY[0], MANY[1], **where)
    check("CROSSSLOT", "Keys in request don't hash to the same slot" in crossslot or crossslot)
    check("an unknown command", error_of(r.execute_command, "NOSUCH", MANY[0], **where).startswith("unknown command 'NOSUCH'"))
    check("a wrong number of arguments", "wrong number of arguments" in error_of(r.execute_command, "GET", MANY[0], "x"))


def reconnect(r):
    before = r.client_id()
    check("CLIENT KILL of itself", r.client_kill_filter(_id=str(before), skipme=False), 1)
    check("the next command, on a new connection", r.get(MANY[0]), "10")
    check("CLIENT ID is another", r.client_id() != before)


def passwords(host, port, mode):
    def refused(kind, password=None):
        return error_of(lambda: connect(host, port, kind, password, retries=0).get("k"))

    check("no password", "uthenticat" in refused("plain"))  # RESP3 begins with HELLO, which has a text of its own
    check("a wrong password", "invalid username-password pair" in refused("plain", "wrong"))
    check("a wrong password, by the mode's client", "invalid username-password pair" in refused(mode, "wrong"))


GROUPS = (strings, counters, expiry, hashes, lists, sets, zsets, other_types, many_slots, names, pipelines, whole_keyspace, scripts, functions,
          about_the_server, large_values, errors, reconnect)


def main(address, mode, password=None):
    host, port = address.rsplit(":", 1)
    group = connect
    failure = None
    try:
        r = connect(host, port, mode, password)
        for group in GROUPS:
            group(r)
        if password:
            group = passwords
            passwords(host, port, mode)
    except (Failed,) + ERRORS as e:
        failure = e
    print("failed: %s: %s" % (group.__name__, failure) if failure else "ok %d operations" % count)
    if group != connect:
        with contextlib.suppress(*ERRORS):
            for key in list(r.scan_iter(match="*%s*" % PREFIX, count=1000)):
                r.delete(key)
    return 1 if failure else 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[2] not in ("plain", "cluster"):
        sys.exit("usage: redis_py.py HOST:PORT plain|cluster [PASSWORD]")
    sys.exit(main(*sys.argv[1:]))
