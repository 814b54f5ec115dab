"""The measurement of a command's phases, on a script that takes known times."""

import subprocess
import sys
from pathlib import Path

import pytest

from agentark.types import UserError
from bench.command_bench import Phases, command_of, compared, main, measured, medians

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


def test_every_other_command_is_compared_with_ours_repetition_by_repetition() -> None:
    every = {"ours": [Phases(1, 5, 0), Phases(2, 5, 0)], "--flag x": [Phases(2, 10, 0), Phases(2, 10, 0)]}
    own, start, run, command = compared(8, every)
    assert own.name == "8 debates: command over its run"
    assert own.ratio == pytest.approx(6.5 / 5)
    assert (start.name, start.ratio, start.spread) == ("8 debates, start: --flag x over ours", 1.5, (1.0, 2.0))
    assert (run.ratio, run.baseline, run.ours) == (2.0, 10, 5)
    assert command.spread == pytest.approx((12 / 7, 2.0))


def test_a_variant_runs_beside_ours_with_its_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], output: Path, checkout: Path) -> Phases:
        ran.append(command[command.index("--output_path") - 4 : command.index("--output_path")])
        return Phases(1, 1, 1)

    monkeypatch.setattr("bench.command_bench.measured", run)
    words = ["--flags", "--method_config num_agents=5", "--variant", "--dtype float32"]
    assert main(["--samples", "2", *words, "--json", str(tmp_path / "out.json")]) == 0
    assert ran == [
        ["--max_samples", "2", "--method_config", "num_agents=5"],
        ["--method_config", "num_agents=5", "--dtype", "float32"],
    ]


@pytest.mark.parametrize("flag", ["--flags", "--variant"])
def test_flags_that_no_shell_could_read_are_refused(flag: str) -> None:
    with pytest.raises(UserError, match=rf"{flag}: .* cannot be read as flags \(No closing quot"):
        main([flag, "--dtype 'float32"])
