"""The tests' own tools: the load must see a lie, and the no-heap guard must stop a heap call."""
import os
import signal
import socket
import subprocess
import threading

import pytest

import harness
from harness import Load, free_port


class Liar:
    """A relay before one server that hands every connection's answers through `lie` (bytes so far, part) -> bytes or None to close."""

    def __init__(self, port, lie):
        self.port = free_port()
        self.target = port
        self.lie = lie
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen(100)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, self.lie), daemon=True).start()

    @staticmethod
    def _pump(source, target, lie):
        so_far = 0
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                part = lie(so_far, data) if lie else data
                so_far += len(data)
                if part is None:
                    return Liar._end(source, target)
                target.sendall(part)
        except OSError:
            Liar._end(source, target)

    @staticmethod
    def _end(*sockets):
        # Not close(): the other direction's thread may be waiting in recv.
        for s in sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def at(offset, change):
    """A lie told once per connection, at the part of the answers that holds the byte `offset`."""
    def lie(so_far, data):
        if so_far <= offset < so_far + len(data):
            return change(data, offset - so_far)
        return data

    return lie


LIES = {
    "a byte is changed": at(50000, lambda d, i: d[:i] + bytes([d[i] ^ 1]) + d[i + 1:]),
    "a byte is missing": at(50000, lambda d, i: d[:i] + d[i + 1:]),
    "a byte is added": at(50000, lambda d, i: d[:i] + b"x" + d[i:]),
    "a part comes twice": at(50000, lambda d, i: d + d),
    "a part is missing": at(50000, lambda d, i: b""),
    "an answer too many at the end": lambda so_far, d: d + b"+OK\r\n" if d.endswith(b"+OK\r\n") and so_far > 50000 else d,
    "all answers are OK": lambda so_far, d: b"+OK\r\n" * d.count(b"\r\n"),
}


@pytest.mark.parametrize("name", sorted(LIES))
def test_the_load_sees_a_lie(server, name):
    with Liar(server.port, LIES[name]) as liar, Load(liar.port, "-c", 4, "-n", 4000, "-b", 100000, "-t", 2, "-e") as load:
        result = load.finish()
    assert result.code == 1 and result.wrong > 0, result.text


def test_the_load_sees_errors_and_lost_connections(server):
    with Liar(server.port, at(300000, lambda d, i: None)) as liar:
        with Load(liar.port, "-c", 4, "-n", 4000, "-b", 10000) as load:
            result = load.finish()
        assert result.code == 1 and result.reconnects >= 4 and result.wrong == 0, result.text
        with Load(liar.port, "-c", 4, "-n", 4000, "-b", 10000, "-e") as load:
            result = load.finish()
        # One server knows no slots, so it does not answer CROSSSLOT: such errors are counted and no failure here.
        assert result.code == 0 and result.reconnects >= 4 and result.missing == 0, result.text


def test_the_load_sees_lost_writes(server):
    with Load(server.port, "-c", 4, "-n", 1000000000, "-b", 10000, "-e") as load:
        load.wait_answers(10000)
        server.ask("FLUSHALL")
        result = load.finish(stop=True)
    assert result.code == 1 and result.wrong > 0, result.text


def test_the_load_finds_nothing_wrong_with_the_truth(server):
    with Liar(server.port, lambda so_far, d: d) as liar, Load(liar.port, "-c", 20, "-n", 20000, "-e") as load:
        result = load.finish()
    assert result.code == 0 and result.wrong == 0 and result.keys > 1000, result.text
    assert set(result.table) <= {"ERR no such key"}, result.table


GUARDED = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int puerta_sealed;
int main(int argc, char **argv)
{
    char *volatile p = malloc(10);
    char *volatile none = NULL;
    (void)argc;
    p = realloc(p, 20);
    free(p);
    p = malloc(5);
    puerta_sealed = 1;
    free(none);
    if (strcmp(argv[1], "malloc") == 0) p = malloc(1);
    if (strcmp(argv[1], "calloc") == 0) p = calloc(1, 1);
    if (strcmp(argv[1], "realloc") == 0) p = realloc(p, 100);
    if (strcmp(argv[1], "free") == 0) free(p);
    if (strcmp(argv[1], "strdup") == 0) p = strdup("libc's own");
    if (strcmp(argv[1], "fopen") == 0) fopen("/dev/null", "r");
    return 0;
}
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "t.c").write_text(GUARDED)
    program = str(folder / "t")
    subprocess.run([os.environ.get("CC", "cc"), "-D_POSIX_C_SOURCE=200809L", "-w", "-o", program, str(folder / "t.c"),
                    os.path.join(harness.ROOT, "tests", "noheap.c")], check=True)
    return program


@pytest.mark.parametrize("call", ["malloc", "calloc", "realloc", "free", "strdup", "fopen"])
def test_the_heap_guard_stops(guarded, call):
    done = subprocess.run([guarded, call], stderr=subprocess.PIPE)
    assert done.returncode == -signal.SIGABRT and b"heap call after the seal" in done.stderr


def test_the_heap_guard_lets_pass(guarded):
    assert subprocess.run([guarded, "nothing"]).returncode == 0
