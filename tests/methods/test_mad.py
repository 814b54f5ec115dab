"""MAD: what both sides, the moderator and the judge see; when a debate ends; who gives the answer."""

import asyncio
import json
from typing import Any

import pytest
from fakes import ScriptedEngine
from method_cases import QUESTION, play, question

from agentark.types import Message, SamplingParams, UserError
from bench.parts.clock import run_virtual
from methods import check_tasks, load_method
from methods.mad import prompts
from methods.mad.mad import parse_decision, parse_ruling

ODD = ["", "I can't help with that.", "}{ {x} %s \\boxed{", "\0\u202e", '{"debate_answer": 7}', '["debate_answer"]']


def ruling(answer: str, side: str = "") -> str:
    return json.dumps({"preference": bool(side), "side": side, "reason": "{r}", "debate_answer": answer})


def debating(moderator: str = ruling(""), judge: str = ruling("7"), sides: tuple[str, str] = ("5", "7")) -> Any:
    """A script: both sides argue for their own answer."""

    def script(messages: list[Message], params: SamplingParams) -> str:
        asked = messages[-1].text
        if asked.endswith(prompts.RULE):
            return moderator
        if asked.endswith(prompts.CANDIDATES):
            return "5 and 7"
        if asked.endswith(prompts.DECIDE):
            return judge
        if "could not be read" in asked:
            return moderator if "preference" in asked else judge
        negative = "[Affirmative]" in messages[0].text
        return f"{'N' if negative else 'A'}{len(messages)} \\boxed{{{sides[negative]}}}"

    return script


def mad(script: Any = None, sample: Any = None, **overrides: Any) -> Any:
    method, _ = load_method("mad", overrides=[f"{key}={value}" for key, value in overrides.items()])
    return run_virtual(play(method, ScriptedEngine(script=script or debating()), sample=sample))


def test_messages_of_two_rounds_and_the_judge() -> None:
    result = mad(max_round=2)
    rules = prompts.DEBATER.replace("{level}", prompts.LEVELS[2])
    affirming = [("user", f"{rules}{QUESTION}{prompts.AFFIRM}")]
    a1, n1, a2, n2 = "A1 \\boxed{5}", "N1 \\boxed{7}", "A3 \\boxed{5}", "N3 \\boxed{7}"
    negating = [("user", f"{rules}{QUESTION}{prompts.NEGATE}{a1}{prompts.NEGATE_NOW}")]
    shown = "Round {} is over.\n\n[Affirmative]\n{}\n\n[Negative]\n{}"
    moderating = [("user", f"{prompts.MODERATOR}{QUESTION}\n\n{shown.format(1, a1, n1)}{prompts.RULE}")]
    judged = f"{prompts.JUDGE}{QUESTION}\n\n{shown.format(1, a1, n1)}\n\n{shown.format(2, a2, n2)}{prompts.CANDIDATES}"
    assert result.seen == {
        "affirmative/1/debater": affirming,
        "negative/1/debater": negating,
        "moderator/1/moderator": moderating,
        "affirmative/2/debater": [
            *affirming,
            ("assistant", a1),
            ("user", f"{prompts.REPLY}{n1}{prompts.REPLY_NOW}"),
        ],
        "negative/2/debater": [*negating, ("assistant", n1), ("user", f"{prompts.REPLY}{a2}{prompts.REPLY_NOW}")],
        "moderator/2/moderator": [
            *moderating,
            ("assistant", ruling("")),
            ("user", f"{shown.format(2, a2, n2)}{prompts.RULE}"),
        ],
        "judge/3/candidates": [("user", judged)],
        "judge/3/decision": [("user", judged), ("assistant", "5 and 7"), ("user", prompts.DECIDE)],
    }
    assert (result.calls, result.critical_path) == (8, 8)
    assert result.record.final_answer == "7"
    assert result.outcome.info == {"rounds": 2, "decided_by": "judge", "side": ""}
    assert [one.turn for one in result.outcome.solutions] == [
        "affirmative/2/debater",
        "negative/2/debater",
        "negative/2/debater",  # the side that gave the judge's answer
    ]


@pytest.mark.parametrize("rounds", [1, 3])
def test_calls_and_critical_path(rounds: int) -> None:
    unsettled = mad(max_round=rounds)
    assert (unsettled.calls, unsettled.critical_path) == (3 * rounds + 2,) * 2
    settled = mad(debating(moderator=ruling("5", "affirmative")), max_round=rounds)
    assert (settled.calls, settled.critical_path) == (3, 3)


def test_the_moderator_stops_the_debate_and_its_side_speaks() -> None:
    agreed = mad(debating(moderator=ruling("7", "negative"), sides=("7", "7.0")))
    assert agreed.outcome.solutions[-1].turn == "negative/1/debater"
    assert agreed.outcome.info == {"rounds": 1, "decided_by": "moderator", "side": "negative"}
    own = mad(debating(moderator=ruling("9", "negative")))
    assert own.outcome.solutions[-1].turn == "moderator/1/moderator"
    assert own.record.final_answer == "9"
    free = question(answer_type="text")
    summed_up = mad(debating(moderator=ruling("seven, it says", "negative")), sample=free)
    assert summed_up.outcome.solutions[-1].turn == "negative/1/debater"
    assert mad(debating(moderator=ruling("seven")), sample=free).outcome.solutions[-1].agent == "moderator"


def test_disagreement_levels_reach_the_debaters() -> None:
    texts = {mad(debate_level=level).seen["affirmative/1/debater"][0][1] for level in range(4)}
    assert len(texts) == 4
    assert all("{x} = 3 and {0} = 4" in text for text in texts)


def test_guided_decoding_is_asked_for_where_it_is_wanted() -> None:
    for guided in (True, False):
        engine = ScriptedEngine(script=debating())
        method, _ = load_method("mad", overrides=[f"guided={guided}"])
        asyncio.run(play(method, engine))
        schemas = [params.schema for _, _, params in engine.seen if params.schema]
        assert len(schemas) == (4 if guided else 0)  # three rulings, one decision


@pytest.mark.parametrize("reply", ODD)
def test_odd_replies_are_counted_and_never_invented(reply: str) -> None:
    result = mad(lambda messages, params: reply, max_round=2)
    assert result.record.final_answer == ("7" if "7" in reply else None)
    assert result.outcome.parse_failures == 6  # two rulings and the decision, each with its repair
    assert (result.calls, result.critical_path) == (8 + 3, 8 + 3)
    assert result.seen["moderator/1/moderator_repair"][-1][1].startswith("Your reply could not be read. Wanted is one")


def test_one_repair_is_enough() -> None:
    def script(messages: list[Message], params: SamplingParams) -> str:
        return ruling("5") if "could not be read" in messages[-1].text else debating(moderator="hm")(messages, params)

    result = mad(script)
    assert (result.calls, result.outcome.parse_failures, result.record.final_answer) == (4, 1, "5")


def test_a_document_stands_in_each_debaters_first_message_only() -> None:
    result = mad(sample=question(document="DOC " * 20), max_round=2)
    for address, messages in result.seen.items():
        assert sum("DOC" in text for _, text in messages) == ("debater" in address)


def test_parsing() -> None:
    number, choice = question(), question(answer_type="choice", choices=("red", "green"))
    maths = question(answer_type="math")
    assert parse_ruling('So: ```json\n{"debate_answer": "7 km", "side": "both"}\n```', number).answer == "7"  # type: ignore[union-attr]
    assert parse_ruling('{"debate_answer": "\\frac{1}{2}"}', maths).answer == "\\frac{1}{2}"  # type: ignore[union-attr]
    assert parse_ruling('{"debate_answer": "$\\\\boxed{\\\\frac{1}{2}}$"}', maths).answer == "\\frac{1}{2}"  # type: ignore[union-attr]
    assert parse_ruling('{"debate_answer": "green"}', choice).answer == "B"  # type: ignore[union-attr]
    assert parse_ruling('{"debate_answer": " "}', number).answer is None  # type: ignore[union-attr]
    assert parse_ruling('{"debate_answer": "undecided"}', choice) is None
    assert parse_ruling('{"debate_answer": "the answer to the question alone"}', number) is None
    assert parse_decision('{"debate_answer": ""}', number) is None


def test_code_is_refused() -> None:
    method, _ = load_method("mad")
    with pytest.raises(UserError, match=r"--method_name mad: cannot do T .*it can do: GSM8K, "):
        check_tasks(method, "mad", [question(answer_type="code")])
