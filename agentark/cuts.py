"""Texts cut in their middle."""

from collections.abc import Sequence
from typing import Any

import msgspec

from agentark.types import Message, Part

CUT_MARK = "\n[...]\n"


def shortened(text: str, kept: int) -> str:
    """The text with at most `kept` characters of it left, half at its head and half at its tail."""
    half = kept // 2
    return text if len(text) <= kept else text[:half] + CUT_MARK + text[-half:]


def ends(text: str, offsets: Sequence[tuple[int, int]], kept: int) -> tuple[int, int]:
    """(characters at the head, at the tail) that hold `kept` tokens of a text.

    Args:
        offsets: character spans of its tokens.
    """
    head, tail = kept - kept // 2, kept // 2
    start = offsets[head - 1][1] if head else 0
    end = offsets[len(offsets) - tail][0] if tail else len(text)
    return start, len(text) - max(start, end)


def in_tokens(text: str, tokenizer: Any, most: int) -> tuple[str, int]:
    """(the text, its middle cut until it has at most so many tokens; their number)."""
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    shown, length, kept = text, len(coded["input_ids"]), most
    while length > most and kept > 0:
        head, tail = ends(text, coded["offset_mapping"], kept)
        shown = text[:head] + CUT_MARK + text[len(text) - tail :]
        length = len(tokenizer.encode(shown, add_special_tokens=False))
        kept -= max(1, length - most)  # for the mark, and for what is tokenised otherwise beside it
    return shown, length


def apply_cuts(messages: Sequence[Message], cuts: Sequence[tuple[int, int]]) -> list[Message]:
    """The messages with only (head, tail) characters left of each truncatable part, in order."""
    remaining = iter(cuts)

    def cut(part: Part) -> Part:
        if part.truncate is None:
            return part
        head, tail = next(remaining)
        return msgspec.structs.replace(part, text=part.text[:head] + CUT_MARK + part.text[len(part.text) - tail :])

    return [Message(message.role, tuple(map(cut, message.parts))) for message in messages]
