"""The one rule that splits a solution into steps. prm/steps.py goes on from here to token ids."""

import re

from agentark import answers

_BLANK_LINES = re.compile(r"[^\S\n]*\n[^\S\n]*\n\s*")

Span = tuple[int, int]
"""First character or token of a step, and one past its last."""


def step_spans(text: str) -> list[Span]:
    """Character spans of a solution's steps: the texts between blank lines, none of them empty."""
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    spans = []
    for gap in _BLANK_LINES.finditer(text, start, end):
        spans.append((start, gap.start()))
        start = gap.end()
    return [(first, last) for first, last in [*spans, (start, end)] if first < last]


def split_steps(text: str) -> list[str]:
    """Steps of a solution: the texts between blank lines, none of them empty."""
    return [text[start:end] for start, end in step_spans(text)]


def reply_spans(text: str, whole: bool = False) -> list[Span]:
    """`step_spans` of what a model replied, its thinking left out; none while it is still thinking.

    Args:
        text: the reply as the model wrote it.
        whole: the reply is one step.
    """
    reply = answers.visible(text)
    if reply is None:
        return []
    offset = len(text) - len(reply)
    spans = step_spans(reply)
    if whole and spans:
        spans = [(spans[0][0], spans[-1][1])]
    return [(offset + start, offset + end) for start, end in spans]


def one_step(text: str) -> str:
    """A text that is known to be one step: its blank lines become line ends, so that it stays one."""
    return "\n".join(split_steps(text))
