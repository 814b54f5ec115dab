"""Small files of public users in `../shared/cases/files`, through the readers that commands use."""

from pathlib import Path

import pytest

from agentark.rows import queries, questions, samples
from agentark.types import UserError

FILES = Path(__file__).parents[3] / "shared" / "cases" / "files"


def file(name: str) -> Path:
    if not FILES.is_dir():
        pytest.skip(f"no {FILES}: the files are not part of the repository")
    return FILES / name


@pytest.mark.parametrize(
    ("name", "golds"),
    [
        ("bom.jsonl", ["4", "5"]),
        ("gold_gt.jsonl", ["4"]),
        ("gold_key.jsonl", ["4"]),
        ("gold_list.jsonl", ["4"]),
        ("meta.jsonl", ["4"]),
        ("nullgold.jsonl", ["", "5"]),
        ("lab_bom.jsonl", ["4", "6"]),
        ("pub_bom.jsonl", ["5"]),
        ("rows_rec_dup.jsonl", ["4"]),
    ],
)
def test_questions_to_ask(name: str, golds: list[str]) -> None:
    asked = samples(str(file(name)), "--prompt_data")
    assert [sample.gt for sample in asked] == golds
    assert {sample.answer_type for sample in asked if sample.gt} == {"number"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arr.json", r"expected JSON lines, one object a line; found an array"),
        ("arr_pretty.json", r"expected JSON lines, one object a line; found an array"),
        ("dupid.jsonl", r"row 2: id '1' was row 1's already"),
        ("rows_schema99.jsonl", r"row 1: labels_schema 99"),
        ("rows_mixed_schema.jsonl", r"row 2: labels_schema"),
        ("rows_rec_schema99.jsonl", r"row 1: schema 99"),
    ],
)
def test_questions_that_cannot_be_asked(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        samples(str(file(name)), "--prompt_data")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stepwise_trl_float.jsonl", r"row 1: label 1\.0; expected true, false or null"),
        ("stepwise_trl_pm.jsonl", r"row 1: label '\+'; expected true, false or null"),
        ("stepwise_trl_rating.jsonl", r"row 1: label -1; expected true, false or null"),
        ("stepwise_trl_soft.jsonl", r"row 1: label 0\.9; expected true, false or null"),
        ("stepwise_trl_strcompl.jsonl", r"row 1: 'prompt' must be a text and 'completions' a list of texts"),
        ("rows_schema99.jsonl", r"labels_schema 99"),
    ],
)
def test_labels_that_mean_nothing_are_refused_by_scoring_and_training(name: str, message: str) -> None:
    """Both read through `questions`."""
    with pytest.raises(UserError, match=message):
        list(questions(str(file(name)), "--input"))


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("rows_dup_ours.jsonl", [False]),
        ("rows_err_then_good.jsonl", [False]),
        ("rows_good_then_err.jsonl", [True]),
        ("rows_rec_dup_err.jsonl", None),
        ("pub_bom.jsonl", [False]),
    ],
)
def test_the_last_row_of_an_id_counts(name: str, errors: list[bool] | None) -> None:
    read = list(questions(str(file(name)), "--input"))
    assert len(read) == 1
    if errors is not None:
        assert [question.error is not None for question in read] == errors


def test_a_byte_order_mark_hides_no_evaluation_question() -> None:
    [(_, question)] = list(queries(file("contam_bom.jsonl"), "--contamination"))[:1]
    assert question.startswith("Janet")
