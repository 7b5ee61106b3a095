#!/usr/bin/env python3
"""`eval`: every figure of its report recomputed here from `fathom logits`; two ways to compare with a
reference that must agree to the last bit; the same output for any chunk and thread count; official
answers and tasks; refusals. Where no model is named: the embedded one."""
import csv
import math
import xml.etree.ElementTree

from program import *

TASKS = data("mini-model/eval/tasks.jsonl")
OFFICIAL = data("official-logprobs/official.jsonl")
LONG = os.environ.get("TASK_STEP") == "1"  # the long run


def write(work, name, text):
    path = os.path.join(work, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def short_cases(work, n=5):
    with open(TASKS, encoding="utf-8") as f:
        lines = sorted((json.loads(x) for x in f), key=lambda t: len(t["prompt_ids"]))[:n]
    return write(work, "cases.jsonl", "".join(json.dumps(t) + "\n" for t in lines)), lines


def report(*args):
    return json.loads(good("eval", "--json", *args))


def logits(ids, *args):
    out = good("logits", "--ids", ",".join(map(str, ids)), "--all", "--json", *args)
    return [p["logits"] for p in json.loads(out)["positions"]]


def logprobs(row):
    top = max(row)
    lse = top + math.log(math.fsum(math.exp(v - top) for v in row))
    return [v - lse for v in row]


def close(a, b, tolerance=1e-6):
    assert abs(a - b) <= tolerance * max(1, abs(b)), (a, b)


def test_text(work):
    """Windows of 24 with 6 repeated: each token is predicted once, from what its window holds."""
    path = write(work, "text.txt", "The cat saw a dog. Rosa has number 728. It was a new day. " * 4)
    ids = json.loads(good("tokens", "-f", path, "--json"))["ids"]
    s = report("-f", path, "--window", 24, "--overlap", 6)["scored"]
    nll, hits, at, n_window = [], 0, 0, 0
    while at < len(ids):
        context = min(6, at)
        window = [0] + ids[at - context:at - context + 23]
        rows = logits(window)
        for k in range(context + 1, len(window)):
            nll.append(-logprobs(rows[k - 1])[window[k]])
            hits += rows[k - 1].index(max(rows[k - 1])) == window[k]
        at += len(window) - 1 - context
        n_window += 1
    assert (s["tokens"], s["sequences"], s["window"], s["overlap"]) == (len(ids), n_window, 24, 6)
    mean = math.fsum(nll) / len(nll)
    close(s["nll"]["mean"], mean)
    close(s["perplexity"], math.exp(mean))
    close(s["accuracy"]["mean"], hits / len(ids))
    close(s["nll_per_byte"], math.fsum(nll) / os.path.getsize(path))
    assert s["nll"]["lo"] <= mean <= s["nll"]["hi"] and s["bytes"] == os.path.getsize(path)
    assert "perplexity" in good("eval", "-f", path, "--window", 24)


def test_cases_against(work):
    """Embedded 2-bit file against bf16: likelihood, divergence, first token, common prefix, rows."""
    cases, lines = short_cases(work)
    exact = converted(MINI_DIR, os.path.join(work, "exact.gguf"), "bf16")
    csv_path = os.path.join(work, "rows.csv")
    s = report("--cases", cases, "--against", exact, "--rows", csv_path)["scored"]
    nll, kl, same, first, prefix, rows_of = [], [], 0, 0, 0, []
    for t in lines:
        ids, start, going = t["prompt_ids"] + t["sample"], len(t["prompt_ids"]), True
        a, b = logits(ids), logits(ids, "-m", exact)
        for k in range(start, len(ids)):
            x, y = logprobs(a[k - 1]), logprobs(b[k - 1])
            hit = x.index(max(x)) == ids[k]
            going = going and hit
            first += hit and k == start
            prefix += going
            nll.append(-x[ids[k]])
            kl.append(math.fsum(math.exp(q) * (q - p) for p, q in zip(x, y)))
            same += x.index(max(x)) == y.index(max(y))
            rows_of.append(ids[k])
    n, ref = len(nll), s["reference"]
    assert s["tokens"] == n and s["sequences"] == len(lines)
    close(s["nll"]["mean"], math.fsum(nll) / n)
    close(ref["kl"]["mean"], math.fsum(kl) / n, 1e-8)
    close(ref["kl_max"], max(kl), 1e-7)
    close(ref["same_best"]["mean"], same / n)
    close(s["first_token"]["mean"], first / len(lines))
    close(s["common_prefix"]["mean"], prefix / len(lines))
    close(ref["nll_difference"]["mean"], s["nll"]["mean"] - ref["nll"]["mean"])
    with open(csv_path, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [int(r["id"]) for r in rows] == rows_of
    close(math.fsum(float(r["kl"]) for r in rows) / n, ref["kl"]["mean"], 1e-9)
    close(sum(int(r["agree"]) for r in rows) / n, same / n)


def test_reference_file(work):
    """Through a file: with all logits the same bits as with both models open; short rows: a lower bound."""
    cases, _ = short_cases(work)
    exact = converted(MINI_DIR, os.path.join(work, "exact.gguf"), "bf16")
    direct = report("--cases", cases, "--against", exact)["scored"]["reference"]
    full, short = os.path.join(work, "full.bin"), os.path.join(work, "short.bin")
    good("eval", "-m", exact, "--cases", cases, "--save-reference", full)
    good("eval", "-m", exact, "--cases", cases, "--save-reference", short, "--keep", 8)
    assert os.path.getsize(short) < os.path.getsize(full) / 50
    r = report("--cases", cases, "--reference", full)["scored"]["reference"]
    assert {k: v for k, v in r.items() if k != "model"} == {k: v for k, v in direct.items() if k != "model"}
    s = report("--cases", cases, "--reference", short)["scored"]["reference"]
    assert s["kept"] == 8 and 0 < s["rest_mass"] < 0.2 and s["kl"]["mean"] <= r["kl"]["mean"]
    assert s["same_best"] == r["same_best"] and s["nll"] == r["nll"]
    assert "lower bound" in good("eval", "--cases", cases, "--reference", short)
    own = report("-m", exact, "--cases", cases, "--reference", full)["scored"]["reference"]
    assert own["kl"]["mean"] == 0 and own["same_best"]["mean"] == 1 and own["nll_difference"]["mean"] == 0
    # another set, damage, another vocabulary
    bad(2, "other tokens", "eval", "--cases", cases, "--all", "--reference", full)
    bad(2, "other tokens", "eval", "--cases", cases, "--limit", 9, "--reference", full)
    with open(full, "rb") as f:
        blob = f.read()
    for name, content in (("cut", blob[:-5]), ("head", blob[:30]), ("text", b"hello"), ("empty", b"")):
        path = os.path.join(work, name)
        with open(path, "wb") as f:
            f.write(content)
        bad(3, name, "eval", "--cases", cases, "--reference", path)
    before = os.listdir(work)
    bad(3, "none", "eval", "--cases", os.path.join(work, "none"), "--save-reference", os.path.join(work, "new.bin"))
    assert os.listdir(work) == before


def test_deterministic(work):
    cases, _ = short_cases(work, 3)
    args = ["--cases", cases, "--all", "--floor", "act"]
    first = report(*args, "--threads", 1, "--chunk", 7)
    assert first["scored"]["floor"][0]["kl"]["mean"] > 0 and first["scored"]["floor"][0]["arithmetic"] == "activations f32"
    assert report(*args, "--threads", 2) == first
    other = report(*args, "--seed", 5)["scored"]
    assert other["nll"]["mean"] == first["scored"]["nll"]["mean"] and other["bootstrap"]["seed"] == 5


def test_floor_ref(work):
    """The same weights on the oracle backend: close, and named in the report."""
    cases, _ = short_cases(work, 1)
    f = report("--cases", cases, "--floor", "ref")["scored"]["floor"]
    assert [x["arithmetic"] for x in f] == ["backend ref"] and f[0]["kl"]["mean"] < 1e-3
    assert "noise floor" in good("eval", "--cases", cases, "--floor", "act")


def test_official(work):
    """The vendor's answers on the mini model: the form is read, what cannot be compared is counted."""
    path = OFFICIAL
    with open(path, encoding="utf-8") as f:
        lines = sorted(map(json.loads, f), key=lambda c: len(c["prompt"]))[:3]
    r = report("--official", write(work, "official.jsonl", "".join(json.dumps(c) + "\n" for c in lines)))["official"]
    assert r["cases"] == 3 and r["steps"] == sum(len(c["steps"]) for c in lines) and r["compared"] <= r["steps"]
    assert [c["api_prompt_tokens"] for c in r["list"]] == [c["prompt_tokens"] for c in lines]
    # answers that the model itself gives agree in every token, and the prompt's length is found to be right
    prompt = "What is 3 * 6?"
    text = good("run", "-p", prompt, "--temp", "0", "--think", "off", "-n", "6")
    ids = json.loads(good("tokens", "-p", text, "--plain", "--json"))["ids"][:5]
    steps = []
    for i in ids:
        out = json.loads(good("tokens", "--decode", "--jsonl", stdin=json.dumps({"ids": [i]}) + "\n"))
        steps.append({"token": ("".join(out["deltas"]) + out["flush"]).encode().hex()})
    rendered = json.loads(good("render", "--jsonl", stdin=json.dumps({"messages": [{"role": "user", "content": prompt}],
                               "options": {"thinking_mode": "chat"}}) + "\n"))
    case = {"id": "own", "prompt": prompt, "prompt_tokens": len(rendered["safe_ids"]), "steps": steps}
    r = report("--official", write(work, "own.jsonl", json.dumps(case)))["official"]
    assert r["same"] == r["compared"] == len(ids) and r["first_same"] == 1 and r["prompt_lengths_same"] == 1
    case["steps"][1] = {"token": "61"}
    wrong = report("--official", write(work, "own.jsonl", json.dumps(case)))["official"]["list"][0]
    assert wrong["prefix"] == 1 and wrong["same"] < len(ids)


def test_tasks(work):
    """Exact means exact: the model's own answer is right, one more character is not."""
    text = good("run", "-p", "What is 3 * 6?", "--temp", "0", "--think", "off")
    end = "<｜end▁of▁sentence｜>"
    lines = [{"id": "a", "task": "x", "prompt": "What is 3 * 6?", "expected": ["nonsense", text + end]},
             {"id": "b", "task": "x", "prompt": "What is 3 * 6?", "expected": [text + "!" + end]},
             {"id": "c", "task": "y", "prompt": "What is 3 * 6?", "expected": [text]},
             {"id": "d", "task": "y", "prompt": "What is 3 * 6?"}]
    path = write(work, "tasks.jsonl", "".join(json.dumps(x) + "\n" for x in lines))
    t = report("--tasks", path)["tasks"]
    assert (t["n"], t["exact"], t["skipped"]) == (3, 2, 1) and [f["id"] for f in t["failed"]] == ["b"]
    assert t["groups"] == [{"task": "x", "n": 2, "exact": 1}, {"task": "y", "n": 1, "exact": 1}]


def test_plot(work):
    cases, _ = short_cases(work, 2)
    exact = converted(MINI_DIR, os.path.join(work, "exact.gguf"), "bf16")
    text = good("eval", "--json", "--cases", cases, "--against", exact, "--floor", "act")
    path = write(work, "q2 & more.json", text)
    svg = os.path.join(work, "out.svg")
    python(os.path.join(ROOT, "tools", "plot_eval.py"), path, path, "-o", svg)
    tree = xml.etree.ElementTree.parse(svg)
    assert len(tree.findall(".//{http://www.w3.org/2000/svg}circle")) == 4


def test_refusals(work):
    cases, _ = short_cases(work, 1)
    for args, needle in ((["eval"], "nothing to measure"),
                         (["eval", "-f", cases, "--cases", cases], "either -f or --cases"),
                         (["eval", "--tasks", TASKS, "--against", cases], "need -f or --cases"),
                         (["eval", "--cases", cases, "--against", "a", "--reference", "b"], "either --against"),
                         (["eval", "--cases", cases, "--window", "9"], "are for -f"),
                         (["eval", "--cases", cases, "--keep", "9"], "--save-reference"),
                         (["eval", "-f", cases, "--window", "8", "--overlap", "7"], "nothing new")):
        bad(2, needle, *args)
    for text, needle in (("", "no case"), ("{", "line 1"), ('{"prompt_ids":[0],"sample":[9999]}', "sample[0]")):
        bad(3, needle, "eval", "--cases", write(work, "bad.jsonl", text))
    bad(3, "no-such", "eval", "--cases", os.path.join(work, "no-such"))
    bad(3, "no-such", "eval", "-m", os.path.join(work, "no-such.gguf"), "--cases", cases)
    bad(3, "no-such", "eval", "--cases", cases, "--against", os.path.join(work, "no-such.gguf"))
    bad(1, "context holds 16", "eval", "--cases", write(work, "long.jsonl", json.dumps(
        {"prompt_ids": [0] * 30, "sample": [1]})), "--ctx", 16)


def test_calibration_repeats(work):
    """The committed importance matrix is what its corpus gives (long run only: 50,000 tokens)."""
    if not LONG:
        return
    exact = converted(MINI_DIR, os.path.join(work, "exact.gguf"), "bf16")
    out = os.path.join(work, "imatrix.gguf")
    good("imatrix", "-m", exact, "-f", os.path.join(MINI_DIR, "calibration.jsonl"), "-o", out, timeout=900)
    with open(out, "rb") as a, open(os.path.join(MINI_DIR, "imatrix.gguf"), "rb") as b:
        assert a.read() == b.read()


if __name__ == "__main__":
    sys.exit(main(globals()))
