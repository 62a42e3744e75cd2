"""Pooled mode beside others: what a message costs the proxy, and how long an answer takes, with 2,000 clients; side by side in one run.

usage: PUERTA=build/puerta [MONGOBETWEEN=path] build/venv/bin/python tests/bench/mongo_pool_peers.py [ROUNDS [SECONDS [CLIENTS [RATE]]]]

    mongo_crowd ask, 2,000 clients --> Puerta, mode = pooled       -- 20 connections    --> mongo_crowd serve, two mongos
                                   --> mongobetween                -- 20 connections    -->
                                   --> HAProxy as a TCP relay      -- 2,000 connections -->

Each client asks for one document at a time: first at a fixed rate of all together, where latencies can be compared, then as fast as it
goes. A message is a request or its answer, so a question is two. Of each figure the median of the rounds, in which the proxies take turns.
mongobetween is not a part of this project and is not installed by it; where the environment's MONGOBETWEEN does not name it, it is left
out, and this says so.
"""
import contextlib
import os
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import harness  # noqa: E402
import mongo_harness  # noqa: E402

POOL = 20
MONGOS = 2


class Mongobetween:
    """One process with one pool over both mongos, as its documentation has it for a sharded cluster."""

    def __init__(self, path, addresses):
        self.port = harness.free_port()
        self.log = os.path.join(harness.temporary_folder("puerta-mongobetween-"), "log")
        uri = "mongodb://%s/?maxPoolSize=%d" % (",".join(addresses), POOL // MONGOS)
        self.process = harness.start([path, "-loglevel", "error", ":%d=%s" % (self.port, uri)], self.log)
        harness.wait_for("mongobetween to serve; its log: " + self.log, self._answers)

    def _answers(self):
        assert self.process.poll() is None, "mongobetween ended: " + harness.read_file(self.log)[-2000:]
        with contextlib.suppress(OSError):
            with mongo_harness.MongoClient(self.port, timeout=2) as c:
                return c.hello()["ok"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)
        harness.ended(self.process)


def compare(proxies, clients, rounds, seconds, rate):
    figures = {name: [] for name in proxies}
    for _ in range(rounds):
        for name, proxy in proxies.items():
            one = mongo_harness.measured(proxy, clients, seconds, rate)
            figures[name].append((one["cpu"] / 2 * 1e6, one["p50"], one["p99"], one["answers"] / seconds))
    print("%d clients, %s:" % (clients, "%d questions a second" % rate if rate else "as fast as it goes"))
    for name in proxies:
        cost, p50, p99, questions = (statistics.median(column) for column in zip(*figures[name]))
        beside = "" if name == "puerta" else ", %.2f times Puerta's" % (cost / statistics.median(f[0] for f in figures["puerta"]))
        print("  %-13s %6.0f questions/s, p50 %6.2f ms, p99 %6.2f ms, %6.2f us of CPU for a message%s" %
              (name, questions, p50 / 1000, p99 / 1000, cost, beside), flush=True)


def main(rounds=5, seconds=5, clients=2000, rate=5000):
    with contextlib.ExitStack() as stack:
        fronts = stack.enter_context(mongo_harness.CrowdFronts(MONGOS, jitter_us=0))
        proxies = {"puerta": stack.enter_context(mongo_harness.MongoPuerta(
            fronts.addresses, process={"max_clients": clients + 100}, mode="pooled", pool_max=POOL // MONGOS, pool_min=POOL // MONGOS))}
        proxies["haproxy"] = stack.enter_context(mongo_harness.HaProxy(fronts.addresses))
        path = os.environ.get("MONGOBETWEEN")
        if path:
            proxies["mongobetween"] = stack.enter_context(Mongobetween(path, fronts.addresses))
        else:
            print("mongobetween is missing: MONGOBETWEEN does not name it")
        compare(proxies, clients, rounds, seconds, rate)
        compare(proxies, clients, rounds, seconds, 0)


main(*map(int, sys.argv[1:]))
