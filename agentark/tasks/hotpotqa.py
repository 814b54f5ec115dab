"""HotpotQA: questions that need two Wikipedia paragraphs, among eight distractors (Yang et al. 2018, arXiv 1809.09600).

A raw row, `hotpotqa_<split>.jsonl` and hotpotqa/hotpot_qa (config distractor, which adds an `id`):

    {"question": "Were Scott Derrickson and Ed Wood of the same nationality?", "answer": "yes",
     "type": "comparison", "level": "hard",
     "supporting_facts": {"title": ["Scott Derrickson", "Ed Wood"], "sent_id": [0, 0]},
     "context": {"title": ["Ed Wood (film)", ...], "sentences": [["Ed Wood is a 1994 ...", ...], ...]}}

Differs from the published code: by default the document holds all ten paragraphs, as the dataset means it; the
published code keeps only the supporting ones, an oracle setting that is `context=supporting` here. Figures of the two
settings must not be compared.
"""

from collections.abc import Iterator
from typing import Literal

from agentark.config import Config
from agentark.tasks.base import SHORT_INSTRUCTION, BadRow, Hub, Row, Task, string
from agentark.types import Sample


class HotpotQAOptions(Config):
    context: Literal["full", "supporting"] = "full"
    """`full`: all paragraphs, distractors included; `supporting`: only those that hold the supporting facts."""


def to_samples(row: Row, index: int, split: str, options: HotpotQAOptions) -> Iterator[Sample]:
    context, supporting = row.get("context"), row.get("supporting_facts")
    if not isinstance(context, dict) or not context.get("title"):
        raise BadRow("no 'context' with 'title' and 'sentences'")
    if not isinstance(supporting, dict):
        raise BadRow("no 'supporting_facts'")
    kept = set(context["title"]) if options.context == "full" else set(supporting["title"])
    paragraphs = [
        f"{title}\n{''.join(sentences).strip()}"
        for title, sentences in zip(context["title"], context["sentences"], strict=True)
        if title in kept
    ]
    yield Sample(
        id=f"HotpotQA/{split}/{row.get('id') or index}",
        source="HotpotQA",
        query=string(row, "question"),
        gt=string(row, "answer"),
        answer_type="text",
        instruction=SHORT_INSTRUCTION,
        document="\n\n".join(paragraphs),
        tag=row.get("type"),
    )


TASK = Task(
    name="HotpotQA",
    splits=("train", "validation"),
    eval_split="validation",
    metric="f1",
    kind="text",
    licence="CC BY-SA 4.0",
    to_samples=to_samples,
    file_patterns=("hotpotqa_{split}.jsonl",),
    hub=Hub("hotpotqa/hotpot_qa", ("distractor",)),
    options=HotpotQAOptions,
)
