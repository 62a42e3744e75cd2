"""The slow log, the hot keys, how long servers take, how full tables are: what the admin listener tells, against what was made to happen.

    client --> Puerta --> node that is frozen, killed, held up by a script; a mongos that answers late
                 `--admin--> /slowlog /hotkeys /status <-- looked at by this test, which has a clock of its own
"""
import collections
import contextlib
import json
import os
import threading
import time
import urllib.request

import pytest

import harness
import mongo_harness
from harness import Puerta, RespError, SLOW, slot_of, wait_for

SPIN = """local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end
local till = now() + tonumber(ARGV[1]) while now() < till do end return 'not for the slow log'"""
US = 1000000


class Admin:
    """What the listener of operators tells."""

    def __init__(self, folder=None):
        self.port = harness.free_port()
        self.token = os.path.join(harness.temporary_folder("puerta-token-"), "token")
        with open(self.token, "w") as f:
            f.write("word-of-the-test\n")
        os.chmod(self.token, 0o600)

    def options(self):
        return {"admin": "127.0.0.1:%d" % self.port, "admin_token_file": self.token}

    def ask(self, path, method="GET"):
        request = urllib.request.Request("http://127.0.0.1:%d%s" % (self.port, path), method=method,
                                         headers={"Authorization": "Bearer word-of-the-test"})
        with urllib.request.urlopen(request, timeout=20 * SLOW) as r:
            return json.load(r)

    def slow(self):
        return self.ask("/slowlog")["entries"]

    def only(self, command):
        """The one entry of that command there is."""
        found = [e for e in self.slow() if e["command"] == command]
        assert len(found) == 1, self.slow()
        check_sum(found[0])
        return found[0]

    def gauges(self):
        return self.ask("/status")["gauges"]

    def backend(self, node):
        return next(b for b in self.ask("/status")["backends"] if b["name"].endswith(":%d" % node.port))


def check_sum(entry):
    assert entry["all_us"] == entry["queued_us"] + entry["sent_us"] + entry["answered_us"]
    assert abs(entry["when_ms"] / 1000 - time.time()) < 60 * SLOW


@contextlib.contextmanager
def watched(cluster, slow_log_min="60ms", **options):
    admin = Admin()
    with Puerta(cluster, slow_log_min=slow_log_min, **admin.options(), **options) as p:
        p.admin = admin
        wait_for("the first requests to be forgotten", lambda: admin.ask("/slowlog/reset", "POST")["ok"])
        yield p


def frozen_for(node, seconds):
    """Until it is thawed again, by a thread; whoever asks meanwhile waits."""
    node.freeze()
    timer = threading.Timer(seconds, node.thaw)
    timer.start()
    return timer


# ------------------------------------------------------------ the slow log

def test_a_script_that_takes_its_time(cluster):
    with watched(cluster) as p, p.client() as c:
        key = cluster.key_on(0)
        assert c.ask("EVAL", SPIN, 1, key, 150000, "a secret") == b"not for the slow log"
        assert c.ask("GET", key) is None
        entry = p.admin.only("eval")
        assert entry["key"] == key and entry["section"] and entry["backend"].endswith(":%d" % cluster.owner(key).port)
        assert entry["client"] == "127.0.0.1:%d" % c.sock.getsockname()[1]
        assert 140000 <= entry["sent_us"] < 5 * US * SLOW and entry["queued_us"] + entry["answered_us"] < entry["sent_us"] / 2
        assert "secret" not in json.dumps(p.admin.ask("/slowlog")) and "redis.call" not in json.dumps(p.admin.ask("/slowlog"))
        assert len(p.admin.slow()) == 1


def test_a_node_that_is_silent_for_a_while(own_cluster):
    with watched(own_cluster) as p, p.client() as c:
        key = own_cluster.key_on(1)
        timer = frozen_for(own_cluster.owner(key), 0.25)
        assert c.ask("SET", key, "a value") == b"OK"
        timer.join()
        entry = p.admin.only("set")
        assert entry["key"] == key and entry["sent_us"] >= 100000 and entry["queued_us"] < entry["sent_us"]


def test_what_never_reached_a_node(cluster):
    """A seed that nobody listens on any more: what waits for it fails."""
    with harness.RedisCluster(masters=1, replicas=0) as own:
        with watched(own, failover_wait="300ms", request_timeout="2s") as p, p.client() as c:
            own.nodes[0].kill()
            wait_for("puerta to see it", lambda: p.admin.backend(own.nodes[0])["state"] == "down")
            with p.client() as late:
                error = late.try_ask("GET", "lost key")
            assert isinstance(error, RespError) and "not executed" in error.text
            entry = p.admin.only("get")
            assert entry["backend"] == "" and entry["key"] == "lost key"
            assert entry["queued_us"] >= 250000 and entry["sent_us"] == entry["answered_us"] == 0


def test_what_is_not_answered_in_time_names_its_node(own_cluster):
    with watched(own_cluster, request_timeout="300ms", suspect_after="10s") as p, p.client() as c:
        key = own_cluster.key_on(2)
        node = own_cluster.owner(key)
        node.freeze()
        error = c.try_ask("INCR", key)
        node.thaw()
        assert isinstance(error, RespError) and "outcome unknown" in error.text
        entry = p.admin.only("incr")
        assert entry["backend"].endswith(":%d" % node.port) and entry["sent_us"] >= 250000 and entry["answered_us"] == 0


def test_of_a_split_request_the_last_part_tells(own_cluster):
    with watched(own_cluster) as p, p.client() as c:
        keys = [own_cluster.key_on(i) for i in range(3)]
        node = own_cluster.owner(keys[1])
        timer = frozen_for(node, 0.25)
        assert c.ask("MGET", *keys) == [None] * 3
        timer.join()
        entry = p.admin.only("mget")
        assert entry["backend"].endswith(":%d" % node.port) and entry["key"] == keys[1] and entry["all_us"] >= 100000
        assert len(p.admin.slow()) == 1


def test_a_transaction_is_known_by_its_first_command(cluster):
    with watched(cluster) as p, p.client() as c:
        key = cluster.key_on(0)
        for command in (("MULTI",), ("LLEN", key), ("EVAL", SPIN, 1, key, 150000), ("EXEC",)):
            answer = c.ask(*command)
        assert answer == [0, b"not for the slow log"]
        entry = p.admin.only("exec")
        assert entry["key"] == key and entry["sent_us"] >= 140000


def test_who_waits_behind_another_is_slow_too(own_cluster):
    with watched(own_cluster) as p, p.client() as c, p.client() as d:
        key = own_cluster.key_on(0)
        node = own_cluster.owner(key)
        node.freeze()
        c.send("GET", key)
        d.send("STRLEN", key)
        wait_for("both to be there", lambda: p.admin.backend(node)["in_flight"] == 2)
        time.sleep(0.1)
        node.thaw()
        assert c.read() is None and d.read() == 0
        assert p.admin.only("get")["all_us"] >= 90000 and p.admin.only("strlen")["all_us"] >= 90000


def test_a_long_answer_is_told_by_its_parts(cluster):
    """Its client does not read for a while: the node is not to blame."""
    with watched(cluster) as p, p.client(rcvbuf=4096) as c:
        key = cluster.key_on(0)
        cluster.owner(key).ask("SETRANGE", key, 20000000, "x")
        before = p.admin.backend(cluster.owner(key))["answers"]
        c.send("GET", key)
        time.sleep(0.5)
        assert len(c.read(timeout=60)) == 20000001
        cluster.owner(key).ask("DEL", key)
        entry = wait_for("it to be told", lambda: next((e for e in p.admin.slow() if e["command"] == "get"), None))
        check_sum(entry)
        assert entry["answered_us"] >= 300000 > entry["sent_us"]
        backend = p.admin.backend(cluster.owner(key))
        assert backend["answers"] == before + 1 and backend["p99_us"] < 300000 * SLOW


def test_what_waits_on_purpose_is_not_slow(cluster):
    with watched(cluster) as p, p.client() as c:
        key = cluster.key_on(0)
        assert c.ask("BLPOP", key, "0.2") is None
        assert c.ask("XREAD", "BLOCK", 200, "STREAMS", key, "0") is None
        c.ask("SET", key, "x")
        assert c.ask("WAIT", 1, 200) == 0
        c.ask("DEL", key)
        assert c.ask("EVAL", SPIN, 1, key, 100000) == b"not for the slow log"
        assert [e["command"] for e in p.admin.slow()] == ["eval"]


def test_the_ring_keeps_the_youngest(cluster):
    with watched(cluster, slow_log=3, slow_log_min="5ms") as p, p.client() as c:
        assert p.admin.ask("/slowlog")["threshold_us"] == 5000
        p.admin.ask("/slowlog/reset", "POST")
        keys = ["{%s}%d" % (harness.tag_for_slot(7), i) for i in range(7)]
        for key in keys:
            c.ask("EVAL", SPIN, 1, key, 20000)
        entries = [e for e in p.admin.slow() if e["command"] == "eval"]
        assert [e["key"] for e in entries] == keys[:-4:-1]
        assert [e["number"] for e in entries] == sorted((e["number"] for e in entries), reverse=True)
        assert p.admin.ask("/slowlog/reset", "POST")["ok"] and p.admin.slow() == []
        c.ask("EVAL", SPIN, 1, keys[0], 20000)
        assert p.admin.slow()[0]["number"] > entries[0]["number"]


def all_slow(p, count, go_on, answered):
    """So many wait, and are let go at once: an overload. What the slow log has taken of them, and what it has only counted."""
    counters = p.admin.ask("/status")["counters"]
    written = p.admin.ask("/slowlog")["entries"]
    time.sleep(0.1)
    go_on()
    begun = time.monotonic()
    answered()
    seconds = 2 + int(time.monotonic() - begun)
    told, after = p.admin.ask("/slowlog"), p.admin.ask("/status")["counters"]
    slow, passed_over = (after[name] - counters[name] for name in ("slow_requests", "slow_passed_over"))
    new = len(told["entries"]) - len(written)
    assert slow == count and new + passed_over == slow and told["passed_over"] == after["slow_passed_over"], (counters, after)
    assert 0 < new <= 100 * seconds and passed_over >= count - 100 * seconds > 0
    numbers = [e["number"] for e in told["entries"]]
    assert numbers == sorted(numbers, reverse=True) and numbers[0] <= after["slow_requests"]


def test_in_an_overload_few_are_written_down(own_cluster):
    with watched(own_cluster, slow_log_min="5ms", slow_log=2000, allow_admin="yes") as p, contextlib.ExitStack() as stack:
        key = own_cluster.key_on(0)
        node = own_cluster.owner(key)
        clients = [stack.enter_context(p.client()) for _ in range(20)]
        assert all(c.ask("GET", key) is None for c in clients)
        node.freeze()
        for c in clients:
            c.send_raw(harness.encode("GET", key) * 50)
        wait_for("all to be there", lambda: p.admin.backend(node)["in_flight"] == 1000)
        all_slow(p, 1000, node.thaw, lambda: [c.read() for c in clients for _ in range(50)])
        before = p.admin.slow()
        wait_for("the next second, which has room again", lambda: clients[0].ask("EVAL", SPIN, 1, key, 20000) and p.admin.slow()[0]["command"] == "eval")
        entries = p.admin.slow()  # behind the gap of those passed over stands what was written down before
        assert entries[0]["number"] == p.admin.ask("/status")["counters"]["slow_requests"] > before[0]["number"] + 1
        assert entries[-len(before):] == before
        word = clients[0].ask("PUERTA", "SLOWLOG", -1)
        assert [dict(zip(e[::2], e[1::2]))[b"number"] for e in word] == [e["number"] for e in entries]


def test_nothing_is_slow_without_a_limit(cluster):
    with watched(cluster, slow_log_min=0) as p, p.client() as c:
        c.ask("EVAL", SPIN, 1, "k", 100000)
        assert p.admin.ask("/slowlog") == {"threshold_us": 0, "passed_over": 0, "entries": []}
    with watched(cluster, slow_log=0, slow_log_min="1ms") as p, p.client() as c:
        c.ask("EVAL", SPIN, 1, "k", 100000)
        assert p.admin.slow() == []


# -------------------------------------------------------------- hot keys

def test_the_hottest_key_is_found(cluster):
    with watched(cluster) as p, p.client() as c:
        hot, asked = "the hot one", 0
        for n in range(200):
            keys = [hot if i % 5 == 0 else "cold:%d:%d" % (n, i) for i in range(100)]
            c.pipeline([("GET", k) for k in keys])
            asked += keys.count(hot)
        told = p.admin.ask("/hotkeys")
        first = told["keys"][0]
        assert told["enabled"] and first["key"] == hot and first["slot"] == slot_of(hot)
        assert asked / 2 < first["count"] < asked * 2 and first["error"] < first["count"]
        assert [k["count"] for k in told["keys"]] == sorted((k["count"] for k in told["keys"]), reverse=True) and len(told["keys"]) == 64
        assert told["slots"][0]["slot"] == slot_of(hot) and told["slots"][0]["backend"].endswith(":%d" % cluster.owner(hot).port)


@pytest.mark.parametrize("place", [0, 7, 31])
def test_a_pipeline_of_the_sample_s_own_length_hides_nothing(cluster, place):
    """One request of 32 is looked at, and not always the same of 32."""
    with watched(cluster) as p, p.client() as c:
        for n in range(3000):
            c.pipeline([("GET", "same" if i == place else "other:%d:%d" % (n, i)) for i in range(32)])
        first = p.admin.ask("/hotkeys")["keys"][0]
        assert first["key"] == "same" and 1500 < first["count"] < 6000


def test_keys_of_requests_with_many(cluster):
    with watched(cluster) as p, p.client() as c:
        for n in range(1500):
            c.ask("MGET", *["k:%d:%d" % (n, i) for i in range(9)], "always")
            c.ask("EVAL", "return 1", 1, "script's", "argument")
            c.ask("PUBLISH", "a channel", "text")
            c.ask("PING", "word")
        keys = [k["key"] for k in p.admin.ask("/hotkeys")["keys"]]
        assert set(keys[:2]) == {"always", "script's"}
        assert not {"argument", "a channel", "text", "word"} & set(keys)


def test_keys_are_not_counted_unless_wanted(cluster):
    with watched(cluster, hot_keys=0) as p, p.client() as c:
        c.pipeline([("GET", "k")] * 1000)
        assert p.admin.ask("/hotkeys") == {"enabled": False, "keys": [], "slots": []}


# ------------------------------------------- how long servers take, how full

def test_each_answer_of_a_node_is_counted_once(cluster):
    with watched(cluster) as p, p.client() as c:
        nodes = [cluster.owner(cluster.key_on(i)) for i in range(3)]
        before = [p.admin.backend(n)["answers"] for n in nodes]
        for i, count in enumerate((10, 200, 3000)):
            c.pipeline([("GET", cluster.key_on(i))] * count)
        c.ask("MGET", *[cluster.key_on(i) for i in range(3)])
        after = [p.admin.backend(n)["answers"] for n in nodes]
        assert [b - a for a, b in zip(before, after)] == [11, 201, 3001]


def test_a_slow_node_is_seen_by_its_percentiles(cluster):
    with watched(cluster) as p, p.client() as c:
        key, fast = cluster.key_on(0), cluster.key_on(1)
        for _ in range(20):
            c.ask("EVAL", SPIN, 1, key, 20000)
            c.ask("GET", fast)
        slow, quick = p.admin.backend(cluster.owner(key)), p.admin.backend(cluster.owner(fast))
        assert slow["p99_us"] >= 20000 and slow["p50_us"] <= slow["p99_us"]
        assert 0 < quick["p50_us"] < slow["p99_us"]


def idle(admin, want=None):
    """What is in use once nothing is under way; with `want`, once that is so again."""
    def now():
        return {name: g["now"] for name, g in admin.gauges().items()}

    if want is None:
        return now()
    wait_for("all to be given back: %s, %s" % (want, now()), lambda: now() == want)
    return want


def burst(p):
    clients = [p.client() for _ in range(40)]
    for i, c in enumerate(clients):
        c.send_raw(b"".join(harness.encode("SET", "k:%d:%d" % (i, n), "x" * 2000) for n in range(50)))
    for c in clients:
        for _ in range(50):
            assert c.read() == b"OK"
    for i, c in enumerate(clients):
        if i % 4 == 0:
            c.send("SUBSCRIBE", "one", "two")
        elif i % 4 == 1:
            c.send("BLPOP", "empty:%d" % i, 0)
        elif i % 4 == 2:
            c.send("WATCH", "k:%d:0" % i)
        else:
            c.send_raw(b"*2\r\n$3\r\nGET\r\n$10000\r\nhalf of a")
    return clients


def test_what_is_taken_is_given_back(cluster):
    with watched(cluster) as p:
        for c in burst(p):
            c.close()
        settled = wait_for("the first burst to be over", lambda: (lambda g: g if g["clients"] == g["requests"] == g["subscriptions"] == g["leases"] == 0
                                                                  else None)(idle(p.admin)))
        for _ in range(2):
            clients = burst(p)
            wait_for("it to be told", lambda: (p.admin.gauges()["subscriptions"]["now"], p.admin.gauges()["leases"]["now"],
                                               p.admin.gauges()["clients"]["now"]) == (20, 20, 40))
            for c in clients:
                c.close()
            idle(p.admin, settled)
        gauges = p.admin.gauges()
        for name, g in gauges.items():
            assert g["now"] <= g["high"] and (g["most"] == 0 or g["high"] <= g["most"]), name
        assert gauges["clients"]["high"] == 40 and gauges["subscriptions"]["high"] == 20 and gauges["leases"]["high"] >= 20
        assert gauges["requests"]["high"] >= 10 and gauges["chunks"]["high"] >= 20 and gauges["backends"]["now"] >= 3
        assert gauges["clients"]["most"] == 4096 and gauges["backends"]["most"] == 64 and gauges["requests"]["most"] == 32768


# ---------------------------------------------------------------- MongoDB

@contextlib.contextmanager
def mongo_watched(fronts, mode, slow_log_min="60ms", **options):
    admin = Admin()
    process = dict(admin.options(), slow_log_min=slow_log_min, slow_log=2000)
    with mongo_harness.MongoPuerta(fronts, process=process, mode=mode, **options) as p:
        p.admin = admin
        yield p


@pytest.mark.parametrize("mode", ["pooled", "passthrough"])
def test_a_mongos_that_answers_late(mongoses, mode):
    with mongo_watched(mongoses, mode) as p, p.client() as c:
        c.hello()
        c.ask({"ping": 1})
        for front in mongoses:
            front.fault("distinct", delay=0.2)
        assert c.ask({"distinct": "x", "key": "y"}, db="trace_test")["ok"]
        entry = p.admin.only("distinct")
        assert entry["key"] == "trace_test" and entry["backend"] in [f.address for f in mongoses]
        assert entry["sent_us"] >= 190000 and entry["queued_us"] < entry["sent_us"]
        assert entry["client"] == "127.0.0.1:%d" % c.sock.getsockname()[1]


def test_who_waits_for_a_connection(mongoses):
    front = mongoses[0]
    with mongo_watched([front], "pooled", pool_max=1, pool_wait="20s") as p, p.client() as c, p.client() as d, p.client() as e:
        fault = front.fault("distinct", hold=True)
        c.send({"distinct": "x", "key": "y"}, "first")
        wait_for("it to be there", lambda: fault.held == 1)
        d.send({"ping": 1}, "second")
        wait_for("it to wait", lambda: p.admin.gauges()["pool_waiters"]["now"] == 1)
        time.sleep(0.1)
        fault.clear()
        assert c.read() is not None and d.read() is not None
        assert p.admin.only("ping")["queued_us"] >= 80000
        assert p.admin.gauges()["pool_waiters"] == {"now": 0, "high": 1, "most": 4096}
        assert p.admin.gauges()["pool_links"]["high"] == 1


def test_who_waits_in_vain_was_at_no_mongos(mongoses):
    front = mongoses[0]
    with mongo_watched([front], "pooled", pool_max=1, pool_wait="200ms") as p, p.client() as c, p.client() as d:
        fault = front.fault("distinct", hold=True)
        c.send({"distinct": "x", "key": "y"}, "first")
        wait_for("it to be there", lambda: fault.held == 1)
        d.send({"count": "x"}, "second")
        assert d.read() is not None
        entry = p.admin.only("count")
        assert entry["backend"] == "" and entry["key"] == "second" and entry["queued_us"] >= 180000 and entry["sent_us"] == 0
        fault.clear()
        assert c.read() is not None


def test_in_an_overload_of_a_mongos_few_are_written_down(mongoses):
    front = mongoses[0]
    options = {"pool_max": 1, "pool_wait": "60s"}
    with mongo_watched([front], "pooled", slow_log_min="5ms", **options) as p, p.client() as first, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(p.client()) for _ in range(600)]
        fault = front.fault("distinct", hold=True)
        first.send({"distinct": "x", "key": "y"}, "first")
        wait_for("it to be there", lambda: fault.held == 1)
        for c in clients:
            c.send({"ping": 1}, "later")
        wait_for("the others to wait", lambda: p.admin.gauges()["pool_waiters"]["now"] == 600)
        all_slow(p, 601, fault.clear, lambda: [c.read() for c in [first, *clients]])


@pytest.mark.parametrize("mode", ["pooled", "passthrough"])
def test_all_of_mongodb_is_given_back(mongoses, mode):
    with mongo_watched(mongoses, mode) as p:
        seen = collections.Counter()
        for n in range(3):
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(p.client()) for _ in range(20)]
                for c in clients:
                    c.hello(app_name="the same")
                    assert c.ask({"ping": 1})["ok"]
                assert p.admin.gauges()["clients"]["now"] == 20
            wait_for("all to be gone", lambda: p.admin.gauges()["clients"]["now"] == 0)
            wait_for("their connections too", lambda: mode == "pooled" or p.admin.gauges()["upstreams"]["now"] == 0)
            seen.update({"%s %d" % (k, g["now"]) for k, g in p.admin.gauges().items() if k in ("requests", "pool_waiters", "affinities")})
        assert seen["requests 0"] == seen["pool_waiters 0"] == 3
        assert seen["affinities %d" % (mode != "pooled")] == 3, seen
        gauges = p.admin.gauges()
        assert gauges["clients"]["high"] in (20, 21) and gauges["upstreams"]["high"] >= (20 if mode == "passthrough" else 1)
        assert sum(b["answers"] for b in p.admin.ask("/status")["backends"]) >= 60
