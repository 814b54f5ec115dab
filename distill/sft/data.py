"""The rows a student is trained on: read, and fitted to its context."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentark import chat_template
from agentark.jsonl import decoded
from agentark.types import UserError


class Chat(Struct, frozen=True):
    """One message."""

    role: str
    content: str


class TrainRow(Struct, frozen=True):
    """The fields of a row that training reads."""

    id: str
    prompt: list[Chat]
    completion: list[Chat]


def read_rows(path: Path) -> list[TrainRow]:
    """The rows of a training set.

    Raises:
        UserError: the file is missing or empty, or a row is not a prompt-completion chat with an id.
    """
    name = f"--train_data_path {path}"
    what = "a row of distill.select: id, prompt and completion as lists of messages"
    rows = list(decoded(path, TrainRow, what, name))
    if not rows:
        raise UserError(f"{name}: the file is empty")
    if bare := [row.id for row in rows if not (row.prompt and row.completion)]:
        raise UserError(f"{name}: row {bare[0]!r} has no message in its prompt or completion")
    return rows


def fit(rows: list[TrainRow], tokenizer: Any, limit: int, cut: bool) -> tuple[list[TrainRow], dict[str, int]]:
    """(the rows to train on, the number that were too long).

    Raises:
        UserError: every row is too long.
    """
    chats = [msgspec.to_builtins([*row.prompt, *row.completion]) for row in rows]
    lengths = [len(chat_template.ids(tokenizer, chat, complete=True)) for chat in chats]
    longer = sum(length > limit for length in lengths)
    kept = rows if cut else [row for row, length in zip(rows, lengths, strict=True) if length <= limit]
    if not kept:
        raise UserError(
            f"--max_length {limit}: every row is longer (the shortest: {min(lengths)} tokens); raise it, or use "
            "--too_long cut"
        )
    return kept, {"rows": len(kept), "cut": longer if cut else 0, "dropped": 0 if cut else longer}


def shown_example(row: dict[str, Any], tokenizer: Any) -> str:
    """A tokenised row as text; >>> and <<< enclose the part that the loss covers."""
    learnt = [label != -100 for label in row["labels"]]
    first = learnt.index(True)
    last = len(learnt) - learnt[::-1].index(True)
    pieces = [tokenizer.decode(row["input_ids"][a:b]) for a, b in ((0, first), (first, last), (last, None))]
    return f"an example; the loss is on what stands between >>> and <<<:\n{pieces[0]}>>>{pieces[1]}<<<{pieces[2]}"
