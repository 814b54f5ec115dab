"""HiddenDigits: its splits share no set of nouns, and the gold answer is the sum's last digit."""

import pytest

from agentark.tasks import get_task
from agentark.tasks.hidden_digits import HiddenDigitsOptions, hidden_digits
from agentark.types import Sample, UserError


def load(split: str, **options: object) -> list[Sample]:
    return list(get_task("HiddenDigits").load(split, options=HiddenDigitsOptions(**options)).samples)  # type: ignore[arg-type]


def nouns(sample: Sample) -> list[str]:
    return sample.id.rpartition("/")[2].split("-")


def test_splits_are_disjoint_whatever_the_draw_and_the_order_of_the_nouns() -> None:
    train = {frozenset(nouns(one)) for seed in (0, 1) for one in load("train", seed=seed, items=[1, 2], size=800)}
    test = {frozenset(nouns(one)) for seed in (0, 2) for one in load("test", seed=seed, items=[1, 2], size=800)}
    assert len(train) > 500
    assert len(test) > 500
    assert not train & test


def test_the_answer_is_the_last_digit_of_the_sum_of_the_nouns_in_the_question() -> None:
    digits = hidden_digits(3)
    for one in load("test", world=3, items=[4, 6], size=60):
        listed = [line[3:] for line in one.query.splitlines()[1:-1]]
        assert listed == nouns(one)
        assert one.gt == str(sum(digits[noun] for noun in listed) % 10)
        assert one.tag == f"{len(listed)} items"
    assert hidden_digits(3) != hidden_digits(4)


def test_sizes_and_items() -> None:
    assert {one.tag for one in load("train", items=[4, 6])} == {"4 items", "6 items"}
    assert load("test", size=150)[:20] == load("test", size=300)[:20]
    with pytest.raises(UserError, match=r"size = 200: found only 100 distinct questions; allow more items"):
        load("train", items=[1])
    with pytest.raises(ValueError, match="less than or equal to 10"):
        HiddenDigitsOptions(items=[11])
