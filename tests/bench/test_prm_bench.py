"""The task whose errors can be seen, and that the bench runs."""

import json
import re
from pathlib import Path

import pytest

from bench import prm_bench, prm_chains


def value(step: str) -> tuple[int, bool]:
    """(the result a step states, whether it is right)."""
    one, other, *last = map(int, re.findall(r"\d", step))
    if re.match(r"\d [+-]", step):
        first, amount = one, other
    else:
        first, amount = other, one
    plus = "+" in step or "Adding" in step or "more" in step
    return last[-1], (first + amount if plus else first - amount) == last[-1]


def test_chains_are_labelled_as_they_are() -> None:
    made = prm_chains.rows(200, 4, (2, 6), 1)
    assert len(made) == 50
    assert len({row["query"] for row in made}) == 50
    assert made == prm_chains.rows(200, 4, (2, 6), 1)
    for row in made:
        assert sorted(row["labels"]) == [False, False, True, True]
        assert len({one["text"] for one in row["solutions"]}) == 4
        for one in row["solutions"]:
            right = [value(step)[1] for step in one["text"].split("\n\n")]
            first = right.index(False) if False in right else len(right)
            assert one["step_labels"] == [1] * first + [0] * (len(right) - first)
            assert right.count(False) == (not one["is_correct"])
            assert (value(one["text"].split("\n\n")[-1])[0] == int(row["gt"])) or not one["is_correct"]


@pytest.mark.slow
def test_the_bench_runs_on_a_small_model(small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model_name", str(small_model), "--solutions", "16", "--batch_size", "8", "--batches", "1"]
    assert prm_bench.main([*flags, "--repeats", "1", "--json", str(tmp_path / "prm.json")]) == 0
    printed = capsys.readouterr()
    names = [row["name"] for row in json.loads((tmp_path / "prm.json").read_text())]
    assert len(names) == 8
    assert "prm stage 1: frozen / cached, 3 epochs" in printed.out
    differ = re.search(r"differ by (\S+) at most", printed.err)
    assert differ is not None
    assert float(differ[1]) < 1e-3
