"""QMSum: query-based summaries of meetings (Zhong et al. 2021, arXiv 2104.05938).

A raw row is a meeting, `qmsum_<split>.jsonl` and the authors' repository (Yale-LILY/QMSum, data/ALL/jsonl):

    {"topic_list": [...],
     "general_query_list": [{"query": "Summarize the whole meeting.", "answer": "This meeting was ..."}],
     "specific_query_list": [{"query": "What did ... say about ...?", "answer": "...",
                              "relevant_text_span": [["1", "16"]]}],
     "meeting_transcripts": [{"speaker": "Barry Hughes", "content": "Perfectly happy."}, ...]}

One sample per query, general ones first; all of a meeting's samples share its transcript as their document. The
copies on the hub derive from SCROLLS, which withholds the test summaries, so the authors' files are read instead.
"""

from collections.abc import Iterator

from agentark.tasks.base import BadRow, Hub, NoOptions, Row, Task, string
from agentark.types import Sample

INSTRUCTION = "Answer from the meeting above, in one paragraph of plain text."


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    turns = row.get("meeting_transcripts")
    if not turns:
        raise BadRow("no 'meeting_transcripts'")
    document = "\n".join(f"{turn.get('speaker') or '?'}: {turn.get('content') or ''}" for turn in turns)
    queries = {kind: row.get(f"{kind}_query_list") or [] for kind in ("general", "specific")}
    if not any(queries.values()):
        raise BadRow("no query in 'general_query_list' or 'specific_query_list'")
    for kind, entries in queries.items():
        for position, entry in enumerate(entries):
            yield Sample(
                id=f"QMSum/{split}/{index}-{kind}-{position}",
                source="QMSum",
                query=string(entry, "query"),
                gt=string(entry, "answer"),
                answer_type="text",
                instruction=INSTRUCTION,
                document=document,
                tag=kind,
            )


_URL = "https://raw.githubusercontent.com/Yale-LILY/QMSum/main/data/ALL/jsonl"

TASK = Task(
    name="QMSum",
    splits=("train", "validation", "test"),
    eval_split="test",
    metric="rougeL",
    kind="text",
    licence="MIT",
    to_samples=to_samples,
    file_patterns=("qmsum_{split}.jsonl",),
    hub=Hub(
        "json",
        urls={
            "train": f"{_URL}/train.jsonl",
            "validation": f"{_URL}/val.jsonl",
            "test": f"{_URL}/test.jsonl",
        },
    ),
)
