"""One engine for several runs: started once, in its own loop, ended once."""

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentark.engines.shared import shared
from agentark.lock import RunLock
from agentark.types import Completion, Guarantee, RunError, SamplingParams, message

PARAMS = SamplingParams(temperature=0.0, max_tokens=8)


class Bound:
    """An engine that, like vLLM's, works only in the loop that started it."""

    name = "bound"
    guarantee: Guarantee = "engine"
    capacity = 3
    context_length = 100
    dtype = None

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.blocked = asyncio.Event()

    async def __aenter__(self) -> "Bound":
        self.loop = asyncio.get_running_loop()
        self.events.append("start")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert asyncio.get_running_loop() is self.loop
        self.events.append(("end", exc[0]))

    async def chat(self, messages: Any, params: Any, *, session: str, priority: int) -> Completion:
        assert asyncio.get_running_loop() is self.loop
        if session == "fails":
            raise RunError("the engine is gone")
        if session == "waits":
            try:
                await self.blocked.wait()
            except asyncio.CancelledError:
                self.events.append("cancelled")
                raise
        return Completion(
            text=session, finish_reason="stop", prompt_tokens=1, completion_tokens=1, model="m", seconds=0.0
        )


async def reply(engine: Any, session: str) -> str:
    async with engine:
        assert (engine.name, engine.guarantee, engine.capacity, engine.context_length) == ("bound", "engine", 3, 100)
        done = await engine.chat([message("user", "q")], PARAMS, session=session, priority=0)
        return str(done.text)


def test_runs_in_their_own_loops_share_one_engine(tmp_path: Path) -> None:
    made: list[Bound] = []
    with shared(lambda lock: made.append(Bound()) or made[-1]) as engine_of:  # type: ignore[func-returns-value]
        for name in ("a", "b", "c"):
            with RunLock(tmp_path / name) as lock:
                assert asyncio.run(reply(engine_of(lock), name)) == name
    (engine,) = made
    assert engine.events == ["start", ("end", None)]


def test_later_runs_name_its_processes_in_their_locks(tmp_path: Path) -> None:
    child = psutil.Popen(["sleep", "60"])
    try:
        with shared(lambda lock: Bound()) as engine_of:
            for name, named in (("a", False), ("b", True)):
                with RunLock(tmp_path / name) as lock:
                    asyncio.run(reply(engine_of(lock), name))
                    assert (str(child.pid) in lock.path.read_text()) == named
    finally:
        child.kill()
        child.wait()


def test_an_engine_that_no_run_needs_is_never_made() -> None:
    with shared(lambda lock: pytest.fail("made")):
        pass


def test_errors_and_cancelled_calls_pass_through(tmp_path: Path) -> None:
    engine = Bound()

    async def cancelled(shared_engine: Any) -> None:
        async with shared_engine:
            waiting = shared_engine.chat([message("user", "q")], PARAMS, session="waits", priority=0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, 0.05)

    def two_runs() -> None:
        with shared(lambda lock: engine) as engine_of, RunLock(tmp_path / "a") as lock:
            asyncio.run(cancelled(engine_of(lock)))
            asyncio.run(reply(engine_of(lock), "fails"))

    with pytest.raises(RunError, match="is gone"):
        two_runs()
    assert engine.events == ["start", "cancelled", ("end", RunError)]


def test_an_engine_that_cannot_start_is_not_ended(tmp_path: Path) -> None:
    class Broken(Bound):
        async def __aenter__(self) -> "Bound":
            raise RunError("no memory")

    engine = Broken()

    def run() -> None:
        with shared(lambda lock: engine) as engine_of, RunLock(tmp_path / "a") as lock:
            asyncio.run(reply(engine_of(lock), "a"))

    with pytest.raises(RunError, match="no memory"):
        run()
    assert engine.events == []
