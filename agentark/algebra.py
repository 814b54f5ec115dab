r"""Whether two mathematical answers are the same, where exact numbers alone cannot tell. Runs in worker processes.

An answer is taken apart as text: lists, sets, tuples, unions, equations, units and words, down to single expressions.
latex2sympy reads those, and two of them are the same when they have the same values: exact forms to 40 digits at
several points, forms with decimals to a relative 1e-6. Relations, sets and all without values go to math-verify.

math-verify 0.9 gets these things wrong, so they are decided here: it drops units that are variables, rounds to six
places, reads a number out of text it cannot parse, compares an equation by its right side, and sorts ordered pairs.
"""

import functools
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from agentark.numerals import ANGLES, TEXT, TEXT_COMMAND, bare, quantity, same_units, split_unit

TOLERANCE = Fraction(1, 10**6)
"""Relative, of two real numbers where one is a decimal."""
_DIGITS = 60
_EXACT_DIGITS = 40
_POINTS = ((271, 137), (59, 211), (-173, 89))
"""Expressions with variables are compared at these points: p / q, shifted by a number made from the variable's name."""
_ORIGIN = (0, 1)
"""All variables are 0 there, so that constants show, however small."""

_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_AND = re.compile(r",?\s*(?:\\text\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b)\s*|\\quad|\\qquad|;|\\vee|\\lor")
_OPENING, _CLOSING = "([{⦃⟨", ")]}⦄⟩"
_BRACKETS = (("\\{", "⦃"), ("\\}", "⦄"), ("\\lbrace", "⦃"), ("\\rbrace", "⦄"), ("\\langle", "⟨"), ("\\rangle", "⟩"))
_EQUALS = re.compile(r"(?<![<>!:\\=])=(?!=)")
_LABEL = re.compile(
    r"(?:\\(?:angle|overline|vec|hat|bar|mathbf|mathcal)\s*)?(?:\{\s*)?"
    r"(?:[A-Za-z]|[A-Z]{2,4}|\\(?!sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|frac)[a-z]+)?(?:\s*\})?(?:\s*\([-\w, ]*\))?"
)
_MEMBER = re.compile(r"^\s*[A-Za-z]\s*\\in\b\s*")
_BUILDER = re.compile(
    r"^[A-Za-z]\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?\s*)?(?:\||\\mid|:)\s*(?P<condition>.*[<>].*|.*\\[gl]e.*)$"
)
_WORD = re.compile(
    rf"{TEXT_COMMAND}\{{[^{{}}]*\}}"
    r"|(?<![\\A-Za-z{])(?!sqrt|sinh|cosh|tanh|theta|alpha|beta|gamma|infty|frac|cdot)[A-Za-z]{4,}"
)
_SYMBOLS = str.maketrans(
    {
        **{"π": r"\pi ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "×": r"\times "},
        **{"·": r"\cdot ", "*": r"\cdot ", "÷": r"\div ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm "},
        **{"²": "^2", "³": "^3"},
    }
)
_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")
_CLOCK = re.compile(r"[0-9]{1,2}(?::[0-5][0-9]){1,2}")
_NAMED = re.compile(r"\\(?:frac|sqrt|cdot|times|div|binom|pi)(?![A-Za-z])")


def same(a: str, b: str) -> bool:
    """Whether two answers are the same; symmetric."""
    return _same(_cleaned(a), _cleaned(b))


def _cleaned(text: str) -> str:
    if ANGLES.search(text):
        text = re.sub(r"([0-9.]+)\s*\^\s*\{?\s*\\circ\s*\}?", r"{(\1\\cdot\\frac{\\pi}{180})}", text)
    text = (
        _PI.sub(r"\\pi ", bare(text).replace("**", "^").translate(_SYMBOLS))
        .replace("dfrac", "frac")
        .replace("tfrac", "frac")
        .replace("\n", " ")
    )
    for command, bracket in _BRACKETS:
        text = text.replace(command, bracket)
    if text.startswith("⦃") and (builder := _BUILDER.match(text[1:].removesuffix("⦄").strip())):
        text = builder["condition"]
    return re.sub(r"_(?:\{\s*)?([A-Za-z]|[0-9]+)(?:\s*\})?(?=[A-Za-z\\(])", r"_{\1} ", text).strip()


def _same(a: str, b: str) -> bool:
    if a == b:
        return True
    (kind_a, parts_a), (kind_b, parts_b) = _shape(a), _shape(b)
    if kind_a and kind_b:
        if kind_a != kind_b:
            return False
        return _as_sets(parts_a, parts_b) if kind_a == "⦃⦄" else _in_order(parts_a, parts_b)
    if kind_b or (not kind_a and len(parts_b) < len(parts_a)):
        kind_a, kind_b, a, b, parts_a, parts_b = kind_b, kind_a, b, a, parts_b, parts_a
    if kind_a == "⦃⦄":
        return _as_sets(parts_a, parts_b)
    if kind_a:
        ordered = len(parts_b) > 1 and kind_a in ("()", "⟨⟩") and _in_order(parts_a, [_value(part) for part in parts_b])
        return ordered or (len(parts_b) == 1 and _leaf(a, b))
    if len(parts_b) == 1:
        return _leaf(a, b)
    if len(parts_a) == 1:
        parts_a = a.split(",") if _THOUSANDS.fullmatch(a) else _split(a.replace("∪", "\\cup"), "\\cup")
    return _as_lists(parts_a, parts_b) if len(parts_a) > 1 else _relations_same(a, b)


# --- as text ---------------------------------------------------------------------------------------------------------


def _shape(text: str) -> tuple[str, list[str]]:
    """(kind of brackets, "" for none; elements) of a list, set or tuple; anything else is its only element."""
    if len(text) > 1 and text[0] in "([⦃⟨" and text[-1] in ")]⦄⟩" and _encloses(text):
        inner = _split(text[1:-1], ",")
        if len(inner) > 1 or text[0] == "⦃":
            return text[0] + text[-1], inner
    listed = _AND.sub(",", text) if _AND.search(text) else text
    masked = _THOUSANDS.sub(lambda number: number[0].replace(",", "⸴"), listed)
    parts = [part.replace("⸴", ",") for part in _split(masked, ",") if part]
    return "", [form for part in parts or [text] for form in _both_signs(part)]


def _both_signs(part: str) -> list[str]:
    if "\\pm" not in part or part[0] in "([⦃⟨":
        return [part]
    return [
        part.replace("\\pm", plus).replace("\\mp", minus).removeprefix("+").strip()
        for plus, minus in (("+", "-"), ("-", "+"))
    ]


def _encloses(text: str) -> bool:
    """Whether the first bracket is closed by the last; of two kinds, as intervals have them."""
    depth = 0
    for index, char in enumerate(text):
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth == 0 and index < len(text) - 1:
            return False
    return depth == 0


def _split(text: str, separator: str) -> list[str]:
    """The pieces between separators outside of brackets, stripped."""
    pieces, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth == 0 and text.startswith(separator, index):
            pieces.append(text[start:index].strip())
            start = index + len(separator)
    return [*pieces, text[start:].strip()]


def _sides(text: str) -> list[str]:
    r"""The parts of a text between its equals signs; those in brackets (`\sum_{k=1}`) don't count."""
    return [side.replace("＝", "=") for side in _split(_EQUALS.sub("＝", text), "＝")]


def _in_order(a: Sequence[str], b: Sequence[str]) -> bool:
    return len(a) == len(b) and all(_same(left, right) for left, right in zip(a, b, strict=True))


def _as_sets(a: Sequence[str], b: Sequence[str]) -> bool:
    return all(any(_same(left, right) for right in b) for left in a) and all(
        any(_same(left, right) for left in a) for right in b
    )


def _as_lists(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether two lists agree: in any order, repeats counted; in order where only one side labels its values."""
    if len(a) != len(b):
        return False
    labels = [[_label(part) for part in parts] for parts in (a, b)]
    for ours, theirs in (labels, labels[::-1]):
        if len(set(ours)) > 1 and all(ours) and not any(theirs):
            return _in_order([_value(part) for part in a], [_value(part) for part in b])
    left = list(b)
    for part in a:
        match = next((index for index, other in enumerate(left) if _same(part, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _label(part: str) -> str:
    """What a value belongs to: the variable it is assigned to, or its unit; "" where it has neither."""
    name, _ = _assigned(part)
    return name or split_unit(part)[1].strip()


def _value(part: str) -> str:
    return _assigned(part)[1]


def _assigned(text: str) -> tuple[str, str]:
    """(variable or name, value) of an assignment (`x = 5`, `f(x) = a = b` is b); ("", text) of anything else."""
    name, *values = _sides(text)
    spelled = re.sub(r"_\s*(?:\{[^{}]*\}|\w)|['|]", "", TEXT.sub("T", name)).strip()
    is_name = bool(spelled) and _LABEL.fullmatch(spelled) is not None
    return ("".join(name.split()), values[-1].strip()) if values and is_name else ("", text)


# --- single expressions ----------------------------------------------------------------------------------------------


def _leaf(a: str, b: str) -> bool:
    known = quantity(a, "math"), quantity(b, "math")
    if known[0] and known[1]:
        return near(known[0][0], known[1][0]) and same_units(known[0][1], known[1][1])
    (a, unit_a), (b, unit_b) = split_unit(a), split_unit(b)
    if not same_units(unit_a, unit_b):
        return False
    if a == b:
        return True
    (name_a, value_a), (name_b, value_b) = _assigned(a), _assigned(b)
    if name_a and name_b:
        return (name_a == name_b and _same(value_a, value_b)) or _relations_same(a, b)
    if name_a or name_b:
        equation = len(_sides(b if name_a else a)) > 1
        return _relations_same(a, b) if equation else _same(value_a, value_b)
    if _WORD.search(a) or _WORD.search(b):
        return _phrases_same(a, b)
    sides_a, sides_b = _sides(a), _sides(b)
    if (len(sides_a) > 1) != (len(sides_b) > 1):
        chain = sides_a if len(sides_a) > 1 else sides_b
        if any(re.search("[A-Za-z]", _NAMED.sub("", side)) for side in chain):
            return False
        return _same(sides_a[-1].strip(), sides_b[-1].strip())
    if _CLOCK.fullmatch(a) and _CLOCK.fullmatch(b):
        return [int(part) for part in a.split(":")] == [int(part) for part in b.split(":")]
    if ("\\in" in a) != ("\\in" in b):
        a, b = _MEMBER.sub("", a), _MEMBER.sub("", b)
        if _shape(a)[0] and _shape(b)[0]:
            return _same(a, b)
    unions = [_split(text.replace("∪", "\\cup"), "\\cup") for text in (a, b)]
    if len(unions[0]) > 1 and _as_lists(*unions):
        return True
    return _relations_same(a, b)


def _phrases_same(a: str, b: str) -> bool:
    """Whether two answers with words agree: the same formulas in order, and the same words unless one has none."""
    formulas, words = [], []
    for text in (a, b):
        found = " ".join(TEXT.sub(r"\1", word) for word in _WORD.findall(text)).lower()
        words.append([word for word in re.findall(r"[^\W\d_]+", found) if word not in ("and", "is", "the", "a")])
        pieces = [piece.strip(" ,.;:") for piece in _WORD.split(text)]
        formulas.append([piece for piece in pieces if piece])
    if words[0] and words[1] and (len(words[0]) != len(words[1]) or not all(map(same_units, *words))):
        return False
    if bool(words[0]) != bool(words[1]) and not all(map(_only_names, (a, b))):
        return False
    return bool(formulas[0] or words[0]) and _in_order(*formulas)


def _only_names(text: str) -> bool:
    """Whether the words of an answer only name its value: units after a number, "the sum is" or "Total:" before it."""
    word = _WORD.match(text)
    return word is None or re.search(r"(?:\bis|[:=])\W*$", word[0]) is not None


def near(a: Fraction, b: Fraction) -> bool:
    """Whether two exact numbers are the same; a decimal may stand for a fraction that it can only round."""
    if a == b:
        return True
    finite = [_finite(value) for value in (a, b)]
    decimal = a if finite[0] else b
    return sum(finite) == 1 and decimal.denominator > 1 and abs(a - b) < TOLERANCE * max(abs(a), abs(b))


def _finite(value: Fraction) -> bool:
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest == 1


# --- with sympy ------------------------------------------------------------------------------------------------------


def _relations_same(a: str, b: str) -> bool:
    left, right = _parsed(a), _parsed(b)
    try:
        return left is not None and right is not None and _expressions_same(left, right)
    except Exception:  # noqa: BLE001 -- sympy has many kinds for what does not go together
        return False


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """A sympy object, or None when the text as a whole is not mathematics."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, normalize_latex
    from math_verify.parser import parse_latex_cached

    config = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    for bracket, command in (("⦃", "\\{"), ("⦄", "\\}"), ("⟨", "\\langle "), ("⟩", "\\rangle ")):
        text = text.replace(bracket, command)
    try:
        return parse_latex_cached(normalize_latex(_products(text), config))
    except Exception:  # noqa: BLE001 -- a parser's, or sympy's: the text is no mathematics
        return None


def _products(text: str) -> str:
    """2(3) with its product sign added; latex2sympy would read it as two and three."""
    return re.sub(r"(?<![\w^{.])(\(?[0-9.]+\)?)\s*(?=\()", r"\1\\cdot ", text)


def _expressions_same(a: Any, b: Any) -> bool:
    from math_verify import verify
    from sympy import Expr, MatrixBase
    from sympy.core.relational import Relational

    if isinstance(a, MatrixBase) and isinstance(b, MatrixBase):
        return a.shape == b.shape and all(map(_expressions_same, a.flat(), b.flat()))
    verdict = None
    if isinstance(a, Expr) and isinstance(b, Expr):
        verdict = _values_same(a, b)
    elif isinstance(a, Relational) and isinstance(b, Relational):
        verdict = _proportional(a, b)
    if verdict is not None:
        return verdict
    return any(bool(verify(gold, answer, timeout_seconds=None)) for gold, answer in ((a, b), (b, a)))


def _values_same(a: Any, b: Any) -> bool | None:
    """Whether two expressions have the same values; None where they have none that can be computed."""
    from sympy import Float

    exact = not (a.has(Float) or b.has(Float))
    if not (a.free_symbols or b.free_symbols) and exact:
        done = a.doit(), b.doit()
        if all(value.is_Rational for value in done):
            return bool(done[0] == done[1])
    compared = 0
    points = _POINTS if exact else (*_POINTS, _ORIGIN)
    for point in points if a.free_symbols or b.free_symbols else _POINTS[:1]:
        left, right = _at(a, point), _at(b, point)
        if left is None and right is None:
            continue
        if left is None or right is None or not _close(left, right, exact):
            return False
        compared += 1
    return True if compared else None


def _at(expression: Any, point: tuple[int, int]) -> Any:
    """The value of an expression with its variables set, to 60 digits; None where that is not a finite number."""
    from sympy import I, Rational

    top, bottom = point
    values: dict[Any, Any] = {}
    for symbol in expression.free_symbols:
        salt = top and sum(ord(char) * 31**index for index, char in enumerate(str(symbol))) % 997
        values[symbol] = I if str(symbol) == "i" else Rational(top + (salt if top > 0 else -salt), bottom)
    try:
        value = expression.subs(values).evalf(_DIGITS)
    except Exception:  # noqa: BLE001 -- sympy has many kinds for where a function is not defined
        return None
    return value if getattr(value, "is_number", False) and value.is_finite and not value.free_symbols else None


def _close(a: Any, b: Any, exact: bool) -> bool:
    size = max(abs(a), abs(b))
    return bool(size < 10**-_EXACT_DIGITS or abs(a - b) < size * (10.0**-_EXACT_DIGITS if exact else float(TOLERANCE)))


def _proportional(a: Any, b: Any) -> bool | None:
    """Whether two relations say the same because one is a multiple of the other; None: undecided."""
    from sympy import Eq, Ne

    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    ratios = []
    for point in _POINTS:
        left, right = _at(a.lhs - a.rhs, point), _at(b.lhs - b.rhs, point)
        if left is None or right is None or right == 0:
            return None
        ratios.append(left / right)
    if not all(_close(ratio, ratios[0], True) for ratio in ratios) or not ratios[0].is_real or ratios[0] == 0:
        return None
    if isinstance(a, Eq | Ne):
        return True if type(a) is type(b) else None
    wanted = a.rel_op if ratios[0] > 0 else flipped.get(a.rel_op)
    return bool(b.rel_op == wanted)
