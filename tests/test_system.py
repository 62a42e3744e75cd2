"""At home on the system: who Puerta is once it serves, where its log goes, its pid file, and what systemd and s6 hear of it.

What gives up rights is tested as root, which is how the CI runs; elsewhere those tests are skipped, and counted so. Every test has its own
Puerta before a node that is not there: PING is answered by Puerta itself.
"""
import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

import harness
from harness import RespClient, children_of, read_file, wait_for

EX_USAGE, EX_NOUSER, EX_CANTCREAT, EX_TEMPFAIL, EX_NOPERM = 64, 67, 73, 75, 77
IS_ROOT = os.geteuid() == 0
ASAN = "asan" in harness.BINARY
root = pytest.mark.skipif(not IS_ROOT, reason="gives up root's rights, so it has to begin as root")
no_asan = pytest.mark.skipif(ASAN, reason="the sanitizer's own system calls are not those of the worker")
both = pytest.mark.parametrize("supervise", ["yes", "no"])
SECTION = "[redis main]\nlisten = 127.0.0.1:{port}\nnodes = {seeds}\n"
# Leaks are looked for by a process that may look into this one, which nobody may once it has changed its user.
ENV = {"ASAN_OPTIONS": "detect_leaks=0"}


class System(harness.Puerta):
    """Puerta with these lines of [puerta]; ready once it answers PING."""

    def __init__(self, lines="", section=SECTION, seeds=("127.0.0.1:1",), env=None, wait=True, binary=None, **process):
        lines += "".join("%s = %s\n" % o for o in process.items())
        self.supervised = process.get("supervise", "yes") == "yes"
        super().__init__(seeds, wait=wait, conf="[puerta]\n%s%s" % (lines, section), env=dict(ENV, **(env or {})), binary=binary)

    def wait_ready(self, timeout=20.0):
        def ready():
            if not self.alive():
                raise AssertionError("puerta ended with %s: %s" % (self.process.returncode, self.log_text()[-4000:]))
            with contextlib.suppress(OSError, EOFError):
                return self.pings()

        wait_for("puerta to answer", ready, timeout)

    def pings(self, **options):
        with RespClient(self.port, timeout=5, **options) as c:
            return c.try_ask("PING") == b"PONG"

    def processes(self):
        return [self.process.pid] + children_of(self.process.pid)

    def fails(self, exit_code, *words):
        """Puerta ends by itself, and says why."""
        wait_for("puerta to end", lambda: not self.alive())
        self.expect_exit = exit_code
        for word in words:
            assert word in self.log_text(), self.log_text()
        self.stop()

    def worker(self):
        """The process that serves. Each process of a sanitizer build has larger mappings than the worker's block."""
        return super().worker() if not ASAN else children_of(self.process.pid)[0] if self.supervised else self.process.pid

    def restart_worker(self):
        """Its worker is killed, and another one serves."""
        before = self.worker()
        assert before != self.process.pid
        os.kill(before, signal.SIGKILL)
        wait_for("another worker", lambda: children_of(self.process.pid) not in ([], [before]))
        self.wait_ready()
        return self.worker()


def status_of(pid, name):
    return re.search(r"(?m)^%s:\s*(.*)$" % name, read_file("/proc/%d/status" % pid)).group(1).split()


def check_is(pid, uid, gid, groups):
    assert status_of(pid, "Uid") == [str(uid)] * 4 and status_of(pid, "Gid") == [str(gid)] * 4
    assert sorted(map(int, status_of(pid, "Groups"))) == sorted(groups)
    assert all(int(status_of(pid, name)[0], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh"))


def id_of(user, what):
    return int(subprocess.run(["id", what, user], stdout=subprocess.PIPE, check=True).stdout)


def low_port():
    """A free port that only root may bind."""
    for port in range(600, 1024):
        with socket.socket() as s:
            with contextlib.suppress(OSError):
                s.bind(("127.0.0.1", port))
                return port
    raise AssertionError("no port below 1024 is free")


# ---------------------------------------------------------------- user, group


@root
@both
def test_the_user_of_the_file(tmp_path, supervise):
    uid, gid, port = id_of("nobody", "-u"), id_of("nobody", "-g"), low_port()
    secret = tmp_path / "password"
    secret.write_text("s3cr3t\n")
    secret.chmod(0o600)  # root's: read before
    section = SECTION + "listen = 127.0.0.1:%d\npassword_file = %s\n" % (port, secret)
    with System(section=section, supervise=supervise, user="nobody", wait=False) as p:
        def authed():
            with contextlib.suppress(OSError, EOFError):
                with RespClient(port) as c:
                    return c.try_ask("AUTH", "s3cr3t") == b"OK" and c.try_ask("PING") == b"PONG"

        wait_for("puerta on a port of root's", authed)
        assert len(p.processes()) == 2
        for pid in p.processes():
            check_is(pid, uid, gid, [gid])
        assert status_of(p.worker(), "NoNewPrivs") == ["1"]
        assert "running as root" not in p.log_text()
        if supervise == "yes":
            os.kill(p.worker(), signal.SIGKILL)
            wait_for("another worker", lambda: len(re.findall('msg="serving"', p.log_text())) == 2)
            wait_for("puerta on a port of root's", authed)
            check_is(p.worker(), uid, gid, [gid])


@root
def test_a_group_is_the_only_one():
    with System(user="nobody", group="daemon") as p:
        for pid in p.processes():
            check_is(pid, id_of("nobody", "-u"), id_of("daemon", "-g"), [id_of("daemon", "-g")])


@root
def test_numbers_without_entries():
    with System(user="54321", group="12345") as p:
        for pid in p.processes():
            check_is(pid, 54321, 12345, [12345])


@root
@pytest.mark.parametrize("options,words", [({"user": "no-such-user"}, ["no-such-user", "no such user"]), ({"user": "54321"}, ["54321", "group"]),
                                           ({"user": "nobody", "group": "no-such-group"}, ["no-such-group", "no such group"])])
def test_an_unknown_user_is_told(options, words):
    System(wait=False, **options).fails(EX_NOUSER, *words)


@root
def test_root_without_a_user_is_warned():
    with System() as p:
        assert re.search(r'level=warn msg="running as root".*cure="set user"', p.log_text())


def as_nobody(tmp_path):
    """A program that runs puerta as nobody, wherever puerta lies; the shell's own user is changed by Python."""
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents:
        if parent.owner() == "root" and str(parent).startswith("/tmp/pytest"):
            os.chmod(parent, 0o755)
    shutil.copy(harness.BINARY, tmp_path / "puerta")
    script = tmp_path / "as-nobody"
    script.write_text("#!/bin/sh\nexec setpriv --reuid=nobody --regid=%d --clear-groups %s \"$@\"\n" % (id_of("nobody", "-g"), tmp_path / "puerta"))
    script.chmod(0o755)
    return str(script)


@root
def test_somebody_else_cannot_become_the_user(tmp_path):
    binary = as_nobody(tmp_path)
    arguments = ["redis", "127.0.0.1:1", "listen=127.0.0.1:%d" % harness.free_port()]
    done = subprocess.run([binary, *arguments, "user=daemon"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20 * harness.SLOW)
    assert done.returncode == EX_NOPERM and b"user = daemon: cannot become it" in done.stderr, done.stderr
    # Who is that user already has nothing to become.
    log = str(tmp_path / "log")
    process = harness.start([binary, *arguments, "user=nobody"], log, env=dict(os.environ, **ENV))
    wait_for("it to serve", lambda: 'msg="serving"' in read_file(log))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20 * harness.SLOW) == 0, read_file(log)
    harness.ended(process)


# --------------------------------------------------------------------- chroot


def jail(hosts=None):
    folder = harness.temporary_folder("puerta-jail-")
    os.chmod(folder, 0o755)
    os.mkdir(os.path.join(folder, "etc"))
    if hosts is not None:
        with open(os.path.join(folder, "etc", "hosts"), "w") as f:
            f.write(hosts)
        with open(os.path.join(folder, "etc", "nsswitch.conf"), "w") as f:
            f.write("hosts: files\n")
    return folder


@root
@both
def test_chroot_holds_both_processes(cluster, supervise):
    folder = jail("127.0.0.1 node.test\n")
    seeds = ["node.test:%d" % cluster.masters[0].port]
    with System(seeds=seeds, supervise=supervise, user="nobody", chroot=folder) as p:
        for pid in p.processes():
            assert os.readlink("/proc/%d/root" % pid) == folder and os.readlink("/proc/%d/cwd" % pid) == folder
            assert status_of(pid, "Uid")[0] == str(id_of("nobody", "-u"))
        # A name inside, which nothing outside knows, has led to the cluster.
        harness.Puerta.wait_ready(p)
        assert "cannot be resolved" not in p.log_text()
        if supervise == "yes":
            worker = p.restart_worker()
            assert os.readlink("/proc/%d/root" % worker) == folder
            harness.Puerta.wait_ready(p)


@root
def test_chroot_without_the_resolvers_files_warns():
    with System(seeds=["localhost:1"], user="nobody", chroot=jail()) as p:
        assert re.search(r'level=warn msg="names cannot be resolved inside chroot" name="localhost"', p.log_text())
    with System(seeds=["127.0.0.1:1"], user="nobody", chroot=jail()) as p:
        assert "cannot be resolved" not in p.log_text()


@root
def test_chroot_that_is_not_there():
    System(wait=False, user="nobody", chroot="/no/such/folder").fails(EX_NOPERM, "chroot = /no/such/folder", "No such file")


# ------------------------------------------------------------------- pid file


@both
def test_the_pid_file(tmp_path, supervise):
    path = tmp_path / "puerta.pid"
    path.write_text("1\n")  # left behind by one that is gone, though its number lives
    with System(pid_file=path, supervise=supervise) as p:
        assert path.read_text() == "%d\n" % p.process.pid and path.stat().st_mode & 0o777 == 0o644
        System(wait=False, pid_file=path, supervise=supervise).fails(EX_TEMPFAIL, str(path), "living process, %d" % p.process.pid)
        assert path.read_text() == "%d\n" % p.process.pid and p.pings()
        if supervise == "yes":
            p.restart_worker()
            assert path.read_text() == "%d\n" % p.process.pid
            System(wait=False, pid_file=path).fails(EX_TEMPFAIL, "living process")
    assert not path.exists()


def test_a_pid_file_of_one_that_was_killed(tmp_path):
    path = tmp_path / "puerta.pid"
    with System(pid_file=path) as p:
        workers = children_of(p.process.pid)
        p.process.kill()
        p.process.wait()
        p.expect_exit = -signal.SIGKILL
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
    assert path.read_text() != ""
    with System(pid_file=path) as p:
        assert path.read_text() == "%d\n" % p.process.pid


def test_a_pid_file_that_is_a_link_is_refused(tmp_path):
    target = tmp_path / "precious"
    target.write_text("precious")
    link, hard, folder = tmp_path / "link", tmp_path / "hard", tmp_path / "folder"
    link.symlink_to(target)
    os.link(target, hard)
    folder.mkdir()
    for path in (link, hard, folder, tmp_path / "none" / "puerta.pid"):
        System(wait=False, pid_file=path).fails(EX_CANTCREAT, "pid_file = %s" % path)
    assert target.read_text() == "precious"


@root
@both
def test_a_pid_file_where_the_user_may_not_remove_it(tmp_path, supervise):
    path = tmp_path / "puerta.pid"
    with System(pid_file=path, user="nobody", supervise=supervise) as p:
        assert path.read_text() == "%d\n" % p.process.pid and path.stat().st_uid == 0
    assert path.read_text() == ""  # nobody is misled by it
    with System(pid_file=path, user="nobody", supervise=supervise) as p:
        assert path.read_text() == "%d\n" % p.process.pid


@root
def test_a_pid_file_inside_chroot():
    folder = jail()
    os.mkdir(os.path.join(folder, "run"))
    shutil.chown(os.path.join(folder, "run"), "nobody")
    path = os.path.join(folder, "run", "puerta.pid")
    with System(pid_file=path, user="nobody", chroot=folder) as p:
        assert read_file(path) == "%d\n" % p.process.pid
    assert not os.path.exists(path)


# ------------------------------------------------------------- systemd and s6


class Manager:
    """The socket of systemd: what it is told, and by whom."""

    def __init__(self, folder=None):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        if folder is None:
            self.sock.bind("")  # an abstract name that the kernel chooses
            self.name = "@" + self.sock.getsockname()[1:].decode()
        else:
            self.name = os.path.join(folder, "notify")
            self.sock.bind(self.name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def next(self, timeout=20.0):
        """The variables of the next datagram, and the process that sent it; None when none comes in time."""
        self.sock.settimeout(timeout)
        try:
            data, ancillary, _, _ = self.sock.recvmsg(4096, 4096)
        except socket.timeout:
            return None
        pid = next(struct.unpack("3i", d)[0] for level, kind, d in ancillary if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS))
        return dict(line.split("=", 1) for line in data.decode().split("\n")), pid

    def until(self, name, value=None, timeout=20.0):
        """The next one that has that variable, with what came before it."""
        seen = []
        deadline = time.monotonic() + timeout * harness.SLOW
        while time.monotonic() < deadline:
            told = self.next(max(0.1, deadline - time.monotonic()))
            if told is not None:
                seen.append(told)
                if name in told[0] and value in (None, told[0][name]):
                    return told + (seen,)
        raise AssertionError("no %s in %r" % (name, seen))


@both
@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_systemd_hears_when_it_serves_and_when_it_ends(tmp_path, supervise, abstract):
    with Manager(None if abstract else str(tmp_path)) as m:
        with System(wait=False, supervise=supervise, env={"NOTIFY_SOCKET": m.name}) as p:
            told, pid, seen = m.until("READY")
            assert p.pings(), "READY before it serves"
            assert told["READY"] == "1" and told["MAINPID"] == str(p.process.pid) and told["STATUS"] == "serving" and len(seen) == 1
            assert pid == p.process.pid  # nobody else is believed (NotifyAccess=main)
            p.process.send_signal(signal.SIGTERM)
            told, pid, _ = m.until("STOPPING")
            assert told["STOPPING"] == "1" and pid == p.process.pid
            p.process.wait(20 * harness.SLOW)


def test_systemd_hears_that_a_worker_has_died(tmp_path):
    with Manager(str(tmp_path)) as m, System(env={"NOTIFY_SOCKET": m.name}) as p:
        m.until("READY")
        p.restart_worker()
        told, pid, seen = m.until("READY")
        assert "died" in seen[0][0]["STATUS"] and told["STATUS"] == "serving" and pid == p.process.pid


@root
def test_systemd_hears_from_inside_chroot(tmp_path):
    with Manager(str(tmp_path)) as m, System(env={"NOTIFY_SOCKET": m.name}, user="nobody", chroot=jail()) as p:
        assert m.until("READY")[1] == p.process.pid
        p.process.send_signal(signal.SIGTERM)
        assert m.until("STOPPING")[1] == p.process.pid
        p.process.wait(20 * harness.SLOW)


@both
def test_the_watchdog_hears_of_a_worker_that_turns(tmp_path, supervise):
    with Manager(str(tmp_path)) as m:
        env = {"NOTIFY_SOCKET": m.name, "WATCHDOG_USEC": "600000"}
        with System(wait=False, supervise=supervise, env=env) as p:
            m.until("READY")
            for _ in range(3):
                assert m.until("WATCHDOG")[1] == p.process.pid
            worker = p.worker() if supervise == "yes" else p.process.pid
            os.kill(worker, signal.SIGSTOP)  # what hangs is not alive, though its parent is
            wait_for("the watchdog to hear nothing", lambda: m.next(1.0) is None)
            os.kill(worker, signal.SIGCONT)
            m.until("WATCHDOG")


def test_a_watchdog_of_another_process_hears_nothing(tmp_path):
    with Manager(str(tmp_path)) as m, System(env={"NOTIFY_SOCKET": m.name, "WATCHDOG_USEC": "60000", "WATCHDOG_PID": "1"}) as p:
        m.until("READY")
        assert m.next(0.5) is None and p.pings()


def test_no_manager_is_no_reason_not_to_serve(tmp_path):
    with System(env={"NOTIFY_SOCKET": str(tmp_path / "none")}) as p:
        assert "the service manager cannot be told" in p.log_text()
    with System(env={"NOTIFY_SOCKET": "nonsense"}) as p:
        assert p.pings()


@both
def test_s6_hears_when_it_serves(supervise):
    ours, theirs = os.pipe()
    script = os.path.join(harness.temporary_folder("puerta-s6-"), "run")
    with open(script, "w") as f:
        f.write("#!/bin/sh\nexec %s \"$@\" 7>/proc/%d/fd/%d\n" % (harness.BINARY, os.getpid(), theirs))
    os.chmod(script, 0o755)
    with System(wait=False, binary=script, ready_fd=7, supervise=supervise) as p:
        assert harness.read_pipe(ours) == b"\n"
        assert p.pings(), "told before it serves"
        os.close(theirs)
        assert harness.read_pipe(ours) == b""  # no process of it has it open any more
    os.close(ours)


def test_a_ready_fd_that_is_not_open():
    System(wait=False, ready_fd=77).fails(EX_USAGE, "ready_fd = 77", "open")


# --------------------------------------------------------------------- syslog

# In a mount namespace of its own, the system's log is a socket of the test.
LOG_HERE = """#!/bin/sh
exec unshare -m sh -c 'set -e
if [ -e /dev/log ]; then mount --bind "$0" "$(readlink -f /dev/log)"; else mount -t tmpfs none /run; ln -s "$0" /run/log; fi
exec "$@"' "$(dirname "$0")/log.socket" %s "$@"
"""


class Syslogd:
    def __init__(self):
        self.folder = harness.temporary_folder("puerta-syslog-")
        os.chmod(self.folder, 0o755)
        self.path = os.path.join(self.folder, "log.socket")
        self.script = os.path.join(self.folder, "run")
        with open(self.script, "w") as f:
            f.write(LOG_HERE % harness.BINARY)
        os.chmod(self.script, 0o755)
        self.start()

    def start(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        os.chmod(self.path, 0o666)

    def stop(self):
        self.sock.close()
        os.unlink(self.path)

    def until(self, text):
        """The line that has the text."""
        self.sock.settimeout(20 * harness.SLOW)
        while True:
            line = self.sock.recv(4096).decode()
            if text in line:
                return line


@root
@pytest.mark.parametrize("facility,number", [("daemon", 3), ("local0", 16), ("local7", 23)])
@both
def test_lines_go_to_the_systems_log(facility, number, supervise):
    log = Syslogd()
    with System(wait=False, binary=log.script, syslog=facility, supervise=supervise, user="nobody", chroot=jail()) as p:
        line = log.until('msg="serving"')
        pid, = re.findall(r"^<%d>puerta\[(\d+)\]: level=info msg=\"serving\" version=" % (8 * number + 6), line)
        assert int(pid) in p.processes() and "ts=" not in line and "\n" not in line
        p.wait_ready()
        if supervise == "yes":
            p.restart_worker()
            assert log.until("the worker has died").startswith("<%d>puerta[%d]: level=warn" % (8 * number + 4, p.process.pid))
        assert p.log_text() == ""


@root
def test_a_syslogd_that_starts_anew():
    log = Syslogd()
    with System(wait=False, binary=log.script, syslog="daemon") as p:
        log.until('msg="serving"')
        if os.path.exists("/dev/log"):  # a file mounted there stays the one that it was
            pytest.skip("this machine has a /dev/log")
        log.stop()
        os.kill(p.worker(), signal.SIGKILL)
        wait_for("the line on stderr", lambda: "the worker has died" in p.log_text())
        assert re.search(r"<28>puerta\[\d+\]: level=warn msg=\"the worker has died\"", p.log_text())
        p.wait_ready()
        log.start()
        os.kill(p.worker(), signal.SIGKILL)
        log.until("the worker has died")
        log.until('msg="serving"')


@root
def test_a_syslogd_that_does_not_read_stops_nobody():
    log = Syslogd()
    with System(binary=log.script, syslog="daemon", log_level="debug", supervise="no") as p:
        # Each client that leaves is a line; syslogd's socket holds a few.
        wait_for("a line on stderr", lambda: p.pings() and "level=debug" in p.log_text())
        assert p.pings()


@root
def test_no_syslogd_at_all():
    log = Syslogd()
    log.stop()
    if os.path.exists("/dev/log"):
        pytest.skip("this machine has a /dev/log")
    with System(binary=log.script, syslog="daemon") as p:
        assert "the system's log cannot be reached" in p.log_text() and 'msg="serving"' in p.log_text()


@root
def test_what_ends_it_is_told_to_both():
    log = Syslogd()
    System(wait=False, binary=log.script, syslog="daemon", user="no-such-user").fails(EX_NOUSER, "puerta: user = no-such-user")
    assert log.until("cannot go on").startswith("<27>puerta[")


# -------------------------------------------------------------------- seccomp


@no_asan
@both
def test_the_worker_alone_is_filtered(tmp_path, supervise):
    with System(seccomp="yes", supervise=supervise, pid_file=tmp_path / "puerta.pid") as p:
        worker = p.process.pid if supervise == "no" else children_of(p.process.pid)[0]
        assert status_of(worker, "Seccomp") == ["2"] and status_of(worker, "NoNewPrivs") == ["1"]
        others = [pid for pid in p.processes() if pid != worker]
        assert len(others) == 1 and status_of(others[0], "Seccomp") == ["0"]
    assert not (tmp_path / "puerta.pid").exists()
    with System() as p:
        assert status_of(p.worker(), "Seccomp") == ["0"]


@no_asan
@root
def test_everything_at_once(cluster, tmp_path):
    folder = jail("127.0.0.1 node.test\n")
    os.mkdir(os.path.join(folder, "run"))
    shutil.chown(os.path.join(folder, "run"), "nobody")
    log = Syslogd()
    with Manager(str(tmp_path)) as m:
        path = os.path.join(folder, "run", "puerta.pid")
        with System(wait=False, binary=log.script, seeds=["node.test:%d" % cluster.masters[0].port], syslog="local3", seccomp="yes",
                    user="nobody", chroot=folder, pid_file=path, env={"NOTIFY_SOCKET": m.name, "WATCHDOG_USEC": "600000"}) as p:
            m.until("READY")
            harness.Puerta.wait_ready(p)
            p.restart_worker()
            m.until("READY")
            harness.Puerta.wait_ready(p)
            m.until("WATCHDOG")
            assert read_file(path) == "%d\n" % p.process.pid and status_of(p.worker(), "Seccomp") == ["2"]
        assert not os.path.exists(path)


@no_asan
@root
def test_reload_and_upgrade_without_roots_rights(cluster, tmp_path):
    """What happens later happens as the user; the manager hears of both, and the pid file stays the process's."""
    folder = harness.temporary_folder("puerta-home-")
    os.chmod(folder, 0o755)
    binary = shutil.copy(harness.BINARY, os.path.join(folder, "puerta"))
    os.mkdir(os.path.join(folder, "run"))
    shutil.chown(os.path.join(folder, "run"), "nobody")
    pid_file, uid, gid, port = os.path.join(folder, "run", "pid"), id_of("nobody", "-u"), id_of("nobody", "-g"), low_port()
    with Manager(str(tmp_path)) as m:
        os.chmod(m.name, 0o777)
        for place in (tmp_path, *tmp_path.parents):
            os.chmod(place, os.stat(place).st_mode | 0o011)
        with System(section=SECTION + "listen = 127.0.0.1:%d\n" % port, seeds=[node.address for node in cluster.masters], wait=False, binary=binary,
                    user="nobody", seccomp="yes", pid_file=pid_file, env={"NOTIFY_SOCKET": m.name}) as p:
            m.until("READY")
            os.chmod(p.folder, 0o755)
            p.process.send_signal(signal.SIGHUP)
            assert int(m.until("RELOADING")[0]["MONOTONIC_USEC"]) > 0
            assert m.until("READY")[1] == p.process.pid
            before = p.worker()
            p.process.send_signal(signal.SIGUSR2)
            told, pid, _ = m.until("READY")
            assert told["MAINPID"] == str(p.process.pid) and pid == p.process.pid, p.log_text()
            wait_for("the old worker to be gone", lambda: before not in p.processes())
            with RespClient(port) as c:
                assert c.try_ask("PING") == b"PONG"
            for pid in p.processes():
                check_is(pid, uid, gid, [gid])
            assert read_file(pid_file) == "%d\n" % p.process.pid and status_of(p.worker(), "Seccomp") == ["2"]
            System(wait=False, pid_file=pid_file).fails(EX_TEMPFAIL, "living process, %d" % p.process.pid)
        assert not os.path.exists(pid_file)
