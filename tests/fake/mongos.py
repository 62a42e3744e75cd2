"""Scripted fronts that stand for the mongos of one sharded cluster, all before one real database (FerretDB).

    test --> Cluster ---owns---> an event loop in a thread of its own; what the mongos share: outcomes of transactions, $clusterTime
                |
                +--owns--> Front, one per mongos: cursors, transactions, topologyVersion, what it saw, faults, toggles
                             |  port, load_balancer_port
                             +--owns--> Client, one per accepted connection: login, metadata, PROXY header
                             +--owns--> connections to FerretDB, each lent for one command; they live as long as the front, since
                                        FerretDB ends a cursor with the connection that made it

What a real mongos enforces and FerretDB does not is enforced here, per front: a cursor is known only where it was opened (43), and
only to the session that opened it (50799-50801) and the transaction (50802-50804); a transaction is known only where it began (251
with TransientTransactionError); client metadata comes once per connection (186); killCursors kills only what is here; a retryable write
(lsid and txnNumber outside a transaction) is done once, whichever mongos it comes to, and however often; loadBalanced must fit the port (354); the load balancer's port demands a PROXY header and ends cursors and transactions with their connection.

What is not real: a transaction's statements run at once and are not undone by abortTransaction (FerretDB has no transactions); a
tailable cursor is emulated by finding again with skip, so its collection must not have dropped documents; there are no shards.

Everything that a front does beyond that is a toggle (the attributes of Front, with their meaning) or a fault (Front.fault). All methods
of Cluster and Front may be called from any thread; attributes may be set while the front runs.
"""
import asyncio
import collections
import datetime
import itertools
import os
import random
import socket
import struct
import threading
import time
import zlib

from bson import Binary, Int64, ObjectId, Timestamp
from bson.raw_bson import RawBSONDocument

from fake import scram, wire

SESSION_FIELDS = frozenset(("lsid", "txnNumber", "autocommit", "startTransaction", "recoveryToken", "$clusterTime", "readConcern"))
HELLO = ("hello", "ismaster")
BEFORE_LOGIN = HELLO + ("saslstart", "saslcontinue", "logout", "ping", "buildinfo", "connectionstatus", "endsessions", "getnonce",
                        "configurefailpoint")
CODES = {6: "HostUnreachable", 9: "FailedToParse", 13: "Unauthorized", 17: "ProtocolError", 18: "AuthenticationFailed",
         43: "CursorNotFound", 91: "ShutdownInProgress", 117: "ConflictingOperationInProgress", 186: "ClientMetadataCannotBeMutated", 225: "TransactionTooOld", 251: "NoSuchTransaction", 256: "TransactionCommitted",
         352: "UnsupportedOpQueryCommand", 354: "LoadBalancerSupportMismatch", 11600: "InterruptedAtShutdown"}

Seen = collections.namedtuple("Seen", "at connection name body message")
Seen.__doc__ = "One message that came: when (monotonic), on which Client, the command's name, its document, the wire.Message."


class Error(Exception):
    """An answer with ok 0."""

    def __init__(self, code, text, labels=(), **more):
        super().__init__(text)
        self.document = {"ok": 0.0, "errmsg": text, "code": code, "codeName": CODES.get(code, "Location%d" % code), **more}
        if labels:
            self.document["errorLabels"] = list(labels)


class Fault:
    """What goes wrong, and how often: see Front.fault."""

    FIELDS = dict(delay=0, error=None, write_concern_error=None, silent=False, close=False, cut=None, then="close", raw=None,
                  header=None, pieces=None, pause=0.01, bad_crc=False, skip=0, app_name=None, hold=False)

    def __init__(self, front, commands, times, what):
        unknown = set(what) - set(self.FIELDS)
        assert not unknown, "no such fault: %s" % unknown
        self.front = front
        self.commands = None if commands is None else {c.lower() for c in ([commands] if isinstance(commands, str) else commands)}
        self.times = times
        self.hits = 0
        self.held = self.most_held = 0  # commands that wait for release(); the most of them at any time
        self._released = asyncio.Semaphore(0)
        self.__dict__.update(self.FIELDS, **what)

    def fits(self, client, name):
        name = name.lower()
        if self.commands is not None and name not in self.commands and not (name in HELLO and self.commands & set(HELLO)):
            return False
        if self.app_name is not None and client.app_name != self.app_name:
            return False
        self.hits += 1
        if self.hits <= self.skip:
            return False
        return self.times is None or self.hits <= self.skip + self.times

    async def wait(self):
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        await self._released.acquire()
        self.held -= 1

    def release(self, count=1):
        """So many of those that are held go on, the first first; or as many as come later."""
        self.front.cluster.call(lambda: [self._released.release() for _ in range(count)])

    def clear(self):
        """It is over, also for those that are held."""
        if self in self.front.faults:
            self.front.faults.remove(self)
        self.release(self.held)


class Cursor:
    def __init__(self, ns, lsid, transaction, client, upstream_id=None, tail=None):
        self.ns = ns
        self.lsid = lsid
        self.transaction = transaction  # txnNumber, or None
        self.client = client            # who opened it
        self.upstream_id = upstream_id
        self.tail = tail                # of a tailable cursor: {"find": the find without its options, "seen": count, "await": bool}


class Transaction:
    def __init__(self, number):
        self.number = number
        self.state = "in progress"  # committed, aborted
        self.client = None


class Client:
    """One connection that a front accepted."""

    numbers = itertools.count(1)

    def __init__(self, front, reader, writer, from_load_balancer):
        self.front = front
        self.number = next(Client.numbers)
        self.reader, self.writer = reader, writer
        self.from_load_balancer = from_load_balancer
        self.peer = writer.get_extra_info("peername")
        self.proxy = None      # (source address, port, destination address, port) of the PROXY header; () for LOCAL and UNKNOWN
        self.hellos = []       # documents, in the order they came
        self.metadata = None   # `client` of the first hello that had it
        self.user = None
        self.login = None
        self.compress = False
        self.messages = 0
        self.unanswered = False  # a request has come to which the answer has not gone out
        self.is_open = True
        self.malformed = None  # why the front closed it
        self.gone = asyncio.Event()
        self.incoming = asyncio.Queue(1)

    @property
    def app_name(self):
        try:
            return self.metadata["application"]["name"] if self.metadata is not None else None
        except KeyError:
            return None

    # ---- bytes ----

    async def _exactly(self, n):
        rate = self.front.read_rate
        if not rate:
            return await self.reader.readexactly(n)
        data = b""
        while len(data) < n:
            piece = await self.reader.read(min(n - len(data), max(1, rate // 50)))
            if not piece:
                raise asyncio.IncompleteReadError(data, n)
            data += piece
            await asyncio.sleep(len(piece) / rate)
        return data

    async def _proxy_header(self):
        """PROXY protocol v1 or v2, as mongos' loadBalancerPort demands it."""
        start = await self._exactly(12)
        if start == b"\r\n\r\n\0\r\nQUIT\n":
            version, family, size = struct.unpack("!BBH", await self._exactly(4))
            rest = await self._exactly(size)
            if version >> 4 != 2:
                raise wire.Malformed("PROXY version %d" % (version >> 4))
            if version & 15 == 0 or family >> 4 not in (1, 2):
                return ()
            width, kind = (4, socket.AF_INET) if family >> 4 == 1 else (16, socket.AF_INET6)
            ports = struct.unpack_from("!HH", rest, 2 * width)
            return (socket.inet_ntop(kind, rest[:width]), ports[0], socket.inet_ntop(kind, rest[width:2 * width]), ports[1])
        if start[:6] == b"PROXY ":
            line = start
            while not line.endswith(b"\r\n"):
                if len(line) >= 107:
                    raise wire.Malformed("a PROXY line without an end")
                line += await self._exactly(1)
            words = line.decode("ascii").split()
            return () if words[1] == "UNKNOWN" else (words[2], int(words[4]), words[3], int(words[5]))
        raise wire.Malformed("no PROXY header but %r" % start)

    async def read(self):
        """Messages, one after the other, into `incoming`; None at the end."""
        try:
            if self.from_load_balancer:
                self.proxy = await self._proxy_header()
            while True:
                await self.front.thawed.wait()
                head = await self._exactly(wire.HEADER)
                length = wire.header(head)[0]
                data = head + await self._exactly(length - wire.HEADER)
                self._record("in", data)
                message = wire.parse(data)
                self.front.overlaps += self.unanswered
                self.unanswered = message.opcode != wire.OP_MSG or not message.flags & wire.MORE_TO_COME
                await self.incoming.put(message)
        except (asyncio.IncompleteReadError, OSError):
            pass
        except (wire.Malformed, ValueError, IndexError, struct.error, zlib.error) as e:
            self.malformed = str(e)
        self.gone.set()
        await self.incoming.put(None)

    def _record(self, direction, data):
        if self.front.record:
            with open(os.path.join(self.front.record, "%d.%s" % (self.number, direction)), "ab") as f:
                f.write(data)

    def end(self, reset=False):
        if reset:
            try:
                self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
            self.writer.transport.abort()
        else:
            self.writer.close()

    async def send(self, to, document, flags=0, fault=None, response_to=None):
        """Sends a reply; its requestID is returned. `fault` says how it goes wrong."""
        front = self.front
        request_id = next(front.request_ids) & 0x7FFFFFFF
        response_to = to.request_id if response_to is None else response_to
        if to.opcode == wire.OP_QUERY:
            data = wire.op_reply(document, request_id, response_to)
        else:
            checksum = front.checksums == "always" or front.checksums == "mirror" and bool(to.flags & wire.CHECKSUM_PRESENT)
            data = wire.op_msg(document, request_id, response_to, flags, checksum=checksum or bool(fault and fault.bad_crc))
            if to.compressor is not None:
                data = wire.compressed(data)
        await front.thawed.wait()
        self.unanswered = False
        self._record("out", data)
        if fault is None and not front.write_rate:
            self.writer.write(data)
            await self.writer.drain()
        else:
            await self._send_badly(data, fault)
        return request_id

    async def _send_badly(self, data, fault):
        pieces, pause = None, 0
        if self.front.write_rate:
            pieces = max(1, self.front.write_rate // 50)
            pause = pieces / self.front.write_rate
        if fault is not None:
            if fault.raw is not None:
                data = fault.raw
            if fault.bad_crc:
                data = data[:-4] + bytes(b ^ 255 for b in data[-4:])
            if fault.header:
                fields = dict(zip(("length", "request_id", "response_to", "opcode"), struct.unpack_from("<iiii", data)))
                fields.update(fault.header)
                data = struct.pack("<iiii", *fields.values()) + data[16:]
            if fault.pieces:
                pieces, pause = fault.pieces, fault.pause
            if fault.cut is not None:
                data = data[:fault.cut]
        for at in range(0, len(data), pieces or len(data) or 1):
            self.writer.write(data[at:at + (pieces or len(data))])
            await self.writer.drain()
            if pause:
                await asyncio.sleep(pause)
        if fault is not None and fault.cut is not None:
            if fault.then == "pause":
                await self.gone.wait()
            self.end(reset=fault.then == "reset")

    # ---- one message after the other ----

    async def serve(self):
        reading = asyncio.ensure_future(self.read())
        try:
            while True:
                message = await self.incoming.get()
                if message is None:
                    break
                await self._one(message)
                if self.writer.is_closing():
                    break
        except (OSError, asyncio.CancelledError):
            pass
        except wire.Malformed as e:
            self.malformed = str(e)
        finally:
            reading.cancel()
            self.is_open = False
            self.gone.set()
            self.front.on_end(self)
            self.writer.close()

    async def _one(self, message):
        front = self.front
        self.messages += 1
        name = message.name
        front.saw(self, name, message)
        fault = next((f for f in list(front.faults) if f.fits(self, name)), None)
        if fault is not None:
            if fault.hold:
                await fault.wait()
            if fault.delay:
                await asyncio.sleep(fault.delay)
            if fault.close:
                return self.end(reset=fault.then == "reset")
        if front.silent or fault is not None and fault.silent:
            return None
        if fault is not None and fault.error is not None:
            more = {k: v for k, v in fault.error.items() if k not in ("code", "errmsg")}
            document = Error(fault.error.get("code", 1), fault.error.get("errmsg", "a fault of the test"), **more).document
            front.after_error(message.body)
        elif message.opcode == wire.OP_QUERY and name.lower() not in HELLO:
            document = Error(352, "Unsupported OP_QUERY command: %s" % name).document
        else:
            document = await front.answer(self, message)
        if fault is not None and fault.write_concern_error is not None:
            document = wire.with_fields(wire.encoded(document), {"writeConcernError": fault.write_concern_error})
        if message.flags & wire.MORE_TO_COME and message.opcode == wire.OP_MSG:
            return None
        if self.writer.is_closing():
            return None
        if message.flags & wire.EXHAUST_ALLOWED and message.opcode == wire.OP_MSG and fault is None:
            return await self._exhaust(message, name, document)
        return await self.send(message, front.finish(document), fault=fault)

    async def _exhaust(self, message, name, document):
        """Replies that chain: each names the one before it as what it answers; the last one has moreToCome clear."""
        front = self.front
        response_to = message.request_id
        while True:
            if name.lower() in HELLO:
                more = front.exhaust_hello and "topologyVersion" in message.body and front.is_ok(document)
            else:
                more = front.exhaust_getmore and name == "getMore" and front.is_ok(document) and _cursor_id(document) != 0
            flags = wire.MORE_TO_COME if more else 0
            response_to = await self.send(message, front.finish(document), flags, response_to=response_to)
            if not more or self.writer.is_closing() or self.gone.is_set():
                return
            if name.lower() in HELLO:
                known = front.topology_version()
                document = await front.awaited_hello(self, message.body, known)
            else:
                document = await front.answer(self, message)
            fault = next((f for f in list(front.faults) if f.fits(self, name)), None)
            if fault is not None:
                await self.send(message, front.finish(document), fault=fault, response_to=response_to)
                return
            if self.gone.is_set():
                return


def _cursor_id(document):
    document = document if not isinstance(document, bytes) else RawBSONDocument(document)
    return document["cursor"]["id"] if "cursor" in document else 0


def lsid_of(body):
    return bytes(body["lsid"]["id"]) if "lsid" in body else None


class Front:
    """One mongos. The attributes below are its toggles."""

    isdbgrid = True           # says msg: "isdbgrid" in hello
    min_wire = 0
    max_wire = 21
    hello_fields = {}         # added to hello's answer, or instead of what stands there; None takes a field away
    ok_as = float             # the type of ok in hello's answer: float, int or bool
    topology_versions = True  # hello carries topologyVersion, and waits where it is asked to (else it answers at once)
    exhaust_hello = True      # chains hello's answers where it is allowed to
    exhaust_getmore = True    # chains getMore's answers where it is allowed to (mongos 7.1)
    checksums = "mirror"      # CRC-32C on replies: "mirror" what the request has, "always", "never"
    compressors = ("zlib",)   # what hello offers of what it was asked for; only zlib is understood
    cursor_order = "mongos"   # firstBatch before id but id before nextBatch; or "id first", "batch first"
    cursor_ids = "random"     # 63 bits as mongos has them; "count": from 1, so that the fronts' ids collide
    check_cursors = True      # off: any cursor of FerretDB's is known here (43 never), whoever opened it
    check_lsid = True         # off: no 50799-50804
    check_transactions = True  # off: never 251, 225 or 256
    check_metadata = True     # off: never 186
    retryable_writes = True   # off: each is done as often as it comes
    check_load_balanced = True  # off: loadBalanced is taken on every port
    cluster_time = True       # $clusterTime and operationTime in every reply
    recovery_tokens = True    # a recoveryToken in a transaction's replies; with it a commit may come to another front
    test_commands = False     # getCmdLineOpts says enableTestCommands, so that drivers' tests use configureFailPoint
    users = None              # {name: password}: who may log in (SCRAM-SHA-256, SCRAM-SHA-1, PLAIN), and then everyone must
    mechanisms = scram.MECHANISMS  # by which
    rounds = scram.ROUNDS     # of SCRAM
    salt = ""                 # changed: all users' salts are others
    speculative = True        # takes speculativeAuthenticate in hello
    skip_empty = True         # leaves out the empty exchange at the end of a login where it is asked to
    sasl_answer = None        # called with (number of the step, its payload, the answer): gives what is answered instead
    silent = False            # reads everything, answers nothing
    read_rate = 0             # bytes a second that are read from each client; 0: as they come
    write_rate = 0            # bytes a second that are sent to each client; 0: as they go
    receive_buffer = 0        # SO_RCVBUF of accepted connections, from the next start() on; 0: the system's
    record = None             # a folder: all bytes of connection N go to the files N.in and N.out there (samples for parsers)
    keep_seen = True          # remembers every message in `seen`; off for tests of many or large ones

    def __init__(self, cluster, name, **toggles):
        self.cluster = cluster
        self.name = name
        self.port = self.load_balancer_port = None  # stay the same over stop() and start()
        self.request_ids = itertools.count(random.randrange(1, 1 << 20))
        self.faults = []
        self.everyone = []     # every Client there was
        self.clients = set()   # those that are connected
        self.seen = []
        self.overlaps = 0         # requests that came before the answer to the one before, on the same connection
        self.most_connections = 0  # at any time, since clear()
        self._servers = []
        self._forget()
        self.set(**toggles)

    def set(self, **toggles):
        for toggle, value in toggles.items():
            assert hasattr(type(self), toggle), "no such toggle: " + toggle
            setattr(self, toggle, value)

    def _forget(self):
        """What a process that starts anew does not know."""
        self.process_id = ObjectId()
        self.service_id = ObjectId()
        self.counter = 0
        self.cursors = {}
        self.transactions = {}
        self.quiet_until = None  # quiesce mode until then (monotonic); 0: shut down
        self._next_cursor = 1
        self._idle = []

    # ---- what tests call ----

    @property
    def address(self):
        return "127.0.0.1:%d" % self.port

    @property
    def load_balancer_address(self):
        return "127.0.0.1:%d" % self.load_balancer_port

    def fault(self, commands=None, times=None, **what):
        """Makes something go wrong for these commands, so many times (None: always). `commands` is a name or several, None all of them;
        hello means isMaster too.

        hold        the command is looked at only when the fault's release() lets it; the fault counts what is `held`, and `most_held`
        delay       seconds before the command is looked at
        error       {"code", "errmsg", "errorLabels", ...}: answered with ok 0, not executed
        write_concern_error   added to the answer
        silent      never answered, not executed; the connection stays
        close       closed instead, not executed
        cut, then   executed, but only so many bytes of the answer go out; then "close", "reset" or "pause" (until the peer leaves)
        raw         executed, and these bytes go out instead of the answer
        header      {"length", "request_id", "response_to", "opcode"}: these of the answer's header are wrong
        pieces, pause         the answer goes out in pieces of so many bytes, so many seconds apart
        bad_crc     the answer has a checksum, a wrong one
        skip        the first so many times all is well
        app_name    only clients whose application.name is this
        """
        fault = Fault(self, commands, times, what)
        self.faults.append(fault)
        return fault

    def clear_faults(self):
        self.faults = []

    def freeze(self):
        """As SIGSTOP does: the system still accepts connections, nothing is read or answered."""
        self.cluster.call(self.thawed.clear)

    def thaw(self):
        self.cluster.call(self.thawed.set)

    def quiesce(self, milliseconds=15000):
        """As SIGTERM does from 5.0: hello answers 91, waiting ones at once; operations go on until the time is over, then 11600."""
        def begin():
            self.quiet_until = time.monotonic() + milliseconds / 1000
            self._changed()
        self.cluster.call(begin)

    def interrupt(self):
        """The end of quiesce mode: every operation is answered with 11600."""
        self.quiesce(0)

    def recover(self):
        """Quiesce mode is over as if it had never been (a real mongos would be a new process: see stop and start)."""
        def end():
            self.quiet_until = None
            self._changed()
        self.cluster.call(end)

    def change_topology(self):
        """A new topologyVersion: waiting hellos are answered."""
        self.cluster.call(self._changed)

    def start(self, load_balancer=None):
        """Listens, on the same ports as before."""
        self.cluster.run(self._start(load_balancer))
        return self

    def stop(self, reset=False):
        """The process dies: listeners and connections close, cursors and transactions are forgotten."""
        self.cluster.run(self._stop(reset))

    def restart(self, reset=False):
        """It dies, and another process takes its place at once."""
        self.stop(reset)
        self.start()

    def drop_clients(self, reset=False):
        """Closes all connections; the process lives on."""
        self.cluster.call(lambda: [c.end(reset) for c in list(self.clients)])

    def forget_cursors(self):
        """As if all had timed out."""
        self.cluster.call(self.cursors.clear)

    def commands(self, *names):
        """What came of these commands, oldest first; without a name all."""
        wanted = {n.lower() for n in names}
        return [s for s in list(self.seen) if not wanted or s.name.lower() in wanted]

    def app_names(self):
        """How many connections each application.name has now."""
        return collections.Counter(c.app_name for c in list(self.clients))

    def clear(self):
        """Forgets what it saw."""
        self.seen = []
        self.everyone = list(self.clients)
        self.overlaps, self.most_connections = 0, len(self.clients)

    # ---- the life of a front ----

    async def _start(self, load_balancer):
        if not hasattr(self, "thawed"):
            self.thawed = asyncio.Event()
            self._change = asyncio.Event()
        self.thawed.set()
        self._upstreams = asyncio.Semaphore(64)
        self.port = await self._listen(self.port, False)
        if load_balancer or load_balancer is None and self.load_balancer_port:
            self.load_balancer_port = await self._listen(self.load_balancer_port, True)

    async def _listen(self, port, from_load_balancer):
        async def accept(reader, writer):
            client = Client(self, reader, writer, from_load_balancer)
            self.clients.add(client)
            self.most_connections = max(self.most_connections, len(self.clients))
            self.everyone.append(client)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await client.serve()

        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        sock.bind(("127.0.0.1", port or self.cluster.free_port()))
        self._servers.append(await asyncio.start_server(accept, sock=sock, backlog=1024, limit=self.receive_buffer or 1 << 16))
        return sock.getsockname()[1]

    async def _stop(self, reset):
        for server in self._servers:
            server.close()
        self._servers = []
        for client in list(self.clients):
            client.end(reset)
        for _, writer in self._idle:
            writer.close()
        self._forget()
        self._changed()
        self.thawed.set()
        await asyncio.sleep(0)

    def on_end(self, client):
        self.clients.discard(client)
        if client.from_load_balancer:
            for cursor_id in [i for i, c in self.cursors.items() if c.client is client]:
                del self.cursors[cursor_id]
            for lsid in [s for s, t in self.transactions.items() if t.client is client and t.state == "in progress"]:
                del self.transactions[lsid]

    def saw(self, client, name, message):
        if name.lower() in HELLO:
            client.hellos.append(message.body)
        if self.keep_seen:
            self.seen.append(Seen(time.monotonic(), client, name, message.body, message))

    def _changed(self):
        self.counter += 1
        waiting, self._change = self._change, asyncio.Event()
        waiting.set()

    # ---- FerretDB ----

    async def relay(self, document, sequences=()):
        """One command to FerretDB, on a connection that no other command has meanwhile."""
        async with self._upstreams:
            reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self.cluster.database)
            idle = self._idle
            writer.write(wire.op_msg(document, next(self.request_ids) & 0x7FFFFFFF, sequences=sequences))
            head = await reader.readexactly(wire.HEADER)
            reply = wire.parse(head + await reader.readexactly(wire.header(head)[0] - wire.HEADER))
            idle.append((reader, writer))
            return reply.body

    @staticmethod
    def is_ok(document):
        document = document if not isinstance(document, bytes) else RawBSONDocument(document)
        return bool(document.get("ok"))

    def finish(self, document):
        data = wire.encoded(document)
        if self.cluster_time:
            now = self.cluster.tick()
            signature = {"hash": b"\0" * 20, "keyId": Int64(0)}
            data = wire.with_fields(data, {"$clusterTime": {"clusterTime": now, "signature": signature}, "operationTime": now})
        return data

    # ---- commands ----

    async def answer(self, client, message):
        """The answer to one command, as a document (decoded or not)."""
        body = message.body
        name = message.name
        try:
            if name.lower() in HELLO:
                return await self._hello(client, body)
            if self.quiet_until is not None and time.monotonic() >= self.quiet_until:
                raise Error(11600, "interrupted at shutdown", topologyVersion=self.topology_version())
            if self.users is not None and client.user is None and name.lower() not in BEFORE_LOGIN:
                raise Error(13, "Command %s requires authentication" % name)
            transaction = self._transaction(client, name, body)
            try:
                document = await self._once(client, message, name, body)
            except Error as e:
                self._failed(transaction, e.document)
                raise
            if transaction is None:
                return document
            self._failed(transaction, document)
            if self.recovery_tokens:
                document = wire.with_fields(wire.encoded(document), {"recoveryToken": {"recoveryShardId": "shard0"}})
            return document
        except Error as e:
            return e.document
        except (KeyError, TypeError, ValueError) as e:
            return Error(9, "%s is not as it should be: %r" % (name, e)).document
        except (OSError, asyncio.IncompleteReadError) as e:
            return Error(6, "the database behind the front is gone: %r" % e).document

    async def _once(self, client, message, name, body):
        """A retryable write that came before gets the answer of then: the shards remember the last one of each session."""
        if "txnNumber" not in body or "autocommit" in body or "lsid" not in body or not self.retryable_writes:
            return await self._execute(client, message, name, body)
        lsid, number = lsid_of(body), body["txnNumber"]
        known, work = self.cluster.writes.get(lsid, (None, None))
        if known is not None and known > number:
            raise Error(225, "txnNumber %d is less than last txnNumber %d seen in session" % (number, known))
        if known != number:
            work = asyncio.ensure_future(self._execute(client, message, name, body))
            self.cluster.writes[lsid] = (number, work)
        try:
            document = await asyncio.shield(work)
        except BaseException:
            self.cluster.writes.pop(lsid, None)
            raise
        if not self.is_ok(document):
            self.cluster.writes.pop(lsid, None)
        return document

    async def _execute(self, client, message, name, body):
        own = getattr(self, "_do_" + name, None)
        if own is not None:
            return await own(client, body)
        sequences = [(s[1], s[2]) for s in message.sections if s[0] == 1]
        if name == "find" and body.get("tailable"):
            return await self._find_tailable(client, body)
        plain = wire.without_fields(body, SESSION_FIELDS) if any(f in body for f in SESSION_FIELDS) else body
        return self._with_cursor(client, body, await self.relay(plain, sequences))

    def after_error(self, body):
        """An error within a transaction ends it."""
        if "lsid" in body and body.get("autocommit") is False:
            known = self.transactions.get(lsid_of(body))
            under_way = known is not None and known.number == body["txnNumber"] and known.state == "in progress"
            if under_way and next(iter(body)) != "commitTransaction":
                known.state = "aborted"

    # hello

    def topology_version(self):
        return {"processId": self.process_id, "counter": Int64(self.counter)}

    def _hello_document(self, client, body):
        if self.quiet_until is not None:
            left = max(0, int((self.quiet_until - time.monotonic()) * 1000))
            raise Error(91, "mongos is in quiesce mode and will shut down", topologyVersion=self.topology_version(),
                        remainingQuiesceTimeMillis=Int64(left))
        first = next(iter(body))
        document = {"isWritablePrimary" if first == "hello" else "ismaster": True}
        if body.get("helloOk"):
            document["helloOk"] = True
        if self.isdbgrid:
            document["msg"] = "isdbgrid"
        if self.topology_versions:
            document["topologyVersion"] = self.topology_version()
        document.update(maxBsonObjectSize=16777216, maxMessageSizeBytes=48000000, maxWriteBatchSize=100000,
                        localTime=self.cluster.now(), logicalSessionTimeoutMinutes=30, connectionId=client.number,
                        minWireVersion=self.min_wire, maxWireVersion=self.max_wire)
        offered = [c for c in body.get("compression", ()) if c in self.compressors]
        if offered:
            document["compression"] = offered
        if "saslSupportedMechs" in body and self.users is not None:
            if body["saslSupportedMechs"].partition(".")[2] in self.users:
                document["saslSupportedMechs"] = [m for m in self.mechanisms if m != "PLAIN"]
        if client.from_load_balancer:
            document["serviceId"] = self.service_id
        document.update(self.hello_fields)
        document = {k: v for k, v in document.items() if v is not None}
        document["ok"] = self.ok_as(1)
        return document

    def _check_hello(self, client, body):
        waits = ("topologyVersion" in body) + ("maxAwaitTimeMS" in body)
        if waits == 1:
            raise Error(51760, "A request with 'topologyVersion' must include 'maxAwaitTimeMS', and the other way round")
        if waits and body["maxAwaitTimeMS"] < 0:
            raise Error(51759, "'maxAwaitTimeMS' must be a non-negative integer")
        if self.check_load_balanced:
            if client.from_load_balancer and not body.get("loadBalanced"):
                raise Error(354, "The server is being accessed through a load balancer, but loadBalanced is not in hello")
            if not client.from_load_balancer and body.get("loadBalanced"):
                raise Error(354, "loadBalanced is in hello, but this is not the load balancer's port")
        if "client" in body:
            if client.metadata is not None and self.check_metadata:
                raise Error(186, "The client metadata document may only be sent in the first hello")
            if client.metadata is None:
                client.metadata = body["client"]

    async def _hello(self, client, body):
        self._check_hello(client, body)
        if self.topology_versions and "topologyVersion" in body:
            asked = body["topologyVersion"]
            if asked["processId"] == self.process_id:
                if asked["counter"] > self.counter:
                    raise Error(51764, "the topologyVersion's counter %d is ahead of %d" % (asked["counter"], self.counter))
                if asked["counter"] == self.counter:
                    return await self.awaited_hello(client, body, asked)
        document = self._hello_document(client, body)
        if "speculativeAuthenticate" in body and self.users is not None and self.speculative:
            try:
                started = dict(body["speculativeAuthenticate"])
                document["speculativeAuthenticate"] = await self._do_saslStart(client, started)
            except (Error, KeyError):
                pass  # the driver logs in again, and is told then
        return document

    async def awaited_hello(self, client, body, known):
        """Answers when the topologyVersion is another one, or maxAwaitTimeMS is over, or the client is gone."""
        if self.counter == known["counter"] and self.quiet_until is None:
            change = asyncio.ensure_future(self._change.wait())
            gone = asyncio.ensure_future(client.gone.wait())
            await asyncio.wait({change, gone}, timeout=body["maxAwaitTimeMS"] / 1000, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            gone.cancel()
        try:
            return self._hello_document(client, body)
        except Error as e:
            return e.document

    # login

    async def _do_saslStart(self, client, body):
        client.user = None
        try:
            client.login = scram.Login(self.users or {}, body["mechanism"], self.mechanisms, self.rounds, self.salt)
            client.login.skip_empty = self.skip_empty and bool(body.get("options", {}).get("skipEmptyExchange"))
            client.login.steps = 0
            return self._sasl_step(client, body)
        except scram.Refused:
            client.login = None
            raise Error(18, "Authentication failed.") from None

    async def _do_saslContinue(self, client, body):
        if client.login is None or body.get("conversationId") != 1:
            raise Error(17, "No SASL session state found")
        try:
            return self._sasl_step(client, body)
        except scram.Refused:
            client.login = None
            raise Error(18, "Authentication failed.") from None

    def _sasl_step(self, client, body):
        payload, done = client.login.step(bytes(body["payload"]))
        done = done or client.login.proven and client.login.skip_empty
        client.login.steps += 1
        answer = {"conversationId": 1, "done": done, "payload": Binary(payload, 0), "ok": 1.0}
        if self.sasl_answer is not None:
            answer = self.sasl_answer(client.login.steps, payload, answer)
        if done:
            client.user = client.login.user
            client.login = None
        return answer

    async def _do_logout(self, client, _body):
        client.user = None
        return {"ok": 1.0}

    async def _do_connectionStatus(self, client, _body):
        users = [{"user": client.user, "db": "admin"}] if client.user else []
        return {"authInfo": {"authenticatedUsers": users, "authenticatedUserRoles": []}, "ok": 1.0}

    # sessions and transactions

    async def _do_startSession(self, _client, _body):
        return {"id": {"id": Binary(os.urandom(16), 4)}, "timeoutMinutes": 30, "ok": 1.0}

    async def _do_endSessions(self, _client, body):
        for session in next(iter(body.values())):
            lsid = bytes(session["id"])
            self.transactions.pop(lsid, None)
            for cursor_id in [i for i, c in self.cursors.items() if c.lsid == lsid]:
                del self.cursors[cursor_id]
        return {"ok": 1.0}

    async def _do_killAllSessions(self, _client, _body):
        """Whoever's they are."""
        self.transactions.clear()
        self.cursors.clear()
        return {"ok": 1.0}

    _do_killAllSessionsByPattern = _do_killAllSessions

    async def _do_refreshSessions(self, _client, _body):
        return {"ok": 1.0}

    _do_killSessions = _do_endSessions

    def _transaction(self, client, name, body):
        """The transaction that this statement belongs to, or None; an error if it is not known here."""
        if body.get("autocommit") is not False or "lsid" not in body or not self.check_transactions:
            return None
        lsid, number = lsid_of(body), body["txnNumber"]
        known = self.transactions.get(lsid)
        if known is not None and known.number > number:
            raise Error(225, "txnNumber %d is less than last txnNumber %d seen in session" % (number, known.number))
        if body.get("startTransaction"):
            if known is not None and known.number == number:
                raise Error(117, "txnNumber %d has been used already" % number)
            known = self.transactions[lsid] = Transaction(number)
            known.client = client
            self.cluster.outcomes[lsid, number] = "in progress"
            return known
        if known is None or known.number != number:
            if name == "commitTransaction" and body.get("recoveryToken") and self.recovery_tokens:
                return self._recovered(lsid, number)
            raise Error(251, "cannot continue txnId %d for session with txnId %d" % (known.number if known else -1, number),
                        ["TransientTransactionError"])
        if known.state == "aborted":
            raise Error(251, "Transaction with { txnNumber: %d } has been aborted." % number, ["TransientTransactionError"])
        if known.state == "committed" and name != "commitTransaction":
            raise Error(256, "Transaction with { txnNumber: %d } has been committed." % number)
        return known

    def _recovered(self, lsid, number):
        """A commit with recoveryToken at a mongos that did not see the transaction: what the shard knows counts, and ends it."""
        if self.cluster.outcomes.get((lsid, number)) != "committed":
            self.cluster.outcomes[lsid, number] = "aborted"
            raise Error(251, "Transaction %d has been aborted." % number, ["TransientTransactionError"])
        known = self.transactions[lsid] = Transaction(number)
        known.state = "committed"
        return known

    def _failed(self, transaction, document):
        if transaction is not None and transaction.state == "in progress" and (not self.is_ok(document) or "writeErrors" in document):
            transaction.state = "aborted"

    async def _do_commitTransaction(self, _client, body):
        known = self.transactions.get(lsid_of(body))
        if body.get("autocommit") is not False or known is None:
            raise Error(251, "there is no transaction", ["TransientTransactionError"])
        known.state = "committed"
        self.cluster.outcomes[lsid_of(body), known.number] = "committed"
        return {"ok": 1.0}

    async def _do_abortTransaction(self, _client, body):
        known = self.transactions.get(lsid_of(body))
        if body.get("autocommit") is not False or known is None:
            raise Error(251, "there is no transaction", ["TransientTransactionError"])
        known.state = "aborted"
        self.cluster.outcomes[lsid_of(body), known.number] = "aborted"
        return {"ok": 1.0}

    # cursors

    def _open(self, cursor):
        if self.cursor_ids == "count":
            cursor_id, self._next_cursor = self._next_cursor, self._next_cursor + 1
        else:
            cursor_id = random.getrandbits(62) + 1
        self.cursors[cursor_id] = cursor
        return cursor_id

    def _reply(self, name, cursor_id, ns, batch, rest=None, more=None):
        """A reply with a cursor, its fields in the order that the toggle says."""
        batch_name = "nextBatch" if name == "getMore" else "firstBatch"
        batch_first = self.cursor_order == "batch first" or self.cursor_order == "mongos" and name != "getMore"
        cursor = {batch_name: batch} if batch_first else {}
        cursor.update(id=Int64(cursor_id), ns=ns)
        cursor.setdefault(batch_name, batch)
        cursor.update(rest or {})
        return {"cursor": cursor, "ok": 1.0, **(more or {})}

    def _with_cursor(self, client, body, reply):
        """FerretDB's reply; a cursor in it is entered here under an id of this front's."""
        inner = reply.get("cursor")
        if not isinstance(inner, RawBSONDocument) or "id" not in inner or not reply.get("ok"):
            return reply
        cursor_id = inner["id"]
        if cursor_id and self.check_cursors:
            transaction = body["txnNumber"] if body.get("autocommit") is False else None
            cursor_id = self._open(Cursor(inner["ns"], lsid_of(body), transaction, client, upstream_id=cursor_id))
        rest = {k: v for k, v in inner.items() if k not in ("id", "ns", "firstBatch")}
        more = {k: v for k, v in reply.items() if k not in ("cursor", "ok")}
        return self._reply("find", cursor_id, inner["ns"], inner["firstBatch"], rest, more)

    def _check_owner(self, cursor_id, cursor, body):
        if not self.check_lsid:
            return
        lsid, transaction = lsid_of(body), body["txnNumber"] if body.get("autocommit") is False else None
        about = "Cannot run getMore on cursor %d, which was " % cursor_id
        if lsid is not None and cursor.lsid is None:
            raise Error(50799, about + "not created in a session, in session %s" % lsid.hex())
        if lsid is None and cursor.lsid is not None:
            raise Error(50800, about + "created in session %s, without an lsid" % cursor.lsid.hex())
        if lsid != cursor.lsid:
            raise Error(50801, about + "created in session %s, in session %s" % (cursor.lsid.hex(), lsid.hex()))
        if transaction is not None and cursor.transaction is None:
            raise Error(50802, about + "not created in a transaction, in transaction %d" % transaction)
        if transaction is None and cursor.transaction is not None:
            raise Error(50803, about + "created in transaction %d, without a txnNumber" % cursor.transaction)
        if transaction != cursor.transaction:
            raise Error(50804, about + "created in transaction %d, in transaction %d" % (cursor.transaction, transaction))

    async def _do_getMore(self, client, body):
        cursor_id = body["getMore"]
        if not self.check_cursors:
            reply = await self.relay(wire.without_fields(body, SESSION_FIELDS))
            if not reply.get("ok"):
                return reply
            return self._reply("getMore", reply["cursor"]["id"], reply["cursor"]["ns"], reply["cursor"]["nextBatch"])
        cursor = self.cursors.get(cursor_id)
        if cursor is None or cursor.ns.partition(".")[2] != body["collection"]:
            raise Error(43, "cursor id %d not found" % cursor_id)
        self._check_owner(cursor_id, cursor, body)
        if cursor.tail is not None:
            return await self._more_of_tail(client, cursor_id, cursor, body)
        reply = await self.relay(dict(wire.without_fields(body, SESSION_FIELDS), getMore=Int64(cursor.upstream_id)))
        if not reply.get("ok"):
            return reply
        if reply["cursor"]["id"] == 0:
            self.cursors.pop(cursor_id, None)
        return self._reply("getMore", cursor_id if reply["cursor"]["id"] else 0, cursor.ns, reply["cursor"]["nextBatch"])

    async def _do_killCursors(self, _client, body):
        if not self.check_cursors:
            return await self.relay(wire.without_fields(body, SESSION_FIELDS))
        killed, not_found = [], []
        for cursor_id in body["cursors"]:
            cursor = self.cursors.pop(cursor_id, None)
            (not_found if cursor is None else killed).append(Int64(cursor_id))
            if cursor is not None and cursor.upstream_id:
                await self.relay({"killCursors": body["killCursors"], "cursors": [Int64(cursor.upstream_id)], "$db": body["$db"]})
        return {"cursorsKilled": killed, "cursorsNotFound": not_found, "cursorsAlive": [], "cursorsUnknown": [], "ok": 1.0}

    async def _find_tailable(self, client, body):
        """The first batch; FerretDB says whether the collection is capped. A tailable cursor that finds nothing at first is
        dead."""
        find = wire.without_fields(body, SESSION_FIELDS)
        reply = await self.relay(find)
        if not reply.get("ok"):
            return reply
        batch = list(reply["cursor"]["firstBatch"])
        if reply["cursor"]["id"]:
            await self.relay({"killCursors": body["find"], "cursors": [Int64(reply["cursor"]["id"])], "$db": body["$db"]})
        cursor_id = 0
        if batch:
            for option in ("tailable", "awaitData", "batchSize", "noCursorTimeout"):
                find.pop(option, None)
            tail = {"find": find, "seen": len(batch), "await": bool(body.get("awaitData")), "batch": body.get("batchSize", 0)}
            transaction = body["txnNumber"] if body.get("autocommit") is False else None
            cursor_id = self._open(Cursor(reply["cursor"]["ns"], lsid_of(body), transaction, client, tail=tail))
        return self._reply("find", cursor_id, reply["cursor"]["ns"], batch)

    async def _more_of_tail(self, client, cursor_id, cursor, body):
        tail = cursor.tail
        until = time.monotonic() + (body.get("maxTimeMS", 1000) / 1000 if tail["await"] else 0)
        size = body.get("batchSize", 0) or 101
        while True:
            skip = tail["find"].get("skip", 0) + tail["seen"]
            reply = await self.relay(dict(tail["find"], skip=skip, batchSize=size, singleBatch=True))
            if not reply.get("ok"):
                self.cursors.pop(cursor_id, None)
                return reply
            batch = reply["cursor"]["firstBatch"]
            left = until - time.monotonic()
            if batch or left <= 0 or client.gone.is_set() or cursor_id not in self.cursors or self.quiet_until == 0:
                tail["seen"] += len(batch)
                return self._reply("getMore", cursor_id, cursor.ns, batch)
            await asyncio.sleep(min(left, 0.02))

    # what drivers' own tests ask for

    async def _do_getCmdLineOpts(self, _client, _body):
        argv = ["mongos"] + (["--setParameter", "enableTestCommands=1"] if self.test_commands else [])
        return {"argv": argv, "parsed": {"setParameter": {"enableTestCommands": "1"}} if self.test_commands else {}, "ok": 1.0}

    async def _do_configureFailPoint(self, _client, body):
        """failCommand alone, with the fields that drivers' tests use."""
        if body["configureFailPoint"] != "failCommand":
            raise Error(9, "no such fail point: %s" % body["configureFailPoint"])
        self.faults = [f for f in self.faults if not getattr(f, "fail_command", False)]
        mode, data = body["mode"], body.get("data", {})
        if mode == "off":
            return {"ok": 1.0}
        what = {"delay": data.get("blockTimeMS", 0) / 1000 if data.get("blockConnection") else 0, "app_name": data.get("appName"),
                "close": bool(data.get("closeConnection")), "skip": 0 if mode == "alwaysOn" else mode.get("skip", 0)}
        if "errorCode" in data:
            what["error"] = {"code": data["errorCode"], "errmsg": "Failing command via 'failCommand' failpoint"}
            if data.get("errorLabels"):
                what["error"]["errorLabels"] = list(data["errorLabels"])
        if "writeConcernError" in data:
            what["write_concern_error"] = dict(data["writeConcernError"])
        fault = self.fault(list(data["failCommands"]), None if mode == "alwaysOn" else mode.get("times"), **what)
        fault.fail_command = True
        return {"ok": 1.0}


class Cluster:
    """Several fronts before one database, which is (host, port)."""

    def __init__(self, database, count=3, load_balancer=False, free_port=lambda: 0, **toggles):
        self.database = database
        self.free_port = free_port
        self.outcomes = {}  # of transactions, as the shards know them: (lsid, txnNumber) -> state
        self.writes = {}    # the last retryable write of each session, as the shards know it: lsid -> (txnNumber, its execution)
        self._clock = (0, 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="mongos fronts")
        self._thread.start()
        self.fronts = [Front(self, "mongos%d" % i, **toggles) for i in range(count)]
        for front in self.fronts:
            front.start(load_balancer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __iter__(self):
        return iter(self.fronts)

    def __getitem__(self, i):
        return self.fronts[i]

    def __len__(self):
        return len(self.fronts)

    @property
    def addresses(self):
        return [front.address for front in self.fronts]

    @property
    def load_balancer_addresses(self):
        return [front.load_balancer_address for front in self.fronts]

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def call(self, function):
        async def called():
            return function()
        return self.run(called())

    def set(self, **toggles):
        for front in self.fronts:
            front.set(**toggles)

    def close(self):
        if self._loop.is_closed():
            return
        for front in self.fronts:
            front.stop()
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self):
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def tick(self):
        """The next $clusterTime."""
        now = int(time.time())
        self._clock = (now, self._clock[1] + 1 if self._clock[0] >= now else 1)
        return Timestamp(*self._clock)

    @staticmethod
    def now():
        return datetime.datetime.now(datetime.timezone.utc)
