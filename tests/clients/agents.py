#!/usr/bin/env python3
"""Released agent clients, unmodified, against `fathom serve --script`: each is told to create a file and
must do it with its own tools.

    agents.py CLIENT [CASE] [--keep]      CLIENT: a name of CLIENTS; --keep leaves the work folder

The scripted answers are those of every agent's day: turn 1 reasons, says something and calls one tool,
turn 2 calls two tools at once, turn 3 answers. The test demands that the client ends with 0 and shows the
answer, that the file is right and both parallel results came back, that the server refused nothing, and
that the cache held: the prompt of a turn must be, token for token, the prompt of the turn before and
what was sampled then (where the client sends reasoning back; else the prompt before it), and the usage
sent to the client must say so. The network is loopback only.

Cases: `busy`: the queue is full at first, the client is refused with 429 and must come back. `fault`: the
first answer breaks off in the middle with an error event, the client must ask again. `slow-S`: the first
prompt takes S seconds to read; keepalives must keep the client from giving up or asking twice."""
from sandbox import *

TASK = "create file hello.txt containing hello world"
REASONING, TEXT = "I need to write the file.", "I will create the file."
FINAL = "The file hello.txt is written: all 6*7 checks passed."
MARK = "twins-42"  # in a result of turn 2, and nowhere before
OCCUPY = "[occupied]"
MODEL = "deepseek-v4-flash"
TITLE = "A greeting in a file"
LIMIT = 240  # seconds that a client may take, the time that a case lets pass apart; on a busy machine some need 60 to start
OCCUPIED = 180  # the longest that a full queue stays full


class Client:
    """name, package, endpoint; `start` makes the configuration in home and returns (argv, more
    environment); `write` and `shell` make the client's own tool calls."""

    def __init__(self, name, package, endpoint, start, write, shell, title=None, title_answer=TITLE, replays=True):
        self.name, self.package, self.endpoint, self.start = name, package, endpoint, start
        self.write, self.shell, self.title, self.title_answer = write, shell, title, title_answer
        self.replays = replays  # the client sends reasoning back


def save(home, name, text):
    path = os.path.join(home, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text if isinstance(text, str) else json.dumps(text))
    return path


# ---- how each is started: makes its configuration, returns the command and more environment ----

def claude(home, project, url):
    return [module(f"@anthropic-ai/claude-code-{PLATFORM}", "claude"), "-p", TASK, "--allowedTools", "Bash Write Read"], \
        {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": "any", "ANTHROPIC_MODEL": MODEL,
         "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL}


def codex(home, project, url):
    save(home, ".codex/config.toml", f"""
model = "{MODEL}"
model_provider = "fathom"
[model_providers.fathom]
name = "fathom"
base_url = "{url}/v1"
env_key = "FATHOM_KEY"
wire_api = "responses"
stream_idle_timeout_ms = 2000
""")
    return [node(), module("@openai/codex", "bin", "codex.js"), "exec", "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox", TASK], {"FATHOM_KEY": "any"}


def opencode(home, project, url):
    save(project, "opencode.json", {
        "provider": {"fathom": {"npm": "@ai-sdk/openai-compatible", "name": "fathom",
                                "options": {"baseURL": f"{url}/v1", "apiKey": "any"},
                                "models": {MODEL: {"name": MODEL, "limit": {"context": 131072, "output": 8192}}}}},
        "model": f"fathom/{MODEL}", "autoupdate": False, "share": "disabled"})
    old = PLATFORM == "linux-x64" and " avx2 " not in open("/proc/cpuinfo", encoding="ascii").read()
    return [module(f"opencode-{PLATFORM}{'-baseline' * old}", "bin", "opencode"), "run", TASK], {"OPENCODE_DISABLE_MODELS_FETCH": "1"}


def pi(api):
    def start(home, project, url):
        base = url if api == "anthropic-messages" else f"{url}/v1"
        save(home, ".pi/agent/models.json", {"providers": {"fathom": {
            "baseUrl": base, "api": api, "apiKey": "any", "models": [
                {"id": MODEL, "name": MODEL, "reasoning": True, "input": ["text"], "contextWindow": 131072,
                 "maxTokens": 8192, "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}}]}}})
        return [node(), module("@earendil-works/pi-coding-agent", "dist", "cli.js"), "--provider", "fathom",
                "--model", MODEL, "-p", TASK], {"PI_OFFLINE": "1"}
    return start


def qwen(home, project, url):
    save(home, ".qwen/settings.json", {"security": {"auth": {"selectedType": "openai"}},
                                       "privacy": {"usageStatisticsEnabled": False}})
    return [node(), module("@qwen-code/qwen-code", "cli.js"), "-y", "-p", TASK], \
        {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "any", "OPENAI_MODEL": MODEL}


def copilot(kind, wire=None):
    def start(home, project, url):
        more = {"COPILOT_PROVIDER_BASE_URL": url if kind == "anthropic" else f"{url}/v1",
                "COPILOT_PROVIDER_TYPE": kind, "COPILOT_PROVIDER_API_KEY": "any", "COPILOT_MODEL": MODEL,
                "COPILOT_OFFLINE": "true"}
        if wire:
            more["COPILOT_PROVIDER_WIRE_API"] = wire
        return [node(), module("@github/copilot", "npm-loader.js"), "--allow-all-tools", "-p", TASK], more
    return start


def continue_cli(home, project, url):
    config = save(home, "continue.yaml", f"""
name: fathom
version: 0.0.1
schema: v1
models:
  - name: {MODEL}
    provider: openai
    model: {MODEL}
    apiBase: {url}/v1
    apiKey: any
    roles: [chat]
""")
    return [node(), module("@continuedev/cli", "dist", "cn.js"), "--config", config, "--auto", "-p", TASK], \
        {"CONTINUE_TELEMETRY_ENABLED": "0"}


def cline(home, project, url):
    program = module(f"@cline/cli-{PLATFORM}", "bin", "cline")
    subprocess.run([program, "auth", "openai-compatible", "-k", "any", "-m", MODEL, "-b", f"{url}/v1"], cwd=project,
                   env=private_env(home), check=True, timeout=LIMIT, stdin=subprocess.DEVNULL, capture_output=True)
    return [program, "-P", "openai-compatible", "-m", MODEL, TASK], {}


def args(tool, **names):
    """A maker of calls: names maps an argument's name to the name of what goes in."""
    def make(**what):
        return tool, {k: what[v] if v in what else v for k, v in names.items()}
    return make


CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
PI = {"write": args("write", path="path", content="content"), "shell": args("bash", command="command")}
COPILOT = {"write": args("create", path="path", file_text="content"),
           "shell": args("bash", command="command", description="look at it")}
CLIENTS = {c.name: c for c in (
    Client("claude-code", "@anthropic-ai/claude-code", MESSAGES, claude,
           args("Write", file_path="path", content="content"), args("Bash", command="command"),
           title="Generate a concise", title_answer=json.dumps({"title": TITLE})),
    Client("codex", "@openai/codex", RESPONSES, codex,
           lambda path, content: ("exec_command", {"cmd": f"printf '{content.strip()}\\n' > {path}"}),
           args("exec_command", cmd="command")),
    Client("opencode", "opencode-ai", CHAT, opencode, args("write", content="content", filePath="path"),
           args("bash", command="command"), title="title generator"),
    Client("pi-chat", "@earendil-works/pi-coding-agent", CHAT, pi("openai-completions"), **PI),
    Client("pi-responses", "@earendil-works/pi-coding-agent", RESPONSES, pi("openai-responses"), **PI),
    Client("pi-messages", "@earendil-works/pi-coding-agent", MESSAGES, pi("anthropic-messages"), **PI),
    Client("qwen-code", "@qwen-code/qwen-code", CHAT, qwen, args("write_file", file_path="path", content="content"),
           args("run_shell_command", command="command")),
    Client("cline", f"@cline/cli-{PLATFORM}", CHAT, cline, args("editor", path="path", new_text="content"),
           lambda command: ("run_commands", {"commands": [command]})),
    Client("continue", "@continuedev/cli", CHAT, continue_cli, args("Write", filepath="path", content="content"),
           args("Bash", command="command"), replays=False),
    Client("copilot-chat", "@github/copilot", CHAT, copilot("openai", "completions"), **COPILOT),
    Client("copilot-responses", "@github/copilot", RESPONSES, copilot("openai", "responses"), **COPILOT),
    Client("copilot-messages", "@github/copilot", MESSAGES, copilot("anthropic"), **COPILOT),
)}


def seconds_of(case):
    return float(case.removeprefix("slow-")) if case.startswith("slow-") else 0


def script(client, path, case):
    """The lines; a prompt gets the first whose match it holds, else those without one in turn. So: latest
    turn first, titles before turn 1."""
    first = client.write(path=path, content="hello world\n")
    twins = [client.shell(command="cat hello.txt"), client.shell(command="echo twins-$((6 * 7))")]
    lines = [{"match": MARK, "completion": f"Good.</think>{FINAL}"},
             {"match": TEXT, "completion": "Check it twice.</think>" + call_text(*twins)}]
    if client.title:
        lines.append({"match": client.title, "completion": f"A title.</think>{client.title_answer}"})
    turn = {"completion": f"{REASONING}</think>{TEXT}" + call_text(first), "prefill_ms": 1000 * seconds_of(case)}
    if case == "busy":
        lines.append({"match": OCCUPY, "completion": "</think>" + "word " * (OCCUPIED * 50), "delay_ms": 20})
    elif case == "fault":
        lines.append({**turn, "fault_after": 4})
    return lines + [turn]


@contextlib.contextmanager
def occupied(s, case):
    """busy: four answers run and one waits, until the client has been refused."""
    if case != "busy":
        yield
        return
    connections = []
    for i in range(5):
        c = s.connect()
        c.request("POST", CHAT, json.dumps({"model": "m", "stream": True, "messages": [
            {"role": "user", "content": f"{OCCUPY} {i}"}]}))
        connections.append(c)
        s.wait_metric("requests_running", min(i + 1, 4))
    s.wait_metric("requests_queued", 1)

    def leave():
        end = time.time() + OCCUPIED
        while 'code="429"' not in s.request("GET", "/metrics")[2].decode() and time.time() < end:
            time.sleep(0.05)
        for c in reversed(connections):
            c.close()
    watcher = threading.Thread(target=leave)
    watcher.start()
    try:
        yield
    finally:
        watcher.join()


def check_turns(client, turns):
    """The three requests of the task: the cache of each turn holds all that the turn before left."""
    assert len(turns) == 3, f"{len(turns)} turns: {[(t.path, t.prompt[-200:]) for t in turns]}"
    for i, t in enumerate(turns):
        assert t.path.split("?")[0] == "POST " + client.endpoint, t.path
        assert t.output is not None, f"turn {i + 1} was not answered to its end"
    for before, after in zip(turns, turns[1:]):
        whole = before.ids + (before.output if client.replays else [])
        same = next((i for i, (a, b) in enumerate(zip(whole, after.ids)) if a != b), min(len(whole), len(after.ids)))
        assert same == len(whole), \
            f"the prompt of a turn leaves that of the turn before at token {same} of {len(whole)} ({len(before.ids)} " \
            f"of them prompt):\n{before.prompt[-300:]!r}\n{after.prompt[-900:]!r}"
        total, cached = after.usage()
        assert total == len(after.ids) and cached >= len(whole) - 1, f"{cached} of {total} cached, not {len(whole)}"
    return turns[-1].usage()


def the_turns(client, seen, codes, case):
    """The requests of the task that were answered. Nothing may have been refused that should not be, and
    nothing asked twice but what broke."""
    refused = [x for x in seen if x.error]
    others = sum(int(n) for _, c, n in codes if c != "200") - 5 * (case == "busy")  # those that occupied it have left
    assert others == len(refused), f"refused requests: {codes}"
    for x in refused:
        assert case == "busy" and "rate_limit" in x.error, (x.path, x.error)
    assert bool(refused) == (case == "busy"), "the client was not refused"
    asked = [x for x in seen if x.prompt and "count_tokens" not in x.path and not x.error]
    asked = [x for x in asked if OCCUPY not in x.prompt and not (client.title and client.title in x.prompt)]
    again = [x for i, x in enumerate(asked) if any(x.ids == y.ids for y in asked[i + 1:])]
    assert len(again) == (case == "fault"), f"{len(again)} requests were sent again"
    return [x for x in asked if x not in again]


def attempt(client, work, case):
    project, home, trace = (os.path.join(work, n) for n in ("project", "home", "trace.jsonl"))
    os.makedirs(project)
    subprocess.run(["git", "init", "-q", project], check=True)
    path = os.path.join(project, "hello.txt")
    options = ["--ctx", 131072, "--trace", trace]
    options += ["--keepalive", 0.5] if client.name == "codex" else []  # its limit is set to 2 s
    options += ["--parallel", 4, "--queue", 1] if case == "busy" else []
    with serving(work, *options, script=script(client, path, case)) as s:
        env = private_env(home, proxies=client.name != "qwen-code")  # which ignores NO_PROXY
        argv, more = client.start(home, project, f"http://127.0.0.1:{s.port}")
        out, err = (open(os.path.join(work, n), "wb") for n in ("stdout", "stderr"))
        with out, err, occupied(s, case):
            code = subprocess.run(argv, cwd=project, env={**env, **more}, stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=err, timeout=LIMIT + seconds_of(case)).returncode
        codes = re.findall(r'^fathom_requests_total\{endpoint="(\w+)",code="(\d+)"\} (\d+)',
                           s.request("GET", "/metrics")[2].decode(), re.M)
    shown = open(os.path.join(work, "stdout"), encoding="utf-8", errors="replace").read()
    assert code == 0, f"exit {code}"
    assert open(path, encoding="utf-8").read().strip() == "hello world", "hello.txt is wrong"
    assert FINAL in shown, f"the answer is not in {shown[-600:]!r}"
    seen = exchanges(trace)
    turns = the_turns(client, seen, codes, case)
    total, cached = check_turns(client, turns)
    for result in ("hello world", MARK):
        assert result in turns[2].prompt.split(TEXT)[-1], f"the result {result!r} is not in turn 3"
    print(f"passed: {client.name}{' ' * bool(case)}{case} ({client.package} {version(client.package)})")
    print(f"{client.endpoint}, {len(seen)} requests; turn 3: {cached} of {total} prompt tokens from the cache")


def tail(path, n):
    try:
        return open(path, encoding="utf-8", errors="replace").read()[-n:]
    except FileNotFoundError:
        return ""


def run_client(name, case, keep):
    client = CLIENTS[name]
    version(client.package)
    adopt_orphans()
    if not loopback_only():
        print("no network namespace to be had: only proxy settings keep the client in")
    work = os.path.realpath(tempfile.mkdtemp(prefix="fathom-client-"))
    start = time.time()
    try:
        attempt(client, work, case)
        print(f"{time.time() - start:.1f} s")
        return 0
    except (AssertionError, subprocess.SubprocessError, OSError):
        traceback.print_exc(file=sys.stdout)
        for part in ("stdout", "stderr"):
            print(f"---- {part} of {name}:\n{tail(os.path.join(work, part), 3000)}")
        for log in sorted(n for n in os.listdir(work) if n.endswith(".log")):
            print(f"---- server:\n{tail(os.path.join(work, log), 3000)}")
        return 1
    finally:
        end_children()  # cline leaves a daemon
        if keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    _words = [w for w in sys.argv[1:] if w != "--keep"]
    _case = _words[1] if len(_words) == 2 else ""
    if not _words or _words[0] not in CLIENTS or not (_case in ("", "busy", "fault") or seconds_of(_case)):
        sys.exit(f"usage: agents.py CLIENT [busy|fault|slow-S] [--keep]; clients: {' '.join(CLIENTS)}")
    sys.exit(run_client(_words[0], _case, "--keep" in sys.argv))
