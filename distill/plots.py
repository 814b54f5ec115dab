"""Curves of training runs."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill.grpo_flags import GUARDS

PANELS = (
    ("reward", ("process_reward", "process_reward_min", "solved")),
    ("KL per token", ("kl",)),
    ("tokens per response", ("length",)),
    ("steps per response", ("steps",)),
    ("guard hits", tuple(f"guard/{name}" for name in GUARDS)),
    ("truncated", ("truncated",)),
)
"""Of a GRPO run: title, figures."""


def training_curve(history: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Loss and evaluation score over optimizer steps, as a picture. Returns whether it could be drawn."""
    if find_spec("matplotlib") is None:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    loss = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    scores = [
        (entry["step"], entry["eval_score"], entry["eval_score_se"]) for entry in history if "eval_score" in entry
    ]
    figure, axis = pyplot.subplots(figsize=(7, 4))
    axis.plot([step for step, _ in loss], [value for _, value in loss], label="training loss", color="tab:blue")
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("loss per token")
    if scores:
        steps, values, errors = zip(*scores, strict=True)
        right = axis.twinx()
        right.errorbar(steps, values, yerr=errors, label="evaluation", color="tab:orange", marker="o", capsize=3)
        right.set_ylabel("score (± standard error)")
        right.set_ylim(0, 1)
    figure.legend(loc="upper center", ncols=2)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def grpo_curves(metrics: Sequence[dict[str, Any]], dev: Sequence[dict[str, Any]], path: Path) -> None:
    """The curves of a GRPO run as one picture: reward parts, KL, length, steps, guard hits, held-out accuracy.

    Args:
        metrics: rows of metrics.jsonl.
        dev: rows of dev.jsonl (step, accuracy, se), may be empty.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(3, 3).flatten()
    for axis, (title, names) in zip(axes, PANELS, strict=False):
        for name in names:
            points = [(row["step"], row[name]) for row in metrics if row.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.removeprefix("guard/"))
        axis.set_title(title)
        axis.legend(fontsize=7) if axis.lines else None
        axis.set_xlabel("optimizer step")
    used = len(PANELS)
    if dev:
        axis, used = axes[used], used + 1
        axis.set_title("held-out accuracy")
        axis.set_xlabel("optimizer step")
        errors = [row["se"] or 0.0 for row in dev]
        axis.errorbar([row["step"] for row in dev], [row["accuracy"] for row in dev], yerr=errors, capsize=2)
    for spare in axes[used:]:
        spare.set_axis_off()
    figure.savefig(path, dpi=110)
