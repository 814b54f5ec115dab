"""The worlds of the laboratory: what each member of a team knows, and what a good debate makes of it.

Every question is one of HiddenDigits (agentark/tasks/hidden_digits.py). A solution has a step per noun: its
digit, and the sum so far. For a digit that a member does not know it writes `?`, and so it does for sums that need it.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from msgspec import Struct

from agentark.tasks.hidden_digits import LETTERS, NOUNS, hidden_digits

WorldName = Literal["denoise", "interact", "compose"]
WORLDS: tuple[WorldName, ...] = get_args(WorldName)
Digit = int | None
"""None: unknown."""
Steps = Sequence[tuple[str, Digit]]
"""(noun, what is said of it)."""


class Spec(Struct, frozen=True, kw_only=True):
    """How the members of a world differ."""

    wrong: float = 0.0
    """Largest share of the nouns that a member is wrong about, always in the same way; no two about the same."""
    known_by: int | None = None
    """Each noun is known by this many members only, or by one more; None: by all."""


SPECS: Mapping[WorldName, Spec] = {
    "denoise": Spec(wrong=0.25),
    "interact": Spec(wrong=0.3),
    "compose": Spec(known_by=1),
}
"""`denoise`: their errors differ, and a majority is right about every noun. `interact`: the same with more errors, so
that few first answers are right. `compose`: nobody knows much, all together know everything."""


def members(name: WorldName, seed: int, count: int = 3) -> list[dict[str, Digit]]:
    """What each member believes about every noun.

    Args:
        seed: of who is wrong about what.
    """
    spec, truth = SPECS[name], hidden_digits(0)
    draw = random.Random(f"{name} {count} {seed}")
    order = draw.sample(NOUNS, len(NOUNS))
    tables: list[dict[str, Digit]] = [dict(truth) for _ in range(count)]
    if spec.known_by is not None:
        for at, noun in enumerate(order):
            knowing = {(at + step) % count for step in range(spec.known_by + at // count % 2)}
            for number, table in enumerate(tables):
                if number not in knowing:
                    table[noun] = None
    share = min(round(spec.wrong * len(NOUNS)), len(NOUNS) // count)
    for number, table in enumerate(tables):
        for noun in order[number * share : (number + 1) * share]:
            table[noun] = draw.choice([digit for digit in range(10) if digit != truth[noun]])
    return tables


def recalled(items: Sequence[str], table: Mapping[str, Digit]) -> Steps:
    return [(item, table[item]) for item in items]


def solution(steps: Steps) -> str:
    """The text of a solution."""
    total: Digit = 0
    lines = []
    for letter, (item, digit) in zip(LETTERS, steps, strict=False):
        total = None if total is None or digit is None else (total + digit) % 10
        lines.append(f"{letter}) {item} {_shown(digit)} sum {_shown(total)}")
    return "\n\n".join([*lines, f"The answer is \\boxed{{{_shown(total)}}}."])


def _shown(digit: Digit) -> str:
    return "?" if digit is None else str(digit)


def revised(own: Steps, peers: Sequence[Steps], table: Mapping[str, Digit]) -> Steps:
    """What a member says once it has read the others: of each noun what most say, its own belief where that is a tie.

    `?` has no vote. A peer who speaks of other nouns has none either.
    """
    steps = []
    for item, _ in own:
        said = [digit for told in (own, *peers) for noun, digit in told if noun == item and digit is not None]
        best = max((said.count(digit) for digit in said), default=0)
        leading = {digit for digit in said if said.count(digit) == best}
        steps.append((item, leading.pop() if len(leading) == 1 else table[item]))
    return steps
