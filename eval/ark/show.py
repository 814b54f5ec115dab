"""The ark card as Markdown and as a picture."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from agentark.files import replacing
from eval.ark.card import Card, Overall, best_gain
from eval.ark.cell import Cell, Figure, Part, Trained, points

PANEL = (6.0, 4.4)
"""Inches."""
COLUMNS = 3
"""Most panels beside each other."""
LEGEND = (
    "± is one standard error; p is two-sided, paired with the best member on the same questions, and adjusted for "
    "all students of the set (Holm); keeps is (student − best member) / (team − best member), with a 95% bootstrap "
    "interval over questions; tokens are those written, all agents together."
)
COLOURS = {"best member": "0.25", "member": "0.6", "vote": "tab:orange", "team": "tab:red", "student": "tab:blue"}
MARKS = {"best member": "o", "member": "o", "vote": "s", "team": "D", "student": "^"}


class Table(Struct, frozen=True, kw_only=True):
    """A table in words."""

    title: str
    head: list[str]
    rows: list[list[str]]
    texts: frozenset[int]
    """Columns that hold no numbers."""
    note: str = ""
    """A sentence below it."""


def markdown(card: Card) -> str:
    """The table over all cells, if there are several, and each cell with its sets."""
    shown = [] if card.overall is None else ["## Ark card", *_lines(together(card.cells, card.overall))]
    for cell in card.cells:
        shown += [f"## {cell.name}", *([f"**{cell.verdict}**: {said(cell)}"] if cell.verdict else [])]
        shown += [line for table in tables(cell) for line in _lines(table)]
    return "\n\n".join([*shown, LEGEND])


def _lines(table: Table) -> list[str]:
    """Blocks of Markdown."""
    marks = ("---" if column in table.texts else "--:" for column in range(len(table.head)))
    rows = [table.head, [*marks], *table.rows]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines[1] = lines[1].replace(" ", "")
    return [*filter(None, [table.title, "\n".join(lines), table.note])]


def together(cells: Sequence[Cell], overall: Overall) -> Table:
    """All cells, a row each."""
    rows = []
    for cell in cells:
        best = best_gain(cell)
        name, gain = ("–", "–") if best is None else (best[0], _gain(cell.students[best[0]]))
        kept = "–" if best is None else share(cell.retained.get(best[0]))
        figures = [figure(one) for one in (cell.best_member, cell.vote, cell.team)]
        said = "–" if cell.verdict is None else cell.verdict.replace("_", " ")
        right = {True: "yes", False: "no", None: "–"}[cell.verdict_right]
        rows.append([cell.name, *figures, points(*cell.headroom), said, name, gain, kept, right])
    rank = "unknown" if overall.rank_correlation is None else f"{overall.rank_correlation:.2f}"
    return Table(
        title="",
        head=[
            *("cell", "best member", "vote", "team", "team's gain [95%]", "verdict before training", "best student"),
            *("its gain", "keeps", "verdict right"),
        ],
        rows=rows,
        texts=frozenset((0, 5, 6, 9)),
        note=(
            f"Rank correlation (Spearman) of the team's gain and the best student's over {overall.cells} cells: {rank}."
            f" Verdicts: {overall.verdicts_right} right, {overall.verdicts_wrong} wrong, {overall.verdicts_open} open."
        ),
    )


def _gain(student: Trained) -> str:
    return f"{100 * student.difference:+.1f} (p {p_value(student.p_adjusted)})"


def said(cell: Cell) -> str:
    """The words of the verdict, and whether it was right."""
    came = {True: "The verdict was right.", False: "The verdict was wrong.", None: ""}[cell.verdict_right]
    return f"{cell.verdict_words}. {came}".rstrip()


def tables(cell: Cell) -> Iterator[Table]:
    """For each set all systems, and their figures by tag where there are several tags."""
    for name, part in parts(cell):
        yield _systems(name, part, cell.systems)
        tags = list(dict.fromkeys(tag for of in part.by_tag.values() for tag in of))
        if len(tags) > 1:
            yield _by_tag(part, tags)


def parts(cell: Cell) -> Iterator[tuple[str, Part]]:
    """(name, figures) of each set of questions."""
    yield cell.set, cell
    yield from cell.sets.items()


def figures_of(part: Part, systems: dict[str, str]) -> Iterator[tuple[str, str, Figure]]:
    """(role, system, figure), students last."""
    yield "best member", systems["best_member"], part.best_member
    yield from (("member", name, one) for name, one in part.members.items())
    if part.vote is not None and systems["vote"] != systems["team"]:
        yield "vote", systems["vote"], part.vote
    yield "team", systems["team"], part.team
    yield from (("student", name, one) for name, one in part.students.items())


def _systems(name: str, part: Part, systems: dict[str, str]) -> Table:
    rows = []
    for role, system, one in figures_of(part, systems):
        cells = ["–"] * 4
        if isinstance(one, Trained):
            cells = [f"{100 * one.difference:+.1f}", p_value(one.p), p_value(one.p_adjusted)]
            cells.append(share(part.retained.get(system)))
        rows.append([role, system, str(one.n), figure(one), *cells, f"{one.tokens:.0f}"])
    head = ["role", "system", "n", f"{part.metric}, %", "− best member", "p", f"p (Holm, of {len(part.students)})"]
    return Table(
        title=f"{name} ({part.dataset}), the team's gain {points(*part.headroom)}",
        head=[*head, "keeps", "tokens an answer"],
        rows=rows,
        texts=frozenset((0, 1)),
        note=f"No share is given: {part.not_retained}." if part.not_retained else "",
    )


def _by_tag(part: Part, tags: Sequence[str]) -> Table:
    rows = [
        [system, *(f"{100 * of[tag].accuracy:.1f} (n {of[tag].n})" if tag in of else "–" for tag in tags)]
        for system, of in part.by_tag.items()
    ]
    return Table(title="", head=[f"system, {part.metric}, % by tag", *tags], rows=rows, texts=frozenset((0,)))


def figure(one: Figure | None) -> str:
    """`41.2 ± 2.8`."""
    if one is None:
        return "–"
    return f"{100 * one.accuracy:.1f}" + ("" if one.se is None else f" ± {100 * one.se:.1f}")


def share(of: tuple[float, float, float] | None) -> str:
    """`83% [71, 95]`."""
    return "–" if of is None else f"{of[0]:.0%} [{100 * of[1]:.0f}, {100 * of[2]:.0f}]"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def plot(card: Card, path: Path) -> None:
    """The figure over the tokens of an answer: a panel for each set of each cell."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = [(cell, name, part) for cell in card.cells for name, part in parts(cell)]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (PANEL[0] * columns, PANEL[1] * rows)
    drawing, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (cell, name, part) in zip(axes.flat, panels, strict=False):
        _panel(axis, cell, name, part)
    with replacing(path) as stream:
        drawing.savefig(stream, format="png", dpi=130)
    pyplot.close(drawing)


def _panel(axis: Any, cell: Cell, name: str, part: Part) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    shown = [*figures_of(part, cell.systems)]
    middle = math.sqrt(min(one.tokens for *_, one in shown) * max(one.tokens for *_, one in shown))
    told = set[str]()
    for role, system, one in shown:
        axis.errorbar(
            one.tokens, 100 * one.accuracy, yerr=None if one.se is None else 100 * one.se, fmt=MARKS[role],
            color=COLOURS[role], capsize=3, label=None if role in told else role,
        )  # fmt: skip
        told.add(role)
        if role != "member":  # they lie on top of each other
            side = 1 if one.tokens <= middle else -1
            axis.annotate(
                system, (one.tokens, 100 * one.accuracy), xytext=(7 * side, 4), textcoords="offset points",
                fontsize="small", ha="left" if side > 0 else "right",
            )  # fmt: skip
    for of, role in ((part.best_member, "best member"), (part.team, "team")):
        axis.axhline(100 * of.accuracy, color=COLOURS[role], alpha=0.25, linewidth=0.8, zorder=0)
    if middle > 0:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(x=0.15)
    axis.set_ylim(0, 1.12 * max(100 * one.accuracy + 100 * (one.se or 0) for *_, one in shown) or 1)
    axis.set_xlabel("completion tokens per answer")
    axis.set_ylabel(f"{part.metric}, % (± standard error)")
    said = "" if cell.verdict is None else f": {cell.verdict.replace('_', ' ')}"
    axis.set_title(f"{cell.name}, {name}, n = {part.best_member.n}{said}", fontsize=10)
    axis.legend(fontsize="x-small", loc="best")
