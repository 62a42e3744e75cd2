// The common set of operations, by ioredis: ioredis.js HOST:PORT plain|cluster|single [PASSWORD]
//
// plain: a plain client; cluster: a cluster's client; single: a plain client, and one server that is no cluster, where keys of several slots do
// not matter. Prints "ok N operations" and exits with 0, or prints the first one that failed and exits with 1. redis_py.py and node_redis.js do
// the same, in the same order. Its keys begin with a prefix of its own and are deleted in the end. ioredis is found by NODE_PATH.
"use strict";

const Redis = require("ioredis");
const { PREFIX, MANY, TAG, check, errorOf, onAll, until, whileBlocked, run } = require("./common.js").begin("ioredis");

function connect(host, port, mode, password, more = {}) {
  const node = { host, port: Number(port) };
  const r = mode === "cluster"
    ? new Redis.Cluster([node], { redisOptions: { password, ...more }, shardedSubscribers: true,
      ...(more.retryStrategy && { clusterRetryStrategy: more.retryStrategy }) })
    : new Redis({ ...node, password, ...more });
  r.on("error", () => {}); // what matters is what the commands say
  r.isSingle = mode === "single";
  r.another = async () => {
    const own = connect(host, port, mode, password, more);
    await own.ping();
    return own;
  };
  return r;
}

// What is said of a connection is said to a node's: Puerta shows a cluster's client one node.
const node = (r) => (r.isCluster ? r.nodes("master")[0] : r);

// SCAN to its end. Redis.Cluster has no scan of its own.
async function scan(r, options) {
  const keys = new Set();
  for await (const some of node(r).scanStream(options)) some.forEach((k) => keys.add(k));
  return keys;
}

async function strings(r) {
  const key = PREFIX + "string";
  check("SET", await r.set(key, "one"), "OK");
  check("GET", await r.get(key), "one");
  check("SET NX of a key that is there", await r.set(key, "two", "NX"), null);
  check("SET GET", await r.set(key, "two", "GET"), "one");
  check("APPEND", await r.append(key, "+three"), 9);
  check("GETRANGE", await r.getrange(key, 4, -1), "three");
  await r.set(key, Buffer.from([97, 13, 10, 98, 0, 99, 255]));
  check("line ends and zeros in a value", (await r.getBuffer(key)).toString("hex"), "610d0a620063ff");
}

async function counters(r) {
  const key = PREFIX + "counter";
  check("INCR", await r.incr(key), 1);
  check("INCRBY", await r.incrby(key, 41), 42);
  check("DECR", await r.decr(key), 41);
  check("INCRBYFLOAT", await r.incrbyfloat(key, 0.5), "41.5");
}

async function expiry(r) {
  const key = PREFIX + "expiry";
  await r.set(key, "v", "EX", 100);
  const ttl = await r.ttl(key);
  check("SET EX and TTL", ttl > 90 && ttl <= 100);
  check("PERSIST", [await r.persist(key), await r.ttl(key)], [1, -1]);
  await r.pexpireat(key, 1);
  check("PEXPIREAT in the past", await r.get(key), null);
}

async function hashes(r) {
  const key = PREFIX + "hash";
  check("HSET", await r.hset(key, { a: "1", b: "2" }), 2);
  check("HGETALL", await r.hgetall(key), { a: "1", b: "2" });
  check("HMGET", await r.hmget(key, "b", "none"), ["2", null]);
  check("HINCRBY", await r.hincrby(key, "a", 5), 6);
  check("HDEL", await r.hdel(key, "a", "b"), 2);
}

async function lists(r) {
  const key = TAG + "list";
  check("RPUSH", await r.rpush(key, "a", "b", "c"), 3);
  check("LRANGE", await r.lrange(key, 0, -1), ["a", "b", "c"]);
  check("LPOP of two", await r.lpop(key, 2), ["a", "b"]);
  check("LMOVE", [await r.lmove(key, TAG + "list2", "LEFT", "RIGHT"), await r.llen(key)], ["c", 0]);
}

async function sets(r) {
  check("SADD", await r.sadd(TAG + "set", "a", "b", "c"), 3);
  check("SMEMBERS", (await r.smembers(TAG + "set")).sort(), ["a", "b", "c"]);
  await r.sadd(TAG + "set2", "b");
  check("SINTER", await r.sinter(TAG + "set", TAG + "set2"), ["b"]);
}

async function zsets(r) {
  const key = PREFIX + "zset";
  check("ZADD", await r.zadd(key, 1, "a", 2, "b", 3, "c"), 3);
  check("ZRANGE WITHSCORES", await r.zrange(key, 0, -1, "WITHSCORES"), ["a", "1", "b", "2", "c", "3"]);
  check("ZINCRBY", await r.zincrby(key, 9, "a"), "10");
  check("ZRANGEBYSCORE", await r.zrangebyscore(key, 2, 3), ["b", "c"]);
}

async function otherTypes(r) {
  await r.setbit(PREFIX + "bits", 7, 1);
  check("SETBIT and BITCOUNT", await r.bitcount(PREFIX + "bits"), 1);
  await r.pfadd(PREFIX + "hll", "a", "b", "a");
  check("PFADD and PFCOUNT", await r.pfcount(PREFIX + "hll"), 2);
  const added = await r.xadd(PREFIX + "stream", "*", "field", "value");
  check("XADD and XRANGE", await r.xrange(PREFIX + "stream", "-", "+"), [[added, ["field", "value"]]]);
}

async function manySlots(r) {
  check("MSET over slots", await r.mset(new Map(MANY.map((k) => [k, "v" + k]))), "OK");
  check("MGET over slots", await r.mget(MANY), MANY.map((k) => "v" + k));
  check("EXISTS over slots", await r.exists(MANY), 100);
  check("TOUCH over slots", await r.touch(MANY), 100);
  check("UNLINK over slots", await r.unlink(MANY.slice(0, 50)), 50);
  check("DEL over slots", await r.del(MANY), 50);
  check("MGET of keys that are gone", await r.mget(MANY), MANY.map(() => null));
}

async function names(r) {
  await r.set(TAG + "old", "v");
  check("RENAME", await r.rename(TAG + "old", TAG + "new"), "OK");
  check("COPY", await r.copy(TAG + "new", TAG + "copy"), 1);
  check("TYPE", await r.type(TAG + "copy"), "string");
}

async function pipelines(r) {
  const pipe = r.pipeline();
  for (const k of MANY) pipe.set(k, 1).incr(k).get(k);
  check("a pipeline over slots", (await pipe.exec()).map(([error, answer]) => error || answer), MANY.flatMap(() => ["OK", 2, "2"]));
  const [first, second, last] = await r.pipeline().get(MANY[0]).lpush(MANY[1], "x").get(MANY[2]).exec();
  check("an error within a pipeline", [first[1], /^WRONGTYPE/.test(second[0].message), last[1]], ["2", true, "2"]);
}

async function wholeKeyspace(r) {
  // MANY are there again.
  const all = await scan(r, { count: 100 });
  check("SCAN of all keys", MANY.every((k) => all.has(k)));
  check("SCAN MATCH", [...await scan(r, { match: PREFIX + "many:*", count: 1000 })].sort(), [...MANY].sort());
  check("KEYS", (await r.keys(PREFIX + "many:*")).sort(), [...MANY].sort());
  check("DBSIZE", await r.dbsize() >= 100);
  await r.hset(PREFIX + "wide", Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [i, i])));
  const fields = new Set();
  for await (const some of r.hscanStream(PREFIX + "wide")) for (let i = 0; i < some.length; i += 2) fields.add(some[i]);
  check("HSCAN", fields.size, 1000);
}

async function scripts(r) {
  check("EVAL", await r.eval("return {KEYS[1], ARGV[1]}", 1, MANY[0], "x"), [MANY[0], "x"]);
  // The helper sends EVALSHA, and EVAL when it hears NOSCRIPT: the text is new to all nodes.
  r.defineCommand("helper", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1]) -- " + PREFIX });
  check("the script helper, a new script", await r.helper(MANY[0], 8), 10);
  check("the script helper on all nodes", await onAll(MANY.slice(1), (k) => r.helper(k, 8)), MANY.slice(1).map(() => 10));
  const sha = await r.script("LOAD", "return 'loaded' -- " + PREFIX);
  check("SCRIPT LOAD and EVALSHA", await onAll(MANY, (k) => r.evalsha(sha, 1, k)), MANY.map(() => "loaded"));
  check("SCRIPT EXISTS", await r.script("EXISTS", sha, "0".repeat(40)), [1, 0]);
  check("EVALSHA of an unknown script", (await errorOf(r.evalsha("0".repeat(40), 1, MANY[0]))).startsWith("NOSCRIPT"));
}

async function functions(r) {
  const name = PREFIX.replace(/:/g, "_");
  const code = `#!lua name=${name}
redis.register_function{function_name='${name}get', callback=function(k) return redis.call('GET', k[1]) end, flags={'no-writes'}}`;
  check("FUNCTION LOAD", await r.function("LOAD", code), name);
  check("FCALL on all nodes", await onAll(MANY, (k) => r.fcall(name + "get", 1, k)), MANY.map(() => "10"));
  check("FCALL_RO", await r.fcall_ro(name + "get", 1, MANY[0]), "10");
  check("FUNCTION LIST", JSON.stringify(await r.function("LIST", "LIBRARYNAME", name)).includes(name));
  check("FUNCTION DELETE", await r.function("DELETE", name), "OK");
}

// Answers of EXEC: errors as their texts.
const ran = (answers) => answers && answers.map(([error, answer]) => (error ? error.message : answer));

async function transactions(r) {
  const key = TAG + "multi";
  check("MULTI and EXEC", ran(await r.multi().set(key, 1).incr(key).get(key).exec()), ["OK", 2, "2"]);
  check("an error within EXEC", ran(await r.multi().set(key, "x").incr(key).get(key).exec()),
    ["OK", "ERR value is not an integer or out of range", "x"]);
  check("EXEC after an error", await errorOf(r.multi().set(key, "y").call("GET", key, "z").exec()),
    "EXECABORT Transaction discarded because of previous errors.");
  check("nothing of it ran", await r.get(key), "x");
  check("a script within MULTI", ran(await r.multi().set(key, 1).eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, key, 5).exec()), ["OK", 6]);
  check("nothing blocks within MULTI", ran(await r.multi().blpop(TAG + "none", 0).get(key).exec()), [null, "6"]);
  const own = await r.another();
  const one = node(own);
  check("DISCARD", [await one.multi({ pipeline: false }), await one.set(key, "z"), await one.discard(), await r.get(key)], ["OK", "QUEUED", "OK", "6"]);
  await own.watch(key);
  check("WATCH, untouched", ran(await own.multi().incr(key).exec()), [7]);
  await own.watch(key);
  await r.set(key, 10);
  check("WATCH, touched by another", ran(await own.multi().incr(key).exec()), null);
  let tries = 0;
  let answers = null;
  while (answers === null) {
    await own.watch(key);
    const value = Number(await own.get(key));
    if (++tries === 1) await r.set(key, 20);
    answers = await own.multi().set(key, 2 * value).exec();
  }
  check("WATCH, touched and tried again", [tries, ran(answers), await r.get(key)], [2, ["OK"], "40"]);
  await own.watch(key);
  await r.set(key, 50);
  check("UNWATCH", [await node(own).unwatch(), ran(await own.multi().incr(key).exec())], ["OK", [51]]);
  own.disconnect();
}

async function streams(r) {
  const key = PREFIX + "stream:group";
  const flat = (entries) => entries.map(([id, fields]) => [id, ...fields]);
  const read = async (c, who, ...how) => {
    const got = await c.xreadgroup("GROUP", "group", who, ...how);
    return got && got.map(([name, entries]) => [name, flat(entries)]);
  };
  check("XADD", await onAll(["1-1", "2-1", "3-1"], (id) => r.xadd(key, id, "n", id[0])), ["1-1", "2-1", "3-1"]);
  check("XGROUP CREATE", await r.xgroup("CREATE", key, "group", "0"), "OK");
  check("XREADGROUP", await read(r, "alice", "COUNT", 2, "STREAMS", key, ">"), [[key, [["1-1", "n", "1"], ["2-1", "n", "2"]]]]);
  check("XPENDING", await r.xpending(key, "group"), [2, "1-1", "2-1", [["alice", "2"]]]);
  check("XACK", await r.xack(key, "group", "1-1"), 1);
  check("XPENDING of a range", (await r.xpending(key, "group", "-", "+", 10)).map(([id, who, , times]) => [id, who, times]), [["2-1", "alice", 1]]);
  const [next, claimed, gone] = await r.xautoclaim(key, "group", "bob", 0, "0");
  check("XAUTOCLAIM", [next, flat(claimed), gone], ["0-0", [["2-1", "n", "2"]], []]);
  check("XREADGROUP of what is one's own", await read(r, "bob", "STREAMS", key, "0"), [[key, [["2-1", "n", "2"]]]]);
  check("XREADGROUP with BLOCK, of what is there", await read(r, "bob", "BLOCK", 0, "STREAMS", key, ">"), [[key, [["3-1", "n", "3"]]]]);
  const own = await r.another();
  const list = () => node(r).client("LIST");
  check("XREADGROUP with BLOCK", await whileBlocked(list, read(own, "bob", "BLOCK", 0, "STREAMS", key, ">"), () => r.xadd(key, "4-1", "n", "4")),
    [[key, [["4-1", "n", "4"]]]]);
  check("XREADGROUP with BLOCK, in vain", await read(own, "bob", "BLOCK", 20, "STREAMS", key, ">"), null);
  check("XGROUP DESTROY", await r.xgroup("DESTROY", key, "group"), 1);
  own.disconnect();
}

async function blocking(r) {
  const [key, to] = [TAG + "queue", TAG + "queue2"];
  const own = await r.another();
  const when = (begun, act) => whileBlocked(() => node(r).client("LIST"), begun, act);
  await r.rpush(key, "a");
  check("BLPOP of what is there", await own.blpop(to, key, 0), [key, "a"]);
  check("BLPOP", await when(own.blpop(to, key, 0), () => r.rpush(key, "b")), [key, "b"]);
  check("BLMOVE", [await when(own.blmove(key, to, "LEFT", "RIGHT", 0), () => r.rpush(key, "c")), await r.lpop(to)], ["c", "c"]);
  check("BLMPOP", await when(own.blmpop(0, 2, to, key, "LEFT", "COUNT", 5), () => r.rpush(key, "d", "e")), [key, ["d", "e"]]);
  check("BZPOPMIN", await when(own.bzpopmin(TAG + "zqueue", 0), () => r.zadd(TAG + "zqueue", 1.5, "m")), [TAG + "zqueue", "m", "1.5"]);
  check("XREAD with BLOCK", await when(own.xread("BLOCK", 0, "STREAMS", TAG + "xqueue", "$"), () => r.xadd(TAG + "xqueue", "1-1", "f", "v")),
    [[TAG + "xqueue", [["1-1", ["f", "v"]]]]]);
  check("BLPOP in vain", await own.blpop(key, 0.02), null);
  check("CLIENT UNBLOCK", await when(own.blpop(key, 0), (id) => node(r).client("UNBLOCK", id)), null);
  check("the same connection afterwards", await own.get(MANY[0]), "10");
  own.disconnect();
}

async function pubsub(r) {
  const [channel, pattern, shard] = [PREFIX + "channel", PREFIX + "ch*", PREFIX + "shard"];
  const own = await r.another();
  let heard = [];
  own.on("message", (name, text) => heard.push(["message", name, text]));
  own.on("pmessage", (like, name, text) => heard.push(["pmessage", like, name, text]));
  own.on("smessage", (name, text) => heard.push(["smessage", name, text]));
  const hears = async (n) => {
    await until("messages", () => heard.length >= n);
    return heard.splice(0);
  };
  await own.subscribe(channel);
  check("SUBSCRIBE, PUBLISH", [await r.publish(channel, "one"), await hears(1)], [1, [["message", channel, "one"]]]);
  await own.psubscribe(pattern);
  check("PSUBSCRIBE, PUBLISH", [await r.publish(channel, "two"), await hears(2)], [2, [["message", channel, "two"], ["pmessage", pattern, channel, "two"]]]);
  check("PUBSUB NUMSUB, NUMPAT", [await node(r).pubsub("NUMSUB", channel), await node(r).pubsub("NUMPAT")], [[channel, 1], 1]);
  await own.unsubscribe(channel);
  check("UNSUBSCRIBE", [await r.publish(channel, "three"), await hears(1)], [1, [["pmessage", pattern, channel, "three"]]]);
  const numbers = MANY.map((_, i) => String(i));
  await Promise.all(numbers.map((i) => r.publish(channel, i)));
  check("messages in order", (await hears(100)).map((m) => m[3]), numbers);
  await own.punsubscribe(pattern);
  check("PUNSUBSCRIBE", await r.publish(channel, "four"), 0);
  await own.ssubscribe(shard);
  check("SSUBSCRIBE, SPUBLISH", [await r.spublish(shard, "five"), await hears(1)], [1, [["smessage", shard, "five"]]]);
  await own.sunsubscribe(shard);
  check("SUNSUBSCRIBE", await r.spublish(shard, "six"), 0);
  check("the client afterwards", [await own.get(MANY[0]), heard], ["10", []]);
  own.disconnect();
}

// ioredis has no cache: a connection tracks, another hears what has become void.
async function caching(r) {
  const keys = MANY.map((k) => k + ":cached");
  const [own, other] = [await r.another(), await r.another()];
  const [tracks, hears] = [node(own), node(other)];
  let heard = [];
  const id = await hears.client("ID");
  hears.on("message", (_, names) => heard.push(...names.split(",")));
  await hears.subscribe("__redis__:invalidate");
  const write = (k, value) => r.set(k, value);
  const told = async (n) => {
    await until("messages", () => heard.length >= n);
    return heard.splice(0).sort();
  };
  check("CLIENT TRACKING", await tracks.client("TRACKING", "ON", "REDIRECT", id), "OK");
  await write(keys[0], "one");
  check("a value is read", await tracks.get(keys[0]), "one");
  await write(keys[0], "two");
  check("and is void when another writes it", await told(1), [keys[0]]);
  await onAll(keys, (k) => write(k, "three"));
  check("values of all nodes", await onAll(keys, (k) => tracks.get(k)), keys.map(() => "three"));
  await onAll(keys, (k) => write(k, "four"));
  check("and all are void", await told(100), [...keys].sort());
  // What was not read again since is not told again.
  await tracks.get(keys[0]);
  await write(keys[1], "five");
  await write(keys[0], "five");
  check("only what was read", await told(1), [keys[0]]);
  own.disconnect();
  other.disconnect();
}

async function aboutTheServer(r) {
  check("INFO", /redis_version:[789]\./.test(await r.info("server")));
  await r.client("SETNAME", "ioredis");
  check("CLIENT SETNAME and GETNAME", await r.client("GETNAME"), "ioredis");
  check("CLIENT LIST", / name=ioredis /.test(await r.client("LIST")));
  check("CONFIG GET", await r.config("GET", "maxmemory-policy"), ["maxmemory-policy", "noeviction"]);
  check("COMMAND COUNT", await r.command("COUNT") > 200);
}

async function largeValues(r) {
  const large = `${String(process.pid).padStart(7, "0")}\n`.repeat(1 << 19);
  check("SET of 4 MiB", await r.set(PREFIX + "large", large), "OK");
  check("GET of 4 MiB", await r.get(PREFIX + "large") === large);
  check("STRLEN", await r.strlen(PREFIX + "large"), 1 << 22);
  const third = large.slice(0, 1 << 20);
  await r.rpush(PREFIX + "large:list", third, third, third);
  const got = await r.lrange(PREFIX + "large:list", 0, -1);
  check("LRANGE of 3 x 1 MiB", got.length === 3 && got.every((x) => x === third));
}

async function errors(r) {
  check("WRONGTYPE", await errorOf(r.lpush(MANY[0], "x")), "WRONGTYPE Operation against a key holding the wrong kind of value");
  check("CROSSSLOT", await errorOf(r.renamenx(MANY[0], MANY[1])), r.isSingle ? "no error but 0" : "CROSSSLOT Keys in request don't hash to the same slot");
  check("an unknown command", (await errorOf(r.call("NOSUCH", MANY[0]))).startsWith("ERR unknown command 'NOSUCH'"));
  check("a wrong number of arguments", (await errorOf(r.call("GET", MANY[0], "x"))).startsWith("ERR wrong number of arguments"));
}

async function reconnect(r) {
  const before = await r.client("ID");
  check("CLIENT KILL of itself", await r.client("KILL", "ID", before, "SKIPME", "no"), 1);
  check("the next command, on a new connection", await r.get(MANY[0]), "10");
  check("CLIENT ID is another", await r.client("ID") !== before);
}

async function passwords(host, port, mode) {
  const refused = async (kind, password) => {
    const r = connect(host, port, kind, password, { retryStrategy: () => null });
    const text = await errorOf(r.get("k"));
    r.disconnect();
    return text;
  };
  check("no password", (await refused("plain")).startsWith("NOAUTH"));
  check("a wrong password", (await refused("plain", "wrong")).startsWith("WRONGPASS"));
  check("a wrong password, by the mode's client", !(await refused(mode, "wrong")).startsWith("no error"));
}

const GROUPS = [strings, counters, expiry, hashes, lists, sets, zsets, otherTypes, manySlots, names, pipelines, wholeKeyspace, scripts, functions,
  transactions, streams, blocking, pubsub, caching, aboutTheServer, largeValues, errors, reconnect];

async function deleteAll(r) {
  for (const key of await scan(r, { match: `*${PREFIX}*`, count: 1000 })) await r.del(key);
}

run({ connect, groups: GROUPS, passwords, deleteAll });
