"""Thousands of clients over a few connections: every answer is looked at (tests/crowd).

    mongo_crowd run (400 clients, or 2,000) --> Puerta --> mongo_crowd serve (several mongos in one process, as strict as real ones)

The clients stop at the first answer that is not exactly what was asked for: another client's, another request's, from a mongos that does
not have the cursor or the transaction, with a document changed or missing. The server counts its connections, and what no mongos should see.
"""
import re
import subprocess

import pytest

import harness
import mongo_harness
from harness import LONG, SLOW, wait_for
from mongo_harness import CrowdFronts

PATIENCE = 20 * SLOW  # seconds in which any answer has come


class Run:
    """One run of the clients, to its end."""

    def __init__(self, port, clients, answers, seed=1, vanish=0):
        done = subprocess.run([mongo_harness.crowd_tool(), "run"] + [str(int(n)) for n in (port, clients, answers, seed, vanish, PATIENCE)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900 * SLOW)
        self.code, self.text = done.returncode, done.stdout.decode()
        self.wanted, self.clients = answers, clients

    def figure(self, pattern):
        return int(re.search(pattern, self.text, re.M).group(1))

    def check(self, fronts):
        assert self.code == 0 and self.figure(r"^answers \d+ wrong (\d+)") == 0, self.text + harness.read_file(fronts.log)
        assert self.figure(r"^answers (\d+)") >= self.wanted, self.text
        # All of them held a cursor and a transaction at the same time.
        assert self.figure(r"^held cursors (\d+)") == self.figure(r"^held cursors \d+ transactions (\d+)") == self.clients, self.text
        # What nobody answers has come nevertheless, each once.
        silent = [self.figure(r"^unacknowledged (\d+)"), self.figure(r"^unacknowledged \d+ sum (\d+)")]
        wait_for("all inserts without an answer: %s" % silent, lambda: [fronts.seen()[n] for n in ("unacknowledged", "sum")] == silent)
        assert fronts.seen()["wrong"] == 0, harness.read_file(fronts.log)


def test_of_the_crowd_itself():
    with CrowdFronts(1) as fronts:
        run = Run(fronts.ports[0], 300, 30000, vanish=100)
        run.check(fronts)
        assert fronts.seen()["most"] >= 300 and fronts.seen()["exhaust"] > 0
        for what in ("find", "aggregate", "getMore", "killCursors", "insert", "update", "commitTransaction", "abortTransaction"):
            assert run.figure(r"\b%s (\d+)" % what) > 200, run.text
        assert run.figure(r"reconnects (\d+)") > 0 and run.figure(r"vanished (\d+)") > 0, run.text


def test_that_the_crowd_notices_a_wrong_mongos():
    """A relay that knows nothing of cursors: whoever connects anew, or is another connection of the same session, meets the other mongos."""
    with CrowdFronts(2) as fronts, mongo_harness.HaProxy(fronts.addresses) as relay:
        run = Run(relay.port, 300, 30000)
        assert run.code == 1 and re.search(r"^WRONG: .* error (43|251|50800)", run.text, re.M), run.text


@pytest.mark.parametrize("lie", ["mark", "session", "text", "order", "statement", "kill", "request"])
def test_that_the_crowd_notices_a_lie(lie):
    with CrowdFronts(1, lie=lie) as fronts:
        run = Run(fronts.ports[0], 100, 30000)
        assert run.code == 1 and "WRONG: " in run.text, run.text
        assert not re.search(r"^WRONG: .*(no answer|error|closed)", run.text, re.M), run.text


def test_that_the_crowd_counts_what_is_not_answered():
    with CrowdFronts(1, lie="silence") as fronts:
        run = Run(fronts.ports[0], 100, 60000)
        assert run.code == 0 and run.figure(r"^unacknowledged (\d+)") > fronts.seen()["unacknowledged"] > 0, run.text


def test_pass_through():
    """All of them have one address and one name: they are one application, and its mongos is always the same."""
    with CrowdFronts(2) as fronts, mongo_harness.MongoPuerta(fronts.addresses, process={"max_clients": 1000}) as p:
        Run(p.port, 200, 10000, vanish=20).check(fronts)


def through_the_pool(clients, answers, mongos, pool_max, vanish, seed):
    with CrowdFronts(mongos) as fronts, mongo_harness.MongoPuerta(
            fronts.addresses, process={"max_clients": clients + 500}, mode="pooled", pool_max=pool_max, pool_wait="%ds" % PATIENCE) as p:
        Run(p.port, clients, answers, seed, vanish).check(fronts)
        seen = fronts.seen()
        assert seen["most_working"] <= mongos * pool_max, seen
        assert seen["most"] <= mongos * (pool_max + 2), "%s: besides the pool there are two connections to ask how each mongos is" % seen
        assert seen["exhaust"] == 0, seen


@pytest.mark.parametrize("vanish", [0, 50])
def test_pooled(vanish):
    through_the_pool(400, 40000, 2, 4, vanish, 1 + vanish)


@pytest.mark.skipif(not LONG, reason="half a minute each: PUERTA_LONG=1, or check.sh --all")
@pytest.mark.parametrize("mongos,vanish", [(2, 0), (2, 50), (4, 50)])
def test_pooled_2000_over_20(mongos, vanish):
    through_the_pool(2000, 500000, mongos, 20 // mongos, vanish, 2 + mongos)
