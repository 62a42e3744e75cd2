"""MongoDB's pooled mode: the connections to each mongos, who has one and who waits for one.

    clients, many --> Puerta --> at most pool_max connections --> Front

A command that a front holds (Front.fault(hold=True)) keeps its connection lent until the test lets it go; that a request has come to Puerta
is known when somebody else's hello, sent behind it, is answered (heard). The rest of that mode: tests/test_mongo_pooled.py.
"""
import contextlib
import threading
import time

import bson
import pytest

from fake import wire
from harness import SLOW, wait_for
from mongo_harness import Session, closed
from test_mongo_pooled import DB, LOOK, SMALL, Sink, at, error_of, filled, greeted, more_of, pooled, with_first_sequence

WAIT = {"distinct": "x", "key": "y"}
PROBES = 2  # connections to each mongos that are no client's: the probe and the watcher


def heard(client):
    """All that was sent before has come to Puerta: it answers hello itself, in the order in which it hears."""
    for _ in range(2):
        assert client.ask({"hello": 1})["ok"]


@contextlib.contextmanager
def holding(front, name="distinct"):
    """That command is held there."""
    fault = front.fault(name, hold=True)
    try:
        yield fault
    finally:
        fault.clear()


def lend_all(front, fault, clients):
    """Each of these clients has a connection lent."""
    for n, c in enumerate(clients, 1):
        c.send(WAIT, DB)
        wait_for("its request to be there", lambda n=n: fault.held == n)


# ------------------------------------------------------------------- size

def test_at_most_pool_max_connections(front):
    with pooled([front], pool_max=3) as p, greeted(p, 12) as clients:
        with holding(front) as fault:
            for c in clients:
                c.send(WAIT, DB)
            for n in range(3, 13):
                wait_for("the next to be there", lambda n=n: fault.hits == n)
                assert fault.held <= 3
                fault.release()
        for c in clients:
            assert c.read().body["ok"]
        assert fault.most_held == 3 and fault.hits == 12
        assert front.most_connections <= 3 + PROBES


def test_each_mongos_has_its_own(fronts):
    with pooled(fronts, pool_max=2) as p, greeted(p, 30) as clients:
        faults = [f.fault("distinct", hold=True) for f in fronts]
        for c in clients:
            c.send(WAIT, DB)
        wait_for("all connections to be lent", lambda: [fault.held for fault in faults] == [2, 2, 2])
        for fault in faults:
            fault.clear()
        for c in clients:
            assert c.read().body["ok"]
        assert all(f.most_connections <= 2 + PROBES for f in fronts)


def test_what_is_bound_to_one_mongos_has_no_more_of_its_connections(fronts):
    with pooled(fronts, pool_max=2, pool_wait="60s") as p, greeted(p, 9) as (first, *clients):
        name, sessions = filled(first), []
        place = fronts[0]
        while len(sessions) < 8:
            s = Session()
            if at(fronts, first, dict({"insert": name, "documents": [{}]}, **s.begin()))[1] is place:
                sessions.append(s)
        with holding(place) as fault:
            for c, s in zip(clients, sessions):
                c.send(dict({"distinct": name, "key": "_id"}, **s.more), DB)
            for n in range(2, 9):
                wait_for("the next to be there", lambda n=n: fault.hits == n)
                heard(first)
                assert fault.held <= 2
                fault.release()
        assert all(c.read().body["ok"] for c in clients)
        assert all(s.commit(first)["ok"] for s in sessions)
        assert fault.most_held == 2 and place.most_connections <= 2 + PROBES


def test_one_connection_is_enough_for_clients_that_take_turns(front):
    with pooled([front]) as p, greeted(p, 20) as clients:
        for _ in range(3):
            for c in clients:
                assert c.ask(LOOK, DB)["ok"]
        assert len({x.connection for x in front.commands("count")}) == 1


def test_nobody_says_hello_for_somebody_else(front):
    """What a client says of itself stays at Puerta."""
    with pooled([front], pool_max=2) as p, greeted(p, 5) as clients:
        for c in clients:
            assert c.ask(LOOK, DB)["ok"]
            assert c.ask({"hello": 1})["ok"]
        assert not any(str(name).startswith("client") for name in front.app_names())
        assert all(len(x.hellos) == 1 for x in {x.connection for x in front.commands("count")})


def test_a_thousand_clients_over_four_connections(front):
    """Each gets its own answers."""
    async def echo(_client, body):
        return {"token": body["echo"], "x": b"e" * body["size"], "ok": 1.0}

    front._do_echo = echo
    front.set(keep_seen=False)
    with pooled([front], pool_max=4) as p, greeted(p, 1000) as clients:
        for turn in range(2):
            for i, c in enumerate(clients):
                c.send({"echo": i * 10 + turn, "size": i % 300})
            for i, c in enumerate(clients):
                answer = c.read().body
                assert answer["token"] == i * 10 + turn and len(answer["x"]) == i % 300
        assert front.most_connections <= 4 + PROBES


@pytest.mark.parametrize("what", ["cursors", "transactions"])
def test_what_is_open_holds_no_connection(fronts, what):
    with pooled(fronts, pool_max=2) as p, greeted(p, 20) as clients:
        name, sessions = filled(clients[0]), [Session() for _ in clients]
        if what == "cursors":
            cursors = [c.ask(dict({"find": name, "batchSize": 2}, **s.plain), DB)["cursor"]["id"] for c, s in zip(clients, sessions)]
            for _ in range(3):
                cursors = [c.ask(dict(more_of(cursor, name), **s.plain), DB)["cursor"]["id"] for c, s, cursor in zip(clients, sessions, cursors)]
            assert all(cursors)
        else:
            assert all(c.ask(dict({"insert": name, "documents": [{}]}, **s.begin()), DB)["ok"] for c, s in zip(clients, sessions))
            assert all(c.ask(dict({"insert": name, "documents": [{}]}, **s.more), DB)["ok"] for c, s in zip(reversed(clients), sessions))
            assert all(s.commit(c)["ok"] for c, s in zip(clients, sessions))
        assert all(f.most_connections <= 2 + PROBES for f in fronts)


def test_pool_min_is_kept_open(front):
    with pooled([front], pool_min=3) as p, greeted(p, 1) as (c,):
        wait_for("the connections that are to be there", lambda: len(front.clients) == 3 + PROBES)
        for reset in (False, True):
            front.drop_clients(reset)
            wait_for("new ones", lambda: len([x for x in front.clients if x.hellos]) >= 3 + PROBES)
        assert c.ask(LOOK, DB)["ok"]
        front.restart()
        wait_for("new ones after a restart", lambda: len([x for x in front.clients if x.hellos]) >= 3 + PROBES)
        assert c.ask(LOOK, DB)["ok"]


@pytest.mark.parametrize("least", [0, 2])
def test_idle_connections_are_closed(front, least):
    with pooled([front], pool_idle="300ms", pool_min=least) as p, greeted(p, 6) as clients:
        with holding(front) as fault:
            lend_all(front, fault, clients)
            wait_for("the probes to be there too", lambda: len(front.clients) == 6 + PROBES)
        for c in clients:
            assert c.read().body["ok"]
        wait_for("them to be closed", lambda: len(front.clients) == least + PROBES)
        assert clients[0].ask(LOOK, DB)["ok"]


def test_old_connections_are_closed_between_two_requests(front):
    """Nobody notices, though there is one client that never stops asking."""
    with pooled([front], pool_life="200ms", pool_max=1) as p, greeted(p, 1) as (c,):
        seen = set()

        def three():
            assert c.ask(LOOK, DB)["ok"]
            seen.add(front.commands("count")[-1].connection)
            return len(seen) == 3

        wait_for("the third connection", three, pause=0)
        with holding(front) as fault:  # not while something is under way on it
            lend_all(front, fault, [c])
            mine = front.commands("distinct")[-1].connection
            with pytest.raises(TimeoutError):
                c.read(timeout=0.4)
            assert mine.is_open
        assert c.read().body["ok"]
        wait_for("it to be closed", lambda: not mine.is_open)


def test_dials_are_bounded(front):
    """As long as the greetings of pool_dials connections are not answered no further one is dialled."""
    with pooled([front], pool_dials=2, probe_interval="60s", pool_wait="60s") as p, greeted(p, 10) as clients:
        with holding(front) as lent, holding(front, "hello") as dials:
            for c in clients:
                c.send(WAIT, DB)
            for n in range(2, 12):
                wait_for("the next hello to be there", lambda n=n: dials.hits >= min(n, 10))
                assert dials.held <= 2
                dials.release()
            wait_for("all to have a connection", lambda: lent.held == 10)
        for c in clients:
            assert c.read().body["ok"]
        assert (dials.most_held, dials.hits) == (2, 10)


def test_dials_for_pool_min_are_bounded_too(front):
    with pooled([front], pool_min=6, pool_dials=2, probe_interval="60s", probe_timeout="60s"):
        wait_for("all of them to be there", lambda: len(front.clients) == 6 + PROBES)
        with holding(front, "hello") as dials:
            front.drop_clients()
            for n in range(2, 5):
                wait_for("the next hello to be there", lambda n=n: dials.hits >= n)
                dials.release()
            assert dials.most_held <= 2 + PROBES
        wait_for("all of them to be there again", lambda: len([x for x in front.clients if x.hellos]) == 6 + PROBES)


def test_a_dial_that_hangs_does_not_hold_up_what_is_there(front):
    """Its greeting is never answered; requests take turns on the connections that are open."""
    with pooled([front], probe_interval="60s", pool_wait="30s") as p, greeted(p, 3) as (c, other, third):
        assert c.ask(LOOK, DB)["ok"]
        front.fault("hello", silent=True)
        with holding(front) as fault:
            lend_all(front, fault, [c])
            other.send(LOOK, DB)
            heard(third)
        assert c.read().body["ok"] and other.read().body["ok"]


# ------------------------------------------------------------------- waits

def test_who_came_first_is_served_first(front):
    with pooled([front], pool_max=1) as p, greeted(p, 12) as clients:
        first, last, middle = clients[0], clients[-1], clients[1:-1]
        with holding(front) as fault:
            lend_all(front, fault, [first])
            for n, c in enumerate(middle):
                c.send({"count": "turn%d" % n}, DB)
                heard(last)
        for c in [first] + middle:
            assert c.read().body["ok"]
        assert [x.body["count"] for x in front.commands("count")] == ["turn%d" % n for n in range(10)]


def test_one_client_that_asks_without_end_does_not_starve_another(front):
    """It has its next request ready when each answer comes; the other's turn is in between."""
    with pooled([front], pool_max=1) as p, greeted(p, 2) as (greedy, other):
        data = b"".join(wire.op_msg({"count": "greedy", "$db": DB}, i) for i in range(1, 401))
        greedy.send_raw(data)
        for i in range(5):
            assert other.ask({"count": "other"}, DB)["ok"]
        order = [x.body["count"] for x in front.commands("count")]
        assert order.index("other") < 200 and sum(1 for x in order if x == "greedy") < 400
        for i in range(1, 401):
            assert greedy.read().response_to == i


def labelled(name):
    s, t = Session(), Session()
    return [(dict({"insert": name, "documents": [{}]}, **s.write()), ["RetryableWriteError"]),
            (dict({"insert": name, "documents": [{}]}, **t.begin()), ["TransientTransactionError"]),
            ({"insert": name, "documents": [{}]}, []), ({"find": name}, [])]


def test_a_wait_ends_with_an_error(front):
    """NetworkTimeout, by which a driver tries again where it may; its connection stays, and what has one goes on."""
    with pooled([front], pool_max=1, pool_wait="300ms") as p, greeted(p, 7) as (holder, *clients):
        name = filled(holder)
        answer = clients[4].ask({"find": name, "batchSize": 2}, DB)
        t = Session()
        assert clients[5].ask(dict({"insert": name, "documents": [{}]}, **t.begin()), DB)["ok"]
        asked = labelled(name) + [(more_of(answer["cursor"]["id"], name), ["ResumableChangeStreamError"]),
                                  (dict({"insert": name, "documents": [{}]}, **t.more), ["TransientTransactionError"])]
        with holding(front) as fault:
            lend_all(front, fault, [holder])
            inserts = len(front.commands("insert"))
            begun = time.monotonic()
            for c, (document, _) in zip(clients, asked):
                c.send(document, DB)
            for c, (document, labels) in zip(clients, asked):
                answer = c.read().body
                assert error_of(answer) == (89, labels) and answer["codeName"] == "NetworkTimeout", (document, answer)
            assert 0.25 < time.monotonic() - begun < 2 * SLOW
        assert holder.read().body["ok"]
        for c in clients:
            assert c.ask(LOOK, DB)["ok"]
        assert len(front.commands("insert")) == inserts, "what was refused was sent"
        assert t.commit(holder)["ok"]


def test_a_full_queue_is_told_at_once(front):
    with pooled([front], pool_max=1, pool_queue=2, pool_wait="60s") as p, greeted(p, 7) as (holder, a, b, *late):
        with holding(front) as fault:
            lend_all(front, fault, [holder])
            for c in (a, b):
                c.send(LOOK, DB)
            heard(late[0])
            begun = time.monotonic()
            for c, (document, labels) in zip(late, labelled("full")):
                code, given = error_of(c.ask(document, DB))
                assert code in (6, 89) and given == labels, (document, code, given)
            assert time.monotonic() - begun < 5 * SLOW
        for c in (holder, a, b):
            assert c.read().body["ok"]
        for c in late:
            assert c.ask(LOOK, DB)["ok"]


def test_no_queue(front):
    """Then no request waits for a connection that another one has; for a dial of its own it does."""
    with pooled([front], pool_max=1, pool_min=1, pool_queue=0) as p, greeted(p, 2) as (holder, other):
        wait_for("the connection to be there", lambda: holder.ask(LOOK, DB)["ok"])
        with holding(front) as fault:
            lend_all(front, fault, [holder])
            assert other.ask(LOOK, DB)["code"] in (6, 89)
        assert holder.read().body["ok"] and other.ask(LOOK, DB)["ok"]


def test_who_leaves_while_it_waits_is_forgotten(front):
    with pooled([front], pool_max=1, pool_queue=2) as p, greeted(p, 3) as (holder, other, third):
        with holding(front) as fault:
            lend_all(front, fault, [holder])
            for _ in range(6):  # more than may wait
                with greeted(p, 1) as (leaves,):
                    leaves.send({"count": "left"}, DB)
                    heard(third)
                for _ in range(2):
                    heard(third)
            other.send({"count": "stayed"}, DB)
            heard(third)
        assert holder.read().body["ok"] and other.read().body["ok"]
        assert [x.body["count"] for x in front.commands("count")] == ["stayed"]


def test_a_pinned_request_waits_for_its_mongos_though_others_are_free(fronts):
    """What is bound to nothing goes elsewhere when its session's mongos has no connection left."""
    with pooled(fronts, pool_max=1) as p, greeted(p, 4) as (holder, pinned, free, watcher):
        name, s = filled(holder), Session()
        place = at(fronts, pinned, dict({"insert": name, "documents": [{}]}, **s.begin()))[1]
        t = Session()
        while at(fronts, free, dict(LOOK, **t.plain))[1] is not place:
            t = Session()
        with holding(place) as fault:
            holder.send(dict(WAIT, **t.plain), DB)
            wait_for("it to be there", lambda: fault.held == 1)
            pinned.send(dict({"insert": name, "documents": [{"_id": "pinned"}]}, **s.more), DB)
            heard(watcher)
            answer, where = at(fronts, free, dict(LOOK, **t.plain))
            assert answer["ok"] and where is not place
        assert holder.read().body["ok"]
        assert pinned.read().body["n"] == 1 and place.commands("insert")[-1].body["documents"][0]["_id"] == "pinned"
        assert s.commit(pinned)["ok"]


# ----------------------------------------------------- clients that are bad

@pytest.fixture
def sink(front):
    Sink([front])
    return front


def next_ones_are_well(clients, count=6):
    for i in range(count):
        answer = clients[i % len(clients)].ask({"pull": 100 + i, "token": 1000 + i}, timeout=20)
        assert answer["token"] == 1000 + i and len(answer["x"]) == 100 + i


@pytest.mark.parametrize("size", [1000, 300000, 30000000])
def test_a_client_that_leaves_in_the_middle_of_its_answer(sink, size):
    """What is left of it comes to nobody else, also not to those who wait for its connection."""
    with pooled([sink], pool_max=1, process=SMALL, client_window="64k", probe_timeout="20s") as p, greeted(p, 3) as (*clients, third):
        for _ in range(4):
            with p.client(rcvbuf=4096) as c:
                assert c.hello()["ok"]
                c.send({"pull": size, "token": 1})
                if size > 1000:
                    assert c.sock.recv(100)
                for i, x in enumerate(clients):
                    x.send({"pull": 1000 + i, "token": 50 + i})
                heard(third)
            for i, x in enumerate(clients):
                answer = x.read().body
                assert answer["ok"] and answer["token"] == 50 + i and len(answer["x"]) == 1000 + i, answer
            next_ones_are_well(clients)


def test_a_client_that_leaves_before_its_answer(sink):
    with pooled([sink], pool_max=1, probe_timeout="20s") as p, greeted(p, 2) as clients:
        with holding(sink, "pull") as fault:
            with greeted(p, 1) as (c,):
                c.send({"pull": 10, "token": 77})
                wait_for("it to be there", lambda: fault.held == 1)
            heard(clients[0])
            for c in clients:
                c.send({"pull": 20, "token": 5})
            heard_of = [c for c in clients]
        for c in heard_of:
            answer = c.read().body
            assert answer["token"] == 5 and len(answer["x"]) == 20
        next_ones_are_well(clients)


@pytest.mark.parametrize("sent", [30, 1000, 500000])
def test_a_client_that_leaves_in_the_middle_of_its_request(sink, sent):
    data = wire.op_msg({"insert": "x", "x": b"x" * 1000000, "$db": DB}, 5)
    with pooled([sink], pool_max=1, probe_timeout="20s") as p, greeted(p, 2) as clients:
        for _ in range(3):
            with greeted(p, 1) as (c,):
                c.send_raw(data[:sent])
                heard(clients[0])
            next_ones_are_well(clients, 2)


@pytest.mark.parametrize("sent", [30, 1000, 500000])
def test_a_client_that_stops_in_the_middle_of_its_request(sink, sent):
    """Its connection is somebody else's after client_stall."""
    data = wire.op_msg({"insert": "x", "x": b"x" * 1000000, "$db": DB}, 5)
    with pooled([sink], pool_max=1, client_stall="300ms", probe_timeout="20s") as p, greeted(p, 3) as (c, *clients):
        c.send_raw(data[:sent])
        heard(clients[0])
        next_ones_are_well(clients)


def test_a_client_that_does_not_read(sink):
    with pooled([sink], pool_max=1, client_stall="500ms", process=SMALL, client_window="64k", send_buffer="16k", probe_timeout="20s") as p, greeted(p, 2) as clients:
        with p.client(rcvbuf=4096) as c:
            assert c.hello()["ok"]
            c.send({"pull": 30000000})
            assert c.sock.recv(10)  # it has the connection
            next_ones_are_well(clients)
            p.wait_log("client_stall")
            c.sock.settimeout(20 * SLOW)
            with contextlib.suppress(ConnectionResetError):
                while c.sock.recv(1 << 20):
                    pass


def test_a_slow_reader_holds_its_connection_alone(sink):
    with pooled([sink], pool_max=2, process=SMALL, client_window="64k", send_buffer="16k", probe_timeout="20s") as p, greeted(p, 2) as clients:
        with p.client(rcvbuf=4096) as c:
            assert c.hello()["ok"]
            c.send({"pull": 3000000, "token": 9})
            head = c.sock.recv(4000)
            next_ones_are_well(clients, 20)
            rest = c._exactly(3000000 - 4000, time.monotonic() + 20 * SLOW)
            assert head and rest


def test_a_client_that_ends_its_side_gets_its_answer(front):
    """What has been asked of a mongos is answered; what waits for a connection is not asked any more: most likely nobody is there to hear it."""
    with pooled([front], pool_max=1) as p, greeted(p, 3) as (c, waits, third):
        with holding(front) as fault:
            lend_all(front, fault, [c])
            waits.send({"count": "waits"}, DB)
            heard(third)
            for x in (c, waits):
                x.sock.shutdown(1)
            assert closed(waits)
        assert c.read().body["ok"]
        assert closed(c)
        assert third.ask(LOOK, DB)["ok"] and len(front.commands("count")) == 1


def test_a_mongos_that_reads_slowly_holds_up_its_client_only(fronts):
    sink = Sink(fronts)
    fronts[0].set(read_rate=400000)
    with pooled(fronts, process=SMALL, client_window="64k", probe_timeout="20s") as p, greeted(p, 2) as (writer, other):
        s = Session()
        while not at_front(fronts[0], other, s):
            s = Session()
        rows = [bson.encode({"x": b"x" * 200000})] * 2
        data = wire.op_msg(dict({"insert": "large"}, **s.plain, **{"$db": DB}), 5, sequences=[("documents", rows)])
        sender = threading.Thread(target=writer.send_raw, args=(data,), daemon=True)
        sender.start()
        asked = 0
        while not sink.inserted:
            assert other.ask({"pull": 50000, "token": asked}, timeout=5)["token"] == asked
            asked += 1
        assert writer.read(timeout=30).body["ok"] and sink.inserted == 1 and asked > 5
        sender.join(20 * SLOW)


def at_front(front, client, session):
    """Whether that session's mongos is this one."""
    front.set(keep_seen=True)
    front.clear()
    assert client.ask(dict({"pull": 1}, **session.plain))["ok"]
    return bool(front.commands("pull"))


def test_clients_that_do_not_read_do_not_take_all_chunks(sink):
    """Each may hold as much as the whole pool has: after two seconds in which nobody could be helped, who holds most is closed."""
    with pooled([sink], process=SMALL, client_stall="600s", client_window="1m", probe_timeout="20s") as p, contextlib.ExitStack() as stack:
        for _ in range(4):
            c = stack.enter_context(p.client(rcvbuf=4096))
            assert c.hello()["ok"]
            c.send({"pull": 20000000})
        p.wait_log("no chunks left")

        def served():
            with p.client(timeout=5) as c, contextlib.suppress(EOFError, OSError):
                return c.hello()["ok"] and c.ask({"pull": 100})["ok"]
        for _ in range(5):
            wait_for("another to be served", served)


def test_many_commands_for_several_mongos_at_once(fronts):
    """More than there is room for: they wait."""
    with pooled(fronts, pool_max=60, pool_wait="60s") as p, greeted(p, 41) as (*clients, other):
        faults = [f.fault("killCursors", hold=True) for f in fronts]
        for i, c in enumerate(clients):
            c.send({"killCursors": "x", "cursors": [i + 1, i + 1001]}, DB)
        heard(other)
        assert other.ask(LOOK, DB)["ok"]
        for fault in faults:
            fault.clear()
        for i, c in enumerate(clients):
            answer = c.read().body
            assert answer["ok"] and sorted(answer["cursorsNotFound"]) == [i + 1, i + 1001], answer


def test_what_has_gone_on_keeps_no_room_from_others(front):
    """Of four requests much has to be held, of three of them half the pool. All four are at a mongos that takes its time."""
    rows = [bson.encode({"x": "y" * 1000}) for _ in range(300)]
    with pooled([front], client_window="64k", process={"chunk_size": "16k", "chunks": 128}) as p, greeted(p, 5) as (*clients, other):
        name = filled(other)
        with holding(front, "insert") as fault:
            for n, c in enumerate(clients, 1):
                c.send_raw(with_first_sequence(dict({"insert": name}, **Session().plain, **{"$db": DB}), rows, 1000 + n))
                wait_for("its request to be there", lambda n=n: fault.held == n)
        for n, c in enumerate(clients, 1):
            answer = c.read()
            assert answer.response_to == 1000 + n and answer.body["n"] == 300, answer.body


def test_idle_clients_hold_no_chunks(front):
    with pooled([front], process=dict(SMALL, chunks=128, max_clients=1000), counters=True) as p, greeted(p, 150) as clients:
        for c in clients:
            assert c.ask(LOOK, DB)["ok"]
        assert p.counter("free_chunks") > 110


def test_clients_come_and_go_all_the_time(fronts):
    """In the middle of whatever; in the end all connections are free, and everybody is served."""
    Sink(fronts)
    over, wrong, served = threading.Event(), [], [0] * 6

    def rough(p, i):
        n = 0
        while not over.is_set():
            n += 1
            try:
                with p.client(rcvbuf=8192 if n % 3 else None) as c:
                    assert c.hello()["ok"]
                    for k in range(5):
                        token = (i << 20) + n * 10 + k
                        c.send({"pull": (10, 70000, 400000)[(n + k) % 3], "token": token})
                        if (n + k) % 7 == 6:
                            c.sock.recv(20)
                            break
                        answer = c.read().body
                        assert answer["ok"] and answer["token"] == token, answer
                        served[i] += 1
            except Exception as e:  # noqa: BLE001
                wrong.append(repr(e)[:300])

    with pooled(fronts, pool_max=2, process={"chunk_size": "16k", "chunks": 256}, counters=True) as p, greeted(p, 2) as clients:
        threads = [threading.Thread(target=rough, args=(p, i), daemon=True) for i in range(6)]
        for t in threads:
            t.start()
        wait_for("each to have been served", lambda: wrong or min(served) > 40, timeout=60)
        over.set()
        for t in threads:
            t.join(20 * SLOW)
        assert not wrong, wrong[:5]
        next_ones_are_well(clients, 12)
        wait_for("all chunks to be free again", lambda: p.counter("free_chunks") > 240)
        assert all(f.most_connections <= 2 + PROBES + 6 for f in fronts)
