"""ChainSum: sums and differences of whole numbers, made offline by reasoning-gym's chain_sum generator.

Problems of chosen difficulty for experiments with small models. An entry as it comes out:

    {"question": "State the final answer to the following arithmetic problem: 4 + 3 =", "answer": "7",
     "metadata": {"expression": "4 + 3", "num_terms": 2, "num_digits": 1, ...}}

An expression is in `train` or in `test` for every seed, wording and choice of parameters, so that no question of
one split can be known from the other.
"""

import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any, Literal

from pydantic import Field

from agentark.answers import normalize
from agentark.config import Config
from agentark.tasks.base import BOXED_NUMBER_INSTRUCTION, Row, Task, part_of, string
from agentark.types import Sample, UserError, digest

INSTRUCTIONS = {"steps": BOXED_NUMBER_INSTRUCTION, "result": "Give the result inside \\boxed{}."}
SEED_STEP = 1_000_003
"""The generator's problem i of seed s is problem i + 1 of seed s - 1; ours are that far apart."""
TRIES = 50
"""Problems drawn per distinct one asked for, before giving up."""
WORDINGS = {
    "generator": "{question}",
    "plain": "Write down the final answer of this calculation: {expression} =",
    "spoken": "How much is {spoken}?",
    "story": "A counter stands at {first}. {moves} What does the counter show now?",
}


class ChainSumOptions(Config):
    seed: int = Field(0, ge=0)
    """Seed of the generator, >= 0; another seed is another draw of problems."""
    size: int = Field(200, ge=1, le=1_000_000)
    """Distinct problems, 1 to 1,000,000; about half of them belong to each split."""
    min_terms: int = Field(2, ge=2, le=100)
    """Numbers in a problem, at least; >= 2."""
    max_terms: int = Field(2, ge=2, le=100)
    """Numbers in a problem, at most."""
    min_digits: int = Field(1, ge=1, le=100)
    """Digits of the numbers of a problem (all have equally many), at least; >= 1."""
    max_digits: int = Field(1, ge=1, le=100)
    """Digits at most."""
    wording: Literal["generator", "plain", "spoken", "story"] = "generator"
    """How a problem is put: the generator's sentence, or one of ours."""
    instruction: Literal["steps", "result"] = "steps"
    """`steps` asks for the working and the result, `result` for the result alone."""


def generate(options: ChainSumOptions) -> tuple[str, Iterable[Row]]:
    for low, high in (("min_terms", "max_terms"), ("min_digits", "max_digits")):
        if getattr(options, low) > getattr(options, high):
            raise UserError(f"ChainSum: {low} = {getattr(options, low)} is more than {high} = {getattr(options, high)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of a generator we don't use
            import reasoning_gym
    except ImportError:
        raise UserError("ChainSum needs the package reasoning-gym: pip install reasoning-gym") from None
    ranges = options.model_dump(include={"min_terms", "max_terms", "min_digits", "max_digits"})
    size = options.size * TRIES
    made: Any = reasoning_gym.create_dataset("chain_sum", seed=options.seed * SEED_STEP, size=size, **ranges)
    origin = f"reasoning-gym {version('reasoning-gym')} chain_sum, {options.model_dump_json()}"
    return origin, _distinct(made, options.size, size)


def _distinct(made: Any, wanted: int, tries: int) -> Iterator[Row]:
    seen: set[str] = set()
    for index in range(tries):
        row = made[index]
        expression = row["metadata"]["expression"]
        if expression not in seen:
            seen.add(expression)
            yield row
        if len(seen) == wanted:
            return
    raise UserError(f"ChainSum: size = {wanted}: {tries} draws gave {len(seen)} distinct problems; widen the ranges")


def split_of(expression: str) -> str:
    """`train` or `test`."""
    return "test" if int(digest(expression), 16) % 2 else "train"


def to_samples(row: Row, index: int, split: str, options: ChainSumOptions) -> Iterator[Sample]:
    about = part_of(row, "metadata")
    expression = string(about, "expression")
    if split_of(expression) != split:
        return
    first, *rest = expression.split()
    steps = list(zip(rest[::2], rest[1::2], strict=True))
    moves = " ".join(f"It goes {'up' if sign == '+' else 'down'} by {number}." for sign, number in steps)
    spoken = " ".join([first, *(f"{'plus' if sign == '+' else 'minus'} {number}" for sign, number in steps)])
    question = string(row, "question")
    yield Sample(
        id=f"ChainSum/{split}/{options.wording}/{expression.replace(' ', '')}",
        source="ChainSum",
        query=WORDINGS[options.wording].format(
            question=question, expression=expression, spoken=spoken, first=first, moves=moves
        ),
        gt=normalize(string(row, "answer"), "number"),
        answer_type="number",
        instruction=INSTRUCTIONS[options.instruction],
        tag=f"{about['num_terms']} terms, {about['num_digits']} digits",
    )


TASK = Task(
    name="ChainSum",
    splits=("train", "test"),
    eval_split="test",
    metric="accuracy",
    kind="number",
    licence="Apache-2.0 (generator)",
    to_samples=to_samples,
    generate=generate,
    options=ChainSumOptions,
)
