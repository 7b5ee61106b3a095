#!/usr/bin/env python3
"""Command line: help of every command, exit codes, wrong usage, generated pages."""
from program import *

COMMANDS = ["run", "chat", "convert", "imatrix", "inspect", "plan", "explain", "tokens", "render", "parse",
            "logits", "selftest", "bench", "kv", "serve", "eval", "help"]


def test_help_of_every_command():
    overview = good("--help")
    for c in COMMANDS:
        assert f"\n  {c} " in overview, c
        text = good(c, "--help")
        assert text.startswith(f"usage: fathom {c} "), c
        assert "--help" in text and all(len(line) <= 80 for line in text.splitlines()), c
    assert good("help") == overview == good("-h")
    assert good("help", "run") == good("run", "-h")


def test_version():
    assert good("--version").startswith("fathom ")


def test_no_command():
    code, out, err = run()
    assert code == 2 and out == b"" and "usage:" in err


def test_wrong_usage():
    bad(2, "unknown command", "frobnicate")
    bad(2, "unknown option --bogus", "run", "--bogus")
    bad(2, "unknown option -z", "run", "-z")
    bad(2, "unknown option --ids", "run", "--ids", "1")
    bad(2, "needs a value", "run", "-p")
    bad(2, "takes no value", "run", "--raw=1")
    bad(2, "unexpected word", "run", "hello")
    bad(2, "missing DIR", "convert", "-o", "x")
    bad(2, "-o FILE", "convert", "x")
    bad(2, "off|low", "run", "--think", "sometimes", "-p", "x")
    for value in ("", "x", "1x", "-1", "1.5", " 1", "99999999999999999999"):
        bad(2, "whole number", "run", "-n", value, "-p", "x")
    for value in ("", "x", "nan", "inf", "-1", "1e999"):
        bad(2, "number", "run", "--temp", value, "-p", "x")
    bad(2, "at most 8", "run", *["--stop", "a"] * 9)
    bad(2, "either -p or -f", "run", "-p", "a", "-f", "b")
    bad(2, "--ids is needed", "logits")
    bad(2, "not a token id", "logits", "--ids", "1,x")
    bad(2, "outside the vocabulary", "logits", "--ids", "1,99999")
    bad(2, "no ids", "logits", "--ids", ",")
    bad(2, "either -m or --shape", "plan", "--shape", "flash", "-m", "x")
    bad(2, "no backend", "selftest", "--backend", "abacus")
    bad(2, "abacus", "logits", "--ids", "1", "--backend", "abacus")


def test_values():
    """--name=VALUE, --name VALUE, -nVALUE and suffixes mean the same."""
    forms = [["--ctx", "2048"], ["--ctx=2048"], ["--ctx", "2k"], ["-c2k"], ["-c", "0x800"], ["-c", "02048"]]
    outs = {good("plan", "--shape", "flash", "--json", *f).split('"available_bytes"')[0] for f in forms}
    assert len(outs) == 1 and '"ctx":2048' in good("plan", "--shape", "flash", "--json", "-c", "2k")


def test_input_errors():
    bad(3, "no such file", "inspect", "/nonexistent.gguf")
    bad(3, "no such file", "run", "-p", "x", "-m", "/nonexistent.gguf")
    bad(3, "nonexistent", "convert", "/nonexistent", "-o", "/tmp/never.gguf")
    bad(3, "not a regular file", "inspect", "/tmp")
    bad(3, "no such file", "run", "-f", "/nonexistent.txt")
    env = environment(FATHOM_MODEL="/nonexistent-env.gguf")
    bad(3, "nonexistent-env", "run", "-p", "x", env=env)


def test_runtime_errors():
    if not os.path.exists("/dev/full"):
        return
    with open("/dev/full", "wb") as full:
        p = subprocess.run([PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, env=environment())
    assert p.returncode == 1 and b"standard output" in p.stderr


def test_generated_pages():
    """docs/fathom.1 and docs/completion are what the program prints."""
    for topic, path in (("man", "docs/fathom.1"), ("bash", "docs/completion/fathom.bash"),
                        ("zsh", "docs/completion/_fathom")):
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            assert f.read() == good("help", topic), f"{path} is not current: fathom help {topic} > {path}"


def test_every_option_is_documented():
    page = good("help", "man").replace("\\-", "-")
    for c in COMMANDS:
        for line in good(c, "--help").splitlines():
            words = [w for w in line.split() if w.startswith("--")]
            if line.startswith("  ") and words and words[0] != "--help":
                assert words[0] in page, (c, words[0])


def test_more_threads_than_processors():
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        words = ["logits", "--ids", "1", "-m", "/nonexistent"]
        note = "--threads 3, but this process may use 1 processor ("
        assert note in bad(3, "/nonexistent", *words, "-t", "3")
        for fits in (["-t", "1"], []):
            assert "processor" not in bad(3, "/nonexistent", *words, *fits)
    finally:
        os.sched_setaffinity(0, allowed)


def test_log_level():
    _, _, err = run("tokens", "-p", "x", env=environment(FATHOM_LOG="loud"))
    assert "FATHOM_LOG=loud" in err


if __name__ == "__main__":
    sys.exit(main(globals()))
