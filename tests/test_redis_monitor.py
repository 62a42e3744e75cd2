"""MONITOR and CLIENT PAUSE: what one client does to see or to stop all others. Only with allow_admin."""
import random
import time

import pytest

from harness import Puerta, RespClient, RespError, plain_server, wait_for


@pytest.fixture(scope="module")
def admin(cluster):
    with Puerta(cluster, allow_admin="yes", client_window="64k") as p:
        yield p


@pytest.fixture(scope="module")
def server():
    """A plain redis-server, to compare with."""
    with plain_server(databases="1") as node:
        yield node


def lines(client, count):
    """The next lines without their time and address."""
    return [client.read().split(b"] ", 1)[1] for _ in range(count)]


def watched(admin):
    client = admin.client()
    assert client.ask("MONITOR") == b"OK"
    return client


def test_they_are_refused_unless_allowed(client):
    for request in (("MONITOR",), ("CLIENT", "PAUSE", 1)):
        assert client.try_ask(*request).text.startswith("NOPERM "), request


def test_what_others_ask_is_shown(admin, cluster):
    with watched(admin) as monitor, admin.client() as c:
        keys = [cluster.key_on(i) for i in range(3)]
        for key in keys:
            c.ask("SET", key, "v")
        c.send_raw(b"ECHO 'a b'\r\n")
        c.read()
        c.ask("ECHO", b"\x00\n\r\t\a\b\\\"\xff")
        c.try_ask("MGET", *keys)
        assert lines(monitor, 6) == [b'"SET" "%s" "v"' % key.encode() for key in keys] + [
            b'"ECHO" "a b"', b'"ECHO" "\\x00\\n\\r\\t\\a\\b\\\\\\"\\xff"', b'"MGET" "%s" "%s" "%s"' % tuple(k.encode() for k in keys)]


def test_secrets_are_not_shown_and_scripts_are(admin, cluster):
    requests = [("SET", "a", "1"), ("AUTH", "x"), ("AUTH", "u", "p"), ("HELLO", "2", "AUTH", "u", "p"), ("MULTI",), ("SET", "a", "2"),
                ("EXEC",), ("EVAL", "return redis.call('set', KEYS[1], 'x')", 1, "a"), ("PING",)]
    with watched(admin) as monitor, admin.client() as c:
        for request in requests:
            c.try_ask(*request)
        shown = lines(monitor, len(requests) + 1)
    assert b'"AUTH" "(redacted)"' in shown and b'"AUTH" "(redacted)" "(redacted)"' in shown
    assert b'"HELLO" "2" "AUTH" "(redacted)" "(redacted)"' in shown
    assert not any(b'"p"' in line for line in shown)
    assert b'"set" "a" "x"' in shown  # what the script did, told by its node
    assert shown.index(b'"MULTI"') < shown.index(b'"SET" "a" "2"') < shown.index(b'"EXEC"')


def test_one_that_does_not_read_is_closed_and_nobody_waits(admin):
    with watched(admin) as monitor, admin.client() as c:
        value = b"x" * 8000
        for _ in range(2000):
            c.ask("SET", "a", value)
        with pytest.raises((EOFError, ConnectionError)):
            while True:
                monitor.read()
        assert c.ask("PING") == b"PONG"


def test_a_monitor_that_leaves_is_forgotten(admin, cluster):
    def heard():
        return sum(b"cmd=monitor" in line for node in cluster.masters for line in node.ask("CLIENT", "LIST").split(b"\n"))

    for end in ("close", "RESET"):
        before = heard()
        monitor = watched(admin)
        assert heard() >= before + 3
        if end == "close":
            monitor.close()
        else:
            monitor.send("RESET")
            wait_for("RESET", lambda: monitor.read() == b"RESET")
        wait_for("the nodes to be let go", lambda: heard() == 0)


def test_a_monitor_cannot_use_keys(admin):
    with watched(admin) as monitor:
        assert monitor.try_ask("GET", "a").text == "ERR Replica can't interact with the keyspace"


# ---- CLIENT PAUSE ----

@pytest.mark.parametrize("request_", [("KEYS", "*"), ("DBSIZE",), ("SCAN", 0), ("RANDOMKEY",), ("PUBLISH", "a", "b"), ("FLUSHALL",), ("EVAL", "return 1", 0),
                                      ("GET", "a"), ("GET",), ("GET", "a", "b"), ("TOUCH", "a", "b"), ("WATCH", "a"),
                                      ("CONFIG", "GET", "maxmemory-policy")])
def test_a_monitor_may_ask_what_one_may_at_a_plain_server(admin, server, request_):
    with watched(admin) as mine, RespClient(server.port) as theirs:
        theirs.ask("MONITOR")
        a, b = mine.try_ask(*request_), theirs.try_ask(*request_)
        assert (a == b) if not isinstance(b, RespError) else (isinstance(a, RespError) and a.text == b.text), (a, b)
        assert mine.ask("MULTI") == b"OK"
        if isinstance(b, RespError):
            assert mine.try_ask(*request_).text == b.text
            assert mine.try_ask("EXEC").text.startswith("EXECABORT")


def test_a_monitors_long_answer_stays_in_one_piece(admin, cluster):
    body = "%0*x" % (3 << 20, random.Random(1).getrandbits(12 << 20))
    for node in cluster.masters:
        node.ask("FUNCTION", "LOAD", "#!lua name=long\n--" + body + "\nredis.register_function('long', function() return 1 end)")
    try:
        dump = cluster.masters[0].ask("FUNCTION", "DUMP")
        with watched(admin) as first, admin.client() as c, admin.client(rcvbuf=4096) as monitor:
            assert monitor.ask("MONITOR") == b"OK"
            monitor.send("FUNCTION", "DUMP")
            for i in range(50):
                assert c.ask("ECHO", "between %d" % i) == b"between %d" % i
                monitor._fill(time.monotonic() + 20)
            got = [monitor.read()]
            while got[-1] != dump:
                got.append(monitor.read())
            while got[-1].split(b"] ")[-1] != b'"ECHO" "between 49"':
                got.append(monitor.read())
            assert [g.split(b"] ", 1)[1] for g in got if g != dump] == [b'"ECHO" "between %d"' % i for i in range(50)]
            assert first.read().endswith(b'"FUNCTION" "DUMP"')
    finally:
        for node in cluster.masters:
            node.ask("FUNCTION", "FLUSH")


def test_writes_wait_and_reads_go_on(admin):
    with admin.client() as c, admin.client() as other:
        c.ask("SET", "a", 1)
        assert c.ask("CLIENT", "PAUSE", 100000, "WRITE") == b"OK"
        other.send("SET", "a", 2)
        for _ in range(50):
            assert c.ask("GET", "a") == b"1"
        assert c.try_ask("SET", "a").text.startswith("ERR wrong number of arguments")
        assert c.ask("CLIENT", "UNPAUSE") == b"OK"
        assert other.read() == b"OK"
        assert c.ask("GET", "a") == b"2"


def test_everything_waits_until_the_pause_is_over(admin):
    with admin.client() as c, admin.client() as other:
        begun = time.monotonic()
        assert c.ask("CLIENT", "PAUSE", 400) == b"OK"
        assert other.ask("PING") == b"PONG" and time.monotonic() - begun > 0.35


def test_a_long_request_waits_as_well(admin):
    with admin.client() as c, admin.client() as d, admin.client() as e:
        d.ask("CLIENT", "PAUSE", 60000, "WRITE")
        try:
            c.send("SET", "paused", "x" * (1 << 20))
            e.send("PUBLISH", "paused", "x" * (1 << 20))
            assert c.silent(0.2) and e.silent(0.05) and d.ask("STRLEN", "paused") == 0
        finally:
            d.ask("CLIENT", "UNPAUSE")
        assert c.read() == b"OK" and e.read() == 0 and d.ask("STRLEN", "paused") == 1 << 20
        d.ask("DEL", "paused")


def test_a_transaction_waits_as_its_writes_do(admin):
    with admin.client() as c, admin.client() as other, admin.client() as reader:
        other.ask("MULTI")
        other.ask("SET", "a", 5)
        reader.ask("MULTI")
        reader.ask("GET", "a")
        c.ask("CLIENT", "PAUSE", 100000, "WRITE")
        other.send("EXEC")
        assert len(reader.ask("EXEC")) == 1
        c.ask("CLIENT", "UNPAUSE")
        assert other.read() == [b"OK"]


@pytest.mark.parametrize("request_, text", [
    (("CLIENT", "PAUSE", "x"), "ERR timeout is not an integer or out of range"),
    (("CLIENT", "PAUSE", "-1"), "ERR timeout is negative"),
    (("CLIENT", "PAUSE", "1", "SOME"), "ERR CLIENT PAUSE mode must be WRITE or ALL"),
])
def test_errors(admin, request_, text):
    with admin.client() as c:
        assert c.try_ask(*request_).text == text
