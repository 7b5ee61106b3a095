#!/usr/bin/env python3
"""Measures what each recipe costs the mini model and writes the table of docs/quality.md.

    quality_table.py                 converts, measures (a quarter of an hour), prints the table
    quality_table.py --full          all cases and tasks (more than an hour)
    quality_table.py --write         also puts it, and the plot, into docs/
    quality_table.py --only q2,q8    some rows; results are kept in build/quality and not measured twice
    quality_table.py --fresh         forgets them

Every row is a file made by `fathom convert` from models/mini; its predictions for continuations of
tests/data/mini-model/eval/tasks.jsonl are compared with those of the lossless file (f32), token by token.
Without --full: the cases whose prompts are short, and every eighth of the others (most of the work is
in long prompts), and every fifth task.
"""
import argparse
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TASKS = "tests/data/mini-model/eval/tasks.jsonl"
SHORT_PROMPT = 200  # tokens
IMATRIX = ["--imatrix", "models/mini/imatrix.gguf"]
# name, what it is, arguments of convert, noise floor to measure
ROWS = [
    ("f32", "f32", ["--recipe", "f32"], "ref"),
    ("bf16", "bf16", ["--recipe", "bf16"], None),
    ("f16", "f16", ["--recipe", "f16"], None),
    ("q8", "q8", ["--recipe", "q8"], "both"),
    ("mxfp4", "mxfp4 (rounded: these experts are no FP4)", ["--recipe", "mxfp4"], None),
    ("q4", "q4", ["--recipe", "q4"], None),
    ("q4-im", "q4, importance matrix", ["--recipe", "q4", *IMATRIX], None),
    ("q2", "q2, no importance matrix", ["--recipe", "q2"], None),
    ("q2-im", "**q2, importance matrix (the shipped file)**", ["--recipe", "q2", *IMATRIX], "both"),
    ("q2-im-q6", "the same, dense part Q6_K", ["--recipe", "q2", "--dense", "q6_k", *IMATRIX], None),
    ("q2-im-q5", "the same, dense part Q5_K", ["--recipe", "q2", "--dense", "q5_k", *IMATRIX], None),
    ("q2-im-q4", "the same, dense part Q4_K", ["--recipe", "q2", "--dense", "q4_k", *IMATRIX], None),
]
BEGIN, END = "<!-- begin table -->\n", "<!-- end table -->\n"


def run(a, *args):
    more = ["--threads", str(a.threads)] if a.threads else []
    p = subprocess.run([a.program, *args, *more], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit(f"fathom {' '.join(args)}: exit {p.returncode}")
    return p.stdout


def cases(a):
    """The manifest of what is scored."""
    if a.full:
        return TASKS
    path = os.path.join(a.dir, "cases.jsonl")
    with open(os.path.join(ROOT, TASKS), encoding="utf-8") as f:
        lines = f.read().splitlines()
    short = [x for x in lines if len(json.loads(x)["prompt_ids"]) <= SHORT_PROMPT]
    rest = [x for x in lines if len(json.loads(x)["prompt_ids"]) > SHORT_PROMPT]
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(short + rest[::8]) + "\n")
    return path


def convert(a, name, args):
    path = os.path.join(a.dir, name + ".gguf")
    if not os.path.exists(path):
        run(a, "convert", "models/mini", "-o", path, *args)
    return path


def measure(a, name, args, floor):
    out = os.path.join(a.dir, name + ".json")
    if not os.path.exists(out):
        reference = os.path.join(a.dir, "reference.bin")
        if not os.path.exists(reference):
            run(a, "eval", "-m", convert(a, "f32", ROWS[0][2]), "--cases", cases(a), "--save-reference",
                reference)
        print(f"measuring {name}", file=sys.stderr, flush=True)
        text = run(a, "eval", "-m", convert(a, name, args), "--cases", cases(a), "--reference", reference,
                   "--tasks", TASKS, "--every", "1" if a.full else "5", "--json", *(["--floor", floor] if floor else []))
        with open(out + ".part", "w", encoding="utf-8") as f:
            f.write(text)
        os.rename(out + ".part", out)
    with open(out, encoding="utf-8") as f:
        r = json.load(f)
    r["file_bytes"] = os.path.getsize(convert(a, name, args))
    return r


def sci(v):
    if v < 1e-9:
        return "0"
    m, e = f"{v:.1e}".split("e")
    return f"{m}e{int(e)}"


def row(title, r):
    s, ref, t = r["scored"], r["scored"]["reference"], r["tasks"]
    kl, best, diff = ref["kl"], ref["same_best"], ref["nll_difference"]
    return (f"| {title} | {r['file_bytes'] / 1e6:.1f} | {s['nll']['mean']:.5f} | {diff['mean'] * 1e3:+.2f} "
            f"({diff['lo'] * 1e3:+.2f} .. {diff['hi'] * 1e3:+.2f}) | {sci(kl['mean'])} ({sci(kl['lo'])} .. {sci(kl['hi'])}) | "
            f"{100 * best['mean']:.2f} ({100 * best['lo']:.2f} .. {100 * best['hi']:.2f}) | "
            f"{t['exact']} of {t['n']} ({100 * t['exact'] / t['n']:.1f} %) |")


def floor_rows(titles, results):
    out = []
    for name, r in results.items():
        for f in r["scored"]["floor"]:
            kl, best = f["kl"], f["same_best"]
            out.append(f"| {titles[name]} | {f['arithmetic']} | {f['tokens']} | {sci(kl['mean'])} ({sci(kl['lo'])} .. "
                       f"{sci(kl['hi'])}) | {100 * best['mean']:.2f} |")
    return out


def table(titles, results):
    any_row = next(iter(results.values()))["scored"]
    head = [f"{any_row['tokens']} tokens of {any_row['sequences']} continuations, {any_row['computed']} computed; intervals: "
            f"95 %, {any_row['bootstrap']['draws']} draws of {any_row['bootstrap']['blocks']} blocks.", "",
            "| file | MB | NLL, nats/token | NLL - f32, 1e-3 | KL from f32, nats/token | same best token, % | tasks exact |",
            "|---|---:|---:|---:|---:|---:|---:|"]
    floors = floor_rows(titles, results)
    tail = ["", "Noise floor, the same weights through other arithmetic:", "",
            "| file | against | tokens | KL | same best token, % |", "|---|---|---:|---:|---:|", *floors] if floors else []
    return "\n".join(head + [row(titles[n], r) for n, r in results.items()] + tail) + "\n"


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--program", default=os.path.join(ROOT, "build", "release", "fathom"))
    ap.add_argument("--dir", default=os.path.join(ROOT, "build", "quality"))
    ap.add_argument("--threads", type=int, default=0, help="0: all cores; the results do not depend on it")
    ap.add_argument("--only", help="names of rows, comma separated")
    ap.add_argument("--full", action="store_true", help="all cases and tasks")
    ap.add_argument("--write", action="store_true", help="into docs/quality.md and docs/quality.svg")
    ap.add_argument("--fresh", action="store_true", help="forget earlier results")
    a = ap.parse_args()
    a.dir = os.path.join(a.dir, "full" if a.full else "part")
    os.makedirs(a.dir, exist_ok=True)
    if a.fresh:
        for name in os.listdir(a.dir):
            os.remove(os.path.join(a.dir, name))
    wanted = [r for r in ROWS if not a.only or r[0] in a.only.split(",")]
    results = {name: measure(a, name, args, floor) for name, _, args, floor in wanted}
    text = table({name: title for name, title, _, _ in wanted}, results)
    print(text)
    if a.write:
        path = os.path.join(ROOT, "docs", "quality.md")
        with open(path, encoding="utf-8") as f:
            page = f.read()
        before, rest = page.split(BEGIN)
        with open(path, "w", encoding="utf-8") as f:
            f.write(before + BEGIN + text + END + rest.split(END)[1])
        subprocess.run([sys.executable, os.path.join(ROOT, "tools", "plot_eval.py"), "-o",
                        os.path.join(ROOT, "docs", "quality.svg")]
                       + [os.path.join(a.dir, n + ".json") for n in results], check=True)


if __name__ == "__main__":
    main()
