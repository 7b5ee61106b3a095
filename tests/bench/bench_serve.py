#!/usr/bin/env python3
"""What the server adds to a streamed token, measured with scripted answers (the model costs nothing): the
processor time of the whole server per token, once as fast as it goes (ready tokens are merged into one
event) and once with a token every millisecond in each of N streams, so that every token is an event, a
wake-up and a write of its own. FATHOM_PROGRAM names the program.

    bench_serve.py [STREAMS]
"""
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "api"))
from serving import *  # noqa: E402


def cpu_seconds(s):
    fields = open(f"/proc/{s.process.pid}/stat", encoding="utf-8").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(work, name, n_streams, n_tokens, delay_ms):
    script = [{"completion": "</think>" + "a b c d " * (n_tokens // 4), "delay_ms": delay_ms}]
    with serving(work, "--parallel", n_streams, "--quiet", script=script) as s:
        def one(i):
            c = s.connect()
            c.request("POST", "/v1/chat/completions", json.dumps({
                "model": "m", "stream": True, "messages": [{"role": "user", "content": str(i)}],
                "stream_options": {"include_usage": True}}))
            data = c.getresponse().read()
            usage = json.loads(data.split(b"data: ")[-2])["usage"]
            return usage["completion_tokens"], data.count(b"data: ")

        one(0)
        before, start = cpu_seconds(s), time.time()
        got = in_threads(n_streams, one)
        used, took = cpu_seconds(s) - before, time.time() - start
        tokens, events = sum(g[0] for g in got), sum(g[1] for g in got)
        print(f"{name}: {n_streams} streams, {tokens} tokens, {events} events in {took:.2f} s: "
              f"{used / tokens * 1e6:.1f} us of processor time per token, {used / events * 1e6:.1f} us per event")


if __name__ == "__main__":
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    with tempfile.TemporaryDirectory() as folder:
        measure(folder, "as fast as it goes", 1, 40000, 0)
        measure(folder, "paced", 1, 2000, 1)
        measure(folder, "paced", n, 2000, 1)
