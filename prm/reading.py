"""Read labelled solutions for the reward model, from every kind of file with verdicts or step labels.

A label is 1 (right), 0 (wrong) or -100 (unknown).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from agentark.rows import UNKNOWN, Candidate, kind, question_key, questions
from agentark.types import UserError
from prm.steps import StepCodec

IGNORED = UNKNOWN
StepLabel = Literal["inherit", "judge"]
Overlong = Literal["cut", "drop"]


class Solved(Struct, frozen=True):
    """A solution with the labels of its steps."""

    id: str
    question: str
    """Key of the question: the same for the same prompt."""
    prompt: str
    steps: tuple[str, ...]
    labels: tuple[int, ...]


def solutions(source: str, codec: StepCodec, label: StepLabel, dropped: Counter[str], flag: str,
              split: str = "train") -> Iterator[tuple[str, Solved]]:  # fmt: skip
    """(id of the question, solution) for every labelled solution; solutions without verdict or steps are only counted.

    Args:
        label: `inherit`: every step has its solution's verdict; `judge`: the row's `step_labels`. Rows of the stepwise
            kind bring their own labels.

    Raises:
        UserError: a row is of no known kind, or its labels have the wrong number or type.
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
            learnt = _learnt(question.where, candidate, codec, label)
            if isinstance(learnt, str):
                dropped[learnt] += 1
                continue
            steps, labels = learnt
            number = candidate.id if candidate.steps is None else question_key("\n\n".join(steps))[:8]
            kept.append(Solved(f"{name}#{number}", question.key, question.prompt, steps, labels))
        if codec.settings.step_unit == "solution" and kept and question.candidates[0].steps is None:
            joined = tuple(step for solved in kept for step in solved.steps)
            labels = tuple(label for solved in kept for label in solved.labels)
            kept = [Solved(name, question.key, question.prompt, joined, labels)]
        for solved in kept:
            yield name, solved


def _learnt(
    where: str, candidate: Candidate, codec: StepCodec, label: StepLabel
) -> tuple[tuple[str, ...], tuple[int, ...]] | str:
    """(steps, their labels) of a solution, or why it is left out."""
    is_stepwise = candidate.steps is not None
    steps = candidate.steps if candidate.steps is not None else tuple(codec.steps(candidate.text))
    if not steps or not all(steps):
        return "without a step"
    verdicts = candidate.step_labels
    if not is_stepwise and label == "inherit":
        verdicts = [candidate.verdict] * len(steps)
    elif not is_stepwise and verdicts is None:
        return "without step labels"
    if verdicts is None or len(verdicts) != len(steps):
        what = "'labels'" if is_stepwise else f"'step_labels' of solution {candidate.id}"
        size = "none" if verdicts is None else f"{len(verdicts)} of them"
        raise UserError(f"{where}: {what} must be a list of {len(steps)}, one per step; found {size}")
    labels = tuple(IGNORED if verdict is None else int(verdict) for verdict in verdicts)
    if is_stepwise and codec.settings.step_unit == "solution":
        steps, labels = ("\n\n".join(steps),), (min(labels),)
    return (steps, labels) if set(labels) - {IGNORED} else "without a verdict"
