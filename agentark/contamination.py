"""A model is not scored on questions it was trained on, and evaluation questions are kept out of training sets.

Training writes a `manifest.json` into the folder of its model or adapter whose `train_ids` are the ids of the samples
it has seen. A run with such a model carries these ids on into its own manifest.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from agentark.files import json_if_there, sessions_of
from agentark.rows import queries
from agentark.types import UserError

NAMED = 3
"""Ids named in the error message."""


def trained_on(*folders: Path | None) -> list[str]:
    """Ids of the samples that a model or adapter has seen, as far as its folder says; sorted.

    Args:
        folders: of the model and of its adapter; those without a manifest are skipped.

    Raises:
        UserError: a manifest whose `train_ids` are not a list of strings.
    """
    ids: set[str] = set()
    for folder in folders:
        if folder is not None:
            path = folder / "manifest.json"
            ids |= _read(path, json_if_there(path))
    return sorted(ids)


def of_model(name: str, lora_path: Path | None) -> list[str]:
    """`trained_on` of a model as the command line names it (a hub id has no folder) and its adapter."""
    return trained_on(Path(os.path.expanduser(name)), lora_path)


def seen_by_run(manifest: Path) -> list[str]:
    """Ids that the model of a results file was trained on, from the results' own manifest (none: nothing known)."""
    sessions = sessions_of(json_if_there(manifest))
    return sorted(set().union(*(_read(manifest, session) for session in sessions)))


def _read(path: Path, holder: dict[str, Any]) -> set[str]:
    ids = holder.get("train_ids", [])
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise UserError(f"{path}: 'train_ids' must be a list of sample ids")
    return set(ids)


def check(ids: Iterable[str], trained: Iterable[str], model: str, allow: bool) -> int:
    """How many of these questions the model was trained on.

    Raises:
        UserError: some of them, and `allow` is false.
    """
    seen = sorted(set(trained).intersection(ids))
    if seen and not allow:
        named = ", ".join(seen[:NAMED]) + (", ..." if len(seen) > NAMED else "")
        raise UserError(
            f"{model} was trained on {len(seen)} of these questions ({named}); use another split, or "
            "--allow_contamination to score it all the same"
        )
    return len(seen)


# ---------------------------------------------------------------- evaluation questions in training data


def tokens(text: str) -> list[str]:
    """Lower-case words, numbers and signs."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def words(text: str) -> list[str]:
    """Lower-case words and numbers, without signs."""
    return re.findall(r"\w+", text.lower())


def ngrams(items: Sequence[str], n: int) -> set[tuple[str, ...]]:
    """All runs of n items; a shorter text is one run."""
    return {tuple(items[start : start + n]) for start in range(max(1, len(items) - n + 1))} if items else set()


class EvaluationQuestions:
    """Evaluation questions that must not be trained on.

    Args:
        files: JSON lines (datasets, results or labelled files) with a question in every row.
        n: shared words in a row that count as an overlap (13, as in Brown et al. 2020, arXiv 2005.14165, appendix C);
            0: only equal questions count.

    Raises:
        UserError: a file that is missing or has a row without a question.
    """

    def __init__(self, files: Sequence[Path], n: int) -> None:
        self.n = n
        self.ids: set[str] = set()
        self.exact: set[tuple[str, ...]] = set()
        self.runs: set[tuple[str, ...]] = set()
        for id, question in (row for path in files for row in queries(path, "--contamination")):
            if id is not None:
                self.ids.add(id)
            self.exact.add(tuple(tokens(question)))
            if n and len(words(question)) >= n:
                self.runs |= ngrams(words(question), n)

    def hit(self, id: str, query: str) -> str | None:
        """`exact` if a training question equals an evaluation question, `ngram` if it overlaps with one."""
        if id in self.ids or tuple(tokens(query)) in self.exact:
            return "exact"
        own = words(query)
        return "ngram" if self.n and len(own) >= self.n and ngrams(own, self.n) & self.runs else None
