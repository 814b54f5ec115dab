"""From a results file to figures: what is graded, the verdict of every answer, and what they add up to.

Every answer is in exactly one bucket: correct, wrong, unanswered (nothing could be read as an answer) or error (the
row has none). Figures are means over all answers except errors; an unanswered one scores 0.
"""

import hashlib
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agentark import answers, metrics, stats
from agentark.config import nearest
from agentark.files import check_file, sessions_of, write_atomically
from agentark.jsonl import decoded
from agentark.published import PUBLISHED
from agentark.rows import Source
from agentark.tasks import Task
from agentark.types import Record, Sample, Solution, UserError, merged

METRICS_SCHEMA = 1
"""Version of metrics.json."""

Verdict = Literal["correct", "wrong", "unanswered", "error"]
VERDICTS: tuple[Verdict, ...] = ("correct", "wrong", "unanswered", "error")
GUARANTEES = ("engine", "seeded", "exact")
"""From the weakest to the strongest."""

GRADERS = ("algebra", "answers", "code_grading", "extraction", "metrics", "numerals", "sandbox_inside", "thinking")
"""These modules decide whether an answer is right; the grader's version is the digest of their code."""

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


def attempts(
    records: Sequence[Record], solutions: Callable[[Record], list[Solution]] = graded_solutions
) -> list[Attempt]:
    """Every answer to be graded, in the order of the file. A row with an error or without solutions is one attempt."""
    return [attempt for record in records for attempt in _attempts(record, solutions)]


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


def grade_accuracy(task: Task, given: Sequence[Attempt]) -> list[Graded]:
    """Right or wrong, by the task's own answer extraction and equivalence. Blocks."""
    replies = [(attempt.sample, attempt.text) for attempt in given if attempt.text is not None]
    scores = iter(task.score_many(replies))
    graded = []
    for attempt in given:
        if attempt.text is None:
            graded.append(grade(task, attempt))
            continue
        score = next(scores)
        found = answers.extract(attempt.text, attempt.sample.answer_type, attempt.sample.choices)
        graded.append(
            grade(
                task,
                attempt,
                answer=found.value if found else None,
                correct=None if score is None else score == 1.0,
                figures={task.metric: score or 0.0},
                info={"how": found.how} if found else {},
            )
        )
    return graded


class TextScores(Struct, frozen=True):
    """Settings of the overlap with the references."""

    bertscore_model: str | None = None
    """None: no BERTScore."""
    bertscore_layers: int | None = None
    bertscore_device: str | None = None


def grade_text(task: Task, given: Sequence[Attempt], scores: TextScores) -> tuple[list[Graded], dict[str, Any]]:
    """Overlap with the references.

    Tasks reported on F1 ask for a short answer, which is extracted from the reply; the others are scored on the whole
    reply. `f1_published` is always over the whole reply, as in the published code. Correct means an exact match.

    Returns:
        The grades, and what metrics.json says of BERTScore (with the reason when it is missing) and of ROUGE: how many
        replies its tokenizers split.
    """
    said = [None if attempt.text is None else _prediction(task, attempt) for attempt in given]
    bert, about = _bert_scores(
        [(text or "", attempt.sample) for text, attempt in zip(said, given, strict=True)], scores
    )
    graded = []
    tokenizers: Counter[str] = Counter()
    for attempt, text, similarity in zip(given, said, bert, strict=True):
        if attempt.text is None:
            graded.append(grade(task, attempt))
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
        graded.append(grade(task, attempt, answer=text, correct=bool(exact) if text else None, figures=figures))
    return graded, {"bertscore": about, "rouge_tokenizers": dict(sorted(tokenizers.items()))}


def _prediction(task: Task, attempt: Attempt) -> str | None:
    assert attempt.text is not None
    if task.metric == "f1":
        found = answers.extract(attempt.text, attempt.sample.answer_type, attempt.sample.choices)
        return found.value if found else None
    return (answers.visible(attempt.text) or "").strip() or None


def _bert_scores(
    given: Sequence[tuple[str, Sample]], scores: TextScores
) -> tuple[Sequence[float | None], dict[str, Any]]:
    about: dict[str, Any] = {
        "model": scores.bertscore_model and Path(scores.bertscore_model).name,
        "num_layers": scores.bertscore_layers,
        "reason": None,
    }
    if scores.bertscore_model is None:
        return [None] * len(given), about | {"reason": "switched off (--bertscore_model none)"}
    try:
        found = metrics.bert_score(
            [text for text, _ in given],
            [sample.golds for _, sample in given],
            scores.bertscore_model,
            scores.bertscore_layers,
            scores.bertscore_device,
        )
    except metrics.EncoderUnavailable as error:
        return [None] * len(given), about | {"reason": str(error)}
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


# ---------------------------------------------------------------- adding up


def figure(values: Sequence[float], clusters: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """A mean as it is reported: value, standard error clustered by question, 95% interval, n."""
    if not values:
        return {"value": None, "se": None, "ci95": None, "n": 0}
    mean, error = stats.mean_and_se(values, clusters)
    interval = list(stats.interval(values, clusters, seed=seed)) if error is not None else None
    return {"value": mean, "se": error, "ci95": interval, "n": len(values)}


def summarise(graded: Sequence[Graded], seed: int = 0) -> dict[str, Any]:
    """Figures and counts; correct + wrong + unanswered + error = n, asserted."""
    scored = [one for one in graded if one.verdict != "error"]
    names = list(dict.fromkeys(name for one in scored for name in one.figures))
    figures = {}
    for name in names:
        known = [(value, one.id) for one in scored if (value := one.figures.get(name)) is not None]
        figures[name] = figure([value for value, _ in known], [key for _, key in known], seed)
    answered = [one for one in scored if one.verdict != "unanswered"]
    if "accuracy" in figures:
        right = [float(one.verdict == "correct") for one in answered]
        figures["accuracy_answered"] = figure(right, [one.id for one in answered], seed)
    buckets = Counter(one.verdict for one in graded)
    counts: dict[str, int] = {"n": len(graded)}
    counts.update({verdict: buckets[verdict] for verdict in VERDICTS})
    assert sum(buckets[verdict] for verdict in VERDICTS) == len(graded)
    unknown = any(one.truncated is None for one in scored)
    return {
        "figures": figures,
        "counts": counts,
        "questions": len({one.id for one in graded}),
        "truncated": None if unknown else sum(bool(one.truncated) for one in scored),
        "by_tag": _by_tag(scored),
    }


def _by_tag(scored: Sequence[Graded]) -> dict[str, dict[str, Any]]:
    """The task's figure for each tag, where there are tags."""
    tags = sorted({one.tag for one in scored if one.tag is not None})
    found = {}
    for tag in tags:
        known = [
            (value, one.id) for one in scored if one.tag == tag and (value := one.figures.get(one.metric)) is not None
        ]
        if known:
            mean, error = stats.mean_and_se([value for value, _ in known], [key for _, key in known])
            found[tag] = {"value": mean, "se": error, "n": len(known)}
    return found


def about_run(source: Source) -> dict[str, Any]:
    """Where the answers come from: model, method, engine, guarantee, token use, file."""
    engines = sorted({str(session["engine"]) for session in sessions_of(source.manifest) if session.get("engine")})
    tokens = merged(record.token_stats for record in source.records)
    return {
        "model": _names(record.model for record in source.records),
        "method": _names(record.method.name for record in source.records),
        "engine": ", ".join(engines) or None,
        "guarantee": min((record.guarantee for record in source.records), key=GUARANTEES.index),
        "tokens": {model: msgspec.to_builtins(used) for model, used in tokens.items()},
        "input": {"file": source.path.name, "sha256": source.sha256, "rows": len(source.records)},
    }


def _names(names: Iterator[str]) -> str:
    return ", ".join(sorted(set(names)))


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


def write(folder: Path, prefix: str, report: Mapping[str, Any], graded: Sequence[Any]) -> tuple[Path, Path]:
    """Write `<prefix>metrics.json` and `<prefix>per_sample.jsonl`, each as a whole. Returns both paths."""
    paths = written_files(folder, prefix)
    write_atomically(paths[0], msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    write_atomically(paths[1], b"".join(msgspec.json.encode(one) + b"\n" for one in graded))
    return paths


def read_graded(path: Path) -> list[Graded]:
    """The rows of a per_sample.jsonl (or the one beside a metrics.json).

    Raises:
        UserError: the file is missing, empty, or of another kind.
    """
    if path.name.endswith("metrics.json"):
        path = path.with_name(path.name.removesuffix("metrics.json") + "per_sample.jsonl")
    rows = list(decoded(path, Graded, "a row of a per_sample.jsonl"))
    if not rows:
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
