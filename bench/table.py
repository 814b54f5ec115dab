"""The speed table: every ratio in results/bench/*.json as one markdown table.

    python bench/table.py                              print it
    python bench/table.py --into docs/performance.md   and put it between the marks there

Files without ratios are left out, and named on stderr. The marks are two lines:
`<!-- performance -->` and `<!-- end of performance -->`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark.cli import entry
from agentark.types import UserError
from bench.parts import report

FOLDER = report.ROOT / "results" / "bench"
MARKS = ("<!-- performance -->", "<!-- end of performance -->")
FIELDS = {"name", "ratio", "baseline", "ours", "unit", "machine", "commit", "date"}


@dataclass(frozen=True)
class Ratio:
    """One ratio and where it was measured."""

    row: report.Row
    machine: str
    commit: str
    date: str


def read(folder: Path) -> tuple[list[Ratio], list[str]]:
    """(ratios by file and in its order, files that hold none)."""
    ratios, others = [], []
    for path in sorted(folder.glob("*.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, list) and all(isinstance(value, dict) and value.keys() >= FIELDS for value in values):
            ratios += [_ratio(value) for value in values]
        else:
            others.append(path.name)
    return ratios, others


def _ratio(value: dict[str, Any]) -> Ratio:
    spread = (value["low"], value["high"]) if "low" in value else None
    row = report.Row(value["name"], value["ratio"], value["baseline"], value["ours"], value["unit"], spread=spread)
    return Ratio(row, value["machine"], value["commit"], value["date"][:10])


def table(ratios: Sequence[Ratio]) -> str:
    """Markdown: one table per machine, commit and day."""
    blocks: list[str] = []
    for machine, commit, date in dict.fromkeys((ratio.machine, ratio.commit, ratio.date) for ratio in ratios):
        lines = [f"{machine}, commit {commit}, {date}:", ""]
        lines += ["| measured | ratio | spread | ours | baseline | unit |", "|---|--:|---|--:|--:|---|"]
        for ratio in ratios:
            if (ratio.machine, ratio.commit, ratio.date) == (machine, commit, date):
                row = ratio.row
                spread = f"{row.spread[0]:.3g} to {row.spread[1]:.3g}" if row.spread else ""
                cells = (f"{row.ratio:.3g}", spread, f"{row.ours:.4g}", f"{row.baseline:.4g}", row.unit)
                lines.append(f"| {row.name} | {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def put(text: str, path: Path) -> None:
    """Replace what stands between the marks of a file. Raises UserError where they are not there, once each."""
    whole = path.read_text(encoding="utf-8") if path.is_file() else ""
    if [whole.count(mark) for mark in MARKS] != [1, 1] or whole.index(MARKS[0]) > whole.index(MARKS[1]):
        raise UserError(f"--into {path}: needs a line {MARKS[0]} and, after it, a line {MARKS[1]}")
    before, _, rest = whole.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    path.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the JSON files")
    parser.add_argument("--into", type=Path, help="file whose marked part is replaced")
    args = parser.parse_args(argv)
    ratios, others = read(args.folder)
    if not ratios:
        raise UserError(f"--folder {args.folder}: no ratios there; run `make bench` first")
    if others:
        print(f"left out, no ratios in them: {', '.join(others)}", file=sys.stderr)
    text = table(ratios)
    print(text)
    if args.into is not None:
        put(text, args.into)
    return 0


if __name__ == "__main__":
    entry(main)
