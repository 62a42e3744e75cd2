"""The page of the admin listener (dashboard.html) in a real browser: Debian's Chromium, driven by Playwright, in front of a real cluster and of
scripted mongos, all under load. Pictures of it lie in build/page afterwards.

Who looks at every page here: nothing may stand in the console, no policy may be broken, nothing may be asked of elsewhere, no dialog of a script
may open, and axe-core may find nothing serious.
"""
import contextlib
import json
import os
import re
import shutil
import signal
import threading
import urllib.error
import urllib.request

import pymongo
import pytest
from playwright.sync_api import expect, sync_playwright

import harness
import mongo_harness

TOKEN = "page-test-token-4711"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = os.path.join(harness.ROOT, "build", "node", "node_modules", "axe-core", "axe.min.js")
PICTURES = os.path.join(harness.ROOT, "build", "page")
WAIT = 15000 * harness.SLOW  # milliseconds that a page may take for anything
HOSTILE = "<img/src=x/onerror=alert(1)>"
HOSTILE_KEY = "<script>alert(2)</script>\u202e\x1b[31m"
PHONE = dict(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)

CONF = """
[puerta]
admin = 127.0.0.1:%(admin)d
%(token)s
slow_log_min = 20ms
hot_keys = 64
[redis main]
listen = 127.0.0.1:{redis_port}
nodes = %(nodes)s
[mongo shop]
listen = 127.0.0.1:{port}
mongos = {mongos}
mode = pooled
probe_interval = 200ms
probe_timeout = 2s
rise = 1
slow_start = 0
"""


class Door:
    """Puerta with both modes and an admin listener, as a process."""

    def __init__(self, cluster, mongoses, token=TOKEN, admin=None):
        self.admin = admin or harness.free_port()
        lines = ""
        if token:
            self.token_file = os.path.join(harness.temporary_folder("puerta-token-"), "token")
            with open(os.open(self.token_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
                f.write(token + "\n")
            lines = "admin_token_file = " + self.token_file
        conf = CONF % {"admin": self.admin, "token": lines, "nodes": cluster.seeds().replace(",", ", ")}
        # counters: for the port of the Redis section, which is another one here.
        self.puerta = mongo_harness.MongoPuerta(mongoses, conf=conf, counters=True)
        self.url = "http://127.0.0.1:%d/" % self.admin
        self.token = token
        for front in mongoses:
            self.puerta.wait_state(front, "up")
        harness.wait_for("the cluster's slots", lambda: self.get("status")["ready"])

    def get(self, path):
        request = urllib.request.Request(self.url + path, headers={"Authorization": "Bearer " + self.token} if self.token else {})
        with contextlib.suppress(urllib.error.HTTPError, OSError):
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        return {"ready": False}

    def hold_of(self, name):
        return next(b["hold"] for b in self.get("status")["backends"] if b["name"] == name)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.puerta.stop(check=kind is None)


@pytest.fixture(scope="module")
def fronts(ferret):
    with mongo_harness.fronts(ferret, 3) as f:
        yield f


@pytest.fixture(scope="module")
def door(cluster, fronts):
    with Door(cluster, fronts) as d:
        yield d


@pytest.fixture(scope="module")
def load(door):
    """Clients of both modes that work all the time: what they get must be right, however the page is used meanwhile."""
    with harness.Load(door.puerta.redis_port, "-c", 24, "-n", 1000000000, "-m", 3000, "-b", 2000) as redis_load:
        redis_load.wait_answers(100)
        with mongo_work(door.puerta) as mongo_load:
            yield redis_load
            assert not mongo_load.errors, mongo_load.errors[:3]
        redis_load.finish(stop=True).check()


class mongo_work:
    """Applications that read and write in pooled mode, one with a hostile name."""

    def __init__(self, puerta):
        self.errors, self.over, self.done = [], threading.Event(), 0
        self.clients = [pymongo.MongoClient(puerta.uri(), appname=name, maxPoolSize=2) for name in (HOSTILE, "shop")]
        self.threads = [threading.Thread(target=self.work, args=(c, i), daemon=True) for i, c in enumerate(self.clients)]

    def work(self, client, nth):
        try:
            while not self.over.is_set():
                client.page["c%d" % nth].update_one({"_id": self.done % 50}, {"$set": {"n": self.done}}, upsert=True)
                list(client.page["c%d" % nth].find({}, batch_size=10))
                self.done += 1
                self.over.wait(0.02)
        except Exception as error:  # told by the fixture, in the test's own thread
            self.errors.append(repr(error))

    def __enter__(self):
        for t in self.threads:
            t.start()
        harness.wait_for("the applications to work", lambda: self.done > 10 or self.errors)
        return self

    def __exit__(self, *_):
        self.over.set()
        for t in self.threads:
            t.join(30)
        for c in self.clients:
            c.close()


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "no chromium is here: check.sh installs it"
    os.makedirs(PICTURES, exist_ok=True)
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--headless=new"])
        yield b
        b.close()


class Eyes:
    """A page that is opened, and everything that went wrong on it."""

    def __init__(self, browser, door, token=True, allow=(), **context):
        self.door, self.allow = door, allow
        self.context = browser.new_context(**dict(dict(viewport={"width": 1360, "height": 900}), **context))
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.wrong, self.asked = [], []
        self.page.on("console", lambda m: self.wrong.append("console: " + m.text))
        self.page.on("pageerror", lambda e: self.wrong.append("error: %s" % e))
        self.page.on("dialog", self.on_dialog)
        self.page.on("request", self.on_request)
        self.page.add_init_script("window.broken = []; addEventListener('securitypolicyviolation', e => broken.push(e.violatedDirective + ' ' + e.blockedURI));")
        self.answer = self.page.goto(door.url)
        if token and door.token:
            expect(self.page.locator("#token")).to_be_focused()
            self.page.fill("#token", door.token)
            self.page.keyboard.press("Enter")
        if token:
            expect(self.page.locator("#main")).to_be_visible(timeout=WAIT)
            expect(self.page.locator("#state")).to_have_text("● ready", timeout=WAIT)

    def on_dialog(self, dialog):
        self.wrong.append("a script's dialog: " + dialog.message)
        dialog.dismiss()

    def on_request(self, request):
        self.asked.append(request.url)
        if not request.url.startswith(self.door.url):
            self.wrong.append("asked elsewhere: " + request.url)

    def check(self):
        # The first question of a page without a token is refused: that is how it learns that it needs one.
        found = [w for w in self.wrong if not re.search("status of 401", w) and not any(re.search(a, w) for a in self.allow)]
        assert not found, found
        assert self.page.evaluate("broken") == []

    def row(self, name):
        return self.page.locator("#sections tbody tr").filter(has=self.page.get_by_role("rowheader", name=name, exact=True))

    def client_row(self, text):
        self.page.fill("#filter", text)
        return self.page.locator("#clients tbody tr")

    def number(self, nth):
        """What one of the four figures of the traffic says."""
        text = self.page.locator("#tiles b").nth(nth).inner_text()
        found = re.match(r"([\d.,]+) ?(\w*)", text)
        factor = {"": 1, "B": 1, "M": 1e6, "KiB": 1024, "MiB": 1 << 20, "GiB": 1 << 30}[found.group(2)] if found else 0
        return float(found.group(1).replace(",", "")) * factor if found else 0.0

    def axe(self, what):
        """What axe-core finds that is serious or critical. It comes by the debugger, which no policy binds."""
        with open(AXE) as f:
            self.page.evaluate("() => {" + f.read() + "}")
        told = self.page.evaluate("axe.run(document, {preload: false, resultTypes: ['violations']})")
        bad = [(v["id"], v["impact"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"]) for v in told["violations"]
               if v["impact"] in ("serious", "critical")]
        assert told["passes"], "axe looked at nothing"
        assert not bad, "%s: %s" % (what, bad)

    def picture(self, name, full=True):
        self.page.screenshot(path=os.path.join(PICTURES, name + ".png"), full_page=full)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.check()
            else:
                self.picture("failed")
        finally:
            self.context.close()


@pytest.fixture
def eyes(browser, door, load):
    with Eyes(browser, door) as e:
        yield e


def test_what_is_served(door):
    with open(os.path.join(harness.ROOT, "dashboard.html"), "rb") as f:
        page = f.read()
    assert len(page) < 40 * 1024
    with urllib.request.urlopen(door.url, timeout=10) as answer:
        assert answer.read() == page
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        rules = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    for name in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules[name]), rules[name]


def test_numbers_move_under_load(eyes):
    page = eyes.page
    seen = set()

    def moved():
        seen.add(page.locator("#tiles b").nth(0).inner_text())
        page.wait_for_timeout(300)
        return len(seen) >= 5  # the dash of the beginning is one

    harness.wait_for("four different numbers of requests a second", moved, 30)
    assert eyes.number(0) > 50 and eyes.number(1) > 1000
    harness.wait_for("the number of clients", lambda: eyes.number(2) == door_clients(eyes.door))
    assert page.locator("#tiles path.one").first.get_attribute("d").count("L") >= 3
    status = eyes.door.get("status")
    for b in status["backends"]:
        row = eyes.row(b["name"])
        expect(row).to_have_count(1)
        expect(row.locator("td").first).to_contain_text("up")
    for node in [b for b in status["backends"] if b["slots"]]:
        expect(eyes.row(node["name"]).locator("td[data-l=Slots]")).to_have_text(format(node["slots"], ","))
        expect(eyes.row(node["name"]).locator("td[data-l='p99 ≤']")).to_have_text(re.compile(r"\d (µs|ms|s)$"))
        harness.wait_for("answers a second of " + node["name"], lambda: eyes.row(node["name"]).locator("td[data-l='Answers/s']").inner_text() != "0")


def door_clients(door):
    return sum(s["clients"] for s in door.get("status")["sections"])


def test_the_map_of_slots(eyes):
    page = eyes.page
    ranges = eyes.door.get("slots?section=main")["ranges"]
    legend = page.locator(".legend")
    for name in {r[2] for r in ranges}:
        expect(legend).to_contain_text(name)
    for first, last, _ in ranges:
        expect(legend).to_contain_text("%d–%d" % (first, last) if first != last else str(first))
    assert page.locator("svg.slots > rect").count() == len(ranges)
    fills = [page.locator("svg.slots > rect").nth(i).get_attribute("fill") for i in range(len(ranges))]
    assert len(set(fills)) == len({r[2] for r in ranges}), "each server has its own pattern"
    expect(legend).not_to_contain_text("without a server")
    expect(page.get_by_role("img", name="Map of the slots")).to_be_visible()


def test_slow_requests_hot_keys_and_tables(browser, cluster, fronts):
    """Without the load: what waits behind a slow request is slow, too, and would fill the log."""
    with Door(cluster, fronts) as door, Eyes(browser, door) as eyes:
        page = eyes.page
        with harness.RespClient(door.puerta.redis_port) as c:
            c.ask("EVAL", "local n = 0 for i = 1, 20000000 do n = n + i end return n", 1, HOSTILE_KEY, timeout=60)
            slow = page.locator("#slow tbody tr").filter(has_text="<script>alert(2)</script>")
            expect(slow.first).to_be_visible(timeout=WAIT)
            expect(slow.first).to_contain_text(re.compile("eval", re.I))
            expect(page.locator("#slow-n")).to_have_text("0 passed over")

            def hot():
                c.pipeline([("GET", HOSTILE_KEY)] * 500)
                page.wait_for_timeout(200)
                return page.locator("#hot-keys tbody tr").filter(has_text="<script>").count()

            harness.wait_for("the hot key on the page", hot, 40)
        expect(page.locator("#hot-slots tbody tr").first).to_contain_text(str(harness.slot_of(HOSTILE_KEY)))
        assert not re.search("[\u202e\x1b]", page.locator("main").inner_text()), "what turns text round is shown as what it is"
        for name in ("clients", "chunks", "backends"):
            row = page.locator("#gauges tbody tr").filter(has=page.get_by_role("rowheader", name=name, exact=True))
            expect(row.locator("td[data-l=Places]")).to_have_text(format(door.get("status")["gauges"][name]["most"], ","))
        page.click("#all summary")
        expect(page.locator("#counters")).to_contain_text("requests")
        expect(page.locator("#memory-n")).to_contain_text("MiB")


@pytest.fixture
def hostile(door):
    with harness.RespClient(door.puerta.redis_port) as c:
        c.ask("CLIENT", "SETNAME", HOSTILE)
        yield c


def test_clients_filter_and_sort(eyes, hostile):
    page = eyes.page
    rows = eyes.client_row(HOSTILE)
    expect(rows.first).to_contain_text(HOSTILE)
    expect(page.locator("#clients-n")).to_contain_text(" of ")
    assert all(HOSTILE in t for t in rows.all_inner_texts())
    page.fill("#filter", "no such client, surely")
    expect(page.locator("#clients")).to_contain_text("no client has that")
    page.fill("#filter", "")
    page.get_by_role("button", name="Address").click()
    expect(page.get_by_role("columnheader", name="Address")).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("button", name="Address").click()
    expect(page.get_by_role("columnheader", name="Address")).to_have_attribute("aria-sort", "descending")
    shown = page.locator("#clients tbody th").all_inner_texts()
    assert shown == sorted(shown, reverse=True) and len(shown) == 20
    page.click("#more")
    harness.wait_for("all clients", lambda: page.locator("#clients tbody tr").count() == door_clients(eyes.door))


def test_drain_and_undrain_a_mongos(eyes, fronts):
    page, name = eyes.page, fronts[1].address
    eyes.row(name).get_by_role("button", name="Drain " + name).click()
    dialog = page.get_by_role("dialog", name="Drain %s?" % name)
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert eyes.door.hold_of(name) == "none", "nothing is done before it is confirmed"
    eyes.row(name).get_by_role("button", name="Drain " + name).click()
    eyes.axe("a question")
    eyes.picture("question", full=False)
    dialog.get_by_role("button", name="Drain").click()
    expect(eyes.row(name)).to_contain_text("drained by hand")
    expect(eyes.row(name)).to_have_class("in-care")
    expect(eyes.row(fronts[0].address)).to_have_class("in-good")
    expect(page.locator("#sum")).to_contain_text(name)
    expect(page.get_by_role("log")).to_contain_text(name)
    assert eyes.door.hold_of(name) == "drain"
    eyes.picture("drained")
    eyes.row(name).get_by_role("button", name="Undrain " + name).click()
    page.get_by_role("dialog").get_by_role("button", name="Undrain").click()
    expect(eyes.row(name)).not_to_contain_text("by hand")
    harness.wait_for("the hold to be taken back", lambda: eyes.door.hold_of(name) == "none")


def test_drain_by_keyboard_alone(eyes, fronts):
    page, name = eyes.page, fronts[2].address
    page.keyboard.press("Home")

    def tab_to(label):
        for _ in range(120):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent") == label:
                return
        raise AssertionError("Tab never comes to " + label)

    tab_to("Drain " + name)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(eyes.row(name).get_by_role("button", name="Drain " + name)).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Drain"
    page.keyboard.press("Enter")
    expect(eyes.row(name)).to_contain_text("drained by hand")
    # The button that was pressed is another one now, in its place.
    expect(eyes.row(name).get_by_role("button", name="Undrain " + name)).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(eyes.row(name)).not_to_contain_text("by hand")


def test_a_master_with_slots_is_not_drained(eyes):
    page = eyes.page
    name = next(b["name"] for b in eyes.door.get("status")["backends"] if b["slots"])
    eyes.allow = ("status of 409",)
    eyes.row(name).get_by_role("button", name="Drain " + name).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("slots")
    dialog.get_by_role("button", name="Drain").click()
    expect(dialog.get_by_role("alert")).to_contain_text("slots")
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    dialog.get_by_role("button", name="Close").click()
    assert eyes.door.hold_of(name) == "none"


def test_kill_a_client(eyes):
    page = eyes.page
    with harness.RespClient(eyes.door.puerta.redis_port) as c:
        c.ask("CLIENT", "SETNAME", "to-be-killed")
        rows = eyes.client_row("to-be-killed")
        expect(rows).to_have_count(1)
        rows.get_by_role("button", name="Kill").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("to-be-killed")
        dialog.get_by_role("button", name="Kill").click()
        assert c.at_end()
    expect(rows).to_have_count(0)
    assert not any(x["name"] == "to-be-killed" for x in eyes.door.get("clients")["clients"])
    expect(page.get_by_role("heading", name="Clients")).to_be_focused()


def test_hostile_names_do_nothing(eyes, hostile):
    page = eyes.page
    with harness.RespClient(eyes.door.puerta.redis_port) as c:
        c.ask("CLIENT", "SETNAME", "<b>bold</b><svg/onload=alert(3)>")
        expect(eyes.client_row("<b>bold</b><svg/onload=alert(3)>")).to_have_count(1)
        rows = eyes.client_row(HOSTILE)
        expect(rows.first).to_be_visible()
        rows.first.get_by_role("button", name="Kill").click()
        expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
        page.keyboard.press("Escape")
    assert page.locator("main img, main script, main b:not(.tile b), svg[onload]").count() == 0


def test_wrong_token(browser, door, load):
    with Eyes(browser, door, token=False) as e:
        page = e.page
        expect(page.locator("#main")).to_be_hidden()
        expect(page.locator("#token")).to_be_focused()
        e.axe("the page without a token")
        e.picture("locked", full=False)
        page.fill("#token", "not-the-token")
        page.keyboard.press("Enter")
        expect(page.locator("#token-wrong")).to_have_text("That is not the token.")
        expect(page.locator("#main")).to_be_hidden()
        asked = len(e.asked)
        page.wait_for_timeout(2500)
        assert len(e.asked) == asked, "it does not go on guessing"
        assert page.evaluate("sessionStorage.length") == 0, "a wrong token is not kept"
        page.fill("#token", door.token)
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_visible()
        assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        page.reload()
        expect(page.locator("#main")).to_be_visible()
        page.click("#forget")
        expect(page.locator("#main")).to_be_hidden()
        assert page.evaluate("sessionStorage.length") == 0


def test_without_a_token_file_it_only_shows(browser, cluster, fronts):
    with Door(cluster, fronts, token="") as door, Eyes(browser, door) as e:
        expect(e.page.locator("#readonly")).to_be_visible()
        expect(e.page.locator("#readonly")).to_contain_text("admin_token_file")
        button = e.row(fronts[0].address).get_by_role("button", name="Drain " + fronts[0].address)
        expect(button).to_have_attribute("aria-disabled", "true")
        expect(button).to_have_accessible_description(re.compile("admin_token_file"))
        button.click(force=True)
        expect(e.page.get_by_role("dialog")).to_have_count(0)
        e.axe("the page that only shows")


def test_no_answer_is_told_and_a_new_process_noticed(browser, cluster, fronts):
    with Door(cluster, fronts) as first:
        with Eyes(browser, first, allow=("ERR_", "Failed to load")) as e:
            first.puerta.process.send_signal(signal.SIGTERM)
            first.puerta.process.wait(20 * harness.SLOW)
            lost = e.page.locator("#lost")
            expect(lost).to_contain_text(re.compile(r"No answer since \d\d:\d\d:\d\d"), timeout=30000 * harness.SLOW)
            expect(e.page.locator("#state")).to_have_text("✕ no answer")
            assert "no answer" in e.page.title()
            e.picture("lost", full=False)
            with Door(cluster, fronts, admin=first.admin):
                expect(lost).to_be_hidden(timeout=30000 * harness.SLOW)
                expect(e.page.get_by_role("log")).to_contain_text("Another process answers")
                expect(e.page.locator("#state")).to_have_text("● ready")


@pytest.mark.parametrize("name, context", [("light", dict(color_scheme="light")), ("dark", dict(color_scheme="dark")),
                                           ("phone", dict(PHONE, color_scheme="light")), ("phone-dark", dict(PHONE, color_scheme="dark"))])
def test_axe_and_pictures(browser, door, load, name, context):
    with Eyes(browser, door, **context) as e:
        page = e.page
        expect(page.locator("svg.slots")).to_be_visible()
        expect(page.locator("#clients tbody tr").first).to_be_visible()
        page.evaluate("document.activeElement.blur()")
        e.axe(name)
        page.click("#all summary")
        e.axe(name + ", all opened")
        page.click("#all summary")
        page.evaluate("scrollTo(0, 0)")
        e.picture(name)
        wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window, "nothing has to be scrolled sideways"
        if name.startswith("phone"):
            row = page.locator("#sections tbody tr").first
            assert row.evaluate("e => getComputedStyle(e).display") == "grid"
            small = page.evaluate("[...document.querySelectorAll('button')].filter(b => b.offsetHeight && b.offsetHeight < 24).length")
            assert small == 0, "a finger finds every button"


@pytest.mark.parametrize("name", ["[2001:db8:85a3:1319:8a2e:1370:7344:%x]:27017", "cache-node-%d" + ".of-a-very-long-datacentre-name" * 4 + ":27017"])
@pytest.mark.parametrize("context", [dict(), PHONE], ids=["wide", "phone"])
def test_long_names_hide_nothing(browser, door, name, context):
    def longer(route):
        answer = route.fetch()
        body = answer.json()
        for i, b in enumerate(body["backends"]):
            b.update(name=name % (4096 + i), state="down" if i == 1 else b["state"])
        route.fulfill(response=answer, json=body)

    with Eyes(browser, door, **context) as e:
        e.page.route("**/status", longer)
        expect(e.row(name % 4096)).to_be_visible()
        expect(e.row(name % 4097)).to_have_class("in-bad")
        hidden = """[...document.querySelectorAll("td.acts, p, li, tbody th")].filter(x =>
            x.scrollWidth > x.clientWidth || (x.matches("td") && x.getBoundingClientRect().left < x.previousSibling.getBoundingClientRect().right - 1 &&
            x.getBoundingClientRect().top === x.previousSibling.getBoundingClientRect().top)).filter(x => x.checkVisibility() && !x.matches(".off")).map(x => x.textContent)"""
        assert e.page.evaluate(hidden) == []


def test_hidden_it_asks_less(eyes):
    page = eyes.page
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.wait_for_timeout(1500)
    asked = len(eyes.asked)
    page.wait_for_timeout(3000)
    assert len(eyes.asked) - asked <= 1
    page.evaluate("Object.defineProperty(document, 'hidden', {value: false, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))")
    harness.wait_for("it to ask again", lambda: page.wait_for_timeout(100) or len(eyes.asked) > asked + 3)
