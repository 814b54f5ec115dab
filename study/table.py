"""The table of a study: every system's figure and standard error, compared with one system question by question.

    python -m study.table --output outputs/study/table --rows \
        held-out/base=outputs/.../per_sample.jsonl held-out/debate=outputs/.../per_sample.jsonl

Writes <output>.md and <output>.json. Every set of questions has a table, and so has every pool of sets (`--pool
both=held-out,other`), whose questions are compared together; the other systems are compared with the first. `--contrast
interaction=debate/independent` adds the difference of two systems. With `--study outputs/study/study.json` the table
also says how long answers and training took.
"""

# ruff: noqa: T201 -- an entry script: it prints the table

from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct, structs

from agentark import cli, stats
from agentark.config import nearest
from agentark.evaluation import read_graded, values_by_question
from agentark.files import check_file, json_of, write_atomically
from agentark.records import now
from agentark.systems import completion_tokens, parse_rows, report
from agentark.types import UserError
from study.layout import answering_steps, training_steps

HEAD = "| system | n | {metric}, % | − {base} | p | {holm}tokens an answer | seconds | training seconds |"


class Cell(Struct, frozen=True, kw_only=True):
    """One system on one set of questions."""

    n: int
    """Number of questions with a figure."""
    errors: int
    """Number of questions without a figure, because their run failed."""
    value: float
    se: float | None
    difference: float | None
    """Difference from the first system on the questions both have; None for the first itself."""
    p: float | None
    """p value of the difference, two-sided, paired."""
    p_holm: float | None = None
    """Adjusted for all p values of this table; None if there is no other."""
    tokens: float
    """Completion tokens per question, all agents together."""
    seconds: float | None = None
    """Wall time of the steps that made and graded the answers, including engine start; None if unknown."""
    training_seconds: float | None = None
    """Wall time of its training; None if it is unknown or the system was not trained."""


class Contrast(Struct, frozen=True, kw_only=True):
    """One system minus another, on the questions both have."""

    systems: tuple[str, str]
    n: int
    difference: float
    low: float
    high: float
    """95% bootstrap interval."""
    p: float
    """Two-sided, paired."""
    p_holm: float
    """Adjusted for the contrasts of this table."""


class Table(Struct, frozen=True, kw_only=True):
    """All systems on a set of questions, or on several pooled sets."""

    dataset: str
    metric: str
    files: dict[str, list[str]]
    """System -> its per_sample.jsonl for each set."""
    rows: dict[str, Cell]
    contrasts: dict[str, Contrast] = {}


def make(
    sets: Mapping[str, Mapping[str, Path]],
    seconds: Mapping[str, float] = MappingProxyType({}),
    seed: int = 0,
    contrasts: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> Table:
    """The table of a set, or of several sets whose questions are compared together.

    Args:
        sets: set -> system -> its per_sample.jsonl; the other systems are compared with the first.
        seconds: step of the study -> its duration.
        contrasts: name -> (system, the one it is compared with).

    Raises:
        UserError: a file is not an evaluation, or systems have different metrics or questions.
    """
    names = list(next(iter(sets.values())))
    graded = {name: {key: read_graded(files[name]) for key, files in sets.items()} for name in names}
    first = names[0]
    metric = next(iter(graded[first].values()))[0].metric
    asked = {(key, row.id) for key, rows in graded[first].items() for row in rows}
    figures = {
        name: {
            (key, question): value
            for key, rows in graded[name].items()
            for question, value in values_by_question(rows, metric, sets[key][name]).items()
        }
        for name in names
    }
    cells = {}
    for name in names:
        if {(key, row.id) for key, rows in graded[name].items() for row in rows} != asked:
            told = [f"{row} ({', '.join(str(files[row]) for files in sets.values())})" for row in (name, first)]
            raise UserError(f"--rows: {' and '.join(told)} were not asked the same questions")
        own, base = figures[name], figures[first]
        mean, se = stats.mean_and_se(list(own.values()))
        shared = sorted(own.keys() & base.keys())
        paired = stats.paired([base[key] for key in shared], [own[key] for key in shared], seed=seed)
        cells[name] = Cell(
            n=len(own),
            errors=len(asked) - len(own),
            value=mean,
            se=se,
            difference=None if name == first else paired.difference,
            p=None if name == first else paired.p,
            tokens=sum(completion_tokens(files[name]) for files in sets.values()) / len(asked),
            seconds=_spent(seconds, (step for key in sets for step in answering_steps(name, key))),
            training_seconds=_spent(seconds, training_steps(name)),
        )
    others = names[1:] if len(names) > 2 else []
    for name, p in zip(others, stats.holm([cells[name].p or 0.0 for name in others]), strict=True):
        cells[name] = structs.replace(cells[name], p_holm=p)
    files = {name: [str(of[name]) for of in sets.values()] for name in names}
    about = report(next(iter(sets.values()))[first])
    compared = _contrasts(contrasts, figures, seed)
    return Table(dataset=str(about["dataset"]), metric=metric, files=files, rows=cells, contrasts=compared)


def _contrasts(
    named: Mapping[str, tuple[str, str]], figures: Mapping[str, Mapping[tuple[str, str], float]], seed: int
) -> dict[str, Contrast]:
    found = {}
    for name, (system, other) in named.items():
        shared = sorted(figures[system].keys() & figures[other].keys())
        values = ([figures[of][key] for key in shared] for of in (other, system))
        found[name] = stats.paired(*values, seed=seed)
    adjusted = stats.holm([paired.p for paired in found.values()])
    return {
        name: Contrast(
            systems=named[name], n=paired.n, difference=paired.difference, low=paired.low, high=paired.high,
            p=paired.p, p_holm=p,
        )
        for (name, paired), p in zip(found.items(), adjusted, strict=True)
    }  # fmt: skip


def _spent(seconds: Mapping[str, float], steps: Iterable[str]) -> float | None:
    """Wall time of the steps that ran; None if none ran."""
    known = [seconds[step] for step in steps if step in seconds]
    return sum(known) if known else None


def markdown(tables: Mapping[str, Table]) -> str:
    """All tables, followed by an explanation of the columns."""
    parts = []
    for name, table in tables.items():
        base = next(iter(table.rows))
        compared = len(table.rows) - 1
        head = HEAD.format(metric=table.metric, base=base, holm=f"p (Holm, of {compared}) | " if compared > 1 else "")
        lines = [f"{name} ({table.dataset})\n", head, "|---|" + "--:|" * (head.count("|") - 2)]
        for system, cell in table.rows.items():
            against = "–" if cell.difference is None else f"{100 * cell.difference:+.1f}"
            ps = [cell.p, cell.p_holm] if compared > 1 else [cell.p]
            p = " | ".join("–" if value is None else f"{value:.2g}" for value in ps)
            n = f"{cell.n}" + (f" (+{cell.errors} failed)" if cell.errors else "")
            times = " | ".join("–" if time is None else f"{time:.0f}" for time in (cell.seconds, cell.training_seconds))
            lines.append(
                f"| {system} | {n} | {percent(cell.value, cell.se)} | {against} | {p} | {cell.tokens:.0f} | {times} |"
            )
        lines += _contrast_lines(table.contrasts)
        parts.append("\n".join(lines))
    parts.append(
        "± is one standard error; p is two-sided, paired on the same questions (McNemar's exact test where answers are "
        "right or wrong, else sign flips); Holm's p is adjusted for all p values of its table; tokens are those "
        "written, all agents together; seconds are wall time, with the engine's start."
    )
    return "\n\n".join(parts)


def _contrast_lines(contrasts: Mapping[str, Contrast]) -> list[str]:
    if not contrasts:
        return []
    head = f"| contrast | systems | n | points [95%] | p | p (Holm, of {len(contrasts)}) |"
    lines = ["", head, "|---|---|--:|--:|--:|--:|"]
    for name, one in contrasts.items():
        points = f"{100 * one.difference:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
        lines.append(f"| {name} | {' − '.join(one.systems)} | {one.n} | {points} | {one.p:.2g} | {one.p_holm:.2g} |")
    return lines


def percent(value: float, se: float | None) -> str:
    """`41.2 ± 2.8`."""
    return f"{100 * value:.1f}" + ("" if se is None else f" ± {100 * se:.1f}")


def parse_pools(words: Sequence[str], sets: Mapping[str, Mapping[str, Path]]) -> dict[str, list[str]]:
    """Pool -> its sets, from words `pool=set,set`.

    Raises:
        UserError: a set does not exist, a name is taken, or the sets have different systems.
    """
    pools: dict[str, list[str]] = {}
    for word in words:
        name, _, listed = word.partition("=")
        members = listed.split(",")
        for member in members:
            if member not in sets:
                raise UserError(f"--pool {word!r}: no set {member!r} ({nearest(member, sets)}); expected pool=set,set")
        if name in sets or name in pools:
            raise UserError(f"--pool {word!r}: {name} is there twice")
        if any(list(sets[member]) != list(sets[members[0]]) for member in members):
            raise UserError(f"--pool {word!r}: its sets have other systems")
        pools[name] = members
    return pools


def parse_contrasts(words: Sequence[str], sets: Mapping[str, Mapping[str, Path]]) -> dict[str, tuple[str, str]]:
    """Contrast -> (system, the one it is compared with), from words `contrast=system/other`.

    Raises:
        UserError: a word of another form, a name that is there twice, or a system that some set lacks.
    """
    contrasts: dict[str, tuple[str, str]] = {}
    for word in words:
        name, _, pair = word.partition("=")
        system, slash, other = pair.partition("/")
        if not (name and system and slash and other):
            raise UserError(f"--contrast {word!r}: expected contrast=system/other")
        for rows in sets.values():
            for one in (system, other):
                if one not in rows:
                    raise UserError(f"--contrast {word!r}: no system {one!r} ({nearest(one, rows)})")
        if name in contrasts:
            raise UserError(f"--contrast {word!r}: {name} is there twice")
        contrasts[name] = (system, other)
    return contrasts


def read_seconds(path: Path | None) -> dict[str, float]:
    """Step -> its duration, from a study.json."""
    if path is None:
        return {}
    try:
        return {name: float(step["seconds"]) for name, step in json_of(path)["steps"].items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"--study {path}: is not the state of a study") from None


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m study.table", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--rows", nargs="+", required=True, metavar="SET/SYSTEM=FILE", help="per_sample.jsonl of a system on a set"
    )
    parser.add_argument("--pool", nargs="+", default=[], metavar="POOL=SET,SET", help="also pool these sets")
    parser.add_argument("--contrast", nargs="+", default=[], metavar="NAME=SYSTEM/OTHER", help="a difference to add")
    parser.add_argument("--study", type=Path, help="study.json, for the durations")
    parser.add_argument("--output", type=Path, required=True, help="path of the files, without .md and .json")
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="seed of the paired test")
    args: Namespace = parser.parse_args(argv)
    written = [args.output.with_name(args.output.name + ending) for ending in (".json", ".md")]
    for path in written:
        check_file(path, f"--output {args.output}: {path.name}")
    sets, seconds = parse_rows(args.rows), read_seconds(args.study)
    pools = {name: [name] for name in sets} | parse_pools(args.pool, sets)
    contrasts = parse_contrasts(args.contrast, sets)
    tables = {
        name: make({key: sets[key] for key in keys}, seconds, args.seed, contrasts) for name, keys in pools.items()
    }
    text = markdown(tables)
    about = {"tables": tables, "written": now(), "command": cli.command_line(), "versions": cli.provenance()}
    encoded = msgspec.json.format(msgspec.json.encode(about), indent=2)
    for path, content in zip(written, (encoded, text.encode()), strict=True):
        write_atomically(path, content + b"\n")
    print(text)
    print(f"written to {args.output}.md")
    return 0


if __name__ == "__main__":
    cli.entry(main)
