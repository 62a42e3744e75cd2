"""Thousands of clients over a few connections: every answer is looked at (tests/crowd).

    mongo_crowd run (400 clients, or 2,000) --> Puerta --> mongo_crowd serve (several mongos in one process, as strict as real ones)

The clients stop at the first answer that is not exactly what was asked for: another client's, another request's, from a mongos that does
not have the cursor or the transaction, with a document changed or missing. The server counts its connections, and what no mongos should see.
"""
import os
import re

import pytest

import harness
import mongo_harness
from harness import LONG, SLOW, wait_for
from mongo_harness import CrowdFronts

PATIENCE = 20 * SLOW  # seconds in which any answer has come


class Run:
    """One run of the clients, to its end; `meanwhile` is called again and again until then. `faults`: errors of a mongos that dies are
    none of theirs."""

    def __init__(self, port, clients, answers, seed=1, vanish=0, meanwhile=None, faults=None):
        self.wanted, self.clients = answers, clients
        log = os.path.join(harness.temporary_folder("puerta-crowd-"), "log")
        faults = meanwhile is not None if faults is None else faults
        process = harness.start([mongo_harness.crowd_tool(), "run"] + [str(int(n)) for n in (port, clients, answers, seed, vanish, PATIENCE, faults)], log)
        try:
            while meanwhile and process.poll() is None:
                meanwhile(process)
            process.wait(900 * SLOW)
        finally:
            process.kill()
            process.wait()
            harness.ended(process)
        self.code, self.text = process.returncode, harness.read_file(log)

    def figure(self, pattern):
        return int(re.search(pattern, self.text, re.M).group(1))

    def check(self, fronts):
        assert fronts.seen()["wrong"] == 0, harness.read_file(fronts.log)
        assert self.code == 0 and self.figure(r"^answers \d+ wrong (\d+)") == 0, self.text + harness.read_file(fronts.log)
        assert self.figure(r"^answers (\d+)") >= self.wanted, self.text
        # All of them held a cursor and a transaction at the same time.
        assert self.figure(r"^held cursors (\d+)") == self.figure(r"^held cursors \d+ transactions (\d+)") == self.clients, self.text

    def check_silent(self, fronts):
        """What nobody answers has come nevertheless, each once."""
        silent = [self.figure(r"^unacknowledged (\d+)"), self.figure(r"^unacknowledged \d+ sum (\d+)")]
        wait_for("all inserts without an answer: %s" % silent, lambda: [fronts.seen()[n] for n in ("unacknowledged", "sum")] == silent)


def test_of_the_crowd_itself():
    with CrowdFronts(1) as fronts:
        run = Run(fronts.ports[0], 300, 30000, vanish=100)
        run.check(fronts)
        run.check_silent(fronts)
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
        run = Run(p.port, 200, 10000, vanish=20)
        run.check(fronts)
        run.check_silent(fronts)


def pooled(fronts, clients, pool_max, **options):
    return mongo_harness.MongoPuerta(fronts.addresses, process={"max_clients": clients + 500}, mode="pooled", pool_max=pool_max,
                                     pool_wait="%ds" % (PATIENCE / 2), **options)


def check_connections(fronts, pool_max):
    """Besides the pool there are two connections to ask how each mongos is."""
    seen = fronts.seen()
    assert seen["most_working"] <= len(fronts.ports) * pool_max and seen["most"] <= len(fronts.ports) * (pool_max + 2), seen
    assert seen["exhaust"] == 0, seen


def through_the_pool(clients, answers, mongos, pool_max, vanish, seed):
    with CrowdFronts(mongos) as fronts, pooled(fronts, clients, pool_max) as p:
        run = Run(p.port, clients, answers, seed, vanish)
        run.check(fronts)
        run.check_silent(fronts)
        check_connections(fronts, pool_max)


@pytest.mark.parametrize("vanish", [0, 50])
def test_pooled(vanish):
    through_the_pool(400, 40000, 2, 4, vanish, 1 + vanish)


@pytest.mark.parametrize("mongos,vanish", [(2, 0), (2, 50), (4, 50)] if LONG else [(2, 50)])
def test_pooled_2000_over_20(mongos, vanish):
    """Half a minute each with PUERTA_LONG=1 (check.sh --all)."""
    through_the_pool(2000, 500000 if LONG else 30000, mongos, 20 // mongos, vanish, 2 + mongos)


def test_pooled_while_mongos_die():
    """One of three is always dying or just back: errors have the labels by which a driver does the right thing, nothing is mixed up, and
    no client loses its connection but in the middle of an answer."""
    mongos, pool_max, deaths = 3, 4, 0

    with CrowdFronts(mongos) as fronts, pooled(fronts, 300, pool_max, probe_interval="100ms", rise=1, fall=1, eject_after=0) as p:
        def one_dies(run):
            nonlocal deaths
            address = fronts.addresses[deaths % mongos]
            fronts.one_dies()
            deaths += 1
            wait_for("%s to be down and up again, or the end of the run" % address, lambda: run.poll() is not None or len(
                re.findall("node changes state.*node=%s .*to=up" % address, p.log_text())) > 1 + (deaths - 1) // mongos)

        for address in fronts.addresses:
            p.wait_state(address, "up")
        run = Run(p.port, 300, 100000 if LONG else 40000, 3, 20, one_dies)
        run.check(fronts)
        check_connections(fronts, pool_max)
        assert deaths > 1 and run.figure(r"^error 6 x (\d+)") > 0, run.text
        assert run.figure(r" lost (\d+)") <= deaths * pool_max, "%d deaths: %s" % (deaths, run.text)
