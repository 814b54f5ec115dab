"""The ark card: cells, and what they say together."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from agentark import stats
from agentark.files import struct_of
from agentark.types import UserError
from eval.ark.cell import Cell

KIND = "an ark card"


class Overall(Struct, frozen=True, kw_only=True):
    """All cells together."""

    cells: int
    """Cells with students."""
    rank_correlation: float | None
    """Spearman's, of the team's gain and the best student's gain; None for fewer than 3 cells."""
    verdicts_right: int
    verdicts_wrong: int
    verdicts_open: int
    """The verdict could not tell, or there is none."""


class Card(Struct, frozen=True, kw_only=True):
    """What stands in ark.json."""

    cells: list[Cell]
    overall: Overall | None = None
    """None for a single cell."""


def best_gain(cell: Cell) -> tuple[str, float] | None:
    """(the student with the largest gain over the best member, that gain); None: the cell has no student."""
    gains = {name: student.difference for name, student in cell.students.items()}
    name = max(gains, key=gains.__getitem__, default=None)
    return None if name is None else (name, gains[name])


def overall(cells: Sequence[Cell]) -> Overall:
    gains = [(cell.headroom[0], best[1]) for cell in cells if (best := best_gain(cell))]
    right = [cell.verdict_right for cell in cells]
    return Overall(
        cells=len(gains),
        rank_correlation=stats.rank_correlation([team for team, _ in gains], [student for _, student in gains]),
        verdicts_right=right.count(True),
        verdicts_wrong=right.count(False),
        verdicts_open=right.count(None),
    )


def read_card(path: Path) -> Card:
    """An ark.json.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    try:
        card = struct_of(path, Card, KIND)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    if not card.cells:
        raise UserError(f"{path}: is not {KIND} (it has no cell)")
    return card


def merged(paths: Sequence[Path]) -> Card:
    """The cells of several cards.

    Raises:
        UserError: a file is no card, or two cells have the same name.
    """
    cells, origin = list[Cell](), dict[str, Path]()
    for path in paths:
        for cell in read_card(path).cells:
            if cell.name in origin:
                raise UserError(f"--merge {path}: cell {cell.name!r} is also in {origin[cell.name]}; give one of them")
            origin[cell.name] = path
            cells.append(cell)
    return Card(cells=cells, overall=overall(cells))


def encoded(card: Card, about: dict[str, object]) -> bytes:
    """Of an ark.json."""
    return msgspec.json.format(msgspec.json.encode({**msgspec.to_builtins(card), **about}), indent=2) + b"\n"
