"""A measurement, the way it is printed and stored, and helpers that the benchmarks share."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from agentark import cli
from agentark.types import UserError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One measured ratio."""

    name: str
    """The two quantities that are divided, and the setting."""
    ratio: float
    baseline: float
    ours: float
    unit: str
    """Unit of baseline and ours."""
    goal: str = ""
    """Goal of the ratio, e.g. `<= 1.05` or `>= 0.95`; empty if there is none."""
    spread: tuple[float, float] | None = None
    """Smallest and largest ratio, if runs were repeated."""

    @property
    def met(self) -> str:
        if not self.goal:
            return ""
        sign, bound = self.goal.split()
        return "yes" if (self.ratio <= float(bound) if sign == "<=" else self.ratio >= float(bound)) else "NO"


def parser(doc: str | None, name: str = "") -> cli.Parser:
    """A script's flags, headed by the first line of its docstring; a benchmark of that name also has --json."""
    flags = cli.Parser(description=(doc or "").split("\n")[0])
    if name:
        path = ROOT / "results" / "bench" / f"{name}.json"
        flags.add_argument("--json", type=Path, default=path, help="file for the ratios")
    return flags


def repetitions(count: int, minutes: float) -> Iterator[int]:
    """1, 2, ... `count`; none begins that would end more than `minutes` after the first began."""
    start = time.perf_counter()
    for done in range(count):
        if done and (time.perf_counter() - start) * (done + 1) / done > minutes * 60:
            print(f"no time for repetition {done + 1} within {minutes:g} minutes", file=sys.stderr)
            return
        yield done + 1


def measured(
    name: str, runs: Sequence[tuple[float, float]], unit: str, goal: str = "", *, over_ours: bool = False
) -> Row:
    """A row for repeated measurements (ours, baseline): the median of their ratios, with the spread.

    Args:
        over_ours: the ratio is baseline / ours instead of ours / baseline.
    """
    ratios = [baseline / ours if over_ours else ours / baseline for ours, baseline in runs]
    ours, baseline = (median(values) for values in zip(*runs, strict=True))
    return Row(name, median(ratios), baseline, ours, unit, goal, (min(ratios), max(ratios)) if len(runs) > 1 else None)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| measured | ratio | spread | ours | baseline | unit | goal | met |", "|---|--:|---|--:|--:|---|---|---|"]
    for row in rows:
        spread = f"{row.spread[0]:.3f} to {row.spread[1]:.3f}" if row.spread else ""
        cells = (f"{row.ratio:.3f}", spread, f"{row.ours:.4g}", f"{row.baseline:.4g}", row.unit, row.goal, row.met)
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def save(rows: Sequence[Row], path: Path) -> None:
    """The rows as a JSON list."""
    common = {"machine": machine(), "commit": commit(), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    values = []
    for row in rows:
        figures = {field: getattr(row, field) for field in ("name", "ratio", "baseline", "ours", "unit")}
        values.append(figures | (dict(zip(("low", "high"), row.spread, strict=True)) if row.spread else {}) | common)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def publish(rows: Sequence[Row], path: Path) -> int:
    """Print the rows and save them. Returns the script's exit code."""
    print(table(rows))
    save(rows, path)
    print(f"\n{machine()}, commit {commit()}; ratios written to {path}")
    return 0


def put(text: str, path: Path, marks: tuple[str, str], flag: str) -> None:
    """Replace the text between two marks in a file that `flag` names.

    Raises:
        UserError: the file lacks the marks, once each and in this order; it stays unchanged.
    """
    whole = path.read_text(encoding="utf-8") if path.is_file() else ""
    if [whole.count(mark) for mark in marks] != [1, 1] or whole.index(marks[0]) > whole.index(marks[1]):
        raise UserError(f"{flag} {path}: needs a line {marks[0]} and, after it, a line {marks[1]}")
    before, _, rest = whole.partition(marks[0])
    _, _, after = rest.partition(marks[1])
    path.write_text(f"{before}{marks[0]}\n\n{text}\n\n{marks[1]}{after}", encoding="utf-8")


def machine() -> str:
    """Processor and cores this process may use."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """Short hash of the commit, with `+` if the working tree differs from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else "unknown"
