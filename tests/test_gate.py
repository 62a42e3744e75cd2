"""Who may come in, and how fast: PROXY headers, allow and deny, limits by address; unix sockets and IPv6 at both ends.

    client --> HAProxy (send-proxy, send-proxy-v2) or a header written here --> Puerta --> a cluster, a plain server, scripted mongos

127.0.0.9 is the load balancer: whoever comes from there is trusted, and the tests' own 127.0.0.1 is not. Those who are behind it are of
192.0.2.0/24 and 2001:db8::/32.
"""
import contextlib
import os
import re
import socket
import stat
import struct
import subprocess
import threading
import time
import urllib.request

import pytest

import harness
import mongo_harness
from harness import RespClient, RespError, encode
from mongo_harness import QUICK, MongoClient, MongoPuerta

BALANCER = "127.0.0.9"
TRUSTING = {"accept_proxy": "yes", "trusted": BALANCER, "protected": "no"}
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def v1(source="192.0.2.7", port=51234, to="198.51.100.1"):
    return b"PROXY TCP%d %s %s %d 6379\r\n" % (6 if ":" in source else 4, source.encode(), to.encode(), port)


def v2(source="192.0.2.7", port=51234, to="198.51.100.1", tlvs=b"", command=0x21, checksum=False):
    kind = socket.AF_INET6 if ":" in source else socket.AF_INET
    body = socket.inet_pton(kind, source) + socket.inet_pton(kind, to) + struct.pack("!HH", port, 6379) + tlvs
    if checksum:
        body += b"\x03\0\x04\0\0\0\0"
    head = SIGNATURE + struct.pack("!BBH", command, 0x21 if ":" in source else 0x11, len(body))
    if checksum:
        body = body[:-4] + struct.pack("!I", crc32c(head + body))
    return head + body


def dial(port, source=BALANCER, first=b""):
    """A client of Redis that comes from that address of this machine, and begins with these bytes."""
    c = RespClient.__new__(RespClient)
    c.timeout = 20 * harness.SLOW
    c.buf = bytearray()
    c.sock = socket.create_connection(("127.0.0.1", port), c.timeout, (source, 0))
    c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if first:
        c.sock.sendall(first)
    return c


def mongo_dial(port, source=BALANCER, first=b""):
    c = MongoClient.__new__(MongoClient)
    c.timeout, c.last_id = 20 * harness.SLOW, 0
    c.sock = socket.create_connection(("127.0.0.1", port), c.timeout, (source, 0))
    c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if first:
        c.sock.sendall(first)
    return c


def addr(client):
    """The address that CLIENT INFO tells of it."""
    return re.search(r" addr=(\S+) ", client.ask("CLIENT", "INFO").decode()).group(1)


def counter(puerta, name):
    with puerta.client() as c:
        return int(re.search(r"^(?:puerta_)?%s:(\d+)\r?$" % name, c.ask("INFO", "everything").decode(), re.M).group(1))


def wait_counter(puerta, name, value):
    harness.wait_for("%s to be %d" % (name, value), lambda: counter(puerta, name) == value)


class HaProxy:
    """HAProxy as a TCP relay to one address, which it reaches from BALANCER."""

    def __init__(self, target, option, listen="127.0.0.1"):
        self.folder = harness.temporary_folder("puerta-haproxy-")
        self.port = harness.free_port()
        conf = os.path.join(self.folder, "haproxy.cfg")
        with open(conf, "w") as f:
            f.write("defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 300s\n    timeout server 300s\n"
                    "listen all\n    bind %s:%d\n    server p %s %s %s\n" %
                    (listen, self.port, target, option, "" if target.startswith("unix@") else "source " + BALANCER))
        self.log = os.path.join(self.folder, "log")
        self.process = harness.start([mongo_harness.HAPROXY, "-db", "-f", conf], self.log)
        harness.wait_for("HAProxy to listen; its log: " + self.log, self._listens)

    def _listens(self):
        assert self.process.poll() is None, "HAProxy ended: " + harness.read_file(self.log)[-2000:]
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 2).close()
            return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        harness.ended(self.process)


@pytest.fixture(scope="module")
def server():
    """One plain server."""
    node = harness.RedisNode(harness.temporary_folder("puerta-plain-"), harness.free_port(), {"save": "", "appendonly": "no"})
    node.start()
    yield node
    node.stop()


@pytest.fixture(scope="module", params=["cluster", "single"])
def behind(request, cluster, server):
    """What stands behind: the options that lead there."""
    return (cluster, {}) if request.param == "cluster" else ([server.address], {"topology": "single"})


@pytest.fixture(scope="module")
def trusting(behind):
    nodes, options = behind
    with harness.Puerta(nodes, **options, **TRUSTING) as p:
        yield p


@pytest.fixture(scope="module")
def plain(server):
    """Options of a Puerta before the plain server."""
    return lambda **options: harness.Puerta([server.address], **dict({"topology": "single"}, **options))


# ------------------------------------------------------------ PROXY headers


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id check inter 100"])
def test_haproxy_tells_the_real_address(trusting, option):
    with HaProxy("127.0.0.1:%d" % trusting.port, option) as h:
        with dial(h.port, source="127.0.0.1") as near, dial(h.port, source="127.0.0.3") as far:
            for c, host in ((near, "127.0.0.1"), (far, "127.0.0.3")):
                assert addr(c) == "%s:%d" % (host, c.sock.getsockname()[1])
                assert c.ask("SET", "k" + host, "v") == b"OK" and c.ask("GET", "k" + host) == b"v"
            listed = far.ask("CLIENT", "LIST").decode()
            assert "addr=127.0.0.3:%d " % far.sock.getsockname()[1] in listed and "addr=" + BALANCER not in listed


HEADERS = {
    "version 1": (v1(), "192.0.2.7:51234"),
    "version 1, IPv6": (v1("2001:db8::7", to="2001:db8::1"), "[2001:db8::7]:51234"),
    "version 1, IPv6 with an IPv4 address": (v1("::ffff:192.0.2.9", to="::1"), "[::ffff:192.0.2.9]:51234"),
    "version 1, longest": (b"PROXY TCP6 %s %s 65535 65535\r\n" % ((b"ffff:" * 8)[:-1], (b"ffff:" * 8)[:-1]), "[%s]:65535" % ("ffff:" * 8)[:-1]),
    "version 1, of nobody": (b"PROXY UNKNOWN\r\n", BALANCER),
    "version 1, of nobody, with addresses": (b"PROXY UNKNOWN 1.2.3.4 nonsense\r\n", BALANCER),
    "version 2": (v2(), "192.0.2.7:51234"),
    "version 2, IPv6": (v2("2001:db8::7", to="2001:db8::1"), "[2001:db8::7]:51234"),
    "version 2, datagrams": (SIGNATURE + b"\x21\x12\0\x0c" + v2()[16:], "192.0.2.7:51234"),
    "version 2, of nobody": (SIGNATURE + b"\x20\0\0\0", BALANCER),
    "version 2, a check of HAProxy": (SIGNATURE + b"\x20\x11\0\x0c" + b"\x01" * 12, BALANCER),
    "version 2, no family": (SIGNATURE + b"\x21\0\0\x03\x04\0\0", BALANCER),
    "version 2, a unix socket": (SIGNATURE + b"\x21\x31\0\xd8" + b"/run/client".ljust(108, b"\0") + b"/run/us".ljust(108, b"\0"), "unix:"),
    "version 2, TLVs": (v2(tlvs=b"\x02\0\x05hallo\x04\0\0\xe0\0\x01x"), "192.0.2.7:51234"),
    "version 2, checksum": (v2(tlvs=b"\x05\0\x02id", checksum=True), "192.0.2.7:51234"),
    "version 2, longest": (v2(tlvs=b"\x04\x01\xf9" + b"\0" * 505), "192.0.2.7:51234"),
}


@pytest.mark.parametrize("name", sorted(HEADERS))
@pytest.mark.parametrize("way", ["alone", "with requests", "byte by byte"])
def test_headers_of_every_kind(trusting, name, way):
    header, expected = HEADERS[name]
    with dial(trusting.port) as c:
        if way == "alone":
            c.send_raw(header)
            assert addr(c).startswith(expected)
        elif way == "with requests":
            c.send_raw(header + b"".join(encode("ECHO", str(i)) for i in range(50)) + encode("CLIENT", "INFO"))
            assert [c.read() for _ in range(50)] == [b"%d" % i for i in range(50)]
            assert " addr=" + expected in c.read().decode()
        else:
            for byte in header + encode("CLIENT", "INFO"):
                c.send_raw(bytes([byte]))
            assert " addr=" + expected in c.read().decode()


def broken(**changed):
    """A header of version 2 with some bytes set: at=value."""
    data = bytearray(v2(tlvs=b"\x05\0\x02id", checksum=True))
    for at, value in changed.items():
        data[int(at[1:])] = value
    return bytes(data)


BAD = {
    "a request": (encode("PING"), "proxy_missing"),
    "nearly a header": (b"PROXI TCP4 1.2.3.4 1.2.3.4 1 1\r\n", "proxy_missing"),
    "another signature": (b"\r\n\r\n\0\r\nQUIP\n" + b"\0" * 20, "proxy_missing"),
    "another version": (broken(b12=0x31), "proxy_malformed"),
    "another command": (broken(b12=0x22), "proxy_malformed"),
    "another family": (broken(b13=0x41), "proxy_malformed"),
    "a family without a transport": (broken(b13=0x10), "proxy_malformed"),
    "a wrong checksum": (broken(b39=1), "proxy_malformed"),
    "what the checksum covers": (broken(b17=9), "proxy_malformed"),
    "an address cut short": (SIGNATURE + b"\x21\x21\0\x0c" + b"\0" * 12, "proxy_malformed"),
    "a TLV cut short": (v2(tlvs=b"\x05\0\x03id"), "proxy_malformed"),
    "a TLV without a length": (v2(tlvs=b"\x05\0"), "proxy_malformed"),
    "two checksums": (v2(tlvs=b"\x03\0\x04\0\0\0\0", checksum=True), "proxy_malformed"),
    "537 bytes": (v2(tlvs=b"\x04\x01\xfa" + b"\0" * 506), "proxy_malformed"),
    "a line of 108 bytes": (b"PROXY UNKNOWN " + b"x" * 93 + b"\r\n", "proxy_malformed"),
    "a line without CR": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", "proxy_malformed"),
    "CR within the line": (b"PROXY TCP4 1.2.3.4\r 1.2.3.4 1 1\r\n", "proxy_malformed"),
    "two blanks": (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n", "proxy_malformed"),
    "a blank behind": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", "proxy_malformed"),
    "a port too many": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "proxy_malformed"),
    "a zero ahead": (b"PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n", "proxy_malformed"),
    "three numbers": (b"PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n", "proxy_malformed"),
    "IPv6 in TCP4": (b"PROXY TCP4 ::1 ::1 1 1\r\n", "proxy_malformed"),
    "IPv4 in TCP6": (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", "proxy_malformed"),
    "two gaps": (b"PROXY TCP6 1::2::3 ::1 1 1\r\n", "proxy_malformed"),
    "nine groups": (b"PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 1\r\n", "proxy_malformed"),
    "a colon at the end": (b"PROXY TCP6 1:2:3:4:5:6:7: ::1 1 1\r\n", "proxy_malformed"),
    "UDP": (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", "proxy_malformed"),
    "UNKNOWNX": (b"PROXY UNKNOWNX\r\n", "proxy_malformed"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_headers_are_closed_and_counted(trusting, name):
    header, kind = BAD[name]
    before = counter(trusting, kind)
    with dial(trusting.port, first=header) as c:
        assert c.at_end()
    wait_counter(trusting, kind, before + 1)


def test_a_header_that_breaks_off(trusting):
    before = counter(trusting, "proxy_malformed")
    with dial(trusting.port, first=v2()[:20]) as c:
        c.sock.shutdown(socket.SHUT_WR)
        assert c.at_end()
    wait_counter(trusting, "proxy_malformed", before + 1)


def test_who_only_looks_whether_the_port_is_open_is_not_counted(trusting):
    names = ("proxy_missing", "proxy_malformed", "proxy_late", "proxy_headers", "clients_accepted")
    before = [counter(trusting, n) for n in names[:-1]]
    for _ in range(3):
        dial(trusting.port).close()
    with dial(trusting.port, first=v1()) as c:
        c.ask("PING")  # it came behind those
    assert [counter(trusting, n) for n in names[:-1]] == before[:3] + [before[3] + 1]


def test_a_header_from_who_is_not_trusted(trusting):
    for header in (v1(), v2(), b"PROXY UNKNOWN\r\n"):
        before = counter(trusting, "proxy_untrusted")
        with dial(trusting.port, source="127.0.0.1", first=header + encode("PING")) as c:
            assert c.at_end()
        wait_counter(trusting, "proxy_untrusted", before + 1)
    with dial(trusting.port, source="127.0.0.1") as c:
        assert addr(c).startswith("127.0.0.1:")


def test_a_second_header_is_a_request(trusting):
    with dial(trusting.port, first=v1() + v1("192.0.2.8")) as c:
        assert isinstance(c.read(), RespError)
        assert addr(c) == "192.0.2.7:51234"


def test_a_slow_header_holds_up_nobody_and_ends(trusting):
    before = counter(trusting, "proxy_late")
    with dial(trusting.port, first=b"PROXY TC") as slow, dial(trusting.port, first=v1()) as c:
        begun = time.monotonic()
        c.ask("PING")
        assert slow.at_end(timeout=10)
        assert time.monotonic() - begun > 4
    wait_counter(trusting, "proxy_late", before + 1)


def test_no_more_of_them_than_there_is_room_for(server):
    conf = ("[puerta]\nmax_clients = 8\n[redis main]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\ntopology = single\nprotected = no\n"
            "accept_proxy = yes\ntrusted = %s\n" % BALANCER)
    with harness.Puerta([server.address], conf=conf) as p, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(dial(p.port, first=b"PROXY ")) for _ in range(8)]
        with dial(p.port, first=v1()) as c:
            assert c.at_end()
        wait_counter(p, "proxy_full", 1)
        for c in waiting:
            c.send_raw(v1()[6:] + encode("PING"))
        answers = [c.read() for c in waiting]
        assert answers.count(b"PONG") >= 7, answers  # who has asked for the counter may not be seen to have gone
        for c in waiting:
            c.close()

        def served():
            with dial(p.port, first=v1() + encode("PING")) as c:
                return c.read() == b"PONG"
        harness.wait_for("their places to be free", served)


def test_wrong_guesses_are_those_of_the_real_address(plain):
    with plain(wait=False, password="secret", **TRUSTING) as p:
        harness.wait_for("puerta to serve", lambda: "msg=serving" in p.log_text() or 'msg="serving"' in p.log_text())
        def guess(source):
            with dial(p.port, first=v1(source)) as c:
                begun = time.monotonic()
                assert isinstance(c.try_ask("AUTH", "wrong"), RespError)
                return time.monotonic() - begun
        for _ in range(7):
            guess("192.0.2.66")
        assert guess("192.0.2.66") > 0.35
        assert guess("192.0.2.67") < 0.35
        assert 'msg="wrong user or password" client=192.0.2.66:51234' in p.log_text() and "client=" + BALANCER not in p.log_text()


def test_protected_mode_asks_for_the_real_address(plain):
    with plain(accept_proxy="yes", trusted=BALANCER) as p:
        with dial(p.port, first=v1("127.0.0.1") + encode("PING")) as c:
            assert c.read() == b"PONG"
        for header in (v1("192.0.2.7"), v2("2001:db8::7", to="::1")):
            with dial(p.port, first=header) as c:
                assert c.read().text.startswith("DENIED")
        assert counter(p, "clients_denied") == 2


def own_address():
    """An address of this machine that is no loopback one; None: it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, contextlib.suppress(OSError):
        s.connect(("192.0.2.1", 9))
        return s.getsockname()[0] if not s.getsockname()[0].startswith("127.") else None
    return None


def test_another_machines_loopback_is_not_ours(server):
    """A trusted load balancer elsewhere passes on one of its own machine's clients."""
    host = own_address()
    if host is None:
        pytest.skip("this machine has no address but loopback")
    conf = ("[redis main]\nlisten = 127.0.0.1:{port}, %s:{port}\nnodes = {seeds}\ntopology = single\naccept_proxy = yes\ntrusted = %s\n" % (host, host))
    with harness.Puerta([server.address], conf=conf) as p:
        for header in (v1("127.0.0.1"), v2("::1", to="::1"), SIGNATURE + b"\x21\x31\0\xd8" + b"\0" * 216, b"PROXY UNKNOWN\r\n"):
            with RespClient(p.port, host=host) as c:
                c.send_raw(header)
                assert c.read().text.startswith("DENIED"), header


# ------------------------------------------------------------ allow and deny


def comes_in(port, source, header=b""):
    with dial(port, source=source, first=header + encode("PING")) as c:
        try:
            return c.read() == b"PONG"
        except (EOFError, ConnectionError):
            return False


def test_deny_is_looked_at_before_allow(plain):
    with plain(allow="127.0.0.0/29,192.0.2.0/24", deny="127.0.0.4/31", protected="no") as p:
        seen = {n: comes_in(p.port, "127.0.0.%d" % n) for n in (1, 3, 4, 5, 6, 8, 12)}
        assert seen == {1: True, 3: True, 4: False, 5: False, 6: True, 8: False, 12: False}
        assert counter(p, "clients_unwelcome") == 4


def test_they_look_at_the_real_address(plain):
    with plain(**TRUSTING, allow="192.0.2.0/24, 2001:db8::/32,127.0.0.1", deny="192.0.2.128/25, 2001:db8:0:8000::/49") as p:
        for source, fine in (("192.0.2.7", True), ("192.0.2.127", True), ("192.0.2.128", False), ("198.51.100.1", False), ("2001:db8::1", True),
                             ("2001:db8:0:8000::1", False), ("2001:db9::1", False), ("::ffff:192.0.2.7", True), ("::ffff:192.0.2.200", False)):
            assert comes_in(p.port, BALANCER, v1(source, to="::1" if ":" in source else "127.0.0.1")) == fine, source
        assert not comes_in(p.port, BALANCER, b"PROXY UNKNOWN\r\n")
        assert comes_in(p.port, "127.0.0.1")


def test_unix_sockets_may_be_denied(server):
    conf = "[redis main]\nlisten = 127.0.0.1:{port}, unix:{folder}/s\nnodes = {seeds}\ntopology = single\ndeny = unix\n"
    with harness.Puerta([server.address], conf=conf) as p:
        with unix_dial(os.path.join(p.folder, "s")) as c:
            assert c.at_end()
        assert counter(p, "clients_unwelcome") == 1


# ------------------------------------------------------------------- limits


def test_connections_of_one_address(plain):
    with plain(max_per_address=4) as p, contextlib.ExitStack() as stack:
        several = [stack.enter_context(dial(p.port, source="127.0.0.7")) for _ in range(4)]
        for c in several:
            c.ask("PING")
        with dial(p.port, source="127.0.0.7") as c:
            assert c.read().text == "ERR max number of clients reached for this address"
            assert c.at_end()
        assert comes_in(p.port, "127.0.0.8")
        several[0].close()
        harness.wait_for("a place of that address to be free", lambda: comes_in(p.port, "127.0.0.7"))
        assert all(c.ask("PING") == b"PONG" for c in several[1:])


def test_many_addresses_in_turn(plain):
    """More than there are entries: who has left gives way, who is there does not."""
    with plain(**TRUSTING, max_per_address=1) as p:
        with dial(p.port, first=v1("192.0.2.1") + encode("PING")) as stays:
            assert stays.read() == b"PONG"
            for i in range(5000):
                with dial(p.port, first=v2("10.%d.%d.1" % (i // 250, i % 250)) + encode("PING")) as c:
                    assert c.read() == b"PONG"
            with dial(p.port, first=v1("192.0.2.1")) as c:
                assert c.read().text.startswith("ERR max number of clients")


def timed(work):
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def test_requests_are_delayed_and_none_is_lost(behind):
    nodes, options = behind
    with harness.Puerta(nodes, wait=False, request_rate=50, **options) as p:
        p.wait_ready()
        with dial(p.port, source="127.0.0.7") as c, dial(p.port, source="127.0.0.8") as other:
            def ask():
                c.send_raw(b"".join(encode("SET", "k%d" % i, i) + encode("GET", "k%d" % i) for i in range(75)))
                assert [c.read() for _ in range(150)] == [x for i in range(75) for x in (b"OK", b"%d" % i)]
            def beside():
                for _ in range(20):
                    other.ask("PING")
            took = [0]
            thread = threading.Thread(target=lambda: took.__setitem__(0, timed(ask)))
            thread.start()
            assert timed(beside) < 1.5 * harness.SLOW
            thread.join()
            assert 1.8 < took[0] < 2.6 + 3 * (harness.SLOW - 1)  # 50 at once, 100 at 50 a second
        assert counter(p, "limit_delayed") >= 90 and counter(p, "limit_refused") == 0


def test_a_client_that_sends_no_more_hears_all_that_it_asked(plain):
    with plain(request_rate=100) as p, dial(p.port, source="127.0.0.7") as c:
        c.send_raw(b"".join(encode("ECHO", i) for i in range(180)))
        c.sock.shutdown(socket.SHUT_WR)
        assert [c.read() for _ in range(180)] == [b"%d" % i for i in range(180)]
        assert c.at_end()


def test_clients_of_one_address_share_its_rate(plain):
    with plain(request_rate=40) as p, contextlib.ExitStack() as stack:
        several = [stack.enter_context(dial(p.port, source="127.0.0.7")) for _ in range(8)]
        def ask():
            for c in several:
                c.send_raw(encode("PING") * 15)
            for c in several:
                assert [c.read() for _ in range(15)] == [b"PONG"] * 15
        assert 1.8 < timed(ask) < 2.8 + 3 * (harness.SLOW - 1)  # 120 requests, 40 of them at once


def test_requests_are_refused(plain):
    with plain(request_rate=10, limit_action="error") as p, dial(p.port, source="127.0.0.7") as c:
        got = c.pipeline([("PING",)] * 30)
        assert got[:10] == [b"PONG"] * 10
        assert all(isinstance(r, RespError) and r.text == "ERR too many requests from this address (request_rate, byte_rate)" for r in got[10:])
        harness.wait_for("a request to be let in again", lambda: c.try_ask("PING") == b"PONG", pause=0.05)
        assert counter(p, "limit_refused") >= 20


def test_a_refused_command_spoils_its_transaction(plain):
    with plain(request_rate=5, limit_action="error") as p, dial(p.port, source="127.0.0.7") as c:
        got = c.pipeline([("MULTI",)] + [("SET", "spoilt", i) for i in range(8)] + [("EXEC",), ("QUIT",)])
        assert got[0] == b"OK" and got[1:5] == [b"QUEUED"] * 4 and all(isinstance(r, RespError) for r in got[5:9])
        assert got[9].text.startswith("EXECABORT") and got[10] == b"OK"


def test_bytes_are_delayed_both_ways(plain):
    value = b"x" * 50000
    with plain(byte_rate="200k") as p:
        with dial(p.port, source="127.0.0.7") as c:
            def send():
                for _ in range(12):
                    c.ask("SET", "big", value)
            assert 1.6 < timed(send) < 3.5 * harness.SLOW  # 600,000 bytes, 204,800 of them at once
        with dial(p.port, source="127.0.0.8") as c:
            def receive():
                for _ in range(12):
                    assert c.ask("GET", "big") == value
            assert 1.6 < timed(receive) < 3.5 * harness.SLOW


def test_bytes_of_long_requests(plain):
    with plain(byte_rate="1m", retain_bytes="16k") as p, dial(p.port, source="127.0.0.7") as c:
        value = os.urandom(1 << 20) * 3
        assert timed(lambda: c.ask("SET", "long", value)) > 1.5
        assert harness.wait_for("its value", lambda: c.ask("GET", "long")) == value


def test_too_long_a_request(plain):
    with plain(request_limit="4k") as p:
        for data in (encode("SET", "k", "x" * 4200), encode("MSET", *["x" * 100] * 50), b"x" * 5000):
            before = counter(p, "requests_too_long")
            with dial(p.port, first=data) as c:
                assert c.read().text == "ERR Protocol error: request longer than request_limit"
                assert c.at_end()
            assert counter(p, "requests_too_long") == before + 1
        with dial(p.port) as c:
            assert c.ask("SET", "k", "x" * 4000) == b"OK"


def test_too_long_a_request_that_is_on_its_way(plain):
    with plain(request_limit="2m") as p:
        with dial(p.port) as c:
            assert c.ask("SET", "k", "x" * (1 << 20)) == b"OK"
            with contextlib.suppress(OSError):
                c.send_raw(encode(*["MSET"] + ["k", "x" * (1 << 19)] * 8))
            with pytest.raises((EOFError, ConnectionError)):
                c.read()
        assert counter(p, "requests_too_long") == 1


# ------------------------------------------------------- unix sockets, IPv6


def unix_dial(path, first=b""):
    c = RespClient.__new__(RespClient)
    c.timeout, c.buf = 20 * harness.SLOW, bytearray()
    c.sock = socket.socket(socket.AF_UNIX)
    c.sock.settimeout(c.timeout)
    c.sock.connect(path)
    if first:
        c.sock.sendall(first)
    return c


@pytest.mark.parametrize("mode", ["660", "600", "777", ""])
def test_permissions_of_a_unix_socket(server, mode):
    conf = "[redis main]\nlisten = 127.0.0.1:{port}, unix:{folder}/s\nnodes = {seeds}\ntopology = single\n" + ("socket_mode = %s\n" % mode if mode else "")
    with harness.Puerta([server.address], conf=conf) as p:
        path = os.path.join(p.folder, "s")
        umask = os.umask(0)
        os.umask(umask)
        assert stat.S_IMODE(os.stat(path).st_mode) == (int(mode, 8) if mode else 0o777 & ~umask)
        with unix_dial(path) as c:
            assert c.ask("PING") == b"PONG" and addr(c) == "unix:"


def test_a_dead_sockets_file_is_replaced_and_a_living_one_is_not(server):
    conf = "[redis main]\nlisten = 127.0.0.1:{port}, unix:%s\nnodes = {seeds}\ntopology = single\n"
    path = os.path.join(harness.temporary_folder("puerta-unix-"), "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with harness.Puerta([server.address], conf=conf % path):
        second = harness.Puerta([server.address], conf=conf % path, wait=False)
        harness.wait_for("the second to give up", lambda: not second.alive())
        assert "cannot listen on unix:" in second.log_text()
        second.stop(check=False)
        with unix_dial(path) as c:
            assert c.ask("PING") == b"PONG"


def test_a_plain_server_on_a_unix_socket():
    folder = harness.temporary_folder("puerta-unix-")
    path = os.path.join(folder, "r")
    node = harness.RedisNode(folder, harness.free_port(), {"save": "", "appendonly": "no", "unixsocket": path})
    node.start()
    try:
        with harness.Puerta(["unix:" + path], topology="single") as p, p.client() as c:
            assert c.ask("SET", "by", "unix") == b"OK" and node.ask("GET", "by") == b"unix"
    finally:
        node.stop()


def test_a_load_balancer_on_a_unix_socket(server):
    conf = "[redis main]\nlisten = 127.0.0.1:{port}, unix:{folder}/s\nnodes = {seeds}\ntopology = single\naccept_proxy = yes\ntrusted = unix\nprotected = no\n"
    with harness.Puerta([server.address], conf=conf) as p:
        for option in ("send-proxy", "send-proxy-v2"):
            with HaProxy("unix@%s/s" % p.folder, option) as h, dial(h.port, source="127.0.0.3") as c:
                assert addr(c) == "127.0.0.3:%d" % c.sock.getsockname()[1]


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as s:
        s.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


class Dial6(RespClient):
    """A client of Redis that comes over IPv6."""

    def __init__(self, port, host="::1"):
        self.timeout, self.buf = 20 * harness.SLOW, bytearray()
        self.sock = socket.create_connection((host, port), self.timeout)


@needs_ipv6
def test_ipv6_at_both_ends():
    folder = harness.temporary_folder("puerta-six-")
    node = harness.RedisNode(folder, harness.free_port(), {"save": "", "appendonly": "no", "bind": "127.0.0.1 ::1"})
    node.start()
    try:
        conf = ("[redis main]\nlisten = 127.0.0.1:{port}, [::1]:{port}\nnodes = [::1]:%d\ntopology = single\nannounce = [2001:db8::5]:7000\n"
                "allow = ::1/128, 127.0.0.1\n" % node.port)
        with harness.Puerta([node.address], conf=conf) as p, Dial6(p.port) as c:
            assert addr(c) == "[::1]:%d" % c.sock.getsockname()[1]
            assert c.ask("SET", "six", "yes") == b"OK" and node.ask("GET", "six") == b"yes"
            assert "[::1]:%d" % p.port in c.ask("CLIENT", "INFO").decode()
            assert " laddr=[::1]:" in node.ask("CLIENT", "LIST").decode()
            assert b"2001:db8::5" in c.ask("CLUSTER", "NODES") and c.ask("CLUSTER", "SLOTS")[0][2][:2] == [b"2001:db8::5", 7000]
    finally:
        node.stop()


@needs_ipv6
def test_an_address_with_a_scope():
    """Loopback is the one interface that is everywhere; whether it takes a scope is the system's business."""
    port = harness.free_port()
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", port, 0, socket.if_nametoindex("lo")))
    except OSError:
        pytest.skip("this system has no scope on loopback")
    done = subprocess.run([harness.BINARY, "-t", "redis", "[fe80::1%lo]:6379", "listen=[::1%%lo]:%d" % port, "topology=single"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=20 * harness.SLOW, check=False)
    assert done.returncode == 0 and "listen = [::1%%%d]:%d" % (socket.if_nametoindex("lo"), port) in done.stdout.decode()


# ------------------------------------------------------------------ MongoDB


MODES = {"passthrough": {}, "pooled": {"mode": "pooled"}}


@pytest.fixture(params=sorted(MODES))
def mode(request):
    return MODES[request.param]


def you(client):
    """Where pooled mode's connectionStatus-like `whatsmyuri` says that it comes from."""
    return client.ask({"whatsmyuri": 1})["you"]


def test_mongo_header_with_a_message_behind_it(mongoses, mode):
    with MongoPuerta(mongoses, accept_proxy="yes", trusted=BALANCER, protected="no", **mode, **QUICK) as p:
        for header in (v1(), v2(checksum=True), v1("2001:db8::1", to="::1")):
            with mongo_dial(p.port, first=header) as c:
                assert c.hello()["ok"] == 1 and c.ask({"ping": 1})["ok"] == 1
        with mongo_dial(p.port) as c:
            for byte in v2() + mongo_harness.wire.op_msg({"hello": 1, "$db": "admin"}, 1):
                c.send_raw(bytes([byte]))
            assert c.read().body["ok"] == 1
        with mongo_dial(p.port, source="127.0.0.1") as c:
            assert c.hello()["ok"] == 1
        with mongo_dial(p.port, source="127.0.0.1", first=v1()) as c, pytest.raises((EOFError, ConnectionError)):
            c.hello()
        if mode:
            with mongo_dial(p.port, first=v1()) as c:
                c.hello()
                assert you(c) == "192.0.2.7:51234"


def test_mongo_behind_haproxy(mongoses):
    with MongoPuerta(mongoses, accept_proxy="yes", trusted=BALANCER, mode="pooled", protected="no", **QUICK) as p:
        for option in ("send-proxy", "send-proxy-v2"):
            with HaProxy("127.0.0.1:%d" % p.port, option) as h, mongo_dial(h.port, source="127.0.0.3") as c:
                c.hello()
                assert you(c) == "127.0.0.3:%d" % c.sock.getsockname()[1]


def front_of(cluster, name):
    """The front at which the client of that appName is."""
    for i, front in enumerate(cluster):
        if any(c.app_name == name for c in front.clients):
            return i
    return None


def test_affinity_follows_the_real_address(mongoses):
    with MongoPuerta(mongoses, accept_proxy="yes", trusted=BALANCER, affinity="source", balance="round-robin", **QUICK) as p, contextlib.ExitStack() as stack:
        for front in mongoses:
            p.wait_state(front, "up")
        places = {}
        for n in range(6):
            for k in range(3):
                c = stack.enter_context(mongo_dial(p.port, first=v2("192.0.2.%d" % n)))
                c.hello(app_name="n%dk%d" % (n, k))
                places.setdefault(n, set()).add(front_of(mongoses, "n%dk%d" % (n, k)))
        assert all(len(s) == 1 and None not in s for s in places.values()), places
        assert len(set.union(*places.values())) == 3, places


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_mongo_header_out(mongoses, version):
    with MongoPuerta(mongoses.load_balancer_addresses, mode="loadbalanced", upstream_proxy=version, accept_proxy="yes", trusted=BALANCER, **QUICK) as p:
        for header, source in ((v1("192.0.2.7"), "192.0.2.7"), (v2("2001:db8::9", to="::1"), "2001:db8::9")):
            with mongo_dial(p.port, first=header) as c:
                c.hello(app_name=source, loadBalanced=True)
                seen = [x.proxy for f in mongoses for x in f.clients if x.app_name == source]
                assert len(seen) == 1 and seen[0][:2] == (source, 51234)
                assert seen[0][2] == ("127.0.0.1" if version and "." in source else "::ffff:127.0.0.1") and seen[0][3] == p.port
        with mongo_dial(p.port, source="127.0.0.1") as c:
            c.hello(app_name="direct", loadBalanced=True)
            assert [x.proxy[:2] for f in mongoses for x in f.clients if x.app_name == "direct"] == [c.sock.getsockname()]


def test_mongo_requests_are_delayed(mongoses, mode):
    with MongoPuerta(mongoses, request_rate=20, **mode, **QUICK) as p, mongo_dial(p.port, source="127.0.0.7") as c, \
            mongo_dial(p.port, source="127.0.0.8") as other:
        c.hello()
        other.hello()
        def ask():
            for _ in range(60):
                assert c.ask({"ping": 1})["ok"] == 1
        took = [0]
        thread = threading.Thread(target=lambda: took.__setitem__(0, timed(ask)))
        thread.start()
        assert timed(lambda: [other.ask({"ping": 1}) for _ in range(10)]) < 1.5 * harness.SLOW
        thread.join()
        assert 1.8 < took[0] < 3 + 3 * (harness.SLOW - 1)


def test_mongo_messages_behind_each_other_are_all_answered(mongoses, mode):
    with MongoPuerta(mongoses, request_rate=20, **mode, **QUICK) as p, mongo_dial(p.port, source="127.0.0.7") as c:
        c.hello()
        sent = [c.send({"ping": 1}) for _ in range(50)]
        assert [c.read().response_to for _ in sent] == sent


def test_mongo_requests_are_refused(mongoses, mode):
    port = harness.free_port()
    with MongoPuerta(mongoses, request_rate=5, limit_action="error", process={"admin": "127.0.0.1:%d" % port}, **mode, **QUICK) as p, \
            mongo_dial(p.port, source="127.0.0.7") as c:
        c.hello()
        got = [c.ask({"ping": 1}) for _ in range(15)]
        assert all(r["ok"] == 1 for r in got[:5])
        assert sum(r["ok"] == 0 for r in got) >= 8
        refused = next(r for r in got if r["ok"] == 0)
        assert refused["code"] == 462 and refused["codeName"] == "IngressRequestRateLimitExceeded" and refused["errorLabels"] == ["SystemOverloadedError"]
        assert c.ask({"hello": 1})["ok"] == 1
        harness.wait_for("a request to be let in again", lambda: c.ask({"ping": 1})["ok"] == 1, pause=0.1)
        long = {"insert": "c", "documents": [{"x": "y" * 300000}]}
        for _ in range(10):
            answer = c.ask(long)
        with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % port, timeout=10 * harness.SLOW) as r:
            told = re.search(r'errors_total\{error="IngressRequestRateLimitExceeded"\} (\d+)', r.read().decode())
        assert told and int(told.group(1)) >= 8
        assert answer["code"] == 462 and c.ask({"hello": 1})["ok"] == 1


def test_mongo_bytes_are_delayed(mongoses, mode):
    with MongoPuerta(mongoses, byte_rate="100k", **mode, **QUICK) as p, mongo_dial(p.port, source="127.0.0.7") as c:
        c.hello()
        def send():
            for _ in range(15):
                c.ask({"ping": 1, "comment": "x" * 20000})
        assert 1.5 < timed(send) < 4 * harness.SLOW


def test_mongo_too_long_a_message(mongoses, mode):
    with MongoPuerta(mongoses, request_limit="16k", **mode, **QUICK) as p:
        with mongo_dial(p.port) as c:
            c.hello()
            assert c.ask({"ping": 1, "comment": "x" * 10000})["ok"] == 1
            answer = c.ask({"ping": 1, "comment": "x" * 20000})
            assert (answer["ok"], answer["code"], answer["codeName"]) == (0, 10334, "BSONObjectTooLarge")
            with pytest.raises((EOFError, ConnectionError)):
                c.ask({"ping": 1})


def test_mongo_connections_of_one_address(mongoses, mode):
    with MongoPuerta(mongoses, max_per_address=2, **mode, **QUICK) as p, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(mongo_dial(p.port, source="127.0.0.7")).hello()
        with mongo_dial(p.port, source="127.0.0.7") as c, pytest.raises((EOFError, ConnectionError)):
            c.hello()
        with mongo_dial(p.port, source="127.0.0.8") as c:
            assert c.hello()["ok"] == 1


class UnixRelay:
    """A unix socket before a mongos' port."""

    def __init__(self, address):
        self.path = os.path.join(harness.temporary_folder("puerta-unix-"), "m")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        host, _, port = address.rpartition(":")
        self.target = (host, int(port))
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                a, b = self.listener.accept()[0], socket.create_connection(self.target)
                for x, y in ((a, b), (b, a)):
                    threading.Thread(target=self.pump, args=(x, y), daemon=True).start()

    @staticmethod
    def pump(x, y):
        with contextlib.suppress(OSError):
            while data := x.recv(65536):
                y.sendall(data)
            y.shutdown(socket.SHUT_WR)


def test_mongos_and_clients_on_unix_sockets(mongoses, mode):
    relay = UnixRelay(mongoses[0].address)
    folder = harness.temporary_folder("puerta-unix-")
    conf = "[mongo main]\nlisten = 127.0.0.1:{port}, unix:%s/s\nsocket_mode = 600\nmongos = {mongos}\nprobe_interval = 200ms\nrise = 1\n%s" % (
        folder, "mode = pooled\n" if mode else "")
    with MongoPuerta(["unix:" + relay.path], conf=conf) as p:
        with mongo_dial(p.port, source="127.0.0.1") as c:
            assert c.hello()["ok"] == 1 and c.ask({"ping": 1})["ok"] == 1
        with mongo_dial(p.port, source="127.0.0.1") as c:
            c.close()
            c.sock = socket.socket(socket.AF_UNIX)
            c.sock.connect(folder + "/s")
            assert c.hello()["ok"] == 1 and c.ask({"ping": 1})["ok"] == 1
        assert stat.S_IMODE(os.stat(folder + "/s").st_mode) == 0o600


@needs_ipv6
def test_mongo_over_ipv6(mongoses, mode):
    target = mongoses[0].address
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    relay = UnixRelay.__new__(UnixRelay)
    relay.listener, relay.target = listener, ("127.0.0.1", int(target.rpartition(":")[2]))
    threading.Thread(target=relay.run, daemon=True).start()
    conf = "[mongo main]\nlisten = 127.0.0.1:{port}, [::1]:{port}\nmongos = {mongos}\nprobe_interval = 200ms\nrise = 1\n%s" % ("mode = pooled\n" if mode else "")
    with MongoPuerta(["[::1]:%d" % listener.getsockname()[1]], conf=conf) as p:
        c = MongoClient.__new__(MongoClient)
        c.timeout, c.last_id = 20 * harness.SLOW, 0
        c.sock = socket.create_connection(("::1", p.port), c.timeout)
        with c:
            assert c.hello()["ok"] == 1 and c.ask({"ping": 1})["ok"] == 1
