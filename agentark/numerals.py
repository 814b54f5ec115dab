r"""Numbers as people and models write them, exactly, with their units; and the typesetting around an answer.

`1{,}234.50`, `\frac12`, `2 3/4`, `6.63 \times 10^{-34}`, `5 million`, `US\$29`, `29 people (12 men and 17 women)`.
"""

import functools
import math
import re
from fractions import Fraction

from agentark.types import AnswerType

_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {"half": Fraction(1, 2), "third": Fraction(1, 3), "quarter": Fraction(1, 4)}
_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"""
    (?P<sign>(?<![0-9A-Za-z)\]}}])[-+])?                     # "5-3" holds no -3
    (?<![0-9A-Za-z_.^])                                     # nor is there a number in H2O, x_1
    (?:
        (?:(?P<whole>[0-9]+)[ ]*)?\\[dt]?frac[ ]*
        (?:\{{\s*(?P<top>-?[0-9]+)\s*\}}|(?P<top1>[0-9]))[ ]*(?:\{{\s*(?P<bottom>[0-9]+)\s*\}}|(?P<bottom1>[0-9]))
      | (?P<mixed>[0-9]+)[ ]+(?P<mixed_top>[0-9]+)/(?P<mixed_bottom>[0-9]+)
      | (?:(?P<factor>{_DECIMAL})[ ]*(?:\\times|\\cdot|[×·*x])[ ]*(?=10[ ]*\^))?(?P<base>[0-9]+)[ ]*
        \^[ ]*(?:\{{\s*(?P<power>[-+]?[0-9]{{1,3}})\s*\}}|(?P<power1>-?[0-9]{{1,3}}))(?![0-9])
      | (?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9])|[ ]*/[ ]*(?P<over>{_DECIMAL}))?
    )
    (?:[ ]+and[ ]+(?P<parts>an?|one|two|three)[ -](?P<part>{"|".join(_PARTS)})s?\b)?
    (?:[ ]*(?P<scale>{"|".join(_SCALES)})s?\b)?
    (?![0-9]*(?:st|nd|rd|th)\b)                             # "on the 3rd day"
    """,
    re.X,
)
_LONGEST = 300
"""Characters of a number."""
_NEGATIVE = re.compile(r"(^\W*|(?:\b(?:is|was|be|to|equals|of)|[=:(,])\s*)(?:minus|negative)\s+(?=[$€£]?[0-9.])", re.I)
_SIGN_WORD = re.compile(r"^\\text\{\s*(minus|negative)\s*\}", re.I)
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee", "₩": "won", "₽": "ruble"}
_CURRENCY = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:US|CA|AU|A|C)?(?P<mark>[{''.join(_CURRENCIES)}]|(?:USD|EUR|GBP|Rs\.?)(?= ?[0-9]))\s*"
)
_ABOUT = re.compile(
    r"^(?:\\text\{\s*)?(?:about|approximately|approx\.?|around|roughly|nearly|exactly|≈|~|\\approx|\\sim)\s*\}?\s*",
    re.I,
)
_REMARK = re.compile(r"\s*(?:\\text\{\s*)?\((?=[^()]*[A-Za-z]{2})[^()]*\)\s*\}?$")
_WORDY_REMARK = re.compile(r"\s+\((?=[^()\\]*[A-Za-z]{4})[^()\\]*\)$")

TEXT_COMMAND = r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|mathrm|mathbf|mbox)\s*"
TEXT = re.compile(rf"{TEXT_COMMAND}\{{([^{{}}]*)\}}")
MATH_SPAN = re.compile(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<!\\)\$((?:\\.|[^$\\])+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_WRAPPER = re.compile(rf"{TEXT_COMMAND}(?=\{{)")
_ESCAPE_OR_BRACE = re.compile(r"\\.|[{}]", re.S)
_SPACING = re.compile(r"\\! ?|\\[,;:]|\\(?:left|right|big|Big|bigg|Bigg)[lr]?(?![A-Za-z])")
_SPACE = re.compile(r"(?<!\\)\\ ")
_LOOK_ALIKES = str.maketrans("−–\u00a0\u202f０１２３４５６７８９．", "--  0123456789.")
_DOLLARS = re.compile(r"(?<!\\)\$")
_HALF_DAY = re.compile(r"\b([AaPp])\.\s?[mM](?:\.|\b)")
_DEGREES = re.compile(r"\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|°)")
ANGLES = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_EXPONENT = r"(?:\s*\^\s*\{?[0-9]\}?|[²³])?"
_TEXT_UNIT = rf"(?:[\s/]|\\cdot(?![A-Za-z]))*{TEXT_COMMAND}\{{[^{{}}]*\}}{_EXPONENT}"
_UNIT = re.compile(rf"(?<=[^\s])(?:(?:{_TEXT_UNIT})+|\s*\\[dt]?frac\{{{_TEXT_UNIT}\}}\{{{_TEXT_UNIT}\}})\s*$")
_WORDS = rf"[A-Za-z]+(?:[\s/-]+[A-Za-z]+)*{_EXPONENT}"
_UNIT_WORDS = re.compile(rf"(?<=[0-9}})!])[\s/-]*{_WORDS}$")
_BASE = re.compile(r"(?<=[0-9A-F])_(?:\{\s*([0-9]+)\s*\}|([0-9]+))$")
_SPELLINGS = {
    spelling: forms.split()[0]
    for forms in (
        "ft foot feet", "in inch inche", "m meter metre", "cm centimeter centimetre", "mm millimeter millimetre",
        "km kilometer kilometre", "mi mile", "yd yard", "s sec second", "min minute", "h hr hour", "kg kilogram",
        "g gram", "lb pound", "oz ounce", "ml milliliter", "l liter litre", "mph", "am", "pm", "dollar usd",
        "cent", "2 square sq", "3 cubic cu", "euro eur", "rupee rs", "deg degree", "gal gallon", "yr year",
    )
    for spelling in forms.split()
}  # fmt: skip
_COMPOUND = re.compile(rf"{_DECIMAL}\s*([A-Za-z]+),?\s+(?:and\s+)?{_DECIMAL}\s*([A-Za-z]+)\b(?!\s*[-+*/×=])")
_CLOSE_UNITS = {"cm", "mm", "km", "kg", "ft", "mph"}
"""Units that need no space before them."""
_BOUND = re.compile(r"\b(?:or|more|less|fewer|over|under|above|below|not)\b", re.I)
_NO_UNITS = {"sin", "cos", "tan", "log", "sqrt", "theta", "alpha", "beta", "gamma", "sinh", "cosh", "cdot", "over"}
_FILLERS = {"per", "a", "an", "the", "and", "of"}


def plain(text: str) -> str:
    """Text without typesetting: spacing and size commands, escapes of `$` and `,`, look-alike characters."""
    return _SPACING.sub("", _SPACE.sub(" ", text).translate(_LOOK_ALIKES).replace("{,}", ",").replace("\\$", "$"))


def trim(value: str) -> str:
    """Text without surrounding space, emphasis, math delimiters and full stop."""
    value = value.strip(" \t\r\n*_`")
    if value.endswith(".") and not value.endswith(("\\right.", "..")):
        value = value[:-1].rstrip(" *_`")
    span = MATH_SPAN.fullmatch(value)
    return content(span).strip() if span else value


def content(span: re.Match[str]) -> str:
    """The text between the delimiters of a MATH_SPAN."""
    return next(group for group in span.groups() if group is not None)


def unwrapped(value: str) -> str:
    r"""The inside of a value that is one `\text{...}` (or `\textbf`, `\mathrm`, ...) as a whole."""
    value = value.strip()
    for _ in range(3):
        wrapper = _WRAPPER.match(value)
        if wrapper is None or closing_brace(value, wrapper.end()) != len(value) - 1:
            break
        value = value[wrapper.end() + 1 : -1].strip()
    return value


def closing_brace(text: str, start: int) -> int | None:
    r"""Index of the brace that closes the one at `start`; escaped braces (`\{`) don't count."""
    depth = 0
    for match in _ESCAPE_OR_BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def without_signs(text: str) -> str:
    """Text without degree and per cent signs, which add nothing to an answer (except in the sine of an angle)."""
    return re.sub(r"\s*\\?%", "", text if ANGLES.search(text) else _DEGREES.sub("", text))


def bare(value: str) -> str:
    """A whole answer without delimiters, typesetting, and degree and per cent signs."""
    value = trim(value)
    if len(dollars := _DOLLARS.findall(value)) > 1 and len(dollars) % 2 == 0:
        value = _DOLLARS.sub("", value)
    return trim(unwrapped(without_signs(_HALF_DAY.sub(r"\1m", plain(value)))))


def split_unit(text: str, answer_type: AnswerType = "math") -> tuple[str, str]:
    r"""(value, unit) of an answer; the unit is "" where there is none.

    A unit stands in `\text{...}`, or is words: any words after a number, but in mathematics only words that cannot be a
    product of variables. A currency sign and the base of a numeral count as units.
    """
    text, currency = text.strip(), ""
    if mark := _CURRENCY.match(text):
        text, currency = mark["sign"] + text[mark.end() :], _CURRENCIES.get(mark["mark"], mark["mark"])
    elif text.endswith(tuple(_CURRENCIES)):
        text, currency = text[:-1].rstrip(), _CURRENCIES[text[-1]]
    if base := _BASE.search(text):
        return text[: base.start()], f"base{base[1] or base[2]}"
    found, words = _UNIT.search(text), ""
    if found:
        words = TEXT.sub(r" \1 ", found[0])
    elif not _NUMBER.fullmatch(text):
        found = _UNIT_WORDS.search(text)
        if found and (answer_type == "number" or _is_unit(found[0])):
            words = found[0]
    if found is None or not words or _BOUND.search(words):
        return text, currency
    scale, _, rest = words.strip().partition(" ")
    value = text[: found.start()].rstrip()
    return (f"{value} {scale}", f"{currency} {rest}".strip()) if scale in _SCALES else (value, f"{currency} {words}")


def _is_unit(words: str) -> bool:
    every = [word.lower() for word in re.findall(r"[A-Za-z]+", words)]
    named = [word for word in every if word not in _FILLERS]
    if not named or any(word in _NO_UNITS for word in every):
        return False
    if not words[0].isspace():
        return len(named) == 1 and named[0] in _CLOSE_UNITS
    return all(len(word) >= 4 or (len(word) > 1 and _spelling(word) in _SPELLINGS) for word in named)


def _spelling(word: str) -> str:
    short = word[:-1] if word.endswith("s") and len(word) > 2 else word
    return _SPELLINGS.get(word) or _SPELLINGS.get(short) or short


def same_units(a: str, b: str) -> bool:
    """Whether two units may be the same: equal exponents, and one is missing or says less than the other."""
    left, right = _unit_words(a), _unit_words(b)
    if not left or not right:
        return True
    numbers = [{word for word in words if word[-1].isdigit()} for words in (left, right)]
    return numbers[0] == numbers[1] and (left <= right or right <= left)


@functools.lru_cache(maxsize=4096)
def _unit_words(unit: str) -> frozenset[str]:
    text = TEXT.sub(r" \1 ", unit.replace("²", "2").replace("³", "3")).lower().replace(".", "")
    words = re.findall(r"base[0-9]+|(?<!\\)\b[a-z]+|[0-9]", text)
    return frozenset(_spelling(word) for word in words if word not in _FILLERS)


@functools.lru_cache(maxsize=4096)
def quantity(value: str, answer_type: AnswerType) -> tuple[Fraction, str] | None:
    """The exact number that a whole answer stands for, and its unit ("" where there is none); None: not a number.

    Degree and per cent signs are not units. A number may also say "about", "minus" or "and a half", carry a remark in
    parentheses, and in a word problem name what it counts.
    """
    if len(value) > _LONGEST:
        return None
    text = bare(value)
    if answer_type == "number":
        text = re.sub(r"^[A-Za-z]\w*\s*=\s*", "", text)
    text = _ABOUT.sub("", (_REMARK if answer_type == "number" else _WORDY_REMARK).sub("", text))
    text = _NEGATIVE.sub(r"\1-", _SIGN_WORD.sub(r"\1 ", text))
    if answer_type == "number" and (name := TEXT.match(text)) and not _BOUND.search(name[0]):
        text = text[name.end() :].lstrip()
    text, unit = split_unit(text, answer_type)
    match = _NUMBER.fullmatch(re.sub(r"^([-+])\s+", r"\1", text.strip()))
    number = _fraction(match) if match else None
    return None if number is None else (number, unit)


def compounds(text: str) -> list[re.Match[str]]:
    """The quantities in two units in a text, as 5 feet 6 inches: no part of one is its number."""
    every = _COMPOUND.finditer(text)
    return [parts for parts in every if all(_spelling(parts[index].lower()) in _SPELLINGS for index in (1, 2))]


def number(value: str, answer_type: AnswerType) -> Fraction | None:
    """The exact number that a whole answer stands for, without its unit; else None."""
    known = quantity(value, answer_type)
    return known[0] if known else None


def numbers(text: str) -> list[Fraction]:
    """The numbers in running text, in order."""
    every = (_fraction(match) for match in _NUMBER.finditer(_running(text)))
    return [number for number in every if number is not None]


def _running(text: str) -> str:
    return re.sub(r"([-+]?)\$", lambda dollar: dollar[1] or " ", _NEGATIVE.sub(r"\1-", plain(text)))


def _fraction(match: re.Match[str]) -> Fraction | None:
    part = match.groupdict()
    if len(match[0]) > _LONGEST:
        return None
    try:
        if part["decimal"]:
            number = _exact(part["decimal"]) / _exact(part["over"] or "1") * Fraction(10) ** int(part["exponent"] or 0)
        elif part["base"]:
            power = int(part["power"] or part["power1"])
            if len(part["base"]) * abs(power) > 10 * _LONGEST:
                return None
            number = _exact(part["factor"] or "1") * Fraction(int(part["base"])) ** power
        elif part["mixed"]:
            number = int(part["mixed"]) + Fraction(int(part["mixed_top"]), int(part["mixed_bottom"]))
        else:
            top, bottom = part["top"] or part["top1"], part["bottom"] or part["bottom1"]
            number = int(part["whole"] or 0) + Fraction(int(top), int(bottom))
    except ZeroDivisionError:
        return None
    number += {"two": 2, "three": 3}.get(part["parts"] or "", 1) * _PARTS.get(part["part"] or "", 0)
    number *= _SCALES.get(part["scale"] or "", 1)
    return -number if part["sign"] == "-" else number


def _exact(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", ""))


def digits(number: Fraction) -> str:
    """Canonical form: an integer, a terminating decimal, else p/q."""
    rest, places = number.denominator, 0
    while common := math.gcd(rest, 10) - 1:
        rest //= common + 1
        places += 1
    if number.denominator == 1 or rest != 1:
        return str(number)
    scaled = str(abs(number) * 10**places).rjust(places + 1, "0")
    return f"{'-' if number < 0 else ''}{scaled[:-places]}.{scaled[-places:]}"
