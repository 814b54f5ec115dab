"""An engine that another process lends: calls cross as they are, and it ends in ways that the borrower can tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import ScriptedEngine

from agentark.engines import lent
from agentark.engines.lent import LentEngine, borrowed, lend, terms_of
from agentark.engines.vllm import VLLMConfig
from agentark.types import Completion, EngineFault, Message, Part, RunError, SampleError, SamplingParams, message

SETTINGS = VLLMConfig(model="/models/m", served_name="m", lora_path=Path("adapter"), engine_args={"max_num_seqs": 8})
PARAMS = SamplingParams(temperature=0.0, max_tokens=8)


class Telling(ScriptedEngine):
    """Fails, waits, or tells all that a completion can hold, as the session says."""

    cancelled = 0

    async def chat(self, messages: Any, params: SamplingParams, *, session: str, priority: int) -> Completion:
        match session:
            case "fault":
                raise EngineFault("no reply")
            case "sample":
                raise SampleError("too long")
            case "run":
                raise RunError("the engine died")
            case "bug":
                raise ZeroDivisionError("by zero")
            case "waits":
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
        done = await super().chat(messages, params, session=session, priority=priority)
        told: dict[str, Any] = {"reasoning": "hm", "truncation": ((3, 4),), "choice_logprobs": {"A": -0.5}}
        return msgspec.structs.replace(done, **told)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the path of a socket has 107 bytes at most
    monkeypatch.setenv(lent.VARIABLE, "socket")
    return Path("socket")


@asynccontextmanager
async def lending(path: Path, engine: Telling) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(lend(engine, SETTINGS, path))
    while await asyncio.to_thread(terms_of, path) is None:
        await asyncio.sleep(0.01)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def there(settings: VLLMConfig = SETTINGS) -> LentEngine | None:
    return await asyncio.to_thread(borrowed, settings)


async def ask(engine: LentEngine, session: str, *messages: Message, params: SamplingParams = PARAMS) -> Completion:
    return await engine.chat(messages or [message("user", "q")], params, session=session, priority=3)


def test_a_call_crosses_as_it_is_and_many_at_once(path: Path) -> None:
    engine = Telling(latency=0.01, capacity=5, context_length=99, guarantee="engine")
    engine.dtype = "bfloat16"
    long = Message("user", (Part("d" * 100_000, truncate="middle"), Part("q", ref="t1")))
    params = SamplingParams(0.5, 9, seed=4, choices=("A", "B"), choice_logprobs=True, schema={"type": "object"})

    async def run() -> list[Completion]:
        async with lending(path, engine):
            borrower = await there()
            assert borrower is not None
            facts = (borrower.name, borrower.guarantee, borrower.capacity, borrower.context_length, borrower.dtype)
            assert facts == ("scripted", "engine", 5, 99, "bfloat16")
            async with borrower:
                own = await ask(engine, "own", long, params=params)  # type: ignore[arg-type]
                lent = await asyncio.gather(*(ask(borrower, f"s{k}", long, params=params) for k in range(40)))
                assert lent == [own] * 40
            async with borrower:  # a second run in the same process
                return [await ask(borrower, "again")]

    [again] = asyncio.run(run())
    assert again.choice_logprobs == {"A": -0.5}
    assert engine.seen[1] == ("s0", (long,), params)
    assert engine.peak > 5


def test_errors_are_what_they_were(path: Path) -> None:
    async def run() -> None:
        async with lending(path, Telling()):
            borrower = await there()
            assert borrower is not None
            async with borrower:
                for session, kind, text in (("fault", EngineFault, "no reply"), ("sample", SampleError, "too long")):
                    with pytest.raises(kind, match=f"^{text}$") as raised:
                        await ask(borrower, session)
                    assert type(raised.value) is kind
                assert (await ask(borrower, "good")).text

    asyncio.run(run())


@pytest.mark.parametrize(("session", "text"), [("run", "the engine died"), ("bug", "ZeroDivisionError: by zero")])
def test_an_engine_that_is_dead_ends_its_lender(path: Path, session: str, text: str) -> None:
    async def run() -> None:
        async with lending(path, Telling()) as lender:
            borrower = await there()
            assert borrower is not None
            async with borrower:
                with pytest.raises(RunError, match=text):
                    await ask(borrower, session)
                with pytest.raises(RunError, match=text):
                    await lender

    asyncio.run(run())


def test_a_cancelled_call_is_cancelled_at_the_engine(path: Path) -> None:
    engine = Telling()

    async def run() -> None:
        async with lending(path, engine):
            borrower = await there()
            assert borrower is not None
            async with borrower:
                call = asyncio.create_task(ask(borrower, "waits"))
                await asyncio.sleep(0.05)
                call.cancel()
                await asyncio.sleep(0.05)
                assert engine.cancelled == 1
                open_call = asyncio.create_task(ask(borrower, "waits"))
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.05)
            assert engine.cancelled == 2, "the borrower has left"
            with pytest.raises(RunError):
                await open_call

    asyncio.run(run())


def test_a_lender_that_goes_away_ends_the_run(path: Path) -> None:
    """The process of a lender is killed: what waits for a reply, and what asks later, is told."""

    async def run() -> None:
        async def vanish(reader: Any, writer: Any) -> None:
            terms = lent.Terms(SETTINGS.model_dump(mode="json"), "vllm", "engine", 4, 99, None)
            data = msgspec.json.encode(terms)
            writer.write(len(data).to_bytes(4) + data)
            await reader.read(1)
            writer.transport.abort()

        async with await asyncio.start_unix_server(vanish, path):
            borrower = await there()
            assert borrower is not None
            async with borrower:
                for _ in range(2):
                    with pytest.raises(RunError, match="the engine of this study has ended"):
                        await ask(borrower, "good")
        with pytest.raises(RunError, match="the engine of this study has ended"):
            await borrower.__aenter__()

    asyncio.run(run())


def test_other_settings_borrow_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[bool]:
        async with lending(path, Telling()):
            changes: list[dict[str, Any]] = [{}, {"dtype": "float32"}, {"model": "/models/o"}, {"quiet": False}]
            changes += [{"lora_path": None}, {"engine_args": {}}, {"max_concurrency": 3}, {"chat_template": False}]
            return [await there(SETTINGS.model_copy(update=change)) is not None for change in changes]

    assert asyncio.run(run()) == [True, *[False] * 7]
    monkeypatch.delenv(lent.VARIABLE)
    assert borrowed(SETTINGS) is None


def test_a_lender_that_does_not_answer_stops_the_run(path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RunError, match="the engine of this study has ended"):
            borrowed(SETTINGS)
        path.write_text("no socket")
