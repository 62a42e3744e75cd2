"""What Puerta answers itself: as one plain Redis 7.0 would, compared with one where that is possible."""
import re
import socket
import subprocess
import time

import pytest

import harness
from harness import Puerta, RespClient, RespError, encode, slot_of


@pytest.fixture
def real(server):
    with RespClient(server.port) as c:
        yield c


def said(reply):
    return ("error", reply.text) if isinstance(reply, RespError) else reply


def error_of(client, *command):
    reply = client.try_ask(*command)
    assert isinstance(reply, RespError), reply
    return reply.text


# ---- the same words as a plain server ----

SAME = """
PING; PING x; PING x y; ECHO x; ECHO; SELECT 0; SELECT x; ROLE; MODULE LIST; ACL WHOAMI; ACL USERS; ACL CAT nosuch; ACL NOSUCH
AUTH x; AUTH default x; AUTH nobody x; AUTH a b c; HELLO x; HELLO 4; HELLO 1; HELLO 2 FOO; HELLO 2 AUTH x; HELLO 2 AUTH nobody x
HELLO 2 SETNAME; RESET; CLIENT; CLIENT NOSUCH; CLIENT GETNAME; CLIENT SETNAME ab; CLIENT GETNAME; RESET; CLIENT GETNAME
CLIENT SETNAME; CLIENT REPLY FOO; CLIENT NO-EVICT on; CLIENT NO-EVICT foo; CLIENT NO-EVICT off; CLIENT UNPAUSE; CLIENT GETREDIR
CLIENT TRACKINGINFO; CLIENT KILL x; CLIENT KILL ID x; CLIENT KILL ID 0; CLIENT KILL ID 999999; CLIENT KILL TYPE x; CLIENT KILL USER x
CLIENT KILL FOO x; CLIENT KILL ID; CLIENT KILL ID 1 SKIPME; CLIENT KILL ADDR 1.2.3.4:5; CLIENT KILL TYPE replica; CLIENT LIST FOO
CLIENT LIST TYPE foo; CLIENT LIST ID foo; CLIENT LIST ID; CLIENT LIST TYPE replica; CLIENT LIST ID 999999
COMMAND INFO get; COMMAND INFO nosuch config|get; COMMAND INFO getrange; COMMAND NOSUCH; COMMAND COUNT x; COMMAND LIST x
COMMAND LIST FILTERBY MODULE x; COMMAND LIST FILTERBY ACLCAT nosuch; COMMAND LIST FILTERBY NOSUCH x
COMMAND GETKEYS get a; COMMAND GETKEYS mset a 1 b 2; COMMAND GETKEYS nosuch a; COMMAND GETKEYS get a b; COMMAND GETKEYS eval x 0
COMMAND GETKEYS eval x 2 a b c; COMMAND GETKEYS zunion x y; COMMAND GETKEYS object encoding k; COMMAND GETKEYS echo x
COMMAND GETKEYSANDFLAGS get a; COMMAND GETKEYSANDFLAGS mget a b; INFO cluster; INFO nosuch; INFO modules
"""


@pytest.mark.parametrize("line", [line for line in SAME.split("\n") if line])
def test_the_same_answer_as_a_plain_server(client, real, server, line):
    if not server.is_7_0():
        pytest.skip("the texts are those of Redis 7.0")
    calls = [text.split(" ") for text in line.split("; ")]
    wrong = [(" ".join(call), said(mine), said(theirs))
             for call, mine, theirs in ((call, client.try_ask(*call), real.try_ask(*call)) for call in calls) if said(mine) != said(theirs)]
    assert wrong == []


def test_time_lolwut_and_select(client):
    seconds, micros = client.ask("TIME")
    assert abs(int(seconds) - time.time()) < 60 * harness.SLOW and 0 <= int(micros) < 1000000
    assert re.search(rb"Redis ver\. \d+\.\d+\.\d+\n\Z", client.ask("LOLWUT"))
    assert error_of(client, "SELECT", "1") == "ERR SELECT is not allowed in cluster mode"


def test_quit_and_reset(puerta):
    with puerta.client() as c:
        assert c.ask("CLIENT", "SETNAME", "somebody") == b"OK"
        assert c.ask("RESET") == b"RESET"
        assert c.ask("CLIENT", "GETNAME") is None
        c.send_raw(encode("QUIT") + encode("PING"))
        assert c.read() == b"OK"
        assert c.at_end()


def test_hello(client):
    hello = client.ask("HELLO", "2", "AUTH", "default", "any", "SETNAME", "me")
    told = dict(zip(hello[::2], hello[1::2]))
    assert told[b"server"] == b"redis" and told[b"proto"] == 2 and told[b"mode"] == b"standalone" and told[b"role"] == b"master"
    assert told[b"id"] == client.ask("CLIENT", "ID")
    assert client.ask("CLIENT", "GETNAME") == b"me"
    assert error_of(client, "HELLO", "4") == "NOPROTO unsupported protocol version"
    assert error_of(client, "HELLO", "2", "SETNAME", "a b").startswith("ERR Client names cannot contain spaces")
    assert error_of(client, "HELLO", "2", "SETNAME", "other", "AUTH", "nobody", "x").startswith("WRONGPASS ")
    assert client.ask("CLIENT", "GETNAME") == b"me", "a HELLO that fails changes nothing"


def test_helps(client):
    for container in ("CLIENT", "CLUSTER", "COMMAND"):
        lines = client.ask(container, "HELP")
        assert lines[0].startswith(container.encode() + b" <subcommand>") and lines[-2:] == [b"HELP", b"    Prints this help."]


# ---- COMMAND ----

# Redis 7.2 says "blocking" of WAIT, and has it in the category since.
CATEGORIES_DIFFER = {"wait": {"@blocking"}}


def rows_of(client):
    rows = {}

    def take(row):
        rows[row[0].decode()] = row
        for sub in row[9]:
            take(sub)

    for row in client.ask("COMMAND"):
        take(row)
    return rows


def test_command_in_the_form_of_the_server(client, real, server):
    mine, theirs = rows_of(client), rows_of(real)
    assert set(theirs) - set(mine) == set()
    wrong = {}
    for name, row in theirs.items():
        assert len(mine[name]) == 10
        differ = {c.decode() for c in set(mine[name][6]) ^ set(row[6])} - CATEGORIES_DIFFER.get(name, set())
        if differ and server.is_7_0():
            wrong[name] = differ
        assert bool(mine[name][8]) == bool(row[8]), "key specs of " + name
        assert {s[0] for s in row[9]} <= {s[0] for s in mine[name][9]}
    assert wrong == {}
    assert client.ask("COMMAND", "COUNT") == len(client.ask("COMMAND")) == len(client.ask("COMMAND", "INFO"))


def specs_of(row):
    """Where keys begin and how they are found; not what is done to them."""
    return [[dict(zip(s[::2], s[1::2]))[part] for part in (b"begin_search", b"find_keys")] for s in row[8]]


# The same keys in fewer specs, or in ones that tell more than the server does.
SPECS_DIFFER = {"bitop", "georadius", "lcs", "pfmerge", "sdiffstore", "sinterstore", "sort", "sort_ro", "sunionstore", "xreadgroup"}


def test_key_specs(client, real, server):
    if not server.is_7_0():
        pytest.skip("compared with Redis 7.0")
    mine, theirs = rows_of(client), rows_of(real)
    assert {n for n, row in theirs.items() if specs_of(row) != specs_of(mine[n])} == SPECS_DIFFER


def test_command_info_answers_in_the_order_of_the_names(client):
    names = ["get", "nosuch", "client|id", "CLIENT", "set", "client|nosuch", "get|x"]
    rows = client.ask("COMMAND", "INFO", *names)
    assert [row and row[0] for row in rows] == [b"get", None, b"client|id", b"client", b"set", None, None]


def test_command_lists(client, real, server):
    if not server.is_7_0():
        pytest.skip("compared with Redis 7.0")
    mine, theirs = client.ask("COMMAND", "LIST"), real.ask("COMMAND", "LIST")
    assert set(theirs) <= set(mine) and len(mine) == len(set(mine))
    for pattern in ("x[a-d]*", "*|help", "g?t", "[^a-w]*", "zr*b*x", "GET", "*", "a\\*", "[", "s**t", "h[etl]*t?r"):
        wanted = set(real.ask("COMMAND", "LIST", "FILTERBY", "PATTERN", pattern))
        assert set(client.ask("COMMAND", "LIST", "FILTERBY", "PATTERN", pattern)) & set(theirs) == wanted, pattern
    for category in real.ask("ACL", "CAT"):
        got = set(client.ask("COMMAND", "LIST", "FILTERBY", "ACLCAT", category)) & set(theirs)
        assert got ^ set(real.ask("COMMAND", "LIST", "FILTERBY", "ACLCAT", category)) <= {b"wait"}, category
    assert set(client.ask("ACL", "CAT")) == set(real.ask("ACL", "CAT"))
    assert set(client.ask("ACL", "CAT", "geo")) == set(real.ask("ACL", "CAT", "geo"))
    assert "pattern" in error_of(client, "COMMAND", "LIST", "FILTERBY", "PATTERN", "*a" * 1000)


def test_command_docs_come_from_a_node(client):
    docs = client.ask("COMMAND", "DOCS", "get")
    assert docs[0] == b"get" and b"summary" in docs[1]
    assert len(client.ask("COMMAND", "DOCS")) > 400


def test_many_keys_of_a_command_in_a_command(client):
    keys = [b"key:%d" % i for i in range(5000)]
    assert client.ask("COMMAND", "GETKEYS", "MGET", *keys) == keys
    assert client.ask("COMMAND", "GETKEYSANDFLAGS", "del", "a", "b")[1] == [b"b", [b"RW", b"access", b"update"]]
    assert "max_split_keys" in error_of(client, "COMMAND", "GETKEYS", "MGET", *["k"] * 17000)


def test_long_answers_in_a_pipeline_keep_their_place(client):
    """COMMAND is longer than the writer's buffer; behind a request that is under way it is parked in pieces."""
    whole = client.ask("COMMAND")
    replies = client.pipeline([("SET", "lp", "v"), ("COMMAND",), ("GET", "lp"), ("INFO", "everything"), ("COMMAND",), ("PING",),
                               ("EVAL", "return 1", 1, "lp"), ("COMMAND",), ("CLIENT", "ID")] * 5)
    for i in range(0, len(replies), 9):
        assert replies[i] == b"OK" and replies[i + 2] == b"v" and replies[i + 5] == b"PONG" and replies[i + 6] == 1
        assert replies[i + 1] == replies[i + 4] == replies[i + 7] == whole
        assert b"# Keyspace\r\ndb0:keys=" in replies[i + 3] and replies[i + 3].startswith(b"# Server")


def test_an_answer_longer_than_the_pool_can_bear_is_an_error(cluster):
    conf = "[puerta]\nsupervise = no\nchunk_size = 4k\nchunks = 64\n[redis main]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\nretain_bytes = 16k\n"
    with Puerta(cluster, conf=conf) as p, p.client() as c:
        replies = c.pipeline([("COMMAND",), ("PING",), ("COMMAND", "INFO", "get"), ("SET", "small", "v"), ("INFO",)] * 3)
        assert all(isinstance(r, RespError) and "chunks" in r.text for r in replies[::5])
        assert replies[1::5] == [b"PONG"] * 3 and replies[3::5] == [b"OK"] * 3 and replies[2][0][0] == b"get"
        assert all(r.startswith(b"# Server") for r in replies[4::5])


# ---- CLIENT ----

FIELDS = ("id addr laddr fd name age idle flags db sub psub ssub multi qbuf qbuf-free argv-mem multi-mem rbs rbp obl oll omem tot-mem "
          "events cmd user redir resp").split()


def fields(line):
    return dict(part.split("=", 1) for part in line.decode().strip().split(" "))


def clients_of(client, *arguments):
    return [fields(line) for line in client.ask("CLIENT", "LIST", *arguments).splitlines()]


def test_client_info_has_the_fields_of_redis(client, real, puerta):
    client.ask("CLIENT", "SETNAME", "me")
    client.ask("CLIENT", "SETINFO", "LIB-NAME", "testlib")
    client.ask("CLIENT", "SETINFO", "lib-ver", "1.2.3")
    mine = fields(client.ask("CLIENT", "INFO"))
    assert set(fields(real.ask("CLIENT", "INFO"))) <= set(mine) and set(FIELDS) <= set(mine)
    host, port = client.sock.getsockname()
    assert mine["addr"] == "%s:%d" % (host, port) and mine["laddr"] == "127.0.0.1:%d" % puerta.port
    assert mine["id"] == str(client.ask("CLIENT", "ID")) and mine["name"] == "me" and mine["cmd"] == "client|info"
    assert mine["lib-name"] == "testlib" and mine["lib-ver"] == "1.2.3" and mine["user"] == "default" and mine["resp"] == "2"
    client.ask("RESET")


def test_names_that_are_refused(client):
    for command in (("CLIENT", "SETNAME", "a\nb"), ("CLIENT", "SETINFO", "lib-name", "a b"), ("CLIENT", "SETINFO", "lib-ver", "\x7f")):
        assert "cannot contain spaces" in error_of(client, *command)
    assert error_of(client, "CLIENT", "SETINFO", "foo", "x") == "ERR Unrecognized option 'foo'"
    assert "longer than" in error_of(client, "CLIENT", "SETNAME", "x" * 1000)
    assert client.ask("CLIENT", "SETNAME", "x" * 63) == b"OK"
    assert client.ask("CLIENT", "SETNAME", "") == b"OK"
    assert client.ask("CLIENT", "GETNAME") is None


def test_client_list(client, other, puerta):
    ids = [str(c.ask("CLIENT", "ID")) for c in (client, other)]
    assert other.ask("GET", "listed") is None
    listed = {f["id"]: f for f in clients_of(client)}
    assert set(ids) <= set(listed)
    assert listed[ids[0]]["cmd"] == "client|list" and listed[ids[1]]["cmd"] == "get"
    assert [f["id"] for f in clients_of(client, "ID", ids[1])] == [ids[1]]
    assert {f["id"] for f in clients_of(client, "ID", *ids, 4000000000)} == set(ids)
    assert set(ids) <= {f["id"] for f in clients_of(client, "TYPE", "normal")}
    assert clients_of(client, "TYPE", "pubsub") == []
    assert "IDs" in error_of(client, "CLIENT", "LIST", "ID", *range(1, 200))


def test_a_list_longer_than_the_writers_buffer(client, puerta):
    many = [puerta.client() for _ in range(200)]
    try:
        for i, c in enumerate(many):
            assert c.ask("CLIENT", "SETNAME", "many:%d" % i) == b"OK"
        names = {f["name"] for f in clients_of(client)}
        assert {"many:%d" % i for i in range(200)} <= names
    finally:
        for c in many:
            c.close()


def test_killing_others(client, puerta):
    def victims(count):
        return [puerta.client() for _ in range(count)]

    def number(c):
        return c.ask("CLIENT", "ID")

    a, b, c, d = victims(4)
    assert client.ask("CLIENT", "KILL", "ID", number(a)) == 1
    assert a.at_end()
    assert client.ask("CLIENT", "KILL", "ID", number(b), "ID", number(c), "TYPE", "normal", "USER", "default") == 2
    assert b.at_end() and c.at_end()
    assert client.ask("CLIENT", "KILL", "%s:%d" % d.sock.getsockname()) == b"OK"
    assert d.at_end()
    a, b = victims(2)
    assert a.ask("PING") == b.ask("PING") == b"PONG"
    assert client.ask("CLIENT", "KILL", "MAXAGE", "100000") == 0
    assert client.ask("CLIENT", "KILL", "LADDR", "127.0.0.1:%d" % puerta.port) >= 2, "all but itself"
    assert a.at_end() and b.at_end()
    assert client.ask("PING") == b"PONG"
    for x in (a, b, c, d):
        x.close()


def test_killing_oneself_is_answered_first(puerta):
    with puerta.client() as c:
        c.send_raw(encode("CLIENT", "KILL", "SKIPME", "no", "ID", c.ask("CLIENT", "ID")) + encode("PING"))
        assert c.read() == 1
        assert c.at_end()
    with puerta.client() as c:
        assert c.ask("CLIENT", "KILL", "%s:%d" % c.sock.getsockname()) == b"OK"
        assert c.at_end()


def test_a_client_is_killed_with_requests_in_flight(client, puerta, cluster):
    with puerta.client() as victim:
        number = victim.ask("CLIENT", "ID")
        key = "killed"
        victim.send_raw(b"".join(encode("SET", key, i) for i in range(300)) + encode("EVAL", "for i = 1, 3000000 do end", 1, key))
        assert client.ask("CLIENT", "KILL", "ID", number) == 1
        try:
            while True:
                victim.read()
        except (EOFError, ConnectionResetError):
            pass
    assert client.ask("SET", key, "after") == b"OK"
    assert client.ask("GET", key) == b"after"


# ---- CLIENT REPLY ----

def test_reply_off_and_on(client, real):
    for c in (client, real):
        c.send_raw(encode("SET", "ro", "1") + encode("CLIENT", "REPLY", "OFF") + encode("INCR", "ro") + encode("PING") + encode("NOSUCH")
                   + encode("MGET", "ro", "ro2", "ro3") + encode("CLIENT", "REPLY", "ON") + encode("GET", "ro"))
        assert [c.read() for _ in range(3)] == [b"OK", b"OK", b"2"]
        assert c.silent(0.05)


def test_reply_skip(client, real):
    for c in (client, real):
        c.send_raw(encode("SET", "rs", "1") + encode("CLIENT", "REPLY", "SKIP") + encode("INCR", "rs") + encode("GET", "rs")
                   + encode("CLIENT", "REPLY", "SKIP") + encode("PING") + encode("PING")
                   + encode("CLIENT", "REPLY", "SKIP") + encode("CLIENT", "REPLY", "SKIP") + encode("PING") + encode("ECHO", "x")
                   + encode("CLIENT", "REPLY", "SKIP") + encode("CLIENT", "REPLY", "ON") + encode("GET", "rs"))
        assert [c.read() for _ in range(6)] == [b"OK", b"2", b"PONG", b"x", b"OK", b"2"]
        assert c.silent(0.05)


def test_reply_modes_in_a_long_pipeline(client):
    """Answers of requests on all nodes, large ones, merged ones and errors: what was asked while silent stays silent."""
    keys = ["rm:%d" % i for i in range(60)]
    assert {slot_of(k) * 3 // harness.SLOTS for k in keys} == {0, 1, 2}
    big = b"b" * 400000
    commands, wanted = [], []
    for i, k in enumerate(keys):
        loud = [(("SET", k, i), b"OK"), (("GET", k), b"%d" % i), (("MGET", k, keys[0]), [b"%d" % i, b"0"]), (("PING",), b"PONG")]
        silent = [("APPEND", k, "x"), ("MGET", *keys), ("LPUSH", k, "wrong type"), ("PING",), ("SET", "rm:big", big), ("GET", "rm:big")]
        for command, answer in loud:
            commands.append(command)
            wanted.append(answer)
        if i % 2:
            commands += [("CLIENT", "REPLY", "OFF")] + silent + [("CLIENT", "REPLY", "ON")]
            wanted.append(b"OK")
        else:
            for command in silent:
                commands += [("CLIENT", "REPLY", "SKIP"), command]
        commands.append(("GET", k))
        wanted.append(b"%dx" % i)
        if i == 0:
            commands.append(("SET", k, i))
            wanted.append(b"OK")
    client.send_raw(b"".join(encode(*c) for c in commands))
    for i, want in enumerate(wanted):
        assert client.read() == want, i
    assert client.silent(0.05)


@pytest.mark.parametrize("leaves", [False, True])
def test_what_is_silent_holds_nothing_up(puerta, cluster, leaves):
    """The last of a silent pipeline is answered before an earlier one that is at another node: its client can subscribe later, or go."""
    slow, fast = cluster.key_on(0, "rh"), cluster.key_on(1, "rh")
    with puerta.client() as c:
        c.send_raw(encode("CLIENT", "REPLY", "OFF") + encode("EVAL", "for i = 1, 3000000 do end", 1, slow) + encode("SET", fast, "1"))
        time.sleep(0.3)
        c.send("QUIT" if leaves else "SUBSCRIBE", *([] if leaves else ["rh"]))
        if leaves:
            assert c.at_end()
        else:
            assert c.read() == [b"subscribe", b"rh", 1]


def test_reset_lets_a_client_hear_again(puerta):
    with puerta.client() as c:
        c.send_raw(encode("CLIENT", "REPLY", "OFF") + encode("PING") + encode("RESET") + encode("PING"))
        assert [c.read(), c.read()] == [b"RESET", b"PONG"]


# ---- CLUSTER ----

def test_cluster_is_one_node(client, puerta):
    at = [b"127.0.0.1", puerta.port]
    slots = client.ask("CLUSTER", "SLOTS")
    number = client.ask("CLUSTER", "MYID")
    assert re.fullmatch(rb"[0-9a-f]{40}", number)
    assert slots == [[0, 16383, at + [number, []]]]
    shard = client.ask("CLUSTER", "SHARDS")[0]
    node = shard[3][0]
    assert shard[:3] == [b"slots", [0, 16383], b"nodes"] and dict(zip(node[::2], node[1::2])) == {
        b"id": number, b"port": puerta.port, b"ip": at[0], b"endpoint": at[0], b"role": b"master", b"replication-offset": 0,
        b"health": b"online"}
    line = client.ask("CLUSTER", "NODES").decode()
    assert re.fullmatch(r"%s 127\.0\.0\.1:%d@\d+ myself,master - 0 0 1 connected 0-16383\n" % (number.decode(), puerta.port), line)
    info = client.ask("CLUSTER", "INFO").decode()
    assert "cluster_state:ok\r\n" in info and "cluster_slots_ok:16384\r\n" in info and "cluster_known_nodes:1\r\n" in info
    assert client.ask("CLUSTER", "LINKS") == client.ask("CLUSTER", "REPLICAS", number) == []
    assert client.ask("CLUSTER", "COUNT-FAILURE-REPORTS", number) == 0
    assert error_of(client, "CLUSTER", "REPLICAS", "x") == "ERR Unknown node x"
    assert error_of(client, "CLUSTER", "NOSUCH") == "ERR unknown subcommand 'NOSUCH'. Try CLUSTER HELP."
    assert [client.ask(x) for x in ("READONLY", "READWRITE", "ASKING")] == [b"OK"] * 3


def test_cluster_writes_are_refused(client, cluster):
    for command in (("MEET", "1.2.3.4", "5"), ("FLUSHSLOTS",), ("ADDSLOTS", "1"), ("RESET",), ("FORGET", "x" * 40)):
        assert isinstance(client.try_ask("CLUSTER", *command), RespError)
    cluster.wait_whole()


def test_a_slots_keys_are_counted_by_its_owner(client):
    keys = ["{count}%d" % i for i in range(20)]
    slot = slot_of("{count}")
    client.ask("DEL", *keys)
    assert client.ask("CLUSTER", "KEYSLOT", "{count}x") == slot == client.ask("CLUSTER", "KEYSLOT", keys[0])
    before = client.ask("CLUSTER", "COUNTKEYSINSLOT", slot)
    client.ask("MSET", *[x for k in keys for x in (k, "v")])
    assert client.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == before + 20
    assert {k.encode() for k in keys} <= set(client.ask("CLUSTER", "GETKEYSINSLOT", slot, 100))
    for i in range(3):
        assert client.ask("CLUSTER", "COUNTKEYSINSLOT", i * 5461) >= 0
    assert "slot" in error_of(client, "CLUSTER", "COUNTKEYSINSLOT", 16384).lower()
    assert isinstance(client.try_ask("CLUSTER", "COUNTKEYSINSLOT", "x"), RespError)
    client.ask("DEL", *keys)


def test_the_announced_address(cluster):
    with Puerta(cluster, announce="redis.example.net:7777") as p, p.client() as c:
        assert c.ask("CLUSTER", "SLOTS")[0][2][:2] == [b"redis.example.net", 7777]
        assert b" redis.example.net:7777@17777 " in c.ask("CLUSTER", "NODES")
    with Puerta(cluster, announce="[::1]:7777") as p, p.client() as c:
        assert c.ask("CLUSTER", "SLOTS")[0][2][:2] == [b"::1", 7777]
    done = subprocess.run([harness.BINARY, "redis", "127.0.0.1:1", "announce=nothing"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 78 and "announce" in done.stderr


def test_the_version_that_clients_are_told(cluster):
    with Puerta(cluster, redis_version="8.2.1") as p, p.client() as c:
        hello = c.ask("HELLO", "2")
        assert hello[hello.index(b"version") + 1] == b"8.2.1"
        assert c.info("server")["redis_version"] == "8.2.1"
        assert c.ask("LOLWUT").endswith(b", as Redis ver. 8.2.1\n")


def test_the_id_follows_from_the_sections_name(cluster):
    conf = "[puerta]\nsupervise = no\n[redis %s]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\n"
    ids = []
    for name in ("one", "one", "two"):
        with Puerta(cluster, conf=conf % name) as p, p.client() as c:
            ids.append(c.ask("CLUSTER", "MYID"))
    assert ids[0] == ids[1] != ids[2]


def test_a_unix_socket_has_no_address_to_tell(cluster, tmp_path):
    path = str(tmp_path / "p.sock")
    with Puerta(cluster, listen="unix:" + path, wait=False):
        harness.wait_for("the socket", lambda: (tmp_path / "p.sock").exists())
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(path)
            s.sendall(encode("CLUSTER", "SLOTS"))
            assert s.recv(1000).startswith(b"*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$0\r\n\r\n:0\r\n$40\r\n")
            s.sendall(encode("CLIENT", "INFO"))
            assert b" laddr=unix:" + path.encode() + b" " in s.recv(1000)


def test_redis_py_cluster_works_through_one_node(puerta):
    import redis

    with redis.RedisCluster(host="127.0.0.1", port=puerta.port, decode_responses=True) as r:
        assert [n.port for n in r.get_nodes()] == [puerta.port]
        for i in range(200):
            assert r.set("rc:%d" % i, "v%d" % i)
        assert [r.get("rc:%d" % i) for i in range(200)] == ["v%d" % i for i in range(200)]
        assert r.delete(*["rc:%d" % i for i in range(100)]) == 100
        assert r.mget_nonatomic(["rc:%d" % i for i in range(100, 200)]) == ["v%d" % i for i in range(100, 200)]
        with r.pipeline() as pipe:
            for i in range(100, 200):
                pipe.get("rc:%d" % i)
            assert pipe.execute() == ["v%d" % i for i in range(100, 200)]
        assert r.cluster_info()["cluster_state"] == "ok"
        assert r.cluster_keyslot("abc") == slot_of("abc")
        assert r.eval("return KEYS[1]", 1, "rc:1") == "rc:1"


def test_redis_cli_as_a_clusters_client(puerta):
    def cli(*arguments):
        return subprocess.run([harness.REDIS_CLI, "-c", "-p", str(puerta.port)] + list(arguments), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60).stdout.strip()

    assert cli("set", "rcli", "v") == "OK" and cli("get", "rcli") == "v"


# ---- INFO ----

def test_info_by_section(client, real):
    for section in ("server", "clients", "memory", "persistence", "stats", "replication", "cpu", "cluster", "errorstats"):
        text = client.ask("INFO", section).decode()
        assert text.startswith("# ") and text[2:].lower().startswith(section) and text.count("# ") == 1, text[:40]
    titles = re.findall(r"^# (\w+)", client.ask("INFO").decode(), re.M)
    assert set(re.findall(r"^# (\w+)", real.ask("INFO").decode(), re.M)) - set(titles) <= {"Keyspace"}
    assert "Puerta" in titles and "Commandstats" not in titles
    for word in ("all", "everything"):
        assert "Commandstats" in re.findall(r"^# (\w+)", client.ask("INFO", word).decode(), re.M)
    assert re.findall(r"^# (\w+)", client.ask("INFO", "CPU", "server", "nosuch", "cpu").decode(), re.M) == ["Server", "CPU"]


def test_info_counts_commands_and_errors(client):
    def calls(name):
        found = client.info("commandstats").get("cmdstat_" + name)
        return dict(p.split("=") for p in found.split(",")) if found else {"calls": "0", "rejected_calls": "0", "failed_calls": "0"}

    def difference(before, after):
        return {k: int(after[k]) - int(before[k]) for k in ("calls", "rejected_calls", "failed_calls")}

    names = ("get", "client|id", "mget", "object|encoding", "select")
    before = {n: calls(n) for n in names}
    errors = client.info("errorstats")
    client.pipeline([("GET", "x")] * 7 + [("CLIENT", "ID")] * 2 + [("MGET", "a", "b", "c"), ("OBJECT", "ENCODING", "x"), ("SELECT", "5"),
                                                                    ("SELECT",), ("HELLO", "9")])
    assert difference(before["get"], calls("get")) == {"calls": 7, "rejected_calls": 0, "failed_calls": 0}
    assert difference(before["client|id"], calls("client|id"))["calls"] == 2
    assert difference(before["mget"], calls("mget"))["calls"] == 1
    assert difference(before["object|encoding"], calls("object|encoding"))["calls"] == 1
    assert difference(before["select"], calls("select")) == {"calls": 1, "rejected_calls": 1, "failed_calls": 1}
    after = client.info("errorstats")

    def count(counts, word):
        return int(counts.get("errorstat_" + word, "count=0").split("=")[1])

    assert count(after, "ERR") - count(errors, "ERR") == 2 and count(after, "NOPROTO") - count(errors, "NOPROTO") == 1


def test_info_says_what_tools_look_for(client, puerta):
    info = client.info()
    assert info["redis_version"].startswith("7.0.") and info["redis_mode"] == "standalone" and info["role"] == "master"
    assert info["tcp_port"] == str(puerta.port) and info["loading"] == "0" and int(info["connected_clients"]) >= 1
    assert int(info["used_memory"]) > 0 and info["process_id"].isdigit() and float(info["used_cpu_user"]) >= 0
    assert int(info["total_commands_processed"]) > 0 and info["slots_served"] == "16384"
