"""Planted hangs neither stall the others nor change their verdicts (the bench does it with 10,000 pairs)."""

import json
from pathlib import Path

import pytest

from agentark import answers
from bench import grading_bench as bench
from bench.table import FIELDS


def test_hangs_do_not_change_other_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_TIMEOUT", 5.0)
    monkeypatch.setattr(answers, "_WORKERS", 2)
    pairs = bench.make_pairs(60, None)
    before, _ = bench.timed(pairs, 2)
    planted, places = bench.plant(pairs, 4)
    after, _ = bench.timed(planted, 2)
    assert len(places) == 4
    assert [verdict for place, verdict in enumerate(after) if place not in places] == before
    assert not any(after[place] for place in places)
    assert 10 < sum(before) < 60


def test_the_ratios_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench" / "grading.json"
    assert bench.main(["--pairs", "40", "--hangs", "0", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert len(rows) == 2
    assert all(row.keys() >= FIELDS for row in rows)
    assert rows[0]["ratio"] == pytest.approx(rows[0]["ours"] / rows[0]["baseline"])
    assert "0 other verdicts changed" in capsys.readouterr().out
