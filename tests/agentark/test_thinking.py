"""Replies of models that think aloud, each family with its own marks."""

import pytest

from agentark.thinking import ends_open, split_thinking, visible, without_marks

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
