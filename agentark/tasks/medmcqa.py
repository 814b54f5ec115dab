"""MedMCQA: questions of Indian medical entrance exams (Pal et al. 2022, arXiv 2203.14371).

A row, `medmcqa_<split>.jsonl` and openlifescienceai/medmcqa (schema from its hub page; the words here are ours):

    {"id": "45258d3d-...", "question": "Which vessel carries blood to the lungs?", "opa": "Aorta",
     "opb": "Pulmonary artery", "opc": "Vena cava", "opd": "Portal vein", "cop": 1, "choice_type": "single",
     "exp": "It leaves the right ventricle.", "subject_name": "Anatomy", "topic_name": null}

`cop` is the 0-based index of the right option, as on the hub; the files in the authors' repository count from 1, and
their first `cop` of 4 is refused. The test split is left out: its answers are withheld (`cop` is -1), so results are
reported on validation. `choice_type` "multi" speaks of options that combine statements; still one option is right.
"""

from collections.abc import Iterator

from agentark.tasks.base import BadRow, ChoiceOptions, Hub, Row, Task, choice_sample, integer, string
from agentark.types import Sample

KEYS = ("opa", "opb", "opc", "opd")


def to_samples(row: Row, index: int, split: str, options: ChoiceOptions) -> Iterator[Sample]:
    if integer(row, "cop") == len(KEYS):
        raise BadRow("'cop' is 4, outside the options: count them from 0, as the hub does, not from 1")
    yield choice_sample(
        id=f"MedMCQA/{split}/{row.get('id') or index}",
        source="MedMCQA",
        question=string(row, "question"),
        choices=[row.get(key) for key in KEYS],
        gold=integer(row, "cop"),
        options=options,
        tag=row.get("subject_name"),
    )


TASK = Task(
    name="MedMCQA",
    splits=("train", "validation"),
    eval_split="validation",
    metric="accuracy",
    kind="choice",
    licence="Apache-2.0",
    to_samples=to_samples,
    file_patterns=("medmcqa_{split}.jsonl",),
    hub=Hub("openlifescienceai/medmcqa"),
    options=ChoiceOptions,
)
