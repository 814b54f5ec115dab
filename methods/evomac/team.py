"""The two teams of EvoMAC, as read from their organisers' replies, and the testers' assertions."""

import ast
from typing import Annotated, Any

from msgspec import Meta, Struct

from agentark.code_grading import PYTHON, fenced
from methods.common import object_schema, read_json

Line = Annotated[str, Meta(min_length=1)]
TEXT: dict[str, Any] = {"type": "string", "minLength": 1}


class Subtask(Struct, frozen=True):
    """The task of one coder."""

    task: Line
    after: list[int] = []
    """1-based numbers of the earlier subtasks it builds on."""


class Team(Struct, frozen=True):
    """The coding team."""

    subtasks: Annotated[list[Subtask], Meta(min_length=1)]


class Tests(Struct, frozen=True):
    """The testing team."""

    tasks: Annotated[list[Line], Meta(min_length=1)]


def team_schema(most: int) -> dict[str, Any]:
    """JSON schema of a Team."""
    earlier = {"type": "integer", "minimum": 1, "maximum": most}
    subtask = object_schema(task=TEXT, after={"type": "array", "items": earlier})
    return object_schema(subtasks=_some(subtask, most))


def tests_schema(most: int) -> dict[str, Any]:
    """JSON schema of Tests."""
    return object_schema(tasks=_some(TEXT, most))


def _some(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def parse_team(text: str, most: int) -> Team | None:
    """The team of a reply; None when it cannot be read, is too large, or a subtask waits for itself or a later one."""
    team = read_json(text, Team)
    if team is None or len(team.subtasks) > most:
        return None
    ordered = all(0 < number < at for at, subtask in enumerate(team.subtasks, 1) for number in subtask.after)
    return team if ordered else None


def parse_tests(text: str, most: int) -> Tests | None:
    tests = read_json(text, Tests)
    return tests if tests is not None and len(tests.tasks) <= most else None


def parse_assertions(text: str) -> str | None:
    """The Python blocks with assertions in a reply, if they are Python."""
    code = "\n".join(block for language, block in fenced(text) if language in PYTHON and "assert" in block)
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return code or None


def team_text(team: Team) -> str:
    lines = []
    for number, subtask in enumerate(team.subtasks, 1):
        after = f" (after {', '.join(map(str, subtask.after))})" if subtask.after else ""
        lines.append(f"{number}. {subtask.task}{after}")
    return "\n".join(lines)
