"""MongoDB pass-through beside HAProxy as a TCP relay: requests per CPU-second of the proxy, side by side in one run, median of the rounds.

usage: PUERTA=build/puerta build/venv/bin/python tests/bench/mongo_peers.py [ROUNDS [SECONDS]]

    mongo_crowd ask --> Puerta or HAProxy --> mongo_crowd serve       50 clients, one find at a time; then 500
"""
import os
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import mongo_harness  # noqa: E402


def main(rounds=3, seconds=4):
    with mongo_harness.CrowdFronts(1, jitter_us=0) as fronts, \
            mongo_harness.MongoPuerta(fronts.addresses) as p, mongo_harness.HaProxy(fronts.addresses) as h:
        for clients in (50, 500):
            figures = {"puerta": [], "haproxy": []}
            for _ in range(rounds):
                for name, proxy in (("puerta", p), ("haproxy", h)):
                    figures[name].append(1 / mongo_harness.measured(proxy, clients, seconds)["cpu"])
            median = {name: statistics.median(f) for name, f in figures.items()}
            print("%4d clients: puerta %7.0f, haproxy %7.0f finds per CPU-second, ratio %.2f" %
                  (clients, median["puerta"], median["haproxy"], median["puerta"] / median["haproxy"]), flush=True)


main(*map(int, sys.argv[1:]))
