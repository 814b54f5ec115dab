"""The table of a study: every system's figure with its standard error, against one of them, question by question.

    python -m distill.study_table --output outputs/study/table --rows \
        held-out/base=outputs/.../per_sample.jsonl held-out/debate=outputs/.../per_sample.jsonl

Writes <output>.md and <output>.json. Every set of questions has a table; the first system is what the others are
compared with.
"""

# ruff: noqa: T201 -- an entry script: it prints the table

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentark import cli, contamination, stats
from agentark.evaluation import read_graded, values_by_question
from agentark.records import now, write_atomically
from agentark.types import UserError

HEAD = "| system | n | {metric}, % | − {base} | p | tokens an answer |\n|---|--:|--:|--:|--:|--:|"


class Cell(Struct, frozen=True, kw_only=True):
    """One system on one set of questions."""

    n: int
    """Questions that carry a figure."""
    errors: int
    """Questions without one, because their run failed."""
    value: float
    se: float | None
    difference: float | None
    """From the first system on the questions both have; None for the first itself."""
    p: float | None
    """Two-sided, paired."""
    tokens: float
    """Completion tokens per question, all agents together."""


class Table(Struct, frozen=True, kw_only=True):
    """All systems on one set of questions."""

    dataset: str
    metric: str
    files: dict[str, str]
    rows: dict[str, Cell]


def values(graded: Path, metric: str) -> dict[str, float]:
    """Question -> figure."""
    return values_by_question(read_graded(graded), metric, graded)


def tokens(graded: Path) -> int:
    """Completion tokens behind an evaluation, all agents and questions together."""
    used = report(graded)["tokens"]
    return sum(int(one["completion_tokens"]) for one in used.values())


def report(graded: Path) -> dict[str, Any]:
    """The metrics.json beside a per_sample.jsonl."""
    return contamination.json_of(graded.with_name(graded.name.removesuffix("per_sample.jsonl") + "metrics.json"))


def make(files: Mapping[str, Path], seed: int = 0) -> Table:
    """The table of one set.

    Args:
        files: system -> its per_sample.jsonl; the first is what the others are compared with.

    Raises:
        UserError: a file that is no evaluation, another metric, or systems that were asked other questions.
    """
    first = next(iter(files))
    graded = {name: read_graded(path) for name, path in files.items()}
    metric = graded[first][0].metric
    asked = {one.id for one in graded[first]}
    found = {name: values_by_question(graded[name], metric, path) for name, path in files.items()}
    rows = {}
    for name, path in files.items():
        if {one.id for one in graded[name]} != asked:
            raise UserError(f"--rows: {name} ({path}) and {first} ({files[first]}) were not asked the same questions")
        mean, se = stats.mean_and_se(list(found[name].values()))
        both = sorted(found[name].keys() & found[first].keys())
        paired = stats.paired([found[first][key] for key in both], [found[name][key] for key in both], seed=seed)
        rows[name] = Cell(
            n=len(found[name]),
            errors=len(asked) - len(found[name]),
            value=mean,
            se=se,
            difference=None if name == first else paired.difference,
            p=None if name == first else paired.p,
            tokens=tokens(path) / len(asked),
        )
    about = report(files[first])
    return Table(
        dataset=str(about["dataset"]), metric=metric, files={name: str(path) for name, path in files.items()}, rows=rows
    )


def markdown(tables: Mapping[str, Table]) -> str:
    """All tables, with what the columns mean below."""
    parts = []
    for name, one in tables.items():
        base = next(iter(one.rows))
        lines = [f"{name} ({one.dataset})\n", HEAD.format(metric=one.metric, base=base)]
        for system, cell in one.rows.items():
            against = "–" if cell.difference is None else f"{100 * cell.difference:+.1f}"
            p = "–" if cell.p is None else f"{cell.p:.2g}"
            n = f"{cell.n}" + (f" (+{cell.errors} failed)" if cell.errors else "")
            lines.append(f"| {system} | {n} | {percent(cell.value, cell.se)} | {against} | {p} | {cell.tokens:.0f} |")
        parts.append("\n".join(lines))
    parts.append(
        "± is one standard error; p is two-sided, paired on the same questions (McNemar's exact test where answers are "
        "right or wrong, else sign flips); tokens are those written, all agents together."
    )
    return "\n\n".join(parts)


def percent(value: float, se: float | None) -> str:
    """`41.2 ± 2.8`."""
    return f"{100 * value:.1f}" + ("" if se is None else f" ± {100 * se:.1f}")


def parse_rows(words: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Set -> system -> file, of `set/system=file`."""
    found: dict[str, dict[str, Path]] = {}
    for word in words:
        name, separator, path = word.partition("=")
        questions, slash, system = name.partition("/")
        if not (separator and slash and path and system and questions):
            raise UserError(f"--rows {word!r}: expected set/system=file")
        if system in found.setdefault(questions, {}):
            raise UserError(f"--rows {word!r}: {system} is there twice for {questions}")
        found[questions][system] = Path(path)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m distill.study_table", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--rows", nargs="+", required=True, metavar="SET/SYSTEM=FILE", help="per_sample.jsonl of a system on a set"
    )
    parser.add_argument("--output", type=Path, required=True, help="files to write, without .md and .json")
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="of the paired test")
    args: Namespace = parser.parse_args(argv)
    tables = {name: make(files, args.seed) for name, files in parse_rows(args.rows).items()}
    text = markdown(tables)
    about = {"tables": tables, "written": now(), "command": cli.command_line(), "versions": cli.provenance()}
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        encoded = msgspec.json.format(msgspec.json.encode(about), indent=2)
        write_atomically(args.output.with_name(args.output.name + ".json"), encoded + b"\n")
        write_atomically(args.output.with_name(args.output.name + ".md"), text.encode() + b"\n")
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written ({error.strerror})") from None
    print(text)
    print(f"written to {args.output}.md")
    return 0


if __name__ == "__main__":
    cli.entry(main)
