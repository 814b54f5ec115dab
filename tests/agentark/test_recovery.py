"""Wrong first steps in right solutions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_cases import debate

from agentark.recovery import begin, off_by_one, planted, reached
from agentark.tasks import get_task

RIGHT = "3 apples and 4 make 7.\n\nSo the answer is \\boxed{7}."
WRONG = "3 apples and 4 make 8.\n\nSo the answer is \\boxed{8}."


@pytest.mark.parametrize(
    ("text", "step", "numbers"),
    [
        ("1 + 2 = 3\n\nThen 4", "1 + 2 = {}\n\n", {"2", "4"}),
        ("  It is 3.5 m long.\n \nSo 7", "  It is {} m long.\n \n", {"2.5", "4.5"}),
        ("All: $1,234\n\nx", "All: ${}\n\n", {"1,233", "1,235"}),
        ("a) cup 9 sum 9\n\nb) x", "a) cup 9 sum {}\n\n", {"8"}),
        ("b1 and 0\n\nx", "b1 and {}\n\n", {"1"}),
        ("100 of h2o\n\nx", "{} of h2o\n\n", {"101"}),
    ],
)
def test_the_last_number_of_the_first_step_is_one_off(text: str, step: str, numbers: set[str]) -> None:
    found = {begin(text, f"seed {k}") for k in range(20)}
    right = text[: len(text) - len(text.split("\n")[-1])]
    assert found == {(right, step.format(number)) for number in numbers}


@pytest.mark.parametrize("text", ["It is 3.", "no number\n\n3", "", "\n\n", "x1\n\n2"])
def test_what_has_no_first_step_with_a_number_is_left_out(text: str) -> None:
    assert begin(text, "0") is None


@given(st.integers(0, 10**9), st.text("abc", min_size=1))
def test_a_changed_number_has_as_many_digits(value: int, seed: str) -> None:
    changed = off_by_one(str(value), seed)
    assert abs(int(changed) - value) == 1
    assert len(changed) == len(str(value))
    assert changed == off_by_one(str(value), seed)


def test_each_question_gives_its_first_right_solution() -> None:
    records = [
        debate("GSM8K/test/0", "7", [[WRONG, RIGHT]], WRONG),
        debate("GSM8K/test/1", "7", [[WRONG, "It is \\boxed{7}."]], WRONG),
        debate("GSM8K/test/2", "7", [[WRONG, WRONG]], RIGHT),
    ]
    found = planted(records, get_task("GSM8K"), 0)
    assert [one.sample.id for one in found] == ["GSM8K/test/0", "GSM8K/test/2"]
    assert {one.right for one in found} == {"3 apples and 4 make 7.\n\n"}
    assert {one.wrong for one in found} <= {f"3 apples and 4 make {number}.\n\n" for number in (6, 8)}
    assert planted(records, get_task("GSM8K"), 0) == found


def test_an_answer_that_nobody_can_read_is_not_right() -> None:
    found = reached([1.0, None, 0.0, 1.0])
    assert (found.value, found.n) == (0.5, 4)
    assert found.low < 0.5 < found.high
