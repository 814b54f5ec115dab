"""QASPER: questions about research papers, answered by several annotators (Dasigi et al. 2021, arXiv 2105.03011).

A row is a paper, `qasper_<split>.jsonl` and allenai/qasper (schema from the features on its hub page; the words here
are ours). Nested tables are objects of lists on the hub and lists of objects in the authors' files; both are read:

    {"id": "1909.00001", "title": "Tiny Parsers", "abstract": "We shrink parsers.",
     "full_text": {"section_name": ["Introduction", "Data"], "paragraphs": [["Parsers are large."], ["We use ..."]]},
     "qas": {"question": ["Is the data public?"], "question_id": ["a1b2"],
             "answers": [{"answer": [{"unanswerable": false, "extractive_spans": [], "yes_no": false,
                                      "free_form_answer": "", "evidence": [], "highlighted_evidence": []}],
                          "annotation_id": ["c3"], "worker_id": ["d4"]}]}}

One sample per question; title, abstract and sections in order are its document. Every annotator's answer is a
reference, in order, and the first one is the gold answer; its kind (extractive, abstractive, boolean, none, as the
authors' evaluator calls them) is the tag. An annotator's answer is read as that evaluator does: unanswerable, else
the spans joined with commas, else the free text, else yes or no.

Differs from the published code: `yes_no: false` is the answer "no" and unanswerable questions are kept; dropping
what is false in Python loses both. The hub's main branch needs a loading script, which `datasets` no longer runs, so
the hub's own conversion to Parquet is read.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from agentark.tasks.base import BadRow, Hub, NoOptions, Row, Task, part_of, string
from agentark.types import ANSWER_LINE, Sample

UNANSWERABLE = "unanswerable"
INSTRUCTION = (
    "Answer from the paper above with as few words as possible: a phrase from it, yes, or no. "
    f'If the paper does not hold the answer, the answer is "{UNANSWERABLE}". '
    f"End your reply with a line {ANSWER_LINE} followed by the answer alone."
)


def to_samples(row: Row, index: int, split: str, options: NoOptions) -> Iterator[Sample]:
    document = _document(row)
    for position, entry in enumerate(_table(row, "qas")):
        golds = [_answer(part_of(annotation, "answer")) for annotation in _table(entry, "answers")]
        if not golds:
            raise BadRow(f"no 'answers' to question {position + 1}")
        texts = tuple(text for text, _ in golds)
        yield Sample(
            id=f"QASPER/{split}/{entry.get('question_id') or f'{index}-{position}'}",
            source="QASPER",
            query=string(entry, "question"),
            gt=texts[0],
            answer_type="text",
            instruction=INSTRUCTION,
            document=document,
            references=texts if len(texts) > 1 else None,
            tag=golds[0][1],
        )


def _table(row: Row, key: str) -> list[Row]:
    """The rows of a nested table, be it an object of lists or a list of objects."""
    value: Any = row.get(key)
    if isinstance(value, Mapping):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise BadRow(f"no {key!r}" if value is None else f"{key!r} is no table but {value!r:.60}")
    return value


def _document(row: Row) -> str:
    sections = [
        (section["section_name"], [paragraph for paragraph in section["paragraphs"] if paragraph])
        for section in _table(row, "full_text")
    ]
    parts = [(row.get("title"), []), ("Abstract", [row.get("abstract") or ""]), *sections]
    return "\n\n".join("\n".join(filter(None, [name, *paragraphs])) for name, paragraphs in parts).strip()


def _answer(answer: Row) -> tuple[str, str]:
    """(text, kind) of one annotator's answer; False is an answer, None is not."""
    if answer.get("unanswerable"):
        return UNANSWERABLE, "none"
    if spans := answer.get("extractive_spans"):
        return ", ".join(spans), "extractive"
    if free := (answer.get("free_form_answer") or "").strip():
        return free, "abstractive"
    if answer.get("yes_no") is not None:
        return ("yes" if answer["yes_no"] else "no"), "boolean"
    raise BadRow("an 'answer' is neither unanswerable nor spans, free text, yes or no")


TASK = Task(
    name="QASPER",
    splits=("train", "validation", "test"),
    eval_split="test",
    metric="f1",
    kind="text",
    licence="CC BY 4.0",
    to_samples=to_samples,
    file_patterns=("qasper_{split}.jsonl",),
    hub=Hub("allenai/qasper", revision="refs/convert/parquet"),
)
