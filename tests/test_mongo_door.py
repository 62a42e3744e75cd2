"""The door of MongoDB's pooled mode: logins with SCRAM-SHA-256 that Puerta checks itself, guesses, hostile SASL, protected mode.

    Talk (SCRAM by hand), pymongo, node --> Puerta, mode = pooled, user = ... --> Front (scripted mongos) --> FerretDB

Each wrong byte of a login also in tests/unit/test_mongo_greet.c.
"""
import base64
import contextlib
import functools
import hashlib
import hmac
import os
import socket
import subprocess
import sys
import threading
import time

import bson
import pymongo
import pymongo.errors
import pytest

import harness
import mongo_harness
from fake import wire
from harness import SLOW, wait_for
from mongo_harness import MongoClient, MongoPuerta, run_driver

QUICK = dict(mongo_harness.QUICK, mode="pooled")
SECRET = "s3cr3t, w=rd"
FAILED = "Authentication failed."
FLOOD = 100

@functools.lru_cache(maxsize=None)
def keys(password=SECRET):
    return harness.keys_of(password, 4096)


@contextlib.contextmanager
def guarded(front, **options):
    """A Puerta whose clients have to be `anna`, or `b=r,t`; with counters."""
    conf = ("[mongo main]\nlisten = 127.0.0.1:{port}\nmongos = {mongos}\n" + mongo_harness._lines(dict(QUICK, **options)) +
            "user = anna %s\nuser = b=r,t %s\n[redis counters]\nlisten = 127.0.0.1:{redis_port}\nnodes = 127.0.0.1:1\n" % (keys(), keys("other")))
    with MongoPuerta([front], conf=conf, counters=True) as p:
        p.wait_state(front, "up")
        yield p


def visitor(p, source):
    """A client from another of the loopback addresses: to Puerta another machine, as far as guesses go."""
    c = MongoClient.__new__(MongoClient)
    c.timeout = 20.0 * SLOW
    c.sock = socket.create_connection(("127.0.0.1", p.port), c.timeout, source_address=(source, 0))
    c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    c.last_id = 0
    return c


class Talk:
    """One login of a client: its messages, step by step."""

    def __init__(self, user="anna", password=SECRET, skip=True):
        self.password = password
        self.nonce = base64.b64encode(os.urandom(18))
        self.bare = b"n=" + user.replace("=", "=3D").replace(",", "=2C").encode() + b",r=" + self.nonce
        self.skip = skip

    def start(self, **more):
        return dict({"saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": b"n,," + self.bare, "autoAuthorize": 1,
                     "options": {"skipEmptyExchange": self.skip}}, **more)

    def final(self, first):
        """The final message to that first one of the server."""
        first = bytes(first)
        parts = dict(p.split(b"=", 1) for p in first.split(b","))
        assert parts[b"r"].startswith(self.nonce) and len(parts[b"r"]) > len(self.nonce)
        self.salt, self.rounds = parts[b"s"], int(parts[b"i"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), base64.b64decode(self.salt), self.rounds)
        client = hmac.new(salted, b"Client Key", "sha256").digest()
        bare = b"c=biws,r=" + parts[b"r"]
        signed = self.bare + b"," + first + b"," + bare
        signature = hmac.new(hashlib.sha256(client).digest(), signed, "sha256").digest()
        self.expects = hmac.new(hmac.new(salted, b"Server Key", "sha256").digest(), signed, "sha256").digest()
        return bare + b",p=" + base64.b64encode(bytes(a ^ b for a, b in zip(client, signature)))

    def step(self, answer):
        return {"saslContinue": 1, "conversationId": answer["conversationId"], "payload": self.final(answer["payload"])}

    def log_in(self, c, db="admin"):
        """The whole of it; the last answer."""
        answer = c.ask(self.start(), db=db)
        if not answer["ok"]:
            return answer
        assert answer["done"] is False
        answer = c.ask(self.step(answer), db=db)
        if answer["ok"]:
            assert bytes(answer["payload"]) == b"v=" + base64.b64encode(self.expects) and answer["done"] is self.skip
        if answer["ok"] and not self.skip:
            answer = c.ask({"saslContinue": 1, "conversationId": answer["conversationId"], "payload": b""}, db=db)
            assert answer["done"] is True and bytes(answer["payload"]) == b""
        return answer


def friend(p):
    c = p.client()
    assert Talk().log_in(c)["ok"] == 1
    return c


def is_stranger(c):
    answer = c.ask({"find": "nothing"}, db="puerta")
    assert answer["ok"] or (answer["code"], answer["codeName"]) == (13, "Unauthorized"), answer
    return not answer["ok"]


def refused(answer):
    assert (answer["ok"], answer["code"], answer["codeName"], answer["errmsg"]) == (0.0, 18, "AuthenticationFailed", FAILED), answer
    return True


# ------------------------------------------------------------------ logins

@pytest.mark.parametrize("skip", [True, False])
def test_a_login_by_hand(front, skip):
    with guarded(front) as p, p.client() as c, p.client() as other:
        assert is_stranger(c)
        assert Talk(skip=skip).log_in(c)["ok"] == 1
        assert not is_stranger(c) and is_stranger(other)
        assert Talk("b=r,t", "other", skip).log_in(other, db="elsewhere")["ok"] == 1
        assert not is_stranger(other)
        assert c.ask({"logout": 1})["ok"] == 1
        assert is_stranger(c) and not is_stranger(other)
        assert p.counter("auth_failures") == 0 and not front.commands("saslStart", "saslContinue", "logout")


def test_a_login_that_begins_in_hello(front):
    with guarded(front) as p:
        for ask in (lambda c, d: c.ask(d), lambda c, d: by_query(c, d)):
            with p.client() as c:
                talk = Talk()
                hello = ask(c, {"isMaster": 1, "helloOk": True, "saslSupportedMechs": "admin.anna", "speculativeAuthenticate": talk.start(db="admin")})
                assert hello["ok"] and hello["saslSupportedMechs"] == ["SCRAM-SHA-256"]
                answer = c.ask(talk.step(hello["speculativeAuthenticate"]))
                assert answer["ok"] and answer["done"] is True
                assert not is_stranger(c)


def by_query(c, document):
    c.last_id += 1
    c.send_raw(wire.op_query(document, c.last_id))
    return c.read().body


def test_what_cannot_begin_in_hello_is_left_out(front):
    with guarded(front) as p, p.client() as c:
        for start in ({"authenticate": 1, "mechanism": "MONGODB-X509"}, {"saslStart": 1}, {"saslStart": 1, "mechanism": "SCRAM-SHA-1", "payload": b"n,,n=a,r=b"},
                      Talk().start(payload=b"n,,"), Talk().start(payload="text"), "text"):
            answer = c.ask({"hello": 1, "speculativeAuthenticate": start})
            assert answer["ok"] == 1 and "speculativeAuthenticate" not in answer, start
        assert p.counter("auth_failures") == 0


def test_what_a_stranger_may_ask(front):
    with guarded(front) as p, p.client() as c:
        assert c.hello(app_name="stranger")["ok"] and c.ask({"ping": 1})["ok"] and c.ask({"logout": 1})["ok"]
        front.clear()
        for document in ({"find": "x"}, {"insert": "x", "documents": [{}]}, {"killCursors": "x", "cursors": [bson.Int64(5)]}, {"endSessions": []},
                         {"killSessions": []}, {"listDatabases": 1}, {"buildInfo": 1}, {"connectionStatus": 1}, {"whatsmyuri": 1}, {"nonsense": 1},
                         {"getMore": bson.Int64(5), "collection": "x"}, {"commitTransaction": 1}):
            answer = c.ask(document)
            assert (answer["code"], answer["codeName"]) == (13, "Unauthorized") and next(iter(document)) in answer["errmsg"], answer
        c.send({"insert": "stranger", "documents": [{"x": "y" * 100000}]}, db="puerta", flags=wire.MORE_TO_COME)
        c.send({"insert": "stranger"}, db="puerta", sequences=[("documents", [bson.encode({"x": "y" * 1000000})])])
        assert c.read().body["code"] == 13
        assert c.ask({"ping": 1})["ok"]
        assert {s.name for s in front.seen} <= {"hello"}


@pytest.mark.parametrize("options", ["", "authMechanism=SCRAM-SHA-256", "authSource=elsewhere", "appName=tests"])
def test_pymongo_logs_in(front, options):
    with guarded(front) as p:
        with pymongo.MongoClient("mongodb://anna:%s@%s/?%s" % ("s3cr3t%2C%20w%3Drd", p.address, options)) as driver:
            driver.puerta.logins.insert_one({"by": options})
            assert driver.puerta.logins.find_one({"by": options})
        for user, secret in (("anna", "wrong"), ("nobody", "s3cr3t%2C%20w%3Drd")):
            with pymongo.MongoClient("mongodb://%s:%s@%s/?%s" % (user, secret, p.address, options)) as driver:
                with pytest.raises(pymongo.errors.OperationFailure) as e:
                    driver.puerta.logins.find_one()
                assert e.value.code == 18 and FAILED in str(e.value)
        with pymongo.MongoClient(p.uri()) as driver, pytest.raises(pymongo.errors.OperationFailure) as e:
            driver.puerta.logins.find_one()
        assert e.value.code == 13
        assert "s3cr3t" not in p.log_text() and "wrong user or password" in p.log_text()


def test_the_other_mechanism_is_told(front):
    with guarded(front) as p, pymongo.MongoClient("mongodb://anna:x@%s/?authMechanism=SCRAM-SHA-1" % p.address) as driver:
        with pytest.raises(pymongo.errors.OperationFailure) as e:
            driver.puerta.logins.find_one()
        assert e.value.code == 18 and "SCRAM-SHA-256" in str(e.value)
        assert p.counter("auth_failures") == 0


@pytest.mark.parametrize("script", mongo_harness.DRIVERS)
def test_drivers_with_a_login(front, script):
    with guarded(front) as p:
        code, result = run_driver(script, "mongodb://anna:s3cr3t%%2C%%20w%%3Drd@%s/" % p.address)
        assert (code, result["failed"]) == (0, {}), result
        assert p.counter("auth_failures") == 0 and p.counter("auth_delayed") == 0


def test_clients_logins_and_puertas_own_are_two_things(front):
    """Clients are known here, Puerta at the mongos: neither has the other's password."""
    front.set(users={"puerta": "inner secret"})
    with guarded(front, upstream_user="puerta", upstream_password="inner secret") as p, p.client() as c:
        assert is_stranger(c)
        assert refused(Talk("puerta", "inner secret").log_in(c))
        assert Talk().log_in(c)["ok"] == 1
        assert c.ask({"insert": "two", "documents": [{"x": 1}]}, db="puerta")["n"] == 1
        users = c.ask({"connectionStatus": 1})["authInfo"]["authenticatedUsers"]
        assert [u["user"] for u in users] == ["puerta"]  # whose rights count at the mongos
        assert c.ask({"logout": 1})["ok"] == 1 and is_stranger(c)
        with friend(p) as other:
            assert other.ask({"find": "two"}, db="puerta")["ok"] == 1  # the shared connection has not been logged out
        assert not front.commands("logout")


def test_a_section_without_users_takes_no_logins(front):
    with MongoPuerta([front], **QUICK) as p:
        p.wait_state(front, "up")
        for options in ("", "authMechanism=SCRAM-SHA-256"):
            with pymongo.MongoClient("mongodb://anna:x@%s/?%s" % (p.address, options)) as driver:
                with pytest.raises(pymongo.errors.OperationFailure) as e:
                    driver.puerta.logins.find_one()
                assert e.value.code == 18 and "takes no logins" in str(e.value) and "connection string" in str(e.value)
        with pymongo.MongoClient(p.uri()) as driver:
            assert driver.puerta.nothing.find_one() is None


# ----------------------------------------------------------------- guesses

def test_who_exists_is_not_told(front):
    with guarded(front) as p, p.client() as c:
        assert c.ask({"hello": 1, "saslSupportedMechs": "admin.anna"})["saslSupportedMechs"] == ["SCRAM-SHA-256"]
        assert c.ask({"hello": 1, "saslSupportedMechs": "admin.nobody"})["saslSupportedMechs"] == ["SCRAM-SHA-256"]
        said = {}
        for user in ("anna", "nobody", "nobody", "somebody"):
            talk = Talk(user, "wrong")
            first = c.ask(talk.start())
            talk.step(first)
            said.setdefault(user, set()).add((len(first["payload"]), len(talk.salt), talk.rounds))
            said.setdefault(user + " salt", set()).add(talk.salt)
        assert said["anna"] == said["nobody"] == said["somebody"] and all(len(s) == 1 for s in said.values())
        assert said["nobody salt"] != said["somebody salt"]
        for user in ("anna", "nobody"):
            assert refused(Talk(user, "wrong").log_in(c))
        assert p.counter("auth_failures") == 2


def test_guesses_wait_by_where_they_come_from(front):
    with guarded(front) as p:
        for _ in range(6):
            with visitor(p, "127.0.0.2") as c:
                assert refused(Talk(password="wrong").log_in(c))
        assert p.counter("auth_failures") == 6 and p.counter("auth_delayed") == 3
        with visitor(p, "127.0.0.2") as c, visitor(p, "127.0.0.3") as far:
            talk = Talk()
            began = time.monotonic()
            c.send(talk.start())
            assert Talk().log_in(far)["ok"] == 1  # of another address: at once, though c came before
            assert is_stranger(far) is False
            first = c.read().body
            assert time.monotonic() - began >= 0.35
            assert c.ask(talk.step(first))["ok"] == 1  # right: it waited all the same
        with visitor(p, "127.0.0.2") as c:
            hello = c.ask({"hello": 1, "speculativeAuthenticate": Talk().start(db="admin")})
            assert hello["ok"] and "speculativeAuthenticate" not in hello  # its driver comes with a saslStart, which waits
        with visitor(p, "127.0.0.2") as c:
            c.send(Talk().start())  # leaves while it waits
        with pymongo.MongoClient("mongodb://anna:s3cr3t%%2C%%20w%%3Drd@%s/" % p.address) as driver:
            assert driver.puerta.nothing.find_one() is None


# ---------------------------------------------------------------- hostile SASL

def test_every_truncation_of_each_message(front):
    with guarded(front) as p, friend(p) as other:
        failures = 0
        for at, cut in enumerate(range(0, len(Talk().start()["payload"]))):
            source = "127.0.%d.%d" % (1 + at // 200, 10 + at % 200)  # each from elsewhere, so that none has to wait
            with visitor(p, source) as c:
                talk = Talk()
                answer = c.ask(talk.start(payload=talk.start()["payload"][:cut]))
                assert answer["ok"] or refused(answer)
                failures += not answer["ok"]
                assert is_stranger(c)
        with p.client() as c:
            talk = Talk()
            whole = len(talk.step(c.ask(talk.start()))["payload"])
        for at, cut in enumerate(range(whole)):
            with visitor(p, "127.0.%d.%d" % (11 + at // 200, 10 + at % 200)) as c:
                talk = Talk()
                step = talk.step(c.ask(talk.start()))
                assert refused(c.ask(dict(step, payload=step["payload"][:cut])))
                failures += 1
                answer = c.ask(step)
                assert answer["code"] == 17, answer  # that login is over
                assert is_stranger(c)
        assert p.counter("auth_failures") == failures
        assert not is_stranger(other)


def test_a_recorded_login_is_worth_nothing(front):
    with guarded(front) as p:
        talk = Talk()
        with p.client() as c:
            step = talk.step(c.ask(talk.start()))
            assert c.ask(step)["ok"] == 1
            assert c.ask(step)["code"] == 17
            assert not is_stranger(c)
        with p.client() as c:
            answer = c.ask(talk.start())
            assert answer["ok"] == 1
            assert refused(c.ask(dict(step, conversationId=answer["conversationId"])))
            assert is_stranger(c)
        with p.client() as c:
            assert c.ask(step)["code"] == 17
            assert is_stranger(c)
        assert p.counter("auth_failures") == 1


def test_what_is_no_login(front):
    large = b"n,,n=" + b"a" * 60000 + b",r=abcdefgh"
    with guarded(front) as p:
        for number, (document, code) in enumerate((
                (Talk().start(payload=large), 18), (Talk().start(payload=b""), 18), (Talk().start(payload=b"\0" * 100), 18),
                (Talk().start(payload=b"p=tls-unique,,n=anna,r=abcdefgh"), 18), (Talk().start(payload=b"n,a=other,n=anna,r=abcdefgh"), 18),
                (Talk().start(payload="n,,n=anna,r=abcdefgh"), 14), (Talk().start(mechanism="PLAIN"), 18), (Talk().start(mechanism=5), 18),
                ({"saslStart": 1}, 18), ({"saslContinue": 1}, 17), ({"saslContinue": 1, "conversationId": 1, "payload": b"x"}, 17))):
            with visitor(p, "127.0.2.%d" % (number + 1)) as c:
                answer = c.ask(document)
                assert (answer["ok"], answer["code"]) == (0.0, code), (document, answer)
                assert is_stranger(c) and Talk().log_in(c)["ok"] == 1 and not is_stranger(c)
        with p.client() as c:
            c.send(Talk().start(padding=b"x" * 100000))
            answer = c.read().body
            assert answer["code"] == 17 and "64 KiB" in answer["errmsg"]
        with p.client() as c:
            c.send(Talk().start(), flags=wire.MORE_TO_COME)
            c.send(Talk().start(payload=b"x"), flags=wire.MORE_TO_COME)
            assert is_stranger(c)


def test_a_second_hello_and_a_second_login(front):
    with guarded(front) as p, p.client() as c:
        talk = Talk()
        first = c.ask(talk.start())
        assert c.hello(app_name="in between")["ok"]
        assert c.ask(talk.step(first))["ok"] == 1  # a hello does not end it
        assert not is_stranger(c)
        assert c.hello(app_name="again")["code"] == 186 and not is_stranger(c)
        assert refused(Talk(password="wrong").log_in(c)) and not is_stranger(c)  # as at a server, it stays who it was
        talk, other = Talk(), Talk("b=r,t", "other")
        first = c.ask(talk.start())
        assert other.log_in(c)["ok"] == 1
        assert c.ask(talk.step(first))["code"] == 17  # the second start ended the first


def test_logout_midway(front):
    with guarded(front) as p, friend(p) as c, friend(p) as other:
        c.ask({"insert": "logout", "documents": [{"n": i} for i in range(50)]}, db="puerta")
        cursor = c.ask({"find": "logout", "batchSize": 2}, db="puerta")["cursor"]["id"]
        get_more = {"getMore": bson.Int64(cursor), "collection": "logout", "batchSize": 2}
        front.fault("getMore", 1, delay=0.3)
        c.send(get_more, db="puerta")
        c.send({"logout": 1})
        c.send(get_more, db="puerta")
        assert c.read().body["ok"] == 1 and c.read().body["ok"] == 1  # what was asked before it is answered
        assert c.read().body["code"] == 13
        assert other.ask(get_more, db="puerta")["ok"] == 1
        talk = Talk()
        first = c.ask(talk.start())
        assert c.ask({"logout": 1})["ok"] == 1
        assert c.ask(talk.step(first))["code"] == 17 and is_stranger(c)


def test_a_flood_of_starts_disturbs_nobody(front):
    """Many who begin logins and never end them, and some who guess: somebody who has logged in goes on as before."""
    with guarded(front) as p, friend(p) as other:
        stop = threading.Event()
        errors = []

        def flood(number):
            try:
                while not stop.is_set():
                    with visitor(p, "127.0.3.%d" % (number + 1)) as c:
                        for _ in range(5):
                            c.send(Talk("user %d" % number).start())
                            c.read()
                        if number % 4 == 0:
                            assert refused(Talk(password="wrong").log_in(c))
            except Exception as e:  # noqa: BLE001
                errors.append(e)

        threads = [threading.Thread(target=flood, args=(i,)) for i in range(20)]
        for t in threads:
            t.start()
        waits = []
        for _ in range(FLOOD):
            began = time.monotonic()
            assert other.ask({"find": "nothing"}, db="puerta")["ok"]
            waits.append(time.monotonic() - began)
        with friend(p) as late:
            assert not is_stranger(late)
        stop.set()
        for t in threads:
            t.join()
        assert not errors, errors[0]
        assert sorted(waits)[len(waits) // 2] < 0.3 * SLOW, waits  # none waits as those who guess do
        wait_for("all of them to be gone", lambda: p.counter("connected_clients") <= 2)


# ------------------------------------------------------------- protected mode

def check_protected():
    address = harness.own_address()
    login = "upstream_user = puerta\nupstream_password = x\n"

    def started(*lines):
        conf = ("[mongo main]\nlisten = 0.0.0.0:{port}\nmongos = 127.0.0.1:%d\nhandshake_timeout = 300ms\n" % harness.free_port() +
                "pool_wait = 300ms\nmode = pooled\n" + "".join(lines) + "[redis counters]\nlisten = 127.0.0.1:{redis_port}\nnodes = 127.0.0.1:1\n")
        return MongoPuerta([], conf=conf, counters=True)

    def says(p, host):
        with MongoClient(p.port, host=host) as c:
            return c.ask({"find": "nothing"}, db="puerta")

    with started(login) as p:
        answer = says(p, address)
        assert answer["code"] == 13 and "protected = no" in answer["errmsg"] and "user" in answer["errmsg"], answer
        assert says(p, "127.0.0.1")["code"] == 6  # let in: it is the mongos that is not there
        with MongoClient(p.port, host=address) as c:
            assert c.ask({"hello": 1})["code"] == 6
        assert p.counter("clients_denied") == 2 and "client=%s:" % address in p.log_text()
    for lines in ((login, "protected = no\n"), ()):
        with started(*lines) as p:
            assert says(p, address)["code"] == 6 and p.counter("clients_denied") == 0
    with started(login, "user = anna %s\n" % keys()) as p:
        answer = says(p, address)
        assert answer["code"] == 13 and "requires authentication" in answer["errmsg"] and p.counter("clients_denied") == 0


def test_protected_mode():
    if harness.own_address() is not None:
        check_protected()
        return
    # A network of its own, where this test runs again.
    again = "ip link set lo up && ip address add 198.51.100.7/32 dev lo && exec \"$@\""
    done = subprocess.run(["unshare", "-rn", "sh", "-c", again, "sh", sys.executable, "-m", "pytest", "-q", __file__ + "::test_protected_mode"],
                          env=dict(os.environ, PUERTA_OWN_ADDRESS="198.51.100.7"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=120 * SLOW)
    assert done.returncode == 0 and b"1 passed" in done.stdout, done.stdout.decode()
