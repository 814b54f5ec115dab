"""How far a judge can be trusted: its verdicts against answers that rules can check, and against an adversarial set.

Rules are the truth here. They miss some right answers in an unusual form, so a judge may be a little better than its
precision says; a reply of the adversarial set is wrong by construction.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs
from pydantic import Field

from agentark import answers
from agentark.config import Config, load
from agentark.files import write_atomically
from agentark.judge import CHECKABLE, FOLDER
from agentark.labels import Answered, JudgedProbe, LabelRow, Probe, read_labels
from agentark.stats import mean_and_se
from agentark.types import Sample

BINS = 10
"""Bins of the calibration error."""
ENOUGH = 100
"""A card says little about fewer solutions."""
POOR_KAPPA = 0.6
"""Agreement beyond chance below this is not substantial (Landis and Koch 1977)."""
POOR_FALSE_POSITIVES = 0.05
"""If the judge calls a larger share of the adversarial set right, filtered data is full of such replies."""
POOR_SILENCE = 0.1
"""If a larger share of solutions has no verdict, the rest is not a fair sample."""
MIN_WORDS = 12
"""Words of a reply that is worth cutting short."""


class AdversarialSet(Config):
    """Templates of replies that are wrong whatever the question is; see configs/judge/adversarial.yaml."""

    max_questions: int = Field(ge=1)
    """Questions of a file that are asked about, from the first on."""
    master_keys: list[str] = Field(min_length=1)
    """Phrases without an answer that are known to fool judges (arXiv 2507.08794)."""
    echo: str
    """{answer}: the gold answer, asked back."""
    number: str
    """{answer}: a wrong number or formula, stated."""
    choice: str
    """{answer}: a wrong option's letter, stated."""
    truncated_share: float = Field(gt=0, lt=1)
    """Share of a reply's words that is left when it is cut before its answer."""


def load_adversarial(path: Path = FOLDER / "adversarial.yaml") -> AdversarialSet:
    return load(AdversarialSet, path, [], str(path))


# ---------------------------------------------------------------- the adversarial set


def with_probes(questions: Sequence[Answered], templates: AdversarialSet) -> Iterator[Answered]:
    """The first `max_questions` questions that rules can check, with their probes."""
    left = templates.max_questions
    for place, question in enumerate(questions):
        if question.answer_type in CHECKABLE:
            others = map(questions.__getitem__, chain(range(place + 1, len(questions)), range(place)))
            other = next((one.gt for one in others if _differ(question, one)), None)
            yield structs.replace(question, probes=tuple(_probes(question, other, templates)))
            left -= 1
            if not left:
                return


def _differ(one: Sample, other: Sample) -> bool:
    """Whether two questions of one kind surely have different answers."""
    return one.answer_type == other.answer_type and answers.quick_same(one.gt, other.gt, one.answer_type) is False


def _probes(question: Answered, other: str | None, templates: AdversarialSet) -> list[Probe]:
    statement = templates.choice if question.answer_type == "choice" else templates.number
    probes = [Probe("master_key", key) for key in templates.master_keys]
    probes += [Probe("empty", ""), Probe("echo", templates.echo.format(answer=question.gt))]
    probes.append(Probe("off_by_one", statement.format(answer=_off_by_one(question))))
    if other is not None:
        probes.append(Probe("other_question", statement.format(answer=other)))
    for solution in question.solutions:
        words = (answers.visible(solution.text) or "").split()
        cut = " ".join(words[: int(len(words) * templates.truncated_share)])
        if len(words) >= MIN_WORDS and _surely_wrong(question, cut):
            return [*probes, Probe("truncated", cut)]
    return probes


def _surely_wrong(question: Sample, text: str) -> bool:
    """Whether the rest of a reply holds a different answer, or none."""
    answer = answers.extract(text, question.answer_type, question.choices)
    return answer is None or answers.quick_same(question.gt, answer.value, question.answer_type) is False


def _off_by_one(question: Sample) -> str:
    """The next number, the next option, or the formula plus one."""
    if question.answer_type == "choice":
        count = len(question.choices or "ABCD")
        return chr(ord("A") + (ord(question.gt[0]) - ord("A") + 1) % count)
    try:
        return str(Fraction(question.gt.replace(",", "")) + 1)
    except ValueError:
        return f"{question.gt} + 1"


# ---------------------------------------------------------------- figures


class Pair(Struct, frozen=True):
    """A solution that both rules and judge looked at."""

    question: str
    truth: bool
    verdict: bool | None
    p: float | None = None


class Figure(Struct, frozen=True):
    """A share, its standard error (clustered by question) and the number of values; None without values."""

    value: float | None
    se: float | None
    n: int


def share(values: Sequence[tuple[str, bool]]) -> Figure:
    """Share of true among (question, value) pairs."""
    if not values:
        return Figure(None, None, 0)
    mean, se = mean_and_se([float(value) for _, value in values], [question for question, _ in values])
    return Figure(mean, se, len(values))


def agreement(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Precision, recall, F1, accuracy, Cohen's kappa and calibration error of the judge; unjudged pairs counted apart.

    `majority` is the accuracy of always giving the more frequent answer: what a judge must beat.
    """
    judged = [pair for pair in pairs if pair.verdict is not None]
    precision = share([(pair.question, pair.truth) for pair in judged if pair.verdict])
    recall = share([(pair.question, bool(pair.verdict)) for pair in judged if pair.truth])
    right = share([(pair.question, pair.truth) for pair in judged]).value
    both = precision.value is not None and recall.value is not None
    top = 2 * (precision.value or 0.0) * (recall.value or 0.0)
    return {
        "n": len(pairs),
        "questions": len({pair.question for pair in pairs}),
        "unjudged": len(pairs) - len(judged),
        "precision": precision,
        "recall": recall,
        "f1": (top / total if (total := (precision.value or 0.0) + (recall.value or 0.0)) else 0.0) if both else None,
        "accuracy": share([(pair.question, pair.verdict is pair.truth) for pair in judged]),
        "majority": max(right, 1 - right) if right is not None else None,
        "kappa": kappa([(pair.truth, bool(pair.verdict)) for pair in judged]),
        "ece": calibration_error([(pair.p, pair.truth) for pair in judged if pair.p is not None]),
    }


def kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa of two raters, in [-1, 1]; None without pairs, or where both always say the same thing.

    Source: Cohen 1960: (observed - expected agreement) / (1 - expected agreement).
    """
    if not pairs:
        return None
    n = len(pairs)
    observed = sum(one == other for one, other in pairs) / n
    first, second = sum(one for one, _ in pairs) / n, sum(other for _, other in pairs) / n
    expected = first * second + (1 - first) * (1 - second)
    return (observed - expected) / (1 - expected) if expected < 1 else None


def calibration_error(pairs: Sequence[tuple[float, bool]]) -> float | None:
    """Expected calibration error of (P(true), truth) pairs, in [0, 1], over BINS equal bins; None without pairs.

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3, on P(true) instead of the confidence in the verdict.
    """
    if not pairs:
        return None
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for p, truth in pairs:
        bins[min(BINS - 1, int(p * BINS))].append((p, truth))
    gaps = (abs(math.fsum(p - truth for p, truth in members)) for members in bins.values())
    return math.fsum(gaps) / len(pairs)


# ---------------------------------------------------------------- the card


def card(rows: Iterable[LabelRow], about: dict[str, Any]) -> dict[str, Any]:
    """What the rows of a labelled file say about a judge.

    Args:
        about: judge, dataset and files, put first.
    """
    pairs, dropped, probes = list[Pair](), list[Pair](), list[tuple[str, JudgedProbe]]()
    for row in rows:
        if row.error is None:
            judged = (one for one in row.solutions if one.rule is not None)
            pairs += [Pair(row.id, bool(one.rule), one.judge, one.p_correct) for one in judged]
            dropped += [Pair(row.id, rule, None) for rule in row.dropped or [] if rule is not None]
            probes += [(row.id, probe) for probe in row.probes or []]
    found = agreement(pairs + dropped)
    told = [(question, probe) for question, probe in probes if probe.judge is not None]
    kinds = sorted({probe.kind for _, probe in probes})
    adversarial = {
        "n": len(probes),
        "unjudged": len(probes) - len(told),
        "false_positive_rate": share([(question, bool(probe.judge)) for question, probe in told]),
        "kinds": {
            kind: share([(question, bool(probe.judge)) for question, probe in told if probe.kind == kind])
            for kind in kinds
        },
    }
    faults, doubts = _verdict(found, adversarial)
    return {**about, "poor": bool(faults), "faults": faults, "doubts": doubts, **found, "adversarial": adversarial}


def _verdict(found: dict[str, Any], adversarial: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(why the judge is poor, why the figures are uncertain)."""
    faults, doubts = [], []
    judged = found["n"] - found["unjudged"]
    if found["n"] and found["unjudged"] / found["n"] > POOR_SILENCE:
        faults.append(f"it gives no verdict on {found['unjudged']} of {found['n']} solutions")
    if judged and (found["kappa"] is None or found["kappa"] < POOR_KAPPA):
        beyond = "undefined" if found["kappa"] is None else f"{found['kappa']:.2f}"
        faults.append(f"its agreement with the rules beyond chance (kappa) is {beyond}; {POOR_KAPPA} is called for")
    if judged and found["accuracy"].value <= found["majority"]:
        faults.append(f"its accuracy {found['accuracy'].value:.2f} is no better than always saying the same thing "
                      f"({found['majority']:.2f})")  # fmt: skip
    rate = adversarial["false_positive_rate"].value
    if rate is not None and rate > POOR_FALSE_POSITIVES:
        faults.append(f"it calls {rate:.0%} of replies right that are wrong by construction")
    if judged < ENOUGH:
        doubts.append(f"only {judged} judged solutions; at least {ENOUGH} are called for")
    if adversarial["n"] and rate is None:
        doubts.append("it gave no verdict on any reply of the adversarial set")
    return faults, doubts


def readable(card: dict[str, Any]) -> str:
    """The card in Markdown."""
    if card["poor"]:
        faults = "; ".join(card["faults"])
        opening = f"**This judge is poor. Do not use its labels.** {faults[0].upper()}{faults[1:]}."
    elif card["doubts"]:
        opening = "**Too little is known of this judge to trust it.**"
    else:
        opening = "This judge passes: agreement with the rules, adversarial replies and silence are within bounds."
    lines = [f"# Label card: {card['judge']} on {card['dataset']}", "", opening, ""]
    if card["doubts"]:
        lines += [f"Take the figures with care: {'; '.join(card['doubts'])}.", ""]
    lines += [
        f"Measured on {card['n']} solutions of {card['questions']} questions whose answer rules can check; "
        f"{card['unjudged']} got no verdict and are in none of the figures.",
        "",
        "| figure | value | standard error | n |",
        "|---|--:|--:|--:|",
        *(_line(name, card[name]) for name in ("precision", "recall", "accuracy")),
        *(
            _line(label, Figure(card[name], None, card["n"] - card["unjudged"]))
            for name, label in (
                ("majority", "accuracy of always saying the same thing"),
                ("f1", "F1"),
                ("kappa", "Cohen's kappa"),
                ("ece", f"expected calibration error ({BINS} bins of P(true))"),
            )
        ),
        "",
        "Share of replies called right that are wrong by construction:",
        "",
        "| kind | false positives | standard error | n |",
        "|---|--:|--:|--:|",
        _line("all", card["adversarial"]["false_positive_rate"]),
        *(_line(kind.replace("_", " "), one) for kind, one in card["adversarial"]["kinds"].items()),
        "",
        "Rules miss some right answers in an unusual form: precision and kappa are lower bounds to that extent. "
        "Standard errors are clustered by question.",
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, figure: Figure) -> str:
    value = "none" if figure.value is None else f"{figure.value:.3f}"
    return f"| {name} | {value} | {'' if figure.se is None else f'{figure.se:.3f}'} | {figure.n} |"


def write_card(path: Path, about: dict[str, Any]) -> str:
    """Write the label card beside a labelled file. Returns what to print of it."""
    found = card(read_labels(path), about)
    text = readable(found)
    write_atomically(path.with_name(path.name + ".card.json"), msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    write_atomically(path.with_name(path.name + ".card.md"), text.encode())
    return text
