"""PUERTA over the Redis protocol: each subcommand in RESP2 and RESP3, who may, what HELP lists; by raw words and by redis-py."""
import contextlib
import json
import os
import re
import socket
import time
import urllib.request

import pytest
import redis as redis_py

import harness
from harness import Puerta, RespClient, RespError, wait_for

SUBCOMMANDS = "STATUS BACKENDS CLIENTS SLOWLOG HOTKEYS MEMORY DRAIN UNDRAIN DOWN KILL RELOAD LOGLEVEL HELP".split()
CONF = """[puerta]
slow_log_min = 1ms
hot_keys = 16
admin = 127.0.0.1:{admin}
[redis main]
listen = 127.0.0.1:{{port}}
nodes = {{seeds}}
allow_admin = yes
[redis closed]
listen = unix:{{folder}}/closed
nodes = {{seeds}}
"""


@pytest.fixture(scope="module")
def admin():
    return harness.free_port()


@pytest.fixture(scope="module")
def puerta(cluster, admin):
    with Puerta(cluster, conf=CONF.format(admin=admin)) as p:
        yield p


@pytest.fixture(params=[2, 3])
def c(puerta, request):
    with puerta.client() as client:
        if request.param == 3:
            client.ask("HELLO", 3)
        client.protocol = request.param
        yield client


def tree(answer, c):
    """What came as texts and dicts; a map of RESP2 is a flat array."""
    if isinstance(answer, dict):
        return {tree(k, c): tree(v, c) for k, v in answer.items()}
    if isinstance(answer, list):
        return [tree(v, c) for v in answer]
    return answer.decode() if isinstance(answer, bytes) else answer


def as_map(answer):
    """A map in either form."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2]))


def told(c, *words):
    answer = c.ask("PUERTA", *words)
    if c.protocol == 3 and words[0] in ("STATUS", "HOTKEYS", "MEMORY"):
        assert isinstance(answer, dict)
    return tree(answer, c)


# ------------------------------------------------------------- what there is

def test_status(c, puerta):
    status = as_map(told(c, "STATUS"))
    assert status["version"] and status["pid"] in harness.children_of(puerta.process.pid)
    assert status["log_level"] == "info" and status["memory_bytes"] == puerta.promised()
    assert bool(status["ready"]) and not status["stopping"] and abs(status["started"] - time.time()) < 600
    assert isinstance(status["ready"], bool if c.protocol == 3 else int)
    sections = [as_map(s) for s in status["sections"]]
    assert [(s["name"], s["kind"], s["mode"], s["slots"]) for s in sections] == [("main", "redis", "cluster", 16384), ("closed", "redis", "cluster", 16384)]
    assert sections[0]["listen"] == ["127.0.0.1:%d" % puerta.port] and status["reloaded"] == ""
    assert sections[0]["clients"] >= 1 and sections[0]["backends_up"] == sections[0]["backends"] == 3
    gauges = {k: as_map(v) for k, v in as_map(status["gauges"]).items()}
    assert gauges["clients"]["now"] >= 1 and gauges["clients"]["high"] >= gauges["clients"]["now"]
    counters = as_map(status["counters"])
    before = counters["requests"]
    for _ in range(5):
        c.ask("ECHO", "x")
    assert as_map(as_map(told(c, "STATUS"))["counters"])["requests"] == before + 6


def test_status_says_what_the_admin_listener_says(c, admin):
    with urllib.request.urlopen("http://127.0.0.1:%d/status" % admin) as answer:
        over_http = json.load(answer)
    status = as_map(told(c, "STATUS"))
    assert set(as_map(status["counters"])) == set(over_http["counters"])
    assert set(as_map(status["gauges"])) == set(over_http["gauges"])
    assert set(over_http) - set(status) == {"writable", "backends"}
    row = as_map(told(c, "BACKENDS")[0])
    assert list(row) == list(over_http["backends"][0])
    assert list(as_map(status["sections"][0])) == list(over_http["sections"][0])


def test_backends(c, cluster):
    c.ask("SET", cluster.key_on(0), "v")
    rows = [as_map(r) for r in told(c, "BACKENDS")]
    assert {(r["name"], r["section"]) for r in rows} == {(n.address, s) for n in cluster.masters for s in ("main", "closed")}
    assert {r["state"] for r in rows} == {"up"} and {r["hold"] for r in rows} == {"none"}
    assert sum(r["slots"] for r in rows if r["section"] == "main") == 16384
    mine = next(r for r in rows if r["name"] == cluster.masters[0].address and r["section"] == "main")
    assert mine["answers"] > 0 and mine["p99_us"] >= mine["p50_us"] > 0 and mine["connections"] >= 1


def test_clients(c):
    c.ask("CLIENT", "SETNAME", "teller")
    cursor, rows = told(c, "CLIENTS")
    assert cursor == 0
    rows = [as_map(r) for r in rows]
    mine = next(r for r in rows if r["id"] == c.ask("CLIENT", "ID"))
    assert (mine["name"], mine["section"], mine["address"]) == ("teller", "main", "127.0.0.1:%d" % c.sock.getsockname()[1])
    assert c.try_ask("PUERTA", "CLIENTS", "x").text == "ERR invalid cursor"
    assert c.try_ask("PUERTA", "CLIENTS", -1).text == "ERR invalid cursor"
    assert told(c, "CLIENTS", 1 << 31) == [0, []]


def test_clients_by_pages(c, puerta):
    crowd = [puerta.client() for _ in range(250)]
    try:
        wanted = {one.ask("CLIENT", "ID") for one in crowd}
        seen, cursor, pages = [], 0, 0
        while True:
            cursor, rows = told(c, "CLIENTS", cursor)
            assert len(rows) <= 100
            seen += [as_map(r)["id"] for r in rows]
            pages += 1
            if cursor == 0:
                break
        assert pages == 3 and len(seen) == len(set(seen)) and wanted <= set(seen)
    finally:
        for one in crowd:
            one.close()


def test_slowlog(c, puerta, cluster):
    key = b"\x00bin\xff{%s}" % harness.tag_for_slot(11).encode()
    cluster.owner(11).ask("CONFIG", "SET", "slowlog-log-slower-than", -1)
    assert c.ask("EVAL", "local t = redis.call('TIME')[2] for i = 1, 3000000 do end return 1", 1, key) == 1
    rows = [as_map(r) for r in c.ask("PUERTA", "SLOWLOG")]
    row = {k.decode(): v for k, v in next(r for r in rows if r[b"command"] == b"eval").items()}
    assert row["key"] == key and row["section"] == b"main" and row["backend"].decode() == cluster.owner(11).address
    assert row["all_us"] >= 1000 and row["sent_us"] + row["queued_us"] + row["answered_us"] <= row["all_us"]
    assert row["client"] == b"127.0.0.1:%d" % c.sock.getsockname()[1] and abs(row["when_ms"] / 1000 - time.time()) < 60
    assert len(c.ask("PUERTA", "SLOWLOG", 1)) == 1 and c.ask("PUERTA", "SLOWLOG", 0) == []
    assert len(c.ask("PUERTA", "SLOWLOG", -1)) >= len(rows)
    assert "out of range" in c.try_ask("PUERTA", "SLOWLOG", "many").text
    assert c.ask("PUERTA", "SLOWLOG", "reset") == b"OK"
    assert c.ask("PUERTA", "SLOWLOG", -1) == []


def test_hotkeys(c):
    for _ in range(40):
        c.pipeline([("GET", "hot")] * 100)
    hot = as_map(c.ask("PUERTA", "HOTKEYS", 3))
    keys = [as_map(r) for r in hot[b"keys"]]
    assert len(keys) <= 3 and keys[0][b"key"] == b"hot" and keys[0][b"slot"] == harness.slot_of("hot") and keys[0][b"count"] > 1000
    slots = [as_map(r) for r in hot[b"slots"]]
    assert slots[0][b"slot"] == harness.slot_of("hot") and b"key" not in slots[0]


def test_memory(c, puerta):
    memory = as_map(told(c, "MEMORY"))
    tables = [as_map(t) for t in memory["tables"]]
    assert memory["bytes"] == puerta.promised()
    assert all(t["bytes"] == t["entries"] * t["each"] for t in tables)
    assert memory["bytes"] >= sum(t["bytes"] for t in tables) > memory["bytes"] * 0.9


# ------------------------------------------------------------ what is done

def test_drain_undrain_down(c, cluster):
    name = "closed/" + cluster.masters[0].address
    assert "move its slots first" in c.try_ask("PUERTA", "DRAIN", name).text
    assert "serves nobody" in told(c, "DOWN", name)
    row = next(as_map(r) for r in told(c, "BACKENDS") if as_map(r)["hold"] != "none")
    assert (row["hold"], row["section"], row["name"]) == ("down", "closed", cluster.masters[0].address)
    assert "serves again" in told(c, "UNDRAIN", name)
    assert "several sections" in c.try_ask("PUERTA", "DOWN", cluster.masters[0].address).text
    assert "no server is called" in c.try_ask("PUERTA", "DOWN", "x\0y").text


def test_kill(c, puerta):
    with puerta.client() as victim:
        assert "is ended" in told(c, "KILL", victim.ask("CLIENT", "ID"))
        assert victim.at_end()
    assert "number of a client" in c.try_ask("PUERTA", "KILL", "somebody").text
    assert "number of a client" in c.try_ask("PUERTA", "KILL", 0).text


def test_loglevel(c, puerta):
    try:
        assert told(c, "LOGLEVEL", "debug") == "the log level is debug (was info)"
        assert as_map(told(c, "STATUS"))["log_level"] == "debug"
    finally:
        assert told(c, "LOGLEVEL", "info") == "the log level is info (was debug)"


def test_reload_of_a_file(c, puerta):
    """The answer comes when the file has been read, in its turn; what is asked behind it is answered behind it."""
    path = os.path.join(puerta.folder, "puerta.conf")
    good = harness.read_file(path)
    try:
        answers = c.pipeline([("PUERTA", "RELOAD"), ("ECHO", "behind")])
        assert answers[1] == b"behind" and isinstance(answers[0], bytes), answers
        with open(path, "w") as f:
            f.write(good.replace("allow_admin = yes", "allow_admin = perhaps"))
        answers = c.pipeline([("PUERTA", "RELOAD"), ("ECHO", "behind")])
        assert answers[1] == b"behind" and isinstance(answers[0], RespError), answers
        assert c.ask("PUERTA", "HELP")
    finally:
        with open(path, "w") as f:
            f.write(good)
    with puerta.client() as leaves:  # who goes before the answer is there leaves nothing behind
        leaves.send("PUERTA", "RELOAD")
    wait_for("a reload to be possible again", lambda: isinstance(c.try_ask("PUERTA", "RELOAD"), bytes))


def test_reload_without_a_file(cluster):
    with Puerta(cluster, allow_admin="yes") as p, p.client() as c:
        answer = c.try_ask("PUERTA", "RELOAD")
        assert isinstance(answer, RespError) and answer.text.startswith("ERR "), answer
        assert c.ask("PING") == b"PONG"


# --------------------------------------------------------------------- who may

def test_help_lists_all(c, puerta):
    lines = told(c, "HELP")
    assert lines[0].startswith("PUERTA <subcommand>")
    listed = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert listed == SUBCOMMANDS
    rows = {r[0].decode() for r in c.ask("COMMAND", "INFO", "puerta")[0][9]}
    assert rows == {"puerta|" + s.lower() for s in SUBCOMMANDS}


def test_the_command_table(c):
    row = c.ask("COMMAND", "INFO", "puerta|drain")[0]
    assert row[1] == 3 and {b"admin", b"noscript"} <= set(row[2]) and {b"@admin", b"@dangerous"} <= set(row[6])
    assert b"puerta|status" in c.ask("ACL", "CAT", "admin")
    assert b"puerta" in c.ask("COMMAND", "LIST")


def test_wrong_words(c):
    assert c.try_ask("PUERTA").text == "ERR wrong number of arguments for 'puerta' command"
    assert c.try_ask("PUERTA", "DANCE").text == "ERR unknown subcommand 'DANCE'. Try PUERTA HELP."
    for words in (["DRAIN"], ["DRAIN", "a", "b"], ["STATUS", "x"], ["CLIENTS", "0", "1"], ["SLOWLOG", "1", "2"], ["RELOAD", "now"], ["KILL"], ["HELP", "me"]):
        assert c.try_ask("PUERTA", *words).text == "ERR wrong number of arguments for 'puerta|%s' command" % words[0].lower()


@pytest.mark.parametrize("sub", SUBCOMMANDS)
def test_only_with_allow_admin(cluster, puerta, sub, tmp_path):
    words = {"DRAIN": ["x:1"], "UNDRAIN": ["x:1"], "DOWN": ["x:1"], "KILL": ["1"], "LOGLEVEL": ["debug"]}.get(sub, [])
    sock = os.path.join(puerta.folder, "closed")
    client = RespClient.__new__(RespClient)
    client.timeout, client.buf = 20 * harness.SLOW, bytearray()
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.connect(sock)
    with client:
        assert client.try_ask("PUERTA", sub, *words).text == "NOPERM 'puerta|%s' is refused by this proxy (allow_admin)" % sub.lower()


def connected(p):
    with contextlib.suppress(OSError):
        return p.client()


def test_strangers_may_not(cluster):
    with Puerta(cluster, allow_admin="yes", password="secret", wait=False) as p:
        c = wait_for("it to listen", lambda: connected(p))
        assert c.try_ask("PUERTA", "STATUS").text.startswith("NOAUTH")
        assert c.ask("AUTH", "secret") == b"OK"
        assert c.ask("PUERTA", "HELP")
        c.close()


def test_clients_with_a_login_of_their_own_may_not(own_cluster):
    for node in own_cluster.nodes:
        node.ask("ACL", "SETUSER", "worker", "on", ">pass", "~*", "&*", "+@all")
    with Puerta(own_cluster, allow_admin="yes", client_logins="yes") as p, p.client() as c:
        assert c.ask("AUTH", "worker", "pass") == b"OK"
        assert c.try_ask("PUERTA", "STATUS").text == "NOPERM 'puerta|status' is not possible for a client with a login of its own"
        assert c.ask("SET", "a", 1) == b"OK"


def test_not_in_a_transaction(c):
    assert c.ask("MULTI") == b"OK"
    assert "cannot be part of a transaction" in c.try_ask("PUERTA", "STATUS").text
    assert c.try_ask("EXEC").text.startswith("EXECABORT")


def test_not_while_subscribed_in_resp2(puerta):
    with puerta.client() as c:
        c.ask("SUBSCRIBE", "x")
        assert "Can't execute 'puerta|status'" in c.try_ask("PUERTA", "STATUS").text
    with puerta.client() as c:
        c.ask("HELLO", 3)
        c.ask("SUBSCRIBE", "x")
        assert isinstance(c.ask("PUERTA", "STATUS"), dict)


def test_asked_inline_and_muted(puerta):
    with puerta.client() as c:
        c.send_raw(b"puerta loglevel info\r\n")
        assert c.read() == b"the log level is info (was info)"
        c.send("CLIENT", "REPLY", "SKIP")
        c.send("PUERTA", "STATUS")
        assert c.ask("ECHO", "next") == b"next"


@pytest.mark.parametrize("protocol", [2, 3])
def test_with_redis_py(puerta, protocol, cluster):
    with redis_py.Redis(port=puerta.port, protocol=protocol, decode_responses=True) as r:
        status = r.execute_command("PUERTA", "STATUS")
        status = status if protocol == 3 else dict(zip(status[::2], status[1::2]))
        assert status["version"]
        assert len(r.execute_command("PUERTA", "BACKENDS")) == 6
        assert re.search("the log level is info", r.execute_command("PUERTA", "LOGLEVEL", "info"))
        with pytest.raises(redis_py.ResponseError, match="no server is called"):
            r.execute_command("PUERTA", "DOWN", "nowhere:1")


def test_pages_fit_into_a_small_pool(cluster):
    conf = ("[puerta]\nchunk_size = 1k\nchunks = 64\nupstream_buffer = 16k\nmax_clients = 300\n[redis main]\nlisten = 127.0.0.1:{port}\n"
            "nodes = {seeds}\nretain_bytes = 8k\nshared_reply_limit = 16k\nallow_admin = yes\n")
    with Puerta(cluster, conf=conf) as p, p.client() as c:
        crowd = [p.client() for _ in range(100)]
        for one in crowd:
            one.ask("CLIENT", "SETNAME", "a" * 60)
        seen, cursor = 0, b"0"
        while True:
            cursor, rows = c.ask("PUERTA", "CLIENTS", cursor)
            assert len(rows) <= 16
            seen += len(rows)
            if cursor == 0:
                break
        assert seen == 101
        for one in crowd:
            one.close()
