"""The configuration as a user meets it: what a broken file is answered with, -t, -h, -V, and the exit codes of sysexits."""
import base64
import contextlib
import hashlib
import hmac
import os
import pty
import re
import subprocess
import termios

import pytest

import harness

EX_USAGE, EX_UNAVAILABLE, EX_CONFIG = 64, 69, 78
GOOD = "[puerta]\nchunks = 512\n\n[redis main]\nlisten = 127.0.0.1:7777\nnodes = 127.0.0.1:7001, 127.0.0.1:7002\n"


def puerta(*arguments, cwd=None):
    done = subprocess.run([harness.BINARY, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd,
                          timeout=20 * harness.SLOW)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def check(tmp_path, text):
    path = tmp_path / "p.conf"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return puerta("-t", "-c", str(path)) + (str(path),)


KEYS = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
# name: the file, the line to blame, and what the message must hold: the wrong text and the cure
BROKEN = {
    "misspelt key": ("[redis a]\nnodes = 127.0.0.1:1\nlissten = 127.0.0.1:2\n", 3, ["lissten", "listen"]),
    "misspelt section": ("[puerta]\n[rediss a]\nnodes = 127.0.0.1:1\n", 2, ["rediss", "[redis NAME]"]),
    "no nodes": ("[puerta]\n\n[redis a]\nlisten = 127.0.0.1:1\n", 3, ["nodes"]),
    "key before a section": ("nodes = 127.0.0.1:1\n[redis a]\n", 1, ["nodes", "[redis NAME]"]),
    "no value": ("[redis a]\nnodes =\n", 2, ["nodes", "value"]),
    "no equals sign": ("[redis a]\nnodes 127.0.0.1:1\n", 2, ["nodes", "="]),
    "size without sense": ("[puerta]\nchunk_size = 16q\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["16q", "k"]),
    "size out of range": ("[puerta]\nchunk_size = 8g\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["8g", "256k"]),
    "time without a unit": ("[redis a]\nnodes = 127.0.0.1:1\nclient_stall = 10\n", 3, ["10", "ms"]),
    "negative count": ("[puerta]\nmax_clients = -3\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["-3", "1"]),
    "port too high": ("[redis a]\nnodes = 127.0.0.1:70000\n", 2, ["70000", "65535"]),
    "listen on a name": ("[redis a]\nnodes = 127.0.0.1:1\nlisten = localhost:1\n", 3, ["localhost"]),
    "listen twice": ("[redis a]\nnodes = 127.0.0.1:1\nlisten = 127.0.0.1:5\n[redis b]\nnodes = 127.0.0.1:1\nlisten = 127.0.0.1:5\n", 6, ["127.0.0.1:5"]),
    "yes or no": ("[puerta]\nprefault = maybe\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["maybe", "yes", "no"]),
    "key given twice": ("[puerta]\nchunks = 512\nchunks = 1024\n[redis a]\nnodes = 127.0.0.1:1\n", 3, ["chunks"]),
    "command without a shape": ("[puerta]\ncommand = json.get\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["json.get", "first", "count-at-1"]),
    "command of a misspelt shape": ("[puerta]\ncommand = json.get fisrt read\n[redis a]\nnodes = 127.0.0.1:1\n", 2,
                                    ["fisrt", "nearest shape is first", "dest-count-at-2"]),
    "command that is known": ("[puerta]\ncommand = GET first read\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["GET", "take it out"]),
    "command twice": ("[puerta]\ncommand = a.b first\ncommand = A.B all\n[redis a]\nnodes = 127.0.0.1:1\n", 3, ["A.B", "once"]),
    "commands in one line": ("[puerta]\ncommand = a.b first read a.c first\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["one command a line"]),
    "limit over its buffer": ("[puerta]\nupstream_buffer = 64k\n[redis a]\nnodes = 127.0.0.1:1\nshared_reply_limit = 65537\n", 5,
                              ["shared_reply_limit", "upstream_buffer", "65537", "64k"]),
    "word of a list": ("[redis a]\nnodes = 127.0.0.1:1\ntopology = ring\n", 3, ["ring", "cluster", "single"]),
    "open bracket": ("[redis a\nnodes = 127.0.0.1:1\n", 1, ["]"]),
    "zero byte": (b"[redis a]\nnodes = 127.0.0.1:1\nlis\0ten = 1\n", 3, ["zero"]),
    "very long line": ("[redis a]\nnodes = 127.0.0.1:1\n# " + "x" * 100000 + "\nfoo = 1\n", 3, []),
    "empty file": ("", None, ["redis"]),
    "user in another mode": ("[mongo a]\nmongos = 127.0.0.1:1\nuser = app " + KEYS + "\n", 3, ["app", "mode = pooled"]),
    "user with a plain password": ("[mongo a]\nmongos = 127.0.0.1:1\nmode = pooled\nuser = app pencil\n", 4, ["app ******", "puerta hash-password"]),
    "user without a password": ("[mongo a]\nmongos = 127.0.0.1:1\nupstream_user = app\n", 3, ["app", "upstream_password", "upstream_keyfile"]),
    "chroot without a user": ("[puerta]\nchroot = /tmp\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["/tmp", "add user"]),
    "group without a user": ("[puerta]\ngroup = daemon\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["daemon", "add user"]),
    "relative chroot": ("[puerta]\nuser = nobody\nchroot = var\n[redis a]\nnodes = 127.0.0.1:1\n", 3, ["var", "from / on"]),
    "relative pid file": ("[puerta]\npid_file = p.pid\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["p.pid", "from / on"]),
    "unknown facility": ("[puerta]\nsyslog = mail\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["mail", "daemon", "local7"]),
    "ready_fd of stderr": ("[puerta]\nready_fd = 2\n[redis a]\nnodes = 127.0.0.1:1\n", 2, ["2", "3 to 255"]),
    "a network with bits behind its mask": ("[redis a]\nnodes = 127.0.0.1:1\nallow = 10.0.0.1/8\n", 3, ["10.0.0.1/8", "bits behind", "10.0.0.0/8"]),
    "a mask too long": ("[mongo a]\nmongos = 127.0.0.1:1\ndeny = ::1, 10.0.0.0/33\n", 3, ["10.0.0.0/33", "0 to 32"]),
    "a name for a network": ("[redis a]\nnodes = 127.0.0.1:1\ntrusted = balancer\n", 3, ["balancer", "unix"]),
    "more networks than fit": ("[redis a]\nnodes = 127.0.0.1:1\ndeny = " + ", ".join("10.0.0.%d" % i for i in range(17)) + "\n", 3, ["10.0.0.16", "up to 16"]),
    "permissions that are none": ("[redis a]\nnodes = 127.0.0.1:1\nsocket_mode = rw-\n", 3, ["rw-", "660"]),
    "no keyfile": ("[mongo a]\nmongos = 127.0.0.1:1\nupstream_keyfile = /dev/null\n", 3, ["/dev/null", "6 to 1024"]),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_file_is_refused_at_its_line(tmp_path, name):
    text, line, words = BROKEN[name]
    code, _, errors, path = check(tmp_path, text)
    assert code == EX_CONFIG, errors
    messages = errors.splitlines()
    assert messages and all(len(m) < 600 for m in messages), errors
    if line is not None:
        blamed = [m for m in messages if m.startswith("%s:%d: " % (path, line))]
        assert blamed, "no message names %s:%d in: %s" % (path, line, errors)
        messages = blamed
    for word in words:
        assert any(word in m for m in messages), "%r is not in: %s" % (word, errors)


def test_several_mistakes_are_told_at_once(tmp_path):
    code, _, errors, path = check(tmp_path, "[puerta]\nchunk = 3\nbacklogg = 3\n[redis a]\nnodes = 127.0.0.1:1\ntopologie = single\n")
    assert code == EX_CONFIG
    for line in (2, 3, 6):
        assert "%s:%d: " % (path, line) in errors


def test_a_password_is_never_repeated(tmp_path):
    for text in ("[redis a]\nupstream_password = s3cr3t\nupstream_passwort = s3cr3t\n", "[redis a]\nupstream_password s3cr3t\n",
                 "[redis a]\nnodes = 127.0.0.1:1\nupstream_password = s3cr3t\n",
                 "[mongo a]\nmongos = 127.0.0.1:1\nupstream_user = u\nupstream_password = s3cr3t\n",
                 "[mongo a]\nmongos = 127.0.0.1:1\nmode = pooled\nuser = app s3cr3t\nuserr = app s3cr3t\n"):
        _, out, errors, _ = check(tmp_path, text)
        assert "s3cr3t" not in out + errors


def test_t_prints_options_and_memory_that_add_up(tmp_path):
    code, out, errors, _ = check(tmp_path, GOOD)
    assert code == 0, errors
    assert "chunks = 512" in out and "listen = 127.0.0.1:7777" in out and "nodes = 127.0.0.1:7002" in out
    rows = re.findall(r"^# (.{22})\s+(\d+)\s+(\d+)\s+(\d+)$", out, re.M)
    assert len(rows) > 5, out
    for name, count, size, total in rows:
        assert int(count) * int(size) == int(total), name
    whole = int(re.search(r"^# total\s+(\d+)$", out, re.M).group(1))
    parts = sum(int(r[3]) for r in rows)
    # Each table begins on a cache line of its own.
    assert parts <= whole <= parts + 64 * len(rows) + 4096, out


def test_t_prints_a_file_that_means_the_same(tmp_path):
    code, out, errors, _ = check(tmp_path, GOOD)
    assert code == 0, errors
    code, again, errors, _ = check(tmp_path, out)
    assert code == 0, errors
    assert again == out


def test_more_chunks_are_more_memory(tmp_path):
    def total(chunks):
        out = check(tmp_path, GOOD.replace("chunks = 512", "chunks = %d" % chunks))[1]
        return int(re.search(r"^# total\s+(\d+)$", out, re.M).group(1))

    assert total(1024) - total(512) >= 512 * 16384


def test_the_example_is_right():
    example = os.path.join(harness.ROOT, "puerta.conf.example")
    code, out, errors = puerta("-t", "-c", example)
    assert code == 0, errors
    text = harness.read_file(example)
    named = set(re.findall(r"^#?\s*([a-z_]+)\s*=", text, re.M))
    known = set(re.findall(r"^([a-z_]+) = ", out, re.M))
    assert known <= named, "not in the example: %s" % sorted(known - named)


def test_the_router_profile_takes_less_than_4_mib(tmp_path):
    example = harness.read_file(os.path.join(harness.ROOT, "puerta.conf.example"))
    profile = example[example.index("\n#[puerta]\n"):].replace("\n#", "\n")
    code, out, errors, _ = check(tmp_path, profile)
    assert code == 0 and not errors, errors
    total = int(re.search(r"^# total\s+(\d+)$", out, re.M).group(1))
    assert 7 << 19 < total <= 4 << 20, out


def test_declared_commands_are_printed_again(tmp_path):
    lines = "command = json.get first read\ncommand = ft.search none write\n"
    code, out, errors, _ = check(tmp_path, GOOD.replace("[puerta]\n", "[puerta]\n" + lines))
    assert code == 0 and lines in out, errors
    assert check(tmp_path, out)[1] == out
    code, out, errors = puerta("-t", "redis", "127.0.0.1:1", "command=json.get first read", "command=ft.search none")
    assert code == 0 and lines in out, errors


def test_h_names_every_option(tmp_path):
    code, out, errors = puerta("-h", "options")
    assert code == 0 and out, errors
    known = set(re.findall(r"^([a-z_]+) = ", check(tmp_path, GOOD)[1], re.M))
    for option in known:
        assert option in out, option
    for section in ("puerta", "redis", "mongo"):
        one = puerta("-h", section)[1]
        at = out.index("Options of [%s" % section)
        assert one.partition("\n\n")[2].strip() == out[at:].partition("\n\n")[0].strip()


def test_h_fits_a_screen_and_tells_of_one_option():
    code, out, _ = puerta("-h")
    assert code == 0 and len(out.splitlines()) <= 24 and max(map(len, out.splitlines())) <= 120
    assert "-h [options|" in out and "Options of" not in out
    code, out, _ = puerta("-h", "max_clients")
    assert code == 0 and out.startswith("Options of [puerta], the process:\n  max_clients = 4096  (1 to 1000000)  restart\n      ") and out.count("\n") == 3
    code, out, _ = puerta("-h", "listen")  # of both kinds of section
    assert code == 0 and re.findall(r"Options of \[(\w+)", out) == ["redis", "mongo"] and out.count("  listen = ") == 2
    assert puerta("-h", "max_client") == (64, "", "puerta -h: no option or section 'max_client'; the nearest is max_clients\n")
    assert puerta("-h", "frobnicate") == (64, "", "puerta -h: no option or section 'frobnicate'; puerta -h options lists all\n")


def hash_password(line, *arguments):
    done = subprocess.run([harness.BINARY, "hash-password", *arguments], input=line, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=20 * harness.SLOW)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("line,password,rounds", [(b"pencil\n", b"pencil", None), (b"pencil", b"pencil", 4096), (b" a \xc3\xb6 = # \n", b" a \xc3\xb6 = # ", 5000),
                                                  (b"x" * 1000 + b"\nsecond\n", b"x" * 1000, 4096)])
def test_hash_password_prints_what_a_server_keeps(tmp_path, line, password, rounds):
    code, out, errors = hash_password(line, *([] if rounds is None else [str(rounds)]))
    assert code == 0 and ("not ASCII" in errors) == (not password.isascii()) and (not errors or not password.isascii())
    kind, count, salt, stored, server = re.fullmatch(r"(SCRAM-SHA-256)\$(\d+):([^$]+)\$([^:]+):(\S+)\n", out).groups()
    assert int(count) == (rounds or 15000) and len(base64.b64decode(salt)) == 16
    salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(salt), int(count))
    assert base64.b64decode(stored) == hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    assert base64.b64decode(server) == hmac.digest(salted, b"Server Key", "sha256")
    assert hash_password(line, "4096")[1] != hash_password(line, "4096")[1]  # the salt
    code, shown, errors, _ = check(tmp_path, "[mongo a]\nmongos = 127.0.0.1:1\nmode = pooled\nuser = app %s" % out)
    assert code == 0 and "#user = app ******" in shown and stored not in shown, errors


@pytest.mark.parametrize("line,arguments,code", [(b"", [], 65), (b"\n", [], 65), (b"x" * 2000 + b"\n", [], 65), (b"x\n", ["4095"], EX_USAGE),
                                                 (b"x\n", ["1000001"], EX_USAGE), (b"x\n", ["many"], EX_USAGE), (b"x\n", ["5000", "x"], EX_USAGE)])
def test_hash_password_refuses(line, arguments, code):
    got, out, errors = hash_password(line, *arguments)
    assert got == code and not out and errors.startswith("puerta hash-password: ")


def test_hash_password_is_not_seen_on_a_terminal():
    ours, theirs = pty.openpty()
    with subprocess.Popen([harness.BINARY, "hash-password", "4096"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr.read(10) == b"password: "
        harness.wait_for("no echo", lambda: not termios.tcgetattr(theirs)[3] & termios.ECHO)
        os.write(ours, b"s3cr3t\n")
        out, _ = process.communicate(timeout=20 * harness.SLOW)
        assert process.returncode == 0 and out.startswith(b"SCRAM-SHA-256$4096:")
    assert termios.tcgetattr(theirs)[3] & termios.ECHO
    os.set_blocking(ours, False)
    with contextlib.suppress(BlockingIOError):
        assert b"s3cr3t" not in os.read(ours, 1000)
    os.close(ours)
    os.close(theirs)


def test_v_prints_a_version():
    code, out, _ = puerta("-V")
    assert code == 0 and re.search(r"\d+\.\d+", out)


@pytest.mark.parametrize("arguments", [["-x"], ["-c"], ["-t"], ["redis"], [], ["nonsense"]],
                         ids=lambda a: " ".join(a) or "nothing")
def test_wrong_use_is_told_with_ex_usage(arguments, tmp_path):
    # With nothing else it may look for a file in its folder: an empty one.
    code, _, errors = puerta(*arguments, cwd=str(tmp_path))
    assert code == EX_USAGE, errors
    assert errors.strip()


@pytest.mark.parametrize("argument,words", [("nonsense", ["nonsense", "key=value"]), ("lissten=127.0.0.1:2", ["lissten", "listen"]),
                                            ("chunks=none", ["none", "chunks"]), ("chunk_size=5000", ["4k", "8k"])])
def test_a_wrong_argument_of_the_quick_start_is_told(argument, words):
    code, _, errors = puerta("redis", "127.0.0.1:1", argument)
    assert code in (EX_USAGE, EX_CONFIG), errors
    for word in words:
        assert word in errors


def test_a_file_that_is_not_there(tmp_path):
    path = str(tmp_path / "none.conf")
    code, _, errors = puerta("-c", path)
    assert code in (66, EX_CONFIG) and path in errors


@pytest.mark.parametrize("option", ["[redis a]\nnodes = 127.0.0.1:1\npassword_file", "[mongo a]\nmongos = 127.0.0.1:1\nupstream_keyfile"])
def test_a_pipe_into_which_nobody_writes_is_not_waited_for(tmp_path, option):
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe, 0o600)
    code, _, errors, path = check(tmp_path, "%s = %s\n" % (option, pipe))
    assert code == EX_CONFIG and "%s:3: a pipe into which nobody writes: '%s'" % (path, pipe) in errors


def test_a_secret_may_come_by_a_pipe():
    mine, its = os.pipe()
    os.write(its, b"s3cr3t\n")
    r = subprocess.run([harness.BINARY, "-t", "redis", "127.0.0.1:1", "password_file=/dev/fd/%d" % mine], pass_fds=[mine], capture_output=True, timeout=30)
    assert r.returncode == 0 and b"\npassword = ******\n" in r.stdout, r.stderr


def test_t_warns_of_a_user_who_is_not_there(tmp_path):
    for name, words in (("no-such-user", "user = no-such-user: no such user"), ("0\ngroup = no-such-group", "user = 0, group = no-such-group: no such group")):
        code, out, errors, _ = check(tmp_path, GOOD.replace("[puerta]", "[puerta]\nuser = " + name))
        assert code == 0 and "total" in out and words in errors, errors


def test_an_address_in_use(tmp_path):
    port = harness.free_port()
    with harness.socket.socket() as s:
        s.bind(("127.0.0.1", port))
        s.listen(1)
        code, _, errors = puerta("redis", "127.0.0.1:1", "listen=127.0.0.1:%d" % port)
        assert code != 0 and code >= EX_USAGE, code
        assert str(port) in errors
