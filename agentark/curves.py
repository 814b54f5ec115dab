"""The curves of a training as a picture."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentark.files import replacing

Panel = tuple[str, tuple[str, ...]]
"""A title and the figures under it."""


def draw(panels: Sequence[Panel], metrics: Sequence[dict[str, Any]], dev: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draw figures over the optimizer steps. Returns whether the picture could be drawn.

    Args:
        metrics: rows of metrics.jsonl.
        dev: rows of dev.jsonl (step, accuracy, se), may be empty.
        path: the PNG to write.
    """
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(3, 3).flatten()
    for axis, (title, names) in zip(axes, panels, strict=False):
        for name in names:
            points = [(row["step"], row[name]) for row in metrics if row.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.removeprefix("guard/"))
        axis.set_title(title)
        axis.legend(fontsize=7) if axis.lines else None
        axis.set_xlabel("optimizer step")
    used = len(panels)
    if dev:
        axis, used = axes[used], used + 1
        axis.set_title("held-out accuracy")
        axis.set_xlabel("optimizer step")
        errors = [row["se"] or 0.0 for row in dev]
        axis.errorbar([row["step"] for row in dev], [row["accuracy"] for row in dev], yerr=errors, capsize=2)
    for spare in axes[used:]:
        spare.set_axis_off()
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
    return True
