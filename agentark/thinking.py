"""Marks between which models think aloud: one table, for the engines that cut thinking off and for the graders."""

import re
from collections.abc import Callable

_MARKS = (
    (r"<think>", r"</think>"),
    (r"<thinking>", r"</thinking>"),
    (r"<thought>", r"</thought>"),
    (r"<reasoning>", r"</reasoning>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"<seed:think>", r"</seed:think>"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    # gpt-oss, with its special tokens and after a tokenizer has dropped them
    (r"<\|channel\|>\s*(?:analysis|commentary)\b[^<]*<\|message\|>", r"<\|channel\|>\s*final\b.{0,40}?<\|message\|>"),
    (r"\A\s*analysis(?=[A-Z])", r"assistantfinal"),
)
"""Patterns that open and close a thought."""
_SIGNS = ("<", "THINK]", "◁", "analysis", "assistantfinal")
"""Every mark holds one of these: a text without them has none, which is quickly seen."""
LONGEST_MARK = 128
"""Characters of a mark at most."""
_OPEN = re.compile("|".join(opens for opens, _ in _MARKS), re.S)
_CLOSE = re.compile("|".join(closes for _, closes in _MARKS[:-1]) + rf"|(?<=\S){_MARKS[-1][1]}", re.S)
_BEGINS = re.compile(rf"\s*(?:{_OPEN.pattern})", re.S)
_ENDS_OPEN = re.compile(rf"(?:{_OPEN.pattern})\s*\Z", re.S)


def visible(text: str) -> str | None:
    """The text after the last mark that closes a thought, a suffix; None when the thinking never ends."""
    if not any(sign in text for sign in _SIGNS):
        return text
    reply = text[_last_close(text) :]
    return None if _OPEN.search(reply) else reply


def split_thinking(text: str, opened: bool = False) -> tuple[str, str | None]:
    """(reply, thinking) of a raw model text; an unfinished thought has an empty reply.

    Args:
        opened: the prompt itself ended in a mark that opens a thought.
    """
    end = _last_close(text)
    if end:
        closing = list(_CLOSE.finditer(text))[-1]
        return text[end:].strip(), _OPEN.sub("", text[: closing.start()], count=1).strip()
    if opened or _BEGINS.match(text):
        return "", _OPEN.sub("", text, count=1).strip()
    return text.strip(), None


def ends_open(prompt: str) -> bool:
    """Whether a prompt ends inside a thought that it has just opened."""
    return _ENDS_OPEN.search(prompt[-200:]) is not None


def without_marks(text: str) -> str:
    """The text with a space for every mark."""
    return _CLOSE.sub(" ", _OPEN.sub(" ", text))


def _last_close(text: str) -> int:
    """Where the last closing mark ends; 0 where there is none."""
    return max((mark.end() for mark in _CLOSE.finditer(text)), default=0)


class Shown:
    """Tells a reply while its raw text grows: without thinking, and only what `split_thinking` will leave.

    A text that closes a thought it did not open, after words that were told already, is the one case in which more was
    told than the reply holds.

    Args:
        on_text: is given each piece.
        opened: the prompt itself ended in a mark that opens a thought.
    """

    def __init__(self, on_text: Callable[[str], None], opened: bool = False) -> None:
        self._on_text = on_text
        self._opened = opened
        self._told = ""
        self._seen = self._start = 0

    def __call__(self, raw: str) -> None:
        """The raw text so far."""
        for mark in _CLOSE.finditer(raw, max(0, self._seen - LONGEST_MARK)):
            self._start = mark.end()
        self._seen = len(raw)
        if not self._start and (self._opened or _BEGINS.match(raw) or self._may_begin(raw.lstrip())):
            return
        self._tell(raw[self._start :].strip())

    def _may_begin(self, start: str) -> bool:
        """Whether the first words may yet become a mark that opens a thought."""
        like = start[:1] in ("<", "[", "◁") or start[:8] == "analysis"[: len(start)]
        return not self._told and like and len(start) < LONGEST_MARK

    def end(self, reply: str) -> None:
        """The whole reply, as it is recorded."""
        self._tell(reply)

    def _tell(self, text: str) -> None:
        if len(text) > len(self._told) and text.startswith(self._told):
            self._on_text(text[len(self._told) :])
            self._told = text
