"""Clients that people use, plain and as a cluster's clients: each runs the same operations (tests/clients), and the examples run too.

    script --> Puerta --> three masters         plain, cluster: with and without a password
    script --> Puerta --> one plain server      single: topology = single
    script --------------> one plain server     single: the reference. What a script wants is what this server says to this client.
"""
import os
import shutil
import subprocess
import sys

import pytest
import redis
from redis.cache import CacheConfig

import harness
from harness import Puerta, RespClient

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLES = os.path.join(harness.ROOT, "examples")
NODE_MODULES = os.path.join(harness.ROOT, "build", "node", "node_modules")
SECRET = "s3cr3t"
DRIVERS = [("redis_py.py", None), ("redis_py.py", "2"), ("redis_py.py", "3"), ("ioredis.js", None), ("node_redis.js", "2"), ("node_redis.js", "3")]
OPERATIONS = 124  # of each script
OPERATIONS_OF_REDIS_CLI = 77  # it keeps no connection for what a connection holds
OPERATIONS_OF_PASSWORDS = 3


@pytest.fixture
def guarded(cluster):
    """Puerta with a password; a new one each time, which has heard no wrong guesses."""
    def serves():
        try:
            with RespClient(p.port) as c:
                return c.pipeline([("AUTH", SECRET), ("EXISTS", "a")]) == [b"OK", 0]
        except OSError:
            return False

    conf = "[puerta]\nsupervise = no\n[redis main]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\npassword = \"%s\"\n" % SECRET
    with Puerta(cluster, wait=False, conf=conf) as p:
        harness.wait_for("puerta to serve; its log: " + p.log, serves)
        yield p


def run(script, *arguments, resp=None):
    """Runs a script with what its language needs; a client that is missing is a failure."""
    env = dict(os.environ, NODE_PATH=NODE_MODULES, REDIS_CLI=harness.REDIS_CLI)
    if resp is not None:
        env["RESP"] = resp
    if script.endswith(".js"):
        assert shutil.which("node"), "node is missing: check.sh installs it"
        for name in ("ioredis", "redis"):
            assert os.path.exists(os.path.join(NODE_MODULES, name)), name + " is missing: npm install --prefix build/node ioredis@5 redis@5"
    program = {".py": [sys.executable], ".js": ["node"], ".sh": ["sh"]}[os.path.splitext(script)[1]]
    done = subprocess.run(program + [script] + list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=env, timeout=120 * harness.SLOW)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def check(port, client, script, resp, mode, password=None):
    """Runs the script there, looks whether all its operations were right, and whether it leaves nothing behind."""
    code, said = run(os.path.join(HERE, "clients", script), "127.0.0.1:%d" % port, mode, *([password] if password else []), resp=resp)
    count = OPERATIONS_OF_REDIS_CLI if script.endswith(".sh") else OPERATIONS
    assert (code, said) == (0, "ok %d operations\n" % (count + (OPERATIONS_OF_PASSWORDS if password else 0))), said
    assert client.ask("KEYS", "*%s:*" % script.split(".")[0]) == [], "it leaves nothing behind"


@pytest.mark.parametrize("password", [None, SECRET], ids=["open", "password"])
@pytest.mark.parametrize("mode", ["plain", "cluster"])
@pytest.mark.parametrize("script, resp", DRIVERS + [("redis_cli.sh", None), ("redis_cli.sh", "3")])
def test_common_operations(puerta, guarded, script, resp, mode, password):
    with puerta.client() as c:
        check((guarded if password else puerta).port, c, script, resp, mode, password)


@pytest.mark.parametrize("through_puerta", [False, True], ids=["direct", "through Puerta"])
@pytest.mark.parametrize("script, resp", DRIVERS)
def test_the_same_operations_with_one_server(server, script, resp, through_puerta):
    """Without Puerta they tell whether what the scripts want is right; with it, that one server behind Puerta is as good."""
    with RespClient(server.port) as c:
        if not through_puerta:
            return check(server.port, c, script, resp, "single")
        with Puerta([server.address], topology="single") as p:
            check(p.port, c, script, resp, "single")


def test_redis_pys_cache_wants_a_version(cluster, puerta):
    """Which redis_version tells it; nothing of redis-py is changed here, as its script must do for the old servers of these tests."""
    with pytest.raises(redis.ConnectionError, match="7.4 or later"):
        redis.Redis(port=puerta.port, protocol=3, cache_config=CacheConfig()).ping()
    with Puerta(cluster, redis_version="7.4.0") as p, redis.Redis(port=p.port) as other, \
            redis.Redis(port=p.port, protocol=3, cache_config=CacheConfig()) as r:
        for value in (b"one", b"two"):
            other.set("cached", value)
            harness.wait_for("the new value", lambda value=value: r.get("cached") == value)
            assert r.get_cache().size == 1
        other.delete("cached")


@pytest.mark.parametrize("script", ["redis_py.py", "ioredis.js", "node_redis.js", "redis_cli.sh"])
def test_a_script_tells_what_fails(guarded, script):
    """Without the password nothing works: neither ok nor 0."""
    code, said = run(os.path.join(HERE, "clients", script), "127.0.0.1:%d" % guarded.port, "plain")
    assert code == 1 and said.startswith("failed: ") and said.count("\n") == 1, said


@pytest.mark.parametrize("example", sorted(os.listdir(EXAMPLES)))
def test_examples(puerta, example):
    code, said = run(os.path.join(EXAMPLES, example), "127.0.0.1", str(puerta.port))
    assert code == 0 and "Hello" in said, said
