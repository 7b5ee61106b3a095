#!/usr/bin/env python3
"""Writes the seeds of tests/fuzz/fuzz_gguf.c into tests/fuzz/corpus/gguf: small valid files that
between them hold every value type, every tensor type, several alignments and ranks, and a few
that are almost right. The contents are fixed; running it twice changes nothing.

    tools/gen_gguf_seeds.py
"""

import pathlib
import struct

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fuzz" / "corpus" / "gguf"

# value type: (id, struct format)
SCALARS = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"),
           "i32": (5, "i"), "f32": (6, "f"), "bool": (7, "B"), "u64": (10, "Q"), "i64": (11, "q"),
           "f64": (12, "d")}
STRING, ARRAY = 8, 9

# tensor type id: (block elements, block bytes)
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
          9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176),
          14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98),
          19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1),
          25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
          34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18)}


def string(s):
    raw = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(key, kind, value):
    type_id, fmt = SCALARS[kind]
    return string(key) + struct.pack("<I" + fmt, type_id, value)


def text(key, value):
    return string(key) + struct.pack("<I", STRING) + string(value)


def array(key, kind, values):
    head = string(key) + struct.pack("<I", ARRAY)
    if kind == "string":
        return head + struct.pack("<IQ", STRING, len(values)) + b"".join(map(string, values))
    type_id, fmt = SCALARS[kind]
    return head + struct.pack("<IQ", type_id, len(values)) + struct.pack(
        "<%d%s" % (len(values), fmt), *values)


def build(kvs, tensors=(), align=32, version=3):
    """tensors: (name, type id, dims); data bytes follow a fixed pattern."""
    records, data = b"", b""
    for name, type_id, dims in tensors:
        elems, size = BLOCKS[type_id]
        rows = 1
        for d in dims[1:]:
            rows *= d
        n_bytes = dims[0] // elems * size * rows
        records += string(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, type_id,
                                              len(data))
        data += bytes((i * 37 + type_id * 11) % 256 for i in range(n_bytes))
        data += bytes(-len(data) % align)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(kvs)) + b"".join(kvs) + records
    return head + bytes(-len(head) % align) + data


def seeds():
    values = [text("general.architecture", "deepseek4"), text("raw", b"\x00\xff")]
    for kind in SCALARS:
        values.append(scalar("k." + kind, kind, 1))
        values.append(array("a." + kind, kind, [0, 1, 1]))
    values += [array("a.string", "string", ["x", "", "yz"]), array("a.empty", "string", [])]
    yield "values", build(values)
    yield "empty", build([])
    for type_id, (elems, _) in BLOCKS.items():
        yield "type-%02d" % type_id, build([], [("t", type_id, (elems, 2))])
    several = [("blk.0.a.weight", 8, (32, 2)), ("blk.0.b.bias", 0, (3,)),
               ("blk.1.c.weight", 16, (256, 1, 2)), ("d", 1, (1, 1, 1, 1))]
    for align in (8, 32, 64, 128):
        kvs = [] if align == 32 else [scalar("general.alignment", "u32", align)]
        yield "align-%d" % align, build(kvs, several, align)
    yield "part", build([scalar("split.no", "u16", 1), scalar("split.count", "u16", 2),
                         scalar("split.tensors.count", "i32", 4)], several)
    yield "merged", build([scalar("split.no", "u16", 0), scalar("split.count", "u16", 0),
                           scalar("split.tensors.count", "i32", 4)], several)
    yield "bad-align", build([scalar("general.alignment", "u32", 48)], several)
    yield "bad-twice", build([scalar("k", "u32", 1), scalar("k", "u32", 1)], several[:1] * 2)
    yield "bad-short", build([], several)[:-100]
    yield "bad-version", build([], several, version=2)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, data in seeds():
        (OUT / name).write_bytes(data)


if __name__ == "__main__":
    main()
