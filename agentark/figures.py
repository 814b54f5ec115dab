"""What the grades of an evaluation add up to: means with their errors and intervals, and counts."""

from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from agentark import stats
from agentark.evaluation import VERDICTS, Graded, Verdict


def figure(values: Sequence[float], clusters: Sequence[Hashable], seed: int = 0) -> dict[str, Any]:
    """A mean as it is reported: value, standard error clustered by question, 95% interval, n."""
    if not values:
        return {"value": None, "se": None, "ci95": None, "n": 0}
    mean, error = stats.mean_and_se(values, clusters)
    interval = list(stats.interval(values, clusters, seed=seed)) if error is not None else None
    return {"value": mean, "se": error, "ci95": interval, "n": len(values)}


class _Values:
    """The values of a figure, each with the number of its question: 16 bytes a value."""

    def __init__(self) -> None:
        self.values, self.clusters = array("d"), array("Q")

    def add(self, value: float, cluster: int) -> None:
        self.values.append(value)
        self.clusters.append(cluster)


class Tally:
    """Adds up grades one by one; of each only its question and its figures stay in memory."""

    def __init__(self) -> None:
        self._buckets: Counter[Verdict] = Counter()
        self._questions: dict[str, int] = {}
        self._figures: dict[str, _Values] = {}
        self._answered = _Values()
        self._tags: dict[str, _Values] = {}
        self._truncated = 0
        self._all_known = True
        """Whether every reply says if it was cut."""

    def add(self, one: Graded) -> None:
        self._buckets[one.verdict] += 1
        cluster = self._questions.setdefault(one.id, len(self._questions))
        if one.verdict == "error":
            return
        self._all_known &= one.truncated is not None
        self._truncated += bool(one.truncated)
        for name, value in one.figures.items():
            known = self._figures.setdefault(name, _Values())
            if value is not None:
                known.add(value, cluster)
        if one.verdict != "unanswered":
            self._answered.add(float(one.verdict == "correct"), cluster)
        if one.tag is not None and (value := one.figures.get(one.metric)) is not None:
            self._tags.setdefault(one.tag, _Values()).add(value, cluster)

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """Figures and counts; correct + wrong + unanswered + error = n."""
        figures = {name: figure(of.values, of.clusters, seed) for name, of in self._figures.items()}
        if "accuracy" in figures:
            figures["accuracy_answered"] = figure(self._answered.values, self._answered.clusters, seed)
        by_tag = {}
        for tag, of in sorted(self._tags.items()):
            mean, error = stats.mean_and_se(of.values, of.clusters)
            by_tag[tag] = {"value": mean, "se": error, "n": len(of.values)}
        return {
            "figures": figures,
            "counts": {"n": self._buckets.total(), **{verdict: self._buckets[verdict] for verdict in VERDICTS}},
            "questions": len(self._questions),
            "truncated": self._truncated if self._all_known else None,
            "by_tag": by_tag,
        }


def summarise(graded: Iterable[Graded], seed: int = 0) -> dict[str, Any]:
    """The summary of some grades; see `Tally`."""
    tally = Tally()
    for one in graded:
        tally.add(one)
    return tally.summary(seed)
