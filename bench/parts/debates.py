"""Debates of the paper's size, made up: 4 agents over 3 rounds, about 14 KB a record, without a model.

A reply reads like a model's on a GSM8K problem: the quantities, some steps with their arithmetic, a check, the answer
in a box. Who is right in which round is drawn, so that every class of path occurs; a hundredth of the boxed answers
are formulas, which only algebra can compare. The same number, the same debate.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

from agentark.answers import extract
from agentark.records import encoded, layout_response
from agentark.types import (
    SCHEMA,
    Completion,
    Message,
    MethodInfo,
    Part,
    Record,
    Sample,
    Solution,
    TokenStats,
    Turn,
    message,
)
from bench.parts.questions import problems

AGENTS, ROUNDS = 4, 3
MODEL = "org/generator"
FORMULAS = 0.01
"""Share of boxed answers that are not written as a number."""
OPENINGS = (
    "Let me work through this step by step.",
    "First I will write down what the problem tells us.",
    "To find the answer, we follow the quantities in the order in which they are named.",
    "We are asked for the money earned, so we need the number of things sold and the price of each.",
    "I read the solutions of the other agents carefully and compared them with my own.",
    "Some of the agents disagree, so I go through the calculation again from the beginning.",
)
STEPS = (
    "The number of bags times the content of each bag gives the total: {a} * {b} = {ab}.",
    "Some of them were given away, and these cannot be sold: {ab} - {c} = {left} are left for sale.",
    "Each of those that are left brings the same price, so we multiply: {left} * {price} = {result} dollars.",
    "Note that the days in the first sentence play no role for the result, they only say when it happened.",
    "It is worth noting that giving something away earns nothing, so the price counts for the rest alone.",
    "Another agent multiplied before subtracting, which would also pay for the gift; that is not what was asked.",
    "**Step by step:** after packing there are {ab}, after the gift {left}, and the sale brings {result}.",
)
CLOSINGS = (
    "Checking: {result} / {price} = {left}, and {left} + {c} = {ab}, which agrees with the first step.",
    "So I keep my answer, since every step of it holds when it is done backwards.",
    "Therefore the solutions that arrive at another number have made a mistake on the way.",
)


def debates(count: int, start: int = 0) -> Iterator[Record]:
    """Debates number `start` to `start + count`, made one by one."""
    for number, sample in enumerate(problems(start + count)):
        if number >= start:
            yield _debate(number, sample)


def write(path: Path, count: int) -> int:
    """A results file of `count` debates. Returns its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        for record in debates(count):
            stream.write(encoded(record))
    return path.stat().st_size


def _debate(number: int, posed: Sample) -> Record:
    draw = random.Random(-number - 1)
    sample = msgspec.structs.replace(posed, id=f"GSM8K/train/{number}", source="GSM8K")
    skill = draw.random()
    turns: list[Turn] = []
    for round in range(1, ROUNDS + 1):
        for agent in range(1, AGENTS + 1):
            right = draw.random() < skill + 0.15 * (round - 1)
            text = _reply(draw, int(sample.gt) + (0 if right else draw.choice((-10, -1, 1, 12, 100))))
            turns.append(_turn(f"agent_{agent}", round, text, turns))
    solutions = [
        Solution(id=k, agent=turn.agent, round=turn.round, turn=turn.id, answer=_answer(turn.text))
        for k, turn in enumerate(turns[-AGENTS:], 1)
    ]
    return Record(
        **sample.fields(), schema=SCHEMA, method=MethodInfo("llm_debate", "config_main", {"agents_num": AGENTS}),
        model=MODEL, guarantee="engine", response=layout_response(solutions, {turn.id: turn.text for turn in turns}),
        solutions=solutions, trajectory=turns, final_answer=solutions[-1].answer,
        token_stats={MODEL: TokenStats(len(turns), 400 * len(turns), None, 150 * len(turns))},
        started=1.7e9 + number, seconds=1.5,
    )  # fmt: skip


def _turn(agent: str, round: int, text: str, before: list[Turn]) -> Turn:
    """A turn that was shown the others' replies of the round before."""
    peers = [turn for turn in before if turn.round == round - 1 and turn.agent != agent]
    shown = tuple(part for turn in peers for part in (Part(f"\n\nOne agent's solution ({turn.agent}): "), _ref(turn)))
    asked = Message("user", (Part("These are the solutions of other agents:"), *shown)) if peers else None
    continues = next((turn.id for turn in before if turn.agent == agent and turn.round == round - 1), None)
    reply = Completion(text, "stop", 400, len(text) // 4, MODEL, 1.5)
    return Turn(
        id=f"{agent}/{round}/debater", agent=agent, round=round, role="debater", continues=continues, completion=reply,
        messages=(asked or message("user", "Solve the problem and write the final number in \\boxed{}."),),
    )  # fmt: skip


def _ref(turn: Turn) -> Part:
    return Part("", ref=turn.id)


def _reply(draw: random.Random, result: int) -> str:
    values = {"a": draw.randint(3, 19), "b": draw.randint(4, 29), "c": draw.randint(2, 11), "price": draw.randint(2, 9)}
    values |= {"ab": values["a"] * values["b"], "left": values["a"] * values["b"] - values["c"], "result": result}
    steps = [step.format(**values) for step in draw.sample(STEPS, 3)]
    lines = [draw.choice(OPENINGS), *(f"{place}. {step}" for place, step in enumerate(steps, 1))]
    boxed = rf"{result - 7} + {draw.choice(('7', '14/2'))}" if draw.random() < FORMULAS else str(result)
    return "\n\n".join([*lines, draw.choice(CLOSINGS).format(**values), f"The answer is $\\boxed{{{boxed}}}$."])


def _answer(text: str) -> str | None:
    answer = extract(text, "number")
    return answer.value if answer else None
