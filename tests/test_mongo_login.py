"""Puerta's own login at the mongos (mongo_login.c): both mechanisms, what a server may get wrong, salted passwords kept, and that nobody waits.

In these tests it is the probe of deep_probe that logs in: it asks listDatabases as upstream_user.
"""
import os
import platform
import re
import threading
import time

import pytest

import harness
import mongo_harness
from bson import Binary
from fake import scram
from harness import SLOW, wait_for
from mongo_harness import MongoPuerta

VERSION = re.search(r'PUERTA_VERSION "([^"]+)"', harness.read_file(os.path.join(harness.ROOT, "puerta.h"))).group(1)
USERS = {"app": "pencil", "a,b=c\u00f6": "p,=\u00f6 x"}
QUICK = dict(probe_interval="200ms", probe_timeout="1s" if SLOW == 1 else "5s", rise=1, fall=1, dial_timeout="1s", slow_start=0, deep_probe="yes",
             upstream_user="app", upstream_password="pencil")
REFUSED = r'level=warn msg="a mongos does not let us in" mongos=%s why=.*'


@pytest.fixture
def front(ferret):
    with mongo_harness.fronts(ferret, 1, users=dict(USERS)) as cluster:
        yield cluster[0]


def probe_of(front):
    """The connection on which Puerta has logged in, now; None while there is none."""
    return next((c for c in list(front.clients) if c.user is not None), None)


def asked_by(client, *names):
    return [s for s in client.front.commands(*names) if s.connection is client]


def logged_in(p, front, user="app"):
    p.wait_state(front, "up")
    wait_for("listDatabases as " + user, lambda: probe_of(front) is not None and asked_by(probe_of(front), "listDatabases"))
    client = probe_of(front)
    assert client.user == user and not re.search(REFUSED % re.escape(front.address), p.log_text())
    return client


def test_it_logs_in_with_the_first_hello(front):
    with MongoPuerta([front], **QUICK) as p:
        client = logged_in(p, front)
        hello, proof, question = [s.body for s in front.seen if s.connection is client][:3]
        metadata = {k: dict(v) for k, v in client.metadata.items()}
        assert metadata == {"application": {"name": "mongo"}, "driver": {"name": "puerta", "version": VERSION}, "os": {"type": platform.system()}}
        assert hello["saslSupportedMechs"] == "admin.app" and hello["$db"] == "admin" and "loadBalanced" not in hello and "compression" not in hello
        start = hello["speculativeAuthenticate"]
        assert start["mechanism"] == "SCRAM-SHA-256" and start["db"] == "admin" and start["options"]["skipEmptyExchange"] is True
        assert list(proof)[0] == "saslContinue" and list(question)[0] in ("hello", "listDatabases")
        assert not front.commands("saslStart") and "pencil" not in p.log_text()


@pytest.mark.parametrize("toggles,starts,continues", [
    (dict(speculative=False), ["SCRAM-SHA-256"], 1),
    (dict(mechanisms=("SCRAM-SHA-1",)), ["SCRAM-SHA-1"], 1),
    (dict(mechanisms=("SCRAM-SHA-1",), skip_empty=False), ["SCRAM-SHA-1"], 2),
    (dict(speculative=False, skip_empty=False), ["SCRAM-SHA-256"], 2),
    (dict(skip_empty=False), [], 2),
    (dict(rounds=100000), [], 1),
    (dict(hello_fields={"saslSupportedMechs": None}, speculative=False), ["SCRAM-SHA-1"], 1),
    (dict(ok_as=int), [], 1),
    (dict(ok_as=bool), [], 1),
    (dict(checksums="always"), [], 1),
], ids=str)
@pytest.mark.parametrize("user", USERS)
def test_it_logs_in_as_the_server_can(front, toggles, starts, continues, user):
    front.set(**toggles)
    with MongoPuerta([front], **dict(QUICK, upstream_user=user, upstream_password=USERS[user], upstream_auth_db="shop")) as p:
        client = logged_in(p, front, user)
        asked = asked_by(client, "saslStart", "saslContinue")
        assert [s.body["mechanism"] for s in asked if s.name == "saslStart"] == starts
        assert len(asked) == len(starts) + continues and all(s.body["$db"] == "shop" for s in asked)
        if continues == 2:
            assert asked[-1].body["payload"] == b""


def test_it_logs_in_with_the_servers_keyfile(front, tmp_path):
    path = tmp_path / "keyfile"
    path.write_text("0123456789abcdef\n  " + "ABCD+/" * 100 + "==\r\n")
    path.chmod(0o600)
    front.users["__system"] = "0123456789abcdef" + "ABCD+/" * 100 + "=="
    options = {k: v for k, v in QUICK.items() if k not in ("upstream_user", "upstream_password")}
    for mechanisms in (("SCRAM-SHA-256",), ("SCRAM-SHA-1",)):
        front.set(mechanisms=mechanisms)
        with MongoPuerta([front], upstream_keyfile=str(path), **options) as p:
            client = logged_in(p, front, "__system")
            assert asked_by(client, "hello")[0].body["saslSupportedMechs"] == "local.__system"
            assert asked_by(client, "saslContinue")[0].body["$db"] == "local" and "ABCD" not in p.log_text()


def test_it_logs_in_behind_a_proxy_header(ferret):
    with mongo_harness.fronts(ferret, 1, users=dict(USERS), load_balancer=True) as cluster:
        with MongoPuerta([cluster[0].load_balancer_address], mode="loadbalanced", upstream_proxy="v2", **QUICK) as p:
            p.wait_state(cluster[0].load_balancer_address, "up")
            wait_for("a login", lambda: probe_of(cluster[0]))
            assert asked_by(probe_of(cluster[0]), "hello")[0].body["loadBalanced"] is True


def test_without_deep_probe_nobody_logs_in(front):
    with MongoPuerta([front], **dict(QUICK, deep_probe="no")) as p:
        p.wait_state(front, "up")
        wait_for("five hellos", lambda: len(front.commands("hello")) > 5)
        assert not front.commands("saslStart", "saslContinue") and all("speculativeAuthenticate" not in s.body for s in front.commands("hello"))


# ------------------------------------------------------------------ refusals

def test_with_the_wrong_password_a_mongos_is_down_until_it_is_right(front):
    with MongoPuerta([front], counters=True, **dict(QUICK, upstream_password="wrong")) as p:
        p.wait_log(REFUSED % re.escape(front.address) + r"the login of app at %s: Authentication failed\. \(code 18\)" % re.escape(front.address))
        p.wait_state(front, "down")
        assert p.counter("upstream_login_failures") >= 1
        with p.client() as c:
            assert "the login of app at " in c.hello()["errmsg"]
        front.users["app"] = "wrong"
        p.wait_state(front, "up")
        assert probe_of(front).user == "app"
        log = p.log_text()
        failed = p.counter("upstream_login_failures")
        wait_for("more questions", lambda: len(asked_by(probe_of(front), "listDatabases")) > 3)
        assert p.counter("upstream_login_failures") == failed and "wrong" not in log


def test_an_unknown_user(front):
    with MongoPuerta([front], **dict(QUICK, upstream_user="nobody")) as p:
        p.wait_log(REFUSED % re.escape(front.address) + r"the login of nobody .*\(code 18\)")
        p.wait_state(front, "down")


def lie(step, change):
    """A sasl_answer that changes the answer to one step."""
    def answer(at, payload, document):
        return change(payload, dict(document)) if at == step else document
    return answer


def says(**fields):
    def change(_payload, document):
        document.update(fields)
        return {k: v for k, v in document.items() if v is not None}
    return change


def payload(pattern, replacement):
    def change(old, document):
        new = re.sub(pattern, replacement, old)
        assert new != old
        document["payload"] = Binary(new, 0)
        return document
    return change


def other_signature(old, document):
    document["payload"] = Binary(b"v=" + bytes([old[2] ^ 1]) + old[3:], 0)
    return document


LIES = {
    "another nonce": (1, payload(rb"r=.", b"r=!"), "a nonce that is not ours"),
    "nothing behind our nonce": (1, payload(rb"r=(.{24})[^,]*", rb"r=\1"), "a nonce that is not ours"),
    "few rounds": (1, payload(rb"i=\d+", b"i=4095"), "fewer than 4096 rounds"),
    "many rounds": (1, payload(rb"i=\d+", b"i=1000001"), "more than 1000000 rounds"),
    "no salt": (1, payload(rb"s=[^,]*", b"s="), "none of SCRAM"),
    "a long salt": (1, payload(rb"s=[^,]*", b"s=" + b"QUJD" * 30), "none of SCRAM"),
    "a long nonce": (1, payload(rb",s=", b"x" * 600 + b",s="), "longer than one of SCRAM"),
    "an extension": (1, payload(rb"$", b",x=y"), "none of SCRAM"),
    "nothing at first": (1, says(payload=Binary(b"", 0)), "none of SCRAM"),
    "no payload at first": (1, says(payload=None), "no step of a login"),
    "text as payload": (1, says(payload="r=x"), "no step of a login"),
    "done at first": (1, says(done=True), "no step of a login"),
    "no conversation": (1, says(conversationId=None), "no step of a login"),
    "a wide conversation": (1, says(conversationId=1 << 40), "no step of a login"),
    "another signature": (2, other_signature, "does not show that it knows the password"),
    "no signature": (2, says(payload=Binary(b"", 0)), "does not show that it knows the password"),
    "an error for a signature": (2, says(payload=Binary(b"e=other-error", 0)), "does not show that it knows the password"),
    "a signature and more": (2, payload(rb"$", b"="), "does not show that it knows the password"),
    "another conversation": (2, says(conversationId=2), "no step of this login"),
    "no done": (2, says(done=None), "no step of this login"),
    "not done at last": (3, says(done=False), "not the last step"),
    "more at last": (3, says(payload=Binary(b"x", 0)), "not the last step"),
    "another conversation at last": (3, says(conversationId=7), "not the last step"),
}


@pytest.mark.parametrize("name", sorted(LIES))
def test_a_server_that_lies_is_not_believed(front, name):
    step, change, why = LIES[name]
    front.set(sasl_answer=lie(step, change), skip_empty=step != 3, speculative=step != 1)
    with MongoPuerta([front], counters=True, **QUICK) as p:
        p.wait_log(REFUSED % re.escape(front.address) + "the login of app at .*" + why)
        assert p.counter("upstream_login_failures") >= 1
        wait_for("the connection to be closed", lambda: not front.everyone[0].is_open)
        assert not front.commands("listDatabases")
        front.set(sasl_answer=None)
        logged_in_again(p, front)


def logged_in_again(p, front):
    p.wait_state(front, "up")
    wait_for("listDatabases", lambda: probe_of(front) is not None and asked_by(probe_of(front), "listDatabases"))


FAULTS = {
    "another responseTo": (dict(header={"response_to": 7}), "does not answer as a mongos does"),
    "an OP_QUERY": (dict(header={"opcode": 2004}), "does not answer as a mongos does"),
    "too short a length": (dict(header={"length": 17}), "speaks out of turn"),
    "no length": (dict(header={"length": 3}), "does not answer as a mongos does"),
    "a negative length": (dict(header={"length": -1}), "does not answer as a mongos does"),
    "a huge length": (dict(header={"length": 40000000}), "does not answer as a mongos does"),
    "nonsense": (dict(raw=b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not answer as a mongos does"),
    "a header alone": (dict(raw=b"\x10\0\0\0" + b"\0" * 12), "does not answer as a mongos does"),
    "an error": (dict(error={"code": 11, "errmsg": "no\n\u00f6" * 1000}), r"no\?\?\?no.*\(code 11\)"),
    "silence": (dict(silent=True), "not done within handshake_timeout"),
    "half an answer": (dict(cut=40, then="pause"), "not done within handshake_timeout"),
    "a closed connection": (dict(cut=40), "closed the connection"),
}


@pytest.mark.parametrize("command", ["hello", "saslStart", "saslContinue"])
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_an_answer_that_is_none_ends_it(front, name, command):
    what, why = FAULTS[name]
    front.set(speculative=command != "saslStart")
    fault = front.fault(command, **what)
    with MongoPuerta([front], **dict(QUICK, handshake_timeout="500ms" if SLOW == 1 else "3s")) as p:
        p.wait_log(REFUSED % re.escape(front.address) + "the login of app at .*" + why)
        wait_for("the connection to be closed", lambda: not front.everyone[0].is_open)
        fault.clear()
        logged_in_again(p, front)


def test_answers_byte_by_byte(front):
    front.set(speculative=False, skip_empty=False, write_rate=0)
    front.fault(["hello", "saslStart", "saslContinue"], pieces=1, pause=0.0002)
    with MongoPuerta([front], **QUICK) as p:
        logged_in(p, front)


def test_more_than_was_asked_for(front):
    """Bytes behind an answer, and bytes while the password is being salted."""
    front.set(rounds=1000000)

    def twice(_at, _payload, document):
        client = next(c for c in front.clients if c.login is not None)
        front.cluster._loop.call_later(0.05, lambda: client.writer.write(b"early"))
        return document

    front.set(sasl_answer=twice)
    with MongoPuerta([front], **QUICK) as p:
        p.wait_log(REFUSED % re.escape(front.address) + "speaks out of turn")
        front.set(sasl_answer=None)
        logged_in_again(p, front)


def test_one_that_shuts_down_is_drained_not_refused(front):
    with MongoPuerta([front], **QUICK) as p:
        logged_in(p, front)
        front.quiesce(600000)
        p.wait_state(front, "draining")
        count = len(front.everyone)
        front.drop_clients()
        wait_for("another probe", lambda: len(front.everyone) > count and any("speculativeAuthenticate" not in h for c in front.everyone[count:] for h in c.hellos))
        assert not re.search(REFUSED % re.escape(front.address), p.log_text())
        front.recover()
        logged_in_again(p, front)


# ------------------------------------------------- the rounds, and who waits

def seconds_of(front, client):
    """From the answer's question (hello) to the proof: what the rounds took."""
    return asked_by(client, "saslContinue")[0].at - asked_by(client, "hello")[0].at


def test_nobody_waits_while_a_password_is_salted_and_it_is_salted_once(ferret):
    with mongo_harness.fronts(ferret, 2, users=dict(USERS)) as fronts:
        a, b = fronts
        with MongoPuerta([a], **QUICK) as p, MongoPuerta([a, b], balance="round-robin", **QUICK) as q:
            logged_in(p, a)
            wait_for("two logins", lambda: probe_of(a) and probe_of(b))
            q.wait_state(a, "up")
            q.wait_state(b, "up")
            with q.client() as one, q.client() as two:
                for c in (one, two):
                    assert c.hello(app_name="x%d" % id(c))["ok"]
                c = next(c for c in (one, two) if a.app_names().get("x%d" % id(c)))
                took, over = [], threading.Event()

                def ping():
                    while not over.is_set():
                        began = time.monotonic()
                        assert c.ask({"ping": 1})["ok"]
                        took.append((began, time.monotonic() - began))

                scram.know("SCRAM-SHA-256", "app", "pencil", 1000000, " anew")
                b.set(rounds=1000000, salt=" anew")
                known = len(b.everyone)
                thread = threading.Thread(target=ping)
                thread.start()
                try:
                    b.drop_clients()
                    wait_for("the login with many rounds", lambda: any(n.user for n in b.everyone[known:]), 60)
                finally:
                    over.set()
                    thread.join()
                client = next(n for n in b.everyone[known:] if n.user)
                long = seconds_of(b, client)
                began = asked_by(client, "hello")[0].at
                meanwhile = [t for at, t in took if at < began + long and at + t > began]
                assert long > 0.1 and len(meanwhile) > 20 and max(meanwhile) < long / 3, (long, len(meanwhile), max(meanwhile))
                # Known now: the next login is quick, though it says as many rounds.
                known = len(b.everyone)
                b.drop_clients()
                wait_for("another login", lambda: any(n.user for n in b.everyone[known:]))
                assert seconds_of(b, next(n for n in b.everyone[known:] if n.user)) < long / 3


def test_logins_that_need_other_salts_wait_for_each_other(ferret):
    """As __system has it: mongos say salts of their own."""
    with mongo_harness.fronts(ferret, 6, users=dict(USERS), rounds=100000) as fronts:
        for i, f in enumerate(fronts):
            f.set(salt=" of %d" % (i // 2), mechanisms=("SCRAM-SHA-1",) if i % 3 == 0 else f.mechanisms)
        with MongoPuerta(list(fronts), **QUICK) as p:
            for f in fronts:
                logged_in(p, f)
            known = [probe_of(f) for f in fronts]
            for f in fronts:
                f.set(salt=" changed")
                f.drop_clients()
            for f, before in zip(fronts, known):
                wait_for("a new login", lambda f=f, before=before: probe_of(f) not in (None, before))


# ----------------------------------------------------------------- pooled mode

POOLED = dict({k: v for k, v in QUICK.items() if k != "deep_probe"}, mode="pooled", pool_min=0, pool_max=20)


def logins(front):
    return [c for c in list(front.everyone) if c.metadata and c.metadata["driver"]["name"] == "puerta"]


def test_each_pooled_connection_logs_in_and_the_password_is_salted_once(ferret):
    """Twenty at once, with rounds that take a while: the first one's keys do for all of them."""
    scram.know("SCRAM-SHA-256", "app", "pencil", 400000)
    with mongo_harness.fronts(ferret, 1, users=dict(USERS), rounds=400000) as (front,), MongoPuerta([front], **dict(POOLED, pool_dials=20)) as p:
        p.wait_state(front, "up")
        front.fault("find", delay=0.3)  # so that each client needs a connection of its own
        clients = [p.client() for _ in range(20)]
        try:
            for c in clients:
                assert c.hello(app_name="many")["ok"]
            for c in clients:
                c.send({"find": "none"})
            for c in clients:
                assert c.read().body["ok"]
        finally:
            for c in clients:
                c.close()
        made = logins(front)
        assert 10 < len(made) <= 20 and all(c.user == "app" for c in made) and all(c.app_name == "mongo" for c in made)
        first = min(asked_by(c, "hello")[0].at for c in made)
        last = max(asked_by(c, "saslContinue")[0].at for c in made)
        one = min(seconds_of(front, c) for c in made)
        assert last - first < 5 * max(one, 0.2), (last - first, one)


def test_a_pool_logs_in_again_after_a_restart(front):
    with MongoPuerta([front], **POOLED) as p, p.client() as c:
        p.wait_state(front, "up")
        assert c.hello()["ok"] and c.ask({"find": "none"})["ok"]
        front.stop()
        p.wait_state(front, "down")
        known = len(front.everyone)
        front.start()
        p.wait_state(front, "up", 2)
        wait_for("an answer", lambda: c.ask({"find": "none"})["ok"])
        assert [c.user for c in front.everyone[known:] if c in logins(front)] == ["app"]


@pytest.mark.parametrize("what,why", [(dict(users={"app": "other"}), "Authentication failed"), (dict(sasl_answer=lie(2, other_signature)), "does not show")],
                         ids=["password", "signature"])
def test_a_pool_that_cannot_log_in_says_so_to_its_clients(front, what, why):
    was = {name: getattr(front, name) for name in what}
    front.set(**what)
    with MongoPuerta([front], counters=True, **dict(POOLED, pool_wait="1s")) as p, p.client() as c:
        p.wait_state(front, "up")
        assert c.hello()["ok"]
        answer = c.ask({"find": "none"})
        assert answer["ok"] == 0 and answer["code"] == 6 and "pencil" not in str(answer), answer
        assert p.counter("upstream_login_failures") >= 1
        assert re.search(REFUSED % re.escape(front.address) + "the login of app at .*" + why, p.log_text())
        front.set(**was)
        wait_for("an answer", lambda: c.ask({"find": "none"})["ok"])
