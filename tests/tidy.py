"""What must hold of the source text itself: rooms, floors, budgets, banned calls. Prints what is wrong and, counting rules, "N passed, N failed".

A room is NAME.c with its NAME.h. It calls rooms of lower floors, and on its own floor only those that stand before it in its family.
Upward there is one way: pointers that were handed down (conn_ops, service_ops, callbacks), which no name shows.
"""
import glob
import os
import re
import sys

import page_hashes

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WHOLE_BUDGET = 39000
LONG_FUNCTION = 80

# name: (floor, family, budget in lines of code). The order is the order within a family: a room calls only those before it.
ROOMS = {
    "puerta.h": (0, "ground", 700),  # with log.c
    "text.c": (0, "pure", 70),
    "log.c": (0, "ground", 300),
    "resp.c": (1, "pure", 520),
    "command.c": (1, "pure", 850),
    "slotmap.c": (1, "pure", 400),
    "sha1.c": (1, "pure", 100),
    "bson.c": (1, "pure", 370),
    "mongowire.c": (1, "pure", 650),
    "mongomsg.c": (1, "pure", 195),
    "affinity.c": (1, "pure", 380),
    "hash.c": (1, "pure", 260),
    "scram.c": (1, "pure", 540),
    "url.c": (1, "pure", 60),
    "http.c": (1, "pure", 210),
    "answer.c": (1, "pure", 350),
    "jread.c": (1, "pure", 300),
    "topk.c": (1, "pure", 200),
    "proxy.c": (1, "pure", 260),
    "os.c": (2, "system", 560),
    "arena.c": (2, "system", 150),
    "net.c": (2, "system", 550),
    "os_guard.c": (2, "system", 250),
    "manager.c": (2, "system", 220),
    "loop.c": (2, "system", 450),
    "stats.c": (2, "system", 400),
    "trace.c": (2, "system", 250),
    "buf.c": (3, "waist", 450),
    "conn.c": (3, "waist", 700),
    "tls.c": (3, "waist", 450),
    "gate.c": (3, "gate", 600),
    "hand.c": (3, "hand", 160),
    "upgrade.c": (3, "parent", 280),
    "parent.c": (3, "parent", 780),
    "health.c": (4, "health", 430),
    "status.c": (4, "status", 370),
    "action.c": (4, "action", 250),
    "guesses.c": (4, "guesses", 150),
    "redis_map.c": (4, "redis", 360),
    "redis_greet.c": (4, "redis", 120),
    "redis_trace.c": (4, "redis", 180),
    "redis_upstream.c": (4, "redis", 870),
    "redis_lend.c": (4, "redis", 220),
    "redis_own.c": (4, "redis", 100),
    "redis_req.c": (4, "redis", 600),
    "redis_route.c": (4, "redis", 560),
    "redis_redirect.c": (4, "redis", 230),
    "redis_script.c": (4, "redis", 280),
    "redis_channel.c": (4, "redis", 600),
    "redis_link.c": (4, "redis", 320),
    "redis_feed.c": (4, "redis", 700),
    "redis_login.c": (4, "redis", 250),
    "redis_lease.c": (4, "redis", 210),
    "redis_large.c": (4, "redis", 500),
    "redis_fan.c": (4, "redis", 800),
    "redis_exec.c": (4, "redis", 320),
    "redis_multi.c": (4, "redis", 350),
    "redis_function.c": (4, "redis", 280),
    "redis_replica.c": (4, "redis", 100),
    "redis_wait.c": (4, "redis", 400),
    "redis_block.c": (4, "redis", 300),
    "redis_unblock.c": (4, "redis", 250),
    "redis_scan.c": (4, "redis", 300),
    "redis_say.c": (4, "redis", 350),
    "redis_pubsub.c": (4, "redis", 600),
    "redis_tracking.c": (4, "redis", 460),
    "redis_caching.c": (4, "redis", 300),
    "redis_virtual.c": (4, "redis", 250),
    "redis_command.c": (4, "redis", 500),
    "redis_info.c": (4, "redis", 350),
    "redis_monitor.c": (4, "redis", 350),
    "redis_puerta.c": (4, "redis", 350),
    "redis_local.c": (4, "redis", 700),
    "redis.c": (4, "redis", 500),
    "redis_hand.c": (4, "redis", 130),
    "redis_client.c": (4, "redis", 600),
    "users.c": (4, "users", 400),
    "mongo_trace.c": (4, "mongo", 90),
    "mongo_login.c": (4, "mongo", 480),
    "mongo_health.c": (4, "mongo", 480),
    "mongo_hand.c": (4, "mongo", 140),
    "mongo_choose.c": (4, "mongo", 430),
    "mongo_route.c": (4, "mongo", 275),
    "mongo_pool.c": (4, "mongo", 560),
    "mongo_door.c": (4, "mongo", 400),
    "mongo_greet.c": (4, "mongo", 500),
    "mongo_split.c": (4, "mongo", 260),
    "mongo_hold.c": (4, "mongo", 120),
    "mongo_puerta.c": (4, "mongo", 230),
    "mongo_pooled.c": (4, "mongo", 1060),
    "mongo_pooled_hand.c": (4, "mongo", 120),
    "mongo_leave.c": (4, "mongo", 140),
    "mongo_relay.c": (4, "mongo", 1000),
    "mongo_relay_hand.c": (4, "mongo", 140),
    "mongo.c": (4, "mongo", 560),
    "dashboard.c": (5, "admin", 10),  # made of dashboard.html by the Makefile
    "metrics.c": (5, "admin", 350),
    "admin_doc.c": (5, "admin", 260),
    "admin_guard.c": (5, "admin", 130),
    "admin.c": (5, "admin", 640),
    "reload.c": (5, "reload", 350),
    "handover.c": (5, "handover", 490),
    "ctl_ask.c": (5, "ctl", 180),
    "ctl_view.c": (5, "ctl", 380),
    "ctl.c": (5, "ctl", 350),
    "option.c": (5, "conf", 760),
    "complain.c": (5, "conf", 130),
    "conf_check.c": (5, "conf", 220),
    "conf_report.c": (5, "conf", 110),
    "conf.c": (5, "conf", 490),
    "puerta.c": (5, "main", 600),
}
HEADERS = {"redis.h": ("redis_req.c", 4)}  # shared by a family: its prototypes belong to several rooms
PURE_HEADERS = {"stdbool.h", "stddef.h", "stdint.h", "string.h", "limits.h", "inttypes.h", "ctype.h"}
BANNED = ["strcpy", "strcat", "sprintf", "vsprintf", "gets", "strtok", "atoi", "atol", "alloca", "strncat"]
# Feature macros and #ifdefs of a system: os.c and os_guard.c alone.
SYSTEM_MACROS = re.compile(r"^\s*#\s*(?:el)?if.*\b(__linux__|__FreeBSD__|__OpenBSD__|__NetBSD__|__APPLE__|__DragonFly__|__sun)\b", re.M)

failures = {}
notes = []


def check(rule, ok, text):
    failures.setdefault(rule, [])
    if not ok:
        failures[rule].append(text)


def blanked(text):
    """The text with comments and the contents of strings taken out, line by line as before."""
    def gap(m):
        piece = m.group(0)
        if piece.startswith("/*"):
            return "\n" * piece.count("\n")
        if piece.startswith("//"):
            return ""
        return piece[0] + piece[0]

    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', gap, text, flags=re.S)


def code_lines(blank):
    return sum(1 for line in blank.split("\n") if line.strip())


def functions(blank):
    """Name, whether static, and length of each function that is defined at the left margin."""
    lines = blank.split("\n")
    found = []
    for i, line in enumerate(lines):
        if line != "{":
            continue
        end = next((j for j in range(i, len(lines)) if lines[j] == "}"), len(lines) - 1)
        start = i - 1
        while start > 0 and lines[start - 1].strip() and not lines[start - 1].startswith(("}", "#")) and not lines[start - 1].endswith(";"):
            start -= 1
        head = " ".join(lines[start:i])
        m = re.search(r"\b(?!__attribute__)([A-Za-z_]\w*)\s*\(", head)
        if m:
            found.append((m.group(1), "static" in head.split("(")[0].split(), end - i, start + 1))
    return found


def main():
    sources = {os.path.basename(p): open(p, encoding="utf-8").read() for p in glob.glob(os.path.join(ROOT, "*.[ch]"))}
    blank = {name: blanked(text) for name, text in sources.items()}
    total = 0
    owner = {}

    for name in sorted(sources):
        room = name if name in ROOMS else name[:-2] + ".c"
        check("every file is a room", room in ROOMS or name in HEADERS, "%s: no room of that name in tests/tidy.py: give it a floor and a budget" % name)
    for name in sorted(ROOMS):
        if name not in sources:
            continue
        count = code_lines(blank[name]) + (code_lines(blank[name[:-2] + ".h"]) if name.endswith(".c") and name[:-2] + ".h" in blank and
                                           name != "puerta.c" and name[:-2] + ".h" not in HEADERS else 0)
        check("budgets", count <= ROOMS[name][2], "%s: %d lines of code, its budget is %d" % (name, count, ROOMS[name][2]))
    total = sum(code_lines(text) for text in blank.values())
    check("budgets", total <= WHOLE_BUDGET, "the whole has %d lines of code, the budget is %d" % (total, WHOLE_BUDGET))

    for name, text in sorted(sources.items()):
        check("opens with a comment", text.startswith("/*"), "%s: does not open with a comment that says what it is for" % name)
        check("layout", "\t" not in text, "%s: has tabs" % name)
        check("layout", not re.search(r"[ \t]+$", text, re.M), "%s: has blanks at the end of a line" % name)
        check("layout", text.endswith("\n") and not text.endswith("\n\n"), "%s: does not end with one newline" % name)
        for word in BANNED:
            m = re.search(r"\b%s\s*\(" % word, blank[name])
            check("banned calls", m is None, "%s:%d: calls %s" % (name, blank[name].count("\n", 0, m.start()) + 1 if m else 0, word))
        if name not in ("os.c", "os_guard.c"):
            m = SYSTEM_MACROS.search(blank[name])
            check("systems in os*.c alone", m is None, "%s: an #if of a system, which belongs in os.c: %s" % (name, m.group(0).strip() if m else ""))
            m = re.search(r"^\s*#\s*define\s+(_GNU_SOURCE|_BSD_SOURCE|_DEFAULT_SOURCE|_DARWIN_C_SOURCE|_POSIX_C_SOURCE|_XOPEN_SOURCE)\b", text, re.M)
            check("systems in os*.c alone", m is None, "%s: a feature macro, which belongs in os.c: %s" % (name, m.group(1) if m else ""))

    for name in sorted(sources):
        if not name.endswith(".c"):
            continue
        for function, static, length, line in functions(blank[name]):
            if not static and function != "main":
                owner[function] = name
            if length > LONG_FUNCTION:
                notes.append("%s:%d: %s has %d lines" % (name, line, function, length))
        if ROOMS.get(name, (None, ""))[1] == "pure":
            for kind, header in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', sources[name] + sources.get(name[:-2] + ".h", ""), re.M):
                own = kind == '"' and ROOMS.get(header[:-2] + ".c", (None, ""))[1] == "pure"
                check("pure rooms", own or header in PURE_HEADERS, "%s: a pure room that includes %s" % (name, header))

    order = list(ROOMS)
    for name in sorted(sources):
        if not name.endswith(".c") or name not in ROOMS:
            continue
        floor, family, _ = ROOMS[name]
        for called in sorted(set(re.findall(r"\b([A-Za-z_]\w*)\s*\(", blank[name]))):
            other = owner.get(called)
            if other is None or other == name or other not in ROOMS:
                continue
            its_floor, its_family, _ = ROOMS[other]
            if its_floor == floor:
                fine = family != its_family and {family, its_family} != {"redis", "mongo"} and floor != 1 or \
                    family == its_family and order.index(other) < order.index(name)
                check("floors", fine, "%s: calls %s() of %s, which does not stand before it on its floor" % (name, called, other))
            else:
                check("floors", its_floor < floor, "%s (floor %d): calls %s() of %s (floor %d)" % (name, floor, called, other, its_floor))

    page = os.path.join(ROOT, "dashboard.html")
    for text in page_hashes.wrong(open(page, encoding="utf-8").read()):
        check("the page", False, text)
    check("the page", True, "")

    for note in notes:
        print("note: " + note)
    for rule, texts in failures.items():
        for text in texts:
            print("FAIL (%s): %s" % (rule, text))
    broken = sum(1 for texts in failures.values() if texts)
    print("tidy: %d passed, %d failed" % (len(failures) - broken, broken))
    return 1 if broken or len(failures) < 8 else 0


if __name__ == "__main__":
    sys.exit(main())
