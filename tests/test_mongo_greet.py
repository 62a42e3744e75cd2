"""What Puerta answers itself in MongoDB's pooled mode: hello in every form, awaitable hellos, and commands that ask about a shared connection.

    MongoClient (raw), pymongo --> Puerta, mode = pooled --> Front, Front (scripted mongos) --> FerretDB

Logins are in tests/test_mongo_door.py; every form and every wrong byte of a hello also in tests/unit/test_mongo_greet.c.
"""
import contextlib
import datetime
import socket
import time

import bson
import pymongo
import pytest

import harness
import mongo_harness
from fake import wire
from harness import SLOW, wait_for
from mongo_harness import MongoPuerta, run_driver

QUICK = dict(mongo_harness.QUICK, mode="pooled")
PARKED = 200


@pytest.fixture
def fronts(ferret):
    with mongo_harness.fronts(ferret, 2) as cluster:
        yield cluster


def before(fronts, **options):
    """A Puerta in pooled mode that has heard of all these fronts."""
    return mongo_harness.before(fronts, mode="pooled", **options)


def awaits(known, ms=60000, **more):
    """A hello that waits until that topologyVersion is not true any more."""
    return dict({"hello": 1, "topologyVersion": known, "maxAwaitTimeMS": bson.Int64(ms)}, **more)


def ask_by_query(c, document, **how):
    c.last_id += 1
    c.send_raw(wire.op_query(document, c.last_id, **how))
    reply = c.read()
    assert reply.opcode == wire.OP_REPLY and reply.response_to == c.last_id
    return reply.body


def hello_until(p, what, condition):
    """Asks on one connection until the answer is as wanted; gives it."""
    with p.client() as c:
        return wait_for(what, lambda: (lambda answer: condition(answer) and answer)(c.ask({"hello": 1})))


# ------------------------------------------------------------------ forms

def test_every_form_of_hello(front):
    with before([front]) as p, p.client() as c:
        for name, primary in (("hello", "isWritablePrimary"), ("isMaster", "ismaster"), ("ismaster", "ismaster")):
            for answer in (c.ask({name: 1}), c.ask({name: True}), c.ask({name: 1}, checksum=True), ask_by_query(c, {name: 1})):
                assert answer["ok"] == 1 and answer[primary] is True and answer["msg"] == "isdbgrid", answer
                assert len({"isWritablePrimary", "ismaster"} & set(answer)) == 1
                assert (answer["minWireVersion"], answer["maxWireVersion"]) == (0, 21)
                assert answer["maxBsonObjectSize"] == 16777216 and answer["maxMessageSizeBytes"] == 48000000
                assert answer["maxWriteBatchSize"] == 100000 and answer["logicalSessionTimeoutMinutes"] == 30
                assert answer["readOnly"] is False and isinstance(answer["connectionId"], int)
                assert abs(answer["localTime"] - datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)) < datetime.timedelta(minutes=1)
                for absent in ("compression", "helloOk", "setName", "hosts", "serviceId", "saslSupportedMechs", "speculativeAuthenticate"):
                    assert absent not in answer
        assert c.ask({"ismaster": 1, "helloOk": True})["helloOk"] is True
        assert "compression" not in c.ask({"hello": 1, "compression": ["zlib", "snappy", "zstd"]})
        assert ask_by_query(c, {"$query": {"isMaster": 1, "helloOk": True}, "$readPreference": {"mode": "nearest"}})["helloOk"] is True
        assert ask_by_query(c, {"isMaster": 1}, collection="test.$cmd")["ismaster"] is True
        assert all(s.name.lower() in ("hello", "ismaster") and "compression" not in s.body for s in front.seen)


def test_the_version_is_puertas_own(fronts):
    with before(fronts) as p, p.client() as a, p.client() as b, MongoPuerta([fronts[0]], **QUICK) as other, other.client() as far:
        versions = [c.ask({"hello": 1})["topologyVersion"] for c in (a, b, far)]
        assert versions[0] == versions[1] and versions[0]["processId"] != versions[2]["processId"]
        assert versions[0]["processId"] not in [f.process_id for f in fronts]
        assert a.ask({"hello": 1})["connectionId"] != b.ask({"hello": 1})["connectionId"]


def test_nothing_of_a_client_reaches_a_mongos(front):
    with before([front]) as p, p.client() as c:
        assert c.hello(app_name="secret application")["ok"]
        assert c.ask({"find": "nothing"}, db="puerta")["ok"]
        assert not any(b"secret application" in (s.message.raw_body or b"") or "secret" in str(s.body) for s in front.seen)


def test_metadata_comes_once(front):
    with before([front]) as p, p.client() as c:
        assert c.hello(app_name="one")["ok"]
        answer = c.hello(app_name="two")
        assert (answer["code"], answer["codeName"]) == (186, "ClientMetadataCannotBeMutated"), answer
        assert c.ask({"hello": 1})["ok"] and c.ask({"find": "nothing"}, db="puerta")["ok"]


def test_load_balanced_drivers_are_told(front):
    with before([front]) as p, p.client() as c:
        answer = c.ask({"hello": 1, "loadBalanced": True})
        assert answer["code"] == 354 and "loadBalanced" in answer["errmsg"]
        assert c.ask({"hello": 1, "loadBalanced": False})["ok"]


def test_other_commands_by_op_query(front):
    with before([front]) as p, p.client() as c:
        for document, collection in (({"ping": 1}, "admin.$cmd"), ({"find": "x"}, "test.$cmd"), ({"x": 1}, "test.things"), ({}, "admin.$cmd")):
            answer = ask_by_query(c, document, collection=collection)
            assert (answer["ok"], answer["code"], answer["codeName"]) == (0.0, 352, "UnsupportedOpQueryCommand"), answer
        assert c.ask({"hello": 1})["ok"]


def test_what_is_wrong_is_said(front):
    foreign = {"processId": bson.ObjectId(), "counter": bson.Int64(1)}
    with before([front]) as p, p.client() as c:
        own = c.ask({"hello": 1})["topologyVersion"]
        ahead = dict(own, counter=bson.Int64(own["counter"] + 1))
        for document, code in (
                ({"hello": 1, "topologyVersion": own}, 51760), ({"hello": 1, "maxAwaitTimeMS": 10}, 51760),
                (awaits(own, -1), 51759), (awaits(dict(own, counter=bson.Int64(-1))), 51758), (awaits(ahead), 51761),
                (awaits({}), 9), (awaits({"processId": "x", "counter": 1}), 14), (awaits(7), 14),
                (dict(awaits(own), maxAwaitTimeMS="10"), 14), ({"hello": 1, "client": 5}, 14), ({"hello": 1, "helloOk": {}}, 14),
                ({"hello": 1, "saslSupportedMechs": 5}, 14), ({"hello": 1, "loadBalanced": "yes"}, 14)):
            answer = c.ask(document)
            assert (answer["ok"], answer["code"]) == (0.0, code) and answer["errmsg"], (document, answer)
        assert c.ask(awaits(foreign))["ok"]


def test_a_hello_in_single_bytes_and_one_behind_the_other(front):
    with before([front]) as p, p.client() as c:
        data = wire.op_msg({"hello": 1, "client": {"application": {"name": "slow"}}, "$db": "admin"}, 3)
        for byte in data:
            c.send_raw(bytes([byte]))
        assert c.read().response_to == 3
        c.send_raw(b"".join(wire.op_msg({name: 1, "$db": "admin"}, i) for i, name in enumerate(("hello", "ping", "isMaster", "ping"), 10)))
        assert [c.read().response_to for _ in range(4)] == [10, 11, 12, 13]


def test_a_hello_that_wants_no_answer_gets_none(front):
    with before([front]) as p, p.client() as c:
        own = c.ask({"hello": 1})["topologyVersion"]
        c.send({"hello": 1}, flags=wire.MORE_TO_COME)
        c.send(awaits(own), flags=wire.MORE_TO_COME)
        assert c.ask({"ping": 1})["ok"]


# ------------------------------------------------------- facts of the mongos

LESS = dict(min_wire=6, max_wire=17, hello_fields={"maxBsonObjectSize": 8388608, "maxMessageSizeBytes": 24000000, "maxWriteBatchSize": 1000,
                                                  "logicalSessionTimeoutMinutes": 10})


def test_the_least_of_all_mongos(fronts):
    fronts[1].set(**LESS)
    with before(fronts) as p:
        answer = hello_until(p, "the least of both", lambda a: a["maxWireVersion"] == 17)
        assert (answer["minWireVersion"], answer["logicalSessionTimeoutMinutes"]) == (6, 10)
        assert (answer["maxBsonObjectSize"], answer["maxMessageSizeBytes"], answer["maxWriteBatchSize"]) == (8388608, 24000000, 1000)
        version = answer["topologyVersion"]
        fronts[1].stop()
        p.wait_state(fronts[1], "down")
        answer = hello_until(p, "one alone", lambda a: a["maxWireVersion"] == 21)
        assert answer["topologyVersion"]["counter"] > version["counter"] and answer["minWireVersion"] == 0
        fronts[0].stop()
        p.wait_state(fronts[0], "down")
        answer = hello_until(p, "what they last said", lambda a: a["maxWireVersion"] == 17)
        assert answer["ok"] and answer["logicalSessionTimeoutMinutes"] == 10
        with pymongo.MongoClient(p.uri(), serverSelectionTimeoutMS=5000) as driver:
            assert driver.admin.command("hello")["msg"] == "isdbgrid"


def test_sessions_only_where_all_have_them(fronts):
    fronts[1].set(hello_fields={"logicalSessionTimeoutMinutes": None})
    with before(fronts) as p:
        hello_until(p, "no sessions", lambda a: "logicalSessionTimeoutMinutes" not in a)


def test_facts_that_change_while_a_mongos_is_up(front):
    """As by setFeatureCompatibilityVersion: told to those who wait, though no mongos changes its state."""
    with before([front]) as p, p.client() as c:
        known = c.ask({"hello": 1})["topologyVersion"]
        c.send(awaits(known))
        front.set(max_wire=20)
        front.change_topology()
        answer = c.read().body
        assert answer["maxWireVersion"] == 20 and answer["topologyVersion"]["counter"] == known["counter"] + 1
        assert len([1 for line in p.log_text().splitlines() if "node changes state" in line]) == 1


def test_servers_that_are_no_mongos(fronts):
    fronts[1].set(isdbgrid=False)
    with before(fronts, expect="any") as p:
        hello_until(p, "not all are mongos", lambda a: "msg" not in a)


def test_before_anything_is_known_a_hello_waits(front):
    front.freeze()
    with MongoPuerta([front], **dict(QUICK, probe_timeout="10s")) as p, p.client() as c, p.client() as gone:
        c.send({"hello": 1})
        gone.send({"hello": 1})
        with pytest.raises(TimeoutError):
            c.read(timeout=0.3)
        gone.close()
        front.thaw()
        assert c.read().body["msg"] == "isdbgrid"
        assert c.ask({"find": "nothing"}, db="puerta")["ok"]


def test_when_nothing_ever_becomes_known():
    with MongoPuerta(["127.0.0.1:%d" % harness.free_port()], **dict(QUICK, handshake_timeout="500ms")) as p, p.client() as c:
        answer = c.ask({"hello": 1})
        assert (answer["code"], answer["codeName"]) == (6, "HostUnreachable") and "down" in answer["errmsg"], answer
        assert ask_by_query(c, {"isMaster": 1})["code"] == 6


# ------------------------------------------------------------------ awaitable

def test_the_time_of_a_parked_hello(front):
    with before([front]) as p, p.client() as c, p.client() as other:
        known = c.ask({"hello": 1})["topologyVersion"]
        began = time.monotonic()
        answer = c.ask(awaits(known, 500))
        assert answer["ok"] and answer["topologyVersion"] == known and time.monotonic() - began >= 0.45
        with pytest.raises(TimeoutError):
            c.read(timeout=0.8)  # one question, one answer
        assert c.ask(awaits(known, 0))["ok"]
        stale = dict(known, counter=bson.Int64(known["counter"] - 1))
        began = time.monotonic()
        assert c.ask(awaits(stale, 60000))["topologyVersion"] == known and time.monotonic() - began < 10 * SLOW
        c.send(awaits(known, 2 ** 62))
        assert other.ask({"ping": 1})["ok"]
        c.close()  # it is let go though its time has no end


def test_a_hello_that_may_go_on_is_answered_again_and_again(front):
    """With exhaustAllowed, as servers do it: each answer but the last says moreToCome, and is what the next one answers."""
    with before([front]) as p, p.client() as c, p.client() as other:
        known = c.ask({"hello": 1})["topologyVersion"]
        asked = c.send(awaits(dict(known, counter=bson.Int64(known["counter"] - 1)), 200), flags=wire.EXHAUST_ALLOWED)
        for n in range(4):  # the first at once, since what it knows is old
            began = time.monotonic()
            answer = c.read()
            assert answer.flags & wire.MORE_TO_COME and answer.response_to == asked and answer.body["topologyVersion"] == known
            assert n == 0 or time.monotonic() - began >= 0.15
            asked = answer.request_id
        front.set(max_wire=20)
        front.change_topology()
        while answer.body["maxWireVersion"] == 21:
            answer = c.read()
        assert answer.flags & wire.MORE_TO_COME and answer.body["topologyVersion"]["counter"] > known["counter"]
        eager = p.client()
        eager.send(awaits(known, 0), flags=wire.EXHAUST_ALLOWED)
        began = time.monotonic()
        for _ in range(6):
            eager.read()
        assert time.monotonic() - began >= 0.4, "no more than ten a second, whatever a client asks for"
        eager.close()
        assert other.ask({"find": "nothing"}, db="puerta")["ok"]
        asked = c.send({"find": "nothing"}, db="puerta")
        while answer.flags & wire.MORE_TO_COME:
            answer = c.read()
        assert c.read().response_to == asked, "who says something else ends it"
        c.send(awaits(known, 100), flags=wire.EXHAUST_ALLOWED)
        assert c.read().flags & wire.MORE_TO_COME
        c.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            while True:
                c.read()


def test_many_parked_hellos_are_told_of_a_change(fronts):
    with before(fronts) as p, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(p.client()) for _ in range(PARKED)]
        known = clients[0].ask({"hello": 1})["topologyVersion"]
        for c in clients:
            c.send(awaits(known), flags=wire.EXHAUST_ALLOWED)
        other = stack.enter_context(p.client())
        for _ in range(20):
            assert other.ask({"find": "nothing"}, db="puerta")["ok"]
        fronts[0].set(max_wire=19)
        fronts[0].change_topology()
        answers = [c.read() for c in clients]
        assert {a.body["maxWireVersion"] for a in answers} == {19} and all(a.flags & wire.MORE_TO_COME for a in answers)
        known = answers[0].body["topologyVersion"]
        assert all(a.body["topologyVersion"] == known for a in answers)
        fronts[0].stop()
        assert {c.read().body["maxWireVersion"] for c in clients} == {21}
        assert other.ask({"find": "nothing"}, db="puerta")["ok"]


def test_the_end_is_told_to_all_who_wait(front):
    with before([front]) as p, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(p.client()) for _ in range(20)]
        known = clients[0].ask({"hello": 1})["topologyVersion"]
        for c in clients[:5]:
            c.send(awaits(known))
        for c in clients[5:10]:
            c.send(awaits(known), flags=wire.EXHAUST_ALLOWED)
        for c in clients[10:]:
            c.last_id += 1
            c.send_raw(wire.op_query(awaits(known), c.last_id))
        with p.client() as last:
            assert last.ask({"ping": 1})["ok"]  # all before it have been read
        p.terminate()
        for c in clients:
            answer = c.read().body
            assert (answer["ok"], answer["code"], answer["codeName"]) == (0.0, 91, "ShutdownInProgress"), answer
            assert answer["topologyVersion"]["counter"] == known["counter"] + 1 and answer["remainingQuiesceTimeMillis"] > 0
            with pytest.raises(EOFError):
                c.read()


# --------------------------------------------------------------- other commands

def test_what_asks_about_a_connection(front):
    with before([front]) as p, p.client() as c:
        for name in ("getLastError", "getlasterror"):
            answer = c.ask({name: 1})
            assert answer["code"] == 59 and "shared" in answer["errmsg"] and "write concern" in answer["errmsg"]
        assert c.ask({"getnonce": 1})["code"] == 59
        assert c.ask({"authenticate": 1, "user": "x"})["code"] == 18
        assert c.ask({"logout": 1})["ok"] == 1
        assert c.ask({"whatsmyuri": 1})["you"] == "%s:%d" % c.sock.getsockname()
        assert not front.commands("getLastError", "getnonce", "authenticate", "logout", "whatsmyuri")
        assert c.ask({"ping": 1})["ok"] and front.commands("ping")


# ------------------------------------------------------------------- drivers

def test_drivers_monitors_keep_in_touch(front):
    """pymongo's monitor streams, or polls where it may not: it hears of a change, and finds the server all the while."""
    with before([front]) as p, pymongo.MongoClient(p.uri("heartbeatFrequencyMS=500"), appName="monitored") as driver:
        assert driver.admin.command("ping")["ok"]
        first = driver.topology_description.server_descriptions()[("127.0.0.1", p.port)]
        assert first.server_type_name == "Mongos" and first.max_wire_version == 21
        front.set(max_wire=20)
        front.change_topology()
        wait_for("the driver to hear of it", lambda: driver.topology_description.server_descriptions()[("127.0.0.1", p.port)].max_wire_version == 20)
        assert driver.test.things.find_one() is None


def test_what_a_hostile_client_says_disturbs_nobody(front):
    """Every truncation of a hello, and every hello with one byte changed: an answer or the end of that connection, and others go on."""
    data = wire.op_msg(dict(awaits({"processId": bson.ObjectId(), "counter": bson.Int64(3)}, 1), client={"application": {"name": "x"}},
                            speculativeAuthenticate={"saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": b"n,,n=a,r=b"}, **{"$db": "admin"}), 7)
    with before([front]) as p, p.client() as other:
        for at in range(0, len(data), 1 if harness.LONG else 3):
            for piece in (data[:at], data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1:]):
                with p.client() as c:
                    c.send_raw(piece)
                    c.sock.shutdown(socket.SHUT_WR)
                    c.sock.settimeout(20 * SLOW)
                    with contextlib.suppress(ConnectionResetError):
                        while c.sock.recv(65536):
                            pass
            if at % 30 == 0:
                assert other.ask({"find": "nothing"}, db="puerta")["ok"]
        assert other.ask({"hello": 1})["ok"]


def test_the_node_driver_keeps_its_pool(front):
    """Its monitor takes an answer without moreToCome for an error, and then closes all its connections."""
    with before([front]) as p:
        code, seen = run_driver("mongodb_beats.js", p.uri())
        assert code == 0 and seen["beats"] >= 4 and not seen["failed"] and seen["cleared"] == 0, seen


@pytest.mark.parametrize("script", ["pymongo_ops.py", "mongodb_ops.js"])
def test_drivers_find_one_mongos(fronts, script):
    with before(fronts) as p:
        code, result = run_driver(script, p.uri())
        assert (code, result["failed"]) == (0, {}), result
        assert not any(result[what] for what in ("cursor_not_found", "no_such_transaction", "kills_missed")), result
