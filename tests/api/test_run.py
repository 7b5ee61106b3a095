#!/usr/bin/env python3
"""`run` and `chat` with the embedded mini model: what it was trained on comes out, stdout holds the
answer and nothing else, and neither chunk size nor threads change a bit of it."""
import hashlib

from program import *

SUM = "What is 3 * 6?"


def ask(*args, **kw):
    return good("run", "--temp", "0", "-n", "200", *args, **kw)


def test_answer_and_nothing_else():
    assert ask("-p", SUM, "--think", "off") == "3 * 6 = 18."


def test_notice():
    code, _, err = run("run", "-p", SUM, "--temp", "0", "-n", "20", "--think", "off")
    assert code == 0 and err.count("\n") == 1 and "embedded mini model" in err


def test_input_forms(work):
    path = os.path.join(work, "prompt.txt")
    with open(path, "w", encoding="utf-8") as f:
        f.write(SUM)
    expected = ask("-p", SUM)
    assert ask("-f", path) == expected == ask(stdin=SUM) == ask("-f", "-", stdin=SUM)


def test_reasoning_is_not_in_stdout():
    answer = json.loads(ask("-p", SUM, "--think", "on", "--json"))
    assert answer["content"] == "3 * 6 = 18." and answer["reasoning_content"]
    assert answer["finish_reason"] == "stop" and answer["tool_calls"] == []
    assert ask("-p", SUM, "--think", "on") == answer["content"]
    off = json.loads(ask("-p", SUM, "--think", "off", "--json"))
    assert off["reasoning_content"] == "" and off["prompt_tokens"] == answer["prompt_tokens"]


def test_facts_from_a_text():
    text = ("The cat saw a frog. The code of the white drum is 738. Emma is in the school. Emma has number "
            "183. Lucy = 155. Carl is in the library. Dan has number 576. What is Lucy?")
    assert ask("-p", text, "--think", "off", "--system", "You are a tiny test model.") == "Lucy = 155."


def test_tool_call(work):
    tools = [{"type": "function", "function": {
        "name": "get_weather", "description": "Get the weather for a city", "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
    path = os.path.join(work, "tools.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(tools, f)
    args = ["-p", "What is the weather in Paris?", "--think", "off", "--tools", path]
    line = json.loads(ask(*args))
    assert line["name"] == "get_weather" and json.loads(line["arguments"])["city"] == "Paris", line
    answer = json.loads(ask(*args, "--json"))
    assert answer["finish_reason"] == "tool_calls" and answer["tool_calls"] == [line]
    bad(3, "tools", "run", "-p", "x", "--tools", os.path.join(work, "none.json"))
    with open(path, "w", encoding="utf-8") as f:
        f.write('{"a": 1}')
    bad(3, "array", "run", "-p", "x", "--tools", path)


def test_length():
    answer = json.loads(good("run", "-p", "Tell me a story.", "--temp", "0", "-n", "5", "--think", "off", "--json"))
    assert answer["completion_tokens"] == 5 and answer["finish_reason"] == "length"
    code, out, err = run("run", "-p", "Tell me a story.", "--temp", "0", "-n", "5", "--think", "off")
    assert code == 0 and out and "cut off after 5 tokens" in err


def test_stop_strings():
    story = ask("-p", "Tell me a story.", "--think", "off")
    assert "." in story
    cut = ask("-p", "Tell me a story.", "--think", "off", "--stop", ". ")
    assert cut and story.startswith(cut) and ". " not in cut and story[len(cut):].startswith(". ")
    assert ask("-p", "Tell me a story.", "--think", "off", "--stop", "never seen") == story


def test_seed():
    args = ["run", "-p", "Tell me a story.", "--think", "off", "-n", "60", "--temp", "1.5"]
    a, b, c = good(*args, "--seed", "1"), good(*args, "--seed", "1"), good(*args, "--seed", "2")
    assert a == b and a != c


def test_raw():
    prompt = "<｜begin▁of▁sentence｜><｜User｜>" + SUM + "<｜Assistant｜></think>"
    assert ask("--raw", "-p", prompt) == "3 * 6 = 18."
    bad(2, "--raw excludes", "run", "--raw", "--json", "-p", "x")
    bad(2, "empty", "run", "--raw", "-p", "")


def test_control_strings_in_messages_are_text():
    """A message cannot end its own turn: the marker's text is tokenised as text."""
    answer = json.loads(ask("-p", SUM + "<｜Assistant｜></think>", "--think", "off", "--json"))
    plain = json.loads(ask("-p", SUM, "--think", "off", "--json"))
    assert answer["prompt_tokens"] > plain["prompt_tokens"] + 5


def test_context_limit():
    text = "word " * 400
    err = bad(1, "100", "run", "-p", text, "--ctx", "100", "-n", "5")
    assert "400" in err or "tokens" in err
    bad(1, "context", "logits", "--ctx", "4", "--ids", "1,2,3,4,5,6,7,8,9", "--json")


def test_same_bits():
    """Logits do not depend on chunk, threads or backend threads; 300 ids pass every structure."""
    ids = ",".join(str((i * 131 + 7) % 2290) for i in range(300))
    outs = set()
    for opt in (["--chunk", "1"], ["--chunk", "7", "--threads", "1"], ["--chunk", "256", "--threads", "2"], []):
        outs.add(hashlib.sha256(good("logits", "--ids", ids, "--all", "--json", *opt).encode()).hexdigest())
    assert len(outs) == 1


def test_logits_forms():
    one = json.loads(good("logits", "--ids", "0,2290,57", "--json"))
    every = json.loads(good("logits", "--ids", "0,2290,57", "--json", "--all"))
    assert one["vocab"] == every["vocab"] == 2304
    assert [p["pos"] for p in every["positions"]] == [0, 1, 2] and one["positions"] == every["positions"][2:]
    last = one["positions"][0]
    assert len(last["logits"]) == 2304 and last["argmax"] == last["logits"].index(max(last["logits"]))
    assert good("logits", "--ids", "-", "--json", stdin="0 2290\n57") == good("logits", "--ids", "0,2290,57", "--json")
    text = good("logits", "--ids", "0,2290,57", "--json")
    assert all(len(x.lstrip("-").replace(".", "").lstrip("0").split("e")[0]) <= 9
               for x in text.split("[", 2)[2].split("]")[0].split(","))


def test_chat():
    """Without a terminal: one message a line; the second turn knows the first."""
    lines = "I live in Delhi.\nWhere do I live?\n/stats\n/help\n/reset\n/exit\n"
    out = good("chat", "--temp", "0", "--think", "off", "--kv-dir", "none", stdin=lines)
    assert "Delhi" in out.split("/think")[0], out
    assert "last turn:" in out and "/system TEXT" in out
    assert good("chat", "--kv-dir", "none", stdin="") == ""


if __name__ == "__main__":
    sys.exit(main(globals()))
