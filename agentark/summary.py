"""Views of a results file: the table of a run and the readable form of one debate.

    python -m agentark.summary FILE...           the table
    python -m agentark.summary FILE --show N     the N-th sample in full

Every figure is computed from the records.
"""

import json
import textwrap
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from agentark import cli
from agentark.files import manifest_of
from agentark.jsonl import chunks
from agentark.records import expand, stored_records
from agentark.runner import PREPARED, TOTALS
from agentark.stats import mean_and_se
from agentark.tasks import get_task
from agentark.types import Record, TokenStats, merged

COLUMNS = (
    *("method", "n", "answered", "errors", "unparsed", "metric", "score"),
    *("calls", "prompt", "cached", "completion", "seconds", "tokens/s"),
)
CHUNK = 256
"""Records in memory at once."""


class Spans:
    """Stretches of time, 16 bytes each."""

    def __init__(self) -> None:
        self._starts, self._lengths = array("d"), array("d")

    def add(self, record: Record) -> None:
        """The time in which a sample was being worked on."""
        self._starts.append(record.started)
        self._lengths.append(record.seconds)

    def busy_seconds(self) -> float:
        """Wall time in which at least one of the samples was being worked on."""
        total, end = 0.0, float("-inf")
        for place in sorted(range(len(self._starts)), key=self._starts.__getitem__):
            start = self._starts[place]
            finish = start + self._lengths[place]
            total += max(0.0, finish - max(end, start))
            end = max(end, finish)
        return total


def scores(records: Sequence[Record]) -> list[float | None]:
    """The task's metric of each record's own answer; None where there is none (an error, or nothing parsed)."""
    done = [record for record in records if record.error is None]
    replies = [(record.sample(), record.text_of(record.solutions[-1])) for record in done]
    found = iter(get_task(records[0].source).score_many(replies))
    return [None if record.error is not None else next(found) for record in records]


class Totals(Struct):
    """Sums over the records of a run."""

    n: int = 0
    errors: int = 0
    unparsed: int = 0
    answered: int = 0
    done: "array[float]" = field(default_factory=lambda: array("d"))
    """Score of every sample without an error; unanswered is 0."""
    spent: dict[str, TokenStats] = field(default_factory=dict)
    """Per model."""
    spans: Spans = field(default_factory=Spans)

    def add(self, record: Record, score: float | None) -> None:
        self.n += 1
        self.errors += record.error is not None
        self.unparsed += record.parse_failures
        self.answered += score is not None
        self.spent = merged([self.spent, record.token_stats])
        self.spans.add(record)
        if record.error is None:
            self.done.append(score or 0.0)


def row(path: Path) -> dict[str, str]:
    """One results file as a row of the table. As in `eval`: an unanswered sample scores 0, an error is left out."""
    records, _ = stored_records(path)
    if not records:
        return dict.fromkeys(COLUMNS, "-") | {"method": path.stem, "n": "0"}
    first, totals = records[0], Totals()
    task = get_task(first.source)
    for chunk in chunks(records, CHUNK):
        for record, score in zip(chunk, scores(chunk), strict=True):
            totals.add(record, score)
    shown = "-"
    if task.graded and totals.done:
        mean, error = mean_and_se(totals.done)
        shown = f"{mean:.3f}" + (f" ± {error:.3f}" if error is not None else "")
    spent = TokenStats()
    for stats in totals.spent.values():
        spent.merge(stats)
    seconds = totals.spans.busy_seconds()
    return {
        "method": first.method.name,
        "n": str(totals.n),
        "answered": str(totals.answered) if task.graded else "-",
        "errors": str(totals.errors),
        "unparsed": str(totals.unparsed),
        "metric": task.metric,
        "score": shown,
        "calls": str(spent.num_llm_calls),
        "prompt": str(spent.prompt_tokens),
        "cached": "?" if spent.cached_tokens is None else str(spent.cached_tokens),
        "completion": str(spent.completion_tokens),
        "seconds": f"{seconds:.1f}",
        "tokens/s": f"{spent.completion_tokens / seconds:.1f}" if seconds else "-",
    }


def table(paths: Sequence[Path]) -> str:
    """The files as an aligned table, each path below it. Score: mean ± standard error over samples."""
    rows = [row(path) for path in paths]
    lines = [list(COLUMNS), *([one[column] for column in COLUMNS] for one in rows)]
    widths = [max(len(line[position]) for line in lines) for position in range(len(COLUMNS))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    notes = [f"{path.stem}: {note}" for path in paths for note in run_notes(path)]
    return "\n".join([*text, *notes, *(f"written to {path}" for path in paths)])


def run_notes(path: Path) -> list[str]:
    """The manifest's notes on the whole run: the method's one decision, its cost, and the totals."""
    manifest = manifest_of(path)
    said = json.loads(manifest.read_bytes()) if manifest.is_file() else {}
    notes = []
    if (prepared := said.get(PREPARED)) is not None:
        spent = " and ".join(
            f"{stats['num_llm_calls']} calls, {stats['prompt_tokens'] + stats['completion_tokens']} tokens of {model}"
            for model, stats in prepared["token_stats"].items()
        )
        notes.append(f"decided before the first sample: {_plain(prepared['decision'])} ({spent}, not in the table)")
    return notes + [f"{name}: {_plain(value)}" for name, value in said.get(TOTALS, {}).items()]


def _plain(value: Any) -> str:
    """JSON data without its punctuation, numbers to three places."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def debate(record: Record, width: int = 100) -> str:
    """One record as a person reads it: the question, then each turn's new messages and reply."""
    indent = " " * 4

    def block(text: str) -> str:
        lines = [line for raw in text.splitlines() or [""] for line in textwrap.wrap(raw, width) or [""]]
        return textwrap.indent("\n".join(lines), indent)

    out = [f"sample {record.id} | {record.method.name} | {record.model}", block(record.query)]
    for turn in record.trajectory:
        done = turn.completion
        asked = expand(record, turn)[-1].text
        out += [
            f"\n-- round {turn.round} | {turn.agent} | {turn.role} | {done.prompt_tokens} prompt tokens "
            f"({done.cached_tokens if done.cached_tokens is not None else '?'} cached), "
            f"{done.completion_tokens} new, {done.finish_reason}",
            textwrap.indent(f"asked: {textwrap.shorten(asked, 3 * width, placeholder=' ...')}", indent),
            block(turn.text or "(no reply outside its thinking)"),
        ]
    score = scores([record])[0] if record.gt else None
    verdict = f"gold {record.gt!r}, score {score}" if record.gt else "no gold answer"
    out.append(f"\nfinal answer: {record.final_answer!r} ({verdict})")
    if record.error:
        out.append(f"error: {record.error}")
    return "\n".join(out)


def main() -> int:
    parser = cli.Parser(prog="python -m agentark.summary", description="Table of results files.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--show", type=cli.integer(1), metavar="N", help="the N-th sample in full, not the table")
    args = parser.parse_args()
    if args.show:
        records, _ = stored_records(args.files[0])
        print(debate(records[min(args.show, len(records)) - 1]))
    else:
        print(table(args.files))
    return 0


if __name__ == "__main__":
    cli.entry(main)
