"""BoN-MAV, best of n with multi-agent verification (Lifshitz et al. 2025, arXiv 2502.20379).

n candidates; M aspect verifiers each reason about each candidate, then say True or False; the candidate with the most
approvals wins, the first of equals.

Differs from the published code: the verifiers are the same for the whole run; `vera_temp: 0` is a temperature; the
approval is a guided choice instead of a search for "True" in prose; verifiers may be other models than the generator.
A verdict that cannot be read does not count as approval.
"""

import random
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator

from agentark.config import Config, Count, nearest
from agentark.episode import gather
from agentark.team import Agents
from agentark.types import Chat, Outcome, Sample, Turn, message
from methods.common import ALL_TASKS, Asked, agent_name, ask, solution, unparsed
from methods.mav import prompts


class MAVConfig(Config):
    RENAMED: ClassVar = {"n_verifiers": "n_max_verifiers", "temperature": "vera_temp"}

    n_solutions: Count = Field(2, ge=1)
    """n, candidates at the model temperature (published README: 2)."""
    n_max_verifiers: Count = Field(2, ge=1)
    """M, verifiers at most (published README: 2)."""
    vera_temp: float = Field(0, ge=0)
    """Temperature of the verifiers (published README: 0)."""
    verifiers: list[str] = Field(list(prompts.ASPECTS))
    """Aspects to choose from, of methods/mav/prompts.py; if there are more than M, `random_seed` draws M of them."""
    random_seed: int = Field(0, ge=0)
    """Seed of that draw, which is the same for all samples of a run."""
    verifier_models: list[str] = Field([])
    """Models that verify, given to the verifiers in turn; empty: the generator. Also --verifier_models."""
    guided: bool = True
    """Guided choice of True or False, where the engine has it; false: the paper's free text."""

    @field_validator("verifiers")
    @classmethod
    def _known(cls, verifiers: list[str]) -> list[str]:
        for aspect in verifiers:
            if aspect not in prompts.ASPECTS:
                raise ValueError(f"unknown aspect {aspect!r} ({nearest(aspect, prompts.ASPECTS)})")
        if not verifiers or len(set(verifiers)) < len(verifiers):
            raise ValueError("give at least one aspect, and none twice")
        return verifiers


class MAV:
    """calls: n + 2nM, one more for each verdict that cannot be read; critical path: 3."""

    Config = MAVConfig
    TASKS = ALL_TASKS

    def __init__(self, config: MAVConfig) -> None:
        self.config = config
        self.other_models = tuple(config.verifier_models)
        count = min(config.n_max_verifiers, len(config.verifiers))
        drawn = random.Random(config.random_seed).sample(range(len(config.verifiers)), count)
        self.verifiers = [config.verifiers[index] for index in sorted(drawn)]

    def agents(self) -> Agents:
        solvers = [agent_name(index) for index in range(self.config.n_solutions)]
        verifiers = [verifier_name(index) for index in range(len(self.verifiers))]
        return {**dict.fromkeys(solvers, ("solver",)), **dict.fromkeys(verifiers, ("verify", "approve"))}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        question = [message("user", *sample.parts())]
        agents = [agent_name(index) for index in range(self.config.n_solutions)]
        turns = await gather(*(chat(question, agent=agent, round=1, role="solver") for agent in agents))
        verdicts = await gather(*(self._verify(sample, chat, turn, number) for number, turn in enumerate(turns, 1)))
        approvals = [[verdict.value for verdict in row] for row in verdicts]
        scores = [row.count(True) / len(self.verifiers) for row in approvals]
        best = scores.index(max(scores))
        candidates = [solution(sample, turn, number) for number, turn in enumerate(turns, 1)]
        result = solution(sample, turns[best], len(turns) + 1, agent="aggregator")
        failures = unparsed(candidates) + sum(verdict.failures for row in verdicts for verdict in row)
        info = {"verifiers": self.verifiers, "approvals": approvals, "scores": scores}
        return Outcome(solutions=[*candidates, result], parse_failures=failures, info=info)

    async def _verify(self, sample: Sample, chat: Chat, candidate: Turn, number: int) -> list[Asked[bool]]:
        """The verdict of every verifier on one candidate."""
        models: Sequence[str] = self.config.verifier_models or ["main"]

        async def verify(index: int, aspect: str) -> Asked[bool]:
            where: dict[str, Any] = {"agent": verifier_name(index), "model": models[index % len(models)]}
            where["temperature"] = self.config.vera_temp
            request = prompts.THINK.replace("{aspect}", prompts.ASPECTS[aspect])
            shown = message("user", prompts.QUESTION, *sample.parts(), prompts.SOLUTION, candidate, request)
            thought = await chat([shown], round=2, role=f"verify_{number}", **where)
            return await ask(
                chat,
                [shown, message("assistant", thought), message("user", prompts.APPROVE)],
                verdict_of,
                guided=self.config.guided,
                choices=("True", "False"),
                round=3,
                role=f"approve_{number}",
                **where,
            )

        return await gather(*(verify(index, aspect) for index, aspect in enumerate(self.verifiers)))


def verifier_name(index: int) -> str:
    """`verifier_1` for index 0."""
    return f"verifier_{index + 1}"


def verdict_of(text: str) -> bool | None:
    """True or False, as the last line of a reply says; None when it says neither or both."""
    words = {word.lower() for word in re.findall(r"\b(true|false)\b", text.rstrip().rpartition("\n")[2], re.I)}
    return words == {"true"} if len(words) == 1 else None
