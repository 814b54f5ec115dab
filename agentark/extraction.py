r"""Finding the answer in a reply: boxes, `<answer>`, `####`, "the answer is", the letter of an option, a last number.

Pure and fast: time grows only with the length of the reply, even when a model has looped.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import islice
from string import ascii_uppercase
from typing import Literal

from msgspec import Struct

from agentark.numerals import MATH_SPAN, TEXT, compounds, content, digits, number, numbers, trim, unwrapped
from agentark.thinking import visible
from agentark.types import AnswerType

How = Literal["boxed", "tag", "hash", "answer_is", "letter", "option", "last_number", "text"]


class Answer(Struct, frozen=True):
    """An answer found in a reply."""

    value: str
    """Numbers in canonical form, choices as their letter, everything else as it was written."""
    how: How
    """How it was recognised; `last_number` (for mathematics: or formula) is the last resort and a guess."""


_ARGUMENT = r"\s*(?:\{[^{}]*\}|[0-9A-Za-z])"
_BOX_OR_BRACE = re.compile(
    rf"\\(?:boxed|fbox)\s*(\{{|-?[0-9]+(?:\.[0-9]+)?|-?\\[dt]?frac{_ARGUMENT}{_ARGUMENT}|-?\\sqrt{_ARGUMENT}|[A-Za-z]\b)"
    r"|\\.|[{}]",
    re.S,
)
_BELONGS = re.compile(
    r"(?:[\s$.&`]|\\[()\[\],;:]|\\q?quad)*(?:,|;|\b(?:and|or)\b|\\text\{\s*,?\s*(?:and|or)\s*\}|,\s*(?:and|or)\b)"
    r"(?:[\s$&`]|\\[()\[\],;:]|\\q?quad)*(?:[A-Za-z](?:_\{?\w\}?)?\s*=\s*)?"
)
_PLACEHOLDER = re.compile(
    r"\W*(?:\\(?:text|mathrm|ldots|dots|cdots)\W*)?(?:(?:your|the|my|final|correct)\s+)*"
    r"(?:answer|result|number|letter|value|option|expression|solution|ans|here|\W)*\W*",
    re.I,
)
_TAG = re.compile(r"<answer>(?!\s*</answer>)\s*(\S.*?)\s*(?:</answer>|\Z)", re.S | re.I)
_SPECIAL_TOKENS = re.compile(r"(?:<\|[a-z_]{1,40}\|>\s*)+\Z")
_ALONE = re.compile(r"^[*_$ \t]*(\S{1,40}?)[*_$. \t]*$", re.M)
_HASH = re.compile(r"^\s*####[ \t]*(\S.*?)[ \t]*$", re.M)
_NEXT_QUESTION = re.compile(
    r"\n[ \t]*(?:[#*\[ ]{0,6})(?:Question|Problem|Instruction|Input|Q|Human|User)(?:[ \t]+[0-9]{1,4})?[\]* ]{0,4}[:：]"
)
_NAMES = (
    r"(?<![^\W0-9])(?:antwort|respuesta|réponse|risposta|resposta|ответ|відповідь|odpowied[źz]|cevap|svar|antwoord|vastaus"
    r"|jawaban|jibu|đáp\s+án|trả\s+lời|उत्तर|উত্তর|الإجابة|الجواب|إجابة|پاسخ|תשובה|απάντηση|válasz|odpověď|răspuns)"
    r"|คำตอบ|答案|正解|答复|回答|解答|答え|答|정답|답변|답"
)
_VERBS = r"ist|lautet|est|es|é|è|är|er|is|jest|это|будет|є|adalah|ni|là|है|হল|هي|هو|是|为|為|は|은|는"
_FOREIGN = rf"(?:{_NAMES})[*_\"' ]*(?:(?:\w{{1,20}}[ ]){{0,2}}(?:{_VERBS})[ ]*[:：]?|\s*[:：ঃ=]|(?<=案)[选選])"
_ANSWER_IS = re.compile(
    r"\banswers?\b(?:\s+(?:choice|option|letter)\b)?(?:\s+(?:to|for)\s[^.:\n]{0,80}?)?[*_\"' ]*"
    r"(?:\b(?:is|are|was|were|(?:would|should|must)\s+be)\b(?!\s+not\b)\s*[:：]?|[:：=])"
    rf"|{_FOREIGN}|{unicodedata.normalize('NFKC', _FOREIGN)}",
    re.I,
)
_STATEMENTS = 20
"""How many of the last "answer is" (or of the first) are looked at."""
_REACH = 400
"""Characters after "answer is" in which a number, formula or letter must stand."""
_LINE_ANSWER = re.compile(r"^\W*(?:(?:so|thus|therefore|hence|and|the|my|our|final|short|correct)\W+)*$", re.I)
_SENTENCE_END = re.compile(r"(?<!\\)[.;!?。](?=\s|$|[^\x00-\x7f])")
_REASON = re.compile(
    r"(?<=[\w}$%])\s*(?:[:(（]\s*(?=\D|[0-9]+\s*[-+*/x×=])|,\s(?!and\b|or\b)"
    r"|\b(?:because|since|as|for|so|which|given|check|where|when|if)\b)",
    re.I,
)
_REMARK = re.compile(
    r",?\s+(?:(?:because|since|as|so|which|check)\b|[(\[](?=[^()\\\]]*[A-Za-z]{3})|(?<=[a-z]{5} )\().*", re.S
)
_ARITHMETIC = re.compile(r"(?=.*=)(?:\s*[-+*/×÷=().$]|\s*[0-9]|\s+x\s)+")
_ADVERBS = re.compile(
    r"^(?:(?:therefore|thus|then|simply|just|exactly|clearly|indeed|equal\s+to|donc|also|somit|daher|entonces|quindi"
    r"|portanto|l[ae]|el|il|die|der|das|the"
    r"|(?:[ao]\s+|l['’])?(?:option|choice|letter|opción|opzione|opção|letra|lettre|lettera|buchstabe|alternativ[ae]))\s+)+",
    re.I,
)
_RETRACTED = re.compile(
    r"[}$\\)\].,\s]*(?:but\s+|wait,?\s+|no,?\s+)*(?:(?:that|this|it)(?:'s|\s+is|\s+was)|is|was)\s+(?:\w+\s+)?"
    r"(?:wrong|incorrect|not\s+(?:right|correct)|a\s+mistake)\b",
    re.I,
)
_OPTION_MARK = re.compile(r"^\(?[A-J]\)\s+(?=\S)")
_PROSE = re.compile(r"(?:(?<![\\A-Za-z])[A-Za-z']{2,}[\s,]+){2,}")
_HEADING = re.compile(rf"^[^\w\\]*[A-Za-z]{{3,}}|{_PROSE.pattern}")
_VERB = re.compile(r"\b(?:is|are|equals|was|be)\b[\s:]*(?:equal to\s+|about\s+|approximately\s+)?", re.I)
_IS_THE_ANSWER = re.compile(
    r"[\s*_]*(?:is|are)\s+(?:therefore\s+)?(?:the|our|my)\s+(?:\w+\s+)?(?:answers?|solutions?)\b"
)
_IS_IT = re.compile(rf"(?<!\S)[*_]*(\S{{1,40}}?){_IS_THE_ANSWER.pattern}")


def extract(text: str, answer_type: AnswerType, choices: Sequence[str] | None = None) -> Answer | None:
    r"""The answer a reply gives, or None.

    Looked for in this order: the last complete `\boxed{...}` (several that are joined by "and", "or" or a comma are one
    answer); `<answer>x</answer>`; `#### x`; "answer is x" or "Answer: x", also in other languages; the letter of an
    option, or an option's full text; for numbers and maths the last number, or formula. A text answer is what follows
    "answer is" where the reply closes with it, else the whole reply (`####` is a heading in prose, so it does not count
    there). What a base model writes after its answer, from a next "Question:" on, is cut.

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
    reply = _SPECIAL_TOKENS.sub("", _first_answer(reply))
    if answer_type == "choice":
        reply = _folded_forms(reply)
    answer = _boxed_answer(reply, answer_type, choices) or _tagged_answer(reply, answer_type, choices)
    if answer is None and answer_type != "text":
        answer = _hash_answer(reply, answer_type, choices)
    if answer is None:
        answer = _stated_answer(reply, answer_type, choices)
    if answer is not None or not reply.strip():
        return answer
    if answer_type == "text":
        return Answer(reply.strip(), "text")
    return _chosen(reply, choices) if answer_type == "choice" else _last_resort(reply, answer_type)


def given_answers(reply: str, answer_type: AnswerType, choices: Sequence[str] | None) -> list[tuple[int, str]]:
    """(index, answer) of the places that give an answer plainly, in order.

    These are boxes, `<answer>`, `####`, "answer is x", "x is the answer" and lines that are nothing else.
    """
    marked = [(command, reply[start:end]) for start, end, command in _box_spans(reply)]
    marked += [(match.start(), match[1]) for form in (_TAG, _HASH, _ALONE, _IS_IT) for match in form.finditer(reply)]
    places = [(at, _read(value, answer_type, choices)) for at, value in marked]
    for match in islice(_ANSWER_IS.finditer(reply), _STATEMENTS):
        places.append((match.start(), _stated(reply, match, answer_type, choices)))
    if answer_type == "choice":
        places += [(match.start(), match[match.lastindex or 0]) for match in _LETTER_FORMS[0].finditer(reply)]
    return sorted((at, value) for at, value in places if value)


def _first_answer(reply: str) -> str:
    """The reply up to the point where a base model, after its answer, makes up another question."""
    for mark in _NEXT_QUESTION.finditer(reply):
        before = reply[: mark.start()].strip()
        alone = "\n" not in before and len(before) <= 40
        if before and (alone or boxes(before) or _HASH.search(before) or _ANSWER_IS.search(before)):
            return before
    return reply


def boxes(text: str) -> list[str]:
    r"""Contents of every complete `\boxed{...}` or `\fbox{...}`, in order; `\boxed 5` counts as `5`."""
    return [text[start:end] for start, end, _ in _box_spans(text)]


def _box_spans(text: str) -> list[tuple[int, int, int]]:
    """(start and end of the content, start of the command) of every complete box, in order."""
    spans: list[tuple[int, int, int]] = []
    opened: list[tuple[int, int] | None] = []  # per open brace: where its content and command start, if it opens a box
    for match in _BOX_OR_BRACE.finditer(text):
        if match[1] == "{":
            opened.append((match.end(), match.start()))
        elif match[1]:
            spans.append((match.start(1), match.end(1), match.start()))
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened and (begun := opened.pop()) is not None:
            spans.append((begun[0], match.start(), begun[1]))
    return sorted(spans)


def _read(value: str, answer_type: AnswerType, choices: Sequence[str] | None) -> str | None:
    """An answer that stands alone (in a box, after ####), or None when it does not fit this type."""
    if answer_type == "choice":
        return _letter(value, choices)
    if answer_type == "number":
        exact = number(value, answer_type)
        if exact is None:
            exact = number(value.rpartition("=")[2], answer_type)
        return digits(exact) if exact is not None else trim(value) or None
    return (unwrapped(trim(value)) if answer_type == "text" else trim(value)) or None


def _boxed_answer(reply: str, answer_type: AnswerType, choices: Sequence[str] | None) -> Answer | None:
    groups: list[list[str]] = []
    end = 0
    for start, stop, command in _box_spans(reply):
        closed = stop + (reply[stop : stop + 1] == "}")
        if groups and command >= end and _BELONGS.fullmatch(reply, end, command):
            groups[-1].append(reply[start:stop])
        elif _RETRACTED.match(reply, closed, closed + 60):
            groups.clear()
        else:
            groups.append([reply[start:stop]])
        end = closed
    for group in reversed(groups):
        every = [value for box in dict.fromkeys(group) if (value := _read(box, answer_type, choices)) is not None]
        if answer_type == "choice" and len(set(every)) == 1:
            return Answer(every[0], "boxed")
        if answer_type != "choice" and every and not _PLACEHOLDER.fullmatch(every[-1]):
            return Answer(", ".join(every), "boxed")
    return None


def _tagged_answer(reply: str, answer_type: AnswerType, choices: Sequence[str] | None) -> Answer | None:
    tags = _TAG.findall(reply[-20_000:])
    if not tags or _PLACEHOLDER.fullmatch(tags[-1]):
        return None
    if answer_type == "text" or (answer_type == "math" and "\n" not in tags[-1] and not _PROSE.search(tags[-1])):
        return Answer(_read(tags[-1], answer_type, choices) or tags[-1], "tag")
    value = _read(tags[-1], answer_type, choices)
    if value is None or (answer_type != "choice" and number(value, answer_type) is None):
        inner = extract(tags[-1], answer_type, choices)
        return Answer(inner.value, "tag") if inner is not None else None
    return Answer(value, "tag")


def _hash_answer(reply: str, answer_type: AnswerType, choices: Sequence[str] | None) -> Answer | None:
    for line in reversed(_HASH.findall(reply)):
        if answer_type == "number" and number(line, answer_type) is None:
            continue
        if answer_type == "math" and _HEADING.search(f"{line} "):
            continue
        value = _read(line, answer_type, choices)
        if value is not None:
            return Answer(value, "hash")
    return None


def _stated_answer(reply: str, answer_type: AnswerType, choices: Sequence[str] | None) -> Answer | None:
    for match in reversed(list(_ANSWER_IS.finditer(reply))[-_STATEMENTS:]):
        if value := _stated(reply, match, answer_type, choices):
            return Answer(value, "answer_is")
    return None


def _stated(reply: str, match: re.Match[str], answer_type: AnswerType, choices: Sequence[str] | None) -> str | None:
    """The answer that follows an "answer is"."""
    tail = reply[match.end() :].strip(" \t\r\n*_:")
    line = tail.split("\n", 1)[0].strip()
    if not line:
        return None
    if answer_type == "text":
        before = reply[: match.start()].rpartition("\n")[2]
        closes = "\n" not in tail
        return _OPTION_MARK.sub("", trim(line)) if closes or _LINE_ANSWER.match(before) else None
    tail, line = tail[:_REACH], line[:_REACH]
    if answer_type == "choice":
        return _letter(_ADVERBS.sub("", line), choices)
    return _stated_number(line) if answer_type == "number" else _stated_maths(tail, line)


def _stated_number(line: str) -> str | None:
    """The number that a statement gives: the result of an equation; a reason that follows is ignored."""
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    head = _REASON.split(sentence, maxsplit=1)[0]
    if any(parts.start() == 0 for parts in compounds(head.strip())):
        return head.strip()
    for part in (head, sentence):
        sides = [numbers(side) for side in part.split("=")]
        alone = [every[0] for every, side in zip(sides, part.split("="), strict=True) if _one_number(every, side)]
        value = alone[-1] if alone else next((every[0] for every in reversed(sides) if every), None)
        if value is not None:
            return digits(value)
    return None


def _one_number(every: Sequence[object], side: str) -> bool:
    return len(every) == 1 and not re.search(r"[0-9)]\s*[-+*/×÷x^]\s*[(0-9]", side)


def _stated_maths(tail: str, line: str) -> str | None:
    span = MATH_SPAN.match(tail)
    if span is None:
        line = line[_predicate(line) :].lstrip(" *_:")
        span = MATH_SPAN.search(line)
    if span:
        values = [trim(content(span))]
        for other in MATH_SPAN.finditer(span.string, span.end()):
            if not _BELONGS.fullmatch(span.string, span.end(), other.start()):
                break
            span = other
            values.append(trim(content(span)))
        if all(value and not _PROSE.search(value) for value in values):
            return ", ".join(values)
    sentence = _REMARK.sub("", _SENTENCE_END.split(_ADVERBS.sub("", line.replace("**", "")), maxsplit=1)[0])
    if _PROSE.search(f"{sentence} ") or _ARITHMETIC.fullmatch(sentence):
        return _stated_number(line)
    return trim(sentence) or None


def _predicate(line: str) -> int:
    """Start of the predicate in a sentence that begins with its subject ("The volume of $ABCD$ is 120."); else 0."""
    head = _REASON.split(_SENTENCE_END.split(line, maxsplit=1)[0], maxsplit=1)[0]
    verbs = list(_VERB.finditer(head))
    said = head[verbs[-1].end() :] if verbs else ""
    return verbs[-1].end() if numbers(said) or MATH_SPAN.search(said) else 0


def _last_resort(reply: str, answer_type: AnswerType) -> Answer | None:
    every = numbers(reply)
    if answer_type == "math" and (formula := _last_formula(reply)) is not None:
        return Answer(formula, "last_number")
    if not every:
        return None
    double = compounds(reply)
    alone = not double or numbers(reply[double[-1].end() :])
    return Answer(digits(every[-1]) if alone else double[-1][0], "last_number")


def _last_formula(reply: str) -> str | None:
    """The formula that the reply ends with, or calls its solution; of a chain of equations, the result."""
    end = reply[-4_000:]
    spans = list(MATH_SPAN.finditer(end))
    if not spans:
        return None
    value, after = trim(content(spans[-1])), end[spans[-1].end() :]
    if numbers(after) or not value or _PROSE.search(value) or number(value, "math") is not None:
        return None
    if _IS_THE_ANSWER.match(after):
        return value
    return value.rpartition("=")[2].strip() or None


# --- choices --------------------------------------------------------------------------------------------------------

_WHOLE_LETTER = re.compile(r"\W*(?:(?:option|choice|answer)\W+|[选選]项?項?)?([A-Za-z])\W*", re.I)
_LABEL = re.compile(r"[\s*_(\[]*([A-Ja-j])\s*[.):]\s*\S[^\n]*")
_SMALL_LABEL = re.compile(r"[*_(\[]*([a-j])[.)]\s+\S")
_LEADING_LETTER = re.compile(
    r"[\s*_(\[$\"'`]*(?:(?i:option|choice)\s+)?[*_(\"]*([A-J])"
    r"(?:[)\].:,;*\"'`$]|\s+[-–—]|\s+(?:because|since|as|which|with|for|is)\b|\s+\(|\s*(?=[^\x00-\x7f]))"
)
_LETTER_FORMS = (
    re.compile(
        r"\b([A-J])\W{0,3}\s+is\s+(?:therefore\s+)?(?:the\s+)?(?:correct|right|best|true)\b"
        r"|\b(?i:correct|right|best)\s+(?i:option|choice|one)\s+is\W{1,4}([A-J])\b"
        r"|[选選]\s*([A-J])(?![A-Za-z])"
        r"|\b(?i:it['’]s|it\s+is|(?:must|should)\s+be)\s+[*_(\"]*([A-J])(?=[*_)\"]*[.!]?\s*$)"
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


def _folded_forms(text: str) -> str:
    """Full-width letters and punctuation as their ASCII forms."""
    return unicodedata.normalize("NFKC", text).replace("。", ".").replace("、", ",")


def _letter(value: str, choices: Sequence[str] | None) -> str | None:
    """The option that a short answer names, by its letter or its full text; the article "A" is not a letter."""
    value = unwrapped(trim(value))
    whole = _WHOLE_LETTER.fullmatch(TEXT.sub(r"\1", value)) or _WHOLE_LETTER.fullmatch(value)
    if whole and whole[1].upper() in _letters(choices):
        return whole[1].upper()
    if (index := named(value, choices or ())) is not None:
        return ascii_uppercase[index]
    leading = _LEADING_LETTER.match(value) or _SMALL_LABEL.match(value)
    return leading[1].upper() if leading and leading[1].upper() in _letters(choices) else None


def named(value: str, choices: Sequence[str]) -> int | None:
    """Index of the one option that a text spells out; None when it is none of them, or several."""
    same = [index for index, choice in enumerate(choices) if folded(choice) == folded(value)]
    return same[0] if len(same) == 1 else None


def folded(text: str) -> str:
    """An option's text without case, outer punctuation and the spaces that don't matter."""
    return " ".join(_folded_forms(text).casefold().split()).strip(" .\"'`$*")


def letter(value: str, choices: Sequence[str] | None = None) -> str | None:
    """The letter that a short answer (also a gold one, as "B", "(b)", "B. Rome") names among options."""
    value = _folded_forms(value)
    label = _LABEL.fullmatch(value.strip())
    if label and label[1].upper() in _letters(choices):
        return label[1].upper()
    return _letter(value, choices)


_OPTION_LINE = re.compile(r"^[ \t]*\(?([A-J])[.):][ \t]*(\S.*?)[ \t]*$", re.M)


def options_in(query: str) -> tuple[str, ...] | None:
    """The options that a question lists on lines of their own ("A. ...", "(B) ..."), from A on; None: it lists none."""
    lines = _OPTION_LINE.findall(query)
    start = max((index for index, (label, _) in enumerate(lines) if label == "A"), default=0)
    texts = [text for index, (label, text) in enumerate(lines[start:]) if label == ascii_uppercase[index]]
    return tuple(texts) if len(texts) > 1 and len(texts) == len(lines) - start else None


def gold(text: str, answer_type: AnswerType, choices: Sequence[str] | None = None) -> str | None:
    """A gold answer as a row has it ("18 dollars", a solution that ends in #### 72 or a box, "B. Rome", an option's
    text), as a sample holds it; None where it cannot be read as an answer of this type.
    """
    text = text.rpartition("####")[2] if "####" in text else next(reversed(boxes(text)), text)
    if not text.strip():
        return None
    if answer_type == "choice":
        return letter(text, choices)
    if answer_type != "number":
        return text.strip()
    exact = number(text, answer_type)
    stated = extract(text, answer_type) if exact is None else None
    return digits(exact) if exact is not None else stated.value if stated and stated.how == "answer_is" else None


def _chosen(reply: str, choices: Sequence[str] | None) -> Answer | None:
    """The one letter the reply (or at least its last line) singles out; else the one option its last line spells."""
    last_line = reply.strip().rpartition("\n")[2]
    alone = _WHOLE_LETTER.fullmatch(TEXT.sub(r"\1", last_line)) or _LABEL.fullmatch(reply.strip())
    if alone and alone[1].upper() in _letters(choices):
        return Answer(alone[1].upper(), "letter")
    for form in _LETTER_FORMS:
        for part in (reply, last_line):
            letters = {match[match.lastindex or 0] for match in form.finditer(part)} & set(_letters(choices))
            if len(letters) == 1:
                return Answer(letters.pop(), "letter")
    line = folded(last_line)
    spelled = [
        (index, folded(choice))
        for index, choice in enumerate(choices or ())
        if folded(choice) == line or (len(choice) > 3 and _spelled(folded(choice), line))
    ]
    longest = [(i, text) for i, text in spelled if not any(text != other and text in other for _, other in spelled)]
    return Answer(ascii_uppercase[longest[0][0]], "option") if len(longest) == 1 else None


def _spelled(choice: str, line: str) -> bool:
    return re.search(rf"(?<!\w)(?<!\bnot ){re.escape(choice)}(?!\w)", line) is not None
