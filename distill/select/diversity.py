"""Choose k correct solutions of a question that differ in structure (AgentArk, data augmentation), by a distiller
model or by distances.

The distances need no model: greedy max-min picks the solution that is farthest from its nearest earlier pick.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from agentark.contamination import ngrams, tokens
from agentark.episode import Episode
from agentark.types import Chat, Guarantee, Message, MethodInfo, Outcome, Part, Sample, TokenStats, digest, message
from distill.select import prompts

Distances = Sequence[Sequence[float]]
NONE = "none"
PICK_TOKENS = 8
"""Enough tokens for a number; guided choice ends earlier."""


def farthest(distances: Distances, k: int) -> list[int]:
    """Greedy max-min: the first solution, then always the farthest from all picks so far (ties: the earlier).

    Args:
        distances: shape (N, N), symmetric, 0 on the diagonal.
        k: most picks; fewer if all remaining solutions equal a pick.

    Returns:
        Positions, in the order picked.
    """
    picks = [0] if len(distances) else []
    while len(picks) < min(k, len(distances)):
        nearest = [min(row[pick] for pick in picks) for row in distances]
        best = max(range(len(distances)), key=lambda index: (nearest[index], -index))
        if nearest[best] <= 0:
            break
        picks.append(best)
    return picks


def ngram_distances(texts: Sequence[str], n: int = 3) -> list[list[float]]:
    """1 - Jaccard similarity of token n-grams. Shape (N, N)."""
    runs = [ngrams(tokens(text), n) for text in texts]
    return [[1 - len(a & b) / max(1, len(a | b)) for b in runs] for a in runs]


def tfidf_distances(texts: Sequence[str]) -> list[list[float]]:
    """1 - cosine of TF-IDF vectors over these texts (smoothed idf). Shape (N, N)."""
    counts = [Counter(tokens(text)) for text in texts]
    documents = Counter(token for used in counts for token in used)
    idf = {token: math.log((1 + len(texts)) / (1 + seen)) + 1 for token, seen in documents.items()}
    vectors = [{token: count * idf[token] for token, count in used.items()} for used in counts]
    norms = [math.sqrt(sum(value * value for value in vector.values())) or 1.0 for vector in vectors]
    return [
        [
            0.0 if i == j else max(0.0, 1 - sum(value * b.get(token, 0.0) for token, value in a.items()) / (m * n))
            for j, (b, n) in enumerate(zip(vectors, norms, strict=True))
        ]
        for i, (a, m) in enumerate(zip(vectors, norms, strict=True))
    ]


def embedding_distances(model: str) -> Callable[[Sequence[str]], Distances]:
    """1 - cosine of sentence embeddings. Shape (N, N).

    Args:
        model: hub id or folder that sentence-transformers loads.
    """
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model)

    def distances(texts: Sequence[str]) -> Distances:
        vectors = encoder.encode(list(texts), normalize_embeddings=True)
        cosines: list[list[float]] = (1 - vectors @ vectors.T).clip(0).tolist()
        return [[0.0 if i == j else value for j, value in enumerate(row)] for i, row in enumerate(cosines)]

    return distances


class Choosable(Sample, frozen=True, omit_defaults=True, kw_only=True):
    """A question with several correct solutions."""

    solutions: tuple[str, ...]


class PickRow(Struct, frozen=True, kw_only=True):
    """The distiller's picks for a question."""

    id: str
    picks: list[int]
    """0-based positions of the solutions."""
    input: str
    """Digest of question and solutions; when they change, the distiller picks again."""
    token_stats: dict[str, TokenStats]
    error: str | None = None


class Distiller:
    """A method that chooses among a question's solutions in an episode; see `agentark.types.Method`.

    It picks one solution at a time under guided decoding, so any number can be offered; from the second pick on it may
    also say that no other solution differs enough.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        """The outcome's `info` holds the picks of a PickRow."""
        assert isinstance(sample, Choosable)
        listing = [prompts.SOLUTION.format(number=n) + text for n, text in enumerate(sample.solutions, 1)]
        opening: list[str | Part] = [prompts.INTRO, *sample.parts(with_document=False), *listing, prompts.FIRST]
        dialogue: list[Message] = [message("user", *opening)]
        left = [str(number) for number in range(1, len(sample.solutions) + 1)]
        picks: list[int] = []
        while left and len(picks) < self.k:
            turn = await chat(
                dialogue,
                agent="distiller",
                round=len(picks) + 1,
                role="pick",
                temperature=0.0,
                max_tokens=PICK_TOKENS,
                choices=(*left, NONE) if picks else tuple(left),
            )
            if turn.text == NONE:
                break
            left.remove(turn.text)
            picks.append(int(turn.text) - 1)
            dialogue = [*dialogue, message("assistant", turn), message("user", prompts.NEXT)]
        return Outcome(solutions=[], info={"picks": picks})


def pick_row(
    episode: Episode,
    info: MethodInfo,
    model: str,
    guarantee: Guarantee,
    outcome: Outcome | None,
    error: str | None,
) -> PickRow:
    """The row of an episode; see `agentark.runner.Row`."""
    picks: dict[str, Any] = {"picks": []} if outcome is None else outcome.info
    return PickRow(
        id=episode.sample.id,
        input=digest(episode.sample),
        token_stats=episode.token_stats(),
        error=error,
        **picks,
    )
