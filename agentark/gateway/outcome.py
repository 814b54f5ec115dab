"""What a team's outcome makes of a sample: the agents' last replies as candidates, the stated answer as the aggregate.

A solution is the reply of a turn. The stated answer is therefore traced to the reply it comes from: the last one with
this very text, else the last one whose extracted answer is the same. Where there is none, the team's own words become
a turn of their own (agent `team`, role `outcome`), which costs no tokens. The words themselves stay in
`info.stated`.
"""

import asyncio
from collections.abc import Iterable, Mapping

from msgspec import structs

from agentark import answers
from agentark.records import natural, turn_order
from agentark.types import TEAM, Completion, Message, Outcome, Part, Sample, Solution, Turn

REPLY = "reply"
"""Role of every whole reply of an agent."""
BROKEN = "broken"
"""Role of a reply that its client did not wait for."""
STATED = "outcome"
"""Role of the team's own words."""
WHOLE = ("text", "code")
"""Types of answer for which the whole reply is the answer: only the very text is the same."""

SHORTEST_QUOTE = 32
"""Characters of a reply that is looked for in other messages."""


async def settled(
    sample: Sample, turns: Iterable[Turn], text: str, requests: Mapping[str, str]
) -> tuple[Outcome, Turn | None]:
    """(the outcome of a sample, the turn it adds, if any).

    Args:
        text: the answer that the team states.
        requests: turn -> key of its call (agentark/gateway/calls.py).
    """
    replies = sorted((turn for turn in turns if turn.role == REPLY), key=turn_order)
    found: dict[str, str | None] = {}

    async def answer(turn: Turn) -> str | None:
        if turn.id not in found:
            found[turn.id] = _answer(sample, turn.text)
            await asyncio.sleep(0)  # a long reply takes milliseconds, and other calls wait
        return found[turn.id]

    async def solution(turn: Turn, number: int, agent: str) -> Solution:
        return Solution(id=number, agent=agent, round=turn.round, turn=turn.id, answer=await answer(turn))

    last = {turn.agent: turn for turn in replies}
    agents = sorted(last, key=natural)
    candidates = [await solution(last[agent], number, agent) for number, agent in enumerate(agents, 1)]
    own = None
    source = next((turn for turn in reversed(replies) if turn.text.strip() == text.strip()), None)
    stated = _answer(sample, text) if sample.answer_type not in WHOLE else None
    if source is None and stated is not None:
        for turn in reversed(replies):
            value = await answer(turn)
            if value is not None and await answers.equivalent(value, stated, sample.answer_type):
                source = turn
                break
    if source is None:
        source = own = _own_turn(text, max((turn.round for turn in replies), default=0) + 1)
    outcome = Outcome(
        solutions=[*candidates, await solution(source, len(candidates) + 1, TEAM)],
        parse_failures=sum(candidate.answer is None for candidate in candidates),
        info={"stated": text, "requests": dict(sorted(requests.items()))},
    )
    return outcome, own


def quoting(turns: Iterable[Turn]) -> list[Turn]:
    """The turns, with every reply that one of their messages quotes by reference.

    It is done once all replies are there, and of several with the same words the first by address is taken, so that
    nothing depends on which of them came first. A short reply may be in a text by chance, and stays text.
    """
    every = sorted(turns, key=turn_order)
    sources: dict[str, list[str]] = {}
    for turn in every:
        if turn.role == REPLY and len(turn.text) >= SHORTEST_QUOTE:
            sources.setdefault(turn.text, []).append(turn.id)
    longest_first = sorted(sources, key=len, reverse=True)
    return [structs.replace(turn, messages=_quoting(turn, longest_first, sources)) for turn in every]


def _quoting(turn: Turn, texts: list[str], sources: Mapping[str, list[str]]) -> tuple[Message, ...]:
    messages = []
    for message in turn.messages:
        parts = list(message.parts)
        for text in texts:
            source = next((id for id in sources[text] if id != turn.id), None)
            if source is not None and any(part.ref is None and text in part.text for part in parts):
                parts = [piece for part in parts for piece in _split(part, text, source)]
        messages.append(Message(message.role, tuple(parts)))
    return tuple(messages)


def _split(part: Part, text: str, source: str) -> list[Part]:
    """A part with a quoted reply as parts of their own."""
    if part.ref is not None or text not in part.text:
        return [part]
    pieces: list[Part] = []
    for index, between in enumerate(part.text.split(text)):
        pieces += [Part(text, ref=source)] * (index > 0) + [Part(between)] * (between != "")
    return pieces


def _own_turn(text: str, round: int) -> Turn:
    completion = Completion(
        text=text, finish_reason="stop", prompt_tokens=0, completion_tokens=0, cached_tokens=0, model=TEAM, seconds=0.0
    )
    return Turn(id=f"{TEAM}/{round}/{STATED}", agent=TEAM, round=round, role=STATED, messages=(), completion=completion)


def _answer(sample: Sample, text: str) -> str | None:
    answer = answers.extract(text, sample.answer_type, sample.choices)
    return answer.value if answer else None
