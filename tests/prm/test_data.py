"""Labelled files of every kind become sequences; unknown labels are not trained on, and no question is in both sets."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prm_cases import chains, jsonl, published

from agentark.labels import LabelledSolution, LabelRow
from agentark.types import UserError
from prm import data
from prm.reading import IGNORED, solutions
from prm.settings import Flags, PRMConfig
from prm.steps import StepCodec, load_tokenizer

STEPWISE = {"prompt": "What is 1 + 1?", "completions": ["1 + 1 = 2", "So 3."], "labels": [True, False]}


@pytest.fixture(scope="module")
def codec(small_model: Path) -> StepCodec:
    return StepCodec.of(load_tokenizer(str(small_model), "--x"), "\n", "step", 256)


def load(path: Path, codec: StepCodec, **options: Any) -> tuple[data.Dataset, data.Dataset | None]:
    given = {"require_mixed": False, "train_data_path": str(path), "model_name_or_path": "base", **options}
    return data.load(Flags(PRMConfig(**given), {"seed": 0}), codec)


def ours(number: int, texts: list[str], verdicts: list[bool | None], **fields: Any) -> LabelRow:
    solutions = [
        LabelledSolution(
            id=place, text=text, is_correct=verdict, verdict=verdict, by="rule", p_correct=None, mass=None, judge=None,
            rule=verdict, agent=f"agent_{place}", round=1, answer=None, note=None, **fields,
        )
        for place, (text, verdict) in enumerate(zip(texts, verdicts, strict=True), 1)
    ]  # fmt: skip
    return LabelRow(
        id=f"GSM8K/train/{number}", source="GSM8K", query=f"Question {number}?", gt="2", answer_type="number",
        instruction="Box it.", solutions=solutions, labels=verdicts, judge="rules", input="x", token_stats={},
    )  # fmt: skip


def write(path: Path, *rows: LabelRow) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


def test_our_rows(codec: StepCodec, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ours(1, ["a\n\nb", "c", "d", " "], [True, False, None, True]))
    found, held = load(path, codec)
    assert held is None
    assert [(item.id, item.labels) for item in found.items] == [
        ("GSM8K/train/1#1", [1, 1]),
        ("GSM8K/train/1#2", [0]),
    ]
    assert found.questions == ["GSM8K/train/1"]
    assert found.card.dropped == {"without a verdict": 1, "without a step": 1}
    shown = codec.tokenizer.decode(found.items[0].ids)
    assert "Question 1?\n\nBox it." in shown
    assert shown.endswith("assistant\na\nb\n")
    assert "1 questions, 2 solutions, 3 steps, 67% of them positive" in found.card.text()


def test_a_judges_steps(codec: StepCodec, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ours(1, ["a\n\nb"], [True], step_labels=[1, 0]), ours(2, ["c"], [True]))
    found, _ = load(path, codec, step_label="judge")
    assert [item.labels for item in found.items] == [[1, 0]]
    assert found.card.dropped == {"without step labels": 1}
    wrong = write(tmp_path / "b.jsonl", ours(1, ["a\n\nb"], [True], step_labels=[1]))
    with pytest.raises(UserError, match=r"'step_labels' of solution 1 must be a list of 2, one per step; found 1"):
        load(wrong, codec, step_label="judge")


def test_published_and_stepwise_rows(codec: StepCodec, tmp_path: Path) -> None:
    found, _ = load(jsonl(tmp_path / "a.jsonl", [published(["a\n\nb", "c"], [True, False])]), codec)
    assert [item.labels for item in found.items] == [[1, 1], [0]]
    found, _ = load(jsonl(tmp_path / "b.jsonl", [STEPWISE, STEPWISE | {"completions": ["a\n\nb", "c"]}]), codec)
    assert [item.labels for item in found.items] == [[1, 0], [1, 0]]
    assert codec.tokenizer.decode(found.items[1].ids).endswith("assistant\na\nb\nc\n")


def test_unlabelled_steps_stay_unlabelled(codec: StepCodec, tmp_path: Path) -> None:
    """-100 is no truth value: a cast to bool would make it one."""
    rows = [STEPWISE | {"labels": [True, -100]}, STEPWISE | {"prompt": "2?", "labels": [None, None]}]
    found, _ = load(jsonl(tmp_path / "a.jsonl", rows), codec)
    assert [item.labels for item in found.items] == [[1, IGNORED]]
    assert found.card.dropped == {"without a verdict": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (STEPWISE | {"labels": [True]}, r"row 1: 'labels' must be a list of 2, one per step; found 1 of them"),
        (STEPWISE | {"labels": [True, 0.5]}, r"row 1: label 0\.5; expected true, false or null"),
        (STEPWISE | {"labels": [True, "no"]}, r"row 1: label 'no'; expected true, false or null"),
        (STEPWISE | {"labels": [True, 2]}, r"row 1: label 2; expected"),
        (STEPWISE | {"labels": None}, r"'labels' must be a list of 2, one per step; found none"),
        (STEPWISE | {"labels": [True, float("nan")]}, r"row 1: not valid JSON \(.*; JSON has no NaN\)"),
        (published(["a"], [True]) | {"labels": [True, False]}, r"'labels' must be a list of 1, one per solution"),
        (published(["a"], [True]) | {"labels": [False]}, r"solution 1 is True in 'is_correct', False in 'labels'"),
        ({"query": "a", "text": "b"}, r"row 1: neither a results row, a labelled row .* its keys are query, text"),
        ({"prompt": 1, "completions": [], "labels": []}, r"'prompt' must be a text"),
    ],
)
def test_bad_rows_are_named(codec: StepCodec, tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(jsonl(tmp_path / "a.jsonl", [row]), codec)


def test_no_file_and_nothing_in_it(codec: StepCodec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--train_data_path .*none\.jsonl: no such file"):
        load(tmp_path / "none.jsonl", codec)
    with pytest.raises(UserError, match=r"neither a file nor a dataset on the hub"):
        load(Path("nothing"), codec)
    same = jsonl(tmp_path / "a.jsonl", [published(["a", "b"], [True, True])])
    with pytest.raises(UserError, match=r"all 2 solutions are of questions without right and wrong ones: --loss ce"):
        load(same, codec, require_mixed=True)


def test_mixed_questions_only(codec: StepCodec, tmp_path: Path) -> None:
    rows = [published(["a", "b"], [True, False], "1?"), published(["a", "b"], [False, False], "2?")]
    found, _ = load(jsonl(tmp_path / "a.jsonl", rows), codec, require_mixed=True)
    assert len(found.items) == 2
    assert found.card.dropped == {"of questions without right and wrong ones": 2}


def test_duplicates(codec: StepCodec, tmp_path: Path) -> None:
    rows = [
        published(["a", "a ", "b"], [True, True, False]),
        published(["c", "b"], [True, True], "what is  1 + 1?"),
    ]
    found, _ = load(jsonl(tmp_path / "a.jsonl", rows), codec)
    assert [item.labels for item in found.items] == [[1], [1]]
    assert {item.question for item in found.items} == {0}
    assert found.card.dropped == {"duplicates": 2, "with contradictory labels": 1}


def test_split_by_question(codec: StepCodec, tmp_path: Path) -> None:
    path = chains(tmp_path / "a.jsonl", 80)
    found, held = load(path, codec, eval_ratio=0.25)
    assert held is not None
    assert (found.card.questions, held.card.questions) == (15, 5)
    assert not set(found.questions) & set(held.questions)
    again, _ = load(path, codec, eval_ratio=0.25)
    assert again.questions == found.questions
    other, test = load(path, codec, eval_data_path=str(chains(tmp_path / "b.jsonl", 20)), max_train_samples=30)
    assert test is not None
    assert other.card.dropped["of questions in --eval_data_path"] == 20
    assert (len(other.items), test.card.solutions) == (28, 20)


def test_overlong(codec: StepCodec, tmp_path: Path) -> None:
    rows = [
        published(["a", "b"], [True, False], "long " * 600),
        published(["word " * 300, "c"], [True, False], "2?"),
    ]
    path = jsonl(tmp_path / "a.jsonl", rows)
    found, _ = load(path, codec)
    assert max(len(item.ids) for item in found.items) == 256
    assert (found.card.truncated, found.card.dropped) == (2, {"too long without their prompt": 1})
    found, _ = load(path, codec, overlong="drop")
    assert found.card.dropped == {"too long": 2, "too long without their prompt": 1}


def test_the_first_batch_is_checked(codec: StepCodec, tmp_path: Path) -> None:
    found, _ = load(jsonl(tmp_path / "a.jsonl", [published(["a b\n\nc", "d"], [True, False])]), codec)
    batch = data.collate(found.items)
    text = data.check_batch(batch, codec)
    assert "separator '\\n' is token 198" in text
    assert "c<label 1 at" in text
    with pytest.raises(UserError, match=r"labels stand at tokens"):
        data.check_batch(batch | {"ends": batch["ends"] - 1}, codec)
    with pytest.raises(UserError, match=r"labels \[-3, 1\]"):
        data.check_batch(batch | {"labels": batch["labels"] * 4 - 3}, codec)


def test_solutions_counts_into_the_given_counter(codec: StepCodec, tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()
    path = jsonl(tmp_path / "a.jsonl", [published(["a"], [None])])
    assert list(solutions(str(path), codec, "inherit", dropped, "--x")) == []
    assert dropped == {"without a verdict": 1}
