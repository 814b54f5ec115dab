"""The text that the teacher reads and the student does not: the team's work on a question, or a control.

Only solutions that were judged right are shown, those of agents whom the debate corrected first. The gold answer is in
none of them unless `gold` asks for it. All functions are pure; the same questions and seed give the same texts.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from msgspec import Struct

from agentark import answers, chat_template
from agentark.cuts import in_tokens
from agentark.labelled import Question
from agentark.trajectories import Trajectory, preferred
from agentark.types import Sample
from distill.opd import prompts

Kind = Literal["transcript", "solution", "gold", "vote", "shuffled", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PREFERENCE: Mapping[str, float] = {"corrective": 3, "always_right": 2, "aggregate": 1}
"""As in selection: the paths that the debate corrected come first, the method's own answer last."""
FRAMES: Mapping[Kind, str] = {
    "transcript": prompts.TRANSCRIPT,
    "shuffled": prompts.TRANSCRIPT,
    "solution": prompts.SOLUTION,
    "gold": prompts.GOLD,
    "vote": prompts.VOTE,
}
LEAST = 16
"""A question that leaves its context fewer tokens than this is too long."""


class Asked(Struct, frozen=True, kw_only=True):
    """A question as student and teacher read it."""

    sample: Sample
    prompt: str
    """The student's, rendered."""
    teacher_prompt: str
    """The teacher's, rendered."""
    context_of: str
    """Id of the question that the context is about: another one with `shuffled`."""
    context_tokens: int
    cut: bool
    """Whether the middle of the context was left out."""


def correct_paths(question: Question, seed: int) -> list[Trajectory]:
    """The trajectories that may be shown, best first; none that ended at its token limit."""
    paths = [path for path in question.trajectories if not path.truncated]
    ranked = preferred(question.sample.id, paths, PREFERENCE, seed)
    return [path for path in ranked if answers.visible(path.replies[-1].text)]


def context(question: Question, kind: Kind, seed: int = 0) -> str | None:
    """What there is to show; None if there is nothing. `shuffled` makes it a transcript.

    Args:
        question: with at least one of `correct_paths`.
        seed: of the order among equally good paths.
    """
    if kind == "none":
        return ""
    if kind == "gold":
        return question.sample.gt.strip() or None
    if kind == "vote":
        return vote(question)
    paths = correct_paths(question, seed)
    if kind == "solution":
        return said(paths[0])[-1]
    whole = [prompts.AGAIN.join(said(path)) for path in paths]
    distinct = list(dict.fromkeys(whole))
    return "\n\n".join(prompts.MEMBER.format(number=number, text=text) for number, text in enumerate(distinct, 1))


def said(path: Trajectory) -> list[str]:
    """An agent's replies over the rounds without their thinking; those that repeat the one before are left out."""
    texts: list[str] = []
    for reply in path.replies:
        text = (answers.visible(reply.text) or "").strip()
        if text and text not in texts[-1:]:
            texts.append(text)
    return texts


def vote(question: Question) -> str | None:
    """The answer that most agents ended at, right or wrong; None if nobody gave one."""
    sample = question.sample
    given = [
        answers.extract(path.replies[-1].text, sample.answer_type, sample.choices) for path in question.trajectories
    ]
    values = [answer.value if answer else None for answer in given]
    winner = asyncio.run(answers.majority(values, sample.answer_type))
    return None if winner is None else values[winner]


def derangement(n: int, seed: int) -> list[int]:
    """A permutation of range(n) in which nothing stays in its place: one random cycle (Sattolo); n >= 2."""
    assert n >= 2, n
    order, draw = list(range(n)), random.Random(seed)
    for last in range(n - 1, 0, -1):
        other = draw.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order


def ask(
    questions: Sequence[Question],
    kind: Kind,
    tokenizer: Any,
    *,
    room: int,
    most: int | None,
    seed: int,
    thinking: bool | None,
) -> tuple[list[Asked], dict[str, int]]:
    """The questions as student and teacher read them, and how many were left out.

    Args:
        questions: each with at least one of `correct_paths`; for `shuffled` at least two.
        room: tokens of a prompt, the context included.
        most: tokens of a context; None: what fits.
        thinking: passed to the chat template.
    """
    shown = {question.sample.id: context(question, kind, seed) for question in questions}
    known = [question.sample for question in questions if shown[question.sample.id] is not None]
    sources = known if kind != "shuffled" else [known[place] for place in derangement(len(known), seed)]
    counts, asked = {"no context": len(questions) - len(known), "too long": 0}, []

    def rendered(text: str) -> str:
        return chat_template.rendered(tokenizer, [{"role": "user", "content": text}], thinking=thinking)

    def length(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    for sample, source in zip(known, sources, strict=True):
        text = shown[source.id] or ""
        before, after = (f"\n\n{FRAMES[kind]}" if kind in FRAMES else "{context}").split("{context}")
        left = room - length(rendered(f"{sample.prompt}{before}{after}"))
        if left < (LEAST if text else 0):
            counts["too long"] += 1
            continue
        kept, excess = left if most is None else min(left, most), 1
        while excess > 0:  # at its ends, a context may be tokenised otherwise than alone
            whole, tokens = in_tokens(text, tokenizer, kept)
            teacher_prompt = rendered(f"{sample.prompt}{before}{whole}{after}")
            excess = length(teacher_prompt) - room
            kept -= excess
        asked.append(
            Asked(
                sample=sample,
                prompt=rendered(sample.prompt),
                teacher_prompt=teacher_prompt,
                context_of=source.id,
                context_tokens=tokens,
                cut=whole != text,
            )
        )
    return asked, counts
