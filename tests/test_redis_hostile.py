"""Clients and circumstances that mean harm: what each costs itself, while the answers of the others go on."""
import os
import resource
import socket
import struct
import threading
import time

import harness
from harness import Load, Puerta, RespClient, RespError, encode, wait_for

MB = 1 << 20


class Neighbours:
    """Clients that set and get keys of all nodes while something else happens; each answer is checked and must come in time."""

    def __init__(self, puerta, count=4, worst_s=2.0):
        self.puerta = puerta
        self.worst_allowed = worst_s * harness.SLOW
        self.worst = 0.0
        self.answers = 0
        self.failures = []
        self.stopping = False
        self.threads = [threading.Thread(target=self._run, args=(n, puerta.client(timeout=20))) for n in range(count)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        self.wait_answers(100)
        return self

    def _run(self, n, c):
        try:
            with c:
                i = 0
                while not self.stopping:
                    i += 1
                    key, value = "n:%d:%d" % (n, i % 50), b"%d" % i * 20
                    begun = time.monotonic()
                    got = c.pipeline([("SET", key, value), ("GET", key), ("MGET", key, "n:none", key)])
                    self.worst = max(self.worst, time.monotonic() - begun)
                    assert got == [b"OK", value, [value, None, value]], got
                    self.answers += 3
        except BaseException as e:  # noqa: BLE001 - raised in the main thread
            self.failures.append(e)

    def wait_answers(self, more):
        goal = self.answers + more
        wait_for("%d more answers of the neighbours" % more, lambda: self.failures or self.answers >= goal)
        if self.failures:
            raise self.failures[0]

    def __exit__(self, kind, *_):
        if kind is None:
            self.wait_answers(300)
        self.stopping = True
        for t in self.threads:
            t.join()
        if kind is None:
            assert not self.failures, self.failures
            print("neighbours: %d answers, slowest %.0f ms" % (self.answers, self.worst * 1000))
            assert self.worst < self.worst_allowed, "a neighbour waited %.2f s" % self.worst


def small_pool(cluster, **options):
    return Puerta(cluster, chunk_size="4k", chunks=256, retain_bytes="64k", max_clients=200, **options)


def put_large(cluster, key, size):
    value = os.urandom(MB) * (size // MB)
    cluster.owner(key).ask("SET", key, value, timeout=60)
    return value


# ---- slow readers ----

def test_a_slow_reader_of_100_mb_gets_it_whole(cluster):
    value = put_large(cluster, "slow", 100 * MB)
    try:
        with small_pool(cluster) as p, Neighbours(p) as others, p.client(rcvbuf=16384, timeout=120) as c:
            c.send("GET", "slow")
            head = b"$%d\r\n" % len(value)
            got = bytearray()
            # Between the reads others are served: that is the clock of this test.
            while len(got) < 2 * MB:
                others.wait_answers(10)
                got += c.sock.recv(65536)
            while len(got) < len(head) + len(value) + 2:
                data = c.sock.recv(MB)
                assert data, "closed after %d bytes" % len(got)
                got += data
            assert got == head + value + b"\r\n"
            assert c.ask("PING") == b"PONG"
    finally:
        cluster.flush()


def test_a_reader_that_stops_is_closed_after_client_stall(cluster):
    # Each of the five values passes once over the shared connection, and the neighbours wait for that (it is asked again on a lease): five times
    # 20 MB is far within what they may wait, and far beyond what the kernel keeps for a client that does not read.
    put_large(cluster, "stop", 20 * MB)
    try:
        with small_pool(cluster, client_stall="1s") as p, Neighbours(p) as others:
            stopped = [p.client(rcvbuf=16384) for _ in range(5)]
            for c in stopped:
                c.send("GET", "stop")
            # All of them, before any reads again: one that reads is a slow reader, and served.
            wait_for("a line in the log for each", lambda: p.log_text().count("client_stall") >= len(stopped))
            for c in stopped:
                # Whatever was on its way may still be read; then the connection has ended, far from the whole value.
                assert read_to_end(c) < 20 * MB
            others.wait_answers(300)
    finally:
        cluster.flush()


def read_to_end(c):
    """How many bytes come until the connection ends."""
    n = 0
    c.sock.settimeout(20 * harness.SLOW)
    try:
        while True:
            data = c.sock.recv(MB)
            if not data:
                return n
            n += len(data)
    except ConnectionError:
        return n
    finally:
        c.close()


def test_readers_that_leave_in_the_middle_of_a_large_answer(cluster):
    put_large(cluster, "leave", 20 * MB)
    try:
        with small_pool(cluster) as p, Neighbours(p) as others:
            for n in range(20):
                c = p.client(rcvbuf=16384)
                c.send("GET", "leave")
                assert c.sock.recv(1000).startswith(b"$20971520\r\n"[:8])
                if n % 2:
                    # A reset instead of an orderly end.
                    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                c.close()
            others.wait_answers(300)
    finally:
        cluster.flush()


# ---- slow and greedy writers ----

def test_a_client_that_sends_byte_by_byte(cluster, puerta):
    """One byte, then answers for others, and so on: a command in crumbs is a command."""
    request = encode("SET", "crumbs", "v\r\n") + encode("GET", "crumbs") + b"PING\r\n"
    with Neighbours(puerta) as others, puerta.client() as c:
        for i in range(len(request)):
            c.send_raw(request[i:i + 1])
            others.wait_answers(20)
        assert [c.read() for _ in range(3)] == [b"OK", b"v\r\n", b"PONG"]


def test_a_large_value_that_is_never_finished(cluster):
    """It holds a connection of its own, not the shared one."""
    with small_pool(cluster) as p, Neighbours(p) as others:
        starters = [p.client() for _ in range(5)]
        for i, c in enumerate(starters):
            c.send_raw(b"*3\r\n$3\r\nSET\r\n$6\r\nnever%d\r\n$%d\r\n" % (i, 50 * MB) + b"x" * 300000)
        others.wait_answers(500)
        for c in starters:
            c.close()
        others.wait_answers(300)
        with p.client() as c:
            assert c.ask("EXISTS", *["never%d" % i for i in range(5)]) == 0


def flood(c, count, request):
    """Writes count requests without reading, as far as the other side takes them; says how many bytes went."""
    data = request * count
    c.sock.setblocking(False)
    at = 0
    quiet_since = time.monotonic()
    while at < len(data) and time.monotonic() - quiet_since < 1.0:
        try:
            at += c.sock.send(data[at:at + 65536])
            quiet_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        except ConnectionError:
            break
    c.sock.settimeout(c.timeout)
    return at, data


def test_100000_requests_written_before_the_first_answer_is_read(cluster):
    with small_pool(cluster, client_stall="60s") as p, Neighbours(p) as others, p.client(timeout=60) as c:
        # Long requests too, since the kernel's own buffers take some megabytes of them.
        value, key = b"v" * 1000, "greedy" * 200
        c.ask("SET", key, value)
        request = encode("GET", key)
        at, data = flood(c, 100000, request)
        assert at < len(data), "all 100,000 requests were taken without a single answer read: where are 100 MB of answers kept?"
        others.wait_answers(300)
        writer = threading.Thread(target=lambda: c.send_raw(data[at:]))
        writer.start()
        want = b"$1000\r\n" + value + b"\r\n"
        left = len(want) * 100000
        whole = bytearray()
        while left:
            part = c.sock.recv(min(left, MB))
            assert part, "closed with %d bytes to come" % left
            left -= len(part)
            whole += part
            n = len(whole) // len(want) * len(want)
            assert whole[:n] == want * (n // len(want))
            del whole[:n]
        writer.join()
        assert c.ask("PING") == b"PONG"


def test_a_client_that_writes_and_never_reads_is_closed(cluster):
    with small_pool(cluster, client_stall="1s") as p, Neighbours(p) as others:
        p.client().ask("SET", "never", b"v" * 10000)
        greedy = [p.client(rcvbuf=16384) for _ in range(5)]
        for c in greedy:
            flood(c, 20000, encode("GET", "never"))
        wait_for("a line in the log for each", lambda: p.log_text().count("client_stall") >= len(greedy))
        for c in greedy:
            assert read_to_end(c) < 20000 * 10000
        others.wait_answers(300)


# ---- full tables ----

def test_a_full_client_table(cluster):
    with Puerta(cluster, max_clients=12) as p, Neighbours(p, count=2):
        inside = [p.client() for _ in range(10)]
        for i, c in enumerate(inside):
            assert c.ask("SET", "in:%d" % i, "v") == b"OK"
        for _ in range(5):
            with p.client() as late:
                try:
                    reply = late.read()
                except (ConnectionError, EOFError) as e:
                    raise AssertionError("refused without a word") from e
                assert isinstance(reply, RespError) and reply.text == "ERR max number of clients reached"
                assert late.at_end()
        for i, c in enumerate(inside):
            assert c.ask("GET", "in:%d" % i) == b"v"
        inside[0].close()

        def let_in():
            c = p.client()
            try:
                if c.try_ask("PING") == b"PONG":
                    return c
            except (OSError, EOFError):
                pass
            c.close()
            return None

        with wait_for("the freed place", let_in) as c:
            assert c.ask("GET", "in:3") == b"v"
        for c in inside[1:]:
            c.close()


def test_a_very_small_chunk_pool(cluster):
    """128 KiB of buffers and small values: slower, but no client is told of it."""
    with Puerta(cluster, chunk_size="1k", chunks=128, retain_bytes="8k", max_clients=100) as p:
        with Load(p.port, "-c", 10, "-n", 10000, "-b", 200, "-r", 4096) as load:
            load.finish().check()
    cluster.flush()


def test_a_small_chunk_pool_with_values_larger_than_it(cluster):
    """What cannot be held is refused by name; all else is right, and it comes to its end."""
    with Puerta(cluster, chunk_size="1k", chunks=256, retain_bytes="8k", max_clients=100, lease_wait="60s", request_timeout="60s") as p:
        with Load(p.port, "-c", 10, "-n", 4000, "-b", 400000, "-r", 4096, "-t", 100, "-e") as load:
            result = load.finish(timeout=150).check(errors=None, reconnects=None)
    print(result.text[-1000:])
    assert all("(chunks)" in text or "not executed" in text for text in result.table), result.table
    cluster.flush()


def test_an_emptied_chunk_pool(cluster):
    """Clients that read nothing hold all the chunks they may; the others are still served."""
    with Puerta(cluster, chunk_size="1k", chunks=128, retain_bytes="8k", client_stall="30s") as p, Neighbours(p, worst_s=5.0) as others:
        with p.client() as c:
            c.ask("SET", "empty", b"v" * 3000)
        greedy = [p.client(rcvbuf=4096) for _ in range(20)]
        for c in greedy:
            c.sock.setblocking(False)
            try:
                c.sock.send(encode("GET", "empty") * 2000)
            except BlockingIOError:
                pass
        others.wait_answers(1000)
        for c in greedy:
            c.close()
        others.wait_answers(300)


def test_few_request_records(cluster):
    with Puerta(cluster, max_requests=256) as p:
        with Load(p.port, "-c", 30, "-n", 20000, "-b", 65536) as load:
            load.finish().check()
    cluster.flush()


def crowd_of(p, count):
    """Connections that may be taken or not; nobody says anything on them."""
    crowd = []
    for _ in range(count):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(("127.0.0.1", p.port))
        crowd.append(s)
    return crowd


def served(p):
    try:
        with RespClient(p.port, timeout=5) as c:
            return c.try_ask("PING") == b"PONG"
    except (OSError, EOFError):
        return False


def test_few_descriptors_from_the_start(cluster):
    """As under `ulimit -n 100`: fewer clients than configured, and a line that says so."""
    with Puerta(cluster, nofile=100, max_clients=500, max_backends=6, max_leases=4, max_blocked=4, max_watching=4, max_own=4) as p, Neighbours(p, count=3) as others:
        crowd = crowd_of(p, 120)
        others.wait_answers(500)
        for s in crowd:
            s.close()
        wait_for("a new client to be served", lambda: served(p))
        assert "descriptors" in p.log_text()


if hasattr(resource, "prlimit"):
    def test_no_descriptors_left(cluster):
        """The limit is taken away while it runs, so that accept() itself fails with EMFILE."""
        with Puerta(cluster) as p, Neighbours(p, count=3) as others:
            have = len(os.listdir("/proc/%d/fd" % p.process.pid))
            resource.prlimit(p.process.pid, resource.RLIMIT_NOFILE, (have + 3, have + 3))
            crowd = crowd_of(p, 60)
            others.wait_answers(1000)
            for s in crowd:
                s.close()
            wait_for("a new client to be served", lambda: served(p))
            others.wait_answers(300)


def test_many_that_come_and_go(cluster, puerta):
    with Neighbours(puerta) as others:
        for n in range(1000):
            s = socket.create_connection(("127.0.0.1", puerta.port))
            if n % 3 == 0:
                s.sendall(encode("SET", "gone", "v") * 3)
            if n % 3 == 1:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.sendall(b"*2\r\n$3\r\nGET\r\n$4\r\ngo")
            s.close()
        others.wait_answers(300)


def test_one_slow_command_delays_only_its_own_node(cluster, puerta):
    keys = [cluster.key_on(i, "slowcmd") for i in range(3)]
    with puerta.client() as c, puerta.client() as d:
        c.send("EVAL", "local n = 0 for i = 1, 60000000 do n = n + i end return 'done'", 1, keys[0])
        served = 0
        while c.silent(0):
            for k in keys[1:]:
                assert d.ask("SET", k, "v") == b"OK"
                served += 1
        assert c.read() == b"done"
        assert served > 50, "only %d answers of the other nodes came meanwhile" % served
