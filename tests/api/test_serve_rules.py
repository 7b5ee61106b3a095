#!/usr/bin/env python3
"""What the server refuses, and how: the error table in both shapes, fields, paths and methods, keys,
Host and Origin rules, limits of headers, bodies and connections."""
from serving import *

SCRIPT = [{"match": "[slow]", "completion": "</think>slow", "prefill_ms": 3000},
          {"match": "[fault]", "completion": "</think>one two three four", "fault_after": 3},
          {"completion": "</think>ok"}]
KEY, OTHER = "key-0123456789", "other-0123456789"
server = None


def chat(text="hi", **more):
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def refused(path, body, status=400, needle="", param=None, s=None, **kw):
    """The request must fail with this status, in the shape of its protocol."""
    got, headers, data = (s or server).request("POST", path, body, **kw)
    assert got == status, f"{path} {str(body)[:200]}: {got} {data[:300]!r}"
    e = json.loads(data)
    if "messages" in path:
        assert e["type"] == "error" and set(e["error"]) == {"type", "message"} and e["request_id"], e
        assert headers["request-id"] == e["request_id"]
    else:
        assert set(e["error"]) == {"message", "type", "param", "code"}, e
        assert headers["x-request-id"].startswith("req_")
        assert param is None or e["error"]["param"] == param, e
    assert needle.lower() in e["error"]["message"].lower(), e
    return e["error"], headers


def test_bad_json():
    for body in (b"", b"{", b"[]", b"nonsense", b'{"model":"m"}x', b'\xff\xfe', b'{"a":' * 200):
        refused("/v1/chat/completions", body)
        refused("/v1/messages", body)
    refused("/v1/chat/completions", b'{"messages":' + b"[" * 200, needle="nested")


def test_fields_of_chat():
    path = "/v1/chat/completions"
    rows = [
        ({"messages": []}, "messages"), ({"messages": "x"}, "messages"), ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content[0].type"),
        ({"temperature": 3}, "temperature"), ({"temperature": "1"}, "temperature"), ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"), ({"top_p": 1.5}, "top_p"), ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"), ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 10 ** 30}, "max_completion_tokens"), ({"n": 2}, "n"), ({"n": 10 ** 9}, "n"),
        ({"stop": ["x"] * 17}, "stop"), ({"stop": "x" * 257}, "stop"), ({"stop": "a\0b"}, "stop"), ({"stop": [1]}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"frequency_penalty": 3}, "frequency_penalty"), ({"presence_penalty": -3}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"), ({"seed": "x"}, "seed"), ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"), ({"tools": [{"type": "retrieval"}]}, None), ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"), ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice.name"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.schema"),
        ({"reasoning_effort": "gigantic"}, "reasoning_effort"), ({"audio": {}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"), ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "f"}], "function_call": "any-of-them"}, "function_call"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call.name"),
        ({"messages": [{"role": "assistant", "function_call": {"arguments": "{}"}}]}, "messages[0].function_call.name"),
        ({"grammar": "root ::= x"}, "grammar"), ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"min_p": 2}, "min_p"), ({"top_k": 1.5}, "top_k"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [
            {"id": "c", "function": {"name": "f", "arguments": "{}"}}]}]}, None),
    ]
    for more, param in rows:
        refused(path, {**chat(), **more}, param=param)
    for number in (b"1e999", b"NaN", b"-Infinity", b"1e99"):
        refused(path, b'{"messages":[{"role":"user","content":"x"}],"temperature":' + number + b"}")
    schema = {"name": "x", "strict": True, "schema": {"not": {"type": "null"}}}
    refused(path, chat(response_format={"type": "json_schema", "json_schema": schema}), needle="not",
            param="response_format")


def test_accepted_though_unusual():
    path = "/v1/chat/completions"
    for more in ({"unknown_field": {"a": [1]}}, {"temperature": None, "tools": None, "stop": None}, {"n": 1},
                 {"frequency_penalty": 0, "presence_penalty": 0.5}, {"logit_bias": {}}, {"user": "u", "store": True},
                 {"max_tokens": 10 ** 12}, {"tools": []}, {"functions": [{"name": "f", "parameters": {}}]},
                 {"messages": [{"role": "developer", "content": "d"}, {"role": "user", "content": [
                     {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                     {"role": "assistant", "content": None, "refusal": None, "tool_calls": [
                         {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
                     {"role": "tool", "tool_call_id": "unknown", "content": None}]},
                 {"chat_template_kwargs": {"enable_thinking": False, "template": "{{ evil }}"}},
                 {"reasoning_effort": "minimal"}, {"thinking": {"type": "disabled"}}, {"think": False},
                 {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "to be continued"}]}):
        server.post(path, {**chat(), **more})
    # duplicate keys: the last one counts
    server.post(path, b'{"temperature":9,"temperature":1,"messages":[{"role":"user","content":"x"}]}')


def test_functions_of_old_clients():
    """`functions`, `function_call` and its results mean what tools, tool_choice and tool_calls mean."""
    path, f = "/v1/chat/completions", {"name": "f", "parameters": {"type": "object"}}
    ask, answer = {"role": "user", "content": "x"}, {"role": "user", "content": "y"}
    call = {"name": "f", "arguments": '{"a": 1}'}
    old = server.post(path, {"model": "m", "functions": [f], "function_call": "none", "messages": [
        ask, {"role": "assistant", "content": None, "function_call": call}, {"role": "function", "name": "f", "content": "r"}, answer]})
    new = server.post(path, {"model": "m", "tools": [{"type": "function", "function": f}], "tool_choice": "none", "messages": [
        ask, {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c", "content": "r"}, answer]})
    usage = new["usage"]
    assert old["usage"]["prompt_tokens"] == usage["prompt_tokens"] == usage["prompt_tokens_details"]["cached_tokens"] + 1, (old, new)


def test_fields_of_responses():
    path = "/v1/responses"
    for more, param, needle in (
            ({"previous_response_id": "resp_1"}, "previous_response_id", "full history"),
            ({"conversation": "c"}, "conversation", "full history"), ({"background": True}, "background", ""),
            ({"prompt": {"id": "p"}}, "prompt", ""), ({"truncation": "auto"}, "truncation", ""),
            ({"input": []}, "input", ""), ({"input": 5}, "input", ""), ({"input": None}, "input", ""),
            ({"input": [{"type": "item_reference", "id": "rs_1"}]}, "input[0].type", "stored"),
            ({"input": [{"role": "user", "content": "x"}, {"type": "alien"}]}, "input[1].type", "alien"),
            ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
             "input[0].content[0].type", "text only"),
            ({"tool_choice": {"type": "web_search"}, "tools": [{"type": "web_search"}]}, "tool_choice.type", ""),
            ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "x"}}}}, "text.format", "type"),
            ({"reasoning": {"effort": "x"}}, "reasoning_effort", ""), ({"max_output_tokens": 0}, "max_output_tokens", "")):
        refused(path, {"model": "m", "input": "hi", **more}, param=param, needle=needle)
    for more in ({"previous_response_id": None}, {"truncation": "disabled"}, {"store": True, "include": ["x"]},
                 {"tools": [{"type": "web_search"}, {"type": "mcp", "server_label": "s"}]}, {"max_tool_calls": 3}):
        got = server.post(path, {"model": "m", "input": "hi", **more})
        assert got["store"] is False and got["previous_response_id"] is None
    for method in ("GET", "DELETE"):
        status, _, data = server.request(method, "/v1/responses/resp_123")
        assert status == 404 and b"not stored" in data
    assert server.request("POST", "/v1/responses/resp_123/cancel", b"")[0] == 404


def test_fields_of_messages():
    path = "/v1/messages"
    base = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
    for more, needle in (({"messages": []}, "messages"), ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
                         ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "text only"),
                         ({"system": 5}, "system"), ({"temperature": 1.5}, "temperature"),
                         ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "budget_tokens"),
                         ({"thinking": {"type": "sometimes"}}, "thinking.type"), ({"max_tokens": 0}, "max_tokens"),
                         ({"tool_choice": {"type": "tool", "name": "x"}}, "no tool"), ({"tool_choice": {"type": "any"}}, "tools"),
                         ({"stop_sequences": "x" * 300}, "stop_sequences"), ({"output_config": {"effort": "x"}}, "effort")):
        refused(path, {**base, **more}, needle=needle)
    for more in ({"max_tokens": None}, {"system": [{"type": "text", "text": "x-anthropic-billing-header: a"}]},
                 {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "mid"}]},
                 {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [
                     {"type": "text", "text": ""}, {"type": "redacted_thinking", "data": "x"},
                     {"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
                     {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}, {"type": "text", "text": "b"}]}]},
                 {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, {"metadata": {"user_id": "x"}},
                 {"context_management": {"edits": []}, "service_tier": "auto", "thinking": {"type": "adaptive"}}):
        server.post(path + "?beta=true", {**base, **more})


def test_threads_are_refused():
    """A thread leaves out what was said before: to ignore the field would be to answer without it. The
    code in the details makes the SDK send the whole history."""
    base = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
    for thread in ({"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}):
        status, _, data = server.request("POST", "/v1/messages", {**base, "thread": thread})
        error = json.loads(data)["error"]
        assert status == 400 and error["type"] == "invalid_request_error" and "full history" in error["message"], data
        assert error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    server.post("/v1/messages", {**base, "thread": None})


def test_count_tokens_agrees():
    body = {"model": "m", "system": "be brief", "messages": [{"role": "user", "content": "count me " * 50}],
            "tools": [{"name": "f", "input_schema": {"type": "object"}}]}
    n = server.post("/v1/messages/count_tokens?beta=true", body)["input_tokens"]
    for _ in range(2):
        u = server.post("/v1/messages", {**body, "max_tokens": 5})["usage"]
        assert u["input_tokens"] + u["cache_read_input_tokens"] + u["cache_creation_input_tokens"] == n


def test_too_long():
    words = "word " * 70000
    e, _ = refused("/v1/chat/completions", chat(words), needle="maximum context length is 65536 tokens")
    assert e["code"] == "context_length_exceeded"
    e, _ = refused("/v1/messages", {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": words}]},
                   needle="prompt is too long: ")
    assert re.fullmatch(r"prompt is too long: \d+ tokens > 65536 maximum", e["message"])


def test_paths_and_methods():
    for path in ("/health", "/v1/health", "/", "//health/", "/health?x=1"):
        assert server.get(path) == (200, {"status": "ok"}), path
        status, _, data = server.request("HEAD", path)
        assert (status, data) == (200, b"")
    for path in ("/v1/models", "/models", "//v1//models/"):
        status, m = server.get(path)
        assert status == 200 and m["object"] == "list" and m["data"][0]["object"] == "model"
        assert m["first_id"] == m["data"][0]["id"] and m["data"][0]["type"] == "model" and m["has_more"] is False
    assert server.get("/v1/models/" + "org%2Fname")[1]["object"] == "model"
    server.post("/chat/completions", chat())
    server.post("//v1/chat/completions/?x=1", chat())
    for path in ("/v1/embeddings", "/v1/images/generations", "/v1", "/v1/chat", "/favicon.ico", "/../etc/passwd", "/%2e%2e/x"):
        status, _, data = server.request("POST", path, b"{}")
        assert status == 404 and json.loads(data)["error"]["type"] == "not_found", path
    status, _, data = server.request("POST", "/v1/messages/batches", b"{}")
    assert status == 404 and json.loads(data)["error"]["type"] == "not_found_error"
    for method, path, allow in (("GET", "/v1/chat/completions", "POST"), ("PUT", "/v1/messages", "POST"),
                                ("POST", "/health", "GET"), ("DELETE", "/v1/models", "GET")):
        status, h, _ = server.request(method, path, b"{}" if method != "GET" else None)
        assert status == 405 and allow in h["allow"], (method, path)
    assert server.request("POST", "/%00x", b"{}")[0] == 405  # the path ends at a NUL
    status, p = server.get("/props")
    assert status == 200 and p["context_length"] == 65536 and "file" not in p and "/" not in json.dumps(p["model"])
    assert {"model", "quantization", "slots", "build", "features", "chat_template", "max_effort"} <= set(p)


def test_metrics():
    """All of the contract's numbers are there, each with its help and type."""
    text = server.request("GET", "/metrics")[2].decode()
    for name in ("requests_running", "requests_queued", "queue_wait_seconds", "prompt_tokens_total", "prompt_tokens_cached_total",
                 "completion_tokens_total", "prefill_seconds_total", "decode_seconds_total", "ttft_seconds", "request_cancelled_total",
                 "kv_disk_bytes", "kv_disk_hits_total", "kv_disk_evictions_total", "context_tokens_max", "grammar_compile_seconds",
                 "auth_failures_total", "requests_total"):
        kind = "histogram" if name in ("queue_wait_seconds", "ttft_seconds", "grammar_compile_seconds") else \
            "gauge" if name in ("requests_running", "requests_queued", "kv_disk_bytes", "context_tokens_max") else "counter"
        assert f"# TYPE fathom_{name} {kind}\n" in text and f"# HELP fathom_{name} " in text, name
    for line in text.splitlines():
        assert line.startswith("# ") or re.fullmatch(r'fathom_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+-]+', line), line


def test_engine_fault():
    e, _ = refused("/v1/chat/completions", chat("[fault]"), status=500)
    assert e["type"] == "server_error"
    events = server.stream("/v1/chat/completions", chat("[fault]"))
    assert "error" in json.loads(events[-1][1]) and events[-1][1] != "[DONE]"
    events = server.stream("/v1/responses", {"model": "m", "input": "[fault]"})
    assert events[-1][0] == "response.failed" and json.loads(events[-1][1])["response"]["error"]["code"] == "server_error"
    events = server.stream("/v1/messages", {"model": "m", "max_tokens": 9, "messages": chat("[fault]")["messages"]})
    assert events[-1][0] == "error" and json.loads(events[-1][1])["error"]["type"] == "api_error"
    server.post("/v1/chat/completions", chat())  # others are not affected


def test_special_tokens_in_text():
    """Spelled-out control tokens in any text field stay text: more ids than one, none of them control."""
    marks = ["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<think>", "</think>", "｜DSML｜", "</tool_result>"]
    for mark in marks:
        ids = server.post("/tokenize", {"content": mark, "special": True})["tokens"]
        assert len(ids) > 1, mark
        server.post("/v1/chat/completions", chat(mark, tools=[{"type": "function", "function": {
            "name": mark, "description": mark, "parameters": {"type": mark}}}]))
        n1 = server.post("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": mark}]})["input_tokens"]
        n0 = server.post("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": ""}]})["input_tokens"]
        assert n1 - n0 == len(ids), mark


def test_keys(work):
    with serving(work, "--api-key", KEY, "--api-key", OTHER, script=SCRIPT) as s:
        good = [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {OTHER}"}, {"x-api-key": KEY},
                {"api-key": OTHER}]
        bad_ones = [{}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {KEY}x"}, {"x-api-key": KEY[:-1]},
                    {"Authorization": f"Basic {KEY}"}, {"Authorization": f"Bearer {KEY.upper()}"}]
        for h in good:
            assert s.request("POST", "/v1/chat/completions", chat(), h)[0] == 200, h
            assert s.get("/v1/models", h)[0] == 200
        for h in bad_ones:
            e, headers = refused("/v1/chat/completions", chat(), 401, "key", s=s, headers=h)
            assert e["code"] == "invalid_api_key" and headers["www-authenticate"] == "Bearer"
            refused("/v1/messages", chat(), 401, "key", s=s, headers=h)
            assert s.request("GET", "/metrics", headers=h)[0] == 401
            assert s.request("GET", "/nothing", headers=h)[0] == 401
        assert s.get("/health")[0] == 200
        assert s.request("OPTIONS", "/v1/chat/completions")[0] == 204
        assert "file" in s.get("/props", good[0])[1]
        text = s.request("GET", "/metrics", headers=good[0])[2].decode()
        assert f"fathom_auth_failures_total {4 * len(bad_ones)}" in text
    env = environment(FATHOM_API_KEY=KEY)
    path = os.path.join(work, "keys")
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"{OTHER}\n\n")
    with serving(work, "--api-key-file", path, script=SCRIPT, env=env) as s:
        for k in (KEY, OTHER):
            assert s.request("GET", "/v1/models", headers={"x-api-key": k})[0] == 200
    bad(2, "api-key", "serve", "--host", "0.0.0.0", "--port", "0")
    bad(2, "characters", "serve", "--api-key", "short", "--port", "0")
    bad(2, "IP address", "serve", "--host", "box.lan", "--insecure-no-auth", "--port", "0")


def test_keys_do_not_share_prefixes(work):
    with serving(work, "--api-key", KEY, "--api-key", OTHER, script=SCRIPT) as s:
        body = chat("the same prompt " * 40, temperature=0)
        cached = []
        for key, salt in ((KEY, None), (KEY, None), (OTHER, None), (KEY, "s1"), (KEY, "s1"), (OTHER, "s1"), (OTHER, "s1")):
            got = s.post("/v1/chat/completions", {**body, "cache_salt": salt}, {"x-api-key": key})
            cached.append(got["usage"]["prompt_tokens_details"]["cached_tokens"] > 0)
        assert cached == [False, True, False, False, True, False, True], cached


def raw(s, data, timeout=30, port=None):
    """Sends bytes, returns all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", s.port), timeout) as c:
        c.sendall(data)
        got = b""
        while True:
            part = c.recv(65536)
            if not part:
                return got
            got += part


def test_host_and_origin(work):
    with serving(work, "--allowed-hosts", "box.lan,other", "--cors-origin", "https://good.example", script=SCRIPT) as s:
        me = f"127.0.0.1:{s.port}"
        for host in (me, "localhost", f"LOCALHOST:{s.port}", "[::1]:80", "box.lan", "other:99", "localhost."):
            assert s.request("GET", "/health", headers={"Host": host})[0] == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1", "[fe80::1]", "evil:8000", ":80"):
            status, _, data = s.request("GET", "/v1/models", headers={"Host": host})
            assert status == 403 and b"allowed-hosts" in data, host
            assert s.request("OPTIONS", "/v1/models", headers={"Host": host})[0] == 403
        for head in (b"GET /health HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"):
            assert b" 400 " in raw(s, head).split(b"\r\n")[0]
        js = {"Content-Type": "application/json"}
        own, good, evil = f"http://{me}", "https://good.example", "https://evil.example"
        for origin, status, allowed in ((own, 200, None), (good, 200, good), (evil, 403, None), ("null", 403, None),
                                        ("https://good.example.evil", 403, None), ("http://127.0.0.1", 403, None)):
            got, h, _ = s.request("POST", "/v1/chat/completions", chat(), {**js, "Origin": origin})
            assert got == status and h["access-control-allow-origin"] == allowed, origin
            assert h["access-control-allow-credentials"] is None
        assert s.request("POST", "/v1/chat/completions", chat(), {"Origin": own})[0] == 415
        assert s.request("POST", "/v1/chat/completions", chat(), {"Origin": own, "Content-Type": "text/plain"})[0] == 415
        assert s.request("POST", "/v1/chat/completions", chat(),
                         {"Origin": own, "Content-Type": "application/json; charset=utf-8"})[0] == 200
        want = "authorization, x-stainless-os, x-evil, anthropic-version"
        for origin, ok in ((good, True), (evil, False)):
            status, h, _ = s.request("OPTIONS", "/v1/messages", headers={
                "Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": want})
            assert status == 204 and (h["access-control-allow-origin"] == origin) == ok
            assert h["access-control-allow-headers"] == ("authorization, x-stainless-os, anthropic-version" if ok else None)
    with serving(work, "--api-key", KEY, script=SCRIPT) as s:  # a foreign page that knows the key may ask
        h = {"Content-Type": "application/json", "Origin": "https://evil.example", "x-api-key": KEY}
        status, got, _ = s.request("POST", "/v1/chat/completions", chat(), h)
        assert status == 200 and got["access-control-allow-origin"] is None
        assert s.request("POST", "/v1/chat/completions", chat(), {**h, "x-api-key": "wrong-wrong"})[0] == 403


def test_limits(work):
    with serving(work, "--body-limit", "1", "--header-timeout", "1", script=SCRIPT) as s:
        big = json.dumps(chat("x" * (1 << 20) + "y")).encode()
        refused("/v1/chat/completions", big, 413, "larger", s=s)
        # a client that waits for "100 Continue" need not send its body for that
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(big)}\r\nExpect: 100-continue\r\n\r\n"
        with socket.create_connection(("127.0.0.1", s.port), 10) as c:
            c.sendall(head.encode())
            assert b" 413 " in c.recv(65536).split(b"\r\n")[0]
        refused("/v1/messages", big, 413, "larger", s=s)

        def chunks():
            for at in range(0, len(big), 60000):
                yield big[at:at + 60000]

        c = s.connect()
        c.request("POST", "/v1/chat/completions", chunks(), encode_chunked=True,
                  headers={"Transfer-Encoding": "chunked"})
        assert c.getresponse().status == 413
        small = json.dumps(chat("chunked")).encode()
        c = s.connect()
        c.request("POST", "/v1/chat/completions", iter([small[:10], small[10:]]), encode_chunked=True,
                  headers={"Transfer-Encoding": "chunked"})
        assert c.getresponse().status == 200
        refused("/v1/chat/completions", small, 415, "Content-Encoding", s=s, headers={"Content-Encoding": "gzip"})
        many = {f"x-h{i}": "v" for i in range(120)}
        assert s.request("GET", "/health", headers=many)[0] == 431
        head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Big: " + b"a" * 200000 + b"\r\n\r\n"
        try:
            assert b" 431 " in raw(s, head).split(b"\r\n")[0]
        except (ConnectionResetError, BrokenPipeError):
            pass  # cut off while still sending: refused as well
        for junk in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, b"GET\r\n\r\n", b"\0" * 100):
            try:
                got = raw(s, junk + b"\r\n\r\n", timeout=30)
                assert got == b"" or b" 400 " in got.split(b"\r\n")[0] or b" 505 " in got.split(b"\r\n")[0], got
            except (ConnectionResetError, BrokenPipeError):
                pass
        tools = [{"type": "function", "function": {"name": f"f{i}"}} for i in range(1025)]
        refused("/v1/chat/completions", chat(tools=tools), needle="1024", s=s)
        assert s.get("/health")[0] == 200


def test_strict_model(work):
    with serving(work, "--strict-model", "--alias", "mine", script=SCRIPT) as s:
        s.post("/v1/chat/completions", {**chat(), "model": "mine"})
        e, _ = refused("/v1/chat/completions", chat(), 404, "mine", s=s)
        assert e["code"] == "model_not_found"
        assert s.request("GET", "/v1/models/other")[0] == 404 and s.get("/v1/models/mine")[1]["id"] == "mine"


def test_image_placeholder(work):
    with serving(work, "--image-placeholder", script=SCRIPT) as s:
        s.post("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:"}}]}]})
        s.post("/v1/messages", {"model": "m", "messages": [{"role": "user", "content": [
            {"type": "image", "source": {}}, {"type": "text", "text": "see"}]}]})


def test_unix_socket(work):
    path = os.path.join(work, "sock")
    p = subprocess.Popen([PROGRAM, "serve", "--socket", path, "--kv-dir", "none"], stderr=subprocess.PIPE, env=environment())
    try:
        end = time.time() + 20
        while time.time() < end and not os.path.exists(path):
            time.sleep(0.02)
        assert os.stat(path).st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as c:
            c.connect(path)
            c.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert c.recv(1000).split(b" ")[1] in (b"200", b"503")
    finally:
        p.send_signal(signal.SIGTERM)
        p.communicate(timeout=20)
    assert p.returncode == 0 and not os.path.exists(path)


def test_bad_scripts(work):
    path = os.path.join(work, "bad.jsonl")
    for text, needle in (("", "no completion"), ("{}\n", "line 1"), ('{"completion":"a"}\nx\n', "line 2")):
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        code, _, err = run("serve", "--port", "0", "--script", path)
        assert code == 3 and needle in err, err
    code, _, err = run("serve", "--port", "0", "-m", "/nonexistent.gguf")
    assert code == 3 and "nonexistent" in err


if __name__ == "__main__":
    import tempfile as _tempfile
    with _tempfile.TemporaryDirectory() as _work, serving(_work, script=SCRIPT) as server:
        _code = main(globals())
    sys.exit(_code)
