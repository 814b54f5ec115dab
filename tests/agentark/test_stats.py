"""Standard errors, intervals and tests against numbers worked by hand and against scipy."""

import math
from array import array

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from scipy import stats as scipy_stats

from agentark.stats import (
    bootstrap_interval,
    holm,
    interval,
    mcnemar,
    mean_and_se,
    paired,
    paired_interval,
    ratio_and_se,
    sign_flip,
    wilson_interval,
)

NUMBERS = st.floats(-100, 100).map(lambda value: round(value, 3))


def test_mean_and_se() -> None:
    # squared deviations from 0.5: 4 x 0.25; variance 1/3; standard error sqrt(1/12)
    assert mean_and_se([1, 0, 1, 0]) == (0.5, pytest.approx(math.sqrt(1 / 12)))
    assert mean_and_se([2.5, 2.5, 2.5]) == (2.5, 0.0)
    assert mean_and_se([0.7]) == (0.7, None)
    with pytest.raises(ValueError, match="no values"):
        mean_and_se([])


@given(st.lists(NUMBERS, min_size=2, max_size=30))
def test_se_equals_scipy(values: list[float]) -> None:
    mean, error = mean_and_se(values)
    assert mean == pytest.approx(float(np.mean(values)), abs=1e-9)
    assert error == pytest.approx(float(scipy_stats.sem(values)), abs=1e-9)


def test_clustered_se_by_hand() -> None:
    # mean 3/6 = 0.5; residual sums: question a 3 x 0.5 = 1.5, b -1.5 + 0 ... a = [1, 1, 1], b = [0, 0, 0]
    # a: +1.5, b: -1.5; squares 4.5; 2 / (2 - 1) * 4.5 = 9; root 3; over 6 values: 0.5
    mean, error = mean_and_se([1, 1, 1, 0, 0, 0], ["a", "a", "a", "b", "b", "b"])
    assert (mean, error) == (0.5, pytest.approx(0.5))
    # three copies of each value tell no more than one of each
    assert error == mean_and_se([1, 0])[1]
    # unequal groups: mean 2/3; a: 1/3 + 1/3 = 2/3, b: -2/3; squares 8/9; times 2: 16/9; root 4/3; over 3
    assert mean_and_se([1, 1, 0], ["a", "a", "b"])[1] == pytest.approx(4 / 9)
    assert mean_and_se([1, 1], ["a", "a"])[1] is None


@given(st.lists(NUMBERS, min_size=2, max_size=20), st.integers(2, 4))
def test_copies_of_a_question_add_no_certainty(values: list[float], copies: int) -> None:
    names = [str(index) for index in range(len(values)) for _ in range(copies)]
    repeated = [value for value in values for _ in range(copies)]
    assert mean_and_se(repeated, names)[1] == pytest.approx(mean_and_se(values)[1], abs=1e-9)


def test_ratio_by_hand() -> None:
    # 30 nats over 20 tokens = 1.5; residuals 10 - 15 = -5 and 20 - 15 = 5 with 10 tokens each... sum of squares 50
    assert ratio_and_se([10, 20], [10, 10]) == (1.5, pytest.approx(math.sqrt(2 * 50) / 20))
    # every token costs the same: no error, however unequal the lengths
    assert ratio_and_se([2, 40, 6], [1, 20, 3]) == (2.0, pytest.approx(0.0, abs=1e-12))


def test_bootstrap_interval() -> None:
    values = [float(index % 3 == 0) for index in range(300)]
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert (low, high) != bootstrap_interval(values, seed=1)
    mean, error = mean_and_se(values)
    assert error is not None
    assert low == pytest.approx(mean - 1.96 * error, abs=0.012)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.012)
    direct = scipy_stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    assert (low, high) == pytest.approx((direct.low, direct.high), abs=0.012)
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_wilson_interval() -> None:
    for right, n in ((0, 64), (3, 64), (32, 64), (63, 64), (64, 64), (1, 1)):
        direct = scipy_stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert wilson_interval(right, n) == pytest.approx((direct.low, direct.high), abs=1e-9)
    low, high = wilson_interval(0, 100)
    assert (low, high) == (0.0, pytest.approx(1.96**2 / (100 + 1.96**2), abs=1e-4))


def test_intervals_of_rare_answers_cover() -> None:
    """Of 4,000 runs with 64 questions, each right with chance 0.05, how many have 0.05 inside."""
    rights = np.random.default_rng(0).binomial(64, 0.05, 4000).tolist()
    spans = {right: interval([1.0] * right + [0.0] * (64 - right), range(64)) for right in set(rights)}
    inside = [low <= 0.05 <= high for low, high in map(spans.__getitem__, rights)]
    assert sum(inside) / len(inside) >= 0.93


def test_which_interval() -> None:
    assert interval([0.0] * 10, range(10)) == wilson_interval(0, 10)
    assert interval([1.0, 1.0, 0.0, 0.0], "aabb") == wilson_interval(1, 2)  # copies of a question tell nothing
    assert interval([0.0] * 5, "aaabb") == wilson_interval(0, 2)
    mixed = [1.0, 0.0, 0.0, 0.0]
    assert interval(mixed, "aabb", seed=3) == bootstrap_interval(mixed, "aabb", seed=3)
    assert interval([0.5, 0.0, 1.0], "abc") == bootstrap_interval([0.5, 0.0, 1.0], "abc")


def test_holm_by_hand() -> None:
    # in order 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not be below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_the_raw_p_and_bonferroni(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(p <= held <= min(1.0, len(ps) * p) for p, held in zip(ps, adjusted, strict=True))
    assert sorted(range(len(ps)), key=lambda k: (ps[k], k)) == sorted(
        range(len(ps)), key=lambda k: (adjusted[k], ps[k], k)
    )


def test_bootstrap_draws_whole_questions() -> None:
    values = [1.0] * 50 + [0.0] * 50
    clusters = ["a"] * 50 + ["b"] * 50
    assert bootstrap_interval(values, clusters) == (0.0, 1.0)  # two questions tell little
    assert bootstrap_interval([0.5], None) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 0), (3, 9), (10, 10), (40, 61)])
def test_mcnemar_equals_the_binomial_test(only_a: int, only_b: int) -> None:
    expected = scipy_stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(expected)
    assert mcnemar(5, 0) == 2 / 32


def test_sign_flip_counts_all_when_few() -> None:
    # 1 + 2 + 3 = 6 is reached by two of eight sign patterns
    assert sign_flip([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([1.0, -1.0]) == 1.0


def test_sign_flip_equals_scipy() -> None:
    differences = [0.1 * ((7 * index) % 11 - 4.2) for index in range(40)]

    def mean(sample: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(sample, axis=axis)

    direct = scipy_stats.permutation_test(
        (differences,), mean, permutation_type="samples", n_resamples=20_000, vectorized=True, rng=0
    )
    ours = sign_flip(differences)
    assert ours == pytest.approx(float(direct.pvalue), abs=0.015)
    assert ours == sign_flip(differences)
    assert sign_flip([1.0] * 60) > 0


def test_paired() -> None:
    a = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    b = [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    found = paired(a, b)
    assert (found.n, found.mean_a, found.mean_b, found.difference) == (8, 0.375, 0.75, 0.375)
    assert found.test == "mcnemar"
    assert found.p == mcnemar(1, 4) == pytest.approx(2 * 6 / 32)
    assert found.se == pytest.approx(float(scipy_stats.sem([right - left for left, right in zip(a, b, strict=True)])))
    assert found.low < found.difference < found.high
    graded = paired([0.1, 0.2, 0.3], [0.2, 0.4, 0.6])
    assert graded.test == "permutation"
    assert graded.p == 2 / 8
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 0.0])


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1.0, 0.5])), min_size=1, max_size=12))
def test_numbered_clusters_are_grouped_like_named_ones(pairs: list[tuple[int, float]]) -> None:
    numbers: dict[int, int] = {}
    values = [value for _, value in pairs]
    named = [f"question {cluster}" for cluster, _ in pairs]
    numbered = array("Q", (numbers.setdefault(cluster, len(numbers)) for cluster, _ in pairs))
    assert mean_and_se(array("d", values), numbered) == mean_and_se(values, named)
    assert interval(array("d", values), numbered) == interval(values, named)
    assert bootstrap_interval(values, numbered, resamples=5) == bootstrap_interval(values, named, resamples=5)


def test_a_paired_interval_has_a_width_where_nothing_differs() -> None:
    """Agresti and Min by hand: 12 questions only b gets right, 4 only a, of 100; half a question more in each cell."""
    low, high = paired_interval([1.0] * 12 + [-1.0] * 4 + [0.0] * 84)
    mean = (12.5 - 4.5) / 102
    half = 1.959964 * math.sqrt(12.5 + 4.5 - (12.5 - 4.5) ** 2 / 102) / 102
    assert (low, high) == (pytest.approx(mean - half), pytest.approx(mean + half))
    low, high = paired_interval([0.0] * 300)
    assert 0 < high < 0.01
    assert low == -high
    assert paired_interval([0.0] * 3)[1] > 0.3
    assert paired_interval([1.0]) == (pytest.approx(1 / 3 - 1.959964 * math.sqrt(2 - 1 / 3) / 3), 1.0)


def test_every_figure_is_a_plain_number_that_json_takes() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(40).tolist(), rng.random(40).tolist()
    for found in (paired(a, b), paired(a[:5], b[:5]), paired([1.0] * 40, [0.0] * 20 + [1.0] * 20)):
        assert {type(value) for value in structs.asdict(found).values()} == {int, float, str}
        msgspec.json.encode(found)
