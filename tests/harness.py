"""What the integration tests stand on: real redis-server processes as a cluster, Puerta in front of them, a small raw RESP client.

    RespClient --> Puerta (build/puerta, or the binary that the environment's PUERTA names) --> RedisCluster (temporary folder, loopback)

Every process is started here, known by its pid and ended here: when a context ends, when Python exits, and on signals. On Linux the
kernel ends them even when Python is killed.
"""
import atexit
import collections
import concurrent.futures
import contextlib
import ctypes
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BINARY = os.path.abspath(os.environ.get("PUERTA", os.path.join(ROOT, "build", "puerta")))
LOAD = os.path.abspath(os.environ.get("PUERTA_LOAD", os.path.join(ROOT, "build", "tests", "load")))
REDIS_SERVER = os.environ.get("REDIS_SERVER", "redis-server")
REDIS_CLI = os.environ.get("REDIS_CLI", "redis-cli")
LONG = bool(os.environ.get("PUERTA_LONG"))
# A sanitizer build answers later: every deadline of the tests (never a measured limit) is multiplied by this.
SLOW = float(os.environ.get("PUERTA_SLOW", "1"))
# Options of [puerta] that every Puerta of a run gets, "key=value key=value": what its tests do not name themselves.
OPTIONS = [o.split("=", 1) for o in os.environ.get("PUERTA_OPTIONS", "").split()]
# Where listeners get their ports; cluster buses have theirs 10000 above. Two runs at once have each a part of it (check.sh).
PORTS = range(*map(int, os.environ.get("PUERTA_PORTS", "10500-20500").split("-")))
SLOTS = 16384


def with_options(text):
    """A configuration file's text with OPTIONS in it."""
    lines = "".join("%s = %s\n" % (key, value) for key, value in OPTIONS if not re.search(r"(?m)^%s *=" % key, text))
    if re.search(r"(?m)^\[puerta\]", text):
        return re.sub(r"(?m)^\[puerta\].*\n", lambda m: m.group(0) + lines, text, count=1)
    return "[puerta]\n" + lines + text if lines else text


def more_arguments(options):
    """The same for the quick start that has these options already."""
    return ["%s=%s" % (key, value) for key, value in OPTIONS if key not in options]


_children = {}


_folders = []


def temporary_folder(prefix):
    """A folder that is gone when Python ends, whatever happened between."""
    _folders.append(tempfile.mkdtemp(prefix=prefix))
    return _folders[-1]


def _end_children(*_):
    for pid, process in list(_children.items()):
        _children.pop(pid, None)
        if process.poll() is None:
            process.kill()
            process.wait()
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def _on_signal(number, _frame):
    _end_children()
    if "pytest" in sys.modules:  # to which sys.exit() in a test would be a test that failed, and no reason to end
        sys.modules["pytest"].exit("ended by signal %d" % number, 128 + number)
    sys.exit(128 + number)


atexit.register(_end_children)
for _number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, _on_signal)


def _child_setup(nofile):
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None

    def setup():
        if libc is not None:
            libc.prctl(1, signal.SIGKILL)
        if nofile is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))

    return setup


def start(arguments, log, cwd=None, env=None, nofile=None):
    """Starts a process whose output goes to the file `log`, and remembers to end it."""
    with open(log, "ab") as out:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env=env,
                                   preexec_fn=_child_setup(nofile))
    _children[process.pid] = process
    return process


def ended(process):
    _children.pop(process.pid, None)


def children_of(pid):
    lines = subprocess.run(["ps", "-A", "-o", "pid=", "-o", "ppid="], stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()
    return [int(line.split()[0]) for line in lines if int(line.split()[1]) == pid]


def memory_of(pid):
    """Of a process: bytes of its largest mapping, which is the worker's one block, and what is resident of all others; (0, 0) where
    the system does not tell."""
    try:
        maps = re.findall(r"^Size:\s+(\d+) kB$.*?^Rss:\s+(\d+) kB$", read_file("/proc/%d/smaps" % pid), re.M | re.S)
    except OSError:
        return 0, 0
    block = max(range(len(maps)), key=lambda i: int(maps[i][0]))
    return int(maps[block][0]) * 1024, sum(int(m[1]) for i, m in enumerate(maps) if i != block) * 1024


def read_file(path):
    with open(path, "rb") as f:
        return f.read().decode("utf-8", "replace")


def wait_for(what, condition, timeout=20.0, pause=0.01):
    """Calls condition until it returns something true, which is returned; a failure names what was waited for."""
    deadline = time.monotonic() + timeout * SLOW
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError("waited %.0f s in vain: %s" % (timeout * SLOW, what))
        time.sleep(pause)


def read_pipe(fd, timeout=20.0):
    """What comes next on a pipe, b"" at its end; a failure when nothing comes."""
    if not select.select([fd], [], [], timeout * SLOW)[0]:
        raise AssertionError("nothing came on a pipe within %.0f s" % (timeout * SLOW))
    return os.read(fd, 4096)


_given = collections.deque(maxlen=len(PORTS) // 2)  # lately: who asked for one opens it soon
_giving = threading.Lock()


def _is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port():
    """A loopback port that is free with the cluster bus port above it; both below the range of outgoing connections, far from 6379."""
    with _giving:
        for _ in range(2000):
            port = random.choice(PORTS)
            if port not in _given and _is_free(port) and _is_free(port + 10000):
                _given.append(port)
                return port
    raise AssertionError("no free port found on 127.0.0.1")


def own_address():
    """An address of this machine that is not loopback; None if it has none. Nothing is sent."""
    if "PUERTA_OWN_ADDRESS" in os.environ:
        return os.environ["PUERTA_OWN_ADDRESS"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
            found = s.getsockname()[0]
        except OSError:
            return None
    return None if found.startswith(("127.", "0.")) else found


def keys_of(password, *rounds):
    """What `user = NAME KEYS` has of a password."""
    done = subprocess.run([BINARY, "hash-password"] + [str(r) for r in rounds], input=password.encode() + b"\n", stdout=subprocess.PIPE, check=True,
                          timeout=20 * SLOW)
    return done.stdout.decode().strip()


def crc16(data):
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def slot_of(key):
    key = key.encode() if isinstance(key, str) else key
    start_at = key.find(b"{")
    if start_at >= 0:
        end = key.find(b"}", start_at + 1)
        if end > start_at + 1:
            key = key[start_at + 1:end]
    return crc16(key) % SLOTS


_tags = {}


def tag_for_slot(slot):
    """A short text that hashes to the slot, for use in braces."""
    if not _tags:
        n = 0
        while len(_tags) < SLOTS:
            _tags.setdefault(slot_of(str(n)), str(n))
            n += 1
    return _tags[slot]


class RespError(Exception):
    """An error reply. Returned as a value by RespClient.read, raised by RespClient.ask."""

    @property
    def text(self):
        return self.args[0]


def encode(*args):
    out = [b"*%d\r\n" % len(args)]
    for a in args:
        if isinstance(a, str):
            a = a.encode()
        elif isinstance(a, int):
            a = b"%d" % a
        out.append(b"$%d\r\n" % len(a))
        out.append(a)
        out.append(b"\r\n")
    return b"".join(out)


class RespSet(list):
    """A set of RESP3, in the order in which it came."""


class RespPush(list):
    """A push of RESP3: no answer."""


class Verbatim(bytes):
    """A verbatim string of RESP3, without its form ("txt:")."""


class RespClient:
    """A raw client of RESP2 and RESP3: what is sent is exactly what the test says, and replies are read one at a time with a deadline.

    `marks`, when it is a list, gets the type of each element that is read, of aggregates with their count; `attributes` what stood ahead
    of replies.
    """

    marks = None
    attributes = ()

    def __init__(self, port, host="127.0.0.1", timeout=20.0, rcvbuf=None):
        self.timeout = timeout * SLOW
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(self.timeout)
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buf = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send_raw(self, data):
        self.sock.sendall(data)

    def send(self, *args):
        self.sock.sendall(encode(*args))

    def _fill(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no reply in time; so far %r" % bytes(self.buf[:200]))
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(1 << 18)
        except socket.timeout:
            raise TimeoutError("no reply in time; so far %r" % bytes(self.buf[:200])) from None
        if not data:
            raise EOFError("closed by the other side; so far %r" % bytes(self.buf[:200]))
        self.buf += data

    def _line(self, deadline):
        seen = 0
        while True:
            at = self.buf.find(b"\r\n", seen)
            if at >= 0:
                line = bytes(self.buf[:at])
                del self.buf[:at + 2]
                return line
            seen = max(0, len(self.buf) - 1)
            self._fill(deadline)

    def _exactly(self, n, deadline):
        while len(self.buf) < n:
            self._fill(deadline)
        data = bytes(self.buf[:n])
        del self.buf[:n]
        return data

    def _read(self, deadline):
        line = self._line(deadline)
        mark, rest = line[:1], line[1:]
        if self.marks is not None:
            self.marks.append(line.decode() if mark in b"*%~>|_#" or rest == b"-1" else mark.decode())
        if mark == b"+":
            return rest
        if mark == b"-":
            return RespError(rest.decode("utf-8", "replace"))
        if mark == b":":
            return int(rest)
        if mark == b"$":
            n = int(rest)
            if n < 0:
                return None
            data = self._exactly(n + 2, deadline)
            assert data[-2:] == b"\r\n", "a bulk of %d bytes is not followed by CRLF but %r" % (n, data[-2:])
            return data[:-2]
        if mark == b"*":
            n = int(rest)
            return None if n < 0 else [self._read(deadline) for _ in range(n)]
        return self._read_resp3(mark, rest, deadline)

    def _read_resp3(self, mark, rest, deadline):
        if mark == b"_" and rest == b"":
            return None
        if mark == b"#" and rest in (b"t", b"f"):
            return rest == b"t"
        if mark == b",":
            return float(rest)
        if mark == b"(":
            return int(rest)
        if mark in b"=!":
            text = self._exactly(int(rest) + 2, deadline)
            assert text[-2:] == b"\r\n", "a text is not followed by CRLF but %r" % text[-2:]
            if mark == b"!":
                return RespError(text[:-2].decode("utf-8", "replace"))
            assert text[3:4] == b":", "a verbatim string without its form: %r" % text[:20]
            return Verbatim(text[4:-2])
        if mark == b"%":
            return {self._read(deadline): self._read(deadline) for _ in range(int(rest))}
        if mark in b"~>":
            return (RespSet if mark == b"~" else RespPush)(self._read(deadline) for _ in range(int(rest)))
        if mark == b"|":
            self.attributes = [*self.attributes, {self._read(deadline): self._read(deadline) for _ in range(int(rest))}]
            return self._read(deadline)
        raise AssertionError("not RESP: %r" % (mark + rest)[:200])

    def read(self, timeout=None):
        return self._read(time.monotonic() + (self.timeout if timeout is None else timeout * SLOW))

    def ask(self, *args, timeout=None):
        """One command, one reply; an error reply is raised."""
        self.send(*args)
        reply = self.read(timeout)
        if isinstance(reply, RespError):
            raise reply
        return reply

    def try_ask(self, *args, timeout=None):
        """One command, one reply; an error reply is returned."""
        self.send(*args)
        return self.read(timeout)

    def info(self, *sections):
        """What INFO tells, by name."""
        return dict(line.split(":", 1) for line in self.ask("INFO", *sections).decode().split("\r\n") if ":" in line)

    def pipeline(self, commands, timeout=None):
        """All commands in one send, then all replies."""
        self.send_raw(b"".join(encode(*c) for c in commands))
        return [self.read(timeout) for _ in commands]

    def at_end(self, timeout=10.0):
        """True when the other side closes with nothing more to say."""
        try:
            self._fill(time.monotonic() + timeout * SLOW)
        except EOFError:
            return not self.buf
        except ConnectionResetError:
            return not self.buf
        except TimeoutError:
            return False
        return False

    def silent(self, seconds):
        """True when nothing arrives for so long."""
        return not self.buf and not select.select([self.sock], [], [], seconds)[0]


class RedisNode:
    def __init__(self, folder, port, options):
        self.port = port
        self.folder = os.path.join(folder, str(port))
        os.mkdir(self.folder)
        self.log = os.path.join(self.folder, "log")
        self.options = options
        self.process = None
        self.id = None

    address = property(lambda self: "127.0.0.1:%d" % self.port)

    def start(self):
        arguments = [REDIS_SERVER, "--port", str(self.port), "--dir", self.folder, "--bind", "127.0.0.1"]
        for name, value in self.options.items():
            arguments += ["--" + name.replace("_", "-")] + (value.split(" ") if value else [""])
        self.process = start(arguments, self.log, cwd=self.folder)
        wait_for("redis-server %d: %s" % (self.port, self.log), self._answers)

    def _answers(self):
        if self.process.poll() is not None:
            raise AssertionError("redis-server %d ended: %s" % (self.port, read_file(self.log)[-2000:]))
        try:
            with RespClient(self.port, timeout=1) as c:
                return c.try_ask("PING") == b"PONG"
        except OSError:
            return False

    def ask(self, *args, timeout=10.0):
        """A command straight to this node, on a connection of its own."""
        with RespClient(self.port, timeout=timeout) as c:
            return c.ask(*args)

    def info(self, section):
        with RespClient(self.port) as c:
            return c.info(section)

    def is_7_0(self):
        return self.info("server").get("redis_version", "").startswith("7.0.")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        ended(self.process)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def role(self):
        return self.ask("ROLE")[0].decode()


@contextlib.contextmanager
def plain_server(**options):
    """One redis-server that is no cluster, with these options."""
    node = RedisNode(temporary_folder("puerta-plain-"), free_port(), dict({"save": ""}, **options))
    node.start()
    try:
        yield node
    finally:
        node.stop()


class RedisCluster:
    """A cluster of real servers. masters[i] owned the i-th part of the slots at the start; replicas[i] is the list of its replicas."""

    def __init__(self, masters=3, replicas=1, node_timeout_ms=2000, ports=None, **options):
        self.folder = temporary_folder("puerta-cluster-")
        self.options = {
            "cluster_enabled": "yes", "cluster_config_file": "nodes.conf", "cluster_node_timeout": str(node_timeout_ms),
            "cluster_replica_validity_factor": "0", "save": "", "appendonly": "no", "daemonize": "no", "protected_mode": "no",
            "repl_diskless_sync": "yes", "repl_diskless_sync_delay": "0", "repl_backlog_size": "64mb",
            "client_output_buffer_limit": "replica 0 0 0",
        }
        self.options.update({k: str(v) for k, v in options.items()})
        self.nodes = []
        try:
            self.nodes = [RedisNode(self.folder, port, self.options)
                          for port in ports or [free_port() for _ in range(masters * (1 + replicas))]]
            for node in self.nodes:
                node.start()
            self.masters = self.nodes[:masters]
            self.replicas = [self.nodes[masters + i * replicas:masters + (i + 1) * replicas] for i in range(masters)]
            self._join()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for node in self.nodes:
            node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _join(self):
        count = len(self.masters)
        first = self.masters[0]
        for i, node in enumerate(self.nodes):
            node.id = node.ask("CLUSTER", "MYID").decode()
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for node in self.nodes[1:]:
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        for i, master in enumerate(self.masters):
            slots = range(SLOTS * i // count, SLOTS * (i + 1) // count)
            master.ask("CLUSTER", "ADDSLOTS", *slots)
        wait_for("all nodes to know each other", lambda: all(self._knows_all(n) for n in self.nodes))
        for master, replicas in zip(self.masters, self.replicas):
            for replica in replicas:
                replica.ask("CLUSTER", "REPLICATE", master.id)
        self.wait_whole()

    def _knows_all(self, node):
        lines = node.ask("CLUSTER", "NODES").decode().splitlines()
        return len(lines) == len(self.nodes) and not any("handshake" in line for line in lines)

    def add_master(self):
        """One more node that all know, without slots; nothing is copied to it, as with a bare CLUSTER MEET."""
        node = RedisNode(self.folder, free_port(), self.options)
        self.nodes.append(node)
        node.start()
        node.id = node.ask("CLUSTER", "MYID").decode()
        self.masters[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        wait_for("all nodes to know the new one", lambda: all(self._knows_all(n) for n in self.nodes))
        wait_for("the new node to be well", lambda: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"))
        self.masters.append(node)
        return node

    def alive(self):
        return [n for n in self.nodes if n.process is not None and n.process.poll() is None]

    def wait_whole(self, timeout=40.0):
        """Until every living node agrees on the slots and says ok, and every replica is linked."""
        def whole():
            views = set()
            for node in self.alive():
                try:
                    if node.info("replication").get("master_link_status", "up") != "up":
                        return False
                    if b"cluster_state:ok" not in node.ask("CLUSTER", "INFO"):
                        return False
                    views.add(repr(sorted([s[0], s[1]] + sorted(n[1] for n in s[2:]) for s in node.ask("CLUSTER", "SLOTS"))))
                except (OSError, EOFError):
                    return False
                except RespError as e:
                    if "LOADING" in e.text or "MASTERDOWN" in e.text:
                        return False
                    raise
            if len(views) != 1:
                return False
            linked = sum(int(n.info("replication").get("connected_slaves", 0)) for n in self.alive())
            return linked == sum(1 for n in self.alive() if n.role() != "master")

        wait_for("the cluster to be whole", whole, timeout, 0.02)

    def seeds(self):
        return ",".join(n.address for n in self.nodes)

    def owner(self, key_or_slot):
        """The living master that serves a slot, as most living nodes see it."""
        slot = key_or_slot if isinstance(key_or_slot, int) else slot_of(key_or_slot)
        votes = {}
        for node in self.alive():
            for part in node.ask("CLUSTER", "SLOTS"):
                if part[0] <= slot <= part[1]:
                    votes[part[2][1]] = votes.get(part[2][1], 0) + 1
        port = max(votes, key=votes.get)
        return next(n for n in self.nodes if n.port == port)

    def slots_of(self, node):
        return [s for part in self.masters[0].ask("CLUSTER", "SLOTS") if part[2][1] == node.port for s in range(part[0], part[1] + 1)]

    def key_on(self, master_index, name="k", nth=0):
        """A key whose slot the i-th master had at the start."""
        slot = SLOTS * master_index // len(self.masters) + 11 + nth
        return "{%s}%s" % (tag_for_slot(slot), name)

    def wait_promoted(self, replica, timeout=30.0):
        """Waits until the replica says it is a master; returns the moment (time.monotonic) at which it was seen."""
        deadline = time.monotonic() + timeout * SLOW
        with RespClient(replica.port) as c:
            while True:
                if c.ask("ROLE")[0] == b"master":
                    return time.monotonic()
                if time.monotonic() > deadline:
                    raise AssertionError("replica %d was not promoted in %.0f s" % (replica.port, timeout * SLOW))
                time.sleep(0.002)

    def restart(self, node):
        node.stop()
        node.start()

    # A slot's move by hand, step by step.

    def migrate_begin(self, slot, source, target):
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def migrate_keys(self, slot, source, target, count=100000):
        """Moves up to count keys of the slot; returns how many there were to move."""
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 60000, "KEYS", *keys, timeout=70)
        return len(keys)

    def migrate_end(self, slot, source, target):
        target.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        source.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        masters = [n for n in self.masters if n in self.alive() and n.role() == "master"]
        for node in masters:
            if node not in (source, target):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)

        # Until the new epoch is known everywhere, a next move might claim the same one, and the slot's owner would be in dispute.
        def agreed():
            epochs = {re.search(rb"cluster_current_epoch:(\d+)", n.ask("CLUSTER", "INFO")).group(1) for n in masters}
            owners = {part[2][1] for n in masters for part in n.ask("CLUSTER", "SLOTS") if part[0] <= slot <= part[1]}
            return len(epochs) == 1 and owners == {target.port}

        wait_for("all masters to agree on slot %d" % slot, agreed, pause=0.002)

    def migrate_slot(self, slot, source, target):
        self.migrate_begin(slot, source, target)
        while self.migrate_keys(slot, source, target, 100):
            pass
        self.migrate_end(slot, source, target)

    def reshard(self, count, source, target):
        """redis-cli's own resharding, while whatever runs goes on."""
        done = subprocess.run([REDIS_CLI, "--cluster", "reshard", source.address, "--cluster-from", source.id, "--cluster-to", target.id,
                               "--cluster-slots", str(count), "--cluster-yes", "--cluster-timeout", "60000"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900 * SLOW)
        assert done.returncode == 0, "redis-cli --cluster reshard: %s" % done.stdout.decode("utf-8", "replace")[-2000:]

    def pause_writes_and_sync(self, master, replica):
        """Stops the master from executing writes until its replica has them all: then every acknowledged write is on the replica."""
        master.ask("CLIENT", "PAUSE", 60000, "WRITE")
        wait_for("the replica to have all of the master's writes",
                 lambda: replica.info("replication")["slave_repl_offset"] == master.info("replication")["master_repl_offset"])

    def flush(self):
        for node in self.alive():
            if node.role() == "master":
                node.ask("FLUSHALL", timeout=60)


class Spares:
    """Clusters for `count` tests that break them: while a test has one, the next is made ready, which takes two seconds and more."""

    def __init__(self, count, **options):
        self.options = options
        self.left = count
        # The kernel ends a node with the thread that has started it: this one lives as long as the tests do.
        self._maker = concurrent.futures.ThreadPoolExecutor(1)
        self._begin_next()

    def _begin_next(self):
        self._next = self._maker.submit(RedisCluster, **self.options) if self.left > 0 else None

    def take(self):
        """A whole one whose masters are those of the start, for the caller to close: one that has waited for long may have none of these."""
        cluster = self._next.result()
        self.left -= 1
        self._begin_next()
        cluster.wait_whole()
        if all(node.role() == "master" for node in cluster.masters):
            return cluster
        cluster.close()
        return RedisCluster(**self.options)

    def close(self):
        if self._next is not None:
            self._next.result().close()
        self._maker.shutdown()


BAD_LOG = re.compile(r"fatal|AddressSanitizer|LeakSanitizer|UndefinedBehavior|runtime error:|heap call after the seal|assert", re.I)


class Program:
    """A Puerta of whichever mode, as a process: `process`, `folder` and `log` are of whoever starts it. It is ended in any case."""

    expect_exit = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # A test that already failed shall show its own failure.
        self.stop(check=kind is None)

    def log_text(self):
        return read_file(self.log)

    def alive(self):
        return self.process.poll() is None

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def stop(self, check=True, timeout=15.0):
        if self.alive():
            self.terminate()
            try:
                self.process.wait(timeout * SLOW)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        ended(self.process)
        text = self.log_text()
        shutil.rmtree(self.folder, ignore_errors=True)
        if check:
            bad = BAD_LOG.search(text)
            assert bad is None, "puerta's log: ...%s" % text[max(0, bad.start() - 300):bad.start() + 4000]
            assert self.process.returncode == self.expect_exit, \
                "puerta ended with %s: %s" % (self.process.returncode, text[-4000:])


class Puerta(Program):
    """Puerta before a Redis Cluster. `cluster` is a RedisCluster or a list of seeds; options become key=value of the section."""

    def __init__(self, cluster, wait=True, nofile=None, env=None, conf=None, binary=None, **options):
        self.folder = temporary_folder("puerta-test-")
        self.log = os.path.join(self.folder, "log")
        self.port = free_port()
        self.nofile = nofile
        seeds = cluster.seeds() if isinstance(cluster, RedisCluster) else ",".join(cluster)
        binary = binary or BINARY
        if conf is not None:
            path = os.path.join(self.folder, "puerta.conf")
            with open(path, "w") as f:
                f.write(with_options(conf.format(port=self.port, seeds=seeds, folder=self.folder)))
            arguments = [binary, "-c", path]
        else:
            arguments = [binary, "redis", seeds, "listen=127.0.0.1:%d" % self.port] + ["%s=%s" % o for o in sorted(options.items())]
            arguments += more_arguments(options)
        environment = dict(os.environ, **(env or {}))
        self.arguments = arguments
        self.process = start(arguments, self.log, cwd=self.folder, env=environment, nofile=nofile)
        try:
            if wait:
                self.wait_ready()
        except BaseException:
            self.process.kill()
            ended(self.process)
            raise

    def wait_ready(self, timeout=20.0):
        """Until a key of each third of the slots can be read."""
        def ready():
            if self.process.poll() is not None:
                raise AssertionError("puerta ended with %s: %s" % (self.process.returncode, self.log_text()[-4000:]))
            try:
                with RespClient(self.port, timeout=5) as c:
                    return not any(isinstance(r, RespError) for r in c.pipeline([("EXISTS", k) for k in ("a", "b", "c", "foo", "bar")]))
            except (OSError, EOFError):
                return False

        wait_for("puerta to serve; its log: " + self.log, ready, timeout, 0.02)

    def client(self, **options):
        return RespClient(self.port, **options)

    def worker(self):
        """The process that serves: the one that has the block, not its parent or helper."""
        return max(children_of(self.process.pid) + [self.process.pid], key=lambda pid: memory_of(pid)[0])

    def promised(self):
        """Bytes that `puerta -t` says it takes, with the options that it was started with."""
        told = subprocess.run([self.arguments[0], "-t"] + self.arguments[1:], stdout=subprocess.PIPE, check=True).stdout.decode()
        return int(re.search(r"^# total +(\d+)$", told, re.M).group(1))


class Load:
    """The correctness load (tests/load.c) as a process."""

    def __init__(self, port, *arguments, host="127.0.0.1"):
        if not os.path.exists(LOAD):
            subprocess.run(["make", "-C", ROOT, "load"], check=True, stdout=subprocess.DEVNULL)
        self.folder = temporary_folder("puerta-load-")
        self.log = os.path.join(self.folder, "log")
        self.missing = os.path.join(self.folder, "missing")
        self.process = start([LOAD, "-a", "%s:%d" % (host, port), "-v", "-w", self.missing] + [str(a) for a in arguments], self.log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        ended(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def answers(self):
        found = re.findall(r"answers (\d+)", read_file(self.log))
        return int(found[-1]) if found else 0

    def wait_answers(self, count, timeout=60.0):
        """Until so many answers have come (as its line of each second tells)."""
        def enough():
            assert self.process.poll() is None, "the load ended early: " + read_file(self.log)[-3000:]
            return self.answers() >= count

        wait_for("%d answers of the load" % count, enough, timeout)

    def finish(self, timeout=120.0, stop=False):
        """Waits for its end (after a SIGINT, with stop: it then drains and reads back) and returns its figures."""
        if stop and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            raise AssertionError("the load did not end: " + read_file(self.log)[-3000:]) from None
        return LoadResult(read_file(self.log), read_file(self.missing), self.process.returncode)


class LoadResult:
    def __init__(self, text, missing_text, code):
        self.text = text
        self.missing_text = missing_text
        self.code = code
        last = re.search(r"^answers (\d+) wrong (\d+) errors (\d+) reconnects (\d+) seconds ([\d.]+)$", text, re.M)
        assert last, "the load printed no result (exit %s): %s" % (code, text[-3000:])
        self.answers, self.wrong, self.errors, self.reconnects = (int(last.group(i)) for i in range(1, 5))
        self.seconds = float(last.group(5))
        back = re.search(r"^readback keys (\d+) missing (\d+) unread (\d+) denied (\d+) revived (\d+)$", text, re.M)
        self.keys, self.missing, self.unread, self.denied, self.revived = (int(back.group(i)) for i in range(1, 6))
        slow = re.search(r"^slowest answer (\d+) ms, early reads (\d+)$", text, re.M)
        self.slowest_ms, self.early = int(slow.group(1)), int(slow.group(2))
        self.table = {m.group(2): int(m.group(1)) for m in re.finditer(r"^error (\d+) x (.*)$", text, re.M)}

    def check(self, errors=0, reconnects=0, early=0):
        """No wrong answer and no lost write ever; no more errors, lost connections and early reads than allowed (None: any)."""
        assert self.wrong == 0, self.text[-6000:]
        assert self.missing == 0 and self.unread == 0 and self.revived == 0, "%s\n%s" % (self.missing_text[:3000], self.text[-1500:])
        assert self.answers > 0 and self.keys > 0, self.text[-1500:]
        assert self.code == 0, self.text[-1500:]
        if errors is not None:
            assert self.errors <= errors, self.text[-3000:]
        if early is not None:
            assert self.early <= early, "%d reads show what later writes did: %s" % (self.early, self.text[-3000:])
        if reconnects is not None:
            assert self.reconnects <= reconnects, self.text[-3000:]
        return self
