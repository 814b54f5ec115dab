r"""GSM8K: grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168).

A raw row, `gsm8k_<split>.jsonl` and openai/gsm8k (config main), schema of openai/grade-school-math:

    {"question": "Natalia sold clips to 48 of her friends in April, and then ...",
     "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n...\n#### 72"}
"""

from collections.abc import Iterator

from agentark.answers import normalize
from agentark.tasks.base import BOXED_NUMBER_INSTRUCTION, BadRow, Hub, NoOptions, Row, Task, string
from agentark.types import Sample


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    _, mark, gold = string(row, "answer").rpartition("####")
    if not mark or not gold.strip():
        raise BadRow("'answer' has no gold number after ####")
    yield Sample(
        id=f"GSM8K/{split}/{index}",
        source="GSM8K",
        query=string(row, "question"),
        gt=normalize(gold, "number"),
        answer_type="number",
        instruction=BOXED_NUMBER_INSTRUCTION,
    )


TASK = Task(
    name="GSM8K",
    splits=("train", "test"),
    eval_split="test",
    metric="accuracy",
    kind="number",
    licence="MIT",
    to_samples=to_samples,
    file_patterns=("gsm8k_{split}.jsonl",),
    hub=Hub("openai/gsm8k", ("main",)),
)
