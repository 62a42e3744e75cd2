// The common set of operations, by node-redis: node_redis.js HOST:PORT plain|cluster|single [PASSWORD]
//
// plain: a plain client; cluster: a cluster's client; single: a plain client, and one server that is no cluster, where keys of several slots do
// not matter. Speaks RESP3, or with RESP=2 in the environment RESP2. Prints "ok N operations" and exits with 0, or prints the first one that
// failed and exits with 1. redis_py.py and ioredis.js do the same, in the same order. Its keys begin with a prefix of its own and are deleted
// in the end. The package, whose name is redis, is found by NODE_PATH.
"use strict";

const { createClient, createCluster, RESP_TYPES } = require("redis");
const { PREFIX, MANY, TAG, check, errorOf, onAll, until, whileBlocked, run } = require("./common.js").begin("node_redis");

const RESP = Number(process.env.RESP || 3);
const protocol = { RESP, unstableResp3: RESP === 3 }; // without it, it has no XREAD with RESP3

// Without a password, a plain client soon says what is wrong instead of trying for ever.
async function connect(host, port, mode, password, more = {}) {
  const tries = password || mode === "cluster" ? Infinity : 5;
  const socket = { host, port: Number(port), reconnectStrategy: (n) => (n > tries ? false : Math.min(20 * n, 500)), ...more.socket };
  const r = mode === "cluster"
    ? createCluster({ rootNodes: [{ socket }], defaults: { password, socket: { reconnectStrategy: socket.reconnectStrategy } }, ...protocol, ...more.cache })
    : createClient({ socket, password, ...protocol, ...more.cache });
  r.on("error", () => {}); // what matters is what the commands say
  r.inCluster = mode === "cluster";
  r.isSingle = mode === "single";
  r.another = (cache) => connect(host, port, mode, password, { ...more, cache });
  await r.connect();
  return r;
}

// What concerns no key is asked of a node by a cluster's client: Puerta shows one.
const node = async (r) => (r.inCluster ? r.nodeClient(r.masters[0]) : r);
const raw = (r, key, ...words) => (r.inCluster ? r.sendCommand(key, false, words) : r.sendCommand(words));

const list = async (r) => (await node(r)).sendCommand(["CLIENT", "LIST"]);

// SCAN to its end.
async function scan(r, options) {
  const keys = new Set();
  for await (const some of (await node(r)).scanIterator(options)) some.forEach((k) => keys.add(k));
  return keys;
}

async function strings(r) {
  const key = PREFIX + "string";
  check("SET", await r.set(key, "one"), "OK");
  check("GET", await r.get(key), "one");
  check("SET NX of a key that is there", await r.set(key, "two", { NX: true }), null);
  check("SET GET", await r.set(key, "two", { GET: true }), "one");
  check("APPEND", await r.append(key, "+three"), 9);
  check("GETRANGE", await r.getRange(key, 4, -1), "three");
  await r.set(key, Buffer.from([97, 13, 10, 98, 0, 99, 255]));
  const buffers = r.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  check("line ends and zeros in a value", (await buffers.get(key)).toString("hex"), "610d0a620063ff");
}

async function counters(r) {
  const key = PREFIX + "counter";
  check("INCR", await r.incr(key), 1);
  check("INCRBY", await r.incrBy(key, 41), 42);
  check("DECR", await r.decr(key), 41);
  check("INCRBYFLOAT", Number(await r.incrByFloat(key, 0.5)), 41.5);
}

async function expiry(r) {
  const key = PREFIX + "expiry";
  await r.set(key, "v", { EX: 100 });
  const ttl = await r.ttl(key);
  check("SET EX and TTL", ttl > 90 && ttl <= 100);
  check("PERSIST", [await r.persist(key), await r.ttl(key)], [1, -1]);
  await r.pExpireAt(key, 1);
  check("PEXPIREAT in the past", await r.get(key), null);
}

async function hashes(r) {
  const key = PREFIX + "hash";
  check("HSET", await r.hSet(key, { a: "1", b: "2" }), 2);
  check("HGETALL", { ...await r.hGetAll(key) }, { a: "1", b: "2" });
  check("HMGET", await r.hmGet(key, ["b", "none"]), ["2", null]);
  check("HINCRBY", await r.hIncrBy(key, "a", 5), 6);
  check("HDEL", await r.hDel(key, ["a", "b"]), 2);
}

async function lists(r) {
  const key = TAG + "list";
  check("RPUSH", await r.rPush(key, ["a", "b", "c"]), 3);
  check("LRANGE", await r.lRange(key, 0, -1), ["a", "b", "c"]);
  check("LPOP of two", await r.lPopCount(key, 2), ["a", "b"]);
  check("LMOVE", [await r.lMove(key, TAG + "list2", "LEFT", "RIGHT"), await r.lLen(key)], ["c", 0]);
}

async function sets(r) {
  check("SADD", await r.sAdd(TAG + "set", ["a", "b", "c"]), 3);
  check("SMEMBERS", [...await r.sMembers(TAG + "set")].sort(), ["a", "b", "c"]);
  await r.sAdd(TAG + "set2", "b");
  check("SINTER", [...await r.sInter([TAG + "set", TAG + "set2"])], ["b"]);
}

async function zsets(r) {
  const key = PREFIX + "zset";
  check("ZADD", await r.zAdd(key, [{ score: 1, value: "a" }, { score: 2, value: "b" }, { score: 3, value: "c" }]), 3);
  check("ZRANGE WITHSCORES", (await r.zRangeWithScores(key, 0, -1)).map((x) => [x.value, x.score]), [["a", 1], ["b", 2], ["c", 3]]);
  check("ZINCRBY", await r.zIncrBy(key, 9, "a"), 10);
  check("ZRANGEBYSCORE", await r.zRangeByScore(key, 2, 3), ["b", "c"]);
}

async function otherTypes(r) {
  await r.setBit(PREFIX + "bits", 7, 1);
  check("SETBIT and BITCOUNT", await r.bitCount(PREFIX + "bits"), 1);
  await r.pfAdd(PREFIX + "hll", ["a", "b", "a"]);
  check("PFADD and PFCOUNT", await r.pfCount(PREFIX + "hll"), 2);
  const added = await r.xAdd(PREFIX + "stream", "*", { field: "value" });
  check("XADD and XRANGE", (await r.xRange(PREFIX + "stream", "-", "+")).map((x) => [x.id, { ...x.message }]), [[added, { field: "value" }]]);
}

// A cluster's client sends a request to where its first key is, and Puerta does the rest.
async function manySlots(r) {
  check("MSET over slots", await r.mSet(MANY.map((k) => [k, "v" + k])), "OK");
  check("MGET over slots", await r.mGet(MANY), MANY.map((k) => "v" + k));
  check("EXISTS over slots", await r.exists(MANY), 100);
  check("TOUCH over slots", await r.touch(MANY), 100);
  check("UNLINK over slots", await r.unlink(MANY.slice(0, 50)), 50);
  check("DEL over slots", await r.del(MANY), 50);
  check("MGET of keys that are gone", await r.mGet(MANY), MANY.map(() => null));
}

async function names(r) {
  await r.set(TAG + "old", "v");
  check("RENAME", await r.rename(TAG + "old", TAG + "new"), "OK");
  check("COPY", await r.copy(TAG + "new", TAG + "copy"), 1);
  check("TYPE", await r.type(TAG + "copy"), "string");
}

// Commands of one turn go out together.
async function pipelines(r) {
  check("a pipeline over slots", await Promise.all(MANY.flatMap((k) => [r.set(k, 1), r.incr(k), r.get(k)])), MANY.flatMap(() => ["OK", 2, "2"]));
  const [first, second, last] = await Promise.allSettled([r.get(MANY[0]), r.lPush(MANY[1], "x"), r.get(MANY[2])]);
  check("an error within a pipeline", [first.value, /^WRONGTYPE/.test(second.reason.message), last.value], ["2", true, "2"]);
}

async function wholeKeyspace(r) {
  // MANY are there again.
  const one = await node(r);
  const all = await scan(r, { COUNT: 100 });
  check("SCAN of all keys", MANY.every((k) => all.has(k)));
  check("SCAN MATCH", [...await scan(r, { MATCH: PREFIX + "many:*", COUNT: 1000 })].sort(), [...MANY].sort());
  check("KEYS", (await one.keys(PREFIX + "many:*")).sort(), [...MANY].sort());
  check("DBSIZE", await one.dbSize() >= 100);
  await r.hSet(PREFIX + "wide", Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [i, i])));
  const fields = new Set();
  let cursor = "0";
  do {
    const page = await r.hScan(PREFIX + "wide", cursor);
    page.entries.forEach((e) => fields.add(e.field));
    cursor = page.cursor;
  } while (cursor !== "0");
  check("HSCAN", fields.size, 1000);
}

async function scripts(r) {
  const one = await node(r);
  check("EVAL", await r.eval("return {KEYS[1], ARGV[1]}", { keys: [MANY[0]], arguments: ["x"] }), [MANY[0], "x"]);
  // A helper sends EVALSHA, and EVAL when it hears NOSCRIPT: the text is new to all nodes.
  const text = "return redis.call('INCRBY', KEYS[1], ARGV[1]) -- " + PREFIX;
  const digest = require("crypto").createHash("sha1").update(text).digest("hex");
  const helper = (k, by) => r.evalSha(digest, { keys: [k], arguments: [String(by)] }).catch((e) => {
    if (!e.message.startsWith("NOSCRIPT")) throw e;
    return r.eval(text, { keys: [k], arguments: [String(by)] });
  });
  check("the script helper, a new script", await helper(MANY[0], 8), 10);
  check("the script helper on all nodes", await onAll(MANY.slice(1), (k) => helper(k, 8)), MANY.slice(1).map(() => 10));
  const sha = await one.scriptLoad("return 'loaded' -- " + PREFIX);
  check("SCRIPT LOAD and EVALSHA", await onAll(MANY, (k) => r.evalSha(sha, { keys: [k] })), MANY.map(() => "loaded"));
  check("SCRIPT EXISTS", await one.scriptExists([sha, "0".repeat(40)]), [1, 0]);
  check("EVALSHA of an unknown script", (await errorOf(r.evalSha("0".repeat(40), { keys: [MANY[0]] }))).startsWith("NOSCRIPT"));
}

async function functions(r) {
  const one = await node(r);
  const name = PREFIX.replace(/:/g, "_");
  const code = `#!lua name=${name}
redis.register_function{function_name='${name}get', callback=function(k) return redis.call('GET', k[1]) end, flags={'no-writes'}}`;
  check("FUNCTION LOAD", await one.functionLoad(code), name);
  check("FCALL on all nodes", await onAll(MANY, (k) => r.fCall(name + "get", { keys: [k] })), MANY.map(() => "10"));
  check("FCALL_RO", await r.fCallRo(name + "get", { keys: [MANY[0]] }), "10");
  check("FUNCTION LIST", JSON.stringify(await one.functionList({ LIBRARYNAME: name })).includes(name));
  check("FUNCTION DELETE", await one.functionDelete(name), "OK");
}

// Answers of EXEC: errors as their texts, null when what was watched was touched.
const ran = (exec) => exec.catch((e) => {
  if (e.name === "WatchError" || e.constructor.name === "WatchError") return null;
  if (!e.replies) throw e;
  return e.replies.map((answer) => (answer instanceof Error ? answer.message : answer));
});

async function transactions(r) {
  const key = TAG + "multi";
  const multi = () => (r.inCluster ? r.multi(key) : r.multi());
  check("MULTI and EXEC", await ran(multi().set(key, 1).incr(key).get(key).exec()), ["OK", 2, "2"]);
  check("an error within EXEC", await ran(multi().set(key, "x").incr(key).get(key).exec()), ["OK", "ERR value is not an integer or out of range", "x"]);
  // It tells of the command's own error, not of EXEC's.
  const wrong = r.inCluster ? multi().set(key, "y").addCommand(key, false, ["GET", key, "z"]) : multi().set(key, "y").addCommand(["GET", key, "z"]);
  check("EXEC after an error", await errorOf(wrong.exec()), "ERR wrong number of arguments for 'get' command");
  check("nothing of it ran", await r.get(key), "x");
  const script = { keys: [key], arguments: ["5"] };
  check("a script within MULTI", await ran(multi().set(key, 1).eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", script).exec()), ["OK", 6]);
  check("nothing blocks within MULTI", await ran(multi().blPop(TAG + "none", 0).get(key).exec()), [null, "6"]);
  const another = await r.another();
  const own = await node(another); // a cluster's client has no WATCH
  check("DISCARD", [await own.sendCommand(["MULTI"]), await own.sendCommand(["SET", key, "z"]), await own.sendCommand(["DISCARD"]), await r.get(key)],
    ["OK", "QUEUED", "OK", "6"]);
  await own.watch(key);
  check("WATCH, untouched", await ran(own.multi().incr(key).exec()), [7]);
  await own.watch(key);
  await r.set(key, 10);
  check("WATCH, touched by another", await ran(own.multi().incr(key).exec()), null);
  let tries = 0;
  let answers = null;
  while (answers === null) {
    await own.watch(key);
    const value = Number(await own.get(key));
    if (++tries === 1) await r.set(key, 20);
    answers = await ran(own.multi().set(key, 2 * value).exec());
  }
  check("WATCH, touched and tried again", [tries, answers, await r.get(key)], [2, ["OK"], "40"]);
  await own.watch(key);
  await r.set(key, 50);
  check("UNWATCH", [await own.unwatch(), await ran(own.multi().incr(key).exec())], ["OK", [51]]);
  another.destroy();
}

// Answers of XREAD and XREADGROUP as lists: node-redis makes objects of RESP2's, and leaves RESP3's as they are.
const read = (got) => got && (Array.isArray(got)
  ? got.map(({ name, messages }) => [name, flat(messages)])
  : Object.entries(got).map(([name, entries]) => [name, entries.map(([id, fields]) => [id, ...fields])]));
const flat = (entries) => entries.map(({ id, message }) => [id, ...Object.entries(message).flat()]);

async function streams(r) {
  const key = PREFIX + "stream:group";
  const news = { key, id: ">" };
  const readGroup = async (c, who, from, how) => read(await c.xReadGroup("group", who, from, how));
  check("XADD", await onAll(["1-1", "2-1", "3-1"], (id) => r.xAdd(key, id, { n: id[0] })), ["1-1", "2-1", "3-1"]);
  check("XGROUP CREATE", await r.xGroupCreate(key, "group", "0"), "OK");
  check("XREADGROUP", await readGroup(r, "alice", news, { COUNT: 2 }), [[key, [["1-1", "n", "1"], ["2-1", "n", "2"]]]]);
  check("XPENDING", await r.xPending(key, "group"),
    { pending: 2, firstId: "1-1", lastId: "2-1", consumers: [{ name: "alice", deliveriesCounter: 2 }] });
  check("XACK", await r.xAck(key, "group", "1-1"), 1);
  check("XPENDING of a range", (await r.xPendingRange(key, "group", "-", "+", 10)).map((x) => [x.id, x.consumer, x.deliveriesCounter]), [["2-1", "alice", 1]]);
  const { nextId, messages, deletedMessages } = await r.xAutoClaim(key, "group", "bob", 0, "0");
  check("XAUTOCLAIM", [nextId, flat(messages), deletedMessages], ["0-0", [["2-1", "n", "2"]], []]);
  check("XREADGROUP of what is one's own", await readGroup(r, "bob", { key, id: "0" }), [[key, [["2-1", "n", "2"]]]]);
  check("XREADGROUP with BLOCK, of what is there", await readGroup(r, "bob", news, { BLOCK: 0 }), [[key, [["3-1", "n", "3"]]]]);
  const own = await r.another();
  check("XREADGROUP with BLOCK", await whileBlocked(() => list(r), readGroup(own, "bob", news, { BLOCK: 0 }), () => r.xAdd(key, "4-1", { n: "4" })),
    [[key, [["4-1", "n", "4"]]]]);
  check("XREADGROUP with BLOCK, in vain", await readGroup(own, "bob", news, { BLOCK: 20 }), null);
  check("XGROUP DESTROY", await r.xGroupDestroy(key, "group"), 1);
  own.destroy();
}

async function blocking(r) {
  const [key, to, zset, stream] = ["queue", "queue2", "zqueue", "xqueue"].map((k) => TAG + k);
  const own = await r.another();
  const when = (begun, act) => whileBlocked(() => list(r), begun, act);
  await r.rPush(key, "a");
  check("BLPOP of what is there", await own.blPop([to, key], 0), { key, element: "a" });
  check("BLPOP", await when(own.blPop([to, key], 0), () => r.rPush(key, "b")), { key, element: "b" });
  check("BLMOVE", [await when(own.blMove(key, to, "LEFT", "RIGHT", 0), () => r.rPush(key, "c")), await r.lPop(to)], ["c", "c"]);
  check("BLMPOP", await when(own.blmPop(0, [to, key], "LEFT", { COUNT: 5 }), () => r.rPush(key, ["d", "e"])), [key, ["d", "e"]]);
  check("BZPOPMIN", await when(own.bzPopMin(zset, 0), () => r.zAdd(zset, { score: 1.5, value: "m" })), { key: zset, value: "m", score: 1.5 });
  check("XREAD with BLOCK", read(await when(own.xRead({ key: stream, id: "$" }, { BLOCK: 0 }), () => r.xAdd(stream, "1-1", { f: "v" }))),
    [[stream, [["1-1", "f", "v"]]]]);
  check("BLPOP in vain", await own.blPop(key, 0.02), null);
  const one = await node(r);
  check("CLIENT UNBLOCK", await when(own.blPop(key, 0), (id) => one.sendCommand(["CLIENT", "UNBLOCK", id])), null);
  check("the same connection afterwards", await own.get(MANY[0]), "10");
  own.destroy();
}

async function pubsub(r) {
  const [channel, pattern, shard] = [PREFIX + "channel", PREFIX + "ch*", PREFIX + "shard"];
  const own = await r.another();
  const one = await node(r);
  const heard = [];
  const hears = async (n) => {
    await until("messages", () => heard.length >= n);
    return heard.splice(0);
  };
  await own.subscribe(channel, (text, name) => heard.push(["message", name, text]));
  check("SUBSCRIBE, PUBLISH", [await r.publish(channel, "one"), await hears(1)], [1, [["message", channel, "one"]]]);
  await own.pSubscribe(pattern, (text, name) => heard.push(["pmessage", name, text]));
  check("PSUBSCRIBE, PUBLISH", [await r.publish(channel, "two"), await hears(2)], [2, [["message", channel, "two"], ["pmessage", channel, "two"]]]);
  check("PUBSUB NUMSUB, NUMPAT", [await one.pubSubNumSub([channel]), await one.pubSubNumPat()], [{ [channel]: 1 }, 1]);
  await own.unsubscribe(channel);
  check("UNSUBSCRIBE", [await r.publish(channel, "three"), await hears(1)], [1, [["pmessage", channel, "three"]]]);
  const numbers = MANY.map((_, i) => String(i));
  await Promise.all(numbers.map((i) => r.publish(channel, i)));
  check("messages in order", (await hears(100)).map((m) => m[2]), numbers);
  await own.pUnsubscribe(pattern);
  check("PUNSUBSCRIBE", await r.publish(channel, "four"), 0);
  await own.sSubscribe(shard, (text, name) => heard.push(["smessage", name, text]));
  check("SSUBSCRIBE, SPUBLISH", [await r.sPublish(shard, "five"), await hears(1)], [1, [["smessage", shard, "five"]]]);
  await own.sUnsubscribe(shard);
  check("SUNSUBSCRIBE", await r.sPublish(shard, "six"), 0);
  check("the client afterwards", [String(await own.get(MANY[0])), heard], ["10", []]); // after RESP2 subscriptions it gives a Buffer
  own.destroy();
}

const CACHED = MANY.map((k) => k + ":cached");

// node-redis's own cache, which needs RESP3. Its statistics tell what came from it.
async function caching(r) {
  const own = await r.another({ clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: "LRU" } });
  const cache = own.clientSideCache;
  const gets = (k) => own.get(k);
  const becomes = (k, value) => until("the new value", async () => await own.get(k) === value && value);
  const write = (k, value) => r.set(k, value);
  await write(CACHED[0], "one");
  check("a value is read", await gets(CACHED[0]), "one");
  check("and then comes from the cache", [await gets(CACHED[0]), cache.stats().hitCount], ["one", 1]);
  await write(CACHED[0], "two");
  check("and is void when another writes it", await becomes(CACHED[0], "two"), "two");
  await onAll(CACHED, (k) => write(k, "three"));
  await onAll(CACHED, (k) => becomes(k, "three"));
  const before = cache.stats().hitCount;
  check("values of all nodes", [await onAll(CACHED, gets), cache.stats().hitCount - before], [CACHED.map(() => "three"), 100]);
  await onAll(CACHED, (k) => write(k, "four"));
  check("and all are void", await onAll(CACHED, (k) => becomes(k, "four")), CACHED.map(() => "four"));
  await write(CACHED[0], "five");
  await becomes(CACHED[0], "five");
  const hits = cache.stats().hitCount;
  await onAll(CACHED, gets);
  check("only what was written", cache.stats().hitCount - hits, 100);
  own.destroy();
}

// Without it: a connection tracks, another hears what has become void.
async function tracking(r) {
  const [own, other] = [await r.another(), await r.another()];
  const [tracks, hears] = [await node(own), await node(other)];
  const heard = [];
  const id = await hears.clientId();
  const write = (k, value) => r.set(k, value);
  const told = async (n) => {
    await until("messages", () => heard.length >= n);
    return heard.splice(0).sort();
  };
  await hears.subscribe("__redis__:invalidate", (names) => heard.push(...names));
  check("CLIENT TRACKING", await tracks.sendCommand(["CLIENT", "TRACKING", "ON", "REDIRECT", String(id)]), "OK");
  await write(CACHED[0], "one");
  check("a value is read", await tracks.get(CACHED[0]), "one");
  await write(CACHED[0], "two");
  check("and is void when another writes it", await told(1), [CACHED[0]]);
  await onAll(CACHED, (k) => write(k, "three"));
  check("values of all nodes", await onAll(CACHED, (k) => tracks.get(k)), CACHED.map(() => "three"));
  await onAll(CACHED, (k) => write(k, "four"));
  check("and all are void", await told(100), [...CACHED].sort());
  await tracks.get(CACHED[0]);
  await write(CACHED[1], "five");
  await write(CACHED[0], "five");
  check("only what was read", await told(1), [CACHED[0]]);
  own.destroy();
  other.destroy();
}

async function aboutTheServer(r) {
  const one = await node(r);
  check("INFO", /redis_version:[789]\./.test(await one.info("server")));
  await one.clientSetName("node_redis");
  check("CLIENT SETNAME and GETNAME", await one.clientGetName(), "node_redis");
  check("CLIENT LIST", (await one.clientList()).some((c) => c.name === "node_redis"));
  check("CONFIG GET", { ...await one.configGet("maxmemory-policy") }, { "maxmemory-policy": "noeviction" });
  check("COMMAND COUNT", await one.commandCount() > 200);
}

async function largeValues(r) {
  const large = `${String(process.pid).padStart(7, "0")}\n`.repeat(1 << 19);
  check("SET of 4 MiB", await r.set(PREFIX + "large", large), "OK");
  check("GET of 4 MiB", await r.get(PREFIX + "large") === large);
  check("STRLEN", await r.strLen(PREFIX + "large"), 1 << 22);
  const third = large.slice(0, 1 << 20);
  await r.rPush(PREFIX + "large:list", [third, third, third]);
  const got = await r.lRange(PREFIX + "large:list", 0, -1);
  check("LRANGE of 3 x 1 MiB", got.length === 3 && got.every((x) => x === third));
}

async function errors(r) {
  check("WRONGTYPE", await errorOf(r.lPush(MANY[0], "x")), "WRONGTYPE Operation against a key holding the wrong kind of value");
  check("CROSSSLOT", await errorOf(r.renameNX(MANY[0], MANY[1])), r.isSingle ? "no error but 0" : "CROSSSLOT Keys in request don't hash to the same slot");
  check("an unknown command", (await errorOf(raw(r, MANY[0], "NOSUCH", MANY[0]))).startsWith("ERR unknown command 'NOSUCH'"));
  check("a wrong number of arguments", (await errorOf(raw(r, MANY[0], "GET", MANY[0], "x"))).startsWith("ERR wrong number of arguments"));
}

async function reconnect(r) {
  const one = await node(r);
  const before = await one.clientId();
  check("CLIENT KILL of itself", await one.sendCommand(["CLIENT", "KILL", "ID", String(before), "SKIPME", "no"]), 1);
  await new Promise((done) => setTimeout(done, 200)); // what is asked before it has noticed is not asked again
  check("the next command, on a new connection", await r.get(MANY[0]), "10");
  check("CLIENT ID is another", await (await node(r)).clientId() !== before);
}

async function passwords(host, port, mode) {
  const refused = (kind, password) => errorOf(connect(host, port, kind, password, { socket: { reconnectStrategy: false } }).then((r) => r.get("k")));
  check("no password", /NOAUTH/.test(await refused("plain")));
  check("a wrong password", /WRONGPASS/.test(await refused("plain", "wrong")));
  check("a wrong password, by the mode's client", !(await refused(mode, "wrong")).startsWith("no error"));
}

const GROUPS = [strings, counters, expiry, hashes, lists, sets, zsets, otherTypes, manySlots, names, pipelines, wholeKeyspace, scripts, functions,
  transactions, streams, blocking, pubsub, RESP === 3 ? caching : tracking, aboutTheServer, largeValues, errors, reconnect];

async function deleteAll(r) {
  for (const key of await scan(r, { MATCH: `*${PREFIX}*`, COUNT: 1000 })) await r.del(key);
}

run({ connect, groups: GROUPS, passwords, deleteAll });
