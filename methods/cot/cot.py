"""Zero-shot chain of thought (Kojima et al. 2022, arXiv 2205.11916).

Differs from the published code: options are never forced on a question that has none.
"""

from agentark.config import Config
from agentark.team import Agents
from agentark.types import Chat, Outcome, Sample, message
from methods.common import ALL_TASKS, Configured, solution, unparsed
from methods.cot.prompts import STEP_BY_STEP


class CoTConfig(Config):
    """Nothing to set."""


class CoT(Configured[CoTConfig]):
    """calls: 1; critical path: 1."""

    Config = CoTConfig
    TASKS = ALL_TASKS

    def agents(self) -> Agents:
        return {"agent_1": ("solver",)}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        question = message("user", *sample.parts(), STEP_BY_STEP)
        turn = await chat([question], agent="agent_1", round=1, role="solver")
        solutions = [solution(sample, turn, 1)]
        return Outcome(solutions=solutions, parse_failures=unparsed(solutions))
