"""What the teacher reads: hand-worked debates, every kind of context."""

from pathlib import Path
from typing import Any

import pytest
from label_cases import debate, write

import label
from agentark import answers
from agentark.cuts import CUT_MARK
from agentark.labelled import Question, merge, read_all
from agentark.types import Record
from distill.opd.contexts import KINDS, Asked, ask, context, derangement


def says(value: int, words: str) -> str:
    return f"{words} \\boxed{{{value}}}."


RECORDS = (
    debate(
        "GSM8K/train/0",
        "7",
        [
            [says(7, "Sure from the start:"), says(8, "A slip:"), says(9, "Lost:")],
            [says(7, "Still sure:"), says(7, "I see it now:"), says(9, "Lost for good:")],
        ],
        says(7, "The team says"),
    ),
    debate("GSM8K/train/1", "5", [[says(4, "Four:"), says(4, "Also four:"), says(5, "Alone with five:")]]),
    debate("GSM8K/train/2", "3", [["<think>hidden</think>" + says(3, "Three it is:")]]),
)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("opd")
    infer = write(folder / "llm_debate_infer.jsonl", *RECORDS)
    assert label.main(["--input", str(infer), "--dataset_name", "GSM8K", "--rules_only"]) == 0
    yield list(merge(read_all([infer.with_name(f"{infer.stem}_labeled_by_rules.jsonl")])))
    answers.close_pool()


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_model)


def asked(questions: list[Question], kind: Any, tokenizer: Any, **options: Any) -> list[Asked]:
    given = {"room": 1000, "most": None, "seed": 0, "thinking": None, **options}
    return ask(questions, kind, tokenizer, **given)[0]


def test_a_transcript_shows_the_right_members_alone_and_the_corrected_one_first(questions: list[Question]) -> None:
    text = context(questions[0], "transcript") or ""
    assert text == (
        f"[Solution 1]\n{says(8, 'A slip:')}\n\nAfter reading the others:\n\n{says(7, 'I see it now:')}\n\n"
        f"[Solution 2]\n{says(7, 'Sure from the start:')}\n\nAfter reading the others:\n\n{says(7, 'Still sure:')}\n\n"
        f"[Solution 3]\n{says(7, 'The team says')}"
    )


def test_a_solution_is_the_last_reply_of_the_best_member(questions: list[Question]) -> None:
    assert context(questions[0], "solution") == says(7, "I see it now:")
    assert context(questions[2], "solution") == says(3, "Three it is:"), "thinking is not shown"


def test_gold_and_vote_are_answers_alone_and_a_vote_may_be_wrong(questions: list[Question]) -> None:
    assert [context(question, "gold") for question in questions] == ["7", "5", "3"]
    assert [context(question, "vote") for question in questions] == ["7", "4", "3"]
    assert [context(question, "none") for question in questions] == ["", "", ""]


def test_nothing_but_gold_reads_the_gold_answer(questions: list[Question]) -> None:
    """With another gold answer on the sample, no text changes."""
    import msgspec

    other = [
        msgspec.structs.replace(question, sample=msgspec.structs.replace(question.sample, gt="GOLD"))
        for question in questions
    ]
    for kind in KINDS:
        texts = [context(question, kind) for question in other]
        assert (texts == ["GOLD"] * 3) == (kind == "gold")
        assert kind == "gold" or texts == [context(question, kind) for question in questions]


def test_student_and_teacher_read_the_same_question(questions: list[Question], tokenizer: Any) -> None:
    for kind in KINDS:
        for one in asked(questions, kind, tokenizer):
            assert one.sample.prompt in one.prompt
            assert one.sample.prompt in one.teacher_prompt
            assert (one.prompt == one.teacher_prompt) == (kind == "none")
            assert one.prompt.endswith("assistant\n")
            assert one.teacher_prompt.endswith("assistant\n")


def test_shuffled_gives_every_question_the_transcript_of_another(questions: list[Question], tokenizer: Any) -> None:
    own = {one.sample.id: one for one in asked(questions, "transcript", tokenizer)}
    shuffled = asked(questions, "shuffled", tokenizer, seed=3)
    assert sorted(one.context_of for one in shuffled) == sorted(own)
    for one in shuffled:
        assert one.context_of != one.sample.id
        assert one.context_tokens == own[one.context_of].context_tokens
    assert shuffled == asked(questions, "shuffled", tokenizer, seed=3)


@pytest.mark.parametrize("n", range(2, 9))
def test_a_derangement_leaves_nothing_in_its_place(n: int) -> None:
    orders = [derangement(n, seed) for seed in range(30)]
    for order in orders:
        assert sorted(order) == list(range(n))
        assert all(place != other for place, other in enumerate(order))
    assert n == 2 or len({tuple(order) for order in orders}) > 1


def test_a_long_context_is_cut_in_its_middle(questions: list[Question], tokenizer: Any) -> None:
    whole, cut = (asked(questions[:1], "transcript", tokenizer, most=most)[0] for most in (None, 40))
    assert not whole.cut
    assert whole.context_tokens > 40
    assert cut.cut
    assert 30 <= cut.context_tokens <= 40
    assert CUT_MARK in cut.teacher_prompt
    assert cut.prompt == whole.prompt
    assert "[Solution 1]" in cut.teacher_prompt
    assert "The team says" in cut.teacher_prompt


def test_the_whole_prompt_fits_and_questions_without_room_count(questions: list[Question], tokenizer: Any) -> None:
    for room in (110, 130, 1000):
        rows, counts = ask(questions, "transcript", tokenizer, room=room, most=None, seed=0, thinking=None)
        assert len(rows) + counts["too long"] == 3
        for one in rows:
            assert len(tokenizer.encode(one.teacher_prompt, add_special_tokens=False)) <= room
    assert ask(questions, "transcript", tokenizer, room=60, most=None, seed=0, thinking=None)[1]["too long"] == 3


def test_a_question_with_braces_stays_as_it_is(tokenizer: Any) -> None:
    record: Record = debate("GSM8K/train/9", "1", [["\\boxed{1}"]], query="Is {context} one? {question}")
    from agentark.trajectories import Reply, Trajectory

    path = Trajectory(
        method="m", teacher="t", solution=1, agent="agent_1", kind="always_right", verdict=True, truncated=False,
        replies=(Reply("It is {context}. \\boxed{1}", None, 1, True),),
    )  # fmt: skip
    (one,) = asked([Question(record.sample(), [path])], "solution", tokenizer)
    assert "Is {context} one? {question}" in one.teacher_prompt
    assert "It is {context}." in one.teacher_prompt
