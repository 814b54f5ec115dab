"""Replies and golds that failed in public, through the commands: eval.math_eval, eval.choice_eval, label.py."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

import label
from agentark.evaluation import read_graded
from agentark.labels import read_labels
from eval import choice_eval, math_eval

CASES = Path(__file__).parents[3] / "shared" / "cases" / "answers.jsonl"
CONTRADICTORY = ("Paris", "Answer: Paris")
"""Wanted wrong, though it is the gold answer to the letter."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """Dataset -> (its cases as a file of the published code, the cases)."""
    if not CASES.is_file():
        pytest.skip(f"no {CASES}: the cases are not part of the repository")
    cases = defaultdict(list)
    for case in map(msgspec.json.decode, CASES.read_bytes().splitlines()):
        if (case["gold"], case["reply"]) != CONTRADICTORY:
            cases[case["dataset"]].append(case)
    folder = tmp_path_factory.mktemp("cases")
    written = {}
    for dataset, listed in cases.items():
        rows = [
            {"id": str(number), "query": "?", "gt": case["gold"], "response": case["reply"]}
            for number, case in enumerate(listed)
        ]
        path = folder / f"{dataset}_infer.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        written[dataset] = path, listed
    return written


@pytest.mark.parametrize(
    ("dataset", "command", "name"),
    [("MATH", math_eval, "math_eval"), ("GSM8K", math_eval, "math_eval"), ("MMLU", choice_eval, "choice_eval")],
)
def test_evaluations(files: Any, dataset: str, command: Any, name: str) -> None:
    path, cases = files[dataset]
    assert command.main(["--input_file", str(path), "--dataset_name", dataset]) == 0
    graded = {row.id: row.verdict for row in read_graded(path.with_name(f"{path.stem}.{name}.per_sample.jsonl"))}
    wrong = [(case, graded[str(number)]) for number, case in enumerate(cases) if graded[str(number)] != case["want"]]
    assert not wrong


def test_labels_by_rules(files: Any) -> None:
    path, cases = files["HotpotQA"]
    assert label.main(["--input", str(path), "--dataset_name", "HotpotQA", "--rules_only"]) == 0
    rows = {row.id: row.labels for row in read_labels(path.with_name(f"{path.stem}_labeled_by_rules.jsonl"))}
    given = [rows[str(number)] == [True] for number in range(len(cases))]
    assert given == [case["want"] == "correct" for case in cases]
