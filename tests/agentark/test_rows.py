"""Every kind of row in every reader: marks, blank lines, other JSON, unknown schemas, repeated ids, errors."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from label_cases import debate

from agentark import rows
from agentark.contamination import EvaluationQuestions
from agentark.labels import LabelledSolution, LabelRow
from agentark.tasks import get_task
from agentark.types import UserError
from eval.report.files import find
from prm.reading import solutions
from prm.steps import StepCodec, load_tokenizer

Row = dict[str, Any]


def labelled(id: str, **changes: Any) -> Row:
    solution = LabelledSolution(
        id=1, text="So.\n\n#### 7", is_correct=True, verdict=True, by="rule", p_correct=None, mass=None, rule=True,
        judge=None, agent="agent_1", round=1, answer="7", note=None,
    )  # fmt: skip
    row = LabelRow(
        id=id, source="GSM8K", query=f"Question {id}?", gt="7", answer_type="number", solutions=[solution],
        labels=[True], judge="rules", input="x", token_stats={},
    )  # fmt: skip
    return dict(msgspec.to_builtins(row)) | changes


def result(id: str, **changes: Any) -> Row:
    return dict(msgspec.to_builtins(debate(id, "7", [["It is 7.", "It is 8."]], "7.", source="GSM8K"))) | changes


def published(id: str, **changes: Any) -> Row:
    text = "===== Solution 1 =====\nIt is 7.\n\n===== Solution 2 =====\nIt is 8."
    return {"id": id, "query": f"Question {id}?", "gt": "7", "response": text} | changes


def published_labels(id: str, **changes: Any) -> Row:
    texts = [{"id": 1, "text": "It is 7.", "is_correct": True}, {"id": 2, "text": "It is 8.", "is_correct": False}]
    return {"id": id, "query": f"Question {id}?", "gt": "7", "solutions": texts, "labels": [True, False]} | changes


def stepwise(id: str, **changes: Any) -> Row:
    return {"prompt": f"Question {id}?", "completions": ["a", "b"], "labels": [True, False]} | changes


def plain(id: str, **changes: Any) -> Row:
    return {"id": id, "question": f"Question {id}?", "answer": "7"} | changes


MADE: Mapping[rows.Kind, Callable[..., Row]] = {
    "results": result, "labels": labelled, "published": published, "published labels": published_labels,
    "stepwise": stepwise, "questions": plain,
}  # fmt: skip
SOLVED = tuple(kind for kind in MADE if kind != "questions")
RECORDED = ("results", "labels", "published", "published labels")


@pytest.fixture(scope="module")
def codec(small_model: Path) -> StepCodec:
    return StepCodec.of(load_tokenizer(str(small_model), "--x"), "\n", "step", 256)


@pytest.fixture
def readers(codec: StepCodec) -> dict[str, Callable[[Path], list[str]]]:
    """Name of a reader -> from a file to the questions that it reads, by their texts."""

    def trained(path: Path) -> list[str]:
        return list(dict.fromkeys(one.prompt for _, one in solutions(str(path), codec, "inherit", Counter(), "--x")))

    return {
        "records": lambda path: [one.query for one in rows.read_source(path, get_task("GSM8K")).records],
        "scored": lambda path: [one.prompt for one in rows.questions(path, "--x")],
        "trained": trained,
        "asked": lambda path: [one.query for one in rows.samples(str(path), "--x")],
        "held out": lambda path: [query for _, query in rows.queries(path, "--x")],
    }


READS = [
    *(("records", kind) for kind in RECORDED),
    *(("scored", kind) for kind in SOLVED),
    *(("trained", kind) for kind in SOLVED if kind not in ("results", "published")),
    *((reader, kind) for reader in ("asked", "held out") for kind in MADE),
]
Readers = dict[str, Callable[[Path], list[str]]]


def content(*listed: Row) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in listed)


@pytest.mark.parametrize(("reader", "kind"), READS)
def test_byte_order_marks_and_blank_lines(readers: Readers, tmp_path: Path, reader: str, kind: rows.Kind) -> None:
    first, second = (content(MADE[kind](f"GSM8K/test/{k}")) for k in "ab")
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n" + first + b" \r\n" + second + b"\n\n")
    assert rows.kind(path, "--x") == kind
    assert readers[reader](path) == ["Question GSM8K/test/a?", "Question GSM8K/test/b?"]


@pytest.mark.parametrize(("reader", "kind"), READS)
@pytest.mark.parametrize("shape", ["array", "spread out"])
def test_other_json_is_refused(readers: Readers, tmp_path: Path, reader: str, kind: rows.Kind, shape: str) -> None:
    path, row = tmp_path / "a.jsonl", MADE[kind]("GSM8K/test/a")
    path.write_text(json.dumps([row], indent=1) if shape == "array" else json.dumps(row, indent=1))
    found = "an array" if shape == "array" else "an object over several lines"
    with pytest.raises(UserError, match=rf"a\.jsonl: expected JSON lines, one object a line; found {found}$"):
        readers[reader](path)


@pytest.mark.parametrize(("reader", "kind"), READS)
def test_a_broken_line_is_named(readers: Readers, tmp_path: Path, reader: str, kind: rows.Kind) -> None:
    path = tmp_path / "a.jsonl"
    for broken, said in ((b'{"id": NaN}', "not valid JSON .*no NaN"), (b"[1]", "not a"), (b"{", "not valid JSON")):
        path.write_bytes(content(MADE[kind]("GSM8K/test/a")) + b"\n" + broken + b"\n")
        with pytest.raises(UserError, match=rf"a\.jsonl, row 3: {said}"):
            readers[reader](path)


@pytest.mark.parametrize(("reader", "kind"), [pair for pair in READS if pair[1] in ("results", "labels")])
def test_unknown_schemas_are_refused(readers: Readers, tmp_path: Path, reader: str, kind: rows.Kind) -> None:
    path, key = tmp_path / "a.jsonl", "schema" if kind == "results" else "labels_schema"
    path.write_bytes(content(MADE[kind]("GSM8K/test/a"), MADE[kind]("GSM8K/test/b", **{key: 99})))
    with pytest.raises(UserError, match=rf"a\.jsonl, row 2: {key} 99; this version reads \[1\]"):
        readers[reader](path)


@pytest.mark.parametrize(("reader", "kind"), [pair for pair in READS if pair[1] in RECORDED])
def test_the_last_row_of_an_id_counts(readers: Readers, tmp_path: Path, reader: str, kind: rows.Kind) -> None:
    path, make = tmp_path / "a.jsonl", MADE[kind]
    path.write_bytes(content(make("a", query="Old?"), make("b", query="Other?"), make("a", query="New?")))
    expected = {"Other?", "New?"} | ({"Old?"} if reader == "held out" else set())  # nothing seen may be trained on
    assert set(readers[reader](path)) == expected
    assert len(readers[reader](path)) == len(expected)


def test_blank_ids_are_none_and_zero_is_an_id(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        content(published("", query="A?"), published("", query="B?")) + b"\n" + content(published("x") | {"id": 0})
    )
    found = [one.id for one in rows.read_source(path, get_task("GSM8K")).records]
    assert found == ["GSM8K/published/0", "GSM8K/published/1", "0"]
    assert [one.id for one in rows.questions(path, "--x")] == [None, None, "0"]
    assert [one.id for one in rows.samples(str(path), "--x")][2] == "0"


def test_a_question_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content(plain("1") | {"id": 1}, plain("2") | {"id": 0}) + b"\n" + content(plain("3") | {"id": 1}))
    with pytest.raises(UserError, match=r"a\.jsonl, row 4: id '1' was row 1's already"):
        rows.samples(str(path), "--x")
    path.write_bytes(content(*[plain("1") | {"id": None}] * 2, plain("2") | {"id": 0}))
    assert [one.id for one in rows.samples(str(path), "--x")] == [f"prompt/{rows.question_key('Question 1?')}", "0"]


@pytest.mark.parametrize("kind", RECORDED)
def test_error_rows_are_known(codec: StepCodec, tmp_path: Path, kind: rows.Kind) -> None:
    path, make = tmp_path / "a.jsonl", MADE[kind]
    path.write_bytes(content(make("a"), make("b", error="x"), make("a", error="engine died"), make("b")))
    found = [(one.id, one.error) for one in rows.read_source(path, get_task("GSM8K")).records]
    assert found == [("a", "engine died"), ("b", None)]
    assert [(one.id, one.error) for one in rows.questions(path, "--x")] == found
    if kind != "results":
        dropped: Counter[str] = Counter()
        assert {name for name, _ in solutions(str(path), codec, "inherit", dropped, "--x")} <= {"b"}
        assert dropped["rows with an error"] == 1


def test_kinds_in_the_report(tmp_path: Path) -> None:
    for kind, make in MADE.items():
        (tmp_path / f"{kind}.jsonl").write_bytes(content(make("a")))
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "new.jsonl").write_bytes(content(result("a", schema=99)))
    found = find([tmp_path])
    assert [path.stem for path in found.results] == ["published", "results"]
    assert [path.stem for path in found.labels] == ["labels"]
    assert found.problems == [f"{tmp_path / 'new.jsonl'}, row 1: schema 99; this version reads [1]"]


def test_files_that_are_not_there_or_empty(readers: Readers, tmp_path: Path) -> None:
    for reader in readers.values():
        with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
            reader(tmp_path / "none.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\n")
    for reader in readers.values():
        with pytest.raises(UserError, match=r"a\.jsonl: the file is empty"):
            reader(tmp_path / "a.jsonl")


def test_results_have_no_verdicts_to_train_on(codec: StepCodec, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content(result("a")))
    with pytest.raises(UserError, match=r"results without verdicts; run python label\.py --input .*a\.jsonl first"):
        list(solutions(str(tmp_path / "a.jsonl"), codec, "inherit", Counter(), "--x"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [1.0, False]}, r"label 1\.0; expected true, false or null"),
        ({"labels": ["+", "-"]}, r"label '\+'; expected"),
        ({"labels": [0, -1]}, "label -1; expected"),
        ({"labels": [True]}, "'labels' must be a list of 2, one per step; found 1 of them"),
        ({"completions": "a\n\nb"}, "'completions' a list of texts"),
    ],
)
def test_step_labels_are_refused_by_scoring_as_by_training(
    readers: Readers, tmp_path: Path, changes: Row, message: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(content(stepwise("a", **changes)))
    for name in ("scored", "trained"):
        with pytest.raises(UserError, match=rf"row 1: .*{message}"):
            readers[name](tmp_path / "a.jsonl")


@pytest.mark.parametrize(("key", "value"), [("answer", {"a": 1}), ("answer", 7), ("id", [1]), ("id", "1")])
def test_solutions_are_refused_by_scoring_as_by_training(
    readers: Readers, tmp_path: Path, key: str, value: Any
) -> None:
    row = published_labels("a")
    row["solutions"][1][key] = value
    (tmp_path / "a.jsonl").write_bytes(content(row))
    for name in ("scored", "trained"):
        with pytest.raises(UserError, match=rf"row 1: solution 2: Expected .* at `\$\.{key}`"):
            readers[name](tmp_path / "a.jsonl")


def test_an_agent_of_no_name_aggregates_nothing(tmp_path: Path) -> None:
    row = published_labels("a")
    for solution, agent in zip(row["solutions"], ({"a": 1}, "judge"), strict=True):
        solution["agent"] = agent
    (tmp_path / "a.jsonl").write_bytes(content(row))
    (question,) = rows.questions(tmp_path / "a.jsonl", "--x")
    assert [candidate.aggregate for candidate in question.candidates] == [False, True]


def test_a_held_out_file_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + content(plain("1"), stepwise("2")))
    held = EvaluationQuestions([tmp_path / "a.jsonl"], 13)
    assert (held.hit("1", "x"), held.hit("x", "question 2 ?"), held.hit("x", "y")) == ("exact", "exact", None)
