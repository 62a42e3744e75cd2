"""The configuration read again while Puerta runs: by SIGHUP, through the parent, into whatever can change live.

    a file --rewritten--> SIGHUP --> Puerta (its parent's reader) --> the log: "option changed", "an option waits for a restart"
    load, crowd ------------------> the same Puerta: no error, whatever is reloaded meanwhile

What an operator asks for by HTTP or PUERTA goes the same way; tests of those are theirs.
"""
import contextlib
import os
import re
import signal
import time

import pytest

import harness
import mongo_harness
import test_action
from harness import LONG, SLOW, Load, Puerta, RespClient, RespError, wait_for
from mongo_harness import CrowdFronts, MongoPuerta
from test_mongo import closed, where
from test_mongo_crowd import Run
from test_mongo_door import SECRET, Talk, keys

ROUNDS = 100 if LONG else 24
READ, REFUSED = 'msg="configuration read again"', 'msg="the configuration stays as it is"'


class Reloads:
    """What is done to the file of a running Puerta, and what its counters and its log say of it (which has ten lines a second of a kind)."""

    def __init__(self, p):
        self.p = p
        self.path = os.path.join(p.folder, "puerta.conf")
        self.asker = None

    def text(self):
        return harness.read_file(self.path)

    def write(self, text):
        """As editors and tools do: it is whole at any time."""
        with open(self.path + ".new", "w") as f:
            f.write(text)
        os.replace(self.path + ".new", self.path)

    def told(self):
        """(reloads, reload_failures), asked on one connection, which passwords do not concern that come later."""
        if self.asker is None:
            self.asker = RespClient(self.p.redis_port if isinstance(self.p, MongoPuerta) else self.p.port)
        text = self.asker.ask("INFO", "everything").decode()
        return tuple(int(re.search(r"^(?:puerta_)?%s:(\d+)" % name, text, re.M).group(1)) for name in ("reloads", "reload_failures"))

    def signal(self):
        self.p.process.send_signal(signal.SIGHUP)

    def reload(self, text=None, good=True, timeout=20.0):
        """Gives the lines of the log that one reload has made, or most of them."""
        if text is not None:
            self.write(text)
        before, at = self.told(), len(self.p.log_text())
        self.signal()
        now = wait_for("the end of a reload; the log: " + self.p.log, lambda: [t for t in [self.told()] if t != before], timeout)[0]
        assert now == (before[0] + good, before[1] + (not good)), (before, now, self.p.log_text()[at:])
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


CONF = "[puerta]\nsupervise = %s\n%s[redis main]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\n%s"


def redis_puerta(seeds, process="", options="", supervise="yes"):
    return Puerta(seeds, conf=CONF % (supervise, process, options))


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
                r.reload(redis_round(text, addresses, i))
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


MONGO = """[puerta]
max_clients = 1000
[mongo main]
listen = 127.0.0.1:{port}
mongos = {mongos}
%s[redis counters]
listen = 127.0.0.1:{redis_port}
nodes = 127.0.0.1:1
"""


def mongo_puerta(addresses, users="", **options):
    return MongoPuerta(addresses, conf=MONGO % (mongo_harness._lines(dict(mongo_harness.QUICK, **options)) + users), counters=True)


def put_option(text, key, value):
    """Of the MongoDB section."""
    return text.replace("[redis counters]", "%s = %s\n[redis counters]" % (key, value)) if not re.search(r"(?m)^%s = " % key, text) else \
        re.sub(r"(?m)^%s = .*" % key, "%s = %s" % (key, value), text, count=1)


def mongo_round(text, addresses, i, nodes):
    """The i-th of many different files: other weights, other options; nodes: the mongos come and go as well."""
    named = addresses[:i % len(addresses)] + addresses[i % len(addresses) + 1:] if nodes and i % 2 else addresses
    text = put_option(text, "mongos", ", ".join("%s*%d" % (a, 1 + (i + k) % 3) for k, a in enumerate(named)))
    for key, values in (("balance", ["least-connections", "random-two", "weighted"]), ("client_idle", ["0", "1h"]), ("client_window", ["256k", "512k"]),
                        ("probe_interval", ["200ms", "100ms", "500ms"]), ("affinity_grace", ["10m", "1m"]), ("fall", [3, 4]), ("eject_after", [5, 9]),
                        ("handshake_timeout", ["10s", "20s"]), ("pool_idle", ["10m", "1s"]), ("pool_max", [4, 3, 50]), ("pool_min", [0, 2]),
                        ("pool_life", ["1h", "2s"]), ("client_stall", ["1m", "30s"])):
        text = put_option(text, key, values[i % len(values)])
    return text


@pytest.mark.parametrize("mode", ["passthrough", "pooled"])
def test_reloads_under_a_crowd(mode):
    """Hundreds of clients with cursors and transactions open, each in its mongos: all that is asked finds what was begun."""
    with CrowdFronts(3) as fronts, mongo_puerta(fronts.addresses, mode=mode, pool_max=4, pool_wait="%ds" % (10 * SLOW)) as p:
        r, rounds = Reloads(p), 0
        text = r.text()
        for address in fronts.addresses:
            p.wait_state(address, "up")
        before = settled(p)

        def reload(run):
            nonlocal rounds
            r.reload(mongo_round(text, fronts.addresses, rounds, mode == "pooled"))
            rounds += 1
            wait_for("some more answers", lambda: run.poll() is not None or p.counter("replies") > 100 * rounds)

        run = Run(p.port, 200, 400000 if LONG else 60000, meanwhile=lambda process: rounds < ROUNDS and reload(process) or time.sleep(0.01))
        run.check(fronts)
        run.check_silent(fronts)
        assert run.figure(r" lost (\d+)") == 0 and rounds >= min(ROUNDS, 20), (rounds, run.text)
        r.reload(text)
        wait_for("all as it was: %r, now %r" % (before, inventory(p)), lambda: fewer_or_same(settled(p), before))


@pytest.mark.parametrize("mode", ["passthrough", "pooled"])
def test_reloads_under_load_of_drivers(ferret, mode):
    """Mongos and users come and go: drivers see no error, and nobody is at a mongos that is not named any more."""
    users = "user = anna %s\nuser = b %s\n" % (keys(), keys("other")) if mode == "pooled" else ""
    login = dict(username="anna", password=SECRET, authMechanism="SCRAM-SHA-256") if users else {}
    with mongo_harness.fronts(ferret) as fronts, mongo_puerta(list(fronts), users, mode=mode) as p:
        r = Reloads(p)
        text = r.text()
        for f in fronts:
            p.wait_state(f, "up")
        with test_action.Load(p, "first", **login) as one, test_action.Load(p, "second", **login) as two:
            for i in range(ROUNDS // 4):
                gone = fronts[i % 3]
                at = mongo_round(text, [f.address for f in fronts if f is not gone], i, False)
                if mode == "pooled":
                    at = at.replace("user = b ", "user = c ") if i % 2 else at
                r.reload(at)
                wait_for("nobody to ask there any more", lambda f=gone: not test_action.asked_meanwhile(f, one, two), 30)
            r.reload(text)


# ---- every option ----

def options_told():
    """(scope, key, default, range, whether it needs a restart) of each option, as -h tells."""
    scope, told = None, []
    for line in harness.subprocess.run([harness.BINARY, "-h"], stdout=harness.subprocess.PIPE, check=True).stdout.decode().splitlines():
        heading = re.match(r"Options of \[(\w+)", line)
        scope = heading.group(1) if heading else scope
        option = re.match(r"  (\w+) = (.*?)  \((.*)\)(  restart)?$", line)
        if option:
            told.append((scope, option.group(1), option.group(2), option.group(3), option.group(4) is not None))
    return told


OPTIONS = options_told()
# What another value is, where the range does not say it. Cut to what one of each of these takes.
OTHERS = {
    "chunk_size": "8k", "chunks": "4096", "max_clients": "5000", "max_requests": "40000", "max_channels": "5000", "max_affinities": "17000",
    "max_messages": "17000", "max_subscriptions": "17000", "channel_names": "300k", "max_split_keys": "17000", "script_cache": "300k",
    "upstream_buffer": "256k", "retain_bytes": "128k", "transaction_limit": "2m", "merge_limit": "20m", "client_window": "512k",
    "nodes": "127.0.0.1:2, [::1]:3", "mongos": "127.0.0.1:2*7", "announce": "puerta.example:6379", "redis_version": "7.4.2", "upstream_user": "another",
    "upstream_password": "an-other", "password": "an-other", "upstream_auth_db": "shop", "command": "json.get first read", "log_level": "debug", "pool_min": "1", "pool_max": "20",
}
SECRETS = {"upstream_password_file": "a third\n", "password_file": "a third\n", "upstream_keyfile": "QUJDREVGR0hJSktM\n"}


def another(key, standard, allowed, folder):
    """A line that gives the option another value."""
    if key in SECRETS:
        path = os.path.join(folder, key)
        with open(path, "w") as f:
            f.write(SECRETS[key])
        os.chmod(path, 0o600)
        return "%s = %s" % (key, path)
    words = [w for w in re.split(r"\||, | or ", allowed) if w != standard]
    numbers = re.match(r"(\w+) to (\w+)", allowed)
    if key in OTHERS:
        return "%s = %s" % (key, OTHERS[key])
    if numbers:
        return "%s = %s" % (key, next(n for n in numbers.groups() if n not in (standard, "0")))
    return "%s = %s" % (key, words[0])


KINDS = {
    "redis": "[redis main]\nlisten = 127.0.0.1:{port}\nnodes = 127.0.0.1:1\n",
    "mongo": "[mongo main]\nlisten = 127.0.0.1:{port}\nmongos = 127.0.0.1:1\nmode = pooled\npool_max = 10\n",
}
# What is said of a login belongs together: lines that come, and keys that go, with one of these.
TOGETHER = {"upstream_user": (["upstream_password = secret"], []), "upstream_password_file": ([], ["upstream_password"]),
            "upstream_keyfile": ([], ["upstream_password_file"]), "password_file": ([], ["password"])}


def cases(scope, live):
    """Options of that section that can be tried one by one; what others bring (who listens for operators, user and group) they try."""
    away = {"listen", "admin", "user", "supervise", "prefault", "group", "chroot", "syslog", "pid_file", "seccomp", "ready_fd", "command"}
    return [o[1:4] for o in OPTIONS if o[0] == scope and o[4] != live and not (o[1] in away and not live) and o[1] != "user"]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_option_that_can_change_does_and_stays(kind):
    """One reload for each: it alone is told to have changed. A worker that dies comes back with all of them, and the file has nothing new."""
    with bare(kind) as p:
        r = Reloads(p)
        text = r.text()
        for scope in ("puerta", kind):
            for key, standard, allowed in cases(scope, live=True):
                more, less = TOGETHER.get(key, ([], []))
                for gone in less:
                    text = added(text, scope, gone + " = ", keep=False)
                for line in more + [another(key, standard, allowed, p.folder)]:
                    text = added(text, scope, line)
                lines = r.reload(text)
                changed = [line for line in lines if 'msg="option changed"' in line]
                row = "section=%s option=%s " % ("puerta" if scope == "puerta" else "main", re.sub("password_file$", "password", key))
                assert any(row in line for line in changed) and figures(lines) == (len(changed), 0), (key, lines)
                assert len(changed) == 1 or key in TOGETHER, (key, lines)
                pause()
        kill_worker(p)
        r.asker = None
        assert figures(r.reload()) == (0, 0)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_option_that_needs_a_restart_says_so(kind):
    with bare(kind) as p:
        r = Reloads(p)
        text = r.text()
        for scope in ("puerta", kind):
            for key, standard, allowed in cases(scope, live=False):
                with_proxy = added(text, scope, "mode = loadbalanced") if key == "upstream_proxy" else text
                lines = r.reload(added(with_proxy, scope, another(key, standard, allowed, p.folder)))
                said = [line for line in lines if 'msg="an option waits for a restart"' in line]
                assert "section=%s option=%s now=" % ("puerta" if scope == "puerta" else "main", key) in said[-1], (key, lines)
                assert figures(lines) == (0, 2 if key == "upstream_proxy" else 1) == (0, len(said)), (key, lines)
                pause()
        lines = r.reload(re.sub(r"listen = (.*):\d+", r"listen = \1:%d" % harness.free_port(), text, count=1))
        assert figures(lines) == (0, 1) and "option=listen" in "".join(lines)
        lines = r.reload(text.replace("main]", "other]"))
        assert figures(lines) == (0, 2) and 'section="%s main" file=no' % kind in "".join(lines) and 'section="%s other" file=yes' % kind in "".join(lines)
        assert figures(r.reload(text)) == (0, 0)


def pause():
    """A kind of line is written ten times a second at most."""
    time.sleep(0.15)


@contextlib.contextmanager
def bare(kind):
    """A Puerta with one section before nobody, and one to ask it for its counters."""
    conf = "[puerta]\n" + KINDS[kind] + "[redis counters]\nlisten = 127.0.0.1:{redis_port}\nnodes = 127.0.0.1:1\n"
    with MongoPuerta(["127.0.0.1:1"], conf=conf, counters=True) as p:
        yield p


def added(text, scope, line, keep=True):
    """The file with that line in the section, in the place of the one of that key; or without it."""
    head = "[puerta]\n" if scope == "puerta" else "[%s main]\n" % scope
    at = text.index(head) + len(head)
    end = text.find("\n[", at - 1) + 1
    kept = [old for old in text[at:end].splitlines() if old.split(" = ")[0] != line.split(" = ")[0]]
    return text[:at] + "".join(old + "\n" for old in kept + [line] * keep) + text[end:]


def kill_worker(p):
    """It dies, and another one serves in its place."""
    served = p.log_text().count('msg="serving"')
    os.kill(p.worker(), signal.SIGKILL)
    wait_for("a new worker", lambda: p.log_text().count('msg="serving"') > served)
