"""Classes of paths, and how records and labels become trajectories."""

import asyncio
import itertools
from typing import Any

import pytest
from label_cases import debate
from msgspec import structs

from agentark import answers
from agentark.episode import Defaults, Episode
from agentark.judge import LabelConfig, Labeller, label_row, load_prompts
from agentark.labels import LabelRow, answered
from agentark.trajectories import AGGREGATE, classify, is_aggregate, round_verdicts, trajectories
from agentark.types import MethodInfo, Record, Solution, UserError


@pytest.fixture(scope="module", autouse=True)
def pool() -> Any:
    yield
    answers.close_pool()


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([True], "always_right"),
        ([True, True, True], "always_right"),
        ([None, True], "always_right"),
        ([False, True], "corrective"),
        ([True, False, True], "corrective"),
        ([False, None, True], "corrective"),
        ([True, False], "corrupted"),
        ([False, True, False], "corrupted"),
        ([False], "always_wrong"),
        ([None, False, False], "always_wrong"),
        ([True, None], "unknown"),
        ([], "unknown"),
    ],
)
def test_classes(verdicts: list[bool | None], expected: str) -> None:
    assert classify(verdicts) == expected


def test_every_path_has_one_class_and_its_last_verdict_decides_the_half() -> None:
    halves = {True: {"always_right", "corrective"}, False: {"always_wrong", "corrupted"}, None: {"unknown"}}
    for length in range(1, 5):
        for path in itertools.product((True, False, None), repeat=length):
            assert classify(path) in halves[path[-1]]


def labelled(record: Record, **options: Any) -> LabelRow:
    """The row that label.py would write, by rules."""
    options.setdefault("all_rounds", False)
    labeller = Labeller(LabelConfig(judge=None, **options), load_prompts())
    question = answered(record, options["all_rounds"])
    episode = Episode(question, 0, Defaults(0.0, 1, 0), {}, {}, None)
    outcome = asyncio.run(labeller.run(question, episode))
    return label_row(episode, MethodInfo("label", "solution", {}), "rules", "exact", outcome, None)


def boxed(*values: int) -> list[str]:
    return [f"I find \\boxed{{{value}}}." for value in values]


@pytest.mark.parametrize("all_rounds", [False, True])
def test_paths_of_a_debate(all_rounds: bool) -> None:
    record = debate("T/0", "7", [boxed(7, 8, 7, 8), boxed(7, 8, 8, 7)], boxed(7)[0])
    found = trajectories(record, labelled(record, all_rounds=all_rounds))
    assert [(one.agent, one.kind, one.verdict) for one in found] == [
        ("agent_1", "always_right", True),
        ("agent_2", "always_wrong", False),
        ("agent_3", "corrupted", False),
        ("agent_4", "corrective", True),
        ("aggregator", AGGREGATE, True),
    ]
    assert [len(one.replies) for one in found] == [2, 2, 2, 2, 1]
    assert [one.verdict for one in found[3].replies] == [False, True]
    assert [one.text for one in found[3].replies] == [boxed(8)[0], boxed(7)[0]]


def test_one_round_has_no_corrections() -> None:
    record = debate("T/0", "7", [boxed(7, 8)])
    assert [one.kind for one in trajectories(record, labelled(record))] == ["always_right", "always_wrong"]
    assert round_verdicts(record, labelled(record)) == {}


def test_without_round_labels_free_text_has_no_verdict_on_earlier_rounds() -> None:
    record = debate("T/0", "seven", [["six", "seven"], ["seven", "seven"]], answer_type="text")
    row = labelled(record)
    assert round_verdicts(record, row) == {}
    assert [one.kind for one in trajectories(record, row)] == ["always_right", "always_right"]
    judged = structs.replace(row, round_labels={"agent_1": [False, True], "agent_2": [True, True]})
    assert [one.kind for one in trajectories(record, judged)] == ["corrective", "always_right"]


def test_round_labels_of_other_rounds_are_refused() -> None:
    record = debate("T/0", "7", [boxed(7, 8), boxed(7, 8)])
    row = structs.replace(labelled(record), round_labels={"agent_1": [True], "agent_2": [False]})
    with pytest.raises(UserError, match="T/0: its round labels are not of the 2 rounds"):
        trajectories(record, row)


def test_a_vote_is_an_aggregate_though_an_agent_wrote_it() -> None:
    record = debate("T/0", "7", [boxed(7, 8, 7)])
    voted = Solution(id=4, agent="aggregator", round=1, turn=record.solutions[0].turn, answer="7")
    record = structs.replace(record, solutions=[*record.solutions, voted])
    assert [is_aggregate(record, one) for one in record.solutions] == [False, False, False, True]
    alone = debate("T/0", "7", [boxed(7)])
    assert not is_aggregate(alone, alone.solutions[0])
