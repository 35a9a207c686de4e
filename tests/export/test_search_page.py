"""The search page in headless Chromium, driven over the WebDriver protocol."""

import http.client
import json
import shutil
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf
from export_helpers import Server

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not (DRIVER and BROWSER), reason="needs chromium and chromedriver")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """As much of a WebDriver client as these tests need."""

    def __init__(self, profile):
        self.driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        for line in self.driver.stdout:
            if "started successfully on port" in line:
                self.port = int(line.rsplit("port ", 1)[1].strip(" .\n"))
                break
        arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-sync",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-quic",
            # Nothing but this machine can be reached, so an external request would fail visibly.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}",
        ]
        options = {"binary": BROWSER, "args": arguments}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self.send("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}}, base="")
        self.session = answer["sessionId"]

    def send(self, method, path, payload=None, base=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        base = f"/session/{self.session}" if base is None else base
        body = None if payload is None and method != "POST" else json.dumps(payload or {})
        connection.request(method, base + path, body, {"Content-Type": "application/json"})
        value = json.loads(connection.getresponse().read())["value"]
        connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{method} {path}: {value['error']}: {value.get('message')}")
        return value

    def open(self, address):
        self.send("POST", "/url", {"url": address})

    def run(self, script, *arguments):
        return self.send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script, timeout=60):
        """Until the script returns something true, which is returned."""
        deadline = time.monotonic() + timeout
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"{script}: {self.run('return document.body.innerText')[:2000]}"
            time.sleep(0.05)
        return value

    def find(self, selector):
        return self.send("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.send("POST", f"/element/{self.find(selector)}/click")

    def type(self, selector, text):
        self.send("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def key(self, *keys):
        actions = [
            action for key in keys for action in ({"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})
        ]
        self.send("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def close(self):
        try:
            self.send("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(30)
            self.driver.stdout.close()


@pytest.fixture(scope="module")
def server(digits_model):
    running = Server(digits_model)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def page(browser, server):
    browser.send("POST", "/window/rect", {"width": 1200, "height": 900})
    browser.open(server.rest + "/")
    browser.wait("return document.querySelectorAll('#gallery .item').length >= 60")
    return browser


RESULTS = "return [...document.querySelectorAll('#results .item')].map(e => e.querySelector('.name').textContent)"
DONE = "return document.getElementById('status').textContent.includes('nearest to')"


def test_gallery_item_is_clicked(page, digits):
    page.wait(
        "return [...document.querySelectorAll('#gallery img')].slice(0, 5).every(i => i.complete && i.naturalWidth)"
    )
    page.click("#gallery li:nth-child(8) .item")
    page.wait(DONE)
    names = page.run(RESULTS)
    assert len(names) == 12
    assert names[0] == digits.ids[7]
    scores = page.run("return [...document.querySelectorAll('#results .score')].map(e => Number(e.textContent))")
    assert scores == sorted(scores, reverse=True)
    labels = page.run("return [...document.querySelectorAll('#results .label')].map(e => e.textContent)")
    assert labels[0] == digits.class_names[digits.labels[7]]
    assert page.run("return document.querySelectorAll('#results .own').length") == 1
    assert page.run("return document.querySelector('#results .own .note').textContent") == "the query itself"
    # A result is a query too.
    page.click("#results li:nth-child(3) .item")
    page.wait(f"return document.getElementById('status').textContent.includes({names[2]!r})")
    assert page.run(RESULTS)[0] == names[2]
    before = page.run("return document.querySelectorAll('#gallery .item').length")
    page.click("#more")
    page.wait(f"return document.querySelectorAll('#gallery .item').length === {before + 60}")


def test_labels_and_ids_filter_gallery_and_results(page, digits):
    label = digits.class_names[digits.labels[-1]]
    count = int((digits.labels == digits.labels[-1]).sum())
    page.click("#gallery li:nth-child(2) .item")
    page.wait(DONE)
    page.type("#label", label + "\ue007")
    page.wait(f"return document.getElementById('about').textContent.startsWith('{count} of {len(digits)} items')")
    shown = "return [...new Set([...document.querySelectorAll('{} .label')].map(e => e.textContent))].join()"
    page.wait(shown.format("#results") + f" === '{label}'")
    assert page.run(shown.format("#gallery")) == label
    address = page.run("return location.search")
    assert label in address
    assert "item=" in address
    # The address shows the same to somebody else, and Back shows what was there.
    names = page.run(RESULTS)
    page.open(page.run("return location.href"))
    page.wait(DONE)
    assert page.run(RESULTS) == names
    page.click("#results li:nth-child(4) .item")
    page.wait(f"return document.querySelector('#results .own .name')?.textContent === {names[3]!r}")
    page.run("history.back()")
    page.wait(f"return document.getElementById('status').textContent.includes({digits.ids[1]!r})")
    page.wait(RESULTS + f".join() === {','.join(names)!r}")
    page.run("document.getElementById('label').value = ''")
    page.type("#find", digits.ids[7] + "\ue007")
    page.wait("return document.querySelectorAll('#gallery .item').length < 60")
    found = page.run("return [...document.querySelectorAll('#gallery .name')].map(e => e.textContent)")
    assert digits.ids[7] in found
    assert all(digits.ids[7] in name for name in found)


def test_a_picture_is_enlarged(page, digits):
    page.run("document.querySelector('#gallery .enlarge').click()")
    page.wait("return document.getElementById('large-picture').naturalWidth === 8")
    assert page.run("return document.getElementById('large').open")
    assert page.run("return document.getElementById('large-name').textContent") == digits.ids[0]
    page.key("\ue00c")
    page.wait("return !document.getElementById('large').open")


def test_image_is_chosen_dropped_and_pasted(page, digits, tmp_path):
    path = tmp_path / "query.png"
    path.write_bytes(tf.io.encode_png(digits.image(100)).numpy())
    page.type("#file", str(path))
    page.wait(DONE)
    assert page.run(RESULTS)[0] == digits.ids[100]
    assert page.run("return document.getElementById('preview').naturalWidth") == 8
    for kind, row in (("drop", 200), ("paste", 300)):
        content = list(tf.io.encode_png(digits.image(row)).numpy())
        page.run(
            """
            const file = new File([new Uint8Array(arguments[1])], arguments[0] + '.png', {type: 'image/png'});
            const data = new DataTransfer();
            data.items.add(file);
            const event = arguments[0] === 'drop'
              ? new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})
              : new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true});
            document.getElementById('drop').dispatchEvent(event);
            """,
            kind,
            content,
        )
        page.wait(f"return document.getElementById('status').textContent.includes('{kind}.png')")
        page.wait(DONE)
        assert page.run(RESULTS)[0] == digits.ids[row]


def test_what_is_no_image_is_said(page, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no image")
    page.type("#file", str(path))
    page.wait("return document.getElementById('status').classList.contains('error')")
    assert "not a JPEG" in page.run("return document.getElementById('status').textContent")


def test_by_keyboard(page):
    tab, enter = "\ue004", "\ue007"
    reached = []
    for _ in range(8):
        page.key(tab)
        reached.append(page.run("return document.activeElement.id || document.activeElement.className"))
        if reached[-1] == "item":
            break
    assert reached[:3] == ["skip", "choose", "k"]
    assert reached[-1] == "item"
    page.key(enter)
    page.wait(DONE)
    assert page.run(RESULTS)[0] == page.run("return document.activeElement.querySelector('.name').textContent")
    page.run("document.getElementById('k').focus(); document.getElementById('k').select()")
    page.key("3", enter)
    page.wait("return document.querySelectorAll('#results .item').length === 3")


def test_on_a_phone(page):
    metrics = {"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    page.send("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})
    try:
        page.click("#gallery li:nth-child(2) .item")
        page.wait(DONE)
        assert page.run("return document.documentElement.scrollWidth <= 360")
        small = page.run(
            "return [...document.querySelectorAll('button, input:not([type=file])')]"
            ".filter(e => e.offsetParent && e.getBoundingClientRect().height < 44).length"
        )
        assert small == 0
        assert page.run("return document.querySelector('#results .item').getBoundingClientRect().width") > 90
    finally:
        page.send("POST", "/goog/cdp/execute", {"cmd": "Emulation.clearDeviceMetricsOverride", "params": {}})


def test_nothing_is_asked_of_anybody_else(page, server):
    page.click("#gallery li:nth-child(1) .item")
    page.wait(DONE)
    # Pictures that are still on their way are not among them yet.
    page.wait("return performance.getEntriesByType('resource').length > 10")
    requests = page.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith((server.rest + "/", f"blob:{server.rest}/")) for name in requests)
    _, headers, _ = server.request("GET", "/")
    assert "default-src 'none'" in headers["content-security-policy"]
    errors = [entry for entry in page.send("POST", "/se/log", {"type": "browser"}) if "favicon" not in entry["message"]]
    assert not [entry for entry in errors if "Content Security Policy" in entry["message"]], errors


def test_names_are_text_and_not_markup(browser, tmp_path):
    import export

    trap = '<img src=x onerror="document.title=1">'
    gallery = export.Gallery(np.eye(4, dtype=np.float32)[:3], [trap, "b", "c"], {"label": [trap, "", "x"]})
    version = export.build_model(tmp_path / "m", gallery)
    server = Server(version, EXPORT_SERVE_TOKEN="open sesame")
    try:
        browser.open(server.rest + "/")
        browser.wait("return !document.getElementById('login').hidden")
        browser.type("#token", "open sesame")
        browser.key("\ue007")
        browser.wait("return document.querySelectorAll('#gallery .item').length === 3")
        assert browser.run("return document.getElementById('login').hidden && document.getElementById('drop').hidden")
        browser.click("#gallery li:nth-child(1) .item")
        browser.wait(DONE)
        assert browser.run(RESULTS)[0] == trap
        # Markup would be an element at once, and change the title some time later.
        assert browser.run("return document.querySelectorAll('img[src=x]').length") == 0
        assert browser.run("return document.title") == "m: image search"
    finally:
        server.kill()
