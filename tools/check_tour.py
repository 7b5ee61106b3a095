#!/usr/bin/env python3
"""Checks that the tour of ARCHITECTURE.md is true: every `path` it names exists, and every function
named as `function()` beside a file is defined in (or declared by) that file."""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    bad, n = [], 0
    text = open(os.path.join(ROOT, "ARCHITECTURE.md"), encoding="utf-8").read()
    for i, line in enumerate(text.splitlines(), 1):
        path = None
        for word in re.findall(r"`([^`]+)`", line):
            if re.fullmatch(r"(src|include|tests|tools|cmake|docs|models)/[\w./-]+", word):
                path = word
                n += 1
                if not os.path.exists(os.path.join(ROOT, word)):
                    bad.append(f"ARCHITECTURE.md:{i}: {word} does not exist")
                    path = None
            m = re.fullmatch(r"(\w+)\(\)", word)
            if m and path and os.path.isfile(os.path.join(ROOT, path)):
                n += 1
                body = open(os.path.join(ROOT, path), encoding="utf-8").read()
                if not re.search(r"^[A-Za-z].*\b%s\(" % m.group(1), body, re.M):
                    bad.append(f"ARCHITECTURE.md:{i}: {path} has no function {m.group(1)}()")
    for b in bad:
        print(b)
    print(f"{n} names, {len(bad)} problems")
    return 1 if bad or n == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
