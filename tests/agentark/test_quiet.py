"""Which messages of libraries are expected, and that all others are shown."""

import subprocess
import sys
from pathlib import Path

import pytest

from agentark import quiet

ROOT = Path(__file__).parents[2]
REPORT = """\x1b[1mLlamaForTokenClassification LOAD REPORT\x1b[0m from: /models/small
Key            | Status  |
---------------+---------+-
score.weight   | \x1b[31mMISSING\x1b[0m |
score.bias     | \x1b[31mMISSING\x1b[0m |
{more}
Notes:
- \x1b[31mMISSING:\x1b[0m those params were newly initialized because missing from the checkpoint."""


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", True),
        ("lm_head.weight | UNEXPECTED |", True),
        ("model.layers.0.mlp.up_proj.weight | MISSING |", False),
        ("model.norm.weight | UNEXPECTED |", False),
        ("score.weight | MISMATCH |", False),
    ],
)
def test_a_report_is_expected_when_only_the_head_is_new(more: str, expected: bool) -> None:
    assert quiet.new_head(REPORT.format(more=more)) == expected


def test_a_missing_accelerator_is_news_where_there_is_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it."
    monkeypatch.setattr(quiet, "NVIDIA", tmp_path / "version")
    assert quiet.no_accelerator(said)
    assert not quiet.no_accelerator("something else")
    (tmp_path / "version").write_text("NVRM version")
    assert not quiet.no_accelerator(said)


def test_the_libraries_own_loggers_are_filtered_and_show_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)  # transformers says all twice where it is set
    code = """
import sys
from agentark import cli

def main():
    from deepspeed.accelerator import get_accelerator
    from deepspeed.utils import logger
    get_accelerator()
    logger.warning("something else")
    from transformers import modeling_utils
    modeling_utils.logger.warning(sys.argv[1])
    modeling_utils.logger.warning("something transformers says")
    return 0

cli.entry(main)
"""
    command = [sys.executable, "-c", code, REPORT.format(more="")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = (done.stdout + done.stderr).strip().splitlines()
    assert [
        line.rpartition("] ")[2] for line in said if "Setting accelerator" not in line or quiet.NVIDIA.exists()
    ] == [
        "something else",
        "something transformers says",
    ]
    assert "Setting accelerator" not in done.stdout or quiet.NVIDIA.exists()
