"""The text that a trajectory becomes as a training target."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from agentark.tasks.base import BOXED_NUMBER_INSTRUCTION, CHOICE_INSTRUCTION, SHORT_INSTRUCTION
from agentark.trajectories import Reply, Trajectory
from agentark.types import Sample
from distill.select.targets import AnswerForms, Joiners, answer_only, compose, reasoning_words, unboxed

FIXTURE = yaml.safe_load((Path(__file__).parent / "fixtures" / "dialogue.yaml").read_text(encoding="utf-8"))
JOINERS = Joiners(correcting=[FIXTURE["correcting"]], confirming=[FIXTURE["confirming"]])
FORMS = AnswerForms(boxed=FIXTURE["boxed"], line="Answer: {answer}")


def sample(gold: str = "12", **fields: Any) -> Sample:
    values = {"answer_type": "number", "instruction": BOXED_NUMBER_INSTRUCTION, **fields}
    return Sample(id="T/0", source="T", query="How many?", gt=gold, **values)


def trajectory(*replies: tuple[bool | None, str], reasoning: str | None = None) -> Trajectory:
    made = [Reply(text, reasoning, place, verdict) for place, (verdict, text) in enumerate(replies, 1)]
    return Trajectory(
        method="m",
        teacher="t",
        solution=1,
        agent="agent_1",
        kind="corrective",
        replies=tuple(made),
        verdict=True,
        truncated=False,
    )


@pytest.mark.parametrize("case", FIXTURE["cases"], ids=lambda case: case["name"])
def test_dialogue(case: dict[str, Any]) -> None:
    path = trajectory(*((verdict, text) for verdict, text in case["replies"]))
    text = compose(sample(case["gold"]), path, "dialogue", "strip", JOINERS, FORMS)
    assert text == case["monologue"]
    assert text.count("\\boxed") == 1


def test_single_is_the_last_reply_alone() -> None:
    path = trajectory((False, "4 + 3 = \\boxed{7}"), (True, "4 * 3 = \\boxed{12}"))
    assert compose(sample(), path, "single", "strip", JOINERS, FORMS) == "4 * 3 = \\boxed{12}"


def test_joiners_do_not_depend_on_anything_but_the_place() -> None:
    many = Joiners(correcting=[f"Joiner {k}." for k in range(5)], confirming=["x"])
    path = trajectory((False, "a"), (False, "b"), (True, "c \\boxed{12}"))
    texts = {compose(sample(), path, "dialogue", "strip", many, FORMS) for _ in range(3)}
    assert len(texts) == 1
    assert texts.pop().count("Joiner") == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "text", "expected"),
    [
        ({}, "So \\boxed{12}.", "So \\boxed{12}."),
        ({}, "The answer is 12.", "The answer is 12.\n\nThe answer is \\boxed{12}."),
        ({"answer_type": "math"}, "x = 12", "x = 12\n\nThe answer is \\boxed{12}."),
        (
            {"answer_type": "choice", "instruction": CHOICE_INSTRUCTION, "choices": ("a", "b"), "gold": "B"},
            "It is b.\nAnswer: B",
            "It is b.\nAnswer: B",
        ),
        (
            {"answer_type": "choice", "instruction": CHOICE_INSTRUCTION, "choices": ("a", "b"), "gold": "B"},
            "I choose B.",
            "I choose B.\n\nAnswer: B",
        ),
        (
            {"answer_type": "text", "instruction": SHORT_INSTRUCTION, "gold": "Rome"},
            "It was Rome.",
            "It was Rome.\n\nAnswer: Rome",
        ),
        ({"answer_type": "text", "instruction": "Summarise.", "gold": "s"}, "They met.", "They met."),
    ],
)
def test_the_answer_is_in_the_form_of_the_task(fields: dict[str, Any], text: str, expected: str) -> None:
    path = trajectory((True, text))
    assert compose(sample(**fields), path, "single", "strip", JOINERS, FORMS) == expected


def test_thinking_is_kept_or_stripped() -> None:
    inside = trajectory((True, "<think>hm</think>It is \\boxed{12}."))
    assert compose(sample(), inside, "single", "strip", JOINERS, FORMS) == "It is \\boxed{12}."
    assert compose(sample(), inside, "single", "keep", JOINERS, FORMS) == "<think>hm</think>It is \\boxed{12}."
    apart = trajectory((True, "It is \\boxed{12}."), reasoning="hm")
    assert compose(sample(), apart, "single", "strip", JOINERS, FORMS) == "It is \\boxed{12}."
    assert compose(sample(), apart, "single", "keep", JOINERS, FORMS) == "<think>\nhm\n</think>\n\nIt is \\boxed{12}."
    unfinished = trajectory((True, "<think>it is \\boxed{12}"))
    assert compose(sample(), unfinished, "single", "keep", JOINERS, FORMS) is None


def test_answer_only_prompt_and_words() -> None:
    assert answer_only(sample()) == "\\boxed{12}"
    choice = sample("B", answer_type="choice", instruction=CHOICE_INSTRUCTION)
    assert answer_only(choice) == "Answer: B"
    assert [one.answer_form for one in (sample(), choice)] == ["boxed", "line"]
    assert answer_only(sample("Rome", answer_type="text", instruction="Be brief.")) == "Rome"
    assert sample(document="A text.").prompt == f"A text.\n\nHow many?\n\n{BOXED_NUMBER_INSTRUCTION}"
    assert reasoning_words(sample(), "\\boxed{12}") == 0
    assert reasoning_words(sample(), "4 * 3 = 12, so \\boxed{12}") == 6
    assert reasoning_words(choice, "Rome is a city.\nAnswer: B") == 4


def test_what_follows_the_answer_is_no_reasoning() -> None:
    choice = sample("B", answer_type="choice", instruction=CHOICE_INSTRUCTION)
    assert reasoning_words(sample(), "It is \\boxed{12}.\n\n4 times 3 is 12, so it is \\boxed{12}") == 2
    assert reasoning_words(sample(), "It is \\fbox{12}. 4 times 3 is \\boxed{12}") == 2
    assert reasoning_words(sample(), "First \\boxed{4}, then three times that: \\boxed{12}. Right?") == 6
    for first in ("\\boxed 12", "\\boxed {12}", "\\boxed{ 12 }", "\\boxed{12.0}", "\\fbox{12}"):
        assert reasoning_words(sample(), f"It is {first}, since 4 times 3 is \\boxed{{12}}") == 2
    assert reasoning_words(choice, "Answer: B\nRome is a city.\nAnswer: B") == 0
    assert reasoning_words(choice, "**Answer:** B\n\nRome is a city.\nAnswer: B") == 1
    assert reasoning_words(sample(), "The answer is 12. 4 times 3 is \\boxed{12}") == 1
    for first in ("**12**\n", "#### 12\n", "<answer>12</answer>", "12 is the answer.", "Answer = 12.0, since"):
        assert reasoning_words(sample(), f"{first} 4 times 3 is \\boxed{{12}}") == 0, first
    for first in ("The correct option is B.", "The answer is (B) Rome.", "The \\boxed{B}."):
        assert reasoning_words(choice, f"{first} It is a city of Italy.\nAnswer: B") == 1, first
    assert reasoning_words(sample(), "Add 12 and 0.\n12 + 0 is\n12\nso \\boxed{12}") == 8
    assert reasoning_words(sample(), "The answer is not 4. 4 times 3 is \\boxed{12}") == 9


def test_unboxed() -> None:
    assert unboxed("a \\boxed{\\frac{1}{2}} b \\fbox{3}") == "a \\frac{1}{2} b 3"
    assert unboxed("no box {x}") == "no box {x}"
