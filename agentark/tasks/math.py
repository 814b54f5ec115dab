r"""MATH: competition mathematics in seven subjects (Hendrycks et al. 2021, arXiv 2103.03874).

A raw row of EleutherAI/hendrycks_math (one config per subject) and of `math_<split>.jsonl`:

    {"problem": "How many vertical asymptotes does ...", "level": "Level 3", "type": "Algebra",
     "solution": "The denominator factors into ... $\\boxed{2}$ vertical asymptotes."}

The gold answer is the row's `answer` where it has one (as MATH-500 rows do, and `math500_test.jsonl` is accepted for
the test split), else the last box of the published solution.
"""

from collections.abc import Iterator

from agentark.answers import boxes
from agentark.tasks.base import BOXED_INSTRUCTION, BadRow, Hub, NoOptions, Row, Task, string
from agentark.types import Sample

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def sample_of(source: str, row: Row, index: int, split: str) -> Sample:
    """The sample of a row of MATH or MATH-500; its id is the upstream `unique_id` where there is one."""
    unique_id = row.get("unique_id") or str(index)
    return Sample(
        id=f"{source}/{split}/{str(unique_id).removeprefix(f'{split}/').removesuffix('.json')}",
        source=source,
        query=string(row, "problem"),
        gt=_gold(row),
        answer_type="math",
        instruction=BOXED_INSTRUCTION,
        tag=row.get("subject") or row.get("type"),
    )


def _gold(row: Row) -> str:
    if row.get("answer") is not None:
        return string(row, "answer").strip()
    found = [box.strip() for box in boxes(string(row, "solution")) if box.strip()]
    if not found:
        raise BadRow("no 'answer', and no \\boxed{} in 'solution'")
    return found[-1]


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    yield sample_of("MATH", row, index, split)


TASK = Task(
    name="MATH",
    splits=("train", "test"),
    eval_split="test",
    metric="accuracy",
    kind="math",
    licence="MIT",
    to_samples=to_samples,
    file_patterns=("math_{split}.jsonl", "math500_test.jsonl"),
    hub=Hub("EleutherAI/hendrycks_math", SUBJECTS),
)
