"""HiddenDigits: every noun has a hidden digit, and a question asks for the last digit of a sum of nouns.

A closed world for experiments with tiny models (study/lab): whoever knows the digits of a question's nouns knows its
answer, and what a model knows can be chosen. A row as it comes out:

    {"items": ["lamp", "spoon", "coat", "drum"], "digits": [3, 0, 7, 7]}

The same nouns are in `train` or in `test`, in whatever order, for every draw of questions.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

from pydantic import Field

from agentark.config import Config
from agentark.tasks.base import Row, Task
from agentark.types import Sample, UserError, digest

_WORDS = (
    "lamp chair table spoon fork knife plate bowl cup glass bottle box bag coat hat shoe boot glove sock shirt "
    "belt ring watch clock phone radio camera pencil paper book map card coin stamp letter rope chain wire "
    "nail screw hammer saw drill brush broom bucket soap towel sheet pillow blanket curtain carpet mirror "
    "picture vase candle match lighter stove oven pan pot kettle jug tray basket ladder fence gate door window "
    "roof wall brick tile stone sand clay wood glue paint ink thread needle button zip ribbon flag drum flute "
    "harp bell whistle ball kite doll puzzle train boat"
)
NOUNS = tuple(_WORDS.split())
LETTERS = "abcdefghij"
"""Items of a question are lettered."""
INSTRUCTION = "Give it inside \\boxed{}."
TRIES = 50
"""Questions drawn per distinct one asked for, before giving up."""


class HiddenDigitsOptions(Config):
    world: int = Field(0, ge=0, le=1_000_000)
    """Which digit each noun has, 0 to 1,000,000."""
    seed: int = Field(0, ge=0)
    """Seed of the draw of questions, >= 0."""
    size: int = Field(200, ge=1, le=1_000_000)
    """Distinct questions, 1 to 1,000,000; about half of them belong to each split."""
    items: list[Annotated[int, Field(ge=1, le=len(LETTERS))]] = Field([4], min_length=1)
    """Numbers of nouns that a question may have, 1 to 10 each."""


def hidden_digits(world: int) -> dict[str, int]:
    """Noun -> its digit."""
    draw = random.Random(f"hidden digits {world}")
    return {noun: draw.randrange(10) for noun in NOUNS}


def query(items: Sequence[str]) -> str:
    listed = "".join(f"{letter}) {item}\n" for letter, item in zip(LETTERS, items, strict=False))
    return f"Add up the values.\n{listed}What is the last digit?"


def split_of(items: Iterable[str]) -> str:
    """`train` or `test`."""
    return "test" if int(digest(" ".join(sorted(items))), 16) % 2 else "train"


def generate(options: HiddenDigitsOptions) -> tuple[str, Iterable[Row]]:
    return f"hidden digits, {options.model_dump_json()}", _rows(options)


def _rows(options: HiddenDigitsOptions) -> Iterator[Row]:
    digits = hidden_digits(options.world)
    draw = random.Random(f"questions {options.seed}")
    seen: set[frozenset[str]] = set()
    for _ in range(options.size * TRIES):
        items = draw.sample(NOUNS, draw.choice(options.items))
        if frozenset(items) not in seen:
            seen.add(frozenset(items))
            yield {"items": items, "digits": [digits[item] for item in items]}
        if len(seen) == options.size:
            return
    raise UserError(f"HiddenDigits: size = {options.size}: found only {len(seen)} distinct questions; allow more items")


def to_samples(row: Row, index: int, split: str, options: HiddenDigitsOptions) -> Iterator[Sample]:
    items: list[str] = row["items"]
    if split_of(items) == split:
        yield Sample(
            id=f"HiddenDigits/{split}/{options.world}/{'-'.join(items)}",
            source="HiddenDigits",
            query=query(items),
            gt=str(sum(row["digits"]) % 10),
            answer_type="number",
            instruction=INSTRUCTION,
            tag=f"{len(items)} items",
        )


TASK = Task(
    name="HiddenDigits",
    splits=("train", "test"),
    eval_split="test",
    metric="accuracy",
    kind="number",
    licence="Apache-2.0 (generator)",
    to_samples=to_samples,
    generate=generate,
    options=HiddenDigitsOptions,
)
