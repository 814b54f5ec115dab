"""Multi-agent debate (Du et al. 2023, arXiv 2305.14325), as AgentArk (arXiv 2602.03955) uses it.

Round 1: each agent answers alone. Round r: each agent goes on with its own dialogue, reads the round r-1
answers of all other agents, and answers again. An aggregator call (or a vote) reads the last answers. Two controls
keep calls and rounds but show an agent nothing of the others (`peers: none`), or what they answered to another question
(`peers: unrelated`).

Differs from the published code: the first round is in the trajectory; thinking text is not shown to peers;
a single agent is asked to verify itself; no agent is limited to the letters A to D. A document stands in each
agent's first message only; the aggregator reads the answers without it.
"""

from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar, Literal, Self

from msgspec import UNSET
from pydantic import Field, model_validator

from agentark import answers
from agentark.config import Config, Count
from agentark.episode import gather
from agentark.team import Agents
from agentark.types import Chat, Message, Outcome, Part, Sample, SampleError, Turn, message
from methods.common import ALL_TASKS, Configured, agent_name, numbered, solution, unparsed
from methods.llm_debate import prompts


class LLMDebateConfig(Config):
    RENAMED: ClassVar = {"agents_num": "num_agents", "agents": "num_agents", "rounds_num": "num_rounds"}

    num_agents: Count = Field(3, ge=1)
    """A, debating agents (published README: 3; the paper's data generation: 5)."""
    num_rounds: Count = Field(2, ge=1)
    """R, rounds including the first, independent one (published README: 2; the paper's data generation: 3)."""
    early_stop: bool = False
    """End the debate after a round in which all answers are equivalent (the paper's data generation: true)."""
    aggregate: Literal["llm", "vote"] = "llm"
    """How the final answer is settled: by one more call, or by a majority vote over the last answers."""
    shared_order: bool = False
    """Show all agents the same list of answers, their own included, ahead of the agent's own part, so that
    one prompt prefix serves them all (5 x 3: a seventh of the uncached prompt tokens). Changes the prompts."""
    peers: Literal["all", "none", "unrelated"] = Field("all", exclude_if=lambda peers: peers == "all")
    """What an agent reads before it answers again: the others' latest answers; nothing; or, in the same words, the
    others' answers to another question of the dataset. Records leave `all` out, as they did before."""

    @model_validator(mode="after")
    def _one_list_for_all(self) -> Self:
        if self.shared_order and self.peers != "all":
            raise ValueError(f"shared_order shows all answers to everybody, so it does not go with peers: {self.peers}")
        return self


class LLMDebate(Configured[LLMDebateConfig]):
    """calls: A*R + 1 (A*R with `aggregate: vote`; A more with `peers: unrelated`); critical path: R + 1."""

    Config = LLMDebateConfig
    TASKS = ALL_TASKS

    @property
    def wants_decoys(self) -> bool:
        """Whether it reads `Sample.decoy`."""
        return self.config.peers == "unrelated" and self.config.num_agents > 1 and self.config.num_rounds > 1

    def agents(self) -> Agents:
        debaters = [agent_name(index) for index in range(self.config.num_agents)]
        aggregator = {"aggregator": ("aggregator",)} if self.config.aggregate == "llm" else {}
        roles = ("debater", "decoy") if self.wants_decoys else ("debater",)
        return {**dict.fromkeys(debaters, roles), **aggregator}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        agents = [agent_name(index) for index in range(self.config.num_agents)]
        dialogues = [[message("user", *sample.parts())] for _ in agents]
        turns, decoys = list[Turn](), list[Turn]()
        for round in range(1, self.config.num_rounds + 1):
            asides: list[Coroutine[Any, Any, Turn]] = []
            if round > 1:
                read = {"all": turns, "none": [], "unrelated": decoys}[self.config.peers]
                dialogues = [self._next(sample, index, dialogues[index], turns, read) for index in range(len(agents))]
            elif self.wants_decoys:
                other = message("user", _decoy(sample))
                asides = [chat([other], agent=agent, round=0, role="decoy") for agent in agents]
            calls = zip(agents, dialogues, strict=True)
            said = await gather(
                *(chat(dialogue, agent=agent, round=round, role="debater") for agent, dialogue in calls), *asides
            )
            turns, decoys = said[: len(agents)], said[len(agents) :] or decoys
            last = [solution(sample, turn, number) for number, turn in enumerate(turns, 1)]
            given = [candidate.answer for candidate in last]
            groups = await answers.group(given, sample.answer_type)
            consensus = None not in groups and len(set(groups)) == 1
            if self.config.early_stop and consensus:
                break
        if self.config.aggregate == "vote":
            chosen = turns[await answers.majority(given, sample.answer_type) or 0]
        else:
            listing = numbered(prompts.AGENT_ANSWER, turns)
            prompt = message("user", *sample.parts(with_document=False), *listing, prompts.AGGREGATE)
            chosen = await chat([prompt], agent="aggregator", round=round + 1, role="aggregator")
        aggregate = solution(sample, chosen, len(agents) + 1, agent="aggregator")
        info = {"rounds": round, "consensus": consensus}
        return Outcome(solutions=[*last, aggregate], parse_failures=unparsed(last), info=info)

    def _next(
        self, sample: Sample, index: int, dialogue: list[Message], turns: Sequence[Turn], read: Sequence[Turn]
    ) -> list[Message]:
        """The messages of agent `index` for the round after `turns`; of `read` it is shown all but its own."""
        if self.config.shared_order:
            listing = numbered(prompts.AGENT_ANSWER, turns)
            own_part = prompts.YOUR_UPDATE.format(number=index + 1)
            return [message("user", *sample.parts(), prompts.ROUND_ANSWERS, *listing, own_part)]
        own = message("assistant", turns[index])
        peers = [turn for position, turn in enumerate(read) if position != index]
        if not peers:
            return [*dialogue, own, message("user", prompts.VERIFY)]
        return [*dialogue, own, message("user", prompts.PEERS, *numbered(prompts.PEER, peers), prompts.UPDATE)]


def _decoy(sample: Sample) -> Part:
    if sample.decoy is UNSET:
        raise SampleError("peers: unrelated needs another question of the dataset, and this sample brings none")
    return Part(sample.decoy, "middle")
