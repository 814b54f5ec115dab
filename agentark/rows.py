"""Recognises a row of any kind, and reads files of all of them; nothing else does.

    results            {"schema", "id", "query", ..., "trajectory"}                     of inference.py
    labels             {"labels_schema", "id", "query", ..., "solutions", "labels"}     of label.py
    published          {"query", "gt", "response"} or {"query", "solutions": [{"text", "is_correct"?}]}
    published labels   the same with "labels": [true, ...], one per solution
    stepwise           {"prompt", "completions": ["step", ...], "labels": [true, ...]}  one solution a row
    scores             {"id", "scores", "best"}                                         of prm.score
    questions          {"query" | "question" | "problem" | "prompt": "...", ...}        with or without a gold answer

Of results, labels and published rows the last row of an id counts. A question that stands twice in a file of questions
is an error. A schema that this version does not know is refused.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agentark import hub, jsonl
from agentark.files import file_sha256, json_if_there, manifest_of
from agentark.golds import TYPES, with_gold
from agentark.jsonl import Line, Stored
from agentark.labels import LABELS_SCHEMA
from agentark.published import answer_type_of, own_id, record_of, split_response
from agentark.records import check_schema, stored_records
from agentark.steps import one_step
from agentark.tasks import TASKS, Task, get_task
from agentark.tasks.base import BadRow
from agentark.types import SCHEMA, TEAM, AnswerType, Record, Sample, UserError

Kind = Literal["results", "labels", "published", "published labels", "stepwise", "scores", "questions"]
Row = Mapping[str, Any]
QUERY = ("query", "question", "problem", "prompt")
"""Where a row holds its question; the first that is a text counts."""
ENDINGS = (".jsonl", ".json")
"""Endings of names that are files and not datasets on the hub."""
AGGREGATORS = {"aggregator", "moderator", "judge", "extractor", TEAM}
"""Agents who make the method's own answer from the solutions of others."""
UNKNOWN = -100
"""Label of an unknown verdict; null means the same."""
_objects = msgspec.json.Decoder(dict[str, Any])


# ---------------------------------------------------------------- recognising


def kind_of(row: Row, where: str) -> Kind | None:
    """The kind of a row; None: not one of ours. Raises UserError for a schema that this version does not know."""
    if "trajectory" in row and "schema" in row:
        check_schema(where, "schema", row["schema"], SCHEMA)
        return "results"
    if "labels_schema" in row:
        check_schema(where, "labels_schema", row["labels_schema"], LABELS_SCHEMA)
        return "labels"
    if "prompt" in row and "completions" in row:
        return "stepwise"
    if "scores" in row and "best" in row:
        return "scores"
    if "query" in row and ("solutions" in row or ("response" in row and "gt" in row)):
        return "published labels" if "labels" in row else "published"
    return "questions" if _query(row) is not None else None


def _query(row: Row) -> str | None:
    return next((row[key] for key in QUERY if isinstance(row.get(key), str)), None)


def kind(path: Path, flag: str) -> Kind | None:
    """The kind of a file's first row; see `kind_of`.

    Raises:
        UserError: no such file, nothing in it, or no JSON lines.
    """
    where, first = next(read(path, flag))
    return kind_of(first, where)


def read(source: str | Path, flag: str, split: str = "train") -> Iterator[tuple[str, Row]]:
    """(where it stands, row) of a file of JSON lines, or of a dataset on the hub if the source is not a path.

    Raises:
        UserError: no such file or dataset, nothing in it, or a line that is no JSON object.
    """
    path, name = Path(source), f"{flag} {source}"
    if path.is_file():
        rows: Iterable[tuple[int, Row]] = jsonl.objects(path, name)
    elif isinstance(source, Path) or path.is_dir() or source.startswith((".", "/", "~")) or path.suffix in ENDINGS:
        raise UserError(f"{name}: no such file")
    else:
        rows = enumerate(hub.rows(source, flag, split), 1)
    number = 0
    for number, row in rows:
        yield f"{name}, row {number}", row
    if not number:
        raise UserError(f"{name}: the file is empty")


# ---------------------------------------------------------------- records


class Source(Struct, frozen=True):
    """A results file that has been read and checked once; its records are read again when they are asked for."""

    path: Path
    sha256: str
    records: Stored[Record]
    ids: dict[str, int]
    """Id -> position among the records."""
    failed: frozenset[str]
    """Ids of records with an error."""
    unsolved: str | None
    """Id of the first record with neither an error nor a solution; None: there is no such record."""
    manifest: dict[str, Any]
    """Manifest of the run that wrote it; empty where there is none."""

    @property
    def manifest_path(self) -> Path:
        return manifest_of(self.path)


class _Refused(Struct):
    """Records that do not belong here."""

    count: int = 0
    first: str | None = None
    """Id of the first."""
    source: str = ""

    def add(self, id: str, source: str = "") -> None:
        self.count += 1
        if self.first is None:
            self.first, self.source = id, source


def records(path: Path, task: Task | None, flag: str) -> Stored[Record]:
    """Results; or labels and rows of the published code as records of `task` (None: of what each row says)."""
    return _records(path, task, flag)[0]


def _records(path: Path, task: Task | None, flag: str) -> tuple[Stored[Record], dict[str, int]]:
    """(`records`, id -> position there)."""
    if kind(path, flag) == "results":
        return stored_records(path)
    made = partial(_made_record, task=task)
    return jsonl.latest(path, f"{flag} {path}", lambda line: made(line).id, made)


def _made_record(line: Line, task: Task | None) -> Record:
    """The record of a line of labels, or of the published code."""
    row = line.decode(_objects, "a JSON object")
    kind_of(row, line.where)
    texts = [candidate.text for candidate in _candidates(line.where, row)]
    return record_of(row, texts, line.number - 1, line.where, task)


def read_source(path: Path, task: Task, flag: str = "--input_file") -> Source:
    """A results file of ours or of the published code.

    Args:
        flag: that named it.

    Raises:
        UserError: missing, empty, of another dataset, without a gold answer in some row, or without any answer.
    """
    stored, ids = _records(path, task, flag)
    foreign, bare, unsolved = _Refused(), _Refused(), _Refused()
    failed: set[str] = set()
    for record in stored:
        if record.source.casefold() != task.name.casefold():
            foreign.add(record.id, record.source)
        if not (record.gt.strip() or record.references):
            bare.add(record.id)
        if record.error is not None:
            failed.add(record.id)
        elif not record.solutions:
            unsolved.add(record.id)
    if foreign.first is not None:
        raise UserError(
            f"{flag} {path}: holds {foreign.count} rows of {foreign.source}, not of {task.name} "
            f"(the first: {foreign.first}); give --dataset_name {foreign.source}"
        )
    if bare.first is not None:
        raise UserError(f"{flag} {path}: {bare.count} rows have no gold answer (the first: {bare.first})")
    if len(failed) + unsolved.count == len(stored):
        raise UserError(f"{flag} {path}: none of its {len(stored)} rows has a solution ({len(failed)} carry an error)")
    sha256, manifest = file_sha256(path), json_if_there(manifest_of(path))
    return Source(path, sha256, stored, ids, frozenset(failed), unsolved.first, manifest)


# ---------------------------------------------------------------- questions with solutions


class Candidate(Struct, frozen=True):
    """A solution."""

    id: int
    text: str
    answer: str | None = None
    verdict: bool | None = None
    aggregate: bool = False
    """The method's own answer, made from the others: it is scored, but never chosen as the best."""
    steps: tuple[str, ...] | None = None
    """As in the row; None: the text has to be split."""
    step_labels: list[bool | None] | None = None
    """A verdict per step; None: the row has none."""


class Question(Struct, frozen=True):
    """A question with its solutions."""

    where: str
    """Place of the row, for error messages."""
    id: str | None
    """None: the row has none."""
    prompt: str
    """As a user would put it, document and answer format included."""
    candidates: Sequence[Candidate]
    answer_type: AnswerType = "math"
    error: str | None = None

    @property
    def key(self) -> str:
        return question_key(self.prompt)

    @property
    def name(self) -> str:
        """The id, or a digest of the question; of a stepwise row also of its solution, as there may be several."""
        steps = (candidate.text for candidate in self.candidates if candidate.steps is not None)
        return self.id or question_key("".join([self.prompt, *steps]))


def question_key(text: str) -> str:
    """The same for texts that differ in white space and case only: one question is on one side of a split."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).hexdigest()


def questions(source: str | Path, flag: str, split: str = "train") -> Iterator[Question]:
    """Rows of a results, labelled, published or stepwise file, or of such a hub dataset; those with ids come last.

    Raises:
        UserError: no such file, or a row of another kind.
    """
    latest: dict[str, Question] = {}
    for where, row in read(source, flag, split):
        question = _question(where, row)
        if question.id is None:
            yield question
        else:
            latest.pop(question.id, None)
            latest[question.id] = question
    yield from latest.values()


def _question(where: str, row: Row) -> Question:
    id = own_id(row)
    error = str(row["error"]) if row.get("error") else None
    known = kind_of(row, where)
    if known == "results":
        record = _converted(where, row, Record)
        texts = {turn.id: turn.text for turn in record.trajectory}
        solutions = [
            Candidate(solution.id, texts[solution.turn], solution.answer, aggregate=solution.agent in AGGREGATORS)
            for solution in record.solutions
        ]
        return Question(where, id, record.sample().prompt, solutions, record.answer_type, error)
    if known == "labels":
        sample = _converted(where, row, Sample)
        return Question(where, id, sample.prompt, _candidates(where, row), sample.answer_type, error)
    if known == "stepwise":
        return _stepwise(where, row)
    if isinstance(row.get("query"), str) and ("solutions" in row or "response" in row):
        return Question(where, id, row["query"], _candidates(where, row), error=error)
    raise UserError(
        f"{where}: neither a results row, a labelled row (query, solutions, labels) nor a stepwise row (prompt, "
        f"completions, labels); its keys are {', '.join(map(str, row))}; label.py makes labelled rows"
    )


def _converted(where: str, row: Row, type: type[Any]) -> Any:
    try:
        return msgspec.convert(row, type)
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {error}") from None


def _candidates(where: str, row: Row) -> list[Candidate]:
    """The solutions of a row of the published code."""
    listed = row.get("solutions")
    if listed is None:
        response = row.get("response")
        texts = split_response(response) if isinstance(response, str) else []
        return [Candidate(number, text) for number, text in enumerate(texts, 1)]
    if not isinstance(listed, list) or not all(
        isinstance(solution, dict) and isinstance(solution.get("text"), str) for solution in listed
    ):
        raise UserError(f"{where}: 'solutions' must be a list of objects with a 'text'")
    said = _verdicts(where, [solution.get("is_correct") for solution in listed], "'is_correct'") or []
    labels = _verdicts(where, row.get("labels"), "'labels'", len(listed), "solution")
    candidates = []
    for number, (solution, own, verdict) in enumerate(zip(listed, said, labels or said, strict=True), 1):
        if "is_correct" in solution and own != verdict:
            raise UserError(f"{where}: solution {number} is {own!r} in 'is_correct', {verdict!r} in 'labels'")
        steps = _verdicts(where, solution.get("step_labels"), f"'step_labels' of solution {number}")
        given = {name: solution[name] for name in ("id", "text", "answer") if name in solution}
        aggregate = solution.get("agent") in [*AGGREGATORS]  # what is no text may not be in a set
        checked = {"id": number, **given, "verdict": verdict, "aggregate": aggregate, "step_labels": steps}
        candidates.append(_converted(f"{where}: solution {number}", checked, Candidate))
    return candidates


def _stepwise(where: str, row: Row) -> Question:
    prompt, steps = row["prompt"], row["completions"]
    if not isinstance(prompt, str) or not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise UserError(f"{where}: 'prompt' must be a text and 'completions' a list of texts")
    labels = _verdicts(where, row.get("labels"), "'labels'", len(steps), "step")
    texts = tuple(map(one_step, steps))
    verdict = None if not labels or (None in labels and False not in labels) else all(labels)
    return Question(
        where, None, prompt, [Candidate(1, "\n\n".join(texts), None, verdict, steps=texts, step_labels=labels)]
    )


def _verdicts(
    where: str, values: Any, what: str, count: int | None = None, unit: str = "step"
) -> list[bool | None] | None:
    """Labels as verdicts; None where there are none.

    They are checked to be exactly true, false, 0, 1, null or -100 (unknown) before they become verdicts: a cast to
    bool would turn -100 into true.

    Args:
        what: name of the labels, for error messages.
        count: how many there must be; one per `unit`.
    """
    if values is None:
        return None
    if not isinstance(values, list) or count not in (None, len(values)):
        size = f"{len(values)} of them" if isinstance(values, list) else f"a {type(values).__name__}"
        wanted = "a list" if count is None else f"a list of {count}"
        raise UserError(f"{where}: {what} must be {wanted}, one per {unit}; found {size}")
    for value in values:
        if not (value is None or isinstance(value, bool) or (isinstance(value, int) and value in (0, 1, UNKNOWN))):
            raise UserError(f"{where}: label {value!r}; expected true, false or null")
    return [None if value is None or value == UNKNOWN else bool(value) for value in values]


# ---------------------------------------------------------------- questions to be asked


def samples(source: str, flag: str, split: str = "train") -> list[Sample]:
    """The questions of a file of any kind, or of a dataset on the hub, each id once.

    Raises:
        UserError: no such file, nothing in it, a row without a question or with a gold answer that cannot be checked,
            or a second row of an id in a file of questions.
    """
    asked: dict[str, tuple[str, Sample]] = {}
    for where, row in read(source, flag, split):
        known = kind_of(row, where)
        ours = known in ("results", "labels")
        sample = _converted(where, row, Sample) if ours else _sample(where, row, source)
        if sample.id in asked and own_id(row) is not None:
            if known == "questions":
                first = asked[sample.id][0].rpartition(", ")[2]
                raise UserError(f"{where}: id {sample.id!r} was {first}'s already")
            del asked[sample.id]
        asked.setdefault(sample.id, (where, sample))
    return [sample for _, sample in asked.values()]


def _asked(where: str, row: Row) -> str:
    """The question of a row of any kind."""
    kind_of(row, where)
    if (query := _query(row)) is None:
        raise UserError(f"{where}: no question in it (one of {', '.join(QUERY)}); its keys are {', '.join(row)}")
    return query


def _sample(where: str, row: Row, source: str) -> Sample:
    query = _asked(where, row)
    name = str(row.get("source") or source)
    asked = row.get("answer_type")
    if asked is None and name in TASKS:
        asked = answer_type_of(get_task(name), row)
        asked = asked if asked in TYPES else "text"
    instruction = str(row.get("instruction") or "")
    try:
        bare = Sample(id="", source=name, query=query, gt="", answer_type="text", instruction=instruction)
        sample = with_gold(bare, row, asked)
    except BadRow as error:
        raise UserError(f"{where}: {error}") from None
    return msgspec.structs.replace(sample, id=own_id(row) or f"prompt/{question_key(sample.query)}")


def queries(path: Path, flag: str) -> Iterator[tuple[str | None, str]]:
    """(id where it is a text, question) of every row of a file of any kind.

    Raises:
        UserError: no such file, or a row without a question.
    """
    for where, row in read(path, flag):
        yield row["id"] if isinstance(row.get("id"), str) else None, _asked(where, row)
