"""Shown beside every reported number: standard errors, intervals, and tests of paired differences.

Several values of one question (samples, solutions) are not independent: `clusters` names the question of each value.
"""

import math
from array import array
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from statistics import NormalDist
from typing import Literal

from msgspec import Struct

RESAMPLES = 2000
"""Draws of a bootstrap or permutation: the third digit of a p around 0.05 is then noise, which the seed fixes."""
EXACT_UP_TO = 12
"""For at most this many differing questions all sign flips are counted (4,096) instead of sampled."""


def _grouped(values: Sequence[float], clusters: Sequence[Hashable] | None) -> Iterator[Sequence[float]]:
    """The values of each cluster, clusters in the order in which they first occur.

    Clusters that are numbered in that order (an array that never falls) are grouped as they come, without a table.
    """
    if clusters is None:
        return ((value,) for value in values)
    pairs = zip(clusters, values, strict=True)
    if isinstance(clusters, array) and all(before <= after for before, after in pairwise(clusters)):
        return ([value for _, value in of] for _, of in groupby(pairs, key=itemgetter(0)))
    grouped: dict[Hashable, list[float]] = defaultdict(list)
    for cluster, value in pairs:
        grouped[cluster].append(value)
    return iter(grouped.values())


def mean_and_se(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> tuple[float, float | None]:
    """Mean and its standard error.

    Args:
        values: one number per sample; shape (N,), N >= 1.
        clusters: the question of each value; shape (N,). None: every value is its own.

    Returns:
        The mean over values, and its standard error. For single values that is the sample standard deviation
        (N - 1 in the denominator) over sqrt(N); for clusters, of which there are C, the root of C / (C - 1) times
        the sum of the squared residual sums, over N. None for fewer than 2 clusters.

    Raises:
        ValueError: no values.

    Source: Miller 2024, arXiv 2411.00640, section 2.2, with the small-sample factor.
    """
    return ratio_and_se(values, [1.0] * len(values), clusters)


def ratio_and_se(
    tops: Sequence[float], bottoms: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> tuple[float, float | None]:
    """Sum of tops over sum of bottoms (say, log-likelihood over tokens) and its linearised standard error.

    Args:
        tops, bottoms: shape (N,), N >= 1; bottoms sum to more than 0.
        clusters: the question of each pair; None: every pair is its own.

    Raises:
        ValueError: no values.
    """
    if not tops:
        raise ValueError("the mean of no values is undefined")
    total = math.fsum(bottoms)
    ratio = math.fsum(tops) / total
    residuals = array("d", (top - ratio * bottom for top, bottom in zip(tops, bottoms, strict=True)))
    sums = array("d", map(math.fsum, _grouped(residuals, clusters)))
    count = len(sums)
    if count < 2:
        return ratio, None
    squares = math.fsum(each**2 for each in sums)
    return ratio, math.sqrt(count / (count - 1) * squares) / total


def bootstrap_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean: whole clusters are drawn with replacement. The same seed, the same interval.

    Args:
        values: shape (N,), N >= 1.
        clusters: the question of each value; None: every value is its own.
        level: share of the bootstrap distribution inside.

    Raises:
        ValueError: no values.
    """
    import numpy as np

    if not values:
        raise ValueError("the mean of no values is undefined")
    sums = np.array(array("d", map(math.fsum, _grouped(values, clusters))))
    sizes = np.array(array("d", map(len, _grouped(values, clusters))))
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for index in range(resamples):  # one at a time: the memory of all together grows with N
        drawn = generator.integers(len(sums), size=len(sums))
        means[index] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio_interval(
    tops: Sequence[float], bottoms: Sequence[float], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of sum of tops over sum of bottoms: pairs are drawn with replacement.

    A draw whose bottoms do not sum to more than 0 counts as infinite, with the sign of its tops; so a limit is infinite
    where the sum of bottoms may well be 0.

    Args:
        tops, bottoms: shape (N,), N >= 1.

    Raises:
        ValueError: no values.
    """
    import numpy as np

    if not tops:
        raise ValueError("the ratio of no values is undefined")
    pairs = np.array([*zip(tops, bottoms, strict=True)])  # (N, 2)
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for index in range(resamples):
        top, bottom = pairs[generator.integers(len(pairs), size=len(pairs))].sum(axis=0)
        ratios[index] = top / bottom if bottom > 0 else math.copysign(math.inf, top)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation; equal values share the mean of their ranks.

    Args:
        a, b: shape (N,).

    Returns:
        None for fewer than 3 pairs, or where one side has the same value everywhere.
    """
    if len(a) < 3:
        return None
    left, right = (_ranks(values) for values in (a, b))
    middle = (len(a) - 1) / 2
    product = math.fsum((x - middle) * (y - middle) for x, y in zip(left, right, strict=True))
    squares = [math.fsum((rank - middle) ** 2 for rank in ranks) for ranks in (left, right)]
    return product / math.sqrt(squares[0] * squares[1]) if all(squares) else None


def _ranks(values: Sequence[float]) -> list[float]:
    """From 0 to N - 1."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2 for value in values
    ]


def wilson_interval(right: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share: of some width even where none or all are right.

    Args:
        right: of n, 0 <= right <= n.
        n: independent answers, >= 1.

    Source: Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread * spread / 4) / (1 + spread)
    return (0.0 if right == 0 else middle - half), (1.0 if right == n else middle + half)


def interval(values: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean: Wilson's where every question is right or wrong as a whole, else the bootstrap's.

    Args:
        values: shape (N,), N >= 1.
        clusters: the question of each value. Where the values of each question agree, questions are what is counted.
    """
    even = len(set(map(len, _grouped(values, clusters)))) == 1 or len(set(values)) == 1
    firsts = array("d", (group[0] if len(set(group)) == 1 else -1.0 for group in _grouped(values, clusters)))
    if even and set(firsts) <= {0.0, 1.0}:
        return wilson_interval(round(sum(firsts)), len(firsts))
    return bootstrap_interval(values, clusters, seed=seed)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p adjusted for their number: rejecting those below alpha makes any error at all with probability alpha.

    Source: Holm 1979.
    """
    adjusted, least = [1.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = least
    return adjusted


class Paired(Struct, frozen=True):
    """The difference of two systems on the same questions."""

    n: int
    """Questions."""
    mean_a: float
    mean_b: float
    difference: float
    """b - a."""
    se: float | None
    """Standard error of the difference; None for one question."""
    low: float
    high: float
    """95% bootstrap interval of the difference."""
    p: float
    """Two-sided p-value."""
    test: Literal["mcnemar", "permutation"]
    """McNemar's exact test where both sides are 0 or 1, else random sign flips of the differences."""


def paired(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> Paired:
    """Compare two systems.

    Args:
        a, b: one number per question, in the same order; shape (N,), N >= 1.
        seed: of the bootstrap and the permutation.

    Raises:
        ValueError: no values, or not equally many.
    """
    differences = [right - left for left, right in zip(a, b, strict=True)]
    difference, se = mean_and_se(differences)
    low, high = bootstrap_interval(differences, seed=seed)
    binary = {*a, *b} <= {0.0, 1.0}
    return Paired(
        n=len(differences),
        mean_a=math.fsum(a) / len(a),
        mean_b=math.fsum(b) / len(b),
        difference=difference,
        se=se,
        low=low,
        high=high,
        p=mcnemar(differences.count(-1.0), differences.count(1.0)) if binary else sign_flip(differences, seed=seed),
        test="mcnemar" if binary else "permutation",
    )


def paired_interval(differences: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of paired differences in [-1, 1]: of some width even where no question differs.

    Two questions are added to the n there are: half of one for each way in which two systems can be right or wrong.

    Args:
        differences: shape (N,).

    Source: Agresti and Min 2005, section 3.
    """
    n, z = len(differences) + 2, NormalDist().inv_cdf((1 + level) / 2)
    total, squares = math.fsum(differences), math.fsum(each * each for each in differences) + 1
    half = z * math.sqrt(squares - total * total / n) / n
    return max(-1.0, total / n - half), min(1.0, total / n + half)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test.

    Args:
        only_a, only_b: questions that only one of the two gets right.
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << n))


def sign_flip(differences: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the paired permutation test: how often the mean is as far from 0 when signs are flipped.

    All 2^n flips are counted for few differences; else `resamples` of them, the observed one included, so p is
    never 0.

    Args:
        differences: shape (N,).
    """
    import numpy as np

    kept = np.array([difference for difference in differences if difference != 0.0])
    n = len(kept)
    if n == 0:
        return 1.0
    reached = abs(kept.sum()) * (1 - 1e-12)  # sums of the same numbers in another order may differ in the last bit
    if n <= EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)  # (2^n, n)
        return int(np.count_nonzero(np.abs(signs @ kept) >= reached)) / (1 << n)
    generator = np.random.default_rng(seed)
    hits = 1
    for _ in range(resamples):
        hits += bool(abs(np.where(generator.random(n) < 0.5, kept, -kept).sum()) >= reached)
    return hits / (resamples + 1)
