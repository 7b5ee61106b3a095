#!/usr/bin/env python3
"""The scheduler from outside, on scripted answers that take known times: the queue and its bound,
clients that leave, keepalives, joined requests, prefixes that are computed once, replay of sampled
answers, shutdown, traces."""
import select

from serving import *

SLOW = {"delay_ms": 20}


def chat(text, **more):
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


class Stream:
    """A streaming request whose socket the test holds."""

    def __init__(self, s, path, body, headers=""):
        data = json.dumps({**body, "stream": True}).encode()
        self.socket = socket.create_connection(("127.0.0.1", s.port), 30)
        self.socket.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
                            .encode() + data)
        self.got = b""

    def read(self, timeout=10):
        """More bytes, or b"" at the end or after the timeout."""
        if not select.select([self.socket], [], [], timeout)[0]:
            return b""
        part = self.socket.recv(65536)
        self.got += part
        return part

    def until(self, needle, timeout=20):
        end = time.time() + timeout
        while needle not in self.got:
            assert time.time() < end and (self.read(end - time.time()) or time.time() < end), \
                f"no {needle!r} in {self.got[-500:]!r}"
        return self

    def status(self):
        return int(self.until(b"\r\n\r\n").got.split(b" ")[1])

    def close(self):
        self.socket.close()


def test_headers_come_at_once(work):
    """The status of a stream is known when the job is queued, not when its prompt is read."""
    with serving(work, script=[{"completion": "</think>x", "prefill_ms": 3000}]) as s:
        start = time.time()
        st = Stream(s, "/v1/chat/completions", chat("x " * 2000))
        assert st.status() == 200 and time.time() - start < 1
        st.until(b"data: ", 1)
        st.close()


def test_queue_is_bounded(work):
    with serving(work, "--parallel", "1", "--queue", "3", script=[{"completion": "</think>" + "word " * 600, **SLOW}]) as s:
        streams = []
        for i in range(4):  # one after the other, so that their order is known
            streams.append(Stream(s, "/v1/chat/completions", chat(f"{i}")))
            s.wait_metric("requests_running", 1)
            s.wait_metric("requests_queued", i)
        for path, kind in (("/v1/chat/completions", "rate_limit_exceeded"), ("/v1/messages", "rate_limit_error")):
            status, h, data = s.request("POST", path, chat("late"))
            assert status == 429 and int(h["retry-after"]) >= 1, data
            assert json.loads(data)["error"]["type"] == kind
        assert s.post("/v1/messages/count_tokens", chat("hi"))["input_tokens"] > 0  # light requests never queue
        assert s.get("/health")[0] == 200
        streams[2].close()  # leaves the queue
        s.wait_metric("requests_queued", 2)
        s.wait_metric("request_cancelled_total", 1, '{phase="queue"}')
        streams[0].close()  # leaves while it is answered: the next one gets the slot
        s.wait_metric("request_cancelled_total", 1, '{phase="decode"}')
        s.wait_metric("requests_queued", 1)
        for st in (streams[1], streams[3]):
            st.close()
        s.wait_metric("requests_running", 0)
        s.wait_metric("requests_queued", 0)


def test_cancel_within_a_second(work):
    """A client that leaves is noticed in each phase, stream or not, although nothing is being sent."""
    script = [{"match": "[prefill]", "completion": "</think>x", "prefill_ms": 60000},
              {"match": "[decode]", "completion": "</think>" + "word " * 3000, "delay_ms": 20}]
    with serving(work, "--chunk", "16", script=script) as s:
        for text, phase in (("[prefill] " + "x " * 3000, "prefill"), ("[decode]", "decode")):
            for stream in (True, False):
                before = s.metric("request_cancelled_total", f'{{phase="{phase}"}}')
                data = json.dumps({**chat(text), "stream": stream}).encode()
                c = socket.create_connection(("127.0.0.1", s.port))
                c.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
                          .encode() + data)
                s.wait_metric("requests_running", 1)
                time.sleep(0.2)
                c.close()
                start = time.time()
                s.wait_metric("requests_running", 0, timeout=3)
                took = time.time() - start
                assert took < 1.2, f"{phase}, stream {stream}: {took:.2f} s"
                assert s.metric("request_cancelled_total", f'{{phase="{phase}"}}') == before + 1


def test_prefix_survives_a_cancel(work):
    with serving(work, "--chunk", "64", script=[{"completion": "</think>x", "prefill_ms": 2000}]) as s:
        text = "word " * 3000
        st = Stream(s, "/v1/chat/completions", chat(text))
        s.wait_metric("requests_running", 1)
        time.sleep(0.8)
        st.close()
        s.wait_metric("requests_running", 0)
        usage = s.post("/v1/chat/completions", chat(text))["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] // 10, usage


def test_keepalives(work):
    """While a prompt is read every protocol sends what its clients count as a sign of life."""
    script = [{"completion": "</think>done", "prefill_ms": 800}]
    with serving(work, "--keepalive", "0.12", "--chunk", "32", script=script) as s:
        words = "x " * 1000
        st = Stream(s, "/v1/chat/completions", chat("chat " + words))
        assert st.until(b"[DONE]").got.count(b": keepalive\n\n") >= 3
        events = s.stream("/v1/responses", {"model": "m", "input": "responses " + words})
        assert [n for n, _ in events].count("response.in_progress") >= 4
        check_responses(events)
        body = {"model": "m", "max_tokens": 9, "messages": chat("messages " + words)["messages"]}
        events = s.stream("/v1/messages", body)
        empty = [d for n, d in events if n == "content_block_delta" and '"thinking":""' in d]
        assert len(empty) >= 3 and check_messages(events)["content"] == "done"
        # without thinking a text block is opened for it
        events = s.stream("/v1/messages", {**body, "thinking": {"type": "disabled"}, "system": "other"})
        empty = [d for n, d in events if n == "content_block_delta" and '"text":""' in d]
        assert len(empty) >= 3 and check_messages(events)["content"].endswith("done")


def test_no_keepalive_when_busy(work):
    with serving(work, "--keepalive", "0.3", script=[{"completion": "</think>" + "word " * 60, **SLOW}]) as s:
        assert b"keepalive" not in Stream(s, "/v1/chat/completions", chat("x")).until(b"[DONE]").got


def test_identical_requests_are_joined(work):
    script = [{"completion": "</think>first " + "word " * 15, **SLOW}, {"completion": "</think>second"}]
    with serving(work, "--parallel", "4", script=script) as s:
        body = chat("same", temperature=0)
        got = in_threads(3, lambda i: chat_body(s.post("/v1/chat/completions", body)) if i else
                         check_chat(s.stream("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})))
        assert all(g["content"] == got[0]["content"] and g["usage"] == got[0]["usage"] for g in got)
        assert got[0]["content"].startswith("first") and s.metric("requests_joined_total") == 2
        # one of two readers leaves: the other still gets everything
        a = Stream(s, "/v1/chat/completions", chat("again", temperature=0))
        a.until(b"data: ")
        b = Stream(s, "/v1/chat/completions", chat("again", temperature=0))
        b.until(b"data: ")
        a.close()
        assert b.until(b"[DONE]", 10)
        # without a seed each request has an answer of its own
        joined = s.metric("requests_joined_total")
        in_threads(2, lambda i: s.post("/v1/chat/completions", chat("different")))
        assert s.metric("requests_joined_total") == joined


def test_a_prompt_is_computed_once(work):
    """A second request with the same long prompt waits for the first one's prefill and takes it over."""
    script = [{"completion": "</think>one " + "word " * 30, "prefill_ms": 1500, **SLOW}]
    with serving(work, "--chunk", "64", script=script) as s:
        text = "word " * 2000
        a = Stream(s, "/v1/chat/completions", chat(text))
        s.wait_metric("requests_running", 1)
        usage = s.post("/v1/chat/completions", chat(text))["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 260, usage
        a.until(b"[DONE]")


def test_an_unrelated_prompt_takes_the_oldest_slot(work):
    """Agents ask for a title beside their conversation: that must not cost the conversation its slot."""
    with serving(work, "--parallel", "2", script=[{"completion": "</think>x"}]) as s:
        old, talk = ("old " * 300, "talk " * 300)
        for text in (old, talk, "a title"):
            s.post("/v1/chat/completions", chat(text))
        usage = s.post("/v1/chat/completions", chat(talk))["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 1, usage


def test_short_answers_pass_a_long_prompt(work):
    """A long prompt does not hold up other requests, and streams go on while it is read."""
    script = [{"match": "[long]", "completion": "</think>x", "prefill_ms": 2000},
              {"completion": "</think>" + "word " * 20, "delay_ms": 5}]
    with serving(work, script=script) as s:
        long = Stream(s, "/v1/chat/completions", chat("[long] " + "x " * 20000))
        s.wait_metric("requests_running", 1)
        start = time.time()
        s.post("/v1/chat/completions", chat("short"))
        assert time.time() - start < 1.8, "a short answer waited for a long prompt"
        long.close()


def test_fair_between_keys(work):
    """One key's many requests do not hold up another key's first."""
    keys = ["key-aaaaaaaa", "key-bbbbbbbb"]
    script = [{"completion": "</think>" + "word " * 20, "delay_ms": 10}]
    with serving(work, "--parallel", "1", "--api-key", keys[0], "--api-key", keys[1], script=script) as s:
        order = []

        def ask(i):
            time.sleep(0 if i < 6 else 0.15)
            s.post("/v1/chat/completions", chat(f"{i}"), {"x-api-key": keys[i >= 6]})
            order.append(i)

        in_threads(7, ask)
        assert order.index(6) <= 2, order


def test_a_failed_step_harms_one_answer(work):
    script = [{"match": "[bad]", "completion": "</think>" + "word " * 50, "fault_after": 5, "delay_ms": 10},
              {"completion": "</think>" + "word " * 30, "delay_ms": 10}]
    with serving(work, script=script) as s:
        got = in_threads(4, lambda i: s.request("POST", "/v1/chat/completions", chat("[bad]" if i == 2 else f"good {i}")))
        assert [g[0] for g in got] == [200, 200, 500, 200]
        assert all(b"word word" in g[2] for g in got if g[0] == 200)


def test_loading(work):
    """The port answers before the model is there; then the exit code tells that it could not be loaded."""
    with serving(work, script=[{"completion": "x"}]) as s:
        assert s.get("/health") == (200, {"status": "ok"})


def test_shutdown(work):
    """The first signal lets running answers end and refuses new requests; the second ends them."""
    script = [{"completion": "</think>" + "word " * 60, "delay_ms": 20}]
    s = Server(work, script=script)
    st = Stream(s, "/v1/chat/completions", chat("x"))
    st.until(b"word")
    s.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    status, h, _ = s.request("POST", "/v1/chat/completions", chat("late"))
    assert status == 503 and h["retry-after"] and s.get("/health")[0] == 503
    assert b"[DONE]" in st.until(b"[DONE]").got
    assert s.process.wait(20) == 0
    s = Server(work, script=script)
    streams = [Stream(s, path, {**chat("x"), "input": "x"}) for path in
               ("/v1/chat/completions", "/v1/responses", "/v1/messages")]
    for st in streams:
        st.until(b"word")
    s.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    s.process.send_signal(signal.SIGTERM)
    streams[0].until(b'"error"')
    streams[1].until(b"response.failed")
    streams[2].until(b"event: error")
    assert s.process.wait(20) == 0


def test_replay(work):
    """What the model sampled is what its turn becomes when it comes back: here a call whose JSON is not
    in the renderer's form and whose text is cut in other tokens; clients reprint the arguments."""
    odd = ("</think>", "He", "llo", " the", "re", call_text(("f", {"a": "x"})).replace(
        f"</{DSML}invoke>", f'<{DSML}parameter name="n" string="false">[1,2,{{"z":1,"y":2.50}}]</{DSML}parameter>\n</{DSML}invoke>'))
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    for n, change in enumerate((lambda a: a, lambda a: json.dumps(json.loads(a)),
                                lambda a: json.dumps(dict(reversed(json.loads(a).items())), separators=(",", ":")))):
        with serving(work, script=[{"pieces": list(odd)}, {"completion": "</think>end"}]) as s:
            first = chat("go", tools=tools)
            whole = s.post("/v1/chat/completions", first)
            m = whole["choices"][0]["message"]
            m["tool_calls"][0]["function"]["arguments"] = change(m["tool_calls"][0]["function"]["arguments"])
            if n == 2:
                m.pop("reasoning_content", None)
            second = {**first, "messages": first["messages"] + [m, {
                "role": "tool", "tool_call_id": m["tool_calls"][0]["id"], "content": "result"}]}
            usage = s.post("/v1/chat/completions", second)["usage"]
            sampled = whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]
            # all but the last sampled token (the end of text, whose row is computed with the next prompt)
            assert usage["prompt_tokens_details"]["cached_tokens"] >= sampled - 1, (n, usage, sampled)
            changed = json.loads(json.dumps(second))
            call = changed["messages"][1]["tool_calls"][0]["function"]
            call["arguments"] = call["arguments"].replace('"x"', '"changed"')
            usage = s.post("/v1/chat/completions", changed)["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] < sampled - 1, "changed arguments were replayed"


def test_trace(work):
    path = os.path.join(work, "trace.jsonl")
    with serving(work, "--trace", path, "--api-key", "secret-key-1", script=[{"completion": "</think>traced answer"}]) as s:
        s.post("/v1/chat/completions", chat("trace me"), {"x-api-key": "secret-key-1"})
        s.request("POST", "/v1/chat/completions", b"{", {"x-api-key": "secret-key-1"})
    assert os.stat(path).st_mode & 0o077 == 0
    text = open(path, encoding="utf-8").read()
    lines = [json.loads(line) for line in text.splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds[:5] == ["request", "body", "prompt", "prompt_ids", "output"] and "sent" in kinds and "error" in kinds
    assert lines[2]["data"].endswith("trace me<｜Assistant｜><think>") and "secret-key" not in text
    assert "traced answer" in next(line["data"] for line in lines if line["kind"] == "sent")


if __name__ == "__main__":
    sys.exit(main(globals()))
