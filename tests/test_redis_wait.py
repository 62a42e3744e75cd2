"""WAIT and WAITAOF through Puerta: how many replicas have what a client has written, over all nodes, without holding up anybody else."""
import socket
import threading
import time

import pytest

import harness
from harness import Puerta, RedisCluster, RespClient, RespError, encode, slot_of, tag_for_slot, wait_for


@pytest.fixture(scope="module")
def replicated():
    with RedisCluster(masters=3, replicas=1, node_timeout_ms=60000) as c:
        yield c


@pytest.fixture(scope="module")
def proxy(replicated):
    with Puerta(replicated) as p:
        yield p


@pytest.fixture
def me(proxy):
    with proxy.client() as c:
        yield c


@pytest.fixture
def thawed(replicated):
    """Replicas may be frozen; they go on afterwards."""
    yield replicated
    for [replica] in replicated.replicas:
        replica.thaw()
    replicated.wait_whole()


def key(master, name="k"):
    return "{%s}%s" % (tag_for_slot(harness.SLOTS * master // 3 + 11), name)


def ms(client, *command):
    begun = time.monotonic()
    reply = client.try_ask(*command)
    return reply, (time.monotonic() - begun) * 1000


# ---- numbers ----

def test_what_is_written_is_on_the_replica(me, replicated):
    for n in range(30):
        me.ask("SET", key(0), n)
        reply, took = ms(me, "WAIT", 1, 5000)
        assert reply == 1 and took < 1500 * harness.SLOW
        assert replicated.replicas[0][0].process.poll() is None
        with RespClient(replicated.replicas[0][0].port) as r:
            r.ask("READONLY")
            assert r.ask("GET", key(0)) == b"%d" % n


def test_it_is_quick(me):
    """The replicas are made to confirm at once; by themselves they do so each second."""
    took = []
    for n in range(10):
        me.ask("SET", key(0), n)
        took.append(ms(me, "WAIT", 1, 5000)[1])
    assert sorted(took)[5] < 300 * harness.SLOW, took


def test_more_than_there_are(me):
    me.ask("SET", key(0), 1)
    reply, took = ms(me, "WAIT", 2, 300)
    assert reply == 1 and 280 <= took < 800 * harness.SLOW
    assert me.ask("WAIT", 0, 0) in (0, 1) and me.ask("WAIT", -1, 0) in (0, 1)


def test_one_that_has_written_nothing(me):
    assert me.ask("WAIT", 0, 0) == 1 and me.ask("WAIT", 1, 0) == 1
    reply, took = ms(me, "WAIT", 2, 200)
    assert reply == 1 and took >= 180


def test_texts_are_the_servers(me, replicated):
    with RespClient(replicated.masters[0].port) as real:
        for command in (("WAIT",), ("WAIT", 1), ("WAIT", "x", 0), ("WAIT", 0, "x"), ("WAIT", 0, -1), ("WAIT", 1, 2, 3), ("WAITAOF", "x", 0, 0), ("WAITAOF", 0)):
            mine, theirs = me.try_ask(*command), real.try_ask(*command)
            if command[0] == "WAITAOF" and len(command) == 2:  # which this server does not know
                assert mine.text == "ERR wrong number of arguments for 'waitaof' command"
            else:
                assert mine.text == theirs.text, command
    assert me.try_ask("WAITAOF", 0, 0, 0).text.startswith("ERR unknown command")
    assert me.pipeline([("MULTI",), ("SET", key(0), 1), ("WAIT", 0, 0), ("EXEC",)])[-1][0] == b"OK"


# ---- replicas that do not confirm ----

def test_a_frozen_replica(me, thawed):
    me.ask("SET", key(0), "1")
    assert me.ask("WAIT", 1, 5000) == 1
    thawed.replicas[0][0].freeze()
    reply, took = ms(me, "WAIT", 1, 5000)
    assert reply == 1 and took < 200 * harness.SLOW, "what it had confirmed before stays confirmed"
    me.ask("SET", key(0), "2")
    reply, took = ms(me, "WAIT", 1, 400)
    assert reply == 0 and 380 <= took < 1000 * harness.SLOW
    me.send("WAIT", 1, 0)
    assert me.silent(0.3)
    thawed.replicas[0][0].thaw()
    assert me.read() == 1


def test_the_least_of_several_masters(me, thawed):
    for m in range(3):
        me.ask("SET", key(m), "1")
    assert me.ask("WAIT", 1, 5000) == 1
    thawed.replicas[2][0].freeze()
    me.ask("SET", key(0), "2")
    assert me.ask("WAIT", 1, 5000) == 1, "on the third nothing new was written"
    me.ask("SET", key(2), "2")
    assert me.ask("WAIT", 1, 300) == 0
    thawed.replicas[2][0].thaw()
    assert me.ask("WAIT", 1, 5000) == 1


def test_writes_over_any_connection_count(me, proxy, thawed):
    """Transactions with WATCH, blocking pops and long values go over leases."""
    writes = [lambda: me.pipeline([("WATCH", key(0)), ("MULTI",), ("SET", key(0), "w"), ("EXEC",)]),
              lambda: me.pipeline([("MULTI",), ("SET", key(0), "w"), ("EXEC",)]),
              lambda: me.ask("BLPOP", key(0, "list"), 0), lambda: me.ask("SET", key(0, "long"), b"v" * 3000000),
              lambda: me.ask("EVAL", "return redis.call('set', KEYS[1], 'x')", 1, key(0))]
    for write in writes:
        with proxy.client() as other:
            other.ask("RPUSH", key(0, "list"), "x")
            other.ask("WAIT", 1, 5000)
        thawed.replicas[0][0].freeze()
        write()
        assert me.ask("WAIT", 1, 200) == 0
        thawed.replicas[0][0].thaw()
        assert me.ask("WAIT", 1, 5000) == 1
    me.ask("DEL", key(0, "long"))


# ---- others ----

def test_others_are_not_stopped(me, proxy, thawed):
    thawed.replicas[0][0].freeze()
    stopping, worst, failures = threading.Event(), [0.0], []

    def work(i):
        try:
            with proxy.client() as c:
                n = 0
                while not stopping.is_set():
                    begun = time.monotonic()
                    assert c.ask("SET", key(0, "other%d" % i), n) == b"OK" and c.ask("GET", key(0, "other%d" % i)) == b"%d" % n
                    worst[0] = max(worst[0], time.monotonic() - begun)
                    n += 1
        except BaseException as e:  # noqa: BLE001 - reported below
            failures.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for _ in range(3):
        me.ask("SET", key(0), "1")
        assert me.ask("WAIT", 1, 500) == 0
    stopping.set()
    for t in threads:
        t.join()
    assert not failures, failures
    assert worst[0] < 0.25 * harness.SLOW, "others waited %.3f s" % worst[0]


def test_in_order(me):
    assert me.pipeline([("SET", key(0), "1"), ("SET", key(1), "1"), ("WAIT", 1, 5000), ("GET", key(0)), ("WAIT", 1, 5000), ("PING",)]) == [
        b"OK", b"OK", 1, b"1", 1, b"PONG"]


def test_one_that_leaves_or_is_let_go(me, proxy, thawed):
    thawed.replicas[0][0].freeze()
    with proxy.client() as c, proxy.client() as half:
        mine = c.ask("CLIENT", "ID")
        for form, answer in (("TIMEOUT", 0), ("ERROR", "UNBLOCKED client unblocked via CLIENT UNBLOCK")):
            c.ask("SET", key(0), "1")
            c.send("WAIT", 1, 0)
            wait_for("the flag", lambda: b"flags=b" in me.ask("CLIENT", "LIST", "ID", mine))
            assert me.ask("CLIENT", "UNBLOCK", mine, form) == 1
            reply = c.read()
            assert (reply.text if isinstance(reply, RespError) else reply) == answer
        c.send("WAIT", 1, 0)
        half.send_raw(encode("SET", key(0), "1") + encode("WAIT", 1, 0))
        half.sock.shutdown(socket.SHUT_WR)
        assert half.read() == b"OK" and half.at_end()
    wait_for("their connections to be gone", lambda: me.ask("CLIENT", "LIST").count(b"\n") == 1)


def test_at_the_end(thawed):
    thawed.replicas[0][0].freeze()
    p = Puerta(thawed, stop_timeout="10s")
    with p.client() as c:
        c.ask("SET", key(0), "1")
        c.send("WAIT", 1, 0)
        assert c.silent(0.2)
        begun = time.monotonic()
        p.stop()
        assert time.monotonic() - begun < 5 * harness.SLOW
        assert c.read() == 0 and c.at_end()


# ---- nodes that are lost ----

@pytest.mark.parametrize("when", ["before", "while"])
def test_a_lost_master(own_cluster, when):
    master, [replica] = own_cluster.masters[0], own_cluster.replicas[0]
    with Puerta(own_cluster, failover_wait="30s") as p, p.client() as c:
        c.ask("SET", key(0), "1")
        assert c.ask("WAIT", 1, 5000) == 1
        if when == "while":
            c.send("WAIT", 2, 0)
            assert c.silent(0.2)
            master.kill()
        else:
            master.kill()
            own_cluster.wait_promoted(replica)
            c.send("WAIT", 1, 0)
        reply = c.read(timeout=40)
        assert reply.text == "ERR WAIT cannot tell: 127.0.0.1:%d, which this client has written to, has been lost" % master.port
        wait_for("the new master to serve", lambda: c.try_ask("SET", key(0), "2") == b"OK", 30)
        assert c.ask("WAIT", 1, 300) == 0, "the new master has no replica"
        assert c.ask("WAIT", 0, 0) == 0


def test_a_master_that_becomes_a_replica(own_cluster):
    master, [replica] = own_cluster.masters[0], own_cluster.replicas[0]
    with Puerta(own_cluster) as p, p.client() as c:
        c.ask("SET", key(0), "1")
        assert c.ask("WAIT", 1, 5000) == 1
        c.ask("SET", key(0), "1b")
        replica.ask("CLUSTER", "FAILOVER")
        own_cluster.wait_promoted(replica)
        own_cluster.wait_whole()
        assert c.try_ask("WAIT", 1, 1000).text.endswith("is a master no more")
        c.ask("SET", key(0), "2")
        assert c.ask("WAIT", 1, 5000) == 1


# ---- WAITAOF, which the server at hand does not know: nodes that are written here ----

class Node(threading.Thread):
    """Two such make a cluster. It knows WAITAOF of its connection's last write: as many as `confirms` says, else it waits."""

    def __init__(self, port, ports):
        super().__init__(daemon=True)
        self.ports, self.port = ports, port
        self.confirms = (1, 1)
        self.wrote_on, self.waited_on, self.asked = {}, [], []
        self.listener = socket.create_server(("127.0.0.1", port))
        self.start()

    def run(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        c = RespClient.__new__(RespClient)
        c.sock, c.buf, c.timeout = s, bytearray(), 3600
        name = s.fileno(), id(s)
        try:
            while True:
                args = [a.decode() for a in c.read()]
                s.sendall(self.answer(name, args))
        except (OSError, EOFError):
            s.close()

    def answer(self, name, args):
        word = args[0].upper()
        if word == "CLUSTER":
            half = harness.SLOTS // 2
            return b"*2\r\n" + b"".join(b"*3\r\n:%d\r\n:%d\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$40\r\n%040d\r\n" % (i * half, i * half + half - 1, p, p)
                                        for i, p in enumerate(self.ports))
        if word == "SET":
            self.wrote_on.setdefault(args[2], []).append(name)
        elif word == "GET":
            self.asked.append(name)
        elif word == "WAITAOF":
            self.waited_on.append(name)
            deadline = time.monotonic() + float(args[3]) / 1000
            while time.monotonic() < deadline and not all(a >= int(b) for a, b in zip(self.confirms, args[1:3])):
                time.sleep(0.001)
            return b"*2\r\n:%d\r\n:%d\r\n" % self.confirms
        return b"+PONG\r\n" if word == "PING" else b"$-1\r\n" if word in ("GET", "EXISTS") else b"+OK\r\n"


@pytest.fixture
def fakes():
    ports = [harness.free_port(), harness.free_port()]
    nodes = [Node(p, ports) for p in ports]
    yield nodes
    for n in nodes:
        n.listener.close()


def test_waitaof(fakes):
    a, b = (next(k for k in ("k%d" % n for n in range(99)) if slot_of(k) * 2 // harness.SLOTS == i) for i in (0, 1))
    with Puerta(["127.0.0.1:%d" % n.port for n in fakes], max_own=2) as p, p.client() as c, p.client() as other:
        c.ask("SET", a, "first")
        assert c.ask("WAITAOF", 1, 1, 0) == [1, 1]
        assert fakes[0].waited_on == fakes[0].wrote_on["first"] and fakes[1].waited_on == [], "on the connection that carried the write, nowhere else"
        # From now on it has its own connections, and others work meanwhile.
        fakes[0].confirms, fakes[1].confirms = (1, 0), (0, 2)
        assert c.pipeline([("SET", a, "second"), ("SET", b, "second"), ("GET", a)]) == [b"OK", b"OK", None]
        shared = fakes[0].wrote_on["first"][0]
        assert fakes[0].wrote_on["second"] != [shared] and fakes[0].asked[-1] != shared
        c.send("WAITAOF", 1, 1, 700)
        for n in range(50):
            begun = time.monotonic()
            assert other.ask("SET", a, "other") == b"OK" and other.ask("SET", b, "other") == b"OK"
            assert time.monotonic() - begun < 0.3 * harness.SLOW
        assert fakes[0].wrote_on["other"][0] == shared
        assert c.read() == [0, 0], "pairwise the least"
        assert set(fakes[0].waited_on[1:]) == set(fakes[0].wrote_on["second"])
        c.send("WAITAOF", 1, 1, 0)
        assert c.silent(0.7)
        fakes[0].confirms = fakes[1].confirms = (1, 3)
        assert c.read() == [1, 3]
        # All are in use: an error with a name, for what wants one.
        assert other.ask("WAITAOF", 0, 0, 0) == [1, 3]
        assert other.try_ask("GET", a).text == "ERR not executed: no connection of its own is left for this client (max_own)"
        c.close()
        wait_for("one to be free", lambda: other.try_ask("GET", a) is None)
        assert fakes[0].asked[-1] not in fakes[0].wrote_on["second"], "it is not handed on"


def test_waitaof_and_writes_over_leases(fakes):
    with Puerta(["127.0.0.1:%d" % n.port for n in fakes]) as p, p.client() as c:
        c.pipeline([("WATCH", "k1"), ("UNWATCH",)])
        c.ask("SET", "k1", "v" * 3000000)
        assert c.try_ask("WAITAOF", 1, 0, 0).text.startswith("ERR WAITAOF cannot tell")
        c.ask("SET", "k1", "v")
        assert c.ask("WAITAOF", 1, 0, 0) == [1, 1]


def test_a_lost_node_of_waitaof(fakes):
    with Puerta(["127.0.0.1:%d" % n.port for n in fakes]) as p, p.client() as c:
        fakes[0].confirms = fakes[1].confirms = (0, 0)
        c.ask("SET", "k1", "v")
        c.send("WAITAOF", 1, 0, 0)
        assert c.silent(0.2)
        assert c.try_ask is not None
        p.process.send_signal(15)
        assert c.read() == [0, 0]
