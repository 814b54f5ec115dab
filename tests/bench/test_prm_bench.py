"""The reward model's benchmark at its smallest."""

import json
import re
from pathlib import Path

import pytest

from bench import prm_bench


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
