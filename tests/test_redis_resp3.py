"""RESP3: HELLO 3, each client in its own protocol on its own connections to the nodes, answers made and merged in either form."""
import contextlib
import random
import re
import select
import socket
import threading
import time

import pytest

import harness
from harness import LONG, Load, Puerta, RespClient, RespError, RespSet, Verbatim, encode, tag_for_slot, wait_for

MANY = ["r3:many:%d" % i for i in range(60)]


@pytest.fixture(scope="module")
def server():
    """A plain redis-server, to compare with."""
    with harness.plain_server(enable_debug_command="yes") as node:
        yield node


@pytest.fixture(scope="module")
def cluster_server():
    """One server in cluster mode that owns all slots: what CLUSTER says of one node."""
    with harness.plain_server(cluster_enabled="yes") as node:
        node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        yield node


@contextlib.contextmanager
def speaking(port, version):
    with RespClient(port) as c:
        c.ask("HELLO", version)
        yield c


@pytest.fixture
def three(puerta):
    with speaking(puerta.port, 3) as c:
        yield c


@pytest.fixture
def real3(server):
    with speaking(server.port, 3) as c:
        yield c


def said(reply):
    return ("error", reply.text) if isinstance(reply, RespError) else (type(reply), reply)


# ---- HELLO ----

HELLOS = """
HELLO; HELLO 3; HELLO; HELLO 2; HELLO; HELLO 3; HELLO 2; HELLO 3 SETNAME a; CLIENT GETNAME; HELLO 2; CLIENT GETNAME
HELLO 3 AUTH default x; HELLO 3 AUTH default x SETNAME me; CLIENT GETNAME; HELLO 3 SETNAME you AUTH default x; CLIENT GETNAME
HELLO 3 SETNAME one SETNAME two; CLIENT GETNAME; hello 3 setname x auth default y; RESET; CLIENT GETNAME; HELLO
HELLO 1; HELLO 4; HELLO x; HELLO -1; HELLO 3x; HELLO 03; HELLO 99999999999999999999; HELLO 3 FOO; HELLO 3 AUTH x; HELLO 3 AUTH; HELLO 3 SETNAME
HELLO 3 AUTH nobody x; HELLO 3 SETNAME; HELLO FOO; HELLO 4 AUTH default x; HELLO 3 SETNAME a FOO; HELLO 3 AUTH default x FOO; HELLO
HELLO 3; HELLO 4; HELLO 1; HELLO 3 FOO; HELLO 3 AUTH nobody x; HELLO; GET none; RESET; GET none; HELLO
"""


@pytest.mark.parametrize("line", [line for line in HELLOS.split("\n") if line])
def test_hello_says_what_redis_says(client, server, line):
    if not server.is_7_0():
        pytest.skip("the texts are those of Redis 7.0")
    with RespClient(server.port) as real:
        client.marks, real.marks = [], []
        for call in line.split("; "):
            mine, theirs = client.try_ask(*call.split(" ")), real.try_ask(*call.split(" "))
            assert client.marks == real.marks, call
            for reply in (mine, theirs):
                if isinstance(reply, dict):
                    reply.pop(b"id"), reply.pop(b"version")
                if isinstance(reply, list):
                    del reply[6:8], reply[2:4]
            assert said(mine) == said(theirs), call


def test_a_name_that_is_wrong_changes_nothing(client):
    for name in ("a b", "a\nb"):
        reply = client.try_ask("HELLO", "3", "SETNAME", name)
        assert reply.text == "ERR Client names cannot contain spaces, newlines or special characters."
    assert client.ask("HELLO")[5] == 2 and client.ask("CLIENT", "GETNAME") is None


def test_hello_with_a_password(cluster):
    conf = "[puerta]\nsupervise = no\n[redis main]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\npassword = secret\n"
    with Puerta(cluster, wait=False, conf=conf) as p:
        wait_for("puerta", lambda: serves(p.port, "secret"))
        with p.client() as c:
            assert c.try_ask("HELLO", "3").text.startswith("NOAUTH HELLO must be called with the client already authenticated")
            assert c.try_ask("HELLO", "3", "AUTH", "default", "guess").text.startswith("WRONGPASS ")
            assert c.try_ask("GET", "a").text.startswith("NOAUTH ")
            c.marks = []
            assert c.ask("HELLO", "3", "SETNAME", "n", "AUTH", "default", "secret")[b"proto"] == 3
            assert c.marks[0] == "%7" and c.ask("CLIENT", "GETNAME") == b"n"
            c.marks = []
            assert c.ask("GET", "r3:none") is None and c.marks == ["_"]
            assert c.ask("RESET") == b"RESET" and c.try_ask("GET", "a").text.startswith("NOAUTH ")
            c.marks = []
            assert c.pipeline([("AUTH", "secret"), ("GET", "r3:none")]) == [b"OK", None] and c.marks == ["+", "$-1"]


def serves(port, password):
    try:
        with RespClient(port) as c:
            return c.pipeline([("AUTH", password), ("EXISTS", "a")]) == [b"OK", 0]
    except OSError:
        return False


def test_without_resp3(cluster):
    """resp3 = no: no second class of connections, and HELLO 3 says so as a server that does not know it."""
    with Puerta(cluster, resp3="no") as p, p.client() as c:
        assert c.try_ask("HELLO", "3").text == "NOPROTO unsupported protocol version"
        assert c.ask("HELLO", "2")[5] == 2 and c.ask("SET", "r3:no", "1") == b"OK"


# ---- the same types as a plain server, in both protocols ----

# Locally answered, at nodes, merged. "!" marks answers of which only the outer type is compared: what is in them is each one's own.
SAME = """
PING; PING x; ECHO x; ROLE; TIME; !LOLWUT; SELECT 0; !INFO; !INFO server; INFO nosuch; !INFO everything; MODULE LIST; ACL WHOAMI
ACL USERS; !ACL CAT; !ACL CAT geo; CLIENT ID; CLIENT GETNAME; CLIENT SETNAME ab; CLIENT GETNAME; !CLIENT INFO; !CLIENT LIST
CLIENT TRACKINGINFO; CLIENT GETREDIR; CLIENT NO-EVICT on; CLIENT KILL ID 999999; CLIENT UNPAUSE; CLIENT LIST ID 999999; !CLIENT HELP
COMMAND COUNT; COMMAND INFO get; COMMAND INFO nosuch config|get; COMMAND INFO getrange
COMMAND INFO ssubscribe; COMMAND LIST FILTERBY PATTERN g?t; COMMAND GETKEYS mset a 1 b 2; COMMAND GETKEYSANDFLAGS get a
!COMMAND; !COMMAND LIST; COMMAND DOCS get; !COMMAND HELP; COMMAND INFO xread; COMMAND INFO mget
SET t:s v; GET t:s; GET t:none; SET t:s w NX; SET t:s w GET; GETDEL t:s; INCRBYFLOAT t:f 1.5; STRLEN t:f; TYPE t:f; TTL t:f
HSET t:h a 1 b 2; HGETALL t:h; HGET t:h none; HMGET t:h a none; HRANDFIELD t:h 1 WITHVALUES; HRANDFIELD t:none; HSCAN t:h 0; HGETALL t:none
RPUSH t:l a b; LRANGE t:l 0 -1; LPOP t:none; LPOP t:none 2; LMPOP 1 t:l LEFT COUNT 1; LMPOP 1 t:none LEFT; LPOS t:l none; BLPOP_ x
SADD t:set a b; SMEMBERS t:set; SMEMBERS t:none; SPOP t:set 2; SPOP t:set; SMISMEMBER t:set a b; SRANDMEMBER t:none 1; SINTER t:none
ZADD t:z 1.5 a 2 b; ZSCORE t:z a; ZSCORE t:z none; ZRANGE t:z 0 -1 WITHSCORES; ZMSCORE t:z a none; ZINCRBY t:z 1 a; ZADD t:z INCR 1 b
ZPOPMIN t:z; ZPOPMAX t:z 2; ZRANK t:z none; ZRANDMEMBER t:none; ZADD t:z 1 a; ZRANK t:z a; ZMPOP 1 t:none MIN; ZMPOP 1 t:z MIN
XADD t:x 1-1 f v; XRANGE t:x - +; XREAD STREAMS t:x 0; XREAD STREAMS t:x 9; XINFO STREAM t:x; XGROUP CREATE t:x g 0; XINFO GROUPS t:x
XREADGROUP GROUP g c STREAMS t:x >; XPENDING t:x g; XINFO STREAM t:x FULL; XAUTOCLAIM t:x g c 0 0; XLEN t:x; XINFO CONSUMERS t:x g
GEOADD t:g 1 2 a; GEOPOS t:g a none; GEODIST t:g a none; GEOSEARCH t:g FROMMEMBER a BYRADIUS 1 km WITHCOORD; GEOHASH t:g a none
SETBIT t:b 1 1; BITFIELD t:b GET u4 0; PFADD t:p a; PFCOUNT t:p; OBJECT ENCODING t:f; OBJECT ENCODING t:none; DUMP t:none; OBJECT FREQ t:f
MEMORY USAGE t:none; MEMORY USAGE t:f; !MEMORY STATS; !MEMORY DOCTOR; !CONFIG GET *max*; CONFIG GET maxmemory; CONFIG SET nosuch 1
LATENCY LATEST; LATENCY HISTORY x; LATENCY RESET; !LATENCY HISTOGRAM; SLOWLOG LEN; SLOWLOG RESET; SCRIPT EXISTS a b; SCRIPT FLUSH
FUNCTION LIST; FUNCTION STATS; FUNCTION FLUSH; SCRIPT LOAD return; SCRIPT EXISTS 63143b6f8007b98c53ca2149822777b3566f9241; SCRIPT KILL
MGET t:f t:none; MGET t:f; EXISTS t:f t:none; DEL t:none; TOUCH t:f t:none; UNLINK t:none t:f; MSET t:m1 1 t:m2 2; DEL t:m1 t:m2
KEYS nosuch*; FLUSHALL; RANDOMKEY; DBSIZE; KEYS *; SCAN 0 MATCH nosuch*; WAIT_ x; GET; NOSUCH; GET a b; PUBSUB CHANNELS; PUBSUB NUMPAT
LCS t:a t:a; LCS t:a t:a IDX; SORT t:none; COPY t:none t:none; EXPIRETIME t:none; SUBSTR t:none 0 1; GETEX t:none; HELLO x; QUIT
"""
SCRIPTS = ["return 1", "return 'x'", "return false", "return true", "return {1,'a',{2},false}", "return {err='MINE wrong'}", "return {ok='FINE'}",
           "redis.setresp(3) return {double=3.5}", "redis.setresp(3) return {map={a=1}}", "redis.setresp(3) return {set={a=true}}",
           "redis.setresp(3) return {big_number='12345678901234567890123'}", "redis.setresp(3) return true", "redis.setresp(3) return nil",
           "redis.setresp(3) return {verbatim_string={string='x',format='txt'}}", "return redis.error_reply('ERR own')",
           "redis.setresp(3) return redis.call('hgetall',KEYS[1])", "redis.call('hset',KEYS[1],'a','1') return redis.call('hgetall',KEYS[1])"]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("line", [line for line in SAME.split("\n") if line])
def test_the_same_types_as_a_plain_server(cluster, puerta, server, line, version):
    if not server.is_7_0():
        pytest.skip("compared with Redis 7.0")
    server.ask("FLUSHALL")
    cluster.flush()
    wrong = []
    with speaking(puerta.port, version) as mine, speaking(server.port, version) as theirs:
        for call in line.split("; "):
            outer, words = call.startswith("!"), call.lstrip("!").split(" ")
            mine.marks, theirs.marks = [], []
            a, b = mine.try_ask(*words), theirs.try_ask(*words)
            if outer:
                same = mine.marks[0][0] == theirs.marks[0][0] and type(a) is type(b)
                same = same and (type(a) is not dict or {type(v) for v in a.values()} == {type(v) for v in b.values()})
                same = same and (type(a) not in (list, RespSet) or {type(v) for v in a} == {type(v) for v in b})
            else:
                same = mine.marks == theirs.marks
            if not same:
                wrong.append((call, mine.marks[:40], theirs.marks[:40]))
    assert wrong == []


@pytest.mark.parametrize("version", [2, 3])
def test_scripts_answer_in_every_type(puerta, server, version):
    with speaking(puerta.port, version) as mine, speaking(server.port, version) as theirs:
        for script in SCRIPTS:
            mine.marks, theirs.marks = [], []
            a, b = mine.try_ask("EVAL", script, 1, "t:script"), theirs.try_ask("EVAL", script, 1, "t:script")
            assert (mine.marks, said(a)) == (theirs.marks, said(b)), script


@pytest.mark.parametrize("version", [2, 3])
def test_cluster_says_it_in_the_types_of_a_node(puerta, cluster_server, version):
    with speaking(puerta.port, version) as mine, speaking(cluster_server.port, version) as theirs:
        for call in ("SLOTS", "SHARDS", "NODES", "INFO", "MYID", "LINKS", "KEYSLOT x", "COUNTKEYSINSLOT 1", "GETKEYSINSLOT 1 5", "REPLICAS x"):
            mine.marks, theirs.marks = [], []
            a, b = mine.try_ask("CLUSTER", *call.split(" ")), theirs.try_ask("CLUSTER", *call.split(" "))
            assert type(a) is type(b) and mine.marks == theirs.marks, call


def test_all_rows_of_command_in_the_form_of_resp3(three, real3, server):
    if not server.is_7_0():
        pytest.skip("compared with Redis 7.0")
    names = [row[0] for row in real3.ask("COMMAND")]
    rows = three.ask("COMMAND", "INFO", *names)
    theirs = real3.ask("COMMAND", "INFO", *names)
    for a, b in zip(rows, theirs):
        assert [type(x) for x in a] == [type(x) for x in b], a[0]
        assert all(sorted(spec) == [b"begin_search", b"find_keys", b"flags"] and isinstance(spec[b"flags"], RespSet) for spec in a[8]), a[0]


def test_every_type_of_debug_protocol(server):
    """What no command of a cluster gives, from a plain server behind Puerta: attributes ahead, big numbers, booleans, pushes, doubles."""
    with Puerta([server.address], topology="single", allow_admin="yes", wait=False) as p:
        wait_for("puerta", lambda: serves_open(p.port))
        with speaking(p.port, 3) as c, speaking(server.port, 3) as real:
            for kind in ("string", "integer", "double", "null", "array", "set", "map", "attrib", "verbatim", "true", "false", "bignum"):
                c.marks, real.marks = [], []
                c.send("DEBUG", "PROTOCOL", kind)
                real.send("DEBUG", "PROTOCOL", kind)
                assert said(c.read()) == said(real.read()) and c.marks == real.marks and c.attributes == real.attributes, kind
                c.attributes, real.attributes = [], []
            assert c.ask("PING") == b"PONG"


def serves_open(port):
    try:
        with RespClient(port) as c:
            return c.try_ask("EXISTS", "a") == 0
    except OSError:
        return False


# ---- one client, two protocols ----

def test_the_protocol_changes_in_the_middle_of_a_pipeline(client):
    """What comes before HELLO is answered in the old protocol, what comes after it in the new one, and all in order."""
    names = MANY[:20]
    client.pipeline([("HSET", "{%s}h" % n, "f", n) for n in names])
    for turn in range(10):
        commands, marks = [], []
        for n in names:
            for version in random.sample([2, 3], 2):
                commands += [("HELLO", version), ("SET", n, "%s:%d" % (n, turn)), ("APPEND", n, "+"), ("GET", n), ("GET", n + "none"),
                             ("HGETALL", "{%s}h" % n), ("MGET", n, MANY[30], "r3:none")]
                marks.append(version)
        client.marks = []
        replies = client.pipeline(commands)
        for i, version in enumerate(marks):
            n = names[i // 2]
            got = replies[i * 7:i * 7 + 7]
            value = b"%s:%d+" % (n.encode(), turn)
            assert type(got[0]) is (dict if version == 3 else list)
            assert got[1:5] == [b"OK", len(value), value, None]
            assert got[5] == ({b"f": n.encode()} if version == 3 else [b"f", n.encode()])
            assert got[6] == [value, None, None]
        nulls = [m for m in client.marks if m in ("_", "$-1")]
        assert nulls == [{2: "$-1", 3: "_"}[v] for v in marks for _ in range(3)]
    client.ask("HELLO", 2)


def test_reset_goes_back(three):
    three.marks = []
    assert three.pipeline([("GET", "r3:none"), ("RESET",), ("GET", "r3:none"), ("HELLO", "3"), ("GET", "r3:none")])[:3] == [None, b"RESET", None]
    assert three.marks[:3] == ["_", "+", "$-1"] and three.marks[-1] == "_"


def test_a_change_waits_behind_a_slow_request(puerta, cluster, three):
    """A script holds its node: HELLO 2 and what follows it come after its answer."""
    key = cluster.key_on(0)
    busy = "local n = redis.call('time') repeat local m = redis.call('time') until (m[1]-n[1])*1000000+m[2]-n[2] > 200000 return redis.call('set', KEYS[1], 'late')"
    three.send_raw(encode("EVAL", busy, 1, key) + encode("HELLO", "2") + encode("SET", key, "later") + encode("GET", key))
    assert [three.read() for _ in range(4)][2:] == [b"OK", b"later"]
    assert cluster.masters[0].ask("GET", key) == b"later"


def test_client_list_tells_the_protocol(puerta, three, other):
    assert b" resp=3 " in three.ask("CLIENT", "INFO") and b" resp=2 " in other.ask("CLIENT", "INFO")
    assert isinstance(three.ask("CLIENT", "LIST"), Verbatim) and not isinstance(other.ask("CLIENT", "LIST"), Verbatim)


# ---- merged ----

def test_merged_answers(three, other, cluster):
    cluster.flush()
    assert three.ask("MSET", *[x for k in MANY for x in (k, "v" + k)]) == b"OK"
    three.marks = []
    assert three.ask("MGET", *MANY, "r3:none") == [b"v" + k.encode() for k in MANY] + [None]
    assert three.marks == ["*61"] + ["$"] * 60 + ["_"]
    assert three.ask("EXISTS", *MANY) == 60 and three.ask("DBSIZE") == 60 and three.ask("TOUCH", *MANY) == 60
    three.marks = []
    assert sorted(three.ask("KEYS", "r3:many:*")) == sorted(k.encode() for k in MANY) and three.marks[0] == "*60"
    assert three.ask("RANDOMKEY") in [k.encode() for k in MANY]
    found, cursor = [], b"0"
    while True:
        three.marks = []
        cursor, page = three.ask("SCAN", cursor, "COUNT", 7)
        assert three.marks[:3] == ["*2", "$", "*%d" % len(page)]
        found += page
        if cursor == b"0":
            break
    assert sorted(found) == sorted(k.encode() for k in MANY)
    info = three.ask("INFO", "keyspace")
    assert isinstance(info, Verbatim) and b"db0:keys=60,expires=0" in info and type(other.ask("INFO", "keyspace")) is bytes
    assert three.ask("UNLINK", *MANY[:30]) == 30 and three.ask("FLUSHALL") == b"OK"
    three.marks = []
    assert three.ask("RANDOMKEY") is None and three.marks == ["_"]


def test_scripts_and_functions_merged(three, other, cluster):
    digest = three.ask("SCRIPT", "LOAD", "return ARGV[1]")
    assert three.ask("SCRIPT", "EXISTS", digest, "0" * 40) == [1, 0]
    for node in cluster.masters:
        node.ask("SCRIPT", "FLUSH")
    # Each connection is given the script by itself: of both classes, on every node.
    for c in (three, other, three):
        assert c.pipeline([("EVALSHA", digest, 1, k, "a" + k) for k in MANY]) == [b"a" + k.encode() for k in MANY]
    three.marks = []
    assert three.ask("FUNCTION", "STATS")[b"running_script"] is None and three.marks[0] == "%2"
    with pytest.raises(RespError, match="NOTBUSY"):
        three.ask("SCRIPT", "KILL")
    three.ask("CONFIG", "SET", "slowlog-log-slower-than", "0")
    try:
        assert three.ask("SLOWLOG", "LEN") > 2
        entries = three.ask("SLOWLOG", "GET", 2)
        assert len(entries) == 6 and all(len(e) == 6 for e in entries)
    finally:
        three.ask("CONFIG", "SET", "slowlog-log-slower-than", "10000")
    three.marks = []
    assert three.ask("CONFIG", "GET", "slowlog-log-slower-than") == {b"slowlog-log-slower-than": b"10000"} and three.marks[0] == "%1"


def test_errors_stay_as_they_are(three, other):
    other.ask("SET", "r3:string", "x")
    for command in (("LPUSH", "r3:string", "x"), ("GET",), ("NOSUCH", "a", "b"), ("RENAME", "{a}1", "{b}2"), ("MSET", "a", "1", "b"),
                    ("EVAL", "return {err='MINE x'}", 1, "k"), ("EVAL", "syntax error", 1, "k"), ("SUBSCRIBE_", "a")):
        assert three.try_ask(*command).text.split(" on ")[0] == other.try_ask(*command).text.split(" on ")[0], command


# ---- both at once ----

class Worker(threading.Thread):
    """A client that now and then changes its protocol, and knows each answer and its type."""

    def __init__(self, port, number, rounds):
        super().__init__()
        self.port, self.number, self.rounds = port, number, rounds
        self.failure = None

    def run(self):
        try:
            self.work()
        except BaseException as e:  # noqa: BLE001 - reported by the test
            self.failure = e

    def work(self):
        rnd = random.Random(self.number)
        key = lambda i: "r3:w%d:%d" % (self.number, i)  # noqa: E731
        with RespClient(self.port) as c:
            version = 2
            for turn in range(self.rounds):
                commands, wanted = [], []
                if rnd.random() < 0.3:
                    version = 5 - version
                    commands.append(("HELLO", version))
                    wanted.append(None)
                for i in range(rnd.randrange(1, 12)):
                    value = b"%d:%d" % (turn, i)
                    commands += [("SET", key(i), value), ("GET", key(i)), ("HSET", key(i) + "h", "f", value), ("HGETALL", key(i) + "h"),
                                 ("ZADD", key(i) + "z", "2.5", "m"), ("ZSCORE", key(i) + "z", "m"), ("MGET", key(i), key(99)), ("PING",)]
                    three = version == 3
                    wanted += [b"OK", value, None, {b"f": value} if three else [b"f", value], None, 2.5 if three else b"2.5", [value, None], b"PONG"]
                for command, got, want in zip(commands, c.pipeline(commands), wanted):
                    assert want is None or (got == want and type(got) is type(want)), (version, command, got, want)


def test_many_clients_of_both_protocols_at_once(puerta):
    workers = [Worker(puerta.port, n, 300 if LONG else 60) for n in range(16)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    for w in workers:
        if w.failure:
            raise w.failure


def test_load_of_both_protocols(cluster, puerta):
    with Load(puerta.port, "-3", "-c", 40, "-n", 400000 if LONG else 120000, "-b", 300000) as load:
        load.finish().check()


def test_two_connections_a_node(cluster):
    """The one of RESP3 is there only once somebody needs it."""
    def upstreams(node):
        return sorted(re.findall(r" resp=(\d)", node.ask("CLIENT", "LIST").decode()))

    keys = [cluster.key_on(i) for i in range(3)]
    with Puerta(cluster) as p, p.client() as c:
        c.pipeline([("GET", k) for k in keys])
        before = [upstreams(node).count("3") for node in cluster.masters]
        assert c.ask("HELLO", 3)[b"proto"] == 3
        assert [upstreams(node).count("3") for node in cluster.masters] == before, "nobody has asked the nodes for anything yet"
        c.pipeline([("GET", keys[0])] * 3)
        assert [upstreams(node).count("3") for node in cluster.masters] == [before[0] + 1] + before[1:]


# ---- large ----

def test_large_answers_and_requests(three, other):
    """On leases: each in its own protocol, though they take turns on them."""
    big = "v" * 3000000
    fields = [x for i in range(3000) for x in ("f%d" % i, "x" * 300)]
    assert three.ask("SET", "r3:big", big) == b"OK"
    assert three.ask("HSET", "r3:bigh", *fields) == 3000
    assert three.ask("SADD", "r3:bigs", *["m%d" % i + "y" * 200 for i in range(2000)]) == 2000
    for turn in range(6):
        c, form = ((three, dict), (other, list))[turn % 2]
        replies = c.pipeline([("GET", "r3:big"), ("HGETALL", "r3:bigh"), ("GET", "r3:none"), ("SMEMBERS", "r3:bigs"), ("STRLEN", "r3:big"),
                              ("MGET", "r3:big", "r3:none", "r3:big")])
        assert replies[0] == big.encode() and type(replies[1]) is form and len(replies[1]) == (3000 if form is dict else 6000)
        assert replies[2] is None and type(replies[3]) is (RespSet if form is dict else list) and len(set(replies[3])) == 2000
        assert replies[4] == len(big) and replies[5] == [big.encode(), None, big.encode()]
        assert c.ask("SET", "r3:big2", big + str(turn)) == b"OK" and c.ask("GETRANGE", "r3:big2", -1, -1) == b"%d" % turn
    assert three.ask("DEL", "r3:big", "r3:big2", "r3:bigh", "r3:bigs") == 4


def test_large_answers_with_few_leases(cluster):
    """Four leases, more clients, both protocols: leases change their protocol all the time."""
    with Puerta(cluster, max_leases=4, shared_reply_limit="4k", lease_wait="20s") as p:
        with p.client() as c:
            for i in range(12):
                c.ask("HSET", "r3:few%d" % i, *[x for n in range(200) for x in ("f%d" % n, "z" * 2000)])
        failures = []

        def work(number):
            try:
                with speaking(p.port, 2 + number % 2) as c:
                    for turn in range(20):
                        got = c.ask("HGETALL", "r3:few%d" % ((number + turn) % 12))
                        assert type(got) is (dict if number % 2 else list) and len(got) == (200 if number % 2 else 400)
            except BaseException as e:  # noqa: BLE001
                failures.append(e)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(10)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert failures == []
        with p.client() as c:
            assert int(c.info("puerta")["large_replies"]) >= 200


# ---- nodes that fail, slots that move ----

NAMED = re.compile(r"^(ERR outcome unknown|ERR no answer: |TRYAGAIN not executed|CLUSTERDOWN not executed|ERR not executed|ERR the node was lost in the middle of the answer)")


def test_failover_under_both_protocols(own_cluster):
    with Puerta(own_cluster) as p:
        for freeze in (False, True):
            victim = own_cluster.masters[0 if not freeze else 1]
            replica = own_cluster.replicas[0 if not freeze else 1][0]
            with Load(p.port, "-3", "-c", 20, "-n", 100000000, "-m", 60, "-b", 20000, "-e") as load:
                load.wait_answers(8000)
                own_cluster.pause_writes_and_sync(victim, replica)
                victim.freeze() if freeze else victim.kill()
                own_cluster.wait_promoted(replica)
                load.wait_answers(load.answers() + 8000)
                result = load.finish(stop=True)
            if freeze:
                victim.kill()
            result.check(errors=None, reconnects=None, early=None)
            assert not [t for t in result.table if not NAMED.match(t)], result.table


def test_slots_move_under_both_protocols(cluster, puerta):
    first, second = cluster.masters[:2]
    slots = list(range(40, 70))
    with Load(puerta.port, "-3", "-c", 20, "-n", 100000000, "-m", 120, "-b", 20000) as load:
        load.wait_answers(5000)
        for slot in slots:
            cluster.migrate_slot(slot, first, second)
        load.wait_answers(load.answers() + 3000)
        for slot in slots:
            cluster.migrate_slot(slot, second, first)
        result = load.finish(stop=True)
    result.check(early=None)
    cluster.flush()


def test_a_slot_moves_under_a_client_of_resp3(cluster, puerta, three):
    slot, (source, target) = 20, cluster.masters[:2]
    keys = ["{%s}:r3:%d" % (tag_for_slot(slot), i) for i in range(30)]
    three.pipeline([("HSET", k, "n", "0") for k in keys])
    try:
        for a, b in ((source, target), (target, source)):
            cluster.migrate_begin(slot, a, b)
            cluster.migrate_keys(slot, a, b, 15)
            assert three.pipeline([("HGETALL", k) for k in keys]) == [{b"n": b"0"}] * 30
            cluster.migrate_keys(slot, a, b)
            cluster.migrate_end(slot, a, b)
            assert three.pipeline([("HGETALL", k) for k in keys]) == [{b"n": b"0"}] * 30
    finally:
        assert cluster.owner(slot) is source
        three.ask("DEL", *keys)


def test_a_restarted_node_greets_again(own_cluster):
    with Puerta(own_cluster, failover_wait="20s") as p, speaking(p.port, 3) as c:
        key = own_cluster.key_on(2, "h")
        c.ask("HSET", key, "a", "1")
        own_cluster.masters[2].ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert c.ask("HGETALL", key) == {b"a": b"1"}


# ---- nodes that are not as they should be ----

class Fake(threading.Thread):
    """A node that answers each request with what `say` gives."""

    def __init__(self, say):
        super().__init__(daemon=True)
        self.say = say
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(50)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.dials = 0
        self.ending = False
        self.start()

    def run(self):
        open_ones = {}
        while not self.ending:
            for s in select.select([self.listener] + list(open_ones), [], [], 0.05)[0]:
                if s is self.listener:
                    open_ones[s.accept()[0]] = b""
                    self.dials += 1
                    continue
                try:
                    data = s.recv(65536)
                except OSError:
                    data = b""
                if not data:
                    del open_ones[s]
                    s.close()
                    continue
                open_ones[s] = self.serve(s, open_ones[s] + data)
        for s in list(open_ones) + [self.listener]:
            s.close()

    def serve(self, s, data):
        while data:
            head = re.match(rb"\*(\d+)\r\n", data)
            at, words = head.end() if head else 0, []
            for _ in range(int(head.group(1)) if head else 0):
                bulk = re.compile(rb"\$(\d+)\r\n").match(data, at)
                if not bulk or len(data) < bulk.end() + int(bulk.group(1)) + 2:
                    return data
                words.append(data[bulk.end():bulk.end() + int(bulk.group(1))])
                at = bulk.end() + int(bulk.group(1)) + 2
            if not head:
                return data
            data = data[at:]
            with contextlib.suppress(OSError):
                s.sendall(self.say([w.upper() if i == 0 else w for i, w in enumerate(words)]))
        return data

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ending = True
        self.join()


def plainly(words):
    return {b"PING": b"+PONG\r\n", b"EXISTS": b":0\r\n", b"GET": b"$1\r\nv\r\n", b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n"}.get(words[0], b"+OK\r\n")


def test_a_server_that_knows_no_resp3():
    """Its clients of RESP2 notice nothing, those of RESP3 get a clear error, each time at once, and nothing turns in circles."""
    def say(words):
        return b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n" if words[0] == b"HELLO" else plainly(words)

    with Fake(say) as node, Puerta([node.address], topology="single", wait=False) as p:
        wait_for("puerta", lambda: serves_open(p.port))
        with p.client() as two, speaking(p.port, 3) as c:
            for _ in range(5):
                began = time.monotonic()
                replies = c.pipeline([("GET", "a"), ("SET", "a", "b"), ("MGET", "a", "b"), ("PING",)])
                assert [r.text.split(":")[0] for r in replies[:3]] == ["ERR not executed"] * 3 and "refuses RESP3, HELLO 2 may work: " in replies[0].text and "unknown command `HELLO`" in replies[0].text
                assert replies[3] == b"PONG" and time.monotonic() - began < 2 * harness.SLOW
                assert two.pipeline([("GET", "a"), ("SET", "a", "b")]) == [b"v", b"OK"]
            assert node.dials < 20
            assert two.info("puerta")["not_executed"] == "15"
            assert b"state=up" in two.ask("INFO", "puerta")
            assert c.ask("HELLO", 2)[5] == 2 and c.ask("GET", "a") == b"v"


def test_a_node_that_takes_no_more_connections_still_serves_those_it_has():
    """HELLO 3 gets an error that passes: those of RESP3 wait for it to pass, those of RESP2 notice nothing."""
    full = []

    def say(words):
        return b"-ERR max number of clients reached\r\n" if words[0] == b"HELLO" and full else plainly(words)

    with Fake(say) as node, Puerta([node.address], topology="single", wait=False, failover_wait="600ms") as p:
        wait_for("puerta", lambda: serves_open(p.port))
        with p.client() as two, speaking(p.port, 3) as c:
            assert two.ask("GET", "a") == b"v"
            full.append(True)
            c.send("GET", "a")
            began, slowest = time.monotonic(), 0.0
            while time.monotonic() - began < 1.2:
                at = time.monotonic()
                assert two.ask("GET", "a") == b"v"
                slowest = max(slowest, time.monotonic() - at)
            assert slowest < 0.2 * harness.SLOW
            assert c.read().text.startswith("CLUSTERDOWN not executed")
            c.send("GET", "b")
            time.sleep(0.2)
            full.clear()
            assert c.read() == b"v"
            assert "state=up" in two.ask("INFO", "puerta").decode() and node.dials < 100


@pytest.mark.parametrize("quiet_s", [0, 0.8], ids=["busy", "idle"])
def test_one_silent_connection_does_not_hold_the_other(quiet_s):
    """The node still answers those of RESP2 while its connection of RESP3 is dead: they wait for a probe at most."""
    with Fake(lambda words: b"" if words[:2] == [b"GET", b"silent"] else plainly(words)) as node, \
            Puerta([node.address], topology="single", wait=False, request_timeout="3s") as p:
        wait_for("puerta", lambda: serves_open(p.port))
        with p.client() as two, speaking(p.port, 3) as c:
            assert two.ask("GET", "a") == c.ask("GET", "a") == b"v"
            c.send("GET", "silent")
            time.sleep(quiet_s * harness.SLOW)
            began, slowest = time.monotonic(), 0.0
            while time.monotonic() - began < 1.5:
                at = time.monotonic()
                assert two.ask("GET", "a") == b"v"
                slowest = max(slowest, time.monotonic() - at)
            assert slowest < 0.4 * harness.SLOW
            assert "no answer from" in c.read().text
            assert c.ask("GET", "a") == b"v" and "state=up" in two.ask("INFO", "puerta").decode()


def test_pushes_are_no_answers():
    """Before, behind and between answers, short and long: none of them is taken for one."""
    push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
    long_push = b">2\r\n$7\r\nmessage\r\n$300000\r\n" + b"p" * 300000 + b"\r\n"

    def say(words):
        if words[0] == b"GET":
            return push + b"$%d\r\n%s\r\n" % (len(words[1]), words[1]) + push
        if words[0] == b"STRLEN":
            return long_push + b":7\r\n"
        return plainly(words)

    with Fake(say) as node, Puerta([node.address], topology="single", wait=False) as p:
        wait_for("puerta", lambda: serves_open(p.port))
        with speaking(p.port, 3) as c:
            assert c.pipeline([("GET", "k%d" % i) for i in range(50)] + [("STRLEN", "x")] * 3 + [("GET", "end")]) == \
                [b"k%d" % i for i in range(50)] + [7] * 3 + [b"end"]
            assert int(c.info("puerta")["pushes_dropped"]) == 105 and int(c.info("puerta")["upstream_lost"]) == 0


def test_attributes_and_blob_errors_of_a_node():
    answers = {b"GET": b"|1\r\n+ttl\r\n:9\r\n$1\r\nv\r\n", b"INCR": b"!10\r\nERR gone\r\n\r\n", b"STRLEN": b"(123456789012345678901234567890\r\n",
               b"HGETALL": b"%1\r\n$1\r\nk\r\n%2\r\n+a\r\n,1.5\r\n+b\r\n~2\r\n#t\r\n_\r\n", b"TTL": b",inf\r\n", b"DBSIZE": b"!8\r\nMINE bad\r\n"}
    with Fake(lambda words: answers.get(words[0], plainly(words))) as node, Puerta([node.address], topology="single", wait=False) as p:
        wait_for("puerta", lambda: serves_open(p.port))
        with speaking(p.port, 3) as c:
            replies = c.pipeline([("GET", "a"), ("INCR", "a"), ("STRLEN", "a"), ("TTL", "a"), ("DBSIZE",), ("GET", "b")])
            assert replies[0] == b"v" and c.attributes == [{b"ttl": 9}] * 2 and replies[1].text == "ERR gone\r\n"
            assert replies[2] == 123456789012345678901234567890 and replies[3] == float("inf") and replies[4].text == "MINE bad"
            assert c.ask("HGETALL", "x") == {b"k": {b"a": 1.5, b"b": [True, None]}}
            assert "errorstat_MINE:count=1" in c.ask("INFO", "errorstats").decode()


def test_streamed_types_stay_refused():
    with Fake(lambda words: b"*?\r\n:1\r\n.\r\n" if words[0] == b"GET" else plainly(words)) as node, \
            Puerta([node.address], topology="single", wait=False, failover_wait="300ms") as p:
        wait_for("puerta", lambda: serves_open(p.port))
        with speaking(p.port, 3) as c:
            assert isinstance(c.try_ask("GET", "a"), RespError)
