"""The gateway as a process: its start and end, its key, kill -9, the client."""

import asyncio
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from gateway_cases import MODEL, free_port, rows, timeless

from agentark.gateway import Team
from agentark.gateway.__main__ import parse
from agentark.gateway.client import TeamError
from agentark.types import UserError

ROOT = Path(__file__).parents[3]
DRIVER = ROOT / "tests" / "scripted_gateway.py"


class Gateway:
    """A gateway in a process of its own, which can be started again."""

    def __init__(self, folder: Path, data_dir: Path, latency: float, *flags: str) -> None:
        self.folder = folder
        self.output = folder / "team_infer.jsonl"
        self.port = free_port()
        self.calls = folder / "calls"
        self.calls.touch()
        self._flags = [
            *("--output", str(self.output), "--dataset_name", "GSM8K", "--data_dir", str(data_dir)),
            *("--model_name", "m", "--port", str(self.port), *flags),
        ]
        self._environment = {**os.environ, "CALLS": str(self.calls), "LATENCY": str(latency), "NO_PROXY": "127.0.0.1"}
        self.log = folder / "log"

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(DRIVER), *self._flags], stdout=log, stderr=log, env=self._environment, cwd=ROOT
            )
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def key(self) -> str:
        return self.output.with_name(self.output.name + ".key").read_text().strip()

    @property
    def team(self) -> Team:
        return Team(f"http://127.0.0.1:{self.port}/v1", self.key)


@contextmanager
def started(folder: Path, data_dir: Path, latency: float = 0.0, *flags: str) -> Iterator[Gateway]:
    folder.mkdir(exist_ok=True)
    gateway = Gateway(folder, data_dir, latency, *flags)
    gateway.start()
    try:
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.kill()


async def debate(team: Team, id: str, stream: bool) -> None:
    """Three agents and two rounds, through the openai client as it comes."""
    from openai import AsyncOpenAI

    async with team.sample(id=id) as sample:

        async def say(agent: int, *texts: str) -> str:
            roles = ("user", "assistant")
            messages: Any = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
            async with AsyncOpenAI(**sample.client(f"agent_{agent}"), timeout=600, max_retries=0) as client:
                if not stream:
                    reply = await client.chat.completions.create(model=MODEL, messages=messages)
                    return reply.choices[0].message.content or ""
                pieces = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
                return "".join([piece.choices[0].delta.content or "" async for piece in pieces])

        first = await asyncio.gather(*(say(agent, sample.prompt) for agent in range(3)))
        others = " | ".join(first)
        second = await asyncio.gather(*(say(agent, sample.prompt, first[agent], others) for agent in range(3)))
        sample.answer(second[0])


async def all_debates(team: Team, stream: bool, width: int = 8) -> None:
    """Raises what the first debate that fails raises, once the others have ended."""
    window = asyncio.Semaphore(width)

    async def work(id: str) -> None:
        async with window:
            await debate(team, id, stream)

    results = await asyncio.gather(*(work(f"GSM8K/test/{index}") for index in range(20)), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def test_a_gateway_ends_when_it_is_told_to(tmp_path: Path, data_dir: Path) -> None:
    with started(tmp_path, data_dir) as gateway:
        key = gateway.output.with_name("team_infer.jsonl.key")
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert gateway.key not in gateway.log.read_text()
        asyncio.run(debate(gateway.team, "GSM8K/test/3", stream=False))
        with gateway.team.sample("How much is 2 + 3?", 5) as sample:
            assert (sample.state, sample.closed, sample.id[:5]) == ("new", False, "team/")
        assert gateway.team.left()[:4] == ["GSM8K/test/0", "GSM8K/test/1", "GSM8K/test/2", "GSM8K/test/4"]
        assert gateway.stop() == 1  # a row carries an error
        assert not key.exists()
    first, second = rows(tmp_path)
    assert (first["id"], first["error"]) == ("GSM8K/test/3", None)
    assert (second["query"], second["error"]) == ("How much is 2 + 3?", "the team gave no answer")
    manifest = json.loads((tmp_path / "team_infer.jsonl.manifest.json").read_text())
    assert manifest["config"]["variant"] == "team"
    assert (manifest["sessions"][0]["done"], manifest["sessions"][0]["failed"]) == (1, 1)
    assert gateway.log.read_text().splitlines()[-1] == "1 samples written, 1 failed, 0 left open"


def test_a_client_says_who_asks_and_in_which_round() -> None:
    sample = Team("http://127.0.0.1:1", "k").sample(id="GSM8K/test/3")
    assert sample.client("the judge", 2)["default_headers"] == {
        "X-AgentArk-Sample": quote("GSM8K/test/3"),
        "X-AgentArk-Agent": quote("the judge"),
        "X-AgentArk-Round": "2",
    }
    assert sample.client()["default_headers"].keys() == {"X-AgentArk-Sample"}


def test_a_team_that_fails_says_why(tmp_path: Path, data_dir: Path) -> None:
    with started(tmp_path, data_dir) as gateway:
        with pytest.raises(ZeroDivisionError), gateway.team.sample(id="GSM8K/test/3"):
            print(1 / 0)
        with pytest.raises(TeamError, match="not of this dataset"), gateway.team.sample(id="nobody's"):
            pass
        with pytest.raises(TeamError, match="wrong key"):
            Team(gateway.team.url, "other").left()
    assert [row["error"] for row in rows(tmp_path)] == ["ZeroDivisionError: division by zero"]


def test_a_wrong_start_is_one_line(tmp_path: Path, data_dir: Path) -> None:
    with started(tmp_path, data_dir) as gateway:
        again = subprocess.run(
            [sys.executable, str(DRIVER), *gateway._flags[2:], "--output", str(tmp_path / "other.jsonl")],
            capture_output=True, text=True, env=gateway._environment, cwd=ROOT,
        )  # fmt: skip
        assert (again.returncode, again.stdout) == (2, "")
        assert again.stderr.splitlines()[-1].startswith(f"error: --host 127.0.0.1 --port {gateway.port}: cannot be")
    with pytest.raises(UserError, match="--model_name: is missing"):
        parse(["--output", str(tmp_path / "x.jsonl"), "--dataset_name", "GSM8K"])


@pytest.mark.parametrize("stream", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_killed_gateway_pays_no_finished_call_twice(stream: bool, tmp_path: Path, data_dir: Path) -> None:
    """kill -9 at 5 random moments; each time the team is run again from its start."""
    draw = random.Random(stream)
    with started(tmp_path / "whole", data_dir, 0.02, "--replay") as gateway:
        began = time.monotonic()
        asyncio.run(all_debates(gateway.team, stream))
        length = time.monotonic() - began
        assert gateway.stop() == 0
    wanted = [json.dumps(timeless(row)) for row in rows(tmp_path / "whole")]
    assert len(wanted) == 20
    with started(tmp_path / "killed", data_dir, 0.02, "--replay") as gateway:
        finished: Counter[str] = Counter()
        before = 0
        for kill in range(6):
            team = gateway.team
            running = subprocess.Popen(
                [sys.executable, __file__, team.url, str(stream)],
                env={**os.environ, "AGENTARK_GATEWAY_KEY": team.key, "NO_PROXY": "127.0.0.1",
                     "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
                cwd=ROOT,
            )  # fmt: skip
            if kill == 5:
                assert running.wait(120) == 0
                continue
            wait_for_calls(gateway, before + 1)
            time.sleep(draw.uniform(0, length))
            gateway.kill()
            running.send_signal(signal.SIGKILL)
            running.wait()
            sent = Counter(gateway.calls.read_text().splitlines()[before:])
            assert not sent & finished, "a finished call was paid twice"
            finished |= journalled(gateway)
            before += sent.total()
            gateway.start()
        assert not Counter(gateway.calls.read_text().splitlines()[before:]) & finished
        assert gateway.stop() == 0
    assert [json.dumps(timeless(row)) for row in rows(tmp_path / "killed")] == wanted


def wait_for_calls(gateway: Gateway, count: int) -> None:
    """Until so many calls were sent, or five seconds have passed: what is left may cost none."""
    for _ in range(100):
        if len(gateway.calls.read_text().splitlines()) >= count:
            return
        time.sleep(0.05)


def journalled(gateway: Gateway) -> Counter[str]:
    """`sample seed` of every finished call, in the journal and in the rows."""
    from agentark.episode import Defaults, Episode
    from agentark.tasks import get_task

    task = get_task("GSM8K")
    samples = {sample.id: sample for sample in task.load(None, Path(gateway._flags[5])).samples}
    journal = gateway.output.with_name("team_infer.jsonl.journal.jsonl")
    entries = [json.loads(line) for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    turns = {(entry["sample"], entry["turn"]) for entry in entries if entry["turn"]}
    seeds = {}
    for id, turn in turns:
        episode = Episode(samples[id], 0, Defaults(0.5, 4096, 0), {}, {}, None)
        seeds[f"{id} {episode.seed(turn)}"] = 1
    return Counter(seeds)


if __name__ == "__main__":
    asyncio.run(all_debates(Team(sys.argv[1]), sys.argv[2] == "True"))
