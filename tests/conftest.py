"""Fixtures of the integration tests: one cluster for the tests that leave it whole, one of their own for those that break it."""
import contextlib
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import harness  # noqa: E402


@pytest.fixture(scope="session")
def cluster():
    with harness.RedisCluster(masters=3, replicas=0, node_timeout_ms=2000) as c:
        yield c


@pytest.fixture(scope="session")
def spares(request):
    count = sum("own_cluster" in item.fixturenames for item in request.session.items)
    with contextlib.closing(harness.Spares(count, masters=3, replicas=1, node_timeout_ms=1000)) as s:
        yield s


@pytest.fixture
def own_cluster(spares):
    """3 masters and 3 replicas that a test may kill."""
    with spares.take() as c:
        yield c


@pytest.fixture(scope="module")
def puerta(cluster):
    with harness.Puerta(cluster) as p:
        yield p


@pytest.fixture
def client(puerta):
    with puerta.client() as c:
        yield c


@pytest.fixture
def other(puerta):
    """A second client, to see that others notice nothing."""
    with puerta.client() as c:
        yield c


@pytest.fixture(scope="module")
def server():
    """A plain redis-server, to compare with."""
    with harness.plain_server() as node:
        yield node


@pytest.fixture(scope="module")
def ferret():
    """The database behind MongoDB mode."""
    import mongo_harness
    with mongo_harness.Ferret() as f:
        yield f


@pytest.fixture
def fronts(ferret):
    """Three scripted mongos before it, new ones for each test."""
    import mongo_harness
    with mongo_harness.fronts(ferret) as three:
        yield three


@pytest.fixture
def front(ferret):
    """One."""
    import mongo_harness
    with mongo_harness.fronts(ferret, 1) as one:
        yield one[0]


@pytest.fixture
def mongoses(ferret):
    """Three with the load balancer's port."""
    import mongo_harness
    with mongo_harness.fronts(ferret, 3, load_balancer=True) as three:
        yield three
