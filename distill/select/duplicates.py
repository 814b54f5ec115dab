"""Texts that are too similar: evaluation questions in the training data, and solutions written twice."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentark.rows import queries
from agentark.types import UserError

PERMUTATIONS = 128
"""Permutations of a MinHash; the error of a similarity is about 1 / sqrt(permutations)."""


def tokens(text: str) -> list[str]:
    """Lower-case words, numbers and signs."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def words(text: str) -> list[str]:
    """Lower-case words and numbers, without signs."""
    return re.findall(r"\w+", text.lower())


def ngrams(items: Sequence[str], n: int) -> set[tuple[str, ...]]:
    """All runs of n items; a shorter text is one run."""
    return {tuple(items[start : start + n]) for start in range(max(1, len(items) - n + 1))} if items else set()


class EvaluationQuestions:
    """Evaluation questions that must not be trained on.

    Args:
        files: JSON lines (datasets, results or labelled files) with a question in every row.
        n: shared words in a row that count as an overlap (13, as in Brown et al. 2020, arXiv 2005.14165, appendix C);
            0: only equal questions count.

    Raises:
        UserError: a file that is missing or has a row without a question.
    """

    def __init__(self, files: Sequence[Path], n: int) -> None:
        self.n = n
        self.ids: set[str] = set()
        self.exact: set[tuple[str, ...]] = set()
        self.runs: set[tuple[str, ...]] = set()
        for id, question in (row for path in files for row in queries(path, "--contamination")):
            if id is not None:
                self.ids.add(id)
            self.exact.add(tuple(tokens(question)))
            if n and len(words(question)) >= n:
                self.runs |= ngrams(words(question), n)

    def hit(self, id: str, query: str) -> str | None:
        """`exact` if a training question equals an evaluation question, `ngram` if it overlaps with one."""
        if id in self.ids or tuple(tokens(query)) in self.exact:
            return "exact"
        own = words(query)
        return "ngram" if self.n and len(own) >= self.n and ngrams(own, self.n) & self.runs else None


def distinct(texts: Sequence[str], threshold: float, shingle: int) -> list[int]:
    """Positions of the texts to keep: those that are not near-duplicates of an earlier kept text.

    Args:
        threshold: two texts are the same from this estimated Jaccard similarity of shingles; 1: only equal texts.
        shingle: tokens per shingle.

    Raises:
        UserError: datasketch is not installed.
    """
    try:
        from datasketch import MinHash
    except ImportError:
        raise UserError("near-duplicates are found with datasketch, which is missing: pip install datasketch") from None
    kept: list[int] = []
    seen: set[tuple[str, ...]] = set()
    sketches: list[Any] = []
    for index, text in enumerate(texts):
        own = tokens(text)
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([" ".join(run).encode() for run in ngrams(own, shingle)])
        known = tuple(own) in seen
        if not known and (threshold >= 1 or all(sketch.jaccard(other) < threshold for other in sketches)):
            kept.append(index)
            sketches.append(sketch)
            seen.add(tuple(own))
    return kept
