"""What concerns all keys is asked of all masters: one answer comes back, as one server would give it. And SCAN, node after node."""
import re
import signal
import hashlib
import socket
import threading

import pytest

import harness
from harness import LONG, Load, Puerta, RespClient, RespError, slot_of, wait_for

SCANS = 20 if LONG else 6


def fill(client, count, name="k"):
    keys = [b"%s:%d" % (name.encode(), i) for i in range(count)]
    client.pipeline([("SET", k, k) for k in keys])
    return set(keys)


def wait_synced(cluster):
    wait_for("the replicas to have all", lambda: all(
        r.info("replication")["slave_repl_offset"] == m.info("replication")["master_repl_offset"]
        for m, [r] in zip(cluster.masters, cluster.replicas)))


def scan_all(client, *options):
    found, cursor = [], b"0"
    while True:
        cursor, keys = client.ask("SCAN", cursor, *options)
        found += keys
        if cursor == b"0":
            return found


@pytest.fixture(autouse=True)
def empty(cluster):
    cluster.flush()
    yield
    for node in cluster.masters:
        node.ask("ACL", "SETUSER", "default", "+@all")
    cluster.flush()


# ---- merged by each policy ----

def test_numbers_are_added(client, cluster):
    assert client.ask("DBSIZE") == 0
    fill(client, 300)
    assert client.ask("DBSIZE") == 300
    assert all(node.ask("DBSIZE") > 0 for node in cluster.masters)


def test_the_keyspace_of_info_is_that_of_all(client):
    assert b"db0:" not in client.ask("INFO", "keyspace")
    fill(client, 300)
    for i in range(20):
        client.ask("PEXPIRE", "k:%d" % i, 1000000)
    for sections in ((), ("keyspace",), ("everything",), ("server", "keyspace")):
        assert b"\r\ndb0:keys=300,expires=20,avg_ttl=" in client.ask("INFO", *sections), sections
    answers = client.pipeline([("SET", "a", 1), ("INFO", "keyspace"), ("GET", "a"), ("INFO", "server"), ("INFO",)])
    assert b"keys=301," in answers[1] and answers[2] == b"1" and b"keys=" not in answers[3] and b"keys=301," in answers[4]


def test_arrays_are_joined(client):
    keys = fill(client, 500)
    assert sorted(client.ask("KEYS", "*")) == sorted(keys)
    assert sorted(client.ask("KEYS", "k:1?")) == sorted(b"k:%d" % i for i in range(10, 20))
    assert client.ask("KEYS", "nothing*") == []


def test_all_must_succeed(client, cluster):
    for command in (("FLUSHALL",), ("FLUSHALL", "ASYNC"), ("FLUSHALL", "SYNC"), ("FLUSHDB",), ("FLUSHDB", "ASYNC")):
        fill(client, 100)
        assert client.ask(*command) == b"OK"
        assert [node.ask("DBSIZE") for node in cluster.masters] == [0, 0, 0]
    assert client.ask("CONFIG", "SET", "slowlog-max-len", 77) == b"OK"
    assert [node.ask("CONFIG", "GET", "slowlog-max-len")[1] for node in cluster.masters] == [b"77"] * 3
    assert client.ask("CONFIG", "GET", "slowlog-max-len") == [b"slowlog-max-len", b"77"]


def test_flags_are_joined_by_and(client, cluster):
    everywhere = client.ask("SCRIPT", "LOAD", "return 'everywhere'")
    assert [node.ask("SCRIPT", "EXISTS", everywhere) for node in cluster.masters] == [[1]] * 3
    for lonely in cluster.masters:
        some = lonely.ask("SCRIPT", "LOAD", "return 'only on %d'" % lonely.port)
        assert client.ask("SCRIPT", "EXISTS", everywhere, some, "0" * 40, everywhere) == [1, 0, 0, 1]
    assert client.ask("SCRIPT", "FLUSH") == b"OK"
    assert client.ask("SCRIPT", "EXISTS", everywhere) == [0]


def test_a_random_key_comes_from_any_node(client, cluster):
    assert client.ask("RANDOMKEY") is None
    alone = "{%s}" % harness.tag_for_slot(16000)
    client.ask("SET", alone, 1)
    assert [client.ask("RANDOMKEY") for _ in range(6)] == [alone.encode()] * 6, "two nodes of three have no key"
    fill(client, 300)
    owners = {slot_of(client.ask("RANDOMKEY").decode()) * 3 // harness.SLOTS for _ in range(100)}
    assert owners == {0, 1, 2}


@pytest.mark.parametrize("where", [0, 1, 2])
def test_one_success_is_enough_to_kill_a_script(client, other, cluster, where):
    key = cluster.key_on(where)
    client.ask("CONFIG", "SET", "busy-reply-threshold", 10)
    assert client.try_ask("SCRIPT", "KILL").text.startswith("NOTBUSY ")
    thread = threading.Thread(target=lambda: other.try_ask("EVAL", "while true do end", 1, key))
    thread.start()
    wait_for("the script to be killed", lambda: client.try_ask("SCRIPT", "KILL") == b"OK")
    thread.join()


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_script_that_holds_a_node_up_is_told_as_one_server_would(client, other, cluster, where):
    """Once it is longer than the server bears, the server answers BUSY to everything; so does PING, and whatever is for that node."""
    here, elsewhere = cluster.key_on(where), cluster.key_on((where + 1) % 3)
    client.ask("SET", elsewhere, "v")
    cluster.masters[where].ask("CONFIG", "SET", "busy-reply-threshold", 10)
    other.send("EVAL", "while true do redis.call('get', KEYS[1]) end", 1, here)
    wait_for("PING to say so", lambda: str(client.try_ask("PING")).startswith("BUSY "))
    for request in (("PING", "x"), ("GET", here), ("SET", here, "v"), ("MGET", elsewhere, here), ("DBSIZE",)):
        assert str(client.try_ask(*request)).startswith("BUSY Redis is busy running a script"), request
    assert client.ask("GET", elsewhere) == b"v"
    wait_for("the script to be killed", lambda: client.try_ask("SCRIPT", "KILL") == b"OK")
    assert "killed" in other.read().text
    wait_for("PING to answer again", lambda: client.try_ask("PING") == b"PONG")
    assert client.ask("GET", here) is None
    cluster.masters[where].ask("CONFIG", "SET", "busy-reply-threshold", 5000)


def test_who_has_the_answer_of_a_long_script_asks_on_at_once(client, cluster):
    """The node answers him, so it is not busy: nobody waits for a probe to say so."""
    spin = "local from = redis.call('TIME') repeat local now = redis.call('TIME') " \
        "until (now[1] - from[1]) * 1000000 + now[2] - from[2] > 150000 return KEYS[1]"
    key = cluster.key_on(1)
    cluster.masters[1].ask("CONFIG", "SET", "busy-reply-threshold", 10)
    for request, answer in [(("GET", key), None), (("PING",), b"PONG")] * 8:
        assert client.ask("EVAL", spin, 1, key) == key.encode()
        assert client.ask(*request) == answer
    cluster.masters[1].ask("CONFIG", "SET", "busy-reply-threshold", 5000)


def test_what_stands_behind_ones_own_script_is_done_after_it(client, other, cluster):
    spin = "while redis.call('GET', KEYS[1]) ~= 'stop' do local from = redis.call('TIME') repeat local now = redis.call('TIME') " \
        "until (now[1] - from[1]) * 1000000 + now[2] - from[2] > 400000 return 'done' end"
    key = cluster.key_on(1)
    cluster.masters[1].ask("CONFIG", "SET", "busy-reply-threshold", 10)
    client.send("EVAL", spin, 1, key)
    wait_for("the node to be busy", lambda: str(other.try_ask("PING")).startswith("BUSY "))
    client.send("INCR", key)
    assert client.read() == b"done" and client.read() == 1
    cluster.masters[1].ask("CONFIG", "SET", "busy-reply-threshold", 5000)


def test_what_concerns_all_is_done_by_none_while_one_is_busy(client, other, cluster):
    """Half done it would be no harmless refusal: FUNCTION LOAD said once more would be told that the library is there."""
    code = "#!lua name=lib\nredis.register_function('f', function(keys) return 'f of ' .. keys[1] end)"
    keys = [cluster.key_on(i) for i in range(3)]
    for key in keys:
        client.ask("SET", key, "v")
    cluster.masters[1].ask("CONFIG", "SET", "busy-reply-threshold", 10)
    other.send("EVAL", "while true do redis.call('get', KEYS[1]) end", 1, keys[1])
    wait_for("PING to say so", lambda: str(client.try_ask("PING")).startswith("BUSY "))
    for request in (("FUNCTION", "LOAD", code), ("FLUSHALL",), ("SCRIPT", "FLUSH")):
        assert str(client.try_ask(*request)).startswith("BUSY "), request
    assert client.ask("GET", keys[0]) == client.ask("GET", keys[2]) == b"v"
    wait_for("the script to be killed", lambda: client.try_ask("SCRIPT", "KILL") == b"OK")
    assert "killed" in other.read().text
    cluster.masters[1].ask("CONFIG", "SET", "busy-reply-threshold", 5000)
    assert client.ask("FUNCTION", "LOAD", code) == b"lib"
    assert client.ask("FUNCTION", "DELETE", "lib") == b"OK"


@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_a_script_cannot_name_a_node(cluster, word):
    """Its error is not told from a redirect by its words: what it names must be in a map, or would hear the servers' password."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as stranger, Puerta(cluster) as puerta, puerta.client() as client, \
            puerta.client() as other:
        stranger.settimeout(0.2)
        key = cluster.key_on(0)
        words = "%s %d 127.0.0.1:%d" % (word, slot_of(key), stranger.getsockname()[1])
        other.ask("SET", key, "v")
        assert client.try_ask("EVAL", "return redis.error_reply(ARGV[1])", 1, key, words).text == words
        assert other.ask("GET", key) == b"v"
        try:
            heard.append(stranger.accept())
        except TimeoutError:
            pass
    assert heard == []


def test_a_script_that_speaks_of_another_slot_has_run(client, cluster):
    """One server gives any error of a script to its client, and runs it once."""
    key = cluster.key_on(0)
    moved = "MOVED %d %s" % (slot_of(cluster.key_on(1)), cluster.masters[1].address)
    said = client.try_ask("EVAL", "redis.call('INCR', KEYS[1]) return redis.error_reply(ARGV[1])", 1, key, moved)
    assert said.text == moved and client.ask("GET", key) == b"1"


def test_functions_are_on_every_node(client, cluster):
    code = "#!lua name=lib\nredis.register_function('f', function(keys) return 'f of ' .. keys[1] end)"
    assert client.ask("FUNCTION", "LOAD", code) == b"lib"
    for i in range(3):
        key = cluster.key_on(i)
        assert client.ask("FCALL", "f", 1, key) == b"f of " + key.encode()
    assert client.try_ask("FUNCTION", "LOAD", code).text.startswith("ERR Library 'lib' already exists")
    dump = client.ask("FUNCTION", "DUMP")
    assert client.ask("FUNCTION", "FLUSH") == b"OK"
    assert [node.ask("FUNCTION", "LIST") for node in cluster.masters] == [[]] * 3
    assert client.ask("FUNCTION", "RESTORE", dump) == b"OK"
    assert [len(node.ask("FUNCTION", "LIST")) for node in cluster.masters] == [1] * 3
    assert client.ask("FUNCTION", "STATS")[1] is None
    assert client.ask("FUNCTION", "DELETE", "lib") == b"OK"


def test_a_script_is_on_every_node(client, cluster):
    """Also on one that has lost it, and after EVAL alone, as on one server."""
    keys = [cluster.key_on(i) for i in range(3)]
    body = "return 'of ' .. KEYS[1]"
    wanted = [b"of " + k.encode() for k in keys]
    digest = client.ask("SCRIPT", "LOAD", body).decode()
    for _ in range(2):
        assert [client.ask("EVALSHA", digest, 1, k) for k in keys] == wanted
        assert [client.ask("EVALSHA_RO", digest.upper(), 1, k) for k in keys] == wanted
        for node in cluster.masters:
            node.ask("SCRIPT", "FLUSH")
    assert client.ask("SCRIPT", "FLUSH") == b"OK"
    assert [client.try_ask("EVALSHA", digest, 1, k).text.split()[0] for k in keys] == ["NOSCRIPT"] * 3
    assert client.ask("EVAL", body, 1, keys[0]) == wanted[0]
    assert client.pipeline([("EVALSHA", digest, 1, k) for k in keys]) == wanted
    assert client.try_ask("EVALSHA", "0" * 40, 0).text.startswith("NOSCRIPT ")
    assert client.try_ask("EVALSHA", "short", 0).text.startswith("NOSCRIPT ")


def test_scripts_around_a_flush(client, other, cluster):
    """An EVALSHA ahead of it has its script, also at nodes that lost it; one behind it has none, also while a node is slow to answer; a body behind it counts."""
    keys = [cluster.key_on(i) for i in range(3)]
    body = "return 8"
    digest = client.ask("SCRIPT", "LOAD", body)
    calls = [("EVALSHA", digest, 1, k) for k in keys]
    for slow in (False, True):
        assert client.pipeline(calls) == [8, 8, 8]
        for node in cluster.masters:
            node.ask("SCRIPT", "FLUSH")
        if slow:
            other.send("EVAL", "for i = 1, 20000000 do end", 1, keys[0])
        answers = client.pipeline(calls + [("SCRIPT", "FLUSH")] + calls + [("EVAL", body, 1, keys[2])] + calls)
        assert answers[:4] == [8, 8, 8, b"OK"] and answers[7:] == [8, 8, 8, 8]
        assert [a.text.split()[0] for a in answers[4:7]] == ["NOSCRIPT"] * 3
    assert other.read() is None


def test_a_flush_that_is_refused_forgets_nothing(client, cluster):
    keys = [cluster.key_on(i) for i in range(3)]
    digest = client.ask("SCRIPT", "LOAD", "return 9")
    for node in cluster.masters:
        node.ask("SCRIPT", "FLUSH")
        node.ask("ACL", "SETUSER", "default", "-script|flush")
    assert client.try_ask("SCRIPT", "FLUSH").text.startswith("NOPERM ")
    assert client.try_ask("SCRIPT", "FLUSH", "ASYNC").text.startswith("NOPERM ")
    assert client.pipeline([("EVALSHA", digest, 1, k) for k in keys]) == [9, 9, 9]


def test_a_long_evalsha_finds_its_script(cluster):
    """Longer than retain_bytes it cannot be sent once more, so the script is there before it."""
    long, slot = b"v" * 300000, harness.SLOTS // 3 + 500
    moving = "{%s}" % harness.tag_for_slot(slot)
    with Puerta(cluster, retain_bytes="64k") as puerta, puerta.client() as client:
        digest = client.ask("SCRIPT", "LOAD", "return {KEYS[1], #ARGV[1]}")
        for command in ("EVALSHA", "EVALSHA_RO"):
            for i in range(3):
                cluster.masters[i].ask("SCRIPT", "FLUSH")
                assert client.ask(command, digest, 1, cluster.key_on(i), long) == [cluster.key_on(i).encode(), len(long)]
        cluster.masters[2].ask("SCRIPT", "FLUSH")
        cluster.migrate_begin(slot, cluster.masters[1], cluster.masters[2])
        try:
            assert client.ask("EVALSHA", digest, 1, moving, long) == [moving.encode(), len(long)], "by ASK"
        finally:
            cluster.migrate_end(slot, cluster.masters[1], cluster.masters[2])
            cluster.migrate_slot(slot, cluster.masters[2], cluster.masters[1])
        assert client.try_ask("EVALSHA", "0" * 40, 1, moving, long).text.startswith("NOSCRIPT ")
        assert client.try_ask("EVALSHA", "short", 1, moving, long).text.startswith("NOSCRIPT ")


def test_a_script_that_one_node_has_run_exists(client, cluster):
    """On one server it would; EVALSHA works with it on any key."""
    key = cluster.key_on(1)
    body = "return 'exists ' .. KEYS[1]"
    client.ask("EVAL", body, 1, key)
    digest = hashlib.sha1(body.encode()).hexdigest()
    assert client.ask("SCRIPT", "EXISTS", digest, "f" * 40, digest.upper()) == [1, 0, 1]
    assert client.ask("SCRIPT", "FLUSH") == b"OK"
    assert client.ask("SCRIPT", "EXISTS", digest) == [0]


def test_scripts_survive_a_node_that_starts_again(own_cluster):
    with Puerta(own_cluster) as puerta, puerta.client(timeout=40) as client:
        digest = client.ask("SCRIPT", "LOAD", "return 7")
        keys = [own_cluster.key_on(i) for i in range(3)]
        own_cluster.masters[0].kill()
        wait_for("the replica to run the script", lambda: client.try_ask("EVALSHA", digest, 1, keys[0]) == 7)
        assert [client.ask("EVALSHA", digest, 1, k) for k in keys] == [7, 7, 7]


def test_only_the_last_scripts_are_kept(cluster):
    with Puerta(cluster, script_cache="64k") as puerta, puerta.client() as client:
        key = cluster.key_on(0)
        digests = [client.ask("SCRIPT", "LOAD", "return %d --%s" % (i, "x" * 5000)).decode() for i in range(30)]
        for node in cluster.masters:
            node.ask("SCRIPT", "FLUSH")
        answers = [client.try_ask("EVALSHA", d, 1, key) for d in digests]
        assert answers[-8:] == list(range(22, 30)) and answers[0].text.startswith("NOSCRIPT ")
        assert client.ask("EVAL", "return 1 --" + "y" * 60000, 1, key) == 1, "a body too long to keep goes by"


# ---- a node that fails, in each position ----

FAILING = [("DBSIZE",), ("KEYS", "*"), ("FLUSHALL",), ("SCRIPT", "EXISTS", "0" * 40), ("SCRIPT", "LOAD", "return 1"), ("RANDOMKEY",), ("MEMORY", "PURGE"),
           ("LATENCY", "RESET"), ("SLOWLOG", "GET"), ("SLOWLOG", "LEN")]


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("command", FAILING, ids=lambda c: "-".join(c[:2]))
def test_the_error_of_one_node_is_the_answer(client, other, cluster, command, where):
    cluster.masters[where].ask("ACL", "SETUSER", "default", "-" + command[0].lower())
    with RespClient(cluster.masters[where].port) as direct:
        wanted = direct.try_ask(*command).text
    answer = client.try_ask(*command)
    assert isinstance(answer, RespError) and answer.text == wanted
    cluster.masters[where].ask("ACL", "SETUSER", "default", "+@all")
    assert not isinstance(client.try_ask(*command), RespError)
    assert client.pipeline([("PING",), command, ("PING",)])[::2] == [b"PONG", b"PONG"]


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_kill_that_one_node_refuses(client, cluster, where):
    """Of several errors the one that says more than "nothing runs here"."""
    cluster.masters[where].ask("ACL", "SETUSER", "default", "-script|kill")
    assert client.try_ask("SCRIPT", "KILL").text.startswith("NOPERM ")


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_node_that_dies_gives_a_named_error_or_is_waited_for(own_cluster, where):
    with Puerta(own_cluster) as puerta, puerta.client(timeout=40) as client:
        fill(client, 100)
        wait_synced(own_cluster)
        own_cluster.masters[where].kill()
        answer = client.try_ask("DBSIZE")
        assert answer == 100 or answer.text.startswith("CLUSTERDOWN not executed") or "outcome unknown" in answer.text
        wait_for("the replica to count", lambda: client.try_ask("DBSIZE") == 100)
        assert client.ask("FLUSHALL") == b"OK"
        assert client.ask("DBSIZE") == 0


@pytest.mark.parametrize("where", [0, 2])
def test_keys_of_a_node_that_dies_in_the_middle_of_its_list(own_cluster, where):
    """Nothing of the merged answer has reached the client: the part is asked for once more, from the node's replica."""
    master = own_cluster.masters[where]
    tag = own_cluster.key_on(where, "")
    with Puerta(own_cluster, supervise="no", receive_buffer="64k", merge_limit="64m", chunks=6000, failover_wait="30s") as puerta, \
            puerta.client(timeout=60) as client:
        keys = {b"%s%s%d" % (tag.encode(), b"z" * 10000, i) for i in range(1500)} | {own_cluster.key_on(i).encode() for i in range(3)}
        client.pipeline([("SET", k, 1) for k in keys])
        wait_synced(own_cluster)
        others = [m for m in own_cluster.masters if m is not master]
        master.freeze()
        client.send("KEYS", "*")
        wait_for("the other masters to be asked", lambda: all("cmdstat_keys" in m.info("commandstats") for m in others))
        puerta.process.send_signal(signal.SIGSTOP)
        master.thaw()
        # It has said what the kernel takes for the one that does not read; the rest is lost with it.
        wait_for("the list to begin", lambda: any(b"cmd=keys" in c and b" omem=0 " not in c for c in master.ask("CLIENT", "LIST").split(b"\n")))
        master.kill()
        puerta.process.send_signal(signal.SIGCONT)
        found = client.read()
        assert len(found) == len(keys) and set(found) == keys


@pytest.mark.parametrize("password", [None, "secret"])
def test_keys_of_a_node_that_freezes(own_cluster, password):
    """Once its replica has taken over that one is asked, long before request_timeout, whether or not the request has gone out."""
    master, replica = own_cluster.masters[0], own_cluster.replicas[0][0]
    for node in own_cluster.nodes:
        node.ask("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
    login = {} if password is None else {"upstream_user": "app", "upstream_password": password}
    with Puerta(own_cluster, request_timeout="100s", failover_wait="30s", **login) as puerta, puerta.client(timeout=60) as client:
        keys = fill(client, 300)
        wait_synced(own_cluster)
        master.freeze()
        client.send("KEYS", "*")
        own_cluster.wait_promoted(replica)
        assert set(client.read()) == keys


def test_a_long_request_to_a_node_that_freezes(own_cluster):
    """It goes over a connection of its own too, and its fate is told when that is given up."""
    master, key, long = own_cluster.masters[0], own_cluster.key_on(0), b"v" * 400000
    with Puerta(own_cluster, request_timeout="100s") as puerta, puerta.client(timeout=60) as client:
        request = harness.encode("SET", key, long)
        client.send_raw(request[:300000])
        wait_for("it to be on its way", lambda: any(b"cmd=NULL" in c and b" qbuf=0 " not in c for c in master.ask("CLIENT", "LIST").split(b"\n")))
        master.freeze()
        client.send_raw(request[300000:])
        own_cluster.wait_promoted(own_cluster.replicas[0][0])
        assert client.read().text.startswith("ERR outcome unknown: the connection to %s was lost" % master.address)


# ---- order, bounds ----

def test_the_order_of_a_pipeline_holds(client):
    commands, wanted = [], []
    for i in range(200):
        commands += [("SET", "o:%d" % i, i), ("DBSIZE",), ("GET", "o:%d" % i)]
        wanted += [b"OK", i + 1, b"%d" % i]
    commands += [("FLUSHALL",), ("DBSIZE",), ("SET", "o:1", 1), ("DBSIZE",)]
    wanted += [b"OK", 0, b"OK", 1]
    assert client.pipeline(commands) == wanted


def test_keys_keeps_its_place_among_its_clients_requests(client, other):
    """It goes over connections of its own, and neither overtakes what came before nor is overtaken."""
    for i in range(20):
        other.pipeline([("SET", "noise:%d" % n, "x" * 900) for n in range(100)])
        own, keys, flushed, none = client.pipeline([("SET", "own", i), ("KEYS", "*"), ("FLUSHALL",), ("KEYS", "*")])
        assert own == flushed == b"OK" and b"own" in keys and len(keys) == 101 and none == [], i


def test_many_long_lists_of_keys_that_nobody_reads(cluster, puerta):
    """Their merging must not need what all of them hold."""
    with puerta.client() as client:
        client.pipeline([("SET", b"%s%d" % (b"z" * 1000, i), 1) for i in range(11500)])
        silent = [puerta.client(rcvbuf=16384) for _ in range(2)]
        for c in silent:
            c.send("KEYS", "*")
        answer = client.try_ask("KEYS", "*", timeout=30)
        assert isinstance(answer, RespError) or len(answer) == 11500
        assert client.ask("DBSIZE") == 11500
        for c in silent:
            c.close()


@pytest.mark.parametrize("text", ["TRYAGAIN later", "NOSCRIPT later", "LOADING later", "CLUSTERDOWN later", "READONLY later"])
def test_an_error_of_a_script_itself_is_no_word_of_the_node(client, text):
    body = "redis.call('INCR', KEYS[1]) return redis.error_reply('%s')" % text
    digest = client.ask("SCRIPT", "LOAD", body)
    assert client.try_ask("EVAL", body, 1, "ran").text == text
    assert client.try_ask("EVALSHA", digest, 1, "ran").text == text
    assert client.ask("GET", "ran") == b"2", "each ran once"


def test_a_long_list_of_keys(client, other):
    keys = {b"%s%d" % (b"x" * 200, i) for i in range(20000)}
    client.pipeline([("SET", k, 1) for k in keys])
    assert set(client.ask("KEYS", "*")) == keys
    assert other.ask("PING") == b"PONG"


def test_beyond_the_bound_is_an_error_and_nothing_else_suffers(cluster):
    with Puerta(cluster, merge_limit="64k") as puerta, puerta.client() as client, puerta.client() as other:
        fill(client, 20000)
        assert client.try_ask("KEYS", "*").text == "ERR the merged answer is longer than merge_limit"
        assert client.ask("DBSIZE") == 20000 and other.ask("GET", "k:1") == b"k:1"
        assert client.ask("KEYS", "k:1") == [b"k:1"]


def test_a_client_that_leaves_leaves_nothing(puerta, client):
    fill(client, 2000)
    for _ in range(20):
        with puerta.client() as c:
            c.send("KEYS", "*")
            c.send("DBSIZE")
    assert client.ask("DBSIZE") == 2000


def test_wrong_numbers_of_arguments(client):
    for command in (("DBSIZE", "x"), ("KEYS",), ("RANDOMKEY", "x"), ("SCAN",)):
        assert client.try_ask(*command).text == "ERR wrong number of arguments for '%s' command" % command[0].lower()


# ---- SCAN ----

def test_scan_finds_all(client):
    keys = fill(client, 3000)
    for options in ((), ("COUNT", 1000), ("COUNT", 100000), ("COUNT", 7)):
        found = scan_all(client, *options)
        assert sorted(found) == sorted(keys), options


def test_scan_with_match_and_type(client):
    fill(client, 1000)
    client.ask("RPUSH", "list", 1)
    assert set(scan_all(client, "MATCH", "k:99*")) == {b"k:99"} | {b"k:99%d" % i for i in range(10)}
    assert scan_all(client, "TYPE", "list") == [b"list"]
    assert scan_all(client, "MATCH", "none*", "COUNT", 500) == []


def test_scan_of_nothing(client):
    assert scan_all(client) == []


def test_scan_with_a_long_page(client):
    keys = {b"%s%d" % (b"y" * 300, i) for i in range(3000)}
    client.pipeline([("SET", k, 1) for k in keys])
    assert set(scan_all(client, "COUNT", 100000)) == keys, "each page is some 300 KB"


def test_a_long_page_that_is_read_slowly_holds_no_node(cluster):
    """It passes over a connection of its own, as any long answer to a read."""
    tag = cluster.key_on(0, "")
    with Puerta(cluster, send_buffer="64k") as puerta, puerta.client(rcvbuf=16384) as slow, puerta.client() as other:
        keys = {b"%s%s%d" % (tag.encode(), b"z" * 1000, i) for i in range(12000)}
        other.pipeline([("SET", k, 1) for k in keys])
        slow.send("SCAN", 0, "COUNT", 100000)
        wait_for("the page to begin", lambda: not slow.silent(0))
        assert other.ask("GET", tag + "none") is None, "it is stored where the page comes from"
        cursor, page = slow.read()
        assert set(page) == keys and cursor != b"0"
        assert set(scan_all(slow, "COUNT", 100000)) == keys


def test_a_last_page_that_waits_asks_for_the_map_once(cluster):
    """It waits for room on the shared connection, as it must not be asked again after the write behind it: each turn tries it again."""
    with Puerta(cluster, send_buffer="64k") as puerta, puerta.client() as client, puerta.client(rcvbuf=16384) as slow:
        keys = fill(client, 20000, "k" * 100)
        client.ask("SET", "long", b"v" * 20000000)
        cursor, _page = client.ask("SCAN", 0, "COUNT", 100000)
        cursor, _page = client.ask("SCAN", cursor, "COUNT", 100000)
        asked = refreshes(client)
        slow.send_raw(b"".join(harness.encode(*c) for c in (
            ("GET", "long"), ("SCAN", cursor, "COUNT", 100000), ["MSET"] + [x for k in list(keys)[:30] for x in (k, k)])))
        wait_for("its client to be closed, as it reads nothing", lambda: b"connected_clients:1\r\n" in client.ask("INFO", "clients"))
        assert refreshes(client) - asked < 10


def refreshes(client):
    return int(re.search(rb"refreshes:(\d+)", client.ask("INFO", "puerta")).group(1))


def test_scan_in_a_pipeline_keeps_its_place(client):
    fill(client, 100)
    answers = client.pipeline([("GET", "k:1"), ("SCAN", 0), ("GET", "k:2"), ("SCAN", 0, "COUNT", 50), ("PING",)])
    assert answers[0] == b"k:1" and answers[2] == b"k:2" and answers[4] == b"PONG"
    assert len(answers[1]) == len(answers[3]) == 2


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "", "99999999999999999999"])
def test_scan_with_a_cursor_that_is_none(client, cursor):
    assert client.try_ask("SCAN", cursor).text == "ERR invalid cursor"


@pytest.mark.parametrize("cursor", [1, 5, 2**37, 2**47, 2**61, 2**62, 2**63 - 1, 12345678901234567])
def test_scan_with_a_made_up_cursor_ends(client, cursor):
    fill(client, 50)
    for _ in range(100):
        cursor, _keys = client.ask("SCAN", cursor)
        if cursor == b"0":
            return
    raise AssertionError("no end")


def test_scan_by_key(client):
    client.ask("SADD", "s", *range(1000))
    client.ask("HSET", "h", *range(1000))
    found, cursor = set(), b"0"
    while True:
        cursor, some = client.ask("SSCAN", "s", cursor)
        found |= set(some)
        if cursor == b"0":
            break
    assert len(found) == 1000
    assert len(client.ask("HSCAN", "h", 0, "COUNT", 10000)[1]) == 1000


def test_scan_under_load_and_while_slots_move(cluster):
    """Every key that was there throughout, and whose slot was not half moved when the scan ended, is found."""
    with Puerta(cluster) as puerta, puerta.client(timeout=60) as client, Load(puerta.port, "-c", 5, "-n", 100000000) as load:
        keys = fill(client, 3000, "stays")
        for run in range(SCANS):
            source, target = cluster.masters[run % 2], cluster.masters[(run + 1) % 2]
            load.wait_answers(load.answers() + 1000)
            moved = threading.Thread(target=cluster.reshard, args=(200, source, target))
            moved.start()
            found, cursor, pages = set(), b"0", 0
            while True:
                cursor, some = client.ask("SCAN", cursor, "COUNT", 20, "MATCH", "stays:*")
                found |= set(some)
                pages += 1
                if cursor == b"0":
                    if not moved.is_alive():
                        break
                    found = set()  # too early: slots were still half moved when it ended
            moved.join()
            assert keys - found == set(), "run %d, %d pages" % (run, pages)
        load.finish(stop=True).check()


def test_scan_goes_on_after_a_failover(own_cluster):
    with Puerta(own_cluster) as puerta, puerta.client(timeout=60) as client:
        keys = fill(client, 2000)
        wait_synced(own_cluster)
        cursor, some = client.ask("SCAN", 0, "COUNT", 300)
        found = set(some)
        own_cluster.masters[0].kill()
        while cursor != b"0":
            answer = client.try_ask("SCAN", cursor, "COUNT", 300)
            if not isinstance(answer, RespError):
                cursor = answer[0]
                found |= set(answer[1])
        assert found == keys
