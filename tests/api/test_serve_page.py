#!/usr/bin/env python3
"""The page at /: what is sent, and the page in a headless Chromium, over the real server with scripted
answers and with the mini model. Pictures of it are kept in build/test-logs/page-*.png."""
from serving import *
from webdriver import ENTER, browsing

LOGS = os.path.join(ROOT, "build", "test-logs")
HTML = {"Accept": "text/html,application/xhtml+xml"}
EVIL = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
SCRIPT = [  # the first whose match the prompt holds: what comes later in a conversation stands first
    {"match": "forever", "delay_ms": 20, "completion": "</think>" + "and on " * 2000},
    {"match": "broken", "fault_after": 3, "completion": "</think>one two three four five six"},
    {"match": "evil", "completion": f"</think>{EVIL}\n\n```html\n{EVIL}\n```"},
    {"match": "It rains", "completion": "Rain.</think>Take an umbrella to **Bergen**."},
    {"match": "weather", "completion": "Look it up.</think>I look." + call_text(("weather", {"city": "Bergen", "days": 2}))},
    {"match": "second", "completion": "Short.</think>A second answer."},
    {"completion": "Let me think about it.</think># Fathoms\n\nA fathom is **six feet**:\n\n1. about `1.83 m`,\n"
                   "2. the span of two arms.\n\n```c\nputs(\"deep\");\n```", "delay_ms": 15},
]
TOOL = [{"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}]


def picture(b, name):
    os.makedirs(LOGS, exist_ok=True)
    path = os.path.join(LOGS, f"page-{name}.png")
    b.screenshot(path)
    print(f"        {path}")


def say(b, text):
    b.type("#prompt", text + ENTER)


def answered(b, n):
    """Until n answers are complete; the text of the last."""
    b.wait(f"document.querySelectorAll('.answer').length >= {n} && !document.querySelector('.busy')")
    return b.js("return [...document.querySelectorAll('.answer')].at(-1).textContent")


def test_files(work):
    with serving(work, "--api-key", "secret-of-tests", script=SCRIPT) as s:
        status, headers, body = s.request("GET", "/", headers=HTML)  # no key: the page asks for it
        assert status == 200 and headers["content-type"] == "text/html; charset=utf-8", (status, headers)
        assert b"<title>Fathom</title>" in body and len(body) < 20000
        policy = headers["content-security-policy"]
        for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"):
            assert part in policy, policy
        assert "unsafe" not in policy and headers["x-content-type-options"] == "nosniff"
        for path, kind in (("/page.css", "text/css"), ("/page.js", "text/javascript")):
            assert path.encode() in body
            status, headers, text = s.request("GET", path)
            assert status == 200 and headers["content-type"].startswith(kind)
            assert b"http://" not in text and b"https://" not in text, "nothing from elsewhere"
            assert b"innerHTML" not in text and b"eval(" not in text
            tag = headers["etag"]
            assert s.request("GET", path, headers={"If-None-Match": tag})[0] == 304
            assert s.request("GET", path, headers={"If-None-Match": '"old"'})[0] == 200
        assert s.get("/")[1] == {"status": "ok"}  # programs get the health answer
        assert s.request("HEAD", "/", headers=HTML)[2] == b""
        assert s.request("POST", "/", {}, {"x-api-key": "secret-of-tests"})[0] == 405


def test_conversation(work, b):
    with serving(work, "--ctx", 4096, script=SCRIPT) as s:
        b.open(f"http://127.0.0.1:{s.port}/")
        b.wait("document.querySelector('#model').textContent.includes('4,096 tokens')")
        say(b, "What is a fathom?")
        lengths = set()
        while len(lengths) < 6 and b.js("return !document.querySelector('.note')"):
            lengths.add(len(b.text(".answer")))  # it grows
        text = answered(b, 1)
        assert len(lengths) >= 4, f"the answer did not stream: {lengths}"
        assert "Let me think about it." in b.text("details div")
        assert not b.js("return document.querySelector('details').open"), "the reasoning is folded"
        assert b.text("h2") == "Fathoms" and b.text("strong") == "six feet" and b.text("ol code") == "1.83 m"
        assert b.text("pre") == 'puts("deep");' and "tokens/s" in text
        say(b, "And the second?")
        assert "A second answer." in answered(b, 2)
        first = s.metric("prompt_tokens_cached_total", '{source="live"}')
        say(b, "And the second once more?")  # the template drops the reasoning of earlier turns
        text = answered(b, 3)
        cached, total = map(int, re.search(r"(\d+) of (\d+) prompt tokens from the cache", text).groups())
        assert 30 < cached < total, text
        assert s.metric("prompt_tokens_cached_total", '{source="live"}') - first == cached
        assert b.text("#cache") == f"{cached} of {total} prompt tokens"
        b.wait("document.querySelector('#queue').textContent.startsWith('0 of')")
        assert re.match(r"[\d.]+ \w?B of [\d.]+ \w?B", b.text("#kv")), b.text("#kv")
        picture(b, "light")
        b.dark(True)
        picture(b, "dark")
        b.dark(False)
        b.open(f"http://127.0.0.1:{s.port}/")  # the tab keeps the conversation
        assert len(b.js("return [...document.querySelectorAll('.turn')]")) == 6
        b.size(420, 760)
        assert b.js("return document.documentElement.scrollWidth <= innerWidth"), "wider than a narrow window"
        picture(b, "narrow")
        b.size(1100, 800)
        b.click("#new")
        assert b.js("return document.querySelectorAll('.turn').length") == 0


def test_tools(work, b):
    with serving(work, "--ctx", 4096, script=SCRIPT) as s:
        b.open(f"http://127.0.0.1:{s.port}/")
        b.click("#settings-toggle")
        b.js("const t = document.querySelector('#tools'); t.value = arguments[0]; t.dispatchEvent(new Event('change'))",
             json.dumps(TOOL))
        say(b, "How is the weather?")
        answered(b, 1)
        assert b.text(".call b") == "weather"
        assert json.loads(b.text(".call pre")) == {"city": "Bergen", "days": 2}
        picture(b, "call")
        b.type("form.turn textarea", "It rains")
        b.click("form.turn button")
        assert "Take an umbrella to Bergen." in answered(b, 2)
        assert b.text(".call.result") == "It rains"


def test_what_goes_wrong(work, b):
    with serving(work, "--ctx", 4096, "--api-key", "secret-of-tests", script=SCRIPT) as s:
        b.open(f"http://127.0.0.1:{s.port}/")
        b.wait("document.querySelector('#model').textContent.includes('API key')")
        say(b, "Hello")
        assert "401: No valid API key" in answered(b, 1)
        b.click("#settings-toggle")
        b.js("const k = document.querySelector('#key'); k.value = 'secret-of-tests'; k.dispatchEvent(new Event('change'))")
        b.wait("document.querySelector('#model').textContent.includes('tokens')")
        say(b, "evil")
        text = answered(b, 2)
        assert EVIL in text and b.js("return document.title") == "Fathom"
        assert b.js("return document.querySelectorAll('main img, main script').length") == 0
        say(b, "broken")
        answered(b, 3)
        assert b.js("return [...document.querySelectorAll('.answer')].at(-1).querySelector('.error') !== null")
        say(b, "forever")
        b.wait("document.querySelector('.busy')?.textContent.length > 20")
        assert b.js("return getComputedStyle(document.querySelector('#stop')).display") != "none"
        b.click("#stop")
        assert "Stopped." in answered(b, 4)
        s.wait_metric("requests_running", 0)
        picture(b, "errors")


def test_mini_model(work, b):
    with serving(work, "--ctx", 4096) as s:
        b.open(f"http://127.0.0.1:{s.port}/")
        b.wait("document.querySelector('#model').textContent.includes('4,096 tokens')")
        b.click("#settings-toggle")  # without reasoning, turn 2 continues turn 1 token for token
        b.js("const e = document.querySelector('#effort'); e.value = 'none'; e.dispatchEvent(new Event('change'))")
        say(b, "What is 3 * 6?")
        assert "18" in answered(b, 1)
        say(b, "What is 4 * 5?")
        cached, total = map(int, re.search(r"(\d+) of (\d+) prompt tokens from", answered(b, 2)).groups())
        assert 10 < cached < total
        assert s.metric("prompt_tokens_cached_total", '{source="live"}') == cached


def in_browser(test):
    """Each test begins with an empty tab, and nothing may complain in the console that it does not
    expect (answers that are errors are logged by the browser itself)."""
    def run(work):
        with browsing() as b:
            test(work, b)
            bad = [m for m in b.console() if "status of 40" not in m and "status of 50" not in m]
            assert not bad, bad
    return run


for _name in ("test_conversation", "test_tools", "test_what_goes_wrong", "test_mini_model"):
    globals()[_name] = in_browser(globals()[_name])

if __name__ == "__main__":
    sys.exit(main(globals()))
