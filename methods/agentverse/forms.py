"""Reading the recruiter's list and the evaluator's verdict: JSON, or the paper's lines of text."""

import re
from typing import Literal

from msgspec import Struct

from methods.common import read_json


class Experts(Struct):
    experts: list[str]


class Verdict(Struct):
    correctness: Literal[0, 1]
    advice: str


def experts_of(text: str, count: int) -> list[str] | None:
    """The descriptions of a reply: JSON, or the lines of a numbered list; None unless there are `count`."""
    parsed = read_json(text, Experts)
    listed = parsed.experts if parsed else re.findall(r"^\s*\d+[.)]\s*(\S.*?)\s*$", text, re.M)
    experts = [expert.strip() for expert in listed if expert.strip()]
    return experts if len(experts) == count else None


def verdict_of(text: str) -> Verdict | None:
    """Correctness and advice of a reply: JSON, or two lines; None when either is missing."""
    if (verdict := read_json(text, Verdict)) is not None:
        return verdict
    correctness = re.findall(r"^\W*correctness\W+([01])\b", text, re.I | re.M)
    advice = re.findall(r"^\W*advice\W*[:=]\W*(.*)$", text, re.I | re.M)
    if not correctness or (not advice and correctness[-1] == "0"):
        return None
    return Verdict(1 if correctness[-1] == "1" else 0, advice[-1].strip() if advice else "")
