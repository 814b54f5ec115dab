"""Texts cut in their middle."""

from collections.abc import Sequence

import msgspec

from agentark.types import Message, Part

CUT_MARK = "\n[...]\n"


def shortened(text: str, kept: int) -> str:
    """The text with at most `kept` characters of it left, half at its head and half at its tail."""
    half = kept // 2
    return text if len(text) <= kept else text[:half] + CUT_MARK + text[-half:]


def apply_cuts(messages: Sequence[Message], cuts: Sequence[tuple[int, int]]) -> list[Message]:
    """The messages with only (head, tail) characters left of each truncatable part, in order."""
    remaining = iter(cuts)

    def cut(part: Part) -> Part:
        if part.truncate is None:
            return part
        head, tail = next(remaining)
        return msgspec.structs.replace(part, text=part.text[:head] + CUT_MARK + part.text[len(part.text) - tail :])

    return [Message(message.role, tuple(map(cut, message.parts))) for message in messages]
