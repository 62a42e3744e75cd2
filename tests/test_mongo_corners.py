"""MongoDB's pooled mode in its corners: what a look at the code from outside has found, beside what its other tests see.

    clients (raw) --> Puerta, mode = pooled --> Front, Front, Front --> FerretDB
"""
import contextlib
import struct
import subprocess
import threading
import time

import bson
import pymongo
import pytest
from bson import Int64

import harness
import mongo_harness
from fake import wire
from harness import SLOW, wait_for
from mongo_harness import Session
from test_mongo_pool import WAIT, heard, holding
from test_mongo_pooled import DB, LOOK, at, drained, error_of, filled, greeted, more_of, pooled


@pytest.fixture(scope="module")
def keys():
    return harness.keys_of("pencil")


def test_the_next_dial_follows_the_one_before(front):
    """With one dial at a time a pool of forty is there as soon as those dials are over: none waits for a timer (of 200 ms)."""
    with pooled([front], pool_max=40, pool_dials=1) as p, greeted(p, 40) as clients:
        with holding(front) as fault:
            begun = time.monotonic()
            for c in clients:
                c.send(WAIT, DB)
            wait_for("all of them to have a connection", lambda: fault.held == 40)
            assert time.monotonic() - begun < 2.0 * SLOW
        for c in clients:
            assert c.read().body["ok"]


def test_a_request_that_stops_midway_holds_no_connection(front):
    """Where it goes is known from its first section; its client stops within the second."""
    with pooled([front], pool_max=1, pool_wait="1s") as p, greeted(p, 2) as (slow, other):
        name = filled(other, 0)
        data = wire.op_msg({"insert": name, "lsid": Session().lsid, "$db": DB}, 99, sequences=[("documents", [bson.encode({"_id": 1, "x": "b" * 10000})])])
        slow.send_raw(data[:-10])
        heard(other)
        for _ in range(3):
            assert other.ask(LOOK, DB)["ok"]
        slow.send_raw(data[-10:])
        assert slow.read().body["n"] == 1


@pytest.mark.parametrize("what,code,label", [("getMore", 6, "ResumableChangeStreamError"), ("statement", 251, "TransientTransactionError"),
                                             ("commit", 6, "RetryableWriteError")])
def test_nobody_waits_for_a_connection_to_a_mongos_that_lets_nobody_in(fronts, what, code, label):
    """It is shutting down and its connections are gone: what lives there is answered at once, not after pool_wait."""
    with pooled(fronts, pool_wait="60s") as p, greeted(p, 1) as (c,):
        name, s = filled(c), Session()
        opened, place = at(fronts, c, dict({"find": name, "batchSize": 2}, **s.plain))
        begun, there = at(fronts, c, dict({"find": name}, **s.begin()))
        assert begun["ok"] and there is place
        drained(p, place)
        place.drop_clients()
        heard(c)
        answer = c.ask({"getMore": dict(more_of(opened["cursor"]["id"], name), **s.plain), "statement": dict({"find": name}, **s.more),
                        "commit": dict({"commitTransaction": 1}, **s.more)}[what], "admin" if what == "commit" else DB, timeout=10)
        assert error_of(answer) == (code, [label]), answer


def test_old_connections_to_a_mongos_that_shuts_down_stay(fronts):
    """There will be no others to end on what is open there."""
    with pooled(fronts, pool_life="1s", pool_idle="1s", pool_wait="60s") as p, greeted(p, 1) as (c,):
        name, s = filled(c, 40), Session()
        opened, place = at(fronts, c, dict({"find": name, "batchSize": 2}, **s.plain))
        cursor = opened["cursor"]["id"]
        assert c.ask(dict(more_of(cursor, name), **s.plain), DB)["ok"]
        drained(p, place)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert c.ask(dict(more_of(cursor, name, 1), **s.plain), DB)["ok"]
            time.sleep(0.2)


def start(name):
    """The first message of a login."""
    return {"saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": bson.Binary(b"n,,n=%s,r=abcdefghijklmnopqrstuv" % name)}


def test_the_salt_of_nobody_stays_as_those_of_users_do(front, keys):
    """Otherwise a restart, or a second Puerta, would tell who exists."""
    said = []
    for _ in range(2):
        with pooled([front], user="app " + keys) as p, greeted(p, 1) as (c,):
            said.append([bytes(c.ask(start(name))["payload"]).split(b",s=")[1] for name in (b"app", b"nobody", b"somebody")])
    assert said[0] == said[1] and len(set(said[0])) == 3


def test_a_stranger_gets_no_room_for_long_requests(front, keys):
    """What names its command behind megabytes would be held on for those who may come in."""
    with pooled([front], process=dict(chunks=256, chunk_size="16k"), client_stall="60s", user="app " + keys) as p, greeted(p, 1) as (c,):
        before = {"documents": [bson.encode({"x": "y" * 50000})] * 40}
        packed = b"documents\0" + b"".join(before["documents"])
        sequence = b"\1" + struct.pack("<i", len(packed) + 4) + packed
        body = b"\0" + bson.encode({"insert": "x", "$db": DB})
        message = struct.pack("<iiiiI", 20 + len(sequence) + len(body), 5, 0, wire.OP_MSG, 0) + sequence + body
        free = p.resident()
        c.send_raw(message[:1900000])
        heard_by = p.client()
        assert heard_by.hello()["ok"]
        heard_by.close()
        c.send_raw(message[1900000:])
        answer = c.read().body
        assert answer["code"] == 13 and "insert" in answer["errmsg"], answer
        assert p.resident() - free < 1000000


def test_a_stranger_is_not_told_of_the_mongos(keys):
    """The last trouble has names and addresses in it."""
    options = dict(mode="pooled", handshake_timeout="500ms", upstream_user="secretuser", upstream_password="x")
    for users, told in ((dict(user="app " + keys), False), ({}, True)):
        with mongo_harness.MongoPuerta(["127.0.0.1:1"], **dict(mongo_harness.QUICK, **options, **users)) as p, p.client() as c:
            p.wait_state("127.0.0.1:1", "down")
            answer = c.hello()
            assert answer["code"] == 6 and ("127.0.0.1:1" in answer["errmsg"]) == told, answer


def half_hellos(p, stack, count):
    """So many clients that stop in the middle of their first message."""
    part = wire.op_msg({"hello": 1, "$db": "admin"}, 1)[:30]
    for _ in range(count):
        stack.enter_context(p.client()).send_raw(part)


TINY = dict(chunks=64, chunk_size="16k", max_clients=300)


def test_half_hellos_cost_nobody_his_chunks_for_long(front):
    """Each holds one, and there are more of them than chunks: they do not wait for client_stall."""
    with pooled([front], process=TINY, client_stall="60s", handshake_timeout="60s") as p, greeted(p, 1) as (c,), contextlib.ExitStack() as stack:
        half_hellos(p, stack, 150)
        for _ in range(20):
            assert c.ask({"ping": 1}, timeout=20)["ok"]
        p.wait_log("no chunks left: a client is closed")


def test_strangers_do_not_take_the_chunks_of_those_who_have_logged_in(front, keys):
    with pooled([front], process=TINY, client_stall="60s", handshake_timeout="60s", user="app " + keys) as p, contextlib.ExitStack() as stack:
        client = stack.enter_context(pymongo.MongoClient("127.0.0.1", p.port, username="app", password="pencil", socketTimeoutMS=20000))
        assert client.admin.command("ping")["ok"]
        half_hellos(p, stack, 150)
        for _ in range(20):
            assert client.admin.command("ping")["ok"]
        assert "no chunks left" not in p.log_text()


@pytest.mark.parametrize("spoke", [False, True])
def test_a_stranger_that_trickles_is_not_waited_for(front, keys, spoke):
    """A byte now and then does not make its time begin anew."""
    with pooled([front], client_stall="60s", handshake_timeout="2s", user="app " + keys) as p, p.client() as c:
        if spoke:
            assert c.hello()["ok"]
        with pytest.raises((EOFError, OSError)):
            for byte in wire.op_msg({"ping": 1, "$db": "x" * 100}, 1):
                c.send_raw(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    c.read(timeout=0.1 / SLOW)


def test_a_login_that_holds_no_more_is_made_anew(ferret):
    """The user has been dropped and made again: what was logged in before is nobody's, until it has logged in once more."""
    with mongo_harness.fronts(ferret, 1, users={"app": "pencil"}) as (front,):
        with pooled([front], upstream_user="app", upstream_password="pencil", pool_max=1, deep_probe="no") as p, greeted(p, 1) as (c,):
            assert c.ask(LOOK, DB)["ok"]
            (link,) = [k for k in front.clients if k.user == "app"]
            begun = time.monotonic()
            link.user = None
            wait_for("a login anew", lambda: c.ask(LOOK, DB).get("code") != 13)
            assert time.monotonic() - begun < 10 * SLOW and [k.user for k in front.clients if k.metadata] == ["app"]


def test_a_wrong_checksum_does_not_reach_a_mongos(front):
    """It would close the connection, and five of these in a row would have it left out."""
    with pooled([front]) as p, greeted(p, 1) as (c,):
        assert c.ask(LOOK, DB, checksum=True)["ok"]
        known = len(front.commands("count"))
        message = wire.op_msg(dict(LOOK, **{"$db": DB}), 77, checksum=True)
        c.send_raw(message[:-1] + bytes([message[-1] ^ 1]))
        assert c.read().body["code"] == 17
        assert len(front.commands("count")) == known
        assert c.ask(LOOK, DB, checksum=True)["ok"]


def test_without_a_queue_a_pool_grows_all_the_same(front):
    """pool_queue bounds who waits for others; a request for which a connection can be dialled is not told that too many wait."""
    with pooled([front], pool_max=3, pool_queue=0) as p, greeted(p, 4) as clients:
        with holding(front) as fault:
            for n, c in enumerate(clients[:3], 1):
                c.send(WAIT, DB)
                wait_for("it to be there", lambda n=n: fault.held == n)
            answer = clients[3].ask(LOOK, DB)
            assert answer["code"] == 6 and "pool_queue" in answer["errmsg"], answer
        for c in clients[:3]:
            assert c.read().body["ok"]


def test_hash_password_takes_what_drivers_can_send():
    def hashed(line):
        return subprocess.run([harness.BINARY, "hash-password"], input=line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    for line, code, said in ((b"pencil\r\n", 0, b""), (b"pencil", 0, b""), (b"pen\tcil\n", 65, b"control character"), (b"pen\rcil\n", 65, b"control character"),
                             (b"\r\n", 65, b"no password"), ("l\u00e1piz\n".encode(), 0, b"not ASCII")):
        done = hashed(line)
        assert done.returncode == code and said in done.stderr and (said != b"" or not done.stderr), (line, done)
    keys = [dict(user="app " + hashed(line).stdout.decode().strip()) for line in (b"pencil\r\n",)]
    with mongo_harness.Ferret() as ferret, mongo_harness.fronts(ferret, 1) as (front,), pooled([front], **keys[0]) as p:
        with pymongo.MongoClient("127.0.0.1", p.port, username="app", password="pencil") as client:
            assert client.admin.command("ping")["ok"]


def test_those_who_wait_to_kill_cursors_are_not_all_tried_whenever_one_is_done(fronts):
    """What each costs does not grow with how many wait: the lookups of their cursors tell."""
    with pooled(fronts, process=dict(max_clients=300), counters=True, pool_wait="60s") as p, greeted(p, 250) as clients:
        for c in clients:
            c.send({"killCursors": "rows", "cursors": [Int64(1000 + i) for i in range(60)]}, DB)
        for c in clients:
            assert len(c.read(timeout=60).body["cursorsNotFound"]) == 60
        assert 250 * 60 <= p.counter("affinity_misses") <= 250 * 60 * 3


def test_monitors_are_heard_though_chunks_are_short(front, keys):
    """Drivers' monitors never log in: what is kept from a crowd of strangers must not be kept from them."""
    with pooled([front], process=TINY, pool_max=1, user="app " + keys) as p, greeted(p, 2) as monitors, contextlib.ExitStack() as stack:
        client = stack.enter_context(pymongo.MongoClient("127.0.0.1", p.port, username="app", password="pencil", maxPoolSize=60))
        client[DB].command(LOOK)
        with holding(front, "find"):
            threads = [threading.Thread(target=lambda: list(client[DB].none.find({"x": "y" * 9000})), daemon=True) for _ in range(45)]
            for t in threads:
                t.start()
            wait_for("them to wait", lambda: len(front.commands("find")) == 1)
            for _ in range(10):
                for m in monitors:
                    assert m.ask({"hello": 1}, timeout=5)["ok"]
        for t in threads:
            t.join(20 * SLOW)
