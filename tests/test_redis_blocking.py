"""Blocking commands through Puerta: answers and order as from one server, clients that leave, slots that move, nodes that fail, full tables."""
import random
import socket
import struct
import threading
import time

import pytest

import harness
from harness import LONG, Puerta, RespClient, RespError, encode, tag_for_slot, wait_for

SLOT = 100


def key(name="k", slot=SLOT):
    return "{%s}%s" % (tag_for_slot(slot), name)


@pytest.fixture(autouse=True)
def empty(cluster):
    cluster.flush()
    yield
    cluster.flush()


@pytest.fixture
def moving(cluster):
    """A slot of the first master that goes back to it after the test, whatever happened."""
    yield SLOT, cluster.masters[0], cluster.masters[1]
    owner = cluster.owner(SLOT)
    for node in cluster.masters:
        node.ask("CLUSTER", "SETSLOT", SLOT, "STABLE")
    if owner is not cluster.masters[0]:
        cluster.migrate_slot(SLOT, owner, cluster.masters[0])


def blocked_at(node):
    return int(node.info("clients")["blocked_clients"])


def wait_blocked(nodes, count):
    nodes = nodes if isinstance(nodes, list) else [nodes]
    wait_for("%d clients to be blocked at the nodes" % count, lambda: sum(blocked_at(n) for n in nodes) == count)


# ---- answers ----

def blocking_commands(a, b):
    return [("BLPOP", a, b, "0.05"), ("BRPOP", a, "0.05"), ("BLMOVE", a, b, "LEFT", "RIGHT", "0.05"), ("BRPOPLPUSH", a, b, "0.05"),
            ("BLMPOP", "0.05", 2, a, b, "LEFT", "COUNT", 2), ("BZPOPMIN", a, b, "0.05"), ("BZPOPMAX", a, "0.05"),
            ("BZMPOP", "0.05", 2, a, b, "MIN"), ("XREAD", "BLOCK", 50, "STREAMS", a, "$"),
            ("XREAD", "COUNT", 2, "block", 50, "streams", a, b, "$", "0"),
            ("XREADGROUP", "GROUP", "g", "c", "COUNT", 3, "BLOCK", 50, "STREAMS", b, ">")]


def same(client, server, *command):
    with RespClient(server.port) as real:
        theirs = real.try_ask(*command)
    mine = client.try_ask(*command)
    if isinstance(theirs, RespError):
        assert isinstance(mine, RespError) and mine.text == theirs.text, (command, mine, theirs)
    else:
        assert mine == theirs, (command, mine, theirs)
    return mine


def test_answers_are_those_of_a_plain_server(client, server):
    """With elements there, without, of the wrong type, with wrong arguments."""
    server.ask("FLUSHALL")
    a, b = key("a"), key("b")
    for fill in (None, ("RPUSH", a, "1", "2", "3", "4", "5", "6", "7"), ("ZADD", a, 1, "x", 2, "y", 3, "z"), ("XADD", a, "5-1", "f", "v")):
        for base in blocking_commands(a, b):
            for extra in ((), ("odd",)) if base[-1] != "0.05" or base[0] in ("BLMOVE", "BRPOPLPUSH") else ((),):
                same(client, server, "DEL", a, b)
                same(client, server, "XGROUP", "CREATE", b, "g", "0", "MKSTREAM")
                if fill:
                    same(client, server, *fill)
                same(client, server, *(base + extra))
    for command in (("BLPOP", a), ("BLPOP", a, "x"), ("BLPOP", a, "-1"), ("BLPOP", a, "inf"), ("BLPOP", a, ""), ("BLMPOP", "x", 1, a, "LEFT"),
                    ("BLMPOP", "0", 0, a, "LEFT"), ("BLMPOP", "0", 5, a, "LEFT"), ("BZMPOP", "-1", 1, a, "MIN"), ("XREAD", "BLOCK", "x", "STREAMS", a, "0"),
                    ("XREAD", "BLOCK", "-1", "STREAMS", a, "0"), ("XREAD", "BLOCK", "0", "STREAMS", a), ("BLMOVE", a, b, "UP", "LEFT", "0"),
                    ("XREADGROUP", "GROUP", "none", "c", "BLOCK", "0", "STREAMS", b, ">"), ("BLPOP", a, "1" * 70), ("BLPOP", a, "1e30")):
        same(client, server, *command)


def test_what_is_pushed_is_popped(client, other):
    a, b = key("a"), key("b")
    cases = [(("BLPOP", a, b, 0), ("RPUSH", b, "x"), [b.encode(), b"x"]), (("BRPOP", a, 20), ("RPUSH", a, "x"), [a.encode(), b"x"]),
             (("BLMOVE", a, b, "LEFT", "RIGHT", 0), ("RPUSH", a, "x"), b"x"), (("BRPOPLPUSH", a, b, 0), ("RPUSH", a, "y"), b"y"),
             (("BLMPOP", 0, 1, a, "LEFT"), ("RPUSH", a, "x"), [a.encode(), [b"x"]]),
             (("BZPOPMIN", a, 0), ("ZADD", a, 1, "m"), [a.encode(), b"m", b"1"]), (("BZPOPMAX", a, 0), ("ZADD", a, 1, "m"), [a.encode(), b"m", b"1"]),
             (("BZMPOP", 0, 1, a, "MAX"), ("ZADD", a, 1, "m"), [a.encode(), [[b"m", b"1"]]]),
             (("XREAD", "BLOCK", 0, "STREAMS", a, "$"), ("XADD", a, "1-1", "f", "v"), [[a.encode(), [[b"1-1", [b"f", b"v"]]]]])]
    for block, push, answer in cases:
        client.ask("DEL", a, b)
        client.send(*block)
        assert client.silent(0.05), block
        other.ask(*push)
        assert client.read() == answer, block
    assert client.ask("PING") == b"PONG"


def test_keys_of_several_slots(client):
    for command in (("BLPOP", "a", "b", 0), ("BLMOVE", "a", "b", "LEFT", "LEFT", 0), ("XREAD", "BLOCK", 0, "STREAMS", "a", "b", "0", "0")):
        assert client.try_ask(*command).text == "CROSSSLOT Keys in request don't hash to the same slot"


def test_timeouts_are_kept(client):
    for command, seconds in ((("BLPOP", key(), "0.3"), 0.3), (("BZMPOP", "0.3", 1, key(), "MIN"), 0.3), (("XREAD", "BLOCK", 300, "STREAMS", key(), "$"), 0.3)):
        begun = time.monotonic()
        assert client.ask(*command) is None
        assert seconds <= time.monotonic() - begun < seconds + 0.5 * harness.SLOW


def test_in_a_transaction_nothing_blocks(client):
    assert client.pipeline([("MULTI",), ("BLPOP", key(), 0), ("XREAD", "BLOCK", 0, "STREAMS", key("s"), "$"), ("EXEC",)]) == [
        b"OK", b"QUEUED", b"QUEUED", [None, None]]


# ---- order ----

def test_a_pipeline_runs_in_order(client, other):
    a = key("a")
    client.send_raw(b"".join(encode(*c) for c in (("RPUSH", a, "1"), ("BLPOP", a, 0), ("LLEN", a), ("SET", "x", "before"), ("BLPOP", a, 0), ("SET", "x", "after"),
                                                  ("PING", "p"), ("GET", "x"), ("BLPOP", a, "0.05"), ("CLIENT", "SETNAME", "late"), ("LLEN", a))))
    assert [client.read() for _ in range(4)] == [1, [a.encode(), b"1"], 0, b"OK"]
    assert client.silent(0.1)
    assert other.ask("GET", "x") == b"before" and b"name=late" not in other.ask("CLIENT", "LIST")
    other.ask("RPUSH", a, "2")
    assert [client.read() for _ in range(7)] == [[a.encode(), b"2"], b"OK", b"p", b"after", None, b"OK", 0]


def test_each_waits_in_turn(cluster, puerta, other):
    clients = [puerta.client() for _ in range(20)]
    for i, c in enumerate(clients):
        c.send("BLPOP", key(), 0)
        wait_blocked(cluster.masters[0], i + 1)
    other.ask("RPUSH", key(), *range(20))
    for i, c in enumerate(clients):
        assert c.read() == [key().encode(), b"%d" % i]
        c.close()


def test_long_elements_and_long_requests(client, other):
    a, value = key("a"), b"v" * 300000
    client.send("BLPOP", *[key("none%d" % i) for i in range(3000)], a, 0)
    other.ask("RPUSH", a, value)
    assert client.read() == [a.encode(), value]
    client.send("XREAD", "BLOCK", 0, "STREAMS", key("s"), "$")
    assert client.silent(0.05)
    other.ask("XADD", key("s"), "1-1", "f", value)
    assert client.read() == [[key("s").encode(), [[b"1-1", [b"f", value]]]]]


def test_what_it_asks_meanwhile_is_bounded(cluster, other):
    with Puerta(cluster, client_window="64k") as p, p.client() as c:
        c.send("BLPOP", key(), 0)
        wait_blocked(cluster.masters[0], 1)
        c.sock.setblocking(False)
        sent, piece = 0, encode("ECHO", "x" * 1000) * 64
        stuck = 0
        while stuck < 20 and sent < (64 << 20):
            try:
                sent += c.sock.send(piece[sent % len(piece):])
                stuck = 0
            except BlockingIOError:
                stuck += 1
                time.sleep(0.01)
        assert stuck == 20, "it takes everything"
        c.sock.setblocking(True)
        other.ask("RPUSH", key(), "x")
        assert c.read() == [key().encode(), b"x"]
        c.sock.sendall(piece[sent % len(piece):])
        whole = (sent + len(piece) - sent % len(piece)) // len(encode("ECHO", "x" * 1000))
        for _ in range(whole):
            assert c.read() == b"x" * 1000


# ---- clients that leave ----

LEAVE = {
    "close": lambda s: s.close(),
    "half": lambda s: s.shutdown(socket.SHUT_WR),
    "reset": lambda s: (s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)), s.close()),
}


@pytest.mark.parametrize("how", sorted(LEAVE))
def test_a_client_that_leaves_is_freed_at_once(cluster, puerta, other, how):
    c = puerta.client()
    c.send("BLPOP", key(), 0)
    wait_blocked(cluster.masters[0], 1)
    LEAVE[how](c.sock)
    wait_blocked(cluster.masters[0], 0)
    assert other.ask("RPUSH", key(), "x") == 1 and other.ask("LLEN", key()) == 1
    if how == "half":
        assert c.at_end()


def test_one_that_ends_its_side_still_gets_what_came_before(cluster, puerta, other):
    with puerta.client() as c:
        c.send_raw(encode("SET", "x", "1") + encode("GET", "x") + encode("BLPOP", key(), 0) + encode("SET", "x", "2"))
        c.sock.shutdown(socket.SHUT_WR)
        assert c.read() == b"OK" and c.read() == b"1" and c.at_end()
    wait_blocked(cluster.masters[0], 0)
    assert other.ask("GET", "x") == b"1"


def test_one_that_waits_for_a_lease_leaves(cluster):
    with Puerta(cluster, max_blocked=1, lease_wait="20s") as p, p.client() as first, p.client() as other:
        first.send("BLPOP", key(), 0)
        wait_blocked(cluster.masters[0], 1)
        for how in sorted(LEAVE):
            c = p.client()
            c.send("BLPOP", key("b"), 0)
            assert c.silent(0.05)
            LEAVE[how](c.sock)
        other.ask("RPUSH", key("b"), "x")
        other.ask("RPUSH", key(), "y")
        assert first.read() == [key().encode(), b"y"]
        assert first.try_ask("BLPOP", key(), "0.1") is None
        assert other.ask("LLEN", key("b")) == 1
        wait_for("their connections to be gone", lambda: other.ask("CLIENT", "LIST").count(b"\n") == 2)


def test_nothing_is_popped_for_nobody(cluster, puerta):
    """Many clients that leave at any moment, just when the push comes too: an element may go with one that had been given it, as directly, but the
    number of elements that are gone never exceeds the number of clients that left while there was something to pop; and those left before lose none."""
    rounds = 400 if LONG else 120
    rng = random.Random(7)
    with puerta.client() as pusher, puerta.client() as look:
        lost = 0
        for n in range(rounds):
            c = puerta.client()
            name = key("n%d" % n)
            early = rng.random() < 0.5
            c.send("BLPOP", name, 0)
            wait_blocked(cluster.masters, 1)
            if early:
                LEAVE[rng.choice(sorted(LEAVE))](c.sock)
                wait_blocked(cluster.masters, 0)
                pusher.ask("RPUSH", name, "x")
                assert look.ask("LLEN", name) == 1, "popped for nobody"
            else:
                pusher.send("RPUSH", name, "x")
                time.sleep(rng.random() * 0.002)
                LEAVE[rng.choice(["close", "reset"])](c.sock)
                assert pusher.read() == 1
                wait_blocked(cluster.masters, 0)
                lost += look.ask("LLEN", name) == 0
            c.close()
        assert look.ask("PING") == b"PONG"


# ---- slots that move ----

@pytest.mark.parametrize("command", [("BLPOP", key(), 20), ("BLMPOP", 20, 1, key(), "LEFT"), ("XREAD", "BLOCK", 20000, "STREAMS", key("s"), "0")], ids=lambda c: c[0])
def test_a_block_follows_its_slot(cluster, puerta, other, moving, command):
    slot, source, target = moving
    with puerta.client() as c:
        c.send(*command)
        wait_blocked(source, 1)
        cluster.migrate_slot(slot, source, target)
        wait_blocked(target, 1)
        wait_blocked(source, 0)
        other.ask("RPUSH", key(), "x")
        other.ask("XADD", key("s"), "1-1", "f", "v")
        reply = c.read()
        assert not isinstance(reply, RespError) and reply is not None
        assert c.ask("PING") == b"PONG"


@pytest.mark.parametrize("command", [("BLPOP", key(), "3"), ("BZMPOP", "3", 1, key(), "MIN"), ("XREAD", "BLOCK", 3000, "STREAMS", key("s"), "$")], ids=lambda c: c[0])
def test_the_time_goes_on_after_a_move(cluster, puerta, moving, command):
    slot, source, target = moving
    with puerta.client() as c:
        begun = time.monotonic()
        c.send(*command)
        wait_blocked(source, 1)
        time.sleep(1)
        cluster.migrate_slot(slot, source, target)
        wait_blocked(target, 1)
        assert c.read() is None
        assert 2.9 <= time.monotonic() - begun < 3 + 1.0 * harness.SLOW


def test_no_timeout_stays_none(cluster, puerta, other, moving):
    slot, source, target = moving
    with puerta.client() as c:
        c.send("BRPOP", key(), 0)
        wait_blocked(source, 1)
        cluster.migrate_slot(slot, source, target)
        wait_blocked(target, 1)
        cluster.migrate_slot(slot, target, source)
        wait_blocked(source, 1)
        assert c.silent(1)
        other.ask("RPUSH", key(), "x")
        assert c.read() == [key().encode(), b"x"]


def test_each_element_is_popped_once_while_the_slot_moves(cluster, puerta, moving):
    slot, source, target = moving
    popped, failures, stopping = [], [], threading.Event()

    def work(n):
        try:
            with puerta.client(timeout=60) as c:
                while not stopping.is_set():
                    reply = c.ask("BLPOP", key("q0"), key("q1"), "0.5") if n % 2 else c.ask("BLPOP", key("q%d" % (n % 4 // 2)), "0.5")
                    if reply is not None:
                        popped.append(reply[1])
        except BaseException as e:  # noqa: BLE001 - reported below
            failures.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(24)]
    for t in threads:
        t.start()
    pushed = 0
    with puerta.client(timeout=60) as c:
        for turn in range(6 if LONG else 3):
            a, b = (source, target) if turn % 2 == 0 else (target, source)
            mover = threading.Thread(target=cluster.migrate_slot, args=(slot, a, b))
            mover.start()
            while mover.is_alive():
                c.ask("RPUSH", key("q%d" % (pushed % 2)), *range(pushed, pushed + 3))
                pushed += 3
                time.sleep(0.001)
            mover.join()
    wait_for("all elements to be popped", lambda: failures or len(popped) >= pushed)
    stopping.set()
    for t in threads:
        t.join()
    assert not failures, failures
    assert sorted(map(int, popped)) == list(range(pushed))


def test_a_stream_group_gives_each_entry_once_while_the_slot_moves(cluster, puerta, moving):
    slot, source, target = moving
    name, got, failures, stopping = key("s"), [], [], threading.Event()
    with puerta.client() as c:
        c.ask("XGROUP", "CREATE", name, "g", "$", "MKSTREAM")

    def work(n):
        try:
            with puerta.client(timeout=60) as c:
                while not stopping.is_set():
                    reply = c.try_ask("XREADGROUP", "GROUP", "g", "c%d" % n, "COUNT", 2, "BLOCK", 300, "STREAMS", name, ">")
                    if isinstance(reply, RespError):
                        assert reply.text.startswith("UNBLOCKED the stream key no longer exists"), reply.text  # as a direct client hears while it moves
                    elif reply is not None:
                        got.extend(e[0] for e in reply[0][1])
        except BaseException as e:  # noqa: BLE001 - reported below
            failures.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    added = []
    with puerta.client(timeout=60) as c:
        mover = threading.Thread(target=cluster.migrate_slot, args=(slot, source, target))
        for n in range(30):
            added.append(c.ask("XADD", name, "*", "n", n))
        mover.start()
        while mover.is_alive():
            added.append(c.ask("XADD", name, "*", "n", len(added)))
        for n in range(30):
            added.append(c.ask("XADD", name, "*", "n", n))
    wait_for("all entries to be read", lambda: failures or len(got) >= len(added))
    stopping.set()
    for t in threads:
        t.join()
    assert not failures, failures
    assert sorted(got) == sorted(added)


# ---- failover ----

def test_a_planned_failover_while_blocked(own_cluster):
    master, [replica] = own_cluster.masters[0], own_cluster.replicas[0]
    with Puerta(own_cluster) as p, p.client() as other:
        clients = [p.client() for _ in range(6)]
        for i, c in enumerate(clients):
            c.send(*[("BLPOP", key(), 0), ("BZPOPMIN", key("z"), 30), ("XREAD", "BLOCK", 0, "STREAMS", key("s"), "0")][i % 3])
        wait_blocked(master, 6)
        replica.ask("CLUSTER", "FAILOVER")
        own_cluster.wait_promoted(replica)
        wait_blocked(replica, 6)
        other.ask("RPUSH", key(), "1", "2")
        other.ask("ZADD", key("z"), 1, "a", 2, "b")
        other.ask("XADD", key("s"), "1-1", "f", "v")
        for c in clients:
            reply = c.read()
            assert isinstance(reply, list), reply
            c.close()


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_master_lost_while_blocked(own_cluster, how):
    """Reads are asked again at the replica that takes over; of pops nobody knows."""
    master, [replica] = own_cluster.masters[0], own_cluster.replicas[0]
    with Puerta(own_cluster, failover_wait="30s") as p, p.client() as pop, p.client() as read, p.client(timeout=40) as other:
        pop.send("BLPOP", key(), 0)
        read.send("XREAD", "BLOCK", 0, "STREAMS", key("s"), "0")
        wait_blocked(master, 2)
        getattr(master, how)()
        try:
            own_cluster_promoted = wait_for("the replica to be promoted", lambda: replica.role() == "master", 40)
            assert own_cluster_promoted
            assert pop.read(timeout=30).text.startswith("ERR outcome unknown: the connection to 127.0.0.1:%d was lost" % master.port)
            wait_for("the read to be asked again", lambda: blocked_at(replica) == 1, 30)
            other.ask("XADD", key("s"), "1-1", "f", "v")
            assert read.read(timeout=30) == [[key("s").encode(), [[b"1-1", [b"f", b"v"]]]]]
            assert pop.ask("PING") == b"PONG"
        finally:
            if how == "freeze":
                master.thaw()


def test_a_block_asked_while_the_node_is_away(own_cluster):
    master, [replica] = own_cluster.masters[0], own_cluster.replicas[0]
    with Puerta(own_cluster, failover_wait="30s") as p, p.client() as c, p.client(timeout=40) as other:
        other.ask("SET", key("x"), "1")
        master.kill()
        c.send("BLPOP", key(), 0)
        other.ask("RPUSH", key(), "x")
        assert c.read(timeout=40) == [key().encode(), b"x"]
    with Puerta(own_cluster, failover_wait="300ms") as p, p.client() as c:
        wait_for("service", lambda: c.try_ask("GET", key("x")) == b"1")
        replica.kill()
        assert c.try_ask("BLPOP", key(), 0, timeout=5).text.startswith(("CLUSTERDOWN not executed", "ERR outcome unknown"))
        assert c.try_ask("BLPOP", key(), 0, timeout=5).text.startswith("CLUSTERDOWN not executed")


# ---- full tables ----

def test_all_leases_in_use(cluster):
    with Puerta(cluster, max_blocked=2, max_leases=4, max_watching=2, lease_wait="300ms", shared_reply_limit="64k") as p, p.client() as c, p.client() as other:
        blocked = [p.client() for _ in range(2)]
        for i, b in enumerate(blocked):
            b.send("BLPOP", key(), 0)
            wait_blocked(cluster.masters[0], i + 1)
        begun = time.monotonic()
        assert c.try_ask("BLPOP", key("b"), 0).text == \
            "ERR not executed: no connection became free for a blocking command within 300 ms (max_blocked, lease_wait)"
        assert time.monotonic() - begun >= 0.25
        # Others are not disturbed: ordinary requests, long answers, transactions and WATCH.
        other.ask("SET", key("long"), "v" * 500000)
        assert c.ask("GET", key("long")) == b"v" * 500000
        assert c.pipeline([("WATCH", key("w")), ("MULTI",), ("SET", key("w"), 1), ("EXEC",)]) == [b"OK", b"OK", b"QUEUED", [b"OK"]]
        # One becomes free while somebody waits.
        c.send("BLPOP", key("b"), 0)
        other.ask("RPUSH", key(), "x")
        assert blocked[0].read() == [key().encode(), b"x"]
        wait_blocked(cluster.masters[0], 2)
        other.ask("RPUSH", key("b"), "y")
        assert c.read() == [key("b").encode(), b"y"]
        for b in blocked:
            b.close()
        # And the reverse: all that WATCH can hold is held, and blocking works.
        wait_blocked(cluster.masters[0], 0)
        watchers = [p.client() for _ in range(2)]
        for w in watchers:
            assert w.ask("WATCH", key("w")) == b"OK"
        c.send("BLPOP", key("b"), 0)
        wait_blocked(cluster.masters[0], 1)
        other.ask("RPUSH", key("b"), "z")
        assert c.read() == [key("b").encode(), b"z"]
        for w in watchers:
            w.close()


def test_none_may_block(cluster):
    with Puerta(cluster, max_blocked=0, lease_wait="100ms") as p, p.client() as c:
        assert "max_blocked" in c.try_ask("BLPOP", key(), 0).text
        assert c.ask("PING") == b"PONG"


def test_a_blocked_client_is_not_idle_and_not_late(cluster):
    with Puerta(cluster, client_idle="300ms", request_timeout="300ms", suspect_after="100ms") as p, p.client() as c:
        c.send("BLPOP", key(), 0)
        assert c.silent(1.5)
        with p.client() as other:
            other.ask("RPUSH", key(), "x")
        assert c.read() == [key().encode(), b"x"]


def test_a_node_that_does_not_answer_when_the_time_is_over(own_cluster):
    with Puerta(own_cluster, request_timeout="500ms") as p, p.client() as c:
        c.send("BLPOP", key(), "0.5")
        wait_blocked(own_cluster.masters[0], 1)
        own_cluster.masters[0].freeze()
        try:
            assert c.read(timeout=5).text.startswith("ERR outcome unknown")
        finally:
            own_cluster.masters[0].thaw()


def test_at_the_end_nothing_is_lost(cluster):
    """At SIGTERM nodes are asked to let blocked clients go, who hear so; it does not take stop_timeout."""
    p = Puerta(cluster, stop_timeout="10s", max_blocked=2, lease_wait="20s")
    clients = [p.client() for _ in range(3)]
    for c in clients[:2]:
        c.send("BLPOP", key(), 0)
    wait_blocked(cluster.masters[0], 2)
    clients[2].send_raw(encode("SET", "x", 1) + encode("BLPOP", key(), 0))
    assert clients[2].read() == b"OK"
    begun = time.monotonic()
    p.stop()
    assert time.monotonic() - begun < 5 * harness.SLOW
    for c in clients[:2]:
        assert c.read().text == "UNBLOCKED client unblocked via CLIENT UNBLOCK" and c.at_end()
    assert clients[2].at_end()
    assert cluster.masters[0].ask("RPUSH", key(), "x") == 1


# ---- CLIENT ----

def test_unblock(cluster, puerta, client, other):
    me = client.ask("CLIENT", "ID")
    for command in (("BLPOP", key(), 0), ("BZMPOP", 0, 1, key(), "MIN"), ("XREAD", "BLOCK", 0, "STREAMS", key("s"), "$"), ("BLMOVE", key(), key("b"), "LEFT", "LEFT", 0)):
        for form, answer in (((), None), (("TIMEOUT",), None), (("error",), "UNBLOCKED client unblocked via CLIENT UNBLOCK")):
            client.send(*command)
            wait_for("the flag", lambda: b"flags=b" in other.ask("CLIENT", "LIST", "ID", me))
            assert other.ask("CLIENT", "UNBLOCK", me, *form) == 1
            reply = client.read()
            assert reply is None if answer is None else reply.text == answer
            assert other.ask("CLIENT", "UNBLOCK", me) == 0
            assert b"flags=N" in other.ask("CLIENT", "LIST", "ID", me)
    wait_blocked(cluster.masters[0], 0)


def test_unblock_says_what_a_server_says(client, server):
    mine = client.ask("CLIENT", "ID")
    assert client.ask("CLIENT", "UNBLOCK", mine) == 0 and client.ask("CLIENT", "UNBLOCK", 123456789) == 0
    for command in (("CLIENT", "UNBLOCK"), ("CLIENT", "UNBLOCK", "x"), ("CLIENT", "UNBLOCK", "1", "odd"), ("CLIENT", "UNBLOCK", "0"), ("CLIENT", "UNBLOCK", "-1"),
                    ("CLIENT", "UNBLOCK", "99999999", "TIMEOUT"), ("CLIENT", "UNBLOCK", "99999999", "timeout", "odd")):
        same(client, server, *command)


def test_unblock_one_that_no_node_knows_yet(cluster):
    with Puerta(cluster, max_blocked=1, lease_wait="20s") as p, p.client() as first, p.client() as c, p.client() as other:
        first.send("BLPOP", key(), 0)
        wait_blocked(cluster.masters[0], 1)
        me = c.ask("CLIENT", "ID")
        for form, answer in (("TIMEOUT", None), ("ERROR", "UNBLOCKED client unblocked via CLIENT UNBLOCK")):
            c.send_raw(encode("BLPOP", key(), 0) + encode("PING"))
            wait_for("the flag", lambda: b"flags=b" in other.ask("CLIENT", "LIST", "ID", me))
            assert other.ask("CLIENT", "UNBLOCK", me, form) == 1
            reply = c.read()
            assert reply is None if answer is None else reply.text == answer
            assert c.read() == b"PONG"


def test_unblock_loses_nothing_and_hits_nobody_else(cluster):
    """Unblocked and pushed to at once, with connections that go from one client to the next: each element is in the list or with a client."""
    rounds = 300 if LONG else 100
    with Puerta(cluster, max_blocked=2) as p, p.client() as a, p.client() as b, p.client() as pusher, p.client() as killer:
        me = a.ask("CLIENT", "ID")
        b.send("BLPOP", key("quiet"), 0)  # of whom nobody speaks: it must stay blocked
        with_clients = 0
        for n in range(rounds):
            a.send("BLPOP", key("n%d" % n), 0)
            if n % 2:
                wait_blocked(cluster.masters[0], 2)
            else:
                wait_for("the flag", lambda: b"flags=b" in pusher.ask("CLIENT", "LIST", "ID", me), pause=0)
            killer.send("CLIENT", "UNBLOCK", me)
            pusher.send("RPUSH", key("n%d" % n), n)
            reply = a.read()
            said = killer.read()
            pusher.read()
            with_clients += reply is not None
            assert (reply is None) == (said == 1), (n, reply, said)
            assert pusher.ask("LLEN", key("n%d" % n)) == (reply is None)
        assert b.silent(0.01)
        pusher.ask("RPUSH", key("quiet"), "x")
        assert b.read() == [key("quiet").encode(), b"x"]


def test_kill_and_info(cluster, puerta, other):
    with puerta.client() as c:
        me = c.ask("CLIENT", "ID")
        c.send("BLPOP", key(), 0)
        wait_blocked(cluster.masters[0], 1)
        assert b"blocked_clients:1\r\n" in other.ask("INFO", "clients")
        assert other.ask("CLIENT", "KILL", "ID", me) == 1
        assert c.at_end()
        wait_blocked(cluster.masters[0], 0)
        assert b"blocked_clients:0\r\n" in other.ask("INFO", "clients")
        assert other.ask("RPUSH", key(), "x") == 1 and other.ask("LLEN", key()) == 1


def test_client_reply_off(puerta, other):
    with puerta.client() as c:
        c.send_raw(encode("CLIENT", "REPLY", "OFF") + encode("BLPOP", key(), 0) + encode("CLIENT", "REPLY", "ON"))
        assert c.silent(0.1)
        other.ask("RPUSH", key(), "x")
        assert c.read() == b"OK"


def test_a_plain_server_behind(server):
    server.ask("FLUSHALL")
    with Puerta([server.address], topology="single") as p, p.client() as c, p.client() as other:
        c.send("BLPOP", "a", "b", 0)
        wait_blocked(server, 1)
        other.ask("RPUSH", "b", "x")
        assert c.read() == [b"b", b"x"]


def test_a_node_with_a_password(cluster):
    """The greeting of a connection for blocking stands behind its login."""
    node = harness.RedisNode(harness.temporary_folder("puerta-plain-"), harness.free_port(), {"save": "", "requirepass": "secret"})
    arguments = [harness.REDIS_SERVER, "--port", str(node.port), "--dir", node.folder, "--save", "", "--requirepass", "secret"]
    node.process = harness.start(arguments, node.log, cwd=node.folder)
    try:
        with Puerta([node.address], topology="single", upstream_password="secret") as p, p.client() as c, p.client() as other:
            me = c.ask("CLIENT", "ID")
            c.send("BLPOP", "a", 0)
            wait_for("the flag", lambda: b"flags=b" in other.ask("CLIENT", "LIST", "ID", me))
            assert other.ask("CLIENT", "UNBLOCK", me, "ERROR") == 1
            assert c.read().text.startswith("UNBLOCKED")
    finally:
        node.stop()
