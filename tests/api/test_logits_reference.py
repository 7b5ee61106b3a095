#!/usr/bin/env python3
"""The program's logits against an independent numpy implementation (tests/golden/reference.py), on
generated tiny checkpoints with official tensor names: F32, BF16 and FP8/FP4 storage, several seeds,
converted by the program. And the trained mini model against its stored reference logits.

Tolerances. --act f32 --sim off, lossless recipe: the same real-number function, so 2e-4 of F32
rounding. Native rows: single roundings of FP8/FP4 may flip, so early positions within 2e-3 and the
rest within 0.3 (a flip moves logits of such random models by about 0.05). SEED draws other models."""
import random

from program import *

try:
    import numpy  # noqa: F401  the reference needs it
except ImportError:
    skip("numpy is not installed")

# storage, recipe whose conversion loses nothing, options of the generator
CASES = [("f32", "f32", []), ("bf16", "bf16", []), ("fp8fp4", "f32", []),
         ("f32", "f32", ["--pro"]), ("bf16", "f32", ["--golden"])]


def positions(text):
    return {p["pos"]: p["logits"] for p in json.loads(text)["positions"]}


def compare(have, want, tolerance):
    worst = 0.0
    for pos, row in want.items():
        assert len(row) == len(have[pos])
        for a, b in zip(have[pos], row):
            assert a is not None and b is not None
            worst = max(worst, abs(a - b))
    assert worst <= tolerance, f"largest difference {worst:.2e}, allowed {tolerance:.0e}"
    return worst


def one_case(work, index, seed):
    storage, recipe, options = CASES[index]
    directory = os.path.join(work, f"ck{index}")
    extra = options if "--golden" in options else [*options, "--seed", seed, "--storage", storage]
    python(GENERATOR, directory, *extra)
    path = converted(directory, os.path.join(work, f"ck{index}.gguf"), recipe)
    vocab = json.loads(good("logits", "-m", path, "--ids", "0", "--json"))["vocab"]
    rng = random.Random(seed)
    ids = ",".join(str(rng.randrange(vocab)) for _ in range(150))
    want = positions(python(REFERENCE, directory, "--ids", ids, "--sim", "off", "--all"))
    for opt in (["--chunk", "1"], ["--chunk", "32"], ["--backend", "ref"]):
        have = positions(good("logits", "-m", path, "--ids", ids, "--all", "--json", "--sim", "off",
                              "--act", "f32", *opt))
        worst = compare(have, want, 2e-4)
    want = positions(python(REFERENCE, directory, "--ids", ids, "--sim", "on", "--all"))
    have = positions(good("logits", "-m", path, "--ids", ids, "--all", "--json", "--act", "f32"))
    early = compare({p: have[p] for p in range(3)}, {p: want[p] for p in range(3)}, 2e-3)
    late = compare(have, want, 0.3)
    print(f"  {storage} -> {recipe} {' '.join(options)} seed {seed}: off {worst:.1e}, "
          f"native {early:.1e} early, {late:.1e} all")


def test_f32(work):
    one_case(work, 0, int(os.environ.get("SEED", 11)))


def test_bf16(work):
    one_case(work, 1, int(os.environ.get("SEED", 12)))


def test_fp8_fp4(work):
    one_case(work, 2, int(os.environ.get("SEED", 13)))


def test_pro_shape(work):
    one_case(work, 3, int(os.environ.get("SEED", 14)))


def test_golden(work):
    one_case(work, 4, 7)


def test_mxfp4_is_lossless(work):
    """FP4 experts go to MXFP4 without a rounding: the same logits as through F32."""
    directory = os.path.join(work, "fp4")
    python(GENERATOR, directory, "--seed", 21, "--storage", "fp8fp4")
    a = converted(directory, os.path.join(work, "a.gguf"), "f32")
    b = converted(directory, os.path.join(work, "b.gguf"), "f32", "--rule", "*_exps.weight=MXFP4")
    args = ["--ids", "1,2,3,4,5,6,7,8,9,10", "--all", "--json", "--act", "f32", "--sim", "off"]
    compare(positions(good("logits", "-m", a, *args)), positions(good("logits", "-m", b, *args)), 1e-4)
    kinds = {t["type"] for t in json.loads(good("inspect", "--json", b))["tensors"]}
    assert "MXFP4" in kinds


def test_mini_model_reference(work):
    """Greedy continuations and top-5 logits of 20 prompts, made by numpy from the stored weights. The
    program's native rows also round the RoPE part to bf16, which the stored "_sims" logits do not, so
    these agree less closely; the greedy ids must agree all the same."""
    path = converted(MINI_DIR, os.path.join(work, "mini-bf16.gguf"), "bf16")
    with open(data("mini-model/eval/reference.jsonl"), encoding="utf-8") as f:
        entries = [json.loads(line) for line in f]
    worst = {"": 0.0, "_sims": 0.0}
    for e in entries:
        for suffix, sim, tolerance in (("", "off", 1e-3), ("_sims", "on", 0.3)):
            greedy = e["greedy_ids" + suffix] if "greedy_ids" + suffix in e else e["greedy_ids"]
            ids = ",".join(map(str, e["prompt_ids"] + greedy[:-1]))
            rows = positions(good("logits", "-m", path, "--ids", ids, "--all", "--json", "--sim", sim,
                                  "--act", "f32"))
            first = len(e["prompt_ids"]) - 1
            for step, top in enumerate(e["top5" + suffix]):
                row = rows[first + step]
                for i, logit in top:
                    worst[suffix] = max(worst[suffix], abs(row[i] - logit))
                assert row.index(max(row)) == greedy[step], (e["id"] if "id" in e else ids, step)
            assert worst[suffix] <= tolerance, (suffix, worst)
    print(f"  largest difference {worst['']:.1e} off, {worst['_sims']:.1e} on")


if __name__ == "__main__":
    sys.exit(main(globals()))
