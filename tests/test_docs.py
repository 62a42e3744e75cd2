"""What is said of Puerta and what it is, compared: man pages, example file, help and documents against the tables of the program.

The lists of names are taken from the program itself or from the tables in its source, so that a new row without a word about it fails here.
"""
import configparser
import glob
import os
import re
import shutil
import stat
import subprocess

import pytest

import harness
from harness import read_file

PAGES = ("man/puerta.8", "man/puerta.conf.5")
SERVICES = {"puerta.openrc": "sh", "puerta.freebsd": "sh", "puerta.openbsd": "ksh", "s6/run": "sh"}


def at(path):
    return os.path.join(harness.ROOT, path)


def run(*arguments, **more):
    return subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=300 * harness.SLOW, **more)


def page_text(path):
    """A page as a reader sees it, without bold and underlining, its lines joined."""
    done = run("mandoc", "-T", "utf8", "-O", "width=400", at(path))
    assert done.returncode == 0, done.stderr.decode()
    return re.sub(r"\s+", " ", re.sub(".\b", "", done.stdout.decode()))


def documents():
    """All that is written for users."""
    texts = [page_text(path) for path in PAGES]
    texts += [read_file(path) for path in sorted(glob.glob(at("*.md"))) if os.path.basename(path) not in ("CHANGELOG.md", "ARCHITECTURE.md")]
    return "\n".join(texts)


def source(path):
    return read_file(at(path))


def check_named(names, text, least, prefix=""):
    """Each of the names stands in the text as a word of its own; there are at least so many, or the pattern that found them is wrong."""
    assert len(names) >= least, names
    missing = [name for name in names if not re.search(r"(?<![\w/-])%s(?![\w-])" % re.escape(prefix + name), text)]
    assert not missing, "not documented: %s" % ", ".join(prefix + name for name in missing)


# ----------------------------------------------------------------- the pages


@pytest.mark.parametrize("path", PAGES)
def test_the_page_is_clean(path):
    done = run("mandoc", "-T", "lint", "-W", "all", at(path))
    # Which other manuals there are is this machine's matter.
    told = [line for line in done.stdout.decode().splitlines() if "referenced manual not found" not in line]
    assert not told and not done.stderr, "\n".join(told) + done.stderr.decode()


@pytest.fixture(scope="module")
def lists():
    done = run("make", "-s", "lists", cwd=harness.ROOT)
    if done.returncode != 0 and shutil.which("gmake"):
        done = run("gmake", "-s", "lists", cwd=harness.ROOT)
    assert done.returncode == 0, done.stderr.decode()
    return lambda name: run(at("build/man/lists"), name, check=True).stdout.decode()


@pytest.mark.parametrize("path,name", [("man/puerta.conf.5", "options"), ("man/puerta.8", "counters"), ("man/puerta.8", "tables")])
def test_the_lists_of_the_pages_are_those_of_the_program(lists, path, name):
    m = re.search(r'(?ms)^\.\\" begin %s:.*?\n(.*?)^\.\\" end %s$' % (name, name), source(path))
    assert m and m.group(1) == lists(name), "%s is out of date: make man" % path


# ---------------------------------------------------------------- the options


def options_of_help():
    """{(section, key): default} as puerta -h options tells them."""
    found, section = {}, None
    for line in run(harness.BINARY, "-h", "options").stdout.decode().splitlines():
        header = re.match(r"Options of \[(\w+)", line)
        section = header.group(1) if header else section
        m = re.match(r"  ([a-z_0-9]+) = (.*?)  \(", line)
        if m:
            found[section, m.group(1)] = m.group(2)
    return found


def test_each_option_stands_in_the_table_the_help_and_the_page():
    rows = re.findall(r'(?m)^    \{ ([A-Z]+)\(\w+\), "(\w+)", (\w+),(?:.|\n)*?"((?:\\.|[^"\\])*)" \},$', source("option.c"))
    sections = {"P": "puerta", "R": "redis", "M": "mongo"}
    table = {(sections[scope[0]], key) for scope, key, _, _ in rows}
    assert len(rows) > 90 and len(table) == len(rows)
    told = options_of_help()
    assert set(told) == table
    page, section = {}, None
    for line in source("man/puerta.conf.5").splitlines():
        header = re.match(r"\.Ss Options of (?:the|a) (\w+) section", line)
        section = header.group(1) if header else section
        m = re.match(r'\.It Ic "(\w+) = (.*)"$', line)
        if m:
            page[section, m.group(1)] = m.group(2).replace("\\(dq", '"').replace("\\e", "\\")
    assert page == told


def test_each_option_stands_in_the_example_with_its_default():
    example, section = {}, None
    for line in source("puerta.conf.example").split("# ---- A router")[0].splitlines():
        header = re.match(r"\[(\w+)", line)
        section = header.group(1) if header else section
        m = re.match(r"#?([a-z_0-9]+) = (.*)$", line)
        if m and section:
            example.setdefault((section, m.group(1)), []).append((m.group(2), line[0] == "#"))
    told = options_of_help()
    assert set(example) == set(told)
    # What is commented out shows what may stand there; a list of servers has no default.
    wrong = {option: values for option, values in example.items()
             if option[1] not in ("nodes", "mongos") and not all(comment or value == told[option] for value, comment in values)}
    assert not wrong


# -------------------------------------------------- counters, metrics, commands


def test_each_counter_and_each_table_is_documented():
    counters, tables = (re.findall(r'(?m)^    X\((\w+), "', part) for part in re.split("#define GAUGES", source("stats.h"))[:2])
    text = documents()
    check_named(counters, text, 50)
    check_named(tables, text, 5)


def test_each_metric_is_documented():
    own = re.findall(r'(?m)^    X\((\w+), "(?:gauge|counter|histogram)"', source("metrics.c"))
    counters = re.findall(r'(?m)^    X\((\w+), "', source("stats.h").split("#define GAUGES")[0])
    check_named(own + [name + "_total" for name in counters], documents(), 60, "puerta_")


def test_each_route_is_documented():
    routes = re.findall(r'(?m)^    \{ "(/[a-z/]*)", "(GET|POST)"', source("admin.c"))
    check_named(["%s %s" % (method, path) for path, method in routes if path != "/"], documents(), 15)
    assert ("/", "GET") in routes and re.search(r"GET / ", page_text("man/puerta.8"))


def test_each_puerta_command_is_documented():
    text = source("redis_puerta.c")
    subs = re.findall(r'(?m)^    \{ "([a-z]+)", \d+, \w+, ', text[text.index("subs[] = {"):])
    check_named([sub.upper() for sub in subs], page_text("man/puerta.8"), 10, "PUERTA ")


def test_each_word_of_the_shell_is_documented():
    words = re.findall(r'(?m)^    \{ "([a-z]+)", "(?:GET|POST)"', source("ctl.c"))
    check_named(words + ["hash-password"], documents(), 9, "puerta ")
    synopsis = re.search(r"SYNOPSIS(.*?)DESCRIPTION", page_text("man/puerta.8")).group(1)
    usage = run(harness.BINARY, "-h").stdout.decode()
    for word in words + ["hash-password", "redis", "mongo"]:
        assert re.search(r"\b%s\b" % word, synopsis) and re.search(r"\b%s\b" % word, usage), word


def test_each_word_of_puertastatus_is_documented():
    text = source("mongo_puerta.c")
    words = re.findall(r'(?:\{ "|e->name, ")([a-z]+)"(?:, STATUS|, HELD|\))', text)
    section = re.search(r"puertaStatus(.*?)METRICS", page_text("man/puerta.8")).group(1)
    check_named(sorted(set(words)), section, 12)


# ---------------------------------------------------------------- service files


def test_the_shell_scripts_are_clean():
    for name, shell in SERVICES.items():
        path = at("service/" + name)
        # What a framework reads is set and not used; it is not here; on OpenBSD words of flags are meant to be several.
        done = run("shellcheck", "-s", shell, "-e", "SC2034,SC1091" + (",SC2086" if shell == "ksh" else ""), path)
        assert done.returncode == 0, done.stdout.decode()
        assert os.stat(path).st_mode & stat.S_IXUSR, name


def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(at("service/puerta.service"))
    return parser


def test_the_unit_of_systemd_says_what_puerta_does():
    service = unit()["Service"]
    assert service["Type"] == "notify" and "NotifyAccess" not in service and service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(service["TimeoutStopSec"]) > 5 and service["KillMode"] == "mixed"
    if shutil.which("systemd-analyze"):
        done = run("systemd-analyze", "verify", at("service/puerta.service"))
        told = [line for line in done.stderr.decode().splitlines()
                if "puerta" in line and "is not executable" not in line and "Command 'man" not in line]
        assert not told, told


@pytest.fixture
def installed(tmp_path):
    """A text of service/ with the paths of this build and of a file that it can run."""
    port = harness.free_port()
    (tmp_path / "puerta.conf").write_text("[puerta]\nready_fd = 3\n[redis main]\nlisten = 127.0.0.1:%d\nnodes = 127.0.0.1:1\n" % port)

    def text(path):
        return source(path).replace("/usr/local/bin/puerta", harness.BINARY).replace("/usr/local/etc/puerta.conf", str(tmp_path / "puerta.conf"))

    return text


def test_the_commands_of_the_unit_can_be_run(installed):
    service = unit()["Service"]
    words = installed("service/puerta.service")
    check = re.search(r"(?m)^ExecStartPre=(.*)$", words).group(1).split()
    start = re.search(r"(?m)^ExecStart=(.*)$", words).group(1).split()
    assert run(*check).returncode == 0
    assert start == [word for word in check if word != "-t"] and start[0] == harness.BINARY
    assert service["ExecStart"].split()[1:] == ["-c", "/usr/local/etc/puerta.conf"]


def test_the_run_script_of_s6_runs(installed, tmp_path):
    script = tmp_path / "run"
    script.write_text(installed("service/s6/run"))
    number = int(source("service/s6/notification-fd"))
    wrapper = tmp_path / "supervise"
    ours, theirs = os.pipe()
    wrapper.write_text("#!/bin/sh\nexec /bin/sh %s %d>/proc/%d/fd/%d\n" % (script, number, os.getpid(), theirs))
    wrapper.chmod(0o755)
    process = harness.start([str(wrapper)], str(tmp_path / "log"))
    try:
        assert harness.read_pipe(ours) == b"\n", read_file(str(tmp_path / "log"))
    finally:
        process.terminate()
        assert process.wait(20 * harness.SLOW) == 0
        harness.ended(process)
        os.close(ours)
        os.close(theirs)
