// What applications do with MongoDB, by mongosh: PUERTA_URI=URI mongosh --quiet --norc --nodb --file mongosh_ops.js
//
// Prints one line of JSON and exits as pymongo_ops.py does, which says what its fields mean. mongosh shows no events of its driver: the
// counts are of the errors that reach the script.

const URI = process.env.PUERTA_URI;
const DATABASE = `mongosh_${process.pid}_${Math.floor(Date.now() / 1000)}`;
const WORKERS = 6;
const ROWS = 240;

const counts = { cursor_not_found: 0, no_such_transaction: 0, kills_missed: 0 };
const passed = [];
const failed = {};

function check(what, got, wanted = true) {
  const [a, b] = [EJSON.stringify(got), EJSON.stringify(wanted)];
  if (a !== b) throw new Error(`${what}: got ${a.slice(0, 300)}, wanted ${b.slice(0, 300)}`);
}

let client;
let mine;

function rows() {
  if (mine.rows.countDocuments({}) === 0) mine.rows.insertMany(Array.from({ length: ROWS }, (_, i) => ({ _id: i, group: i % 7, text: `row ${i}` })));
  return mine.rows;
}

// Runs work(i) several times at once, so that the pool has as many connections.
async function together(work) {
  const done = await Promise.allSettled(Array.from({ length: WORKERS }, (_, i) => work(i)));
  const bad = done.find((d) => d.status === "rejected");
  if (bad) throw bad.reason;
}

const sections = {
  crud() {
    const c = mine.crud;
    check("insertOne", c.insertOne({ _id: 1, a: 1 }).acknowledged);
    check("insertMany", Object.keys(c.insertMany([2, 3, 4, 5].map((i) => ({ _id: i, a: i }))).insertedIds).length, 4);
    check("findOne", c.findOne({ _id: 3 }), { _id: 3, a: 3 });
    check("updateOne", c.updateOne({ _id: 3 }, { $set: { a: 30 } }).modifiedCount, 1);
    check("replaceOne", c.replaceOne({ _id: 2 }, { b: 2 }).modifiedCount, 1);
    check("deleteOne", c.deleteOne({ _id: 5 }).deletedCount, 1);
    check("countDocuments", c.countDocuments({}), 4);
    c.createIndex({ a: 1 }, { name: "by_a" });
    check("indexes", c.getIndexes().map((i) => i.name).sort(), ["_id_", "by_a"]);
    check("collections", mine.getCollectionNames().includes("crud"));
  },

  long_cursors() {
    const c = rows();
    check("many getMores", c.find().sort({ _id: 1 }).batchSize(2).toArray().length, ROWS);
    const several = [0, 1, 2, 3].map((g) => c.find({ group: g }).sort({ _id: 1 }).batchSize(2));
    let got = 0;
    for (let more = true; more;) {
      more = false;
      for (let i = 0; i < several.length; i++) {
        if (several[i].hasNext()) {
          check("several at once", several[i].next().group, i);
          got++;
          more = true;
        }
      }
    }
    check("all of several", got, Array.from({ length: ROWS }, (_, i) => i).filter((i) => i % 7 < 4).length);
  },

  async cursors_together() {
    const c = rows();
    await together(async (i) => {
      const cursor = c.find({ _id: { $gte: i } }).sort({ _id: 1 }).batchSize(3 + i);
      let n = 0;
      while (await cursor.hasNext()) {
        check("order", (await cursor.next())._id, i + n);
        n++;
      }
      check(`cursor ${i}`, n, ROWS - i);
    });
  },

  aggregation() {
    const groups = rows().aggregate([{ $group: { _id: "$group", n: { $sum: 1 } } }, { $sort: { _id: 1 } }], { cursor: { batchSize: 2 } }).toArray();
    check("groups", groups.map((g) => g._id), [0, 1, 2, 3, 4, 5, 6]);
  },

  bulk_writes() {
    const done = mine.bulk.bulkWrite([...Array.from({ length: 50 }, (_, i) => ({ insertOne: { document: { _id: i } } })),
      { updateOne: { filter: { _id: 1 }, update: { $set: { x: 1 } } } }, { deleteMany: { filter: { _id: { $in: [4, 5] } } } }]);
    check("bulkWrite", [done.insertedCount, done.modifiedCount, done.deletedCount], [50, 1, 2]);
  },

  tailable() {
    mine.createCollection("capped", { capped: true, size: 1 << 20 });
    mine.capped.insertOne({ n: 0 });
    const cursor = mine.capped.find().tailable({ awaitData: true }).maxAwaitTimeMS(200);
    check("what is there", cursor.next().n, 0);
    for (let n = 1; n <= 5; n++) {
      mine.capped.insertOne({ n });
      let got = null;
      while (got === null) got = cursor.tryNext();
      check("what comes later", got.n, n);
    }
    cursor.close();
  },

  sessions() {
    rows();
    const session = client.startSession({ causalConsistency: true });
    check("read in a session", session.getDatabase(DATABASE).rows.find().batchSize(20).toArray().length, ROWS);
    session.endSession();
  },

  async transactions() {
    rows();
    mine.transactions.insertOne({ _id: "there" });
    await together(async (i) => {
      const session = client.startSession();
      const own = session.getDatabase(DATABASE);
      for (let n = 0; n < 4; n++) {
        session.startTransaction();
        await own.transactions.insertOne({ worker: i, n });
        check("cursor in it", (await own.rows.find().batchSize(100).toArray()).length, ROWS);
        if (n === 3) await session.abortTransaction();
        else await session.commitTransaction();
        await mine.runCommand({ ping: 1 });
      }
      await session.withTransaction(async () => {
        await own.transactions.insertOne({ worker: i, n: "with" });
        check("read in it", await own.transactions.countDocuments({ worker: i, n: "with" }) > 0);
      });
      await session.endSession();
    });
  },

  async closed_cursors() {
    rows();
    await together(async (i) => {
      const cursor = mine.rows.find().batchSize(2);
      await cursor.next();
      await cursor.close();
      // What the driver's own killCursors was answered does not show here. A driver in load-balanced mode pins only its own cursors.
      if (URI.includes("loadBalanced=true")) return;
      const first = await mine.runCommand({ find: "rows", batchSize: 2 });
      await mine.runCommand({ ping: 1 });
      const done = await mine.runCommand({ killCursors: "rows", cursors: [first.cursor.id] });
      counts.kills_missed += done.cursorsNotFound.length;
      check("killed", done.cursorsKilled.length, 1);
    });
  },

  grid_fs_by_hand() { // mongosh has no GridFS of its own: what a bucket does, with plain commands
    const id = new ObjectId();
    for (let n = 0; n < 10; n++) mine.fs.chunks.insertOne({ files_id: id, n, data: new BinData(0, "QUJD".repeat(5000)) });
    mine.fs.files.insertOne({ _id: id, length: 150000, chunkSize: 15000, filename: "file" });
    const length = mine.fs.chunks.find({ files_id: id }).sort({ n: 1 }).batchSize(3).toArray().reduce((sum, c) => sum + c.data.length(), 0);
    check("download", length, 150000);
  },

  other_names() {
    const named = new Mongo(URI + (URI.includes("?") ? "&" : "?") + "appName=another");
    check("another appName", named.getDB(DATABASE).rows.find().batchSize(20).toArray().length, ROWS);
    named.close();
  },
};

(async () => {
  try {
    client = new Mongo(URI);
    mine = client.getDB(DATABASE);
  } catch (e) {
    failed.connect = `${e.name}: ${String(e.message).slice(0, 300)}`;
  }
  for (const name of client ? Object.keys(sections) : []) {
    try {
      await sections[name]();
      passed.push(name);
    } catch (e) {
      failed[name] = `${e.name}: ${String(e.message).slice(0, 300)}`;
      if (e.code === 43) counts.cursor_not_found++;
      if (e.code === 251) counts.no_such_transaction++;
    }
  }
  try {
    if (client) mine.dropDatabase();
  } catch (e) {
    failed.drop_database = String(e.message).slice(0, 300);
  }
  print(JSON.stringify({ driver: "mongosh", version: version(), passed, failed, ...counts }));
  quit(Object.keys(failed).length || Object.values(counts).some((n) => n) ? 1 : 0);
})();
