"""A distillation study from one file: teachers on the training questions, students, and one table.

    python -m distill.experiment --config configs/experiments/arith.yaml --use_vllm

Every step is a command of this repository, printed before it runs and logged under <folder>/logs; --dry_run only
prints them. Finished steps are listed in <folder>/steps.json: a study that was stopped goes on with the same command.
The table (<folder>/table.md, table.json) has each system's accuracy with its standard error and the paired p against
base on the same questions.
"""

# ruff: noqa: T201 -- an entry script: it prints what it does

import json
import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from pydantic import Field

from agentark import cli, config, contamination, stats
from agentark.config import Config
from agentark.lock import RunLock
from agentark.records import now, write_atomically
from agentark.types import UserError
from distill import study_child, study_table
from distill.study_child import Step, slug

BASE = "base"
PROGRAMS = {"inference": ["inference.py"], "label": ["label.py"]}
"""Entry scripts that are files; the others are modules."""


class Questions(Config):
    """A part of the dataset."""

    split: str
    samples: int = Field(ge=1)
    """At most so many questions."""
    task_config: list[str]
    """Options of the dataset, key=value."""


class TrainQuestions(Questions):
    temperature: float = Field(ge=0)
    """Teachers' sampling temperature, on the training questions and on the sets."""


class Teacher(Config):
    method: str
    """As inference.py knows it."""
    method_config: list[str]
    """Overrides of its configuration, key=value."""


class Student(Config):
    select: list[str]
    """Flags of distill.select."""
    sft: list[str] = Field([])
    """Further flags of distill.sft."""


class Study(Config):
    """See configs/experiments/arith.yaml."""

    folder: str
    """Everything is written there."""
    model: str
    """Teacher and student: hub id, local folder, or smollm2-135m-instruct."""
    dataset: str
    """Of the training questions and of all sets."""
    data_dir: str | None = None
    """Folder with the dataset's files, for datasets that are not generated."""
    seed: int = Field(ge=0)
    """Of every run and training."""
    max_tokens: int = Field(ge=1)
    """New tokens per reply."""
    train: TrainQuestions
    """What the teachers work on."""
    sets: dict[str, Questions] = Field(min_length=1)
    """What every system is measured on."""
    table: dict[str, list[str]] = Field(min_length=1)
    """Column -> sets that it pools."""
    teachers: dict[str, Teacher] = Field(min_length=1)
    """Row of the table -> multi-agent method."""
    students: dict[str, Student] = Field(min_length=1)
    """Row of the table -> how it is trained."""
    sft: list[str]
    """Flags of distill.sft, the same for all students."""
    eval_module: str = "eval.math_eval"
    """What grades the replies."""


class Cell(Struct, frozen=True, kw_only=True):
    """One system on one set of questions."""

    n: int
    accuracy: float
    se: float | None
    p: float | None
    """Two-sided, paired against base; None for base itself."""
    difference: float | None
    """From base."""
    tokens: float
    """Completion tokens per question, all agents together."""
    seconds: float
    """Wall time of the runs that made and graded the answers, starting the engine included."""


class Plan:
    """The steps of a study, in order, and where their results lie."""

    def __init__(self, study: Study, engine: Sequence[str]) -> None:
        self.study = study
        self.engine = list(engine)
        self.folder = Path(study.folder)
        names = {name for of in study.table.values() for name in of}
        if unknown := sorted(names - study.sets.keys()):
            raise UserError(f"table: no set {unknown[0]!r} ({config.nearest(unknown[0], study.sets)})")

    def steps(self) -> list[Step]:
        """All commands: base first (its answers are what training stays clear of), then teachers, then students."""
        study = self.study
        found = [step for name in study.sets for step in self._evaluate(BASE, study.model, name)]
        labels = []
        for row, teacher in study.teachers.items():
            output = self.folder / "train" / f"{slug(row)}_infer.jsonl"
            labels.append(output.with_name(f"{output.stem}_labeled_by_rules.jsonl"))
            found.append(Step(f"{row}: train", self._inference(teacher, study.train, output)))
            label = ["--input", str(output), "--dataset_name", study.dataset, "--rules_only", "--rounds", "all"]
            found.append(Step(f"{row}: label", [*PROGRAMS["label"], *label]))
        for row, student in study.students.items():
            data, model = self.folder / "sets" / f"{slug(row)}.jsonl", self.folder / "students" / slug(row)
            clear = [str(self.graded(BASE, name).with_name("vanilla_infer.jsonl")) for name in study.sets]
            select = ["--input", *map(str, labels), "--output", str(data), *student.select, "--contamination", *clear]
            found.append(Step(f"{row}: select", ["-m", "distill.select", *select, "--overwrite"]))
            train = ["--model_name_or_path", study.model, "--train_data_path", str(data), "--output_dir", str(model)]
            train += ["--seed", str(study.seed), *study.sft, *student.sft]
            found.append(Step(f"{row}: sft", ["-m", "distill.sft", *train]))
            found += [step for name in study.sets for step in self._evaluate(row, str(model), name)]
        for row, teacher in study.teachers.items():
            for name, questions in study.sets.items():
                output = self._results(row, name)
                found.append(Step(f"{row}: {name}", self._inference(teacher, questions, output)))
                grade = ["--input_file", str(output), "--dataset_name", study.dataset]
                found.append(Step(f"{row}: grade {name}", ["-m", study.eval_module, *grade]))
        return found

    def _inference(self, teacher: Teacher, questions: Questions, output: Path) -> list[str]:
        study = self.study
        flags = ["--method_name", teacher.method, "--test_dataset_name", study.dataset, "--model_name", study.model]
        flags += ["--method_config", *teacher.method_config] if teacher.method_config else []
        flags += ["--model_temperature", str(study.train.temperature), "--model_max_tokens", str(study.max_tokens)]
        return [*PROGRAMS["inference"], *flags, "--output_path", str(output), *self._questions(questions), *self.engine]

    def _questions(self, questions: Questions) -> list[str]:
        flags = ["--split", questions.split, "--max_samples", str(questions.samples), "--seed", str(self.study.seed)]
        flags += ["--task_config", *questions.task_config] if questions.task_config else []
        return flags + (["--data_dir", self.study.data_dir] if self.study.data_dir else [])

    def _evaluate(self, row: str, model: str, name: str) -> list[Step]:
        flags = ["--model_name_or_path", model, "--dataset_name", self.study.dataset, "--temperature", "0"]
        flags += ["--max_tokens", str(self.study.max_tokens), "--output_dir", str(self.folder / "eval" / name)]
        questions = self._questions(self.study.sets[name])
        return [Step(f"{row}: {name}", ["-m", self.study.eval_module, *flags, *questions, *self.engine])]

    def _results(self, row: str, name: str) -> Path:
        return self.folder / "eval" / name / f"{slug(row)}_infer.jsonl"

    def graded(self, row: str, name: str) -> Path:
        """per_sample.jsonl of a system on a set."""
        short = self.study.eval_module.removeprefix("eval.")
        if row in self.study.teachers:
            return self._results(row, name).with_name(f"{slug(row)}_infer.{short}.per_sample.jsonl")
        model = self.study.model
        label = (Path(model).resolve().name if Path(model).is_dir() else model) if row == BASE else slug(row)
        return self.folder / "eval" / name / self.study.dataset / label / short / "per_sample.jsonl"

    @property
    def rows(self) -> list[str]:
        """The systems, in the order of the table."""
        return [BASE, *self.study.teachers, *self.study.students]


def run(plan: Plan) -> dict[str, float]:
    """Run what is not done. Returns the seconds of every step.

    Raises:
        RunError: a step failed; its log is named.
    """
    record = plan.folder / "steps.json"
    with RunLock(record) as lock:
        done: dict[str, Any] = contamination.json_of(record) if record.is_file() else {}
        steps = plan.steps()
        for number, step in enumerate(steps, 1):
            before = done.get(step.name, {})
            if before.get("command") == step.command:
                continue
            if before:
                raise UserError(f"{record}: {step.name} was run with other settings; use another folder")
            print(f"[{number}/{len(steps)}] {step.name}\n    {shlex.join(['python', *step.command])}", flush=True)
            seconds = study_child.run(step, plan.folder / "logs" / f"{number:02d}_{slug(step.name)}.log", lock)
            done[step.name] = {"command": step.command, "seconds": round(seconds, 1), "at": now()}
            write_atomically(record, json.dumps(done, indent=2).encode() + b"\n")
    return {name: one["seconds"] for name, one in done.items()}


# ---------------------------------------------------------------- the table


def cells(plan: Plan, seconds: Mapping[str, float]) -> dict[str, dict[str, Cell]]:
    """Row -> column -> cell. Pooled sets are compared question by question, all together."""
    columns = plan.study.table
    return {row: {name: _cell(plan, row, sets, seconds) for name, sets in columns.items()} for row in plan.rows}


def _cell(plan: Plan, row: str, sets: Sequence[str], seconds: Mapping[str, float]) -> Cell:
    own, base = (_values(plan, one, sets) for one in (row, BASE))
    if own.keys() != base.keys():
        raise UserError(f"{row} and {BASE} were not asked the same questions of {', '.join(sets)}")
    keys = sorted(own)
    paired = stats.paired([base[key] for key in keys], [own[key] for key in keys], seed=plan.study.seed)
    mean, se = stats.mean_and_se([own[key] for key in keys])
    names = [f"{row}: {name}" for name in sets] + [f"{row}: grade {name}" for name in sets]
    return Cell(
        n=len(keys),
        accuracy=mean,
        se=se,
        p=None if row == BASE else paired.p,
        difference=None if row == BASE else paired.difference,
        tokens=sum(study_table.tokens(plan.graded(row, name)) for name in sets) / len(keys),
        seconds=sum(seconds.get(name, 0.0) for name in names),
    )


def _values(plan: Plan, row: str, sets: Sequence[str]) -> dict[tuple[str, str], float]:
    found = {name: study_table.values(plan.graded(row, name), "accuracy") for name in sets}
    return {(name, key): value for name, values in found.items() for key, value in values.items()}


def table(found: Mapping[str, Mapping[str, Cell]], seconds: Mapping[str, float], study: Study) -> str:
    """As markdown."""
    columns = list(study.table)
    lines = ["| system | " + " | ".join(columns) + " | tokens a question | seconds | training seconds |"]
    lines.append("|---|" + "--:|" * (len(columns) + 3))
    for row, own in found.items():
        first = own[columns[0]]
        shown = [_shown(own[column]) for column in columns]
        trained = f"{seconds[f'{row}: sft']:.0f}" if f"{row}: sft" in seconds else "-"
        lines.append(f"| {row} | " + " | ".join(shown) + f" | {first.tokens:.0f} | {first.seconds:.0f} | {trained} |")
    sizes = ", ".join(f"{column} {found[BASE][column].n}" for column in columns)
    note = (
        f"Accuracy in % ± standard error; p: two-sided McNemar against {BASE} on the same questions ({sizes}). Tokens "
        "and seconds (wall, engine start included) are those of the first column. "
        f"All steps: {sum(seconds.values()):.0f} s."
    )
    return "\n".join([*lines, "", note])


def _shown(cell: Cell) -> str:
    against = "" if cell.p is None else f" (p {cell.p:.2g})"
    return study_table.percent(cell.accuracy, cell.se) + against


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m distill.experiment", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="the study, e.g. configs/experiments/arith.yaml")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of that file")
    parser.add_argument("--use_vllm", action="store_true", help="run all models in vLLM")
    parser.add_argument("--max_concurrency", type=cli.integer(1), help="calls in flight (default: the engine's own)")
    parser.add_argument("--dry_run", action="store_true", help="print the commands and stop")
    args: Namespace = parser.parse_args(argv)
    study = config.load(Study, args.config, args.set, "--set")
    engine = ["--use_vllm"] * args.use_vllm
    engine += ["--max_concurrency", str(args.max_concurrency)] if args.max_concurrency else []
    plan = Plan(study, engine)
    if args.dry_run:
        print("\n".join(shlex.join(["python", *step.command]) for step in plan.steps()))
        return 0
    seconds = run(plan)
    found = cells(plan, seconds)
    text = table(found, seconds, study)
    report = {"study": study.model_dump(), "cells": found, "seconds": seconds, "versions": cli.provenance()}
    write_atomically(plan.folder / "table.json", msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    write_atomically(plan.folder / "table.md", text.encode() + b"\n")
    print(text)
    print(f"written to {plan.folder / 'table.md'}")
    return 0


if __name__ == "__main__":
    cli.entry(main)
