"""The report's benchmark at small size, in the real browser."""

import json
from pathlib import Path

import pytest

from bench import report_bench as bench
from bench.table import FIELDS


@pytest.mark.skipif(bench.CHROMIUM is None, reason="no Chromium here (set CHROMIUM, or install one)")
def test_the_ratios_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = tmp_path / "bench" / "report.json"
    sizes = ["--samples", "40", "--baseline", "10", "--words", "8", "--repeats", "2"]
    assert bench.main([*sizes, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["name"].partition(":")[0] for row in rows] == [
        "report, first view", "report, open a sample", "report, slowest search",
    ]  # fmt: skip
    assert all(row.keys() >= FIELDS and row["ours"] > 0 for row in rows)
    assert "40 samples: built in" in capsys.readouterr().out
