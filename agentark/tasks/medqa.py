"""MedQA: questions in the style of the US medical licensing exam, four options (Jin et al. 2020, arXiv 2009.13081).

A row, `medqa_<split>.jsonl` and GBaker/MedQA-USMLE-4-options (whose files phrases_no_exclude_<split>.jsonl are read
too; schema from its hub page and its users' documentation; the words here are ours):

    {"question": "A child has a barking cough. What is the most likely cause?", "answer": "Parainfluenza virus",
     "options": {"A": "Rotavirus", "B": "Parainfluenza virus", "C": "Rhinovirus", "D": "Norovirus"},
     "meta_info": "step1", "answer_idx": "B", "metamap_phrases": ["child", "barking cough"]}

The exam step in `meta_info` is the tag. Without `answer_idx`, which may also be an index, `answer` says which option is
right.
"""

from collections.abc import Iterator

from agentark.tasks.base import BadRow, ChoiceOptions, Hub, Row, Task, choice_sample, option_index, part_of, string
from agentark.types import Sample


def to_samples(row: Row, index: int, split: str, options: ChoiceOptions) -> Iterator[Sample]:
    texts = part_of(row, "options")
    letters = sorted(texts)
    choices = [texts[letter] for letter in letters]
    key = "answer" if row.get("answer_idx") is None else "answer_idx"
    if key == "answer_idx" and isinstance(row[key], str) and row[key] not in letters:
        raise BadRow(f"'answer_idx' must be one of {', '.join(letters)}, not {row[key]!r:.60}")
    yield choice_sample(
        id=f"MedQA/{split}/{index}",
        source="MedQA",
        question=string(row, "question"),
        choices=choices,
        gold=letters.index(row[key]) if row[key] in letters else option_index(row, key, choices),
        options=options,
        tag=row.get("meta_info"),
    )


TASK = Task(
    name="MedQA",
    splits=("train", "test"),
    eval_split="test",
    metric="accuracy",
    kind="choice",
    licence="CC BY 4.0",
    to_samples=to_samples,
    file_patterns=("medqa_{split}.jsonl", "phrases_no_exclude_{split}.jsonl"),
    hub=Hub("GBaker/MedQA-USMLE-4-options"),
    options=ChoiceOptions,
)
