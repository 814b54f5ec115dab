"""How good every method and student is, what it costs, and how it compares with its base and with the paper."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from agentark.evaluation import compare
from agentark.files import struct_of
from agentark.stats import holm
from agentark.summary import Spans
from agentark.types import Record, UserError
from eval.report.files import Card, Origin
from eval.report.paper import Paper, load_paper
from eval.report.students import BASE_METHOD, Student, nearest, nearness, read_students, same_model
from eval.report.study import Evaluation, Run, Study


class Delta(Struct, frozen=True, kw_only=True):
    """The paired difference to the base, on the questions both answered."""

    base: str
    """Model (and method) of the base."""
    value: float
    low: float
    high: float
    p: float
    p_holm: float | None = None
    """`p` adjusted for all p values of this dataset; None where it has no other."""
    test: str
    n: int


class Row(Struct, kw_only=True):
    """One line of the result table: a graded file, or one that waits to be graded."""

    dataset: str
    model: str
    method: str
    trained: bool
    setting: str = ""
    """Split and options of the dataset."""
    where: str = ""
    """The folder that tells it from other rows of this method, model and setting."""
    metric: str | None = None
    value: float | None = None
    se: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unanswered: int | None = None
    errors: int = 0
    truncated: int | None = None
    contaminated: int = 0
    calls: float | None = None
    """Mean per question, like the other costs."""
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    seconds: float | None = None
    """Wall time of the run per question: while at least one of its questions was worked on."""
    guarantee: str | None = None
    engine: str | None = None
    grader: str | None = None
    delta: Delta | None = None
    is_base: bool = False
    paper: Paper | None = None
    origins: list[Origin]
    grade_with: str | None = None
    """The command that grades it."""


# ---------------------------------------------------------------- costs


class Costs:
    """Adds up the costs of a run's records."""

    def __init__(self) -> None:
        self.questions = self.errors = self.calls = self.prompt = self.completion = 0
        self._spans = Spans()

    def add(self, record: Record) -> None:
        self.questions += 1
        self.errors += record.error is not None
        for stats in record.token_stats.values():
            self.calls += stats.num_llm_calls
            self.prompt += stats.prompt_tokens
            self.completion += stats.completion_tokens
        self._spans.add(record)

    def per_question(self) -> dict[str, float]:
        n = max(1, self.questions)
        seconds = self._spans.busy_seconds()
        costs = {"calls": self.calls / n, "prompt_tokens": self.prompt / n, "completion_tokens": self.completion / n}
        return costs | ({"seconds": seconds / n} if seconds else {})


# ---------------------------------------------------------------- rows


def rows(study: Study, costs: Mapping[int, Costs], base: str | None, seed: int = 0) -> list[Row]:
    """The table: all evaluations that grade answers, then runs without an evaluation.

    Args:
        costs: by number of the run.
        base: model whose single-model answers are the baseline of all; None: see `find_base`.
    """
    graded = [evaluation for evaluation in study.evaluations if evaluation.graded]
    paper = load_paper()
    every_student = read_students(study.found.manifests)
    table = []
    for evaluation in graded:
        students = nearest(every_student, evaluation.path)
        row = _row(evaluation, costs)
        against = find_base(evaluation, graded, base, students)
        row.is_base = against is evaluation
        if against is not None and against is not evaluation:
            row.delta = _delta(against, evaluation, seed)
        row.paper = paper.beside(evaluation, students)
        table.append(row)
    for dataset in {row.dataset for row in table}:
        compared = [(row, row.delta) for row in table if row.dataset == dataset and row.delta]
        adjusted = holm([delta.p for _, delta in compared])
        for (row, delta), p in zip(compared, adjusted, strict=True):
            row.delta = structs.replace(delta, p_holm=p if len(compared) > 1 else None)
    for run in study.runs:
        if not any(evaluation.graded for evaluation in run.evaluations) and run.dataset:
            table.append(_ungraded(run, costs.get(run.number)))
    _tell_apart(table)
    return sorted(
        table, key=lambda row: (row.dataset, row.setting, not row.is_base, row.trained, row.model, row.method)
    )


def _tell_apart(table: Sequence[Row]) -> None:
    """Several studies may have models of one name: give `where` to rows that are alike."""
    alike = defaultdict(list)
    for row in table:
        alike[row.dataset, row.setting, row.metric, row.method, row.model].append(row)
    for rows in alike.values():
        paths = [Path(row.origins[0].file).parts for row in rows]
        for parts in zip(*paths, strict=False):
            if len(set(parts)) > 1:
                for row, part in zip(rows, parts, strict=True):
                    row.where = part
                break


def _row(evaluation: Evaluation, costs: Mapping[int, Costs]) -> Row:
    report = evaluation.report
    metric = report["metric"]
    figure = report["figures"].get(metric) or {"value": None, "se": None, "ci95": None}
    low, high = figure["ci95"] or (None, None)
    counts = report["counts"]
    run = evaluation.run
    row = Row(
        dataset=evaluation.dataset,
        model=evaluation.model,
        method=evaluation.method,
        trained=evaluation.trained,
        setting=evaluation.setting,
        metric=metric,
        value=figure["value"],
        se=figure["se"],
        low=low,
        high=high,
        n=counts["n"],
        unanswered=counts.get("unanswered"),
        errors=counts.get("error", 0),
        truncated=report.get("truncated"),
        contaminated=report.get("contaminated") or 0,
        guarantee=report.get("guarantee"),
        engine=report.get("engine"),
        grader=" ".join(str(report["grader"][key]) for key in ("name", "version")) if report.get("grader") else None,
        origins=[evaluation.origin, *([run.origin] if run else [])],
    )
    questions = max(1, report.get("questions") or counts["n"])
    used = report["tokens"].values()
    row.calls = sum(stats["num_llm_calls"] for stats in used) / questions
    row.prompt_tokens = sum(stats["prompt_tokens"] for stats in used) / questions
    row.completion_tokens = sum(stats["completion_tokens"] for stats in used) / questions
    if run is not None and run.number in costs:
        row.seconds = costs[run.number].per_question().get("seconds")
    return row


def _ungraded(run: Run, cost: Costs | None) -> Row:
    from agentark.tasks import TASKS, get_task

    task = get_task(run.dataset) if run.dataset in TASKS else None
    grader = task.grader if task is not None and task.graded else None
    row = Row(
        dataset=run.dataset,
        model=run.model,
        method=run.method,
        trained=False,
        setting=run.setting,
        origins=[run.origin],
        grade_with=(
            f"python -m eval.{grader}_eval --dataset_name {run.dataset} --input_file {run.path}" if grader else None
        ),
    )
    if cost is not None:
        row.n, row.errors = cost.questions, cost.errors
        for name, value in cost.per_question().items():
            setattr(row, name, value)
    return row


# ---------------------------------------------------------------- the base


def find_base(
    evaluation: Evaluation, all_of: Sequence[Evaluation], base: str | None, students: Mapping[str, Student]
) -> Evaluation | None:
    """The figure to compare with: the single-model answers (method vanilla) of the base model, on this dataset.

    The base model is the one asked for; else, for a student, the model it was trained from (through several stages),
    or the only untrained model there is; else the model itself.
    """
    here = (BASE_METHOD, evaluation.dataset, evaluation.report["metric"])
    singles = [other for other in all_of if (other.method, other.dataset, other.report["metric"]) == here]
    mine = {grade.id for grade in evaluation.graded}

    def shared(single: Evaluation) -> int:
        return len(mine.intersection(grade.id for grade in single.graded))

    def of(wanted: str) -> Evaluation | None:
        """The single-model answers of a model with the most questions in common, of those the nearest by its path."""
        known = [single for single in singles if same_model(single.model, wanted)]
        best = max(known, key=lambda single: (shared(single), nearness(single.path, evaluation.path)), default=None)
        return best if best is not None and shared(best) else None

    if base is not None:
        return of(base)
    name, seen = evaluation.model, set()
    while (student := students.get(name)) is not None and student.base is not None and name not in seen:
        seen.add(name)
        name = Path(student.base).name if Path(student.base).name in students else student.base
    if seen or not evaluation.trained:
        return None if name in seen else of(name)
    untrained = {single.model for single in singles if not single.trained}
    return of(untrained.pop()) if len(untrained) == 1 else None


def _delta(base: Evaluation, evaluation: Evaluation, seed: int) -> Delta | None:
    try:
        compared = compare(base.graded, evaluation.graded, None, (base.path, evaluation.path), seed)
    except UserError:  # no question in common: there is nothing to compare
        return None
    return Delta(
        base=base.model if base.model != evaluation.model else f"{base.model}, {base.method}",
        value=compared["difference"],
        **{name: compared[name] for name in ("low", "high", "p", "test", "n")},
    )


def names(rows: Sequence[Row]) -> list[str]:
    """Names of the rows in charts: method and model; for equal ones setting and folder too, and if need be a number."""
    plain = Counter((row.method, row.model) for row in rows)
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        more = [row.setting, row.where] if plain[row.method, row.model] > 1 else []
        name = " · ".join([row.method, row.model, *filter(None, more)])
        seen[name] += 1
        named.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return named


def reasoning_rows(study: Study) -> list[dict[str, Any]]:
    """Evaluations of reasoning quality: their subject, and every figure they have."""
    return [
        {
            "dataset": rated.dataset,
            "model": rated.model,
            "method": rated.method,
            "scored_by": rated.report.get("scored_model") or rated.report.get("judge"),
            "n": rated.report["counts"]["n"],
            "figures": {
                name: figure for name, figure in rated.report["figures"].items() if figure["value"] is not None
            },
            "origins": [rated.origin],
        }
        for rated in study.evaluations
        if not rated.graded
    ]


def label_cards(study: Study) -> list[dict[str, Any]]:
    """The judges' label cards."""
    cards = [(path, struct_of(path, Card, "a label card")) for path in study.found.cards]
    return [{"card": card, "origins": [study.origin(path)]} for path, card in cards]
