"""SRDD: descriptions of small programs to be developed, for ChatDev and MacNet (Qian et al. 2023, arXiv 2307.07924).

A row, `srdd_<split>.jsonl` with one object per line, or the authors' data_attribute_format.csv with these columns
(OpenBMB/ChatDev, SRDD/data; schema from that file and its README; the words here are ours):

    {"Name": "Tide_Clock", "Description": "A desktop clock that shows the next high and low tide ...",
     "Category": "Weather"}

1,200 descriptions in 40 categories (the tag), written by ChatGPT 3.5, in one undivided set that we call test. There is
no gold answer and no test, so `gt` is empty and nothing is scored here. The licence forbids commercial use.
"""

from collections.abc import Iterator

from agentark.tasks.base import Hub, NoOptions, Row, Task, string
from agentark.types import Sample

INSTRUCTION = (
    "Develop this software in Python, complete and ready to run. Give every file in a fenced code block of its own, "
    "with its name on the line above."
)


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    yield Sample(
        id=f"SRDD/{split}/{index}",
        source="SRDD",
        query=f"{string(row, 'Name').strip()}: {string(row, 'Description').strip()}",
        gt="",
        answer_type="code",
        instruction=INSTRUCTION,
        tag=row.get("Category"),
    )


_URL = "https://raw.githubusercontent.com/OpenBMB/ChatDev/b967bc479a3c9204d076e21d2aaf45490b3a7981/SRDD/data"

TASK = Task(
    name="SRDD",
    splits=("test",),
    eval_split="test",
    metric="none",
    kind="software",
    licence="CC BY-NC 4.0",
    to_samples=to_samples,
    file_patterns=("srdd_{split}.jsonl", "data_attribute_format.csv"),
    hub=Hub("csv", urls={"test": f"{_URL}/data_attribute_format.csv"}),
)
