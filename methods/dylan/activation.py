"""Which agents stay active: the ways in which DyLAN picks the best two replies of a layer.

`listwise` is the paper's. The published code names `window` and `trueskill` but lacks them; here `window` is
sliding-window ranking (Sun et al. 2023, arXiv 2304.09542) and `trueskill` rates replies by their pairwise comparisons
(Herbrich et al. 2006, the two-player update without draws).
"""

import math
import re
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from statistics import NormalDist
from typing import Literal

from agentark.episode import gather
from agentark.types import Chat, Message, Sample, Turn, message
from methods.common import Asked, ask, numbered, object_schema
from methods.dylan import prompts
from methods.dylan.network import Node, draw, received, shuffled

Activation = Literal["listwise", "trueskill", "window", "none"]

KEPT = 2
"""Replies that survive."""
WINDOW = 3
"""Replies a window shows: the two that lead, and the next one."""

MU, SIGMA = 25.0, 25.0 / 3
BETA = SIGMA / 2
"""TrueSkill's defaults: prior mean and deviation of a skill, deviation of a performance."""


async def survivors(
    kind: Activation, sample: Sample, chat: Chat, nodes: Sequence[Node], raters: Sequence[Node], seed: int, guided: bool
) -> tuple[list[str], int]:
    """The two agents that go on, and the number of the ranker's replies that could not be read.

    Args:
        nodes: all of a layer.
        raters: the last layer so far; if the ranker gives no ranks, their ratings decide.
    """
    order = shuffled(nodes, draw(seed, "ranker", sample.id))
    replies = [node.turn for node in order]
    positions, failures = await best_two(kind, sample, chat, replies, round=nodes[0].turn.round + 1, guided=guided)
    if positions is None:
        best = received(raters, [node.agent for node in nodes])[:KEPT]
    else:
        best = [order[position].agent for position in positions]
    return [node.agent for node in nodes if node.agent in best], failures


async def best_two(
    kind: Activation, sample: Sample, chat: Chat, replies: Sequence[Turn], *, round: int, guided: bool
) -> tuple[list[int] | None, int]:
    """(positions of the best two replies, calls that could not be read); no positions where the ranker gave none.

    Args:
        replies: in the order in which they are shown; more than two.

    Calls: listwise 1; window len(replies) - 2, one after the other; trueskill one per pair, all at once.
    """
    if kind == "trueskill":
        return await _by_rating(sample, chat, replies, round, guided)
    if kind == "listwise":
        asked = await _rank(sample, chat, replies, round, guided)
        return asked.value, asked.failures
    leading, failures = [len(replies) - 2, len(replies) - 1], 0
    for position in range(len(replies) - WINDOW, -1, -1):
        window = [position, *leading]
        asked = await _rank(sample, chat, [replies[index] for index in window], round, guided)
        failures += asked.failures
        if asked.value is None:
            return None, failures
        leading = [window[index] for index in asked.value]
    return leading, failures


async def _rank(sample: Sample, chat: Chat, replies: Sequence[Turn], round: int, guided: bool) -> Asked[list[int]]:
    """One listwise call: the positions of the best two."""
    count = len(replies)
    number = {"type": "integer", "minimum": 1, "maximum": count}
    best = {"type": "array", "items": number, "minItems": KEPT, "maxItems": KEPT}
    reasoning = {"type": "string", "maxLength": 1200}
    pairs = tuple(f"[{a}, {b}]" for a, b in combinations(range(1, count + 1), KEPT))
    return await ask(
        chat,
        _comparison(sample, replies, prompts.BEST_TWO_JSON if guided else prompts.BEST_TWO),
        partial(_pair, count=count),
        guided=guided,
        schema=object_schema(reasoning=reasoning, best=best),
        choices=pairs,
        agent="ranker",
        round=round,
        role="ranker",
    )


async def _by_rating(
    sample: Sample, chat: Chat, replies: Sequence[Turn], round: int, guided: bool
) -> tuple[list[int] | None, int]:
    """Compare every pair, update both ratings after each, keep the two with the highest mean."""
    pairs = list(combinations(range(len(replies)), 2))
    asked = await gather(
        *(
            ask(
                chat,
                _comparison(sample, [replies[a], replies[b]], prompts.BETTER),
                _one_or_two,
                guided=guided,
                choices=("1", "2"),
                agent="ranker",
                round=round,
                role=f"comparison_{a + 1}_{b + 1}",
            )
            for a, b in pairs
        )
    )
    failures = sum(comparison.failures for comparison in asked)
    if all(comparison.value is None for comparison in asked):
        return None, failures
    ratings = [(MU, SIGMA)] * len(replies)
    for (a, b), comparison in zip(pairs, asked, strict=True):
        if comparison.value is not None:
            winner, loser = (a, b) if comparison.value == 1 else (b, a)
            ratings[winner], ratings[loser] = trueskill(ratings[winner], ratings[loser])
    return sorted(range(len(replies)), key=lambda index: -ratings[index][0])[:KEPT], failures


def trueskill(
    winner: tuple[float, float], loser: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ratings (mean, deviation) of two players after a game without a draw.

    Source: Herbrich, Minka and Graepel 2006, two-player case; skills do not drift between games.
    """
    normal = NormalDist()
    spread = math.sqrt(2 * BETA**2 + winner[1] ** 2 + loser[1] ** 2)
    surprise = (winner[0] - loser[0]) / spread
    shift = normal.pdf(surprise) / max(normal.cdf(surprise), 1e-12)
    shrink = shift * (shift + surprise)

    def updated(player: tuple[float, float], sign: int) -> tuple[float, float]:
        mean, deviation = player
        share = deviation**2 / spread
        return mean + sign * share * shift, deviation * math.sqrt(1 - share / spread * shrink)

    return updated(winner, 1), updated(loser, -1)


def _comparison(sample: Sample, replies: Sequence[Turn], request: str) -> list[Message]:
    question = sample.parts(with_document=False)
    return [message("user", *question, prompts.CANDIDATES, *numbered(prompts.CANDIDATE, replies), request)]


def _pair(text: str, count: int) -> list[int] | None:
    """The last `[a, b]` of a reply, as two different positions."""
    for pair in reversed(re.findall(r"\[\s*(\d+)\s*,\s*(\d+)\s*\]", text)):
        positions = [int(digits) - 1 for digits in pair]
        if positions[0] != positions[1] and all(0 <= position < count for position in positions):
            return positions
    return None


def _one_or_two(text: str) -> int | None:
    named = set(re.findall(r"\b[12]\b", text))
    return int(named.pop()) if len(named) == 1 else None
