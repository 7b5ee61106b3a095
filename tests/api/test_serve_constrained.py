#!/usr/bin/env python3
"""Constrained output from outside: scripted answers that want to break the rules and are held to them,
in all protocols and with the fixtures of real clients; and the mini model at high temperature with
random schemas, whose every finished answer must parse and keep to its schema, as a validator of this
file sees it. FATHOM_TEST_TASKS=1 (test.sh --long) asks for the full counts."""
import random

from serving import *

LONG = os.environ.get("FATHOM_TEST_TASKS") == "1"


# ---- the validator: an own reading of JSON Schema, for the keywords that are supported ----

def is_type(v, name):
    number = isinstance(v, (int, float)) and not isinstance(v, bool)
    return {"null": v is None, "boolean": isinstance(v, bool), "string": isinstance(v, str), "number": number,
            "integer": number and v == int(v), "array": isinstance(v, list), "object": isinstance(v, dict)}[name]


def valid(v, s, root):
    if isinstance(s, bool):
        return s
    if "$ref" in s:
        target = root
        for part in s["$ref"].split("/")[1:]:
            target = target[part]
        if not valid(v, target, root):
            return False
    types = s.get("type", [])
    if types and not any(is_type(v, t) for t in ([types] if isinstance(types, str) else types)):
        return False
    if "enum" in s and not any(v == e and type(v) is type(e) for e in s["enum"]):
        return False
    if "const" in s and (v != s["const"] or type(v) is not type(s["const"])):
        return False
    if not all(valid(v, x, root) for x in s.get("allOf", [])):
        return False
    for word in ("anyOf", "oneOf"):
        if word in s and not any(valid(v, x, root) for x in s[word]):
            return False
    if isinstance(v, str):
        return s.get("minLength", 0) <= len(v) <= s.get("maxLength", 1 << 30) and \
            ("pattern" not in s or re.search(s["pattern"], v, re.ASCII) is not None)
    if is_type(v, "number"):
        return s.get("minimum", v) <= v <= s.get("maximum", v) and v > s.get("exclusiveMinimum", v - 1) and \
            v < s.get("exclusiveMaximum", v + 1)
    if isinstance(v, list):
        prefix = s.get("prefixItems", [])
        return s.get("minItems", 0) <= len(v) <= s.get("maxItems", 1 << 30) and \
            all(valid(x, prefix[i] if i < len(prefix) else s.get("items", True), root) for i, x in enumerate(v))
    if isinstance(v, dict):
        known = s.get("properties", {})
        return all(k in v for k in s.get("required", [])) and \
            all(valid(x, known.get(k, s.get("additionalProperties", True)), root) for k, x in v.items()) and \
            all(valid(k, s.get("propertyNames", True), root) for k in v)
    return True


def test_the_validator_itself():
    s = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 2}}, "required": ["a"],
         "additionalProperties": False}
    assert valid({"a": 2}, s, s) and not valid({"a": 1}, s, s) and not valid({}, s, s) and not valid({"a": 2, "b": 1}, s, s)
    assert not valid(True, {"type": "integer"}, {}) and not valid("abc", {"maxLength": 2}, {})


# ---- scripted ----

TITLE = '{"title": "Hello world file"}'
TOOL = {"type": "function", "function": {"name": "write", "parameters": {
    "type": "object", "properties": {"path": {"type": "string"}, "n": {"type": "integer", "minimum": 3}},
    "required": ["path"], "additionalProperties": False}}}
OTHER = {"type": "function", "function": {"name": "bash", "parameters": {
    "type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}}}
CALL = call_text(("write", {"path": "a b", "n": 31}))
OPEN = f"\n\n<{DSML}tool_calls>\n<{DSML}invoke name=\""
SCRIPT = [
    {"match": "[object]", "pieces": ["Hm.</think>", "Sure! Here it is: ", '{"a": "x"}', "\nDone."]},
    {"match": "[forced]", "pieces": ["No.</think>", "Not me.", call_text(("json", {"a": "x"}))]},
    {"match": "[call]", "pieces": ["</think>", "I would rather not.", CALL]},
    {"match": "[two]", "pieces": ["</think>", call_text(("bash", {"command": "ls"}), ("write", {"path": "p"}))]},
    {"match": "[unknown]", "pieces": ["</think>Well.", OPEN, "zzz", "bash", f'">\n<{DSML}parameter name="', "zzz", "command",
                                      f'" string="true">ls</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}tool_calls>']},
    {"match": "[bad-number]", "pieces": ["</think>", OPEN, f'write">\n<{DSML}parameter name="path" string="true">p</{DSML}parameter>\n'
                                         f'<{DSML}parameter name="n" string="', 'true">', 'false">', "2", "31",
                                         f'</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}tool_calls>']},
    {"match": "[narrow]", "pieces": ["</think>", "Well.", OPEN, "bash", "write", f'">\n<{DSML}parameter name="path" string="true">p'
                                     f'</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}tool_calls>']},
    {"match": "[endless]", "completion": '</think>{"a": "' + "x" * 4000, "eos": False},
    {"match": "[quiet]", "completion": "thoughts only"},
    {"pieces": ["Hm.</think>", "Certainly: ", TITLE, " - is it good?"]},
]
server = None
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def ask(text, **more):
    return server.post("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": text}], **more})


def call_of(answer):
    m = answer["choices"][0]["message"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls" and m["content"] is None, answer
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in m["tool_calls"]]


def fixture(name):
    body = json.load(open(data(f"client-requests/{name}.json"), encoding="utf-8"))
    return body.get("body", body)


def test_the_title_request_of_claude_code():
    body = {**fixture("claude-code-2.1.197.title-json-schema"), "stream": False}
    for _ in range(2):
        got = messages_body(server.post("/v1/messages?beta=true", body))
        assert json.loads(got["content"]) == json.loads(TITLE), got
    streamed = check_messages(server.stream("/v1/messages?beta=true", body))
    assert streamed["content"] == got["content"]


def test_objects_of_the_ai_sdk():
    def with_text(body, key):
        body = fixture(body)
        body.pop("stream", None)
        body[key] = [{"role": "user", "content": "[object]"}]
        return body
    for name in ("sdk-ai-sdk-openai-3.0.141-chat-object", "sdk-ai-sdk-openai-compatible-2.0.91-object",
                 "sdk-openai-6.49.0-chat-parse-json-schema"):
        body = with_text(name, "messages")
        got = chat_body(server.post("/v1/chat/completions", body))
        if "parse" not in name:
            assert got["content"] == '{"a": "x"}', got
        assert check_chat(server.stream("/v1/chat/completions", body), usage=False)["content"] == got["content"]
    body = with_text("sdk-ai-sdk-openai-3.0.141-responses-object", "input")
    assert responses_object(server.post("/v1/responses", body))["content"] == '{"a": "x"}'
    body = with_text("sdk-ai-sdk-anthropic-3.0.139-object-forced-tool", "messages")
    body["messages"][0]["content"] = "[forced]"
    got = server.post("/v1/messages", body)
    blocks = [b for b in got["content"] if b["type"] == "tool_use"]
    assert got["stop_reason"] == "tool_use" and [b["name"] for b in blocks] == ["json"], got
    assert blocks[0]["input"] == {"a": "x"}


def test_required_and_named():
    tools = [TOOL, OTHER]
    assert call_of(ask("[call]", tools=tools, tool_choice="required")) == [("write", {"path": "a b", "n": 31})]
    named = {"type": "function", "function": {"name": "write"}}
    assert call_of(ask("[call]", tools=tools, tool_choice=named)) == [("write", {"path": "a b", "n": 31})]
    assert len(call_of(ask("[two]", tools=tools, tool_choice="required"))) == 2
    got = call_of(ask("[two]", tools=tools, tool_choice="required", parallel_tool_calls=False))
    assert got == [("bash", {"command": "ls"})]
    # "2" alone would be too small, a string is none
    assert call_of(ask("[bad-number]", tools=tools, tool_choice="required")) == [("write", {"path": "p", "n": 231})]
    got = server.post("/v1/messages", {
        "model": "m", "max_tokens": 500, "messages": [{"role": "user", "content": "[call]"}],
        "tools": [{"name": t["function"]["name"], "input_schema": t["function"]["parameters"]} for t in tools],
        "tool_choice": {"type": "tool", "name": "write"}})
    assert got["content"][-1]["type"] == "tool_use" and got["content"][-1]["input"] == {"path": "a b", "n": 31}, got
    got = server.post("/v1/responses", {
        "model": "m", "input": "[call]", "tool_choice": "required",
        "tools": [{"type": "function", **t["function"]} for t in tools]})
    assert [o["name"] for o in got["output"] if o["type"] == "function_call"] == ["write"], got


def test_function_call_of_old_clients():
    functions = [TOOL["function"], OTHER["function"]]
    got = ask("[two]", functions=functions, function_call={"name": "write"})
    assert [name for name, _ in call_of(got)] == ["write"], got
    got = ask("[call]", functions=functions, function_call="none")
    assert got["choices"][0]["finish_reason"] == "stop" and "tool_calls" not in got["choices"][0]["message"], got


def test_allowed_tools():
    """A list of allowed tools narrows what may be called, and leaves the prompt as it is."""
    tools, write, bash = [TOOL, OTHER], ({"type": "function", "function": {"name": "write"}}), "bash"

    def allowed(mode, *names):
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(names)}}
    for mode in ("auto", "required"):
        got = ask("[narrow]", tools=tools, tool_choice=allowed(mode, write))
        m = got["choices"][0]["message"]
        assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in m["tool_calls"]] == \
            [("write", {"path": "p"})], got
        assert m["content"] == ("Well." if mode == "auto" else None), got
        assert got["usage"]["prompt_tokens"] == ask("[narrow]", tools=tools, tool_choice=write)["usage"]["prompt_tokens"]
    # the wire form of Responses is flat; a tool of the vendor's servers was left out, and is passed over
    flat = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "write"},
                                                                    {"type": "web_search"}]}
    got = server.post("/v1/responses", {"model": "m", "input": "[narrow]", "tool_choice": flat,
                                        "tools": [{"type": "function", **t["function"]} for t in tools] + [{"type": "web_search"}]})
    assert [o["name"] for o in got["output"] if o["type"] == "function_call"] == ["write"], got
    # nothing allowed: as tool_choice none, and the tools stay in the prompt
    got = ask("[call]", tools=tools, tool_choice=allowed("auto"))
    assert not got["choices"][0]["message"].get("tool_calls") and got["choices"][0]["finish_reason"] == "stop", got
    assert got["usage"]["prompt_tokens"] == ask("[call]", tools=tools)["usage"]["prompt_tokens"]
    for choice, param in ((allowed("required"), "tool_choice.allowed_tools.tools"),
                          (allowed("sometimes", write), "tool_choice.allowed_tools.mode"),
                          (allowed("auto", {"type": "function", "function": {"name": "rm"}}), "tool_choice.allowed_tools.tools[0].name"),
                          (allowed("auto", bash), "tool_choice.allowed_tools.tools[0]"),
                          ({"type": "allowed_tools", "mode": "auto"}, "tool_choice.tools"),
                          ({**flat, "tools": [{"name": "write"}]}, "tool_choice.tools[0].type")):
        status, _, data = server.request("POST", "/v1/chat/completions", {
            "model": "m", "messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": choice})
        assert status == 400 and json.loads(data)["error"]["param"] == param, (choice, data)


def test_auto_knows_names_only():
    tools = [TOOL, OTHER]
    got = server.post("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "[unknown]"}],
                                               "tools": tools})
    m = got["choices"][0]["message"]
    assert m["content"] == "Well." and m["tool_calls"][0]["function"]["name"] == "bash", got
    assert json.loads(m["tool_calls"][0]["function"]["arguments"]) == {"command": "ls"}
    got = call_of(ask("[bad-number]", tools=tools))  # values are the model's own
    assert got == [("write", {"path": "p", "n": "false\">231"})], got
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    assert call_of(ask("[bad-number]", tools=[strict, OTHER])) == [("write", {"path": "p", "n": 231})]
    got = ask("plain", tools=tools)["choices"][0]
    assert got["message"]["content"].startswith("Certainly") and got["finish_reason"] == "stop"


def test_json_beside_tools():
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
    got = ask("[object]", tools=[TOOL], response_format=form)["choices"][0]
    assert got["message"]["content"] == '{"a": "x"}' and got["finish_reason"] == "stop"
    assert call_of(ask("[call]", tools=[TOOL], response_format=form)) == [("write", {"path": "a b", "n": 31})]


def test_cut_inside():
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    got = ask("[endless]", response_format=form, max_tokens=40)["choices"][0]
    assert got["finish_reason"] == "length" and got["message"]["content"].startswith('{"a": "xxx'), got
    got = ask("[call]", tools=[TOOL], tool_choice="required", max_tokens=20)["choices"][0]
    assert got["finish_reason"] == "length" and not got["message"].get("tool_calls"), got


def test_refusals():
    def refused(schema, *words, strict=True, path="/v1/chat/completions", body=None):
        form = {"type": "json_schema", "json_schema": {"name": "x", "strict": strict, "schema": schema}}
        body = body or {"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": form}
        status, _, got = server.request("POST", path, body)
        assert status == 400, (status, got)
        e = json.loads(got)["error"]
        assert all(w in e["message"] for w in words), e
        return e
    e = refused({"type": "object", "properties": {"a/b": {"type": "number", "multipleOf": 2}}}, "multipleOf", "#/properties/a~1b")
    assert e["param"] == "response_format" and e["type"] == "invalid_request_error"
    refused({"type": "object", "properties": {"a": {"pattern": "(?=x)y"}}}, "pattern", "look-around")
    refused({"pattern": "a{1,9999}"}, "2000", strict=False)
    refused({"type": "integer", "minimum": 2, "maximum": 1}, "satisf", strict=False)
    refused({"description": "x" * 300000}, "262144", strict=False)
    deep = {"type": "string"}
    for _ in range(40):
        deep = {"type": "object", "properties": {"a": deep}}
    refused(deep, "32", strict=False)
    assert ask("[object]", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {
        **SCHEMA, "minProperties": 1}}})["choices"][0]["message"]["content"] == '{"a": "x"}'
    refused(None, "not", path="/v1/messages", body={
        "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}],
        "output_config": {"format": {"type": "json_schema", "schema": {"not": {"type": "null"}}}}})
    refused(None, "pattern", "tool \"f\"", body={
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "tool_choice": "required",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}}}]})


def test_joined_and_measured():
    before = server.metric("grammar_compile_seconds_count")
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**SCHEMA, "title": "own"}}}
    answers = [ask("[object]", response_format=form, seed=4) for _ in range(3)]
    assert {a["choices"][0]["message"]["content"] for a in answers} == {'{"a": "x"}'}
    assert server.metric("grammar_compile_seconds_count") == before + 3


# ---- the mini model ----

def random_schema(r, depth=0):
    kind = r.choice(["string", "string", "integer", "number", "boolean", "enum", "const", "pattern", "nullable", "anyOf"] +
                    (["object"] * 4 + ["array", "array", "tuple", "map", "allOf"] if depth < 3 else []))
    if kind == "string":
        return {"type": "string", "minLength": r.randrange(3), "maxLength": r.randrange(3, 12)}
    if kind == "integer":
        low = r.randrange(-500, 500)
        return r.choice([{"type": "integer", "minimum": low, "maximum": low + r.randrange(300)},
                         {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 2 + r.randrange(9)}])
    if kind == "number":
        low = round(r.uniform(-10, 10), r.randrange(3))
        return {"type": "number", r.choice(["minimum", "exclusiveMinimum"]): low, "maximum": round(low + 0.5 + r.random() * 5, 3)}
    if kind == "boolean":
        return {"type": "boolean"}
    if kind == "enum":
        return {"enum": r.sample(["red", "green", "a \"quoted\" one", "ünï", 7, -1.5, None, True, ["x", 1], {"k": "v"}], 3)}
    if kind == "const":
        return {"const": r.choice(["fixed", 12, None, {"a": [1]}])}
    if kind == "pattern":
        return {"type": "string", "pattern": r.choice(["^[A-Z]{2,4}-[0-9]+$", "^(yes|no|maybe)$", "^\\d{4}-\\d{2}$",
                                                       "^[a-z_]+$", "^#[0-9a-f]{6}$", "^[^\\s,]+, [^\\s,]+$"]), "maxLength": 20}
    if kind == "nullable":
        return {"type": [r.choice(["boolean", "integer"]), "null"], "minimum": 0, "maximum": 99}
    if kind == "anyOf":
        return {r.choice(["anyOf", "oneOf"]): [random_schema(r, depth + 1) for _ in range(2)]}
    if kind == "array":
        return {"type": "array", "items": random_schema(r, depth + 1), "minItems": r.randrange(2), "maxItems": r.randrange(2, 4)}
    if kind == "tuple":
        return {"type": "array", "prefixItems": [random_schema(r, depth + 1) for _ in range(2)], "items": False,
                "minItems": 1, "maxItems": 2}
    if kind == "map":
        return {"type": "object", "additionalProperties": random_schema(r, depth + 1), "properties": {"k": {"const": 1}},
                "propertyNames": {"pattern": "^[a-k]{1,3}$"}, "required": ["k"]}
    if kind == "allOf":
        return {"allOf": [random_object(r, depth, "ab"), random_object(r, depth, "cd")]}
    return random_object(r, depth, "pqrstu")


def random_object(r, depth, names):
    keys = [n * r.randrange(1, 4) for n in names][:r.randrange(1, len(names) + 1)]
    return {"type": "object", "properties": {k: random_schema(r, depth + 1) for k in keys},
            "required": [k for k in keys if r.random() < 0.6], **({"additionalProperties": False} if len(names) > 2 else {})}


LIST = {"$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer", "minimum": 0, "maximum": 9},
                                                            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
                           "required": ["v", "next"], "additionalProperties": False}}, "$ref": "#/$defs/node"}


def test_mini_model_keeps_to_random_schemas(work):
    schemas, seeds = (150, 6) if LONG else (10, 4)  # the seeds of a schema share its prompt
    n, finished = schemas * seeds, []
    with serving(work, "--parallel", "8", "--ctx", "4096", "--threads", "2") as s:
        def one(i):
            k = i // seeds
            r = random.Random(k)
            schema = LIST if k % 10 == 0 else random_object(r, 0, "pqr") if k % 2 else random_schema(r, 1)
            form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
            body = {"model": "m", "messages": [{"role": "user", "content": "Answer."}], "response_format": form,
                    "temperature": [0, 1, 2][i % 3], "seed": i, "max_tokens": 150,
                    "thinking": {"type": "enabled" if k % 4 == 0 else "disabled"}}
            got = s.post("/v1/chat/completions", body, timeout=300)["choices"][0]
            text = got["message"]["content"]
            if got["finish_reason"] == "length":
                return
            assert got["finish_reason"] == "stop", got
            value = json.loads(text)
            assert valid(value, schema, schema), (schema, text)
            finished.append(i)
        each_in_threads(n, one)
    print(f"        {len(finished)} of {n} answers finished")
    assert len(finished) > n * 0.5


def test_mini_model_calls_as_schemas_say(work):
    tools_n, seeds = (60, 6) if LONG else (4, 4)
    n, finished = tools_n * seeds, []
    with serving(work, "--parallel", "8", "--ctx", "4096", "--threads", "2") as s:
        def one(i):
            r = random.Random(1000 + i // seeds)
            tools = [{"type": "function", "function": {"name": f"tool_{k}", "parameters": random_object(r, 2, "pqr")}}
                     for k in "ab"]
            choice = "required" if i % 2 else {"type": "function", "function": {"name": "tool_b"}}
            got = s.post("/v1/chat/completions", {
                "model": "m", "messages": [{"role": "user", "content": "Call."}], "tools": tools, "tool_choice": choice,
                "temperature": [0, 1, 2][i % 3], "seed": i, "max_tokens": 200, "thinking": {"type": "disabled"},
                "parallel_tool_calls": i % 4 < 2}, timeout=300)["choices"][0]
            if got["finish_reason"] == "length":
                return
            assert got["finish_reason"] == "tool_calls", got
            calls = got["message"]["tool_calls"]
            assert calls and (i % 4 < 2 or len(calls) == 1) and not got["message"]["content"], got
            for c in calls:
                schema = next(t["function"]["parameters"] for t in tools if t["function"]["name"] == c["function"]["name"])
                assert i % 2 or c["function"]["name"] == "tool_b"
                assert valid(json.loads(c["function"]["arguments"]), schema, schema), (schema, c)
            finished.append(i)
        each_in_threads(n, one)
    print(f"        {len(finished)} of {n} answers finished")
    assert len(finished) > n * 0.4


def each_in_threads(n, one, threads=8):
    """one(i) for all i, some at a time."""
    in_threads(threads, lambda t: [one(i) for i in range(t, n, threads)])


def run_scripted(names):
    global server
    import tempfile
    with tempfile.TemporaryDirectory(prefix="fathom-test-") as work:
        with serving(work, "--ctx", "524288", script=SCRIPT) as server:
            return main(names)


if __name__ == "__main__":
    sys.exit(run_scripted(globals()))
