"""Charts as plotly figures in plain data. Colours are names of the style sheet's variables; the page fills them in, so
that they follow dark mode."""

import html
import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from typing import Any

from msgspec import Struct

from eval.report.files import Origin
from eval.report.overview import Row, names
from eval.report.training import GUARD, PANELS, SE, Curves, Scored
from eval.team.debate import STATES, Debate

COLOURS = tuple(f"var(--series-{number})" for number in range(1, 8))
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star", "x")

TOKEN_TICKS = [factor * 10**power for power in range(8) for factor in (1, 2, 5)]
"""Of a logarithmic axis of tokens."""


class Chart(Struct, frozen=True, kw_only=True):
    """A figure with its title, text and sources."""

    id: str
    title: str
    text: str
    """Says in a sentence what it shows; also its description for screen readers."""
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    origins: list[Origin]
    height: int = 320


def safe(text: str) -> str:
    """A name escaped for plotly, which reads some HTML in labels."""
    return html.escape(text, quote=False)


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, **more}


def tokens_axis(title: str, tokens: Collection[float]) -> dict[str, Any]:
    """Logarithmic, from the tick below all figures to the one above, so that a narrow range has ticks too."""
    below = TOKEN_TICKS[max(bisect_left(TOKEN_TICKS, min(tokens)) - 1, 0)]
    above = TOKEN_TICKS[min(bisect_right(TOKEN_TICKS, max(tokens)), len(TOKEN_TICKS) - 1)]
    ends = [math.log10(below), math.log10(above)]
    return axis(title, type="log", tickvals=TOKEN_TICKS, tickformat=",d", range=ends)


# ---------------------------------------------------------------- overview


def accuracy(dataset: str, rows: Sequence[Row]) -> Chart | None:
    """Dots with 95% intervals, best last; the paper's figures as open diamonds."""
    known = [row for row in rows if row.value is not None]
    if not known:
        return None
    known.sort(key=lambda row: row.value or 0.0)
    labels = [safe(name) for name in names(known)]
    values = [row.value or 0.0 for row in known]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "name": "this study", "x": values, "y": labels,
            "marker": {"size": 9, "color": "var(--series-1)"},
            "error_x": _interval(known, "var(--series-1)"),
        }
    ]  # fmt: skip
    papers = [(row.paper.value, name) for row, name in zip(known, labels, strict=True) if row.paper]
    if papers:
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": "the paper", "x": [value for value, _ in papers],
                "y": [name for _, name in papers],
                "marker": {"size": 12, "symbol": "diamond-open", "color": "var(--series-2)", "line": {"width": 2}},
            }
        )  # fmt: skip
    return Chart(
        id=f"accuracy-{dataset}",
        title=f"{dataset}: {known[0].metric}",
        text="Mean over all answers except errors, with its 95% interval; unanswered counts as 0.",
        data=data,
        layout={
            "xaxis": axis(known[0].metric or "", range=[-0.02, 1.02]),
            "yaxis": {"automargin": True},
            "showlegend": bool(papers),
        },
        origins=[row.origins[0] for row in known],
        height=110 + 34 * len(known),
    )


def _interval(rows: Sequence[Row], colour: str) -> dict[str, Any]:
    """Error bars from each value to the ends of its interval; none where it has no interval."""
    values = [row.value or 0.0 for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "color": colour,
        "thickness": 1.5,
        "array": [0.0 if row.high is None else row.high - value for row, value in zip(rows, values, strict=True)],
        "arrayminus": [0.0 if row.low is None else value - row.low for row, value in zip(rows, values, strict=True)],
    }


def cost(dataset: str, rows: Sequence[Row]) -> Chart | None:
    """Accuracy against new tokens per question."""
    known = [row for row in rows if row.value is not None and row.completion_tokens]
    if len(known) < 2:
        return None
    methods = list(dict.fromkeys(row.method for row in known))
    data = []
    for number, method in enumerate(methods):
        of = [row for row in known if row.method == method]
        colour = COLOURS[number % len(COLOURS)]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": safe(method),
                "x": [row.completion_tokens for row in of], "y": [row.value for row in of],
                "text": [safe(row.model) for row in of], "hovertemplate": "%{text}<br>%{x:.0f} tokens<br>%{y:.3f}",
                "marker": {"size": 10, "symbol": SYMBOLS[number % len(SYMBOLS)], "color": colour},
                "error_y": _interval(of, colour),
            }
        )  # fmt: skip
    return Chart(
        id=f"cost-{dataset}",
        title=f"{dataset}: {known[0].metric} against cost",
        text="Completion tokens per question (logarithmic), all calls of the method together.",
        data=data,
        layout={
            "xaxis": tokens_axis("completion tokens per question", [row.completion_tokens or 0 for row in known]),
            "yaxis": axis(known[0].metric or ""),
        },
        origins=[row.origins[0] for row in known],
        height=380,
    )


# ---------------------------------------------------------------- debate


def flows(name: str, key: str, debate: Debate, origins: list[Origin]) -> Chart | None:
    """A Sankey diagram of agents between right, wrong and unknown."""
    rounds = sorted({round for pair in debate.flows for round in pair})
    if not rounds:
        return None
    ends = {(before, change[0]) for (before, _), counts in debate.flows.items() for change in counts}
    ends |= {(after, change[1]) for (_, after), counts in debate.flows.items() for change in counts}
    shown = [(round, state) for round in rounds for state in STATES if (round, state) in ends]
    nodes = {end: number for number, end in enumerate(shown)}
    links = [
        (nodes[before, change[0]], nodes[after, change[1]], count, change[1])
        for (before, after), counts in sorted(debate.flows.items())
        for change, count in sorted(counts.items())
    ]
    source, target, value, became = zip(*links, strict=True)
    height = {"right": 0.2, "wrong": 0.6, "null": 0.95}
    return Chart(
        id=f"flows-{key}",
        title=f"{name}: who was right from round to round",
        text="Each band is a number of agents' answers; its colour says what the answer became.",
        data=[
            {
                "type": "sankey", "arrangement": "snap",
                "node": {
                    "label": [f"round {round}: {state}" for round, state in nodes],
                    "color": [f"var(--{state})" for _, state in nodes],
                    "x": [0.02 + 0.96 * rounds.index(round) / max(1, len(rounds) - 1) for round, _ in nodes],
                    "y": [height[state] for _, state in nodes], "pad": 18, "thickness": 14,
                },
                "link": {
                    "source": source, "target": target, "value": value,
                    "color": [f"var(--{state}-soft)" for state in became],
                },
            }
        ],
        layout={},
        origins=origins,
        height=340,
    )  # fmt: skip


def agreement(name: str, key: str, debate: Debate, origins: list[Origin]) -> Chart | None:
    if len(debate.agreement) < 2:
        return None
    rounds = sorted(debate.agreement)
    everyone, largest, n = zip(*debate.agreed().values(), strict=True)
    verdicts = [(debate.rounds[round]["right"], debate.rounds[round]["wrong"]) for round in rounds]
    right = [right / (right + wrong) if right + wrong else None for right, wrong in verdicts]
    lines = (
        ("all agents give one answer", everyone),
        ("agents behind the largest group", largest),
        ("agents right, of those with a verdict", right),
    )
    return Chart(
        id=f"agreement-{key}",
        title=f"{name}: agreement by round",
        text="Answers are compared by equivalence. After an early stop a question has no later rounds, so n may fall.",
        data=[
            {
                "type": "scatter", "mode": "lines+markers", "name": label, "x": rounds, "y": values,
                "text": [f"n = {count}" for count in n],
                "hovertemplate": "%{y:.3f}<br>%{text}",
                "marker": {"symbol": SYMBOLS[number], "size": 9, "color": COLOURS[number]},
                "line": {"color": COLOURS[number], "dash": DASHES[number]},
            }
            for number, (label, values) in enumerate(lines)
        ],
        layout={"xaxis": axis("round", dtick=1), "yaxis": axis("share", range=[-0.02, 1.02])},
        origins=origins,
    )  # fmt: skip


def importance(name: str, key: str, debate: Debate, origins: list[Origin]) -> Chart | None:
    if not debate.importance:
        return None
    agents = sorted(debate.importance, key=lambda agent: debate.importance[agent])
    return Chart(
        id=f"importance-{key}",
        title=f"{name}: agent importance (DyLAN)",
        text=f"Mean Agent Importance Score over {debate.scored} questions.",
        data=[
            {
                "type": "bar", "orientation": "h", "y": [safe(agent) for agent in agents],
                "x": [debate.importance[agent] / debate.scored for agent in agents],
                "marker": {"color": "var(--series-1)"},
            }
        ],
        layout={"xaxis": axis("importance"), "yaxis": {"automargin": True}},
        origins=origins,
        height=130 + 28 * len(agents),
    )  # fmt: skip


# ---------------------------------------------------------------- training


def panels(kind: str, runs: Sequence[Curves]) -> list[Chart]:
    """One chart per figure, with all runs of a kind; then guard hits and the figures without a panel."""
    panels = []
    for title, unit, keys in PANELS[kind]:  # type: ignore[index]
        data = [line for number, run in enumerate(runs) for line in _lines(number, run, keys, len(runs) > 1)]
        if data:
            panels.append(_curve(f"{kind}-{title}", title, unit, data, runs))
    guards = [
        {
            "type": "bar", "name": safe(f"{run.name}: {name}" if len(runs) > 1 else name), "x": steps, "y": values,
            "marker": {"color": COLOURS[run.guards.index(key) % len(COLOURS)]},
        }
        for run in runs
        for key in run.guards
        for name, (steps, values) in [(key.removeprefix(GUARD), run.series(key))]
        if any(values)
    ]  # fmt: skip
    if guards:
        chart = _curve(f"{kind}-guards", "Guard hits", "responses per log step", guards, runs)
        chart.layout["barmode"] = "stack"
        panels.append(chart)
    for key in sorted({key for run in runs for key in run.others}):
        data = [line for number, run in enumerate(runs) for line in _lines(number, run, (key,), len(runs) > 1)]
        panels.append(_curve(f"{kind}-other-{key}", key, "", data, runs))
    return panels


def _lines(number: int, run: Curves, keys: Sequence[str], named: bool) -> list[dict[str, Any]]:
    lines = []
    for index, key in enumerate(keys):
        steps, values = run.series(key)
        if steps:
            colour = COLOURS[(number if named else index) % len(COLOURS)]
            errors = run.series(f"{key}{SE}")[1]
            lines.append(
                {
                    **({"error_y": {"type": "data", "array": errors}} if len(errors) == len(steps) else {}),
                    "type": "scatter", "mode": "lines+markers" if len(steps) < 30 else "lines",
                    "name": safe(f"{run.name}: {key}" if named else key), "x": steps, "y": values,
                    "marker": {"color": colour, "size": 6},
                    "line": {"color": colour, "dash": DASHES[index % len(DASHES)] if named else "solid"},
                }
            )  # fmt: skip
    return lines


def _curve(key: str, title: str, unit: str, data: list[dict[str, Any]], runs: Sequence[Curves]) -> Chart:
    return Chart(
        id=key,
        title=title,
        text=unit,
        data=data,
        layout={"xaxis": axis("optimiser step"), "yaxis": {"rangemode": "tozero"}, "showlegend": True},
        origins=[origin for run in runs for origin in run.origins],
        height=300,
    )


def scores(number: int, scored: Scored) -> list[Chart]:
    """Calibration and score by step position of a scored file."""
    p_right, share_right, n = zip(*scored.bins, strict=True)
    return [
        Chart(
            id=f"calibration-{number}",
            title=f"{scored.name}: calibration",
            text=f"{scored.steps} steps of {scored.solutions} solutions; a step counts as right where its solution is.",
            data=[
                {
                    "type": "scatter", "mode": "lines", "name": "perfect", "x": [0, 1], "y": [0, 1],
                    "line": {"color": "var(--muted)", "dash": "dot"}, "hoverinfo": "skip",
                },
                {
                    "type": "scatter", "mode": "lines+markers", "name": "steps", "x": p_right, "y": share_right,
                    "text": [f"n = {count}" for count in n],
                    "marker": {"color": "var(--series-1)", "size": 8}, "line": {"color": "var(--series-1)"},
                },
            ],
            layout={
                "xaxis": axis("p(right)", range=[-0.02, 1.02]),
                "yaxis": axis("share in right solutions", range=[-0.02, 1.02]),
            },
            origins=scored.origins,
        ),
        Chart(
            id=f"positions-{number}",
            title=f"{scored.name}: score by step position",
            text="Mean p(right) of the steps at each place, of right and of wrong solutions.",
            data=[
                {
                    "type": "scatter", "mode": "lines+markers", "name": f"{kind} solutions",
                    "x": [step for step, _, _ in of], "y": [mean for _, mean, _ in of],
                    "text": [f"n = {count}" for _, _, count in of],
                    "marker": {"color": f"var(--{kind})", "symbol": "circle" if kind == "right" else "x", "size": 8},
                    "line": {"color": f"var(--{kind})"},
                }
                for kind, of in scored.positions.items() if of
            ],
            layout={"xaxis": axis("step", dtick=1), "yaxis": axis("mean p(right)", range=[-0.02, 1.02])},
            origins=scored.origins,
        ),
    ]  # fmt: skip
