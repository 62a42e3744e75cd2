"""puertaStatus over the MongoDB protocol, in each mode: what is told, what is done, who may; by pymongo and by raw messages.

    pymongo, MongoClient (raw) --> Puerta with allow_admin --> Front, Front, Front --> FerretDB
"""
import contextlib
import json
import os
import time
import urllib.request

import bson
import pymongo
import pytest

import harness
import mongo_harness
from fake import wire
from harness import wait_for
from mongo_harness import closed
from test_mongo import where

MODES = ["passthrough", "pooled"]


def before(fronts, mode="passthrough", **options):
    """A Puerta that has heard of all these fronts, and tells its clients."""
    return mongo_harness.before(fronts, **dict({"mode": mode, "allow_admin": "yes"}, **options))


@contextlib.contextmanager
def driver(p):
    with pymongo.MongoClient(p.uri("appName=ops&serverSelectionTimeoutMS=10000")) as client:
        yield client


@pytest.mark.parametrize("mode", MODES)
def test_status(fronts, mode):
    port = harness.free_port()
    with before(fronts, mode, process={"admin": "127.0.0.1:%d" % port}) as p, driver(p) as client:
        client.action.rows.find_one()
        status = client.admin.command("puertaStatus")
        assert status["ok"] == 1.0 and status["ready"] is True and status["stopping"] is False and status["log_level"] == "info"
        assert abs(status["started"] - time.time()) < 600 and status["reloaded"] == ""
        assert [(s["name"], s["kind"], s["mode"], s["backends_up"]) for s in status["sections"]] == [("main", "mongo", mode, 3)]
        assert {(b["name"], b["state"], b["hold"]) for b in status["backends"]} == {(f.address, "up", "none") for f in fronts}
        assert sum(b["answers"] for b in status["backends"]) > 0 and status["next"] == 0
        assert status["gauges"]["clients"]["now"] >= 1 and status["counters"]["requests"] > 0
        with urllib.request.urlopen("http://127.0.0.1:%d/status" % port) as answer:
            over_http = json.load(answer)
        assert set(status["counters"]) == set(over_http["counters"]) and set(status["gauges"]) == set(over_http["gauges"])
        assert set(over_http) ^ set(status) == {"writable", "ok", "next"}
        assert list(over_http["backends"][0]) == list(status["backends"][0]) and list(over_http["sections"][0]) == list(status["sections"][0])
        assert over_http["sections"][0]["listen"] == status["sections"][0]["listen"] == ["127.0.0.1:%d" % p.port]
        assert not any(f.commands("puertaStatus") for f in fronts)


@pytest.mark.parametrize("mode", MODES)
def test_clients(fronts, mode):
    with before(fronts, mode) as p, contextlib.ExitStack() as stack:
        for i in range(130):
            assert stack.enter_context(p.client()).hello(app_name="c%d" % i)["ok"]
        c = stack.enter_context(p.client())
        assert c.hello()["ok"]
        seen, at, pages = [], 0, 0
        while True:
            answer = c.ask({"puertaStatus": 1, "clients": at})
            assert len(answer["clients"]) <= 100
            seen += [row["id"] for row in answer["clients"]]
            at, pages = answer["next"], pages + 1
            if at == 0:
                break
        assert pages == 2 and len(seen) == len(set(seen)) == 131
        for at in (-1, 1 << 40, 5000):
            answer = c.ask({"puertaStatus": 1, "clients": bson.Int64(at)})
            assert (answer["clients"], answer["next"]) == ([], 0)


@pytest.mark.parametrize("mode", MODES)
def test_lists_are_those_of_the_admin_listener(fronts, mode):
    port = harness.free_port()
    with before(fronts, mode, process={"admin": "127.0.0.1:%d" % port, "slow_log_min": "1ms"}) as p, driver(p) as client:
        def told(word, at=0):
            return client.admin.command("puertaStatus", 1, **{word: bson.Int64(at)})

        def over_http(path, name):
            with urllib.request.urlopen("http://127.0.0.1:%d/%s" % (port, path)) as answer:
                return json.load(answer)[name]

        for f in fronts:
            f.fault("distinct", delay=0.03)
        for n in range(105):
            client.slow_one.rows.distinct("x")
        for f in fronts:
            f.clear()
        page = told("slowlog")
        assert len(page["slowlog"]) == 100 and page["slowlog"][0]["number"] - page["slowlog"][-1]["number"] == 99 and page["next"] > 0
        rest = told("slowlog", page["next"])
        assert rest["slowlog"][0]["number"] == page["slowlog"][-1]["number"] - 1 and rest["next"] == 0
        listed = over_http("slowlog", "entries")
        mine = {e["number"]: e for e in page["slowlog"] + rest["slowlog"]}
        assert len(mine) >= 105 and all(mine[e["number"]] == e for e in listed if e["number"] in mine)
        slow = next(e for e in mine.values() if e["command"] == "distinct")
        assert slow["key"] == "slow_one" and slow["all_us"] >= 20000 and slow["section"] == "main"
        assert told("memory")["memory"] == over_http("memory", "tables")[:100]
        assert [b["name"] for b in told("backends")["backends"]] == [b["name"] for b in over_http("status", "backends")]
        assert told("hotkeys")["hotkeys"] == told("hotslots")["hotslots"] == []  # these are of Redis
        assert client.admin.command("puertaStatus", 1, slowlog="reset")["text"] == "the slow log is empty"
        assert all(e["number"] > max(mine) for e in told("slowlog")["slowlog"])
        for word in ("clients", "backends", "slowlog", "hotkeys", "hotslots", "memory"):
            for at in (-1, 1 << 31, 1 << 32, (1 << 63) - 1):
                answer = told(word, at)
                assert (answer[word], answer["next"]) == ([], 0), (word, at)


@pytest.mark.parametrize("mode", MODES + ["loadbalanced"])
def test_clients_have_names(fronts, mode):
    """appName, else the driver's own name: as far as it is kept, and nothing that a terminal would heed."""
    more = {"loadBalanced": True} if mode == "loadbalanced" else {}
    with before(fronts, mode) as p, contextlib.ExitStack() as stack:
        names = {}
        for said, shown in (("shop", "shop"), (None, "puerta-tests"), ("x" * 100, "x" * 39), ("a\n\x1b[2J\"\\<b>", "a??[2J\"\\<b>"),
                            ("x" * 38 + "é", "x" * 38), ("Läden €\x9b", "Läden €?")):
            c = stack.enter_context(p.client())
            assert c.hello(app_name=said, **more)["ok"]
            names["127.0.0.1:%d" % c.sock.getsockname()[1]] = shown
        silent = stack.enter_context(p.client())
        names["127.0.0.1:%d" % silent.sock.getsockname()[1]] = ""

        def seen():
            return {row["address"]: row["name"] for row in c.ask({"puertaStatus": 1, "clients": 0})["clients"]}
        wait_for("the silent one to be let in", lambda: len(seen()) == len(names))
        assert seen() == names


def test_reload(fronts):
    with before(fronts, process={"log_level": "info"}) as p, p.client() as c:
        assert c.hello()["ok"]
        path = os.path.join(p.folder, "puerta.conf")
        good = harness.read_file(path)
        asked = c.ask({"puertaStatus": 1, "reload": 1})
        assert asked["ok"] and "is being read again" in asked["text"]
        wait_for("the file to be read", lambda: "has been read again" in c.ask({"puertaStatus": 1})["reloaded"])
        with open(path, "w", encoding="latin-1") as f:  # what is told of it is UTF-8 all the same
            f.write(good.replace("allow_admin = yes", "allow_admin = p\xe9rhaps"))
        assert c.ask({"puertaStatus": 1, "reload": 1})["ok"]
        wait_for("it to be refused", lambda: c.ask({"puertaStatus": 1})["counters"]["reload_failures"] == 1)
        assert "has been read again" not in c.ask({"puertaStatus": 1})["reloaded"]


@pytest.mark.parametrize("mode", MODES)
def test_what_it_does(fronts, mode):
    with before(fronts, mode) as p, p.client() as victim:
        def said(**words):
            with p.client() as c:  # a new one each time: in pass-through mode it may be at the mongos that it speaks of
                assert c.hello(app_name="ops")["ok"]
                answer = c.ask(dict({"puertaStatus": 1}, **words))
                assert answer["ok"] == 1.0, answer
                return answer

        def held():
            return {b["name"]: b["hold"] for b in said()["backends"]}

        assert "takes nothing new" in said(drain=fronts[0].address)["text"]
        assert held()[fronts[0].address] == "drain"
        assert "serves again" in said(undrain=fronts[0].address)["text"]
        assert "serves nobody" in said(down=fronts[1].address)["text"]
        assert held() == {fronts[0].address: "none", fronts[1].address: "down", fronts[2].address: "none"}
        said(undrain=fronts[1].address)
        assert victim.hello(app_name="victim")["ok"]
        row = next(r for r in said(clients=0)["clients"] if r["address"] == "127.0.0.1:%d" % victim.sock.getsockname()[1])
        assert "is ended" in said(kill=row["id"])["text"]
        assert closed(victim)
        assert "the log level is warn" in said(loglevel="warn")["text"]
        said(loglevel="info")


@pytest.mark.parametrize("mode", MODES)
def test_what_is_refused(fronts, mode):
    with before(fronts, mode) as p, p.client() as c:
        assert c.hello()["ok"]
        for words, code in (({"drain": "nobody:1"}, 2), ({"drain": 1}, 9), ({"drain": "x\0y"}, 2), ({"kill": "me"}, 9), ({"kill": 0}, 9), ({"kill": bson.Int64(1 << 50)}, 2),
                            ({"loglevel": "loud"}, 9), ({"dance": 1}, 9), ({"drain": fronts[0].address, "down": fronts[0].address}, 9), ({"clients": "all"}, 9)):
            answer = c.ask(dict({"puertaStatus": 1}, **words))
            assert (answer["ok"], answer["code"]) == (0.0, code), (words, answer)
        answer = c.ask({"puertaStatus": 1}, db="test")
        assert answer["code"] == 13 and "admin database" in answer["errmsg"]
        c.send({"puertaStatus": 1}, flags=2)  # moreToCome: no answer
        assert c.ask({"ping": 1})["ok"]
        assert c.ask({"puertaStatus": 1, "lsid": {"id": bson.Binary(b"x" * 16, 4)}, "$readPreference": {"mode": "primary"}, "comment": "x"}, checksum=True)["ok"]


@pytest.mark.parametrize("mode", MODES)
def test_without_allow_admin_a_mongos_answers(fronts, mode):
    with before(fronts, mode, allow_admin="no") as p, p.client() as c:
        assert c.hello()["ok"]
        assert c.ask({"puertaStatus": 1})["ok"] == 0.0
        assert sum(len(f.commands("puertaStatus")) for f in fronts) == 1


def test_nobody_without_a_login(fronts):
    with before(fronts, "pooled", user="ops " + harness.keys_of("pass", 4096)) as p, p.client() as c:
        assert c.hello()["ok"]
        assert c.ask({"puertaStatus": 1})["code"] == 13
        with pymongo.MongoClient(p.uri(), username="ops", password="pass") as client:
            assert client.admin.command("puertaStatus")["ready"] is True


def test_in_loadbalanced_mode(fronts):
    with before(fronts, "loadbalanced") as p, p.client() as c:
        assert c.hello(loadBalanced=True)["serviceId"]
        assert c.ask({"puertaStatus": 1})["sections"][0]["mode"] == "loadbalanced"


# ------------------------------------------------- beside answers in flight

def test_in_one_send_with_others(fronts):
    with before(fronts) as p, p.client() as c:
        where(c, fronts, app_name="batch")
        data = b""
        for i in range(60):
            name = "puertaStatus" if i % 3 == 1 else "ping"
            data += wire.op_msg({name: 1, "$db": "admin"}, 1000 + i, checksum=i % 2 == 0)
        c.send_raw(data)
        answers = {}
        for _ in range(60):
            m = c.read()
            answers[m.response_to] = m.body
        assert sorted(answers) == list(range(1000, 1060))
        assert all(("sections" in answers[1000 + i]) == (i % 3 == 1) and answers[1000 + i]["ok"] for i in range(60))


def test_cut_at_every_place(fronts):
    with before(fronts) as p, p.client() as c:
        where(c, fronts, app_name="cut")
        data = wire.op_msg({"puertaStatus": 1, "clients": 0, "$db": "admin"}, 7)
        for cut in range(1, len(data)):
            c.send_raw(data[:cut])
            harness.time.sleep(0.001)
            c.send_raw(data[cut:] + wire.op_msg({"ping": 1, "$db": "admin"}, 8))
            got = {c.read().response_to, c.read().response_to}
            assert got == {7, 8}, (cut, got)


def test_while_an_answer_is_half_here(fronts):
    """What is said here waits until that one is over: never within it."""
    with before(fronts) as p, p.client() as c:
        place = where(c, fronts, app_name="half")
        place.fault("ping", pieces=4, pause=0.2)
        c.send({"ping": 1})
        wait_for("the ping to be there", lambda: place.commands("ping"))
        first = c.sock.recv(1)
        assert len(first) == 1
        asked = c.send({"puertaStatus": 1})
        rest = b""
        length = None
        while length is None or len(first + rest) < length:
            rest += c.sock.recv(65536)
            if len(first + rest) >= 4:
                length = int.from_bytes((first + rest)[:4], "little")
        whole = first + rest
        message = wire.parse(whole[:length])
        assert message.response_to == asked - 1 and message.body["ok"]
        more = whole[length:]
        while len(more) < 4 or len(more) < int.from_bytes(more[:4], "little"):
            more += c.sock.recv(65536)
        assert wire.parse(more).response_to == asked


def test_an_endless_one_is_not_kept(fronts):
    with before(fronts) as p, p.client() as c:
        where(c, fronts, app_name="long")
        c.send_raw(wire.op_msg({"puertaStatus": 1, "x": "y" * 70000, "$db": "admin"}, 7))
        assert closed(c)
    with before(fronts, "pooled") as p, p.client() as c:
        assert c.hello()["ok"]
        assert c.ask({"puertaStatus": 1, "x": "y" * 70000})["code"] == 17
