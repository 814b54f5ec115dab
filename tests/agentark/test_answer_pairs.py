"""The grader against answer pairs that were judged by thinking about the mathematics, not by running it.

`answer_pairs.jsonl` holds {"a", "b", "type", "same"}. What the grader gets wrong is listed below, so that an upgrade
that changes any verdict, for better or worse, is noticed.
"""

import json
from pathlib import Path

from agentark.answers import close_pool, equivalent_many

PAIRS = Path(__file__).parent / "answer_pairs.jsonl"

TAKEN_FOR_EQUAL: set[tuple[str, str]] = set()
TAKEN_FOR_DIFFERENT = {(r"0.1\overline{6}", r"\frac{1}{6}")}  # repeating decimals are not read
FALSE_POSITIVES_OF_THE_PUBLISHED_GRADER = {
    ("50", "0.5"), ("5", "500"), ("1,2", "12"), ("2(3)", "23"), ("(3,1)", "[3,1]"),
}  # fmt: skip


def test_reviewed_pairs() -> None:
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 300
    assert sum(not row["same"] for row in rows) >= 100
    unequal = {(row["a"], row["b"]) for row in rows if not row["same"]}
    assert unequal >= FALSE_POSITIVES_OF_THE_PUBLISHED_GRADER
    verdicts = equivalent_many([(row["a"], row["b"], row["type"]) for row in rows])
    mirrored = equivalent_many([(row["b"], row["a"], row["type"]) for row in rows])
    close_pool()
    assert mirrored == verdicts
    wrong = [(row["same"], row["a"], row["b"]) for row, same in zip(rows, verdicts, strict=True) if same != row["same"]]
    print(
        f"{len(rows)} reviewed pairs, {len(unequal)} unequal: "
        f"{sum(not same for same, _, _ in wrong)} taken for equal, {sum(same for same, _, _ in wrong)} for different"
    )
    assert {(a, b) for same, a, b in wrong if not same} == TAKEN_FOR_EQUAL
    assert {(a, b) for same, a, b in wrong if same} == TAKEN_FOR_DIFFERENT
