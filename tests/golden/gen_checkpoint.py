#!/usr/bin/env python3
"""Writes tiny DeepSeek V4 checkpoints with the official tensor names, for tests.

    gen_checkpoint.py OUT [--seed N] [--storage f32|bf16|fp8fp4] [--shards N] [options]
    gen_checkpoint.py OUT --golden            the golden tiny model of docs/model.md section 17

Without --golden the shape is drawn from the seed, within the constraints of model.md section 1;
--set SYMBOL=JSON overrides a symbol of that section (for example --set L=3 --set 'r=[0,4,8]').
Values are uniform, of the size that keeps activations near 1 (the rules of section 17), and depend
on seed and tensor name only. What reference.py computes from the written directory is by
definition what every engine should compute from it.

Storage: f32 = everything F32; bf16 = as the mini model (BF16 matrices and norms, F32 for
hyper-connections, ape, sinks and biases); fp8fp4 = as the release (dense matrices E4M3 with a
power-of-two scale per 128 x 128 tile, edge tiles cut; routed experts FP4 with a scale per row and
32 columns; the rest BF16 or F32). tid2eid is always I64.
"""
import argparse
import json
import math
import os
import shutil
import sys

from reference import (Config, E2M1, E4M3, F32, GOLDEN, e8m0, fnv1a, hashed_tensor, np, pow2_ceil,
                       tensor_shapes)

HERE = os.path.dirname(os.path.abspath(__file__))
MINI = os.path.join(HERE, "..", "..", "models", "mini")


# ---- shape ---------------------------------------------------------------------------------------

def draw_shape(seed, pro, with_tokenizer):
    g = np.random.default_rng(seed)

    def pick(*values):
        return values[int(g.integers(len(values)))]

    c = {"V": 2304 if with_tokenizer else int(g.integers(70, 300))}
    c["L"] = pick(3, 4, 5, 6)
    c["D"] = 32 * int(g.integers(2, 9))
    c["og"] = pick(1, 2, 4)
    c["H"] = c["og"] * pick(1, 2, 4)
    c["rd"] = pick(16, 32, 64)
    c["hd"] = c["rd"] + 64 * pick(1, 2, 3)
    c["ql"] = 32 * pick(1, 2, 3, 5)
    c["ol"] = pick(16, 32, 48, 64)
    c["W"] = pick(8, 16, 24, 128)
    c["IH"] = pick(16, 32)
    c["ihd"] = max(pick(32, 64, 128), c["rd"])
    c["K_idx"] = pick(3, 5, 8, 16)
    c["F"] = 32 * int(g.integers(1, 9))
    c["E"] = int(g.integers(4, 13))
    c["K"] = pick(1, 2, 3, 4)
    c["n_hash"] = pick(0, 1, 2)
    c["hc"] = pick(2, 4, 4, 4)
    c["T_sk"] = pick(1, 3, 20)
    c["rs"] = pick(1.0, 1.5, 2.5)
    c["lim"] = pick(0.0, 0.6, 10.0)
    c["e"], c["e_hc"] = pick(1e-6, 1e-5), 1e-6
    c["theta0"], c["theta1"] = pick(10000.0, 500.0), pick(160000.0, 5000.0)
    c["T0"], c["s"], c["bf"], c["bs"] = pick(64, 4096, 65536), pick(4.0, 16.0), 32.0, 1.0
    top = pick(16, 128)
    ratios = [top, top] if pro else [0, 0]
    while len(ratios) < c["L"]:
        ratios.append(4 if len(ratios) % 2 == 0 else pick(8, top))
    c["r"] = ratios[: c["L"]]
    return c


# ---- values --------------------------------------------------------------------------------------

def draw_tensor(seed, name, shape, n_experts):
    g = np.random.default_rng([seed, fnv1a(name)])
    if name.endswith("tid2eid"):  # distinct experts per token
        return np.argsort(g.random((shape[0], n_experts)), 1)[:, : shape[1]].astype(np.int64)
    u = g.uniform(-1, 1, shape).astype(F32)
    if "norm" in name:
        return 1 + F32(0.25) * u
    if name.endswith("embed.weight"):
        return u
    if name.endswith("ape"):
        return F32(3) * u
    if name.endswith("_scale"):
        return F32(0.75) + F32(0.25) * u
    return F32(0.5) * u if len(shape) == 1 else u * F32(math.sqrt(3 / shape[-1]))


# ---- storage -------------------------------------------------------------------------------------

F32_SUFFIXES = ("_fn", "_base", "_scale", "ape", "attn_sink", "gate.bias")
FP8_SUFFIXES = ("wq_a.weight", "wq_b.weight", "attn.wkv.weight", "wo_a.weight", "wo_b.weight",
                "shared_experts.w1.weight", "shared_experts.w2.weight", "shared_experts.w3.weight",
                "e_proj.weight", "h_proj.weight", "main_proj.weight")


def to_bf16(x):
    u = x.astype(F32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def nearest_code(table, v):
    """Code of the nearest finite table value."""
    finite = np.flatnonzero(np.isfinite(table))
    order = finite[np.argsort(table[finite], kind="stable")]
    values = table[order]
    i = np.clip(np.searchsorted(values, v), 1, len(values) - 1)
    return order[np.where(v - values[i - 1] <= values[i] - v, i - 1, i)].astype(np.uint8)


def scale_bytes(amax, top):
    s = pow2_ceil(np.maximum(amax.astype(F32) / F32(top), F32(2.0**-100)))
    return (np.frexp(s)[1] - 1 + 127).astype(np.uint8)


def to_fp8(x, tile=128):
    rows, cols = (-(-n // tile) for n in x.shape)
    padded = np.zeros((rows * tile, cols * tile), F32)
    padded[: x.shape[0], : x.shape[1]] = np.abs(x)
    s = scale_bytes(padded.reshape(rows, tile, cols, tile).max((1, 3)), 448)
    full = np.repeat(np.repeat(e8m0(s), tile, 0), tile, 1)[: x.shape[0], : x.shape[1]]
    return nearest_code(E4M3, x / full), s


def to_fp4(x):
    s = scale_bytes(np.abs(x).reshape(x.shape[0], -1, 32).max(2), 6)
    codes = nearest_code(E2M1, x / np.repeat(e8m0(s), 32, 1))
    return codes[:, 0::2] | codes[:, 1::2] << 4, s


def store(name, x, storage):
    """[(name, dtype, array)] of the stored tensors that hold x."""
    if x.dtype == np.int64:
        return [(name, "I64", x)]
    if storage == "f32" or name.endswith(F32_SUFFIXES):
        return [(name, "F32", x.astype(F32))]
    if storage == "fp8fp4" and ".experts." in name:
        codes, scale = to_fp4(x)
        return [(name, "I8", codes), (name.replace(".weight", ".scale"), "F8_E8M0", scale)]
    if storage == "fp8fp4" and name.endswith(FP8_SUFFIXES) and ".compressor." not in name:
        codes, scale = to_fp8(x)
        return [(name, "F8_E4M3", codes), (name.replace(".weight", ".scale"), "F8_E8M0", scale)]
    return [(name, "BF16", to_bf16(x))]


# ---- files ---------------------------------------------------------------------------------------

def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, a in tensors:
        header[name] = {"dtype": dtype, "shape": list(a.shape),
                        "data_offsets": [offset, offset + a.nbytes]}
        offset += a.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, _, a in tensors:
            f.write(np.ascontiguousarray(a).tobytes())
    return offset


def write_checkpoint(out, tensors, shards):
    if shards <= 1:
        write_safetensors(os.path.join(out, "model.safetensors"), tensors)
        return
    per, total, weight_map = -(-len(tensors) // shards), 0, {}
    for i in range(shards):
        part = tensors[i * per : (i + 1) * per]
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        total += write_safetensors(os.path.join(out, name), part)
        weight_map.update({t[0]: name for t in part})
    with open(os.path.join(out, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, f, indent=1)


OFFICIAL_CONFIG = {  # the inference config's names, where they differ
    "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
    "qk_rope_head_dim": "rope_head_dim", "sliding_window": "window_size",
    "moe_intermediate_size": "moe_inter_dim", "num_experts_per_tok": "n_activated_experts",
    "num_hash_layers": "n_hash_layers", "routed_scaling_factor": "route_scale",
}


def config_json(cfg, args):
    d = cfg.to_json()
    d["compress_ratios"] = cfg.r + [0] * args.mtp
    if args.official_config:
        y = d.pop("rope_scaling")
        d = {OFFICIAL_CONFIG.get(k, k): v for k, v in d.items()
             if k not in ("hc_eps", "rms_norm_eps")}
        d.update(rope_factor=y["factor"], beta_fast=y["beta_fast"], beta_slow=y["beta_slow"],
                 original_seq_len=y["original_max_position_embeddings"], n_shared_experts=1,
                 score_func="sqrtsoftplus", n_mtp_layers=args.mtp)
    else:
        d.update(architectures=["DeepseekV4ForCausalLM"], model_type="deepseek_v4",
                 num_key_value_heads=1, n_shared_experts=1, scoring_func="sqrtsoftplus",
                 norm_topk_prob=True, max_position_embeddings=1048576,
                 num_nextn_predict_layers=args.mtp, tie_word_embeddings=False, bos_token_id=0,
                 eos_token_id=1)
    if args.dspark:
        d.update(dspark_block_size=5, dspark_noise_token_id=1,
                 dspark_target_layer_ids=[cfg.L - 1], dspark_markov_rank=8)
    return d


def main():
    ap = argparse.ArgumentParser(description="writes a tiny checkpoint directory")
    ap.add_argument("out")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--storage", choices=("f32", "bf16", "fp8fp4"),
                    help="default: bf16; f32 with --golden")
    ap.add_argument("--shards", type=int, default=1)
    ap.add_argument("--golden", action="store_true")
    ap.add_argument("--tokenizer", action="store_true", help="copy the mini model's tokenizer")
    ap.add_argument("--pro", action="store_true", help="the first layers are compressed")
    ap.add_argument("--mtp", type=int, default=0, metavar="N", help="write blocks mtp.0 .. N-1 too")
    ap.add_argument("--dspark", action="store_true", help="write the 0731 keys in config.json")
    ap.add_argument("--dspark-blocks", action="store_true", help="the --mtp blocks are DSpark stages")
    ap.add_argument("--official-config", action="store_true", help="the inference config's names")
    ap.add_argument("--prefix", default="", help="put before every tensor name, e.g. model.")
    ap.add_argument("--set", action="append", default=[], metavar="SYMBOL=JSON")
    args = ap.parse_args()

    shape = dict(GOLDEN) if args.golden else draw_shape(args.seed, args.pro, args.tokenizer)
    for item in args.set:
        symbol, _, text = item.partition("=")
        if symbol not in shape:
            ap.error(f"--set {item}: no symbol {symbol}")
        shape[symbol] = json.loads(text)
    if args.official_config:
        shape["e"] = shape["e_hc"] = 1e-6  # that form has no keys for them
    cfg = Config(**shape)
    if len(cfg.r) != cfg.L:
        ap.error(f"{cfg.L} layers but {len(cfg.r)} ratios")
    if args.tokenizer and cfg.V != 2304:
        ap.error("--tokenizer needs V = 2304")

    os.makedirs(args.out, exist_ok=True)
    tensors = []
    for name, dims in tensor_shapes(cfg, args.mtp, 8 * args.dspark_blocks).items():
        x = (hashed_tensor(name, dims, cfg.E) if args.golden
             else draw_tensor(args.seed, name, dims, cfg.E))
        tensors += store(name, x, args.storage or ("f32" if args.golden else "bf16"))
    tensors = [(args.prefix + name, dtype, a) for name, dtype, a in tensors]
    write_checkpoint(args.out, tensors, args.shards)
    with open(os.path.join(args.out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config_json(cfg, args), f, indent=1)
    if args.tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(MINI, name), args.out)
    size = sum(a.nbytes for _, _, a in tensors)
    print(f"{args.out}: {len(tensors)} tensors, {size} bytes, shape {json.dumps(shape)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
