"""Sets that are alike in all but where their solutions come from: the largest common subset of several.

Every set keeps the questions that all have, and of each as many solutions as all have, the first ones. Then questions
go until the sets have as many tokens: always the one in which the largest set is farthest ahead of the smallest without
tipping the balance. All sets are treated alike, so `--match` gives the same questions whichever of them is selected
against the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from agentark.contamination import tokens
from agentark.jsonl import decoded
from agentark.types import UserError, digest

TOLERANCE = 0.02
"""Sets have as many tokens when the largest has at most this share more than the smallest."""

Sizes = Mapping[str, Sequence[int]]
"""Question -> tokens of each of its solutions, in the order of the set."""


class _Message(Struct):
    content: str


class _Row(Struct):
    id: str
    completion: list[_Message]


def size(text: str) -> int:
    """Tokens of a solution: words, numbers and signs, whatever a model's tokenizer makes of them."""
    return len(tokens(text))


def read(path: Path) -> Sizes:
    """The solutions of a training set. Raises UserError where it is none."""
    sizes: dict[str, list[int]] = {}
    for row in decoded(path, _Row, "a row of distill.select", f"--match {path}"):
        sizes.setdefault(row.id, []).append(sum(size(message.content) for message in row.completion))
    if not sizes:
        raise UserError(f"--match {path}: the file is empty")
    return sizes


def common(sets: Sequence[Sizes], seed: int) -> dict[str, int]:
    """Question -> how many of its solutions each set keeps.

    Args:
        sets: at least one.
        seed: of the draw among questions of the same lead.
    """
    sets = sorted(sets, key=lambda sizes: digest(sorted(sizes.items())))  # the same, however they are listed
    shared = [id for id in sets[0] if all(id in other for other in sets)]
    kept = {id: min(len(sizes[id]) for sizes in sets) for id in shared}
    kept = {id: count for id, count in kept.items() if count}
    totals = [sum(_tokens(sizes, id, count) for id, count in kept.items()) for sizes in sets]
    ranks = {id: digest((seed, id)) for id in kept}
    while kept and max(totals) > (1 + TOLERANCE) * min(totals):
        most, least = sets[totals.index(max(totals))], sets[totals.index(min(totals))]
        gap = max(totals) - min(totals)
        leads = [(_tokens(most, id, n) - _tokens(least, id, n), ranks[id], id) for id, n in kept.items()]
        fitting = [lead for lead in leads if 0 < lead[0] <= gap]
        worst = (max(fitting) if fitting else min(lead for lead in leads if lead[0] > gap))[2]
        count = kept.pop(worst)
        totals = [total - _tokens(sizes, worst, count) for total, sizes in zip(totals, sets, strict=True)]
    return kept


def _tokens(sizes: Sizes, id: str, count: int) -> int:
    return sum(sizes[id][:count])


def about(own: Sizes, others: Sequence[Sizes], kept: Mapping[str, int]) -> dict[str, Any]:
    """What was matched and what was dropped, for the manifest and the card."""
    rows = sum(kept.values())
    lacking = [id for id in own if not all(id in other for other in others)]
    cut = {id: min(len(sizes[id]) for sizes in (own, *others)) for id in own if id not in lacking}
    return {
        "questions": len(kept),
        "rows": rows,
        "tokens": sum(_tokens(own, id, count) for id, count in kept.items()),
        "tokens_of_others": [sum(_tokens(other, id, count) for id, count in kept.items()) for other in others],
        "dropped": {
            "rows of questions that another set lacks": sum(len(own[id]) for id in lacking),
            "more solutions than another set has": sum(len(own[id]) - count for id, count in cut.items()),
            "to even out tokens": sum(cut.values()) - rows,
        },
        "rows_of_others": [sum(map(len, other.values())) for other in others],
    }


def kept_of(
    own: Mapping[str, Sequence[str]], paths: Iterable[Path], seed: int
) -> tuple[dict[str, int], dict[str, Any]]:
    """(question -> how many of its solutions are kept, what was matched).

    Args:
        own: question -> texts of its solutions, in order.
        paths: the other sets.

    Raises:
        UserError: a file is no training set, or they have nothing in common.
    """
    named = list(paths)
    sizes, others = {id: [size(text) for text in texts] for id, texts in own.items()}, [read(path) for path in named]
    kept = common([sizes, *others], seed)
    if not kept:
        raise UserError(f"--match {' '.join(map(str, named))}: no question with a solution in all sets")
    return kept, about(sizes, others, kept)
