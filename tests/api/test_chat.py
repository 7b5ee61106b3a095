#!/usr/bin/env python3
"""`fathom chat` across restarts: the conversation is kept and goes on, its KV state comes from the
disk, and both can be switched off, listed, deleted, damaged, or used by another program."""
import glob
import os
import re
import stat
import subprocess
import sys
import tempfile

from program import PROGRAM, environment, good, main, run

WORDS = ("The blue lamp stands near the old door and the small dog sleeps under the table in Delhi. " * 12).strip()


def chat(cache, lines, *args, expect=0):
    """One start of chat; returns stdout, stderr."""
    code, out, err = run("chat", "--temp", "0", "--think", "off", "-n", "12", "--debug", "kv-save-all", *args,
                         stdin=lines, env=environment(XDG_CACHE_HOME=cache))
    assert code == expect, (code, err)
    return out.decode(), err


def files(cache, pattern):
    return sorted(glob.glob(os.path.join(cache, "fathom", pattern)))


def known(out):
    """Of the last /stats: known, prompt, memory, disk, computed."""
    m = re.findall(r"(\d+) of (\d+) tokens were known \(memory (\d+), disk (\d+).*?\); computed (\d+)", out)
    return [int(x) for x in m[-1]]


def test_resume():
    """The second start knows the first: the words from the file, the state from the disk."""
    with tempfile.TemporaryDirectory() as cache:
        out, _ = chat(cache, f"{WORDS}\n/stats\n")
        first = known(out)
        assert first[0] == 0 and first[1] > 260, out
        talks = files(cache, "chat/*.jsonl")
        assert len(talks) == 1
        for path, mode in [(talks[0], 0o600), (os.path.dirname(talks[0]), 0o700)]:
            assert stat.S_IMODE(os.stat(path).st_mode) == mode, path
        assert files(cache, "kv/*/*.f"), "no frontier was stored"
        for path in files(cache, "kv/*/*"):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert b"lamp" not in open(path, "rb").read(), "text of the prompt in a KV file"
        out, err = chat(cache, "What is small?\n/stats\n/list\n")
        assert "going on with the conversation" in err and "The blue lamp" in err, err
        n, total, ram, disk, computed = known(out)
        assert ram == 0 and disk >= 256 and total > first[1] and computed <= total - disk, out
        assert len(files(cache, "chat/*.jsonl")) == 1
        assert re.search(r"^\*  1  .*4 messages  The blue lamp", out, re.M), out
        # The same answer without any of it.
        cold, _ = chat(cache, f"{WORDS}\nWhat is small?\n", "--new", "--kv-dir", "none")
        assert cold.splitlines()[-1] == out.splitlines()[0], (cold, out)
        assert len(files(cache, "chat/*.jsonl")) == 1, "--kv-dir none keeps nothing"


def test_commands():
    with tempfile.TemporaryDirectory() as cache:
        chat(cache, "I live in Delhi.\n")
        out, err = chat(cache, "I live in Rome.\n/list\n/resume 2\nWhere do I live?\n/list\n/resume 9\n/resume x\n",
                        "--new")
        assert "going on" not in err
        assert out.count("/resume takes a number of /list, 1 to 2") == 2
        lists = re.findall(r"^(.)\s*(\d)  .*?(\d) messages  (.*)$", out, re.M)
        assert lists[0] == ("*", "1", "2", "I live in Rome.") and lists[1][3] == "I live in Delhi.", lists
        assert lists[2][0] == " " and lists[3] == ("*", "2", "4", "I live in Delhi."), lists
        assert "Delhi" in out.split("conversation of 2 messages")[1]
        # /forget deletes the text; what remains is resumed.
        out, err = chat(cache, "/forget\n/list\n")
        assert '"I live in Rome."' in err and "deleted" in out and "Rome" not in out
        assert len(files(cache, "chat/*.jsonl")) == 1
        out, err = chat(cache, "/new\nI live in Oslo.\n/list\n")
        assert '"I live in Delhi."' in err and len(files(cache, "chat/*.jsonl")) == 2
        _, err = chat(cache, "Hello\n", "--system", "Be short.")
        assert "going on" not in err


def test_damaged():
    """A line that was cut off is dropped; a file that is none is reported and left alone."""
    with tempfile.TemporaryDirectory() as cache:
        chat(cache, "I live in Delhi.\n")
        path, = files(cache, "chat/*.jsonl")
        with open(path, "a", encoding="utf-8") as f:
            f.write('{"role":"user","content":"half a li')
        out, err = chat(cache, "Where do I live?\n")
        assert "2 messages" in err and "Delhi" in out
        assert open(path, encoding="utf-8").read().count("\n") == 5
        with open(path, "w", encoding="utf-8") as f:
            f.write('{"fathom":"chat","version":1,"model":"mini"}\n{"role":"user","content":"x"}\n{"role":7}\n')
        before = open(path, "rb").read()
        _, err = chat(cache, "Hello\n")
        assert "cannot be read" in err and "line 3" in err, err
        assert open(path, "rb").read() == before and len(files(cache, "chat/*.jsonl")) == 2
        os.chmod(os.path.dirname(path), 0o777)
        _, err = chat(cache, "Hello\n")
        assert "conversations are not kept" in err
        assert len(files(cache, "chat/*.jsonl")) == 2


def test_two_programs():
    """A conversation that is open elsewhere is not resumed."""
    with tempfile.TemporaryDirectory() as cache:
        chat(cache, "I live in Delhi.\n")
        env = environment(XDG_CACHE_HOME=cache)
        a = subprocess.Popen([PROGRAM, "chat", "--temp", "0", "--think", "off", "-n", "4"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)
        a.stdin.write("Hello\n")
        a.stdin.flush()
        a.stdout.readline()
        _, err = chat(cache, "Hello\n")
        assert "going on" not in err, err
        _, err = a.communicate("/exit\n", timeout=60)
        assert "going on" in err and a.returncode == 0
        assert len(files(cache, "chat/*.jsonl")) == 2


def test_run_keeps_nothing():
    with tempfile.TemporaryDirectory() as cache:
        env = environment(XDG_CACHE_HOME=cache)
        good("run", "-p", "Hello", "-n", "4", "--temp", "0", env=env)
        assert not files(cache, "kv/*")
        kv = os.path.join(cache, "own")
        for i in range(2):
            good("run", "-p", WORDS, "-n", "4", "--temp", "0", "--kv-dir", kv, "--kv-disk", "1g", "--debug",
                 "kv-save-all", env=env)
        assert glob.glob(os.path.join(kv, "*", "*.f"))
        code, _, err = run("run", "-p", "x", "--kv-disk", "12q", env=env)
        assert code == 2 and "size" in err


if __name__ == "__main__":
    sys.exit(main(globals()))
