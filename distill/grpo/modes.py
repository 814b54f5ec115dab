"""The choices of credit assignment, as flags name them."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Estimator = Literal["rloo", "reinforce", "gae", "group_norm"]
Baseline = Literal["token", "step"]


class ModeSpec(NamedTuple):
    """What a reward mode rewards."""

    process: bool
    """Scores of a process reward model."""
    verified: bool
    """Whether the answer is right."""
    whole_response: bool
    """One process score for the whole response, instead of one per step."""


MODES: Mapping[str, ModeSpec] = {
    "PRM": ModeSpec(process=True, verified=False, whole_response=False),
    "VR": ModeSpec(process=False, verified=True, whole_response=False),
    "PRMVR": ModeSpec(process=True, verified=True, whole_response=False),
    "ORM": ModeSpec(process=True, verified=False, whole_response=True),
}
"""The choices of --reward_mode."""
