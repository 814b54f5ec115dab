"""A virtual clock, and an engine on it: B slots, fixed token times.

The loop never sleeps: when nothing is ready it sets its clock to the next timer. Minutes of a busy engine take
seconds, and every duration is exact.
"""

import asyncio
import random
import selectors
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentark.types import Completion, Engine, Guarantee, Message, Record, SamplingParams, Turn

T = TypeVar("T")


class _Jump(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Polls the real files (the loop's own wake-up pipe), and moves the loop's clock instead of waiting."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events and timeout != 0:
            self.loop.jump()
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` jumps to the next timer. Raises RuntimeError instead of waiting for ever."""

    def __init__(self) -> None:
        selector = _Jump()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def jump(self) -> None:
        if not self._scheduled:  # type: ignore[attr-defined]
            raise RuntimeError("nothing is ready and no timer is set: the coroutines wait for each other")
        self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@dataclass(frozen=True)
class Lengths:
    """Reply lengths in tokens: log-normal, cut to a range. Fixed by the call's seed, that is by (sample, address)."""

    median: int = 300
    sigma: float = 0.8
    """Spread of the logarithm; with 0.8, one reply in 20 is over 3.7 times the median."""
    low: int = 16
    high: int = 4096

    def __call__(self, seed: int | None) -> int:
        drawn = random.Random(seed).lognormvariate(0.0, self.sigma) * self.median
        return round(min(self.high, max(self.low, drawn)))


def tokens(text: str) -> int:
    """Number of virtual tokens of a text."""
    return -(-len(text) // 4)


@dataclass
class SlotEngine(Engine):
    """`agentark.types.Engine` that takes `prefill` per uncached prompt token and `decode` per reply token.

    Its prefix cache is unlimited and works on whole message parts. Times are powers of two, so sums are exact.
    """

    capacity: int
    lengths: Lengths = field(default_factory=Lengths)
    decode: float = 1 / 32
    """Seconds per reply token, however many calls are in flight."""
    prefill: float = 1 / 4096
    """Seconds per prompt token that is not in the cache."""
    name: str = "virtual"
    guarantee: Guarantee = "exact"
    context_length: int = 1 << 20
    in_flight: int = 0
    _cache: set[int] = field(default_factory=set)

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        self.in_flight += 1
        if self.in_flight > self.capacity:
            raise AssertionError(f"{self.in_flight} calls in {self.capacity} slots")
        prefix, keys, prompt, cached = hash(session), [], 0, 0
        for message in messages:
            prefix = hash((prefix, message.role))
            for part in message.parts:
                prefix = hash((prefix, part.text))
                keys.append(prefix)
                prompt += tokens(part.text)
                if prefix in self._cache:  # then all shorter prefixes are, too
                    cached = prompt
        length = self.lengths(params.seed)
        text = "so " * max(1, length * 4 // 3 - 4) + f"\\boxed{{{(params.seed or 0) % 4}}}"
        seconds = self.prefill * (prompt - cached) + self.decode * length
        await asyncio.sleep(self.prefill * (prompt - cached))
        self._cache.update(keys)
        await asyncio.sleep(self.decode * length)
        self._cache.add(hash((hash((prefix, "assistant")), text)))
        self.in_flight -= 1
        return Completion(text, "stop", prompt, length, self.name, seconds, cached_tokens=cached)


def chain(record: Record) -> float:
    """Seconds of the longest chain of calls that had to wait for each other.

    A call waits for the turns that its messages show, and for the dialogue that it continues.
    """
    turns = {turn.id: turn for turn in record.trajectory}
    ends: dict[str, float] = {}

    def end(turn: Turn) -> float:
        if turn.id not in ends:
            refs = {part.ref for message in turn.messages for part in message.parts} | {turn.continues}
            earlier = [end(turns[ref]) for ref in refs if ref in turns]
            ends[turn.id] = turn.completion.seconds + max(earlier, default=0.0)
        return ends[turn.id]

    return max(map(end, record.trajectory), default=0.0)


def lower_bound(records: Sequence[Record], slots: int) -> float:
    """Lower bound in seconds for every schedule: all work spread evenly over the slots, or the longest chain."""
    work = sum(turn.completion.seconds for record in records for turn in record.trajectory)
    return max(work / slots, max(map(chain, records)))
