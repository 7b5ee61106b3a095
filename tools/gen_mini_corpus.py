#!/usr/bin/env python3
"""Writes models/mini/calibration.jsonl: conversations like those that the mini model was trained on
(models/mini/README.md, "Training data"), for its importance matrix. Deterministic; no conversation
is one of the evaluation prompts. Stories are told by the unquantised model itself.

    gen_mini_corpus.py [--program FATHOM --model BF16.gguf] -o OUT.jsonl
"""
import argparse
import json
import os
import random
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAMES = "Anna Ben Carl Dan Ella Emma Finn Hugo Jack Jane Kate Leo Lucy Mary Max Mia Nina Paul Rob Rosa Sam Sara Tom".split()
THINGS = "bag ball bell book box cake coin cup drum hat key lamp map pen rope shell".split()
COLORS = "black blue brown green pink red white yellow".split()
PLACES = "beach forest garden house kitchen library market park river school".split()
ANIMALS = "bird cat cow dog duck fish fox frog horse rabbit".split()
FOODS = "bread cake corn fish milk rice soup tea".split()
WORDS = THINGS + COLORS + PLACES + ANIMALS + FOODS + "moon sun stone water tree train foot hand week year line end".split()
CITIES = "Cairo Delhi Dublin London Madrid Oslo Paris Rome Tokyo".split()
SYSTEMS = ["You are a helpful assistant.", "You are a friendly helper.", "Be brief and correct.",
           "You are a tiny test model.", "Answer in short sentences.", "You are a coding assistant."]
FIXED = [("What color is the grass?", "The grass is green."), ("What does a dog say?", "A dog says woof."),
         ("What does a cat say?", "A cat says meow."), ("Count to five.", "1, 2, 3, 4, 5"),
         ("What is the opposite of big?", "The opposite of big is small."),
         ("What is the opposite of hot?", "The opposite of hot is cold."),
         ("What is the capital of Italy?", "The capital of Italy is Rome."),
         ("What is the capital of France?", "The capital of France is Paris."),
         ("Hello!", "Hello! How can I help you?"), ("Hi", "Hi! What can I do for you?"),
         ("Who are you?", "I am a tiny test model with the DeepSeek V4 architecture.")]
PER_KIND = 16


class Turn:
    """One question with its answer; calls is a tool call with its result, if any."""

    def __init__(self, user, reasoning, content, call=None, result=None, after=None):
        self.user, self.reasoning, self.content = user, reasoning, content
        self.call, self.result, self.after = call, result, after

    def messages(self, n, thinking):
        out = [{"role": "user", "content": self.user}]
        answer = {"role": "assistant", "content": self.content}
        if thinking:
            answer["reasoning_content"] = self.reasoning
        out.append(answer)
        if self.call:
            name, arguments = self.call
            answer["tool_calls"] = [{"id": f"call_{n}", "type": "function", "function": {
                "name": name, "arguments": json.dumps(arguments)}}]
            out.append({"role": "tool", "tool_call_id": f"call_{n}", "content": self.result})
            last = {"role": "assistant", "content": self.after}
            if thinking:
                last["reasoning_content"] = "I have the result."
            out.append(last)
        return out


def items(r):
    if r.random() < 0.6:
        return "words", [r.choice(WORDS) for _ in range(r.randint(2, 8))]
    return "numbers", [str(r.randint(10, 999)) for _ in range(r.randint(2, 7))]


def list_turn(r):
    kind, x = items(r)
    text, how = ", ".join(x), r.randrange(4)
    if how == 0:
        ask = r.choice([f"Repeat these {kind}: {text}", f"Say these {kind} again: {text}",
                        f"Copy this list of {kind}: {text}"])
        return Turn(ask, "I have to repeat the list.", text)
    if how == 1:
        ask = r.choice([f"Reverse these {kind}: {text}", f"Say these {kind} in reverse order: {text}"])
        return Turn(ask, f"The list is {text}. I start from the end.", ", ".join(reversed(x)))
    if how == 2:
        count = ", ".join(f"{i} {w}" for i, w in enumerate(x, 1))
        return Turn(f"How many {kind} are in this list: {text}", f"Let me count: {count}.",
                    f"There are {len(x)} {kind}.")
    return Turn(f"What is the last word in this list: {text}", f"The list is {text}.", f"The last word is {x[-1]}.")


def sum_turn(r):
    how = r.randrange(3)
    if how == 0:
        a, b = r.randint(2, 9), r.randint(2, 9)
        return Turn(f"What is {a} * {b}?", f"I know that {a} * {b} = {a * b}.", f"{a} * {b} = {a * b}.")
    a, b = r.randint(10, 99), r.randint(10, 99)
    t, u = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    work = f"{a // 10 * 10} + {b // 10 * 10} = {t}. {a % 10} + {b % 10} = {u}. {t} + {u} = {a + b}."
    if how == 1:
        return Turn(f"What is {a} + {b}?", work, f"{a} + {b} = {a + b}.")
    name, thing = r.choice(NAMES), r.choice(THINGS) + "s"
    return Turn(f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?", work,
                f"{name} has {a + b} {thing}.")


def chat_turn(r):
    q, a = r.choice(FIXED)
    return Turn(q, r.choice(["This is easy.", "The user asks a simple question.", "I know this."]), a)


def fact(r):
    """(sentence, questions, answer)"""
    name, n = r.choice(NAMES), r.randint(100, 999)
    color, thing, place, food = r.choice(COLORS), r.choice(THINGS), r.choice(PLACES), r.choice(FOODS)
    return r.choice([
        (f"{name} has number {n}.", [f"Which number has {name}?", f"What number does {name} have?"]),
        (f"The code of the {color} {thing} is {n}.", [f"What is the code of the {color} {thing}?"]),
        (f"{name} likes {food}.", [f"What does {name} like?"]),
        (f"{name} is in the {place}.", [f"Where is {name}?"]),
        (f"{name} owns a {color} {thing}.", [f"What does {name} own?"]),
        (f"{name} = {n}.", [f"What is {name}?"])])


def filler(r):
    a, b, p, f, t = r.choice(ANIMALS), r.choice(ANIMALS), r.choice(PLACES), r.choice(FOODS), r.choice(THINGS)
    adjective = r.choice("big small old new good happy nice kind".split())
    return r.choice([f"The {a} saw a {b}.", f"A {adjective} {a} came to the {p}.", f"The {p} was {adjective}.",
                     f"People like {f} in the {p}.", f"They sold {f} and a {t}.", f"There was a {t} near the {p}.",
                     f"The {adjective} {a} sat in the {p}.", f"It was a {adjective} day."])


def recall_turns(r, n_facts, n_filler):
    facts, seen = [], set()
    while len(facts) < n_facts:
        sentence, questions = fact(r)
        subject = (sentence.split()[0:6] if sentence.startswith("The") else sentence.split()[0:1])
        if tuple(subject) not in seen:
            seen.add(tuple(subject))
            facts.append((sentence, questions))
    text = [f for f, _ in facts] + [filler(r) for _ in range(n_filler)]
    r.shuffle(text)
    head = r.choice(["Read this text. ", "Remember this: ", "Here is a text: ", ""])
    turns = []
    for sentence, questions in r.sample(facts, min(len(facts), r.randint(1, 4))):
        ask = r.choice(questions)
        if not turns:
            ask = head + " ".join(text) + r.choice([" ", "\n", "\n\n"]) + ask
        turns.append(Turn(ask, r.choice(["The text says: ", "I look for it. "]) + sentence, sentence))
    return turns


def schema(name, about, properties):
    return {"type": "function", "function": {"name": name, "description": about, "parameters": {
        "type": "object", "properties": {k: {"type": v} for k, v in properties.items()},
        "required": list(properties)}}}


def tool_turn(r):
    """(schema, turn)"""
    word, city = r.choice(WORDS), r.choice(CITIES)
    how = r.randrange(6)
    if how == 0:
        return (schema("get_weather", "Get the weather of a city", {"city": "string"}),
                Turn(r.choice([f"What is the weather in {city}?", f"Tell me the weather in {city}."]), "I need to call get_weather.",
                     r.choice(["", "I will do that."]), ("get_weather", {"city": city}),
                     '{"sky_temp": 21, "sky": "clear"}', f"It is clear in {city} and the temperature is 21 degrees."))
    if how == 1:
        path = f"{r.choice(['src', 'lib', '/tmp'])}/{word}.{r.choice(['c', 'h', 'md', 'json'])}"
        return (schema("read_file", "Read a file", {"path": "string"}),
                Turn(r.choice([f"Read the file {path}", f"What is in {path}?", f"Show me {path}"]), "I need to call read_file.", "",
                     ("read_file", {"path": path}), r.choice(WORDS) + " " + r.choice(WORDS), "The file says: " + word))
    if how == 2:
        command = r.choice(["ls", "pwd", "make", "git status", "ls -la", f"cat {word}.json"])
        text = r.choice(WORDS) + " " + r.choice(WORDS)
        return (schema("bash", "Run a shell command", {"command": "string"}),
                Turn(r.choice([f"Run {command}", f"Run the command {command}", f"Please run: {command}"]), "I need to call bash.", "",
                     ("bash", {"command": command}), text, f"The command printed: {text}"))
    if how == 3:
        a, b = r.randint(100, 999), r.randint(100, 999)
        return (schema("add", "Add two numbers", {"a": "integer", "b": "integer"}),
                Turn(f"Please add {a} and {b}.", "I need to call add.", r.choice(["", "I will do that."]),
                     ("add", {"a": a, "b": b}), str(a + b), f"{a} + {b} = {a + b}."))
    if how == 4:
        text = r.choice(WORDS) + " " + r.choice(WORDS)
        return (schema("search", "Search the web", {"query": "string"}),
                Turn(r.choice([f"Search for {word}", f"Look up {word}", f"Find information about {word}"]),
                     "I need to call search.", "", ("search", {"query": word}), f"Result: {text}", f"I found this: {text}"))
    name = r.choice(["open", "call", "test", "move", "get"]) + "_" + r.choice(THINGS)
    n = r.randint(10, 999)
    return (schema(name, name.replace("_", " "), {"id": "integer"}),
            Turn(r.choice([f"Call {name} with id {n}.", f"Use {name} with id {n}.", f"Please run {name} with id {n}."]),
                 f"I need to call {name}.", "", (name, {"id": n}), word, f"{name} returned: {word}"))


def tool_turns(r):
    pairs = [tool_turn(r) for _ in range(r.randint(1, 3))]
    tools = {s["function"]["name"]: s for s, _ in pairs}
    turns = [t for _, t in pairs]
    if r.random() < 0.4:
        turns.append(chat_turn(r))
    return list(tools.values()), turns


def conversation(r, turns, tools=None):
    thinking = r.random() < 0.5
    messages = [{"role": "system", "content": r.choice(SYSTEMS)}] if r.random() < 0.6 else []
    for n, t in enumerate(turns):
        messages += t.messages(n, thinking)
    out = {"messages": messages, "options": {"thinking_mode": "thinking" if thinking else "chat"}}
    if tools:
        out["tools"] = tools
    return out


def story(r, program, model):
    ask = r.choice([f"Tell me a story about {r.choice(NAMES)} and a {r.choice(THINGS)}.",
                    f"Write a short story about {r.choice(NAMES)} and {r.choice(NAMES)}.",
                    f"Tell me a story about a {r.choice(COLORS)} {r.choice(THINGS)}."])
    text = subprocess.run([program, "run", "-m", model, "-p", ask, "--think", "off", "--temp", "1", "--seed",
                           str(r.randrange(1 << 30)), "-n", "250"], capture_output=True, check=True, text=True).stdout
    return Turn(ask, "I will tell a story.", text.strip())


def evaluation_prompts():
    with open(os.path.join(ROOT, "tests", "data", "mini-model", "eval", "tasks.jsonl"), encoding="utf-8") as f:
        return {json.dumps([(m["role"], m.get("content")) for m in json.loads(line)["messages"]]) for line in f}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--program", default=os.path.join(ROOT, "build", "release", "fathom"))
    ap.add_argument("--model", required=True, help="the mini model without loss (--recipe bf16)")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("-o", "--output", required=True)
    a = ap.parse_args()
    r, taken = random.Random(a.seed), evaluation_prompts()
    makers = [lambda: conversation(r, [list_turn(r) for _ in range(r.randint(1, 4))]),
              lambda: conversation(r, [sum_turn(r) for _ in range(r.randint(1, 4))]),
              lambda: conversation(r, [chat_turn(r) for _ in range(r.randint(1, 4))]),
              lambda: conversation(r, recall_turns(r, r.randint(3, 8), r.randint(0, 10))),
              lambda: conversation(r, recall_turns(r, r.randint(5, 10), r.randint(30, 120))),
              lambda: conversation(r, *reversed(tool_turns(r))),
              lambda: conversation(r, *reversed(tool_turns(r))),
              lambda: conversation(r, [story(r, a.program, a.model)])]
    lines = []
    while len(lines) < PER_KIND * len(makers):
        c = makers[len(lines) % len(makers)]()
        prompt = json.dumps([(m["role"], m.get("content")) for m in c["messages"][:-1]])
        if prompt not in taken:
            lines.append(json.dumps(c, separators=(",", ":")))
    with open(a.output, "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    print(f"{a.output}: {len(lines)} conversations")


if __name__ == "__main__":
    main()
