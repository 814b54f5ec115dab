"""The report's figures as files: CSV for programs, Markdown for a README."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentark.types import RunError
from eval.report.debate import Debate
from eval.report.overview import Row
from eval.report.samples import VERDICTS, Writer
from eval.report.study import Study
from eval.report.training import Curves

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would run."""
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


def write(
    output: Path,
    rows: Sequence[Row],
    study: Study,
    debates: Mapping[int, Debate],
    curves: Sequence[Curves],
    samples: Writer,
) -> list[str]:
    """All exports; their names below `output`."""
    tables: dict[str, Iterable[Mapping[str, Any]]] = {
        "results.csv": map(_flat, rows),
        "flows.csv": (
            {"file": run.origin.file, **flow(pair, counts)}
            for run in study.runs
            if run.number in debates
            for pair, counts in sorted(debates[run.number].flows.items())
        ),
        "voting.csv": (
            {"file": run.origin.file, "round": which, **counts}
            for run in study.runs
            if run.number in debates
            for which, counts in debates[run.number].voting().items()
        ),
        "curves.csv": (
            {"run": one.name, "step": row["step"], "figure": key, "value": value}
            for one in curves
            for row in one.rows
            for key, value in row.items()
            if key != "step" and isinstance(value, int | float)
        ),
        "samples.csv": _samples(study, samples),
    }
    written = []
    try:
        for name, content in tables.items():
            if _csv(output / name, content):
                written.append(name)
        (output / MARKDOWN).write_text(markdown(rows, study, debates), encoding="utf-8")
    except OSError as error:
        raise RunError(f"{error.filename or output}: cannot be written ({error.strerror})") from None
    return [*written, MARKDOWN]


def _flat(row: Row) -> dict[str, Any]:
    names = (
        *(
            "dataset",
            "setting",
            "method",
            "model",
            "trained",
            "metric",
            "value",
            "se",
            "low",
            "high",
            "n",
            "unanswered",
            "errors",
        ),
        *(
            "truncated",
            "contaminated",
            "calls",
            "prompt_tokens",
            "completion_tokens",
            "seconds",
            "guarantee",
            "engine",
            "grader",
        ),
    )
    delta = row.delta
    return {name: getattr(row, name) for name in names} | {
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
    columns = samples.columns
    for place in range(len(samples)):
        run = study.runs[columns["run"][place]]
        yield {
            "file": run.origin.file,
            "dataset": run.dataset,
            "method": run.method,
            "model": run.model,
            "id": columns["id"][place],
            "verdict": VERDICTS[columns["verdict"][place]],
            "gold": columns["gold"][place],
            "answer": columns["answer"][place],
            "completion_tokens": columns["tokens"][place],
        }


def _csv(path: Path, content: Iterable[Mapping[str, Any]]) -> bool:
    """Write a table, a header first; False where there is no row."""
    rows = iter(content)
    first = next(rows, None)
    if first is None:
        return False
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(first)
        for row in (first, *rows):
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


def markdown(rows: Sequence[Row], study: Study, debates: Mapping[int, Debate]) -> str:
    """The tables for a README."""
    head = (
        "dataset",
        "questions",
        "method",
        "model",
        "n",
        "figure",
        "value ± se",
        "against base (95%)",
        "p",
        "p (Holm, of)",
        "tokens/question",
        "s/question",
        "paper",
    )
    compared = Counter(row.dataset for row in rows if row.delta)
    lines = [[_of(row) for _of in _CELLS] for row in rows]
    for row, line in zip(rows, lines, strict=True):
        line.insert(9, _holm(row, compared[row.dataset]))
    parts = [_table(head, lines, numbers={4, 10, 11})] if lines else []
    flows = [
        [
            run.name,
            f"{one['before']} → {one['after']}",
            *(str(one[key]) for key in ("kept", "gained", "lost", "missed", "unknown", "n")),
        ]
        for run in study.runs
        if run.number in debates
        for pair, counts in sorted(debates[run.number].flows.items())
        for one in [flow(pair, counts)]
    ]
    if flows:
        names = ("run", "rounds", "stayed right", "wrong → right", "right → wrong", "stayed wrong", "no verdict", "n")
        parts.append(_table(names, flows, numbers=set(range(2, 8))))
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
    """`0.012, 3`: the adjusted p, and for how many p values of its dataset."""
    return "–" if row.delta is None or row.delta.p_holm is None else f"{row.delta.p_holm:.3g}, {of}"


_CELLS = (
    lambda row: row.dataset,
    lambda row: row.setting or "–",
    lambda row: row.method,
    lambda row: row.model,
    lambda row: str(row.n),
    lambda row: row.metric or "–",
    _value,
    _delta,
    lambda row: f"{row.delta.p:.3g}" if row.delta else "–",
    lambda row: "–" if row.completion_tokens is None else f"{row.completion_tokens:.0f}",
    lambda row: "–" if row.seconds is None else f"{row.seconds:.2f}",
    lambda row: f"{row.paper.value:.3f}" if row.paper else "–",
)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> str:
    """A Markdown table; names are escaped, so that none can end its cell."""

    def line(cells: Sequence[str]) -> str:
        return (
            "| " + " | ".join(one.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for one in cells) + " |"
        )

    marks = "|" + "|".join("--:" if place in numbers else "---" for place in range(len(head))) + "|"
    return "\n".join([line(head), marks, *map(line, rows)])
