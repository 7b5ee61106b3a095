#!/usr/bin/env python3
"""Model files that are cut, damaged or hostile: every command refuses them with exit code 3 and
names the key or tensor; none crashes, hangs or takes much memory."""
import random
import struct

from program import *

MINI = os.path.join(os.path.dirname(PROGRAM), "mini.gguf")


def mini(work):
    """The converted mini model, bytes; converted here if the build has none beside the program."""
    if os.path.exists(MINI):
        with open(MINI, "rb") as f:
            return f.read()
    path = os.path.join(work, "base.gguf")
    if not os.path.exists(path):
        converted(MINI_DIR, path, "q2")
    with open(path, "rb") as f:
        return f.read()


def write(work, content, name="bad.gguf"):
    path = os.path.join(work, name)
    with open(path, "wb") as f:
        f.write(content)
    return path


def scalar_at(blob, key):
    """Offset of a scalar key's value."""
    at = blob.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
    return at + 4


def tensor_at(blob, name):
    """(offset of the record behind the name, offset of the data section)."""
    at = blob.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
    return at


def listing(path):
    return json.loads(good("inspect", "--json", "-m", path))


def test_whole_file_is_good(work):
    path = write(work, mini(work))
    assert "all checks passed" in good("inspect", "--check", path)
    checks = json.loads(good("inspect", "--check", "--json", path))
    assert checks["ok"] and [c["check"] for c in checks["checks"]][:3] == ["structure", "keys", "tensors"]


def test_truncated(work):
    blob = mini(work)
    for n in (0, 1, 3, 4, 8, 23, 24, 100, 1000, 50000, 200000, len(blob) // 2, len(blob) - 4096, len(blob) - 33):
        path = write(work, blob[:n])
        for command in (["inspect"], ["inspect", "--check"], ["logits", "--ids", "1", "--json"], ["run", "-p", "x"]):
            err = bad(3, "bad.gguf", *command, "-m", path)
            if n > len(blob) // 4:
                assert "tensor" in err and "incomplete" in err, err


def test_tensor_is_named(work):
    blob = mini(work)
    path = write(work, blob[:-100])
    last = max(listing(write(work, blob, "good.gguf"))["tensors"], key=lambda t: t["offset"])
    bad(3, last["name"], "run", "-p", "x", "-m", path)


def test_wrong_keys(work):
    blob = mini(work)
    for key, value in (("deepseek4.embedding_length", 0), ("deepseek4.embedding_length", 257),
                       ("deepseek4.block_count", 4000000000), ("deepseek4.attention.head_count", 3),
                       ("deepseek4.expert_used_count", 200), ("deepseek4.vocab_size", 5),
                       ("deepseek4.attention.sliding_window", 0),
                       ("deepseek4.hyper_connection.count", 0)):
        b = bytearray(blob)
        struct.pack_into("<I", b, scalar_at(blob, key), value)
        path = write(work, b)
        code, out, err = run("logits", "-m", path, "--ids", "1", "--json")
        assert code == 3 and out == b"", (key, value, code, err)
        assert key in err or "tensor" in err or "head count" in err, (key, err)
        code, out, err = run("inspect", "--check", path)
        assert code == 3 and b"FAILED" in out, (key, out)


def test_missing_key(work):
    blob = mini(work)
    key = b"deepseek4.attention.sliding_window"
    path = write(work, blob.replace(key, key[:-1] + b"X", 1))
    bad(3, "attention.sliding_window", "run", "-p", "x", "-m", path)


def test_missing_tensor(work):
    blob = mini(work)
    path = write(work, blob.replace(b"blk.3.attn_kv.weight", b"blk.3.attn_kx.weight", 1))
    bad(3, "blk.3.attn_kv.weight", "logits", "--ids", "1", "-m", path)


def test_other_architecture(work):
    blob = mini(work)
    path = write(work, blob.replace(b"deepseek4", b"deepseek9", 1))
    code, _, err = run("run", "-p", "x", "-m", path)
    assert code in (1, 3) and "deepseek9" in err, err


def test_values_that_index_memory(work):
    """A hash table that names expert 200 of 8."""
    blob = bytearray(mini(work))
    t = next(t for t in listing(write(work, blob, "good.gguf"))["tensors"] if "tid2eid" in t["name"])
    struct.pack_into("<i", blob, t["offset"] + 40, 200)
    path = write(work, blob)
    bad(3, t["name"], "logits", "--ids", "1", "-m", path)
    struct.pack_into("<i", blob, t["offset"] + 40, -1)
    bad(3, t["name"], "logits", "--ids", "1", "-m", write(work, blob))


def test_nan_is_found(work):
    blob = bytearray(mini(work))
    t = next(t for t in listing(write(work, blob, "good.gguf"))["tensors"] if t["name"] == "blk.2.ffn_up_exps.weight")
    block = {"Q8_0": 34, "IQ2_XXS": 66}[t["type"]]
    struct.pack_into("<H", blob, t["offset"] + block * 100, 0x7E00)  # the F16 scale of a block
    code, out, err = run("inspect", "--check", write(work, blob))
    assert code == 3 and b"blk.2.ffn_up_exps.weight" in out and b"finite" in out, out


def test_no_tokenizer(work):
    """A file without tokenizer keys serves ids and is refused where text is needed."""
    directory = os.path.join(work, "plain")
    os.makedirs(directory, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        if not os.path.exists(os.path.join(directory, name)):
            os.symlink(os.path.join(MINI_DIR, name), os.path.join(directory, name))
    path = converted(directory, os.path.join(work, "plain.gguf"), "q8")
    assert json.loads(good("logits", "--ids", "0,5", "--json", "-m", path))["vocab"] == 2304
    for command in (["run", "-p", "x"], ["chat"], ["tokens", "-p", "x"], ["render", "--jsonl"]):
        bad(3, "tokenizer", *command, "-m", path)
    assert "tokenizer  ok" in good("inspect", "--check", path)


def test_random_damage(work):
    """Changed bytes in the header: refused, or (where a value does not matter) still usable; never
    a crash. The seed is printed."""
    blob = mini(work)
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    header = blob.index(b"token_embd.weight") + 20000
    for i in range(60):
        b = bytearray(blob)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(header if rng.random() < 0.3 else 3000)
            b[at] = rng.randrange(256)
        code, _, err = run("inspect", "--check", write(work, b), timeout=60)
        assert code in (0, 1, 3), (seed, i, code, err)
        code, _, err = run("logits", "--ids", "0,1", "-m", write(work, b), timeout=60)
        assert code in (0, 1, 2, 3), (seed, i, code, err)


def test_convert_refuses(work):
    """A cut checkpoint, a missing one, an unknown recipe, and an existing target stays whole."""
    directory = os.path.join(work, "cut")
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(MINI_DIR, "model.safetensors"), "rb") as f:
        content = f.read()
    with open(os.path.join(directory, "model.safetensors"), "wb") as f:
        f.write(content[:-1000])
    out = os.path.join(work, "out.gguf")
    bad(3, "config.json", "convert", directory, "-o", out, "--recipe", "q8")
    with open(os.path.join(MINI_DIR, "config.json"), "rb") as f:
        config = f.read()
    with open(os.path.join(directory, "config.json"), "wb") as f:
        f.write(config)
    with open(out, "wb") as f:
        f.write(b"precious")
    bad(3, "model.safetensors", "convert", directory, "-o", out, "--recipe", "q8")
    with open(out, "rb") as f:
        assert f.read() == b"precious"
    assert not os.path.exists(out + ".part")
    bad(2, "takes", "convert", MINI_DIR, "-o", out, "--recipe", "q17")
    bad(2, "PATTERN=TYPE", "convert", MINI_DIR, "-o", out, "--tensor", "x")


def test_not_a_tokenizer(work):
    for content in (b"", b"{", b"{}", b"[]", b"\xfd7zXZ\x00garbage", b"GGUF", b"\x00" * 100):
        path = write(work, content, "tokenizer.json")
        bad(3, "tokenizer.json", "tokens", "-p", "x", "-m", path)


if __name__ == "__main__":
    sys.exit(main(globals()))
