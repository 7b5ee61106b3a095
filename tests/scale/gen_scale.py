#!/usr/bin/env python3
"""Writes a checkpoint of V4 Flash's true widths in the official FP8/FP4 layout, sharded, at disk speed:

    gen_scale.py OUT [--layers N] [--experts N] [--vocab N] [--mtp N] [--shard-gb X] [--seed N]

Sizes: an expert has 13.4 MB, the rest of a layer about 0.15 GB, embedding and head 16 KB for each entry of the
vocabulary. Values come from one pool of random bytes per kind, cut at random places, so that they cost no time:
FP4 codes and E4M3 codes uniform (NaN codes left out), scales that give weights of about 0.02, BF16 and F32
near-Gaussian. The model computes nothing of sense; it is for measuring and killing `fathom convert`.
"""
import argparse
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
from gen_checkpoint import F32_SUFFIXES, FP8_SUFFIXES, config_json, to_bf16  # noqa: E402
from reference import Config, np, tensor_shapes  # noqa: E402

FLASH = dict(D=4096, H=64, hd=512, rd=64, ql=1024, og=8, ol=1024, W=128, IH=64, ihd=128, K_idx=512, F=2048, K=6,
             rs=1.5, lim=10.0, hc=4, T_sk=20, e=1e-6, e_hc=1e-6, theta0=10000.0, theta1=160000.0, T0=65536, s=16.0,
             bf=32.0, bs=1.0)
POOL = 64 << 20


class Values:
    """Pools of stored values; cut(kind, n_bytes, align) gives a piece of one."""

    def __init__(self, seed):
        self.g = g = np.random.default_rng(seed)
        raw = g.integers(0, 256, POOL, np.uint8)
        normal = (g.integers(0, 1 << 16, (POOL // 4, 4), np.uint16).astype(np.float32).sum(1) / 65536 - 2)
        self.pool = {"I8": raw, "F8_E4M3": np.where(raw & 0x7F == 0x7F, raw ^ 1, raw),
                     "F8_E8M0": (raw & 3) + 116, "BF16": to_bf16(normal * np.float32(0.03)).view(np.uint8),
                     "F32": (normal * np.float32(0.3)).view(np.uint8)}

    def cut(self, dtype, n):
        pool = self.pool[dtype]
        while n > 0:
            at = int(self.g.integers(0, len(pool) // 8)) * 4
            piece = pool[at: at + n]
            yield piece
            n -= len(piece)


def stored(name, shape):
    """[(name, dtype, stored shape)] of the tensors that hold one of the model's."""
    scale = name.replace(".weight", ".scale")
    if name.endswith("tid2eid"):
        return [(name, "I64", shape)]
    if name.endswith(F32_SUFFIXES):
        return [(name, "F32", shape)]
    if ".experts." in name:
        return [(name, "I8", (shape[0], shape[1] // 2)), (scale, "F8_E8M0", (shape[0], shape[1] // 32))]
    if name.endswith(FP8_SUFFIXES) and ".compressor." not in name:
        return [(name, "F8_E4M3", shape), (scale, "F8_E8M0", tuple(-(-n // 128) for n in shape))]
    return [(name, "BF16", shape)]


SIZE = {"I8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "BF16": 2, "F32": 4, "I64": 8}


def n_bytes(tensor):
    return int(np.prod(tensor[2])) * SIZE[tensor[1]]


def write_shard(path, tensors, values, cfg):
    header, at = {}, 0
    for name, dtype, shape in tensors:
        n = n_bytes((name, dtype, shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for t in tensors:
            if t[1] == "I64":
                first = values.g.integers(0, cfg.E, (t[2][0], 1))
                f.write(((first + np.arange(t[2][1])) % cfg.E).astype("<i8").tobytes())
                continue
            for piece in values.cut(t[1], n_bytes(t)):
                f.write(piece)
    return at


def shards_of(tensors, limit):
    part, size = [], 0
    for t in tensors:
        if part and size + n_bytes(t) > limit:
            yield part
            part, size = [], 0
        part.append(t)
        size += n_bytes(t)
    yield part


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("out")
    ap.add_argument("--layers", type=int, default=4)
    ap.add_argument("--experts", type=int, default=48)
    ap.add_argument("--vocab", type=int, default=16384)
    ap.add_argument("--mtp", type=int, default=0)
    ap.add_argument("--shard-gb", type=float, default=1.0)
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    ratios = [0] + [4 if i % 2 else 128 for i in range(1, args.layers)]
    cfg = Config(**FLASH, V=args.vocab, L=args.layers, E=args.experts, n_hash=min(1, args.layers), r=ratios)
    os.makedirs(args.out, exist_ok=True)
    values = Values(args.seed)
    tensors = [s for name, shape in tensor_shapes(cfg, args.mtp).items() for s in stored(name, shape)]
    parts = list(shards_of(tensors, args.shard_gb * 1e9))
    total, weight_map = 0, {}
    for i, part in enumerate(parts):
        name = f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors"
        total += write_shard(os.path.join(args.out, name), part, values, cfg)
        weight_map.update({t[0]: name for t in part})
    with open(os.path.join(args.out, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, f)
    with open(os.path.join(args.out, "config.json"), "w", encoding="utf-8") as f:
        form = argparse.Namespace(mtp=args.mtp, official_config=False, dspark=False, tokenizer=False)
        json.dump(config_json(cfg, form), f, indent=1)
    print(f"{args.out}: {len(tensors)} tensors in {len(parts)} shards, {total} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
