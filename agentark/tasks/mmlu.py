"""MMLU: four-way multiple choice in 57 subjects (Hendrycks et al. 2020, arXiv 2009.03300).

A raw row of cais/mmlu (config all), `mmlu_<split>.jsonl`, or `mmlu_stem_<split>.jsonl` (which says `type` for
`subject`):

    {"question": "A frameshift mutation is created when", "subject": "college_biology",
     "choices": ["telomeric sequences are removed from DNA", "a codon's nucleotide sequence ...", ...], "answer": 3}

`answer` may also be the option's letter or its text; a choice that is null is none.
"""

from collections.abc import Iterator

from agentark.tasks.base import BadRow, Hub, NoOptions, Row, Task, choice_sample, option_index, string
from agentark.types import Sample


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    choices = row.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BadRow("no 'choices'")
    yield choice_sample(
        id=f"MMLU/{split}/{index}",
        source="MMLU",
        question=string(row, "question"),
        choices=choices,
        gold=option_index(row, "answer", choices),
        tag=row.get("subject") or row.get("type"),
    )


TASK = Task(
    name="MMLU",
    splits=("auxiliary_train", "dev", "validation", "test"),
    eval_split="test",
    metric="accuracy",
    kind="choice",
    licence="MIT",
    to_samples=to_samples,
    file_patterns=("mmlu_{split}.jsonl", "mmlu_stem_{split}.jsonl"),
    hub=Hub("cais/mmlu", ("all",)),
)
