"""Rows of the published code as records.

The published code writes `{"query", "gt", "response", ...}`, its solutions in one string under headings:

    ===== Solution 1 =====
    ...
    ===== Solution 2 =====
    ...

or `Solution 1: ...`; a string without headings is one solution. Labelled rows carry `solutions: [{"text": ...}]`.
Both become records, so that nothing downstream knows where a row came from. What such a row cannot tell (finish
reasons, most token counts) stays empty: `method.name` is then `published`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agentark import answers
from agentark.golds import answer_in, type_of
from agentark.tasks import TASKS, Task, get_task
from agentark.types import (
    SCHEMA,
    AnswerType,
    Completion,
    MethodInfo,
    Record,
    Solution,
    TokenStats,
    Turn,
    UserError,
)

PUBLISHED = "published"
"""Method name of records made from rows of other code."""
UNKNOWN = "unknown"
"""Source of a row that was not graded and does not name its own."""

_HEADINGS = (
    re.compile(r"^[ \t]*={3,}[ \t]*Solution[ \t]+\d+[ \t]*={3,}[ \t]*$", re.M),
    re.compile(r"^[ \t]*Solution[ \t]+\d+[ \t]*:", re.M),
)


def split_response(response: str) -> list[str]:
    """The solutions of a `response` string in the published layout; blank ones are kept, as empty strings."""
    for heading in _HEADINGS:
        pieces = heading.split(response)
        if len(pieces) > 1 and not pieces[0].strip():
            return [piece.strip() for piece in pieces[1:]]
    return [response.strip()] if response.strip() else []


def own_id(row: Mapping[str, Any]) -> str | None:
    """The id that a row gives itself; 0 counts as one, a blank does not."""
    return None if row.get("id") in (None, "") else str(row["id"])


def record_of(row: Mapping[str, Any], texts: Sequence[str], number: int, where: str, task: Task | None) -> Record:
    """A row as a record.

    Args:
        texts: of its solutions.
        number: of the row, from 0.
        where: place of the row, for error messages.
        task: dataset of the questions; None: the row itself says.

    Raises:
        UserError: no question or no gold answer.
    """
    missing = [key for key in ("query", "gt") if not isinstance(row.get(key), str | int | float)]
    if missing:
        raise UserError(f"{where}: no {missing[0]!r}; neither a record nor a row of the published code")
    source = str(row.get("source") or (task.name if task else UNKNOWN))
    if task is None and source in TASKS:
        task = get_task(source)
    gold, answer_type, choices = _gold(row, task, where)
    model = str(row.get("model") or next(iter(row.get("token_stats") or {}), "unknown"))
    turns = [_turn(index, text, model) for index, text in enumerate(texts, 1)]
    return Record(
        schema=SCHEMA,
        id=own_id(row) or f"{task.name if task else UNKNOWN}/{PUBLISHED}/{number}",
        source=source,
        query=str(row["query"]),
        gt=gold,
        method=MethodInfo(PUBLISHED, "", {}),
        model=model,
        guarantee="engine",
        answer_type=answer_type,
        choices=choices,
        tag=str(row["tag"]) if row.get("tag") else None,
        trajectory=turns,
        solutions=[Solution(id=index, agent=turn.agent, round=1, turn=turn.id) for index, turn in enumerate(turns, 1)],
        token_stats=_token_stats(row.get("token_stats")),
        error=str(row["error"]) if row.get("error") else None,
    )


def _turn(index: int, text: str, model: str) -> Turn:
    reply = Completion(text=text, finish_reason="stop", prompt_tokens=0, completion_tokens=0, model=model, seconds=0.0)
    return Turn(
        id=f"agent_{index}/1/solver", agent=f"agent_{index}", round=1, role="solver", messages=(), completion=reply
    )


def _gold(row: Mapping[str, Any], task: Task | None, where: str) -> tuple[str, AnswerType, tuple[str, ...] | None]:
    """(gold answer, its type, the options) of a row. The task says the type; where none is known, the gold answer."""
    text, query = str(row["gt"]), str(row["query"])
    if task is None:
        alone = answer_in(text)
        return alone, type_of(alone, query, row) or "text", None
    answer_type = answer_type_of(task, row)
    choices = answers.options_in(query) if answer_type == "choice" else None
    gold = answers.gold(text, answer_type, choices)
    if gold is not None or not text.strip():
        return gold or "", answer_type, choices
    if answer_type == "choice":
        return text.strip(), "text", None
    raise UserError(f"{where}: the gold answer {text!r:.60} cannot be read as a {answer_type}, as {task.name} has them")


def answer_type_of(task: Task, row: Mapping[str, Any]) -> AnswerType:
    """Type of the answers to a task's questions. MetaMathQA has two, and each row tells which."""
    if task.name == "MetaMathQA" and str(row.get("type") or row.get("tag")).startswith("MATH_"):
        return "math"
    return "text" if task.kind == "software" else task.kind


def _token_stats(used: Any) -> dict[str, TokenStats]:
    """Per model, where the row has them in the published form, which has no prefix cache."""
    try:
        stats = msgspec.convert(used or {}, dict[str, TokenStats])
    except msgspec.ValidationError:
        return {}
    return {model: msgspec.structs.replace(spent, cached_tokens=None) for model, spent in stats.items()}
