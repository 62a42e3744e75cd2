"""MongoDB pass-through beside HAProxy as a TCP relay: requests per CPU-second of the proxy, side by side in one run, median of the rounds.

usage: PUERTA=build/puerta build/venv/bin/python tests/bench/mongo_peers.py [ROUNDS [SECONDS]]

    mongo_load ask --> Puerta or HAProxy --> mongo_load serve       50 clients, one find at a time; then 500
"""
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.dirname(HERE))
import harness  # noqa: E402
import mongo_harness  # noqa: E402


def cpu_seconds(pid):
    """User and system time of a process and of its children that live."""
    total = 0
    for p in [pid] + list(harness.children_of(pid)):
        with open("/proc/%d/stat" % p) as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def main(rounds=3, seconds=4):
    load = os.path.join(tempfile.mkdtemp(), "mongo_load")
    sources = [os.path.join(HERE, "mongo_load.c")] + [os.path.join(ROOT, n + ".c") for n in ("mongowire", "mongomsg", "bson")]
    subprocess.run(["cc", "-O2", "-std=c99", "-D_GNU_SOURCE", "-I" + ROOT, "-o", load] + sources, check=True)
    port = harness.free_port()
    server = subprocess.Popen([load, "serve", str(port)])
    try:
        with mongo_harness.MongoPuerta(["127.0.0.1:%d" % port]) as p, mongo_harness.HaProxy(["127.0.0.1:%d" % port]) as h:
            for clients in (50, 500):
                figures = {"puerta": [], "haproxy": []}
                for _ in range(rounds):
                    for name, proxy in (("puerta", p), ("haproxy", h)):
                        begun = cpu_seconds(proxy.process.pid)
                        done = subprocess.run([load, "ask", str(proxy.port), str(clients), str(seconds)], check=True, stdout=subprocess.PIPE)
                        figures[name].append(int(done.stdout) / max(0.01, cpu_seconds(proxy.process.pid) - begun))
                median = {name: statistics.median(f) for name, f in figures.items()}
                print("%4d clients: puerta %7.0f, haproxy %7.0f finds per CPU-second, ratio %.2f" %
                      (clients, median["puerta"], median["haproxy"], median["puerta"] / median["haproxy"]), flush=True)
    finally:
        server.terminate()
        server.wait()


main(*map(int, sys.argv[1:]))
