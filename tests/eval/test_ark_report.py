"""The ark cards in the report's overview."""

import json
import re
from pathlib import Path

import ark_cases
import pytest

from eval.ark import __main__ as ark_card
from eval.report import __main__ as entry


def test_an_ark_card_stands_in_the_overview(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name, right in (("denoise", ark_cases.RIGHT), ("<b>", ark_cases.RIGHT | {"debate": 11})):
        told = ark_cases.worth(tmp_path / "team.json", ("debate", "worth_distilling"))
        rows = ark_cases.files(tmp_path / name, right)
        argv = ["--name", name, "--rows", *rows, *ark_cases.ROLES, "--worth", str(told)]
        assert ark_card.main([*argv, "--output", str(results / name / "ark")]) == 0
    assert entry.main(["--results", str(results), "--output", str(tmp_path / "one")]) == 0
    page = (tmp_path / "one" / "index.html").read_text()
    assert page.count("<h3>") == 2
    assert "<h3>&lt;b&gt;</h3>" in page
    assert "Before training: <strong>worth_distilling</strong>: so. The verdict was right.</p>" in page
    assert '<td>student</td><td>R-SFT</td><td class="n">40</td><td class="n">62.5 ± 7.8</td>' in page
    assert "No share is given: the team&#39;s gain is not clearly above zero" in page
    assert "Not run." not in page
    drawn = [json.loads(text) for text in re.findall(r'class="figure"[^>]*>(.*?)</script>', page)]
    assert [[trace["name"] for trace in chart["data"]] for chart in drawn] == [
        ["best member", "vote", "team", "student"]
    ] * 2
    assert drawn[0]["data"][3]["x"] == [10.0, 10.0]
    cards = [str(results / name / "ark.json") for name in ("denoise", "<b>")]
    assert ark_card.main(["--merge", *cards, "--output", str(results / "ark")]) == 0
    assert entry.main(["--results", str(results), "--output", str(tmp_path / "all")]) == 0
    page = (tmp_path / "all" / "index.html").read_text()
    assert page.count("<h3>") == 2, "each cell once"
    assert "Rank correlation (Spearman)" in page


def test_a_broken_ark_card_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    ark_card.main(
        ["--name", "x", "--rows", *ark_cases.files(tmp_path), *ark_cases.ROLES, "--output", str(results / "ark")]
    )
    (results / "broken").mkdir()
    (results / "broken" / "ark.json").write_text('{"cells": [{}]}')
    (results / "other").mkdir()
    (results / "other" / "ark.json").write_text('{"animals": 2}')
    assert entry.main(["--results", str(results), "--output", str(tmp_path / "r")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(r"broken/ark\.json: is not an ark card", line)
