"""MongoDB mode before scripted mongos (tests/fake) over one FerretDB: start, hello, affinity, balance, health, load-balanced mode, limits, end.

    MongoClient (raw, mongo_harness.py) --> Puerta --> Front, Front, Front --> FerretDB
                                              `------> Tap, where every byte counts

What clients see when a mongos fails stands as a table in ARCHITECTURE.md, "MongoDB mode"; the tests of that table are named test_when_...
"""
import collections
import contextlib
import os
import random as randomness
import resource
import signal
import socket
import struct
import subprocess
import threading
import time

import bson
import pymongo
import pytest

import harness
import mongo_harness
from fake import wire
from harness import SLOW, wait_for
from mongo_harness import QUICK, MongoPuerta, Tap, before, closed

SECOND = b"\x04second id"  # a mark that no other test sends


def where(connection, fronts, **hello):
    """Which front that connection is at, by its hello."""
    answer = connection.hello(**hello)
    assert answer["ok"], answer
    return next(f for f in fronts if f.process_id == answer["topologyVersion"]["processId"])


def opened(client, collection="numbers", batch=2, count=10, **more):
    """Inserts and opens a cursor of which more is to come; its id."""
    answer = client.ask({"insert": collection, "documents": [{"n": i} for i in range(count)]}, db="puerta")
    assert answer["ok"] and answer["n"] == count, answer
    answer = client.ask(dict({"find": collection, "batchSize": batch}, **more), db="puerta")
    assert answer["ok"] and answer["cursor"]["id"], answer
    return answer["cursor"]["id"]


def more_of(client, cursor, collection="numbers", **more):
    return client.ask(dict({"getMore": bson.Int64(cursor), "collection": collection, "batchSize": 2}, **more), db="puerta")


# ------------------------------------------------------------------ start

def test_who_comes_before_the_first_hello_of_a_mongos_waits(front):
    front.freeze()
    with MongoPuerta([front], **dict(QUICK, probe_timeout="10s")) as p:
        with p.client() as c:
            c.send({"hello": 1})
            with pytest.raises(TimeoutError):
                c.read(timeout=0.3)
            front.thaw()
            assert c.read().body["msg"] == "isdbgrid"


def test_nobody_is_reachable():
    nobody = ["127.0.0.1:%d" % harness.free_port() for _ in range(2)]
    with MongoPuerta(nobody, **QUICK) as p:
        for address in nobody:
            p.wait_state(address, "down")
        with p.client() as c:
            answer = c.ask({"hello": 1})
            assert (answer["ok"], answer["code"], answer["codeName"]) == (0.0, 6, "HostUnreachable"), answer
            assert "down" in answer["errmsg"]
            assert closed(c)
        with p.client() as c:
            c.send_raw(wire.op_query({"isMaster": 1}, 77))
            answer = c.read()
            assert answer.opcode == wire.OP_REPLY and answer.response_to == 77 and answer.body["code"] == 6
            assert closed(c)


def test_a_mongos_that_comes_late_is_found(ferret):
    with mongo_harness.fronts(ferret, 1) as cluster:
        cluster[0].stop()
        with MongoPuerta(cluster.addresses, **QUICK) as p:
            p.wait_state(cluster[0], "down")
            cluster[0].start()
            p.wait_state(cluster[0], "up")
            with p.client() as c:
                assert c.hello()["ok"]


def test_names_as_well_as_numbers(front):
    with MongoPuerta(["localhost:%d" % front.port], **QUICK) as p, p.client() as c:
        assert c.hello()["msg"] == "isdbgrid"


def test_a_name_without_an_address_is_told_not_waited_for():
    with MongoPuerta(["no-such-host.invalid:27017"], **dict(QUICK, handshake_timeout="1s")) as p, p.client() as c:
        answer = c.ask({"hello": 1}, timeout=10)
        assert answer["code"] == 6


def test_from_a_file(front):
    conf = "[mongo main]\nlisten = 127.0.0.1:{port}\nmongos = {mongos}*5\nprobe_interval = 200ms\n"
    with MongoPuerta([front], conf=conf) as p, p.client() as c:
        assert c.hello()["ok"]


# ------------------------------------------------------------------ hello

def test_compression_is_taken_out_and_nothing_else(front):
    with Tap(front.address) as tap, MongoPuerta([tap.address], **QUICK) as p:
        for make in (wire.op_msg, wire.op_query):
            fields = {"hello": 1, "helloOk": True, "client": {"application": {"name": make.__name__}}, "compression": ["zlib", "snappy"],
                      "unknown": [1, {"compression": 2}], "$db": "admin"}
            with p.client() as c:
                c.send_raw(make(fields, 5))
                assert "compression" not in c.read().body
                del fields["compression"]
                asked = tap.of(make.__name__.encode())[0]
                assert asked == make(fields, 5)


def test_a_hello_without_compression_passes_with_its_checksum(front):
    with Tap(front.address) as tap, MongoPuerta([tap.address], **QUICK) as p, p.client() as c:
        data = wire.op_msg({"hello": 1, "client": {"application": {"name": "summed"}}, "$db": "admin"}, 9, checksum=True)
        c.send_raw(data)
        answer = c.read()
        assert answer.flags & wire.CHECKSUM_PRESENT
        assert tap.of(b"summed")[0] == data


def test_a_hello_whose_checksum_is_wrong_goes_nowhere(front):
    with before([front]) as p, p.client() as c:
        data = wire.op_msg({"hello": 1, "compression": ["zlib"], "$db": "admin"}, 9, checksum=True)
        c.send_raw(data[:-1] + bytes([data[-1] ^ 1]))
        assert closed(c)
        assert not any(len(s.body) > 4 and "compression" in s.body for s in front.seen)


def test_all_else_passes_byte_for_byte(front):
    """Both directions, however the bytes are cut: CRC, sequences before and behind the document, unknown high flag bits."""
    rows = [bson.encode({"_id": "exact %d" % i, "x": b"x" * 500}) for i in range(50)]
    insert = bson.encode({"insert": "exact", "ordered": False, "$db": "puerta"})
    packed = b"documents\0" + b"".join(rows)
    sequence = b"\1" + struct.pack("<i", len(packed) + 4) + packed
    first = wire.op_msg({"hello": 1, "client": {"application": {"name": "exactly"}}, "$db": "admin"}, 1)
    sequence_first = struct.pack("<iiiiI", 20 + len(sequence) + 1 + len(insert), 2, 0, wire.OP_MSG, 1 << 20) + sequence + b"\0" + insert
    find = wire.op_msg({"find": "exact", "$db": "puerta"}, 3, checksum=True)
    with Tap(front.address) as tap, MongoPuerta([tap.address], **QUICK) as p:
        for piece in (100000, 1000, 7):
            with p.client() as c:
                data = first + sequence_first + find
                for at in range(0, len(data), piece):
                    c.send_raw(data[at:at + piece])
                answers = [c.read() for _ in range(3)]
                assert answers[1].body["n"] in (0, 50) and len(answers[2].body["cursor"]["firstBatch"]) == 50
                assert [a.response_to for a in answers] == [1, 2, 3]
            assert bytes(tap.asked[-1]) == data or data in [bytes(a) for a in tap.asked]


def test_a_hello_in_single_bytes(front):
    with before([front]) as p, p.client() as c:
        for byte in wire.op_msg({"hello": 1, "client": {"application": {"name": "slow"}}, "compression": ["zlib"], "$db": "admin"}, 3):
            c.send_raw(bytes([byte]))
            time.sleep(0.0005)
        assert c.read().body["ok"]


def test_a_second_message_behind_hello(front):
    with before([front]) as p, p.client() as c:
        c.send_raw(wire.op_msg({"hello": 1, "compression": ["zlib"], "$db": "admin"}, 1) + wire.op_msg({"ping": 1, "$db": "admin"}, 2) +
                   wire.op_msg({"ping": 1, "$db": "admin"}, 3)[:20])
        assert [c.read().response_to for _ in range(2)] == [1, 2]
        c.send_raw(wire.op_msg({"ping": 1, "$db": "admin"}, 3)[20:])
        assert c.read().response_to == 3


@pytest.mark.parametrize("chunk", ["1k", "16k", "64k", "256k"])
def test_hellos_of_all_lengths(ferret, chunk):
    """The chunks of the pool set no limit but that of 64 KiB."""
    with mongo_harness.fronts(ferret, 1) as cluster, MongoPuerta(cluster, process={"chunk_size": chunk, "chunks": 256 if chunk != "1k" else 1024}, **QUICK) as p:
        for n in (10, 900, 3000, 20000, 60000):
            with p.client() as c:
                assert c.hello(app_name="a", compression=["zlib"], padding="x" * n)["ok"], n
        with p.client() as c:
            c.send({"hello": 1, "padding": "x" * 70000})
            answer = c.read()
            assert answer.body["code"] == 17 and "64 KiB" in answer.body["errmsg"]
            assert closed(c)


def test_a_later_hello_that_is_too_long(front):
    with before([front]) as p, p.client() as c:
        assert c.hello()["ok"]
        with contextlib.suppress(OSError):
            c.send({"hello": 1, "padding": "x" * 200000})
        assert closed(c)


BAD = {
    "compressed": (wire.compressed(wire.op_msg({"ping": 1, "$db": "admin"}, 4)), "compressed"),
    "length below a header's": (struct.pack("<iiii", 5, 4, 0, wire.OP_MSG) + b"x" * 20, "length"),
    "negative length": (struct.pack("<iiii", -1, 4, 0, wire.OP_MSG), "length"),
    "length above the limit": (struct.pack("<iiii", 48000001, 4, 0, wire.OP_MSG), "length"),
    "unknown opcode": (struct.pack("<iiii", 20, 4, 0, 1234) + b"xxxx", "opcode"),
    "removed opcode": (struct.pack("<iiii", 20, 4, 0, 2005) + b"xxxx", "opcode"),
    "unknown kind of section": (struct.pack("<iiiiI", 30, 4, 0, wire.OP_MSG, 0) + b"\7" + b"x" * 9, "section"),
    "unknown flag": (struct.pack("<iiiiI", 30, 4, 0, wire.OP_MSG, 4) + b"x" * 10, "flag"),
    "document beyond the message": (struct.pack("<iiiiI", 40, 4, 0, wire.OP_MSG, 0) + b"\0" + struct.pack("<i", 100) + b"x" * 15, "document"),
}


@pytest.mark.parametrize("what", sorted(BAD))
@pytest.mark.parametrize("when", ["first", "later", "behind a request"])
def test_what_is_no_message_is_told_and_closed(ferret, what, when):
    data, word = BAD[what]
    with mongo_harness.fronts(ferret, 1) as cluster, MongoPuerta(cluster, counters=True, **QUICK) as p:
        p.wait_state(cluster[0], "up")
        with p.client() as other, p.client() as c:
            assert other.hello()["ok"]
            if when != "first":
                assert c.hello()["ok"]
            if when == "behind a request":
                cluster[0].fault("ping", delay=0.2)
                c.send({"ping": 1})
            c.send_raw(data)
            if when == "behind a request":  # whose answer it would be, nobody could tell
                assert closed(c)
            else:
                answer = c.read()
                assert answer.response_to == 4 and answer.body["code"] == 17 and word in answer.body["errmsg"].lower(), answer.body
                assert closed(c)
            cluster[0].clear_faults()
            assert other.ask({"ping": 1})["ok"]
            assert p.counter("protocol_errors") == 1


def test_requests_without_an_answer(front):
    with before([front]) as p, p.client() as c:
        c.hello()
        for i in range(20):
            c.send({"insert": "quiet", "documents": [{"n": i}], "writeConcern": {"w": 0}}, db="puerta", flags=wire.MORE_TO_COME)
        assert c.ask({"count": "quiet"}, db="puerta")["n"] == 20


def test_hellos_that_wait_and_hellos_in_a_chain(front):
    with before([front]) as p, p.client() as c:
        version = c.hello()["topologyVersion"]
        c.send({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 60000})
        with pytest.raises(TimeoutError):
            c.read(timeout=0.2)
        front.change_topology()
        version = c.read().body["topologyVersion"]
        assert version["counter"] > 0
        asked = c.send({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 100}, flags=wire.EXHAUST_ALLOWED)
        for _ in range(5):
            answer = c.read()
            assert answer.response_to == asked and answer.flags & wire.MORE_TO_COME
            asked = answer.request_id


def test_a_cursor_in_a_chain(front):
    with before([front], drain_timeout="600s") as p, p.client() as c:
        c.hello()
        cursor = opened(c, "chain", batch=2, count=11)
        asked, got, more = c.send({"getMore": bson.Int64(cursor), "collection": "chain", "batchSize": 2}, db="puerta", flags=wire.EXHAUST_ALLOWED), 2, True
        while more:
            answer = c.read()
            assert answer.response_to == asked
            asked, more = answer.request_id, answer.flags & wire.MORE_TO_COME
            got += len(answer.body["cursor"]["nextBatch"])
        assert got == 11 and answer.body["cursor"]["id"] == 0
        front.quiesce(600000)  # nothing is open there any more
        assert closed(c)


def test_a_client_that_ends_its_side_gets_its_answer(front):
    with before([front]) as p, p.client() as c:
        c.hello()
        front.fault("ping", delay=0.2)
        c.send({"ping": 1})
        c.sock.shutdown(socket.SHUT_WR)
        assert c.read().body["ok"]
        assert closed(c)
        wait_for("the mongos to have lost it", lambda: len([x for x in front.clients if x.metadata]) == 0)


def test_a_client_that_leaves_takes_its_waiting_hello_along(front):
    """As without Puerta: the mongos hears at once that nobody waits any more."""
    with MongoPuerta([front], counters=True, **QUICK) as p:
        with p.client() as c:
            version = c.hello()["topologyVersion"]
            c.send({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 60000}, flags=wire.EXHAUST_ALLOWED)
            wait_for("the hello to wait", lambda: any("maxAwaitTimeMS" in h for x in front.clients if x.metadata for h in x.hellos))
        wait_for("the mongos to have lost it", lambda: not any(x.metadata for x in front.clients), timeout=5)
        wait_for("Puerta to have let it go", lambda: p.counter("clients_closed") >= 1)
        assert p.counter("upstream_lost") == 0  # which would count against the mongos


# --------------------------------------------------------------- affinity

def test_one_client_stays_at_one_mongos(fronts):
    with before(fronts) as p, contextlib.ExitStack() as all_of_them:
        places = []
        for i in range(12):
            c = all_of_them.enter_context(p.client())
            client = {"driver": {"name": "driver%d" % i, "version": str(i)}, "os": {"type": "Linux", "version": str(i)}, "platform": "p%d" % i,
                      "application": {"name": "one"}}
            places.append(where(c, fronts, client=client))
        assert len(set(places)) == 1
        with p.client() as c:  # a cursor of one connection is known on another
            c.hello(app_name="one")
            cursor = opened(c)
            with p.client() as other:
                other.hello(app_name="one")
                assert more_of(other, cursor)["ok"]


def test_os_type_tells_clients_apart(fronts):
    with before(fronts, balance="round-robin") as p, p.client() as a, p.client() as b:
        names = [{"application": {"name": "x"}, "os": {"type": t}} for t in ("Linux", "Darwin")]
        assert where(a, fronts, client=names[0]) != where(b, fronts, client=names[1])


@pytest.mark.parametrize("balance", ["least-connections", "random-two", "round-robin", "weighted"])
def test_many_applications_from_one_address_spread(fronts, balance):
    with before(fronts, balance=balance) as p, contextlib.ExitStack() as all_of_them:
        places = collections.Counter(where(all_of_them.enter_context(p.client()), fronts, app_name="app%d" % i) for i in range(300))
        at_least = {"least-connections": 98, "round-robin": 100, "random-two": 80, "weighted": 65}[balance]
        assert min(places[f] for f in fronts) >= at_least, places
        again = [where(all_of_them.enter_context(p.client()), fronts, app_name="app%d" % i) for i in range(20)]
        first = [f for i in range(20) for f in fronts if f.app_names()["app%d" % i]]
        assert again == first


def test_a_thousand_clients_of_ten_applications(fronts):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 6000:
        pytest.skip("the system gives this process %d descriptors" % hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (6000 if soft < 6000 else soft, hard))
    with before(fronts) as p, contextlib.ExitStack() as all_of_them:
        at = collections.defaultdict(set)
        for i in range(1000):
            app = "app%d" % (i % 10)
            at[app].add(where(all_of_them.enter_context(p.client()), fronts, app_name=app))
        assert [len(places) for places in at.values()] == [1] * 10
        counts = [sum(n for app, n in f.app_names().items() if app) for f in fronts]
        assert sum(counts) == 1000 and all(abs(n - 1000 / 3) <= 0.2 * 1000 / 3 + 1 for n in counts), counts


def test_by_source_address(fronts):
    with before(fronts, affinity="source") as p, contextlib.ExitStack() as all_of_them:
        assert len({where(all_of_them.enter_context(p.client()), fronts, app_name="a%d" % i) for i in range(9)}) == 1


def test_by_connection(fronts):
    with before(fronts, affinity="connection") as p, contextlib.ExitStack() as all_of_them:
        places = collections.Counter(where(all_of_them.enter_context(p.client()), fronts, app_name="same") for _ in range(9))
        assert sorted(places.values()) == [3, 3, 3]


def test_a_client_that_returns_finds_its_cursor(fronts):
    with before(fronts, balance="round-robin", affinity_grace="60s") as p:
        with p.client() as c:
            place = where(c, fronts, app_name="returns")
            cursor = opened(c)
        for i in range(4):  # others move the round robin on
            with p.client() as c:
                c.hello(app_name="other%d" % i)
        with p.client() as c:
            assert where(c, fronts, app_name="returns") is place
            assert more_of(c, cursor)["ok"]


def test_connections_by_themselves_leave_nothing_behind(fronts):
    """Nobody asks for one again once it has closed: many that come and go do not fill the table, nor push others out."""
    with before(fronts, counters=True, process={"max_affinities": 64}, affinity="connection") as p:
        with p.client() as stays:
            place = where(stays, fronts)
            for _ in range(200):
                with p.client() as c:
                    c.hello()
            assert stays.ask({"ping": 1})["ok"] == 1 and place
        assert p.counter("affinity_evictions") == 0 and p.counter("affinity_full") == 0


def test_after_its_grace_a_client_is_new(fronts):
    with before(fronts, balance="round-robin", affinity_grace="100ms") as p:
        def place():
            with p.client() as c:
                return where(c, fronts, app_name="returns")

        places = set()

        def seen_two():
            time.sleep(0.15)
            places.add(place())
            return len(places) > 1

        wait_for("the same client at another mongos", seen_two)


def test_a_full_table_of_clients_still_has_an_answer(fronts):
    """64 clients are known, all of them here; who comes then is told by a hash of what it is, the same each time."""
    with MongoPuerta(fronts, process={"max_affinities": 64}, **QUICK) as p, contextlib.ExitStack() as all_of_them:
        for f in fronts:
            p.wait_state(f, "up")
        for i in range(64):
            all_of_them.enter_context(p.client()).hello(app_name="known%d" % i)
        places = {}
        for turn in range(3):
            for i in range(20):
                c = all_of_them.enter_context(p.client())
                place = where(c, fronts, app_name="late%d" % i)
                assert places.setdefault(i, place) is place
                assert c.ask({"ping": 1})["ok"]
        assert len(set(places.values())) > 1


# ---------------------------------------------------------------- balance

@pytest.mark.parametrize("balance", ["least-connections", "weighted"])
def test_weights(fronts, balance):
    addresses = [a + "*%d" % w for a, w in zip(fronts.addresses, (1, 3, 6))]
    with MongoPuerta(addresses, balance=balance, **QUICK) as p, contextlib.ExitStack() as all_of_them:
        for f in fronts:
            p.wait_state(f, "up")
        places = collections.Counter(where(all_of_them.enter_context(p.client()), fronts, app_name="app%d" % i) for i in range(300))
        slack = 2 if balance == "least-connections" else 40
        for f, expected in zip(fronts, (30, 90, 180)):
            assert abs(places[f] - expected) <= slack, (places, expected)


def test_a_mongos_that_is_back_is_not_flooded(fronts):
    """slow_start: a tenth of its share at first. Those who are there stay where they are."""
    with before(fronts, slow_start="60s") as p, contextlib.ExitStack() as all_of_them:
        fronts[0].stop()
        p.wait_state(fronts[0], "down")
        for i in range(60):
            all_of_them.enter_context(p.client()).hello(app_name="before%d" % i)
        fronts[0].start()
        p.wait_state(fronts[0], "up", 2)
        places = collections.Counter(where(all_of_them.enter_context(p.client()), fronts, app_name="after%d" % i) for i in range(30))
        assert 1 <= places[fronts[0]] <= 8, places


def test_slow_start_comes_to_an_end(fronts):
    with before(fronts, slow_start="500ms") as p, contextlib.ExitStack() as all_of_them:
        fronts[0].stop()
        p.wait_state(fronts[0], "down")
        for i in range(20):
            all_of_them.enter_context(p.client()).hello(app_name="before%d" % i)
        fronts[0].start()
        p.wait_state(fronts[0], "up", 2)
        time.sleep(0.6)
        places = collections.Counter(where(all_of_them.enter_context(p.client()), fronts, app_name="after%d" % i) for i in range(10))
        assert places[fronts[0]] == 10, places


def broken(p, app_name):
    """One client whose mongos breaks its connection off in the middle of an answer."""
    with p.client() as c:
        if c.hello(app_name=app_name)["ok"]:
            c.send({"ping": 1})
            with contextlib.suppress(EOFError, OSError):
                c.read()


def test_a_mongos_that_breaks_off_is_left_out_for_a_while(fronts):
    with before(fronts, balance="round-robin", eject_after=3, eject_time="1s" if SLOW == 1 else "3s") as p:
        fronts[0].fault("ping", close=True)
        for i in range(12):
            broken(p, "b%d" % i)
        p.wait_log("a mongos is left out")
        for i in range(12):
            with p.client() as c:
                assert where(c, fronts, app_name="n%d" % i) is not fronts[0]
        fronts[0].clear_faults()
        turn = iter(range(100000))

        def is_back():
            with p.client() as c:
                return where(c, fronts, app_name="again%d" % next(turn)) is fronts[0]

        wait_for("it to get clients again", is_back)


def test_the_last_one_is_never_left_out(fronts):
    with before(fronts, balance="round-robin", eject_after=1, eject_time="60s") as p:
        for f in fronts:
            f.fault("ping", close=True)
        for i in range(20):
            broken(p, "b%d" % i)
        assert p.log_text().count("a mongos is left out") == 2
        with p.client() as c:
            assert c.hello(app_name="after")["ok"]


# ----------------------------------------------------------------- health

def test_when_a_mongos_dies(fronts):
    with before(fronts, balance="round-robin") as p, contextlib.ExitStack() as all_of_them:
        at = {}
        for i in range(6):
            c = all_of_them.enter_context(p.client())
            at.setdefault(where(c, fronts, app_name="a%d" % i), []).append(c)
        for f in fronts:
            f.fault("ping", silent=True) if f is fronts[0] else None
        at[fronts[0]][0].send({"ping": 1})
        wait_for("the ping to be there", lambda: fronts[0].commands("ping"))
        fronts[0].stop(reset=True)
        for c in at[fronts[0]]:
            assert closed(c)
        for f in fronts.fronts[1:]:
            for c in at[f]:
                assert c.ask({"ping": 1})["ok"]
        p.wait_state(fronts[0], "down")
        for i in range(6):
            with p.client() as c:
                assert where(c, fronts, app_name="a%d" % i) is not fronts[0]


def test_when_it_refuses_before_it_is_known_to_be_down_another_takes_the_client(fronts):
    with before(fronts, probe_interval="60s", fall=100, eject_after=0) as p:
        fronts[0].stop()
        for i in range(12):
            with p.client() as c:
                assert where(c, fronts, app_name="a%d" % i) is not fronts[0]


def test_a_client_is_not_parted_when_its_mongos_refuses_one_connection(fronts):
    """Its cursors are where its other connections are: at another mongos a new one could not read them on."""
    with contextlib.ExitStack() as all_of_them:
        taps = [all_of_them.enter_context(mongo_harness.Tap(f.address)) for f in fronts]
        p = all_of_them.enter_context(before([t.address for t in taps], probe_interval="60s", fall=100, eject_after=0))
        first = all_of_them.enter_context(p.client())
        place = where(first, fronts, app_name="one")
        cursor = opened(first, "together", count=6)
        tap = taps[list(fronts).index(place)]
        tap.refuse()
        with p.client() as refused:
            answer = refused.hello(app_name="one")
            assert answer["ok"] == 0 and answer["code"] == 6, answer
        with p.client() as other:  # nothing holds a client that is new
            assert where(other, fronts, app_name="two") is not None
        tap.listen()
        second = all_of_them.enter_context(p.client())
        assert where(second, fronts, app_name="one") is place
        assert more_of(second, cursor, "together")["ok"]


def test_when_a_mongos_shuts_down(fronts):
    """Idle clients are closed, those with a cursor stay until it ends, new ones go elsewhere."""
    with before(fronts, balance="round-robin", drain_timeout="60s") as p, contextlib.ExitStack() as all_of_them:
        at = {}
        for i in range(9):
            c = all_of_them.enter_context(p.client())
            at.setdefault(where(c, fronts, app_name="a%d" % i), []).append(c)
        idle, reads, asks = at[fronts[0]]
        cursor = opened(reads, "drained", count=6)
        fronts[0].fault("ping", delay=0.5 * SLOW)
        asks.send({"ping": 1})
        wait_for("the ping to be there", lambda: fronts[0].commands("ping"))
        fronts[0].quiesce(600000)
        p.wait_state(fronts[0], "draining")
        assert closed(idle)
        assert asks.read().body["ok"]
        assert closed(asks)
        for i in range(6):
            with p.client() as c:
                assert where(c, fronts, app_name="new%d" % i) is not fronts[0]
        got = 2
        while cursor:
            answer = more_of(reads, cursor, "drained")
            assert answer["ok"], answer
            got += len(answer["cursor"]["nextBatch"])
            cursor = answer["cursor"]["id"]
        assert got == 6
        assert closed(reads)


def test_when_it_shuts_down_within_a_transaction(fronts):
    with before(fronts, drain_timeout="60s") as p, p.client() as c:
        place = where(c, fronts, app_name="t")
        session = {"lsid": {"id": bson.Binary(os.urandom(16), 4)}, "txnNumber": bson.Int64(1), "autocommit": False}
        assert c.ask(dict({"insert": "t", "documents": [{"a": 1}], "startTransaction": True}, **session), db="puerta")["ok"]
        place.quiesce(600000)
        p.wait_state(place, "draining")
        assert c.ask(dict({"insert": "t", "documents": [{"a": 2}]}, **session), db="puerta")["ok"]
        with p.client() as other:  # of the same client: its mongos would refuse the hello of a new connection
            assert where(other, fronts, app_name="t") is not place
        assert c.ask(dict({"commitTransaction": 1}, **session))["ok"]
        assert closed(c)


def test_what_was_open_at_a_mongos_that_died_holds_nobody(fronts):
    with before(fronts, drain_timeout="600s") as p, p.client() as c:
        place = where(c, fronts, app_name="moves")
        opened(c, "died")
        place.stop(reset=True)
        p.wait_state(place, "down")
        with p.client() as other:  # the first one has not closed yet
            place = where(other, fronts, app_name="moves")
            place.quiesce(600000)
            p.wait_state(place, "draining")
            assert closed(other)


def test_a_cursor_that_is_killed_counts_once(fronts):
    """It is killed while a getMore is on its way, as drivers end a tailable one: the other cursor is open as before."""
    with before(fronts, drain_timeout="600s") as p, p.client() as c:
        place = where(c, fronts, app_name="kills")
        killed, kept = opened(c, "killed"), opened(c, "kept")
        assert c.ask({"killCursors": "killed", "cursors": [bson.Int64(killed)]}, db="puerta")["cursorsKilled"] == [killed]
        assert more_of(c, killed, "killed")["code"] == 43
        place.quiesce(600000)
        p.wait_state(place, "draining")
        assert more_of(c, kept, "kept")["ok"]
        assert c.ask({"killCursors": "kept", "cursors": [bson.Int64(kept)]}, db="puerta")["cursorsKilled"] == [kept]
        assert closed(c)


def test_a_transaction_that_cannot_be_aborted_is_over_too(fronts):
    """As after an error within it, which has ended it at its mongos already."""
    with before(fronts, drain_timeout="600s") as p, p.client() as c:
        place = where(c, fronts, app_name="aborts")
        lsid = bson.Binary(os.urandom(16), 4)
        for number in (1, 2):  # the first is left without a word: the second one of its session ends it
            session = {"lsid": {"id": lsid}, "txnNumber": bson.Int64(number), "autocommit": False}
            assert c.ask(dict({"insert": "t", "documents": [{"a": 1}], "startTransaction": True}, **session), db="puerta")["ok"]
        place.fault("abortTransaction", times=1, error={"code": 251, "errmsg": "it is not known"})
        assert c.ask(dict({"abortTransaction": 1}, **session))["code"] == 251
        place.quiesce(600000)
        assert closed(c)


def test_when_the_time_to_shut_down_is_over(fronts):
    with before(fronts, drain_timeout="300ms") as p, p.client() as c:
        place = where(c, fronts, app_name="late")
        opened(c)
        place.quiesce(600000)
        p.wait_state(place, "draining")
        assert closed(c)


def test_when_it_returns(fronts):
    with before(fronts, rise=2, balance="round-robin") as p:
        for returns in (lambda: fronts[0].recover(), lambda: (fronts[0].stop(), fronts[0].start())):
            before_it, drained = p.log_text().count("to=up"), p.log_text().count("to=draining")
            fronts[0].quiesce(600000)
            p.wait_state(fronts[0], "draining", drained + 1)
            returns()
            wait_for("it to be up", lambda: p.log_text().count("to=up") > before_it)
            places = set()
            for i in range(6):
                with p.client() as c:
                    places.add(where(c, fronts, app_name="r%d %d" % (before_it, i)))
            assert fronts[0] in places


def test_when_it_is_no_mongos(fronts):
    fronts[0].set(isdbgrid=False)
    with MongoPuerta(fronts, balance="round-robin", **QUICK) as p:
        p.wait_state(fronts[0], "mismatch")
        p.wait_state(fronts[1], "up")
        p.wait_state(fronts[2], "up")
        for i in range(6):
            with p.client() as c:
                assert where(c, fronts, app_name="a%d" % i) is not fronts[0]
        with p.client() as c:
            place = where(c, fronts, app_name="changes")
            place.set(isdbgrid=False)
            p.wait_state(place, "mismatch")
            assert closed(c)
        fronts.set(isdbgrid=False)
        for f in fronts:
            p.wait_state(f, "mismatch")
        with p.client() as c:
            answer = c.hello()
            assert answer["code"] == 6 and "no mongos" in answer["errmsg"] and "expect" in answer["errmsg"]


def test_expect_any(ferret, front):
    front.set(isdbgrid=False)
    with MongoPuerta([front, ferret.address], expect="any", balance="round-robin", **QUICK) as p:
        p.wait_state(front, "up")
        p.wait_state(ferret.address, "up")
        for i in range(2):
            with p.client() as c:
                assert c.hello(app_name="a%d" % i)["ok"] and c.ask({"ping": 1})["ok"]


def test_when_it_hangs(fronts):
    """Its clients are closed once its hellos have gone unanswered (probe_timeout, fall); new ones are elsewhere by then."""
    with before(fronts) as p, p.client() as c:
        place = where(c, fronts, app_name="hung")
        place.freeze()
        c.send({"ping": 1})
        assert closed(c)
        p.wait_state(place, "down")
        with p.client() as again:
            assert where(again, [f for f in fronts if f is not place], app_name="hung")
        place.thaw()
        p.wait_state(place, "up", 2)


def test_when_it_does_not_reach_its_config_servers(fronts):
    """deep_probe: hello alone would not tell. One that wants a login cannot be asked, and is taken at its hello."""
    for front, code in zip(fronts, (None, 13, 8000)):
        if code:
            front.fault("listDatabases", error={"code": code, "errmsg": "no"})
    with MongoPuerta(list(fronts), **dict(QUICK, deep_probe="yes")) as p:
        p.wait_state(fronts[2], "down")
        p.wait_state(fronts[0], "up")
        p.wait_state(fronts[1], "up")
        for i in range(12):
            with p.client() as c:
                assert where(c, fronts[:2], app_name="deep%d" % i)
        fronts[2].clear_faults()
        p.wait_state(fronts[2], "up")
        fronts[0].fault("listDatabases", silent=True)
        p.wait_state(fronts[0], "down")
    assert fronts[1].commands("listDatabases") and fronts[0].commands("listDatabases")


def test_when_it_answers_slowly(fronts):
    """Slowness of answers is the client's to judge; a slow hello alone says nothing as long as it comes within probe_timeout."""
    with before(fronts) as p, p.client() as c:
        place = where(c, fronts, app_name="slow")
        place.fault("hello", delay=0.2)
        place.fault("ping", delay=1.5 * SLOW)
        assert c.ask({"ping": 1})["ok"]
        assert "to=down" not in p.log_text()


def test_when_a_mongos_shuts_down_a_driver_that_retries_sees_nothing(fronts):
    with before(fronts, drain_timeout="60s") as p, pymongo.MongoClient(p.uri("appName=retries&serverSelectionTimeoutMS=10000")) as driver:
        numbers = driver.puerta.retries
        numbers.insert_many([{"_id": i} for i in range(500)])
        failed, read = [], [0]
        over = threading.Event()

        def ask():
            while not over.is_set():
                try:
                    assert len(list(numbers.find({"_id": read[0] % 500}))) == 1
                    numbers.update_one({"_id": read[0] % 500}, {"$set": {"x": read[0]}})
                    read[0] += 1
                except pymongo.errors.PyMongoError as e:
                    failed.append(repr(e)[:300])

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
        for t in threads:
            t.start()
        wait_for("the driver to be at work", lambda: read[0] > 50)
        place = next(f for f in fronts if f.app_names()["retries"])
        place.quiesce(600000)
        wait_for("the driver to be gone from there", lambda: not place.app_names()["retries"])
        reached = read[0]
        wait_for("the driver to be at work elsewhere", lambda: read[0] > reached + 50)
        over.set()
        for t in threads:
            t.join(20)
        assert not failed, failed[:5]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_when_a_real_server_dies_or_hangs(how):
    with mongo_harness.Ferret() as server, MongoPuerta([server.address], expect="any", **QUICK) as p:
        p.wait_state(server.address, "up")
        with p.client() as c:
            assert c.hello()["ok"] and c.ask({"ping": 1})["ok"]
            try:
                server.process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
                if how == "stop":
                    wait_for("it to have stopped", lambda: "T" in subprocess.check_output(["ps", "-o", "state=", "-p", str(server.process.pid)]).decode())
                    c.send({"ping": 1})
                assert closed(c)
                p.wait_state(server.address, "down")
                with p.client() as again:
                    assert again.hello()["code"] == 6
            finally:
                server.process.send_signal(signal.SIGCONT)
        if how == "stop":
            p.wait_state(server.address, "up", 2)
            with p.client() as again:
                assert again.hello()["ok"]


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 40, struct.pack("<iiii", 30, 1, 1, 2012) + b"x" * 14],
                         ids=["text", "zeros", "compressed"])
def test_when_it_sends_garbage(fronts, garbage):
    with before(fronts) as p, p.client() as c:
        place = where(c, fronts, app_name="g")
        fault = place.fault("ping", raw=garbage)
        c.send({"ping": 1})
        assert closed(c)
        p.wait_log("a mongos sends what is no message")
        fault.clear()
        place.fault("hello", raw=garbage)
        p.wait_state(place, "down")
        with p.client() as other:
            assert where(other, fronts, app_name="g") is not place


@pytest.mark.parametrize("then", ["close", "reset"])
def test_when_it_goes_away_in_the_middle_of_an_answer(fronts, then):
    with before(fronts) as p, p.client() as c:
        place = where(c, fronts, app_name="cut")
        place.fault("find", cut=100, then=then)
        c.ask({"insert": "cut", "documents": [{"x": "y" * 1000}]}, db="puerta")
        c.send({"find": "cut"}, db="puerta")
        c.sock.settimeout(20 * SLOW)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while True:
                data = c.sock.recv(4096)
                if not data:
                    break
                got += data
        assert len(got) == 100 if then == "close" else len(got) <= 100
        with p.client() as other:
            assert other.hello(app_name="cut")["ok"]


def test_when_it_stops_in_the_middle_of_an_answer(fronts):
    """Nobody can tell that from a slow one: it is the client's deadline that ends it. Others see nothing of it."""
    with before(fronts) as p, p.client() as c, p.client() as other:
        place = where(c, fronts, app_name="half")
        assert where(other, fronts, app_name="half") is place
        place.fault("find", times=1, cut=30, then="pause")
        c.send({"find": "half"}, db="puerta")
        with pytest.raises(TimeoutError):
            c.read(timeout=0.5)
        assert other.ask({"find": "half"}, db="puerta")["ok"]


def test_when_it_speaks_out_of_turn(fronts):
    """A message that nobody asked for passes: it is the driver's to judge. On Puerta's own connections it ends them."""
    with before(fronts) as p, p.client() as c:
        place = where(c, fronts, app_name="turn")
        message = wire.op_msg({"ok": 1.0, "unasked": True}, 99, 12345)
        mine = next(x for x in place.clients if x.app_name == "turn")
        place.cluster.call(lambda: mine.writer.write(message))
        assert c.read().body["unasked"]
        assert c.ask({"ping": 1})["ok"]
        others = [x for x in place.clients if x.app_name is None]
        assert others
        place.cluster.call(lambda: [x.writer.write(message) for x in others])
        for x in others:
            wait_for("Puerta to close it", lambda: not x.is_open)
        assert c.ask({"ping": 1})["ok"]


def test_a_server_that_does_not_let_a_hello_wait_is_not_asked_without_end(front):
    front.fault("hello", header={})  # answered at once
    with MongoPuerta([front], **dict(QUICK, probe_interval="10s")) as p:
        p.wait_state(front, "up")
        front.set(topology_versions=True)
        begun = len(front.commands("hello"))
        for _ in range(20):
            front.change_topology()
            time.sleep(0.05)
        assert len(front.commands("hello")) - begun < 15


# ------------------------------------------------------------ loadbalanced

def test_load_balanced_mode(fronts):
    with before(fronts, mode="loadbalanced") as p, contextlib.ExitStack() as all_of_them:
        ids = collections.defaultdict(set)
        for _ in range(9):
            c = all_of_them.enter_context(p.client())
            answer = c.hello(app_name="same", loadBalanced=True)
            assert answer["ok"], answer
            ids[bytes(answer["topologyVersion"]["processId"].binary)].add(answer["serviceId"].binary)
            assert c.ask({"ping": 1})["ok"]
        assert [len(v) for v in ids.values()] == [1, 1, 1] and len(set.union(*ids.values())) == 3
        assert not any("loadBalanced" in s.body for f in fronts for s in f.seen)
        with p.client() as c:  # as old drivers begin
            c.send_raw(wire.op_query({"isMaster": 1, "loadBalanced": True, "compression": ["zlib"]}, 7))
            answer = c.read()
            assert answer.response_to == 7 and answer.body["serviceId"].binary in set.union(*ids.values())
        with p.client() as c:
            answer = c.ask({"hello": 1, "loadBalanced": True}, checksum=True)
            assert answer["ok"] and answer["serviceId"]


def test_the_service_id_stays(fronts):
    seen = []
    for _ in range(2):
        with before(fronts, mode="loadbalanced", balance="round-robin") as p:
            ids = {}
            for _ in range(3):
                with p.client() as c:
                    answer = c.hello(loadBalanced=True)
                    ids[answer["topologyVersion"]["processId"]] = answer["serviceId"]
            seen.append(ids)
    assert seen[0] == seen[1] and len(seen[0]) == 3


def test_a_driver_without_load_balancing_is_told(front):
    with before([front], mode="loadbalanced") as p:
        for data in (wire.op_msg({"hello": 1, "$db": "admin"}, 3), wire.op_query({"isMaster": 1}, 3),
                     wire.op_msg({"hello": 1, "loadBalanced": False, "$db": "admin"}, 3)):
            with p.client() as c:
                c.send_raw(data)
                answer = c.read()
                assert answer.response_to == 3 and answer.body["code"] == 354 and "loadBalanced=true" in answer.body["errmsg"]
                assert closed(c)


def test_a_driver_with_load_balancing_is_told(front):
    with before([front]) as p, p.client() as c:
        answer = c.hello(loadBalanced=True)
        assert answer["code"] == 354 and "mode = loadbalanced" in answer["errmsg"]
        assert closed(c)


def test_proxy_headers(ferret):
    with mongo_harness.fronts(ferret, 2, load_balancer=True) as cluster:
        with MongoPuerta(cluster.load_balancer_addresses, mode="loadbalanced", upstream_proxy="v2", **QUICK) as p:
            for address in cluster.load_balancer_addresses:
                p.wait_state(address, "up")
            with p.client() as c, p.client() as d:
                answers = [x.hello(app_name="proxied", loadBalanced=True) for x in (c, d)]
                assert {a["serviceId"] for a in answers} == {f.service_id for f in cluster}
                for x in (c, d):
                    assert x.ask({"ping": 1})["ok"]
                local = {x.sock.getsockname()[1] for x in (c, d)}
                seen = [x for f in cluster for x in f.clients if x.app_name == "proxied"]
                assert {x.proxy[1] for x in seen} == local
                assert all(x.proxy[0] == x.proxy[2] == "127.0.0.1" and x.proxy[3] == p.port for x in seen)
                assert all(x.proxy == () for f in cluster for x in f.clients if x.app_name is None)  # Puerta's own


def test_proxy_header_of_ipv6(ferret):
    if not os.path.exists("/proc/net/if_inet6") or not harness.read_file("/proc/net/if_inet6").strip():
        pytest.skip("this system has no IPv6")
    with mongo_harness.fronts(ferret, 1, load_balancer=True) as cluster:
        with MongoPuerta(cluster.load_balancer_addresses, wait=False, listen="[::1]", mode="loadbalanced", upstream_proxy="v2", **QUICK) as p:
            p.wait_state(cluster.load_balancer_addresses[0], "up")
            s = socket.create_connection(("::1", p.port), 5)
            with s:
                s.sendall(wire.op_msg({"hello": 1, "loadBalanced": True, "client": {"application": {"name": "six"}}, "$db": "admin"}, 1))
                s.settimeout(10)
                assert s.recv(10)
                client = next(x for x in cluster[0].clients if x.app_name == "six")
                assert client.proxy == ("::1", s.getsockname()[1], "::1", p.port)


# ------------------------------------------------------------------ limits

def test_a_full_table_of_connections(fronts):
    with MongoPuerta(fronts, process={"max_clients": 20}, counters=True, **QUICK) as p:
        p.wait_state(fronts[0], "up")
        kept = []
        try:
            while len(kept) < 20:
                c = p.client()
                kept.append(c)
                try:
                    assert c.hello(app_name="n%d" % len(kept))["ok"]
                except (EOFError, OSError):
                    kept.pop().close()
                    break
            assert len(kept) >= 19  # INFO's connection is one of them
            for _ in range(3):
                with p.client() as c:
                    with contextlib.suppress(OSError):
                        c.send({"hello": 1})
                    assert closed(c)
            assert all(c.ask({"ping": 1})["ok"] for c in kept)
            kept.pop().close()

            def counted():
                with contextlib.suppress(harness.RespError, EOFError, OSError):  # as long as the table is full
                    return p.counter("clients_refused") >= 3
            wait_for("the refused to be counted", counted)

            def fits():
                with p.client() as c, contextlib.suppress(EOFError, OSError):
                    return c.hello()["ok"]
            wait_for("room again", fits)
        finally:
            for c in kept:
                c.close()


def test_a_client_that_says_nothing(front):
    with before([front], handshake_timeout="300ms") as p:
        with p.client() as c:
            assert closed(c)
        with p.client() as c:
            c.send_raw(wire.op_msg({"hello": 1, "$db": "admin"}, 1)[:30])
            assert closed(c)
        with p.client() as c:
            c.hello()
            time.sleep(0.5)
            assert c.ask({"ping": 1})["ok"]


def test_fewer_descriptors_than_clients(front):
    """Of those left half go to clients: each needs another to its mongos."""
    with MongoPuerta([front], nofile=400, process={"max_clients": 1000, "max_backends": 16, "max_leases": 4, "max_blocked": 0,
                                                   "max_watching": 0, "max_own": 0}, **QUICK) as p, contextlib.ExitStack() as all_of_them:
        p.wait_state(front, "up")
        p.wait_log("fewer descriptors than max_clients needs")
        for i in range(100):
            assert all_of_them.enter_context(p.client()).hello()["ok"]


def test_idle_clients(front):
    with before([front], client_idle="500ms") as p, p.client() as c:
        c.hello()
        front.fault("ping", delay=1.0)
        assert c.ask({"ping": 1})["ok"]  # who waits for an answer is not idle
        assert closed(c)


@pytest.mark.skipif(not os.path.exists("/proc/self/fdinfo"), reason="what the kernel's queue holds is seen in /proc")
def test_idle_connections_are_not_polled_on_either_side(front):
    with before([front]) as p, contextlib.ExitStack() as all_of_them:
        clients = [all_of_them.enter_context(p.client()) for _ in range(100)]
        for c in clients:
            c.hello()
        folder = "/proc/%d/fdinfo/" % p.worker()

        def queued():
            clients[0].ask({"ping": 1})  # each turn of the loop looks at some
            return sum(harness.read_file(folder + fd).count("tfd:") for fd in os.listdir(folder))

        wait_for("more than the clients' sides to be in the kernel's queue", lambda: queued() > 110)


def test_who_waits_for_a_change_is_not_idle(front):
    """A driver that loses its monitor's connection empties its pool."""
    with before([front], client_idle="300ms") as p, p.client() as c, p.client() as idle:
        idle.hello()
        version = c.hello()["topologyVersion"]
        c.send({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 1000 * SLOW})
        assert closed(idle)
        assert c.read().body["ok"]


SMALL_POOL = {"chunk_size": "16k", "chunks": 64}
LARGE = 47900000  # with its header, its command and the other fields just below 48,000,000


def large_insert(request_id, bytes_of_it=48000000):
    """An insert of exactly so many bytes, as a sequence of documents below 16 MiB."""
    parts = []
    empty = len(wire.op_msg({"insert": "large", "$db": "puerta"}, request_id, sequences=[("documents", [])]))
    left = bytes_of_it - empty
    base = len(bson.encode({"_id": 0, "x": b""}))
    while left:
        n = min(left, 16000000)
        n = n if left - n == 0 or left - n > base else n - 100
        parts.append(bson.encode({"_id": len(parts), "x": b"x" * (n - base)}))
        left -= n
    data = wire.op_msg({"insert": "large", "$db": "puerta"}, request_id, sequences=[("documents", parts)])
    assert len(data) == bytes_of_it
    return data


class Sink:
    """A mongos that counts what is asked and answers `pull` with as many bytes as it was told: FerretDB takes no such messages."""

    def __init__(self, front):
        self.front = front
        front.set(keep_seen=False)
        front._do_insert = self._insert
        front._do_pull = self._pull
        self.inserted = 0

    async def _insert(self, _client, _body):
        self.inserted += 1
        return {"n": 1, "ok": 1.0}

    @staticmethod
    async def _pull(_client, body):
        return {"x": b"y" * body["pull"], "ok": 1.0}


@pytest.mark.parametrize("pool", [SMALL_POOL, {"chunk_size": "1k", "chunks": 1024}], ids=["16k", "1k"])
def test_48_million_bytes_both_ways_through_one_mebibyte(front, pool):
    sink = Sink(front)
    front.set(cluster_time=False)
    with MongoPuerta([front], process=pool, **QUICK) as p, p.client() as c, p.client() as other:
        p.wait_state(front, "up")
        c.hello(app_name="large")
        other.hello(app_name="small")
        c.ask({"pull": 10})
        resident = p.resident()
        data = large_insert(1000)
        c.send_raw(data)
        assert c.read(timeout=60).body["ok"] and sink.inserted == 1
        over = len(wire.op_msg({"x": b"", "ok": 1.0}))
        c.send({"pull": 48000000 - over})
        head = c._exactly(4, time.monotonic() + 60)
        assert struct.unpack("<i", head)[0] == 48000000
        left = 48000000 - 4
        c.sock.settimeout(60)
        while left:
            n = len(c.sock.recv(min(left, 1 << 20)))
            assert n
            left -= n
        assert other.ask({"ping": 1})["ok"]
        assert p.resident() - resident < 8 << 20


def test_a_slow_reader_disturbs_nobody(front):
    """One reads 1 KB/s of a long answer, one not at all (client_stall), a mongos' other clients go on."""
    Sink(front)
    # What the system's buffers hold is not seen to move before a third of it has gone: small ones show a slow reader's progress.
    with MongoPuerta([front], process=SMALL_POOL, client_stall="8s", client_window="64k", send_buffer="4k", **QUICK) as p:
        p.wait_state(front, "up")
        with p.client(rcvbuf=4096) as slow, p.client(rcvbuf=4096) as dead, p.client() as other:
            for c in (slow, dead, other):
                c.hello()
            slow.send({"pull": 20000000})
            dead.send({"pull": 20000000})
            until, worst = time.monotonic() + 30 * SLOW, 0
            while "client_stall" not in p.log_text():
                assert time.monotonic() < until
                begun = time.monotonic()
                assert len(other.ask({"pull": 50000})["x"]) == 50000
                worst = max(worst, time.monotonic() - begun)
                slow.sock.recv(100)
                time.sleep(0.1)
            assert worst < 1.5 * SLOW, worst
            assert p.log_text().count("client_stall") == 1  # the slow one reads


def test_a_mongos_that_reads_slowly_holds_up_its_client_only(fronts):
    Sink(fronts[0])
    with MongoPuerta(fronts, process=SMALL_POOL, balance="round-robin", client_window="64k", **QUICK) as p, contextlib.ExitStack() as all_of_them:
        for f in fronts:
            p.wait_state(f, "up")
        at = {}
        for i in range(3):
            c = all_of_them.enter_context(p.client())
            at[where(c, fronts, app_name="a%d" % i)] = c
        fronts[0].set(read_rate=200000)
        writer = at[fronts[0]]
        data = large_insert(5, 600000)
        writer.sock.sendall(data[:300000])
        for _ in range(50):
            assert at[fronts[1]].ask({"ping": 1})["ok"]
        writer.sock.sendall(data[300000:])
        assert writer.read(timeout=30).body["ok"]


def test_the_pool_given_back_by_who_holds_most(front):
    """Clients that do not read fill the pool: the others starve for two seconds, then those are closed."""
    Sink(front)
    with MongoPuerta([front], process=SMALL_POOL, client_stall="600s", client_window="1m", **QUICK) as p:
        p.wait_state(front, "up")
        with contextlib.ExitStack() as all_of_them:
            for i in range(4):
                c = all_of_them.enter_context(p.client(rcvbuf=4096))
                c.hello(app_name="greedy%d" % i)
                c.send({"pull": 20000000})
            p.wait_log("no chunks left", timeout=30)

            def served():
                with p.client(timeout=5) as c, contextlib.suppress(EOFError, OSError):
                    return c.hello(app_name="modest")["ok"] and c.ask({"ping": 1})["ok"]
            wait_for("another to be served", served, timeout=30)


def test_clients_that_ask_nothing_hold_no_chunks(front):
    with MongoPuerta([front], process=dict(SMALL_POOL, chunks=128), counters=True, **QUICK) as p, contextlib.ExitStack() as all_of_them:
        p.wait_state(front, "up")
        clients = [all_of_them.enter_context(p.client()) for _ in range(150)]
        for turn in range(2):
            for c in clients:
                assert c.hello()["ok"] if turn == 0 else c.ask({"ping": 1})["ok"]
        assert p.counter("free_chunks") > 110
        for c in clients[:40]:  # the beginning of a message of which nobody can tell yet what it is: one chunk each
            c.send_raw(wire.op_msg({"ping": 1, "$db": "admin"}, 1)[:20])
        wait_for("it to have come", lambda: p.counter("free_chunks") <= 90)
        time.sleep(0.2)  # for what is not to be taken
        assert p.counter("free_chunks") > 70


# -------------------------------------------------------- all of it at once

class Rough:
    """A client that does what comes to its mind; what it gets must be an answer to what it asked, or a close."""

    def __init__(self, p, random, more):
        self.p, self.random, self.more = p, random, more
        self.answers = self.ends = self.wrong = 0
        self.saw = []

    def run(self, until):
        while time.monotonic() < until:
            try:
                with self.p.client(timeout=20, rcvbuf=self.random.choice((None, None, 8192))) as c:
                    self._session(c, until)
            except (TimeoutError, wire.Malformed, AssertionError, KeyError) as e:
                self.wrong += 1
                self.saw.append(repr(e)[:300])
            except (OSError, EOFError):
                self.ends += 1

    def _session(self, c, until):
        r = self.random
        if r.random() < 0.05:
            return c.send_raw(os.urandom(r.randrange(1, 100)))
        hello = c.hello(app_name="rough%d" % r.randrange(6), compression=["zlib"], **self.more)
        if not hello["ok"]:
            return None
        for _ in range(r.randrange(1, 20)):
            if time.monotonic() > until:
                return None
            what = r.randrange(10)
            if what < 4:
                token = r.randrange(1 << 30)
                answer = c.ask({"echo": token, "size": r.choice((10, 1000, 100000, 700000))})
                assert not answer["ok"] or answer["token"] == token, answer
            elif what < 6:
                token = r.randrange(1 << 30)
                data = wire.op_msg({"echo": token, "size": 10, "padding": b"z" * r.choice((10, 5000, 400000)), "$db": "admin"}, token)
                half = r.randrange(1, len(data))
                c.send_raw(data[:half])
                c.send_raw(data[half:])
                answer = c.read()
                assert answer.response_to == token
            elif what == 6:
                c.send({"hello": 1, "topologyVersion": hello["topologyVersion"], "maxAwaitTimeMS": 50}, flags=wire.EXHAUST_ALLOWED)
                for _ in range(3):
                    c.read()
                return None
            elif what == 7:
                c.send({"echo": 1, "size": 2000000})
                c.sock.recv(10)
                return None  # leaves in the middle of it
            elif what == 8:
                c.send({"echo": 5, "size": 100})
                c.sock.shutdown(socket.SHUT_WR)
                while c.sock.recv(65536):
                    pass
                return None
            else:
                c.send_raw(wire.op_msg({"echo": 7, "size": 10, "$db": "admin"}, 3)[:r.randrange(1, 40)])
                return None
            self.answers += 1
        return None


def disturb(random, fronts):
    """One thing goes wrong with one mongos, or is well again."""
    f = random.choice(list(fronts))
    what = random.randrange(9)
    if what == 0:
        f.stop(reset=random.random() < 0.5)
        f.start()
    elif what == 1:
        f.drop_clients(reset=random.random() < 0.5)
    elif what == 2:
        f.quiesce(600000)
        time.sleep(0.1)
        f.recover()
    elif what == 3:
        f.freeze()
        time.sleep(random.choice((0.05, 0.3)))
        f.thaw()
    elif what == 4:
        f.fault("echo", times=2, cut=random.randrange(1, 100), then=random.choice(("close", "reset")))
    elif what == 5:
        f.fault(None, times=2, raw=os.urandom(40))
    elif what == 6:
        f.set(isdbgrid=False)
        time.sleep(0.3)
        f.set(isdbgrid=True)
    elif what == 7:
        f.change_topology()
    else:
        f.fault("echo", times=1, pieces=5000, pause=0.001)


@pytest.mark.parametrize("options", [{}, {"affinity": "connection", "balance": "round-robin", "eject_after": 2, "eject_time": "200ms"},
                                     {"mode": "loadbalanced"}],
                         ids=["defaults", "connections", "loadbalanced"])
def test_all_that_can_happen_at_once(fronts, options):
    """For some seconds clients and mongos do what they should not; then all must be well, and the log without a complaint (see stop)."""
    async def echo(_client, body):
        return {"token": body["echo"], "x": b"e" * body["size"], "ok": 1.0}

    for f in fronts:
        f.set(keep_seen=False)
        f._do_echo = echo
    seed, lasts = (randomness.randrange(1 << 30), 60) if harness.LONG else (4711, 8)
    random = randomness.Random(seed)
    more = {"loadBalanced": True} if options.get("mode") == "loadbalanced" else {}
    print("seed", seed)
    with MongoPuerta(fronts, process={"chunk_size": "16k", "chunks": 128}, counters=True, **dict(QUICK, **options)) as p:
        for f in fronts:
            p.wait_state(f, "up")
        begun = time.monotonic()
        clients = [Rough(p, randomness.Random(seed + i), more) for i in range(12)]
        threads = [threading.Thread(target=c.run, args=(begun + lasts,), daemon=True) for c in clients]
        for t in threads:
            t.start()
        while time.monotonic() < begun + lasts:
            disturb(random, fronts)
            time.sleep(0.1)
        for t in threads:
            t.join(40 * SLOW)
            assert not t.is_alive()
        print("ended after", time.monotonic() - begun)
        assert sum(c.wrong for c in clients) == 0, [s for c in clients for s in c.saw][:10]
        assert sum(c.answers for c in clients) > 100
        for f in fronts:
            f.clear_faults()

        def well():
            with contextlib.suppress(EOFError, OSError):
                for i in range(9):
                    with p.client(timeout=5) as c:
                        if not c.hello(app_name="well%d" % i, **more)["ok"] or c.ask({"echo": i, "size": 100000})["token"] != i:
                            return False
                return True
        wait_for("all to be well again", well)
        print("well after", time.monotonic() - begun)
        wait_for("all chunks to be free again", lambda: p.counter("free_chunks") > 120)


# ------------------------------------------------------------------ its end

def test_sigterm(fronts):
    with before(fronts) as p, contextlib.ExitStack() as all_of_them:
        idle, waits, asks, greets, late = [all_of_them.enter_context(p.client()) for _ in range(5)]
        for c in (idle, waits, asks, greets):
            version = c.hello(app_name="a")["topologyVersion"]
        for f in fronts:
            f.fault("ping", delay=0.7 * SLOW)
            f.fault("hello", delay=0.7 * SLOW, app_name="a")
        waits.send({"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 60000})
        greets.send({"hello": 1})
        asks.send({"ping": 1})
        wait_for("the ping to be there", lambda: any(f.commands("ping") for f in fronts))
        wait_for("the hellos to be there", lambda: sum(x.app_name == "a" and len(x.hellos) == 2 for f in fronts for x in f.clients) == 2)
        begun = time.monotonic()
        p.terminate()
        assert closed(idle) and closed(waits) and closed(late)
        assert time.monotonic() - begun < 0.6 * SLOW
        for c in (greets, asks):
            assert c.read().body["ok"]
            assert closed(c)
        p.process.wait(10 * SLOW)


def test_sigterm_behind_a_request_without_an_answer(front):
    with mongo_harness.Tap(front.address) as tap, MongoPuerta([tap.address], process={"stop_timeout": "60s"}, **QUICK) as p, p.client() as c:
        p.wait_state(tap.address, "up")
        c.hello()
        message = wire.op_msg({"insert": "quiet", "documents": [{"n": 1}], "$db": "puerta"}, 7, flags=wire.MORE_TO_COME)
        c.send_raw(message[:-10])
        wait_for("the first part to be there", lambda: any(b"documents" in asked for asked in tap.asked))
        p.terminate()
        p.wait_log('msg="?stopping')
        c.send_raw(message[-10:])
        assert closed(c)


def test_sigterm_ends_what_does_not_end(front):
    with MongoPuerta([front], process={"stop_timeout": "500ms"}, **QUICK) as p, p.client() as c:
        p.wait_state(front, "up")
        c.hello()
        front.fault("ping", silent=True)
        c.send({"ping": 1})
        wait_for("the ping to be there", lambda: front.commands("ping"))
        p.terminate()
        assert closed(c, timeout=5)


def test_both_modes_in_one_process(front):
    with MongoPuerta([front], counters=True, **QUICK) as p, p.client() as c:
        assert c.hello()["ok"]
        assert p.counter("requests") >= 1
