"""The gate, the window, the error boundary, resume, and that records do not depend on time."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import ScriptedEngine

from agentark.episode import Defaults, Gate, gather
from agentark.job import Job, run_job
from agentark.progress import Progress
from agentark.records import Store, expand, read_records
from agentark.runner import MAX_FAULTS_IN_A_ROW, Runner, replay
from agentark.types import (
    Chat,
    EngineFault,
    Episodes,
    MethodInfo,
    Outcome,
    Part,
    RunError,
    Sample,
    SampleError,
    Solution,
    message,
)

INFO = MethodInfo("pair", "config_main", {})


class Pair:
    """Two agents, two rounds, a judge with two calls at one address: every shape of turn the store knows."""

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        first = [message("user", *sample.parts())]
        one = await gather(*(chat(first, agent=f"agent_{k}", round=1, role="solver") for k in (2, 10)))
        two = await gather(
            *(
                chat(
                    [*first, message("assistant", mine), message("user", "Peer says: ", peer, "\nAgain, please.")],
                    agent=mine.agent,
                    round=2,
                    role="solver",
                )
                for mine, peer in (one, one[::-1])
            )
        )
        judge = message("user", "Which is right?\n", two[0], "\n---\n", two[1])
        await chat([judge], agent="judge", round=3, role="judge", temperature=0.0)
        last = await chat([judge], agent="judge", round=3, role="judge", temperature=1.0)
        return Outcome(solutions=[Solution(id=1, agent="judge", round=3, turn=last.id, answer=last.text[-3:])])


def samples(count: int) -> list[Sample]:
    return [
        Sample(
            id=f"T/test/{k}",
            source="T",
            query=f"What is {{{k}}}?",
            gt=str(k),
            answer_type="number",
            instruction="Box it.",
            document="many words " * 50 if k % 2 else None,
        )
        for k in range(count)
    ]


async def run(path: Path, engine: ScriptedEngine, todo: list[Sample], method: object = None, **options: bool) -> Store:
    store = Store(path, {"seed": 0}, **options)
    store.start({})
    order = None
    try:
        runner = Runner(
            method=method or Pair(),  # type: ignore[arg-type]
            info=INFO,
            model="scripted",
            engines={"main": engine},
            defaults=Defaults(0.5, 64, 0),
            store=store,
            progress=Progress(len(todo), quiet=True),
        )
        await runner.run([sample for sample in todo if sample.id not in store.done])
        order = {sample.id: place for place, sample in enumerate(todo)}
    finally:
        store.close(order)
    return store


def timeless(path: Path) -> list[bytes]:
    """The file's rows with the timings set to zero."""
    lines = path.read_bytes().splitlines()
    return [re.sub(rb'"(started|seconds)":[0-9.e-]+', rb'"\1":0', line) for line in lines]


def test_records_are_the_same_at_any_concurrency(tmp_path: Path) -> None:
    files = []
    for capacity in (1, 7, 64):
        path = tmp_path / f"{capacity}.jsonl"
        asyncio.run(run(path, ScriptedEngine(capacity=capacity, latency=0.003), samples(24)))
        files.append(timeless(path))
    assert files[0] == files[1] == files[2]
    assert len(set(files[0])) == 24


def test_another_seed_gives_other_replies(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    asyncio.run(run(tmp_path / "a.jsonl", engine, samples(1)))
    seeds = [params.seed for _, _, params in engine.seen]
    assert len(set(seeds)) == len(seeds) == 6


def test_messages_are_rebuilt_byte_for_byte(tmp_path: Path) -> None:
    engine = ScriptedEngine(latency=0.002)
    asyncio.run(run(tmp_path / "a.jsonl", engine, samples(6)))
    for record in read_records(tmp_path / "a.jsonl"):
        sent = [messages for session, messages, _ in engine.seen if session == record.id]
        rebuilt = [tuple(expand(record, turn)) for turn in record.trajectory]
        assert sorted(map(msgspec.json.encode, sent)) == sorted(map(msgspec.json.encode, rebuilt))
        assert [turn.id for turn in record.trajectory] == [
            "agent_2/1/solver",
            "agent_10/1/solver",
            "agent_2/2/solver",
            "agent_10/2/solver",
            "judge/3/judge",
            "judge/3/judge#1",
        ]
        assert record.trajectory[2].continues == "agent_2/1/solver"
        assert record.trajectory[2].messages[0].parts[1] == Part("", ref="agent_10/1/solver")
    raw = (tmp_path / "a.jsonl").read_text()
    assert raw.count("many words many words many words") > 0
    assert all(line.count("many words " * 50) <= 1 for line in raw.splitlines())


def test_calls_in_flight_never_exceed_the_cap_and_early_samples_go_first(tmp_path: Path) -> None:
    engine = ScriptedEngine(capacity=5, latency=0.002)
    asyncio.run(run(tmp_path / "a.jsonl", engine, samples(40)))
    assert engine.peak == 5
    first = {session: place for place, (session, _, _) in reversed(list(enumerate(engine.seen)))}
    assert [first[f"T/test/{k}"] for k in range(40)] == sorted(first.values())


def test_gate_serves_by_priority_then_arrival_and_survives_cancellation() -> None:
    async def scenario() -> list[str]:
        gate, served = Gate(1), []

        async def hold(name: str, priority: int) -> None:
            await gate.acquire(priority)
            served.append(name)
            await asyncio.sleep(0.001)
            gate.release()

        tasks = [asyncio.create_task(hold(*one)) for one in (("a", 9), ("late", 5), ("b", 1), ("c", 1), ("gone", 0))]
        await asyncio.sleep(0)
        tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.in_flight == 0
        return served

    assert asyncio.run(scenario()) == ["a", "b", "c", "late"]


def test_place_handed_over_to_a_cancelled_waiter_is_not_lost() -> None:
    async def scenario() -> int:
        gate = Gate(1)
        await gate.acquire(0)
        waiter = asyncio.create_task(gate.acquire(0))
        await asyncio.sleep(0)
        gate.release()
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        return gate.in_flight

    assert asyncio.run(scenario()) == 0


class Failing:
    def __init__(self, errors: dict[str, Exception]) -> None:
        self.errors = errors

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        if sample.id in self.errors:
            raise self.errors[sample.id]
        return await Pair().run(sample, chat)


def test_sample_errors_become_rows_and_are_retried_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    broken = Failing({"T/test/1": SampleError("too long"), "T/test/3": KeyError("oops")})
    asyncio.run(run(path, ScriptedEngine(), samples(5), broken))
    errors = {record.id: record.error for record in read_records(path)}
    assert errors["T/test/1"] == "too long"
    assert errors["T/test/3"] is not None
    assert errors["T/test/3"].startswith("KeyError: 'oops' (test_runner.py:")
    assert [record.final_answer for record in read_records(path) if record.error] == [None, None]

    engine = ScriptedEngine()
    asyncio.run(run(path, engine, samples(5)))
    assert {session for session, _, _ in engine.seen} == {"T/test/1", "T/test/3"}
    assert [(record.id, record.error) for record in read_records(path)] == [(f"T/test/{k}", None) for k in range(5)]
    asyncio.run(run(tmp_path / "b.jsonl", ScriptedEngine(), samples(5)))
    assert timeless(path) == timeless(tmp_path / "b.jsonl")


def test_run_error_stops_at_once_and_keeps_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    engine = ScriptedEngine(capacity=2)
    with pytest.raises(RunError, match="gone"):
        asyncio.run(run(path, engine, samples(50), Failing({"T/test/20": RunError("gone")})))
    kept = [record.id for record in read_records(path)]
    assert 15 <= len(kept) <= 21
    assert len(engine.seen) < 6 * 25
    asyncio.run(run(path, ScriptedEngine(), samples(50)))
    asyncio.run(run(tmp_path / "b.jsonl", ScriptedEngine(), samples(50)))
    assert timeless(path) == timeless(tmp_path / "b.jsonl")


def test_engine_faults_in_a_row_stop_the_run(tmp_path: Path) -> None:
    every = Failing({sample.id: EngineFault("no reply") for sample in samples(50)})
    with pytest.raises(RunError, match=f"{MAX_FAULTS_IN_A_ROW} samples failed in a row.*no reply"):
        asyncio.run(run(tmp_path / "a.jsonl", ScriptedEngine(), samples(50), every))
    some = Failing({f"T/test/{k}": EngineFault("no reply") for k in range(50) if k % 9})
    asyncio.run(run(tmp_path / "b.jsonl", ScriptedEngine(capacity=1), samples(50), some))


def test_no_finished_call_is_paid_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    class Dying(ScriptedEngine):
        async def chat(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            if len(self.seen) >= 45:
                raise RunError("died")
            return await super().chat(*args, **kwargs)

    first = Dying(capacity=4, latency=0.001)
    with pytest.raises(RunError, match="died"):
        asyncio.run(run(path, first, samples(20)))
    journalled = (tmp_path / "a.jsonl.journal.jsonl").read_bytes().count(b"\n")
    second = ScriptedEngine(capacity=4)
    asyncio.run(run(path, second, samples(20)))
    assert journalled + len(second.seen) == 6 * 20
    assert not (tmp_path / "a.jsonl.journal.jsonl").exists()
    asyncio.run(run(tmp_path / "b.jsonl", ScriptedEngine(), samples(20)))
    assert timeless(path) == timeless(tmp_path / "b.jsonl")


def test_a_journal_of_other_messages_is_refused_by_address(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    broken = Failing({"T/test/0": SampleError("later")})
    asyncio.run(run(path, ScriptedEngine(), samples(1), broken))

    class Half(Pair):
        async def run(self, sample: Sample, chat: Chat) -> Outcome:
            await super().run(sample, chat)
            raise SampleError("half-way")

    asyncio.run(run(path, ScriptedEngine(), samples(1), Half()))
    changed = [msgspec.structs.replace(samples(1)[0], query="Something else?")]
    with pytest.raises(RunError, match="call agent_2/1/solver of sample T/test/0 was made with other messages"):
        asyncio.run(run(path, ScriptedEngine(), changed))


def test_one_failing_call_ends_its_siblings(tmp_path: Path) -> None:
    finished = []

    async def slow() -> None:
        await asyncio.sleep(0.2)
        finished.append(1)

    async def bad() -> None:
        raise SampleError("bad")

    async def scenario() -> None:
        with pytest.raises(ExceptionGroup):
            await gather(slow(), bad())
        await asyncio.sleep(0.3)

    asyncio.run(scenario())
    assert finished == []


# ---------------------------------------------------------------- decided once per run


class Deciding:
    """Asks every sample's trial episode for a letter, decides on all of them, and says it in each prompt."""

    def __init__(self, prepared: str | None = None) -> None:
        self.prepared = prepared

    async def prepare(self, samples: Sequence[Sample], episodes: Episodes) -> "Deciding":
        async def trial(sample: Sample) -> str:
            chat = episodes(sample)
            turn = await chat([message("user", sample.query)], agent="scout", round=1, role="scout")
            return turn.text[-3:]

        return Deciding(" ".join(await gather(*(trial(sample) for sample in samples))))

    def restored(self, prepared: str) -> "Deciding":
        return Deciding(prepared)

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        assert self.prepared
        asked = [message("user", sample.query, self.prepared)]
        turn = await chat(asked, agent="a", round=1, role="solver")
        return Outcome(solutions=[Solution(id=1, agent="a", round=1, turn=turn.id)], info={"length": len(turn.text)})

    def totals(self, infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"lengths": [info["length"] for info in infos], "runs": len(infos)}


def run_to_end(path: Path, engine: ScriptedEngine, todo: list[Sample], method: Any = None, **options: Any) -> None:
    run_job(
        Job(
            path=path,
            identity={"seed": 0},
            samples=todo,
            order=[sample.id for sample in samples(50)],
            method=method or Deciding(),
            info=INFO,
            model="scripted",
            make_engine=lambda lock: engine,
            defaults=Defaults(0.5, 64, 0),
            **options,
        )
    )


def test_a_decision_is_made_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    engine = ScriptedEngine()
    run_to_end(path, engine, samples(3))
    assert [session for session, _, _ in engine.seen[:3]] == [f"prepare/{k}/T/test/{k}" for k in range(3)]
    assert len(engine.seen) == 6
    manifest = json.loads((tmp_path / "a.jsonl.manifest.json").read_text())
    decision = manifest["prepared"]["decision"]
    assert manifest["prepared"]["samples"] == [f"prepare/{k}/T/test/{k}" for k in range(3)]
    assert manifest["prepared"]["token_stats"]["scripted"]["num_llm_calls"] == 3
    records = list(read_records(path))
    assert {record.info["prepared"] for record in records} == {decision}
    assert manifest["totals"] == {"lengths": [record.info["length"] for record in records], "runs": 3}
    assert all(record.token_stats["scripted"].num_llm_calls == 1 for record in records)
    again = ScriptedEngine()
    run_to_end(path, again, samples(5))
    assert sorted(session for session, _, _ in again.seen) == ["T/test/3", "T/test/4"]
    assert {record.info["prepared"] for record in read_records(path)} == {decision}
    assert json.loads((tmp_path / "a.jsonl.manifest.json").read_text())["totals"]["runs"] == 5
    for record in read_records(path):
        assert asyncio.run(replay(record, Deciding())) == record
    run_to_end(path, fresh := ScriptedEngine(), samples(2), overwrite=True)
    assert len(fresh.seen) == 4


def test_a_trial_that_was_cut_short_goes_on_from_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    class Dying(ScriptedEngine):
        async def chat(self, *args: Any, **kwargs: Any) -> Any:
            if len(self.seen) == 2:
                raise RunError("died")
            return await super().chat(*args, **kwargs)

    with pytest.raises(RunError, match="died"):
        run_to_end(path, Dying(capacity=1), samples(3))
    second = ScriptedEngine()
    run_to_end(path, second, samples(3))
    assert len([session for session, _, _ in second.seen if session.startswith("prepare/")]) == 1
    run_to_end(tmp_path / "b.jsonl", ScriptedEngine(), samples(3))
    assert timeless(path) == timeless(tmp_path / "b.jsonl")
    assert not (tmp_path / "a.jsonl.journal.jsonl").exists()


def test_a_failing_trial_stops_the_run(tmp_path: Path) -> None:
    class Refusing(ScriptedEngine):
        async def chat(self, *args: Any, **kwargs: Any) -> Any:
            raise SampleError("too long")

    with pytest.raises(RunError, match="trial before the first sample failed: too long"):
        run_to_end(tmp_path / "a.jsonl", Refusing(), samples(2))


# ---------------------------------------------------------------- several models


class Two:
    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        first = await chat([message("user", sample.query)], agent="a", round=1, role="solver")
        assert chat.models == {"main", "judge"}
        last = await chat([message("user", first)], agent="b", round=2, role="judge", model="judge")
        return Outcome(solutions=[Solution(id=1, agent="b", round=2, turn=last.id)])


def test_named_models_are_opened_called_and_recorded(tmp_path: Path) -> None:
    main, judge, opened = ScriptedEngine(), ScriptedEngine(script=lambda messages, params: "fine"), []
    for name, engine in (("main", main), ("judge", judge)):
        engine.__class__ = type("Noted", (ScriptedEngine,), {"__aenter__": _noting(opened, name)})
    run_to_end(tmp_path / "a.jsonl", main, samples(3), Two(), others=lambda engine, lock: {"judge": judge})
    assert (len(main.seen), len(judge.seen), opened) == (3, 3, ["main", "judge"])
    for record in read_records(tmp_path / "a.jsonl"):
        assert record.models == ("judge", "main")
        assert asyncio.run(replay(record, Two())) == record


def _noting(opened: list[str], name: str) -> Any:
    async def enter(self: ScriptedEngine) -> ScriptedEngine:
        opened.append(name)
        return self

    return enter


def test_names_may_share_one_engine_and_its_gate(tmp_path: Path) -> None:
    engine = ScriptedEngine(capacity=2, latency=0.002)
    run_to_end(tmp_path / "a.jsonl", engine, samples(8), Two(), others=lambda engine, lock: {"judge": engine})
    assert (engine.peak, len(engine.seen)) == (2, 16)


def test_a_model_the_run_does_not_have_is_named(tmp_path: Path) -> None:
    class Asking:
        async def run(self, sample: Sample, chat: Chat) -> Outcome:
            await chat([message("user", "x")], agent="a", round=1, role="r", model="other")
            raise AssertionError

    asyncio.run(run(tmp_path / "a.jsonl", ScriptedEngine(), samples(1), Asking()))
    (record,) = read_records(tmp_path / "a.jsonl")
    assert record.error == "the call a/1/r asks for the model 'other'; this run has ['main']"
