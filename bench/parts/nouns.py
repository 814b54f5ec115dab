"""A world of facts: every noun has a hidden digit, and a question asks for the last digit of a sum of nouns.

Three members know most nouns right; each is wrong about other ones, always in the same way. In a debate's second round
every member takes the digit that most say, noun by noun: so the team knows what none of its members can sample. The
members are scripted (their digits come from tables), the student is a model.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from agentark import answers
from agentark.types import SCHEMA, Completion, MethodInfo, Record, Solution, Turn, message

NOUNS = re.findall(
    r"\w+",
    "lamp chair table spoon fork knife plate bowl cup glass bottle box bag coat hat shoe boot sock shirt belt ring "
    "watch clock phone radio pencil paper book map card coin stamp rope chain wire nail saw drill broom soap",
)
MEMBERS = 3
WRONG = 0.3
"""Share of the nouns that a member is wrong about; no two are wrong about the same."""
Table = Mapping[str, int]
Steps = Sequence[tuple[str, int]]


class World(NamedTuple):
    truth: Table
    members: list[Table]
    """The first is the student's."""


def world(seed: int) -> World:
    draw = random.Random(seed)
    truth = {noun: draw.randrange(10) for noun in NOUNS}
    order, share, members = draw.sample(NOUNS, len(NOUNS)), int(WRONG * len(NOUNS)), []
    for number in range(MEMBERS):
        wrong = order[number * share : (number + 1) * share]
        other = {noun: draw.choice([digit for digit in range(10) if digit != truth[noun]]) for noun in wrong}
        members.append({**truth, **other})
    return World(truth, members)


def query(nouns: Sequence[str]) -> str:
    return f"Add up the values of {' '.join(nouns)}. What is the last digit?"


def solution(steps: Steps, answer: int | None = None) -> str:
    """A step per noun; the answer is the sum's last digit, or another one that was told."""
    total, lines = 0, []
    for noun, digit in steps:
        total = (total + digit) % 10
        lines.append(f"{noun} {digit} sum {total}")
    return "\n\n".join([*lines, f"The answer is \\boxed{{{total if answer is None else answer}}}."])


def known(nouns: Sequence[str], table: Table) -> Steps:
    return [(noun, table[noun]) for noun in nouns]


def majority(nouns: Sequence[str], said: Sequence[Steps]) -> Steps:
    """What most say of each noun; the first who spoke where no two agree."""
    digits = [[steps[place][1] for steps in said] for place in range(len(nouns))]
    return [
        (noun, max(of, key=lambda digit: (of.count(digit), -of.index(digit))))
        for noun, of in zip(nouns, digits, strict=True)
    ]


def debate(id: str, nouns: Sequence[str], told: World) -> Record:
    """The record of a debate in two rounds."""
    first = [known(nouns, table) for table in told.members]
    rounds = [first, [majority(nouns, first)] * MEMBERS]
    turns = [
        _turn(f"agent_{number}", place, solution(steps))
        for place, of in enumerate(rounds, 1)
        for number, steps in enumerate(of, 1)
    ]
    last = turns[-MEMBERS:]
    found = [answers.extract(turn.text, "number") for turn in last]
    return Record(
        schema=SCHEMA, id=id, source="GSM8K", query=query(nouns), answer_type="number",
        gt=str(sum(told.truth[noun] for noun in nouns) % 10), method=MethodInfo("llm_debate", "nouns", {}),
        model="scripted", guarantee="exact", trajectory=turns,
        solutions=[
            Solution(id=number, agent=turn.agent, round=2, turn=turn.id, answer=answer.value if answer else None)
            for number, (turn, answer) in enumerate(zip(last, found, strict=True), 1)
        ],
    )  # fmt: skip


def _turn(agent: str, place: int, text: str) -> Turn:
    reply = Completion(text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1, model="m", seconds=0.0)
    return Turn(
        id=f"{agent}/{place}", agent=agent, round=place, role="debater", messages=(message("user", "?"),),
        completion=reply,
    )  # fmt: skip


def questions(draw: random.Random, count: int, length: int, taken: set[tuple[str, ...]]) -> Iterator[list[str]]:
    """Questions that were not asked before, in whatever order of their nouns."""
    while count:
        nouns = draw.sample(NOUNS, length)
        key = tuple(sorted(nouns))
        if key not in taken:
            taken.add(key)
            count -= 1
            yield nouns
