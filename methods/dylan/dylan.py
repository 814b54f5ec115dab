"""DyLAN, a dynamic LLM-agent network (Liu et al. 2023, arXiv 2310.02170).

Agents form layers; every agent of a layer reads all replies of the layer before, answers again and rates them. The
debate ends as soon as more than two thirds of a layer agree. From the third layer on only the two agents act whose
replies a ranker finds best. Credit then flows back from the result along the ratings: the Agent Importance Score.

Differs from the published code: the ranked agents act (there, loop positions of a shuffled list are compared with
ranks, so that two random agents act); consensus is equivalence of answers, and real BLEU where they are free text;
the Agent Importance Score and team optimisation, the paper's point, are added; ratings come before the answer, so that
a reply ends with it; all four activations exist (methods/dylan/activation.py).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from agentark.config import Config, Count, nearest
from agentark.episode import gather
from agentark.team import Agents
from agentark.types import Chat, Episodes, Outcome, Part, Sample, Solution, Turn, message
from methods.common import REASONING, agent_name, numbered, solution, unparsed
from methods.dylan import network, prompts
from methods.dylan.activation import KEPT, Activation, survivors
from methods.dylan.network import Node, draw, importance, shuffled, weigh


class TeamOptimization(Config):
    """Solve a few samples with all agents, then keep those that mattered."""

    top_k: Count = Field(2, ge=1)
    """Agents kept, those of the highest summed Agent Importance Score."""
    trial_samples: Count = Field(8, ge=1)
    """Samples of the run that are drawn for the trial, at most."""


class DyLANConfig(Config):
    RENAMED: ClassVar = {"agents_num": "num_agents", "agents": "num_agents", "rounds_num": "num_rounds"}

    random_seed: int = Field(0, ge=0)
    """Seed of the orders in which agents act and replies are shown (published README: 0)."""
    num_agents: Count = Field(4, ge=1)
    """N, agents of a layer (published README: 4)."""
    num_rounds: Count = Field(3, ge=1)
    """R, layers at most, the independent one included (published README: 3)."""
    activation: Activation = "listwise"
    """How the two agents of the later layers are chosen: listwise | trueskill | window | none (all go on)."""
    roles: list[str] = Field(["Assistant"] * 4)
    """One role per agent, of methods/dylan/prompts.py (published README: four assistants)."""
    examples: bool = False
    """Show two worked mathematical problems before the question (the paper's MATH experiments)."""
    guided: bool = True
    """Guided decoding of ranks and of repaired ratings, where the engine has it; false: the paper's free text."""
    team_optimization: TeamOptimization | None = None
    """Trial that decides, before the first sample, which agents are on the team; null: all of them."""

    @field_validator("roles")
    @classmethod
    def _known(cls, roles: list[str], info: ValidationInfo) -> list[str]:
        return roles_of(roles, prompts.ROLES, info)


def roles_of(roles: list[str], known: Mapping[str, str], info: ValidationInfo | None) -> list[str]:
    """The roles, if all are known and (given `info`) there is one for each agent."""
    for role in roles:
        if role not in known:
            raise ValueError(f"unknown role {role!r} ({nearest(role, known)})")
    if info is not None and (agents := info.data.get("num_agents", len(roles))) != len(roles):
        raise ValueError(f"{len(roles)} roles for {agents} agents; give one for each (num_agents)")
    return roles


class DyLAN:
    """calls: floor(2N/3) + 1 (consensus at once) to 2N + 1 + 2(R - 2), with N the team's size; the window ranker takes
    N - 2 calls instead of 1, trueskill N(N - 1)/2, without activation it is N*R; N <= 2 needs no ranker. One more for
    each reply that cannot be read; if that fails too, the ratings give the ranks, and ratings are uniform.
    critical path: as a layer waits for its first floor(2N/3) + 1 replies before the others may be needed, at most
    W(N) + W(N) + 1 + R - 2 with W(N) = N - floor(2N/3) (trueskill the same; window N - 2 in place of the 1).
    """

    Config = DyLANConfig
    TASKS = REASONING

    def __init__(self, config: DyLANConfig, team: Sequence[str] | None = None, prepared: Any = None) -> None:
        self.config = config
        self.prepared = prepared
        names = [agent_name(index) for index in range(config.num_agents)]
        self._roles = {
            name: prompts.ROLES[role]
            for name, role in zip(names, config.roles, strict=True)
            if team is None or name in team
        }

    def agents(self) -> Agents:
        solvers = [agent_name(index) for index in range(self.config.num_agents)]
        return {**dict.fromkeys(solvers, ("solver", "solver_rating")), "ranker": ("ranker", "comparison")}

    async def prepare(self, samples: Sequence[Sample], episodes: Episodes) -> "DyLAN":
        wanted = self.config.team_optimization
        if wanted is None:
            return self
        chosen = shuffled(samples, draw(self.config.random_seed, "trial"))[: wanted.trial_samples]
        outcomes = await gather(*(self.run(sample, episodes(sample)) for sample in chosen))
        scores = network.total_importance([outcome.info for outcome in outcomes])
        team = sorted(self._roles, key=lambda name: -scores.get(name, 0.0))[: wanted.top_k]
        return self.restored({"team": [name for name in self._roles if name in team], "importance": scores})

    def restored(self, prepared: Any) -> "DyLAN":
        return DyLAN(self.config, prepared["team"], prepared)

    def totals(self, infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"importance": network.total_importance(infos)}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        kind, seed = self.config.activation, self.config.random_seed
        layers: list[list[Node]] = []
        active, failures, ranked, reached = list(self._roles), 0, None, False
        while not reached and len(layers) < self.config.num_rounds:
            if len(layers) == 2 and len(active) > KEPT and kind != "none":
                active, unread = await survivors(kind, sample, chat, layers[1], layers[1], seed, self.config.guided)
                failures, ranked = failures + unread, active
            nodes, reached = await self._layer(sample, chat, active, layers)
            layers.append(nodes)
        last = layers[-1]
        grouped = await network.groups([node.answer for node in last], sample.answer_type)
        leader, _ = network.most_frequent(grouped)
        right = [node.agent for node, own in zip(last, grouped, strict=True) if own is not None and own == leader]
        candidates = [_solution(sample, node.turn, number) for number, node in enumerate(last, 1)]
        result = _solution(sample, last[leader or 0].turn, len(last) + 1, agent="aggregator")
        failures += sum(node.failures for layer in layers for node in layer)
        info = {"rounds": len(layers), "consensus": reached, "ranked": ranked, "importance": importance(layers, right)}
        return Outcome(
            solutions=[*candidates, result],
            parse_failures=failures + unparsed(candidates),
            info=info,
        )

    async def _layer(
        self, sample: Sample, chat: Chat, active: Sequence[str], layers: Sequence[Sequence[Node]]
    ) -> tuple[list[Node], bool]:
        """The next layer, and whether it agrees."""
        seed, depth = self.config.random_seed, len(layers)
        order = shuffled(active, draw(seed, "order", sample.id, depth))
        acts = []
        for agent in order:
            shown = shuffled(layers[-1], draw(seed, agent, sample.id, depth)) if layers else []
            acts.append(partial(self._act, sample, chat, agent, shown, depth + 1))
        return await network.grow(acts, sample.answer_type)

    async def _act(self, sample: Sample, chat: Chat, agent: str, shown: Sequence[Node], round: int) -> Node:
        """One agent's reply, and the edges into it."""
        parts: list[str | Part | Turn] = [prompts.EXAMPLES] if self.config.examples else []
        parts += sample.parts()
        if shown:
            request = network.filled(prompts.RATE_AND_ANSWER, len(shown))
            parts += [prompts.PEERS, *numbered(prompts.PEER, [node.turn for node in shown]), request]
        messages = [message("system", self._roles[agent]), message("user", *parts)]
        turn = await chat(messages, agent=agent, round=round, role="solver")
        weights, failures = await weigh(chat, messages, turn, [node.agent for node in shown], self.config.guided)
        return Node(agent, turn, _solution(sample, turn, 1).answer, weights, failures)


def _solution(sample: Sample, turn: Turn, number: int, agent: str | None = None) -> Solution:
    """A reply as a solution; the numbers of its ratings don't count as an answer."""
    return solution(sample, turn, number, agent, network.without_rating(turn.text))
