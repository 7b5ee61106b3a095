#!/usr/bin/env python3
"""Generates docs/ops.md from the comments of src/op/op.h, so that the catalogue of ops cannot
differ from the code.

    gen_ops_doc.py            writes docs/ops.md
    gen_ops_doc.py --check    exit 1 if docs/ops.md is not current
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OUT = os.path.join(ROOT, "docs", "ops.md")


def strip(comment):
    lines = []
    for line in comment.strip().splitlines():
        line = re.sub(r"^\s*(/\*+|\*/|\*) ?", "", line)
        lines.append(re.sub(r"\s*\*/\s*$", "", line).rstrip())
    return lines


def generate():
    text = open(os.path.join(ROOT, "src", "op", "op.h"), encoding="utf-8").read()
    head = strip(re.match(r"/\*.*?\*/", text, re.S).group(0))
    head[0] = re.sub(r"^op\.h - ", "", head[0])
    out = ["# The ops", "",
           "Generated from `src/op/op.h` by `tools/gen_ops_doc.py`; do not edit.", ""]
    rule = next((i for i, line in enumerate(head) if line.startswith("----")), len(head))
    out += head[:rule]
    if rule < len(head):
        out += ["## " + head[rule].strip("- "), "", "```"] + head[rule + 1:] + ["```"]
    out.append("")
    for m in re.finditer(r"/\* ---- ([A-Z_0-9]+) ----\n(.*?)\*/\n(struct \w+ \{.*?\n\};)", text, re.S):
        name, comment, struct = m.groups()
        out += [f"## {name}", ""] + strip(comment) + ["", "```c", struct, "```", ""]
    body = "\n".join(out)
    kinds = re.search(r"enum op_kind \{(.*?)OP_KIND_COUNT", text, re.S).group(1)
    for kind in re.findall(r"OP_(\w+)", kinds):
        if f"## {kind}\n" not in body:
            sys.exit(f"src/op/op.h: no definition comment for OP_{kind}")
    return body.rstrip() + "\n"


def main():
    body = generate()
    if "--check" in sys.argv:
        have = open(OUT, encoding="utf-8").read() if os.path.exists(OUT) else ""
        if have != body:
            print("docs/ops.md is not current: run tools/gen_ops_doc.py")
            return 1
        print("docs/ops.md is current")
        return 0
    with open(OUT, "w", encoding="utf-8") as f:
        f.write(body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
