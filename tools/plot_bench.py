#!/usr/bin/env python3
"""Draws the CSV of `fathom bench`: decode and prefill speed over the context, a line a file.

    plot_bench.py A.csv [B.csv ...] [-o OUT.svg] [--plain]

With matplotlib installed OUT may be any format it writes (PNG, SVG, PDF); without it, or with
--plain, an SVG is written by this script alone.
"""
import argparse
import csv
import math
import os
import sys

COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
PANELS = [("gen_tps", "decode, tokens/s"), ("prefill_tps", "prefill, tokens/s")]


def read(path):
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    need = {"ctx_tokens"} | {key for key, _ in PANELS}
    if not rows or need - set(rows[0]):
        sys.exit(f"{path}: not a CSV of fathom bench (needs the columns {', '.join(sorted(need))})")
    return {key: [(int(r["ctx_tokens"]), float(r[key])) for r in rows if float(r[key]) > 0] for key in
            (k for k, _ in PANELS)}


def tokens(n):
    for unit, name in ((1 << 20, "M"), (1 << 10, "K")):
        if n >= unit:
            return f"{n / unit:g}{name}" if n % unit == 0 else f"{n / unit:.1f}{name}"
    return str(n)


def escape(s):
    return s.replace("&", "&amp;").replace("<", "&lt;")


def panel(series, title, x0, y0, w, h):
    """One chart as SVG elements: logarithmic context, speed from 0."""
    points = [p for _, line in series for p in line]
    if not points:
        return [f'<text x="{x0}" y="{y0 + 20}">{escape(title)}: no data</text>']
    lo, hi = math.log2(min(p[0] for p in points)), math.log2(max(p[0] for p in points))
    lo, hi = (lo, hi) if hi > lo else (lo - 1, hi + 1)
    top = max(p[1] for p in points) * 1.1

    def place(p):
        return x0 + (math.log2(p[0]) - lo) / (hi - lo) * w, y0 + h - p[1] / top * h

    out = [f'<text x="{x0}" y="{y0 - 12}" font-weight="bold">{escape(title)}</text>',
           f'<rect x="{x0}" y="{y0}" width="{w}" height="{h}" fill="none" stroke="#888"/>']
    for i in range(5):
        v = top * i / 4
        y = y0 + h - h * i / 4
        out.append(f'<line x1="{x0}" x2="{x0 + w}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{v:.3g}</text>')
    for x in sorted({p[0] for p in points}):
        px, _ = place((x, 0))
        out.append(f'<text x="{px:.1f}" y="{y0 + h + 16}" text-anchor="middle">{tokens(x)}</text>')
    for i, (_, line) in enumerate(series):
        color = COLORS[i % len(COLORS)]
        at = [place(p) for p in line]
        out.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="'
                   + " ".join(f"{x:.1f},{y:.1f}" for x, y in at) + '"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in at]
    return out


def plain(files, path):
    names = [os.path.basename(p) for p, _ in files]
    height = 300 + 18 * len(files)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{height}" font-family="sans-serif" '
           'font-size="12">', f'<rect width="960" height="{height}" fill="white"/>']
    for i, (key, title) in enumerate(PANELS):
        series = [(n, data[key]) for n, (_, data) in zip(names, files)]
        out += panel(series, title, 70 + 480 * i, 40, 380, 210)
    for i, n in enumerate(names):
        y = 290 + 18 * i
        out.append(f'<line x1="70" x2="100" y1="{y - 4}" y2="{y - 4}" stroke="{COLORS[i % len(COLORS)]}" '
                   f'stroke-width="2"/><text x="108" y="{y}">{escape(n)}</text>')
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(out + ["</svg>", ""]))


def fancy(plt, files, path):
    fig, axes = plt.subplots(1, len(PANELS), figsize=(11, 4))
    for ax, (key, title) in zip(axes, PANELS):
        for i, (name, data) in enumerate(files):
            xs, ys = zip(*data[key]) if data[key] else ((), ())
            ax.plot(xs, ys, "o-", color=COLORS[i % len(COLORS)], label=os.path.basename(name))
        ticks = sorted({p[0] for _, data in files for p in data[key]})
        ax.set_xscale("log", base=2)
        ax.set_xticks(ticks, [tokens(t) for t in ticks])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.set_title(title)
        ax.set_xlabel("context, tokens")
        ax.grid(alpha=0.3)
    axes[0].legend()
    fig.tight_layout()
    fig.savefig(path)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("csv", nargs="+")
    ap.add_argument("-o", "--output", default="bench.svg")
    ap.add_argument("--plain", action="store_true", help="do not use matplotlib")
    a = ap.parse_args()
    files = [(p, read(p)) for p in a.csv]
    plt = None
    if not a.plain:
        try:
            import matplotlib
            matplotlib.use("Agg")
            import matplotlib.pyplot as plt
        except ImportError:
            pass
    if plt:
        fancy(plt, files, a.output)
    elif a.output.endswith(".svg"):
        plain(files, a.output)
    else:
        sys.exit("without matplotlib only SVG can be written: give -o NAME.svg")
    print(a.output)


if __name__ == "__main__":
    main()
