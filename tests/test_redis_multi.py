"""Transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH through Puerta, beside a plain server; while slots move and nodes die; by the hundred."""
import re
import threading
import time

import pytest

import harness
from harness import LONG, Puerta, RedisCluster, RespClient, RespError, encode, slot_of, tag_for_slot, wait_for

ABORT = "EXECABORT Transaction discarded because of previous errors."
NAMED = re.compile(r"^(ERR outcome unknown|TRYAGAIN not executed|CLUSTERDOWN not executed|ERR not executed|ERR no answer)")


@pytest.fixture(scope="module")
def plain():
    """One server that is no cluster: what it says is right."""
    with harness.RedisCluster(masters=1, replicas=0) as c:  # only for its folder and port; the node beside it is plain
        node = harness.RedisNode(c.folder, harness.free_port(), {"save": "", "appendonly": "no"})
        node.start()
        try:
            yield node
        finally:
            node.stop()


def said(reply):
    """Replies as they can be compared."""
    if isinstance(reply, list):
        return [said(r) for r in reply]
    return "-" + reply.text if isinstance(reply, RespError) else reply


def play(port, commands, one_by_one):
    with RespClient(port) as c:
        c.ask("DEL", "{t}a"), c.ask("DEL", "{t}b"), c.ask("DEL", "{t}l")
        if one_by_one:
            return [said(c.try_ask(*k)) for k in commands]
        return said(c.pipeline(commands))


A, B, L = "{t}a", "{t}b", "{t}l"

SEQUENCES = {
    "one": [("MULTI",), ("SET", A, "1"), ("INCR", A), ("GET", A), ("EXEC",), ("GET", A)],
    "empty": [("MULTI",), ("EXEC",), ("PING",)],
    "discard": [("MULTI",), ("SET", A, "1"), ("DISCARD",), ("GET", A)],
    "exec without multi": [("EXEC",), ("SET", A, "2"), ("GET", A)],
    "discard without multi": [("DISCARD",), ("GET", A)],
    "nested": [("MULTI",), ("MULTI",), ("SET", A, "1"), ("EXEC",), ("GET", A)],
    "watch inside": [("MULTI",), ("WATCH", A), ("SET", A, "1"), ("EXEC",), ("GET", A)],
    "unwatch inside": [("MULTI",), ("UNWATCH",), ("SET", A, "1"), ("EXEC",), ("GET", A)],
    "unknown command": [("MULTI",), ("SET", A, "1"), ("NOSUCH", "x"), ("EXEC",), ("GET", A)],
    "wrong count": [("MULTI",), ("SET", A, "1"), ("GET",), ("EXEC",), ("GET", A)],
    "wrong count, multi": [("MULTI", "x"), ("SET", A, "1"), ("EXEC",)],
    "wrong count, multi inside": [("MULTI",), ("SET", A, "1"), ("MULTI", "x"), ("EXEC",), ("GET", A)],
    "wrong count, exec": [("MULTI",), ("SET", A, "1"), ("EXEC", "x"), ("EXEC",), ("GET", A)],
    "wrong count, exec outside": [("EXEC", "x"), ("GET", A)],
    "wrong count, discard": [("MULTI",), ("SET", A, "1"), ("DISCARD", "x"), ("EXEC",), ("GET", A)],
    "wrong count, watch": [("WATCH",), ("MULTI",), ("WATCH",), ("EXEC",)],
    "wrong count, unwatch": [("UNWATCH", "x"), ("MULTI",), ("SET", A, "1"), ("UNWATCH", "x"), ("EXEC",), ("GET", A)],
    "error, then discard": [("MULTI",), ("GET",), ("DISCARD",), ("MULTI",), ("SET", A, "1"), ("EXEC",)],
    "error when run": [("SET", A, "x"), ("MULTI",), ("INCR", A), ("SET", B, "2"), ("LPUSH", A, "1"), ("EXEC",), ("GET", B)],
    "two": [("MULTI",), ("INCR", A), ("EXEC",), ("MULTI",), ("INCR", A), ("INCR", B), ("EXEC",), ("MGET", A, B)],
    "keyless": [("MULTI",), ("PING",), ("PING", "x"), ("ECHO", "hi"), ("EXEC",)],
    "keyless and a key": [("MULTI",), ("PING",), ("SET", A, "1"), ("ECHO", "hi"), ("EXEC",)],
    "watch, untouched": [("SET", A, "1"), ("WATCH", A), ("GET", A), ("MULTI",), ("SET", A, "2"), ("EXEC",), ("GET", A)],
    "watch, touched by itself": [("SET", A, "1"), ("WATCH", A), ("SET", A, "3"), ("MULTI",), ("SET", A, "2"), ("EXEC",), ("GET", A)],
    "watch, no longer after exec": [("WATCH", A), ("SET", A, "3"), ("MULTI",), ("EXEC",), ("MULTI",), ("GET", A), ("EXEC",)],
    "watch, empty": [("WATCH", A), ("MULTI",), ("EXEC",), ("WATCH", A), ("SET", A, "1"), ("MULTI",), ("EXEC",)],
    "watch twice": [("WATCH", A), ("WATCH", B), ("SET", B, "1"), ("MULTI",), ("GET", A), ("EXEC",)],
    "watch two": [("WATCH", A, B), ("SET", B, "1"), ("MULTI",), ("GET", A), ("EXEC",)],
    "unwatch": [("WATCH", A), ("SET", A, "1"), ("UNWATCH",), ("MULTI",), ("GET", A), ("EXEC",)],
    "unwatch without watch": [("UNWATCH",), ("UNWATCH",), ("MULTI",), ("GET", A), ("EXEC",)],
    "watch, discard": [("WATCH", A), ("SET", A, "1"), ("MULTI",), ("GET", A), ("DISCARD",), ("MULTI",), ("GET", A), ("EXEC",)],
    "watch, error": [("WATCH", A), ("SET", A, "1"), ("MULTI",), ("GET",), ("EXEC",), ("MULTI",), ("GET", A), ("EXEC",)],
    "watch, keyless": [("WATCH", A), ("MULTI",), ("PING",), ("EXEC",), ("WATCH", A), ("SET", A, "1"), ("MULTI",), ("PING",), ("EXEC",)],
    "watch, then unwatched block": [("WATCH", A), ("UNWATCH",), ("MULTI",), ("PING",), ("EXEC",)],
    "reset": [("MULTI",), ("SET", A, "1"), ("RESET",), ("GET", A), ("EXEC",)],
    "watch, reset": [("WATCH", A), ("SET", A, "1"), ("RESET",), ("MULTI",), ("GET", A), ("EXEC",)],
    "quit": [("MULTI",), ("SET", A, "1"), ("QUIT",)],
    "blocking": [("MULTI",), ("BLPOP", L, "0"), ("BRPOP", L, "0"), ("BLMOVE", L, L, "LEFT", "LEFT", "0"), ("BZPOPMIN", B, "0"),
                 ("XREAD", "BLOCK", "0", "STREAMS", B, "$"), ("EXEC",), ("PING",)],
    "eval": [("MULTI",), ("EVAL", "return redis.call('INCR', KEYS[1])", "1", A), ("EVAL", "return 7", "0"), ("EXEC",), ("GET", A)],
    "no such script": [("MULTI",), ("EVALSHA", "f" * 40, "1", A), ("SET", A, "1"), ("EXEC",), ("GET", A)],
    "script load": [("MULTI",), ("SCRIPT", "LOAD", "return 11"), ("EXEC",)],
    "config": [("MULTI",), ("CONFIG", "SET", "slowlog-max-len", "77"), ("CONFIG", "GET", "slowlog-max-len"), ("EXEC",)],
    "config, wrong": [("MULTI",), ("CONFIG", "SET", "nosuch", "77"), ("SET", A, "1"), ("EXEC",), ("GET", A)],
    "wait": [("MULTI",), ("SET", A, "1"), ("WAIT", "1", "1"), ("EXEC",)],
    "many keys": [("MULTI",), ("MSET", A, "1", B, "2"), ("MGET", A, B), ("DEL", A, B), ("EXISTS", A, B), ("EXEC",)],
    "wrong use": [("MULTI",), ("MSET", A, "1", B), ("EXEC",), ("GET", A)],
    "select": [("MULTI",), ("SELECT", "0"), ("SET", A, "1"), ("EXEC",)],
}


@pytest.mark.parametrize("one_by_one", [True, False], ids=["asked one by one", "pipelined"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_answers_are_those_of_one_server(puerta, plain, name, one_by_one):
    assert play(puerta.port, SEQUENCES[name], one_by_one) == play(plain.port, SEQUENCES[name], one_by_one)
