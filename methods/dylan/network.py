"""The layered network of DyLAN: nodes, edges, consensus, and how much each agent mattered.

Source: Liu et al. 2023 (arXiv 2310.02170), section 3.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct

from agentark import answers, metrics
from agentark.episode import gather
from agentark.records import natural
from agentark.types import AnswerType, Chat, Message, Turn, digest
from methods.common import object_schema, repair
from methods.dylan import prompts

T = TypeVar("T")

SAME_TEXT = 0.9
"""With at least this sentence BLEU, two texts count as one answer."""
BEST_SCORE = 5

_RATING = re.compile(r"\[\[\s*([\d\s,]*?)\s*\]\]")
_SCORES = re.compile(r"\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]")


class Node(Struct, frozen=True):
    """One agent in one layer."""

    agent: str
    turn: Turn
    answer: str | None
    weights: dict[str, float] = {}
    """Edges into this node: agent of the layer before -> weight; they sum to 1."""
    failures: int = 0
    """Replies whose ratings could not be read."""


def draw(seed: int, *address: str | int) -> random.Random:
    """The draws of one address of one sample; they depend on nothing else."""
    return random.Random(digest((seed, *address)))


def shuffled(items: Sequence[T], chance: random.Random) -> list[T]:
    return chance.sample(list(items), len(items))


def quorum(agents: int) -> int:
    """How many of a layer must agree: more than two thirds, floor(2N/3) + 1."""
    return 2 * agents // 3 + 1


async def grow(
    acts: Sequence[Callable[[], Coroutine[Any, Any, Node]]], answer_type: AnswerType
) -> tuple[list[Node], bool]:
    """The nodes of one layer, and whether they agree.

    First, as many agents as consensus needs act at once. The others act one by one until there is consensus.
    """
    enough = quorum(len(acts))
    nodes = await gather(*(act() for act in acts[:enough]))
    while True:
        _, votes = most_frequent(await groups([node.answer for node in nodes], answer_type))
        if votes >= enough or len(nodes) == len(acts):
            return sorted(nodes, key=lambda node: natural(node.agent)), votes >= enough
        nodes.append(await acts[len(nodes)]())


async def groups(given: Sequence[str | None], answer_type: AnswerType) -> list[int | None]:
    """For each answer the index of the first that agrees: equivalent, or for text and code BLEU >= SAME_TEXT."""
    if answer_type not in ("text", "code"):
        return await answers.group(given, answer_type)
    grouped: list[int | None] = []
    for index, answer in enumerate(given):
        leaders = [leader for leader, own in enumerate(grouped) if leader == own]
        alike = (leader for leader in leaders if answer and metrics.bleu(answer, [given[leader] or ""]) >= SAME_TEXT)
        grouped.append(next(alike, index) if answer else None)
    return grouped


def most_frequent(grouped: Sequence[int | None]) -> tuple[int | None, int]:
    """(leader of the largest group, its size), ties to the first; (None, 0) where there is no answer."""
    votes = Counter(leader for leader in grouped if leader is not None)
    return votes.most_common(1)[0] if votes else (None, 0)


# ---------------------------------------------------------------- edges


def rating(text: str, count: int) -> list[int] | None:
    """The last `[[a, b, ...]]` of a reply, as `count` scores from 1 to 5; None when there is none."""
    return _last_scores(_RATING, text, count)


def filled(request: str, count: int) -> str:
    """A request for `count` ratings."""
    return request.format(count=count, example=", ".join(["3"] * count))


def without_rating(text: str) -> str:
    return _RATING.sub("", text).strip()


def edge_weights(shown: Sequence[str], scores: Sequence[int] | None) -> dict[str, float]:
    """The edges into a node: its scores for the replies it was shown, normalised; uniform without scores."""
    given = scores or [BEST_SCORE] * len(shown)
    return {agent: score / sum(given) for agent, score in zip(shown, given, strict=True)}


async def weigh(
    chat: Chat, messages: Sequence[Message], turn: Turn, shown: Sequence[str], guided: bool
) -> tuple[dict[str, float], int]:
    """The edges into the node of `turn`, and the number of its replies whose ratings could not be read.

    Args:
        messages: what `turn` replied to.
        shown: the agents whose replies it was shown, in that order.
    """
    count, failures = len(shown), 0
    if not shown:
        return {}, 0
    if (scores := rating(turn.text, count)) is None:
        item = {"type": "integer", "minimum": 1, "maximum": BEST_SCORE}
        array = {"type": "array", "items": item, "minItems": count, "maxItems": count}
        schema = object_schema(scores=array)
        form = prompts.RATING_FORM.replace("{count}", str(count))
        parse = partial(_last_scores, _SCORES, count=count)
        role = f"{turn.role}_rating"
        asked = await repair(chat, messages, turn, parse, role, guided=guided, schema=schema, form=form)
        scores, failures = asked.value, asked.failures
    return edge_weights(shown, scores), failures


def _last_scores(pattern: re.Pattern[str], text: str, count: int) -> list[int] | None:
    """The last list of `count` scores that the pattern finds."""
    for listing in reversed(pattern.findall(text)):
        scores = [int(digits) for digits in re.findall(r"\d+", listing)]
        if len(scores) == count and all(1 <= score <= BEST_SCORE for score in scores):
            return scores
    return None


def received(layer: Sequence[Node], agents: Sequence[str]) -> list[str]:
    """The agents by the weight that this layer gave them, highest first."""
    total = {agent: sum(node.weights.get(agent, 0.0) for node in layer) for agent in agents}
    return sorted(agents, key=lambda agent: -total[agent])


def importance(layers: Sequence[Sequence[Node]], right: Collection[str]) -> dict[str, float]:
    """Agent Importance Score of every agent that acted.

    Args:
        layers: the nodes, first layer first.
        right: agents of the last layer whose answer is the result; they share its credit of 1.

    Returns:
        Per agent the sum over its nodes of I: I(t-1, j) = sum over i of w(j -> i) I(t, i).

    Source: section 3, agent importance.
    """
    credit: Mapping[str, float] = dict.fromkeys(right, 1 / len(right)) if right else {}
    scores: defaultdict[str, float] = defaultdict(float)
    for layer in reversed(layers):
        earlier: defaultdict[str, float] = defaultdict(float)
        for node in layer:
            own = credit.get(node.agent, 0.0)
            scores[node.agent] += own
            for source, weight in node.weights.items():
                earlier[source] += weight * own
        credit = earlier
    return dict(sorted(scores.items(), key=lambda item: natural(item[0])))


def total_importance(infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The scores of a run: per agent, the sum over samples of `info["importance"]`."""
    total: defaultdict[str, float] = defaultdict(float)
    for info in infos:
        for agent, score in info["importance"].items():
            total[agent] += score
    return dict(sorted(total.items(), key=lambda item: natural(item[0])))
