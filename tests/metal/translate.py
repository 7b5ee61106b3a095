#!/usr/bin/env python3
"""translate.py IN.metal > OUT.cpp - rewrites Metal shading language into C++ that the shim compiles.

Line-oriented, no full parser; every construct it touches keeps its line, so that diagnostics and
the emulator's messages point into the .metal source:
- comments are blanked;
- `constant T NAME [[function_constant(N)]];` becomes a variable and its registration;
- `kernel void name(...)` loses its [[...]] attributes; a descriptor of its arguments and a
  registration follow the closing brace. Every buffer needs an explicit [[buffer(n)]];
- `template [[host_name("n")]] kernel decltype(f<A>) f<A>;` becomes a registration of f<A>;
- `threadgroup T a[N];` inside a function becomes a reference to memory of the threadgroup.
What it does not understand is an error with its line."""
import re
import sys

BUILTINS = """thread_position_in_grid threadgroup_position_in_grid thread_position_in_threadgroup
thread_index_in_threadgroup simdgroup_index_in_threadgroup thread_index_in_simdgroup
threads_per_threadgroup threadgroups_per_grid threads_per_grid simdgroups_per_threadgroup
threads_per_simdgroup""".split()
FORBIDDEN = [(r"\bdouble\b", "double"), (r"\bgoto\b", "goto"), (r"\bnew\b", "new"), (r"\bdelete\b", "delete"),
             (r"\bvirtual\b", "virtual"), (r"\bthrow\b|\btry\b", "exceptions"), (r"\blong double\b", "long double"),
             (r"\[[&=]?\w*\]\s*\([^)]*\)\s*\{", "a lambda"), (r"\bstatic\s+(?!constant|inline|METAL_FUNC)\w", "a static variable")]


class Bad(Exception):
    pass


def line_of(text, at):
    return text.count("\n", 0, at) + 1


def blank_comments(text):
    def blank(m):
        return m.group(0) if m.group(0)[0] == '"' else re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', blank, text, flags=re.S)


def closing(text, at, pair):
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == pair[0]) - (text[i] == pair[1])
        if depth == 0:
            return i
    raise Bad(f"line {line_of(text, at)}: no closing {pair[1]}")


def split_arguments(text):
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "(<[") - (c in ")>]")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [p for p in parts if p.strip()]


def argument(text, line):
    """One parameter: its C++ form and its descriptor."""
    m = re.search(r"\[\[\s*(\w+)\s*(?:\(\s*(\w+)\s*\))?\s*\]\]", text)
    if not m:
        raise Bad(f"line {line}: parameter without attribute: {' '.join(text.split())}")
    plain = text[:m.start()] + text[m.end():]
    name, index = m.group(1), m.group(2)
    if name == "buffer":
        if not re.search(r"\b(device|constant)\b", plain):
            raise Bad(f"line {line}: a buffer is neither device nor constant: {' '.join(plain.split())}")
        return plain, f"{{EMU_ARG_BUFFER, {index}}}"
    if name == "threadgroup":
        return plain, f"{{EMU_ARG_THREADGROUP, {index}}}"
    if name in BUILTINS:
        return plain, f"{{EMU_ARG_BUILTIN, EMU_{name.upper()}}}"
    raise Bad(f"line {line}: unknown attribute [[{name}]]")


def constants(text):
    def one(m):
        t, name, index = m.group(1), m.group(2), m.group(3)
        return (f"static {t} {name}; static metal::emu_register_constant emu_c_{name}"
                f"(\"{name}\", {index}, &{name}, sizeof {name});")
    return re.sub(r"\bconstant\s+(\w+)\s+(\w+)\s*\[\[\s*function_constant\((\w+)\)\s*\]\]\s*;", one, text)


def tg_locals(text):
    count = [0]

    def one(m):
        count[0] += 1
        t, name, dims = m.group(1), m.group(2), m.group(3)
        if dims:
            return f"typedef {t} emu_t{count[0]}{dims}; auto &{name} = metal::emu_tg_local<{count[0]}, emu_t{count[0]}>();"
        return f"auto &{name} = metal::emu_tg_local<{count[0]}, {t}>();"
    return re.sub(r"(?<=[;{}\n])([ \t]*)threadgroup\s+([\w<>, ]+?)\s+(\w+)\s*((?:\[[^\]]*\])*)\s*;",
                  lambda m: m.group(1) + one(re.match(r"(.*?)\x00(.*?)\x00(.*)", "\0".join(m.groups()[1:]), re.S)), text)


def kernels(text):
    out, at, templates = [], 0, {}
    for m in re.finditer(r"(template\s*<([^<>]*)>\s*)?\bkernel\s+void\s+(\w+)\s*\(", text):
        if m.start() < at:
            continue
        line, name = line_of(text, m.start()), m.group(3)
        close = closing(text, m.end() - 1, "()")
        inside = text[m.end():close]
        plain, desc = [], []
        for a in split_arguments(inside):
            p, d = argument(a, line)
            plain.append(p)
            desc.append(d)
        brace = text.index("{", close)
        end = closing(text, brace, "{}")
        out.append(text[at:m.end()] + ",".join(plain) + text[close:end + 1])
        out.append(f" static const emu_arg emu_a_{name}[] = {{{', '.join(desc)}}};")
        if m.group(1):
            templates[name] = len(desc)
        else:
            out.append(f" static metal::emu_register emu_r_{name}(\"{name}\", metal::emu_thunk<&{name}>, "
                       f"emu_a_{name}, {len(desc)}, metal::emu_all_needs<decltype(&{name})>::bytes, {line});")
        at = end + 1
    return "".join(out) + text[at:], templates


def instances(text, templates):
    count = [0]

    def one(m):
        count[0] += 1
        host, name, full = m.group(1), m.group(2), m.group(2) + m.group(3)
        if name not in templates:
            raise Bad(f"line {line_of(text, m.start())}: {name} is no kernel template")
        return (f"static metal::emu_register emu_i_{count[0]}(\"{host}\", metal::emu_thunk<&{full}>, emu_a_{name}, "
                f"{templates[name]}, metal::emu_all_needs<decltype(&{full})>::bytes, {line_of(text, m.start())});" + "\n" * m.group(0).count("\n"))
    return re.sub(r"template\s*\[\[\s*host_name\(\"(\w+)\"\)\s*\]\]\s*kernel\s+decltype\(\s*\w+\s*<.*?>\s*\)\s*(\w+)\s*(<[^;]*>)\s*;",
                  one, text, flags=re.S)


def translate(text):
    text = blank_comments(text)
    for pattern, what in FORBIDDEN:
        m = re.search(pattern, text)
        if m:
            raise Bad(f"line {line_of(text, m.start())}: {what} is not part of our subset of the language")
    # The emulated device is built without contraction: the source has to ask for the same.
    pragma = re.compile(r"^#pragma METAL fp contract\(off\)$", re.M)
    if not pragma.search(text):
        raise Bad("products and sums may be contracted: #pragma METAL fp contract(off) is missing")
    text = pragma.sub("#pragma STDC FP_CONTRACT OFF", text)
    text = constants(text)
    text, templates = kernels(text)
    text = instances(text, templates)
    text = tg_locals(text)
    text = re.sub(r"(?<![\w.])(\d+\.?\d*)h\b", r"((half)\1f)", text)
    return text


def main():
    name = sys.argv[1]
    try:
        with open(name, encoding="utf-8") as f:
            print(f'#line 1 "{name}"')
            print(translate(f.read()))
    except Bad as e:
        sys.exit(f"{name}: {e}")


if __name__ == "__main__":
    main()
