// The common set of operations, by node-redis: node_redis.js HOST:PORT plain|cluster [PASSWORD]
//
// Speaks RESP3, or with RESP=2 in the environment RESP2. Prints "ok N operations" and exits with 0, or prints the first one that failed and
// exits with 1. redis_py.py, ioredis.js and redis_cli.sh do the same, in the same order. Its keys begin with a prefix of its own and are deleted
// in the end. The package, whose name is redis, is found by NODE_PATH.
"use strict";

const assert = require("assert");
const { createClient, createCluster, RESP_TYPES } = require("redis");

const PREFIX = `node_redis:${process.pid}:`;
const MANY = Array.from({ length: 100 }, (_, i) => `${PREFIX}many:${i}`); // keys of many slots
const TAG = `{${PREFIX}}`; // keys of one slot
const RESP = Number(process.env.RESP || 3);

let count = 0;

class Failed extends Error {}

function check(what, got, wanted = true) {
  try {
    assert.deepEqual(got, wanted); // not strict: node-redis makes objects without a prototype
    assert.strictEqual(typeof got, typeof wanted);
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

async function connect(host, port, mode, password, reconnectStrategy = (n) => Math.min(20 * n, 500)) {
  const socket = { host, port: Number(port), reconnectStrategy };
  const r = mode === "cluster"
    ? createCluster({ rootNodes: [{ socket }], defaults: { password, socket: { reconnectStrategy } }, RESP })
    : createClient({ socket, password, RESP });
  r.on("error", () => {}); // what matters is what the commands say
  r.inCluster = mode === "cluster";
  await r.connect();
  return r;
}

// What concerns no key is asked of a node by a cluster's client: Puerta shows one.
const node = async (r) => (r.inCluster ? r.nodeClient(r.masters[0]) : r);
const raw = (r, key, ...words) => (r.inCluster ? r.sendCommand(key, false, words) : r.sendCommand(words));

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
  check("CROSSSLOT", await errorOf(r.rename(MANY[0], MANY[1])), "CROSSSLOT Keys in request don't hash to the same slot");
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
  const refused = (kind, password) => errorOf(connect(host, port, kind, password, false).then((r) => r.get("k")));
  check("no password", /NOAUTH/.test(await refused("plain")));
  check("a wrong password", /WRONGPASS/.test(await refused("plain", "wrong")));
  check("a wrong password, by the mode's client", !(await refused(mode, "wrong")).startsWith("no error"));
}

const GROUPS = [strings, counters, expiry, hashes, lists, sets, zsets, otherTypes, manySlots, names, pipelines, wholeKeyspace, scripts, functions,
  aboutTheServer, largeValues, errors, reconnect];

async function deleteAll(r) {
  for (const key of await scan(r, { MATCH: `*${PREFIX}*`, COUNT: 1000 })) await r.del(key);
}

async function main(address, mode, password) {
  const [, host, port] = /^(.*):(\d+)$/.exec(address);
  let group = connect;
  let failure = null;
  let r = null;
  try {
    r = await connect(host, port, mode, password, password || mode === "cluster" ? undefined : (n) => (n > 5 ? false : 20 * n));
    for (group of GROUPS) await group(r);
    group = passwords;
    if (password) await passwords(host, port, mode);
  } catch (e) {
    failure = e;
  }
  console.log(failure ? `failed: ${group.name}: ${failure.message}` : `ok ${count} operations`);
  if (r !== null) await deleteAll(r).catch(() => {});
  process.exit(failure ? 1 : 0);
}

if (process.argv.length < 4 || !["plain", "cluster"].includes(process.argv[3])) {
  console.error("usage: node_redis.js HOST:PORT plain|cluster [PASSWORD]");
  process.exit(64);
}
main(...process.argv.slice(2));
