"""Turn text or a policy's ids into the token ids that the reward model reads.

A sequence is the prompt, then for each step its tokens and a separator token; the score of a step is read at its
separator. Data, scoring and reward all use `StepCodec.encode`, so they cannot differ. A policy may write a full stop
and a blank line as one merged token, but our sequences have the stop and a separate separator; so its ids are decoded,
split by the rule of agentark.steps (`response_steps`) and encoded again, never scored as they are.

Source: PURE (arXiv 2504.15275) for one separator token after each step.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from agentark.chat_template import question_ids
from agentark.files import struct_of, write_atomically
from agentark.hub import loaded
from agentark.steps import Span, reply_spans
from agentark.types import UserError

StepUnit = Literal["step", "solution"]
SEPARATOR = "\n"
SETTINGS = "prm.json"
"""File in the model's folder; a scorer needs it to make the same sequences as in training."""
MIN_PROMPT = 64
"""Fewest tokens of a prompt that must remain when its middle is cut."""
_log = logging.getLogger(__name__)


class StepSettings(Struct, frozen=True, kw_only=True):
    """What `prm.json` holds."""

    format: int = 1
    separator: str = SEPARATOR
    separator_id: int
    step_unit: StepUnit = "step"
    max_length: int
    """Most tokens of a sequence."""


class Encoded(NamedTuple):
    """A sequence with the positions of its steps."""

    ids: list[int]
    """(T,)"""
    spans: list[Span]
    """Tokens of each step, without its separator; (S,)."""
    cut: int = 0
    """Number of tokens cut from the prompt's middle."""

    @property
    def ends(self) -> list[int]:
        """Positions of the separators, (S,)."""
        return [end for _, end in self.spans]


class Response(NamedTuple):
    """The steps of a policy's response."""

    steps: list[str]
    ends: list[int]
    """Last token of each step, including the blank lines after it; the last step ends at the last token of all. (S,),
    indices into the policy's own ids."""


class TooLong(Exception):
    """The steps alone do not fit; the text gives their number of tokens."""


class StepCodec:
    """Text and policy ids to sequences.

    Args:
        tokenizer: of the reward model.
        settings: see StepSettings; `separator_id` must be the tokenizer's id of `separator`.
    """

    def __init__(self, tokenizer: Any, settings: StepSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.separator_id = settings.separator_id
        self.prompt_ids = lru_cache(maxsize=4096)(lambda prompt: tuple(question_ids(tokenizer, prompt)))

    @classmethod
    def of(cls, tokenizer: Any, separator: str, unit: StepUnit, max_length: int) -> "StepCodec":
        """A codec for a model that is to be trained.

        Raises:
            UserError: the separator is not one token.
        """
        ids = tokenizer.encode(separator, add_special_tokens=False)
        if len(ids) != 1:
            raise UserError(
                f"--step_separator_token {separator!r}: this tokenizer makes {len(ids)} tokens of it ({ids}); "
                "choose a text that is one token, e.g. one of its special tokens"
            )
        if getattr(tokenizer, "chat_template", None) is None:
            _log.warning("the tokenizer has no chat template: prompts are plain text")
        settings = StepSettings(separator=separator, separator_id=ids[0], step_unit=unit, max_length=max_length)
        return cls(tokenizer, settings)

    @classmethod
    def load(cls, folder: Path) -> "StepCodec":
        """The codec a trained model was saved with.

        Raises:
            UserError: the folder holds no reward model of ours, or its tokenizer no longer fits.
        """
        path = folder / SETTINGS
        try:
            settings = struct_of(path, StepSettings, "the settings of a reward model")
        except FileNotFoundError:
            raise UserError(f"--prm {folder}: not a reward model of prm/finetune2.py (no {SETTINGS} in it)") from None
        codec = cls(load_tokenizer(str(folder), "--prm"), settings)
        ids = codec.tokenizer.encode(settings.separator, add_special_tokens=False)
        if ids != [settings.separator_id]:
            raise UserError(f"{path}: separator id {settings.separator_id}, but its tokenizer says {ids}")
        return codec

    def save(self, folder: Path) -> None:
        """Save tokenizer and settings beside the model."""
        self.tokenizer.save_pretrained(folder)
        write_atomically(folder / SETTINGS, msgspec.json.encode(self.settings) + b"\n")

    def steps(self, reply: str) -> list[str]:
        """The steps of a reply's text without its thinking; the whole reply with the step unit `solution`."""
        return [reply[start:end] for start, end in reply_spans(reply, self.settings.step_unit == "solution")]

    def encode(self, prompt: str, steps: Sequence[str]) -> Encoded:
        """The sequence of a solution.

        A prompt that leaves too little room loses its middle; steps are never cut. An empty step is only a separator.

        Raises:
            TooLong: no room is left for the prompt.
        """
        tail: list[int] = []
        spans: list[Span] = []
        for step in steps:  # special tokens spelled out in a text are plain text
            ids = self.tokenizer.encode(step, add_special_tokens=False, split_special_tokens=True) if step else []
            spans.append((len(tail), len(tail) + len(ids)))
            tail += [*ids, self.separator_id]
        head = self.prompt_ids(prompt)
        room = self.settings.max_length - len(tail)
        if room < min(MIN_PROMPT, len(head)):
            raise TooLong(f"{len(tail)} tokens of steps")
        cut = max(0, len(head) - room)
        if cut:
            head = head[: room - room // 2] + head[len(head) - room // 2 :]
        spans = [(len(head) + start, len(head) + end) for start, end in spans]
        return Encoded([*head, *tail], spans, cut)


def response_steps(tokenizer: Any, ids: Sequence[int], unit: StepUnit = "step") -> Response:
    """The steps in a policy's tokens. At least one: an empty response has an empty step."""
    pieces = _pieces(tokenizer, ids)
    text = "".join(pieces)
    spans = reply_spans(text, unit == "solution")
    if not spans:
        return Response([""], [max(0, len(ids) - 1)])
    offsets: list[int] = []  # one past the last character of each token
    for piece in pieces:
        offsets.append((offsets[-1] if offsets else 0) + len(piece))
    ends = []
    token = 0
    for (_, end), (following, _) in pairwise(spans):
        while offsets[token] < end:  # the token with the step's last character,
            token += 1
        last = token
        while last + 1 < len(offsets) and offsets[last + 1] <= following:  # then all that lies before the next step,
            last += 1
            token = last if pieces[last] else token  # whose first character may begin with a token without text
        ends.append(token)
    return Response([text[start:end] for start, end in spans], [*ends, len(ids) - 1])


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds: "" for special tokens and for all but the last of those that share a character.

    Decoded in pieces that end with a line, because a token alone may be a part of a character.
    """
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    plain = [tokenizer.decode([token], **options) for token in ids]
    pieces: list[str] = []
    start = 0
    for position, piece in enumerate(plain):
        if "\n" not in piece and position + 1 < len(plain):
            continue
        line = tokenizer.decode(list(ids[start : position + 1]), **options)
        parts = plain[start : position + 1]
        pieces += parts if "".join(parts) == line else _by_prefix(tokenizer, ids[start : position + 1], options)
        start = position + 1
    whole = tokenizer.decode(list(ids), **options)
    return pieces if "".join(pieces) == whole else _by_prefix(tokenizer, ids, options)


def _by_prefix(tokenizer: Any, ids: Sequence[int], options: dict[str, Any]) -> list[str]:
    """The text that each token adds to the text of all tokens before it; slow, but right for every tokenizer."""
    pieces: list[str] = []
    before = ""
    for position in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[:position]), **options)
        if position < len(ids) and text.endswith("\ufffd"):  # a character that is not complete yet
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        before = text
    return pieces


def load_tokenizer(name: str, flag: str) -> Any:
    """The tokenizer of a model. Raises UserError when there is none."""
    return loaded("AutoTokenizer", name, flag)
