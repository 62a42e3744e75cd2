"""What applications do with MongoDB, by pymongo: pymongo_ops.py URI

Prints one line of JSON: {"driver", "version", "passed": [sections], "failed": {section: error}, "cursor_not_found", "no_such_transaction",
"kills_missed"}. The counts are of what the server said, also where the driver tries again by itself: CursorNotFound (43), NoSuchTransaction
(251), and killCursors that did not find its cursor. Exits with 0 only if every section passed and every count is 0. mongodb_ops.js and
mongosh_ops.js do the same. It works in a database of its own, which it drops in the end.

One thread gets the same pooled connection again and again, which hides a proxy's mistakes: so the threads here go step by step
together (Steps), and the pool's connections change hands between two steps.
"""
import json
import os
import sys
import threading
import time

import gridfs
import pymongo
from pymongo import DeleteMany, DeleteOne, InsertOne, ReplaceOne, UpdateMany, UpdateOne, monitoring
from pymongo.driver_info import DriverInfo

DATABASE = "pymongo_%d_%d" % (os.getpid(), int(time.time()))
THREADS = 6
ROWS = 240


class Watch(monitoring.CommandListener):
    """Counts what the server answers."""

    def __init__(self):
        self.codes = {}
        self.kills_missed = 0
        self.killed = []
        self.lock = threading.Lock()

    def started(self, event):
        pass

    def succeeded(self, event):
        if event.command_name == "killCursors":
            with self.lock:
                self.kills_missed += len(event.reply.get("cursorsNotFound", ()))
                self.killed += event.reply.get("cursorsKilled", ())

    def failed(self, event):
        with self.lock:
            code = event.failure.get("code")
            self.codes[code] = self.codes.get(code, 0) + 1


watch = Watch()
monitoring.register(watch)


def check(what, got, wanted=True):
    if got != wanted:
        raise AssertionError("%s: got %.300r, wanted %.300r" % (what, got, wanted))


def together(work):
    """Runs work(i, step) in several threads. step() waits for the others, so that the pool's connections are handed out anew each time."""
    barrier = threading.Barrier(THREADS)
    errors = []

    def run(i):
        try:
            work(i, lambda: barrier.wait(30))
        except threading.BrokenBarrierError:
            pass
        except Exception as e:  # noqa: BLE001
            errors.append(e)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


def rows(db):
    """A collection of ROWS documents."""
    if "rows" not in db.list_collection_names():
        db.rows.insert_many([{"_id": i, "group": i % 7, "text": "row %d" % i} for i in range(ROWS)])
    return db.rows


def crud(client, db):
    c = db.crud
    check("insert_one", c.insert_one({"_id": 1, "a": 1}).inserted_id, 1)
    check("insert_many", c.insert_many([{"_id": i, "a": i} for i in range(2, 6)]).inserted_ids, [2, 3, 4, 5])
    check("find_one", c.find_one({"_id": 3}), {"_id": 3, "a": 3})
    check("update_one", c.update_one({"_id": 3}, {"$set": {"a": 30}}).modified_count, 1)
    check("upsert", c.update_one({"_id": 9}, {"$set": {"a": 9}}, upsert=True).upserted_id, 9)
    check("replace_one", c.replace_one({"_id": 2}, {"b": 2}).modified_count, 1)
    check("find_one_and_update", c.find_one_and_update({"_id": 4}, {"$inc": {"a": 1}}, return_document=True), {"_id": 4, "a": 5})
    check("delete_one", c.delete_one({"_id": 5}).deleted_count, 1)
    check("count_documents", c.count_documents({}), 5)
    check("distinct", sorted(c.distinct("a")), [1, 5, 9, 30])
    try:
        c.insert_one({"_id": 1})
        raise AssertionError("a second document with the same _id")
    except pymongo.errors.DuplicateKeyError:
        pass
    c.create_index("a", name="by_a")
    check("indexes", sorted(c.index_information()), ["_id_", "by_a"])
    check("collections", "crud" in db.list_collection_names())


def long_cursors(client, db):
    c = rows(db)
    check("many getMores", [r["_id"] for r in c.find().sort("_id", 1).batch_size(2)], list(range(ROWS)))
    several = [c.find({"group": g}).sort("_id", 1).batch_size(2) for g in range(7)]
    got = [[] for _ in several]
    while any(cursor.alive for cursor in several):
        for cursor, documents in zip(several, got):
            documents += [r["_id"] for r in [next(cursor, None)] if r]
    check("several at once", got, [list(range(g, ROWS, 7)) for g in range(7)])


def cursors_in_threads(client, db):
    c = rows(db)

    def work(i, step):
        cursor = c.find({}).sort("_id", 1).batch_size(8)
        got = []
        for n in range(ROWS):
            if n % 8 == 0:
                step()
            got.append(next(cursor)["_id"])
        check("cursor of thread %d" % i, (got, next(cursor, None)), (list(range(ROWS)), None))  # to its end: it needs no killing

    together(work)


def aggregation(client, db):
    c = rows(db)
    groups = c.aggregate([{"$group": {"_id": "$group", "n": {"$sum": 1}}}, {"$sort": {"_id": 1}}], batchSize=2)
    check("groups", [(g["_id"], g["n"]) for g in groups], [(g, len(range(g, ROWS, 7))) for g in range(7)])
    check("long", len(list(c.aggregate([{"$match": {"_id": {"$gte": 10}}}], batchSize=3))), ROWS - 10)


def bulk_writes(client, db):
    c = db.bulk
    done = c.bulk_write([InsertOne({"_id": i}) for i in range(50)] + [
        UpdateOne({"_id": 1}, {"$set": {"x": 1}}), UpdateMany({"_id": {"$gte": 40}}, {"$set": {"y": 1}}), ReplaceOne({"_id": 2}, {"z": 1}),
        DeleteOne({"_id": 3}), DeleteMany({"_id": {"$in": [4, 5]}}), UpdateOne({"_id": 99}, {"$set": {"x": 1}}, upsert=True)])
    check("ordered", (done.inserted_count, done.modified_count, done.deleted_count, done.upserted_count), (50, 12, 3, 1))
    try:
        c.bulk_write([InsertOne({"_id": 1}), InsertOne({"_id": 200}), InsertOne({"_id": 1}), InsertOne({"_id": 201})], ordered=False)
        raise AssertionError("duplicates were taken")
    except pymongo.errors.BulkWriteError as e:
        check("unordered", (len(e.details["writeErrors"]), e.details["nInserted"]), (2, 2))
    unacknowledged = db.get_collection("bulk", write_concern=pymongo.WriteConcern(w=0))
    unacknowledged.insert_one({"_id": "w0"})
    until = time.monotonic() + 10
    while c.find_one({"_id": "w0"}) is None:  # nobody says when it is done
        check("an unacknowledged write arrives", time.monotonic() < until)


def large_documents(client, db):
    documents = [{"_id": i, "data": b"%d" % i * 700000} for i in range(6)]
    db.large.insert_many(documents)
    check("large documents", [d["data"] for d in db.large.find().sort("_id", 1).batch_size(2)], [d["data"] for d in documents])


def tailable(client, db):
    c = db.create_collection("capped", capped=True, size=1 << 20)
    c.insert_one({"n": 0})
    cursor = c.find({}, cursor_type=pymongo.CursorType.TAILABLE_AWAIT).max_await_time_ms(200)
    check("what is there", next(cursor)["n"], 0)

    def work(i, step):
        if i == 0:
            for n in range(1, 11):
                step()
                got = None
                while got is None:  # an empty answer after max_await_time_ms is no end
                    got = next(cursor, None)
                    check("a tailable cursor stays", cursor.alive)
                check("what comes later", got["n"], n)
        else:
            for n in range(1, 11):
                step()
                if i == 1:
                    c.insert_one({"n": n})
                db.command("ping")

    together(work)
    cursor.close()


def sessions(client, db):
    c = rows(db)
    with client.start_session(causal_consistency=True) as s:
        check("read in a session", len(list(c.find({}, session=s, batch_size=20))), ROWS)
        db.sessions.insert_one({"_id": 1}, session=s)
        check("its own write", db.sessions.find_one({"_id": 1}, session=s), {"_id": 1})

    def work(i, step):
        with client.start_session() as s:
            cursor = c.find({}, session=s).sort("_id", 1).batch_size(30)
            got = []
            for n in range(ROWS):
                if n % 30 == 0:
                    step()
                got.append(next(cursor)["_id"])
            check("session of thread %d" % i, (got, next(cursor, None)), (list(range(ROWS)), None))

    together(work)


def with_transaction(client, db):
    db.transactions.insert_one({"_id": "total", "n": 0})

    def work(i, step):
        def transfer(s):
            db.transactions.insert_one({"thread": i}, session=s)
            db.transactions.update_one({"_id": "mine %d" % i}, {"$inc": {"n": 1}}, upsert=True, session=s)
            return len(list(db.transactions.find({"thread": i}, session=s, batch_size=1)))

        with client.start_session() as s:
            for _ in range(4):
                step()
                check("in the transaction", s.with_transaction(transfer) > 0)

    together(work)


def manual_transactions(client, db):
    def work(i, step):
        with client.start_session() as s:
            for n in range(4):
                s.start_transaction()
                step()
                db.manual.insert_one({"thread": i, "n": n}, session=s)
                step()
                check("read in it", db.manual.count_documents({"thread": i, "n": n}, session=s), 1)
                step()
                cursor = rows(db).find({}, session=s).batch_size(100)
                step()
                check("cursor in it", len(list(cursor)), ROWS)
                step()
                if n == 3:
                    s.abort_transaction()
                else:
                    s.commit_transaction()
                    step()
                    s.commit_transaction()  # as after a network error

    rows(db)
    db.manual.insert_one({"there": True})
    together(work)


def grid_fs(client, db):
    files = gridfs.GridFSBucket(db, chunk_size_bytes=20000)
    content = os.urandom(300000)
    name = files.upload_from_stream("file", content)
    check("download", files.open_download_stream(name).read() == content)
    check("find", [f.length for f in files.find({"filename": "file"})], [len(content)])
    files.delete(name)
    check("delete", list(files.find({})), [])


def closed_cursors(client, db):
    c = rows(db)

    def work(i, step):
        for _ in range(5):
            step()
            cursor = c.find({}, batch_size=2)
            next(cursor)
            cursor_id = cursor.cursor_id
            step()
            cursor.close()
            check("the server says that it killed the cursor", cursor_id in watch.killed)

    together(work)


def other_names(client, db):
    """A client with another appName, and one that changes what it says of itself while its cursors are open."""
    c = rows(db)
    with pymongo.MongoClient(URI, appname="another") as other:
        check("another appName", len(list(other[DATABASE].rows.find({}, batch_size=20))), ROWS)
    with pymongo.MongoClient(URI, appname="changing") as changing:
        cursor = changing[DATABASE].rows.find({}).sort("_id", 1).batch_size(10)
        got = [next(cursor)["_id"]]
        changing.append_metadata(DriverInfo("puerta-tests", "1.0", "a wrapper"))

        def work(i, step):
            step()
            list(changing[DATABASE].rows.find({}, batch_size=60))  # several at once: new connections, with the new metadata

        together(work)
        got += [r["_id"] for r in cursor]
        check("a cursor of before", got, list(range(ROWS)))
    check("the first client", c.count_documents({}), ROWS)


SECTIONS = (crud, long_cursors, cursors_in_threads, aggregation, bulk_writes, large_documents, tailable, sessions, with_transaction,
            manual_transactions, grid_fs, closed_cursors, other_names)
URI = sys.argv[1] if len(sys.argv) > 1 else ""


def main():
    passed, failed = [], {}
    client = pymongo.MongoClient(URI, socketTimeoutMS=30000)
    db = client[DATABASE]
    for section in SECTIONS:
        try:
            section(client, db)
            passed.append(section.__name__)
        except Exception as e:  # noqa: BLE001
            failed[section.__name__] = "%s: %s" % (type(e).__name__, str(e).split(", full error")[0][:300])
            if not passed and isinstance(e, pymongo.errors.ServerSelectionTimeoutError):
                break
    if passed:
        try:
            client.drop_database(DATABASE)
        except pymongo.errors.PyMongoError as e:
            failed["drop_database"] = str(e)[:300]
    client.close()
    counts = {"cursor_not_found": watch.codes.get(43, 0), "no_such_transaction": watch.codes.get(251, 0), "kills_missed": watch.kills_missed}
    print(json.dumps({"driver": "pymongo", "version": pymongo.version, "passed": passed, "failed": failed, **counts}))
    return 1 if failed or any(counts.values()) else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: pymongo_ops.py URI")
    sys.exit(main())
