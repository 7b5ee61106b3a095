#!/usr/bin/env python3
"""fathom kv: what is stored is listed, described, checked and removed; damage is found; nothing is
removed while another process holds the lock; no prompt text lies in the directory."""
import atexit
import fcntl
import json
import os
import shutil
import stat
import struct
import sys
import tempfile

from program import *

WORDS = ("the cat number %d sat on the mat with a friend called Tom and then they all went home to "
         "have some tea. ")
PROMPT = "".join(WORDS % i for i in range(110))


TOP = tempfile.mkdtemp()
atexit.register(shutil.rmtree, TOP, ignore_errors=True)


def store():
    """A directory with what one long prompt leaves, and its listing. The prompt is computed once."""
    first = os.path.join(TOP, "first")
    if not os.path.exists(first):
        good("run", "-p", PROMPT, "--kv-dir", first, "--temp", "0", "-n", "4", "--think", "off", "--debug",
             "kv-save-all")
    d = os.path.join(tempfile.mkdtemp(dir=TOP), "kv")
    shutil.copytree(first, d)
    return d, listing(d)


def listing(d, *args):
    return json.loads(good("kv", "ls", "--json", "--kv-dir", d, *args))


def path(d, f):
    return os.path.join(d, f["folder"], f["file"])


def test_list_and_show():
    d, l = store()
    kinds = [f["kind"] for f in l["files"]]
    assert kinds.count("segment") >= 1 and kinds.count("frontier") == 1, kinds
    assert l["used_bytes"] == sum(os.path.getsize(path(d, f)) for f in l["files"])
    assert all(f["problem"] is None for f in l["files"])
    text = good("kv", "ls", "--kv-dir", d)
    tree = good("kv", "ls", "--tree", "--kv-dir", d)
    for f in l["files"]:
        assert f["key"][:16] in text and f["key"][:16] in tree
    f = l["files"][0]
    shown = good("kv", "show", f["key"][:10], "--kv-dir", d)
    assert f["key"] in shown and f["from"] in shown and "salt        sha256 none" in shown
    assert shown == good("kv", "show", f["file"], "--kv-dir", d)
    assert "number 7 sat" not in shown
    assert "number 7 sat" in good("kv", "show", f["key"][:10], "--text", "--kv-dir", d)
    assert json.loads(good("kv", "show", f["key"], "--json", "--kv-dir", d))["key"] == f["key"]


def test_private():
    d, l = store()
    for where, dirs, files in os.walk(d):
        assert stat.S_IMODE(os.stat(where).st_mode) == 0o700, where
        for f in files:
            p = os.path.join(where, f)
            assert stat.S_IMODE(os.stat(p).st_mode) == 0o600, p
            with open(p, "rb") as fd:
                content = fd.read()
            for word in (b"number", b"friend", b"home"):
                assert word not in content and word.decode() not in f, p


def test_verify():
    d, l = store()
    n = len(l["files"])
    assert f"{n} files good, 0 bad" in good("kv", "verify", "--kv-dir", d)
    assert "1 files good" in good("kv", "verify", l["files"][0]["key"][:12], "--kv-dir", d)
    p = path(d, l["files"][0])
    with open(p, "r+b") as f:
        f.seek(-5000, 2)
        b = f.read(1)
        f.seek(-5000, 2)
        f.write(bytes([b[0] ^ 16]))
    code, out, err = run("kv", "verify", "--all", "--kv-dir", d)
    assert code == 1 and b"checksum" in out and b"1 bad" in out, (code, out, err)
    code, out, err = run("kv", "verify", "--delete-bad", "--kv-dir", d)
    assert code == 0 and b"removed" in out and not os.path.exists(p), (code, out, err)
    assert "0 bad" in good("kv", "verify", "--kv-dir", d)


def test_forged_ids():
    """Other ids with right checksums: only the keys, computed again, tell."""
    d, l = store()
    f = next(f for f in l["files"] if f["kind"] == "segment")
    src = path(d, f)
    fake = os.path.join(d, f["folder"], "ab" * 20 + "." + f["key"] + ".s")
    os.rename(src, fake)
    code, out, err = run("kv", "verify", "--kv-dir", d)
    assert code == 1 and b"keys" in out, (out, err)


def test_other_version():
    d, l = store()
    with open(path(d, l["files"][0]), "r+b") as f:
        f.seek(8)
        f.write(struct.pack("<H", 2))
    assert "1 of another version" in good("kv", "verify", "--kv-dir", d)
    assert "of another version" in good("kv", "ls", "--kv-dir", d)


def test_remove():
    d, l = store()
    seg = next(f for f in l["files"] if f["kind"] == "segment")
    n = len(l["files"])
    assert f"would remove {n} files" in good("kv", "rm", seg["key"][:16], "--dry-run", "--kv-dir", d)
    assert listing(d)["files"] == l["files"]
    bad(1, "no file", "kv", "rm", "0123456789", "--kv-dir", d)
    front = next(f for f in l["files"] if f["kind"] == "frontier")
    code, out, err = run("kv", "rm", front["key"][:16], "0123456789", "--dry-run", "--kv-dir", d)
    assert code == 1 and b"would remove 1 files" in out and "ends at 0123456789" in err, (out, err)
    assert "removed 1 files" in good("kv", "rm", front["key"][:16], "--kv-dir", d)
    assert len(listing(d)["files"]) == n - 1
    assert "removed 0 files" in good("kv", "rm", "--older-than", "1", "--kv-dir", d)
    for f in listing(d)["files"]:
        os.utime(path(d, f), (1e9, 1e9))
    assert f"removed {n - 1} files" in good("kv", "rm", "--older-than", "1", "--kv-dir", d)
    assert listing(d) == {"files": [], "dir": d, "used_bytes": 0, "segments": 0, "frontiers": 0,
                          "foreign": 0}
    assert os.listdir(d) and not [x for x in os.listdir(d) if len(x) == 16]


def test_remove_all_and_salt():
    d, l = store()
    assert "removed 0 files" in good("kv", "rm", "--salt", "abcdef12", "--kv-dir", d)
    assert f"removed {len(l['files'])} files" in good("kv", "rm", "--salt", "0" * 64, "--kv-dir", d)
    d, l = store()
    stranger = os.path.join(d, l["files"][0]["folder"], "keep.me")
    open(stranger, "w").close()
    assert f"removed {len(l['files'])} files" in good("kv", "rm", "--all", "--kv-dir", d)
    assert os.path.exists(stranger) and listing(d)["foreign"] == 1


def test_collect():
    d, l = store()
    before = listing(d)
    out = good("kv", "gc", "--dry-run", "--kv-disk", "1", "--kv-dir", d)
    assert out.count("would remove") == len(l["files"])
    assert listing(d) == before
    assert "removed" not in good("kv", "gc", "--kv-dir", d)
    keep = l["used_bytes"] - 1
    good("kv", "gc", "--kv-disk", keep, "--kv-dir", d)
    after = listing(d)
    assert 0 < after["used_bytes"] <= keep and after["segments"] >= 1
    assert "0 bad" in good("kv", "verify", "--kv-dir", d)


def test_locked():
    d, l = store()
    with open(os.path.join(d, "LOCK"), "r+b") as f:
        fcntl.lockf(f, fcntl.LOCK_EX)
        fcntl.flock(f, fcntl.LOCK_EX)  # whichever the store uses here
        for args in (("rm", "--all"), ("gc", "--kv-disk", "1"), ("verify", "--delete-bad")):
            bad(3, "another process", "kv", *args, "--kv-dir", d)
        assert listing(d)["files"] == l["files"]
        good("kv", "verify", "--kv-dir", d)
        good("kv", "gc", "--dry-run", "--kv-disk", "1", "--kv-dir", d)
    good("kv", "rm", "--all", "--kv-dir", d)


def test_usage():
    d = tempfile.mkdtemp(dir=TOP)
    bad(2, "none of ls", "kv", "list")
    bad(2, "missing ACTION", "kv")
    bad(2, "needs a KEY", "kv", "show", "--kv-dir", d)
    bad(2, "rm needs", "kv", "rm", "--kv-dir", d)
    bad(2, "no key", "kv", "show", "xyz", "--kv-dir", d)
    bad(2, "unexpected word", "kv", "ls", "abcdef", "--kv-dir", d)
    bad(2, "go with rm", "kv", "ls", "--older-than", "3", "--kv-dir", d)
    bad(2, "goes with verify", "kv", "rm", "--all", "--delete-bad", "--kv-dir", d)
    bad(3, "No such file", "kv", "ls", "--kv-dir", os.path.join(d, "nothing"))
    assert not os.path.exists(os.path.join(d, "nothing"))
    os.chmod(d, 0o777)
    bad(3, "others may write", "kv", "ls", "--kv-dir", d)
    env = environment(XDG_CACHE_HOME=tempfile.mkdtemp(dir=TOP))
    code, out, err = run("kv", "ls", env=env)
    assert code == 0 and "nothing was stored yet" in err


if __name__ == "__main__":
    sys.exit(main(globals()))
