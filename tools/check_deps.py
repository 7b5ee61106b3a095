#!/usr/bin/env python3
"""Checks the includes of src/ against the dependency table of ARCHITECTURE.md.

Fails on: an edge that the table does not allow, a cycle in the table, an include that is not
written from src/ ("op/op.h"), an include of another folder's *_int.h, and a third-party header
outside its one file. Also checks that CMakeLists.txt links no folder that the table forbids.
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SRC = os.path.join(ROOT, "src")
# Header (prefix) -> files that may include it. Everything else in <> must be C or POSIX.
THIRD_PARTY = {
    "histedit.h": {"cmd/line.c"},
    "lzma.h": {"text/xz.c"},
    "xxhash.h": {"base/hash.c"},
    "openssl/": {"base/hash.c"},
    "CommonCrypto/": {"base/hash.c"},
    "microhttpd.h": {"server/http.c"},
    "cmocka.h": set(),
}
SYSTEM = set("""
assert ctype dirent errno fcntl float inttypes limits locale math pthread sched signal stdalign stdarg
stdatomic stdbool stddef stdint stdio stdlib string strings termios time unistd wchar wctype fenv poll
sys/ioctl sys/mman sys/resource sys/stat sys/statvfs sys/sysctl sys/time sys/types sys/uio sys/wait sys/random
sys/utsname sanitizer/asan_interface sys/param sys/mount sys/file mach/mach sys/sysinfo sys/syscall sys/socket sys/un arpa/inet netinet/in linux/futex sys/auxv asm/hwcap
immintrin x86intrin cpuid arm_neon xmmintrin emmintrin
""".split())


def read_table():
    """The table between the ```deps fences of ARCHITECTURE.md: folder : allowed folders."""
    text = open(os.path.join(ROOT, "ARCHITECTURE.md"), encoding="utf-8").read()
    m = re.search(r"```deps\n(.*?)```", text, re.S)
    if not m:
        sys.exit("ARCHITECTURE.md: no ```deps table")
    table = {}
    for line in m.group(1).splitlines():
        line = line.split("#")[0]
        if line.strip():
            name, _, deps = line.partition(":")
            table[name.strip()] = deps.split()
    for name, deps in table.items():
        for d in deps:
            if d not in table:
                sys.exit(f"ARCHITECTURE.md: {name} uses unknown folder {d}")
    return table


def find_cycle(table):
    done, path = set(), []

    def visit(n):
        if n in path:
            return path[path.index(n):] + [n]
        if n in done:
            return None
        path.append(n)
        for d in table[n]:
            c = visit(d)
            if c:
                return c
        path.pop()
        done.add(n)
        return None

    for n in table:
        c = visit(n)
        if c:
            return c
    return None


def folder_of(path, table):
    """Longest folder of the table that holds path (relative to src/)."""
    best = None
    for name in table:
        if path.startswith(name + "/") and (best is None or len(name) > len(best)):
            best = name
    return best


def main():
    table = read_table()
    bad = []
    cycle = find_cycle(table)
    if cycle:
        bad.append("cycle in the table: " + " -> ".join(cycle))
    n_files = n_includes = 0
    for where, _, names in sorted(os.walk(SRC)):
        for name in sorted(names):
            if not re.search(r"\.(c|h|cc|cu|cuh|m|inc)$", name):
                continue
            full = os.path.join(where, name)
            rel = os.path.relpath(full, SRC)
            own = folder_of(rel, table)
            n_files += 1
            if own is None:
                bad.append(f"src/{rel}: its folder is not in the table")
                continue
            for i, line in enumerate(open(full, encoding="utf-8"), 1):
                m = re.match(r'\s*#\s*include\s+([<"])([^>"]+)[>"]', line)
                if not m:
                    continue
                n_includes += 1
                at = f"src/{rel}:{i}"
                kind, target = m.groups()
                if target.startswith("fathom/"):
                    continue
                if kind == "<":
                    check_system(bad, at, rel, target)
                    continue
                if not os.path.exists(os.path.join(SRC, target)):
                    bad.append(f"{at}: \"{target}\" is not a path from src/")
                    continue
                to = folder_of(target, table)
                if to != own and target.endswith("_int.h"):
                    bad.append(f"{at}: {target} is private to {to}")
                elif to != own and to not in table[own]:
                    bad.append(f"{at}: {own} must not use {to}")
    bad += check_cmake(table)
    for b in bad:
        print(b)
    print(f"{n_files} files, {n_includes} includes, {len(bad)} problems")
    return 1 if bad else 0


def check_system(bad, at, rel, target):
    for prefix, allowed in THIRD_PARTY.items():
        if target.startswith(prefix):
            if rel not in allowed:
                bad.append(f"{at}: <{target}> may only be included by {', '.join(sorted(allowed)) or 'tests'}")
            return
    if target[:-2] not in SYSTEM:
        bad.append(f"{at}: <{target}> is no header of C, POSIX or a known library")


def check_cmake(table):
    bad = []
    for path in ("CMakeLists.txt", "cmake/products.cmake"):
        text = open(os.path.join(ROOT, path), encoding="utf-8").read()
        for name, rest in re.findall(r"^fathom_folder\((\S+)([^)]*)\)", text, re.M):
            deps = re.search(r"DEPS ([^)]*?)(?: LIBS|\n  LIBS|$)", rest)
            for d in (deps.group(1).split() if deps else []):
                if name in table and d not in table[name]:
                    bad.append(f"{path}: {name} links {d}, which the table forbids")
                if name not in table:
                    bad.append(f"{path}: folder {name} is not in the table")
                    break
    return bad


if __name__ == "__main__":
    sys.exit(main())
