"""Make a step task whose wrong steps can be seen: chains of one-digit operations with planted errors.

    python bench/prm_chains.py --solutions 2000 --output results/bench/chains.jsonl
    python prm/finetune2.py --model_name_or_path smollm2-135m-instruct --train_data_path results/bench/chains.jsonl \
        --output_dir outputs/prm_chains --step_label judge --eval_ratio 0.1 --stage both

Rows are those of a labelled file, with `step_labels`: 1 before the first wrong step, 0 from it on. A solution has a
step per operation and one that states the answer. Every question has right and wrong solutions; what follows a wrong
step goes on from its result, without a further mistake.
"""

import argparse
import json
import random
import sys
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


def parse(argv: list[str] | None) -> argparse.Namespace:
    shape = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=shape)
    parser.add_argument("--solutions", type=int, default=2000, help="in all")
    parser.add_argument("--per_question", type=int, default=4)
    parser.add_argument("--right", type=int, help="of them (default: half)")
    parser.add_argument("--operations", type=int, nargs=2, default=(2, 4), help="fewest and most per question")
    parser.add_argument("--largest", type=int, default=9, help="number that is added or subtracted")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=["slip"], help="of wrong solutions, one in each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args(argv)


def operation(value: int, largest: int, draw: random.Random) -> tuple[str, int]:
    """One that stays within 0 to 9."""
    sign = draw.choice([sign for sign, room in (("+", 9 - value), ("-", value)) if room])
    return sign, draw.randint(1, min(largest, 9 - value if sign == "+" else value))


def follow(
    value: int, operations: list[tuple[str, int]], fault: tuple[str, int] | None, largest: int, draw: random.Random
) -> list[str] | None:
    """The steps of a solution, with a fault of some kind at an operation; None when that leads out of 0 to 9."""
    kind, at = fault or ("", -1)
    steps = []
    for place, (sign, amount) in enumerate(operations):
        if place == at and kind == "omission":
            if operations[at + 1 : at + 2] == [operations[at]]:
                return None  # the step after it would be the one left out
            continue
        if place == at and kind == "invention":
            sign, amount = operation(value, largest, draw)
            if (sign, amount) == operations[at]:
                return None
        result = value + amount if sign == "+" else value - amount
        if place == at and kind == "slip":
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
    while len(solutions) < count:
        fault = None if len(solutions) < right else (draw.choice(faults), draw.randrange(len(operations)))
        steps = follow(start, operations, fault, largest, draw)
        if steps is None or any(one["text"] == "\n\n".join(steps) for one in solutions):
            continue
        first = fault[1] if fault else len(steps)
        labels = [1] * first + [0] * (len(steps) - first)
        text = "\n\n".join(steps)
        solutions.append({"text": text, "is_correct": fault is None, "step_labels": labels})
    draw.shuffle(solutions)
    solutions = [{"id": place, **one} for place, one in enumerate(solutions, 1)]
    return {
        "id": f"chains/{number}",
        "query": f"Start with {start}. Then {told}. What is the result?",
        "gt": str(value),
        "solutions": solutions,
        "labels": [one["is_correct"] for one in solutions],
    }


def rows(
    solutions: int, per_question: int, operations: tuple[int, int], seed: int, *, right: int | None = None,
    largest: int = 9, faults: Sequence[str] = ("slip",),
) -> list[dict[str, Any]]:  # fmt: skip
    """The data set; the same for the same arguments. No question comes twice."""
    draw = random.Random(seed)
    many = per_question // 2 if right is None else right
    found: dict[str, dict[str, Any]] = {}
    while len(found) < solutions // per_question:
        row = question(len(found), draw, per_question, many, *operations, largest, faults)
        found.setdefault(row["query"], row)
    return list(found.values())


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    made = rows(args.solutions, args.per_question, tuple(args.operations), args.seed, right=args.right,
                largest=args.largest, faults=args.faults)  # fmt: skip
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    wrong = sum(label == 0 for row in made for one in row["solutions"] for label in one["step_labels"])
    steps = sum(len(one["step_labels"]) for row in made for one in row["solutions"])
    print(f"{len(made)} questions, {len(made) * args.per_question} solutions, {steps} steps, {wrong / steps:.0%} wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
