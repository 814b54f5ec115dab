"""Every command of the documents is one that its script takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from script_parsers import module_of, parsed, script_and_flags

from agentark.types import UserError

ROOT = Path(__file__).parents[1]
SEED = sorted((ROOT.parent / "shared" / "seed").glob("*.txt"))
LISTINGS = ("methods", "agentark.engines")
"""Modules that take words, not flags; other tests run them."""


def commands(text: str) -> Iterator[str]:
    """The python commands of a document: in blocks, and between single backticks."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        if (
            re.match(r"\s*(\w+=\S+ )?python (-m )?[\w./]+", line)
            and "<" not in line
            and not line.startswith("python -m distill.grpo.")
        ):
            yield line.strip()
    yield from re.findall(r"(?<!`)`(python [^`]+)`(?!`)", text)


def documents() -> list[object]:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *SEED]
    return [
        pytest.param(line, id=f"{file.name[:6]}: {line[:60]}") for file in files for line in commands(file.read_text())
    ]


@pytest.mark.parametrize("line", documents())
def test_a_documented_command_is_taken(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    script, flags = script_and_flags(line.replace("\n", " "))
    if script not in LISTINGS:
        parsed(script, flags) if flags and flags != ["--help"] else module_of(script)


GOOD = "--method_name cot --test_dataset_name MATH --model_name m"


@pytest.mark.parametrize(
    ("script", "flags"), [("inference.py", GOOD), ("eval.cost_fair", "--dataset_name ChainSum --model_name m")]
)
def test_a_command_that_is_wrong_is_found(script: str, flags: str) -> None:
    parsed(script, shlex.split(flags))
    with pytest.raises(UserError, match="unknown argument --model_names"):
        parsed(script, shlex.split(f"{flags} --model_names m"))


def test_there_are_commands() -> None:
    assert len(list(commands((ROOT / "README.md").read_text()))) > 30
