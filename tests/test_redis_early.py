"""Long answers that cannot be asked for twice and come before their client's turn: what another node keeps waiting stands in nobody's way."""
import os
import re
import signal
import threading

import pytest

from harness import Puerta, RespError, encode, tag_for_slot, wait_for

KB = 1 << 10
SLOW = "local t = redis.call('TIME') local e = t[1] * 1e6 + t[2] + ARGV[1] * 1000 " \
       "repeat t = redis.call('TIME') until t[1] * 1e6 + t[2] >= e return 'slow'"
TAKE = "local v = redis.call('GET', KEYS[1]) redis.call('DEL', KEYS[1]) return v"
LOST = "ERR executed, but its answer is lost"

POOLS = {"default": {}, "small": {"chunk_size": "4k", "chunks": 256, "retain_bytes": "64k", "upstream_buffer": "16k", "shared_reply_limit": "4k"}}


def slow(key, ms):
    return ("EVAL", SLOW, 1, key, ms)


def long_value(cluster, key, size):
    value = os.urandom(KB) * (size // KB)
    cluster.owner(key).ask("SET", key, value)
    return value


def served_while_silent(c, neighbour, key):
    """How many requests of the neighbour are answered before c hears anything."""
    served = 0
    while c.silent(0):
        assert neighbour.ask("SET", key, "v") == b"OK" and neighbour.ask("GET", key) == b"v"
        served += 1
    return served


def taking(how, key):
    """The requests that take a value away; of their answers the last has it."""
    return {"getdel": [("GETDEL", key)], "eval": [("EVAL", TAKE, 1, key)],
            "exec": [("MULTI",), ("GET", key), ("DEL", key), ("EXEC",)]}[how]


def taken(answers, how):
    return [a[0] if how == "exec" and isinstance(a, list) else a for a in answers if how != "exec" or not isinstance(a, bytes)]


@pytest.mark.parametrize("how", ["getdel", "eval", "exec"])
@pytest.mark.parametrize("pool", POOLS)
def test_two_clients_that_cross_over_the_nodes(cluster, pool, how):
    """Each asks all nodes for long answers, in opposite orders, round after round, and each gets all of its own."""
    failures = []
    with Puerta(cluster, **POOLS[pool]) as p:
        def work(me, c):
            try:
                for _ in range(12):
                    values = [long_value(cluster, k, 150 * KB) for k in keys[me]]
                    answers = c.pipeline([command for k in keys[me] for command in taking(how, k)])
                    assert taken(answers, how) == values, [str(a)[:100] for a in answers]
            except Exception as e:  # noqa: BLE001 - raised in the main thread
                failures.append(e)

        keys = [[cluster.key_on(i, "cross%d%s" % (me, name)) for name in "ab" for i in ((0, 1, 2) if me else (2, 1, 0))] for me in range(2)]
        clients = [p.client(), p.client()]
        threads = [threading.Thread(target=work, args=pair) for pair in enumerate(clients)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failures, failures


@pytest.mark.parametrize("how", ["getdel", "eval", "exec"])
def test_it_holds_nobody_up_while_another_node_is_slow(cluster, puerta, other, how):
    first, key, again, near = cluster.key_on(0, "first"), cluster.key_on(1, "long"), cluster.key_on(1, "again"), cluster.key_on(1, "near")
    values = [long_value(cluster, key, 300 * KB), long_value(cluster, again, 300 * KB)]
    with puerta.client() as c:
        c.send_raw(b"".join(encode(*k) for k in [slow(first, 1600)] + taking(how, key) + taking(how, again) + [("PING",)]))
        assert served_while_silent(c, other, near) > 50
        answers = [c.read() for _ in range(2 + 2 * len(taking(how, key)))]
        assert answers[0] == b"slow" and answers[-1] == b"PONG"
        assert taken(answers[1:-1], how) == values


@pytest.fixture
def moved(cluster):
    """A key whose slot goes from the first master to the third when it is called, and back after the test."""
    slot = 100
    a, b = cluster.masters[0], cluster.masters[2]
    yield "{%s}moved" % tag_for_slot(slot), lambda: cluster.migrate_slot(slot, a, b)
    if cluster.owner(slot) is b:
        cluster.migrate_slot(slot, b, a)
    cluster.flush()


def test_a_redirect_makes_two_clients_wait_for_each_other(cluster, moved):
    """The first one's first request is sent on, behind the second one's second; its own second stands before the second one's first."""
    key, move = moved
    names = [cluster.key_on(1, "a1"), cluster.key_on(1, "b1"), cluster.key_on(2, "b2")]
    with Puerta(cluster) as p, p.client() as a, p.client() as b:
        value = long_value(cluster, key, 200 * KB)
        values = [long_value(cluster, k, 200 * KB) for k in names]
        source = cluster.owner(key)
        assert b.ask("EXISTS", key) == 1
        move()
        with p.client() as holds:
            holds.send(*slow(cluster.key_on(0, "slow"), 400))
            wait_for("the script to hold its node up", lambda: in_flight(p) == 1)
            a.send_raw(encode("GETDEL", key) + encode("GETDEL", names[0]))
            wait_for("the first client's requests to be sent", lambda: in_flight(p) == 3)
            b.send_raw(encode("GETDEL", names[1]) + encode("GETDEL", names[2]))
            assert holds.silent(0), "the script was over too early to show anything"
            assert [a.read(), a.read()] == [value, values[0]]
            assert [b.read(), b.read()] == values[1:]
            assert holds.read() == b"slow"
        assert source.ask("PING") == b"PONG"


def in_flight(p):
    with p.client() as c:
        return sum(int(n) for n in re.findall(r"queued=(\d+)", c.ask("INFO", "puerta").decode()))


@pytest.mark.parametrize("pool", [{"client_window": "64k"}, POOLS["small"]], ids=["window", "chunks"])
def test_one_too_long_to_be_kept_is_lost_but_not_its_client(cluster, pool):
    """It is dropped when others have waited for a second, and the client hears so. What it asks then waits for its turn, and is not lost."""
    first, key, near, node = cluster.key_on(0, "first"), cluster.key_on(1, "long"), cluster.key_on(1, "near"), cluster.masters[1]
    with Puerta(cluster, **pool) as p, p.client() as c, p.client() as other:
        long_value(cluster, key, 600 * KB)
        c.send_raw(encode(*slow(first, 2500)) + encode("GETDEL", key) + encode("PING"))
        wait_for("the long answer to be under way", lambda: node.ask("EXISTS", key) == 0)
        assert other.ask("SET", near, "v") == b"OK" and c.silent(0), "the other one has waited for the slow node"
        assert c.read() == b"slow"
        answer = c.read()
        assert isinstance(answer, RespError) and answer.text.startswith(LOST), answer
        assert c.read() == b"PONG" and c.ask("EXISTS", key) == 0
        value = long_value(cluster, key, 600 * KB)
        c.send_raw(encode(*slow(first, 1600)) + encode("GETDEL", key) + encode("PING"))
        assert served_while_silent(c, other, near) > 50
        assert [c.read() for _ in range(3)] == [b"slow", value, b"PONG"]


def test_its_node_is_lost_before_its_turn(cluster):
    """Nothing of it has reached the client: that one hears that nobody knows, and goes on. The node is to be lost with a part of it
    sent: Puerta is stopped meanwhile, so that no more of it leaves the node than the system's buffers hold."""
    first, key, node = cluster.key_on(0, "first"), cluster.key_on(1, "long"), cluster.masters[1]
    with Puerta(cluster, chunks=8192, client_window="128m") as p, p.client() as c:
        long_value(cluster, key, 64000 * KB)
        node.freeze()
        try:
            c.send_raw(encode(*slow(first, 1500)) + encode("GETDEL", key) + encode("PING"))
            wait_for("the requests to be sent", lambda: in_flight(p) == 2)
            p.process.send_signal(signal.SIGSTOP)
        finally:
            node.thaw()
        wait_for("the long answer to be under way", lambda: node.ask("EXISTS", key) == 0)
        node.ask("CLIENT", "KILL", "TYPE", "normal")
        p.process.send_signal(signal.SIGCONT)
        assert c.read() == b"slow"
        answer = c.read()
        assert isinstance(answer, RespError) and answer.text.startswith("ERR outcome unknown"), answer
        assert c.read() == b"PONG" and c.ask("EXISTS", key) == 0


def test_its_client_leaves_before_its_turn(cluster):
    first, key, near, node = cluster.key_on(0, "first"), cluster.key_on(1, "long"), cluster.key_on(1, "near"), cluster.masters[1]
    with Puerta(cluster, **POOLS["small"]) as p, p.client() as other:
        idle = free_chunks(other)
        for _ in range(3):
            long_value(cluster, key, 600 * KB)
            with p.client() as c:
                c.send_raw(encode(*slow(first, 300)) + encode("GETDEL", key))
                wait_for("the long answer to be under way", lambda: node.ask("EXISTS", key) == 0)
            assert other.ask("SET", near, "v") == b"OK"
        wait_for("the chunks to be free again", lambda: free_chunks(other) >= idle)


def free_chunks(c):
    return int(re.search(r"free_chunks:(\d+)", c.ask("INFO", "puerta").decode()).group(1))
