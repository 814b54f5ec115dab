"""A task whose wrong steps are known: chains of one-digit operations with planted errors.

Rows are those of a labelled file, with `step_labels`: 1 before the first wrong step, 0 from it on. A solution has a
step per operation, then a step that states the answer. Every question has right and wrong solutions; the steps after a
wrong step continue from its result without further mistakes.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDINGS = {
    "+": ("{a} + {b} = {c}", "{b} more than {a} is {c}."),
    "-": ("{a} - {b} = {c}", "{b} less than {a} is {c}."),
}
NAMES = {"+": "add", "-": "subtract"}
FAULTS = ("slip", "omission", "invention")
"""A wrong result; an operation left out, which shows at the step after it; an operation that was not asked for."""
OPERATIONS, LARGEST, PER_QUESTION, RIGHT = (2, 4), 2, 8, 2
"""Shape of the task that the learning experiments share; see `rows`."""
TRIES = 1000
"""Draws per wanted item, before we conclude that there are no more."""


def operation(value: int, largest: int, draw: random.Random) -> tuple[str, int]:
    """An operation whose result stays within 0 to 9."""
    sign = draw.choice([sign for sign, room in (("+", 9 - value), ("-", value)) if room])
    return sign, draw.randint(1, min(largest, 9 - value if sign == "+" else value))


def follow(
    value: int, operations: list[tuple[str, int]], fault: tuple[str, int] | None, largest: int, draw: random.Random
) -> list[str] | None:
    """The steps of a solution with a fault at an operation; None if a result would leave the range 0 to 9."""
    kind, at = fault or ("", -1)
    steps = []
    for index, (sign, amount) in enumerate(operations):
        if index == at and kind == "omission":
            if operations[at + 1 : at + 2] == [operations[at]]:
                return None  # the next step would repeat the left-out step
            continue
        if index == at and kind == "invention":
            sign, amount = operation(value, largest, draw)
            if (sign, amount) == operations[at]:
                return None
        result = value + amount if sign == "+" else value - amount
        if index == at and kind == "slip":
            result = draw.choice([digit for digit in range(10) if digit != result])
        if not 0 <= result <= 9:
            return None
        steps.append(draw.choice(WORDINGS[sign]).format(a=value, b=amount, c=result))
        value = result
    return [*steps, f"The answer is {value}."]


def question(
    number: int, draw: random.Random, count: int, right: int, least: int, most: int, largest: int, faults: Sequence[str]
) -> dict[str, Any]:
    """A row: a question with `count` different solutions, `right` of them right."""
    start = value = draw.randint(0, 9)
    operations = []
    for _ in range(draw.randint(least, most)):
        sign, amount = operation(value, largest, draw)
        operations.append((sign, amount))
        value = value + amount if sign == "+" else value - amount
    told = ", ".join(f"{NAMES[sign]} {amount}" for sign, amount in operations)
    solutions: list[dict[str, Any]] = []
    for _ in range(TRIES * count):
        if len(solutions) == count:
            break
        fault = None if len(solutions) < right else (draw.choice(faults), draw.randrange(len(operations)))
        steps = follow(start, operations, fault, largest, draw)
        text = "\n\n".join(steps or [])
        if steps is None or any(solution["text"] == text for solution in solutions):
            continue
        first = fault[1] if fault else len(steps)
        labels = [1] * first + [0] * (len(steps) - first)
        solutions.append({"text": text, "is_correct": fault is None, "step_labels": labels})
    if len(solutions) < count:
        raise ValueError(f"{len(operations)} operations have only {len(solutions)} different solutions, not {count}")
    draw.shuffle(solutions)
    solutions = [{"id": id, **solution} for id, solution in enumerate(solutions, 1)]
    return {
        "id": f"chains/{number}",
        "query": f"Start with {start}. Then {told}. What is the result?",
        "gt": str(value),
        "solutions": solutions,
        "labels": [solution["is_correct"] for solution in solutions],
    }


def rows(
    solutions: int, per_question: int, operations: tuple[int, int], seed: int, *, right: int | None = None,
    largest: int = 9, faults: Sequence[str] = ("slip",),
) -> list[dict[str, Any]]:  # fmt: skip
    """The data set; the same arguments give the same data. No question comes twice.

    Args:
        solutions: number of all; per_question: number per question, `right` of them (half) right.
        operations: fewest and most per question; largest: largest number that is added or subtracted.
        faults: kinds of faults; each wrong solution has one.

    Raises:
        ValueError: there are too few different questions, or too few solutions of a question.
    """
    draw = random.Random(seed)
    many = per_question // 2 if right is None else right
    questions: dict[str, dict[str, Any]] = {}
    wanted = solutions // per_question
    for _ in range(TRIES * wanted):
        if len(questions) == wanted:
            return list(questions.values())
        row = question(len(questions), draw, per_question, many, *operations, largest, faults)
        questions.setdefault(row["query"], row)
    raise ValueError(f"only {len(questions)} different questions, not {wanted}")


def task(questions: int, seed: int, faults: Sequence[str] = ("slip",)) -> list[dict[str, Any]]:
    """The task that the learning experiments share; it has few facts, so that a model learns them in minutes."""
    count = questions * PER_QUESTION
    return rows(count, PER_QUESTION, OPERATIONS, seed, right=RIGHT, largest=LARGEST, faults=faults)


def write(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write rows as a labelled file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
