#!/usr/bin/env python3
"""Checks what reviewers should not have to: file and function length, line width, tabs, names of
public symbols, opening comments, and the layout by clang-format 14 where that is installed.

    check_style.py [--no-format]
"""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAX_LINES, MAX_FUNCTION, MAX_WIDTH = 900, 120, 100
GENERATED = {"src/text/classes.c", "src/quant/tables.c"}


def sources():
    out = subprocess.run(["git", "ls-files", "src", "include", "tests"], cwd=ROOT, capture_output=True,
                         text=True)
    names = out.stdout.split() if out.returncode == 0 else []
    if not names:  # an exported tree
        for top in ("src", "include", "tests"):
            for where, _, files in os.walk(os.path.join(ROOT, top)):
                names += [os.path.relpath(os.path.join(where, f), ROOT) for f in files]
    names = [n for n in names if re.search(r"\.[ch]$", n) and os.path.exists(os.path.join(ROOT, n))]
    return sorted(names)


def check_text(name, bad):
    text = open(os.path.join(ROOT, name), encoding="utf-8").read()
    lines = text.split("\n")
    if name not in GENERATED and len(lines) > MAX_LINES:
        bad.append(f"{name}: {len(lines)} lines (at most {MAX_LINES})")
    if not text.startswith("/*"):
        bad.append(f"{name}: no opening comment that says what it is for")
    if "\t" in text:
        bad.append(f"{name}:{text[:text.index(chr(9))].count(chr(10)) + 1}: tab")
    if text and not text.endswith("\n"):
        bad.append(f"{name}: no newline at the end")
    if name in GENERATED:
        return
    table = False  # wide tables stand between "clang-format off" and "on"
    for i, line in enumerate(lines, 1):
        if "clang-format off" in line or "clang-format on" in line:
            table = "clang-format off" in line
        if len(line) > MAX_WIDTH and not table:
            bad.append(f"{name}:{i}: {len(line)} columns (at most {MAX_WIDTH})")
        if line != line.rstrip():
            bad.append(f"{name}:{i}: blanks at the end of the line")


def check_functions(names, bad):
    """By the layout: a function's brace stands alone in column 0, its end too."""
    for name in names:
        start = None
        for i, line in enumerate(open(os.path.join(ROOT, name), encoding="utf-8"), 1):
            if line == "{\n":
                start = i
            elif line == "}\n" and start is not None:
                if i - start > MAX_FUNCTION:
                    bad.append(f"{name}:{start}: function of {i - start} lines (at most {MAX_FUNCTION})")
                start = None


def check_public(bad):
    text = open(os.path.join(ROOT, "include/fathom/fathom.h"), encoding="utf-8").read()
    for m in re.finditer(r"^FATHOM_API\s+[^;(]*?\**(\w+)\(", text, re.M):
        if not m.group(1).startswith("fathom_"):
            bad.append(f"include/fathom/fathom.h: {m.group(1)} lacks the prefix fathom_")
    for m in re.finditer(r"^(?:enum|struct)\s+(\w+)", text, re.M):
        if not m.group(1).startswith("fathom_"):
            bad.append(f"include/fathom/fathom.h: {m.group(1)} lacks the prefix fathom_")


def check_shared_library(bad):
    """Only fathom_* may be visible in the shared library next to the program under test."""
    program = os.environ.get("FATHOM_PROGRAM", "")
    lib = os.path.join(os.path.dirname(program), "libfathom.so")
    if not program or not os.path.exists(lib) or not shutil.which("nm"):
        return "not built"
    out = subprocess.run(["nm", "-D", "--defined-only", lib], capture_output=True, text=True).stdout
    names = [line.split()[-1] for line in out.splitlines() if line.strip()]
    for n in names:
        if not n.startswith("fathom_"):
            bad.append(f"libfathom.so: symbol {n} is visible")
    return f"{len(names)} symbols"


def check_format(names, bad):
    tool = shutil.which("clang-format-14")
    if not tool:
        return "skipped (clang-format-14 is not installed; other versions lay out differently)"

    def one(name):
        r = subprocess.run([tool, "--dry-run", "-Werror", name], cwd=ROOT, capture_output=True, text=True)
        return name, r.returncode, r.stderr.splitlines()[:1]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, rc, first in pool.map(one, [n for n in names if n not in GENERATED]):
            if rc:
                bad.append(f"{name}: not in the layout of .clang-format ({' '.join(first)})")
    return "checked"


def main():
    bad = []
    names = sources()
    for name in names:
        check_text(name, bad)
    check_functions(names, bad)
    check_public(bad)
    symbols = check_shared_library(bad)
    layout = "off" if "--no-format" in sys.argv else check_format(names, bad)
    for b in bad:
        print(b)
    print(f"{len(names)} files, layout {layout}, shared library {symbols}, {len(bad)} problems")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
