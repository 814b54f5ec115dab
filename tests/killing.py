"""kill -9 at random moments of a command, which is then given again until it ends.

What a run promises: a call is finished once its reply stands in the journal, which is in one write right after it was
received, and a finished call is never paid again. The stand-in server names in each reply the request that it answers,
so the journal that a kill leaves says which requests are finished. Each later session asks for no more than an
undisturbed run asks for, less these. A kill therefore costs no more than the calls in flight at that moment: calls at
the server <= calls of an undisturbed run + cap * kills. Everything else is as if nothing had happened.
"""

import asyncio
import csv
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import psutil
from stub_server import Body, StubServer

from agentark.types import digest

ROOT = Path(__file__).parents[1]
TIMES = re.compile(
    r"sha256|seconds|written|started|finished|sessions|command|created|date|runtime|per_second|elapsed|(^|_)time|pid"
    r"|^run$|^commit$|config_hash|^s/|^(contents|inputs|attempts)$"
)
"""Keys whose values may differ between two runs of the same command (digests cover the times in a file and the name of
the folder)."""
PIECE = re.compile(r"^AgentArk\.receive\('[^']*','(.*)'\)", re.S)
"""A report's data: a script with a JSON text."""
LATENCY = 0.01
LIMIT = 600


@contextmanager
def served(**options: Any) -> Iterator[StubServer]:
    """A stand-in for a server, in a thread of this process."""
    loop = asyncio.new_event_loop()
    server = StubServer(latency=LATENCY, context=1 << 20, told_usage=naming, **options)
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


def number(body: Body) -> int:
    """A number for a request, small enough for a count of tokens."""
    return int(digest(body)[:7], 16)


def naming(body: Body) -> Body:
    """Usage figures that name the request."""
    return {"prompt_tokens": 9, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": number(body)}}


def asked(server: StubServer, since: int = 0) -> list[Body]:
    """Requests from the one with that number on, without those that only find out what a server can do."""
    return [body for body in server.seen[since:] if "What is 2 + 2?" not in str(body["messages"][-1]["content"])]


def finished_calls(folder: Path) -> Counter[int] | None:
    """Numbers of the requests whose replies stand in the folder's journals; None: there is no journal."""
    journals = list(folder.rglob("*.journal.jsonl"))
    lines = [line for journal in journals for line in journal.read_bytes().splitlines(keepends=True)]
    whole = [json.loads(line) for line in lines if line.endswith(b"\n")]  # a kill may leave half a line
    return Counter(entry["completion"]["cached_tokens"] for entry in whole) if journals else None


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


@dataclass
class Paid:
    """The calls of one killed run, session by session, against what its journal held."""

    server: StubServer
    needed: Counter[int]
    """Numbers of the requests of an undisturbed run."""
    made: int = 0
    finished: Counter[int] = field(default_factory=Counter)

    def session(self, since: int, folder: Path) -> None:
        """Check a session that began at that request and has ended. Raises AssertionError for a call paid twice."""
        if not self.needed:
            return  # its journals are of calls that no server sees
        requests = asked(self.server, since)
        self.made += len(requests)
        twice = Counter(map(number, requests)) - (self.needed - self.finished)
        assert not twice, (
            f"{twice.total()} calls paid twice: {[body for body in requests if number(body) in twice][:2]}"
        )
        journalled = finished_calls(folder)
        if journalled is not None:
            self.finished |= journalled
        elif self.made:  # no journal any more: the run had come to its end
            self.finished = self.needed


def same_when_killed(
    command: Sequence[str],
    folder: Path,
    moments: int,
    server: StubServer | None = None,
    cap: int = 0,
    pace: float = 1.0,
    seed: int = 0,
) -> str:
    """Kill a command at that many moments, in as many runs as that takes. Returns the figures in a line.

    Args:
        command: `{out}` stands for its output folder.
        server: counts the calls; None: the command makes none.
        cap: calls that the command has in flight at most.
        pace: longest time from a start to its kill, as a share of the time of an undisturbed run.
        seed: of the moments; told where something fails.
    """
    draw, server = random.Random(seed), server or StubServer()
    whole = folder / "whole"
    began, since = time.monotonic(), len(server.seen)
    process = start(command, whole)
    while process.poll() is None and not any(whole.iterdir()):
        time.sleep(0.005)
    idle = time.monotonic() - began  # imports: a kill in them finds nothing to harm
    finished(process, whole)
    length = time.monotonic() - began
    earliest, latest = idle / length, max(idle / length, pace)
    wanted = content(whole)
    needed = Counter(map(number, asked(server, since)))
    kills = runs = more = 0
    told = f"{' '.join(command[:3])}, seed {seed}"
    while kills < moments:
        runs += 1
        out = folder / f"killed-{runs}"
        paid, sessions, ended = Paid(server, needed), [], False
        while not ended:
            since, began = len(server.seen), time.monotonic()
            process = start(command, out)
            sessions.append(process.pid)
            span = earliest * length, latest * length
            if kills < moments and wait_or_end(process, draw, span, server, needed.total()):
                process.send_signal(signal.SIGKILL)
                process.wait()
                time.sleep(5 * LATENCY)  # for the requests that are on their way
                kills += 1
            else:
                finished(process, out)
                ended = True
                if len(sessions) == 1:
                    length = time.monotonic() - began  # the machine may be less busy than it was
            paid.session(since, out)
        told_run = f"{told}, run {runs}, {len(sessions) - 1} kills"
        assert content(out) == wanted, f"{told_run}: {difference(content(out), wanted)}"
        lost = paid.made - needed.total()
        assert 0 <= lost <= cap * (len(sessions) - 1), f"{told_run}: {paid.made} calls, {needed.total()} needed"
        left = [one for session in sessions for one in left_over(session)]
        assert not left, f"{told_run}: {left}"
        more += lost
    figures = f"{needed.total()} calls a run, {more} more, 0 paid twice" if needed else "no calls"
    return f"{told}: {kills} kills in {runs} runs of {length:.1f} s; {figures}"


def wait_or_end(
    process: "subprocess.Popen[str]", draw: random.Random, span: tuple[float, float], server: StubServer, needed: int
) -> bool:
    """Wait for a random moment, of its time or its calls. Returns whether the command still runs then.

    Args:
        span: the earliest and the latest moment in time (seconds from the start).
        needed: calls of an undisturbed run.
    """
    if needed and draw.random() < 0.7:
        since, target = len(server.seen), draw.randrange(1, needed + 1)
        while process.poll() is None and len(asked(server, since)) < target:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 2 * LATENCY))
    else:
        end = time.monotonic() + draw.uniform(*span)
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
        elif path.suffix == ".js" and (data := PIECE.search(path.read_text())):
            found[name] = timeless(json.loads(re.sub(r"\\(.)", r"\1", data[1]).replace(str(folder), "")))
        elif path.suffix == ".safetensors":
            found[name] = tensors(path)
        elif path.suffix == ".csv":
            cells = csv.DictReader(path.read_text().replace(str(folder), "").splitlines())
            found[name] = [timeless(row) for row in cells if not TIMES.search(row.get("figure", ""))]
        elif path.suffix == ".md":
            text = re.sub(r"[0-9a-f]{16,}|\d{4}-\d\d-\d\dT[\d:]+Z", "", path.read_text())
            found[name] = sorted(columns(text.replace(str(folder), "")))  # a card's tags come out of a set
        else:
            found[name] = path.stat().st_size
    return found


def columns(text: str) -> Iterator[str]:
    """The lines of a Markdown text; a table without the columns of times."""
    shown: list[bool] = []
    for line in text.splitlines():
        cells = line.split(" | ") if line.startswith("|") else []
        shown = shown if shown and cells else [not TIMES.search(cell) for cell in cells]
        if not line.startswith("times:"):
            yield " | ".join(compress(cells, shown)) if len(cells) == len(shown) > 0 else line


def tensors(path: Path) -> dict[str, float]:
    """Name -> sum of a tensor, to five digits."""
    from safetensors.torch import load_file

    return {name: float(f"{tensor.double().abs().sum():.5g}") for name, tensor in load_file(path).items()}


class Near(float):
    """Equals what differs from it by rounding alone: a batch of other rows adds up in another order."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and math.isclose(self, other, rel_tol=1e-4)

    __hash__ = float.__hash__


def timeless(value: Any) -> Any:
    """The value without what may differ between two runs."""
    if isinstance(value, Mapping):
        return {key: timeless(part) for key, part in value.items() if not TIMES.search(key)}
    if isinstance(value, list):
        return [timeless(part) for part in value]
    return Near(value) if isinstance(value, float) else value


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
