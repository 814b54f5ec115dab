"""Part 3: real vLLM on the embedded model, reply lengths pinned, schedules alternated.

    a  our runner                                    b  lockstep rounds, same cap
    c  one sample at a time, same cap                d  the calls of a, prompts known, all submitted at once

One engine serves all runs; its prefix cache is emptied before each. The texts of replies differ from run to run
(it is a real engine), but not their lengths.
"""

import argparse
import asyncio
import functools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import structs

from agentark import embedded
from agentark.engines.vllm import VLLMConfig, VLLMEngine, _prepare_environment
from agentark.episode import Gate, gather
from agentark.types import Completion, Message, Method, Sample, SamplingParams
from bench.parts.cache import Served, ideal_cached, occupancy
from bench.parts.clock import Lengths
from bench.parts.episodes import debate
from bench.parts.questions import problems
from bench.parts.report import Row, measured, repetitions
from bench.parts.schedules import Schedule, execute
from methods.self_consistency.self_consistency import SelfConsistency, SelfConsistencyConfig

Call = tuple[Sequence[Message], SamplingParams, str, int]
"""Messages, parameters, session, priority: all arguments of an engine's call."""

GOAL_OCCUPANCY = ">= 0.95"
SCHEDULES: dict[str, Schedule] = {"a": "ours", "b": "lockstep", "c": "one_at_a_time"}


class _Recorder:
    """Wraps vLLM's engine: removes the end-of-text token, and records every call."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.served: list[Served] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.llm, name)

    async def generate(self, prompt: dict[str, Any], sampling: Any, **options: Any) -> AsyncIterator[Any]:
        sampling.ignore_eos = True
        start = time.perf_counter()
        async for output in self.llm.generate(prompt, sampling, **options):
            yield output
        ids, reply = tuple(prompt["prompt_token_ids"]), tuple(output.outputs[0].token_ids)
        self.served.append(Served(start, time.perf_counter(), ids, reply, output.num_cached_tokens or 0))


class PinnedEngine(VLLMEngine):
    """A VLLMEngine whose reply lengths are fixed by the call's seed, that is by (sample, address)."""

    def __init__(self, config: VLLMConfig, lengths: Lengths, block: int | None) -> None:
        super().__init__(config)
        self.calls: list[Call] = []
        self._lengths = lengths
        self._block = block

    async def __aenter__(self) -> "PinnedEngine":
        with _block_size(self._block):
            await super().__aenter__()
        self._llm = self.recorder = _Recorder(self._llm)
        return self

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        self.calls.append((messages, params, session, priority))
        pinned = structs.replace(params, max_tokens=self._lengths(params.seed))
        return await super().chat(messages, pinned, session=session, priority=priority)

    async def fresh(self, reproducible: bool) -> None:
        """Empty the cache and forget the recorded calls of the last run."""
        self.config = self.config.model_copy(update={"reproducible": reproducible})
        self.calls, self.recorder.served = [], []
        await self.recorder.llm.reset_prefix_cache()


@contextmanager
def _block_size(block: int | None) -> Iterator[None]:
    """Start vLLM with another block size than its default; the engine has no setting for it."""
    if block is None:
        yield
        return
    _prepare_environment("ERROR")  # before vLLM is imported
    from vllm.engine import arg_utils

    plain = arg_utils.AsyncEngineArgs
    arg_utils.AsyncEngineArgs = functools.partial(plain, block_size=block)
    try:
        yield
    finally:
        arg_utils.AsyncEngineArgs = plain


@dataclass
class Setting:
    """A method under several schedules; letter -> results of each repetition."""

    name: str
    method: Method
    letters: str
    reproducible: bool = False
    seconds: dict[str, list[float]] = field(default_factory=dict)
    served: dict[str, list[list[Served]]] = field(default_factory=dict)


async def replay(engine: PinnedEngine, calls: Sequence[Call]) -> float:
    """Seconds for calls that wait only for the gate."""
    gate = Gate(engine.capacity)

    async def send(messages: Sequence[Message], params: SamplingParams, session: str, priority: int) -> None:
        await gate.acquire(priority)
        try:
            await engine.chat(messages, params, session=session, priority=priority)
        finally:
            gate.release()

    start = time.perf_counter()
    await gather(*(send(*call) for call in calls))
    return time.perf_counter() - start


async def repeat(engine: PinnedEngine, setting: Setting, samples: Sequence[Sample]) -> None:
    """Run each schedule of a setting once."""
    calls: list[Call] = []
    for letter in setting.letters:
        await engine.fresh(setting.reproducible)
        if letter == "d":
            seconds = await replay(engine, sorted(calls, key=lambda call: call[3]))
        else:
            with tempfile.TemporaryDirectory() as folder:
                schedule = SCHEDULES[letter]
                seconds = await execute(schedule, setting.method, engine, samples, Path(folder), total=len(samples))
        if letter == "a":
            calls = engine.calls
        setting.seconds.setdefault(letter, []).append(seconds)
        setting.served.setdefault(letter, []).append(engine.recorder.served)
        speed = sum(len(call.reply) for call in engine.recorder.served) / seconds
        print(f"  {setting.name} {letter}: {seconds:.1f} s, {speed:.0f} tokens/s", file=sys.stderr, flush=True)


def settings(agents: int, rounds: int) -> list[Setting]:
    plain, voting = debate(agents, rounds), SelfConsistency(SelfConsistencyConfig())
    name = f"llm_debate {agents}x{rounds}"
    return [
        Setting(name, plain, "abcd"),
        Setting(f"{name} shared_order", debate(agents, rounds, shared_order=True), "ab"),
        Setting(f"{name} reproducible", plain, "a", reproducible=True),
        Setting("self_consistency 5", voting, "abcd"),
        Setting("self_consistency 5 reproducible", voting, "a", reproducible=True),
    ]


async def measure(args: argparse.Namespace, chosen: Sequence[Setting]) -> int:
    """Fill the settings; returns the block size of vLLM's cache."""
    config = VLLMConfig(
        model=str(embedded.prepare()), served_name=embedded.EMBEDDED, max_model_len=4096, max_concurrency=args.cap
    )
    samples = list(problems(args.vllm_samples))
    low, median, high = args.tokens
    async with PinnedEngine(config, Lengths(median, 0.6, low, high), args.block) as engine:
        await repeat(engine, Setting("warm-up", chosen[0].method, "a"), samples[: max(1, args.cap // 4)])
        for repetition in repetitions(args.repeats, args.minutes):
            print(f"repetition {repetition} of {args.repeats}", file=sys.stderr, flush=True)
            for setting in chosen:
                await repeat(engine, setting, samples)
        return int(engine.recorder.vllm_config.cache_config.block_size)


def rows(args: argparse.Namespace) -> list[Row]:
    """All of part 3, with the flags of bench/inference_bench.py."""
    chosen = settings(args.agents, args.rounds)
    block = asyncio.run(measure(args, chosen))
    rows: list[Row] = []
    for setting in chosen:
        title = f"vllm: {setting.name}, cap {args.cap}, n={args.vllm_samples}"
        ours = setting.seconds["a"]
        for letter, what in (("b", "lockstep"), ("c", "one at a time"), ("d", "dependency-free replay")):
            if letter in setting.letters:
                runs = list(zip(ours, setting.seconds[letter], strict=True))
                rows.append(measured(f"{title}: {what} / ours ({letter}/a)", runs, "s", over_ours=True))
        rows += _slot_rows(f"{title}, ours", setting.served["a"], args.cap, GOAL_OCCUPANCY)
        if "b" in setting.letters:
            rows += _slot_rows(f"{title}, lockstep", setting.served["b"], args.cap, "")
        rows += _cache_rows(f"{title}, ours", setting.served["a"], block)
    seconds = {setting.name: setting.seconds["a"] for setting in chosen}
    for name, on in seconds.items():
        plain = name.removesuffix(" shared_order").removesuffix(" reproducible")
        if plain != name:
            runs = list(zip(on, seconds[plain], strict=True))
            rows.append(measured(f"vllm: {name} on / off, our wall time", runs, "s"))
    return rows


def _slot_rows(title: str, runs: Sequence[list[Served]], slots: int, goal: str) -> list[Row]:
    """Occupancy in steady state and drain tail."""
    steady, tails = zip(*(occupancy(served, slots) for served in runs), strict=True)
    walls = [max(call.end for call in served) - min(call.start for call in served) for served in runs]
    used = [(share * slots, float(slots)) for share in steady]
    return [
        measured(f"{title}: calls in flight in steady state / cap", used, "calls", goal),
        measured(f"{title}: drain tail / wall time", list(zip(tails, walls, strict=True)), "s"),
    ]


def _cache_rows(title: str, runs: Sequence[list[Served]], block: int) -> list[Row]:
    """Prompt tokens served from the cache, against those that ideal caches of several block sizes would have served."""
    rows = []
    for size in dict.fromkeys((block, 16, 1)):
        pairs = []
        for served in runs:
            prompt = sum(len(call.prompt) for call in served)
            pairs.append((sum(call.cached for call in served) / prompt, max(1, ideal_cached(served, size)) / prompt))
        what = f"blocks of {size}" if size > 1 else "single tokens"
        own = ", vLLM's own" if size == block else ""
        rows.append(measured(f"{title}: prefix-cache hit rate / ideal ({what}{own})", pairs, "of prompt tokens"))
    return rows
