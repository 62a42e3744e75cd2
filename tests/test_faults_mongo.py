"""Every Nth socket call fails (the build with PUERTA_FAULTS), in MongoDB mode: lost connections may come, a wrong answer or a hang never.

Runs against build/faults/puerta only; check.sh names it with PUERTA.
"""
import contextlib
import os
import threading

import pytest

import harness
import mongo_harness
from fake import wire
from harness import LONG, wait_for
from mongo_harness import MongoPuerta

BINARY = os.environ.get("PUERTA_FAULTS_BINARY", os.path.join(harness.ROOT, "build", "faults", "puerta"))
PRIMES = [2, 3, 5, 7, 11, 13, 17, 23, 31, 41, 53, 71, 97, 131, 173, 229, 307, 401]
felt = {}


@pytest.fixture(scope="module")
def fronts():
    with mongo_harness.Ferret() as ferret, mongo_harness.fronts(ferret) as cluster:
        async def echo(_client, body):
            return {"token": body["echo"], "x": b"e" * body["size"], "ok": 1.0}

        for front in cluster:
            front.set(keep_seen=False)
            front._do_echo = echo
        yield cluster


def session(p, number, count, **more):
    """So many questions on one connection; how many were answered. AssertionError, TimeoutError or Malformed: a bug."""
    done = 0
    with contextlib.suppress(EOFError, ConnectionError, BrokenPipeError):
        with p.client(timeout=30) as c:
            hello = c.hello(app_name="f%d" % number, compression=["zlib"], **more)
            if not hello["ok"]:
                assert hello["code"] == 6, hello
                return 0
            for i in range(count):
                answer = c.ask({"echo": i, "size": (10, 2000, 200000)[i % 3], "padding": b"p" * (0, 300000)[i % 7 == 0]})
                if not answer["ok"]:  # pooled: its mongos was lost, and its own connection was not
                    assert answer["code"] in (6, 89), answer
                    continue
                assert answer["token"] == i and len(answer["x"]) == (10, 2000, 200000)[i % 3]
                done += 1
    return done


@pytest.mark.parametrize("every", PRIMES if LONG else PRIMES[::2])
@pytest.mark.parametrize("mode", ["passthrough", "pooled", "loadbalanced"] if LONG else ["passthrough", "pooled"])
def test_every_nth_socket_call_fails(fronts, every, mode):
    more = {"loadBalanced": True} if mode == "loadbalanced" else {}
    env = {"PUERTA_FAULTS": "every=%d,limit=1000,seed=%d" % (every, every)}
    with MongoPuerta(fronts, binary=BINARY, env=env, wait=False, mode=mode, probe_interval="100ms", rise=1, slow_start=0, eject_time="100ms") as p:
        wrong, answers = [], []

        def client(number):
            try:
                for _ in range(30):
                    answers.append(session(p, number, 12, **more))
            except (AssertionError, TimeoutError, wire.Malformed, KeyError) as e:
                wrong.append(repr(e)[:500])

        harness.wait_for("the address to be open", p.listens)
        threads = [threading.Thread(target=client, args=(i,), daemon=True) for i in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(200)
            assert not t.is_alive()
        assert not wrong, wrong
        felt[mode, every] = sum(a < 12 for a in answers)
        wait_for("the last fault to have passed", lambda: session(p, 0, 50, **more) == 50, timeout=60)


@pytest.mark.parametrize("every", PRIMES[2::3])
@pytest.mark.parametrize("mode", ["passthrough", "pooled"])
def test_every_nth_socket_call_fails_while_it_logs_in(every, mode):
    """In the end it is let in, by both mechanisms; in passthrough mode it is the probe that logs in."""
    env = {"PUERTA_FAULTS": "every=%d,limit=200,seed=%d" % (every, every)}
    login = dict(deep_probe="yes", upstream_user="app", upstream_password="pencil", mode=mode)
    with mongo_harness.Ferret() as ferret, mongo_harness.fronts(ferret, 2, users={"app": "pencil"}, skip_empty=False) as cluster:
        cluster[1].set(mechanisms=("SCRAM-SHA-1",))
        with MongoPuerta(cluster, binary=BINARY, env=env, wait=False, probe_interval="50ms", rise=1, slow_start=0, eject_after=0, pool_wait="10s", **login) as p:
            harness.wait_for("the address to be open", p.listens)
            for front in cluster:
                wait_for("the probe's question", lambda front=front: any(s.connection.user == "app" for s in front.commands("listDatabases")), timeout=60)

            def answered():
                with contextlib.suppress(EOFError, ConnectionError, BrokenPipeError), p.client(timeout=30) as c:
                    return c.hello(app_name="f")["ok"] and c.ask({"ping": 1})["ok"] and (mode != "pooled" or c.ask({"find": "none"})["ok"])

            for _ in range(20):
                wait_for("an answer", answered, timeout=60)


def test_the_faults_were_felt():
    """Else this file would say nothing: a build without faults breaks nothing off."""
    for mode in ("passthrough", "pooled"):
        assert sum(n for (of, _), n in felt.items() if of == mode) > 0, felt
