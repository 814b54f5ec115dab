"""Alarms and stops that tell whether a training on the model's own samples is still healthy (pure).

Such a training fails by collapse if it fails: the replies become short, or never end, or leave what they were taught.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from agentark.config import Config

Figures = dict[str, float]
"""Figures of a rollout over all processes, as in metrics.jsonl."""
STOPPED = 3
"""Exit code of a run that crossed a bound of --stops."""


class Bounds(Config):
    """A run beyond one of these bounds counts as unhealthy; null: no bound."""

    kl: float | None = Field(None, gt=0)
    """Highest mean KL to the reference per token, in nats."""
    length_drop: float | None = Field(None, gt=0, lt=1)
    """Shortest mean length, as a share of the first rollout's."""
    truncated: float | None = Field(None, gt=0, le=1)
    """Largest share of truncated responses."""


def crossed(now: Figures, before: Sequence[Figures], bounds: Any) -> list[str]:
    """The bounds that were crossed, one line each; those of `Bounds` (GRPO has more)."""
    lines = []
    kl = now.get("kl") or 0.0  # a run without a reference has none
    if bounds.kl is not None and kl > bounds.kl:
        lines.append(f"KL {kl:.3f} per token is above {bounds.kl}")
    first = before[0] if before else now
    if bounds.length_drop is not None and now["length"] < bounds.length_drop * first["length"]:
        lines.append(
            f"mean length {now['length']:.1f} is below {bounds.length_drop:.0%} of the first rollout's "
            f"{first['length']:.1f}"
        )
    if bounds.truncated is not None and now["truncated"] > bounds.truncated:
        lines.append(f"{now['truncated']:.0%} of the responses are truncated, more than {bounds.truncated:.0%}")
    return lines


class Watch:
    """Compares rollouts with the bounds of one run.

    Args:
        alarms, stops: bounds that warn, and bounds that end the run.
        crossed: says which bounds a rollout crossed, after which earlier ones.
    """

    def __init__(
        self, alarms: Any, stops: Any, crossed: Callable[[Figures, Sequence[Figures], Any], list[str]] = crossed
    ) -> None:
        self.alarms = alarms
        self.stops = stops
        self.crossed = crossed
        self.history: list[Figures] = []
        """Earlier rollouts, including those before the run was continued."""

    def add(self, figures: Figures) -> tuple[list[str], list[str]]:
        """(alarms, reasons to stop) after another rollout; one line each, empty when all is well."""
        crossings = [self.crossed(figures, self.history, bounds) for bounds in (self.alarms, self.stops)]
        self.history.append(figures)
        return crossings[0], crossings[1]
