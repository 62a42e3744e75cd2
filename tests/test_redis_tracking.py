"""CLIENT TRACKING through Puerta: who hears of which change, in which order, and what happens when nodes and slots go."""
import re
import time

import pytest

import harness
from harness import Puerta, RespClient, RespPush

NONE_LEFT = "ERR not executed: no connection of its own is left for this client (max_own)"


def keys_everywhere(cluster, name="t"):
    return [cluster.key_on(i, name) for i in range(3)]


def invalid(keys):
    return [b"invalidate", None if keys is None else [k.encode() for k in keys]]


def tracker(p, *options, hello="3"):
    c = p.client()
    c.ask("HELLO", hello)
    assert c.ask("CLIENT", "TRACKING", "ON", *options) == b"OK"
    return c


def listener(p, hello="2"):
    c = p.client()
    c.ask("HELLO", hello)
    number = c.ask("CLIENT", "ID")
    c.ask("SUBSCRIBE", "__redis__:invalidate")
    return c, str(number)


@pytest.fixture
def writer(puerta):
    with puerta.client() as c:
        c.ask("FLUSHALL")
        yield c


def test_texts_are_those_of_redis(puerta, server):
    commands = [
        ("CLIENT", "TRACKINGINFO"), ("CLIENT", "GETREDIR"), ("CLIENT", "CACHING", "YES"), ("CLIENT", "CACHING"), ("CLIENT", "TRACKING"), ("CLIENT", "TRACKING", "maybe"),
        ("CLIENT", "TRACKING", "ON", "FAST"), ("CLIENT", "TRACKING", "ON", "REDIRECT"), ("CLIENT", "TRACKING", "ON", "REDIRECT", "x"),
        ("CLIENT", "TRACKING", "ON", "REDIRECT", "99999999"), ("CLIENT", "TRACKING", "ON", "PREFIX", "a"), ("CLIENT", "TRACKING", "ON", "BCAST", "OPTIN"),
        ("CLIENT", "TRACKING", "ON", "OPTIN", "OPTOUT"), ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "ab", "PREFIX", "a"), ("CLIENT", "TRACKINGINFO"),
        ("CLIENT", "TRACKING", "ON", "OPTIN"), ("CLIENT", "TRACKINGINFO"), ("CLIENT", "GETREDIR"), ("CLIENT", "CACHING", "NO"), ("CLIENT", "CACHING", "x"),
        ("CLIENT", "CACHING", "YES"), ("CLIENT", "TRACKINGINFO"), ("CLIENT", "TRACKING", "ON", "OPTOUT"), ("CLIENT", "TRACKING", "ON", "BCAST"),
        ("CLIENT", "TRACKING", "OFF"), ("CLIENT", "TRACKINGINFO"), ("CLIENT", "TRACKING", "ON", "OPTOUT", "NOLOOP"), ("CLIENT", "CACHING", "NO"), ("CLIENT", "TRACKINGINFO"),
        ("CLIENT", "TRACKING", "OFF"), ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "foo", "PREFIX", "bar"), ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "fo"),
        ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "barb"), ("CLIENT", "TRACKING", "ON"), ("CLIENT", "TRACKING", "OFF"), ("CLIENT", "GETREDIR"),
    ]
    for hello in ("2", "3"):
        with puerta.client() as ours, RespClient(server.port) as theirs:
            ours.ask("HELLO", hello)
            theirs.ask("HELLO", hello)
            for command in commands:
                a, b = ours.try_ask(*command), theirs.try_ask(*command)
                assert type(a) is type(b) and str(a) == str(b), command


def test_what_was_read_and_is_changed(puerta, cluster, writer):
    with tracker(puerta) as c:
        keys = keys_everywhere(cluster)
        for key in keys:
            writer.ask("SET", key, "1")
            assert c.ask("GET", key) == b"1"
        for key in keys:
            writer.ask("SET", key, "2")
            said = c.read()
            assert isinstance(said, RespPush) and said == invalid([key])
            writer.ask("SET", key, "3")
        assert c.silent(0.1) and c.ask("MGET", *keys) == [b"3"] * 3
        for key in keys:
            writer.ask("DEL", key)
        assert sorted(str(c.read()) for _ in keys) == sorted(str(invalid([k])) for k in keys)
        assert c.ask("MGET", *keys) == [None] * 3
        writer.ask("FLUSHALL")
        assert c.read() == invalid(None) and c.silent(0.2)
        assert b" flags=t " in c.ask("CLIENT", "INFO") and b"tracking_clients:1\r\n" in c.ask("INFO", "clients")
        assert c.ask("CLIENT", "TRACKING", "OFF") == b"OK" and c.ask("GET", keys[0]) is None
        writer.ask("SET", keys[0], "5")
        assert c.silent(0.1)


def test_messages_stand_behind_the_answers_that_they_make_void(puerta, cluster, writer):
    key, other = cluster.key_on(0, "own"), cluster.key_on(1, "own")
    with tracker(puerta) as c:
        for _ in range(50):
            c.send_raw(b"".join(harness.encode(*q) for q in (("SET", key, "1"), ("GET", other), ("GET", key), ("SET", key, "2"), ("MGET", key, other), ("PING",))))
            replies = [c.read() for _ in range(7)]
            at = next(i for i, r in enumerate(replies) if isinstance(r, RespPush))
            assert replies[at] == invalid([key]) and at >= 3
            del replies[at]
            assert replies == [b"OK", None, b"1", b"OK", [b"2", None], b"PONG"]
            c.send("SET", key, "x")
            assert sorted(str(c.read()) for _ in range(2)) == sorted((str(b"OK"), str(invalid([key]))))


def test_pushes_are_never_within_a_long_answer(puerta, cluster, writer):
    long_one, key = cluster.key_on(0, "long"), cluster.key_on(1, "short")
    writer.ask("SET", long_one, "x" * 3000000)
    with tracker(puerta) as c:
        for _ in range(5):
            c.ask("GET", key)
            c.send("GET", long_one)
            writer.ask("INCR", key)
            got = [c.read(), c.read()]
            assert sorted(len(g) for g in got) == [2, 3000000]


def test_a_message_longer_than_the_buffer(puerta, cluster, writer):
    key, small = cluster.key_on(0, "k" * 50000), cluster.key_on(0, "small")
    with tracker(puerta) as c:
        for _ in range(3):
            c.ask("MGET", key, small)
            writer.pipeline([("SET", key, "1"), ("SET", small, "1")])
            assert c.read() == invalid(None) and c.read() == invalid([small]) and c.silent(0.05)


@pytest.mark.parametrize("hello", ["2", "3"])
def test_redirect(puerta, cluster, writer, hello):
    keys = keys_everywhere(cluster, "redirected")
    ear, number = listener(puerta)
    ear3, number3 = listener(puerta, "3")
    with ear, ear3, tracker(puerta, "REDIRECT", number, hello=hello) as c:
        assert c.ask("CLIENT", "GETREDIR") == int(number)
        for key in keys:
            c.ask("GET", key)
            writer.ask("SET", key, "1")
            assert ear.read() == [b"message", b"__redis__:invalidate", [key.encode()]]
        assert c.ask("CLIENT", "TRACKING", "ON", "REDIRECT", number3) == b"OK"
        for key in keys:
            assert c.ask("GET", key) == b"1"
        writer.ask("SET", keys[1], "2")
        assert ear3.read() == invalid([keys[1]])
        assert c.ask("HELLO", "2" if hello == "3" else "3") and c.ask("GET", keys[1]) == b"2"
        writer.ask("MSET", keys[0], "3", keys[1], "3")
        assert sorted(str(ear3.read()) for _ in range(2)) == sorted(str(invalid([k])) for k in keys[:2])
        writer.ask("FLUSHALL")
        assert ear3.read() == invalid(None)
        assert c.ask("HELLO", "3") and c.ask("GET", keys[0]) is None
        ear3.close()
        harness.wait_for("the listener to go", lambda: c.try_ask("CLIENT", "LIST", "ID", number3) == b"")
        writer.ask("SET", keys[0], "4")
        assert c.read() == [b"tracking-redir-broken", int(number3)]
        assert b"broken_redirect" in c.ask("CLIENT", "TRACKINGINFO")[b"flags"] and ear.silent(0.05)


def test_bcast(puerta, cluster, writer):
    with tracker(puerta, "BCAST", "PREFIX", "user:", "PREFIX", "{", "NOLOOP") as c:
        keys = keys_everywhere(cluster, "bcast")
        for key in keys:
            writer.ask("SET", key, "1")
            assert c.read() == invalid([key])
            c.ask("SET", key, "2")
        writer.ask("SET", "other", "1")
        assert c.silent(0.1)
        assert c.ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "more:") == b"OK"
        for i in range(20):
            writer.ask("SET", "more:%d" % i, "1")
            assert c.read() == invalid(["more:%d" % i])


def test_opt_in_and_out(puerta, cluster, writer):
    keys = keys_everywhere(cluster, "opt")
    with tracker(puerta, "OPTIN") as c:
        c.ask("MGET", *keys)
        assert c.ask("CLIENT", "CACHING", "YES") == b"OK" and c.ask("MGET", *keys[:2]) == [None] * 2 and c.ask("GET", keys[2]) is None
        writer.ask("MSET", *sum(([k, "1"] for k in keys), []))
        assert sorted(str(c.read()) for _ in range(2)) == sorted(str(invalid([k])) for k in keys[:2]) and c.silent(0.1)
        replies = c.pipeline([("CLIENT", "CACHING", "YES"), ("MULTI",), ("GET", keys[0]), ("EXEC",), ("GET", keys[1])])
        assert replies[3] == [b"1"]
        writer.ask("MSET", *sum(([k, "2"] for k in keys), []))
        assert c.read() == invalid([keys[0]]) and c.silent(0.1)
    with tracker(puerta, "OPTOUT") as c:
        assert c.ask("GET", keys[0]) == b"2" and c.ask("CLIENT", "CACHING", "NO") == b"OK" and c.ask("GET", keys[1]) == b"2"
        writer.ask("MSET", *sum(([k, "3"] for k in keys), []))
        assert c.read() == invalid([keys[0]]) and c.silent(0.1)


def test_reset_ends_it_and_mute_clients_hear(puerta, cluster, writer):
    key = cluster.key_on(0, "mute")
    with tracker(puerta) as c:
        c.ask("GET", key)
        c.send("CLIENT", "REPLY", "OFF")
        c.send("SET", cluster.key_on(1, "mute"), "1")
        time.sleep(0.1)
        writer.ask("SET", key, "1")
        assert c.read() == invalid([key])
        assert c.ask("CLIENT", "REPLY", "ON") == b"OK" and c.ask("GET", key) == b"1"
        assert c.ask("RESET") == b"RESET" and c.ask("CLIENT", "GETREDIR") == -1
        writer.ask("SET", key, "2")
        assert c.silent(0.1) and c.ask("GET", key) == b"2"


def test_a_blocked_client_hears(puerta, cluster, writer):
    key, queue = cluster.key_on(0, "b"), cluster.key_on(1, "q")
    with tracker(puerta) as c:
        c.ask("GET", key)
        c.send("BLPOP", queue, "0")
        time.sleep(0.2)
        writer.ask("SET", key, "1")
        assert c.read() == invalid([key])
        writer.ask("RPUSH", queue, "x")
        assert c.read() == [queue.encode(), b"x"]


def test_slots_that_move_make_all_void(own_cluster):
    slot = harness.SLOTS // 6
    key = "{%s}moves" % harness.tag_for_slot(slot)
    source, target = own_cluster.masters[:2]
    with Puerta(own_cluster, refresh_interval="1s") as p, tracker(p) as c, tracker(p, "BCAST") as b, p.client() as writer:
        assert c.ask("GET", key) is None  # a negative answer is kept too, and moves with nobody
        own_cluster.migrate_slot(slot, source, target)
        assert c.read() == invalid(None) and b.read() == invalid(None)
        assert c.ask("GET", key) is None
        writer.ask("SET", key, "1")
        assert c.read() == invalid([key]) and b.read() == invalid([key])


def test_a_lost_node_makes_all_void(own_cluster):
    key = own_cluster.key_on(2, "lost")
    with Puerta(own_cluster, failover_wait="20s") as p, tracker(p) as c, tracker(p, "BCAST") as b, p.client() as writer:
        ear, number = listener(p)
        with ear, tracker(p, "REDIRECT", number, hello="2") as r:
            writer.ask("SET", key, "1")
            assert b.read() == invalid([key]) and c.ask("GET", key) == b"1" and r.ask("GET", key) == b"1"
            own_cluster.masters[2].kill()
            assert c.read(timeout=20) == invalid(None) and b.read(timeout=20) == invalid(None)
            assert ear.read(timeout=20) == [b"message", b"__redis__:invalidate", None]
            assert c.ask("GET", key, timeout=40) in (b"1", None) and r.ask("GET", key, timeout=40) in (b"1", None)
            while not ear.silent(0.5):
                ear.read()
            writer.ask("SET", key, "2", timeout=40)
            for client in (c, b):
                said = client.read(timeout=20)
                while said == invalid(None):
                    said = client.read(timeout=20)
                assert said == invalid([key])
            assert ear.read(timeout=20) == [b"message", b"__redis__:invalidate", [key.encode()]]


def test_no_connection_is_left(cluster):
    with Puerta(cluster, max_own=3) as p, tracker(p, "BCAST") as b, p.client() as c:
        assert c.try_ask("CLIENT", "TRACKING", "ON").text == NONE_LEFT and c.ask("CLIENT", "GETREDIR") == -1 and c.ask("PING") == b"PONG"
        assert b.ask("CLIENT", "TRACKING", "OFF") == b"OK"
        assert c.ask("HELLO", "3") and c.ask("CLIENT", "TRACKING", "ON") == b"OK" and c.ask("GET", cluster.key_on(0)) is None
        assert b.try_ask("CLIENT", "TRACKING", "ON", "BCAST").text == NONE_LEFT and isinstance(b.ask("GET", "a"), (bytes, type(None)))
        assert b.ask("CLIENT", "GETREDIR") == -1
    with Puerta(cluster, max_own=0) as p, p.client() as c:
        assert c.try_ask("CLIENT", "TRACKING", "ON").text == NONE_LEFT
    with Puerta(cluster) as p, p.client() as c:
        text = c.try_ask("CLIENT", "TRACKING", "ON", "BCAST", *sum((["PREFIX", "p%02d" % i] for i in range(33)), [])).text
        assert text == "ERR more prefixes than this proxy keeps for one client (32, and 1024 bytes in all)"


def test_tracking_with_a_login(cluster):
    for node in cluster.nodes:
        node.ask("ACL", "SETUSER", "bob", "reset", "on", ">x", "+@all", "~*", "&*")
    key = cluster.key_on(1, "bob")
    try:
        with Puerta(cluster) as p, p.client() as c, p.client() as writer:
            c.ask("HELLO", "3", "AUTH", "bob", "x")
            assert c.ask("CLIENT", "TRACKING", "ON") == b"OK" and c.ask("GET", key) is None and c.ask("ACL", "WHOAMI") == b"bob"
            writer.ask("SET", key, "1")
            assert c.read() == invalid([key]) and c.ask("GET", key) == b"1"
            assert c.ask("AUTH", "default", "") == b"OK" and c.read() == invalid(None)
            assert c.ask("GET", key) == b"1"
            writer.ask("SET", key, "2")
            assert c.read() == invalid([key])
            writer.ask("DEL", key)
    finally:
        for node in cluster.nodes:
            node.ask("ACL", "DELUSER", "bob")


def test_a_client_that_does_not_read_its_messages_is_closed(cluster):
    with Puerta(cluster, client_window="64k") as p, p.client() as c, p.client() as writer:
        c.ask("HELLO", "3")
        c.ask("CLIENT", "TRACKING", "ON", "BCAST")
        name = "x" * 1000
        with pytest.raises(AssertionError):
            for i in range(200):
                writer.pipeline([("SET", "%s%d" % (name, n), "1") for n in range(100)])
                assert b" flags=tB " in writer.ask("CLIENT", "LIST")
        writer.ask("FLUSHALL")


def tracked_at(node):
    """The node's numbers for connections that track."""
    lines = node.ask("CLIENT", "LIST").decode().splitlines()
    return [line.split()[0][3:] for line in lines if " flags=t" in line]


def test_a_connection_that_is_lost_again_and_again_leaves_nothing_behind(cluster, writer):
    key, node = cluster.key_on(0, "ears"), cluster.masters[0]
    with Puerta(cluster, max_own=4) as p:
        ear, number = listener(p)
        with ear, tracker(p, "REDIRECT", number, hello="2") as c:
            for _ in range(8):
                assert c.ask("GET", key) is None
                (mine,) = harness.wait_for("one connection that tracks", lambda: tracked_at(node))
                assert node.ask("CLIENT", "KILL", "ID", mine) == 1
                assert ear.read() == [b"message", b"__redis__:invalidate", None]
            assert c.ask("GET", key) is None
            writer.ask("SET", key, "1")
            assert ear.read() == [b"message", b"__redis__:invalidate", [key.encode()]]


def test_an_ear_without_its_connection_is_given_back(cluster):
    with Puerta(cluster, max_own=3) as p:
        ear, number = listener(p)
        with ear, tracker(p, "REDIRECT", number, hello="2") as c:
            assert c.ask("GET", cluster.key_on(0)) is None
            assert c.try_ask("GET", cluster.key_on(1)).text == NONE_LEFT and c.ask("GET", cluster.key_on(0)) is None
            with tracker(p) as other:
                assert other.ask("GET", cluster.key_on(1)) is None


def test_who_does_not_read_is_closed_when_a_slot_moves_and_nobody_else_notices(own_cluster):
    key, slot = own_cluster.key_on(0, "long"), harness.SLOTS // 6
    source, target = own_cluster.masters[:2]
    with Puerta(own_cluster, max_own=3, client_window="64k", send_buffer="16k", refresh_interval="1s") as p, p.client() as w:
        w.ask("SET", key, "x" * 60000)
        c = p.client(rcvbuf=4096)
        with c:
            c.ask("HELLO", "3")
            c.ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "none:")
            c.send_raw(harness.encode("GET", key) * 30)
            harness.wait_for("its window to be full", lambda: re.search(rb" obl=(?!0 )\d{5,} .* redir=0 ", w.ask("CLIENT", "LIST")))
            own_cluster.migrate_slot(slot, source, target)
            harness.wait_for("it to be closed", lambda: b" redir=0 " not in w.ask("CLIENT", "LIST"))
        with tracker(p, "BCAST") as b:
            w.ask("SET", key, "1")
            assert b.read() == invalid([key])


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_failover_needs_no_more_connections_than_there_are_masters(own_cluster, how):
    key = own_cluster.key_on(2, "exact")
    with Puerta(own_cluster, max_own=3, failover_wait="20s") as p, tracker(p, "BCAST") as b, p.client() as w:
        getattr(own_cluster.masters[2], how)()
        w.try_ask("SET", key, "1", timeout=40)
        own_cluster.wait_promoted(own_cluster.replicas[2][0])
        harness.wait_for("the new master's word", lambda: w.try_ask("SET", key, "2", timeout=40) == b"OK")

        def heard():
            w.ask("SET", key, "3", timeout=40)
            said = [b.read() for _ in iter(lambda: b.silent(0.2), True)]
            return invalid([key]) in said

        harness.wait_for("it to hear of changes there", heard)
        assert b.ask("PING") == b"PONG"


def test_messages_behind_a_frozen_node_take_nobodys_records(own_cluster):
    """What waits for an answer that does not come lies in few records, so that other clients still find some."""
    frozen, key = own_cluster.masters[2], own_cluster.key_on(2, "slow")
    names = ["%s%d" % (own_cluster.key_on(0, "many"), i) for i in range(1000)]
    with Puerta(own_cluster, max_requests=256, request_timeout="20s", suspect_after="10s") as p, p.client() as w, tracker(p, "BCAST") as b:
        frozen.freeze()
        try:
            b.send("GET", key)
            for name in names:
                assert w.ask("SET", name, "1") == b"OK"
        finally:
            frozen.thaw()
        said = [b.read() for _ in range(len(names) + 1)]
        assert said[0] is None and [s for s in said[1:] if s != invalid(None)] == [invalid([n]) for n in names]
        assert b"\r\nrequests_full:0\r\n" in w.ask("INFO", "puerta")


def test_a_first_question_to_a_frozen_master_is_answered_by_the_next(own_cluster):
    """Neither the connection that it would take nor the one that would listen beside it holds it back."""
    with Puerta(own_cluster, failover_wait="20s") as p:
        ear, number = listener(p)
        with ear, tracker(p, "REDIRECT", number, hello="2") as c:
            own_cluster.masters[2].freeze()
            assert c.ask("GET", own_cluster.key_on(2, "first"), timeout=40) is None


@pytest.mark.parametrize("kind", ["login", "tracking"])
def test_what_is_written_while_a_node_is_suspect_waits_for_the_next_one(own_cluster, kind):
    frozen, key = own_cluster.masters[2], own_cluster.key_on(2, "suspect")
    for node in own_cluster.nodes:
        node.ask("ACL", "SETUSER", "bob", "reset", "on", ">x", "+@all", "~*", "&*")
    with Puerta(own_cluster, failover_wait="20s") as p, p.client() as c, p.client() as w:
        c.ask("HELLO", "3", *(("AUTH", "bob", "x") if kind == "login" else ()))
        assert kind == "login" or c.ask("CLIENT", "TRACKING", "ON", "NOLOOP") == b"OK"
        assert c.ask("SET", key, "0") == b"OK"
        frozen.freeze()
        w.send("GET", key)
        with p.client() as looks:
            harness.wait_for("the node to be suspect", lambda: re.search(rb"address=%s,state=(suspect|down)" % frozen.address.encode(), looks.ask("INFO", "puerta")))
        c.send("SET", key, "1")
        c.send("INCR", key)
        assert w.read(timeout=40) in (b"0", b"1", None)
        said = [c.read(timeout=40) for _ in range(2)]
        while any(isinstance(s, RespPush) for s in said):
            said = [s for s in said if not isinstance(s, RespPush)] + [c.read(timeout=40)]
        assert said == [b"OK", 2]
