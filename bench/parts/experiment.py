"""The parts that the two learning experiments share: flags, commands, table."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentark import cli
from bench.parts import report


def parser(doc: str | None) -> cli.Parser:
    flags = report.parser(doc)
    flags.add_argument("--output", type=Path, required=True)
    flags.add_argument("--seed", type=cli.integer(0), default=0)
    return flags


def words(flags: Mapping[str, Any]) -> list[str]:
    """A command line."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def run(*command: object) -> None:
    """Run one of our commands in the repository's root."""
    print("$ python", *command, flush=True)
    subprocess.run([sys.executable, *map(str, command)], cwd=report.ROOT, check=True)


def metrics(folder: Path) -> dict[str, Any]:
    """The manifest of a training run."""
    figures: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    return figures


def save_table(rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    (output / "table.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
