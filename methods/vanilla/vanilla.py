"""One call with the question: the baseline of every other method.

Differs from the published code: options are never forced on a question that has none.
"""

from agentark.config import Config
from agentark.team import Agents
from agentark.types import Chat, Outcome, Sample, message
from methods.common import ALL_TASKS, Configured, solution, unparsed


class VanillaConfig(Config):
    """Nothing to set."""


class Vanilla(Configured[VanillaConfig]):
    """calls: 1; critical path: 1."""

    Config = VanillaConfig
    TASKS = ALL_TASKS

    def agents(self) -> Agents:
        return {"agent_1": ("solver",)}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        turn = await chat([message("user", *sample.parts())], agent="agent_1", round=1, role="solver")
        solutions = [solution(sample, turn, 1)]
        return Outcome(solutions=solutions, parse_failures=unparsed(solutions))
