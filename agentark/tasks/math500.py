r"""MATH-500: the 500 test problems of MATH held out by Lightman et al. 2023 (arXiv 2305.20050).

A raw row, `math500_test.jsonl` and HuggingFaceH4/MATH-500:

    {"problem": "Convert the point $(0,3)$ ...", "solution": "We have that ...",
     "answer": "\\left( 3, \\frac{\\pi}{2} \\right)", "subject": "Precalculus", "level": 2,
     "unique_id": "test/precalculus/807.json"}
"""

from collections.abc import Iterator

from agentark.tasks.base import Hub, NoOptions, Row, Task
from agentark.tasks.math import sample_of
from agentark.types import Sample


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    yield sample_of("MATH-500", row, index, split)


TASK = Task(
    name="MATH-500",
    splits=("test",),
    eval_split="test",
    metric="accuracy",
    kind="math",
    licence="MIT",
    to_samples=to_samples,
    file_patterns=("math500_{split}.jsonl",),
    hub=Hub("HuggingFaceH4/MATH-500"),
)
