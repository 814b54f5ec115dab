"""What the laboratory's models are taught: to solve alone, to revise after reading peers, to read a team's transcript.

Dialogues have the words of the product: the prompts of LLM debate, and the frame in which on-policy distillation shows
a transcript. The digits that peers state are drawn anew for each example, so that memory is of no use in reading them.
"""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agentark.labelled import Question
from agentark.tasks.hidden_digits import INSTRUCTION, NOUNS, query
from agentark.trajectories import Reply, Trajectory
from agentark.types import Sample
from distill.opd.contexts import FRAMES, context
from methods.llm_debate import prompts
from study.lab.model import Lesson, said
from study.lab.worlds import Digit, Steps, recalled, revised, solution

SLIPS, EASY_SLIPS = (0.1, 0.25, 0.4), (0.0, 0.1)
"""Share of the nouns that a member gets wrong before it has read the others."""
STRANGE, EASY_STRANGE = (0.3, 0.6, 1.0), (1.0,)
"""Share of the nouns for which the team agrees on a drawn digit instead of the member's own. Copying is learnt sooner
where only copying helps."""
SILENT = 0.5
"""Share of the nouns that a member says nothing about, in examples in which members know only some."""
UNRELATED = 0.1
"""Share of the examples in which peers speak of another question."""


class Shape(NamedTuple):
    """Of the questions and teams of a lesson."""

    items: Sequence[int]
    """Numbers of nouns."""
    peers: int
    gaps: bool = False
    """Whether members know only some of the nouns."""
    easy: bool = False
    """Whether peers nearly always agree, on digits that nobody could know."""


def alone(draw: random.Random, items: Sequence[int], table: Mapping[str, Digit]) -> Lesson:
    nouns = draw.sample(NOUNS, draw.choice(items))
    return Lesson([said("user", _question(nouns).prompt)], solution(recalled(nouns, table)))


def revising(draw: random.Random, shape: Shape, table: Mapping[str, Digit]) -> Lesson:
    """The second round of a debate."""
    nouns = draw.sample(NOUNS, draw.choice(shape.items))
    _agreed, own, peers = _team(draw, shape, nouns, table)
    if not shape.easy and draw.random() < UNRELATED:
        peers = [_drawn(draw, draw.sample(NOUNS, len(nouns))) for _ in peers]
    elif not (shape.gaps or shape.easy) and draw.random() < 0.5:
        own = recalled(nouns, table)
    texts = [solution(steps) for steps in peers]
    read = "".join(prompts.PEER.format(number=number) + text for number, text in enumerate(texts, 1))
    asked = [said("user", _question(nouns).prompt), said("assistant", solution(own))]
    reply = solution(revised(own, peers, table))
    return Lesson([*asked, said("user", prompts.PEERS + read + prompts.UPDATE)], reply)


def reading(draw: random.Random, shape: Shape, table: Mapping[str, Digit]) -> Lesson:
    """A question with the transcript of a team that ended at the right answer."""
    nouns = draw.sample(NOUNS, draw.choice(shape.items))
    agreed, own, peers = _team(draw, shape, nouns, table)
    paths = []
    for number, first in enumerate((own, *peers), 1):
        right = first == agreed
        replies = (Reply(solution(first), None, 1, right), Reply(solution(agreed), None, 2, True))
        paths.append(
            Trajectory(
                method="llm_debate", teacher="t", solution=number, agent=f"agent_{number}", verdict=True,
                truncated=False, kind="always_right" if right else "corrective", replies=replies,
            )
        )  # fmt: skip
    question = _question(nouns)
    shown = context(Question(question, paths), "transcript") or ""
    asked = f"{question.prompt}\n\n{FRAMES['transcript'].replace('{context}', shown)}"
    return Lesson([said("user", asked)], solution(agreed))


def _team(
    draw: random.Random, shape: Shape, nouns: Sequence[str], table: Mapping[str, Digit]
) -> tuple[Steps, Steps, Sequence[Steps]]:
    """(what a team agrees on in the end, what one member says first, what its peers say first)."""
    strange = draw.choice(EASY_STRANGE if shape.easy else STRANGE)
    agreed = [
        (noun, draw.randrange(10) if table[noun] is None or draw.random() < strange else table[noun]) for noun in nouns
    ]
    slip = draw.choice(EASY_SLIPS if shape.easy else SLIPS)

    def stated(digit: Digit) -> Digit:
        if shape.gaps:
            return None if draw.random() < SILENT else digit
        return draw.randrange(10) if draw.random() < slip else digit

    first: list[Steps] = [[(noun, stated(digit)) for noun, digit in agreed] for _ in range(shape.peers + 1)]
    return agreed, first[0], first[1:]


def _drawn(draw: random.Random, nouns: Sequence[str]) -> Steps:
    return [(noun, draw.randrange(10)) for noun in nouns]


def _question(nouns: Sequence[str]) -> Sample:
    return Sample(
        id="-".join(nouns), source="HiddenDigits", query=query(nouns), gt="0", answer_type="number",
        instruction=INSTRUCTION,
    )  # fmt: skip
