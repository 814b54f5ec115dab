"""The table of a study, against numbers worked out by hand."""

import json
from pathlib import Path

import msgspec
import pytest

from agentark import stats
from agentark.evaluation import Graded
from agentark.types import UserError
from study import table as study_table


def graded(
    folder: Path, right: list[float | None], tokens: int, metric: str = "accuracy", first: int = 0
) -> Path:  # fmt: skip
    """An evaluation; None is a question whose run failed."""
    rows = [
        Graded(
            id=f"q{first + k}", number=0, metric=metric, verdict="error" if one is None else "wrong", answer="1",
            gt="1", figures={} if one is None else {metric: one}, truncated=False, tag=None,
        )
        for k, one in enumerate(right)
    ]  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "per_sample.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    about = {"dataset": "ChainSum", "metric": metric, "tokens": {"a": {"completion_tokens": tokens}}}
    (folder / "metrics.json").write_text(json.dumps(about))
    return folder / "per_sample.jsonl"


def test_every_system_against_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = graded(tmp_path / "a", [1.0, 0.0, 0.0, 0.0], 40)
    better = graded(tmp_path / "b", [1.0, 1.0, 1.0, None], 100)
    output = tmp_path / "out" / "table"
    words = ["--rows", f"held-out/base={base}", f"held-out/R-SFT+PAD={better}", "--output", str(output)]
    assert study_table.main(words) == 0
    assert capsys.readouterr().out.startswith("held-out (ChainSum)\n\n| system | n | accuracy, % | − base | p |")
    lines = output.with_name("table.md").read_text().splitlines()
    assert "| base | 4 | 25.0 ± 25.0 | – | – | 10 | – | – |" in lines
    assert "| R-SFT+PAD | 3 (+1 failed) | 100.0 ± 0.0 | +66.7 | 0.5 | 25 | – | – |" in lines
    found = json.loads(output.with_name("table.json").read_bytes())["tables"]["held-out"]
    assert found["rows"]["base"]["se"] == pytest.approx(0.25)
    assert found["rows"]["R-SFT+PAD"]["p"] == stats.mcnemar(0, 2)
    assert found["files"] == {"base": [str(base)], "R-SFT+PAD": [str(better)]}


def test_figures_that_are_no_accuracy(tmp_path: Path) -> None:
    one, two = (graded(tmp_path / name, values, 4, "rougeL") for name, values in (("a", [0.2, 0.4]), ("b", [0.3, 0.5])))
    made = study_table.make({"a": {"base": one, "DA": two}})
    assert made.metric == "rougeL"
    assert made.rows["DA"].difference == pytest.approx(0.1)


def test_several_p_values_are_counted_and_adjusted(tmp_path: Path) -> None:
    values = {"base": [0.0] * 12, "SFT": [1.0] * 6 + [0.0] * 6, "PAD": [1.0] * 12, "DA": [1.0] * 2 + [0.0] * 10}
    files = {name: graded(tmp_path / name, right, 4) for name, right in values.items()}
    made = study_table.make({"a": files})
    raw = [stats.mcnemar(0, 6), stats.mcnemar(0, 12), stats.mcnemar(0, 2)]
    assert [made.rows[name].p_holm for name in ("SFT", "PAD", "DA")] == [2 * raw[0], 3 * raw[1], raw[2]]
    lines = study_table.markdown({"a": made}).splitlines()
    assert lines[2].startswith("| system | n | accuracy, % | − base | p | p (Holm, of 3) | tokens an answer |")
    assert "| base | 12 | 0.0 ± 0.0 | – | – | – | 0 | – | – |" in lines
    assert "| SFT | 12 | 50.0 ± 15.1 | +50.0 | 0.031 | 0.062 | 0 | – | – |" in lines
    assert len({line.count("|") for line in lines[2:8]}) == 1


def test_pooled_sets_and_the_times_of_a_study(tmp_path: Path) -> None:
    values = {"a/base": [1.0, 0.0], "a/DA": [1.0, 1.0], "b/base": [0.0, 0.0, 0.0], "b/DA": [1.0, 1.0, 0.0]}
    rows = [f"{name}={graded(tmp_path / name, right, 30)}" for name, right in values.items()]
    seconds = {"baselines base on a": 2.0, "evaluate DA on a": 3.0, "evaluate DA on b": 4.0, "sft DA": 5.0}
    study = tmp_path / "study.json"
    study.write_text(json.dumps({"steps": {name: {"seconds": spent} for name, spent in seconds.items()}}))
    output = tmp_path / "table"
    argv = ["--rows", *rows, "--pool", "both=a,b", "--study", str(study), "--output", str(output)]
    assert study_table.main(argv) == 0
    tables = json.loads(output.with_name("table.json").read_bytes())["tables"]
    assert list(tables) == ["a", "b", "both"]
    base, distilled = tables["both"]["rows"]["base"], tables["both"]["rows"]["DA"]
    assert (base["n"], base["value"], base["seconds"], base["training_seconds"]) == (5, 0.2, 2.0, None)
    assert (distilled["value"], distilled["seconds"], distilled["training_seconds"]) == (0.8, 7.0, 5.0)
    assert distilled["p"] == stats.mcnemar(0, 3)
    assert distilled["tokens"] == 60 / 5
    for words, expected in (
        (["both=a,c"], r"--pool 'both=a,c': no set 'c'"),
        (["a=a,b"], r"--pool 'a=a,b': a is there twice"),
    ):
        with pytest.raises(UserError, match=expected):
            study_table.main(["--rows", *rows, "--pool", *words, "--output", str(output)])
    with pytest.raises(UserError, match="is not the state of a study"):
        study_table.main(["--rows", *rows, "--study", str(tmp_path / "table.json"), "--output", str(output)])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["base=x"], r"--rows 'base=x': expected set/system=file"),
        (["a/base"], r"--rows 'a/base': expected set/system=file"),
        (["a/base=x", "a/base=y"], r"--rows 'a/base=y': base is there twice for a"),
        (["a/base=nowhere"], r"nowhere: no such file"),
    ],
)
def test_bad_rows(tmp_path: Path, words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        study_table.main(["--rows", *words, "--output", str(tmp_path / "t")])


def test_other_questions_are_not_compared(tmp_path: Path) -> None:
    one, two = graded(tmp_path / "a", [1.0], 1), graded(tmp_path / "b", [1.0], 1, first=1)
    with pytest.raises(UserError, match=r"DA .* and base .* were not asked the same questions"):
        study_table.make({"a": {"base": one, "DA": two}})


def test_contrasts_are_paired_and_adjusted_among_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right: dict[str, list[float | None]] = {
        "base": [0.0] * 12,
        "debate": [1.0] * 9 + [0.0] * 2 + [None],
        "independent": [1.0] * 2 + [0.0] * 10,
        "unrelated": [1.0] * 8 + [0.0] * 4,
    }
    rows = [f"held-out/{name}={graded(tmp_path / name, values, 4)}" for name, values in right.items()]
    named = ["interaction=debate/independent", "same question=debate/unrelated"]
    output = tmp_path / "table"
    assert study_table.main(["--rows", *rows, "--contrast", *named, "--output", str(output)]) == 0
    found = json.loads(output.with_name("table.json").read_bytes())["tables"]["held-out"]["contrasts"]
    first, second = found["interaction"], found["same question"]
    assert (first["systems"], first["n"], first["difference"]) == (["debate", "independent"], 11, pytest.approx(7 / 11))
    assert first["low"] < first["difference"] < first["high"]
    assert [first["p"], second["p"]] == [stats.mcnemar(0, 7), stats.mcnemar(0, 1)]
    assert [first["p_holm"], second["p_holm"]] == stats.holm([first["p"], second["p"]])
    printed = capsys.readouterr().out
    assert "| contrast | systems | n | points [95%] | p | p (Holm, of 2) |" in printed
    assert "| interaction | debate − independent | 11 | +63.6 [" in printed


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a", "--contrast 'a': expected contrast=system/other"),
        ("a=base", "--contrast 'a=base': expected contrast=system/other"),
        ("a=base/debait", "--contrast 'a=base/debait': no system 'debait' .*did you mean debate"),
    ],
)
def test_a_contrast_of_other_systems_is_refused(word: str, expected: str, tmp_path: Path) -> None:
    rows = [f"held-out/{name}={graded(tmp_path / name, [1.0], 4)}" for name in ("base", "debate")]
    with pytest.raises(UserError, match=expected):
        study_table.main(["--rows", *rows, "--contrast", word, "--output", str(tmp_path / "table")])
