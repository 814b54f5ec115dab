"""The report's figures as files: CSV for programs, Markdown for a README."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from agentark.files import writing
from eval.report.overview import Row
from eval.report.samples import VERDICTS, Writer
from eval.report.study import Run, Study
from eval.report.training import Curves
from eval.team.debate import Debate

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet would run a cell that begins like this."""
MARKDOWN = "tables.md"


def flow(pair: tuple[int, int], counts: Counter[tuple[str, str]]) -> dict[str, int]:
    """Changes from one round to the next, by name; they add up to n."""
    known = {
        "kept": counts["right", "right"],
        "gained": counts["wrong", "right"],
        "lost": counts["right", "wrong"],
        "missed": counts["wrong", "wrong"],
    }
    total = sum(counts.values())
    return {"before": pair[0], "after": pair[1], **known, "unknown": total - sum(known.values()), "n": total}


def flows(debate: Debate) -> list[dict[str, int]]:
    """The changes of all pairs of rounds."""
    return [flow(pair, counts) for pair, counts in sorted(debate.flows.items())]


def write(
    output: Path,
    rows: Sequence[Row],
    study: Study,
    debates: Mapping[int, Debate],
    curves: Sequence[Curves],
    samples: Writer,
) -> list[str]:
    """All exports; their names below `output`."""
    debated = [(run, debates[run.number]) for run in study.runs if run.number in debates]
    tables: dict[str, Iterable[Mapping[str, Any]]] = {
        "results.csv": map(_flat, rows),
        "flows.csv": ({"file": run.origin.file, **changes} for run, debate in debated for changes in flows(debate)),
        "voting.csv": (
            {"file": run.origin.file, "round": which, **counts}
            for run, debate in debated
            for which, counts in debate.voting().items()
        ),
        "curves.csv": (
            {"run": run.name, "step": row["step"], "figure": key, "value": value}
            for run in curves
            for row in run.rows
            for key, value in row.items()
            if key != "step" and isinstance(value, int | float)
        ),
        "samples.csv": _samples(study, samples),
    }
    written = []
    for name, content in tables.items():
        if _csv(output / name, content):
            written.append(name)
    with writing(output / MARKDOWN):
        (output / MARKDOWN).write_text(markdown(rows, debated), encoding="utf-8")
    return [*written, MARKDOWN]


PLAIN = (
    "dataset", "setting", "method", "model", "trained", "metric", "value", "se", "low", "high", "n", "unanswered",
    "errors", "truncated", "contaminated", "calls", "prompt_tokens", "completion_tokens", "seconds", "guarantee",
    "engine", "grader",
)  # fmt: skip
"""Fields of a row that results.csv has as they are."""


def _flat(row: Row) -> dict[str, Any]:
    delta = row.delta
    return {name: getattr(row, name) for name in PLAIN} | {
        "base": delta.base if delta else None,
        "difference": delta.value if delta else None,
        "difference_low": delta.low if delta else None,
        "difference_high": delta.high if delta else None,
        "p": delta.p if delta else None,
        "p_holm": delta.p_holm if delta else None,
        "n_paired": delta.n if delta else None,
        "paper": row.paper.value if row.paper else None,
        "file": row.origins[0].file,
        "sha256": row.origins[0].sha256,
        "commit": row.origins[0].commit,
        "command": row.origins[0].command,
    }


def _samples(study: Study, samples: Writer) -> Iterable[dict[str, Any]]:
    names = ("run", "id", "verdict", "gold", "answer", "tokens")
    for number, id, verdict, gold, answer, tokens in zip(*(samples.columns[name] for name in names), strict=True):
        run = study.runs[number]
        yield {
            "file": run.origin.file,
            "dataset": run.dataset,
            "method": run.method,
            "model": run.model,
            "id": id,
            "verdict": VERDICTS[verdict],
            "gold": gold,
            "answer": answer,
            "completion_tokens": tokens,
        }


def _csv(path: Path, content: Iterable[Mapping[str, Any]]) -> bool:
    """Write a table, a header first; False where there is no row."""
    rows = iter(content)
    first = next(rows, None)
    if first is None:
        return False
    with writing(path), path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(first)
        for row in chain([first], rows):
            writer.writerow([cell(value) for value in row.values()])
    return True


def cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front, unless it is a number."""
    if not isinstance(value, str):
        return value
    value = value.replace("\0", "\u2400")
    if value.startswith(FORMULA):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value


# ---------------------------------------------------------------- Markdown


def markdown(rows: Sequence[Row], debated: Sequence[tuple[Run, Debate]]) -> str:
    """The tables for a README."""
    compared = Counter(row.dataset for row in rows if row.delta)
    lines = [[of(row) for of in _COLUMNS.values()] for row in rows]
    for row, line in zip(rows, lines, strict=True):
        line.insert(9, _holm(row, compared[row.dataset]))
    head = list(_COLUMNS)
    head.insert(9, "p (Holm, of)")
    parts = [_table(head, lines, numbers={4, 10, 11})] if lines else []
    changed = []
    for run, debate in debated:
        for before, after, *counts in (changes.values() for changes in flows(debate)):
            changed.append([run.name, f"{before} → {after}", *map(str, counts)])
    if changed:
        names = ("run", "rounds", "stayed right", "wrong → right", "right → wrong", "stayed wrong", "no verdict", "n")
        parts.append(_table(names, changed, numbers=set(range(2, 8))))
    return "\n\n".join(parts) + "\n"


def _value(row: Row) -> str:
    if row.value is None:
        return "not evaluated"
    return f"{row.value:.3f}" + (f" ± {row.se:.3f}" if row.se is not None else "")


def _delta(row: Row) -> str:
    if row.delta is None:
        return "base" if row.is_base else "–"
    return f"{row.delta.value:+.3f} ({row.delta.low:+.3f} to {row.delta.high:+.3f})"


def _holm(row: Row, of: int) -> str:
    """`0.012, 3`: the adjusted p, and the number of p values of its dataset."""
    return "–" if row.delta is None or row.delta.p_holm is None else f"{row.delta.p_holm:.3g}, {of}"


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "dataset": lambda row: row.dataset,
    "questions": lambda row: row.setting or "–",
    "method": lambda row: row.method,
    "model": lambda row: f"{row.model} ({row.where})" if row.where else row.model,
    "n": lambda row: str(row.n),
    "figure": lambda row: row.metric or "–",
    "value ± se": _value,
    "against base (95%)": _delta,
    "p": lambda row: f"{row.delta.p:.3g}" if row.delta else "–",
    "tokens/question": lambda row: "–" if row.completion_tokens is None else f"{row.completion_tokens:.0f}",
    "s/question": lambda row: "–" if row.seconds is None else f"{row.seconds:.2f}",
    "paper": lambda row: f"{row.paper.value:.3f}" if row.paper else "–",
}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> str:
    """A Markdown table; names are escaped, so none can end its cell."""

    def line(cells: Sequence[str]) -> str:
        escaped = (text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for text in cells)
        return "| " + " | ".join(escaped) + " |"

    marks = "|" + "|".join("--:" if column in numbers else "---" for column in range(len(head))) + "|"
    return "\n".join([line(head), marks, *map(line, rows)])
