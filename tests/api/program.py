"""Shared by the black-box tests of the program: running it, and a small runner for test_*
functions. FATHOM_PROGRAM names the program (default build/release/fathom); FATHOM_TEST_DATA another
folder of test data. No packages are needed."""
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("FATHOM_PROGRAM") or os.path.join(ROOT, "build", "release", "fathom")
MINI_DIR = os.path.join(ROOT, "models", "mini")
GENERATOR = os.path.join(ROOT, "tests", "golden", "gen_checkpoint.py")
REFERENCE = os.path.join(ROOT, "tests", "golden", "reference.py")


def data(name):
    alternative = os.environ.get("FATHOM_TEST_DATA")
    if alternative and os.path.exists(os.path.join(alternative, name)):
        return os.path.join(alternative, name)
    return os.path.join(ROOT, "tests", "data", name)


def environment(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("FATHOM_")}
    env.update({"NO_COLOR": "1", **more})
    return env


def run(*args, stdin=b"", env=None, timeout=300):
    """Runs the program; returns (exit code, stdout bytes, stderr text)."""
    if isinstance(stdin, str):
        stdin = stdin.encode()
    p = subprocess.run([PROGRAM, *map(str, args)], input=stdin, capture_output=True, timeout=timeout,
                       env=env or environment())
    return p.returncode, p.stdout, p.stderr.decode("utf-8", "replace")


def good(*args, **kw):
    """Runs the program, demands exit code 0, returns stdout as text."""
    code, out, err = run(*args, **kw)
    assert code == 0, f"{args}: exit {code}: {err}"
    return out.decode("utf-8")


def bad(code, needle, *args, **kw):
    """Demands this exit code, an empty stdout and a message that holds needle."""
    got, out, err = run(*args, **kw)
    assert got == code, f"{args}: exit {got}, expected {code}: {err}"
    assert out == b"", f"{args}: stdout {out[:200]!r}"
    assert needle.lower() in err.lower(), f"{args}: no {needle!r} in {err!r}"
    assert err.count("\n") <= 4, f"{args}: a wall of text: {err!r}"
    return err


def python(script, *args):
    p = subprocess.run([sys.executable, script, *map(str, args)], capture_output=True, text=True)
    assert p.returncode == 0, f"{script} {args}: {p.stderr}"
    return p.stdout


def converted(directory, out, recipe, *more):
    good("convert", directory, "-o", out, "--recipe", recipe, *more)
    return out


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def main(names):
    """Runs all test_* functions of the calling module that take a folder or nothing."""
    if not os.path.exists(PROGRAM):
        print(f"{PROGRAM} is not built")
        return 1
    only = sys.argv[1:]
    failed = n = 0
    with tempfile.TemporaryDirectory(prefix="fathom-test-") as work:
        for name, fn in list(names.items()):
            if not name.startswith("test_") or not callable(fn) or (only and name not in only):
                continue
            n += 1
            start = time.time()
            try:
                fn(*([work] if fn.__code__.co_argcount else []))
                print(f"ok      {name}  {time.time() - start:.1f} s", flush=True)
            except Exception:  # a failed assertion, or the program broke in an unexpected way
                failed += 1
                print(f"FAILED  {name}")
                traceback.print_exc(file=sys.stdout)
    print(f"{n - failed} passed, {failed} failed")
    return 1 if failed or n == 0 else 0


__all__ = ["json", "os", "subprocess", "sys", "ROOT", "PROGRAM", "MINI_DIR", "GENERATOR", "REFERENCE",
           "data", "environment", "run", "good", "bad", "python", "converted", "skip", "main"]
