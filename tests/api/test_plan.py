#!/usr/bin/env python3
"""`plan` and `explain`: the documented figures, and refusal of what cannot fit before anything is
allocated, on a sparse file with the layout of the real V4 Flash GGUF."""
import struct

from program import *


def plan(*args):
    return json.loads(good("plan", "--json", *args))


def rows_bytes(ctx, ratios, sim=True):
    """KV rows of ctx tokens by the documented formula: 584-byte rows, index rows of 68 bytes."""
    return sum(ctx // r * (584 + (68 if r == 4 else 0)) for r in ratios if r)


FLASH = [0, 0] + [4 if i % 2 == 0 else 128 for i in range(41)]


def test_rows():
    for ctx in (2048, 131072, 1048576):
        p = plan("--shape", "flash", "--recipe", "q2", "--ctx", ctx)
        assert p["rows_bytes"] == rows_bytes(ctx, FLASH), (ctx, p["rows_bytes"], rows_bytes(ctx, FLASH))
        assert p["total_bytes"] == p["weight_bytes"] + p["scratch_bytes"] + p["kv_bytes"]
        pages = -(-ctx // 2048)
        assert p["kv_bytes"] == pages * p["page_bytes"] + p["slot_bytes"]
    assert 3.6e9 < p["rows_bytes"] < 3.8e9 and 3.6e9 < p["kv_bytes"] < 3.8e9


def test_sequences():
    one = plan("--shape", "flash", "--ctx", "64k")
    four = plan("--shape", "flash", "--ctx", "64k", "--sequences", "4")
    assert four["total_bytes"] - one["total_bytes"] >= 3 * one["kv_bytes"]


def test_recipes():
    sizes = [plan("--shape", "flash", "--ctx", "4k", "--recipe", r)["weight_bytes"]
             for r in ("q2", "q4", "mxfp4", "q8", "bf16", "f32")]
    assert sizes[0] < min(sizes[1:3]) and max(sizes[1:3]) < sizes[3] < sizes[4] < sizes[5]
    assert plan("--shape", "pro", "--ctx", "4k")["weight_bytes"] > 3 * sizes[0]


def test_does_not_fit():
    p = plan("--shape", "pro", "--recipe", "f32", "--ctx", "1m")
    assert p["fits"] is False and p["advice"] and p["max_ctx_fits"] == 0
    text = good("plan", "--shape", "pro", "--recipe", "f32", "--ctx", "1m")
    assert "fits: no" in text and p["advice"].split(": ", 1)[1] in text  # the number before it varies


def test_mini():
    p = plan("--ctx", "4k")
    assert p["fits"] and p["weight_bytes"] < 2e7 and p["rows_bytes"] > 0


def test_explain_counts():
    e = json.loads(good("explain", "--shape", "flash", "--recipe", "q2", "--json"))
    assert e["ops"] == 883 and e["levels"] == 671 and e["launches"] == {"metal": 521, "cpu": 671, "ref": 883}
    assert e["ops"] == sum(e["by_kind"].values())
    for extra in (["--tokens", "256"], ["--recipe", "f16"], ["--sim", "off"]):
        f = json.loads(good("explain", "--shape", "flash", "--json", *extra))
        assert (f["ops"], f["levels"]) == (883, 671), extra
    listing = good("explain", "--shape", "flash", "--layer", "-1")
    assert len([x for x in listing.splitlines() if x[:5].strip().isdigit()]) == 883
    assert "883 ops, 671 levels" in listing and "launches cpu 671" in listing


def test_explain_file():
    e = json.loads(good("explain", "--json"))
    assert e["by_kind"]["ATTN"] == 5 and e["by_kind"]["INDEX_SELECT"] == 2
    assert "arena" in good("explain", "--operands", "--layer", "2")


def write_string(f, s):
    f.write(struct.pack("<Q", len(s)) + s.encode())


BLOCKS = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84),
          "IQ2_XXS": (16, 256, 66), "I32": (26, 1, 4), "Q4_K": (12, 256, 144), "BF16": (30, 1, 2),
          "MXFP4": (39, 32, 17)}


def sparse_flash(path):
    """A file with metadata and tensors of the real V4 Flash (q2), all data a hole."""
    ints = {"block_count": 43, "context_length": 1048576, "embedding_length": 4096, "vocab_size": 129280,
            "attention.head_count": 64, "attention.head_count_kv": 1, "attention.key_length": 512,
            "attention.value_length": 512, "attention.q_lora_rank": 1024, "attention.output_lora_rank": 1024,
            "attention.output_group_count": 8, "attention.sliding_window": 128,
            "attention.indexer.head_count": 64, "attention.indexer.key_length": 128,
            "attention.indexer.top_k": 512, "rope.dimension_count": 64,
            "rope.scaling.original_context_length": 65536, "expert_count": 256, "expert_used_count": 6,
            "expert_shared_count": 1, "expert_feed_forward_length": 2048, "expert_gating_func": 4,
            "hash_layer_count": 3, "hyper_connection.count": 4, "hyper_connection.sinkhorn_iterations": 20}
    floats = {"attention.layer_norm_rms_epsilon": 1e-6, "attention.compress_rope_freq_base": 160000.0,
              "rope.freq_base": 10000.0, "rope.scaling.factor": 16.0, "rope.scaling.yarn_beta_fast": 32.0,
              "rope.scaling.yarn_beta_slow": 1.0, "expert_weights_scale": 1.5, "hyper_connection.epsilon": 1e-6}
    listing = good("explain", "--shape", "flash", "--recipe", "q2", "--layer", "-1")
    assert listing  # the shape is known; the tensors come from the documented layout
    tensors = []
    with open(data("gguf-layout/v4-flash-tensors.tsv"), encoding="utf-8") as f:
        rows = [line.rstrip("\n").split("\t") for line in f if line.strip() and not line.startswith("#")]
    head = [h.lower() for h in rows[0]]
    for r in rows[1:]:
        tensors.append(dict(zip(head, r)))
    with open(path, "wb") as f:
        n_kv = 1 + len(ints) + len(floats) + 4
        f.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), n_kv))
        write_string(f, "general.architecture")
        f.write(struct.pack("<I", 8))
        write_string(f, "deepseek4")
        for k, v in ints.items():
            write_string(f, "deepseek4." + k)
            f.write(struct.pack("<II", 4, v))
        for k, v in floats.items():
            write_string(f, "deepseek4." + k)
            f.write(struct.pack("<If", 6, v))
        write_string(f, "deepseek4.rope.scaling.type")
        f.write(struct.pack("<I", 8))
        write_string(f, "yarn")
        write_string(f, "deepseek4.expert_weights_norm")
        f.write(struct.pack("<IB", 7, 1))
        write_string(f, "deepseek4.attention.compress_ratios")
        f.write(struct.pack("<IIQ43i", 9, 5, 43, *FLASH))
        write_string(f, "deepseek4.swiglu_clamp_exp")
        f.write(struct.pack("<IIQ43f", 9, 6, 43, *[10.0] * 43))
        offset = 0
        for t in tensors:
            name, dims, kind = t["name"], t["dims"], t["type_q2"]
            ne = [int(x) for x in dims.replace("x", ",").replace("[", "").replace("]", "").split(",")]
            qid, block, size = BLOCKS[kind]
            write_string(f, name)
            f.write(struct.pack("<I", len(ne)) + b"".join(struct.pack("<Q", x) for x in ne))
            f.write(struct.pack("<IQ", qid, offset))
            n = 1
            for x in ne:
                n *= x
            offset += (n // block * size + 31) // 32 * 32
        start = (f.tell() + 31) // 32 * 32
        f.truncate(start + offset)
    return start + offset


def test_out_of_memory_is_refused(work):
    path = os.path.join(work, "flash.gguf")
    size = sparse_flash(path)
    assert size > 60e9
    p = json.loads(good("plan", "-m", path, "--ctx", "1m", "--json"))
    assert abs(p["weight_bytes"] - size) < 1e9 and p["rows_bytes"] == rows_bytes(1048576, FLASH)
    if p["fits"]:
        return  # a machine that can really hold it
    err = bad(1, "GB", "logits", "-m", path, "--ids", "1,2,3", "--json")
    assert "cannot load" in err
    os.unlink(path)


def test_context_beyond_memory():
    """The mini model is small, but 1M tokens for 1000 conversations are not."""
    p = plan("--ctx", "1m", "--sequences", "1000")
    assert p["total_bytes"] > 1000 * p["kv_bytes"]


if __name__ == "__main__":
    sys.exit(main(globals()))
