"""ChainSum: its splits share no expression, whatever the seed, the size and the wording."""

import re

import pytest

from agentark.tasks import get_task
from agentark.tasks.chain_sum import WORDINGS, ChainSumOptions, split_of
from agentark.types import Sample, UserError


def load(split: str, **options: object) -> tuple[Sample, ...]:
    return tuple(get_task("ChainSum").load(split, options=ChainSumOptions(**options)).samples)  # type: ignore[arg-type]


def expression(sample: Sample) -> str:
    return sample.id.rpartition("/")[2]


def test_splits_are_disjoint_across_seeds_and_wordings() -> None:
    train = {expression(one) for seed in (0, 1) for one in load("train", seed=seed, max_digits=2, size=300)}
    for seed, wording in ((0, "generator"), (4, "plain"), (5, "spoken"), (6, "story")):
        test = load("test", seed=seed, max_digits=2, size=300, wording=wording)
        assert not train & {expression(one) for one in test}
        assert 100 < len(test) < 200


def test_the_answer_belongs_to_the_question_in_every_wording() -> None:
    for wording in WORDINGS:
        for one in load("train", size=60, max_terms=3, max_digits=2, wording=wording):
            assert eval(expression(one)) == int(one.gt)  # noqa: S307 -- made by the generator: digits and signs only
            assert re.findall(r"\d+", one.query) == re.findall(r"\d+", expression(one))
    spoken = {expression(one): one.query for one in load("train", wording="spoken")}
    story = {expression(one): one.query for one in load("train", wording="story")}
    some = next(key for key in spoken if "-" in key)
    a, b = some.split("-")
    assert spoken[some] == f"How much is {a} minus {b}?"
    assert story[some] == f"A counter stands at {a}. It goes down by {b}. What does the counter show now?"


def test_sizes_and_seeds() -> None:
    one, longer = load("test", size=100), load("test", size=150)
    assert longer[: len(one)] == one
    assert len(load("train")) + len(load("test")) == 200
    assert {one.tag for one in load("test", max_digits=2)} == {"2 terms, 1 digits", "2 terms, 2 digits"}
    assert split_of("4 + 3") == split_of("4 + 3")
    with pytest.raises(UserError, match=r"size = 300: 15000 draws gave 200 distinct problems; widen the ranges"):
        load("train", size=300)
    with pytest.raises(UserError, match="min_terms = 3 is more than max_terms = 2"):
        load("train", min_terms=3)
