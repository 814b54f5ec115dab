"""Solutions that were written twice."""

from collections.abc import Sequence
from typing import Any

from agentark.contamination import ngrams, tokens
from agentark.types import UserError

PERMUTATIONS = 128
"""Permutations of a MinHash; the error of a similarity is about 1 / sqrt(permutations)."""


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
