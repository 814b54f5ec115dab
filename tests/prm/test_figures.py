"""Figures of steps against numbers worked out by hand."""

import itertools
import math
import random

import pytest

from prm.figures import auroc, calibration_error, f1, step_figures


def test_by_hand() -> None:
    found = step_figures([0.9, 0.6, 0.4, 0.2, 0.99], [1, 0, 1, 0, -100])
    assert found["steps"] == 4
    assert found["accuracy"] == 0.5
    assert found["f1_wrong"] == 0.5
    assert found["auroc"] == 0.75
    assert found["margin"] == pytest.approx(0.65 - 0.4)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.6 + 0.2) / 4)


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    draw = random.Random(0)
    for _ in range(20):
        scores = [draw.randint(0, 5) / 5 for _ in range(12)]
        labels = [draw.randint(0, 1) for _ in range(12)]
        if len(set(labels)) < 2:
            continue
        pairs = [
            (a > b) + (a == b) / 2
            for (a, one), (b, other) in itertools.product(zip(scores, labels, strict=True), repeat=2)
            if one and not other
        ]
        assert auroc(scores, labels) == pytest.approx(sum(pairs) / len(pairs))
    assert math.isnan(auroc([0.5], [1]))


def test_edges() -> None:
    assert f1([False], [False]) == 0.0
    assert f1([True, True], [True, False]) == pytest.approx(2 / 3)
    assert calibration_error([1.0, 1.0], [1, 1]) == 0.0
    assert math.isnan(step_figures([0.5], [1])["margin"])
    assert step_figures([], [])["accuracy"] == 0.0
