"""A study as the report sees it: runs with their labels and evaluations, joined by path and hash."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from agentark import contamination
from agentark.evaluation import Graded, read_graded
from agentark.files import file_sha256, json_of, manifest_of
from agentark.jsonl import ById, Stored
from agentark.labels import LabelRow, stored_labels
from agentark.rows import records
from agentark.tasks import TASKS, Task, get_task
from agentark.types import GATEWAY, Record, UserError
from eval.report import files
from eval.report.files import Found, Origin


class Evaluation(Struct, kw_only=True):
    """A metrics.json and its context."""

    path: Path
    report: dict[str, Any]
    graded: Sequence[Graded]
    """Empty where the evaluation grades no answers (reasoning quality)."""
    origin: Origin
    run: "Run | None" = None
    """The results that were graded; None: not in the study, or changed since."""
    trained: bool = False
    """Whether its model is a student, known to be trained on some questions."""
    setting: str = ""
    """Its questions: split and options of the dataset."""

    @property
    def dataset(self) -> str:
        return str(self.report["dataset"])

    @property
    def model(self) -> str:
        return str(self.report["model"])

    @property
    def method(self) -> str:
        named = str(self.report["method"])
        return self.run.method or named if named == GATEWAY and self.run is not None else named


class Run(Struct, kw_only=True):
    """A results file. Its records are read when they are needed, one at a time."""

    number: int
    path: Path
    origin: Origin
    task: Task | None = None
    """Dataset that it was graded as: rows of the published code do not name theirs."""
    labels: Path | None = None
    scores: Path | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    dataset: str = ""
    model: str = ""
    method: str = ""
    setting: str = ""

    @property
    def name(self) -> str:
        """Its name in charts and lists."""
        return f"{self.dataset} · {self.method} · {self.model}"

    def records(self) -> Stored[Record]:
        return records(self.path, self.task, "--results")

    def label_rows(self) -> Mapping[str, LabelRow]:
        """Id -> labels, of the rows that have some."""
        if self.labels is None:
            return {}
        rows, ids = stored_labels(self.labels)
        return ById(rows, {id: place for id, place in ids.items() if rows[place].error is None})

    def grades(self) -> Mapping[str, Graded]:
        """Id -> grade of the method's own answer, by the first evaluation that graded answers."""
        for evaluation in self.evaluations:
            if (graded := evaluation.graded) and isinstance(graded, Stored):
                return ById(graded, {graded[place].id: place for place in reversed(range(len(graded)))})
        return {}


class Study(Struct, kw_only=True):
    folders: list[Path]
    found: Found
    runs: list[Run]
    evaluations: list[Evaluation]
    problems: list[str]

    def origin(self, path: Path) -> Origin:
        return files.origin(path, self.folders)


def read(folders: Sequence[Path]) -> Study:
    """Everything below the folders except the records themselves.

    Raises:
        UserError: a folder does not exist, or there is nothing in them to report.
    """
    found = files.find(folders)
    problems = list(found.problems)
    runs = [
        Run(number=number, path=path, origin=files.origin(path, folders)) for number, path in enumerate(found.results)
    ]
    by_hash = {run.origin.sha256: run for run in runs}
    for path in found.labels:
        _join_labels(path, by_hash, folders, problems)
    for path in found.scores:
        _join_scores(path, runs, folders, problems)
    evaluations = []
    for path in found.evaluations:
        try:
            evaluations.append(_evaluation(path, by_hash, folders, problems))
        except (UserError, msgspec.ValidationError) as error:
            problems.append(f"{path}: is not an evaluation ({error})")
    for run in runs:
        _name(run, problems)
    if not (runs or evaluations or found.curves):
        raise UserError(
            f"--results {' '.join(map(str, folders))}: holds no results, evaluations or training curves "
            "(inference.py, eval.*, prm and distill write them)"
        )
    return Study(folders=list(folders), found=found, runs=runs, evaluations=evaluations, problems=problems)


def _name(run: Run, problems: list[str]) -> None:
    """Dataset, model and method of a run, from its first record."""
    graded_as = next((evaluation.dataset for evaluation in run.evaluations), None)
    run.task = get_task(graded_as) if graded_as in TASKS else None
    try:
        first = next(iter(run.records()), None)
    except UserError as error:
        problems.append(str(error))
        return
    if first is not None:
        run.dataset, run.model = first.source, first.model
        run.method = first.method.shown
        run.setting = _setting(manifest_of(run.path))


def _setting(manifest: Path) -> str:
    """Split and options as a run's manifest has them; empty where unknown."""
    config = json_of(manifest).get("config") if manifest.is_file() else None
    if not isinstance(config, dict):
        return ""
    options = config.get("task_options")
    named = [f"{key}={value}" for key, value in sorted(options.items())] if isinstance(options, dict) else []
    return ", ".join([str(config.get("split") or ""), *named]).strip(", ")


def _join_labels(path: Path, by_hash: Mapping[str, Run], folders: Sequence[Path], problems: list[str]) -> None:
    """Labels belong to the file whose hash their manifest names. Labels by a judge are preferred."""
    inputs = [session["input"] for session in files.sessions(path) if isinstance(session.get("input"), dict)]
    run = by_hash.get(str(inputs[-1].get("sha256"))) if inputs else None
    if run is None:
        problems.append(f"{files.shown(path, folders)}: labels of a results file that is not here or has changed since")
    elif run.labels is None or _judged(path) > _judged(run.labels):
        run.labels = path


def _join_scores(path: Path, runs: Sequence[Run], folders: Sequence[Path], problems: list[str]) -> None:
    """Step scores carry no hash of their input: they are matched by name, and dropped where steps don't fit."""
    scored = path.with_name(path.stem.removesuffix(files.SCORED) + ".jsonl")
    run = next((run for run in runs if scored in (run.path, run.labels)), None)
    if run is None:
        problems.append(f"{files.shown(path, folders)}: step scores of {scored.name}, which is not here")
    else:
        run.scores = path


def _judged(path: Path) -> tuple[bool, bool]:
    config = json_of(manifest_of(path)).get("config", {})
    return bool(config.get("all_rounds")), config.get("judge") is not None


class _Figure(Struct):
    value: float | None
    se: float | None = None
    ci95: tuple[float, float] | None = None


class _Counts(Struct):
    n: int
    unanswered: int | None = None
    error: int = 0


class _Tokens(Struct):
    num_llm_calls: int
    prompt_tokens: int
    completion_tokens: int


class _Input(Struct):
    file: Annotated[str, Meta(pattern=r"^[^/]*[^/.][^/]*$")]
    sha256: str


class _Grader(Struct):
    name: str
    version: str


class _Report(Struct, kw_only=True):
    """What is read of a metrics.json."""

    eval: str
    dataset: str
    metric: str
    model: str
    method: str
    figures: dict[str, _Figure | None]
    counts: _Counts
    tokens: dict[str, _Tokens]
    input: _Input
    questions: int | None = None
    truncated: float | None = None
    contaminated: int | None = None
    guarantee: str | None = None
    engine: str | None = None
    command: str | None = None
    grader: _Grader | None = None


def _evaluation(path: Path, by_hash: Mapping[str, Run], folders: Sequence[Path], problems: list[str]) -> Evaluation:
    report = json_of(path)
    msgspec.convert(report, _Report)
    run = by_hash.get(report["input"]["sha256"])
    results = path.with_name(report["input"]["file"])
    if run is None:
        problems.append(f"{files.shown(path, folders)}: grades {results.name}, which is not here or has changed since")
    manifest = manifest_of(run.path if run else results)
    commit = run.origin.commit if run else None
    graded = read_graded(path) if report["eval"] != "eval.reasoning_eval" else []
    evaluation = Evaluation(
        path=path,
        report=report,
        graded=graded,
        origin=Origin(files.shown(path, folders), file_sha256(path), report.get("command"), commit),
        run=run,
        trained=bool(contamination.seen_by_run(manifest)),
        setting=_setting(manifest),
    )
    if run is not None:
        run.evaluations.append(evaluation)
    return evaluation
