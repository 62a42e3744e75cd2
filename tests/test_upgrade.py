"""SIGUSR2: another program takes the place of the one that runs, and no client notices.

    old parent == new parent (one process)
       |  |
       |  +-- new worker    <== clients, between two requests, as descriptors
       +----- old worker    ==>  gone within drain_timeout
"""
import contextlib
import itertools
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

import harness
from mongo_harness import CrowdFronts, MongoPuerta
from test_mongo_crowd import Run
from harness import LONG, SLOW, Puerta, children_of, read_file, wait_for

ENDED = "the worker of the program before has ended"
CONF = """
[puerta]
drain_timeout = {drain}
stop_timeout = 2s
{process}
[redis main]
listen = 127.0.0.1:{{port}}
nodes = {{seeds}}
{more}
"""


class Upgrades:
    """What a Puerta of either mode can do that was started from a copy of the program, which a test may replace."""

    def copy(self):
        self.program = os.path.join(harness.temporary_folder("puerta-program-"), "puerta")
        self.replace(harness.BINARY)
        return self.program

    def replace(self, source=None, text=None):
        """Another file of that name, as an installation does it."""
        other = self.program + ".new"
        if text is None:
            shutil.copy(source, other)
        else:
            with open(other, "w") as f:
                f.write(text)
            os.chmod(other, stat.S_IRWXU)
        os.rename(other, self.program)

    def says(self, text):
        return self.log_text().count(text)

    def workers(self):
        return children_of(self.process.pid)

    def upgrade(self, timeout=30.0):
        """Until the old worker has gone; gives the seconds that this took."""
        before, begun = self.workers(), time.monotonic()
        done = self.says(ENDED)
        self.process.send_signal(signal.SIGUSR2)
        wait_for("the old worker to go: " + self.log, lambda: self.says(ENDED) > done, timeout)
        wait_for("one worker", lambda: len(self.workers()) == 1)
        assert self.workers() != before, self.log_text()
        return time.monotonic() - begun

    def descriptors(self):
        """How many the parent and the worker have open."""
        return [len(os.listdir("/proc/%d/fd" % pid)) for pid in [self.process.pid] + self.workers()]


class Upgradable(Upgrades, Puerta):
    """With a file that a test may change."""

    def __init__(self, cluster, drain="10s", process="", more="", **options):
        super().__init__(cluster, conf=CONF.format(drain=drain, process=process, more=more), binary=self.copy(), **options)
        self.path = self.arguments[2]


class UpgradableMongo(Upgrades, MongoPuerta):
    def __init__(self, addresses, process=None, **options):
        process = dict({"drain_timeout": "10s", "stop_timeout": "2s", "max_clients": 1000}, **(process or {}))
        super().__init__(addresses, process=process, binary=self.copy(), **options)


def zombies(pid):
    return [p for p in children_of(pid) if "\nState:\tZ" in read_file("/proc/%d/status" % p)]


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are counted in /proc")


@linux
def test_same_process_other_worker(cluster):
    with Upgradable(cluster) as p:
        parent = p.process.pid
        with p.client() as c:
            assert c.ask("SET", "upgrade", "1") == b"OK"
        before = p.descriptors()
        for _ in range(3):
            worker = p.worker()
            p.upgrade()
            assert p.process.poll() is None and p.process.pid == parent
            assert p.worker() != worker
            with p.client() as c:
                assert c.ask("GET", "upgrade") == b"1"
            p.wait_ready()
        wait_for("no descriptor more than before: %s" % before, lambda: p.descriptors() == before)
        assert zombies(parent) == []


# What a client is, so that nothing of it is lost on the way.
def test_an_idle_client_goes_over(cluster):
    with Upgradable(cluster) as p, p.client() as c, p.client() as three:
        assert c.ask("SET", "kept", "1") == b"OK"
        assert c.ask("CLIENT", "SETNAME", "somebody") == b"OK"
        assert three.ask("HELLO", "3")
        ids = [x.ask("CLIENT", "ID") for x in (c, three)]
        for _ in range(2):
            p.upgrade()
            assert c.ask("GET", "kept") == b"1"
            assert c.ask("CLIENT", "GETNAME") == b"somebody"
            assert three.ask("HGETALL", "no such hash") == {}
            assert [x.ask("CLIENT", "ID") for x in (c, three)] == ids
            with p.client() as new:
                assert new.ask("CLIENT", "ID") > max(ids)
        assert p.says("handover=yes") == 2


UPGRADES = 5 if LONG else 2


class Askers:
    """Threads that each ask for one thing at a time and look at each answer; what goes wrong stands in `wrong`."""

    def __init__(self, count, run):
        self.wrong, self.answers, self.over = [], [0] * count, threading.Event()
        self.threads = [threading.Thread(target=self._go, args=(run, i), daemon=True) for i in range(count)]

    def _go(self, run, i):
        try:
            for _ in run(i, self.over):
                self.answers[i] += 1
        except Exception as e:  # any: it is what is looked for
            self.wrong.append("client %d after %d answers: %r" % (i, self.answers[i], e))

    def __enter__(self):
        for t in self.threads:
            t.start()
        self.wait_each(1)
        return self

    def __exit__(self, *_):
        self.over.set()
        for t in self.threads:
            t.join(30 * SLOW)
        assert not any(t.is_alive() for t in self.threads)

    def wait_each(self, more):
        """Until each has had so many more answers."""
        wanted = [n + more for n in self.answers]
        wait_for("%d answers of each: %s" % (more, self.wrong), lambda: self.wrong or all(a >= w for a, w in zip(self.answers, wanted)))
        assert self.wrong == []


def test_one_request_at_a_time(cluster):
    """Clients that wait for each answer go over between two of them."""
    with Upgradable(cluster) as p:
        def run(i, over):
            with p.client() as c:
                for n in itertools.count():
                    if over.is_set():
                        return
                    assert c.ask("SET", "one:%d" % i, n) == b"OK"
                    assert c.ask("GET", "one:%d" % i) == b"%d" % n
                    yield

        with Askers(16, run) as askers:
            for _ in range(UPGRADES):
                assert p.upgrade() < 5 * SLOW, p.log_text()
                askers.wait_each(20)
        assert askers.wrong == []


def test_under_load(cluster):
    """No error, no lost connection, no lost write with pipelines of all lengths; the old process gone at once, since nobody is there who
    cannot be handed over."""
    with Upgradable(cluster) as p, harness.Load(p.port, "-c", 60, "-b", 300000, "-n", 100000000) as load:
        load.wait_answers(20000)
        for _ in range(UPGRADES):
            assert p.upgrade() < 8 * SLOW, p.log_text()
            load.wait_answers(load.answers() + 20000)
        result = load.finish(stop=True)
        result.check()
        assert result.reconnects == 0 and result.errors == 0


# ---- MongoDB mode. In the crowd each client has cursors and transactions open, and looks at every answer; a session has several connections.


def crowd_goes_over(p, fronts, clients, answers, vanish=0):
    took = []

    def upgrade(run):
        if len(took) < UPGRADES:
            done = p.says(ENDED)
            took.append(p.upgrade())
            assert p.says(ENDED) > done
        time.sleep(0.05)

    run = Run(p.port, clients, answers, vanish=vanish, meanwhile=upgrade, faults=False)
    run.check(fronts)
    assert len(took) == UPGRADES and max(took) < 8 * SLOW, took
    assert run.figure(r" lost (\d+)") == 0, run.text


@pytest.mark.parametrize("vanish", [0, 50])
def test_pass_through(vanish):
    """All are one application: what one of them has opened the others must find too."""
    with CrowdFronts(2) as fronts, UpgradableMongo(fronts.addresses) as p:
        crowd_goes_over(p, fronts, 100, 200000 if LONG else 60000, vanish)


@pytest.mark.parametrize("vanish", [0, 50])
def test_pooled(vanish):
    with CrowdFronts(2) as fronts, UpgradableMongo(fronts.addresses, mode="pooled", pool_max=8, pool_wait="10s") as p:
        crowd_goes_over(p, fronts, 200, 300000 if LONG else 100000, vanish)
