r"""Golds of one's own questions: the right field, the answer alone, a type that can be checked."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentark import rows
from agentark.tasks import get_task
from agentark.types import Sample, UserError
from distill.grpo.questions import grader_of

WORKED = "He has 3 + 4 = <<3+4=7>>7 bags.\nEach holds 1,000.\n#### 7,000"
BOXED = r"We add, so it is $\frac16+\frac13=\boxed{\frac{1}{2}}$."
OPTIONS = ["three", "four", "five", None]


@pytest.fixture
def case_dir(data_dir: Path) -> Path:
    """Folder with small inputs that users had."""
    folder = data_dir.with_name("cases")
    if not folder.is_dir():
        pytest.skip(f"no cases: {folder} is not a folder")
    return folder


def sample(tmp_path: Path, **row: Any) -> Sample:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "How many?"} | row) + "\n")
    return rows.samples(str(path), "--prompt_data")[0]


@pytest.mark.parametrize(
    ("row", "gold", "answer_type"),
    [
        ({"answer": WORKED}, "7000", "number"),
        ({"answer": 7}, "7", "number"),
        ({"answer": 0}, "0", "number"),
        ({"answer": "-3.50"}, "-3.5", "number"),
        ({"answer": "$18"}, "18", "number"),
        ({"answer": r"\frac{1}{3}"}, r"\frac{1}{3}", "math"),
        ({"answer": "1/3"}, "1/3", "math"),
        ({"answer": r"2\sqrt{2}"}, r"2\sqrt{2}", "math"),
        ({"answer": "p - q"}, "p - q", "math"),
        ({"answer": "(3,-1)"}, "(3,-1)", "math"),
        ({"answer": "y=2x+3"}, "y=2x+3", "math"),
        ({"answer": r"\text{Evelyn}"}, r"\text{Evelyn}", "math"),
        ({"answer": "x"}, "x", "math"),
        ({"solution": BOXED}, r"\frac{1}{2}", "math"),
        ({"solution": BOXED, "answer": "east"}, "east", "math"),
        ({"response": "2+2=4\n#### 4\nThe answer is: 4"}, "4", "number"),
        ({"response": r"We add them up. The answer is: \sqrt{5}"}, r"\sqrt{5}", "math"),
        ({"final_answer": "4", "solution": "We count."}, "4", "number"),
        ({"ground_truth": "4"}, "4", "number"),
        ({"final_answer": ["4"]}, "4", "number"),
        ({"answer": None}, "", "text"),
        ({"answer": ""}, "", "text"),
        ({}, "", "text"),
        ({"answer": "because it rains", "answer_type": "text"}, "because it rains", "text"),
        ({"answer": "yes", "source": "HotpotQA"}, "yes", "text"),
        ({"answer": "5", "source": "MATH"}, "5", "math"),
        ({"question": "Which?\nA. 1\nB. 2", "answer": "B"}, "B", "choice"),
        ({"question": "Which? (A) 1 (B) 2", "answer": "(a)"}, "A", "choice"),
        ({"choices": OPTIONS, "answer": 2}, "C", "choice"),
        ({"choices": OPTIONS, "answer": "Five"}, "C", "choice"),
        ({"choices": OPTIONS, "answer": "C"}, "C", "choice"),
        ({"choices": OPTIONS, "answer": "B. four"}, "B", "choice"),
        ({"choices": OPTIONS, "answer": "1"}, "B", "choice"),
        ({"choices": ["1", "2", "3"], "answer": "1"}, "A", "choice"),
        ({"options": {"A": "three", "B": "four"}, "answer": "B"}, "B", "choice"),
        ({"choices": {"text": ["three", "four"], "label": ["1", "2"]}, "answer": "2"}, "B", "choice"),
    ],
)
def test_what_a_row_holds(tmp_path: Path, row: dict[str, Any], gold: str, answer_type: str) -> None:
    found = sample(tmp_path, **row)
    assert (found.gt, found.answer_type) == (gold, answer_type)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "because it rains"}, "'because it rains' is neither a number, nor mathematics, nor the letter"),
        ({"answer": "yes"}, "'yes' is neither"),
        ({"answer": "no"}, "'no' is neither"),
        ({"answer": "B", "answer_type": "choice", "choices": None}, None),
        ({"answer": "maybe", "answer_type": "choice"}, "'maybe' is neither"),
        ({"answer": ["3", "4"]}, "2 gold answers; expected one"),
        ({"answer": True}, "'answer' is True; expected a text, a number, or a list of one"),
        ({"answer": {"value": 3}}, r"'answer' is \{'value': 3\}; expected"),
        ({"choices": OPTIONS, "answer": 3}, "the gold answer 3 names none of the 3 options"),
        ({"choices": OPTIONS, "answer": "six"}, "the gold answer 'six' names none of the 3 options"),
        ({"choices": "three or four", "answer": "A"}, "the options are 'three or four'; expected a list of texts"),
        ({"choices": ["three"], "answer": 0}, "1 option with text; a choice needs at least 2"),
        ({"answer": "f()", "answer_type": "code"}, r"answer_type 'code' \(known: number, math, choice, text\)"),
    ],
)
def test_what_nobody_can_check_is_refused_by_row(tmp_path: Path, row: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert sample(tmp_path, **row).gt == "B"
        return
    with pytest.raises(UserError, match=rf"^--prompt_data .*a\.jsonl, row 1: .*{message}"):
        sample(tmp_path, **row)


def test_options_are_asked_as_a_task_asks_them(tmp_path: Path) -> None:
    found = sample(tmp_path, choices=OPTIONS, answer=2)
    assert found.query == "How many?\n\nA. three\nB. four\nC. five"
    assert found.choices == ("three", "four", "five")
    assert sample(tmp_path, question=found.query, choices=OPTIONS, answer=2) == found
    several = sample(tmp_path, answer=["Paris", "City of Paris"], answer_type="text")
    assert several.references == ("Paris", "City of Paris")


@pytest.mark.parametrize(
    ("file", "task", "wrong"),
    [
        ("gsm8k_test.jsonl", "GSM8K", lambda gold: f"-{gold}7"),
        ("math500_test.jsonl", "MATH-500", lambda gold: f"-({gold})-1"),
        ("mmlu_stem_test.jsonl", "MMLU", lambda gold: "ABCD"[("ABCD".index(gold) + 1) % 4]),
    ],
)
def test_real_files_hold_what_the_task_reads(data_dir: Path, file: str, task: str, wrong: Any) -> None:
    found = rows.samples(str(data_dir / file), "--prompt_data")
    expected = {one.query: one for one in reversed(get_task(task).load("test", data_dir).samples)}
    assert len(found) == len(expected)
    assert all((one.gt, one.choices) == (expected[one.query].gt, expected[one.query].choices) for one in found)
    some = [one for one in found if one.answer_type in ("number", "choice")][:50]
    for one in some:
        grader = grader_of(one)
        assert grader is not None
        assert grader.score_many([(one, f"Answer: {one.gt}"), (one, f"Answer: {wrong(one.gt)}")]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("gsm8k_raw", [("72", "number"), ("10", "number"), ("5", "number")]),
        ("math_root", [(r"2\sqrt{2}", "math")]),
        ("math_third", [(r"\frac{1}{3}", "math")]),
        ("math_solution", [(r"\frac{1}{2}", "math")]),
        ("choice_letter", [("B", "choice")]),
    ],
)
def test_questions_as_users_have_them(case_dir: Path, file: str, expected: list[tuple[str, str]]) -> None:
    found = rows.samples(str(case_dir / "prompt_data" / f"{file}.jsonl"), "--prompt_data")
    assert [(one.gt, one.answer_type) for one in found] == expected
