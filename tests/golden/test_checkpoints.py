#!/usr/bin/env python3
"""Tiny checkpoints of random shape through the whole product, against the numpy reference.

For every case: gen_checkpoint.py writes a checkpoint, `fathom convert` makes a GGUF of it, `fathom
logits` evaluates ids, and every logit is compared with what reference.py computes from the
checkpoint. Recipes f32 and bf16 lose nothing here, so no difference can hide behind quantisation.

    test_checkpoints.py [--program PATH] [--seeds A-B] [--tokens N]

The program is $FATHOM_PROGRAM by default. Exit status 77 ("skipped") without numpy.

Tolerances, as a share of the standard deviation of the model's logits. Simulations off: 3e-5 at every
position (float32 against float64; 5e-6 is usual). Simulations on: a value near the middle of two FP8 or
FP4 codes may be rounded to the other one, which moves everything after it. So the mean over positions
must stay below 0.05 (leaving the simulations out moves it by 0.16), and most cases must follow the
reference within 1e-4 through their first 16 positions, before the first such flip.
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

# storage, recipe, further arguments of gen_checkpoint.py; case i is used for seeds i, i + n, ...
CASES = [
    ("f32", "f32", []),
    ("bf16", "bf16", ["--shards", "3"]),
    ("fp8fp4", "bf16", ["--pro", "--mtp", "1"]),
    ("fp8fp4", "f32", ["--official-config", "--prefix", "model."]),
    ("bf16", "f32", ["--pro"]),
    ("fp8fp4", "bf16", ["--shards", "4", "--dspark", "--mtp", "1"]),
]


def run(*command):
    r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if r.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {r.returncode}\n{r.stderr.decode()}")
    return r.stdout


def product_logits(program, model, ids, sim, chunk):
    out = json.loads(run(program, "logits", "-m", model, "--ids", ",".join(map(str, ids)),
                         "--sim", sim, "--chunk", str(chunk), "--all", "--json"))
    assert [p["pos"] for p in out["positions"]] == list(range(len(ids)))
    return np.array([p["logits"] for p in out["positions"]], np.float64)


EARLY = 16


def check(name, got, want, sim):
    """(passed, followed the reference closely at the early positions)."""
    diff = np.abs(got - want).max(1) / want.std()
    early = bool(diff[:EARLY].max() <= 1e-4)
    ok = bool(diff.max() <= 3e-5) if sim == "off" else bool(diff.mean() <= 0.05)
    first = int(np.argmax(diff > 1e-4)) if (diff > 1e-4).any() else len(diff)
    print(f"{'ok  ' if ok else 'FAIL'} {name}, sim {sim}: worst {diff.max():.2g}, mean "
          f"{diff.mean():.2g}, first {first} of {len(diff)} positions within 1e-4", flush=True)
    return ok, early


def run_case(program, seed, n_tokens, directory):
    storage, recipe, extra = CASES[seed % len(CASES)]
    checkpoint = os.path.join(directory, f"ckpt-{seed}")
    model = os.path.join(directory, f"{seed}.gguf")
    run(sys.executable, os.path.join(HERE, "gen_checkpoint.py"), checkpoint, "--seed", str(seed),
        "--storage", storage, *extra)
    run(program, "convert", checkpoint, "-o", model, "--recipe", recipe)
    g = np.random.default_rng(seed)
    ok, early = True, False
    for sim in ("off", "on"):
        cfg, make = reference.load_model(checkpoint, sim, np.float64)
        ids = [int(v) for v in g.integers(0, cfg.V, n_tokens)]
        m = make()
        want = np.array([m.step(t) for t in ids])
        chunk = int(g.choice([1, 7, 64, n_tokens]))
        name = f"seed {seed}, {storage} to {recipe} {' '.join(extra)}, chunk {chunk}"
        passed, early = check(name, product_logits(program, model, ids, sim, chunk), want, sim)
        ok = ok and passed
    return ok, early


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--program", default=os.environ.get("FATHOM_PROGRAM"))
    ap.add_argument("--seeds", default="1-6", metavar="A-B")
    ap.add_argument("--tokens", type=int, default=150)
    args = ap.parse_args()
    if not args.program:
        ap.error("--program or $FATHOM_PROGRAM")
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    failed = close = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="fathom-ckpt-") as directory:
            ok, early = run_case(args.program, seed, args.tokens, directory)
        failed += not ok
        close += early
    print(f"{len(seeds)} cases, {failed} failed; with simulations {close} follow the reference "
          f"within 1e-4 through {EARLY} positions")
    return 1 if failed or 2 * close < len(seeds) else 0


if __name__ == "__main__":
    sys.exit(main())
