#!/usr/bin/env python3
"""`fathom convert` at scale: a checkpoint of V4 Flash's true widths in the official FP8/FP4 layout, sharded.

    test_scale.py [--program PATH] [--work DIR] [--gb X] [--kills N] [--speed] [--seed N]

Checks: peak memory below 1 GiB and below a quarter of the file; the layout rule of strict readers; the FP4 codes
of every expert arrive unchanged; N kills (-9) at random moments (the last: when the first piece is finished), each
followed by the same command, end in the bytes of an uninterrupted run that found finished pieces, and nothing
stands under the final name before. With --speed the rates are measured, too: mxfp4 against a plain copy of as many
bytes (read, write, flush) in the same run, and q2 in weights per second and core; give it a machine without other
work.

Default ($SCALE_GB, $SCALE_KILLS): 0.45 GB and 3 kills, some seconds. ./test.sh --long: 3.5 GB and 20 kills. The
rates: --gb 3.5 --kills 0 --speed. Twelve GB of disk are needed for these.
Exit status 77 ("skipped") without numpy.
"""
import argparse
import glob
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "golden"), os.path.join(HERE, "..", "api")]
import reference  # noqa: E402
from kills import kill_rounds  # noqa: E402
from reference import np  # noqa: E402

GIB = 1 << 30


def digest(path):
    h = hashlib.blake2b()
    with open(path, "rb") as f:
        while block := f.read(1 << 22):
            h.update(block)
    return h.hexdigest()


def resident(pid):
    """Peak resident bytes of a process as Linux counts it; 0 where there is no /proc."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmHWM:\s+(\d+) kB", f.read()).group(1)) * 1024
    except (OSError, AttributeError):
        return 0


def convert(program, ckpt, out, *more):
    """Runs a conversion; (seconds, peak bytes of memory): what the program says, which must not be less than what
    was seen from outside."""
    start = time.time()
    seen = 0
    with tempfile.TemporaryFile() as log:
        p = subprocess.Popen([program, "convert", ckpt, "-o", out, *more], stderr=log)
        while p.poll() is None:
            seen = max(seen, resident(p.pid))
            time.sleep(0.02)
        seconds = time.time() - start
        log.seek(0)
        err = log.read().decode()
    assert p.returncode == 0, err
    peak = float(re.search(r"peak memory ([0-9.]+) MB", err).group(1)) * 1e6
    assert peak >= 0.99 * seen and peak > 1e6, (peak, seen)
    return seconds, peak


def listing(program, path):
    return json.loads(subprocess.run([program, "inspect", "--json", path], capture_output=True, check=True).stdout)


def check_file(program, ckpt, path):
    """Running-sum rule; MXFP4 experts hold the codes and scales of the checkpoint."""
    file = listing(program, path)
    at = file["tensors"][0]["offset"]
    for t in file["tensors"]:
        assert t["offset"] == at, t["name"]
        at += -(-t["bytes"] // 32) * 32
    assert at == file["bytes"] == os.path.getsize(path)
    source, blob = reference.Checkpoint(ckpt), np.memmap(path, np.uint8, "r")
    experts = 0
    for t in file["tensors"]:
        m = re.fullmatch(r"blk\.(\d+)\.ffn_(gate|up|down)_exps\.weight", t["name"])
        if not m or t["type"] != "MXFP4":
            continue
        cols, rows, n = t["ne"]
        w = {"gate": "w1", "up": "w3", "down": "w2"}[m.group(2)]
        mats = blob[t["offset"]: t["offset"] + t["bytes"]].reshape(n, rows, cols // 32, 17)
        for e in range(n):
            name = f"layers.{m.group(1)}.ffn.experts.{e}.{w}."
            codes = source.stored(name + "weight")[1].reshape(rows, cols // 32, 16)
            assert (mats[e, :, :, 0] == source.stored(name + "scale")[1]).all(), name
            even, odd = codes & 15, codes >> 4
            want = np.stack([even, odd], -1).reshape(rows, cols // 32, 32)  # element order
            assert (mats[e, :, :, 1:] == want[..., :16] | want[..., 16:] << 4).all(), name
            experts += 1
    assert experts > 0
    return experts


def kill_it(program, ckpt, out, want, seconds, kills, rng):
    command = [program, "convert", ckpt, "-o", out, "--recipe", "mxfp4"]
    print(kill_rounds(command, out, lambda path: digest(path) == want, kills, 0.5 * seconds, rng), flush=True)


def copy_seconds(ckpt, work):
    """A plain copy of the shards with the flush that a conversion ends with."""
    start = time.time()
    for path in sorted(glob.glob(os.path.join(ckpt, "*.safetensors"))):
        subprocess.run(["dd", "if=" + path, "of=" + os.path.join(work, "copy"), "bs=4M", "conv=fsync"],
                       stderr=subprocess.DEVNULL, check=True)
    os.remove(os.path.join(work, "copy"))
    return time.time() - start


def weights_of(program, path, types):
    return sum(np.prod([float(v) for v in t["ne"]]) for t in listing(program, path)["tensors"] if t["type"] in types)


def speed(program, ckpt, work, n_bytes):
    out = os.path.join(work, "speed.gguf")
    rates = []
    for _ in range(2):  # alternating, the better of each counts
        copied = copy_seconds(ckpt, work)
        converted, _ = convert(program, ckpt, out, "--recipe", "mxfp4")
        written = os.path.getsize(out)
        rates.append((n_bytes / copied, (n_bytes + written) / 2 / converted))
        os.remove(out)
    copy, conv = (max(r[i] for r in rates) / 1e6 for i in (0, 1))
    print(f"mxfp4: {conv:.0f} MB/s (mean of bytes read and written); plain copy with dd: {copy:.0f} MB/s; "
          f"ratio {conv / copy:.2f}", flush=True)


def speed_q2(program, work):
    small, out = os.path.join(work, "q2ckpt"), os.path.join(work, "q2.gguf")
    generate(small, "--layers", 2, "--experts", 10, "--vocab", 1024)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    start = os.times()
    seconds, peak = convert(program, small, out, "--recipe", "q2")
    cpu = sum(os.times()[2:4]) - sum(start[2:4])
    n = weights_of(program, out, ("IQ2_XXS", "Q2_K")) / 1e6
    print(f"q2: {n:.0f} M expert weights in {seconds:.1f} s, {n / cpu:.2f} M weights/s and core ({cpu:.0f} s of "
          f"processor time on {cores} cores, dense part and check included); peak memory {peak / 1e6:.0f} MB", flush=True)
    shutil.rmtree(small)


def generate(out, *options):
    r = subprocess.run([sys.executable, os.path.join(HERE, "gen_scale.py"), out, *map(str, options)],
                       capture_output=True, text=True, check=False)
    assert r.returncode == 0, r.stderr
    return sum(os.path.getsize(p) for p in glob.glob(os.path.join(out, "*.safetensors")))


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--program", default=os.environ.get("FATHOM_PROGRAM"))
    ap.add_argument("--work", help="folder for temporary files")
    ap.add_argument("--gb", type=float, default=os.environ.get("SCALE_GB", 0.45), help="size of the checkpoint")
    ap.add_argument("--kills", type=int, default=os.environ.get("SCALE_KILLS", 3))
    ap.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    ap.add_argument("--speed", action="store_true")
    args = ap.parse_args()
    if not args.program:
        ap.error("--program or $FATHOM_PROGRAM")
    print(f"seed {args.seed}")
    layers = 2 if args.gb < 2 else 4
    experts = max(6, round((args.gb - 0.17 * layers) / (layers * 0.01337)))
    with tempfile.TemporaryDirectory(prefix="fathom-scale-", dir=args.work) as work:
        ckpt, out = os.path.join(work, "ckpt"), os.path.join(work, "whole.gguf")
        start = time.time()
        n = generate(ckpt, "--layers", layers, "--experts", experts, "--vocab", 1024, "--seed", args.seed,
                     "--shard-gb", min(1.0, args.gb / 3))
        print(f"checkpoint: {n / 1e9:.2f} GB in {time.time() - start:.1f} s, {experts} experts in {layers} layers")
        seconds, peak = convert(args.program, ckpt, out, "--recipe", "mxfp4")
        size = os.path.getsize(out)
        print(f"mxfp4: {size / 1e9:.2f} GB in {seconds:.1f} s, peak memory {peak / 1e6:.0f} MB", flush=True)
        assert peak < GIB and peak < size / 4, peak
        print(f"{check_file(args.program, ckpt, out)} expert matrices hold the codes of the checkpoint", flush=True)
        want = digest(out)
        os.remove(out)
        if args.kills:
            kill_it(args.program, ckpt, os.path.join(work, "killed.gguf"), want, seconds, args.kills,
                    random.Random(args.seed))
            os.remove(os.path.join(work, "killed.gguf"))
        if args.speed:
            speed(args.program, ckpt, work, n)
            speed_q2(args.program, work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
