#!/usr/bin/env python3
"""Writes src/quant/tables.c and tables.h, and the part of them that the Metal kernels use, from
the raw codebooks in tests/data/quant-tables.

    tools/gen_tables.py            write the files
    tools/gen_tables.py --check    fail if the files on disk differ from what would be written

Every input is compared with the SHA-256 in its manifest first, so that an edited table cannot
slip into the decoder. The outputs are committed; the build does not run this.
"""

import hashlib
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "quant-tables"
OUT = ROOT / "src" / "quant"
METAL = ROOT / "src" / "backend" / "metal" / "kernels" / "tables.metal"

# (manifest name, C name, element type, what it is)
GRIDS = [
    ("iq2xxs_grid", "quant_grid_iq2_xxs", "uint8_t", "IQ2_XXS: magnitudes 8, 25, 43"),
    ("iq2xs_grid", "quant_grid_iq2_xs", "uint8_t", "IQ2_XS: the same levels"),
    ("iq2s_grid", "quant_grid_iq2_s", "uint8_t", "IQ2_S: the same levels"),
    ("iq3xxs_grid", "quant_grid_iq3_xxs", "uint8_t", "IQ3_XXS: magnitudes 4, 12, ... 52, 62"),
    ("iq3s_grid", "quant_grid_iq3_s", "uint8_t", "IQ3_S: magnitudes 1, 3, ... 15"),
    ("iq1s_grid", "quant_grid_iq1", "int8_t", "IQ1_S and IQ1_M: -1, 0, 1"),
]
SIGNS = ("ksigns_iq2xs", "quant_signs7", "uint8_t",
         "7-bit sign field to sign byte: bit 7 is the parity of the field")
CODEBOOKS = [
    ("kvalues_iq4nl", "quant_values_iq4_nl", "IQ4_NL and IQ4_XS code to value"),
    ("kvalues_e2m1_doubled", "quant_values_mxfp4", "E2M1 code to twice its value"),
]


def fail(message):
    sys.exit("gen_tables.py: " + message)


def read_hex(manifest, name):
    """Rows of bytes of one .hex file, checked against the manifest."""
    entry = manifest[name]
    rows = [bytes.fromhex(line) for line in (DATA / entry["file"]).read_text().split()]
    raw = b"".join(rows)
    if hashlib.sha256(raw).hexdigest() != entry["sha256_of_raw_bytes"]:
        fail(entry["file"] + ": SHA-256 differs from manifest.json")
    if len(rows) != entry["entries"] or any(len(r) != entry["bytes_per_entry"] for r in rows):
        fail(entry["file"] + ": wrong number or size of entries")
    return rows


def read_codebooks(manifest):
    raw = (DATA / manifest["codebooks"]["file"]).read_bytes()
    if hashlib.sha256(raw).hexdigest() != manifest["codebooks"]["sha256_of_file"]:
        fail("codebooks.json: SHA-256 differs from manifest.json")
    return json.loads(raw)


def signed(byte):
    return byte - 256 if byte > 127 else byte


def lines_of(items, width=96):
    """Joins items with commas into lines of at most `width` columns, four spaces in."""
    out, line = [], "   "
    for item in items:
        piece = " " + item + ","
        if len(line) + len(piece) > width:
            out.append(line)
            line = "   "
        line += piece
    return "\n".join(out + [line])


HEAD = """/* {file} - {role}
 * Written by tools/gen_tables.py from tests/data/quant-tables; the README there names the origin
 * and licence of the numbers. Do not edit: change the generator and run it again.
{more} */
"""

DECL_NOTE = """ * Grids are arrays of bytes in element order, so that a kernel may load an entry as one
 * little-endian 32- or 64-bit word; every table is 64-byte aligned. */"""


def generate():
    manifest = json.loads((DATA / "manifest.json").read_text())
    decls, defs = [], []

    def table(c_type, c_name, dims, what, body):
        decls.append(f"/* {what}. */\nextern const alignas(64) {c_type} {c_name}{dims};\n")
        defs.append(f"const alignas(64) {c_type} {c_name}{dims} = {{\n{body}\n}};\n")

    for name, c_name, c_type, what in GRIDS:
        rows = read_hex(manifest, name)
        show = (lambda b: str(signed(b))) if c_type == "int8_t" else str
        body = lines_of(["{" + ", ".join(show(b) for b in row) + "}" for row in rows])
        table(c_type, c_name, f"[{len(rows)}][{len(rows[0])}]", what, body)
    rows = read_hex(manifest, SIGNS[0])
    for field, row in enumerate(rows):
        if row[0] != field | (bin(field).count("1") & 1) << 7:
            fail("ksigns: parity rule broken")
    table(SIGNS[2], SIGNS[1], "[128]", SIGNS[3], lines_of([str(r[0]) for r in rows]))
    books = read_codebooks(manifest)
    for name, c_name, what in CODEBOOKS:
        values = books[name]
        table("int8_t", c_name, f"[{len(values)}]", what, lines_of([str(v) for v in values]))

    header = HEAD.format(file="tables.h", role="codebooks of the quantised block formats.",
                         more=DECL_NOTE[:-3])
    header += "// clang-format off\n#ifndef QUANT_TABLES_H\n#define QUANT_TABLES_H\n\n"
    header += "#include <stdalign.h>\n#include <stdint.h>\n\n" + "\n".join(decls) + "\n#endif\n"
    source = HEAD.format(file="tables.c", role="codebooks of the quantised block formats.",
                         more=" * tables.h says what each table means; decode.c and decode_iq.c use"
                              " them. */"[:-3])
    source += "// clang-format off\n#include \"quant/tables.h\"\n\n" + "\n".join(defs)
    return {"tables.h": header, "tables.c": source}


def generate_metal():
    """The grid that kernels/quant.metal looks up."""
    rows = read_hex(json.loads((DATA / "manifest.json").read_text()), "iq2xxs_grid")
    values = [str(b) for row in rows for b in row]
    return (HEAD.format(file="tables.metal", role="codebooks of the quantised block formats.",
                        more=" * See src/quant/tables.h. */"[:-3])
            + "constant uchar iq2_xxs_grid[2048] = {\n" + lines_of(values) + "\n};\n")


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        fail("usage: gen_tables.py [--check]")
    files = {OUT / name: text for name, text in generate().items()}
    files[METAL] = generate_metal()
    for path, text in files.items():
        if check:
            if not path.exists() or path.read_text() != text:
                fail(f"{path.relative_to(ROOT)} is not what the tables give; run gen_tables.py")
        else:
            path.write_text(text)


if __name__ == "__main__":
    main()
