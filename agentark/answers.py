"""Answers: deciding when two of them are the same; `extract` (extraction.py) finds them in a reply.

Everything a string or an exact number can decide is pure and fast. Only what needs algebra goes to sympy (algebra.py),
in worker processes that are killed when they hang: sympy can outlast its own timeouts and grow without bound, and
math-verify is not thread-safe. sympy is imported in the workers only.
"""

import asyncio
import atexit
import functools
import logging
import re
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from agentark.algebra import near, same
from agentark.extraction import (
    Answer,
    boxes,
    extract,
    folded,
    given_answers,
    gold,
    letter,
    named,
    options_in,
)
from agentark.metrics import fold, squad_normalize
from agentark.numerals import TEXT, digits, plain, quantity, same_units, trim, without_signs
from agentark.thinking import visible
from agentark.types import AnswerType

if TYPE_CHECKING:
    from pebble import ProcessPool

_log = logging.getLogger(__name__)

__all__ = [
    "Answer",
    "boxes",
    "close_pool",
    "equivalent",
    "equivalent_many",
    "extract",
    "given_answers",
    "gold",
    "group",
    "majority",
    "named",
    "normalize",
    "options_in",
    "quick_same",
    "visible",
]


# --- sameness -------------------------------------------------------------------------------------------------------

_WORDS = re.compile(r"\(?[A-Za-z]+(?:[ '-][A-Za-z]+)*\)?")
_BRACKETS = (("\\{", "⦃"), ("\\}", "⦄"), ("\\lbrace", "⦃"), ("\\rbrace", "⦄"), ("\\langle", "⟨"), ("\\rangle", "⟩"))
_MEANING = re.compile(r"(?<=[0-9])[.,:/^-](?=[0-9])|(?<![\w.,)%])[-.](?=[$€£¥]?\.?[0-9])")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")


@functools.lru_cache(maxsize=4096)
def normalize(value: str, answer_type: AnswerType) -> str:
    """Canonical form of one answer: equal forms are equal answers, different forms may still be equal.

    A number becomes an integer, a decimal or p/q, in mathematics with its unit; a choice becomes its letter; text goes
    through SQuAD normalisation but keeps signs that mean something between digits; maths loses its typesetting.
    """
    if answer_type == "choice":
        return letter(value) or folded(value)
    if answer_type == "text":
        return _identity(value) or value.strip().casefold()
    if answer_type == "code":
        return value.strip()
    exact = quantity(value, answer_type)
    if exact is not None:
        return f"{digits(exact[0])} {exact[1]}".strip() if answer_type == "math" else digits(exact[0])
    text = TEXT.sub(r" \1 ", plain(trim(value)).replace("dfrac", "frac").replace("tfrac", "frac"))
    text = without_signs(text.replace("$", ""))
    text = " ".join(text.split())
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", text)


def _identity(text: str) -> str:
    """SQuAD normalisation that keeps signs, and points, colons and the like between digits: 1.5 is not 15."""
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), fold(text))
    kept = _MEANING.sub(lambda mark: chr(0xE000 + ord(mark[0])), text)
    return "".join(chr(ord(char) - 0xE000) if 0xE000 <= ord(char) < 0xE100 else char for char in squad_normalize(kept))


def quick_same(a: str, b: str, answer_type: AnswerType) -> bool | None:
    """Whether two answers are the same, as far as strings and exact numbers can tell; None: needs algebra."""
    left, right = normalize(a, answer_type), normalize(b, answer_type)
    if left == right:
        return True
    if answer_type not in ("number", "math"):
        return False
    exact = [quantity(value, answer_type) for value in (a, b)]
    if exact[0] and exact[1]:
        return near(exact[0][0], exact[1][0]) and same_units(exact[0][1], exact[1][1])
    if any(exact) and max(_commas(left), _commas(right)) > 0:
        return False  # a list against one number
    if all(_WORDS.fullmatch(value) for value in (left, right)) and _is_text(a, left) and _is_text(b, right):
        return left.casefold().strip("()") == right.casefold().strip("()")
    brackets = _brackets(left), _brackets(right)
    return False if all(brackets) and brackets[0] != brackets[1] else None


def _is_text(value: str, words: str) -> bool:
    return len(words) > 3 or TEXT.search(value) is not None


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
"""After that a fresh process takes over, so that sympy's caches don't grow for ever."""
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
        future: Future[bool] = _pool.schedule(same, args=(a, b), timeout=_TIMEOUT)
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
    """Warn once per process and kind; otherwise a batch of hard answers would fill the log."""
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
    same(r"\frac{1}{2}x + 1", "x + 2 - 1")  # a bare name would leave half of the parser cold
