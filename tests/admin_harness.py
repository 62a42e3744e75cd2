"""A small raw HTTP/1.1 client for the tests of the listener of operators: it sends what it is told to, and reads strictly.

    Http(port or path) --ask(), send()--> Puerta --read()--> Answer: status, fields, body
"""
import json
import re
import socket
import time

import harness

TOKEN = "a-token-of-the-tests-0123456789"


class Answer:
    def __init__(self, status, fields, body, chunks):
        self.status, self.fields, self.body, self.chunks = status, fields, body, chunks

    def json(self):
        assert self.fields["content-type"] == "application/json", self.fields
        return json.loads(self.body.decode("utf-8"))

    def error(self, status):
        """The text of an error, whose body has to be right in all else."""
        assert self.status == status, (self.status, self.body)
        said = self.json()
        assert set(said) == {"error", "status"} and said["status"] == status and said["error"], said
        return said["error"]

    def text(self):
        return self.body.decode("utf-8")


class Http:
    """One connection, to a port of this machine or to a unix socket; from another of its own addresses, if need be."""

    def __init__(self, where, timeout=10.0, token=None, rcvbuf=None, source=None):
        self.timeout = timeout * harness.SLOW
        self.token = token
        self.buf = b""
        self.sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(self.timeout)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect(where if isinstance(where, str) else ("127.0.0.1", where))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def request(self, method, target, body=None, version="HTTP/1.1", token="own", **fields):
        """The bytes of a request. A field whose value is None is left out; _ stands for -."""
        token = self.token if token == "own" else token
        lines = {"Host": "localhost", "Authorization": "Bearer " + token if token else None,
                 "Content-Length": str(len(body)) if body is not None else None}
        lines.update({name.replace("_", "-"): value for name, value in fields.items()})
        head = "%s %s %s\r\n" % (method, target, version) + "".join("%s: %s\r\n" % f for f in lines.items() if f[1] is not None)
        return head.encode("latin-1") + b"\r\n" + (body or b"")

    def ask(self, method, target, **how):
        self.send(self.request(method, target, **how))
        return self.read(method)

    def get(self, target, **how):
        return self.ask("GET", target, **how)

    def post(self, target, **how):
        return self.ask("POST", target, **how)

    def _more(self):
        data = self.sock.recv(65536)
        if not data:
            raise EOFError("closed behind %r" % self.buf[-200:])
        self.buf += data

    def _take(self, n):
        while len(self.buf) < n:
            self._more()
        taken, self.buf = self.buf[:n], self.buf[n:]
        return taken

    def _line(self):
        while b"\r\n" not in self.buf:
            self._more()
        line, self.buf = self.buf.split(b"\r\n", 1)
        return line.decode("ascii")

    def read(self, method="GET"):
        """One answer to a request of that method."""
        first = self._line()
        assert re.fullmatch(r"HTTP/1\.1 [1-5]\d\d [A-Z][A-Za-z -]+", first), first
        status, fields = int(first[9:12]), {}
        while True:
            line = self._line()
            if not line:
                break
            name, value = line.split(": ", 1)
            assert name.lower() not in fields, name
            fields[name.lower()] = value
        body, chunks = b"", 0
        assert status == 100 or ("content-length" in fields) + ("transfer-encoding" in fields) + (fields.get("connection") == "close") > 0
        if method == "HEAD" or status == 100:
            pass
        elif "content-length" in fields:
            body = self._take(int(fields["content-length"]))
        elif "transfer-encoding" in fields:
            assert fields["transfer-encoding"] == "chunked"
            while True:
                size = int(self._line(), 16)
                piece = self._take(size)
                assert self._line() == "", "a chunk does not end where it says"
                if size == 0:
                    break
                body += piece
                chunks += 1
        else:
            while True:
                try:
                    self._more()
                except EOFError:
                    break
            body, self.buf = self.buf, b""
        return Answer(status, fields, body, chunks)

    def raw(self):
        """The bytes of one answer that has a length."""
        while b"\r\n\r\n" not in self.buf:
            self._more()
        head = self.buf.index(b"\r\n\r\n") + 4
        return self._take(head + int(re.search(rb"Content-Length: (\d+)\r\n", self.buf).group(1)))

    def at_end(self):
        """True when the other side closes with nothing more to say."""
        try:
            while not self.buf:
                self._more()
        except (EOFError, ConnectionResetError):
            return True
        return False


def counter_of(where, name, token):
    """A counter of /metrics."""
    with Http(where, token=token) as h:
        return int(re.search(r"^puerta_%s_total (\d+)$" % name, h.get("/metrics").text(), re.M).group(1))


def counter(where, name):
    return counter_of(where, name, TOKEN)


def rate_of(where, path, clients, seconds, token=None, batch=10):
    """Requests answered in a second, asked by so many connections in batches; all have to be 200 and, but for the date, the same."""
    connections = [Http(where, token=token) for _ in range(clients)]
    asked = connections[0].request("GET", path) * batch
    whole = b""
    connections[0].send(asked)
    for _ in range(batch):
        whole += connections[0].raw()
    count, begun = 0, time.monotonic()
    while time.monotonic() - begun < seconds:
        for c in connections:
            c.send(asked)
        for c in connections:
            got = c._take(len(whole))
            assert got.count(b"HTTP/1.1 200 OK\r\n") == batch, got[:1000]
            count += batch
    took = time.monotonic() - begun
    for c in connections:
        c.close()
    return count / took
