"""The door: who may come in (AUTH, HELLO, protected mode), how often somebody may guess, and what only an administrator may do.

Texts are held against a real server of the installed version, which was asked the same.
"""
import os
import re
import socket
import subprocess
import sys
import time

import pytest

import harness
from harness import Puerta, RespClient, RespError, encode

SECRET = "s3cr3t w\u00f6rd"
NOAUTH = "NOAUTH Authentication required."
WRONGPASS = "WRONGPASS invalid username-password pair or user is disabled."
UNSUPPORTED = "ERR '%s' is not supported by this version of Puerta"

CONF = """[puerta]
supervise = no
[redis main]
listen = {listen}:{{port}}
nodes = {{seeds}}
{more}
"""


def conf(*lines, listen="127.0.0.1"):
    return CONF.format(listen=listen, more="\n".join(lines))


class Guarded(Puerta):
    """Puerta with a password: its clients are strangers until they give it."""

    def __init__(self, cluster, *lines):
        super().__init__(cluster, wait=False, conf=conf('password = "%s"' % SECRET, *lines))
        harness.wait_for("puerta to serve", self.serves)

    def serves(self):
        assert self.alive(), self.log_text()
        try:
            with self.friend() as c:
                return not isinstance(c.try_ask("EXISTS", "a"), RespError)
        except OSError:
            return False

    def friend(self):
        c = self.client()
        c.ask("AUTH", SECRET)
        return c

    def counter(self, name):
        with self.friend() as c:
            return int(re.search(r"^%s:(\d+)\r$" % name, c.ask("INFO").decode(), re.M).group(1))


def visitor(port, source):
    """A client that comes from another of the loopback addresses: to Puerta another machine, as far as guesses go."""
    c = RespClient.__new__(RespClient)
    c.timeout = 20.0 * harness.SLOW
    c.sock = socket.create_connection(("127.0.0.1", port), c.timeout, source_address=(source, 0))
    c.buf = bytearray()
    return c


@pytest.fixture(scope="module")
def guarded(cluster):
    with Guarded(cluster) as p:
        yield p


@pytest.fixture(scope="module")
def server():
    """A plain Redis server with the same password."""
    with harness.plain_server() as node:
        node.ask("CONFIG", "SET", "requirepass", SECRET)
        yield node


# ---- what a stranger may do ----

SAME_AS_REDIS = [
    ("GET", "a"), ("PING",), ("INFO",), ("MGET", "a", "b"), ("COMMAND",), ("CLIENT", "ID"), ("SHUTDOWN",), ("MONITOR",), ("SUBSCRIBE", "a"),
    ("AUTH",), ("AUTH", "a", "b", "c"), ("AUTH", "x"), ("AUTH", ""), ("AUTH", SECRET[:-1]), ("AUTH", SECRET + "x"), ("AUTH", SECRET + "\0"),
    ("AUTH", "default", "x"), ("AUTH", "other", SECRET), ("AUTH", "Default", SECRET), ("AUTH", "", SECRET), ("AUTH", "x" * 10000),
    ("HELLO",), ("HELLO", "2"), ("HELLO", "3"), ("HELLO", "9"), ("HELLO", "3", "AUTH", "default", "x"), ("HELLO", "2", "AUTH", "default", "x"), ("HELLO", "2", "AUTH", "other", SECRET),
    ("RESET",), ("PING",), ("AUTH", SECRET), ("AUTH", "x"), ("GET", "door:none"), ("RESET",), ("GET", "door:none"),
    ("AUTH", "default", SECRET), ("GET", "door:none"), ("QUIT",),
]


def test_a_stranger_hears_what_redis_says(cluster, server):
    with Guarded(cluster) as p, p.client() as ours, RespClient(server.port) as theirs:
        for command in SAME_AS_REDIS:
            a, b = ours.try_ask(*command), theirs.try_ask(*command)
            assert type(a) is type(b) and str(a) == str(b), command
        assert ours.at_end() and theirs.at_end()


def test_a_stranger_learns_nothing_of_commands(guarded):
    with guarded.client() as c:
        for command in (("NOSUCHCOMMAND", "a"), ("GET",), ("PING", "a", "b"), ("BLPOP", "a", "0")):
            assert c.try_ask(*command).text == NOAUTH
        c.send_raw(b"PING\r\nAUTH \"%s\"\r\nPING\r\n" % SECRET.encode())
        assert [str(c.read()) for _ in range(3)] == [str(RespError(NOAUTH)), "b'OK'", "b'PONG'"]


def test_hello_lets_in(guarded):
    with guarded.client() as c:
        reply = c.ask("HELLO", "2", "AUTH", "default", SECRET)
        assert reply[:2] == [b"server", b"redis"]
        assert c.ask("SET", "door:hello", "x") == b"OK"
        assert c.ask("HELLO")[4:6] == [b"proto", 2]


def test_a_pipeline_behind_auth(guarded):
    with guarded.client() as c:
        big = "v" * 100000
        replies = c.pipeline([("GET", "door:p"), ("AUTH", SECRET), ("MSET", *["door:%d" % i for i in range(40)]), ("SET", "door:p", big),
                              ("GET", "door:p"), ("RESET",), ("GET", "door:p")])
        assert replies[0].text == NOAUTH and replies[1:4] == [b"OK", b"OK", b"OK"]
        assert replies[4] == big.encode() and replies[5] == b"RESET" and replies[6].text == NOAUTH


@pytest.mark.parametrize("data", [b"*11\r\n$3\r\nGET\r\n", b"*2\r\n$3\r\nGET\r\n$16385\r\nabc", b"*99999999999\r\n", b"*1\r\n$600000000\r\n"], ids=repr)
def test_requests_of_a_stranger_are_bounded_as_by_redis(guarded, server, data):
    said = []
    for port in (guarded.port, server.port):
        with RespClient(port) as c:
            c.send_raw(data)
            said.append(c.read().text)
            with pytest.raises((EOFError, ConnectionResetError)):
                c.read()
    assert said[0] == said[1] and said[0].startswith("ERR Protocol error: ")


def test_the_widest_request_of_a_stranger(guarded):
    with guarded.client() as c:
        c.send_raw(encode("MSET", *["x" * 16384] * 9) + encode("PING"))
        assert c.read().text == NOAUTH and c.read().text == NOAUTH


def test_a_long_request_of_a_stranger_goes_nowhere(cluster):
    with Guarded(cluster, "retain_bytes = 4k") as p, p.client() as c:
        c.send_raw(encode("SET", "door:long", "x" * 16000) + encode("PING"))
        assert c.read().text == NOAUTH and c.read().text == NOAUTH
        c.ask("AUTH", SECRET)
        assert c.ask("EXISTS", "door:long") == 0
        assert c.ask("SET", "door:long", "x" * 16000) == b"OK"


def test_without_a_password(client):
    assert client.try_ask("AUTH", "x").text == ("ERR AUTH <password> called without any password configured for the default user. "
                                                "Are you sure your configuration is correct?")
    assert client.ask("AUTH", "default", "anything") == b"OK"
    assert client.try_ask("AUTH", "other", "x").text == WRONGPASS
    assert client.ask("RESET") == b"RESET" and client.ask("PING") == b"PONG"
    assert client.ask("HELLO", "2", "AUTH", "default", "anything")[0] == b"server"
    assert client.ask("SET", "x" * 20000, "y") == b"OK"


def test_a_password_in_a_file(cluster, tmp_path):
    path = tmp_path / "password"
    path.write_text("from the file\n")
    path.chmod(0o600)
    with Puerta(cluster, wait=False, conf=conf("password_file = %s" % path)) as p:
        with harness.wait_for("puerta to listen", lambda: connected(p.port)) as c:
            assert c.try_ask("AUTH", SECRET).text == WRONGPASS
            assert c.ask("AUTH", "from the file") == b"OK"


def connected(port, host="127.0.0.1"):
    try:
        return RespClient(port, host=host)
    except OSError:
        return None


def test_the_password_is_written_nowhere(cluster, tmp_path):
    path = tmp_path / "p.conf"
    path.write_text('[redis a]\nnodes = 127.0.0.1:1\npassword = "%s"\n' % SECRET)
    done = subprocess.run([harness.BINARY, "-t", "-c", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20 * harness.SLOW)
    assert done.returncode == 0 and b"\npassword = ******\n" in done.stdout
    assert SECRET.encode() not in done.stdout + done.stderr
    path.write_text("[redis a]\npassword = %s\npasswort = %s\npassword s3cr3t\n" % (SECRET, SECRET))
    done = subprocess.run([harness.BINARY, "-t", "-c", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20 * harness.SLOW)
    assert done.returncode == 78 and b"s3cr3t" not in done.stdout + done.stderr
    done = subprocess.run([harness.BINARY, "redis", "127.0.0.1:1", "password=" + "s3cr3t" * 60], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=20 * harness.SLOW)
    assert done.returncode == 78 and b"s3cr3t" not in done.stdout + done.stderr
    with Puerta(cluster, wait=False, conf="[puerta]\nlog_level = debug\n" + conf('password = "%s"' % SECRET).replace("[puerta]\n", "")) as p:
        with harness.wait_for("puerta to listen", lambda: connected(p.port)) as c:
            assert c.try_ask("AUTH", "gu3ss").text == WRONGPASS
            assert c.ask("AUTH", SECRET) == b"OK"
            assert SECRET.encode() not in c.ask("INFO")
        log = p.log_text()
        assert "wrong user or password" in log and SECRET not in log and "gu3ss" not in log


# ---- guesses ----

def timed(c, *command):
    begun = time.monotonic()
    reply = c.try_ask(*command)
    return reply, time.monotonic() - begun


def test_guesses_become_slow_and_hold_nobody_else(cluster):
    with Guarded(cluster) as p, p.friend() as friend, visitor(p.port, "127.0.0.2") as guesser:
        took = []
        for _ in range(7):
            reply, seconds = timed(guesser, "AUTH", "guess")
            assert reply.text == WRONGPASS
            took.append(seconds)
        # 3 free ones, then 50, 100, 200, 400 ms.
        for seconds, least in zip(took, (0, 0, 0, 0.05, 0.1, 0.2, 0.4)):
            assert 0.9 * least <= seconds, took
        assert sum(took[:3]) < 0.5 * harness.SLOW
        # While the next one waits, friends are served, and others come in.
        guesser.send("AUTH", "guess")
        worst = 0.0
        assert guesser.silent(0.1)
        for i in range(50):
            worst = max(worst, timed(friend, "SET", "door:%d" % i, i)[1])
        with visitor(p.port, "127.0.0.3") as other:
            reply, seconds = timed(other, "AUTH", SECRET)
            assert reply == b"OK"
        assert worst < 0.3 * harness.SLOW and seconds < 0.3 * harness.SLOW
        assert guesser.read().text == WRONGPASS
        # It is the address that is slow: a new connection does not help, not even one that knows.
        with visitor(p.port, "127.0.0.2") as again:
            reply, seconds = timed(again, "AUTH", SECRET)
            assert reply == b"OK" and 0.35 <= seconds < 1.5 + 2 * (harness.SLOW - 1)
        assert p.counter("auth_failures") == 8 and p.counter("auth_delayed") == 6


def test_a_guess_is_not_quicker_for_being_given_up(cluster):
    """Whether it was right shall not be known before its wait is over."""
    with Guarded(cluster) as p:
        with visitor(p.port, "127.0.0.2") as c:
            for _ in range(6):
                c.try_ask("AUTH", "guess")
        for _ in range(5):
            with visitor(p.port, "127.0.0.2") as c:
                c.send("AUTH", SECRET)
                assert c.silent(0.1)
        assert p.counter("auth_failures") == 6


def test_hello_guesses_wait_too_and_the_rest_of_the_pipeline_with_them(cluster):
    with Guarded(cluster, "client_idle = 10s") as p, visitor(p.port, "127.0.0.2") as c:
        begun = time.monotonic()
        replies = c.pipeline([("HELLO", "2", "AUTH", "default", "guess")] * 6 + [("HELLO", "2", "AUTH", "default", SECRET), ("PING",)])
        assert [r.text for r in replies[:6]] == [WRONGPASS] * 6
        assert replies[6][0] == b"server" and replies[7] == b"PONG"
        assert time.monotonic() - begun >= 0.9 * (0.05 + 0.1 + 0.2 + 0.4)


def test_puerta_stops_while_guesses_wait(cluster):
    with Guarded(cluster) as p:
        clients = [visitor(p.port, "127.0.0.2") for _ in range(20)]
        for c in clients:
            c.send_raw(encode("AUTH", "guess") * 10)
        clients[0].read()
        clients[1].close()
        begun = time.monotonic()
    assert time.monotonic() - begun < 3 * harness.SLOW
    for c in clients:
        c.close()


# ---- protected mode ----

def denied(port, address):
    """What a client from there hears first, until it is closed; nothing if it is let in."""
    with harness.wait_for("puerta to listen", lambda: connected(port, address)) as c:
        c.sock.settimeout(0.5)
        data = b""
        try:
            while True:
                piece = c.sock.recv(4096)
                if not piece:
                    return data
                data += piece
        except socket.timeout:
            return None


def check_protected():
    address = harness.own_address()
    nodes = ["127.0.0.1:%d" % harness.free_port()]  # none is needed: it is about the listener

    def started(*lines):
        return Puerta(nodes, wait=False, conf=conf(*lines, listen="0.0.0.0"))

    with started() as p:
        said = denied(p.port, address)
        assert said is not None and said.startswith(b"-DENIED ") and said.endswith(b"\r\n") and said.count(b"\n") == 1
        assert b"password" in said and b"protected = no" in said
        for _ in range(30):
            denied(p.port, address)
        with p.client() as c:
            assert c.ask("PING") == b"PONG"
            assert b"clients_denied:31\r\n" in c.ask("INFO") and b"connected_clients:1\r\n" in c.ask("INFO")
        lines = [line for line in p.log_text().splitlines() if "client refused" in line]
        assert 1 <= len(lines) < 31 and "client=%s:" % address in lines[0]
    with started("protected = no") as p:
        assert denied(p.port, address) is None
    with started("password = x") as p:
        assert denied(p.port, address) is None
        with RespClient(p.port, host=address) as c:
            assert c.try_ask("PING").text == NOAUTH


def test_protected_mode():
    if harness.own_address() is not None:
        check_protected()
        return
    # A network of its own, where this test runs again.
    again = "ip link set lo up && ip address add 198.51.100.7/32 dev lo && exec \"$@\""
    done = subprocess.run(["unshare", "-rn", "sh", "-c", again, "sh", sys.executable, "-m", "pytest", "-q", __file__ + "::test_protected_mode"],
                          env=dict(os.environ, PUERTA_OWN_ADDRESS="198.51.100.7"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=120 * harness.SLOW)
    assert done.returncode == 0 and b"1 passed" in done.stdout, done.stdout.decode()


def test_protected_mode_lets_unix_sockets_in(cluster, tmp_path):
    path = str(tmp_path / "sock")
    text = conf(listen="127.0.0.1").replace("listen = ", "listen = unix:%s, " % path)
    with Puerta(cluster, wait=False, conf=text):
        def answers():
            with socket.socket(socket.AF_UNIX) as s:
                try:
                    s.connect(path)
                except OSError:
                    return None
                s.sendall(b"PING\r\n")
                return s.recv(100)

        assert harness.wait_for("puerta to listen", answers) == b"+PONG\r\n"


# ---- administration ----

ADMIN = [
    ("SHUTDOWN", "NOSAVE"), ("REPLICAOF", "NO", "ONE"), ("SLAVEOF", "NO", "ONE"), ("FAILOVER",), ("DEBUG", "SLEEP", "0"), ("SAVE",), ("BGSAVE",),
    ("BGREWRITEAOF",), ("SWAPDB", "0", "1"), ("PFSELFTEST",), ("MIGRATE", "127.0.0.1", "1", "k", "0", "1"), ("RESTORE-ASKING", "k", "0", "x"),
    ("PFDEBUG", "GETREG", "k"), ("CONFIG", "REWRITE"), ("ACL", "SETUSER", "u"),
    ("ACL", "DELUSER", "u"), ("ACL", "LIST"), ("MODULE", "LOAD", "x"), ("CLUSTER", "MEET", "127.0.0.1", "1"), ("CLUSTER", "RESET"),
    ("CLUSTER", "SETSLOT", "1", "STABLE"), ("CLUSTER", "FAILOVER"),
]
HELD = [("SYNC",), ("PSYNC", "?", "-1"), ("REPLCONF", "ACK", "1"), ("SCRIPT", "DEBUG", "YES")]


def row_name(command):
    return "|".join(command[:2]).lower() if command[0] in ("CONFIG", "ACL", "MODULE", "CLUSTER", "SCRIPT") else command[0].lower()


@pytest.mark.parametrize("command", ADMIN, ids=" ".join)
def test_administration_is_refused(client, command):
    assert client.try_ask(*command).text == "NOPERM '%s' is refused by this proxy (allow_admin)" % row_name(command)
    assert client.ask("PING") == b"PONG"


@pytest.fixture(scope="module")
def administered(cluster):
    with Puerta(cluster, allow_admin="yes") as p:
        yield p


def test_what_takes_a_connection_over_stays_refused(client, administered):
    with administered.client() as c:
        for command in HELD:
            for each in (client, c):
                assert each.try_ask(*command).text == UNSUPPORTED % row_name(command)
        assert c.ask("SET", "door:after", "x") == b"OK" and c.ask("GET", "door:after") == b"x"


def test_administration_reaches_a_node(administered):
    with administered.client() as c:
        assert c.try_ask("REPLICAOF", "NO", "ONE").text.startswith("ERR REPLICAOF not allowed in cluster mode")
        assert c.try_ask("SWAPDB", "0", "1").text.startswith("ERR SWAPDB is not allowed in cluster mode")
        assert c.try_ask("CLUSTER", "SETSLOT", "1").text.startswith("ERR")
        assert c.try_ask("SHUTDOWN", "NONSENSE").text == "ERR syntax error"
        assert c.ask("ACL", "LIST")[0].startswith(b"user default")
        assert c.ask("SAVE") == b"OK"
        assert c.try_ask("SAVE", "x").text == "ERR wrong number of arguments for 'save' command"


def test_administration_with_keys_goes_by_their_slot(administered, cluster):
    with administered.client() as c:
        for i in range(3):
            key = cluster.key_on(i, "door:admin")
            c.ask("DEL", key)
            c.ask("SET", key, "value")
            payload = c.ask("DUMP", key)
            c.ask("DEL", key)
            assert c.ask("RESTORE-ASKING", key, 0, payload) == b"OK"
            assert cluster.masters[i].ask("GET", key) == b"value"
            assert c.ask("MIGRATE", "127.0.0.1", cluster.masters[(i + 1) % 3].port, key + "none", 0, 1000) == b"NOKEY"
            c.ask("DEL", key)
            c.ask("PFADD", key, "a", "b")
            assert len(c.ask("PFDEBUG", "GETREG", key)) == 16384
            c.ask("DEL", key)
        two = [cluster.key_on(i, "door:two") for i in (0, 1)]
        assert c.try_ask("MIGRATE", "127.0.0.1", "1", "", 0, 1000, "KEYS", *two).text == "CROSSSLOT Keys in request don't hash to the same slot"


def test_shutdown_ends_one_master(own_cluster):
    with Puerta(own_cluster, allow_admin="yes", failover_wait="20s") as p, p.client() as c:
        said = c.try_ask("SHUTDOWN", "NOSAVE").text
        assert said.startswith("ERR outcome unknown: the connection to 127.0.0.1:") and said.endswith(" was lost before it answered")
        harness.wait_for("a master to end", lambda: len(own_cluster.alive()) == 5)
        for i in range(3):
            assert c.ask("SET", own_cluster.key_on(i), "x", timeout=30) == b"OK"
        assert len(own_cluster.alive()) == 5


def test_migrate_moves_a_key_through_puerta(own_cluster):
    """A slot's keys are moved by hand, as redis-cli does it, but through Puerta."""
    source, target = own_cluster.masters[:2]
    slot = harness.SLOTS // 6
    keys = ["{%s}%d" % (harness.tag_for_slot(slot), i) for i in range(20)]
    with Puerta(own_cluster, allow_admin="yes") as p, p.client() as c:
        for key in keys:
            c.ask("SET", key, "value of " + key)
        own_cluster.migrate_begin(slot, source, target)
        for key in keys[:5]:
            assert c.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 5000) == b"OK"
        assert c.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys[5:]) == b"OK"
        own_cluster.migrate_end(slot, source, target)
        for key in keys:
            assert c.ask("GET", key) == b"value of " + key.encode()
            assert target.ask("GET", key) == b"value of " + key.encode()


# ---- a login of a client's own: users of the servers ----

BOB = ("AUTH", "bob", "bob's own")
NO_LOGIN = "NOPERM '%s' is not possible for a client with a login of its own"


def users(cluster, *rules):
    for node in cluster.nodes:
        node.ask("ACL", "SETUSER", "bob", "reset", "on", ">bob's own", *(rules or ("+@all", "-flushall", "-keys", "~bob:*", "~{*}bob*", "&*")))
        node.ask("ACL", "SETUSER", "eve", "reset", "on", ">eve's own", "+@all", "~eve:*")
    return cluster


def forbidden(reply):
    return isinstance(reply, RespError) and reply.text.startswith("NOPERM ")


@pytest.fixture
def peopled(cluster):
    cluster.flush()
    yield users(cluster)
    cluster.flush()
    for node in cluster.nodes:
        node.ask("ACL", "DELUSER", "bob", "eve")


def test_a_user_of_the_servers(peopled):
    spread = ["bob:%d" % i for i in range(50)]
    with Puerta(peopled) as p, p.client() as c, p.client() as other:
        assert c.try_ask("AUTH", "bob", "wrong").text == WRONGPASS and c.ask("ACL", "WHOAMI") == b"default"
        assert c.try_ask("AUTH", "nobody", "x").text == WRONGPASS
        assert c.ask(*BOB) == b"OK" and c.ask("ACL", "WHOAMI") == b"bob"
        assert b" user=bob " in c.ask("CLIENT", "INFO") and b"bob's own" not in other.ask("CLIENT", "LIST")
        # In whose name what is asked goes, on whatever way.
        assert c.ask("MSET", *sum(([k, "v"] for k in spread), [])) == b"OK" and c.ask("MGET", *spread) == [b"v"] * 50
        assert c.ask("DBSIZE") == 50
        for command in (("SET", "x", "1"), ("MGET", "bob:1", "x"), ("KEYS", "*"), ("FLUSHALL",), ("BLPOP", "x", "1"), ("WATCH", "x"),
                        ("EVAL", "return redis.call('get', KEYS[1])", "1", "x"), ("SET", "x", "y" * 400000), ("SUBSCRIBE", "x")):
            assert forbidden(c.try_ask(*command)), command
        assert c.try_ask("SUBSCRIBE", "x").text == NO_LOGIN % "subscribe"
        assert c.ask("SET", "bob:long", "y" * 400000) == b"OK" and c.ask("GET", "bob:long") == b"y" * 400000
        assert c.ask("BLPOP", "bob:none", "0.05") is None
        found = set()
        cursor = b"0"
        while True:
            cursor, part = c.ask("SCAN", cursor, "COUNT", "100")
            found |= set(part)
            if cursor == b"0":
                break
        assert found == {k.encode() for k in spread + ["bob:long"]}
        # Transactions, and what is watched.
        assert c.ask("WATCH", "bob:1") == b"OK" and other.ask("SET", "bob:1", "changed") == b"OK"
        assert c.pipeline([("MULTI",), ("SET", "bob:1", "x"), ("EXEC",)]) == [b"OK", b"QUEUED", None]
        assert c.pipeline([("MULTI",), ("SET", "bob:1", "x"), ("EXEC",)]) == [b"OK", b"QUEUED", [b"OK"]]
        replies = c.pipeline([("MULTI",), ("SET", "x", "x"), ("EXEC",)])
        assert replies[2].text.startswith("EXECABORT ") and "NOPERM" in replies[2].text
        replies = c.pipeline([("MULTI",), ("SCRIPT", "LOAD", "return 1"), ("EXEC",)])
        assert replies[1].text == "NOPERM a transaction that concerns all nodes is not possible for a client with a login of its own"
        # Nobody else is bob, on whatever connection.
        assert other.ask("SET", "x", "1") == b"OK" and other.ask("BLPOP", "none", "0.05") is None and len(other.ask("KEYS", "*")) == 52
        assert other.pipeline([("WATCH", "x"), ("MULTI",), ("SET", "x", "2"), ("EXEC",)])[3] == [b"OK"]
        assert other.ask("SET", "x", "y" * 400000) == b"OK"
        # And back.
        assert c.ask("AUTH", "default", "") == b"OK" and c.ask("ACL", "WHOAMI") == b"default" and c.ask("SET", "x", "1") == b"OK"
        assert c.ask(*BOB) == b"OK" and c.ask("RESET") == b"RESET" and c.ask("SET", "x", "2") == b"OK"
        assert "bob's own" not in p.log_text()


def test_a_pipeline_of_logins(peopled):
    with Puerta(peopled) as p, p.client() as c:
        for n in range(20):
            replies = c.pipeline([("SET", "x", n), BOB, ("SET", "x", "no"), ("SET", "bob:x", n), ("AUTH", "eve", "eve's own"), ("SET", "bob:x", "no"),
                                  ("SET", "eve:x", n), ("ACL", "WHOAMI"), ("RESET",), ("MGET", "x", "bob:x", "eve:x"), ("ACL", "WHOAMI")])
            assert replies[:2] == [b"OK"] * 2 and forbidden(replies[2]) and replies[3:5] == [b"OK"] * 2 and forbidden(replies[5])
            assert replies[6:] == [b"OK", b"eve", b"RESET", [b"%d" % n] * 3, b"default"]


def test_hello_and_a_login(peopled):
    with Puerta(peopled) as p, p.client() as c:
        assert c.try_ask("HELLO", "3", "AUTH", "bob", "no").text == WRONGPASS
        reply = c.ask("HELLO", "3", "AUTH", "bob", "bob's own", "SETNAME", "robert")
        assert reply[b"proto"] == 3 and c.ask("CLIENT", "GETNAME") == b"robert" and c.ask("ACL", "WHOAMI") == b"bob"
        assert c.ask("HSET", "bob:h", "a", "b") == 1 and c.ask("HGETALL", "bob:h") == {b"a": b"b"} and forbidden(c.try_ask("SET", "x", "1"))
        assert c.ask("HELLO", "2")[:2] == [b"server", b"redis"]
        assert c.ask("ACL", "WHOAMI") == b"bob" and c.ask("HGETALL", "bob:h") == [b"a", b"b"] and forbidden(c.try_ask("SET", "x", "1"))
        assert c.ask("HELLO", "2", "AUTH", "default", "x")[0] == b"server" and c.ask("SET", "x", "1") == b"OK"


def test_a_stranger_comes_in_as_a_user_of_the_servers(peopled):
    with Guarded(peopled) as p, p.client() as c, p.client() as long_one:
        assert c.try_ask("GET", "bob:1").text == NOAUTH
        assert c.ask(*BOB) == b"OK" and c.ask("SET", "bob:1", "x") == b"OK" and forbidden(c.try_ask("SET", "x", "1"))
        assert c.try_ask("AUTH", "default", "bob's own").text == WRONGPASS and c.ask("ACL", "WHOAMI") == b"bob"
        assert c.ask("RESET") == b"RESET" and c.try_ask("GET", "bob:1").text == NOAUTH
        assert long_one.try_ask("AUTH", "bob", "x" * 2000).text == "ERR not executed: a user or a password is longer than this proxy keeps"
        assert long_one.try_ask("AUTH", "b" * 256, "x").text == "ERR not executed: a user or a password is longer than this proxy keeps"


def test_client_logins_no(peopled):
    with Puerta(peopled, client_logins="no") as p, p.client() as c:
        assert c.try_ask(*BOB).text == WRONGPASS and c.ask("ACL", "WHOAMI") == b"default"


def test_guesses_at_users_of_the_servers_become_slow(peopled):
    with Puerta(peopled) as p, visitor(p.port, "127.0.0.2") as c, p.client() as friend:
        took = []
        for _ in range(6):
            reply, seconds = timed(c, "AUTH", "bob", "guess")
            assert reply.text == WRONGPASS
            took.append(seconds)
        for seconds, least in zip(took, (0, 0, 0, 0.05, 0.1, 0.2)):
            assert 0.9 * least <= seconds, took
        reply, seconds = timed(friend, *BOB)
        assert reply == b"OK" and seconds < 0.3 * harness.SLOW
        assert b"auth_failures:6\r\n" in friend.ask("INFO")
        for _ in range(20):  # nobody waits for the answer: connections that are tried on go with their clients
            with p.client() as gone:
                gone.send(*BOB)
        assert c.ask(*BOB) == b"OK" and c.ask("SET", "bob:1", "x") == b"OK"


def test_no_connection_is_left_for_a_login(peopled):
    keys = [next(k for k in ("bob:%d" % n for n in range(1000)) if peopled.owner(k) is m) for m in peopled.masters]
    last = "ERR not executed: no connection of its own is left for this client (max_own)"
    with Puerta(peopled, max_own=3) as p, p.client() as c, p.client() as other:
        assert c.ask(*BOB) == b"OK" and [c.ask("SET", k, "x") for k in keys] == [b"OK"] * 3
        assert other.try_ask(*BOB).text == last and other.ask("ACL", "WHOAMI") == b"default" and other.ask("SET", "x", "1") == b"OK"
        assert c.ask("RESET") == b"RESET"
        assert other.ask(*BOB) == b"OK" and other.ask("SET", keys[2], "y") == b"OK" and other.ask("GET", keys[0]) == b"x"
        assert c.ask("GET", keys[2]) == b"y"
    with Puerta(peopled, max_own=0) as p, p.client() as c:
        assert c.try_ask(*BOB).text == last and c.ask("PING") == b"PONG"


def test_a_user_that_is_changed_at_the_servers(peopled):
    with Puerta(peopled, allow_admin="yes") as p, p.client() as c, p.client() as admin:
        keys = ["bob:%d" % i for i in range(20)]
        assert c.ask(*BOB) == b"OK" and c.ask("DEL", *keys) == 0
        assert admin.ask("ACL", "SETUSER", "bob", "-get") == b"OK"
        assert forbidden(c.try_ask("GET", "bob:1")) and c.ask("SET", "bob:1", "x") == b"OK"
        assert admin.ask("ACL", "DELUSER", "bob") in (1, b"OK")
        for key in keys:
            text = c.try_ask("SET", key, "x").text
            assert text.startswith(("NOPERM not executed: 127.0.0.1:", "ERR outcome unknown")), text
        assert admin.ask("MGET", *keys[2:]) == [None] * 18


def test_a_login_goes_where_the_slots_go(own_cluster):
    users(own_cluster)
    slot = harness.SLOTS // 6
    tag = harness.tag_for_slot(slot)
    source, target = own_cluster.masters[:2]
    keys = ["{%s}bob%d" % (tag, i) for i in range(30)]
    with Puerta(own_cluster, failover_wait="20s") as p, p.client() as c:
        assert c.ask(*BOB) == b"OK"
        for key in keys:
            assert c.ask("SET", key, "x") == b"OK"
        own_cluster.migrate_begin(slot, source, target)
        own_cluster.migrate_keys(slot, source, target, 15)
        assert [c.ask("GET", k) for k in keys] == [b"x"] * 30 and c.ask("SET", keys[0] + "new", "y") == b"OK"
        assert all(forbidden(r) for r in c.pipeline([("GET", "{%s}eve%d" % (tag, i)) for i in range(10)]))
        while own_cluster.migrate_keys(slot, source, target, 100):
            pass
        own_cluster.migrate_end(slot, source, target)
        assert c.ask("MGET", *keys) == [b"x"] * 30 and forbidden(c.try_ask("GET", "{%s}eve" % tag))
        victim = own_cluster.masters[2]
        lost = own_cluster.key_on(2, "bob")
        c.ask("SET", lost, "x")
        own_cluster.pause_writes_and_sync(victim, own_cluster.replicas[2][0])
        victim.kill()
        assert c.ask("GET", lost, timeout=40) == b"x" and forbidden(c.try_ask("GET", own_cluster.key_on(2, "eve")))
        assert c.ask("SET", lost, "y", timeout=40) == b"OK" and c.ask("ACL", "WHOAMI") == b"bob"
