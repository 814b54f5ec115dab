"""The first look: its commands, its figures from the records, and the model that stands in."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from script_parsers import module_of, parsed, script_and_flags

from agentark import embedded, quickstart
from agentark.quickstart import METHODS, next_steps, run_flags
from agentark.records import read_records
from agentark.types import UserError

ROOT = Path(__file__).parents[2]
DRIVER = f"""
    import sys
    sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
    from fakes import ScriptedEngine
    import inference
    from agentark import cli
    from agentark.engines.choose import Choice
    cli.entry(lambda: inference.main(choose_engine=lambda args, name: Choice(name, lambda lock: ScriptedEngine())))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the scripted engine, and a model that needs no download."""
    (tmp_path / "driver.py").write_text(textwrap.dedent(DRIVER))
    monkeypatch.setattr(quickstart, "SCRIPT", tmp_path / "driver.py")
    monkeypatch.setattr(quickstart, "prepare", lambda name: tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("data", [False, True])
def test_every_figure_comes_from_the_records(
    data: bool, here: Path, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    flags = ["--data_dir", str(request.getfixturevalue("data_dir"))] if data else []
    assert quickstart.main(flags) == 0
    printed = capfd.readouterr().out
    folder = here / "results" / ("SVAMP" if data else "ChainSum") / embedded.THINKING
    for method, calls in zip(METHODS, (1, 5, 7), strict=True):
        records = list(read_records(folder / f"{method}_infer.jsonl"))
        assert [len(record.trajectory) for record in records] == [calls] * 8
        tokens = sum(turn.completion.completion_tokens for record in records for turn in record.trajectory)
        row = next(line for line in printed.splitlines() if line.startswith(method))
        right = re.fullmatch(rf"{method} +(\d) of 8 +(0\.\d\d|1\.00) +0\.\d\d to \d\.\d\d +{calls}\.0 +([\d.]+)", row)
        assert right, row
        assert float(right[2]) == pytest.approx(int(right[1]) / 8, abs=0.006)
        assert float(right[3]) == pytest.approx(tokens / 8, abs=0.06)
    assert printed.startswith("$ python inference.py --method_name vanilla self_consistency llm_debate ")
    assert "changed its answer" in printed
    assert "-- round 2 | agent_1 | debater" in printed
    for command in printed.partition("To try next:\n")[2].strip().splitlines():
        script, words = script_and_flags(command)
        parsed(script, words)


def test_a_second_look_only_reads(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quickstart.main([])
    first = capfd.readouterr().out
    results = {file: file.read_bytes() for file in (here / "results").rglob("*.jsonl")}
    quickstart.main([])
    assert capfd.readouterr().out == first
    assert {file: file.read_bytes() for file in (here / "results").rglob("*.jsonl")} == results


def test_the_small_model_stands_in_with_one_line(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str) -> Path:
        raise UserError("model 'q' needs q.gguf once (491 MB), and it cannot be had")

    monkeypatch.setattr(quickstart, "prepare", refused)
    assert quickstart.main([]) == 0
    first, command = capfd.readouterr().out.split("\n$ ")
    assert (
        first
        == f"using {embedded.EMBEDDED} instead, which solves few problems: model 'q' needs q.gguf once (491 MB), "
        + ("and it cannot be had")
    )
    assert f"--model_name {embedded.EMBEDDED} --use_vllm" in command


def test_a_run_that_fails_is_one_line(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "driver.py").write_text("import sys; sys.exit('error: no engine')")
    with pytest.raises(UserError, match=r"inference\.py ended with exit code 1"):
        quickstart.main([])
    with pytest.raises(UserError, match=r"--data_dir .*: no svamp_test.jsonl in it"):
        quickstart.main(["--data_dir", str(here)])


def test_its_commands_are_taken() -> None:
    for data_dir in (None, Path("data")):
        parsed("inference.py", run_flags(embedded.THINKING, data_dir))
    for command in next_steps(Path("results/a_infer.jsonl"), "SVAMP"):
        script, words = script_and_flags(command)
        parsed(script, words)


def test_the_makefile_calls_it() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", ".venv/.agentark-stack", "quickstart", "DATA_DIR=some folder"],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip().endswith('.venv/bin/python -m agentark.quickstart --data_dir "some folder"')
    assert module_of("agentark.quickstart") is sys.modules["agentark.quickstart"]
