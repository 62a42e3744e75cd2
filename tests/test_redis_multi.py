"""Transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH through Puerta, beside a plain server; while slots move and nodes die; by the hundred."""
import re
import select
import socket
import threading
import time

import pytest

import harness
from harness import LONG, Puerta, RedisCluster, RespClient, RespError, encode, slot_of, tag_for_slot, wait_for

ABORT = "EXECABORT Transaction discarded because of previous errors."
NAMED = re.compile(r"^(ERR outcome unknown|TRYAGAIN not executed|CLUSTERDOWN not executed|ERR not executed|ERR no answer)")


def said(reply):
    """Replies as they can be compared."""
    if isinstance(reply, list):
        return [said(r) for r in reply]
    return "-" + reply.text if isinstance(reply, RespError) else reply


def play(port, commands, one_by_one):
    with RespClient(port) as c:
        c.ask("DEL", "{t}a"), c.ask("DEL", "{t}b"), c.ask("DEL", "{t}l")
        if one_by_one:
            return [said(c.try_ask(*k)) for k in commands]
        return said(c.pipeline(commands))


A, B, L = "{t}a", "{t}b", "{t}l"

SEQUENCES = {
    "one": [("MULTI",), ("SET", A, "1"), ("INCR", A), ("GET", A), ("EXEC",), ("GET", A)],
    "empty": [("MULTI",), ("EXEC",), ("PING",)],
    "discard": [("MULTI",), ("SET", A, "1"), ("DISCARD",), ("GET", A)],
    "exec without multi": [("EXEC",), ("SET", A, "2"), ("GET", A)],
    "discard without multi": [("DISCARD",), ("GET", A)],
    "nested": [("MULTI",), ("MULTI",), ("SET", A, "1"), ("EXEC",), ("GET", A)],
    "watch inside": [("MULTI",), ("WATCH", A), ("SET", A, "1"), ("EXEC",), ("GET", A)],
    "unwatch inside": [("MULTI",), ("UNWATCH",), ("SET", A, "1"), ("EXEC",), ("GET", A)],
    "unknown command": [("MULTI",), ("SET", A, "1"), ("NOSUCH",), ("EXEC",), ("GET", A)],
    "wrong count": [("MULTI",), ("SET", A, "1"), ("GET",), ("EXEC",), ("GET", A)],
    "wrong count, multi": [("MULTI", "x"), ("SET", A, "1"), ("EXEC",)],
    "wrong count, multi inside": [("MULTI",), ("SET", A, "1"), ("MULTI", "x"), ("EXEC",), ("GET", A)],
    "wrong count, exec": [("MULTI",), ("SET", A, "1"), ("EXEC", "x"), ("EXEC",), ("GET", A)],
    "wrong count, exec outside": [("EXEC", "x"), ("GET", A)],
    "wrong count, discard": [("MULTI",), ("SET", A, "1"), ("DISCARD", "x"), ("EXEC",), ("GET", A)],
    "wrong count, watch": [("WATCH",), ("MULTI",), ("WATCH",), ("EXEC",)],
    "wrong count, unwatch": [("UNWATCH", "x"), ("MULTI",), ("SET", A, "1"), ("UNWATCH", "x"), ("EXEC",), ("GET", A)],
    "error, then discard": [("MULTI",), ("GET",), ("DISCARD",), ("MULTI",), ("SET", A, "1"), ("EXEC",)],
    "error when run": [("SET", A, "x"), ("MULTI",), ("INCR", A), ("SET", B, "2"), ("LPUSH", A, "1"), ("EXEC",), ("GET", B)],
    "two": [("MULTI",), ("INCR", A), ("EXEC",), ("MULTI",), ("INCR", A), ("INCR", B), ("EXEC",), ("MGET", A, B)],
    "keyless": [("MULTI",), ("PING",), ("PING", "x"), ("ECHO", "hi"), ("EXEC",)],
    "keyless and a key": [("MULTI",), ("PING",), ("SET", A, "1"), ("ECHO", "hi"), ("EXEC",)],
    "watch, untouched": [("SET", A, "1"), ("WATCH", A), ("GET", A), ("MULTI",), ("SET", A, "2"), ("EXEC",), ("GET", A)],
    "watch, touched by itself": [("SET", A, "1"), ("WATCH", A), ("SET", A, "3"), ("MULTI",), ("SET", A, "2"), ("EXEC",), ("GET", A)],
    "watch, no longer after exec": [("WATCH", A), ("SET", A, "3"), ("MULTI",), ("EXEC",), ("MULTI",), ("GET", A), ("EXEC",)],
    "watch, empty": [("WATCH", A), ("MULTI",), ("EXEC",), ("WATCH", A), ("SET", A, "1"), ("MULTI",), ("EXEC",)],
    "watch twice": [("WATCH", A), ("WATCH", B), ("SET", B, "1"), ("MULTI",), ("GET", A), ("EXEC",)],
    "watch two": [("WATCH", A, B), ("SET", B, "1"), ("MULTI",), ("GET", A), ("EXEC",)],
    "unwatch": [("WATCH", A), ("SET", A, "1"), ("UNWATCH",), ("MULTI",), ("GET", A), ("EXEC",)],
    "unwatch without watch": [("UNWATCH",), ("UNWATCH",), ("MULTI",), ("GET", A), ("EXEC",)],
    "watch, discard": [("WATCH", A), ("SET", A, "1"), ("MULTI",), ("GET", A), ("DISCARD",), ("MULTI",), ("GET", A), ("EXEC",)],
    "watch, error": [("WATCH", A), ("SET", A, "1"), ("MULTI",), ("GET",), ("EXEC",), ("MULTI",), ("GET", A), ("EXEC",)],
    "watch, keyless": [("WATCH", A), ("MULTI",), ("PING",), ("EXEC",), ("WATCH", A), ("SET", A, "1"), ("MULTI",), ("PING",), ("EXEC",)],
    "watch, then unwatched block": [("WATCH", A), ("UNWATCH",), ("MULTI",), ("PING",), ("EXEC",)],
    "reset": [("MULTI",), ("SET", A, "1"), ("RESET",), ("GET", A), ("EXEC",)],
    "watch, reset": [("WATCH", A), ("SET", A, "1"), ("RESET",), ("MULTI",), ("GET", A), ("EXEC",)],
    "quit": [("MULTI",), ("SET", A, "1"), ("QUIT",)],
    "blocking": [("MULTI",), ("BLPOP", L, "0"), ("BRPOP", L, "0"), ("BLMOVE", L, L, "LEFT", "LEFT", "0"), ("BZPOPMIN", B, "0"),
                 ("XREAD", "BLOCK", "0", "STREAMS", B, "$"), ("EXEC",), ("PING",)],
    "eval": [("MULTI",), ("EVAL", "return redis.call('INCR', KEYS[1])", "1", A), ("EVAL", "return 7", "0"), ("EXEC",), ("GET", A)],
    "no such script": [("MULTI",), ("EVALSHA", "f" * 40, "1", A), ("SET", A, "1"), ("EXEC",), ("GET", A)],
    "script load": [("MULTI",), ("SCRIPT", "LOAD", "return 11"), ("EXEC",)],
    "config": [("MULTI",), ("CONFIG", "SET", "slowlog-max-len", "77"), ("CONFIG", "GET", "slowlog-max-len"), ("EXEC",)],
    "config, wrong": [("MULTI",), ("CONFIG", "SET", "nosuch", "77"), ("SET", A, "1"), ("EXEC",), ("GET", A)],
    "wait": [("MULTI",), ("SET", A, "1"), ("WAIT", "1", "1"), ("EXEC",)],
    "many keys": [("MULTI",), ("MSET", A, "1", B, "2"), ("MGET", A, B), ("DEL", A, B), ("EXISTS", A, B), ("EXEC",)],
    "wrong use": [("MULTI",), ("MSET", A, "1", B), ("EXEC",), ("GET", A)],
    **{"wrong use, node %d" % i: [("MULTI",), ("MSET", "{%s}a" % tag_for_slot(i * 5461 + 9), "1", "{%s}b" % tag_for_slot(i * 5461 + 9)), ("EXEC",)] for i in range(3)},
    "select": [("MULTI",), ("SELECT", "0"), ("SET", A, "1"), ("EXEC",)],
}


@pytest.mark.parametrize("one_by_one", [True, False], ids=["asked one by one", "pipelined"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_answers_are_those_of_one_server(puerta, server, name, one_by_one):
    assert play(puerta.port, SEQUENCES[name], one_by_one) == play(server.port, SEQUENCES[name], one_by_one)


def info(puerta):
    with puerta.client() as c:
        text = c.ask("INFO").decode()
    return {k: int(v) for k, v in re.findall(r"^(\w+):(\d+)\r?$", text, re.M)}


def connections(cluster):
    """How many connections the nodes have from outside, without the one that asks."""
    return sum(int(n.info("clients")["connected_clients"]) - 1 for n in cluster.alive())


def accepted(cluster):
    """How many connections the nodes have accepted so far; this asks each on a new one."""
    return sum(int(n.info("stats")["total_connections_received"]) for n in cluster.alive())


class Move:
    """A slot half moved: begun, and its end when the block ends. It goes back to its owner then."""

    def __init__(self, cluster, slot):
        self.cluster, self.slot = cluster, slot
        self.source = cluster.owner(slot)
        self.target = next(m for m in cluster.masters if m is not self.source)

    def __enter__(self):
        self.cluster.migrate_begin(self.slot, self.source, self.target)
        return self

    def finish(self):
        if self.cluster.owner(self.slot) is self.source:
            while self.cluster.migrate_keys(self.slot, self.source, self.target, 100):
                pass
            self.cluster.migrate_end(self.slot, self.source, self.target)

    def __exit__(self, *_):
        self.finish()
        self.cluster.migrate_slot(self.slot, self.target, self.source)


@pytest.fixture(scope="module")
def single(server):
    with Puerta([server.address], topology="single") as p:
        yield p


OF_ONE = dict(SEQUENCES, **{
    "several slots": [("MULTI",), ("SET", "a1", "1"), ("SET", "a2", "2"), ("MGET", "a1", "a2"), ("DEL", "a1", "a2"), ("EXEC",)],
    "watch several": [("WATCH", "a1", "a2"), ("WATCH", "a3"), ("SET", "a2", "2"), ("MULTI",), ("GET", "a1"), ("EXEC",), ("DEL", "a2")],
    "what concerns all keys": [("MULTI",), ("SET", "a1", "1"), ("FLUSHALL",), ("KEYS", "*"), ("DBSIZE",), ("SCAN", "0"), ("EXEC",)],
})


@pytest.mark.parametrize("one_by_one", [True, False], ids=["asked one by one", "pipelined"])
@pytest.mark.parametrize("name", OF_ONE)
def test_answers_with_one_server_behind(single, server, name, one_by_one):
    assert play(single.port, OF_ONE[name], one_by_one) == play(server.port, OF_ONE[name], one_by_one)


def test_a_node_that_is_busy_with_a_script(own_cluster):
    cluster = own_cluster
    key = cluster.key_on(0, "busy")
    node = cluster.masters[0]
    commands = [("MULTI",), ("SET", key, "1"), ("EXEC",), ("WATCH", key), ("UNWATCH",), ("MULTI",), ("DISCARD",)]
    with Puerta(cluster) as p, p.client() as c, RespClient(node.port) as direct, RespClient(node.port) as script:
        old = node.ask("CONFIG", "GET", "busy-reply-threshold")[1]
        node.ask("CONFIG", "SET", "busy-reply-threshold", "20")
        script.send("EVAL", "while true do end", "0")
        try:
            wait_for("the node to say that it is busy", lambda: "BUSY" in str(said(direct.try_ask("GET", key))))
            wait_for("Puerta to know it", lambda: [c.try_ask("GET", key), "BUSY" in str(said(c.try_ask("PING")))][1])
            wanted = said([direct.try_ask(*k) for k in commands])
            assert said([c.try_ask(*k) for k in commands]) == wanted
        finally:
            direct.ask("SCRIPT", "KILL")
            assert isinstance(script.read(), RespError)
            node.ask("CONFIG", "SET", "busy-reply-threshold", old)


# ------------------------------------------------------------------ what differs from one server, and is named


def test_keys_of_several_slots_are_refused_and_poison(client):
    assert said(client.pipeline([("MULTI",), ("SET", "{a}1", "1"), ("SET", "{b}1", "1"), ("EXEC",), ("EXISTS", "{a}1")])) == \
        [b"OK", b"QUEUED", "-CROSSSLOT Keys in request don't hash to the same slot", "-" + ABORT, 0]
    assert said(client.pipeline([("MULTI",), ("MGET", "{a}1", "{b}1"), ("EXEC",)]))[1:] == \
        ["-CROSSSLOT Keys in request don't hash to the same slot", "-" + ABORT]
    assert said(client.pipeline([("WATCH", "{a}1", "{b}1"), ("WATCH", "{a}1"), ("WATCH", "{b}1"), ("MULTI",), ("GET", "{b}1"), ("EXEC",)])) == \
        ["-CROSSSLOT Keys in request don't hash to the same slot", b"OK", "-CROSSSLOT Keys in request don't hash to the same slot", b"OK",
         "-CROSSSLOT Keys in request don't hash to the same slot", "-" + ABORT]


@pytest.mark.parametrize("command", [("KEYS", "*"), ("DBSIZE",), ("SCAN", "0"), ("SUBSCRIBE", "x"), ("CLIENT", "LIST"), ("INFO",), ("SYNC",),
                                     ("SAVE",), ("SHUTDOWN",), ("HELLO", "2"), ("SCRIPT", "KILL"), ("CLUSTER", "SLOTS"), ("CLIENT", "REPLY", "OFF"), ("READONLY",),
                                     ("ASKING",), ("MONITOR",), ("AUTH", "x"), ("CLIENT", "KILL", "ID", "1")])
def test_what_cannot_be_part_of_a_transaction_is_refused_and_poisons(client, command):
    answers = said(client.pipeline([("MULTI",), ("SET", A, "bad"), command, ("EXEC",), ("PING",)]))
    assert answers[2].startswith(("-ERR ", "-NOPERM ")), answers
    assert answers[3:] == ["-" + ABORT, b"PONG"]


def test_an_error_that_only_the_node_finds_stands_in_execabort(client):
    client.ask("DEL", A)
    answers = said(client.pipeline([("MULTI",), ("SET", A, "1"), ("OBJECT", "NOSUCH", A), ("EXEC",), ("GET", A)]))
    assert answers[:3] == [b"OK", b"QUEUED", b"QUEUED"] and answers[4] is None
    assert answers[3].startswith("-EXECABORT Transaction discarded because of: ERR unknown subcommand 'NOSUCH'")


@pytest.mark.parametrize("command", [("NOSUCH",), ("NOSUCH", A), ("NOSUCH", A, "b"), ("NOSUCH", "{b}1")])
def test_an_unknown_command_is_refused_at_once(client, server, command):
    client.ask("DEL", A)
    commands = [("MULTI",), ("SET", A, "1"), command, ("SET", A, "2"), ("EXEC",), ("GET", A)]
    with RespClient(server.port) as theirs:
        theirs.ask("DEL", A)
        assert said(client.pipeline(commands)) == said(theirs.pipeline(commands))


def test_limits(cluster):
    with Puerta(cluster, transaction_limit="8k", retain_bytes="4k") as p, p.client() as c:
        c.ask("DEL", A)
        c.ask("MULTI")
        answers = [c.try_ask("APPEND", A, "x" * 2000) for _ in range(5)]
        assert answers[:3] == [b"QUEUED"] * 3
        assert said(answers[4]) == "-ERR a transaction must not be longer than transaction_limit"
        assert said(c.try_ask("EXEC")) == "-" + ABORT
        c.ask("MULTI")
        assert said(c.try_ask("SET", A, "x" * 5000)) == "-ERR not executed: a request longer than retain_bytes cannot be part of a transaction"
        assert c.ask("SET", A, "1") == b"QUEUED"
        assert said(c.try_ask("EXEC")) == "-" + ABORT
        c.ask("SET", A, "y" * 100000)
        assert said(c.pipeline([("MULTI",), ("STRLEN", A), ("EXEC",)]))[2] == [100000]
        assert c.ask("DEL", A) == 1


def test_inline_commands(client):
    client.ask("DEL", A)
    client.send_raw(b"MULTI\r\nSET {t}a 5\r\nINCR {t}a\r\nEXEC\r\nwatch {t}a\r\nmulti\r\nget {t}a\r\nexec\r\n")
    assert [client.read() for _ in range(8)] == [b"OK", b"QUEUED", b"QUEUED", [b"OK", 6], b"OK", b"OK", b"QUEUED", [b"6"]]


def test_client_reply(client):
    client.ask("DEL", A)
    client.send_raw(b"".join(encode(*k) for k in [
        ("CLIENT", "REPLY", "OFF"), ("MULTI",), ("INCR", A), ("EXEC",), ("WATCH", A), ("MULTI",), ("INCR", A), ("NOSUCH",), ("EXEC",), ("CLIENT", "REPLY", "ON"),
        ("CLIENT", "REPLY", "SKIP"), ("MULTI",), ("INCR", A), ("EXEC",), ("MULTI",), ("CLIENT", "REPLY", "SKIP"), ("EXEC",), ("GET", A)]))
    answers = said([client.read() for _ in range(7)])
    assert answers[:4] == [b"OK", b"QUEUED", [2], b"OK"] and answers[5:] == ["-" + ABORT, b"2"]


def test_client_list_tells_of_it(client, other):
    me = b"id=%d " % client.ask("CLIENT", "ID")

    def line():
        return next(x for x in other.ask("CLIENT", "LIST").splitlines() if x.startswith(me))

    assert b" flags=N " in line() and b" multi=-1 " in line()
    client.pipeline([("MULTI",), ("SET", A, "1"), ("GET", A)])
    assert b" flags=x " in line() and b" multi=2 " in line()
    client.ask("EXEC")
    assert b" flags=N " in line() and b" multi=-1 " in line()


def test_pipelines_of_transactions_and_other_commands_keep_their_order(puerta):
    tags = [tag_for_slot(s) for s in (1, 6000, 12000)]
    with puerta.client() as c:
        for t in tags:
            c.ask("DEL", "{%s}n" % t, "{%s}m" % t)
        commands, wanted = [], []
        for i in range(1, 60):
            t = tags[i % 3]
            n = len([j for j in range(1, i + 1) if j % 3 == i % 3])
            k, m = "{%s}n" % t, "{%s}m" % t
            commands += [("SET", m, i), ("MULTI",), ("INCR", k), ("GET", m), ("EXEC",), ("SET", m, -i), ("GET", k), ("MGET", "{%s}m" % tags[i % 3], "x"),
                         ("MULTI",), ("GET", m), ("DISCARD",), ("WATCH", m), ("MULTI",), ("GET", m), ("EXEC",), ("GET", m)]
            wanted += [b"OK", b"OK", b"QUEUED", b"QUEUED", [n, b"%d" % i], b"OK", b"%d" % n, [b"%d" % -i, None],
                       b"OK", b"QUEUED", b"OK", b"OK", b"OK", b"QUEUED", [b"%d" % -i], b"%d" % -i]
        assert said(c.pipeline(commands)) == wanted


def test_watch_and_its_end_in_one_pipeline(puerta, other):
    """What ends a WATCH stands right behind it: the next transaction must not be its."""
    for ends in ([("UNWATCH",)], [("MULTI",), ("DISCARD",)], [("MULTI",), ("EXEC",)], [("RESET",)], [("MULTI",), ("GET",), ("EXEC",)]):
        with puerta.client() as c:
            for _ in range(20):
                c.pipeline([("WATCH", A)] + ends)
                other.ask("INCR", A)
                assert said(c.pipeline([("MULTI",), ("PING",), ("EXEC",)]))[2] == [b"PONG"], ends


def test_what_concerns_all_nodes_reaches_them(cluster, client):
    keys = [cluster.key_on(i) for i in range(3)]
    for k in keys:
        client.ask("SET", k, "1")
    client.ask("CONFIG", "SET", "slowlog-max-len", "50")
    answers = said(client.pipeline([("MULTI",), ("CONFIG", "SET", "slowlog-max-len", "51"), ("FLUSHALL",), ("SET", keys[0], "2"), ("EXEC",)]
                                   + [("GET", k) for k in keys] + [("DBSIZE",)]))
    assert answers[4:] == [[b"OK", b"OK", b"OK"], b"2", None, None, 1]
    for m in cluster.masters:
        assert m.ask("CONFIG", "GET", "slowlog-max-len")[1] == b"51"
    answers = said(client.pipeline([("MULTI",), ("SCRIPT", "LOAD", "return 'all'"), ("EXEC",)]))
    for m in cluster.masters:
        assert m.ask("EVALSHA", answers[2][0], "0") == b"all"


def test_scripts_flushed_behind_our_back_still_run_in_a_transaction(cluster, client):
    keys = [cluster.key_on(i) for i in range(3)]
    sha = client.ask("SCRIPT", "LOAD", "return redis.call('INCR', KEYS[1]) * 100")
    for k in keys:
        client.ask("DEL", k)
        for watch in (False, True):
            assert client.ask("EVALSHA", sha, "1", k) == (300 if watch else 100)
            for m in cluster.masters:
                m.ask("SCRIPT", "FLUSH")
            if watch:
                assert client.ask("WATCH", k) == b"OK"
            answers = said(client.pipeline([("MULTI",), ("EVALSHA", sha, "1", k), ("EVALSHA", sha, "1", k), ("EXEC",)]))
            assert answers[3] == ([400, 500] if watch else [200, 300])
            client.ask("SET", k, "2")
    answers = said(client.pipeline([("MULTI",), ("SCRIPT", "FLUSH"), ("EVALSHA", sha, "1", keys[0]), ("EXEC",), ("EVALSHA", sha, "1", keys[0])]))
    assert answers[3][0] == b"OK" and answers[3][1].startswith("-NOSCRIPT") and answers[4].startswith("-NOSCRIPT")


# ------------------------------------------------------------------ many clients


class Workers:
    """Threads that run `work(client, me)` until stopped; a failure of one is the test's."""

    def __init__(self, puerta, count, work):
        self.stopping, self.failures, self.rounds = False, [], [0] * count
        self.puerta, self.work = puerta, work
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(count)]
        for t in self.threads:
            t.start()

    def _run(self, me):
        try:
            with self.puerta.client(timeout=40) as c:
                while not self.stopping:
                    self.work(c, me)
                    self.rounds[me] += 1
        except BaseException as e:  # noqa: BLE001 - reported by finish()
            self.failures.append(e)

    def wait(self, more):
        goal = sum(self.rounds) + more
        wait_for("%d more rounds" % more, lambda: self.failures or sum(self.rounds) >= goal, 60)
        assert not self.failures, self.failures[0]

    def finish(self):
        self.stopping = True
        for t in self.threads:
            t.join()
        assert not self.failures, self.failures[0]


class Counting:
    """Each client adds 1 to a counter by WATCH, GET, MULTI, SET, EXEC; how often it was told that this has been done, and how often
    that nobody knows."""

    def __init__(self, key, lenient=False):
        self.key, self.lenient = key, lenient
        self.done, self.unknown, self.nulls, self.named = 0, 0, 0, 0
        self.lock = threading.Lock()

    def work(self, c, _):
        first = [c.try_ask("WATCH", self.key), c.try_ask("GET", self.key)]
        if any(isinstance(r, RespError) for r in first):
            return self._error(first)
        answers = c.pipeline([("MULTI",), ("SET", self.key, int(first[1] or 0) + 1), ("EXEC",)])
        if isinstance(answers[2], RespError):
            return self._error(answers)
        with self.lock:
            if answers[2] is None:
                self.nulls += 1
            else:
                assert answers[2] == [b"OK"], answers
                self.done += 1

    def _error(self, answers):
        bad = [r for r in answers if isinstance(r, RespError)]
        assert self.lenient and all(NAMED.match(r.text) for r in bad), bad
        with self.lock:
            self.named += 1
            self.unknown += sum(r.text.startswith("ERR outcome unknown") for r in bad)


class Increments:
    """Transactions of two INCRs on keys of one slot; both must always be the same."""

    def __init__(self, tag, lenient=False, keys=2):
        self.keys = ["{%s}i%d" % (tag, i) for i in range(keys)]
        self.lenient, self.lock = lenient, threading.Lock()
        self.done, self.unknown, self.named = 0, 0, 0

    def work(self, c, _):
        answers = c.pipeline([("MULTI",)] + [("INCR", k) for k in self.keys] + [("EXEC",)])
        if isinstance(answers[-1], RespError):
            assert self.lenient and NAMED.match(answers[-1].text), answers[-1]
            with self.lock:
                self.named += 1
                self.unknown += answers[-1].text.startswith("ERR outcome unknown")
            return
        assert len(answers[-1]) == len(self.keys) and len(set(answers[-1])) == 1, answers[-1]
        with self.lock:
            self.done += 1


def test_a_counter_by_watch_is_exact(puerta):
    with puerta.client() as c:
        c.ask("DEL", "wcount")
        counting = Counting("wcount")
        w = Workers(puerta, 8, counting.work)
        w.wait(2000)
        w.finish()
        assert int(c.ask("GET", "wcount")) == counting.done > 200


def test_nobody_sees_half_of_a_transaction(puerta):
    a, b = "{half}a", "{half}b"
    seen = []

    def write(c, me):
        n = "%d" % time.monotonic_ns()
        c.pipeline([("MULTI",), ("SET", a, n), ("SET", b, n), ("EXEC",)])

    def work(c, me):
        if me < 4:
            return write(c, me)
        pair = c.ask("MGET", a, b)
        assert pair[0] == pair[1], pair
        pair = c.pipeline([("MULTI",), ("GET", b), ("GET", a), ("EXEC",)])[3]
        assert pair[0] == pair[1], pair
        seen.append(pair[0])

    with puerta.client() as c:
        c.ask("DEL", a, b)
    w = Workers(puerta, 10, work)
    w.wait(3000)
    w.finish()
    assert len(set(seen)) > 20


def test_counters_are_exact_while_their_slot_moves_to_and_fro(cluster, puerta):
    key = "{mv}count"
    slot = slot_of(key)
    with puerta.client() as c:
        c.ask("DEL", key, "{mv}i0", "{mv}i1")
        for i in range(50):
            c.ask("SET", "{mv}filler%d" % i, "x")
        counting, increments = Counting(key), Increments("mv")
        watchers = Workers(puerta, 4, counting.work)
        others = Workers(puerta, 4, increments.work)
        home = cluster.owner(slot)
        for i in range(10 if LONG else 4):
            watchers.wait(20), others.wait(20)
            source = cluster.owner(slot)
            cluster.migrate_slot(slot, source, next(m for m in cluster.masters if m is not source))
        if cluster.owner(slot) is not home:
            cluster.migrate_slot(slot, cluster.owner(slot), home)
        watchers.wait(20), others.wait(20)
        watchers.finish(), others.finish()
        assert int(c.ask("GET", key)) == counting.done > 0
        assert [int(x) for x in c.ask("MGET", *increments.keys)] == [increments.done] * 2


# ------------------------------------------------------------------ a slot that is half moved


def test_a_transaction_on_a_half_moved_slot_waits_and_runs_once(cluster, puerta):
    a, b = "{hm}a", "{hm}b"
    with puerta.client() as c, puerta.client() as d:
        for keys in ((a,), (a, b)):
            c.ask("DEL", a, b)
            c.ask("SET", b, "10")
            with Move(cluster, slot_of(a)) as move:
                before = info(puerta)["redirect_tryagain"]
                c.send_raw(b"".join(encode(*k) for k in [("MULTI",)] + [("INCR", k) for k in keys] + [("EXEC",), ("GET", a)]))
                wait_for("the transaction to be turned away", lambda: info(puerta)["redirect_tryagain"] > before)
                assert d.ask("GET", b) == b"10" and d.ask("GET", a) is None
                move.finish()
                answers = [c.read() for _ in range(len(keys) + 3)]
                assert answers == [b"OK"] + [b"QUEUED"] * len(keys) + [[1, 11][:len(keys)], b"1"]


def test_the_wait_for_a_half_moved_slot_ends(cluster):
    with Puerta(cluster, request_timeout="500ms") as p, p.client() as c, Move(cluster, slot_of("{hn}a")):
        answers = said(c.pipeline([("MULTI",), ("INCR", "{hn}a"), ("EXEC",), ("PING",)]))
        assert answers[2].startswith("-TRYAGAIN not executed: slot %d was still being moved" % slot_of("{hn}a")) and answers[3] == b"PONG"


def test_what_is_watched_is_touched_when_its_slot_moves(cluster, puerta):
    key = "{wm}a"
    with puerta.client() as c:
        c.ask("SET", key, "1")
        with Move(cluster, slot_of(key)) as move:
            assert c.ask("WATCH", key) == b"OK"
            move.finish()
            assert said(c.pipeline([("MULTI",), ("INCR", key), ("EXEC",), ("GET", key)]))[2:] == [None, b"1"]
            assert said(c.pipeline([("WATCH", key), ("GET", key), ("MULTI",), ("INCR", key), ("EXEC",)]))[4] == [2]
            assert c.ask("WATCH", key) == b"OK"
        assert said(c.pipeline([("WATCH", key), ("MULTI",), ("INCR", key), ("EXEC",), ("GET", key)])) == [b"OK", b"OK", b"QUEUED", None, b"2"]
        # One that has left already is watched where it is.
        with Move(cluster, slot_of(key)) as move:
            cluster.migrate_keys(move.slot, move.source, move.target)
            assert c.ask("WATCH", key) == b"OK"
            assert said(c.pipeline([("MULTI",), ("INCR", key), ("EXEC",), ("GET", key)]))[2:] == [None, b"2"]
        assert said(c.pipeline([("WATCH", key), ("MULTI",), ("INCR", key), ("EXEC",)]))[3] == [3]


# ------------------------------------------------------------------ masters that die, freeze, hand over


def test_nothing_runs_twice_over_failovers(own_cluster):
    key = own_cluster.key_on(0, "n")
    tag = key[1:key.index("}")]
    with Puerta(own_cluster, failover_wait="20s", lease_wait="20s", request_timeout="10s") as p, p.client() as c:
        counting, increments = Counting("{%s}w" % tag, lenient=True), Increments(tag, lenient=True)
        watchers, others = Workers(p, 3, counting.work), Workers(p, 3, increments.work)
        watchers.wait(100), others.wait(100)
        master, replica = own_cluster.masters[0], own_cluster.replicas[0][0]

        # A planned one: nothing is lost, nothing is unknown.
        replica.ask("CLUSTER", "FAILOVER")
        own_cluster.wait_promoted(replica)
        own_cluster.wait_whole()
        watchers.wait(30), others.wait(30)
        planned = (counting.unknown, increments.unknown)

        # Killed: what it had not told its replica is lost; so it is told first.
        master, replica = replica, master
        own_cluster.pause_writes_and_sync(master, replica)
        master.kill()
        own_cluster.wait_promoted(replica)
        watchers.wait(30), others.wait(30)
        watchers.finish(), others.finish()
        values = [int(x) for x in c.ask("MGET", *increments.keys)]
        assert values[0] == values[1]
        assert increments.done <= values[0] <= increments.done + increments.unknown
        assert counting.done <= int(c.ask("GET", counting.key)) <= counting.done + counting.unknown
        assert planned == (0, 0)
        assert info(p)["transactions"] > 300


def test_a_frozen_master(own_cluster):
    """What is on its way there is unknown, what is not waits for the replica, and a WATCH on it is gone."""
    key = own_cluster.key_on(0, "n")
    tag = key[1:key.index("}")]
    with Puerta(own_cluster, failover_wait="20s", lease_wait="20s", request_timeout="15s", suspect_after="300ms") as p, \
            p.client(timeout=40) as c, p.client(timeout=40) as d, p.client(timeout=40) as e:
        master, replica = own_cluster.masters[0], own_cluster.replicas[0][0]
        c.ask("SET", key, "5")
        d.ask("WATCH", key)
        e.ask("WATCH", key)
        wait_for("the replica to have it", lambda: replica.ask("CLUSTER", "COUNTKEYSINSLOT", slot_of(key)) == 1)
        master.freeze()
        try:
            c.send_raw(b"".join(encode(*k) for k in [("MULTI",), ("INCR", key), ("EXEC",)]))
            e.send_raw(b"".join(encode(*k) for k in [("MULTI",), ("GET", key), ("EXEC",)]))
            own_cluster.wait_promoted(replica)
            answers = said([c.read() for _ in range(3)])
            assert answers[:2] == [b"OK", b"QUEUED"] and answers[2].startswith("-ERR outcome unknown"), answers
            assert [e.read() for _ in range(3)] == [b"OK", b"QUEUED", None]
            assert said(c.pipeline([("MULTI",), ("INCR", key), ("EXEC",)]))[2] == [6]
            assert said(d.pipeline([("MULTI",), ("INCR", key), ("EXEC",)]))[2] is None
            assert said(d.pipeline([("WATCH", key), ("MULTI",), ("INCR", key), ("EXEC",)]))[3] == [7]
        finally:
            master.thaw()


@pytest.mark.parametrize("end", ["frozen", "killed"])
def test_a_transaction_of_which_the_node_had_only_a_part_runs_once(own_cluster, end):
    key = own_cluster.key_on(0, "n")
    tag = key[:key.index("}") + 1]
    with Puerta(own_cluster, failover_wait="20s", request_timeout="20s", suspect_after="500ms", transaction_limit="8m", retain_bytes="256k", send_buffer="64k",
                chunks="2048", chunk_size="16k") as p, p.client(timeout=40) as c, p.client(timeout=40) as d:
        master, replica = own_cluster.masters[0], own_cluster.replicas[0][0]
        c.ask("SET", key, "5")
        wait_for("the replica to have it", lambda: replica.ask("CLUSTER", "COUNTKEYSINSLOT", slot_of(key)) == 1)
        commands = [("MULTI",), ("INCR", key)] + [("SET", tag + "big", "x" * 200000)] * 35 + [("INCR", key), ("EXEC",)]
        c.pipeline(commands[:-1])
        master.freeze()
        try:
            c.send("EXEC")
            wait_for("it to be on its way", lambda: info(p)["transactions"] >= 1)
            if end == "killed":
                time.sleep(0.1)
                master.kill()
            own_cluster.wait_promoted(replica)
            assert c.read() == [6] + [b"OK"] * 35 + [7]
            assert d.ask("GET", key) == b"7"
        finally:
            if end == "frozen":
                master.thaw()


def test_a_killed_master_without_a_replica(fresh_cluster):
    """WATCH and transactions to a node that is away wait for failover_wait, and say so; others go on."""
    cluster = fresh_cluster
    key, other = cluster.key_on(0), cluster.key_on(1)
    with Puerta(cluster, failover_wait="1s", lease_wait="200ms") as p, p.client() as c, p.client() as d:
        assert c.ask("WATCH", key) == b"OK"
        cluster.masters[0].kill()
        answers = said(c.pipeline([("MULTI",), ("INCR", key), ("EXEC",), ("PING",)]))
        assert answers == [b"OK", b"QUEUED", None, b"PONG"]
        answers = said(c.pipeline([("WATCH", key), ("MULTI",), ("INCR", key), ("EXEC",), ("PING",)]))
        assert answers[0].startswith("-CLUSTERDOWN not executed: ") and answers[3].startswith("-CLUSTERDOWN not executed: "), answers
        assert said(d.pipeline([("WATCH", other), ("MULTI",), ("INCR", other), ("EXEC",), ("DEL", other)]))[3] == [1]
        cluster.masters[0].start()
        cluster.wait_whole()
        assert said(c.pipeline([("WATCH", key), ("MULTI",), ("INCR", key), ("EXEC",)]))[3] == [1]


@pytest.fixture
def fresh_cluster():
    with RedisCluster(masters=3, replicas=0, node_timeout_ms=1000, cluster_require_full_coverage="no") as c:
        yield c


# ------------------------------------------------------------------ leases, clients that vanish


def test_leases_go_back_whenever_a_client_vanishes(cluster):
    key = "{van}k"
    steps = [[("MULTI",)], [("MULTI",), ("INCR", key)], [("MULTI",), ("INCR", key), ("EXEC",)], [("WATCH", key)],
             [("WATCH", key), ("MULTI",)], [("WATCH", key), ("MULTI",), ("INCR", key)], [("WATCH", key), ("MULTI",), ("INCR", key), ("EXEC",)],
             [("WATCH", key), ("UNWATCH",)], [("WATCH", key), ("WATCH", key)], [("WATCH", key), ("QUIT",)], [("WATCH", key), ("RESET",)],
             [("MULTI",), ("FLUSHALL",), ("CONFIG", "SET", "slowlog-max-len", "60"), ("EXEC",)]]
    with Puerta(cluster, max_watching=2) as p, p.client() as c:
        for reset in (False, True):
            for heard in (False, True):
                for step in steps:
                    d = p.client()
                    d.send_raw(b"".join(encode(*k) for k in step))
                    if heard:
                        for _ in step:
                            d.read()
                    if reset:
                        d.sock.setsockopt(harness.socket.SOL_SOCKET, harness.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    d.close()
                    assert said(c.pipeline([("WATCH", key), ("GET", key), ("MULTI",), ("SET", key, "1"), ("EXEC",)]))[4] in ([b"OK"], None)
        wait_for("all but one client to go", lambda: info(p)["connected_clients"] == 2)
        with p.client() as d, p.client() as e:
            assert d.ask("WATCH", key) == b"OK" and e.ask("WATCH", key) == b"OK"
            assert said(d.pipeline([("MULTI",), ("INCR", "{van}x"), ("EXEC",)]))[2] is not None
            assert said(e.pipeline([("MULTI",), ("INCR", "{van}x"), ("EXEC",)]))[2] is not None
        for m in cluster.masters:
            assert m.ask("CONFIG", "GET", "slowlog-max-len")[1] == b"60"


def test_answers_that_come_too_late(cluster):
    """A WATCH and an EXEC whose answers are late: their clients hear so, and whoever gets the lease next has nothing of them."""
    key = cluster.key_on(0, "late")
    node = cluster.masters[0]
    with Puerta(cluster, max_watching=1, request_timeout="300ms", lease_wait="5s", probe_timeout="5s", suspect_after="5s") as p, \
            p.client() as a, p.client() as b, p.client() as other:
        other.ask("DEL", key)
        for touched in (key, key + "x"):
            node.ask("CLIENT", "PAUSE", "450", "ALL")
            assert said(a.try_ask("WATCH", key)).startswith("-ERR no answer from ")
            assert b.ask("WATCH", key + "x") == b"OK"
            other.ask("INCR", touched)
            assert said(b.pipeline([("MULTI",), ("PING",), ("EXEC",)]))[2] == ([b"PONG"] if touched == key else None)
        other.ask("SET", key, "1")
        assert b.ask("WATCH", key) == b"OK"
        node.ask("CLIENT", "PAUSE", "2000", "ALL")
        assert said(b.pipeline([("MULTI",), ("INCR", key), ("EXEC",)]))[2].startswith("-ERR outcome unknown: no answer from ")
        assert said(a.pipeline([("MULTI",), ("INCR", key), ("EXEC",)]))[2].startswith("-ERR outcome unknown: no answer from ")
        value = wait_for("the node to answer again", lambda: (lambda r: None if isinstance(r, RespError) else r)(other.try_ask("GET", key)))
        assert 1 <= int(value) <= 3  # a connection that was silent for request_timeout is closed, and what was sent on it may not run
        for c in (a, b, a):
            assert said(c.pipeline([("WATCH", key), ("MULTI",), ("GET", key), ("EXEC",)]))[3] == [value]


def test_a_stop_does_not_wait_for_open_transactions(cluster):
    p = Puerta(cluster, stop_timeout="20s")
    with p.client() as a, p.client() as b:
        assert a.pipeline([("MULTI",), ("SET", "{stop}a", "1")])[1] == b"QUEUED" and b.ask("WATCH", "{stop}a") == b"OK"
        begun = time.monotonic()
        p.stop()
        assert time.monotonic() - begun < 5 * harness.SLOW


def heard(port):
    try:
        RespClient(port).close()
        return True
    except OSError:
        return False


def test_a_stranger_has_no_transactions(cluster):
    with Puerta(cluster, password="pw", wait=False) as p:
        wait_for("puerta to listen", lambda: heard(p.port))
        c = p.client()
        answers = said(c.pipeline([("MULTI",), ("SET", A, "1"), ("EXEC",), ("WATCH", A), ("DISCARD",), ("AUTH", "pw"), ("MULTI",), ("EXEC",)]))
        assert answers == ["-NOAUTH Authentication required."] * 5 + [b"OK", b"OK", []]


def test_an_idle_watcher_loses_its_lease_and_a_busy_one_does_not(cluster):
    with Puerta(cluster, max_watching=2, lease_wait="400ms") as p, p.client() as a, p.client() as b, p.client() as c:
        for x in (a, b):
            assert x.ask("WATCH", "{id}k") == b"OK"
        assert said(c.try_ask("WATCH", "{id}k")) == \
            "-ERR not executed: no connection became free for WATCH within 400 ms (max_watching, lease_wait)"
        end = time.monotonic() + 1.3
        while time.monotonic() < end:
            b.ask("GET", "{id}k")
            time.sleep(0.02)
        c.send("WATCH", "{id}k")  # a has been silent for long enough, b has not
        assert c.read() == b"OK"
        assert said(b.pipeline([("MULTI",), ("GET", "{id}n"), ("EXEC",)]))[2] == [None]
        assert said(c.pipeline([("MULTI",), ("GET", "{id}n"), ("EXEC",)]))[2] == [None]
        with p.client() as d:
            line = next(x for x in d.ask("CLIENT", "LIST").splitlines() if b" flags=d " in x)
            assert line.startswith(b"id=%d " % a.ask("CLIENT", "ID"))
        assert said(a.pipeline([("MULTI",), ("GET", "{id}n"), ("EXEC",)]))[2] is None
        assert said(a.pipeline([("WATCH", "{id}n"), ("MULTI",), ("GET", "{id}n"), ("EXEC",)]))[3] == [None]


def test_who_waits_to_watch_gets_the_lease_of_one_that_becomes_idle(cluster):
    with Puerta(cluster, max_watching=1, lease_wait="10s") as p, p.client() as a, p.client() as b, p.client() as other:
        assert a.ask("WATCH", "{id}k") == b"OK"
        b.send("WATCH", "{id}k")
        for _ in range(20):
            assert other.ask("INCR", "{id}o") and other.ask("DEL", "{id}o")
        assert b.read(4) == b"OK"
        assert said(a.pipeline([("MULTI",), ("PING",), ("EXEC",)]))[2] is None


# ------------------------------------------------------------------ long answers, small tables


@pytest.mark.parametrize("watch", [False, True], ids=["shared", "watched"])
@pytest.mark.parametrize("write", [False, True], ids=["reading", "writing"])
def test_long_answers_of_exec_to_slow_readers(cluster, puerta, other, watch, write):
    key = "{long}k"
    value = b"0123456789abcdef" * 20000
    other.ask("SET", key, value)
    with puerta.client(rcvbuf=4096) as c:
        commands = [("WATCH", key)] * watch + [("MULTI",)] + [("GET", key)] * 6 + [("INCR", "{long}n")] * write + [("EXEC",), ("GET", "{long}n"), ("PING",)]
        other.ask("SET", "{long}n", "0")
        c.send_raw(b"".join(encode(*k) for k in commands))
        other.ask("PING")
        time.sleep(0.3)
        answers = [c.read() for _ in commands]
        assert answers[-3] == [value] * 6 + [1] * write and answers[-2:] == [b"%d" % write, b"PONG"]
    assert other.ask("GET", "{long}n") == b"%d" % write


@pytest.mark.parametrize("options", [{"chunks": 192, "chunk_size": "1k", "retain_bytes": "4k", "transaction_limit": "16k", "upstream_buffer": "16k",
                                      "shared_reply_limit": "4k", "client_window": "64k"},
                                     {"max_requests": 256}], ids=["few chunks", "few records"])
def test_small_tables(cluster, options):
    """Many clients with long blocks; some never end theirs. All others are served, or hear why not; none hangs."""
    with Puerta(cluster, **options) as p:
        idle = [p.client() for _ in range(30)]
        for i, c in enumerate(idle):
            c.send_raw(b"".join(encode(*k) for k in [("MULTI",)] + [("SET", "{sm%d}x" % i, "v" * 1000)] * 8))
        ran = []

        def work(c, me):
            key = "{sm%d}k" % me
            try:
                all_answers = c.pipeline([("MULTI",), ("SET", key, "z" * 900), ("APPEND", key, "y" * 900), ("GET", key), ("EXEC",),
                                          ("STRLEN", key)] * 5)
            except (EOFError, OSError):
                c.__init__(p.port)
                return
            for at in range(0, len(all_answers), 6):
                answers = all_answers[at:at + 6]
                bad = [said(r) for r in answers if isinstance(r, RespError)]
                assert all(re.search("not executed|EXECABORT", r) for r in bad), bad
                if isinstance(answers[4], list):
                    assert answers[4] == [b"OK", 1800, b"z" * 900 + b"y" * 900] and answers[5] == 1800 or bad, answers
                    ran.append(me)

        w = Workers(p, 12, work)
        wait_for("transactions of all", lambda: w.failures or (len(ran) > 300 and len(set(ran)) == 12), 60)
        w.finish()
        for c in idle:
            c.close()
        with p.client() as c:
            assert said(c.pipeline([("MULTI",), ("PING",), ("EXEC",)]))[2] == [b"PONG"]


def test_a_node_that_refuses_multi_is_told_of(cluster):
    key = cluster.key_on(0, "acl")
    for m in cluster.masters:
        m.ask("ACL", "SETUSER", "half", "on", ">pw", "~*", "&*", "+@all", "-multi")
    try:
        with Puerta(cluster, upstream_user="half", upstream_password="pw") as p, p.client() as c:
            c.ask("DEL", key)
            answers = said(c.pipeline([("MULTI",), ("INCR", key), ("EXEC",), ("GET", key)]))
            assert answers[2].startswith("-ERR outcome unknown: the node refused MULTI, and its commands ran one by one: NOPERM"), answers
            assert answers[3] == b"1"
    finally:
        for m in cluster.masters:
            m.ask("ACL", "DELUSER", "half")


def test_a_script_cannot_name_a_node_where_multi_was_refused(cluster):
    """Its error stands among the answers ahead of EXEC's then, and would be taken for a redirect: to whoever hears our password."""
    key = cluster.key_on(0, "acl")
    for m in cluster.masters:
        m.ask("ACL", "SETUSER", "half", "on", ">pw", "~*", "&*", "+@all", "-multi")
    try:
        with socket.create_server(("127.0.0.1", 0)) as stranger, Puerta(cluster, upstream_user="half", upstream_password="pw") as p, \
                p.client() as c:
            stranger.settimeout(0.3)
            words = "MOVED %d 127.0.0.1:%d" % (slot_of(key), stranger.getsockname()[1])
            c.pipeline([("MULTI",), ("EVAL", "return redis.error_reply(ARGV[1])", 1, key, words), ("EXEC",)])
            with pytest.raises(TimeoutError):
                stranger.accept()
            assert c.try_ask("GET", key) in (None, b"1")
    finally:
        for m in cluster.masters:
            m.ask("ACL", "DELUSER", "half")


class Blockers:
    """Clients that block on one list, more than there are connections for: those beyond hear an error after lease_wait and ask again."""

    refusal = "ERR not executed: no connection became free for a blocking command"

    def __init__(self, p, count, key):
        self.key, self.refused, self.worst = key, 0, 0.0
        self.clients = {c.sock: c for c in (p.client() for _ in range(count))}
        for c in self.clients.values():
            c.send("BLPOP", key, 0)

    def turn(self, pusher, value):
        """One element is pushed; returns when one of them has popped it. Each that has heard something asks again."""
        begun, popped = time.monotonic(), []
        assert pusher.ask("RPUSH", self.key, value) == 1
        while not popped:
            ready = select.select(list(self.clients), [], [], 10 * harness.SLOW)[0]
            assert ready, "nobody pops what was pushed"
            for c in (self.clients[s] for s in ready):
                popped += self._heard(c)
                c.send("BLPOP", self.key, 0)
        assert popped == [value]
        self.worst = max(self.worst, time.monotonic() - begun)

    def _heard(self, c):
        reply = c.read()
        if isinstance(reply, RespError):
            assert reply.text.startswith(self.refusal), reply.text
            self.refused += 1
            return []
        return [reply[1]]


def test_transactions_and_blocked_clients_side_by_side_need_no_new_connections(fresh_cluster):
    """200 transactions a second, plain and watched, and 20 blocking pops. All that WATCH can have is taken by others, who watch and do nothing;
    all that may block does, and more want to. Neither waits for the other, and no node sees a new connection."""
    cluster = fresh_cluster  # nodes keep the connections of a MIGRATE for a while
    seconds, watching, blocking = 60 if LONG else 4, 20, 20
    keys = [cluster.key_on(i, "rate") for i in range(3)]
    # Of the connections to WATCH on, three are left: one to each node.
    with Puerta(cluster, max_watching=watching + 3, max_blocked=blocking, lease_wait="200ms") as p:
        watchers = [p.client() for _ in range(watching)]
        for i, c in enumerate(watchers):
            assert c.ask("WATCH", "{cw%d}k" % i) == b"OK"
        clients, pusher = [p.client() for _ in range(10)], p.client()
        for k in keys:
            clients[0].pipeline([("WATCH", k), ("MULTI",), ("GET", k), ("EXEC",)])
        blockers = Blockers(p, 2 * blocking, cluster.key_on(0, "queue"))
        wait_for("all to block that may", lambda: info(p)["blocked_clients"] >= blocking)
        worst, count, begun = 0.0, 0, None
        start = time.monotonic()
        for tick in range(20 * seconds):
            if tick == 20:
                begun = connections(cluster), accepted(cluster)
            for i, c in enumerate(clients):
                k = keys[(i + tick) % 3]
                at = time.monotonic()
                answers = c.pipeline([("WATCH", k)] * (i % 2) + [("MULTI",), ("INCR", k), ("EXEC",)])
                worst = max(worst, time.monotonic() - at)
                assert isinstance(answers[-1], list), answers
                count += 1
            blockers.turn(pusher, b"%d" % tick)
            time.sleep(max(0.0, start + 0.05 * (tick + 1) - time.monotonic()))
        took = time.monotonic() - start
        print("%d transactions in %.1f s, the slowest %.0f ms; %d pops, the slowest %.0f ms, %d refused; connections %d" % (
            count, took, 1000 * worst, tick + 1, 1000 * blockers.worst, blockers.refused, begun[0]))
        assert took < seconds * 1.05 * harness.SLOW, "fewer than 200 a second"
        assert (connections(cluster), accepted(cluster)) == (begun[0], begun[1] + 2 * len(cluster.masters)), "but for the questions themselves"
        assert worst < 0.5 * harness.SLOW and blockers.worst < 0.5 * harness.SLOW
        assert blockers.refused >= 4 * seconds, "the connections to block on were not all taken"
        with p.client() as c:
            assert sum(int(c.ask("GET", k)) for k in keys) == count
        for c in watchers:
            assert said(c.pipeline([("MULTI",), ("PING",), ("EXEC",)]))[2] == [b"PONG"]


# ------------------------------------------------------------------ as a client's library does it


def test_redis_py(puerta):
    import redis
    r = redis.Redis(port=puerta.port, protocol=2, decode_responses=True)
    r.delete("{py}n", "{py}l")
    with r.pipeline() as pipe:
        assert pipe.set("{py}n", 5).incr("{py}n").lpush("{py}l", "a").execute() == [True, 6, 1]
    assert r.transaction(lambda pipe: (pipe.multi(), pipe.incr("{py}n")), "{py}n") == [7]
    tries = []

    def twice(pipe):
        tries.append(1)
        value = int(pipe.get("{py}n"))
        if len(tries) == 1:
            r.set("{py}n", 20)
        pipe.multi()
        pipe.set("{py}n", value * 2)

    assert r.transaction(twice, "{py}n") == [True] and len(tries) == 2 and r.get("{py}n") == "40"
    with pytest.raises(redis.exceptions.ResponseError, match="hash to the same slot"):
        with r.pipeline() as pipe:
            pipe.set("{a}1", 1).set("{b}1", 1).execute()
    with r.pipeline() as pipe:
        pipe.watch("{py}n")
        pipe.reset()  # UNWATCH
        assert r.incr("{py}n") == 41
    add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    r.script_flush()
    with r.pipeline() as pipe:
        add(keys=["{py}n"], args=[4], client=pipe)
        assert pipe.execute() == [45]
    r.close()


def test_what_has_not_reached_all_nodes_is_logged():
    with RedisCluster(masters=3, replicas=0, node_timeout_ms=60000) as cluster, Puerta(cluster, failover_wait="1s") as p, p.client() as c:
        key = cluster.key_on(0)
        assert c.ask("MULTI") == b"OK" and c.ask("SET", key, "x") == c.ask("FLUSHALL") == b"QUEUED" and c.ask("EXEC") == [b"OK", b"OK"]
        assert "has not run on all nodes" not in p.log_text()
        cluster.masters[2].kill()
        assert c.ask("MULTI") == b"OK" and c.ask("SET", key, "x") == c.ask("FLUSHALL") == b"QUEUED" and c.ask("EXEC") == [b"OK", b"OK"]
        wait_for("the log to tell", lambda: "a command of a transaction has not run on all nodes" in p.log_text())
