"""A step of a study: one command of this repository as a child process, with a log.

The child ends with the study: SIGINT and SIGTERM are passed on as SIGINT, on which all entry scripts keep finished work
and stop; if the study is killed outright, the lock file (agentark/lock.py) names the child, and the next study on this
folder ends it.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct

from agentark.config import ROOT
from agentark.files import append_to, writing
from agentark.lock import RunLock
from agentark.records import now
from agentark.types import RunError

POLL_SECONDS = 0.2
GRACE_SECONDS = 60.0
"""Seconds that an interrupted child has to end by itself."""
TAIL_LINES = 12
"""Lines of the log in the message of a failure."""
TAIL_BYTES = 1 << 16
Watch = Callable[[float, str], None]


class Step(Struct, frozen=True):
    """One command."""

    name: str
    command: list[str]
    """Without the interpreter."""


def slug(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


def interpreter() -> str:
    """This Python, as a command in the repository's root."""
    path = Path(sys.executable)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def shown(command: Sequence[str]) -> str:
    """The command in a shell's syntax."""
    return shlex.join([interpreter(), *command])


def run(
    step: Step,
    log: Path,
    lock: RunLock,
    watch: Watch = lambda seconds, line: None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> float:
    """Run a step to its end.

    Args:
        log: file to which its output is appended.
        lock: lock of the study, which records the child.
        watch: called now and then with the seconds so far and the last line of the output.
        environment: variables for the step alone.

    Returns:
        The seconds it took.

    Raises:
        RunError: the step failed; the message names the command, the log and its last lines.
        KeyboardInterrupt: SIGINT or SIGTERM came; the child has ended.
    """
    began = time.perf_counter()
    with asked_to_end() as asked:
        child, begin = started(step.command, log, environment)
        lock.note_engine()
        while (code := poll(child)) is None:
            if asked:
                _end(child, asked)
                raise KeyboardInterrupt
            watch(time.perf_counter() - began, "".join(last_lines(log, begin, 1)))
    if code != 0:
        raise failure(step.name, step.command, code, log, begin)
    return time.perf_counter() - began


def started(
    command: Sequence[str], log: Path, environment: Mapping[str, str], stdin: int = subprocess.DEVNULL
) -> tuple["subprocess.Popen[bytes]", int]:
    """A command as a child process. Returns it, and where its part of the log begins."""
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as stream:
        with writing(log):
            append_to(stream.fileno(), f"# {now()}  {shown(command)}\n".encode())
        begin = stream.tell()
        child = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=stdin,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C reaches only us
        )
    return child, begin


def failure(name: str, command: Sequence[str], code: int, log: Path, begin: int) -> RunError:
    """The error of a command that ended with this exit code."""
    tail = last_lines(log, begin, TAIL_LINES)
    first = f"{name} ended with {ending(code)} ({log}): {''.join(tail[-1:])[:300]}"
    return RunError("\n".join([first, f"    {shown(command)}", *(f"    | {line}" for line in tail)]))


def ending(code: int) -> str:
    """An exit code in words."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


@contextmanager
def asked_to_end() -> Iterator[list[int]]:
    """The signals received so far."""
    asked: list[int] = []
    before = {
        name: signal.signal(name, lambda number, _: asked.append(number)) for name in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def poll(child: subprocess.Popen[bytes]) -> int | None:
    with suppress(subprocess.TimeoutExpired):
        return child.wait(POLL_SECONDS)
    return None


def _end(child: subprocess.Popen[bytes], asked: list[int]) -> None:
    """Let the child end itself; after a second signal, or a minute, kill it and all processes that it started."""
    child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + GRACE_SECONDS
    patience = len(asked)
    while poll(child) is None and time.monotonic() < deadline and len(asked) == patience:
        pass
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # also processes it left behind
    child.wait()


def last_lines(log: Path, begin: int, count: int) -> list[str]:
    """The last lines of a log after an offset, at most `count`; only the last state of a progress bar."""
    with log.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(begin, size - TAIL_BYTES))
        text = stream.read().decode("utf-8", "replace")
    states = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return [state for state in states if state][-count:]
