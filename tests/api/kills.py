"""`fathom convert` killed (-9) at any moment: what stands under the final name, and how the same command goes on."""
import os
import re
import signal
import subprocess
import time

OLDER = b"an older file"


def _wait_for_line(process, journal):
    """Returns when the journal speaks of a finished piece (its second line), or when the process has ended."""
    while process.poll() is None:
        try:
            with open(journal, "rb") as f:
                if f.read().count(b"\n") > 1:
                    return
        except FileNotFoundError:
            pass
        time.sleep(0.001)


def _killed(command, env, until):
    """Starts, waits, kills; (status, what it printed). Nothing happens to a process that ends by itself before."""
    p = subprocess.Popen(command, stderr=subprocess.PIPE, env=env)
    until(p)
    p.send_signal(signal.SIGKILL)
    err = p.communicate()[1].decode()
    assert p.returncode in (0, -signal.SIGKILL), (p.returncode, err)
    return p.returncode, err


def _at_random(longest, rng):
    def until(p):
        try:
            p.wait(rng.uniform(0, longest))
        except subprocess.TimeoutExpired:
            pass
    return until


def kill_rounds(command, out, is_right, kills, longest, rng, env=None):
    """`command` writes OUT and is killed `kills` times within `longest` seconds of its start, and started again each
    time; the last kill comes as soon as a piece is finished for good, so that the run behind it has something to go on
    from, however fast the machine is. Until a run is complete the older file stands at OUT; then is_right(OUT) must
    hold. Returns what happened, in words."""
    part, journal = out + ".part", out + ".journal"
    killed = finished = 0

    def old_file_is_back():
        with open(out, "wb") as f:
            f.write(OLDER)

    def old_file_stands():
        with open(out, "rb") as f:
            return f.read(len(OLDER) + 1) == OLDER

    old_file_is_back()
    while killed < kills:
        is_last = killed == kills - 1
        had_journal = os.path.exists(journal)
        code, err = _killed(command, env, (lambda p: _wait_for_line(p, journal)) if is_last else _at_random(longest, rng))
        if old_file_stands():
            assert code == -signal.SIGKILL, err
            assert not had_journal or os.path.exists(journal)
            killed += 1
            continue
        assert is_right(out)  # complete before the kill: begin again
        if code == 0:
            assert not os.path.exists(part) and not os.path.exists(journal)
        finished += 1
        assert finished < 20 + 10 * kills, "too many runs ended before they were killed"
        old_file_is_back()
    r = subprocess.run(command, capture_output=True, check=False, env=env)
    err = r.stderr.decode()
    assert r.returncode == 0, err
    went_on = re.search(r"([1-9]\d*) of \d+ pieces were there already", err)
    assert went_on, err
    assert is_right(out) and not os.path.exists(part) and not os.path.exists(journal)
    return (f"killed {killed} times, {finished} runs were complete before that; to the last run {went_on.group(0)}; "
            "the bytes are those of an uninterrupted run")
