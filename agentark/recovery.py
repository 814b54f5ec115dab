"""Right solutions with a wrong first step: does a model that goes on from there still come to the right answer?"""

import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from agentark import answers, stats
from agentark.evaluation import graded_solutions
from agentark.files import struct_of
from agentark.steps import step_spans
from agentark.tasks import Task
from agentark.types import Record, Sample, UserError, digest

KIND = "what eval.recovery writes"
NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")


class Planted(Struct, frozen=True):
    """The beginning of a right solution: its first step as it was, and with a wrong number."""

    sample: Sample
    right: str
    wrong: str


def planted(records: Iterable[Record], task: Task, seed: int) -> list[Planted]:
    """Of each question's right solutions the first that has a first step with a number and something after it. Blocks.

    Args:
        seed: of the change, which is one up or one down.
    """
    candidates = [(record.sample(), text) for record in records for text in _replies(record)]
    scores = task.score_many(candidates)
    found: dict[str, Planted] = {}
    for (sample, text), score in zip(candidates, scores, strict=True):
        if score == 1.0 and sample.id not in found and (beginning := begin(text, digest((seed, sample.id)))):
            found[sample.id] = Planted(sample, *beginning)
    return list(found.values())


def _replies(record: Record) -> Sequence[str]:
    """The visible texts of a record's solutions, the method's own answer first."""
    if record.error is not None:
        return ()
    texts = {turn.id: turn.text for turn in record.trajectory}
    own = graded_solutions(record)
    shown = [answers.visible(texts[one.turn]) for one in [*own, *(one for one in record.solutions if one not in own)]]
    return [text for text in shown if text is not None]


def begin(text: str, seed: str) -> tuple[str, str] | None:
    """(the first step, the same with its last number changed by one), each up to the second step.

    None: the solution has a single step, or no number in its first one.
    """
    spans = step_spans(text)
    if len(spans) < 2:
        return None
    (start, end), (second, _) = spans[:2]
    numbers = [*NUMBER.finditer(text, start, end)]
    if not numbers:
        return None
    last = numbers[-1]
    changed = text[: last.start()] + off_by_one(last.group(), seed) + text[last.end() : second]
    return text[:second], changed


def off_by_one(number: str, seed: str) -> str:
    """A number of as many digits, one more or one less."""
    whole, point, fraction = number.partition(".")
    plain = whole.replace(",", "")
    value, steps = int(plain), [-1, 1]
    random.Random(seed).shuffle(steps)
    changed = [str(value + step).zfill(len(plain) if plain[0] == "0" else 0) for step in steps if value + step >= 0]
    text = next(each for each in changed if len(each) == len(plain))  # 10 goes up, 99 goes down
    return (f"{int(text):,}" if "," in whole else text) + point + fraction


class Reached(Struct, frozen=True, kw_only=True):
    """How often a model came to the right answer."""

    value: float
    n: int
    se: float | None
    low: float
    high: float
    """95% interval."""


class Recovery(Struct, frozen=True, kw_only=True):
    """How a model goes on from solutions that others began."""

    model: str
    dataset: str
    after_wrong: Reached
    """From a wrong first step."""
    after_right: Reached
    """From the first step as it was."""

    @property
    def ways(self) -> tuple[Reached, Reached]:
        return self.after_wrong, self.after_right


def reached(scores: Sequence[float | None]) -> Reached:
    """Of one score for each question, at least one; None counts as wrong."""
    values = [score or 0.0 for score in scores]
    value, se = stats.mean_and_se(values)
    low, high = stats.interval(values, range(len(values)))
    return Reached(value=value, n=len(values), se=se, low=low, high=high)


def read_recovery(path: Path) -> Recovery:
    """What eval.recovery wrote. Raises UserError when it is missing or something else."""
    try:
        return struct_of(path, Recovery, KIND)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; python -m eval.recovery writes it") from None
