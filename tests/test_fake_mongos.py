"""The servers of MongoDB mode's tests, without Puerta: the scripted mongos does what a real one does, and fails as it is told to; the
drivers' scripts pass before one mongos and fail behind a balancer that knows nothing of MongoDB."""
import contextlib
import json
import os
import struct
import threading
import time

import bson
import pymongo
import pytest
from bson import Binary, Int64
from pymongo.errors import AutoReconnect, OperationFailure

import harness
import pymongo_suite
from fake import wire
from mongo_harness import DRIVERS, HaProxy, MongoClient, proxy_v1, proxy_v2, run_driver

DB = "fake"


@pytest.fixture
def rows(ferret):
    """The name of a collection of 20 documents."""
    name = "rows%d" % time.monotonic_ns()
    with MongoClient(ferret.port) as c:
        assert c.ask({"insert": name, "documents": [{"_id": i} for i in range(20)]}, DB)["n"] == 20
        yield name
        c.ask({"drop": name}, DB)


@pytest.fixture
def clients(mongoses):
    """A raw client of each mongos, past hello."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(MongoClient(front.port)) for front in mongoses]
        for c in opened:
            assert c.hello()["ok"] == 1
        yield opened


def session():
    return {"id": Binary(os.urandom(16), 4)}


def in_transaction(lsid, number, first=False):
    more = {"lsid": lsid, "txnNumber": Int64(number), "autocommit": False}
    return dict(more, startTransaction=True) if first else more


def ids(batch):
    return [d["_id"] for d in batch]


# ---- the wire ----


def test_crc32c():
    assert wire.crc32c(b"123456789") == 0xE3069283
    assert wire.crc32c(b"") == 0


@pytest.mark.parametrize("checksum", [False, True])
def test_a_message_and_its_parts(checksum):
    documents = [bson.encode({"_id": i}) for i in range(3)]
    data = wire.op_msg({"insert": "c", "$db": "d"}, 7, 5, wire.MORE_TO_COME, [("documents", documents)], checksum)
    message = wire.parse(data)
    assert (message.opcode, message.request_id, message.response_to, message.name) == (wire.OP_MSG, 7, 5, "insert")
    assert message.flags == wire.MORE_TO_COME | (wire.CHECKSUM_PRESENT if checksum else 0)
    assert message.sections[1] == (1, "documents", documents)
    again = wire.parse(wire.compressed(data))
    assert (again.sections, again.compressor) == (message.sections, 2)
    query = wire.parse(wire.op_query({"ismaster": 1}, 9))
    assert (query.opcode, query.request_id, query.collection, query.name) == (wire.OP_QUERY, 9, "admin.$cmd", "ismaster")
    if checksum:
        with pytest.raises(wire.Malformed):
            wire.parse(data[:30] + bytes([data[30] ^ 1]) + data[31:])


def malformed():
    good = wire.op_msg({"ping": 1, "$db": "admin"}, 1)
    head = struct.unpack_from("<iiii", good)

    def with_header(length=head[0], opcode=head[3], rest=good[16:]):
        return struct.pack("<iiii", length, 1, 0, opcode) + rest

    def with_flags(flags):
        return good[:16] + struct.pack("<I", flags) + good[20:]

    document = bson.encode({"ping": 1, "$db": "admin"})
    return {
        "length 15": with_header(15), "length 0": with_header(0), "length below 0": with_header(-1), "too long": with_header(48000001),
        "opcode": with_header(opcode=4711), "OP_INSERT": with_header(opcode=2002), "flag 2": with_flags(4), "flag 15": with_flags(1 << 15),
        "kind 2": good[:20] + b"\2" + good[21:], "no section": with_header(20, rest=good[16:20]),
        "two bodies": with_header(len(good) + len(document) + 1, rest=good[16:] + b"\0" + document),
        "document too long": good[:21] + struct.pack("<i", len(document) + 1) + good[25:],
        "document too short": good[:21] + struct.pack("<i", 4) + good[25:],
        "document without its end": good[:-1] + b"\1",
        "wrong checksum": wire.op_msg({"ping": 1, "$db": "admin"}, 1, checksum=True)[:-1] + b"\0",
        "snappy": struct.pack("<iiiiiiB", 30, 1, 0, 2012, 2013, 10, 1) + b"12345", "PROXY": proxy_v1() + proxy_v2(),
    }


@pytest.mark.parametrize("name", sorted(malformed()))
def test_malformed_messages_end_the_connection(mongoses, name):
    with MongoClient(mongoses[0].port) as c:
        c.send_raw(malformed()[name])
        with pytest.raises((EOFError, ConnectionResetError)):
            c.read(5)
    assert mongoses[0].everyone[-1].malformed


# ---- hello ----


def test_hello(mongoses):
    with MongoClient(mongoses[0].port) as c:
        answer = c.hello("app")
        assert (answer["isWritablePrimary"], answer["msg"], answer["helloOk"], answer["ok"]) == (True, "isdbgrid", True, 1)
        assert (answer["minWireVersion"], answer["maxWireVersion"], answer["logicalSessionTimeoutMinutes"]) == (0, 21, 30)
        assert answer["topologyVersion"]["counter"] == 0
        old = c.ask({"isMaster": 1})
        assert old["ismaster"] is True and "isWritablePrimary" not in old and "helloOk" not in old
        c.send_raw(wire.op_query({"ismaster": 1, "helloOk": True}, 77))
        reply = c.read()
        assert (reply.opcode, reply.response_to, reply.body["ismaster"], reply.body["helloOk"]) == (wire.OP_REPLY, 77, True, True)
        c.send_raw(wire.op_query({"find": "x"}, 78))
        assert c.read().body["code"] == 352
    seen = mongoses[0].everyone[0]
    assert (len(seen.hellos), seen.app_name, seen.messages) == (3, "app", 4)
    versions = set()
    for front in mongoses:
        with MongoClient(front.port) as c:
            versions.add(c.hello()["topologyVersion"]["processId"])
    assert len(versions) == 3


def test_toggles_of_hello(mongoses):
    front = mongoses[0]
    front.set(isdbgrid=False, max_wire=9, ok_as=bool, topology_versions=False, hello_fields={"setName": "rs0", "localTime": None})
    with MongoClient(front.port) as c:
        answer = c.hello()
        assert "msg" not in answer and "topologyVersion" not in answer and "localTime" not in answer
        assert (answer["maxWireVersion"], answer["ok"], answer["setName"]) == (9, True, "rs0") and isinstance(answer["ok"], bool)
    with pytest.raises(AssertionError):
        front.set(no_such_toggle=1)


def test_metadata_comes_once(mongoses):
    with MongoClient(mongoses[0].port) as c:
        c.hello()
        assert c.hello()["code"] == 186
        assert c.ask({"hello": 1})["ok"] == 1
        mongoses[0].set(check_metadata=False)
        assert c.hello()["ok"] == 1


def test_awaited_hello(mongoses, clients):
    version = clients[0].ask({"hello": 1})["topologyVersion"]
    begun = time.monotonic()
    assert clients[0].ask({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 300})["topologyVersion"]["counter"] == 0
    assert time.monotonic() - begun > 0.25
    assert clients[0].ask({"hello": 1, "topologyVersion": version})["code"] == 51760
    assert clients[0].ask({"hello": 1, "maxAwaitTimeMS": 5})["code"] == 51760
    # Another process's version is answered at once, and so is an old counter.
    assert clients[1].ask({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 3600000})["ok"] == 1
    mongoses[0].change_topology()
    assert clients[0].ask({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 3600000})["topologyVersion"]["counter"] == 1
    version = dict(version, counter=Int64(1))
    clients[0].send({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 3600000})
    harness.wait_for("the hello to come", lambda: mongoses[0].commands("hello")[-1].body.get("maxAwaitTimeMS") == 3600000)
    mongoses[0].change_topology()
    assert clients[0].read().body["topologyVersion"]["counter"] == 2


def test_hello_chains(mongoses, clients):
    c = clients[0]
    version = c.ask({"hello": 1})["topologyVersion"]
    asked = c.send({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 50}, flags=wire.EXHAUST_ALLOWED)
    for n in range(4):
        reply = c.read()
        assert reply.flags & wire.MORE_TO_COME and reply.response_to == asked
        asked = reply.request_id
    mongoses[0].quiesce(5000)
    while reply.flags & wire.MORE_TO_COME:
        reply = c.read()
        assert reply.response_to == asked
        asked = reply.request_id
    assert reply.body["code"] == 91
    assert c.ask({"ping": 1})["ok"] == 1, "the stream has ended, the connection is usable"
    mongoses[1].set(exhaust_hello=False)
    clients[1].send({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 50}, flags=wire.EXHAUST_ALLOWED)
    assert not clients[1].read().flags & wire.MORE_TO_COME


def test_a_client_that_leaves_a_chain_is_noticed(mongoses):
    with MongoClient(mongoses[0].port) as c:
        version = c.hello()["topologyVersion"]
        c.send({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 3600000}, flags=wire.EXHAUST_ALLOWED)
        harness.wait_for("the hello to come", lambda: len(mongoses[0].commands("hello")) == 2)
    harness.wait_for("the front to end the connection", lambda: not mongoses[0].clients)


def test_quiesce(mongoses, clients, rows):
    front, c = mongoses[0], clients[0]
    with pymongo.MongoClient("127.0.0.1", front.port, heartbeatFrequencyMS=500) as driver:
        def kind():
            return [d.server_type_name for d in driver.topology_description.server_descriptions().values()]

        assert driver.is_mongos
        front.quiesce(600000)
        answer = c.ask({"hello": 1})
        assert (answer["ok"], answer["code"], answer["codeName"]) == (0, 91, "ShutdownInProgress")
        assert 0 < answer["remainingQuiesceTimeMillis"] <= 600000 and answer["topologyVersion"]["counter"] == 1
        assert c.ask({"find": rows}, DB)["ok"] == 1, "operations go on"
        harness.wait_for("the driver to see it", lambda: kind() == ["Unknown"])
        front.interrupt()
        assert c.ask({"ping": 1})["code"] == 11600
        front.recover()
        assert c.ask({"ping": 1})["ok"] == 1
        harness.wait_for("the driver to see it", lambda: kind() == ["Mongos"])


# ---- cursors ----


@pytest.mark.parametrize("ids_as", ["random", "count"])
def test_a_cursor_belongs_to_its_front(mongoses, clients, rows, ids_as):
    mongoses.set(cursor_ids=ids_as)
    first = clients[0].ask({"find": rows, "batchSize": 3, "sort": {"_id": 1}}, DB)["cursor"]
    assert (ids(first["firstBatch"]), first["ns"]) == ([0, 1, 2], DB + "." + rows)
    assert ids_as == "random" or first["id"] == 1
    more = {"getMore": Int64(first["id"]), "collection": rows, "batchSize": 3}
    for other in clients[1:]:
        assert (other.ask(more, DB)["code"], other.ask(more, DB)["codeName"]) == (43, "CursorNotFound")
    with MongoClient(mongoses[0].port) as c:
        assert ids(c.ask(more, DB)["cursor"]["nextBatch"]) == [3, 4, 5], "another connection to the same front"
    assert clients[0].ask(dict(more, collection="other"), DB)["code"] == 43
    assert ids(clients[0].ask(dict(more, batchSize=100), DB)["cursor"]["nextBatch"]) == list(range(6, 20))
    assert clients[0].ask(more, DB)["code"] == 43, "it is used up"
    assert mongoses[0].cursors == {}


def test_a_cursor_outlives_the_connection_that_opened_it(mongoses, clients, rows):
    with MongoClient(mongoses[0].port) as c:
        cursor_id = c.ask({"find": rows, "batchSize": 3}, DB)["cursor"]["id"]
    harness.wait_for("the connection to end", lambda: len(mongoses[0].clients) == 1)
    assert clients[0].ask({"getMore": Int64(cursor_id), "collection": rows}, DB)["ok"] == 1


def test_order_of_fields(mongoses, clients, rows):
    find = {"find": rows, "batchSize": 1}

    def orders():
        first = clients[0].ask(find, DB)["cursor"]
        again = clients[0].ask({"getMore": Int64(first["id"]), "collection": rows, "batchSize": 1}, DB)["cursor"]
        counted = clients[0].ask({"aggregate": rows, "pipeline": [], "cursor": {"batchSize": 1}}, DB)["cursor"]
        return [list(c)[:3] for c in (first, counted, again)]

    batch, ident = ["firstBatch", "id", "ns"], ["id", "ns", "firstBatch"]
    assert orders() == [batch, batch, ["id", "ns", "nextBatch"]]
    mongoses.set(cursor_order="id first")
    assert orders() == [ident, ident, ["id", "ns", "nextBatch"]]
    mongoses.set(cursor_order="batch first")
    assert orders() == [batch, batch, ["nextBatch", "id", "ns"]]


def test_a_cursor_belongs_to_its_session(mongoses, clients, rows):
    one, two = session(), session()
    c = clients[0]

    def opened(**more):
        return Int64(c.ask(dict({"find": rows, "batchSize": 1}, **more), DB)["cursor"]["id"])

    without, within = opened(), opened(lsid=one)
    transacted = opened(**in_transaction(one, 1, True))

    def more(cursor_id, **fields):
        return c.ask(dict({"getMore": cursor_id, "collection": rows, "batchSize": 1}, **fields), DB).get("code", 0)

    assert more(without, lsid=one) == 50799
    assert more(within) == 50800
    assert more(within, lsid=two) == 50801
    assert more(transacted, lsid=one) == 50803
    assert (more(without), more(within, lsid=one), more(transacted, **in_transaction(one, 1))) == (0, 0, 0)
    assert more(within, **in_transaction(one, 1)) == 50802
    mongoses[0].set(check_lsid=False)
    assert more(within, lsid=two) == 0


def test_kill_cursors(mongoses, clients, rows):
    mine, theirs = (Int64(c.ask({"find": rows, "batchSize": 1}, DB)["cursor"]["id"]) for c in clients[:2])
    kill = {"killCursors": rows, "cursors": [mine, theirs, Int64(5)]}
    done = clients[0].ask(kill, DB)
    assert (done["cursorsKilled"], done["cursorsNotFound"]) == ([mine], [theirs, 5])
    assert clients[0].ask({"getMore": mine, "collection": rows}, DB)["code"] == 43
    assert clients[1].ask({"getMore": theirs, "collection": rows}, DB)["ok"] == 1


def test_cursors_are_forgotten(mongoses, clients, rows):
    lsid = session()
    kept, ended = (Int64(clients[0].ask(dict({"find": rows, "batchSize": 1}, **m), DB)["cursor"]["id"]) for m in ({}, {"lsid": lsid}))
    assert clients[0].ask({"endSessions": [lsid]})["ok"] == 1
    assert clients[0].ask({"getMore": ended, "collection": rows, "lsid": lsid}, DB)["code"] == 43
    mongoses[0].forget_cursors()
    assert clients[0].ask({"getMore": kept, "collection": rows}, DB)["code"] == 43


def test_checks_of_cursors_off(mongoses, clients, rows):
    mongoses.set(check_cursors=False)
    cursor_id = Int64(clients[0].ask({"find": rows, "batchSize": 1}, DB)["cursor"]["id"])
    assert clients[1].ask({"getMore": cursor_id, "collection": rows, "batchSize": 1}, DB)["ok"] == 1
    assert clients[2].ask({"killCursors": rows, "cursors": [cursor_id]}, DB)["cursorsKilled"] == [cursor_id]


def test_get_more_chains(mongoses, clients, rows):
    c = clients[0]
    cursor_id = Int64(c.ask({"find": rows, "batchSize": 5, "sort": {"_id": 1}}, DB)["cursor"]["id"])
    asked = c.send({"getMore": cursor_id, "collection": rows, "batchSize": 5}, DB, flags=wire.EXHAUST_ALLOWED)
    got, more = [], True
    while more:
        reply = c.read()
        assert reply.response_to == asked
        asked, more = reply.request_id, reply.flags & wire.MORE_TO_COME
        got += ids(reply.body["cursor"]["nextBatch"])
        assert bool(more) == (reply.body["cursor"]["id"] != 0)
    assert got == list(range(5, 20))
    mongoses[0].set(exhaust_getmore=False)
    cursor_id = Int64(c.ask({"find": rows, "batchSize": 5}, DB)["cursor"]["id"])
    c.send({"getMore": cursor_id, "collection": rows, "batchSize": 5}, DB, flags=wire.EXHAUST_ALLOWED)
    assert not c.read().flags & wire.MORE_TO_COME


def test_tailable(mongoses, clients, rows):
    name = rows + "capped"
    c = clients[0]
    assert c.ask({"create": name, "capped": True, "size": 100000}, DB)["ok"] == 1
    find = {"find": name, "tailable": True, "awaitData": True}
    assert c.ask(find, DB)["cursor"]["id"] == 0, "nothing there: dead"
    assert c.ask(dict(find, find=rows), DB)["ok"] == 0, "not capped"
    c.ask({"insert": name, "documents": [{"_id": 1}]}, DB)
    cursor = c.ask(find, DB)["cursor"]
    assert ids(cursor["firstBatch"]) == [1]
    more = {"getMore": Int64(cursor["id"]), "collection": name, "maxTimeMS": 100}
    begun = time.monotonic()
    empty = c.ask(more, DB)["cursor"]
    assert (empty["id"], list(empty["nextBatch"])) == (cursor["id"], []) and time.monotonic() - begun > 0.09
    c.send(dict(more, maxTimeMS=600000), DB)
    clients[1].ask({"insert": name, "documents": [{"_id": 2}]}, DB)
    assert ids(c.read().body["cursor"]["nextBatch"]) == [2]
    assert clients[1].ask(more, DB)["code"] == 43
    c.ask({"drop": name}, DB)


# ---- transactions ----


def test_a_transaction_belongs_to_its_front(mongoses, clients, rows):
    lsid = session()
    find = {"find": rows, "limit": 1}
    begun = clients[0].ask(dict(find, **in_transaction(lsid, 1, True)), DB)
    assert begun["ok"] == 1 and begun["recoveryToken"] is not None
    for other in clients[1:]:
        refused = other.ask(dict(find, **in_transaction(lsid, 1)), DB)
        assert (refused["code"], refused["codeName"], refused["errorLabels"]) == (251, "NoSuchTransaction", ["TransientTransactionError"])
        assert other.ask(dict({"commitTransaction": 1}, **in_transaction(lsid, 1)))["code"] == 251
        assert other.ask(dict({"abortTransaction": 1}, **in_transaction(lsid, 1)))["code"] == 251
    assert clients[0].ask(dict(find, **in_transaction(lsid, 1)), DB)["ok"] == 1
    for _ in range(2):
        assert clients[0].ask(dict({"commitTransaction": 1}, **in_transaction(lsid, 1)))["ok"] == 1
    assert clients[0].ask(dict(find, **in_transaction(lsid, 1)), DB)["code"] == 256
    assert clients[0].ask(dict(find, **in_transaction(lsid, 1, True)), DB)["code"] == 117
    assert clients[0].ask(dict(find, **in_transaction(lsid, 2, True)), DB)["ok"] == 1
    assert clients[0].ask(dict(find, **in_transaction(lsid, 1)), DB)["code"] == 225
    assert clients[0].ask(dict({"abortTransaction": 1}, **in_transaction(lsid, 2)))["ok"] == 1
    assert clients[0].ask(dict({"commitTransaction": 1}, **in_transaction(lsid, 2)))["code"] == 251
    mongoses.set(check_transactions=False)
    assert clients[1].ask(dict(find, **in_transaction(lsid, 7)), DB)["ok"] == 1


def test_an_error_ends_the_transaction(mongoses, clients, rows):
    lsid = session()
    assert clients[0].ask(dict({"insert": rows, "documents": [{"_id": 1}]}, **in_transaction(lsid, 1, True)), DB)["writeErrors"]
    assert clients[0].ask(dict({"find": rows}, **in_transaction(lsid, 1)), DB)["code"] == 251
    clients[0].ask(dict({"find": rows}, **in_transaction(lsid, 2, True)), DB)
    mongoses[0].fault("find", 1, error={"code": 112})
    assert clients[0].ask(dict({"find": rows}, **in_transaction(lsid, 2)), DB)["code"] == 112
    assert clients[0].ask(dict({"find": rows}, **in_transaction(lsid, 2)), DB)["code"] == 251


def test_a_commit_may_be_recovered_elsewhere(mongoses, clients, rows):
    lsid = session()
    token = clients[0].ask(dict({"find": rows}, **in_transaction(lsid, 1, True)), DB)["recoveryToken"]
    commit = dict({"commitTransaction": 1}, **in_transaction(lsid, 1))
    assert clients[0].ask(commit)["ok"] == 1
    assert clients[1].ask(commit)["code"] == 251
    assert clients[1].ask(dict(commit, recoveryToken=token))["ok"] == 1
    clients[0].ask(dict({"find": rows}, **in_transaction(lsid, 2, True)), DB)
    commit = dict({"commitTransaction": 1}, **in_transaction(lsid, 2))
    refused = clients[1].ask(dict(commit, recoveryToken=token))
    assert (refused["code"], refused["errorLabels"]) == (251, ["TransientTransactionError"]), "never committed: it is ended"


def test_a_retryable_write_is_no_transaction(mongoses, clients, rows):
    write = {"insert": rows, "documents": [{"_id": "retryable"}], "lsid": session(), "txnNumber": Int64(1)}
    assert clients[0].ask(write, DB)["n"] == 1
    assert mongoses[0].transactions == {}


# ---- load balancers ----


def test_load_balanced_must_fit_the_port(mongoses):
    with MongoClient(mongoses[0].port) as c:
        assert c.hello(loadBalanced=True)["code"] == 354
    with MongoClient(mongoses[0].load_balancer_port, first=proxy_v2()) as c:
        assert c.hello()["code"] == 354
    mongoses.set(check_load_balanced=False)
    with MongoClient(mongoses[0].port) as c:
        answer = c.hello(loadBalanced=True)
        assert answer["ok"] == 1 and "serviceId" not in answer


@pytest.mark.parametrize("header", [proxy_v1("198.51.100.7", 4321), proxy_v2("198.51.100.7", 4321)], ids=["v1", "v2"])
def test_the_load_balancers_port(mongoses, header):
    seen = []
    for front in mongoses:
        for _ in range(2):
            with MongoClient(front.load_balancer_port, first=header) as c:
                seen.append(c.hello(loadBalanced=True)["serviceId"])
    assert seen[0] == seen[1] and seen[2] == seen[3] and seen[4] == seen[5] and len(set(seen)) == 3
    assert mongoses[0].everyone[0].proxy == ("198.51.100.7", 4321, "192.0.2.2", 27017)
    with MongoClient(mongoses[0].load_balancer_port, first=b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0") as c:
        assert c.hello(loadBalanced=True)["ok"] == 1, "LOCAL has no addresses"


def test_the_load_balancers_port_wants_a_header(mongoses):
    with MongoClient(mongoses[0].load_balancer_port) as c:
        with pytest.raises((EOFError, ConnectionResetError)):
            c.hello(loadBalanced=True)
    assert "PROXY" in mongoses[0].everyone[-1].malformed


def test_a_retryable_write_is_done_once(mongoses, clients):
    """Also by way of another mongos, and also where the answer was lost; one that failed is done when it comes again."""
    lsid, name = session(), "once%d" % time.monotonic_ns()

    def insert(c, number):
        return c.ask({"insert": name, "documents": [{"n": number}], "lsid": lsid, "txnNumber": Int64(number)}, DB)

    assert [insert(c, 1)["n"] for c in clients] == [1, 1, 1]
    mongoses[0].fault("insert", 1, cut=0)
    with pytest.raises(EOFError):
        insert(clients[0], 2)
    assert insert(clients[1], 2)["n"] == 1
    assert insert(clients[1], 1)["code"] == 225
    mongoses[1].fault("insert", 1, error={"code": 91})
    assert insert(clients[1], 3)["code"] == 91
    assert insert(clients[2], 3)["n"] == 1
    answer = clients[2].ask({"find": name, "sort": {"n": 1}}, DB)
    assert [d["n"] for d in answer["cursor"]["firstBatch"]] == [1, 2, 3]
    mongoses.set(retryable_writes=False)
    assert insert(clients[2], 3)["n"] == 1
    assert len(clients[2].ask({"find": name}, DB)["cursor"]["firstBatch"]) == 4


def test_sessions_are_killed(mongoses, clients, rows):
    for kill in ({"killSessions": []}, {"killAllSessions": []}, {"killAllSessionsByPattern": [{}]}):
        lsid = session()
        answer = clients[0].ask({"find": rows, "batchSize": 2, "lsid": lsid}, DB)
        assert clients[0].ask({"ping": 1, "startTransaction": True, "lsid": lsid, "txnNumber": Int64(1), "autocommit": False})["ok"] == 1
        if "killSessions" in kill:
            kill["killSessions"].append(lsid)
        assert clients[0].ask(kill)["ok"] == 1
        assert clients[0].ask({"getMore": Int64(answer["cursor"]["id"]), "collection": rows, "lsid": lsid}, DB)["code"] == 43
        assert clients[0].ask(dict({"ping": 1}, **in_transaction(lsid, 1)))["code"] == 251


def test_a_load_balanced_connection_takes_its_cursors_with_it(mongoses, rows):
    with MongoClient(mongoses[0].load_balancer_port, first=proxy_v2()) as c:
        c.hello(loadBalanced=True)
        c.ask(dict({"find": rows, "batchSize": 1}, **in_transaction(session(), 1, True)), DB)
        assert len(mongoses[0].cursors) == len(mongoses[0].transactions) == 1
    harness.wait_for("the cursor and the transaction to end", lambda: not mongoses[0].cursors and not mongoses[0].transactions)


# ---- login ----


@pytest.mark.parametrize("mechanism", [None, "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"])
def test_login(mongoses, mechanism):
    mongoses.set(users={"ana": "pass,word=1"})
    more = {"authMechanism": mechanism} if mechanism else {}
    with pymongo.MongoClient("127.0.0.1", mongoses[0].port, username="ana", password="pass,word=1", **more) as c:
        assert c.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"] == [{"user": "ana", "db": "admin"}]
        assert c[DB].list_collection_names() is not None
    with pymongo.MongoClient("127.0.0.1", mongoses[0].port, username="ana", password="wrong", **more) as c:
        with pytest.raises(OperationFailure) as e:
            c[DB].list_collection_names()
        assert e.value.code == 18
    with pymongo.MongoClient("127.0.0.1", mongoses[0].port) as c:
        with pytest.raises(OperationFailure) as e:
            c[DB].list_collection_names()
        assert e.value.code == 13


def test_a_login_cannot_be_split(mongoses, clients):
    mongoses.set(users={"ana": "secret"})
    start = {"saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": Binary(b"n,,n=ana,r=abcdef", 0), "options": {"skipEmptyExchange": True}}
    began = clients[0].ask(start)
    assert (began["done"], began["conversationId"]) == (False, 1) and bytes(began["payload"]).startswith(b"r=abcdef")
    assert clients[1].ask({"saslContinue": 1, "conversationId": 1, "payload": Binary(b"c=biws,r=abcdef,p=AAAA", 0)})["code"] == 17


@pytest.mark.parametrize("command", [{"saslStart": 1}, {"getMore": "one", "collection": "c"}, {"getMore": Int64(1)}, {"killCursors": "c"},
                                     {"hello": 1, "topologyVersion": 1, "maxAwaitTimeMS": 1}, {"find": "c", "lsid": 5, "autocommit": False}])
def test_commands_that_are_not_as_they_should_be(mongoses, clients, command):
    answer = clients[0].ask(command)
    assert answer["ok"] == 0 and answer["code"] in (9, 43), answer
    assert ping(clients[0]) == 1


# ---- checksums, compression, messages without a reply ----


def test_checksums(mongoses, clients):
    def answered(**how):
        clients[0].send({"ping": 1}, **how)
        return bool(clients[0].read().flags & wire.CHECKSUM_PRESENT)

    assert (answered(), answered(checksum=True)) == (False, True)
    mongoses[0].set(checksums="always")
    assert (answered(), answered(checksum=True)) == (True, True)
    mongoses[0].set(checksums="never")
    assert (answered(), answered(checksum=True)) == (False, False)


def test_compression(mongoses):
    with MongoClient(mongoses[0].port) as c:
        assert c.hello(compression=["snappy", "zlib"])["compression"] == ["zlib"]
        c.send({"ping": 1}, packed=True)
        reply = c.read()
        assert (reply.compressor, reply.body["ok"]) == (2, 1)
        mongoses[0].set(compressors=())
        assert "compression" not in c.ask({"hello": 1, "compression": ["zlib"]})
    mongoses[0].set(compressors=("zlib",))
    with pymongo.MongoClient("127.0.0.1", mongoses[0].port, compressors="zlib") as c:
        assert c[DB].command("ping")["ok"] == 1
    assert mongoses[0].commands("ping")[-1].message.compressor == 2


def test_requests_that_want_no_reply(mongoses, clients, rows):
    c = clients[0]
    c.send({"insert": rows, "documents": [{"_id": "w0"}], "writeConcern": {"w": 0}}, DB, flags=wire.MORE_TO_COME)
    c.send({"noSuchCommand": 1}, flags=wire.MORE_TO_COME)
    assert c.ask({"ping": 1})["ok"] == 1, "the first answer is ping's"
    assert c.ask({"count": rows, "query": {"_id": "w0"}}, DB)["n"] == 1


def test_large_messages(mongoses, clients, rows):
    data = os.urandom(1 << 20) * 5
    documents = [bson.encode({"_id": "large %d" % i, "data": data}) for i in range(3)]
    assert clients[0].ask({"insert": rows}, DB, sequences=[("documents", documents)], timeout=60)["n"] == 3
    got = clients[0].ask({"find": rows, "filter": {"_id": "large 2"}}, DB, timeout=60)["cursor"]["firstBatch"]
    assert [bytes(d["data"]) for d in got] == [data]


# ---- what goes wrong on demand ----


def ping(client):
    return client.ask({"ping": 1}, timeout=5)["ok"]


def test_fault_delay_and_times(mongoses, clients):
    fault = mongoses[0].fault("ping", 1, skip=1, delay=0.3)
    times = []
    for _ in range(3):
        begun = time.monotonic()
        assert ping(clients[0]) == 1
        times.append(time.monotonic() - begun > 0.25)
    assert times == [False, True, False] and fault.hits == 3


def test_fault_error(mongoses, clients, rows):
    fault = mongoses[0].fault(["find", "insert"], error={"code": 91, "errmsg": "going", "errorLabels": ["RetryableWriteError"]})
    answer = clients[0].ask({"insert": rows, "documents": [{"_id": "never"}]}, DB)
    assert (answer["ok"], answer["code"], answer["errmsg"], answer["errorLabels"]) == (0, 91, "going", ["RetryableWriteError"])
    assert ping(clients[0]) == 1 and ping(clients[1]) == 1
    assert clients[1].ask({"find": rows}, DB)["ok"] == 1
    fault.clear()
    assert clients[0].ask({"count": rows, "query": {"_id": "never"}}, DB)["n"] == 0


def test_fault_of_one_application(mongoses):
    mongoses[0].fault("ping", app_name="bad", error={"code": 1})
    with MongoClient(mongoses[0].port) as good, MongoClient(mongoses[0].port) as bad:
        good.hello("good")
        bad.hello("bad")
        assert (ping(good), ping(bad)) == (1, 0)
        assert mongoses[0].app_names() == {"good": 1, "bad": 1}


@pytest.mark.parametrize("how", ["silent", "pause"])
def test_fault_silence(mongoses, clients, how):
    fault = mongoses[0].fault("ping", **({"silent": True} if how == "silent" else {"cut": 20, "then": "pause"}))
    clients[0].send({"ping": 1})
    with pytest.raises(TimeoutError) as e:
        clients[0].read(0.5)
    assert how == "silent" or r"\x00" in str(e.value), "16 bytes of header, and 4 more"
    fault.clear()
    assert ping(clients[1]) == 1


@pytest.mark.parametrize("what, error", [
    ({"close": True}, EOFError), ({"close": True, "then": "reset"}, ConnectionResetError), ({"cut": 0}, EOFError), ({"cut": 30}, EOFError),
    ({"raw": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, TimeoutError), ({"header": {"length": 15}}, wire.Malformed),
    ({"header": {"opcode": 4711}}, wire.Malformed), ({"header": {"response_to": 99}}, AssertionError), ({"bad_crc": True}, wire.Malformed)])
def test_fault_of_the_answers_bytes(mongoses, clients, what, error):
    mongoses[0].fault("ping", 1, **what)
    with pytest.raises(error):
        clients[0].ask({"ping": 1}, timeout=0.5)
    assert ping(clients[1]) == 1


def test_fault_pieces(mongoses, clients, rows):
    mongoses[0].fault("find", pieces=7, pause=0)
    assert ids(clients[0].ask({"find": rows, "sort": {"_id": 1}}, DB)["cursor"]["firstBatch"]) == list(range(20))


def test_fault_hold(mongoses, clients):
    """Step by step: each goes on when it is let."""
    fault = mongoses[0].fault("ping", hold=True)
    with MongoClient(mongoses[0].port) as other:
        for c in (clients[0], other):
            c.send({"ping": 1})
            with pytest.raises(TimeoutError):
                c.read(0.1)
        assert (fault.held, fault.most_held) == (2, 2)
        assert ping(clients[1]) == 1
        fault.release()
        assert clients[0].read().body["ok"] == 1
        with pytest.raises(TimeoutError):
            other.read(0.1)
        fault.clear()
        assert other.read().body["ok"] == 1 and fault.held == 0 and ping(other) == 1


def test_requests_that_do_not_wait_for_the_answer_before(mongoses, clients):
    for c in clients:
        for _ in range(3):
            assert ping(c) == 1
        c.send({"insert": "quiet", "documents": [{}]}, DB, flags=wire.MORE_TO_COME)
        assert ping(c) == 1
    assert [front.overlaps for front in mongoses] == [0, 0, 0]
    fault = mongoses[0].fault("ping", hold=True)
    clients[0].send({"ping": 1})
    harness.wait_for("it to be held", lambda: fault.held == 1)
    clients[0].send({"ping": 1})
    harness.wait_for("the second to be noticed", lambda: mongoses[0].overlaps == 1)
    fault.clear()
    assert clients[0].read().response_to + 1 == clients[0].read().response_to


def test_the_most_connections(mongoses):
    front = mongoses[0]
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            assert stack.enter_context(MongoClient(front.port)).hello()["ok"] == 1
    harness.wait_for("them to be gone", lambda: not front.clients)
    assert front.most_connections == 3
    front.clear()
    assert front.most_connections == 0


def test_no_such_fault(mongoses):
    with pytest.raises(AssertionError):
        mongoses[0].fault("find", explode=True)


def test_fail_command(mongoses):
    """The fail point that drivers' own tests use."""
    mongoses.set(test_commands=True)
    with pymongo.MongoClient("127.0.0.1", mongoses[0].port, retryReads=False) as c:
        assert "enableTestCommands=1" in c.admin.command("getCmdLineOpts")["argv"]
        c.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": {"failCommands": ["count"], "errorCode": 8}})
        with pytest.raises(OperationFailure) as e:
            c[DB].command("count", "x")
        assert e.value.code == 8 and c[DB].command("count", "x")["n"] == 0
        c.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": {"failCommands": ["find"], "closeConnection": True}})
        with pytest.raises(AutoReconnect):
            c[DB].x.find_one()
        c.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
        assert c[DB].x.find_one() is None


def test_freeze(mongoses, clients):
    mongoses[0].freeze()
    with MongoClient(mongoses[0].port) as c:
        for client in (c, clients[0]):
            client.send({"ping": 1})
            with pytest.raises(TimeoutError):
                client.read(0.2)
        assert ping(clients[1]) == 1
        mongoses[0].thaw()
        assert c.read().body["ok"] == clients[0].read().body["ok"] == 1


def test_stop_and_start(mongoses, clients, rows):
    front = mongoses[0]
    cursor_id = Int64(clients[0].ask({"find": rows, "batchSize": 1}, DB)["cursor"]["id"])
    before, port = clients[0].ask({"hello": 1})["topologyVersion"]["processId"], front.port
    front.stop()
    with pytest.raises((EOFError, ConnectionResetError)):
        clients[0].ask({"ping": 1})
    with pytest.raises(ConnectionRefusedError):
        MongoClient(port)
    front.start()
    assert front.port == port
    with MongoClient(port) as c:
        assert c.hello()["topologyVersion"]["processId"] != before
        assert c.ask({"getMore": cursor_id, "collection": rows}, DB)["code"] == 43
    with MongoClient(front.load_balancer_port, first=proxy_v2()) as c:
        assert c.hello(loadBalanced=True)["ok"] == 1


def test_rates(mongoses, clients):
    mongoses[0].set(write_rate=2000)
    begun = time.monotonic()
    size = len(clients[0].ask({"hello": 1}).raw)
    assert time.monotonic() - begun > size / 2000 * 0.5
    mongoses[0].set(write_rate=0, read_rate=2000)
    clients[0].ask({"ping": 1})
    begun = time.monotonic()
    clients[0].ask({"ping": 1, "comment": "x" * 1000})
    assert time.monotonic() - begun > 0.25


def test_silent(mongoses, clients):
    mongoses[0].set(silent=True)
    clients[0].send({"hello": 1})
    with pytest.raises(TimeoutError):
        clients[0].read(0.2)
    mongoses[0].set(silent=False)
    assert ping(clients[0]) == 1


def test_what_was_seen(mongoses, clients, rows):
    front = mongoses[0]
    front.clear()
    clients[0].ask({"find": rows, "limit": 1}, DB)
    seen = front.commands("find", "insert")
    assert [(s.name, s.body["$db"], s.body["limit"], s.connection) for s in seen] == [("find", DB, 1, front.everyone[0])]
    assert not mongoses[1].commands("find") and len(front.clients) == 1
    front.set(keep_seen=False)
    clients[0].ask({"find": rows, "limit": 1}, DB)
    assert len(front.commands("find")) == 1


def test_what_is_recorded(mongoses, tmp_path):
    front = mongoses[0]
    front.set(record=str(tmp_path))
    with MongoClient(front.port) as c:
        c.hello()
        ping(c)
    number = front.everyone[0].number
    for direction, names in (("in", ["hello", "ping"]), ("out", ["isWritablePrimary", "ok"])):
        data, got = (tmp_path / ("%d.%s" % (number, direction))).read_bytes(), []
        while data:
            length = wire.header(data)[0]
            got.append(wire.parse(data[:length]).name)
            data = data[length:]
        assert got == names


def test_a_thousand_clients(mongoses):
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(MongoClient(mongoses[i % 3].port)) for i in range(1000)]
        for i, c in enumerate(opened):
            c.send({"hello": 1, "client": {"application": {"name": "app%d" % (i % 10)}}})
        assert all(c.read().body["ok"] == 1 for c in opened)
        assert sum(sum(front.app_names().values()) for front in mongoses) == 1000
        assert mongoses[0].app_names()["app0"] == 34


def test_the_database_goes_away_and_is_said_so(mongoses, clients, rows):
    database, mongoses.database = mongoses.database, ("127.0.0.1", harness.free_port())
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(MongoClient(mongoses[2].port).ask({"ping": 1})["code"])) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert answers == [6, 6, 6]
    mongoses.database = database
    assert ping(clients[2]) == 1


# ---- pymongo's own tests ----


def test_two_runs_are_compared(tmp_path, capsys):
    def write(name, **tests):
        path = tmp_path / name
        path.write_text(json.dumps({"version": "1", "modules": ["m"], "tests": tests}))
        return str(path)

    one = write("one", a="passed", b="failed", c="skipped", d="passed")
    assert pymongo_suite.compare(one, write("same", a="passed", b="error", c="skipped", d="passed")) == 0
    assert pymongo_suite.compare(one, write("worse", a="passed", b="failed", c="skipped", d="failed")) == 1
    assert "d: passed here, failed there" in capsys.readouterr().out
    assert pymongo_suite.compare(one, write("less", a="passed", b="failed", c="skipped")) == 1
    assert pymongo_suite.compare(one, write("more", a="passed", b="passed", c="skipped", d="passed")) == 1
    assert pymongo_suite.compare(write("none"), write("nothing")) == 1, "nothing passed: nothing is proved"


# ---- the drivers' scripts ----


def sections_passed(result):
    return len(result["passed"]), result["failed"], result["cursor_not_found"], result["no_such_transaction"], result["kills_missed"]


SECTIONS = dict(zip(DRIVERS, (13, 13, 11)))


@pytest.mark.parametrize("script", DRIVERS)
def test_drivers_before_one_mongos(mongoses, script):
    code, result = run_driver(script, "mongodb://%s/" % mongoses[0].address)
    assert (code, sections_passed(result)) == (0, (SECTIONS[script], {}, 0, 0, 0)), result


@pytest.mark.parametrize("script", DRIVERS)
def test_drivers_with_a_login(mongoses, script):
    mongoses.set(users={"ana": "secret"})
    code, result = run_driver(script, "mongodb://ana:secret@%s/" % mongoses[0].address)
    assert (code, sections_passed(result)) == (0, (SECTIONS[script], {}, 0, 0, 0)), result


@pytest.mark.parametrize("script", DRIVERS)
def test_load_balanced_drivers_behind_a_plain_balancer(mongoses, script):
    """Drivers in load-balanced mode pin their connections themselves: HAProxy before the load balancers' ports is enough for them."""
    with HaProxy(mongoses.load_balancer_addresses, send_proxy=True) as balancer:
        code, result = run_driver(script, "mongodb://%s/?loadBalanced=true" % balancer.address)
    assert (code, sections_passed(result)) == (0, (SECTIONS[script], {}, 0, 0, 0)), result
    assert all(front.everyone for front in mongoses)


@pytest.mark.parametrize("script", DRIVERS)
def test_ordinary_drivers_behind_a_plain_balancer(mongoses, script):
    """Connections dealt out in turn: cursors and transactions are looked for where they are not."""
    with HaProxy(mongoses.addresses) as balancer:
        code, result = run_driver(script, "mongodb://%s/" % balancer.address)
    assert code == 1 and result["failed"], result
    assert result["cursor_not_found"] > 0 and result["no_such_transaction"] > 0 and result["kills_missed"] > 0, result


@pytest.mark.parametrize("script", DRIVERS)
def test_a_script_tells_that_nobody_answers(script):
    uri = "mongodb://127.0.0.1:%d/?serverSelectionTimeoutMS=500" % harness.free_port()
    code, result = run_driver(script, uri)
    assert code == 1 and not result["passed"] and result["failed"], result
