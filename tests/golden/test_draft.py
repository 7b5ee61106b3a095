#!/usr/bin/env python3
"""The file of the drafting blocks that `fathom convert` writes beside the model's: the names of the published
MTP file (tests/data/gguf-layout), every value that of the checkpoint, the layout that strict readers demand,
and going on after kills without making a finished file again.

    test_draft.py [--program PATH]

Exit status 77 ("skipped") without numpy.
"""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import reference
from reference import np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# GGUF name behind "mtp.N." -> official name
OFFICIAL = {"attn_q_a.weight": "attn.wq_a.weight", "attn_q_a_norm.weight": "attn.q_norm.weight",
            "attn_q_b.weight": "attn.wq_b.weight", "attn_kv.weight": "attn.wkv.weight",
            "attn_kv_a_norm.weight": "attn.kv_norm.weight", "attn_sinks.weight": "attn.attn_sink",
            "attn_output_a.weight": "attn.wo_a.weight", "attn_output_b.weight": "attn.wo_b.weight",
            "ffn_gate_inp.weight": "ffn.gate.weight", "exp_probs_b.bias": "ffn.gate.bias",
            "ffn_gate_shexp.weight": "ffn.shared_experts.w1.weight",
            "ffn_up_shexp.weight": "ffn.shared_experts.w3.weight",
            "ffn_down_shexp.weight": "ffn.shared_experts.w2.weight",
            "markov_head.w1.weight": "markov_head.markov_w1.weight",
            "markov_head.w2.weight": "markov_head.markov_w2.weight"}
EXPERT = {"ffn_gate_exps.weight": "w1", "ffn_up_exps.weight": "w3", "ffn_down_exps.weight": "w2"}


def run(*command, code=0):
    r = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert r.returncode == code, f"{command}: exit {r.returncode}\n{r.stderr}"
    return r.stdout if code == 0 else r.stderr


def generate(out, *options):
    run(sys.executable, os.path.join(HERE, "gen_checkpoint.py"), out, "--storage", "fp8fp4", *options)
    return out


def source(get, name, n_mats):
    stage, rest = name.split(".", 2)[1:]
    if rest in EXPERT:
        return np.stack([get(f"mtp.{stage}.ffn.experts.{e}.{EXPERT[rest]}.weight") for e in range(n_mats)])
    rest = OFFICIAL.get(rest, rest[:-7] if rest.startswith("hc_") else rest)
    return get(f"mtp.{stage}.{rest}")


def check_file(program, path, checkpoint, kind, stages):
    """Names, shapes, values (recipe f32), and the running-sum rule of offsets."""
    assert "all checks passed" in run(program, "inspect", "--check", path)
    listing = json.loads(run(program, "inspect", "--json", path))
    meta = listing["metadata"]
    assert json.loads(meta["fathom.draft.kind"]["text"]) == kind and meta["fathom.draft.stages"]["text"] == str(stages)
    get, blob = reference.Checkpoint(checkpoint).get, open(path, "rb").read()
    at = listing["tensors"][0]["offset"]
    for t in listing["tensors"]:
        assert t["offset"] == at, t["name"]
        at += -(-t["bytes"] // 32) * 32
        want = source(get, t["name"], t["ne"][-1]).astype("<f4")
        assert t["type"] == "F32" and want.size * 4 == t["bytes"] and list(want.shape[::-1]) == t["ne"], t["name"]
        assert blob[t["offset"]: t["offset"] + t["bytes"]] == want.tobytes(), t["name"]
    assert at == len(blob)
    return {t["name"] for t in listing["tensors"]}


def test_mtp(program, work):
    ckpt = generate(os.path.join(work, "mtp"), "--seed", 7, "--mtp", 1)
    out = os.path.join(work, "a.gguf")
    run(program, "convert", ckpt, "-o", out, "--recipe", "f32")
    names = check_file(program, os.path.join(work, "a.mtp.gguf"), ckpt, "mtp", 1)
    with open(os.path.join(ROOT, "tests", "data", "gguf-layout", "v4-flash-mtp-tensors.tsv"), encoding="utf-8") as f:
        assert names == {line.split("\t")[0] for line in f.read().splitlines()[1:]}
    assert "all checks passed" in run(program, "inspect", "--check", out)
    run(program, "convert", ckpt, "-o", os.path.join(work, "b"), "--recipe", "f32", "--no-mtp")
    assert open(os.path.join(work, "b"), "rb").read() == open(out, "rb").read()
    assert not [n for n in os.listdir(work) if n.startswith("b.")]
    # the rules and recipes of the model hold for this file, too; only 2-bit experts are not for drafts
    run(program, "convert", ckpt, "-o", out, "--recipe", "bf16", "--tensor", "mtp.*.e_proj.weight=F32")
    types = {t["name"]: t["type"] for t in
             json.loads(run(program, "inspect", "--json", os.path.join(work, "a.mtp.gguf")))["tensors"]}
    assert types["mtp.0.e_proj.weight"] == "F32" and types["mtp.0.h_proj.weight"] == "BF16"


def test_dspark(program, work):
    ckpt = generate(os.path.join(work, "dspark"), "--seed", 8, "--mtp", 3, "--dspark", "--dspark-blocks", "--shards", 2)
    out = os.path.join(work, "d.gguf")
    run(program, "convert", ckpt, "-o", out, "--recipe", "f32")
    path = os.path.join(work, "d.mtp.gguf")
    names = check_file(program, path, ckpt, "dspark", 3)
    assert {"mtp.0.main_proj.weight", "mtp.0.main_norm.weight", "mtp.2.markov_head.w1.weight",
            "mtp.2.confidence_head.proj.weight", "mtp.2.norm.weight", "mtp.1.ffn_up_exps.weight"} <= names
    assert "mtp.0.norm.weight" not in names and "mtp.0.e_proj.weight" not in names
    meta = json.loads(run(program, "inspect", "--json", path))["metadata"]
    assert meta["fathom.draft.block_size"]["text"] == "5" and meta["fathom.draft.markov_rank"]["text"] == "8"
    # a tensor that is not there
    index = os.path.join(ckpt, "model.safetensors.index.json")
    with open(index, encoding="utf-8") as f:
        table = json.load(f)
    del table["weight_map"]["mtp.2.markov_head.markov_w2.weight"]
    with open(index, "w", encoding="utf-8") as f:
        json.dump(table, f)
    err = run(program, "convert", ckpt, "-o", os.path.join(work, "e.gguf"), "--recipe", "f32", code=3)
    assert "markov_w2" in err and "--no-mtp" in err
    assert not [n for n in os.listdir(work) if n.startswith("e.")]
    run(program, "convert", ckpt, "-o", os.path.join(work, "e.gguf"), "--recipe", "f32", "--no-mtp")


def test_killed(program, work):
    ckpt = generate(os.path.join(work, "kill"), "--seed", 9, "--mtp", 2, "--set", "D=256", "--set", "F=256",
                    "--set", "E=4", "--set", "K=2", "--set", "L=3", "--set", "r=[0,4,128]")
    whole, out = os.path.join(work, "whole.gguf"), os.path.join(work, "k.gguf")
    more = ["--recipe", "q2", "--threads", "1", "--tensor", "mtp.*_exps.weight=IQ2_XXS", "--tensor", "*shexp*=IQ3_XXS"]
    start = time.time()
    run(program, "convert", ckpt, "-o", whole, *more)
    seconds = time.time() - start
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    # killed between the two files: the first one is finished and is not made again
    p = subprocess.Popen([program, "convert", ckpt, "-o", out, *more], stderr=subprocess.DEVNULL)
    draft = os.path.join(work, "k.mtp.gguf")
    while not os.path.exists(draft) and p.poll() is None:
        time.sleep(0.001)
    p.kill()
    p.wait()
    assert os.path.exists(draft) and not os.path.exists(out) and os.path.exists(draft + ".journal")
    made = os.stat(draft).st_mtime_ns
    kept = 0
    for _ in range(200):
        p = subprocess.Popen([program, "convert", ckpt, "-o", out, *more], stderr=subprocess.PIPE)
        try:
            p.wait(rng.uniform(0.1, 0.7) * seconds)
        except subprocess.TimeoutExpired:
            p.send_signal(signal.SIGKILL)
        kept += b"k.mtp.gguf was finished before" in p.communicate()[1]
        if p.returncode == 0:
            break
    assert p.returncode == 0 and kept > 0 and os.stat(draft).st_mtime_ns == made
    for end in (".gguf", ".mtp.gguf"):
        with open(os.path.join(work, "whole" + end), "rb") as a, open(os.path.join(work, "k" + end), "rb") as b:
            assert a.read() == b.read(), end
    assert not [n for n in os.listdir(work) if n.startswith("k.") and not n.endswith(".gguf")], os.listdir(work)
    print(f"finished draft file kept in {kept} runs")


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--program", default=os.environ.get("FATHOM_PROGRAM"))
    args = ap.parse_args()
    if not args.program:
        ap.error("--program or $FATHOM_PROGRAM")
    for name, fn in list(globals().items()):
        if name.startswith("test_"):
            with tempfile.TemporaryDirectory(prefix="fathom-draft-") as work:
                fn(args.program, work)
            print(f"ok   {name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
