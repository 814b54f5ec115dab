"""The ark cards among the results: their tables, and a chart for each set of questions."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentark.files import json_of
from eval.ark.card import Card, read_card
from eval.ark.cell import Cell, Part
from eval.ark.show import figures_of, parts, said, tables, together
from eval.report.charts import Chart, axis, safe, tokens_axis
from eval.report.files import Origin
from eval.report.study import Study

LOOKS = {
    "best member": ("circle", "var(--ink)"),
    "member": ("circle-open", "var(--muted)"),
    "vote": ("square", "var(--series-5)"),
    "team": ("diamond", "var(--series-2)"),
    "student": ("triangle-up", "var(--series-1)"),
}
"""Role -> symbol and colour."""


def cards(study: Study) -> list[dict[str, Any]]:
    """The cards for the template, those of most cells first; a cell that stands in several cards is shown once."""
    read = sorted(((path, read_card(path)) for path in study.found.arks), key=lambda pair: -len(pair[1].cells))
    seen: list[Cell] = []
    shown: list[dict[str, Any]] = []
    for path, card in read:
        cells = [cell for cell in card.cells if cell not in seen]
        seen += cells
        if cells:
            shown.append(_card(len(shown), card, cells, [_origin(study, path)]))
    return shown


def _card(number: int, card: Card, cells: list[Cell], origins: list[Origin]) -> dict[str, Any]:
    return {
        "together": None if card.overall is None else together(card.cells, card.overall),
        "cells": [
            {
                "name": cell.name,
                "verdict": cell.verdict,
                "said": said(cell),
                "tables": [*tables(cell)],
                "charts": [*_charts(f"ark-{number}-{place}", cell, origins)],
            }
            for place, cell in enumerate(cells)
        ],
        "origins": origins,
    }


def _origin(study: Study, path: Path) -> Origin:
    """Where a card comes from: it names its command and the code that ran it."""
    origin, about = study.origin(path), json_of(path)
    versions = about.get("versions")
    commit = versions.get("commit") if isinstance(versions, dict) else None
    return Origin(origin.file, origin.sha256, str(about.get("command") or "") or None, commit)


def _charts(key: str, cell: Cell, origins: list[Origin]) -> Iterator[Chart]:
    for number, (name, part) in enumerate(parts(cell)):
        shown = figures_of(part, cell.systems)
        yield Chart(
            id=f"{key}-{number}",
            title=f"{cell.name}, {name}: {part.metric} against tokens",
            text="Completion tokens of an answer, all agents together; bars are one standard error.",
            data=_traces(cell, part),
            layout={
                "xaxis": tokens_axis("completion tokens per answer", [one.tokens for *_, one in shown]),
                "yaxis": axis(part.metric, rangemode="tozero"),
            },
            origins=origins,
            height=400,
        )


def _traces(cell: Cell, part: Part) -> list[dict[str, Any]]:
    """A trace for each role, with the systems' names beside the marks."""
    data = []
    shown = [*figures_of(part, cell.systems)]
    middle = math.sqrt(min(one.tokens for *_, one in shown) * max(one.tokens for *_, one in shown))
    for role, (symbol, colour) in LOOKS.items():
        of = [(system, one) for each, system, one in shown if each == role]
        if not of:
            continue
        names = [safe(system) for system, _ in of]
        data.append(
            {
                "type": "scatter", "mode": "markers" if role == "member" else "markers+text", "name": role,
                "x": [one.tokens for _, one in of], "y": [one.accuracy for _, one in of],
                "text": names, "cliponaxis": False,
                "textposition": ["middle right" if one.tokens <= middle else "middle left" for _, one in of],
                "hovertemplate": "%{text}<br>%{x:.0f} tokens<br>%{y:.3f}",
                "marker": {"size": 10, "symbol": symbol, "color": colour},
                "error_y": {"type": "data", "array": [one.se or 0.0 for _, one in of], "color": colour, "thickness": 1},
            }
        )  # fmt: skip
    return data
