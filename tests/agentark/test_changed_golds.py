"""Real gold answers, each changed so that it must differ: none may be called equal; and each one equals itself."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentark.answers import close_pool, equivalent_many
from agentark.tasks import get_task
from agentark.types import AnswerType

Pair = tuple[str, str, AnswerType]

TUPLE = re.compile(r"(?:\\left)?([(\[])(.*,.*?)(?:\\right)?([)\]])")
UNITS = {"inches": "feet", "cents": "dollars", "square": "cubic", "degrees": "radians", "minutes": "hours", "cm": "km"}


def changes(gold: str) -> Iterator[tuple[str, str]]:
    """(kind, changed gold); a gold answer that is a word has none."""
    for digit in re.finditer(r"[0-9]", gold):
        other = str((int(digit[0]) + 1) % 10)
        yield "digit", gold[: digit.start()] + other + gold[digit.end() :]
    for power in re.finditer(r"\^\{?([0-9]+)\}?", gold):
        raised = str(int(power[1]) + 10)
        yield "exponent", f"{gold[: power.start()]}^{{{raised}}}{gold[power.end() :]}"
    for sign in re.finditer(r"(?<=[^\s,({=\\])\s*([-+])\s*(?=[\\0-9a-z])", gold):
        other = "-" if sign[1] == "+" else "+"
        yield "sign", f"{gold[: sign.start(1)]}{other}{gold[sign.end(1) :]}"
    if gold != "0" and re.fullmatch(r"\\?\$?[0-9.]+|\\frac.*|[0-9]*\\sqrt.*", gold):
        yield "sign", f"-{gold}"
    if gold.startswith("-"):
        yield "sign", gold[1:]
    whole = TUPLE.fullmatch(gold)
    parts = [part.strip() for part in (whole[2] if whole else gold).split(",")]
    if len(parts) > 1 and not re.search(r"[0-9],[0-9]{3}|\\!|matrix|\\in|\\cup", gold):
        opening, closing = (whole[1], whole[3]) if whole else ("", "")
        yield "dropped", f"{opening}{','.join(parts[:-1])}{closing}"
        yield "repeated", f"{opening}{','.join([*parts, parts[0] + '1'])}{closing}"
        if whole and parts[0] != parts[-1]:
            yield "order", f"{opening}{','.join(reversed(parts))}{closing}"
            yield "order", ",".join(reversed(parts))
        if whole:
            yield "bracket", f"{'[' if opening == '(' else '('}{','.join(parts)}{closing}"
            yield "bracket", f"{opening}{','.join(parts)}{']' if closing == ')' else ')'}"
    for unit, other in UNITS.items():
        if re.search(rf"\\(?:text|mbox)\{{[^{{}}]*\b{unit}\b", gold):
            yield "unit", re.sub(rf"\b{unit}\b", other, gold)
    if re.fullmatch(r"[1-9][0-9]*", gold):
        yield "variable", f"{gold}t"
        yield "unit", f"{gold}" + r" \text{ feet } 7 \text{ inches}"


@pytest.fixture(scope="module")
def golds(data_dir: Path) -> dict[str, list[tuple[str, AnswerType]]]:
    files = {name: f"{name.lower().replace('-', '')}_test.jsonl" for name in ("MATH-500", "GSM8K", "SVAMP")}
    known = [name for name, file in files.items() if (data_dir / file).is_file()]
    if "MATH-500" not in known:
        pytest.skip(f"no math500_test.jsonl in {data_dir}")
    return {
        name: [(sample.gt, sample.answer_type) for sample in get_task(name).load("test", data_dir).samples]
        for name in known
    }


def test_every_gold_equals_itself(golds: dict[str, list[tuple[str, AnswerType]]]) -> None:
    pairs: list[Pair] = []
    for gold, answer_type in (pair for every in golds.values() for pair in every):
        pairs += [(gold, f"${gold}$", answer_type), (gold, rf" {gold} ", answer_type)]
    verdicts = equivalent_many(pairs)
    assert [pair for pair, same in zip(pairs, verdicts, strict=True) if not same] == []


def test_no_changed_gold_is_called_equal(golds: dict[str, list[tuple[str, AnswerType]]]) -> None:
    kinds: Counter[str] = Counter()
    pairs: list[Pair] = []
    for gold in dict.fromkeys(gold for gold, _ in golds["MATH-500"]):
        for kind, changed in changes(gold):
            kinds[kind] += 1
            pairs.append((gold, changed, "math"))
    for gold in dict.fromkeys(gold for gold, _ in golds.get("GSM8K", [])[:200]):
        for kind, changed in changes(gold):
            if kind != "variable":  # whatever follows the number of a word problem is its unit
                kinds[kind] += 1
                pairs.append((gold, changed, "number"))
    print(f"{len(pairs)} changed golds: {dict(kinds)}")
    verdicts = equivalent_many(pairs)
    close_pool()
    assert len(pairs) >= 400
    assert all(kinds[kind] for kind in ("digit", "exponent", "sign", "dropped", "order", "bracket", "unit", "variable"))
    equal = [pair for pair, same in zip(pairs, verdicts, strict=True) if same]
    assert equal == [], "\n".join(map(str, equal))
