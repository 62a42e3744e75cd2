"""Clients that people use, plain and as a cluster's clients: each runs the same operations (tests/clients), and the examples run too."""
import os
import shutil
import subprocess
import sys

import pytest

import harness
from harness import Puerta, RespClient

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLES = os.path.join(harness.ROOT, "examples")
NODE_MODULES = os.path.join(harness.ROOT, "build", "node", "node_modules")
SECRET = "s3cr3t"
OPERATIONS = 77  # of each script
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


@pytest.mark.parametrize("password", [None, SECRET], ids=["open", "password"])
@pytest.mark.parametrize("mode", ["plain", "cluster"])
@pytest.mark.parametrize("script, resp", [("redis_py.py", None), ("redis_py.py", "2"), ("redis_py.py", "3"), ("ioredis.js", None),
                                          ("node_redis.js", "2"), ("node_redis.js", "3"), ("redis_cli.sh", None), ("redis_cli.sh", "3")])
def test_common_operations(puerta, guarded, script, resp, mode, password):
    p = guarded if password else puerta
    code, said = run(os.path.join(HERE, "clients", script), "127.0.0.1:%d" % p.port, mode, *([password] if password else []), resp=resp)
    assert (code, said) == (0, "ok %d operations\n" % (OPERATIONS + (OPERATIONS_OF_PASSWORDS if password else 0)))
    with puerta.client() as c:
        assert c.ask("KEYS", "*%s:*" % script.split(".")[0]) == [], "it leaves nothing behind"


@pytest.mark.parametrize("script", ["redis_py.py", "ioredis.js", "node_redis.js", "redis_cli.sh"])
def test_a_script_tells_what_fails(guarded, script):
    """Without the password nothing works: neither ok nor 0."""
    code, said = run(os.path.join(HERE, "clients", script), "127.0.0.1:%d" % guarded.port, "plain")
    assert code == 1 and said.startswith("failed: ") and said.count("\n") == 1, said


@pytest.mark.parametrize("example", sorted(os.listdir(EXAMPLES)))
def test_examples(puerta, example):
    code, said = run(os.path.join(EXAMPLES, example), "127.0.0.1", str(puerta.port))
    assert code == 0 and "Hello" in said, said
