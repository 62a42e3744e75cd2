// The common set of operations, by ioredis: ioredis.js HOST:PORT plain|cluster [PASSWORD]
//
// Prints "ok N operations" and exits with 0, or prints the first one that failed and exits with 1. redis_py.py and redis_cli.sh do the same, in
// the same order. Its keys begin with a prefix of its own and are deleted in the end. ioredis is found by NODE_PATH.
"use strict";

const assert = require("assert");
const Redis = require("ioredis");

const PREFIX = `ioredis:${process.pid}:`;
const MANY = Array.from({ length: 100 }, (_, i) => `${PREFIX}many:${i}`); // keys of many slots
const TAG = `{${PREFIX}}`; // keys of one slot

let count = 0;

class Failed extends Error {}

function check(what, got, wanted = true) {
  try {
    assert.deepStrictEqual(got, wanted);
  } catch {
    throw new Failed(`${what}: got ${String(JSON.stringify(got)).slice(0, 300)}, wanted ${String(JSON.stringify(wanted)).slice(0, 300)}`);
  }
  count++;
}

// The text of the error with which the promise is rejected.
const errorOf = (promise) => promise.then((answer) => `no error but ${JSON.stringify(answer)}`, (e) => e.message);

// Answers of commands on all the keys, one after the other.
async function onAll(keys, call) {
  const answers = [];
  for (const k of keys) answers.push(await call(k));
  return answers;
}

function connect(host, port, mode, password, more = {}) {
  const node = { host, port: Number(port) };
  const r = mode === "cluster"
    ? new Redis.Cluster([node], { redisOptions: { password, ...more }, ...(more.retryStrategy && { clusterRetryStrategy: more.retryStrategy }) })
    : new Redis({ ...node, password, ...more });
  r.on("error", () => {}); // what matters is what the commands say
  return r;
}

// SCAN to its end. Redis.Cluster has no scan of its own: it is asked of its nodes, of which Puerta shows one.
async function scan(r, options) {
  const keys = new Set();
  for (const node of r.isCluster ? r.nodes("master") : [r]) {
    for await (const some of node.scanStream(options)) some.forEach((k) => keys.add(k));
  }
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
  check("CROSSSLOT", await errorOf(r.rename(MANY[0], MANY[1])), "CROSSSLOT Keys in request don't hash to the same slot");
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
  aboutTheServer, largeValues, errors, reconnect];

async function deleteAll(r) {
  for (const key of await scan(r, { match: `*${PREFIX}*`, count: 1000 })) await r.del(key);
}

async function main(address, mode, password) {
  const [, host, port] = /^(.*):(\d+)$/.exec(address);
  const r = connect(host, port, mode, password);
  let group = connect;
  let failure = null;
  try {
    for (group of GROUPS) await group(r);
    group = passwords;
    if (password) await passwords(host, port, mode);
  } catch (e) {
    failure = e;
  }
  console.log(failure ? `failed: ${group.name}: ${failure.message}` : `ok ${count} operations`);
  await deleteAll(r).catch(() => {});
  process.exit(failure ? 1 : 0); // not r.disconnect() alone: ioredis keeps a timer of 2 s
}

if (process.argv.length < 4 || !["plain", "cluster"].includes(process.argv[3])) {
  console.error("usage: ioredis.js HOST:PORT plain|cluster [PASSWORD]");
  process.exit(64);
}
main(...process.argv.slice(2));
