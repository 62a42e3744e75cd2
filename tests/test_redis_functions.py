"""Functions on masters that join later: one server would have them for all keys, whenever the keys come."""
import os
import time

import pytest

import harness
from harness import Puerta, RedisCluster, RespError, tag_for_slot, wait_for

NOT_FOUND = "ERR Function not found"
QUICK = 1.0  # far below request_timeout (30 s) and failover_wait (5 s)


def library(name, function, more=b""):
    return b"#!lua name=%s\n" % name + more + b"\nredis.register_function{function_name='%s', flags={'no-writes'}, callback=" \
        b"function(keys, args) return '%s of ' .. (keys[1] or '') end}" % (function, function)


LIB = library(b"lib", b"f")


def noise(size):
    """A comment that does not become shorter: servers pack what they dump."""
    return b"-- " + os.urandom(size).replace(b"\n", b"\xff").replace(b"\r", b"\xfe")


def libraries(node):
    return sorted(dict(zip(entry[::2], entry[1::2]))[b"library_name"] for entry in node.ask("FUNCTION", "LIST"))


def dumps(node):
    line = node.info("commandstats").get("cmdstat_function|dump", "calls=0,")
    return int(line.split(",")[0].split("=")[1])


def key_in(slot, name="k"):
    return "{%s}%s" % (tag_for_slot(slot), name)


KEYS = [key_in(11), key_in(8203)]  # of each of two masters


def timed(client, *command):
    began = time.monotonic()
    answer = client.try_ask(*command)
    return answer, time.monotonic() - began


@pytest.fixture
def fresh():
    """Two masters of eight thousand slots each, to which others come."""
    with RedisCluster(masters=2, replicas=0, cluster_require_full_coverage="no") as c:
        yield c


@pytest.fixture(scope="module")
def joined():
    """The same, and three that have come already but own nothing."""
    with RedisCluster(masters=2, replicas=0, cluster_allow_replica_migration="no") as c:
        c.spare = [c.add_master() for _ in range(3)]
        yield c


@pytest.fixture
def two(joined):
    """The same, with nothing left of what an earlier test has done."""
    for node in joined.masters:
        node.ask("FUNCTION", "FLUSH")
        node.ask("CONFIG", "RESETSTAT")
    yield joined
    joined.flush()
    for node in joined.spare:
        for slot in joined.slots_of(node):
            joined.migrate_slot(slot, node, joined.masters[slot * 2 // harness.SLOTS])
        node.ask("CLUSTER", "SETSLOT", 100, "STABLE")


def f_of(key):
    return b"f of " + key.encode()


# ---- new masters ----

def test_an_error_of_the_functions_own_is_no_missing_function(two):
    """It may begin in the same words: it has run, and must not run again."""
    code = b"#!lua name=shop\nredis.register_function('buy', function(keys) redis.call('INCR', keys[1]) " \
        b"return redis.error_reply('ERR Function not found in the price list') end)"
    for node in two.masters:
        node.ask("FUNCTION", "LOAD", code)
    with Puerta(two) as puerta, puerta.client() as client:
        for key in KEYS:
            assert client.try_ask("FCALL", "buy", 1, key).text == "ERR Function not found in the price list"
            assert client.ask("GET", key) == b"1"


def test_a_new_master_gets_the_functions(fresh):
    with Puerta(fresh) as puerta, puerta.client() as client:
        assert client.ask("FUNCTION", "LOAD", LIB) == b"lib"
        new = fresh.add_master()
        fresh.migrate_slot(100, fresh.masters[0], new)
        assert libraries(new) == []
        keys = [key_in(100, "k%d" % i) for i in range(3)]
        assert client.pipeline([("FCALL", "f", 1, k) for k in keys] + [("FCALL_RO", "f", 1, keys[0])]) == [f_of(k) for k in keys + keys[:1]]
        assert libraries(new) == [b"lib"]
        fresh.migrate_slot(101, fresh.masters[0], new)
        assert client.ask("FCALL", "f", 1, key_in(101)) == f_of(key_in(101))
        assert dumps(fresh.masters[0]) == 1, "only its first slots make it a new master"


def test_nobody_has_to_ask(two):
    """The map alone tells it."""
    with Puerta(two, refresh_interval="100ms") as puerta, puerta.client() as client:
        client.ask("FUNCTION", "LOAD", LIB)
        new = two.spare[0]
        two.migrate_slot(100, two.masters[0], new)
        wait_for("the library on the new node", lambda: libraries(new) == [b"lib"])


def test_a_node_that_is_only_importing(two):
    """FCALL of a key that is not there any more is sent on by ASK, to a node that owns nothing yet."""
    with Puerta(two) as puerta, puerta.client() as client:
        client.ask("FUNCTION", "LOAD", LIB)
        new = two.spare[0]
        two.migrate_begin(100, two.masters[0], new)
        assert client.ask("FCALL", "f", 1, key_in(100)) == f_of(key_in(100))
        assert libraries(new) == [b"lib"]
        two.migrate_end(100, two.masters[0], new)
        assert client.ask("FCALL", "f", 1, key_in(100)) == f_of(key_in(100))
        assert libraries(new) == [b"lib"]


def test_what_changes_while_a_node_is_only_importing(two):
    """It has been given the functions, and is no master yet to be told what clients load and delete."""
    with Puerta(two) as puerta, puerta.client() as client:
        client.ask("FUNCTION", "LOAD", LIB)
        new = two.spare[0]
        two.migrate_begin(100, two.masters[0], new)
        assert client.ask("FCALL", "f", 1, key_in(100)) == f_of(key_in(100))
        assert client.ask("FUNCTION", "LOAD", library(b"other", b"g")) == b"other"
        assert client.ask("FUNCTION", "DELETE", "lib") == b"OK"
        two.migrate_end(100, two.masters[0], new)
        assert client.try_ask("FCALL", "f", 1, key_in(100)).text == NOT_FOUND
        assert client.ask("FCALL", "g", 1, key_in(100)) == b"g of " + key_in(100).encode()
        assert client.ask("FUNCTION", "DELETE", "other") == b"OK"
        assert not any(libraries(node) for node in two.masters)


def test_several_at_the_same_time(two):
    with Puerta(two, refresh_interval="100ms") as puerta, puerta.client() as client:
        client.ask("FUNCTION", "LOAD", LIB)
        new = two.spare
        for i, node in enumerate(new):
            two.migrate_slot(100 + i, two.masters[0], node)
        keys = [key_in(100 + i) for i in range(3)]
        assert client.pipeline([("FCALL", "f", 1, k) for k in keys]) == [f_of(k) for k in keys]
        assert [libraries(node) for node in new] == [[b"lib"]] * 3


@pytest.mark.parametrize("size", [1000, 150000], ids=["short", "long"])
def test_libraries_of_any_bytes(two, size):
    """The long ones do not fit into a shared connection's buffer: they come in pieces."""
    sources = {b"first": library(b"first", b"f", noise(size)), b"second": library(b"second", b"g", b"--[[\r\xff\r\n$3\r\n+OK\r\r\n]]")}
    with Puerta(two) as puerta, puerta.client() as client:
        for code in sources.values():
            client.ask("FUNCTION", "LOAD", code)
        new = two.spare[0]
        two.migrate_slot(100, two.masters[0], new)
        key = key_in(100)
        assert client.ask("FCALL", "f", 1, key) == f_of(key) and client.ask("FCALL", "g", 1, key) == b"g of " + key.encode()
        there = {e[1]: e[7] for e in new.ask("FUNCTION", "LIST", "WITHCODE")}
        assert there == sources


def test_what_is_too_long_is_said_and_nobody_waits(two):
    with Puerta(two, retain_bytes="64k") as puerta, puerta.client() as client:
        for i in range(3):
            client.ask("FUNCTION", "LOAD", library(b"lib%d" % i, b"f%d" % i, noise(40000)))
        new = two.spare[0]
        two.migrate_slot(100, two.masters[0], new)
        answer, took = timed(client, "FCALL", "f1", 1, key_in(100))
        assert answer.text == NOT_FOUND and took < QUICK * harness.SLOW
        assert puerta.log_text().count("too long to be copied") == 1
        assert client.try_ask("FCALL", "f1", 1, key_in(100)).text == NOT_FOUND
        assert puerta.log_text().count("too long to be copied") == 1
        assert b"functions_too_long:1" in client.ask("INFO", "everything")


def test_where_a_library_is_already_nothing_is_done(two):
    """As redis-cli --cluster add-node does it."""
    with Puerta(two) as puerta, puerta.client() as client:
        client.ask("FUNCTION", "LOAD", LIB)
        new = two.spare[0]
        new.ask("FUNCTION", "LOAD", library(b"lib", b"own"))
        two.migrate_slot(100, two.masters[0], new)
        assert client.ask("FCALL", "own", 1, key_in(100)) == b"own of " + key_in(100).encode()
        assert client.try_ask("FCALL", "f", 1, key_in(100)).text == NOT_FOUND
        assert "has not got the functions" not in puerta.log_text()


def test_a_promoted_replica_changes_nothing(own_cluster):
    with Puerta(own_cluster) as puerta, puerta.client(timeout=40) as client:
        client.ask("FUNCTION", "LOAD", LIB)
        master, [replica] = own_cluster.masters[0], own_cluster.replicas[0]
        wait_for("the replica to have it", lambda: libraries(replica) == [b"lib"])
        key = own_cluster.key_on(0)
        master.kill()
        wait_for("the replica to run it", lambda: client.try_ask("FCALL", "f", 1, key) == f_of(key))
        wait_for("it to be asked, and to refuse", lambda: "cmdstat_function|restore" in replica.info("commandstats"))
        assert libraries(replica) == [b"lib"]
        assert [client.ask("FCALL", "f", 1, own_cluster.key_on(i)) for i in range(3)] == [f_of(own_cluster.key_on(i)) for i in range(3)]
        assert "the functions" not in puerta.log_text()


# ---- functions that are nowhere, or not everywhere ----

def test_a_function_that_exists_nowhere(two):
    """The server's error, at once, and after at most one look at the others."""
    with Puerta(two) as puerta, puerta.client() as client:
        new = two.spare[0]
        two.migrate_slot(100, two.masters[0], new)
        keys = [KEYS[0], key_in(100), key_in(16000)]
        for library_first in (False, True):
            if library_first:
                client.ask("FUNCTION", "LOAD", LIB)
            for key in keys * 20:
                answer, took = timed(client, "FCALL", "nowhere", 1, key)
                assert answer.text == NOT_FOUND and took < QUICK * harness.SLOW
            assert client.try_ask("FCALL", "nowhere", 0).text == NOT_FOUND
            assert all(dumps(node) <= 3 for node in two.masters), "one for each of the others at most"


def test_a_function_that_exists_nowhere_in_a_pipeline(two):
    """What comes behind it on its slot has run when its node says so: it does not wait."""
    with Puerta(two) as puerta, puerta.client() as client:
        key = KEYS[0]
        answers = client.pipeline([("FCALL", "nowhere", 1, key), ("SET", key, 1), ("FCALL", "nowhere", 1, key), ("GET", key)])
        assert answers[0].text == answers[2].text == NOT_FOUND and answers[1::2] == [b"OK", b"1"]


def test_at_the_start_nothing_is_copied_before_it_is_asked_for(two):
    two.masters[0].ask("FUNCTION", "LOAD", LIB)
    with Puerta(two) as puerta, puerta.client() as client:
        assert client.ask("FCALL", "f", 1, KEYS[0]) == f_of(KEYS[0])
        assert client.ask("EXISTS", KEYS[1]) == 0
        assert libraries(two.masters[1]) == [] and dumps(two.masters[0]) == 0
        assert client.ask("FCALL", "f", 1, KEYS[1]) == f_of(KEYS[1])
        assert libraries(two.masters[1]) == [b"lib"]


def test_what_a_client_has_deleted_is_not_fetched(two):
    """Not even from a node that has kept it."""
    with Puerta(two) as puerta, puerta.client() as client:
        client.ask("FUNCTION", "LOAD", LIB)
        client.ask("FUNCTION", "DELETE", "lib")
        two.masters[1].ask("FUNCTION", "LOAD", LIB)
        assert client.try_ask("FCALL", "f", 1, KEYS[0]).text == NOT_FOUND
        assert libraries(two.masters[0]) == [] and dumps(two.masters[1]) == 0


def test_an_error_of_a_function_itself_is_no_word_of_the_node(two):
    code = "#!lua name=lib\nredis.register_function('f', function(keys) redis.call('INCR', keys[1]) return redis.error_reply('ERR Function not found, says f') end)"
    with Puerta(two) as puerta, puerta.client() as client:
        client.ask("FUNCTION", "LOAD", code)
        key = KEYS[0]
        assert client.try_ask("FCALL", "f", 1, key).text == "ERR Function not found, says f"
        assert client.ask("GET", key) == b"1"


def test_of_one_server_nothing_is_fetched(two):
    with Puerta([two.masters[0].address], topology="single") as puerta, puerta.client() as client:
        assert client.try_ask("FCALL", "nowhere", 1, KEYS[0]).text == NOT_FOUND
        assert client.ask("FUNCTION", "LOAD", LIB) == b"lib"
        assert not any(dumps(node) for node in two.masters)


# ---- while it is under way ----

def stand_still(node, ms):
    """It answers nobody for so long, but its connections stay."""
    node.ask("CLIENT", "PAUSE", ms, "ALL")


@pytest.mark.parametrize("write", [("FUNCTION", "FLUSH"), ("FUNCTION", "DELETE", "lib")], ids=lambda w: w[1])
def test_what_is_deleted_during_a_copy_stays_deleted(two, write):
    """The dump has been asked for when the deletion comes, and its answer comes later."""
    with Puerta(two, suspect_after="20s", probe_timeout="20s") as puerta, puerta.client() as client, puerta.client() as deleter:
        client.ask("FUNCTION", "LOAD", LIB)
        new = two.spare[0]
        two.migrate_slot(16000, two.masters[1], new)
        deleter.ask("EXISTS", KEYS[0])
        stand_still(two.masters[0], 400)
        client.send("FCALL", "f", 1, key_in(16000))
        wait_for("the new node to be asked for it", lambda: "cmdstat_fcall" in new.info("commandstats"), pause=0.001)
        assert deleter.ask(*write) == b"OK"
        answer = client.read()  # both were under way at once, so either may have been first
        assert answer == f_of(key_in(16000)) or answer.text == NOT_FOUND
        assert client.try_ask("FCALL", "f", 1, key_in(16000)).text == NOT_FOUND
        assert not any(libraries(node) for node in two.masters)
        assert dumps(two.masters[0]) == 1  # whether its answer came in time for a RESTORE is the machine's matter


def test_a_library_loaded_during_a_copy_does_not_keep_the_others_out(two):
    with Puerta(two, suspect_after="20s", probe_timeout="20s") as puerta, puerta.client() as client, puerta.client() as loader:
        client.ask("FUNCTION", "LOAD", LIB)
        new = two.spare[0]
        two.migrate_slot(16000, two.masters[1], new)
        stand_still(two.masters[0], 400)
        client.send("FCALL", "f", 1, key_in(16000))
        wait_for("the new node to be asked for it", lambda: "cmdstat_fcall" in new.info("commandstats"), pause=0.001)
        assert loader.ask("FUNCTION", "LOAD", library(b"other", b"g")) == b"other"
        assert client.read() == f_of(key_in(16000))
        assert [libraries(node) for node in two.masters[:3]] == [[b"lib", b"other"]] * 3


def test_the_source_dies_during_the_dump(fresh):
    """The next master is asked."""
    with Puerta(fresh, suspect_after="20s", probe_timeout="2s") as puerta, puerta.client() as client:
        client.ask("FUNCTION", "LOAD", LIB)
        new = fresh.add_master()
        fresh.migrate_slot(16000, fresh.masters[1], new)
        client.ask("EXISTS", KEYS[0])
        stand_still(fresh.masters[0], 60000)
        client.send("FCALL", "f", 1, key_in(16000))
        wait_for("the new node to be asked for it", lambda: "cmdstat_fcall" in new.info("commandstats"), pause=0.001)
        fresh.masters[0].kill()
        assert client.read() == f_of(key_in(16000))
        assert libraries(new) == [b"lib"] and dumps(fresh.masters[1]) == 1


def test_a_source_that_never_answers_costs_a_second(two):
    with Puerta(two, suspect_after="20s", probe_timeout="20s") as puerta, puerta.client() as client, puerta.client() as loader:
        client.ask("FUNCTION", "LOAD", LIB)
        new = two.spare[0]
        two.migrate_slot(16000, two.masters[1], new)
        stand_still(two.masters[0], 2000)
        answer, took = timed(client, "FCALL", "f", 1, key_in(16000))
        assert answer.text == NOT_FOUND and took < 2.0 * harness.SLOW
        answer, took = timed(client, "FCALL", "f", 1, key_in(16000))
        assert answer.text == NOT_FOUND and took < QUICK * harness.SLOW, "for a while nobody tries again"
        assert loader.ask("FUNCTION", "FLUSH") == b"OK", "it has only waited for the node itself"


def test_the_new_node_dies(fresh):
    """Nobody else notices, and when it is back it gets them."""
    with Puerta(fresh, failover_wait="2s") as puerta, puerta.client() as client:
        client.ask("FUNCTION", "LOAD", LIB)
        new = fresh.add_master()
        fresh.migrate_slot(16000, fresh.masters[1], new)
        new.stop()
        answer = client.try_ask("FCALL", "f", 1, key_in(16000))
        assert isinstance(answer, RespError) and answer.text.startswith("CLUSTERDOWN not executed")
        assert client.ask("FCALL", "f", 1, KEYS[0]) == f_of(KEYS[0])
        new.start()
        wait_for("it to be back with the functions", lambda: client.try_ask("FCALL", "f", 1, key_in(16000)) == f_of(key_in(16000)), timeout=30)
        assert client.ask("FUNCTION", "FLUSH") == b"OK"
        assert [libraries(node) for node in fresh.masters] == [[], [], []]
