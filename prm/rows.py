"""Questions with solutions to be scored, from every kind of file that has them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentark.labels import LabelRow
from agentark.published import split_response
from agentark.steps import one_step
from agentark.types import AnswerType, Record, UserError
from prm.reading import question_key, read

AGGREGATORS = {"aggregator", "moderator", "judge", "extractor"}
"""Agents whose solution, after those of others, is the method's own answer."""


class Candidate(Struct, frozen=True):
    """A solution."""

    id: int
    text: str
    answer: str | None = None
    verdict: bool | None = None
    aggregate: bool = False
    """The method's own answer, made of the others': to be scored, but not to be chosen among them."""


class Question(Struct, frozen=True):
    """A question with its solutions."""

    id: str
    prompt: str
    """As a user would put it, document and answer format included."""
    candidates: tuple[Candidate, ...]
    answer_type: AnswerType = "math"


def questions(path: Path, flag: str) -> Iterator[Question]:
    """Rows of a results file, a labelled file (ours or published), or a stepwise file; rows with an error are left out.

    Raises:
        UserError: no such file, or a row of no known kind.
    """
    if not path.is_file():
        raise UserError(f"{flag} {path}: no such file")
    for where, row in read(str(path), flag):
        if row.get("error") is None:
            yield _question(where, row)


def _question(where: str, row: Mapping[str, Any]) -> Question:
    try:
        if "labels_schema" in row:
            ours = msgspec.convert(row, LabelRow)
            found = [
                Candidate(one.id, one.text, one.answer, one.verdict, one.agent in AGGREGATORS) for one in ours.solutions
            ]
            return Question(ours.id, ours.prompt, tuple(found), ours.answer_type)
        if "trajectory" in row:
            record = msgspec.convert(row, Record)
            texts = {turn.id: turn.text for turn in record.trajectory}
            found = [
                Candidate(one.id, texts[one.turn], one.answer, aggregate=one.agent in AGGREGATORS)
                for one in record.solutions
            ]
            prompt = record.sample().prompt
            return Question(record.id, prompt, tuple(found), record.answer_type)
        if isinstance(row.get("solutions"), list):
            found = [
                Candidate(number, one["text"], verdict=one.get("is_correct"))
                for number, one in enumerate(row["solutions"], 1)
            ]
            return Question(str(row.get("id") or question_key(row["query"])), row["query"], tuple(found))
        if "completions" in row:
            labels = row.get("labels") or []
            one = Candidate(1, "\n\n".join(map(one_step, row["completions"])), verdict=all(labels) if labels else None)
            return Question(question_key(row["prompt"] + one.text), row["prompt"], (one,))
        if isinstance(row.get("response"), str):
            found = [Candidate(number, text) for number, text in enumerate(split_response(row["response"]), 1)]
            return Question(str(row.get("id") or question_key(row["query"])), row["query"], tuple(found))
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise UserError(f"{where}: not a row with solutions ({type(error).__name__}: {error})") from None
    raise UserError(
        f"{where}: neither a results row, a labelled row nor a stepwise one; keys {', '.join(map(str, row))}"
    )
