"""From a results file to figures: what is graded, the verdict of every answer, and what they add up to.

Every answer is in exactly one bucket: correct, wrong, unanswered (nothing could be read as an answer) or error (the
row has none). Figures are means over all answers except errors; an unanswered one scores 0.
"""

import hashlib
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agentark import answers, metrics, stats
from agentark.config import nearest
from agentark.files import Pending, check_file, sessions_of, write_atomically
from agentark.jsonl import Stored, chunks, stored
from agentark.published import PUBLISHED
from agentark.rows import Source
from agentark.tasks import Task
from agentark.types import Record, Sample, Solution, TokenStats, UserError, merged

METRICS_SCHEMA = 1
"""Version of metrics.json."""

Verdict = Literal["correct", "wrong", "unanswered", "error"]
VERDICTS: tuple[Verdict, ...] = ("correct", "wrong", "unanswered", "error")
GUARANTEES = ("engine", "seeded", "exact")
"""From the weakest to the strongest."""

GRADERS = ("algebra", "answers", "code_grading", "extraction", "metrics", "numerals", "sandbox_inside", "thinking")
"""These modules decide whether an answer is right; the grader's version is the digest of their code."""

CHUNK = 1024
"""Answers that are graded together, so that the processes that do algebra are busy."""

INDEPENDENT = "samples"
"""Key of a record's `info`: its solutions are that many independent answers, all of them graded."""


class Attempt(Struct, frozen=True):
    """One answer to one question, to be graded."""

    sample: Sample
    number: int
    """0-based, among the independent answers to this question."""
    text: str | None
    """The reply; None: there is none, and `error` says why."""
    truncated: bool | None
    """Whether the reply ended at its token limit; None: the row does not say."""
    error: str | None = None


class Graded(Struct, frozen=True, kw_only=True):
    """The grade of one attempt, a line of per_sample.jsonl."""

    id: str
    number: int
    metric: str
    """The figure that the task is reported on; a key of `figures`."""
    verdict: Verdict
    answer: str | None
    """The text read as the answer."""
    gt: str
    figures: dict[str, float | None]
    """Empty for an error; None where a figure could not be computed."""
    truncated: bool | None
    tag: str | None
    error: str | None = None
    info: dict[str, Any] = {}
    """Anything else that an evaluation says about this answer."""


# ---------------------------------------------------------------- the answers to grade


def graded_solutions(record: Record) -> list[Solution]:
    """The graded solutions of a record: its independent answers if it holds such, else its last solution."""
    return record.solutions if INDEPENDENT in record.info else record.solutions[-1:]


class Attempts(Struct, frozen=True):
    """Every answer to be graded, in the order of the file, made anew whenever somebody goes through them.

    A row with an error or without solutions is one attempt.
    """

    records: Sequence[Record]
    solutions: Callable[[Record], list[Solution]] = graded_solutions

    def __iter__(self) -> Iterator[Attempt]:
        return (attempt for record in self.records for attempt in _attempts(record, self.solutions))


def _attempts(record: Record, solutions: Callable[[Record], list[Solution]]) -> Iterator[Attempt]:
    sample = record.sample()
    if record.error is not None or not record.solutions:
        yield Attempt(sample, 0, None, None, record.error or "the row has no solutions")
        return
    turns = {turn.id: turn.completion for turn in record.trajectory}
    for number, solution in enumerate(solutions(record)):
        done = turns[solution.turn]
        truncated = None if record.method.name == PUBLISHED else done.finish_reason == "length"
        yield Attempt(sample, number, done.text, truncated)


# ---------------------------------------------------------------- grading


def grade_accuracy(task: Task, given: Iterable[Attempt]) -> Iterator[Graded]:
    """Right or wrong, by the task's own answer extraction and equivalence. Blocks."""
    for chunk in chunks(given, CHUNK):
        replies = [(attempt.sample, attempt.text) for attempt in chunk if attempt.text is not None]
        scores = iter(task.score_many(replies))
        for attempt in chunk:
            if attempt.text is None:
                yield grade(task, attempt)
                continue
            score = next(scores)
            found = answers.extract(attempt.text, attempt.sample.answer_type, attempt.sample.choices)
            yield grade(
                task,
                attempt,
                answer=found.value if found else None,
                correct=None if score is None else score == 1.0,
                figures={task.metric: score or 0.0},
                info={"how": found.how} if found else {},
            )


class TextScores(Struct, frozen=True):
    """Settings of the overlap with the references."""

    bertscore_model: str | None = None
    """None: no BERTScore."""
    bertscore_layers: int | None = None
    bertscore_device: str | None = None


def grade_text(task: Task, given: Iterable[Attempt], scores: TextScores) -> tuple[Iterator[Graded], dict[str, Any]]:
    """Overlap with the references.

    Tasks reported on F1 ask for a short answer, which is extracted from the reply; the others are scored on the whole
    reply. `f1_published` is always over the whole reply, as in the published code. Correct means an exact match.

    Args:
        given: is gone through twice. BERTScore alone needs all replies at once.

    Returns:
        The grades, and what metrics.json says of BERTScore (with the reason when it is missing) and, once all grades
        are made, of ROUGE: how many replies its tokenizers split.
    """
    bert, about = _bert_scores(task, given, scores)
    split: dict[str, int] = {}
    return _grade_text(task, given, bert, split), {"bertscore": about, "rouge_tokenizers": split}


def _grade_text(
    task: Task, given: Iterable[Attempt], bert: Iterable[float | None], split: dict[str, int]
) -> Iterator[Graded]:
    tokenizers: Counter[str] = Counter()
    for attempt, similarity in zip(given, bert, strict=False):  # `bert` may have no end
        text = None if attempt.text is None else _prediction(task, attempt)
        if attempt.text is None:
            yield grade(task, attempt)
            continue
        references = attempt.sample.golds
        reply = (answers.visible(attempt.text) or "").strip()
        prediction = text or ""
        exact = metrics.exact_match(prediction, references) if text else 0.0
        tokenizers[metrics.rouge_tokenizer(prediction, references)] += 1
        figures: dict[str, float | None] = {
            "exact_match": exact,
            "f1": metrics.f1(prediction, references) if text else 0.0,
            "f1_published": metrics.f1_published(reply, references),
            **metrics.rouge(prediction, references),
            "bleu": metrics.bleu(prediction, references),
            "bertscore": similarity,
        }
        yield grade(task, attempt, answer=text, correct=bool(exact) if text else None, figures=figures)
    split |= sorted(tokenizers.items())


def _prediction(task: Task, attempt: Attempt) -> str | None:
    assert attempt.text is not None
    if task.metric == "f1":
        found = answers.extract(attempt.text, attempt.sample.answer_type, attempt.sample.choices)
        return found.value if found else None
    return (answers.visible(attempt.text) or "").strip() or None


def _bert_scores(
    task: Task, given: Iterable[Attempt], scores: TextScores
) -> tuple[Iterable[float | None], dict[str, Any]]:
    about: dict[str, Any] = {
        "model": scores.bertscore_model and Path(scores.bertscore_model).name,
        "num_layers": scores.bertscore_layers,
        "reason": None,
    }
    if scores.bertscore_model is None:
        return repeat(None), about | {"reason": "switched off (--bertscore_model none)"}
    said = [("" if one.text is None else _prediction(task, one) or "", one.sample.golds) for one in given]
    try:
        found = metrics.bert_score(
            [text for text, _ in said],
            [golds for _, golds in said],
            scores.bertscore_model,
            scores.bertscore_layers,
            scores.bertscore_device,
        )
    except metrics.EncoderUnavailable as error:
        return repeat(None), about | {"reason": str(error)}
    return found, about


def grade(
    task: Task,
    attempt: Attempt,
    *,
    answer: str | None = None,
    correct: bool | None = None,
    figures: Mapping[str, float | None] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Graded:
    """The grade of an attempt: an error without a reply, unanswered where `correct` is None."""
    verdict: Verdict = "unanswered" if correct is None else "correct" if correct else "wrong"
    return Graded(
        id=attempt.sample.id,
        number=attempt.number,
        metric=task.metric,
        verdict="error" if attempt.text is None else verdict,
        answer=answer,
        gt=attempt.sample.gt,
        figures=dict(figures or {}),
        truncated=attempt.truncated,
        tag=attempt.sample.tag,
        error=attempt.error,
        info=dict(info or {}),
    )


# ---------------------------------------------------------------- about the run


def about_run(source: Source) -> dict[str, Any]:
    """Where the answers come from: model, method, engine, guarantee, token use, file."""
    engines = sorted({str(session["engine"]) for session in sessions_of(source.manifest) if session.get("engine")})
    models, methods, guarantees = set[str](), set[str](), set[str]()

    def spent() -> Iterator[dict[str, TokenStats]]:
        for record in source.records:
            models.add(record.model)
            methods.add(record.method.name)
            guarantees.add(record.guarantee)
            yield record.token_stats

    tokens = merged(spent())
    return {
        "model": ", ".join(sorted(models)),
        "method": ", ".join(sorted(methods)),
        "engine": ", ".join(engines) or None,
        "guarantee": min(guarantees, key=GUARANTEES.index),
        "tokens": {model: msgspec.to_builtins(used) for model, used in tokens.items()},
        "input": {"file": source.path.name, "sha256": source.sha256, "rows": len(source.records)},
    }


def grader() -> dict[str, str]:
    """Name and version of the grading code: ours by its digest (it has no release number), libraries by version."""
    code = b"".join(Path(__file__).with_name(f"{module}.py").read_bytes() for module in GRADERS)
    versions = {"name": "agentark", "version": hashlib.sha256(code).hexdigest()[:12]}
    for package in ("math-verify", "rouge-score", "sacrebleu", "bert-score"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def table(report: Mapping[str, Any]) -> str:
    """The figures and counts of a report as aligned lines."""
    lines = [f"{report['dataset']}, {report['model']}, {report['method']}"]
    for name, one in report["figures"].items():
        mark = "*" if name == report["metric"] else " "
        if one["value"] is None:
            lines.append(f"{mark} {name:18} -")
            continue
        error = f" ± {one['se']:.4f}" if one["se"] is not None else ""
        lines.append(f"{mark} {name:18} {one['value']:.4f}{error}  (n {one['n']})")
    lines.append(", ".join(f"{name} {count}" for name, count in report["counts"].items()))
    if report["truncated"]:
        lines.append(f"{report['truncated']} replies were cut at their token limit")
    return "\n".join(lines)


def compare(
    a: Sequence[Graded], b: Sequence[Graded], metric: str | None, paths: tuple[Path, Path], seed: int = 0
) -> dict[str, Any]:
    """b against a on the questions that both have a figure for, by the question's mean.

    Args:
        metric: the figure; None: the one their dataset is reported on.
        paths: of both, for error messages.

    Raises:
        UserError: other datasets, no such figure, or no question in common.
    """
    if metric is None and a[0].metric != b[0].metric:
        raise UserError(
            f"{paths[0]} reports {a[0].metric}, {paths[1]} {b[0].metric}: not the same dataset; give --metric"
        )
    name = metric or a[0].metric
    left, right = (values_by_question(rows, name, path) for rows, path in zip((a, b), paths, strict=True))
    shared = [key for key in left if key in right]
    if not shared:
        raise UserError(f"{paths[0]} and {paths[1]} have no question in common (of {len(left)} and {len(right)})")
    found = stats.paired([left[key] for key in shared], [right[key] for key in shared], seed=seed)
    return {
        "metric": name,
        **msgspec.structs.asdict(found),
        "only_a": len(left) - len(shared),
        "only_b": len(right) - len(shared),
    }


# ---------------------------------------------------------------- files


def written_files(folder: Path, prefix: str) -> tuple[Path, Path]:
    """The two files of an evaluation. Raises UserError where they cannot be written."""
    paths = folder / f"{prefix}metrics.json", folder / f"{prefix}per_sample.jsonl"
    for path in paths:
        check_file(path)
    return paths


@contextmanager
def written(folder: Path, prefix: str) -> Iterator["Written"]:
    """The two files, to be filled. Raises RunError, UserError when they cannot be written."""
    metrics, rows = written_files(folder, prefix)
    with Pending(rows) as pending:
        yield Written(metrics, pending)


class Written(Struct, frozen=True):
    """`metrics.json` and `per_sample.jsonl`, which appear together at the end."""

    metrics: Path
    rows: Pending

    def add(self, row: Any) -> None:
        """One line of per_sample.jsonl."""
        self.rows.add(row)

    def finish(self, report: Mapping[str, Any]) -> tuple[Path, Path]:
        """Put both files into their places. Returns their paths."""
        write_atomically(self.metrics, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        self.rows.place()
        return self.metrics, self.rows.path


def read_graded(path: Path) -> Stored[Graded]:
    """The rows of a per_sample.jsonl (or the one beside a metrics.json).

    Raises:
        UserError: the file is missing, empty, or of another kind.
    """
    if path.name.endswith("metrics.json"):
        path = path.with_name(path.name.removesuffix("metrics.json") + "per_sample.jsonl")
    decoder = msgspec.json.Decoder(Graded)
    rows = stored(path, str(path), lambda line: line.decode(decoder, "a row of a per_sample.jsonl"))
    if not sum(1 for _ in rows):  # every row is one
        raise UserError(f"{path}: the file is empty")
    return rows


def values_by_question(rows: Sequence[Graded], metric: str, path: Path) -> dict[str, float]:
    """id -> mean of a figure over the question's answers; questions with errors only are left out.

    Raises:
        UserError: no row has that figure.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        if (value := row.figures.get(metric)) is not None:
            found.setdefault(row.id, []).append(value)
    if not found:
        known = sorted({name for row in rows for name, value in row.figures.items() if value is not None})
        raise UserError(f"{path}: has no figure {metric!r} ({nearest(metric, known)})")
    return {key: sum(values) / len(values) for key, values in found.items()}
