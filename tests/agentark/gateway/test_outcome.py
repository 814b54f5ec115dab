"""What a stated answer makes of the replies."""

import asyncio

import pytest

from agentark.gateway.outcome import settled
from agentark.types import Completion, Outcome, Sample, Turn

SAMPLE = Sample(id="s", source="GSM8K", query="1 + 6?", gt="7", answer_type="number")


def turn(agent: str, round: int, text: str, role: str = "reply") -> Turn:
    completion = Completion(text, "stop", 1, 1, "m", 0.0)
    return Turn(id=f"{agent}/{round}/{role}", agent=agent, round=round, role=role, messages=(), completion=completion)


TURNS = [
    turn("agent_10", 1, "It is \\boxed{7}."),
    turn("agent_2", 1, "I say \\boxed{8}."),
    turn("agent_2", 2, "Now \\boxed{7.0}."),
    turn("agent_2", 3, "Now I", "broken"),
    turn("critic", 2, "No idea."),
]


def outcome(text: str, sample: Sample = SAMPLE) -> tuple[Outcome, Turn | None]:
    return asyncio.run(settled(sample, TURNS, text, {"b": "2", "a": "1"}))


def test_candidates_are_the_last_whole_replies() -> None:
    found, _ = outcome("7")
    assert [(one.id, one.agent, one.turn, one.answer) for one in found.solutions[:-1]] == [
        (1, "agent_2", "agent_2/2/reply", "7"),
        (2, "agent_10", "agent_10/1/reply", "7"),
        (3, "critic", "critic/2/reply", None),
    ]
    assert found.parse_failures == 1
    assert found.info == {"stated": "7", "requests": {"a": "1", "b": "2"}}


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("7", "agent_2/2/reply"),  # the last with this answer
        ("  It is \\boxed{7}.\n", "agent_10/1/reply"),  # the very words
        ("the answer is 8", "agent_2/1/reply"),
        ("No idea.", "critic/2/reply"),
        ("9", "team/3/outcome"),
        ("nothing", "team/3/outcome"),
    ],
)
def test_a_stated_answer_is_traced_to_its_reply(text: str, source: str) -> None:
    found, own = outcome(text)
    last = found.solutions[-1]
    assert (last.id, last.agent, last.turn) == (4, "team", source)
    assert (own is None) == (not source.startswith("team"))
    if own is not None:
        assert (own.text, own.completion.model, own.completion.completion_tokens) == (text, "team", 0)


def test_a_text_is_the_same_only_word_by_word() -> None:
    text = Sample(id="s", source="QMSum", query="?", gt="x", answer_type="text")
    assert outcome("It is \\boxed{7}.", text)[0].solutions[-1].turn == "agent_10/1/reply"
    assert outcome("7", text)[0].solutions[-1].turn == "team/3/outcome"


def test_an_outcome_without_a_call_is_one_solution() -> None:
    found, own = asyncio.run(settled(SAMPLE, [], "7", {}))
    assert own is not None
    assert [(one.id, one.agent, one.turn, one.answer) for one in found.solutions] == [
        (1, "team", "team/1/outcome", "7")
    ]
