"""Figures that tell how well step scores separate right from wrong. Pure: scores and labels in, numbers out."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentark.files import replacing

THRESHOLD = 0.5
"""A step with a lower p(right) counts as wrong."""
BINS = 10


def auroc(scores: Sequence[float], labels: Sequence[int]) -> float:
    """Chance that a right step scores above a wrong step (a tie counts half); NaN without both. Args: (S,) each."""
    order = sorted(range(len(scores)), key=scores.__getitem__)
    ranks = [0.0] * len(scores)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and scores[order[stop]] == scores[order[start]]:
            stop += 1
        for index in order[start:stop]:
            ranks[index] = (start + stop + 1) / 2
        start = stop
    right = sum(labels)
    wrong = len(labels) - right
    if not right or not wrong:
        return math.nan
    return (sum(rank for rank, label in zip(ranks, labels, strict=True) if label) - right * (right + 1) / 2) / (
        right * wrong
    )


def calibration_error(scores: Sequence[float], labels: Sequence[int]) -> float:
    """Expected calibration error: mean of |share right - mean score| over BINS equal bins, weighted by size."""
    bins: list[list[tuple[float, int]]] = [[] for _ in range(BINS)]
    for score, label in zip(scores, labels, strict=True):
        bins[min(BINS - 1, int(score * BINS))].append((score, label))
    gaps = [abs(sum(score - label for score, label in pairs)) for pairs in bins]
    return sum(gaps) / max(1, len(scores))


def f1(predicted: Sequence[bool], actual: Sequence[bool]) -> float:
    """Harmonic mean of precision and recall; 0 if there are no true positives."""
    hits = sum(guess and truth for guess, truth in zip(predicted, actual, strict=True))
    return 2 * hits / max(1, sum(predicted) + sum(actual))


def step_figures(scores: Sequence[float], labels: Sequence[int]) -> dict[str, float]:
    """Figures of p(right) (S,) against labels 0 and 1 (S,): accuracy, f1_wrong, auroc, calibration_error, margin.

    The margin is the mean score of right steps minus that of wrong steps; NaN without both.
    """
    known = [(score, label) for score, label in zip(scores, labels, strict=True) if label in (0, 1)]
    p, y = [score for score, _ in known], [label for _, label in known]
    said = [score < THRESHOLD for score in p]
    right = [score for score, label in known if label]
    wrong = [score for score, label in known if not label]
    both = bool(right and wrong)
    return {
        "steps": len(known),
        "accuracy": sum(guess == (not label) for guess, label in zip(said, y, strict=True)) / max(1, len(known)),
        "f1_wrong": f1(said, [not label for label in y]),
        "auroc": auroc(p, y),
        "calibration_error": calibration_error(p, y),
        "margin": sum(right) / len(right) - sum(wrong) / len(wrong) if both else math.nan,
    }


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw metrics.jsonl as a PNG: the loss on the left, figures on held-out data on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2)
    for name in sorted({key for row in rows for key in row if key == "loss" or key.startswith("loss_")}):
        points = [(row["step"], row[name]) for row in rows if name in row]
        left.plot(*zip(*points, strict=True), label=name)
    for name in ("accuracy", "f1_wrong", "auroc", "calibration_error", "margin"):
        for prefix, style in (("eval_", "o-"), ("train_", ":")):
            points = [(row["step"], row[prefix + name]) for row in rows if row.get(prefix + name) is not None]
            if points:
                right.plot(*zip(*points, strict=True), style, label=prefix + name)
    for axis, title in ((left, "loss"), (right, "steps: right or wrong")):
        axis.set_title(title)
        axis.set_xlabel("optimiser step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7)
    figure.tight_layout()
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=120)
