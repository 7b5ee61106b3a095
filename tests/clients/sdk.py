#!/usr/bin/env python3
"""The official SDKs against `fathom serve`: runs sdk_NAME.mjs with Node.js beside the servers it wants.

    sdk.py NAME [TEST ...]      openai, anthropic, ai, structured, mini

Answers are scripted (see SCRIPT), except for mini: there the embedded model answers."""
from sandbox import *

PACKAGES = {"openai": ["openai"], "anthropic": ["@anthropic-ai/sdk"],
            "ai": ["ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic"]}
PACKAGES["structured"] = PACKAGES["openai"] + PACKAGES["anthropic"] + PACKAGES["ai"] + ["zod"]
PACKAGES["mini"] = PACKAGES["openai"] + PACKAGES["anthropic"]

SCRIPT = [
    {"match": "sunny-21", "completion": "Both known.</think>Sun in Oslo, rain in Rome."},
    {"match": "[weather]", "completion": "Two cities.</think>I will look." + call_text(
        ("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"}))},
    {"match": "[hello]", "completion": "I know this.</think>Hello, wörld 🙂.\n\nBye."},
    {"match": "[plain]", "completion": "No thoughts."},
    {"match": "[long]", "completion": "</think>" + "word " * 2000, "delay_ms": 20},
    {"match": "[fault]", "completion": "</think>" + "word " * 20, "fault_after": 8},
    {"match": "[person]", "pieces": ["A person.", "</think>", "Sure, here it is:", "{", '"name"', ":", '"Ada"', ",",
                                     '"age"', ":", "36", "}", " Anything else?"]},
    {"match": "[call]", "pieces": ["</think>", "I will not call anything.", call_text(("get_weather", {"city": "Oslo"}))]},
    {"match": "[json tool]", "pieces": ["</think>", "Here it is:", call_text(("json", {"name": "Ada", "age": 36}))]},
    {"completion": "</think>Something else."},
]


def main(name, tests):
    for package in PACKAGES[name]:
        version(package)
    loopback_only()
    with tempfile.TemporaryDirectory(prefix="fathom-sdk-") as work, contextlib.ExitStack() as stack:
        # a module finds its packages by where it lies, so the tests run from beside node_modules
        here = stack.enter_context(tempfile.TemporaryDirectory(dir=os.path.dirname(MODULES), prefix="run-"))
        for file in (f"sdk_{name}.mjs", "check.mjs"):
            shutil.copy(os.path.join(HERE, file), here)

        def start(*options, mini=name == "mini"):
            s = stack.enter_context(serving(work, *options, script=None if mini else SCRIPT))
            return f"http://127.0.0.1:{s.port}"

        env = {**private_env(work), "FATHOM_URL": start("--ctx", 8192)}
        if name == "structured":
            env["FATHOM_MINI_URL"] = start("--ctx", 4096, mini=True)
        env.update({k: v for k, v in os.environ.items() if k == "TASK_STEP"})
        if name != "mini":
            env["FATHOM_KEYED_URL"] = start("--api-key", "the-right-key")
            env["FATHOM_TINY_URL"] = start("--parallel", 1, "--queue", 1)
        code = subprocess.run([node(), os.path.join(here, f"sdk_{name}.mjs"), *tests], env=env, timeout=300,
                              stdin=subprocess.DEVNULL).returncode
    if code == 0:
        print(f"passed: sdk-{name} ({', '.join(f'{p} {version(p)}' for p in PACKAGES[name])})")
    return code


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PACKAGES:
        sys.exit(f"usage: sdk.py NAME [TEST ...]; names: {' '.join(PACKAGES)}")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
