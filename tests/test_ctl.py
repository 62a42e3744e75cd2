"""puerta status, clients, top, drain, undrain, down, kill, reload, loglevel: against a running Puerta, and against liars at its address.

    puerta WORD --HTTP over TCP or a unix socket--> admin.c of a Puerta       | a script of this file that answers anything
    puerta top under a pty: what a terminal shows
"""
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest

import harness
from harness import BINARY, SLOW, Puerta, wait_for

TOKEN = "secret-token"
CONF = """[puerta]
admin = {admin}, unix:{{folder}}/admin
admin_token_file = {{folder}}/token
[redis main]
listen = 127.0.0.1:{{port}}
nodes = {{seeds}}
[mongo docs]
listen = unix:{{folder}}/docs
mongos = 127.0.0.1:1, 127.0.0.1:2
"""


def ctl(*words, **more):
    return subprocess.run([BINARY] + [str(w) for w in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=60 * SLOW, **more)


def lines(done):
    return done.stdout.decode().splitlines()


class Running(Puerta):
    def __init__(self, cluster, token=TOKEN):
        self.admin = "127.0.0.1:%d" % harness.free_port()
        folder = harness.temporary_folder("puerta-ctl-")
        self.token_file = os.path.join(folder, "token")
        with open(self.token_file, "w") as f:
            f.write(token + "\n")
        os.chmod(self.token_file, 0o600)
        conf = CONF.format(admin=self.admin).replace("{folder}/token", self.token_file)
        super().__init__(cluster, conf=conf)
        self.conf = os.path.join(self.folder, "puerta.conf")
        self.by_address = ["-a", self.admin, "-T", self.token_file]


@pytest.fixture(scope="module")
def running(cluster):
    with Running(cluster) as p:
        yield p


# ------------------------------------------------------------- the real thing

def rows_below(done, title):
    """Of the table whose first column has that title: its rows, split where columns are."""
    text = lines(done)
    at = next(i for i, line in enumerate(text) if line.startswith(title))
    names = re.split(r" {2,}", text[at].strip())
    rows = []
    for line in text[at + 1:]:
        if not line:
            break
        rows.append(dict(zip(names, re.split(r" {2,}", line.strip()))))
    return rows


@pytest.mark.parametrize("how", ["file behind", "file ahead", "address", "unix"])
def test_status(running, cluster, how):
    where = {"file behind": ["status", "-c", running.conf], "file ahead": ["-c", running.conf, "status"],
             "address": ["status"] + running.by_address, "unix": ["status", "-a", "unix:%s/admin" % running.folder, "-T", running.token_file]}[how]
    done = ctl(*where)
    assert (done.returncode, done.stderr) == (0, b""), done
    assert re.match(r"puerta \S+, process \d+, up \d+\w+.*, NOT READY, log level info, [\d.]+ MiB of memory$", lines(done)[0])
    assert {(r["SECTION"], r["KIND"], r["MODE"], r["READY"]) for r in rows_below(done, "SECTION")} == \
        {("main", "redis", "cluster", "yes"), ("docs", "mongo", "passthrough", "no")}
    servers = rows_below(done, "BACKEND")
    assert {(r["BACKEND"], r["STATE"], r["HELD"]) for r in servers} == \
        {(n.address, "up", "-") for n in cluster.masters} | {("127.0.0.1:1", "down", "-"), ("127.0.0.1:2", "down", "-")}
    assert any(r["TABLE"] == "clients" for r in rows_below(done, "TABLE"))
    widths = {len(line) for line in lines(done) if line.startswith("127.0.0.1")}
    assert max(widths) - min(widths) <= 8 and not any(line.endswith(" ") for line in lines(done))


def test_status_as_json(running):
    done = ctl("status", "-j", *running.by_address)
    assert done.returncode == 0
    status = json.loads(done.stdout)
    assert status["writable"] is True and len(status["backends"]) == 5


def test_clients(running):
    with running.client() as c:
        c.ask("CLIENT", "SETNAME", "shown")
        done = ctl("clients", *running.by_address)
        row = next(r for r in rows_below(done, "  ID" if lines(done)[1].startswith(" ") else "ID") if r["NAME"] == "shown")
        assert int(row["ID"]) == c.ask("CLIENT", "ID") and row["SECTION"] == "main"
        assert ctl("kill", *running.by_address, row["ID"]).returncode == 0
        assert c.at_end()
        done = ctl("kill", *running.by_address, row["ID"])
        assert done.returncode == 1 and b"no client has the number" in done.stderr and done.stdout == b""


def test_drain_undrain_down(running, cluster):
    done = ctl("drain", *running.by_address, "127.0.0.1:1")
    assert done.returncode == 0 and b"takes nothing new" in done.stdout and done.stderr == b""
    assert next(r for r in rows_below(ctl("status", *running.by_address), "BACKEND") if r["BACKEND"] == "127.0.0.1:1")["HELD"] == "drain"
    assert ctl("down", *running.by_address, "docs/127.0.0.1:1").returncode == 0
    assert ctl("undrain", *running.by_address, "127.0.0.1:1").returncode == 0
    done = ctl("drain", *running.by_address, cluster.masters[0].address)
    assert done.returncode == 1 and b"move its slots first" in done.stderr
    done = ctl("drain", *running.by_address, "no body & %?=\n:1")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1, done


def test_loglevel_and_reload(running):
    assert b"the log level is debug" in ctl("loglevel", *running.by_address, "debug").stdout
    assert ctl("loglevel", *running.by_address, "loud").returncode == 1
    assert ctl("loglevel", *running.by_address, "info").returncode == 0
    done = ctl("reload", *running.by_address)
    assert done.returncode in (0, 1) and (done.stdout or done.stderr).count(b"\n") == 1, done


def test_a_token_that_is_wrong(running, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("other\n")
    done = ctl("drain", "-a", running.admin, "-T", wrong, "127.0.0.1:1")
    assert done.returncode == 1 and done.stdout == b"" and done.stderr, done
    assert TOKEN.encode() not in done.stderr
    done = ctl("status", "-a", running.admin)
    assert done.returncode == 1 and done.stderr.startswith(b"puerta status: ") and b"-T TOKENFILE" in done.stderr


# -------------------------------------------------------------------- the words

@pytest.mark.parametrize("words", [["drain"], ["drain", "a", "b"], ["status", "now"], ["kill"], ["top", "x"], ["status", "-x"], ["status", "-a"],
                                   ["status", "-a", "nowhere"], ["drain", "x" * 2000], ["loglevel"]])
def test_words_that_are_wrong(words):
    done = ctl(*words)
    assert done.returncode == 64 and done.stdout == b"" and done.stderr, done


def test_files_that_are_wrong(tmp_path):
    assert ctl("status", "-c", tmp_path / "none").returncode == 78
    conf = tmp_path / "conf"
    conf.write_text("[redis main]\nnodes = 127.0.0.1:1\n")
    done = ctl("status", "-c", conf)
    assert done.returncode == 78 and b"admin" in done.stderr
    done = ctl("status", "-T", tmp_path / "none")
    assert done.returncode == 66 and b"No such file" in done.stderr
    (tmp_path / "empty").write_text("\n")
    assert ctl("status", "-T", tmp_path / "empty").returncode == 66


def test_nobody_there():
    done = ctl("status", "-a", "127.0.0.1:%d" % harness.free_port())
    assert done.returncode == 69 and b"refused" in done.stderr
    done = ctl("top", "-a", "127.0.0.1:%d" % harness.free_port())
    assert done.returncode == 69 and b"refused" in done.stderr
    assert ctl("status", "-a", "unix:/nonexistent/socket").returncode == 69


@pytest.mark.parametrize("behind", [True, False])
def test_options_stand_on_either_side(running, behind):
    done = ctl(*(["loglevel", "info"] + running.by_address if behind else ["loglevel"] + running.by_address + ["--", "info"]))
    assert (done.returncode, done.stderr) == (0, b""), done
    assert ctl("loglevel", "info", *running.by_address, "more").returncode == 64


def test_usage_names_all_words():
    usage = ctl("-h").stdout.decode()
    for word in ("status", "clients", "top", "drain", "undrain", "down", "kill", "reload", "loglevel"):
        assert re.search(r"puerta (\w+\|)*%s\b" % word, usage), word


# -------------------------------------------------------------------- the liars

@contextlib.contextmanager
def liar(answer, slow=0.0, ends=True):
    """Answers each connection with these bytes; keeps what was asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked, stop = [], threading.Event()

    def serve():
        with contextlib.suppress(OSError):
            while True:
                c = listener.accept()[0]
                c.settimeout(10)
                data = b""
                with contextlib.suppress(OSError):
                    while b"\r\n\r\n" not in data:
                        piece = c.recv(65536)
                        if not piece:
                            break
                        data += piece
                    asked.append(data)
                    if slow:
                        for i in range(len(answer)):
                            c.sendall(answer[i:i + 1])
                            time.sleep(slow)
                    else:
                        c.sendall(answer)
                    if not ends:
                        stop.wait(30)
                c.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield "127.0.0.1:%d" % listener.getsockname()[1], asked
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def http(body, status=b"200 OK", fields=b""):
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n" % len(body) + fields + b"\r\n" + body


def chunked(*parts):
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


GOOD = json.dumps({"version": "9", "pid": 7, "uptime_s": 90061, "ready": True, "log_level": "info", "memory_bytes": 1048576,
                   "sections": [{"name": "s", "kind": "redis", "ready": True, "clients": 3, "listen": ["a:1", "b:2"]}],
                   "backends": [{"name": "h:1", "section": "s", "state": "up", "hold": "drain", "since_s": 61.5, "answers": 5, "p50_us": 128, "p99_us": 2048}],
                   "gauges": {"clients": {"now": 1, "high": 2, "most": 3}}, "counters": {"requests": 10, "none": 0}}).encode()


@pytest.mark.parametrize("answer", [http(GOOD), chunked(GOOD), chunked(*[GOOD[i:i + 7] for i in range(0, len(GOOD), 7)]),
                                    b"HTTP/1.0 200 OK\r\n\r\n" + GOOD, http(b" " + GOOD + b"\r\n ")], ids=["length", "chunk", "chunks", "end", "blanks"])
def test_each_way_to_say_how_long_it_is(answer):
    with liar(answer) as (at, asked):
        done = ctl("status", "-a", at)
        assert done.returncode == 0, done
        assert lines(done)[0] == "puerta 9, process 7, up 1d 01h, ready, log level info, 1.0 MiB of memory"
        row = rows_below(done, "BACKEND")[0]
        assert (row["BACKEND"], row["HELD"], row["SINCE"], row["P50"], row["P99"]) == ("h:1", "drain", "1m 01s", "128 us", "2.0 ms")
        assert rows_below(done, "SECTION")[0]["LISTENS ON"] == "a:1 b:2"
        assert "none" not in done.stdout.decode() and re.search(r"requests +10$", done.stdout.decode(), re.M)
        head = asked[0].split(b"\r\n")
        assert head[0] == b"GET /status HTTP/1.1" and b"Host: " + at.encode() in head and b"Connection: close" in head


def test_what_is_asked(tmp_path):
    token = tmp_path / "token"
    token.write_text("abc def\n")
    with liar(http(b'{"ok":true,"text":"done so"}')) as (at, asked):
        done = ctl("drain", "-a", at, "-T", token, "a/b c:1&x=%\xe4")
        assert (done.returncode, done.stdout) == (0, b"done so\n"), done
        head = asked[0].split(b"\r\n")
        assert head[0] == b"POST /drain?backend=a%2Fb%20c%3A1%26x%3D%25%C3%A4 HTTP/1.1"
        assert b"Authorization: Bearer abc def" in head and b"Content-Length: 0" in head


BAD = {
    "nothing": b"", "no http": b"-ERR what\r\n", "half a head": b"HTTP/1.1 200 OK\r\nContent-Le", "no status": b"HTTP/1.1 OK\r\n\r\n{}",
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "a length of nothing": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
    "a great length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
    "minus": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
    "no chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", "a great chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "a chunk too long": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}\r\n0\r\n\r\n", "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "a chunk without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n", "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "a NUL in the head": b"HTTP/1.1 200 OK\r\n\0\r\n\r\n{}", "too much": b"HTTP/1.1 200 OK\r\n\r\n[" + b"1," * (1 << 20),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_answer(what):
    with liar(BAD[what]) as (at, _):
        done = ctl("status", "-a", at)
        assert done.returncode == 69 and done.stdout == b"" and done.stderr.count(b"\n") == 1, done


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"[" * 100000, b'{"a":1}}', b'{"a":"\x1b"}', b"\xff\xfe", b'{"version":"\\ud800'])
def test_what_is_no_json(body):
    with liar(http(body)) as (at, _):
        done = ctl("status", "-a", at)
        assert done.returncode == 76 and done.stdout == b"" and done.stderr.count(b"\n") == 1, done


@pytest.mark.parametrize("body", [b"1", b"[]", b'"x"', b"null", b"{}", b'{"backends":1,"sections":"x","gauges":[[]],"counters":[1,2]}',
                                  b'{"backends":[1,"x",null,[],{}],"sections":[{"name":{"a":1}}],"gauges":{"a":1,"b":null},"counters":{"x":"y"}}',
                                  b'{"backends":[{"name":"' + b"n" * 100000 + b'","answers":99999999999999999999999}],"version":"' + b"v" * 5000 + b'"}'])
def test_json_of_another_kind(body):
    """Whatever stands where something else is expected is shown as nothing, and cuts nothing else off."""
    with liar(http(body)) as (at, _):
        for words in (["status"], ["clients"], ["top"]):
            done = ctl(*words, "-a", at)
            assert done.returncode == 0 and done.stderr == b"", (words, done)
            assert all(len(line) < 1100 for line in lines(done))


def test_very_many_servers_that_were_never_there():
    """Each was to be searched for among all there were before: top would have been at that for hours, deaf to Ctrl-C."""
    with liar(http(b'{"backends":[' + b"{}," * 100000 + b"{}]}")) as (at, _):
        done = ctl("top", "-a", at)
        assert done.returncode == 0 and len(lines(done)) > 100000


def test_nothing_reaches_the_terminal_as_it_came():
    bad = "\x1b[2J\x07\x9b1m\r\nfake"
    body = json.dumps({"version": bad, "log_level": bad, "sections": [{"name": bad, "listen": [bad]}], "backends": [{"name": bad, "state": bad}],
                       "gauges": {bad: {"now": 1}}, "counters": {bad: 7}, "clients": [{"id": 1, "name": bad, "address": bad, "doing": bad}]}).encode()
    for words in (["status"], ["clients"], ["top"]):
        with liar(http(body)) as (at, _):
            out = ctl(*words, "-a", at).stdout
            assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", out), out
            assert not any(line.startswith(b"fake") for line in out.splitlines())
    with liar(http(json.dumps({"error": bad}).encode(), b"409 Conflict")) as (at, _):
        done = ctl("drain", "-a", at, "x:1")
        assert done.returncode == 1 and b"\x1b" not in done.stderr and done.stderr.count(b"\n") == 1


def test_who_never_ends_is_left():
    with liar(http(GOOD)[:-5], ends=False) as (at, _):
        begun = time.monotonic()
        done = ctl("status", "-a", at)
        assert done.returncode == 69 and b"in time" in done.stderr
        assert 9 < time.monotonic() - begun < 20 * SLOW


# --------------------------------------------------------------------------- top

class Terminal:
    """A program under a pty of that size; what it has written, and what a screen of it shows."""

    def __init__(self, words, columns=100, rows=30):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(BINARY, [BINARY] + words)
        self.size(columns, rows)
        self.text = b""

    def size(self, columns, rows):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self):
        while select.select([self.fd], [], [], 0)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                break
            if not data:
                break
            self.text += data
        return self.text

    def frames(self):
        """Whole screens so far, as lines without what is no text."""
        parts = self.read().split(b"\x1b[H")[1:]
        return [re.sub(rb"\x1b\[[?\d]*[a-zA-Z]", b"", p.split(b"\x1b[J")[0]).decode().split("\r\n")[:-1] for p in parts if b"\x1b[J" in p]

    def next_frame(self, fits=lambda frame: True):
        seen = len(self.frames())
        return wait_for("the next frame", lambda: next((f for f in self.frames()[seen:] if fits(f)), None), 20)

    def echoes(self):
        return termios.tcgetattr(self.fd)[3] & (termios.ECHO | termios.ICANON) == termios.ECHO | termios.ICANON

    def type(self, data):
        os.write(self.fd, data)

    def wait(self):
        def ended():
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return pid and (os.waitstatus_to_exitcode(status), self.read())
        return wait_for("its end", ended, 10)


def test_top_on_a_terminal(running, cluster):
    terminal = Terminal(["top"] + running.by_address)
    with running.client() as c:
        frame = terminal.next_frame(lambda f: "a second:" in f[1])
        title = next(line for line in frame if line.startswith("BACKEND"))
        assert frame[0].startswith("puerta ") and title.split()[1:4] == ["SECTION", "STATE", "ANSWERS/S"], "what says nothing is left out"
        assert not terminal.echoes()
        done = threading.Event()

        def ask():
            while not done.is_set():
                c.pipeline([("GET", cluster.key_on(0))] * 50)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            busy = terminal.next_frame(lambda f: int(re.search(r"(\d+) requests", f[1]).group(1)) > 100)
            row = next(line for line in terminal.next_frame() if line.startswith(cluster.masters[0].address))
            assert int(row.split()[3]) > 100, (row, busy)
        finally:
            done.set()
            thread.join()
        terminal.size(40, 12)
        small = terminal.next_frame(lambda f: len(f) <= 12)
        assert all(len(line) <= 40 for line in small) and len(small) <= 11
        assert re.search(rb"\r\n\d+ more lines\x1b\[J", terminal.read())
        terminal.type(b"x")
        assert terminal.next_frame()
        terminal.type(b"q")
        code, text = terminal.wait()
        assert terminal.echoes()
        assert code == 0 and text.endswith(b"\x1b[?25h\x1b[?1049l") and text.count(b"\x1b[?1049h") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_top_gives_the_terminal_back_at_a_signal(running, number):
    terminal = Terminal(["top"] + running.by_address)
    terminal.next_frame()
    os.kill(terminal.pid, number)
    code, text = terminal.wait()
    assert code == 0 and text.endswith(b"\x1b[?25h\x1b[?1049l")


def test_top_goes_on_when_puerta_is_gone_and_back(cluster):
    with Running(cluster) as p:
        terminal = Terminal(["top"] + p.by_address)
        terminal.next_frame(lambda f: f[0].startswith("puerta "))
        os.kill(p.worker(), signal.SIGKILL)
        wait_for("it to be there again", lambda: ctl("status", *p.by_address).returncode == 0)
        assert terminal.next_frame(lambda f: f[0].startswith("puerta "))
        terminal.type(b"q")
        assert terminal.wait()[0] == 0
    with liar(b"HTTP/1.1 500 No\r\n\r\n") as (at, _):
        terminal = Terminal(["top", "-a", at])
        assert terminal.next_frame(lambda f: "status 500" in f[0])
        terminal.type(b"q")
        assert terminal.wait()[0] == 0


def test_top_without_a_terminal(running):
    done = ctl("top", *running.by_address)
    assert done.returncode == 0 and b"\x1b" not in done.stdout and "a second:" in lines(done)[1]
    assert len(rows_below(done, "BACKEND")) == 5
    with liar(http(b'{"error":"no"}', b"401 Unauthorized")) as (at, _):
        done = ctl("top", "-a", at)
        assert done.returncode == 1 and b"status 401: no" in done.stderr
