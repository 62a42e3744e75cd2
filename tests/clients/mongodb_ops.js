// What applications do with MongoDB, by the driver `mongodb` of npm: mongodb_ops.js URI
//
// Prints one line of JSON and exits as pymongo_ops.py does, which says what its fields mean. What runs "together" here are promises: each
// holds a connection of the pool while it waits, so that the connections change hands.
"use strict";

const { MongoClient, GridFSBucket } = require("mongodb");
const { version } = require("mongodb/package.json");
const assert = require("assert");
const crypto = require("crypto");

const URI = process.argv[2];
const DATABASE = `mongodb_${process.pid}_${Math.floor(Date.now() / 1000)}`;
const WORKERS = 6;
const ROWS = 240;
const ALL = Array.from({ length: ROWS }, (_, i) => i);

const codes = {};
let killsMissed = 0;
const killed = new Set();

function connect(more = {}) {
  const client = new MongoClient(URI, { socketTimeoutMS: 30000, monitorCommands: true, ...more });
  client.on("commandFailed", (e) => { codes[e.failure.code] = (codes[e.failure.code] || 0) + 1; });
  client.on("commandSucceeded", (e) => {
    if (e.commandName !== "killCursors") return;
    killsMissed += (e.reply.cursorsNotFound || []).length;
    (e.reply.cursorsKilled || []).forEach((id) => killed.add(String(id)));
  });
  return client;
}

function check(what, got, wanted = true) {
  try {
    assert.deepStrictEqual(got, wanted);
  } catch {
    throw new Error(`${what}: got ${String(JSON.stringify(got)).slice(0, 300)}, wanted ${String(JSON.stringify(wanted)).slice(0, 300)}`);
  }
}

// Runs work(i, step) several times at once. step() waits until all others stand at theirs, or have ended.
async function together(work) {
  let waiting = [];
  let running = WORKERS;
  const go = () => {
    if (waiting.length < running || running === 0) return;
    const all = waiting;
    waiting = [];
    // Not in the same order each time: the pool hands its connections out in the order in which they are asked for.
    all.push(all.shift());
    all.forEach((resume) => resume());
  };
  const step = () => new Promise((resume) => { waiting.push(resume); go(); });
  const done = await Promise.allSettled(Array.from({ length: WORKERS }, (_, i) => work(i, step).finally(() => { running--; go(); })));
  const bad = done.find((d) => d.status === "rejected");
  if (bad) throw bad.reason;
}

async function rows(db) {
  const c = db.collection("rows");
  if (!(await c.findOne({}))) await c.insertMany(ALL.map((i) => ({ _id: i, group: i % 7, text: `row ${i}` })));
  return c;
}

const ids = (documents) => documents.map((d) => d._id);

const sections = {
  async crud(client, db) {
    const c = db.collection("crud");
    check("insertOne", (await c.insertOne({ _id: 1, a: 1 })).insertedId, 1);
    check("insertMany", (await c.insertMany([2, 3, 4, 5].map((i) => ({ _id: i, a: i })))).insertedCount, 4);
    check("findOne", await c.findOne({ _id: 3 }), { _id: 3, a: 3 });
    check("updateOne", (await c.updateOne({ _id: 3 }, { $set: { a: 30 } })).modifiedCount, 1);
    check("upsert", (await c.updateOne({ _id: 9 }, { $set: { a: 9 } }, { upsert: true })).upsertedId, 9);
    check("replaceOne", (await c.replaceOne({ _id: 2 }, { b: 2 })).modifiedCount, 1);
    check("findOneAndUpdate", await c.findOneAndUpdate({ _id: 4 }, { $inc: { a: 1 } }, { returnDocument: "after" }), { _id: 4, a: 5 });
    check("deleteOne", (await c.deleteOne({ _id: 5 })).deletedCount, 1);
    check("countDocuments", await c.countDocuments({}), 5);
    check("distinct", (await c.distinct("a")).sort((x, y) => x - y), [1, 5, 9, 30]);
    check("a duplicate", await c.insertOne({ _id: 1 }).catch((e) => e.code), 11000);
    await c.createIndex({ a: 1 }, { name: "by_a" });
    check("indexes", (await c.indexes()).map((i) => i.name).sort(), ["_id_", "by_a"]);
    check("collections", (await db.listCollections().toArray()).some((x) => x.name === "crud"));
  },

  async long_cursors(client, db) {
    const c = await rows(db);
    check("many getMores", ids(await c.find().sort({ _id: 1 }).batchSize(2).toArray()), ALL);
    const several = [0, 1, 2, 3, 4, 5, 6].map((g) => c.find({ group: g }).sort({ _id: 1 }).batchSize(2));
    const got = several.map(() => []);
    for (let more = true; more;) {
      const some = await Promise.all(several.map((cursor) => cursor.next()));
      more = some.some((d) => d);
      some.forEach((d, i) => d && got[i].push(d._id));
    }
    check("several at once", got, several.map((_, g) => ALL.filter((i) => i % 7 === g)));
  },

  async cursors_together(client, db) {
    const c = await rows(db);
    await together(async (i, step) => {
      const cursor = c.find().sort({ _id: 1 }).batchSize(8);
      const got = [];
      for (let n = 0; n < ROWS; n++) {
        if (n % 8 === 0) await step();
        got.push((await cursor.next())._id);
      }
      check(`cursor ${i}`, got, ALL);
    });
  },

  async aggregation(client, db) {
    const c = await rows(db);
    const groups = await c.aggregate([{ $group: { _id: "$group", n: { $sum: 1 } } }, { $sort: { _id: 1 } }], { batchSize: 2 }).toArray();
    check("groups", groups.map((g) => [g._id, g.n]), [0, 1, 2, 3, 4, 5, 6].map((g) => [g, ALL.filter((i) => i % 7 === g).length]));
    check("long", (await c.aggregate([{ $match: { _id: { $gte: 10 } } }], { batchSize: 3 }).toArray()).length, ROWS - 10);
  },

  async bulk_writes(client, db) {
    const c = db.collection("bulk");
    const done = await c.bulkWrite([...Array.from({ length: 50 }, (_, i) => ({ insertOne: { document: { _id: i } } })),
      { updateOne: { filter: { _id: 1 }, update: { $set: { x: 1 } } } }, { updateMany: { filter: { _id: { $gte: 40 } }, update: { $set: { y: 1 } } } },
      { replaceOne: { filter: { _id: 2 }, replacement: { z: 1 } } }, { deleteOne: { filter: { _id: 3 } } },
      { deleteMany: { filter: { _id: { $in: [4, 5] } } } }, { updateOne: { filter: { _id: 99 }, update: { $set: { x: 1 } }, upsert: true } }]);
    check("ordered", [done.insertedCount, done.modifiedCount, done.deletedCount, done.upsertedCount], [50, 12, 3, 1]);
    const twice = await c.bulkWrite([1, 200, 1, 201].map((i) => ({ insertOne: { document: { _id: i } } })), { ordered: false }).catch((e) => e);
    check("unordered", [twice.writeErrors.length, twice.result.insertedCount], [2, 2]);
    await db.collection("bulk", { writeConcern: { w: 0 } }).insertOne({ _id: "w0" });
    for (const until = Date.now() + 10000; !(await c.findOne({ _id: "w0" }));) check("an unacknowledged write arrives", Date.now() < until);
  },

  async large_documents(client, db) {
    const documents = [0, 1, 2, 3, 4, 5].map((i) => ({ _id: i, data: String(i).repeat(700000) }));
    await db.collection("large").insertMany(documents);
    const got = await db.collection("large").find().sort({ _id: 1 }).batchSize(2).toArray();
    check("large documents", got.every((d, i) => d.data === documents[i].data) && got.length === 6);
  },

  async tailable(client, db) {
    const c = await db.createCollection("capped", { capped: true, size: 1 << 20 });
    await c.insertOne({ n: 0 });
    const cursor = c.find({}, { tailable: true, awaitData: true, maxAwaitTimeMS: 200 });
    check("what is there", (await cursor.next()).n, 0);
    await together(async (i, step) => {
      for (let n = 1; n <= 10; n++) {
        await step();
        if (i === 0) {
          let got = null;
          while (got === null) { // an empty answer after maxAwaitTimeMS is no end
            got = await cursor.tryNext();
            check("a tailable cursor stays", !cursor.closed);
          }
          check("what comes later", got.n, n);
        } else {
          if (i === 1) await c.insertOne({ n });
          await db.command({ ping: 1 });
        }
      }
    });
    await cursor.close();
  },

  async sessions(client, db) {
    const c = await rows(db);
    await client.withSession({ causalConsistency: true }, async (session) => {
      check("read in a session", (await c.find({}, { session, batchSize: 20 }).toArray()).length, ROWS);
      await db.collection("sessions").insertOne({ _id: 1 }, { session });
      check("its own write", await db.collection("sessions").findOne({ _id: 1 }, { session }), { _id: 1 });
    });
    await together((i, step) => client.withSession(async (session) => {
      const cursor = c.find({}, { session }).sort({ _id: 1 }).batchSize(30);
      const got = [];
      for (let n = 0; n < ROWS; n++) {
        if (n % 30 === 0) await step();
        got.push((await cursor.next())._id);
      }
      check(`session ${i}`, got, ALL);
    }));
  },

  async with_transaction(client, db) {
    const c = db.collection("transactions");
    await c.insertOne({ _id: "total" });
    await together((i, step) => client.withSession(async (session) => {
      for (let n = 0; n < 4; n++) {
        await step();
        await session.withTransaction(async () => {
          await c.insertOne({ worker: i }, { session });
          await c.updateOne({ _id: `mine ${i}` }, { $inc: { n: 1 } }, { upsert: true, session });
          check("in the transaction", (await c.find({ worker: i }, { session, batchSize: 1 }).toArray()).length > 0);
        });
      }
    }));
  },

  async manual_transactions(client, db) {
    const c = db.collection("manual");
    const all = await rows(db);
    await c.insertOne({ there: true });
    await together((i, step) => client.withSession(async (session) => {
      for (let n = 0; n < 4; n++) {
        session.startTransaction();
        await step();
        await c.insertOne({ worker: i, n }, { session });
        await step();
        check("read in it", (await c.find({ worker: i, n }, { session }).toArray()).length, 1);
        await step();
        check("cursor in it", (await all.find({}, { session }).batchSize(100).toArray()).length, ROWS);
        await step();
        if (n === 3) {
          await session.abortTransaction();
        } else {
          await session.commitTransaction();
          await step();
          await session.commitTransaction(); // as after a network error
        }
      }
    }));
  },

  async grid_fs(client, db) {
    const files = new GridFSBucket(db, { chunkSizeBytes: 20000 });
    const content = crypto.randomBytes(300000);
    const up = files.openUploadStream("file");
    await new Promise((good, bad) => up.on("finish", good).on("error", bad).end(content));
    const parts = [];
    for await (const part of files.openDownloadStream(up.id)) parts.push(part);
    check("download", Buffer.concat(parts).equals(content));
    check("find", (await files.find({ filename: "file" }).toArray()).map((f) => f.length), [content.length]);
    await files.delete(up.id);
    check("delete", await files.find({}).toArray(), []);
  },

  async closed_cursors(client, db) {
    const c = await rows(db);
    await together(async (i, step) => {
      for (let n = 0; n < 5; n++) {
        await step();
        const cursor = c.find({}, { batchSize: 2 });
        await cursor.next();
        const id = String(cursor.id);
        await step();
        await cursor.close();
        check("the server says that it killed the cursor", killed.has(id));
      }
    });
  },

  // A client with another appName, and one that changes what it says of itself while its cursors are open.
  async other_names(client, db) {
    const c = await rows(db);
    const other = connect({ appName: "another" });
    check("another appName", (await other.db(DATABASE).collection("rows").find({}, { batchSize: 20 }).toArray()).length, ROWS);
    await other.close();
    const changing = connect({ appName: "changing" });
    const cursor = changing.db(DATABASE).collection("rows").find().sort({ _id: 1 }).batchSize(10);
    const got = [(await cursor.next())._id];
    changing.appendMetadata({ name: "puerta-tests", version: "1.0", platform: "a wrapper" });
    await together(async (i, step) => { // several at once: new connections, with the new metadata
      await step();
      await changing.db(DATABASE).collection("rows").find({}, { batchSize: 60 }).toArray();
    });
    got.push(...ids(await cursor.toArray()));
    check("a cursor of before", got, ALL);
    await changing.close();
    check("the first client", await c.countDocuments({}), ROWS);
  },
};

async function main() {
  const passed = [];
  const failed = {};
  const client = connect();
  const db = client.db(DATABASE);
  for (const [name, section] of Object.entries(sections)) {
    try {
      await section(client, db);
      passed.push(name);
    } catch (e) {
      failed[name] = `${e.name}: ${String(e.message).slice(0, 300)}`;
      if (e.name === "MongoServerSelectionError" && passed.length === 0) break;
    }
  }
  if (passed.length) await db.dropDatabase().catch((e) => { failed.drop_database = String(e.message).slice(0, 300); });
  // What a failed section left open must not keep the process from ending.
  await Promise.race([client.close(), new Promise((late) => { setTimeout(late, 5000).unref(); })]);
  const counts = { cursor_not_found: codes[43] || 0, no_such_transaction: codes[251] || 0, kills_missed: killsMissed };
  require("fs").writeSync(1, `${JSON.stringify({ driver: "mongodb", version, passed, failed, ...counts })}\n`);
  return Object.keys(failed).length || counts.cursor_not_found || counts.no_such_transaction || counts.kills_missed ? 1 : 0;
}

if (process.argv.length !== 3) {
  console.error("usage: mongodb_ops.js URI");
  process.exit(64);
}
main().then((code) => process.exit(code));
