"""Contamination, near-duplicates, and structural difference."""

import json
import math
import sys
import types
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentark.contamination import EvaluationQuestions, ngrams, tokens
from agentark.types import UserError
from distill.select.diversity import embedding_distances, farthest, ngram_distances, tfidf_distances
from distill.select.duplicates import distinct

LONG = "A farmer has twelve red hens and sells three of them at the market every single week"


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    path = tmp_path / "test.jsonl"
    rows = [{"id": "T/test/0", "query": LONG}, {"question": "What is 4 + 3?"}, {"problem": "Solve x."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("id", "query", "expected"),
    [
        ("T/test/0", "another text", "exact"),
        ("a", "what is  4 + 3 ?", "exact"),
        ("a", "what is 4 - 3?", None),
        ("a", f"Now listen: {LONG}, how many are left?", "ngram"),
        ("a", " ".join(LONG.split()[:13]), "ngram"),
        ("a", " ".join(LONG.split()[:12]), None),
        ("a", "solve X.", "exact"),
    ],
)
def test_contamination(held_out: Path, id: str, query: str, expected: str | None) -> None:
    assert EvaluationQuestions([held_out], 13).hit(id, query) == expected


def test_ngrams_can_be_switched_off(held_out: Path) -> None:
    assert EvaluationQuestions([held_out], 0).hit("a", f"{LONG} and more") is None
    assert EvaluationQuestions([], 13).hit("a", "x") is None


def test_evaluation_files_must_hold_questions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--contamination .*gone\.jsonl: no such file"):
        EvaluationQuestions([tmp_path / "gone.jsonl"], 13)
    for content, expected in (('{"text": "x"}', "row 1: no question in it"), ("{", "row 1: not valid JSON")):
        (tmp_path / "a.jsonl").write_text(content)
        with pytest.raises(UserError, match=expected):
            EvaluationQuestions([tmp_path / "a.jsonl"], 13)


def test_real_questions_overlap_with_themselves_only(data_dir: Path) -> None:
    held = EvaluationQuestions([data_dir / "gsm8k_test.jsonl"], 13)
    read = [json.loads(line) for line in (data_dir / "gsm8k_test.jsonl").open(encoding="utf-8")]
    assert all(held.hit("x", row["question"]) == "exact" for row in read[:50])
    other = [json.loads(line) for line in (data_dir / "svamp_test.jsonl").open(encoding="utf-8")]
    hits = [held.hit("x", row.get("question_concat") or f"{row['Body']} {row['Question']}") for row in other]
    assert sum(hit is not None for hit in hits) < 10


def test_near_duplicates_go_and_the_first_stays() -> None:
    pytest.importorskip("datasketch")
    words = [f"step {k} adds {k * 7} to {k * 3}" for k in range(30)]
    almost = [*words[:-1], "step 29 adds 203 to 88"]
    other = [f"line {k} takes {k * 5} from {k * 11}" for k in range(30)]
    texts = [" ".join(words), " ".join(almost), " ".join(other), " ".join(words).upper()]
    assert distinct(texts, 0.85, 3) == [0, 2]
    assert distinct(texts, 1.0, 3) == [0, 1, 2]
    assert distinct([], 0.85, 3) == []


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(UserError, match="pip install datasketch"):
        distinct(["a"], 0.85, 3)


def test_ngrams_and_tokens() -> None:
    assert tokens("Say 4+3=7!") == ["say", "4", "+", "3", "=", "7", "!"]
    assert ngrams(["a", "b", "c"], 2) == {("a", "b"), ("b", "c")}
    assert ngrams(["a"], 3) == {("a",)}
    assert ngrams([], 3) == set()


TEXTS = st.lists(st.text("ab +", max_size=12), min_size=1, max_size=6)


@given(TEXTS)
def test_distances_are_distances(texts: list[str]) -> None:
    for found in (ngram_distances(texts, 2), tfidf_distances(texts)):
        assert all(
            found[i][i] in (0.0, 1.0) and (found[i][i] == 0.0 or not tokens(texts[i])) for i in range(len(texts))
        )
        assert all(math.isclose(found[i][j], found[j][i], abs_tol=1e-12) for i, j in combinations(range(len(texts)), 2))
        assert all(-1e-12 <= value <= 1 + 1e-12 for row in found for value in row)


def test_farthest_by_hand() -> None:
    line = [0.0, 1.0, 10.0, 4.0]
    distances = [[abs(a - b) for b in line] for a in line]
    assert farthest(distances, 1) == [0]
    assert farthest(distances, 2) == [0, 2]
    assert farthest(distances, 3) == [0, 2, 3]
    assert farthest(distances, 9) == [0, 2, 3, 1]
    assert farthest([[0.0, 0.0], [0.0, 0.0]], 2) == [0]
    assert farthest([], 3) == []


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 4))
def test_farthest_against_a_slow_reading(points: list[int], k: int) -> None:
    """Each pick maximises the smallest distance to the picks before it."""
    distances = [[float(abs(a - b)) for b in points] for a in points]
    picks = farthest(distances, k)
    assert len(set(picks)) == len(picks) == min(k, len(set(points)))
    for count in range(1, len(picks)):
        best = max(min(distances[place][pick] for pick in picks[:count]) for place in range(len(points)))
        assert min(distances[picks[count]][pick] for pick in picks[:count]) == best


def test_sentence_embeddings_where_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        def __init__(self, name: str) -> None:
            assert name == "some/model"

        def encode(self, texts: list[str], normalize_embeddings: bool) -> Any:
            assert normalize_embeddings
            return np.array([[1.0, 0.0] if "add" in text else [0.0, 1.0] for text in texts])

    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = Encoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    distances = embedding_distances("some/model")(["add 1", "add 2", "multiply"])
    assert distances == [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    assert farthest(distances, 3) == [0, 2]
