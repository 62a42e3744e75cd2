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
from test_mongo import closed, more_of, where
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
        with Load(p.port, "-n", 1000000000, "-c", 50, "-m", 900, "-b", 65536) as load:
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
    # Pass-through: after drain_timeout connections that never rest together would be closed one by one, and a getMore may meet a closed one.
    with mongo_harness.fronts(ferret) as fronts, mongo_puerta(list(fronts), users, mode=mode, drain_timeout="10m", probe_timeout="20s") as p:
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


@contextlib.contextmanager
def three_at_one(ferret, **options):
    """(Puerta, a mongos, another, three connections of one client there, as a driver has them)."""
    with mongo_harness.fronts(ferret, 2) as fronts, mongo_puerta(list(fronts), mode="passthrough", **options) as p, contextlib.ExitStack() as stack:
        for f in fronts:
            p.wait_state(f, "up")
        three = [stack.enter_context(p.client()) for _ in range(3)]
        place = where(three[0], fronts, app_name="three")
        assert [where(c, fronts, app_name="three") for c in three[1:]] == [place] * 2
        yield p, place, next(f for f in fronts if f is not place), three


def begins_to_leave(p, place, other, client):
    """The mongos is not named any more, while that client is just opening a cursor there. Gives what holds the answer back."""
    assert client.ask({"insert": "leaving", "documents": [{"n": i} for i in range(6)]}, db="puerta")["n"] == 6
    find = place.fault("find", hold=True)
    client.send({"find": "leaving", "batchSize": 2}, db="puerta")
    wait_for("the find to be there", lambda: find.held == 1)
    r = Reloads(p)
    r.reload(put_option(r.text(), "mongos", other.address))
    return find


def held_back(place, client, document):
    """Asks that until it is not answered because it does not come to the mongos. Gives how many have come there."""
    name = next(iter(document))
    while True:
        so_far = len(place.commands(name))
        client.send(document, db="puerta")
        try:
            assert client.read(timeout=0.2).body["ok"]
        except TimeoutError:
            if len(place.commands(name)) == so_far:
                return so_far
            client.read()


@pytest.mark.parametrize("ends", ["soon", "late"])
def test_connections_that_never_rest_together_leave_together(ferret, ends):
    """What drivers ask again waits for that; what they do not, and so must find its connection, goes on over any of them."""
    s, other_s = mongo_harness.Session(), mongo_harness.Session()
    with three_at_one(ferret) as (p, place, other, (a, b, c)):
        find = begins_to_leave(p, place, other, a)
        count = held_back(place, b, dict({"count": "leaving"}, **s.plain))
        if ends == "late":  # it is let be
            assert b.read().body["ok"] and c.ask(dict({"count": "leaving"}, **other_s.plain), db="puerta")["ok"]
            count += 2
        assert c.ask({"ping": 1})["ok"]
        assert c.ask(dict({"insert": "leaving_t", "documents": [{"a": 1}]}, **s.begin()), db="puerta")["ok"]
        writes = {"aggregate": "leaving", "pipeline": [{"$match": {"n": 1}}, {"$out": "left"}], "cursor": {}}
        c.ask(dict(writes, **other_s.plain), db="puerta")
        assert place.commands("aggregate")
        find.clear()
        cursor = a.read().body["cursor"]["id"]
        assert cursor and s.commit(c)["ok"]
        while cursor:
            answer = more_of(c, cursor, "leaving")
            assert answer["ok"], answer
            cursor = answer["cursor"]["id"]
        assert closed(a) and closed(b) and closed(c)
        assert len(place.commands("count")) == count
        with p.client() as new:
            assert where(new, [place, other], app_name="three") is other


def test_connections_that_never_rest_leave_one_by_one_in_the_end(ferret):
    with three_at_one(ferret, drain_timeout="300ms") as (p, place, other, (a, b, c)):
        find = begins_to_leave(p, place, other, a)
        assert closed(b) and closed(c)
        find.clear()
        cursor = a.read().body["cursor"]["id"]
        assert more_of(a, cursor, "leaving")["ok"]


def test_what_is_held_back_goes_on_when_its_mongos_is_named_again(ferret):
    s = mongo_harness.Session()
    with three_at_one(ferret) as (p, place, other, (a, b, c)):
        find = begins_to_leave(p, place, other, a)
        count = held_back(place, b, dict({"count": "leaving"}, **s.plain))
        r = Reloads(p)
        r.reload(put_option(r.text(), "mongos", "%s, %s" % (place.address, other.address)))
        assert b.read().body["ok"] and len(place.commands("count")) == count + 1
        find.clear()
        cursor = a.read().body["cursor"]["id"]
        assert more_of(b, cursor, "leaving")["ok"] and c.ask({"ping": 1})["ok"]


# ---- every option ----

def options_told():
    """(scope, key, default, range, whether it needs a restart) of each option, as -h options tells."""
    scope, told = None, []
    for line in harness.subprocess.run([harness.BINARY, "-h", "options"], stdout=harness.subprocess.PIPE, check=True).stdout.decode().splitlines():
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
    "upstream_password": "an-other", "password": "an-other", "upstream_auth_db": "shop", "command": "json.get first read", "log_level": "debug", "admin_hosts": "puerta.example", "trusted": "10.0.0.0/8", "allow": "127.0.0.0/8, 10.0.0.0/8", "deny": "192.0.2.7", "socket_mode": "660", "pool_min": "1", "pool_max": "20",
}
SECRETS = {"admin_token_file": "0123456789abcdef0123456789abcdef\n", "upstream_password_file": "a third\n", "password_file": "a third\n", "upstream_keyfile": "QUJDREVGR0hJSktM\n"}


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


# With what has tables only where it is used.
GATE = "max_per_address = 1000\n"
KINDS = {
    "redis": "[redis main]\nlisten = 127.0.0.1:{port}\nnodes = 127.0.0.1:1\n" + GATE,
    "mongo": "[mongo main]\nlisten = 127.0.0.1:{port}\nmongos = 127.0.0.1:1\nmode = pooled\npool_max = 10\n" + GATE,
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


def test_the_example_names_what_needs_a_restart():
    text = harness.read_file(os.path.join(harness.ROOT, "puerta.conf.example"))
    named = re.search(r"are for the next start.*?:\n((?:#   .*\n)+)", text).group(1)
    assert set(re.findall(r"\w+", named.replace("[puerta] ", ""))) == {o[1] for o in OPTIONS if o[4]}
    both = {o[1] for o in OPTIONS if o[4]} & {o[1] for o in OPTIONS if not o[4]}
    assert both == set(re.findall(r"\[puerta\] (\w+)", named)), "a name that means both: %s" % both


def pause():
    """A kind of line is written ten times a second at most."""
    time.sleep(0.15)


@contextlib.contextmanager
def bare(kind):
    """A Puerta with one section before nobody, and one to ask it for its counters."""
    conf = "[puerta]\n" + KINDS[kind] + "[redis counters]\nlisten = 127.0.0.1:{redis_port}\nnodes = 127.0.0.1:1\naccept_proxy = yes\ntrusted = 203.0.113.1\n"
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


# ---- what changes, seen by clients: Redis mode ----

def says(c, what):
    """A field of HELLO."""
    answer = c.ask("HELLO")
    return answer[answer.index(what) + 1].decode()


def test_options_take_effect_in_redis_mode(cluster):
    with redis_puerta([n.address for n in cluster.masters]) as p, p.client() as c, p.client() as idle:
        r = Reloads(p)
        text = r.text()
        assert idle.ask("PING") == b"PONG" and says(c, b"version") == "7.0.15"
        assert "allow_admin" in str(c.try_ask("SHUTDOWN", "ABORT")) or "admin" in str(c.try_ask("SHUTDOWN", "ABORT"))
        r.reload(text + "redis_version = 7.4.2\nannounce = puerta.example:7000\n")
        assert says(c, b"version") == "7.4.2" and c.ask("CLUSTER", "SLOTS")[0][2][:2] == [b"puerta.example", 7000]
        before = c.try_ask("CONFIG", "GET", "maxmemory-policy")
        assert not isinstance(before, RespError)
        # A client that is there becomes one that may not be silent.
        r.reload(text + "client_idle = 300ms\n")
        assert idle.at_end(5)
        r.asker = None
        with p.client() as kept:
            r.reload(text)
            assert says(kept, b"version") == "7.0.15" and kept.silent(0.5)


def test_a_password_comes_changes_and_goes(cluster):
    with redis_puerta([n.address for n in cluster.masters]) as p, p.client() as old:
        r = Reloads(p)
        text = r.text()
        assert old.ask("SET", "k", "v") == b"OK"
        r.reload(text + "password = first\n")
        with p.client() as late, p.client() as stranger:
            assert "NOAUTH" in str(late.try_ask("GET", "k")) and "NOAUTH" in str(stranger.try_ask("GET", "k"))
            assert late.ask("AUTH", "first") == b"OK" and late.ask("GET", "k") == b"v"
            assert old.ask("GET", "k") == b"v"  # it has come in, and stays
            r.reload(text + "password = second\n")
            assert late.ask("GET", "k") == b"v" and "WRONGPASS" in str(stranger.try_ask("AUTH", "first"))
            assert stranger.ask("AUTH", "second") == b"OK" and stranger.ask("GET", "k") == b"v"
            with p.client() as last:
                assert "NOAUTH" in str(last.try_ask("GET", "k"))
                r.reload(text)
                assert last.ask("GET", "k") == b"v"  # there is no door any more that it could wait at


def test_a_password_of_a_file_changes_with_that_file(cluster):
    with redis_puerta([n.address for n in cluster.masters]) as p, p.client() as old:
        r = Reloads(p)
        secret = os.path.join(p.folder, "secret")

        def put(text):
            with open(secret, "w") as f:
                f.write(text)
            os.chmod(secret, 0o600)

        put("one\n")
        r.reload(r.text() + "password_file = %s\n" % secret)
        assert figures(r.reload()) == (0, 0)
        put("two\n")
        assert figures(r.reload()) == (1, 0)
        with p.client() as c:
            assert "WRONGPASS" in str(c.try_ask("AUTH", "one")) and c.ask("AUTH", "two") == b"OK"
        assert "one" not in p.log_text().split("serving")[1] and "two" not in p.log_text()
        assert old.ask("PING") == b"PONG"


def test_a_change_takes_effect_in_less_than_100_ms(cluster):
    """From the signal to the first client that sees it, the file of the example's size; the best of some, since others work here too."""
    with redis_puerta([n.address for n in cluster.masters]) as p, p.client() as c:
        r = Reloads(p)
        text = r.text() + "".join("# a comment\n" * 500)
        took = []
        for i in range(10):
            r.write(text + "redis_version = 7.0.%d\n" % i)
            begun = time.monotonic()
            r.signal()
            while says(c, b"version") != "7.0.%d" % i:
                assert time.monotonic() - begun < 20 * SLOW
            took.append(time.monotonic() - begun)
        assert min(took) < 0.1 * SLOW, took


def test_nodes_of_redis_are_only_where_it_is_learnt_from(cluster):
    """Another seed, and all others gone: the map goes on, and so do clients."""
    addresses = [n.address for n in cluster.masters]
    with redis_puerta(addresses[:1]) as p, p.client() as c:
        r = Reloads(p)
        keys_there = [cluster.key_on(i, "reload") for i in range(3)]
        for k in keys_there:
            assert c.ask("SET", k, k) == b"OK"
        r.reload(r.text().replace(addresses[0], addresses[2]))
        for k in keys_there:
            assert c.ask("GET", k) == k.encode()
        assert "node not named any more" in p.log_text() and "node forgotten" not in p.log_text()
        lines = r.reload(r.text().replace(addresses[2], "127.0.0.1:1"))
        assert figures(lines) == (1, 0)
        for k in keys_there:
            assert c.ask("GET", k) == k.encode()


def test_the_one_server_of_a_single_topology_waits_for_a_restart(cluster):
    conf = CONF % ("yes", "", "topology = single\n")
    node = harness.RedisNode(harness.temporary_folder("puerta-single-"), harness.free_port(), {"save": ""})
    node.start()
    try:
        with Puerta([node.address], conf=conf) as p, p.client() as c:
            r = Reloads(p)
            lines = r.reload(r.text().replace(node.address, "127.0.0.1:1"))
            assert figures(lines) == (0, 1) and "option=nodes now=" in "".join(lines)
            assert c.ask("PING") == b"PONG" and not isinstance(c.try_ask("SET", "a", "b"), RespError)
    finally:
        node.stop()


def turned_away(p):
    with p.client() as c:
        try:
            return isinstance(c.try_ask("PING"), RespError)
        except (EOFError, ConnectionError):
            return True


def test_who_may_come_and_how_often_follows(cluster):
    with redis_puerta([n.address for n in cluster.masters], options="max_per_address = 100\n") as p, p.client() as c:
        r = Reloads(p)
        text = r.text()
        r.told()
        r.reload(text + "deny = 127.0.0.0/8\n")
        assert turned_away(p)
        assert c.ask("PING") == b"PONG"
        r.reload(text.replace("= 100", "= 2"))
        assert turned_away(p)
        assert figures(r.reload(text + "request_limit = 2k\n")) == (2, 0)
        assert "request_limit" in str(c.try_ask("SET", "k", "x" * 5000))
        # Two a second, then any number again: who waits by the old rate does not.
        r.reload(text + "request_rate = 2\n")
        with p.client() as other:
            other.send_raw(harness.encode("PING") * 30)
            assert [other.read() for _ in range(2)] == [b"PONG"] * 2 and other.silent(0.2)
            begun = time.monotonic()
            r.asker = None
            p.process.send_signal(signal.SIGHUP) if not r.write(text) else None
            assert [other.read() for _ in range(28)] == [b"PONG"] * 28
            assert time.monotonic() - begun < 8
        # What one limit had tables for another one can take.
        assert figures(r.reload(text.replace("max_per_address = 100", "byte_rate = 100k"))) == (2, 0)
        # They are there for as long as this worker, whether or not a limit is in force.
        assert figures(r.reload(text.replace("max_per_address = 100\n", ""))) == (1, 0)
        with p.client() as one, p.client() as two:
            assert one.ask("PING") == two.ask("PING") == b"PONG"
            assert figures(r.reload(text.replace("= 100", "= 2"))) == (1, 0)
            assert turned_away(p)  # those who came in meanwhile count
    section = "[redis other]\nlisten = 127.0.0.1:%d\nnodes = %s\nmax_per_address = 100\n" % (harness.free_port(), cluster.masters[0].address)
    with redis_puerta([n.address for n in cluster.masters], options=section) as p, p.client() as c:
        r = Reloads(p)
        assert c.ask("PING") == b"PONG"
        assert figures(r.reload(r.text().replace("[redis other]", "request_rate = 2\n[redis other]"))) == (1, 0)
        c.send_raw(harness.encode("PING") * 5)  # who came before there was a limit has it too
        assert [c.read() for _ in range(2)] == [b"PONG"] * 2 and c.silent(0.2)
    with redis_puerta([n.address for n in cluster.masters]) as p:
        r = Reloads(p)
        lines = r.reload(r.text() + "max_per_address = 2\naccept_proxy = yes\n")
        assert figures(lines) == (0, 2), lines


# ---- what changes, seen by clients: MongoDB mode ----

def test_weights_and_balance_take_effect(ferret):
    with mongo_harness.fronts(ferret) as fronts, mongo_puerta(list(fronts), affinity="connection") as p, contextlib.ExitStack() as stack:
        r = Reloads(p)
        for f in fronts:
            p.wait_state(f, "up")

        def spread(count):
            at = [where(stack.enter_context(p.client()), fronts) for _ in range(count)]
            return [at.count(f) for f in fronts]

        assert spread(9) == [3, 3, 3]
        r.reload(put_option(r.text(), "mongos", ", ".join(f.address + "*50" * (f is fronts[1]) for f in fronts)))
        assert spread(30)[1] > 25
        r.reload(put_option(r.text(), "balance", "round-robin"))
        assert spread(9) == [3, 3, 3]


def test_affinity_and_its_grace_take_effect(ferret):
    """One application comes again and again: to where it was, until nothing is remembered of it."""
    with mongo_harness.fronts(ferret) as fronts, mongo_puerta(list(fronts), balance="round-robin") as p:
        r = Reloads(p)
        for f in fronts:
            p.wait_state(f, "up")

        def again():
            with p.client() as c:
                return where(c, fronts, app_name="one")

        def others():
            return len({again() for _ in range(6)})

        assert others() == 1
        r.reload(put_option(r.text(), "affinity_grace", "0"))
        again()
        wait_for("it to be forgotten each time", lambda: others() > 1)
        r.reload(put_option(r.text(), "affinity_grace", "10m"))
        again()
        assert others() == 1
        r.reload(put_option(r.text(), "affinity", "connection"))
        assert others() == 3


def test_idle_clients_and_their_time_in_mongodb_mode(ferret):
    for mode in ("passthrough", "pooled"):
        with mongo_harness.fronts(ferret, 1) as (front,), mongo_puerta([front], mode=mode) as p, p.client() as idle:
            r = Reloads(p)
            p.wait_state(front, "up")
            assert idle.hello(app_name="idle")["ok"]
            r.reload(put_option(r.text(), "client_idle", "300ms"))
            assert closed(idle, 5)
            with p.client() as c:
                assert c.hello(app_name="kept")["ok"]
                r.reload(put_option(r.text(), "client_idle", "0"))
                time.sleep(0.6)
                assert c.ask({"ping": 1})["ok"]


def test_a_mongos_comes_and_another_goes(ferret):
    """Who has a cursor open where it is not named any more is served to its end; nobody new comes there, until it is named again."""
    with mongo_harness.fronts(ferret) as fronts, mongo_puerta(list(fronts[:2])) as p:
        r = Reloads(p)
        for f in fronts[:2]:
            p.wait_state(f, "up")
        with p.client() as c:
            place = where(c, fronts, app_name="here")
            cursor = test_action.opened(c, "comes_and_goes", count=6)
            stays = next(f for f in fronts[:2] if f is not place)
            lines = r.reload(put_option(r.text(), "mongos", "%s, %s" % (stays.address, fronts[2].address)))
            assert any("node not named any more" in line and place.address in line for line in lines)
            p.wait_state(fronts[2], "up")
            for i in range(8):
                with p.client() as other:
                    assert where(other, fronts, app_name="new%d" % i) in (stays, fronts[2])
            seen = 2
            while cursor:
                answer = test_action.more_of(c, cursor, "comes_and_goes")
                assert answer["ok"], answer
                seen += len(answer["cursor"]["nextBatch"])
                cursor = answer["cursor"]["id"]
            assert seen == 6 and closed(c)  # nothing is open any more: it may come again, and elsewhere
        r.reload(put_option(r.text(), "mongos", place.address))
        p.wait_log('msg="node named again" node=%s' % place.address)
        wait_for("all to come there", lambda: all(at_place(p, fronts, "back%d" % i) is place for i in range(4)))


def at_place(p, fronts, name):
    with p.client() as c:
        return where(c, fronts, app_name=name)


@pytest.mark.skipif(not LONG, reason="a mongos is forgotten a minute after it is named no more")
def test_a_mongos_that_is_gone_is_forgotten(ferret):
    """Its entry is another's then: with a table of two, a third one finds room."""
    conf = MONGO.replace("max_clients", "max_backends = 3\nmax_clients") % mongo_harness._lines(dict(mongo_harness.QUICK, mode="pooled"))
    with mongo_harness.fronts(ferret) as fronts, MongoPuerta([fronts[0]], conf=conf, counters=True) as p, p.client() as c:
        r = Reloads(p)
        p.wait_state(fronts[0], "up")
        assert c.hello()["ok"] and c.ask({"ping": 1})["ok"]
        r.reload(put_option(r.text(), "mongos", fronts[1].address))
        p.wait_state(fronts[1], "up")
        r.reload(put_option(r.text(), "mongos", "%s, %s" % (fronts[1].address, fronts[2].address)))
        p.wait_log("no entry left for a node")
        p.wait_log('msg="node forgotten" node=%s' % fronts[0].address, timeout=90)
        p.wait_state(fronts[2], "up")
        assert c.ask({"ping": 1})["ok"] and not fronts[0].app_names()


def test_the_pool_follows(ferret):
    with mongo_harness.fronts(ferret, 2) as fronts, mongo_puerta([fronts[0]], mode="pooled", pool_max=4) as p, p.client() as c:
        r = Reloads(p)
        p.wait_state(fronts[0], "up")
        assert c.hello()["ok"]

        def there(f):
            """Connections of the pool; those that ask how it is say no name."""
            return sum(n for name, n in f.app_names().items() if name == "main")

        r.reload(put_option(r.text(), "pool_min", "3"))
        wait_for("three connections", lambda: there(fronts[0]) == 3)
        # Two mongos where there are four connections in the tables: each has its share, and both serve.
        lines = r.reload(put_option(put_option(r.text(), "mongos", ", ".join(f.address for f in fronts)), "pool_min", "4"))
        assert any("more pooled connections than there were at the start need a restart" in line for line in lines), lines
        p.wait_state(fronts[1], "up")
        wait_for("two connections to each: %r" % [there(f) for f in fronts], lambda: [there(f) for f in fronts] == [2, 2])
        clients = [p.client() for _ in range(12)]
        try:
            for each in clients:
                assert each.hello()["ok"]
            for _ in range(3):
                for each in clients:
                    each.send({"find": "nothing"})
                for each in clients:
                    assert each.read().body["ok"]
        finally:
            for each in clients:
                each.close()
        kill_worker(p)  # whose successor has tables for what is asked for now
        r.asker = None
        p.wait_state(fronts[1], "up", 2)
        wait_for("four connections to each", lambda: [there(f) for f in fronts] == [4, 4])


def login(p, user="anna", password=SECRET):
    c = p.client()
    assert c.hello(app_name=user)["ok"]
    answer = Talk(user, password).log_in(c)
    if not answer["ok"]:
        c.close()
    return c if answer["ok"] else None


def test_users_come_and_go(ferret):
    """Who has come in stays, whatever password it is now; who is no user any more is gone once its request is answered."""
    users = "user = anna %s\nuser = b %s\n" % (keys(), keys("other"))
    with mongo_harness.fronts(ferret, 1) as (front,), mongo_puerta([front], users, mode="pooled") as p:
        r = Reloads(p)
        text = r.text()
        p.wait_state(front, "up")
        anna, b, busy = login(p), login(p, "b", "other"), login(p, "b", "other")
        assert login(p, "c", "third") is None
        front.fault("find", delay=0.5)
        busy.send({"find": "nothing"})
        wait_for("its request to be there", lambda: front.commands("find"))
        r.reload(text.replace("user = b %s" % keys("other"), "user = c %s" % keys("third")).replace(keys(), keys("changed")))
        assert closed(b)
        assert busy.read().body["ok"] and closed(busy)
        assert anna.ask({"find": "nothing"})["ok"]
        assert login(p) is None and login(p, "b", "other") is None
        for c in (login(p, "c", "third"), login(p, "anna", "changed")):
            assert c.ask({"find": "nothing"})["ok"]
            c.close()
        for c in (anna, b, busy):
            c.close()


def test_a_login_under_way_meets_a_reload(ferret):
    """Between two of its messages: its user has another place in the file, is gone, has come."""
    users = "user = anna %s\nuser = b %s\n" % (keys(), keys("other"))
    with mongo_harness.fronts(ferret, 1) as (front,), mongo_puerta([front], users, mode="pooled") as p:
        r = Reloads(p)
        text = r.text()
        p.wait_state(front, "up")
        for after, fine in ((text.replace(users, "".join(reversed(users.splitlines(True)))), True), (text.replace(users.splitlines(True)[1], ""), False),
                            (text.replace(users, ""), False)):
            r.reload(text)
            with p.client() as c:
                talk = Talk("b", "other")
                answer = c.ask(talk.start())
                assert answer["ok"], answer
                r.reload(after)
                assert bool(c.ask(talk.step(answer))["ok"]) is fine
        with p.client() as c:  # no users: all may come in, and nobody logs in
            assert c.ask({"find": "nothing"})["ok"] and not Talk().log_in(c)["ok"]
        assert figures(r.reload(text)) == (1, 0)
        c = login(p, "b", "other")
        assert c.ask({"find": "nothing"})["ok"]
        c.close()
    with mongo_harness.fronts(ferret, 1) as (front,), mongo_puerta([front], mode="pooled") as p:
        r = Reloads(p)
        assert figures(r.reload(r.text().replace("[mongo main]\n", "[mongo main]\n" + users))) == (0, 1)  # for which there are no tables


def test_the_login_at_the_mongos_changes(ferret):
    """A wrong password becomes right: at once, and without a mongos that was down meanwhile being up before."""
    with mongo_harness.fronts(ferret, 1, users={"app": "pencil", "two": "second"}) as (front,):
        with mongo_puerta([front], mode="pooled", upstream_user="app", upstream_password="pencil", deep_probe="yes", protected="no") as p, p.client() as c:
            r = Reloads(p)
            p.wait_state(front, "up")
            assert c.hello()["ok"] and c.ask({"find": "nothing"})["ok"]
            known = len(front.everyone)
            r.reload(put_option(put_option(r.text(), "upstream_user", "two"), "upstream_password", "second"))
            wait_for("an answer as the other user", lambda: c.ask({"find": "nothing"})["ok"] and
                     {n.user for n in front.everyone[known:] if n.user} == {"two"})
            assert front.commands("find")[-1].connection.user == "two"
            assert not re.search(r"from=up to=down", p.log_text())
            r.reload(put_option(r.text(), "upstream_password", "wrong"))
            wait_for("refusal", lambda: "a mongos does not let us in" in p.log_text())
            r.reload(put_option(r.text(), "upstream_password", "second"))
            wait_for("an answer", lambda: c.ask({"find": "nothing"})["ok"])


def test_deep_probe_is_turned_on_without_a_mongos_going_down(ferret):
    with mongo_harness.fronts(ferret, 1, users={"app": "pencil"}) as (front,):
        with mongo_puerta([front], fall=1, upstream_user="app", upstream_password="pencil") as p:
            r = Reloads(p)
            p.wait_state(front, "up")
            r.reload(put_option(r.text(), "deep_probe", "yes"))
            wait_for("listDatabases", lambda: front.commands("listDatabases"))
            r.reload(put_option(r.text(), "deep_probe", "no"))
            asked = len(front.commands("hello"))
            wait_for("some more hellos", lambda: len(front.commands("hello")) > asked + 3)
            assert "from=up to=" not in p.log_text()


# ---- what goes wrong ----

def test_a_bad_file_changes_nothing(cluster):
    with redis_puerta([n.address for n in cluster.masters]) as p, p.client() as c:
        r = Reloads(p)
        text = r.text()
        for bad, says_so in ((text + "redis_version = 9\n", "not a version"), (text + "bogus = 1\n", "no such key"), ("", "no section to serve"),
                             (text + "client_idle = 5\n", "a time without a unit"), (text.replace("nodes = ", "#"), "no nodes in section"),
                             (text + "redis_version = 7.9.9\npassword_file = /nothing/there\n", "No such file"), ("\0" * 100, "a zero byte")):
            lines = r.refused(bad)
            assert any(says_so in line for line in lines), lines
            assert says(c, b"version") == "7.0.15" and c.ask("PING") == b"PONG"
            pause()
        assert figures(r.reload(text)) == (0, 0)
        os.remove(r.path)
        assert any("cannot be opened" in line for line in r.refused())
        os.mkdir(r.path)
        assert any("cannot be read" in line or "cannot be opened" in line for line in r.refused())
        os.rmdir(r.path)
        if os.getuid() != 0:
            r.write(text)
            os.chmod(r.path, 0)
            assert any("cannot be opened" in line for line in r.refused())
        assert figures(r.reload(text + "redis_version = 7.9.9\n")) == (1, 0) and says(c, b"version") == "7.9.9"
        settled(p)


def test_a_secret_is_never_told(cluster):
    with redis_puerta([n.address for n in cluster.masters]) as p:
        r = Reloads(p)
        text = r.text()
        r.reload(text + "password = s3cr3t-one\nupstream_user = default\nupstream_password = s3cr3t-two\n")
        r.refused(text + "pasword = s3cr3t-three\n")
        r.reload(text)
        assert "s3cr3t" not in p.log_text()


@pytest.mark.skipif(not LONG, reason="a reader has ten seconds")
def test_a_file_that_never_ends(cluster):
    """A pipe that nobody writes to: its reader is ended, and meanwhile nothing waits."""
    with redis_puerta([n.address for n in cluster.masters]) as p, p.client() as c:
        r = Reloads(p)
        text = r.text()
        r.told()
        os.remove(r.path)
        os.mkfifo(r.path)
        r.signal()
        wait_for("its reader", lambda: len(harness.children_of(p.process.pid)) == 2)
        for _ in range(100):
            assert c.ask("PING") == b"PONG"
        wait_for("its end", lambda: r.told()[1] == 1, 15)
        settled(p)
        os.remove(r.path)
        assert figures(r.reload(text + "redis_version = 7.9.9\n")) == (1, 0)


def test_storms_of_signals(cluster):
    """However many come, and whatever the file is at the moment: the last state of it is what holds, and nothing is left over."""
    with redis_puerta([n.address for n in cluster.masters]) as p, Load(p.port, "-n", 1000000000, "-c", 10, "-m", 200, "-b", 4096) as load:
        r = Reloads(p)
        text = r.text()
        load.wait_answers(100)
        for i in range(300):
            r.write(text + ("redis_version = 7.1.%d\n" % i if i % 3 else "bogus = 1\n"))
            r.signal()
            if i % 20 == 0:
                time.sleep(0.01)
        r.write(text + "redis_version = 7.9.9\n")
        r.signal()
        with p.client() as c:
            wait_for("the last file to hold", lambda: says(c, b"version") == "7.9.9")
        settled(p)
        load.finish(stop=True).check()


def test_a_worker_that_dies_in_the_middle(cluster):
    """Whenever that is: the next one begins with what was accepted last, or with what came before it, and reads the file when it is told to."""
    with redis_puerta([n.address for n in cluster.masters]) as p:
        r = Reloads(p)
        text = r.text()
        for i in range(12 if LONG else 4):
            r.write(text + "redis_version = 7.1.%d\n" % i)
            worker, served = p.worker(), p.log_text().count('msg="serving"')
            r.signal()
            time.sleep(0.001 * i)
            os.kill(worker, signal.SIGKILL)
            wait_for("the next worker", lambda: p.log_text().count('msg="serving"') > served)
            p.wait_ready()
            with p.client() as c:
                assert says(c, b"version") in ["7.0.15"] + ["7.1.%d" % k for k in range(i + 1)]
            r.asker = None
            r.reload()
            with p.client() as c:
                assert says(c, b"version") == "7.1.%d" % i
        settled(p)


def test_a_signal_while_there_is_no_worker(cluster):
    """It is heard by the next one."""
    with redis_puerta([n.address for n in cluster.masters]) as p:
        r = Reloads(p)
        r.write(r.text() + "redis_version = 7.9.9\n")
        os.kill(p.worker(), signal.SIGKILL)
        wait_for("it to be noticed", lambda: "the worker has died" in p.log_text())
        r.signal()
        p.wait_ready()
        with p.client() as c:
            wait_for("the new file to hold", lambda: says(c, b"version") == "7.9.9")


def test_the_accepted_file_outlives_the_worker_and_the_file(cluster):
    with redis_puerta([n.address for n in cluster.masters]) as p:
        r = Reloads(p)
        text = r.text()
        r.reload(text + "redis_version = 7.9.9\n")
        r.refused("bogus\n")
        kill_worker(p)
        p.wait_ready()
        with p.client() as c:
            assert says(c, b"version") == "7.9.9"


@pytest.mark.parametrize("supervise", ["yes", "no"])
def test_without_the_second_process_a_reload_is_refused(cluster, supervise):
    with redis_puerta([n.address for n in cluster.masters], supervise=supervise) as p, p.client() as c:
        child = harness.children_of(p.process.pid)[0]
        worker, second = (child, p.process.pid) if supervise == "yes" else (p.process.pid, child)
        r = Reloads(p)
        r.write(r.text() + "redis_version = 7.9.9\n")
        before = r.told()
        os.kill(second, signal.SIGKILL)
        wait_for("that to be noticed", lambda: "the parent process has gone" in p.log_text())
        os.kill(worker, signal.SIGHUP)
        wait_for("the refusal", lambda: r.told() == (before[0], before[1] + 1))
        assert "only a restart reads the file again" in p.log_text() and says(c, b"version") == "7.0.15"
        if supervise == "yes":
            os.kill(worker, signal.SIGTERM)
            wait_for("its end", lambda: c.at_end(0.1))
            p.process.wait()
            p.expect_exit = -signal.SIGKILL


def test_a_quick_start_has_nothing_to_read(cluster):
    with Puerta(cluster) as p, p.client() as c:
        p.process.send_signal(signal.SIGHUP)
        wait_for("a sentence", lambda: "there is no configuration to read again" in p.log_text())
        assert c.ask("PING") == b"PONG"


def test_a_relative_path_is_meant_from_where_it_was_started(cluster, tmp_path):
    port = harness.free_port()
    path = tmp_path / "p.conf"
    path.write_text((CONF % ("yes", "", "")).format(port=port, seeds=",".join(n.address for n in cluster.masters)))
    log = str(tmp_path / "log")
    process = harness.start([harness.BINARY, "-c", "p.conf"], log, cwd=str(tmp_path))
    try:
        wait_for("it to serve", lambda: "serving" in harness.read_file(log))
        path.write_text(path.read_text() + "redis_version = 7.9.9\n")
        process.send_signal(signal.SIGHUP)
        wait_for("a reload", lambda: 'option=redis_version was="7.0.15" now="7.9.9"' in harness.read_file(log))
        path.write_text("bogus\n")
        process.send_signal(signal.SIGHUP)
        wait_for("a refusal", lambda: "says=\"p.conf:1: " in harness.read_file(log))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20 * SLOW) == 0
        harness.ended(process)


# ---- asked for by other ways than a signal ----

def test_who_asks_is_told_what_came_of_it(cluster):
    with redis_puerta([n.address for n in cluster.masters], options="allow_admin = yes\n") as p, p.client() as c, p.client() as gone:
        r = Reloads(p)
        text = r.text()
        r.write(text + "client_idle = 1h\nclient_stall = 20s\n")
        assert b"options changed: 2" in c.ask("PUERTA", "RELOAD")
        r.write(text.replace("[puerta]", "[puerta]\nchunks = 4096\nmax_clients = 99"))
        told = c.ask("PUERTA", "RELOAD").decode()
        assert "options changed: 2; a restart is needed for" in told, told
        assert "chunks of puerta (2048, in the file 4096)" in told and "max_clients of puerta (4096, in the file 99)" in told, told
        r.write("bogus\n")
        told = c.try_ask("PUERTA", "RELOAD")
        assert isinstance(told, RespError) and "puerta.conf:1: " in str(told), told
        # One that leaves before its answer, and signals meanwhile.
        r.write(text)
        before = r.told()
        gone.send("PUERTA", "RELOAD")
        r.signal()
        gone.close()
        wait_for("the file to be read", lambda: r.told()[0] > before[0])
        assert b"options changed: 0" in wait_for("no other reload to be under way", lambda: again(c))


def again(c):
    answer = c.try_ask("PUERTA", "RELOAD")
    return None if isinstance(answer, RespError) else answer


def test_the_quick_start_says_that_there_is_no_file(cluster):
    with Puerta(cluster, allow_admin="yes") as p, p.client() as c:
        answer = c.try_ask("PUERTA", "RELOAD")
        assert isinstance(answer, RespError) and "file" in str(answer), answer
