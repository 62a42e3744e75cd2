"""Writes the table of METRICS.md anew, from what a Puerta that is started here says on /metrics: python3 tests/metrics_doc.py.

tests/test_admin.py holds the two against each other; prose around the table stays as it is.
"""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import harness  # noqa: E402
from admin_harness import Http  # noqa: E402

PATH = os.path.join(harness.ROOT, "METRICS.md")
HEAD = "| metric | type | what it says |\n|---|---|---|\n"
ROW = re.compile(r"^\| `(puerta_\w+)` \| (\w+) \| (.*) \|$", re.M)


def told(text):
    """{name: (type, help)} of a text of /metrics."""
    return {m.group(1): (m.group(3), m.group(2)) for m in re.finditer(r"^# HELP (\S+) (.*)\n# TYPE \1 (\w+)$", text, re.M)}


def documented():
    """The same of METRICS.md."""
    rows = ROW.findall(harness.read_file(PATH))
    assert len(rows) == len({row[0] for row in rows}), "METRICS.md has a metric twice"
    return {name: (kind, text) for name, kind, text in rows}


def main():
    port = harness.free_port()
    with harness.Puerta(["127.0.0.1:1"], wait=False, admin="127.0.0.1:%d" % port):
        def ask():
            try:
                with Http(port) as h:
                    return h.get("/metrics").text()
            except OSError:
                return None

        text = harness.wait_for("/metrics", ask)
    before, after = harness.read_file(PATH).split(HEAD)
    rows = "".join("| `%s` | %s | %s |\n" % (name, *row) for name, row in told(text).items())
    with open(PATH, "w", encoding="utf-8") as f:
        f.write(before + HEAD + rows + after[after.index("\n\n") + 1:])


if __name__ == "__main__":
    main()
