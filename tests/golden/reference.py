#!/usr/bin/env python3
"""Forward pass of DeepSeek V4 in numpy: the oracle that the engine is tested against.

Written from docs/model.md alone (section numbers below refer to it), one token at a time, without
any of the engine's structure: no chunks, no quantised activations, no recorded program. Slow on
purpose and in float64 by default, so that its own rounding is far below every tolerance used.

    reference.py DIR --ids 1,2,3 [--sim on|off|plain] [--all] [--dtype float64|float32]
        prints what `fathom logits --json` prints for a checkpoint directory
        (config.json with model.safetensors, or an index with shards)
    reference.py --golden
        builds the golden tiny model of section 17 and checks its published tables
    reference.py DIR --continuations FILE [--limit N] [--sim on|off]
        compares the top-5 logits of a reference.jsonl (the mini model's evaluation set)

Simulations: "off" none; "plain" FP8 and FP4 as in section 3; "on" = native rows, i.e. "plain" with
the rope part of window rows and main compressed rows rounded to bf16 when the row is made.

Needs numpy; exits with status 77 ("skipped") and a clear line when it is missing.
"""
import argparse
import json
import math
import os
import sys

try:
    import numpy as np
except ImportError:
    print("reference.py: SKIPPED: numpy is not installed (Debian: apt-get install python3-numpy)",
          file=sys.stderr)
    sys.exit(77)

F32 = np.float32


# ---- config.json (section 1) ---------------------------------------------------------------------

# symbol: Hugging Face name, official inference name, default (None = required)
KEYS = {
    "V": ("vocab_size", "vocab_size", None),
    "D": ("hidden_size", "dim", None),
    "L": ("num_hidden_layers", "n_layers", None),
    "H": ("num_attention_heads", "n_heads", None),
    "hd": ("head_dim", "head_dim", None),
    "rd": ("qk_rope_head_dim", "rope_head_dim", None),
    "ql": ("q_lora_rank", "q_lora_rank", None),
    "og": ("o_groups", "o_groups", None),
    "ol": ("o_lora_rank", "o_lora_rank", None),
    "W": ("sliding_window", "window_size", None),
    "r": ("compress_ratios", "compress_ratios", None),
    "IH": ("index_n_heads", "index_n_heads", None),
    "ihd": ("index_head_dim", "index_head_dim", None),
    "K_idx": ("index_topk", "index_topk", None),
    "F": ("moe_intermediate_size", "moe_inter_dim", None),
    "E": ("n_routed_experts", "n_routed_experts", None),
    "K": ("num_experts_per_tok", "n_activated_experts", None),
    "n_hash": ("num_hash_layers", "n_hash_layers", 0),
    "rs": ("routed_scaling_factor", "route_scale", None),
    "lim": ("swiglu_limit", "swiglu_limit", 0.0),
    "hc": ("hc_mult", "hc_mult", None),
    "T_sk": ("hc_sinkhorn_iters", "hc_sinkhorn_iters", None),
    "e_hc": ("hc_eps", "hc_eps", 1e-6),
    "e": ("rms_norm_eps", "norm_eps", 1e-6),
    "theta0": ("rope_theta", "rope_theta", None),
    "theta1": ("compress_rope_theta", "compress_rope_theta", None),
}
YARN_KEYS = {  # the same, inside rope_scaling (Hugging Face) or at the top (official)
    "s": ("factor", "rope_factor", 1.0),
    "T0": ("original_max_position_embeddings", "original_seq_len", 0),
    "bf": ("beta_fast", "beta_fast", 32.0),
    "bs": ("beta_slow", "beta_slow", 1.0),
}


class Config:
    """Attributes named by the symbols of section 1; `r` has exactly L entries."""

    def __init__(self, **values):
        self.__dict__.update(values)
        self.r = list(self.r)[: self.L]

    @staticmethod
    def from_json(d):
        values = {}
        for symbol, (hf, official, default) in KEYS.items():
            v = d.get(hf, d.get(official, default))
            if v is None:
                raise SystemExit(f"config.json: key {hf} is missing")
            values[symbol] = v
        scaling = d.get("rope_scaling") or {}
        for symbol, (hf, official, default) in YARN_KEYS.items():
            values[symbol] = scaling.get(hf, d.get(official, default))
        return Config(**values)

    def to_json(self):
        """The Hugging Face form."""
        d = {hf: getattr(self, symbol) for symbol, (hf, _, _) in KEYS.items()}
        d["rope_scaling"] = {hf: getattr(self, s) for s, (hf, _, _) in YARN_KEYS.items()}
        d["rope_scaling"]["type"] = "yarn"
        return d


# ---- safetensors (sections 2 and 3) --------------------------------------------------------------

def e4m3_table():
    t = np.zeros(256, F32)
    for c in range(256):
        e, m = (c >> 3) & 15, c & 7
        v = m * 2.0**-9 if e == 0 else (8 + m) * 2.0 ** (e - 10)
        if c & 0x7F == 0x7F:
            v = math.nan
        t[c] = -v if c & 0x80 else v
    return t


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], F32)
E4M3 = e4m3_table()


def e8m0(b):
    return np.where(b == 255, np.nan, np.ldexp(1.0, b.astype(np.int32) - 127))


class Checkpoint:
    """Reads tensors of an official checkpoint directory; names without the `model.` prefix."""

    DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E8M0": "u1",
              "I8": "u1", "I64": "<i8"}

    def __init__(self, directory):
        self.where = {}
        index = os.path.join(directory, "model.safetensors.index.json")
        if os.path.exists(index):
            with open(index, encoding="utf-8") as f:
                files = sorted(set(json.load(f)["weight_map"].values()))
        else:
            files = ["model.safetensors"]
        for name in files:
            raw = np.memmap(os.path.join(directory, name), np.uint8, "r")
            n = int(raw[:8].view("<u8")[0])
            header = json.loads(bytes(raw[8 : 8 + n]).decode("utf-8"))
            for key, rec in header.items():
                if key != "__metadata__":
                    self.where[key.removeprefix("model.")] = (raw, 8 + n, rec)

    def stored(self, name):
        raw, base, rec = self.where[name]
        a, b = rec["data_offsets"]
        return rec["dtype"], raw[base + a : base + b].view(self.DTYPES[rec["dtype"]]) \
            .reshape(rec["shape"])

    def get(self, name):
        """The tensor's values: float32, or int64 for I64. Scales are applied."""
        dtype, a = self.stored(name)
        if dtype == "BF16":
            return (a.astype(np.uint32) << 16).view(F32)
        if dtype == "F8_E4M3":
            s = e8m0(self.stored(name.removesuffix(".weight") + ".scale")[1])
            s = np.repeat(np.repeat(s, 128, 0), 128, 1)[: a.shape[0], : a.shape[1]]
            return (E4M3[a] * s).astype(F32)
        if dtype == "I8":  # two E2M1 codes a byte, even column in the low nibble
            s = e8m0(self.stored(name.removesuffix(".weight") + ".scale")[1])
            v = np.stack([E2M1[a & 15], E2M1[a >> 4]], -1).reshape(a.shape[0], -1)
            return (v * np.repeat(s, 32, 1)).astype(F32)
        return np.array(a) if dtype == "I64" else a.astype(F32)


# ---- numeric primitives (section 3) --------------------------------------------------------------

def rmsnorm(x, e, w=None):
    y = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + e)
    return y if w is None else y * w


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(z):
    return np.where(z > 20, z, np.log1p(np.exp(np.minimum(z, 20))))


def rope_freqs(rd, theta, yarn=None):
    """fp32 frequencies; yarn = (factor, T0, beta_fast, beta_slow) or None."""
    i = np.arange(rd // 2)
    f = 1 / theta ** (2 * i / rd)
    if yarn:
        s, t0, bf, bs = yarn

        def c(b):
            return rd * math.log(t0 / (b * 2 * math.pi)) / (2 * math.log(theta))

        lo, hi = max(math.floor(c(bf)), 0), min(math.ceil(c(bs)), rd - 1)
        if lo == hi:
            hi += 0.001
        ramp = np.clip((i - lo) / (hi - lo), 0, 1)
        f = f / s * ramp + f * (1 - ramp)
    return f.astype(F32)


def rope(x, freqs, pos, inverse=False):
    """Rotates the interleaved pairs of the last rd elements; x: (..., n)."""
    phi = (F32(pos) * freqs).astype(np.float64)  # the product is an fp32 product
    cos, sin = np.cos(phi), np.sin(-phi if inverse else phi)
    y = x.copy()
    rd = 2 * len(freqs)
    a, b = x[..., -rd::2], x[..., -rd + 1 :: 2]
    y[..., -rd::2] = a * cos - b * sin
    y[..., -rd + 1 :: 2] = a * sin + b * cos
    return y


def pow2_ceil(t):
    """Smallest power of two >= t for float32 t > 0."""
    m, e = np.frexp(t)
    return np.ldexp(F32(1), np.where(m == 0.5, e - 1, e))


def round_grid(v, min_exp, mantissa_bits):
    """Round to nearest even on a float grid with subnormals below 2^min_exp."""
    _, e = np.frexp(v)
    step = np.ldexp(F32(1), np.maximum(e - 1, min_exp) - mantissa_bits)
    return np.rint(v / step) * step


def block_sim(x, block, floor, inv_max, top, min_exp, mantissa_bits):
    v = x.astype(F32).reshape(*x.shape[:-1], -1, block)
    m = np.maximum(np.abs(v).max(-1, keepdims=True), F32(floor))
    sc = pow2_ceil(m * F32(inv_max))
    q = round_grid(np.clip(v / sc, -top, top), min_exp, mantissa_bits) * sc
    return q.reshape(x.shape).astype(x.dtype)


def fp8sim(x):
    return block_sim(x, 64, 1e-4, 1 / 448, 448, -6, 3)


def fp4sim(x):
    return block_sim(x, 32, 6 * 2.0**-126, 1 / 6, 6, 0, 1)


def round_bf16(x):
    u = x.astype(F32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) & np.uint32(0xFFFF0000)).view(F32).astype(x.dtype)


def hadamard(x):
    n = x.shape[-1]
    y = x.reshape(-1, n)
    h = 1
    while h < n:
        y = y.reshape(-1, n // (2 * h), 2, h)
        y = np.stack([y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]], 2)
        h *= 2
    return y.reshape(x.shape) * n**-0.5


# ---- the model -----------------------------------------------------------------------------------

class Compressor:
    """Section 7, streaming, one instance per layer (and one for its indexer)."""

    def __init__(self, n, ratio):
        self.n, self.r, self.k = n, ratio, 2 if ratio == 4 else 1
        self.kv = np.zeros((self.k * ratio, self.k * n))
        self.sc = np.full((self.k * ratio, self.k * n), -np.inf)

    def push(self, a, g, pos):
        """Returns the pooled row if this token completes a group, else None."""
        n, r = self.n, self.r
        slot = pos % r + (r if self.k == 2 else 0)
        self.kv[slot], self.sc[slot] = a, g
        if (pos + 1) % r:
            return None
        if self.k == 1:
            kv, sc = self.kv, self.sc
        else:
            kv = np.concatenate([self.kv[:r, :n], self.kv[r:, n:]])
            sc = np.concatenate([self.sc[:r, :n], self.sc[r:, n:]])
        w = np.exp(sc - sc.max(0))  # the current group is finite, so the maximum is
        row = (w * kv).sum(0) / w.sum(0)
        if self.k == 2:
            self.kv[:r], self.sc[:r] = self.kv[r:], self.sc[r:]
        return row


class LayerState:
    def __init__(self, cfg, ratio):
        self.window = []
        self.rows, self.index_rows = [], []
        self.main = Compressor(cfg.hd, ratio) if ratio else None
        self.index = Compressor(cfg.ihd, 4) if ratio == 4 else None


class Model:
    """One sequence. get(name) returns a float32 (or int64) array for an official tensor name."""

    def __init__(self, cfg, get, sim="on", dtype=np.float64):
        self.c, self.get_raw, self.sim, self.dtype = cfg, get, sim, dtype
        self.cache = {}
        c = cfg
        yarn = (c.s, c.T0, c.bf, c.bs) if c.T0 > 0 else None
        self.freqs_window = rope_freqs(c.rd, c.theta0)
        self.freqs_compressed = rope_freqs(c.rd, c.theta1, yarn)
        self.layers = [LayerState(c, r) for r in c.r]
        self.pos = 0
        self.trace = None  # list to collect the streams after each layer

    def w(self, name):
        if name not in self.cache:
            a = self.get_raw(name)
            self.cache[name] = a if a.dtype.kind == "i" else a.astype(self.dtype)
        return self.cache[name]

    # section 5
    def hc_mix(self, X, fn):
        v = X.reshape(-1)
        return (self.w(fn) @ v) / np.sqrt(np.mean(v * v) + self.c.e)

    def hc_pre(self, X, prefix):
        c, hc = self.c, self.c.hc
        m = self.hc_mix(X, prefix + "_fn")
        scale, base = self.w(prefix + "_scale"), self.w(prefix + "_base")
        pre = sigmoid(m[:hc] * scale[0] + base[:hc]) + c.e_hc
        post = 2 * sigmoid(m[hc : 2 * hc] * scale[1] + base[hc : 2 * hc])
        Z = (m[2 * hc :] * scale[2] + base[2 * hc :]).reshape(hc, hc)
        C = np.exp(Z - Z.max(1, keepdims=True))
        C = C / C.sum(1, keepdims=True) + c.e_hc
        C = C / (C.sum(0, keepdims=True) + c.e_hc)
        for _ in range(c.T_sk - 1):
            C = C / (C.sum(1, keepdims=True) + c.e_hc)
            C = C / (C.sum(0, keepdims=True) + c.e_hc)
        return pre @ X, post, C

    @staticmethod
    def hc_post(y, X, post, C):
        return post[:, None] * y[None, :] + C.T @ X

    def hc_head(self, X, prefix=""):
        m = self.hc_mix(X, prefix + "hc_head_fn")
        w = sigmoid(m * self.w(prefix + "hc_head_scale")[0]
                    + self.w(prefix + "hc_head_base")) + self.c.e_hc
        return w @ X

    # sections 6 to 8
    def finish_row(self, row, freqs, pos):
        """RoPE and the storage form of a window row or a main compressed row."""
        row = rope(row, freqs, pos)
        nope = self.c.hd - self.c.rd
        if self.sim != "off":
            row[:nope] = fp8sim(row[:nope])
        if self.sim == "on":
            row[nope:] = round_bf16(row[nope:])
        return row

    def compress(self, comp, prefix, x, pos):
        a = self.w(prefix + "wkv.weight") @ x
        g = self.w(prefix + "wgate.weight") @ x + self.w(prefix + "ape")[pos % comp.r]
        row = comp.push(a, g, pos)
        return None if row is None else rmsnorm(row, self.c.e, self.w(prefix + "norm.weight"))

    def select(self, st, prefix, x, qr, pos, freqs):
        """Compressed rows that a ratio-4 layer attends to."""
        c = self.c
        n_vis = (pos + 1) // 4
        if n_vis <= c.K_idx:
            return range(n_vis)
        q = rope((self.w(prefix + "wq_b.weight") @ qr).reshape(c.IH, c.ihd), freqs, pos)
        q = hadamard(q)
        if self.sim != "off":
            q = fp4sim(q)
        w = (self.w(prefix + "weights_proj.weight") @ x) * (c.ihd**-0.5 * c.IH**-0.5)
        score = w @ np.maximum(0, q @ np.array(st.index_rows[:n_vis]).T)
        return np.argsort(-score, kind="stable")[: c.K_idx]  # ties: lower row first

    def attention(self, st, ratio, prefix, x, pos):
        c = self.c
        freqs = self.freqs_compressed if ratio else self.freqs_window
        qr = rmsnorm(self.w(prefix + "wq_a.weight") @ x, c.e, self.w(prefix + "q_norm.weight"))
        q = rmsnorm((self.w(prefix + "wq_b.weight") @ qr).reshape(c.H, c.hd), c.e)
        q = rope(q, freqs, pos)
        kv = rmsnorm(self.w(prefix + "wkv.weight") @ x, c.e, self.w(prefix + "kv_norm.weight"))
        st.window.append(self.finish_row(kv, freqs, pos))

        rows = st.window[max(0, len(st.window) - c.W) :]
        if ratio:
            row = self.compress(st.main, prefix + "compressor.", x, pos)
            if row is not None:
                st.rows.append(self.finish_row(row, freqs, pos + 1 - ratio))
        if ratio == 4:
            row = self.compress(st.index, prefix + "indexer.compressor.", x, pos)
            if row is not None:
                row = hadamard(rope(row, freqs, pos + 1 - ratio))
                st.index_rows.append(row if self.sim == "off" else fp4sim(row))
            rows = rows + [st.rows[i]
                           for i in self.select(st, prefix + "indexer.", x, qr, pos, freqs)]
        elif ratio:
            rows = rows + st.rows[: (pos + 1) // ratio]

        rows = np.array(rows)
        s = (q @ rows.T) * c.hd**-0.5
        sink = self.w(prefix + "attn_sink")[:, None]
        top = np.maximum(s.max(1, keepdims=True), sink)
        p = np.exp(s - top)
        o = (p @ rows) / (p.sum(1, keepdims=True) + np.exp(sink - top))
        o = rope(o, freqs, pos, inverse=True)
        wo_a = self.w(prefix + "wo_a.weight").reshape(c.og, c.ol, -1)
        low = np.einsum("god,gd->go", wo_a, o.reshape(c.og, -1))
        return self.w(prefix + "wo_b.weight") @ low.reshape(-1)

    # section 10
    def ffn(self, prefix, x, weight):
        lim = self.c.lim
        g, u = self.w(prefix + "w1.weight") @ x, self.w(prefix + "w3.weight") @ x
        if lim > 0:
            g, u = np.minimum(g, lim), np.clip(u, -lim, lim)
        return self.w(prefix + "w2.weight") @ (g * sigmoid(g) * u * weight)

    def moe(self, prefix, x, token, use_table):
        c = self.c
        sc = np.sqrt(softplus(self.w(prefix + "gate.weight") @ x))
        if use_table:
            idx = self.w(prefix + "gate.tid2eid")[token]
        else:
            idx = np.argsort(-(sc + self.w(prefix + "gate.bias")), kind="stable")[: c.K]
        wt = sc[idx] / sc[idx].sum() * c.rs
        y = self.ffn(prefix + "shared_experts.", x, 1)
        for e, weight in zip(idx, wt):
            y = y + self.ffn(f"{prefix}experts.{e}.", x, weight)
        return y

    # section 4
    def block(self, X, st, ratio, prefix, token, pos, use_table):
        c = self.c
        x, post, C = self.hc_pre(X, prefix + "hc_attn")
        x = rmsnorm(x, c.e, self.w(prefix + "attn_norm.weight"))
        X = self.hc_post(self.attention(st, ratio, prefix + "attn.", x, pos), X, post, C)
        x, post, C = self.hc_pre(X, prefix + "hc_ffn")
        x = rmsnorm(x, c.e, self.w(prefix + "ffn_norm.weight"))
        return self.hc_post(self.moe(prefix + "ffn.", x, token, use_table), X, post, C)

    def step(self, token, want_logits=True):
        """Appends a token; returns its logits (or None) and leaves the streams in self.X."""
        c = self.c
        X = np.repeat(self.w("embed.weight")[token][None, :], c.hc, 0)
        for l, st in enumerate(self.layers):
            X = self.block(X, st, c.r[l], f"layers.{l}.", token, self.pos, l < c.n_hash)
            if self.trace is not None:
                self.trace.append(X.copy())
        self.X = X
        self.pos += 1
        if not want_logits:
            return None
        return self.w("head.weight") @ rmsnorm(self.hc_head(X), c.e, self.w("norm.weight"))

    # section 11
    def mtp_step(self, st, X, token, pos):
        """One position of the block mtp.0: streams X of position pos with the NEXT token."""
        c, p = self.c, "mtp.0."
        e = self.w(p + "e_proj.weight") @ rmsnorm(self.w("embed.weight")[token], c.e,
                                                  self.w(p + "enorm.weight"))
        Y = e + rmsnorm(X, c.e, self.w(p + "hnorm.weight")) @ self.w(p + "h_proj.weight").T
        Y = self.block(Y, st, 0, p, token, pos, False)
        return self.w("head.weight") @ rmsnorm(self.hc_head(Y, p), c.e, self.w(p + "norm.weight"))


# ---- shapes by official name (section 2) ---------------------------------------------------------

def tensor_shapes(c, n_mtp=0, dspark_rank=0):
    """{official name: shape} of the logical (unpacked) tensors, in file order."""
    shapes = {"embed.weight": (c.V, c.D)}

    def block(p, ratio, hashed):
        shapes[p + "attn_norm.weight"] = (c.D,)
        shapes[p + "ffn_norm.weight"] = (c.D,)
        for part in ("attn", "ffn"):
            shapes[f"{p}hc_{part}_fn"] = ((2 + c.hc) * c.hc, c.hc * c.D)
            shapes[f"{p}hc_{part}_base"] = ((2 + c.hc) * c.hc,)
            shapes[f"{p}hc_{part}_scale"] = (3,)
        a = p + "attn."
        shapes[a + "wq_a.weight"] = (c.ql, c.D)
        shapes[a + "q_norm.weight"] = (c.ql,)
        shapes[a + "wq_b.weight"] = (c.H * c.hd, c.ql)
        shapes[a + "wkv.weight"] = (c.hd, c.D)
        shapes[a + "kv_norm.weight"] = (c.hd,)
        shapes[a + "attn_sink"] = (c.H,)
        shapes[a + "wo_a.weight"] = (c.og * c.ol, c.H * c.hd // c.og)
        shapes[a + "wo_b.weight"] = (c.D, c.og * c.ol)
        if ratio:
            compressor(a + "compressor.", ratio, c.hd)
        if ratio == 4:
            shapes[a + "indexer.wq_b.weight"] = (c.IH * c.ihd, c.ql)
            shapes[a + "indexer.weights_proj.weight"] = (c.IH, c.D)
            compressor(a + "indexer.compressor.", 4, c.ihd)
        f = p + "ffn."
        shapes[f + "gate.weight"] = (c.E, c.D)
        if hashed:
            shapes[f + "gate.tid2eid"] = (c.V, c.K)
        else:
            shapes[f + "gate.bias"] = (c.E,)
        for q in [f"{f}experts.{e}." for e in range(c.E)] + [f + "shared_experts."]:
            shapes[q + "w1.weight"] = (c.F, c.D)
            shapes[q + "w2.weight"] = (c.D, c.F)
            shapes[q + "w3.weight"] = (c.F, c.D)

    def compressor(p, ratio, n):
        k = 2 if ratio == 4 else 1
        shapes[p + "wkv.weight"] = (k * n, c.D)
        shapes[p + "wgate.weight"] = (k * n, c.D)
        shapes[p + "ape"] = (ratio, k * n)
        shapes[p + "norm.weight"] = (n,)

    def head(p):
        shapes[p + "hc_head_fn"] = (c.hc, c.hc * c.D)
        shapes[p + "hc_head_base"] = (c.hc,)
        shapes[p + "hc_head_scale"] = (1,)
        shapes[p + "norm.weight"] = (c.D,)

    for l in range(c.L):
        block(f"layers.{l}.", c.r[l], l < c.n_hash)
    head("")
    shapes["head.weight"] = (c.V, c.D)
    for m in range(n_mtp):
        p = f"mtp.{m}."
        if dspark_rank:  # section 12: stages of a block drafter
            if m == 0:
                shapes[p + "main_proj.weight"] = (c.D, 3 * c.D)
                shapes[p + "main_norm.weight"] = (c.D,)
            block(p, 0, False)
            if m == n_mtp - 1:
                head(p)
                shapes[p + "markov_head.markov_w1.weight"] = (c.V, dspark_rank)
                shapes[p + "markov_head.markov_w2.weight"] = (c.V, dspark_rank)
                shapes[p + "confidence_head.proj.weight"] = (1, c.D + dspark_rank)
            continue
        for proj in ("e_proj", "h_proj"):
            shapes[f"{p}{proj}.weight"] = (c.D, c.D)
        shapes[p + "enorm.weight"] = shapes[p + "hnorm.weight"] = (c.D,)
        block(p, 0, False)
        head(p)
    return shapes


# ---- golden tiny model (section 17) --------------------------------------------------------------

GOLDEN = dict(V=101, D=64, L=6, H=4, hd=192, rd=64, ql=32, og=2, ol=16, W=16,
              r=[0, 4, 128, 4, 8, 0], IH=16, ihd=128, K_idx=5, F=64, E=8, K=2, n_hash=2, rs=1.5,
              lim=0.6, hc=4, T_sk=20, e=1e-6, e_hc=1e-6, theta0=10000.0, theta1=160000.0, T0=64,
              s=16.0, bf=32.0, bs=1.0)


def fnv1a(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = (h ^ b) * 0x100000001B3 % 2**64
    return h


def splitmix(z):
    """z: an array of uint64."""
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def hashed_tensor(name, shape, n_experts):
    """A tensor filled from its name, by the rules of section 17."""
    with np.errstate(over="ignore"):
        if name.endswith("tid2eid"):
            r = splitmix(np.uint64(fnv1a(name)) + np.arange(shape[0], dtype=np.uint64))
            n = np.uint64(n_experts)
            first = (r >> np.uint64(8)) % n
            ids = [(first + np.uint64(0)) % n]
            if shape[1] > 1:
                ids.append((first + np.uint64(1) + (r >> np.uint64(32)) % (n - np.uint64(1))) % n)
            return np.stack(ids, 1).astype(np.int64)
        z = splitmix(np.uint64(fnv1a(name)) + np.arange(math.prod(shape), dtype=np.uint64))
    u = ((z >> np.uint64(40)).astype(np.float64) / 2**23 - 1).astype(F32).reshape(shape)
    if "norm" in name:
        return 1 + F32(0.25) * u
    if name.endswith("embed.weight"):
        return u
    if name.endswith("ape"):
        return F32(3) * u
    if name.endswith("_scale"):
        return F32(0.75) + F32(0.25) * u
    if len(shape) == 1:
        return F32(0.5) * u
    return u * F32(math.sqrt(3 / shape[-1]))


def golden_ids(n):
    return [int(v) for v in splitmix(np.uint64(7777) + np.arange(n, dtype=np.uint64))
            % np.uint64(101)]


def golden_weights():
    c = Config(**GOLDEN)
    return c, {n: hashed_tensor(n, s, c.E) for n, s in tensor_shapes(c, 1).items()}


# p: (argmax, logits[0..3], sum of abs logits or None)
GOLDEN_OFF = {
    0: (51, (-0.69256, 0.67148, 1.52837, -0.11361), 69.23343),
    3: (23, (-0.07985, 0.93486, 0.80901, 1.46027), 77.07558),
    4: (47, (-0.54312, 0.62470, 0.31671, 2.11438), 87.81727),
    7: (26, (0.79204, -0.00087, 1.30184, 1.24817), 77.10530),
    20: (26, (1.70545, 1.52745, 0.16585, -0.27108), 72.61454),
    127: (51, (-0.67391, -0.32070, 2.03367, -0.90550), 83.08905),
    128: (51, (-1.78125, -1.22833, -0.49061, 0.38788), 76.40392),
    255: (90, (-0.70985, 0.35659, 0.96373, -1.97957), 78.91853),
    299: (62, (-0.27026, 0.39565, 1.52456, -0.36254), 86.24151),
}
GOLDEN_PLAIN = {
    0: (51, (-0.68147, 0.68278, 1.56167, -0.11622), None),
    3: (23, (-0.10460, 0.98649, 0.83328, 1.41992), None),
    4: (47, (-0.53359, 0.65247, 0.30883, 2.10060), None),
    7: (26, (0.82694, -0.00343, 1.23143, 1.23529), None),
    20: (26, (1.65171, 1.53460, 0.19201, -0.24811), None),
}
GOLDEN_NATIVE = {
    0: (51, (-0.68439, 0.69340, 1.55619, -0.11599), 69.78902),
    3: (23, (-0.10853, 0.99879, 0.82190, 1.41005), 77.40156),
    4: (47, (-0.54118, 0.66208, 0.31069, 2.07978), 88.21067),
    7: (26, (0.80498, 0.02554, 1.25317, 1.24494), 77.20104),
    15: (2, (0.36927, 1.20141, 2.77203, 0.65534), 85.15696),
    20: (26, (1.65797, 1.52981, 0.19828, -0.26203), 72.88744),
}
GOLDEN_STREAMS = (  # after each layer at p = 20: X[0][0..2], X[3][0..2]
    (-0.64798, 0.68238, 1.09081, -0.68663, 0.74877, 0.94575),
    (-0.76096, 0.96292, 1.17200, -0.77892, 1.08610, 1.16202),
    (-1.02680, 0.56469, 1.50408, -1.07842, 0.50349, 1.56656),
    (-1.31396, 0.07560, 1.63682, -1.36199, 0.10850, 1.60906),
    (-1.23790, 0.19090, 1.38237, -1.21993, 0.20485, 1.39207),
    (0.99676, 1.42008, 1.84570, 0.20198, 0.93074, 1.66937),
)
GOLDEN_MTP = (32, (0.68214, -1.08388, -2.50837, 0.79118), None)  # i = 29


class Checks:
    def __init__(self):
        self.failed = 0

    def that(self, ok, text):
        print(("ok    " if ok else "FAIL  ") + text)
        self.failed += not ok

    def close(self, got, want, tol, text):
        diff = float(np.max(np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))))
        self.that(diff <= tol, f"{text}: max difference {diff:.2g} (tolerance {tol:g})")

    def logits(self, got, want, tol, text):
        argmax, first, total = want
        self.that(int(np.argmax(got)) == argmax, f"{text}: argmax {argmax}")
        self.close(got[:4], first, tol, f"{text}: logits[0..3]")
        if total is not None:  # 101 logits, so the sum may differ by more than one of them
            self.close(np.abs(got).sum(), total, 20 * tol, f"{text}: sum of abs logits")


def check_primitives(ck, weights):
    ck.that(fnv1a("embed.weight") == 0x9AC37BCAC2DC8A00, "FNV-1a of embed.weight")
    ck.that(int(splitmix(np.zeros(1, np.uint64))[0]) == 0xE220A8397B1DCDAF, "splitmix(0)")
    ck.that(golden_ids(8) == [8, 17, 65, 37, 63, 21, 91, 72], "token ids")
    ck.close(weights["embed.weight"][0, :3], (0.0350399, -0.9550754, -0.8646539), 6e-8, "embed")
    ck.close(weights["layers.1.attn.wq_a.weight"][0, :3], (0.2127873, 0.0324370, 0.1921513), 6e-8,
             "layers.1.attn.wq_a")
    ck.that(weights["layers.0.ffn.gate.tid2eid"].reshape(-1)[:3].tolist() == [2, 3, 6], "tid2eid")
    n = sum(w.size for name, w in weights.items())
    ck.that(n == 1641596, f"weights in total: {n}")
    x = np.zeros(64)
    x[:4] = 0.1, -3.3, 449, 1e-5
    ck.that(fp8sim(x)[:4].tolist() == [0.1015625, -3.25, 448, 0], "FP8sim")
    x = np.zeros(32)
    x[:6] = 0.1, 0.3, -1.3, 5, 2.5, 0.26
    ck.that(fp4sim(x)[:6].tolist() == [0, 0.5, -1.5, 4, 2, 0.5], "FP4sim")
    x = np.zeros(128)
    x[0] = 1
    ck.close(hadamard(x), 0.08838835, 1e-8, "Hadamard of e_0")
    f = rope_freqs(64, 160000.0, (16, 65536, 32, 1)) / rope_freqs(64, 160000.0)
    want = np.concatenate([np.ones(16), 0.90625 - 0.09375 * np.arange(9), np.full(7, 0.0625)])
    ck.close(f, want, 1e-6, "YaRN ramp of Flash")


def check_golden():
    ck = Checks()
    cfg, weights = golden_weights()
    check_primitives(ck, weights)
    ids = golden_ids(300)

    model = Model(cfg, weights.__getitem__, "off")
    mtp, draft = LayerState(cfg, 0), None
    for p, t in enumerate(ids):
        model.trace = [] if p == 20 else None
        logits = model.step(t, p in GOLDEN_OFF)
        if p in GOLDEN_OFF:
            ck.logits(logits, GOLDEN_OFF[p], 1e-4, f"sim off, p {p}")
        if p == 20:
            for l, want in enumerate(GOLDEN_STREAMS):
                got = np.concatenate([model.trace[l][0][:3], model.trace[l][3][:3]])
                ck.close(got, want, 1e-4, f"streams at p 20 after layer {l}")
        if p < 30:
            draft = model.mtp_step(mtp, model.X, ids[p + 1], p)
    ck.logits(draft, GOLDEN_MTP, 1e-4, "MTP block, i 29")
    for sim, table in (("plain", GOLDEN_PLAIN), ("on", GOLDEN_NATIVE)):
        model = Model(cfg, weights.__getitem__, sim)
        for p in range(21):
            logits = model.step(ids[p], p in table)
            if p in table:
                ck.logits(logits, table[p], 1e-3, f"sim {sim}, p {p}")
    print(f"golden tiny model: {'FAILED, %d checks' % ck.failed if ck.failed else 'all passed'}")
    return 1 if ck.failed else 0


# ---- command line --------------------------------------------------------------------------------

def load_model(directory, sim, dtype):
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
        cfg = Config.from_json(json.load(f))
    return cfg, lambda: Model(cfg, Checkpoint(directory).get, sim, dtype)


def number(v):
    return "%.9g" % v if math.isfinite(v) else "null"


def print_logits(cfg, make, ids, every):
    model, out = make(), []
    for p, t in enumerate(ids):
        if not 0 <= t < cfg.V:
            raise SystemExit(f"id {t} is outside the vocabulary of {cfg.V}")
        logits = model.step(t, every or p + 1 == len(ids))
        if logits is not None:
            values = ",".join(number(v) for v in logits)
            out.append(f'{{"pos":{p},"argmax":{int(np.argmax(logits))},"logits":[{values}]}}')
    print(f'{{"vocab":{cfg.V},"positions":[{",".join(out)}]}}')


def check_continuations(make, path, limit, sim):
    """Greedy continuations of an evaluation set: top-5 logits of every step."""
    suffix = "_sims" if sim != "off" else ""
    tol = 0.05 if suffix else 1e-3
    worst = steps = 0
    with open(path, encoding="utf-8") as f:
        for line in list(f)[:limit]:
            entry, model = json.loads(line), make()
            greedy = entry.get("greedy_ids" + suffix, entry["greedy_ids"])
            ids = entry["prompt_ids"] + greedy
            for p, t in enumerate(ids[:-1]):
                k = p + 1 - len(entry["prompt_ids"])
                logits = model.step(t, k >= 0)
                if k >= 0:
                    want = entry["top5" + suffix][k]
                    diff = max(abs(logits[i] - v) for i, v in want)
                    worst, steps = max(worst, diff), steps + 1
                    if int(np.argmax(logits)) != greedy[k]:
                        raise SystemExit(f"{entry['id']} step {k}: another token")
            print(f"{entry['id']}: {len(greedy)} steps, worst difference so far {worst:.2g}",
                  flush=True)
    print(f"{steps} steps, worst difference {worst:.3g} (tolerance {tol:g})")
    return 0 if worst <= tol else 1


def main():
    ap = argparse.ArgumentParser(description="numpy reference of the DeepSeek V4 forward pass")
    ap.add_argument("dir", nargs="?")
    ap.add_argument("--ids", help="comma-separated token ids")
    ap.add_argument("--sim", choices=("on", "off", "plain"), default="on")
    ap.add_argument("--all", action="store_true", help="every position, not only the last")
    ap.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    ap.add_argument("--golden", action="store_true")
    ap.add_argument("--continuations", metavar="FILE")
    ap.add_argument("--limit", type=int, default=None, help="entries of --continuations to check")
    args = ap.parse_args()
    if args.golden:
        return check_golden()
    if not args.dir or not (args.ids or args.continuations):
        ap.error("DIR with --ids or --continuations, or --golden")
    cfg, make = load_model(args.dir, args.sim, np.dtype(args.dtype).type)
    if args.continuations:
        return check_continuations(make, args.continuations, args.limit, args.sim)
    print_logits(cfg, make, [int(v) for v in args.ids.split(",")], args.all)
    return 0


if __name__ == "__main__":
    sys.exit(main())
