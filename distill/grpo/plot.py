"""The curves of a GRPO run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentark.curves import draw
from distill.grpo.config import GUARDS

PANELS = (
    ("reward", ("process_reward", "process_reward_min", "solved")),
    ("KL per token", ("kl",)),
    ("tokens per response", ("length",)),
    ("steps per response", ("steps",)),
    ("guard hits", tuple(f"guard/{name}" for name in GUARDS)),
    ("truncated", ("truncated",)),
)
"""Title and figures of each panel."""


def grpo_curves(metrics: Sequence[dict[str, Any]], dev: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the curves of a GRPO run: reward parts, KL, length, steps, guard hits, held-out accuracy.

    Args:
        metrics: rows of metrics.jsonl.
        dev: rows of dev.jsonl (step, accuracy, se), may be empty.
        path: the PNG to write.
    """
    draw(PANELS, metrics, dev, path)
