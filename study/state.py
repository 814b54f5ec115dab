"""The state of a study: the settings and inputs each step ran with, and whether they are still the same.

A step is `done` if its settings and the content of its inputs are the same as before, the steps that it builds on have
not run again, and its outputs exist. It is `stale` if one of these has changed. It is to be `continued` if it was
started with exactly these and did not finish; all scripts continue with the same command.

Before a stale step runs, its outputs are moved to <folder>/replaced: nothing is deleted, and no script finds files made
with other settings. If a script only adds to its output (more samples), the output stays.
"""

import hashlib
import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from agentark import students
from agentark.config import ROOT
from agentark.engines import choose as engine
from agentark.files import check_file, file_sha256, struct_of, write_atomically
from agentark.records import now
from distill.grpo import run as grpo
from distill.opd import train as opd
from prm import settings as prm
from study.layout import STATE
from study.plan import PlannedStep
from study.step import slug

REPLACED = "replaced"
RENAMED = {
    "distill.study_model": "study.tiny_model",
    "distill.study_table": "study.table",
}
"""Module names in older studies -> their names now."""
NAMED = 3
"""Most changes of a step that a message names."""
LENGTH = "max_steps"
"""A run may continue for more steps, but then it makes another model."""
BESIDE = {
    "distill.sft": students.BESIDE,
    "distill.opd": students.BESIDE | opd.BESIDE,
    "prm/finetune2.py": prm.BESIDE,
    "openrlhf.cli.train_grpo": grpo.BESIDE - {LENGTH},
}
"""Program -> its settings that do not affect the result, besides those of engines."""
GROWING = ("--max_samples",)
"""Flags for which a larger value (or no flag) asks for more of the same."""
WITHOUT_CONTENT = {
    *("manifest.json", "run.json", "done.json", "stopped.json", "trainer_state.json", "evaluation.json"),
    *("metrics.jsonl", "dev.jsonl", "training_args.bin"),
}  # fmt: skip
"""Files in a model's folder that record when and how the model was made."""


class Entry(Struct, kw_only=True):
    """The record of a step."""

    status: Literal["started", "done"] = "started"
    program: list[str]
    flags: dict[str, list[str]]
    inputs: dict[str, str | None]
    """Path -> content."""
    after: dict[str, tuple[int, int]]
    """Step that it builds on -> how often that step had finished, and how often it had started from nothing."""
    runs: int = 0
    """How often it has finished."""
    made: int = 0
    """How often it started from nothing."""
    attempts: int = 0
    """Attempts since then."""
    seconds: float = 0.0
    """Seconds since then; of an attempt that was stopped, those until the last word in its log."""
    started: str = ""
    finished: str | None = None


class _State(Struct, kw_only=True):
    schema: int = 1
    config: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    steps: dict[str, Entry] = {}
    contents: dict[str, tuple[int, int, str]] = {}
    """File -> size, time of change, sha256; only changed files are read again."""


class Change(NamedTuple):
    what: str
    more: bool
    """Whether the change only asks for more of the same."""


class Status(Struct, frozen=True, kw_only=True):
    """The status of a step."""

    kind: Literal["new", "done", "stale", "continue"]
    why: list[str] = []
    keep: bool = True
    """Whether its outputs stay where they are."""

    @property
    def text(self) -> str:
        """`stale: --rounds was all, now last`."""
        kind = {"new": "not run yet", "continue": "to be continued"}.get(self.kind, self.kind)
        more = f"; and {len(self.why) - NAMED} more" if len(self.why) > NAMED else ""
        return f"{kind}: {'; '.join(self.why[:NAMED])}{more}" if self.why else kind


class Memory:
    """`study.json`.

    Raises:
        UserError: the file is not the state of a study.
    """

    def __init__(self, folder: str) -> None:
        self.folder = ROOT / folder
        self.path = self.folder / STATE
        check_file(self.path)
        try:
            self._state = struct_of(self.path, _State, "the state of a study; move it away")
        except FileNotFoundError:
            self._state = _State()

    def save(self, **about: Mapping[str, Any]) -> None:
        for name, value in about.items():
            setattr(self._state, name, dict(value))
        write_atomically(self.path, msgspec.json.format(msgspec.json.encode(self._state), indent=1) + b"\n")

    @property
    def steps(self) -> Mapping[str, Entry]:
        return self._state.steps

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{slug(name)}.log"

    # ------------------------------------------------------------ the status of a step

    def status(self, step: PlannedStep, ahead: Mapping[str, Status] = MappingProxyType({})) -> Status:
        """The status of a step.

        Args:
            ahead: the steps that it builds on and that are not done.
        """
        entry = self.steps.get(step.name)
        if entry is None:
            return Status(kind="new")
        changes = [*self._settings(step, entry), *self._upstream(step, entry, ahead), *self._contents(step, entry)]
        if not changes:
            blocked = step.restarts and (ROOT / step.outputs[0]).exists()
            return Status(kind="done") if entry.status == "done" else Status(kind="continue", keep=not blocked)
        keep = step.rewrites or all(change.more for change in changes)
        return Status(kind="stale", why=[change.what for change in changes], keep=keep)

    def _settings(self, step: PlannedStep, entry: Entry) -> list[Change]:
        program = [RENAMED.get(word, word) for word in entry.program]
        if step.program != program:
            return [Change(f"was {shlex.join(program)}, now {shlex.join(step.program)}", False)]
        beside = engine.BESIDE | BESIDE.get(program[-1], set())
        changes = []
        for name in dict.fromkeys([*entry.flags, *step.flags]):
            before, after = entry.flags.get(name), step.flags.get(name)
            if before != after and name.removeprefix("--") not in beside:
                more = step.grows and name in GROWING and _number(before) < _number(after)
                changes.append(Change(f"{name} was {_shown(before)}, now {_shown(after)}", more))
        return changes

    def _upstream(self, step: PlannedStep, entry: Entry, ahead: Mapping[str, Status]) -> list[Change]:
        changes = []
        for name in step.after:
            runs, made = entry.after.get(name, (0, 0))
            now_runs, now_made = self._age(name)
            if name in ahead:
                more = ahead[name].keep and (runs, made) == (now_runs, now_made)
                changes.append(Change(f"{name} has to run first", more and step.absorbs))
            elif (runs, made) != (now_runs, now_made):
                changes.append(Change(f"{name} has run again", step.absorbs and made == now_made))
        return changes

    def _age(self, name: str) -> tuple[int, int]:
        entry = self.steps.get(name)
        return (entry.runs, entry.made) if entry is not None else (0, 0)

    def _contents(self, step: PlannedStep, entry: Entry) -> list[Change]:
        """Changed inputs that are not listed already, and missing outputs."""
        rerun = {name for name in step.after if entry.after.get(name) != self._age(name)}
        told = _words(step) ^ _words(entry)
        changes = []
        for path in dict.fromkeys([*entry.inputs, *step.inputs]):
            if (
                path not in told
                and step.sources.get(path) not in rerun
                and entry.inputs.get(path) != self.content(path)
            ):
                changes.append(Change(f"{path} has changed", False))
        if entry.status == "done":
            gone = [path for path in step.outputs if not (ROOT / path).exists()]
            changes += [Change(f"{path} is gone", False) for path in gone]
        return changes

    def content(self, path: str) -> str | None:
        """Hash of a file, or of the files that make up a folder's content; None: it does not exist."""
        target = ROOT / path
        if target.is_dir():
            files = sorted(file for file in target.iterdir() if file.is_file() and _counts(file))
            told = "".join(f"{file.name} {self._sha256(file)}\n" for file in files)
            return hashlib.sha256(told.encode()).hexdigest()
        return self._sha256(target) if target.is_file() else None

    def _sha256(self, file: Path) -> str:
        about = file.stat()
        known = self._state.contents.get(str(file))
        if known is not None and known[:2] == (about.st_size, about.st_mtime_ns):
            return known[2]
        content = file_sha256(file)
        self._state.contents[str(file)] = (about.st_size, about.st_mtime_ns, content)
        return content

    # ------------------------------------------------------------ changing it

    def to_move(self, step: PlannedStep, status: Status) -> list[tuple[Path, Path]]:
        """(outputs in the way of a step, where they are moved)."""
        if status.keep:
            return []
        number = 1 + max((int(old.name[:3]) for old in (self.folder / REPLACED).glob("[0-9][0-9][0-9]_*")), default=0)
        target = self.folder / REPLACED / f"{number:03d}_{slug(step.name)}"
        moving = []
        for output in map(ROOT.joinpath, step.outputs):
            if output.is_dir():
                moving.append(output)
            elif output.parent.is_dir():
                moving += sorted(file for file in output.parent.iterdir() if file.name.startswith(output.name))
        return [(path, target / path.name) for path in dict.fromkeys(moving)]

    def begin(self, step: PlannedStep, status: Status) -> list[tuple[Path, Path]]:
        """Move old outputs away and record that the step has started. Returns the moved files.

        The order matters: if the study is killed in between, it finds the step stale again, and nothing in its way.
        """
        moved = self.to_move(step, status)
        for origin, target in moved:
            target.parent.mkdir(parents=True, exist_ok=True)
            origin.rename(target)
        before = self.steps.get(step.name)
        afresh = before is None or not status.keep
        self._state.steps[step.name] = Entry(
            program=step.program,
            flags=step.flags,
            inputs={path: self.content(path) for path in step.inputs},
            after={name: self._age(name) for name in step.after},
            runs=before.runs if before else 0,
            made=(before.made if before else 0) + afresh,
            attempts=1 if afresh or before is None else before.attempts + 1,
            seconds=0.0 if afresh or before is None else before.seconds + _stopped(before, self.log(step.name)),
            started=now(),
        )
        self.save()
        return moved

    def finish(self, step: PlannedStep, seconds: float) -> None:
        """Record that a step is done."""
        entry = self._state.steps[step.name]
        entry.status, entry.finished = "done", now()
        entry.runs += 1
        entry.seconds = round(entry.seconds + seconds, 1)
        self.save()


def _stopped(entry: Entry, log: Path) -> float:
    """Seconds of the last attempt, if it did not come to its end."""
    if entry.status == "done" or not log.is_file():
        return 0.0
    return max(0.0, log.stat().st_mtime - datetime.fromisoformat(entry.started).timestamp())


def _counts(file: Path) -> bool:
    return file.name not in WITHOUT_CONTENT and not file.name.startswith(".") and file.suffix not in (".png", ".md")


def _words(of: PlannedStep | Entry) -> set[str]:
    return {text for texts in of.flags.values() for text in texts}


def _number(texts: list[str] | None) -> float:
    """The value of a growing flag; without the flag there is no limit."""
    return float(texts[0]) if texts else float("inf")


def _shown(texts: list[str] | None) -> str:
    return "not given" if texts is None else shlex.join(texts) or "on"
