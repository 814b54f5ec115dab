r"""Gold answers as people write them: which field holds them, the answer alone, and what type of answer it is.

A row holds its gold answer under one of KEYS, as a text, a number, or a list of one. Where that is a whole solution,
the answer follows `####` (GSM8K), stands in the last `\boxed{}` (MATH), or follows "The answer is:" (MetaMathQA). Rows
with options name the right one by its letter, its index (from 0) or its text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from agentark import answers
from agentark.tasks.base import LETTERS, BadRow, choice_sample
from agentark.types import AnswerType, Sample

KEYS = ("gt", "final_answer", "ground_truth", "answer", "solution", "response")
"""The first that the row has counts."""
TYPES: tuple[AnswerType, ...] = ("number", "math", "choice", "text")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_WORDS = re.compile(
    r"\\text[a-z]*\s*\{[^{}]*\}|\\[A-Za-z]+|\b(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|gcd|lcm|max|min)\b"
)
"""Words that are part of a formula."""
_LISTED_OPTION = re.compile(r"(?:^|[\s(])([A-J])[.):]")


def answer_in(text: str) -> str:
    """The answer alone, of a gold answer that may be a whole solution as GSM8K's and MATH's are."""
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0].strip()
    boxed = answers.boxes(text)
    return (boxed[-1] if boxed else text).strip()


def with_gold(question: Sample, row: Mapping[str, Any], asked: AnswerType | None) -> Sample:
    """A question with the gold answer of its row, and with the row's options.

    Args:
        asked: type of the answer; None: what the gold answer reads as. Free text has to be asked for.

    Raises:
        BadRow: the gold answer is not of a type that can be checked, or names none of the options.
    """
    if asked not in (None, *TYPES):
        raise BadRow(f"answer_type {asked!r} (known: {', '.join(TYPES)})")
    golds, options = _golds(row), _options(row)
    if options is not None and asked in (None, "choice"):
        labels, texts = options
        index = _index(_single(golds), labels, texts) if golds else 0
        posed = choice_sample(id="", source="", question=question.query, choices=texts, gold=index)
        query = question.query if _lists(question.query, texts) else posed.query
        gold = posed.gt if golds else ""
        return replace(question, query=query, gt=gold, answer_type="choice", choices=posed.choices)
    if asked == "text" or not golds:
        written = [str(gold).strip() for gold in golds] or [""]
        several = tuple(written) if len(written) > 1 else None
        return replace(question, gt=written[0], answer_type=asked or "text", references=several)
    text = answer_in(str(_single(golds)))
    answer_type = asked or type_of(text, question.query, row)
    if answer_type is None:
        stated = answers.extract(text, "math")
        text = stated.value if stated is not None and stated.how == "answer_is" else text
        answer_type = type_of(text, question.query, row)
    if answer_type is None or (answer_type == "choice" and answers.normalize(text, "choice") not in LETTERS):
        raise BadRow(
            f"the gold answer {text!r:.60} is neither a number, nor mathematics, nor the letter of an option; "
            'give the row "answer_type": "text" to have it compared as text'
        )
    return replace(
        question, gt=text if answer_type == "math" else answers.normalize(text, answer_type), answer_type=answer_type
    )


def _golds(row: Mapping[str, Any]) -> list[str | int | float]:
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
    """The type that a gold answer reads as."""
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


def _index(gold: str | int | float, labels: Sequence[str], texts: Sequence[str]) -> int:
    """Which option a gold answer names."""
    named = str(gold).strip()
    folded, same = ([" ".join(text.casefold().split()) for text in of] for of in (texts, [named]))
    index = -1
    if isinstance(gold, int):
        index = gold
    elif named in labels:
        index = labels.index(named)
    elif folded.count(same[0]) == 1:
        index = folded.index(same[0])
    elif (letter := answers.normalize(named, "choice")) in LETTERS:
        index = LETTERS.index(letter)
    elif named.isdecimal():
        index = int(named)
    if not 0 <= index < len(texts):
        raise BadRow(f"the gold answer {gold!r:.60} names none of the {len(texts)} options")
    return index


def _lists(query: str, texts: Sequence[str]) -> bool:
    """Whether a question names its options itself."""
    lines = (rf"\b{letter}[.):]\s*{re.escape(text)}" for letter, text in zip(LETTERS, texts, strict=False))
    return all(re.search(line, query) for line in lines)
