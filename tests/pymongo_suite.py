"""pymongo's own test suite against a MongoDB server, so that a run directly and a run through Puerta can be compared.

    pymongo_suite.py prepare                       puts the suite and what it needs into build/pymongo-suite (from PyPI, once)
    pymongo_suite.py run HOST:PORT OUT.json [MODULE...]   runs the modules (all of MODULES by default); prints counts, writes each test's outcome
    pymongo_suite.py ferretdb OUT.json [MODULE...] the same against a FerretDB started for it
    pymongo_suite.py front OUT.json [MODULE...]    the same against one scripted mongos before a FerretDB: MODULES and MORE_OF_A_MONGOS
    pymongo_suite.py compare A.json B.json         exit code 1 if a test passed in one and not in the other, which are printed

What is run: the synchronous tests of whole modules, those in MODULES: the modules that talk to a server. Left out are
- modules that need no server (BSON, URIs, topology state machines), and the asynchronous copies of the same tests;
- those for services outside: key management, Atlas, OCSP, DNS seed lists, cloud logins;
- what FerretDB has not: test_auth (SCRAM, createUser), test_change_stream, test_compression_support;
- test_csot and test_client_backpressure, which FerretDB skips as a whole; test_discovery_and_monitoring and test_server_selection_logging, which
  are state machines and measure time.
MODULES take some four minutes on two cores. With MORE_OF_A_MONGOS and a scripted mongos it is ten; what fails there and would not on a
real mongos needs what FerretDB has not: the undoing of a transaction, aggregations of a whole database, change streams.
A test that takes more than TIMEOUT seconds has failed. UNSTABLE are single tests that do not have the same outcome in two direct runs; a
comparison passes them over.
"""
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

VERSION = "4.20.0"  # of pymongo and of its tests: here and nowhere else
TIMEOUT = 20
FOLDER = os.path.join(ROOT, "build", "pymongo-suite")
SOURCE = os.path.join(FOLDER, "pymongo-" + VERSION)
PYTHON = os.path.join(FOLDER, "venv", "bin", "python")

MODULES = """
    test_binary test_bulk test_client test_client_metadata test_collation test_collection test_collection_management test_command_logging
    test_command_monitoring test_comment test_common test_connection_logging test_connection_monitoring test_create_entities test_crud_unified
    test_cursor test_custom_types test_database test_dbref test_decimal128 test_examples test_fork test_grid_file test_gridfs test_gridfs_bucket
    test_gridfs_spec test_handshake_unified test_heartbeat_monitoring test_index_management test_json_util_integration test_logger test_monitor
    test_monitoring test_pooling test_raw_bson test_read_concern test_read_preferences test_read_write_concern_spec test_retryable_reads
    test_retryable_writes test_run_command test_session test_sessions_unified test_streaming_protocol test_threads test_unified_format
    test_versioned_api test_versioned_api_integration
""".split()
# What FerretDB skips as a whole: tests of transactions and of fail points. A scripted mongos (tests/fake) has both.
MORE_OF_A_MONGOS = """
    test_causal_consistency test_client_bulk_write test_load_balancer test_operation_id_retry test_retryable_reads_unified
    test_retryable_writes_unified test_transactions test_transactions_unified
""".split()
UNSTABLE = ()


def prepare():
    """Downloads the suite's source (its tests, not its library: that is installed) and installs what it runs with."""
    if os.path.exists(os.path.join(FOLDER, "ready-" + VERSION)):
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(FOLDER)
    quiet = ["-q", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "venv", os.path.join(FOLDER, "venv")], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", *quiet, "pymongo==" + VERSION, "pytest", "pytest-asyncio", "pytest-timeout"], check=True)
    subprocess.run([PYTHON, "-m", "pip", "download", *quiet, "--no-deps", "--no-binary", "pymongo", "-d", FOLDER, "pymongo==" + VERSION], check=True)
    subprocess.run(["tar", "-xzf", SOURCE + ".tar.gz", "-C", FOLDER], check=True)
    for library in ("pymongo", "bson", "gridfs"):  # the installed one, with its C extensions, is to be tested
        os.rename(os.path.join(SOURCE, library), os.path.join(SOURCE, library + ".of-the-source"))
    # The suite takes it for granted that the server knows this parameter; FerretDB has it not.
    path = os.path.join(SOURCE, "test", "__init__.py")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    wanted = 'self.server_parameters["enableTestCommands"]'
    assert text.count(wanted) == 1, "pymongo %s looks different: see prepare()" % VERSION
    with open(path, "w", encoding="utf-8") as f:
        f.write(text.replace(wanted, 'self.server_parameters.get("enableTestCommands")'))
    open(os.path.join(FOLDER, "ready-" + VERSION), "w").close()


def outcome(case):
    for name in ("failure", "error", "skipped"):
        if case.find(name) is not None:
            return {"failure": "failed"}.get(name, name)
    return "passed"


def run(address, out, modules):
    """Runs the modules against the server; {"version", "modules", "seconds", "counts", "tests": {name: outcome}} goes into the file `out`."""
    prepare()
    out = os.path.abspath(out)
    unknown = [m for m in modules if not os.path.exists(os.path.join(SOURCE, "test", m + ".py"))]
    assert not unknown, "pymongo %s has no modules %s" % (VERSION, unknown)
    host, _, port = address.rpartition(":")
    env = dict(os.environ, DB_IP=host, DB_PORT=port, PYTHONDONTWRITEBYTECODE="1")
    log, report = out + ".log", out + ".xml"
    with open(log, "wb") as f:
        subprocess.run([PYTHON, "-m", "pytest", "-m", "default", "--timeout=%d" % TIMEOUT, "-q", "-p", "no:cacheprovider", "--junitxml=" + report,
                        "-o", "junit_duration_report=total", *["test/%s.py" % m for m in modules]],
                       cwd=SOURCE, env=env, stdin=subprocess.DEVNULL, stdout=f, stderr=f)
    if not os.path.exists(report):
        with open(log, encoding="utf-8", errors="replace") as f:
            sys.exit("the suite did not run: " + f.read()[-3000:])
    tests, seconds, counts = {}, {}, {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        module = case.get("classname").split(".")[1]
        name = "%s.%s" % (case.get("classname"), case.get("name"))
        if tests.get(name) in (None, "passed"):  # an error while tearing down is a second entry of the same name
            tests[name] = outcome(case)
        seconds[module] = seconds.get(module, 0) + float(case.get("time") or 0)
    for result in tests.values():
        counts[result] = counts.get(result, 0) + 1
    with open(out, "w") as f:
        json.dump({"version": VERSION, "modules": modules, "seconds": {m: round(s, 1) for m, s in seconds.items()}, "counts": counts,
                   "tests": dict(sorted(tests.items()))}, f, indent=1)
    print("pymongo %s against %s: %s, %.0f s" % (VERSION, address, ", ".join("%d %s" % (n, r) for r, n in sorted(counts.items())), sum(seconds.values())))
    return 0 if counts.get("passed") else 1


def compare(a, b):
    """Prints the tests that passed in one run alone."""
    with open(a) as f:
        one = json.load(f)
    with open(b) as f:
        two = json.load(f)
    assert (one["version"], one["modules"]) == (two["version"], two["modules"]), "not the same suite"
    differ = [t for t in sorted(set(one["tests"]) | set(two["tests"])) if t not in UNSTABLE
              and (one["tests"].get(t) == "passed") != (two["tests"].get(t) == "passed")]
    for t in differ:
        print("%s: %s here, %s there" % (t, one["tests"].get(t, "missing"), two["tests"].get(t, "missing")))
    same = sum(1 for t, r in one["tests"].items() if r == two["tests"].get(t) == "passed")
    print("%d passed in both, %d in one alone" % (same, len(differ)))
    return 1 if differ or not same else 0


def main(arguments):
    sys.path.insert(0, HERE)
    if arguments == ["prepare"]:
        return prepare()
    if len(arguments) == 3 and arguments[0] == "compare":
        return compare(*arguments[1:])
    if len(arguments) >= 3 and arguments[0] == "run":
        return run(arguments[1], arguments[2], arguments[3:] or MODULES)
    if len(arguments) >= 2 and arguments[0] in ("ferretdb", "front"):
        import mongo_harness
        with mongo_harness.Ferret() as ferret:
            if arguments[0] == "ferretdb":
                return run(ferret.address, arguments[1], arguments[2:] or MODULES)
            with mongo_harness.fronts(ferret, 1, test_commands=True, keep_seen=False) as fronts:
                return run(fronts[0].address, arguments[1], arguments[2:] or MODULES + MORE_OF_A_MONGOS)
    print(__doc__)
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
