"""Makes mongo_golden.h: what pymongo really sends, what servers answer, and documents of every BSON type, each with what it is
about as pymongo's own BSON decoder reads it. test_mongowire.c compares mongowire.c with that.

    pymongo --TCP--> a scripted mongos (below): keeps each message and answers --> messages --> decoded by bson --> mongo_golden.h

Run by hand, when there is something new to record:  python tests/unit/mongo_golden.py > tests/unit/mongo_golden.h
Needs pymongo (4.6 or newer). Ids are random, so that each run gives other bytes.
"""
import datetime
import random
import re
import socket
import struct
import sys
import threading
import uuid

import bson
import pymongo
from bson import CodecOptions, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.code import Code
from bson.dbref import DBRef
from pymongo.errors import PyMongoError

REQUEST_NUMBERS = [("txnNumber",), ("autocommit",), ("startTransaction",), ("loadBalanced",), ("maxAwaitTimeMS",), ("helloOk",)]
REPLY_NUMBERS = [("helloOk",), ("ok",), ("code",), ("cursor", "id"), ("remainingQuiesceTimeMillis",), ("minWireVersion",), ("maxWireVersion",),
                 ("maxBsonObjectSize",), ("maxMessageSizeBytes",), ("maxWriteBatchSize",), ("logicalSessionTimeoutMinutes",), ("connectionId",)]
REQUEST_PRESENT = ["lsid", "client", "client.application", "client.os", "compression", "topologyVersion", "recoveryToken", "saslSupportedMechs",
                   "speculativeAuthenticate"]
REPLY_PRESENT = ["compression", "topologyVersion", "errorLabels", "cursor", "serviceId", "setName"]
PROCESS = ObjectId("507f1f77bcf86cd799439011")
CURSOR = 7351298411234509876


def fnv(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h - 2**64 if h >= 2**63 else h


def at(document, path):
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def is_number(value):
    return isinstance(value, (bool, int, float))


def whole(value):
    return 0 if value != value or abs(value) >= 2**63 and value != -2**63 else int(value)


def document_of(message):
    """Its document, decoded, and the flags of OP_MSG."""
    length, _, _, opcode = struct.unpack_from("<iiii", message)
    flags = 0
    if opcode == 2013:
        flags, = struct.unpack_from("<I", message, 16)
        place, end = 20, length - 4 * (flags & 1)
        while place < end:
            kind, size = message[place], struct.unpack_from("<i", message, place + 1)[0]
            if kind == 0:
                raw = message[place + 1:place + 1 + size]
            place += 1 + size
    elif opcode == 2004:
        raw = message[message.index(b"\0", 20) + 9:]
    else:
        raw = message[36:]
    return bson.decode(raw, CodecOptions(datetime_conversion=3)), flags


def about(message, reply):
    """What the walker has to find, in the words of test_mongowire.c."""
    _, request_id, response_to, opcode = struct.unpack_from("<iiii", message)
    document, flags = document_of(message)
    words = ["op %d id %d to %d flags %d" % (opcode, request_id, response_to, flags)]
    if not reply:
        name = next(iter(document))
        words.append("command %s" % name)
        if is_number(document[name]):
            words.append("value %d" % whole(document[name]))
    for path in REPLY_NUMBERS if reply else REQUEST_NUMBERS:
        if is_number(at(document, path)):
            words.append("%s %d" % (path[-1] if path[0] != "cursor" else "cursorId", whole(at(document, path))))
    killed = None if reply else document.get("cursors")
    if isinstance(killed, list) and killed and is_number(killed[0]):
        words.append("cursorId %d" % whole(killed[0]))
    if reply and is_number(document.get("isWritablePrimary", document.get("ismaster"))):
        words.append("writable %d" % whole(document.get("isWritablePrimary", document.get("ismaster"))))
    if is_number(at(document, ("topologyVersion", "counter"))):
        words.append("counter %d" % whole(document["topologyVersion"]["counter"]))
    if not reply and isinstance(at(document, ("client", "application", "name")), str):
        words.append("application %d" % fnv(document["client"]["application"]["name"]))
    if not reply and isinstance(at(document, ("client", "os", "type")), str):
        words.append("os %d" % fnv(document["client"]["os"]["type"]))
    if not reply and isinstance(document.get("$db"), str):
        words.append("db %s" % document["$db"])
    lsid = at(document, ("lsid", "id"))
    if not reply and isinstance(lsid, Binary) and lsid.subtype == 4 and len(lsid) == 16:
        words.append("lsid %s" % lsid.hex())
    if isinstance(at(document, ("topologyVersion", "processId")), ObjectId):
        words.append("process %s" % document["topologyVersion"]["processId"])
    if reply and document.get("msg") == "isdbgrid":
        words.append("isdbgrid")
    for name in REPLY_PRESENT if reply else REQUEST_PRESENT:
        parent, _, last = name.rpartition(".")
        home = document.get(parent) if parent else document
        if isinstance(home, dict) and last in home:
            words.append("+%s" % name)
    if killed is not None:
        words.append("+cursor")
    return " ".join(words)


class Mongos(threading.Thread):
    """A scripted mongos; keeps the messages of both directions."""

    def __init__(self, load_balanced=False):
        super().__init__(daemon=True)
        self.load_balanced = load_balanced
        self.kept = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        stream = connection.makefile("rb")
        while True:
            head = stream.read(16)
            if len(head) < 16:
                return
            length, request_id, _, opcode = struct.unpack("<iiii", head)
            message = head + stream.read(length - 16)
            self.kept.append((False, message))
            document, flags = document_of(message)
            if flags & 2:
                continue
            body = bson.encode(self.answer(document))
            if opcode == 2004:
                reply = struct.pack("<iiiiiqii", 36 + len(body), 7, request_id, 1, 8, 0, 0, 1) + body
            else:
                more = 2 if flags & 1 << 16 else 0  # and then silent, as a server is while nothing changes
                reply = struct.pack("<iiiiIB", 21 + len(body), 7, request_id, 2013, more, 0) + body
            self.kept.append((True, reply))
            connection.sendall(reply)

    def answer(self, document):
        name = next(iter(document))
        if name in ("hello", "ismaster", "isMaster"):
            reply = {"isWritablePrimary" if name == "hello" else "ismaster": True, "msg": "isdbgrid", "helloOk": True,
                     "topologyVersion": {"processId": PROCESS, "counter": Int64(0)}, "maxBsonObjectSize": 16777216, "maxMessageSizeBytes": 48000000,
                     "maxWriteBatchSize": 100000, "localTime": datetime.datetime(2024, 2, 29), "logicalSessionTimeoutMinutes": 30, "connectionId": 17,
                     "maxWireVersion": 21, "minWireVersion": 0}
            if self.load_balanced:
                reply["serviceId"] = PROCESS
        elif name in ("find", "aggregate"):
            reply = {"cursor": {"firstBatch": [{"_id": i, "id": Int64(99)} for i in range(2)], "id": Int64(CURSOR), "ns": "test.things"}}
        elif name == "getMore":
            reply = {"cursor": {"id": Int64(CURSOR), "nextBatch": [{"_id": 2}], "ns": "test.things"}}
        elif name == "abortTransaction":
            return {"ok": 0.0, "errmsg": "Transaction 1 has been aborted.", "code": 251, "codeName": "NoSuchTransaction",
                    "errorLabels": ["TransientTransactionError"]}
        elif name == "insert":
            reply = {"n": 1, "recoveryToken": {"recoveryShardId": "shard01"}}
        else:
            reply = {}
        reply["ok"] = 1.0
        return reply


def record():
    server = Mongos()
    client = pymongo.MongoClient("127.0.0.1", server.port, appname="billing", compressors="zlib", serverSelectionTimeoutMS=3000)
    things = client.test.things
    cursor = things.find({"a": {"$gt": 3}}).batch_size(2)
    for _ in range(3):
        next(cursor)
    cursor.close()
    list(things.aggregate([{"$match": {"x": 1}}]).try_next() or [])
    things.insert_many([{"i": i} for i in range(3)])
    with client.start_session() as session, session.start_transaction():
        things.insert_one({"t": 1}, session=session)
        things.update_one({"t": 1}, {"$set": {"t": 2}}, session=session)
    with client.start_session() as session:
        session.start_transaction()
        things.insert_one({"t": 1}, session=session)
        session.abort_transaction()
    things.with_options(write_concern=pymongo.WriteConcern(w=0)).insert_many([{"w": 0}])
    client.close()
    balanced = Mongos(True)
    client = pymongo.MongoClient("127.0.0.1", balanced.port, loadBalanced=True, appname="m\u00fcnze")
    client.test.things.find_one()
    client.close()
    login = Mongos()
    client = pymongo.MongoClient("127.0.0.1", login.port, username="u", password="p", serverSelectionTimeoutMS=500)
    try:
        client.test.command("ping")
    except (PyMongoError, KeyError):  # the login itself is not scripted
        pass
    client.close()
    seen, kept = {}, []
    for reply, message in server.kept + balanced.kept + login.kept:
        # One of each shape is enough.
        shape = (reply, re.sub(r"-?\d+|lsid [0-9a-f]+", "", about(message, reply)))
        seen[shape] = seen.get(shape, 0) + 1
        if seen[shape] == 1:
            kept.append(("pymongo %s" % ("reply" if reply else "request"), reply, message))
    return kept


def message(document, reply=False, before=b"", behind=b"", flags=0, opcode=2013):
    body = document if isinstance(document, bytes) else bson.encode(document)
    if opcode == 2013:
        body = struct.pack("<I", flags) + before + b"\0" + body + behind
    elif opcode == 2004:
        body = struct.pack("<i", 4) + b"admin.$cmd\0" + struct.pack("<ii", 0, -1) + body
    else:
        body = struct.pack("<iqii", 8, 0, 0, 1) + body
    whole = struct.pack("<iiii", 16 + len(body), 123456789, -2 if reply else 0, opcode) + body
    if flags & 1:
        whole = struct.pack("<i", len(whole) + 4) + whole[4:]
        whole += struct.pack("<I", crc32c(whole))
    return whole


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sequence(name, documents):
    body = name.encode() + b"\0" + b"".join(bson.encode(d) for d in documents)
    return b"\1" + struct.pack("<i", 4 + len(body)) + body


def made():
    every = {"f": 1.5, "s": "text", "d": {"id": 1, "lsid": {"id": 2}}, "a": [1, [2, {"x": "y"}], "z"], "b": Binary(b"\0\1\2", 0), "b2": Binary(b"old", 2),
             "u": Binary.from_uuid(uuid.UUID(int=5)), "o": ObjectId(), "t": True, "e": datetime.datetime(2001, 2, 3), "n": None, "r": Regex("^a.*b$", "im"),
             "ref": DBRef("c", 1), "c": Code("function () {}"), "cs": Code("x", {"a": 1}), "i": 7, "ts": Timestamp(1, 2), "l": Int64(-2**63),
             "dec": Decimal128("1.5"), "min": MinKey(), "max": MaxKey(), "": "no name"}
    lsid = {"id": Binary(bytes(range(16)), 4)}
    sequences = sequence("documents", [{"i": i, "lsid": {"id": Binary(b"no" * 8, 4)}} for i in range(3)])
    yield "every type", False, message({"insert": "things", **every, "lsid": lsid, "$db": "test", "txnNumber": Int64(2**62)})
    yield "every type, reply", True, message({**every, "cursor": {"firstBatch": [every], "postBatchResumeToken": {"id": 3}, "id": Int64(-5), "ns": "a.b"}, "ok": 1})
    yield "sequences before", False, message({"insert": "things", "$db": "d", "lsid": lsid}, before=sequences)
    yield "sequences on both sides, checksum", False, message({"insert": "c", "lsid": lsid, "$db": "d"}, before=sequences, behind=sequences, flags=1)
    yield "high flag bits", False, message({"ping": 1, "$db": "admin"}, flags=0xFFFE0000 | 1 << 16)
    yield "getMore with a double", False, message({"getMore": 12.9, "$db": "d", "collection": "c", "autocommit": None, "txnNumber": "5"})
    yield "killCursors", False, message({"killCursors": "things", "cursors": [Int64(1), Int64(2), Int64(-3)], "$db": "d", "lsid": lsid})
    yield "wrong types", False, message({"find": "c", "lsid": [lsid], "$db": 5, "client": "x", "topologyVersion": None, "loadBalanced": "yes", "helloOk": None})
    yield "wrong types inside", False, message({"find": "c", "lsid": {"id": Binary(b"x" * 16, 3)}, "client": {"application": {"name": 5}, "os": {"type": None}},
                                                "topologyVersion": {"processId": 1, "counter": "x"}})
    yield "a session's id of another length", False, message({"find": "c", "lsid": {"id": Binary(b"x" * 15, 4)}, "$db": "d"})
    yield "names that are long", False, message({"x" * 31: 1, "y" * 200: 1, "$db": "z" * 63, "lsidlsid": lsid, "lsi": lsid, "lsid": {"uid": 1, **lsid}})
    yield "hello, the old way", False, message({"isMaster": 1, "helloOk": True, "compression": ["zlib"], "client": {
        "driver": {"name": "x", "version": "1"}, "os": {"type": "Linux", "name": "y"}, "platform": "z", "application": {"name": "a" * 128}}}, opcode=2004)
    yield "reply, the old way", True, message({"ismaster": True, "msg": "isdbgrid", "maxWireVersion": 9, "minWireVersion": 0, "ok": 1.0}, True, opcode=1)
    yield "a member of a replica set", True, message({"isWritablePrimary": False, "setName": "rs", "hosts": ["a:1"], "ok": 1.0}, True)
    yield "quiesce", True, message({"ok": 0.0, "errmsg": "going", "code": 91, "codeName": "ShutdownInProgress", "remainingQuiesceTimeMillis": Int64(14999),
                                    "topologyVersion": {"processId": PROCESS, "counter": Int64(2)}}, True)
    yield "msg is another", True, message({"msg": "isdbgrid2", "ok": True}, True)
    yield "ok of each type", True, message({"ok": Int64(1), "code": 11600.0, "cursor": {"id": 3}}, True)
    yield "more to come", True, message({"ok": 1, "topologyVersion": {"counter": Int64(9), "processId": PROCESS}}, True, flags=2)
    yield "numbers beyond all", True, message({"ok": float("nan"), "code": 1e300, "cursor": {"id": -2.0**63}, "connectionId": 2.0**63}, True)
    chance = random.Random(5)
    names = ["$db", "lsid", "id", "client", "application", "name", "ok", "cursor", "code", "a", "topologyVersion", "counter", "txnNumber", "autocommit"]

    def value(depth):
        kind = chance.randrange(12 if depth else 9)
        return [1, Int64(-7), 2.5, False, "text", None, ObjectId(b"a" * 12), Binary(b"b" * 16, 4), Regex("a", "b")][kind] if kind < 9 else \
            [value(depth - 1) for _ in range(chance.randrange(3))] if kind == 9 else tree(depth - 1)

    def tree(depth):
        return {name: value(depth) for name in chance.sample(names, chance.randrange(6))}

    for i in range(12):
        document = tree(3) or {"a": 1}
        reply = i % 2 == 1
        yield "random %d" % i, reply, message(document if reply else {"cmd": value(2), **{k: v for k, v in document.items() if k != "cmd"}}, reply)


def c_string(data, width=30):
    lines = ["".join("\\x%02x" % byte for byte in data[i:i + width]) for i in range(0, len(data), width)]
    return "\n".join('     "%s"' % line for line in lines)


def written():
    """What test_bson.c and test_mongomsg.c have to write byte by byte."""
    when = datetime.datetime(2024, 2, 29, 12, 0, 0, 500000)
    document = {"i": -2, "l": Int64(2**40), "f": -1.25, "t": True, "n": False, "s": "caf\u00e9", "e": "", "o": PROCESS, "b": Binary(b"\0\1\2", 4), "when": when,
                "d": {"x": 1, "d": {}}, "a": [{"i": i} for i in range(12)]}
    refusal = {"ok": 0.0, "errmsg": "no such transaction", "code": 251, "codeName": "NoSuchTransaction"}
    yield "written_document", bson.encode(document)
    yield "written_hello", message({"hello": 1, "$db": "admin"})
    yield "written_hello_query", message({"isMaster": 1, "helloOk": True}, opcode=2004).replace(struct.pack("<i", 4) + b"admin", struct.pack("<i", 0) + b"admin")
    yield "written_refusal", message({**refusal, "errorLabels": ["TransientTransactionError"]}, True)
    yield "written_refusal_old", message(refusal, True, opcode=1)


def main():
    print("/* mongo_golden.h - made by mongo_golden.py with pymongo %s: messages, and what they are about by its decoder. */" % pymongo.version)
    print("static const struct golden golden[] = {")
    for name, reply, data in record() + list(made()):
        text = about(data, reply).encode().decode("ascii")
        print('    {"%s", %s,\n%s, %d,\n     "%s"},' % (name, "true" if reply else "false", c_string(data), len(data), text))
    print("};")
    for name, data in written():
        print("\nstatic const unsigned char %s[%d] =\n%s;" % (name, len(data), c_string(data)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
