#!/usr/bin/env python3
"""`bench`: columns, JSON, labels and refusals on the embedded mini model; synthetic models as files.
Speeds are only checked for being there: a test machine may be busy."""
import csv
import io
import math
import statistics

from program import *

COLUMNS = ["ctx_tokens", "prefill_tokens", "prefill_tps", "gen_tokens", "gen_tps", "kvcache_bytes"]
PLOT = os.path.join(ROOT, "tools", "plot_bench.py")
CUT = ["--synthetic", "flash", "--layers", "2", "--ratios", "4,128", "--experts", "6", "--vocab", "320"]


def bench(*args):
    return good("bench", *args)


def close(a, b):
    return math.isclose(a, b, rel_tol=1e-4)


def check_spread(spread, times, base):
    """What is said of the quotients of two contexts' times against what their rounds say."""
    q = [t / b for t, b in zip(times, base)]
    for key, want in zip(("q1", "median", "q3"), statistics.quantiles(q, n=4, method="inclusive")):
        assert close(spread[key], want), (key, spread, want)
    if len(q) < 6:
        assert spread["lo"] is None and spread["hi"] is None
    else:  # its ends are two of the values
        assert spread["lo"] <= spread["median"] <= spread["hi"]
        assert all(any(close(spread[key], x) for x in q) for key in ("lo", "hi"))


def check_in_turn(b, gen):
    """The comparison of contexts measured in turn agrees with the rounds it came from, and these with
    the rates."""
    assert b["in_turn"] is True and b["alone_because"] is None
    first = b["rows"][0]["in_turn"]
    full = []
    for row in b["rows"]:
        turn, kinds = row["in_turn"], row["in_turn"]["kinds"]
        assert turn["against"] == b["rows"][0]["ctx_tokens"] and turn["rounds"] == row["gen_tokens"] == gen
        assert len(turn["step_ms"]) == len(turn["head_ms"]) == gen and min(turn["step_ms"]) > 0
        assert close(statistics.mean(turn["step_ms"]), 1000 / row["gen_tps"])
        assert close(min(turn["step_ms"]), 1000 / row["gen_best_tps"])
        assert [k["ratio"] for k in kinds] == [k["ratio"] for k in row["kinds"]]
        for i, step in enumerate(turn["step_ms"]):
            assert close(turn["head_ms"][i] + sum(k["layers_ms"][i] for k in kinds), step)
        check_spread(turn["step"], turn["step_ms"], first["step_ms"])
        check_spread(turn["head"], turn["head_ms"], first["head_ms"])
        for k, k0 in zip(kinds, first["kinds"]):
            check_spread(k["layers"], k["layers_ms"], k0["layers_ms"])
        full.append([turn["head_ms"][i] + sum(k["layers_ms"][i] / of["layers"] * of["layers_in_model"]
                                              for k, of in zip(kinds, row["kinds"])) for i in range(gen)])
        if row["extrapolated"]:
            check_spread(turn["extrapolated"], full[-1], full[0])
        else:
            assert turn["extrapolated"] is None
    for spread in (first["step"], first["head"], *(k["layers"] for k in first["kinds"])):
        assert set(spread.values()) <= {1, None}


def test_csv():
    rows = list(csv.DictReader(io.StringIO(bench("--frontiers", "256,512", "--gen", "4", "--csv"))))
    assert list(rows[0]) == COLUMNS and [r["ctx_tokens"] for r in rows] == ["256", "512"]
    # behind the prompt: one warm step, two traced ones and the four that are timed
    assert [int(r["prefill_tokens"]) for r in rows] == [256 - 7, 512 - 256 - 7]
    for r in rows:
        assert float(r["prefill_tps"]) > 0 and float(r["gen_tps"]) > 0 and r["gen_tokens"] == "4"
        assert int(r["kvcache_bytes"]) > 0


def test_json():
    b = json.loads(bench("--frontiers", "256,1k", "--gen", "6", "--fill", "--prefill", "64", "--json"))
    check_in_turn(b, 6)
    assert b["model"] == "mini" and b["random_weights"] is False and b["layers"] == b["layers_in_model"] == 5
    assert b["read_gbs"] > 0 and b["int8_gops"] > 0 and b["cpu"] and b["threads"] >= 1
    for row, ctx in zip(b["rows"], (256, 1024)):
        assert row["ctx_tokens"] == ctx and row["filled"] is True and row["extrapolated"] is None
        assert 64 <= row["prefill_tokens"] < 64 + 128
        assert sum(k["layers"] for k in row["kinds"]) == 5
        total = row["head_decode_ms"] + sum(k["decode_ms"] for k in row["kinds"])
        assert math.isclose(total, 1000 / row["gen_tps"], rel_tol=1e-4)
        assert math.isclose(sum(row["op_ms"].values()), total, rel_tol=1e-4)
        assert row["bytes_per_token"] == row["head_bytes"] + sum(k["bytes"] for k in row["kinds"])
        assert row["bandwidth_share"] > 0
        products = row["prefill_products"]
        by_op = row["prefill_products_by_op"]
        assert {"MOE_UP", "MOE_DOWN", "LINEAR", "HC_MIX"} <= set(by_op) and "ATTN" not in by_op
        assert by_op["HC_MIX"]["block"] is None and by_op["MOE_UP"]["float"] is None
        for p in [products, *by_op.values()]:
            for part in p.values():
                assert part is None or math.isclose(part["share"], part["gflops"] / part["loop_gops"], rel_tol=1e-4)
        for part in ("block", "float", "all"):
            ms = sum(p[part]["ms"] for p in by_op.values() if p[part])
            assert math.isclose(ms, products[part]["ms"], rel_tol=1e-4) and ms > 0
        assert math.isclose(products["block"]["ms"] + products["float"]["ms"], products["all"]["ms"], rel_tol=1e-4)


def test_bytes_by_the_formula(work):
    """Bytes per token against the sizes in the file: everything once, the used share of experts, one
    row of the embedding and of the hash tables, and the cache rows."""
    path = os.path.join(work, "mini.gguf")
    converted(MINI_DIR, path, "q8")
    tensors = json.loads(good("inspect", "--json", path))["tensors"]
    config = json.load(open(os.path.join(MINI_DIR, "config.json"), encoding="utf-8"))
    used, experts = config["num_experts_per_tok"], config["n_routed_experts"]
    weights = 0
    for t in tensors:
        size, name = t["bytes"], t["name"]
        if "_exps" in name:
            size = size * used // experts
        elif name == "token_embd.weight" or "tid2eid" in name:
            size //= config["vocab_size"]
        weights += size
    b = json.loads(bench("-m", path, "--frontiers", "512", "--gen", "4", "--json"))
    row = b["rows"][0]
    assert b["in_turn"] is False and "one" in b["alone_because"] and row["in_turn"] is None
    rope, head = config["qk_rope_head_dim"], config["head_dim"]
    cache_row = (head - rope) + 2 * rope + -(-((head - rope) // 64) // 8) * 8
    index_row = config["index_head_dim"] // 2 + config["index_head_dim"] // 32
    cache = 0
    for ratio in config["compress_ratios"][:b["layers"]]:
        n = min(512, config["sliding_window"])
        if ratio == 4:
            n += min(512 // 4, config["index_topk"])
            cache += 512 // 4 * index_row if 512 // 4 > config["index_topk"] else 0
        elif ratio:
            n += 512 // ratio
        cache += n * cache_row
    assert row["bytes_per_token"] == weights + cache, (row["bytes_per_token"], weights, cache)


def test_text():
    text = bench("--frontiers", "256,512", "--gen", "4", "--fill", "--prefill", "64")
    assert "256*" in text and "random rows" in text and "GB/s" in text and "extrapolated" not in text
    assert "block formats" in text and "MOE_DOWN" in text and "HC_MIX" in text
    assert "2 contexts decode in turn" in text and "that at 256 in the same round, 4 rounds" in text
    assert "layers of ratio 128" in text
    text = bench("--frontiers", "256,512", "--gen", "2")
    assert "2 contexts, one after the other: a computed prompt" in text and "same round" not in text


def test_memory_for_all():
    """Contexts are held together while memory allows; if not, each is measured alone, and that is
    said: on stderr, and in what is written to stdout."""
    args = ["bench", "--frontiers", "2k,6k", "--gen", "3", "--fill", "--prefill", "16"]
    b = json.loads(good(*args, "--json"))
    check_in_turn(b, 3)
    size = [r["kvcache_bytes"] for r in b["rows"]]
    need = sum(size)  # the pages of both are full
    code, out, err = run(*args, "--kv-memory", need, "--csv")
    assert code == 0 and "one after the other" not in err
    rows = list(csv.DictReader(io.StringIO(out.decode())))
    assert list(rows[0]) == COLUMNS and [int(r["kvcache_bytes"]) for r in rows] == size
    code, out, err = run(*args, "--kv-memory", need - 1, "--json")
    b = json.loads(out)
    assert code == 0 and "one after the other" in err and "--kv-memory" in err
    assert b["in_turn"] is False and "--kv-memory" in b["alone_because"]
    assert [(r["in_turn"], r["kvcache_bytes"]) for r in b["rows"]] == [(None, n) for n in size]
    bad(2, "beyond", *args, "--kv-memory", need // 2)  # not even one after the other


def test_kernels():
    args = ["--kernels", "--formats", "q8_0,F32", "--decode-only", "--cpu-mask", "1", "-t", "1"]
    b = json.loads(bench(*args, "--json"))
    assert [(k["format"], k["tier"], k["threads"]) for k in b["kernels"]] == [("Q8_0", "c", 1), ("F32", "c", 1)]
    assert all(k["gbs"] > 0 and k["read_gbs"] > 0 for k in b["kernels"])
    assert b["machine"][0]["int8_gops"] > 0 and b["machine"][0]["f32_gflops"] > 0
    rows = list(csv.DictReader(io.StringIO(bench(*args, "--csv"))))
    assert [r["format"] for r in rows] == ["Q8_0", "F32"]


def test_synthetic_file(work):
    """A small cut as a file: passes every check, is measured, and is extrapolated with a label."""
    path = os.path.join(work, "cut.gguf")
    assert bench(*CUT, "--save", path) == ""
    assert "all checks passed" in good("inspect", "--check", path)
    tensors = sorted(json.loads(good("inspect", "--json", path))["tensors"], key=lambda t: t["offset"])
    end = tensors[0]["offset"]
    for t in tensors:  # the running-sum rule: no gaps but padding to 32
        assert t["offset"] == end, t["name"]
        end = t["offset"] + -(-t["bytes"] // 32) * 32
    assert end == os.path.getsize(path)
    out = json.loads(good("logits", "-m", path, "--ids", "1,2,3,4,5,6,7,8,9", "--all", "--json"))
    for p in out["positions"]:
        spread = math.sqrt(sum(x * x for x in p["logits"]) / out["vocab"])
        assert 0.2 < spread < 5, (p["pos"], spread)  # None would fail: all are finite
    b = json.loads(bench("-m", path, "--frontiers", "256", "--gen", "2", "--fill", "--prefill", "16", "--json"))
    assert b["random_weights"] is True and b["layers"] == 2 and b["layers_in_model"] == 43
    kinds = {k["ratio"]: k["layers_in_model"] for k in b["rows"][0]["kinds"]}
    assert kinds == {4: 21, 128: 20}
    assert b["rows"][0]["extrapolated"] is None  # the cut has no window layer


def test_synthetic_in_memory():
    args = ["--synthetic", "flash", "--layers", "3", "--experts", "6", "--vocab", "320"]
    b = json.loads(bench(*args, "--frontiers", "256,512", "--gen", "2", "--fill", "--prefill", "16", "--json"))
    check_in_turn(b, 2)
    assert b["rows"][1]["in_turn"]["extrapolated"]["median"] > 0
    assert b["layers"] == 3 and 0 < b["rows"][0]["extrapolated"]["gen_tps"] < b["rows"][0]["gen_tps"]


def test_standard():
    """The standard pair: a computed prompt of 11,709 tokens, and decoding at 32k behind random rows."""
    if not os.environ.get("FATHOM_TEST_LONG"):
        return  # ten seconds of a quiet machine
    rows = list(csv.DictReader(io.StringIO(bench("--standard", "--fill", "--gen", "4", "--csv"))))
    assert list(rows[0]) == COLUMNS and rows[0]["prefill_tokens"] == "11709"
    assert [int(r["ctx_tokens"]) for r in rows] == [11709 + 9, 32768]  # one warm step, four traced, four timed
    assert 256 <= int(rows[1]["prefill_tokens"]) < 256 + 128 and float(rows[1]["gen_tps"]) > 0


def test_refusals(work):
    for needle, args in (
            ("either -m or --synthetic", ["-m", "x", "--synthetic", "flash"]),
            ("go with --synthetic", ["--layers", "4"]), ("go with --synthetic", ["--save", "x"]),
            ("goes with --layers", ["--synthetic", "flash", "--ratios", "0,4"]),
            ("names 2 layers", ["--synthetic", "flash", "--ratios", "0,4", "--layers", "3"]),
            ("such as 0,4,128,4", ["--synthetic", "flash", "--ratios", "0,x", "--layers", "2"]),
            ("44 layers", ["--synthetic", "flash", "--layers", "44"]),
            ("3 experts", ["--synthetic", "flash", "--layers", "1", "--experts", "3"]),
            ("ascending", ["--frontiers", "2k,1k"]), ("ascending", ["--frontiers", "x"]),
            ("empty", ["--frontiers", ""]), ("beyond", ["--frontiers", "64m"]),
            ("room", ["--frontiers", "8"]), ("room", ["--frontiers", "256,257"]),
            ("either --csv or --json", ["--csv", "--json"]), ("weight format", ["--kernels", "--formats", "q9"]),
            ("go with --kernels", ["--formats", "q8_0"]), ("not a model", ["--kernels", "-m", "x"]),
            ("either --standard or", ["--standard", "--frontiers", "2k"])):
        bad(2, needle, "bench", *args)
    # more than this machine has: refused before anything is allocated, with the lever
    bad(1, "--layers", "bench", "--synthetic", "pro", "--recipe", "f32")
    bad(1, "disk space", "bench", "--synthetic", "pro", "--recipe", "f32", "--save", os.path.join(work, "x.gguf"))
    assert os.listdir(work) == [n for n in os.listdir(work) if not n.startswith("x.gguf")]


def test_plot(work):
    """The plot script draws what bench wrote, with and without matplotlib."""
    path = os.path.join(work, "bench.csv")
    with open(path, "w", encoding="utf-8") as f:
        f.write(bench("--frontiers", "256,512", "--gen", "4", "--csv"))
    out = os.path.join(work, "bench.svg")
    python(PLOT, path, "-o", out, "--plain")
    with open(out, encoding="utf-8") as f:
        svg = f.read()
    assert svg.startswith("<svg") and svg.count("<polyline") == 2 and "bench.csv" in svg


if __name__ == "__main__":
    sys.exit(main(globals()))
