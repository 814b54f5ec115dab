"""Replies whose verdict was worked out by hand: our own, kind by kind, and those that once failed in public.

`answer_cases.jsonl` holds {"case", "type", "gold", "reply", "want"} and `choices` where the options are known; want is
correct, wrong or unanswered. `../shared/cases/answers.jsonl` names a dataset in place of the type.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentark.answers import close_pool, equivalent_many, extract, gold, options_in
from agentark.judge import by_rule
from agentark.types import Sample

OURS = Path(__file__).parent / "answer_cases.jsonl"
SHARED = Path(__file__).parents[3] / "shared" / "cases" / "answers.jsonl"
README = Path(__file__).parents[2] / "agentark" / "tasks" / "README.md"
CONVENTION = re.compile(r"\| `([^`]+)` \| `([^`]+)` \| (yes|no) \|.*")
TYPES = {"MATH": "math", "GSM8K": "number", "MMLU": "choice", "HotpotQA": "text"}
CONTRADICTORY = ("Paris", "Answer: Paris")
"""Its "want" says wrong, which no grader can say of an answer that is the gold one to the letter."""


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sample_of(row: dict[str, Any]) -> Sample:
    """As a row becomes a sample: the task decides the type, an option's text without its options is text."""
    answer_type = row.get("type") or TYPES[row["dataset"]]
    choices = tuple(row["choices"]) if "choices" in row else None
    right = gold(row["gold"], answer_type, choices)
    if right is None:
        assert answer_type == "choice"
        answer_type, right = "text", row["gold"]
    return Sample(id="a", source="b", query="?", gt=right, answer_type=answer_type, instruction="", choices=choices)


def verdict(row: dict[str, Any]) -> str:
    sample = sample_of(row)
    right = asyncio.run(by_rule(sample, row["reply"]))
    return {True: "correct", False: "wrong", None: "wrong" if sample.answer_type == "text" else "unanswered"}[right]


def failing(cases: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    given = [(row["case"], row["gold"], row["reply"], row["want"], verdict(row)) for row in cases]
    close_pool()
    return [case for case in given if case[-1] != case[-2]]


def test_our_cases() -> None:
    cases = rows(OURS)
    counts = Counter(row["case"] for row in cases)
    assert len(counts) >= 15
    assert min(counts.values()) >= 3
    assert failing(cases) == []


def test_our_pairs_are_symmetric() -> None:
    for row in rows(OURS):
        answer = extract(row["reply"], row["type"]) if row["type"] == "math" else None
        if answer is not None:
            assert equivalent_many([(answer.value, row["gold"], "math")]) == [row["want"] == "correct"], row
    close_pool()


def test_cases_that_failed_in_public() -> None:
    if not SHARED.is_file():
        pytest.skip(f"no {SHARED}: the cases are not part of the repository")
    cases = [row for row in rows(SHARED) if (row["gold"], row["reply"]) != CONTRADICTORY]
    assert len(cases) >= 70
    assert failing(cases) == []


def test_the_conventions_of_the_readme() -> None:
    lines = [line for line in README.read_text(encoding="utf-8").splitlines() if CONVENTION.fullmatch(line)]
    table = [CONVENTION.fullmatch(line) for line in lines]
    assert len(table) >= 25
    verdicts = equivalent_many([(match[1], match[2], "math") for match in table if match])
    close_pool()
    wrong = [
        line for line, match, same in zip(lines, table, verdicts, strict=True) if match and same != (match[3] == "yes")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "answer_type", "expected"),
    [
        ("48 + 24 = 72\n#### 72", "number", "72"),
        ("18 dollars", "number", "18"),
        ("about a dozen", "number", None),
        ("so $x = \\boxed{\\frac12}$", "math", "\\frac12"),
        ("B. Rome", "choice", "B"),
        ("rome", "choice", "B"),
        ("2", "choice", None),
        ("London", "choice", None),
        (" ", "text", None),
    ],
)
def test_golds(text: str, answer_type: Any, expected: str | None) -> None:
    assert gold(text, answer_type, ("Paris", "Rome") if answer_type == "choice" else None) == expected


def test_options_in_a_question() -> None:
    assert options_in("Capital of Italy?\n\nA. Paris\nB. Rome\nC. Oslo") == ("Paris", "Rome", "Oslo")
    assert options_in("Which?\n(A) 1\n(B) 2") == ("1", "2")
    assert options_in("Plan A. Go\nB. stay") is None
    assert options_in("Which?\nA. 1\nC. 2") is None
    assert options_in("Tom has 3.") is None
