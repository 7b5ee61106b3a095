"""A headless Chromium for tests, driven over the WebDriver protocol of chromedriver (W3C WebDriver):
JSON over HTTP, so the standard library is enough. Skips, loudly, where either is missing."""
import base64
import contextlib
import http.client
import shutil
import socket
import tempfile
import time

from program import *

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key of element references
ENTER = "\ue007"


class Browser:
    def __init__(self, port, session):
        self.port, self.base = port, f"/session/{session}"

    def call(self, method, path, body=None):
        return command(self.port, method, self.base + path, body)

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def js(self, script, *args):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def find(self, css):
        return self.call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def type(self, css, text):
        self.call("POST", f"/element/{self.find(css)}/value", {"text": text})

    def click(self, css):
        self.call("POST", f"/element/{self.find(css)}/click", {})

    def text(self, css):
        """Text of all matching elements, also of what is folded."""
        return self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent).join('\\n')", css)

    def wait(self, script, timeout=30):
        """Until the expression is true; returns its value."""
        end = time.time() + timeout
        while True:
            value = self.js("return " + script)
            if value:
                return value
            assert time.time() < end, f"not after {timeout} s: {script}\n{self.text('body')}"
            time.sleep(0.02)

    def size(self, width, height):
        self.call("POST", "/window/rect", {"width": width, "height": height})

    def devtools(self, cmd, **params):
        return self.call("POST", "/goog/cdp/execute", {"cmd": cmd, "params": params})

    def dark(self, on):
        self.devtools("Emulation.setEmulatedMedia",
                      features=[{"name": "prefers-color-scheme", "value": "dark" if on else "light"}])

    def screenshot(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("GET", "/screenshot")))

    def console(self):
        """Errors that the page logged since the last call: exceptions, refused resources."""
        return [x["message"] for x in self.call("POST", "/se/log", {"type": "browser"}) if x["level"] == "SEVERE"]


def command(port, method, path, body=None):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        c.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        value = json.loads(c.getresponse().read())["value"]
    finally:
        c.close()
    if isinstance(value, dict) and "error" in value:
        raise AssertionError(f"{path}: {value['error']}: {value['message']}")
    return value


@contextlib.contextmanager
def browsing():
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        skip("Chromium and chromedriver are not installed: the page is not tested")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    home = tempfile.mkdtemp(prefix="fathom-browser-")
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "HOME": home})
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        args = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", f"--user-data-dir={home}/profile", "--window-size=1100,800"]
        options = {"args": args, "binary": chromium}
        made = command(port, "POST", "/session", {"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
        b = Browser(port, made["sessionId"])
        try:
            yield b
        finally:
            b.call("DELETE", "")
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


__all__ = [n for n in dir() if not n.startswith("_")]
