#!/usr/bin/env python3
"""`fathom imatrix` against the numpy reference: for random tiny checkpoints, every sum of squares and every
count of the file is compared with what reference.py's own forward pass feeds to each matrix. Then what the
command promises: the same bytes for any chunk and number of threads, prompts counted once even if they share
a beginning, merging adds up, limits, what is refused, and that nothing stands under the final name then.

    test_imatrix.py [--program PATH] [--seeds A-B]

Exit status 77 ("skipped") without numpy.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import reference
from reference import np

HERE = os.path.dirname(os.path.abspath(__file__))
TEXTS = ["The cat sat on the mat, and the dog read 37 books about it.", "The cat sat on the mat alone.",
         "int main(void) { return 0; }"]
# official name of a matrix inside a layer -> GGUF name
LAYER = {"attn.wq_a.weight": "attn_q_a", "attn.wq_b.weight": "attn_q_b", "attn.wkv.weight": "attn_kv",
         "attn.wo_a.weight": "attn_output_a", "attn.wo_b.weight": "attn_output_b",
         "attn.compressor.wkv.weight": "attn_compressor_kv", "attn.compressor.wgate.weight": "attn_compressor_gate",
         "attn.indexer.wq_b.weight": "indexer.attn_q_b", "attn.indexer.weights_proj.weight": "indexer.proj",
         "attn.indexer.compressor.wkv.weight": "indexer_compressor_kv",
         "attn.indexer.compressor.wgate.weight": "indexer_compressor_gate",
         "hc_attn_fn": "hc_attn_fn", "hc_ffn_fn": "hc_ffn_fn", "ffn.gate.weight": "ffn_gate_inp",
         "ffn.shared_experts.w1.weight": "ffn_gate_shexp", "ffn.shared_experts.w3.weight": "ffn_up_shexp",
         "ffn.shared_experts.w2.weight": "ffn_down_shexp"}
GLOBAL = {"head.weight": "output", "hc_head_fn": "output_hc_fn"}
EXPERT = {"w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps"}


def place(name):
    """Official name to (entry of the file, matrix in it)."""
    if name in GLOBAL:
        return GLOBAL[name] + ".weight", 0
    _, layer, rest = name.split(".", 2)
    if ".experts." in rest:
        _, _, expert, which, _ = rest.split(".")
        return f"blk.{layer}.{EXPERT[which]}.weight", int(expert)
    return (f"blk.{layer}.{LAYER[rest]}.weight", 0) if rest in LAYER else None


class Recorder(np.ndarray):
    """A matrix that notes the squares of the vectors it is multiplied with."""
    note = None

    def __matmul__(self, x):
        if self.note:
            self.note(np.asarray(x))
        return np.asarray(self) @ x


class Watched(reference.Model):
    """The reference model, with the inputs of its matrices added up in self.sums."""

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.sums, self.counts = {}, {}

    def add(self, name, x):
        at = place(name)
        if at and x.ndim == 1:
            self.sums[at] = self.sums.get(at, 0) + x * x
            self.counts[at] = self.counts.get(at, 0) + 1

    def w(self, name):
        a = super().w(name)
        if a.ndim == 2 and a.dtype.kind == "f" and "embed" not in name:
            a = a.view(Recorder)
            a.note = lambda x: self.add(name, x)
        return a

    def attention(self, st, ratio, prefix, x, pos):
        if ratio == 4:  # the reference skips the indexer while all rows fit, the engine does not
            qr = reference.rmsnorm(np.asarray(super().w(prefix + "wq_a.weight")) @ x, self.c.e,
                                   super().w(prefix + "q_norm.weight"))
            self.add(prefix + "indexer.wq_b.weight", qr)
            self.add(prefix + "indexer.weights_proj.weight", x)
        return super().attention(st, ratio, prefix, x, pos)

    def select(self, st, prefix, x, qr, pos, freqs):
        keep, self.add = self.add, lambda name, v: None  # noted above
        rows = super().select(st, prefix, x, qr, pos, freqs)
        self.add = keep
        return rows


def watch_groups():
    """wo_a is applied with einsum, one group at a time: notes each group's input."""
    plain = np.einsum

    def einsum(form, a, o):
        for part in o if getattr(a, "base", None) is not None else ():
            owner = a
            while not getattr(owner, "note", None) and getattr(owner, "base", None) is not None:
                owner = owner.base
            if getattr(owner, "note", None):
                owner.note(np.asarray(part))
        return plain(form, np.asarray(a), o)

    np.einsum = einsum


def run(*command, code=0, stdin=b""):
    r = subprocess.run(list(map(str, command)), input=stdin, capture_output=True, check=False)
    assert r.returncode == code, f"{command}: exit {r.returncode}\n{r.stderr.decode()}"
    return r.stdout if code == 0 else r.stderr.decode()


def load(program, path):
    """{entry: (sums [n_mat, n_cols], counts [n_mat])} of an importance matrix."""
    blob = open(path, "rb").read()
    arrays = {}
    for t in json.loads(run(program, "inspect", "--json", path))["tensors"]:
        a = np.frombuffer(blob, "<f4", t["bytes"] // 4, t["offset"]).astype(np.float64)
        arrays[t["name"]] = a.reshape(t["ne"][::-1])
    return {n[:-8]: (a, arrays[n[:-8] + ".counts"].reshape(-1)) for n, a in arrays.items() if n.endswith(".in_sum2")}


def close(got, want):
    return np.abs(got - want).max() <= 2e-4 * np.abs(want).max() + 1e-30


def compare(file, model):
    entries = {name for name, _ in model.sums}
    assert set(file) == entries, set(file) ^ entries
    chosen = 0
    for name, (sums, counts) in file.items():
        for m in range(len(counts)):
            n = model.counts.get((name, m), 0)
            assert counts[m] == n, (name, m, counts[m], n)
            assert close(sums[m], model.sums.get((name, m), np.zeros(sums.shape[1]))), (name, m)
            chosen += "_exps" in name and n > 0
    return chosen


def corpus(path, lines):
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(json.dumps(v) for v in lines) + "\n")
    return path


def case(program, seed, work):
    """One random checkpoint: the file's numbers, chunks, threads, backends, merging."""
    checkpoint, model = os.path.join(work, "ckpt"), os.path.join(work, "model.gguf")
    run(sys.executable, os.path.join(HERE, "gen_checkpoint.py"), checkpoint, "--seed", seed, "--storage", "f32",
        "--tokenizer")
    run(program, "convert", checkpoint, "-o", model, "--recipe", "f32")
    common = [program, "imatrix", "-m", model, "--sim", "off", "--act", "f32"]
    texts = corpus(os.path.join(work, "texts.jsonl"), [{"text": t} for t in TEXTS])
    out = os.path.join(work, "a.gguf")
    run(*common, "-f", texts, "-o", out, "--chunk", 64)

    cfg, _ = reference.load_model(checkpoint, "off", np.float64)
    get = reference.Checkpoint(checkpoint).get
    total = None
    for text in TEXTS:
        ids = json.loads(run(program, "tokens", "-m", model, "--plain", "--jsonl",
                             stdin=json.dumps({"text": text}).encode()))["ids"]
        m = Watched(cfg, get, "off", np.float64)
        if total:
            m.sums, m.counts = total.sums, total.counts
        for t in [0] + ids:
            m.step(t)
        total = m
    chosen = compare(load(program, out), total)

    first = open(out, "rb").read()
    for extra in (["--chunk", 1, "--threads", 1], ["--chunk", 7, "--threads", 2]):
        run(*common, "-f", texts, "-o", out, *extra)
        assert open(out, "rb").read() == first, extra
    ref = os.path.join(work, "ref.gguf")
    run(*common, "-f", texts, "-o", ref, "--backend", "ref")
    for name, (sums, counts) in load(program, ref).items():
        assert close(sums, load(program, out)[name][0]) and (counts == load(program, out)[name][1]).all(), name

    one, two, both = (os.path.join(work, n) for n in ("one.gguf", "two.gguf", "both.gguf"))
    run(*common, "-f", texts, "-o", one, "--limit-prompts", 1)
    run(*common, "-f", texts, "-o", two, "--skip-prompts", 1)
    run(program, "imatrix", "--merge", one, two, "-o", both)
    want, got = load(program, out), load(program, both)
    assert set(want) == set(got)
    for name in want:
        assert (want[name][1] == got[name][1]).all() and close(got[name][0], want[name][0]), name
    limited = os.path.join(work, "limited.gguf")
    run(*common, "-f", texts, "-o", limited, "--limit-tokens", 2)  # ends behind the first prompt
    assert open(limited, "rb").read() == open(one, "rb").read()
    print(f"ok   seed {seed}: {len(want)} entries, {chosen} expert vectors", flush=True)
    return model


def forms(program, model, work):
    """The forms of a corpus agree where they must."""
    common = [program, "imatrix", "-m", model]
    folder = {n: os.path.join(work, n) for n in "mp"}
    for d in folder.values():
        os.mkdir(d)
    entry = {"messages": [{"role": "user", "content": "Say <\uff5cUser\uff5c> twice."},
                          {"role": "assistant", "content": "No.", "reasoning_content": "hm"}],
             "options": {"thinking_mode": "thinking"}}
    prompt = json.loads(run(program, "render", "-m", model, "--jsonl", stdin=json.dumps(
        {"messages": [{"role": "user", "content": "Hello"}], "options": {"thinking_mode": "chat"}}).encode()))
    outs = [os.path.join(work, f"{n}.gguf") for n in ("m1", "p1", "m2")]
    run(*common, "-f", corpus(folder["m"] + "/c.jsonl", [{"messages": [{"role": "user", "content": "Hello"}],
                                                         "options": {"thinking_mode": "chat"}}]), "-o", outs[0])
    run(*common, "-f", corpus(folder["p"] + "/c.jsonl", [{"prompt": prompt["prompt"]}]), "-o", outs[1])
    run(*common, "-f", corpus(folder["m"] + "/c.jsonl", [entry, {"messages": entry["messages"]}]), "-o", outs[2])
    assert open(outs[0], "rb").read() == open(outs[1], "rb").read()
    n = load(program, outs[2])["output.weight"][1][0]
    ids = json.loads(run(program, "render", "-m", model, "--jsonl", stdin=json.dumps(entry).encode()))["safe_ids"]
    assert len(ids) < n <= 2 * len(ids), (n, len(ids))
    # plain text: pieces of a window, each with its own BOS
    text = os.path.join(work, "plain.txt")
    with open(text, "w", encoding="utf-8") as f:
        f.write(" ".join(TEXTS))
    n_ids = len(json.loads(run(program, "tokens", "-m", model, "--plain", "--jsonl",
                               stdin=json.dumps({"text": " ".join(TEXTS)}).encode()))["ids"])
    run(*common, "-f", text, "-o", outs[0], "--window", 9)
    pieces = -(-n_ids // 8)
    assert load(program, outs[0])["output.weight"][1][0] == n_ids + pieces
    run(*common, "-f", text, "-o", outs[0], "--raw", "--window", 8)
    assert load(program, outs[0])["output.weight"][1][0] == n_ids
    print("ok   forms of a corpus", flush=True)


def refusals(program, model, work):
    out, common = os.path.join(work, "never.gguf"), [program, "imatrix", "-m", model, "-o"]
    good = os.path.join(work, "good.gguf")
    texts = corpus(os.path.join(work, "r.jsonl"), [{"text": "a b c"}])
    run(*common, good, "-f", texts)
    for i, line in enumerate(['{"text": 1}', "{", '{"text":"a","prompt":"b"}', '{"messages":[{"role":"x"}]}',
                              '{"messages":[],"options":{"thinking_mode":"x"}}']):
        path = os.path.join(work, f"bad{i}.jsonl")
        with open(path, "w", encoding="utf-8") as f:
            f.write('{"text":"fine"}\n\n' + line + "\n")
        assert "line 3" in run(*common, out, "-f", path, code=3), line
    empty = os.path.join(work, "empty.txt")
    open(empty, "w").close()
    assert "no text" in run(*common, out, "-f", empty, code=3)
    assert "no such file" in run(*common, out, "-f", "/nonexistent", code=3).lower()
    assert "no prompts are left" in run(*common, out, "-f", texts, "--skip-prompts", 5, code=2)
    assert "-f CORPUS" in run(*common, out, code=2)
    assert "-o FILE" in run(program, "imatrix", "-m", model, "-f", texts, code=2)
    merge = [program, "imatrix", "-o", out, "--merge"]
    assert "no importance matrix" in run(*merge, model, code=3)
    assert "neither a GGUF" in run(*merge, texts, code=3)
    blob = open(good, "rb").read()
    sums = next(t for t in json.loads(run(program, "inspect", "--json", good))["tensors"])
    for name, patch in (("nan", b"\x00\x00\xc0\x7f"), ("negative", b"\x00\x00\x80\xbf")):
        path = os.path.join(work, name + ".gguf")
        with open(path, "wb") as f:
            f.write(blob[: sums["offset"]] + patch + blob[sums["offset"] + 4:])
        assert "not negative" in run(*merge, good, path, code=3)
    with open(os.path.join(work, "cut.gguf"), "wb") as f:
        f.write(blob[:-4096])
    run(*merge, good, os.path.join(work, "cut.gguf"), code=3)
    # convert refuses the same files
    convert = [program, "convert", os.path.join(work, "ckpt"), "-o", out, "--recipe", "f32", "--imatrix"]
    for name, needle in (("nan.gguf", "not negative"), ("negative.gguf", "not negative"), ("cut.gguf", "cut.gguf"),
                         ("model.gguf", "no importance matrix"), ("r.jsonl", "neither a GGUF"), ("none", "no such file")):
        assert needle.lower() in run(*convert, os.path.join(work, name), code=3).lower(), name
    run(*convert, good)
    os.remove(out)
    legacy = os.path.join(work, "legacy.dat")
    with open(legacy, "wb") as f:
        f.write(np.array([1, 1], "<i4").tobytes() + b"a" + np.array([1, 1], "<i4").tobytes() + np.ones(1, "<f4").tobytes())
    assert "without counts" in run(*merge, legacy, code=1)
    assert not [n for n in os.listdir(work) if n.startswith("never")]
    print("ok   refusals", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--program", default=os.environ.get("FATHOM_PROGRAM"))
    ap.add_argument("--seeds", default="3-4", metavar="A-B")
    args = ap.parse_args()
    if not args.program:
        ap.error("--program or $FATHOM_PROGRAM")
    watch_groups()
    first, _, last = args.seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        with tempfile.TemporaryDirectory(prefix="fathom-imatrix-") as work:
            model = case(args.program, seed, work)
            if seed == int(first):
                forms(args.program, model, work)
                refusals(args.program, model, work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
