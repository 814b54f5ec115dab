"""Sets that are alike in all but where their solutions come from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_cases import debate, write

import label
from agentark.types import Record, UserError
from distill.select import __main__ as select
from distill.select import match

pytest.importorskip("datasketch")


def says(value: int, words: str = "I count them one after the other and find") -> str:
    return f"{words} \\boxed{{{value}}}."


def labelled(folder: Path, rows: Sequence[Record]) -> Path:
    infer = write(folder / "llm_debate_infer.jsonl", *rows)
    assert label.main(["--input", str(infer), "--dataset_name", "GSM8K", "--rules_only"]) == 0
    return infer.with_name(f"{infer.stem}_labeled_by_rules.jsonl")


def run(labels: Path, output: Path, *flags: str) -> int:
    return select.main(["--input", str(labels), "--output", str(output), "--strategy", "rsft", *flags])


def chosen(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def manifest(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.with_name(output.name + ".manifest.json").read_text())
    return found


def test_the_largest_common_subset_by_hand() -> None:
    a = {"1": [10, 10], "2": [10], "3": [30], "4": [5], "only a": [7]}
    b = {"1": [10], "2": [12], "3": [10], "4": [6], "only b": [9, 9]}
    assert match.common([a, b], 0) == {"1": 1}  # 55 and 38 tokens; without 3 25 and 28; without 2 and 4 10 each
    assert match.common([{"1": [9], "2": [30], "3": [13]}, {"1": [9], "2": [10], "3": [10]}], 0) == {"1": 1}
    ahead = [{"1": [100], "2": [14], "3": [40]}, {"1": [100], "2": [10], "3": [40]}]
    assert match.common(ahead, 0) == {"1": 1, "3": 1}
    assert match.common([a, b], 0) == match.common([b, a], 0)
    assert match.common([a], 0) == {"1": 2, "2": 1, "3": 1, "4": 1, "only a": 1}
    assert match.common([a, {"5": [3]}], 0) == {}


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.integers(1, 50), max_size=3)), min_size=2, max_size=3
    )
)
def test_all_sets_keep_the_same_and_have_as_many_tokens(sets: list[dict[str, list[int]]]) -> None:
    kept = match.common(sets, 0)
    totals = [sum(sum(sizes[id][:count]) for id, count in kept.items()) for sizes in sets]
    assert max(totals) <= (1 + match.TOLERANCE) * min(totals)
    assert all(0 < count <= len(sizes[id]) for id, count in kept.items() for sizes in sets)
    assert match.common(sets[::-1], 0) == kept


def test_matched_sets_differ_only_in_where_solutions_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    debated = [debate(f"GSM8K/train/{k}", "7", [[says(7, f"Way {k} gives")] * 2]) for k in range(6)]
    drawn = [
        debate(f"GSM8K/train/{k}", "7", [[says(7, f"Path {k} is" + " so" * (k == 3) * 40)] * 2]) for k in range(1, 8)
    ]
    inputs = {"a": labelled(tmp_path / "a", debated), "b": labelled(tmp_path / "b", drawn)}
    for name, path in inputs.items():
        assert run(path, tmp_path / f"{name}.jsonl") == 0
    capsys.readouterr()
    for name, other in (("a", "b"), ("b", "a")):
        assert run(inputs[name], tmp_path / f"{name}2.jsonl", "--match", str(tmp_path / f"{other}.jsonl")) == 0
    sets = {name: chosen(tmp_path / f"{name}2.jsonl") for name in inputs}
    asked = [[row["id"][-1] for row in rows] for rows in sets.values()]
    assert asked == [["1", "2", "4", "5"]] * 2  # 3 is far longer in one of them, 0, 6 and 7 stand in one alone
    assert all(row in chosen(tmp_path / "a.jsonl") for row in sets["a"])
    found = manifest(tmp_path / "a2.jsonl")
    assert found["match"][0]["set"] == str(tmp_path / "b.jsonl")
    assert found["counts"]["matched"]["dropped"] == {
        "rows of questions that another set lacks": 1,
        "more solutions than another set has": 0,
        "to even out tokens": 1,
    }
    assert found["counts"]["questions_left_out_by_filters"] == 0
    assert "matched: 4 rows of 4 questions" in (tmp_path / "a2.jsonl.card.md").read_text()
    printed = capsys.readouterr().out
    assert "the other sets have 7 rows: select them with --match, too" in printed
    before = (tmp_path / "a2.jsonl").read_bytes()
    assert run(inputs["a"], tmp_path / "a2.jsonl", "--match", str(tmp_path / "b.jsonl")) == 0
    assert (tmp_path / "a2.jsonl").read_bytes() == before
    with pytest.raises(UserError, match=r"--output .*a2\.jsonl: exists \(match was"):
        run(inputs["a"], tmp_path / "a2.jsonl", "--match", str(tmp_path / "b2.jsonl"))


def test_what_cannot_be_matched_is_refused(tmp_path: Path) -> None:
    labels = labelled(tmp_path / "run", [debate("GSM8K/train/0", "7", [[says(7)] * 2])])
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "other.jsonl").write_text('{"id": "x", "completion": [{"role": "assistant", "content": "7"}]}\n')
    for path, expected in (
        (tmp_path / "gone.jsonl", "--match .*gone.jsonl: no such file"),
        (tmp_path / "empty.jsonl", "--match .*empty.jsonl: the file is empty"),
        (tmp_path / "other.jsonl", "no question with a solution in all sets"),
        (labels, r"--match .*row 1: not a row of distill\.select"),
    ):
        with pytest.raises(UserError, match=expected):
            run(labels, tmp_path / "a.jsonl", "--match", str(path))
    assert not (tmp_path / "a.jsonl").exists()
