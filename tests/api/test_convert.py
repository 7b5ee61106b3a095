#!/usr/bin/env python3
"""`fathom convert`: 2-bit files that still answer, the same bytes for any number of threads, and kill -9 at random
moments (the last when a piece is finished): nothing ever stands under the final name before it is complete, and the
same command goes on to the bytes of an uninterrupted run. KILLS sets how often, SEED the moments."""
import random
import time

from kills import kill_rounds
from program import *

KILLS = int(os.environ.get("KILLS", 10))


def content(path):
    with open(path, "rb") as f:
        return f.read()


def timed(work, name, *more):
    out, start = os.path.join(work, name), time.time()
    converted(MINI_DIR, out, "q2", "--threads", "1", *more)
    return content(out), time.time() - start


def test_q2_answers(work):
    out = os.path.join(work, "answer.gguf")
    converted(MINI_DIR, out, "q2")
    assert "all checks passed" in good("inspect", "--check", out)
    types = {t["type"] for t in json.loads(good("inspect", "--json", "-m", out))["tensors"]}
    assert {"IQ2_XXS", "Q2_K", "Q8_0"} <= types, types
    assert good("run", "-m", out, "--temp", "0", "--think", "off", "-p", "Reverse these words: tea, key").strip() == "key, tea"


def test_every_recipe(work):
    """A file of every recipe, and of every type of the dense part, passes the checks of another start."""
    names = ("f32", "f16", "bf16", "q8", "mxfp4", "q4", "q2", "q2-q4tail")
    code, _, err = run("convert", MINI_DIR, "-o", os.path.join(work, "none.gguf"), "--recipe", "none")
    assert code != 0 and all(n in err for n in names), err
    sizes = {}
    for recipe, *more in [(n,) for n in names] + [("q8", "--dense", t) for t in ("q6_k", "q5_k", "q4_k")]:
        out = converted(MINI_DIR, os.path.join(work, "recipe.gguf"), recipe, *more)
        assert "all checks passed" in good("inspect", "--check", out), (recipe, more)
        sizes[(recipe, *more[1:])] = os.path.getsize(out)
    assert sizes[("q2",)] < sizes[("q2-q4tail",)] <= sizes[("q4",)] < sizes[("q8",)] < sizes[("f16",)] < sizes[("f32",)]


def test_threads(work):
    one = timed(work, "t1.gguf")[0]
    for n in (2, 3):
        out = os.path.join(work, f"t{n}.gguf")
        converted(MINI_DIR, out, "q2", "--threads", n)
        assert content(out) == one, n


def test_dry_run(work):
    out = os.path.join(work, "dry.gguf")
    code, _, err = run("convert", MINI_DIR, "-o", out, "--recipe", "q2-q4tail", "--dry-run",
                       "--tensor", "blk.*.attn_q_a.weight=Q8_0", "--tensor", "output.weight=Q6_K")
    assert code == 0, err
    assert "blk.4.ffn_up_exps.weight: Q4_K from BF16, 256 x 256 x 8, 294912 bytes" in err
    assert "output.weight: Q6_K from BF16" in err
    assert not [f for f in os.listdir(work) if f.startswith("dry")]


def test_killed(work):
    """Each round starts the same command and kills it; every round must begin where the last ended."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print(f"seed {seed}")
    # IQ2_XXS nearly everywhere, so that there is time to be killed.
    rules = ["--tensor", "*_exps.weight=IQ2_XXS", "--tensor", "*shexp.weight=IQ2_XS"]
    want, seconds = timed(work, "whole.gguf", *rules)
    out = os.path.join(work, "killed.gguf")
    command = [PROGRAM, "convert", MINI_DIR, "-o", out, "--recipe", "q2", "--threads", "2", *rules]
    print(kill_rounds(command, out, lambda path: content(path) == want, KILLS, 0.6 * seconds, random.Random(seed), environment()))


def test_other_plan(work):
    """A file left by another recipe is neither used nor removed."""
    out = os.path.join(work, "other.gguf")
    p = subprocess.Popen([PROGRAM, "convert", MINI_DIR, "-o", out, "--recipe", "q2", "--threads", "1"],
                         stderr=subprocess.DEVNULL, env=environment())
    limit = time.time() + 60
    while not os.path.exists(out + ".part") and p.poll() is None and time.time() < limit:
        time.sleep(0.002)
    p.kill()
    p.wait()
    assert os.path.exists(out + ".journal")
    before = content(out + ".journal")
    code, _, err = run("convert", MINI_DIR, "-o", out, "--recipe", "q8")
    assert code == 1 or code == 2, (code, err)
    assert "to start over" in err and ".journal" in err, err
    assert content(out + ".journal") == before and not os.path.exists(out)
    os.remove(out + ".journal")
    os.remove(out + ".part")
    converted(MINI_DIR, out, "q8")


if __name__ == "__main__":
    sys.exit(main(globals()))
