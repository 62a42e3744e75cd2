"""The command table of command.c against a running server: what COMMAND, COMMAND DOCS and COMMAND GETKEYS answer.

    redis-server --COMMAND--> rows  ==  rows <--dump_commands-- command.c

The server is whichever is installed; differences between its version and the table are listed below, each with its reason. A row
that the server does not know is only allowed in the list NEWER.
"""
import os
import subprocess

import pytest

import harness

# The servers' own flags that the table leaves out of its answers.
NEWER_FLAGS = {"may_replicate", "protected"}  # Redis 7.0 has both, and hides them from COMMAND

# Rows that Redis 7.0 does not have, by the version that has them; and Puerta's own.
NEWER = {
    "redis 7.2": "client|no-touch client|setinfo cluster|myshardid waitaof",
    "redis 7.4": "hexpire hexpireat hexpiretime hpersist hpexpire hpexpireat hpexpiretime hpttl httl",
    "redis 8.0": "hgetdel hgetex hsetex sflush vadd vcard vdim vemb vgetattr vinfo vismember vlinks vrandmember vrem vsetattr vsim",
    "redis 8.2": "xackdel xdelex",
    "redis 8.4": "cluster|migration delex digest msetex vrange",
    "redis 8.8": "increx xnack",
    "valkey 8": "client|capa client|import-source cluster|slot-stats commandlog commandlog|get commandlog|help commandlog|len "
                "commandlog|reset script|show",
    "puerta": "puerta puerta|backends puerta|clients puerta|down puerta|drain puerta|help puerta|hotkeys puerta|kill puerta|loglevel "
              "puerta|memory puerta|reload puerta|slowlog puerta|status puerta|undrain",
    "valkey 9": "cluster|cancelslotmigrations cluster|getslotmigrations cluster|migrateslots clusterscan delifeq",
}

# Facts that changed after Redis 7.0, as the set of differing flags; the table has the newer form.
NEWER_FACTS = {
    "blmove": {"noscript"}, "blpop": {"noscript"}, "brpop": {"noscript"}, "brpoplpush": {"noscript"},  # allowed in scripts since,
    "bzpopmax": {"noscript"}, "bzpopmin": {"noscript"},                                                # where they do not block
    "wait": {"noscript", "blocking"},                     # the same, and it is marked as blocking
    "cluster|shards": {"loading"}, "cluster|slots": {"loading"},  # answered while loading since 7.2
}
NEWER_ARITY = {
    "command|getkeys": (-4, -3), "command|getkeysandflags": (-4, -3),  # the command alone is enough where it has no arguments
    "zrank": (3, -3), "zrevrank": (3, -3),                             # WITHSCORE since 7.2
}

# In the category, though not flagged: they tell about the server and change nothing.
ADMIN_WITHOUT_FLAG = {"lastsave", "role"}

# The server finds no keys in these calls, though they have what must hash to one slot; or misjudges them.
GETKEYS_DIFFERS = {
    "spublish": "channel names are not keys to COMMAND GETKEYS, but are sent by their slot",
    "ssubscribe": "the same",
    "sunsubscribe": "the same; and the fewest arguments are none",
    "pfmerge a0": "Redis 7.0 wants a source where the command itself does not",
}

# Requests in which the shapes' special cases occur; every one must have keys for the server too.
REQUESTS = """
get k|set k v|getex k EX 10|append k v|strlen k|setrange k 0 v
del a b c|unlink a b|exists a a b|touch a b|mget a b c|watch a b|pfcount a b|pfmerge d a b|sdiff a b|sinter a b|sunion a b
sdiffstore d a b|sinterstore d a b|sunionstore d a b
mset a 1 b 2|msetnx a 1 b 2
blpop a b 1|brpop a 1|bzpopmin a b c 0|bzpopmax a 0
rename a b|renamenx a b|copy a b|copy a b DB 2 REPLACE|lmove a b LEFT RIGHT|blmove a b LEFT RIGHT 0|rpoplpush a b|brpoplpush a b 0
smove a b m|lcs a b LEN|geosearchstore d s FROMMEMBER m BYRADIUS 1 m|zrangestore d s 0 -1
bitop AND d a b|bitop NOT d a
object encoding k|object freq k|memory usage k|memory usage k SAMPLES 5|pfdebug ENCODING k
xgroup create s g $|xgroup setid s g 0|xgroup destroy s g|xgroup createconsumer s g c|xgroup delconsumer s g c
xinfo stream s|xinfo stream s FULL|xinfo groups s|xinfo consumers s g
lmpop 2 a b LEFT|sintercard 2 a b LIMIT 3|zdiff 2 a b|zinter 2 a b WITHSCORES|zunion 1 a|zintercard 1 a|zmpop 1 a MIN
blmpop 0 2 a b LEFT|bzmpop 0 1 a MAX COUNT 3
eval s 2 a b c|evalsha s 1 a|eval_ro s 1 a b|evalsha_ro s 1 a|fcall f 2 a b x y|fcall_ro f 1 a
zunionstore d 2 a b WEIGHTS 1 2|zinterstore d 1 a|zdiffstore d 2 a b
xread STREAMS a 0|xread COUNT 2 STREAMS a b 0 0|xread BLOCK 0 COUNT 1 streams a b c 0 0 0
xreadgroup GROUP g c STREAMS a >|xreadgroup GROUP streams c COUNT 1 BLOCK 5 NOACK STREAMS a b > >
georadius k 1 2 3 m|georadius k 1 2 3 m STORE d|georadius k 1 2 3 m COUNT 3 ASC STOREDIST d|georadius k 1 2 3 m STORE d STOREDIST e
georadiusbymember k m 1 km STORE d|georadiusbymember k m 1 km|georadius_ro k 1 2 3 m WITHCOORD|georadiusbymember_ro k m 1 km
sort k|sort k BY nosort GET # LIMIT 0 5|sort k STORE d|sort k BY w_* GET store STORE d ASC|sort k LIMIT store d
sort_ro k BY nosort GET x|sort k BY store GET store
migrate h 1 k 0 5|migrate h 1 k 0 5 COPY REPLACE|migrate h 1 "" 0 5 KEYS a b|migrate h 1 "" 0 5 COPY AUTH keys KEYS a
migrate h 1 "" 0 5 AUTH2 keys keys KEYS a b c
geoadd k 1 2 m|zadd k 1 m|xadd s * f v|hset h f v|restore k 0 v|dump k|hscan h 0|move k 1|bitfield k GET u4 0
"""


@pytest.fixture(scope="module")
def helper(tmp_path_factory):
    binary = str(tmp_path_factory.mktemp("helper") / "dump_commands")
    sources = [os.path.join(harness.ROOT, name) for name in ("tests/unit/dump_commands.c", "command.c", "resp.c", "text.c")]
    subprocess.run([os.environ.get("CC", "cc"), "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-I", harness.ROOT, "-o", binary] + sources,
                   check=True)
    return binary


@pytest.fixture(scope="module")
def table(helper):
    names = "name arity flags first last step group route merge keys own".split()
    rows = {}
    for line in subprocess.run([helper], check=True, capture_output=True, text=True).stdout.splitlines():
        row = dict(zip(names, line.split("\t")))
        row["flags"] = set(filter(None, row["flags"].split(",")))
        row["own"] = set(filter(None, row["own"].split(",")))
        rows[row["name"]] = row
    return rows


@pytest.fixture(scope="module")
def facts(server):
    """What COMMAND says, by name; subcommands as the server names them, "container|name"."""
    rows = {}

    def take(row):
        rows[row[0].decode()] = {"arity": row[1], "flags": {f.decode() for f in row[2]}, "range": tuple(row[3:6]),
                                 "categories": {c.decode() for c in row[6]}}
        for sub in row[9]:
            take(sub)

    for row in server.ask("COMMAND"):
        take(row)
    return rows


def newer():
    return {name for names in NEWER.values() for name in names.split()}


def test_every_command_of_the_server_has_a_row(facts, table):
    assert sorted(set(facts) - set(table)) == []


def test_every_row_is_a_command_of_the_server_or_newer(server, facts, table):
    extra = set(table) - set(facts)
    assert sorted(extra - newer()) == []
    if server.is_7_0():
        assert sorted(newer() - extra) == [], "listed as newer, but not so"
    assert len(table) == len(set(table))


def test_arity(facts, table):
    wrong = {n: (f["arity"], int(table[n]["arity"])) for n, f in facts.items() if f["arity"] != int(table[n]["arity"])}
    assert {n: w for n, w in wrong.items() if NEWER_ARITY.get(n) != w} == {}


def test_flags(facts, table):
    wrong = {}
    for name, fact in facts.items():
        differing = (fact["flags"] ^ table[name]["flags"]) - NEWER_FLAGS - NEWER_FACTS.get(name, set())
        if differing:
            wrong[name] = differing
    assert wrong == {}


def test_key_positions(facts, table):
    wrong = {}
    for name, fact in facts.items():
        row = table[name]
        ours = tuple(int(row[k]) for k in ("first", "last", "step"))
        if ours != fact["range"]:
            wrong[name] = (fact["range"], ours)
    assert wrong == {}


def test_categories(facts, table):
    wrong = {}
    for name, fact in facts.items():
        row = table[name]
        ours = {"@" + c for c in ("keyspace", "dangerous") if c in row["own"]}
        if "admin" in row["flags"]:
            ours |= {"@admin", "@dangerous"}
        theirs = fact["categories"] & {"@keyspace", "@dangerous", "@admin"}
        if name in ADMIN_WITHOUT_FLAG:
            theirs -= {"@admin"}
        if ours != theirs:
            wrong[name] = (theirs, ours)
    assert wrong == {}


def test_groups(server, table):
    docs = server.ask("COMMAND", "DOCS")
    wrong = {}

    def take(name, doc):
        entry = dict(zip(doc[::2], doc[1::2]))
        if entry[b"group"].decode() != table[name]["group"]:
            wrong[name] = (entry[b"group"].decode(), table[name]["group"])
        subs = entry.get(b"subcommands", [])
        for sub, subdoc in zip(subs[::2], subs[1::2]):
            take(sub.decode(), subdoc)

    for name, doc in zip(docs[::2], docs[1::2]):
        take(name.decode(), doc)
    assert wrong == {}


def test_containers(facts, table):
    outer = {n.split("|")[0] for n in facts if "|" in n}
    assert {n for n in facts if "container" in table[n]["own"]} == outer
    assert all(("subcommand" in row["own"]) == ("|" in n) for n, row in table.items())


def requests():
    return [["" if a == '""' else a for a in r.split(" ")] for line in REQUESTS.split("\n") for r in line.split("|") if r]


def our_keys(helper, calls):
    lines = "".join("\t".join(c) + "\n" for c in calls)
    return subprocess.run([helper, "keys"], input=lines, check=True, capture_output=True, text=True).stdout.splitlines()


def test_keys_of_requests(server, helper):
    calls = requests()
    wrong = {}
    for call, ours in zip(calls, our_keys(helper, calls)):
        try:
            theirs = "\t".join(k.decode() for k in server.ask("COMMAND", "GETKEYS", *call))
        except harness.RespError as error:
            theirs = "error " + str(error)
        if ours != theirs:
            wrong[" ".join(call)] = (theirs, ours)
    assert wrong == {}
    assert len(calls) > 100


def test_every_row_with_keys_agrees_with_getkeys(server, facts, table, helper):
    """One call of each keyed command with the fewest arguments its shape takes, all different."""
    calls = []
    for name, row in table.items():
        if name not in facts or row["keys"] not in ("first", "all", "first-two", "second", "from-second", "pairs", "all-but-last"):
            continue
        call = name.split("|")
        call += ["a%d" % i for i in range(max(abs(int(row["arity"])), 3 if row["keys"] == "pairs" else 0) - len(call))]
        calls.append(call)
    wrong = {}
    for call, ours in zip(calls, our_keys(helper, calls)):
        try:
            theirs = "\t".join(k.decode() for k in server.ask("COMMAND", "GETKEYS", *call))
        except harness.RespError as error:
            theirs = "error " + str(error)
        if ours != theirs and call[0] not in GETKEYS_DIFFERS and " ".join(call) not in GETKEYS_DIFFERS:
            wrong[" ".join(call)] = (theirs, ours)
    assert wrong == {}
    assert len(calls) > 100


def test_routes(table):
    """What holds between a row's columns, whatever the server."""
    for name, row in table.items():
        if row["route"] == "slot":
            assert row["keys"] != "none", name
        if row["route"] == "all":
            assert row["merge"] != "none" and row["keys"] == "none", name
        if "blocking" in row["flags"]:
            assert row["route"] == "session" or "may_block" in row["own"], name
        if "split" in row["own"]:
            assert row["route"] == "slot" and row["merge"] in ("sum", "by_key", "all_ok") and row["keys"] in ("all", "pairs"), name
        if row["keys"] != "none":
            assert "container" not in row["own"], name
        assert not {"write", "readonly"} <= row["flags"], name
    split = {n for n, row in table.items() if "split" in row["own"]}
    assert split == {"del", "exists", "mget", "mset", "touch", "unlink"}
