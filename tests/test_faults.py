"""Every Nth socket call fails (the build with PUERTA_FAULTS): errors and lost connections may come, a wrong answer never.

Runs against build/faults/puerta only; check.sh names it with PUERTA.
"""
import os

import pytest

import harness
from admin_harness import Http
from harness import LONG, Load, Puerta
from test_upgrade import Upgradable

BINARY = os.environ.get("PUERTA_FAULTS_BINARY", os.path.join(harness.ROOT, "build", "faults", "puerta"))
PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 61, 71, 83, 97, 113, 131, 151, 173, 199, 229, 263, 307, 353, 401]
seen = {}


def served(p, every):
    """Whether a client is served for a while: while faults are left, some of its requests fail."""
    try:
        with p.client() as c:
            return all(c.ask("SET", "after", every) == b"OK" and c.ask("GET", "after") == b"%d" % every for _ in range(50))
    except (OSError, EOFError, AssertionError, harness.RespError):
        return False


@pytest.mark.parametrize("every", PRIMES if LONG else PRIMES[::2])
def test_every_nth_socket_call_fails(cluster, every):
    # With small N nothing would ever be finished: the faults end after a while, and then all must be well again.
    env = {"PUERTA_FAULTS": "every=%d,limit=%d,seed=%d" % (every, 3000, every)}
    with Puerta(cluster, binary=BINARY, env=env, wait=False) as p:
        with Load(p.port, "-c", 20, "-n", 10000, "-b", 200000, "-e", "-t", 60) as load:
            result = load.finish(timeout=150)
        seen[every] = result.errors + result.reconnects
        print(result.text[-600:])
        result.check(errors=None, reconnects=None)
        harness.wait_for("the last fault to have passed", lambda: served(p, every))
    cluster.flush()


def test_the_faults_were_felt():
    """Else this file would say nothing: a build without faults sees no lost connection."""
    assert seen and sum(seen.values()) > 0, seen


def test_proxy_headers_while_calls_fail(cluster):
    """Who comes with a header is served under that address, or is closed: never under another one, and no byte of the header is a request."""
    header = b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 6379\r\n"
    env = {"PUERTA_FAULTS": "every=3,limit=2000,seed=3"}
    good = 0
    with Puerta(cluster, binary=BINARY, env=env, wait=False, accept_proxy="yes", protected="no") as p:
        def come(pieces):
            with p.client(timeout=5) as c:
                try:
                    for i in range(0, len(header), pieces):
                        c.send_raw(header[i:i + pieces])
                    told = c.ask("CLIENT", "INFO").decode()
                except (OSError, EOFError):
                    return False
                assert " addr=192.0.2.7:51234 " in told
                return True

        harness.wait_for("puerta to listen", lambda: harness.children_of(p.process.pid) is not None and "serving" in p.log_text())
        for i in range(300):
            good += come((1, 7, 200)[i % 3])
        assert good > 20
        harness.wait_for("the last fault to have passed", lambda: all(come(200) for _ in range(40)))


@pytest.mark.parametrize("every", [3, 7, 13])
def test_operators_while_socket_calls_fail(cluster, every):
    """What they are told is whole or not there, and when the faults are over all is well."""
    port, whole, lost = harness.free_port(), 0, 0
    with Puerta(cluster, binary=BINARY, env={"PUERTA_FAULTS": "every=%d,limit=%d,seed=%d" % (every, 2000, every)}, wait=False, admin="127.0.0.1:%d" % port) as p:
        harness.wait_for("the listener", lambda: "serving" in p.log_text())
        for _ in range(150):
            for path in ("/metrics", "/status", "/slots"):
                try:
                    with Http(port) as h:
                        got = h.get(path)
                        assert got.status == 200 and (path == "/metrics" or got.json()) and got.body[-1:] in b"\n}"
                        whole += 1
                except (OSError, EOFError):
                    lost += 1
        harness.wait_for("the last fault to have passed", lambda: served(p, every))
        with Http(port) as h:
            assert h.get("/readyz").status == 200
    assert whole > 50 and lost > 0, (whole, lost)


@pytest.mark.parametrize("every", [3, 7, 29] if LONG else [11, 29])
def test_upgrades_while_calls_fail(cluster, every):
    """Also those by which clients go over: lost connections may come, a wrong answer or a lost write never, and nobody is left behind."""
    env = {"PUERTA_FAULTS": "every=%d,limit=2000,seed=%d" % (every, every)}
    with Upgradable(cluster, source=BINARY, env=env, wait=False, drain="5s") as p:
        with Load(p.port, "-c", 20, "-n", 100000000, "-b", 100000, "-e", "-t", 60) as load:
            for _ in range(3):
                load.wait_answers(load.answers() + 2000)
                p.upgrade(timeout=60)
            result = load.finish(timeout=150, stop=True)
        result.check(errors=None, reconnects=None, early=None)
        harness.wait_for("the last fault to have passed", lambda: served(p, every))
        assert len(p.workers()) == 1
    cluster.flush()
