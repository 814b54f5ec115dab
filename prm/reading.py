"""Labelled solutions for the reward model: steps with labels, from every kind of file that has verdicts or step labels.

A label is 1 (right), 0 (wrong) or -100 (nobody knows).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from agentark.rows import UNKNOWN, Candidate, Question, kind, question_key, questions
from agentark.types import UserError
from prm.steps import StepCodec

IGNORED = UNKNOWN
StepLabel = Literal["inherit", "judge"]


class Solved(Struct, frozen=True):
    """A solution with the labels of its steps."""

    id: str
    question: str
    """Key of its question: the same for the same prompt."""
    prompt: str
    steps: tuple[str, ...]
    labels: tuple[int, ...]


def solutions(source: str, codec: StepCodec, label: StepLabel, dropped: Counter[str], flag: str,
              split: str = "train") -> Iterator[tuple[str, Solved]]:  # fmt: skip
    """(id of the question, solution) of every labelled solution; what has no verdict or no step is counted instead.

    Args:
        label: `inherit`: every step has its solution's verdict; `judge`: the row's `step_labels`. Rows of the stepwise
            kind bring their own labels.

    Raises:
        UserError: a row of no known kind, or labels of the wrong number or type.
    """
    if Path(source).is_file() and kind(Path(source), flag) == "results":
        raise UserError(f"{flag} {source}: results without verdicts; run python label.py --input {source} first")
    for question in questions(source, flag, split):
        name = question.id or f"prompt/{question.key}"
        if question.error is not None:
            dropped["rows with an error"] += 1
            continue
        kept = []
        for candidate in question.candidates:
            steps, labels = _labelled(question, candidate, codec, label, dropped)
            if steps:
                number = candidate.id if candidate.steps is None else question_key("\n\n".join(steps))[:8]
                kept.append(Solved(f"{name}#{number}", question.key, question.prompt, steps, labels))
        if codec.settings.step_unit == "solution" and kept and question.candidates[0].steps is None:
            joined = tuple(step for one in kept for step in one.steps)
            labels = tuple(label for one in kept for label in one.labels)
            kept = [Solved(name, question.key, question.prompt, joined, labels)]
        for one in kept:
            yield name, one


def _labelled(
    question: Question, candidate: Candidate, codec: StepCodec, label: StepLabel, dropped: Counter[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(steps, their labels) of a solution; no steps, and the reason counted, where it cannot be learnt from."""
    if candidate.steps is not None:
        return _stepwise(question, candidate, codec, dropped)
    steps = tuple(codec.steps(candidate.text))
    if not steps:
        dropped["without a step"] += 1
    elif label == "judge" and candidate.step_labels is None:
        dropped["without step labels"] += 1
    elif label == "judge":
        return steps, _numbers(
            question.where, candidate.step_labels, len(steps), f"'step_labels' of solution {candidate.id}"
        )
    elif candidate.verdict is None:
        dropped["without a verdict"] += 1
    else:
        return steps, (int(candidate.verdict),) * len(steps)
    return (), ()


def _stepwise(
    question: Question, candidate: Candidate, codec: StepCodec, dropped: Counter[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    steps = candidate.steps or ()
    labels = _numbers(question.where, candidate.step_labels, len(steps), "'labels'")
    if not steps or not all(steps):
        dropped["without a step"] += 1
        return (), ()
    if codec.settings.step_unit == "solution":
        steps, labels = ("\n\n".join(steps),), (min(labels),)
    if set(labels) <= {IGNORED}:
        dropped["without a verdict"] += 1
        return (), ()
    return steps, labels


def _numbers(where: str, verdicts: Sequence[bool | None] | None, count: int, what: str) -> tuple[int, ...]:
    """Verdicts of steps as 1, 0 and -100."""
    if verdicts is None or len(verdicts) != count:
        size = "none" if verdicts is None else f"{len(verdicts)} of them"
        raise UserError(f"{where}: {what} must be a list of {count}, one per step; found {size}")
    return tuple(IGNORED if verdict is None else int(verdict) for verdict in verdicts)
