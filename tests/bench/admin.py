"""How many requests a second the admin listener answers while the proxy serves, one at a time over one connection, as a script would ask.

usage: PUERTA=build/puerta build/venv/bin/python tests/bench/admin.py [SECONDS]

    http.client     --> Puerta's admin listener
    redis-benchmark --> Puerta as fast as it goes  --> a Redis Cluster of three masters

Asker, load, Puerta and cluster share the machine's cores, so the same is told of the idle proxy.
"""
import http.client
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import harness  # noqa: E402


def rate(port, path, seconds):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    done, begun = 0, time.monotonic()
    while time.monotonic() - begun < seconds:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
        done += 1
    connection.close()
    return done / (time.monotonic() - begun)


def main(seconds=3):
    port = harness.free_port()
    with harness.RedisCluster(replicas=0) as cluster, harness.Puerta(cluster, admin="127.0.0.1:%d" % port) as proxy:
        load = ["redis-benchmark", "-p", str(proxy.port), "-t", "get,set", "-c", "50", "-n", "100000000", "-r", "100000", "-q"]
        for what in ("idle", "under load"):
            busy = None if what == "idle" else subprocess.Popen(load, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                for path in ("/healthz", "/status", "/metrics"):
                    print("%-10s %-9s %6.0f a second" % (what, path, rate(port, path, seconds)), flush=True)
            finally:
                if busy is not None:
                    assert busy.poll() is None, "the load has ended"
                    busy.terminate()
                    busy.wait()


main(*map(int, sys.argv[1:]))
