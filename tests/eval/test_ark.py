"""The ark card against numbers worked out by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ark_cases import RIGHT, ROLES, N, files, first, put, worth

from agentark import stats
from agentark.types import UserError
from eval.ark import __main__ as entry
from eval.ark.card import best_gain, overall, read_card
from eval.ark.cell import Cell, Roles, make


def card(folder: Path, rows: Sequence[str], *more: str, name: str = "denoise", roles: Sequence[str] = ROLES) -> Any:
    output = folder / name / "ark"
    assert entry.main(["--name", name, "--rows", *rows, *roles, *more, "--output", str(output)]) == 0
    assert output.with_name("ark.png").read_bytes().startswith(b"\x89PNG")
    return json.loads(output.with_name("ark.json").read_bytes())


def test_a_cell_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = worth(tmp_path / "team.json", ("debate", "worth_distilling"))
    [cell] = card(tmp_path, files(tmp_path), "--worth", str(told))["cells"]
    assert (cell["name"], cell["verdict"], cell["verdict_right"]) == ("denoise", "worth_distilling", True)
    assert {key: cell["best_member"][key] for key in ("accuracy", "n", "tokens")} == {
        "accuracy": 0.25, "n": N, "tokens": 10.0,
    }  # fmt: skip
    assert cell["best_member"]["se"] == pytest.approx((0.25 * 0.75 / (N - 1)) ** 0.5)
    assert (cell["vote"]["accuracy"], cell["team"]["accuracy"]) == (0.5, 0.75)
    student = cell["students"]["R-SFT"]
    raw = [stats.mcnemar(0, 15), 1.0]
    assert (student["accuracy"], student["difference"]) == (0.625, 0.375)
    assert (student["p"], student["p_adjusted"]) == (raw[0], stats.holm(raw)[0])
    value, low, high = cell["retained"]["R-SFT"]
    assert value == pytest.approx(15 / 20)
    assert 0.4 < low < value < high <= 1.0
    assert cell["retained"]["DA"] == [0.0, 0.0, 0.0]
    assert cell["headroom"] == pytest.approx([0.5, *stats.paired_interval([0.0] * 20 + [1.0] * 20)])
    printed = capsys.readouterr().out
    assert "| student | R-SFT | 40 | 62.5 ± 7.8 | +37.5 | < 0.001 | < 0.001 | 75% [" in printed
    assert "The verdict was right." in printed
    assert (tmp_path / "denoise" / "ark.md").read_text().strip() in printed


def test_no_share_of_a_gain_that_may_be_zero(tmp_path: Path) -> None:
    """A division by about zero would be any number."""
    right = {"base": 10, "vote": 20, "debate": 11, "R-SFT": 30}
    [cell] = card(tmp_path, files(tmp_path, right))["cells"]
    assert cell["headroom"][1] <= 0 < cell["headroom"][0]
    assert cell["retained"] == {"R-SFT": None}
    assert cell["not_retained"].startswith("the team's gain is not clearly above zero: +2.5 [")
    assert (cell["verdict"], cell["verdict_right"]) == (None, None)


def test_the_interval_is_paired_over_questions() -> None:
    """Where a student gets right just what the team gets right, it keeps all of the gain, whichever questions come."""
    gains = [1.0] * 10 + [0.0] * 20 + [-1.0] * 3
    assert stats.ratio_interval(gains, gains) == (1.0, 1.0)
    low, high = stats.ratio_interval([gain / 2 for gain in gains], gains)
    assert (low, high) == (0.5, 0.5)
    assert stats.ratio_interval([1.0, 0.0], [0.0, 1.0])[1] == float("inf")


def test_questions_that_failed_are_left_out_pairwise(tmp_path: Path) -> None:
    names = {"base": [True, False, False, False, False, None], "team": [None, True, True, True, True, True]}
    names |= {"student": [True, True, True, None, True, True]}
    sets = {"a": {name: put(tmp_path / name / "per_sample.jsonl", right) for name, right in names.items()}}
    cell = make("x", sets, Roles(best="base", team="team"))
    assert (cell.best_member.n, cell.team.n, cell.students["student"].n) == (5, 5, 5)
    assert cell.headroom[0] == 1.0
    assert cell.students["student"].difference == pytest.approx(3 / 4)
    assert cell.retained["student"] == (1.0, 1.0, 1.0)


def test_further_sets_tags_and_members(tmp_path: Path) -> None:
    tags = ["4", "10"] * (N // 2)
    rows = files(tmp_path) + files(tmp_path, {"base": 4, "debate": 20, "R-SFT": 12}, "longer")
    rows.append(f"held-out/other={put(tmp_path / 'other' / 'per_sample.jsonl', first(8), 80, tags)}")
    [cell] = card(tmp_path, rows, "--members", "other")["cells"]
    assert cell["members"]["other"]["accuracy"] == 0.2
    assert list(cell["students"]) == ["R-SFT", "DA"]
    assert {tag: (one["accuracy"], one["n"]) for tag, one in cell["by_tag"]["other"].items()} == {
        "4": (0.2, 20), "10": (0.2, 20),
    }  # fmt: skip
    assert list(cell["by_tag"]["other"]) == ["4", "10"]
    longer = cell["sets"]["longer"]
    assert longer["vote"] is None
    assert longer["retained"]["R-SFT"][0] == pytest.approx(8 / 16)
    text = (tmp_path / "denoise" / "ark.md").read_text()
    assert "longer (ChainSum), the team's gain +40.0 [" in text
    assert "| other | 20.0 (n 20) | 20.0 (n 20) |" in text


@pytest.mark.parametrize(
    ("verdict", "gains", "right"),
    [
        ("worth_distilling", True, True),
        ("worth_distilling", False, False),
        ("distil_the_vote", True, False),
        ("nothing_to_distil", False, True),
        ("nothing_to_distil", True, False),
        ("cannot_tell", True, None),
    ],
)
def test_whether_the_verdict_was_right(verdict: str, gains: bool, right: bool | None, tmp_path: Path) -> None:
    rows = files(tmp_path, RIGHT | {"R-SFT": 25 if gains else 11})
    told = worth(tmp_path / "team.json", ("debate", verdict))
    [cell] = card(tmp_path, rows, "--worth", str(told))["cells"]
    assert cell["verdict_right"] is right


def test_where_the_vote_is_distilled_its_verdict_counts(tmp_path: Path) -> None:
    told = worth(tmp_path / "team.json", ("debate", "nothing_to_distil"), ("mixed", "distil_the_vote"))
    rows = files(tmp_path, {"base": 10, "vote": 30, "R-SFT": 25})
    roles = ["--best", "base", "--vote", "vote", "--team", "vote"]
    [cell] = card(tmp_path, rows, "--worth", str(told), roles=roles)["cells"]
    assert (cell["verdict"], cell["verdict_right"], cell["team"]) == ("distil_the_vote", True, cell["vote"])
    assert list(cell["students"]) == ["R-SFT"]


def test_cells_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = {"denoise": "worth_distilling", "clones": "nothing_to_distil", "unrelated": "cannot_tell"}
    right = {"denoise": (30, 28), "clones": (12, 11), "unrelated": (10, 9)}
    for name, (team, student) in right.items():
        told = worth(tmp_path / "team.json", ("debate", verdicts[name]))
        rows = files(tmp_path / name, RIGHT | {"debate": team, "R-SFT": student, "DA": 8})
        card(tmp_path, rows, "--worth", str(told), name=name)
    capsys.readouterr()
    paths = [str(tmp_path / name / "ark.json") for name in right]
    assert entry.main(["--merge", *paths, "--output", str(tmp_path / "ark")]) == 0
    made = json.loads((tmp_path / "ark.json").read_bytes())
    assert [cell["name"] for cell in made["cells"]] == list(right)
    assert made["overall"] == {
        "cells": 3, "rank_correlation": 1.0, "verdicts_right": 2, "verdicts_wrong": 0, "verdicts_open": 1,
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "| denoise | 25.0 ± 6.9 | 50.0 ± 8.0 | 75.0 ± 6.9 | +50.0 [" in printed
    assert "Verdicts: 2 right, 0 wrong, 1 open." in printed
    assert best_gain(read_card(tmp_path / "ark.json").cells[0]) == ("R-SFT", pytest.approx(0.45))
    with pytest.raises(UserError, match=r"ark\.json is one of the cards to merge"):
        entry.main(["--merge", str(tmp_path / "ark.json"), "--output", str(tmp_path / "ark")])


def test_rank_correlation_by_hand() -> None:
    assert stats.rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert stats.rank_correlation([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert stats.rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert stats.rank_correlation([1, 2], [1, 2]) is None
    assert stats.rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_cells_without_students_count_for_nothing(tmp_path: Path) -> None:
    told = worth(tmp_path / "team.json", ("debate", "worth_distilling"))
    [cell] = card(tmp_path, files(tmp_path, {"base": 1, "vote": 2, "debate": 30}), "--worth", str(told))["cells"]
    assert cell["verdict_right"] is None
    assert overall([msgspec.convert(cell, Cell)]).cells == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["--team", "debait"], r"--team 'debait': no such system in held-out .*did you mean debate"),
        (["--best", "debate"], r"--best and --team 'debate': a system has one role"),
        (["--members", "base"], r"--best and --members 'base': a system has one role"),
        (["--vote", "base"], r"--best and --vote 'base': a system has one role"),
        (["--rows", "base=x"], r"--rows 'base=x': expected set/system=file"),
        (["--name", "a|b"], r"--name 'a\|b': expected"),
        (["--output", "/"], r"--output /: expected a path that ends in a name"),
        (["--merge", "x"], r"--name: goes with one cell, not with --merge"),
        (["--worth", "nowhere.json"], r"nowhere.json: no such file"),
    ],
)
def test_bad_flags_are_one_line(change: list[str], expected: str, tmp_path: Path) -> None:
    argv = ["--name", "x", "--rows", *files(tmp_path), *ROLES, "--output", str(tmp_path / "ark")]
    with pytest.raises(UserError, match=expected) as raised:
        entry.main([*argv, *change])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ark.json").exists()


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows = files(tmp_path)
    argv = ["--name", "x", *ROLES, "--output", str(tmp_path / "ark"), "--rows", *rows]
    other = worth(tmp_path / "team.json", ("debate", "worth_distilling"), dataset="GSM8K")
    shorter = put(tmp_path / "short" / "per_sample.jsonl", first(3, N - 1))
    gone = put(tmp_path / "gone" / "per_sample.jsonl", first(3))
    gone.with_name("metrics.json").unlink()
    (tmp_path / "card.json").write_text('{"cells": []}')
    two = worth(tmp_path / "two.json", ("a", "worth_distilling"), ("b", "nothing_to_distil"))
    base = next(row for row in rows if "/base=" in row).replace("held-out/", "longer/")
    for change, expected in (
        ([f"held-out/PAD={shorter}"], r"held-out/PAD: .* and .* \(base\) were not asked the same questions"),
        ([f"held-out/PAD={gone}"], r"metrics\.json: cannot be read"),
        ([base], r"--rows: longer has no 'debate', which --team names"),
        ([base, base.replace("/base", "/debate"), base.replace("/base", "/R-SFTT")], r"longer/R-SFTT: unknown in held"),
        (["--worth", str(other)], r"--worth .*team\.json: is of x/debate_infer\.jsonl \(GSM8K\), not of debate_infer"),
        (["--worth", str(two)], r"--worth .*two\.json: is of x/a_infer\.jsonl .*, not of debate_infer"),
        (["--worth", str(tmp_path / "card.json")], r"card\.json: is not the team\.json of eval\.team"),
        (["--worth", str(tmp_path)], r"cannot be read"),
    ):
        with pytest.raises(UserError, match=expected):
            entry.main([*argv, *change])
    for words, expected in (
        ([str(tmp_path / "card.json")], r"card\.json: is not an ark card"),
        ([str(other)], r"team\.json: is not an ark card"),
        ([str(tmp_path / "nowhere.json")], r"nowhere\.json: no such file"),
    ):
        with pytest.raises(UserError, match=expected):
            entry.main(["--merge", *words, "--output", str(tmp_path / "ark")])
    card(tmp_path, rows)
    again = str(tmp_path / "denoise" / "ark.json")
    with pytest.raises(UserError, match=r"cell 'denoise' is also in .*ark\.json; give one of them"):
        entry.main(["--merge", again, again, "--output", str(tmp_path / "ark")])
