"""Our runner and the two schedules it is compared with: the same code with a barrier, or with a single open sample."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from agentark.episode import Defaults
from agentark.progress import Progress
from agentark.records import Store
from agentark.runner import Runner
from agentark.types import Chat, Engine, Message, Method, MethodInfo, Outcome, Sample, Turn

Schedule = Literal["ours", "lockstep", "one_at_a_time"]


class Rounds:
    """Opens round r when every sample has reached it or is done."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._reached: Counter[int] = Counter()
        self._at: dict[str, int] = {}
        self._open: dict[int, asyncio.Event] = {}

    async def reach(self, sample_id: str, round: int) -> None:
        for passed in range(self._at.get(sample_id, 0) + 1, round + 1):
            self._reached[passed] += 1
            self._check(passed)
        self._at[sample_id] = max(round, self._at.get(sample_id, 0))
        await self._event(round).wait()
        await asyncio.sleep(0)  # the sample that opened the round queues behind those that waited

    def leave(self, sample_id: str) -> None:
        """Rounds no longer wait for a finished sample."""
        last = max([*self._open, self._at.get(sample_id, 0)])
        self._samples -= 1
        for round in range(1, self._at.pop(sample_id, 0) + 1):
            self._reached[round] -= 1
        for round in range(1, last + 1):
            self._check(round)

    def _check(self, round: int) -> None:
        if self._reached[round] >= self._samples:
            self._event(round).set()

    def _event(self, round: int) -> asyncio.Event:
        return self._open.setdefault(round, asyncio.Event())


class Lockstep:
    """A method whose calls of round r + 1 wait until all samples have finished round r."""

    def __init__(self, method: Method, samples: int) -> None:
        self._method = method
        self._rounds = Rounds(samples)

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        async def held(messages: Sequence[Message], *, round: int, **address: Any) -> Turn:
            await self._rounds.reach(sample.id, round)
            return await chat(messages, round=round, **address)

        try:
            return await self._method.run(sample, held)
        finally:
            self._rounds.leave(sample.id)


async def execute(
    schedule: Schedule,
    method: Method,
    engine: Engine,
    samples: Iterable[Sample],
    folder: Path,
    *,
    total: int,
    seed: int = 0,
) -> float:
    """Run the samples through the real runner into `folder/records.jsonl`; seconds of the loop's clock."""
    store = Store(folder / "records.jsonl", {}, overwrite=True)
    runner = Runner(
        method=Lockstep(method, total) if schedule == "lockstep" else method, info=MethodInfo("bench", "bench", {}),
        model=engine.name, engines={"main": engine}, defaults=Defaults(0.8, 4096, seed), store=store,
        progress=Progress(total, quiet=True),
    )  # fmt: skip
    if schedule != "ours":  # open samples: the only setting without a flag
        runner._window = asyncio.Semaphore(total if schedule == "lockstep" else 1)
    clock = asyncio.get_running_loop().time
    store.start({})
    try:
        start = clock()
        await runner.run(samples)
        return clock() - start
    finally:
        store.close()
