"""Replies of models that think aloud, each family with its own marks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentark import thinking
from agentark.thinking import Shown, ends_open, split_thinking, visible, without_marks

MARKS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final <|constrain|>json<|message|>"),
    ("analysis", "assistantfinal"),
]


@pytest.mark.parametrize(("opens", "closes"), MARKS)
def test_marks(opens: str, closes: str) -> None:
    text = f"{opens}Maybe 5?{closes}It is 4."
    assert visible(text) == "It is 4."
    assert split_thinking(text)[0] == "It is 4."
    assert (split_thinking(text)[1] or "").startswith("Maybe 5?")
    assert visible(f"{opens}Maybe 5") is None
    assert split_thinking(f"{opens}Maybe 5") == ("", "Maybe 5")
    assert "think" not in without_marks(text)


def test_prompts_that_open_a_thought() -> None:
    assert ends_open("<assistant><think>\n")
    assert ends_open("[THINK]")
    assert not ends_open("<think>\n\n</think>\n\n")
    assert not ends_open("<assistant>")


def test_prose_is_no_thought() -> None:
    for text in ("The analysis of 5 is final.", "analysis of data", "I think so.", "[think] twice"):
        assert visible(text) == text
        assert split_thinking(text) == (text, None)


PIECES = st.sampled_from(["", " ", "It is 4.", "\\[ 3 < 4 \\]", "analysis", "We", *sum(MARKS, ()), "<", "]"])


@given(st.lists(PIECES, max_size=5).map("".join))
def test_texts_without_a_sign_have_no_mark(text: str) -> None:
    if not any(sign in text for sign in thinking._SIGNS):
        assert thinking._OPEN.search(text) is None
        assert thinking._last_close(text) == 0


@pytest.mark.parametrize(("opens", "closes"), MARKS)
def test_every_mark_has_a_sign(opens: str, closes: str) -> None:
    assert all(any(sign in mark for sign in thinking._SIGNS) for mark in (opens, closes))


@pytest.mark.parametrize(("opens", "closes"), MARKS)
def test_a_growing_text_tells_its_reply_piece_by_piece(opens: str, closes: str) -> None:
    """Sign by sign; what is told together is the reply as it is recorded, and never anything else."""
    reply = "It is 4,\n\n and 3 < 5."
    cases = ((f"{opens}Maybe 5?{closes} {reply} ", False), (f"\n{reply}\n", False), (f"[{reply}]", False))
    for raw, opened in (*cases, (f"Maybe 5?{closes}{reply}", True), ("Maybe 5", True), (f"{opens}Maybe", False)):
        told: list[str] = []
        shown = Shown(told.append, opened)
        for end in range(1, len(raw) + 1):
            shown(raw[:end])
        before = len(told)
        shown.end(split_thinking(raw, opened)[0])
        assert "".join(told) == split_thinking(raw, opened)[0], raw
        assert before > 8 or "Maybe" in raw or raw.startswith("["), raw


def test_a_short_text_that_begins_like_a_mark_is_told_at_its_end() -> None:
    told: list[str] = []
    shown = Shown(told.append)
    shown("<b>4</b>")
    assert told == []
    shown.end("<b>4</b>")
    assert told == ["<b>4</b>"]
