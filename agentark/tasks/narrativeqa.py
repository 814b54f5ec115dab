"""NarrativeQA: questions about whole books and film scripts (Kočiský et al. 2018, arXiv 1712.07040).

A row, `narrativeqa_<split>.jsonl` and deepmind/narrativeqa (schema from the features on its hub page; the words here
are ours):

    {"document": {"id": "9f2c", "kind": "gutenberg", "url": "...", "file_size": 1200, "word_count": 210,
                  "start": "It was", "end": "THE END", "text": "It was a long winter ...",
                  "summary": {"text": "A miller loses his mill.", "tokens": ["A", ...], "url": "...", "title": "..."}},
     "question": {"text": "What does the miller lose?", "tokens": ["What", ...]},
     "answers": [{"text": "His mill", "tokens": ["His", "mill"]}, {"text": "the mill", "tokens": ["the", "mill"]}]}

Both answers are references, the first one is the gold answer; `kind` is the tag. `context=summary` (default) is the
paper's "summaries only" task, `context=full` its "stories only" task: figures of the two must not be compared. The
hub's files are large (a download of 3.2 GB), since every question repeats its story.

Differs from the paper: the metric is token F1, as in SCROLLS and LongBench, where the paper has BLEU, METEOR, ROUGE-L.
"""

import sys
from collections.abc import Iterator
from typing import Literal

from agentark.config import Config
from agentark.tasks.base import SHORT_INSTRUCTION, BadRow, Hub, Row, Task, part_of, string
from agentark.types import Sample


class NarrativeQAOptions(Config):
    context: Literal["summary", "full"] = "summary"
    """`summary`: a summary of the story, some 650 words; `full`: the story itself, some 60,000."""


def to_samples(row: Row, index: int, split: str, options: NarrativeQAOptions) -> Iterator[Sample]:
    story = part_of(row, "document")
    answers = tuple(string(answer, "text") for answer in row.get("answers") or ())
    if not answers:
        raise BadRow("no 'answers'")
    document = string(part_of(story, "summary") if options.context == "summary" else story, "text")
    yield Sample(
        id=f"NarrativeQA/{split}/{index}",
        source="NarrativeQA",
        query=string(part_of(row, "question"), "text"),
        gt=answers[0],
        answer_type="text",
        instruction=SHORT_INSTRUCTION,
        document=sys.intern(document),  # some 30 rows repeat each story; they share one copy
        references=answers if len(answers) > 1 else None,
        tag=story.get("kind"),
    )


TASK = Task(
    name="NarrativeQA",
    splits=("train", "validation", "test"),
    eval_split="test",
    metric="f1",
    kind="text",
    licence="Apache-2.0",
    to_samples=to_samples,
    file_patterns=("narrativeqa_{split}.jsonl",),
    hub=Hub("deepmind/narrativeqa"),
    options=NarrativeQAOptions,
)
