"""What the tests of MongoDB mode stand on: a real database, scripted mongos before it, HAProxy to compare with, a small raw client.

    MongoClient(raw) --> fake.mongos.Front (several, in this process) --> Ferret (FerretDB with SQLite, temporary folder, loopback)
    drivers (tests/clients, each in a process of its own) --> HaProxy (TCP round-robin) --> the fronts

FerretDB is built by tests/setup.sh into build/tests/ferretdb. Processes are started and ended as tests/harness.py does it.
"""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import bson
import harness
from fake import mongos, wire

FERRETDB = os.path.abspath(os.environ.get("FERRETDB", os.path.join(harness.ROOT, "build", "tests", "ferretdb")))
HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
CLIENTS = os.path.join(harness.ROOT, "tests", "clients")
# Tests need quick verdicts; the defaults are for real networks.
QUICK = dict(probe_interval="200ms", probe_timeout="500ms" if harness.SLOW == 1 else "2s", rise=1, dial_timeout="1s", slow_start=0)
NODE_HOME = os.path.join(harness.ROOT, "build", "node")


class Ferret:
    """One FerretDB; its data are gone when it is closed."""

    def __init__(self):
        assert os.path.exists(FERRETDB), FERRETDB + " is missing: check.sh builds it (tests/setup.sh, need_ferretdb)"
        self.folder = harness.temporary_folder("puerta-ferretdb-")
        os.mkdir(os.path.join(self.folder, "data"))
        self.port = harness.free_port()
        self.log = os.path.join(self.folder, "log")
        self.process = harness.start([FERRETDB, "127.0.0.1:%d" % self.port, os.path.join(self.folder, "data")], self.log)
        harness.wait_for("FerretDB to answer; its log: " + self.log, self._answers)

    def _answers(self):
        assert self.process.poll() is None, "FerretDB ended: " + harness.read_file(self.log)[-2000:]
        with contextlib.suppress(OSError):
            with MongoClient(self.port, timeout=2) as c:
                return c.ask({"ping": 1})["ok"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def address(self):
        return "127.0.0.1:%d" % self.port

    @property
    def uri(self):
        return "mongodb://%s/?directConnection=true" % self.address

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        harness.ended(self.process)


def crowd_tool():
    """The crowd (tests/crowd): a server that plays several mongos, and clients that check or measure."""
    tool = os.path.join(harness.ROOT, "build", "tests", "mongo_crowd")
    if not os.path.exists(tool):
        subprocess.run(["make", "-s", "-C", harness.ROOT, "crowd"], check=True, stdout=subprocess.DEVNULL)
    return tool


class CrowdFronts:
    """The crowd's server: several mongos in one process. An answer in sixteen waits up to jitter_us, one in a hundred is a lie if they lie."""

    def __init__(self, count, jitter_us=1000, lie="none"):
        self.ports = [harness.free_port() for _ in range(count)]
        self.log = os.path.join(harness.temporary_folder("puerta-crowd-"), "log")
        self.process = harness.start([crowd_tool(), "serve", str(jitter_us), lie] + [str(p) for p in self.ports], self.log)
        harness.wait_for("the crowd's server; its log: " + self.log, lambda: "serves" in harness.read_file(self.log))

    @property
    def addresses(self):
        return ["127.0.0.1:%d" % p for p in self.ports]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10 * harness.SLOW)
        harness.ended(self.process)

    def one_dies(self):
        """The first, then the second and so on: without its connections, cursors and transactions it is back after 200 ms."""
        self.process.send_signal(signal.SIGUSR2)

    def seen(self):
        """What it has seen so far, by name; most and most_working are the most connections at once."""
        told = harness.read_file(self.log).count("open ")
        self.process.send_signal(signal.SIGUSR1)
        harness.wait_for("the server's figures", lambda: harness.read_file(self.log).count("open ") > told)
        line = re.findall(r"^open .*\n", harness.read_file(self.log), re.M)[-1].replace("working most", "working").split()
        named = {}
        for name, value in zip(line[::2], line[1::2]):
            named["most_working" if name in named else name] = int(value)
        return named


def _cpu_seconds(pid):
    """User and system time of a process and of its children that live."""
    total = 0
    for p in [pid] + list(harness.children_of(pid)):
        fields = harness.read_file("/proc/%d/stat" % p).rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measured(proxy, clients, seconds, rate=0):
    """So many clients that ask through a proxy (with .process and .port) for one document at a time, together `rate` times a second (0: as
    fast as it goes): "answers" in these seconds, their "p50" and "p99" in microseconds, "cpu" seconds of the proxy for each of them."""
    begun = _cpu_seconds(proxy.process.pid)
    done = subprocess.run([crowd_tool(), "ask", str(proxy.port), str(clients), str(seconds), str(rate)], check=True, stdout=subprocess.PIPE)
    answers, p50, p99, all_answers = map(int, done.stdout.split())
    return {"answers": answers, "p50": p50, "p99": p99, "cpu": max(0.01, _cpu_seconds(proxy.process.pid) - begun) / all_answers}


def fronts(ferret, count=3, **toggles):
    """So many scripted mongos before one FerretDB; the toggles are those of fake.mongos.Front, and load_balancer."""
    return mongos.Cluster(("127.0.0.1", ferret.port), count, free_port=harness.free_port, **toggles)


class HaProxy:
    """HAProxy as a TCP relay, round-robin over the addresses: one connection here, the next there; with PROXY v2 headers if asked
    to."""

    def __init__(self, addresses, send_proxy=False):
        self.folder = harness.temporary_folder("puerta-haproxy-")
        self.port = harness.free_port()
        conf = os.path.join(self.folder, "haproxy.cfg")
        with open(conf, "w") as f:
            f.write("defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 300s\n    timeout server 300s\n"
                    "listen mongo\n    bind 127.0.0.1:%d\n    balance roundrobin\n" % self.port)
            option = " send-proxy-v2" if send_proxy else ""
            f.writelines("    server m%d %s%s\n" % (i, address, option) for i, address in enumerate(addresses))
        self.log = os.path.join(self.folder, "log")
        self.process = harness.start([HAPROXY, "-db", "-f", conf], self.log)
        harness.wait_for("HAProxy to listen; its log: " + self.log, self._listens)

    def _listens(self):
        assert self.process.poll() is None, "HAProxy ended: " + harness.read_file(self.log)[-2000:]
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 2).close()
            return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def address(self):
        return "127.0.0.1:%d" % self.port

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        harness.ended(self.process)


class MongoClient:
    """A raw client: what is sent is exactly what the test says, and messages are read one at a time with a deadline."""

    def __init__(self, port, host="127.0.0.1", timeout=20.0, rcvbuf=None, first=b""):
        self.timeout = timeout * harness.SLOW
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(self.timeout)
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.last_id = 0
        if first:
            self.sock.sendall(first)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send_raw(self, data):
        self.sock.sendall(data)

    def send(self, document, db="admin", flags=0, sequences=(), checksum=False, packed=False):
        """Sends a command as OP_MSG; its requestID is returned."""
        self.last_id += 1
        data = wire.op_msg(dict(document, **{"$db": db}), self.last_id, flags=flags, sequences=sequences, checksum=checksum)
        self.sock.sendall(wire.compressed(data) if packed else data)
        return self.last_id

    def _exactly(self, n, deadline):
        data = b""
        while len(data) < n:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no reply in time; so far %r" % data[:200])
            self.sock.settimeout(left)
            try:
                piece = self.sock.recv(n - len(data))
            except socket.timeout:
                raise TimeoutError("no reply in time; so far %r" % data[:200]) from None
            if not piece:
                raise EOFError("closed by the other side; so far %r" % data[:200])
            data += piece
        return data

    def read(self, timeout=None):
        """The next message (wire.Message), whole and well formed, or TimeoutError, EOFError, wire.Malformed."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout * harness.SLOW)
        head = self._exactly(wire.HEADER, deadline)
        return wire.parse(head + self._exactly(struct.unpack_from("<i", head)[0] - wire.HEADER, deadline))

    def ask(self, document, db="admin", timeout=None, **how):
        """One command, one reply, whose document is returned; the reply must name the request."""
        request_id = self.send(document, db, **how)
        reply = self.read(timeout)
        assert reply.response_to == request_id, "an answer to %d, %d was asked" % (reply.response_to, request_id)
        return reply.body

    def hello(self, app_name=None, **more):
        """A hello as drivers begin with it."""
        document = {"hello": 1, "helloOk": True,
                    "client": {"driver": {"name": "puerta-tests", "version": "1"}, "os": {"type": "Linux"}, "platform": "tests"}}
        if app_name is not None:
            document["client"]["application"] = {"name": app_name}
        return self.ask(dict(document, **more))


class Session:
    """A logical session: what drivers add to its statements."""

    def __init__(self):
        self.lsid = {"id": bson.Binary(os.urandom(16), 4)}
        self.number = 0

    @property
    def plain(self):
        return {"lsid": self.lsid}

    def write(self):
        """Of a retryable write, a new one each time."""
        self.number += 1
        return {"lsid": self.lsid, "txnNumber": bson.Int64(self.number)}

    def begin(self):
        """Of the first statement of a new transaction."""
        self.number += 1
        return dict(self.more, startTransaction=True)

    @property
    def more(self):
        """Of its other statements."""
        return {"lsid": self.lsid, "txnNumber": bson.Int64(self.number), "autocommit": False}

    def commit(self, client, **more):
        return client.ask(dict({"commitTransaction": 1}, **self.more, **more))

    def abort(self, client, **more):
        return client.ask(dict({"abortTransaction": 1}, **self.more, **more))


def proxy_v1(source="192.0.2.1", source_port=1000, destination="192.0.2.2", port=27017):
    return b"PROXY TCP4 %s %s %d %d\r\n" % (source.encode(), destination.encode(), source_port, port)


def proxy_v2(source="192.0.2.1", source_port=1000, destination="192.0.2.2", port=27017):
    addresses = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", source_port, port)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses


DRIVERS = ("pymongo_ops.py", "mongodb_ops.js", "mongosh_ops.js")


def node():
    """The node that runs the drivers: the system's, or the one that setup.sh put into build/ where the system's is too old."""
    own = os.path.join(harness.ROOT, "build", "tests", "node")
    return own if os.path.exists(own) else shutil.which("node") or "node"


def run_driver(script, uri, timeout=120, env=None):
    """Runs a script of tests/clients with a URI: (exit code, what it printed as JSON). No JSON is a failure."""
    env = dict(os.environ, NODE_PATH=os.path.join(NODE_HOME, "node_modules"), PYTHONDONTWRITEBYTECODE="1", **(env or {}))
    path = os.path.join(CLIENTS, script)
    if script.endswith(".py"):
        command = [sys.executable, path, uri]
    elif script.startswith("mongosh"):
        home = harness.temporary_folder("puerta-mongosh-")
        env.update(HOME=home, PUERTA_URI=uri)
        mongosh = os.path.join(NODE_HOME, "node_modules", "mongosh", "bin", "mongosh.js")
        command = [node(), mongosh, "--quiet", "--norc", "--nodb", "--file", path]
    else:
        command = [node(), path, uri]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
                          timeout=timeout * harness.SLOW)
    said = done.stdout.decode("utf-8", "replace").strip()
    try:
        return done.returncode, json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        raise AssertionError("%s (exit code %d) printed no JSON but %r and %r" %
                             (script, done.returncode, said[-2000:], done.stderr[-2000:])) from None


class MongoPuerta(harness.Program):
    """Puerta in MongoDB mode before these addresses.

    Options become key=value of the section, in the quick form; those of `process` belong to the whole process and need a file, as does
    `conf`, a text with {port}, {redis_port}, {mongos} and {folder}. `counters` opens a Redis section beside it, of which INFO tells them.
    """

    def __init__(self, addresses, wait=True, conf=None, process=None, counters=False, env=None, nofile=None, binary=None, listen="127.0.0.1", **options):
        self.folder = harness.temporary_folder("puerta-mongo-")
        self.log = os.path.join(self.folder, "log")
        self.port = harness.free_port()
        self.redis_port = harness.free_port() if counters else None
        addresses = [front.address if isinstance(front, mongos.Front) else front for front in addresses]
        binary = binary or harness.BINARY
        if conf is None and (process or counters):
            conf = "[puerta]\n%s[mongo main]\nlisten = %s:{port}\nmongos = {mongos}\n%s" % (_lines(process or {}), listen, _lines(options))
            if counters:
                conf += "[redis counters]\nlisten = 127.0.0.1:{redis_port}\nnodes = 127.0.0.1:1\n"
        if conf is not None:
            path = os.path.join(self.folder, "puerta.conf")
            with open(path, "w") as f:
                f.write(harness.with_options(conf.format(port=self.port, redis_port=self.redis_port, mongos=", ".join(addresses), folder=self.folder)))
            arguments = [binary, "-c", path]
        else:
            arguments = [binary, "mongo", ",".join(addresses), "listen=%s:%d" % (listen, self.port)] + ["%s=%s" % o for o in sorted(options.items())]
            arguments += harness.more_arguments(options)
        self.process = harness.start(arguments, self.log, cwd=self.folder, env=dict(os.environ, **(env or {})), nofile=nofile)
        try:
            if wait:
                harness.wait_for("puerta to serve; its log: " + self.log, self.listens)
        except BaseException:
            self._kill()
            raise

    def listens(self):
        assert self.process.poll() is None, "puerta ended with %s: %s" % (self.process.returncode, self.log_text()[-4000:])
        with contextlib.suppress(OSError, EOFError):
            socket.create_connection(("127.0.0.1", self.port), 2).close()
            return True

    def _kill(self):
        self.process.kill()
        self.process.wait()
        harness.ended(self.process)

    @property
    def address(self):
        return "127.0.0.1:%d" % self.port

    def uri(self, options=""):
        return "mongodb://%s/?%s" % (self.address, options)

    def client(self, **options):
        return MongoClient(self.port, **options)

    def wait_log(self, pattern, count=1, timeout=20.0):
        """Until so many lines of the log hold the pattern."""
        def found():
            assert self.process.poll() is None, "puerta ended: " + self.log_text()[-4000:]
            return len(re.findall(pattern, self.log_text())) >= count

        harness.wait_for("%r in %s" % (pattern, self.log), found, timeout)

    def wait_state(self, front, state, count=1, timeout=20.0):
        """Until that mongos (a front or its address) has come into that state so many times."""
        address = front if isinstance(front, str) else front.address
        self.wait_log(r'msg="node changes state" node=%s from=\w+ to=%s section=\w+ ' % (re.escape(address), state), count, timeout)

    def counter(self, name):
        with harness.RespClient(self.redis_port) as c:
            return int(re.search(r"^(?:puerta_)?%s:(\d+)" % name, c.ask("INFO", "everything").decode(), re.M).group(1))

    def worker(self):
        """The process that serves, not its parent or helper: it has the connections, so the most descriptors."""
        return max(harness.children_of(self.process.pid) + [self.process.pid], key=lambda pid: len(os.listdir("/proc/%d/fd" % pid)))

    def resident(self):
        """Bytes of memory that the worker occupies."""
        with open("/proc/%d/statm" % self.worker()) as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def before(fronts, **options):
    """A Puerta that has heard of all these fronts."""
    with MongoPuerta(list(fronts), **dict(QUICK, **options)) as p:
        for front in fronts:
            p.wait_state(front, "up")
        yield p


def closed(client, timeout=20.0):
    """That the other side closes, without a further byte."""
    client.sock.settimeout(timeout * harness.SLOW)
    with contextlib.suppress(ConnectionResetError):
        rest = client.sock.recv(65536)
        assert rest == b"", rest
    return True


def _lines(options):
    return "".join("%s = %s\n" % o for o in sorted(options.items()))


class Tap:
    """A TCP relay before one address that keeps what went by: `asked` and `answered` are lists of bytearrays, one for each connection."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.target = (host, int(port))
        self.port = harness.free_port()
        self.asked, self.answered, self._sockets = [], [], []
        self.listen()

    def listen(self):
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def refuse(self):
        """New connections are refused; those that are there go on."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def address(self):
        return "127.0.0.1:%d" % self.port

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                try:
                    server = socket.create_connection(self.target, 5)
                except OSError:
                    client.close()
                    continue
                asked, answered = bytearray(), bytearray()
                self.asked.append(asked)
                self.answered.append(answered)
                self._sockets += [client, server]
                for source, sink, kept in ((client, server, asked), (server, client, answered)):
                    threading.Thread(target=self._copy, args=(source, sink, kept), daemon=True).start()

    @staticmethod
    def _copy(source, sink, kept):
        with contextlib.suppress(OSError):
            source.settimeout(None)
            while True:
                data = source.recv(65536)
                if not data:
                    break
                kept += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def of(self, mark):
        """(asked, answered) of the connection on which these bytes were asked."""
        return next((bytes(a), bytes(b)) for a, b in zip(self.asked, self.answered) if mark in a)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for s in [self._listener] + self._sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()
