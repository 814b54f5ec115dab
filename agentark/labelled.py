"""Labelled files joined with the trajectories they were made from.

Labels hold verdicts; only the results file shows how an agent came to its answer. The label manifest names that file
and its hash, so verdicts are never applied to another run's text.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, overload

from msgspec import UNSET, Struct, structs

from agentark.files import file_sha256, json_of, manifest_of, sessions_of
from agentark.jsonl import Stored
from agentark.labels import LabelRow, stored_labels
from agentark.rows import kind, read_source
from agentark.tasks import Task, get_task
from agentark.trajectories import AGGREGATE, Trajectory, trajectories
from agentark.types import Record, Sample, UserError


class Pairs(Sequence[tuple[Record, LabelRow]]):
    """Records with their labels, sorted by id; both are read again whenever a pair is asked for."""

    def __init__(self, ids: Sequence[str], records: Stored[Record], rows: Stored[LabelRow]) -> None:
        self.ids, self._records, self._rows = ids, records, rows

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> tuple[Record, LabelRow]: ...
    @overload
    def __getitem__(self, place: slice) -> "Pairs": ...
    def __getitem__(self, place: int | slice) -> "tuple[Record, LabelRow] | Pairs":
        if isinstance(place, slice):
            return Pairs(self.ids[place], self._records[place], self._rows[place])
        return self._records[place], self._rows[place]


class Labelled(Struct, frozen=True, kw_only=True):
    """One labelled file and its trajectories."""

    labels: Path
    labels_sha256: str
    trajectories: Path
    trajectories_sha256: str
    task: Task
    judge: str
    """The judge that decided where rules could not; `rules` if no judge was asked."""
    pairs: Pairs
    """Without questions that could not be labelled."""
    failed: int
    """Number of questions whose labelling failed."""

    @property
    def name(self) -> str:
        """The method; rows and cards name the source by it."""
        return self.pairs[0][0].method.name


def read_labelled(labels: Path, trajectories: Path | None = None, flag: str = "--input") -> Labelled:
    """A labelled file with the records it was made from.

    Args:
        labels: file written by label.py, with its manifest beside it.
        trajectories: the results file; None: the file that the label manifest names.
        flag: the flag that names the labelled file.

    Raises:
        UserError: a file that is not labelled or has no manifest, a results file that is missing or is not the labelled
            one, or rows that don't belong together.
    """
    if kind(labels, flag) != "labels":
        raise UserError(f"{flag} {labels}: is not labelled; run python label.py --input {labels} first")
    manifest = manifest_of(labels)
    if not manifest.is_file():
        raise UserError(f"{flag} {labels}: no {manifest.name} beside it, which says what was labelled")
    config, named = _manifest(manifest)
    path = trajectories or _moved_with(labels, Path(named["path"]))
    if not path.is_file():
        raise UserError(f"--trajectories {path}: no such file (the label manifest names it); say where it is now")
    task = get_task(config["dataset"])
    source = read_source(path, task, "--trajectories")
    if source.sha256 != named["sha256"]:
        raise UserError(
            f"--trajectories {path}: is not the file that was labelled (sha256 {source.sha256[:12]}..., the manifest "
            f"of {labels.name} has {named['sha256'][:12]}...); label it again, or name the right one"
        )
    rows, places = stored_labels(labels)
    good = []
    for id in sorted(places):
        row = rows[places[id]]
        if row.error is None:
            _check_pair(f"{flag} {labels}", source.records[source.ids[id]] if id in source.ids else None, row)
            good.append(id)
    if not good:
        raise UserError(f"{flag} {labels}: none of its {len(rows)} rows is labelled")
    records = source.records.take(source.ids[id] for id in good)
    return Labelled(
        labels=labels,
        labels_sha256=file_sha256(labels),
        trajectories=path,
        trajectories_sha256=source.sha256,
        task=task,
        judge=config["judge"] or "rules",
        pairs=Pairs(good, records, rows.take(places[id] for id in good)),
        failed=len(rows) - len(good),
    )


def read_all(files: Sequence[Path], results: Sequence[Path] | None = None, flag: str = "--input") -> list[Labelled]:
    """Labelled files of one dataset, in the same order however they are listed.

    Args:
        results: their results files, in the same order; None: those that the label manifests name.

    Raises:
        UserError: see `read_labelled`; or files of several datasets, or the same file twice.
    """
    given: Sequence[Path | None] = results or [None] * len(files)
    sources = [read_labelled(labels, path, flag) for labels, path in zip(files, given, strict=True)]
    names = {source.task.name for source in sources}
    if len(names) > 1:
        raise UserError(f"{flag}: files of several datasets ({', '.join(sorted(names))}); take each by itself")
    if max(Counter(source.labels_sha256 for source in sources).values()) > 1:
        raise UserError(f"{flag}: the same file twice")
    return sorted(sources, key=lambda source: (source.name, source.labels_sha256))


def _manifest(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(configuration of the labelling, its latest input: path and sha256)."""
    manifest = json_of(path)
    try:
        config = {key: manifest["config"][key] for key in ("dataset", "judge")}
        named = [session["input"] for session in sessions_of(manifest) if "input" in session][-1]
        if not isinstance(config["dataset"], str) or not isinstance(config["judge"], str | None):
            raise TypeError
        return config, {key: str(named[key]) for key in ("path", "sha256")}
    except (KeyError, IndexError, TypeError):
        raise UserError(f"{path}: is not the manifest of a labelled file") from None


def _moved_with(labels: Path, named: Path) -> Path:
    """Path of the labelled results: as the manifest names it, or beside the labels if both files were moved."""
    beside = labels.with_name(named.name)
    return named if named.is_file() or not beside.is_file() else beside


def _check_pair(labels: str, record: Record | None, row: LabelRow) -> None:
    if record is None:
        raise UserError(f"{labels}: {row.id} is not in the trajectories; these labels are of another run")
    texts = {solution.id: record.text_of(solution) for solution in record.solutions}
    for solution in row.solutions:
        if texts.get(solution.id) != solution.text:
            raise UserError(
                f"{labels}: solution {solution.id} of {row.id} has another text in the trajectories; "
                "these labels are of another run"
            )


# ---------------------------------------------------------------- the questions


class Question(Struct, frozen=True):
    """A question with all its labelled solutions, from every input."""

    sample: Sample
    trajectories: list[Trajectory]

    @property
    def correct(self) -> int:
        """Agents whose final answer is right."""
        return sum(path.verdict is True and path.kind != AGGREGATE for path in self.trajectories)


def merge(sources: Sequence[Labelled], flag: str = "--input") -> Iterator[Question]:
    """Each question once, with its solutions from all inputs, ordered by id.

    Raises:
        UserError: two inputs have different questions under the same id.
    """

    def placed(source: Labelled) -> Iterator[tuple[str, int, Labelled]]:
        return ((id, place, source) for place, id in enumerate(source.pairs.ids))

    everywhere = heapq.merge(*map(placed, sources), key=itemgetter(0))  # of equal ids in the order of the sources
    for id, same in groupby(everywhere, key=itemgetter(0)):
        question: Question | None = None
        for _, place, source in same:
            record, row = source.pairs[place]
            sample = structs.replace(record.sample(), decoy=UNSET)  # which question stood beside it is no matter
            question = question or Question(sample, [])
            if question.sample != sample:
                raise UserError(f"{flag} {source.labels}: {id} is another question than in the other inputs")
            question.trajectories.extend(trajectories(record, row))
        assert question is not None
        yield question
