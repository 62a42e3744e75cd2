"""Publish and subscribe through Puerta: as one Redis server would do it, over all nodes, whoever dies, moves or does not read."""
import os
import random
import re
import selectors
import socket
import threading
import time

import pytest

import harness
from harness import LONG, Puerta, RedisCluster, RespClient, RespError, encode, tag_for_slot, wait_for

MB = 1 << 20
PROGRAM_BYTES = 4 * MB  # a process without a block: its text, stack and libc


@pytest.fixture(scope="module")
def keyed(cluster):
    """The cluster with notifications of keys on."""
    for node in cluster.masters:
        node.ask("CONFIG", "SET", "notify-keyspace-events", "KEA")
    yield cluster
    for node in cluster.masters:
        node.ask("CONFIG", "SET", "notify-keyspace-events", "")


def subscribe(client, *command):
    """Says it, and reads an ack for each name."""
    client.send(*command)
    acks = [client.read() for _ in command[1:]]
    assert [a[:2] for a in acks] == [[command[0].lower().encode(), n.encode()] for n in command[1:]], acks
    return client


def publish(client, channel, *texts, shard=False):
    return client.pipeline([("SPUBLISH" if shard else "PUBLISH", channel, t) for t in texts])


def messages(client, count, timeout=None):
    return [client.read(timeout) for _ in range(count)]


def at_nodes(nodes):
    """What the nodes have been asked to send: channels, patterns, shard channels."""
    channels = [c.decode() for n in nodes for c in n.ask("PUBSUB", "CHANNELS")]
    shards = [c.decode() for n in nodes for c in n.ask("PUBSUB", "SHARDCHANNELS")]
    return sorted(channels), sum(n.ask("PUBSUB", "NUMPAT") for n in nodes), sorted(shards)


def nothing_left(cluster):
    wait_for("no node to be asked for anything", lambda: at_nodes(cluster.alive()) == ([], 0, []))


def shard_channels(cluster, each=1, name="s"):
    """Shard channels, so many on each master."""
    return [cluster.key_on(i, "%s%d" % (name, k), nth=k) for i in range(len(cluster.masters)) for k in range(each)]


def primary_of(puerta):
    return int(re.findall(r"messages come by another node.*node=127\.0\.0\.1:(\d+)", puerta.log_text())[-1])


# ---- the same bytes as a plain server ----

SAME = [
    "SUBSCRIBE a b a; SUBSCRIBE b; UNSUBSCRIBE a; UNSUBSCRIBE nosuch; PSUBSCRIBE p* q?; PING; PING x; PING x y; GET a; GET; CLIENT LIST; CLIENT ID",
    "UNSUBSCRIBE; UNSUBSCRIBE; PUNSUBSCRIBE; SUNSUBSCRIBE; PUNSUBSCRIBE a b; SUNSUBSCRIBE a; PING; SUBSCRIBE; PSUBSCRIBE; SSUBSCRIBE; PUBLISH a",
    "SSUBSCRIBE s t s; PING; SUBSCRIBE a; SSUBSCRIBE u; SUNSUBSCRIBE t x s; ECHO x; SUNSUBSCRIBE; UNSUBSCRIBE; ECHO x",
    "SUBSCRIBE a; PSUBSCRIBE a; UNSUBSCRIBE; PING; PUNSUBSCRIBE; PING; GET nokey; SUBSCRIBE x; RESET; GET nokey; PING",
    "PUBSUB; PUBSUB NOSUCH; PUBSUB NUMSUB; PUBSUB NUMSUB a b; PUBSUB CHANNELS; PUBSUB CHANNELS x*; PUBSUB NUMPAT; PUBSUB SHARDCHANNELS; "
    "PUBSUB SHARDNUMSUB x; PUBSUB CHANNELS a b; PUBSUB NUMPAT x; PUBSUB HELP; PUBLISH; PUBLISH nobody x; SPUBLISH nobody x; SPUBLISH nobody",
    "CLIENT REPLY OFF; SUBSCRIBE a; UNSUBSCRIBE a; SUBSCRIBE b; PING; UNSUBSCRIBE; CLIENT REPLY ON; PING",
    "CLIENT REPLY SKIP; SUBSCRIBE a; PING; UNSUBSCRIBE a; PING", "SUBSCRIBE a; QUIT", "SUBSCRIBE a; EXEC; MULTI; PING", "SUBSCRIBE a; NOSUCH a; NOSUCH; EVAL x; CLIENT; PING",
    "CLIENT SETNAME q; SUBSCRIBE a; CLIENT GETNAME; UNSUBSCRIBE a; CLIENT GETNAME", "subscribe A; Ping; uNSUBSCRIBE A; ping",
]


def raw(port, data, until):
    """What is answered to data and then to a last ECHO, if there still is an answer to that."""
    with RespClient(port) as c:
        c.send_raw(data + encode("UNSUBSCRIBE", until))
        got = b""
        while until.encode() not in got:
            part = c.sock.recv(65536)
            if not part:
                break
            got += part
        return got


@pytest.mark.parametrize("line, apart", [(line, apart) for line in SAME for apart in (False, True) if not (apart and "CLIENT REPLY" in line)])
def test_acks_and_errors_are_those_of_a_plain_server(puerta, server, line, apart):
    commands = [c.split() for c in line.split(";")]
    if not apart:
        data = b"".join(encode(*c) for c in commands)
        assert raw(puerta.port, data, "the-end") == raw(server.port, data, "the-end")
        return
    with puerta.client() as mine, RespClient(server.port) as theirs:
        for command in commands:
            for c in (mine, theirs):
                c.send(*command)
            first = theirs.read()
            same = [first] + [theirs.read() for _ in range(len(command) - 2 if "SUBSCRIBE" in command[0].upper() and isinstance(first, list) else 0)]
            got = [mine.read() for _ in same]
            if command[0:2] not in (["CLIENT", "ID"],):
                assert [str(g) for g in got] == [str(s) for s in same], command


def test_messages_are_those_of_a_plain_server(puerta, server):
    answers = []
    for port in (puerta.port, server.port):
        with RespClient(port) as c, RespClient(port) as d:
            subscribe(c, "SUBSCRIBE", "ch", "e\x01mpty")
            subscribe(c, "PSUBSCRIBE", "c[a-h]", "?h")
            subscribe(c, "SSUBSCRIBE", "sh")
            counts = publish(d, "ch", "one", "", b"\r\n\0\xff") + publish(d, "e\x01mpty", "x") + publish(d, "sh", "two", shard=True)
            got = messages(c, 11)  # those of the shard channel come from another node, and may come earlier
            answers.append((counts, sorted(map(repr, got)), [m for m in got if m[0] == b"message"], c.ask("PING", "end")))
    assert answers[0] == answers[1]


def test_patterns_match_as_on_a_plain_server(puerta, server):
    """Random patterns of the special bytes, against names of the same bytes, by which channels are listed and messages are counted."""
    rnd = random.Random(5)
    names = sorted({"".join(rnd.choice("ab[]^\\-*?c") for _ in range(rnd.randint(0, 5))) for _ in range(300)})
    patterns = ["".join(rnd.choice("ab[]^\\-*?c") for _ in range(rnd.randint(0, 7))) for _ in range(6000)]
    with puerta.client() as mine, puerta.client() as asks, RespClient(server.port) as theirs, RespClient(server.port) as server_asks:
        subscribe(mine, "SUBSCRIBE", *names)
        subscribe(theirs, "SUBSCRIBE", *names)
        for at in range(0, len(patterns), 100):
            commands = [("PUBSUB", "CHANNELS", p) for p in patterns[at:at + 100]]
            for command, a, b in zip(commands, asks.pipeline(commands), server_asks.pipeline(commands)):
                assert sorted(a) == sorted(b), command
        subscribe(mine, "PSUBSCRIBE", "*")
        assert publish(asks, "", "x") == [1] and mine.read() == [b"message", b"", b"x"]


# ---- order, one subscription upstream, who gets what ----

def test_many_clients_cost_one_subscription_and_all_get_all_in_order(puerta, cluster, other):
    clients = [subscribe(puerta.client(), "SUBSCRIBE", "crowd") for _ in range(20)]
    assert sorted(n.ask("PUBSUB", "NUMSUB", "crowd")[1] for n in cluster.masters) == [0, 0, 1]
    texts = ["%d" % i for i in range(500)]
    assert publish(other, "crowd", *texts) == [20] * 500
    want = [[b"message", b"crowd", t.encode()] for t in texts]
    for c in clients:
        assert messages(c, 500) == want
        c.close()
    nothing_left(cluster)


def test_what_a_transaction_publishes_keeps_its_place(puerta, other):
    subscribe(other, "SUBSCRIBE", "multi")
    commands = []
    for i in range(0, 200, 2):
        commands += [("PUBLISH", "multi", i), ("MULTI",), ("PUBLISH", "multi", i + 1), ("EXEC",)]
    with puerta.client() as c:
        c.pipeline(commands)
    assert [m[2] for m in messages(other, 200)] == [b"%d" % i for i in range(200)]


@pytest.mark.parametrize("how", ("PUBLISH", "SPUBLISH", "MULTI", "MSET"))
def test_who_hears_of_a_write_finds_it(puerta, cluster, how):
    """SET and then PUBLISH in one pipeline, to different nodes: the first of them dawdles, and the message waits for it."""
    hub = next(i for i, n in enumerate(cluster.masters) if n.port == primary_of(puerta))
    slow = cluster.masters[(hub + 1) % 3]
    key, channel = cluster.key_on((hub + 1) % 3, "heard"), cluster.key_on(hub, "heard")
    with puerta.client() as c, puerta.client() as d, puerta.client() as free:
        subscribe(c, "SSUBSCRIBE" if how == "SPUBLISH" else "SUBSCRIBE", channel)
        slow.ask("CLIENT", "PAUSE", 60000, "WRITE")
        try:
            publishing = encode("SPUBLISH" if how == "SPUBLISH" else "PUBLISH", channel, "written")
            d.send_raw(encode("MSET", key, "new", channel, "new") if how == "MSET" else encode("SET", key, "new"))
            d.send_raw(encode("MULTI") + publishing + encode("EXEC") if how == "MULTI" else publishing + publishing)
            assert c.silent(0.2)
            assert publish(free, channel, "nobody else waits", shard=how == "SPUBLISH") == [1]
            assert c.read()[2] == b"nobody else waits"
        finally:
            slow.ask("CLIENT", "UNPAUSE")
        assert c.read()[2] == b"written" and slow.ask("GET", key) == b"new"
        assert d.read() == b"OK" and messages(d, 3 if how == "MULTI" else 2)[-1] == ([1] if how == "MULTI" else 1)


def test_one_publishers_messages_keep_their_order_over_channels_and_patterns(puerta, cluster, other):
    names = ["o%d" % i for i in range(30)]
    with puerta.client() as c:
        subscribe(c, "SUBSCRIBE", *names)
        subscribe(c, "PSUBSCRIBE", "o1*")
        other.send_raw(b"".join(encode("PUBLISH", names[i % 30], i) for i in range(900)))
        got = []
        while len(got) < 900:
            m = c.read()
            if m[0] == b"message":
                got.append(int(m[2]))
            else:
                assert m[:2] == [b"pmessage", b"o1*"] and int(m[3]) == got[-1]
        assert got == list(range(900))
        assert [other.read() for _ in range(900)] == [1 + names[i % 30].startswith("o1") for i in range(900)]
    nothing_left(cluster)


def test_messages_published_at_any_node_arrive_once(puerta, cluster):
    with puerta.client() as c:
        subscribe(c, "SUBSCRIBE", "direct")
        for i, node in enumerate(cluster.masters * 5):
            node.ask("PUBLISH", "direct", i)
            assert c.read() == [b"message", b"direct", b"%d" % i]
        assert c.ask("PING") == [b"pong", b""]


def test_a_subscriber_gets_nothing_after_its_unsubscribe_and_all_before(puerta, other):
    """While messages stream in, it says UNSUBSCRIBE: what comes before the ack has no gap, and nothing comes behind it."""
    stop = threading.Event()

    def stream():
        n = 0
        while not stop.is_set():
            publish(other, "stream", *range(n, n + 50))
            n += 50

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        with puerta.client() as c, puerta.client() as d:
            subscribe(d, "SUBSCRIBE", "stream")
            for _ in range(20):
                subscribe(c, "SUBSCRIBE", "stream")
                got = [int(m[2]) for m in messages(c, 200)]
                c.send("UNSUBSCRIBE", "stream")
                while True:
                    m = c.read()
                    if m[0] == b"unsubscribe":
                        break
                    got.append(int(m[2]))
                assert got == list(range(got[0], got[0] + len(got)))
                assert c.ask("ECHO", "x") == b"x"
            first = int(d.read()[2])
            assert [int(m[2]) for m in messages(d, 4000)] == list(range(first + 1, first + 4001))
    finally:
        stop.set()
        thread.join()


def test_subscribe_behind_other_commands_in_a_pipeline(puerta, other):
    with puerta.client() as c:
        keys = ["pk%d" % i for i in range(50)]
        c.send_raw(b"".join(encode("SET", k, k) for k in keys) + encode("MGET", *keys) + encode("SUBSCRIBE", "p1", "p2") + encode("GET", "pk1") +
                   encode("UNSUBSCRIBE", "p1") + encode("UNSUBSCRIBE", "p2") + encode("GET", "pk1") + encode("SUBSCRIBE", "p3") + encode("PING"))
        assert messages(c, 50) == [b"OK"] * 50 and c.read() == [k.encode() for k in keys]
        assert messages(c, 2) == [[b"subscribe", b"p1", 1], [b"subscribe", b"p2", 2]]
        assert isinstance(c.read(), RespError)
        assert messages(c, 2) == [[b"unsubscribe", b"p1", 1], [b"unsubscribe", b"p2", 0]]
        assert c.read() == b"pk1" and c.read() == [b"subscribe", b"p3", 1] and c.read() == [b"pong", b""]
        assert publish(other, "p3", "x") == [1] and c.read() == [b"message", b"p3", b"x"]


def test_names_and_messages_of_any_length(puerta, cluster, other):
    for n in (0, 1, 59, 60, 61, 119, 120, 121, 1000, 20000):
        name = "n" * n
        with puerta.client() as c:
            subscribe(c, "SUBSCRIBE", name)
            subscribe(c, "PSUBSCRIBE", name + "*") if n else None
            subscribe(c, "SSUBSCRIBE", name)
            for size in (0, 1, 100, 2000, 2048, 2100, 16384, 100000):
                text = b"%d." % size * (size // 3)
                assert publish(other, name, text) == [2 if n else 1]
                assert [m[-1] for m in messages(c, 2 if n else 1)] == [text] * (2 if n else 1)
                assert publish(other, name, text, shard=True) == [1]
                assert c.read() == [b"smessage", name.encode(), text]
    nothing_left(cluster)


@pytest.mark.parametrize("word", ("PUBLISH", "SPUBLISH"))
def test_messages_longer_than_retain_bytes_keep_their_place_and_are_counted(puerta, cluster, other, word):
    shard, name = word == "SPUBLISH", cluster.key_on(1, "long")
    texts = [b"%d." % i + b"x" * (0, 300000, 100, 400000)[i % 4] for i in range(8)]
    with puerta.client() as c, puerta.client() as d:
        for s in (c, d):
            subscribe(s, "SSUBSCRIBE" if shard else "SUBSCRIBE", name)
        other.send_raw(b"".join(encode("SET", name, i) + encode(word, name, t) for i, t in enumerate(texts)))
        for s in (c, d):
            assert [m[2] for m in messages(s, 8)] == texts
        assert messages(other, 16) == [b"OK", 2] * 8
        c.send_raw(encode("SET", name, "y" * MB) + encode("PING"))
        assert "only (P|S)SUBSCRIBE" in c.read().text and c.read() == [b"pong", b""] and other.ask("GET", name) == b"7"
        reply = other.try_ask(word, "n" * MB, "x")
        assert isinstance(reply, RespError) and "its head does not tell its key" in reply.text and other.ask("PING") == b"PONG"


def test_a_message_longer_than_the_window_arrives_whole(puerta, cluster):
    text = b"0123456789abcdef" * (5 * MB // 16)
    with puerta.client() as c, puerta.client() as d:
        subscribe(c, "SUBSCRIBE", "long")
        subscribe(d, "SUBSCRIBE", "long")
        for node in cluster.masters:
            node.ask("PUBLISH", "long", text)
            assert c.read() == d.read() == [b"message", b"long", text]


def test_a_message_longer_than_the_pool_can_hold_closes_who_waits_for_it(cluster):
    with Puerta(cluster, chunk_size="4k", chunks=256, retain_bytes="64k", max_clients=50) as p, p.client() as c, p.client() as d, p.client() as e:
        subscribe(c, "SUBSCRIBE", "huge")
        subscribe(d, "SUBSCRIBE", "other")
        cluster.masters[0].ask("PUBLISH", "huge", b"x" * (2 * MB))
        assert c.at_end()
        assert publish(e, "other", "x") == [1] and d.read() == [b"message", b"other", b"x"]
        subscribe(e, "SUBSCRIBE", "huge")
        cluster.masters[1].ask("PUBLISH", "huge", b"x" * 300000)
        assert e.read()[2] == b"x" * 300000
        assert "longer than half of the pool" in p.log_text() and "option=chunks" in p.log_text()


@pytest.mark.parametrize("shard", (False, True))
def test_who_is_counted_has_the_message_before_the_answer(puerta, cluster, shard):
    """Subscribed, published and unsubscribed in one pipeline: as of a plain server, the message comes, and before what came after it."""
    s, name = "S" * shard, cluster.key_on(1, "self")
    with puerta.client() as c, puerta.client() as d:
        c.ask("HELLO", 3)
        for i in range(100):
            c.send_raw(encode(s + "SUBSCRIBE", name) + encode(s + "PUBLISH", name, i) + encode(s + "UNSUBSCRIBE", name) + encode("ECHO", i))
            subscribed, message, count, unsubscribed, echo = messages(c, 5)
            assert (subscribed[2], message[2], count, unsubscribed[2], echo) == (1, b"%d" % i, 1, 0, b"%d" % i)
        # Who subscribes after the answer does not get it, though the channel is on for another one.
        subscribe(d, s + "SUBSCRIBE", name)
        for i in range(100):
            c.send_raw(encode(s + "PUBLISH", name, i) + encode(s + "SUBSCRIBE", name) + encode(s + "UNSUBSCRIBE", name))
            count, subscribed, unsubscribed = messages(c, 3)
            assert (count, subscribed[2], unsubscribed[2]) == (1, 1, 0) and d.read()[2] == b"%d" % i


def test_a_publisher_does_not_wait_for_a_node_that_does_not_tell(own_cluster):
    """Its node's connection for messages is lost, or no room is left to read it: the answer comes all the same."""
    with Puerta(own_cluster, max_messages=64, client_window="16m", send_buffer="16k") as p, p.client() as d:
        slow = subscribe(p.client(rcvbuf=4096), "SUBSCRIBE", "slow")
        begun = time.monotonic()
        for i in range(80):  # more than its buffers and all entries hold
            d.ask("PUBLISH", "slow", "x" * 5000)
        assert time.monotonic() - begun < 3 * harness.SLOW
        slow.close()
        subscribe(d, "PSUBSCRIBE", "*") and d.ask("RESET")
        hub = next(n for n in own_cluster.masters if n.port == primary_of(p))
        with p.client() as c:
            subscribe(c, "SUBSCRIBE", "lost")
            for i in range(20):
                hub.ask("CLIENT", "KILL", "TYPE", "pubsub")
                assert d.ask("PUBLISH", "lost", i) == 1


# ---- PUBSUB, CLIENT, INFO ----

def test_pubsub_answers_from_puertas_own_tables(puerta, cluster, client, other):
    with puerta.client() as c, puerta.client() as d:
        names = ["t%d" % i for i in range(5)]
        shards = shard_channels(cluster)
        subscribe(c, "SUBSCRIBE", *names)
        subscribe(d, "SUBSCRIBE", "t1", "u" * 100)
        subscribe(c, "PSUBSCRIBE", "t*", "[uv]*")
        subscribe(d, "PSUBSCRIBE", "t*")
        subscribe(d, "SSUBSCRIBE", *shards)
        assert sorted(client.ask("PUBSUB", "CHANNELS")) == sorted(n.encode() for n in names + ["u" * 100])
        assert client.ask("PUBSUB", "CHANNELS", "*3") == [b"t3"]
        assert client.ask("PUBSUB", "NUMSUB", "t1", "none", "t0") == [b"t1", 2, b"none", 0, b"t0", 1]
        assert client.ask("PUBSUB", "NUMPAT") == 2
        assert sorted(client.ask("PUBSUB", "SHARDCHANNELS")) == sorted(s.encode() for s in shards)
        assert client.ask("PUBSUB", "SHARDNUMSUB", shards[0], "t1") == [shards[0].encode(), 1, b"t1", 0]
        assert publish(other, "t1", "x") == [4] and publish(other, "u" * 100, "x") == [2]
        stats = client.info("stats")
        assert stats["pubsub_channels"] == "6" and stats["pubsub_patterns"] == "2"
        lines = client.ask("CLIENT", "LIST", "TYPE", "pubsub").decode().splitlines()
        assert sorted(re.search(r"flags=(\S+) db=0 (sub=\d+ psub=\d+ ssub=\d+) ", line).groups() for line in lines) == \
            [("P", "sub=2 psub=1 ssub=3"), ("P", "sub=5 psub=2 ssub=0")]
        assert not re.search("flags=P", client.ask("CLIENT", "LIST", "TYPE", "normal").decode())
    wait_for("none to be left", lambda: client.ask("PUBSUB", "CHANNELS") == [] and client.ask("PUBSUB", "NUMPAT") == 0)
    nothing_left(cluster)


def test_client_kill_of_subscribers(puerta, cluster, client):
    subscribers = [subscribe(puerta.client(), "SUBSCRIBE", "kill") for _ in range(3)]
    assert client.ask("CLIENT", "KILL", "TYPE", "pubsub") == 3
    assert all(s.at_end() for s in subscribers)
    assert client.ask("PUBSUB", "NUMSUB", "kill") == [b"kill", 0] and client.ask("PING") == b"PONG"
    nothing_left(cluster)


def test_reset_drops_all(puerta, cluster, client, other):
    subscribe(client, "SUBSCRIBE", "r1", "r2")
    subscribe(client, "SSUBSCRIBE", "r3")
    assert client.ask("RESET") == b"RESET"
    assert publish(other, "r1", "x") == [0] and publish(other, "r3", "x", shard=True) == [0]
    assert client.ask("ECHO", "x") == b"x"
    nothing_left(cluster)


def test_idle_subscribers_are_not_closed(cluster):
    with Puerta(cluster, client_idle="300ms") as p, p.client() as c, p.client() as idle:
        subscribe(c, "SUBSCRIBE", "idle")
        assert idle.at_end()
        with p.client() as d:
            assert publish(d, "idle", "x") == [1] and c.read() == [b"message", b"idle", b"x"]
        c.ask("UNSUBSCRIBE")
        assert c.at_end()


def test_a_plain_server_behind_puerta(server):
    with Puerta([server.address], topology="single") as p, p.client() as c, p.client() as d:
        subscribe(c, "SUBSCRIBE", "a", "b")
        subscribe(c, "PSUBSCRIBE", "__keyevent*")
        subscribe(c, "SSUBSCRIBE", "s")
        assert publish(d, "a", "x") == [1] and c.read() == [b"message", b"a", b"x"]
        assert publish(d, "s", "x", shard=True) == [1] and c.read() == [b"smessage", b"s", b"x"]
        server.ask("CONFIG", "SET", "notify-keyspace-events", "KEA")
        d.ask("SET", "k", "v")
        assert c.read() == [b"pmessage", b"__keyevent*", b"__keyevent@0__:set", b"k"]
        server.ask("CONFIG", "SET", "notify-keyspace-events", "")


# ---- notifications of keys ----

def test_notifications_come_from_every_master_once(puerta, keyed, client, other):
    keys = [keyed.key_on(i, "note", nth=k) for i in range(3) for k in range(5)]
    with puerta.client() as c, puerta.client() as d:
        subscribe(c, "SUBSCRIBE", "__keyevent@0__:set", "__keyspace@0__:" + keys[7])
        subscribe(d, "PSUBSCRIBE", "*")
        for k in keys:
            client.ask("SET", k, "v")
        got = messages(c, 16)
        assert sorted(m[2].decode() for m in got if m[1] == b"__keyevent@0__:set") == sorted(keys)
        assert [m for m in got if m[1] != b"__keyevent@0__:set"] == [[b"message", ("__keyspace@0__:" + keys[7]).encode(), b"set"]]
        got = messages(d, 30)
        assert len({tuple(m) for m in got}) == 30 and all(m[2].startswith(b"__key") for m in got)
        assert publish(other, "plain", "x") == [1] and d.read() == [b"pmessage", b"*", b"plain", b"x"]
        for node in keyed.masters:
            node.ask("PUBLISH", "plain", node.port)
            assert d.read() == [b"pmessage", b"*", b"plain", b"%d" % node.port]
        # Each node's connection for messages has been heard to its end: nothing comes twice.
        for k in keys[::5]:
            client.ask("DEL", k)
        assert sorted(m[2] for m in messages(d, 6)) == sorted([b"__keyevent@0__:del"] * 3 + [("__keyspace@0__:" + k).encode() for k in keys[::5]])
        assert d.ask("PING") == [b"pong", b""]


@pytest.mark.parametrize("pattern, masters", [("*", 3), ("__key*", 3), ("_?keyspace@0__:*", 3), ("__keyspace@0__:foo", 1), ("news.*", 1), ("__keyx*", 1),
                                              ("[_]_key*", 3), ("\\__keyevent*", 3), ("__keyevent@*", 3), ("__key", 1)])
def test_which_patterns_are_asked_of_every_master(puerta, cluster, pattern, masters):
    if pattern == "__keyspace@0__:foo":
        masters = 3
    with puerta.client() as c:
        subscribe(c, "PSUBSCRIBE", pattern)
        assert sum(n.ask("PUBSUB", "NUMPAT") for n in cluster.masters) == masters
    nothing_left(cluster)


# ---- shard channels ----

def test_shard_channels_of_several_nodes_by_one_client(puerta, cluster, other):
    names = shard_channels(cluster, 4)
    with puerta.client() as c:
        subscribe(c, "SSUBSCRIBE", *names)
        assert [len(n.ask("PUBSUB", "SHARDCHANNELS")) for n in cluster.masters] == [4, 4, 4]
        for i in range(300):
            assert publish(other, names[i % 12], i, shard=True) == [1]
            assert c.read() == [b"smessage", names[i % 12].encode(), b"%d" % i]
        c.send("SUNSUBSCRIBE")
        assert sorted(m[1].decode() for m in messages(c, 12)) == sorted(names)
    nothing_left(cluster)


class Stream:
    """Publishes numbers in a thread, on several channels in turn, until stopped; errors are counted."""

    def __init__(self, puerta, names, shard):
        self.client, self.names, self.word = puerta.client(timeout=30), names, "SPUBLISH" if shard else "PUBLISH"
        self.sent, self.errors, self.stopping = 0, {}, False
        self.frozen = -1  # the last one that was sent before a node froze
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while not self.stopping:
            reply = self.client.try_ask(self.word, self.names[self.sent % len(self.names)], self.sent)
            if isinstance(reply, RespError):
                self.errors[self.sent] = reply.text
            self.sent += 1
            time.sleep(0.0005)

    def stop(self):
        self.stopping = True
        self.thread.join()
        self.client.close()


def read_until(client, stream, more, seen):
    """Reads numbers, each of which must come once and which must grow on each channel, until on each one has come that was sent after now,
    and so many more. One may come late that a node has not passed on to the others when it froze: its publisher was told an error, or
    the node had answered just before."""
    reached, deadline = stream.sent + more, time.monotonic() + 30 * harness.SLOW
    while not all(seen.get(n, -1) > reached for n in stream.names):
        assert time.monotonic() < deadline, "nothing comes any more on %r" % [n for n in stream.names if seen.get(n, -1) <= reached]
        m = client.read()
        name, n = m[1].decode(), int(m[2])
        before = seen.get(name, -1)
        assert n not in seen and (n > before or n in stream.errors or n <= stream.frozen), "%s: %d after %d" % (name, n, before)
        seen[n], seen[name] = True, max(n, before)


def test_shard_channels_follow_their_slot(cluster, puerta):
    slot = 200
    names = ["{%s}:%d" % (tag_for_slot(slot), i) for i in range(3)] + [cluster.key_on(1, "stays")]
    a, b = cluster.masters[0], cluster.masters[1]
    stream = Stream(puerta, names, True)
    try:
        with puerta.client() as c:
            subscribe(c, "SSUBSCRIBE", *names)
            seen = {}
            read_until(c, stream, 0, seen)
            for source, target in ((a, b), (b, a), (a, b), (b, a)):
                cluster.migrate_slot(slot, source, target)
                read_until(c, stream, 20, seen)
                wait_for("the channels to be asked of the new owner alone", lambda: sorted(x.decode() for x in target.ask("PUBSUB", "SHARDCHANNELS") if x.decode() in names[:3]) == names[:3])
                assert not [x for x in source.ask("PUBSUB", "SHARDCHANNELS") if x.decode() in names[:3]]
        assert not stream.errors
    finally:
        stream.stop()
    nothing_left(cluster)


# ---- nodes that die ----

@pytest.mark.parametrize("how", ("killed", "frozen"))
def test_all_comes_back_after_a_failover(own_cluster, how):
    cluster = own_cluster
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "notify-keyspace-events", "KEA")
    with Puerta(cluster) as p, p.client(timeout=30) as c, p.client() as d, p.client(timeout=40) as k:
        shards, plain = shard_channels(cluster), ["plain%d" % i for i in range(3)]
        subscribe(c, "SSUBSCRIBE", *shards)
        subscribe(d, "SUBSCRIBE", *plain)
        subscribe(k, "SUBSCRIBE", "__keyevent@0__:set")
        streams = [Stream(p, shards, True), Stream(p, plain, False)]
        seen_shards, seen_plain = {}, {}
        try:
            read_until(c, streams[0], 30, seen_shards)
            read_until(d, streams[1], 30, seen_plain)
            victim = next(i for i, n in enumerate(cluster.masters) if n.port == primary_of(p))
            (cluster.masters[victim].kill if how == "killed" else cluster.masters[victim].freeze)()
            for s in streams if how == "frozen" else []:
                s.frozen = s.sent
            # Whoever subscribes now waits for a node, and then has it.
            with p.client(timeout=30) as late:
                subscribe(late, "SUBSCRIBE", "plain0")
                assert late.read()[1] == b"plain0"
            cluster.wait_promoted(cluster.replicas[victim][0])
            if how == "frozen":
                read_until(c, streams[0], 20, seen_shards)
                cluster.masters[victim].thaw()
            read_until(c, streams[0], 50, seen_shards)
            read_until(d, streams[1], 50, seen_plain)
            key = cluster.key_on(victim, "told")
            with p.client(timeout=30) as other:
                wait_for("notifications of the new master", lambda: other.ask("SET", key, "v") and not k.silent(0.05), 30)
            assert k.read()[2] == key.encode()
        finally:
            for s in streams:
                s.stop()
        named = re.compile(r"outcome unknown|not executed")
        assert all(named.search(e) for s in streams for e in s.errors.values()), [s.errors for s in streams]


def test_what_is_to_be_published_does_not_wait_for_a_failover():
    """The node by which messages come freezes, and none takes over. What another client wants published meanwhile goes by another
    node as soon as messages do; but not what a client says behind a message that the frozen one has got."""
    with RedisCluster(masters=3, replicas=0, node_timeout_ms=60000) as cluster, Puerta(cluster, failover_wait="20s") as p, \
            p.client(timeout=30) as c, p.client(timeout=30) as d, p.client(timeout=30) as e:
        subscribe(c, "SUBSCRIBE", "a", "b")
        publish(d, "a", "begin")
        hub = next(n for n in cluster.masters if n.port == primary_of(p))
        hub.freeze()
        d.send("PUBLISH", "a", "frozen")
        wait_for("the node to be suspect", lambda: re.search(r"node=127\.0\.0\.1:%d .*suspect" % hub.port, p.log_text()))
        e.send_raw(b"".join(encode("PUBLISH", "ab"[n % 2], n) for n in range(20)))
        d.send("PUBLISH", "a", "behind")
        assert messages(e, 20) == [1] * 20
        assert [m[2] for m in messages(c, 21)] == [b"begin"] + [b"%d" % n for n in range(20)]
        assert d.silent(0.1)
        hub.thaw()
        assert messages(d, 2) == [1, 1]
        got = [m[2] for m in messages(c, 1)]
        assert got == [b"behind"] or (got == [b"frozen"] and c.read()[2] == b"behind")


def test_a_lost_connection_for_messages_is_made_again(puerta, cluster, other):
    names = shard_channels(cluster)
    with puerta.client() as c:
        subscribe(c, "SUBSCRIBE", "again")
        subscribe(c, "SSUBSCRIBE", *names)
        for i in range(3):
            x = "x%d" % i  # what looks like a message of the moment before would be taken for it
            for node in cluster.masters:
                node.ask("CLIENT", "KILL", "TYPE", "pubsub")
            wait_for("all to be asked for again", lambda: at_nodes(cluster.masters) == (["again"], 0, sorted(names)))
            assert publish(other, "again", x) == [1] and c.read() == [b"message", b"again", x.encode()]
            for n in names:
                assert publish(other, n, x, shard=True) == [1] and c.read() == [b"smessage", n.encode(), x.encode()]
        assert c.ask("PING") == [b"pong", b""]


def test_order_holds_though_messages_come_by_one_node_after_the_other(puerta, cluster):
    """No message twice and none before an earlier one, while the node that sends them changes again and again. (That nothing is
    published for BUS_MS behind a change is not shown by this: without it the order broke only where socket calls failed.)"""
    with puerta.client() as c, puerta.client() as d:
        subscribe(c, "SUBSCRIBE", "order")
        sent = 0
        for _ in range(12):
            hub = next(n for n in cluster.masters if n.port == primary_of(puerta))
            d.send_raw(b"".join(encode("PUBLISH", "order", n) for n in range(sent, sent + 100)))
            hub.ask("CLIENT", "KILL", "TYPE", "pubsub")
            d.send_raw(b"".join(encode("PUBLISH", "order", n) for n in range(sent + 100, sent + 200)))
            sent += 200
            assert messages(d, 200) == [1] * 200
        publish(d, "order", sent)
        got = [int(c.read()[2])]
        while got[-1] != sent:
            got.append(int(c.read()[2]))
        assert got == sorted(set(got))


def test_subscribe_without_a_node_gets_a_clear_error():
    with RedisCluster(masters=3, replicas=0, node_timeout_ms=1000, cluster_require_full_coverage="no") as cluster, \
            Puerta(cluster, failover_wait="1s") as p, p.client() as c, p.client() as d:
        name = cluster.key_on(2, "x")
        cluster.masters[2].kill()
        reply = c.try_ask("SSUBSCRIBE", name)
        assert isinstance(reply, RespError) and reply.text.startswith("CLUSTERDOWN not executed: no node took the subscription"), reply
        subscribe(c, "SSUBSCRIBE", cluster.key_on(0, "x"))
        assert d.ask("PUBSUB", "SHARDNUMSUB", name)[1] == 0
        subscribe(c, "PSUBSCRIBE", "*")  # key notifications of the living
        for n in cluster.masters[:2]:
            n.kill()
        reply = d.try_ask("SUBSCRIBE", "y")
        assert isinstance(reply, RespError) and "not executed" in reply.text
        assert d.ask("ECHO", "still here") == b"still here"


def test_a_refused_channel_is_told_with_the_nodes_words(cluster):
    for node in cluster.masters:
        node.ask("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+@all", "resetchannels", "&open*")
    try:
        with Puerta(cluster, upstream_user="narrow", upstream_password="pw") as p, p.client() as c, p.client() as d:
            subscribe(c, "SUBSCRIBE", "open1")
            reply = d.try_ask("SUBSCRIBE", "open2", "closed")
            assert isinstance(reply, RespError) and "NOPERM" in reply.text and "refuses" in reply.text, reply
            assert d.ask("PUBSUB", "NUMSUB", "open2", "closed") == [b"open2", 0, b"closed", 0]
            assert isinstance(d.try_ask("PUBLISH", "closed", "x"), RespError)
            assert publish(d, "open1", "x") == [1] and c.read()[2] == b"x"
    finally:
        for node in cluster.masters:
            node.ask("ACL", "DELUSER", "narrow")


# ---- clients that mean harm, full tables ----

def test_a_subscriber_that_does_not_read_is_closed_and_nobody_else_notices(cluster):
    with Puerta(cluster, client_window="256k", send_buffer="16k") as p, p.client() as good, p.client() as other:
        subscribe(good, "SUBSCRIBE", "w")
        slow = subscribe(p.client(rcvbuf=4096), "SUBSCRIBE", "w")
        n = 0
        while "subscriber closed" not in p.log_text():
            assert n < 20000, "it is never closed"
            publish(other, "w", *[b"%08d" % i + b"x" * 1000 for i in range(n, n + 50)])
            for i in range(n, n + 50):
                assert good.read()[2][:8] == b"%08d" % i
            n += 50
        assert "option=client_window" in p.log_text()
        wait_for("one to be left", lambda: other.ask("PUBSUB", "NUMSUB", "w")[1] == 1)
        assert publish(other, "w", "x") == [1] and good.read()[2] == b"x"
        # What it was sent before is whole and in order.
        got = 0
        try:
            while int(slow.read(5)[2][:8]) == got:
                got += 1
        except (EOFError, ConnectionResetError):
            pass
        assert 0 < got < n


def test_a_burst_does_not_close_one_that_reads(cluster):
    """Far more than its window in one turn of the loop, in tiny messages."""
    with Puerta(cluster, client_window="64k", max_messages=1024) as p, p.client(timeout=60) as c, p.client(timeout=60) as d:
        subscribe(c, "SUBSCRIBE", "burst")
        subscribe(c, "PSUBSCRIBE", "bur*")
        done = []
        reader = threading.Thread(target=lambda: done.extend(m[-1] for m in messages(c, 40000) if m[0] == b"message"))
        reader.start()
        assert publish(d, "burst", *range(20000)) == [2] * 20000
        reader.join()
        assert done == [b"%d" % i for i in range(20000)]
        assert "subscriber closed" not in p.log_text()


def test_full_tables_have_named_errors(cluster):
    with Puerta(cluster, max_channels=16, max_subscriptions=40, channel_names="2k", max_clients=100) as p, p.client() as c, p.client() as d, \
            p.client() as e:
        subscribe(c, "SUBSCRIBE", *["c%d" % i for i in range(16)])
        for command in (("SUBSCRIBE", "one more"), ("PSUBSCRIBE", "c1", "one*"), ("SSUBSCRIBE", "s")):
            reply = d.try_ask(*command)
            assert isinstance(reply, RespError) and "(max_channels)" in reply.text, reply
        assert d.ask("PUBSUB", "NUMSUB", "c1")[1] == 1
        subscribe(d, "SUBSCRIBE", *["c%d" % i for i in range(16)])
        reply = e.try_ask("SUBSCRIBE", *["c%d" % i for i in range(9)])
        assert isinstance(reply, RespError) and "(max_subscriptions)" in reply.text, reply
        subscribe(e, "SUBSCRIBE", "c1")
        c.send("UNSUBSCRIBE")
        d.send("UNSUBSCRIBE")
        messages(c, 16), messages(d, 16)
        wait_for("room for another channel", lambda: not isinstance(c.try_ask("SUBSCRIBE", "after"), RespError))
        reply = d.try_ask("SUBSCRIBE", "x" * 2000)
        assert isinstance(reply, RespError) and "(channel_names)" in reply.text, reply
        assert publish(d, "c1", "x") == [1] and e.read()[2] == b"x"


@pytest.mark.parametrize("options, wanted", [({"max_messages": 64, "client_window": "16m"}, "option=max_messages"),
                                             ({"chunk_size": "4k", "chunks": 256, "retain_bytes": "64k", "client_window": "16m", "max_clients": 50}, "option=chunks")])
def test_when_nothing_is_left_for_messages_the_greediest_is_closed(cluster, options, wanted):
    with Puerta(cluster, send_buffer="16k", **options) as p, p.client(timeout=30) as good, p.client(timeout=30) as other:
        subscribe(good, "SUBSCRIBE", "m")
        subscribe(good, "SUBSCRIBE", "n")
        slow = subscribe(p.client(rcvbuf=4096), "SUBSCRIBE", "m")
        n = 0
        while "subscriber closed" not in p.log_text():
            assert n < 5000
            publish(other, "m", *[b"%08d" % i + b"x" * 5000 for i in range(n, n + 10)])
            for i in range(n, n + 10):
                assert good.read()[2][:8] == b"%08d" % i
            n += 10
        assert wanted in p.log_text()
        assert publish(other, "n", "x") == [1] and good.read()[2] == b"x"
        slow.close()


def test_clients_that_vanish_at_each_step(cluster):
    with Puerta(cluster) as p, p.client() as other, p.client() as steady:
        names = shard_channels(cluster)
        subscribe(steady, "SUBSCRIBE", "v")
        parts = [encode("SUBSCRIBE", "v", "w"), encode("SSUBSCRIBE", *names), encode("PSUBSCRIBE", "v*"), encode("UNSUBSCRIBE"), encode("PING"),
                 encode("RESET"), encode("SUNSUBSCRIBE")]
        whole = b"".join(parts)
        for cut in list(range(0, len(whole), 7)) + [len(whole)]:
            c = p.client()
            c.send_raw(whole[:cut])
            if cut % 2:
                other.send("PUBLISH", "v", "x" * 3000)
                c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            c.close()
            if cut % 2:
                assert other.read() >= 1 and steady.read()[1] == b"v"
        wait_for("only one to be left", lambda: other.ask("PUBSUB", "NUMSUB", "v", "w") == [b"v", 1, b"w", 0] and not other.ask("PUBSUB", "NUMPAT"))
        wait_for("the nodes to be asked for no more", lambda: at_nodes(cluster.masters) == (["v"], 0, []))
        assert other.ask("PUBSUB", "SHARDCHANNELS") == []


def test_channels_that_come_and_go_leave_nothing(puerta, cluster, other):
    """The same channels over and over, by clients at once: what is said to nodes and answered never gets out of step."""
    failures = []

    def churn(seed):
        try:
            with puerta.client(timeout=30) as c:
                for i in range(150):
                    names = ["z%d" % ((seed + i + k) % 7) for k in range(3)]
                    shards = ["{z%d}" % ((seed + i + k) % 7) for k in range(2)]
                    subscribe(c, "SUBSCRIBE", *names)
                    subscribe(c, "SSUBSCRIBE", *shards)
                    c.send("UNSUBSCRIBE")
                    messages(c, 3)
                    c.send("SUNSUBSCRIBE")
                    messages(c, 2)
        except BaseException as e:  # noqa: BLE001 - raised below
            failures.append(e)

    threads = [threading.Thread(target=churn, args=(n,)) for n in range(6)]
    begun = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures
    assert time.monotonic() - begun < 5 * harness.SLOW, "somebody waited though all was there"
    nothing_left(cluster)
    assert publish(other, "z1", "x") == [0]


def test_neighbours_with_keys_are_served_while_messages_flow(puerta, client, other):
    clients = [subscribe(puerta.client(), "SUBSCRIBE", "busy") for _ in range(10)]
    for i in range(200):
        other.send("PUBLISH", "busy", i)
        assert client.pipeline([("SET", "bk%d" % i, i), ("GET", "bk%d" % i)]) == [b"OK", b"%d" % i]
        assert other.read() == 10
    for c in clients:
        assert [int(m[2]) for m in messages(c, 200)] == list(range(200))
        c.close()


# ---- many ----

class Crowd:
    """Subscribers that must get exactly these bytes, read by one selector."""

    def __init__(self, port):
        self.port, self.selector, self.at = port, selectors.DefaultSelector(), {}

    def add(self, command, ack, wanted):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        s.sendall(command)
        got = b""
        while len(got) < len(ack):
            got += s.recv(len(ack) - len(got))
        assert got == ack, got
        s.setblocking(False)
        self.at[s] = [0, wanted]
        self.selector.register(s, selectors.EVENT_READ)

    def read(self, timeout):
        left, deadline = len(self.at), time.monotonic() + timeout * harness.SLOW
        while left:
            assert time.monotonic() < deadline, "%d have not got all" % left
            for key, _ in self.selector.select(1):
                data, state = key.fileobj.recv(1 << 18), self.at[key.fileobj]
                assert data, "a subscriber was closed"
                assert state[1][state[0]:state[0] + len(data)] == data, "wrong bytes at %d" % state[0]
                state[0] += len(data)
                if state[0] == len(state[1]):
                    self.selector.unregister(key.fileobj)
                    left -= 1

    def close(self):
        for s in self.at:
            s.close()


def test_a_crowd_gets_every_message_once_and_in_order(cluster):
    clients, shards, count = (5000, 100, 1000) if LONG else (250, 10, 200)
    options = {"max_clients": 2 * clients + 20, "max_subscriptions": 2 * clients + 100, "chunks": 8192 if LONG else 2048}
    names = ["crowd:%d" % i for i in range(shards)]
    with Puerta(cluster, nofile=4 * clients + 500 if 4 * clients + 500 < 20000 else 20000, **options) as p, p.client(timeout=600) as d, \
            p.client(timeout=600) as e:
        crowd = Crowd(p.port)
        texts = [b"%06d:" % i + b"y" * 20 for i in range(count)]
        try:
            wanted = b"".join(encode("message", "all", t) for t in texts)
            for _ in range(clients):
                crowd.add(encode("SUBSCRIBE", "all"), encode("subscribe", "all")[0:0] + b"*3\r\n$9\r\nsubscribe\r\n$3\r\nall\r\n:1\r\n", wanted)
            each = {n: b"".join(encode("smessage", n, t) for t in texts) for n in names}
            for i in range(clients):
                n = names[i % shards]
                crowd.add(encode("SSUBSCRIBE", n), b"*3\r\n$10\r\nssubscribe\r\n$%d\r\n%s\r\n:1\r\n" % (len(n), n.encode()), each[n])
            assert sorted(n.ask("PUBSUB", "NUMSUB", "all")[1] for n in cluster.masters) == [0, 0, 1]
            failures = []

            def speak(client, lines, per):
                try:
                    for line in lines:
                        client.send(*line)
                        assert client.read() == per
                except BaseException as x:  # noqa: BLE001
                    failures.append(x)

            speakers = [threading.Thread(target=speak, args=(d, [("PUBLISH", "all", t) for t in texts], clients)),
                        threading.Thread(target=speak, args=(e, [("SPUBLISH", n, t) for t in texts for n in names], clients // shards))]
            begun = time.monotonic()
            for t in speakers:
                t.start()
            crowd.read(900 if LONG else 60)
            for t in speakers:
                t.join()
            assert not failures, failures
            print("%d subscribers, %d messages delivered in %.1f s" % (2 * clients, 2 * clients * count, time.monotonic() - begun))
            if os.path.exists("/proc/self/smaps") and harness.SLOW == 1:  # a sanitizer has a shadow beside the block
                block, beside = harness.memory_of(p.worker())
                print("memory: -t promised %d bytes, the block has %d, resident beside it %d" % (p.promised(), block, beside))
                assert 0 <= block - p.promised() < 64 << 10 and beside < PROGRAM_BYTES
        finally:
            crowd.close()
