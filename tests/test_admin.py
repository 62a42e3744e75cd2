"""The listener of operators: what it tells, whom it refuses, that it holds up nobody."""
import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from email.utils import parsedate_to_datetime

import harness
import metrics_doc
import mongo_harness
import pytest
from admin_harness import TOKEN, Http, counter, counter_of, rate_of
from harness import SLOW, Load, Puerta, RespClient, encode, wait_for
from mongo_harness import QUICK, MongoPuerta

PROMTOOL = shutil.which("promtool")
GET = ["/healthz", "/readyz", "/version", "/metrics", "/status", "/slots?section=redis", "/clients", "/slowlog", "/hotkeys", "/memory"]
OPEN = ["/", "/healthz", "/readyz"]
POST = ["/drain?backend=127.0.0.1:1", "/undrain?backend=127.0.0.1:1", "/down?backend=127.0.0.1:1", "/kill?client=1", "/reload", "/loglevel?level=info", "/slowlog/reset"]


@contextlib.contextmanager
def admin_of(cluster, token=True, **options):
    """A Puerta with such a listener; gives it and the port."""
    port = harness.free_port()
    if token:
        folder = harness.temporary_folder("puerta-token-")
        path = os.path.join(folder, "token")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write(TOKEN + "\n")
        options["admin_token_file"] = path
    with Puerta(cluster, admin="127.0.0.1:%d" % port, **options) as p:
        yield p, port


@pytest.fixture(scope="module")
def guarded(cluster):
    with admin_of(cluster) as (p, port):
        yield p, port


@pytest.fixture
def port(guarded):
    return guarded[1]


@pytest.fixture
def http(port):
    with Http(port, token=TOKEN) as h:
        yield h


@contextlib.contextmanager
def counted(port, name, by=1):
    """So many more are counted by what happens within."""
    before = counter(port, name)
    yield
    assert counter(port, name) == before + by


# ---- what it tells ----

def test_health(port):
    with Http(port) as h:
        assert h.get("/healthz").json() == {"ok": True}
        assert h.get("/readyz").json() == {"ready": True, "sections": [{"name": "redis", "ready": True}]}


def test_not_ready_while_no_node_serves():
    with admin_of(["127.0.0.1:%d" % harness.free_port()], token=False, wait=False) as (_, port):
        def answer():
            with contextlib.suppress(OSError), Http(port) as h:
                return h.get("/readyz")
        got = wait_for("the listener", answer)
        assert got.status == 503 and got.json() == {"ready": False, "sections": [{"name": "redis", "ready": False}]}


def test_not_ready_while_stopping(cluster):
    with admin_of(cluster, stop_timeout="20s") as (p, port), p.client() as c, Http(port) as h:
        assert h.get("/readyz").status == 200
        c.send("BLPOP", "never", 0)
        wait_for("the blocked client", lambda: b"blocked_clients:1" in c2_info(p))
        p.process.send_signal(15)
        wait_for("not ready any more", lambda: h.get("/readyz").status == 503)
        assert h.get("/healthz").status == 200


def c2_info(p):
    with p.client() as c:
        return c.ask("INFO", "clients")


def test_status(guarded, http, cluster):
    p, _ = guarded
    with p.client() as c:
        for i in range(50):
            c.ask("SET", "status:%d" % i, "v")
        said = http.get("/status").json()
    assert said["version"] and said["pid"] in [p.process.pid] + harness.children_of(p.process.pid) and said["ready"] and not said["stopping"] and said["writable"]
    assert abs(said["started"] + said["uptime_s"] - time.time()) < 10 * SLOW and said["log_level"] == "info"
    assert said["memory_bytes"] == p.promised()
    assert said["sections"] == [{"name": "redis", "kind": "redis", "mode": "cluster", "ready": True, "listen": ["127.0.0.1:%d" % p.port],
                                 "clients": said["sections"][0]["clients"], "backends": 3, "backends_up": 3, "slots": 16384}]
    assert {b["name"] for b in said["backends"]} == {n.address for n in cluster.nodes}
    for b in said["backends"]:
        assert b["state"] == "up" and b["hold"] == "none" and b["section"] == "redis" and b["slots"] > 5000 and b["connections"] >= 1
        assert b["answers"] > 0 and 0 < b["p50_us"] <= b["p99_us"]
    assert said["counters"]["requests"] >= 50 and said["counters"]["clients_accepted"] >= 1
    assert said["gauges"]["clients"]["now"] >= 1 and said["gauges"]["clients"]["most"] == 4096


def test_clients(guarded, http):
    p, _ = guarded
    with p.client() as c, p.client() as blocked, p.client() as multi, p.client() as listener:
        c.ask("CLIENT", "SETNAME", "oper\\at\"or")
        c.ask("GET", "x")
        blocked.send("BLPOP", "never", 0)
        multi.ask("MULTI")
        listener.ask("SUBSCRIBE", "news")
        rows = wait_for("the blocked one", lambda: (lambda r: r if any(x["doing"] == "blocked" for x in r) else None)(http.get("/clients").json()["clients"]))
        by_address = {r["address"]: r for r in rows}
        mine = by_address["127.0.0.1:%d" % c.sock.getsockname()[1]]
        assert mine["name"] == "oper\\at\"or" and mine["section"] == "redis" and mine["doing"] == "idle" and mine["in_flight"] == 0
        assert 0 <= mine["idle_s"] <= mine["age_s"] < 60 and mine["waiting_out"] == 0 and mine["backend"] == "" and mine["user"] == ""
        assert mine["id"] == c.ask("CLIENT", "ID")
        asleep = by_address["127.0.0.1:%d" % blocked.sock.getsockname()[1]]
        assert asleep["in_flight"] == 1 and re.fullmatch(r"127\.0\.0\.1:\d+", asleep["backend"])
        assert by_address["127.0.0.1:%d" % multi.sock.getsockname()[1]]["doing"] == "transaction"
        assert by_address["127.0.0.1:%d" % listener.sock.getsockname()[1]]["doing"] == "subscribed"


def test_slots(http, cluster):
    said = http.get("/slots?section=redis").json()
    assert said["section"] == "redis"
    assert sum(last - first + 1 for first, last, _ in said["ranges"]) == 16384
    assert said["ranges"] == http.get("/slots").json()["ranges"]
    for first, last, name in said["ranges"]:
        assert first <= last and name in {n.address for n in cluster.nodes}
    for key in ("a", "b", "foo"):
        slot = harness.slot_of(key)
        owner = next(name for first, last, name in said["ranges"] if first <= slot <= last)
        assert owner == cluster.owner(key).address
    assert "no section" in http.get("/slots?section=nowhere").error(404)


def test_memory_and_version(guarded, http):
    said = http.get("/memory").json()
    assert said["bytes"] == guarded[0].promised()
    assert all(t["entries"] * t["each"] == t["bytes"] for t in said["tables"]) and len(said["tables"]) > 20
    assert http.get("/version").json() == {"version": said and subprocess.run([harness.BINARY, "-V"], stdout=subprocess.PIPE).stdout.decode().split()[1]}


def test_slow_log_and_hot_keys(cluster):
    with admin_of(cluster, slow_log_min="30ms") as (p, port), Http(port, token=TOKEN) as h, p.client() as c:
        assert h.get("/slowlog").json() == {"threshold_us": 30000, "passed_over": 0, "entries": []}
        key = b'k"ey\\\xff\n'
        with p.client() as d:
            d.ask("EVAL", "local i = 0 while i < 30000000 do i = i + 1 end return 1", 1, key, timeout=60)
        (row,) = wait_for("the slow one", lambda: h.get("/slowlog").json()["entries"])
        assert row["command"].lower() == "eval" and row["key"] == 'k\\"ey\\\\\\xff\\x0a' and row["section"] == "redis", row
        assert row["backend"] == cluster.owner(key).address and row["client"].startswith("127.0.0.1:") and row["all_us"] >= 30000
        assert row["queued_us"] + row["sent_us"] + row["answered_us"] == row["all_us"] and abs(row["when_ms"] / 1000 - time.time()) < 600
        for _ in range(30):
            c.pipeline([("GET", "hot")] * 100)
        hot = h.get("/hotkeys").json()
        assert hot["enabled"] and hot["keys"][0]["key"] == "hot" and hot["keys"][0]["slot"] == harness.slot_of("hot") and hot["keys"][0]["count"] > 1000
        assert hot["slots"][0]["slot"] == harness.slot_of("hot") and hot["slots"][0]["backend"] == cluster.owner("hot").address
        assert h.post("/slowlog/reset").json()["ok"]
        assert h.get("/slowlog").json()["entries"] == []


def test_the_page(port):
    with Http(port) as h:
        got = h.get("/")
        assert got.status == 200 and got.fields["content-type"] == "text/html; charset=utf-8"
        assert harness.read_file(os.path.join(harness.ROOT, "dashboard.html")) == got.text()
        policy = got.fields["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert dict(h.ask("HEAD", "/").fields, date=0) == dict(got.fields, date=0)
        assert h.get("/healthz").status == 200


def test_fields_that_guard(port):
    with Http(port) as h:
        for path in ("/", "/healthz", "/nowhere"):
            fields = h.get(path).fields
            assert abs(parsedate_to_datetime(fields["date"]).timestamp() - time.time()) < 60
            assert fields["cache-control"] == "no-store" and fields["x-content-type-options"] == "nosniff" and fields["x-frame-options"] == "DENY"
            assert "access-control-allow-origin" not in fields and "server" not in fields and "set-cookie" not in fields


# ---- metrics ----

def samples(text):
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if not line.startswith("#")}


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool here")
def test_promtool_likes_the_metrics_under_load(guarded, http):
    p, _ = guarded
    with Load(p.port, "-c", 10, "-n", 300000) as load:
        load.wait_answers(1000)
        for _ in range(5):
            got = http.get("/metrics")
            assert got.fields["content-type"].startswith("text/plain; version=0.0.4")
            told = subprocess.run([PROMTOOL, "check", "metrics"], input=got.body, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert told.returncode == 0 and told.stdout == b"", told.stdout.decode()
        load.finish(stop=True).check()


def test_metrics_grow_with_what_happens(guarded, http, cluster):
    p, _ = guarded
    before = samples(http.get("/metrics").text())
    with p.client() as c:
        for _ in range(20):
            c.ask("GET", "m")
        for _ in range(10):
            c.ask("SET", "m", "v")
        c.ask("PING")
        c.try_ask("NOSUCH")
        c.try_ask("GET")
        after = samples(http.get("/metrics").text())
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown['puerta_commands_total{kind="redis",class="read"}'] >= 20
    assert grown['puerta_commands_total{kind="redis",class="write"}'] == 10
    assert grown["puerta_requests_total"] >= 33 and grown["puerta_bytes_in_total"] > 500 and grown["puerta_bytes_out_total"] > 500
    assert grown['puerta_errors_total{error="ERR"}'] >= 1
    owner = cluster.owner("m").address
    assert grown['puerta_backend_response_seconds_count{kind="redis",section="redis",backend="%s"}' % owner] >= 30
    assert grown["puerta_clients_accepted_total"] == 1 and after['puerta_section_clients{kind="redis",section="redis"}'] >= 1
    assert after['puerta_backend_state{kind="redis",section="redis",backend="%s",state="up"}' % owner] == 1
    assert after['puerta_backend_slots{kind="redis",section="redis",backend="%s"}' % owner] > 5000
    assert after['puerta_table_entries_max{table="clients"}'] == 4096 and after['puerta_table_entries_high{table="clients"}'] >= 1
    assert after["puerta_ready"] == 1 and after["puerta_memory_bytes"] == p.promised()


def test_each_metric_and_route_is_documented(http):
    """METRICS.md has each metric with its type and help, and no other; README.md has each route."""
    text = http.get("/metrics").text()
    told, documented = metrics_doc.told(text), metrics_doc.documented()
    assert documented == told, "METRICS.md is not what /metrics says (python3 tests/metrics_doc.py): %s" % sorted(
        name for name in {**told, **documented} if told.get(name) != documented.get(name))
    tables = re.search(r"#define GAUGES\(X\)(.*?)\n\n", harness.read_file(os.path.join(harness.ROOT, "stats.h")), re.S).group(1)
    assert re.findall(r'X\((\w+), "(.*)"\)', tables) == re.findall(
        r"^\| `(\w+)` \| ([^|]*) \|$", harness.read_file(metrics_doc.PATH), re.M)
    readme = harness.read_file(os.path.join(harness.ROOT, "README.md"))
    for path in GET + POST:
        assert re.search(r"`(GET|POST) %s(\?|`)" % re.escape(path.split("?")[0]), readme), path


# ---- HTTP ----

def test_head_has_what_get_has_but_for_the_body(http):
    for path in GET:
        head = http.ask("HEAD", path)
        assert head.body == b"" and head.status == http.get(path).status, path
    assert http.ask("HEAD", "/nowhere").status == 404
    assert http.get("/healthz").status == 200


def test_http_1_0(port):
    with Http(port, token=TOKEN) as h:
        got = h.get("/metrics", version="HTTP/1.0", Host=None)
        assert got.fields["connection"] == "close" and "transfer-encoding" not in got.fields and "puerta_ready 1\n" in got.text()
    with Http(port) as h:
        assert h.get("/healthz", version="HTTP/1.0").json() == {"ok": True}
        assert h.at_end()


def test_long_answers_come_in_chunks(http):
    got = http.get("/metrics")
    assert got.fields["transfer-encoding"] == "chunked" and got.chunks > 1
    assert http.get("/healthz").fields["content-length"] == "11"


def test_connection_close(port):
    with Http(port, token=TOKEN) as h:
        assert h.get("/version", Connection="close").fields["connection"] == "close"
        assert h.at_end()


def test_pipelined(port):
    with Http(port, token=TOKEN) as h:
        paths = (GET + ["/nowhere"]) * 20
        h.send(b"".join(h.request("GET", path) for path in paths))
        for path in paths:
            assert h.read().status == (404 if path == "/nowhere" else 200), path


def test_byte_by_byte(port):
    with Http(port, token=TOKEN) as h:
        for b in h.request("GET", "/version") + h.request("POST", "/loglevel?level=info", body=b"ignored"):
            h.send(bytes([b]))
        assert h.read().status == 200
        assert h.read().json()["ok"]


def test_a_body_is_dropped(http):
    for body in (b"", b"x", b"GET /status HTTP/1.1\r\n\r\n", os.urandom(65536)):
        assert http.post("/loglevel?level=info", body=body).json()["ok"], len(body)
    http.send(http.request("POST", "/loglevel?level=info", Content_Length="5", Expect="100-continue"))
    assert http.read().status == 100
    http.send(b"12345")
    assert http.read().json()["ok"]


def test_who_ends_his_side_gets_his_answer(port):
    with Http(port, token=TOKEN) as h:
        h.send(h.request("GET", "/metrics") + h.request("GET", "/version"))
        h.sock.shutdown(socket.SHUT_WR)
        assert "puerta_ready 1\n" in h.read().text()
        assert h.read().status == 200 and h.at_end()


MALFORMED = [
    (b"GARBAGE\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\n\r\n", 400),  # no Host
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
    (b"DELETE /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
    (b"GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    (b"POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65537\r\n\r\n", 413),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 3000 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: a wonder\r\n\r\n", 417),
    (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
    (b"*1\r\n$4\r\nPING\r\n", 400),
    (os.urandom(200).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n\r\n", 400),
]


@pytest.mark.parametrize("number", range(len(MALFORMED)))
def test_malformed(port, number):
    data, status = MALFORMED[number]
    with counted(port, "admin_malformed"), Http(port, token=TOKEN) as h:
        h.send(data)
        got = h.read()
        assert got.error(status) and got.fields["connection"] == "close"
        assert h.at_end()


def test_paths_and_methods(port, http):
    with counted(port, "admin_malformed", 9):
        assert http.get("/nowhere").error(404)
        assert http.get("/status/").error(404)
        assert http.post("/status").fields["allow"] == "GET, HEAD"
        assert http.get("/drain?backend=x").fields["allow"] == "POST"
        assert http.ask("HEAD", "/reload").status == 405
        assert "backend=" in http.post("/drain").error(400)
        assert http.get("/slots?section=%zz").error(400)
        assert http.post("/loglevel?level=debug&level=info").error(400)
        assert http.post("/kill?client=" + "1" * 1000).error(400)
    assert http.post("/kill?client=abc").error(400) and http.post("/kill?client=999999999").error(404)
    assert http.post("/drain?backend=nowhere:1").error(404)
    assert http.post("/loglevel?level=loud").error(400)


# ---- who may ask ----

def test_without_the_token_only_the_health_pages_answer(port):
    with Http(port) as h:
        for path in OPEN:
            assert h.get(path).status == 200
        closed = [p for p in GET if p not in OPEN]
        with counted(port, "admin_unauthorized", len(closed) + len(POST)):
            for path in closed:
                assert h.get(path).fields["www-authenticate"] == "Bearer"
            for path in POST:
                assert "token" in h.post(path).error(401)


@pytest.mark.parametrize("wrong", [TOKEN[:-1], TOKEN + "x", TOKEN[:-1] + "8", TOKEN.upper(), "x", "x" * 4000, " ", "\xff"])
def test_wrong_tokens(cluster, wrong):
    with admin_of(cluster) as (p, port), Http(port, token=wrong) as h:
        with counted(port, "admin_unauthorized"):
            assert h.get("/status").error(401)
        for field in ("Basic " + TOKEN, "Bearer", TOKEN, "Digest x"):
            assert h.get("/status", token=None, Authorization=field).status == 401
        assert h.get("/status?token=" + TOKEN, token=None).status == 401


def test_guesses_wait_and_so_does_who_shares_their_address(cluster):
    with admin_of(cluster) as (p, port):
        with Http(port, token="wrong") as h:
            for _ in range(3):
                assert h.get("/status").status == 401
            begun = time.monotonic()
            for _ in range(4):
                assert h.get("/status").status == 401
            assert time.monotonic() - begun > 0.05 + 0.1 + 0.2 + 0.4 - 0.05
            begun = time.monotonic()
            assert h.get("/status", token=TOKEN).status == 200
            assert time.monotonic() - begun > 0.3
            assert h.get("/healthz").status == 200
        with p.client() as c:
            assert c.ask("PING") == b"PONG"


def test_without_a_token_file_nothing_changes(cluster):
    with admin_of(cluster, token=False) as (p, port), Http(port) as h:
        assert not h.get("/status").json()["writable"]
        for path in GET:
            assert h.get(path).status == 200, path
        for path in POST:
            assert "admin_token_file" in h.post(path).error(403)
        assert h.post("/loglevel?level=debug", token=TOKEN).status == 403
        assert h.get("/status").json()["log_level"] == "info"


@pytest.mark.parametrize("host,status", [
    ("localhost", 200), ("LOCALHOST:9180", 200), ("127.0.0.1", 200), ("127.0.0.1:80", 200), ("[::1]:9180", 200), ("192.0.2.7", 200),
    ("puerta.example", 200), ("other.example:1", 200), ("evil.example", 421), ("localhost.evil.example", 421), ("puerta.example.evil", 421),
    ("127.0.0.1.evil.example", 421), ("127.0.0.1:1:2", 421), ("[::1", 421), (":80", 421), ("localhost:", 200), ("uerta.example", 421),
])
def test_a_host_that_is_none_of_ours_is_refused(cluster, host, status):
    global named
    if named is None:
        named = contextlib.ExitStack()
        named.port = named.enter_context(admin_of(cluster, admin_hosts="puerta.example, other.example"))[1]
    with Http(named.port, token=TOKEN) as h:
        with counted(named.port, "admin_wrong_host", status == 421):
            assert h.get("/healthz", Host=host).status == status

named = None


@pytest.fixture(scope="module", autouse=True)
def no_named_left():
    global named
    yield
    if named is not None:
        named.close()
    named = None


@pytest.mark.parametrize("fields,status", [
    (dict(Origin="http://evil.example"), 403), (dict(Origin="null"), 403), (dict(Origin="http://localhost"), 200),
    (dict(Origin="https://localhost"), 200), (dict(Origin="http://localhost:81"), 403), (dict(Sec_Fetch_Site="cross-site"), 403),
    (dict(Sec_Fetch_Site="same-site"), 403), (dict(Sec_Fetch_Site="same-origin"), 200), (dict(Sec_Fetch_Site="none"), 200),
    (dict(Origin="http://localhost.evil.example"), 403), (dict(Origin="http://evil.example/localhost"), 403),
])
def test_pages_of_other_sites_are_refused(port, http, fields, status):
    with counted(port, "admin_cross_site", 2 * (status == 403)):
        assert http.post("/loglevel?level=info", **fields).status == status
        assert http.get("/status", **fields).status == status
    assert http.ask("POST", "/loglevel?level=info", body=b"a=b", Content_Type="text/plain", **fields).status == status


# ---- what is held against it ----

def test_slow_requests_end(cluster):
    with admin_of(cluster) as (p, port):
        slow = [Http(port, token=TOKEN, timeout=30) for _ in range(3)]
        begun = time.monotonic()
        slow[0].send(b"GET /healthz HT")
        slow[1].send(slow[1].request("POST", "/reload", body=None, Content_Length="10") + b"123")
        stop = threading.Event()

        def drip():
            while not stop.wait(0.3) and time.monotonic() - begun < 4:  # what comes behind the end may take the answer away
                with contextlib.suppress(OSError):
                    slow[0].send(b"T")
                    slow[1].send(b"4" if time.monotonic() - begun < 1 else b"")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            with p.client() as c:
                assert slow[1].read().error(408) and slow[1].at_end()
                assert slow[0].read().error(408)
                assert 4 < time.monotonic() - begun < 10 * SLOW
                assert slow[2].at_end()  # which has said nothing at all
                assert c.ask("PING") == b"PONG" and Http(port).get("/healthz").status == 200
        finally:
            stop.set()
            dripping.join()
        assert counter(port, "admin_slow") == 2


def test_who_does_not_read_is_closed(cluster):
    with admin_of(cluster) as (p, port), Http(port, token=TOKEN, rcvbuf=4096) as h, p.client() as c:
        asked = h.request("GET", "/metrics")
        h.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(2000):
                h.sock.send(asked)
        assert c.ask("PING") == b"PONG"
        h.sock.setblocking(True)
        h.sock.settimeout(30 * SLOW)
        wait_for("its end", lambda: gone(h), timeout=20)


def gone(h):
    """Whether the other side has closed, without anything being read."""
    try:
        h.sock.send(b"x")
        return False
    except (ConnectionResetError, BrokenPipeError):
        return True


def test_many_connections_at_once(cluster):
    """Who only holds connections keeps nobody out."""
    with admin_of(cluster, admin_clients=4) as (p, port):
        idle = [Http(port) for _ in range(30)]
        for h in idle[::2]:
            with contextlib.suppress(OSError):
                h.send(b"GET /st")
        for _ in range(50):
            with Http(port, token=TOKEN) as h:
                assert h.get("/version").status == 200
        assert counter(port, "admin_crowded") >= 26
        for h in idle:
            h.close()
        with p.client() as c:
            assert c.ask("PING") == b"PONG"


@pytest.mark.parametrize("how", ["wrong tokens", "reads nothing", "comes anew"])
def test_one_address_keeps_no_other_out(cluster, how):
    """Whatever it does with its connections, as long as it has not shown the token."""
    def crowd(port):
        h = Http(port, source="127.0.0.2", rcvbuf=4096)
        h.sock.setblocking(False)
        asked = h.request("GET", "/status", token="wrong") if how == "wrong tokens" else h.request("GET", "/")
        with contextlib.suppress(OSError):
            for _ in range(0 if how == "comes anew" else 3000):
                h.sock.send(asked)
        return h

    with admin_of(cluster, admin_clients=4) as (p, port), Http(port, token=TOKEN) as steady:
        there = []
        try:
            for _ in range(10):
                there += [crowd(port) for _ in range(8)]
                assert steady.get("/version").status == 200  # it keeps its place, too
                with Http(port, token=TOKEN) as h:
                    assert h.get("/version").status == 200
        finally:
            for h in there:
                h.close()
        with p.client() as c:
            assert c.ask("PING") == b"PONG"


def test_too_many_requests_from_one_address(cluster):
    """Those that are refused cost most: 500 in a second are enough."""
    with admin_of(cluster) as (p, port):
        refused = 0
        for _ in range(200):
            with Http(port) as h:
                h.send(h.request("GET", "/status") * 40)
                for _ in range(40):
                    got = h.read()
                    if got.status == 429:
                        assert got.error(429) and got.fields["retry-after"] == "1" and got.fields["connection"] == "close"
                        refused += 1
                        break
                    assert got.status == 401
            if refused > 0:
                break
        assert refused > 0
        wait_for("the next second", lambda: Http(port).get("/healthz").status == 200)
        assert counter(port, "admin_limited") >= 1
        with p.client() as c:
            assert c.ask("PING") == b"PONG"


def test_a_thousand_requests_a_second_while_the_proxy_serves(guarded):
    p, port = guarded
    with Load(p.port, "-c", 10, "-n", 100000000) as load:
        load.wait_answers(1000)
        rate = rate_of(port, "/version", 4, 3, TOKEN)
        before = load.answers()
        load.wait_answers(before + 1000)
        load.finish(stop=True).check()
    print("%.0f requests a second" % rate)
    assert rate > 1000 / SLOW


def test_an_empty_pool_answers(cluster):
    with admin_of(cluster, chunk_size="1k", chunks=128, retain_bytes="8k", client_stall="60s") as (p, port), Http(port, token=TOKEN) as h:
        with p.client() as c:
            c.ask("SET", "empty", b"v" * 3000)
        greedy = [p.client(rcvbuf=4096) for _ in range(20)]
        for c in greedy:
            c.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                c.sock.send(encode("GET", "empty") * 2000)
        wait_for("an empty pool", lambda: h.get("/status").json()["counters"]["pool_empty"] > 0)
        for path in GET:
            assert h.get(path).status == 200
        for c in greedy:
            c.close()


def test_a_full_client_table_answers(cluster):
    with admin_of(cluster, max_clients=5) as (p, port), contextlib.ExitStack() as stack:
        def let_in():
            c = stack.enter_context(p.client())
            with contextlib.suppress(OSError, EOFError):
                return c.try_ask("PING") == b"PONG"

        for _ in range(5):  # those who looked whether it serves may not be gone yet
            wait_for("a place", let_in)
        with Http(port, token=TOKEN) as h:
            assert len(h.get("/clients").json()["clients"]) == 5
            assert h.get("/status").json()["sections"][0]["clients"] == 5


def test_many_clients_are_told_in_pieces(cluster):
    with admin_of(cluster, max_clients=400) as (p, port), contextlib.ExitStack() as stack, Http(port, token=TOKEN) as h:
        inside = [stack.enter_context(p.client()) for _ in range(300)]
        for i, c in enumerate(inside):
            c.ask("CLIENT", "SETNAME", "\\\"" * 29 + str(i)) if i % 7 == 3 else c.ask("PING")
        got = h.get("/clients")
        assert got.chunks > 5
        assert len({r["id"] for r in got.json()["clients"]}) == 300


# ---- what it does ----

def test_kill(guarded, http):
    p, _ = guarded
    with p.client() as c:
        number = c.ask("CLIENT", "ID")
        begun = time.monotonic()
        assert http.post("/kill?client=%d" % number).json()["ok"]
        assert c.at_end() and time.monotonic() - begun < 1 * SLOW
        assert number not in [r["id"] for r in http.get("/clients").json()["clients"]]


def test_loglevel(guarded, http):
    p, _ = guarded
    assert http.post("/loglevel?level=debug").json()["ok"] and http.get("/status").json()["log_level"] == "debug"
    assert http.post("/loglevel?level=info").json()["ok"] and http.get("/status").json()["log_level"] == "info"


def test_a_node_with_slots_cannot_be_drained(http, cluster):
    assert "slots" in http.post("/drain?backend=" + cluster.nodes[0].address).error(409)
    assert http.post("/undrain?backend=redis/" + cluster.nodes[0].address).json()["ok"]


def test_down_and_back(cluster):
    with admin_of(cluster, failover_wait="100ms") as (p, port), Http(port, token=TOKEN) as h, p.client() as c:
        node = cluster.owner("k")
        assert h.post("/down?backend=" + node.address).json()["ok"]
        (row,) = [b for b in h.get("/status").json()["backends"] if b["name"] == node.address]
        assert row["hold"] == "down"
        assert isinstance(c.try_ask("GET", "k"), harness.RespError)
        assert h.post("/undrain?backend=" + node.address).json()["ok"]
        wait_for("its answers", lambda: not isinstance(c.try_ask("GET", "k"), harness.RespError))


def test_a_reload_without_a_file(http):
    assert http.post("/reload").error(409)


def test_a_reload_changes_the_token_and_says_what_is_wrong(cluster):
    port, folder = harness.free_port(), harness.temporary_folder("puerta-token-")
    path = os.path.join(folder, "token")

    def write(token):
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as f:
            f.write(token + "\n")

    write(TOKEN)
    with Puerta(cluster, conf="[puerta]\nadmin = 127.0.0.1:%d\nadmin_token_file = %s\n[redis main]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\n" % (port, path)) as p:
        with Http(port, token=TOKEN) as h, Http(port, token="another") as other:
            assert other.get("/version").status == 401
            write("another")
            assert h.post("/reload").json()["ok"]
            assert h.get("/version").status == 401 and other.get("/version").status == 200
            with open(os.path.join(p.folder, "puerta.conf"), "a") as f:
                f.write("nonsense = 1\n")
            assert other.post("/reload").status in (400, 409) and other.get("/version").status == 200
        with Http(port, token="another") as h:  # who has gone is not told
            h.send(h.request("POST", "/reload"))
        wait_for("its end", lambda: counter_of(port, "reload_failures", "another") >= 1)
        with p.client() as c:
            assert c.ask("PING") == b"PONG"


# ---- unix sockets, both modes, the program ----

def test_a_unix_socket(cluster):
    folder = harness.temporary_folder("puerta-admin-")
    path = os.path.join(folder, "admin.sock")
    with Puerta(cluster, admin="unix:" + path) as p:
        with Http(path) as h:
            assert h.get("/status").json()["ready"]
            assert h.get("/healthz", Host="anything.example").status == 200  # no browser comes by a unix socket
            assert h.get("/status", Origin="http://evil.example").status == 403
            assert h.post("/slowlog/reset").status == 403
    with admin_of(cluster) as (p, port):
        pass


def test_two_addresses(cluster):
    a, b = harness.free_port(), harness.free_port()
    with Puerta(cluster, admin="127.0.0.1:%d,127.0.0.1:%d" % (a, b)), Http(a) as h, Http(b) as g:
        assert h.get("/healthz").status == g.get("/healthz").status == 200


def test_off_unless_set(cluster):
    with Puerta(cluster) as p:
        told = subprocess.run([p.arguments[0], "-t"] + p.arguments[1:], stdout=subprocess.PIPE, check=True).stdout.decode()
        assert not re.search(r"^admin =", told, re.M) and re.search(r"^# admin clients +0 ", told, re.M)


@pytest.fixture(scope="module")
def ferret():
    with mongo_harness.Ferret() as f:
        yield f


@pytest.mark.parametrize("mode", ["passthrough", "pooled"])
def test_mongo_mode(ferret, mode):
    port = harness.free_port()
    folder = harness.temporary_folder("puerta-token-")
    with open(os.open(os.path.join(folder, "t"), os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
        f.write(TOKEN)
    with mongo_harness.fronts(ferret, 2) as fronts, \
            MongoPuerta(list(fronts), process=dict(admin="127.0.0.1:%d" % port, admin_token_file=folder + "/t"), **dict(QUICK, mode=mode)) as p, \
            Http(port, token=TOKEN) as h, p.client() as c:
        for f in fronts:
            p.wait_state(f, "up")
        c.hello(app_name="tester")
        for i in range(5):
            assert c.ask({"insert": "admin", "documents": [{"_id": i}], "$db": "test"})["ok"]
        assert c.ask({"find": "admin", "$db": "test"})["ok"]
        said = h.get("/status").json()
        assert said["sections"] == [{"name": "main", "kind": "mongo", "mode": mode, "ready": True, "listen": [p.address], "clients": 1,
                                     "backends": 2, "backends_up": 2}]
        assert {b["name"] for b in said["backends"]} == {f.address for f in fronts} and all(b["kind"] == "mongo" and b["weight"] == 1 for b in said["backends"])
        assert sum(b["connections"] for b in said["backends"]) >= 1 and sum(b["in_flight"] for b in said["backends"]) == 0
        assert sum(b["answers"] for b in said["backends"]) >= 6
        (row,) = h.get("/clients").json()["clients"]
        assert row["section"] == "main" and row["doing"] in ("idle", "pinned") and row["address"] == "127.0.0.1:%d" % c.sock.getsockname()[1]
        assert (row["backend"] != "") == (mode == "passthrough")
        now = samples(h.get("/metrics").text())
        assert now['puerta_commands_total{kind="mongo",class="write"}'] == 5 and now['puerta_commands_total{kind="mongo",class="read"}'] == 1
        assert sum(v for k, v in now.items() if k.startswith("puerta_backend_response_seconds_count")) >= 6
        assert h.get("/slots").status == 404
        if PROMTOOL:
            told = subprocess.run([PROMTOOL, "check", "metrics"], input=h.get("/metrics").body, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert told.returncode == 0 and told.stdout == b"", told.stdout.decode()
        assert h.post("/drain?backend=" + fronts[0].address).json()["ok"]
        (row,) = [b for b in h.get("/status").json()["backends"] if b["name"] == fronts[0].address]
        assert row["hold"] == "drain"
