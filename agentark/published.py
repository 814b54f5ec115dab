"""Reading rows that other code wrote: results of the published code, and labelled solutions.

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
from pathlib import Path
from typing import Any

import msgspec

from agentark import answers
from agentark.tasks import Task
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


def read_published(path: Path, task: Task) -> list[Record]:
    """The rows of a file as records of `task`.

    Raises:
        UserError: a row that is no JSON object, or lacks query, gold answer or both response and solutions.
    """
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}, row {number}: not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}: expected an object, found a {type(row).__name__}")
        records.append(_record(row, number, path, task))
    return records


def _record(row: Mapping[str, Any], number: int, path: Path, task: Task) -> Record:
    missing = [key for key in ("query", "gt") if not isinstance(row.get(key), str | int | float)]
    if missing:
        raise UserError(f"{path}, row {number}: no {missing[0]!r}; neither a record nor a row of the published code")
    gold = _gold(str(row["gt"]))
    texts = _texts(row)
    model = str(row.get("model") or next(iter(row.get("token_stats") or {}), "unknown"))
    turns = [_turn(index, text, model) for index, text in enumerate(texts, 1)]
    return Record(
        schema=SCHEMA,
        id=str(row.get("id") or f"{task.name}/{PUBLISHED}/{number - 1}"),
        source=str(row.get("source") or task.name),
        query=str(row["query"]),
        gt=gold,
        method=MethodInfo(PUBLISHED, "", {}),
        model=model,
        guarantee="engine",
        answer_type=_answer_type(task, gold),
        tag=str(row["tag"]) if row.get("tag") else None,
        trajectory=turns,
        solutions=[Solution(id=index, agent=turn.agent, round=1, turn=turn.id) for index, turn in enumerate(turns, 1)],
        token_stats=_token_stats(row.get("token_stats")),
        error=str(row["error"]) if row.get("error") else None,
    )


def _gold(text: str) -> str:
    """The gold answer of a row whose `gt` may hold the whole worked solution, as GSM8K's and MATH's do."""
    if "####" in text:
        return text.rpartition("####")[2].strip()
    boxed = answers.boxes(text)
    return boxed[-1] if boxed else text.strip()


def _texts(row: Mapping[str, Any]) -> Sequence[str]:
    solutions = row.get("solutions")
    if isinstance(solutions, list):
        return [str(one["text"]) for one in solutions if isinstance(one, dict) and isinstance(one.get("text"), str)]
    response = row.get("response")
    return split_response(response) if isinstance(response, str) else []


def _turn(index: int, text: str, model: str) -> Turn:
    reply = Completion(text=text, finish_reason="stop", prompt_tokens=0, completion_tokens=0, model=model, seconds=0.0)
    return Turn(
        id=f"agent_{index}/1/solver", agent=f"agent_{index}", round=1, role="solver", messages=(), completion=reply
    )


def _answer_type(task: Task, gold: str) -> AnswerType:
    """The published rows do not say; the task and the gold answer do."""
    if task.grader == "math":
        return "number" if re.fullmatch(r"-?[0-9.,/]+", gold) else "math"
    return "text" if task.kind == "software" else task.kind


def _token_stats(stats: Any) -> dict[str, TokenStats]:
    """Per model, where the row has them in the published form."""
    try:
        return msgspec.convert(
            {
                model: {
                    "num_llm_calls": one.get("num_llm_calls", 0),
                    "prompt_tokens": one.get("prompt_tokens", 0),
                    "completion_tokens": one.get("completion_tokens", 0),
                    "cached_tokens": None,
                }
                for model, one in (stats or {}).items()
            },
            dict[str, TokenStats],
        )
    except (AttributeError, msgspec.ValidationError):
        return {}
