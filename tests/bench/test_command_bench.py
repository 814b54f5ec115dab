"""The measurement of a command's phases, on a script that takes known times."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.command_bench import Phases, command_of, measured, medians

SCRIPT = """
import pathlib, sys, time
output = pathlib.Path(sys.argv[sys.argv.index("--output_path") + 1])
time.sleep(0.3)
pathlib.Path(f"{output}.journal.jsonl").touch()
time.sleep(0.6)
pathlib.Path(f"{output}.manifest.json").touch()
time.sleep(0.2)
"""


def test_the_phases_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "inference.py").write_text(SCRIPT)
    output = tmp_path / "out.jsonl"
    phases = measured(command_of(1, output, None), output, tmp_path)
    assert phases.start >= 0.3
    assert phases.run >= 0.5
    assert phases.exit >= 0.15
    assert phases.run < phases.command < 30


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        measured([sys.executable, "-c", "raise SystemExit('broken')"], tmp_path / "out.jsonl", tmp_path)
    assert b"broken" in failed.value.output


def test_medians_are_taken_of_each_phase() -> None:
    assert medians([Phases(1, 5, 3), Phases(2, 4, 9), Phases(9, 6, 1)]) == Phases(2, 5, 3)
