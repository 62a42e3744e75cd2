"""MongoDB's pooled mode before scripted mongos: each message goes where its transaction, cursor or session lives; what clients see when a
mongos fails.

    MongoClient (raw, several) --> Puerta, mode = pooled --> Front, Front, Front --> FerretDB
    pymongo, eight threads ------------^                       `-- each says what came, on which connection, in what order

The scenarios are those of the drivers' own specifications (transactions: mongos-pin-auto, mongos-unpin, mongos-recovery-token;
load-balancers; sessions) as a proxy has to keep them. A session's own mongos is where its lsid leads (`home`); what has begun elsewhere,
while that one was shutting down, shows that it is remembered where it began. The connections themselves: tests/test_mongo_pool.py.
"""
import contextlib
import itertools
import random as randomness
import struct
import threading
import time

import bson
import pymongo
import pytest
from bson import Int64

import harness
import mongo_harness
from fake import wire
from harness import SLOW, wait_for
from mongo_harness import QUICK, MongoPuerta, Session, before, closed
from test_mongo import disturb

DB = "pooled"
LOOK = {"count": "nothing"}
names = ("rows%d" % i for i in itertools.count())


@contextlib.contextmanager
def pooled(fronts, check=True, **options):
    """A Puerta that has heard of all these fronts. Whatever a test does, no connection has two requests at a time."""
    with before(fronts, mode="pooled", **options) as p:
        yield p
    if check:
        assert [f.overlaps for f in fronts] == [0] * len(list(fronts))
        assert not [c.malformed for f in fronts for c in f.everyone if c.malformed]


@contextlib.contextmanager
def greeted(p, count):
    """So many clients that have said hello."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(p.client()) for _ in range(count)]
        for i, c in enumerate(clients):
            assert c.hello(app_name="client%d" % i)["ok"]
        yield clients


def at(fronts, client, document, db=DB, **how):
    """(answer, the one mongos that was asked)."""
    name = next(iter(document))
    so_far = [len(f.commands(name)) for f in fronts]
    answer = client.ask(document, db, **how)
    places = [f for f, n in zip(fronts, so_far) if len(f.commands(name)) == n + 1]
    assert len(places) == 1 and sum(len(f.commands(name)) for f in fronts) == sum(so_far) + 1, (document, answer, places)
    return answer, places[0]


def home(fronts, client, session):
    """The mongos of that session, as long as none comes or goes."""
    answer, place = at(fronts, client, dict(LOOK, **session.plain))
    assert answer["ok"], answer
    return place


def filled(client, count=10, **more):
    """A new collection of so many documents; its name."""
    name = next(names)
    assert client.ask({"drop": name}, DB) is not None
    assert client.ask({"insert": name, "documents": [dict({"_id": i}, **more) for i in range(count)]}, DB)["n"] == count
    return name


def ids(answer):
    return [d["_id"] for d in answer["cursor"].get("firstBatch", answer["cursor"].get("nextBatch"))]


def more_of(cursor, collection, size=2):
    return {"getMore": Int64(cursor), "collection": collection, "batchSize": size}


def error_of(answer):
    """What a driver looks at."""
    assert answer["ok"] == 0, answer
    return answer["code"], list(answer.get("errorLabels", []))


def drained(p, place):
    """That mongos shuts down, and Puerta has heard of it. See returned()."""
    so_far = p.log_text().count("node=%s from=up to=draining" % place.address)
    place.quiesce(600000)
    p.wait_state(place, "draining", so_far + 1)


def returned(p, place):
    so_far = p.log_text().count("node=%s from=draining to=up" % place.address)
    place.recover()
    wait_for("it to be up again", lambda: p.log_text().count("node=%s from=draining to=up" % place.address) > so_far)


def moved_away(p, fronts, client, session):
    """Shuts the session's own mongos down and gives it: what begins now begins elsewhere."""
    place = home(fronts, client, session)
    drained(p, place)
    return place


# ------------------------------------------------------------ transactions

def test_statements_of_a_transaction_go_where_it_began(fronts):
    """Twelve at once, each statement on another connection of the client."""
    with pooled(fronts) as p, greeted(p, 4) as clients:
        turn = itertools.cycle(clients)
        name = filled(clients[0], 30)
        sessions = [Session() for _ in range(12)]
        places, cursors = {}, {}
        for s in sessions:
            answer, places[s] = at(fronts, next(turn), dict({"insert": name, "documents": [{"_id": "t%d" % id(s)}]}, **s.begin()))
            assert answer["n"] == 1, answer
        assert len(set(places.values())) > 1
        for s in sessions:
            answer, place = at(fronts, next(turn), dict({"find": name, "batchSize": 3}, **s.more))
            cursors[s] = answer["cursor"]["id"]
            assert place is places[s] and cursors[s], answer
        for statement in ({"update": name, "updates": [{"q": {"_id": 1}, "u": {"$set": {"x": 1}}}]}, {"distinct": name, "key": "_id"},
                          {"aggregate": name, "pipeline": [{"$count": "n"}], "cursor": {}}, {"delete": name, "deletes": [{"q": {"_id": -1}, "limit": 1}]}):
            for s in sessions:
                answer, place = at(fronts, next(turn), dict(statement, **s.more))
                assert answer["ok"] and place is places[s], answer
        for s in sessions:
            answer, place = at(fronts, next(turn), dict(more_of(cursors[s], name, 1000), **s.more))
            assert answer["ok"] and place is places[s], answer
        for command in ("commitTransaction", "commitTransaction"):  # a driver may send it again
            for s in sessions:
                answer, place = at(fronts, next(turn), dict({command: 1}, **s.more), db="admin")
                assert answer["ok"] and place is places[s], answer


def test_a_transaction_stays_where_it_began_when_its_sessions_mongos_is_back(fronts):
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name, s = filled(c), Session()
        away = moved_away(p, fronts, c, s)
        answer, place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))
        assert answer["ok"] and place is not away
        returned(p, away)
        for client in (other, c):
            answer, where = at(fronts, client, dict({"insert": name, "documents": [{}]}, **s.more))
            assert answer["ok"] and where is place, answer
        for client in (c, other, c):
            answer, where = at(fronts, client, dict({"commitTransaction": 1}, **s.more), db="admin")
            assert answer["ok"] and where is place, answer


def test_the_next_transaction_of_a_session_may_be_elsewhere(fronts):
    """Behind a commit and behind an abort; nothing of the one before is taken along."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name, s = filled(c), Session()
        for end in (s.commit, s.abort):
            answer, place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))
            assert answer["ok"] and end(other)["ok"]
            away = moved_away(p, fronts, c, s) if home(fronts, c, s) is place else None
            answer, where = at(fronts, other, dict({"insert": name, "documents": [{}]}, **s.begin()))
            assert answer["ok"] and where is not place, answer
            assert at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.more))[1] is where
            assert s.commit(c)["ok"]
            if away:
                returned(p, away)


def test_a_commit_that_is_sent_again_finds_its_mongos_shutting_down(fronts):
    with pooled(fronts, drain_timeout="60s") as p, greeted(p, 1) as (c,):
        name, s = filled(c), Session()
        answer, place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))
        drained(p, place)
        for statement in ({"insert": name, "documents": [{}]}, {"commitTransaction": 1}, {"commitTransaction": 1}):
            answer, where = at(fronts, c, dict(statement, **s.more), db="admin" if "commitTransaction" in statement else DB)
            assert answer["ok"] and where is place, answer


def test_a_session_without_its_transaction(fronts):
    """Statements outside it, between and behind those of one, need not go there, and do not end it."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name, s = filled(c), Session()
        away = moved_away(p, fronts, c, s)
        place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))[1]
        returned(p, away)
        assert home(fronts, other, s) is away
        assert at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.more))[1] is place
        assert s.abort(c)["ok"]
        answer, where = at(fronts, other, dict({"insert": name, "documents": [{}]}, **s.write()))
        assert answer["ok"] and where is away, answer
        assert error_of(s.commit(c))[0] == 251  # a real mongos says that it is over


def test_a_transaction_that_fails_for_a_while_begins_anew(fronts):
    """TransientTransactionError of a mongos comes as it is; the next attempt is not bound to that mongos."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name, s = filled(c), Session()
        place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))[1]
        place.fault("update", 1, error={"code": 112, "errmsg": "WriteConflict", "errorLabels": ["TransientTransactionError"]})
        answer, where = at(fronts, other, dict({"update": name, "updates": [{"q": {}, "u": {"$set": {"x": 1}}}]}, **s.more))
        assert error_of(answer) == (112, ["TransientTransactionError"]) and where is place
        place.stop()
        p.wait_state(place, "down")
        answer, where = at(fronts, other, dict({"insert": name, "documents": [{}]}, **s.begin()))
        assert answer["ok"] and where is not place, answer
        assert s.commit(c)["ok"]


def test_a_commit_whose_mongos_died_goes_elsewhere_with_its_token(fronts):
    """mongos-recovery-token: the first commit was done but its answer lost."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name, s = filled(c), Session()
        answer, place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))
        token = answer["recoveryToken"]
        place.fault("commitTransaction", 1, cut=0)
        assert error_of(s.commit(c, recoveryToken=token)) == (6, ["RetryableWriteError"])
        place.stop()
        p.wait_state(place, "down")
        answer, where = at(fronts, other, dict({"commitTransaction": 1, "recoveryToken": token}, **s.more), db="admin")
        assert answer["ok"] and where is not place, answer
        assert s.commit(c, recoveryToken=token)["ok"]


def test_a_commit_without_a_token_has_no_other_place(fronts):
    with pooled(fronts) as p, greeted(p, 1) as (c,):
        name, s = filled(c), Session()
        place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))[1]
        place.stop()
        p.wait_state(place, "down")
        code, labels = error_of(s.commit(c))
        assert code in (6, 251) and labels, (code, labels)
        assert not any(f.commands("commitTransaction") for f in fronts)


def test_when_the_mongos_of_a_transaction_is_down(fronts):
    """Whatever it says next the driver hears that it may begin anew, and can, elsewhere."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        sessions = [Session() for _ in range(6)]
        places = [at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))[1] for s in sessions]
        down = places[0]
        down.stop()
        p.wait_state(down, "down")
        for s, place in zip(sessions, places):
            if place is down:
                for statement in ({"insert": name, "documents": [{}]}, {"find": name}, LOOK):
                    assert error_of(other.ask(dict(statement, **s.more), DB)) == (251, ["TransientTransactionError"])
                assert error_of(s.abort(c))[0] in (6, 251)  # drivers do not look at it
                answer, where = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))
                assert answer["ok"] and where is not down
            assert s.commit(other)["ok"]


def test_when_the_mongos_of_a_transaction_is_another_process(fronts):
    """It says itself that it knows nothing of it."""
    with pooled(fronts) as p, greeted(p, 1) as (c,):
        name, s = filled(c), Session()
        place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))[1]
        place.restart()
        answer = c.ask(dict({"insert": name, "documents": [{}]}, **s.more), DB)
        assert error_of(answer) in ((251, ["TransientTransactionError"]), (6, ["TransientTransactionError"])), answer
        wait_for("the next attempt", lambda: c.ask(dict({"insert": name, "documents": [{}]}, **s.begin()), DB)["ok"])
        assert s.commit(c)["ok"]


def test_the_table_of_transactions_is_full(fronts):
    """Nothing is guessed: who comes too late is told, those who are in go on, and make room."""
    with pooled(fronts, process={"max_affinities": 64}) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        inside = [Session() for _ in range(64)]
        for s in inside:
            assert c.ask(dict({"insert": name, "documents": [{}]}, **s.begin()), DB)["ok"]
        late = Session()
        answer = c.ask(dict({"insert": name, "documents": [{}]}, **late.begin()), DB)
        assert answer["ok"] == 0 and "transaction" in answer["errmsg"], answer
        assert "TransientTransactionError" in answer.get("errorLabels", [])
        seen = {bytes(x.body["lsid"]["id"]) for f in fronts for x in f.commands("insert") if "lsid" in x.body}
        assert bytes(late.lsid["id"]) not in seen
        for s in inside:
            assert other.ask(dict({"insert": name, "documents": [{}]}, **s.more), DB)["ok"]
        assert inside[0].commit(c)["ok"]
        again = other.ask(dict({"insert": name, "documents": [{}]}, **inside[0].begin()), DB)  # in its own place
        assert again["ok"], again
        assert inside[1].abort(c)["ok"]
        assert other.ask(dict({"insert": name, "documents": [{}]}, **late.begin()), DB)["ok"]
        assert all(s.commit(c)["ok"] for s in inside[2:] + [late])


# ------------------------------------------------------- cursors, sessions

@pytest.mark.parametrize("in_session", [False, True])
def test_cursors_are_read_on_from_any_connection(fronts, in_session):
    with pooled(fronts) as p, greeted(p, 4) as clients:
        turn = itertools.cycle(clients)
        name = filled(clients[0], 11)
        opened = []
        for i in range(12):
            more = Session().plain if in_session else {}
            command = {"find": name, "sort": {"_id": 1}, "batchSize": 2} if i % 2 else \
                {"aggregate": name, "pipeline": [{"$sort": {"_id": 1}}], "cursor": {"batchSize": 2}}
            answer, place = at(fronts, next(turn), dict(command, **more))
            opened.append([answer["cursor"]["id"], place, more, ids(answer)])
        assert len({o[1] for o in opened}) > 1 and all(o[0] for o in opened)
        while any(o[0] for o in opened):
            for o in opened:
                if o[0]:
                    answer, place = at(fronts, next(turn), dict(more_of(o[0], name), **o[2]))
                    assert answer["ok"] and place is o[1], answer
                    o[0], o[3] = answer["cursor"]["id"], o[3] + ids(answer)
        assert [o[3] for o in opened] == [list(range(11))] * 12


def test_a_cursor_stays_where_it_was_opened_when_its_sessions_mongos_is_back(fronts):
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name, s = filled(c, 7), Session()
        away = moved_away(p, fronts, c, s)
        answer, place = at(fronts, c, dict({"find": name, "batchSize": 2}, **s.plain))
        assert place is not away
        returned(p, away)
        cursor = answer["cursor"]["id"]
        while cursor:
            answer, where = at(fronts, other, dict(more_of(cursor, name), **s.plain))
            assert answer["ok"] and where is place, answer
            cursor = answer["cursor"]["id"]
        assert home(fronts, c, s) is away


def test_a_cursor_is_known_by_the_answer_not_by_the_commands_name(fronts):
    """Lists of collections and indexes have one too, and whatever a later server may add."""
    async def own(_client, _body):
        return {"cursor": {"firstBatch": [{"_id": 1}], "id": Int64(77), "ns": DB + ".own"}, "ok": 1.0}

    async def more(_client, _body):
        return {"cursor": {"id": Int64(0), "ns": DB + ".own", "nextBatch": [{"_id": 2}]}, "ok": 1.0}

    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        for _ in range(4):
            name = filled(c)
        for i in range(2):
            assert c.ask({"createIndexes": name, "indexes": [{"key": {"f%d" % i: 1}, "name": "f%d" % i}]}, DB)["ok"]
        for command in ({"listCollections": 1, "cursor": {"batchSize": 1}}, {"listIndexes": name, "cursor": {"batchSize": 1}}, {"own": 1}):
            for f in fronts:
                if "own" in command:
                    f._do_own, f._do_getMore = own, more
            for _ in range(6):
                answer, place = at(fronts, c, command)
                if not answer["cursor"]["id"]:
                    break  # this database lists them all at once
                answer, where = at(fronts, other, more_of(answer["cursor"]["id"], answer["cursor"]["ns"].partition(".")[2], 100))
                assert answer["ok"] and where is place, answer
        assert answer["ok"] and "own" in command and ids(answer) == [2]


def test_cursors_of_the_same_number_at_different_mongos(fronts):
    """Each counts from 1: the session tells them apart."""
    fronts.set(cursor_ids="count")
    with pooled(fronts) as p, greeted(p, 3) as clients:
        turn = itertools.cycle(clients)
        name = filled(clients[0], 8)
        opened = []
        for _ in range(12):
            s = Session()
            answer, place = at(fronts, next(turn), dict({"find": name, "sort": {"_id": 1}, "batchSize": 2}, **s.plain))
            opened.append((s, answer["cursor"]["id"], place))
        assert len({cursor for _, cursor, _ in opened}) < 12 and len({place for _, _, place in opened}) > 1
        for n in range(2):
            for s, cursor, place in opened:
                answer, where = at(fronts, next(turn), dict(more_of(cursor, name), **s.plain))
                assert where is place and ids(answer) == [2 + 2 * n, 3 + 2 * n], answer
        for s, cursor, place in opened:
            answer = next(turn).ask(dict({"killCursors": name, "cursors": [Int64(cursor)]}, **s.plain), DB)
            assert answer["cursorsKilled"] == [cursor], answer
        assert not any(f.cursors for f in fronts)


def test_the_order_of_a_cursors_fields_does_not_matter(fronts):
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c, 6, x="y" * 100000)
        for order in ("id first", "batch first"):
            fronts.set(cursor_order=order)
            for _ in range(4):
                answer, place = at(fronts, c, {"find": name, "batchSize": 3})
                answer, where = at(fronts, other, more_of(answer["cursor"]["id"], name, 2))
                assert where is place and answer["ok"] and answer["cursor"]["id"]
                answer, where = at(fronts, c, more_of(answer["cursor"]["id"], name, 5))
                assert where is place and answer["cursor"]["id"] == 0


def test_the_table_of_cursors_is_full(fronts):
    """The one that nobody has used for longest is forgotten; what is asked of it goes to its session's mongos, which most often has it."""
    with pooled(fronts, process={"max_affinities": 64}) as p, greeted(p, 2) as (c, other):
        name = filled(c, 6)
        s, away = Session(), None
        away = moved_away(p, fronts, c, s)
        lost, place = at(fronts, c, dict({"find": name, "batchSize": 2}, **s.plain))
        returned(p, away)
        kept = [(t, c.ask(dict({"find": name, "batchSize": 2}, **t.plain), DB)["cursor"]["id"]) for t in [Session() for _ in range(64)]]
        answer, where = at(fronts, other, dict(more_of(lost["cursor"]["id"], name), **s.plain))
        assert answer["code"] == 43 and where is away and place is not away
        for t, cursor in kept:
            assert other.ask(dict(more_of(cursor, name), **t.plain), DB)["ok"]


@pytest.mark.parametrize("in_session", [False, True])
def test_one_killcursors_for_cursors_of_several_mongos(fronts, in_session):
    """Split over those that have them, what nobody knows asked of all; one answer."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name, s = filled(c), Session()
        more = s.plain if in_session else {}
        opened, away = {}, []
        while len(opened) < 3 or sum(map(len, opened.values())) < 5:  # its own mongos, then with that one away the next one, then the last
            answer, place = at(fronts, c, dict({"find": name, "batchSize": 2}, **more))
            opened.setdefault(place, []).append(answer["cursor"]["id"])
            if in_session and len(opened[place]) == 2 and len(opened) < 3:
                drained(p, place)
                away.append(place)
        for place in away:
            returned(p, place)
        unknown = 123456789
        listed = [i for each in itertools.zip_longest(*opened.values()) for i in each if i] + [unknown]
        answer = other.ask(dict({"killCursors": name, "cursors": [Int64(i) for i in listed]}, **more), DB)
        assert answer["ok"] == 1, answer
        assert sorted(answer["cursorsKilled"]) == sorted(listed[:-1]) and len(listed) > 4, answer
        assert (answer["cursorsNotFound"], answer["cursorsAlive"], answer["cursorsUnknown"]) == ([unknown], [], [])
        assert not any(f.cursors for f in fronts)
        for f in fronts:
            asked = {i for x in f.commands("killCursors") for i in x.body["cursors"]}
            assert asked == set(opened[f]) | {unknown}
        for f in fronts:
            assert c.ask(dict(more_of(opened[f][0], name), **more), DB)["code"] == 43


def test_killcursors_by_a_client_that_does_not_say_its_session(fronts):
    """Drivers may leave it out here alone: each mongos is asked, and what one has killed nobody else has not found."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        opened = [c.ask(dict({"find": name, "batchSize": 2}, **Session().plain), DB)["cursor"]["id"] for _ in range(8)]
        answer = other.ask({"killCursors": name, "cursors": [Int64(i) for i in opened]}, DB)
        assert answer["ok"] and sorted(answer["cursorsKilled"]) == sorted(opened) and answer["cursorsNotFound"] == [], answer
        assert not any(f.cursors for f in fronts)


def test_all_four_lists_of_killcursors_are_merged(fronts):
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        opened = {}
        while len(opened) < 3:
            answer, place = at(fronts, c, {"find": name, "batchSize": 2})
            opened.setdefault(place, answer["cursor"]["id"])
        lists = ("cursorsAlive", "cursorsUnknown", "cursorsNotFound")
        for f, which in zip(fronts, lists):
            async def kill(_client, body, which=which):
                return dict({"cursorsKilled": [], "cursorsNotFound": [], "cursorsAlive": [], "cursorsUnknown": [], "ok": 1.0},
                            **{which: [Int64(i) for i in body["cursors"]]})
            f._do_killCursors = kill
        answer = other.ask({"killCursors": name, "cursors": [Int64(opened[f]) for f in fronts]}, DB)
        assert answer["ok"] == 1 and answer["cursorsKilled"] == [] and all(answer[which] for which in lists), answer
        assert [answer[which] for which in lists] == [[opened[f]] for f in fronts]


def test_killcursors_within_a_transaction(fronts):
    """As drivers send it then: with the transaction's fields. What nobody knows is asked of all, and those that know nothing of the
    transaction do not count."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        for _ in range(4):
            s = Session()
            answer, place = at(fronts, c, dict({"find": name, "batchSize": 2}, **s.begin()))
            cursor = answer["cursor"]["id"]
            answer = other.ask(dict({"killCursors": name, "cursors": [Int64(cursor)]}, **s.more), DB)
            assert answer["ok"] == 1 and answer["cursorsKilled"] == [cursor], answer
            answer = c.ask(dict({"killCursors": name, "cursors": [Int64(cursor), Int64(77)]}, **s.more), DB)
            assert answer["ok"] == 1 and sorted(answer["cursorsNotFound"]) == [77, cursor], answer
            assert at(fronts, other, dict({"insert": name, "documents": [{}]}, **s.more))[1] is place
            assert s.commit(c)["ok"]


def test_killcursors_when_one_of_its_mongos_is_down(fronts):
    """The others' are killed all the same, and there is an answer."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        opened = {}
        while len(opened) < 3:
            answer, place = at(fronts, c, {"find": name, "batchSize": 2})
            opened.setdefault(place, answer["cursor"]["id"])
        fronts[0].stop()
        p.wait_state(fronts[0], "down")
        answer = other.ask({"killCursors": name, "cursors": [Int64(opened[f]) for f in fronts]}, DB)
        assert answer["ok"] == 1, answer
        assert {opened[f] for f in fronts.fronts[1:]} <= set(answer["cursorsKilled"]), answer
        assert opened[fronts[0]] not in answer["cursorsKilled"]
        assert opened[fronts[1]] not in fronts[1].cursors and opened[fronts[2]] not in fronts[2].cursors


def test_killcursors_of_nothing_and_of_many(fronts):
    with pooled(fronts) as p, greeted(p, 1) as (c,):
        name = filled(c)
        answer = c.ask({"killCursors": name, "cursors": []}, DB)
        assert answer["ok"] in (0, 1)
        many = list(range(1, 3001))
        answer = c.ask({"killCursors": name, "cursors": [Int64(i) for i in many]}, DB)
        if answer["ok"]:  # else it says that these are too many
            assert sorted(answer["cursorsNotFound"]) == many
        assert c.ask(LOOK, DB)["ok"]


def test_a_session_stays_at_one_mongos_and_sessions_spread(fronts):
    with pooled(fronts) as p, greeted(p, 3) as clients:
        sessions = [Session() for _ in range(30)]
        first = [home(fronts, clients[0], s) for s in sessions]
        assert len(set(first)) == 3
        assert [home(fronts, clients[1], s) for s in sessions] == first
        fronts[0].stop()
        p.wait_state(fronts[0], "down")
        second = [home(fronts, clients[2], s) for s in sessions]
        assert all(b is a for a, b in zip(first, second) if a is not fronts[0])  # nobody else is moved
        fronts[0].start()
        p.wait_state(fronts[0], "up", 2)
        assert [home(fronts, clients[0], s) for s in sessions] == first


def test_sessions_end_at_one_mongos_and_are_killed_at_all(fronts):
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        answer, place = at(fronts, c, {"endSessions": [Session().lsid, Session().lsid]}, db="admin")
        assert answer["ok"] == 1
        for command in ("killSessions", "killAllSessions", "killAllSessionsByPattern"):
            s = Session()
            cursor = c.ask(dict({"find": name, "batchSize": 2}, **s.plain), DB)["cursor"]["id"]
            assert cursor
            argument = {"killSessions": [s.lsid], "killAllSessions": [], "killAllSessionsByPattern": [{"lsid": s.lsid}]}[command]
            answer = other.ask({command: argument})
            assert answer["ok"] == 1, answer
            assert [len(f.commands(command)) for f in fronts] == [1, 1, 1]
            assert other.ask(dict(more_of(cursor, name), **s.plain), DB)["code"] == 43


def test_sessions_that_are_implicit(fronts):
    """A cursor's lsid comes with its getMore alone; another session's is refused by the mongos that has the cursor, not by another."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        for _ in range(6):
            s = Session()
            cursor = c.ask(dict({"find": name, "batchSize": 2}, **s.plain), DB)["cursor"]["id"]
            assert other.ask(dict(more_of(cursor, name), **s.plain), DB)["ok"]
            assert other.ask(dict(more_of(cursor, name), **Session().plain), DB)["code"] in (43, 50801)


# -------------------------------------------------------------- the wire

def test_a_chain_of_answers_is_not_asked_for(fronts):
    """exhaustAllowed is taken away: one answer, and the connection is free. With a checksum too, which then must fit."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c, 10)
        for checksum in (False, True):
            cursor = c.ask({"find": name, "batchSize": 2}, DB)["cursor"]["id"]
            for _ in range(2):
                asked = c.send(more_of(cursor, name), DB, flags=wire.EXHAUST_ALLOWED, checksum=checksum)
                answer = c.read()
                assert answer.response_to == asked and not answer.flags & wire.MORE_TO_COME and len(ids(answer.body)) == 2
                assert other.ask(dict(LOOK), DB)["ok"] and c.ask(dict(LOOK), DB)["ok"]
        seen = [x for f in fronts for x in f.commands("getMore")]
        assert len(seen) == 4 and not any(x.message.flags & wire.EXHAUST_ALLOWED for x in seen)


def test_checksums_pass(fronts):
    """The scripted mongos checks those of requests, the client those of answers."""
    with pooled(fronts) as p, greeted(p, 1) as (c,):
        name = filled(c)
        c.send({"find": name, "filter": {"x": {"$ne": "x" * 100000}}}, DB, checksum=True)
        answer = c.read()
        assert answer.flags & wire.CHECKSUM_PRESENT and len(ids(answer.body)) == 10
        rows = [bson.encode({"_id": "sum %d" % i, "x": b"x" * 2000}) for i in range(100)]
        c.send({"insert": name}, DB, sequences=[("documents", rows)], checksum=True)
        answer = c.read()
        assert answer.flags & wire.CHECKSUM_PRESENT and answer.body["n"] == 100
        assert any(x.message.flags & wire.CHECKSUM_PRESENT for f in fronts for x in f.commands("insert"))
        data = wire.op_msg({"find": name, "$db": DB}, 99, checksum=True)
        c.send_raw(data[:-1] + bytes([data[-1] ^ 1]))
        with contextlib.suppress(EOFError, OSError):  # no answer, or an error; but nobody else is disturbed
            assert c.read().body["ok"] == 0
        with greeted(p, 1) as (other,):
            assert other.ask({"find": name}, DB)["ok"]
        for f in fronts:
            f.clear()  # of the malformed one


def test_all_passes_byte_for_byte(ferret):
    """What a mongos gets and what its client gets, but for the hello that Puerta answers itself."""
    rows = [bson.encode({"_id": "exact %d" % i, "x": b"x" * 500}) for i in range(50)]
    insert = bson.encode({"insert": "exact", "ordered": False, "$db": DB})
    packed = b"documents\0" + b"".join(rows)
    sequence = b"\1" + struct.pack("<i", len(packed) + 4) + packed
    sequence_first = struct.pack("<iiiiI", 20 + len(sequence) + 1 + len(insert), 2, 0, wire.OP_MSG, 1 << 20) + sequence + b"\0" + insert
    find = wire.op_msg({"find": "exact", "$db": DB}, 3, checksum=True)
    with mongo_harness.fronts(ferret, 1) as cluster, mongo_harness.Tap(cluster[0].address) as tap, \
            MongoPuerta([tap.address], **dict(QUICK, mode="pooled")) as p:
        p.wait_state(tap.address, "up")
        for piece in (100000, 1000, 7):
            with p.client() as c:
                assert c.hello()["ok"]
                for at_byte in range(0, len(sequence_first + find), piece):
                    c.send_raw((sequence_first + find)[at_byte:at_byte + piece])
                answers = [c.read() for _ in range(2)]
                assert [a.response_to for a in answers] == [2, 3] and len(answers[1].body["cursor"]["firstBatch"]) == 50
        asked = b"".join(bytes(a) for a in tap.asked)
        assert asked.count(sequence_first) == 3 and asked.count(find) == 3


def test_unacknowledged_writes(front):
    """No answer, in their order, and the connection is somebody else's at once."""
    with pooled([front], pool_max=1) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        for i in range(40):
            c.send({"insert": name, "documents": [{"_id": "quiet%d" % i}], "writeConcern": {"w": 0}}, DB, flags=wire.MORE_TO_COME)
            if i % 10 == 5:
                assert other.ask(LOOK, DB)["ok"]
        assert c.ask({"count": name}, DB)["n"] == 50
        seen = [x.body["documents"][0]["_id"] for x in front.commands("insert") if isinstance(x.body["documents"][0]["_id"], str)]
        assert seen == ["quiet%d" % i for i in range(40)]
        c.send({"insert": name, "documents": [{"_id": 1}], "writeConcern": {"w": 0}}, DB, flags=wire.MORE_TO_COME)  # fails, without a word
        answer = c.ask(LOOK, DB)
        assert answer["ok"] == 1 and "n" in answer


def test_unacknowledged_writes_in_sequences_and_to_many(fronts):
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c, 1)
        rows = [bson.encode({"x": "y" * 1000}) for _ in range(100)]
        for _ in range(10):
            c.send({"insert": name, "writeConcern": {"w": 0}}, DB, flags=wire.MORE_TO_COME, sequences=[("documents", rows)])
        wait_for("them all to have arrived", lambda: other.ask({"count": name}, DB)["n"] == 1001)
        assert c.ask(LOOK, DB)["ok"]


def test_an_unacknowledged_write_that_has_no_place(front):
    """Nothing may be said: what comes behind it is answered as what it is."""
    with pooled([front], pool_wait="200ms") as p, greeted(p, 1) as (c,):
        front.stop()
        p.wait_state(front, "down")
        c.send({"insert": "x", "documents": [{}], "writeConcern": {"w": 0}}, DB, flags=wire.MORE_TO_COME)
        asked = c.send(LOOK, DB)
        answer = c.read()
        assert answer.response_to == asked and error_of(answer.body)[0] == 6


def with_first_sequence(document, rows, request_id=1, flags=0):
    """OP_MSG whose documents stand before its command."""
    packed = b"documents\0" + b"".join(rows)
    rest = b"\1" + struct.pack("<i", len(packed) + 4) + packed + b"\0" + bson.encode(document)
    return struct.pack("<iiiiI", 20 + len(rest), request_id, 0, wire.OP_MSG, flags) + rest


def test_documents_before_their_command(fronts):
    """The fields by which a message finds its way stand behind them; as long as they fit the window all is as usual."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        rows = [bson.encode({"x": "y" * 100}) for _ in range(10)]
        for _ in range(6):
            s = Session()
            away = home(fronts, c, s)
            assert c.ask(dict({"insert": name, "documents": [{}]}, **s.begin()), DB)["ok"]
            c.send_raw(with_first_sequence(dict({"insert": name}, **s.more, **{"$db": DB}), rows, 1000))
            answer = c.read()
            assert answer.response_to == 1000 and answer.body["n"] == 10, answer.body
            assert home(fronts, other, s) is away and s.commit(other)["ok"]
        assert [x.message.sections[0][0] for f in fronts for x in f.commands("insert") if len(x.message.sections) == 2] == [1] * 6


@pytest.mark.parametrize("form", ["sequence first", "array first"])
@pytest.mark.parametrize("piece", [None, 9999])
def test_a_session_behind_a_megabyte(fronts, form, piece):
    """Either it finds its way or it is refused: a statement of a transaction never goes where that is not."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        for n in range(4):
            s = Session()
            assert c.ask(dict({"insert": name, "documents": [{}]}, **s.begin()), DB)["ok"]
            documents = [{"_id": "%s%d%d" % (form, n, i), "x": "y" * 10000} for i in range(105)]
            if form == "sequence first":
                data = with_first_sequence(dict({"insert": name}, **s.more, **{"$db": DB}), [bson.encode(d) for d in documents], 1000)
            else:
                data = wire.op_msg(dict({"insert": name, "documents": documents}, **s.more, **{"$db": DB}), 1000)
            with contextlib.suppress(OSError):
                for i in range(0, len(data), piece or len(data)):
                    c.send_raw(data[i:i + (piece or len(data))])
            answer = c.read().body
            assert answer["ok"] or answer["code"] not in (251, 43) and "errmsg" in answer, answer
            if answer["ok"]:
                assert answer["n"] == 105 and s.commit(other)["ok"]
            else:
                assert c.ask(LOOK, DB)["ok"], "the connection stays"


class Sink:
    """Mongos that count what is asked and answer `pull` with as many bytes as it was told: FerretDB takes no such messages."""

    def __init__(self, fronts):
        self.inserted = 0
        for front in fronts:
            front.set(keep_seen=False, cluster_time=False)
            front._do_insert, front._do_pull = self._insert, self._pull

    async def _insert(self, _client, _body):
        self.inserted += 1
        return {"n": 1, "ok": 1.0}

    @staticmethod
    async def _pull(_client, body):
        return {"token": body.get("token", 0), "x": b"y" * body["pull"], "ok": 1.0}


SMALL = {"chunk_size": "16k", "chunks": 64}
LARGE = [bson.encode({"_id": i, "x": b"x" * 15900000}) for i in range(3)]


@pytest.mark.parametrize("pool", [SMALL, {"chunk_size": "1k", "chunks": 1024}], ids=["16k", "1k"])
def test_large_messages_both_ways_through_one_mebibyte(fronts, pool):
    sink = Sink(fronts)  # in this process: while it makes a long answer nobody hears its hellos
    with pooled(fronts, process=pool, client_window="64k", probe_timeout="20s") as p, greeted(p, 2) as (c, other):
        resident = p.resident()  # nothing is open to any mongos yet
        c.send(dict({"insert": "large"}, **Session().plain), DB, sequences=[("documents", LARGE)])
        assert c.read(timeout=60).body["ok"] and sink.inserted == 1
        for size in (16 << 20, 47000000):
            c.send(dict({"pull": size}, **Session().plain))
            answer = c.read(timeout=60).body
            assert answer["ok"] and len(answer["x"]) == size
        assert other.ask({"pull": 100000})["ok"]
        assert p.resident() - resident < 8 << 20


def test_a_cursor_behind_a_long_batch(fronts):
    """Its number comes behind 5 MB that went on long ago."""
    fronts.set(cursor_order="batch first")
    with pooled(fronts, process=SMALL, client_window="64k", probe_timeout="20s") as p, greeted(p, 2) as (c, other):
        name = next(names)
        c.send({"insert": name}, DB, sequences=[("documents", [bson.encode({"_id": i, "x": "y" * 1000000}) for i in range(10)])])
        assert c.read().body["n"] == 10
        for _ in range(4):
            answer, place = at(fronts, c, {"find": name, "batchSize": 5})
            assert len(ids(answer)) == 5 and answer["cursor"]["id"]
            answer, where = at(fronts, other, more_of(answer["cursor"]["id"], name, 4))
            assert where is place and len(ids(answer)) == 4, answer
            answer, where = at(fronts, c, more_of(answer["cursor"]["id"], name, 4))
            assert where is place and len(ids(answer)) == 1 and answer["cursor"]["id"] == 0


@pytest.mark.parametrize("lsid", ["with a user", "user first", "short", "a number"])
def test_sessions_as_they_may_be_written(fronts, lsid):
    """What else stands in an lsid does not matter; one that is none is the mongos' to judge."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        for _ in range(6):
            s, uid = Session(), bson.Binary(b"u" * 32, 0)
            s.lsid = {"with a user": {"id": s.lsid["id"], "uid": uid}, "user first": {"uid": uid, "id": s.lsid["id"]},
                      "short": {"id": bson.Binary(b"short", 4)}, "a number": 7}[lsid]
            if "user" in lsid:
                places = {at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))[1]}
                for client in (other, c):
                    places.add(at(fronts, client, dict({"insert": name, "documents": [{}]}, **s.more))[1])
                    places.add(home(fronts, client, s))
                assert s.commit(other)["ok"] and len(places) == 1
            else:
                answer = c.ask(dict({"find": name}, **s.plain), DB)
                assert answer["ok"] or answer["errmsg"]
            assert c.ask(LOOK, DB)["ok"]


def test_requests_of_which_much_has_to_be_held_wait_for_each_other(fronts):
    """Their session stands behind more than client_window, and all of that together may take half of the pool. Others go on."""
    def heard():
        for _ in range(2):
            assert other.ask({"hello": 1})["ok"]

    with pooled(fronts, client_window="64k", process={"chunk_size": "16k", "chunks": 128}) as p, greeted(p, 7) as (*clients, late, leaves, other):
        name, rows = filled(other), [bson.encode({"x": "y" * 1000}) for _ in range(300)]
        data = [with_first_sequence(dict({"insert": name}, **Session().plain, **{"$db": DB}), rows, 1000 + i) for i in range(6)]
        for c, message in zip(clients[:3], data):
            c.send_raw(message[:200000])
            heard()
        for c in (leaves, late):
            c.send_raw(data[5][:200000])
            heard()
        leaves.close()
        sender = threading.Thread(target=late.send_raw, args=(data[5][200000:],), daemon=True)
        sender.start()
        with pytest.raises(TimeoutError):
            late.read(timeout=0.2)
        assert clients[3].ask({"count": name}, DB)["n"] == 10
        for i, (c, message) in enumerate(zip(clients[:3], data)):
            c.send_raw(message[200000:])
            answer = c.read()
            assert answer.response_to == 1000 + i and answer.body["n"] == 300, answer.body
        answer = late.read()
        assert answer.response_to == 1005 and answer.body["n"] == 300
        sender.join(20)
        assert other.ask({"count": name}, DB)["n"] == 1210


def test_a_request_of_which_more_has_to_be_held_than_there_is_room_for(fronts):
    """It is told, and its connection stays; the same documents behind their command pass."""
    with pooled(fronts, client_window="64k", process={"chunk_size": "16k", "chunks": 128}) as p, greeted(p, 2) as (c, other):
        name, rows = filled(other), [bson.encode({"x": "y" * 1000}) for _ in range(2000)]
        for _ in range(2):
            c.send_raw(with_first_sequence(dict({"insert": name}, **Session().plain, **{"$db": DB}), rows, 77))
            answer = c.read()
            assert answer.response_to == 77 and error_of(answer.body) == (17, []), answer.body
            assert c.ask(LOOK, DB)["ok"] and other.ask(LOOK, DB)["ok"]
        c.send(dict({"insert": name}, **Session().plain), DB, sequences=[("documents", rows)])
        assert c.read().body["n"] == 2000
        assert not any(x.message.sections[0][0] == 1 for f in fronts for x in f.commands("insert"))


def test_old_forms(fronts):
    """OP_QUERY is for hello alone; what a mongos says of others comes in its form. What has no answer at all is no message any more."""
    with pooled(fronts) as p, greeted(p, 1) as (c,):
        c.send_raw(wire.op_query({"isMaster": 1}, 70))
        answer = c.read()
        assert (answer.opcode, answer.response_to, answer.body["ok"]) == (wire.OP_REPLY, 70, 1)
        c.send_raw(wire.op_query({"count": "x"}, 71, collection=DB + ".$cmd"))
        answer = c.read()
        assert (answer.opcode, answer.response_to, answer.body["ok"]) == (wire.OP_REPLY, 71, 0) and answer.body["code"] in (352, 59, 17)
        assert c.ask(LOOK, DB)["ok"]
        for opcode in (2001, 2002, 2005, 2006, 2007):
            with p.client() as old:
                old.send_raw(struct.pack("<iiii", 40, 5, 0, opcode) + b"\0" * 24)
                answer = old.read()
                assert answer.body["code"] == 17 and "opcode" in answer.body["errmsg"]
                assert closed(old)


BAD = {
    "compressed": wire.compressed(wire.op_msg(dict(LOOK, **{"$db": DB}), 4)),
    "length below a header's": struct.pack("<iiii", 5, 4, 0, wire.OP_MSG) + b"x" * 20,
    "negative length": struct.pack("<iiii", -1, 4, 0, wire.OP_MSG),
    "length above the limit": struct.pack("<iiii", 48000001, 4, 0, wire.OP_MSG),
    "unknown opcode": struct.pack("<iiii", 20, 4, 0, 1234) + b"xxxx",
    "unknown kind of section": struct.pack("<iiiiI", 30, 4, 0, wire.OP_MSG, 0) + b"\7" + b"x" * 9,
    "unknown flag": struct.pack("<iiiiI", 30, 4, 0, wire.OP_MSG, 4) + b"x" * 10,
    "document beyond the message": struct.pack("<iiiiI", 40, 4, 0, wire.OP_MSG, 0) + b"\0" + struct.pack("<i", 100) + b"x" * 15,
}


@pytest.mark.parametrize("when", ["first", "later", "behind a request"])
def test_what_is_no_message_is_told_and_closed(front, when):
    """And nothing of it comes to a mongos, nor does anybody else notice."""
    with pooled([front], pool_max=2) as p, greeted(p, 1) as (other,):
        for what, data in BAD.items():
            with p.client() as c:
                if when != "first":
                    assert c.hello()["ok"] and c.ask(LOOK, DB)["ok"], what
                if when == "behind a request":
                    fault = front.fault("distinct", hold=True)
                    c.send({"distinct": "x", "key": "y"}, DB)
                    wait_for("it to be there", lambda: fault.held)
                c.send_raw(data)
                if when == "behind a request":
                    assert other.ask(LOOK, DB)["ok"]
                    fault.clear()
                    with contextlib.suppress(EOFError, OSError):
                        while True:
                            c.read()
                else:
                    answer = c.read()
                    assert answer.response_to == 4 and answer.body["code"] == 17, (what, answer.body)
                    assert closed(c)
            assert other.ask(LOOK, DB)["ok"], what


def test_a_message_that_breaks_in_its_middle(front):
    """Its head is good and on its way when the rest is none: that connection to the mongos has gone, the others are well."""
    with pooled([front], pool_max=2, check=False) as p, greeted(p, 2) as (c, other):
        document = bson.encode({"insert": "x", "$db": DB})
        data = struct.pack("<iiiiI", 300000, 4, 0, wire.OP_MSG, 0) + b"\0" + document + b"\7" + b"z" * 300000
        with contextlib.suppress(OSError):
            c.send_raw(data[:300000])
        with contextlib.suppress(EOFError, OSError):
            assert c.read().body["ok"] == 0
        for _ in range(5):
            assert other.ask(LOOK, DB)["ok"]


def test_several_requests_at_once_are_answered_in_their_order(fronts):
    with pooled(fronts) as p, greeted(p, 1) as (c,):
        name = filled(c, 3)
        data = b"".join(wire.op_msg({"find": name, "filter": {"_id": i % 3}, "$db": DB}, 100 + i) for i in range(30))
        for piece in (len(data), 1000, 33):
            for i in range(0, len(data), piece):
                c.send_raw(data[i:i + piece])
            for i in range(30):
                answer = c.read()
                assert answer.response_to == 100 + i and ids(answer.body) == [i % 3]


# ----------------------------------------------------- when a mongos fails

def statements(name):
    """What is under way, by name: the document, its database, what drivers are to be told."""
    s, t = Session(), Session()
    return {
        "retryable write": (dict({"insert": name, "documents": [{}]}, **s.write()), DB, ["RetryableWriteError"]),
        "find and modify": (dict({"findAndModify": name, "query": {"_id": 1}, "update": {"$set": {"x": 1}}}, **s.write()), DB, ["RetryableWriteError"]),
        "first of a transaction": (dict({"insert": name, "documents": [{}]}, **t.begin()), DB, ["TransientTransactionError"]),
        "plain write": ({"insert": name, "documents": [{}]}, DB, []),
        "read": (dict({"find": name}, **s.plain), DB, []),
    }


LOSSES = {"close": {"close": True}, "reset": {"close": True, "then": "reset"}, "answer not sent": {"cut": 0, "then": "reset"},
          "part of a small answer": {"cut": 60}}


@pytest.mark.parametrize("how", sorted(LOSSES))
def test_when_a_mongos_breaks_off_before_its_answer(fronts, how):
    """Error 6 with the label by which a driver may try again; nothing is sent twice; the client's connection stays."""
    with pooled(fronts, eject_after=0) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        for what, (document, db, labels) in statements(name).items():
            for f in fronts:
                f.fault(next(iter(document)), 1, **LOSSES[how])
            answer = at(fronts, c, document, db)[0]
            assert error_of(answer) == (6, labels), (what, answer)
            assert answer["codeName"] == "HostUnreachable" and "topologyVersion" not in answer
            for f in fronts:
                f.clear_faults()
            assert other.ask(LOOK, DB)["ok"] and c.ask(LOOK, DB)["ok"], what


@pytest.mark.parametrize("how", sorted(LOSSES))
def test_when_a_mongos_breaks_off_within_a_transaction(fronts, how):
    with pooled(fronts, eject_after=0) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        for statement, labels in (({"insert": name, "documents": [{}]}, ["TransientTransactionError"]), ({"find": name}, ["TransientTransactionError"]),
                                  ({"commitTransaction": 1}, ["RetryableWriteError"]), ({"abortTransaction": 1}, ["RetryableWriteError"])):
            s = Session()
            place = at(fronts, c, dict({"update": name, "updates": [{"q": {}, "u": {"$set": {"x": 1}}}]}, **s.begin()))[1]
            place.fault(next(iter(statement)), 1, **LOSSES[how])
            answer, where = at(fronts, other, dict(statement, **s.more), db="admin" if "Transaction" in next(iter(statement)) else DB)
            assert error_of(answer) == (6, labels) and where is place, (statement, answer)
            place.clear_faults()
            if labels == ["RetryableWriteError"]:  # as drivers do; it is where it was
                answer, where = at(fronts, c, dict(statement, **s.more), db="admin")
                assert where is place and (answer["ok"] or answer["code"] == 251), answer


def test_when_a_mongos_breaks_off_a_getmore(fronts):
    with pooled(fronts, eject_after=0) as p, greeted(p, 1) as (c,):
        name = filled(c)
        answer, place = at(fronts, c, {"find": name, "batchSize": 2})
        place.fault("getMore", 1, close=True)
        assert error_of(c.ask(more_of(answer["cursor"]["id"], name), DB)) == (6, ["ResumableChangeStreamError"])
        assert c.ask(more_of(answer["cursor"]["id"], name), DB)["ok"]  # the mongos lives, and the cursor


@pytest.mark.parametrize("then", ["close", "reset"])
def test_when_a_mongos_breaks_off_in_the_middle_of_a_long_answer(fronts, then):
    """Part of it has gone on: only a close tells the client. Nobody else notices."""
    Sink(fronts)
    with pooled(fronts, eject_after=0) as p, greeted(p, 2) as (c, other):
        for f in fronts:
            f.fault("pull", 1, cut=3000000, then=then)
        c.send({"pull": 6000000})
        got = 0
        c.sock.settimeout(20 * SLOW)
        with contextlib.suppress(ConnectionResetError):
            while data := c.sock.recv(1 << 16):
                got += len(data)
        assert got <= 3000000 and (got == 3000000 or then == "reset")
        for f in fronts:
            f.clear_faults()
        for i in range(6):
            assert other.ask({"pull": 10, "token": i})["token"] == i


def test_when_a_mongos_dies(fronts):
    """With requests under way at it, connections idle, cursors and sessions there: nobody's connection is closed."""
    with pooled(fronts) as p, greeted(p, 6) as clients:
        name = filled(clients[0])
        sessions = [Session() for _ in range(12)]
        homes = [home(fronts, clients[0], s) for s in sessions]
        while homes[1] is homes[0]:
            sessions[1] = Session()
            homes[1] = home(fronts, clients[0], sessions[1])
        down = homes[0]
        cursor = clients[1].ask(dict({"find": name, "batchSize": 2}, **sessions[0].plain), DB)["cursor"]["id"]
        for f in fronts:
            f.fault("distinct", hold=True)
        held = [clients[i].send(dict({"distinct": name, "key": "_id"}, **s.plain), DB) for i, s in enumerate(sessions[:6])]
        wait_for("all to be held", lambda: sum(f.faults[0].held for f in fronts) == 6)
        there = {bytes(x.body["lsid"]["id"]) for x in down.commands("distinct")}
        assert 0 < len(there) < 6
        down.stop(reset=True)
        for f in fronts:
            if f is not down:
                f.faults[0].clear()
        for i, c in enumerate(clients):
            answer = c.read()
            assert answer.response_to == held[i]
            if bytes(sessions[i].lsid["id"]) in there:
                assert error_of(answer.body) == (6, [])
            else:
                assert answer.body["ok"], answer.body
        for s in sessions:  # before it is known to be down as well as behind that
            answer, where = at(fronts, clients[2], dict(LOOK, **s.plain))
            assert answer["ok"] and where is not down
        p.wait_state(down, "down")
        code, labels = error_of(clients[3].ask(dict(more_of(cursor, name), **sessions[0].plain), DB))
        assert code in (6, 43) and labels == ["ResumableChangeStreamError"]
        for c in clients:
            assert c.ask(LOOK, DB)["ok"]


def test_when_a_mongos_refuses_before_it_is_known_to_be_down(fronts):
    """Another one is asked, without a word; what is pinned there is told."""
    with pooled(fronts, probe_interval="60s", fall=100, eject_after=0, pool_wait="300ms") as p, greeted(p, 2) as (c, other):
        name = filled(c)
        sessions = [Session() for _ in range(9)]
        places = [at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))[1] for s in sessions]
        down = places[0]
        down.stop()
        for _ in range(3):
            for s, place in zip(sessions, places):
                answer, where = at(fronts, other, dict(LOOK, **s.plain))
                assert answer["ok"] and where is not down
        for s, place in zip(sessions, places):
            answer = c.ask(dict({"insert": name, "documents": [{}]}, **s.more), DB)
            if place is down:
                code, labels = error_of(answer)
                assert code in (6, 89, 251) and labels == ["TransientTransactionError"], answer
            else:
                assert answer["ok"], answer


def test_when_a_mongos_hangs(fronts):
    """Its hellos tell; then what waits for it is answered, and asked elsewhere from then on."""
    with pooled(fronts) as p, greeted(p, 3) as (c, other, third):
        name, s, t = filled(c), Session(), Session()
        while home(fronts, c, t) is not home(fronts, c, s):
            t = Session()
        place = home(fronts, c, s)
        fault = place.fault("distinct", hold=True)
        for client, session in ((c, s), (other, t)):  # so that there are two connections
            client.send(dict({"distinct": "x", "key": "y"}, **session.plain), DB)
        wait_for("both to be there", lambda: fault.held == 2)
        fault.clear()
        assert c.read().body["ok"] and other.read().body["ok"]
        place.freeze()
        c.send(dict({"insert": name, "documents": [{}]}, **s.write()), DB)
        other.send(dict({"insert": name, "documents": [{}]}, **t.begin()), DB)
        assert error_of(c.read().body) == (6, ["RetryableWriteError"])
        assert error_of(other.read().body) == (6, ["TransientTransactionError"])
        p.wait_state(place, "down")
        assert at([f for f in fronts if f is not place], c, dict(LOOK, **s.plain))[0]["ok"]
        place.thaw()
        p.wait_state(place, "up", 2)
        assert home(fronts, third, s) is place


@pytest.mark.parametrize("how", ["dies", "shuts down", "hangs"])
def test_when_a_mongos_goes_while_requests_wait_for_it(fronts, how):
    """Those that are bound to nothing stand in another line, the others are told, or served on what is open there."""
    with pooled(fronts, pool_max=1, pool_wait="60s", drain_timeout="60s") as p, greeted(p, 9) as clients:
        holders, (pinned, free, watcher), rest = clients[:3], clients[3:6], clients[6:]
        name, s, t = filled(watcher), Session(), Session()
        place = at(fronts, pinned, dict({"insert": name, "documents": [{}]}, **s.begin()))[1]
        while home(fronts, watcher, t) is not place:
            t = Session()
        for f in fronts:
            f.fault("distinct", hold=True)
        for n, c in enumerate(holders, 1):
            c.send({"distinct": name, "key": "_id"}, DB)
            wait_for("it to be there", lambda n=n: sum(f.faults[0].held for f in fronts) == n)
        pinned.send(dict({"insert": name, "documents": [{}]}, **s.more), DB)
        free.send(dict({"insert": name, "documents": [{"_id": "free"}]}, **t.write()), DB)
        for c in rest:
            c.send({"count": name}, DB)
        for _ in range(2):
            assert watcher.ask({"hello": 1})["ok"]
        if how == "shuts down":
            drained(p, place)
        else:
            place.stop(reset=True) if how == "dies" else place.freeze()
            p.wait_state(place, "down")
            assert error_of(pinned.read().body) == (251, ["TransientTransactionError"])
        for f in fronts:
            if f is not place:
                f.faults[0].clear()
        assert free.read().body["n"] == 1  # those that are up have served it, though it waited elsewhere
        assert any(x.body["documents"][0].get("_id") == "free" for f in fronts if f is not place for x in f.commands("insert"))
        for c in rest:
            assert c.read().body["ok"]
        if how == "shuts down":
            place.faults[0].clear()
            assert pinned.read().body["n"] == 1
        for c in holders:
            answer = c.read().body
            assert answer["ok"] or error_of(answer) == (6, []), answer
        if how == "shuts down":
            assert s.commit(watcher)["ok"]


def test_when_a_mongos_shuts_down(fronts):
    """What is open there goes on to its end, all else is elsewhere, and nobody sees anything."""
    with pooled(fronts, drain_timeout="60s") as p, greeted(p, 3) as (c, other, third):
        name, s, t, u = filled(c, 8), Session(), Session(), Session()
        place = at(fronts, c, dict({"insert": name, "documents": [{"_id": "t"}]}, **s.begin()))[1]
        for x in (t, u):
            while home(fronts, c, x) is not place:
                x.__init__()
        cursor = c.ask(dict({"find": name, "batchSize": 2}, **t.plain), DB)["cursor"]["id"]
        fault = place.fault("distinct", hold=True)
        third.send(dict({"distinct": name, "key": "_id"}, **u.plain), DB)
        wait_for("it to be there", lambda: fault.held)
        drained(p, place)
        fault.clear()
        assert third.read().body["ok"]
        assert home(fronts, other, u) is not place
        assert at(fronts, other, dict({"insert": name, "documents": [{}]}, **u.begin()))[1] is not place
        for _ in range(2):
            assert at(fronts, other, dict({"insert": name, "documents": [{}]}, **s.more))[1] is place
            answer, where = at(fronts, other, dict(more_of(cursor, name), **t.plain))
            assert answer["ok"] and where is place
        assert s.commit(c)["ok"] and u.commit(c)["ok"]


def test_when_a_mongos_shuts_down_its_connections_grow_old(fronts):
    """Nobody can dial it any more: what is open there goes on by the connections there are, whatever their age."""
    with pooled(fronts, drain_timeout="60s", pool_life="200ms", pool_idle="300ms") as p, greeted(p, 1) as (c,):
        name, s = filled(c), Session()
        answer, place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))
        drained(p, place)
        for pause in (0.25, 1.5):  # older than pool_life; idle for longer than pool_idle, looked after once a second
            time.sleep(pause)
            for _ in range(2):
                answer, where = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.more))
                assert answer["ok"] and where is place, answer
        assert s.commit(c)["ok"]


def test_when_a_mongos_that_shuts_down_has_lost_its_connections(fronts):
    """What is open there has no way to it any more: the driver hears that it may begin anew."""
    with pooled(fronts, drain_timeout="60s", pool_wait="300ms") as p, greeted(p, 1) as (c,):
        name, s = filled(c), Session()
        place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))[1]
        drained(p, place)
        place.drop_clients()
        code, labels = error_of(c.ask(dict({"insert": name, "documents": [{}]}, **s.more), DB))
        assert code in (6, 89, 251) and labels == ["TransientTransactionError"]
        answer, where = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))
        assert answer["ok"] and where is not place and s.commit(c)["ok"]


@pytest.mark.parametrize("code", [91, 11600, 11602])
def test_when_a_mongos_says_that_it_shuts_down(fronts, code):
    """As an answer to anything else than hello it would make a driver take Puerta for one that shuts down."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name = filled(c)
        fronts.set(topology_versions=True)
        for what, (document, db, labels) in statements(name).items():
            faults = [f.fault(next(iter(document)), error={"code": code, "errmsg": "going"}) for f in fronts]
            answer = c.ask(document, db)
            assert answer["code"] == 6 and answer["codeName"] == "HostUnreachable" and "topologyVersion" not in answer, (what, answer)
            assert list(answer.get("errorLabels", [])) == labels, (what, answer)
            for fault in faults:
                fault.clear()
        answer, place = at(fronts, c, {"find": name, "batchSize": 2})
        fault = place.fault("getMore", error={"code": code})
        assert error_of(c.ask(more_of(answer["cursor"]["id"], name), DB)) == (6, ["ResumableChangeStreamError"])
        fault.clear()
        s = Session()
        place = at(fronts, c, dict({"insert": name, "documents": [{}]}, **s.begin()))[1]
        place.fault("commitTransaction", 1, error={"code": code, "errorLabels": ["RetryableWriteError"]})
        assert error_of(s.commit(c)) == (6, ["RetryableWriteError"])
        assert s.commit(other)["ok"]


@pytest.mark.parametrize("code", [189, 10107, 11602, 13435, 13436])
def test_when_a_shard_changes_its_primary(fronts, code):
    """Every mongos says so, and none of them is at fault: it keeps its sessions, and its connections."""
    with pooled(fronts) as p, greeted(p, 1) as (c,):
        name, sessions = filled(c), [Session() for _ in range(9)]
        homes = [home(fronts, c, s) for s in sessions]
        dialled = {x for f in fronts for x in f.everyone}
        faults = [f.fault("insert", error={"code": code, "errmsg": "no primary"}) for f in fronts]
        for _ in range(3):
            for s in sessions:
                answer = c.ask(dict({"insert": name, "documents": [{}]}, **s.write()), DB)
                assert error_of(answer) == (6, ["RetryableWriteError"]) and "shut" not in answer["errmsg"], answer
        assert [home(fronts, c, s) for s in sessions] == homes
        for fault in faults:
            fault.clear()
        for s in sessions:
            assert c.ask(dict({"insert": name, "documents": [{}]}, **s.write()), DB)["ok"]
        assert {x for f in fronts for x in f.everyone} == dialled


def test_when_a_mongos_is_interrupted_at_its_end(fronts):
    """Quiesce mode is over before its connections are: every operation there is answered with 11600."""
    with pooled(fronts, probe_interval="60s", eject_after=0) as p, greeted(p, 1) as (c,):
        name, s = filled(c), Session()
        place = home(fronts, c, s)
        place.quiet_until = 0  # nothing tells Puerta's watcher
        answer = c.ask(dict({"insert": name, "documents": [{}]}, **s.write()), DB)
        assert error_of(answer) == (6, ["RetryableWriteError"]), answer


def test_other_errors_pass_as_they_are(fronts):
    with pooled(fronts) as p, greeted(p, 1) as (c,):
        for error in ({"code": 11000, "errmsg": "duplicate"}, {"code": 13, "errmsg": "no"}, {"code": 50, "errmsg": "late", "errorLabels": ["One", "Two"]}):
            for f in fronts:
                f.fault("count", error=error)
            answer = c.ask(LOOK, DB)
            assert error_of(answer) == (error["code"], error.get("errorLabels", [])) and answer["errmsg"] == error["errmsg"]
            for f in fronts:
                f.clear_faults()


GARBAGE = {"text": b"HTTP/1.1 400 Bad Request\r\n\r\n", "zeros": b"\0" * 40, "compressed": struct.pack("<iiii", 30, 1, 1, 2012) + b"x" * 14}


@pytest.mark.parametrize("garbage", sorted(GARBAGE))
def test_when_a_mongos_sends_garbage(fronts, garbage):
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name, s = filled(c), Session()
        place = home(fronts, c, s)
        fault = place.fault("insert", raw=GARBAGE[garbage])
        assert error_of(c.ask(dict({"insert": name, "documents": [{}]}, **s.write()), DB)) == (6, ["RetryableWriteError"])
        p.wait_log("a mongos sends what is no answer")
        fault.clear()
        assert other.ask(LOOK, DB)["ok"] and c.ask(LOOK, DB)["ok"]


@pytest.mark.parametrize("header", [{"response_to": 99}, {"length": 15}, {"opcode": 1234}], ids=["another's", "length", "opcode"])
def test_when_a_mongos_answers_what_was_not_asked(fronts, header):
    """It never comes to a client: the connection is given up."""
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        name, s = filled(c), Session()
        place = home(fronts, c, s)
        fault = place.fault("insert", header=header)
        assert error_of(c.ask(dict({"insert": name, "documents": [{}]}, **s.write()), DB)) == (6, ["RetryableWriteError"])
        fault.clear()
        for i in range(10):
            assert ids(other.ask({"find": name, "filter": {"_id": i}}, DB)) == [i]


def test_when_a_mongos_stops_in_the_middle_of_an_answer(fronts):
    """Only its client knows how long that may take; when it leaves, the connection ends too."""
    with pooled(fronts, pool_max=1) as p, greeted(p, 1) as (other,):
        s = Session()
        place = home(fronts, other, s)
        with greeted(p, 1) as (c,):
            fault = place.fault("distinct", 1, cut=30, then="pause")
            c.send(dict({"distinct": "half", "key": "x"}, **s.plain), DB)
            wait_for("it to be there", lambda: fault.hits)
            with pytest.raises(TimeoutError):
                c.read(timeout=0.3)
            other.send(dict({"find": "half"}, **s.plain), DB)  # waits for that connection, or is elsewhere
        assert other.read().body["ok"]
        wait_for("the session to be there again", lambda: at(fronts, other, dict(LOOK, **s.plain))[1] is place)


def test_when_a_mongos_speaks_out_of_turn(fronts):
    """On a connection that nobody has: it is closed, and nobody hears of it."""
    with pooled(fronts) as p, greeted(p, 1) as (c,):
        sessions = []
        while not all(f.commands("count") for f in fronts):
            sessions.append(Session())
            home(fronts, c, sessions[-1])
        message = wire.op_msg({"ok": 1.0, "unasked": True}, 99, 12345)
        for f in fronts:
            mine = [x.connection for x in f.commands("count")]
            assert mine
            f.cluster.call(lambda mine=mine: [x.writer.write(message) for x in mine])
            for x in mine:
                wait_for("it to be closed", lambda x=x: not x.is_open)
        for s in sessions:
            answer, _ = at(fronts, c, dict(LOOK, **s.plain))
            assert answer["ok"] and "unasked" not in answer


def test_when_all_connections_of_a_mongos_are_cut_while_they_are_idle(fronts):
    with pooled(fronts) as p, greeted(p, 2) as (c, other):
        sessions = [Session() for _ in range(9)]
        for turn in range(3):
            for s in sessions:
                home(fronts, c, s)
            for f in fronts:
                mine = {x.connection for x in f.commands("count")}
                f.cluster.call(lambda f=f: [x.end(turn == 1) for x in list(f.clients) if x in mine])
                wait_for("them to be gone", lambda f=f, mine=mine: not mine & f.clients)
            for s in sessions:
                home(fronts, other, s)


def test_when_no_mongos_is_there_for_a_while(fronts):
    """Requests wait, in their turn; with one back in time they see nothing of it."""
    with pooled(fronts, pool_wait="30s") as p, greeted(p, 3) as clients:
        name = filled(clients[0])
        for f in fronts:
            f.stop()
        for f in fronts:
            p.wait_state(f, "down")
        for c in clients:
            c.send(dict({"insert": name, "documents": [{}]}, **Session().write()), DB)
        fronts[1].start()
        for c in clients:
            assert c.read().body["ok"]


def test_when_no_mongos_is_there_at_all(fronts):
    with pooled(fronts, pool_wait="300ms") as p, greeted(p, 5) as clients:
        name = filled(clients[0])
        for f in fronts:
            f.stop()
        for f in fronts:
            p.wait_state(f, "down")
        asked = statements(name)
        begun = time.monotonic()
        for c, (document, db, _) in zip(clients, asked.values()):
            c.send(document, db)
        for c, (_, _, labels) in zip(clients, asked.values()):
            assert error_of(c.read().body) == (6, labels)
        assert 0.2 < time.monotonic() - begun < 3 * SLOW
        assert clients[0].ask({"hello": 1})["msg"] == "isdbgrid"  # a driver's monitor sees nothing of it
        fronts[2].start()
        for c in clients:
            wait_for("it to be served", lambda c=c: c.ask(LOOK, DB)["ok"])


def test_when_a_mongos_returns(fronts):
    """Its sessions are its own again, with connections that are new."""
    with pooled(fronts) as p, greeted(p, 1) as (c,):
        s = Session()
        place = home(fronts, c, s)
        for n in range(2):
            place.stop(reset=bool(n))
            p.wait_state(place, "down", n + 1)
            assert home(fronts, c, s) is not place
            place.start()
            p.wait_state(place, "up", n + 2)
            assert home(fronts, c, s) is place


class Pools(pymongo.monitoring.ConnectionPoolListener):
    """How often a driver emptied its pool: a lost connection makes it do that, or an error of a server that shuts down."""

    cleared = 0

    def pool_cleared(self, _event):
        self.cleared += 1

    def _unheard(self, _event):
        pass

    pool_created = pool_ready = pool_closed = connection_created = connection_ready = connection_closed = _unheard
    connection_check_out_started = connection_check_out_failed = connection_checked_out = connection_checked_in = _unheard


class Application:
    """Eight threads that do what applications do, with retryable writes and reads; any error that they see is kept."""

    def __init__(self, driver):
        self.driver, self.errors, self.done, self.over = driver, [], [0] * 8, threading.Event()
        self.inserted = [0] * 8
        self.rows = driver[DB]["load%d" % time.monotonic_ns()]
        self.rows.insert_many([{"_id": "row%d" % i, "n": 0} for i in range(100)])
        self.threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(8)]
        for t in self.threads:
            t.start()

    def _run(self, i):
        while not self.over.is_set():
            n = self.done[i]
            try:
                self._one(i, n)
            except Exception as e:  # noqa: BLE001
                self.errors.append("%s of thread %d: %s" % (n, i, repr(e)[:500]))
            self.done[i] += 1

    def _one(self, i, n):
        self.rows.insert_one({"_id": "i %d %d" % (i, n)})
        self.inserted[i] += 1
        assert self.rows.find_one({"_id": "i %d %d" % (i, n)}) is not None
        assert self.rows.update_one({"_id": "row%d" % (i * 10)}, {"$inc": {"n": 1}}).modified_count == 1
        assert self.rows.find_one_and_update({"_id": "row%d" % (i * 10)}, {"$inc": {"m": 1}}, return_document=True)["m"] == n + 1
        if n % 5 == 0:
            def work(s):
                self.rows.update_one({"_id": "row%d" % (i * 10 + 1)}, {"$inc": {"n": 1}}, session=s)
                return self.rows.find_one({"_id": "row%d" % (i * 10 + 1)}, session=s)
            with self.driver.start_session() as s:
                assert s.with_transaction(work)["n"] > 0

    def went_on(self, least=3):
        """Until every thread has done so many more rounds."""
        so_far = list(self.done)
        wait_for("all threads to go on", lambda: self.errors or all(b >= a + least for a, b in zip(so_far, self.done)), timeout=60)

    def stop(self):
        self.over.set()
        for t in self.threads:
            t.join(60 * SLOW)
            assert not t.is_alive()
        assert self.errors == [], self.errors[:5]
        for i in range(8):
            row = self.rows.find_one({"_id": "row%d" % (i * 10)})
            assert (row["n"], row["m"]) == (self.done[i], self.done[i]), "something was lost or done twice"


@pytest.mark.parametrize("how", ["in peace", "killed", "killed and back at once"])
def test_mongos_are_restarted_under_load_and_an_application_sees_nothing(fronts, how):
    """One after the other. Each write is done once; the driver's own pool stays as it is."""
    pools = Pools()
    with pooled(fronts, pool_max=10) as p, pymongo.MongoClient(p.uri("serverSelectionTimeoutMS=10000"), event_listeners=[pools]) as driver:
        load = Application(driver)
        load.went_on()
        for f in fronts:
            if how == "in peace":
                drained(p, f)
                load.went_on(2)
            f.stop(reset=how != "in peace")
            if how == "killed":
                p.wait_state(f, "down")
                load.went_on(2)
            f.start()
            load.went_on()
            if how != "killed and back at once":
                p.wait_state(f, "up", 2)
                load.went_on(2)
        load.stop()
        assert pools.cleared == 0


# -------------------------------------------------------- all of it at once

class Rough:
    """A client that does what comes to its mind. What it gets must be the answer to what it asked or an error that says what may be done;
    its connection is closed only behind part of a long answer, or where it sent nonsense."""

    CODES = (6, 43, 89, 251)

    def __init__(self, p, random, name):
        self.p, self.random, self.name = p, random, name
        self.answers = self.errors = self.ends = 0
        self.wrong = []
        self.doing = ""

    def run(self, until):
        while time.monotonic() < until and len(self.wrong) < 5:
            try:
                with self.p.client(timeout=30, rcvbuf=self.random.choice((None, None, 8192))) as c, self.p.client(timeout=30) as d:
                    for x in (c, d):
                        assert x.hello(app_name="rough", compression=["zlib"])["ok"]
                    self._session(c, d, until)
            except (OSError, EOFError) as e:
                self.ends += 1
                if "long" not in self.doing or isinstance(e, TimeoutError):
                    self.wrong.append("%s: %r" % (self.doing, e))
            except Exception as e:  # noqa: BLE001
                self.wrong.append("%s: %r" % (self.doing, e))

    def good(self, answer, label=None):
        """Whether it is no error; one that is must be one of those, with that label."""
        if answer["ok"]:
            self.answers += 1
            return True
        assert answer["code"] in self.CODES, answer
        assert label is None or label in answer.get("errorLabels", []) or answer["code"] == 43, answer
        self.errors += 1
        return False

    def echo(self, c, size, **more):
        token = self.random.randrange(1 << 30)
        answer = c.ask(dict({"echo": token, "size": size}, **more))
        assert not self.good(answer) or (answer["token"] == token and len(answer["x"]) == size)

    def _session(self, c, d, until):
        r = self.random
        for _ in range(r.randrange(1, 20)):
            if time.monotonic() > until:
                return
            what = r.choice(("short", "long", "cursor", "transaction", "write", "several", "quiet", "half", "leaves", "waits", "kill"))
            self.doing = what
            if what == "short":
                self.echo(c, r.choice((10, 1000)), **Session().plain)
            elif what == "long":
                self.echo(c, r.choice((9000, 100000, 700000)), padding=b"p" * r.choice((0, 0, 300000)))
            elif what == "cursor":
                self.cursor(c, d)
            elif what == "transaction":
                self.transaction(c, d)
            elif what == "write":
                self.good(c.ask(dict({"echo": 1, "size": 1}, **Session().write())), "RetryableWriteError")
            elif what == "several":
                tokens = [r.randrange(1 << 30) for _ in range(5)]
                c.send_raw(b"".join(wire.op_msg({"echo": t, "size": 10, "$db": "admin"}, t) for t in tokens))
                for t in tokens:
                    answer = c.read()
                    assert answer.response_to == t and (not self.good(answer.body) or answer.body["token"] == t)
            elif what == "quiet":
                for _ in range(3):
                    c.send({"echo": 1, "size": 10, "padding": b"q" * r.choice((10, 100000))}, flags=wire.MORE_TO_COME)
                self.echo(c, 10)
            elif what == "kill":
                answer = c.ask({"killCursors": self.name, "cursors": [Int64(r.randrange(1, 1 << 40)) for _ in range(3)]}, DB)
                assert not self.good(answer) or len(answer["cursorsKilled"]) == 0
            elif what == "half":
                self.doing += " (long)"  # it goes first
                c.send_raw(wire.op_msg({"echo": 7, "size": 10, "padding": b"h" * 100000, "$db": "admin"}, 3)[:r.randrange(1, 90000)])
                return
            elif what == "leaves":
                c.send({"echo": 1, "size": r.choice((10, 100000, 2000000))})
                if r.random() < 0.5:
                    self.doing += " (long)"
                    c.sock.recv(10)
                return
            else:
                answer = d.ask({"hello": 1})
                d.send({"hello": 1, "topologyVersion": answer["topologyVersion"], "maxAwaitTimeMS": r.choice((10, 60000))})
                self.echo(c, 10)
                return

    def cursor(self, c, d):
        more = Session().plain if self.random.random() < 0.5 else {}
        answer, got = c.ask(dict({"find": self.name, "sort": {"_id": 1}, "batchSize": 3}, **more), DB), []
        while self.good(answer):
            got += ids(answer)
            if not answer["cursor"]["id"]:
                assert got == list(range(20)), got
                return
            if self.random.random() < 0.05:
                killed = d.ask(dict({"killCursors": self.name, "cursors": [Int64(answer["cursor"]["id"])]}, **more), DB)
                self.good(killed)
                return
            asked = d.send(dict(more_of(answer["cursor"]["id"], self.name, 4), **more), DB, flags=self.random.choice((0, 0, wire.EXHAUST_ALLOWED)))
            answer = d.read()
            assert answer.response_to == asked and not answer.flags & wire.MORE_TO_COME
            answer = answer.body

    def transaction(self, c, d):
        s = Session()
        if not self.good(c.ask(dict(LOOK, **s.begin()), DB), "TransientTransactionError"):
            return
        for _ in range(3):
            if not self.good(self.random.choice((c, d)).ask(dict({"find": self.name, "limit": 2}, **s.more), DB), "TransientTransactionError"):
                return
        self.good((s.commit if self.random.random() < 0.7 else s.abort)(d))


@pytest.mark.parametrize("options", [{}, {"pool_max": 2, "pool_life": "100ms", "eject_after": 2, "eject_time": "200ms"}], ids=["defaults", "few connections"])
def test_all_that_can_happen_at_once(fronts, options):
    """For some seconds clients and mongos do what they should not; then all must be well, and the log without a complaint (see stop)."""
    async def echo(_client, body):
        return {"token": body["echo"], "x": b"e" * body["size"], "ok": 1.0}

    for f in fronts:
        f._do_echo = echo
    seed, lasts = (randomness.randrange(1 << 30), 60) if harness.LONG else (4711, 6)
    random = randomness.Random(seed)
    print("seed", seed)
    with MongoPuerta(fronts, process={"chunk_size": "16k", "chunks": 1024}, counters=True, mode="pooled", **dict(QUICK, **options)) as p:
        for f in fronts:
            p.wait_state(f, "up")
        with greeted(p, 1) as (c,):
            name = filled(c, 20)
        fronts.set(keep_seen=False)
        until = time.monotonic() + lasts
        clients = [Rough(p, randomness.Random(seed + i), name) for i in range(8)]
        threads = [threading.Thread(target=c.run, args=(until,), daemon=True) for c in clients]
        for t in threads:
            t.start()
        while time.monotonic() < until:
            disturb(random, fronts)
            time.sleep(0.1)
        for f in fronts:
            f.clear_faults()
        for t in threads:
            t.join(60 * SLOW)
            assert not t.is_alive()
        print([(c.answers, c.errors, c.ends) for c in clients])
        assert not [w for c in clients for w in c.wrong], [w for c in clients for w in c.wrong][:5]
        assert sum(c.answers for c in clients) > 100 and sum(c.errors for c in clients) > 0
        with greeted(p, 2) as (c, d):
            well = Rough(p, random, name)
            wait_for("all to be well again", lambda: all(c.ask(dict(LOOK, **Session().plain), DB)["ok"] for _ in range(20)))
            for _ in range(20):
                well.cursor(c, d)
                well.transaction(c, d)
                well.echo(d, 300000)
            assert well.errors == 0
        wait_for("all chunks to be free again", lambda: p.counter("free_chunks") > 1000)
        assert [f.overlaps for f in fronts] == [0, 0, 0]
        assert not [x.malformed for f in fronts for x in f.everyone if x.malformed]


# ------------------------------------------------------------------ its end

def test_sigterm(front):
    """What is under way is answered; what waits for a connection is too, or is closed; the rest is closed at once."""
    with pooled([front], pool_max=1, process={"stop_timeout": "30s"}) as p, greeted(p, 3) as (asks, waits, idle):
        fault = front.fault("distinct", hold=True)
        asks.send({"distinct": "x", "key": "y"}, DB)
        wait_for("it to be there", lambda: fault.held)
        waits.send({"distinct": "x", "key": "y"}, DB)
        assert idle.ask({"hello": 1})["ok"]
        p.terminate()
        assert closed(idle)
        fault.clear()
        assert asks.read().body["ok"] and closed(asks)
        with contextlib.suppress(EOFError, OSError):
            waits.read()
        p.process.wait(20 * SLOW)


def test_beside_another_mode(fronts):
    """A section of each mode in one process, before the same mongos."""
    conf = ("[mongo main]\nlisten = 127.0.0.1:{port}\nmongos = {mongos}\nprobe_interval = 200ms\nrise = 1\nmode = pooled\n"
            "[mongo other]\nlisten = 127.0.0.1:{redis_port}\nmongos = {mongos}\nprobe_interval = 200ms\nrise = 1\n")
    spare = harness.free_port()
    with MongoPuerta(fronts, conf=conf.replace("{redis_port}", str(spare))) as p, p.client() as c, mongo_harness.MongoClient(spare) as other:
        for _ in range(3):
            for client in (c, other):
                assert client.hello()["ok"] if _ == 0 else client.ask(LOOK, DB)["ok"]
        assert c.ask({"hello": 1})["msg"] == "isdbgrid"
