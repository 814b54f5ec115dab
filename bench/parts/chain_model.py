"""A small language model taught from scratch to solve the chains of bench/parts/chains.py, in minutes on one core."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentark.exam import greedy
from study.lab import model
from study.lab.model import Lesson, said

BATCH, WARMUP = 32, 100
"""Solutions per step; steps in which the learning rate rises before it falls."""
CHECKED = 100
"""Held-out questions of an accuracy check."""
Row = dict[str, Any]


def teach(
    folder: Path, rows: Sequence[Row], held_out: Sequence[Row], *, hidden: int, layers: int, steps: int,
    learning_rate: float, seed: int, early: tuple[Path, float] | None = None,
) -> None:  # fmt: skip
    """Train a model on the right solutions of `rows`, unless the folder holds it already.

    Args:
        hidden: H, in heads of 32; layers: many narrow layers learn this sooner than few wide ones.
        early: another folder, and the share of held-out questions answered right at which the model is saved there.

    Raises:
        SystemExit: the model never reached that share.
    """
    if (folder / "config.json").is_file():
        return
    right = [(row["query"], one["text"]) for row in rows for one in row["solutions"] if one["is_correct"]]
    tokenizer = model.make_tokenizer(text for pair in right for text in pair)
    made = model.new_model(tokenizer, hidden=hidden, layers=layers, heads=hidden // 32, seed=seed)
    print(f"base: {made.num_parameters() / 1e6:.1f}M parameters", flush=True)
    waiting = early

    def report(step: int, loss: float) -> None:
        nonlocal waiting
        share = accuracy(made, tokenizer, held_out[:CHECKED])
        made.train()
        print(f"base, step {step}: loss {loss:.3f}, accuracy {share:.2f}", flush=True)
        if waiting is not None and share >= waiting[1]:
            model.save(made, tokenizer, waiting[0])
            waiting = None

    lessons = [Lesson([said("user", query)], text) for query, text in sorted(right, key=lambda pair: len(pair[1]))]
    batches = _batches(lessons, random.Random(seed))
    model.teach(made, tokenizer, batches, steps, adam=learning_rate, warmup=WARMUP, report=report)
    if waiting is not None:
        raise SystemExit(f"the model never answered {waiting[1]:.0%} of the held-out questions")
    model.save(made, tokenizer, folder)


def _batches(lessons: Sequence[Lesson], draw: random.Random) -> Iterator[Sequence[Lesson]]:
    while True:
        first = draw.randrange(max(1, len(lessons) - 4 * BATCH))  # similar lengths need little padding
        yield draw.sample(lessons[first : first + 4 * BATCH], BATCH)


def accuracy(made: Any, tokenizer: Any, rows: Sequence[Row]) -> float:
    """Of greedy answers."""
    replies = greedy(made, tokenizer, [[said("user", row["query"])] for row in rows], 120, 100)
    return sum(text.strip().rstrip(".")[-1:] == row["gt"] for (text, _), row in zip(replies, rows, strict=True)) / len(
        rows
    )
