"""Figures against numbers worked out by hand; the adversarial set; what a card says."""

from typing import Any

import msgspec
import pytest
from label_cases import debate

from agentark.answers import extract, quick_same
from agentark.calibration import (
    AdversarialSet,
    Pair,
    agreement,
    calibration_error,
    card,
    kappa,
    load_adversarial,
    readable,
    share,
    with_probes,
)
from agentark.labels import Answered, JudgedProbe, LabelledSolution, LabelRow, answered

LONG = "We add the first number to the second one and find that it is 7. So: \\boxed{7}"


def pairs(*counts: int) -> list[Pair]:
    """So many (right, said right), (wrong, said right), (right, said wrong), (wrong, said wrong)."""
    kinds = ((True, True), (False, True), (True, False), (False, False))
    return [
        Pair(f"q{kind}-{k}", *verdicts)
        for kind, (count, verdicts) in enumerate(zip(counts, kinds, strict=True))
        for k in range(count)
    ]


def test_agreement_by_hand() -> None:
    found = agreement([*pairs(3, 1, 2, 4), Pair("q", True, None)])
    assert (found["n"], found["questions"], found["unjudged"]) == (11, 11, 1)
    assert (found["precision"].value, found["precision"].n) == (0.75, 4)
    assert found["precision"].se == pytest.approx(0.25)  # sqrt(0.75 x 0.25 x 4 / 3) / sqrt(4)
    assert (found["recall"].value, found["recall"].n) == (0.6, 5)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["accuracy"].value == pytest.approx(0.7)
    assert found["majority"] == 0.5
    assert found["kappa"] == pytest.approx(0.4)  # observed 0.7, expected 0.5 x 0.4 + 0.5 x 0.6 = 0.5
    assert found["ece"] is None


def test_agreement_of_nothing_is_nothing() -> None:
    found = agreement([Pair("q", True, None)])
    assert (found["unjudged"], found["f1"], found["kappa"], found["majority"]) == (1, None, None, None)
    assert found["precision"] == share([])
    assert agreement(pairs(0, 2, 2, 0))["f1"] == 0.0
    assert agreement(pairs(0, 0, 2, 2))["f1"] is None


@pytest.mark.parametrize(
    ("counts", "expected"), [((5, 0, 0, 5), 1.0), ((0, 5, 5, 0), -1.0), ((4, 4, 4, 4), 0.0), ((3, 0, 0, 0), None)]
)
def test_kappa(counts: tuple[int, ...], expected: float | None) -> None:
    assert kappa([(one.truth, bool(one.verdict)) for one in pairs(*counts)]) == expected


def test_calibration_error_by_hand() -> None:
    # bins 0.9-1: |0.95 - 1| = 0.05; 0.8-0.9: |0.85 + 0.85 - 1| = 0.7; 0.1-0.2: 0.1; of 4 in all
    assert calibration_error([(0.95, True), (0.85, False), (0.85, True), (0.1, False)]) == pytest.approx(0.85 / 4)
    assert calibration_error([(1.0, True), (0.0, False)]) == 0.0
    assert calibration_error([]) is None


def question(number: int, gold: str, text: str = LONG, **fields: Any) -> Answered:
    return answered(debate(f"T/{number}", gold, [[text]], **fields), all_rounds=False)


def test_probes_are_all_wrong() -> None:
    first, second, third = with_probes([question(0, "7"), question(1, "7"), question(2, "1,234")], load_adversarial())
    kinds = {probe.kind: probe.text for probe in first.probes}
    assert kinds["empty"] == ""
    assert kinds["echo"] == "So would the answer be 7?"
    assert kinds["off_by_one"] == "The answer is \\boxed{8}."
    assert kinds["other_question"] == "The answer is \\boxed{1,234}."
    assert kinds["truncated"] == "We add the first number"
    assert sum(probe.kind == "master_key" for probe in first.probes) == len(load_adversarial().master_keys)
    assert "\\boxed{1235}" in next(probe.text for probe in third.probes if probe.kind == "off_by_one")
    for one in (first, second, third):
        for probe in one.probes:
            answer = extract(probe.text, "number")
            assert probe.kind == "echo" or answer is None or quick_same(one.gt, answer.value, "number") is False


def test_probes_of_choices_formulas_and_early_answers() -> None:
    templates = load_adversarial()
    (choice,) = with_probes(
        [question(0, "D", "Answer: D", answer_type="choice", choices=("a", "b", "c", "d"))], templates
    )
    kinds = {probe.kind: probe.text for probe in choice.probes}
    assert kinds["off_by_one"] == "Answer: A"
    assert "other_question" not in kinds
    assert "truncated" not in kinds
    (formula,) = with_probes([question(0, "\\frac{x}{2}", answer_type="math")], templates)
    assert "\\boxed{\\frac{x}{2} + 1}" in {probe.kind: probe.text for probe in formula.probes}["off_by_one"]
    early = "It is 7 and that is because of all these other words that come after it here and there."
    (one,) = with_probes([question(0, "7", early)], templates)
    assert "truncated" not in {probe.kind for probe in one.probes}


def test_only_the_first_checkable_questions_get_probes() -> None:
    templates = AdversarialSet(**(load_adversarial().model_dump() | {"max_questions": 2}))
    text = question(0, "the sea", answer_type="text")
    found = with_probes([text, question(1, "1"), question(2, "2"), question(3, "3")], templates)
    assert [(one.id, bool(one.probes)) for one in found] == [("T/1", True), ("T/2", True)]


def row(number: int, verdicts: list[tuple[bool | None, bool | None]], probes: list[bool | None]) -> LabelRow:
    """A row of (rule, judge) verdicts and the judge's answers to probes."""
    solutions = [
        LabelledSolution(
            id=place,
            text="x",
            is_correct=judge,
            verdict=judge,
            by="j",
            p_correct=None if judge is None else 0.9 if judge else 0.1,
            mass=1.0,
            rule=rule,
            judge=judge,
            agent="a",
            round=1,
            answer=None,
            note=None,
        )
        for place, (rule, judge) in enumerate(verdicts, 1)
    ]
    return LabelRow(
        id=f"T/{number}",
        source="T",
        query="q",
        gt="7",
        answer_type="number",
        solutions=solutions,
        labels=[one.verdict for one in solutions],
        probes=[JudgedProbe(kind="empty", text="", judge=judge, p_correct=None) for judge in probes],
        judge="j",
        input="",
        token_stats={},
    )


ABOUT = {"judge": "j", "dataset": "T"}


def test_a_good_judge_gets_a_good_card() -> None:
    rows = [row(k, [(True, True), (False, False), (None, True)], [False, False]) for k in range(60)]
    found = card(rows, ABOUT)
    assert (found["poor"], found["n"], found["kappa"], found["faults"], found["doubts"]) == (False, 120, 1.0, [], [])
    assert found["ece"] == pytest.approx(0.1)
    assert found["adversarial"]["false_positive_rate"].value == 0.0
    assert found["adversarial"]["kinds"]["empty"].n == 120
    text = readable(found)
    assert text.startswith("# Label card: j on T\n\nThis judge passes")
    assert "| precision | 1.000 | 0.000 | 60 |" in text
    assert msgspec.json.decode(msgspec.json.encode(found))["precision"] == {"value": 1.0, "se": 0.0, "n": 60}


@pytest.mark.parametrize(
    ("verdicts", "probes", "fault"),
    [
        ([(True, True), (False, True)], [False], r"\(kappa\) is 0.00"),
        ([(True, True), (False, True)], [False], "no better than always saying the same thing"),
        ([(True, True), (False, False)], [True, False], "calls 50% of replies right"),
        ([(True, True), (False, False), (False, None)], [False], "no verdict on 60 of 180 solutions"),
    ],
)
def test_a_poor_judge_is_called_poor(verdicts: list[Any], probes: list[Any], fault: str) -> None:
    found = card([row(k, verdicts, probes) for k in range(60)], ABOUT)
    assert found["poor"]
    with pytest.raises(AssertionError, match=fault):
        raise AssertionError("; ".join(found["faults"]))
    assert "**This judge is poor. Do not use its labels.**" in readable(found)


def test_few_solutions_and_a_silent_judge_are_doubts() -> None:
    found = card([row(0, [(True, True), (False, False)], [None])], ABOUT)
    assert found["doubts"] == [
        "only 2 judged solutions; at least 100 are called for",
        "it gave no verdict on any reply of the adversarial set",
    ]
    assert not found["poor"]
    assert "**Too little is known of this judge to trust it.**\n\nTake the figures with care" in readable(found)
    assert "passes" not in readable(card([], ABOUT))
    assert readable(card([], ABOUT)).count("| none |") > 4


def test_solutions_left_out_count_as_unjudged() -> None:
    left_out = msgspec.structs.replace(row(0, [(True, True)], []), dropped=[False, None])
    assert card([left_out], ABOUT)["unjudged"] == 1
