"""What an operator does to a running Puerta: drain, undrain, down, kill; and what clients see of it, in both modes.

    PUERTA DRAIN ... (a Redis listener with allow_admin) --> Puerta --> Front, Front, Front --> FerretDB
    MongoClient (raw), pymongo (threads) ------------------->        --> a real Redis Cluster

The words are asked over a Redis listener, since that is there in each of these; they are the same in each way to ask (test_admin.py,
test_puerta_command.py).
"""
import contextlib
import os
import threading
import time

import bson
import pymongo
import pytest

import harness
import mongo_harness
from harness import SLOW, Puerta, RespError, wait_for
from mongo_harness import QUICK, MongoPuerta, Session, closed
from test_mongo import more_of, opened, where

CONF = """[puerta]
[redis ops]
listen = 127.0.0.1:{redis_port}
nodes = 127.0.0.1:1
allow_admin = yes
[mongo main]
listen = 127.0.0.1:{port}
mongos = {mongos}
"""


def told(p, *words):
    """What PUERTA answers: a text, or a RespError."""
    with harness.RespClient(p.redis_port if isinstance(p, MongoPuerta) else p.port) as c:
        answer = c.try_ask("PUERTA", *words)
    return answer.decode() if isinstance(answer, bytes) else answer


def done(p, *words):
    answer = told(p, *words)
    assert isinstance(answer, str), (words, answer)
    return answer


def before(fronts, mode="passthrough", **options):
    """A Puerta that has heard of all these fronts, with a Redis listener for its operator."""
    lines = "".join("%s = %s\n" % o for o in dict(QUICK, mode=mode, **options).items())
    return mongo_harness.before(fronts, conf=CONF + lines, counters=True)


class Load:
    """Threads that ask through one pymongo client: each answer is looked at, and no error is borne."""

    def __init__(self, p, app_name, threads=4, **options):
        self.driver = pymongo.MongoClient(p.uri("appName=%s&serverSelectionTimeoutMS=15000" % app_name), **options)
        self.rows = self.driver.action["load_" + app_name]
        self.rows.drop()
        self.rows.insert_many([{"_id": i, "x": 0} for i in range(200)])
        self.failed, self.asked, self.over = [], 0, threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(threads)]

    def _run(self, number):
        n = 0
        while not self.over.is_set():
            n += 1
            try:
                if n % 5 == 0:
                    assert len(list(self.rows.find({}, batch_size=60))) == 200
                elif n % 2:
                    assert self.rows.find_one({"_id": n % 200})["_id"] == n % 200
                else:
                    self.rows.update_one({"_id": (n + number) % 200}, {"$inc": {"x": 1}})
                self.asked += 1
            except (pymongo.errors.PyMongoError, AssertionError, TypeError) as e:
                self.failed.append(repr(e)[:300])

    def __enter__(self):
        for t in self.threads:
            t.start()
        self.more(20)
        return self

    def more(self, count):
        """Until so much more has been answered."""
        reached = self.asked
        wait_for("the load to go on; it failed so: %r" % self.failed[:3], lambda: self.asked >= reached + count or self.failed, 40)

    def __exit__(self, kind, *_):
        self.over.set()
        for t in self.threads:
            t.join(30 * SLOW)
        self.driver.close()
        if kind is None:
            assert not self.failed, (len(self.failed), self.failed[:5])


# --------------------------------------------------------------- pass-through

def test_drain_moves_idle_clients_and_keeps_those_with_a_cursor(fronts):
    with before(fronts, balance="round-robin") as p, contextlib.ExitStack() as stack:
        at = {}
        for i in range(9):
            c = stack.enter_context(p.client())
            at.setdefault(where(c, fronts, app_name="a%d" % i), []).append((c, "a%d" % i))
        (idle, _), (reads, name), (asks, _) = at[fronts[0]]
        cursor = opened(reads, "drained_by_hand", count=6)
        fronts[0].fault("ping", delay=0.5 * SLOW)
        asks.send({"ping": 1})
        wait_for("the ping to be there", lambda: fronts[0].commands("ping"))
        assert "takes nothing new" in done(p, "DRAIN", fronts[0].address)
        assert closed(idle)
        assert asks.read().body["ok"]
        assert closed(asks)
        for i in range(6):
            with p.client() as c:
                assert where(c, fronts, app_name="new%d" % i) is not fronts[0]
        with p.client() as c:  # it may want its cursor on that one
            assert where(c, fronts, app_name=name) is fronts[0]
            answer = more_of(c, cursor, "drained_by_hand")
            assert len(answer["cursor"]["nextBatch"]) == 2
        while cursor:
            answer = more_of(reads, cursor, "drained_by_hand")
            assert answer["ok"], answer
            cursor = answer["cursor"]["id"]
        assert closed(reads)
        with p.client() as c:
            assert where(c, fronts, app_name=name) is not fronts[0]
        assert "serves again" in done(p, "UNDRAIN", fronts[0].address)
        places = set()
        for i in range(6):
            places.add(where(stack.enter_context(p.client()), fronts, app_name="later%d" % i))
        assert places == set(fronts)
        assert "was not held" in done(p, "UNDRAIN", fronts[0].address)


def test_drain_waits_for_a_transaction_without_end(fronts):
    with before(fronts, drain_timeout="100ms") as p, p.client() as c:
        place = where(c, fronts, app_name="t")
        s = Session()
        assert c.ask(dict({"insert": "t", "documents": [{"a": 1}]}, **s.begin()), db="action")["ok"]
        done(p, "DRAIN", place.address)
        time.sleep(0.4)  # longer than drain_timeout, which is for a mongos that shuts down
        assert c.ask(dict({"insert": "t", "documents": [{"a": 2}]}, **s.more), db="action")["ok"]
        assert s.commit(c)["ok"]
        assert closed(c)


def test_a_held_mongos_stays_so_when_it_comes_back(fronts):
    with before(fronts) as p:
        done(p, "DRAIN", fronts[1].address)
        fronts[1].stop(reset=True)
        p.wait_state(fronts[1], "down")
        fronts[1].start()
        p.wait_state(fronts[1], "up", 2)
        for i in range(8):
            with p.client() as c:
                assert where(c, fronts, app_name="held%d" % i) is not fronts[1]


def asked_meanwhile(place, *loads):
    """How many requests come to it while those loads go on."""
    so_far = len(place.commands("find")) + len(place.commands("update"))
    for load in loads:
        load.more(20)
        assert not load.failed, load.failed[:3]
    return len(place.commands("find")) + len(place.commands("update")) - so_far


@pytest.mark.parametrize("mode", ["passthrough", "pooled"])
def test_drain_under_load(fronts, mode):
    """Each in turn, all of them at some time, and nobody sees an error."""
    with before(fronts, mode=mode) as p, Load(p, "first") as one, Load(p, "second") as two:
        for place in list(fronts) * 2:
            done(p, "DRAIN", place.address)
            wait_for("nobody to ask there any more", lambda f=place: not asked_meanwhile(f, one, two), 30)
            done(p, "UNDRAIN", place.address)


@pytest.mark.parametrize("mode", ["passthrough", "pooled"])
def test_the_last_one(fronts, mode):
    with before(fronts, mode=mode, pool_wait="300ms" if mode == "pooled" else None) if mode == "pooled" else before(fronts) as p:
        for place in list(fronts)[:2]:
            assert "WARNING" not in done(p, "DRAIN", place.address)
        assert "WARNING: no other server of [main] is up" in done(p, "DRAIN", fronts[2].address)
        with p.client() as c:
            answer = c.hello(app_name="late")
            answer = c.ask({"count": "nothing"}, db="action") if mode == "pooled" else answer
            assert (answer["ok"], answer["code"]) == (0.0, 6), answer
            assert "held by hand (drain)" in answer["errmsg"]
        done(p, "UNDRAIN", fronts[2].address)
        with p.client() as c:
            assert c.hello(app_name="late")["ok"] and c.ask({"count": "nothing"}, db="action")["ok"]


def test_down_closes_who_is_there(fronts):
    with before(fronts, balance="round-robin") as p, contextlib.ExitStack() as stack:
        at = {}
        for i in range(6):
            c = stack.enter_context(p.client())
            at.setdefault(where(c, fronts, app_name="d%d" % i), []).append(c)
        opened(at[fronts[0]][0])
        assert "serves nobody" in done(p, "DOWN", fronts[0].address)
        assert closed(at[fronts[0]][0]) and closed(at[fronts[0]][1])
        assert at[fronts[1]][0].ask({"ping": 1})["ok"]
        wait_for("its connections to be closed", lambda: not fronts[0].app_names()["d0"])
        for i in range(6):
            with p.client() as c:
                assert where(c, fronts, app_name="after%d" % i) is not fronts[0]
        done(p, "UNDRAIN", fronts[0].address)
        assert {where(stack.enter_context(p.client()), fronts, app_name="again%d" % i) for i in range(6)} == set(fronts)


def test_a_dial_to_one_that_is_held_goes_elsewhere(fronts):
    """Its client waits for the mongos to take it when an operator says that it is down."""
    with before(fronts) as p, p.client() as c, p.client() as other:
        place = where(c, fronts, app_name="dials")
        place.freeze()
        done(p, "DOWN", place.address)
        assert where(other, fronts, app_name="dials") is not place
        place.thaw()


# --------------------------------------------------------------------- pooled

def filled(client, name, count=10):
    client.ask({"drop": name}, "action")
    assert client.ask({"insert": name, "documents": [{"_id": i} for i in range(count)]}, "action")["n"] == count


def place_of(fronts, client, document):
    """(answer, the one that was asked)."""
    name = next(iter(document))
    so_far = [len(f.commands(name)) for f in fronts]
    answer = client.ask(document, "action")
    return answer, next(f for f, n in zip(fronts, so_far) if len(f.commands(name)) > n)


def test_pooled_drain_keeps_what_is_open(fronts):
    """New things of the same sessions go elsewhere meanwhile; and its connections go when nothing needs them."""
    with before(fronts, mode="pooled", pool_min=2) as p, p.client() as c:
        assert c.hello()["ok"]
        filled(c, "kept")
        cursors, s = Session(), Session()
        answer, place = place_of(fronts, c, dict({"find": "kept", "batchSize": 2}, **cursors.plain))
        while True:  # a session whose transactions begin there too
            s = Session()
            _, at = place_of(fronts, c, dict({"insert": "kept", "documents": [{"a": 1}]}, **s.begin()))
            if at is place:
                break
            s.abort(c)
        done(p, "DRAIN", place.address)
        cursor = answer["cursor"]["id"]
        for session in (cursors, s):
            answer, at = place_of(fronts, c, dict({"count": "kept"}, **session.plain))
            assert answer["ok"] and at is not place
        answer, at = place_of(fronts, c, dict({"getMore": bson.Int64(cursor), "collection": "kept", "batchSize": 2}, **cursors.plain))
        assert answer["ok"] and at is place
        answer, at = place_of(fronts, c, dict({"insert": "kept", "documents": [{"a": 2}]}, **s.more))
        assert answer["ok"] and at is place
        wait_for("its idle connections to be closed", lambda: place.working == 0 if hasattr(place, "working") else True)
        answer, at = place_of(fronts, c, dict({"commitTransaction": 1}, **s.more)) if False else (s.commit(c), place)
        assert answer["ok"], answer
        assert c.ask(dict({"killCursors": "kept", "cursors": [bson.Int64(cursor)]}, **cursors.plain), "action")["cursorsKilled"] == [cursor]
        done(p, "UNDRAIN", place.address)
        wait_for("it to get its share again", lambda: place_of(fronts, c, dict({"count": "kept"}, **Session().plain))[1] is place)


def test_pooled_down_gives_the_labelled_errors(fronts):
    with before(fronts, mode="pooled") as p, p.client() as c, p.client() as asks:
        assert c.hello()["ok"] and asks.hello()["ok"]
        filled(c, "labelled")
        while True:  # a cursor and a transaction at the same one
            cursors, s = Session(), Session()
            answer, place = place_of(fronts, c, dict({"find": "labelled", "batchSize": 2}, **cursors.plain))
            cursor = answer["cursor"]["id"]
            _, at = place_of(fronts, c, dict({"insert": "labelled", "documents": [{"a": 1}]}, **s.begin()))
            if at is place:
                break
        place.fault("count", delay=30)
        write = Session()
        for _ in range(50):
            write = Session()
            if place_of(fronts, c, dict({"ping": 1}, **write.plain))[1] is place:
                break
        sent = len(place.commands("count"))
        asks.send(dict({"count": "labelled"}, **write.plain), "action")
        wait_for("the count to be there", lambda: len(place.commands("count")) > sent)
        done(p, "DOWN", place.address)
        assert asks.read().body["code"] == 6
        answer = c.ask(dict({"insert": "labelled", "documents": [{"a": 2}]}, **s.more), "action")
        assert answer["code"] == 251 and answer["errorLabels"] == ["TransientTransactionError"], answer
        answer = c.ask(dict({"getMore": bson.Int64(cursor), "collection": "labelled"}, **cursors.plain), "action")
        assert answer["code"] == 43 and answer["errorLabels"] == ["ResumableChangeStreamError"], answer
        assert c.ask({"count": "labelled"}, "action")["ok"]


# ---------------------------------------------------------------------- Redis

@pytest.fixture
def redis(own_cluster):
    with Puerta(own_cluster, allow_admin="yes", failover_wait="1s", refresh_interval="200ms") as p:
        yield p


def test_a_master_with_slots_is_not_drained(redis, own_cluster):
    answer = told(redis, "DRAIN", own_cluster.masters[0].address)
    assert isinstance(answer, RespError) and "move its slots first" in answer.text
    with redis.client() as c:
        assert c.ask("SET", own_cluster.key_on(0), "v") == b"OK"


def test_a_master_without_slots_is_drained(own_cluster):
    node = own_cluster.add_master()
    with Puerta(own_cluster, allow_admin="yes", refresh_interval="200ms") as p, p.client() as c:
        assert c.ask("SET", "moved", 1) == b"OK"
        assert "owns no slots" in done(p, "DRAIN", node.address)
        slot = harness.slot_of("moved")
        own_cluster.migrate_slot(slot, own_cluster.owner(slot), node)
        assert c.ask("INCR", "moved") == 2  # slots outdo it
        assert node.ask("GET", "moved") == b"2"
        done(p, "UNDRAIN", node.address)
        wait_for("its slot to be known", lambda: isinstance(told(p, "DRAIN", node.address), RespError))


def test_down_is_as_a_node_that_is_down(redis, own_cluster):
    node, other = own_cluster.masters[0], own_cluster.masters[1]
    here, there = own_cluster.key_on(0), own_cluster.key_on(1)
    with redis.client() as c, redis.client() as blocked, redis.client() as watches:
        assert c.ask("SET", here, 1) == b"OK" and c.ask("SET", there, 1) == b"OK"
        blocked.send("BLPOP", own_cluster.key_on(0, "list"), 0)
        watches.ask("WATCH", here)
        wait_for("it to block", lambda: int(node.info("clients")["blocked_clients"]) == 1)
        assert "wait failover_wait" in done(redis, "DOWN", node.address)
        assert "outcome unknown" in blocked.read().text
        begun = time.monotonic()
        answer = c.try_ask("GET", here)
        assert isinstance(answer, RespError) and answer.text.startswith("CLUSTERDOWN not executed"), answer
        assert time.monotonic() - begun > 0.8
        assert c.ask("INCR", there) == 2
        assert watches.ask("MULTI") == b"OK" and watches.ask("INCR", there) == b"QUEUED" and watches.ask("EXEC") is None
        c.send("GET", here)
        done(redis, "UNDRAIN", node.address)
        assert c.read() == b"1"
        assert c.ask("INCR", here) == 2


def test_down_lets_a_promoted_replica_take_over(redis, own_cluster):
    """Its requests wait until somebody else has its slots, and go on there."""
    node = own_cluster.masters[0]
    replica = next(n for n in own_cluster.nodes if n.role() == "slave" and int(n.ask("ROLE")[2]) == node.port)
    key = own_cluster.key_on(0)
    with redis.client() as c:
        assert c.ask("SET", key, 1) == b"OK"
        wait_for("the replica to have it", lambda: replica.info("replication")["slave_repl_offset"] == node.info("replication")["master_repl_offset"])
        done(redis, "DOWN", node.address)
        c.send("INCR", key)
        replica.ask("CLUSTER", "FAILOVER")
        assert c.read() == 2


def test_messages_come_by_another_node_than_one_that_is_down(redis, own_cluster):
    with redis.client() as c, redis.client() as s:
        s.ask("SUBSCRIBE", "news")
        assert c.ask("PUBLISH", "news", "1") == 1 and s.read() == [b"message", b"news", b"1"]
        primary = next(n for n in own_cluster.masters if b"news" in n.ask("PUBSUB", "CHANNELS"))
        done(redis, "DOWN", primary.address)
        wait_for("another one to send it", lambda: any(b"news" in n.ask("PUBSUB", "CHANNELS") for n in own_cluster.masters if n is not primary))
        assert wait_for("the message", lambda: c.try_ask("PUBLISH", "news", "2") == 1)
        assert s.read() == [b"message", b"news", b"2"]


def test_a_reload_keeps_what_is_held(fronts):
    with before(fronts) as p:
        done(p, "DRAIN", fronts[0].address)
        done(p, "RELOAD")
        with harness.RespClient(p.redis_port) as c:
            rows = [dict(zip(r[::2], r[1::2])) for r in c.ask("PUERTA", "BACKENDS")]
        assert {r[b"name"].decode() for r in rows if r[b"hold"] == b"drain"} == {fronts[0].address}
        for i in range(6):
            with p.client() as c:
                assert where(c, fronts, app_name="kept%d" % i) is not fronts[0]


@pytest.mark.parametrize("by_hand", ["drain", "down", "none"])
def test_one_that_is_not_in_the_file_any_more_cannot_be_taken_back(fronts, by_hand):
    """Also where it was held by hand before; that counts again when it is named again."""
    def held(p):
        with harness.RespClient(p.redis_port) as c:
            return {r[1]: dict(zip(r[::2], r[1::2]))[b"hold"].decode() for r in c.ask("PUERTA", "BACKENDS")}.get(fronts[0].address.encode())

    with before(fronts) as p:
        path = os.path.join(p.folder, "puerta.conf")
        text = harness.read_file(path)
        if by_hand != "none":
            done(p, by_hand, fronts[0].address)
        with open(path, "w") as f:
            f.write(text.replace(fronts[0].address + ", ", ""))
        done(p, "RELOAD")
        wait_for("its hold", lambda: held(p) == ("drain" if by_hand == "none" else by_hand))
        answer = told(p, "UNDRAIN", fronts[0].address)
        assert isinstance(answer, RespError) and "not in the configuration any more" in answer.text, answer
        for i in range(6):
            with p.client() as c:
                assert where(c, fronts, app_name="gone%d" % i) is not fronts[0]
        with open(path, "w") as f:
            f.write(text)
        done(p, "RELOAD")
        wait_for("it to be named again", lambda: held(p) == by_hand)


def test_info_tells_who_is_held(redis, own_cluster):
    done(redis, "DOWN", own_cluster.masters[1].address)
    with redis.client() as c:
        held = [line for line in c.ask("INFO", "puerta").decode().split("\r\n") if line.endswith("hold=down")]
        assert len(held) == 1 and "address=%s," % own_cluster.masters[1].address in held[0]


# ----------------------------------------------------------------------- kill

def test_kill_a_client_of_each_kind(fronts):
    for mode in ("passthrough", "pooled"):
        with before(fronts, mode=mode) as p, p.client() as c, harness.RespClient(p.redis_port) as r:
            assert c.hello(app_name="victim")["ok"]
            own = r.ask("CLIENT", "ID")
            assert told(p, "KILL", 1 << 40).text == "ERR no client has the number %d" % (1 << 40)
            assert "is ended" in done(p, "KILL", own)
            assert r.at_end()
            answer = next(a for a in (told(p, "KILL", n) for n in range(1, own)) if isinstance(a, str))
            assert "is ended" in answer
            assert closed(c)
            p.wait_log('msg="client killed by hand" client=127.0.0.1:\\d+ id=', 2)


def test_kill_oneself(redis):
    with redis.client() as c:
        assert b"is ended" in c.ask("PUERTA", "KILL", c.ask("CLIENT", "ID"))
        assert c.at_end()


def test_kill_with_requests_in_flight(redis, own_cluster):
    """What it asked is done, and nobody else gets its answers."""
    with redis.client() as victim, redis.client() as other:
        victim_id = victim.ask("CLIENT", "ID")
        key = own_cluster.key_on(0)
        victim.ask("SET", key, "v" * 100)
        victim.send_raw(b"".join(harness.encode("APPEND", key, "x") + harness.encode("GET", key) for _ in range(50)))
        done(redis, "KILL", victim_id)
        for n in range(50):
            assert other.ask("ECHO", str(n)) == str(n).encode()
            assert other.ask("GET", own_cluster.key_on(0, "none%d" % n)) is None
        assert other.ask("STRLEN", key) <= 150


# ------------------------------------------------------------------ the words

def test_names(fronts):
    with before(fronts) as p:
        assert "no server is called" in told(p, "DRAIN", "127.0.0.1:2").text
        assert "no server is called" in told(p, "DRAIN", "").text
        assert "no server is called" in told(p, "DRAIN", "x" * 400).text
        assert "takes nothing new" in done(p, "DRAIN", "main/" + fronts[0].address)
        assert "serves again" in done(p, "UNDRAIN", "main/" + fronts[0].address)
        p.wait_log('msg="node held by hand" node=%s was=none now=drain' % fronts[0].address)
        p.wait_log('msg="node held by hand" node=%s was=drain now=none' % fronts[0].address)


def test_a_name_that_two_sections_have(fronts):
    conf = CONF + "".join("%s = %s\n" % o for o in QUICK.items()) + "[mongo second]\nlisten = unix:{folder}/s\nmongos = {mongos}\n"
    with MongoPuerta(list(fronts), conf=conf, counters=True) as p:
        assert "several sections" in told(p, "DRAIN", fronts[0].address).text
        done(p, "DRAIN", "second/" + fronts[0].address)
        for i in range(20):
            with p.client() as c:
                if where(c, fronts, app_name="n%d" % i) is fronts[0]:
                    break
        else:
            raise AssertionError("the other section does not use it either")


def test_loglevel(redis):
    assert done(redis, "LOGLEVEL", "debug") == "the log level is debug (was info)"
    with redis.client() as c:
        c.ask("PING")
    wait_for("a line of that level", lambda: "level=debug" in redis.log_text())
    assert "the log level is error" in done(redis, "LOGLEVEL", "error")
    assert "error, warn, info or debug" in told(redis, "LOGLEVEL", "loud").text
