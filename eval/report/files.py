"""The files in a folder of results, told apart by content, never by the folder's name.

Nothing here fails on a file that is not ours; a file that claims to be ours but cannot be read is a problem that
the report names.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from agentark.files import file_sha256, json_in, json_of, manifest_of, sessions_of, struct_of
from agentark.jsonl import objects
from agentark.rows import kind_of
from agentark.types import UserError
from eval.ark.card import read_card

MARKER = "agentark-report.json"
"""Marks a folder as a report: nothing in it is a result, and only such a folder is ever replaced."""
METRICS = "metrics.json"
CURVES = "metrics.jsonl"
ARK = "ark.json"
CHECKS = "evaluation.json"
"""Output of prm.evaluate, in the reward model's folder."""
SCORED = "_scored"
"""End of the name of the file that prm.score writes beside its input."""


class Origin(Struct, frozen=True):
    """The source of figures; it stands below every table and chart."""

    file: str
    """Path below the results folder."""
    sha256: str
    command: str | None
    commit: str | None
    """Commit of the code that ran the command."""


class Value(Struct, frozen=True):
    """A figure of a label card."""

    value: float | None


class Adversarial(Struct, frozen=True):
    """The part of a label card about replies that are wrong by construction."""

    false_positive_rate: Value


class Card(Struct, frozen=True):
    """What the report shows of a label card."""

    judge: str
    dataset: str
    n: int
    precision: Value
    recall: Value
    kappa: float | None
    ece: float | None
    adversarial: Adversarial
    poor: bool
    faults: list[str]
    doubts: list[str]


class Found(Struct):
    """The files of a study, each list in the order of paths."""

    results: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    evaluations: list[Path] = field(default_factory=list)
    curves: list[Path] = field(default_factory=list)
    scores: list[Path] = field(default_factory=list)
    """Step scores of a reward model (prm.score)."""
    cards: list[Path] = field(default_factory=list)
    """Label cards."""
    manifests: list[Path] = field(default_factory=list)
    """Manifests of training sets and of model folders."""
    checks: list[Path] = field(default_factory=list)
    """Output of prm.evaluate."""
    arks: list[Path] = field(default_factory=list)
    """Ark cards (eval.ark)."""
    problems: list[str] = field(default_factory=list)


def find(folders: Sequence[Path]) -> Found:
    """The files below the folders.

    Raises:
        UserError: one of them is not a folder.
    """
    found = Found()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--results {folder}: no such folder")
        for path in sorted(_files(folder, found.problems)):
            try:
                _sort(path, found)
            except UserError as error:
                found.problems.append(str(error))
            except OSError as error:
                found.problems.append(f"{path}: cannot be read ({error.strerror})")
    return found


def _files(top: Path, problems: list[str]) -> Iterator[Path]:
    """Files below, without hidden ones, checkpoints and other reports.

    A folder that links lead to several times counts once, where it lies if that is below too.
    """
    seen: set[Path] = set()
    folders, links = [top], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if folder.resolve() in seen or (folder / MARKER).exists():
            continue
        seen.add(folder.resolve())
        try:
            content = sorted(folder.iterdir())
        except OSError as error:
            problems.append(f"{folder}: cannot be read ({error.strerror})")
            continue
        for path in content:
            if path.name.startswith("."):
                continue
            if path.is_dir():
                if not path.name.startswith("checkpoint-"):
                    (links if path.is_symlink() else folders).append(path)
            elif path.suffix in (".json", ".jsonl") and (path.is_file() or path.is_symlink()):
                yield path


def _sort(path: Path, found: Found) -> None:
    name = path.name
    if name.endswith((".journal.jsonl", "per_sample.jsonl")):
        return
    if name == CURVES:
        found.curves.append(path)
    elif path.suffix == ".jsonl":
        listed = {"results": found.results, "published": found.results, "labels": found.labels, "scores": found.scores}
        kind = next((kind_of(row, f"{path}, row {number}") for number, row in objects(path, str(path))), None)
        if kind in listed:
            listed[kind].append(path)
    elif name.endswith(".card.json"):
        struct_of(path, Card, "a label card")
        found.cards.append(path)
    elif name.endswith(METRICS):
        content = json_in(path)
        if isinstance(content, dict) and "figures" in content:
            found.evaluations.append(path)
    elif name == CHECKS:
        found.checks.append(path)
    elif name == ARK:
        content = json_in(path)
        if isinstance(content, dict) and "cells" in content:
            read_card(path)
            found.arks.append(path)
    elif name.endswith("manifest.json"):
        content = json_in(path)
        if isinstance(content, dict) and ("train_ids" in content or "counts" in content):
            found.manifests.append(path)


def sessions(path: Path) -> list[dict[str, Any]]:
    """The sessions of the run that wrote a file, oldest first; none where it has no manifest."""
    manifest = manifest_of(path)
    if not manifest.is_file():
        return []
    return sessions_of(json_of(manifest))


def shown(path: Path, folders: Sequence[Path]) -> str:
    """The path as the report names it: relative to its results folder, that folder's own name first."""
    for folder in folders:
        if path.is_relative_to(folder):
            return str(Path(folder.resolve().name) / path.relative_to(folder))
    return path.name


def origin(path: Path, folders: Sequence[Path], digest: str | None = None) -> Origin:
    """Where a file of a run comes from, by its manifest."""
    last = (sessions(path) or [{}])[-1]
    versions = last.get("versions")
    commit = versions.get("commit") if isinstance(versions, dict) else None
    command = last.get("command")
    return Origin(shown(path, folders), digest or file_sha256(path), str(command) if command else None, commit)
