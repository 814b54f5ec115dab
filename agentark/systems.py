"""Systems that answered the same questions: files as `set/system=file`, and what the figures in them are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from agentark.evaluation import read_graded, values_by_question
from agentark.files import json_of
from agentark.types import UserError


class Measured(Struct, frozen=True, kw_only=True):
    """A system on a set of questions."""

    path: Path
    """Its per_sample.jsonl."""
    metric: str
    asked: frozenset[str]
    """Questions, those whose run failed included."""
    values: Mapping[str, float]
    """Question -> its figure, a mean over independent answers."""
    tags: Mapping[str, str]
    """Question -> its tag, where it has one."""
    dataset: str
    source: str | None
    """Name of the results file that was graded; None: unknown."""
    tokens: float
    """Completion tokens of a question, all agents together."""


def measured(path: Path) -> Measured:
    """A graded file and the metrics.json beside it.

    Raises:
        UserError: one of them is missing or something else, or no question has a figure.
    """
    rows = read_graded(path)
    metric, about = rows[0].metric, report(path)
    asked = frozenset(row.id for row in rows)
    source = about.get("input")
    return Measured(
        path=path,
        metric=metric,
        asked=asked,
        values=values_by_question(rows, metric, path),
        tags={row.id: row.tag for row in rows if row.tag is not None},
        dataset=str(about["dataset"]),
        source=str(source["file"]) if isinstance(source, dict) and "file" in source else None,
        tokens=completion_tokens(path) / len(asked),
    )


def parse_rows(words: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Set -> system -> file, from words `set/system=file`."""
    sets: dict[str, dict[str, Path]] = {}
    for word in words:
        name, separator, path = word.partition("=")
        questions, slash, system = name.partition("/")
        if not (separator and slash and path and system and questions):
            raise UserError(f"--rows {word!r}: expected set/system=file")
        if system in sets.setdefault(questions, {}):
            raise UserError(f"--rows {word!r}: {system} is there twice for {questions}")
        sets[questions][system] = Path(path)
    return sets


def report(graded: Path) -> dict[str, Any]:
    """The metrics.json beside a per_sample.jsonl.

    Raises:
        UserError: it is missing or something else.
    """
    path = graded.with_name(graded.name.removesuffix("per_sample.jsonl") + "metrics.json")
    about = json_of(path)
    if not (isinstance(about.get("dataset"), str) and isinstance(about.get("tokens"), dict)):
        raise UserError(f"{path}: is not the metrics.json of an evaluation")
    return about


def completion_tokens(graded: Path) -> int:
    """Completion tokens behind an evaluation, all agents and questions together."""
    try:
        return sum(int(model["completion_tokens"]) for model in report(graded)["tokens"].values())
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{graded}: the metrics.json beside it does not count tokens") from None
