"""The tour of MongoDB mode (sh demo.sh mongo): one FerretDB, three scripted mongos before it (tests/fake), Puerta before these.

Checks its own results: exit code 1 if one was wrong. With --once it ends after the tour, else it stays up to be tried until Ctrl-C.
"""
import signal
import sys

import pymongo

from mongo_harness import Ferret, HaProxy, MongoPuerta, fronts, run_driver

wrong = 0


def show(what, fine, said):
    global wrong
    wrong += not fine
    print("    %s: %s: %s" % ("ok" if fine else "WRONG", what, said), flush=True)


def headline(text):
    print("\n--- " + text, flush=True)


def tour(mongoses):
    with MongoPuerta(mongoses, slow_start="0") as p:
        headline("Puerta before them: mongodb://%s/" % p.address)
        with pymongo.MongoClient(p.uri(), appname="shop") as client:
            client.demo.numbers.insert_many([{"_id": i} for i in range(300)])
            show("a cursor of 30 pages", sum(1 for _ in client.demo.numbers.find(batch_size=10)) == 300, "300 documents")
            with client.start_session() as session:
                session.with_transaction(lambda s: client.demo.orders.insert_one({"item": "door"}, session=s))
            show("a transaction", client.demo.orders.count_documents({}) == 1, "committed")
            show("where its connections are", sum(1 for m in mongoses if "shop" in m.app_names()) == 1, "all at one mongos")
        others = [pymongo.MongoClient(p.uri(), appname="app%d" % i) for i in range(60)]
        for other in others:
            other.admin.command("ping")
        share = [sum(1 for name in m.app_names() if name and name.startswith("app")) for m in mongoses]
        show("60 other applications", sum(share) == 60 and all(10 <= n <= 30 for n in share), "%d + %d + %d" % tuple(share))
        for other in others:
            other.close()

        headline("a mongos shuts down while an application works")
        with pymongo.MongoClient(p.uri(), appname="worker") as client:
            for i in range(300):
                if i == 100:
                    home = next(m for m in mongoses if "worker" in m.app_names())
                    home.quiesce()
                    p.wait_state(home, "draining")
                client.demo.work.insert_one({"_id": i})
            show("300 writes meanwhile", client.demo.work.count_documents({}) == 300, "none lost, no error")
        home.recover()

        headline("an application with cursors, transactions and GridFS, behind a balancer that deals out connections in turn, and here")
        with HaProxy(mongoses.addresses) as balancer:
            result = run_driver("pymongo_ops.py", "mongodb://%s/" % balancer.address)[1]
            print("    HAProxy: %d cursors and %d transactions were looked for where they are not" % (result["cursor_not_found"], result["no_such_transaction"]))
        code, result = run_driver("pymongo_ops.py", p.uri())
        show("Puerta", code == 0, "%d cursors, %d transactions" % (result["cursor_not_found"], result["no_such_transaction"]))
        if "--once" not in sys.argv:
            headline("it stays up until Ctrl-C: mongosh mongodb://%s/" % p.address)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM} if "--once" not in sys.argv else set())
headline("FerretDB, and three scripted mongos before it")
with Ferret() as ferret, fronts(ferret, 3) as mongoses:
    tour(mongoses)
print("\n%s" % ("all as it should be" if not wrong else "%d things were wrong" % wrong))
sys.exit(1 if wrong else 0)
