"""MacNet: agents on a directed acyclic graph (Qian et al. 2024, arXiv 2406.07155).

A node without inputs solves the task. On every edge u -> v an instructor criticises u's solution and v's assistant
refines it; a node with several inputs merges the refined solutions once it has all of them. Only solutions travel,
not dialogues. Where several nodes have no successor, their solutions are merged in the same way. Every call starts as
soon as its inputs are ready, so independent nodes act at once.

Differs from the published code: there, no text ever flows along an edge; here it does, and the last node's text is the
answer. The random graph is connected and drawn once from `random_seed`.
"""

import asyncio
import math
import random
from collections.abc import Sequence
from itertools import combinations, pairwise, product
from typing import ClassVar, Literal

from pydantic import Field

from agentark.config import Config, Count
from agentark.episode import gather
from agentark.team import Agents
from agentark.types import Chat, Outcome, Sample, Turn, message
from methods.common import ALL_TASKS, Configured, agent_name, numbered, solution, unparsed
from methods.flow import flow
from methods.macnet import prompts

Topology = Literal["random", "chain", "star", "tree", "net", "mlp"]
Edge = tuple[int, int]


class MacNetConfig(Config):
    RENAMED: ClassVar = {"node_num": "agent_num", "type": "topology"}

    agent_num: Count = Field(5, ge=1)
    """V, nodes (published README: 5)."""
    topology: Topology = "random"
    """Edges run from lower to higher nodes: chain; star (the first to all others); tree (binary); net (all pairs); mlp
    (floor(log2 V) full layers, at least two); random (connected, with V - 1 to V(V - 1)/2 edges)."""
    reverse: bool = False
    """Reverse every edge: stars and trees then converge (the paper's divergent and convergent forms)."""
    random_seed: int = 0
    """Seed of the random topology."""
    aggregate_unit_num: Count = Field(3, ge=2)
    """Solutions merged by one call; more of them are merged in a tree of such calls (published code: 3)."""
    profiles: list[str] = Field(default_factory=list)
    """Roles, given to the agents in turn; empty: no roles."""


class MacNet(Configured[MacNetConfig]):
    """calls: sources + 2 * edges + merges; critical path: that of the last node.

    A source takes 1 call. A node with m inputs ends 2 + d(m) calls after the last of them, d(m) = ceil(log_unit(m))
    levels of merging; m inputs take M(m) merges: groups of `unit`, until one is left; a group of one costs
    nothing. Several nodes without successor add M and d of their number. Chain: 2V - 1 calls, all in a row.
    """

    Config = MacNetConfig
    TASKS = ALL_TASKS

    def agents(self) -> Agents:
        nodes = range(self.config.agent_num)
        assistants = dict.fromkeys(map(agent_name, nodes), ("solve", "refine", "aggregate"))
        instructors = dict.fromkeys((f"instructor_{node + 1}" for node in nodes), ("instruct",))
        return {**assistants, **instructors, "sink": ("aggregate",)}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        edges = graph(self.config.topology, self.config.agent_num, self.config.reverse, self.config.random_seed)
        nodes = range(self.config.agent_num)
        inputs = [[u for u, v in edges if v == node] for node in nodes]
        sinks = [node for node in nodes if all(u != node for u, _ in edges)]
        rounds: list[int] = []
        for before in inputs:
            rounds.append(1 + max((rounds[u] for u in before), default=0))

        async def work(node: int, ready: list[asyncio.Task[Turn]]) -> Turn:
            if node == len(nodes):
                last = [await task for task in ready]
                return await self._merge(sample, chat, last, "sink", max(rounds) + 1)
            if not ready:
                prompt = message("user", self._profile(node), prompts.SOLVE, *sample.parts())
                return await chat([prompt], agent=agent_name(node), round=1, role="solve")
            along = (
                self._edge(sample, chat, u, task, node, rounds[node])
                for u, task in zip(inputs[node], ready, strict=True)
            )
            return await self._merge(sample, chat, await gather(*along), agent_name(node), rounds[node])

        turns = await flow([*inputs, sinks], work)
        solutions = [solution(sample, turn, number) for number, turn in enumerate(turns, 1)]
        info = {"edges": [[u + 1, v + 1] for u, v in edges], "sinks": [node + 1 for node in sinks]}
        return Outcome(solutions=solutions, parse_failures=unparsed(solutions[-1:]), info=info)

    async def _edge(
        self, sample: Sample, chat: Chat, source: int, task: asyncio.Task[Turn], node: int, round: int
    ) -> Turn:
        """Wait for the solution of `source`, criticise it and refine it."""
        prior = await task
        profile = self._profile(node)
        reviewing = message(
            "user", profile, prompts.INSTRUCT, *sample.parts(), prompts.PRIOR, prior, prompts.INSTRUCT_NOW
        )
        critique = await chat([reviewing], agent=f"instructor_{node + 1}", round=round, role=f"instruct_{source + 1}")
        guide: list[str | Turn] = [prompts.INSTRUCTIONS, critique, prompts.REFINE_NOW]
        refining = message("user", profile, prompts.REFINE, *sample.parts(), prompts.PRIOR, prior, *guide)
        return await chat([refining], agent=agent_name(node), round=round, role=f"refine_{source + 1}")

    async def _merge(self, sample: Sample, chat: Chat, turns: Sequence[Turn], agent: str, round: int) -> Turn:
        """One solution out of several, in groups of `aggregate_unit_num`."""

        async def merge(group: Sequence[Turn], level: int) -> Turn:
            if len(group) == 1:
                return group[0]
            listing = numbered(prompts.CANDIDATE, group)
            task = sample.parts(with_document=False)
            prompt = message("user", prompts.AGGREGATE, *task, *listing, prompts.AGGREGATE_NOW)
            return await chat([prompt], agent=agent, round=round, role=f"aggregate_{level}")

        level, unit = 0, self.config.aggregate_unit_num
        while len(turns) > 1:
            level += 1
            turns = await gather(*(merge(turns[at : at + unit], level) for at in range(0, len(turns), unit)))
        return turns[0]

    def _profile(self, node: int) -> str:
        profiles = self.config.profiles
        return prompts.PROFILE.format(profile=profiles[node % len(profiles)]) if profiles else ""


def graph(topology: Topology, nodes: int, reverse: bool, seed: int) -> list[Edge]:
    """The edges (u, v) with u < v, sorted."""
    edges = sorted(_EDGES[topology](nodes, random.Random(seed)))
    return sorted((nodes - 1 - v, nodes - 1 - u) for u, v in edges) if reverse else edges


def _mlp(nodes: int) -> list[Edge]:
    """Full connections between layers of about equal size, the first ones larger."""
    if nodes < 2:
        return []
    layers = max(2, int(math.log2(nodes)))
    sizes = [nodes // layers + (layer < nodes % layers) for layer in range(layers)]
    starts = [sum(sizes[:layer]) for layer in range(layers + 1)]
    spans = [range(*ends) for ends in pairwise(starts)]
    return [edge for lower, higher in pairwise(spans) for edge in product(lower, higher)]


def _random(nodes: int, rng: random.Random) -> list[Edge]:
    """Every node but the first reads an earlier one; further edges up to a number drawn first."""
    if nodes < 2:
        return []
    count = rng.randint(nodes - 1, nodes * (nodes - 1) // 2)
    edges = [(rng.randrange(node), node) for node in range(1, nodes)]
    others = [edge for edge in combinations(range(nodes), 2) if edge not in edges]
    return edges + rng.sample(others, count - len(edges))


_EDGES = {
    "chain": lambda nodes, rng: list(pairwise(range(nodes))),
    "star": lambda nodes, rng: [(0, node) for node in range(1, nodes)],
    "tree": lambda nodes, rng: [((node - 1) // 2, node) for node in range(1, nodes)],
    "net": lambda nodes, rng: list(combinations(range(nodes), 2)),
    "mlp": lambda nodes, rng: _mlp(nodes),
    "random": _random,
}
