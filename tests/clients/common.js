// What ioredis.js and node_redis.js share: the keys, the checks, and how a script is run and ends.
//
//   ioredis.js ----+
//                  +--> common.js: begin(name) --> PREFIX MANY TAG, check() errorOf() until() ..., run({ connect, groups, ... })
//   node_redis.js -+
"use strict";

const assert = require("assert");

const MODES = ["plain", "cluster", "single"];
const PATIENCE = 20000; // ms

class Failed extends Error {}

// Values as they can be compared: node-redis makes objects without a prototype.
function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]));
}

// The text of the error with which the promise is rejected.
const errorOf = (promise) => promise.then((answer) => `no error but ${JSON.stringify(answer)}`, (e) => e.message);

// Answers of commands on all the keys, one after the other.
async function onAll(keys, call) {
  const answers = [];
  for (const k of keys) answers.push(await call(k));
  return answers;
}

// Asks until the answer is true in the sense of the language, and gives it.
async function until(what, condition) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const answer = await condition();
    if (answer) return answer;
    if (Date.now() > end) throw new Failed(`waited in vain: ${what}`);
    await new Promise((done) => setTimeout(done, 5));
  }
}

// The ids of the clients that block, of CLIENT LIST.
const blocked = (list) => list.split("\n").filter((line) => / flags=\w*b/.test(line)).map((line) => /\bid=(\d+)/.exec(line)[1]);

// What blocks, by a client of its own, is begun; when it blocks, `act` does what ends it (it gets the blocked client's id).
async function whileBlocked(clientList, begun, act) {
  begun.catch(() => {}); // awaited below, not before
  const [id] = await until("a client that blocks", async () => {
    const ids = blocked(await clientList());
    return ids.length === 1 && ids;
  });
  await act(id);
  return begun;
}

function begin(name) {
  const PREFIX = `${name}:${process.pid}:`;
  let count = 0;

  function check(what, got, wanted = true) {
    try {
      assert.deepStrictEqual(plain(got), wanted);
    } catch {
      throw new Failed(`${what}: got ${String(JSON.stringify(got)).slice(0, 300)}, wanted ${String(JSON.stringify(wanted)).slice(0, 300)}`);
    }
    count++;
  }

  // All groups with one client; with a password, what is refused without it; all keys are deleted in the end.
  async function main({ connect, groups, passwords, deleteAll }, address, mode, password) {
    const [, host, port] = /^(.*):(\d+)$/.exec(address);
    let group = connect;
    let failure = null;
    let r = null;
    try {
      r = await connect(host, port, mode, password);
      for (group of groups) await group(r);
      group = passwords;
      if (password) await passwords(host, port, mode);
    } catch (e) {
      failure = e;
    }
    console.log(failure ? `failed: ${group.name}: ${failure.message}` : `ok ${count} operations`);
    if (r !== null) await deleteAll(r).catch(() => {});
    process.exit(failure ? 1 : 0); // clients keep timers
  }

  function run(script) {
    if (process.argv.length < 4 || !MODES.includes(process.argv[3])) {
      console.error(`usage: ${name}.js HOST:PORT plain|cluster|single [PASSWORD]`);
      process.exit(64);
    }
    main(script, ...process.argv.slice(2));
  }

  return {
    PREFIX,
    MANY: Array.from({ length: 100 }, (_, i) => `${PREFIX}many:${i}`), // keys of many slots
    TAG: `{${PREFIX}}`, // keys of one slot
    check, errorOf, onAll, until, whileBlocked, run,
  };
}

module.exports = { begin };
