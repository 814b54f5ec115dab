"""What the gateway adds to each call of an engine, and whether its memory stays flat.

    python bench/gateway_bench.py

A gateway in a process of its own stands before an engine without a model that takes about `--latency` seconds for a
call and says in its reply how long it took. A client keeps `--in_flight` calls of ten-call samples under way; what a
call takes above the engine's own time is the overhead, HTTP and client included. Prints a markdown table and writes the
ratios to results/bench/gateway.json.
"""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli
from agentark.engines.choose import Choice
from agentark.gateway import __main__ as gateway
from agentark.gateway.client import KEY_ENV
from agentark.types import Completion, Engine, Guarantee, Message, RunError, SamplingParams
from bench.parts import report

CALLS_A_SAMPLE = 10
LATENCY_ENV = "AGENTARK_BENCH_LATENCY"
KEY = "of-the-bench"
"""Not a secret: the gateway listens on loopback, for a minute."""
WARM_CALLS = 2000
"""Calls after which memory is looked at first: by then every import and cache is there."""
PROMPT = "Work it out step by step. " * 40
WANTED_MS = 5.0


class Sleeper(Engine):
    """Takes half to one and a half times its latency for a call, as replies differ, and says how long it was."""

    name = "sleeper"
    guarantee: Guarantee = "engine"
    capacity = 256
    context_length = 1 << 20

    def __init__(self, latency: float) -> None:
        self.latency = latency

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams, *, session: str, priority: int
    ) -> Completion:
        start = time.perf_counter()
        await asyncio.sleep(self.latency * random.uniform(0.5, 1.5))
        seconds = time.perf_counter() - start
        return Completion(f"{seconds:.6f} {PROMPT}", "stop", 100, 100, "sleeper", seconds)


def served(folder: Path, port: int, latency: float) -> "subprocess.Popen[bytes]":
    """A gateway in a process of its own."""
    environment = {**os.environ, KEY_ENV: KEY, LATENCY_ENV: str(latency)}
    command = [
        *(sys.executable, __file__, "--serve", "--output", str(folder / f"{latency}_infer.jsonl")),
        *("--dataset_name", "ChainSum", "--model_name", "sleeper", "--port", str(port)),
    ]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def serve(flags: list[str]) -> int:
    latency = float(os.environ[LATENCY_ENV])
    return gateway.main(flags, choose_engine=lambda args, name: Choice(name, lambda lock: Sleeper(latency)))


class Load:
    """A client with a fixed number of calls under way."""

    def __init__(self, port: int, in_flight: int, process: psutil.Process) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.in_flight = in_flight
        self.process = process
        self.overheads: list[float] = []
        """Seconds, a call each."""
        self.memory: list[tuple[int, int]] = []
        """(calls made, bytes that the gateway holds)."""
        self._calls = 0

    async def run(self, calls: int) -> float:
        """Make so many calls. Returns the seconds that took."""
        import aiohttp

        headers = {"Authorization": f"Bearer {KEY}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(self.url, headers=headers, connector=connector) as http:
            await self._wait(http)
            samples = iter(range(calls // CALLS_A_SAMPLE))
            start = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(self.in_flight):
                    group.create_task(self._work(http, samples))
            return time.perf_counter() - start

    async def _wait(self, http: Any) -> None:
        import aiohttp

        for _ in range(600):
            try:
                async with http.get("/health"):
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)
        raise RunError("the gateway does not start")

    async def _work(self, http: Any, samples: Iterator[int]) -> None:
        for number in samples:
            id = f"bench/{number}"
            async with http.post(f"/agentark/samples/{id}", json={"query": f"1 + {number}?"}) as answer:
                assert answer.status == 200, await answer.text()
            said: list[dict[str, str]] = []
            text = ""
            for call in range(CALLS_A_SAMPLE):
                agent = f"agent_{call % 3}"
                messages = [
                    {"role": "system", "content": PROMPT},
                    *said,
                    {"role": "user", "content": f"{call} {PROMPT}"},
                ]
                body = {"model": "sleeper", "messages": messages, "metadata": {"sample": id, "agent": agent}}
                start = time.perf_counter()
                async with http.post("/v1/chat/completions", json=body) as answer:
                    reply = await answer.json()
                took = time.perf_counter() - start
                text = reply["choices"][0]["message"]["content"]
                self.overheads.append(took - float(text.split()[0]))
                said = [*messages[1:], {"role": "assistant", "content": text}][-4:]
                self._calls += 1
                if self._calls % 1000 == 0:
                    self.memory.append((self._calls, self.process.memory_info().rss))
            async with http.post(f"/agentark/samples/{id}/outcome", json={"answer": text}) as answer:
                assert answer.status == 200, await answer.text()


def measured(args: Any, latency: float, calls: int, port: int) -> tuple[Load, float]:
    """(the load after its run, its seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        process = served(Path(folder), port, latency)
        try:
            load = Load(port, args.in_flight, psutil.Process(process.pid))
            return load, asyncio.run(load.run(calls))
        finally:
            process.terminate()
            process.wait()


def main(argv: list[str] | None = None) -> int:
    if (sys.argv[1:] if argv is None else argv)[:1] == ["--serve"]:
        return serve((sys.argv[1:] if argv is None else argv)[1:])
    parser = report.parser(__doc__, "gateway")
    parser.add_argument("--in_flight", type=report.count, default=32, help="calls under way at once")
    parser.add_argument("--latency", type=cli.number(0.001, 60), default=0.5, help="seconds of the engine's calls")
    parser.add_argument("--calls", type=cli.integer(100, 1_000_000), default=1600, help="calls that are timed")
    parser.add_argument(
        "--memory_calls",
        type=cli.integer(4000, 1_000_000),
        default=10_000,
        help="calls of the run whose memory is watched",
    )
    parser.add_argument("--port", type=cli.integer(1, 65534), default=8199, help="port of the gateway, and the next")
    args = parser.parse_args(argv)
    timed, seconds = measured(args, args.latency, args.calls, args.port)
    many, many_seconds = measured(args, 0.01, args.memory_calls, args.port + 1)
    held = [memory / 2**20 for calls, memory in many.memory if calls >= WARM_CALLS]
    median, latest = (1000 * statistics.quantiles(timed.overheads, n=20)[index] for index in (9, 18))
    rows = [
        report.Row(
            f"a call through the gateway / in the engine, {args.in_flight} in flight (p50)",
            1 + median / 1000 / args.latency, args.latency, args.latency + median / 1000, "s",
            f"<= {1 + WANTED_MS / 1000 / args.latency:.4g}",
        ),
        report.Row(
            f"memory of the gateway after {many.memory[-1][0]} calls / after {WARM_CALLS}",
            held[-1] / held[0], held[0], held[-1], "MiB", "<= 1.05",
        ),
    ]  # fmt: skip
    print(f"overhead: p50 {median:.2f} ms, p95 {latest:.2f} ms ({len(timed.overheads) / seconds:.0f} calls/s); "
          f"{many.memory[-1][0] / many_seconds:.0f} calls/s at most, of an engine that takes 10 ms")  # fmt: skip
    return report.publish(rows, args.json)


if __name__ == "__main__":
    cli.entry(main)
