"""The verdicts of `eval.team` on teams, read from the team.json that it writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from agentark.files import struct_of
from agentark.types import UserError

Verdict = Literal["worth_distilling", "distil_the_vote", "nothing_to_distil", "cannot_tell"]
"""See eval/team/verdict.py."""
KIND = "the team.json of eval.team"


class Judged(Struct, frozen=True):
    """A team, and what is said of it."""

    dataset: str
    team: str
    """Its method."""
    file: str
    """Its results."""
    verdict: Verdict
    words: str


class _Report(Struct, frozen=True):
    teams: list[Judged]


def read_verdicts(path: Path) -> list[Judged]:
    """All teams of a team.json, at least one.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    try:
        teams = struct_of(path, _Report, KIND).teams
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; python -m eval.team writes it") from None
    if not teams:
        raise UserError(f"{path}: is not {KIND} (it judges no team)")
    return teams


def verdict_on(teams: Sequence[Judged], results: str | None, vote: bool) -> Judged | None:
    """What is said of the team with this results file; None: nothing, or it is not clear what.

    Args:
        results: name of the file; None: unknown.
        vote: whether the team is the vote itself, which is judged beside other teams.
    """
    named = [one for one in teams if Path(one.file).name == results]
    if not named:
        named = [one for one in teams if vote and one.verdict == "distil_the_vote"][:1] or [*teams]
    return named[0] if len({one.verdict for one in named}) == 1 else None


def promising(verdict: Verdict, by_vote: bool) -> bool:
    """Whether students are said to gain.

    Args:
        by_vote: whether they learn from the vote.
    """
    return verdict == "worth_distilling" or (verdict == "distil_the_vote" and by_vote)
