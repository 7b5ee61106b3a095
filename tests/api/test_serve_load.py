#!/usr/bin/env python3
"""The server under load, mostly with the mini model: batched answers are those that each request gets
alone, streams go on while a long prompt is read, no stream is lost, mixed or cut; slow, broken and
hostile clients harm nobody; nothing piles up. FATHOM_TEST_TASKS=1 (test.sh --long) asks for the full
counts."""
import contextlib
import random
import select
import struct

from serving import *

LONG = os.environ.get("FATHOM_TEST_TASKS") == "1"
QUESTIONS = ["hi", "What is 2+3?", "Name a colour.", "Count to five.", "Tell me a story about a cat.", "Bye",
             "Write a list of three fruits.", "What can you do?", "Say it again.", "Is the sky blue?",
             "Reverse the word stone.", "What is 9-4?", "Good morning", "Explain rain.", "Sort: b, a, c", "Who are you?"]


@contextlib.contextmanager
def environment(**more):
    old = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(old)


def ask(s, i, stream=True, **more):
    """Request i of a fixed list: the same question, seed and settings every time."""
    body = {"model": "m", "messages": [{"role": "system", "content": f"You are helper {i % 7}. " * (i % 5 * 6)},
                                       {"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}],
            "max_tokens": 12 + i % 9, "temperature": 0 if i % 3 == 0 else 0.8, "seed": i,
            "stream_options": {"include_usage": True}, **more}
    if stream:
        return check_chat(s.stream("/v1/chat/completions", body, timeout=300))
    return chat_body(s.post("/v1/chat/completions", body, timeout=300))


def plain(a):
    return {**a, "calls": [c[:2] for c in a["calls"]]}


def test_sixteen_sessions_give_what_each_gives_alone(work):
    n = 16
    with serving(work, "--parallel", "1", "--ctx", "1024", "--threads", "1") as s:
        alone = [plain(ask(s, i, stream=False)) for i in range(n)]
    with serving(work, "--parallel", "16", "--ctx", "1024", "--threads", "1", "--chunk", "48", "--stall", "0.02") as s:
        together = in_threads(n, lambda i: plain(ask(s, i)))
        for i in range(n):
            assert together[i] == alone[i], (i, together[i], alone[i])
        steps, tokens = s.metric("steps_total"), s.metric("step_tokens_total")
        assert tokens > 1.5 * steps, "nothing was batched"
        # again, now with prefixes that are computed already, in another order
        again = in_threads(n, lambda i: plain(ask(s, n - 1 - i)))
        assert again == alone[::-1]
        assert s.metric("prompt_tokens_cached_total", '{source="live"}') > 0


def test_a_stream_goes_on_while_a_prompt_is_read(work):
    """Between two tokens of a stream lies at most one piece of another request's prompt: while that
    prompt is read in P pieces, the stream gets about P tokens."""
    with serving(work, "--parallel", "2", "--ctx", "8192", "--threads", "1", "--chunk", "64", "--stall", "0.02") as s:
        arrivals, begun, done = [], threading.Event(), threading.Event()

        def reader():
            c, seed = s.connect(), 0
            while not done.is_set():  # the mini model's answers are short: one after the other
                seed += 1
                c.request("POST", "/v1/completions", json.dumps({
                    "model": "m", "prompt": "Once upon a time", "max_tokens": 500, "seed": seed, "stream": True}))
                r = c.getresponse()
                for line in r:
                    if line.startswith(b"data: {"):
                        arrivals.append(time.time())
                        begun.set()
            c.close()

        t = threading.Thread(target=reader)
        t.start()
        begun.wait(30)
        start = time.time()
        usage = s.post("/v1/completions", {"model": "m", "prompt": "word " * 2000, "max_tokens": 1}, timeout=200)["usage"]
        end = time.time()
        done.set()
        t.join()
        during = [x for x in arrivals if start < x < end]
        gaps = [b - a for a, b in zip(during, during[1:])]
        print(f"        {usage['prompt_tokens']} prompt tokens in {end - start:.2f} s; meanwhile {len(during)} tokens, "
              f"longest gap {max(gaps, default=0) * 1000:.0f} ms")
        assert usage["prompt_tokens"] >= 2000
        assert len(during) >= usage["prompt_tokens"] / 64 / 2, "the stream stood still"


def test_a_prompt_outlives_the_server(work):
    folder = os.path.join(work, "kv")
    body = {"model": "m", "prompt": "word " * 2600, "max_tokens": 6, "temperature": 0}
    # Saved however fast this machine computes it (the policy: test_engine_reuse) and however slow its disk is.
    args = ("--kv-dir", folder, "--ctx", "4096", "--threads", "1", "--debug", "kv-save-all", "--kv-flush-seconds", "60")
    with serving(work, *args) as s:
        first = s.post("/v1/completions", body, timeout=200)
    with serving(work, *args) as s:
        again = s.post("/v1/completions", body, timeout=200)
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 1024, again["usage"]  # one window is computed again
        assert again["choices"] == first["choices"]
        assert s.metric("prompt_tokens_cached_total", '{source="disk"}') > 1024
        assert s.metric("kv_disk_hits_total") == 1 and s.metric("kv_disk_bytes") > 4096
        assert re.fullmatch(r"[A-Z]+[0-9][A-Z0-9_]*", s.get("/props")[1]["quantization"])
        assert re.search(r" cached \(disk \d{4}; known up to \d+: [a-z ]+\), ", s.text()), s.text()


def test_why_a_prompt_was_computed(work):
    """For every request: the log says up to where it was known and why not further, without text; the trace also what
    stood there before, with the text around."""
    trace = os.path.join(work, "reuse.jsonl")
    with serving(work, "--ctx", "2048", "--threads", "1", "--trace", trace) as s:
        ask_for = lambda text: s.post("/v1/completions", {"model": "m", "prompt": text, "max_tokens": 1, "temperature": 0})
        known = ask_for("word " * 300 + "apple and so on")["usage"]["prompt_tokens"]
        ask_for("word " * 300 + "orange and so on")
        at = int(re.search(r"known up to (\d+): diverged\), ", s.text()).group(1))
        assert 290 < at < known, (at, known)
        assert "apple" not in s.text() and "orange" not in s.text()
    lines = [x["data"] for x in map(json.loads, open(trace, encoding="utf-8")) if x["kind"] == "reuse"]
    assert len(lines) == 2 and "end: new" in lines[0], lines
    assert f"at token {at}, after " in lines[1] and "end: diverged" in lines[1], lines[1]
    first, now, before = lines[1].split("\n")[1:]
    assert "word word" in first and "orang" in now and "appl" in before, lines[1]


def test_64_streams(work):
    """Every answer must be complete and its own: the same request gives the same text each time."""
    with serving(work, "--parallel", "8", "--queue", "64", "--ctx", "512", "--threads", "1", "--connections", "100") as s:
        n_different = 12
        want = [plain(ask(s, i, max_tokens=10)) for i in range(n_different)]
        end = time.time() + (60 if LONG else 0)
        rounds = 0
        while rounds == 0 or time.time() < end:
            got = in_threads(64, lambda i: plain(ask(s, i % n_different, max_tokens=10)))
            for i, a in enumerate(got):
                assert a == want[i % n_different], (i, a)
            rounds += 1
        assert s.metric("requests_running") == s.metric("requests_queued") == 0


SCRIPT = [{"match": "[big]", "completion": "</think>" + "many words here " * 3000},
          {"match": "[timed]", "completion": "</think>" + "word " * 40, "delay_ms": 10},
          {"completion": "</think>" + "some words " * 20}]


def chat(text, **more):
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def raw_request(s, body, rcvbuf=None, path="/v1/chat/completions"):
    c = socket.socket()
    if rcvbuf:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    c.connect(("127.0.0.1", s.port))
    data = json.dumps(body).encode()
    c.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return c


def without_chunks(answer):
    """The body of a chunked answer, as far as it goes."""
    rest, body = answer.partition(b"\r\n\r\n")[2], b""
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[:int(size, 16)], rest[int(size, 16) + 2:]
    return body


def wait_until_full(sock):
    """Until what waits to be read, more than headers, has stopped to grow: the server can send no more."""
    n, since, end = 0, time.time(), time.time() + 120
    while n < 2000 or time.time() < since + 0.5:
        assert time.time() < end, "nothing came"
        select.select([sock], [], [], 1)
        more = len(sock.recv(1 << 20, socket.MSG_PEEK))
        if more != n:
            n, since = more, time.time()
        time.sleep(0.02)


def test_slow_readers(work):
    """A reader that hardly reads holds up nobody, gets everything, and is dropped if it stops."""
    with serving(work, "--idle-timeout", "2", script=SCRIPT) as s:
        slow = raw_request(s, chat("[big]", stream=True), rcvbuf=4096)
        # its echoed metadata is more than any buffer of the system takes
        dead = raw_request(s, {"model": "m", "input": "[big]", "stream": True, "metadata": {"k": "x" * (8 << 20)}},
                           rcvbuf=4096, path="/v1/responses")
        time.sleep(0.3)
        start = time.time()
        for _ in range(5):
            s.post("/v1/chat/completions", chat("x"))
        assert time.time() - start < 3
        got = b""
        while not got.endswith(b"\r\n0\r\n\r\n"):
            part = slow.recv(200000)
            assert part, "the slow reader was cut off"
            got += part
            time.sleep(0.0005)
        # words may be cut between two events
        assert check_chat(parse_events(without_chunks(got)), usage=False)["content"] == "many words here " * 3000
        slow.close()
        wait_until_full(dead)
        time.sleep(3.5)  # the dead one never reads: its connection is given up
        dead.settimeout(20)
        total = b""
        try:
            while True:
                part = dead.recv(1 << 20)
                if not part:
                    break
                total += part
        except ConnectionResetError:
            pass
        assert b"response.completed" not in total
        dead.close()


def test_aborted_connections(work):
    """Clients that vanish at any point, politely or by reset."""
    rng = random.Random(5)
    with serving(work, "--parallel", "4", "--queue", "300", script=SCRIPT) as s:
        for i in range(1000 if LONG else 120):
            c = raw_request(s, chat(rng.choice(["[big]", "[timed]", "x"]), stream=rng.random() < 0.7))
            if rng.random() < 0.5:
                select.select([c], [], [], rng.random() * 0.02)
            if rng.random() < 0.5:  # reset instead of an orderly end
                c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            c.close()
        s.wait_metric("requests_running", 0, timeout=30)
        s.wait_metric("requests_queued", 0)
        s.post("/v1/chat/completions", chat("x"))


def test_slow_loris(work):
    """Connections that send their headers byte by byte are cut off in time; others are served."""
    with serving(work, "--header-timeout", "1", "--connections", "40", script=SCRIPT) as s:
        conns = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(35)]
        for c in conns:
            c.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        end = time.time() + 5
        while conns and time.time() < end:
            for c in list(conns):
                try:
                    c.sendall(b"X")
                    if select.select([c], [], [], 0)[0] and c.recv(1000) == b"":
                        raise ConnectionResetError
                except (ConnectionResetError, BrokenPipeError):
                    conns.remove(c)
            time.sleep(0.1)
        assert not conns, f"{len(conns)} are still open"
        assert s.get("/health")[0] == 200


def n_files(s):
    return len(os.listdir(f"/proc/{s.process.pid}/fd"))


def rss_kb(s):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{s.process.pid}/status", encoding="utf-8").read()).group(1))


def test_many_connections(work):
    if not os.path.exists("/proc/self/fd"):
        skip("no /proc")
    n = 10000 if LONG else 600
    with serving(work, "--connections", "64", "--header-timeout", "1", script=SCRIPT) as s:
        s.get("/health")
        before = n_files(s)
        for i in range(n):
            with socket.create_connection(("127.0.0.1", s.port)) as c:
                if i % 3 == 0:
                    c.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + (b"\r\n" if i % 2 else b""))
        end = time.time() + 20
        while n_files(s) > before + 2:
            assert time.time() < end, f"{n_files(s)} files, {before} before"
            time.sleep(0.05)
        while True:  # the server learns of the last closed connections when it looks
            try:
                assert s.get("/health")[0] == 200
                break
            except ConnectionError:
                assert time.time() < end, "no connection is accepted"
                time.sleep(0.05)


def test_memory_is_flat(work):
    if not os.path.exists("/proc/self/status"):
        skip("no /proc")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    script = [{"completion": "r</think>" + call_text(("f", {"a": "x" * 50}))}, {"completion": "</think>short"}]
    # the address sanitizer keeps freed memory aside, 256 MB by default: that would look like growth
    with environment(ASAN_OPTIONS="quarantine_size_mb=1"), serving(work, script=script) as s:
        c = s.connect()

        def some(n, at):
            for i in range(n):
                c.request("POST", "/v1/chat/completions", json.dumps(chat(f"{at + i}", tools=tools, stream=i % 2 == 0)))
                assert c.getresponse().read()

        warm, n = (2000, 10000) if LONG else (200, 400)
        some(warm, 0)
        before = rss_kb(s)
        some(n, warm)
        grown = rss_kb(s) - before
        print(f"        {n} requests: {grown} KiB")
        assert grown < 2048 + n, f"{grown} KiB more after {n} requests"  # a replay record is < 1 KiB


if __name__ == "__main__":
    sys.exit(main(globals()))
