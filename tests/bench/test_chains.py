"""Chains with planted faults: labels against the question, and requests for more chains than exist."""

import re

import pytest

from bench.parts import chains


def is_right(steps: list[str], query: str) -> list[bool]:
    """Of each step, whether it is the next one that was asked for, with the right result."""
    value = int(re.search(r"Start with (\d)", query)[1])  # type: ignore[index]
    asked = [(1 if name == "add" else -1, int(amount)) for name, amount in re.findall(r"(add|subtract) (\d)", query)]
    found, done = [], 0
    for step in steps:
        if step.startswith("The answer is"):
            found.append(done == len(asked) and step == f"The answer is {value}.")
            continue
        one, other, stated = map(int, re.findall(r"\d", step))
        start, amount = (one, other) if re.match(r"\d [+-]", step) else (other, one)
        sign = 1 if "+" in step or "Adding" in step or "more" in step else -1
        expected = asked[done] if done < len(asked) else None
        found.append(start == value and (sign, amount) == expected and stated == value + sign * amount)
        value, done = stated, done + 1
    return found


@pytest.mark.parametrize("fault", [*chains.FAULTS, None])
def test_chains_are_labelled_as_they_are(fault: str | None) -> None:
    faults = [fault] if fault else chains.FAULTS
    made = chains.rows(200, 4, (2, 6), 1, largest=5, faults=faults)
    assert len(made) == 50
    assert len({row["query"] for row in made}) == 50
    assert made == chains.rows(200, 4, (2, 6), 1, largest=5, faults=faults)
    amounts = {int(amount) for row in made for amount in re.findall(r"(?:add|subtract) (\d)", row["query"])}
    assert amounts == {1, 2, 3, 4, 5}
    for row in made:
        assert sorted(row["labels"]) == [False, False, True, True]
        assert len({one["text"] for one in row["solutions"]}) == 4
        for one in row["solutions"]:
            steps = one["text"].split("\n\n")
            right = is_right(steps, row["query"])
            first = right.index(False) if False in right else len(right)
            assert one["step_labels"] == [1] * first + [0] * (len(right) - first)
            assert one["is_correct"] == (False not in right)
            assert (steps[-1] == f"The answer is {row['gt']}.") == one["is_correct"]


def test_how_many_are_right_can_be_said() -> None:
    for row in chains.rows(40, 4, (2, 4), 0, right=1):
        assert sorted(row["labels"]) == [False, False, False, True]


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match=r"only \d+ different questions, not 400"):
        chains.rows(800, 2, (2, 2), 0, largest=1)
    with pytest.raises(ValueError, match="2 operations have only 4 different solutions, not 6"):
        chains.rows(6, 6, (2, 2), 0, right=5)
