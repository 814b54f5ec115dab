"""GPQA: graduate-level questions in biology, physics and chemistry (Rein et al. 2023, arXiv 2311.12022).

A row, `gpqa_<subset>.jsonl`, `gpqa_<subset>.csv` and Idavidrein/gpqa (schema from the features on its hub page; its
terms forbid showing examples, so all words here and in our fixtures are made up):

    {"Record ID": "rec000", "Question": "Which particle mediates ...?", "Correct Answer": "The photon",
     "Incorrect Answer 1": "The gluon", "Incorrect Answer 2": "The W boson", "Incorrect Answer 3": "The graviton",
     "High-level domain": "Physics", "Subdomain": "Quantum Mechanics", ...}

The dataset is gated: the hub wants HF_TOKEN of an account that accepted its terms. Upstream calls its only split
train; `subset` chooses the file. The high-level domain is the tag.

Upstream gives no order of the options, it lists the right one first. Unshuffled, the gold answer is therefore A in
every row and a model that always says A scores 1.0, which loading says in a warning. Ask for `shuffle_options=true`.
"""

import logging
from collections.abc import Iterator
from typing import Literal

from agentark.tasks.base import ChoiceOptions, Hub, Row, Task, choice_sample, string
from agentark.types import Sample

_log = logging.getLogger(__name__)

KEYS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
WARNING = (
    "GPQA lists the right option first: unshuffled, A is right in every row and always saying A scores 1.0; "
    "add --task_config shuffle_options=true"
)


class GPQAOptions(ChoiceOptions):
    subset: Literal["diamond", "main", "extended"] = "diamond"
    """Which questions: the 198 that experts agree on, 448 of good quality, all 546. Each contains the one before."""


def to_samples(row: Row, index: int, split: str, options: GPQAOptions) -> Iterator[Sample]:
    if index == 0 and not options.shuffle_options:
        _log.warning(WARNING)
    yield choice_sample(
        id=f"GPQA/{split}/{row.get('Record ID') or index}",
        source="GPQA",
        question=string(row, "Question").strip(),
        choices=[row[key].strip() if isinstance(row.get(key), str) else row.get(key) for key in KEYS],
        gold=0,
        options=options,
        tag=row.get("High-level domain"),
    )


TASK = Task(
    name="GPQA",
    splits=("train",),
    eval_split="train",
    metric="accuracy",
    kind="choice",
    licence="CC BY 4.0, gated",
    to_samples=to_samples,
    file_patterns=("gpqa_{subset}.jsonl", "gpqa_{subset}.csv"),
    hub=Hub("Idavidrein/gpqa", ("gpqa_{subset}",), gated=True),
    options=GPQAOptions,
)
