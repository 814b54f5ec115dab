"""What a team's outcome makes of a sample: the agents' last replies as candidates, the stated answer as the aggregate.

A solution is the reply of a turn. The stated answer is therefore traced to the reply it comes from: the last one with
this very text, else the last one whose extracted answer is the same. Where there is none, the team's own words become
a turn of their own (agent `team`, role `outcome`), which costs no tokens. The words themselves stay in
`info.stated`.
"""

from collections.abc import Iterable, Mapping

from agentark import answers
from agentark.records import natural, turn_order
from agentark.types import TEAM, Completion, Outcome, Sample, Solution, Turn

REPLY = "reply"
"""Role of every whole reply of an agent."""
BROKEN = "broken"
"""Role of a reply that its client did not wait for."""
STATED = "outcome"
"""Role of the team's own words."""


async def settled(
    sample: Sample, turns: Iterable[Turn], text: str, requests: Mapping[str, str]
) -> tuple[Outcome, Turn | None]:
    """(the outcome of a sample, the turn it adds, if any).

    Args:
        text: the answer that the team states.
        requests: turn -> key of its call (agentark/gateway/calls.py).
    """
    replies = sorted((turn for turn in turns if turn.role == REPLY), key=turn_order)
    last = {turn.agent: turn for turn in replies}
    candidates = [
        _solution(sample, last[agent], number, agent) for number, agent in enumerate(sorted(last, key=natural), 1)
    ]
    own = None
    source = await _source(sample, replies, text)
    if source is None:
        source = own = _own_turn(text, max((turn.round for turn in replies), default=0) + 1)
    aggregate = _solution(sample, source, len(candidates) + 1, TEAM)
    outcome = Outcome(
        solutions=[*candidates, aggregate],
        parse_failures=sum(solution.answer is None for solution in candidates),
        info={"stated": text, "requests": dict(sorted(requests.items()))},
    )
    return outcome, own


async def _source(sample: Sample, replies: list[Turn], text: str) -> Turn | None:
    """The reply that a stated answer comes from."""
    for turn in reversed(replies):
        if turn.text.strip() == text.strip():
            return turn
    stated = _answer(sample, text)
    if stated is None or sample.answer_type in ("text", "code"):  # there the whole reply is the answer
        return None
    for turn in reversed(replies):
        answer = _answer(sample, turn.text)
        if answer is not None and await answers.equivalent(answer, stated, sample.answer_type):
            return turn
    return None


def _own_turn(text: str, round: int) -> Turn:
    completion = Completion(
        text=text, finish_reason="stop", prompt_tokens=0, completion_tokens=0, cached_tokens=0, model=TEAM, seconds=0.0
    )
    return Turn(id=f"{TEAM}/{round}/{STATED}", agent=TEAM, round=round, role=STATED, messages=(), completion=completion)


def _solution(sample: Sample, turn: Turn, number: int, agent: str) -> Solution:
    return Solution(id=number, agent=agent, round=turn.round, turn=turn.id, answer=_answer(sample, turn.text))


def _answer(sample: Sample, text: str) -> str | None:
    answer = answers.extract(text, sample.answer_type, sample.choices)
    return answer.value if answer else None
