#!/usr/bin/env python3
"""The program's logits on the trained mini model against the stored ones of an independent numpy
implementation, and lossless conversion of FP4 experts. (Random tiny checkpoints against the same
implementation: tests/golden/test_checkpoints.py.)"""
from program import *

try:
    import numpy  # noqa: F401  the reference needs it
except ImportError:
    skip("numpy is not installed")

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


def test_mxfp4_is_lossless(work):
    """FP4 experts go to MXFP4 without a rounding: the same logits as through F32."""
    directory = os.path.join(work, "fp4")
    python(GENERATOR, directory, "--seed", 21, "--storage", "fp8fp4")
    a = converted(directory, os.path.join(work, "a.gguf"), "f32")
    b = converted(directory, os.path.join(work, "b.gguf"), "f32", "--tensor", "*_exps.weight=MXFP4")
    args = ["--ids", "1,2,3,4,5,6,7,8,9,10", "--all", "--json", "--act", "f32", "--sim", "off"]
    compare(positions(good("logits", "-m", a, *args)), positions(good("logits", "-m", b, *args)), 1e-4)
    kinds = {t["type"] for t in json.loads(good("inspect", "--json", b))["tensors"]}
    assert "MXFP4" in kinds


def test_mini_model_reference(work):
    """Greedy continuations and top-5 logits of 5 of 20 prompts (PROMPT_STEP=1: all), made by numpy. The
    program's native rows also round the RoPE part to bf16, which the stored "_sims" logits do not:
    there the rms difference counts (logits have a standard deviation of 5.5), and the same ids."""
    path = converted(MINI_DIR, os.path.join(work, "mini-bf16.gguf"), "bf16")
    with open(data("mini-model/eval/reference.jsonl"), encoding="utf-8") as f:
        entries = [json.loads(line) for line in f][::int(os.environ.get("PROMPT_STEP", 4))]
    for suffix, sim in (("", "off"), ("_sims", "on")):
        differences, n_same, n = [], 0, 0
        for e in entries:
            greedy = e["greedy_ids" + suffix]
            ids = ",".join(map(str, e["prompt_ids"] + greedy[:-1]))
            rows = positions(good("logits", "-m", path, "--ids", ids, "--all", "--json", "--sim", sim,
                                  "--act", "f32"))
            first = len(e["prompt_ids"]) - 1
            for step, top in enumerate(e["top5" + suffix]):
                row = rows[first + step]
                differences += [row[i] - logit for i, logit in top]
                n_same += row.index(max(row)) == greedy[step]
                n += 1
        worst = max(abs(d) for d in differences)
        rms = (sum(d * d for d in differences) / len(differences)) ** 0.5
        print(f"  sim {sim}: {n} steps, {n_same} with the same argmax, rms {rms:.1e}, largest {worst:.1e}")
        if sim == "off":
            assert n_same == n and worst <= 1e-3
        else:
            assert n_same >= 0.99 * n and rms <= 0.1


if __name__ == "__main__":
    sys.exit(main(globals()))
