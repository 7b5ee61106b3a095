#!/usr/bin/env python3
"""Draws the JSON reports of `fathom eval --json` that compare files with a reference: KL divergence with
its interval, and how often another token is the likeliest one, each over the size of the weights. Dashed
lines: noise floors that were measured (--floor). Writes an SVG; needs no packages.

    plot_eval.py A.json [B.json ...] [-o OUT.svg]
"""
import argparse
import json
import math
import os
import sys

WIDTH, HEIGHT = 420, 300
DOT, FLOOR = "#0072b2", "#d55e00"


def read(path):
    with open(path, encoding="utf-8") as f:
        r = json.load(f)
    scored = r.get("scored", {})
    if "reference" not in scored:
        sys.exit(f"{path}: no comparison in it (fathom eval --against or --reference, with --json)")
    ref = scored["reference"]
    best = ref["same_best"]
    return {"name": os.path.splitext(os.path.basename(path))[0], "mb": r["weight_bytes"] / 1e6,
            "kl": (ref["kl"]["mean"], ref["kl"]["lo"], ref["kl"]["hi"]),
            "flips": tuple(100 * (1 - best[k]) for k in ("mean", "hi", "lo")),
            "floors": [(f["arithmetic"], f["kl"]["mean"], 100 * (1 - f["same_best"]["mean"])) for f in scored["floor"]]}


def escape(s):
    return s.replace("&", "&amp;").replace("<", "&lt;")


def decades(values, least):
    low = min([v for v in values if v > least] or [least])
    return math.floor(math.log10(low)), math.ceil(math.log10(max(max(values), 10 * low)) + 1e-9)


def panel(files, key, title, x0, y0, least):
    """Logarithmic both ways; what is below `least` stands on the bottom line."""
    floor_of = {"kl": 1, "flips": 2}[key]
    floors = [(f["name"], fl[0], fl[floor_of]) for f in files for fl in f["floors"]]
    lo, hi = decades([v for f in files for v in f[key]] + [fl[2] for fl in floors], least)
    sizes = [math.log(f["mb"]) for f in files]
    a, b = min(sizes) - 0.15, max(sizes) + 0.25

    def at_x(mb):
        return x0 + (math.log(mb) - a) / (b - a) * WIDTH

    def at_y(v):
        return y0 + HEIGHT - (math.log10(max(v, 10.0 ** lo)) - lo) / (hi - lo) * HEIGHT

    out = [f'<text x="{x0}" y="{y0 - 12}" font-weight="bold">{escape(title)}</text>',
           f'<rect x="{x0}" y="{y0}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>']
    for e in range(lo, hi + 1):
        y = at_y(10.0 ** e)
        out.append(f'<line x1="{x0}" x2="{x0 + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{"≤ " if e == lo else ""}1e{e}</text>')
    for name, what, v in floors:
        if v > 10.0 ** lo:
            out.append(f'<line x1="{x0}" x2="{x0 + WIDTH}" y1="{at_y(v):.1f}" y2="{at_y(v):.1f}" stroke="{FLOOR}" '
                       f'stroke-dasharray="5 4"/><text x="{x0 + 4}" y="{at_y(v) - 4:.1f}" fill="{FLOOR}" font-size="10">'
                       f'{escape(name)}: {escape(what)}</text>')
    for i, f in enumerate(files):
        x, (mid, low, high) = at_x(f["mb"]), f[key]
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{at_y(low):.1f}" y2="{at_y(high):.1f}" stroke="{DOT}" '
                   f'stroke-width="2"/><circle cx="{x:.1f}" cy="{at_y(mid):.1f}" r="4" fill="{DOT}"/>'
                   f'<text x="{x + 7:.1f}" y="{at_y(mid) + (4 if i % 2 else -4):.1f}">{escape(f["name"])}</text>')
    ticks = sorted({round(f["mb"], 1 if f["mb"] < 100 else 0) for f in files})
    last = -1e9
    for t in ticks:
        if at_x(t) - last > 36:
            last = at_x(t)
            out.append(f'<text x="{last:.1f}" y="{y0 + HEIGHT + 16}" text-anchor="middle">{t:g}</text>')
    out.append(f'<text x="{x0 + WIDTH / 2}" y="{y0 + HEIGHT + 34}" text-anchor="middle">weights, MB</text>')
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("report", nargs="+")
    ap.add_argument("-o", "--output", default="eval.svg")
    a = ap.parse_args()
    files = [read(p) for p in a.report]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="1010" height="390" font-family="sans-serif" font-size="12">',
           '<rect width="1010" height="390" fill="white"/>']
    out += panel(files, "kl", "KL divergence from the reference, nats/token", 70, 40, 1e-9)
    out += panel(files, "flips", "another token is the likeliest, %", 570, 40, 1e-3)
    with open(a.output, "w", encoding="utf-8") as f:
        f.write("\n".join(out + ["</svg>", ""]))
    print(a.output)


if __name__ == "__main__":
    main()
