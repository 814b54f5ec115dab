"""What a script says on stderr while somebody waits: the start of an engine, and one line about a run.

On a terminal the line is rewritten in place; in a file one is written every 15 s and one at the end.
"""

import asyncio
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol, Self, TextIO

from agentark.types import Completion

REDRAW_SECONDS = 0.2
"""On a terminal the line is rewritten this often at most."""

TICK_SECONDS = 1.0
"""The line is looked at this often when nothing happens in the run."""

LOG_SECONDS = 15.0
"""Seconds from line to line in a file."""

COLUMNS = 100
"""Width of a terminal that does not tell."""

ERASE = "\r\x1b[K"
"""Back to the first column, and clear the line."""

Clock = Callable[[], float]
"""Seconds; only differences count."""


class _Unfinished(Protocol):
    """Text on stderr that stands in a line without an end."""

    def set_aside(self) -> None:
        """Leave the terminal at the start of an empty line."""
        ...


_unfinished: list[_Unfinished] = []
"""The text that any other line must first set aside; the last one counts."""


class Handler(logging.StreamHandler[TextIO]):
    """Log lines on stderr, each in a line of its own whatever stands there."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        if _unfinished:
            _unfinished[-1].set_aside()
        super().emit(record)


class _Start:
    """`starting vLLM: importing ... loading ... ready in 17 s`, as far as it has come."""

    def __init__(self, what: str, stream: TextIO) -> None:
        self.what = what
        self.phase = ""
        self._stream = stream
        self._open = False

    def enter(self, phase: str) -> None:
        """Name what happens now."""
        self.phase = phase
        self._write(f"{phase} ...")

    def ready(self, seconds: float) -> None:
        if self.phase:
            self._write(f"ready in {duration(seconds)}\n")
            self._open = False

    def set_aside(self) -> None:
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False

    def _write(self, text: str) -> None:
        self._stream.write(f" {text}" if self._open else f"starting {self.what}: {text}")
        self._stream.flush()
        self._open = True


@contextmanager
def starting(
    what: str, *, stream: TextIO | None = None, clock: Clock = time.monotonic
) -> Iterator[Callable[[str], None]]:
    """Say how the start of an engine goes. What names no phase says nothing.

    Returns:
        A function to name each phase with as it begins.
    """
    began = clock()
    start = _Start(what, stream or sys.stderr)
    _unfinished.append(start)
    try:
        yield start.enter
        start.ready(clock() - began)
    finally:
        start.set_aside()
        _unfinished.remove(start)


class Gate(Protocol):
    """A gate's figures (agentark/episode.py has the gate)."""

    in_flight: int


class Progress(AbstractContextManager["Progress"]):
    """One line about a run: samples, calls, tokens/s, cache hits, time so far and time left.

    The time left comes from calls. A sample is expected to take as many as the method makes when no reply agrees with
    another (`planned`); each sample that ends counts as much as this plan, for those under way only if it took more
    calls than they have: short ones end first. A call in flight counts as half done.

    Args:
        total: samples to run.
        unit: what the samples are called.
        stream: None: stderr.
    """

    def __init__(
        self,
        total: int,
        *,
        unit: str = "samples",
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.total = total
        self.unit = unit
        self.done = self.failed = 0
        self.calls = 0
        """Calls of this session, and those that were answered from the journal."""
        self.quiet = quiet
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._clock = clock
        self._began = self._wrote = clock()
        self._gates: tuple[Gate, ...] = ()
        self._planned: int | None = None
        self._before = self._answered = 0
        self._under_way = self._closed_calls = 0
        self._good: Counter[int] = Counter()  # samples that succeeded, by their calls
        self._prompt = self._cached = self._completion = 0
        self._shown = False

    def __enter__(self) -> Self:
        _unfinished.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._write(self.line(ended=True), last=True)
        _unfinished.remove(self)

    def watch(self, gates: Iterable[Gate]) -> None:
        """Count the calls in flight there."""
        self._gates = tuple(gates)

    def begin(self, planned: int | None) -> None:
        """The samples begin now.

        Args:
            planned: calls of one sample; None: not known.
        """
        self._planned = planned
        self._before = self.calls
        self._answered = self._prompt = self._cached = self._completion = 0
        self._began = self._clock()

    def call(self, completion: Completion, replayed: bool = False) -> None:
        """A call has its reply.

        Args:
            replayed: out of the journal.
        """
        self.calls += 1
        if not replayed:
            self._answered += 1
            self._completion += completion.completion_tokens
            if completion.cached_tokens is not None:
                self._prompt += completion.prompt_tokens
                self._cached += completion.cached_tokens
        self.tick()

    def sample_begins(self) -> None:
        """One more sample is under way."""
        self._under_way += 1

    def sample(self, ok: bool, calls: int = 0) -> None:
        """A sample has ended, after so many calls."""
        self.done += ok
        self.failed += not ok
        self._under_way = max(self._under_way - 1, 0)
        self._closed_calls += calls
        self._good[calls] += ok
        self.tick()

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Keep the line moving while the event loop runs, also when no call ends."""

        async def tick() -> None:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                self.tick()

        task = asyncio.get_running_loop().create_task(tick())
        try:
            yield
        finally:
            task.cancel()

    def tick(self) -> None:
        """Write the line if it is time to."""
        if self._clock() - self._wrote >= (REDRAW_SECONDS if self._live else LOG_SECONDS):
            self._write(self.line())

    def set_aside(self) -> None:
        if self._shown:
            self._stream.write(ERASE)
            self._stream.flush()
            self._shown = False

    def expected(self) -> float | None:
        """Calls that are still to be made, those in flight included; None: not known yet."""
        planned, under_way = self._planned, self._under_way
        if planned is None and not self.done:
            return None
        made = self.calls - self._before - self._closed_calls
        of_these = self._mean_above(made / under_way) * under_way if under_way else 0.0
        samples = self.done + under_way + (planned is not None)
        a_sample = (_sum(self._good) + of_these + (planned or 0)) / samples
        waiting = self.total - self.done - self.failed - under_way
        return max(of_these + a_sample * waiting - made, self._in_flight())

    def _mean_above(self, made: float) -> float:
        """Calls of a sample that has made so many: the mean of the plan and of the samples that took more."""
        longer = Counter({calls: n for calls, n in self._good.items() if calls > made})
        if self._planned is not None:
            longer[self._planned] += 1
        return max(_sum(longer) / longer.total(), made) if longer else made

    def seconds_left(self) -> float | None:
        """None: not known yet."""
        elapsed = self._clock() - self._began
        calls, ended = self.expected(), self.done + self.failed
        if calls is not None and self._answered:
            half = self._in_flight() / 2
            return elapsed * (calls - half) / (self._answered + half)
        return elapsed * (self.total - ended) / ended if ended else None

    def line(self, ended: bool = False) -> str:
        """The figures as they are now, cut to a terminal's width by leaving out those that matter least."""
        elapsed = self._clock() - self._began
        left, expected, flying = self.seconds_left(), self.expected(), self._in_flight()
        calls = self.calls - self._before
        of = "" if ended or not expected else f" of ~{calls + expected:.0f}"
        time_left = "" if ended or left is None else f", about {duration(left)} left"
        failed = f" ({self.failed} failed)" if self.failed else ""
        parts = [  # (rank: the higher, the earlier it is left out; text)
            (0, f"{self.done + self.failed}/{self.total} {self.unit}{failed}"),
            (2, f"{calls}{of} calls" + (f" ({flying} in flight)" if flying else "")) if calls or flying else None,
            (3, f"{self._completion / max(elapsed, 1e-9):.0f} tokens/s") if self._completion else None,
            (4, f"{self._cached / self._prompt:.0%} of prompts cached") if self._prompt else None,
            (1, f"{duration(elapsed)}{time_left}"),
        ]
        shown = [part for part in parts if part is not None]
        width = _columns(self._stream) - 1 if self._live else None
        while width is not None and len(shown) > 1 and len(_joined(shown)) > width:
            shown.remove(max(shown))
        return _joined(shown)[:width]

    def _in_flight(self) -> int:
        return sum(gate.in_flight for gate in self._gates)

    def _write(self, line: str, last: bool = False) -> None:
        if self.quiet:
            return
        self._wrote = self._clock()
        with suppress(OSError):  # a terminal that is gone does not end a run
            self._stream.write(f"{ERASE * self._live}{line}" + "\n" * (last or not self._live))
            self._stream.flush()
        self._shown = self._live and not last


def _sum(calls: Counter[int]) -> int:
    return sum(each * n for each, n in calls.items())


def _joined(parts: list[tuple[int, str]]) -> str:
    return " | ".join(text for _, text in parts)


def _columns(terminal: TextIO) -> int:
    with suppress(ValueError):
        if (told := int(os.environ.get("COLUMNS", "0"))) > 0:
            return told
    with suppress(OSError, ValueError):
        return os.get_terminal_size(terminal.fileno()).columns or COLUMNS
    return COLUMNS


def duration(seconds: float) -> str:
    """`17 s`, `4:05`, `1:02:03`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
