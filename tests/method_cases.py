"""Play a method over one sample with a scripted engine, and look at what every agent saw."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from fakes import ScriptedEngine

from agentark.episode import Defaults, Episode
from agentark.progress import Progress
from agentark.records import Store, expand, read_records
from agentark.runner import Runner, replay
from agentark.team import Teamed, family
from agentark.types import SANDBOX, AnswerType, Engine, Method, MethodInfo, Outcome, Record, Sample

QUESTION = "If {x} = 3 and {0} = 4, what is {x} + {0}?\n\nEnd with \\boxed{}."


WAVE_SECONDS = 0.01
"""A call lasts so long (see clocked.TICK); calls that do not wait for each other come within it."""


@dataclass
class Played:
    """A finished episode."""

    record: Record
    outcome: Any
    seen: dict[str, list[tuple[str, str]]]
    """Turn id -> (role, text) of the messages sent."""
    calls: int
    critical_path: int
    """The longest chain of calls that had to wait for each other."""


def question(**fields: Any) -> Sample:
    """The sample that methods are tried on, with these fields changed."""
    query, _, instruction = QUESTION.partition("\n\n")
    base = {"id": "T/0", "source": "T", "query": query, "gt": "7", "answer_type": "number", "instruction": instruction}
    return Sample(**{**base, **fields})


def program_question(**fields: Any) -> Sample:
    """A question for code, with two visible tests and a hidden one; braces in it, too."""
    base = {
        "query": "Write a function `double(x)` that doubles, e.g. {x} and {0}.",
        "instruction": "Reply with one ```python block.",
        "answer_type": "code",
        "gt": "def double(x):\n    return 2 * x\n",
        "entry_point": "double",
        "tests": ("assert double(5) == 10",),
        "visible_tests": ("assert double(1) == 2", "assert double(0) == 0"),
    }
    return question(**{**base, **fields})


def check_agents(method: Method, record: Record) -> None:
    """Every call is of an agent and a role that the method says it has."""
    if isinstance(method, Teamed):
        agents = method.agents()
        for turn in record.trajectory:
            if turn.completion.model != SANDBOX:
                assert family(turn.role) in agents.get(turn.agent, ()), turn.id


async def play(
    method: Method,
    engine: ScriptedEngine,
    *,
    answer_type: AnswerType = "number",
    document: str | None = None,
    sample: Sample | None = None,
    models: Mapping[str, Engine] = {},
    trial: Sequence[Sample] | None = None,
) -> Played:
    """Run one sample through the real runner and store; each call lasts one tick of a common clock.

    Args:
        sample: instead of the usual question.
        models: further models by name: a FakeSandbox or SandboxEngine as "sandbox" (not counted in calls and critical
            path), other ScriptedEngines (counted).
        trial: samples that `prepare` is given; None: the one sample.
    """
    sample = sample or question(answer_type=answer_type, document=document)
    waves: list[int] = []
    waiting: list[asyncio.Future[None]] = []

    def end_wave() -> None:
        waves.append(len(waiting))
        for place in waiting:
            place.set_result(None)
        waiting.clear()

    def timed(plain_chat: Any) -> Any:
        async def chat(*args: Any, **kwargs: Any) -> Any:
            """Calls that can be made together form one wave; they all end together."""
            if kwargs["session"] == sample.id:  # not a trial episode
                loop = asyncio.get_running_loop()
                waiting.append(place := loop.create_future())
                if len(waiting) == 1:
                    loop.call_later(WAVE_SECONDS, end_wave)
                await place
            return await plain_chat(*args, **kwargs)

        return chat

    for one in {id(one): one for one in (engine, *models.values())}.values():
        one.capacity = 1000
        if one.name != SANDBOX:
            one.chat = timed(one.chat)  # type: ignore[method-assign]
    outcomes: list[Outcome] = []

    def row(episode: Episode, info: MethodInfo, model: str, guarantee: Any, outcome: Any, error: Any) -> Record:
        outcomes.append(outcome)
        return episode.record(info, model, guarantee, outcome, error)

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "a.jsonl", {})
        store.start({})
        runner = Runner(
            method=method,
            info=MethodInfo("m", "v", {}),
            model="scripted",
            engines={"main": engine, **models},
            defaults=Defaults(0.5, 64, 0),
            store=store,
            progress=Progress(1, quiet=True),
            row=row,
        )
        await runner.prepare([sample] if trial is None else trial)
        await runner.run([sample])
        store.close({})
        (record,) = read_records(Path(folder) / "a.jsonl")
    assert record.error is None, record.error
    check_agents(method, record)
    again = msgspec.json.encode(await replay(record, method))
    assert again == msgspec.json.encode(record), "replaying a record must reproduce it byte for byte"
    seen = {turn.id: [(one.role, one.text) for one in expand(record, turn)] for turn in record.trajectory}
    return Played(record, outcomes[0], seen, sum(waves), len(waves))
