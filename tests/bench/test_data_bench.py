"""The benchmark of the data stages at small size."""

import json
from itertools import islice
from pathlib import Path

import pytest

from agentark.records import encoded, read_records
from bench import data_bench as bench
from bench.parts import debates
from bench.table import FIELDS


def test_the_ratios_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench" / "data.json"
    flags = ["--samples", "12", "--baseline", "6", "--stages", "label", "summary", "--folder", str(tmp_path)]
    assert bench.main([*flags, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["name"].partition(":")[0] for row in rows] == [
        "memory of label", "time a debate of label", "memory of summary", "time a debate of summary",
    ]  # fmt: skip
    assert all(row.keys() >= FIELDS and row["ours"] > 0 for row in rows)
    assert "12 debates, 1" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == [path.parent]  # the debates are gone


def test_the_same_number_is_the_same_debate(tmp_path: Path) -> None:
    size = debates.write(tmp_path / "a.jsonl", 5)
    assert size / 5 == pytest.approx(14_500, rel=0.1)
    written = [encoded(record) for record in read_records(tmp_path / "a.jsonl")]
    assert written == list(map(encoded, debates.debates(5)))
    assert written[3:] == list(map(encoded, islice(debates.debates(2, start=3), 2)))
