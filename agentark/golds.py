r"""Gold answers as people write them: which field holds them, the answer alone, and what type of answer it is.

A row holds its gold answer under one of KEYS, as a text, a number, or a list of one. Where that is a whole solution,
the answer follows `####` (GSM8K), stands in the last `\boxed{}` (MATH), or follows "The answer is:" (MetaMathQA). Rows
with options name the right one by its letter, its index (from 0) or its text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from agentark import answers
from agentark.tasks.base import LETTERS, BadRow
from agentark.types import AnswerType

KEYS = ("gt", "final_answer", "ground_truth", "answer", "solution", "response")
"""The first that the row has counts."""
TYPES: tuple[AnswerType, ...] = ("number", "math", "choice", "text")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_WORDS = re.compile(
    r"\\text[a-z]*\s*\{[^{}]*\}|\\[A-Za-z]+|\b(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|gcd|lcm|max|min)\b"
)
"""Words that are part of a formula."""
_LISTED_OPTION = re.compile(r"(?:^|[\s(])([A-J])[.):]")


class Gold(Struct, frozen=True):
    """A gold answer."""

    text: str
    """Empty: the row has none."""
    answer_type: AnswerType
    choices: tuple[str, ...] | None = None
    references: tuple[str, ...] | None = None
    """All of them, where a text has several."""


def answer_in(text: str) -> str:
    """The answer alone, of a gold answer that may be a whole solution as GSM8K's and MATH's are."""
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0].strip()
    boxed = answers.boxes(text)
    return (boxed[-1] if boxed else text).strip()


def read_gold(row: Mapping[str, Any], query: str, asked: str | None) -> Gold:
    """The gold answer of a row.

    Args:
        query: its question.
        asked: type of the answer; None: what the gold answer reads as. Free text has to be asked for.

    Raises:
        BadRow: the gold answer is not of a type that can be checked, or names none of the options.
    """
    if asked is not None and asked not in TYPES:
        raise BadRow(f"answer_type {asked!r} (known: {', '.join(TYPES)})")
    listed = _values(row)
    if (options := _options(row)) is not None and asked in (None, "choice"):
        labels, texts = options
        letter = _letter(_single(listed), labels, texts) if listed else ""
        return Gold(letter, "choice", texts)
    if asked == "text":
        texts = tuple(str(value).strip() for value in listed)
        return Gold(texts[0] if texts else "", "text", references=texts if len(texts) > 1 else None)
    if not listed:
        return Gold("", asked or "text")
    text = answer_in(str(_single(listed)))
    answer_type = asked or type_of(text, query, row)
    if answer_type is None:
        stated = answers.extract(text, "math")
        text = stated.value if stated is not None and stated.how == "answer_is" else text
        answer_type = type_of(text, query, row)
    if answer_type is None or (answer_type == "choice" and answers.normalize(text, "choice") not in LETTERS):
        raise BadRow(
            f"the gold answer {text!r:.60} is neither a number, nor mathematics, nor the letter of an option; "
            'give the row "answer_type": "text" to have it compared as text'
        )
    return Gold(text if answer_type == "math" else answers.normalize(text, answer_type), answer_type)


def _values(row: Mapping[str, Any]) -> list[str | int | float]:
    """The gold answers under the first of the keys that has one."""
    for key in KEYS:
        value = row.get(key)
        values = [item for item in (value if isinstance(value, list | tuple) else [value]) if item not in (None, "")]
        if not all(isinstance(item, str | int | float) and not isinstance(item, bool) for item in values):
            raise BadRow(f"{key!r} is {value!r:.60}; expected a text, a number, or a list of one")
        if values:
            return values
    return []


def _single(values: Sequence[str | int | float]) -> str | int | float:
    if len(values) > 1:
        raise BadRow(f'{len(values)} gold answers; expected one (several only with "answer_type": "text")')
    return values[0]


def type_of(text: str, query: str, row: Mapping[str, Any]) -> AnswerType | None:
    """What a gold answer reads as."""
    letter = re.fullmatch(r"\W*([A-Ja-j])\W*", text)
    if letter and {"A", "B", letter[1].upper()} <= set(_LISTED_OPTION.findall(query)):
        return "choice"
    if any(answers.boxes(str(row.get(key) or "")) for key in KEYS):
        return "math"
    if not re.search(r"[\\/^]", text) and _NUMBER.fullmatch(answers.normalize(text, "number")):
        return "number"
    plain = _WORDS.sub(" ", text)
    is_prose = re.search(r"[^\W\d_]{3,}", plain) is not None
    is_formula = plain != text or re.search(r"[0-9=+*/^<>_|(\[{-]", text) is not None or len(text) == 1
    return "math" if is_formula and not is_prose else None


# ---------------------------------------------------------------- options


def _options(row: Mapping[str, Any]) -> tuple[Sequence[str], tuple[str, ...]] | None:
    """(labels, texts) of options given as a list, {"A": text, ...} or {"label": [...], "text": [...]}; None: none."""
    value = row.get("choices") or row.get("options")
    if not value:
        return None
    if isinstance(value, Mapping):
        whole = {"label", "text"} <= value.keys()
        labels, texts = (value["label"], value["text"]) if whole else (list(value), list(value.values()))
    else:
        labels, texts = LETTERS, value
    if not isinstance(texts, list | tuple):
        raise BadRow(f"the options are {value!r:.60}; expected a list of texts")
    written = ["" if text is None else str(text) for text in texts]
    while written and not written[-1].strip():
        written.pop()
    return [str(label) for label in labels], tuple(written)


def _letter(gold: str | int | float, labels: Sequence[str], texts: Sequence[str]) -> str:
    """The letter of the option that a gold answer names."""
    named = str(gold).strip()
    folded = [" ".join(text.casefold().split()) for text in texts]
    index = gold if isinstance(gold, int) else None
    if index is None and named in labels:
        index = labels.index(named)
    if index is None and folded.count(same := " ".join(named.casefold().split())) == 1:
        index = folded.index(same)
    if index is None and (letter := answers.normalize(named, "choice")) in LETTERS:
        index = LETTERS.index(letter)
    if index is None and named.isdecimal():
        index = int(named)
    if index is None or not 0 <= index < min(len(texts), len(LETTERS)):
        raise BadRow(f"the gold answer {gold!r:.60} names none of the {len(texts)} options")
    return LETTERS[index]
