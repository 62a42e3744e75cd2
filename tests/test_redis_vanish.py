"""Each kind of state, left at each of its steps in each way, with tables that hold one of it: the next client gets it, the others notice nothing."""
import re
import socket
import struct
import threading

import pytest

import harness
from harness import Puerta, RespPush

SLOT = 100
TAG = harness.tag_for_slot(SLOT)
A, Q = "{%s}a" % TAG, "{%s}q" % TAG

# What is said one after the other; after each prefix of it the client leaves. None: it does not wait for that answer.
STATES = {
    "multi": [("MULTI",), ("INCR", A), ("GET", A), ("EXEC",)],
    "poisoned": [("MULTI",), ("INCR", A), ("NOSUCH", A), ("EXEC",)],
    "watch": [("WATCH", A), ("GET", A), ("MULTI",), ("INCR", A), ("EXEC",)],
    "watch, no answer awaited": [("WATCH", A), ("MULTI",), ("INCR", A), ("EXEC",), None],
    "block": [("BLPOP", Q, "0"), None],
    "block behind a write": [("SET", A, "1"), ("BLMOVE", Q, Q, "LEFT", "LEFT", "0"), None],
    "block in a stream": [("XREAD", "BLOCK", "0", "STREAMS", Q + "s", "$"), None],
    "wait": [("SET", A, "1"), ("WAIT", "9", "0"), None],
    "login": [("AUTH", "bob", "x"), ("SET", A, "1"), ("AUTH", "bob", "x"), ("WATCH", A), ("MULTI",), ("EXEC",)],
    "login, no answer awaited": [("AUTH", "bob", "x"), ("SET", A, "1"), None],
    "tracking": [("HELLO", "3"), ("CLIENT", "TRACKING", "ON", "NOLOOP"), ("GET", A), ("WATCH", A), ("MULTI",), ("INCR", A), ("EXEC",)],
    "tracking for all": [("HELLO", "3"), ("CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP"), ("GET", A), ("BLPOP", Q, "0"), None],
    "tracking for all, no answer awaited": [("CLIENT", "TRACKING", "ON", "BCAST"), ("GET", A), None],
    "tracking what is asked for": [("HELLO", "3"), ("CLIENT", "TRACKING", "ON", "OPTIN", "NOLOOP"), ("CLIENT", "CACHING", "YES"), ("MGET", A, "b", "c", "d"), ("GET", A)],
    "tracking with a login": [("HELLO", "3", "AUTH", "bob", "x"), ("CLIENT", "TRACKING", "ON", "NOLOOP"), ("GET", A), ("AUTH", "default", ""), ("GET", A)],
    "tracking for itself in another protocol": [("CLIENT", "TRACKING", "ON", "REDIRECT", "{id}"), ("GET", A), ("HELLO", "3"), ("GET", A), ("RESET",)],
}


def close(c):
    c.close()


def reset_by_peer(c):
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()


def end_one_side(c):
    c.sock.shutdown(socket.SHUT_WR)
    while c.sock.recv(65536):
        pass
    c.close()


def say_and_stay(*commands):
    def leave(c):
        for command in commands:
            c.send(*command)
    leave.stays = True
    return leave


WAYS = {"close": close, "RST": reset_by_peer, "one side": end_one_side, "RESET": say_and_stay(("RESET",)), "HELLO, RESET": say_and_stay(("HELLO", "2"), ("RESET",)),
        "AUTH, DISCARD, RESET": say_and_stay(("AUTH", "bob", "x"), ("DISCARD",), ("RESET",)), "killed": None}


class Bystander(threading.Thread):
    """Asks and checks all the time, over one connection."""

    def __init__(self, puerta):
        super().__init__()
        self.client, self.over, self.wrong, self.count = puerta.client(timeout=5), threading.Event(), [], 0

    def run(self):
        try:
            while not self.over.is_set():
                self.count += 1
                said = self.client.pipeline([("SET", "by", self.count), ("MSET", "b1", self.count, "b2", self.count), ("MGET", "by", "b1", "b2")])
                if said != [b"OK", b"OK", [b"%d" % self.count] * 3]:
                    self.wrong.append(said)
        except (OSError, EOFError) as e:
            self.wrong.append(repr(e))
        self.client.close()


def answer(c):
    said = c.read()
    while isinstance(said, RespPush):
        said = c.read()
    return said


def play(c, commands):
    number = str(c.ask("CLIENT", "ID"))
    waits = None not in commands
    for command in commands:
        if command is not None:
            c.send(*(word.replace("{id}", number) for word in command))
            if waits:
                answer(c)


def all_is_free(p, cluster, before):
    """Each table holds one or as many as there are masters: all of it must be there for the next client."""
    with p.client() as c:
        harness.wait_for("the others to go", lambda: c.ask("CLIENT", "LIST").count(b"\n") == 2 + len(before))
        assert c.ask("WATCH", A) == b"OK" and c.ask("UNWATCH") == b"OK"
        c.ask("RPUSH", Q, "x")
        assert c.ask("BLPOP", Q, "5") == [Q.encode(), b"x"]
        assert c.ask("HELLO", "3")
        harness.wait_for("the connections of its own", lambda: c.try_ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "none") == b"OK")


@pytest.mark.parametrize("state", STATES)
def test_whoever_leaves_leaves_nothing_behind(cluster, state):
    for node in cluster.nodes:
        node.ask("ACL", "SETUSER", "bob", "reset", "on", ">x", "+@all", "~*", "&*")
    commands = STATES[state]
    least = 1 if None not in commands else len(commands)
    with Puerta(cluster, max_watching=1, max_blocked=1, max_own=3, client_logins="yes", lease_wait="10s") as p:
        bystander = Bystander(p)
        bystander.start()
        try:
            for steps in range(least, len(commands) + 1):
                for way, leave in WAYS.items():
                    stays = []
                    for _ in range(3):
                        c = p.client()
                        play(c, commands[:steps])
                        blocked = commands[-1] is None and commands[-2][0] in ("BLPOP", "BLMOVE", "XREAD", "WAIT")
                        if leave is None or (blocked and hasattr(leave, "stays")):
                            with p.client() as killer:
                                mine = re.findall(rb"id=(\d+) addr=%s:%d " % (c.sock.getsockname()[0].encode(), c.sock.getsockname()[1]), killer.ask("CLIENT", "LIST"))
                                assert killer.ask("CLIENT", "KILL", "ID", mine[0]) == 1
                            c.close()
                        else:
                            leave(c)
                            if hasattr(leave, "stays"):
                                while answer(c) != b"RESET":
                                    pass
                                stays.append(c)
                    all_is_free(p, cluster, stays)
                    for c in stays:
                        assert c.ask("PING") == b"PONG", way
                        c.close()
        finally:
            bystander.over.set()
            bystander.join()
        assert bystander.wrong == [] and bystander.count > 5
