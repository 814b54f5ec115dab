"""Students: the models that were trained in this study, and their sources."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from agentark.files import json_of

BASE_METHOD = "vanilla"
"""One call per question, as a single model answers."""


class Student(Struct, frozen=True):
    """How a model was trained, by its folder's manifest."""

    base: str | None
    strategy: str | None
    data: str | None
    """The dataset it was trained on."""


def read_students(manifests: Sequence[Path]) -> dict[Path, Student]:
    """Folder -> student, of all model folders in the study. Other manifests are skipped."""
    students = {}
    for path in manifests:
        content = json_of(path)
        if path.name != "manifest.json" or not isinstance(content.get("base_model"), str):
            continue
        chosen = content.get("selection")  # the manifest of the training set, which distill.sft keeps
        told = chosen if isinstance(chosen, dict) else {}
        strategy, data = (told[key] if isinstance(told.get(key), str) else None for key in ("strategy", "dataset"))
        if content.get("stage") == "grpo":
            strategy = "pad"
        if content.get("kind") == "opd":
            strategy = "opd"
        students[path.parent] = Student(content["base_model"], strategy, data)
    return students


def nearest(students: Mapping[Path, Student], to: Path) -> dict[str, Student]:
    """Folder name -> student; of several studies' students of one name, that nearest to a file."""
    return {folder.name: students[folder] for folder in sorted(students, key=lambda folder: nearness(folder, to))}


def nearness(path: Path, to: Path) -> int:
    """Number of folders that two paths share from the top."""
    return len(Path(os.path.commonpath([path.absolute(), to.absolute()])).parts)


def same_model(name: str, other: str) -> bool:
    """Whether two spellings name one model: hub id, folder, or the last part of either."""
    return Path(name).name.casefold() == Path(other).name.casefold()
