"""What applications do with MongoDB, by three real drivers, through Puerta before three scripted mongos: cursors, transactions and sessions live.

The same scripts behind a balancer that deals out connections in turn lose them: that is shown beside it, so that a script that proves nothing
would be seen.
"""
import subprocess

import pytest

import harness
from mongo_harness import DRIVERS, HaProxy, MongoPuerta, run_driver

SECTIONS = dict(zip(DRIVERS, (13, 13, 11)))  # parts of each script


def check_all_passed(script, uri):
    code, result = run_driver(script, uri)
    assert (code, len(result["passed"]), result["failed"]) == (0, SECTIONS[script], {}), result
    lost = {what: result[what] for what in ("cursor_not_found", "no_such_transaction", "kills_missed")}
    assert not any(lost.values()), lost


@pytest.mark.parametrize("script", DRIVERS)
def test_an_ordinary_driver_finds_one_mongos(mongoses, script):
    with MongoPuerta(mongoses) as p:
        check_all_passed(script, p.uri())
    with HaProxy(mongoses.addresses) as balancer:
        code, result = run_driver(script, "mongodb://%s/" % balancer.address)
    assert code == 1 and result["cursor_not_found"] > 0 and result["no_such_transaction"] > 0, result


@pytest.mark.parametrize("script", DRIVERS)
def test_by_its_address_alone(mongoses, script):
    with MongoPuerta(mongoses, affinity="source", balance="round-robin") as p:
        check_all_passed(script, p.uri())
    assert sum(1 for front in mongoses if front.commands("insert")) == 1


@pytest.mark.parametrize("script", DRIVERS)
def test_its_own_login_passes(mongoses, script):
    mongoses.set(users={"ana": "secret"})
    with MongoPuerta(mongoses) as p:
        check_all_passed(script, "mongodb://ana:secret@%s/" % p.address)


@pytest.mark.parametrize("script", DRIVERS)
def test_a_load_balanced_driver(mongoses, script):
    with MongoPuerta(mongoses, mode="loadbalanced", balance="round-robin") as p:
        check_all_passed(script, p.uri("loadBalanced=true"))
    assert all(front.commands("insert") for front in mongoses), "one of them was not used"


@pytest.mark.parametrize("script", DRIVERS)
def test_a_load_balanced_driver_with_a_login(mongoses, script):
    mongoses.set(users={"ana": "secret"})
    with MongoPuerta(mongoses, mode="loadbalanced") as p:
        check_all_passed(script, "mongodb://ana:secret@%s/?loadBalanced=true" % p.address)


@pytest.mark.parametrize("script", DRIVERS)
def test_a_load_balanced_driver_at_the_load_balancers_port(mongoses, script):
    with MongoPuerta(mongoses.load_balancer_addresses, mode="loadbalanced", upstream_proxy="v2", balance="round-robin") as p:
        check_all_passed(script, p.uri("loadBalanced=true"))
    assert all(front.commands("insert") for front in mongoses), "one of them was not used"


# ------------------------------------------------------------------ pooled

def has_logins():
    """Whether this Puerta knows of them: its table of options says so."""
    done = subprocess.run([harness.BINARY, "-t", "mongo", "127.0.0.1", "mode=pooled", "upstream_user=u", "upstream_password=p"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20 * harness.SLOW)
    return done.returncode == 0


LOGINS = ["no login", "at the mongos", "of clients", "both"]


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("script", DRIVERS)
def test_a_driver_over_few_connections(mongoses, script, login):
    """None of the mongos has more connections than it is to have, more than one has work if there are sessions enough, and nothing is lost."""
    if login != "no login" and not has_logins():
        pytest.skip("this build has no logins")
    options, name = {"mode": "pooled", "pool_max": 4}, ""
    if login in ("at the mongos", "both"):
        mongoses.set(users={"pool": "pooled secret"})
        options.update(upstream_user="pool", upstream_password="pooled secret")
    if login in ("of clients", "both"):
        options.update(user="ana " + harness.keys_of("secret"))
        name = "ana:secret@"
    with MongoPuerta(mongoses, process={"max_clients": 1000}, **options) as p:
        for front in mongoses:
            p.wait_state(front, "up")
        check_all_passed(script, "mongodb://%s%s/" % (name, p.address))
    sessions = {bytes(x.body["lsid"]["id"]) for front in mongoses for x in front.seen if "lsid" in x.body}
    assert sum(1 for front in mongoses if front.commands("insert", "find", "aggregate", "drop")) > 1 or len(sessions) < 8
    assert [front.overlaps for front in mongoses] == [0, 0, 0]
    assert all(front.most_connections <= 4 + 2 for front in mongoses)
    if login in ("at the mongos", "both"):
        assert {x.connection.user for front in mongoses for x in front.commands("insert")} == {"pool"}
