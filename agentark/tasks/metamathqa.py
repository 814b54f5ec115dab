r"""MetaMathQA: training problems of GSM8K and MATH, reworded and turned around by a model (Yu et al. 2023, arXiv
2309.12284).

A row, `metamathqa_train.jsonl` and meta-math/MetaMathQA (395,000 rows, train only; schema from the hub's data viewer
and the authors' README; the words here are ours):

    {"type": "GSM_Rephrased", "query": "How much do 4 pens cost at 3 dollars each?",
     "original_question": "A pen costs 3 dollars. What do 4 pens cost?",
     "response": "4 pens cost 4 * 3 = 12 dollars.\n#### 12\nThe answer is: 12"}

`type` (GSM_ or MATH_ with AnsAug, Rephrased, SV or FOBAR) is the sample's tag. Answers to GSM_ questions are numbers,
those to MATH_ questions any mathematics. The solutions are a model's, filtered by their final answer.
"""

from collections.abc import Iterator

from agentark.answers import normalize
from agentark.tasks.base import (
    BOXED_INSTRUCTION,
    BOXED_NUMBER_INSTRUCTION,
    BadRow,
    Hub,
    NoOptions,
    Row,
    Task,
    string,
)
from agentark.types import Sample

MARK = "The answer is:"


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    _, mark, gold = string(row, "response").rpartition(MARK)
    if not mark or not gold.strip():
        raise BadRow(f"'response' has no gold answer after {MARK!r}")
    kind = string(row, "type")
    is_number = kind.startswith("GSM_")
    yield Sample(
        id=f"MetaMathQA/{split}/{index}",
        source="MetaMathQA",
        query=string(row, "query"),
        gt=normalize(gold, "number") if is_number else gold.strip(),
        answer_type="number" if is_number else "math",
        instruction=BOXED_NUMBER_INSTRUCTION if is_number else BOXED_INSTRUCTION,
        tag=kind,
    )


TASK = Task(
    name="MetaMathQA",
    splits=("train",),
    eval_split="train",
    metric="accuracy",
    kind="number",
    licence="MIT",
    to_samples=to_samples,
    file_patterns=("metamathqa_{split}.jsonl",),
    hub=Hub("meta-math/MetaMathQA"),
)
