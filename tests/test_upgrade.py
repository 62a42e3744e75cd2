"""SIGUSR2: another program takes the place of the one that runs, and no client notices.

    old parent == new parent (one process)
       |  |
       |  +-- new worker    <== clients, between two requests, as descriptors
       +----- old worker    ==>  gone within drain_timeout
"""
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

import harness
from harness import LONG, SLOW, Puerta, children_of, read_file, wait_for

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


class Upgradable(Puerta):
    """Puerta from a copy of the program that a test may replace, with a file that it may change."""

    def __init__(self, cluster, drain="10s", process="", more="", **options):
        self.program = os.path.join(harness.temporary_folder("puerta-program-"), "puerta")
        self.replace(harness.BINARY)
        super().__init__(cluster, conf=CONF.format(drain=drain, process=process, more=more), binary=self.program, **options)
        self.path = self.arguments[2]

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
        done = self.says("the worker of the program before has ended")
        self.process.send_signal(signal.SIGUSR2)
        wait_for("the old worker to go: " + self.log, lambda: self.says("the worker of the program before has ended") > done, timeout)
        wait_for("one worker", lambda: len(self.workers()) == 1)
        assert self.workers() != before, self.log_text()
        return time.monotonic() - begun

    def descriptors(self):
        """How many the parent and the worker have open."""
        return [len(os.listdir("/proc/%d/fd" % pid)) for pid in [self.process.pid] + self.workers()]


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
