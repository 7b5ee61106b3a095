#!/usr/bin/env python3
"""Streams and bodies of the four protocols on scripted answers: every stream obeys its grammar, and its
pieces add up to the body that the same request gets without stream, wherever the answer is cut."""
from serving import *

TOOLS = [("write", {"path": {"type": "string"}, "n": {"type": "number"}}), ("bash", {"command": {"type": "string"}})]
CALLS = call_text(("write", {"path": "/tmp/a \"quoted\" näme.txt", "n": 3}), ("bash", {"command": "ls -la\n"}))
NO_ARGS = f'\n\n<{DSML}tool_calls>\n<{DSML}invoke name="bash">\n\n</{DSML}invoke>\n</{DSML}tool_calls>'
CASES = {
    "text": "</think>Hello, world.",
    "reasoning": "Only thoughts.</think>",
    "both": "Let me think.\nTwice.</think>The answer\n\nis 4.",
    "tool": "</think>" + CALLS,
    "all": "I need a file.</think>I will write it." + CALLS,
    "empty": "</think>",
    "nothing": "",
    "utf8": "🙂 ünïcode</think>a🙂b漢字c — “d”",
    "no-args": "</think>x" + NO_ARGS,
    "newlines": "a\n\n</think>b\n\n<c>\n\n",
    "look-alike": "x</think>text with &lt;tool_calls> and <tool_calls> and \n\n< nothing",
    "malformed": f'r</think>c\n\n<{DSML}tool_calls>\n<{DSML}invoke name="write">\n<{DSML}parameter bad>',
    "unclosed": "never closed",
}
SCRIPT = [{"match": f"[{k}]", "completion": v} for k, v in CASES.items()] + \
    [{"match": "[pieces]", "pieces": ["</think>", "one ST", "O", "P two"]},
     {"match": "[cut-utf8]", "pieces": ["</think>", "🙂🙂🙂"]}, {"completion": "</think>unmatched"}]

server = None


def chat(case, **more):
    tools = [{"type": "function", "function": {"name": n, "parameters": {"type": "object", "properties": p}}}
             for n, p in TOOLS]
    return "/v1/chat/completions", {"model": "any/näme", "messages": [{"role": "user", "content": f"[{case}]"}],
                                    "tools": tools, "seed": 1, **more}


def messages(case, **more):
    tools = [{"name": n, "input_schema": {"type": "object", "properties": p}} for n, p in TOOLS]
    if "max_completion_tokens" in more:
        more["max_tokens"] = more.pop("max_completion_tokens")
    if "stop" in more:
        more["stop_sequences"] = more.pop("stop")
    return "/v1/messages", {"model": "any/näme", "max_tokens": 1000, "tools": tools,
                            "messages": [{"role": "user", "content": f"[{case}]"}], **more}


def responses(case, **more):
    tools = [{"type": "function", "name": n, "parameters": {"type": "object", "properties": p}} for n, p in TOOLS]
    if "max_completion_tokens" in more:
        more["max_output_tokens"] = more.pop("max_completion_tokens")
    return "/v1/responses", {"model": "any/näme", "tools": tools, "input": f"[{case}]", **more}


def both(make, case, **more):
    """The streamed and the whole answer to one request, each through its checker."""
    path, body = make(case, **more)
    if case == "malformed":  # calls of known tools are held to their form
        del body["tools"]
    whole = server.post(path, body)
    assert whole["model"] == "any/näme"
    if make is chat:
        with_usage = {**body, "stream_options": {"include_usage": True}}
        return check_chat(server.stream(path, with_usage), model="any/näme"), chat_body(whole)
    if make is messages:
        return check_messages(server.stream(path, body), model="any/näme"), messages_body(whole)
    broken = case == "malformed"
    return check_responses(server.stream(path, body), "any/näme", broken), responses_object(whole)


def expected(case):
    """What a case means, from its text."""
    text = CASES[case]
    reasoning, _, rest = text.partition("</think>")
    content, _, calls = rest.partition(f"\n\n<{DSML}tool_calls>")
    return reasoning, content, calls.count(f"</{DSML}invoke>")


def test_cases():
    for make in (chat, messages, responses):
        for case in CASES:
            streamed, whole = both(make, case)
            if case == "malformed":  # the call that broke is in no body; what came before is
                assert (whole["reasoning"], whole["content"], whole["calls"]) == ("r", "c", [])
                assert whole["finish"] == "stop"
                continue
            same_answer(streamed, whole)
            reasoning, content, n_calls = expected(case)
            assert (whole["reasoning"], whole["content"]) == (reasoning, content), (make, case, whole)
            assert len(whole["calls"]) == n_calls
            assert whole["finish"] == ("tool_calls" if n_calls else "stop")
            if case == "all":
                args = [json.loads(a) for _, a, _ in whole["calls"]]
                assert args == [{"path": "/tmp/a \"quoted\" näme.txt", "n": 3}, {"command": "ls -la\n"}]
                assert len({c[2] for c in whole["calls"] + streamed["calls"]}) == 4  # ids are never reused


def test_cut_at_every_token():
    """max_tokens in every state: the finish is length, no call that was cut is returned."""
    step = 1 if os.environ.get("FATHOM_TEST_TASKS") == "1" else 5
    for make in (chat, messages, responses):
        for case in ("all", "utf8", "both"):
            n_all = both(make, case)[1]["usage"][1]
            for n in sorted({*range(1, n_all, step), n_all - 1, n_all}):
                streamed, whole = both(make, case, max_completion_tokens=n)
                same_answer(streamed, whole, streamed_chat=make is not responses)
                assert whole["usage"][1] == n
                assert whole["finish"] == ("length" if n < n_all else both(make, case)[1]["finish"]), (case, n)
                for _, args, _ in whole["calls"]:
                    json.loads(args)


def test_stop_strings():
    for make in (chat, messages):
        for stop, content in ((["STOP"], "one "), (["two"], "one STOP "), (["zzz"], "one STOP two"),
                              (["one"], ""), (["P t", "STOP two"], "one STO"), (["OP", "STOP"], "one "), (["ST", "STOP"], "one ")):
            streamed, whole = both(make, "pieces", stop=stop)
            same_answer(streamed, whole)
            assert whole["content"] == content and whole["finish"] == "stop", (stop, whole)
    path, body = messages("pieces", stop=["xx", "STOP"])
    whole = server.post(path, body)
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", "STOP")
    # not in reasoning, not in arguments
    streamed, whole = both(chat, "all", stop=["file", "/tmp", "ls"])
    same_answer(streamed, whole)
    assert whole["reasoning"] == "I need a file." and len(whole["calls"]) == 2


def test_usage_only_when_asked():
    path, body = chat("text")
    check_chat(server.stream(path, body), usage=False)


def test_completions():
    for more, text, finish in (({}, "Hello, world.", "stop"), ({"max_tokens": 2}, None, "length"),
                               ({"stop": ", "}, "Hello", "stop"), ({"echo": True}, "[text]Hello, world.", "stop")):
        body = {"model": "m", "prompt": "[text]", "seed": 5, **more}
        whole = server.post("/v1/completions", body)
        (choice,) = whole["choices"]
        assert whole["object"] == "text_completion" and choice["finish_reason"] == finish
        got = choice["text"].replace("</think>", "")
        assert text is None or got == text, (more, got)
        events = server.stream("/v1/completions", {**body, "stream_options": {"include_usage": True}})
        assert events[-1][1] == "[DONE]"
        chunks = [json.loads(d) for _, d in events[:-1]]
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"] or \
            chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
        assert "".join(c["choices"][0]["text"] for c in chunks[:-1]) == choice["text"]
        assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]][-1] == finish
    ids = server.post("/tokenize", {"content": "[text]"})["tokens"]
    assert server.post("/detokenize", {"tokens": ids})["content"] == "[text]"
    by_ids = server.post("/v1/completions", {"model": "m", "prompt": ids})
    assert "Hello, world." in by_ids["choices"][0]["text"]


def test_logprobs():
    path, body = chat("both", logprobs=True, top_logprobs=3)
    whole = server.post(path, body)
    content = whole["choices"][0]["logprobs"]["content"]
    text = b"".join(bytes(t["bytes"]) for t in content).decode()
    assert text == whole["choices"][0]["message"]["content"]  # no reasoning, no markers
    for t in content:
        assert len(t["top_logprobs"]) == 3 and t["logprob"] < 0
    chunks = [json.loads(d) for _, d in server.stream(path, body)[:-1]]
    streamed = [t for c in chunks for t in ((c["choices"][0]["logprobs"] or {}).get("content") or [])]
    assert streamed == content
    path, body = chat("all", logprobs=True)
    whole = server.post(path, body)["choices"][0]
    text = b"".join(bytes(t["bytes"]) for t in whole["logprobs"]["content"]).decode()
    assert text.rstrip("\n") == whole["message"]["content"] and all(t["top_logprobs"] == [] for t in whole["logprobs"]["content"])
    old = server.post("/v1/completions", {"model": "m", "prompt": "[text]", "logprobs": 2})["choices"][0]
    lp = old["logprobs"]
    assert len(lp["tokens"]) == len(lp["token_logprobs"]) == len(lp["text_offset"]) == len(lp["top_logprobs"])


def test_tool_choice_none_masks_the_marker():
    for make in (chat, messages):
        path, body = make("all", tool_choice="none" if make is chat else {"type": "none"})
        if make is chat:
            whole = chat_body(server.post(path, body))
        else:
            whole = messages_body(server.post(path, body))
        assert whole["calls"] == [] and "invoke" in whole["content"] and DSML not in whole["content"]


def test_one_call():
    """parallel_tool_calls false ends the answer after the first call."""
    for make, more in ((chat, {"parallel_tool_calls": False}), (responses, {"parallel_tool_calls": False}),
                       (messages, {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}})):
        streamed, whole = both(make, "all", **more)
        same_answer(streamed, whole)
        assert [c[0] for c in whole["calls"]] == ["write"] and whole["finish"] == "tool_calls"


def test_thinking_off():
    """Without thinking the generation prefix closes the reasoning; the script then writes text at once."""
    body = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "[cut-utf8]"}],
            "thinking": {"type": "disabled"}}
    got = check_messages(server.stream("/v1/messages", body))
    assert got["reasoning"] == "" and got["content"].endswith("🙂🙂🙂")
    assert all(b["type"] != "thinking" for b in server.post("/v1/messages", body)["content"])
    omitted = {**body, "thinking": {"type": "enabled", "display": "omitted", "budget_tokens": 20},
               "messages": [{"role": "user", "content": "[both]"}]}
    got = check_messages(server.stream("/v1/messages", omitted))
    assert got["reasoning"] == "" and got["content"].startswith("The answer")
    first = server.post("/v1/messages", omitted)["content"][0]
    assert first["type"] == "thinking" and first["thinking"] == "" and first["signature"]


def test_reasoning_budget():
    """At the budget the end of the reasoning is forced; the script goes on in the content."""
    body = {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "[both]"}],
            "thinking": {"type": "enabled", "budget_tokens": 3}}
    got = check_messages(server.stream("/v1/messages", body))
    assert "Let me think.".startswith(got["reasoning"]) and len(got["reasoning"]) < 13, got
    assert got["content"]


def test_sealed_reasoning():
    """encrypted_content is null unless asked for; then streams and bodies carry the same opaque text."""
    for include, sealed in ((["reasoning.encrypted_content"], True), (["x"], False), (None, False)):
        path, body = responses("both", include=include)
        whole = server.post(path, body)
        events = [json.loads(d) for _, d in server.stream(path, body)]
        items = [i for i in whole["output"] if i["type"] == "reasoning"]
        items += [e["item"] for e in events if e["type"].startswith("response.output_item.") and e["item"]["type"] == "reasoning"]
        assert len(items) == 3 and len({i["encrypted_content"] for i in items}) == 1, items
        assert isinstance(items[0]["encrypted_content"], str if sealed else type(None))
        assert server.post(path, {**body, "input": [{"role": "user", "content": "[both]"}, items[0]]})["output"]


def test_custom_and_namespace_tools(work):
    text = 'raw "text"\nwith \\ and ünï and \t tab \x01'
    script = [{"match": "[custom]", "completion": "</think>" + call_text(("apply", {"input": text}))},
              {"match": "[space]", "completion": "</think>" + call_text(("go", {"to": "x"}))}]
    tools = [{"type": "custom", "name": "apply", "description": "d", "format": {"type": "text"}},
             {"type": "namespace", "name": "agents", "tools": [
                 {"type": "function", "name": "go", "parameters": {"type": "object"}}]},
             {"type": "web_search", "external_web_access": False}]
    with serving(work, script=script) as s:
        body = {"model": "m", "input": "[custom]", "tools": tools}
        streamed = check_responses(s.stream("/v1/responses", body))
        whole = s.post("/v1/responses", body)
        same_answer(streamed, responses_object(whole))
        (item,) = [i for i in whole["output"] if i["type"] == "custom_tool_call"]
        assert item["input"] == text and item["name"] == "apply"
        body["input"] = "[space]"
        (item,) = [i for i in s.post("/v1/responses", body)["output"] if i["type"] == "function_call"]
        assert item["name"] == "go" and item["namespace"] == "agents"


if __name__ == "__main__":
    import tempfile as _tempfile
    with _tempfile.TemporaryDirectory() as _work, serving(_work, script=SCRIPT) as server:
        _code = main(globals())
    sys.exit(_code)
