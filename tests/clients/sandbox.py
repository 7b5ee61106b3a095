"""Shared by the tests of released clients: where the packages are, a network namespace with nothing but
loopback, private folders, and what the server's trace says about the requests of a run.

build/clients/node_modules holds the packages that package.json pins (setup_clients of tools/setup.sh);
FATHOM_CLIENTS names another folder that holds node_modules."""
import ctypes
import fcntl
import os
import platform
import shutil
import socket
import struct
import sys
import tempfile
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "api"))
from serving import *  # noqa: E402

MODULES = os.path.join(os.environ.get("FATHOM_CLIENTS") or os.path.join(ROOT, "build", "clients"), "node_modules")
MACHINE = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PLATFORM = f"{platform.system().lower()}-{MACHINE}"
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens

# ---- packages ----

def pinned():
    """Name to version of everything that package.json pins."""
    with open(os.path.join(HERE, "package.json"), encoding="utf-8") as f:
        package = json.load(f)
    return {**package["dependencies"], **package["optionalDependencies"]}


def version(package):
    """The installed version of a pinned package; skips the test if it is not there."""
    try:
        with open(os.path.join(MODULES, package, "package.json"), encoding="utf-8") as f:
            found = json.load(f)["version"]
    except FileNotFoundError:
        skip(f"the npm package {package} {pinned()[package]} is not installed (setup_clients of tools/setup.sh)")
    assert found == pinned()[package], f"{package} is {found}, pinned is {pinned()[package]}"
    return found


def module(*parts):
    """A file of a package, which must exist: a client without its program is not installed."""
    path = os.path.join(MODULES, *parts)
    if not os.path.exists(path):
        skip(f"{'/'.join(parts)} is missing in {MODULES}: the package has no build for {PLATFORM}")
    return path


def node():
    """The pinned Node.js where there is one for this machine, else the system's."""
    path = os.path.join(MODULES, f"node-{PLATFORM}", "bin", "node")
    path = path if os.path.exists(path) else shutil.which("node")
    return path or skip("there is no Node.js")


def missing():
    """Pinned packages that are not there, without those made for another kind of machine."""
    other = re.compile(r"(linux|darwin|win32)-(x64|arm64)$")
    return [f"{name} {wanted}" for name, wanted in pinned().items()
            if not (other.search(name) and not name.endswith(PLATFORM)) and
            not os.path.exists(os.path.join(MODULES, name, "package.json"))]


# ---- isolation ----

def loopback_only():
    """Moves this process and what it starts into a network namespace that has only loopback. False
    where the system does not allow that; then only proxy settings (`private_env`) keep clients in.
    (With both, a client that asks for more is refused at once instead of waiting for a name server.)"""
    if platform.system() != "Linux":
        return False
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return False
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as f:
                f.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sh", b"lo", 0)
        flags, = struct.unpack_from("h", fcntl.ioctl(s, SIOCGIFFLAGS, request + bytes(14)), 16)
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP) + bytes(14))
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    assert not others, f"the new namespace has {others}"
    return True


def adopt_orphans():
    """What clients leave behind in the background becomes a child of this process (Linux)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def end_children():
    """Ends all children of this process, and what they leave in turn."""
    path = f"/proc/self/task/{os.getpid()}/children"
    while os.path.exists(path):
        with open(path, encoding="ascii") as f:
            pids = [int(p) for p in f.read().split()]
        if not pids:
            return
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def private_env(home, proxies=False):
    """An environment that knows nothing of the user's: own home, no credentials. proxies: whatever is
    not on loopback goes through a proxy that does not exist."""
    env = {"HOME": home, "PATH": os.path.dirname(node()) + ":" + os.environ.get("PATH", "/usr/bin:/bin"),
           "LANG": "C.UTF-8", "TERM": "dumb", "NO_COLOR": "1", "CI": "1", "TMPDIR": os.path.join(home, "tmp"),
           "USER": "tester", "SHELL": "/bin/bash", "DO_NOT_TRACK": "1"}
    if proxies:
        for name, value in (("HTTP_PROXY", NOWHERE), ("HTTPS_PROXY", NOWHERE), ("NO_PROXY", "127.0.0.1,localhost")):
            env[name] = env[name.lower()] = value
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        env[name] = os.path.join(home, "." + name[4:-5].lower())
        os.makedirs(env[name], exist_ok=True)
    os.makedirs(env["TMPDIR"], exist_ok=True)
    return env


# ---- what the server saw ----

class Exchange:
    """One request as the trace has it: path, body, prompt (text and ids), output ids, bytes sent."""

    def __init__(self):
        self.path, self.body, self.prompt, self.ids, self.output = "", "", "", [], None
        self.sent = self.error = ""

    def usage(self):
        """(prompt tokens, cached of them) as the response told the client."""
        text = self.sent
        last = text[text.rindex('"usage"') if '"usage"' in text else 0:]

        def number(name):
            m = re.search(rf'"{name}":\s*(\d+)', last)
            return int(m.group(1)) if m else None

        if number("cache_read_input_tokens") is not None:
            read = number("cache_read_input_tokens")
            return number("input_tokens") + read + number("cache_creation_input_tokens"), read
        total = number("prompt_tokens")
        return total if total is not None else number("input_tokens"), number("cached_tokens")


def exchanges(path):
    """The requests of a trace, in the order of their arrival."""
    found = {}
    with open(path, encoding="utf-8") as f:
        for line in map(json.loads, f):
            x = found.setdefault(line["id"], Exchange())
            if line["kind"] == "request":
                x.path = line["data"]
            elif line["kind"] == "body":
                x.body = line["data"]
            elif line["kind"] == "prompt":
                x.prompt = line["data"]
            elif line["kind"] == "prompt_ids":
                x.ids = line["ids"]
            elif line["kind"] == "output":
                x.output = line["ids"]
            elif line["kind"] == "sent":
                x.sent += line["data"]
            elif line["kind"] == "error":
                x.error = line["data"]
    return list(found.values())


__all__ = [n for n in dir() if not n.startswith("_")]

if __name__ == "__main__":
    print(", ".join(missing()))
    sys.exit(1 if missing() else 0)
