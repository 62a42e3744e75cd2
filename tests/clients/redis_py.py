"""The common set of operations, by redis-py: redis_py.py HOST:PORT plain|cluster|single [PASSWORD]

plain: a plain client; cluster: a cluster's client; single: a plain client, and one server that is no cluster, where keys of several slots do not
matter. Speaks the protocol that redis-py speaks by itself, RESP3 since redis-py 8, or with RESP=2 in the environment RESP2. Prints "ok N
operations" and exits with 0, or prints the first one that failed and exits with 1. ioredis.js and node_redis.js do the same, in the same order.
Its keys begin with a prefix of its own and are deleted in the end.
"""
import contextlib
import os
import sys
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.cache import CacheConfig, DefaultCache
from redis.cluster import RedisCluster
from redis.connection import CacheProxyConnection
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


def until(what, condition):
    """Asks until the answer is true in the sense of the language, and gives it."""
    end = time.monotonic() + 20
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Failed("waited in vain: " + what)
        time.sleep(0.005)


def while_blocked(r, call, act):
    """What blocks is begun, by a connection of its own; when it blocks, `act` does what ends it (it gets the blocked client's id)."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    blocked, = until("a client that blocks", lambda: [c["id"] for c in r.client_list() if "b" in c["flags"]])
    act(blocked)
    thread.join(20)
    return answers[0] if answers else "no answer"


def connect(host, port, mode, password=None, retries=1, **more):
    # By itself it tries again ten times, also with a wrong password.
    protocol = {"protocol": int(os.environ["RESP"])} if "RESP" in os.environ else {}
    kind = RedisCluster if mode == "cluster" else redis.Redis
    r = kind(host=host, port=int(port), password=password, decode_responses=True, socket_timeout=30,
             retry=Retry(NoBackoff(), retries), **protocol, **more)
    r.is_single = mode == "single"
    r.another = lambda **more: connect(host, port, mode, password, retries, **more)
    return r


def node(r):
    """What is said of a connection is said to a node's: Puerta shows a cluster's client one node."""
    return r.get_redis_connection(r.get_default_node()) if isinstance(r, RedisCluster) else r


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
    # transaction=False: without it, redis.Redis wraps a pipeline into MULTI and EXEC, whose keys must share a slot.
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


def transactions(r):
    key = TAG + "multi"

    def run(*commands, pipe=None):
        """A transaction's answers, errors as their texts; None when what was watched was touched. Of OK, redis.Redis makes True."""
        with (r.pipeline(transaction=True) if pipe is None else contextlib.nullcontext(pipe)) as p:
            for command in commands:
                p.execute_command(*command)
            try:
                return [str(a) if isinstance(a, Exception) else "OK" if a is True else a for a in p.execute(raise_on_error=False)]
            except redis.WatchError:
                return None

    check("MULTI and EXEC", run(("SET", key, 1), ("INCR", key), ("GET", key)), ["OK", 2, "2"])
    check("an error within EXEC", run(("SET", key, "x"), ("INCR", key), ("GET", key)), ["OK", "value is not an integer or out of range", "x"])
    # It tells of the command's own error, not of EXEC's.
    check("EXEC after an error", "wrong number of arguments for 'get' command" in error_of(run, ("SET", key, "y"), ("GET", key, "z")))
    check("nothing of it ran", r.get(key), "x")
    check("a script within MULTI", run(("SET", key, 1), ("EVAL", "return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, key, 5)), ["OK", 6])
    check("nothing blocks within MULTI", run(("BLPOP", TAG + "none", 0), ("GET", key)), [None, "6"])
    with node(r).client() as one:
        check("DISCARD", [one.execute_command("MULTI"), str(one.execute_command("ECHO", "z")), one.execute_command("DISCARD"), r.get(key)],
              ["OK", "QUEUED", "OK", "6"])
    with r.pipeline(transaction=True) as own:
        own.watch(key)
        own.multi()
        check("WATCH, untouched", run(("INCR", key), pipe=own), [7])
        own.watch(key)
        r.set(key, 10)
        own.multi()
        check("WATCH, touched by another", run(("INCR", key), pipe=own), None)
    tries = []

    def double(pipe):
        value = int(pipe.get(key))
        tries.append(value)
        if len(tries) == 1:
            r.set(key, 20)
        pipe.multi()
        pipe.set(key, 2 * value)

    check("WATCH, touched and tried again", [len(r.transaction(double, key)), tries, r.get(key)], [1, [10, 20], "40"])
    with r.pipeline(transaction=True) as own:
        own.watch(key)
        r.set(key, 50)
        own.unwatch()
        check("UNWATCH", run(("INCR", key), pipe=own), [51])


def read(got):
    """An answer of XREAD or XREADGROUP as a list: RESP3's is a dictionary."""
    if isinstance(got, dict):
        got = [[k, v[0] if len(v) == 1 and v and isinstance(v[0], list) else v] for k, v in got.items()]
    return [[name, flat(entries)] for name, entries in got or []]


def flat(entries):
    return [[entry_id] + [word for pair in fields.items() for word in pair] for entry_id, fields in entries]


def streams(r):
    key = PREFIX + "stream:group"

    def read_group(who, since, **how):
        return read(r.xreadgroup("group", who, {key: since}, **how))

    check("XADD", [r.xadd(key, {"n": i[0]}, id=i) for i in ("1-1", "2-1", "3-1")], ["1-1", "2-1", "3-1"])
    check("XGROUP CREATE", r.xgroup_create(key, "group", "0"))
    check("XREADGROUP", read_group("alice", ">", count=2), [[key, [["1-1", "n", "1"], ["2-1", "n", "2"]]]])
    check("XPENDING", r.xpending(key, "group"), {"pending": 2, "min": "1-1", "max": "2-1", "consumers": [{"name": "alice", "pending": 2}]})
    check("XACK", r.xack(key, "group", "1-1"), 1)
    check("XPENDING of a range", [(x["message_id"], x["consumer"], x["times_delivered"]) for x in r.xpending_range(key, "group", "-", "+", 10)],
          [("2-1", "alice", 1)])
    following, claimed, gone = r.xautoclaim(key, "group", "bob", 0)
    check("XAUTOCLAIM", [following, flat(claimed), gone], ["0-0", [["2-1", "n", "2"]], []])
    check("XREADGROUP of what is one's own", read_group("bob", "0"), [[key, [["2-1", "n", "2"]]]])
    check("XREADGROUP with BLOCK, of what is there", read_group("bob", ">", block=0), [[key, [["3-1", "n", "3"]]]])
    check("XREADGROUP with BLOCK", while_blocked(r, lambda: read_group("bob", ">", block=0), lambda _: r.xadd(key, {"n": "4"}, id="4-1")),
          [[key, [["4-1", "n", "4"]]]])
    check("XREADGROUP with BLOCK, in vain", read_group("bob", ">", block=20), [])
    check("XGROUP DESTROY", r.xgroup_destroy(key, "group"), 1)


def blocking(r):
    key, to, zset, stream = (TAG + k for k in ("queue", "queue2", "zqueue", "xqueue"))
    r.rpush(key, "a")
    check("BLPOP of what is there", list(r.blpop([to, key], 0)), [key, "a"])
    check("BLPOP", list(while_blocked(r, lambda: r.blpop([to, key], 0), lambda _: r.rpush(key, "b"))), [key, "b"])
    check("BLMOVE", [while_blocked(r, lambda: r.blmove(key, to, 0), lambda _: r.rpush(key, "c")), r.lpop(to)], ["c", "c"])
    check("BLMPOP", while_blocked(r, lambda: r.blmpop(0, 2, to, key, direction="LEFT", count=5), lambda _: r.rpush(key, "d", "e")), [key, ["d", "e"]])
    check("BZPOPMIN", list(while_blocked(r, lambda: r.bzpopmin(zset, 0), lambda _: r.zadd(zset, {"m": 1.5}))), [zset, "m", 1.5])
    check("XREAD with BLOCK", read(while_blocked(r, lambda: r.xread({stream: "$"}, block=0), lambda _: r.xadd(stream, {"f": "v"}, id="1-1"))),
          [[stream, [["1-1", "f", "v"]]]])
    check("BLPOP in vain", r.blpop(key, 0.02), None)
    check("CLIENT UNBLOCK", while_blocked(r, lambda: r.blpop(key, 0), lambda blocked: node(r).client_unblock(int(blocked))), None)
    check("the same connections afterwards", r.get(MANY[0]), "10")


def pubsub(r):
    channel, pattern, shard = PREFIX + "channel", PREFIX + "ch*", PREFIX + "shard"
    own = r.pubsub()
    sharded = getattr(own, "get_sharded_message", own.get_message)  # a cluster's client reads those apart

    def hears(n=1, get=own.get_message):
        got = []
        until("messages", lambda: got.extend(m for m in [get(timeout=1)] if m) or len(got) >= n)
        return [[m["type"], m["channel"], m["data"]] for m in got]

    own.subscribe(channel)
    hears()
    check("SUBSCRIBE, PUBLISH", [r.publish(channel, "one"), hears()], [1, [["message", channel, "one"]]])
    own.psubscribe(pattern)
    hears()
    check("PSUBSCRIBE, PUBLISH", [r.publish(channel, "two"), hears(2)], [2, [["message", channel, "two"], ["pmessage", channel, "two"]]])
    check("PUBSUB NUMSUB, NUMPAT", [[list(x) for x in r.pubsub_numsub(channel)], r.pubsub_numpat()], [[[channel, 1]], 1])
    own.unsubscribe(channel)
    check("UNSUBSCRIBE", [hears(), r.publish(channel, "three"), hears()], [[["unsubscribe", channel, 1]], 1, [["pmessage", channel, "three"]]])
    numbers = [str(i) for i in range(100)]
    with r.pipeline(transaction=False) if not isinstance(r, RedisCluster) else contextlib.nullcontext(r) as pipe:
        for i in numbers:
            pipe.publish(channel, i)
        if pipe is not r:
            pipe.execute()
    check("messages in order", [m[2] for m in hears(100)], numbers)
    own.punsubscribe(pattern)
    check("PUNSUBSCRIBE", [hears(), r.publish(channel, "four")], [[["punsubscribe", pattern, 0]], 0])
    own.ssubscribe(shard)
    hears(get=sharded)
    check("SSUBSCRIBE, SPUBLISH", [r.spublish(shard, "five"), hears(get=sharded)], [1, [["smessage", shard, "five"]]])
    own.sunsubscribe(shard)
    check("SUNSUBSCRIBE", [hears(get=sharded), r.spublish(shard, "six")], [[["sunsubscribe", shard, 0]], 0])
    check("the client afterwards", [r.get(MANY[0]), own.subscribed], ["10", False])
    own.close()


CACHED = [k + ":cached" for k in MANY]


def caching(r):
    """redis-py's own cache, which needs RESP3. What does not come from it, the server counts."""
    # It wants Redis 7.4 only by name; what it uses is as old as Redis 6.
    CacheProxyConnection.MIN_ALLOWED_VERSION = "7.0.0"
    cache = DefaultCache(CacheConfig())
    own = r.another(cache=cache)

    def gets():
        return r.info("commandstats")["cmdstat_get"]["calls"]

    def become(keys, value):
        for k in keys:
            until("the new value", lambda k=k: own.get(k) == value)
        return [own.get(k) for k in keys]

    def write(keys, value):
        for k in keys:
            r.set(k, value)

    write(CACHED[:1], "one")
    check("a value is read", own.get(CACHED[0]), "one")
    before = gets()
    check("and then comes from the cache", [own.get(CACHED[0]), gets() - before], ["one", 0])
    write(CACHED[:1], "two")
    check("and is void when another writes it", become(CACHED[:1], "two"), ["two"])
    write(CACHED, "three")
    become(CACHED, "three")
    before = gets()
    check("values of all nodes", [[own.get(k) for k in CACHED], gets() - before, cache.size], [["three"] * 100, 0, 100])
    write(CACHED, "four")
    check("and all are void", become(CACHED, "four"), ["four"] * 100)
    write(CACHED[:1], "five")
    become(CACHED[:1], "five")
    before = gets()
    check("only what was written", [[own.get(k) for k in CACHED], gets() - before], [["five"] + ["four"] * 99, 0])
    own.close()


def tracking(r):
    """Without it: a connection tracks, another hears what has become void."""
    listener = node(r.another())
    me = listener.client_id()  # of the one connection, which then subscribes
    hears = listener.pubsub()
    hears.subscribe("__redis__:invalidate")
    until("the subscription", lambda: hears.get_message(timeout=1))

    def told(n):
        got = []
        until("messages", lambda: got.extend(k for m in [hears.get_message(timeout=1)] if m for k in m["data"]) or len(got) >= n)
        return sorted(got)

    def write(keys, value):
        for k in keys:
            r.set(k, value)

    with node(r.another()).client() as own:
        check("CLIENT TRACKING", own.client_tracking_on(clientid=me), "OK")
        write(CACHED[:1], "one")
        check("a value is read", own.get(CACHED[0]), "one")
        write(CACHED[:1], "two")
        check("and is void when another writes it", told(1), CACHED[:1])
        write(CACHED, "three")
        check("values of all nodes", [own.get(k) for k in CACHED], ["three"] * 100)
        write(CACHED, "four")
        check("and all are void", told(100), sorted(CACHED))
        own.get(CACHED[0])
        write(CACHED[1::-1], "five")
        check("only what was read", told(1), CACHED[:1])
    hears.close()


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
    crossslot = error_of(r.execute_command, "RENAMENX", MANY[0], MANY[1], **where)
    check("CROSSSLOT", ("no error but False" if r.is_single else "Keys in request don't hash to the same slot") in crossslot or crossslot)
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
          transactions, streams, blocking, pubsub, tracking if os.environ.get("RESP") == "2" else caching, about_the_server, large_values, errors, reconnect)


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
    if len(sys.argv) not in (3, 4) or sys.argv[2] not in ("plain", "cluster", "single"):
        sys.exit("usage: redis_py.py HOST:PORT plain|cluster|single [PASSWORD]")
    sys.exit(main(*sys.argv[1:]))
