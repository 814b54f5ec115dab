"""What a stated answer makes of the replies."""

import asyncio

import pytest
from msgspec import structs

from agentark.gateway.outcome import quoting, settled
from agentark.types import Completion, Outcome, Part, Sample, Turn, message

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


def test_quoted_replies_go_by_reference() -> None:
    long, longer = "It is seven, as six and one are.", "It is seven, as six and one are. And so on."
    given = [
        turn("b", 1, long), turn("a", 1, long), turn("c", 1, longer), turn("d", 1, "7"),
        turn("e", 1, long + long, "broken"),
        structs.replace(turn("judge", 2, long), messages=(
            message("system", "Judge."), message("user", f"One: {long} Two: {long}{longer} Three: 7"),
            message("assistant", longer),
        )),
    ]  # fmt: skip
    *_, judge = quoting(given)
    assert [one.text for one in judge.messages] == [one.text for one in given[-1].messages]
    assert [[(part.ref or part.text) for part in one.parts] for one in judge.messages] == [
        ["Judge."],
        ["One: ", "a/1/reply", " Two: ", "a/1/reply", "c/1/reply", " Three: 7"],
        ["c/1/reply"],
    ]
    own = structs.replace(turn("a", 1, long), messages=(message("user", long),))
    assert quoting([own])[0].messages == (message("user", Part(long)),)
