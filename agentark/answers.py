"""Answers: finding them in a reply, and deciding when two of them are the same.

Extraction and everything a string or an exact number can decide is pure and fast. Only what needs algebra goes to
math-verify, in worker processes that are killed when they hang: sympy can outlast its own timeouts and grow without
bound, and math-verify is not thread-safe. sympy is imported in the workers only.

What math-verify 0.9 would get wrong is decided here: it takes (3,1) for [3,1] and 50% for 0.5, reads a word as a
product of letters (so anagrams are equal) and 2(3) as a mixed number.
"""

import asyncio
import atexit
import functools
import logging
import math
import re
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from fractions import Fraction
from string import ascii_uppercase
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from agentark.metrics import squad_normalize
from agentark.thinking import visible
from agentark.types import AnswerType

if TYPE_CHECKING:
    from pebble import ProcessPool

_log = logging.getLogger(__name__)

How = Literal["boxed", "hash", "answer_is", "letter", "option", "last_number", "text"]


__all__ = [
    "Answer",
    "boxes",
    "close_pool",
    "equivalent",
    "equivalent_many",
    "equivalent_sync",
    "extract",
    "group",
    "majority",
    "normalize",
    "quick_same",
    "visible",
]


class Answer(Struct, frozen=True):
    """An answer found in a reply."""

    value: str
    """Numbers in canonical form, choices as their letter, everything else as it was written."""
    how: How
    """What it was recognised by; `last_number` is the last resort and a guess."""


# --- extraction -----------------------------------------------------------------------------------------------------

_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*(\{|[0-9]+|[A-Za-z]\b)|\\.|[{}]", re.S)
_ESCAPE_OR_BRACE = re.compile(r"\\.|[{}]", re.S)
_HASH = re.compile(r"^\s*####[ \t]*(\S.*?)[ \t]*$", re.M)
_ANSWER_IS = re.compile(
    r"\banswers?\b(?:\s+(?:choice|option|letter)\b)?(?:\s+(?:to|for)\s[^.:\n]{0,80}?)?[*_\"' ]*"
    r"(?:\b(?:is|was|(?:would|should|must)\s+be)\b(?!\s+not\b)\s*:?|[:=])",
    re.I,
)
_STATEMENTS = 20
"""How many of the last "answer is" are looked at."""
_REACH = 400
"""Characters after "answer is" in which a number, formula or letter must stand."""
_LINE_ANSWER = re.compile(r"^\W*(?:(?:so|thus|therefore|hence|and|the|my|our|final|short|correct)\W+)*$", re.I)
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_SENTENCE_END = re.compile(r"(?<!\\)[.;!?](?=\s|$)")
_PROSE = re.compile(r"(?:(?<![\\A-Za-z])[A-Za-z']{2,}[\s,]+){2,}")
_HEADING = re.compile(rf"^[^\w\\]*[A-Za-z]{{3,}}|{_PROSE.pattern}")


def extract(text: str, answer_type: AnswerType, choices: Sequence[str] | None = None) -> Answer | None:
    r"""The answer a reply gives, or None.

    Looked for in this order: the last complete `\boxed{...}`; `#### x`; "answer is x" or "Answer: x"; the letter of an
    option, or an option's full text; for numbers and maths the last number. A text answer is what follows "answer is"
    where the reply closes with it, else the whole reply (`####` is a heading in prose, so it does not count there).

    Args:
        text: the reply; only what follows its thinking counts.
        answer_type: of the sample.
        choices: texts of the options, when answer_type is `choice`; without them the letters A to J count.
    """
    reply = visible(text)
    if reply is None or not reply.strip():
        return None
    if answer_type == "code":
        return Answer(reply.strip(), "text")
    found = _boxed_answer(reply, answer_type, choices)
    if found is None and answer_type != "text":
        found = _hash_answer(reply, answer_type, choices)
    if found is None:
        found = _stated_answer(reply, answer_type, choices)
    if found is not None:
        return found
    if answer_type == "text":
        return Answer(reply.strip(), "text")
    return _chosen(reply, choices) if answer_type == "choice" else _last_number(reply)


def boxes(text: str) -> list[str]:
    r"""Contents of every complete `\boxed{...}` or `\fbox{...}`, in order; `\boxed 5` counts as `5`."""
    found: list[tuple[int, str]] = []
    opened: list[int | None] = []  # per open brace: where its content starts, if it opens a box
    for match in _BOX_OR_BRACE.finditer(text):
        if match[1] == "{":
            opened.append(match.end())
        elif match[1]:
            found.append((match.start(), match[1]))
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened and (start := opened.pop()) is not None:
            found.append((start, text[start : match.start()]))
    return [content for _, content in sorted(found)]


def _closing_brace(text: str, start: int) -> int | None:
    r"""Index of the brace that closes the one at `start`; escaped braces (`\{`) don't count."""
    depth = 0
    for match in _ESCAPE_OR_BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _read(value: str, answer_type: AnswerType, choices: Sequence[str] | None) -> str | None:
    """An answer that stands alone (in a box, after ####), or None when it can be none of this type."""
    if answer_type == "choice":
        return _letter(value, choices)
    if answer_type == "number":
        number = _number(value, answer_type)
        return _digits(number) if number is not None else _trim(value) or None
    return (_unwrapped(_trim(value)) if answer_type == "text" else _trim(value)) or None


def _boxed_answer(reply: str, answer_type: AnswerType, choices: Sequence[str] | None) -> Answer | None:
    for content in reversed(boxes(reply)):
        value = _read(content, answer_type, choices)
        if value is not None:
            return Answer(value, "boxed")
    return None


def _hash_answer(reply: str, answer_type: AnswerType, choices: Sequence[str] | None) -> Answer | None:
    for line in reversed(_HASH.findall(reply)):
        if answer_type == "number" and _number(line, answer_type) is None:
            continue
        if answer_type == "math" and _HEADING.search(f"{line} "):
            continue
        value = _read(line, answer_type, choices)
        if value is not None:
            return Answer(value, "hash")
    return None


def _stated_answer(reply: str, answer_type: AnswerType, choices: Sequence[str] | None) -> Answer | None:
    for match in reversed(list(_ANSWER_IS.finditer(reply))[-_STATEMENTS:]):
        tail = reply[match.end() :].strip(" \t\r\n*_:")
        line = tail.split("\n", 1)[0].strip()
        if not line:
            continue
        if answer_type != "text":
            tail, line = tail[:_REACH], line[:_REACH]
        if answer_type == "text":
            before = reply[: match.start()].rpartition("\n")[2]
            closes = "\n" not in tail
            value = _trim(line) if closes or _LINE_ANSWER.match(before) else None
        elif answer_type == "choice":
            value = _letter(line, choices)
        elif answer_type == "number":
            value = _stated_number(line)
        else:
            value = _stated_maths(tail, line)
        if value:
            return Answer(value, "answer_is")
    return None


def _stated_number(line: str) -> str | None:
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    numbers = _numbers(sentence.rpartition("=")[2]) or _numbers(sentence)
    return _digits(numbers[0]) if numbers else None


def _stated_maths(tail: str, line: str) -> str | None:
    span = _MATH_SPAN.match(tail) or _MATH_SPAN.search(line)
    if span:
        content = _trim(next(group for group in span.groups() if group is not None))
        if content and not _PROSE.search(content):
            return content
    sentence = _trim(_SENTENCE_END.split(line, maxsplit=1)[0])
    return _stated_number(line) if _PROSE.search(sentence + " ") else sentence or None


def _last_number(reply: str) -> Answer | None:
    numbers = _numbers(reply)
    return Answer(_digits(numbers[-1]), "last_number") if numbers else None


# --- choices --------------------------------------------------------------------------------------------------------

_WHOLE_LETTER = re.compile(r"\W*(?:(?:option|choice|answer)\W+)?([A-Za-z])\W*", re.I)
_LEADING_LETTER = re.compile(
    r"[\s*_(\[$\"'`]*(?:(?i:option|choice)\s+)?[*_(\"]*([A-J])"
    r"(?:[)\].:,;*\"'`$]|\s+[-–—]|\s+(?:because|since|as|which|with|for|is)\b|\s+\()"
)
_LETTER_FORMS = (
    re.compile(
        r"\b([A-J])\W{0,3}\s+is\s+(?:therefore\s+)?(?:the\s+)?(?:correct|right|best|true)\b"
        r"|\b(?i:correct|right|best)\s+(?i:option|choice|one)\s+is\W{1,4}([A-J])\b"
        r"|\b(?i:choose|chose|select|pick|go with)\s+(?i:option\s+|choice\s+)?[*_(\"]*([A-J])\b"
    ),
    re.compile(r"^[^\w\n]*([A-J])[^\w\n]*$", re.M),
    re.compile(
        r"\*\*\(?([A-J])(?:[.:)]|\*\*)|\(([A-J])\)|\b(?i:option|choice)\s+[*_(\"]*([A-J])\b|^[ \t]*([A-J])[.):,][ \t]",
        re.M,
    ),
)


def _letters(choices: Sequence[str] | None) -> str:
    return ascii_uppercase[: len(choices) if choices else 10]


def _letter(value: str, choices: Sequence[str] | None) -> str | None:
    """The option that a short answer names, by its letter or its full text; the article "A" is not a letter."""
    value = _unwrapped(value)
    whole = _WHOLE_LETTER.fullmatch(value)
    if whole and whole[1].upper() in _letters(choices):
        return whole[1].upper()
    named = [index for index, choice in enumerate(choices or ()) if _folded(choice) == _folded(value)]
    if len(named) == 1:
        return ascii_uppercase[named[0]]
    leading = _LEADING_LETTER.match(value)
    return leading[1] if leading and leading[1] in _letters(choices) else None


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .\"'`$*")


def _chosen(reply: str, choices: Sequence[str] | None) -> Answer | None:
    """The one letter the reply (or at least its last line) singles out; else the one option its last line spells."""
    last_line = reply.strip().rpartition("\n")[2]
    for form in _LETTER_FORMS:
        for part in (reply, last_line):
            letters = {match[match.lastindex or 0] for match in form.finditer(part)} & set(_letters(choices))
            if len(letters) == 1:
                return Answer(letters.pop(), "letter")
    line = _folded(last_line)
    spelled = [
        (index, _folded(choice))
        for index, choice in enumerate(choices or ())
        if _folded(choice) == line or (len(choice) > 3 and _spelled(_folded(choice), line))
    ]
    longest = [(i, text) for i, text in spelled if not any(text != other and text in other for _, other in spelled)]
    return Answer(ascii_uppercase[longest[0][0]], "option") if len(longest) == 1 else None


def _spelled(choice: str, line: str) -> bool:
    return re.search(rf"(?<!\w)(?<!\bnot ){re.escape(choice)}(?!\w)", line) is not None


# --- numbers --------------------------------------------------------------------------------------------------------

_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"""
    (?P<sign>(?<![0-9A-Za-z)\]}}])[-+])?                     # "5-3" holds no -3
    (?<![0-9A-Za-z_.^])                                     # nor is there a number in H2O, x_1, 2^10
    (?:
        (?P<whole>[0-9]+)?[ ]*\\[dt]?frac[ ]*
        (?:\{{\s*(?P<top>-?[0-9]+)\s*\}}|(?P<top1>[0-9]))[ ]*(?:\{{\s*(?P<bottom>[0-9]+)\s*\}}|(?P<bottom1>[0-9]))
      | (?P<mixed>[0-9]+)[ ]+(?P<mixed_top>[0-9]+)/(?P<mixed_bottom>[0-9]+)
      | (?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9])|[ ]*/[ ]*(?P<over>{_DECIMAL}))?
    )
    (?:[ ]*(?P<scale>{"|".join(_SCALES)})s?\b)?
    (?![0-9]*(?:st|nd|rd|th)\b)                             # "on the 3rd day"
    """,
    re.X,
)
_TEXT_COMMAND = r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mathbf|mbox)\s*"
_WRAPPER = re.compile(rf"{_TEXT_COMMAND}(?=\{{)")
_UNIT = re.compile(rf"\s*{_TEXT_COMMAND}\{{([^{{}}]*)\}}(?:\^\{{?[0-9]\}}?)?$")
_UNIT_WORDS = re.compile(r"(?<=[0-9}])[\s/]*[A-Za-z]+(?:[\s/-]+[A-Za-z]+)*(?:\^\{?[0-9]\}?)?$")
_SPACING = re.compile(r"\\! ?|\\[,;:]|\\ (?= )|\\(?:left|right|big|Big|bigg|Bigg)[lr]?(?![A-Za-z])")
_DEGREES = re.compile(r"\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|°)")


def _plain(text: str) -> str:
    """Without what only sets type: spacing and size commands, escapes of `$` and `,`, look-alike characters."""
    text = text.replace("−", "-").replace("\u00a0", " ").replace("{,}", ",").replace("\\$", "$")
    return _SPACING.sub("", text)


def _trim(value: str) -> str:
    """Without surrounding space, emphasis, math delimiters and full stop."""
    value = value.strip(" \t\r\n*_`")
    if value.endswith(".") and not value.endswith(("\\right.", "..")):
        value = value[:-1].rstrip(" *_`")
    span = _MATH_SPAN.fullmatch(value)
    return next(group for group in span.groups() if group is not None).strip() if span else value


def _unwrapped(value: str) -> str:
    r"""The inside of a value that is one `\text{...}` (or `\textbf`, `\mathrm`, ...) as a whole."""
    value = value.strip()
    for _ in range(3):
        wrapper = _WRAPPER.match(value)
        if wrapper is None or _closing_brace(value, wrapper.end()) != len(value) - 1:
            break
        value = value[wrapper.end() + 1 : -1].strip()
    return value


@functools.lru_cache(maxsize=4096)
def _number(value: str, answer_type: AnswerType) -> Fraction | None:
    """The exact number that a whole answer stands for, currency, %, degrees and units aside; else None."""
    if len(value) > 300:
        return None
    text = _unwrapped(_DEGREES.sub("", _trim(_plain(value).replace("$", ""))))
    text = re.sub(r"\s*\\?%$", "", _trim(text))
    if answer_type == "number":
        text = re.sub(r"^[A-Za-z]\w*\s*=\s*", "", text)
    unit = _UNIT.search(text)
    if unit:
        text = text[: unit.start()] + (f" {unit[1].strip()}" if unit[1].strip() in _SCALES else "")
    elif answer_type == "number" and not _NUMBER.fullmatch(text):
        text = _UNIT_WORDS.sub("", text)
    match = _NUMBER.fullmatch(re.sub(r"^([-+])\s+", r"\1", text))
    return _fraction(match) if match else None


def _numbers(text: str) -> list[Fraction]:
    """The numbers in running text, in order."""
    plain = re.sub(r"([-+]?)\$", lambda dollar: dollar[1] or " ", _plain(text))
    found = (_fraction(match) for match in _NUMBER.finditer(plain))
    return [number for number in found if number is not None]


def _fraction(match: re.Match[str]) -> Fraction | None:
    part = match.groupdict()
    if len(match[0]) > 300:
        return None
    try:
        if part["decimal"]:
            number = _exact(part["decimal"]) / _exact(part["over"] or "1") * Fraction(10) ** int(part["exponent"] or 0)
        elif part["mixed"]:
            number = int(part["mixed"]) + Fraction(int(part["mixed_top"]), int(part["mixed_bottom"]))
        else:
            top, bottom = part["top"] or part["top1"], part["bottom"] or part["bottom1"]
            number = int(part["whole"] or 0) + Fraction(int(top), int(bottom))
    except ZeroDivisionError:
        return None
    number *= _SCALES.get(part["scale"] or "", 1)
    return -number if part["sign"] == "-" else number


def _exact(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", ""))


def _digits(number: Fraction) -> str:
    """Canonical form: an integer, a terminating decimal, else p/q."""
    rest, places = number.denominator, 0
    while common := math.gcd(rest, 10) - 1:
        rest //= common + 1
        places += 1
    if number.denominator == 1 or rest != 1:
        return str(number)
    scaled = str(abs(number) * 10**places).rjust(places + 1, "0")
    return f"{'-' if number < 0 else ''}{scaled[:-places]}.{scaled[-places:]}"


# --- sameness -------------------------------------------------------------------------------------------------------

_ANY_TEXT = re.compile(rf"{_TEXT_COMMAND}\{{([^{{}}]*)\}}")
_WORDS = re.compile(r"\(?[A-Za-z]+(?:[ '-][A-Za-z]+)*\)?")
_BRACKETS = (("\\{", "⦃"), ("\\}", "⦄"), ("\\lbrace", "⦃"), ("\\rbrace", "⦄"), ("\\langle", "⟨"), ("\\rangle", "⟩"))


@functools.lru_cache(maxsize=4096)
def normalize(value: str, answer_type: AnswerType) -> str:
    """Canonical form of one answer: equal forms are equal answers, different forms may still be equal.

    Numbers become an integer, a decimal or p/q; a choice its letter; text goes through SQuAD normalisation; maths
    loses what only sets type.
    """
    if answer_type == "choice":
        return _letter(value, None) or _folded(value)
    if answer_type == "text":
        return squad_normalize(value) or value.strip().casefold()
    if answer_type == "code":
        return value.strip()
    number = _number(value, answer_type)
    if number is not None:
        return _digits(number)
    text = _ANY_TEXT.sub(r" \1 ", _plain(_trim(value)).replace("dfrac", "frac").replace("tfrac", "frac"))
    text = _DEGREES.sub("", text.replace("$", "").replace("\\%", "").replace("%", ""))
    text = " ".join(text.split())
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", text)


def quick_same(a: str, b: str, answer_type: AnswerType) -> bool | None:
    """Whether two answers are the same, as far as strings and exact numbers can tell; None: needs algebra."""
    left, right = normalize(a, answer_type), normalize(b, answer_type)
    if left == right:
        return True
    if answer_type not in ("number", "math"):
        return False
    numbers = [_number(value, answer_type) is not None for value in (a, b)]
    if all(numbers):
        return False
    if any(numbers) and max(_commas(left), _commas(right)) > 0:
        return False  # a list against one number
    if all(_WORDS.fullmatch(value) for value in (left, right)) and _is_text(a, left) and _is_text(b, right):
        return left.casefold().strip("()") == right.casefold().strip("()")
    brackets = _brackets(left), _brackets(right)
    return False if all(brackets) and brackets[0] != brackets[1] else None


def _is_text(value: str, words: str) -> bool:
    return len(words) > 3 or _ANY_TEXT.search(value) is not None


def _commas(normal: str) -> int:
    """Commas that separate elements, inside brackets or not; those inside numbers don't."""
    return len(re.sub(r"(?<![0-9])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])", "", normal).split(",")) - 1


def _brackets(normal: str) -> list[str]:
    r"""The kinds of brackets of a tuple, interval or set, or of a union of them; empty for anything else."""
    for command, bracket in _BRACKETS:
        normal = normal.replace(command, bracket)
    kinds = []
    for piece in re.split(r"\\cup|∪", normal):
        piece = piece.strip()
        if len(piece) < 3 or piece[0] not in "([⦃⟨" or piece[-1] not in ")]⦄⟩" or "," not in piece:
            return []
        depth = 0
        for index, char in enumerate(piece):
            depth += (char in "([⦃⟨") - (char in ")]⦄⟩")
            if depth == 0 and index < len(piece) - 1:
                return []
        kinds.append(piece[0] + piece[-1])
    return sorted(kinds)


# --- algebra, in worker processes -----------------------------------------------------------------------------------

_WORKERS = 2
_TIMEOUT = 10.0
"""Seconds of one comparison (they take about 20 ms); after that its process is killed."""
_TASKS_PER_WORKER = 2000
"""Then a fresh process takes over, so that sympy's caches don't grow for ever."""
_MEMORY = 4 * 2**30
"""Bytes of address space of one worker."""

_FAILURES = {"TimeoutError": f"no verdict within {_TIMEOUT:.0f} s", "ProcessExpired": "the worker process died"}

_warned: set[str] = set()
_pool: "ProcessPool | None" = None
_pool_lock = threading.Lock()


async def equivalent(a: str, b: str, answer_type: AnswerType) -> bool:
    """Whether two answers are the same; symmetric. A comparison that hangs or crashes counts as "not the same"."""
    decided = quick_same(a, b, answer_type)
    if decided is not None:
        return decided
    try:
        return await asyncio.wrap_future(_schedule(a, b))
    except _failures() as error:
        _warn(type(error).__name__, a, b)
        return False


def equivalent_sync(a: str, b: str, answer_type: AnswerType) -> bool:
    """`equivalent` for code without an event loop (it blocks)."""
    return equivalent_many([(a, b, answer_type)])[0]


def equivalent_many(pairs: Sequence[tuple[str, str, AnswerType]]) -> list[bool]:
    """Verdicts of many pairs (a, b, answer_type), all workers busy at once; blocks."""
    verdicts: list[bool | Future[bool]] = []
    for a, b, answer_type in pairs:
        decided = quick_same(a, b, answer_type)
        verdicts.append(_schedule(a, b) if decided is None else decided)
    return [
        verdict if isinstance(verdict, bool) else _result(verdict, a, b)
        for verdict, (a, b, _) in zip(verdicts, pairs, strict=True)
    ]


async def group(answers: Sequence[str | None], answer_type: AnswerType) -> list[int | None]:
    """For each answer the index of the first one equivalent to it (its own, if it is new); None stays None."""
    groups: list[int | None] = []
    leaders: list[tuple[int, str]] = []
    for index, answer in enumerate(answers):
        if answer is None:
            groups.append(None)
            continue
        same = await asyncio.gather(*(equivalent(known, answer, answer_type) for _, known in leaders))
        leader = next((leader for (leader, _), is_same in zip(leaders, same, strict=True) if is_same), index)
        if leader == index:
            leaders.append((index, answer))
        groups.append(leader)
    return groups


async def majority(answers: Sequence[str | None], answer_type: AnswerType) -> int | None:
    """Index of the first member of the largest group of equivalent answers, ties to the first seen.

    None when there is no answer at all; a None among the answers does not vote.
    """
    votes = Counter(leader for leader in await group(answers, answer_type) if leader is not None)
    return votes.most_common(1)[0][0] if votes else None


def close_pool() -> None:
    """End the worker processes, if any were started; the next comparison starts new ones."""
    global _pool
    with _pool_lock:
        pool, _pool = _pool, None
    if pool is not None:
        pool.stop()
        pool.join()


def _schedule(a: str, b: str) -> Future[bool]:
    global _pool
    with _pool_lock:
        if _pool is None:
            import multiprocessing

            from pebble import ProcessPool

            _pool = ProcessPool(
                max_workers=_WORKERS,
                max_tasks=_TASKS_PER_WORKER,
                initializer=_start_worker,
                context=multiprocessing.get_context("spawn"),
            )
            atexit.register(close_pool)
        future: Future[bool] = _pool.schedule(_compare, args=(a, b), timeout=_TIMEOUT)
        return future


def _failures() -> tuple[type[Exception], ...]:
    from pebble import ProcessExpired

    return (TimeoutError, ProcessExpired)


def _result(future: Future[bool], a: str, b: str) -> bool:
    try:
        return future.result()
    except _failures() as error:
        _warn(type(error).__name__, a, b)
        return False


def _warn(kind: str, a: str, b: str) -> None:
    """Say it once per process and kind; a batch of hard answers would else fill the log."""
    if kind not in _warned:
        _warned.add(kind)
        _log.warning(
            "comparing %.80r with %.80r: %s; counted as different, further ones are not logged", a, b, _FAILURES[kind]
        )


def _start_worker() -> None:
    """Runs in the worker: bounds its memory, silences math-verify, pays for the imports before the first task."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _compare(r"\frac{1}{2}x + 1", "x + 2 - 1")  # a bare name would leave half of the parser cold


def _compare(a: str, b: str) -> bool:
    """Runs in the worker: math-verify on two answers, each as the gold one: it is not symmetric by itself.

    Its own timeouts are off (they need signals).
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    left, right = (
        parse(rf"\boxed{{{_products(text)}}}", config, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (a, b)
    )
    return any(bool(verify(gold, answer, timeout_seconds=None)) for gold, answer in ((left, right), (right, left)))


def _products(text: str) -> str:
    """2(3) with its product sign, or math-verify reads it as two and three."""
    return re.sub(r"(?<![\w^{.])(\(?[0-9.]+\)?)\s*(?=\()", r"\1\\cdot ", text)
