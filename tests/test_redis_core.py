"""Redis mode, the basics: what any client asks of a plain Redis, asked of Puerta in front of a cluster of three."""
import os
import random
import signal
import socket
import threading

import pytest

import harness
from harness import Puerta, RespClient, RespError, encode, slot_of

CROSSSLOT = "CROSSSLOT Keys in request don't hash to the same slot"


def keys_on_all(count, name):
    """count keys, spread over the slots, and sure to touch each third of them."""
    keys = ["%s:%d" % (name, i) for i in range(count)]
    assert {slot_of(k) * 3 // harness.SLOTS for k in keys} == {0, 1, 2}
    return keys


# ---- one key ----

def test_set_and_get_reach_every_node(client, cluster):
    keys = keys_on_all(100, "all")
    for k in keys:
        assert client.ask("SET", k, "value of " + k) == b"OK"
    for k in keys:
        assert client.ask("GET", k) == b"value of " + k.encode()
        assert cluster.owner(k).ask("GET", k) == b"value of " + k.encode()


def test_values_of_every_byte_and_of_many_sizes(client):
    every = bytes(range(256))
    for size in (0, 1, 2, 255, 1023, 1024, 4095, 4096, 4097, 16383, 16384, 16385, 65536, 262143, 262144, 262145, 1048576, 3000000):
        value = (every * (size // 256 + 1))[:size]
        assert client.ask("SET", "size:%d" % size, value) == b"OK"
        assert client.ask("GET", "size:%d" % size) == value, "a value of %d bytes came back different" % size


def test_keys_with_any_byte(client):
    for key in (b"", b"\r\n", b"\0", b"{}", b"{", b"}{", b"a{b}c", b"{}{x}", bytes(range(256)), b"k" * 10000):
        client.ask("SET", key, b"<" + key + b">")
        assert client.ask("GET", key) == b"<" + key + b">"


def test_reply_kinds_of_several_types(client):
    client.ask("DEL", "t:l", "t:h", "t:z", "t:none")
    assert client.ask("GET", "t:none") is None
    assert client.ask("RPUSH", "t:l", "a", "", "c") == 3
    assert client.ask("LRANGE", "t:l", 0, -1) == [b"a", b"", b"c"]
    assert client.ask("LRANGE", "t:none", 0, -1) == []
    assert client.ask("HSET", "t:h", "f", "v", "g", "w") == 2
    assert client.ask("HMGET", "t:h", "f", "x", "g") == [b"v", None, b"w"]
    assert client.ask("ZADD", "t:z", "1.5", "m") == 1
    assert client.ask("ZRANGE", "t:z", 0, -1, "WITHSCORES") == [b"m", b"1.5"]
    assert client.ask("TYPE", "t:h") == b"hash"
    wrong = client.try_ask("GET", "t:l")
    assert isinstance(wrong, RespError) and wrong.text.startswith("WRONGTYPE ")
    assert client.ask("EVAL", "return {1, 'two', {3, false}}", 0 + 1, "t:l") == [1, b"two", [3, None]]


# ---- pipelines ----

def test_a_pipeline_over_all_nodes_keeps_its_order(client):
    keys = keys_on_all(300, "pipe")
    commands, wanted = [], []
    for i, k in enumerate(keys):
        commands += [("SET", k, i), ("GET", k), ("INCR", k), ("PING", "p%d" % i), ("NOSUCHCOMMAND", k)]
        wanted += [b"OK", b"%d" % i, i + 1, b"p%d" % i, RespError]
    for got, want, command in zip(client.pipeline(commands), wanted, commands):
        if want is RespError:
            assert isinstance(got, RespError) and got.text.startswith("ERR unknown command"), got
        else:
            assert got == want, command


def test_a_pipeline_cut_at_any_byte(puerta):
    data = encode("SET", "cut", "va\r\nlue") + encode("GET", "cut") + b"PING\r\n" + encode("MGET", "cut", "cut2") + encode("ECHO", "end")
    with puerta.client() as c:
        c.ask("DEL", "cut", "cut2")
        for at in range(1, len(data)):
            c.send_raw(data[:at])
            # The first part is on its way before the second: a reply to an own question in between would shift the cut.
            c.send_raw(data[at:])
            assert [c.read() for _ in range(5)] == [b"OK", b"va\r\nlue", b"PONG", [b"va\r\nlue", None], b"end"]


def test_a_pipeline_that_is_written_while_answers_are_read(puerta):
    keys = keys_on_all(64, "duplex")
    rounds = 200
    with puerta.client() as c:
        def write():
            for i in range(rounds):
                c.send_raw(b"".join(encode("SETRANGE", k, i, "x" * 100) + encode("STRLEN", k) for k in keys))

        c.ask("DEL", *keys)
        writer = threading.Thread(target=write)
        writer.start()
        for i in range(rounds):
            for k in keys:
                assert c.read() == 100 + i
                assert c.read() == 100 + i
        writer.join()


def test_inline_commands(client, cluster):
    client.send_raw(b"PING\r\n\r\nSET inline \"a b\\x41\"\r\nGET inline\nECHO 'single \\' quote'\r\n   ping   x  \r\n")
    assert [client.read() for _ in range(5)] == [b"PONG", b"OK", b"a bA", b"single ' quote", b"x"]
    client.send_raw(b"MGET inline inline2\r\n*1\r\n$4\r\nPING\r\nDEL inline\r\n")
    assert [client.read() for _ in range(3)] == [[b"a bA", None], b"PONG", 1]


def test_empty_requests_are_passed_over(client):
    client.send_raw(b"\r\n*0\r\n*-1\r\n\n" + encode("PING"))
    assert client.read() == b"PONG"


# ---- several slots ----

def test_mget_and_mset_over_slots(client):
    keys = keys_on_all(1000, "many")
    values = [("v%d" % i).encode() * (i % 50) for i in range(len(keys))]
    assert client.ask("MSET", *[x for pair in zip(keys, values) for x in pair]) == b"OK"
    order = list(range(len(keys)))
    random.Random(1).shuffle(order)
    assert client.ask("MGET", *[keys[i] for i in order]) == [values[i] for i in order]


def test_mget_has_nil_for_missing_keys_and_wrong_types(client):
    client.ask("DEL", "m:list", "m:missing")
    client.ask("RPUSH", "m:list", "x")
    client.ask("MSET", "m:a", "1", "m:b", "2")
    assert client.ask("MGET", "m:b", "m:list", "m:missing", "m:a", "m:b", "m:list") == [b"2", None, None, b"1", b"2", None]


def test_a_pair_that_is_half(client):
    for name in ("mset", "msetnx"):
        for words in (("a", "1", "b"), ("a", "1", "b", "2", "c"), ("a", "1", "a")):
            assert client.try_ask(name, *words).text == "ERR wrong number of arguments for '%s' command" % name


def test_mset_of_one_key_twice_keeps_the_last(client):
    assert client.ask("MSET", "tw:a", "1", "tw:b", "2", "tw:a", "3") == b"OK"
    assert client.ask("MGET", "tw:a", "tw:b") == [b"3", b"2"]


def test_counting_commands_over_slots(client):
    keys = keys_on_all(60, "count")
    client.ask("DEL", *keys)
    client.ask("MSET", *[x for k in keys[:40] for x in (k, "v")])
    assert client.ask("EXISTS", *keys) == 40
    assert client.ask("EXISTS", keys[0], keys[1], keys[0], keys[59]) == 3
    assert client.ask("TOUCH", *keys) == 40
    assert client.ask("UNLINK", *keys[:10]) == 10
    assert client.ask("DEL", *keys) == 30
    assert client.ask("EXISTS", *keys) == 0


def test_large_values_through_a_merge(client):
    keys = keys_on_all(12, "bulk")
    values = [os.urandom(200000 + i) for i in range(len(keys))]
    for k, v in zip(keys, values):
        assert client.ask("SET", k, v) == b"OK"
    assert client.ask("MGET", *keys) == values
    small = [v[:20000] for v in values]
    assert client.ask("MSET", *[x for pair in zip(keys, small) for x in pair]) == b"OK"
    assert client.ask("MGET", *keys) == small


def test_a_split_longer_than_what_is_kept_is_refused_whole(client):
    keys = keys_on_all(12, "toolong")
    client.ask("DEL", *keys)
    replies = client.pipeline([("MSET", *[x for k in keys for x in (k, b"v" * 200000)]), ("PING",), ("EXISTS", *keys)])
    assert isinstance(replies[0], RespError) and "not executed" in replies[0].text and "retain_bytes" in replies[0].text, replies
    assert replies[1:] == [b"PONG", 0]
    # Of one slot it is one request, whatever its length.
    assert client.ask("MSET", *[x for i in range(12) for x in ("{toolong}%d" % i, b"v" * 200000)]) == b"OK"
    assert client.ask("STRLEN", "{toolong}7") == 200000


def test_more_keys_than_allowed_get_an_error_and_order_goes_on(cluster):
    with Puerta(cluster, max_split_keys=100) as p, p.client() as c:
        keys = keys_on_all(101, "limit")
        replies = c.pipeline([("SET", keys[0], "v"), ("MGET", *keys), ("GET", keys[0]), ("MGET", *keys[:100])])
        assert replies[0] == b"OK" and replies[2] == b"v"
        assert isinstance(replies[1], RespError) and "max_split_keys" in replies[1].text
        assert len(replies[3]) == 100 and replies[3][0] == b"v"


@pytest.mark.parametrize("command", [
    ("RENAME", "{a}", "{b}"), ("SINTER", "{a}", "{b}", "{c}"), ("SUNIONSTORE", "{a}", "{a}x", "{b}"), ("MSETNX", "{a}", "1", "{b}", "2"),
    ("SMOVE", "{a}", "{b}", "m"), ("BITOP", "AND", "{a}", "{b}", "{c}"), ("EVAL", "return 1", "2", "{a}", "{b}"),
    ("ZUNIONSTORE", "{a}", "2", "{a}1", "{b}"), ("LMOVE", "{a}", "{b}", "LEFT", "LEFT"), ("PFCOUNT", "{a}", "{b}"),
], ids=lambda c: c[0])
def test_other_commands_over_slots_get_redis_own_error(client, cluster, command):
    mine = client.try_ask(*command)
    assert isinstance(mine, RespError) and mine.text == CROSSSLOT
    with RespClient(cluster.masters[0].port) as real:
        assert real.try_ask(*command).text == mine.text
    assert client.ask("PING") == b"PONG"


def test_several_keys_of_one_slot_go_straight_on(client):
    client.ask("DEL", "{s}1", "{s}2", "{s}3")
    client.ask("SADD", "{s}1", "a", "b")
    client.ask("SADD", "{s}2", "b", "c")
    assert client.ask("SINTER", "{s}1", "{s}2") == [b"b"]
    assert client.ask("SUNIONSTORE", "{s}3", "{s}1", "{s}2") == 3
    assert client.ask("RENAME", "{s}3", "{s}1") == b"OK"
    assert client.ask("MSETNX", "{s}x1", "1", "{s}x2", "2") in (0, 1)
    assert client.ask("EVAL", "return #KEYS", 2, "{s}1", "{s}2") == 2


# ---- without keys ----

def test_ping_echo_select(client):
    assert client.ask("PING") == b"PONG"
    assert client.ask("ping") == b"PONG"
    assert client.ask("PING", "hello\r\n") == b"hello\r\n"
    assert client.ask("ECHO", "") == b""
    assert client.ask("SELECT", 0) == b"OK"
    with pytest.raises(RespError) as e:
        client.ask("SELECT", 1)
    assert e.value.text.startswith("ERR ")
    assert client.ask("PING") == b"PONG"


def test_quit_answers_after_what_came_before_and_closes(puerta):
    with puerta.client() as c:
        c.send_raw(encode("SET", "q", "v") + encode("GET", "q") + encode("QUIT") + encode("PING"))
        assert [c.read() for _ in range(3)] == [b"OK", b"v", b"OK"]
        assert c.at_end(), "the connection is open after QUIT, or answered what came behind it"


def test_a_client_that_closes_its_half_gets_its_answers(puerta):
    with puerta.client() as c:
        c.send_raw(b"".join(encode("SET", k, "v") for k in keys_on_all(50, "half")) + encode("ECHO", "end"))
        c.sock.shutdown(socket.SHUT_WR)
        assert [c.read() for _ in range(51)] == [b"OK"] * 50 + [b"end"]
        assert c.at_end()


def test_command_and_info(client):
    info = client.ask("INFO")
    assert b"redis_version:" in info
    assert isinstance(client.ask("COMMAND"), list)
    assert client.ask("COMMAND", "COUNT") > 200


def test_unknown_commands_and_wrong_counts_have_redis_texts(client, cluster):
    commands = [("NOSUCH", "a", "b"), ("NOSUCH",), ("GET",), ("GET", "a", "b"), ("SET", "a"), ("MGET",), ("MSET", "a"),
                ("DEL",), ("PING", "a", "b"), ("ECHO",), ("INCR", "a", "b"), ("RENAME", "a")]
    with RespClient(cluster.owner("{a}1").port) as real:
        for command in commands:
            mine, theirs = client.try_ask(*command), real.try_ask(*command)
            assert isinstance(mine, RespError) and mine.text == theirs.text, command
    assert client.try_ask("MSET", "a", "1", "b").text == "ERR wrong number of arguments for 'mset' command"
    assert client.ask("PING") == b"PONG"


@pytest.mark.parametrize("command", [
    ("EXEC",), ("HELLO", "4"),
    ("BLPOP", "a", "b", "1"), ("CLUSTER", "FLUSHSLOTS"), ("MONITOR",), ("SYNC",), ("SHUTDOWN",), ("REPLICAOF", "NO", "ONE"),
    ("WAITAOF", "0", "0", "0"),
], ids=lambda c: c[0])
def test_what_is_not_served_yet_gets_a_clear_error(client, command):
    reply = client.try_ask(*command)
    assert isinstance(reply, RespError), reply
    assert len(reply.text) > 15 and not reply.text.startswith(("MOVED", "ASK ")), reply.text
    assert client.ask("ECHO", "in step") == b"in step"


# ---- bad bytes ----

PROTOCOL_ERRORS = {
    "multibulk length is a word": b"*abc\r\n",
    "multibulk of 2^31": b"*2147483648\r\n",
    "multibulk beyond 64 bit": b"*99999999999999999999\r\n",
    "not a bulk": b"*1\r\n+PING\r\n",
    "no type": b"*1\r\nPING\r\n",
    "bulk length is a word": b"*1\r\n$abc\r\n",
    "bulk length is negative": b"*1\r\n$-1\r\n",
    "bulk length is empty": b"*1\r\n$\r\n",
    "bulk of more than 512 MB": b"*2\r\n$3\r\nGET\r\n$536870913\r\n",
    "bulk length beyond 64 bit": b"*2\r\n$3\r\nGET\r\n$99999999999999999999\r\n",
    "bulk length with a sign": b"*2\r\n$3\r\nGET\r\n$+1\r\n",
    "endless multibulk length": b"*" + b"1" * 70000,
    "endless bulk length": b"*1\r\n$" + b"1" * 70000,
    "endless inline": b"a" * 70000,
    "quotes that stay open": b"SET \"a b\r\n",
    "quotes without a space behind": b"SET \"a\"b c\r\n",
}


@pytest.mark.parametrize("name", sorted(PROTOCOL_ERRORS))
def test_protocol_errors_have_redis_texts_and_close(puerta, cluster, other, name):
    data = PROTOCOL_ERRORS[name]
    with RespClient(cluster.masters[0].port) as real:
        real.send_raw(data)
        theirs = real.read()
    with puerta.client() as c:
        c.send_raw(encode("SET", "before", "1") + encode("PING") + data)
        assert c.read() == b"OK" and c.read() == b"PONG"
        mine = c.read()
        assert isinstance(mine, RespError) and mine.text == theirs.text
        assert mine.text.startswith("ERR Protocol error: ")
        assert c.at_end(), "open after a protocol error"
    assert other.ask("PING") == b"PONG"


def test_a_request_announced_with_very_many_elements(puerta, other):
    """2^31 - 1 is a length that Redis takes: the client waits, and others do not notice."""
    with puerta.client() as c:
        c.send_raw(b"*2147483647\r\n$4\r\nMGET\r\n" + b"$1\r\na\r\n" * 1000)
        assert other.ask("SET", "noticed", "nothing") == b"OK"
        assert other.ask("GET", "noticed") == b"nothing"
    assert other.ask("PING") == b"PONG"


def test_random_megabytes_hurt_nobody(puerta, other):
    rng = random.Random(7)
    marks = b"*$:+-\r\n0123456789" * 2 + b"\r\n" * 4 + b" GETSETMGETDEL{}\"'"
    for n in range(24):
        if n % 3 == 0:
            data = rng.randbytes(1 << 20)
        elif n % 3 == 1:
            data = bytes(rng.choice(marks) for _ in range(1 << 17))
        else:
            data = b"".join(b"*%d\r\n" % rng.randrange(-1, 4) + b"$%d\r\n%s\r\n" % (rng.randrange(0, 6), rng.randbytes(3)) for _ in range(20000))
        with puerta.client() as c:
            try:
                c.send_raw(data)
            except OSError:
                pass  # closed by Puerta at the first bad byte, as it should be
            assert other.ask("ECHO", "still %d" % n) == b"still %d" % n
    other.ask("SET", "after", "random")
    assert other.ask("GET", "after") == b"random"
    assert puerta.alive()


def test_clients_that_leave_in_the_middle(puerta, other):
    for cut in range(1, 60):
        with puerta.client() as c:
            c.send_raw((encode("SET", "leave", "v" * 50) + encode("GET", "leave") * 20)[:cut * 10])
    assert other.ask("ECHO", "here") == b"here"


# ---- large ----

def test_100_mb_both_ways_through_a_pool_of_1_mib(cluster):
    value = os.urandom(1 << 20) * 100
    with Puerta(cluster, chunk_size="4k", chunks=256, retain_bytes="64k", max_clients=100) as p, p.client(timeout=60) as c, p.client() as d:
        try:
            assert c.ask("SET", "hundred", value) == b"OK"
            assert d.ask("STRLEN", "hundred") == len(value)
            c.send("GET", "hundred")
            c.send("ECHO", "behind it")
            assert c.read() == value
            assert c.read() == b"behind it"
            # The same inside a list: an answer whose length is not announced in one number.
            assert c.ask("RPUSH", "{hundred}l", value[:30 << 20], "x", value[:30 << 20]) == 3
            assert c.ask("LRANGE", "{hundred}l", 0, -1) == [value[:30 << 20], b"x", value[:30 << 20]]
            if os.path.exists("/proc/%d/status" % p.process.pid) and not os.environ.get("PUERTA_SLOW"):
                status = open("/proc/%d/status" % p.process.pid).read()
                peak_kib = int(status.split("VmHWM:")[1].split()[0])
                assert peak_kib < 24 * 1024, "puerta took %d KiB for a pool of 1 MiB" % peak_kib
        finally:
            cluster.flush()


def test_large_and_small_ones_in_one_pipeline(cluster):
    big = os.urandom(3 << 20)
    with Puerta(cluster, chunk_size="4k", chunks=512, retain_bytes="64k") as p, p.client(timeout=60) as c:
        keys = keys_on_all(12, "mixed")
        commands, wanted = [], []
        for k in keys:
            commands += [("SET", k, big), ("STRLEN", k), ("SET", k + "s", "small"), ("GET", k), ("GET", k + "s"), ("APPEND", k, "!"), ("STRLEN", k)]
            wanted += [b"OK", len(big), b"OK", big, b"small", len(big) + 1, len(big) + 1]
        writer = threading.Thread(target=lambda: c.send_raw(b"".join(encode(*x) for x in commands)))
        writer.start()
        for command, want in zip(commands, wanted):
            assert c.read() == want, command[:2]
        writer.join()
    cluster.flush()


# ---- many clients, and a real library ----

def test_answers_never_reach_another_client(puerta):
    def one(n, failures):
        try:
            with puerta.client() as c:
                for i in range(100):
                    k = "own:%d:%d" % (n, i)
                    got = c.pipeline([("SET", k, k), ("GET", k), ("ECHO", k), ("MGET", k, "nobody", k)])
                    if got != [b"OK", k.encode(), k.encode(), [k.encode(), None, k.encode()]]:
                        failures.append((k, got))
        except Exception as e:  # noqa: BLE001 - reported by the main thread
            failures.append((n, e))

    failures = []
    threads = [threading.Thread(target=one, args=(n, failures)) for n in range(30)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures[:3]


def test_redis_py_works_as_with_one_server(puerta):
    import redis

    with redis.Redis(port=puerta.port, decode_responses=True) as r:
        assert r.ping()
        assert r.mset({"py:%d" % i: "v%d" % i for i in range(100)})
        assert r.mget(["py:%d" % i for i in range(100)]) == ["v%d" % i for i in range(100)]
        assert r.delete(*["py:%d" % i for i in range(100)]) == 100
        assert r.hset("py:h", mapping={"a": "1", "b": "2"}) in (0, 2)
        assert r.hgetall("py:h") == {"a": "1", "b": "2"}
        with r.pipeline(transaction=False) as pipe:
            for i in range(200):
                pipe.set("py:p%d" % i, i)
                pipe.incr("py:p%d" % i)
            assert pipe.execute() == [x for i in range(200) for x in (True, i + 1)]
        with pytest.raises(redis.exceptions.ResponseError):
            r.execute_command("NOSUCHCOMMAND", "x")
        assert r.info()["redis_version"]


def test_the_correctness_load_for_a_while(puerta, cluster):
    with harness.Load(puerta.port, "-c", 50, "-n", 30000, "-b", 1 << 20) as load:
        load.finish(timeout=120).check()
    cluster.flush()


# ---- start and end ----

def test_it_starts_with_any_one_seed_alive(cluster):
    dead = ["127.0.0.1:%d" % harness.free_port(), "127.0.0.1:%d" % harness.free_port()]
    with Puerta(dead + [cluster.masters[2].address]) as p, p.client() as c:
        for k in keys_on_all(20, "seed"):
            assert c.ask("SET", k, "v") == b"OK"


def test_names_as_seeds(cluster):
    with Puerta(["localhost:%d" % cluster.masters[1].port]) as p, p.client() as c:
        assert c.ask("SET", "by-name", "v") == b"OK"


def test_with_no_seed_alive_clients_get_an_error_and_then_service():
    """The seed is not there yet: an error that says so; when it comes up, Puerta serves without a restart."""
    port = harness.free_port()
    with Puerta(["127.0.0.1:%d" % port], wait=False, failover_wait="200ms") as p:
        with harness.wait_for("the listener", lambda: dial_or_none(p.port)) as c:
            assert isinstance(c.try_ask("GET", "a"), RespError)
            assert c.ask("PING") == b"PONG"
            with harness.RedisCluster(masters=1, replicas=0, ports=[port]):
                harness.wait_for("service on the same connection", lambda: c.try_ask("SET", "a", "1") == b"OK")


def test_a_server_without_cluster_mode_is_named(server):
    with Puerta([server.address], wait=False) as p:
        c = harness.wait_for("the listener", lambda: dial_or_none(p.port))
        with c:
            reply = harness.wait_for("the cure", lambda: has_text(c.try_ask("GET", "a"), "topology = single"))
            assert isinstance(reply, RespError)
        assert "topology" in p.log_text()
    with Puerta([server.address], topology="single") as p, p.client() as c:
        assert c.pipeline([("SET", "a", "1"), ("GET", "a"), ("RENAME", "a", "b"), ("MGET", "b", "a")]) == [b"OK", b"1", b"OK", [b"1", None]]


def dial_or_none(port):
    try:
        return RespClient(port)
    except OSError:
        return None


def has_text(reply, text):
    return reply if isinstance(reply, RespError) and text in reply.text else None


def test_sigterm_answers_what_is_in_flight(cluster):
    with Puerta(cluster) as p, p.client() as c:
        keys = keys_on_all(100, "term")
        c.pipeline([("SET", k, "v") for k in keys])
        c.send_raw(b"".join(encode("GET", k) for k in keys) + encode("EVAL", "for i = 1, 3000000 do end return 'slow'", 1, keys[0]))
        assert c.read() == b"v"
        p.process.send_signal(signal.SIGTERM)
        assert [c.read() for _ in keys[1:]] == [b"v"] * (len(keys) - 1)
        assert c.read() == b"slow"
        assert c.at_end()
        assert p.process.wait(10 * harness.SLOW) == 0


def test_as_parent_and_worker_from_a_file(cluster):
    conf = "[redis main]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\n"
    with Puerta(cluster, conf=conf) as p, p.client() as c:
        for k in keys_on_all(30, "file"):
            assert c.ask("SET", k, "v") == b"OK"


def test_a_worker_that_dies_is_replaced(cluster):
    conf = "[redis main]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\n"
    with Puerta(cluster, conf=conf) as p:
        children = harness.children_of(p.process.pid)
        assert children, "the parent has no worker"
        for child in children:
            os.kill(child, 9)
        p.wait_ready()
        with p.client() as c:
            assert c.ask("SET", "again", "v") == b"OK"


def test_a_unix_socket(cluster, tmp_path):
    path = str(tmp_path / "p.sock")
    with Puerta(cluster, listen="unix:" + path, wait=False):
        def dial():
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(path)
                return s
            except OSError:
                s.close()
                return None

        with harness.wait_for("the unix socket", dial) as s:
            s.settimeout(10)
            s.sendall(encode("PING"))
            assert s.recv(100) == b"+PONG\r\n"
