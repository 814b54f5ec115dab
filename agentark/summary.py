"""Views of results files: the table of runs, methods beside each other, and the readable form of one debate.

    python -m agentark.summary FILE...              the table
    python -m agentark.summary FILE... --compare    right answers of each, with intervals, and what they cost
    python -m agentark.summary FILE --show N        the N-th sample in full
    python -m agentark.summary FILE --changed       the first debate in which an agent changed its answer, folded

Every figure is computed from the records.
"""

import textwrap
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from agentark import cli
from agentark.answers import close_pool, equivalent_many, extract
from agentark.files import json_if_there, manifest_of
from agentark.jsonl import chunks, lines
from agentark.labels import answered
from agentark.records import expand, stored_records
from agentark.runner import PREPARED, TOTALS
from agentark.stats import mean_and_se, wilson_interval
from agentark.tasks import get_task
from agentark.types import SANDBOX, Record, TokenStats, UserError, merged

COLUMNS = (
    *("method", "n", "answered", "errors", "unparsed", "metric", "score"),
    *("calls", "prompt", "cached", "completion", "seconds", "tokens/s"),
)
CHUNK = 256
"""Records in memory at once."""
FOLD_HEAD, FOLD_TAIL = 6, 3
"""Lines of a long text that a folded debate shows: at its beginning and at its end."""


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
    texts = [record.text_of(record.solutions[-1]) if record.solutions else "" for record in done]
    replies = list(zip((record.sample() for record in done), texts, strict=True))
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

    def all_spent(self) -> TokenStats:
        """Of all models together."""
        spent = TokenStats()
        for stats in self.spent.values():
            spent.merge(stats)
        return spent


def totals_of(records: Sequence[Record]) -> Totals:
    totals = Totals()
    for chunk in chunks(records, CHUNK):
        for record, score in zip(chunk, scores(chunk), strict=True):
            totals.add(record, score)
    return totals


def row(path: Path) -> dict[str, str]:
    """One results file as a row of the table. As in `eval`: an unanswered sample scores 0, an error is left out."""
    return _row(path)[0]


def _row(path: Path) -> tuple[dict[str, str], list[str]]:
    """(`row`, a note on each of its models if there are several)."""
    records, _ = stored_records(path)
    if not records:
        return dict.fromkeys(COLUMNS, "-") | {"method": path.stem, "n": "0"}, []
    first, totals = records[0], totals_of(records)
    task = get_task(first.source)
    shown = "-"
    if task.graded and totals.done:
        mean, error = mean_and_se(totals.done)
        shown = f"{mean:.3f}" + (f" ± {error:.3f}" if error is not None else "")
    spent, seconds = totals.all_spent(), totals.spans.busy_seconds()
    figures = {
        "method": first.method.shown,
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
    notes = [
        f"{model}: {one.num_llm_calls} calls, {one.prompt_tokens} prompt tokens, {one.completion_tokens} new"
        for model, one in totals.spent.items()
        if len(totals.spent) > 1
    ]
    return figures, notes


def table(paths: Sequence[Path]) -> str:
    """The files as an aligned table, each path below it. Score: mean ± standard error over samples."""
    rows = [_row(path) for path in paths]
    text = _aligned([list(COLUMNS), *([figures[column] for column in COLUMNS] for figures, _ in rows)])
    notes = [
        f"{path.stem}: {note}"
        for path, (_, told) in zip(paths, rows, strict=True)
        for note in [*told, *run_notes(path)]
    ]
    return "\n".join([*text, *notes, *(f"written to {path}" for path in paths)])


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells as lines of text, columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def comparison(paths: Sequence[Path]) -> str:
    """Methods beside each other: right answers with Wilson's 95% interval, and what they cost per sample.

    A sample without an answer is not right, and one that ended in an error is left out.

    Raises:
        UserError: a file without records, or of a dataset whose answers are not right or wrong.
    """
    rows = [["method", "right", "accuracy", "95% interval", "calls per sample", "new tokens per sample"]]
    for path in paths:
        records, _ = stored_records(path)
        if not records or get_task(records[0].source).metric != "accuracy":
            raise UserError(f"{path}: no records of a dataset whose answers are right or wrong")
        totals = totals_of(records)
        right, n = sum(score == 1 for score in totals.done), len(totals.done)
        figures = ["-", "-"]
        if n:
            low, high = wilson_interval(right, n)
            figures = [f"{right / n:.2f}", f"{low:.2f} to {high:.2f}"]
        spent = totals.all_spent()
        cost = [f"{count / totals.n:.1f}" for count in (spent.num_llm_calls, spent.completion_tokens)]
        rows.append([records[0].method.shown, f"{right} of {n}", *figures, *cost])
    return "\n".join(_aligned(rows))


def changed(records: Iterable[Record]) -> Record | None:
    """The first debate in which an agent's answer changed to the right one, and the team's answer is right; else one in
    which any did; else one in which an answer changed; else None."""
    found: dict[str, Record] = {}
    for record in records:
        kind = _change(record) if record.error is None and record.solutions else None
        if kind == "corrected" and scores([record])[0] == 1:
            return record
        if kind is not None:
            found.setdefault(kind, record)
    return found.get("corrected") or found.get("changed")


def _change(record: Record) -> str | None:
    """`corrected` when an agent that was wrong is right in a later round, `changed` when another answer came."""
    sample, task = record.sample(), get_task(record.source)
    if task.metric != "accuracy":
        return None
    turns = [turn for turn in answered(record, all_rounds=True).answers if turn.text]
    found = [extract(turn.text, sample.answer_type, sample.choices) for turn in turns]
    right = list(task.score_many([(sample, turn.text) for turn in turns]))
    kinds: set[str] = set()
    last: dict[str, int] = {}
    for index, turn in enumerate(turns):
        answer = found[index]
        if answer is None:
            continue
        before = last.get(turn.agent)
        last[turn.agent] = index
        earlier = None if before is None else found[before]
        if before is None or earlier is None or right[index] == right[before] == 1:
            continue
        if right[index] == 1:
            kinds.add("corrected")
        elif not equivalent_many([(earlier.value, answer.value, sample.answer_type)])[0]:
            kinds.add("changed")
    return "corrected" if "corrected" in kinds else "changed" if kinds else None


def run_notes(path: Path) -> list[str]:
    """The manifest's notes on the whole run: the method's one decision, its cost, and the totals."""
    manifest = manifest_of(path)
    said = json_if_there(manifest)
    try:
        return _notes(said)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{manifest}: is not the manifest of a results file") from None


def _notes(said: dict[str, Any]) -> list[str]:
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


def debate(record: Record, width: int = 100, fold: bool = False) -> str:
    """One record as a person reads it: the question, then each turn's new messages and reply.

    Args:
        width: characters in a line.
        fold: leave out the middle of long replies.
    """
    indent = " " * 4

    def block(text: str) -> str:
        lines = [line for raw in text.splitlines() or [""] for line in textwrap.wrap(raw, width) or [""]]
        left_out = len(lines) - FOLD_HEAD - FOLD_TAIL
        if fold and left_out > 1:
            lines[FOLD_HEAD:-FOLD_TAIL] = [f"[... {left_out} lines]"]
        return textwrap.indent("\n".join(lines), indent)

    out = [f"sample {record.id} | {record.method.shown} | {record.model}", block(record.query)]
    several = len({turn.completion.model for turn in record.trajectory} - {SANDBOX}) > 1
    for turn in record.trajectory:
        done = turn.completion
        model = f"{done.model} | " if several else ""
        asked = "".join(sent.text for sent in expand(record, turn)[-1:])
        out += [
            f"\n-- round {turn.round} | {turn.agent} | {turn.role} | {model}{done.prompt_tokens} prompt tokens "
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
    view = parser.add_mutually_exclusive_group()
    view.add_argument("--show", type=cli.integer(1), metavar="N", help="the N-th sample in full, not the table")
    view.add_argument("--compare", action="store_true", help="right answers with intervals, and what they cost")
    view.add_argument("--changed", action="store_true", help="a debate in which an agent changed its answer, folded")
    args = parser.parse_args()
    for path in args.files:
        if next(lines(path), None) is None:
            raise UserError(f"{path}: holds no results")
    if args.compare:
        print(comparison(args.files))
    elif args.changed:
        record = changed(stored_records(args.files[0])[0])
        print("no agent changed its answer" if record is None else debate(record, fold=True))
    elif args.show:
        records, _ = stored_records(args.files[0])
        print(debate(records[min(args.show, len(records)) - 1]))
    else:
        print(table(args.files))
    close_pool()
    return 0


if __name__ == "__main__":
    cli.entry(main)
