"""The speed table: every ratio in results/bench/*.json as one markdown table.

    python bench/table.py                              print it
    python bench/table.py --into docs/performance.md   also put it between the marks there

Files without ratios are left out and named on stderr. The marks are two lines:
`<!-- performance -->` and `<!-- end of performance -->`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli
from agentark.files import json_in
from agentark.types import UserError
from bench.parts import report

FOLDER = report.ROOT / "results" / "bench"
MARKS = ("<!-- performance -->", "<!-- end of performance -->")
FIELDS = {"name", "ratio", "baseline", "ours", "unit", "machine", "commit", "date"}
Ratio = dict[str, Any]
"""A ratio as `report.save` wrote it."""


def read(folder: Path) -> tuple[list[Ratio], list[str]]:
    """(ratios in the order of the files and within each, files without ratios)."""
    ratios, others = [], []
    for path in sorted(folder.glob("*.json")):
        values = json_in(path)
        if isinstance(values, list) and all(isinstance(value, dict) and value.keys() >= FIELDS for value in values):
            ratios += values
        else:
            others.append(path.name)
    return ratios, others


def table(ratios: Sequence[Ratio]) -> str:
    """Markdown: one table per machine, commit and day."""
    blocks: dict[str, list[str]] = {}
    for ratio in ratios:
        title = f"{ratio['machine']}, commit {ratio['commit']}, {ratio['date'][:10]}:"
        spread = f"{ratio['low']:.3g} to {ratio['high']:.3g}" if "low" in ratio else ""
        cells = (f"{ratio['ratio']:.3g}", spread, f"{ratio['ours']:.4g}", f"{ratio['baseline']:.4g}", ratio["unit"])
        head = [title, "", "| measured | ratio | spread | ours | baseline | unit |", "|---|--:|---|--:|--:|---|"]
        blocks.setdefault(title, head).append(f"| {ratio['name']} | {' | '.join(cells)} |")
    return "\n\n".join("\n".join(lines) for lines in blocks.values())


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of the JSON files")
    parser.add_argument("--into", type=Path, help="file whose marked part to replace")
    args = parser.parse_args(argv)
    ratios, others = read(args.folder)
    if not ratios:
        raise UserError(f"--folder {args.folder}: no ratios there; run `make bench` first")
    if others:
        print(f"left out, no ratios in them: {', '.join(others)}", file=sys.stderr)
    text = table(ratios)
    print(text)
    if args.into is not None:
        report.put(text, args.into, MARKS, "--into")
    return 0


if __name__ == "__main__":
    cli.entry(main)
