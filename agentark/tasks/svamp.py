"""SVAMP: arithmetic word problems with varied wording (Patel et al. 2021, arXiv 2103.07191).

A raw row, `svamp_<split>.jsonl` and ChilleD/SVAMP (whose test split is 300 of the 1,000 problems):

    {"ID": "chal-777", "Body": "There are 87 oranges and 290 bananas in Philip's collection. If ...",
     "Question": "How big is each group of bananas?", "Equation": "( 290.0 / 2.0 )", "Answer": 145.0,
     "Type": "Common-Division"}

Upstream's only file holds all 1,000 problems, as `svamp_test.jsonl`. To train on some of them and measure on others,
`part` divides it by the words that a problem begins with, so that variations of a story stay together.
"""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from agentark.answers import normalize
from agentark.config import Config
from agentark.tasks.base import BOXED_NUMBER_INSTRUCTION, BadRow, Hub, Row, Task, string
from agentark.types import Sample, digest

BEGINNING = 2
"""Words that decide on a problem's part."""


class SVAMPOptions(Config):
    part: Literal["all", "train", "test"] = Field("all", exclude_if=lambda part: part == "all")
    """Which problems of a split: all, or those of one of two parts (of all 1,000: 451 to train on, 549 to test).
    Runs leave `all` out, as they did before."""


def part_of(body: str) -> str:
    """`train` or `test`."""
    words = re.findall("[a-z]+", body.lower())[:BEGINNING]
    return "test" if int(digest(words), 16) % 2 else "train"


def to_samples(row: Row, index: int, split: str, options: SVAMPOptions) -> Iterator[Sample]:
    if row.get("Answer") is None:
        raise BadRow("no 'Answer'")
    if options.part not in ("all", part_of(string(row, "Body"))):
        return
    yield Sample(
        id=f"SVAMP/{split}/{row.get('ID') or index}",
        source="SVAMP",
        query=f"{string(row, 'Body').strip()} {string(row, 'Question').strip()}",
        gt=normalize(str(row["Answer"]), "number"),
        answer_type="number",
        instruction=BOXED_NUMBER_INSTRUCTION,
        tag=row.get("Type"),
    )


TASK = Task(
    name="SVAMP",
    splits=("train", "test"),
    eval_split="test",
    metric="accuracy",
    kind="number",
    licence="MIT",
    to_samples=to_samples,
    file_patterns=("svamp_{split}.jsonl",),
    hub=Hub("ChilleD/SVAMP"),
    options=SVAMPOptions,
)
