"""The configuration read again while Puerta runs: by SIGHUP, through the parent, into whatever can change live.

    a file --rewritten--> SIGHUP --> Puerta (its parent's reader) --> the log: "option changed", "an option waits for a restart"
    load, crowd ------------------> the same Puerta: no error, whatever is reloaded meanwhile

What an operator asks for by HTTP or PUERTA goes the same way; tests of those are theirs.
"""
import os
import re
import signal
import subprocess
import time

import pytest

import harness
import mongo_harness
from harness import LONG, SLOW, Load, Puerta, RedisCluster, RespClient, RespError, wait_for
from mongo_harness import CrowdFronts, MongoPuerta
from test_mongo_crowd import Run

ROUNDS = 100 if LONG else 24
READ, REFUSED = 'msg="configuration read again"', 'msg="the configuration stays as it is"'


class Reloads:
    """What is done to the file of a running Puerta, and what its log says of it."""

    def __init__(self, p):
        self.p = p
        self.path = os.path.join(p.folder, "puerta.conf")

    def text(self):
        return harness.read_file(self.path)

    def write(self, text):
        """As editors and tools do: it is whole at any time."""
        with open(self.path + ".new", "w") as f:
            f.write(text)
        os.replace(self.path + ".new", self.path)

    def lines(self):
        return [line for line in self.p.log_text().splitlines() if READ in line or REFUSED in line]

    def ask(self):
        self.p.process.send_signal(signal.SIGHUP)

    def reload(self, text=None, good=True, timeout=20.0):
        """Gives the lines of the log that one reload has made."""
        if text is not None:
            self.write(text)
        before, at = len(self.lines()), len(self.p.log_text())
        self.ask()
        wait_for("the end of a reload; the log: " + self.p.log, lambda: len(self.lines()) > before, timeout)
        assert (READ if good else REFUSED) in self.lines()[-1], self.p.log_text()[at:]
        return self.p.log_text()[at:].splitlines()

    def refused(self, text=None, timeout=20.0):
        return self.reload(text, good=False, timeout=timeout)


def figures(lines):
    """(options changed, options that wait for a restart) of the last reload."""
    found = re.search(r"changed=(\d+) restart=(\d+)$", [line for line in lines if READ in line][-1])
    return int(found.group(1)), int(found.group(2))


def inventory(p):
    """Processes of a Puerta, and the descriptors of those that stay: what a reload must leave as it was."""
    pids = [p.process.pid] + harness.children_of(p.process.pid)
    return {pid: sorted(os.readlink("/proc/%d/fd/%s" % (pid, fd)).split(":")[0] for fd in os.listdir("/proc/%d/fd" % pid)) for pid in pids}


def settled(p, count=2):
    """The same once no reader or resolver is left."""
    wait_for("%d processes alone" % count, lambda: len(harness.children_of(p.process.pid)) == count - 1)
    return inventory(p)


@pytest.fixture(scope="module")
def cluster():
    with RedisCluster(masters=3, replicas=0) as c:
        yield c


CONF = "[puerta]\nsupervise = %s\n%s[redis main]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\n%s"


def redis_puerta(seeds, process="", options="", supervise="yes"):
    return Puerta(seeds, conf=CONF % (supervise, process, options))


def with_option(text, line):
    return text + line + "\n"


# ---- under load ----

def redis_round(text, addresses, i):
    """The i-th of many different files: other seeds, other options."""
    text = re.sub(r"nodes = .*", "nodes = " + ", ".join(addresses[i % 3:] + (["localhost:%s" % addresses[0].split(":")[1]] if i % 4 == 1 else [])), text)
    return text + "".join("%s = %s\n" % o for o in [
        ("client_idle", ["0", "1h", "20m"][i % 3]), ("client_window", ["1m", "512k", "2m"][i % 3]), ("client_pipeline", [1024, 64, 512][i % 3]),
        ("probe_interval", ["200ms", "1s", "300ms"][i % 3]), ("refresh_interval", ["15s", "500ms"][i % 2]), ("fall", 2 + i % 3),
        ("request_timeout", ["30s", "20s"][i % 2]), ("suspect_after", ["300ms", "2s"][i % 2]), ("merge_limit", ["16m", "32m"][i % 2]),
        ("allow_admin", ["yes", "no"][i % 2]), ("redis_version", ["7.0.15", "7.2.4"][i % 2]), ("client_stall", ["10s", "30s"][i % 2]),
        ("password", ['""', "of-those-who-come"][i % 2])][:1 + i % 13])


@pytest.mark.parametrize("supervise", ["yes", "no"])
def test_reloads_under_load_in_redis_mode(cluster, supervise):
    addresses = [n.address for n in cluster.masters]
    with redis_puerta(addresses, supervise=supervise) as p:
        r = Reloads(p)
        text = r.text()
        r.reload(redis_round(text, addresses, 13))
        r.reload(text)
        before = settled(p)
        with Load(p.port, "-n", 1000000000, "-c", 50, "-m", 100, "-b", 65536) as load:
            load.wait_answers(5000)
            for i in range(ROUNDS):
                changed, restart = figures(r.reload(redis_round(text, addresses, i)))
                assert restart == 0 and (changed > 0 or i == 0)
                load.wait_answers(load.answers() + 1)
            r.reload(text)
            load.wait_answers(load.answers() + 5000)
            load.finish(stop=True).check()
        wait_for("all as it was: %r, now %r" % (before, inventory(p)), lambda: fewer_or_same(settled(p), before))


def fewer_or_same(now, before):
    """The same processes, and no descriptor that was not there; connections to nodes may be more by those that load has opened."""
    return sorted(now) == sorted(before) and all(no_sockets(now[pid]) == no_sockets(before[pid]) for pid in now)


def no_sockets(kinds):
    return [k for k in kinds if k != "socket"]
