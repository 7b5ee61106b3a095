#!/usr/bin/env python3
"""The fixed line-by-line forms of tokens, render and parse, on all vectors of tests/data, with the
real tokenizer as .json.xz and the mini model's as GGUF."""
import lzma
import shutil

from program import *

TOKENIZER = data("tokenizer/tokenizer.json.xz")


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(x) for x in f if x.strip()]


def batch(entries, *args):
    """All entries through one process."""
    text = "".join(json.dumps(e) + "\n" for e in entries)
    out = [json.loads(x) for x in good(*args, "--jsonl", stdin=text).splitlines()]  # also splits at U+2028
    assert len(out) == len(entries), (args, len(out), len(entries))
    return out


def test_token_vectors():
    vectors = lines(data("tokenizer/vectors.jsonl"))
    trusted = batch([{"text": v["text"]} for v in vectors], "tokens", "-m", TOKENIZER)
    plain = batch([{"text": v["text"]} for v in vectors], "tokens", "--plain", "-m", TOKENIZER)
    for v, t, p in zip(vectors, trusted, plain):
        assert t["ids"] == v["ids"], v["id"]
        assert p["ids"] == v.get("plain_ids", v["ids"]), v["id"]


def test_mini_vectors():
    vectors = lines(data("mini-model/tokenizer-vectors.jsonl"))
    for v, t in zip(vectors, batch([{"text": v["text"]} for v in vectors], "tokens")):
        assert t["ids"] == v["ids"], v


def test_stream_vectors():
    vectors = lines(data("tokenizer/stream.jsonl"))
    out = batch([{"ids": v["ids"]} for v in vectors], "tokens", "--decode", "-m", TOKENIZER)
    for v, o in zip(vectors, out):
        assert o["deltas"] == v["deltas"] and o["flush"] == v["flush"], v["id"]


def test_sources_agree(work):
    """The same tokenizer as .xz, as plain JSON and (the mini one) as GGUF and JSON."""
    path = os.path.join(work, "tokenizer.json")
    with lzma.open(TOKENIZER) as f, open(path, "wb") as g:
        shutil.copyfileobj(f, g)
    assert good("tokens", "-m", path, "-p", "Grüße <think>") == good("tokens", "-m", TOKENIZER, "-p", "Grüße <think>")
    mini = os.path.join(MINI_DIR, "tokenizer.json")
    assert good("tokens", "-m", mini, "-p", "Grüße <think>") == good("tokens", "-p", "Grüße <think>")


def test_render_vectors():
    with open(data("chat-vectors/render.json"), encoding="utf-8") as f:
        entries = json.load(f)
    for release, suffix in (("preview", ""), ("0731", "_0731")):
        out = batch(entries, "render", "-m", TOKENIZER, "--release", release)
        for e, o in zip(entries, out):
            changed = suffix and (("prompt" + suffix) in e or ("error" + suffix) in e)
            error = e.get("error" + suffix) if changed else e.get("error")
            if error:
                assert "error" in o, (release, e["id"], o)
                continue
            assert o["prompt"] == (e["prompt" + suffix] if changed else e["prompt"]), (release, e["id"])
            ids = e["prompt_ids" + suffix] if changed else e["prompt_ids"]
            assert o["ids"] == ids, (release, e["id"])
            if "safe_ids" in e and not changed:
                assert o["safe_ids"] == e["safe_ids"], (release, e["id"])
            elif "safe_ids" not in e:
                assert o["safe_ids"] == ids, (release, e["id"])


def test_parse_vectors():
    """What the release accepts comes out exactly, what it refuses is an error; --lenient may accept
    what two other engines accept (docs/chat-format.md). A call that was cut off is never returned."""
    with open(data("chat-vectors/parse.json"), encoding="utf-8") as f:
        entries = json.load(f)
    for options in ((), ("--lenient",)):
        for e, o in zip(entries, batch(entries, "parse", *options)):
            if "expect" in e and not e.get("quirk"):
                want = [{"name": c["name"], "arguments": c["arguments"]}
                        for c in e["expect"]["tool_calls"]]
                assert o == {"reasoning_content": e["expect"]["reasoning_content"],
                             "content": e["expect"]["content"], "tool_calls": want}, (e["id"], o)
            elif e.get("quirk"):
                assert "error" in o, (e["id"], o)
            elif not options:
                assert "error" in o, (e["id"], o)


def test_single_forms(work):
    entry = {"messages": [{"role": "user", "content": "Hello"}], "options": {"thinking_mode": "chat"}}
    text = json.dumps(entry)
    prompt = "<｜begin▁of▁sentence｜><｜User｜>Hello<｜Assistant｜></think>"
    assert good("render", stdin=text) == prompt + "\n"
    assert json.loads(good("render", "--json", stdin=text))["prompt"] == prompt
    assert json.loads(good("parse", stdin=json.dumps({"completion": "Hi<｜end▁of▁sentence｜>",
                                                      "thinking_mode": "chat"})))["content"] == "Hi"
    bad(3, "", "render", stdin="{")
    bad(3, "", "render", stdin=json.dumps({"messages": [{"role": "nobody", "content": ""}]}))
    bad(3, "", "parse", stdin=json.dumps({"completion": "no end of thinking", "thinking_mode": "thinking"}))


def test_bad_lines():
    bad(3, "line 1", "tokens", "--jsonl", stdin="{nonsense\n")
    bad(3, "\"text\"", "tokens", "--jsonl", stdin='{"ids":[1]}\n')
    bad(3, "\"ids\"", "tokens", "--decode", "--jsonl", stdin='{"ids":[-1]}\n')
    for command in ("render", "parse"):
        out = good(command, "--jsonl", stdin='{nonsense\n{"also":"wrong"}\n')
        assert [list(json.loads(x)) for x in out.splitlines()] == [["error"], ["error"]]


def test_line_by_line():
    """Each answer arrives before the next question is sent."""
    p = subprocess.Popen([PROGRAM, "tokens", "--jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, env=environment())
    for text in ("one", "two\nlines", "\u0000", "ünï"):
        p.stdin.write((json.dumps({"text": text}) + "\n").encode())
        p.stdin.flush()
        assert json.loads(p.stdout.readline())["ids"]
    p.stdin.close()
    assert p.wait() == 0


if __name__ == "__main__":
    sys.exit(main(globals()))
