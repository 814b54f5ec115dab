"""Flags made from a config: the values they take, the result, and the messages for wrong values."""

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from agentark.cli import Parser
from agentark.config import Config
from agentark.flags import flags_of, settings_of
from agentark.types import UserError


class Settings(Config):
    """All the kinds of fields that flags know."""

    folder: Path
    """Where it goes."""
    rate: float = Field(0.5, gt=0, le=1)
    """Share of 100%."""
    rank: int | None = None
    """Rank."""
    stage: Literal["1", "2"] | None = None
    """Which stage."""
    names: list[str] = Field([])
    """Names."""
    quick: bool = False
    """Save time."""
    thinking: bool | None = None
    """Whether it thinks; default: as the model does."""


def read(line: str) -> Settings:
    parser = Parser()
    for name, reading in flags_of(Settings):
        parser.add_argument(f"--{name}", **reading)
    return settings_of(Settings, vars(parser.parse_args(line.split())))


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("", {}),
        ("--rate=0.25 --rank 4 --stage 2", {"rate": 0.25, "rank": 4, "stage": "2"}),
        ("--names a b --quick", {"names": ["a", "b"], "quick": True}),
        ("--quick False --thinking yes", {"quick": False, "thinking": True}),
        ("--quick=true --thinking 0 --names", {"quick": True, "thinking": False, "names": []}),
    ],
)
def test_flags_become_settings(line: str, changes: dict[str, Any]) -> None:
    assert read(f"--folder x {line}") == Settings(folder=Path("x"), **changes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--rate 1", r"--folder: is missing \(Where it goes\.\)"),
        ("--folder x --rate 2", r"rate = 2\.0: Input should be less than or equal to 1"),
        ("--folder x --rate nan", r"rate = nan"),
        ("--folder x --rank 1.5", r"argument --rank: '1\.5' is not a whole number"),
        ("--folder x --stage 3", r"argument --stage: invalid choice: '3' \(choose from '1', '2'\)"),
        ("--folder x --quick maybe", r"argument --quick: 'maybe' is neither True nor False"),
        ("--folder x --rte 1", r"unknown argument --rte \(did you mean --rate\?; see --help\)"),
        ("--folder x --zzz", r"unknown argument --zzz \(see --help\)"),
    ],
)
def test_bad_flags_are_one_line(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(line)
    assert "\n" not in str(caught.value)


def test_help_is_the_docstring_with_the_default() -> None:
    told = {name: reading["help"] for name, reading in flags_of(Settings)}
    assert (told["rate"], told["rank"]) == ("Share of 100%%. [0.5]", "Rank.")
