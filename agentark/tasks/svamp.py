"""SVAMP: arithmetic word problems with varied wording (Patel et al. 2021, arXiv 2103.07191).

A raw row, `svamp_<split>.jsonl` and ChilleD/SVAMP (whose test split is 300 of the 1,000 problems):

    {"ID": "chal-777", "Body": "There are 87 oranges and 290 bananas in Philip's collection. If ...",
     "Question": "How big is each group of bananas?", "Equation": "( 290.0 / 2.0 )", "Answer": 145.0,
     "Type": "Common-Division"}
"""

from collections.abc import Iterator

from agentark.answers import normalize
from agentark.tasks.base import BOXED_NUMBER_INSTRUCTION, BadRow, Hub, NoOptions, Row, Task, string
from agentark.types import Sample


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    if row.get("Answer") is None:
        raise BadRow("no 'Answer'")
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
)
