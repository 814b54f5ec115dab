"""The curves of a fine-tuning run."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentark.files import replacing


def training_curve(history: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draw loss and evaluation score over optimizer steps. Returns whether the picture could be drawn."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    loss = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    scores = [
        (entry["step"], entry["eval_score"], entry["eval_score_se"]) for entry in history if "eval_score" in entry
    ]
    figure = Figure(figsize=(7, 4))
    axis = figure.subplots()
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
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=120)
    return True
