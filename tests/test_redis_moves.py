"""Slots that move and nodes that die: what a client sees through Puerta meanwhile, which is nothing but the named errors."""
import os
import re
import statistics
import subprocess
import threading
import time

import pytest

import harness
from harness import LONG, Load, Puerta, RedisCluster, RespClient, RespError, encode, slot_of, tag_for_slot, wait_for

# What may reach a client when a node dies or a request is too long to be kept: each says whether it was executed.
NAMED = re.compile(r"^(ERR outcome unknown|ERR no answer: |TRYAGAIN not executed|CLUSTERDOWN not executed|ERR not executed|ERR the node was lost in the middle of the answer)")
RUNS = 10 if LONG else 3


def only_named(result):
    odd = {text: n for text, n in result.table.items() if not NAMED.match(text)}
    assert not odd, "errors without a name: %r" % odd
    return result


class Work:
    """A client in a thread that pipelines on the keys of one slot (and others) and checks every answer, until it is stopped."""

    def __init__(self, puerta, slot, keys=40):
        self.names = ["{%s}:w%d" % (tag_for_slot(slot), i) for i in range(keys)]
        self.others = ["w:other:%d" % i for i in range(keys)]
        self.client = puerta.client(timeout=30)
        self.client.ask("DEL", *self.names)
        self.client.ask("DEL", *self.others)
        self.rounds = 0
        self.failure = None
        self.stopping = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            while not self.stopping:
                self._round(self.rounds + 1)
                self.rounds += 1
        except BaseException as e:  # noqa: BLE001 - reported by finish()
            self.failure = e

    def _round(self, n):
        commands, wanted = [], []
        for name, other in zip(self.names, self.others):
            commands += [("INCR", name), ("GET", name), ("APPEND", other, "x"), ("INCR", name), ("STRLEN", other)]
            wanted += [2 * n - 1, b"%d" % (2 * n - 1), n, 2 * n, n]
        # Same-slot commands with several keys come last: they may have to wait for the slot (TRYAGAIN), and with them all behind.
        commands += [("MGET", *self.names), ("EXISTS", *self.names), ("MGET", self.names[0], self.others[0], "w:none", self.names[1])]
        wanted += [[b"%d" % (2 * n)] * len(self.names), len(self.names), [b"%d" % (2 * n), b"x" * n, None, b"%d" % (2 * n)]]
        for command, got, want in zip(commands, self.client.pipeline(commands), wanted):
            assert got == want, "%r: got %.200r, not %.200r" % (command[:3], got, want)

    def wait_rounds(self, more):
        goal = self.rounds + more
        wait_for("%d more rounds of the client" % more, lambda: self.failure or self.rounds >= goal)
        if self.failure:
            raise self.failure

    def finish(self):
        self.stopping = True
        self.thread.join()
        self.client.close()
        if self.failure:
            raise self.failure


def keys_in(slot, count, name="k"):
    return ["{%s}:%s%d" % (tag_for_slot(slot), name, i) for i in range(count)]


@pytest.fixture
def moving(cluster):
    """A slot of the first master that goes back to it after the test, whatever happened."""
    slot = 100
    yield slot, cluster.masters[0], cluster.masters[1]
    owner = cluster.owner(slot)
    for node in cluster.masters:
        node.ask("CLUSTER", "SETSLOT", slot, "STABLE")
    if owner is not cluster.masters[0]:
        cluster.migrate_slot(slot, owner, cluster.masters[0])
    cluster.flush()


# ---- slots by hand ----

def test_a_slot_moves_step_by_step_under_pipelines(cluster, puerta, moving):
    slot, source, target = moving
    work = Work(puerta, slot)
    try:
        for a, b in ((source, target), (target, source)):
            work.wait_rounds(3)
            cluster.migrate_begin(slot, a, b)
            work.wait_rounds(3)
            # All at once: a half-moved slot makes the several-key commands wait, which the next test looks at.
            cluster.migrate_keys(slot, a, b)
            work.wait_rounds(3)
            cluster.migrate_end(slot, a, b)
            work.wait_rounds(3)
    finally:
        work.finish()


def test_single_keys_of_a_half_moved_slot_are_served_on_both_sides(cluster, puerta, moving):
    slot, source, target = moving
    keys = keys_in(slot, 40)
    with puerta.client() as c:
        c.pipeline([("SET", k, "0") for k in keys])
        cluster.migrate_begin(slot, source, target)
        for moved in (0, 10, 20, 30, 40):
            if moved:
                assert cluster.migrate_keys(slot, source, target, 10) == 10
            for n in range(3):
                before = [int(x) for x in c.pipeline([("GET", k) for k in keys])]
                replies = c.pipeline([x for k in keys for x in (("INCR", k), ("GET", k), ("DECR", k), ("INCR", k), ("TYPE", k))])
                assert replies == [x for v in before for x in (v + 1, b"%d" % (v + 1), v, v + 1, b"string")]
        # New keys of the slot are made on the importing side.
        fresh = keys_in(slot, 20, "fresh")
        assert c.pipeline([("SETNX", k, "1") for k in fresh] + [("GET", k) for k in fresh]) == [1] * 20 + [b"1"] * 20
        cluster.migrate_end(slot, source, target)
        assert c.pipeline([("GET", k) for k in keys + fresh]) == [b"15"] * 40 + [b"1"] * 20
        assert target.ask("GET", keys[0]) == b"15"


def test_several_keys_of_a_half_moved_slot_wait_for_it(cluster, puerta, moving, other):
    slot, source, target = moving
    keys = keys_in(slot, 10)
    with puerta.client() as c, puerta.client() as d:
        c.pipeline([("SET", k, "v%d" % i) for i, k in enumerate(keys)])
        cluster.migrate_begin(slot, source, target)
        assert cluster.migrate_keys(slot, source, target, 5) == 5
        with RespClient(target.port) as real:
            replies = real.pipeline([("ASKING",), ("MGET", *keys)])
            assert replies[1].text.startswith("TRYAGAIN"), "the slot is not half moved"
        c.send("MGET", *keys)
        d.send_raw(encode("MSET", *[x for k in keys for x in (k, "new")]) + encode("GET", keys[0]) + encode("SET", keys[0], "newer")
                   + encode("GET", "elsewhere") + encode("MGET", *keys))
        # While they wait, others on other slots, and single keys of this slot, are served.
        for n in range(50):
            assert other.ask("SET", "tryagain:%d" % n, n) == b"OK"
        assert c.silent(0.3) and d.silent(0)
        while cluster.migrate_keys(slot, source, target, 5):
            pass
        first = c.read()
        assert first in ([b"v%d" % i for i in range(10)], [b"new"] * 10, [b"newer"] + [b"new"] * 9)
        assert [d.read() for _ in range(5)] == [b"OK", b"new", b"OK", None, [b"newer"] + [b"new"] * 9]
        cluster.migrate_end(slot, source, target)
        assert c.ask("MGET", *keys) == [b"newer"] + [b"new"] * 9


def test_a_half_moved_slot_that_stays_gives_a_named_error_at_the_deadline(cluster, moving):
    slot, source, target = moving
    keys = keys_in(slot, 10)
    with Puerta(cluster, request_timeout="1s") as p, p.client() as c:
        c.pipeline([("SET", k, "old") for k in keys])
        cluster.migrate_begin(slot, source, target)
        assert cluster.migrate_keys(slot, source, target, 5) == 5
        begun = time.monotonic()
        replies = c.pipeline([("MSET", *[x for k in keys for x in (k, "new")]), ("PING",), ("GET", keys[0]), ("GET", keys[9])])
        assert isinstance(replies[0], RespError) and replies[0].text.startswith("TRYAGAIN not executed"), replies
        assert replies[1:] == [b"PONG", b"old", b"old"]
        assert time.monotonic() - begun >= 0.9
        cluster.migrate_keys(slot, source, target)
        cluster.migrate_end(slot, source, target)
        assert c.ask("MGET", *keys) == [b"old"] * 10


def test_a_slot_that_moved_while_nobody_asked(cluster, puerta, moving):
    slot, source, target = moving
    keys = keys_in(slot, 64)
    with puerta.client() as c:
        c.pipeline([("SET", k, "1") for k in keys])
        cluster.migrate_slot(slot, source, target)
        # One pipeline that all runs into MOVED: appends must keep their order.
        replies = c.pipeline([x for k in keys for x in (("APPEND", k, "2"), ("APPEND", k, "3"), ("GET", k))])
        assert replies == [2, 3, b"123"] * len(keys)


def test_several_slots_move_under_splits(cluster, puerta):
    source, target = cluster.masters[0], cluster.masters[2]
    slots = list(range(200, 212))
    keys = ["{%s}:s%d" % (tag_for_slot(s), i) for s in slots for i in range(3)]
    stop = []
    failures = []

    def split():
        try:
            with puerta.client() as c:
                n = 0
                while not stop:
                    n += 1
                    value = b"%d" % n
                    got = c.pipeline([("MSET", *[x for k in keys for x in (k, value)]), ("MGET", *keys), ("EXISTS", *keys), ("MGET", *keys[::-1])])
                    if got != [b"OK", [value] * len(keys), len(keys), [value] * len(keys)]:
                        failures.append(got)
                        return
        except BaseException as e:  # noqa: BLE001 - asserted below
            failures.append(e)

    thread = threading.Thread(target=split)
    thread.start()
    try:
        for s in slots:
            cluster.migrate_slot(s, source, target)
    finally:
        stop.append(1)
        thread.join()
        for s in slots:
            cluster.migrate_slot(s, target, source)
        cluster.flush()
    assert not failures, failures[0]


def test_requests_too_long_to_keep_run_once_or_say_so(cluster, moving):
    slot, source, target = moving
    keys = keys_in(slot, 4, "large")
    with Puerta(cluster, retain_bytes="64k") as p, p.client() as c:
        held = {}
        refused = 0
        for n in range(12):
            a, b = (source, target) if n % 2 == 0 else (target, source)
            moves = []
            mover = threading.Thread(target=lambda: moves.append(cluster.migrate_slot(slot, a, b)))
            mover.start()
            for k in keys:
                value = os.urandom(300000)
                reply = c.try_ask("SET", k, value)
                if reply == b"OK":
                    held[k] = value
                else:
                    assert reply.text.startswith("TRYAGAIN not executed"), reply
                    refused += 1
                assert c.ask("GET", k) == held.get(k), "after %r" % reply
            mover.join()
            assert moves, "the slot's move failed"
        print("%d of 48 large SETs were refused" % refused)
        assert held


# ---- resharding under load ----

def reshard_under(load_options, puerta_options, check):
    slots = 2000 if LONG else 200
    with RedisCluster(masters=3, replicas=0) as cluster, Puerta(cluster, **puerta_options) as p:
        with Load(p.port, "-n", 1000000000, "-c", 50, "-m", 500, *load_options) as load:
            load.wait_answers(20000)
            before = len(cluster.slots_of(cluster.masters[1]))
            begun = time.monotonic()
            cluster.reshard(slots, cluster.masters[0], cluster.masters[1])
            print("%d slots in %.1f s" % (slots, time.monotonic() - begun))
            assert len(cluster.slots_of(cluster.masters[1])) == before + slots
            load.wait_answers(load.answers() + 5000)
            result = load.finish(stop=True, timeout=300)
        print(result.text[-400:])
        check(result)


def test_reshard_under_load_shows_no_error():
    # No request of this load is longer than retain_bytes: 16 values of at most 128 KB.
    reshard_under(["-b", 131072], {"retain_bytes": "3m"}, lambda result: result.check())


def test_reshard_under_load_with_large_values_shows_only_the_named_error():
    reshard_under(["-b", 8 << 20, "-e"], {"chunks": 8192, "merge_limit": "100m"}, lambda result: only_named(result.check(errors=None)))


# ---- failover ----

def test_a_planned_failover_under_load_shows_no_error(own_cluster):
    with Puerta(own_cluster) as p, Load(p.port, "-n", 1000000000, "-c", 50, "-m", 100, "-b", 131072) as load:
        load.wait_answers(5000)
        own_cluster.replicas[0][0].ask("CLUSTER", "FAILOVER")
        own_cluster.wait_promoted(own_cluster.replicas[0][0])
        load.wait_answers(load.answers() + 5000)
        load.finish(stop=True).check()


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_master_lost_under_load(own_cluster, how):
    """Its replica has every acknowledged write (writes were paused until then), so none may be missing afterwards."""
    master, replica = own_cluster.masters[0], own_cluster.replicas[0][0]
    with Puerta(own_cluster, failover_wait="10s") as p, Load(p.port, "-n", 1000000000, "-c", 50, "-m", 100, "-b", 131072, "-e") as load:
        load.wait_answers(10000)
        own_cluster.pause_writes_and_sync(master, replica)
        master.kill() if how == "kill" else master.freeze()
        own_cluster.wait_promoted(replica)
        load.wait_answers(load.answers() + 20000)
        if how == "freeze":
            master.thaw()
            wait_for("the thawed master to follow", lambda: master.role() == "slave")
            load.wait_answers(load.answers() + 5000)
        result = load.finish(stop=True, timeout=200)
    print(result.text[-800:])
    # Only what was on its way to that master when it went may be lost: at most each client's requests in flight, once. A client that
    # had part of a long answer of that master cannot be told in any other way than by the end of its connection.
    only_named(result.check(errors=50 * 192, reconnects=3))
    # What had not been sent waited for the replica, which took much less than failover_wait.
    assert not [text for text in result.table if text.startswith("CLUSTERDOWN")], result.table
    assert result.slowest_ms < 8000 * harness.SLOW, result.slowest_ms


def test_requests_of_which_nothing_was_sent_wait(own_cluster):
    master, replica = own_cluster.masters[0], own_cluster.replicas[0][0]
    with Puerta(own_cluster, failover_wait="20s") as p:
        with p.client() as c:
            assert c.ask("SET", own_cluster.key_on(0, "w"), "before") == b"OK"
        own_cluster.pause_writes_and_sync(master, replica)
        master.kill()
        wait_for("puerta to see it", lambda: not_connected(p, own_cluster.key_on(0, "probe")))
        clients = [p.client(timeout=40) for _ in range(20)]
        for i, c in enumerate(clients):
            c.send_raw(encode("SET", own_cluster.key_on(0, "w%d" % i), i) + encode("GET", own_cluster.key_on(0, "w%d" % i)))
        # The other nodes' keys are served meanwhile (the cluster refuses them itself only while it has no full coverage).
        own_cluster.wait_promoted(replica)
        for i, c in enumerate(clients):
            assert [c.read(), c.read()] == [b"OK", b"%d" % i]
            c.close()
        with p.client() as c:
            assert c.ask("GET", own_cluster.key_on(0, "w")) == b"before"


def not_connected(p, key):
    """A write is sent until one waits: nothing of it was sent then, since the node's port refuses."""
    c = p.client()
    c.send("SET", key, "x")
    try:
        c.read(timeout=0.2)
    except TimeoutError:
        return True
    finally:
        c.close()
    return False


def test_the_wait_is_bounded_in_time_and_in_number(own_cluster):
    own_cluster.replicas[0][0].kill()
    key = own_cluster.key_on(0)
    with Puerta(own_cluster, failover_wait="1s", failover_queue="5") as p:
        own_cluster.masters[0].kill()
        with p.client() as c:
            wait_for("the loss to be seen", lambda: isinstance(c.try_ask("SET", key, "x"), RespError))
            replies = c.pipeline([("SET", key, n) for n in range(20)])
        assert all(isinstance(r, RespError) and NAMED.match(r.text) for r in replies), replies
        assert any("failover_queue" in r.text for r in replies), replies
        with p.client() as c:
            begun = time.monotonic()
            reply = c.try_ask("GET", key)
            assert isinstance(reply, RespError) and NAMED.match(reply.text), reply
            assert time.monotonic() - begun < 3 * harness.SLOW


def first_write_after(p, key, since):
    """The moment at which a write begun after `since` (or waiting since then) is first answered with OK."""
    n = 0
    while time.monotonic() < since + 60:
        n += 1
        with p.client(timeout=30) as c:
            if c.try_ask("SET", key, n) == b"OK":
                return time.monotonic()
    raise AssertionError("no write was served within 60 s")


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_time_from_promotion_to_the_first_served_write(own_cluster, how):
    cluster = own_cluster
    key = cluster.key_on(0, "f")
    waits = []
    with Puerta(cluster, failover_wait="10s") as p:
        for _ in range(RUNS):
            master = cluster.owner(key)
            replica = next(n for n in (cluster.masters[0], cluster.replicas[0][0]) if n is not master)
            # Something runs, as it does where masters die.
            with Load(p.port, "-n", 1000000000, "-c", 10, "-m", 60, "-b", 4096, "-e") as load:
                load.wait_answers(1000)
                served = []
                master.kill() if how == "kill" else master.freeze()
                gone = time.monotonic()
                writer = threading.Thread(target=lambda: served.append(first_write_after(p, key, gone)))
                writer.start()
                promoted = cluster.wait_promoted(replica)
                writer.join()
                assert served, "no write was served after the failover"
                waits.append(max(0.0, served[0] - promoted))
                print("%s: promoted %.0f ms after the loss, first write %.0f ms after that"
                      % (how, (promoted - gone) * 1000, waits[-1] * 1000))
                load.finish(stop=True, timeout=100)
            if how == "kill":
                cluster.restart(master)
            else:
                master.thaw()
            wait_for("the old master to follow", lambda: master.role() == "slave")
            cluster.wait_whole()
    print("%s: median %.0f ms, worst %.0f ms of %d" % (how, statistics.median(waits) * 1000, max(waits) * 1000, len(waits)))
    assert statistics.median(waits) <= 0.2 * harness.SLOW and max(waits) <= 0.5 * harness.SLOW, waits


def test_nodes_that_come_back_at_other_addresses(own_cluster):
    """As pods do: one after the other each node ends and comes back on another port, with its id and slots."""
    cluster = own_cluster
    with Puerta(cluster) as p, p.client() as c:
        keys = [cluster.key_on(i, "moved") for i in range(3)]
        for node in cluster.replicas[0] + cluster.replicas[1] + cluster.replicas[2]:
            node.stop()
        for i, node in enumerate(cluster.masters):
            node.stop()
            node.port = harness.free_port()
            node.start()
            for peer in cluster.masters:
                if peer is not node:
                    peer.ask("CLUSTER", "MEET", "127.0.0.1", node.port)
            cluster.wait_whole()
            wait_for("service of the node at its new address", lambda: c.try_ask("SET", keys[i], "here") == b"OK")
            assert node.ask("GET", keys[i]) == b"here"


def test_the_whole_cluster_ends_and_comes_back(own_cluster):
    with Puerta(own_cluster, failover_wait="500ms") as p, p.client() as c:
        key = own_cluster.key_on(1)
        assert c.ask("SET", key, "1") == b"OK"
        for node in own_cluster.nodes:
            node.stop()
        wait_for("an error", lambda: isinstance(c.try_ask("GET", key), RespError))
        assert c.ask("PING") == b"PONG"
        for node in own_cluster.nodes:
            node.start()
        own_cluster.wait_whole()
        wait_for("service again", lambda: c.try_ask("SET", key, "2") == b"OK")
        assert c.pipeline([("SET", own_cluster.key_on(i), "3") for i in range(3)]) == [b"OK"] * 3


def test_slot_of_agrees_with_the_servers(cluster):
    for key in ("a", "{a}b", "{}a", "a{b}{c}", "{", "foo{bar", "x" * 100):
        assert cluster.masters[0].ask("CLUSTER", "KEYSLOT", key) == slot_of(key)
    assert subprocess.run([harness.REDIS_CLI, "--version"], stdout=subprocess.DEVNULL).returncode == 0
