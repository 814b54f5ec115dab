"""The recipe of a study: one strict YAML file for the whole chain (configs/studies/).

`extends: other.yaml` starts from another recipe and changes it; null removes a key. So does `--set`, with dotted keys:
`--set label.flags.rounds=last`.

Flags of the scripts are mappings: true is the bare flag, false and null leave it out, a list is a flag with several
values. Each script defines its own flags; a test parses every command of every recipe.
"""

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from agentark import config
from agentark.config import Config, nearest, read_yaml
from agentark.types import UserError

Value = bool | int | float | str
Flags = dict[str, Value | list[Value] | None]


class Questions(Config):
    """A part of a dataset."""

    dataset: str
    """Registered name, e.g. GSM8K."""
    split: str | None = None
    """Split; default: the dataset's evaluation split."""
    max_samples: int | None = Field(None, ge=1)
    """Only this many questions from the start; a larger number later keeps finished work."""
    data_dir: str | None = None
    """Folder with the dataset's files, instead of the hub."""
    task_config: list[str] = Field([])
    """Options of the dataset, key=value."""


class Test(Questions):
    """The questions on which every system is measured."""

    clear: bool = True
    """Whether selection leaves out training questions that equal or overlap with a question of this set."""
    flags: Flags = Field({})
    """Further flags of the evaluation on this set."""


class Stage(Config):
    """The way a script is run."""

    launcher: list[str] = Field([])
    """Python's arguments before the script, e.g. [-m, torch.distributed.run, --nproc_per_node, "8"]."""
    flags: Flags = Field({})
    """Of the script."""


class Teacher(Config):
    """A multi-agent method with a model."""

    method: str
    """Its name in inference.py."""
    model: str | None = None
    """Default: the study's."""
    train: bool = True
    """Whether its trajectories on the training questions are labelled and used for training."""
    measured: bool = True
    """Whether it is a row of the table."""
    flags: Flags = Field({})
    """Further flags of inference.py."""


class Student(Config):
    """A model fine-tuned on chosen trajectories."""

    teachers: list[str] | None = None
    """The teachers of these trajectories; default: all teachers with train: true."""
    select: Flags | None = None
    """Flags of distill.select."""
    opd: Flags | None = None
    """Flags of distill.opd, instead of a set: the student is taught on its own samples, e.g. {context: transcript}."""
    match: list[str] = Field([])
    """Students above it with whose sets its own is matched: as many solutions of the same questions, and tokens."""
    trained: bool = True
    """False: only its set is made, for others to be matched with."""
    sft: Flags = Field({})
    """Flags of distill.sft that override those of all students."""


class RewardModel(Stage):
    """A process reward model; flags of prm/finetune2.py."""

    model: str | None = None
    """Model to start from; default: the study's model."""
    teacher: str | None = None
    """The teacher whose labelled solutions it learns from; default: the first with train: true."""
    score: bool = False
    """Whether it also scores these solutions step by step, for the report (prm.score)."""
    check: Flags | None = None
    """Flags of prm.evaluate; null: do not run it."""


class Policy(Config):
    """A model trained with GRPO."""

    start: str = "base"
    """The student it starts from; base: the study's model."""
    prm: str | None = None
    """Its reward model; null goes with reward_mode: VR."""
    teacher: str | None = None
    """The teacher whose questions it trains on; default: its reward model's, else the first with train: true."""
    flags: Flags = Field({})
    """Flags of openrlhf.cli.train_grpo that override those of all policies."""


class Worth(Config):
    """Which systems eval.team compares before anything is trained; names of teachers."""

    team: str
    """The team that is distilled; the vote, if that is what is distilled."""
    vote: str | None = None
    """Self-consistency with about as many tokens as the team."""
    members: list[str] = Field([])
    """The team's other members, each alone; the study's model is there anyway."""
    others: list[str] = Field([])
    """Further teams, judged beside it."""
    questions: Literal["test", "train"] = "test"
    """The first test; or the training questions, where a team's first round stands for its members alone."""
    flags: Flags = Field({})
    """Flags of eval.team, e.g. {set: [min_gain=0.02]}."""


class Study(Config):
    """A study. The rows of its table are its systems: base, teachers, students, policies."""

    folder: str
    """Folder for everything the study writes. Paths are relative to the repository's root."""
    model: str
    """Model of base, students and policies: hub id, local folder, or smollm2-135m-instruct."""
    make_model: Flags | None = None
    """Flags of study.tiny_model, which first makes a small, hardly trained model."""
    lab: Flags | None = None
    """Flags of study.lab, which first makes the models of a laboratory world (output: <folder>/models)."""
    seed: int = Field(0, ge=0)
    """Seed of every run and training."""
    engine: Flags = Field({})
    """Flags that choose and tune the engine, for all scripts that call a model."""
    train: Questions
    """The questions for the teachers."""
    tests: dict[str, Test] = Field(min_length=1)
    """The question sets of the table."""
    pools: dict[str, list[str]] = Field({})
    """Pools of sets whose questions are compared together; each has a table."""
    inference: Stage = Stage()
    """Flags of inference.py for all teachers."""
    teachers: dict[str, Teacher] = Field(min_length=1)
    worth: Worth | None = None
    """What eval.team is asked; also makes an ark card (eval.ark) of the table's systems."""
    gate: bool = False
    """Whether training starts only if its verdict is that there is something to distil."""
    label: Stage = Stage()
    """Flags of label.py: the judge."""
    select: Flags = Field({})
    """Flags of distill.select for all students."""
    students: dict[str, Student] = Field({})
    sft: Stage = Stage()
    """Flags of distill.sft for all students."""
    opd: Stage = Stage()
    """Flags of distill.opd for all students that are taught on their own samples."""
    prms: dict[str, RewardModel] = Field({})
    policies: dict[str, Policy] = Field({})
    grpo: Stage = Stage()
    """Flags of openrlhf.cli.train_grpo for all policies."""
    contrasts: dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]] = Field({})
    """Differences of two systems, first minus second, e.g. {interaction: [debate, independent]}."""
    evaluate: Stage = Stage()
    """Flags of the evaluation of base, students and policies."""
    report: Stage = Stage()
    """Flags of eval.report."""


def load(path: Path, overrides: Sequence[str] = ()) -> Study:
    """A recipe with its overrides.

    Raises:
        UserError: an unknown key (the message names the nearest), a bad value, or recipes that extend each other.
    """
    values = _read(path, ())
    _check_keys(Study, values, str(path))
    if overrides:
        for key, value in config.parse_overrides(overrides, "--set").items():
            *parents, last = key.split(".")
            change = {last: value}
            for parent in reversed(parents):
                change = {parent: change}
            values = merge(values, change)
        _check_keys(Study, values, "--set")
    return config.build(Study, values, "--set" if overrides else str(path))


def _read(path: Path, above: Sequence[Path]) -> dict[str, Any]:
    values = read_yaml(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: extends = {base!r}: expected the name of a recipe")
    other = path.parent / base
    if path.resolve() in above:
        raise UserError(f"{path}: extends itself, by way of {above[-1]}")
    return merge(_read(other, (*above, path.resolve())), values)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values over others, mappings key by key; null removes a key."""
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            inner = merged.get(key)
            merged[key] = merge(inner if isinstance(inner, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _check_keys(cls: type[Config], values: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Raises UserError for the first key that no config of this shape has, wherever it is nested."""
    for key, value in values.items():
        if key not in cls.model_fields:
            raise UserError(f"{where}: unknown key {f'{prefix}{key}'!r} ({nearest(str(key), cls.model_fields)})")
        for inner, of, name in _parts(cls.model_fields[key].annotation, value, f"{prefix}{key}"):
            _check_keys(inner, of, where, f"{name}.")


def _parts(annotation: Any, value: Any, name: str) -> Iterator[tuple[type[Config], Mapping[str, Any], str]]:
    """(config, its values, its dotted key) of each config nested in a field."""
    if not isinstance(value, Mapping):
        return
    if isinstance(annotation, types.UnionType):
        for kind in typing.get_args(annotation):
            yield from _parts(kind, value, name)
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation, value, name
    elif typing.get_origin(annotation) is dict:
        for key, inner in value.items():
            yield from _parts(typing.get_args(annotation)[1], inner, f"{name}.{key}")
