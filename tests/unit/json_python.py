#!/usr/bin/env python3
"""Compares src/json with Python's json module on random documents.

usage: json_python.py TEST_PROGRAM COUNT [SEED]

TEST_PROGRAM --filter reads one document in hex a line and answers with the compact form (strict
reading) and the Python form (reading with Python's literals), in hex, or E for a refusal.
Two thirds of the documents are well formed (random trees, random spelling of blanks, escapes and
numbers), the rest are mutations of such documents. Exits with 1 at any difference.
"""
import json
import os
import random
import shlex
import struct
import subprocess
import sys

MAX_DEPTH = 128
WORDS = ["", "a", "name", "caf\u00e9", "\u4e2d\u6587", "\U0001f600", "\x00", "\x7f", "\u2028", "\"",
         "\\", "/", "\n\t\r\b\f", "\x1f", "\ufffd", "\uffff", "\U0010ffff"]
TOKENS = [b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\\u", b"\\ud83d", b"0", b"-", b".",
          b"e", b"E+", b"1e999", b"true", b"null", b"NaN", b"Infinity", b"-Infinity", b" ", b"\n",
          b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\x00", b"\x0b", b"//"]


def random_number(r):
    kind = r.randrange(9)
    if kind == 0:
        return r.choice(["0", "-0", "-0.0", "0e0", "1E400", "-1e400", "1e-400", "0.1", "1e5", "1e22",
                         "1e23", "1e16", "1e15", "9007199254740993", "5e-324", "2e-324",
                         "2.2250738585072011e-308", "100000000000000000000000"])
    if kind == 1:
        return str(r.randrange(-10, 11))
    if kind == 2:
        return str(r.choice([1, -1]) * r.getrandbits(r.randrange(1, 700)))
    if kind == 3:  # any double, in repr or with too many digits
        v = struct.unpack("<d", struct.pack("<Q", r.getrandbits(64)))[0]
        if v != v or v in (float("inf"), float("-inf")):
            return "1"
        return repr(v) if r.random() < 0.5 else "%.*e" % (r.randrange(1, 40), v)
    if kind == 4:  # powers of two and their neighbours: uneven spacing
        v = 2.0 ** r.randrange(-1074, 1024)
        bits = struct.unpack("<Q", struct.pack("<d", v))[0] + r.randrange(-1, 2)
        v = struct.unpack("<d", struct.pack("<Q", max(bits, 1)))[0]
        return "%.*e" % (25, v)
    if kind == 5:  # subnormals
        return repr(struct.unpack("<d", struct.pack("<Q", r.getrandbits(r.randrange(1, 53))))[0])
    digits = "".join(r.choice("0123456789") for _ in range(r.randrange(1, 30)))
    text = digits.lstrip("0") or "0"
    if kind >= 7:
        text += "." + "".join(r.choice("0123456789") for _ in range(r.randrange(1, 30)))
    if r.random() < 0.5:
        text += r.choice("eE") + r.choice(["", "+", "-"]) + str(r.randrange(0, 340))
    return r.choice(["", "-"]) + text


def random_string(r):
    s = "".join(r.choice(WORDS) if r.random() < 0.7 else chr(r.choice([
        r.randrange(0x20), r.randrange(0x80), r.randrange(0xd800), r.randrange(0xe000, 0x110000)]))
        for _ in range(r.randrange(5)))
    out = ['"']
    for c in s:
        if r.random() < 0.15 or c in '"\\' or ord(c) < 0x20:
            if c in '"\\/\b\f\n\r\t' and r.random() < 0.7:
                out.append("\\" + '"\\/bfnrt'['"\\/\b\f\n\r\t'.index(c)])
            else:
                for i in range(0, len(c.encode("utf-16-be")), 2):
                    h = "%02x%02x" % tuple(c.encode("utf-16-be")[i:i + 2])
                    out.append("\\u" + (h.upper() if r.random() < 0.3 else h))
        else:
            out.append(c)
        if r.random() < 0.02:
            out.append("\\u" + r.choice(["d83d", "DC00", "dfff", "d800"]))
    return "".join(out) + '"'


def blanks(r):
    return "" if r.random() < 0.7 else "".join(r.choice(" \t\r\n") for _ in range(r.randrange(4)))


def random_value(r, depth):
    kind = r.randrange(8) if depth > 0 else r.randrange(5)
    b = lambda: blanks(r)
    if kind == 0:
        return r.choice(["null", "true", "false"])
    if kind <= 2:
        return random_number(r)
    if kind <= 4:
        return random_string(r)
    n = r.choice([0, 1, 2, 3, 5, r.randrange(30)])
    if kind == 5:
        items = [b() + random_value(r, depth - 1) + b() for _ in range(n)]
        return "[" + (",".join(items) or b()) + "]"
    names = [random_string(r) for _ in range(max(1, n // 2 if r.random() < 0.5 else n))]
    items = [b() + r.choice(names) + b() + ":" + b() + random_value(r, depth - 1) + b()
             for _ in range(n)]
    return "{" + (",".join(items) or b()) + "}"


def random_document(r):
    if r.random() < 0.02:
        n = r.randrange(120, 137)
        opens = [r.choice("[{") for _ in range(n)]
        text = "".join("[" if c == "[" else '{"k":' for c in opens) + random_number(r)
        return (text + "".join("]" if c == "[" else "}" for c in reversed(opens))).encode()
    doc = (blanks(r) + random_value(r, 5) + blanks(r)).encode()
    if r.random() < 0.33:
        for _ in range(r.randrange(1, 4)):
            i = r.randrange(len(doc) + 1)
            j = min(len(doc), i + r.choice([0, 0, 1, 1, 2, 5]))
            doc = doc[:i] + (r.choice(TOKENS) if r.random() < 0.7 else b"") + doc[j:]
    return doc


def nesting(doc):
    """Deepest nesting of a document that json.loads accepts."""
    depth = deepest = 0
    in_string = escaped = False
    for c in doc:
        if in_string:
            in_string = escaped or c != '"'
            escaped = not escaped and c == "\\"
        elif c == '"':
            in_string = True
        elif c in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif c in "]}":
            depth -= 1
    return deepest


def refuse_literal(word):
    raise ValueError(word)


def clean(text):
    """Lone surrogates: Python keeps them, the reader replaces them."""
    return "".join("\ufffd" if 0xd800 <= ord(c) < 0xe000 else c for c in text)


def compact(text):
    """What the compact writer must print: number text copied, last duplicate at first place."""
    tokens = {}

    def keep(s):
        tokens["@%d@" % len(tokens)] = s
        return {"@number@": "@%d@" % (len(tokens) - 1)}

    def pairs(items):
        d = {}
        for k, v in items:
            d[clean(k)] = v
        return d

    def write(v):
        if isinstance(v, dict) and set(v) == {"@number@"}:
            return tokens[v["@number@"]]
        if isinstance(v, dict):
            return "{" + ",".join(write(k) + ":" + write(x) for k, x in v.items()) + "}"
        if isinstance(v, list):
            return "[" + ",".join(write(x) for x in v) + "]"
        return clean(json.dumps(v, ensure_ascii=False))

    return write(json.loads(text, parse_float=keep, parse_int=keep,
                            parse_constant=refuse_literal, object_pairs_hook=pairs))


def python_form(text):
    # Keys that differ only in lone surrogates are one key for the reader.
    def pairs(items):
        d = {}
        for k, v in items:
            d[clean(k)] = v
        return d
    return clean(json.dumps(json.loads(text, object_pairs_hook=pairs), ensure_ascii=False))


def expected(doc):
    try:
        text = doc.decode("utf-8")
        forms = [python_form(text)]
    except (ValueError, RecursionError):
        return ["E", "E"]
    if nesting(text) > MAX_DEPTH:
        return ["E", "E"]
    try:
        forms.insert(0, compact(text))
    except ValueError:
        forms.insert(0, "E")
    return [f if f == "E" else f.encode().hex() for f in forms]


def main():
    program, count = sys.argv[1], int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else int.from_bytes(os.urandom(4), "little")
    print("seed", seed)
    r = random.Random(seed)
    docs = [random_document(r) for _ in range(count)]
    emulator = shlex.split(os.environ.get("FATHOM_TEST_EMULATOR", ""))  # of a cross build
    run = subprocess.run([*emulator, program, "--filter"], stdout=subprocess.PIPE, check=True,
                         input=b"".join(d.hex().encode() + b"\n" for d in docs))
    lines = run.stdout.decode().splitlines()
    bad = refused = 0
    if len(lines) != count:
        print("the filter answered", len(lines), "of", count, "documents")
        return 1
    for doc, line in zip(docs, lines):
        want, got = expected(doc), line.split(" ")
        refused += want[1] == "E"
        if want != got:
            bad += 1
            if bad <= 5:
                print("document", doc)
                for w, g in zip(want, got):
                    if w != g:
                        show = [x if x == "E" else bytes.fromhex(x) for x in (w, g)]
                        print("  expected", show[0], "\n  got     ", show[1])
    print(count, "documents,", refused, "of them refused,", bad, "differences")
    return 1 if bad or not 0 < refused < count // 2 else 0


if __name__ == "__main__":
    sys.exit(main())
