"""kill -9 at random moments of a command, which is then given again until it ends.

What a run promises: a call is finished once its reply stands in the journal, which is in one write right after it was
received. So a kill costs no more than the calls that were in flight at that moment, and these are never more than the
run's cap: calls at the server <= calls of an undisturbed run + cap * kills. Everything else is as if nothing had
happened.
"""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from stub_server import StubServer

ROOT = Path(__file__).parents[1]
TIMES = re.compile(
    r"sha256|seconds|written|started|finished|sessions|command|created|date|runtime|per_second|elapsed|(^|_)time|pid"
)
"""Keys whose values may differ between two runs of the same command (a digest covers the times of a file)."""
LATENCY = 0.01
LIMIT = 600


@contextmanager
def served(**options: Any) -> Iterator[StubServer]:
    """A stand-in for a server, in a thread of this process."""
    loop = asyncio.new_event_loop()
    server = StubServer(latency=LATENCY, context=1 << 20, **options)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(30)

    wait(server.__aenter__())
    try:
        yield server
    finally:
        wait(server.kill())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def calls(server: StubServer) -> int:
    """Calls that came in, without those that only find out what a server can do."""
    return sum("What is 2 + 2?" not in str(body["messages"][-1]["content"]) for body in server.seen)


def start(command: Sequence[str], folder: Path) -> "subprocess.Popen[str]":
    """The command in a session of its own; `{out}` in it is the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, *(word.replace("{out}", str(folder)) for word in command)]
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = (folder.parent / f"{folder.name}.log").open("a")
    return subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, env=environment, text=True, start_new_session=True)


def finished(process: "subprocess.Popen[str]", folder: Path) -> None:
    said = folder.parent / f"{folder.name}.log"
    assert process.wait(LIMIT) == 0, said.read_text()[-3000:]


def left_over(session: int) -> list[str]:
    """Processes of a session that are still there."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.info["cmdline"] or [])[:100])
        except (ProcessLookupError, PermissionError):
            continue
    return found


def same_when_killed(
    command: Sequence[str], folder: Path, moments: int, server: StubServer | None = None, cap: int = 0, seed: int = 0
) -> str:
    """Kill a command at that many moments, in as many runs as that takes. Returns the figures in a line.

    Args:
        command: `{out}` stands for its output folder.
        server: counts the calls.
        cap: calls that the command has in flight at most.
        seed: of the moments; told where something fails.
    """
    draw = random.Random(seed)
    whole = folder / "whole"
    began, earlier = time.monotonic(), calls(server) if server else 0
    finished(start(command, whole), whole)
    length = time.monotonic() - began
    wanted = content(whole)
    needed = calls(server) - earlier if server else 0
    kills = runs = 0
    told = f"{' '.join(command[:3])}, seed {seed}"
    while kills < moments:
        runs += 1
        out = folder / f"killed-{runs}"
        before, killed, sessions = calls(server) if server else 0, 0, []
        while True:
            process = start(command, out)
            sessions.append(process.pid)
            if kills < moments and wait_or_end(process, draw, length, server, needed):
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills, killed = kills + 1, killed + 1
                continue
            finished(process, out)
            break
        assert content(out) == wanted, f"{told}, run {runs}, {killed} kills: {difference(content(out), wanted)}"
        paid = (calls(server) if server else 0) - before
        assert needed <= paid <= needed + cap * killed, f"{told}: {paid} calls, {needed} needed, {killed} kills"
        left = [one for session in sessions for one in left_over(session)]
        assert not left, f"{told}: {left}"
    paid = (calls(server) if server else 0) - earlier - needed
    return f"{told}: {kills} kills in {runs} runs of {length:.1f} s; calls {needed} a run, {paid - needed * runs} more"


def wait_or_end(
    process: "subprocess.Popen[str]", draw: random.Random, length: float, server: StubServer | None, needed: int
) -> bool:
    """Wait for a random moment: of its time, or of its calls. Returns whether the command is still running then."""
    if server is not None and needed and draw.random() < 0.7:
        target = calls(server) + draw.randrange(1, needed + 1)
        while process.poll() is None and calls(server) < target:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 2 * LATENCY))
    else:
        end = time.monotonic() + draw.uniform(0, length)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
    return process.poll() is None


# ---------------------------------------------------------------- what a folder holds


def content(folder: Path) -> dict[str, Any]:
    """File -> what it says, times and the folder's own name apart. Raises AssertionError for a file half done."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        assert not path.name.endswith((".tmp", ".part", ".lock", ".journal.jsonl")), f"left behind: {name}"
        if path.is_dir() or path.suffix in (".svg", ".png", ".log", ".html", ".bin", ".pt", ".pth"):
            continue
        if path.suffix == ".jsonl":
            rows = path.read_text().replace(str(folder), "").splitlines()
            found[name] = [timeless(json.loads(row)) for row in rows]
        elif path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text().replace(str(folder), "")))
        elif path.suffix == ".safetensors":
            found[name] = tensors(path)
        elif path.suffix == ".md":
            text = re.sub(r"[0-9a-f]{16,}|\d{4}-\d\d-\d\dT[\d:]+Z", "", path.read_text())
            found[name] = text.replace(str(folder), "").splitlines()
        else:
            found[name] = path.stat().st_size
    return found


def tensors(path: Path) -> dict[str, float]:
    """Name -> sum of a tensor, to five digits."""
    from safetensors.torch import load_file

    return {name: float(f"{tensor.double().abs().sum():.5g}") for name, tensor in load_file(path).items()}


def timeless(value: Any) -> Any:
    """The value without what may differ between two runs; of floats, six digits."""
    if isinstance(value, Mapping):
        return {key: timeless(part) for key, part in value.items() if not TIMES.search(key)}
    if isinstance(value, list):
        return [timeless(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def difference(one: Any, other: Any, where: str = "") -> str:
    """Where two values differ first."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return difference(one.get(key), other.get(key), f"{where}/{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            if pair[0] != pair[1]:
                return difference(*pair, f"{where}[{index}]")
    return f"{where}: {str(one)[:300]} instead of {str(other)[:300]}"
