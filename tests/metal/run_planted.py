#!/usr/bin/env python3
"""run_planted.py SOURCE-DIR BUILD-DIR [--all | --only WORD] - plants the bugs of planted.py one by one
and says which check caught each; exit status 1 if one was not caught, or no longer applies. Without
--all: those marked quick (FATHOM_TEST_LONG in the environment means --all).

A kernel bug goes into a copy of the joined kernel source, which the stand-in device compiles instead
(FATHOM_TEST_KERNELS). A host bug goes into a copy of its file, which is compiled with that file's own
command and linked in front of the library. Caught means: the test ran and failed, and said what the bug's
`says` expects - a kernel that does not compile catches nothing, and a test that failed for another reason is
reported as not caught. Under a sanitizer its own report is a reason, too. Only one test runs for each bug."""
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from planted import BUGS  # noqa: E402

SANITIZER = re.compile(r"(WARNING: ThreadSanitizer|ERROR: (Address|Thread)Sanitizer): .*|.*runtime error: .*")


def change(text, bug):
    if text.count(bug.old) != 1:
        raise SystemExit(f"{bug.name}: its text occurs {text.count(bug.old)} times in {bug.file}, not once")
    return text.replace(bug.old, bug.new)


def run(command, **more):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              timeout=400, **more)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "did not end within 400 s")


def host_program(bug, source, build, work):
    """Links the test with a changed copy of one host file."""
    original = os.path.join(source, "src/backend/metal", bug.file)
    with open(original, encoding="utf-8") as f:
        text = change(f.read(), bug)
    copy = os.path.join(work, bug.file)
    with open(copy, "w", encoding="utf-8") as f:
        f.write(f'#line 1 "{original}"\n{text}')
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
        entry = next(e for e in json.load(f) if e["file"] == original)
    words = shlex.split(entry["command"])
    obj = os.path.join(work, "changed.o")
    words = [copy if w == original else w for w in words]
    words[words.index("-o") + 1] = obj
    words = [w for w in words if w != "-Werror"]
    done = run(words, cwd=entry["directory"])
    if done.returncode:
        raise SystemExit(f"{bug.name}: does not compile:\n{done.stdout}")
    target = f"tests/test_metal_{bug.program}"
    line = subprocess.check_output(["ninja", "-C", build, "-t", "commands", "-s", target], text=True).splitlines()[-1]
    words = shlex.split(line[line.index("&&") + 2:line.rindex("&&")])
    words = [w for w in words if w not in (":", "&&")]
    program = os.path.join(work, "changed")
    at = words.index("-o")
    words[at + 1] = program
    words.insert(at, obj)
    done = run(words, cwd=build)
    if done.returncode:
        raise SystemExit(f"{bug.name}: does not link:\n{done.stdout}")
    return program


def try_bug(bug, source, build, work):
    env = dict(os.environ, FATHOM_TEST_FILTER=bug.filter)
    env.setdefault("TSAN_OPTIONS", "halt_on_error=1")
    program = os.path.join(build, "tests", "test_metal_" + bug.program)
    if bug.file.startswith("kernels/"):
        with open(os.path.join(build, "kernels.metal"), encoding="utf-8") as f:
            joined = f.read()
        with open(os.path.join(source, "src/backend/metal", bug.file), encoding="utf-8") as f:
            part = f.read()
        changed = os.path.join(work, "kernels.metal")
        with open(changed, "w", encoding="utf-8") as f:
            f.write(joined.replace(part, change(part, bug)))
        env["FATHOM_TEST_KERNELS"] = changed
    else:
        program = host_program(bug, source, build, work)
    done = run([program], cwd=source, env=env)
    if "do not compile" in done.stdout:
        raise SystemExit(f"{bug.name}: does not compile:\n{done.stdout[:3000]}")
    if "Running 0 test(s)" in done.stdout or "[ RUN" not in done.stdout:
        raise SystemExit(f"{bug.name}: no test ran:\n{done.stdout[:3000]}")
    if done.returncode == 0:
        return None, "the test passed"
    lines = done.stdout.splitlines()
    for line in lines:
        if re.search(bug.says, line) or SANITIZER.search(line):
            return line.strip(), None
    return None, f"the test failed for another reason than {bug.says}:\n" + "\n".join(lines[-12:])


def main():
    source, build = map(os.path.abspath, sys.argv[1:3])
    rest = sys.argv[3:]
    everything = "--all" in rest or bool(os.environ.get("FATHOM_TEST_LONG"))
    only = rest[rest.index("--only") + 1] if "--only" in rest else None
    with open(os.path.join(build, "CMakeCache.txt"), encoding="utf-8") as f:
        m = re.search(r"^FATHOM_SANITIZE:\w+=(.*)$", f.read(), re.M)
    sanitize = m.group(1) if m else ""
    missed = n = 0
    began = time.monotonic()
    for bug in BUGS:
        if (only and only not in bug.name) or (not only and not everything and not bug.quick):
            continue
        if bug.need and bug.need not in sanitize:
            continue
        n += 1
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as work:
            reason, why = try_bug(bug, source, build, work)
        missed += reason is None
        print(f"{'NOT CAUGHT' if reason is None else 'caught'}: {bug.name} ({bug.file}, {bug.program} {bug.filter}, "
              f"{time.monotonic() - start:.1f} s)\n    by: {reason[:220] if reason else why}", flush=True)
    print(f"{n} bugs planted, {n - missed} caught, {missed} not, {time.monotonic() - began:.0f} s")
    return 1 if missed or n == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
