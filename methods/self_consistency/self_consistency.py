"""Self-consistency (Wang et al. 2022, arXiv 2203.11171): sample several reasonings, take the majority answer.

Free-text tasks have nothing to vote on, so one more call reads all answers and settles on one (universal
self-consistency, Chen et al. 2023, arXiv 2311.17311).

Differs from the published code: that always asks a judge, limited to the letters A to D; the paper and we take a
majority vote, here over equivalent answers ("1/2" and "0.5" vote together).
"""

from typing import ClassVar

from pydantic import Field

from agentark import answers
from agentark.config import Config, Count
from agentark.episode import gather
from agentark.team import Agents
from agentark.types import Chat, Outcome, Sample, message
from methods.common import ALL_TASKS, Configured, agent_name, numbered, solution, unparsed
from methods.self_consistency.prompts import CANDIDATE, CANDIDATES, DECIDE


class SelfConsistencyConfig(Config):
    RENAMED: ClassVar = {"agents": "parallel_num", "agents_num": "parallel_num", "num_agents": "parallel_num"}

    parallel_num: Count = Field(5, ge=1)
    """Independent samples at the model temperature (published README: 5)."""


class SelfConsistency(Configured[SelfConsistencyConfig]):
    """calls: parallel_num, +1 on free-text tasks; critical path: 1, +1."""

    Config = SelfConsistencyConfig
    TASKS = ALL_TASKS

    def agents(self) -> Agents:
        solvers = [agent_name(index) for index in range(self.config.parallel_num)]
        return {**dict.fromkeys(solvers, ("solver",)), "aggregator": ("aggregator",)}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        question = [message("user", *sample.parts())]
        agents = [agent_name(index) for index in range(self.config.parallel_num)]
        turns = await gather(*(chat(question, agent=agent, round=1, role="solver") for agent in agents))
        candidates = [solution(sample, turn, number) for number, turn in enumerate(turns, 1)]
        if sample.answer_type == "text":
            listing = numbered(CANDIDATE, turns)
            prompt = message("user", CANDIDATES, *sample.parts(with_document=False), *listing, DECIDE)
            chosen = await chat([prompt], agent="aggregator", round=2, role="aggregator")
        else:
            winner = await answers.majority([candidate.answer for candidate in candidates], sample.answer_type)
            chosen = turns[winner or 0]
        aggregate = solution(sample, chosen, len(turns) + 1, agent="aggregator")
        return Outcome(solutions=[*candidates, aggregate], parse_failures=unparsed(candidates))
