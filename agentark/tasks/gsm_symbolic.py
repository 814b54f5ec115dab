"""GSMSymbolic: GSM8K problems as templates with fresh names and numbers (Mirzadeh et al. 2024, arXiv 2410.05229).

Made offline by reasoning-gym's gsm_symbolic generator, nothing is downloaded. An entry as it comes out:

    {"question": "There are 12 students playing basketball and twice that number playing volleyball. ... "
                 "Give the result as your final answer. Do not include units.",
     "answer": "68", "metadata": {"source_index": 0, "source_dataset": "gsm_symbolic", ...}}

The same seed gives the same problems, and a larger size only appends to them; ids carry the seed.
"""

import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

from pydantic import Field

from agentark.answers import normalize
from agentark.config import Config
from agentark.tasks.base import BOXED_NUMBER_INSTRUCTION, Row, Task, string
from agentark.types import Sample, UserError


class GSMSymbolicOptions(Config):
    seed: int = Field(0, ge=0)
    """Seed of the generator, >= 0; another seed is another set of problems."""
    size: int = Field(100, ge=1, le=1_000_000)
    """Number of problems, 1 to 1,000,000."""


def generate(options: GSMSymbolicOptions) -> tuple[str, Iterable[Row]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of a generator we don't use
            import reasoning_gym
    except ImportError:
        raise UserError("GSMSymbolic needs the package reasoning-gym: pip install reasoning-gym") from None
    dataset: Any = reasoning_gym.create_dataset("gsm_symbolic", seed=options.seed, size=options.size)
    origin = f"reasoning-gym {version('reasoning-gym')} gsm_symbolic, seed {options.seed}"
    return origin, (dataset[index] for index in range(options.size))


def to_samples(row: Row, index: int, split: str, options: GSMSymbolicOptions) -> Iterator[Sample]:
    yield Sample(
        id=f"GSMSymbolic/{split}/seed{options.seed}-{index}",
        source="GSMSymbolic",
        query=string(row, "question"),
        gt=normalize(string(row, "answer"), "number"),
        answer_type="number",
        instruction=BOXED_NUMBER_INSTRUCTION,
    )


TASK = Task(
    name="GSMSymbolic",
    splits=("test",),
    eval_split="test",
    metric="accuracy",
    kind="number",
    licence="Apache-2.0 (generator)",
    to_samples=to_samples,
    generate=generate,
    options=GSMSymbolicOptions,
)
