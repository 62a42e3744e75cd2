"""What it costs to be looked at: CPU of the proxy for a request with the admin listener, the slow log and the hot keys on, against off.

usage: PUERTA=build/puerta build/venv/bin/python tests/bench/onoff.py [ROUNDS [SECONDS]]

    redis-benchmark  --> Puerta, all off                          --> a Redis Cluster of three masters
                     --> Puerta, all on, /metrics each second     -->
    mongo_crowd ask  --> the same two, pooled, then pass-through  --> mongo_crowd serve, two mongos

The two take turns; of each round one is divided by the other, and told is the median of the rounds, with the least and the most: what
else runs on the machine moves them. "All slow" is an overload, in which every answer takes longer than slow_log_min.
"""
import contextlib
import os
import statistics
import subprocess
import sys
import threading
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import harness  # noqa: E402
import mongo_harness  # noqa: E402

REDIS = [("GET", 1, 50, 25000), ("SET", 1, 50, 25000), ("GET", 16, 50, 250000), ("SET", 16, 50, 250000), ("GET", 16, 1000, 250000)]
MONGO = [("pooled", 2000, 5000), ("pooled", 2000, 0), ("passthrough", 50, 0), ("passthrough", 1000, 0)]
POOL = {"pool_max": 10, "pool_min": 10}  # to each mongos
OFF = {"slow_log_min": 0, "hot_keys": 0, "supervise": "no"}


def on():
    return {"admin": "127.0.0.1:%d" % harness.free_port(), "slow_log_min": "10ms", "hot_keys": 64, "supervise": "no"}


@contextlib.contextmanager
def scraped(address):
    """Somebody reads the metrics each second."""
    over = threading.Event()

    def read():
        while not over.wait(1):
            with urllib.request.urlopen("http://%s/metrics" % address, timeout=20) as answer:
                answer.read()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()


def cpu_us(proxy):
    with open("/proc/%d/schedstat" % proxy.process.pid) as f:
        return int(f.read().split()[0]) / 1000


def redis_benchmark(proxy, test, pipeline, clients, count):
    words = ["-t", test.lower(), "-P", pipeline, "-c", clients, "-n", count, "-d", 64, "-r", 100000, "-q"]
    subprocess.run(["redis-benchmark", "-p", str(proxy.port)] + list(map(str, words)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return count


def crowd(proxy, clients, seconds, rate):
    done = subprocess.run([mongo_harness.crowd_tool(), "ask"] + [str(x) for x in (proxy.port, clients, seconds, rate)], check=True, stdout=subprocess.PIPE)
    return int(done.stdout.split()[3])


def compare(what, proxies, rounds, load):
    """proxies: off and on. load(proxy) gives how many requests it has made."""
    costs = []
    for i in range(rounds + 1):  # the first is to warm up
        cost = {}
        for name in ("off", "on") if i % 2 == 0 else ("on", "off"):
            before = cpu_us(proxies[name])
            done = load(proxies[name])
            cost[name] = (cpu_us(proxies[name]) - before) / done
        costs.append(cost)
    ratios = [c["on"] / c["off"] for c in costs[1:]]
    print("%-46s %7.2f us off, %7.2f us on: %.3f (%.3f to %.3f)" %
          (what, statistics.median(c["off"] for c in costs[1:]), statistics.median(c["on"] for c in costs[1:]), statistics.median(ratios), min(ratios), max(ratios)), flush=True)


def main(rounds=7, seconds=3):
    with contextlib.ExitStack() as stack:
        cluster, options = stack.enter_context(harness.RedisCluster(replicas=0)), on()
        proxies = {"off": stack.enter_context(harness.Puerta(cluster, **OFF)), "on": stack.enter_context(harness.Puerta(cluster, **options))}
        stack.enter_context(scraped(options["admin"]))
        for test, pipeline, clients, count in REDIS:
            compare("Redis, %s, pipeline %d, %d clients" % (test, pipeline, clients), proxies, rounds,
                    lambda p, work=(test, pipeline, clients, count * seconds): redis_benchmark(p, *work))
    for mode, clients, rate in MONGO:
        with contextlib.ExitStack() as stack:
            fronts, options = stack.enter_context(mongo_harness.CrowdFronts(2, jitter_us=0)), on()
            section, room = dict(POOL if mode == "pooled" else {}, mode=mode), {"max_clients": 2 * clients + 100}  # a crowd may come before it is noticed that the one before has gone
            proxies = {name: stack.enter_context(mongo_harness.MongoPuerta(fronts.addresses, process=dict(process, **room), **section))
                       for name, process in (("off", OFF), ("on", options))}
            stack.enter_context(scraped(options["admin"]))
            compare("MongoDB, %s, %d clients, %s" % (mode, clients, "%d a second" % rate if rate else "as fast as it goes"), proxies, rounds,
                    lambda p, work=(clients, seconds, rate): crowd(p, *work))


main(*map(int, sys.argv[1:]))
