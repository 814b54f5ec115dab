"""Measure how fast answers are graded, and the cost of comparisons that hang.

    python bench/grading_bench.py [--pairs 10000] [--hangs 20] [--data_dir ../shared/data]

Prints a markdown table and writes the ratios to results/bench/grading.json.

Pairs: gold answers of MATH-500 (simple formulas without --data_dir) against versions of themselves: unchanged, spaced
differently, plus and minus a number, and plus a number. The last two need algebra in a worker process. Then the same
pairs mixed with comparisons that sympy never finishes: no other verdict may change.
"""

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import answers, cli
from agentark.tasks import get_task
from agentark.types import AnswerType
from bench.parts import report

Pair = tuple[str, str, AnswerType]


def make_pairs(count: int, data_dir: Path | None) -> list[Pair]:
    """Mathematical pairs, equal and unequal, in a fixed random order. No two that need algebra are the same."""
    if data_dir is not None:
        golds = [sample.gt for sample in get_task("MATH-500").load("test", data_dir).samples]
    else:
        golds = [rf"\frac{{{n}}}{{{n + 1}}}x + {n}" for n in range(1, 501)]
    pairs: list[Pair] = []
    for index in range(count):
        turn, number = divmod(index, len(golds))
        gold = golds[number]
        forms = (gold, f" {gold} ", f"{gold} + {turn} - {turn}", f"{gold} + {turn + 1}")
        pairs.append((gold, forms[(turn + number) % 4], "math"))
    random.Random(0).shuffle(pairs)
    return pairs


def timed(pairs: Sequence[Pair], workers: int) -> tuple[list[bool], float]:
    """Verdicts and seconds, including the start of the workers."""
    answers.close_pool()
    answers._WORKERS = workers
    answers.normalize.cache_clear()
    start = time.perf_counter()
    verdicts = answers.equivalent_many(pairs)
    seconds = time.perf_counter() - start
    answers.close_pool()
    return verdicts, seconds


def plant(pairs: Sequence[Pair], hangs: int) -> tuple[list[Pair], set[int]]:
    """The pairs with hanging pairs spread evenly among them, and the indices of the hanging pairs."""
    planted, hanging_at = list(pairs), set()
    for number in range(hangs):
        index = (number * (len(pairs) + hangs)) // hangs
        planted.insert(index, ("10^{10^{10}}", f"3^{{3^{{3{number}}}}}", "math"))  # sympy never finishes it
        hanging_at.add(index)
    return planted, hanging_at


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__, "grading")
    parser.add_argument("--pairs", type=cli.integer(1), default=10_000)
    parser.add_argument("--hangs", type=cli.integer(0), default=20)
    parser.add_argument("--data_dir", type=Path, help="folder with math500_test.jsonl (default: simple formulas)")
    args = parser.parse_args(argv)
    pairs = make_pairs(args.pairs, args.data_dir)
    algebra = sum(answers.quick_same(*pair) is None for pair in pairs)
    print(f"{len(pairs)} pairs, {algebra} of them for the workers")
    before, alone = timed(pairs, 1)
    verdicts, both = timed(pairs, 2)
    assert verdicts == before
    planted, hanging_at = plant(pairs, args.hangs)
    with_hangs, stalled = timed(planted, 2)
    others = [verdict for index, verdict in enumerate(with_hangs) if index not in hanging_at]
    changed = sum(now != then for now, then in zip(others, verdicts, strict=True))
    print(
        f"{args.hangs} hangs, each holding a worker for {answers._TIMEOUT:.0f} s: {changed} other verdicts changed, "
        f"{sum(with_hangs[index] for index in hanging_at)} hangs taken for equal"
    )
    rows = [
        report.Row(f"grading {len(pairs)} answers: 2 workers over 1", both / alone, alone, both, "s"),
        report.Row(f"grading with {args.hangs} hangs among them over without", stalled / both, both, stalled, "s"),
    ]
    print(report.table(rows))
    report.save(rows, args.json)
    return 1 if changed else 0


if __name__ == "__main__":
    cli.entry(main)
