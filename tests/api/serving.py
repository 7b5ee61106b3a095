"""Shared by the tests of `fathom serve`: a server under test, requests, server-sent events, and one
grammar checker per protocol. A checker reads the events of a stream, demands that every one stands
where it may, and returns the answer in one form, the same as `body_answer` makes of a body, so that
streams and bodies can be compared."""
import contextlib
import http.client
import re
import signal
import socket
import threading
import time

from program import *

DSML = "｜DSML｜"


def call_text(*calls):
    """The calls block for (name, {key: value}) pairs, as the model writes it."""
    out = f"\n\n<{DSML}tool_calls>\n"
    for name, args in calls:
        parts = []
        for k, v in args.items():
            flag = "true" if isinstance(v, str) else "false"
            text = v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)
            parts.append(f'<{DSML}parameter name="{k}" string="{flag}">{text}</{DSML}parameter>')
        out += f'<{DSML}invoke name="{name}">\n' + "\n".join(parts) + f"\n</{DSML}invoke>\n"
    return out + f"</{DSML}tool_calls>"


class Server:
    """A running server; port and process. script: list of dicts, or None for the mini model."""

    def __init__(self, work, *args, script=None, env=None, ready=True):
        self.log_path = os.path.join(work, f"serve-{time.monotonic_ns()}.log")
        cmd = [PROGRAM, "serve", "--port", "0", *map(str, args)]
        if "--kv-dir" not in args:
            cmd += ["--kv-dir", "none"]
        if script is not None:
            path = self.log_path + ".script"
            with open(path, "w", encoding="utf-8") as f:
                f.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in script)
            cmd += ["--script", path]
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=self.log,
                                        env=env or environment())
        self.port = self._wait(r"listening on http://.*:(\d+)")
        if ready:
            self._wait(r"(ready:)")

    def _wait(self, pattern):
        end = time.time() + 60
        while time.time() < end:
            m = re.search(pattern, self.text())
            if m:
                return int(m.group(1)) if m.group(1).isdigit() else m.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"the server did not start: {self.text()}")

    def text(self):
        return open(self.log_path, encoding="utf-8", errors="replace").read()

    def stop(self, sig=signal.SIGTERM, timeout=60):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            code = self.process.wait(timeout)
        finally:
            self.process.kill()
            self.log.close()
        return code

    # ---- requests ----
    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=60):
        """Returns (status, headers, bytes)."""
        c = self.connect(timeout)
        try:
            data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            c.request(method, path, data, headers or {})
            r = c.getresponse()
            return r.status, r.headers, r.read()
        finally:
            c.close()

    def get(self, path, headers=None):
        status, _, data = self.request("GET", path, headers=headers)
        return status, json.loads(data)

    def post(self, path, body, headers=None, timeout=60):
        """A body that must be answered by 200 and JSON."""
        status, _, data = self.request("POST", path, body, headers, timeout)
        assert status == 200, f"{path}: {status} {data[:600]!r}"
        return json.loads(data)

    def stream(self, path, body, headers=None, timeout=60):
        """All events of a stream as (event name or None, data string)."""
        status, h, data = self.request("POST", path, {**body, "stream": True}, headers, timeout)
        assert status == 200, f"{path}: {status} {data[:600]!r}"
        assert h["content-type"] == "text/event-stream", h["content-type"]
        return parse_events(data)

    def metric(self, name, labels=""):
        text = self.request("GET", "/metrics")[2].decode()
        m = re.search(rf"^fathom_{name}{re.escape(labels)} (\S+)$", text, re.M)
        return float(m.group(1)) if m else 0.0

    def wait_metric(self, name, value, labels="", timeout=10):
        end = time.time() + timeout
        while self.metric(name, labels) != value:
            assert time.time() < end, f"{name}{labels} is {self.metric(name, labels)}, not {value}"
            time.sleep(0.02)


@contextlib.contextmanager
def serving(work, *args, **kw):
    s = Server(work, *args, **kw)
    try:
        yield s
    finally:
        code = s.stop()
        assert code == 0, f"exit {code}: {s.text()[-2000:]}"


def parse_events(data):
    """Server-sent events of bytes; every line must be one that the protocols allow."""
    text = data.decode("utf-8")
    assert text == "" or text.endswith("\n\n"), f"the stream ends in the middle: {text[-200:]!r}"
    events = []
    for block in text.split("\n\n")[:-1]:
        name, payload = None, None
        for line in block.split("\n"):
            if line.startswith(":"):
                continue
            field, _, value = line.partition(": ")
            assert field in ("event", "data"), line
            if field == "event":
                assert name is None and payload is None
                name = value
            else:
                assert payload is None, "more than one data line"
                payload = value
        if payload is not None:
            events.append((name, payload))
    return events


# ---- several at once ----

def in_threads(n, fn):
    out, errors = [None] * n, []

    def one(i):
        try:
            out[i] = fn(i)
        except BaseException as e:  # noqa: B902 - reported by the caller
            errors.append(e)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return out


# ---- answers in one form ----

def answer(reasoning="", content="", calls=(), finish=None, usage=None):
    return {"reasoning": reasoning, "content": content, "calls": list(calls), "finish": finish, "usage": usage}


FINISH_MESSAGES = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length",
                   "model_context_window_exceeded": "length", "tool_use": "tool_calls"}


def chat_usage(u):
    assert u["total_tokens"] == u["prompt_tokens"] + u["completion_tokens"]
    return (u["prompt_tokens"], u["completion_tokens"])


def check_chat(events, usage=True, model=None):
    """The grammar of section 5.1: role, deltas, one finish, usage if asked for, [DONE]."""
    assert events[-1][1] == "[DONE]" and all(n is None for n, _ in events)
    chunks = [json.loads(d) for _, d in events[:-1]]
    first = chunks[0]
    for c in chunks:
        assert c["object"] == "chat.completion.chunk"
        assert (c["id"], c["created"], c["model"]) == (first["id"], first["created"], first["model"])
    assert model is None or first["model"] == model
    got = answer()
    if usage:
        last = chunks.pop()
        assert last["choices"] == []
        got["usage"] = chat_usage(last["usage"])
        assert all(c["usage"] is None for c in chunks)
    else:
        assert all("usage" not in c for c in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    for i, c in enumerate(chunks):
        (choice,) = c["choices"]
        assert choice["index"] == 0
        d = choice["delta"]
        if choice["finish_reason"] is not None:
            assert i == len(chunks) - 1 and d == {}
            got["finish"] = choice["finish_reason"]
            continue
        if i == 0:
            continue
        (key,) = d
        if key == "reasoning_content":
            assert not got["content"] and not got["calls"] and d[key]
            got["reasoning"] += d[key]
        elif key == "content":
            assert not got["calls"] and d[key]
            got["content"] += d[key]
        else:
            (t,) = d[key]
            if "id" in t:
                assert t["index"] == len(got["calls"]) and t["type"] == "function"
                assert t["function"]["arguments"] == "" and t["id"].startswith("call_")
                got["calls"].append([t["function"]["name"], "", t["id"]])
            else:
                assert t["index"] == len(got["calls"]) - 1 and set(t) == {"index", "function"}
                assert set(t["function"]) == {"arguments"} and t["function"]["arguments"]
                got["calls"][-1][1] += t["function"]["arguments"]
    assert got["finish"] in ("stop", "length", "tool_calls")
    return got


def chat_body(b):
    assert b["object"] == "chat.completion"
    (choice,) = b["choices"]
    m = choice["message"]
    calls = [[c["function"]["name"], c["function"]["arguments"], c["id"]] for c in m.get("tool_calls", [])]
    assert m["role"] == "assistant" and (m["content"] is not None or calls) and m["refusal"] is None
    return answer(m.get("reasoning_content", ""), m["content"] or "", calls, choice["finish_reason"],
                  chat_usage(b["usage"]))


def messages_usage(u):
    total = u["input_tokens"] + u["cache_read_input_tokens"] + u["cache_creation_input_tokens"]
    return (total, u["output_tokens"])


def check_messages(events, model=None):
    """The grammar of section 5.4: message_start, blocks, message_delta, message_stop."""
    got = answer()
    state, block, index, signed = "start", None, 0, False
    for name, data in events:
        d = json.loads(data)
        assert d["type"] == name, (name, d)
        if name == "ping":
            assert state in ("blocks", "open")
        elif name == "message_start":
            m = d["message"]
            assert state == "start" and m["content"] == [] and m["stop_reason"] is None
            assert m["id"].startswith("msg_") and (model is None or m["model"] == model)
            prompt = messages_usage(m["usage"])[0]
            state = "blocks"
        elif name == "content_block_start":
            assert state == "blocks" and d["index"] == index
            block, state, signed = d["content_block"], "open", False
            if block["type"] == "tool_use":
                assert block["input"] == {} and block["id"].startswith("toolu_")
                got["calls"].append([block["name"], "", block["id"]])
            elif block["type"] == "thinking":
                assert not got["content"] and not got["calls"] and block["thinking"] == ""
            else:
                assert block == {"type": "text", "text": ""} and not got["calls"]
        elif name == "content_block_delta":
            t = d["delta"]
            assert state == "open" and d["index"] == index and not signed
            if t["type"] == "signature_delta":
                assert block["type"] == "thinking" and t["signature"]
                signed = True
            elif block["type"] == "thinking":
                assert t["type"] == "thinking_delta"
                got["reasoning"] += t["thinking"]
            elif block["type"] == "text":
                assert t["type"] == "text_delta"
                got["content"] += t["text"]
            else:
                assert t["type"] == "input_json_delta"
                got["calls"][-1][1] += t["partial_json"]
        elif name == "content_block_stop":
            assert state == "open" and d["index"] == index
            assert block["type"] != "thinking" or signed
            state, index = "blocks", index + 1
        elif name == "message_delta":
            assert state == "blocks"
            got["finish"] = FINISH_MESSAGES[d["delta"]["stop_reason"]]
            assert (d["delta"]["stop_sequence"] is not None) == (d["delta"]["stop_reason"] == "stop_sequence")
            got["usage"] = messages_usage(d["usage"])
            assert got["usage"][0] == prompt
            state = "ended"
        else:
            assert name == "message_stop" and state == "ended", (name, state)
            state = "stopped"
    assert state == "stopped", state
    return got


def messages_body(b):
    assert b["type"] == "message" and b["role"] == "assistant"
    got = answer(finish=FINISH_MESSAGES[b["stop_reason"]], usage=messages_usage(b["usage"]))
    for block in b["content"]:
        if block["type"] == "thinking":
            assert not got["content"] and not got["calls"] and block["signature"]
            got["reasoning"] += block["thinking"]
        elif block["type"] == "text":
            assert not got["calls"] and block["text"]
            got["content"] += block["text"]
        else:
            assert block["type"] == "tool_use"
            got["calls"].append([block["name"], json.dumps(block["input"], ensure_ascii=False), block["id"]])
    return got


def responses_usage(u):
    assert u["total_tokens"] == u["input_tokens"] + u["output_tokens"]
    return (u["input_tokens"], u["output_tokens"])


def responses_object(r):
    got = answer()
    for item in r["output"]:
        if item["type"] == "reasoning":
            (part,) = item["summary"]
            assert not got["content"] and not got["calls"]
            got["reasoning"] += part["text"]
        elif item["type"] == "message":
            (part,) = item["content"]
            assert part["type"] == "output_text" and not got["calls"]
            got["content"] += part["text"]
        elif item["type"] == "custom_tool_call":
            got["calls"].append([item["name"], item["input"], item["call_id"]])
        else:
            assert item["type"] == "function_call"
            got["calls"].append([item["name"], item["arguments"], item["call_id"]])
    if r["status"] == "incomplete":
        assert r["incomplete_details"] == {"reason": "max_output_tokens"}
        got["finish"] = "length"
    else:
        assert r["status"] == "completed" and r["incomplete_details"] is None
        got["finish"] = "tool_calls" if got["calls"] else "stop"
    got["usage"] = responses_usage(r["usage"])
    return got


def check_responses(events, model=None, broken=False):
    """The grammar of section 5.3. The deltas of every item must add up to its done events, and the
    done items to the output of the final response; a call that was cut off is in neither."""
    got = answer()
    item, text, stage, index, done, final = None, "", None, 0, [], None
    for n, (name, data) in enumerate(events):
        d = json.loads(data)
        kind = name.removeprefix("response.")
        assert d["type"] == name and d["sequence_number"] == n and final is None, (n, d)
        if n < 2:
            assert kind == ("created", "in_progress")[n]
        if kind in ("created", "in_progress"):
            assert d["response"]["status"] == "in_progress" and d["response"]["id"].startswith("resp_")
            assert model is None or d["response"]["model"] == model
        elif kind == "output_item.added":
            if item and item["type"].endswith("_call"):
                raise AssertionError("a call was left open")
            assert item is None and d["output_index"] == index
            item, text, stage = d["item"], "", "added"
            assert item["status"] == "in_progress"
            if item["type"] == "reasoning":
                assert item["summary"] == [] and item["id"].startswith("rs_")
            elif item["type"] == "message":
                assert item["content"] == [] and item["id"].startswith("msg_")
            else:
                assert item.get("arguments", item.get("input")) == "" and item["id"][:3] in ("fc_", "ctc")
        elif kind == "output_item.done":
            assert d["output_index"] == index and d["item"]["id"] == item["id"] and stage == "done"
            if item["type"] == "reasoning":
                assert [p["text"] for p in d["item"]["summary"]] == [text]
                got["reasoning"] += text
            elif item["type"] == "message":
                assert [p["text"] for p in d["item"]["content"]] == [text]
                got["content"] += text
            else:
                assert d["item"].get("arguments", d["item"].get("input")) == text
                got["calls"].append([item["name"], text, item["call_id"]])
            done.append(d["item"])
            item, index = None, index + 1
        elif kind in ("completed", "incomplete"):
            final = d["response"]
            assert final["output"] == done and final["status"] == kind
        elif kind == "failed":
            raise AssertionError(d)
        else:
            assert d["item_id"] == item["id"] and d["output_index"] == index, (kind, d)
            if kind in ("reasoning_summary_part.added", "content_part.added"):
                assert stage == "added" and d["part"]["text"] == ""
                stage = "part"
            elif kind in ("reasoning_summary_text.delta", "output_text.delta"):
                assert stage == "part" and d["delta"]
                text += d["delta"]
            elif kind in ("reasoning_summary_text.done", "output_text.done"):
                assert stage == "part" and d["text"] == text
                stage = "text"
            elif kind in ("reasoning_summary_part.done", "content_part.done"):
                assert stage == "text" and d["part"]["text"] == text
                stage = "done"
            elif kind in ("function_call_arguments.delta", "custom_tool_call_input.delta"):
                assert stage == "added" and d["delta"]
                text += d["delta"]
            else:
                assert kind in ("function_call_arguments.done", "custom_tool_call_input.done"), kind
                assert stage == "added" and d.get("arguments", d.get("input")) == text
                stage = "done"
    assert final is not None
    whole = responses_object(final)
    assert item is None or (item["type"].endswith("_call") and (broken or whole["finish"] == "length"))
    assert {k: whole[k] for k in ("reasoning", "content", "calls")} == \
        {k: got[k] for k in ("reasoning", "content", "calls")}
    return whole


def same_answer(a, b, streamed_chat=False):
    """Two answers of one script line. In a chat or messages stream a call that was cut off has been
    begun and cannot be taken back; elsewhere it must not appear."""
    for key in ("reasoning", "content", "finish", "usage"):
        assert a[key] == b[key], (key, a, b)
    calls_a = [(n, x) for n, x, _ in a["calls"]]
    calls_b = [(n, x) for n, x, _ in b["calls"]]
    if streamed_chat and a["finish"] == "length":
        assert len(calls_a) - len(calls_b) in (0, 1), (a, b)
        calls_a = calls_a[:len(calls_b)]
    assert calls_a == calls_b, (a, b)


__all__ = [n for n in dir() if not n.startswith("_")]
