#!/usr/bin/env python3
"""The embedded mini model answers the tasks it was trained on: every fourth prompt of tasks.jsonl that
has an expected answer (TASK_STEP=1: all), greedy, as `run --raw` prints them. Its README puts a fault
at below 97 %; per task the share is printed. (All of them through the library: test_factory_mini.)"""
import concurrent.futures

from program import *

EOS = "<｜end▁of▁sentence｜>"
MINIMUM = 0.97
STEP = int(os.environ.get("TASK_STEP", 4))


def prompts(tasks):
    """Prompt ids to trusted text, which tokenises to the same ids (checked)."""
    text = "".join(json.dumps({"ids": t["prompt_ids"]}) + "\n" for t in tasks)
    out = [json.loads(x) for x in good("tokens", "--decode", "--jsonl", stdin=text).splitlines()]
    texts = ["".join(o["deltas"]) + o["flush"] for o in out]
    back = good("tokens", "--jsonl", stdin="".join(json.dumps({"text": t}) + "\n" for t in texts))
    for t, line in zip(tasks, back.splitlines()):
        assert json.loads(line)["ids"] == t["prompt_ids"], t["id"]
    return texts


def answer(text):
    return good("run", "--raw", "-f", "-", "--temp", "0", "-n", "300", "--threads", "1", stdin=text)


def test_tasks():
    with open(data("mini-model/eval/tasks.jsonl"), encoding="utf-8") as f:
        tasks = [t for t in map(json.loads, f) if t.get("expected")][::STEP]
    texts = prompts(tasks)
    right = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for t, out in zip(tasks, pool.map(answer, texts)):
            ok = out in [e.removesuffix(EOS) for e in t["expected"]]
            n, m = right.get(t["task"], (0, 0))
            right[t["task"]] = (n + ok, m + 1)
            if not ok:
                print(f"  {t['id']}: {out!r}, expected {t['expected'][0]!r}")
    for task, (n, m) in sorted(right.items()):
        print(f"  {task:12s} {n} of {m}")
    n, m = sum(a for a, _ in right.values()), sum(b for _, b in right.values())
    print(f"  all          {n} of {m}: {100 * n / m:.1f} %")
    assert m >= 300 // STEP and n >= MINIMUM * m


if __name__ == "__main__":
    sys.exit(main(globals()))
