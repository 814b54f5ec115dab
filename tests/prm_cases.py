"""Labelled solutions and command lines for the tests of prm/."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.parts.chains import rows


def chains(path: Path, solutions: int = 16, seed: int = 0) -> Path:
    """A labelled file of chains with planted errors; half of each question's four solutions are right."""
    return jsonl(path, rows(solutions, 4, (2, 4), seed))


def jsonl(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def words(flags: Mapping[str, Any]) -> list[str]:
    """A command line; a list is a flag with several values, None leaves one out."""
    found: list[str] = []
    for name, value in flags.items():
        if value is not None:
            found += [f"--{name}", *([str(one) for one in value] if isinstance(value, list) else [str(value)])]
    return found


def published(texts: Sequence[str], labels: Sequence[bool | None], query: str = "What is 1 + 1?") -> dict[str, Any]:
    """A row as the published code writes it."""
    solutions = [
        {"id": number, "text": text, "is_correct": label}
        for number, (text, label) in enumerate(zip(texts, labels, strict=True), 1)
    ]
    return {"query": query, "gt": "2", "solutions": solutions, "labels": list(labels)}
