"""A run that is killed at any moment, its ending included, comes out as if nothing had happened."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import ScriptedEngine
from msgspec import Struct

from agentark import records
from agentark.episode import Defaults, Episode, gather
from agentark.job import Job, run_job
from agentark.runner import TOTALS
from agentark.types import Chat, MethodInfo, Outcome, RunError, Sample, SampleError, Solution, digest, message

FILE = "a.jsonl"


class Twice:
    """Two answers to a question."""

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        question = [message("user", *sample.parts())]
        turns = await gather(*(chat(question, agent=f"agent_{k}", round=1, role="solver") for k in (1, 2)))
        solutions = [Solution(id=k, agent=turn.agent, round=1, turn=turn.id) for k, turn in enumerate(turns, 1)]
        return Outcome(solutions=solutions, info={"words": sum(len(turn.text.split()) for turn in turns)})


class Summed(Twice):
    """And how many words they have, over the whole run."""

    def totals(self, infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"words": [info["words"] for info in infos]}


def samples(count: int) -> list[Sample]:
    return [Sample(id=f"T/{k}", source="T", query=f"{k}?", gt="1", answer_type="number") for k in range(count)]


def job_in(folder: Path, engine: Any = None, count: int = 6, **more: Any) -> Job:
    asked = samples(count)
    given: dict[str, Any] = {
        "samples": asked,
        "order": [sample.id for sample in asked[::-1]],
        "method": Summed(),
        "make_engine": lambda lock: engine or ScriptedEngine(latency=0.002),
        **more,
    }
    info = MethodInfo("summed", "main", {})
    return Job(
        path=folder / FILE, identity={"seed": 0}, info=info, model="scripted",
        defaults=Defaults(0.5, 64, 0), **given,
    )  # fmt: skip


def no_engine(lock: object) -> Any:
    raise AssertionError("an engine was started")


def content(folder: Path) -> dict[str, str]:
    """Every file, without the times of sessions."""
    return {
        path.name: re.sub(r'"(started|finished)": "[^"]*"', '"time"', path.read_text())
        if path.suffix == ".json"
        else path.read_text()
        for path in folder.iterdir()
    }


def test_killed_at_any_moment_after_the_last_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole"
    moments: list[Path] = []

    def watched(holder: Any, name: str) -> None:
        """Keep what lies on the disk before and after each call."""
        real = getattr(holder, name)

        def keep() -> None:
            if whole.is_dir():
                moments.append(shutil.copytree(whole, tmp_path / f"moment_{len(moments)}"))

        def call(*args: Any, **kwargs: Any) -> Any:
            keep()
            result = real(*args, **kwargs)
            keep()
            return result

        monkeypatch.setattr(holder, name, call)

    with monkeypatch.context() as patch:
        monkeypatch = patch
        watched(records.AppendLog, "append")
        watched(records.AppendLog, "close")
        watched(records.Path, "replace")
        watched(records.Path, "unlink")
        assert run_job(job_in(whole)) == 0
    expected = content(whole)
    assert sorted(expected) == [FILE, f"{FILE}.manifest.json"]
    ids = [json.loads(line)["id"] for line in (whole / FILE).read_text().splitlines()]
    assert ids == [f"T/{k}" for k in range(5, -1, -1)]
    late = [one for one in moments if (one / FILE).is_file() and (one / FILE).read_bytes().count(b"\n") == 6]
    assert len(late) > 8
    for folder in late:
        (folder / f"{FILE}.lock").unlink(missing_ok=True)
        assert run_job(job_in(folder, make_engine=no_engine)) == 0
        assert content(folder) == expected
    assert TOTALS in json.loads((whole / f"{FILE}.manifest.json").read_bytes())


def test_a_run_that_has_ended_is_left_alone(tmp_path: Path) -> None:
    assert run_job(job_in(tmp_path)) == 0
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    for count in (6, 2):
        assert run_job(job_in(tmp_path, count=count, make_engine=no_engine)) == 0
        assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


def test_calls_of_failed_samples_are_no_reason_to_end_it_again(tmp_path: Path) -> None:
    class Picky(ScriptedEngine):
        async def chat(self, messages: Any, params: Any, *, session: str, priority: int) -> Any:
            if session == "T/5" and len(self.seen) > 10:
                raise SampleError("too long")
            return await super().chat(messages, params, session=session, priority=priority)

    assert run_job(job_in(tmp_path, Picky(capacity=1))) == 1
    journal = tmp_path / f"{FILE}.journal.jsonl"
    before = journal.stat().st_mtime_ns, (tmp_path / FILE).stat().st_mtime_ns
    assert journal.read_text().count("\n") == 1
    assert run_job(job_in(tmp_path, count=3, make_engine=no_engine)) == 0
    assert (journal.stat().st_mtime_ns, (tmp_path / FILE).stat().st_mtime_ns) == before
    last = ScriptedEngine()
    assert run_job(job_in(tmp_path, last)) == 0
    assert len(last.seen) == 1
    assert not journal.exists()


def test_calls_of_samples_beyond_those_asked_for_are_kept(tmp_path: Path) -> None:
    class Dying(ScriptedEngine):
        async def chat(self, messages: Any, params: Any, *, session: str, priority: int) -> Any:
            if len(self.seen) == 9:
                raise RunError("no server")
            return await super().chat(messages, params, session=session, priority=priority)

    with pytest.raises(RunError, match="no server"):
        run_job(job_in(tmp_path, Dying(capacity=1)))
    assert run_job(job_in(tmp_path, count=4, make_engine=no_engine)) == 0
    rest = ScriptedEngine()
    assert run_job(job_in(tmp_path, rest)) == 0
    assert len(rest.seen) == 12 - 9


class Picked(Struct, kw_only=True):
    id: str
    input: str
    error: str | None = None


def test_rows_are_made_again_when_their_sample_changes(tmp_path: Path) -> None:
    def row(episode: Episode, *_: Any) -> Picked:
        return Picked(id=episode.sample.id, input=digest(episode.sample))

    assert run_job(job_in(tmp_path, method=Twice(), row=row)) == 0
    assert run_job(job_in(tmp_path, method=Twice(), row=row, make_engine=no_engine)) == 0
    engine = ScriptedEngine()
    changed = samples(6)
    changed[3] = msgspec.structs.replace(changed[3], query="What?")
    assert run_job(job_in(tmp_path, engine, method=Twice(), row=row, samples=changed)) == 0
    assert {session for session, _, _ in engine.seen} == {"T/3"}
