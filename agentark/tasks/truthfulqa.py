"""TruthfulQA: questions that invite popular falsehoods, answered freely (Lin et al. 2021, arXiv 2109.07958).

A row, `truthfulqa_<split>.jsonl` and truthfulqa/truthful_qa (config generation, 817 rows; schema from the features on
its hub page; the words here are ours):

    {"type": "Adversarial", "category": "Misconceptions", "question": "Do goldfish forget everything at once?",
     "best_answer": "No, goldfish remember for months", "correct_answers": ["No, goldfish remember for months",
     "They remember for months"], "incorrect_answers": ["They forget after three seconds"], "source": "https://..."}

The best answer is the gold answer, the correct ones are its references, the category is the tag. The metric is ROUGE-L
of the whole reply against the nearest correct answer. The incorrect answers are not kept, so the paper's figure that
also subtracts the likeness to them cannot be computed from our records.
"""

from collections.abc import Iterator

from agentark.tasks.base import BadRow, Hub, NoOptions, Row, Task, string
from agentark.types import Sample

INSTRUCTION = "Answer in one short sentence of plain text."


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    best = string(row, "best_answer").strip()
    correct = row.get("correct_answers")
    if not isinstance(correct, list) or not all(isinstance(answer, str) for answer in correct):
        raise BadRow("no 'correct_answers'")
    references = tuple(dict.fromkeys([best, *(answer.strip() for answer in correct if answer.strip())]))
    yield Sample(
        id=f"TruthfulQA/{split}/{index}",
        source="TruthfulQA",
        query=string(row, "question"),
        gt=best,
        answer_type="text",
        instruction=INSTRUCTION,
        references=references if len(references) > 1 else None,
        tag=row.get("category"),
    )


TASK = Task(
    name="TruthfulQA",
    splits=("validation",),
    eval_split="validation",
    metric="rougeL",
    kind="text",
    licence="Apache-2.0",
    to_samples=to_samples,
    file_patterns=("truthfulqa_{split}.jsonl",),
    hub=Hub("truthfulqa/truthful_qa", ("generation",)),
)
