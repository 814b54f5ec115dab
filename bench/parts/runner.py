"""Part 2: the runner's own cost, with an engine that answers at once."""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from agentark import embedded
from agentark.engines.prompt import Prompter
from agentark.episode import Defaults, Episode
from agentark.team import Member, Team
from agentark.types import Completion, Engine, Guarantee, Message, SamplingParams, message
from bench.parts.episodes import debate
from bench.parts.questions import problems
from bench.parts.report import ROOT, Row
from bench.parts.schedules import execute

DEBATE = debate(5, 3)  # 16 calls
SMALL = debate(2, 1)  # 3 calls
CAPACITY = 32
REPLY = 1200  # characters, about 300 tokens
LONG_PROMPT = 16000  # characters, about 4,000 tokens
GOAL_CALL = 200.0  # microseconds
GOAL_STALL = 5.0  # milliseconds
GOAL_ROUTE = 5.0  # microseconds
GOAL_MEMORY = 1.1  # flat: ten times the samples, at most a tenth more memory


class InstantEngine(Engine):
    """Answers at once with one of a few prepared replies; tokenises the prompt first if it has a Prompter."""

    name = "instant"
    guarantee: Guarantee = "exact"
    context_length = 1 << 20

    def __init__(self, reply_characters: int, prompter: Prompter | None = None) -> None:
        self.capacity = CAPACITY
        self.calls = self.prompt_tokens = 0
        self._prompter = prompter
        draw = random.Random(0)
        words = ("so", "we", "have", "12", "bags", "and", "then", "3 + 4 = 7", "which", "leaves", "dollars.\n")
        filler = [" ".join(draw.choices(words, k=reply_characters // 4)) for _ in range(8)]
        self._replies = [text[:reply_characters] for text in filler]

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        self.calls += 1
        prompt_tokens = 0
        if self._prompter is None:
            await asyncio.sleep(0)
        else:
            prompt_tokens = len((await self._prompter.build(messages, params)).token_ids)
        self.prompt_tokens += prompt_tokens
        seed = params.seed or 0
        answer = zlib.crc32(session.encode()) % 1000 + seed % 3  # agents of one sample give one of three answers
        text = f"{self._replies[seed % len(self._replies)]} The answer is \\boxed{{{answer}}}."
        return Completion(text, "stop", prompt_tokens, 0, self.name, 0.0, cached_tokens=0)


@asynccontextmanager
async def lateness(into: list[float], tick: float = 0.001) -> AsyncIterator[None]:
    """Records by how many seconds the loop is late for each `tick`."""

    async def sample() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(tick)
            into.append(time.perf_counter() - start - tick)

    task = asyncio.create_task(sample())
    try:
        yield
    finally:
        task.cancel()


def cost(samples: int, reply_characters: int) -> dict[str, float]:
    """Microseconds of wall and processor time per call, including writing the journal and records."""
    engine = InstantEngine(reply_characters)
    questions = list(problems(samples))
    with tempfile.TemporaryDirectory() as folder:
        run = execute("ours", DEBATE, engine, questions, Path(folder), total=samples)
        processor = time.process_time()
        wall = asyncio.run(run)
        processor = time.process_time() - processor
    return {"wall": wall / engine.calls * 1e6, "cpu": processor / engine.calls * 1e6}


def stalls(samples: int, prompt_characters: int) -> dict[str, float]:
    """p50 and p99 of the loop's stalls in ms while the real Prompter tokenises, and mean prompt tokens."""
    from transformers import AutoTokenizer

    prompter = Prompter(AutoTokenizer.from_pretrained(embedded.prepare()), 1 << 20)
    engine = InstantEngine(REPLY, prompter)
    questions = list(problems(samples, prompt_characters))
    late: list[float] = []

    async def main() -> float:
        async with lateness(late):
            return await execute("ours", DEBATE, engine, questions, Path(folder), total=samples)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main())
    prompter.close()
    late.sort()
    p50, p99 = (late[int(len(late) * share)] * 1e3 for share in (0.5, 0.99))
    return {"p50": p50, "p99": p99, "tokens": engine.prompt_tokens / engine.calls}


def addressing(calls: int, team: Team | None) -> float:
    """Microseconds until a call has its address, seed and sampling; nothing is sent."""
    sample = next(iter(problems(1)))
    defaults = Defaults(0.8, 4096, 0, {"top_p": 0.9}, team)
    request = [message("user", sample.query)]
    spent = 0.0
    for number in range(calls // 16):  # an episode of 16 calls each, as in DEBATE
        episode = Episode(sample, number, defaults, {}, {}, None)
        start = time.perf_counter()
        for call in range(16):
            episode(request, agent=f"agent_{1 + call % 5}", round=1 + call // 5, role="debater").close()
        spent += time.perf_counter() - start
    return spent / (calls // 16 * 16) * 1e6


def routing(calls: int) -> tuple[float, float]:
    """(microseconds of addressing without a team, with one of five members); medians of alternated tries."""
    base = {"temperature": 0.8, "max_tokens": 4096, "top_p": 0.9}
    members = {
        f"agent_{k}": Member({"temperature": 0.1 * k, "top_k": 20}, f"model_{k}", "adapter") for k in range(1, 6)
    }
    members |= {"debater": Member({"min_p": 0.1}), "*": Member({"max_tokens": 512})}
    team = Team(members, {}, {"main": base, **{f"model_{k}": base for k in range(1, 6)}})
    tries = [(addressing(calls, None), addressing(calls, team)) for _ in range(5)]
    without, routed = (median(values) for values in zip(*tries, strict=True))
    return without, routed


def memory(samples: int) -> float:
    """Resident MB at the end of a run in a separate process."""
    script = str(ROOT / "bench" / "inference_bench.py")
    command = [sys.executable, script, "--part", "memory", "--samples", str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["mb"])


def memory_child(samples: int) -> dict[str, Any]:
    """The run that `memory` starts: 3 calls per sample, samples made one by one."""
    engine = InstantEngine(200)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(execute("ours", SMALL, engine, problems(samples), Path(folder), total=samples))
    return {"mb": psutil.Process().memory_info().rss / 2**20, "calls": engine.calls}


def rows(samples: int, stall_samples: int, memory_samples: int) -> list[Row]:
    """All of part 2.

    Args:
        samples: samples of the cost measurement, with 16 calls each.
        stall_samples: samples of the stall measurement, with 16 calls each and prompts of 4,000 tokens and more.
        memory_samples: samples of the smaller run in the memory comparison; the other run has ten times as many.
    """
    spent, late = cost(samples, REPLY), stalls(stall_samples, LONG_PROMPT)
    without, routed = routing(samples)
    call = f"runner: llm_debate 5x3, n={samples}, 16 calls each: time per call / goal"
    stall = f"runner: event-loop stall, prompts of {late['tokens']:.0f} tokens on average"
    few, many = memory(memory_samples), memory(10 * memory_samples)
    growth = f"runner: memory at n={10 * memory_samples} / at n={memory_samples}"
    return [
        Row(call, spent["wall"] / GOAL_CALL, GOAL_CALL, spent["wall"], "us", "<= 1"),
        Row(f"{call}, processor time", spent["cpu"] / GOAL_CALL, GOAL_CALL, spent["cpu"], "us"),
        Row(
            "runner: what a team of five members adds to a call / goal",
            (routed - without) / GOAL_ROUTE,
            GOAL_ROUTE,
            routed - without,
            "us",
            "<= 1",
        ),
        Row(f"{stall}: p99 / goal", late["p99"] / GOAL_STALL, GOAL_STALL, late["p99"], "ms", "<= 1"),
        Row(f"{stall}: p50 / goal", late["p50"] / GOAL_STALL, GOAL_STALL, late["p50"], "ms"),
        Row(growth, many / few, few, many, "MB", f"<= {GOAL_MEMORY}"),
    ]
