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
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

import harness
from mongo_harness import QUICK, CrowdFronts, MongoPuerta, closed
from test_mongo import more_of, opened, where
from test_mongo_crowd import Run
from harness import LONG, SLOW, Puerta, children_of, read_file, wait_for

ENDED = "the worker of the program before has ended"
NO_LEAKS = {"ASAN_OPTIONS": "detect_leaks=0"}  # that looks into the process, which nobody may once it has changed its user
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

    def copy(self, source=None):
        self.program = os.path.join(harness.temporary_folder("puerta-program-"), "puerta")
        self.replace(source or harness.BINARY)
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

    def __init__(self, cluster, drain="10s", process="", more="", source=None, **options):
        super().__init__(cluster, conf=CONF.format(drain=drain, process=process, more=more), binary=self.copy(source), **options)
        self.path = self.arguments[2]


class UpgradableMongo(Upgrades, MongoPuerta):
    def __init__(self, addresses, process=None, **options):
        process = dict({"drain_timeout": "10s", "stop_timeout": "2s", "max_clients": 1000}, **(process or {}))
        super().__init__(addresses, process=process, binary=self.copy(), **options)


def zombies(pid):
    return [p for p in children_of(pid) if "\nState:\tZ" in read_file("/proc/%d/status" % p)]


root = pytest.mark.skipif(os.geteuid() != 0, reason="nobody but root changes the user")
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


def test_who_is_delayed_is_asked_once(cluster):
    """What a client has sent before its turn goes along, and is not done here as well when that comes: the counters would tell."""
    with Upgradable(cluster, more="request_rate = 2000\n") as p, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(p.client()) for _ in range(40)]
        for i, c in enumerate(clients):
            c.send_raw(harness.encode("INCR", "delayed:%d" % i) * 200)
        for _ in range(6):
            p.upgrade()
        for c in clients:
            assert [c.read() for _ in range(200)] == list(range(1, 201))


def test_who_comes_by_a_load_balancer(cluster):
    """Its header may be on its way while the worker that it came to has nobody else left. And who has come by one stays who it was, to
    all limits."""
    balancer = "protected = no\naccept_proxy = yes\ntrusted = 127.0.0.2/32\nmax_per_address = 6\n"
    with Upgradable(cluster, more=balancer) as p, contextlib.ExitStack() as stack:
        def arrive():
            s = stack.enter_context(contextlib.closing(socket.socket()))
            s.settimeout(20 * SLOW)
            s.bind(("127.0.0.2", 0))
            s.connect(("127.0.0.1", p.port))
            return s

        def asked(s, text):
            s.sendall(text)
            return s.recv(200)

        header = b"PROXY TCP4 127.0.0.3 127.0.0.1 1000 6379\r\nPING\r\n"
        here = []
        for n in range(3):
            here += [arrive(), arrive()]
            assert asked(here[-2], header) == b"+PONG\r\n"
            p.process.send_signal(signal.SIGUSR2)
            wait_for("the other worker", lambda: p.says("the new worker serves") > n)
            assert asked(here[-1], header) == b"+PONG\r\n"
            wait_for("the old worker to go", lambda: p.says(ENDED) > n)
        assert [asked(s, b"PING\r\n") for s in here] == [b"+PONG\r\n"] * 6
        assert b"for this address" in asked(arrive(), header)
        with p.client() as c:
            assert c.ask("CLIENT", "LIST").count(b"127.0.0.3:1000") == 6


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
    if run.code != 0:
        print(p.log_text())
    run.check(fronts)
    assert len(took) == UPGRADES and max(took) < 8 * SLOW, "%s\n%s" % (took, p.log_text())
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


def test_pooled_with_a_new_worker_that_has_no_time():
    """What the old one notes meanwhile does not fit into the socket: it waits, rather than let the new one not know of a transaction."""
    with CrowdFronts(2) as fronts, UpgradableMongo(fronts.addresses, mode="pooled", pool_max=8, pool_wait="10s") as p:
        frozen = []

        def upgrade(run):
            if len(frozen) < UPGRADES:
                told, done = p.says("the next worker takes over"), p.says(ENDED)
                new = begin_upgrade(p)
                wait_for("the old worker to note", lambda: p.says("the next worker takes over") > told, pause=0)
                os.kill(new, signal.SIGSTOP)
                time.sleep(0.3)  # so long it stands still
                if p.says(ENDED) == done:  # it was in time: the old one has clients still
                    frozen.append(new)
                os.kill(new, signal.SIGCONT)
                wait_for("the old worker to go", lambda: p.says(ENDED) > done)
            time.sleep(0.05)

        run = Run(p.port, 600, 200000, meanwhile=upgrade, faults=False)
        run.check(fronts)
        assert len(frozen) == UPGRADES and p.says("could not be noted") == 0, p.log_text()


# ---- what goes wrong: the one that serves goes on, and a later upgrade succeeds.


def stays(p, why, act=None):
    """SIGUSR2 comes to nothing, and nobody notices."""
    worker, told = p.worker(), p.says(why)
    with p.client() as c:
        assert c.ask("SET", "stays", "1") == b"OK"
        p.process.send_signal(signal.SIGUSR2)
        wait_for("%r in %s" % (why, p.log), lambda: p.says(why) > told)
        assert c.ask("GET", "stays") == b"1"
    assert p.process.poll() is None and p.worker() == worker, p.log_text()
    with p.client() as c:
        assert c.ask("GET", "stays") == b"1"


def wrapped(p, when_tried="exit 10", otherwise="exec {real} \"$@\""):
    """A program that does one thing when it is tried and another when it is run for good."""
    real = p.program + ".real"
    if not os.path.exists(real):
        shutil.copy(harness.BINARY, real)
    p.replace(text="#!/bin/sh\nif [ \"$1\" = -t ]; then %s; fi\n%s\n" % (when_tried.format(real=real), otherwise.format(real=real)))


@pytest.mark.parametrize("text", ["no program at all", "#!/bin/sh\nexit 0\n", "#!/bin/sh\nexit 1\n", "#!/bin/sh\nkill -9 $$\n"])
def test_a_program_that_is_none(cluster, text):
    with Upgradable(cluster) as p:
        p.replace(text=text)
        stays(p, "cannot take over")
        p.replace(harness.BINARY)
        p.upgrade()


def test_a_file_that_is_wrong(cluster):
    with Upgradable(cluster) as p:
        good = read_file(p.path)
        for more in ("\nno such option = 1\n", "\n[redis other]\nlisten = 127.0.0.1:%d\nnodes = 127.0.0.1:1\n" % cluster.nodes[0].port):
            with open(p.path, "w") as f:
                f.write(good + more)
            stays(p, "cannot take over")
        with open(p.path, "w") as f:
            f.write(good)
        p.upgrade()


def test_a_file_that_goes_wrong_behind_the_trial(cluster):
    """Then the parent is a program that cannot run, and keeps the worker of the one before; the next upgrade is as any other."""
    with Upgradable(cluster) as p:
        good = read_file(p.path)
        wrapped(p, otherwise="echo nonsense >> %s; exec {real} \"$@\"" % p.path)
        stays(p, "the worker of the old one goes on")
        with open(p.path, "w") as f:
            f.write(good)
        p.upgrade()
        assert len(p.workers()) == 1


@root
@pytest.mark.parametrize("line", ["user = no-such-user", "user = nobody\ngroup = no-such-group"])
def test_rights_that_cannot_be_dropped(cluster, line):
    """No trial drops any: who fails at that is the parent already, and keeps the worker of the one before."""
    with Upgradable(cluster) as p:
        good = read_file(p.path)
        with open(p.path, "w") as f:
            f.write(good.replace("[puerta]", "[puerta]\n" + line))
        stays(p, "the worker of the old one goes on")
        with open(p.path, "w") as f:
            f.write(good)
        p.upgrade()
        assert len(p.workers()) == 1


@pytest.mark.skipif(SLOW > 1, reason="a sanitizer needs all the addresses there are")
def test_a_worker_that_has_no_memory(cluster):
    with Upgradable(cluster) as p:
        wrapped(p, otherwise="ulimit -v 50000; exec {real} \"$@\"")
        stays(p, "the new worker did not become ready; the old one goes on")
        assert len(p.workers()) == 1


def test_a_worker_dies_whose_parent_cannot_run(cluster):
    """The parent begins anew, with what its file is by then."""
    with Upgradable(cluster) as p:
        good = read_file(p.path)
        wrapped(p, otherwise="echo nonsense >> %s; exec {real} \"$@\"" % p.path)
        stays(p, "the worker of the old one goes on")
        with open(p.path, "w") as f:
            f.write(good)
        old = p.worker()
        os.kill(old, signal.SIGKILL)
        wait_for("another worker", lambda: p.workers() and p.workers() != [old])
        p.wait_ready()


def test_begins_anew_without_a_parent(cluster):
    """The same where the file has supervise = no by then: it hears signals as any other."""
    with Upgradable(cluster) as p:
        good = read_file(p.path)
        wrapped(p, otherwise="echo nonsense >> %s; exec {real} \"$@\"" % p.path)
        stays(p, "the worker of the old one goes on")
        with open(p.path, "w") as f:
            f.write(good.replace("[puerta]", "[puerta]\nsupervise = no"))
        p.replace(harness.BINARY)
        os.kill(p.worker(), signal.SIGKILL)
        wait_for("the new program", lambda: p.says('msg="serving"') == 2)
        p.wait_ready()
        p.process.send_signal(signal.SIGTERM)
        assert p.process.wait(15 * SLOW) == 0


def test_a_second_signal_is_ignored(cluster):
    with Upgradable(cluster) as p:
        wrapped(p, when_tried="sleep 1; exec {real} \"$@\"")
        p.process.send_signal(signal.SIGUSR2)
        wait_for("the trial", lambda: p.says("the new program is tried") == 1)
        p.process.send_signal(signal.SIGUSR2)
        wait_for("that it is ignored", lambda: p.says("SIGUSR2 is ignored") == 1)
        wait_for("the end of the upgrade", lambda: p.says(ENDED) == 1)
        assert p.says("the new program is tried") == 1


def test_state_stays_until_the_limit(cluster):
    """A subscriber, a transaction, a blocked client: the old worker serves them on; the transaction goes over when it has ended, the
    others are let go at the limit."""
    with Upgradable(cluster, drain="3s") as p, p.client() as sub, p.client() as multi, p.client() as blocked, p.client() as idle:
        sub.ask("SUBSCRIBE", "upgrade")
        multi.ask("MULTI")
        multi.ask("SET", "in a transaction", "1")
        blocked.send("BLPOP", "no such list", 0)
        wait_for("it to be blocked", lambda: b"cmd=blpop" in idle.ask("CLIENT", "LIST"))
        begun = time.monotonic()
        p.process.send_signal(signal.SIGUSR2)
        wait_for("the other worker", lambda: p.says("the new worker serves") == 1)
        assert multi.ask("EXEC") == [b"OK"]
        wait_for("who is idle to be there", lambda: b"cmd=get" not in idle.ask("CLIENT", "LIST") and b"blpop" not in idle.ask("CLIENT", "LIST"))
        idle.ask("PUBLISH", "upgrade", "still here")
        assert sub.read() == [b"message", b"upgrade", b"still here"]
        wait_for("who has no transaction any more to be there", lambda: idle.ask("CLIENT", "LIST").count(b"id=") == 2)
        assert multi.ask("GET", "in a transaction") == b"1"
        assert "UNBLOCKED" in blocked.read().text, "as at SIGTERM"
        sub.at_end()
        wait_for("the old worker to go", lambda: p.says(ENDED) == 1)
        assert time.monotonic() - begun < 3 * SLOW + 2
        assert multi.ask("GET", "in a transaction") == b"1"


def test_stopped_while_it_upgrades(cluster):
    """SIGTERM ends both workers."""
    with Upgradable(cluster, drain="60s") as p, p.client() as sub:
        sub.ask("SUBSCRIBE", "upgrade")
        p.process.send_signal(signal.SIGUSR2)
        wait_for("the other worker", lambda: p.says("the new worker serves") == 1)
        both = p.workers()
        assert len(both) == 2
        p.process.send_signal(signal.SIGTERM)
        assert p.process.wait(15 * SLOW) == 0
        sub.at_end()
        assert not any(os.path.exists("/proc/%d" % pid) for pid in both)


def begin_upgrade(p):
    """Until the new worker serves; gives its number."""
    old, told = p.workers(), p.says("the new worker serves")
    p.process.send_signal(signal.SIGUSR2)
    wait_for("the other worker", lambda: p.says("the new worker serves") > told)
    return [pid for pid in p.workers() if pid not in old][0]


def test_the_old_worker_dies_while_it_upgrades(cluster):
    with Upgradable(cluster, drain="60s") as p, p.client() as sub:
        sub.ask("SUBSCRIBE", "upgrade")
        old = p.worker()
        new = begin_upgrade(p)
        os.kill(old, signal.SIGKILL)
        sub.at_end()
        wait_for("the old worker to go", lambda: p.says(ENDED) == 1)
        wait_for("one worker", lambda: p.workers() == [new])
        p.wait_ready()
        p.upgrade()


def test_the_new_worker_dies_while_it_takes_over(cluster):
    """Who was on the way is lost, and nobody else: the old worker serves on those whom it has, and another new one those who come."""
    count, on_the_way = 200, 64
    with Upgradable(cluster, drain="60s") as p, contextlib.ExitStack() as stack:
        sub, *clients = [stack.enter_context(p.client()) for _ in range(1 + count)]
        sub.ask("SUBSCRIBE", "upgrade")
        for c in clients:
            c.ask("MULTI")
        new = begin_upgrade(p)
        os.kill(new, signal.SIGSTOP)
        assert [c.ask("EXEC") for c in clients] == [[]] * count
        for c in clients:
            c.send("PING")
        os.kill(new, signal.SIGKILL)
        left = []
        for c in clients:
            with contextlib.suppress(OSError, EOFError):
                assert c.read() == b"PONG"
                left.append(c)
        assert 0 < count - len(left) <= on_the_way, p.log_text()
        wait_for("another worker", lambda: p.says("the new worker serves") == 2)
        with p.client() as c:
            c.ask("PUBLISH", "upgrade", "still here")
        assert sub.read() == [b"message", b"upgrade", b"still here"]
        assert [c.ask("SET", "left", "1") for c in left] == [b"OK"] * len(left)
        for pid in p.workers():
            os.kill(pid, signal.SIGKILL)
        wait_for("one worker, another one", lambda: p.says(ENDED) == 1 and len(p.workers()) == 1)
        p.wait_ready()
        p.upgrade()


def test_the_next_new_worker_dies_too(cluster):
    """Before it is ready: the old one, which listens no more, is not taken back for all that."""
    with Upgradable(cluster, drain="4s") as p, p.client() as sub:
        sub.ask("SUBSCRIBE", "upgrade")
        old = p.worker()
        os.kill(begin_upgrade(p), signal.SIGKILL)
        for n in range(3):
            other = wait_for("another worker", lambda: [pid for pid in p.workers() if pid != old])
            os.kill(other[0], signal.SIGKILL)
            wait_for("it to be started again", lambda: p.says("the worker has died") == n + 2)
        p.wait_ready()
        wait_for("the old worker to go", lambda: p.says(ENDED) == 1)
        sub.at_end()
        assert p.process.poll() is None and len(p.workers()) == 1
        with p.client() as c:
            assert c.ask("SET", "a", "1") == b"OK"
        assert p.says("no upgrade") == 0


@root
@pytest.mark.parametrize("inside", [False, True])
def test_the_first_user(cluster, inside):
    """A worker that is root's still, beside a parent that is not: it is told to end, since no signal reaches it."""
    folder = harness.temporary_folder("puerta-jail-")
    with Upgradable(cluster, drain="60s", env=NO_LEAKS) as p, p.client() as sub:
        sub.ask("SUBSCRIBE", "upgrade")
        text = read_file(p.path)
        with open(p.path, "w") as f:
            f.write(text.replace("[puerta]", "[puerta]\nuser = nobody" + ("\nchroot = " + folder if inside else "")))
        new = begin_upgrade(p)
        assert [os.stat("/proc/%d" % pid).st_uid == 0 for pid in sorted(p.workers(), key=lambda pid: pid == new)] == [True, False]
        assert os.readlink("/proc/%d/root" % new) == (folder if inside else "/")
        begun = time.monotonic()
        p.process.send_signal(signal.SIGTERM)
        sub.at_end()
        assert p.process.wait(15 * SLOW) == 0
        assert time.monotonic() - begun < 20 * SLOW


@pytest.mark.parametrize("word", ["drain", "down"])
def test_what_an_operator_holds_stays_held(cluster, word):
    """Until it is taken back, over any number of upgrades."""
    def held(p):
        with harness.RespClient(p.redis_port) as c:
            rows = [dict(zip(r[::2], r[1::2])) for r in c.ask("PUERTA", "BACKENDS")]
            return {r[b"name"].decode(): r[b"hold"].decode() for r in rows if r[b"hold"] != b"none"}

    conf = "[mongo main]\nlisten = 127.0.0.1:{port}\nmongos = {mongos}\n[redis asks]\nlisten = 127.0.0.1:{redis_port}\n" \
           "nodes = %s\nallow_admin = yes\n" % cluster.seeds()
    with CrowdFronts(2) as fronts, UpgradableMongo(fronts.addresses, conf=conf, counters=True) as p, harness.RespClient(p.redis_port) as c:
        addresses = fronts.addresses
        for name in addresses:
            assert not isinstance(c.ask("PUERTA", word, "main/" + name), harness.RespError)
        c.ask("PUERTA", "UNDRAIN", "main/" + addresses[0])
        for _ in range(2):
            assert held(p) == {addresses[1]: word}
            p.upgrade()
        assert held(p) == {addresses[1]: word}
        with harness.RespClient(p.redis_port) as other:
            other.ask("PUERTA", "UNDRAIN", "main/" + addresses[1])
        p.upgrade()
        assert held(p) == {}


def put_inside(folder, path):
    """A copy at the same place inside a folder, for everybody to read."""
    inside = folder + path
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    shutil.copy(path, inside)
    os.chmod(inside, 0o755)


@root
@linux
@pytest.mark.skipif(shutil.which("ldd") is None, reason="what the program needs to run is told by ldd")
@pytest.mark.skipif("asan" in harness.BINARY, reason="a sanitizer wants /proc, which is not inside")
def test_inside_chroot(cluster):
    """The next program and its file are those inside, at the same paths. Without them there is no upgrade, and nobody notices."""
    folder = harness.temporary_folder("puerta-jail-")
    with Upgradable(cluster, process="user = nobody\nchroot = " + folder, env=NO_LEAKS) as p, p.client() as c:
        assert c.ask("SET", "inside", "1") == b"OK"
        ident = c.ask("CLIENT", "ID")
        stays(p, "cannot take over")
        put_inside(folder, p.program)
        needs = subprocess.run(["ldd", p.program], stdout=subprocess.PIPE, check=False).stdout.decode()
        for library in {os.path.abspath(word) for word in needs.split() if word.startswith("/")}:
            put_inside(folder, library)
        stays(p, "cannot take over")
        put_inside(folder, p.path)
        for parent, _, _ in os.walk(folder):
            os.chmod(parent, 0o755)
        for _ in range(2):
            p.upgrade()
            assert c.ask("GET", "inside") == b"1" and c.ask("CLIENT", "ID") == ident
            for pid in [p.process.pid] + p.workers():
                assert os.readlink("/proc/%d/root" % pid) == folder and os.stat("/proc/%d" % pid).st_uid != 0
            with p.client() as new:
                assert new.ask("GET", "inside") == b"1"
        os.unlink(folder + p.program)
        stays(p, "cannot take over")
        assert "# total" not in p.log_text(), "a trial says nothing, even where there is no /dev/null"


def test_addresses_come_and_go(cluster):
    ports = [harness.free_port() for _ in range(2)]
    with Upgradable(cluster, more="listen = 127.0.0.1:%d" % ports[0]) as p:
        with p.client() as stays_on:
            stays_on.ask("SET", "a", "1")
            with harness.RespClient(ports[0]) as c:
                assert c.ask("GET", "a") == b"1"
                text = read_file(p.path).replace("listen = 127.0.0.1:%d" % ports[0], "listen = 127.0.0.1:%d" % ports[1])
                with open(p.path, "w") as f:
                    f.write(text)
                p.upgrade()
                assert c.ask("GET", "a") == b"1", "who came by an address that is gone goes on"
            assert stays_on.ask("GET", "a") == b"1"
            with harness.RespClient(ports[1]) as c:
                assert c.ask("GET", "a") == b"1"
            with pytest.raises(ConnectionRefusedError):
                harness.RespClient(ports[0])


def test_no_room_for_all(cluster):
    """What the new worker cannot take stays with the old one, which closes it at the limit."""
    with Upgradable(cluster, drain="3s", process="max_clients = 8") as p, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(p.client()) for _ in range(6)]
        for c in clients:
            c.ask("SET", "room", "1")
        text = read_file(p.path).replace("max_clients = 8", "max_clients = 2")
        with open(p.path, "w") as f:
            f.write(text)
        p.process.send_signal(signal.SIGUSR2)
        wait_for("the other worker", lambda: p.says("the new worker serves") == 1)
        assert [c.ask("GET", "room") for c in clients] == [b"1"] * 6
        wait_for("the old worker to go", lambda: p.says(ENDED) == 1)
        left = 0
        for c in clients:
            with contextlib.suppress(OSError, EOFError):
                left += c.ask("GET", "room") == b"1"
        assert left == 2


def test_without_a_parent(cluster):
    """supervise = no: the helper starts the new program, whose number is another one."""
    with Upgradable(cluster, process="supervise = no") as p, p.client() as c:
        assert c.ask("SET", "alone", "1") == b"OK"
        ident = c.ask("CLIENT", "ID")
        p.process.send_signal(signal.SIGUSR2)
        p.process.wait(20 * SLOW)
        harness.ended(p.process)
        assert p.process.returncode == 0, p.log_text()
        pids = [int(n) for n in os.listdir("/proc") if n.isdigit() and p.program in read_quietly("/proc/%s/cmdline" % n)]
        try:
            assert c.ask("GET", "alone") == b"1" and c.ask("CLIENT", "ID") == ident
            with p.client() as other:
                assert other.ask("GET", "alone") == b"1"
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        wait_for("both to end", lambda: not any(os.path.exists("/proc/%d" % pid) for pid in pids))


def read_quietly(path):
    try:
        return read_file(path)
    except OSError:
        return ""


@pytest.mark.parametrize("mode", ["passthrough", "loadbalanced", "pooled"])
def test_a_driver(mongoses, mode):
    """pymongo with its monitors and its pool; cursors stay open across the upgrade. No error, no retry, no lost connection."""
    import pymongo
    addresses = [f.address for f in mongoses]
    uri_options = "retryReads=false&retryWrites=false" + ("&loadBalanced=true" if mode == "loadbalanced" else "")
    with UpgradableMongo(addresses, mode=mode, **QUICK) as p:
        for address in addresses:
            p.wait_state(address, "up")
        closed = []

        class Listener(pymongo.monitoring.ConnectionPoolListener):
            def pool_created(self, event): pass
            def pool_ready(self, event): pass
            def pool_cleared(self, event): closed.append(event)
            def pool_closed(self, event): pass
            def connection_created(self, event): pass
            def connection_ready(self, event): pass
            def connection_closed(self, event):
                if event.reason == "error":
                    closed.append(event)
            def connection_check_out_started(self, event): pass
            def connection_check_out_failed(self, event): closed.append(event)
            def connection_checked_out(self, event): pass
            def connection_checked_in(self, event): pass

        with pymongo.MongoClient(p.uri(uri_options), event_listeners=[Listener()]) as client:
            many = client["upgrade"][mode]
            many.insert_many([{"_id": n, "text": "x" * 50} for n in range(100)])

            def run(i, over):
                while not over.is_set():
                    cursor = many.find(sort=[("_id", 1)], batch_size=7)
                    found = []
                    for document in cursor:
                        found.append(document["_id"])
                        if len(found) % 7 == 0:
                            yield
                    assert found == list(range(100))

            open_one = many.find(sort=[("_id", 1)], batch_size=2)
            first = [next(open_one)["_id"] for _ in range(2)]
            with Askers(8, run) as askers:
                for _ in range(UPGRADES):
                    assert p.upgrade() < 8 * SLOW, p.log_text()
                    askers.wait_each(20)
            assert askers.wrong == []
            assert first + [d["_id"] for d in open_one] == list(range(100))
        assert closed == []


def test_a_hello_that_waits_is_counted_where_it_has_gone(mongoses):
    with UpgradableMongo([f.address for f in mongoses], allow_admin="yes", **QUICK) as p, p.client() as c, p.client() as other:
        def in_flight():
            return sum(b["in_flight"] for b in other.ask({"puertaStatus": 1})["backends"])
        other.hello()
        c.send({"hello": 1, "topologyVersion": c.hello()["topologyVersion"], "maxAwaitTimeMS": 60000 * SLOW})
        wait_for("the hello to wait", lambda: in_flight() == 1)
        p.upgrade()
        assert in_flight() == 1
        c.close()
        wait_for("the hello to be over", lambda: in_flight() == 0)


@pytest.mark.parametrize("mode", ["passthrough", "pooled"])
def test_a_client_keeps_its_name(mongoses, mode):
    with UpgradableMongo([f.address for f in mongoses], mode=mode, allow_admin="yes", **QUICK) as p, p.client() as c:
        p.wait_state(list(mongoses)[0], "up")
        assert c.hello(app_name="stays")["ok"]
        p.upgrade()
        assert [row["name"] for row in c.ask({"puertaStatus": 1, "clients": 0})["clients"]] == ["stays"]


def test_who_is_to_leave_a_drained_mongos_is_looked_after_by_the_next_worker(mongoses):
    """Both had come to it behind the hold, and a connection that just ends tells nobody to look."""
    fronts = list(mongoses)
    with UpgradableMongo(fronts, allow_admin="yes", **QUICK) as p, p.client() as one, p.client() as other:
        for f in fronts:
            p.wait_state(f, "up")
        place = where(one, fronts, app_name="leaves")
        assert where(other, fronts, app_name="leaves") is place
        cursor = opened(other, "leaves", count=4)
        assert one.ask({"puertaStatus": 1, "drain": place.address})["ok"] == 1
        busy = place.fault("ping", hold=True, times=2)
        for c in (one, other):
            c.send({"ping": 1})
        wait_for("both to be busy", lambda: busy.held == 2)
        begin_upgrade(p)
        with p.client() as c:
            assert c.hello(app_name="is at another one")["ok"]
        busy.release(2)
        for c in (one, other):
            assert c.read().body["ok"]
        wait_for("the old worker to go", lambda: p.says(ENDED))
        place.fault("ping", silent=True)
        one.send({"ping": 1})  # again busy, so the other one may not leave yet
        wait_for("the ping to be there", lambda: len(place.commands("ping")) == 3)
        while cursor:
            cursor = more_of(other, cursor, "leaves")["cursor"]["id"]
        one.close()
        assert closed(other)


@pytest.mark.parametrize("how", ["drain", "down"])
def test_all_servers_held_by_hand(mongoses, how):
    """Nothing is ready then, and yet the next program takes over, and holds them, too."""
    fronts = list(mongoses)
    with UpgradableMongo([f.address for f in fronts], mode="pooled", allow_admin="yes", **QUICK) as p:
        for f in fronts:
            p.wait_state(f, "up")
        with p.client() as c:
            for f in fronts:
                assert c.ask({"puertaStatus": 1, how: f.address})["ok"] == 1
            assert c.ask({"puertaStatus": 1})["ready"] is False
        assert p.upgrade() < 8 * SLOW
        with p.client() as c:
            assert c.hello()["ok"] == 1 and c.ask({"puertaStatus": 1})["ready"] is False
            for f in fronts:
                assert c.ask({"puertaStatus": 1, "undrain": f.address})["ok"] == 1
            assert c.ask({"puertaStatus": 1})["ready"] is True


def test_all_masters_held_by_hand(cluster):
    with Upgradable(cluster, more="allow_admin = yes") as p:
        with p.client() as c:
            for node in cluster.masters:
                assert b"serves nobody" in c.ask("PUERTA", "DOWN", node.address)
            assert c.ask("PUERTA", "STATUS")[9] == 0
        assert p.upgrade() < 8 * SLOW
        with p.client() as c:
            for node in cluster.masters:
                assert b"serves again" in c.ask("PUERTA", "UNDRAIN", node.address)
            assert c.ask("SET", "held", "1") == b"OK"


def test_who_has_logged_in_stays_so(mongoses):
    """Pooled mode: the login was here, and holds at the next worker."""
    import pymongo
    line = subprocess.run([harness.BINARY, "hash-password", "4096"], input=b"secret\n", stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    with UpgradableMongo([f.address for f in mongoses], mode="pooled", user="anna " + line, **QUICK) as p:
        p.wait_state(mongoses.fronts[0] if hasattr(mongoses, "fronts") else list(mongoses)[0], "up")
        with pymongo.MongoClient(p.uri("retryReads=false&maxPoolSize=1"), username="anna", password="secret") as client:
            client["upgrade"]["login"].insert_one({"_id": 1})
            p.upgrade()
            assert client["upgrade"]["login"].find_one()["_id"] == 1


def test_a_hello_that_goes_on_goes_over(mongoses):
    """Pooled mode: who hears of changes without asking hears on from the next worker, as an answer to what it heard last."""
    import bson
    from fake import wire
    with UpgradableMongo([f.address for f in mongoses], mode="pooled", **QUICK) as p, p.client() as c, p.client() as parked:
        p.wait_state(list(mongoses)[0], "up")
        known = wait_for("mongos", lambda: c.ask({"hello": 1}).get("topologyVersion"))
        hello = {"hello": 1, "topologyVersion": known, "maxAwaitTimeMS": bson.Int64(100)}
        asked = c.send(hello, flags=wire.EXHAUST_ALLOWED)
        once = parked.send(dict(hello, maxAwaitTimeMS=bson.Int64(600000)))
        for n in range(3):
            p.upgrade()
            before = process = known["processId"] if n == 0 else process
            while process == before:
                answer = c.read()
                assert answer.flags & wire.MORE_TO_COME and answer.response_to == asked and answer.body["ok"] == 1, answer
                asked, process = answer.request_id, answer.body["topologyVersion"]["processId"]
        told = parked.read()
        assert told.response_to == once and told.body["ok"] == 1 and told.body["topologyVersion"]["processId"] != known["processId"]
        assert parked.ask({"ping": 1})["ok"] == 1
        assert p.says("handover=yes") == 3
