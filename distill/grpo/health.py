"""Figures of each rollout, and alarms and stops that tell whether the run is still healthy (pure; both backends).

Training on process rewards fails within a few hundred steps if it fails: the policy learns shapes that the reward model
over-rates (empty or single steps), the reward jumps, responses collapse in length (PURE, arXiv 2504.15275, section 5).
"""

import statistics
from collections.abc import Sequence

from agentark import health
from agentark.health import Figures
from distill.grpo.config import Bounds
from distill.grpo.reward import Scored, counts

WINDOW = 20
"""The reward is compared with the mean of this many earlier rollouts."""
LEAST = 4
"""Earlier rollouts needed before a rise can count as a jump."""


def total(response: Scored) -> float:
    """A response's mean step reward plus its verdict. It is watched and plotted; training does not use it."""
    return sum(response.rewards) / len(response.rewards) + (response.solved or 0.0)


def summary(scored: Sequence[Scored]) -> Figures:
    """Means over responses (length in tokens), and the number of responses that hit each guard."""
    known = [response.solved for response in scored if response.solved is not None]
    size = len(scored)
    figures = {
        "total_reward": sum(map(total, scored)) / size,
        "process_reward": sum(sum(response.rewards) / len(response.rewards) for response in scored) / size,
        "process_reward_min": sum(min(response.rewards) for response in scored) / size,
        "steps": sum(len(response.steps.steps) for response in scored) / size,
        "length": sum(response.length for response in scored) / size,
        "truncated": sum(response.truncated for response in scored) / size,
    }
    if known:
        figures["solved"] = sum(known) / len(known)
    return figures | {f"guard/{name}": float(count) for name, count in counts(scored).items()}


class Watch(health.Watch):
    """Compares rollouts with the bounds of one run, those of `crossed`."""

    def __init__(self, alarms: Bounds, stops: Bounds) -> None:
        super().__init__(alarms, stops, crossed)


def crossed(now: Figures, before: Sequence[Figures], bounds: Bounds) -> list[str]:
    """The bounds that were crossed, one line each."""
    lines = health.crossed(now, before, bounds)
    recent = [figures["total_reward"] for figures in before[-WINDOW:]]
    if bounds.reward_jump is not None and len(recent) >= LEAST:
        mean, spread = statistics.fmean(recent), statistics.stdev(recent)
        if now["total_reward"] - mean > bounds.reward_jump * max(spread, 1e-3):
            lines.append(f"reward {now['total_reward']:.3f} jumped from {mean:.3f} (spread {spread:.3f})")
    first = before[0] if before else now
    if bounds.mean_steps is not None and now["steps"] < bounds.mean_steps <= first["steps"]:
        lines.append(f"{now['steps']:.2f} steps per response is below {bounds.mean_steps}")
    return lines
